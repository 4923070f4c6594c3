"""AVIDDetector: Eq. 4 on real scores, invariances, thresholds, failures that cost nothing."""

from __future__ import annotations

import copy
import pickle
import pkgutil
import re
import warnings
from unittest.mock import Mock

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError

from skavid import PAPER, AVIDDetector, TemporalStacker
from skavid.components import VIDEO_PIXELS, nested
from skavid.core.anomaly_maps import MAPS
from skavid.core.corruption import masking, noise
from skavid.core.pixel_pair import PixelPair
from skavid.core.training import split
from skavid.datasets import make_moving_shapes
from skavid.exceptions import LabelWarning

TINY = {
    "max_epochs": 2,
    "features": "pixels",
    "inpainter__width": 4,
    "inpainter__depth": 2,
    "detector__width": 4,
    "postprocessing__n_draws": 2,
    "random_state": 0,
}


def textures(n=24, height=16, width=12, seed=0):
    """Smooth random images, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    phase = rng.uniform(0, 6, (2, n, 1, 1))
    wave = np.sin(y / 2.5 + phase[0]) * np.cos(x / 3.5 + phase[1])
    return (
        np.round(127 + 100 * wave + rng.normal(0, 3, (n, height, width)))
        .clip(0, 255)
        .astype(np.uint8)
    )


NORMAL = textures()
ODD = textures(n=6, seed=1)
ODD[:3, 4:9, 3:8] = 255
QUERY = np.concatenate([ODD, textures(n=4, seed=2)])


@pytest.fixture(scope="session")
def fitted():
    """One small fitted detector for the whole suite; never changed, copied where it must be."""
    return AVIDDetector(**nested(TINY)).fit(NORMAL)


def with_thresholds(detector, alpha, zeta, **parameters):
    other = copy.copy(detector)
    other.set_params(**parameters)
    other.alpha_, other.zeta_ = alpha, zeta
    return other


# --- Eq. 4 --------------------------------------------------------------------------------------


@given(
    data=st.data(),
    fusion=st.sampled_from(["min", "mean", "inpainter", "detector"]),
    min_area=st.integers(0, 30),
    min_area_of=st.sampled_from(["patch", "image"]),
)
def test_an_image_is_irregular_exactly_where_its_mask_is_not_empty(
    fitted, data, fusion, min_area, min_area_of
):
    maps = fitted.maps(QUERY)
    # Thresholds taken from the maps themselves, so that ties happen.
    alpha = float(data.draw(st.sampled_from(np.unique(maps.residual[maps.residual > 0]).tolist())))
    zeta = float(data.draw(st.sampled_from(np.unique(maps.regularity).tolist())))
    rule = {
        "fusion": fusion,
        "postprocessing__min_area": min_area,
        "postprocessing__min_area_of": min_area_of,
    }
    detector = with_thresholds(fitted, alpha, zeta, **rule)
    flagged = detector.segment(QUERY).any(axis=(1, 2))
    assert_array_equal(detector.predict(QUERY) == -1, flagged)
    assert_array_equal(detector.decision_function(QUERY) < 0, flagged)
    assert_array_equal(detector.score_samples(QUERY) <= 0, flagged)


@given(data=st.data())
def test_the_mask_is_equation_4_pixel_by_pixel(fitted, data):
    maps = fitted.maps(QUERY)
    alpha = float(data.draw(st.sampled_from(np.unique(maps.residual[maps.residual > 0]).tolist())))
    zeta = float(data.draw(st.sampled_from(np.unique(maps.regularity).tolist())))
    mask = with_thresholds(fitted, alpha, zeta, fusion="min").segment(QUERY)
    expected = np.zeros(QUERY.shape, dtype=bool)
    for pixel in np.ndindex(*QUERY.shape):
        changed = float(maps.residual[pixel]) >= alpha
        doubted = float(maps.regularity[pixel]) <= zeta
        expected[pixel] = changed and doubted
    assert_array_equal(mask, expected)


@given(
    alphas=st.tuples(st.floats(1e-4, 2), st.floats(1e-4, 2)).map(sorted),
    zetas=st.tuples(st.floats(0.001, 0.999), st.floats(0.001, 0.999)).map(sorted),
    fusion=st.sampled_from(["min", "mean"]),
    min_area=st.integers(0, 12),
)
def test_a_higher_alpha_or_a_lower_zeta_never_grows_a_mask_or_lowers_a_score(
    fitted, alphas, zetas, fusion, min_area
):
    rule = {"fusion": fusion, "postprocessing__min_area": min_area}
    loose = with_thresholds(fitted, alphas[0], zetas[1], **rule)
    for strict in (
        with_thresholds(fitted, alphas[1], zetas[1], **rule),
        with_thresholds(fitted, alphas[0], zetas[0], **rule),
    ):
        assert not (strict.segment(QUERY) & ~loose.segment(QUERY)).any()
        assert (strict.score_samples(QUERY) >= loose.score_samples(QUERY)).all()


def test_masking_by_name_or_as_a_function_is_the_same():
    named, given = (
        AVIDDetector(**nested(dict(**TINY, corruption__inpainter=corruption))).fit(NORMAL)
        for corruption in ("masking", masking)
    )
    assert_array_equal(named.score_samples(QUERY), given.score_samples(QUERY))


def test_the_residual_is_what_the_inpainter_changed(fitted):
    plain = copy.copy(fitted).set_params(postprocessing__smoothing=0)
    maps = plain.maps(QUERY)
    assert_allclose(maps.residual, np.abs(QUERY - maps.inpainted) / 255, atol=1e-6)
    assert maps.inpainted.shape == QUERY.shape


@pytest.mark.parametrize("family", ["noise", "masking", "synthetic", noise])
@pytest.mark.parametrize("lesson", ["noise", "masking", "inversion", "synthetic", None])
def test_either_network_takes_any_family_of_corruption(family, lesson):
    parameters = {**TINY, "max_epochs": 1, "training__adversarial_weight": 0.1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "X (holds|has)", UserWarning)  # few images
        detector = AVIDDetector(
            **nested(dict(**parameters, corruption__inpainter=family, corruption__detector=lesson))
        ).fit(NORMAL)
    assert np.isfinite(detector.score_samples(QUERY)).all()


@pytest.mark.parametrize("loss", ["bce", "lsgan", "hinge", "eq3"])
def test_every_loss_plays_the_game(loss):
    detector = AVIDDetector(
        **nested(dict(**TINY, training__loss=loss, training__adversarial_weight=1.0))
    ).fit(NORMAL)
    assert len(detector.history_) == detector.n_iter_ == 2
    assert np.isfinite(detector.score_samples(QUERY)).all()


@pytest.mark.slow
def test_the_printed_configuration_runs():
    images = textures(n=8, height=60, width=67)
    detector = AVIDDetector(
        **nested(
            dict(
                **{
                    **PAPER,
                    "features": "pixels",
                    "inpainter__width": 4,
                    "detector__width": 6,
                    "max_epochs": 1,
                },
                random_state=0,
            )
        )
    ).fit(images)
    assert detector.maps(images).regularity.shape == images.shape


def test_video_parameters_run_on_clips():
    frames = np.random.default_rng(0).integers(0, 255, (24, 24, 20, 3), dtype=np.uint8)
    clips = np.repeat([0, 1, 2], 8)
    parameters = {**TINY, **VIDEO_PIXELS, "training__crop_size": 16, "max_epochs": 1}
    detector = AVIDDetector(**nested(parameters)).fit(frames, groups=clips)
    assert detector.segment(frames).shape == (24, 24, 20)


# --- invariances --------------------------------------------------------------------------------


def layouts(images, folder):
    on_disk = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=images.dtype, shape=images.shape
    )
    on_disk[:] = images
    return {
        "flat": images.reshape(len(images), -1),
        "4-D": images[..., None],
        "float64": images.astype(np.float64),
        "float32, Fortran order": np.asfortranarray(images, dtype=np.float32),
        "int64": images.astype(np.int64),
        "big-endian": images.astype(">i4"),
        "negative strides": np.ascontiguousarray(images[:, ::-1, ::-1])[:, ::-1, ::-1],
        "memmap": on_disk,
        "read-only": np.lib.format.open_memmap(folder / "images.npy", mode="r"),
        "lists": images.tolist(),
    }


LAYOUTS = [
    "flat", "4-D", "float64", "float32, Fortran order", "int64", "big-endian", "negative strides",
    "memmap", "read-only", "lists",
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_and_dtype_never_change_a_score(fitted, layout, tmp_path):
    other = layouts(QUERY, tmp_path)[layout]
    assert_array_equal(fitted.score_samples(other), fitted.score_samples(QUERY))


@given(order=st.permutations(range(len(QUERY))), size=st.integers(1, len(QUERY)))
def test_order_and_company_never_change_a_score(fitted, order, size):
    chosen = np.array(order)[:size]
    scores = fitted.score_samples(QUERY)
    assert_array_equal(fitted.score_samples(QUERY[chosen]), scores[chosen])
    assert_array_equal(fitted.segment(QUERY[chosen]), fitted.segment(QUERY)[chosen])


@pytest.mark.parametrize("size", [48, 120])
def test_order_and_company_never_change_a_score_of_large_images(fitted, size):
    images = textures(n=5, height=size, width=size + 3)
    scores = fitted.score_samples(images)
    alone = np.concatenate([fitted.score_samples(image[None]) for image in images[::-1]])[::-1]
    assert_array_equal(alone, scores)


def test_two_fits_with_one_seed_are_bitwise_equal_and_another_seed_is_not(fitted):
    again = AVIDDetector(**nested(TINY)).fit(NORMAL)
    other = AVIDDetector(**nested({**TINY, "random_state": 1})).fit(NORMAL)
    assert_array_equal(again.score_samples(QUERY), fitted.score_samples(QUERY))
    assert (again.alpha_, again.zeta_) == (fitted.alpha_, fitted.zeta_)
    assert (other.score_samples(QUERY) != fitted.score_samples(QUERY)).any()
    for name in ("inpainter_", "detector_"):
        weights = (getattr(one, name).state_dict().values() for one in (again, fitted))
        assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_global_state_is_left_alone():
    def state():
        numpy_state = np.random.get_state()
        return (
            pickle.dumps(numpy_state),
            torch.get_rng_state().numpy().tobytes(),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
        )

    before = state()
    AVIDDetector(**nested({**TINY, "random_state": None})).fit(NORMAL).maps(QUERY)
    assert state() == before


def test_another_size_than_in_fit_is_allowed(fitted):
    larger = textures(n=2, height=33, width=7)
    assert fitted.segment(larger).shape == larger.shape


def test_colour_images_keep_their_channels():
    images = np.stack([NORMAL, NORMAL[:, ::-1], 255 - NORMAL], axis=-1)
    detector = AVIDDetector(**nested(TINY)).fit(images)
    maps = detector.maps(images[:2])
    assert maps.inpainted.shape == images[:2].shape
    assert maps.residual.shape == images.shape[:0] + (2, 16, 12)
    assert detector.image_shape_ == (16, 12, 3)
    assert detector.n_features_in_ == 16 * 12 * 3


def test_maps_and_masks_fill_the_arrays_they_are_given(fitted, tmp_path):
    masks = np.lib.format.open_memmap(tmp_path / "m.npy", mode="w+", dtype=bool, shape=QUERY.shape)
    residual = np.zeros(QUERY.shape, np.float32)
    assert fitted.segment(QUERY, out=masks) is masks
    assert_array_equal(masks, fitted.segment(QUERY))
    assert fitted.maps(QUERY, out={"residual": residual}).residual is residual
    assert_array_equal(residual, fitted.maps(QUERY).residual)


# --- thresholds ---------------------------------------------------------------------------------


def held_out(detector, X):
    rows = np.random.RandomState(detector._seed)
    return X[split(len(X), None, detector.validation_fraction, rows).held_out]


# Of two held-out images one sits at the cut: 1 of n at least. Of 12, k / 13 is to be 0.3 at most.
@pytest.mark.parametrize(
    ("parameters", "n", "n_flagged"),
    [({}, 2, 1), ({"validation_fraction": 0.5, "target_fpr": 0.3}, 12, 3)],
)
def test_auto_thresholds_flag_the_promised_share_of_held_out_images(
    fitted, parameters, n, n_flagged
):
    detector = (
        AVIDDetector(**nested(dict(**TINY, **parameters))).fit(NORMAL) if parameters else fitted
    )
    normal = held_out(detector, NORMAL)
    assert len(normal) == n
    assert (detector.predict(normal) == -1).sum() == n_flagged
    assert detector.segment(normal).any(axis=(1, 2)).sum() == n_flagged
    assert 0 < detector.zeta_ < 1
    assert detector.alpha_ > 0


def test_an_odd_number_of_draws_is_the_next_even_one():
    masked = {**TINY, "max_epochs": 1, "corruption__inpainter": "masking"}
    detector = AVIDDetector(**nested(dict(**masked, alpha=0.1, zeta=0.5))).fit(NORMAL)
    scores = {
        n: detector.set_params(postprocessing__n_draws=n).score_samples(QUERY) for n in (2, 3, 4)
    }
    assert_array_equal(scores[3], scores[4])
    assert (scores[3] != scores[2]).any()


def test_given_thresholds_are_used_as_they_are():
    detector = AVIDDetector(**nested(dict(**TINY, alpha=0.123, zeta=0.456))).fit(NORMAL)
    assert (detector.alpha_, detector.zeta_) == (0.123, 0.456)


@pytest.mark.parametrize("share", [0.125, 0.25, 0.5])
def test_contamination_is_the_share_of_training_images_found_irregular(share):
    detector = AVIDDetector(**nested(dict(**TINY, contamination=share))).fit(NORMAL)
    assert (detector.predict(NORMAL) == -1).sum() == share * len(NORMAL)
    flagged = detector.segment(NORMAL).any(axis=(1, 2))
    assert_array_equal(flagged, detector.predict(NORMAL) == -1)


def test_history_and_checkpoints_tell_what_was_kept(fitted):
    row = fitted.history_[0]
    assert set(row) == {
        "epoch", "dur", "inpainter_loss", "detector_loss", "valid_inpainter",
        "valid_detector_auc", "kept",
    }  # fmt: skip
    assert row["kept"] == "I and D"
    errors = [row["valid_inpainter"] for row in fitted.history_]
    aucs = [row["valid_detector_auc"] for row in fitted.history_]
    assert fitted.checkpoint_["inpainter"]["epoch"] == int(np.argmin(errors)) + 1
    assert fitted.checkpoint_["detector"]["epoch"] == int(np.argmax(aucs)) + 1
    assert fitted.checkpoint_["inpainter"]["restoring_error"] == min(errors)
    assert fitted.checkpoint_["detector"]["region_auc"] == max(aucs)


# --- errors: the whole message, and nothing is lost --------------------------------------------


def ragged():
    return [[[1, 2], [3, 4]], [[1, 2, 3], [4, 5, 6]]]


RANGE = "The '{}' parameter of AVIDDetector must be "
POSITIVE = "a float in the range (0.0, inf) or a str among {'auto'}. "
BAD_PARAMETERS = [
    ("alpha", 0, POSITIVE + "Got 0 instead."),
    ("alpha", -1.5, POSITIVE + "Got -1.5 instead."),
    ("alpha", "low", POSITIVE + "Got 'low' instead."),
    ("zeta", 1, "a float in the range (0.0, 1.0) or a str among {'auto'}. Got 1 instead."),
    ("zeta", 0.0, "a float in the range (0.0, 1.0) or a str among {'auto'}. Got 0.0 instead."),
    ("gamma", "0.4", "a float in the range [0.0, inf). Got '0.4' instead."),
    ("max_epochs", 0, "an int in the range [1, inf). Got 0 instead."),
    ("max_epochs", "ten", "an int in the range [1, inf). Got 'ten' instead."),
    (
        "contamination",
        0.9,
        "a float in the range (0.0, 0.5] or a str among {'auto'}. Got 0.9 instead.",
    ),
    ("validation_fraction", 1.0, "a float in the range (0.0, 1.0). Got 1.0 instead."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "message"), BAD_PARAMETERS)
def test_parameters_out_of_range_are_named_with_what_is_allowed(name, value, message):
    with pytest.raises(ValueError, match=re.escape(RANGE.format(name) + message) + "$"):
        AVIDDetector(**nested({name: value})).fit(NORMAL)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fusion", {"min", "mean", "inpainter", "detector"}),
        ("loss", {"bce", "lsgan", "hinge", "eq3"}),
        ("geometry", {"aligned", "paper"}),
    ],
)
def test_unknown_names_are_answered_with_the_known_ones(name, options):
    with pytest.raises(ValueError, match=f"^The '{name}' parameter of ") as caught:
        AVIDDetector(**nested({name: "product"})).fit(NORMAL)
    message = str(caught.value)
    assert message.endswith("Got 'product' instead.")
    assert all(f"'{option}'" in message for option in options)


FIT_ERRORS = {
    "groups of another length": (
        {},
        {"X": NORMAL, "groups": [0, 1]},
        "groups has the shape (2,), but X has 24 images; give one clip id an image.",
    ),
    "a clip in two parts": (
        {},
        {"X": NORMAL[:4], "groups": [0, 1, 0, 1]},
        "groups must keep the rows of a clip together, but those of 0 are interrupted; sort all "
        "arrays by clip, and by time within it.",
    ),
    "a region of Fig. 2 larger than the images": (
        {"detector__geometry": "paper"},
        {"X": NORMAL},
        "X has images of 16 x 12 pixels, but a region of detector__geometry='paper' holds "
        "51 x 51; enlarge them or take 'aligned'.",
    ),
    "a device that is not there": (
        {"device": "cuda:99"},
        {"X": NORMAL},
        "device='cuda:99' is not there; this machine has cpu.",
    ),
    "hidden sizes that fall": (
        {"corruption__mask_size": (9, 3)},
        {"X": NORMAL},
        "corruption__mask_size must rise from 1 pixel at least. Got (9, 3).",
    ),
    "a region size between powers of two": (
        {"detector__region_size": 3},
        {"X": NORMAL},
        "region_size must be a power of two from 1 to 64. Got 3.",
    ),
    "sizes of what moves, of images": (
        {"postprocessing__smoothing": "auto"},
        {"X": NORMAL},
        "postprocessing__smoothing='auto' is learnt from what moves in stacked video; give "
        "corruption__spacing, as VIDEO does, or a number of pixels.",
    ),
    "constant images": (
        {},
        {"X": np.full((5, 8, 8), 3.0)},
        "X is constant (every pixel is 3.0), so nothing can be learned from it; give images that "
        "differ.",
    ),
    "one image": (
        {},
        {"X": NORMAL[:1]},
        "Found array with 1 sample(s) (shape=(1, 16, 12)) while a minimum of 2 is required by "
        "AVIDDetector.",
    ),
    "no image": (
        {},
        {"X": NORMAL[:0]},
        "Found array with 0 sample(s) (shape=(0, 16, 12)) while a minimum of 2 is required by "
        "AVIDDetector.",
    ),
    "NaN": (
        {},
        {"X": np.where(NORMAL.max() == NORMAL, np.nan, NORMAL)},
        "Input X contains NaN.\nAVIDDetector does not accept missing values encoded as NaN ...",
    ),
    "infinity": (
        {},
        {"X": np.where(NORMAL.max() == NORMAL, np.inf, NORMAL)},
        "Input X contains infinity or a value too large for dtype('float64').",
    ),
    "ragged lists": (
        {},
        {"X": ragged()},
        "X holds images of different shapes; resize or crop them to one shape first.",
    ),
    "objects": (
        {},
        {"X": np.array([[{}, {}], [{}, {}]], dtype=object)},
        "float() argument must be a string or a real number, not 'dict'",
    ),
    "strings": (
        {},
        {"X": np.array([["a", "b"], ["c", "d"]])},
        "dtype='numeric' is not compatible with arrays of bytes/strings....",
    ),
    "a sparse matrix": (
        {},
        {"X": scipy.sparse.csr_matrix(np.eye(4))},
        "Sparse data was passed for X, but dense data is required. Use '.toarray()' to convert to "
        "a dense numpy array.",
    ),
    "five dimensions": (
        {},
        {"X": np.zeros((2, 2, 2, 2, 2))},
        "X has 5 dimensions; it must be (n, H, W), (n, H, W, C) or rows (n, H * W * C).",
    ),
    "numbers too large": (
        {},
        {"X": [[[10**30, 1], [2, 3]], [[1, 2], [3, 4]]]},
        "X holds integers that need more than 64 bits; convert it to float64 or rescale it.",
    ),
    "a falling value range": (
        {"value_range": (1, 0)},
        {"X": NORMAL},
        "value_range must be finite and rising, low < high. Got (1, 0).",
    ),
    "an image_shape that does not fit": (
        {"image_shape": (5, 5)},
        {"X": NORMAL.reshape(24, -1)},
        "X has rows of 192 features, but image_shape=(5, 5) needs 25; give the height, width and "
        "channels of the images.",
    ),
    "an image_shape without pixels": (
        {"image_shape": (0, 5)},
        {"X": NORMAL.reshape(24, -1)},
        "image_shape must be (height, width) or (height, width, channels), integers of at least "
        "1. Got (0, 5).",
    ),
}


@pytest.mark.parametrize("case", FIT_ERRORS)
def test_a_refused_fit_says_why_and_leaves_a_fitted_detector_as_it_was(fitted, case):
    parameters, arguments, message = FIT_ERRORS[case]
    if case.startswith("a device") and torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so the message names it")
    detector = copy.deepcopy(fitted).set_params(**parameters)
    before = dict(vars(detector))
    with pytest.raises((ValueError, TypeError)) as caught:
        detector.fit(**arguments)
    # Where scikit-learn's own message goes on, "..." stands for the rest.
    told = str(caught.value)
    assert told == message or (message.endswith("...") and told.startswith(message[:-3]))
    assert vars(detector).keys() == before.keys()
    assert all(vars(detector)[name] is value for name, value in before.items())
    assert_array_equal(
        detector.set_params(**fitted.get_params()).score_samples(QUERY),
        fitted.score_samples(QUERY),
    )


@pytest.mark.parametrize(
    "step",
    [
        "skavid.fitting.check_parameters",
        "skavid.fitting.train",
        "skavid.fitting.keep",
        "skavid.fitting.finish",
    ],
)
def test_a_fit_that_fails_at_any_step_leaves_a_fitted_detector_as_it_was(
    fitted, step, monkeypatch
):
    detector = copy.deepcopy(fitted)
    original = pkgutil.resolve_name(step)

    def fail_at_the_end(*args, **kwargs):
        original(*args, **kwargs)
        raise MemoryError("no more")

    monkeypatch.setattr(step, fail_at_the_end)
    for fit in (detector.fit, detector.partial_fit):
        with pytest.raises(MemoryError, match="no more"):
            fit(textures(seed=5, height=10))
    assert_array_equal(detector.score_samples(QUERY), fitted.score_samples(QUERY))
    assert detector.image_shape_ == fitted.image_shape_
    assert set(vars(detector)) == set(vars(fitted))


def test_a_failed_first_fit_leaves_an_unfitted_detector():
    detector = AVIDDetector(**nested(TINY))
    with pytest.raises(ValueError, match="constant"):
        detector.fit(np.ones((4, 8, 8)))
    with pytest.raises(NotFittedError):
        detector.predict(QUERY)
    assert set(vars(detector)) == set(detector.get_params(deep=False))


def test_another_channel_count_than_in_fit_is_refused(fitted):
    colour = np.stack([QUERY] * 3, axis=-1)
    message = "X has images of 3 channels, but AVIDDetector was fitted on 1; convert them first."
    with pytest.raises(ValueError, match=re.escape(message)):
        fitted.score_samples(colour)


def test_scoring_before_fit_says_so():
    with pytest.raises(NotFittedError, match="This AVIDDetector instance is not fitted yet"):
        AVIDDetector().segment(NORMAL)


def test_an_out_array_that_does_not_fit_is_refused(fitted):
    message = (
        "out has shape (2, 2) and dtype float64, but must have shape (10, 16, 12) and dtype bool."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        fitted.segment(QUERY, out=np.zeros((2, 2)))


def test_irregular_labels_in_fit_point_to_the_splitter():
    labels = np.where(np.arange(len(NORMAL)) < 2, -1, 1)
    message = (
        "y marks irregular images, but AVIDDetector ignores y and takes all as normal; train "
        "on the normal ones alone: NoveltyKFold does so in a search or cross-validation."
    )
    with pytest.warns(UserWarning, match=re.escape(message)):
        AVIDDetector(**nested(TINY)).fit(NORMAL, labels)
    masks = np.zeros(NORMAL.shape[:3], dtype=bool)
    AVIDDetector(**nested(TINY)).fit(NORMAL, masks)  # nothing to warn of
    masks[1, 0, 0] = True
    with pytest.warns(UserWarning, match=re.escape(message)):
        AVIDDetector(**nested(TINY)).fit(NORMAL, masks)


def test_labels_0_and_1_in_fit_are_told():
    labels = np.arange(len(NORMAL)) % 2
    with pytest.warns(LabelWarning, match=r"y holds 0 and 1, but AVIDDetector ignores y"):
        AVIDDetector(**nested(TINY)).fit(NORMAL, labels)
    AVIDDetector(**nested(TINY)).fit(NORMAL, np.ones(len(NORMAL)))  # nothing to warn of


# --- stacked video ------------------------------------------------------------------------------


def walkers(scale):
    data = make_moving_shapes(
        4, 24, size=(int(48 * scale), int(64 * scale)), scale=scale, speed=scale, random_state=0
    )
    return TemporalStacker().fit_transform(data.frames, groups=data.clips), data.clips


def test_the_sizes_of_video_follow_what_moves():
    found = {}
    for scale in (1, 2):
        stacks, clips = walkers(scale)
        small = {
            "features": "pixels",
            "inpainter__width": 4,
            "detector__width": 4,
            "max_epochs": 1,
            "random_state": 0,
        }
        found[scale] = AVIDDetector(**nested({**VIDEO_PIXELS, **small})).fit(stacks, groups=clips)
    once, twice = found[1], found[2]
    assert twice.object_size_ == pytest.approx(2 * once.object_size_, rel=0.3)
    assert twice.object_speed_ == pytest.approx(2 * once.object_speed_, rel=0.3)
    assert twice.geometry_.size == 2 * once.geometry_.size
    # The end of each of the four clips is held out.
    assert once.calibration_ == {
        "n_images": 16, "n_clips": 4, "fpr_bound": None, "fpr_limit": None, "clip_risk": 1 / 5,
    }  # fmt: skip


def test_a_given_balance_is_used_and_auto_is_learnt():
    given = AVIDDetector(**nested(dict(**TINY, balance=0.125))).fit(NORMAL)
    assert given.balance_ == 0.125
    assert 0 < AVIDDetector(**nested(TINY)).fit(NORMAL).balance_ < 1


def test_calibration_says_what_the_thresholds_rest_on(fitted):
    assert fitted.calibration_ == {
        "n_images": 2, "n_clips": None, "fpr_bound": 1 / 3, "clip_risk": None,
        "fpr_limit": pytest.approx(1 - 0.05**0.5),  # of the lower one of two uniform numbers
    }  # fmt: skip
    given = AVIDDetector(**nested(dict(**TINY, alpha=0.1, zeta=0.5, fusion="min"))).fit(NORMAL)
    assert given.calibration_ is None
    given = AVIDDetector(**nested(dict(**TINY, alpha=0.1, zeta=0.5))).fit(
        NORMAL
    )  # whose balance is learnt
    assert given.calibration_ is None


def test_stacked_video_is_trained_once_for_all_thresholds(tmp_path):
    stacks, clips = walkers(1)
    small = {
        "features": "pixels",
        "inpainter__width": 4,
        "detector__width": 4,
        "max_epochs": 1,
        "random_state": 0,
    }
    for alpha in (0.1, 0.2, 0.3):
        AVIDDetector(
            **nested(dict(**{**VIDEO_PIXELS, **small}, alpha=alpha, memory=str(tmp_path)))
        ).fit(stacks, groups=clips)
    for part in ("scene_of_stacks", "train_networks"):
        assert len(list(tmp_path.rglob(f"{part}/*/output.pkl"))) == 1


# --- thresholds without training ----------------------------------------------------------------


def test_calibrating_flags_no_more_new_normal_images_than_asked(fitted):
    X = textures(n=120, seed=5)
    before = dict(vars(fitted))
    found = fitted.calibrate(X, target_fpr=0.05)
    assert vars(fitted) == before
    stricter = fitted.with_thresholds(found.alpha, found.zeta)
    assert (stricter.predict(X) == -1).sum() == 6  # floor(0.05 * 121)
    assert (found.n_images, found.n_clips, found.clip_risk) == (120, None, None)
    assert found.fpr_bound == 6 / 121


def test_calibrating_by_clip_spares_each_clip(fitted):
    X, clips = textures(n=100, seed=5), np.repeat(np.arange(10), 10)
    found = fitted.calibrate(X, target_fpr=0.2, groups=clips)
    odd = fitted.with_thresholds(found.alpha, found.zeta).predict(X) == -1
    assert sorted(odd[clips == clip].sum() for clip in range(10))[-2:] == [2, 3]
    assert (found.n_clips, found.fpr_bound, found.clip_risk) == (10, None, 1 / 11)


@pytest.mark.parametrize(("options", "message"), [
    (
        {"target_fpr": 0.02},
        "X has 24 images, so the lowest false-alarm rate that can be guaranteed is 0.04; "
        "target_fpr=0.02 needs at least 49 images.",
    ),
    (
        {"groups": np.zeros(24)},
        "X holds 1 clip: with a probability of up to 0.5 a new clip has more than "
        "target_fpr=0.01 of its frames flagged; 9 clips would bring that down to 0.1.",
    ),
    (
        {"groups": np.repeat([0, 1, 2], 8)},
        "X holds 3 clips: with a probability of up to 0.25 a new clip has more than "
        "target_fpr=0.01 of its frames flagged; 9 clips would bring that down to 0.1.",
    ),
])  # fmt: skip
def test_too_few_images_to_calibrate_are_a_warning_that_says_how_many_would_do(
    fitted, options, message
):
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        fitted.calibrate(textures(seed=5), **options)


def test_one_image_to_calibrate_is_counted_as_one(fitted):
    message = (
        "X has 1 image, so the lowest false-alarm rate that can be guaranteed is 0.5; "
        "target_fpr=0.1 needs at least 9 images."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        fitted.calibrate(NORMAL[:1], target_fpr=0.1)


@pytest.mark.parametrize("method", ["predict", "score_samples", "segment", "maps", "find"])
def test_one_image_that_is_no_stack_is_told_how_to_become_one(fitted, method):
    message = (
        "X has 12 features, but AVIDDetector is expecting 192 features as input; for one image "
        "pass X[None]."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        getattr(fitted, method)(NORMAL[0])


def test_a_rate_out_of_its_range_is_refused(fitted):
    message = "target_fpr must be a number above 0 and below 1. Got 1."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fitted.calibrate(NORMAL, target_fpr=1)


def test_a_detector_with_other_thresholds_shares_the_networks(fitted):
    other = fitted.with_thresholds(0.05, 0.4)
    assert other.inpainter_ is fitted.inpainter_
    assert (other.alpha, other.zeta, other.alpha_, other.zeta_) == (0.05, 0.4, 0.05, 0.4)
    assert (fitted.alpha, fitted.zeta) == ("auto", "auto")
    assert fitted.alpha_ != 0.05
    assert_array_equal(other.segment(QUERY), with_thresholds(fitted, 0.05, 0.4).segment(QUERY))
    with pytest.raises(ValueError, match=r"^zeta must be a number above 0 and below 1\. Got 2\.$"):
        fitted.with_thresholds(0.05, 2)


@pytest.mark.parametrize("corruption", ["synthetic", "masking"])
def test_a_search_looks_at_all_images_once(tmp_path, monkeypatch, corruption):
    looks = []
    change = PixelPair.change

    def counted(self, *arguments):
        looks.append(1)
        return change(self, *arguments)

    options = {**TINY, "max_epochs": 1, "corruption__inpainter": corruption}
    monkeypatch.setattr(PixelPair, "change", counted)
    plain = AVIDDetector(**nested(dict(**options, fusion="min", alpha=0.1, zeta=0.7))).fit(NORMAL)
    expected = plain.score_samples(QUERY), plain.segment(QUERY), plain.find(QUERY)
    looks.clear()
    for alpha in (0.2, 0.1):
        detector = AVIDDetector(
            **nested(dict(**options, fusion="min", alpha=alpha, zeta=0.7, memory=str(tmp_path)))
        ).fit(NORMAL)
        found = detector.score_samples(QUERY), detector.segment(QUERY), detector.find(QUERY)
    assert len(looks) == 2  # at the held-out images, and at those of the query
    for one, other in zip(found, expected, strict=True):
        assert_array_equal(np.asarray(one, dtype=object), np.asarray(other, dtype=object))


def test_maps_of_batches_are_those_of_all_images(fitted):
    expected = fitted.maps(QUERY)
    for inpainted in (True, False):
        seen = []
        for rows, maps in fitted.iter_maps(QUERY, inpainted=inpainted):
            seen += range(*rows.indices(len(QUERY)))
            for name in MAPS[0 if inpainted else 1 :]:
                assert_array_equal(getattr(maps, name), getattr(expected, name)[rows])
            assert_array_equal(maps.scores, fitted.score_samples(QUERY)[rows])
        assert seen == list(range(len(QUERY)))
    assert maps.inpainted is None
    assert fitted.maps(QUERY, inpainted=False).inpainted is None


def test_images_are_refused_before_the_first_batch_is_asked_for(fitted):
    with pytest.raises(ValueError, match="contains NaN"):
        fitted.iter_maps(np.full((1, 16, 12), np.nan))


def test_the_rule_and_the_pair_are_those_in_use(fitted):
    assert fitted.rule_[:2] == (fitted.alpha_, fitted.zeta_)
    assert fitted.pair_.inpainter is fitted.inpainter_
    changed = copy.copy(fitted).set_params(postprocessing__smoothing=5, fusion="min")
    assert changed.pair_.filters["mean"] == 5
    assert changed.rule_.fusion == "min"


def test_calibrated_thresholds_count_as_auto(fitted):
    found = fitted.calibrate(NORMAL, target_fpr=0.2)
    other = fitted.with_thresholds(found.alpha, found.zeta, calibration=found)
    assert (other.alpha, other.zeta, other.target_fpr) == ("auto", "auto", 0.2)
    assert other.alpha_ == found.alpha
    assert other.calibration_ == {
        name: found[name]
        for name in ("n_images", "n_clips", "fpr_bound", "fpr_limit", "clip_risk")
    }


def test_two_threads_find_what_one_does_and_leave_torch_as_it_was(monkeypatch):
    detector = AVIDDetector(**nested(TINY)).fit(NORMAL)
    expected = detector.maps(QUERY)
    before = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    found = detector.maps(QUERY)
    monkeypatch.undo()
    assert torch.get_num_threads() == before
    for name in MAPS:
        assert_array_equal(getattr(found, name), getattr(expected, name))


def test_large_images_are_scored_in_tiles_with_the_same_numbers(monkeypatch):
    detector = AVIDDetector(**nested(TINY)).fit(NORMAL)
    large = textures(n=2, height=150, width=170)
    expected = detector.maps(large)
    monkeypatch.setattr("skavid.core.pixel_pair.TILE_PIXELS", 3000)
    found = detector.maps(large)
    for name in MAPS:
        one = getattr(expected, name)
        assert_allclose(getattr(found, name), one, rtol=0, atol=1e-5, err_msg=name)


def test_an_error_in_either_network_reaches_the_caller(monkeypatch):
    detector = AVIDDetector(**nested(TINY)).fit(NORMAL)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for name in ("change", "doubt"):
        with monkeypatch.context() as patch:
            patch.setattr(PixelPair, name, Mock(side_effect=MemoryError("no more")))
            with pytest.raises(MemoryError, match="no more"):
                detector.score_samples(QUERY)
    assert np.isfinite(detector.score_samples(QUERY)).all()


# --- pixels that do not count -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_what_ignored_pixels_hold_changes_nothing(dtype):
    ignore_mask = np.zeros((16, 12), dtype=bool)
    ignore_mask[2:9, 3:11] = True
    rng = np.random.default_rng(0)
    X, query = NORMAL.astype(dtype), QUERY.astype(dtype)
    noisy, odd = X.copy(), query.copy()
    noisy[:, ignore_mask] = rng.integers(0, 256, noisy[:, ignore_mask].shape)
    odd[:, ignore_mask] = rng.integers(0, 256, odd[:, ignore_mask].shape)
    one, other = (
        AVIDDetector(**nested(dict(**TINY, ignore_mask=ignore_mask))).fit(images)
        for images in (X, noisy)
    )
    assert_array_equal(one.score_samples(query), other.score_samples(odd))
    assert one.alpha_ == other.alpha_
    seen = one.maps(odd)
    assert (seen.evidence[:, ignore_mask] < 0).all()
    assert (seen.residual[:, ignore_mask] == 0).all()
    assert_array_equal(seen.inpainted[:, ignore_mask], odd[:, ignore_mask])
    assert not one.with_thresholds(1e-6, 1 - 1e-6).segment(odd)[:, ignore_mask].any()


def test_what_ignored_pixels_of_a_video_hold_changes_nothing():
    stacks, clips = walkers(1)
    ignore_mask = np.zeros(stacks.shape[1:3], dtype=bool)
    ignore_mask[20:] = True
    noisy = stacks.copy()
    noisy[:, ignore_mask] = np.random.default_rng(0).integers(0, 256, noisy[:, ignore_mask].shape)
    small = {
        "features": "pixels",
        "inpainter__width": 4,
        "detector__width": 4,
        "max_epochs": 1,
        "random_state": 0,
    }
    one, other = (
        AVIDDetector(
            **nested(
                dict(
                    **{**VIDEO_PIXELS, **small, "training__crop_size": 40}, ignore_mask=ignore_mask
                )
            )
        ).fit(X, groups=clips)
        for X in (stacks, noisy)
    )
    assert one.object_size_ == other.object_size_
    assert_array_equal(one.score_samples(stacks[:5]), other.score_samples(noisy[:5]))


@pytest.mark.parametrize(("ignore_mask", "message"), [
    (
        np.zeros((16, 12), np.uint8),
        "ignore_mask must be a boolean array of shape (H, W), True where pixels do not count. Got "
        "uint8 of shape (16, 12); write mask > 0 for an image.",
    ),
    (
        np.zeros((12, 16), bool),
        "ignore_mask has the shape (12, 16), but the images have (16, 12); give one "
        "value per pixel.",
    ),
    (np.ones((16, 12), bool), "ignore_mask leaves no pixel that counts; leave some False."),
])  # fmt: skip
def test_pixels_to_ignore_that_make_no_sense_are_refused(ignore_mask, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        AVIDDetector(**nested(dict(**TINY, ignore_mask=ignore_mask))).fit(NORMAL)


# --- findings -----------------------------------------------------------------------------------


def test_findings_are_the_connected_patches_of_the_mask(fitted):
    masks, maps = fitted.segment(QUERY), fitted.maps(QUERY)
    findings = fitted.find(QUERY)
    assert any(findings)
    for index, found in enumerate(findings):
        assert bool(found) == (fitted.predict(QUERY[index : index + 1])[0] == -1)
        assert sum(one.area for one in found) == masks[index].sum()
        assert [one.peak for one in found] == sorted((one.peak for one in found), reverse=True)
        for one in found:
            top, left, bottom, right = one.box
            inside = maps.evidence[index, top:bottom, left:right]
            assert maps.evidence[index][one.peak_at] == one.peak
            assert inside.max() >= one.peak
            changed = maps.residual[index][one.peak_at] >= np.float32(fitted.alpha_)
            doubted = maps.regularity[index][one.peak_at] <= np.float32(fitted.zeta_)
            names = {(True, True): "both", (True, False): "inpainter", (False, True): "detector"}
            assert one.carried_by == names[bool(changed), bool(doubted)]
