"""Error rates and areas compared with slow reference definitions."""

from __future__ import annotations

import pickle
import re
import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import Bunch

from skavid import NoveltyKFold
from skavid.exceptions import LabelWarning
from skavid.metrics import (
    aupro_score,
    cell_scores,
    clip_auc_score,
    equal_error_rate,
    make_map_scorer,
    pixel_level_auc_score,
    pixel_level_curve,
    pixel_level_equal_error_rate,
    pro_curve,
    rbdc_score,
    region_level_auc_score,
    region_level_equal_error_rate,
    region_track_curve,
    tbdc_score,
    threshold_plane,
)

# Few values, so that scores are often tied.
SAMPLES = st.lists(
    st.tuples(st.sampled_from([-1, 1]), st.integers(-4, 4)), min_size=2, max_size=30
)


def split(samples):
    labels, scores = (np.array(column) for column in zip(*samples, strict=True))
    assume(len(set(labels.tolist())) == 2)
    return labels, scores.astype(float)


def slow_error_rate(labels, scores):
    """Count errors at every threshold, then interpolate linearly between the counts."""
    corners = []
    for threshold in [np.inf, *sorted(set(scores), reverse=True)]:
        called_normal = scores >= threshold
        false_alarms = np.mean(~called_normal[labels == 1])  # normal, called irregular
        misses = np.mean(called_normal[labels == -1])  # irregular, called normal
        corners.append((float(misses), float(false_alarms)))
    for (m0, f0), (m1, f1) in pairwise(corners):
        for step in np.linspace(0, 1, 20001):
            if m0 + step * (m1 - m0) >= f0 + step * (f1 - f0):
                return m0 + step * (m1 - m0)
    raise AssertionError("the curve ends where everything is called normal")


@given(SAMPLES)
def test_error_rate_agrees_with_a_sweep_over_all_thresholds(samples):
    labels, scores = split(samples)
    assert equal_error_rate(labels, scores) == pytest.approx(
        slow_error_rate(labels, scores), abs=1e-4
    )


@given(SAMPLES)
def test_error_rate_depends_on_the_order_of_scores_alone(samples):
    labels, scores = split(samples)
    rate = equal_error_rate(labels, scores)
    assert 0 <= rate <= 1
    assert equal_error_rate(labels, np.exp(scores)) == rate
    assert equal_error_rate(labels, -scores) == pytest.approx(1 - rate)
    assert equal_error_rate(labels[::-1], scores[::-1]) == rate
    assert equal_error_rate(-labels, -scores) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("labels", "scores", "rate"),
    [
        ([1, -1], [1, 0], 0.0),
        ([1, -1], [0, 1], 1.0),
        ([1, -1], [0, 0], 0.5),
        ([1, 1, 1, -1], [7, 7, 7, 7], 0.5),
        ([1, 1, -1, -1], [3, 1, 2, 0], 0.5),
        ([1, 1, 1, -1, -1, -1], [5, 4, 2, 3, 1, 0], 1 / 3),
        # Between two corners: 1/2 of the irregular ones are tied with all normal ones but one.
        ([1, 1, -1, -1], [2, 1, 1, 0], 1 / 4),
    ],
)
def test_error_rate_of_cases_worked_out_by_hand(labels, scores, rate):
    assert equal_error_rate(labels, scores) == pytest.approx(rate)


def test_error_rate_takes_scores_in_the_sense_of_scikit_learns_roc_auc_score():
    labels, scores = (
        np.repeat([1, -1], 50),
        np.r_[np.linspace(0.3, 1, 50), np.linspace(0, 0.7, 50)],
    )
    assert roc_auc_score(labels, scores) > 0.8
    assert equal_error_rate(labels, scores) < 0.3


def test_labels_of_another_pair_need_the_label_of_normal_samples():
    scores = [0.9, 0.8, 0.1, 0.3, 0.2]
    rate = equal_error_rate([1, 1, 1, -1, -1], scores)
    assert equal_error_rate([0, 0, 0, 1, 1], scores, pos_label=0) == rate
    assert equal_error_rate(["ok"] * 3 + ["odd"] * 2, scores, pos_label="ok") == rate


@pytest.mark.parametrize("labels", [[1, 1], [-1, -1], [], [1, -1, 0]])
def test_other_than_two_kinds_of_label_are_refused(labels):
    message = f"y_true must hold two labels.*{re.escape(str(np.unique(labels).tolist()))}"
    with pytest.raises(ValueError, match=message):
        equal_error_rate(labels, np.zeros(len(labels)))


def test_an_unknown_label_of_normal_samples_is_refused():
    message = "pos_label must be one of y_true's labels [-1, 1]. Got 2."
    with pytest.raises(ValueError, match=re.escape(message)):
        equal_error_rate([1, -1], [1, 0], pos_label=2)


@given(
    n=st.integers(0, 3),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    cell=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_cell_scores_agree_with_a_loop_over_cells(n, rows, columns, cell, seed):
    maps = np.random.default_rng(seed).normal(size=(n, rows * cell, columns * cell))
    for reduce in ("max", "mean"):
        scores = cell_scores(maps, cell, reduce=reduce)
        assert scores.shape == (n, rows, columns)
        for image, i, j in np.ndindex(n, rows, columns):
            pixels = [
                maps[image, i * cell + y, j * cell + x] for y in range(cell) for x in range(cell)
            ]
            slow = max(pixels) if reduce == "max" else sum(pixels) / len(pixels)
            assert scores[image, i, j] == pytest.approx(slow)


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        (
            (1, 6, 8),
            {"cell": 4},
            "maps have 6 x 8 pixels, which cells of 4 x 4 do not tile",
        ),
        ((6, 8), {"cell": 2}, "maps must have the shape (n_images, H, W). Got (6, 8)."),
        (
            (1, 4, 4),
            {"cell": 0},
            "The 'cell' parameter of cell_scores must be an int in the range [1, inf). Got 0 "
            "instead.",
        ),
        (
            (1, 4, 4),
            {"cell": 2, "reduce": "min"},
            "The 'reduce' parameter of cell_scores must be a str among {'max', 'mean'}. Got "
            "'min' instead.",
        ),
    ],
)
def test_cells_that_do_not_fit_are_refused(shape, arguments, message):
    # scikit-learn writes sets in no fixed order.
    message = re.escape(message).replace("'max',\\ 'mean'", "('max', 'mean'|'mean', 'max')")
    with pytest.raises(ValueError, match=message):
        cell_scores(np.zeros(shape), **arguments)


# --- pixel level ---------------------------------------------------------------------------------


def frames_of(seed, n=7, side=4, levels=5):
    """Return masks, some empty, and maps with many ties."""
    rng = np.random.default_rng(seed)
    masks = rng.random((n, side, side + 1)) < rng.choice([0, 0, 0.2, 0.7], size=(n, 1, 1))
    masks[0], masks[1, 0, 0] = False, True
    return masks, rng.integers(0, levels, masks.shape).astype(np.float32)


def hide(seed, masks, share):
    """Choose pixels that do not count; the first does."""
    ignore_mask = np.random.default_rng(seed).random(masks.shape[1:]) < share
    ignore_mask[0, 0] = False
    return ignore_mask


def slow_pixel_rates(masks, maps, ignore_mask, threshold, rule, overlap, precision):
    """Apply the rule frame by frame at one threshold."""
    hits = alarms = left_alone = irregular = 0
    for mask, scores in zip(masks & ~ignore_mask, maps, strict=True):
        flagged = (scores >= threshold) & ~ignore_mask
        if not mask.any():
            alarms += flagged.any()
            left_alone += not flagged.any()
            continue
        irregular += 1
        enough = (flagged & mask).sum() / mask.sum() >= overlap - 1e-9
        if rule == "dual" and flagged.any():
            enough = enough and (flagged & mask).sum() / flagged.sum() >= precision - 1e-9
        hits += enough
        if rule == "cvpr2010" and flagged.any() and not enough:
            alarms += 1
    return alarms / (alarms + left_alone), hits / irregular


@pytest.mark.parametrize("rule", ["pami2014", "cvpr2010", "dual"])
@given(
    seed=st.integers(0, 999),
    overlap=st.sampled_from([0.01, 0.2, 0.4, 1.0]),
    precision=st.sampled_from([0.05, 0.3, 0.5, 1.0]),
    share=st.sampled_from([0, 0.3]),
)
def test_pixel_level_rates_are_those_of_every_threshold(rule, seed, overlap, precision, share):
    masks, maps = frames_of(seed)
    ignore_mask = hide(seed, masks, share)
    parameters = {"rule": rule, "overlap": overlap, "precision": precision}
    fpr, tpr, thresholds = pixel_level_curve(masks, maps, ignore_mask=ignore_mask, **parameters)
    assert fpr[0] == tpr[0] == 0
    assert thresholds[0] == np.inf
    assert (np.diff(thresholds) < 0).all()
    for level in (np.inf, 4.5, 4, 3.5, 3, 2, 1.5, 1, 0, -1):
        # The curve stays as it is between its thresholds.
        last = np.flatnonzero(thresholds >= level)[-1]
        assert (fpr[last], tpr[last]) == pytest.approx(
            slow_pixel_rates(masks, maps, ignore_mask, level, rule, overlap, precision)
        )


@given(st.integers(0, 999))
def test_frames_of_one_pixel_are_judged_as_scikit_learn_judges_samples(seed):
    rng = np.random.default_rng(seed)
    labels, scores = rng.random(20) < 0.4, rng.integers(0, 8, 20).astype(float)
    labels[:2] = True, False
    pictures = labels[:, None, None], scores[:, None, None]
    assert pixel_level_auc_score(*pictures) == pytest.approx(roc_auc_score(labels, scores))
    assert pixel_level_equal_error_rate(*pictures) == pytest.approx(
        equal_error_rate(np.where(labels, -1, 1), -scores)
    )


def test_flagging_whole_frames_passes_pami_2014_and_fails_the_dual_rule():
    masks = np.zeros((4, 10, 10), bool)
    masks[:2, 0, 0] = True
    whole = np.where(masks.any(axis=(1, 2), keepdims=True), 2.0, 1.0) * np.ones(masks.shape)
    assert pixel_level_auc_score(masks, whole) == 1
    assert pixel_level_equal_error_rate(masks, whole) == 0
    assert pixel_level_auc_score(masks, whole, rule="dual") == 0
    assert pixel_level_equal_error_rate(masks, whole, rule="dual") == 1
    exact = masks * 2.0
    assert pixel_level_auc_score(masks, exact, rule="dual") == 1


def test_a_third_of_the_pixels_is_no_hit_and_a_false_alarm_by_the_rule_of_2010():
    masks = np.zeros((2, 1, 3), bool)
    masks[0] = True
    maps = np.array([[[2.0, 0, 0]], [[1.0, 1, 1]]])
    fpr, tpr, thresholds = pixel_level_curve(masks, maps, rule="cvpr2010")
    assert thresholds.tolist() == [np.inf, 2, 1, 0]
    assert fpr.tolist() == [0, 1 / 2, 1, 1]
    assert tpr.tolist() == [0, 0, 0, 1]


def test_small_maps_are_judged_at_the_size_of_the_masks():
    masks, small = frames_of(3, side=4)
    large = masks.repeat(2, axis=1).repeat(3, axis=2)
    with pytest.raises(ValueError, match="another aspect"):
        pixel_level_curve(large, small)
    large = masks.repeat(3, axis=1).repeat(3, axis=2)
    enlarged = small.repeat(3, axis=1).repeat(3, axis=2)
    for judge in (pixel_level_auc_score, aupro_score):
        assert judge(large, small) == judge(large, enlarged)


def test_memory_maps_are_judged_as_arrays(tmp_path):
    masks, maps = frames_of(5)
    for name, array in (("masks", masks), ("maps", maps)):
        np.save(tmp_path / f"{name}.npy", array)
    kept = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("masks", "maps")]
    assert pixel_level_auc_score(*kept) == pixel_level_auc_score(masks, maps)


def test_masks_of_0_and_1_are_masks():
    masks, maps = frames_of(5)
    for judge in (pixel_level_auc_score, aupro_score, rbdc_score):
        assert judge(masks.astype(np.uint8), maps) == judge(masks, maps)


# --- cells and clips -----------------------------------------------------------------------------


def test_region_level_counts_cells():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, 1, 1] = True
    maps = np.arange(32.0).reshape(2, 4, 4)[::-1]
    cells, scores = cell_scores(masks, 2).ravel(), cell_scores(maps, 2).ravel()
    assert cells.sum() == 1
    assert region_level_auc_score(masks, maps, cell=2) == roc_auc_score(cells, scores)
    assert region_level_equal_error_rate(masks, maps, cell=2) == equal_error_rate(
        np.where(cells, -1, 1), -scores
    )
    assert region_level_auc_score(masks, maps, cell=2, reduce="mean") == roc_auc_score(
        cells, cell_scores(maps, 2, reduce="mean").ravel()
    )


def test_macro_auc_is_the_mean_over_clips():
    labels = np.array([1, -1, 1, -1, 1, 1])
    scores = np.array([3.0, 2.0, 1.0, 1.5, 7.0, 8.0])
    clips = np.array(["a", "a", "b", "b", "c", "c"])
    assert clip_auc_score(labels, scores, clips) == 0.5
    # One more pair at the ends of each clip: a 3 of 4, then 2 of 4 pairs right; clip c all right.
    padded = []
    for clip in "abc":
        kinds, given = labels[clips == clip], scores[clips == clip]
        padded.append(roc_auc_score([*kinds, 1, -1], [*given, given.max(), given.min()]))
    assert clip_auc_score(labels, scores, clips, one_kind="pad") == pytest.approx(np.mean(padded))


# --- AUPRO ---------------------------------------------------------------------------------------


def flood(mask):
    """Find the regions of a mask pixel by pixel, over edges and corners."""
    left, regions = {tuple(pixel) for pixel in np.argwhere(mask)}, []
    while left:
        region, border = set(), [left.pop()]
        while border:
            i, j = border.pop()
            region.add((i, j))
            near = {(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            border += near
        regions.append(region)
    return regions


def slow_aupro(masks, maps, ignore_mask, limit):
    """Anomalib's published definition: every threshold, then trapezes up to the limit."""
    regions = [
        (k, region) for k, mask in enumerate(masks & ~ignore_mask) for region in flood(mask)
    ]
    corners = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        flagged = maps >= threshold
        overlaps = [np.mean([flagged[k, i, j] for i, j in region]) for k, region in regions]
        corners.append((flagged[~masks & ~ignore_mask].mean(), float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(corners):
        if x0 >= limit or x1 == x0:
            continue
        end = min(x1, limit)
        at_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + at_end) / 2
    return area / limit


@given(
    seed=st.integers(0, 999),
    limit=st.sampled_from([0.05, 0.3, 0.7, 1.0]),
    share=st.sampled_from([0, 0.3]),
)
def test_aupro_agrees_with_its_definition(seed, limit, share):
    masks, maps = frames_of(seed, levels=9)
    ignore_mask = hide(seed, masks, share)
    assert aupro_score(masks, maps, max_fpr=limit, ignore_mask=ignore_mask) == pytest.approx(
        slow_aupro(masks, maps, ignore_mask, limit)
    )


def test_aupro_of_quantiles_is_near_the_exact_one():
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 40, 40), bool)
    masks[:3, 5:15, 5:25] = masks[1, 30:33, 30:33] = True
    maps = rng.normal(size=masks.shape) + 1.5 * masks
    exact = aupro_score(masks, maps)
    assert aupro_score(masks, maps, n_thresholds=300) == pytest.approx(exact, abs=0.005)
    assert 0.5 < exact < 0.95


def test_aupro_counts_small_and_large_regions_alike_and_never_exceeds_1():
    masks = np.zeros((1, 10, 10), bool)
    masks[0, :5, :5], masks[0, 9, 9] = True, True
    only_large = np.where(np.arange(100).reshape(1, 10, 10) < 50, masks, 0).astype(float)
    assert aupro_score(masks, masks * 1.0) == 1
    fpr, pro, _ = pro_curve(masks, only_large)
    assert (fpr[1], pro[1]) == (0, pytest.approx(0.5))
    assert pro.max() <= 1


# --- regions and tracks --------------------------------------------------------------------------


def slow_regions_and_tracks(masks, maps, ignore_mask, clips, threshold, min_iou, min_share):
    """Match found and irregular regions as sets of pixels; form tracks by shared neighbours."""
    flagged = (maps >= threshold) & ~ignore_mask
    true, found = (
        [(k, region) for k, mask in enumerate(pictures) for region in flood(mask)]
        for pictures in (masks & ~ignore_mask, flagged)
    )

    def meets(one, other):
        shared = len(one[1] & other[1])
        return one[0] == other[0] and shared / len(one[1] | other[1]) >= min_iou

    def follows(one, other):
        grown = {(i + a, j + b) for i, j in one[1] for a in (-1, 0, 1) for b in (-1, 0, 1)}
        return (
            abs(one[0] - other[0]) == 1
            and clips[one[0]] == clips[other[0]]
            and bool(grown & other[1])
        )

    detected = [any(meets(region, other) for other in found) for region in true]
    false = sum(not any(meets(other, region) for region in true) for other in found)
    track = list(range(len(true)))
    for _ in true:
        for a, one in enumerate(true):
            for b, other in enumerate(true):
                if follows(one, other):
                    track[a] = track[b] = min(track[a], track[b])
    shares = [
        np.mean([hit for hit, t in zip(detected, track, strict=True) if t == name])
        for name in set(track)
    ]
    return false / len(maps), np.mean(detected), np.mean([s >= min_share for s in shares])


@given(
    seed=st.integers(0, 999),
    min_iou=st.sampled_from([0.1, 0.5, 1.0]),
    min_share=st.sampled_from([0.1, 0.5, 1.0]),
    share=st.sampled_from([0, 0.3]),
)
def test_regions_and_tracks_agree_with_sets_of_pixels(seed, min_iou, min_share, share):
    masks, maps = frames_of(seed, side=5)
    ignore_mask, clips = hide(seed, masks, share), np.array([0, 0, 0, 1, 1, 2, 2])
    curve = region_track_curve(
        masks,
        maps,
        groups=clips,
        min_iou=min_iou,
        min_share=min_share,
        thresholds=[1, 3, 4, 9],
        ignore_mask=ignore_mask,
    )
    assert curve.thresholds.tolist() == [9, 4, 3, 1]
    for index, threshold in enumerate(curve.thresholds):
        rates = (curve.false_regions[index], curve.regions[index], curve.tracks[index])
        assert rates == pytest.approx(
            slow_regions_and_tracks(masks, maps, ignore_mask, clips, threshold, min_iou, min_share)
        )


def test_numbers_in_masks_are_tracks_however_far_apart():
    masks = np.zeros((4, 6, 9), np.int64)
    masks[0, 0, 0] = masks[3, 5, 8] = 7
    masks[1, :2, :2] = masks[1, 4:, :2] = 9  # two patches, one region
    curve = region_track_curve(masks, (masks == 7) * 1.0, thresholds=[1])
    assert (curve.n_regions, curve.n_tracks) == (3, 2)
    assert curve.regions.tolist() == [2 / 3]
    assert curve.tracks.tolist() == [1 / 2]
    apart = region_track_curve(masks, masks * 1.0, groups=[0, 1, 2, 3], thresholds=[1])
    assert (apart.n_regions, apart.n_tracks) == (3, 3)


def test_false_regions_cost_up_to_one_a_frame():
    masks = np.zeros((2, 12, 12), bool)
    masks[:, :3, :3] = True
    maps = masks * 1.0
    maps[0, 9:, 9:] = 2  # one false region in two frames comes before the true ones
    assert rbdc_score(masks, maps, thresholds=[1, 2]) == pytest.approx(0.5)
    assert tbdc_score(masks, maps, thresholds=[1, 2]) == pytest.approx(0.5)
    assert rbdc_score(masks, masks * 1.0) == tbdc_score(masks, masks * 1.0) == 1


# --- the plane of Fig. 6 -------------------------------------------------------------------------


@given(seed=st.integers(0, 999), n_pixels=st.sampled_from([1, 3]))
def test_the_plane_reaches_what_the_best_pair_of_thresholds_reaches(seed, n_pixels):
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(12) < 0.4, -1, 1)
    labels[:2] = 1, -1
    residual, regularity = rng.integers(1, 5, (2, 12, n_pixels)) / 5
    plane = threshold_plane(labels, residual, regularity)
    points = [(0.0, 0.0)]
    for alpha in np.unique(residual):
        for zeta in np.unique(regularity):
            flagged = ((residual >= alpha) & (regularity <= zeta)).any(axis=1)
            points.append((flagged[labels == 1].mean(), flagged[labels == -1].mean()))
    for index in (0, 250, 500, 1000):
        fpr, tpr = plane.fpr[index], plane.tpr[index]
        best = max(t for f, t in points if f <= fpr + 1e-12)
        flagged = ((residual >= plane.alpha[index]) & (regularity <= plane.zeta[index])).any(
            axis=1
        )
        assert tpr == flagged[labels == -1].mean()
        assert flagged[labels == 1].mean() <= fpr + 1e-12
        assert tpr == best if n_pixels == 1 else tpr <= best


def test_the_plane_holds_both_networks_alone_and_beats_their_ray():
    rng = np.random.default_rng(0)
    labels = np.repeat([1, -1], 200)
    shift = (labels == -1)[:, None].astype(float)
    residual, logits = np.exp(rng.normal(shift, 1)), rng.normal(-shift, 1)
    regularity = 1 / (1 + np.exp(-logits))
    plane = threshold_plane(labels, residual, regularity, n_levels=400)
    area = np.trapezoid(plane.tpr, plane.fpr)
    evidence = np.minimum(np.log(residual), -logits)
    for alone in (-residual, regularity, -evidence):
        assert area >= roc_auc_score(labels, alone[:, 0]) - 0.002
    assert area < 0.95


# --- pixels that do not count --------------------------------------------------------------------


def pictures_to_judge(seed, scale):
    """Return masks of 8 x 6 pixels, irregular in the fifth row, and maps of that size or less."""
    rng = np.random.default_rng(seed)
    masks = rng.random((4, 8, 6)) < rng.choice([0, 0.1, 0.5], size=(4, 1, 1))
    masks[0], masks[1, 4, 0] = False, True
    return masks, rng.normal(size=(4, 8 // scale, 6 // scale)).astype(np.float32)


def all_figures(masks, maps, ignore_mask):
    """Return the values of all measures of masks and maps."""
    curve = region_track_curve(masks, maps, n_thresholds=6, min_iou=0.3, ignore_mask=ignore_mask)
    cells = {"cell": 2, "ignore_mask": ignore_mask}
    figures = [
        *curve.values(),
        *pro_curve(masks, maps, ignore_mask=ignore_mask),
        *pro_curve(masks, maps, n_thresholds=7, ignore_mask=ignore_mask),
        aupro_score(masks, maps, ignore_mask=ignore_mask),
        rbdc_score(masks, maps, n_thresholds=4, ignore_mask=ignore_mask),
        tbdc_score(masks, maps, n_thresholds=4, ignore_mask=ignore_mask),
        *(region_level_auc_score(masks, maps, reduce=way, **cells) for way in ("max", "mean")),
        region_level_equal_error_rate(masks, maps, **cells),
    ]
    for rule in ("pami2014", "cvpr2010", "dual"):
        options = {"rule": rule, "precision": 0.4, "ignore_mask": ignore_mask}
        figures += [
            *pixel_level_curve(masks, maps, **options),
            pixel_level_auc_score(masks, maps, **options),
            pixel_level_equal_error_rate(masks, maps, **options),
        ]
    return [np.asarray(one) for one in figures]


def assert_same_figures(some, others):
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one, other)


@given(seed=st.integers(0, 999), share=st.sampled_from([0.1, 0.5, 0.8]))
def test_what_masks_and_maps_hold_in_pixels_that_do_not_count_changes_no_figure(seed, share):
    masks, maps = pictures_to_judge(seed, 1)
    rng = np.random.default_rng(seed)
    ignore_mask = rng.random((8, 6)) < share
    ignore_mask[4, 0] = False
    other_masks, other_maps = masks.copy(), maps.copy()
    other_masks[:, ignore_mask] = rng.random((4, ignore_mask.sum())) < 0.5
    other_maps[:, ignore_mask] = rng.choice(
        [-np.inf, -9, 0, 9, np.inf, np.nan], (4, ignore_mask.sum())
    )
    assert_same_figures(
        all_figures(masks, maps, ignore_mask), all_figures(other_masks, other_maps, ignore_mask)
    )


@given(seed=st.integers(0, 999), scale=st.sampled_from([1, 2]))
def test_to_ignore_nothing_changes_nothing(seed, scale):
    masks, maps = pictures_to_judge(seed, scale)
    nothing = np.zeros((8, 6), dtype=bool)
    assert_same_figures(all_figures(masks, maps, None), all_figures(masks, maps, nothing.tolist()))


@given(
    seed=st.integers(0, 999),
    scale=st.sampled_from([1, 2]),
    top=st.sampled_from([0, 2, 4]),
    bottom=st.sampled_from([6, 8]),
)
def test_to_ignore_rows_at_the_border_is_to_crop_the_pictures(seed, scale, top, bottom):
    masks, maps = pictures_to_judge(seed, scale)
    ignore_mask = np.ones((8, 6), dtype=bool)
    ignore_mask[top:bottom] = False
    cropped = masks[:, top:bottom], maps[:, top // scale : bottom // scale]
    assert_same_figures(all_figures(masks, maps, ignore_mask), all_figures(*cropped, None))


def test_a_frame_that_is_irregular_only_where_pixels_do_not_count_is_normal():
    masks = np.zeros((3, 2, 2), dtype=bool)
    masks[0, 0, 0] = masks[1, 1, 1] = True
    ignore_mask = np.array([[False, False], [False, True]])
    maps = np.array([[[2.0, 0], [0, 9]], [[1.0, 0], [0, 9]], [[0.0, 0], [0, 9]]])
    fpr, tpr, thresholds = pixel_level_curve(masks, maps, ignore_mask=ignore_mask)
    assert thresholds.tolist() == [np.inf, 2, 1, 0]
    assert fpr.tolist() == [0, 0, 1 / 2, 1]
    assert tpr.tolist() == [0, 1, 1, 1]


def test_regions_that_pixels_which_do_not_count_cut_in_two_are_two():
    masks = np.zeros((1, 1, 7), dtype=bool)
    masks[0, 0, :5] = True
    ignore_mask = np.zeros((1, 7), dtype=bool)
    ignore_mask[0, 1] = True
    maps = np.array([[[9.0, 8, 7, 7, 0, 0, 7]]])
    fpr, pro, thresholds = pro_curve(masks, maps, ignore_mask=ignore_mask)
    assert thresholds.tolist() == [np.inf, 9, 7, 0]
    assert fpr.tolist() == [0, 0, 1 / 2, 1]
    assert pro == pytest.approx([0, 1 / 2, 5 / 6, 1])
    curve = region_track_curve(masks, maps, thresholds=[9, 7], ignore_mask=ignore_mask)
    assert (curve.n_regions, curve.n_tracks) == (2, 2)
    assert curve.regions.tolist() == [1 / 2, 1]
    assert curve.false_regions.tolist() == [0, 1]


def test_what_passes_behind_pixels_that_do_not_count_is_one_track_where_it_has_a_number():
    masks = np.zeros((3, 1, 3), dtype=np.uint8)
    for frame in range(3):
        masks[frame, 0, frame] = 7
    ignore_mask = np.array([[False, True, False]])
    masks[:, ignore_mask] += 200  # a number that is no track
    maps = np.full(masks.shape, 0.5)
    curve = region_track_curve(masks, maps, thresholds=[1], ignore_mask=ignore_mask)
    assert (curve.n_regions, curve.n_tracks) == (2, 1)
    for void in (0, 1, 255, -1):  # numbers that pixels which do not count bear in some data sets
        marked = np.where(ignore_mask, void, masks == 7)
        curve = region_track_curve(marked, maps, thresholds=[1], ignore_mask=ignore_mask)
        assert (curve.n_regions, curve.n_tracks) == (2, 2)
        assert aupro_score(marked, maps, ignore_mask=ignore_mask) == aupro_score(
            masks == 7, maps, ignore_mask=ignore_mask
        )


@pytest.mark.parametrize("reduce", ["max", "mean"])
@given(seed=st.integers(0, 999), share=st.sampled_from([0.2, 0.7]))
def test_a_cell_counts_by_those_of_its_pixels_that_count(reduce, seed, share):
    masks, maps = pictures_to_judge(seed, 1)
    ignore_mask = np.random.default_rng(seed).random((8, 6)) < share
    labels, scores = [], []
    for image, i, j in np.ndindex(4, 4, 3):
        tile = np.s_[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        pixels = [
            (bool(irregular), float(score))
            for irregular, score, hidden in zip(
                masks[image][tile].flat,
                maps[image][tile].flat,
                ignore_mask[tile].flat,
                strict=True,
            )
            if not hidden
        ]
        if pixels:
            labels.append(any(irregular for irregular, _ in pixels))
            values = [score for _, score in pixels]
            scores.append(max(values) if reduce == "max" else sum(values) / len(values))
    assume(len(set(labels)) == 2)
    options = {"cell": 2, "reduce": reduce, "ignore_mask": ignore_mask}
    assert region_level_auc_score(masks, maps, **options) == pytest.approx(
        roc_auc_score(labels, scores)
    )
    assert region_level_equal_error_rate(masks, maps, **options) == pytest.approx(
        equal_error_rate(np.where(labels, -1, 1), -np.array(scores))
    )


def test_cell_scores_of_a_masked_array_leave_masked_pixels_out():
    maps = np.ma.array([[[1.0, 9, 5, 5], [3, 9, 5, 5]]], mask=[[[0, 1, 1, 1], [0, 1, 1, 1]]])
    for reduce, score in (("max", 3.0), ("mean", 2.0)):
        assert cell_scores(maps, 2, reduce=reduce).tolist() == [[[score, None]]]


@given(seed=st.integers(0, 999))
def test_no_pixel_that_does_not_count_flags_a_sample_in_the_plane(seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat([1, -1], 5)
    residual, regularity = rng.integers(1, 5, (2, 10, 3, 4)) / 5
    ignore_mask = hide(seed, residual, 0.5)
    plane = threshold_plane(labels, residual, regularity, ignore_mask=ignore_mask)
    left = threshold_plane(labels, residual[:, ~ignore_mask], regularity[:, ~ignore_mask])
    assert_same_figures(plane.values(), left.values())


# --- scorers -------------------------------------------------------------------------------------


class Painter(OutlierMixin, BaseEstimator):
    """A detector whose evidence is the image, times a parameter."""

    def __init__(self, sign=1):
        self.sign = sign

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def maps(self, X):
        return Bunch(evidence=self.sign * np.asarray(X))


def test_a_search_takes_masks_as_y_and_scores_maps():
    masks, maps = frames_of(11, n=12)
    masks[::2] = False
    for judge, better in ((aupro_score, True), (pixel_level_equal_error_rate, False)):
        scorer = make_map_scorer(judge, greater_is_better=better)
        for estimator, name in (
            (Painter(), "sign"),
            (Pipeline([("same", FunctionTransformer()), ("paint", Painter())]), "paint__sign"),
        ):
            search = GridSearchCV(
                estimator, {name: [1, -1]}, cv=NoveltyKFold(2), scoring=scorer, refit=False
            ).fit(maps + 10.0 * masks, masks)
            assert search.best_params_ == {name: 1}
            sign = 1 if better else -1
            folds = NoveltyKFold(2).split(maps, masks)
            expected = [sign * judge(masks[t], maps[t] + 10.0 * masks[t]) for _, t in folds]
            found = [search.cv_results_[f"split{k}_test_score"][0] for k in range(2)]
            assert found == pytest.approx(expected)
    assert pickle.loads(pickle.dumps(scorer)) == scorer


def test_a_scorer_passes_on_which_pixels_do_not_count():
    masks, maps = frames_of(11, n=12)
    ignore_mask = hide(11, masks, 0.4)
    seen = np.where(ignore_mask, 9.0, maps)
    scorer = make_map_scorer(aupro_score, max_fpr=0.5, ignore_mask=ignore_mask)
    assert scorer(Painter(), seen, masks) == aupro_score(
        masks, maps, max_fpr=0.5, ignore_mask=ignore_mask
    )
    search = GridSearchCV(
        Painter(), {"sign": [1, -1]}, cv=NoveltyKFold(2), scoring=scorer, refit=False
    ).fit(np.where(ignore_mask, 9.0, maps + 10.0 * masks), masks)
    assert search.best_params_ == {"sign": 1}
    assert search.best_score_ == 1


# --- what is refused -----------------------------------------------------------------------------

MASKS = np.zeros((2, 4, 4), bool)
MASKS[0, 0, 0] = True


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pixel_level_curve(MASKS[0], MASKS),
            "y_true must have the shape (n_images, H, W). Got (4, 4).",
        ),
        (
            lambda: aupro_score(MASKS, np.zeros((3, 4, 4))),
            "y_true has 2 masks, but y_score has 3 maps",
        ),
        (
            lambda: pixel_level_curve(MASKS, np.zeros((2, 4, 40))),
            "y_true has masks of 4 x 4 pixels, but y_score has maps of 4 x 40",
        ),
        (
            lambda: aupro_score(MASKS * 255, np.zeros((2, 4, 4))),
            "y_true must hold bool. Got int64 from 0 to 255; masks of 0 and 255 become bool",
        ),
        (
            lambda: rbdc_score(MASKS * 0.5, np.zeros((2, 4, 4))),
            "y_true must hold bool or track numbers. Got float64 from 0.0 to 0.5",
        ),
        (
            lambda: pixel_level_curve(MASKS, np.full((2, 4, 4), np.nan)),
            "y_score holds NaN in map 0.",
        ),
        (
            lambda: pixel_level_auc_score(MASKS[:1], np.zeros((1, 4, 4))),
            "y_true must hold irregular and normal frames. Got no normal one.",
        ),
        (
            lambda: pixel_level_auc_score(MASKS[1:], np.zeros((1, 4, 4))),
            "y_true must hold irregular and normal frames. Got no irregular one.",
        ),
        (
            lambda: pro_curve(MASKS[1:], np.zeros((1, 4, 4))),
            "y_true must hold irregular and normal pixels. Got no irregular one.",
        ),
        (
            lambda: pro_curve(~MASKS[1:], np.zeros((1, 4, 4))),
            "y_true must hold irregular and normal pixels. Got no normal one.",
        ),
        (
            lambda: tbdc_score(MASKS[1:], np.zeros((1, 4, 4))),
            "y_true must hold irregular pixels. Got none.",
        ),
        (
            lambda: tbdc_score(MASKS, np.zeros((2, 4, 4)), groups=[1]),
            "groups has the shape (1,), but y_true has 2 masks",
        ),
        (
            lambda: clip_auc_score([1, -1], [1.0], [0, 0]),
            "y_true, y_score and groups must have the same length. Got shapes (2,), (1,) and (2,)",
        ),
        (
            lambda: clip_auc_score([1, 0], [1.0, 2.0], [0, 0]),
            "y_true must hold 1 (normal) and -1 (irregular). Got [0, 1].",
        ),
        (
            lambda: clip_auc_score([1, -1], [1.0, 2.0], [0, 1]),
            "groups leave no clip with normal and irregular frames; see one_kind.",
        ),
        (
            lambda: threshold_plane([1, 1], [1.0, 2.0], [0.1, 0.2]),
            "y_true must hold 1 (normal) and -1 (irregular), both. Got [1].",
        ),
        (
            lambda: threshold_plane([1, -1], [1.0, 2.0], [0.1]),
            "residual has the shape (2,), regularity (1,), and y_true (2,); give both maps of "
            "each sample.",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    "judge",
    [
        pixel_level_curve,
        pixel_level_auc_score,
        pixel_level_equal_error_rate,
        pro_curve,
        aupro_score,
        region_track_curve,
        rbdc_score,
        tbdc_score,
        region_level_auc_score,
        region_level_equal_error_rate,
        threshold_plane,
    ],
)
@pytest.mark.parametrize(("ignore_mask", "message"), [
    (
        np.zeros((4, 4), np.uint8),
        "ignore_mask must be a boolean array of shape (H, W), True where pixels do not count. Got "
        "uint8 of shape (4, 4); write mask > 0 for an image.",
    ),
    (
        MASKS,
        "ignore_mask must be a boolean array of shape (H, W), True where pixels do not count. Got "
        "bool of shape (2, 4, 4); write mask > 0 for an image.",
    ),
    (
        np.zeros((4, 5), bool),
        "ignore_mask has the shape (4, 5), but the {} have (4, 4); give one value per pixel.",
    ),
    (np.ones((4, 4), bool), "ignore_mask leaves no pixel that counts; leave some False."),
])  # fmt: skip
def test_pixels_to_ignore_that_make_no_sense_are_refused(judge, ignore_mask, message):
    message = message.format("maps" if judge is threshold_plane else "masks")
    arrays = [MASKS, np.zeros((2, 4, 4))]
    options = {"cell": 2} if judge.__name__.startswith("region_level") else {}
    if judge is threshold_plane:
        arrays = [np.array([1, -1]), arrays[1], arrays[1]]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        judge(*arrays, ignore_mask=ignore_mask, **options)


def test_labels_0_and_1_are_told_unless_their_meaning_is_given():
    labels, scores = [0, 0, 0, 1], [2.1, 1.7, 0.4, -0.3]
    with pytest.warns(LabelWarning, match="pass pos_label=0 if 1 means irregular"):
        assert equal_error_rate(labels, scores) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert equal_error_rate(labels, scores, pos_label=0) == 0
