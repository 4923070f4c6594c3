"""One HTML file that shows a fitted detector at work on a data set, with thresholds to move.

Pictures come from `skavid.plotting`; nothing in the file is fetched from anywhere, and nothing of
the data set is taken for HTML.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
import platform
import re
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib import metadata, resources
from numbers import Integral, Real
from pathlib import Path
from reprlib import Repr
from string import Template
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit
from sklearn.utils.validation import check_is_fitted

from skavid import __version__
from skavid.components import all_parameters, ignored_pixels
from skavid.core import anomaly_maps
from skavid.core.images import intensity_range
from skavid.core.scene import clip_begins, clip_starts
from skavid.estimator import AVIDDetector
from skavid.plotting import HistoryDisplay, RocDisplay, ScoreOverTimeDisplay
from skavid.report import evaluation
from skavid.sklearn_private import Interval, validate_params
from skavid.wording import clock, counted, listed
from skavid.writing import check_target, replace

__all__ = ["write_report"]

# Margins are kept in whole steps below the fitted thresholds; sliders move by such steps, too.
STEP = 1 / 64  # nats: 1.6 % of alpha, or of zeta's odds
SHOWN_SIDE = 512  # images with longer sides are shown reduced
STRIP_PIXELS = 2**22  # of all frames on the strip together
STRIP_FRAMES = 200
FINDINGS = 5  # listed of each image
CLIPS = 200  # listed
HIGHEST_LOGIT = 16.0  # beyond, a regularity is 1 in float32
INK = "#010203"  # stands for the colour of the page's text

FUSIONS = {
    "min": "both must pass (Eq. 4)",
    "mean": "the mean of both margins, of which I's share is {balance:.3g}",
    "inpainter": "I alone decides",
    "detector": "D alone decides",
}


@validate_params(  # type: ignore[untyped-decorator]
    {
        "detector": [AVIDDetector],
        "path": [str, os.PathLike],
        "X": "no_validation",
        "y": "no_validation",
        "masks": "no_validation",
        "groups": "no_validation",
        "names": "no_validation",
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
    frame_rate: float | None = None,
    title: str | None = None,
    n_worst: int = 12,
) -> int:
    r"""Write one HTML file that shows what a fitted detector makes of images.

    It opens in any browser, and fetches nothing. Thresholds are on sliders, which redraw the
    masks of the images that are shown.

    Parameters
    ----------
    detector : AVIDDetector
        Fitted.
    path : str or path
        The file, which is replaced where it is there; its folder must exist.
    X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
        Images. Looked at in batches; of all but those that are shown only the score is kept.
    y : array-like of shape (n_images,), default=None
        1 for normal and -1 for irregular images; not needed beside ``masks``.
    masks : array-like of shape (n_images, H, W), bool, default=None
        True where a pixel is irregular.
    groups : array-like of shape (n_images,), default=None
        Clip of each frame; the rows of a clip are consecutive in time. Scores are then drawn
        over time, above a strip of frames.
    names : sequence of length n_images, default=None
        What to call the images, such as their files. Whatever cannot be seen is written as
        Python would, ``\n`` for a line break; nothing is read as HTML.
    frame_rate : float, default=None
        Frames a second in each of ``groups``: says when in its clip a frame was.
    title : str, default=None
        Headline.
    n_worst : int, default=12
        How many images to show, those with the lowest scores. In clips they are some frames
        apart.

    Returns
    -------
    size : int
        Of the file, in bytes. An image of 256 x 256 pixels takes some 200 to 500 kB.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If X, labels, masks, groups and names do not fit each other. Nothing is then written.
    FileNotFoundError
        If the folder of ``path`` is not there.

    See Also
    --------
    skavid.plotting : The figures, one by one.
    skavid.metrics : The metrics.

    Notes
    -----
    The page keeps both margins of Eq. 4, ``log(R / alpha)`` and ``logit(zeta) - logit(O)``, of
    each image that is shown, in steps of 1/64 nat. At the fitted thresholds its masks are those
    of `AVIDDetector.segment`, at other positions of the sliders but for pixels within two steps
    of the threshold. Images of sides beyond 512 pixels are reduced, each square of pixels to its
    most irregular one.

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
    _import_matplotlib()
    check_is_fitted(detector)
    path = Path(path)
    check_target(path)
    images = detector.as_images(X)
    ignored = ignored_pixels(detector.ignore_mask, images.shape[1:3])
    given = _check_given(images, y, masks, groups, names, frame_rate, ignored)
    seen = _look(detector, images, keep=given.masks is not None)
    page = _page(detector, images, given, seen, _visible(title or "skavid report"), int(n_worst))
    content = page.encode()
    replace(path, content)
    return len(content)


class _Given(NamedTuple):
    """What is known of the images."""

    labels: NDArray[Any] | None
    masks: NDArray[Any] | None
    groups: NDArray[Any] | None
    clips: list[str]  # what to call the clip of each image
    names: list[str]
    frame_rate: float | None

    @property
    def kind(self) -> str:
        """What they are: images, or the frames of clips."""
        return "image" if self.groups is None else "frame"


class _Seen(NamedTuple):
    """What the detector makes of all images."""

    scores: NDArray[np.float64]
    alarms: NDArray[np.bool_]
    evidence: NDArray[np.float32] | None


class _Image(NamedTuple):
    """An image that is shown, with what the page needs to segment it."""

    picture: str
    restored: str
    overlay: str
    data: dict[str, Any]
    spans: dict[str, tuple[float, float]]  # median and maximum of either margin, in steps
    findings: list[anomaly_maps.Finding]


# --- what comes in ----------------------------------------------------------------------------


def _check_given(
    images: NDArray[Any],
    y: Any,
    masks: Any,
    groups: Any,
    names: Any,
    frame_rate: float | None,
    ignored: NDArray[np.bool_] | None,
) -> _Given:
    n = len(images)
    marks = None if masks is None else _check_masks(masks, images.shape[:3])
    labels = None if y is None else _check_length("y", y, n)
    if labels is not None and not np.isin(labels, (-1, 1)).all():
        raise ValueError(
            "y must hold 1 (normal) and -1 (irregular). Got "
            f"{np.unique(labels)[:5].tolist()}; labels 0 and 1 become these by "
            "np.where(y == 0, 1, -1)."
        )
    if marks is not None:
        labels = _label(labels, marks, ignored)
    clips = None if groups is None else _check_length("groups", groups, n)
    if clips is not None:
        clip_begins(clips)
    elif frame_rate is not None:
        raise ValueError(
            f"frame_rate={frame_rate:g} tells the times of frames in their clips; give groups, "
            "too, zeros for a single clip."
        )
    called = [] if clips is None else _call(clips)
    return _Given(labels, marks, clips, called, _name(names, clips, called, n), frame_rate)


def _call(clips: NDArray[Any]) -> list[str]:
    """Say what each image's clip is called; no two clips alike."""
    called = [_visible(one) for one in clips.tolist()]
    starts = clip_begins(clips)
    if len(set(called)) < len(starts):
        numbers = np.searchsorted(starts, np.arange(len(clips)), side="right")
        called = [f"{name} ({number})" for name, number in zip(called, numbers, strict=True)]
    return called


def _name(names: Any, clips: NDArray[Any] | None, called: list[str], n: int) -> list[str]:
    if names is not None:
        if isinstance(names, str) or len(names) != n:
            found = "one string" if isinstance(names, str) else counted(len(names), "name")
            raise ValueError(
                f"names holds {found}, but X has {counted(n, 'image')}; give one an image."
            )
        return [_visible(name) for name in names]
    if clips is None:
        return [f"image {row}" for row in range(n)]
    return [f"{clip}, frame {frame}" for clip, frame in zip(called, _frames(clips), strict=True)]


def _frames(clips: NDArray[Any]) -> NDArray[np.int64]:
    """Count the frames of each clip."""
    n = len(clips)
    return np.arange(n) - clip_starts(n, clips)


def _label(
    labels: NDArray[Any] | None, masks: NDArray[Any], ignored: NDArray[np.bool_] | None
) -> NDArray[np.int64]:
    """Label images by their masks, which given labels must not deny."""
    marked = np.array([one.any() for one in masks])
    if labels is not None and len(apart := np.flatnonzero(marked != (labels == -1))):
        said, masked = ("normal", "irregular") if marked[apart[0]] else ("irregular", "normal")
        raise ValueError(
            f"y and masks disagree about {len(apart)} of {len(masks)} images: y says image "
            f"{apart[0]} is {said}, its mask {masked}; leave y out to go by the masks."
        )
    if ignored is not None:
        marked = np.array([one[~ignored].any() for one in masks])
    return np.where(marked, -1, 1)


def _check_length(name: str, array: Any, n: int) -> NDArray[Any]:
    checked: NDArray[Any] = np.asarray(array)
    if checked.shape != (n,):
        raise ValueError(
            f"{name} has the shape {checked.shape}, but X has {counted(n, 'image')}; give one "
            "value an image."
        )
    return checked


def _check_masks(masks: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    checked: NDArray[Any] = np.asanyarray(masks)
    if checked.shape != shape:
        raise ValueError(
            f"masks has the shape {checked.shape}, but X holds images of {shape}; give one mask "
            "an image, of its size."
        )
    if checked.dtype != bool:
        raise ValueError(
            f"masks must be boolean, True where a pixel is irregular. Got {checked.dtype}; write "
            "masks > 0."
        )
    return checked


def _visible(text: Any) -> str:
    """Write out what cannot be seen: control characters, marks of direction, broken bytes."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(text)
    )


# --- what the detector sees -------------------------------------------------------------------


def _look(detector: AVIDDetector, images: NDArray[Any], *, keep: bool) -> _Seen:
    """Score all images in one pass; maps go to a file where a metric wants all of them."""
    scores = np.empty(len(images))
    maps = None
    if keep:
        with tempfile.TemporaryFile() as file:  # a map outlives its file's name
            maps = np.memmap(file, np.float32, "w+", shape=images.shape[:3])
    for part, seen in detector.iter_maps(images, inpainted=False):
        scores[part] = seen.scores
        if maps is not None:
            maps[part] = seen.evidence
    return _Seen(scores, scores < detector.offset_, maps)


def _worst(scores: NDArray[np.float64], n_worst: int, clips: NDArray[Any] | None) -> list[int]:
    """Choose the lowest scores; in a clip some frames apart, or they would all look alike."""
    apart = _apart(len(scores), n_worst, clips)
    chosen: list[int] = []
    for row in np.argsort(scores, kind="stable").tolist():
        if all(
            abs(row - other) >= apart or (clips is not None and clips[row] != clips[other])
            for other in chosen
        ):
            chosen.append(row)
        if len(chosen) == n_worst:
            break
    return chosen


def _apart(n: int, n_worst: int, clips: NDArray[Any] | None) -> int:
    return 1 if clips is None else max(1, n // (4 * n_worst))


def _strip_rows(scores: NDArray[np.float64], n_pixels: int) -> list[int]:
    """Choose frames evenly over time: of each run of frames the most irregular one."""
    n = int(np.clip(STRIP_PIXELS // n_pixels, 1, min(STRIP_FRAMES, len(scores))))
    runs = np.array_split(np.arange(len(scores)), n)
    return [int(run[np.argmin(scores[run])]) for run in runs]


def _show(
    detector: AVIDDetector, images: NDArray[Any], rows: list[int], masks: NDArray[Any] | None
) -> dict[int, _Image]:
    """Look at the chosen images again, and keep what the page needs of them."""
    reduced = _reduction(images)
    shown = {}
    for part, maps in detector.iter_maps(images[rows]):
        evidence, restored = maps.evidence, maps.inpainted
        assert restored is not None
        margins = maps.margins
        for index, row in enumerate(rows[part]):
            steps = _steps(maps.rule, margins[0][index], margins[1][index])
            height, width = evidence[index].shape
            data: dict[str, Any] = {
                "height": -(-height // reduced),
                "width": -(-width // reduced),
            }
            for name, margin in steps.items():
                data[name] = _pack(_most_irregular(margin, evidence[index], reduced))
            if masks is not None and masks[row].any():
                truth = _most_irregular(masks[row], masks[row], reduced)
                data["truth"] = _deflate(np.packbits(truth).tobytes())
            found = _most_irregular(evidence[index] >= 0, evidence[index], reduced)
            shown[row] = _Image(
                picture=_picture(detector, images, images[row], reduced),
                restored=_picture(detector, images, restored[index], reduced),
                overlay=_overlay(found),
                data=data,
                spans={
                    name: (float(np.median(margin)), float(margin.max()))
                    for name, margin in steps.items()
                },
                findings=maps.find(index),
            )
    return shown


def _reduction(images: NDArray[Any]) -> int:
    return -(-int(max(images.shape[1:3])) // SHOWN_SIDE)


def _steps(
    rule: anomaly_maps.DecisionRule,
    inpainter: NDArray[np.float64],
    detector: NDArray[np.float64],
) -> dict[str, NDArray[np.int16]]:
    """Compute each network's margin alone, in whole steps below or at it.

    Rounded down, a margin keeps its side of every threshold that a slider can take. A mean of
    two may lose it by half a step: one is then moved by one, so that the page's mask at the
    fitted thresholds is the detector's.
    """
    steps = {
        name: np.floor(margin.astype(np.float32) / STEP)
        .clip(1 - 2**15, 2**15 - 2)
        .astype(np.int16)
        for name, margin in (("inpainter", inpainter), ("detector", detector))
    }
    if rule.fusion == "mean":
        share = rule.balance
        mean = share * (steps["inpainter"] + 0.5) + (1 - share) * (steps["detector"] + 0.5)
        evidence = (share * inpainter + (1 - share) * detector).astype(np.float32)
        heavier = steps["inpainter" if share >= 0.5 else "detector"]
        heavier[(mean < 0) & (evidence >= 0)] += 1
        heavier[(mean >= 0) & (evidence < 0)] -= 1
    return steps


def _most_irregular(values: NDArray[Any], evidence: NDArray[Any], reduced: int) -> NDArray[Any]:
    """Give each square of pixels the value of the one with the most evidence."""
    if reduced == 1:
        return values
    height, width = (-(-length // reduced) for length in values.shape)
    rest = [
        (0, n * reduced - length) for n, length in zip((height, width), values.shape, strict=True)
    ]
    squares = [
        np.pad(array, rest, mode="edge")
        .reshape(height, reduced, width, reduced)
        .swapaxes(1, 2)
        .reshape(height, width, -1)
        for array in (values, evidence)
    ]
    most = squares[1].argmax(axis=2)[..., None]
    picked: NDArray[Any] = np.take_along_axis(squares[0], most, axis=2)[..., 0]
    return picked


def _pack(steps: NDArray[np.int16]) -> str:
    """Pack what differs from one pixel to the next: all low bytes, then all high bytes."""
    change = np.diff(steps.ravel(), prepend=np.int16(0)).astype("<i2")  # wraps around
    return _deflate(np.ascontiguousarray(change.view(np.uint8).reshape(-1, 2).T).tobytes())


def _deflate(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw, 9)).decode()


# --- pictures ---------------------------------------------------------------------------------


def _picture(
    detector: AVIDDetector, images: NDArray[Any], image: NDArray[Any], reduced: int
) -> str:
    from PIL import Image

    low, high = intensity_range(images, detector.value_range_)
    scaled = (image.astype(np.float64) - low) / (high - low)
    grey = image.shape[-1] != 3 or detector.component("corruption").spacing is not None
    seen = scaled[..., -1] if grey else scaled  # of stacked video the newest moment
    picture = Image.fromarray(np.round(seen.clip(0, 1) * 255).astype(np.uint8))
    return _png(picture.reduce(reduced) if reduced > 1 else picture)


def _overlay(mask: NDArray[np.bool_]) -> str:
    """Draw a mask to lie over its picture where scripts do not run."""
    from PIL import Image

    tint = np.zeros((*mask.shape, 4), np.uint8)
    tint[mask] = (255, 59, 31, 120)
    return _png(Image.fromarray(tint))


def _png(picture: Any) -> str:
    file = io.BytesIO()
    picture.save(file, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _import_matplotlib() -> Any:
    try:
        import matplotlib.figure
        import matplotlib.style
    except ImportError as error:
        raise ImportError("Reports need matplotlib; pip install 'skavid[plot]'.") from error
    return matplotlib


def _figure(
    draw: Callable[[Any], Any], label: str, size: tuple[float, float], n_axes: int = 1
) -> tuple[_Html, Any]:
    """Draw a figure in the colours of the page, as SVG; return it with its axes."""
    matplotlib = _import_matplotlib()
    inked = (
        "text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color",
        "ytick.color", "patch.edgecolor", "hatch.color",
    )  # fmt: skip
    style: dict[str, Any] = dict.fromkeys(inked, INK)
    style |= {
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": matplotlib.cycler(color=["#3b82c4", "#d97706", "#2f9e6e", "#dc4a3d"]),
        "figure.facecolor": "none",
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": label,
        "text.parse_math": False,
    }
    file = io.StringIO()
    with matplotlib.style.context(style, after_reset=True), warnings.catch_warnings():
        # The page's own fonts have what those of matplotlib lack.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
        axes = figure.subplots(n_axes, sharex=True)
        draw(axes)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
    drawn = re.sub(r'<g id="[^"]*">', "<g>", drawn)  # named alike in every figure
    labelled = f'<svg role="img" aria-label="{html.escape(label)}"'
    return _Html(drawn.replace("<svg", labelled, 1)), axes


def _draw_histogram(
    ax: Any, scores: NDArray[np.float64], labels: NDArray[Any] | None, threshold: float
) -> None:
    irregular = 0.0 - scores
    # The threshold is an edge: a bar is of alarms or of none.
    low, high = irregular.min() + threshold, irregular.max() + threshold
    width = max(high - low, 1e-3 * abs(high), 1e-6) / 40
    edges = width * np.arange(low // width - 1, high // width + 3) - threshold
    kinds = [(irregular, "images", "")]
    if labels is not None:
        kinds = [
            (irregular[labels == 1], "normal", ""),
            (irregular[labels == -1], "irregular", "///"),
        ]
    for values, label, hatch in kinds:
        if len(values):
            ax.hist(values, edges, alpha=0.6, hatch=hatch, label=f"{label} ({len(values)})")
    ax.axvline(0.0 - threshold, color=INK, linestyle="--", linewidth=1.2, label="threshold")
    ax.set(xlabel="how irregular (-score)", ylabel="images")
    ax.locator_params(axis="y", integer=True)
    ax.legend()


# --- figures and words ------------------------------------------------------------------------


class _Html(str):
    """Text that is HTML already; all other text is escaped."""


_VOID = {"img"}


def _tag(element: str, /, *children: Any, **attributes: Any) -> _Html:
    """Write an element. Text and attributes are escaped, elements stay."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if element in _VOID:
        return _Html(f"<{element}{written}>")
    return _Html(f"<{element}{written}>{_join(children)}</{element}>")


def _join(children: Iterable[Any]) -> _Html:
    return _Html(
        "".join(
            child if isinstance(child, _Html) else html.escape(str(child)) for child in children
        )
    )


def _json(value: Any) -> _Html:
    """Write data so that no text in it ends the element it stands in."""
    text = json.dumps(value, allow_nan=False)
    for one in "<>&":
        text = text.replace(one, f"\\u{ord(one):04x}")
    return _Html(text)


def _list(items: Iterable[tuple[str, Any]]) -> _Html:
    return _tag("dl", *(_join([_tag("dt", key), _tag("dd", value)]) for key, value in items))


def _written(value: float, how: str) -> str:
    return f"{100 * value:.1f} %" if how == "%" else format(value, how)


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / whole:.3g} %)"


def _metrics(
    detector: AVIDDetector, given: _Given, seen: _Seen
) -> list[tuple[str, float, str, str, str]]:
    """Measure; return name, value, how it is printed, protocol, and who computes it."""
    labels, clips = given.labels, given.groups
    if labels is None or len(np.unique(labels)) < 2:
        return []
    one = given.kind
    found = evaluation.figures(
        seen.scores,
        seen.evidence,
        labels,
        given.masks,
        np.zeros(len(labels)) if clips is None else clips,
        None if detector.ignore_mask is None else np.asarray(detector.ignore_mask),
        one,
    )
    together = "" if clips is None else " All frames of all clips are in one curve (micro)."
    rows = [
        (
            "AUC",
            found["auc"],
            ".3f",
            f"Area under the ROC curve of {one}s: how often an irregular {one} scores lower than "
            f"a normal one; 0.5 is chance.{together}",
            "sklearn.metrics.roc_auc_score",
        ),
        (
            "EER",
            found["eer"],
            "%",
            f"Equal error rate: the share of errors where normal and irregular {one}s are "
            "mistaken equally often. That threshold is chosen with these labels.",
            "skavid.metrics.equal_error_rate",
        ),
    ]
    if "clip_auc" in found:
        rows.append(
            (
                "AUC by clip",
                found["clip_auc"],
                ".3f",
                f"Mean of the AUC of each clip (macro), over the {found['mixed_clips']} of "
                f"{found['clips']} clips that hold frames of both kinds. Each clip has thresholds "
                "of its own, so this is higher as a rule.",
                "skavid.metrics.clip_auc_score",
            )
        )
    if "aupro" in found:
        levels = found["aupro_thresholds"]
        rows += [
            (
                "pixel-level AUC",
                found["pixel_auc"],
                ".3f",
                f"Rule of PAMI 2014: an irregular {one} is found if 40 % of its irregular pixels "
                f"are flagged; a normal {one} is a false alarm if any pixel is. Flagged pixels "
                "beside the irregular ones cost nothing."
                + ("" if detector.ignore_mask is None else " Ignored pixels do not count."),
                "skavid.metrics.pixel_level_auc_score",
            ),
            (
                "pixel-level EER",
                found["pixel_eer"],
                "%",
                "Where both of these errors are equally frequent.",
                "skavid.metrics.pixel_level_equal_error_rate",
            ),
            (
                "AUPRO",
                found["aupro"],
                ".3f",
                "Mean share of each true region that is flagged, against the share of normal "
                "pixels that are; the area up to 30 % of them, divided by it. Regions are "
                "connected over edges or corners; thresholds are "
                f"{'every score' if levels is None else f'{levels} quantiles of the scores'}.",
                "skavid.metrics.aupro_score",
            ),
        ]
    return rows


def _count_alarms(given: _Given, seen: _Seen) -> list[tuple[str, str]]:
    counted = [
        (f"{given.kind}s found irregular", _share(int(seen.alarms.sum()), len(seen.alarms)))
    ]
    if given.labels is not None:
        for label, name, what in ((1, "false alarms", "normal"), (-1, "found", "irregular")):
            here = given.labels == label
            if here.any():
                share = _share(int(seen.alarms[here].sum()), int(here.sum()))
                counted.append((f"{name}, of the {what} {given.kind}s", share))
    return counted


def _rests_on(detector: AVIDDetector) -> str:
    """Say where the thresholds come from."""
    searched = _searched(detector)
    basis = detector.calibration_
    if basis is None:
        words = "Both were given, not calibrated."
    else:
        names = f"{searched[0]} was" if len(searched) == 1 else "Both were"
        told = "calibrated_on" in getattr(detector, "extra_", {})
        origin = "given to calibrate" if told else "held out of the training"
        kind = "image" if basis["n_clips"] is None else "frame"
        images = counted(basis["n_images"], f"normal {kind}")
        rate = f"target_fpr={detector.target_fpr:g}"
        if basis["n_clips"] is None:
            words = (
                f"{names} calibrated on {images} {origin}, for {rate}; "
                f"so many vouch for {basis['fpr_bound']:.2g} of false alarms among new, "
                "independent ones."
            )
        else:
            words = (
                f"{names} calibrated on {images} of {counted(basis['n_clips'], 'clip')} {origin}, "
                f"for {rate} in each clip; a new clip has more with a probability of up to "
                f"{basis['clip_risk']:.2g}."
            )
    if not isinstance(detector.contamination, str):
        kind = "image" if detector.component("corruption").spacing is None else "frame"
        words += (
            f" Both were then moved so that a share of {detector.contamination:g} of the training "
            f"{kind}s was found irregular."
        )
    return words


def _searched(detector: AVIDDetector) -> list[str]:
    """Name the thresholds that `fit` was left to choose."""
    return [name for name in ("alpha", "zeta") if isinstance(getattr(detector, name), str)]


def _changed_parameters(detector: AVIDDetector) -> list[str]:
    short = Repr()
    short.maxother = short.maxstring = 200
    changed = []
    usual = all_parameters(type(detector)())
    for name, value in all_parameters(detector).items():
        if name == "ignore_mask" and value is not None:
            share = float(np.mean(np.asarray(value)))
            changed.append(f"ignore=a mask of {100 * share:.3g} % of the pixels")
        elif (written := short.repr(value)) != repr(usual[name]):
            changed.append(f"{name}={written}")
    return changed


def _learnt_from(detector: AVIDDetector) -> str:
    height, width, n_channels = detector.image_shape_
    low, high = detector.value_range_
    stacked = detector.component("corruption").spacing is not None
    known = getattr(detector, "_trained_on", {})
    kind = "normal frame" if stacked else "normal image"
    number = f"{kind}s" if "n_images" not in known else counted(known["n_images"], kind)
    channels = f"{n_channels} moments of a video" if stacked else counted(n_channels, "channel")
    words = f"{number} of {height} x {width} pixels, {channels}, intensities {low:g} to {high:g}"
    # The command line notes its sources there.
    sources = getattr(detector, "extra_", {}).get("trained_on")
    if isinstance(sources, list) and sources:
        words += f", from {listed([_visible(source) for source in sources])}"
    if known.get("n_held_out"):
        words += f"; {known['n_held_out']} of them were held out"
    return words


def _about(detector: AVIDDetector, images: NDArray[Any], given: _Given) -> _Html:
    seconds = sum(row.get("dur", 0.0) for row in detector.history_)
    kept = [
        f"{letter} is kept from epoch {detector.checkpoint_[network]['epoch']}"
        for letter, network in (("I", "inpainter"), ("D", "detector"))
    ]
    changed = _changed_parameters(detector)
    rule = FUSIONS[detector.fusion].format(balance=detector.balance_)
    looked_at = (
        f"{counted(len(images), given.kind)} of {images.shape[1]} x {images.shape[2]} pixels"
    )
    if given.groups is not None:
        looked_at += f" in {counted(len(clip_begins(given.groups)), 'clip')}"
    if given.labels is not None:
        n_irregular = int((given.labels == -1).sum())
        by = "labels" if given.masks is None else "masks"
        looked_at += f"; {n_irregular} of them irregular, by the {by} given"
    rows: list[tuple[str, Any]] = [
        ("learnt from", _learnt_from(detector)),
        (
            "training",
            f"{counted(len(detector.history_), 'epoch')} in {seconds:.0f} s; {'; '.join(kept)}",
        ),
    ]
    if detector.object_size_ is not None:
        speed = detector.object_speed_
        moving = f", by {speed:.3g} pixels a frame" if speed is not None else ""
        rows.append(("what moves", f"is about {detector.object_size_:.3g} pixels large{moving}"))
    rows += [
        (
            "parameters",
            _tag("ul", *(_tag("li", _tag("code", one)) for one in changed))
            if changed
            else "all as by default",
        ),
        (
            "thresholds",
            f"alpha {detector.alpha_:.4g} on the residual, zeta {detector.zeta_:.4g} on the "
            f"regularity; {rule}. {_rests_on(detector)}",
        ),
        ("looked at", looked_at),
        ("written", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, by {_versions()}"),
    ]
    return _list(rows)


def _versions() -> str:
    others = [f"{name} {metadata.version(name)}" for name in ("torch", "scikit-learn", "numpy")]
    return ", ".join([f"skavid {__version__}", *others, f"Python {platform.python_version()}"])


def _measured(detector: AVIDDetector, given: _Given, seen: _Seen) -> _Html:
    found = _tag(
        "table",
        _tag(
            "caption",
            f"At the thresholds in use; {'an' if given.kind == 'image' else 'a'} {given.kind} is "
            "irregular where its mask is not empty.",
        ),
        _tag(
            "tbody",
            *(
                _tag("tr", _tag("th", name, scope="row"), _tag("td", value))
                for name, value in _count_alarms(given, seen)
            ),
        ),
    )
    metrics = _metrics(detector, given, seen)
    if not metrics:
        why = (
            "No labels and no masks were given, so there is nothing to measure against."
            if given.labels is None
            else f"All {given.kind}s are of one kind by their labels, so there is no curve to "
            "measure."
        )
        return _join([found, _tag("p", why, class_="quiet")])
    head = _tag("tr", *(_tag("th", one, scope="col") for one in ("metric", "value", "protocol")))
    body = [
        _tag(
            "tr",
            _tag("th", name, scope="row"),
            _tag("td", _tag("data", _written(value, how), value=repr(value)), class_="number"),
            _tag("td", protocol, " ", _tag("code", computed_by)),
        )
        for name, value, how, protocol, computed_by in metrics
    ]
    over = _tag("caption", "Over all thresholds:")
    measured = _tag("table", over, _tag("thead", head), _tag("tbody", *body))
    return _join([found, _tag("div", measured, class_="wide")])


def _figures(detector: AVIDDetector, given: _Given, seen: _Seen) -> _Html:
    labels, threshold = given.labels, detector.offset_
    figures = []
    if given.groups is None:
        drawn, _ = _figure(
            lambda ax: _draw_histogram(ax, seen.scores, labels, threshold),
            "histogram of the scores",
            (5, 4),
        )
        figures.append((drawn, "Scores, with their sign turned; right of the line are alarms."))
    if labels is not None and len(np.unique(labels)) == 2:
        drawn, _ = _figure(
            lambda ax: RocDisplay.from_predictions(labels, seen.scores, ax=ax),
            "ROC curve",
            (5, 5),
        )
        figures.append((drawn, "ROC curve; the dot is the equal error rate."))
    drawn, _ = _figure(
        lambda axes: HistoryDisplay.from_estimator(detector, axes=axes),
        "history of the training",
        (7, 6),
        n_axes=3,
    )
    figures.append((drawn, "The training, and the epochs that I and D are kept from."))
    return _tag(
        "div",
        *(
            _tag("figure", _tag("div", drawn, class_="drawn"), _tag("figcaption", words))
            for drawn, words in figures
        ),
        class_="figures",
    )


# --- the page ---------------------------------------------------------------------------------


def _page(
    detector: AVIDDetector,
    images: NDArray[Any],
    given: _Given,
    seen: _Seen,
    title: str,
    n_worst: int,
) -> str:
    """Fill in the page: text is escaped, whatever it holds."""
    worst = _worst(seen.scores, n_worst, given.groups)
    over_time = [] if given.groups is None else _strip_rows(seen.scores, images[0, ..., 0].size)
    rows = list(dict.fromkeys([*worst, *over_time]))
    shown = _show(detector, images, rows, given.masks)
    place = {row: index for index, row in enumerate(rows)}
    timeline, strip = _strip(detector, given, seen, over_time, shown, place)
    script = _part("js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "digest": f"sha256-{digest}",
        "title": title,
        "style": _part("css"),
        "about": _about(detector, images, given),
        "measured": _measured(detector, given, seen),
        "figures": _figures(detector, given, seen),
        "kind": given.kind,
        **_sliders(detector, shown),
        "notes": _notes(detector, images, given, n_worst),
        "strip_hidden": "" if over_time else "hidden",
        "timeline": timeline,
        "last_frame": len(over_time) - 1,
        "strip_notes": _strip_notes(len(over_time), len(images)),
        "cards": _join(_card(shown[row], place[row], row, given, seen) for row in worst),
        "clips": _clips(given, seen),
        "data": _json(
            {
                "rule": _rule(detector, images, given.kind),
                "images": [shown[row].data for row in rows],
                "strip": strip,
            }
        ),
        "script": script,
    }
    return Template(_part("html")).substitute({name: _join([one]) for name, one in parts.items()})


def _part(kind: str) -> _Html:
    return _Html(resources.files("skavid.report").joinpath(f"report.{kind}").read_text("utf-8"))


def _rule(detector: AVIDDetector, images: NDArray[Any], kind: str) -> dict[str, Any]:
    """Tell the page how the detector comes from margins to a mask."""
    return {
        "alpha": detector.alpha_,
        "zeta": detector.zeta_,
        "logitZeta": float(logit(detector.zeta_)),
        "fusion": detector.rule_.fusion,
        "balance": detector.balance_,
        "step": STEP,
        "minArea": int(detector.component("postprocessing").min_area),
        "minAreaOf": detector.component("postprocessing").min_area_of,
        "reduced": _reduction(images),
        "kind": kind,
    }


def _sliders(detector: AVIDDetector, shown: dict[int, _Image]) -> dict[str, Any]:
    unused = {"inpainter": "zeta", "detector": "alpha"}.get(detector.rule_.fusion)
    parts: dict[str, Any] = {}
    for name, (low, high) in _ranges(detector, shown).items():
        parts[name] = f"{getattr(detector, name + '_'):.3g} (as fitted)"
        parts[f"{name}_min"], parts[f"{name}_max"] = low, high
        parts[f"{name}_disabled"] = "disabled" if name == unused else ""
    return parts


def _notes(detector: AVIDDetector, images: NDArray[Any], given: _Given, n_worst: int) -> str:
    notes = ["Those with the lowest scores; patches and peaks are of the fitted thresholds."]
    apart, reduced = _apart(len(images), n_worst, given.groups), _reduction(images)
    if apart > 1:
        notes.append(f"Of frames of a clip less than {apart} apart only the worst is shown.")
    notes.append("Red: found irregular.")
    if given.masks is not None:
        notes.append("Blue: truly irregular.")
    if detector.fusion in ("inpainter", "detector"):
        notes.append(f"fusion={detector.fusion!r} asks one threshold alone.")
    if reduced > 1:
        notes.append(
            f"Each {reduced} x {reduced} pixels are shown as one, by the most irregular of them; "
            "areas are approximate."
        )
    return " ".join(notes)


def _ranges(detector: AVIDDetector, shown: dict[int, _Image]) -> dict[str, tuple[int, int]]:
    """Let each slider go from where half of the pixels pass to where none does, in steps."""
    ranges = {}
    for name, network, sign in (("alpha", "inpainter", 1), ("zeta", "detector", -1)):
        middle = min(one.spans[network][0] for one in shown.values())
        largest = max(one.spans[network][1] for one in shown.values())
        ends = sorted((sign * min(middle, -64), sign * (max(largest, 64) + 8)))
        if name == "zeta":  # no float32 between its odds and 1 beyond
            room = (HIGHEST_LOGIT - float(logit(detector.zeta_))) / STEP
            ends[1] = max(min(ends[1], room), 0)
        ranges[name] = (math.floor(ends[0]), math.ceil(ends[1]))
    return ranges


def _truth(given: _Given, row: int) -> str:
    if given.labels is None:
        return ""
    return "truly irregular" if given.labels[row] == -1 else "truly normal"


def _facts(given: _Given, seen: _Seen, row: int) -> str:
    facts = f"score {seen.scores[row]:.3g}"
    if given.groups is not None and given.frame_rate is not None:
        facts += f", at {clock(float(_frames(given.groups)[row]) / given.frame_rate)}"
    return facts


def _verdict(image: _Image) -> _Html:
    area = sum(one.area for one in image.findings)
    patches = counted(len(image.findings), "patch", "patches")
    words = f"irregular: {counted(area, 'pixel')} in {patches}" if area else "normal"
    return _tag("p", words, class_=f"verdict {words.split(':')[0]}")


def _card(image: _Image, index: int, row: int, given: _Given, seen: _Seen) -> _Html:
    name = given.names[row]
    known = _truth(given, row)
    facts = _facts(given, seen, row) + (f"; {known}" if known else "")
    found = [
        _tag(
            "li",
            f"rows {one.box[0]} to {one.box[2] - 1}, columns {one.box[1]} to {one.box[3] - 1}: "
            f"{counted(one.area, 'pixel')}, peak {one.peak:.3g} at ({one.peak_at[0]}, "
            f"{one.peak_at[1]}), carried by "
            + {"inpainter": "I", "detector": "D"}.get(one.carried_by, "both"),
        )
        for one in image.findings[:FINDINGS]
    ]
    if len(image.findings) > FINDINGS:
        found.append(_tag("li", f"and {len(image.findings) - FINDINGS} more"))
    return _tag(
        "article",
        _tag("h3", _tag("bdi", name)),
        _tag("p", facts, class_="quiet"),
        _verdict(image),
        _tag(
            "div",
            _tag(
                "figure",
                _tag(
                    "div",
                    _tag("img", src=image.picture, alt=name),
                    _tag("img", src=image.overlay, alt="", class_="over static"),
                    _tag("canvas", class_="over"),
                    class_="picture",
                ),
                _tag("figcaption", f"{given.kind} and mask"),
            ),
            _tag(
                "figure",
                _tag("div", _tag("img", src=image.restored, alt=""), class_="picture"),
                _tag("figcaption", "restored to normal, I(X)"),
            ),
            class_="pair",
        ),
        _tag("ul", *found) if found else "",
        class_="card",
        data_image=index,
    )


def _strip(
    detector: AVIDDetector,
    given: _Given,
    seen: _Seen,
    rows: list[int],
    shown: dict[int, _Image],
    place: dict[int, int],
) -> tuple[_Html, dict[str, Any] | None]:
    """Draw scores over time, and list the frames that the page moves through."""
    if not rows:
        return _Html(""), None
    drawn, ax = _figure(
        lambda ax: ScoreOverTimeDisplay.from_predictions(
            seen.scores,
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
            "image": place[row],
            "place": (row + 0.5) / len(seen.scores),
            "name": given.names[row],
            "facts": _facts(given, seen, row),
            "truth": _truth(given, row),
            "alarm": bool(seen.alarms[row]),
            "picture": shown[row].picture,
        }
        for row in rows
    ]
    box = ax.get_position()
    return drawn, {"axis": [float(box.x0), float(box.x1)], "frames": frames}


def _strip_notes(n_shown: int, n: int) -> str:
    if n_shown == n:
        return "All frames are here."
    return f"{n_shown} of {n} frames are here: evenly over time, the most irregular ones."


def _clips(given: _Given, seen: _Seen) -> _Html:
    if given.groups is None:
        return _Html("")
    starts = clip_begins(given.groups)
    clips = list(zip(starts.tolist(), [*starts[1:].tolist(), len(seen.scores)], strict=True))
    kept = sorted(clips, key=lambda one: -float(seen.alarms[slice(*one)].mean()))[:CLIPS]
    heads = ["clip", "frames", "alarms", "lowest score"]
    heads += [] if given.labels is None else ["truly irregular"]
    body = []
    for begin, end in kept:
        here = slice(begin, end)
        cells = [
            _tag("td", str(end - begin), class_="number"),
            _tag("td", _share(int(seen.alarms[here].sum()), end - begin), class_="number"),
            _tag("td", f"{seen.scores[here].min():.3g}", class_="number"),
        ]
        if given.labels is not None:
            n_irregular = int((given.labels[here] == -1).sum())
            cells.append(_tag("td", str(n_irregular), class_="number"))
        name = _tag("th", _tag("bdi", given.clips[begin]), scope="row")
        body.append(_tag("tr", name, *cells))
    head = [
        _tag("th", one, scope="col", class_="number" if index else None)
        for index, one in enumerate(heads)
    ]
    words = "Those with the largest share of alarms come first."
    if len(kept) < len(clips):
        words += f" {len(kept)} of {len(clips)} are listed."
    table = _tag(
        "table",
        _tag("caption", words),
        _tag("thead", _tag("tr", *head)),
        _tag("tbody", *body),
    )
    return _join([_tag("h2", "Clips"), _tag("div", table, class_="wide")])
