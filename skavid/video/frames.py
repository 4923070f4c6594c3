"""Frames of videos, folders of images, cameras and network addresses.

PyAV, and Pillow for images, are imported when something is read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from skavid.sklearn_private import Interval, StrOptions, validated
from skavid.video.decoding import (
    FFMPEG,
    BrokenVideoError,
    View,
    import_av,
    is_picture,
    open_source,
    some_pictures,
)
from skavid.video.pictures import Range, count_pages
from skavid.writing import naming, opened

__all__ = ["Frame", "count_frames", "load_frames", "read_frames", "read_pairs", "save_frames"]

_READING: dict[str, list[Any]] = {
    "source": [str, Path, Interval(Integral, 0, None, closed="left")],
    "size": [tuple, list, None],
    "color": ["boolean"],
    "fps": [Interval(Real, 0, None, closed="neither")],
    "timeout": [Interval(Real, 0, None, closed="neither")],
    "value_range": [tuple, list, None],
}


class Frame(NamedTuple):
    """A frame of a video, as `read_frames` yields it.

    Parameters
    ----------
    image : ndarray of shape (H, W) or (H, W, 3), uint8
        Luma, or red, green and blue.
    time : float
        Seconds from the beginning of the source.
    index : int
        Number of frames before it.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.video import Frame
    >>> image, time, index = Frame(np.zeros((4, 4), np.uint8), time=0.04, index=1)
    """

    image: NDArray[np.uint8]
    time: float
    index: int  # type: ignore[assignment]


@validated(**_READING)
def read_frames(
    source: str | Path | int,
    *,
    size: tuple[int, int] | None = None,
    color: bool = False,
    fps: float = 25.0,
    timeout: float = 10.0,
    value_range: Range | None = None,
) -> Iterator[Frame]:
    """Read a video, a folder of images or a camera, frame by frame.

    Parameters
    ----------
    source : str, Path or int
        A video, an image (a tif may hold several), a folder of images (tif, png, jpg, bmp, gif,
        webp), a network address (rtsp://, http://, ...), or the number of a camera. Images of a
        folder are read in natural order, img2 before img10; hidden files and other formats are
        skipped.
    size : tuple (height, width), default=None
        The size to which each frame is resized while it is decoded, by averaging. None keeps the
        size of the first frame.
    color : bool, default=False
        Whether to read red, green and blue instead of luma (ITU-R BT.601).
    fps : float, default=25.0
        Frames per second of a folder of images. A video has its own.
    timeout : float, default=10.0
        Seconds to wait for a network address.
    value_range : tuple (low, high), default=None
        Values of images of more than 8 bits that become 0 and 255. None finds them in the images,
        see Notes; give them where several sources must be read alike.

    Returns
    -------
    frames : iterator of Frame
        The frames, one in memory at a time.

    Raises
    ------
    ImportError
        If PyAV, or Pillow for images, is not installed.
    ValueError
        If an argument is invalid, a file holds no video, or a folder holds no images or, without
        ``size``, images of different sizes.
    FileNotFoundError
        If there is no such file.
    BrokenVideoError
        If the source is damaged or truncated; raised after its last frame.
    OSError
        If a camera or a network address cannot be opened, or does not answer.

    See Also
    --------
    load_frames : Reads all frames at once.

    Notes
    -----
    Only undamaged frames are yielded. After a frame that cannot be decoded, reading continues at
    the next key frame, as the frames between may be predicted from it; an image that cannot be
    read is skipped. Both leave a gap in the times but not in the indices, and raise an error at
    the end. A video counts as truncated if its header declares more than 1/2 frame beyond its
    last frame; mp4, mov, mkv, webm, avi and flv have such headers. Errors that a decoder conceals
    cannot be detected.

    Arguments and the existence of a file are checked at the call. The source is opened for the
    first frame, and closed after the last frame or with the generator.

    Each page of a TIFF file and each frame of a GIF, WebP or PNG file is a frame; reduced copies
    of a page, and the second pictures of a JPEG file, are not. Animations have times of their own.

    Images of more than 8 bits are scaled to 8: integers from 0 to the highest value of 8, 10, 12,
    14 or 16 bits, whichever is the first that holds all values; floating values from 0 to 1 if
    they lie there; all others from the lowest to the highest value, with half of that distance as
    a margin on either side. At most 50 images are looked at. A warning tells the range, unless it
    is that of 16 bits, and values outside of it.

    Images and videos that are marked as rotated are turned upright. A video that changes its size
    is resized to that of its first frame, with a warning. Frames have the pixels that are stored,
    also if these are not square.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> from skavid.video import read_frames
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for index in (1, 2, 10):
    ...         picture = Image.fromarray(np.full((8, 8), index, np.uint8))
    ...         picture.save(f"{folder}/img{index}.png")
    ...     for frame in read_frames(folder, size=(4, 4), fps=10):
    ...         print(frame.index, frame.time, frame.image.shape, frame.image[0, 0])
    0 0.0 (4, 4) 1
    1 0.1 (4, 4) 2
    2 0.2 (4, 4) 10
    """
    images = enumerate(open_source(source, [(check_size(size), color)], fps, timeout, value_range))
    return (Frame(image, time, index) for index, ((image,), time) in images)


@validated(**_READING)
def read_pairs(
    source: str | Path | int,
    *,
    size: tuple[int, int] | None = None,
    color: bool = False,
    fps: float = 25.0,
    timeout: float = 10.0,
    value_range: Range | None = None,
) -> Iterator[tuple[Frame, NDArray[np.uint8]]]:
    """Read each frame in the form for a model together with the original frame.

    Parameters
    ----------
    source : str, Path or int
        As in :func:`read_frames`.
    size : tuple (height, width), default=None
        Size of the frames for the model.
    color : bool, default=False
        Whether these have red, green and blue.
    fps, timeout, value_range : float, float, tuple or None
        As in :func:`read_frames`.

    Returns
    -------
    pairs : iterator of (Frame, ndarray of shape (h, w, 3), uint8)
        The frame of :func:`read_frames`, and the same frame in its own size and colour.

    See Also
    --------
    read_frames : Reads the frames for the model alone, and lists the exceptions.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> from skavid.video import read_pairs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.fromarray(np.full((6, 8), 9, np.uint8)).save(f"{folder}/0.png")
    ...     for frame, whole in read_pairs(folder, size=(3, 4)):
    ...         print(frame.image.shape, whole.shape)
    (3, 4) (6, 8, 3)
    """
    views: list[View] = [(check_size(size), color), (None, True)]
    pairs = open_source(source, views, fps, timeout, value_range)
    frames = enumerate(pairs)
    return ((Frame(few, time, index), whole) for index, ((few, whole), time) in frames)


@validated(source=[str, Path])
def count_frames(source: str | Path) -> int | None:
    """Estimate the number of frames of a source without decoding it.

    Parameters
    ----------
    source : str or Path
        A video, an image or a folder of images.

    Returns
    -------
    n_frames : int or None
        The number in the header of a video, which may be wrong, or the number of images; None
        if it is unknown.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skavid.video import count_frames, write_overlay
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_overlay(f"{folder}/seen.mp4", np.zeros((5, 32, 48), dtype=np.uint8))
    ...     n_frames = count_frames(f"{folder}/seen.mp4")
    >>> n_frames
    5
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return sum(map(count_pages, some_pictures(path)))
    if is_picture(path):
        return count_pages(path)
    av = import_av()
    try:
        with av.open(str(path), **FFMPEG) as container:
            stream = container.streams.best("video")
            seconds = (container.duration or 0) / 1e6
            known = stream.frames or round(seconds * float(stream.average_rate or 0))
            return int(known) or None
    except (av.error.FFmpegError, AttributeError, OSError):
        return None


@validated(**_READING, out=[str, Path, None], errors=[StrOptions({"raise", "warn"})])
def load_frames(
    source: str | Path,
    *,
    size: tuple[int, int] | None = None,
    color: bool = False,
    fps: float = 25.0,
    timeout: float = 10.0,
    value_range: Range | None = None,
    out: str | Path | None = None,
    errors: str = "raise",
) -> Bunch:
    """Read all frames of a video or a folder of images.

    Parameters
    ----------
    source : str or Path
        As in :func:`read_frames`, except for cameras.
    size, color, fps, timeout, value_range : tuple or None, bool, float, float, tuple or None
        As in :func:`read_frames`.
    out : str or Path, default=None
        An ``.npy`` file to which the frames are written one by one, so that memory does not grow
        with their number. None keeps them in memory.
    errors : {"raise", "warn"}, default="raise"
        The reaction to a broken video. "warn" returns the frames that can be read, if any.

    Returns
    -------
    video : Bunch
        ``frames`` uint8 (n, H, W) or (n, H, W, 3), a read-only memory map of ``out`` if it is
        given; ``times`` float64 (n,), seconds from the beginning.

    Raises
    ------
    BrokenVideoError
        If the source is damaged or truncated, and ``errors`` is "raise" or no frame can be read.
        Nothing is written.
    ValueError
        If the source is a camera, which has no end, or as in :func:`read_frames`.
    FileNotFoundError
        If there is no such file.

    See Also
    --------
    read_frames : Reads frames one by one.
    skavid.TemporalStacker : Stacks frames as channels.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> from skavid.video import load_frames
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for index in range(3):
    ...         picture = Image.fromarray(np.zeros((6, 8), np.uint8))
    ...         picture.save(f"{folder}/{index}.png")
    ...     video = load_frames(folder)
    >>> video.frames.shape, video.times
    ((3, 6, 8), array([0.  , 0.04, 0.08]))
    """
    if isinstance(source, Integral):
        raise ValueError(
            f"source is camera {source}, which has no end; take some of read_frames({source})."
        )
    frames = read_frames(
        source, size=size, color=color, fps=fps, timeout=timeout, value_range=value_range
    )
    times: list[float] = []
    broken: list[BrokenVideoError] = []
    images = _drain(frames, times, broken if errors == "warn" else None)
    loaded = _stack(list(images)) if out is None else save_frames(out, images)
    for error in broken:
        warnings.warn(str(error), stacklevel=3)
    return Bunch(frames=loaded, times=np.array(times))


@validated(path=[str, Path])
def save_frames(path: str | Path, images: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """Write frames or masks to a file one by one and return a memory map of it.

    Parameters
    ----------
    path : str or Path
        An ``.npy`` file.
    images : iterable of ndarray
        All of the same shape and dtype.

    Returns
    -------
    mapped : ndarray of shape (n, ...)
        A read-only memory map of the file.

    Raises
    ------
    ValueError
        If there is no image, or one differs from the first in shape or dtype. An existing file
        is left unchanged.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skavid.video import save_frames
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     mapped = save_frames(f"{folder}/masks.npy", (np.eye(2) > n for n in range(3)))
    ...     shape, dtype = mapped.shape, mapped.dtype
    ...     del mapped
    >>> shape, dtype
    ((3, 2, 2), dtype('bool'))
    """
    path = Path(path).expanduser()
    with opened(path, "wb") as file:
        n, first = 0, None
        for image in images:
            if first is None:
                first = image
                _write_header(file, (0, *first.shape), first.dtype)
            elif (image.shape, image.dtype) != (first.shape, first.dtype):
                raise ValueError(
                    f"Image {n} has the shape {image.shape}, but those before it {first.shape}; "
                    "pass size=(height, width) to resize them."
                )
            with naming(path):
                file.write(image.tobytes())
            n += 1
        if first is None:
            raise ValueError(f"There are no images to write to {path}.")
        # NumPy pads the header, so the final number of rows fits in.
        file.seek(0)
        _write_header(file, (n, *first.shape), first.dtype)
    mapped: NDArray[Any] = np.load(path, mmap_mode="r")
    return mapped


def picture_shape(source: Path) -> tuple[int, ...]:
    """Return the original height and width of an image or a clip, mostly from the header."""
    (shown,), _ = next(open_source(source, [None]))
    return shown.shape


def pixel_aspect(source: Path) -> float:
    """Return the width of a video's pixels relative to their height, upright; 1 if unknown."""
    if source.is_dir() or is_picture(source):
        return 1.0
    av = import_av()
    with suppress(av.error.FFmpegError), av.open(str(source), **FFMPEG) as container:
        stream = container.streams.best("video")
        stored = float((stream and stream.sample_aspect_ratio) or 1)
        for frame in container.decode(stream):
            return 1 / stored if round(frame.rotation / 90) % 2 else stored
    return 1.0


def read_sized(
    source: Path, *, size: tuple[int, int], color: bool, value_range: Range | None = None
) -> Iterator[tuple[Frame, tuple[int, ...]]]:
    """Read frames as `read_frames` does, each with its original height and width."""
    views: list[View] = [(check_size(size), color), None]
    pairs = enumerate(open_source(source, views, value_range=value_range))
    return ((Frame(few, time, index), own.shape) for index, ((few, own), time) in pairs)


def check_size(size: Any) -> tuple[int, int] | None:
    """Check that a size is None or two positive integers."""
    if size is None:
        return None
    if len(size) != 2 or not all(isinstance(n, Integral) and int(n) > 0 for n in size):
        raise ValueError(f"size must be (height, width), two positive integers. Got {size!r}.")
    return int(size[0]), int(size[1])


def _drain(
    frames: Iterator[Frame], times: list[float], broken: list[BrokenVideoError] | None
) -> Iterator[NDArray[np.uint8]]:
    """Yield all images; put the error of a broken video in ``broken``, if it is a list."""
    try:
        for frame in frames:
            times.append(frame.time)
            yield frame.image
    except BrokenVideoError as error:
        if broken is None or not times:
            raise
        broken.append(error)


def _stack(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Stack images and release each one after it is copied, to limit the peak of memory."""
    frames = np.empty((len(images), *images[0].shape), np.uint8)
    for index in range(len(images) - 1, -1, -1):
        frames[index] = images.pop()
    return frames


def _write_header(file: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    described = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
