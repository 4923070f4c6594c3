"""``skavid report``: write an HTML page about a model and its scores."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from skavid.cli.console import SUCCESS, Console
from skavid.cli.ground_truth import (
    check_ground_truth,
    load_dataset,
    open_model_for_dataset,
    read_ground_truth,
)
from skavid.cli.models import open_model_and_sources, set_ignore_mask
from skavid.cli.outputs import check_file, check_targets, temporary_folder
from skavid.cli.scoring import score_tiles
from skavid.core.images import resize
from skavid.datasets import sources
from skavid.datasets.sources import Reading, Sample, Source
from skavid.estimator import AVIDDetector
from skavid.report.page import write_report
from skavid.wording import clock, counted, pixels_of

__all__: list[str] = []  # a part of the command line: nothing here is promised to users


class _Data(NamedTuple):
    """The images of a report with the names that it shows, and the ground truth."""

    images: NDArray[Any]
    ids: NDArray[np.int64]  # the clip of each image
    clip_names: list[str]
    image_names: list[str]
    labels: NDArray[Any] | None
    masks: NDArray[Any] | None
    kinds: list[str] | None = None
    boxes: NDArray[np.int64] | None = None  # of each image in its original


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Score images, and write a report."""
    if [arguments.dataset, arguments.masks, arguments.labels].count(None) < 2:
        raise ValueError("give the ground truth by only one of --dataset, --masks and --labels.")
    output: Path = arguments.output
    check_file("--output", output, ".html")
    if arguments.dataset:
        detector, reading = open_model_for_dataset(arguments)
        check_targets({"--output": output}, [], arguments.model, arguments.force)
        set_ignore_mask(arguments, detector, reading, [])
        data = _load_dataset(arguments, reading, console)
        size = _write(arguments, detector, reading, data, console)
    else:
        detector, reading, found, _ = open_model_and_sources(
            arguments, console, {"--output": output}
        )
        truth = read_ground_truth(arguments, found, reading, detector)
        with temporary_folder(output) as folder:
            images, ids, names, boxes = _load_sources(
                found, detector, reading, Path(folder), console
            )
            labels, masks, kinds, _ = truth = truth.of(names)
            check_ground_truth(arguments, truth, len(images), reading.unit)
            if boxes is not None and reading.tiled:
                names = [
                    f"{name}, its most irregular tile, from column {left} and row {top} on"
                    for name, (left, top, *_) in zip(names, boxes.tolist(), strict=True)
                ]
                if masks is not None:
                    labels, masks = np.where(masks.any(axis=(1, 2)), -1, 1), None
            clip_names = [source.name for source in found]
            data = _Data(images, ids, clip_names, names, labels, masks, kinds, boxes)
            size = _write(arguments, detector, reading, data, console)
    result = {"report": str(output), "bytes": size, "n_images": len(data.image_names)}
    text = f"The report is in {output} ({size / 1e6:.1f} MB); open it in a browser."
    console.print_result(result, text)
    return SUCCESS


def _load_dataset(arguments: argparse.Namespace, reading: Reading, console: Console) -> _Data:
    images, ids, data = load_dataset(arguments, reading, "test")
    labels, masks = data.labels, data.masks
    if masks is not None and (differ := (labels == -1) != masks.any(axis=(1, 2))).any():
        console.log(
            f"Note: labels and masks disagree on {counted(int(differ.sum()), reading.unit)}, or "
            "nobody drew masks there; the report uses the labels alone. `skavid evaluate` uses "
            "the masks where they were drawn."
        )
        masks = None
    clip_names, names = _dataset_names(Path(arguments.sources[0]).expanduser(), data, ids)
    return _Data(images, ids, clip_names, names, labels, masks, data.get("kinds"))


def _dataset_names(root: Path, data: Bunch, ids: NDArray[np.int64]) -> tuple[list[str], list[str]]:
    """Name the clips and frames of a data set; single images are named by their files."""
    if "clips" not in data:
        return [], [path.relative_to(root).as_posix() for path in data.paths]
    clip_names = data.get("names") or [f"clip {number}" for number in np.unique(data.clips)]
    lengths = zip(clip_names, np.bincount(ids).tolist(), strict=True)
    return clip_names, [f"{clip}, frame {index}" for clip, n in lengths for index in range(n)]


def _load_sources(
    found: list[Source], detector: AVIDDetector, reading: Reading, folder: Path, console: Console
) -> tuple[NDArray[Any], NDArray[np.int64], list[str], NDArray[np.int64] | None]:
    """Load images, the number of the source of each, their names, and boxes in their originals.

    Of images that are cut into tiles, the most irregular tile is loaded.
    """
    names: list[str] = []
    boxes: list[sources.Box | None] = []
    with_times = {source.name for source in found if source.has_timestamps()}

    def add_name(sample: Sample) -> None:
        is_frame = sample.time is not None or reading.stacking is not None
        name = f"{sample.name}, frame {sample.index}" if is_frame else sample.name
        if sample.time is not None and sample.name in with_times:
            name += f", {clock(sample.time)}"
        names.append(name)
        boxes.append(sample.box)
        bar.update()

    def worst_tile(sample: Sample) -> list[Sample]:
        assert reading.size is not None
        _, tile = score_tiles(detector, sample.image, reading)
        if tile[:1:-1] != reading.size:
            raise ValueError(
                f"{sample.name} is smaller than the tiles of {pixels_of(reading.size)}; a report "
                "needs images that are larger."
            )
        return [sources.cut_tile(sample, tile)]

    total = sum(source.n_images() or 0 for source in found) or None
    with console.progress(total, reading.unit) as bar:
        images, ids, _ = sources.load_images(
            found, reading, folder, add_name, worst_tile if reading.tiled else None
        )
    known = None if None in boxes else np.array(boxes)
    return images, ids, names, known


def _write(
    arguments: argparse.Namespace,
    detector: AVIDDetector,
    reading: Reading,
    data: _Data,
    console: Console,
) -> int:
    """Write the report, and return its size in bytes."""
    shape, masks = data.images.shape[1:3], data.masks
    if masks is not None and masks.shape[1:] != shape:
        masks = np.array([resize(mask, shape) for mask in masks])
    groups = None
    if reading.stacking is not None:
        are_unique = len(set(data.clip_names)) == len(data.clip_names)
        groups = np.array(data.clip_names)[data.ids] if are_unique else data.ids
    console.log(f"Scoring {counted(len(data.images), reading.unit)} ...")
    n_bytes: int = write_report(
        detector,
        arguments.output,
        data.images,
        y=None if masks is not None else data.labels,
        masks=masks,
        groups=groups,
        names=data.image_names,
        kinds=data.kinds,
        boxes=data.boxes,
        model=arguments.model,
        title=arguments.title,
        n_worst=arguments.worst,
    )
    return n_bytes
