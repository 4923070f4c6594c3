"""P-values: shares of normal images, in the order of the scores, wherever the model goes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skavid import AVIDDetector
from skavid.core.anomaly_maps import DecisionRule, evidence
from skavid.core.calibration import evidence_shift, move_thresholds, p_values
from skavid.persistence import pack, unpack

TINY = {"max_epochs": 1, "random_state": 0}
SCORES = st.lists(st.integers(-1000, 1000).map(lambda n: n / 16), min_size=1, max_size=30)


def pictures(n, side=12, seed=0):
    return np.random.default_rng(seed).normal(size=(n, side, side))


def odd_pictures():
    images = pictures(12, seed=1)
    images[:6] += np.linspace(0.1, 5, 6)[:, None, None]
    return images


@pytest.fixture(scope="module")
def fitted():
    return AVIDDetector(target_fpr=0.1, **TINY).fit(pictures(30))


@given(SCORES, SCORES)
def test_p_values_lie_between_0_and_1_and_keep_the_order_of_the_scores(scores, normal):
    values = np.unique(scores)
    p = p_values(values, np.array(normal))
    assert ((p > 0) & (p < 1)).all()
    assert (np.diff(p) > 0).all()


@given(SCORES)
def test_at_a_normal_score_the_p_value_is_the_share_that_scores_no_higher(normal):
    expected = [sum(one <= score for one in normal) / (len(normal) + 1) for score in normal]
    assert_allclose(p_values(np.array(normal), np.array(normal)), expected, rtol=1e-12)


@given(SCORES, st.floats(-100, 100))
def test_p_values_do_not_depend_on_where_the_threshold_is(normal, shift):
    values = np.linspace(-70, 70, 9)
    moved = p_values(values + shift, np.array(normal) + shift)
    assert_allclose(moved, p_values(values, np.array(normal)), rtol=1e-6)


def test_as_many_new_normal_images_as_stated_have_a_small_p_value():
    rng = np.random.default_rng(0)
    found = [p_values(rng.normal(size=100), rng.normal(size=99)) for _ in range(200)]
    for level in (0.01, 0.05, 0.2, 0.5):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, rel=0.15)


def test_no_image_has_a_smaller_p_value_than_its_neighbours_warrant():
    """Beyond the normal images p falls slowly: the images do not support more."""
    p = p_values(np.array([-100.0]), np.linspace(0, 1, 99))
    assert 1e-5 < p[0] < 1 / 100


def test_images_are_predicted_irregular_up_to_one_p_value(fitted):
    images = odd_pictures()
    p, labels = fitted.p_values(images), fitted.predict(images)
    assert p.shape == (12,)
    assert p.dtype == np.float64
    at_threshold = p_values(np.zeros(1), fitted.normal_scores_)[0]
    assert_array_equal(labels == -1, p <= at_threshold)
    assert {-1, 1} == set(labels)
    assert at_threshold == pytest.approx(fitted.calibration_["fpr_bound"], abs=1e-5)
    assert_array_equal(np.argsort(p), np.argsort(fitted.score_samples(images)))


def test_p_values_do_not_depend_on_the_batch(fitted):
    images = odd_pictures()
    one_by_one = np.concatenate([fitted.p_values(images[i : i + 1]) for i in range(12)])
    assert_array_equal(fitted.p_values(images), one_by_one)


def test_p_values_are_saved_with_the_model(fitted):
    data = pack(*fitted._kept())
    again = AVIDDetector()._restore(*unpack(data, fitted._parameter_constraints))
    assert_array_equal(again.p_values(odd_pictures()), fitted.p_values(odd_pictures()))


def test_files_of_older_releases_say_how_to_get_p_values(fitted):
    parameters, attributes, constraints = fitted._kept()
    del attributes["normal_scores_"]
    data = pack(parameters, attributes, constraints)
    older = AVIDDetector()._restore(*unpack(data, constraints))
    with pytest.raises(ValueError, match=r"calibrate on normal images, and pass its result on"):
        older.p_values(odd_pictures())
    found = older.calibrate(pictures(20, seed=2), target_fpr=0.1)
    again = older.with_thresholds(found.alpha, found.zeta, calibration=found)
    assert again.p_values(odd_pictures())[5] < 1 / 20


@pytest.mark.parametrize("scores", [[], [[0.0]], [np.nan], [np.inf]])
def test_files_with_impossible_normal_scores_are_refused(fitted, scores):
    parameters, attributes, constraints = fitted._kept()
    with pytest.raises(ValueError, match="normal_scores_ must be one or more finite numbers"):
        pack(parameters, {**attributes, "normal_scores_": np.array(scores)}, constraints)


@given(
    st.sampled_from(["mean", "inpainter", "detector", "min"]),
    st.floats(0, 1),
    st.floats(0.05, 2),
    st.floats(0.05, 0.95),
)
def test_other_thresholds_add_one_amount_to_all_evidence(fusion, balance, alpha, zeta):
    rng = np.random.default_rng(0)
    maps = rng.lognormal(size=(2, 3, 3)).astype(np.float32), rng.normal(size=(2, 3, 3))
    old = DecisionRule(0.5, 0.4, fusion, balance)
    if fusion == "min":  # along the ray alone
        odds = 0.4 / 0.6 * 0.5 / alpha
        zeta = odds / (1 + odds)
    new = old._replace(alpha=alpha, zeta=zeta)
    added = evidence(*maps, **new._asdict()) - evidence(*maps, **old._asdict())
    assert_allclose(added, evidence_shift(old, new), atol=1e-5)


def test_other_thresholds_leave_p_values_as_they_are(fitted):
    moved = fitted.with_thresholds(fitted.alpha_ * 1.5, fitted.zeta_ / 2)
    p = fitted.p_values(odd_pictures())
    assert_allclose(moved.p_values(odd_pictures()), p, rtol=1e-4)


def test_under_eq_4_thresholds_off_the_ray_ask_for_a_calibration(fitted):
    detector = copy.copy(fitted).set_params(fusion="min")
    found = detector.calibrate(pictures(20, seed=2), target_fpr=0.1)
    calibrated = detector.with_thresholds(found.alpha, found.zeta, calibration=found)
    p = calibrated.p_values(odd_pictures())
    on_ray = calibrated.with_thresholds(*move_thresholds(found.alpha, found.zeta, 0.3))
    assert_allclose(on_ray.p_values(odd_pictures()), p, rtol=1e-4)
    beside = calibrated.with_thresholds(found.alpha * 1.5, found.zeta)
    with pytest.raises(ValueError, match="p_values needs the scores of normal images"):
        beside.p_values(odd_pictures())
    assert pack(*beside._kept())  # it can be saved all the same


@pytest.mark.parametrize("parameters", [{"alpha": 0.3, "zeta": 0.4}, {"contamination": 0.2}])
def test_given_thresholds_and_contamination_have_p_values_as_well(parameters):
    images = pictures(12, 8)
    detector = AVIDDetector(**parameters, **TINY).fit(images)
    assert len(detector.normal_scores_) == 12
    assert detector.p_values(images[:1] + 9)[0] < 1 / 12


def test_networks_over_pixels_compare_with_the_images_that_were_held_out():
    detector = AVIDDetector(features="pixels", validation_fraction=0.25, **TINY)
    detector.set_params(inpainter__width=4, inpainter__depth=2, detector__width=4)
    images = pictures(20)
    detector.fit(images)
    scores = detector.score_samples(images)
    assert len(detector.normal_scores_) == detector.calibration_["n_images"]
    distance = np.abs(scores[:, None] - detector.normal_scores_).min(axis=0)
    assert_allclose(distance, 0, atol=1e-5)  # they are among the training images
