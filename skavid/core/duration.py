"""How long a fit will take, by a trial on its first images."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from skavid.core.detector_training import (
    BATCH,
    CROP,
    N_CHECKED,
    N_VERSIONS,
    N_WATCHED,
    STEPS_PER_EPOCH,
    Reader,
    bank_size,
)
from skavid.core.features import FeatureMap, MotionFeatures
from skavid.core.images import to_tensor
from skavid.core.linear import MEASURED, LinearInpainter, Sums, capacity, learn_statistics
from skavid.core.networks import ResidualDetector
from skavid.core.pixel_pair import measure
from skavid.core.training import BANK_SIZE, make_networks

__all__: list[str] = []  # for the command line alone

Result = TypeVar("Result")
CORRUPTING = 1.3  # a step over pixels with the making of synthetic anomalies, without it 1


def expected_seconds(
    images: NDArray[Any],
    n: int,
    *,
    features: FeatureMap,
    value_range: tuple[float, float],
    is_video: bool,
    gamma: float,
    pooling: str,
    detector_width: int,
    batch_size: int,
    max_epochs: int,
    device: str,
    **_: Any,
) -> float:
    """Estimate how long `train_pair` takes for n images, by a trial on a few of them.

    One batch of images goes through the feature map, through I, which is given as many images to
    remember as it will have, and through a few steps of D. All that is larger is a multiple.

    Parameters
    ----------
    images : ndarray of shape (n_first, height, width, n_channels)
        The first images, at least 2; a batch of them is used.
    n : int
        How many images there will be.
    is_video : bool
        Whether something may move, so that D learns from versions with something that moves, too.
    features, value_range, gamma, pooling, detector_width, batch_size, max_epochs, device
        As of `skavid.core.feature_training.train_pair`.
    **_ : Any
        Its other parameters, which take no time.

    Returns
    -------
    seconds : float
        Without what is done only for video: finding what moves.
    """
    reader = Reader(images[:BATCH], features, value_range, None, device)
    rows = np.arange(len(reader.images))
    compute, maps = _timed(lambda: reader.features(rows))
    compute *= BATCH / len(rows)
    keys = torch.arange(len(rows)) if pooling == "place" else None
    n_remembered = capacity(maps[0].numel(), features.most_remembered)
    solve, inpainter = _timed(lambda: learn_statistics([maps], gamma=gamma, keys=keys))
    if keys is None:
        inpainter = inpainter.pooled()
    else:
        few, _unused = _timed(lambda: inpainter.left_out(maps, keys))
        solve -= few  # which `measure` took
        _remember(inpainter, n, n_remembered)
    own = torch.arange(len(rows))
    change = _timed(lambda: inpainter.left_out(maps, own))[0] * BATCH / len(rows)
    add = 0.0
    if n > n_remembered or keys is None:  # sums in double precision
        sums = Sums(inpainter.origin, *maps.shape[2:], remembers_all=False)
        add = _timed(lambda: sums.add(maps))[0] * BATCH / len(rows)
    step, look = _time_detector(
        maps, isinstance(features, MotionFeatures), detector_width, batch_size, device
    )
    n_learnt = bank_size(maps[0].numel(), n)
    n_versions = 1 + (N_VERSIONS if is_video else 1)  # with itself
    is_at_hand = n <= n_remembered and keys is not None  # as I remembers it
    n_computed = n_versions - is_at_hand
    n_measured = 0 if keys is None else min(n, MEASURED)
    n_batches = (
        n * (compute + add)
        + n_measured * change
        + n_learnt * (n_computed * compute + n_versions * change)
        + (n - n_learnt) * (compute + change)
    ) / BATCH
    of_check = 2 * n_versions * look
    watched, checked = (min(n_learnt / 2, most) for most in (N_WATCHED, N_CHECKED))
    epoch = STEPS_PER_EPOCH * step + watched * of_check
    return n_batches + max(0.0, solve) + max_epochs * epoch + checked * of_check + n * look


def expected_seconds_over_pixels(
    images: NDArray[Any],
    *,
    value_range: tuple[float, float],
    batch_size: int,
    max_epochs: int,
    batches_per_epoch: int,
    inpainter_width: int,
    inpainter_depth: int,
    inpainter_patch: int,
    detector_width: int,
    device: str,
    **_: Any,
) -> float:
    """Estimate how long `train_networks` takes on stacked video, by a step of new networks.

    Parameters
    ----------
    images : ndarray of shape (n_first, height, width, n_channels)
        The first stacks.
    value_range, batch_size, max_epochs, batches_per_epoch, device
        As of `skavid.core.training.train_networks`.
    inpainter_width, inpainter_depth, inpainter_patch, detector_width : int
        Sizes of the networks, as there.
    **_ : Any
        Its other parameters, which take no time.

    Returns
    -------
    seconds : float
        Of networks whose crops have the size that they have where nothing moves.
    """
    sizes = measure(
        None, images.shape[1:3], geometry="aligned", region_size="auto", crop_size="auto"
    )
    inpainter, detector = make_networks(
        images.shape[-1], sizes.geometry, 0, detector_width, width=inpainter_width,
        depth=inpainter_depth, patch=inpainter_patch, bounded=False,
    )  # fmt: skip
    rows = np.arange(batch_size) % len(images)
    crops = to_tensor(images[rows], value_range, None).to(device)
    crops = crops[..., : sizes.crop_size, : sizes.crop_size]
    inpainter, detector = inpainter.to(device), detector.to(device)
    masked = torch.zeros_like(crops[:, :1])

    def step() -> None:
        for made in (inpainter(crops, masked), detector(crops)):
            made.mean().backward()

    step()  # the first one takes longer
    seconds = CORRUPTING * _timed(step)[0]
    # A check looks at the bank twice without learning, which takes about a third of a step.
    check = 2 / 3 * BANK_SIZE / batch_size
    return max_epochs * (batches_per_epoch + check) * seconds


def _timed(function: Callable[[], Result]) -> tuple[float, Result]:
    begun = time.perf_counter()
    result = function()
    return time.perf_counter() - begun, result


def _remember(inpainter: LinearInpainter, n_images: int, n: int) -> None:
    """Let I remember n images as if it had been fitted on more, by repeating its own."""
    repeated = torch.arange(min(n_images, n)) % len(inpainter.keys)
    inpainter.remembered = inpainter.remembered[:, repeated]
    inpainter.squares = inpainter.squares[..., repeated]
    inpainter.keys = torch.arange(len(repeated))
    inpainter.n_images = torch.tensor(max(n_images, 2))


def _time_detector(
    maps: Tensor, sees_features: bool, width: int, batch_size: int, device: str
) -> tuple[float, float]:
    """Return the seconds of a step of the training, and of one member's look at one map."""
    with torch.random.fork_rng(devices=[]):
        detector: Any = ResidualDetector(maps.shape[1], sees_features=sees_features, width=width)
    read = torch.cat([maps, maps], 1) if sees_features else maps
    with torch.inference_mode():
        look, _ = _timed(lambda: detector.members[0](read))
    crops = read[torch.arange(batch_size) % len(read), :, :CROP, :CROP].to(device)
    detector.to(device).train()
    optimizer = torch.optim.AdamW(detector.parameters())

    def step() -> float:
        loss = torch.stack([F.softplus(one(crops)).mean() for one in detector.members]).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    step()  # the first one also allocates
    return _timed(lambda: [step(), step()])[0] / 2, look / len(maps)
