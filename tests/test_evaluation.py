"""Metrics of `skavid evaluate` and the report, and the frames that they count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score

from skavid.report import evaluation

LABELS = np.array([1, -1, 1, -1, 1, -1, 1, -1])
CLIPS = np.repeat([0, 1], 4)
CORNER = np.zeros((4, 4), dtype=bool)
CORNER[:2, :2] = True


def draw_masks(labels, clips_with_masks):
    """Return masks of the irregular frames of some clips; the other clips have no masks."""
    has_masks = np.isin(CLIPS, clips_with_masks)
    return (labels == -1)[:, None, None] & has_masks[:, None, None] & CORNER, has_masks


def evidence_of(labels):
    return np.where((labels == -1)[:, None, None] & CORNER, 1.0, -1.0).astype(np.float32)


def measure(*, masks=None, has_masks=None, ignored=None, labels=LABELS, clips=CLIPS):
    return evaluation.compute_metrics(
        np.where(labels == 1, 1.0, -1.0), evidence_of(labels), labels, masks, clips, ignored,
        "frame", has_masks=has_masks,
    )  # fmt: skip


def test_only_frames_with_masks_count_for_pixel_level_metrics():
    masks, has_masks = draw_masks(LABELS, [1])
    found = measure(masks=masks, has_masks=has_masks)
    assert (found["auc"], found["pixel_eer"], found["pixel_auc"], found["aupro"]) == (1, 0, 1, 1)
    assert found["irregular"] == 4
    # Without has_masks the frames without masks would be false alarms.
    assert measure(masks=masks)["pixel_eer"] > 0


def test_ignored_pixels_change_only_the_labels_of_frames_with_masks():
    masks, has_masks = draw_masks(LABELS, [1])
    ignored = np.zeros((4, 4), dtype=bool)
    ignored[2:] = True
    found = measure(masks=masks, has_masks=has_masks, ignored=ignored)
    assert (found["auc"], found["irregular"]) == (1, 4)
    ignored[:2] = True
    ignored[0, 3] = False
    masks[7, 0, 3] = True  # the only irregular pixel left in the second clip
    found = measure(masks=masks, has_masks=has_masks, ignored=ignored)
    assert found["irregular"] == 3


def test_pixel_level_metrics_need_frames_of_both_kinds_with_masks():
    labels = np.where(CLIPS == 0, 1, -1)
    masks, has_masks = draw_masks(labels, [1])
    found = measure(masks=masks, has_masks=has_masks, labels=labels)
    assert "pixel_eer" not in found
    assert found["auc"] == 1


def test_the_mean_over_clips_takes_the_clips_with_both_kinds():
    labels = np.array([1, 1, 1, 1, 1, -1, 1, -1, -1, -1])
    clips = np.repeat([0, 1, 2], [4, 4, 2])
    scores = np.array([0, 0, 0, 0, 1, 2, 4, 3, -9, -9.0])
    found = evaluation.compute_metrics(
        scores, np.zeros((10, 4, 4), np.float32), labels, None, clips, None, "frame"
    )
    assert found["clip_auc"] == 0.5  # of four pairs in the second clip, two are in order
    assert (found["clips"], found["mixed_clips"]) == (3, 1)
    text = evaluation.format_metrics(found, "frame")
    assert "AUC of frames, mean over the 1 of 3 clips with both kinds" in text
    one_kind = evaluation.compute_metrics(
        scores[:8], np.zeros((8, 4, 4), np.float32), np.repeat([1, -1], 4), None, clips[:8], None,
        "frame",
    )  # fmt: skip
    assert "clip_auc" not in one_kind


def test_more_false_alarms_than_the_calibration_lets_expect_are_told():
    labels = np.repeat([1, -1], [50, 5])
    scores = np.where(labels == 1, 1.0, -1.0)
    scores[:12] = -0.5  # of normal images
    found = evaluation.compute_metrics(
        scores, np.zeros((55, 4, 4), np.float32), labels, None, np.zeros(55, int), None, "image"
    )
    told = "The calibration lets expect a false alarm rate of at most 0.023"
    assert told in evaluation.format_metrics(found, "image", 0.023)
    assert "lets expect" not in evaluation.format_metrics(found, "image", 0.2)  # P(>= 12) is 0.3
    assert "lets expect" not in evaluation.format_metrics(found, "image")


def test_aupro_of_many_pixels_uses_quantiles_as_thresholds(monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.repeat([1, -1], 4)
    masks = (labels == -1)[:, None, None] & np.ones((16, 16), bool)
    masks[:, 8:] = False
    evidence = (rng.normal(size=masks.shape) + masks).astype(np.float32)
    given = (-evidence.max(axis=(1, 2)), evidence, labels, masks, CLIPS, None, "image")
    exact = evaluation.compute_metrics(*given)
    monkeypatch.setattr(evaluation, "EXACT_PIXELS", masks.size - 1)
    fewer = evaluation.compute_metrics(*given)
    assert (exact["aupro_thresholds"], fewer["aupro_thresholds"]) == (None, evaluation.QUANTILES)
    assert fewer["aupro"] == pytest.approx(exact["aupro"], abs=0.01)
    assert fewer["aupro"] != exact["aupro"]


SCORES = st.lists(st.integers(-3, 3), min_size=4, max_size=12)


@given(scores=SCORES, data=st.data())
def test_the_best_cut_is_as_good_as_any_other_by_scikit_learn(scores, data):
    labels = data.draw(
        st.lists(st.sampled_from([1, -1]), min_size=len(scores), max_size=len(scores)).filter(
            lambda one: len(set(one)) == 2
        )
    )
    scores, labels = np.array(scores, float), np.array(labels)
    for criterion, measure in (("f1", f1_score), ("balanced-accuracy", balanced_accuracy_score)):
        cut, value = evaluation.best_cut(scores, labels, criterion)
        every = [measure(labels == -1, scores <= one) for one in np.unique(scores)]
        assert value == pytest.approx(max(every))
        assert measure(labels == -1, scores <= cut) == pytest.approx(value)
        assert cut not in scores


@pytest.mark.filterwarnings("ignore:Precision is ill-defined")
@given(flags=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_decisions_are_those_of_scikit_learn_with_irregular_as_positive(flags):
    flagged, irregular = np.array(flags).T
    found = evaluation.decisions(flagged, irregular)
    counts = found["confusion"]
    assert counts["true_positives"] == sum(a and b for a, b in flags)
    assert counts["false_positives"] == sum(a and not b for a, b in flags)
    assert counts["false_negatives"] == sum(b and not a for a, b in flags)
    assert sum(counts.values()) == len(flags)
    for name, measure in (("f1", f1_score), ("precision", precision_score)):
        expected = measure(irregular, flagged, zero_division=np.nan)
        assert found[name] == (None if np.isnan(expected) else pytest.approx(expected))


def test_each_kind_is_compared_with_all_normal_images():
    kinds = ["good", "good", "dot", "dot", "cut"]
    scores = np.array([1.0, -0.5, -1.0, 2.0, -2.0])
    labels = np.array([1, 1, -1, -1, -1])
    found = evaluation.compute_metrics(
        scores, None, labels, None, np.zeros(5), None, "image", kinds=kinds
    )["kinds"]
    assert [one["kind"] for one in found] == ["good", "dot", "cut"]
    assert found[0] == {"kind": "good", "images": 2, "irregular": 0, "flagged": 1}
    assert (found[1]["recall"], found[1]["precision"], found[1]["auc"]) == (0.5, 0.5, 0.5)
    assert (found[2]["recall"], found[2]["precision"], found[2]["auc"]) == (1, 0.5, 1)
    assert found[2]["f1"] == pytest.approx(2 / 3)


def test_labels_0_and_1_are_refused_with_what_to_write(tmp_path):
    (tmp_path / "labels.txt").write_text("0\n1\n0\n")
    with pytest.raises(ValueError, match=r"holds 0 and 1, .* write normal and irregular"):
        evaluation.read_labels(tmp_path / "labels.txt")


NAMES = ["good/1.png", "good/2.png", "crack/3.png", "crack/1.png"]
TRUE = {"good/1.png": 1, "good/2.png": 1, "crack/3.png": -1, "crack/1.png": -1}


def read_named(path, text, names=NAMES):
    path.write_text(text)
    return evaluation.read_labels(path, names).tolist()


@given(
    order=st.permutations(NAMES),
    separator=st.sampled_from([",", ";", "\t", "|", " ", "  ", " , "]),
    header=st.sampled_from(["", "image{}label\n", "file name{}class\n"]),
    words=st.sampled_from([{1: "normal", -1: "irregular"}, {1: "1", -1: "-1"}]),
    before=st.sampled_from(["", "./", "parts/test/", "parts\\test\\"]),
)
def test_labels_are_found_by_name_in_any_order_and_with_any_separator(
    tmp_path_factory, order, separator, header, words, before
):
    lines = [f"{before}{name}{separator}{words[TRUE[name]]}" for name in order]
    path = tmp_path_factory.getbasetemp() / "labels.csv"
    text = header.format(separator) + "\n\n".join(lines)
    assert read_named(path, text) == list(TRUE.values())


def test_folders_may_be_left_out_of_names_that_are_clear(tmp_path):
    text = "2.png,normal\ngood/1.png,normal\n3.png,irregular\ncrack/1.png,irregular\n"
    assert read_named(tmp_path / "labels.csv", text) == list(TRUE.values())


def test_names_with_spaces_and_quotes_are_read(tmp_path):
    names = ["a part.png", "b, c.png"]
    assert read_named(tmp_path / "1", "a part.png normal\nb, c.png irregular", names) == [1, -1]
    assert read_named(tmp_path / "2", 'a part.png,1\n"b, c.png",-1\n', names) == [1, -1]


def test_labels_of_no_image_are_told(tmp_path):
    text = "".join(f"{name},{label}\n" for name, label in [*TRUE.items(), ("old.png", 1)])
    with pytest.warns(UserWarning, match=r"1 label in .* is of none of .*, such as that of old"):
        assert read_named(tmp_path / "labels.csv", text) == list(TRUE.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("good/1.png,1\nx.png,-1", "has no label of 3 of 4 images, such as good/2.png; .* x.png"),
        ("1.png,normal", "2 images are called so, such as good/1.png and crack/1.png"),
        ("2.png,1\n2.png,-1", "two different labels of 2.png"),
        ("2.png,1\ngood/2.png,-1", "two different labels of good/2.png"),
        ("2.png,0\n3.png,1", "holds 0 and 1, whose meaning differs"),
        ("2.png,normal\n3.png,odd", "with the name of each image. Got 'odd'"),
        ("2.png,normal,7\n3.png,normal,7", "Got '2.png,normal,7'"),
        ("normal\nodd\n", "must hold one label per line, .* Got 'odd'"),
    ],
)
def test_wrong_labels_by_name_are_refused_with_what_was_found(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_named(tmp_path / "labels.csv", text)


def test_frames_without_names_need_labels_in_order(tmp_path):
    assert read_named(tmp_path / "labels.txt", "normal\n-1\n", None) == [1, -1]
    with pytest.raises(ValueError, match="frames of videos and arrays have none"):
        read_named(tmp_path / "labels.csv", "a.png,normal\n", None)
    with pytest.raises(ValueError, match=r"in the order of the frames\. Got 'clip,frame,label'"):
        read_named(tmp_path / "labels.csv", "clip,frame,label\na,1,normal\n", None)
