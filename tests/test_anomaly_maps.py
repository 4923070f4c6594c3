from __future__ import annotations

import itertools
import math
import re
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.special import logit
from sklearn.metrics import roc_auc_score

from skavid.core.anomaly_maps import (
    FUSIONS,
    AnomalyMaps,
    DecisionRule,
    evidence,
    find,
    gather,
    margins,
    mask,
    regularity,
    score,
    smooth,
)
from skavid.core.calibration import (
    balance_margins,
    basis,
    calibrate,
    conformal_count,
    move_thresholds,
    shift_for_contamination,
)

BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
RULES = list(itertools.product(FUSIONS, [(0, "patch"), (3, "patch"), (3, "image")]))

# Few values, so that ties and both ends of float32's sigmoid come up often.
RESIDUALS = [0.0, 1e-9, 0.1, float(np.nextafter(np.float32(0.1), np.float32(0))), 0.5, 1.0, 40.0]
LOGITS = [-200.0, -30.0, -2.0, -1e-8, 0.0, 1.0, 16.6, 17.0, 18.0, 200.0]
residual_values = st.sampled_from(RESIDUALS) | st.floats(0, 2, width=32)
logit_values = st.sampled_from(LOGITS) | st.floats(-40, 40, width=32)
alphas = st.sampled_from([1e-30, 1e-9, 0.1, 0.5, 1.0]) | st.floats(1e-6, 3)
zetas = st.one_of(
    st.sampled_from([1e-30, 0.5, BELOW_ONE, 1 - 1e-9]),
    st.sampled_from([float(o) for o in regularity(LOGITS) if 0 < o < 1]),
    st.floats(1e-6, 1 - 1e-6),
)


@st.composite
def map_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=6))
    return (
        draw(hnp.arrays(np.float32, shape, elements=residual_values)),
        draw(hnp.arrays(np.float32, shape, elements=logit_values)),
    )


def random_maps(n: int, side: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    residual = rng.gamma(2, 0.05, (n, side, side)).astype(np.float32)
    return residual, (rng.normal(2, 2, (n, side, side)) - 10 * residual).astype(np.float32)


def literal_eq4(residual: np.ndarray, logits: np.ndarray, alpha: float, zeta: float) -> np.ndarray:
    return (residual >= alpha) & (regularity(logits) <= zeta)


def flagged(maps: tuple[np.ndarray, np.ndarray], thresholds: tuple[float, float], **rule) -> int:
    e = evidence(*maps, alpha=thresholds[0], zeta=thresholds[1], **rule)
    return int(mask(e).any(axis=(1, 2)).sum())


# --- evidence ------------------------------------------------------------------------------------


@settings(deadline=None)
@given(map_pairs(), alphas, zetas)
def test_mask_is_eq4_to_the_last_bit(maps, alpha, zeta):
    e = evidence(*maps, alpha=alpha, zeta=zeta)
    assert e.dtype == np.float32
    assert np.isfinite(e).all()
    np.testing.assert_array_equal(e >= 0, literal_eq4(*maps, alpha, zeta))
    np.testing.assert_array_equal(mask(e), e >= 0)


@settings(deadline=None)
@given(map_pairs(), alphas, zetas)
def test_single_margins_are_the_single_comparisons(maps, alpha, zeta):
    residual, logits = maps
    rule = {"alpha": alpha, "zeta": zeta}
    inpainter = evidence(*maps, **rule, fusion="inpainter")
    detector = evidence(*maps, **rule, fusion="detector")
    np.testing.assert_array_equal(inpainter >= 0, residual >= alpha)
    np.testing.assert_array_equal(detector >= 0, regularity(logits) <= zeta)
    np.testing.assert_array_equal(np.minimum(inpainter, detector), evidence(*maps, **rule))


def test_evidence_is_the_printed_formula():
    # log(0.4 / 0.1) = 1.386, logit(0.5) - (-3) = 3: the smaller is 1.386.
    # log(0.4 / 0.1) = 1.386, logit(0.5) - 2 = -2.
    # R = 0 counts as 1e-7: log(1e-7 / 0.1) = -13.816.
    residual, logits = [[[0.4, 0.4, 0.0]]], [[[-3.0, 2.0, -3.0]]]
    e = evidence(residual, logits, alpha=0.1, zeta=0.5)
    np.testing.assert_allclose(e, [[[1.38629436, -2.0, -13.81551056]]], rtol=1e-6)
    # The means: (1.386 + 3) / 2, (1.386 - 2) / 2, (-13.816 + 3) / 2.
    e = evidence(residual, logits, alpha=0.1, zeta=0.5, fusion="mean")
    np.testing.assert_allclose(e, [[[2.19314718, -0.30685282, -5.40775528]]], rtol=1e-6)


def test_logits_do_not_saturate_where_regularities_do():
    e = evidence([[[1.0, 1.0]]], [[[30.0, 60.0]]], alpha=0.1, zeta=0.5)
    np.testing.assert_array_equal(e, np.float32([[[-30.0, -60.0]]]))


@settings(max_examples=200, deadline=None)
@given(
    map_pairs(),
    st.tuples(alphas, alphas).map(sorted),
    st.tuples(zetas, zetas).map(sorted),
    st.sampled_from(RULES),
)
def test_raising_alpha_or_lowering_zeta_raises_evidence_nowhere(maps, two_alphas, two_zetas, rule):
    fusion, (min_area, of) = rule
    options = {"fusion": fusion, "min_area": min_area, "min_area_of": of}
    low, high = two_alphas
    strict, loose = two_zetas
    e = evidence(*maps, alpha=low, zeta=loose, **options)
    assert (evidence(*maps, alpha=high, zeta=loose, **options) <= e).all()
    assert (evidence(*maps, alpha=low, zeta=strict, **options) <= e).all()


@pytest.mark.parametrize("order", ["C", "F", "strided", "float64"])
def test_evidence_depends_on_neither_layout_nor_neighbours(order):
    residual, logits = random_maps(5, side=7)
    whole = evidence(residual, logits, alpha=0.1, zeta=0.4, min_area=2)
    for i in range(5):
        one = [m[i : i + 1] for m in (residual, logits)]
        if order == "strided":
            one = [np.repeat(m, 3, axis=2)[:, :, ::3] for m in one]
        else:
            kind = {"dtype": np.float64} if order == "float64" else {"order": order}
            one = [np.array(m, **kind) for m in one]
        np.testing.assert_array_equal(evidence(*one, alpha=0.1, zeta=0.4, min_area=2)[0], whole[i])


def test_evidence_leaves_its_input_alone():
    maps = random_maps(3)
    copies = [m.copy() for m in maps]
    for fusion, (min_area, of) in RULES:
        evidence(*maps, alpha=0.1, zeta=0.4, fusion=fusion, min_area=min_area, min_area_of=of)
    np.testing.assert_array_equal(maps, copies)


# --- minimum area --------------------------------------------------------------------------------


def without_small_patches(binary: np.ndarray, min_area: int) -> np.ndarray:
    kept = np.zeros_like(binary)
    for image, out in zip(binary, kept, strict=True):
        labels, n_patches = ndimage.label(image, structure=np.ones((3, 3)))
        for label in range(1, n_patches + 1):
            patch = labels == label
            if patch.sum() >= min(min_area, image.size):
                out |= patch
    return kept


def without_small_images(binary: np.ndarray, min_area: int) -> np.ndarray:
    return np.array([
        image if image.sum() >= min(min_area, image.size) else np.zeros_like(image)
        for image in binary
    ])  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=7),
        elements=st.sampled_from([0.25, 0.5, 1.0, 2.0]) | st.floats(0.125, 4, width=32),
    ),
    st.integers(0, 60),
    st.sampled_from([("patch", without_small_patches), ("image", without_small_images)]),
)
def test_min_area_acts_alike_at_every_threshold(residual, min_area, reading):
    of, oracle = reading
    options = {"alpha": 1.0, "zeta": 0.5, "fusion": "inpainter"}
    logits = np.zeros_like(residual)
    before = evidence(residual, logits, **options)
    after = evidence(residual, logits, **options, min_area=min_area, min_area_of=of)
    assert after.dtype == np.float32
    assert np.isin(after, before).all()
    for t in np.unique(before):
        np.testing.assert_array_equal(after >= t, oracle(before >= t, min_area))


def test_patches_connect_over_corners_or_not_at_all():
    diagonal = np.where(np.eye(3), 0.4, 0.05)[None]
    options = {"alpha": 0.1, "zeta": 0.5, "min_area": 3}
    apart = diagonal.copy()
    apart[0, 1, 1] = 0.05
    logits = np.zeros((1, 3, 3))
    np.testing.assert_array_equal(mask(evidence(diagonal, logits, **options)), diagonal > 0.1)
    assert not mask(evidence(apart, logits, **options | {"min_area": 2})).any()
    together = mask(evidence(apart, logits, **options | {"min_area": 2}, min_area_of="image"))
    np.testing.assert_array_equal(together, apart > 0.1)


@pytest.mark.parametrize("of", ["patch", "image"])
def test_min_area_of_one_pixel_changes_nothing(of):
    maps = random_maps(3)
    plain = evidence(*maps, alpha=0.1, zeta=0.4)
    for min_area in (0, 1):
        e = evidence(*maps, alpha=0.1, zeta=0.4, min_area=min_area, min_area_of=of)
        np.testing.assert_array_equal(e, plain)


@pytest.mark.parametrize("of", ["patch", "image"])
def test_no_images_give_no_evidence(of):
    none = np.empty((0, 4, 4), np.float32)
    e = evidence(none, none, alpha=0.1, zeta=0.4, min_area=3, min_area_of=of)
    assert e.shape == (0, 4, 4)
    assert score(e).shape == (0,)


# --- smoothing -----------------------------------------------------------------------------------


def box(image: np.ndarray, side: int, statistic) -> np.ndarray:
    if side < 2:
        return image
    before, after = side // 2, side - side // 2 - 1
    beyond = np.median(image) if statistic is np.mean else -np.inf
    bordered = np.pad(image, (before, after), constant_values=beyond)
    height, width = image.shape
    return np.array([
        [statistic(bordered[y : y + side, x : x + side]) for x in range(width)]
        for y in range(height)
    ])  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 5), (3, 6, 4)])
@pytest.mark.parametrize(("mean", "maximum"), [(0, 0), (1, 1), (3, 0), (0, 3), (4, 2), (5, 5)])
def test_smoothing_is_a_mean_then_a_maximum(shape, mean, maximum):
    maps = np.random.default_rng(0).random(shape, dtype=np.float32)
    copy = maps.copy()
    smoothed = smooth(maps, mean=mean, maximum=maximum)
    expected = [box(box(image.astype(float), mean, np.mean), maximum, np.max) for image in maps]
    assert smoothed.dtype == np.float32
    np.testing.assert_allclose(smoothed, expected, rtol=1e-6)
    np.testing.assert_array_equal(maps, copy)
    assert not np.shares_memory(smoothed, maps)


def test_half_an_object_at_the_border_is_less_evidence_than_a_whole_one():
    maps = np.zeros((1, 20, 20), np.float32)
    maps[0, 8:12, 8:12] = maps[0, 8:12, :2] = 1
    smoothed = smooth(maps, mean=5)[0]
    assert smoothed[:, :4].max() < smoothed[:, 6:].max()


def test_smoothing_depends_on_neither_layout_nor_neighbours():
    maps = np.random.default_rng(0).random((4, 9, 8), dtype=np.float32)
    smoothed = smooth(maps, mean=3, maximum=2)
    for i in range(4):
        np.testing.assert_array_equal(smooth(maps[i : i + 1], mean=3, maximum=2)[0], smoothed[i])
    np.testing.assert_array_equal(smooth(np.asfortranarray(maps), mean=3, maximum=2), smoothed)


def test_regularity_is_the_sigmoid_in_float32():
    expected = [1 / (1 + math.exp(-z)) for z in (-3.0, 0.0, 2.5)]
    observed = regularity(np.array([-3.0, 0.0, 2.5]))
    assert observed.dtype == np.float32
    np.testing.assert_allclose(observed, expected, rtol=1e-6)
    np.testing.assert_array_equal(regularity([-1e4, 1e4]), [0, 1])


# --- score and thresholds ------------------------------------------------------------------------


@settings(deadline=None)
@given(map_pairs(), alphas, zetas, st.sampled_from(RULES))
def test_an_image_is_irregular_exactly_where_its_mask_is_not_empty(maps, alpha, zeta, rule):
    fusion, (min_area, of) = rule
    e = evidence(*maps, alpha=alpha, zeta=zeta, fusion=fusion, min_area=min_area, min_area_of=of)
    scores = score(e)
    assert scores.dtype == np.float64
    assert scores.shape == (len(e),)
    np.testing.assert_array_equal(scores - np.nextafter(0, 1) < 0, mask(e).any(axis=(1, 2)))


@settings(deadline=None)
@given(st.floats(1e-3, 1), st.floats(1e-3, 0.9), st.floats(-3, 3))
def test_moving_thresholds_by_t_lowers_evidence_by_t(alpha, zeta, t):
    maps = random_maps(2)
    before = evidence(*maps, alpha=alpha, zeta=zeta)
    alpha_t, zeta_t = move_thresholds(alpha, zeta, t)
    after = evidence(*maps, alpha=alpha_t, zeta=zeta_t)
    np.testing.assert_allclose(after, before - t, atol=2e-5)
    assert alpha_t == pytest.approx(alpha * math.exp(t), rel=1e-6)
    odds = zeta / (1 - zeta) * math.exp(-t)
    assert zeta_t == pytest.approx(odds / (1 + odds), rel=1e-6)


@settings(deadline=None)
@given(alphas, zetas, st.floats(-1e5, 1e5) | st.sampled_from([-math.inf, math.inf]))
def test_moved_thresholds_stay_in_their_ranges(alpha, zeta, t):
    alpha, zeta = move_thresholds(alpha, zeta, t)
    assert type(alpha) is float
    assert type(zeta) is float
    assert 0 < np.float32(alpha) < math.inf
    assert 0 < np.float32(zeta) < 1
    assert (alpha, zeta) == (np.float32(alpha), np.float32(zeta))


# --- calibration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("fusion", "area"), RULES)
@pytest.mark.parametrize(("n", "target_fpr", "expected"), [
    (60, 0.05, 3), (50, 0.58, 29), (37, 0.1, 3), (30, 0.001, 1), (7, 1.0, 7), (1, 0.01, 1),
    (99, 0.01, 1), (198, 0.01, 1), (199, 0.01, 2),
])  # fmt: skip
def test_calibration_flags_what_split_conformal_prediction_allows(
    fusion, area, n, target_fpr, expected
):
    rule = {"fusion": fusion, "min_area": area[0], "min_area_of": area[1]}
    maps = random_maps(n)
    thresholds = calibrate(*maps, target_fpr=target_fpr, **rule)
    assert all(type(threshold) is float for threshold in thresholds)
    assert thresholds == tuple(map(np.float32, thresholds))
    assert flagged(maps, thresholds, **rule) == expected


def levels_by_trial(maps: tuple[np.ndarray, np.ndarray], n_flagged: int) -> list:
    """List the levels that flag fewer than so many images, the slow way."""
    residual, logits = maps
    largest = sorted((float(r.max()) for r in residual), reverse=True)
    lowest = sorted(float(regularity(z).min()) for z in logits)
    return [
        level
        for level in zip(largest, lowest, strict=True)
        if literal_eq4(*maps, *level).any(axis=(1, 2)).sum() < n_flagged
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 50))
def test_both_thresholds_lie_on_the_ray_of_the_last_level_that_flags_too_few(seed, n, percent):
    maps = random_maps(n, side=3, seed=seed)
    n_flagged = max(1, percent * (n + 1) // 100)
    levels = levels_by_trial(maps, n_flagged)
    alpha, zeta = calibrate(*maps, target_fpr=percent / 100)
    level = levels[-1] if levels else (
        max(float(r.max()) for r in maps[0]), min(float(regularity(z).min()) for z in maps[1])
    )  # fmt: skip
    t = math.log(alpha / level[0])
    assert logit(level[1]) - logit(zeta) == pytest.approx(t, abs=1e-3)
    assert flagged(maps, (alpha, zeta)) == n_flagged


def test_two_images_that_enter_at_one_level_are_parted_between_the_levels():
    # Level 1, alpha 0.8 and zeta sigmoid(-3), flags nothing. Level 2, alpha 0.4 and zeta
    # sigmoid(-2), flags the first by its logit and the second by its residual. From level 1
    # their evidence is -3 + 2 = -1 and log(0.4 / 0.8) = -0.69; the second comes first.
    residual = np.float32([[0.8, 0.0], [0.4, 0.0], [0.1, 0.1]]).reshape(3, 1, 2)
    logits = np.float32([[-2, 0], [-3, 0], [1, 1]]).reshape(3, 1, 2)
    assert flagged((residual, logits), (0.4, float(regularity(-2.0)))) == 2
    alpha, zeta = calibrate(residual, logits, target_fpr=0.25)
    assert alpha == pytest.approx(0.4, rel=1e-5)
    assert logit(zeta) == pytest.approx(-3 - math.log(0.5), rel=1e-5)
    assert flagged((residual, logits), (alpha, zeta)) == 1


def test_ties_at_the_cut_are_flagged_together():
    residual = np.float32([0.5, 0.5, 0.5, 0.1]).reshape(4, 1, 1)
    logits = np.zeros((4, 1, 1), np.float32)
    thresholds = calibrate(residual, logits, target_fpr=0.25)
    assert thresholds[0] == pytest.approx(0.5, rel=1e-5)
    assert flagged((residual, logits), thresholds) == 3


def test_where_the_last_level_flags_too_few_both_thresholds_move_on():
    # What I changes D finds regular, and the other way round: at the last level, alpha 0.4 and
    # zeta sigmoid(1), e is log(0.04 / 0.4) = -2.3 and log(0.01 / 0.4) = -3.7 in the first two
    # images, 1 - 6 and 1 - 7 in the others.
    residual = np.float32([[0.9, 0.04], [0.8, 0.01], [0.4, 0.0], [0.5, 0.0]]).reshape(4, 1, 2)
    logits = np.float32([[6, 1], [7, -1], [6, -1], [7, -2]]).reshape(4, 1, 2)
    assert flagged((residual, logits), (0.4, float(regularity(1.0)))) == 0
    alpha, zeta = calibrate(residual, logits, target_fpr=0.25)
    assert alpha == pytest.approx(0.04, rel=1e-5)
    assert logit(zeta) == pytest.approx(1 - math.log(0.1), rel=1e-5)
    assert flagged((residual, logits), (alpha, zeta)) == 1


@pytest.mark.parametrize("given", ["alpha", "zeta"])
def test_a_given_threshold_stays_and_the_other_takes_its_level(given):
    residual, logits = maps = random_maps(60)
    options = {"alpha": 0.1} if given == "alpha" else {"zeta": 0.3}
    alpha, zeta = calibrate(*maps, **options, target_fpr=0.1)  # k = 6
    if given == "alpha":
        assert alpha == 0.1
        candidates = sorted(float(regularity(z).min()) for z in logits)
        assert zeta == next(c for c in candidates if flagged(maps, (0.1, c)) >= 6)
    else:
        assert zeta == 0.3
        candidates = sorted((float(r.max()) for r in residual), reverse=True)
        assert alpha == next(c for c in candidates if flagged(maps, (c, 0.3)) >= 6)


@pytest.mark.parametrize("given", [{"alpha": 1e-6}, {"alpha": 1e3}, {"zeta": 1 - 1e-6}])
@pytest.mark.parametrize("balance", [0.3, 0.5])
def test_beside_a_given_threshold_the_other_makes_up_for_it_in_a_mean(given, balance):
    maps, rule = random_maps(20), {"fusion": "mean", "balance": balance}
    thresholds = calibrate(*maps, **given, target_fpr=0.1, **rule)
    assert next(iter(given.values())) in thresholds
    assert flagged(maps, thresholds, **rule) == 2


def test_given_thresholds_are_used_as_they_are():
    assert calibrate(*random_maps(3), alpha=0.1, zeta=0.3) == (0.1, 0.3)


def test_a_given_alpha_that_nothing_reaches_leaves_zeta_at_its_last_level():
    residual, logits = random_maps(5)
    alpha, zeta = calibrate(residual, logits, alpha=1e6, target_fpr=0.2)
    assert alpha == 1e6
    assert zeta == max(float(regularity(z).min()) for z in logits)


@pytest.mark.parametrize("residual", [0.0, 1e-9, 0.3, 1e30])
@pytest.mark.parametrize("logit_", [-1e4, -200.0, 0.0, 16.0, 200.0, 1e4])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_constant_maps_calibrate_to_thresholds_within_their_ranges(residual, logit_, fusion):
    maps = np.full((4, 2, 2), residual, np.float32), np.full((4, 2, 2), logit_, np.float32)
    alpha, zeta = calibrate(*maps, target_fpr=0.25, fusion=fusion)
    assert 0 < np.float32(alpha) < math.inf
    assert 0 < np.float32(zeta) < 1
    reachable = {"min": residual > 0 and logit_ < 17, "inpainter": residual > 0,
                 "detector": logit_ < 17}.get(fusion)  # fmt: skip
    if reachable is not None:
        assert flagged(maps, (alpha, zeta), fusion=fusion) == (4 if reachable else 0)


@settings(deadline=None)
@given(st.integers(2, 12), st.data(), st.integers(5, 50), st.sampled_from(["min", "mean"]))
def test_enough_images_are_flagged_whatever_ties(n, data, percent, fusion):
    shape = (n, 1, 2)
    residual = data.draw(hnp.arrays(np.float32, shape, elements=residual_values))
    logits = data.draw(hnp.arrays(np.float32, shape, elements=st.floats(-10, 10, width=32)))
    residual = np.maximum(residual, np.float32(1e-6))
    thresholds = calibrate(residual, logits, target_fpr=percent / 100, fusion=fusion)
    wanted = max(1, percent * (n + 1) // 100)
    assert flagged((residual, logits), thresholds, fusion=fusion) >= wanted


@pytest.mark.parametrize(("n", "target_fpr"), [(49, 0.1), (30, 0.01), (30, 1 / 31)])
def test_new_normal_images_are_flagged_as_often_as_promised(n, target_fpr):
    fresh = random_maps(2000, side=4, seed=999)
    rates = [
        flagged(fresh, calibrate(*random_maps(n, side=4, seed=seed), target_fpr=target_fpr)) / 2000
        for seed in range(60)
    ]
    # The bound k / (n + 1) is reached on average; the standard error of the mean is about 0.005.
    assert np.mean(rates) == pytest.approx(conformal_count(n, target_fpr) / (n + 1), abs=0.01)


@pytest.mark.parametrize(("n", "target_fpr"), [(49, 0.1), (30, 0.01), (99, 0.05)])
def test_one_calibration_of_twenty_exceeds_the_limit_of_false_alarms(n, target_fpr):
    rng = np.random.default_rng(0)
    k = conformal_count(n, target_fpr)
    # Of uniform scores, the rate beyond a threshold is the threshold itself.
    rates = np.sort(rng.uniform(size=(4000, n)), axis=1)[:, k - 1]
    limit = basis(n, None, target_fpr)["fpr_limit"]
    assert np.mean(rates > limit) == pytest.approx(0.05, abs=0.01)


def test_calibration_does_not_depend_on_blocks_or_order(monkeypatch):
    residual, logits = random_maps(50)
    thresholds = calibrate(residual, logits, target_fpr=0.1)
    order = np.random.default_rng(0).permutation(50)
    assert calibrate(residual[order], logits[order], target_fpr=0.1) == thresholds
    monkeypatch.setattr("skavid.core.calibration.BLOCK_PIXELS", 100)
    assert calibrate(residual, logits, target_fpr=0.1) == thresholds


# --- contamination -------------------------------------------------------------------------------


@pytest.mark.parametrize("contamination", [0.01, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_contamination_flags_the_share_that_scikit_learn_would(contamination, fusion):
    maps = random_maps(60)
    scores = score(evidence(*maps, alpha=0.1, zeta=0.3, fusion=fusion))
    thresholds = shift_for_contamination(scores, 0.1, 0.3, contamination)
    expected = (scores < np.percentile(scores, 100 * contamination)).sum()
    assert expected > 0
    assert flagged(maps, thresholds, fusion=fusion) == expected


def test_the_cut_for_a_contamination_lies_half_way():
    # Scores 1, 2, 4, 8, and the 40th percentile is 2.4: two are irregular. Half way from 2 to 4
    # is 3, so 3 nats less evidence are asked for.
    alpha, zeta = shift_for_contamination(np.array([8.0, 2.0, 1.0, 4.0]), 0.2, 0.5, 0.4)
    assert alpha == pytest.approx(0.2 * math.exp(-3), rel=1e-6)
    assert zeta == pytest.approx(1 / (1 + math.exp(-3)), rel=1e-6)


@pytest.mark.parametrize("n", [1, 5])
def test_equal_scores_leave_nothing_irregular(n):
    maps = np.full((n, 2, 2), 0.3, np.float32), np.zeros((n, 2, 2), np.float32)
    scores = score(evidence(*maps, alpha=0.1, zeta=0.9))
    assert flagged(maps, shift_for_contamination(scores, 0.1, 0.9, 0.2)) == 0


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "message"), [
    ({"alpha": 0}, "alpha must be a finite number above 0. Got 0."),
    ({"alpha": math.inf}, "alpha must be a finite number above 0. Got inf."),
    ({"alpha": math.nan}, "alpha must be a finite number above 0. Got nan."),
    ({"zeta": 0.0}, "zeta must be a number above 0 and below 1. Got 0.0."),
    ({"zeta": 1}, "zeta must be a number above 0 and below 1. Got 1."),
    (
        {"fusion": "sum"},
        "fusion must be one of 'min', 'mean', 'inpainter', 'detector'. Got 'sum'.",
    ),
    ({"min_area_of": "frame"}, "min_area_of must be one of 'patch', 'image'. Got 'frame'."),
])  # fmt: skip
def test_what_is_wrong_is_said(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        evidence([[[0.1]]], [[[0.0]]], **{"alpha": 0.1, "zeta": 0.5} | options)


def test_calibration_needs_an_image():
    none = np.empty((0, 2, 2), np.float32)
    message = "residual must hold at least one held-out image. Got none."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        calibrate(none, none)


def test_a_missing_scikit_image_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.morphology", None)
    message = (
        "min_area with min_area_of='patch' needs scikit-image; "
        "pip install 'skavid[image]', or take min_area_of='image'."
    )
    options = {"alpha": 0.1, "zeta": 0.5, "min_area": 2}
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        evidence(np.ones((1, 2, 2)), np.zeros((1, 2, 2)), **options)
    evidence(np.ones((1, 2, 2)), np.zeros((1, 2, 2)), **options, min_area_of="image")


@given(share=st.floats(0, 1), t=st.floats(-2, 2))
def test_moving_along_the_ray_lowers_the_weighed_mean_as_much_as_the_minimum(share, t):
    rng = np.random.default_rng(0)
    residual = rng.uniform(0.01, 1, (2, 5, 4)).astype(np.float32)
    logits = rng.normal(0, 2, (2, 5, 4)).astype(np.float32)
    alpha, zeta = move_thresholds(0.1, 0.4, t)
    rule = {"fusion": "mean", "balance": share}
    before = evidence(residual, logits, alpha=0.1, zeta=0.4, **rule)
    after = evidence(residual, logits, alpha=alpha, zeta=zeta, **rule)
    np.testing.assert_allclose(after, before - t, atol=1e-5)


def test_margins_are_balanced_by_how_much_their_extremes_vary():
    rng = np.random.default_rng(0)
    residual = np.exp(rng.normal(0, 0.5, (400, 3, 3))).astype(np.float32)
    logits = rng.normal(0, 2, (400, 3, 3)).astype(np.float32)
    spread = np.log(residual.max((1, 2))).std(), logits.min((1, 2)).std()
    expected = (1 / spread[0]) / (1 / spread[0] + 1 / spread[1])
    assert balance_margins(residual, logits) == pytest.approx(expected, rel=1e-4)
    same = np.ones((5, 2, 2), np.float32)
    assert balance_margins(same, same) == 0.5


@pytest.mark.parametrize("means", [(0.3, 2.0), (1.5, 1.5), (2.5, 0.8)])
def test_margins_weighed_by_what_each_network_finds_tell_irregular_from_normal_best(means):
    rng = np.random.default_rng(0)
    irregular = np.repeat([0, 1], 4000)
    inpainter, detector = (rng.normal(size=8000) + mean * irregular for mean in means)
    region_auc = tuple(roc_auc_score(irregular, one) for one in (inpainter, detector))
    normal = [one[irregular == 0].astype(np.float32) for one in (inpainter, -3 * detector)]
    maps = np.exp(normal[0]).reshape(-1, 1, 1), normal[1].reshape(-1, 1, 1)
    share = balance_margins(*maps, region_auc=region_auc)

    def auc(share):
        return roc_auc_score(irregular, share * inpainter + (1 - share) * 3 * detector)

    assert auc(share) > max(auc(other) for other in np.linspace(0, 1, 21)) - 0.001


def test_a_network_at_chance_gets_no_weight():
    rng = np.random.default_rng(0)
    residual, logits = np.exp(rng.normal(size=(2, 50, 1, 1))).astype(np.float32)
    assert balance_margins(residual, logits, region_auc=(0.5, 0.8)) == 0
    assert balance_margins(residual, logits, region_auc=(0.8, 0.4)) == 1
    assert balance_margins(residual, logits, region_auc=(0.5, 0.5)) == 0.5
    assert 0 < balance_margins(residual, logits, region_auc=(1.0, 1.0)) < 1


@given(seed=st.integers(0, 50), target=st.sampled_from([0.01, 0.1, 0.3]))
def test_the_worst_held_out_clip_is_just_over_its_share_and_no_other_is(seed, target):
    rng = np.random.default_rng(seed)
    clips = np.repeat([0, 1, 2], [10, 20, 5])
    level = np.array([0.0, 1.0, 3.0])[clips][:, None, None]  # clips differ more than their frames
    residual = np.exp(rng.normal(level, 0.3, (35, 2, 2))).astype(np.float32)
    logits = rng.normal(-level, 0.3, (35, 2, 2)).astype(np.float32)
    alpha, zeta = calibrate(residual, logits, target_fpr=target, groups=clips, fusion="mean")
    flagged = evidence(residual, logits, alpha=alpha, zeta=zeta, fusion="mean").max((1, 2)) >= 0
    shares = [flagged[clips == clip].sum() for clip in range(3)]
    allowed = [math.floor(target * n + 1e-9) for n in (10, 20, 5)]
    over = [share - most for share, most in zip(shares, allowed, strict=True)]
    assert sorted(over)[-1] == 1
    assert sorted(over)[-2] <= 0


# --- AnomalyMaps ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("fusion", "area"), RULES)
def test_anomaly_maps_follow_from_both_maps_and_the_rule(fusion, area, monkeypatch):
    monkeypatch.setattr("skavid.core.anomaly_maps.BLOCK_PIXELS", 100)  # in blocks of one image
    residual, logits = random_maps(7)
    rule = DecisionRule(0.3, 0.4, fusion, 0.7, *area)
    maps = AnomalyMaps(residual, logits, rule=rule)
    e = evidence(residual, logits, **rule._asdict())
    np.testing.assert_array_equal(maps.evidence, e, strict=True)
    np.testing.assert_array_equal(maps.mask, mask(e), strict=True)
    np.testing.assert_array_equal(maps.scores, score(e), strict=True)
    np.testing.assert_array_equal(maps.regularity, regularity(logits), strict=True)
    for row in range(len(maps)):
        expected = find(e[row], residual[row], logits[row], alpha=0.3, zeta=0.4)
        assert maps.find(row) == expected
    assert not maps.whole.any()


def test_the_evidence_of_maps_is_computed_once(monkeypatch):
    calls = []

    def counted(*args, **kwargs):
        calls.append(1)
        return evidence(*args, **kwargs)

    monkeypatch.setattr("skavid.core.anomaly_maps.evidence", counted)
    maps = AnomalyMaps(*random_maps(3), rule=DecisionRule(0.3, 0.4))
    maps.mask, maps.scores, maps.find(0), maps.irregular_as_a_whole
    assert len(calls) == 1


def test_other_thresholds_share_the_maps_and_leave_the_first_ones_alone():
    maps = AnomalyMaps(*random_maps(3), rule=DecisionRule(0.3, 0.4, "mean", 0.7))
    before = maps.evidence.copy()
    other = maps.with_thresholds(0.6, 0.3)
    assert other.residual is maps.residual
    assert other.logits is maps.logits
    assert other.rule == DecisionRule(0.6, 0.3, "mean", 0.7)
    expected = evidence(maps.residual, maps.logits, **other.rule._asdict())
    np.testing.assert_array_equal(other.evidence, expected)
    np.testing.assert_array_equal(maps.evidence, before)
    with pytest.raises(ValueError, match="alpha must be a finite number above 0"):
        maps.with_thresholds(0.0, 0.3)


def test_given_evidence_takes_the_place_of_that_of_the_maps():
    maps = AnomalyMaps(
        *random_maps(2), rule=DecisionRule(0.3, 0.4), reasons=np.array([2, 8], np.uint8)
    )
    high = np.full(maps.residual.shape, 1.0, np.float32)
    high[1] = -1
    averaged = maps.with_evidence(high)
    assert averaged.mask[0].all()
    assert not averaged.mask[1].any()
    assert averaged.scores.tolist() == [-1, 1]
    assert averaged.irregular_as_a_whole.tolist() == [True, False]


def test_margins_have_the_signs_of_both_conditions():
    residual, logits = random_maps(4)
    inpainter, detector = margins(residual, logits, alpha=0.3, zeta=0.4)
    np.testing.assert_array_equal(inpainter >= 0, residual >= np.float32(0.3))
    np.testing.assert_array_equal(detector >= 0, regularity(logits) <= np.float32(0.4))


def test_gathered_maps_are_written_where_they_are_wanted():
    residual, logits = random_maps(5)
    rule = DecisionRule(0.3, 0.4)
    parts = [
        (rows, AnomalyMaps(residual[rows], logits[rows], rule=rule))
        for rows in (slice(0, 2), slice(2, 5))
    ]
    out = {"evidence": np.empty_like(residual), "logits": np.empty_like(residual)}
    maps = gather(parts, residual.shape, rule=rule, out=out)
    assert maps.evidence is out["evidence"]
    assert maps.logits is out["logits"]
    np.testing.assert_array_equal(maps.residual, residual)
    np.testing.assert_array_equal(
        maps.evidence, evidence(residual, logits, **rule._asdict()), strict=True
    )
    assert maps.inpainted is None
    with pytest.raises(ValueError, match="out has the key 'mask'"):
        gather(parts, residual.shape, rule=rule, out={"mask": maps.mask})
