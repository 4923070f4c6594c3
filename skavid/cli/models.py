"""Open and check models, and describe them in words and as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from skavid.cli.console import Console
from skavid.cli.outputs import check_targets
from skavid.components import check_device, names_of_maps
from skavid.datasets import sources
from skavid.datasets.sources import Reading, Source
from skavid.estimator import AVIDDetector
from skavid.video.pictures import see_colors, spread
from skavid.wording import counted, there_are
from skavid.writing import check_parent

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

MIN_IMAGES = 10  # fewer say nothing about what is normal
CRITERIA = {"balanced-accuracy": "balanced accuracy", "f1": "F1"}
MOST_SEEN = 5  # images whose colours are looked at
MAX_NAMES = 1000  # sources whose names are saved with a model


def check_model_target(path: Path, advice: str) -> Path:
    """Raise an error if a file that is not a model would be replaced by one."""
    if path.exists() and not _is_model(path):
        raise ValueError(f"{path} exists and is not a model of skavid; {advice}.")
    check_parent(path)
    return path


def _is_model(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(2**12)
    return head[8:9] == b"{" and b'"skavid"' in head


def check_number(n: int, unit: str, use: str) -> None:
    """Raise an error if there are too few images to train or to calibrate."""
    if n < MIN_IMAGES:
        raise ValueError(
            f"{there_are(n, unit)}, which is too few to {use}; give {MIN_IMAGES} or more."
        )


def open_model(arguments: argparse.Namespace) -> tuple[AVIDDetector, Reading]:
    """Load a model, and how it reads sources."""
    model, device = arguments.model, getattr(arguments, "device", "auto")
    if not model.exists():
        raise FileNotFoundError(f"There is no file {model}; the first argument is the model.")
    if not _is_model(model):
        raise ValueError(
            f"{model} is not a model that `skavid fit` wrote; the first argument is the model."
        )
    check_device(device)
    detector = AVIDDetector.load(model)
    detector.set_params(device=device)
    saved = getattr(detector, "extra_", {}).get("reading")
    if saved is not None:
        try:
            return detector, sources.check_reading(saved)
        except ValueError as error:
            raise ValueError(f"{arguments.model} cannot be used: {error}") from error
    height, width, n_channels = detector.image_shape_  # a model that was saved from Python
    stacking = sources.stacking(detector.component("corruption").spacing)
    size = (height, width) if n_channels in (1, 3) else None
    return detector, Reading(size, n_channels == 3 and stacking is None, stacking)


def open_model_and_sources(
    arguments: argparse.Namespace, console: Console, targets: Mapping[str, Path | None]
) -> tuple[AVIDDetector, Reading, list[Source], NDArray[np.bool_] | None]:
    """Load a model, find its sources, and combine the masks of pixels to ignore.

    An output among ``targets`` that would replace the model or a source raises an error.
    """
    detector, reading = open_model(arguments)
    found = find_sources(arguments.sources, reading, arguments.fps)
    if targets:
        check_targets(targets, found, arguments.model, arguments.force)
    note_kind(found, detector, reading, console)
    is_told = getattr(detector, "extra_", {}).get("ignores_colors") is True
    note_colors(found, None if is_told else reading, console)
    return detector, reading, found, set_ignore_mask(arguments, detector, reading, found)


def find_sources(paths: Sequence[str], reading: Reading, fps: float | None = None) -> list[Source]:
    """Find the sources in files and folders, as a model reads them."""
    return sources.list_sources(paths, stacked=reading.stacking is not None, fps=fps)


def set_ignore_mask(
    arguments: argparse.Namespace, detector: AVIDDetector, reading: Reading, found: list[Source]
) -> NDArray[np.bool_] | None:
    """Let a detector ignore the pixels of --ignore besides those that it ignores already."""
    own = None if detector.ignore_mask is None else np.asarray(detector.ignore_mask)
    if arguments.ignore is None:
        return own
    if reading.tiled:
        refuse_ignore_mask()
    size = reading.size or detector.image_shape_[:2]
    example = found[0] if found else None
    given = sources.read_ignore_mask(arguments.ignore, size, example, reading.crop)
    both = given if own is None else given | own
    if both.all():
        raise ValueError(f"{arguments.ignore} and the mask of the model ignore every pixel.")
    detector.set_params(ignore_mask=both)
    return both


def refuse_ignore_mask() -> NoReturn:
    """Raise an error for a mask of pixels to ignore in images that are cut into tiles."""
    raise ValueError(
        "--ignore marks fixed places, but the model cuts images into tiles; --crop of `skavid "
        "fit` takes a box of each image."
    )


def note_kind(
    found: list[Source], detector: AVIDDetector, reading: Reading, console: Console
) -> None:
    """Note sources of another kind than those of the training: pictures or video files.

    A frame rate is saved only if the model was trained on video files.
    """
    had_frame_rate = getattr(detector, "extra_", {}).get("fps") is not None
    if had_frame_rate == (reading.stacking is None) or reading.size is None:
        return
    names = [
        source.file_name()
        for source in found
        if source.kind != "array" and source.has_timestamps() != had_frame_rate
    ]
    if not names:
        return
    others = f" and {counted(len(names) - 1, 'other')}" if len(names) > 1 else ""
    if had_frame_rate:
        how = (
            "read as frames of a video with 25 frames per second (--fps changes that), since the "
            "model was trained on video"
        )
    else:
        how = "scored frame by frame, since the model was trained on single images"
    console.log(f"Note: {names[0]}{others} {'is' if len(names) == 1 else 'are'} {how}.")


def note_colors(found: list[Source], reading: Reading | None, console: Console) -> None:
    """Note what becomes of transparency, and of colours where those of a model are others.

    A few images are looked at. ``reading`` is that of the model, None if it is not trained yet,
    or if it ignores colours because it was told to.
    """
    paths = [path for source in found for path in source.pictures]
    seen = []
    for path in spread(paths, MOST_SEEN):
        with suppress(OSError):
            seen.append((path, *see_colors(path)))
    transparent = [path for path, _, is_transparent in seen if is_transparent]
    if transparent:
        console.log(
            f"Note: {transparent[0]} has transparent pixels; transparency is ignored, and the "
            "colours under it count."
        )
    colored = [path for path, is_colored, _ in seen if is_colored]
    if not seen or reading is None:
        return
    if colored and not reading.color:
        console.log(
            f"Note: {colored[0]} has colours, but the model was trained on grey images; colours "
            "are converted to grey (0.299 red + 0.587 green + 0.114 blue)."
        )
    elif not colored and reading.color:
        console.log(
            f"Note: {seen[0][0]} is grey, but the model was trained on images in colour, to which "
            "grey may be irregular; fit a model with --grey for both."
        )


def model_facts(detector: AVIDDetector) -> dict[str, Any]:
    """Describe a model as JSON."""
    return {
        **getattr(detector, "extra_", {}),
        "features": names_of_maps(detector),
        "image_shape": list(detector.image_shape_),
        "alpha": detector.alpha_,
        "zeta": detector.zeta_,
        "target_fpr": detector.target_fpr,
        "calibration": detector.calibration_,
        "object_size": detector.object_size_,
        "object_speed": detector.object_speed_,
        "n_epochs": len(detector.history_),
    }


def thresholds_text(detector: AVIDDetector) -> str:
    """Describe the thresholds and the data that they were calibrated on."""
    text = f"Thresholds: alpha {detector.alpha_:.4g}, zeta {detector.zeta_:.4g}"
    calibration = detector.calibration_
    extra = getattr(detector, "extra_", {})
    is_new_data = "calibrated_on" in extra
    is_tiled = bool((extra.get("reading") or {}).get("tiled"))
    unit = "tile" if is_tiled and not is_new_data else "image"
    chosen = extra.get("chosen_on_labels")
    if chosen is not None:
        criterion = CRITERIA.get(chosen["criterion"], chosen["criterion"])
        return (
            f"{text}, chosen on labels: the largest {criterion}, {chosen['value']:.3f}, on "
            f"{counted(chosen['n_images'], 'image')}, {chosen['n_irregular']:,} of them "
            "irregular. They are not calibrated for a false alarm rate."
        )
    if calibration is None:
        return f"{text}, as given."
    n, n_clips = calibration["n_images"], calibration["n_clips"]
    text += f", for a false alarm rate of {detector.target_fpr:g}; calibrated on "
    text += counted(n, unit if n_clips is None else "frame")
    if n_clips is not None:
        pieces = counted(n_clips, "piece of video", "pieces of video")
        text += f" in {pieces} (about {counted(round(n / n_clips), 'frame')} each)"
    known = getattr(detector, "_trained_on", {})
    if is_new_data:
        text += " given to calibrate"
    elif known.get("n_held_out") == known.get("n_images"):
        text += " that were left out of the training in turn"
    else:
        text += " held out of the training"
    if n_clips is None:
        verb = "supports" if n == 1 else "support"
        most = calibration.get("fpr_limit")  # files of older releases do not say
        limit = "" if most is None else f" (below {most:.2g} in 19 of 20 cases)"
        return (
            f"{text}, which {verb} a false alarm rate of {calibration['fpr_bound']:.2g} among new "
            f"normal {unit}s{limit}."
        )
    return (
        f"{text}. With a probability of up to {calibration['clip_risk']:.2g} more than "
        f"{detector.target_fpr:g} of the frames of a new normal clip are flagged; more normal "
        "video lowers this probability."
    )
