"""Data sets that skavid knows by name, and ground truth: labels or masks given as files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from skavid import datasets
from skavid.cli.arguments import DATASETS
from skavid.cli.models import open_model
from skavid.datasets.sources import Reading, Source
from skavid.estimator import AVIDDetector
from skavid.report import evaluation
from skavid.temporal import TemporalStacker

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

FOLDERS = "folders"  # the value of --labels that takes labels from the names of folders


class GroundTruth(NamedTuple):
    """What is known of all images, None where it is not: labels, masks, kinds of faults.

    ``names`` are those of all pictures, among which some may turn out to be unreadable.
    """

    labels: NDArray[np.int64] | None = None
    masks: NDArray[np.bool_] | None = None
    kinds: list[str] | None = None
    names: list[str] | None = None

    def of(self, names: Sequence[str]) -> GroundTruth:
        """Return the ground truth of the pictures of these names, which could be read."""
        if self.names is None or len(names) == len(self.names):
            return self
        readable = set(names)
        rows = [row for row, name in enumerate(self.names) if name in readable]
        return GroundTruth(
            None if self.labels is None else self.labels[rows],
            None if self.masks is None else self.masks[rows],
            None if self.kinds is None else [self.kinds[row] for row in rows],
            [self.names[row] for row in rows],
        )


def check_dataset(arguments: argparse.Namespace) -> None:
    """Raise an error if there is more than the folder of a data set."""
    if len(arguments.sources) > 1:
        raise ValueError(
            f"--dataset takes one folder, that of {arguments.dataset}. Got "
            f"{len(arguments.sources)} sources."
        )


def open_model_for_dataset(arguments: argparse.Namespace) -> tuple[AVIDDetector, Reading]:
    """Load a model that is to be applied to a data set."""
    check_dataset(arguments)
    detector, reading = open_model(arguments)
    if reading.stacking is not None and not DATASETS[arguments.dataset].is_video:
        raise ValueError(
            f"{arguments.model} was trained on video, but --dataset {arguments.dataset} contains "
            "single images; give a model that was trained on single images."
        )
    return detector, reading


def load_dataset(
    arguments: argparse.Namespace, reading: Reading, subset: str
) -> tuple[NDArray[Any], NDArray[np.int64], Bunch]:
    """Load a data set: images (stacked if they are video), clip numbers, and all other data."""
    if reading.crop is not None or reading.normalize or reading.tiled:
        raise ValueError(
            f"--dataset {arguments.dataset} reads images unchanged, but the model reads them "
            f"{reading.describe()}; give the folder of the images as SOURCE."
        )
    load = getattr(datasets, f"load_{arguments.dataset.replace('-', '_')}")
    options = {"color": reading.color} if arguments.dataset == "mvtec" else {}
    data = load(
        Path(arguments.sources[0]).expanduser(), subset=subset, size=reading.size, **options
    )
    images = data.frames if "frames" in data else data.images
    ids = (
        np.unique(data.clips, return_inverse=True)[1]
        if "clips" in data
        else np.zeros(len(images), int)
    )
    if reading.stacking is not None:
        images = TemporalStacker(**reading.stacking).fit_transform(images, groups=ids)
    return images, ids, data


def read_ground_truth(
    arguments: argparse.Namespace, found: list[Source], reading: Reading, detector: AVIDDetector
) -> GroundTruth:
    """Read the labels or masks before any image is scored."""
    labels = masks = names = None
    kinds = evaluation.kinds_of(found)
    if all(source.kind == "pictures" for source in found):
        names = [source.name_of(*image) for source in found for image in source.images()]
    if arguments.labels == Path(FOLDERS):
        labels = evaluation.labels_of(found)
    elif arguments.labels is not None:
        labels = evaluation.read_labels(arguments.labels, names)
    elif arguments.masks is not None:
        size = reading.size or detector.image_shape_[:2]
        masks = evaluation.read_masks(arguments.masks, found, size, reading.crop)
    truth = GroundTruth(labels, masks, kinds, names)
    # The number of frames in the header of a video file may be wrong.
    if not any(source.has_timestamps() for source in found):
        n = sum(source.n_images() or 0 for source in found)
        check_ground_truth(arguments, truth, n, reading.unit)
    return truth


def check_ground_truth(
    arguments: argparse.Namespace, truth: GroundTruth, n: int, unit: str
) -> None:
    """Raise an error unless there is one label or mask per image."""
    if truth.labels is not None:
        evaluation.check_count(arguments.labels, "label", len(truth.labels), n, unit)
    elif truth.masks is not None:
        evaluation.check_count(arguments.masks, "mask", len(truth.masks), n, unit)
