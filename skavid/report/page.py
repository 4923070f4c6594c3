"""Report on a fitted detector and a data set, as one HTML file with movable thresholds.

This module computes the data and the jinja2 templates beside it show them. The templates escape
every text, and the page loads nothing from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import platform
import shlex
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata, resources
from itertools import chain
from numbers import Integral, Real
from pathlib import Path
from reprlib import Repr
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit
from sklearn.utils.validation import check_is_fitted

from skavid import __version__
from skavid.components import changed_parameters, ignored_pixels, is_over_pixels, names_of_maps
from skavid.core import anomaly_maps
from skavid.core.images import intensity_range
from skavid.core.scene import clip_begins
from skavid.estimator import AVIDDetector
from skavid.plotting import HistoryDisplay, RocDisplay, ScoreOverTimeDisplay
from skavid.report import evaluation, figures
from skavid.report.embedding import (
    STEP,
    margins_in_steps,
    most_irregular,
    overlay,
    pack_margin,
    pack_mask,
    png,
)
from skavid.report.inputs import Given, check_given, frame_numbers
from skavid.sklearn_private import Interval, validate_params
from skavid.wording import clock, counted, listed, pace, visible
from skavid.writing import check_target, replace

__all__ = ["write_report"]

SHOWN_SIDE = 512  # images with longer sides are shown at a reduced size
STRIP_PIXELS = 2**22  # of all frames on the timeline together
STRIP_FRAMES = 200
OUTCOMES = ("correctly normal", "false alarm"), ("miss", "detection")  # of both labels
CLIPS = 200  # rows of the table of clips
HIGHEST_LOGIT = 16.0  # a regularity with a higher logit is 1 in float32


@validate_params(  # type: ignore[untyped-decorator]
    {
        "detector": [AVIDDetector],
        "path": [str, os.PathLike],
        "X": "no_validation",
        "y": "no_validation",
        "masks": "no_validation",
        "groups": "no_validation",
        "names": "no_validation",
        "kinds": "no_validation",
        "boxes": "no_validation",
        "model": [str, os.PathLike, None],
        "frame_rate": [Interval(Real, 0, None, closed="neither"), None],
        "title": [str, None],
        "n_worst": [Interval(Integral, 1, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def write_report(
    detector: AVIDDetector,
    path: str | os.PathLike[str],
    X: ArrayLike,
    *,
    y: ArrayLike | None = None,
    masks: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    names: Sequence[Any] | None = None,
    kinds: Sequence[str] | None = None,
    boxes: ArrayLike | None = None,
    model: str | os.PathLike[str] | None = None,
    frame_rate: float | None = None,
    title: str | None = None,
    n_worst: int = 12,
) -> int:
    r"""Write a report on a fitted detector and a data set as one HTML file.

    The file opens in any browser and loads nothing else. It shows the results, the most irregular
    images with their masks, and sliders for both thresholds, which redraw these masks.

    Parameters
    ----------
    detector : AVIDDetector
        A fitted detector.
    path : str or path
        File to write. An existing file is replaced; the folder must exist.
    X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
        Images. They are scored in batches; apart from the images that are shown, only the scores
        are kept.
    y : array-like of shape (n_images,), default=None
        Ground truth: 1 for normal and -1 for irregular images. Not needed beside ``masks``.
    masks : array-like of shape (n_images, H, W), bool, default=None
        Ground truth: True for irregular pixels.
    groups : array-like of shape (n_images,), default=None
        Clip of each frame; the rows of a clip are consecutive in time. The scores are then drawn
        over time, above a timeline of frames.
    names : sequence of length n_images, default=None
        Names of the images, such as their files. Characters that cannot be printed are written
        as Python escapes, such as ``\n`` for a line break; nothing is interpreted as HTML.
    kinds : sequence of str of length n_images, default=None
        Kind of each image, such as "good" or that of its fault; results are then also given for
        each kind.
    boxes : array-like of shape (n_images, 4), default=None
        Where each image lies in its original picture: left, top, width and height in pixels of
        the picture. Images are then shown in the proportions of their originals, and positions
        and areas are those in the originals.
    model : str or path, default=None
        Model file, for the command that makes chosen thresholds permanent.
    frame_rate : float, default=None
        Frames per second in each of ``groups``, to show the time of each frame in its clip.
    title : str, default=None
        Headline. By default "skavid report".
    n_worst : int, default=12
        Number of images to show: those with the lowest scores. With ground truth, misses, false
        alarms, detections and normal images take turns. Frames of one clip that are shown keep
        some distance in time.

    Returns
    -------
    size : int
        Size of the file in bytes. An image of 256 x 256 pixels takes about 200 to 500 kB.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If X, y, masks, groups and names do not match. Nothing is written then.
    FileNotFoundError
        If the folder of ``path`` does not exist.

    See Also
    --------
    skavid.plotting : The figures, one by one.
    skavid.metrics : The metrics.

    Notes
    -----
    For each image that is shown, the page stores both margins of Eq. 4, ``log(R / alpha)`` and
    ``logit(zeta) - logit(O)``, in steps of 1/64 nat. At the fitted thresholds its masks are those
    of `AVIDDetector.segment`. At other positions of the sliders they may differ at pixels within
    two steps of the threshold. Images with sides longer than 512 pixels are reduced; each block
    of pixels is then represented by its most irregular one.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from skavid import AVIDDetector
    >>> from skavid.report import write_report
    >>> X = np.random.default_rng(0).normal(size=(40, 16, 16))
    >>> detector = AVIDDetector(max_epochs=1, random_state=0).fit(X)
    >>> path = Path(tempfile.mkdtemp()) / "report.html"
    >>> write_report(detector, path, X[:20], title="The night shift") == path.stat().st_size
    True
    """
    figures.import_matplotlib()
    check_is_fitted(detector)
    path = Path(path)
    check_target(path)
    images = detector.as_images(X)
    ignored = ignored_pixels(detector.ignore_mask, images.shape[1:3])
    given = check_given(images, y, masks, groups, names, frame_rate, ignored, kinds, boxes)
    scored = _score(detector, images, keep_evidence=given.masks is not None)
    command = f"skavid calibrate {'MODEL' if model is None else shlex.quote(str(model))}"
    page = _page(
        detector, images, given, scored, title=visible(title or "skavid report"),
        n_worst=int(n_worst), command=visible(command),
    )  # fmt: skip
    content = page.encode()
    replace(path, content)
    return len(content)


class _Scored(NamedTuple):
    """Scores and alarms of all images, and their evidence where it is needed.

    ``why`` says how an image that is irregular as a whole differs, "" for the others.
    """

    scores: NDArray[np.float64]
    alarms: NDArray[np.bool_]
    evidence: NDArray[np.float32] | None
    why: list[str]

    def outcome(self, label: int, row: int) -> str:
        """Compare the alarm of an image with its label."""
        return OUTCOMES[int(label == -1)][int(self.alarms[row])]


class _Image(NamedTuple):
    """Pictures of an image that is shown, and the data that the page needs to segment it."""

    picture: str
    restored: str
    overlay: str
    data: dict[str, Any]
    spans: dict[str, tuple[float, float]]  # median and maximum of either margin, in steps
    findings: list[anomaly_maps.Finding]  # in pixels of the original


# --- scores, and images that are shown ---------------------------------------------------------


def _score(detector: AVIDDetector, images: NDArray[Any], *, keep_evidence: bool) -> _Scored:
    """Score all images in one pass; evidence that metrics need is kept in a temporary file."""
    scores = np.empty(len(images))
    maps = None
    why: list[str] = []
    if keep_evidence:
        with tempfile.TemporaryFile() as file:  # the mapping stays valid after the file is closed
            maps = np.memmap(file, np.float32, "w+", shape=images.shape[:3])
    for rows, part in detector.iter_maps(images, inpainted=False):
        scores[rows] = part.scores
        why += part.why
        if maps is not None:
            maps[rows] = part.evidence
    return _Scored(scores, scores < detector.offset_, maps, why)


def _worst(scored: _Scored, given: Given, n_worst: int) -> dict[str, list[int]]:
    """Choose the images to show, by their outcome; without ground truth they have none, "".

    The outcomes take turns until ``n_worst`` images are chosen, of misses those with the highest
    scores, otherwise those with the lowest. Frames of one clip keep some distance.
    """
    clips = given.groups
    apart = _apart(len(scored.scores), n_worst, clips)
    order = np.argsort(scored.scores, kind="stable").tolist()
    waiting: dict[str, list[int]] = {"": order}
    if given.labels is not None:
        waiting = {outcome: [] for outcome in ("miss", "false alarm", "detection", OUTCOMES[0][0])}
        for row in order:
            waiting[scored.outcome(given.labels[row], row)].append(row)
        waiting["miss"].reverse()
    chosen: dict[str, list[int]] = {outcome: [] for outcome in waiting}
    taken: list[int] = []
    rows = {outcome: iter(some) for outcome, some in waiting.items()}
    while rows and len(taken) < n_worst:
        for outcome in list(rows)[: n_worst - len(taken)]:
            for row in rows[outcome]:
                if all(
                    abs(row - other) >= apart or (clips is not None and clips[row] != clips[other])
                    for other in taken
                ):
                    chosen[outcome].append(row)
                    taken.append(row)
                    break
            else:
                del rows[outcome]
    return {outcome: some for outcome, some in chosen.items() if some}


def _apart(n: int, n_worst: int, clips: NDArray[Any] | None) -> int:
    """Return the least distance of two frames of a clip: neighbours would look alike."""
    return 1 if clips is None else max(1, n // (4 * n_worst))


def _strip_rows(scores: NDArray[np.float64], n_pixels: int) -> list[int]:
    """Choose frames for the timeline: the most irregular one of each of many equal intervals."""
    n = int(np.clip(STRIP_PIXELS // n_pixels, 1, min(STRIP_FRAMES, len(scores))))
    runs = np.array_split(np.arange(len(scores)), n)
    return [int(run[np.argmin(scores[run])]) for run in runs]


def _show(
    detector: AVIDDetector,
    images: NDArray[Any],
    rows: list[int],
    given: Given,
) -> dict[int, _Image]:
    """Run the detector again on the chosen images and keep what the page needs of them."""
    reduced = _reduction(images)
    shown = {}
    for part, maps in detector.iter_maps(images[rows]):
        evidence, restored, rule = maps.evidence, maps.inpainted, maps.rule
        assert restored is not None
        for index, row in enumerate(rows[part]):
            steps = margins_in_steps(
                maps.residual[index], maps.logits[index],
                alpha=rule.alpha, zeta=rule.zeta, fusion=rule.fusion, balance=rule.balance,
            )  # fmt: skip
            height, width = evidence[index].shape
            box = (0, 0, width, height) if given.boxes is None else given.boxes[row]
            ratio = float(box[2] / box[3])
            data: dict[str, Any] = {
                "height": -(-height // reduced),
                "width": -(-width // reduced),
                "ratio": ratio,
                "areaFactor": float(box[2] * box[3] / (width * height)),
            }
            truth = None
            for name, margin in steps.items():
                data[name] = pack_margin(most_irregular(margin, evidence[index], reduced))
            if given.masks is not None and given.masks[row].any():
                truth = most_irregular(given.masks[row], given.masks[row], reduced)
                data["groundTruth"] = pack_mask(truth)
            found = most_irregular(evidence[index] >= 0, evidence[index], reduced)
            shown[row] = _Image(
                picture=_picture(detector, images, images[row], reduced, ratio),
                restored=_picture(detector, images, restored[index], reduced, ratio),
                overlay=overlay(found, truth),
                data=data,
                spans={
                    name: (float(np.median(margin)), float(margin.max()))
                    for name, margin in steps.items()
                },
                findings=[_in_original(one, box, (width, height)) for one in maps.find(index)],
            )
    return shown


def _in_original(
    finding: anomaly_maps.Finding, box: Sequence[Any], size: tuple[int, int]
) -> anomaly_maps.Finding:
    """Express a patch of an image of (width, height) pixels in those of its original."""
    left, top = int(box[0]), int(box[1])
    across, down = box[2] / size[0], box[3] / size[1]
    return finding._replace(
        box=(
            top + math.floor(down * finding.box[0]), left + math.floor(across * finding.box[1]),
            top + math.ceil(down * finding.box[2]), left + math.ceil(across * finding.box[3]),
        ),
        area=round(finding.area * across * down),
        peak_at=(
            top + int(down * (finding.peak_at[0] + 0.5)),
            left + int(across * (finding.peak_at[1] + 0.5)),
        ),
    )  # fmt: skip


def _reduction(images: NDArray[Any]) -> int:
    return -(-int(max(images.shape[1:3])) // SHOWN_SIDE)


def _picture(
    detector: AVIDDetector, images: NDArray[Any], image: NDArray[Any], reduced: int, ratio: float
) -> str:
    """Return an image as PNG, stretched to the ratio of width to height of its original."""
    from PIL import Image

    low, high = intensity_range(images, detector.value_range_)
    scaled = (image.astype(np.float64) - low) / (high - low)
    grey = image.shape[-1] != 3 or detector.component("corruption").spacing is not None
    pixels = scaled[..., -1] if grey else scaled  # the newest frame of stacked video
    picture = Image.fromarray(np.round(pixels.clip(0, 1) * 255).astype(np.uint8))
    picture = picture.reduce(reduced) if reduced > 1 else picture
    width, height = picture.size
    size = max(width, round(height * ratio)), max(height, round(width / ratio))
    return png(picture.resize(size))


# --- the page ---------------------------------------------------------------------------------


def _page(
    detector: AVIDDetector,
    images: NDArray[Any],
    given: Given,
    scored: _Scored,
    *,
    title: str,
    n_worst: int,
    command: str,
) -> str:
    """Render the page."""
    worst = _worst(scored, given, n_worst)
    n_apart = _apart(len(images), n_worst, given.groups)
    strip = [] if given.groups is None else _strip_rows(scored.scores, images[0, ..., 0].size)
    rows = list(dict.fromkeys([*chain.from_iterable(worst.values()), *strip]))
    fusion = detector.rule_.fusion  # "inpainter" where D was found to be blind
    shown = _show(detector, images, rows, given)
    index_of = {row: index for index, row in enumerate(rows)}
    timeline, timeline_data = _timeline(detector, given, scored, strip, shown, index_of)
    script = _read("report.js")
    clips = _clips(given, scored)
    histogram, axis = _histogram(detector, given, scored)
    irregular = None if given.labels is None else given.labels == -1
    decisions = None if irregular is None else evaluation.decisions(scored.alarms, irregular)
    most_alarms = evaluation.most_alarms(detector, given.kind)
    return _environment().get_template("page.html").render(
        title=title,
        style=_read("report.css"),
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        kind=given.kind,
        detector=detector,
        fusion=fusion,
        about=_about(detector, images, given),
        alarms=_count_alarms(given, scored),
        metrics=_metrics(detector, given, scored),
        decisions=decisions,
        unexpected=[] if decisions is None else evaluation.unexpected_alarms(
            decisions["confusion"], most_alarms, given.kind
        ),
        histogram=histogram,
        figures=_figures(detector, given, scored),
        over_pixels=is_over_pixels(detector),
        has_boxes=given.boxes is not None,
        ranges=_ranges(detector, shown),
        n_apart=n_apart,
        reasons=Counter(reason for reason in scored.why if reason).most_common(),
        has_ground_truth=given.labels is not None,
        has_masks=given.masks is not None,
        timeline=timeline,
        n_strip=len(strip),
        worst=[
            (
                _heading(given, scored, outcome, len(some)),
                [_card(given, scored, row, shown[row], index_of[row]) for row in some],
            )
            for outcome, some in worst.items()
        ],
        clips=clips[:CLIPS],
        n_clips=len(clips),
        data={
            "rule": _rule(detector, images, given.kind, fusion) | {"command": command},
            "all": {
                "scores": [float(f"{score:.6g}") for score in scored.scores],
                "labels": None if given.labels is None else given.labels.tolist(),
                "kinds": None if given.kinds is None else _numbered(given.kinds),
                "axis": axis,
            },
            "images": [shown[row].data for row in rows],
            "strip": timeline_data,
        },
    )  # fmt: skip


def _environment() -> Environment:
    """Set up jinja2: every text is escaped and every missing value is an error."""
    environment = Environment(
        loader=PackageLoader("skavid.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "counted": counted, "listed": listed, "measure": evaluation.number, "pace": pace,
    }  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment


def _read(name: str) -> str:
    return resources.files("skavid.report").joinpath(name).read_text("utf-8")


def _about(detector: AVIDDetector, images: NDArray[Any], given: Given) -> dict[str, Any]:
    """Describe the detector and the data, as far as the detector's attributes do not."""
    known = getattr(detector, "_trained_on", {})
    # The command line notes its sources there.
    noted = getattr(detector, "extra_", {})
    sources = noted.get("trained_on")
    n_irregular = None if given.labels is None else int((given.labels == -1).sum())
    return {
        "is_stacked": detector.component("corruption").spacing is not None,
        "features": names_of_maps(detector),
        "n_trained_on": known.get("n_images"),
        "n_held_out": known.get("n_held_out"),
        "sources": [visible(one) for one in sources] if isinstance(sources, list) else [],
        "seconds": sum(row.get("dur", 0.0) for row in detector.history_),
        "parameters": _changed_parameters(detector),
        "calibrated": [
            one for one in ("alpha", "zeta") if isinstance(getattr(detector, one), str)
        ],
        "calibrated_later": "calibrated_on" in noted,
        "n_images": len(images),
        "size": images.shape[1:3],
        "n_clips": None if given.groups is None else len(clip_begins(given.groups)),
        "n_irregular": n_irregular,
        "basis": "labels" if given.masks is None else "masks",
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "versions": _versions(),
    }


def _versions() -> str:
    others = [f"{name} {metadata.version(name)}" for name in ("torch", "scikit-learn", "numpy")]
    return ", ".join([f"skavid {__version__}", *others, f"Python {platform.python_version()}"])


def _changed_parameters(detector: AVIDDetector) -> list[str]:
    """List the parameters that differ from their defaults."""
    short = Repr()
    short.maxother = short.maxstring = 200
    changed = []
    for name, value in changed_parameters(detector).items():
        written = short.repr(value)
        if name == "ignore_mask":
            written = f"a mask of {100 * float(np.mean(np.asarray(value))):.3g} % of the pixels"
        changed.append(f"{name}={written}")
    return changed


def _count_alarms(given: Given, scored: _Scored) -> dict[str, tuple[int, int] | None]:
    """Count alarms and images: all, the normal and the irregular ones, where there are any."""
    alarms = scored.alarms
    kinds = {"all": alarms, "normal": alarms[:0], "irregular": alarms[:0]}
    if given.labels is not None:
        kinds |= {"normal": alarms[given.labels == 1], "irregular": alarms[given.labels == -1]}
    return {kind: (int(of.sum()), len(of)) if len(of) else None for kind, of in kinds.items()}


def _metrics(detector: AVIDDetector, given: Given, scored: _Scored) -> dict[str, Any] | None:
    """Compute the metrics; None without images of both kinds."""
    labels = given.labels
    if labels is None or len(np.unique(labels)) < 2:
        return None
    return evaluation.compute_metrics(
        scored.scores,
        scored.evidence,
        labels,
        given.masks,
        np.zeros(len(labels)) if given.groups is None else given.groups,
        None if detector.ignore_mask is None else np.asarray(detector.ignore_mask),
        given.kind,
        kinds=given.kinds,
    )


def _numbered(kinds: list[str]) -> list[int]:
    """Replace kinds by their numbers, in the order in which they appear."""
    numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    return [numbers[kind] for kind in kinds]


def _histogram(
    detector: AVIDDetector, given: Given, scored: _Scored
) -> tuple[str, list[float] | None]:
    """Draw the histogram; also return where its axis begins and ends, on the page and in units."""
    if given.groups is not None:
        return "", None
    svg, ax = figures.draw_svg(
        lambda ax: figures.draw_histogram(ax, scored.scores, given.labels, detector.offset_),
        "histogram of the scores",
        (6, 3.4),
    )
    box = ax.get_position()
    return svg, [float(box.x0), float(box.x1), *map(float, ax.get_xlim())]


def _figures(detector: AVIDDetector, given: Given, scored: _Scored) -> list[tuple[str, str]]:
    """Draw the figures; return each with its caption."""
    labels, scores = given.labels, scored.scores
    drawn = []
    if labels is not None and len(np.unique(labels)) == 2:
        svg, _ = figures.draw_svg(
            lambda ax: RocDisplay.from_predictions(labels, scores, ax=ax), "ROC curve", (5, 5)
        )
        drawn.append((svg, "ROC curve; the dot marks the equal error rate."))
    svg, _ = figures.draw_svg(
        lambda axes: HistoryDisplay.from_estimator(detector, axes=axes),
        "history of the training",
        (7, 6),
        n_axes=3,
    )
    caption = (
        "Training history of the inpainter (I) and the detector network (D), with the epochs that "
        "they were kept from."
    )
    drawn.append((svg, caption))
    return drawn


def _timeline(
    detector: AVIDDetector,
    given: Given,
    scored: _Scored,
    rows: list[int],
    shown: dict[int, _Image],
    index_of: dict[int, int],
) -> tuple[str, dict[str, Any] | None]:
    """Draw the scores over time, and list the frames that can be browsed below them."""
    if not rows:
        return "", None
    svg, ax = figures.draw_svg(
        lambda ax: ScoreOverTimeDisplay.from_predictions(
            scored.scores,
            threshold=detector.offset_,
            labels=given.labels,
            groups=np.array(given.clips),
            frame_rate=given.frame_rate,
            ax=ax,
        ),
        "scores over time",
        (11, 3.2),
    )
    frames = [
        {
            "image": index_of[row],
            "place": (row + 0.5) / len(scored.scores),
            "name": given.names[row],
            "facts": _facts(given, scored, row),
            "groundTruth": _ground_truth(given, row),
            "alarm": bool(scored.alarms[row]),
            "picture": shown[row].picture,
        }
        for row in rows
    ]
    box = ax.get_position()
    return svg, {"axis": [float(box.x0), float(box.x1)], "frames": frames}


def _rule(detector: AVIDDetector, images: NDArray[Any], kind: str, fusion: str) -> dict[str, Any]:
    """Return the rule by which the detector turns margins into a mask, for the script."""
    return {
        "alpha": detector.alpha_,
        "zeta": detector.zeta_,
        "logitZeta": float(logit(detector.zeta_)),
        "fusion": fusion,
        "balance": detector.balance_,
        "step": STEP,
        "minArea": int(detector.component("postprocessing").min_area),
        "minAreaOf": detector.component("postprocessing").min_area_of,
        "reduced": _reduction(images),
        "kind": kind,
    }


def _ranges(detector: AVIDDetector, shown: dict[int, _Image]) -> dict[str, tuple[int, int]]:
    """Return the range of each slider in steps: from half of the pixels flagged to none."""
    ranges = {}
    for name, network, sign in (("alpha", "inpainter", 1), ("zeta", "detector", -1)):
        middle = min(one.spans[network][0] for one in shown.values())
        largest = max(one.spans[network][1] for one in shown.values())
        ends = sorted((sign * min(middle, -64), sign * (max(largest, 64) + 8)))
        if name == "zeta":  # beyond, the regularity is 1 in float32
            room = (HIGHEST_LOGIT - float(logit(detector.zeta_))) / STEP
            ends[1] = max(min(ends[1], room), 0)
        ranges[name] = (math.floor(ends[0]), math.ceil(ends[1]))
    return ranges


def _card(given: Given, scored: _Scored, row: int, image: _Image, index: int) -> dict[str, Any]:
    """Return what is shown of one of the most irregular images."""
    label = (
        None if given.labels is None else ("irregular" if given.labels[row] == -1 else "normal")
    )
    return {
        "index": index,
        "label": label,
        "outcome": None if given.labels is None else scored.outcome(given.labels[row], row),
        "ratio": image.data["ratio"],
        "is_scaled": image.data["areaFactor"] != 1,
        "name": given.names[row],
        "facts": _facts(given, scored, row),
        "ground_truth": _ground_truth(given, row),
        "picture": image.picture,
        "overlay": image.overlay,
        "restored": image.restored,
        "findings": image.findings,
        "reason": scored.why[row],
    }


def _heading(given: Given, scored: _Scored, outcome: str, n_shown: int) -> str:
    """Count the images of an outcome, and say which of them are shown."""
    if given.labels is None:
        return ""
    is_irregular = outcome in OUTCOMES[1]
    here = given.labels == (-1 if is_irregular else 1)
    n = int((scored.alarms[here] == (outcome in ("detection", "false alarm"))).sum())
    words = {"miss": "Missed", "detection": "Detected", "false alarm": "False alarms"}
    kind = f"{'irregular' if is_irregular else 'normal'} {given.kind}"
    which = "all are shown"
    if n_shown < n:
        end = "highest" if outcome == "miss" else "lowest"
        which = f"the {n_shown} with the {end} scores are shown"
        if n_shown == 1:
            which = f"the one with the {end} score is shown"
    return (
        f"{words.get(outcome, 'Correctly normal')}: {n:,} of {counted(int(here.sum()), kind)}; "
        f"{which}"
    )


def _ground_truth(given: Given, row: int) -> str:
    if given.labels is None:
        return ""
    return f"ground truth: {'irregular' if given.labels[row] == -1 else 'normal'}"


def _facts(given: Given, scored: _Scored, row: int) -> str:
    facts = f"score {scored.scores[row]:.3g}"
    if scored.why[row]:
        facts += f", unlike the training {given.kind}s as a whole: {scored.why[row]}"
    if given.groups is not None and given.frame_rate is not None:
        facts += f", at {clock(float(frame_numbers(given.groups)[row]) / given.frame_rate)}"
    return facts


def _clips(given: Given, scored: _Scored) -> list[dict[str, Any]]:
    """Describe the clips, those with the largest share of alarms first."""
    if given.groups is None:
        return []
    starts = clip_begins(given.groups)
    clips = []
    for begin, end in zip(starts.tolist(), [*starts[1:].tolist(), len(given.groups)], strict=True):
        here = slice(begin, end)
        clips.append(
            {
                "name": given.clips[begin],
                "n_frames": end - begin,
                "n_alarms": int(scored.alarms[here].sum()),
                "lowest": float(scored.scores[here].min()),
                "n_irregular": None
                if given.labels is None
                else int((given.labels[here] == -1).sum()),
            }
        )
    return sorted(clips, key=lambda clip: -clip["n_alarms"] / clip["n_frames"])
