"""Reports: the content of the file, hostile input, and the page in a browser."""

from __future__ import annotations

import base64
import errno
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
import sys
import tomllib
import tracemalloc
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import logit
from sklearn.exceptions import NotFittedError
from sklearn.metrics import f1_score, roc_auc_score

from skavid import AVIDDetector
from skavid.components import nested
from skavid.core.calibration import move_thresholds
from skavid.metrics import (
    aupro_score,
    clip_auc_score,
    equal_error_rate,
    pixel_level_auc_score,
    pixel_level_equal_error_rate,
)
from skavid.report import figures, write_report
from skavid.report import page as report
from skavid.report.embedding import STEP

Figure = pytest.importorskip("matplotlib.figure").Figure
Image = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(0)
HOSTILE = [
    "<img src=x onerror=alert(1)>.png",
    "\"&'.png",
    "</script><script>alert(2)</script>",
    "--><script>alert(3)</script><!--",
    "two\nlines\r.png",
    "right\u202egnp.exe",
    "javascript:alert(4)",
    "$\\frac{1}{",
    "broken\udcff.png",
    "\u2028\u2029\x00\x1b[31m",
    "${alert(5)}`",
    "\u6f22\u5b57 \u05e9\u05dc\u05d5\u05dd",
]


def pictures(n):
    """Return noise with a bright square in every second image, and the masks of the squares."""
    images = RNG.normal(100, 15, size=(n, 16, 16))
    masks = np.zeros(images.shape, bool)
    masks[::2, 4:9, 6:10] = True
    images[masks] += 120
    return images.astype(np.float32), masks


@pytest.fixture(scope="module")
def detector():
    images = RNG.normal(100, 15, size=(40, 16, 16)).astype(np.float32)
    tiny = {"features": "pixels", "inpainter__width": 4, "detector__width": 4, "max_epochs": 1}
    return AVIDDetector(**nested(dict(**tiny, value_range=(0, 255), random_state=0))).fit(images)


@pytest.fixture
def drawn_once(monkeypatch):
    """Draw each figure once per session: this takes most of the time of a small report."""

    def figure(draw, label, *rest, **options):
        if label not in FIGURES:
            FIGURES[label] = draw_figure(draw, label, *rest, **options)
        return FIGURES[label]

    draw_figure = figures.draw_svg
    monkeypatch.setattr(figures, "draw_svg", figure)


FIGURES = {}
X, MASKS = pictures(24)
Y = np.where(MASKS.any(axis=(1, 2)), -1, 1)
CLIPS = np.repeat(["door", "yard", "gate"], 8)


KINDS = np.where(np.arange(24) % 2, "good", np.where(np.arange(24) % 4, "dot", "cut"))


def shown_rows(detector):
    """Return the order of the page, the slow way: misses, false alarms, detections, others."""
    scores = detector.score_samples(X)
    by_score = sorted(range(len(X)), key=lambda row: scores[row])
    hits = [row for row in by_score if Y[row] == -1 and scores[row] <= 0]
    misses = [row for row in reversed(by_score) if Y[row] == -1 and scores[row] > 0]
    alarms = [row for row in by_score if Y[row] == 1 and scores[row] <= 0]
    return misses + alarms + hits + [r for r in by_score if Y[r] == 1 and scores[r] > 0]


class Page(HTMLParser):
    """Elements with their attributes, text by element, scripts by type."""

    VOID = ("meta", "img", "input", "br")

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.source = path.read_bytes().decode()
        self.elements, self.open, self.texts, self.scripts = [], [], [], []
        self.feed(self.source)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):  # of SVG
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append((self.elements[-1][1].get("type"), data))
        elif self.open:
            self.texts.append((self.open[-1], data))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def data(self):
        (text,) = [text for kind, text in self.scripts if kind == "application/json"]
        return json.loads(text)

    def words(self):
        return re.sub(r"\s+", " ", " ".join(text for _, text in self.texts))


def written(detector, tmp_path, *args, **given):
    path = tmp_path / "report.html"
    assert write_report(detector, path, *args, **given) == path.stat().st_size
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    return Page(path)


def unpack(image, network):
    """Unpack an embedded margin in the slow, obvious way."""
    packed = zlib.decompress(base64.b64decode(image[network]))
    half = len(packed) // 2
    values, last = [], 0
    for low, high in zip(packed[:half], packed[half:], strict=True):
        last = (last + low + 256 * high + 2**15) % 2**16 - 2**15
        values.append(last)
    return np.array(values).reshape(image["height"], image["width"])


# --- content ----------------------------------------------------------------------------------


def test_nothing_is_loaded_and_only_the_own_script_may_run(detector, tmp_path):
    page = written(detector, tmp_path, X, masks=MASKS, groups=CLIPS)
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert attributes.get(name, "data:").startswith(
                ("data:image/png;base64,", "#", "data:")
            )
        assert not any(name.startswith("on") for name in attributes)
    assert not page.all("link")
    assert not re.search(r"@import|url\((?!#)", page.source)
    (policy,) = [one["content"] for one in page.all("meta") if "http-equiv" in one]
    (script,) = [text for kind, text in page.scripts if kind is None]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def test_the_worst_images_come_first_with_names_scores_and_findings(detector, tmp_path):
    names = [f"part {row}" for row in range(len(X))]
    page = written(detector, tmp_path, X, names=names, n_worst=5, title="Line 4")
    scores, found = detector.score_samples(X), detector.find(X)
    worst = np.argsort(scores, kind="stable")[:5]
    shown = [text for tag, text in page.texts if tag == "bdi"]
    assert shown == ["Line 4", *(names[row] for row in worst)]
    words = page.words()
    for row in worst:
        assert f"score {scores[row]:.3g}" in words
        one = found[row][0]
        assert (
            f"rows {one.box[0]} to {one.box[2] - 1}, columns {one.box[1]} to {one.box[3] - 1}: "
        ) in words
    assert len(page.data()["images"]) == len(page.all("canvas")) == 5


def test_misses_and_false_alarms_come_first_where_there_is_ground_truth(
    detector, tmp_path, drawn_once
):
    middle = np.sort(-detector.score_samples(X))[12]
    twin = detector.with_thresholds(*move_thresholds(detector.alpha_, detector.zeta_, middle))
    names = [f"part {row}" for row in range(len(X))]
    given = Y.copy()
    given[[0, 1]] = given[[1, 0]]  # so that there is an error of either kind
    page = written(twin, tmp_path, X, y=given, names=names, n_worst=24)
    shown = [int(text.split()[1]) for tag, text in page.texts if tag == "bdi" and "part" in text]
    scores = twin.score_samples(X)
    is_error = (scores <= 0) != (given == -1)
    n = is_error.sum()
    assert n >= 1
    assert is_error[shown[:n]].all()
    outcomes = [text for tag, text in page.texts if tag == "p" and text in
                ("miss", "false alarm", "detection", "correctly normal")]  # fmt: skip
    expected = {(-1, True): "detection", (-1, False): "miss", (1, True): "false alarm",
                (1, False): "correctly normal"}  # fmt: skip
    assert outcomes == [expected[given[row], bool(scores[row] <= 0)] for row in shown]
    words = page.words()
    n_missed = int(((given == -1) & (scores > 0)).sum())
    assert f"Missed: {n_missed} of 12 irregular images; all are shown" in words
    assert f"F1 {f1_score(given == -1, scores <= 0):.3f} , precision" in words


def test_each_outcome_is_shown_with_its_number_however_many_are_missed(
    detector, tmp_path, drawn_once
):
    scores = detector.score_samples(X)
    order = np.argsort(scores)
    middle = -scores[order[5:7]].mean()  # six are flagged
    twin = detector.with_thresholds(*move_thresholds(detector.alpha_, detector.zeta_, middle))
    y = np.ones(24, int)
    y[order[:3]] = y[order[10:20]] = -1
    page = written(twin, tmp_path, X, y=y, n_worst=6)
    headings = [text for tag, text in page.texts if tag == "h3" and "shown" in text]
    assert headings == [
        "Missed: 10 of 13 irregular images; the 2 with the highest scores are shown",
        "False alarms: 3 of 11 normal images; the 2 with the lowest scores are shown",
        "Detected: 3 of 13 irregular images; the one with the lowest score is shown",
        "Correctly normal: 8 of 11 normal images; the one with the lowest score is shown",
    ]
    outcomes = [text for tag, text in page.texts if text in sum(report.OUTCOMES, ())]
    assert outcomes == ["miss"] * 2 + ["false alarm"] * 2 + ["detection", "correctly normal"]


def test_images_that_are_irregular_as_a_whole_say_why(tmp_path, drawn_once):
    images = RNG.integers(90, 160, (22, 32, 32)).astype(np.uint8)
    detector = AVIDDetector(max_epochs=1, random_state=0).fit(images[:20])
    new = np.stack([images[20], 0 * images[0], 0 * images[0]])
    page = written(detector, tmp_path, new, groups=[0, 0, 0], n_worst=2)
    words = page.words()
    assert words.count("unlike the training frames as a whole: blank or covered") == 2
    assert "frames look unlike the training frames as a whole: 2 frames: blank or cov" in words
    facts = [one["facts"] for one in page.data()["strip"]["frames"]]
    assert ["blank or covered" in one for one in facts] == [False, True, True]


def test_positions_and_proportions_are_those_of_the_original(detector, tmp_path, drawn_once):
    boxes = np.tile([100, 10, 64, 32], (24, 1))  # 4 times as wide, 2 times as high
    page = written(detector, tmp_path, X, boxes=boxes, n_worst=1)
    row = np.argmin(detector.score_samples(X))
    one = detector.find(X)[row][0]
    top, left, bottom, right = one.box
    words = page.words()
    assert (
        f"rows {10 + 2 * top} to {9 + 2 * bottom}, columns {100 + 4 * left} to "
        f"{99 + 4 * right}: {8 * one.area} pixel"
    ) in words
    assert "in pixels of the original" in words
    styles = {one["style"] for one in page.all("img") if "style" in one}
    assert styles == {"aspect-ratio: 2.0"}
    assert decoded(first_picture(page)).shape[:2] == (16, 32)  # of 16 x 16
    assert page.data()["images"][0]["areaFactor"] == 8


def test_each_kind_has_a_row_and_the_sliders_say_which_way_is_stricter(
    detector, tmp_path, drawn_once
):
    page = written(detector, tmp_path, X, y=Y, kinds=KINDS)
    rows = [int(one["data-kind"]) for one in page.all("tr") if "data-kind" in one]
    assert rows == [0, 1, 2]
    assert page.data()["all"]["kinds"] == [["cut", "good", "dot"].index(kind) for kind in KINDS]
    words = page.words()
    assert "\u2190 stricter: flags more flags fewer \u2192" in words  # alpha
    assert "\u2190 flags fewer stricter: flags more \u2192" in words  # zeta
    scores = page.data()["all"]["scores"]
    np.testing.assert_allclose(scores, detector.score_samples(X), rtol=1e-5)


def test_metrics_are_those_of_skavid_metrics_with_their_protocol(detector, tmp_path):
    page = written(detector, tmp_path, X, masks=MASKS, groups=CLIPS)
    scores, evidence = detector.score_samples(X), detector.maps(X).evidence
    rule = {"rule": "pami2014", "overlap": 0.4}
    expected = [
        roc_auc_score(Y, scores),
        equal_error_rate(Y, scores),
        clip_auc_score(Y, scores, CLIPS),
        pixel_level_auc_score(MASKS, evidence, **rule),
        pixel_level_equal_error_rate(MASKS, evidence, **rule),
        aupro_score(MASKS, evidence, max_fpr=0.3),
    ]
    assert [float(one["value"]) for one in page.all("data")] == expected
    words = page.words()
    assert (
        "an irregular frame is detected if at least 40 % of its irregular pixels are flagged"
        in words
    )
    assert "over the 3 of 3 clips that hold both normal and irregular frames" in words
    alarms = detector.predict(X) == -1
    assert f"false alarms among the normal frames {alarms[Y == 1].sum()} of 12" in words
    assert f"detections among the irregular frames {alarms[Y == -1].sum()} of 12" in words


def test_ignored_pixels_do_not_count_in_any_metric(detector, tmp_path, drawn_once):
    ignored = np.zeros((16, 16), bool)
    ignored[:12, :12] = True  # all of the squares
    masks = MASKS.copy()
    masks[:4, 14:, 14:] = True
    twin = detector.with_thresholds(0.2, 0.4).set_params(ignore_mask=ignored)
    y = np.where(masks.any(axis=(1, 2)), -1, 1)
    page = written(twin, tmp_path, X, y=y, masks=masks)
    labels = np.where(np.arange(24) < 4, -1, 1)
    evidence = twin.maps(X).evidence
    expected = [
        roc_auc_score(labels, twin.score_samples(X)),
        equal_error_rate(labels, twin.score_samples(X)),
        pixel_level_auc_score(masks, evidence, overlap=0.4, ignore_mask=ignored),
        pixel_level_equal_error_rate(masks, evidence, overlap=0.4, ignore_mask=ignored),
        aupro_score(masks, evidence, max_fpr=0.3, ignore_mask=ignored),
    ]
    assert [float(one["value"]) for one in page.all("data")] == expected
    assert "Ignored pixels do not count." in page.words()
    words = "24 images of 16 x 16 pixels; according to the masks, 4 of them are irregular"
    assert words in page.words()


def test_overlays_without_a_script_outline_the_ground_truth(detector, tmp_path, drawn_once):
    page = written(detector, tmp_path, X, masks=MASKS)
    overlays = [one["src"] for one in page.all("img") if "static" in one.get("class", "")]
    blue, edge = np.array([0, 208, 255, 255]), np.zeros((16, 16), bool)
    edge[4:9, 6:10] = True
    edge[5:8, 7:9] = False
    outlined = []
    for address in overlays:
        drawn = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
        is_blue = (np.asarray(drawn) == blue).all(axis=2)
        assert not is_blue.any() or (is_blue == edge).all()
        outlined.append(is_blue.any())
    labels = [card["data-label"] for card in page.all("article")]
    assert set(labels) == {"irregular", "normal"}
    assert outlined == [label == "irregular" for label in labels]


def test_labels_without_masks_give_image_level_metrics(detector, tmp_path, drawn_once):
    page = written(detector, tmp_path, X, y=Y)
    scores = detector.score_samples(X)
    expected = [roc_auc_score(Y, scores), equal_error_rate(Y, scores)]
    assert [float(one["value"]) for one in page.all("data")] == expected


def test_without_labels_or_with_one_kind_alarms_are_counted(detector, tmp_path, drawn_once):
    page = written(detector, tmp_path, X)
    assert not page.all("data")
    assert "No ground truth was given, so no metrics were computed." in page.words()
    n_alarms = (detector.predict(X) == -1).sum()
    assert f"images found irregular {n_alarms} of 24" in page.words()
    page = written(detector, tmp_path, X[1::2], y=Y[1::2])
    assert not page.all("data")
    assert "According to the ground truth, all images are normal" in page.words()


def test_far_more_false_alarms_than_expected_are_explained(detector, tmp_path, drawn_once):
    said = "the normal images here differ from those of the training"
    found = detector.calibrate(X, target_fpr=0.1)
    for alpha, zeta, is_told in ((1e-6, 1 - 1e-6, True), (1e6, 1e-6, False)):
        changed = detector.with_thresholds(alpha, zeta, calibration=found)
        page = written(changed, tmp_path, X, y=np.ones(len(X)))
        assert (said in page.words()) == is_told


def test_images_of_clips_are_called_frames(detector, tmp_path, drawn_once):
    twin = detector.with_thresholds(0.2, 0.4).set_params(zeta="auto")
    twin.calibration_ = {"n_images": 30, "n_clips": 3, "fpr_bound": None, "clip_risk": 0.25}
    mixed = written(twin, tmp_path, X, masks=MASKS, groups=CLIPS).words()
    alike = written(twin, tmp_path, X[1::2], y=Y[1::2], groups=CLIPS[1::2]).words()
    assert "24 frames of 16 x 16 pixels in" in mixed
    assert "A frame is irregular if its predicted mask is not empty." in mixed
    assert "According to the ground truth, all frames are normal" in alike
    for words in mixed, alike:
        # The detector was trained on images, not on stacked frames, and the page says so.
        assert words.count("image") == 2
        assert "Irregular frames found by an AVID anomaly detector." in words
        assert "normal images of 16 x 16 pixels (width x height) with 1 channel, inten" in words


def test_figures_are_a_histogram_or_scores_over_time_a_roc_curve_and_the_training(
    detector, tmp_path
):
    def labels(page):
        return [one["aria-label"] for one in page.all("svg")]

    assert labels(written(detector, tmp_path, X)) == [
        "histogram of the scores", "history of the training",
    ]  # fmt: skip
    page = written(detector, tmp_path, X, y=Y, groups=CLIPS)
    assert labels(page) == ["scores over time", "ROC curve", "history of the training"]


@given(st.lists(st.floats(-50, 50, width=32, allow_subnormal=False), min_size=1, max_size=30))
def test_bars_of_the_histogram_right_of_the_threshold_are_the_alarms(scores):
    scores, threshold = np.array(scores), float(np.nextafter(0, 1))
    ax = Figure().subplots()
    figures.draw_histogram(ax, scores, None, threshold)
    right = [bar for bar in ax.patches if bar.get_x() + bar.get_width() / 2 > 0]
    assert sum(bar.get_height() for bar in ax.patches) == len(scores)
    assert sum(bar.get_height() for bar in right) == (scores < threshold).sum()


def test_the_header_lists_parameters_thresholds_and_versions(detector, tmp_path):
    words = written(detector, tmp_path, X).words()
    assert (
        "40 normal images of 16 x 16 pixels (width x height) with 1 channel, intensities from 0 "
        "to 255; 4 of them were held out"
    ) in words
    assert "inpainter__width=4" in words
    assert "batch_size" not in words  # as by default
    n = detector.calibration_["n_images"]
    assert (
        f"calibrated on {n} normal images held out of the training, for target_fpr=0.01" in words
    )
    assert f"alpha {detector.alpha_:.4g} on the residual" in words
    assert re.search(r"by skavid \S+, torch \S+, scikit-learn \S+, numpy \S+, Python 3", words)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "Both were given, not calibrated."),
        ({"ignore_mask": np.eye(16, dtype=bool)}, "ignore_mask=a mask of 6.25 % of the pixels"),
        ({"contamination": 0.1}, "so that a share of 0.1 of the training images was found"),
    ],
)
def test_the_header_describes_given_parameters(detector, tmp_path, drawn_once, parameters, words):
    twin = detector.with_thresholds(0.2, 0.4).set_params(**parameters)
    assert words in written(twin, tmp_path, X).words()


def test_thresholds_calibrated_on_clips_state_the_risk_of_a_new_clip(
    detector, tmp_path, drawn_once
):
    twin = detector.with_thresholds(0.2, 0.4).set_params(zeta="auto")
    twin.calibration_ = {"n_images": 30, "n_clips": 3, "fpr_bound": None, "clip_risk": 0.25}
    words = written(twin, tmp_path, X).words()
    assert (
        "zeta was calibrated on 30 normal frames of 3 clips held out of the training, for "
        "target_fpr=0.01 in each clip; the probability that a new clip exceeds this rate is at "
        "most 0.25."
    ) in words


@pytest.mark.parametrize(("n_clips", "on"), [(None, "images"), (3, "frames of 3 clips")])
def test_thresholds_from_calibrate_are_distinguished_from_given_ones(
    detector, tmp_path, drawn_once, n_clips, on
):
    twin = detector.with_thresholds(0.2, 0.4)
    # The state after `skavid calibrate`.
    twin.set_params(alpha="auto", zeta="auto", target_fpr=0.05)
    twin.extra_ = {"calibrated_on": ["normal.mp4"]}
    bound, risk = (0.04, None) if n_clips is None else (None, 0.25)
    twin.calibration_ = {
        "n_images": 30, "n_clips": n_clips, "fpr_bound": bound, "clip_risk": risk,
    }  # fmt: skip
    words = written(twin, tmp_path, X).words()
    assert f"Both were calibrated on 30 normal {on} given for calibration, for" in words
    assert "held out of the training" not in words
    assert "target_fpr=0.05" in words
    assert "alpha=" not in words
    assert "zeta=" not in words


@pytest.mark.parametrize("spacing", [None, 2])
def test_the_header_says_what_parameters_differ_from(detector, tmp_path, drawn_once, spacing):
    twin = detector.with_thresholds(0.2, 0.4)
    twin.set_params(random_state=3, corruption__spacing=spacing)
    words = written(twin, tmp_path, X).words()
    assert "random_state=3" in words
    assert ("parameters other than those of VIDEO" in words) == (spacing is not None)


def test_given_thresholds_are_listed_as_parameters(detector, tmp_path, drawn_once):
    words = written(detector.with_thresholds(0.2, 0.4), tmp_path, X).words()
    assert "alpha=0.2" in words
    assert "zeta=0.4" in words


def test_the_header_names_the_sources_that_the_command_line_notes(detector, tmp_path, drawn_once):
    stacks = np.repeat(X[..., None], 3, axis=3)
    tiny = {"features": "pixels", "inpainter__width": 4, "detector__width": 4, "max_epochs": 1}
    fitted = AVIDDetector(**nested(dict(**tiny, value_range=(0, 255), random_state=0))).fit(stacks)
    fitted.set_params(corruption__spacing=2)  # as if the channels were three points in time
    fitted.extra_ = {"trained_on": ["monday.mp4", "<b>.mp4"]}
    assert (
        "24 normal frames of 16 x 16 pixels (width x height) with 3 points in time as channels, "
        "intensities from 0 to 255, from monday.mp4, <b>.mp4; 2 of them were held out"
    ) in written(fitted, tmp_path, stacks[:3]).words()
    del fitted._trained_on  # as in files of older releases
    words = written(fitted, tmp_path, stacks[:3]).words()
    assert "training data normal frames of 16 x 16 pixels" in words


def test_times_of_frames_are_shown_if_the_frame_rate_is_known(detector, tmp_path):
    page = written(detector, tmp_path, X, groups=CLIPS, frame_rate=0.1, n_worst=24)
    scores = detector.score_samples(X)
    at = [f"{row % 8 // 6}:{row % 8 % 6}0.0" for row in range(24)]
    facts = [f"score {scores[row]:.3g}, at {at[row]}" for row in range(24)]
    assert [one["facts"] for one in page.data()["strip"]["frames"]] == facts
    shown = [text for tag, text in page.texts if tag == "p" and text.startswith("score ")]
    assert shown == [facts[row] for row in np.argsort(scores, kind="stable")]
    assert "time (s), one clip after the other" in page.words()


def test_a_single_clip_is_not_averaged_over_clips(detector, tmp_path, drawn_once):
    page = written(detector, tmp_path, X, y=Y, groups=np.zeros(24))
    assert len(page.all("data")) == 2
    assert "AUC by clip" not in page.words()


def test_shown_frames_of_a_clip_keep_a_distance_and_the_timeline_has_all(detector, tmp_path):
    long = np.concatenate([X] * 5)
    clips = np.repeat([0, 1, 2], 40)
    page = written(detector, tmp_path, long, groups=clips, n_worst=3)
    strip = page.data()["strip"]["frames"]
    assert len(strip) == 120
    assert [one["alarm"] for one in strip] == (detector.predict(long) == -1).tolist()
    assert strip[41]["name"] == "1, frame 1"
    shown = [text for tag, text in page.texts if tag == "bdi"][1:4]
    places = sorted(40 * int(clip) + int(frame) for clip, frame in (
        re.fullmatch(r"(\d), frame (\d+)", name).groups() for name in shown
    ))  # fmt: skip
    same = clips[places[1:]] == clips[places[:-1]]
    assert (np.diff(places)[same] >= 10).all()
    assert "Of frames of one clip that are fewer than 10 frames apart, only" in page.words()


def test_a_long_timeline_keeps_the_most_irregular_frame_of_each_interval(
    detector, tmp_path, monkeypatch
):
    monkeypatch.setattr(report, "STRIP_PIXELS", 6 * 256)
    page = written(detector, tmp_path, X, groups=CLIPS, n_worst=1)
    names = [one["name"] for one in page.data()["strip"]["frames"]]
    scores = detector.score_samples(X)
    rows = [start + int(np.argmin(scores[start : start + 4])) for start in range(0, 24, 4)]
    assert names == [f"{CLIPS[row]}, frame {row % 8}" for row in rows]
    assert "6 of 24 frames are shown: the most irregular one of each of 6 equal" in page.words()


def test_rows_colour_and_stacks_are_drawn(tmp_path, drawn_once):
    colour = RNG.integers(0, 255, size=(20, 16, 16, 3), dtype=np.uint8)
    tiny = {
        "features": "pixels",
        "inpainter__width": 4,
        "detector__width": 4,
        "max_epochs": 1,
        "random_state": 0,
    }
    rows = colour.reshape(20, -1)
    fitted = AVIDDetector(**nested(dict(**tiny, image_shape=(16, 16, 3)))).fit(rows)
    page = written(fitted, tmp_path, rows[:3], masks=np.ones((3, 16, 16), bool))
    assert len(page.data()["images"]) == 3
    worst = np.argmin(fitted.score_samples(rows[:3]))
    np.testing.assert_array_equal(decoded(first_picture(page)), colour[worst])
    fitted.set_params(corruption__spacing=2)  # as if the channels were three points in time
    page = written(fitted, tmp_path, rows[:3])
    np.testing.assert_array_equal(decoded(first_picture(page)), colour[worst, ..., 2])


def first_picture(page):
    return next(one["src"] for one in page.all("img") if one["alt"])


def decoded(source):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))))


@pytest.mark.parametrize("fusion", ["min", "mean", "inpainter", "detector"])
def test_embedded_margins_are_the_detectors_in_steps_rounded_down(
    detector, tmp_path, fusion, drawn_once
):
    twin = detector.with_thresholds(detector.alpha_, detector.zeta_).set_params(fusion=fusion)
    page = written(twin, tmp_path, X, n_worst=24)
    maps = twin.maps(X)
    order = np.argsort(twin.score_samples(X), kind="stable")
    for image, row in zip(page.data()["images"], order, strict=True):
        changed = np.log(maps.residual[row].astype(float) / twin.alpha_) / STEP
        doubted = (logit(twin.zeta_) - logit(maps.regularity[row].astype(float))) / STEP
        # Where rounding changes the sign of a mean, one margin is moved by one step.
        allowed = 1.01 if fusion == "mean" else 0.01
        for network, exact in (("inpainter", changed), ("detector", doubted)):
            error = exact - unpack(image, network)
            assert (error > -allowed).all()
            assert (error < 1 + allowed).all()


@pytest.mark.parametrize(
    ("fusion", "disabled", "words"),
    [
        ("mean", [], "the mean of both margins decides"),
        ("inpainter", ["zeta"], "has an effect, because the inpainter alone decides."),
        ("detector", ["alpha"], "because the detector network alone decides."),
    ],
)
def test_a_threshold_without_effect_cannot_be_moved(
    detector, tmp_path, drawn_once, fusion, disabled, words
):
    twin = detector.with_thresholds(0.2, 0.4).set_params(fusion=fusion)
    page = written(twin, tmp_path, X)
    assert [one["id"] for one in page.all("input") if "disabled" in one] == disabled
    assert words in page.words()


def test_the_page_leaves_out_a_blind_discriminator_as_the_detector_does(
    detector, tmp_path, drawn_once
):
    twin = detector.with_thresholds(0.2, 0.4).set_params(fusion="mean")
    twin._is_blind = True
    page = written(twin, tmp_path, X)
    assert page.data()["rule"]["fusion"] == "inpainter"
    assert "the inpainter alone decides" in page.words()


def test_controls_have_labels_for_screen_readers(detector, tmp_path, drawn_once):
    page = written(detector, tmp_path, X, groups=CLIPS)
    sliders = {one["id"] for one in page.all("input")}
    assert sliders == {one["for"] for one in page.all("label")} == {"alpha", "zeta", "frame"}
    words = page.words()
    assert "alpha , threshold on the residual" in words
    assert "zeta , threshold on the regularity" in words
    buttons = [text for tag, text in page.texts if tag == "button"]
    assert buttons == ["Reset to the fitted thresholds", "Previous alarm", "Next alarm"]


def test_verdicts_count_the_pixels_and_patches_of_the_mask(detector, tmp_path, drawn_once):
    maps = detector.maps(X)
    pair = np.quantile(maps.residual, 0.6), np.quantile(maps.regularity, 0.6)
    twin = detector.with_thresholds(*map(float, pair)).set_params(fusion="min")
    page = written(twin, tmp_path, X, n_worst=24)
    verdicts = [text for tag, text in page.texts if re.fullmatch("normal|irregular: .*", text)]
    assert len(set(verdicts)) > 2
    order = np.argsort(twin.score_samples(X), kind="stable")
    masks, findings = twin.segment(X[order]), twin.find(X[order])
    for verdict, mask, found in zip(verdicts, masks, findings, strict=True):
        numbers = [int(one) for one in re.findall(r"\d+", verdict)]
        assert numbers == ([mask.sum(), len(found)] if mask.any() else [])


def test_large_images_are_shown_by_their_most_irregular_pixels(
    detector, tmp_path, monkeypatch, drawn_once
):
    monkeypatch.setattr(report, "SHOWN_SIDE", 6)
    twin = detector.with_thresholds(detector.alpha_, detector.zeta_).set_params(fusion="min")
    page = written(twin, tmp_path, X, masks=MASKS, n_worst=24)
    found = twin.segment(X)
    order = np.argsort(twin.score_samples(X), kind="stable")
    for image, row in zip(page.data()["images"], order, strict=True):
        assert (image["height"], image["width"]) == (6, 6)
        seen = (unpack(image, "inpainter") >= 0) & (unpack(image, "detector") >= 0)
        for i in range(6):
            for j in range(6):
                square = found[row, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3]
                assert seen[i, j] == square.any()
    assert "Each block of 3 x 3 pixels is shown as its most irregular pixel" in page.words()


def test_memory_holds_the_maps_of_the_shown_images_alone(detector, tmp_path, drawn_once):
    many = np.lib.format.open_memmap(tmp_path / "many.npy", "w+", np.float32, (800, 64, 64))
    many[:] = np.tile(X[0], (4, 4))
    write_report(
        detector, tmp_path / "report.html", many[:8], n_worst=2
    )  # so that imports do not count
    tracemalloc.start()
    try:
        write_report(detector, tmp_path / "report.html", many, n_worst=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < many.nbytes


def test_templates_style_and_script_are_installed_with_the_package():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["package-data"]["skavid.report"]
    parts = [one for one in Path(report.__file__).parent.iterdir() if one.suffix != ".py"]
    parts = [one for one in parts if one.is_file()]
    assert len(parts) == 9
    assert all(any(one.match(pattern) for pattern in listed) for one in parts)


# --- hostile and invalid input ----------------------------------------------------------------


TEXTS = st.text(st.characters(exclude_categories=()), max_size=40)


@pytest.mark.slow
@settings(max_examples=8)  # each draws its own figures, with the names of clips
@example(name='"><i>', title="</title><b>", clip="</text><u>")
@given(name=TEXTS, title=TEXTS, clip=TEXTS)
def test_no_text_is_taken_for_html(detector, tmp_path, name, title, clip):
    path = tmp_path / "report.html"
    write_report(
        detector, path, X[:3], names=[name] * 3, title=title, groups=[clip] * 3, n_worst=1
    )
    page, plain = Page(path), Page(written_plain(detector, tmp_path))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert [text for kind, text in page.scripts if kind is None] == [
        text for kind, text in plain.scripts if kind is None
    ]
    shown = [text for tag, text in page.texts if tag == "bdi"]
    expected = [title or "skavid report", name, clip]
    assert [one for one in map(seen, expected) if one] == shown
    assert page.data()["strip"]["frames"][0]["name"] == seen(name)


def written_plain(detector, tmp_path):
    path = tmp_path / "plain.html"
    if not path.exists():
        write_report(
            detector, path, X[:3], names=["a"] * 3, title="a", groups=["a"] * 3, n_worst=1
        )
    return path


def seen(text):
    """Escape unprintable characters as Python does."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def test_hostile_names_are_written_out(detector, tmp_path):
    names = HOSTILE * 2
    page = written(detector, tmp_path, X, names=names, groups=CLIPS, n_worst=24)
    shown = [text for tag, text in page.texts if tag == "bdi"][1:25]
    assert sorted(shown) == sorted(map(seen, names))
    assert "right\\u202egnp.exe" in shown
    assert "two\\nlines\\r.png" in shown
    assert "broken\\udcff.png" in shown
    alternatives = {one["alt"] for one in page.all("img") if one["alt"]}
    assert alternatives == set(map(seen, names))


def test_clips_that_look_alike_are_numbered(detector, tmp_path):
    page = written(detector, tmp_path, X, groups=np.repeat(["a\n", "a\\n", "b"], 8), n_worst=1)
    called = {text for tag, text in page.texts if tag == "bdi"}
    assert {"a\\n (1)", "a\\n (2)", "b (3)"} <= called


def test_a_parameter_that_holds_html_is_escaped(detector, tmp_path):
    twin = detector.with_thresholds(0.2, 0.4)
    twin.learning_rate = "<script>alert(1)</script>"
    page = written(twin, tmp_path, X)
    assert len(page.scripts) == 2
    assert "learning_rate='<script>alert(1)</script>'" in page.words()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            {"y": Y[:5]},
            ValueError,
            "y has the shape (5,), but X has 24 images; give one value per image.",
        ),
        (
            {"y": (Y == -1).astype(int)},
            ValueError,
            "y must hold 1 (normal) and -1 (irregular). Got [0, 1]; convert labels 0 and 1 "
            "by np.where(y == 0, 1, -1).",
        ),
        (
            {"y": -Y, "masks": MASKS},
            ValueError,
            "y and masks disagree about 24 of 24 images: y says image 0 is normal, its mask "
            "irregular; leave y out to go by the masks.",
        ),
        (
            {"masks": MASKS[:, :8]},
            ValueError,
            "masks has the shape (24, 8, 16), but X holds images of (24, 16, 16); give one mask "
            "of the same size per image.",
        ),
        (
            {"masks": 255 * MASKS.astype(np.uint8)},
            ValueError,
            "masks must be boolean, True where a pixel is irregular. Got uint8; write masks > 0.",
        ),
        (
            {"groups": CLIPS[:5]},
            ValueError,
            "groups has the shape (5,), but X has 24 images; give one value per image.",
        ),
        (
            {"groups": np.tile([0, 1], 12)},
            ValueError,
            "groups must keep the rows of a clip together, but those of 0 are interrupted; sort "
            "all arrays by clip, and by time within it.",
        ),
        (
            {"kinds": ["good"]},
            ValueError,
            "kinds has the shape (1,), but X has 24 images; give one value per image.",
        ),
        (
            {"boxes": [[0, 0, 16, 16]]},
            ValueError,
            "boxes must hold left, top, width and height of each of 24 images, in pixels. Got the "
            "shape (1, 4).",
        ),
        (
            {"names": ["a"]},
            ValueError,
            "names holds 1 name, but X has 24 images; give one name per image.",
        ),
        (
            {"names": "a.png"},
            ValueError,
            "names holds one string, but X has 24 images; give one name per image.",
        ),
        (
            {"frame_rate": 25.0},
            ValueError,
            "frame_rate=25 needs groups to time frames in their clips; give groups, or zeros for "
            "a single clip.",
        ),
        (
            {"frame_rate": 0, "groups": CLIPS},
            ValueError,
            "The 'frame_rate' parameter of write_report must be a float in the range (0.0, inf) "
            "or None. Got 0 instead.",
        ),
        (
            {"n_worst": 0},
            ValueError,
            "The 'n_worst' parameter of write_report must be an int in the range [1, inf). Got 0 "
            "instead.",
        ),
        (
            {"title": 5},
            ValueError,
            "The 'title' parameter of write_report must be an instance of 'str' or None. Got 5 "
            "instead.",
        ),
    ],
)
def test_inputs_that_do_not_match_are_refused_before_anything_is_written(
    detector, tmp_path, given, error, message
):
    path = tmp_path / "report.html"
    path.write_text("before")
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        write_report(detector, path, X, **given)
    assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_detector_must_be_one_and_fitted(detector, tmp_path):
    path = tmp_path / "report.html"
    message = "The 'detector' parameter of write_report must be an instance of "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        write_report("detector.joblib", path, X)
    with pytest.raises(NotFittedError, match=r"^This AVIDDetector instance is not fitted yet"):
        write_report(AVIDDetector(), path, X)
    with pytest.raises(ValueError, match=r"^X has images of 3 channels, but AVIDDetector was"):
        write_report(detector, path, np.zeros((4, 16, 16, 3)))
    assert not list(tmp_path.iterdir())


def test_a_path_must_be_a_file_in_a_folder_that_is_there(detector, tmp_path):
    missing = tmp_path / "reports" / "week.html"
    message = f"{missing} cannot be written: there is no folder {missing.parent}; make it first."
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        write_report(detector, missing, X)
    message = f"{tmp_path} is a folder; give the name of a file in it."
    with pytest.raises(IsADirectoryError, match=f"^{re.escape(message)}$"):
        write_report(detector, tmp_path, X)


def test_a_full_disk_leaves_the_existing_file_unchanged(detector, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("before")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    message = f"{path} cannot be written: No space left on device."
    with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
        write_report(detector, path, X)
    assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_without_matplotlib_the_extra_is_named_first(detector, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    message = "Reports need matplotlib; pip install 'skavid[plot]'."
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        write_report(detector, tmp_path / "report.html", X)
    assert not list(tmp_path.iterdir())


def test_settings_of_matplotlib_stay_as_they_were(detector, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    written(detector, tmp_path, X, y=Y)
    assert dict(matplotlib.rcParams) == before


# --- the page in a browser --------------------------------------------------------------------


DRIVER = """
ready.then(async () => {
  const masks = (steps) => Promise.all(images.map(async (image) =>
    Array.from(segment(image, await load(image), steps).mask).join("")));
  const verdicts = () =>
    Array.from(document.querySelectorAll(".card .verdict"), (one) => one.textContent);
  const measured = () => Object.fromEntries(
    Array.from(document.querySelectorAll("[data-measure]:not([data-kind] *)"),
      (one) => [one.dataset.measure, one.textContent]));
  const move = async (name, value) => {
    byId(name).value = value;
    byId(name).dispatchEvent(new Event("input"));
    await redraw();
  };
  const result = {
    masks: await masks({alpha: 0, zeta: 0}),
    verdicts: verdicts(),
    code: byId("take").textContent,
    command: byId("command").textContent,
    moved: await masks(STEPS),
    thresholds: thresholds(STEPS),
    fitted: measured(),
    suspicious: document.querySelectorAll("[onerror], img[src=x]").length,
  };
  at.alpha = STEPS.alpha, at.zeta = STEPS.zeta;
  await redraw();
  result.shifted = measured();
  result.kinds = Array.from(document.querySelectorAll("[data-kind] [data-measure=flagged]"),
    (one) => Number(one.textContent));
  await move("alpha", byId("alpha").max);
  await move("zeta", byId("zeta").min);
  result.strict = verdicts();
  byId("reset").click();
  await redraw();
  result.reset = verdicts();
  await move("frame", 23);
  byId("previous").click();
  await showFrame();
  result.frame = byId("frame-name").textContent;
  const element = document.createElement("pre");
  element.id = "result";
  element.textContent = JSON.stringify(result);
  document.body.append(element);
});
"""


def run_in_browser(path, profile, script):
    """Return the result of a script that the policy of the page allows besides its own."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium on the PATH: apt-get install chromium")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = path.read_text().replace("script-src ", f"script-src 'sha256-{digest}' ")
    foreign = "<script>document.documentElement.dataset.foreign = 1</script>"
    path.write_text(page.replace("</body>", f"<script>{script}</script>{foreign}</body>"))
    flags = (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={profile}", "--virtual-time-budget=60000", "--dump-dom",
    )  # fmt: skip
    dumped = subprocess.run(
        [program, *flags, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert "data-foreign" not in dumped  # the policy refuses any other script
    return json.loads(html.unescape(re.search(r'<pre id="result">(.*?)</pre>', dumped)[1]))


@pytest.mark.parametrize(
    ("fusion", "min_area"),
    [
        ("min", {"postprocessing__min_area": 6}),
        ("mean", {}),
        ("detector", {"postprocessing__min_area": 20, "postprocessing__min_area_of": "image"}),
    ],
)
def test_the_script_segments_as_the_detector_does(detector, tmp_path, fusion, min_area):
    pytest.importorskip("skimage")
    maps = detector.maps(X)
    pair = np.quantile(maps.residual, 0.6), np.quantile(maps.regularity, 0.6)
    twin = detector.with_thresholds(*map(float, pair)).set_params(fusion=fusion, **min_area)
    names, path = HOSTILE * 2, tmp_path / "report.html"
    write_report(
        twin, path, X, masks=MASKS, groups=CLIPS, names=names, title=HOSTILE[2], n_worst=24,
        kinds=KINDS, model="my model",
    )  # fmt: skip
    plain = [text for tag, text in Page(path).texts if tag == "p"]
    steps = {"alpha": 10, "zeta": -5}
    script = DRIVER.replace("STEPS", json.dumps(steps))
    result = run_in_browser(path, tmp_path / "profile", script)

    def unpacked(masks):
        return np.array([[pixel == "1" for pixel in one] for one in masks]).reshape(-1, 16, 16)

    order = shown_rows(twin)
    expected = twin.segment(X[order])
    assert expected.any()
    assert not expected.all()
    np.testing.assert_array_equal(unpacked(result["masks"]), expected)
    assert result["command"] == (
        f"skavid calibrate 'my model' --alpha {twin.alpha_} --zeta {twin.zeta_}"
    )
    assert result["code"] == f"detector.with_thresholds({twin.alpha_}, {twin.zeta_})"
    written_verdicts = [text for text in plain if re.fullmatch("normal|irregular: .*", text)]
    assert result["verdicts"] == result["reset"] == written_verdicts
    assert set(result["strict"]) == {"normal"}

    moved = twin.with_thresholds(result["thresholds"]["alpha"], result["thresholds"]["zeta"])
    assert moved.alpha_ == pytest.approx(twin.alpha_ * np.exp(steps["alpha"] * STEP))
    assert logit(moved.zeta_) == pytest.approx(logit(twin.zeta_) + steps["zeta"] * STEP)
    for at, seen_on_page in ((twin, result["fitted"]), (moved, result["shifted"])):
        if fusion == "min" and at is moved:
            assert seen_on_page == result["fitted"]  # not known for other thresholds
            continue
        flagged = at.predict(X) == -1
        counts = [flagged[Y == -1], ~flagged[Y == -1], flagged[Y == 1], ~flagged[Y == 1]]
        names_of = ("hits", "misses", "alarms", "passed")
        assert [int(seen_on_page[name]) for name in names_of] == [one.sum() for one in counts]
        assert seen_on_page["f1"] == f"{f1_score(Y == -1, flagged):.3f}"
    if fusion != "min":
        flagged = moved.predict(X) == -1
        assert result["kinds"] == [flagged[kind == KINDS].sum() for kind in dict.fromkeys(KINDS)]
    apart = unpacked(result["moved"]) != moved.segment(X[order])
    # Exact but for rounding; a mean may differ within two steps of the threshold.
    near = np.abs(moved.maps(X[order]).evidence) < (2 * STEP if fusion == "mean" else 1e-5)
    assert not apart[~near].any()

    last_alarm = np.flatnonzero(twin.predict(X[:-1]) == -1)[-1]
    assert result["frame"] == seen(names[last_alarm])
    assert result["suspicious"] == 0
