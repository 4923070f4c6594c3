"""Judge images as a whole: by their own statistics, and by their distance from normal images."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from skavid.core.linear import SAME, LinearInpainter, log_change

__all__ = ["WholeImage", "composite_distances", "log_distance"]

DIM = 0.02  # of the value range: differences in darker images are noise
LEAST_APART = 0.03  # spread of brightness, contrast and sharpness, about 3 %
FAR_APART = 3.0  # spreads
BEYOND = 0.01  # the share of normal clips or images whose statistics may lie beyond the limit
USUAL = 1.0  # spread: an image that is no farther than this from its nearest is as normal as any
FARTHEST = 1e3  # spreads
LARGEST_LOG = 80.0  # whose exponential single precision can hold
LEAST_PEAK = 1e-6  # so that a ratio can be taken
LARGEST_AUC = 0.999  # what makes no error on few images has no infinite worth
LEAST_AUC = 0.51  # nor is anything worth infinitely more than what is at chance
BLANK = math.log(5)  # an image with a fifth of the usual spread of intensities shows nothing


def _standard_error(auc: float, n: int) -> float:
    """Return that of an AUC on n normal images and as many others (Hanley and McNeil, 1982)."""
    auc = min(auc, 1 - 1 / (2 * n))  # few images without an error do not say that there is none
    both_higher = auc / (2 - auc) + 2 * auc**2 / (1 + auc) - 2 * auc**2
    return math.sqrt(max(0.0, auc * (1 - auc) + (n - 1) * both_higher)) / n


def _weights(
    normal: Tensor, irregular: Tensor, of_networks: tuple[float, float], n: int
) -> NDArray[np.float64]:
    """Return what a number is worth beside I and D, by the AUC of each."""
    labels = [0] * len(normal) + [1] * len(irregular)
    auc = roc_auc_score(labels, torch.cat([normal, irregular]).numpy())
    auc -= 2 * _standard_error(auc, n)  # what it is worth at least
    worth = ndtri(np.clip([auc, *of_networks], [0.5, LEAST_AUC, LEAST_AUC], LARGEST_AUC))
    weights: NDArray[np.float64] = np.minimum(worth[0] / worth[1:], 1)
    return weights


def _lifting(
    number: Tensor, residual: Tensor, doubt: Tensor, weights: NDArray[np.float64]
) -> Tensor:
    """Return the mean and spread of a number, and how much both maps rise with each spread."""
    number, peaks = number.double(), torch.stack([residual, doubt], 1).std(0).double()
    shift = torch.stack([number.mean(), number.std().clamp(min=1e-3)])
    return torch.cat([shift, peaks * torch.from_numpy(weights)]).float()


class Moments(NamedTuple):
    """How numbers are spread, mergeable.

    Parameters
    ----------
    n : int
        How many there are.
    mean, squares : Tensor of shape (...)
        Their mean, and the sum of squares of what differs from it.
    largest : Tensor of shape (...)
        The largest.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.whole_image import Moments
    >>> both = Moments.of(torch.tensor([1.0, 2.0])).merge(Moments.of(torch.tensor([6.0])))
    >>> float(both.mean), float(both.largest)
    (3.0, 6.0)
    """

    n: int
    mean: Tensor
    squares: Tensor
    largest: Tensor

    @classmethod
    def of(cls, numbers: Tensor) -> Moments:
        """Return the moments of numbers, (n, ...)."""
        mean = numbers.double().mean(0)
        squares = (numbers.double() - mean).square().sum(0)
        return cls(len(numbers), mean, squares, numbers.amax(0))

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets (Chan, Golub and LeVeque, 1983)."""
        n = self.n + other.n
        apart = other.mean - self.mean
        return Moments(
            n,
            self.mean + apart * (other.n / n),
            self.squares + other.squares + apart.square() * (self.n * other.n / n),
            self.largest.maximum(other.largest),
        )

    def split(self) -> list[Moments]:
        """Return the moments of each column of numbers of shape (n, n_columns)."""
        columns = zip(self.mean, self.squares, self.largest, strict=True)
        return [Moments(self.n, *column) for column in columns]

    def std(self, correction: int = 1) -> Tensor:
        """Return the standard deviation, as torch defines it."""
        return (self.squares / (self.n - correction)).sqrt()


def log_distance(apart: Tensor) -> Tensor:
    """Return the distance of each image from the nearest remembered image as a whole.

    Parameters
    ----------
    apart : Tensor of shape (n_images, 4, n_remembered)
        From `skavid.core.linear.Changes`.

    Returns
    -------
    distance : Tensor of shape (n_images,)
        The logarithm of the root of the mean square. No image is its own nearest. Infinite
        where no other image is remembered.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.whole_image import log_distance
    >>> log_distance(torch.tensor([[[0.0, 0.25, 4.0]] * 4]))  # the first one is the image itself
    tensor([0.])
    """
    if apart.shape[2] < 2:
        return apart.new_full((len(apart),), math.inf)
    nearest, second = apart.sum(1).topk(2, largest=False).values.unbind(1)
    return log_change(torch.where(nearest < SAME**2, second, nearest).sqrt())


def composite_distances(apart: Tensor, blocks: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the distances of normal images and of composites from their nearest images.

    One half of a composite comes from one normal image, the other half from another: each place
    is normal, and the image as a whole is not, if normal images have anything in common as a
    whole. How far it is from a remembered image follows from how far both halves are.

    Parameters
    ----------
    apart : Tensor of shape (n_images, 4, n_remembered)
        Of normal images, from `skavid.core.linear.LinearInpainter.left_out`.
    blocks : Tensor of shape (n_images,), int, default=None
        Numbers of blocks of time; no composite is made within one.

    Returns
    -------
    normal, composite : Tensor of shape (n_composites,)
        As from `log_distance`, for each pair of images and both ways to halve an image: of the
        first image of the pair, and of the composite. Both lack what either image lacks.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.linear import learn_statistics
    >>> from skavid.core.whole_image import composite_distances, log_distance
    >>> kind = torch.arange(20.0) % 2  # images of two kinds, the same in all places
    >>> noise = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> features = kind[:, None, None, None] + 0.1 * noise
    >>> keys = torch.arange(20)
    >>> inpainter = learn_statistics([features], gamma=0.4, keys=keys)
    >>> normal, composite = composite_distances(inpainter.left_out(features, keys).apart)
    >>> bool(composite.mean() > normal.mean())
    True
    """
    differ = ~torch.eye(len(apart), dtype=torch.bool, device=apart.device)
    if blocks is not None:
        differ &= blocks[:, None] != blocks
    pairs = torch.split(differ.nonzero(), max(1, len(apart)))
    lacks = torch.where(apart.isinf(), math.inf, 0.0)
    normal, composite = [apart.new_empty(0)], [apart.new_empty(0)]
    for halves in ((0, 1), (2, 3)), ((0, 2), (1, 3)):
        first, second = (apart[:, half].sum(1) for half in halves)
        if first.any() and second.any():  # a grid of one row has no upper half
            for one, other in (pair.unbind(1) for pair in pairs):
                normal.append(log_distance(apart[one] + lacks[other]))
                composite.append(log_distance((first[one] + second[other])[:, None]))
    return torch.cat(normal), torch.cat(composite)


class WholeImage(nn.Module):
    """Judge an image by its own statistics: the mean and spread of each feature over all places.

    What covers a whole image (less light, less contrast, another scene) is no outlier anywhere.
    An I with so large a gamma that it takes nearly everything back restores these statistics: it
    changes them by their distance from the mean, in units of their spread, so that an image may
    not go far beyond the range of normal ones even where those vary most. How much it changes is
    brought to the scale of both maps, so that an image counts as irregular as a whole where it is
    farther from normal than every training image was, and than a further clip or image is
    expected to be (a prediction limit, which matters where there are few), by as much as its
    most irregular place would have to be.

    Within that limit, too, an image may be odd as a whole: its statistics may differ from those
    of most normal images, and an image that is composed of normal places may still be far from
    every normal image. `lift` raises the most irregular places by both, with the weights that
    `note_oddity` and `note_nearness` find.

    Parameters
    ----------
    n_features : int
        Length of the vector of a place.
    gamma : float, default=1000
        Of Eq. 2.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.linear import learn_statistics
    >>> from skavid.core.whole_image import WholeImage
    >>> features = torch.rand(30, 3, 8, 8)
    >>> whole = WholeImage(3)
    >>> whole.inpainter = learn_statistics([whole.statistics(features)], gamma=1000)
    >>> bool(whole.change(features[:1] / 2) > whole.change(features).max())
    True
    """

    to_residual: Tensor
    to_doubt: Tensor
    nearness: Tensor
    oddity: Tensor
    farthest: Tensor
    usual: Tensor
    appearance: Tensor

    def __init__(self, n_features: int, *, gamma: float = 1000.0) -> None:
        super().__init__()
        self.inpainter = LinearInpainter(2 * n_features, 1, 1, gamma=gamma)
        # log R and -logit that a whole image has, as offset + slope * log of its residual.
        self.register_buffer("to_residual", torch.tensor([-math.inf, 0.0]))
        self.register_buffer("to_doubt", torch.tensor([-math.inf, 0.0]))
        # Mean and spread of the distances of normal images from their nearest, and how much log R
        # and -logit rise with each further spread. The same of what `change` returns.
        self.register_buffer("nearness", torch.tensor([0.0, 1.0, 0.0, 0.0]))
        self.register_buffer("oddity", torch.tensor([0.0, 1.0, 0.0, 0.0]))
        # The limit of normal images, and the largest R of any place of one.
        self.register_buffer("farthest", torch.zeros(()))
        self.register_buffer("usual", torch.zeros(()))
        # Mean and spread of what `describe` says of training images.
        self.register_buffer("appearance", torch.tensor([[0.0] * 3, [1.0] * 3]))

    @staticmethod
    def statistics(features: Tensor) -> Tensor:
        """Return the mean and spread of each feature over the places.

        Parameters
        ----------
        features : Tensor of shape (n_images, n_features, n1, n2)
            Of a feature map.

        Returns
        -------
        statistics : Tensor of shape (n_images, 2 * n_features, 1, 1)
            Means, then spreads.
        """
        spread = features.std((2, 3), correction=0)
        return torch.cat([features.mean((2, 3)), spread], 1)[..., None, None]

    @staticmethod
    def describe(images: Tensor) -> Tensor:
        """Measure the brightness, contrast and sharpness of images.

        Parameters
        ----------
        images : Tensor of shape (n_images, n_channels, height, width)
            Intensities about [0, 1].

        Returns
        -------
        described : Tensor of shape (n_images, 3)
            Logarithms: of the mean intensity, of the spread relative to it, and of the mean
            difference between neighbours relative to the spread.
        """
        grey = images.mean(1)
        light = grey.mean((1, 2)).abs() + DIM
        spread = grey.std((1, 2), correction=0) + DIM / 10
        edges = (grey - F.avg_pool2d(grey, 3, 1, 1, count_include_pad=False)).abs().mean((1, 2))
        return torch.stack([light, spread / light, (edges + DIM / 100) / spread], 1).log()

    def note_appearance(self, described: Moments) -> None:
        """Note the usual brightness, contrast and sharpness.

        Parameters
        ----------
        described : Moments
            Of what `describe` says of training images.
        """
        both = [described.mean, described.std(correction=0)]
        self.appearance = torch.stack(both).float()

    def explain(self, images: Tensor) -> Tensor:
        """Say in which respect images differ most from the training images.

        Parameters
        ----------
        images : Tensor of shape (n_images, n_channels, height, width)
            Intensities about [0, 1].

        Returns
        -------
        reasons : Tensor of shape (n_images,), uint8
            1 has almost no contrast, 2 and 3 are darker and brighter, 4 and 5 have less and
            more contrast, 6 and 7 are less and more sharp; 8 differs in none of these respects.
        """
        mean, spread = self.appearance
        apart = self.describe(images) - mean
        is_far = apart.abs() > FAR_APART * spread.clamp(min=LEAST_APART)
        # Blur and noise change the contrast, too, but contrast does not change the sharpness.
        weight = apart.new_tensor([1.0, 1.0, 2.0])
        most, which = (weight * apart.abs() * is_far).max(1)
        up = (apart.gather(1, which[:, None])[:, 0] > 0).long()
        reasons = torch.where(most > 0, 2 + 2 * which + up, 8)
        return torch.where(apart[:, :2].sum(1) < -BLANK, 1, reasons).to(torch.uint8)

    def change(self, features: Tensor) -> Tensor:
        """Return how much I changes the statistics of each image.

        Parameters
        ----------
        features : Tensor of shape (n_images, n_features, n1, n2)
            Of a feature map.

        Returns
        -------
        change : Tensor of shape (n_images,)
            Its logarithm.
        """
        return log_change(self.inpainter.changes(self.statistics(features)).size[:, 0, 0])

    def note_nearness(
        self, distance: Tensor, composite: tuple[Tensor, Tensor], residual: Tensor, doubt: Tensor,
        region_auc: tuple[float, float], n_independent: int,
    ) -> None:  # fmt: skip
        """Find the weights of the distance from the nearest normal image beside I and D.

        Parameters
        ----------
        distance : Tensor of shape (n_images,)
            Of normal images that were left out, from `log_distance`.
        composite : tuple of two Tensor of shape (n_composites,)
            From `composite_distances` of these images.
        residual, doubt : Tensor of shape (n_images,)
            The largest log R, and the largest -logit, of the places of these images.
        region_auc : tuple of two float
            How well I and D each tell synthetic anomalies from normal regions.
        n_independent : int
            Of these images: their number, or that of the blocks of time that they come from.

        Notes
        -----
        The area under the ROC curve for composites, less two standard errors, stands for the
        distance: with few images its weight is small. Divided by their spreads among normal
        images, the distance and a network have weights in proportion to their detectability
        indices, see `skavid.core.calibration.balance_margins`. The distance never has a larger
        weight than the network.
        """
        known = distance.isfinite()
        negative, positive = (some[some.isfinite()] for some in composite)
        if known.sum() < 3 or not len(negative) or not len(positive):
            return
        weights = _weights(negative, positive, region_auc, n_independent)
        self.nearness = _lifting(distance[known], residual[known], doubt[known], weights)

    def note_oddity(
        self, change: Tensor, corrupted: Tensor, residual: Tensor, doubt: Tensor,
        image_auc: tuple[float, float], n_independent: int,
    ) -> None:  # fmt: skip
        """Find the weights of an image's own statistics beside I and D.

        Parameters
        ----------
        change : Tensor of shape (n_images,)
            Of normal images that were left out, from `change`.
        corrupted : Tensor of shape (n_corrupted,)
            The same of versions of these images with synthetic anomalies.
        residual, doubt : Tensor of shape (n_images,)
            As in `note_nearness`.
        image_auc : tuple of two float
            How well the largest residual and the largest doubt of I and D each tell images with
            synthetic anomalies from those without.
        n_independent : int
            As in `note_nearness`.

        Notes
        -----
        As in `note_nearness`, with the area under the ROC curve for synthetic anomalies.
        """
        if len(change) < 3 or not len(corrupted):
            return
        weights = _weights(change, corrupted, image_auc, n_independent)
        self.oddity = _lifting(change, residual, doubt, weights)

    def lift(
        self, residual: Tensor, logits: Tensor, distance: Tensor, change: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Raise the most irregular places of an image that is odd as a whole.

        Parameters
        ----------
        residual, logits : Tensor of shape (n_images, n1, n2)
            What I and D say of each place.
        distance, change : Tensor of shape (n_images,)
            From `log_distance` and from `change`.

        Returns
        -------
        residual, logits : Tensor of the same shapes
            As they were for an image that is no farther away than left-out normal images are,
            give or take one spread of theirs, and whose statistics differ no more. Other places
            rise as far as they are irregular
            beside the most irregular one, by the ratio of R and of the odds of D; all keep their
            order.
        """
        rises = residual.new_zeros(2, len(residual), 1, 1)
        for number, (mean, spread, *weights) in (
            (distance, self.nearness), (change, self.oddity),
        ):  # fmt: skip
            far = ((number - mean) / spread - USUAL).clamp(0, FARTHEST)
            far = torch.where(number.isfinite(), far, 0.0)
            rises += torch.stack(weights)[:, None, None, None] * far[:, None, None]
        peak, lowest = residual.amax((1, 2), keepdim=True), logits.amin((1, 2), keepdim=True)
        rise = rises[0] * residual / peak.clamp(min=LEAST_PEAK)
        return (
            residual * torch.exp(rise.clamp(max=LARGEST_LOG)),
            logits - rises[1] * torch.exp(lowest - logits),
        )

    def align(
        self,
        change: Tensor | Moments,
        residual: Tensor | Moments,
        doubt: Tensor | Moments,
        blocks: Tensor | None = None,
    ) -> None:
        """Bring whole images to the scale of places, so that on normal images both end alike.

        Parameters
        ----------
        change : Tensor of shape (n_images,) or Moments
            Of training images that were left out, as `change` returns it.
        residual, doubt : Tensor of shape (n_images,) or Moments
            The largest log R, and the largest -logit, of the places of each of them.
        blocks : Tensor of shape (n_images,), int, default=None
            Numbers of the blocks of time that were left out together. None left out each image.
        """
        own, *both = (
            one if isinstance(one, Moments) else Moments.of(one)
            for one in (change, residual, doubt)
        )
        n = own.n if blocks is None else int(blocks.max()) + 1
        spread = float(own.std()) if own.n > 1 else 0.0
        # A further one exceeds the largest of n with probability 1 / (n + 1); beyond it, the tail
        # falls as that of an exponential distribution.
        self.farthest = own.largest + spread * max(0.0, -math.log(BEYOND * (n + 1)))
        for name, places in zip(("to_residual", "to_doubt"), both, strict=True):
            slope = float(places.std()) / max(spread, 1e-3) if own.n > 1 else 1.0
            offset = float(places.largest) - slope * float(self.farthest)
            setattr(self, name, torch.tensor([offset, slope]))
        self.usual = both[0].largest.exp()

    def residual(self, change: Tensor) -> Tensor:
        """Convert the change of each whole image to the residual of an equally irregular place.

        Parameters
        ----------
        change : Tensor of shape (n_images,)
            From `change`.

        Returns
        -------
        least : Tensor of shape (n_images,)
            What the image's most irregular place has at least; 0 for an image that is no farther
            from normal than a training image.
        """
        offset, slope = self.to_residual
        least = torch.exp((offset + slope * change).clamp(max=LARGEST_LOG))
        return torch.where(change > self.farthest, least, 0.0)

    def logits(self, change: Tensor) -> Tensor:
        """Return the logit of D for such a place.

        Parameters
        ----------
        change : Tensor of shape (n_images,)
            From `change`.

        Returns
        -------
        most : Tensor of shape (n_images,)
            What the image's most irregular place has at most; infinite for an image that is no
            farther from normal than a training image.
        """
        offset, slope = self.to_doubt
        most = -(offset + slope * change)
        return torch.where(change > self.farthest, most, math.inf)
