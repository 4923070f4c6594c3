"""Read images for a model from files and folders, as the command line needs them (Sec. 3.5)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skavid.datasets.clips import list_folders, map_array, shrink
from skavid.datasets.loaders import VIDEOS
from skavid.temporal import TemporalStacker
from skavid.video.decoding import PICTURES, BrokenVideoError, list_pictures, natural
from skavid.video.frames import (
    Frame,
    count_frames,
    picture_shape,
    read_frames,
    read_pairs,
    read_sized,
    save_frames,
)
from skavid.wording import counted

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

VIDEO_HEIGHT = 120  # of UCSD Ped2, on which the defaults were measured
LONGEST_SIDE = 256
DISTORTED = 0.05  # relative change of the aspect ratio
PIECE, MOST_PIECES, LONGEST_PIECE = 100, 20, 60.0  # frames, pieces, seconds


class Reading(NamedTuple):
    """How sources are turned into images; saved with a model, so that all are read alike.

    ``size`` is (height, width), or None for arrays, which are used unchanged. ``stacking`` holds
    the parameters of a `TemporalStacker`, or None for single images.
    """

    size: tuple[int, int] | None
    color: bool
    stacking: dict[str, Any] | None

    @property
    def unit(self) -> str:
        """The word for one sample in messages."""
        return "image" if self.stacking is None else "frame"

    def describe(self) -> str:
        """Return a description for messages."""
        text = "from arrays"
        if self.size is not None:
            kind = "in colour" if self.color else "grey"
            text = f"at {self.size[0]} x {self.size[1]} pixels, {kind}"
        if self.stacking is None:
            return text
        return f"{text}, {self.stacking['n_channels']} frames stacked per image"


def check_reading(kept: Any) -> Reading:
    """Check the reading that a model file states; the file is not trusted."""
    try:
        size, color, stacking = (kept[name] for name in Reading._fields)
        is_valid = isinstance(color, bool)
        if size is not None:
            is_valid &= all(type(side) is int and 1 <= side <= 2**15 for side in size)
            height, width = size
            size = height, width
        if stacking is not None:
            is_valid &= set(stacking) == {"n_channels", "spacing", "average"}
            TemporalStacker(**stacking).stream()
            is_valid &= stacking["n_channels"] * stacking["spacing"] <= 2**10
    except (KeyError, TypeError, ValueError):
        is_valid = False
    if not is_valid:
        raise ValueError(f"its entry 'reading' is not valid: {kept!r}.")
    return Reading(size, color, stacking)


class Source(NamedTuple):
    """A video, an array, or a set of pictures, which is read from beginning to end."""

    name: str
    path: Path | str
    kind: str  # "video", "array" or "pictures"
    pictures: tuple[Path, ...] = ()
    prefix: str = ""  # of the names of its pictures, if there are several sources

    def has_timestamps(self) -> bool:
        """Return whether frame times come from the file; those of pictures are assumed."""
        path = Path(self.path)
        return self.kind == "video" and path.suffix.lower() not in PICTURES and not path.is_dir()

    def file_name(self) -> str:
        """Return its name with the suffix of its file, if it is a file."""
        if self.kind == "pictures" or "://" in str(self.path) or Path(self.path).is_dir():
            return self.name
        return self.name + Path(self.path).suffix

    def name_of(self, picture: Path) -> str:
        """Return a name for one of its pictures that no other source uses."""
        return self.prefix + picture.relative_to(self.path).as_posix()

    def n_images(self) -> int | None:
        """Return the approximate number of images, or None if it is unknown."""
        if self.kind == "pictures":
            return len(self.pictures)
        if self.kind == "array":
            return len(open_array(Path(self.path)))
        return None if "://" in str(self.path) else count_frames(self.path)


class Sample(NamedTuple):
    """One image as a model takes it, and where it comes from.

    ``name`` is that of the source, or of the picture. ``display_image`` is the image in its
    original size and colours, if it was asked for and can be shown.
    """

    image: NDArray[Any]
    name: str
    index: int  # type: ignore[assignment]
    time: float | None
    display_image: NDArray[np.uint8] | None
    file_name: str = ""


def contain_video(paths: Sequence[str]) -> bool:
    """Return whether any path is a video, a folder of videos or a network address."""
    for given in paths:
        path = Path(given).expanduser()
        if "://" in given or path.suffix.lower() in VIDEOS:
            return True
        if path.is_dir() and _videos(path):
            return True
    return False


def list_sources(paths: Sequence[str], *, stacked: bool) -> list[Source]:
    """Find the sources in files and folders; ``stacked`` reads pictures as frames of a video."""
    found = [source for path in paths for source in _find(path, stacked=stacked)]
    if len(found) < 2:
        return found
    # Pictures of one folder that were given one by one share a name.
    keys = [source.path if source.kind == "pictures" else n for n, source in enumerate(found)]
    distinct = dict(zip(keys, found, strict=True))
    names = dict(zip(distinct, _unique_names(list(distinct.values())), strict=True))
    named = ((source, names[key]) for source, key in zip(found, keys, strict=True))
    return [source._replace(name=name, prefix=f"{name}/") for source, name in named]


def _unique_names(found: list[Source]) -> list[str]:
    """Give each source its own name, also on systems that ignore case.

    As many parent folders as needed are put before the name, then the suffix or a number behind.
    """
    folders = [
        () if "://" in str(source.path) else Path(source.path).absolute().parts[1:-1]
        for source in found
    ]
    suffixes = [Path(source.path).suffix.replace(".", "-") for source in found]

    def join(n_folders: int, with_suffix: bool) -> list[str]:
        return [
            "-".join([*inner[max(0, len(inner) - n_folders) :], source.name])
            + suffix * with_suffix
            for source, inner, suffix in zip(found, folders, suffixes, strict=True)
        ]

    depths = range(1 + max(map(len, folders)))
    names = max(
        (join(depth, with_suffix) for with_suffix in (False, True) for depth in depths),
        key=lambda names: len({name.lower() for name in names}),
    )
    taken, before = {name.lower() for name in names}, set()
    for index, name in enumerate(names):
        if name.lower() in before:
            numbered = (f"{name}-{number}" for number in count(2))
            names[index] = next(new for new in numbered if new.lower() not in taken)
            taken.add(names[index].lower())
        before.add(name.lower())
    return names


def _find(given: str, *, stacked: bool) -> Iterator[Source]:
    if "://" in given:
        yield Source(re.sub(r"\W+", "-", given.split("@")[-1]).strip("-"), given, "video")
        return
    path = Path(given).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no file and no folder {path}.")
    if not path.is_dir():
        suffix = path.suffix.lower()
        if suffix == ".npy":
            yield Source(path.stem, path, "array")
        elif suffix in PICTURES and not stacked:
            yield Source(path.absolute().parent.name, path.parent, "pictures", (path,))
        else:
            yield Source(path.stem, path, "video")
        return
    videos = _videos(path)
    if videos:
        yield from (Source(video.stem, video, "video") for video in videos)
    elif stacked:
        folders = [folder for folder in list_folders(path) if list_pictures(folder)]
        for folder in folders or [path]:
            if not list_pictures(folder):
                raise ValueError(f"{path} contains no video, no folder of images and no image.")
            yield Source(folder.resolve().name, folder, "video")
    else:
        pictures = tuple(_all_pictures(path))
        if not pictures:
            raise ValueError(f"{path} contains no image ({', '.join(sorted(PICTURES))}).")
        yield Source(path.resolve().name, path, "pictures", pictures)


def _videos(folder: Path) -> list[Path]:
    found = (p for p in folder.glob("[!.]*") if p.is_file() and p.suffix.lower() in VIDEOS)
    return sorted(found, key=natural)


def _all_pictures(folder: Path) -> Iterator[Path]:
    yield from list_pictures(folder)
    for inner in list_folders(folder):
        yield from _all_pictures(inner)


def stacking(spacing: int | None) -> dict[str, Any] | None:
    """Return the parameters of the `TemporalStacker` (Sec. 3.5); None takes single images."""
    return None if spacing is None else {"n_channels": 3, "spacing": spacing, "average": True}


def choose_reading(
    found: Sequence[Source], *, size: tuple[int, int] | None, grey: bool, spacing: int | None
) -> Reading:
    """Choose how to read the sources to train on; ``spacing=None`` takes single images."""
    stack = stacking(spacing)
    arrays = [source for source in found if source.kind == "array"]
    if arrays:
        if len(arrays) < len(found):
            raise ValueError(
                f"{arrays[0].path} is an array, which is used unchanged, but other sources are "
                "images or videos; give one kind of source."
            )
        if size is not None or grey:
            raise ValueError(
                f"{arrays[0].path} is an array, which is used unchanged; leave out --size and "
                "--grey."
            )
        return Reading(None, False, stack)
    first = found[0]
    example = first.pictures[0] if first.kind == "pictures" else first.path
    frame, display_image = next(read_pairs(example))
    height, width = frame.image.shape
    if size is None:
        limit = VIDEO_HEIGHT / height if stack else LONGEST_SIDE / max(height, width)
        scale = min(1.0, limit)
        size = (max(1, round(scale * height)), max(1, round(scale * width)))
    has_color = bool((display_image != display_image[..., :1]).any())
    return Reading(size, has_color and not grey and stack is None, stack)


def read_source(source: Source, reading: Reading, *, display: bool = False) -> Iterator[Sample]:
    """Read a source image by image; damaged frames are left out, with a warning.

    ``display`` also returns each image in its original size and colours.
    """
    read = {"array": _read_array, "pictures": _read_pictures, "video": _read_video}[source.kind]
    stacker = None if reading.stacking is None else TemporalStacker(**reading.stacking)
    stream = None if stacker is None else stacker.stream()
    file_name = source.file_name()
    n_read = 0
    try:
        for sample in read(source, reading, display):
            yield sample._replace(
                image=sample.image if stream is None else stream.push(sample.image),
                file_name=sample.name if source.kind == "pictures" else file_name,
            )
            n_read += 1
    except BrokenVideoError as error:
        if n_read == 0:
            raise
        warnings.warn(str(error), stacklevel=2)


def _read_array(source: Source, reading: Reading, display: bool) -> Iterator[Sample]:
    path = Path(source.path)
    if reading.size is not None:
        raise ValueError(
            f"{path} is an array, but the model was trained on images of {reading.size[0]} x "
            f"{reading.size[1]} pixels; give images or a video."
        )
    array = open_array(path)
    display &= array.dtype == np.uint8 and array.shape[3:] in ((), (3,))
    for index, image in enumerate(_rows(path, array)):
        if array.dtype.kind == "f" and not np.isfinite(image).all():
            raise ValueError(
                f"{path} contains NaN or infinity in image {index}; correct or remove that image."
            )
        display_image = None
        if display:
            display_image = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        yield Sample(image, source.name, index, None, display_image)


def _rows(path: Path, array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Read an array image by image, not from its memory map.

    A memory map of a file that is truncated while it is read would end the process.
    """
    if not (isinstance(array, np.memmap) and array.flags.c_contiguous):
        yield from (np.array(image) for image in array)
        return
    with path.open("rb") as file:
        file.seek(array.offset)
        for index in range(len(array)):
            image = np.fromfile(file, array.dtype, count=array[0].size)
            if image.size < array[0].size:
                raise ValueError(
                    f"{path} was truncated while it was read, after {index} of {len(array)} "
                    "images; get a new copy."
                )
            yield image.reshape(array.shape[1:])


def open_array(path: Path) -> NDArray[Any]:
    """Map an array of images into memory, or raise an error that says what is wrong with it."""
    array = map_array(path)
    if array is None:
        with path.open("rb") as file:
            if b"'|O'" in file.read(128):  # the header's dtype
                raise ValueError(f"{path} contains Python objects; save an array of numbers.")
        raise ValueError(f"{path} is not a valid .npy file; get a new copy.")
    if array.ndim not in (3, 4) or array.dtype.kind not in "biuf" or 0 in array.shape:
        raise ValueError(
            f"{path} contains {array.dtype} of shape {array.shape}, but images are numbers of "
            "shape (n, height, width) or (n, height, width, channels)."
        )
    return array


def _read_pictures(source: Source, reading: Reading, display: bool) -> Iterator[Sample]:
    size = _size(source, reading)
    has_warned = False
    display_image: NDArray[np.uint8] | None = None
    broken = []
    for index, path in enumerate(source.pictures):
        try:
            if display:
                frame, display_image = next(read_pairs(path, size=size, color=reading.color))
                shape = display_image.shape
            else:
                frame, shape = next(read_sized(path, size=size, color=reading.color))
        except BrokenVideoError:
            broken.append(path)
            continue
        has_warned = has_warned or _warn_if_distorted(path, shape, size)
        yield Sample(frame.image, source.name_of(path), index, None, display_image)
    if broken:
        raise BrokenVideoError(
            f"{len(broken)} of {counted(len(source.pictures), 'image')} cannot be read, the "
            f"first of which is {broken[0]}; get new copies."
        )


def _read_video(source: Source, reading: Reading, display: bool) -> Iterator[Sample]:
    size = _size(source, reading)
    if "://" not in str(source.path):
        _warn_if_distorted(Path(source.path), picture_shape(Path(source.path)), size)
    frames: Iterator[tuple[Frame, NDArray[np.uint8] | None]] = (
        read_pairs(source.path, size=size, color=reading.color)
        if display
        else ((frame, None) for frame in read_frames(source.path, size=size, color=reading.color))
    )
    for frame, display_image in frames:
        yield Sample(frame.image, source.name, frame.index, frame.time, display_image)


def _size(source: Source, reading: Reading) -> tuple[int, int]:
    if reading.size is None:
        raise ValueError(
            f"{source.path} is not an array, but the model was trained on arrays; give an .npy "
            "file."
        )
    return reading.size


def _warn_if_distorted(path: Path, shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    distortion = (size[0] / shape[0]) / (size[1] / shape[1])
    # A difference of one pixel is rounding.
    tolerance = 1 + DISTORTED + 1 / min(size)
    if 1 / tolerance <= distortion <= tolerance:
        return False
    warnings.warn(
        f"{path} has {shape[0]} x {shape[1]} pixels; it is resized to the model's {size[0]} x "
        f"{size[1]} pixels, which changes its aspect ratio.",
        stacklevel=4,
    )
    return True


def load_images(
    found: Sequence[Source],
    reading: Reading,
    folder: Path,
    on_sample: Callable[[Sample], None],
) -> tuple[NDArray[Any], NDArray[np.int64], float | None]:
    """Write the images of all sources to a file in a folder, and map it into memory.

    Returns the images, the number of the source of each, and the frame rate, if videos state it.
    ``on_sample`` is called for each image.
    """
    ids: list[int] = []
    steps: list[float] = []

    def images() -> Iterator[NDArray[Any]]:
        for number, source in enumerate(found):
            before: float | None = None
            for sample in read_source(source, reading):
                ids.append(number)
                if before is not None and sample.time is not None and sample.time > before:
                    steps.append(sample.time - before)
                before = sample.time if source.has_timestamps() else None
                yield sample.image
                on_sample(sample)

    array = save_frames(folder / "images.npy", images())
    return array, np.array(ids), 1 / float(np.median(steps)) if steps else None


def split_clips(ids: NDArray[np.int64], fps: float | None) -> NDArray[np.int64]:
    """Split a few long clips into consecutive pieces, so that some can be held out.

    A piece has at least 100 frames and lasts at most one minute, if the clips allow it. There
    are 20 pieces if there are enough frames.
    """
    lengths = np.bincount(ids)
    if len(lengths) >= MOST_PIECES // 2:
        return ids
    total = len(ids)
    piece = min(
        max(PIECE, total / MOST_PIECES), max(PIECE, LONGEST_PIECE * (fps or 25)), total / 2
    )
    groups: list[NDArray[np.int64]] = []
    n_pieces = 0
    for length in lengths.tolist():
        n = max(1, round(length / max(piece, 1)))
        groups.append(n_pieces + np.arange(length) * n // length)
        n_pieces += n
    return np.concatenate(groups)


def read_ignore_mask(
    path: Path, size: tuple[int, int], example: Source | None = None
) -> NDArray[np.bool_]:
    """Read an image of pixels to ignore, drawn over an image of ``example``.

    It is resized to ``size``: a pixel is ignored if any pixel that it covers is.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no image {path} of pixels to ignore.")
    if path.suffix.lower() not in PICTURES:
        raise ValueError(f"--ignore must be an image, such as mask.png. Got {path}.")
    drawn: NDArray[np.bool_] = next(read_frames(path)).image > 0
    shape: tuple[int, ...] = size
    if example is not None and drawn.shape != size and "://" not in str(example.path):
        if example.kind == "array":
            shape = open_array(Path(example.path)).shape[1:3]
        else:
            picture = example.pictures[0] if example.kind == "pictures" else Path(example.path)
            shape = picture_shape(picture)
    if drawn.shape != tuple(shape[:2]):
        raise ValueError(
            f"{path} has {drawn.shape[0]} x {drawn.shape[1]} pixels, but the images have "
            f"{shape[0]} x {shape[1]}; draw it over one of them."
        )
    ignored = shrink(drawn, shape[:2], size, path)
    if ignored.all():
        raise ValueError(f"{path} ignores every pixel; paint black the pixels to keep.")
    return ignored
