"""On video two D judge, over features of motion and over pixels; I judges over features alone."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skavid import VIDEO, AVIDDetector, TemporalStacker
from skavid.components import AdversarialTraining, names_of_maps
from skavid.core.detector_training import STEPS_PER_EPOCH
from skavid.datasets import make_moving_shapes

pytestmark = pytest.mark.filterwarnings("ignore:X h:skavid.exceptions.CalibrationWarning")


def walk(n_clips=5, seed=0):
    drawn = make_moving_shapes(n_clips, 12, size=(32, 40), random_state=seed)
    return TemporalStacker().fit_transform(drawn.frames, groups=drawn.clips), drawn.clips


def fit(**parameters):
    detector = AVIDDetector(**{**VIDEO, "max_epochs": 4, "random_state": 0, **parameters})
    stacks, clips = walk()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return detector.fit(stacks, groups=clips)


@pytest.fixture(scope="module")
def fitted():
    return fit()


@pytest.fixture(scope="module")
def X():
    return walk(1, seed=1)[0]


def test_i_judges_features_and_the_more_doubtful_d_counts_in_units_of_normal_peaks(fitted, X):
    maps = fitted.maps(X)
    of_motion, of_pixels = (member.maps(X) for member in fitted.members_)
    assert_allclose(maps.residual, of_motion.residual, rtol=1e-4)
    units = fitted.units_[:, 1]
    doubts = [
        (-one.logits - mean) / unit
        for one, (mean, unit) in zip((of_motion, of_pixels), units, strict=True)
    ]
    expected = units[:, 0].mean() + np.max(doubts, axis=0) * 2 / (1 / units[:, 1]).sum()
    assert_allclose(-maps.logits, expected, rtol=1e-3, atol=1e-3)
    # Each counts somewhere.
    assert 0 < (doubts[0] > doubts[1]).mean() < 1


def test_i_of_x_is_that_of_the_networks_over_pixels(fitted, X):
    assert_allclose(fitted.maps(X).inpainted, fitted.members_[1].maps(X).inpainted, rtol=1e-5)
    assert_array_equal(fitted.maps(X, inpainted=False).scores, fitted.maps(X).scores)


def test_an_epoch_over_pixels_is_at_least_twice_as_many_batches_as_over_features(fitted):
    assert names_of_maps(fitted) == "motion+pixels"
    for member, n_batches in zip(
        fitted.members_, (STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH), strict=True
    ):
        assert [len(row["batches"]) for row in member.net_.history] == 4 * [n_batches]
    assert fitted.n_iter_ == len(fitted.history_) == 4


@pytest.mark.parametrize("how", ["file", "compact", "pickle"])
def test_a_kept_detector_scores_as_before(fitted, X, how, tmp_path):
    if how == "pickle":
        back = pickle.loads(pickle.dumps(fitted))
    else:
        fitted.save(tmp_path / "model.skavid", compact=how == "compact")
        back = AVIDDetector.load(tmp_path / "model.skavid")
    atol = 0.1 if how == "compact" else 0
    assert_allclose(back.score_samples(X), fitted.score_samples(X), atol=atol)
    assert back.features == names_of_maps(back) == "motion+pixels"


def test_a_file_in_which_no_i_over_features_counts_is_refused(fitted, tmp_path):
    changed = fitted.with_thresholds(1.0, 0.5)
    changed.units_ = fitted.units_[::-1].copy()
    with pytest.raises(ValueError, match="units_ must be a finite mean and spread"):
        changed.save(tmp_path / "model.skavid")


def test_both_trainings_go_on(fitted):
    detector = pickle.loads(pickle.dumps(fitted))
    stacks, clips = walk(seed=2)
    detector.partial_fit(stacks, groups=clips)
    for before, after in zip(fitted.members_, detector.members_, strict=True):
        assert len(after.net_.history) == len(before.net_.history) + 1
    assert not np.array_equal(detector.units_, fitted.units_)


def test_frames_that_are_not_stacked_are_refused():
    X = np.random.default_rng(0).integers(0, 256, (20, 64, 64), dtype=np.uint8)
    with pytest.raises(ValueError, match="stack frames by TemporalStacker first"):
        AVIDDetector(**VIDEO).fit(X)


def test_a_d_over_pixels_that_is_blind_has_no_vote(monkeypatch, X):
    monkeypatch.setattr("skavid.fitting.BLIND_AUC", 1.1)
    detector = fit(max_epochs=1)
    assert detector.units_[1, 1, 1] == 0
    assert detector.rule_.fusion == "mean"
    assert_allclose(detector.maps(X).logits, detector.members_[0].maps(X).logits, rtol=1e-4)


def test_sizes_over_pixels_follow_what_moves_and_cannot_be_given():
    with pytest.raises(ValueError, match="training__crop_size is about networks over pixels"):
        fit(training=AdversarialTraining(crop_size=16))


def test_the_image_is_looked_at_in_onnx_as_here(fitted, X, tmp_path):
    pytest.importorskip("onnxruntime")
    export = pytest.importorskip("skavid.export")
    export.to_onnx(fitted, tmp_path / "detector.onnx")
    differences = export.verify_onnx(fitted, tmp_path / "detector.onnx", X)
    assert differences.mask == 0
    assert differences.score < 1e-3


def test_both_maps_are_averaged_alike_where_nothing_moves(X):
    still = AVIDDetector(**{**VIDEO, "max_epochs": 1, "random_state": 0})
    noise = np.random.default_rng(0).integers(100, 110, (40, 32, 40, 3), dtype=np.uint8)
    still.fit(noise, groups=np.repeat(np.arange(5), 8))
    assert still.object_size_ is None
    filters = [member.pair_.filters for member in still.members_]
    assert filters == [still.pair_.filters] * 2
