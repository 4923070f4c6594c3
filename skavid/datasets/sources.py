"""Read images for a model from files and folders, as the command line needs them (Sec. 3.5)."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skavid.core.images import check_value_range
from skavid.datasets.clips import map_array, shrink, walk_folders, warn_of_lossy
from skavid.temporal import TemporalStacker
from skavid.video.decoding import BrokenVideoError, is_picture, is_text, is_video
from skavid.video.frames import (
    Frame,
    count_frames,
    picture_shape,
    read_frames,
    read_pairs,
    read_sized,
    save_frames,
)
from skavid.video.pictures import (
    PICTURES,
    Range,
    convert,
    count_pages,
    cut,
    describe_range,
    find_range,
    import_pillow,
    is_animation,
    list_pictures,
    natural,
    normalized,
    page_shapes,
    read_marks,
    spread,
)
from skavid.wording import counted, listed, pixels_of, readable

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

VIDEO_HEIGHT = 120  # of UCSD Ped2, on which the defaults were measured
LONGEST_SIDE = 256
ASSUMED_FPS = 25.0  # of pictures that are frames of a video
SMALLEST_VISIBLE = 3  # pixels of a reduced image
DISTORTED = 0.05  # relative change of the aspect ratio
MOST_MEASURED = 300  # images whose sizes decide about that of the model
PIECE, MOST_PIECES, LONGEST_PIECE = 100, 20, 60.0  # frames, pieces, seconds


Box = tuple[int, int, int, int]  # left, top, width and height, in pixels


class Reading(NamedTuple):
    """How sources are turned into images; saved with a model, so that all are read alike.

    ``size`` is (height, width), or None for arrays, which are used unchanged. ``stacking`` holds
    the parameters of a `TemporalStacker`, or None for single images. ``value_range`` holds the
    values of images of more than 8 bits that become black and white; None if there were none.
    ``crop`` is the box of each original that is used, None for all of it. With ``normalize`` each
    image is brought to one mean and spread. With ``tiled`` images are read in their own size, and
    cut into tiles of ``size``.
    """

    size: tuple[int, int] | None
    color: bool
    stacking: dict[str, Any] | None
    value_range: Range | None = None
    crop: Box | None = None
    normalize: bool = False
    tiled: bool = False

    @property
    def decoded_size(self) -> tuple[int, int] | None:
        """The size to decode images in; None, that of the original, if they are cut."""
        return None if self.crop is not None or self.tiled else self.size

    def prepare(self, image: NDArray[np.uint8], name: Any) -> NDArray[np.uint8]:
        """Crop, resize and normalise a decoded image, as the model was trained."""
        if self.crop is not None:
            assert self.size is not None
            cropped = import_pillow().fromarray(np.ascontiguousarray(cut(image, self.crop, name)))
            image = convert(cropped, None if self.tiled else self.size, self.color)
        return normalized(image) if self.normalize else image

    @property
    def unit(self) -> str:
        """The word for one sample in messages."""
        return "image" if self.stacking is None else "frame"

    def describe(self) -> str:
        """Return a description for messages."""
        text = "from arrays"
        if self.size is not None:
            kind = "in colour" if self.color else "grey"
            how = "in tiles of" if self.tiled else "at"
            text = f"{how} {pixels_of(self.size)} (width x height), {kind}"
        if self.crop is not None:
            left, top, width, height = self.crop
            text += f", cropped to {width} x {height} pixels from column {left} and row {top} on"
        if self.normalize:
            text += ", each brought to one mean and spread"
        if self.stacking is None:
            return text
        return f"{text}, {self.stacking['n_channels']} frames stacked per image"


def check_reading(kept: Any) -> Reading:
    """Check the reading that a model file states; the file is not trusted."""
    try:
        size, color, stacking = (kept[name] for name in Reading._fields[:3])
        value_range = kept.get("value_range")  # files of 0.1.0 have none
        is_valid = isinstance(color, bool)
        if value_range is not None:
            value_range = check_value_range(value_range)
        if size is not None:
            is_valid &= all(type(side) is int and 1 <= side <= 2**15 for side in size)
            height, width = size
            size = height, width
        crop, normalize = kept.get("crop"), kept.get("normalize", False)
        tiled = kept.get("tiled", False)
        is_valid &= isinstance(normalize, bool) and isinstance(tiled, bool)
        is_valid &= not tiled or (size is not None and stacking is None)
        if crop is not None:
            left, top, wide, high = crop
            is_valid &= all(type(side) is int and 0 <= side <= 2**15 for side in crop)
            is_valid &= size is not None and wide > 0 and high > 0
            crop = left, top, wide, high
        if stacking is not None:
            is_valid &= set(stacking) == {"n_channels", "spacing", "average"}
            TemporalStacker(**stacking).stream()
            is_valid &= stacking["n_channels"] * stacking["spacing"] <= 2**10
    except (AttributeError, KeyError, TypeError, ValueError):
        is_valid = False
    if not is_valid:
        raise ValueError(f"its entry 'reading' is not valid: {kept!r}.")
    return Reading(size, color, stacking, value_range, crop, normalize, tiled)


class Source(NamedTuple):
    """A video, an array, or a set of pictures, which is read from beginning to end."""

    name: str
    path: Path | str
    kind: str  # "video", "array" or "pictures"
    pictures: tuple[Path, ...] = ()
    prefix: str = ""  # of the names of its pictures, if there are several sources
    fps: float | None = None  # of pictures that are frames of a video, if it was given
    n_pages: tuple[int, ...] = ()  # of each of its pictures

    def has_timestamps(self) -> bool:
        """Return whether frame times come from the file; those of pictures are assumed."""
        path = Path(self.path)
        if self.kind != "video" or self.fps is not None:
            return self.kind == "video"
        if "://" in str(self.path):
            return True
        return not path.is_dir() and (is_animation(path) or not is_picture(path))

    def file_name(self) -> str:
        """Return its name with the suffix of its file, if it is a file."""
        if self.kind == "pictures" or "://" in str(self.path) or Path(self.path).is_dir():
            return self.name
        return self.name + readable(Path(self.path).suffix)

    def images(self) -> Iterator[tuple[Path, int | None]]:
        """Yield the file of each picture, and its page if the file holds several."""
        for path, n in zip(self.pictures, self.n_pages, strict=True):
            yield from ((path, page if n > 1 else None) for page in range(n))

    def name_of(self, picture: Path, page: int | None = None) -> str:
        """Return a name for one of its pictures that no other source uses: ``a/b.tif[17]``."""
        name = readable(picture.relative_to(self.path).as_posix())
        return self.prefix + name + ("" if page is None else f"[{page}]")

    def n_images(self) -> int | None:
        """Return the approximate number of images, or None if it is unknown."""
        if self.kind == "pictures":
            return sum(self.n_pages)
        if self.kind == "array":
            return len(open_array(Path(self.path)))
        return None if "://" in str(self.path) else count_frames(self.path)


class UnreadableWarning(UserWarning):
    """Images that cannot be read and were left out; ``names`` holds their names."""

    def __init__(self, names: list[str], total: int) -> None:
        super().__init__(
            f"{len(names):,} of {counted(total, 'image')} cannot be read: {listed(names)}; get "
            "new copies."
        )
        self.names = names


def check_any(n: int, found: Sequence[Source]) -> None:
    """Raise an error if no image of any source could be read."""
    if n == 0:
        raise ValueError(
            f"none of the images in {listed([str(s.path) for s in found])} can be read."
        )


class Sample(NamedTuple):
    """One image as a model takes it, and where it comes from.

    ``name`` is that of the source, or of the picture. ``display_image`` is the image in its
    original size and colours, if it was asked for and can be shown. ``box`` is the place of the
    image in its original: left, top, width and height; None for arrays.
    """

    image: NDArray[Any]
    name: str
    index: int  # type: ignore[assignment]
    time: float | None
    display_image: NDArray[np.uint8] | None
    file_name: str = ""
    box: Box | None = None


def contain_video(paths: Sequence[str]) -> bool:
    """Return whether any path is a video, a folder with videos or a network address."""
    for given in paths:
        path = Path(given).expanduser()
        if "://" in given or (path.is_file() and is_video(path)):
            return True
        if path.is_dir() and any(is_video(file) for file in _files(path)):
            return True
    return False


def list_sources(paths: Sequence[str], *, stacked: bool, fps: float | None = None) -> list[Source]:
    """Find the sources in files and folders; ``stacked`` reads pictures as frames of a video.

    ``fps`` is the frame rate of such pictures, 25 if it is None.
    """
    found = _merged([source for path in paths for source in _find(path, stacked=stacked)])
    if fps is not None:
        found = [
            source._replace(fps=None if source.has_timestamps() else fps)
            if source.kind == "video"
            else source
            for source in found
        ]
    if len(found) < 2:
        return found
    named = zip(found, _unique_names(found), strict=True)
    return [source._replace(name=name, prefix=f"{name}/") for source, name in named]


def _merged(found: list[Source]) -> list[Source]:
    """Make one source of the pictures of a folder that were given one by one."""
    merged: dict[Any, Source] = {}
    for number, source in enumerate(found):
        key = source.path if source.kind == "pictures" else number
        if (first := merged.get(key)) is not None:
            source = first._replace(
                pictures=first.pictures + source.pictures, n_pages=first.n_pages + source.n_pages
            )
        merged[key] = source
    return list(merged.values())


def _unique_names(found: list[Source]) -> list[str]:
    """Give each source its own name, also on systems that ignore case.

    As many parent folders as needed are put before the name, then the suffix or a number behind.
    """
    folders = [
        () if "://" in str(source.path) else _parents(Path(source.path)) for source in found
    ]
    suffixes = [readable(Path(source.path).suffix.replace(".", "-")) for source in found]

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
    if not given:
        raise ValueError(
            "a source is an empty text; give a file or a folder, such as . for this one."
        )
    path = Path(given).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no file and no folder {path}.")
    if path.is_fifo():
        raise ValueError(
            f"{path} is a named pipe, which can be read only once; give a file or a folder."
        )
    if not path.is_dir():
        if path.suffix.lower() == ".npy":
            yield Source(readable(path.stem), path, "array")
        elif not stacked and is_picture(path) and not is_video(path):
            yield _pictures(path.absolute().parent.name, path.parent, [path])
        elif is_text(path):
            raise ValueError(
                f"{path} is a text file; give an image, a video, an array (.npy) or a folder of "
                "these."
            )
        else:
            yield Source(readable(path.stem), path, "video")
        return
    files = list(_files(path))
    videos = [file for file in files if is_video(file)]
    pictures = [
        file for file in files if file.suffix.lower() in PICTURES and file not in set(videos)
    ]
    if not videos and not pictures:
        arrays = [file.name for file in files if file.suffix.lower() == ".npy"]
        hint = f"; give an array such as {arrays[0]} by its own path" if arrays else ""
        raise ValueError(
            f"{path} contains no video, no folder of images and no image "
            f"({', '.join(sorted(PICTURES))}){hint}."
        )
    yield from (Source(readable(video.stem), video, "video") for video in videos)
    if stacked and videos and pictures:
        warnings.warn(
            f"{path} contains {counted(len(videos), 'video')}, and "
            f"{counted(len(pictures), 'image')} such as {pictures[0].relative_to(path)}; only "
            "videos are read.",
            stacklevel=4,
        )
    elif stacked:
        for folder in dict.fromkeys(file.parent for file in pictures):
            yield Source(readable(folder.resolve().name), folder, "video")
    elif pictures:
        yield _pictures(path.resolve().name, path, pictures)


def _pictures(name: str, folder: Path, paths: list[Path]) -> Source:
    n_pages = tuple(map(count_pages, paths))
    return Source(readable(name), folder, "pictures", tuple(paths), n_pages=n_pages)


def _files(root: Path) -> Iterator[Path]:
    """Yield the visible files in a folder and in its folders, in natural order."""
    for folder in walk_folders(root):
        yield from sorted((p for p in folder.glob("[!.]*") if p.is_file()), key=natural)


def _parents(path: Path) -> tuple[str, ...]:
    return tuple(map(readable, path.absolute().parts[1:-1]))


def stacking(spacing: int | None) -> dict[str, Any] | None:
    """Return the parameters of the `TemporalStacker` (Sec. 3.5); None takes single images."""
    return None if spacing is None else {"n_channels": 3, "spacing": spacing, "average": True}


def choose_reading(
    found: Sequence[Source],
    *,
    size: tuple[int, int] | None,
    grey: bool,
    spacing: int | None,
    long_side: int | None = None,
    crop: Box | None = None,
    normalize: bool = False,
    tiles: int | None = None,
) -> Reading:
    """Choose how to read the sources to train on; ``spacing=None`` takes single images.

    ``long_side`` is the length to which the longest side is reduced, and ``tiles`` the side of
    the tiles that images are cut into instead.
    """
    stack = stacking(spacing)
    arrays = [source for source in found if source.kind == "array"]
    if arrays:
        if len(arrays) < len(found):
            raise ValueError(
                f"{arrays[0].path} is an array, which is used unchanged, but other sources are "
                "images or videos; give one kind of source."
            )
        if any((size, grey, long_side, crop, normalize, tiles)):
            raise ValueError(
                f"{arrays[0].path} is an array, which is used unchanged; leave out --size, "
                "--long-side, --tiles, --grey, --crop and --normalize."
            )
        return Reading(None, False, stack)
    first = found[0]
    if tiles is not None:
        size = tiles, tiles
        if stack is not None or first.kind != "pictures":
            raise ValueError(
                f"--tiles cuts single images into tiles, but {first.path} is read as a video; "
                "leave out --tiles."
            )
    example = first.pictures[0] if first.kind == "pictures" else first.path
    value_range = _deep_range(found)
    if value_range is not None and value_range != (0.0, 65535.0):
        warnings.warn(
            f"The images have more than 8 bits; their values are read "
            f"{describe_range(value_range)}, here and whenever the model is used.",
            stacklevel=2,
        )
    frame, display_image = next(read_pairs(example, value_range=value_range))
    height, width = (frame.image if crop is None else cut(frame.image, crop, example)).shape
    if size is None:
        if crop is None and first.kind == "pictures":
            height, width = _usual_shape(found)
        limit = VIDEO_HEIGHT / height if stack else LONGEST_SIDE / max(height, width)
        if long_side is not None:
            limit = long_side / max(height, width)
        scale = min(1.0, limit)
        size = (max(1, round(scale * height)), max(1, round(scale * width)))
        if stack is None and long_side is None:
            _warn_if_small(scale, size, (height, width))
    has_color = False
    if not grey and stack is None:
        has_color = _has_color(display_image) or _is_any_colored(found, value_range)
    return Reading(size, has_color, stack, value_range, crop, normalize, tiles is not None)


def _usual_shape(found: Sequence[Source]) -> tuple[int, int]:
    """Return the size that most images have, else the median height and width, from headers."""
    shapes: Counter[tuple[int, int]] = Counter()
    for path in spread([path for source in found for path in source.pictures], MOST_MEASURED):
        with suppress(OSError):
            shapes[next(page_shapes(path))] += 1
    (shape, n), *_ = shapes.most_common(1)
    if 2 * n > shapes.total():
        return shape
    height, width = np.median(list(shapes.elements()), axis=0).round().astype(int).tolist()
    return height, width


def _deep_range(found: Sequence[Source]) -> Range | None:
    """Find the range of values of all images of more than 8 bits."""
    paths: list[Path] = []
    for source in found:
        path = Path(source.path)
        if source.kind == "pictures":
            paths += source.pictures
        elif source.kind == "video" and "://" not in str(source.path):
            paths += list_pictures(path) if path.is_dir() else [path] * is_picture(path)
    return find_range(paths)


def _has_color(image: NDArray[np.uint8]) -> bool:
    return bool((image != image[..., :1]).any())


def _is_any_colored(found: Sequence[Source], value_range: Range | None) -> bool:
    """Look for colours in at most 50 pictures, evenly spread, as the first one may be grey."""
    paths = [path for source in found for path in source.pictures]
    for path in spread(paths):
        try:
            _, image = next(read_pairs(path, value_range=value_range))
        except OSError:
            continue
        if _has_color(image):
            warnings.warn(
                f"{paths[0]} is grey, but {path} has colours; all images are read in colour "
                "(--grey ignores colours).",
                stacklevel=3,
            )
            return True
    return False


def _warn_if_small(scale: float, size: tuple[int, int], shape: tuple[int, int]) -> None:
    """Say how large something must be to remain visible in images that become much smaller."""
    if scale < 0.5:
        smallest = round(SMALLEST_VISIBLE / scale)
        warnings.warn(
            f"Images of {pixels_of(shape)} (width x height) are reduced to {pixels_of(size)}, so "
            f"that whatever is smaller than about {smallest} pixels can hardly be seen; "
            "--long-side N keeps more, and --tiles keeps all.",
            stacklevel=3,
        )


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
            f"{path} is an array, but the model was trained on images of "
            f"{pixels_of(reading.size)}; give images{'' if reading.tiled else ' or a video'}."
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
    read: dict[str, Any] = {"size": reading.decoded_size, "color": reading.color}
    read["value_range"] = _range_of(source, reading)
    index = n_distorted = 0
    shapes = set()
    broken = []
    for path, n in zip(source.pictures, source.n_pages, strict=True):
        try:
            frames: Iterator[tuple[Frame, Any]] = (
                read_pairs(path, **read) if display else read_sized(path, **read)
            )
            for page, (frame, own) in enumerate(frames):
                display_image = own if display else None
                shape = own.shape if display else own
                shapes.add(shape[:2])
                n_distorted += reading.decoded_size is not None and _is_distorted(shape, size)
                name = source.name_of(path, page if n > 1 else None)
                image = reading.prepare(frame.image, path)
                box = reading.crop or (0, 0, shape[1], shape[0])
                yield Sample(image, name, index + page, None, display_image, box=box)
        except BrokenVideoError:
            broken.append(source.name_of(path))
        index += n
    if n_distorted:
        _warn_of_distorted(n_distorted, sum(source.n_pages), shapes, size)
    if broken:
        warnings.warn(UnreadableWarning(broken, sum(source.n_pages)), stacklevel=3)


def _range_of(source: Source, reading: Reading) -> Range | None:
    """Return the range of values that a source is read with; tell one that is not the model's."""
    value_range = _deep_range([source])
    if value_range is None or reading.value_range is not None:
        if value_range is None and reading.value_range is not None:
            warnings.warn(
                f"{source.name} holds images of 8 bits, read from 0 (black) to 255 (white), but "
                "the model was trained on images of more, read "
                f"{describe_range(reading.value_range)}; if it shows the same values in other "
                "units, every image is read too dark or too bright.",
                stacklevel=4,
            )
        return reading.value_range
    warnings.warn(
        f"{source.name} holds images of more than 8 bits, but the model was trained on images of "
        f"8 bits; their values are read {describe_range(value_range)}.",
        stacklevel=4,
    )
    return value_range


def _read_video(source: Source, reading: Reading, display: bool) -> Iterator[Sample]:
    size = _size(source, reading)
    if reading.tiled:
        raise ValueError(
            f"{source.path} is a video, but the model cuts images into tiles; give images."
        )
    read: dict[str, Any] = {"size": reading.decoded_size, "color": reading.color}
    read |= {"fps": source.fps or ASSUMED_FPS, "value_range": reading.value_range}
    box = reading.crop
    if "://" not in str(source.path):
        shape = picture_shape(Path(source.path))
        if box is None:
            box = (0, 0, shape[1], shape[0])
            if _is_distorted(shape, size):
                warnings.warn(
                    f"{source.path} has {pixels_of(shape)} (width x height); it is resized to the "
                    f"model's {pixels_of(size)}, which changes its aspect ratio.",
                    stacklevel=3,
                )
        read["value_range"] = _range_of(source, reading)
    frames: Iterator[tuple[Frame, NDArray[np.uint8] | None]] = (
        read_pairs(source.path, **read)
        if display
        else ((frame, None) for frame in read_frames(source.path, **read))
    )
    for frame, display_image in frames:
        image = reading.prepare(frame.image, source.name)
        yield Sample(image, source.name, frame.index, frame.time, display_image, box=box)


def read_shapes(source: Source) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names of the images of a source, and their heights and widths.

    The frames of a video have one size. Files that cannot be read are left out.
    """
    if source.kind == "array":
        yield source.name, open_array(Path(source.path)).shape[1:3]
    elif source.kind == "pictures":
        for path, n in zip(source.pictures, source.n_pages, strict=True):
            with suppress(OSError):
                for page, shape in enumerate(page_shapes(path)):
                    yield source.name_of(path, page if n > 1 else None), shape
    elif "://" not in str(source.path):
        with suppress(OSError):
            yield source.name, picture_shape(Path(source.path))


def _size(source: Source, reading: Reading) -> tuple[int, int]:
    if reading.size is None:
        raise ValueError(
            f"{source.path} is not an array, but the model was trained on arrays; give an .npy "
            "file."
        )
    return reading.size


def _is_distorted(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Return whether resizing changes the aspect ratio by more than rounding does."""
    distortion = (size[0] / shape[0]) / (size[1] / shape[1])
    tolerance = 1 + DISTORTED + 1 / min(size)
    return not 1 / tolerance <= distortion <= tolerance


def _warn_of_distorted(
    n: int, total: int, shapes: Collection[tuple[int, ...]], size: tuple[int, int]
) -> None:
    sizes = f"have {len(shapes):,} different sizes"
    if len(shapes) == 1:
        sizes = f"{'has' if total == 1 else 'have'} {pixels_of(*shapes)} (width x height)"
    warnings.warn(
        f"{n:,} of {counted(total, 'image')}, which {sizes}, {'is' if n == 1 else 'are'} resized "
        f"to the model's {pixels_of(size)}, which changes the aspect ratio. `skavid fit` takes "
        "another size with --size WIDTHxHEIGHT, a box of each image with --crop, and objects or "
        "textures without a fixed place with --set inpainter__pooling=everywhere.",
        stacklevel=4,
    )


def tile_boxes(shape: tuple[int, ...], size: tuple[int, int]) -> list[Box]:
    """Return the places of the fewest tiles of one size that cover an image, row by row.

    They are evenly spread and overlap where the size is no divisor. Along a side that is shorter
    than a tile there is one tile, as long as the side.
    """
    starts = []
    for length, side in zip(shape[:2], size, strict=True):
        room = max(0, length - side)
        n = -(-length // side)
        starts.append([room * i // max(1, n - 1) for i in range(n)])
    height, width = np.minimum(shape[:2], size).tolist()
    return [(left, top, width, height) for top in starts[0] for left in starts[1]]


def cut_tiles(samples: Iterable[Sample], reading: Reading) -> Iterator[Sample]:
    """Cut images into tiles, as `tile_boxes` places them."""
    assert reading.size is not None
    for sample in samples:
        yield from (cut_tile(sample, b) for b in tile_boxes(sample.image.shape, reading.size))


def cut_tile(sample: Sample, tile: Box) -> Sample:
    """Return a tile of an image, with its place in the original."""
    left, top, width, height = tile
    inner = sample.image[top : top + height, left : left + width]
    assert sample.box is not None
    box = (sample.box[0] + left, sample.box[1] + top, width, height)
    return sample._replace(image=inner, box=box)


def draw_tiles(
    found: Sequence[Source], reading: Reading, most: int, seed: int
) -> tuple[list[Source], dict[str, list[Box]], float]:
    """Draw some of the tiles of all images, from the sizes that the headers of the files state.

    Returns the sources with only those images that a tile was drawn of, the tiles by the names of
    the images, and the mean number of tiles per image.
    """
    assert reading.size is not None
    names: list[str] = []
    boxes: list[list[Box]] = []
    known: dict[tuple[int, ...], list[Box]] = {}  # images of one size share their boxes
    for source in found:
        for name, own in read_shapes(source):
            shape = own[:2] if reading.crop is None else (reading.crop[3], reading.crop[2])
            if min(np.subtract(shape, reading.size)) < 0:
                raise ValueError(
                    f"{name} has {pixels_of(shape)} (width x height), less than the tiles of "
                    f"{pixels_of(reading.size)}; give --tiles {min(shape)}, or leave it out."
                )
            names.append(name)
            boxes.append(known.setdefault(shape, tile_boxes(shape, reading.size)))
    check_any(len(names), found)
    ends = np.cumsum([len(some) for some in boxes])
    total = int(ends[-1])
    drawn: dict[str, list[Box]] = {}
    rows = np.random.default_rng(seed).choice(total, min(most, total), replace=False)
    for row in np.sort(rows):
        number = int(np.searchsorted(ends, row, side="right"))
        drawn.setdefault(names[number], []).append(boxes[number][row - ends[number]])
    return [_with_pictures(source, drawn) for source in found], drawn, total / len(names)


def _with_pictures(source: Source, names: Collection[str]) -> Source:
    """Return a source with only those files that hold one of the named images."""
    files = {path for path, page in source.images() if source.name_of(path, page) in names}
    kept = [(p, n) for p, n in zip(source.pictures, source.n_pages, strict=True) if p in files]
    return source._replace(
        pictures=tuple(path for path, _ in kept), n_pages=tuple(n for _, n in kept)
    )


def load_images(
    found: Sequence[Source],
    reading: Reading,
    folder: Path,
    on_sample: Callable[[Sample], None],
    parts: Callable[[Sample], Iterable[Sample]] | None = None,
) -> tuple[NDArray[Any], NDArray[np.int64], float | None]:
    """Write the images of all sources to a file in a folder, and map it into memory.

    Returns the images, the number of the source of each, and the frame rate, if videos state it.
    ``on_sample`` is called for each image. ``parts`` returns the parts of an image that are
    loaded in its place.
    """
    ids: list[int] = []
    steps: list[float] = []

    def images() -> Iterator[NDArray[Any]]:
        for number, source in enumerate(found):
            before: float | None = None
            has_times = source.has_timestamps()
            for sample in _parts(read_source(source, reading), parts):
                ids.append(number)
                if before is not None and sample.time is not None and sample.time > before:
                    steps.append(sample.time - before)
                before = sample.time if has_times else None
                yield sample.image
                on_sample(sample)
        check_any(len(ids), found)

    array = save_frames(folder / "images.npy", images())
    return array, np.array(ids), 1 / float(np.median(steps)) if steps else None


def _parts(
    samples: Iterator[Sample], parts: Callable[[Sample], Iterable[Sample]] | None
) -> Iterator[Sample]:
    return samples if parts is None else (part for sample in samples for part in parts(sample))


def split_clips(ids: NDArray[np.int64], fps: float | None) -> NDArray[np.int64]:
    """Split a few long clips into consecutive pieces, so that some can be held out.

    Pieces have about 100 frames or more and last about one minute at most; there are 20 of them
    if the frames allow it, and at least two.
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
    path: Path,
    size: tuple[int, int],
    example: Source | None = None,
    crop: Box | None = None,
) -> NDArray[np.bool_]:
    """Read an image of pixels to ignore, drawn over an image of ``example``.

    It is resized to ``size``: a pixel is ignored if any pixel that it covers is.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no image {path} of pixels to ignore.")
    if not is_picture(path):
        raise ValueError(f"--ignore must be an image, such as mask.png. Got {path}.")
    try:
        drawn = read_marks(path)[0]
    except OSError as error:
        raise ValueError(f"{path} cannot be read, {error}; get a new copy.") from error
    warn_of_lossy([path])
    shape: tuple[int, ...] = size
    if example is not None and drawn.shape != size and "://" not in str(example.path):
        if example.kind == "array":
            shape = open_array(Path(example.path)).shape[1:3]
        else:
            picture = example.pictures[0] if example.kind == "pictures" else Path(example.path)
            shape = picture_shape(picture)
    if drawn.shape != tuple(shape[:2]):
        raise ValueError(
            f"{path} has {pixels_of(drawn.shape)}, but the images have {pixels_of(shape)}; draw "
            "it over one of them."
        )
    if crop is not None:
        drawn = cut(drawn, crop, path)
        shape = drawn.shape
    ignored = shrink(drawn, shape[:2], size, path)
    if ignored.all():
        raise ValueError(f"{path} ignores every pixel; paint black the pixels to keep.")
    return ignored
