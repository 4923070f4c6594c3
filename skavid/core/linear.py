"""The inpainter I in closed form: the best restorer under Eq. 2's noise, about a normal image.

Statistics of normal images go in; I and its residual come out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "Changes",
    "LinearInpainter",
    "Sums",
    "capacity",
    "halved",
    "learn_statistics",
    "log_change",
    "lowest_keys",
]

LEAST_SPREAD = 1e-3  # of a feature: what changes less than this is rounding
LEAST_LEVEL = 1e-3  # what I changes at a place where nothing ever changed
MOST_LEVERAGE = 0.9999  # of an image on what is left of it; beyond this rounding decides
BLOCK = 2**21  # numbers of a block of covariances that are factorised at once
SMALL = 16  # rows of a triangular matrix that is inverted at once
REMEMBERED = 2**26  # numbers of normal features that are remembered, in half precision
MEASURED = 64  # remembered images that tell how much is typically changed
PLACES = 64  # whose statistics are computed together
AT_ONCE = 2**21  # numbers of places that are looked at together
SAME = 0.01  # spreads apart, in the mean over the features: an image that looks at itself
NOWHERE = -1
# Places (down, to the right) where a normal feature may stand, seen from where it is looked for.
BESIDE = (0, 0), (-1, 0), (0, -1), (0, 1), (1, 0)


class Changes(NamedTuple):
    """What I changes of feature maps.

    Parameters
    ----------
    white : Tensor of shape (n_images, n_features, n1, n2)
        ``gamma L^-1 (x - m(x))``, where ``L L^T = S + gamma^2 1``: what each feature has that is
        neither in the nearest normal image nor among what varies, given the features before it.
    size : Tensor of shape (n_images, n1, n2)
        The root of the mean of their squares, ``sqrt((x - m(x))^T (x - I(x)) / n_features)``:
        how much I changes, in all features together.
    apart : Tensor of shape (n_images, 4, n_remembered)
        How far each remembered image is as a whole: the squares of that change, with that image
        for m(x) at each place, summed over a quarter of the grid and divided by the number of
        all places, so that the quarters add up to the mean. Infinite for images left out. Empty
        for corrupted versions, whose distance nobody asks for.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.linear import learn_statistics
    >>> features = torch.rand(20, 3, 4, 5)
    >>> changes = learn_statistics([features], gamma=0.4, keys=torch.arange(20)).changes(features)
    >>> changes.white.shape, changes.size.shape, changes.apart.shape
    (torch.Size([20, 3, 4, 5]), torch.Size([20, 4, 5]), torch.Size([20, 4, 20]))
    """

    white: Tensor
    size: Tensor
    apart: Tensor


class _Own(NamedTuple):
    """What an image itself adds to the filter: without it, covariances are 1 - share o o^T."""

    white: Tensor  # o, (places, n, k)
    share: Tensor
    gain: Tensor  # the inverse of 1 - share o o^T is 1 + gain o o^T
    squares: Tensor | None  # of the remembered images in that metric; infinite for itself
    moved: float  # the share of o by which the mean moves

    def without(self, change: Tensor, q: Tensor, image: Tensor) -> Tensor:
        """Return whitened changes of images at places q as the filter without them has it.

        Each feature given those before it, as Cholesky factors of 1 - share o o^T have it.
        """
        mine, share = self.white[q, image], self.share[q, image, None]
        if self.moved:
            change = change + self.moved * mine
        left = 1 - share * mine.square().cumsum(1)
        before = torch.cat([torch.ones_like(share), left[:, :-1]], 1)
        product = mine * change
        along = product.cumsum(1) - product
        return (change + share * mine * along / before) * (before / left).sqrt()


class _Nearest(NamedTuple):
    """The nearest remembered image of what stands beside each place, (places, shifts, n)."""

    squares: Tensor  # its squared distance
    distances: Tensor | None  # of each one, less what is the same for all; None if none is there
    whole: Tensor | None  # squared distances of each one from what stands at the place itself


class LinearInpainter(nn.Module):
    """I(x) = x - gamma^2 (S + gamma^2 1)^-1 (x - m(x)) at each place of a feature map.

    With m(x) = mu this is the linear map that restores x from ``x + gamma * eta`` (Eq. 2) with
    the least squared error, where mu and S are the mean and covariance of normal images (the
    Wiener filter, which is ridge regression from the noisy to the clean feature). It leaves
    alone what varies among normal images and takes back what does not. Normal images that are
    remembered make m(x) the nearest of them, at this place or one beside it, as the same filter
    measures nearness: normal images of several kinds, or in several positions, each stand for
    themselves.

    Parameters
    ----------
    n_features : int
        Length of the vector of a place.
    n_rows, n_columns : int
        Places of the grid; 1 and 1 for one set of statistics that serves every place, and grids
        of any size.
    gamma : float, default=0.4
        Of Eq. 2, in units of the spread of each feature over all places and images.
    n_remembered : int, default=0
        Normal images that are remembered.

    Attributes
    ----------
    n_images : Tensor of shape ()
        How many images the statistics rest on.
    mean : Tensor of shape (n_places, n_features)
        mu.
    covariance : Tensor of shape (n_places, n_features, n_features)
        S, before any scaling.
    memory : Tensor of shape (n_places, n_remembered, n_features), half precision
        Features of normal images, less ``origin``; none for the linear map.
    origin : Tensor of shape (n_features,)
        Near the data, where differences do not cancel.
    keys : Tensor of shape (n_remembered,), int64
        Keys of these images, rising. Where there are more images than can be remembered, those
        with the lowest keys are: a random choice that does not depend on their order.
    typical : Tensor of shape (n_rows, n_columns)
        The size of what I changes of a normal image that it never saw, at each place.
    scale : Tensor of shape (n_features,)
        The spread of each feature over all places and images.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.linear import learn_statistics
    >>> x = torch.randn(50, 3, 4, 4)
    >>> x[:, 2] = x[:, 0] + x[:, 1]  # what normal features have in common
    >>> inpainter = learn_statistics([x], gamma=0.1, keys=torch.arange(50))
    >>> odd = x[:1].clone()
    >>> odd[0, 2, 1, 1] += 3
    >>> bool(inpainter.changes(odd).size.argmax() == 5)  # row 1, column 1
    True
    """

    n_images: Tensor
    mean: Tensor
    covariance: Tensor
    memory: Tensor
    origin: Tensor
    keys: Tensor
    typical: Tensor
    # What `solve` makes.
    scale: Tensor
    whitener: Tensor  # rows times these matrices; products with transposed ones take longer
    remembered: Tensor
    squares: Tensor
    offset: Tensor

    def __init__(
        self, n_features: int, n_rows: int, n_columns: int, *, gamma: float = 0.4,
        n_remembered: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_features, self.n_rows, self.n_columns = n_features, n_rows, n_columns
        self.gamma = gamma
        places = n_rows * n_columns
        self.register_buffer("n_images", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(places, n_features))
        self.register_buffer("covariance", torch.zeros(places, n_features, n_features))
        memory = torch.zeros(places, n_remembered, n_features, dtype=torch.float16)
        self.register_buffer("memory", memory)
        self.register_buffer("origin", torch.zeros(n_features))
        self.register_buffer("keys", torch.zeros(n_remembered, dtype=torch.int64))
        self.register_buffer("typical", torch.ones(n_rows, n_columns))
        for name in ("scale", "whitener", "remembered", "squares", "offset"):
            self.register_buffer(name, torch.empty(0), persistent=False)

    @property
    def is_pooled(self) -> bool:
        """Whether one set of statistics serves every place."""
        return len(self.mean) == 1

    @property
    def remembers_all(self) -> bool:
        """Whether each image that the statistics rest on is remembered."""
        return 0 < len(self.keys) == int(self.n_images)

    # --- learning --------------------------------------------------------------------------------

    def pooled(self) -> LinearInpainter:
        """Return the linear map whose statistics are those of all places together.

        Returns
        -------
        inpainter : LinearInpainter
            Of grids of any size. It remembers no image.
        """
        one = LinearInpainter(self.n_features, 1, 1, gamma=self.gamma)
        mean = self.mean.double().mean(0)
        apart = self.mean.double() - mean
        within = self.covariance.mean(0, dtype=torch.float64)
        one.n_images = self.n_images.clone()
        one.origin = self.origin.clone()
        one.mean = mean[None].float()
        one.covariance = (within + apart.T @ apart / len(apart))[None].float()
        return one.solve().measure()

    def merge(self, other: LinearInpainter, most: int | None = None) -> LinearInpainter:
        """Return the inpainter of both sets of images together.

        Parameters
        ----------
        other : LinearInpainter
            Of other images, of the same grid and features.
        most : int, default=None
            How many images are remembered at most. None remembers as many as memory allows.

        Returns
        -------
        inpainter : LinearInpainter
            As if it had learnt from all images at once, to rounding; whichever comes first
            (Chan, Golub and LeVeque, 1983).
        """
        both = LinearInpainter(self.n_features, self.n_rows, self.n_columns, gamma=self.gamma)
        both.n_images = self.n_images + other.n_images
        keys = torch.cat([self.keys, other.keys])
        n_remembered = capacity(self.mean.numel(), most)
        lowest = torch.argsort(keys, stable=True)[:n_remembered]
        both.keys = keys[lowest]
        both.origin = self.origin.clone()
        theirs_moved = halved(other.memory.float() + (other.origin - self.origin))
        both.memory = torch.cat([self.memory, theirs_moved], 1)[:, lowest]
        if both.remembers_all:
            return both.recall().solve().measure()
        n, m = int(self.n_images), int(other.n_images)
        mine, theirs = n / (n + m), m / (n + m)
        apart = (other.mean - self.mean).double()
        both.mean = (self.mean.double() + theirs * apart).float()
        for place in range(len(apart)):  # one place at a time: they are large
            both.covariance[place] = (
                mine * self.covariance[place].double()
                + theirs * other.covariance[place].double()
                + mine * theirs * torch.outer(apart[place], apart[place])
            ).float()
        return both.solve().measure()

    def recall(self) -> LinearInpainter:
        """Compute mean and covariance from the remembered images, where these are all images.

        Returns
        -------
        self : LinearInpainter
            With the statistics of a fit, to the last bit, as that calls this method, too.
        """
        for part in _slices(len(self.mean), PLACES):
            rows = self.memory[part].float()
            mean = rows.mean(1, keepdim=True)
            apart = rows - mean
            self.mean[part] = mean[:, 0] + self.origin
            self.covariance[part] = apart.mT @ apart / rows.shape[1]
        return self

    def solve(self) -> LinearInpainter:
        """Compute what follows from the statistics.

        Returns
        -------
        self : LinearInpainter
            Ready to restore.
        """
        total = self.covariance.diagonal(dim1=1, dim2=2).mean(0) + self.mean.var(0, correction=0)
        self.scale = total.clamp(min=0).sqrt().clamp(min=LEAST_SPREAD)
        self.whitener = torch.empty_like(self.covariance)
        self.offset = torch.empty_like(self.mean[:, None])
        self.remembered = torch.empty(self.memory.shape)
        for part in self._blocks():
            matrices = self._scaled(part)
            matrices.diagonal(dim1=1, dim2=2).add_(self._ridge)
            factor = torch.linalg.cholesky(matrices, out=matrices)
            white = _inverse(factor).mul_(math.sqrt(self._ridge))
            apart = (self.mean[part, None] - self.origin) / self.scale
            offset = -apart @ white.mT
            rows = self.memory[part].float() / self.scale
            self.whitener[part], self.offset[part] = white.mT, offset
            self.remembered[part] = torch.baddbmm(offset, rows, white.mT)
        self.squares = self.remembered.square().sum(2)[:, None]
        return self

    def measure(self) -> LinearInpainter:
        """Measure how much is typically changed of a normal image that was never seen.

        Returns
        -------
        self : LinearInpainter
            Its ``typical`` comes from the remembered images, each left out in turn, or, where
            there are none, from the covariance. It follows from the statistics alone, so that it
            is the same for images in any order.
        """
        if self._remembers:
            total = torch.zeros(self.n_rows, self.n_columns)
            n = min(len(self.keys), MEASURED)
            for some in torch.split(torch.arange(n), 16):
                features = self.recalled(some).float() + self.origin[:, None, None]
                total += self.left_out(features, self.keys[some]).size.sum(0)
            typical = total / n
        else:
            n, squares = max(int(self.n_images), 1), torch.empty(len(self.mean))
            for part in self._blocks():
                white = self.whitener[part].mT
                spread = (white @ self._scaled(part) * white).sum((1, 2))
                leverage = (spread / self._ridge / n).clamp(max=MOST_LEVERAGE)
                squares[part] = spread / self.n_features / (1 - leverage) ** 2
            typical = squares.clamp(min=0).sqrt().reshape(self.n_rows, self.n_columns)
        padded = F.pad(typical[None, None], [1] * 4, mode="replicate")
        self.typical = F.avg_pool2d(padded, 3, 1)[0, 0].clamp(min=LEAST_LEVEL)
        return self

    def rank(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Find which of the remembered images have some keys.

        Parameters
        ----------
        keys : Tensor of shape (n_images,), int64
            Of images.

        Returns
        -------
        rank : Tensor of shape (n_images,), int64
            The place of each among ``keys``.
        is_known : Tensor of shape (n_images,), bool
            Whether it is remembered; the rank of another one means nothing.
        """
        if not len(self.keys):
            return torch.zeros_like(keys), torch.zeros_like(keys, dtype=torch.bool)
        rank = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        return rank, self.keys[rank] == keys

    def recalled(self, rank: Tensor) -> Tensor:
        """Return the features of remembered images, less ``origin``.

        Parameters
        ----------
        rank : Tensor of shape (n_images,), int64
            Which of the remembered images.

        Returns
        -------
        features : Tensor of shape (n_images, n_features, n1, n2), half precision
            As a feature map gives them.
        """
        rows = self.memory[:, rank].permute(1, 2, 0)
        return rows.reshape(len(rank), -1, self.n_rows, self.n_columns)

    @property
    def _ridge(self) -> float:
        return max(self.gamma, LEAST_LEVEL) ** 2

    @property
    def _remembers(self) -> bool:
        return len(self.keys) > 1

    def _scaled(self, part: slice) -> Tensor:
        """Return S in units of the features' spread."""
        return self.covariance[part] / torch.outer(self.scale, self.scale)

    def _blocks(self) -> Iterable[slice]:
        return _slices(len(self.mean), max(1, BLOCK // self.n_features**2))

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
        restored: Tensor = features - self.residual(features) * self.scale[:, None, None]
        return restored

    def residual(self, features: Tensor) -> Tensor:
        """Return ``F - I(F)``, in units of each feature's spread.

        Parameters
        ----------
        features : Tensor of shape (n_images, n_features, n1, n2)
            Of a feature map.

        Returns
        -------
        residual : Tensor of the same shape
            ``gamma^2 (S + gamma^2 1)^-1 (x - m(x))``.
        """
        return self._changes(features, None, None, self.whitener.mT, is_whole=False)[0]

    def changes(self, features: Tensor) -> Changes:
        """Return what I changes.

        Parameters
        ----------
        features : Tensor of shape (n_images, n_features, n1, n2)
            Of a feature map.

        Returns
        -------
        changes : Changes
            On the grid of the features.
        """
        return Changes(*self._changes(features, None, None))

    def left_out(
        self, features: Tensor, keys: Tensor, corrupted: Tensor | None = None,
        alike: Tensor | None = None,
    ) -> Changes:  # fmt: skip
        """Return what an I changes that never saw these training images.

        Parameters
        ----------
        features : Tensor of shape (n_images, n_features, n1, n2)
            Of images that the statistics rest on. Each image is taken out of them in turn.
        keys : Tensor of shape (n_images,), int64
            Their keys.
        corrupted : Tensor of the shape of features, default=None
            Other versions of these images, which are what is restored; None restores themselves.
        alike : Tensor of shape (n_images, n_remembered), bool, default=None
            True where a remembered image is forgotten along with an image, such as the frames of
            the same clip.

        Returns
        -------
        changes : Changes
            As from `changes`.

        Notes
        -----
        Taking an image out of a covariance is a change of rank one, so its inverse follows from
        the one at hand (Sherman and Morrison); no second fit is needed. The ridge of the fit
        without the image is ``n / (n - 1)`` times gamma squared. One set of statistics for all
        places has many more samples than images and is taken as it is.
        """
        looked_at = features if corrupted is None else corrupted
        if (self.is_pooled and features.shape[2:] != (1, 1)) or int(self.n_images) < 2:
            return self.changes(looked_at)
        is_whole = corrupted is None
        return Changes(
            *self._changes(looked_at, features, keys, alike=alike, is_whole=is_whole)
        )  # fmt: skip

    def _changes(
        self, features: Tensor, own: Tensor | None, keys: Tensor | None,
        back: Tensor | None = None, alike: Tensor | None = None, is_whole: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Look for the nearest at all places of a block and those beside them.

        A place q has the statistics; what is looked at there comes from a place p beside it.
        The last of the places p is beyond the border. ``back`` takes whitened changes back.
        ``is_whole`` asks for distances of whole images.
        """
        n, k, height, width = features.shape
        rows = self._rows(features)
        own_rows = rows if own is None or own is features else self._rows(own)
        size, n_images = rows.shape[:2]
        from_place = self._from_place(size, height, width).to(rows.device)
        n_shifts = from_place.shape[1]
        steps = torch.tensor([below * width + beside for below, beside in self._shifts()])
        steps = steps.to(rows.device)  # from p to q
        rows = torch.cat([rows, rows.new_zeros(1, n_images, k)])
        found, least = torch.zeros_like(rows), rows.new_full(rows.shape[:2], math.inf)
        shift_of = torch.full(rows.shape[:2], NOWHERE, device=rows.device)
        least[size], shift_of[size] = -math.inf, n_shifts
        is_whole &= self._remembers
        apart = rows.new_zeros(4, n, len(self.keys) if is_whole else 0)
        place = torch.arange(size, device=rows.device)
        quarter = 2 * (place // width >= height / 2) + (place % width >= width / 2)
        for block in self._places_at_once(size, n_shifts * n_images):
            p, own_there = from_place[block], None
            white = self._whiten(rows[p].flatten(1, 2), block)
            white = white.reshape(*p.shape, *rows.shape[1:])
            if own is not None and keys is not None:
                mine = white[:, 0] if own is features else self._whiten(own_rows[block], block)
                own_there = self._own(mine, block, keys, alike)
            nearest = self._nearest(white, block, own_there, is_whole)
            if nearest.whole is not None:
                for i, total in enumerate(apart):
                    total += nearest.whole[quarter[block] == i].sum(0)
            is_found = torch.zeros_like(least, dtype=torch.bool)
            for number in range(n_shifts):
                there, squares = p[:, number], nearest.squares[:, number]
                # Of changes that are too large for a float, too, one is taken.
                is_nearer = (squares < least[there]) | (shift_of[there] == NOWHERE)
                least[there] = torch.where(is_nearer, squares, least[there])
                shift_of[there] = torch.where(is_nearer, number, shift_of[there])
                is_found[there] |= is_nearer
            there, image = torch.nonzero(is_found, as_tuple=True)
            shift = shift_of[there, image]
            q = there + steps[shift] - block.start
            change = white[q, shift, image]
            if nearest.distances is not None:
                index = nearest.distances[q, shift, image].argmin(1)
                change -= self.remembered[block][q, index]
            if own_there is not None:
                change = own_there.without(change, q, image)
            found[there, image] = change
        if back is not None:
            found = _taken_back(found, shift_of, from_place, back)
        change = found[:size].reshape(height, width, n, k).permute(2, 3, 0, 1)
        return change, change.square().mean(1).sqrt(), apart.transpose(0, 1) / (size * k)

    def _from_place(self, size: int, height: int, width: int) -> Tensor:
        """Return the places p that are looked at at each place q, q itself first."""
        place = torch.arange(size)
        y, x = place // width, place % width
        return torch.stack([
            torch.where(
                (y >= below) & (y < height + below) & (x >= beside) & (x < width + beside),
                (y - below) * width + x - beside, size,
            )
            for below, beside in self._shifts()
        ], 1)  # fmt: skip

    def _places_at_once(self, size: int, n_rows: int) -> Iterable[slice]:
        """Return blocks of places, so large that what is computed of each row fits a cache."""
        n_numbers = n_rows * max(self.n_features, len(self.keys))
        return _slices(size, max(1, AT_ONCE // max(1, n_numbers)))

    def _shifts(self) -> list[tuple[int, int]]:
        return [
            (below, beside)
            for below, beside in (BESIDE if self._remembers else BESIDE[:1])
            if abs(below) < self.n_rows and abs(beside) < self.n_columns
        ]

    def _rows(self, features: Tensor) -> Tensor:
        """Return features in units of their spread, (places, n, k); pooled (1, places * n, k)."""
        rows = features.permute(2, 3, 0, 1).reshape(len(self.mean), -1, self.n_features)
        return (rows - self.origin) / self.scale

    def _whiten(self, rows: Tensor, block: slice) -> Tensor:
        return torch.baddbmm(self.offset[block], rows, self.whitener[block])

    def _own(self, own: Tensor, block: slice, keys: Tensor, alike: Tensor | None) -> _Own:
        n, ridge = int(self.n_images), self._ridge
        length = own.square().sum(2)
        share = (MOST_LEVERAGE / length).clamp(max=1 / ((n - 1) * ridge))
        gain = share / (1 - share * length)
        if not self._remembers:
            return _Own(own, share, gain, None, 1 / (n - 1))
        along = own @ self.remembered[block].mT
        squares = self.squares[block] + gain[..., None] * along.square()
        rank, is_known = self.rank(keys)
        known = torch.nonzero(is_known)[:, 0]
        squares[:, known, rank[known]] = math.inf
        if alike is not None:
            squares.masked_fill_(alike, math.inf)
        return _Own(own, share, gain, squares, 0.0)

    def _nearest(self, white: Tensor, block: slice, own: _Own | None, is_whole: bool) -> _Nearest:
        """Find the nearest remembered image, (places, shifts, n, k) whitened changes given.

        No image is its own nearest: training images may be scored, too.
        """
        lengths, turned, squares = white.square().sum(3), white, self.squares[block]
        if not self._remembers:
            return _Nearest(lengths, None, None)
        if own is not None and own.squares is not None:
            along = (white * own.white[:, None]).sum(3)
            lengths += own.gain[:, None] * along.square()
            turned = torch.addcmul(
                white, (own.gain[:, None] * along)[..., None], own.white[:, None]
            )
            squares = own.squares
        # Squared distances, but for what is the same for all remembered images.
        remembered = self.remembered[block]
        distances = torch.bmm(-2 * turned.flatten(1, 2), remembered.mT)
        distances = distances.reshape(*white.shape[:3], remembered.shape[1])
        distances += squares[:, None]
        least, at_place = distances.amin(3) + lengths, distances[:, 0]
        whole = (at_place + lengths[:, 0, :, None]).clamp(min=0) if is_whole else None
        q, image = torch.nonzero(least[:, 0] < SAME**2 * white.shape[3], as_tuple=True)
        if len(q):
            at_place[q, image, at_place[q, image].argmin(1)] = math.inf
            least[:, 0] = at_place.amin(2) + lengths[:, 0]
        return _Nearest(least, distances, whole)


def _inverse(factor: Tensor) -> Tensor:
    """Return the inverse of lower triangular matrices, by halves: most of it are products."""
    k = factor.shape[-1]
    if k <= SMALL:
        eye = torch.eye(k).expand_as(factor)
        small: Tensor = torch.linalg.solve_triangular(factor, eye, upper=False)
        return small
    inverse = torch.zeros_like(factor)
    above, below = slice(k // 2), slice(k // 2, k)
    inverse[:, above, above] = _inverse(factor[:, above, above])
    inverse[:, below, below] = _inverse(factor[:, below, below])
    inverse[:, below, above] = (
        -inverse[:, below, below] @ factor[:, below, above] @ inverse[:, above, above]
    )
    return inverse


def _taken_back(found: Tensor, shift_of: Tensor, from_place: Tensor, back: Tensor) -> Tensor:
    """Undo the whitening of each change by the matrix of the place q where it was found."""
    restored, shifts = torch.zeros_like(found), torch.arange(from_place.shape[1])
    shifts = shifts.to(found.device)[:, None]
    for block in _slices(len(from_place), PLACES):
        p = from_place[block]
        changes = found[p] * (shift_of[p] == shifts)[..., None]
        changes = changes.flatten(1, 2) @ back[block]
        restored.index_add_(0, p.flatten(), changes.reshape(-1, *found.shape[1:]))
    return restored


def _slices(n: int, step: int) -> Iterable[slice]:
    return (slice(start, start + step) for start in range(0, n, step))


def capacity(n_numbers: int, most: int | None = None) -> int:
    """Return how many normal images are remembered at most.

    Parameters
    ----------
    n_numbers : int
        Of the feature map of an image.
    most : int, default=None
        No more than this many. None takes as many as memory allows.

    Returns
    -------
    n_images : int
        At least 2.

    Examples
    --------
    >>> from skavid.core.linear import capacity
    >>> capacity(66 * 32 * 32), capacity(66 * 32 * 32, 64)
    (992, 64)
    """
    n_images = REMEMBERED // n_numbers
    return max(2, n_images if most is None else min(n_images, most))


class Sums:
    """Sums of normal feature maps, which add up over batches, blocks and machines.

    Parameters
    ----------
    origin : Tensor of shape (n_features,)
        Near the data, where squares do not cancel; the same one in all sums that are merged.
    n_rows, n_columns : int
        Places of the grid.
    remembers_all : bool, default=False
        Whether the images of all sums together are so few that each is remembered. Then nothing
        is added up, as the statistics follow from what is remembered.
    most : int, default=None
        How many images are remembered at most. None remembers as many as memory allows.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.linear import Sums, learn_statistics
    >>> features = torch.rand(20, 3, 4, 5)
    >>> parts = [Sums(torch.full((3,), 0.5), 4, 5).add(some) for some in features.split(7)]
    >>> merged = parts[0].merge(parts[1]).merge(parts[2]).inpainter(gamma=0.4)
    >>> at_once = learn_statistics([features], gamma=0.4)
    >>> torch.allclose(at_once.covariance, merged.covariance, atol=1e-6)
    True
    """

    def __init__(
        self, origin: Tensor, n_rows: int, n_columns: int, *, remembers_all: bool = False,
        most: int | None = None,
    ) -> None:  # fmt: skip
        k, places = len(origin), 0 if remembers_all else n_rows * n_columns
        self.origin, self.grid, self.n_images = origin, (n_rows, n_columns), 0
        self.remembers_all, self.most = remembers_all, most
        self.total = torch.zeros(places, k, dtype=torch.float64)
        self.squares = torch.zeros(places, k, k, dtype=torch.float64)
        self.memory: list[Tensor] = []  # (places, n, k) each, in half precision
        self.keys: list[Tensor] = []

    @property
    def capacity(self) -> int:
        """How many normal images are remembered at most."""
        return capacity(math.prod(self.grid) * len(self.origin), self.most)

    def add(
        self, features: Tensor, keys: Tensor | None = None, highest: Tensor | None = None
    ) -> Sums:
        """Add images to the sums.

        Parameters
        ----------
        features : Tensor of shape (n_images, n_features, n1, n2)
            Of a few images. Products are added up in double precision, so that statistics in
            single precision are the same in any order.
        keys : Tensor of shape (n_images,), int64, default=None
            Their keys.
        highest : Tensor of shape (1,), int64, default=None
            The highest key of an image that is remembered. None remembers none.

        Returns
        -------
        self : Sums
            With these images.
        """
        rows = (features.flatten(2) - self.origin.to(features.device)[:, None]).permute(2, 0, 1)
        self.n_images += len(features)
        if not self.remembers_all:
            exact = rows.double()
            self.total += exact.sum(1).cpu()
            self.squares += (exact.transpose(1, 2) @ exact).cpu()
        if keys is not None and highest is not None and len(keys):
            low = keys <= highest
            if low.any():
                self.memory.append(halved(rows[:, low.to(rows.device)].cpu()))
                self.keys.append(keys[low])
        return self

    def merge(self, other: Sums) -> Sums:
        """Return the sums of both sets of images.

        Parameters
        ----------
        other : Sums
            Of other images, about the same origin.

        Returns
        -------
        sums : Sums
            In any order the same, to the rounding of double precision.
        """
        both = Sums(self.origin, *self.grid, remembers_all=self.remembers_all, most=self.most)
        both.n_images = self.n_images + other.n_images
        both.total, both.squares = self.total + other.total, self.squares + other.squares
        both.memory, both.keys = self.memory + other.memory, self.keys + other.keys
        return both

    def inpainter(self, gamma: float) -> LinearInpainter:
        """Return what restores images like these.

        Parameters
        ----------
        gamma : float
            Of Eq. 2.

        Returns
        -------
        inpainter : LinearInpainter
            Ready to restore. Of all images that were noted, those with the lowest keys are
            remembered.
        """
        inpainter = LinearInpainter(len(self.origin), *self.grid, gamma=gamma)
        keys = torch.cat(self.keys) if self.keys else torch.zeros(0, dtype=torch.int64)
        order = torch.argsort(keys, stable=True)[: self.capacity]
        rank = torch.full_like(keys, -1)
        rank[order] = torch.arange(len(order))
        inpainter.memory = inpainter.memory.new_empty(
            math.prod(self.grid), len(order), len(self.origin)
        )
        for part, ranks in zip(
            self.memory, torch.split(rank, [len(k) for k in self.keys]), strict=True
        ):
            inpainter.memory[:, ranks[ranks >= 0]] = part[:, ranks >= 0]
        inpainter.keys = keys[order]
        inpainter.n_images = inpainter.n_images + self.n_images
        inpainter.origin = self.origin
        if inpainter.remembers_all:
            return inpainter.recall().solve().measure()
        mean = self.total / self.n_images
        inpainter.mean = (mean + self.origin.double()).float()
        for place in range(len(mean)):  # one at a time: they are large
            inpainter.covariance[place] = (
                self.squares[place] / self.n_images - torch.outer(mean[place], mean[place])
            ).float()
        return inpainter.solve().measure()


def lowest_keys(keys: Tensor, n: int) -> Tensor:
    """Return the n lowest keys, rising, or all where there are fewer.

    Parameters
    ----------
    keys : Tensor of shape (n_images,), int64
        A key per image.
    n : int
        How many.

    Returns
    -------
    lowest : Tensor of shape (min(n, n_images),), int64
        Rising.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.linear import lowest_keys
    >>> lowest_keys(torch.tensor([5, 3, 9]), 2)
    tensor([3, 5])
    """
    return keys.sort().values[:n]


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
    >>> from skavid.core.linear import log_change
    >>> log_change(torch.tensor([0.0, 1.0]))
    tensor([-13.8155,   0.0000])
    """
    return change.clamp(min=1e-6).log()


def halved(rows: Tensor) -> Tensor:
    """Return numbers in half precision; what is too large for it becomes its largest number.

    Parameters
    ----------
    rows : Tensor
        Of any shape.

    Returns
    -------
    halved : Tensor of the same shape, float16
        Finite.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.linear import halved
    >>> halved(torch.tensor([0.5, 1e9]))
    tensor([5.0000e-01, 6.5504e+04], dtype=torch.float16)
    """
    most = torch.finfo(torch.float16).max
    return rows.clamp(-most, most).half()


def learn_statistics(
    blocks: Iterable[Tensor], *, gamma: float, keys: Tensor | None = None, most: int | None = None
) -> LinearInpainter:
    """Learn an inpainter for each place from the feature maps of normal images.

    Parameters
    ----------
    blocks : iterable of Tensor of shape (n_images, n_features, n1, n2)
        Feature maps, a block of images at a time, all of one size.
    gamma : float
        Of Eq. 2.
    keys : Tensor of shape (n_images,), int64, default=None
        A key for each image of all blocks, such as a hash of it. The images with the lowest keys
        are remembered. None remembers none.
    most : int, default=None
        How many images are remembered at most. None remembers as many as memory allows.

    Returns
    -------
    inpainter : LinearInpainter
        Ready to restore, on the CPU. Where not all images are remembered, sums are kept in double
        precision: 8 bytes for each place and pair of features.

    Raises
    ------
    ValueError
        If there is no image.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.linear import learn_statistics
    >>> features = torch.rand(20, 3, 4, 5)
    >>> at_once = learn_statistics([features], gamma=0.4)
    >>> in_parts = learn_statistics(features.split(7), gamma=0.4)
    >>> torch.allclose(at_once.covariance, in_parts.covariance, atol=1e-6)
    True
    """
    keys = torch.zeros(0, dtype=torch.int64) if keys is None else keys
    sums, n, highest = None, 0, None
    for block in blocks:
        if sums is None:
            origin, grid = block.mean((0, 2, 3)).cpu(), block.shape[2:]
            n_remembered = capacity(block[0].numel(), most)
            highest = lowest_keys(keys, n_remembered)[-1:]
            remembers_all = 0 < len(keys) <= n_remembered
            sums = Sums(origin, *grid, remembers_all=remembers_all, most=most)
        sums.add(block, keys[n : n + len(block)], highest)
        n += len(block)
    if sums is None:
        raise ValueError("blocks must hold at least one image. Got none.")
    return sums.inpainter(gamma)
