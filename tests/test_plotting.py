"""Displays: their contents and appearance, and the error without matplotlib."""

from __future__ import annotations

import copy
import os
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch

from skavid import AVIDDetector
from skavid.components import Corruption, as_component, nested
from skavid.core.anomaly_maps import FUSIONS, evidence, regularity
from skavid.core.calibration import move_thresholds
from skavid.core.training import BLIND_AUC
from skavid.metrics import equal_error_rate
from skavid.plotting import (
    HistoryDisplay,
    IrregularityDisplay,
    RocDisplay,
    ScoreOverTimeDisplay,
    ThresholdPlaneDisplay,
)

matplotlib = pytest.importorskip("matplotlib")
pyplot = pytest.importorskip("matplotlib.pyplot")
pyplot.switch_backend("Agg")
Legend = pytest.importorskip("matplotlib.legend").Legend
compare_images = pytest.importorskip("matplotlib.testing.compare").compare_images


class Fake:
    """A detector whose maps are easy to recognise."""

    image_shape_ = (12, 10, 1)

    def __init__(self, corruption=None):
        self.corruption = corruption

    def component(self, name):
        return as_component(name, getattr(self, name))

    def maps(self, X):
        images = X if X.ndim > 2 else X.reshape(-1, *self.image_shape_[:2])
        shape = images.shape[:3]
        return Bunch(
            inpainted=images * 0.5,
            residual=np.full(shape, 0.2, np.float32),
            regularity=np.full(shape, 0.7, np.float32),
            evidence=np.linspace(-6, 3.5, np.prod(shape), dtype=np.float32).reshape(shape),
        )


def draw_box(images, *, ground_truth=None, axes=None):
    """Draw the maps of `Fake` with a mask at the edge of the first image."""
    maps = Fake().maps(images)
    mask = np.zeros(maps.evidence.shape, dtype=bool)
    mask[0, :4, :5] = True
    display = IrregularityDisplay(
        images, maps.inpainted, maps.residual, maps.regularity, maps.evidence, mask, ground_truth
    )
    return display.plot(axes=axes)


GREY = np.random.default_rng(0).uniform(size=(3, 12, 10))


SHOWN = ("inpainted", "residual", "regularity", "evidence")


def contours(ax):
    return [one for one in ax.collections if type(one).__name__ == "QuadContourSet"]


def test_each_image_is_a_row_of_six_pictures_whose_titles_name_the_maps():
    display = IrregularityDisplay.from_estimator(Fake(), GREY)
    assert display.axes_.shape == (3, 6)
    titles = [ax.get_title() for ax in display.axes_[0]]
    assert all(titles)
    assert titles[1] == "restored to normal\nI(X)"
    maps = Fake().maps(GREY)
    for row, axes in enumerate(display.axes_):
        for column in (0, 5):
            np.testing.assert_array_equal(axes[column].images[0].get_array(), GREY[row])
        for column, name in enumerate(SHOWN, start=1):
            np.testing.assert_array_equal(axes[column].images[0].get_array(), maps[name][row])
    assert all(len(ax.get_xticks()) == len(ax.get_yticks()) == 0 for ax in display.axes_.ravel())


def test_images_and_what_became_of_them_share_one_scale_of_grey():
    display = IrregularityDisplay.from_estimator(Fake(), 200 * GREY + 10)
    limits = (200 * GREY.min() + 10, 200 * GREY.max() + 10)
    for ax in display.axes_[:, [0, 1, 5]].ravel():
        assert ax.images[0].get_clim() == pytest.approx(limits)
        assert ax.images[0].get_cmap().name == "gray"


def test_regularity_is_viridis_from_0_to_1_and_evidence_is_centred_on_0():
    display = IrregularityDisplay.from_estimator(Fake(), GREY)
    regularity, evidence = (display.axes_[0, k].images[0] for k in (3, 4))
    assert regularity.get_cmap().name == "viridis"
    assert regularity.get_clim() == (0, 1)
    assert evidence.get_cmap().name == "RdBu_r"
    assert evidence.get_clim() == (-3.5, 3.5)


def test_evidence_that_is_far_from_0_all_over_still_has_0_in_the_middle():
    detector = Fake()
    maps = detector.maps(GREY)
    maps.evidence -= 10
    detector.maps = lambda X: maps
    display = IrregularityDisplay.from_estimator(detector, GREY)
    low, high = display.axes_[0, 4].images[0].get_clim()
    assert -low == high == -np.median(maps.evidence)


def test_evidence_of_0_all_over_is_drawn():
    maps = np.zeros((1, 8, 8))
    display = IrregularityDisplay(maps, maps, maps, maps, maps, maps > 0).plot()
    display.figure_.canvas.draw()
    low, high = display.axes_[0, 4].images[0].get_clim()
    assert low < 0 < high


def test_colour_bars_tell_of_evidence_that_is_beyond_their_colours():
    display = IrregularityDisplay.from_estimator(Fake(), GREY)
    ends = [display.axes_[-1, column].images[0].colorbar.extend for column in (2, 3, 4)]
    assert ends == ["neither", "neither", "min"]


@pytest.mark.parametrize("largest", [2e-5, 1.7e-4, 0.0099, 1.0])
def test_numbers_below_a_colour_bar_do_not_run_into_each_other(largest):
    maps = np.linspace(0, largest, 144).reshape(1, 12, 12)
    display = IrregularityDisplay(maps, maps, maps, maps, maps, maps < 0).plot()
    display.figure_.canvas.draw()
    for ax in display.axes_[0, 2:5]:
        bar = ax.images[0].colorbar.ax
        low, high = bar.get_xlim()
        numbers = [
            words.get_window_extent()
            for words, place in zip(bar.get_xticklabels(), bar.get_xticks(), strict=True)
            if low <= place <= high
        ]
        assert len(numbers) >= 2
        for left, right in pairwise(numbers):
            assert left.x1 + 3 < right.x0


def test_each_map_has_a_colour_bar_below_it():
    display = IrregularityDisplay.from_estimator(Fake(), GREY)
    display.figure_.canvas.draw()
    bars = [ax for ax in display.figure_.axes if ax not in set(display.axes_.ravel())]
    assert len(bars) == 3
    for bar, column in zip(bars, (2, 3, 4), strict=True):
        above = display.axes_[-1, column].get_position()
        place = bar.get_position()
        assert place.y1 <= above.y0
        assert above.x0 <= (place.x0 + place.x1) / 2 <= above.x1
    for row in display.axes_:
        np.testing.assert_allclose([ax.get_position().y1 for ax in row], row[0].get_position().y1)


def test_the_mask_is_outlined_with_the_ground_truth_beside_it_where_it_is_known():
    ground_truth = np.zeros(GREY.shape, dtype=bool)
    ground_truth[1, 3:6, 3:6] = True
    without = draw_box(GREY)
    beside = draw_box(GREY, ground_truth=ground_truth)
    assert beside.axes_.shape == (3, 7)
    for display in (without, beside):
        assert [len(contours(ax)) for ax in display.axes_[:, 5]] == [1, 0, 0]
    assert [len(contours(ax)) for ax in beside.axes_[:, 6]] == [0, 1, 0]
    red, green = (contours(beside.axes_[at])[0].get_edgecolor() for at in ((0, 5), (1, 6)))
    np.testing.assert_allclose(red, [[1, 0, 0, 1]])
    np.testing.assert_allclose(green, [[0, 1, 0, 1]])


def test_outlines_are_seen_without_colour_too():
    ground_truth = np.zeros(GREY.shape, dtype=bool)
    ground_truth[0, 3:6, 3:6] = True
    display = draw_box(GREY, ground_truth=ground_truth)
    irregular = [(maps >= 0).any() for maps in display.evidence]
    assert [len(contours(ax)) for ax in display.axes_[:, 4]] == irregular
    for column in (4, 5, 6):
        outlines = [one for ax in display.axes_[:, column] for one in contours(ax)]
        assert outlines
        assert all(len(outline.get_path_effects()) == 1 for outline in outlines)


def test_a_ground_truth_of_0_and_255_is_outlined_as_a_mask_is():
    ground_truth = np.zeros(GREY.shape, dtype=np.uint8)
    ground_truth[0, :4, :5] = 255
    display = IrregularityDisplay.from_estimator(Fake(), GREY, ground_truth=ground_truth.tolist())
    (found,) = contours(draw_box(GREY).axes_[0, 5])
    (true,) = contours(display.axes_[0, 6])
    np.testing.assert_allclose(true.get_paths()[0].vertices, found.get_paths()[0].vertices)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (8, 8)])
@pytest.mark.parametrize("irregular", [False, True])
def test_masks_that_are_empty_or_full_are_drawn(shape, irregular):
    images = np.random.default_rng(0).uniform(size=(2, *shape))
    masks = np.full(images.shape, irregular)
    display = IrregularityDisplay(images, images, images, images, images, masks, ~masks).plot()
    display.figure_.canvas.draw()
    assert [len(contours(ax)) for ax in display.axes_[0, 5:]] == [irregular, not irregular]


def test_an_outline_encloses_the_mask_even_at_the_edge_of_the_image():
    display = draw_box(GREY)
    (outline,) = contours(display.axes_[0, 5])
    corners = np.concatenate([path.vertices for path in outline.get_paths()])
    np.testing.assert_allclose(corners.min(axis=0), [-0.5, -0.5])
    np.testing.assert_allclose(corners.max(axis=0), [4.5, 3.5])
    assert display.axes_[0, 5].get_xlim() == display.axes_[0, 0].get_xlim()
    assert display.axes_[0, 5].get_ylim() == display.axes_[0, 0].get_ylim()


@pytest.mark.parametrize(("n_channels", "drawn"), [(1, 2), (2, 2), (3, 3), (5, 2)])
def test_colour_stays_colour_and_other_channels_show_the_newest(n_channels, drawn):
    images = np.random.default_rng(0).uniform(size=(1, 8, 8, n_channels))
    display = IrregularityDisplay.from_estimator(Fake(), images)
    array = display.axes_[0, 0].images[0].get_array()
    assert array.ndim == drawn
    if drawn == 2:
        np.testing.assert_array_equal(array, images[0, ..., -1])
    else:
        spread = images[0].max() - images[0].min()
        np.testing.assert_allclose(array, (images[0] - images[0].min()) / spread)


def test_restored_colours_beyond_those_of_the_images_are_clipped_in_silence(caplog):
    images = np.random.default_rng(0).integers(50, 200, size=(2, 8, 8, 3), dtype=np.uint8)
    detector = Fake()
    maps = detector.maps(images)
    maps.inpainted = images * 3.0 - 100
    detector.maps = lambda X: maps
    display = IrregularityDisplay.from_estimator(detector, images)
    restored = display.axes_[0, 1].images[0].get_array()
    assert (restored.min(), restored.max()) == (0, 1)
    assert not caplog.records  # where matplotlib complains


def test_images_of_one_colour_are_drawn():
    images = np.full((1, 8, 8, 3), 7.0)
    IrregularityDisplay.from_estimator(Fake(), images).figure_.canvas.draw()


def test_of_stacked_video_the_newest_frame_is_drawn_in_grey():
    stacks = np.random.default_rng(0).uniform(size=(2, 8, 8, 3))
    detector = Fake()
    detector.corruption = Corruption(spacing=2)
    display = IrregularityDisplay.from_estimator(detector, stacks)
    first, restored = (display.axes_[1, k].images[0].get_array() for k in (0, 1))
    np.testing.assert_array_equal(first, stacks[1, ..., -1])
    np.testing.assert_array_equal(restored, stacks[1, ..., -1] * 0.5)


def test_flat_rows_are_drawn_as_images():
    display = IrregularityDisplay.from_estimator(Fake(), GREY.reshape(3, -1))
    np.testing.assert_array_equal(display.axes_[2, 0].images[0].get_array(), GREY[2])


def test_a_ground_truth_of_another_shape_is_refused():
    message = (
        "ground_truth has the shape (2, 12, 10), but X holds images of (3, 12, 10); give one "
        "mask per image."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        IrregularityDisplay.from_estimator(Fake(), GREY, ground_truth=GREY[:2] > 0.5)


def test_a_display_of_arrays_draws_when_it_is_told_to():
    maps = Fake().maps(GREY)
    display = IrregularityDisplay(
        GREY,
        maps.inpainted,
        maps.residual,
        maps.regularity,
        maps.evidence,
        maps.evidence >= 0,
    )
    assert not hasattr(display, "figure_")
    assert display.plot() is display
    assert display.figure_ is display.axes_[0, 0].figure


def test_given_axes_are_drawn_on():
    figure, axes = pyplot.subplots(3, 6)
    display = IrregularityDisplay.from_estimator(Fake(), GREY, axes=axes)
    assert display.figure_ is figure
    assert axes[0, 0].images


@pytest.mark.parametrize("known", [False, True])
def test_one_row_of_axes_serves_one_image(known):
    _, axes = pyplot.subplots(1, 6 + known)
    display = IrregularityDisplay.from_estimator(
        Fake(), GREY[:1], ground_truth=GREY[:1] > 0.5 if known else None, axes=axes
    )
    assert display.axes_.shape == (1, 6 + known)


def test_too_few_axes_are_refused():
    _, axes = pyplot.subplots(2, 6)
    message = "axes has the shape (2, 6), but 3 images need (3, 7)."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        IrregularityDisplay.from_estimator(Fake(), GREY, ground_truth=GREY > 0.5, axes=axes)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = "Pictures need matplotlib; pip install 'skavid[plot]'."
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        IrregularityDisplay.from_estimator(Fake(), GREY)


# --- pictures of scores, curves, trainings and thresholds --------------------------------------


def frames_under(collection):
    """Return which integers the bands of a collection contain, computed the slow way."""
    held = []
    for path in collection.get_paths():
        left, right = path.vertices[:, 0].min(), path.vertices[:, 0].max()
        held += [x for x in range(-5, 500) if left < x < right]
    return held


@given(st.lists(st.sampled_from([1, -1]), min_size=1, max_size=30))
def test_bands_lie_over_the_irregular_frames_and_marks_under_the_alarms(labels):
    scores = np.random.default_rng(len(labels)).normal(size=len(labels))
    display = ScoreOverTimeDisplay.from_predictions(scores, threshold=0.2, labels=labels)
    assert frames_under(display.ground_truth_) == [
        i for i, label in enumerate(labels) if label == -1
    ]
    assert frames_under(display.alarms_) == [i for i, score in enumerate(scores) if score < 0.2]
    pyplot.close(display.figure_)


def test_scores_are_drawn_upside_down_with_the_threshold():
    display = ScoreOverTimeDisplay.from_predictions([3.0, -1.0, 2.0], threshold=0.5)
    np.testing.assert_array_equal(display.line_.get_xydata(), [[0, -3], [1, 1], [2, -2]])
    np.testing.assert_array_equal(display.threshold_.get_ydata(), [-0.5, -0.5])
    assert display.ax_.get_xlabel() == "frame"
    assert display.ground_truth_ is None
    words = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert words == ["threshold", "alarm"]


def test_scores_alone_are_a_line_without_a_legend():
    display = ScoreOverTimeDisplay.from_predictions([3.0, 3.0, 3.0])
    assert display.threshold_ is display.alarms_ is display.ground_truth_ is None
    assert display.ax_.get_legend() is None
    low, high = display.ax_.get_ylim()
    assert low < -3 < high


def test_with_a_frame_rate_time_is_in_seconds():
    display = ScoreOverTimeDisplay.from_predictions(
        np.arange(6.0), threshold=1.5, labels=[1, 1, -1, -1, 1, 1], frame_rate=2
    )
    np.testing.assert_array_equal(display.line_.get_xdata(), [0, 0.5, 1, 1.5, 2, 2.5])
    (band,), (alarms,) = display.ground_truth_.get_paths(), display.alarms_.get_paths()
    assert (band.vertices[:, 0].min(), band.vertices[:, 0].max()) == (0.75, 1.75)
    assert (alarms.vertices[:, 0].min(), alarms.vertices[:, 0].max()) == (-0.25, 0.75)
    assert display.ax_.get_xlim() == (-0.25, 2.75)
    assert display.ax_.get_xlabel() == "time (s)"


def test_clips_stand_one_after_the_other_and_no_line_joins_them():
    display = ScoreOverTimeDisplay.from_predictions(
        np.arange(7.0), groups=["a", "a", "a", "b", "b", "c", "c"]
    )
    x, y = display.line_.get_data()
    breaks = np.flatnonzero(np.isnan(x))
    np.testing.assert_array_equal(breaks, np.flatnonzero(np.isnan(y)))
    parts = np.split(y, breaks)
    assert [part[~np.isnan(part)].tolist() for part in parts] == [[0, -1, -2], [-3, -4], [-5, -6]]
    (top,) = display.ax_.child_axes
    assert [label.get_text() for label in top.get_xticklabels()] == ["a", "b", "c"]
    np.testing.assert_array_equal(top.get_xticks(), [1, 3.5, 5.5])
    (borders,) = display.ax_.collections
    np.testing.assert_array_equal([line[0, 0] for line in borders.get_segments()], [2.5, 4.5])


@pytest.mark.parametrize("name", ["{}", "clip {:03d} of the day"])
def test_names_of_many_clips_do_not_run_into_each_other(name):
    groups = np.repeat([name.format(index) for index in range(50)], 3)
    display = ScoreOverTimeDisplay.from_predictions(np.zeros(150), groups=groups)
    display.figure_.canvas.draw()
    (top,) = display.ax_.child_axes
    boxes = [label.get_window_extent() for label in top.get_xticklabels()]
    assert len(boxes) >= 3
    for left, right in pairwise(boxes):
        assert left.x1 < right.x0


@settings(max_examples=10)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(-1e6, 1e6))
def test_neither_the_legend_nor_the_alarms_cover_the_scores(scores, threshold):
    display = ScoreOverTimeDisplay.from_predictions(
        scores, threshold=threshold, labels=np.ones(len(scores))
    )
    display.figure_.canvas.draw()
    ax = display.ax_
    heights = ax.transData.transform([(0, y) for y in -np.array([*scores, threshold])])[:, 1]
    assert heights.max() < ax.get_legend().get_window_extent().y0
    assert heights.min() > ax.transAxes.transform((0, 0.05))[1]
    pyplot.close(display.figure_)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"scores": np.zeros((2, 2))},
            "scores must hold one number per frame. Got an array of shape (2, 2).",
        ),
        ({"scores": []}, "scores must hold one number per frame. Got an array of shape (0,)."),
        ({"frame_rate": 0}, "frame_rate must be above 0 frames per second. Got 0."),
        ({"labels": [0, 1, 1]}, "labels must hold 1 (normal) and -1 (irregular). Got [0, 1]."),
        (
            {"labels": [1]},
            "labels has the shape (1,), but must have (3,); give one label per sample.",
        ),
        (
            {"groups": [0, 0]},
            "groups has the shape (2,), but scores (3,); give one clip id per score.",
        ),
        (
            {"groups": [0, 1, 0]},
            "groups must keep the rows of a clip together, but those of 0 are interrupted; sort "
            "all arrays by clip, and by time within it.",
        ),
    ],
)
def test_scores_that_cannot_be_drawn_over_time_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ScoreOverTimeDisplay.from_predictions(**{"scores": [1.0, 2.0, 3.0], **arguments})
    assert not pyplot.get_fignums()


SCORED = st.lists(
    st.tuples(st.sampled_from([1, -1]), st.integers(-4, 4)), min_size=2, max_size=20
).filter(lambda pairs: len({label for label, _ in pairs}) == 2)


def errors_of(labels, scores, threshold):
    """Count both kinds of error of samples that are irregular below a threshold."""
    normal, irregular = scores[labels == 1], scores[labels == -1]
    return np.mean(normal < threshold), np.mean(irregular >= threshold)


@given(SCORED)
def test_a_curve_is_that_of_every_threshold_and_its_point_is_the_equal_error_rate(scored):
    labels, scores = np.array(scored).T
    display = RocDisplay.from_predictions(labels, scores)
    for fpr, tpr, threshold in zip(display.fpr, display.tpr, display.thresholds, strict=True):
        false, missed = errors_of(labels, scores, threshold)
        assert (fpr, tpr) == pytest.approx((false, 1 - missed))
    np.testing.assert_array_equal(display.line_.get_xydata(), np.c_[display.fpr, display.tpr])
    assert display.roc_auc == pytest.approx(roc_auc_score(labels, scores))
    assert display.eer == equal_error_rate(labels, scores)
    x, y = display.eer_point_.get_xydata()[0]
    assert x == pytest.approx(1 - y)
    # On the curve: between two of its vertices, neighbours.
    before = max(i for i, tpr in enumerate(display.tpr) if display.fpr[i] + tpr <= 1)
    a, b = (np.array([display.fpr[i], display.tpr[i]]) for i in (before, before + 1))
    share = (1 - a.sum()) / (b - a).sum()
    assert (x, y) == pytest.approx(tuple(a + share * (b - a)))
    pyplot.close(display.figure_)


@given(SCORED)
def test_no_threshold_has_a_smaller_larger_error_than_that_of_the_equal_error_rate(scored):
    labels, scores = np.array(scored).T
    display = RocDisplay.from_predictions(labels, scores)
    chosen = max(errors_of(labels, scores, display.eer_threshold_))
    for threshold in [*np.unique(scores), np.inf]:
        assert chosen <= max(errors_of(labels, scores, threshold))
    pyplot.close(display.figure_)


def test_curves_in_one_axes_differ_by_line_marker_and_colour():
    y, ax = np.repeat([1, -1], 20), None
    rng = np.random.default_rng(0)
    displays = []
    for name in ("I alone", "D alone", "both", "another"):
        scores = y + rng.normal(size=40)
        displays.append(RocDisplay.from_predictions(y, scores, name=name, ax=ax))
        ax = displays[-1].ax_
    assert {display.figure_ for display in displays} == {displays[0].figure_}
    for look in (
        lambda one: one.line_.get_linestyle(),
        lambda one: one.line_.get_color(),
        lambda one: one.eer_point_.get_marker(),
    ):
        assert len({look(display) for display in displays}) == 4
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == [
        f"{one.name}: AUC {one.roc_auc:.3f}, EER {one.eer:.3f} at a score of "
        f"{one.eer_threshold_:.3g}"
        for one in displays
    ]
    assert len(ax.lines) == 2 + 2 * len(displays)  # the diagonals are drawn once


def test_a_curve_can_be_drawn_again_elsewhere_under_another_name():
    display = RocDisplay.from_predictions([1, -1], [2.0, 1.0])
    words = display.ax_.get_legend().get_texts()
    assert [text.get_text() for text in words] == ["AUC 1.000, EER 0.000 at a score of 2"]
    _, ax = pyplot.subplots()
    assert display.plot(ax, name="both") is display
    assert display.ax_ is ax
    assert ax.get_legend().get_texts()[0].get_text().startswith("both: AUC 1.000")


def test_the_legend_of_curves_lies_on_none_of_both_diagonals():
    display = draw_roc()
    display.figure_.canvas.draw()
    legend = display.ax_.get_legend().get_window_extent()
    for line in display.ax_.lines[:2]:  # chance, and equal errors
        ends = line.get_xydata()
        points = display.ax_.transData.transform(np.linspace(*ends, 200))
        assert not any(legend.contains(*point) for point in points)


def test_labels_of_0_and_1_are_told_apart_by_pos_label():
    display = RocDisplay.from_predictions([0, 0, 1], [3.0, 2.0, 1.0], pos_label=0)
    assert (display.roc_auc, display.eer) == (1, 0)


def test_a_curve_of_one_kind_is_refused():
    message = "y_true must hold two labels, for normal and irregular samples. Got [1]."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        RocDisplay.from_predictions([1, 1], [2.0, 1.0])
    assert not pyplot.get_fignums()


HISTORY = [
    {
        "epoch": epoch,
        "inpainter_loss": 0.5 / epoch,
        "detector_loss": 0.7 - 0.05 * epoch,
        "valid_inpainter": error,
        "valid_detector_auc": area,
        "kept": kept,
        "dur": 2.0,
    }
    for epoch, error, area, kept in [
        (1, 0.30, 0.50, "I and D"),
        (2, 0.20, 0.54, "I and D"),
        (3, 0.22, 0.70, "D"),
        (4, 0.12, 0.40, "I"),
        (5, 0.15, 0.90, "D"),
        (6, 0.14, 0.85, ""),
    ]
]
CHECKPOINT = {
    "inpainter": {"epoch": 4, "restoring_error": 0.12},
    "detector": {"epoch": 5, "region_auc": 0.9},
}


def test_a_history_is_drawn_as_it_is_with_the_moments_that_were_kept():
    display = HistoryDisplay(HISTORY, checkpoint=CHECKPOINT).plot()
    losses, error, area = display.axes_
    for line, name in zip(losses.lines, ("inpainter_loss", "detector_loss"), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), [(r["epoch"], r[name]) for r in HISTORY])
    for ax, name, letter, moment in (
        (error, "valid_inpainter", "I", (4, 0.12)),
        (area, "valid_detector_auc", "D", (5, 0.9)),
    ):
        curve, better, _, star = ax.lines[:4]
        rows = [(row["epoch"], row[name], row["kept"]) for row in HISTORY]
        np.testing.assert_array_equal(curve.get_xydata(), [row[:2] for row in rows])
        np.testing.assert_array_equal(
            better.get_xydata(), [row[:2] for row in rows if letter in row[2]]
        )
        np.testing.assert_array_equal(star.get_xydata(), [moment])
        assert star.get_marker() == "*"
    titles = [ax.get_title(loc="left") for ax in display.axes_]
    assert titles == [
        "6 epochs in 12 s",
        "inpainter kept from epoch 4 (star); dots: the best so far",
        "detector kept from epoch 5 (star); dots: the best so far; shaded: blind",
    ]


def test_epochs_in_which_the_detector_was_blind_are_shaded():
    display = HistoryDisplay(HISTORY, checkpoint=CHECKPOINT).plot()
    assert frames_under(display.blind_) == [1, 2, 4]
    assert [line.get_ydata()[0] for line in display.axes_[2].lines[-1:]] == [0.55]
    assert HistoryDisplay(HISTORY, blind_auc=0.3).plot().blind_ is None


def test_the_detector_is_blind_where_the_training_says_so():
    assert HistoryDisplay(HISTORY).blind_auc == BLIND_AUC


def test_a_history_without_a_checkpoint_has_no_stars():
    display = HistoryDisplay(HISTORY).plot()
    markers = {line.get_marker() for ax in display.axes_ for line in ax.lines}
    assert "*" not in markers


def test_a_history_of_one_epoch_is_seen():
    display = HistoryDisplay(HISTORY[:1]).plot()
    for ax in display.axes_:
        assert any(line.get_marker() in ("o", ".") and len(line.get_xdata()) for line in ax.lines)
    display.figure_.canvas.draw()
    assert display.axes_[0].get_title(loc="left") == "1 epoch in 2 s"
    assert display.axes_[2].get_title(loc="left") == "shaded: blind"
    low, high = display.axes_[2].get_xlim()
    assert [place for place in display.axes_[2].get_xticks() if low <= place <= high] == [1]


def test_numbers_of_a_history_are_as_they_are_without_an_offset_to_add():
    rows = [{**row, "valid_inpainter": 0.106 + 1e-6 * row["epoch"]} for row in HISTORY]
    display = HistoryDisplay(rows).plot()
    display.figure_.canvas.draw()
    assert [ax.yaxis.get_offset_text().get_text() for ax in display.axes_] == ["", "", ""]


def test_a_history_wants_three_axes():
    _, axes = pyplot.subplots(2)
    message = "axes has the shape (2,), but must hold three."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        HistoryDisplay(HISTORY).plot(axes=axes)
    _, axes = pyplot.subplots(1, 3)
    assert HistoryDisplay(HISTORY).plot(axes=axes).axes_[2] is axes[2]


def test_a_detector_that_was_not_fitted_has_no_history_to_draw():
    with pytest.raises(NotFittedError):
        HistoryDisplay.from_estimator(AVIDDetector())


def some_maps(n=14, side=6, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.where(np.arange(n) < n // 2, 1, -1)
    residual = np.exp(rng.normal(-2, 0.5, size=(n, side, side)))
    logits = rng.normal(3, 1.5, size=(n, side, side))
    residual[labels == -1, :2, :2] *= 3
    logits[labels == -1, 1:3, :2] -= 5
    return labels, residual.astype(np.float32), regularity(logits)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_plane_holds_the_rates_of_the_evidence_at_each_pair_of_thresholds(fusion):
    labels, residual, regular = some_maps()
    display = ThresholdPlaneDisplay.from_predictions(
        labels, residual, regular, fusion=fusion, balance=0.3, n_levels=9
    )
    assert display.fpr.shape == display.tpr.shape == (9, 9)
    logits = np.log(regular.astype(float)) - np.log1p(-regular.astype(float))
    for row, zeta in enumerate(display.zetas):
        for column, alpha in enumerate(display.alphas):
            e = evidence(residual, logits, alpha=alpha, zeta=zeta, fusion=fusion, balance=0.3)
            flagged = e.max(axis=(1, 2)) >= 0
            assert display.fpr[row, column] == flagged[labels == 1].mean()
            assert display.tpr[row, column] == flagged[labels == -1].mean()
    assert display.tpr[0, -1] == display.fpr[0, -1] == 0  # a threshold that nothing passes
    assert display.fpr[-1, 0] == 1


def test_a_tie_with_both_thresholds_is_found_as_eq_4_has_it():
    labels, residual, regular = some_maps()
    residual, regular = residual[:, 0, 0], regular[:, 0, 0]  # one figure a sample will do
    for alpha, zeta in zip(residual.tolist(), regular.tolist(), strict=True):
        display = ThresholdPlaneDisplay.from_predictions(
            labels, residual, regular, alpha=alpha, zeta=zeta, n_levels=2
        )
        flagged = (residual >= alpha) & (regular <= zeta)
        assert display.in_use == {
            "alpha": alpha,
            "zeta": zeta,
            "fpr": flagged[labels == 1].mean(),
            "tpr": flagged[labels == -1].mean(),
        }
        assert flagged.any()
        pyplot.close(display.figure_)


@pytest.mark.parametrize("value", ["balanced_accuracy", "tpr", "fpr"])
def test_colours_show_the_value_that_is_asked_for(value):
    labels, residual, regular = some_maps()
    display = ThresholdPlaneDisplay.from_predictions(labels, residual, regular, value=value)
    drawn = np.asarray(display.mesh_.get_array()).reshape(display.fpr.shape)
    oracle = {"tpr": display.tpr, "fpr": display.fpr}
    oracle["balanced_accuracy"] = np.mean([display.tpr, 1 - display.fpr], axis=0)
    np.testing.assert_allclose(drawn, oracle[value])
    assert display.mesh_.get_clim()[1] == 1
    assert display.ray_ is display.point_ is None
    corners = display.mesh_.get_coordinates()
    assert (corners[0, :-1, 0] < display.alphas).all()
    assert (corners[0, 1:, 0] > display.alphas).all()
    assert (corners[:-1, 0, 1] < display.zetas).all()
    assert (corners[1:, 0, 1] > display.zetas).all()


def test_the_ray_is_where_the_thresholds_move_together():
    labels, residual, regular = some_maps()
    display = ThresholdPlaneDisplay.from_predictions(
        labels, residual, regular, alpha=0.3, zeta=0.2
    )
    np.testing.assert_array_equal(display.point_.get_xydata(), [[0.3, 0.2]])
    alphas, zetas = display.ray_.get_data()
    for t in (-2.0, -0.5, 0.0, 1.0, 3.0):
        alpha, zeta = move_thresholds(0.3, 0.2, t)
        nearest = np.interp(np.log(alpha), np.log(alphas), np.log(zetas / (1 - zetas)))
        assert nearest == pytest.approx(np.log(zeta / (1 - zeta)), abs=1e-5)
    for values, (low, high) in (
        (alphas, display.ax_.get_xlim()),
        (zetas, display.ax_.get_ylim()),
    ):
        assert values.min() <= low < high <= values.max()  # from edge to edge


@pytest.mark.parametrize("alpha", [0.3, 1e-5, 50.0])
def test_numbers_below_the_plane_do_not_run_into_each_other(alpha):
    labels, residual, regular = some_maps()
    display = ThresholdPlaneDisplay.from_predictions(
        labels, residual, regular, alpha=alpha, zeta=0.2
    )
    display.figure_.canvas.draw()
    axis = display.ax_.xaxis
    low, high = display.ax_.get_xlim()
    numbers = sorted(
        (tick.label1.get_window_extent().extents[[0, 2]].tolist())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        if low <= tick.get_loc() <= high and tick.label1.get_text()
    )
    assert len(numbers) >= 3
    assert all(left[1] < right[0] for left, right in pairwise(numbers))


def test_numbers_beside_the_plane_are_plain():
    labels, residual, regular = some_maps()
    display = ThresholdPlaneDisplay.from_predictions(labels, residual, regular)
    display.figure_.canvas.draw()
    axis = display.ax_.yaxis
    low, high = display.ax_.get_ylim()
    ticks = [
        tick
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        if low <= tick.get_loc() <= high and tick.label1.get_text()
    ]
    assert {0.1, 0.5, 0.9} <= {round(tick.get_loc(), 9) for tick in ticks}
    assert all(float(tick.label1.get_text()) == round(tick.get_loc(), 9) for tick in ticks)


def test_thresholds_beyond_all_maps_are_in_the_picture():
    labels, residual, regular = some_maps()
    for alpha, zeta in ((1e-5, 1 - 1e-6), (50.0, 1e-9)):
        display = ThresholdPlaneDisplay.from_predictions(
            labels, residual, regular, alpha=alpha, zeta=zeta
        )
        (low, high), (bottom, top) = display.ax_.get_xlim(), display.ax_.get_ylim()
        assert low < alpha < high
        assert bottom < zeta < top


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(("residual", "regular"), [(0.0, 1.0), (1.0, 0.0), (0.5, 0.5)])
def test_maps_of_one_value_are_drawn(fusion, residual, regular):
    display = ThresholdPlaneDisplay.from_predictions(
        [1, -1], np.full((2, 3), residual), np.full((2, 3), regular), fusion=fusion
    )
    display.figure_.canvas.draw()
    assert np.isfinite([display.alphas, display.zetas]).all()
    assert (np.diff(display.alphas) > 0).all()
    assert (np.diff(display.zetas) > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y_true": [1, 1]}, "y_true must hold 1 (normal) and -1 (irregular), both. Got [1]."),
        ({"y_true": [0, 1]}, "y_true must hold 1 (normal) and -1 (irregular), both. Got [0, 1]."),
        (
            {"y_true": [1, -1, 1]},
            "y_true has the shape (3,), but must have (2,); give one label per sample.",
        ),
        (
            {"residual": np.ones((2, 4))},
            "residual has the shape (2, 4), but regularity (2, 3); give both maps of each sample.",
        ),
        ({"alpha": 0.2}, "alpha=0.2 and zeta=None: give both thresholds or none."),
        (
            {"alpha": 0.2, "zeta": 1},
            "alpha must be above 0 and zeta in (0, 1). Got 0.2 and 1.",
        ),
        ({"n_levels": 1}, "n_levels must be 2 or more. Got 1."),
        (
            {"fusion": "max"},
            "fusion must be one of 'min', 'mean', 'inpainter', 'detector'. Got 'max'.",
        ),
        (
            {"value": "f1"},
            "value must be one of 'balanced_accuracy', 'tpr', 'fpr'. Got 'f1'.",
        ),
    ],
)
def test_a_plane_that_cannot_be_drawn_is_refused(arguments, message):
    given = {"y_true": [1, -1], "residual": np.ones((2, 3)), "regularity": np.ones((2, 3)) / 2}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ThresholdPlaneDisplay.from_predictions(**{**given, **arguments})
    assert not pyplot.get_fignums()


def test_the_rules_of_the_plane_are_those_of_the_evidence():
    message = f"fusion must be one of {', '.join(map(repr, FUSIONS))}. Got 'max'."
    maps = np.ones((2, 3, 3)) / 2
    for look in (
        lambda: ThresholdPlaneDisplay.from_predictions([1, -1], maps, maps, fusion="max"),
        lambda: evidence(maps, maps, alpha=0.5, zeta=0.5, fusion="max"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            look()


# --- a fitted detector --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    """Return a detector, images some of which it finds irregular, and their labels."""
    rng = np.random.default_rng(0)
    X = rng.normal(100, 20, size=(40, 16, 16))
    detector = AVIDDetector(
        **nested(
            {
                "max_epochs": 1,
                "features": "pixels",
                "inpainter__width": 4,
                "detector__width": 4,
                "target_fpr": 0.5,
                "random_state": 0,
            }
        )
    ).fit(X)
    test = rng.normal(100, 20, size=(12, 16, 16))
    test[6:, 4:10, 4:10] += np.linspace(20, 150, 6)[:, None, None]
    return detector, test, np.repeat([1, -1], 6)


def test_images_are_looked_at_once_and_outlined_where_the_detector_segments(fitted, monkeypatch):
    detector, X, _ = fitted
    looks = []
    look = AVIDDetector.maps

    def counted(self, *args, **kwargs):
        looks.append(args)
        return look(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(AVIDDetector, "maps", counted)
        display = IrregularityDisplay.from_estimator(detector, X)
    assert len(looks) == 1
    assert 0 < display.mask.sum() < display.mask.size
    np.testing.assert_array_equal(display.mask, detector.segment(X))


def test_alarms_of_a_detector_are_its_predictions(fitted):
    detector, X, y = fitted
    display = ScoreOverTimeDisplay.from_estimator(detector, X, labels=y, groups=y, frame_rate=1)
    found = np.flatnonzero(detector.predict(X) == -1)
    assert 0 < len(found) < len(X)
    assert frames_under(display.alarms_) == found.tolist()
    drawn = display.line_.get_ydata()
    np.testing.assert_allclose(drawn[~np.isnan(drawn)], -detector.score_samples(X))


def test_the_curve_of_a_detector_is_that_of_its_scores(fitted):
    detector, X, y = fitted
    display = RocDisplay.from_estimator(detector, X, y)
    assert display.name == "AVIDDetector"
    assert display.eer == equal_error_rate(y, detector.score_samples(X))
    other = RocDisplay.from_estimator(detector, X, y, name="again", ax=display.ax_)
    assert other.name == "again"


@pytest.mark.parametrize("chain", [False, True])
def test_other_detectors_and_pipelines_have_pictures_too(chain):
    X = np.random.default_rng(0).normal(size=(30, 3))
    y = np.repeat([1, -1], 15)
    detector = IsolationForest(n_estimators=5, contamination=0.2, random_state=0)
    detector = (make_pipeline(StandardScaler(), detector) if chain else detector).fit(X)
    display = ScoreOverTimeDisplay.from_estimator(detector, X)
    assert frames_under(display.alarms_) == np.flatnonzero(detector.predict(X) == -1).tolist()
    area = roc_auc_score(y, detector.score_samples(X))
    assert RocDisplay.from_estimator(detector, X, y).roc_auc == pytest.approx(area)


def test_the_history_of_a_detector_is_drawn(fitted):
    detector, _, _ = fitted
    display = HistoryDisplay.from_estimator(detector)
    (row,) = detector.history_
    star = display.axes_[2].lines[3]
    np.testing.assert_array_equal(star.get_xydata(), [(1, row["valid_detector_auc"])])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_point_in_use_finds_what_the_detector_predicts(fitted, fusion):
    detector, X, y = fitted
    detector = copy.deepcopy(detector).set_params(fusion=fusion)
    display = ThresholdPlaneDisplay.from_estimator(detector, X, y, n_levels=5)
    found = detector.predict(X) == -1
    assert display.in_use == {
        "alpha": detector.alpha_,
        "zeta": detector.zeta_,
        "fpr": found[y == 1].mean(),
        "tpr": found[y == -1].mean(),
    }


def test_a_plane_does_not_know_min_area_and_says_so(fitted):
    detector, X, y = fitted
    message = (
        "estimator has min_area=3, which this plane does not know; "
        "set_params(postprocessing__min_area=0) shows its thresholds without."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ThresholdPlaneDisplay.from_estimator(
            copy.deepcopy(detector).set_params(postprocessing__min_area=3), X, y
        )


# --- how they look ----------------------------------------------------------------------------


def draw_scores(figure=None):
    t = np.arange(90)
    labels = np.where((t > 20) & (t < 32) | (t > 70), -1, 1)
    scores = 2 + np.sin(t / 5) - 2.5 * (labels == -1) * (1 + np.cos(t)) / 2
    return ScoreOverTimeDisplay.from_predictions(
        scores,
        threshold=0.4,
        labels=labels,
        groups=t // 50,
        frame_rate=10,
        ax=figure and figure.subplots(),
    )


def draw_roc(figure=None):
    ax, y = figure and figure.subplots(), np.repeat([1, -1], 40)
    for name, apart in (("I alone", 0.4), ("D alone", 0.8), ("both", 1.5)):
        scores = apart * (y == 1) + np.cos(3.0 * np.arange(80) ** 1.1)
        display = RocDisplay.from_predictions(y, scores, name=name, ax=ax)
        ax = display.ax_
    return display


def draw_history(figure=None):
    return HistoryDisplay(HISTORY, checkpoint=CHECKPOINT).plot(axes=figure and figure.subplots(3))


def draw_plane(figure=None):
    labels, residual, regular = some_maps(n=60, seed=1)
    return ThresholdPlaneDisplay.from_predictions(
        labels,
        residual,
        regular,
        alpha=0.4,
        zeta=0.4,
        n_levels=30,
        ax=figure and figure.subplots(),
    )


def draw_images(figure=None):
    # Even, as releases of matplotlib place the edges of pixels in their own ways.
    images = np.linspace([0.2, 0.4], [0.7, 1.0], 12)[:, :, None] + np.zeros(10)
    images = images.swapaxes(0, 1)
    ground_truth = np.zeros(images.shape, dtype=bool)
    ground_truth[1, 3:6, 3:6] = True
    return draw_box(images, ground_truth=ground_truth, axes=figure and figure.subplots(2, 7))


# How each is drawn, its size in inches, and how far matplotlib 3.9 and 3.11 may be apart: a line
# or a marker that is missing is about 5, a threshold elsewhere 20.
DRAWN = {
    "scores": (draw_scores, (4, 2), 4),
    "roc": (draw_roc, (3, 3), 4),
    "history": (draw_history, (3, 3), 4),
    "plane": (draw_plane, (3.5, 3), 4),
    "images": (draw_images, (6, 2.4), 6.5),
}
STYLES = {"light": "default", "dark": "dark_background"}
PICTURES = Path(__file__).parent / "data" / "pictures"


@pytest.fixture(params=STYLES)
def style(request):
    with matplotlib.style.context(["default", STYLES[request.param]]):
        yield request.param


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_look_as_they_did(name, style, tmp_path):
    # Words are left out: fonts differ from machine to machine. RENEW_PICTURES=1 draws the
    # pictures to compare with anew: look at them.
    draw, size, apart = DRAWN[name]
    figure = pyplot.figure(figsize=size, dpi=60)
    draw(figure)
    for words in [*figure.findobj(matplotlib.text.Text), *figure.findobj(Legend)]:
        words.set_visible(False)
    for ax in figure.findobj(matplotlib.axes.Axes):
        ax.tick_params(length=0, which="both")
    expected = PICTURES / f"{name}-{style}.png"
    drawn = expected if os.environ.get("RENEW_PICTURES") else tmp_path / expected.name
    figure.savefig(drawn, metadata={"Software": None})
    assert compare_images(expected, drawn, tol=apart) is None


def grey(colour):
    return matplotlib.colors.to_rgb(colour) @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("name", ["scores", "roc", "history"])
def test_lines_and_words_stand_out_from_the_background_in_grey(name, style):
    figure = pyplot.figure(figsize=(8, 8), layout="constrained")
    DRAWN[name][0](figure)
    figure.canvas.draw()
    for ax in figure.axes:
        for line in ax.lines:
            assert abs(grey(line.get_color()) - grey(ax.get_facecolor())) > 0.25
        for words in ax.findobj(matplotlib.text.Text):
            assert abs(grey(words.get_color()) - grey(figure.get_facecolor())) > 0.9


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_is_cut_off_from_a_new_figure(name):
    figure = DRAWN[name][0]().figure_
    figure.canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0) > -0.02  # inches
    assert max(drawn.x1 - width, drawn.y1 - height) < 0.02


@pytest.mark.parametrize("name", DRAWN)
def test_drawing_leaves_pyplot_as_it_was(name, monkeypatch):
    monkeypatch.setattr(pyplot, "show", None)  # would fail if it were called
    figure = pyplot.figure()
    before = dict(matplotlib.rcParams)
    display = DRAWN[name][0](figure)
    assert display.figure_ is figure
    assert pyplot.get_fignums() == [figure.number]
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    "draw",
    [
        lambda: ScoreOverTimeDisplay.from_predictions([1.0]),
        lambda: RocDisplay.from_predictions([1, -1], [1, 0]),
        lambda: HistoryDisplay(HISTORY).plot(),
        lambda: ThresholdPlaneDisplay.from_predictions([1, -1], [1, 1], [1, 1]),
    ],
)
def test_without_matplotlib_each_picture_names_the_extra(draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = "Pictures need matplotlib; pip install 'skavid[plot]'."
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        draw()
