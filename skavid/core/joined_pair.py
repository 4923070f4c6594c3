"""Several feature maps together: a pixel is as irregular as the map says that finds it most so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from skavid.core import anomaly_maps
from skavid.core.calibration import LARGEST_AUC
from skavid.core.feature_pair import FeaturePair
from skavid.core.images import RESIDUAL_FLOOR
from skavid.core.pair import Look
from skavid.core.pixel_pair import PixelPair
from skavid.core.whole_image import LEAST_AUC

__all__ = ["JoinedPair", "join", "learn_units", "mean_unit"]

LEAST_UNIT = 1e-3
AUC_RANGE = LEAST_AUC, LARGEST_AUC  # no map is worth infinitely more than another one
LARGEST_LOG = 80.0  # whose exponential single precision can hold

Maps = tuple[NDArray[np.float32], NDArray[np.float32]]


def learn_units(
    maps: Sequence[Maps],
    votes: Sequence[tuple[bool, bool]] | None = None,
    region_aucs: Sequence[tuple[float, float]] | None = None,
) -> NDArray[np.float64]:
    """Find the units in which the maps of several pairs of networks can be compared.

    Parameters
    ----------
    maps : sequence of tuple of two ndarray of shape (n_images, height, width)
        Residual and logits of the same held-out normal images, from each pair.
    votes : sequence of tuple of two bool, default=None
        Whether I and D of each pair count. None takes all.
    region_aucs : sequence of tuple of two float, default=None
        How well I and D of each pair tell synthetic anomalies from normal regions, in [0, 1].
        None takes all as equally good.

    Returns
    -------
    units : ndarray of shape (n_pairs, 2, 2), float64
        For each pair, for log R and for -logit: the mean and the unit of the most irregular place
        of an image. The unit is the standard deviation, and larger where a network is worse than
        that of another pair: in inverse proportion to its detectability index, as in
        `skavid.core.calibration.balance_margins`. It is 0 for what does not count.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.joined_pair import learn_units
    >>> residual = np.exp(np.array([1.0, 3.0], np.float32)).reshape(2, 1, 1)
    >>> learn_units([(residual, np.zeros((2, 1, 1), np.float32))])[0, 0].round(3)
    array([2., 1.])
    """
    units = np.zeros((len(maps), 2, 2))
    for i, (residual, logits) in enumerate(maps):
        peaks = _log(residual.max(axis=(1, 2))), -logits.min(axis=(1, 2)).astype(np.float64)
        for unit, peak in zip(units[i], peaks, strict=True):
            unit[:] = peak.mean(), max(peak.std(), LEAST_UNIT)
    if region_aucs is not None:
        worth = ndtri(np.clip(region_aucs, *AUC_RANGE))
        units[:, :, 1] *= worth.max(axis=0) / worth
    if votes is not None:
        units[~np.array(votes), 1] = 0
    return units


def mean_unit(units: NDArray[np.float64]) -> tuple[float, float]:
    """Return what several maps are brought to: the mean of their means, and of their units.

    Parameters
    ----------
    units : ndarray of shape (n_pairs, 2)
        For each pair, mean and unit; those of unit 0 do not count.

    Returns
    -------
    mean, unit : float
        The harmonic mean of the units, so that a map of little worth does not stretch them. 0 and
        0 where no pair counts.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.joined_pair import mean_unit
    >>> mean_unit(np.array([[1.0, 2.0], [3.0, 2.0], [9.0, 0.0]]))
    (2.0, 2.0)
    """
    means, spreads = units[units[:, 1] > 0].T
    if not len(means):
        return 0.0, 0.0
    return float(means.mean()), float(1 / (1 / spreads).mean())


def join(
    maps: Sequence[Maps], units: NDArray[np.float64], ignore_mask: NDArray[np.bool_] | None = None
) -> Maps:
    """Join the maps of several pairs: I by I and D by D, the most irregular one counts.

    Parameters
    ----------
    maps : sequence of tuple of two ndarray of shape (n_images, height, width)
        Residual and logits of the same images, from each pair.
    units : ndarray of shape (n_pairs, 2, 2)
        From `learn_units`.
    ignore_mask : ndarray of shape (height, width), bool, default=None
        True where pixels do not count.

    Returns
    -------
    residual, logits : ndarray of shape (n_images, height, width), float32
        Of each pixel the one that lies most units above what normal images have at most, brought
        to the mean unit of all pairs, so that thresholds keep their meaning.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.joined_pair import join
    >>> one, other = np.float32([[[1.0, 4.0]]]), np.float32([[[3.0, 1.0]]])
    >>> units = np.array([[[0.0, 1.0], [0.0, 1.0]]] * 2)
    >>> join([(one, -one), (other, -other)], units)[0]
    array([[[3., 4.]]], dtype=float32)
    """
    residuals, all_logits = zip(*maps, strict=True)
    log_residual = _most_irregular(residuals, units[:, 0], _log)
    doubt = _most_irregular(all_logits, units[:, 1], _doubt)
    residual = np.exp(np.minimum(log_residual, LARGEST_LOG)).astype(np.float32)
    logits = (-doubt).astype(np.float32)
    if ignore_mask is not None:
        residual[:, ignore_mask], logits[:, ignore_mask] = 0.0, anomaly_maps.LOG_LIMIT
    return residual, logits


def _log(residual: NDArray[np.float32]) -> NDArray[np.float64]:
    logs: NDArray[np.float64] = np.log(np.maximum(residual, RESIDUAL_FLOOR, dtype=np.float64))
    return logs


def _doubt(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    return -logits.astype(np.float64)


def _most_irregular(
    maps: Sequence[NDArray[np.float32]],
    units: NDArray[np.float64],
    irregularity: Callable[[NDArray[np.float32]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    mean, spread = mean_unit(units)
    if spread == 0:  # no D counts: what they say is not asked
        return irregularity(maps[0])
    apart = [(irregularity(one) - m) / s for one, (m, s) in zip(maps, units, strict=True) if s > 0]
    joined: NDArray[np.float64] = mean + spread * np.max(apart, axis=0)
    return joined


@dataclass(frozen=True)
class JoinedPair:
    """Pairs of networks over several feature maps.

    Parameters
    ----------
    pairs : tuple of FeaturePair or PixelPair
        I and D over each map, and over pixels; all with the same filters.
    units : ndarray of shape (n_pairs, 2, 2)
        From `learn_units`.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid import AVIDDetector
    >>> from skavid.core.joined_pair import JoinedPair
    >>> X = np.random.default_rng(0).normal(size=(40, 16, 16))
    >>> pair = AVIDDetector(max_epochs=1, random_state=0).fit(X).pair_
    >>> twice = JoinedPair((pair, pair), np.ones((2, 2, 2)))  # of two maps, usually
    >>> twice.chunk_size(16, 16, "cpu") == pair.chunk_size(16, 16, "cpu")
    True
    """

    pairs: tuple[FeaturePair | PixelPair, ...]
    units: NDArray[np.float64]

    @property
    def filters(self) -> dict[str, int]:
        """Sides of the "mean" and the "maximum" filter, in pixels."""
        return self.pairs[0].filters

    def to(self, device: str) -> JoinedPair:
        """Return the pairs with their networks on a device.

        Parameters
        ----------
        device : str
            Where to compute.

        Returns
        -------
        pair : JoinedPair
            On a GPU, copies of all networks.
        """
        return replace(self, pairs=tuple(pair.to(device) for pair in self.pairs))

    def chunk_size(self, height: int, width: int, device: str) -> int:
        """Return how many images the networks look at at once.

        Parameters
        ----------
        height, width : int
            Of an image, in pixels.
        device : str
            Where to compute.

        Returns
        -------
        n : int
            The least of all pairs.
        """
        return min(pair.chunk_size(height, width, device) for pair in self.pairs)

    def check_size(self, size: tuple[int, ...], fitted: tuple[int, ...]) -> None:
        """Refuse images of a size that the networks cannot look at.

        Parameters
        ----------
        size, fitted : tuple (height, width)
            Of an image and of the training images.
        """
        for pair in self.pairs:
            pair.check_size(size, fitted)

    @torch.inference_mode()
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
            Whether to look for I(X), which the pair over pixels has, or else the first one.

        Returns
        -------
        look : Look
            Both maps of the first ``n`` images.
        """
        looks = [
            pair.look(images, n, ignore_mask, restores=restores and i == self._restoring)
            for i, pair in enumerate(self.pairs)
        ]
        maps = join([look[:2] for look in looks], self.units, ignore_mask)
        reasons = looks[0].reasons
        for look in looks[1:]:
            reasons = np.where(reasons > 0, reasons, look.reasons)
        return Look(*maps, reasons, looks[self._restoring].inpainted)

    @property
    def _restoring(self) -> int:
        """The pair whose I restores images, not features."""
        over_pixels = [isinstance(pair, PixelPair) for pair in self.pairs]
        return over_pixels.index(True) if any(over_pixels) else 0

    def fingerprint(self) -> tuple[Any, ...]:
        """Name all that the maps depend on beside the images, for a cache.

        Returns
        -------
        fingerprint : tuple
            Hashes and numbers.
        """
        return (*(pair.fingerprint() for pair in self.pairs), self.units.tolist())
