"""Common parts of the pairs of networks over pixels and over feature maps.

`pixel_pair` and `feature_pair` each offer ``measure``, ``train``, and a `NetworkPair` that turns
images into the two maps of Eq. 4.
"""

from __future__ import annotations

import copy
import hashlib
import operator
import os
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_memory
from torch import Tensor, nn

from skavid.core import anomaly_maps
from skavid.core.anomaly_maps import AnomalyMaps, DecisionRule
from skavid.core.images import from_tensor, intensity_range, to_tensor
from skavid.core.regions import Geometry, lowest_region
from skavid.core.scene import evenly

__all__ = [
    "Look",
    "Scale",
    "Trained",
    "both_maps",
    "cached_looks",
    "calibration_rows",
    "iter_looks",
    "iter_maps",
    "to_pixels",
]

CALIBRATION_PIXELS = 2**26
_IMPORTED_IN = os.getpid()
# Copies on a device, with what they were made of.
_PLACED: WeakKeyDictionary[nn.Module, tuple[str, list[int | None], list[Tensor], nn.Module]] = (
    WeakKeyDictionary()
)
_Network = TypeVar("_Network", bound=nn.Module)


class Scale(NamedTuple):
    """Sizes that follow from the training images before any training.

    Parameters
    ----------
    geometry : Geometry
        The regions of D.
    object_size, object_speed : float or None
        Of what moves, in pixels and in pixels per frame; None where nothing does.
    crop_size : int or None
        Larger images are trained on crops of this size.
    filters : dict
        Sides of the "mean" and the "maximum" filter that "auto" stands for.
    """

    geometry: Geometry
    object_size: float | None
    object_speed: float | None
    crop_size: int | None
    filters: dict[str, int]


class Trained(NamedTuple):
    """What a training leaves behind.

    Parameters
    ----------
    inpainter, detector : Module
        I and D, on the CPU.
    net : NeuralNet
        What trained them.
    history : list of dict
        One row per epoch.
    n_epochs : int
        How many epochs were trained.
    checkpoint : dict
        Which epoch each network was kept from, and the figure that chose it.
    rows : ndarray of int
        The images to calibrate on.
    n_held_out : int
        How many images were held out; ``rows`` may be some of them.
    scale : Scale
        The sizes that the training went by.
    features : Module, default=None
        The feature map.
    whole : Module, default=None
        What judges an image by its own statistics.
    maps : tuple of ndarray, default=None
        Residual and logits of these images, where the training has looked at them already.
    region_auc : tuple of two float, default=None
        How well I and D each tell synthetic anomalies from normal regions.
    is_blind : bool, default=False
        Whether D cannot tell them at all.
    members : tuple, default=()
        Fitted detectors on one feature map each, whose maps are joined; I and D are theirs.
    units : ndarray, default=None
        In which their maps are compared, from `skavid.core.joined_pair.learn_units`.
    """

    inpainter: Any
    detector: Any
    net: Any
    history: list[dict[str, Any]]
    n_epochs: int
    checkpoint: dict[str, dict[str, Any]]
    rows: NDArray[np.int64]
    n_held_out: int
    scale: Scale
    features: Any = None
    whole: Any = None
    maps: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    region_auc: tuple[float, float] | None = None
    is_blind: bool = False
    members: tuple[Any, ...] = ()
    units: NDArray[np.float64] | None = None


class Look(NamedTuple):
    """What a pair of networks says of some images.

    Parameters
    ----------
    residual, logits : ndarray of shape (n_images, height, width), float32
        Both maps, smoothed.
    reasons : ndarray of shape (n_images,), uint8
        Why an image as a whole is farther from normal than any training image, as
        `skavid.core.anomaly_maps.REASONS` numbers it; 0 where it is not.
    inpainted : Tensor of shape (n_images, n_channels, height, width), default=None
        I(X), scaled, on the CPU. None where the maps come from a cache.
    """

    residual: NDArray[np.float32]
    logits: NDArray[np.float32]
    reasons: NDArray[np.uint8]
    inpainted: Tensor | None = None


class NetworkPair(Protocol):
    """I and D, with all that it takes to look at images with them."""

    @property
    def filters(self) -> dict[str, int]:
        """Sides of the "mean" and the "maximum" filter, in pixels."""

    def to(self, device: str) -> NetworkPair:
        """Return the pair with its networks on a device."""

    def chunk_size(self, height: int, width: int, device: str) -> int:
        """Return how many images the networks look at at once."""

    def check_size(self, size: tuple[int, ...], fitted: tuple[int, ...]) -> None:
        """Refuse images of a size that the networks cannot look at."""

    def fingerprint(self) -> tuple[Any, ...]:
        """Name all that the maps depend on beside the images, for a cache."""

    def look(
        self, images: Tensor, n: int, ignore_mask: NDArray[np.bool_] | None, *, restores: bool
    ) -> Look:
        """Look at a chunk, of which the first ``n`` images count."""


def iter_looks(
    pair: NetworkPair,
    images: NDArray[Any],
    *,
    value_range: tuple[float, float],
    ignore_mask: NDArray[np.bool_] | None,
    device: str,
    rows: NDArray[np.int64] | None = None,
    restores: bool = True,
) -> Iterator[tuple[slice, Look]]:
    """Look at images a chunk at a time.

    Parameters
    ----------
    pair : NetworkPair
        I and D.
    images : ndarray of shape (n_images, height, width, n_channels)
        Checked images.
    value_range : tuple of float
        What is scaled to 0 and 1.
    ignore_mask : ndarray of shape (height, width), bool, or None
        True where pixels do not count.
    device : str
        Where to compute.
    rows : ndarray of int, default=None
        Which images; None takes all.
    restores : bool, default=True
        Whether I(X) is needed. Over pixels it is there anyway; on a feature map it costs time.

    Yields
    ------
    part : slice
        Which of the images, or of the ``rows``.
    look : Look
        Both maps. All chunks are filled up to the same size, so that a score depends neither on
        how many images came with it nor on where among them it stood.
    """
    guard_forked()
    pair = pair.to(device)
    height, width = images.shape[1:3]
    size = pair.chunk_size(height, width, device)
    n = len(images) if rows is None else len(rows)
    for start in range(0, n, size):
        chunk = slice(start, min(start + size, n))
        tensor = to_tensor(
            images[chunk if rows is None else rows[chunk]], value_range, ignore_mask
        )
        missing = size - len(tensor)
        full = torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]).to(device)
        yield chunk, pair.look(full, len(tensor), ignore_mask, restores=restores)


def cached_looks(
    pair: NetworkPair,
    images: NDArray[Any],
    *,
    memory: Any,
    rows: NDArray[np.int64] | None = None,
    **options: Any,
) -> Iterator[tuple[slice, Look]]:
    """Look at images as `iter_looks` does, without I(X); out of the cache where there is one.

    Parameters
    ----------
    pair : NetworkPair
        I and D.
    images : ndarray of shape (n_images, height, width, n_channels)
        Checked images.
    memory : None, str or Memory
        The cache; of more than 2**26 pixels nothing is cached.
    rows : ndarray of int, default=None
        Which images; None takes all.
    **options : dict
        ``value_range``, ``ignore_mask`` and ``device``, as in `iter_looks`.

    Yields
    ------
    part : slice
        Which of the images, or of the ``rows``.
    look : Look
        Both maps.
    """
    memory = check_memory(memory)
    n = len(images) if rows is None else len(rows)
    if memory.location is None or n * images.shape[1] * images.shape[2] > CALIBRATION_PIXELS:
        yield from iter_looks(pair, images, rows=rows, restores=False, **options)
        return
    look_at = memory.cache(_look_at_all, ignore=["pair"])
    chosen = images if rows is None else images[rows]
    found = look_at(pair, chosen, pair.fingerprint(), options)
    for start in range(0, n, 64):
        part = slice(start, min(start + 64, n))
        yield part, Look(*(array[part] for array in found))


def _look_at_all(
    pair: NetworkPair, images: NDArray[Any], fingerprint: Any, options: dict[str, Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """Return the maps of all images; the fingerprint names the pair to a cache."""
    residual, logits = np.empty((2, *images.shape[:3]), np.float32)
    reasons = np.empty(len(images), np.uint8)
    for rows, look in iter_looks(pair, images, restores=False, **options):
        residual[rows], logits[rows], reasons[rows] = look[:3]
    return residual, logits, reasons


def iter_maps(
    pair: NetworkPair,
    images: NDArray[Any],
    *,
    rule: DecisionRule,
    inpainted: bool = False,
    squeezed: bool = False,
    memory: Any = None,
    **options: Any,
) -> Iterator[tuple[slice, AnomalyMaps]]:
    """Yield the anomaly maps of images, a chunk at a time.

    Parameters
    ----------
    pair : NetworkPair
        I and D.
    images : ndarray of shape (n_images, height, width, n_channels)
        Checked images.
    rule : DecisionRule
        The thresholds.
    inpainted : bool, default=False
        Whether I(X) is wanted, which is never cached.
    squeezed : bool, default=False
        Whether I(X) shall have no axis of channels.
    memory : None, str or Memory, default=None
        A cache.
    **options : dict
        ``value_range``, ``ignore_mask`` and ``device``, as in `iter_looks`.

    Yields
    ------
    rows : slice
        Which of the images.
    maps : AnomalyMaps
        Their maps. I(X) has the units of X, and is X itself where pixels do not count.
    """
    if not inpainted:
        for rows, look in cached_looks(pair, images, memory=memory, **options):
            yield rows, AnomalyMaps(look.residual, look.logits, rule=rule, reasons=look.reasons)
        return
    units, ignored = intensity_range(images, options["value_range"]), options["ignore_mask"]
    for rows, look in iter_looks(pair, images, **options):
        assert look.inpainted is not None
        made = from_tensor(look.inpainted, units)
        if ignored is not None:
            made[:, ignored] = images[rows][:, ignored]
        made = made[..., 0] if squeezed else made
        maps = look.residual, look.logits
        yield rows, AnomalyMaps(*maps, rule=rule, reasons=look.reasons, inpainted=made)


def both_maps(
    pair: NetworkPair, images: NDArray[Any], rows: NDArray[np.int64], **options: Any
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the residual and the logits of some images, for calibration.

    Parameters
    ----------
    pair : NetworkPair
        I and D.
    images : ndarray of shape (n_images, height, width, n_channels)
        Checked images.
    rows : ndarray of int
        Which of them.
    **options : dict
        ``memory``, ``value_range``, ``ignore_mask`` and ``device``, as in `cached_looks`.

    Returns
    -------
    residual, logits : ndarray of shape (n_rows, height, width), float32
        Both maps.
    """
    residual, logits = np.empty((2, len(rows), *images.shape[1:3]), np.float32)
    for part, look in cached_looks(pair, images, rows=rows, **options):
        residual[part], logits[part] = look.residual, look.logits
    return residual, logits


def to_pixels(
    scores: NDArray[np.float32],
    geometry: Geometry,
    size: tuple[int, int],
    filters: dict[str, int],
    ignore_mask: NDArray[np.bool_] | None,
    *,
    ignored: float,
) -> NDArray[np.float32]:
    """Bring scores of regions to pixels, and to the scale of an object.

    Parameters
    ----------
    scores : ndarray of shape (n_images, n_rows, n_columns)
        Of regions, the higher the more normal.
    geometry : Geometry
        Which pixels each region holds.
    size : tuple (height, width)
        Of the images.
    filters : dict
        Sides of the filters, as `skavid.core.anomaly_maps.smooth` takes them.
    ignore_mask : ndarray of shape (height, width), bool, or None
        True where pixels do not count.
    ignored : float
        The score of these pixels.

    Returns
    -------
    scores : ndarray of shape (n_images, height, width), float32
        The lowest score of the regions that hold a pixel, smoothed.
    """
    lowest = lowest_region(scores, geometry, *size)
    smoothed: NDArray[np.float32] = -anomaly_maps.smooth(
        -lowest, **filters, ignore_mask=ignore_mask
    )
    if ignore_mask is not None:
        smoothed[:, ignore_mask] = ignored
    return smoothed


def calibration_rows(rows: NDArray[np.int64], height: int, width: int) -> NDArray[np.int64]:
    """Choose as many images as memory is meant for, evenly spread.

    Parameters
    ----------
    rows : ndarray of int
        Of held-out images.
    height, width : int
        Of an image, in pixels.

    Returns
    -------
    rows : ndarray of int
        All of them, or some of 2**26 pixels together.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.pair import calibration_rows
    >>> len(calibration_rows(np.arange(9000), 100, 100))
    6710
    """
    return rows[evenly(len(rows), max(1, CALIBRATION_PIXELS // (height * width)))]


def placed(network: _Network, device: str) -> _Network:
    """Return a network on a device; on a GPU a copy, so that a pickle opens anywhere.

    The copy is kept as long as the network, for the next call: frames of a camera come one by one.
    """
    if device == "cpu":
        return network
    tensors = [*network.parameters(), *network.buffers()]
    # Torch counts changes in place.
    versions = [None if one.is_inference() else one._version for one in tensors]  # noqa: SLF001
    kept = _PLACED.get(network)
    if (
        kept is None
        or kept[:2] != (device, versions)
        or not all(map(operator.is_, kept[2], tensors))
    ):
        kept = device, versions, tensors, copy.deepcopy(network).to(device)
        _PLACED[network] = kept
    return cast(_Network, kept[3])


def digest(*networks: nn.Module) -> str:
    """Hash the weights of networks."""
    sha256 = hashlib.sha256()
    for network in networks:
        for name, weights in network.state_dict().items():
            sha256.update(name.encode() + weights.numpy().tobytes())
    return sha256.hexdigest()


def guard_forked() -> None:
    """Use one thread in a forked child, which would wait for ever for OpenMP's other ones."""
    if os.getpid() != _IMPORTED_IN:
        torch.set_num_threads(1)
