"""Eq. 2 and its stronger relatives: normal images, corrupted on purpose (Sec. 3.3).

A corruption is a function of clean images and a generator. It returns the corrupted images and
says *where* they were corrupted: I learns to restore the clean image, D to find the where.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from skavid.core.scene import SPEED_UP, Scene, foreground

__all__ = [
    "CORRUPTIONS",
    "Corrupted",
    "Neighbours",
    "complementary",
    "inversion",
    "masking",
    "noise",
    "synthetic_anomalies",
]

N_PIECES = 4  # pieces that are pasted into an image at the most

N_BLOTS = 3  # that are inverted in an image
GRAIN_OF_BLOTS = 4  # pixels

HARD_NEGATIVE_SHARE = 0.15  # of the pieces of images
VIDEO_HARD_NEGATIVES = True  # every second piece of video is a hard negative

# Share of each kind; evidence for a mix over any single one: docs, user guide, method.
IMAGE_KINDS = {
    "place": 0.2,
    "swap": 0.25,
    "scale": 0.15,
    "turn": 0.15,
    "level": 0.1,
    "line": 0.1,
    "noise": 0.05,
}
VIDEO_KINDS = {"skip": 0.35, "slide": 0.3, "warp": 0.25, "place": 0.1}


class Corrupted(NamedTuple):
    """What a corruption returns.

    Parameters
    ----------
    images : Tensor of shape (n_images, n_channels, height, width)
        X~, the corrupted images, float32, not clipped.
    masked : Tensor of the same shape
        1 where a pixel was masked from I, else 0.
    where : Tensor of shape (n_images, height, width)
        How much a pixel is corrupted, in [0, 1], with soft edges.
    weight : Tensor of shape (n_images, height, width)
        How much a pixel counts when D is taught, in [0, 1]: 0 where it is undecided.
    """

    images: Tensor
    masked: Tensor
    where: Tensor
    weight: Tensor


class Neighbours(NamedTuple):
    """What the clips of stacked video add to their images.

    Parameters
    ----------
    scene : Scene
        The objects of the training clips.
    background : Tensor of shape (n_images, 1, height, width)
        The background of the clip: where it differs from an image, something moves.
    top : Tensor of shape (n_images,)
        Which row of the frame the image begins at, in pixels.
    gain, level : Tensor of shape (n_images,)
        How the image's brightness was changed: times ``gain``, plus ``level``. What is pasted
        is changed alike.
    spacing : int
        Frames between two channels.
    """

    scene: Scene
    background: Tensor
    top: Tensor
    gain: Tensor
    level: Tensor
    spacing: int


Corruption = Callable[..., Corrupted]


def noise(
    images: Tensor,
    *,
    gamma: float,
    generator: Generator,
    neighbours: Neighbours | None = None,
) -> Corrupted:
    """Add Gaussian noise to every pixel, Eq. 2: ``X~ = X + gamma * eta``.

    Parameters
    ----------
    images : Tensor of shape (n_images, n_channels, height, width)
        Intensities in [0, 1].
    gamma : float
        How severely to corrupt; the paper uses 0.4. The sigma of eta is 1, in units of the
        range of intensities.
    generator : torch.Generator
        On the CPU; advanced by the call.
    neighbours : Neighbours, optional
        Not used; part of the interface.

    Returns
    -------
    corrupted : Corrupted
        Corrupted everywhere, nothing masked.

    References
    ----------
    .. [1] Sabokrou et al., "AVID: Adversarial Visual Irregularity Detection", ACCV 2018,
       Sec. 3.3.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.corruption import noise
    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.zeros(1, 1, 100, 100)
    >>> round(noise(x, gamma=0.4, generator=generator).images.std().item(), 2)
    0.4
    """
    everywhere = torch.ones_like(images[:, 0])
    noisy = images + _eta(images, gamma, generator)
    return Corrupted(noisy, torch.zeros_like(images), everywhere, everywhere.clone())


def masking(
    images: Tensor,
    *,
    gamma: float,
    generator: Generator,
    neighbours: Neighbours | None = None,
    size: tuple[int, int] | None = None,
) -> Corrupted:
    """Hide about half of each image: blocks, stripes or channels of mixed sizes.

    Parameters
    ----------
    images : Tensor of shape (n_images, n_channels, height, width)
        Intensities in [0, 1].
    gamma : float
        Hidden pixels hold the mean of their image plus the noise of Eq. 2.
    generator : torch.Generator
        On the CPU; advanced by the call.
    neighbours : Neighbours, optional
        Given for stacked video, where masking whole channels (moments) is one of the kinds.
    size : tuple (smallest, largest), optional
        Sides of what is masked at once, in pixels; from 4 pixels to a quarter of the image
        when None. Masks of about half the size of an object work best.

    Returns
    -------
    corrupted : Corrupted
        Corrupted where masked.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.corruption import masking
    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.rand(2, 1, 32, 32)
    >>> masked = masking(x, gamma=0.4, generator=generator).masked
    >>> masked.shape, masked.unique().tolist()
    (torch.Size([2, 1, 32, 32]), [0.0, 1.0])
    """
    kinds = _mask_kinds(len(images), images.shape[1], neighbours is not None, generator)
    low, high = size or _sizes(*images.shape[2:])
    sides = _log_uniform(low, high + 1, (len(images), 1), generator).floor().long()
    masked = _masks(kinds, sides, images.shape[1:], generator).to(images.device)
    where = masked.amax(1)
    eta = _eta(images, gamma, generator)
    return Corrupted(_fill(images, masked, eta), masked, where, torch.ones_like(where))


def inversion(
    images: Tensor,
    *,
    gamma: float,
    generator: Generator,
    neighbours: Neighbours | None = None,
    size: tuple[int, int] | None = None,
) -> Corrupted:
    """Invert images within a few blots: what is bright becomes dark there, and dark bright.

    In images of two levels, such as circuit boards, prints and silhouettes, this is what missing
    or additional material looks like: gaps, bridges, pinholes, notches and spurs.

    Parameters
    ----------
    images : Tensor of shape (n_images, n_channels, height, width)
        Intensities in [0, 1].
    gamma : float
        Without effect; corruptions are all called alike.
    generator : torch.Generator
        On the CPU; advanced by the call.
    neighbours : Neighbours, optional
        Without effect.
    size : tuple (smallest, largest), optional
        About the diameters of blots, in pixels; from 3 pixels to a sixth of the image when
        None.

    Returns
    -------
    corrupted : Corrupted
        Corrupted within the blots.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.corruption import inversion
    >>> generator = torch.Generator().manual_seed(0)
    >>> made = inversion(torch.zeros(2, 1, 32, 32), gamma=0.4, generator=generator)
    >>> bool((made.images[:, 0] == made.where).all()), made.where.unique().tolist()
    (True, [0.0, 1.0])
    """
    n, _, height, width = images.shape
    low, high = size or (3, max(3, min(height, width) // 6))
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    coarse = (n, 1, -(-height // GRAIN_OF_BLOTS), -(-width // GRAIN_OF_BLOTS))
    rough = F.interpolate(
        torch.rand(coarse, generator=generator), (height, width), mode="bilinear"
    )
    where = torch.zeros(n, height, width)
    for _ in range(N_BLOTS):
        radius = _log_uniform(low, high, (n, 1, 1), generator) / 2
        y, x = (_uniform(0, side, (n, 1, 1), generator) for side in (height, width))
        squares = ((rows - y) ** 2 + (columns - x) ** 2) / radius**2
        where = where.maximum((squares < 0.5 + rough[:, 0]).float())
    where = where.to(images.device)
    inverted = torch.where(where[:, None] > 0, 1 - images, images)
    return Corrupted(inverted, torch.zeros_like(images), where, torch.ones_like(where))


def complementary(
    images: Tensor,
    n_draws: int,
    *,
    gamma: float,
    seed: int,
    video: bool = False,
    size: tuple[int, int] | None = None,
) -> Iterator[Corrupted]:
    """Hide images in pairs of complementary masks: together they hide every pixel.

    Each image gets the same masks and the same noise, so the result for an image depends on
    nothing but the image and the seed.

    Parameters
    ----------
    images : Tensor of shape (n_images, n_channels, height, width)
        Intensities in [0, 1].
    n_draws : int
        How many draws; an odd number is rounded up to the next even one.
    gamma : float
        Eq. 2's noise, as in `masking`.
    seed : int
        Chooses masks and noise.
    video : bool, default=False
        Whether channels are moments of a stack, so that whole channels are masked too.
    size : tuple (smallest, largest), optional
        As in `masking`; the draws spread evenly over it.

    Yields
    ------
    corrupted : Corrupted
        One draw.
    """
    generator = torch.Generator().manual_seed(seed)
    one = images[:1]
    n_pairs = (n_draws + 1) // 2
    low, high = size or _sizes(*images.shape[2:])
    cycle = [1, 2, 0] + ([3] if video and images.shape[1] > 1 else [])
    for pair in range(n_pairs):
        kinds = torch.tensor([cycle[pair % len(cycle)]])
        side = torch.tensor([[round(low * (high / low) ** ((pair + 0.5) / n_pairs))]])
        mask = _masks(kinds, side, images.shape[1:], generator).to(images.device)
        eta = _eta(one, gamma, generator)
        for half in (mask, 1 - mask):
            masked = half.expand_as(images)
            where = masked.amax(1)
            yield Corrupted(_fill(images, masked, eta), masked, where, torch.ones_like(where))


def synthetic_anomalies(
    images: Tensor,
    *,
    gamma: float,
    generator: Generator,
    neighbours: Neighbours | None = None,
) -> Corrupted:
    """Paste pieces of normal images where they do not belong, and hard negatives where they do.

    Pieces of images come from another place, at another scale or orientation, with another
    brightness, or as thin lines and specks of noise. Pieces of stacked video are the objects of
    the training clips, cut out softly: moved 1.5 to 3 times faster than they and most others
    move, carried without a gait, deformed, or a still texture that slides. Hard negatives are
    pieces of another image put at their own place (video: in their own row) at their own scale
    and speed: D must learn what is irregular, not what a seam looks like.

    Parameters
    ----------
    images : Tensor of shape (n_images, n_channels, height, width)
        Intensities in [0, 1]; pieces come from the other images of the batch.
    gamma : float
        Eq. 2's noise, for the specks.
    generator : torch.Generator
        On the CPU; advanced by the call.
    neighbours : Neighbours, optional
        Given for stacked video with clips.

    Returns
    -------
    corrupted : Corrupted
        Corrupted where a piece was pasted that is not a hard negative and that changed the image
        visibly; undecided where it changed nothing to be seen.

    Examples
    --------
    >>> import torch
    >>> from skavid.core.corruption import synthetic_anomalies
    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.rand(8, 1, 32, 32)
    >>> made = synthetic_anomalies(x, gamma=0.4, generator=generator)
    >>> made.where.shape
    torch.Size([8, 32, 32])
    """
    if neighbours is None or not len(neighbours.scene.moments):
        return _image_anomalies(images, gamma, generator)
    return _video_anomalies(images, neighbours, generator)


def _image_anomalies(images: Tensor, noise_scale: float, generator: Generator) -> Corrupted:
    # Where there is something to cut out.
    salience = (images - images.mean((2, 3), True)).abs().amax(1)
    contrast, grain = _contrast(images).cpu(), _grain(images).cpu()
    irregular = torch.zeros_like(salience)
    pasted = images
    for _ in range(N_PIECES):
        piece = _image_piece(salience, contrast, grain, generator)
        content, alpha = _cut(images, piece, noise_scale, generator)
        content = torch.where(_wide(piece.matched), _match(content, images, alpha), content)
        pasted = pasted + alpha * (content - pasted)
        cover = alpha.amax(1)
        irregular = irregular * (1 - cover) + cover * piece.irregular[:, None, None]
    return _judge(images, pasted, irregular)


def _video_anomalies(images: Tensor, beside: Neighbours, generator: Generator) -> Corrupted:
    threshold = beside.scene.threshold
    moving = foreground((images - beside.background).abs().amax(1, True), threshold)[:, 0]
    irregular, opacity = torch.zeros_like(moving), torch.zeros_like(moving)
    pasted = images.clone()
    for number in range(N_PIECES):
        hard_negative = VIDEO_HARD_NEGATIVES and number % 2 == 0
        some = torch.nonzero(torch.rand(len(images), generator=generator) < 0.6)[:, 0]
        if not len(some):
            continue
        some = some.to(images.device)
        one = beside._replace(
            top=beside.top[some], gain=beside.gain[some], level=beside.level[some]
        )
        before = pasted[some]
        content, alpha = _object(
            before.shape, one, hard_negative=hard_negative, generator=generator
        )
        pasted[some] = before + alpha * (content - before)
        cover = alpha.amax(1)
        irregular[some] = irregular[some] * (1 - cover) + (0.0 if hard_negative else cover)
        opacity[some] = torch.maximum(opacity[some], cover)
    made = _judge(images, pasted, irregular)
    # Most of a scene is empty ground; what moves or was pasted is what D must learn.
    busy = 0.25 + 0.75 * torch.maximum(opacity, moving)
    return made._replace(weight=made.weight * busy)


def _judge(images: Tensor, pasted: Tensor, irregular: Tensor) -> Corrupted:
    """Label visible pasted pixels irregular; those without a visible effect are undecided."""
    seen = _visible(images, pasted)
    weight = torch.where((irregular > 0.05) & ~seen, 0.0, 1.0)
    return Corrupted(pasted, torch.zeros_like(images), irregular * seen, weight)


CORRUPTIONS: dict[str, Corruption] = {
    "noise": noise,
    "masking": masking,
    "inversion": inversion,
    "synthetic": synthetic_anomalies,
}


def _eta(images: Tensor, scale: float, generator: Generator) -> Tensor:
    return scale * torch.randn(images.shape, generator=generator).to(images.device)


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _log_uniform(low: float, high: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.exp(_uniform(math.log(low), math.log(high), shape, generator))


# --- masking -----------------------------------------------------------------------------------


def _fill(images: Tensor, masked: Tensor, eta: Tensor) -> Tensor:
    level = images.mean((2, 3), keepdim=True)
    return torch.where(masked > 0, level + eta, images)


def _mask_kinds(n: int, n_channels: int, video: bool, generator: Generator) -> Tensor:
    n_kinds = 4 if video and n_channels > 1 else 3
    return torch.randint(n_kinds, (n,), generator=generator)


def _sizes(height: int, width: int) -> tuple[int, int]:
    """Return the smallest and the largest side of what is masked at once, in pixels."""
    low = min(4, max(1, max(height, width) // 2))
    return low, max(low, min(height, width) // 4)


def _masks(kinds: Tensor, side: Tensor, shape: torch.Size, generator: Generator) -> Tensor:
    """Draw masked maps (n, c, h, w): 0 blocks, 1 rows in stripes, 2 columns, 3 one channel."""
    n, (n_channels, height, width) = len(kinds), shape
    offset = (torch.rand(n, 2, generator=generator) * 2 * side).long()
    rows = (torch.arange(height) + offset[:, :1]) // side  # (n, h): which block a row lies in
    columns = (torch.arange(width) + offset[:, 1:]) // side
    most = int((max(height, width) // side).max()) + 3
    table = torch.randint(2, (n, most * most), generator=generator)
    cell = rows[:, :, None] * most + columns[:, None, :]  # (n, h, w)
    blocks = table.gather(1, cell.flatten(1)).view(n, height, width)
    stripes = torch.where(kinds[:, None, None] == 1, rows[:, :, None], columns[:, None, :]) % 2
    mask = torch.where(kinds[:, None, None] == 0, blocks, stripes.expand(n, height, width))
    channel = torch.randint(n_channels, (n, 1), generator=generator)
    one = (torch.arange(n_channels) == channel)[:, :, None, None]  # (n, c, 1, 1)
    masked = torch.where((kinds == 3)[:, None, None, None], one, mask[:, None].bool())
    return masked.float()


# --- synthetic anomalies ----------------------------------------------------------------------


class _Piece(NamedTuple):
    """One piece for each image of a batch; all tensors on the images' device, first axis n."""

    donor: Tensor  # (n,) which image of the batch it is cut from
    source: Tensor  # (n, 2) where it is cut out, (y, x) px
    target: Tensor  # (n, 2) where it is pasted
    matrix: Tensor  # (n, 2, 2) target offsets to source offsets
    radii: Tensor  # (n, 2) of the ellipse
    turn: Tensor  # (n,) of the ellipse
    bend: Tensor  # (n,) curvature of the ellipse's axis, 1 / px
    gain: Tensor  # (n,)
    level: Tensor  # (n,)
    speckle: Tensor  # (n,) strength of Eq. 2's noise
    matched: Tensor  # (n,) bool: brightness matched to what it covers
    irregular: Tensor  # (n,) 1 or, for a hard negative, 0
    active: Tensor  # (n,) 0 where nothing is pasted


def _places(salience: Tensor, generator: Generator) -> Tensor:
    """Draw a pixel of each image, salient ones likelier: (n, 2) as (y, x)."""
    n, _, width = salience.shape
    pull = salience.flatten(1).cpu() ** 2
    pull = pull + 0.1 * pull.mean(1, keepdim=True) + 1e-12
    # The inverse of the distribution function: torch.multinomial refuses large images.
    edges = pull.double().cumsum(1)
    at = torch.rand(n, 1, generator=generator, dtype=torch.float64) * edges[:, -1:]
    flat = torch.searchsorted(edges, at).clamp_(max=pull.shape[1] - 1)
    return torch.cat([flat // width, flat % width], 1).float()


def _kinds(shares: dict[str, float], n: int, generator: Generator) -> dict[str, Tensor]:
    drawn = torch.multinomial(
        torch.tensor(list(shares.values())), n, replacement=True, generator=generator
    )
    return {name: drawn == index for index, name in enumerate(shares)}


def _matrices(scale: Tensor, angle: Tensor, mirror: Tensor, stretch: Tensor) -> Tensor:
    """Map offsets in the target to offsets in the source, (n, 2, 2) over (y, x)."""
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    flip = torch.where(mirror, -1.0, 1.0)
    first = torch.stack([cos * stretch, -sin * flip], -1)
    second = torch.stack([sin * stretch, cos * flip], -1)
    return torch.stack([first, second], -2)


def _contrast(images: Tensor) -> Tensor:
    """Spread of each image's intensities, (n,): the unit of what pieces change."""
    return images.flatten(1).std(1, unbiased=False).clamp(min=0.02)


def _grain(images: Tensor) -> Tensor:
    """Typical size in pixels of edges and blobs, (n,): the spread over the mean slope."""
    height, width = images.shape[2:]
    slopes = [images.diff(dim=axis).abs().flatten(1) for axis in (2, 3)]
    slope = torch.cat(slopes, 1).mean(1) if height * width > 1 else torch.ones(len(images))
    return (_contrast(images) / slope.clamp(min=1e-3)).clamp(1, max(height, width) / 4 + 1)


def _image_piece(
    salience: Tensor, contrast: Tensor, grain: Tensor, generator: Generator
) -> _Piece:
    n, height, width = salience.shape
    short = min(height, width)
    kind = _kinds(IMAGE_KINDS, n, generator)
    hard_negative = torch.rand(n, generator=generator) < HARD_NEGATIVE_SHARE
    active = torch.rand(n, generator=generator) < 0.7
    own = kind["level"] | kind["noise"]  # the image's own pixels, changed in place
    shape = kind["line"] & ~hard_negative

    donor = torch.where(own & ~hard_negative, torch.arange(n), _others(n, generator))
    source = _places(salience[donor.to(salience.device)], generator)
    anywhere = torch.rand(n, 2, generator=generator) * torch.tensor([height, width])
    salient = _places(salience, generator)
    target = torch.where(torch.rand(n, 1, generator=generator) < 0.5, anywhere, salient)
    target = torch.where(hard_negative[:, None], source, target)
    source = torch.where(((own | kind["swap"]) & ~hard_negative)[:, None], target, source)

    loose = kind["scale"] & ~hard_negative
    scale = torch.where(loose, _either(1.4, 2.5, n, generator), torch.ones(n))
    turned = kind["turn"] & ~hard_negative
    angle = torch.where(turned, _uniform(0.5, 2 * math.pi - 0.5, (n,), generator), torch.zeros(n))
    mirror = turned & (torch.rand(n, generator=generator) < 0.3)

    # From the finest grain of the image to what is coarse in it or as large as an eighth of it.
    finest = (0.3 * grain).clamp(min=0.8)
    coarsest = torch.maximum(3 * grain, torch.full((n,), max(2.0, short / 8)))
    radii = finest * (coarsest / finest) ** torch.rand(n, generator=generator)
    radii = radii[:, None] * _log_uniform(0.7, 1.4, (n, 2), generator)
    length = _uniform(min(4.0, short / 4), max(4.0, short / 4), (n,), generator)
    thin = torch.stack(
        [(0.12 * grain * _uniform(1.0, 2.5, (n,), generator)).clamp(0.6), length], -1
    )
    radii = torch.where(shape[:, None], thin, radii)
    bend = torch.where(shape, _uniform(-0.5, 0.5, (n,), generator) / length, torch.zeros(n))

    sign = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    change = sign * _log_uniform(0.5, 3.3, (n,), generator) * contrast
    bright = (own | shape) & ~hard_negative & ~kind["noise"]
    gain = torch.where(bright, _uniform(0.5, 1.2, (n,), generator), torch.ones(n))
    piece = _Piece(
        donor=donor, source=source, target=target,
        matrix=_matrices(scale, angle, mirror, torch.ones(n)),
        radii=radii, turn=_uniform(0, math.pi, (n,), generator), bend=bend, gain=gain,
        level=torch.where(bright, change, torch.zeros(n)),
        speckle=torch.where(kind["noise"] & ~hard_negative, 1.0, 0.0),
        matched=hard_negative, irregular=(~hard_negative).float(), active=active.float(),
    )  # fmt: skip
    return _Piece(*(part.to(salience.device) for part in piece))


class _Movement(NamedTuple):
    """One object of the training clips for each image, and how it moves; first axis n."""

    donor: Tensor  # (n,) which object
    target: Tensor  # (n, 2) where its newest moment is pasted, (y, x) px
    matrix: Tensor  # (n, 2, 2) target offsets to source offsets
    shift: Tensor  # (n, c, 2) how far each moment lies before the newest one, px
    ages: Tensor  # (n, c) how many frames before the newest one each moment is taken from
    is_ground: Tensor  # (n,) a piece of the background, and no object


def _object(
    shape: torch.Size, beside: Neighbours, *, hard_negative: bool, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draw an object for each image: its content and opacity, both of shape (n, c, h, w)."""
    movement = _draw_movement(shape, beside, hard_negative=hard_negative, generator=generator)
    return _render(shape, beside, movement)


def _draw_movement(
    shape: torch.Size, beside: Neighbours, *, hard_negative: bool, generator: Generator
) -> _Movement:
    (n, n_channels, height, width), scene, spacing = shape, beside.scene, beside.spacing
    kind = _kinds(VIDEO_KINDS, n, generator)
    kind = {name: drawn & (not hard_negative) for name, drawn in kind.items()}
    donor = _in_row(scene, beside.top.cpu(), height, generator)
    velocity = scene.velocities[donor]
    speed, usual = velocity.norm(dim=1), max(scene.speed, 1e-3)

    # Perspective: an object keeps the row it comes from, where its size is right.
    target = torch.stack(
        [scene.centres[donor, 0] - beside.top.cpu(), torch.rand(n, generator=generator) * width],
        -1,
    )
    anywhere = torch.rand(n, generator=generator) * height
    target[:, 0] = torch.where(kind["place"], anywhere, target[:, 0])

    form = torch.randint(4, (n,), generator=generator)
    larger, wider, turned, upright = (kind["warp"] & (form == index) for index in range(4))
    slides = kind["slide"] | kind["place"]
    scale = _uniform(0.95, 1.05, (n,), generator)
    scale = torch.where(larger, _uniform(1.35, 2.0, (n,), generator), scale)
    scale = torch.where(wider | kind["slide"], _uniform(0.9, 1.3, (n,), generator), scale)
    stretch = torch.where(wider, _log_uniform(1.4, 2.2, (n,), generator), torch.ones(n))
    # Two of three grow in breadth, for what rides is long; the others in height.
    stretch = torch.where(torch.rand(n, generator=generator) < 1 / 3, 1 / stretch, stretch)
    scale = scale * stretch.clamp(min=1)
    stretch = torch.where(kind["slide"], _log_uniform(0.8, 1.25, (n,), generator), stretch)
    angle = torch.where(turned, _uniform(0.5, 1.6, (n,), generator), torch.zeros(n))
    angle = torch.where(torch.rand(n, generator=generator) < 0.5, -angle, angle)
    angle = torch.where(upright, torch.full((n,), math.pi), angle)
    mirror = torch.rand(n, generator=generator) < 0.5

    # Faster than most, not only faster than it was.
    least = (1.3 * usual / speed.clamp(min=0.1 * usual)).clamp(1.5, SPEED_UP)
    factor = least + (SPEED_UP - least) * torch.rand(n, generator=generator)
    factor = torch.where(kind["skip"], factor, torch.ones(n))
    still = kind["place"] | (kind["slide"] & (torch.rand(n, generator=generator) < 0.6))
    factor = torch.where(still, torch.zeros(n), factor)
    order = torch.arange(n_channels - 1, -1, -1)  # how many channels ago
    ages = (factor * spacing).round().long()[:, None] * order  # (n, c) frames
    heading = torch.atan2(velocity[:, 0], torch.where(mirror, -velocity[:, 1], velocity[:, 1]))
    aimless = (speed < 0.3 * usual) | kind["place"]
    sideways = math.pi * torch.randint(2, (n,), generator=generator)
    heading = torch.where(aimless, sideways, heading) + _uniform(-0.4, 0.4, (n,), generator)
    stride = _log_uniform(1.2, 3.0, (n,), generator) * usual * spacing * slides
    shift = torch.stack([torch.sin(heading), torch.cos(heading)], -1) * stride[:, None]
    shift = shift[:, None] * order[None, :, None]
    matrix = _matrices(scale, angle, mirror, stretch)
    return _Movement(donor, target, matrix, shift, ages, kind["place"])


def _render(shape: torch.Size, beside: Neighbours, movement: _Movement) -> tuple[Tensor, Tensor]:
    (n, n_channels, height, width), scene = shape, beside.scene
    device, (donor, ages) = beside.background.device, (movement.donor, movement.ages)
    centre = (movement.target[:, None] - movement.shift).to(device)[..., None]
    y = (torch.arange(height, device=device) + 0.5 - centre[:, :, 0])[..., None]  # (n, c, h, 1)
    x = (torch.arange(width, device=device) + 0.5 - centre[:, :, 1])[:, :, None]  # (n, c, 1, w)
    matrix = movement.matrix.to(device)[..., None, None, None]
    y, x = (matrix[:, row, 0] * y + matrix[:, row, 1] * x for row in range(2))
    side = scene.moments.shape[-1]
    background = scene.window_backgrounds[donor][:, None].to(device)
    moments = scene.moments[donor[:, None], ages].float().to(device)
    opacity = foreground((moments - background).abs(), scene.threshold)
    here = movement.is_ground[:, None, None, None].to(device)
    moments = torch.where(here, background, moments)
    opacity = torch.where(here, 1.0, opacity)
    sampled = F.grid_sample(
        torch.stack([moments, opacity], 2).flatten(0, 1),  # (n c, 2, side, side)
        torch.stack([x, y], -1).flatten(0, 1).add_(0.5).mul_(2 / side),
        padding_mode="border",
        align_corners=False,
    ).view(n, n_channels, 2, height, width)
    # An ellipse about the object, which was elsewhere in older moments.
    way = (scene.velocities[donor][:, None] * ages[..., None]).to(device)[
        ..., None, None
    ]  # (n, c, 2, 1, 1)
    radii = (1.1 * scene.radii[donor] + 2).to(device)[:, None, :, None, None]
    y, x = (y + way[:, :, 0]) / radii[:, :, 0], (x + way[:, :, 1]) / radii[:, :, 1]
    distance = (y * y + x * x).sqrt_()
    alpha = torch.sigmoid(1.5 * (1.15 - distance) * radii.amin(2))
    content = sampled[:, :, 0] * _wide(beside.gain) + _wide(beside.level)
    return content, alpha * sampled[:, :, 1]


def _in_row(scene: Scene, top: Tensor, height: int, generator: Generator) -> Tensor:
    """Draw for each image an object that stands in its rows; any, where none does."""
    row = scene.centres[None, :, 0] - top[:, None]
    margin = min(4.0, height / 4)
    fits = (row > margin) & (row < height - margin / 2)
    weights = fits * (0.001 + scene.alone.float()) + 1e-9
    return torch.multinomial(weights, 1, generator=generator)[:, 0]


def _others(n: int, generator: Generator) -> Tensor:
    """Draw for each image another one of the batch (itself where it is alone)."""
    step = torch.randint(1, max(2, n), (n,), generator=generator)
    return (torch.arange(n) + step) % n


def _either(low: float, high: float, n: int, generator: Generator) -> Tensor:
    """Draw factors between low and high, or between their inverses."""
    factor = _uniform(low, high, (n,), generator)
    return torch.where(torch.rand(n, generator=generator) < 0.5, factor, 1 / factor)


def _cut(
    images: Tensor, piece: _Piece, noise_scale: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Cut pieces out; return their content (n, c, h, w) and opacity (n, 1, h, w)."""
    height, width = images.shape[2:]
    y = torch.arange(height, device=images.device, dtype=torch.float32) + 0.5
    x = torch.arange(width, device=images.device, dtype=torch.float32) + 0.5
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)  # (h, w, 2)
    offset = grid - piece.target[:, None, None]  # (n, h, w, 2)
    at = torch.einsum("nhwj,nij->nhwi", offset, piece.matrix) + piece.source[:, None, None]
    scale = torch.tensor([2 / width, 2 / height], device=images.device)
    content = F.grid_sample(
        images[piece.donor],
        at.flip(-1) * scale - 1,
        padding_mode="reflection",
        align_corners=False,
    )
    content = content * _wide(piece.gain) + _wide(piece.level)
    if piece.speckle.any():
        content = content + _eta(images, noise_scale, generator) * _wide(piece.speckle)
    return content, (_ellipse(offset, piece) * piece.active[:, None, None])[:, None]


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _ellipse(offset: Tensor, piece: _Piece) -> Tensor:
    """Opacity of bent ellipses with edges about a pixel soft: (n, h, w)."""
    turn, bend = piece.turn[:, None, None], piece.bend[:, None, None]
    cos, sin = torch.cos(turn), torch.sin(turn)
    y, x = offset[..., 0], offset[..., 1]
    along = y * sin + x * cos
    across = y * cos - x * sin + bend * along**2
    thick, length = piece.radii[:, :1, None], piece.radii[:, 1:, None]
    distance = torch.sqrt((across / thick) ** 2 + (along / length) ** 2 + 1e-12)
    # The distance to the edge in pixels, near enough, along the thinner axis.
    return torch.sigmoid(3 * (1 - distance) * torch.minimum(thick, length))


def _match(content: Tensor, images: Tensor, alpha: Tensor) -> Tensor:
    """Shift the brightness of pieces to that of what they cover."""
    total = alpha.sum((2, 3), keepdim=True) + 1e-6
    return content + ((images - content) * alpha).sum((2, 3), keepdim=True) / total


def _visible(images: Tensor, pasted: Tensor) -> Tensor:
    """Say where pasting changed what one sees, (n, h, w) bool."""
    contrast = _contrast(images)
    change = (pasted - images).abs().amax(1, keepdim=True)
    change = F.avg_pool2d(change, 5, 1, 2, count_include_pad=False)[:, 0]
    return change > 0.2 * contrast[:, None, None]
