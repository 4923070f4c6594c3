"""Frames, masks and labels of clips as arrays, in memory or as memory maps."""

from __future__ import annotations

import hashlib
import math
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat, whosmat
from sklearn.utils import Bunch

from skavid.video.decoding import BrokenVideoError
from skavid.video.frames import check_size, picture_shape, read_frames, save_frames
from skavid.video.pictures import (
    PICTURES,
    Range,
    find_range,
    is_lossy,
    list_pictures,
    natural,
    read_marks,
)
from skavid.wording import listed, pixels_of

__all__: list[str] = []  # internal to skavid

LARGEST_LIST = 2**16  # bytes; that of Ped1 has 2,000
LARGEST_MASKS = 2**29  # bytes, unpacked; those of Avenue's longest clip have 331,545,600
_ENTRY = re.compile(r"\{\s*(end\s*\+\s*1|\d{1,4})\s*\}\s*\.\s*gt_frame\s*=\s*\[([^\]]{0,10000})\]")


class Clip(NamedTuple):
    """A clip of a data set: its number and the paths of its frames and masks."""

    number: int
    source: Path
    masks: Path | None = None


# --- frames --------------------------------------------------------------------------------------


def load_clips(
    name: str,
    clips: list[Clip],
    subset: str,
    size: Any,
    memmap: str | Path | None,
    read_masks: Callable[[Path], Iterable[NDArray[np.bool_]]],
) -> Bunch:
    """Read frames and masks of clips, and derive labels from the masks."""
    frames, ids, _ = read_clips(f"{name}-{subset}", clips, size, memmap)
    labels = np.ones(len(frames), dtype=int)
    data = Bunch(frames=frames, clips=ids, labels=labels, masks=None, has_masks=None)
    data.names = [clip.source.stem for clip in clips]
    if subset == "train":
        return data
    shape = frames.shape[1:]

    def masks_of(clip: Clip, n: int) -> Iterator[NDArray[np.bool_]]:
        if clip.masks is None:
            yield from (np.zeros(shape, dtype=bool) for _ in range(n))
            return
        count = 0
        whole = picture_shape(clip.source)
        for mask in read_masks(clip.masks):
            count += 1
            yield shrink(mask, whole, shape, clip.masks)
        if count != n:
            raise ValueError(
                f"{clip.source} has {n} frames, but {clip.masks.name} beside it has {count} "
                "masks; unpack the archive again."
            )

    sources = [path for clip in clips for path in (clip.source, clip.masks) if path is not None]
    data.masks = collect(
        (mask for clip in clips for mask in masks_of(clip, int((ids == clip.number).sum()))),
        cache_path(memmap, f"{name}-masks", sources, size),
    )
    for index, mask in enumerate(data.masks):
        labels[index] = -1 if mask.any() else 1
    data.has_masks = np.isin(ids, [clip.number for clip in clips if clip.masks is not None])
    return data


def read_clips(
    name: str, clips: list[Clip], size: Any, memmap: str | Path | None, *, color: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float64]]:
    """Read the frames of clips, and return the clip and time of each."""
    size = check_size(size)
    scale = clips_range(clips)
    rows: list[tuple[float, float]] = []
    kept = cache_path(memmap, f"{name}{'-color' * color}", [clip.source for clip in clips], size)
    beside = None if kept is None else kept.with_suffix(".clips.npy")

    def frames() -> Iterator[tuple[Path, NDArray[np.uint8]]]:
        for clip in clips:
            for frame in read_frames(clip.source, size=size, color=color, value_range=scale):
                rows.append((clip.number, frame.time))
                yield clip.source, frame.image
        if beside is not None:  # before the frames, so that it exists if they do
            save_frames(beside, np.array(rows, dtype=float))

    if kept is not None and beside is not None and not beside.exists():
        kept.unlink(missing_ok=True)
    images = collect(of_one_size(frames()), kept)
    told = np.array(rows) if beside is None else np.load(beside, allow_pickle=False)
    return images, told[:, 0].astype(int), told[:, 1]


def of_one_size(pictures: Iterable[tuple[Path, NDArray[Any]]]) -> Iterator[NDArray[Any]]:
    """Yield images, and check that they have the size of the first."""
    first: tuple[Path, tuple[int, ...]] | None = None
    for path, picture in pictures:
        first = first or (path, picture.shape)
        if picture.shape != first[1]:
            raise ValueError(
                f"{path} has {pixels_of(picture.shape)}, but {first[0].name} has "
                f"{pixels_of(first[1])}; pass size=(height, width) to resize both."
            )
        yield picture


def read_picture(
    path: Path, size: Any, color: bool, value_range: Range | None = None
) -> NDArray[np.uint8]:
    """Read a single image."""
    frames = read_frames(path, size=check_size(size), color=color, value_range=value_range)
    image: NDArray[np.uint8] = next(frames).image
    return image


def clips_range(clips: list[Clip]) -> Range | None:
    """Find one range of values for all clips whose frames are images of more than 8 bits."""
    paths = [path for clip in clips if clip.source.is_dir() for path in list_pictures(clip.source)]
    paths += [clip.source for clip in clips if clip.source.suffix.lower() in PICTURES]
    return find_range(paths)


# --- masks and labels ----------------------------------------------------------------------------


def read_mask(
    path: Path | None, picture: Path, shape: tuple[int, ...], *, above: int = 0, page: int = 0
) -> NDArray[np.bool_]:
    """Read the mask of a single image; without a path it is empty.

    ``page`` is the number of the image in its file, whose masks are in a file with as many pages.
    """
    if path is None:
        return np.zeros(shape, dtype=bool)
    if path.is_dir():  # several masks of one image
        masks = [np.any([one for p in list_pictures(path) for one in _marks(p, above)], axis=0)]
    else:
        masks = _marks(path, above)
    if len(masks) > 1 and page >= len(masks):
        raise ValueError(
            f"{path} holds {len(masks)} masks, but {picture} has an image {page}; give one mask "
            "per image."
        )
    mask = masks[page] if len(masks) > 1 else masks[0]
    return shrink(mask, picture_shape(picture), shape, path)


def _marks(path: Path, above: int = 0) -> list[NDArray[np.bool_]]:
    try:
        return read_marks(path, above=above)
    except OSError as error:
        if error.errno is not None:
            raise
        raise BrokenVideoError(
            f"{path} is broken: {path.name} cannot be read, {error}. Get a new copy."
        ) from error


_MASK_ENDING = re.compile(
    r"[ ._-]*(masks?|gt|ground[_-]?truth|labels?|seg|segmentation|anno|annotations?)$"
)


def index_masks(folder: Path) -> dict[str, list[Path]]:
    """Group the images in a folder by the names of the images that they may be masks of.

    A mask is called like its image in lower or upper case, with the ending of any kind of image,
    behind the whole name of the image or in place of its ending, and may end with ``_mask``,
    ``_gt``, ``_label`` and the like, joined by ``_``, ``-``, ``.`` or a space.
    """
    found: dict[str, list[Path]] = {}
    for path in list_pictures(folder):
        stem = path.stem.lower()
        for name in dict.fromkeys((_MASK_ENDING.sub("", stem) or stem, stem)):
            found.setdefault(name, []).append(path)
    return found


def choose_mask(
    index: dict[str, list[Path]], picture: Path, page: int | None = None
) -> Path | None:
    """Choose the mask of an image, or of a page of it, from the masks of a folder."""
    stems = [picture.stem, picture.name]
    if page is not None:  # as `skavid segment` writes them
        stems = [f"{picture.stem}[{page}]", f"{picture.name}[{page}]", *stems]
    for stem in stems:
        found = [path for path in index.get(stem.lower(), []) if path != picture]
        # The same case, then an ending such as _mask, then the name of the image alone.
        found.sort(key=lambda p: (not p.stem.startswith(stem), p.stem == stem))
        if found:
            return found[0]
    return None


def find_masks(places: Iterable[tuple[Path, Path]]) -> list[Path | None]:
    """Find the mask of each image in the folder beside it, see `index_masks`.

    Several masks of one image may be in a folder of its name.
    """
    indices: dict[Path, dict[str, list[Path]]] = {}
    found: list[Path | None] = []
    for folder, picture in places:
        if (folder / picture.stem).is_dir():
            found.append(folder / picture.stem)
            continue
        if folder not in indices:
            indices[folder] = index_masks(folder) if folder.is_dir() else {}
        found.append(choose_mask(indices[folder], picture))
    return found


def check_masks(found: list[Path | None], places: list[tuple[Path, Path]]) -> list[Path | None]:
    """Raise an error if some images have masks, and others have none."""
    lacking = [place for place, mask in zip(places, found, strict=True) if mask is None]
    if lacking:
        folder, picture = lacking[0]
        raise FileNotFoundError(f"{picture} has no mask {picture.stem}_mask.png in {folder}.")
    return found


def warn_of_lossy(paths: Iterable[Path | None], *, stacklevel: int = 3) -> None:
    """Warn about masks in lossy files."""
    lossy = sorted({path for path in paths if path is not None and is_lossy(path)})
    if lossy:
        warnings.warn(
            f"{listed([str(path) for path in lossy], 1)}: JPEG changes the values of a mask, so "
            "those above half of the largest count as irregular; PNG keeps them.",
            UserWarning,
            stacklevel=stacklevel,
        )


def picture_masks(folder: Path) -> Iterator[NDArray[np.bool_]]:
    """Read a folder of masks."""
    # Names are 001 or frame001; their last number is their order.
    paths = sorted(
        list_pictures(folder), key=lambda p: int((re.findall(r"\d+", p.stem) or ["0"])[-1])
    )
    warn_of_lossy(paths)
    for path in paths:
        yield from _marks(path)


def mat_masks(path: Path) -> Iterator[NDArray[np.bool_]]:
    """Read the cells of ``volLabel`` from a MATLAB file."""
    _check_unpacked(path)
    try:
        # A cell takes at least eight bytes, but loadmat allocates the claimed number.
        if any(math.prod(shape) > LARGEST_MASKS // 8 for _, shape, _ in whosmat(path)):
            raise ValueError("more cells than bytes")
        cells = np.ravel(loadmat(path, variable_names=["volLabel"])["volLabel"])
    except Exception as error:  # damaged files raise many kinds of errors
        raise ValueError(f"{path} is no file of masks (volLabel); get a new copy.") from error
    for cell in cells:
        mask = np.asarray(cell)
        if mask.dtype.kind not in "biuf":
            raise ValueError(f"{path} is no file of masks (volLabel); get a new copy.")
        yield np.nan_to_num(mask) != 0


def _check_unpacked(path: Path) -> None:
    """Refuse a MATLAB file that unpacks to an implausible number of bytes."""
    n_bytes = 0
    with path.open("rb") as file:
        order = "<" if file.read(128).endswith(b"IM") else ">"
        while len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            end = file.tell() + size
            unpacker = zlib.decompressobj()
            with suppress(zlib.error):  # SciPy reports relevant errors
                # 4 KiB unpack to 4 MiB at most.
                while kind == 15 and (packed := file.read(min(2**12, end - file.tell()))):
                    n_bytes += len(unpacker.decompress(packed))
                    if n_bytes > LARGEST_MASKS:
                        raise ValueError(
                            f"{path} unpacks to more than {LARGEST_MASKS} bytes, which is "
                            "implausible for masks of a clip; get a new copy."
                        )
            file.seek(end)


def npy_masks(path: Path) -> Iterator[NDArray[np.bool_]]:
    """Read an array of masks frame by frame."""
    for mask in _read_npy(path, 3):
        yield np.nan_to_num(mask) != 0


def npy_labels(path: Path, n_frames: int) -> NDArray[np.int64]:
    """Read the labels of a clip, and convert 0 and 1 to 1 and -1."""
    marked = _read_npy(path, 1)
    if len(marked) != n_frames:
        raise ValueError(f"{path} has {len(marked)} labels, but its clip has {n_frames} frames.")
    return np.where(marked > 0, -1, 1)


def map_array(path: Path) -> NDArray[Any] | None:
    """Map an array that NumPy wrote; return None for other files."""
    try:
        # Unlike np.load, it neither opens zip files nor unpickles.
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (FileNotFoundError, PermissionError):
        raise
    except Exception:  # NumPy's parser of headers raises many kinds of errors
        return None
    return array


def _read_npy(path: Path, n_dims: int) -> NDArray[Any]:
    array = map_array(path)
    if array is None:
        raise ValueError(f"{path} is no array of masks; get a new copy.")
    if array.ndim != n_dims or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{path} holds {array.dtype} of shape {array.shape}, not numbers of {n_dims} axes."
        )
    return array


def shrink(
    mask: NDArray[np.bool_], whole: tuple[int, ...], shape: tuple[int, ...], path: Path
) -> NDArray[np.bool_]:
    """Resize a mask so that a pixel is True if any pixel that it covers is."""
    if mask.shape != tuple(whole):
        raise ValueError(f"{path} has a mask of shape {mask.shape}, but its frames have {whole}.")
    small: NDArray[np.bool_] = mask
    for axis, (long, short) in enumerate(zip(mask.shape, shape, strict=True)):
        if long == short:
            continue
        firsts = np.arange(short) * long // short
        lasts = -(-np.arange(1, short + 1) * long // short)
        none = np.zeros_like(small.take([0], axis), dtype=int)
        sums = np.concatenate([none, small.cumsum(axis)], axis)
        small = sums.take(lasts, axis) > sums.take(firsts, axis)
    return small


def read_intervals(path: Path, clips: NDArray[np.int64]) -> NDArray[np.int64]:
    """Parse lines ``TestVideoFile{end+1}.gt_frame = [60:152];``, frames from 1, ends included.

    Nothing in them is executed.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST_LIST + 1)
    if len(content) > LARGEST_LIST:
        raise ValueError(
            f"{path} is larger than {LARGEST_LIST} bytes; it is not a list of frames."
        )
    text = re.sub(r"%.*", "", content.decode("latin-1"))  # comments
    rows: dict[int, str] = {}
    for index, row in _ENTRY.findall(text):
        rows[int(index) if index.isdigit() else max(rows, default=0) + 1] = row
    labels = np.ones(len(clips), dtype=int)
    for clip in np.unique(clips).tolist():
        if clip not in rows:
            raise ValueError(f"{path} lists {len(rows)} clips, and no frames of clip {clip}.")
        frames = np.flatnonzero(clips == clip)
        for interval in (
            re.sub(r"\s*:\s*", ":", rows[clip]).replace(",", " ").replace(";", " ").split()
        ):
            ends = re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", interval)
            first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (0, 0)
            if not 1 <= first <= last <= len(frames):
                raise ValueError(
                    f"{path} has the interval {interval[:40]!r} for clip {clip}, which has frames "
                    f"1 to {len(frames)}."
                )
            labels[frames[first - 1 : last]] = -1
    return labels


def warn_of_disagreement(
    data: Bunch,
    drawn: NDArray[np.int64],
    names: dict[int, str],
    source: str,
    *,
    first: int,
    stacklevel: int,
) -> None:
    """Warn about frames whose masks and labels disagree."""
    apart = (data.labels != drawn) & data.has_masks
    told = []
    for clip in np.unique(data.clips[apart]).tolist():
        frames = np.flatnonzero(apart[data.clips == clip]) + first
        told.append(f"{names[clip]} ({_runs(frames)})")
    if told:
        warnings.warn(
            f"{source} and the masks disagree on {int(apart.sum())} frames, {', '.join(told)}; "
            f"the labels are those of {source}.",
            UserWarning,
            stacklevel=stacklevel,
        )


def _runs(numbers: NDArray[np.int64]) -> str:
    """Format 3, 4, 5, 9 as 3 to 5, 9, with at most three runs."""
    cuts = [0, *(np.flatnonzero(np.diff(numbers) > 1) + 1).tolist(), len(numbers)]
    ends = [(numbers[begin], numbers[end - 1]) for begin, end in pairwise(cuts)]
    written = [f"{low}" if low == high else f"{low} to {high}" for low, high in ends]
    return ", ".join(written[:3] + ["..."] * (len(written) > 3))


# --- folders -------------------------------------------------------------------------------------


def list_folders(root: Path) -> list[Path]:
    """List the visible folders in a folder in natural order."""
    return sorted((p for p in root.glob("[!.]*") if p.is_dir()), key=natural)


NORMAL = {"good", "normal", "ok", "okay", "regular", "free"}


def is_normal(name: str) -> bool:
    """Return whether a folder of a data set is named like one of normal images, in any case."""
    return name.lower() in NORMAL


def walk_folders(root: Path) -> Iterator[Path]:
    """Yield a folder and the visible ones in it at any depth, in natural order.

    A link to a folder that was visited already is left out with a warning, such as one that leads
    back to the folder that holds it.
    """
    visited: set[Path] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        if (real := folder.resolve()) in visited:
            warnings.warn(
                f"{folder} is a link to {real}, which is read already; it is left out.",
                UserWarning,
                stacklevel=2,
            )
            continue
        visited.add(real)
        yield folder
        waiting += reversed(list_folders(folder))


def check_files(paths: Iterable[Path], name: str, address: str) -> None:
    """Raise an error for the first missing file, before anything is decoded."""
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there; {name} comes from {address}.")


# --- in memory or mapped -------------------------------------------------------------------------


def cache_path(
    memmap: str | Path | None, name: str, sources: list[Path], size: Any
) -> Path | None:
    """Return the path of decoded images, which depends on their sources and size."""
    if memmap is None:
        return None
    digest = hashlib.sha256(repr(check_size(size)).encode())
    for source in sources:
        digest.update(f"{source.parent.name}/{source.name}:".encode())
        for file in [source] if source.is_file() else list_pictures(source):
            stat = file.stat()
            digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns};".encode())
    folder = Path(memmap).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-{digest.hexdigest()[:16]}.npy"


def collect(pictures: Iterable[NDArray[Any]], kept: Path | None) -> NDArray[Any]:
    """Stack images in memory, or in a file that is written once and then mapped."""
    if kept is None:
        return np.stack(list(pictures))
    mapped: NDArray[Any] = (
        np.load(kept, mmap_mode="r") if kept.exists() else save_frames(kept, pictures)
    )
    return mapped
