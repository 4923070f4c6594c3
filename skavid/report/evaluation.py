"""Ground truth from files, and the metrics of `skavid evaluate` and the report (Sec. 4.2)."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn.metrics import confusion_matrix, roc_auc_score

from skavid import metrics
from skavid.datasets.clips import (
    NORMAL,
    choose_mask,
    index_masks,
    is_normal,
    picture_masks,
    read_mask,
    shrink,
    walk_folders,
    warn_of_lossy,
)
from skavid.datasets.sources import Box, Source, open_array
from skavid.estimator import AVIDDetector
from skavid.video.decoding import BrokenVideoError
from skavid.video.frames import picture_shape
from skavid.video.pictures import cut, list_pictures
from skavid.wording import counted, either, listed, readable, there_are

__all__: list[str] = []  # for the command line and the report alone

EXACT_PIXELS = 2**24  # for more pixels, AUPRO uses quantiles of the scores as thresholds
QUANTILES = 1000
UNEXPECTED = 0.01  # probability of so many false alarms, below which they are told
LABELS = {"normal": 1, "1": 1, "irregular": -1, "-1": -1}
_FORM = "must hold one label per line, normal or irregular (or 1 and -1), in the order of the {}"
_OR_NAMED = ", or NAME,LABEL with the name of each image"


def read_labels(path: Path, names: Sequence[str] | None = None) -> NDArray[np.int64]:
    """Read a text file with one label per line, or with the name of an image and its label.

    ``names`` are those of the images, in whose order labels by name are returned.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of labels: {path}.")
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows writes a mark
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not a text file; give one label, or a name and a label, per line."
        ) from error
    form = f"{path} {_FORM.format('frames')}"
    if names is not None:
        form = f"{path} {_FORM.format('images')}{_OR_NAMED}"
    words = text.split()
    of_names = None
    if not {word.lower() for word in words} <= {*LABELS, "0"}:
        lines = [line for line in text.splitlines() if line.strip()]
        of_names = _split_names(path, lines, form)
        words = list(of_names.values())
    if "0" in words and set(words) <= {"0", "1"}:
        raise ValueError(
            f"{path} holds 0 and 1, whose meaning differs from program to program; write normal "
            "and irregular, or 1 for normal and -1 for irregular."
        )
    unknown = [word for word in words if word.lower() not in LABELS]
    if unknown:
        raise ValueError(f"{form}. Got {unknown[0][:40]!r}.")
    labels = [LABELS[word.lower()] for word in words]
    if of_names is None:
        return np.array(labels, dtype=int)
    if names is None:
        raise ValueError(
            f"{path} holds names of images, but frames of videos and arrays have none; give one "
            "label per line, in their order."
        )
    return _in_order(path, dict(zip(of_names, labels, strict=True)), names)


def _split_names(path: Path, lines: list[str], form: str) -> dict[str, str]:
    """Split lines of a name and a label; a first line without a label is the header.

    ``form`` says what the file must hold.
    """
    separator = next((one for one in "\t;,|" if all(one in line for line in lines)), None)
    if separator is None:  # the last space
        rows = [line.rsplit(None, 1) for line in lines]
    else:
        rows = list(csv.reader(lines, delimiter=separator))
    rows = [[field.strip() for field in row] for row in rows]
    wrong = [(separator or " ").join(row) for row in rows if len(row) != 2]
    if wrong:
        text = next((text for text in wrong if text.lower() not in LABELS), wrong[0])
        raise ValueError(f"{form}. Got {text[:40]!r}.")
    if rows[0][1].lower() not in {*LABELS, "0"}:
        rows = rows[1:]
    found: dict[str, str] = {}
    for row in rows:
        name = row[0].replace("\\", "/").removeprefix("./")
        if found.setdefault(name, row[1]) != row[1]:
            raise ValueError(f"{path} holds two different labels of {row[0]}; keep one of them.")
    return found


def _in_order(path: Path, of_names: dict[str, int], names: Sequence[str]) -> NDArray[np.int64]:
    """Return labels in the order of the images, whose folders may be left out or written in full.

    An image without a label raises an error, and a label of no image a warning.
    """
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        for ending in _endings(name):
            rows_of.setdefault(ending, []).append(row)
    labels, unknown = np.zeros(len(names), dtype=int), []
    for name, label in of_names.items():
        rows = next((rows_of[ending] for ending in _endings(name) if ending in rows_of), [])
        if len(rows) > 1:
            raise ValueError(
                f"{path} holds a label of {name}, but {len(rows)} images are called so, such as "
                f"{names[rows[0]]} and {names[rows[1]]}; write the names with their folders."
            )
        if rows and labels[rows[0]] not in (0, label):
            raise ValueError(
                f"{path} holds two different labels of {names[rows[0]]}; keep one of them."
            )
        labels[rows] = label
        if not rows:
            unknown.append(name)
    if (labels == 0).any():
        missing = [name for name, label in zip(names, labels, strict=True) if label == 0]
        others = f"; it has labels of no image, such as {unknown[0]}" if unknown else ""
        raise ValueError(
            f"{path} has no label of {len(missing)} of {counted(len(names), 'image')}, such as "
            f"{missing[0]}{others}. Add a line for each, or give the labelled images alone."
        )
    if unknown:
        warnings.warn(
            f"{counted(len(unknown), 'label')} in {path} {'is' if len(unknown) == 1 else 'are'} "
            f"of none of the images, such as that of {unknown[0]}.",
            stacklevel=3,
        )
    return labels


def _endings(name: str) -> list[str]:
    """Return a/b/c.png, b/c.png and c.png."""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def kinds_of(found: Sequence[Source]) -> list[str] | None:
    """Return the folder of each picture, if the folders name kinds, among them a normal one."""
    if any(source.kind != "pictures" for source in found):
        return None
    images = (path for source in found for path, _ in source.images())
    kinds = [readable(path.absolute().parent.name) for path in images]
    has_kinds = len(set(kinds)) > 1 and any(map(is_normal, kinds))
    return kinds if has_kinds else None


def labels_of(found: Sequence[Source]) -> NDArray[np.int64]:
    """Return labels by the names of folders: all but those of normal images are irregular."""
    kinds = kinds_of(found)
    if kinds is None:
        raise ValueError(
            "--labels folders needs images in several folders, and those of normal images must "
            f"be called {either(sorted(NORMAL))}."
        )
    return np.array([1 if is_normal(kind) else -1 for kind in kinds])


def check_count(path: Path, what: str, found: int, n: int, unit: str) -> None:
    """Refuse ground truth that does not hold one label or mask per image or frame."""
    if found != n:
        raise ValueError(f"{path} holds {counted(found, what)}, but {there_are(n, unit)}.")


def read_masks(
    path: Path, clips: Sequence[Source], shape: tuple[int, int], crop: Box | None = None
) -> NDArray[np.bool_]:
    """Read the masks of images by their names, or those of video frames in order.

    Masks are drawn over the originals, of which ``crop`` is used, and are resized to ``shape``.
    """
    if path.suffix.lower() == ".npy":
        array = open_array(path)
        if array.ndim != 3:
            raise ValueError(
                f"{path} has the shape {array.shape}, but masks have (n, height, width)."
            )
        masks = [np.nan_to_num(mask) != 0 for mask in array]
    elif not path.is_dir():
        raise FileNotFoundError(f"There is no folder or .npy file of masks: {path}.")
    elif all(clip.kind == "pictures" for clip in clips):
        masks = _masks_by_name(path, clips, shape if crop is None else None)
    else:
        # One folder per clip, as `skavid segment` writes them, or all masks in one folder.
        folders = [path / clip.name for clip in clips]
        if not all(folder.is_dir() for folder in folders):
            folders = [path]
        masks = [mask for folder in folders for mask in picture_masks(folder)]
    if not masks:
        raise ValueError(f"{path} holds no mask.")
    if crop is not None:
        masks = [cut(mask, crop, path) if mask.any() else mask for mask in masks]
    return np.stack([shrink(mask, mask.shape, shape, path) for mask in masks])


def _masks_by_name(
    path: Path, clips: Sequence[Source], shape: tuple[int, int] | None
) -> list[NDArray[np.bool_]]:
    """Read the masks of pictures, in their own sizes if ``shape`` is None.

    A picture without a mask is normal.
    """
    indices: dict[Path, dict[str, list[Path]]] = {}
    images = [(clip, picture, page) for clip in clips for picture, page in clip.images()]
    found = [_mask_of(path, clip, picture, page, indices) for clip, picture, page in images]
    if not any(found):
        raise FileNotFoundError(
            f"{path} holds no mask of any picture, such as {images[0][1].stem}_mask.png."
        )
    _tell_unmatched(path, [picture for _, picture, _ in images], found)
    warn_of_lossy(found)
    # A picture that cannot be read has no size, and is left out later.
    masks = []
    for mask, (_, picture, page) in zip(found, images, strict=True):
        own = _shape_of(picture)
        drawn = None if own is None else mask
        masks.append(read_mask(drawn, picture, shape or own or (1, 1), page=page or 0))
    _tell_unmarked_defects(images, masks)
    return masks


def _shape_of(picture: Path) -> tuple[int, ...] | None:
    try:
        return picture_shape(picture)
    except BrokenVideoError:
        return None


def _tell_unmarked_defects(
    images: list[tuple[Source, Path, int | None]], masks: list[NDArray[np.bool_]]
) -> None:
    """Warn about images without a marked pixel beside, not in, a folder of normal images."""
    normal = sorted({path.parent.name for _, path, _ in images if is_normal(path.parent.name)})
    unmarked = [
        clip.name_of(path, page)
        for (clip, path, page), mask in zip(images, masks, strict=True)
        if not mask.any() and not is_normal(path.parent.name)
    ]
    if normal and unmarked:
        verb = "has" if len(unmarked) == 1 else "have"
        warnings.warn(
            f"{counted(len(unmarked), 'image')} outside of {listed(normal)} {verb} no mask or an "
            f"empty one, such as {unmarked[0]}; they count as normal.",
            stacklevel=4,
        )


def _tell_unmatched(path: Path, pictures: list[Path], found: list[Path | None]) -> None:
    """Warn about masks of no picture, and pictures without a mask outside of normal folders."""
    used = {*found, *pictures}
    masks = [mask for folder in walk_folders(path) for mask in list_pictures(folder)]
    left = [mask for mask in masks if mask not in used]
    lacking = [
        picture
        for picture, mask in zip(pictures, found, strict=True)
        if mask is None and not is_normal(picture.parent.name)
    ]
    if left:
        warnings.warn(
            f"{counted(len(left), 'mask')} in {path} {'belongs' if len(left) == 1 else 'belong'} "
            f"to none of the images, such as {left[0].relative_to(path)}; name masks like their "
            "images, such as 7.png or 7_mask.png for 7.jpg.",
            stacklevel=4,
        )
    if lacking:
        warnings.warn(
            f"{len(lacking)} of {counted(len(pictures), 'image')} have no mask and count as "
            f"normal, such as {lacking[0].name}.",
            stacklevel=4,
        )


def _mask_of(
    folder: Path,
    clip: Source,
    picture: Path,
    page: int | None,
    indices: dict[Path, dict[str, list[Path]]],
) -> Path | None:
    # One folder per clip, as `skavid segment` writes them; or in folders like those of the
    # pictures; or all masks in one folder.
    inner = picture.relative_to(clip.path).parent
    for place in (folder / clip.prefix / inner, folder / inner, folder):
        if place not in indices:
            indices[place] = index_masks(place) if place.is_dir() else {}
        if (mask := choose_mask(indices[place], picture, page)) is not None:
            return mask
    return None


def compute_metrics(
    scores: NDArray[np.float64],
    evidence: NDArray[np.float32] | None,
    labels: NDArray[np.int64],
    masks: NDArray[np.bool_] | None,
    clip_of: NDArray[Any],
    ignored: NDArray[np.bool_] | None,
    unit: str,
    *,
    has_masks: NDArray[np.bool_] | None = None,
    kinds: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Compute the metrics that the ground truth allows.

    Parameters
    ----------
    scores : ndarray of shape (n_images,)
        Scores of the images, at most 0 where an image is found irregular.
    evidence : ndarray of shape (n_images, height, width) or None
        Anomaly maps. Without them there are no pixel-level metrics.
    labels : ndarray of shape (n_images,)
        Ground truth: 1 for normal and -1 for irregular images.
    masks : ndarray of shape (n_images, height, width) or None
        Ground truth: True for irregular pixels.
    clip_of : ndarray of shape (n_images,)
        Clip of each image.
    ignored : ndarray of shape (height, width) or None
        True for pixels that do not count.
    unit : str
        Word for one of the images, such as "frame".
    has_masks : ndarray of shape (n_images,), default=None
        False for images that nobody drew a mask for; for these only the label counts. None if
        the masks of all images were drawn.
    kinds : sequence of str, default=None
        Kind of each image, such as "good" or that of its fault.

    Returns
    -------
    metrics : dict
        Value of each metric, and the numbers of images and clips.
    """
    drawn = np.ones(len(labels), dtype=bool) if has_masks is None else has_masks
    marked = labels == -1
    if masks is not None:
        counts = True if ignored is None else ~ignored
        marked = np.array([(mask & counts).any() for mask in masks])
        if ignored is not None:
            labels = np.where(drawn, np.where(marked, -1, 1), labels)
    irregular = labels == -1
    check_kinds(irregular, unit)
    flagged = scores <= 0
    result: dict[str, Any] = {
        "images": len(scores),
        "irregular": int(irregular.sum()),
        "auc": float(roc_auc_score(labels, scores)),
        "eer": metrics.equal_error_rate(labels, scores),
        "false_alarms": float(flagged[~irregular].mean()),
        "hits": float(flagged[irregular].mean()),
        **decisions(flagged, irregular),
    }
    if kinds is not None:
        result["kinds"] = _metrics_of_kinds(np.asarray(kinds), scores, irregular)
    clips = np.unique(clip_of)
    mixed = sum(len(np.unique(labels[clip_of == clip])) == 2 for clip in clips)
    if mixed and len(clips) > 1:
        result["clip_auc"] = metrics.clip_auc_score(labels, scores, clip_of)
        result |= {"clips": len(clips), "mixed_clips": mixed}
    if masks is None or evidence is None or len(np.unique(marked[drawn])) < 2:
        return result
    if not drawn.all():
        masks, evidence = masks[drawn], evidence[drawn]
    levels = None if evidence.size <= EXACT_PIXELS else QUANTILES
    return result | {
        "pixel_auc": metrics.pixel_level_auc_score(masks, evidence, ignore_mask=ignored),
        "pixel_eer": metrics.pixel_level_equal_error_rate(masks, evidence, ignore_mask=ignored),
        "aupro": metrics.aupro_score(masks, evidence, n_thresholds=levels, ignore_mask=ignored),
        "aupro_thresholds": levels,
    }


def check_kinds(irregular: NDArray[np.bool_], unit: str) -> None:
    """Raise an error unless some images are irregular and some are normal."""
    if irregular.all() or not irregular.any():
        kind = "irregular" if irregular.all() else "normal"
        raise ValueError(
            f"according to the ground truth all {unit}s are {kind}; both kinds are needed."
        )


def decisions(flagged: NDArray[np.bool_], irregular: NDArray[np.bool_]) -> dict[str, Any]:
    """Compare the images that are flagged with those that are irregular, which is "positive".

    The precision is None where nothing is flagged, and the recall where nothing is irregular.
    """
    (tn, fp), (fn, tp) = confusion_matrix(irregular, flagged, labels=[False, True]).tolist()
    return {
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None,
        "precision": tp / (tp + fp) if tp + fp else None,
        "recall": tp / (tp + fn) if tp + fn else None,
        "confusion": {
            "true_positives": tp, "false_negatives": fn, "false_positives": fp,
            "true_negatives": tn,
        },
    }  # fmt: skip


def _metrics_of_kinds(
    kinds: NDArray[Any], scores: NDArray[np.float64], irregular: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """Measure each kind; its irregular images are compared with all normal ones."""
    rows = []
    for kind in dict.fromkeys(kinds.tolist()):
        here = kinds == kind
        row: dict[str, Any] = {
            "kind": kind,
            "images": int(here.sum()),
            "irregular": int(irregular[here].sum()),
            "flagged": int((scores[here] <= 0).sum()),
        }
        if row["irregular"]:
            compared = (here & irregular) | ~irregular
            measured = decisions(scores[compared] <= 0, irregular[compared])
            row |= {name: measured[name] for name in ("f1", "precision", "recall")}
            row["auc"] = float(roc_auc_score(~irregular[compared], scores[compared]))
        rows.append(row)
    return rows


def best_cut(
    scores: NDArray[np.float64], labels: NDArray[np.int64], criterion: str
) -> tuple[float, float]:
    """Find the cut that separates labelled images best: flagged are scores of at most the cut.

    Parameters
    ----------
    scores : ndarray of shape (n_images,)
        The higher, the more normal.
    labels : ndarray of shape (n_images,)
        1 for normal and -1 for irregular images, both present.
    criterion : {"f1", "balanced-accuracy"}
        What is largest at the cut. Of several best cuts, the one that flags fewest is taken.

    Returns
    -------
    cut : float
        Half way between two scores.
    value : float
        The criterion at the cut.
    """
    order = np.argsort(scores, kind="stable")
    ordered, irregular = scores[order], labels[order] == -1
    hits, alarms = np.cumsum(irregular), np.cumsum(~irregular)
    n_irregular, n_normal = hits[-1], alarms[-1]
    values = {
        "f1": 2 * hits / (hits + alarms + n_irregular),
        "balanced-accuracy": (hits / n_irregular + 1 - alarms / n_normal) / 2,
    }[criterion]
    is_cut = np.append(ordered[1:] > ordered[:-1], True)  # equal scores are flagged together
    best = int(np.argmax(np.where(is_cut, values, -1)))
    after = ordered[best + 1] if best + 1 < len(ordered) else ordered[best] + 1
    return float((ordered[best] + after) / 2), float(values[best])


def format_metrics(result: dict[str, Any], unit: str, fpr: float | None = None) -> str:
    """Format metrics as tables; ``fpr`` is the most that the calibration lets expect."""
    counts = result["confusion"]
    names = {
        "auc": f"AUC of {unit}s",
        "eer": f"equal error rate of {unit}s",
        "clip_auc": f"AUC of {unit}s, mean over the {result.get('mixed_clips')} of "
        f"{result.get('clips')} clips with both kinds",
        "pixel_auc": "pixel-level AUC (PAMI 2014, 40 %)",
        "pixel_eer": "pixel-level equal error rate",
        "aupro": "AUPRO (up to 30 % of false positives)",
    }
    width = max(map(len, names.values()))
    lines = [
        f"{counted(result['images'], unit)}, {result['irregular']} of them irregular",
        "",
        "At the model's thresholds:",
        f"{'':20}{'flagged':>10}{'not flagged':>13}",
        *(
            f"{f'{kind} {unit}s':20}{counts[flagged]:>10,}{counts[missed]:>13,}"
            for kind, flagged, missed in (
                ("irregular", "true_positives", "false_negatives"),
                ("normal", "false_positives", "true_negatives"),
            )
        ),
        f"F1 {number(result['f1'])}, precision {number(result['precision'])}, recall "
        f"{number(result['recall'])}, false alarm rate {result['false_alarms']:.3f}",
        *unexpected_alarms(counts, fpr, unit),
        "",
        "Over all thresholds:",
        *(f"{text:{width}}  {result[name]:.3f}" for name, text in names.items() if name in result),
    ]
    if "kinds" in result:
        lines += ["", *_format_kinds(result["kinds"])]
    return "\n".join(lines)


def most_alarms(detector: AVIDDetector, unit: str) -> float | None:
    """Return the most false alarms that the calibration lets expect; None where it cannot say.

    Frames of a clip are alike, so that their number says little.
    """
    return (detector.calibration_ or {}).get("fpr_limit") if unit == "image" else None


def unexpected_alarms(counts: dict[str, int], fpr: float | None, unit: str) -> list[str]:
    """Tell a false alarm rate that is far above what the calibration lets expect."""
    n_alarms = counts["false_positives"]
    n_normal = n_alarms + counts["true_negatives"]
    if fpr is None or binom.sf(n_alarms - 1, n_normal, fpr) > UNEXPECTED:
        return []
    return [
        f"The calibration lets expect a false alarm rate of at most {fpr:.2g}: the normal {unit}s "
        "here differ from those of the training.",
        f"Train on such {unit}s, too, or find thresholds on some of them by `skavid calibrate`.",
    ]


def _format_kinds(rows: list[dict[str, Any]]) -> list[str]:
    measures = ("recall", "precision", "f1", "auc")
    width = max(len(row["kind"]) for row in rows)
    head = f"{'kind':{width}}{'images':>8}{'flagged':>9}"
    return [
        "Each kind, compared with all normal images:",
        head + "".join(f"{name:>11}" for name in ("recall", "precision", "F1", "AUC")),
        *(
            f"{row['kind']:{width}}{row['images']:>8,}{row['flagged']:>9,}"
            + "".join(f"{number(row[name]):>11}" for name in measures if name in row)
            for row in rows
        ),
    ]


def number(value: float | None) -> str:
    """Write a measure, "-" if it is undefined."""
    return "-" if value is None else f"{value:.3f}"
