"""Data sets that skavid knows by name, and ground truth: labels or masks given as files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

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

Labels = NDArray[np.int64]
Masks = NDArray[np.bool_]


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
) -> tuple[Labels | None, Masks | None]:
    """Read the labels or masks before any image is scored."""
    labels = masks = None
    if arguments.labels is not None:
        labels = evaluation.read_labels(arguments.labels)
    elif arguments.masks is not None:
        size = reading.size or detector.image_shape_[:2]
        masks = evaluation.read_masks(arguments.masks, found, size)
    # The number of frames in the header of a video file may be wrong.
    if not any(source.has_timestamps() for source in found):
        n = sum(source.n_images() or 0 for source in found)
        check_ground_truth(arguments, labels, masks, n, reading.unit)
    return labels, masks


def check_ground_truth(
    arguments: argparse.Namespace, labels: Labels | None, masks: Masks | None, n: int, unit: str
) -> None:
    """Raise an error unless there is one label or mask per image."""
    if labels is not None:
        evaluation.check_count(arguments.labels, "label", len(labels), n, unit)
    elif masks is not None:
        evaluation.check_count(arguments.masks, "mask", len(masks), n, unit)
