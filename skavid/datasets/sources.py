"""From files and folders to the images that a model looks at: a command's way in (Sec. 3.5)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
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
SQUEEZED = 0.05
PIECE, MOST_PIECES, LONGEST_PIECE = 100, 20, 60.0  # frames, pieces, seconds


class Reading(NamedTuple):
    """How sources become images; a model keeps it, so that all of them are read alike.

    ``size`` is (height, width), None for arrays, which are taken as they are. ``stacking`` holds
    the parameters of a `TemporalStacker`, or None for single images.
    """

    size: tuple[int, int] | None
    color: bool
    stacking: dict[str, Any] | None

    @property
    def unit(self) -> str:
        """What is counted: images, or the frames of videos."""
        return "image" if self.stacking is None else "frame"

    def describe(self) -> str:
        """Say it in words."""
        text = "given as arrays"
        if self.size is not None:
            kind = "in colour" if self.color else "grey"
            text = f"at {self.size[0]} x {self.size[1]} pixels, {kind}"
        if self.stacking is None:
            return text
        return f"{text}, {self.stacking['n_channels']} moments of a video in each image"


def check_reading(kept: Any) -> Reading:
    """Check what a model's file says of its reading; the file is not trusted."""
    try:
        size, color, stacking = (kept[name] for name in Reading._fields)
        assert isinstance(color, bool)
        if size is not None:
            assert len(size) == 2
            assert all(type(side) is int and 1 <= side <= 2**15 for side in size)
            size = (int(size[0]), int(size[1]))
        if stacking is not None:
            assert set(stacking) == {"n_channels", "spacing", "average"}
            TemporalStacker(**stacking).stream()
            assert stacking["n_channels"] * stacking["spacing"] <= 2**10
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"it says that it reads sources by {kept!r}; it was changed.") from error
    return Reading(size, color, stacking)


class Clip(NamedTuple):
    """What is read from its beginning to its end: a video, an array, or a set of pictures."""

    name: str
    path: Path | str
    kind: str  # "video", "array" or "pictures"
    pictures: tuple[Path, ...] = ()
    prefix: str = ""  # of the names of pictures, where there are several sets

    def has_clock(self) -> bool:
        """Tell whether its times are known, not assumed, as those of pictures are."""
        path = Path(self.path)
        return self.kind == "video" and path.suffix.lower() not in PICTURES and not path.is_dir()

    def file_name(self) -> str:
        """Name it as its file is named, where it is one."""
        if self.kind == "pictures" or "://" in str(self.path) or Path(self.path).is_dir():
            return self.name
        return self.name + Path(self.path).suffix

    def name_of(self, picture: Path) -> str:
        """Name one of its pictures, as no other clip's is named."""
        return self.prefix + picture.relative_to(self.path).as_posix()

    def n_images(self) -> int | None:
        """Tell about how many images it has."""
        if self.kind == "pictures":
            return len(self.pictures)
        if self.kind == "array":
            return len(open_array(Path(self.path)))
        return None if "://" in str(self.path) else count_frames(self.path)


class Look(NamedTuple):
    """One image for a model, and the picture behind it for people, where there is one."""

    image: NDArray[Any]
    name: str
    index: int  # type: ignore[assignment]
    time: float | None
    whole: NDArray[np.uint8] | None
    file: str = ""


def is_video(sources: Sequence[str]) -> bool:
    """Tell whether sources are videos by what they are; pictures and arrays are not."""
    for source in sources:
        path = Path(source).expanduser()
        if "://" in source or path.suffix.lower() in VIDEOS:
            return True
        if path.is_dir() and _videos(path):
            return True
    return False


def list_clips(sources: Sequence[str], *, stacked: bool) -> list[Clip]:
    """Find the clips in sources, or, for single images, the pictures."""
    clips = [clip for source in sources for clip in _clips(source, stacked=stacked)]
    if len(clips) < 2:
        return clips
    # Pictures of one folder that were given one by one are one set.
    keys = [clip.path if clip.kind == "pictures" else n for n, clip in enumerate(clips)]
    sets = dict(zip(keys, clips, strict=True))
    names = dict(zip(sets, _names(list(sets.values())), strict=True))
    named = ((clip, names[key]) for clip, key in zip(clips, keys, strict=True))
    return [clip._replace(name=name, prefix=f"{name}/") for clip, name in named]


def _names(clips: list[Clip]) -> list[str]:
    """Give clips names of their own, for systems that take A for a, too.

    Each gets what it takes: the folders that it is in, its ending, a number.
    """
    folders = [
        () if "://" in str(clip.path) else Path(clip.path).absolute().parts[1:-1] for clip in clips
    ]
    endings = [Path(clip.path).suffix.replace(".", "-") for clip in clips]

    def spelled(n_folders: int, with_ending: bool) -> list[str]:
        return [
            "-".join([*inner[max(0, len(inner) - n_folders) :], clip.name]) + ending * with_ending
            for clip, inner, ending in zip(clips, folders, endings, strict=True)
        ]

    depths = range(1 + max(map(len, folders)))
    names = max(
        (spelled(depth, with_ending) for with_ending in (False, True) for depth in depths),
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


def _clips(source: str, *, stacked: bool) -> Iterator[Clip]:
    if "://" in source:
        yield Clip(re.sub(r"\W+", "-", source.split("@")[-1]).strip("-"), source, "video")
        return
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no file and no folder {path}.")
    if not path.is_dir():
        suffix = path.suffix.lower()
        if suffix == ".npy":
            yield Clip(path.stem, path, "array")
        elif suffix in PICTURES and not stacked:
            yield Clip(path.absolute().parent.name, path.parent, "pictures", (path,))
        else:
            yield Clip(path.stem, path, "video")
        return
    videos = _videos(path)
    if videos:
        yield from (Clip(video.stem, video, "video") for video in videos)
    elif stacked:
        folders = [folder for folder in list_folders(path) if list_pictures(folder)]
        for folder in folders or [path]:
            if list_pictures(folder):
                yield Clip(folder.resolve().name, folder, "video")
                continue
            raise ValueError(f"{path} holds no video, no folder of pictures and no picture.")
    else:
        pictures = tuple(_all_pictures(path))
        if not pictures:
            raise ValueError(f"{path} holds no picture ({', '.join(sorted(PICTURES))}).")
        yield Clip(path.resolve().name, path, "pictures", pictures)


def _videos(folder: Path) -> list[Path]:
    found = (p for p in folder.glob("[!.]*") if p.is_file() and p.suffix.lower() in VIDEOS)
    return sorted(found, key=natural)


def _all_pictures(folder: Path) -> Iterator[Path]:
    yield from list_pictures(folder)
    for inner in list_folders(folder):
        yield from _all_pictures(inner)


def stacking(spacing: int | None) -> dict[str, Any] | None:
    """Tell how frames are stacked (Sec. 3.5), where they are."""
    return None if spacing is None else {"n_channels": 3, "spacing": spacing, "average": True}


def choose_reading(
    clips: Sequence[Clip], *, size: tuple[int, int] | None, grey: bool, spacing: int | None
) -> Reading:
    """Choose how to read sources to train on; `spacing` stacks frames, None takes images."""
    stack = stacking(spacing)
    arrays = [clip for clip in clips if clip.kind == "array"]
    if arrays:
        if len(arrays) < len(clips):
            raise ValueError(
                f"{arrays[0].path} is an array, which is taken as it is, but other sources are "
                "pictures or videos; give one kind of source."
            )
        if size is not None or grey:
            raise ValueError(
                f"{arrays[0].path} is an array, which is taken as it is; leave out --size and "
                "--grey."
            )
        return Reading(None, False, stack)
    first = clips[0]
    example = first.pictures[0] if first.kind == "pictures" else first.path
    frame, whole = next(read_pairs(example))
    height, width = frame.image.shape
    if size is None:
        limit = VIDEO_HEIGHT / height if stack else LONGEST_SIDE / max(height, width)
        share = min(1.0, limit)
        size = (max(1, round(share * height)), max(1, round(share * width)))
    colourful = bool((whole != whole[..., :1]).any())
    return Reading(size, colourful and not grey and stack is None, stack)


def read_clip(clip: Clip, reading: Reading, *, whole: bool = False) -> Iterator[Look]:
    """Read a clip, image by image; what is broken is left out, with a warning."""
    frames = _read_array if clip.kind == "array" else _read_pictures
    if clip.kind == "video":
        frames = _read_video
    stacker = None if reading.stacking is None else TemporalStacker(**reading.stacking)
    stream = None if stacker is None else stacker.stream()
    file_name = clip.file_name()
    n_given = 0
    try:
        for look in frames(clip, reading, whole):
            image = look.image if stream is None else stream.push(look.image)
            file = look.name if clip.kind == "pictures" else file_name
            yield look._replace(image=image, file=file)
            n_given += 1
    except BrokenVideoError as error:
        if n_given == 0:
            raise
        warnings.warn(str(error), stacklevel=2)


def _read_array(clip: Clip, reading: Reading, whole: bool) -> Iterator[Look]:
    path = Path(clip.path)
    if reading.size is not None:
        raise ValueError(
            f"{path} is an array, but the model was trained on pictures of {reading.size[0]} x "
            f"{reading.size[1]} pixels; give pictures or a video."
        )
    array = open_array(path)
    shown = array.dtype == np.uint8 and array.shape[3:] in ((), (3,))
    for index, picture in enumerate(_rows(path, array)):
        if array.dtype.kind == "f" and not np.isfinite(picture).all():
            raise ValueError(
                f"{path} holds NaN or infinity in image {index}; mend it or leave it out."
            )
        people = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
        yield Look(picture, clip.name, index, None, people if whole and shown else None)


def _rows(path: Path, array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Read an array image by image: a map of a file that is cut off meanwhile ends the process."""
    if not (isinstance(array, np.memmap) and array.flags.c_contiguous):
        yield from (np.array(image) for image in array)
        return
    with path.open("rb") as file:
        file.seek(array.offset)
        for index in range(len(array)):
            image = np.fromfile(file, array.dtype, count=array[0].size)
            if image.size < array[0].size:
                raise ValueError(
                    f"{path} was cut off while it was read, after {index} of {len(array)} images; "
                    "get a new copy."
                )
            yield image.reshape(array.shape[1:])


def open_array(path: Path) -> NDArray[Any]:
    """Map an array of images, or say what is wrong with it."""
    array = map_array(path)
    if array is None:
        with path.open("rb") as file:
            if b"'|O'" in file.read(128):  # the header's dtype
                raise ValueError(
                    f"{path} holds Python objects, not numbers; save an array of these."
                )
        raise ValueError(f"{path} is no array that NumPy wrote; get a new copy.")
    if array.ndim not in (3, 4) or array.dtype.kind not in "biuf" or 0 in array.shape:
        raise ValueError(
            f"{path} holds {array.dtype} of shape {array.shape}, but images are numbers of shape "
            "(n, height, width) or (n, height, width, channels)."
        )
    return array


def _read_pictures(clip: Clip, reading: Reading, whole: bool) -> Iterator[Look]:
    size = _sized(clip, reading)
    told = False
    people: NDArray[np.uint8] | None = None
    broken = []
    for index, path in enumerate(clip.pictures):
        try:
            if whole:
                frame, people = next(read_pairs(path, size=size, color=reading.color))
                shape = people.shape
            else:
                frame, shape = next(read_sized(path, size=size, color=reading.color))
        except BrokenVideoError:
            broken.append(path)
            continue
        told = told or _warn_if_squeezed(path, shape, size)
        yield Look(frame.image, clip.name_of(path), index, None, people)
    if broken:
        raise BrokenVideoError(
            f"{len(broken)} of {counted(len(clip.pictures), 'picture')} cannot be read, "
            f"{broken[0]} is the first; get them anew."
        )


def _read_video(clip: Clip, reading: Reading, whole: bool) -> Iterator[Look]:
    size = _sized(clip, reading)
    if "://" not in str(clip.path):
        _warn_if_squeezed(Path(clip.path), picture_shape(Path(clip.path)), size)
    if whole:
        for frame, people in read_pairs(clip.path, size=size, color=reading.color):
            yield Look(frame.image, clip.name, frame.index, frame.time, people)
    else:
        frames: Iterator[Frame] = read_frames(clip.path, size=size, color=reading.color)
        for frame in frames:
            yield Look(frame.image, clip.name, frame.index, frame.time, None)


def _sized(clip: Clip, reading: Reading) -> tuple[int, int]:
    if reading.size is None:
        raise ValueError(
            f"{clip.path} is no array, but the model was trained on arrays; give an .npy file."
        )
    return reading.size


def _warn_if_squeezed(path: Path, shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    squeeze = (size[0] / shape[0]) / (size[1] / shape[1])
    # A pixel more or less is rounding.
    tolerance = 1 + SQUEEZED + 1 / min(size)
    if 1 / tolerance <= squeeze <= tolerance:
        return False
    warnings.warn(
        f"{path} has {shape[0]} x {shape[1]} pixels, and is squeezed into the {size[0]} x "
        f"{size[1]} that the model looks at.",
        stacklevel=4,
    )
    return True


def load(
    clips: Sequence[Clip], reading: Reading, folder: Path, looks: Any = iter
) -> tuple[NDArray[Any], NDArray[np.int64], float | None]:
    """Write the images of all clips to a file in a folder, and map it into memory.

    Returns them with the number of the clip of each, and the frames a second, if videos tell.
    ``looks`` may wrap the iterator, to show how far it is.
    """
    ids: list[int] = []
    steps: list[float] = []

    def images() -> Iterator[NDArray[Any]]:
        for number, clip in enumerate(clips):
            before: float | None = None
            for look in looks(read_clip(clip, reading)):
                ids.append(number)
                if before is not None and look.time is not None and look.time > before:
                    steps.append(look.time - before)
                before = look.time if clip.has_clock() else None
                yield look.image

    array = save_frames(folder / "images.npy", images())
    return array, np.array(ids), 1 / float(np.median(steps)) if steps else None


def cut(ids: NDArray[np.int64], fps: float | None) -> NDArray[np.int64]:
    """Cut few long clips into pieces that follow each other, so that some can be held out.

    A piece has 100 frames or more and at most a minute where the clips allow it; there are 20 of
    them where there are frames enough.
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


def read_ignore(
    path: Path, size: tuple[int, int], example: Clip | None = None
) -> NDArray[np.bool_]:
    """Read a picture of pixels that do not count, drawn over a picture of ``example``.

    It is brought to ``size``: a pixel does not count where any below it does not.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no picture {path} of pixels to ignore.")
    if path.suffix.lower() not in PICTURES:
        raise ValueError(f"--ignore takes a picture, such as mask.png, but {path} is none.")
    drawn: NDArray[np.bool_] = next(read_frames(path)).image > 0
    whole: tuple[int, ...] = size
    if example is not None and drawn.shape != size and "://" not in str(example.path):
        if example.kind == "array":
            whole = open_array(Path(example.path)).shape[1:3]
        else:
            source = example.pictures[0] if example.kind == "pictures" else Path(example.path)
            whole = picture_shape(source)
    if drawn.shape != tuple(whole[:2]):
        raise ValueError(
            f"{path} has {drawn.shape[0]} x {drawn.shape[1]} pixels, but the pictures have "
            f"{whole[0]} x {whole[1]}; draw it over one of them."
        )
    ignored = shrink(drawn, whole[:2], size, path)
    if ignored.all():
        raise ValueError(f"{path} leaves no pixel that counts; paint black what counts.")
    return ignored
