"""Synthetic data: puzzles of digits (IR-MNIST, Sec. 4.1) and clips of a fixed camera."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter, zoom
from sklearn.utils import Bunch, check_random_state

from skavid.sklearn_private import Interval, StrOptions, validated

__all__ = ["make_ir_mnist", "make_moving_shapes"]

_POSITIVE = [Interval(Integral, 1, None, closed="left")]
_ABOVE_0 = [Interval(Real, 0, None, closed="neither")]
IRREGULARITIES = ("fast", "large", "shape", "place", "loiterer", "intruder")


@validated(
    n_train=_POSITIVE,
    n_test=_POSITIVE,
    grid=_POSITIVE,
    cell=_POSITIVE,
    share_irregular=[Interval(Real, 0, 1, closed="both")],
    share_withheld=[Interval(Real, 0, 1, closed="both"), StrOptions({"natural"})],
    test_share=[Interval(Real, 0, 1, closed="neither")],
    random_state=["random_state"],
)
def make_ir_mnist(
    digits: ArrayLike,
    labels: ArrayLike,
    *,
    test_digits: ArrayLike | None = None,
    test_labels: ArrayLike | None = None,
    n_train: int = 5000,
    n_test: int = 1000,
    grid: int = 11,
    cell: int = 28,
    withheld: int = 3,
    share_irregular: float = 0.5,
    share_withheld: float | str = "natural",
    test_share: float = 0.25,
    random_state: Any = None,
) -> Bunch:
    """Make the puzzles of IR-MNIST: grids of digits, one of which is withheld from training.

    Parameters
    ----------
    digits : array-like of shape (n_digits, h, w)
        Images of digits, black at 0 and white at 255 (uint8) or at their maximum.
    labels : array-like of shape (n_digits,)
        Digit of each image.
    test_digits, test_labels : array-like, default=None
        Images for the test puzzles, as in MNIST. None reserves a share of ``digits`` for them, so
        that no image is in both.
    n_train, n_test : int
        Number of puzzles; 5000 and 1000 in the paper.
    grid : int, default=11
        Number of digits along each side of a puzzle.
    cell : int, default=28
        Number of pixels along each side of a digit; images of another size are resized.
    withheld : int, default=3
        The digit that is in no training puzzle.
    share_irregular : float, default=0.5
        Share of the test puzzles that hold it.
    share_withheld : float or "natural", default="natural"
        Probability that a cell of such a puzzle holds it; at least one cell does. "natural" is its
        share among the images, a tenth in MNIST.
    test_share : float, default=0.25
        Share of the images of other digits that is reserved for the test puzzles without
        ``test_digits``.
    random_state : int, RandomState instance or None, default=None
        Seed of the choice of images.

    Returns
    -------
    data : Bunch
        ``train`` uint8 (n_train, grid * cell, grid * cell); ``test`` the same for the test
        puzzles; ``labels`` (n_test,), -1 for puzzles with the withheld digit, else 1;
        ``region_labels`` (n_test, grid, grid), the same for cells; ``masks`` bool, as ``test``,
        True in the cells of withheld digits.

    References
    ----------
    .. [1] Sabokrou et al., "AVID: Adversarial Visual Irregularity Detection", ACCV 2018,
       Sec. 4.1. The paper does not state the number of threes in its test puzzles.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skavid.datasets import make_ir_mnist
    >>> digits = load_digits()
    >>> data = make_ir_mnist(
    ...     digits.images, digits.target, n_train=6, n_test=4, grid=3, cell=8, random_state=0
    ... )
    >>> data.train.shape, data.test.shape, sorted(data.labels.tolist())
    ((6, 24, 24), (4, 24, 24), [-1, -1, 1, 1])
    """
    rng = check_random_state(random_state)
    pictures, names = _check_digits(digits, labels, "digits", "labels")
    if test_digits is None:
        if test_labels is not None:
            raise ValueError("test_labels came without test_digits; give both or neither.")
        order = rng.permutation(len(names))
        shown, fresh = np.split(order, [round((1 - test_share) * len(names))])
        # Withheld digits are not used for training, so all of them are available for testing.
        fresh = np.concatenate([fresh, shown[names[shown] == withheld]])
    else:
        more, more_names = _check_digits(test_digits, test_labels, "test_digits", "test_labels")
        if (more.shape[1:], more.dtype) != (pictures.shape[1:], pictures.dtype):
            raise ValueError(
                f"test_digits has images {_described(more)}, but digits has images "
                f"{_described(pictures)}; convert them to one size and dtype."
            )
        shown = np.arange(len(names))
        fresh = len(names) + np.arange(len(more_names))
        pictures, names = np.concatenate([pictures, more]), np.concatenate([names, more_names])
    normal, regular, odd = (
        _check_any(shown[names[shown] != withheld], f"other than {withheld} to train with"),
        _check_any(fresh[names[fresh] != withheld], f"other than {withheld} to test with"),
        _check_any(fresh[names[fresh] == withheld], f"{withheld} to test with"),
    )
    train = rng.choice(normal, (n_train, grid, grid))
    natural = float((names == withheld).mean())
    share = natural if isinstance(share_withheld, str) else share_withheld
    where = _place_withheld(n_test, grid, share_irregular, share, rng)
    test = rng.choice(regular, where.shape)
    test[where] = rng.choice(odd, where.sum())
    pictures = _resize(pictures, cell)
    return Bunch(
        train=_compose(pictures, train),
        test=_compose(pictures, test),
        labels=np.where(where.any(axis=(1, 2)), -1, 1),
        region_labels=np.where(where, -1, 1),
        masks=np.kron(where, np.ones((1, cell, cell), dtype=bool)),
    )


@validated(
    n_clips=_POSITIVE,
    n_frames=_POSITIVE,
    size=[tuple, list],
    n_walkers=[Interval(Integral, 0, None, closed="left")],
    speed=_ABOVE_0,
    scale=_ABOVE_0,
    irregular=[tuple, list, StrOptions(set(IRREGULARITIES))],
    share=[Interval(Real, 0, 1, closed="right")],
    random_state=["random_state"],
)
def make_moving_shapes(
    n_clips: int = 4,
    n_frames: int = 100,
    *,
    size: tuple[int, int] = (96, 128),
    n_walkers: int = 5,
    speed: float = 1.0,
    scale: float = 1.0,
    irregular: str | tuple[str, ...] = (),
    share: float = 0.5,
    random_state: Any = None,
) -> Bunch:
    """Draw clips of a walkway seen by a fixed camera, with exact masks of irregular objects.

    Walkers of similar speed and size (larger further down) cross the walkway, dark or bright in
    front of a textured lawn and path. Each clip may also contain an irregular object.

    Parameters
    ----------
    n_clips : int, default=4
        Number of clips of the same scene.
    n_frames : int, default=100
        Number of frames per clip.
    size : tuple (height, width), default=(96, 128)
        Size of the frames in pixels, at least 16 x 16.
    n_walkers : int, default=5
        Number of walkers.
    speed : float, default=1.0
        Mean speed of walkers in pixels per frame; each has 0.7 to 1.3 times that.
    scale : float, default=1.0
        Scale of moving objects; a walker is about ``14 * scale`` pixels high.
    irregular : str or tuple of str, default=()
        Kinds of irregular objects, one per clip in turn: "fast", a walker at three times the
        speed; "large", a walker of 1.8 times the size; "shape", a cart; "place", a walker on the
        lawn; "loiterer", a walker who stands still on the walkway; "intruder", who looks and
        walks as all others do, and should not be there. () makes clips for training.
    share : float, default=0.5
        Share of the frames of a clip in which the irregular object is present, at least one, in
        (0, 1]. It comes in or leaves over an edge of the image where there is time for that. A
        fast object may cross the image repeatedly.
    random_state : int, RandomState instance or None, default=None
        Seed of the walkers. The scene is always the same for one size.

    Returns
    -------
    data : Bunch
        ``frames`` uint8 (n, H, W); ``clips`` int (n,), from 0; ``labels`` int (n,), -1 if an
        irregular pixel is visible, else 1; ``masks`` bool (n, H, W), True where an irregular
        object covers more than half of a pixel and is not hidden; ``kinds`` str (n,), the kind of
        the clip, or "".

    Examples
    --------
    >>> from skavid.datasets import make_moving_shapes
    >>> data = make_moving_shapes(2, 30, irregular=("fast", "shape"), random_state=0)
    >>> data.frames.shape, data.masks.shape, sorted(set(data.kinds.tolist()))
    ((60, 96, 128), (60, 96, 128), ['fast', 'shape'])
    """
    if len(size) != 2 or not all(isinstance(n, Integral) and n >= 16 for n in size):
        raise ValueError(f"size must be (height, width), at least 16 pixels each. Got {size!r}.")
    kinds = (irregular,) if isinstance(irregular, str) else tuple(irregular)
    for kind in kinds:
        if kind not in IRREGULARITIES:
            raise ValueError(f"irregular must be some of {IRREGULARITIES}. Got {kind!r}.")
    rng = check_random_state(random_state)
    height, width = int(size[0]), int(size[1])
    scene = _scene(height, width)
    n = n_clips * n_frames
    frames = np.empty((n, height, width), np.uint8)
    masks = np.zeros((n, height, width), bool)
    for clip in range(n_clips):
        objects = [_walker(height, width, n_frames, speed, scale, rng) for _ in range(n_walkers)]
        if kinds:
            kind = kinds[clip % len(kinds)]
            n_odd = max(1, round(share * n_frames))
            objects += _irregular_objects(kind, height, width, n_frames, n_odd, speed, scale, rng)
        for time in range(n_frames):
            row = clip * n_frames + time
            frames[row], masks[row] = _render(scene, objects, time, rng)
    return Bunch(
        frames=frames,
        clips=np.repeat(np.arange(n_clips), n_frames),
        labels=np.where(masks.any(axis=(1, 2)), -1, 1),
        masks=masks,
        kinds=np.repeat(
            [kinds[c % len(kinds)] if kinds else "" for c in range(n_clips)], n_frames
        ),
    )


def _check_digits(
    digits: Any, labels: Any, digits_name: str, labels_name: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    pictures, names = np.asarray(digits), np.asarray(labels)
    if pictures.ndim != 3 or 0 in pictures.shape:
        raise ValueError(
            f"{digits_name} must be images of shape (n_digits, h, w). Got {pictures.shape}."
        )
    if names.shape != pictures.shape[:1]:
        raise ValueError(
            f"{digits_name} has {len(pictures)} images, but {labels_name} has the shape "
            f"{names.shape}; give one label per image."
        )
    if not 0 < pictures.max() < np.inf:  # False for NaN
        raise ValueError(
            f"{digits_name} must hold finite intensities, some above 0. Its maximum is "
            f"{pictures.max()}."
        )
    return pictures, names


def _described(pictures: NDArray[Any]) -> str:
    return f"of {pictures.shape[1]} x {pictures.shape[2]} {pictures.dtype}"


def _check_any(indices: NDArray[np.int64], what: str) -> NDArray[np.int64]:
    if not len(indices):
        raise ValueError(
            f"labels leave no digit {what}; withhold another digit or give more images."
        )
    return indices


def _place_withheld(
    n_test: int, grid: int, share_irregular: float, share: float, rng: np.random.RandomState
) -> NDArray[np.bool_]:
    """Choose the cells of the test puzzles that hold the withheld digit."""
    n_odd = round(share_irregular * n_test)
    where = np.zeros((n_test, grid * grid), dtype=bool)
    where[:n_odd] = rng.uniform(size=(n_odd, grid * grid)) < share
    one = rng.randint(grid * grid, size=n_odd)
    where[np.arange(n_odd), one] |= ~where[:n_odd].any(axis=1)
    mixed: NDArray[np.bool_] = where[rng.permutation(n_test)].reshape(n_test, grid, grid)
    return mixed


def _resize(pictures: NDArray[Any], cell: int) -> NDArray[np.uint8]:
    white = 255 if pictures.dtype == np.uint8 else pictures.max()
    scaled = pictures.astype(np.float32) * np.float32(255 / white)
    if pictures.shape[1:] != (cell, cell):
        factors = (1, cell / pictures.shape[1], cell / pictures.shape[2])
        scaled = zoom(scaled, factors, order=1, grid_mode=True, mode="nearest")
    resized: NDArray[np.uint8] = np.round(scaled).clip(0, 255).astype(np.uint8)
    return resized


def _compose(pictures: NDArray[np.uint8], cells: NDArray[np.int64]) -> NDArray[np.uint8]:
    n, grid, _ = cells.shape
    side = grid * pictures.shape[1]
    return pictures[cells].transpose(0, 1, 3, 2, 4).reshape(n, side, side)


_PATH = (0.45, 0.95)  # rows of the walkway, shares of the height


class _Object(NamedTuple):
    """An object that crosses the image; lengths in pixels."""

    start: float  # column at time 0
    velocity: float  # columns per frame, negative to the left
    row: float  # of its feet
    height: float
    phase: float  # of its gait
    grey: float
    first: int  # frames in which it is present
    last: int
    kind: str  # "" for a normal walker


def _scene(height: int, width: int) -> NDArray[np.float64]:
    """Draw lawn and walkway, always the same for one size."""
    texture = np.random.RandomState(0).normal(size=(height, width))
    path = (np.arange(height) >= _PATH[0] * height) & (np.arange(height) < _PATH[1] * height)
    fine, coarse = gaussian_filter(texture, 0.7), gaussian_filter(texture, 3)
    lawn, paved = 90 + 14 * fine + 60 * coarse, 165 + 3 * fine + 25 * coarse
    scene: NDArray[np.float64] = np.where(path[:, None], paved, lawn)
    return scene


def _walker(
    height: int, width: int, n_frames: int, speed: float, scale: float, rng: Any
) -> _Object:
    row = rng.uniform(_PATH[0] + 0.05, _PATH[1] - 0.03) * height
    velocity = rng.choice([-1, 1]) * speed * rng.uniform(0.7, 1.3)
    tall = 14 * scale * rng.uniform(0.9, 1.1) * (0.7 + 0.5 * row / height)
    # Starts before, within or beyond the image, so that walkers enter and leave.
    start = rng.uniform(-tall, width + tall) - velocity * rng.uniform(0, n_frames)
    dark = rng.uniform() < 0.7
    grey = rng.uniform(20, 70) if dark else rng.uniform(215, 245)
    return _Object(start, velocity, row, tall, rng.uniform(0, 6.3), grey, 0, n_frames, "")


def _irregular_objects(
    kind: str,
    height: int,
    width: int,
    n_frames: int,
    n_odd: int,
    speed: float,
    scale: float,
    rng: Any,
) -> list[_Object]:
    """Draw up to n_odd frames with an irregular object, which comes and leaves as objects do."""
    one = _walker(height, width, n_frames, speed, scale, rng)._replace(kind=kind)
    first, is_late = int(rng.randint(n_frames - n_odd + 1)), rng.uniform() < 0.5
    begin = rng.uniform(0.15, 0.35) * width
    if kind == "loiterer":  # a walker who stops, and goes on
        column = width - begin if one.velocity > 0 else begin
        walks = one._replace(kind="")
        return [
            walks._replace(start=column - one.velocity * first, last=first),
            one._replace(start=column, velocity=0.0, first=first, last=first + n_odd),
            walks._replace(start=column - one.velocity * (first + n_odd), first=first + n_odd),
        ]
    if kind == "large":
        one = one._replace(height=1.8 * one.height)
    elif kind == "fast":
        one = one._replace(velocity=3.0 * one.velocity)
    elif kind == "place":
        row = rng.uniform(0.5, 0.95) * _PATH[0] * height
        one = one._replace(row=row, height=14 * scale * (0.7 + 0.5 * row / height))
    # Comes in and stays, or is there and leaves: nothing appears or vanishes within the image.
    beyond = 0.8 * one.height
    if n_odd == n_frames or abs(one.velocity) * n_odd < beyond:
        column, moment = begin, first
    elif is_late:
        column, moment, first = -beyond, n_frames - n_odd, n_frames - n_odd
    else:
        column, moment, first = width + beyond, n_odd, 0
    if one.velocity < 0:
        column = width - column
    start = column - one.velocity * moment
    return [one._replace(start=start, first=first, last=first + n_odd)]


def _render(
    scene: NDArray[np.float64], objects: list[_Object], time: int, rng: Any
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Paint objects from back to front; return the frame and its mask of irregular pixels."""
    height, width = scene.shape
    picture, mask = scene.copy(), np.zeros((height, width), bool)
    for one in sorted(objects, key=lambda mover: mover.row):
        if not one.first <= time < one.last:
            continue
        span = width + 2 * one.height
        column = (one.start + one.velocity * time + one.height) % span - one.height
        window, opacity = _silhouette(one, column, time, height, width)
        if opacity.size:
            under = picture[window]
            picture[window] = under + opacity * (one.grey - under)
            seen = opacity > 0.5
            mask[window] = np.where(seen, bool(one.kind), mask[window])
    noisy = picture + rng.normal(0, 1.5, picture.shape)
    return np.round(noisy).clip(0, 255).astype(np.uint8), mask


def _silhouette(
    one: _Object, column: float, time: int, height: int, width: int
) -> tuple[tuple[slice, slice], NDArray[np.float64]]:
    """Return a window of the image and the coverage of each of its pixels by the object."""
    tall = one.height
    gait = one.phase + 0.35 * abs(one.velocity) * time * 14 / tall
    top, bottom = one.row - 1.1 * tall, one.row + 2
    left, right = column - 0.8 * tall, column + 0.8 * tall
    rows = slice(max(0, int(top)), max(0, min(height, int(bottom) + 1)))
    columns = slice(max(0, int(left)), max(0, min(width, int(right) + 1)))
    y = np.arange(rows.start, max(rows.start, rows.stop))[:, None] + 0.5 - one.row
    x = np.arange(columns.start, max(columns.start, columns.stop))[None] + 0.5 - column
    if one.kind == "shape":  # a cart: a box on two wheels
        box = _coverage(np.maximum(abs(x) - 0.65 * tall, abs(y + 0.5 * tall) - 0.28 * tall))
        wheels = [
            _coverage(np.hypot(x - side * 0.4 * tall, y + 0.13 * tall) - 0.13 * tall)
            for side in (-1, 1)
        ]
        return (rows, columns), np.maximum.reduce([box, *wheels])
    y = y + 0.03 * tall * abs(np.sin(gait))
    trunk = (np.hypot(x / (0.15 * tall), (y + 0.58 * tall) / (0.24 * tall)) - 1) * 0.15 * tall
    head = np.hypot(x, y + 0.92 * tall) - 0.1 * tall
    swing = 0.16 * tall * np.sin(gait)
    depth = (-y / (0.4 * tall)).clip(0, 1)  # 1 at the hip, 0 at the feet
    legs = [
        np.maximum(
            abs(x - side * swing * (1 - depth)) - 0.06 * tall, abs(y + 0.2 * tall) - 0.2 * tall
        )
        for side in (-1, 1)
    ]
    return (rows, columns), np.maximum.reduce([_coverage(part) for part in (trunk, head, *legs)])


def _coverage(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert signed distances to an edge, in pixels, to coverage."""
    return np.clip(0.5 - distance, 0, 1)
