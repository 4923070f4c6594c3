"""Train on blocks of images, on any number of machines: I from sums, D from a sample.

What is said of a block is small and mergeable, in any order. The sums that I follows from, the
images that it remembers and the largest values of all images left out are those of a training on
all images at once; D learns from the same sample, and thresholds from the same images.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skavid.core.detector_training import BATCH, LeftOut, Reader, bank_size, learn_detector
from skavid.core.feature_training import (
    Pair,
    changes_of_whole,
    judge_left_out,
    judge_whole,
    lifted,
)
from skavid.core.features import FeatureMap
from skavid.core.images import check_images
from skavid.core.linear import Sums, capacity, log_change, lowest_keys
from skavid.core.networks import ResidualDetector
from skavid.core.pair import CALIBRATION_PIXELS
from skavid.core.scene import evenly
from skavid.core.whole_image import Moments, WholeImage

__all__: list[str] = []  # a part of AVIDDetector: nothing here is promised to users

Summary = Any
Run = Callable[[Callable[[int, Any], Summary], Callable[[Summary, Summary], Summary]], Summary]
"""What applies a function to each block, with its first row, and merges all that they return."""


def merge(first: Summary, second: Summary) -> Summary:
    """Merge the summaries of two sets of blocks, in any order.

    Parameters
    ----------
    first, second : Summary
        Of the same kind.

    Returns
    -------
    both : Summary
        Of that kind.
    """
    return first.merge(second)


# --- first: check the images, find their range ---------------------------------------------------


class Surveyed(NamedTuple):
    """What is known of images before anything is learnt."""

    n: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    low: Any
    high: Any
    head: dict[int, NDArray[Any]]  # the first images, by their rows

    def merge(self, other: Surveyed) -> Surveyed:
        """Return what is known of both, or refuse blocks that differ."""
        for name, mine, theirs in (
            ("images of shape", self.shape, other.shape), ("dtype", self.dtype, other.dtype),
        ):  # fmt: skip
            if mine != theirs:
                raise ValueError(
                    f"X has blocks with {name} {mine} and {theirs}; make all blocks alike."
                )
        return Surveyed(
            self.n + other.n, self.shape, self.dtype, min(self.low, other.low),
            max(self.high, other.high), self.head | other.head,
        )  # fmt: skip


@dataclass(frozen=True)
class Survey:
    """Checks a block of images.

    Parameters
    ----------
    image_shape : tuple or None
        How to read rows.
    ignore_mask : ndarray of shape (height, width), bool, or None
        True where pixels do not count.
    """

    image_shape: tuple[int, ...] | None
    ignore_mask: NDArray[np.bool_] | None

    def __call__(self, start: int, block: Any) -> Surveyed:
        """Return what is known of a block."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the caller is warned of the first images
            images = check_images(
                block, image_shape=self.image_shape, ignore_mask=self.ignore_mask
            )
        counted = images if self.ignore_mask is None else images[:, ~self.ignore_mask]
        first = range(start, min(BATCH, start + len(images)))
        head = {row: images[row - start].copy() for row in first}
        return Surveyed(
            len(images), images.shape[1:], images.dtype, counted.min(), counted.max(), head
        )


# --- what is done with each block ----------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    """How images of a block become features."""

    image_shape: tuple[int, int, int]
    features: FeatureMap
    value_range: tuple[float, float]
    ignore_mask: NDArray[np.bool_] | None
    device: str

    def reader(self, block: Any) -> Reader:
        images = np.asarray(block).reshape(-1, *self.image_shape)
        return Reader(images, self.features, self.value_range, self.ignore_mask, self.device)


class _Lowest(NamedTuple):
    keys: Tensor
    n: int

    def merge(self, other: _Lowest) -> _Lowest:
        return _Lowest(lowest_keys(torch.cat([self.keys, other.keys]), self.n), self.n)


@dataclass(frozen=True)
class _FindLowest:
    """Finds the lowest keys of a block."""

    reading: _Reading
    n: int

    def __call__(self, start: int, block: Any) -> _Lowest:
        reader = self.reading.reader(block)
        return _Lowest(lowest_keys(reader.keys(np.arange(len(reader.images))), self.n), self.n)


class _Summed(NamedTuple):
    places: Sums
    whole: Sums
    appearance: Moments
    sample: dict[int, NDArray[Any]]

    def merge(self, other: _Summed) -> _Summed:
        return _Summed(
            self.places.merge(other.places), self.whole.merge(other.whole),
            self.appearance.merge(other.appearance), self.sample | other.sample,
        )  # fmt: skip


@dataclass(frozen=True)
class _SumUp:
    """Adds up the features of a block, and picks those of its images that D learns from."""

    reading: _Reading
    origin: Tensor
    origin_of_whole: Tensor
    grid: tuple[int, int]
    highest: Tensor | None
    remembers_all: bool
    sample: NDArray[np.int64]

    def __call__(self, start: int, block: Any) -> _Summed:
        reader = self.reading.reader(block)
        rows = np.arange(len(reader.images))
        keys = None if self.highest is None else reader.keys(rows)
        places = Sums(
            self.origin, *self.grid, remembers_all=self.remembers_all,
            most=self.reading.features.most_remembered,
        )  # fmt: skip
        whole = Sums(self.origin_of_whole, 1, 1)
        described = []
        for part in reader.parts(rows):
            features = reader.features(part)
            places.add(features, None if keys is None else keys[part], self.highest)
            whole.add(WholeImage.statistics(features))
            described.append(WholeImage.describe(reader.tensor(part)))
        sample = _within(self.sample, start, rows)
        return _Summed(
            places, whole, Moments.of(torch.cat(described)),
            {int(row): reader.images[row - start].copy() for row in sample},
        )  # fmt: skip


class _Judged(NamedTuple):
    peaks: Moments  # of (change of the whole image, largest log R, largest -logit)
    residual: Moments  # of the mean over the places
    maps: dict[int, tuple[Tensor, Tensor, Tensor]]  # of images to calibrate on, by their rows

    def merge(self, other: _Judged) -> _Judged:
        return _Judged(
            self.peaks.merge(other.peaks), self.residual.merge(other.residual),
            self.maps | other.maps,
        )  # fmt: skip

    @classmethod
    def of(
        cls, rows: NDArray[np.int64], change: Tensor, residual: Tensor, logits: Tensor,
        calibrating: NDArray[np.int64],
    ) -> _Judged:  # fmt: skip
        peaks = [change, log_change(residual.amax((1, 2))), -logits.amin((1, 2))]
        is_kept = np.isin(rows, calibrating)
        maps = {
            int(rows[i]): (change[i], residual[i].clone(), logits[i].clone())
            for i in np.flatnonzero(is_kept)
        }
        return cls(Moments.of(torch.stack(peaks, 1)), Moments.of(residual.mean((1, 2))), maps)


@dataclass(frozen=True)
class _Judge:
    """Judges the images of a block, each as if I had learnt from all others."""

    reading: _Reading
    inpainter: Any
    whole: WholeImage
    detector: ResidualDetector
    sample: NDArray[np.int64]
    calibrating: NDArray[np.int64]

    def __call__(self, start: int, block: Any) -> _Judged | _Nothing:
        reader = self.reading.reader(block)
        rows = np.arange(len(reader.images))
        rows = np.setdiff1d(rows, _within(self.sample, start, rows) - start)
        if not len(rows):
            return _Nothing()
        keys = reader.keys(rows)
        left_out = LeftOut(self.inpainter, keys, None)
        found = []
        for part in reader.parts(np.arange(len(rows))):
            features = reader.features(rows[part])
            statistics = WholeImage.statistics(features)
            change = self.whole.inpainter.left_out(statistics, keys[part]).size[:, 0, 0]
            change = log_change(change)
            maps = judge_left_out(features, left_out, part, self.detector, self.whole, change)
            found.append((change, *maps))
        change, residual, logits = (torch.cat(one) for one in zip(*found, strict=True))
        return _Judged.of(rows + start, change, residual, logits, self.calibrating)


class _Nothing(NamedTuple):
    """Of a block all of whose images are in the sample."""

    def merge(self, other: Any) -> Any:
        return other


def _within(chosen: NDArray[np.int64], start: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return chosen[(chosen >= start) & (chosen < start + len(rows))]


# --- the training --------------------------------------------------------------------------------


def train_on_blocks(
    run: Run,
    surveyed: Surveyed,
    *,
    features: FeatureMap,
    value_range: tuple[float, float],
    ignore_mask: NDArray[np.bool_] | None,
    gamma: float,
    pooling: str,
    device: str,
    **settings: Any,
) -> tuple[Pair, NDArray[np.int64]]:
    """Solve for I and train D on the feature maps of normal images that are read in blocks.

    Parameters
    ----------
    run : callable
        Takes a function of a block's first row and the block, and a function that merges two of
        its results; returns the merged result of all blocks. It is called two or three times.
    surveyed : Surveyed
        What `Survey` said of all blocks.
    features, value_range, ignore_mask, gamma, pooling, device : object
        As in `skavid.core.feature_training.train_pair`.
    **settings : dict
        Its other parameters that D learns by.

    Returns
    -------
    pair : Pair
        As of a training on all images at once, to rounding, with the maps of the images to
        calibrate on.
    rows : ndarray of int
        These images.
    """
    begun = time.perf_counter()
    shape, n = surveyed.shape, surveyed.n
    reading = _Reading(shape, features, value_range, ignore_mask, device)  # type: ignore[arg-type]
    head = reading.reader(np.stack([surveyed.head[row] for row in sorted(surveyed.head)]))
    first = head.features(np.arange(len(head.images)))
    whole = WholeImage(features.n_features)
    origin, grid = first.mean((0, 2, 3)), (first.shape[2], first.shape[3])
    origin_of_whole = WholeImage.statistics(first).mean((0, 2, 3))
    n_numbers = grid[0] * grid[1] * features.n_features
    sample = evenly(n, bank_size(n_numbers, n))
    calibrating = evenly(n, max(1, CALIBRATION_PIXELS // (shape[0] * shape[1])))

    highest, remembers_all = None, False
    if pooling == "place":
        n_remembered = capacity(n_numbers, features.most_remembered)
        remembers_all = n <= n_remembered
        highest = torch.tensor([torch.iinfo(torch.int64).max])
        if not remembers_all:
            highest = run(_FindLowest(reading, n_remembered), merge).keys[-1:]
    sum_up = _SumUp(reading, origin, origin_of_whole, grid, highest, remembers_all, sample)
    summed = run(sum_up, merge)
    inpainter = summed.places.inpainter(gamma)
    if pooling != "place":
        inpainter = inpainter.pooled()
    whole.inpainter = summed.whole.inpainter(whole.inpainter.gamma)
    whole.note_appearance(summed.appearance)

    images = np.stack([summed.sample[row] for row in sample.tolist()])
    del summed
    reader = reading.reader(images)
    rows = np.arange(len(images))
    keys = reader.keys(rows)
    left_out = LeftOut(inpainter, keys, None)
    learnt = learn_detector(reader, rows, left_out, rows, gamma=gamma, device=device, **settings)
    if learnt.net.n_trained_ < settings["max_epochs"] and learnt.net.stopped_by_ is None:
        raise KeyboardInterrupt
    parts = reader.parts(rows)
    statistics = torch.cat([WholeImage.statistics(reader.features(part)) for part in parts])
    change, corrupted = changes_of_whole(whole, statistics, keys, rows, learnt.corrupted)
    maps = lifted(whole, learnt, change, corrupted)
    judged = _Judged.of(sample, change, *maps, calibrating)
    if len(sample) < n:
        judge = _Judge(reading, inpainter, whole, learnt.detector, sample, calibrating)
        judged = judged.merge(run(judge, merge))
    of_change, of_residual, of_doubt = judged.peaks.split()
    whole.align(of_change, of_residual, of_doubt)
    kept = zip(*(judged.maps[row] for row in calibrating.tolist()), strict=True)
    change, residual, logits = (torch.stack(one) for one in kept)
    both = judge_whole(residual, logits, change, whole)
    pair = Pair(
        inpainter, learnt.detector, whole, learnt.net, both.residual.numpy(),
        both.logits.numpy(), learnt.auc.region,
        learnt.history(float(judged.residual.mean), begun),
    )  # fmt: skip
    return pair, calibrating
