"""I and D over the image itself, two networks trained from nothing (Sec. 3.1 to 3.4)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_memory
from torch import Tensor

from skavid.caching import cached
from skavid.core import anomaly_maps
from skavid.core.corruption import Corrupted
from skavid.core.networks import Detector, Inpainter, in_tiles
from skavid.core.pair import Look, Scale, Trained, calibration_rows, digest, placed, to_pixels
from skavid.core.regions import PAPER_GEOMETRY, Geometry, aligned
from skavid.core.scene import Scene
from skavid.core.threads import side_by_side
from skavid.core.training import (
    AVIDNet,
    InterruptedTraining,
    Split,
    scene_of_stacks,
    train_networks,
)
from skavid.exceptions import InterruptedTrainingWarning

__all__ = ["PixelPair", "cached_scene", "chunk_size", "measure", "train"]

# Images are scored in chunks of a fixed size, chosen by this many pixels.
CHUNK_PIXELS = {"cpu": 2**15, "cuda": 2**21}
TILE_PIXELS = 2**21  # larger images are shown to the networks in tiles

# In sizes of what moves: measured on UCSD Ped2, where it is 13 pixels at 120 x 180.
REGION, CROP, SMOOTHING, WIDENING = 0.3, 7.5, 1.0, 1.5

HISTORY = frozenset(
    ("epoch", "dur", "inpainter_loss", "detector_loss", "valid_inpainter", "valid_detector_auc",
     "kept")
)  # fmt: skip


@dataclass(frozen=True)
class PixelPair:
    """I and D over pixels.

    Parameters
    ----------
    inpainter : Inpainter
        I.
    detector : Detector
        D.
    geometry : Geometry
        The regions of D.
    filters : dict
        Sides of the "mean" and the "maximum" filter, in pixels.
    channel_reduction : {"max", "mean"}
        How the residual's channels become one.
    draws : callable or None
        Where I learnt to restore masked pixels, how an image is masked for it: it yields
        `skavid.core.corruption.Corrupted` that together mask every pixel.
    judges : bool, default=True
        Whether what I changes counts. Otherwise I shows what is normal, and D alone judges.
    """

    inpainter: Inpainter
    detector: Detector
    geometry: Geometry
    filters: dict[str, int]
    channel_reduction: str
    draws: Callable[[Tensor], Iterator[Corrupted]] | None
    judges: bool = True

    def to(self, device: str) -> PixelPair:
        """Return the pair with its networks on a device.

        Parameters
        ----------
        device : str
            Where to compute.

        Returns
        -------
        pair : PixelPair
            On a GPU, copies of both networks.
        """
        networks = placed(self.inpainter, device), placed(self.detector, device)
        return replace(self, inpainter=networks[0], detector=networks[1])

    def chunk_size(self, height: int, width: int, device: str) -> int:
        """Return how many images both networks look at at once.

        Parameters
        ----------
        height, width : int
            Of an image, in pixels.
        device : str
            Where to compute.

        Returns
        -------
        n : int
            At least 1.
        """
        return chunk_size(height, width, device)

    def check_size(self, size: tuple[int, ...], fitted: tuple[int, ...]) -> None:
        """Refuse images of a size that the networks cannot look at.

        Parameters
        ----------
        size, fitted : tuple (height, width)
            Of an image and of the training images.
        """
        _check_size(size, self.geometry)

    def look(
        self,
        images: Tensor,
        n: int,
        ignore_mask: NDArray[np.bool_] | None,
        *,
        restores: bool = True,
    ) -> Look:
        """Look at a chunk of images.

        Parameters
        ----------
        images : Tensor of shape (n_images, n_channels, height, width)
            Scaled, on the device of the networks.
        n : int
            How many of them count.
        ignore_mask : ndarray of shape (height, width), bool, or None
            True where pixels do not count.
        restores : bool, default=True
            Whether to look for I(X), which is there anyway where I judges.

        Returns
        -------
        look : Look
            Both maps of the first ``n`` images.
        """
        if not (self.judges or restores):
            logits = self.doubt(images, ignore_mask)[:n]
            return Look(np.zeros_like(logits), logits, np.zeros(n, np.uint8), images[:n].cpu())
        (inpainted, residual), logits = side_by_side(
            partial(self.change, images, ignore_mask),
            partial(self.doubt, images, ignore_mask),
            device=images.device.type,
        )
        return Look(residual[:n], logits[:n], np.zeros(n, np.uint8), inpainted[:n])

    @torch.inference_mode()
    def change(
        self, images: Tensor, ignore_mask: NDArray[np.bool_] | None
    ) -> tuple[Tensor, NDArray[np.float32]]:
        """Return I(X) and how much I changed each pixel, ``|X - I(X)|``.

        Parameters
        ----------
        images : Tensor of shape (n_images, n_channels, height, width)
            Scaled images.
        ignore_mask : ndarray of shape (height, width), bool, or None
            True where pixels do not count.

        Returns
        -------
        inpainted : Tensor of the same shape
            On the CPU.
        residual : ndarray of shape (n_images, height, width), float32
            Smoothed; 0 where pixels do not count.
        """
        inpainted = self._inpaint(images)
        change = (images - inpainted).abs()
        reduced = change.amax(1) if self.channel_reduction == "max" else change.mean(1)
        residual = anomaly_maps.smooth(
            reduced.cpu().numpy(), **self.filters, ignore_mask=ignore_mask
        )
        if ignore_mask is not None:
            residual[:, ignore_mask] = 0
        return inpainted.cpu(), residual

    @torch.inference_mode()
    def doubt(self, images: Tensor, ignore_mask: NDArray[np.bool_] | None) -> NDArray[np.float32]:
        """Return how regular D finds the region of each pixel, as logits.

        Parameters
        ----------
        images : Tensor of shape (n_images, n_channels, height, width)
            Scaled images.
        ignore_mask : ndarray of shape (height, width), bool, or None
            True where pixels do not count: D is sure of these.

        Returns
        -------
        logits : ndarray of shape (n_images, height, width), float32
            Smoothed.
        """
        scores = in_tiles(self.detector, images, TILE_PIXELS).float().cpu().numpy()
        size: tuple[int, int] = tuple(images.shape[2:])  # type: ignore[assignment]
        return to_pixels(
            scores, self.geometry, size, self.filters, ignore_mask, ignored=anomaly_maps.LOG_LIMIT
        )

    def _inpaint(self, images: Tensor) -> Tensor:
        """Restore images: I(X). Masked pixels are the mean over draws that mask every pixel."""
        if self.draws is None:
            return in_tiles(self.inpainter, images, TILE_PIXELS)
        total, count = torch.zeros_like(images), torch.zeros_like(images)
        for draw in self.draws(images):
            total += draw.masked * self.inpainter(draw.images, draw.masked)
            count += draw.masked
        return total / count

    def fingerprint(self) -> tuple[Any, ...]:
        """Name all that the maps depend on beside the images, for a cache.

        Returns
        -------
        fingerprint : tuple
            Hashes and numbers.
        """
        draws = None if self.draws is None else getattr(self.draws, "keywords", None)
        return (
            digest(self.inpainter, self.detector), self.geometry, self.filters,
            self.channel_reduction, draws, self.judges,
        )  # fmt: skip


def chunk_size(height: int, width: int, device: str) -> int:
    """Say how many images both networks look at at once.

    Parameters
    ----------
    height, width : int
        Of an image, in pixels.
    device : str
        Where to compute.

    Returns
    -------
    n : int
        Small networks still work on 16 x 16 or so; more than 64 images gain nothing.

    Examples
    --------
    >>> from skavid.core.pixel_pair import chunk_size
    >>> chunk_size(128, 128, "cpu")
    2
    """
    budget = CHUNK_PIXELS["cpu" if device == "cpu" else "cuda"]
    return min(64, max(1, budget // (max(height, 16) * max(width, 16))))


def cached_scene(
    images: NDArray[Any],
    groups: NDArray[Any] | None,
    parts: Split,
    settings: dict[str, Any],
    memory: Any,
) -> Scene | None:
    """Learn from training clips what moves there.

    Parameters
    ----------
    images : ndarray of shape (n_images, height, width, n_channels)
        Checked images.
    groups : ndarray of shape (n_images,) or None
        Clip ids.
    parts : Split
        Which rows train.
    settings : dict
        Of the training: ``spacing``, ``value_range`` and ``ignore_mask`` are used.
    memory : None, str or Memory
        A cache.

    Returns
    -------
    scene : Scene or None
        None for images, which have no ``spacing``.
    """
    if settings["spacing"] is None:
        return None
    given = {name: settings[name] for name in ("value_range", "spacing", "ignore_mask")}
    scene: Scene = check_memory(memory).cache(scene_of_stacks)(
        images, groups, parts.train, **given
    )
    return scene


def measure(
    scene: Scene | None,
    size: tuple[int, int],
    *,
    geometry: str,
    region_size: int | str,
    crop_size: int | str | None,
) -> Scale:
    """Bring all sizes to the scale of what moves; where nothing does, of the image.

    Parameters
    ----------
    scene : Scene or None
        From `cached_scene`.
    size : tuple (height, width)
        Of an image, in pixels.
    geometry : {"aligned", "paper"}
        The regions of D.
    region_size, crop_size : int or "auto"
        As parameters of the detector's components.

    Returns
    -------
    scale : Scale
        All sizes in pixels.

    Examples
    --------
    >>> from skavid.core.pixel_pair import measure
    >>> scale = measure(None, (90, 90), geometry="aligned", region_size="auto", crop_size="auto")
    >>> scale.geometry.size, scale.crop_size, scale.filters
    (4, 80, {'mean': 10, 'maximum': 15})
    """
    found = None if scene is None else scene.size
    side = found or min(size) / 9
    if isinstance(region_size, str):
        region_size = 2 ** int(np.clip(round(np.log2(max(REGION * side, 1))), 0, 6))
    if isinstance(crop_size, str):
        crop_size = max(32, -(-round(CROP * side) // 8) * 8)
    return Scale(
        geometry=aligned(int(region_size)) if geometry == "aligned" else PAPER_GEOMETRY,
        object_size=found,
        object_speed=None if scene is None or found is None else scene.speed,
        crop_size=crop_size,
        filters={"mean": round(SMOOTHING * side), "maximum": round(WIDENING * side)},
    )


def train(
    images: NDArray[Any],
    groups: NDArray[Any] | None,
    parts: Split,
    settings: dict[str, Any],
    *,
    scale: Scale,
    scene: Scene | None,
    memory: Any,
    net: AVIDNet | None,
    checkpoint: Any,
    **watched: Any,
) -> Trained:
    """Train both networks, or take them from a cache.

    Parameters
    ----------
    images : ndarray of shape (n_images, height, width, n_channels)
        Checked images.
    groups : ndarray of shape (n_images,) or None
        Clip ids.
    parts : Split
        Which rows train and which are held out.
    settings : dict
        Of `skavid.core.training.train_networks`.
    scale : Scale
        From `measure`.
    scene : Scene or None
        From `cached_scene`.
    memory : None, str or Memory
        A cache.
    net : AVIDNet or None
        A net to go on with.
    checkpoint : Checkpoint or None
        Of `skavid.checkpoint`.
    **watched : dict
        ``callbacks``, and ``verbose``, which does not decide over the result.

    Returns
    -------
    trained : Trained
        Both networks. An interrupted training warns, and keeps the best ones so far.
    """
    _check_size(images.shape[1:3], settings["geometry"])
    # Not part of the cache key: the scene follows from the images.
    watched |= {"scene": scene} | ({} if checkpoint is None else {"checkpoint": checkpoint})
    try:
        if net is not None:
            net = train_networks(images, groups, parts, net=net, **watched, **settings)
        else:
            with cached(
                train_networks, memory, (images, groups, parts, settings), watched["callbacks"]
            ) as training:
                net = training(images, groups, parts, **watched, **settings)
    except InterruptedTraining as interrupted:
        net = interrupted.result
        best = net.best_
        goes_on = "" if checkpoint is None else f" The same fit goes on from {checkpoint.path}."
        if net.stopped_by_ is None:
            warnings.warn(
                f"The training was interrupted after epoch {len(net.history)}; the best networks "
                f"so far are kept (I of epoch {best['inpainter']['epoch']}, D of epoch "
                f"{best['detector']['epoch']}).{goes_on}",
                InterruptedTrainingWarning,
                stacklevel=7,
            )
    return _kept(net, scale, parts.held_out, images.shape[1:3])


def _kept(net: Any, scale: Scale, held_out: NDArray[np.int64], size: tuple[int, ...]) -> Trained:
    """Take the best networks out of a net."""
    networks = {}
    for name in ("inpainter", "detector"):
        network = copy.deepcopy(getattr(net, f"averaged_{name}_").module)
        network.load_state_dict(net.best_[name]["weights"])
        networks[name] = network.eval().requires_grad_(False)
    return Trained(
        **networks,
        net=net,
        history=[
            {key: value for key, value in row.items() if key in HISTORY} for row in net.history
        ],
        n_epochs=net.n_trained_,
        checkpoint={
            name: {"epoch": net.best_[name]["epoch"], why: net.best_[name]["figure"]}
            for name, why in (("inpainter", "restoring_error"), ("detector", "region_auc"))
        },
        rows=calibration_rows(held_out, *size),
        n_held_out=len(held_out),
        scale=scale,
    )


def _check_size(size: tuple[int, ...], geometry: Geometry) -> None:
    if geometry == PAPER_GEOMETRY and min(size) < geometry.size:
        raise ValueError(
            f"X has images of {size[0]} x {size[1]} pixels, but a region of "
            f"detector__geometry='paper' holds {geometry.size} x {geometry.size}; enlarge them or "
            "take 'aligned'."
        )
