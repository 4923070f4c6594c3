"""The networks of Sec. 3.1 and 3.2: the inpainter I, the detector D and their common blocks."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skavid.core.regions import (
    PAPER_GEOMETRY,
    Geometry,
    grid_shape,
    padded_shape,
    reflect_pad,
)

__all__ = ["Detector", "Inpainter", "ResidualDetector"]

STEEPNESS = 8.0
MOST_LOGIT = 1e4  # no position is more normal


def _block(n_in: int, n_out: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    # Replicated borders: a constant image gives a constant map, without border artefacts.
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, stride, 1, bias=False, padding_mode="replicate"),
        nn.BatchNorm2d(n_out),
        nn.LeakyReLU(0.1, inplace=True),
    )


def _halve(n_in: int, n_out: int) -> nn.Sequential:
    # An even kernel centres each output on the 2 x 2 pixels that it replaces.
    return nn.Sequential(_block(n_in, n_out, kernel=4, stride=2), _block(n_out, n_out))


def _double(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2.0, mode="bilinear", align_corners=False)


def _patches(n_in: int, n_out: int, side: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, side, side, bias=False),
        nn.BatchNorm2d(n_out),
        nn.LeakyReLU(0.1, inplace=True),
    )


def _mean_visible(images: Tensor, masked: Tensor) -> Tensor:
    """Return the mean of the unmasked pixels of each image, (n, 1, 1, 1)."""
    visible = 1 - masked
    total = visible.sum((1, 2, 3), keepdim=True).clamp(min=1)
    return (images * visible).sum((1, 2, 3), keepdim=True) / total


def _multiple(length: int, step: int) -> int:
    return -(-length // step) * step


def in_tiles(network: Inpainter | Detector, images: Tensor, n_pixels: int) -> Tensor:
    """Apply a network in evaluation mode to large images in tiles, with the memory of one tile.

    Tiles overlap by the reach of the network, so the output is that for the whole image up to
    rounding. Images of at most ``n_pixels`` are not divided; tiles without their overlap have
    about as many pixels.
    """
    height, width = images.shape[2:]
    if height * width <= n_pixels:
        return cast(Tensor, network(images))
    n1, n2 = network.output_shape(height, width)
    jump, reach = network.jump, _multiple(network.reach, network.step)
    side = _multiple(math.isqrt(n_pixels), network.step)
    n = side // jump
    rows = []
    for i in range(0, n1, n):
        top = max(0, i * jump - reach)
        row = []
        for j in range(0, n2, n):
            left = max(0, j * jump - reach)
            tile = images[..., top : i * jump + side + reach, left : j * jump + side + reach]
            below, beside = i - top // jump, j - left // jump
            output = network(tile)[..., below : below + n, beside : beside + n]
            row.append(output[..., : n1 - i, : n2 - j].clone())
        rows.append(torch.cat(row, -1))
    return torch.cat(rows, -2)


class Inpainter(nn.Module):
    """Inpainter I: a U-Net that restores a corrupted image to what is normal, Sec. 3.1.

    It predicts a correction that is added to its input, so an untrained inpainter is the
    identity. If ``bounded``, masked pixels are predicted relative to the mean of visible pixels.

    Parameters
    ----------
    n_channels : int
        Channels of the images.
    width : int, default=16
        Number of feature maps at full resolution; doubled at each level.
    depth : int, default=3
        Number of times that the resolution is halved.
    patch : int, default=1
        Side of the patches of pixels that are read and written as one. 1 is a U-Net over pixels;
        larger patches are much faster and leave no path that copies single pixels.
    bounded : bool, default=False
        Whether predictions of masked pixels lie in (0, 1), as the cross-entropy requires.
        Recommended with patches, which cannot remove masking noise pixel by pixel.

    Notes
    -----
    Images of any height and width from 1 x 1 are padded by reflection to a multiple of
    ``patch * 2 ** depth`` and the result is cropped. Convolutions replicate the border. As in
    [1]_, skip connections join features of equal resolution; as in the authors' code, upsampling
    is bilinear.

    References
    ----------
    .. [1] O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical
       Image Segmentation", MICCAI 2015.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.networks import Inpainter
    >>> images = torch.rand(2, 3, 5, 7)
    >>> Inpainter(3, width=4, depth=2)(images).shape
    torch.Size([2, 3, 5, 7])
    """

    def __init__(
        self,
        n_channels: int,
        *,
        width: int = 16,
        depth: int = 3,
        patch: int = 1,
        bounded: bool = False,
    ) -> None:
        super().__init__()
        self.depth = depth
        self.patch = patch
        self.bounded = bounded
        # For `in_tiles`: where tiles may begin, pixels per output, and reach in pixels.
        self.step, self.jump = patch * 2**depth, 1
        self.reach = patch * (2 + 7 * (2**depth - 1))
        widths = [width * 2**level for level in range(depth + 1)]
        first = _block(n_channels + 1, width)
        if patch > 1:
            first = nn.Sequential(_patches(n_channels + 1, width, patch), _block(width, width))
        self.enter = nn.Sequential(first, _block(width, width))
        self.down = nn.ModuleList(_halve(wide, wider) for wide, wider in pairwise(widths))
        self.narrow = nn.ModuleList(nn.Conv2d(wider, wide, 1) for wide, wider in pairwise(widths))
        self.merge = nn.ModuleList(_block(2 * wide, wide) for wide in widths[:-1])
        self.correct = nn.Conv2d(width, n_channels * patch**2, 1)
        nn.init.zeros_(self.correct.weight)
        nn.init.zeros_(cast(Tensor, self.correct.bias))

    def output_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of the restored image.

        Parameters
        ----------
        height, width : int
            Size of the image in pixels.

        Returns
        -------
        height, width : int
            The same.
        """
        return height, width

    def forward(self, images: Tensor, masked: Tensor | None = None) -> Tensor:
        """Restore images.

        Parameters
        ----------
        images : Tensor of shape (n_images, n_channels, height, width)
            Corrupted images, intensities about [0, 1].
        masked : Tensor of the same shape, optional
            1 where a pixel is masked and its value carries no information, else 0. Its mean over
            the channels is an additional input channel. None: no pixel is masked.

        Returns
        -------
        restored : Tensor of the same shape
            I(X~), not clipped.
        """
        n, _, height, width = images.shape
        seen = images.new_zeros(n, 1, height, width) if masked is None else masked.mean(1, True)
        below = _multiple(height, self.step) - height
        beside = _multiple(width, self.step) - width
        features = reflect_pad(torch.cat([images, seen], 1), 0, beside, 0, below)
        features = self.enter(features)  # (n, w, h, w)
        skips = []
        for down in self.down:
            skips.append(features)
            features = down(features)  # (n, 2w, h/2, w/2)
        for level in reversed(range(self.depth)):
            features = _double(self.narrow[level](features))
            features = self.merge[level](torch.cat([features, skips[level]], 1))
        correction = F.pixel_shuffle(self.correct(features), self.patch)[..., :height, :width]
        if masked is None or not self.bounded:
            return images + correction
        # Within (0, 1), and steep enough to approach both ends.
        predicted = torch.sigmoid(STEEPNESS * (_mean_visible(images, masked) + correction - 0.5))
        return torch.where(masked > 0, predicted, images + correction)


class Detector(nn.Module):
    """Detector D: a fully convolutional network that scores each region of an image, Sec. 3.2.

    It has neither pooling nor dense layers and ends in 1 x 1 convolutions.

    Parameters
    ----------
    n_channels : int
        Channels of the images.
    geometry : Geometry
        The regions: `skavid.core.regions.PAPER_GEOMETRY` for the network of Fig. 2,
        `skavid.core.regions.aligned` for regions that tile the image.
    width : int, default=24
        Number of feature maps of the first layer; 96 in Fig. 2.

    Notes
    -----
    The aligned detector scores each region with its context at two scales: features at the size
    of the region and at twice that size are concatenated before the last layers. The image is
    padded by reflection on the right and at the bottom so that the last region is complete.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.networks import Detector
    >>> from skavid.core.regions import aligned
    >>> Detector(1, geometry=aligned(4), width=4)(torch.rand(2, 1, 9, 16)).shape
    torch.Size([2, 3, 4])
    """

    def __init__(self, n_channels: int, *, geometry: Geometry, width: int = 24) -> None:
        super().__init__()
        self.geometry = geometry
        self.is_paper = geometry == PAPER_GEOMETRY
        self.jump = geometry.jump
        self.step = geometry.jump if self.is_paper else 2 * geometry.size
        self.reach = geometry.size if self.is_paper else 13 * geometry.size
        if self.is_paper:
            self.near = _figure_2(n_channels, width)
        else:
            n_halvings = geometry.size.bit_length() - 1
            first = [_block(n_channels, width)] if n_halvings == 0 else []
            widths = [n_channels] + [width * min(2**level, 2) for level in range(n_halvings)]
            halvings = [_halve(a, b) for a, b in pairwise(widths)]
            wide = width if n_halvings == 0 else widths[-1]
            self.near = nn.Sequential(*first, *halvings, _block(wide, wide))
            self.far = nn.Sequential(_halve(wide, wide), _block(wide, wide))
            self.judge = nn.Sequential(
                nn.Conv2d(2 * wide, wide, 1),
                nn.LeakyReLU(0.1, inplace=True),
                nn.Conv2d(wide, 1, 1),
            )

    def output_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the number of regions of an image.

        Parameters
        ----------
        height, width : int
            Size of the image in pixels.

        Returns
        -------
        n1, n2 : int
            Rows and columns of regions.
        """
        return grid_shape(self.geometry, height, width)

    def forward(self, images: Tensor) -> Tensor:
        """Score every region.

        Parameters
        ----------
        images : Tensor of shape (n_images, n_channels, height, width)
            Intensities about [0, 1].

        Returns
        -------
        logits : Tensor of shape (n_images, n1, n2)
            The regularity is ``O = sigmoid(logits)``: 1 regular, 0 not.
        """
        height, width = images.shape[2:]
        tall, broad = padded_shape(self.geometry, height, width)
        n1, n2 = tall // self.geometry.jump, broad // self.geometry.jump
        if self.is_paper:
            logits = self.near(reflect_pad(images, 0, broad - width, 0, tall - height))
            return cast(Tensor, logits[:, 0])
        tall, broad = _multiple(tall, self.step), _multiple(broad, self.step)
        near = self.near(reflect_pad(images, 0, broad - width, 0, tall - height))
        far = _double(self.far(near))
        return cast(Tensor, self.judge(torch.cat([near, far], 1))[:, 0, :n1, :n2])


class ResidualDetector(nn.Module):
    """Detector D on the changes that I makes to a feature map; fully convolutional, Sec. 3.2.

    It averages members of equal shape. Each is trained on other images, so that scores on unseen
    images can be distinguished from scores on training images.

    Parameters
    ----------
    n_features : int
        Number of features at each position.
    sees_features : bool, default=False
        Whether D reads the features beside their changes.
    width : int, default=64
        Number of hidden feature maps.
    n_members : int, default=2
        Number of members.

    Attributes
    ----------
    normal : Tensor of shape ()
        The logit above which a position of video is normal. A larger one makes up for no doubt.
    still : Tensor of shape ()
        How much a position counts where nothing moves, from 0 to 1.
    moves : Tensor of shape (2,)
        The length of displacements that stand for nothing moves and for what usually moves, as D
        reads it.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.networks import ResidualDetector
    >>> ResidualDetector(5, width=8).eval()(torch.rand(2, 5, 3, 4)).shape
    torch.Size([2, 3, 4])
    """

    normal: Tensor
    still: Tensor
    moves: Tensor

    def __init__(
        self,
        n_features: int,
        *,
        sees_features: bool = False,
        width: int = 64,
        n_members: int = 2,
    ) -> None:
        super().__init__()
        self.register_buffer("normal", torch.tensor(MOST_LOGIT))
        self.register_buffer("still", torch.tensor(1.0))
        self.register_buffer("moves", torch.tensor([0.0, 1.0]))
        self.n_features, self.sees_features, self.width = n_features, sees_features, width
        n_read = n_features * (1 + sees_features)
        self.members = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(n_read, affine=False),
                nn.Conv2d(n_read, width, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(0.1),
                _block(width, width),
                nn.Conv2d(width, 1, 1),
            )
            for _ in range(n_members)
        )

    def forward(self, changes: Tensor) -> Tensor:
        """Score every position.

        Parameters
        ----------
        changes : Tensor of shape (n_images, n_read, n1, n2)
            ``|F - I(F)|``, relative to the changes of normal images at that position; then, if D
            reads them, the features F in units of their spread.

        Returns
        -------
        logits : Tensor of shape (n_images, n1, n2)
            The mean of the members; the regularity is ``O = sigmoid(logits)``.
        """
        return torch.stack([member(changes)[:, 0] for member in self.members]).mean(0)

    def weigh(self, length: Tensor, residual: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Let positions of video count as far as something moves there.

        Parameters
        ----------
        length : Tensor of shape (n_images, n1, n2)
            Of the displacement at each position, as D reads it.
        residual, logits : Tensor of shape (n_images, n1, n2)
            How much I changes, and how regular D finds it.

        Returns
        -------
        residual, logits : Tensor of shape (n_images, n1, n2)
            Weighed; as they were if D does not read the features.
        """
        if not self.sees_features:
            return residual, logits
        nothing, usual = self.moves
        moves = ((length - nothing) / (usual - nothing)).clamp(0, 1)
        weight = self.still + (1 - self.still) * moves
        logits = logits.minimum(self.normal)
        return residual * weight, logits + (1 - weight) * (self.normal - logits)


def _figure_2(n_channels: int, width: int) -> nn.Sequential:
    """Build the network of Fig. 2, receptive field 51, jump 16; width 96 is the authors'."""

    def layer(n_in: int, n_out: int, kernel: int = 1, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(n_in, n_out, kernel, stride), nn.ReLU(inplace=True)]

    wide = [8 * width // 3, 16 * width // 3, 32 * width // 3]
    return nn.Sequential(
        *layer(n_channels, width, 11, 4), *layer(width, width), *layer(width, width),
        *layer(width, width, 3, 2), *layer(width, width), *layer(width, width),
        *layer(width, wide[0], 5, 2),
        *layer(wide[0], wide[1]), *layer(wide[1], wide[2]), *layer(wide[2], wide[2]),
        nn.Conv2d(wide[2], 1, 1, bias=False),
    )  # fmt: skip
