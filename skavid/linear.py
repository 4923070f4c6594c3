"""The inpainter I in closed form: the best linear restorer under Eq. 2's noise.

Floor 2: imports nothing from skavid. Statistics of normal images in, I and its residual out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LinearInpainter", "WholeImage", "learn_statistics", "log_change"]

LEAST_SPREAD = 1e-3  # of a feature: what changes less than this is rounding
LEAST_LEVEL = 1e-3  # what I changes at a place where nothing ever changed
MOST_LEVERAGE = 0.95
BLOCK = 2**24  # numbers of a block of covariances that are factorised at once


class LinearInpainter(nn.Module):
    """I(x) = x - gamma^2 (S + gamma^2 1)^-1 (x - mu) at each place of a feature map.

    Among linear maps this one restores x from ``x + gamma * eta`` (Eq. 2) with the least squared
    error, where mu and S are the mean and covariance of normal images (the Wiener filter, which
    is ridge regression from the noisy to the clean feature). It leaves alone what varies among
    normal images and takes back what does not.

    Parameters
    ----------
    n_features : int
        Length of the vector of a place.
    n_rows, n_columns : int
        Places of the grid; 1 and 1 for one set of statistics that serves every place, and grids
        of any size.
    gamma : float, default=0.4
        Of Eq. 2, in units of the spread of each feature over all places and images.

    Attributes
    ----------
    n_images : Tensor of shape ()
        How many images the statistics rest on.
    mean : Tensor of shape (n_places, n_features)
        mu.
    covariance : Tensor of shape (n_places, n_features, n_features)
        S, before any scaling. These three are all that is kept of a model; what follows from
        them is computed by `solve`.
    scale : Tensor of shape (n_features,)
        The spread of each feature over all places and images.
    level : Tensor of shape (n_rows, n_columns)
        How much I is expected to change of normal images at each place (the mean over the
        features), relative to the mean place.

    Examples
    --------
    >>> import torch
    >>> from skavid.linear import learn_statistics
    >>> x = torch.randn(50, 3, 4, 4)
    >>> x[:, 2] = x[:, 0] + x[:, 1]  # what normal features have in common
    >>> inpainter = learn_statistics([x], gamma=0.1)
    >>> odd = x[:1].clone()
    >>> odd[0, 2, 1, 1] += 3
    >>> change = inpainter.residual(odd).abs().mean(1)[0]
    >>> bool(change.argmax() == 5)  # row 1, column 1
    True
    """

    n_images: Tensor
    mean: Tensor
    covariance: Tensor
    # What `solve` makes.
    scale: Tensor
    weights: Tensor
    level: Tensor

    def __init__(
        self, n_features: int, n_rows: int, n_columns: int, *, gamma: float = 0.4
    ) -> None:
        super().__init__()
        self.n_features, self.n_rows, self.n_columns = n_features, n_rows, n_columns
        self.gamma = gamma
        places = n_rows * n_columns
        self.register_buffer("n_images", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(places, n_features))
        self.register_buffer("covariance", torch.zeros(places, n_features, n_features))
        for name in ("scale", "weights", "level"):
            self.register_buffer(name, torch.empty(0), persistent=False)

    @property
    def is_pooled(self) -> bool:
        """Whether one set of statistics serves every place."""
        return len(self.mean) == 1

    # --- learning --------------------------------------------------------------------------------

    def pooled(self) -> LinearInpainter:
        """Return the inpainter whose statistics are those of all places together.

        Returns
        -------
        inpainter : LinearInpainter
            Of grids of any size.
        """
        one = LinearInpainter(self.n_features, 1, 1, gamma=self.gamma)
        mean = self.mean.double().mean(0)
        apart = self.mean.double() - mean
        within = self.covariance.mean(0, dtype=torch.float64)
        one.n_images = self.n_images.clone()
        one.mean = mean[None].float()
        one.covariance = (within + apart.T @ apart / len(apart))[None].float()
        return one.solve()

    def merge(self, other: LinearInpainter) -> LinearInpainter:
        """Return the inpainter of both sets of images together.

        Parameters
        ----------
        other : LinearInpainter
            Of other images, of the same grid and features.

        Returns
        -------
        inpainter : LinearInpainter
            As if its statistics had been learnt from all images at once, to rounding; whichever
            comes first (Chan, Golub and LeVeque, 1983).
        """
        both = LinearInpainter(self.n_features, self.n_rows, self.n_columns, gamma=self.gamma)
        n, m = int(self.n_images), int(other.n_images)
        mine, theirs = n / (n + m), m / (n + m)
        apart = (other.mean - self.mean).double()
        both.n_images = self.n_images + other.n_images
        both.mean = (self.mean.double() + theirs * apart).float()
        for place in range(len(apart)):  # one place at a time: they are large
            both.covariance[place] = (
                mine * self.covariance[place].double()
                + theirs * other.covariance[place].double()
                + mine * theirs * torch.outer(apart[place], apart[place])
            ).float()
        return both.solve()

    def solve(self) -> LinearInpainter:
        """Compute what follows from the statistics.

        Returns
        -------
        self : LinearInpainter
            Ready to restore.
        """
        n = max(int(self.n_images), 1)
        total = self.covariance.diagonal(dim1=1, dim2=2).mean(0) + self.mean.var(0, correction=0)
        self.scale = total.clamp(min=0).sqrt().clamp(min=LEAST_SPREAD)
        self.weights = torch.empty_like(self.covariance)
        level = torch.empty(len(self.mean))
        ridge = max(self.gamma, LEAST_LEVEL) ** 2
        identity = torch.eye(self.n_features)
        size = max(1, BLOCK // self.n_features**2)
        for start in range(0, len(self.mean), size):
            part = slice(start, start + size)
            scaled = self.covariance[part] / self.scale / self.scale[:, None]
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(scaled + ridge * identity))
            self.weights[part] = ridge * inverse
            # E|r| of a Gaussian residual, whose covariance is W S W; more for images that are not
            # among the n, by their mean leverage.
            spread = (self.weights[part] @ scaled * self.weights[part]).sum(2).clamp(min=0).sqrt()
            leverage = ((inverse * scaled).sum((1, 2)) / n).clamp(max=MOST_LEVERAGE)
            level[part] = math.sqrt(2 / math.pi) * spread.mean(1) / (1 - leverage)
        grid = level.reshape(1, 1, self.n_rows, self.n_columns)
        grid = F.avg_pool2d(F.pad(grid, [1] * 4, mode="replicate"), 3, 1)[0, 0]
        grid = grid.clamp(min=LEAST_LEVEL)
        self.level = grid / grid.mean()
        return self

    # --- restoring -------------------------------------------------------------------------------

    def forward(self, features: Tensor) -> Tensor:
        """Restore features: I(F).

        Parameters
        ----------
        features : Tensor of shape (n_images, n_features, n1, n2)
            Of a feature map.

        Returns
        -------
        restored : Tensor of the same shape
            What is normal at each place.
        """
        return features - self.residual(features) * self.scale[:, None, None]

    def residual(self, features: Tensor) -> Tensor:
        """Return what I changes, ``F - I(F)``, in units of each feature's spread.

        Parameters
        ----------
        features : Tensor of shape (n_images, n_features, n1, n2)
            Of a feature map.

        Returns
        -------
        residual : Tensor of the same shape
            ``gamma^2 (S + gamma^2 1)^-1 (x - mu)``.
        """
        return self._spread_out(self._centred(features) @ self.weights, features.shape)

    def left_out(self, features: Tensor, corrupted: Tensor | None = None) -> Tensor:
        """Return what an I changes that never saw these training images.

        Parameters
        ----------
        features : Tensor of shape (n_images, n_features, n1, n2)
            Of images that the statistics rest on. Each image is taken out of them in turn.
        corrupted : Tensor of the same shape, default=None
            Other versions of these images, which are what is restored; None restores themselves.

        Returns
        -------
        residual : Tensor of the same shape
            As from `residual`.

        Notes
        -----
        Taking an image out of a covariance is a change of rank one, so its inverse follows from
        the one at hand (Sherman and Morrison); no second fit is needed. The ridge of the fit
        without the image is ``n / (n - 1)`` times gamma squared. One set of statistics for all
        places has many more samples than images and is taken as it is.
        """
        n = int(self.n_images)
        if (self.is_pooled and features.shape[2:] != (1, 1)) or n < 2:
            return self.residual(features if corrupted is None else corrupted)
        grow, shrink = n / (n - 1), n / (n - 1) ** 2
        own = self._centred(features)
        other = own * grow
        if corrupted is not None:
            other = self._centred(corrupted) + own / (n - 1)
        ridge = max(self.gamma, LEAST_LEVEL) ** 2
        change = own @ self.weights / grow / ridge
        leverage = (shrink * (own * change).sum(-1, keepdim=True)).clamp(max=MOST_LEVERAGE)
        without = other @ self.weights
        without += change * shrink * (own * without).sum(-1, keepdim=True) / (1 - leverage)
        return self._spread_out(without, features.shape)

    def _centred(self, features: Tensor) -> Tensor:
        """Return (x - mu) / scale, (places, n, k); with pooled statistics (1, n * places, k)."""
        k = features.shape[1]
        rows = features.flatten(2)  # (n, k, places)
        rows = rows.permute(0, 2, 1).reshape(1, -1, k) if self.is_pooled else rows.permute(2, 0, 1)
        return (rows - self.mean[:, None]) / self.scale

    def _spread_out(self, rows: Tensor, shape: torch.Size) -> Tensor:
        n, k, n1, n2 = shape
        if self.is_pooled:
            return rows.reshape(n, n1, n2, k).permute(0, 3, 1, 2)
        return rows.reshape(n1, n2, n, k).permute(2, 3, 0, 1)


class WholeImage(nn.Module):
    """Judge an image by its own statistics: the mean and spread of each feature over all places.

    What covers a whole image (less light, less contrast, another scene) is no outlier anywhere.
    The same linear I restores these statistics; how much it changes is brought to the scale of
    both maps, so that an image counts as irregular as a whole where it is farther from normal
    than every training image was, by as much as its most irregular place would have to be.

    Parameters
    ----------
    n_features : int
        Length of the vector of a place.
    gamma : float, default=0.4
        Of Eq. 2.

    Examples
    --------
    >>> import torch
    >>> from skavid.linear import WholeImage, learn_statistics
    >>> features = torch.rand(30, 3, 8, 8)
    >>> whole = WholeImage(3)
    >>> whole.inpainter = learn_statistics([whole.statistics(features)], gamma=0.4)
    >>> bool(whole.change(features[:1] / 2) > whole.change(features).max())
    True
    """

    to_residual: Tensor
    to_doubt: Tensor
    usual: Tensor

    def __init__(self, n_features: int, *, gamma: float = 0.4) -> None:
        super().__init__()
        self.inpainter = LinearInpainter(2 * n_features, 1, 1, gamma=gamma)
        # log R and -logit that a whole image has, as offset + slope * log of its residual.
        self.register_buffer("to_residual", torch.tensor([-math.inf, 0.0]))
        self.register_buffer("to_doubt", torch.tensor([-math.inf, 0.0]))
        # The most that I changed at any place of a training image.
        self.register_buffer("usual", torch.zeros(()))

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
        return log_change(self.inpainter.residual(self.statistics(features)).abs().mean((1, 2, 3)))

    def align(self, change: Tensor, residual: Tensor, doubt: Tensor) -> None:
        """Bring whole images to the scale of places, so that on normal images both end alike.

        Parameters
        ----------
        change : Tensor of shape (n_images,)
            Of training images that were left out, as `change` returns it.
        residual, doubt : Tensor of shape (n_images,)
            The largest log R, and the largest -logit, of the places of each of them.
        """
        for name, places in (("to_residual", residual), ("to_doubt", doubt)):
            slope = places.std() / change.std().clamp(min=1e-3) if len(change) > 1 else 1.0
            offset = places.max() - slope * change.max()
            setattr(self, name, torch.tensor([float(offset), float(slope)]))
        self.usual = residual.max().exp()

    def residual(self, change: Tensor) -> Tensor:
        """Return the residual of a place that is as odd as each image is as a whole.

        Parameters
        ----------
        change : Tensor of shape (n_images,)
            From `change`.

        Returns
        -------
        least : Tensor of shape (n_images,)
            What the image's most irregular place has at least.
        """
        offset, slope = self.to_residual
        least: Tensor = torch.exp(offset + slope * change)
        return least

    def logits(self, change: Tensor) -> Tensor:
        """Return the logit of D for such a place.

        Parameters
        ----------
        change : Tensor of shape (n_images,)
            From `change`.

        Returns
        -------
        most : Tensor of shape (n_images,)
            What the image's most irregular place has at most.
        """
        offset, slope = self.to_doubt
        most: Tensor = -(offset + slope * change)
        return most


def log_change(change: Tensor) -> Tensor:
    """Return the logarithm of how much was changed, finite where nothing was.

    Parameters
    ----------
    change : Tensor
        At least 0.

    Returns
    -------
    logarithm : Tensor of the same shape
        At least log(1e-6).

    Examples
    --------
    >>> import torch
    >>> from skavid.linear import log_change
    >>> log_change(torch.tensor([0.0, 1.0]))
    tensor([-13.8155,   0.0000])
    """
    return change.clamp(min=1e-6).log()


def learn_statistics(blocks: Iterable[Tensor], *, gamma: float) -> LinearInpainter:
    """Learn an inpainter for each place from the feature maps of normal images.

    Parameters
    ----------
    blocks : iterable of Tensor of shape (n_images, n_features, n1, n2)
        Feature maps, a block of images at a time, all of one size.
    gamma : float
        Of Eq. 2.

    Returns
    -------
    inpainter : LinearInpainter
        Ready to restore, on the CPU. Sums are kept in double precision: 8 bytes for each place
        and pair of features.

    Raises
    ------
    ValueError
        If there is no image.

    Examples
    --------
    >>> import torch
    >>> from skavid.linear import learn_statistics
    >>> features = torch.rand(20, 3, 4, 5)
    >>> at_once = learn_statistics([features], gamma=0.4)
    >>> in_parts = learn_statistics(features.split(7), gamma=0.4)
    >>> torch.allclose(at_once.covariance, in_parts.covariance, atol=1e-6)
    True
    """
    n, origin = 0, None
    for block in blocks:
        k, n1, n2 = block.shape[1:]
        if origin is None:
            origin = block.mean((0, 2, 3))  # near the data, where squares do not cancel
            total = torch.zeros(n1 * n2, k, dtype=torch.float64)
            squares = torch.zeros(n1 * n2, k, k, dtype=torch.float64)
        rows = (block.flatten(2) - origin[:, None]).permute(2, 0, 1)  # (places, n, k)
        total += rows.sum(1, dtype=torch.float64).cpu()
        squares += (rows.transpose(1, 2) @ rows).cpu()
        n += len(block)
    if origin is None:
        raise ValueError("blocks must hold at least one image. Got none.")
    inpainter = LinearInpainter(k, n1, n2, gamma=gamma)
    mean = total / n
    inpainter.n_images = inpainter.n_images + n
    inpainter.mean = (mean + origin.double().cpu()).float()
    for place in range(len(mean)):
        inpainter.covariance[place] = (
            squares[place] / n - torch.outer(mean[place], mean[place])
        ).float()
    return inpainter.solve()
