"""I and D on a feature map: I in closed form; D learns from changes of images unknown to I."""

from __future__ import annotations

import math
import time
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skavid.core.detector_training import (
    Learnt,
    LeftOut,
    Reader,
    ResidualNet,
    bank_size,
    evenness,
    learn_detector,
    length_of,
    seen_by_detector,
)
from skavid.core.features import FeatureMap
from skavid.core.linear import Changes, LinearInpainter, learn_statistics, log_change
from skavid.core.networks import ResidualDetector
from skavid.core.scene import Scene, evenly, time_blocks
from skavid.core.training import InterruptedTraining, unusual_rate
from skavid.core.whole_image import Moments, WholeImage, log_distance
from skavid.exceptions import CollapseWarning

__all__ = ["judge", "train_pair", "warn_if_blind"]

BLIND_AUC = 0.6
LEAST_CHANGE = 1e-6  # where I changes nothing, so that a ratio can be taken
LARGEST_CHANGE = 1e30  # of an image whose numbers are far beyond those of the training


class Judged(NamedTuple):
    """What both networks say of images, a value for each place of the feature map.

    Parameters
    ----------
    residual : Tensor of shape (n_images, n1, n2)
        How much I changes, in units of the spread of the features.
    logits : Tensor of shape (n_images, n1, n2)
        How regular D finds it.
    whole : Tensor of shape (n_images,), bool
        True where the image as a whole is farther from normal than training images let expect.
    """

    residual: Tensor
    logits: Tensor
    whole: Tensor


class Pair(NamedTuple):
    """What a training on feature maps leaves behind.

    Parameters
    ----------
    inpainter : LinearInpainter
        I.
    detector : ResidualDetector
        D.
    whole : WholeImage
        The judge of whole images.
    net : ResidualNet
        What trained D.
    residual, logits : ndarray of shape (n_images, n1, n2)
        What both say of each calibration image that they did not see.
    region_auc : tuple of two float
        How well I and D each tell synthetic anomalies from normal regions of images that they
        did not see.
    history : list of dict
        A row per epoch.
    """

    inpainter: LinearInpainter
    detector: ResidualDetector
    whole: WholeImage
    net: ResidualNet
    residual: NDArray[np.float32]
    logits: NDArray[np.float32]
    region_auc: tuple[float, float]
    history: list[dict[str, Any]]


def judge(
    features: Tensor, inpainter: LinearInpainter, detector: ResidualDetector, whole: WholeImage
) -> Judged:
    """Let both networks judge the feature maps of images.

    Parameters
    ----------
    features : Tensor of shape (n_images, n_features, n1, n2)
        From the feature map.
    inpainter, detector, whole : Module
        Of a `Pair`.

    Returns
    -------
    judged : Judged
        Where an image is odd as a whole, both maps say so, see `WholeImage`.
    """
    changes = inpainter.changes(features)
    maps = _judge_places(features, changes, inpainter, detector)
    change = whole.change(features)
    maps = whole.lift(*maps, log_distance(changes.apart), change)
    return judge_whole(*maps, change, whole)


def _judge_places(
    features: Tensor, changes: Changes, inpainter: LinearInpainter, detector: ResidualDetector
) -> tuple[Tensor, Tensor]:
    """Return what both networks say of each place, given what I changes."""
    read = seen_by_detector(detector, inpainter, changes, features)
    size = changes.size / evenness(inpainter)
    return detector.weigh(length_of(detector, read), size, detector(read))


def judge_whole(residual: Tensor, logits: Tensor, change: Tensor, whole: WholeImage) -> Judged:
    """Raise both maps of an image that is odder as a whole than at any place.

    Its most irregular place becomes as irregular as the whole image; with it rise the places at
    which I changes more than it did anywhere in the training images, or all places where there
    is none. They keep their order.
    """
    least, most = whole.residual(change), whole.logits(change)
    residual = residual.clamp(LEAST_CHANGE, LARGEST_CHANGE)
    peak = residual.amax((1, 2))
    places = (residual >= whole.usual) | (peak < whole.usual)[:, None, None]
    lowest = torch.where(places, logits, math.inf).amin((1, 2))
    factor = (least / peak).clamp(min=1)[:, None, None]
    fall = (lowest - most).clamp(min=0)[:, None, None]
    return Judged(
        torch.where(places, residual * factor, residual),
        torch.where(places, logits - fall, logits),
        change > whole.farthest,
    )


def train_pair(
    images: NDArray[Any],
    rows: NDArray[np.int64],
    held_out: NDArray[np.int64] | None,
    *,
    features: FeatureMap,
    value_range: tuple[float, float],
    ignore_mask: NDArray[np.bool_] | None,
    gamma: float,
    pooling: str,
    detector_width: int,
    learning_rate: float,
    batch_size: int,
    max_epochs: int,
    average_decay: float,
    seed: int,
    device: str,
    callbacks: list[Any] | None,
    verbose: int,
    groups: NDArray[Any] | None = None,
    scene: Scene | None = None,
    spacing: int | None = None,
    known: tuple[LinearInpainter, WholeImage, ResidualNet] | None = None,
    identity: Any = None,
) -> Pair:
    """Solve for I and train D on the feature maps of normal images.

    Parameters
    ----------
    images : ndarray of shape (n_images, height, width, n_channels)
        Checked images.
    rows : ndarray of int
        Those that train.
    held_out : ndarray of int or None
        Those that calibrate. None calibrates on those that train, each left out in turn.
    features : Module
        From `skavid.core.features.make_features`.
    value_range : tuple of float
        What is scaled to 0 and 1.
    ignore_mask : ndarray of shape (height, width), bool, or None
        True where pixels do not count.
    gamma : float
        Eq. 2's noise.
    pooling : {"place", "everywhere"}
        Whether I has statistics for each place, and remembers normal images there, or one set of
        statistics for all.
    detector_width, learning_rate, batch_size, max_epochs, average_decay : int, float
        Of D and its training.
    seed : int
        The one source of randomness.
    device : str
        Where to compute.
    callbacks : list or None
        Callbacks of skorch.
    verbose : int
        0 is silent.
    groups : ndarray of shape (n_images,), optional
        Clip ids. Frames of a clip are alike: they are left out together.
    scene : Scene, optional
        Of the clips. Synthetic anomalies are then cut from what moves, too.
    spacing : int, optional
        Frames between two channels of stacks.
    known : tuple of LinearInpainter, WholeImage and ResidualNet, optional
        To go on with. Statistics are merged, exactly, in any order; D goes on learning.
    identity : list, optional
        From `skavid.core.features.identity`: what stands for the features in a cache.

    Returns
    -------
    pair : Pair
        On the CPU.

    Raises
    ------
    InterruptedTraining
        When the user or a callback ended it after the first epoch; it carries the pair.
    KeyboardInterrupt
        When the user interrupted the training before D had learnt for an epoch.
    """
    begun = time.perf_counter()
    reader = Reader(images, features, value_range, ignore_mask, device)
    whole = WholeImage(features.n_features)
    statistics: list[Tensor] = []
    keys = reader.keys(rows)
    remembers = pooling == "place"
    inpainter = learn_statistics(
        reader.at(rows, statistics), gamma=gamma, keys=keys if remembers else None,
        most=features.most_remembered,
    )  # fmt: skip
    whole.inpainter = learn_statistics(statistics, gamma=whole.inpainter.gamma)
    described = torch.cat([whole.describe(reader.tensor(part)) for part in reader.parts(rows)])
    whole.note_appearance(Moments.of(described))
    chosen = evenly(len(rows), bank_size(inpainter.mean.numel(), len(rows)))
    if not remembers:
        inpainter = inpainter.pooled()
    if known is not None:
        inpainter = known[0].merge(inpainter, features.most_remembered)
        whole.inpainter = known[1].inpainter.merge(whole.inpainter)
        # Unless most images are new:
        whole.nearness, whole.oddity = known[1].nearness, known[1].oddity
    blocks = None if groups is None else torch.from_numpy(time_blocks(groups[rows]))
    left = LeftOut(inpainter, keys, blocks)
    learnt = learn_detector(
        reader, rows[chosen], left, chosen, gamma=gamma, detector_width=detector_width,
        learning_rate=learning_rate, batch_size=batch_size, max_epochs=max_epochs,
        average_decay=average_decay, seed=seed, device=device, callbacks=callbacks,
        verbose=verbose, groups=groups, scene=scene, spacing=spacing,
        known=None if known is None else known[2],
    )  # fmt: skip
    detector, net = learnt.detector, learnt.net
    residual, logits = torch.empty(2, len(rows), *learnt.residual.shape[1:])
    is_most = known is None or len(rows) > int(known[0].n_images)
    change, corrupted = changes_of_whole(
        whole, torch.cat(statistics), keys, chosen, learnt.corrupted, blocks
    )
    residual[chosen], logits[chosen] = lifted(
        whole, learnt, change[chosen], corrupted, is_noted=is_most
    )
    for others in reader.parts(np.setdiff1d(np.arange(len(rows)), chosen)):
        residual[others], logits[others] = judge_left_out(
            reader.features(rows[others]), left, others, detector, whole, change[others]
        )
    history = learnt.history(float(residual.mean()), begun)
    whole.align(change, log_change(residual.amax((1, 2))), -logits.amin((1, 2)), blocks)
    judged = judge_whole(residual, logits, change, whole)
    if held_out is not None:
        parts = [
            judge(reader.features(part).cpu(), inpainter, detector, whole)
            for part in reader.parts(held_out)
        ]
        judged = Judged(*(torch.cat(some) for some in zip(*parts, strict=True)))
    pair = Pair(
        inpainter, detector, whole, net, judged.residual.numpy(), judged.logits.numpy(),
        learnt.auc.region, history,
    )  # fmt: skip
    if net.n_trained_ < max_epochs:
        raise InterruptedTraining(pair)
    return pair


@torch.inference_mode()
def judge_left_out(
    features: Tensor, left_out: LeftOut, indices: NDArray[np.int64], detector: ResidualDetector,
    whole: WholeImage, change: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return what both networks say of training images that D did not learn from."""
    changes = left_out(features, indices)
    maps = _judge_places(features, changes, left_out.inpainter, detector)
    return whole.lift(*maps, log_distance(changes.apart), change)


def lifted(
    whole: WholeImage, learnt: Learnt, change: Tensor, corrupted: Tensor, *, is_noted: bool = True
) -> tuple[Tensor, Tensor]:
    """Raise the maps of images that are odd as a whole, by weights that are noted first."""
    residual, logits, normal = learnt.residual, learnt.logits, learnt.normal
    peaks = log_change(residual.amax((1, 2))), -logits.amin((1, 2))
    if is_noted:
        n = normal.n_independent
        whole.note_nearness(normal.distance, normal.composite, *peaks, learnt.auc.region, n)
        whole.note_oddity(change, corrupted[learnt.is_visible], *peaks, learnt.auc.image, n)
    return whole.lift(residual, logits, normal.distance, change)


def changes_of_whole(
    whole: WholeImage, statistics: Tensor, keys: Tensor, chosen: NDArray[np.int64],
    corrupted: Tensor, blocks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return how much I changes the statistics of each image that it never saw, logarithms.

    Also of corrupted versions of the chosen images, (n_versions, n_chosen).
    """
    if blocks is None or not blocks.any():  # one block, whose number is 0
        left_out, own = whole.inpainter.left_out, statistics[chosen]
        seen = [left_out(statistics, keys)]
        seen += [left_out(own, keys[chosen], version) for version in corrupted]
        change, *versions = (log_change(one.size[:, 0, 0]) for one in seen)
        return change, torch.stack(versions)
    change, found = torch.empty(len(statistics)), torch.empty(corrupted.shape[:2])
    for number in range(int(blocks.max()) + 1):
        is_own = blocks == number
        others = learn_statistics([statistics[~is_own]], gamma=whole.inpainter.gamma)
        change[is_own] = log_change(others.changes(statistics[is_own]).size[:, 0, 0])
        # Where D learns from no image of a short block, these are of no image, too.
        for versions, some in zip(found, corrupted[:, is_own[chosen]], strict=True):
            versions[is_own[chosen]] = log_change(others.changes(some).size[:, 0, 0])
    return change, found


def warn_if_blind(pair: Pair) -> bool:
    """Warn where D cannot find synthetic anomalies; it then gets no vote.

    Parameters
    ----------
    pair : Pair
        From `train_pair`.

    Returns
    -------
    is_blind : bool
        Whether D failed.
    """
    auc = pair.region_auc[1]
    if auc >= BLIND_AUC:
        return False
    net = pair.net
    mends = [f"raise max_epochs (now {net.n_trained_})", *unusual_rate(net.lr)]
    warnings.warn(
        f"The detector cannot tell synthetic anomalies from normal regions (AUC "
        f"{auc:.2f} on images that it did not see, {BLIND_AUC} is needed), so the "
        f"inpainter alone decides; {' or '.join(mends)}, give more training images, or take "
        "fusion='inpainter' to say so yourself.",
        CollapseWarning,
        stacklevel=2,
    )
    return True
