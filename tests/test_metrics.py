"""Error rates and cell scores, against slow definitions of them."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from skavid.metrics import cell_scores, equal_error_rate

# Few values, so that scores are often tied.
SAMPLES = st.lists(
    st.tuples(st.sampled_from([-1, 1]), st.integers(-4, 4)), min_size=2, max_size=30
)


def split(samples):
    labels, scores = (np.array(column) for column in zip(*samples, strict=True))
    assume(len(set(labels.tolist())) == 2)
    return labels, scores.astype(float)


def slow_error_rate(labels, scores):
    """Count errors at every threshold, then walk along the lines between the counts."""
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
    message = (
        "y_true must hold normal and irregular samples, two labels. "
        f"Got {np.unique(labels).tolist()}."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        equal_error_rate(labels, np.zeros(len(labels)))


def test_an_unknown_label_of_normal_samples_is_refused():
    message = "pos_label must be one of [-1, 1], y_true's. Got 2."
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
            "maps are of 6 x 8 pixels, which cells of 4 x 4 do not tile; crop them or take "
            "another cell.",
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
