"""What moves before a fixed camera: backgrounds, objects, their size and speed (Sec. 3.5).

Every scale of synthetic anomalies in video is learnt here from the training clips.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Scene",
    "background",
    "clip_begins",
    "clip_starts",
    "evenly",
    "foreground",
    "learn_scene",
    "time_blocks",
]

BACKGROUND_FRAMES = 32  # of a clip, whose median is its background
SCENE_FRAMES = 400  # in which objects are sought
MOST_OBJECTS = 2000
SPEED_UP = 3  # the fastest that an object moves, as a multiple of its own speed
N_SPEEDS = 200  # objects whose speed tells over how many frames to measure it
MOST_OF_ALL = 0.75  # of all frames, in a clip that is not left out as a whole
FAINT, CLEAR = 0.35, 0.85  # of the threshold between still and moving: edges of the foreground

Read = Callable[[NDArray[np.int64]], NDArray[np.float32]]


class Scene(NamedTuple):
    """What the training clips show.

    Parameters
    ----------
    backgrounds : dict of int to Tensor of shape (height, width)
        The background of each clip, by its first row.
    threshold : float
        The change of intensity between what is still and what moves.
    moments : Tensor of shape (n_objects, n_moments, side, side)
        A window around each object: the newest moment, the one a frame earlier, and so on.
    window_backgrounds : Tensor of shape (n_objects, side, side)
        The same windows of the backgrounds.
    centres : Tensor of shape (n_objects, 2)
        Where in the frame the windows' central pixels lie, (y, x) in pixels.
    radii : Tensor of shape (n_objects, 2)
        Half the height and width of each object, in pixels.
    velocities : Tensor of shape (n_objects, 2)
        Pixels a frame.
    alone : Tensor of shape (n_objects,), bool
        Objects of usual size for their row of the frame: probably a single thing.
    """

    backgrounds: dict[int, Tensor]
    threshold: float
    moments: Tensor
    window_backgrounds: Tensor
    centres: Tensor
    radii: Tensor
    velocities: Tensor
    alone: Tensor

    @property
    def size(self) -> float | None:
        """Typical side of an object in pixels; None where nothing moves.

        The square root of the area-weighted median of the areas: noise and weak contrast break
        objects into many small fragments, which hardly change it.
        """
        areas = 4 * self.radii.prod(1).numpy()
        return float(np.sqrt(_typical(areas))) if len(areas) else None

    @property
    def speed(self) -> float:
        """Speed in pixels a frame that a quarter of the objects exceeds; 0 where nothing moves."""
        speeds = self.velocities[self.alone].norm(dim=1)
        return float(speeds.quantile(0.75)) if len(speeds) else 0.0


def clip_begins(groups: NDArray[Any]) -> NDArray[np.int64]:
    """Return the rows at which clips begin, and refuse a clip that is torn apart.

    Parameters
    ----------
    groups : ndarray of shape (n,)
        Clip ids, rows of a clip consecutive.

    Returns
    -------
    begins : ndarray of shape (n_clips,), int
        Rising row numbers.

    Raises
    ------
    ValueError
        If rows of another clip stand between those of one, or an id is NaN, which equals none.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.scene import clip_begins
    >>> clip_begins(np.array([7, 7, 3, 3, 3]))
    array([0, 2])
    """
    new = np.ones(len(groups), dtype=bool)
    new[1:] = groups[1:] != groups[:-1]
    begins = np.flatnonzero(new)
    seen: set[Any] = set()
    for clip in groups[begins].tolist():
        if clip in seen or clip != clip:
            raise ValueError(
                f"groups must keep the rows of a clip together, but those of {clip!r} are "
                "interrupted; sort all arrays by clip, and by time within it."
            )
        seen.add(clip)
    return begins


def clip_starts(n: int, groups: NDArray[np.generic] | None) -> NDArray[np.int64]:
    """Return the first row of each row's clip.

    Parameters
    ----------
    n : int
        Number of rows.
    groups : ndarray of shape (n,) or None
        Clip ids, rows of a clip consecutive; None is one clip.

    Returns
    -------
    starts : ndarray of shape (n,), int
        Row numbers.

    Raises
    ------
    ValueError
        As in `clip_begins`.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.scene import clip_starts
    >>> clip_starts(5, np.array([7, 7, 3, 3, 3]))
    array([0, 0, 2, 2, 2])
    """
    if groups is None:
        return np.zeros(n, dtype=np.int64)
    begins = clip_begins(groups)
    return np.repeat(begins, np.diff(begins, append=n))


def time_blocks(groups: NDArray[Any], parts: int = 10) -> NDArray[np.int64]:
    """Divide video into blocks of time that are left out together: clips, or parts of a long one.

    Frames of a clip are alike, so a clip is a block. Only where one clip holds nearly all frames,
    too few would be left without it.

    Parameters
    ----------
    groups : ndarray of shape (n,)
        Clip ids, rows of a clip consecutive.
    parts : int, default=10
        Blocks into which a clip is cut that holds more than three quarters of all frames.

    Returns
    -------
    blocks : ndarray of shape (n,), int
        Numbers of blocks, rising.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.scene import time_blocks
    >>> time_blocks(np.array([7, 7, 7, 7, 3, 3, 3, 3]))
    array([0, 0, 0, 0, 1, 1, 1, 1])
    >>> time_blocks(np.array([7, 7, 7, 7, 7, 7, 7, 7]), parts=4)
    array([0, 0, 1, 1, 2, 2, 3, 3])
    """
    begins = clip_begins(groups)
    ends = np.append(begins[1:], len(groups))
    cuts = [
        np.linspace(begin, end, 1 + (parts if end - begin > MOST_OF_ALL * len(groups) else 1))[:-1]
        for begin, end in zip(begins, ends, strict=True)
    ]
    starts = np.unique(np.concatenate(cuts).astype(np.int64))
    return np.searchsorted(starts, np.arange(len(groups)), "right") - 1


def evenly(n: int, most: int) -> NDArray[np.int64]:
    """Choose some of n rows, evenly spread from the first to the last.

    Parameters
    ----------
    n : int
        How many rows there are.
    most : int
        How many to choose at most.

    Returns
    -------
    chosen : ndarray of int
        Rising row numbers; all of them where there are no more than ``most``.

    Examples
    --------
    >>> from skavid.core.scene import evenly
    >>> evenly(10, 4)
    array([0, 3, 6, 9])
    """
    return np.linspace(0, n - 1, min(n, most)).astype(np.int64)


def background(read: Read, clip: NDArray[np.int64]) -> NDArray[np.float32]:
    """Take the median of frames of a clip, evenly spread.

    Parameters
    ----------
    read : callable
        As in `learn_scene`.
    clip : ndarray of int
        Rows of the clip.

    Returns
    -------
    background : ndarray of shape (height, width), float32
        What stands still.
    """
    median: NDArray[np.float32] = np.median(read(clip[evenly(len(clip), BACKGROUND_FRAMES)]), 0)
    return median


def foreground(change: Tensor, threshold: float) -> Tensor:
    """Say how much something stands before its background.

    Parameters
    ----------
    change : Tensor of shape (n, k, height, width)
        Absolute difference from the background.
    threshold : float
        The scene's.

    Returns
    -------
    opacity : Tensor of the same shape
        In [0, 1], soft.
    """
    smooth = F.avg_pool2d(change, 3, 1, 1, count_include_pad=False)
    return ((smooth / threshold - FAINT) / (CLEAR - FAINT)).clamp(0, 1)


def learn_scene(
    read: Read,
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    *,
    n_channels: int,
    spacing: int,
) -> Scene:
    """Learn backgrounds, objects, sizes and speeds from training clips.

    Parameters
    ----------
    read : callable
        Takes row numbers, returns the newest moments of these stacks, (k, height, width),
        float32.
    rows : ndarray of int
        Rows that train, rising.
    starts : ndarray of int
        The first row of each row's clip.
    n_channels, spacing : int
        Of the stacks, as in `skavid.TemporalStacker`.

    Returns
    -------
    scene : Scene
        Without objects where nothing moves.
    """
    backgrounds = {}
    for start in np.unique(starts[rows]):
        clip = rows[starts[rows] == start]
        backgrounds[int(start)] = background(read, clip)
    reach = spacing * (n_channels - 1)
    deep = rows[rows - starts[rows] >= reach]
    threshold = _threshold(read, rows[evenly(len(rows), SCENE_FRAMES // 4)], starts, backgrounds)
    boxes = _boxes(
        read, deep[evenly(len(deep), SCENE_FRAMES)], starts, backgrounds, threshold, reach
    )
    n_moments = SPEED_UP * reach + 1
    return _gather(read, boxes, starts, backgrounds, threshold, n_moments)


def _threshold(
    read: Read,
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    backgrounds: dict[int, NDArray[np.float32]],
) -> float:
    """Part changes into those of still and of moving pixels: two means, as Otsu does."""
    changes = np.concatenate(
        [np.abs(read(rows[i : i + 1])[0] - backgrounds[int(starts[rows[i]])]).ravel()
         for i in range(len(rows))]
    )  # fmt: skip
    changes = changes[:: max(1, len(changes) // 50_000)].astype(np.float64)[:, None]
    if np.ptp(changes) < 1e-6:
        return 1.0
    ends = np.array([[changes.min()], [changes.max()]])
    from sklearn.cluster import KMeans  # a fit needs it, a loaded model does not

    centres = KMeans(2, init=ends, n_init=1).fit(changes).cluster_centers_
    return float(max(centres.mean(), 1e-3))


def _typical(areas: NDArray[Any]) -> float:
    """Return the median of areas, each counted as often as it is large."""
    rising = np.sort(areas)
    total = np.cumsum(rising, dtype=np.float64)
    return float(rising[np.searchsorted(total, total[-1] / 2)])


def _boxes(
    read: Read,
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    backgrounds: dict[int, NDArray[np.float32]],
    threshold: float,
    reach: int,
) -> NDArray[np.int64]:
    """Find what moves: (n, 6) of row, top, left, bottom, right, area; whole ones alone."""
    found = []
    for row in rows:
        moments = read(row - np.array([0, reach // 2, reach]))
        change = torch.from_numpy(np.abs(moments - backgrounds[int(starts[row])]))
        moving = foreground(change[None], threshold)[0].amax(0).numpy() > 0.3
        labels, _ = ndimage.label(moving)
        areas = np.bincount(labels.ravel())[1:]
        height, width = moving.shape
        for area, (y, x) in zip(areas, ndimage.find_objects(labels), strict=True):
            if y.start > 1 and x.start > 1 and y.stop < height - 1 and x.stop < width - 1:
                found.append((row, y.start, x.start, y.stop, x.stop, area))
    boxes = np.array(found, dtype=np.int64).reshape(-1, 6)
    if not len(boxes):
        return boxes
    areas = boxes[:, 5]
    # Specks are noise; what fills a large part of the frame has no place to be pasted.
    large = 0.05 * backgrounds[int(starts[rows[0]])].size
    boxes = boxes[(areas >= max(4, 0.2 * _typical(areas))) & (areas <= large)]
    return boxes[evenly(len(boxes), MOST_OBJECTS)]


def _gather(
    read: Read,
    boxes: NDArray[np.int64],
    starts: NDArray[np.int64],
    backgrounds: dict[int, NDArray[np.float32]],
    threshold: float,
    n_moments: int,
) -> Scene:
    """Cut windows around objects, and measure them."""
    tensors = {start: torch.from_numpy(still) for start, still in backgrounds.items()}
    if not len(boxes):
        none = torch.zeros(0, 2)
        empty = torch.zeros(0, n_moments, 1, 1)
        return Scene(
            tensors, threshold, empty, empty[:, 0], none, none, none,
            torch.zeros(0, dtype=torch.bool),
        )  # fmt: skip
    tops, bottoms = boxes[:, 1:3], boxes[:, 3:5]
    spans = (bottoms - tops).astype(np.float32)
    centres = (tops + bottoms) // 2
    half = int(np.ceil(0.75 * np.quantile(spans.max(1), 0.95))) + 4
    reach = np.arange(-half, half)
    moments = np.empty((len(boxes), n_moments, 2 * half, 2 * half), np.float16)
    window_backgrounds = np.empty((len(boxes), 2 * half, 2 * half), np.float32)
    for index, row in enumerate(boxes[:, 0]):
        still = backgrounds[int(starts[row])]
        y, x = (
            np.clip(centre + reach, 0, length - 1)
            for centre, length in zip(centres[index], still.shape, strict=True)
        )
        ages = np.maximum(row - np.arange(n_moments), starts[row])
        moments[index] = read(ages)[:, y[:, None], x]
        window_backgrounds[index] = still[y[:, None], x]
    deep = boxes[:, 0] - starts[boxes[:, 0]] >= n_moments - 1
    velocities = _velocities(moments, window_backgrounds, spans, deep, threshold)
    return Scene(
        tensors,
        threshold,
        torch.from_numpy(moments),
        torch.from_numpy(window_backgrounds),
        torch.from_numpy(centres.astype(np.float32)),
        torch.from_numpy(spans / 2),
        torch.from_numpy(velocities),
        torch.from_numpy(_alone(spans, bottoms[:, 0]) & deep),
    )


def _alone(spans: NDArray[np.float32], bottoms: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell objects whose size is usual for their row of the frame (perspective)."""
    usual = np.empty_like(spans)
    near = max(2.0, 0.4 * float(np.median(spans)))
    for index, bottom in enumerate(bottoms):
        usual[index] = np.median(spans[np.abs(bottoms - bottom) <= near], axis=0)
    share = spans / usual
    slender = share[:, 0] / share[:, 1]  # two abreast are broad for their height
    typical: NDArray[np.bool_] = np.all((share > 0.6) & (share < 1.5), axis=1) & (slender > 0.7)
    return typical


def _velocities(
    moments: NDArray[np.float16],
    window_backgrounds: NDArray[np.float32],
    spans: NDArray[np.float32],
    deep: NDArray[np.bool_],
    threshold: float,
) -> NDArray[np.float32]:
    """Measure velocities (n, 2) px a frame by finding each object again in an older moment."""
    reach = max(1, round(float(np.median(spans))))

    def mask(index: int, when: int) -> NDArray[np.float32]:
        change = np.abs(moments[index, when].astype(np.float32) - window_backgrounds[index])
        opacity: NDArray[np.float32] = foreground(torch.from_numpy(change)[None, None], threshold)[
            0, 0
        ].numpy()
        return opacity

    def measure(indices: NDArray[np.int64], age: int) -> NDArray[np.float32]:
        shifts = [_find_again(mask(i, 0), mask(i, age), spans[i], reach) for i in indices]
        velocities: NDArray[np.float32] = -np.stack(shifts) / np.float32(age)
        return velocities

    velocities = np.zeros((len(moments), 2), np.float32)
    measurable = np.flatnonzero(deep)
    oldest = moments.shape[1] - 1
    if not len(measurable) or oldest == 0:
        return velocities
    # Over few frames a slow speed is rounded away; over many a fast object leaves its window.
    first = measure(measurable[evenly(len(measurable), N_SPEEDS)], min(2, oldest))
    usual = max(float(np.median(np.linalg.norm(first, axis=1))), 1e-3)
    age = int(np.clip(0.4 * reach / usual, min(2, oldest), oldest))
    velocities[measurable] = measure(measurable, age)
    return velocities


def _find_again(
    now: NDArray[np.float32], before: NDArray[np.float32], span: NDArray[np.float32], reach: int
) -> NDArray[np.float32]:
    """Return the shift (2,) at which an object's foreground fits an older one best."""
    centre = len(now) // 2
    tall, broad = (min(centre, int(side / 2) + 2) for side in span)
    template = now[centre - tall : centre + tall, centre - broad : centre + broad]
    y, x = centre - tall, centre - broad
    up, left = min(reach, y), min(reach, x)
    area = before[y - up : y + up + 2 * tall, x - left : x + left + 2 * broad]
    misfit = np.abs(sliding_window_view(area, template.shape) - template).mean((2, 3))
    best = np.unravel_index(misfit.argmin(), misfit.shape)
    return np.array([best[0] - up, best[1] - left], np.float32)
