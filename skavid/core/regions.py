"""The regions of the detector, Sec. 3.2 and 3.4: the pixels that each score belongs to.

Region ``(i, j)`` is ``B_ij``, the receptive field of ``O(i, j)``.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

__all__ = [
    "PAPER_GEOMETRY",
    "Geometry",
    "aligned",
    "grid_shape",
    "lowest_region",
    "region_slices",
]


class Geometry(NamedTuple):
    """Square regions on a grid that begins at pixel 0, with ``jump`` pixels between their starts.

    Parameters
    ----------
    size : int
        Side of a region, in pixels.
    jump : int
        Distance between the starts of neighbouring regions, in pixels; at most ``size``, so that
        the regions cover every pixel.

    Examples
    --------
    >>> from skavid.core.regions import Geometry
    >>> Geometry(size=8, jump=4)
    Geometry(size=8, jump=4)
    """

    size: int
    jump: int


PAPER_GEOMETRY = Geometry(51, 16)
"""Fig. 2: kernels 11, 3 and 5 at strides 4, 2 and 2, without padding."""


def aligned(region_size: int) -> Geometry:
    """Return a geometry whose regions tile the image without overlap, as in Sec. 3.3.

    Parameters
    ----------
    region_size : int
        Side of a region in pixels: a power of two, at most 64.

    Returns
    -------
    geometry : Geometry
        With ``jump == size``.

    Examples
    --------
    >>> from skavid.core.regions import aligned
    >>> aligned(4)
    Geometry(size=4, jump=4)
    """
    valid = isinstance(region_size, Integral) and not isinstance(region_size, bool)
    if not valid or region_size not in (1, 2, 4, 8, 16, 32, 64):
        raise ValueError(f"region_size must be a power of two from 1 to 64. Got {region_size!r}.")
    return Geometry(int(region_size), int(region_size))


def grid_shape(geometry: Geometry, height: int, width: int) -> tuple[int, int]:
    """Count the regions that are needed to cover every pixel.

    Parameters
    ----------
    geometry : Geometry
        Size and jump of the regions.
    height, width : int
        Size of the image in pixels.

    Returns
    -------
    n1, n2 : int
        Rows and columns of regions. The last ones may extend beyond the image, which is reflected
        there for the detector.

    Examples
    --------
    >>> from skavid.core.regions import PAPER_GEOMETRY, grid_shape
    >>> grid_shape(PAPER_GEOMETRY, 227, 227)
    (12, 12)
    """
    size, jump = geometry
    n1, n2 = (-(-max(length - size, 0) // jump) + 1 for length in (height, width))
    return n1, n2


def padded_shape(geometry: Geometry, height: int, width: int) -> tuple[int, int]:
    """Return the size to which an image is padded so that the last regions are complete."""
    size, jump = geometry
    n1, n2 = grid_shape(geometry, height, width)
    return (n1 - 1) * jump + size, (n2 - 1) * jump + size


def region_slices(
    geometry: Geometry, i: int, j: int, height: int, width: int
) -> tuple[slice, slice]:
    """Return the pixels of the image that belong to region ``(i, j)``.

    Parameters
    ----------
    geometry : Geometry
        Size and jump of the regions.
    i, j : int
        Row and column of the region.
    height, width : int
        Size of the image in pixels.

    Returns
    -------
    rows, columns : slice
        Not empty, and within the image.

    Examples
    --------
    >>> from skavid.core.regions import aligned, region_slices
    >>> region_slices(aligned(4), 0, 1, height=6, width=6)
    (slice(0, 4, None), slice(4, 6, None))
    """
    top, left = i * geometry.jump, j * geometry.jump
    return (
        slice(top, min(top + geometry.size, height)),
        slice(left, min(left + geometry.size, width)),
    )


def region_mean(maps: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Average a map, (n_images, height, width), over the pixels of each region in the image.

    The means, (n_images, n1, n2), are computed in float64: those of zeros and ones are exact.
    """
    height, width = maps.shape[-2:]
    rows, columns = padded_shape(geometry, height, width)
    whole = functional.pad(maps.double(), (0, columns - width, 0, rows - height))
    sums = functional.avg_pool2d(
        whole.unsqueeze(1), geometry.size, geometry.jump, divisor_override=1
    ).squeeze(1)
    heights, widths = (
        np.minimum(np.arange(n) * geometry.jump + geometry.size, length)
        - np.arange(n) * geometry.jump
        for n, length in zip(grid_shape(geometry, height, width), (height, width), strict=True)
    )
    areas = torch.from_numpy(np.outer(heights, widths)).to(sums.device)
    return (sums / areas).to(maps.dtype)


def lowest_region(
    scores: npt.NDArray[Any], geometry: Geometry, height: int, width: int
) -> npt.NDArray[Any]:
    """Assign each pixel the lowest score of the regions that contain it, O(p).

    Thus ``O(p) <= zeta`` holds in the union of the regions that Eq. 4 selects.

    Parameters
    ----------
    scores : ndarray of shape (n_images, n1, n2)
        O or the detector's logits, or any other score: the higher, the more regular.
    geometry : Geometry
        Size and jump of the regions.
    height, width : int
        Size of the images in pixels.

    Returns
    -------
    lowest : ndarray of shape (n_images, height, width)
        In the dtype of ``scores``.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.regions import Geometry, lowest_region
    >>> lowest_region(np.array([[[0.9, 0.2]]]), Geometry(size=2, jump=1), 2, 3)
    array([[[0.9, 0.2, 0.2],
            [0.9, 0.2, 0.2]]])
    """
    n1, n2 = grid_shape(geometry, height, width)
    return _lowest_along(
        _lowest_along(scores, geometry, n2, width, axis=2), geometry, n1, height, axis=1
    )


def reflect_pad(
    images: torch.Tensor, left: int, right: int, top: int, bottom: int
) -> torch.Tensor:
    """Pad images, (..., height, width), by reflection on each side, differentiably.

    ``torch.nn.functional.pad`` cannot reflect by more pixels than an image has.
    """
    for axis, before, after in ((-2, top, bottom), (-1, left, right)):
        if before or after:
            indices = np.pad(np.arange(images.shape[axis]), (before, after), mode="reflect")
            images = images.index_select(axis, torch.from_numpy(indices).to(images.device))
    return images


def _lowest_along(
    scores: npt.NDArray[Any], geometry: Geometry, n_regions: int, length: int, *, axis: int
) -> npt.NDArray[Any]:
    """Spread one axis of regions to pixels; the minimum is separable over the two axes."""
    pixels = np.arange(length)
    # Region i contains pixel p if i * jump <= p <= i * jump + size - 1.
    last = np.minimum(pixels // geometry.jump, n_regions - 1)
    first = np.maximum(-((geometry.size - 1 - pixels) // geometry.jump), 0)
    lowest = scores.take(first, axis=axis)
    for step in range(1, math.ceil(geometry.size / geometry.jump)):
        np.minimum(lowest, scores.take(np.minimum(first + step, last), axis=axis), out=lowest)
    return lowest
