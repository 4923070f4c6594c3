"""Ground truth, clips and names of the images in a report, checked against the images."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skavid.core.scene import clip_begins, clip_starts
from skavid.wording import counted, visible

__all__: list[str] = []  # for the report alone


class Given(NamedTuple):
    """Ground truth, clips and names of the images."""

    labels: NDArray[Any] | None
    masks: NDArray[Any] | None
    groups: NDArray[Any] | None
    clips: list[str]  # name of the clip of each image
    names: list[str]
    frame_rate: float | None
    kinds: list[str] | None = None
    boxes: NDArray[Any] | None = None  # left, top, width and height in the original

    @property
    def kind(self) -> str:
        """The word for one of the images: image, or frame of a clip."""
        return "image" if self.groups is None else "frame"


def check_given(
    images: NDArray[Any],
    y: Any,
    masks: Any,
    groups: Any,
    names: Any,
    frame_rate: float | None,
    ignored: NDArray[np.bool_] | None,
    kinds: Any = None,
    boxes: Any = None,
) -> Given:
    """Check all that is given beside the images; fill in labels from masks, and names."""
    n = len(images)
    marks = None if masks is None else _check_masks(masks, images.shape[:3])
    labels = None if y is None else _check_length("y", y, n)
    if labels is not None and not np.isin(labels, (-1, 1)).all():
        raise ValueError(
            "y must hold 1 (normal) and -1 (irregular). Got "
            f"{np.unique(labels)[:5].tolist()}; convert labels 0 and 1 by "
            "np.where(y == 0, 1, -1)."
        )
    if marks is not None:
        labels = _label(labels, marks, ignored)
    clips = None if groups is None else _check_length("groups", groups, n)
    if clips is not None:
        clip_begins(clips)
    elif frame_rate is not None:
        raise ValueError(
            f"frame_rate={frame_rate:g} needs groups to time frames in their clips; give groups, "
            "or zeros for a single clip."
        )
    clip_names = [] if clips is None else _name_clips(clips)
    image_names = _name_images(names, clips, clip_names, n)
    named = None
    if kinds is not None:
        named = [visible(kind) for kind in _check_length("kinds", kinds, n).tolist()]
    places = None if boxes is None else np.asarray(boxes, dtype=float)
    if places is not None and (places.shape != (n, 4) or not (places[:, 2:] > 0).all()):
        raise ValueError(
            f"boxes must hold left, top, width and height of each of {counted(n, 'image')}, in "
            f"pixels. Got the shape {places.shape}."
        )
    return Given(labels, marks, clips, clip_names, image_names, frame_rate, named, places)


def _name_clips(clips: NDArray[Any]) -> list[str]:
    """Return the name of each image's clip, unique among the clips."""
    names = [visible(clip) for clip in clips.tolist()]
    starts = clip_begins(clips)
    if len(set(names)) < len(starts):
        numbers = np.searchsorted(starts, np.arange(len(clips)), side="right")
        names = [f"{name} ({number})" for name, number in zip(names, numbers, strict=True)]
    return names


def _name_images(
    names: Any, clips: NDArray[Any] | None, clip_names: list[str], n: int
) -> list[str]:
    """Return the given names, or number the images, within clips where there are any."""
    if names is not None:
        if isinstance(names, str) or len(names) != n:
            found = "one string" if isinstance(names, str) else counted(len(names), "name")
            raise ValueError(
                f"names holds {found}, but X has {counted(n, 'image')}; give one name per image."
            )
        return [visible(name) for name in names]
    if clips is None:
        return [f"image {row}" for row in range(n)]
    frames = frame_numbers(clips)
    return [f"{clip}, frame {frame}" for clip, frame in zip(clip_names, frames, strict=True)]


def frame_numbers(clips: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number of each frame in its clip, from 0."""
    n = len(clips)
    return np.arange(n) - clip_starts(n, clips)


def _label(
    labels: NDArray[Any] | None, masks: NDArray[Any], ignored: NDArray[np.bool_] | None
) -> NDArray[np.int64]:
    """Derive labels from the masks; labels that were given must agree with them."""
    marked = np.array([one.any() for one in masks])
    if labels is not None and len(apart := np.flatnonzero(marked != (labels == -1))):
        said, masked = ("normal", "irregular") if marked[apart[0]] else ("irregular", "normal")
        raise ValueError(
            f"y and masks disagree about {len(apart)} of {len(masks)} images: y says image "
            f"{apart[0]} is {said}, its mask {masked}; leave y out to go by the masks."
        )
    if ignored is not None:
        marked = np.array([one[~ignored].any() for one in masks])
    return np.where(marked, -1, 1)


def _check_length(name: str, array: Any, n: int) -> NDArray[Any]:
    checked: NDArray[Any] = np.asarray(array)
    if checked.shape != (n,):
        raise ValueError(
            f"{name} has the shape {checked.shape}, but X has {counted(n, 'image')}; give one "
            "value per image."
        )
    return checked


def _check_masks(masks: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    checked: NDArray[Any] = np.asanyarray(masks)
    if checked.shape != shape:
        raise ValueError(
            f"masks has the shape {checked.shape}, but X holds images of {shape}; give one mask "
            "of the same size per image."
        )
    if checked.dtype != bool:
        raise ValueError(
            f"masks must be boolean, True where a pixel is irregular. Got {checked.dtype}; write "
            "masks > 0."
        )
    return checked
