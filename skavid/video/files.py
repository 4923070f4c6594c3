"""Around the detector of a fixed camera: frames in, overlays out.

PyAV, and Pillow for pictures, are imported once something is read or written.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from itertools import repeat, takewhile
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_dilation, binary_erosion
from sklearn.utils import Bunch

from skavid.core.images import check_ignored, resize
from skavid.sklearn_private import Interval, StrOptions, validate_params
from skavid.wording import counted
from skavid.writing import beside, naming, opened

__all__ = [
    "BrokenVideoError",
    "Frame",
    "OverlayWriter",
    "count_frames",
    "draw_overlay",
    "load_frames",
    "read_frames",
    "read_pairs",
    "save_frames",
    "write_overlay",
]

PICTURES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"}
# Containers whose header says how long they are; others are guessed by what is in them.
DECLARES_DURATION = {"avi", "flv", "matroska", "mov"}
# By content, whatever the name; Pillow knows others, for some of which it runs programs.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
DAMAGED = "a frame is damaged"
MOST_PIXELS = 2**26  # of a video's frame; 8K has half of it
# Titles may be in any encoding, and a header may promise any size.
_FFMPEG: dict[str, Any] = {
    "metadata_errors": "replace",
    "options": {"max_pixels": str(MOST_PIXELS)},
}

# From dark blue, regular, to bright yellow, irregular: cividis, whose order shows in grey, too.
_STOPS = "00224e 123570 3b496c 575d6d 707173 8a8678 a59c74 c3b369 e1cc55 fee838"
_COLORS = np.array([list(bytes.fromhex(stop)) for stop in _STOPS.split()], dtype=np.float32)
_OUTLINE, _RIM = (255, 255, 255), (0, 0, 0)
_STRIP, _ALARM = (24, 24, 28), (90, 45, 0)  # behind regular and irregular frames
_STRIPES = 150, 30  # grey on dark
_REGULAR, _IRREGULAR, _LINE = (84, 130, 190), (255, 176, 0), (235, 235, 235)

_READING: dict[str, list[Any]] = {
    "source": [str, Path, Interval(Integral, 0, None, closed="left")],
    "size": [tuple, list, None],
    "color": ["boolean"],
    "fps": [Interval(Real, 0, None, closed="neither")],
    "timeout": [Interval(Real, 0, None, closed="neither")],
}


class BrokenVideoError(OSError):
    """A video or a folder of pictures is damaged, or ends before its time.

    It is raised behind the frames that could be read, and says where the first is missing.
    """


class Frame(NamedTuple):
    """A frame of a video, as `read_frames` gives it.

    Parameters
    ----------
    image : ndarray of shape (H, W) or (H, W, 3), uint8
        Its luma, or red, green and blue.
    time : float
        Seconds from the beginning of the source.
    index : int
        How many frames came before it.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.video import Frame
    >>> image, time, index = Frame(np.zeros((4, 4), np.uint8), time=0.04, index=1)
    """

    image: NDArray[np.uint8]
    time: float
    index: int  # type: ignore[assignment]


@validate_params(_READING, prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
def read_frames(
    source: str | Path | int,
    *,
    size: tuple[int, int] | None = None,
    color: bool = False,
    fps: float = 25.0,
    timeout: float = 10.0,
) -> Iterator[Frame]:
    """Read a video, a folder of pictures or a camera, frame by frame.

    Parameters
    ----------
    source : str, Path or int
        A video, a picture (a tif may hold several), or a folder of pictures (tif, png, jpg,
        bmp), which come in natural order, img2 before img10; hidden files and others are
        passed over. Or a network address (rtsp://, http://, ...), or the number of a camera.
    size : tuple (height, width), default=None
        To resize each frame to while it is decoded, by the mean of the pixels that it covers;
        None keeps the size of the first.
    color : bool, default=False
        Whether to read red, green and blue. False reads luma, that of ITU-R BT.601 where it has
        to be computed.
    fps : float, default=25.0
        Pictures a second, for the times of a folder. A video has its own.
    timeout : float, default=10.0
        How many seconds to wait for a network address.

    Returns
    -------
    frames : iterator of Frame
        One by one; no other frame is kept in memory.

    Raises
    ------
    ImportError
        If PyAV, or Pillow for pictures, is not installed.
    ValueError
        If an argument is none of the above, a folder holds no pictures or, without ``size``,
        pictures of different sizes, or a file holds no video.
    FileNotFoundError
        If there is no such file.
    BrokenVideoError
        If the source is damaged or ends before its time; raised after its last frame.
    OSError
        If a camera or a network address cannot be opened, or does not answer.

    See Also
    --------
    load_frames : Reads them all at once.

    Notes
    -----
    Only sound frames are given. Where a frame cannot be decoded, reading goes on at the next key
    frame, since what is between may be predicted from it; a picture that cannot be read is left
    out. Either leaves a gap in the times, none in the indices, and an error at the end. A video
    is too short if its header promises more than 1/2 frame beyond its last; mp4, mov, mkv, webm,
    avi and flv have such headers. What a decoder conceals without a word cannot be told.

    Arguments, and whether the file is there, are checked at the call; the source is opened with
    the first frame, and closed after the last, or with the generator.

    Pictures of 16 bits are divided by 257, so that 65535 becomes 255 in each of them. Pictures
    and videos that are marked as turned are turned upright. A video that changes its size is
    resized to that of its first frame.

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
    return _number(_open(source, [(check_size(size), color)], fps, timeout))


@validate_params(_READING, prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
def read_pairs(
    source: str | Path | int,
    *,
    size: tuple[int, int] | None = None,
    color: bool = False,
    fps: float = 25.0,
    timeout: float = 10.0,
) -> Iterator[tuple[Frame, NDArray[np.uint8]]]:
    """Read each frame twice at once: as a model wants it, and as people want to see it.

    Parameters
    ----------
    source : str, Path or int
        As in :func:`read_frames`.
    size : tuple (height, width), default=None
        Of the frames for the model.
    color : bool, default=False
        Whether these have red, green and blue.
    fps : float, default=25.0
        Pictures a second, for the times of a folder.
    timeout : float, default=10.0
        How many seconds to wait for a network address.

    Returns
    -------
    pairs : iterator of (Frame, ndarray of shape (h, w, 3), uint8)
        The frame of :func:`read_frames`, and the same picture in its own size and colour.

    See Also
    --------
    read_frames : Reads them once, and says what is raised.

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
    pairs = _open(source, [(check_size(size), color), (None, True)], fps, timeout)
    frames = enumerate(pairs)
    return ((Frame(few, time, index), whole) for index, ((few, whole), time) in frames)


@validate_params({"source": [str, Path]}, prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
def count_frames(source: str | Path) -> int | None:
    """Tell about how many frames a source has, without decoding it.

    Parameters
    ----------
    source : str or Path
        A video, a picture or a folder of pictures.

    Returns
    -------
    n_frames : int or None
        As the header of a video has it, which may be wrong, or the number of pictures; None
        where nothing tells.

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
        return len(_some_pictures(path))
    if path.suffix.lower() in PICTURES:
        return 1
    av = _import_av()
    try:
        with av.open(str(path), **_FFMPEG) as container:
            stream = container.streams.best("video")
            seconds = (container.duration or 0) / 1e6
            known = stream.frames or round(seconds * float(stream.average_rate or 0))
            return int(known) or None
    except (av.error.FFmpegError, AttributeError, OSError):
        return None


@validate_params(  # type: ignore[untyped-decorator]
    {**_READING, "out": [str, Path, None], "errors": [StrOptions({"raise", "warn"})]},
    prefer_skip_nested_validation=True,
)
def load_frames(
    source: str | Path,
    *,
    size: tuple[int, int] | None = None,
    color: bool = False,
    fps: float = 25.0,
    timeout: float = 10.0,
    out: str | Path | None = None,
    errors: str = "raise",
) -> Bunch:
    """Read all frames of a video or a folder of pictures.

    Parameters
    ----------
    source : str or Path
        As in :func:`read_frames`, but no camera.
    size : tuple (height, width), default=None
        To resize each frame to while it is decoded.
    color : bool, default=False
        Whether to read red, green and blue.
    fps : float, default=25.0
        Pictures a second, for the times of a folder.
    timeout : float, default=10.0
        How many seconds to wait for a network address.
    out : str or Path, default=None
        An ``.npy`` file to write the frames to, one by one, so that memory does not grow with
        their number. None keeps them in memory.
    errors : {"raise", "warn"}, default="raise"
        What to do about a broken video. "warn" gives the frames that are there, if any.

    Returns
    -------
    video : Bunch
        ``frames`` uint8 (n, H, W) or (n, H, W, 3), a read-only memory map of ``out`` where it
        was given; ``times`` float64 (n,), seconds from the beginning.

    Raises
    ------
    BrokenVideoError
        If the source is damaged or ends before its time, and ``errors`` is "raise" or there is
        no frame at all. Nothing is written.
    ValueError
        If the source is a camera, which has no end, or as :func:`read_frames` does.
    FileNotFoundError
        If there is no such file.

    See Also
    --------
    read_frames : Reads them one by one.
    skavid.TemporalStacker : Stacks them.

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
    frames = read_frames(source, size=size, color=color, fps=fps, timeout=timeout)
    times: list[float] = []
    broken: list[BrokenVideoError] = []
    images = _drain(frames, times, broken if errors == "warn" else None)
    loaded = _stack(list(images)) if out is None else save_frames(out, images)
    for error in broken:
        warnings.warn(str(error), stacklevel=3)
    return Bunch(frames=loaded, times=np.array(times))


@validate_params({"path": [str, Path]}, prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
def save_frames(path: str | Path, images: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """Write frames or masks to a file one by one, and map it into memory.

    Parameters
    ----------
    path : str or Path
        An ``.npy`` file.
    images : iterable of ndarray
        Of one shape and dtype.

    Returns
    -------
    mapped : ndarray of shape (n, ...)
        A read-only memory map of the file.

    Raises
    ------
    ValueError
        If there is no image, or one differs from the first in shape or dtype. An older file
        stays as it was.
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
                    f"Picture {n} has the shape {image.shape}, those before it {first.shape}; "
                    "pass size=(height, width) to resize them."
                )
            with naming(path):
                file.write(image.tobytes())
            n += 1
        if first is None:
            raise ValueError(f"No picture came, so {path} is none either.")
        # NumPy leaves room in the header for the number of rows to grow.
        file.seek(0)
        _write_header(file, (n, *first.shape), first.dtype)
    mapped: NDArray[Any] = np.load(path, mmap_mode="r")
    return mapped


class OverlayWriter:
    """Write a video of what the detector saw, frame by frame: H.264 in mp4, as browsers play it.

    Over each frame lies its regularity, from dark blue, regular, to yellow, irregular, and around
    its mask a white line with a black rim; pixels that do not count are hatched. A strip below
    shows the scores of the last frames, as many as the frame is wide, on either side of the
    threshold; those at or below it are orange.

    Use it in a ``with`` block. The file is there once the block ends; if that raises, or no frame
    came, an older file stays as it was.

    Parameters
    ----------
    path : str or Path
        The video to write, ``.mp4``.
    fps : float, default=25.0
        Frames a second.
    threshold : float, default=0.0
        A frame is irregular if its score is not above this. 0 suits the ``score_samples`` of
        :class:`skavid.AVIDDetector`.
    opacity : float, default=0.5
        Of the regularity, in [0, 1].
    zoom : int, default=1
        How many pixels to show a pixel as, along each side, so that lines around small images
        are fine.
    ignore_mask : array-like of shape (h, w), bool, default=None
        True where pixels do not count, as in :class:`skavid.AVIDDetector`. They are hatched, and
        show no regularity. Of another size than the images it is resized to them.

    See Also
    --------
    write_overlay : Writes arrays at once.

    Notes
    -----
    The strip has its place if the first frame has a score. Its scale holds all scores so far.
    Sides of an odd number of pixels are widened by one, which H.264 asks for.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skavid.video import OverlayWriter, load_frames
    >>> mask = np.zeros((48, 64), dtype=bool)
    >>> mask[10:20, 10:30] = True
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with OverlayWriter(f"{folder}/seen.mp4") as writer:
    ...         for score in (2.0, 1.0, -1.0):
    ...             image = np.full((48, 64), 90, np.uint8)
    ...             writer.write(image, mask=mask if score <= 0 else None, score=score)
    ...     video = load_frames(f"{folder}/seen.mp4", color=True)
    >>> video.frames.shape
    (3, 72, 64, 3)
    """

    @validate_params(  # type: ignore[untyped-decorator]
        {
            "path": [str, Path],
            "fps": [Interval(Real, 0, None, closed="neither")],
            "threshold": [Interval(Real, None, None, closed="neither")],
            "opacity": [Interval(Real, 0, 1, closed="both")],
            "zoom": [Interval(Integral, 1, None, closed="left")],
            "ignore_mask": ["array-like", None],
        },
        prefer_skip_nested_validation=True,
    )
    def __init__(
        self,
        path: str | Path,
        *,
        fps: float = 25.0,
        threshold: float = 0.0,
        opacity: float = 0.5,
        zoom: int = 1,
        ignore_mask: ArrayLike | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        if self.path.suffix.lower() != ".mp4":
            raise ValueError(f"path must end with .mp4. Got {str(path)!r}.")
        self.fps = fps
        self.threshold = threshold
        self.opacity = opacity
        self.zoom = zoom
        self.ignore_mask = None if ignore_mask is None else check_ignored(ignore_mask)
        self._av = _import_av()
        self._exits: ExitStack | None = None

    def __enter__(self) -> OverlayWriter:
        with ExitStack() as exits:
            self._part = exits.enter_context(beside(self.path))
            with self._told():
                self._container = exits.enter_context(
                    self._av.open(
                        str(self._part),
                        "w",
                        format="mp4",
                        container_options={"movflags": "+faststart"},
                    )
                )
            self._kind: tuple[tuple[int, int], bool] | None = None
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        exits, self._exits = self._exits, None
        assert exits is not None
        if error is None:
            with exits, self._told():
                if self._kind is None:
                    raise ValueError(f"No frame was written, so {self.path} is none either.")
                self._container.mux(self._stream.encode(None))
                self._container.close()
        else:
            with suppress(self._av.error.FFmpegError):  # ``error`` came first and says why
                exits.__exit__(kind, error, trace)

    def write(
        self,
        image: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        regularity: ArrayLike | None = None,
        score: float | None = None,
    ) -> None:
        """Write the next frame.

        Parameters
        ----------
        image : array-like of shape (H, W) or (H, W, 3), uint8
            Of the size of the frames before it.
        mask : array-like of shape (h, w), bool, default=None
            Irregular pixels. A map of another size than the image is resized to it.
        regularity : array-like of shape (h, w), default=None
            In [0, 1], 1 where it is regular.
        score : float, default=None
            The higher, the more regular. None or NaN leave a gap in the strip.

        Raises
        ------
        ValueError
            If the image or a map is none, the image has another size than the first, or it is
            the first frame with a score, but not the first frame.
        OSError
            If the disk is full, or the file cannot be written for another reason.
        """
        if self._exits is None:
            raise ValueError("An OverlayWriter writes in a with block; this one is not in one.")
        frame = _check_image(image)
        kind = frame.shape[:2], score is not None
        if self._kind is None:
            self._begin(*kind)
        assert self._kind is not None
        if kind[0] != self._kind[0]:
            raise ValueError(
                f"image has {_pixels(kind[0])}, but the first had {_pixels(self._kind[0])}; "
                "resize it first."
            )
        if kind[1] and not self._kind[1]:
            raise ValueError(
                "score came after frames without one; give the first frame a score, NaN if it "
                "has none."
            )
        picture = self._draw(frame, mask, regularity, score)
        odd = np.array(picture.shape[:2]) % 2
        picture = np.pad(picture, [(0, odd[0]), (0, odd[1]), (0, 0)], mode="edge")
        with self._told():
            self._container.mux(
                self._stream.encode(self._av.VideoFrame.from_ndarray(picture, format="rgb24"))
            )

    def _begin(self, shape: tuple[int, int], has_strip: bool) -> None:
        self._kind = shape, has_strip
        height, width = self.zoom * shape[0], self.zoom * shape[1]
        self._scores: deque[float] = deque(maxlen=shape[1])
        self._range = (self.threshold, self.threshold)
        self._strip_height = max(24, height // 5) if has_strip else 0
        rate = Fraction(self.fps).limit_denominator(1001)
        with self._told():
            self._stream = self._container.add_stream(
                "libx264",
                rate=rate,
                width=width + width % 2,
                height=(whole := height + self._strip_height) + whole % 2,
                pix_fmt="yuv420p",
                options={"crf": "18", "preset": "veryfast", "g": str(max(1, round(2 * rate)))},
            )

    def _draw(
        self,
        frame: NDArray[np.uint8],
        mask: ArrayLike | None,
        regularity: ArrayLike | None,
        score: float | None,
    ) -> NDArray[np.uint8]:
        picture = draw_overlay(
            frame,
            mask=mask,
            regularity=regularity,
            opacity=self.opacity,
            zoom=self.zoom,
            ignore_mask=self.ignore_mask,
        )
        if not self._strip_height:
            return picture
        self._scores.append(np.nan if score is None else float(score))
        if np.isfinite(self._scores[-1]):
            low, high = self._range
            self._range = min(low, self._scores[-1]), max(high, self._scores[-1])
        strip = _strip(
            self._scores, frame.shape[1], self._strip_height, self._range, self.threshold
        )
        return np.concatenate([picture, strip.repeat(self.zoom, axis=1)])

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Name the file, not the one beside it, where it cannot be written."""
        try:
            yield
        except self._av.error.FFmpegError as error:
            raise OSError(f"{self.path} cannot be written: {error.strerror}.") from error


def draw_overlay(
    image: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    regularity: ArrayLike | None = None,
    opacity: float = 0.5,
    zoom: int = 1,
    ignore_mask: ArrayLike | None = None,
) -> NDArray[np.uint8]:
    """Draw a mask and a regularity over a single picture, as `OverlayWriter` does.

    Parameters
    ----------
    image : array-like of shape (H, W) or (H, W, 3), uint8
        The picture.
    mask : array-like of shape (h, w), bool, default=None
        Irregular pixels; a map of another size than the image is resized to it.
    regularity : array-like of shape (h, w), default=None
        In [0, 1], 1 where it is regular.
    opacity : float, default=0.5
        Of the regularity, in [0, 1].
    zoom : int, default=1
        How many pixels to show a pixel as, along each side.
    ignore_mask : array-like of shape (h, w), bool, default=None
        True where pixels do not count; they are hatched.

    Returns
    -------
    picture : ndarray of shape (zoom * H, zoom * W, 3), uint8
        Red, green and blue.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.video import draw_overlay
    >>> draw_overlay(np.zeros((4, 6), np.uint8), mask=np.eye(4, 6) > 0, zoom=2).shape
    (8, 12, 3)
    """
    frame = _check_image(image)
    size = zoom * frame.shape[0], zoom * frame.shape[1]
    picture = resize(frame, size)
    if regularity is not None:
        heat = _heat(resize(_check_map(regularity, "regularity"), size))
        picture = np.rint((1 - opacity) * picture + opacity * heat).astype(np.uint8)
    if ignore_mask is not None:
        ignored = resize(check_ignored(ignore_mask), size)
        picture[ignored] = _hatched(resize(frame, size))[ignored]
    if mask is not None:
        inside = resize(_check_map(mask, "mask") != 0, size)
        width = max(1, size[0] // 360)  # a line that is seen in large pictures, too
        picture[binary_dilation(inside, iterations=width) & ~inside] = _RIM
        picture[inside & ~binary_erosion(inside, iterations=width)] = _OUTLINE
    return picture


def write_overlay(
    path: str | Path,
    frames: Iterable[ArrayLike | Frame],
    *,
    masks: Iterable[ArrayLike] | None = None,
    regularity: Iterable[ArrayLike] | None = None,
    scores: Iterable[float] | None = None,
    fps: float = 25.0,
    threshold: float = 0.0,
    opacity: float = 0.5,
    zoom: int = 1,
    ignore_mask: ArrayLike | None = None,
) -> None:
    """Write a video of what the detector saw: H.264 in mp4, as browsers play it.

    Parameters
    ----------
    path : str or Path
        The video to write, ``.mp4``.
    frames : iterable of array-like of shape (H, W) or (H, W, 3), uint8, or of Frame
        Such as :func:`read_frames` gives; no more than one is kept in memory.
    masks : iterable of array-like of shape (h, w), bool, default=None
        Irregular pixels of each frame, as ``segment`` finds them.
    regularity : iterable of array-like of shape (h, w), default=None
        In [0, 1], 1 where it is regular, as ``maps`` gives it.
    scores : iterable of float, default=None
        The higher, the more regular, as ``score_samples`` gives them.
    fps : float, default=25.0
        Frames a second.
    threshold : float, default=0.0
        A frame is irregular if its score is not above this.
    opacity : float, default=0.5
        Of the regularity, in [0, 1].
    zoom : int, default=1
        How many pixels to show a pixel as, along each side.
    ignore_mask : array-like of shape (h, w), bool, default=None
        True where pixels do not count; they are hatched.

    Raises
    ------
    ImportError
        If PyAV is not installed.
    ValueError
        If there are not as many masks, maps or scores as frames, or one of them is none.
    OSError
        If the file cannot be written. An older one stays as it was.

    See Also
    --------
    OverlayWriter : Writes them one by one, and says how they are drawn.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skavid.video import load_frames, write_overlay
    >>> frames = np.zeros((5, 32, 48), dtype=np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_overlay(f"{folder}/seen.mp4", frames, scores=[2, 1, 0, -1, 1], fps=10)
    ...     video = load_frames(f"{folder}/seen.mp4")
    >>> video.frames.shape, video.times
    ((5, 56, 48), array([0. , 0.1, 0.2, 0.3, 0.4]))
    """
    given = {"masks": masks, "regularity": regularity, "scores": scores}
    columns = [repeat(None) if column is None else column for column in given.values()]
    end = object()
    with OverlayWriter(
        path, fps=fps, threshold=threshold, opacity=opacity, zoom=zoom, ignore_mask=ignore_mask
    ) as writer:
        n = 0
        rows = [iter(column) for column in columns]
        for frame in frames:
            values = [next(row, end) for row in rows]
            for name, value in zip(given, values, strict=True):
                if value is end:
                    raise ValueError(f"{name} has {n} rows, but there are more frames.")
            image = frame.image if isinstance(frame, Frame) else frame
            mask, regular, score = values
            writer.write(image, mask=mask, regularity=regular, score=score)
            n += 1
        for (name, column), row in zip(given.items(), rows, strict=True):
            if column is not None and next(row, end) is not end:
                raise ValueError(f"{name} has more rows than the {n} frames.")


def _check_image(image: ArrayLike) -> NDArray[np.uint8]:
    """Return an image as red, green and blue."""
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
        raise ValueError(
            "image must be of uint8, (H, W) or (H, W, 3). Got "
            f"{array.dtype} of shape {array.shape}."
        )
    if 0 in array.shape:
        raise ValueError(f"image has no pixels: its shape is {array.shape}.")
    return np.repeat(array[:, :, None], 3, axis=2) if array.ndim == 2 else array


def _check_map(values: ArrayLike, name: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must have the shape (h, w). Got {array.shape}.")
    return array


def _heat(regularity: NDArray[Any]) -> NDArray[np.float32]:
    """Colour a map: 1 dark blue, 0 yellow; what is no number is regular."""
    irregular = (1 - np.nan_to_num(regularity.astype(np.float32), nan=1)).clip(0, 1)
    at = irregular * (len(_COLORS) - 1)
    below = np.floor(at).astype(int).clip(0, len(_COLORS) - 2)
    share = (at - below)[..., None]
    return np.asarray((1 - share) * _COLORS[below] + share * _COLORS[below + 1])


def _hatched(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay stripes over a picture, darker than what is bright and brighter than what is dark."""
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    period = max(8, picture.shape[0] // 30)
    stripes = np.where((rows + columns) % period < period // 4, *_STRIPES)
    return np.asarray(0.4 * picture + 0.6 * stripes[..., None]).astype(np.uint8)


def _strip(
    scores: deque[float], width: int, height: int, limits: tuple[float, float], threshold: float
) -> NDArray[np.uint8]:
    """Draw the last scores, the newest at the right, and the threshold."""
    strip = np.full((height, width, 3), _STRIP, dtype=np.uint8)
    low, high = limits
    span = high - low or 1.0

    def row(score: float) -> int:
        return round((height - 5) * (1 - (score - low) / span)) + 2

    before: int | None = None
    for column, score in enumerate(scores, start=width - len(scores)):
        if np.isnan(score):
            before = None
            continue
        is_irregular = score <= threshold
        if is_irregular:
            strip[:, column] = _ALARM
        here = row(min(max(score, low), high))
        top, bottom = sorted((here, here if before is None else before))
        strip[top : bottom + 2, column] = _IRREGULAR if is_irregular else _REGULAR
        before = here
    strip[row(threshold), ::4] = strip[row(threshold), 1::4] = _LINE
    return strip


def _drain(
    frames: Iterator[Frame], times: list[float], broken: list[BrokenVideoError] | None
) -> Iterator[NDArray[np.uint8]]:
    """Give all images; of a broken video, where there is a list for the error, those there are."""
    try:
        for frame in frames:
            times.append(frame.time)
            yield frame.image
    except BrokenVideoError as error:
        if broken is None or not times:
            raise
        broken.append(error)


def _stack(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Stack images, and forget each as it is copied, so that memory holds few of them twice."""
    frames = np.empty((len(images), *images[0].shape), np.uint8)
    for index in range(len(images) - 1, -1, -1):
        frames[index] = images.pop()
    return frames


def _write_header(file: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    described = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)


def check_size(size: Any) -> tuple[int, int] | None:
    """Check a height and width, if they are given."""
    if size is None:
        return None
    if len(size) != 2 or not all(isinstance(n, Integral) and int(n) > 0 for n in size):
        raise ValueError(f"size must be (height, width), two positive integers. Got {size!r}.")
    return int(size[0]), int(size[1])


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError("Videos need PyAV; pip install 'skavid[video]'.") from error
    return av


# How to give a picture: its size, None for its own, and whether in colour; None tells its shape
# alone, by an array that takes no memory.
_View = tuple[tuple[int, int] | None, bool] | None
_Seen = Iterator[tuple[list[NDArray[np.uint8]], float]]


def picture_shape(source: Path) -> tuple[int, ...]:
    """Tell the height and width of a picture, or of a clip's first frame, before any resizing.

    Of most pictures the header alone is read.
    """
    (shown,), _ = next(_open(source, [None], 25.0, 10.0))
    return shown.shape


def read_sized(
    source: Path, *, size: tuple[int, int], color: bool
) -> Iterator[tuple[Frame, tuple[int, ...]]]:
    """Read frames as `read_frames` does, each with its height and width before any resizing."""
    pairs = enumerate(_open(source, [(check_size(size), color), None], 25.0, 10.0))
    return ((Frame(few, time, index), own.shape) for index, ((few, own), time) in pairs)


def _open(source: str | Path | int, views: list[_View], fps: float, timeout: float) -> _Seen:
    """Check what can be checked before the first frame, and begin to read."""
    if not isinstance(source, str | Path):
        av = _import_av()
        address, driver = _camera(av, int(source))
        return _decode_live(av, address, driver, views, timeout)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", str(source)):
        return _decode_live(_import_av(), str(source), None, views, timeout)
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no video and no folder {path}.")
    if path.is_dir():
        return _decode_pictures(path, _some_pictures(path), views, float(fps))
    if path.suffix.lower() in PICTURES:
        return _decode_pictures(path, [path], views, float(fps))
    return _decode_file(_import_av(), path, views)


def _number(images: _Seen) -> Iterator[Frame]:
    for index, ((image,), time) in enumerate(images):
        yield Frame(image, time, index)


def natural(path: Path) -> tuple[list[str | int], str]:
    """Order img2 before img10: text and numbers take turns."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [int(part) if odd % 2 else part for odd, part in enumerate(parts)], path.name


def list_pictures(folder: Path) -> list[Path]:
    """List the pictures in a folder in natural order, hidden ones left out."""
    found = (p for p in folder.glob("[!.]*") if p.suffix.lower() in PICTURES and p.is_file())
    return sorted(found, key=natural)


def _some_pictures(folder: Path) -> list[Path]:
    pictures = list_pictures(folder)
    if not pictures:
        visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
        found = ", ".join(path.name for path in sorted(visible, key=natural)[:3]) or "nothing"
        raise ValueError(
            f"{folder} holds no picture ({', '.join(sorted(PICTURES))}), but {found}; give a "
            "folder of pictures or the path of a video."
        )
    return pictures


def _decode_pictures(source: Path, paths: list[Path], views: list[_View], fps: float) -> _Seen:
    """Read pictures; time goes on where one is broken."""
    import_pillow()
    breaks = _Breaks(str(source))
    moment = n_given = 0
    first: tuple[Path, tuple[int, ...]] | None = None
    for path in paths:
        try:
            for mode, images in _pages(path, views):
                if mode in ("I", "F"):
                    raise ValueError(
                        f"{path} has pixels of 32 bits, of which nobody knows the range; save it "
                        "with 8 or 16 bits."
                    )
                image = images[0]
                first = first or (path, image.shape)
                if image.shape != first[1]:
                    raise ValueError(
                        f"{path} has {_pixels(image.shape)}, but {first[0].name} has "
                        f"{_pixels(first[1])}; give size=(height, width) to resize both."
                    )
                yield images, moment / fps
                n_given, moment = n_given + 1, moment + 1
        except OSError as error:
            if error.errno is not None:  # the system says so, not the picture
                raise type(error)(
                    f"{path} cannot be read: {error.strerror}; see that it stays where it is."
                ) from error
            breaks.add(n_given, moment / fps, f"{path.name} cannot be read, {error}")
            moment += 1
    breaks.tell(n_given, moment)


def import_pillow() -> Any:
    """Import Pillow, or say how to get it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Pictures need Pillow; pip install 'skavid[image]'.") from error
    return Image


def _pages(path: Path, views: list[_View]) -> Iterator[tuple[str, list[NDArray[np.uint8]]]]:
    """Give the mode and the views of each page; whatever is wrong with a file is an OSError."""
    from PIL import Image, ImageOps, ImageSequence

    try:
        with Image.open(path, formats=_FORMATS) as picture:
            # Of other formats only the first: a phone's jpg holds previews, too.
            pages = ImageSequence.Iterator(picture) if picture.format == "TIFF" else [picture]
            for page in pages:
                # Pillow before 11 calls the 16 bits of a png "I".
                mode = "I;16" if picture.format == "PNG" and page.mode == "I" else page.mode
                upright = ImageOps.exif_transpose(page) if any(views) else None
                shape = _shape(page) if upright is None else upright.size[::-1]
                yield (
                    mode,
                    [_blank(shape) if v is None else _picture(upright, mode, *v) for v in views],
                )
    except OSError:
        raise
    except Image.DecompressionBombError as error:
        raise OSError(
            f"it claims more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels, which Pillow takes "
            "for an attack (PIL.Image.MAX_IMAGE_PIXELS)"
        ) from error
    except Exception as error:  # Pillow's errors for damaged files are of many kinds
        raise OSError(f"it is damaged ({type(error).__name__})") from error


def _shape(picture: Any) -> tuple[int, int]:
    """Tell the height and width of a picture that is turned upright, without decoding most."""
    from PIL import ExifTags, ImageOps

    width, height = picture.size
    if width == height:
        return height, width
    if picture.format not in ("JPEG", "MPO"):
        # A png may say behind its pixels that it is turned; a tif's size is that of either side,
        # by the release of Pillow.
        width, height = ImageOps.exif_transpose(picture).size
        return height, width
    is_turned = picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (width, height) if is_turned else (height, width)


def _blank(shape: tuple[int, int]) -> NDArray[np.uint8]:
    return np.broadcast_to(np.uint8(0), shape)


def _picture(
    picture: Any, mode: str, size: tuple[int, int] | None, color: bool
) -> NDArray[np.uint8]:
    from PIL import Image

    if mode.startswith("I;16"):
        deep = np.asarray(picture).astype(np.uint32)
        picture = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    if picture.mode not in ("L", "RGB"):
        picture = picture.convert("L" if picture.mode in ("1", "LA") else "RGB")
    picture = picture.convert("RGB" if color else "L")
    if size is not None:
        picture = picture.resize(size[::-1], Image.Resampling.BOX)
    return np.array(picture)


def _pixels(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]} pixels"


def _camera(av: Any, number: int) -> tuple[str, str]:
    """Address and driver of a camera."""
    if sys.platform == "win32":
        names = [one.name for one in av.device.enumerate_input_devices("dshow")]
        if number >= len(names):
            raise FileNotFoundError(f"There is no camera {number}, only {names}.")
        return f"video={names[number]}", "dshow"
    if sys.platform == "darwin":
        return str(number), "avfoundation"
    return f"/dev/video{number}", "v4l2"


def _decode_live(
    av: Any,
    address: str,
    driver: str | None,
    views: list[_View],
    timeout: float,
) -> _Seen:
    name = f"Camera {address}" if driver else re.sub(r"//[^/@]*@", "//", address)  # no password
    try:
        container = av.open(address, format=driver, timeout=timeout, **_FFMPEG)
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{name} cannot be opened: {reason}.") from None
    with container:
        mend = "Open it again to go on."
        yield from _decode(av, container, views, _Breaks(name, mend=mend))


def _decode_file(av: Any, path: Path, views: list[_View]) -> _Seen:
    breaks = _Breaks(str(path))
    try:
        container = av.open(str(path), **_FFMPEG)
    except av.error.FFmpegError as error:
        with path.open("rb") as file:  # where it may not be read, that is what is told
            if file.read(8)[4:] == b"ftyp":  # mp4 or mov
                breaks.add(0, 0.0, "its index, which comes last, is missing")
                breaks.tell(0)
        raise ValueError(
            f"{path} is no video that FFmpeg can read; give a video, or a folder of pictures."
        ) from error
    with container:
        yield from _decode(av, container, views, breaks)


def _decode(av: Any, container: Any, views: list[_View], breaks: _Breaks) -> _Seen:
    """Decode a video, and tell at its end where it was broken."""
    stream = container.streams.best("video")
    if stream is None and len(container.streams):
        raise ValueError(f"{breaks.name} holds no video, only sound or text.")
    if stream is None or stream.codec_context is None:
        breaks.add(0, 0.0, "its index is damaged or cut off")
        breaks.tell(0)
    context = stream.codec_context
    if context.width * context.height > MOST_PIXELS:
        raise ValueError(
            f"{breaks.name} claims frames of {context.width} x {context.height} pixels, but they "
            f"may have {MOST_PIXELS:,}; make it smaller first."
        )
    context.options = {**context.options, **_FFMPEG["options"]}  # for frames that grow later
    clock = _Clock(container, stream)
    # Each remembers its last picture's size, so each view has its own.
    resizers = [av.video.reformatter.VideoReformatter() for _ in views]
    own: tuple[int, int] | None = None
    n_given = 0
    for frame in _sound_frames(av, container, stream, clock):
        if isinstance(frame, str):
            breaks.add(n_given, clock.next, frame)
            continue
        turns = round(frame.rotation / 90) % 4
        if own is None:
            own = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
        images = []
        for resizer, view in zip(resizers, views, strict=True):
            if view is None:
                images.append(_blank(own))
                continue
            size, color = view
            height, width = (size or own)[::-1] if turns % 2 else (size or own)
            pixels = resizer.reformat(
                frame, width, height, "rgb24" if color else "gray", interpolation="AREA"
            )
            # A copy: the decoder may still predict other frames from its own.
            images.append(np.array(np.rot90(pixels.to_ndarray(), turns)))
        yield images, clock.tick(frame)
        n_given += 1
    if clock.declared is not None and clock.is_early() and breaks.last != n_given:
        reason = f"it ends there, but its header promises {clock.declared:.2f} s"
        breaks.add(n_given, clock.next, reason)
    breaks.tell(n_given, stream.frames or clock.n_declared(), about=not stream.frames)
    if n_given == 0:
        raise ValueError(f"{breaks.name} holds no frames.")


def _sound_frames(av: Any, container: Any, stream: Any, clock: _Clock) -> Iterator[Any]:
    """Give frames, and a reason in place of those that are damaged, up to the next key frame."""
    begun, waiting, since = False, False, None
    for packet in _packets(av, container, clock):
        failed = isinstance(packet, str)
        if not failed and (
            packet.stream.index != stream.index or (waiting and not packet.is_keyframe)
        ):
            continue
        if waiting and not failed:
            waiting, since = False, packet.pts
        frames, reason = ([], packet) if failed else _decode_packet(av, stream, packet)
        # A stream may be joined between key frames: what comes before the first is not broken.
        begun = begun or failed or bool(frames) or packet.is_keyframe
        if reason is not None:
            if reason != DAMAGED:  # then what the decoder still holds came before
                frames = frames + _decode_packet(av, stream, None)[0]
            stream.codec_context.flush_buffers()
        for frame in frames:
            # A key frame may be sent before frames that are shown before it.
            if since is None or frame.pts is None or frame.pts >= since:
                yield frame
        if reason is not None and begun:
            waiting = True
            yield reason


def _packets(av: Any, container: Any, clock: _Clock) -> Iterator[Any]:
    """Give packets, and a reason at the end where reading fails."""
    try:
        for packet in container.demux(clock.tracks):
            clock.see(packet)
            yield packet
    except av.error.ExitError:
        yield "no answer in time"
    except av.error.FFmpegError as error:
        yield error.strerror


def _decode_packet(av: Any, stream: Any, packet: Any) -> tuple[list[Any], str | None]:
    """Return the frames that a packet, or None for the last, sets free, and what is wrong."""
    if packet is not None and packet.is_corrupt:
        return [], "a packet is damaged or cut off"
    try:
        frames = stream.decode(packet)
    except av.error.FFmpegError as error:
        return [], error.strerror
    sound = list(takewhile(lambda frame: not frame.is_corrupt, frames))
    return sound, None if len(sound) == len(frames) else DAMAGED


class _Clock:
    """When frames are shown, and when the last should be."""

    def __init__(self, container: Any, stream: Any) -> None:
        kind = container.format.name.split(",")[0]
        self.base = stream.time_base
        self.by_dts = kind == "avi"  # which knows only the order of decoding
        self.step = 1 / float(stream.average_rate or 25)
        self.origin: float | None = None
        if stream.start_time is not None and not (
            self.by_dts and stream.codec_context.has_b_frames
        ):
            self.origin = float(stream.start_time * self.base)
        self.next = 0.0  # where a frame is missing, if one is
        self.tracks = [stream]
        self.declared: float | None = None
        if kind in DECLARES_DURATION:
            if stream.duration:
                self.declared = float(stream.duration * self.base)
            elif container.duration:
                self.declared = container.duration / 1e6
                self.tracks += [one for one in container.streams if one.type == "audio"]
            if self.by_dts and stream.frames:
                # FFmpeg shortens the duration of a file that was cut off, not this.
                self.declared = stream.frames * self.step
        self.end = 0.0
        self.last: float | None = None
        self.shortest = self.longest = self.step

    def see(self, packet: Any) -> None:
        """Note when a packet ends."""
        stamp = packet.dts if self.by_dts else packet.pts
        if stamp is not None and not packet.is_corrupt:
            length = packet.duration * packet.time_base or self.step
            self.end = max(self.end, float(stamp * packet.time_base + length))

    def tick(self, frame: Any) -> float:
        """Return when a frame is shown, in seconds since the beginning."""
        stamp = frame.dts if self.by_dts else frame.pts
        if stamp is None:
            time = self.next
        else:
            seconds = float(stamp * self.base)
            self.origin = seconds if self.origin is None else self.origin
            time = seconds - self.origin
        if self.last is not None and time > self.last:
            self.shortest = min(self.shortest, time - self.last)
            self.longest = max(self.longest, time - self.last)
        self.last, self.next = time, time + self.step
        return time

    def is_early(self) -> bool:
        """Tell whether frames are missing at the end.

        The last frame may last as long as any before it, and its length may not be stored.
        """
        assert self.declared is not None
        return self.end < self.declared - (self.longest - self.shortest / 2)

    def n_declared(self) -> int:
        """Tell about how many frames the declared time holds; 0 where none is declared."""
        return round((self.declared or 0) / self.step)


class _Breaks:
    """Where a source is broken: the first place, and how many there are."""

    def __init__(self, name: str, *, mend: str = "") -> None:
        self.name = name
        self.mend = mend
        self.count = 0
        self.last = -1

    def add(self, n_before: int, time: float, reason: str) -> None:
        if self.count == 0:
            self.first = n_before, time, reason.rstrip(".")
        self.count += 1
        self.last = n_before

    def tell(self, n_given: int, n_whole: int = 0, *, about: bool = False) -> None:
        """Raise, if it is broken; `n_whole` is how many frames there should be, 0 if unknown."""
        if self.count == 0:
            return
        n_before, time, reason = self.first
        where = lost = rest = ""
        if n_given:
            more = f", and in {self.count - 1} more places" if self.count > 1 else ""
            where = f" after {counted(n_before, 'frame')}, at {time:.2f} s{more}"
            rest = ", or take what is there with load_frames(..., errors='warn')"
            lost = f"; {counted(n_given, 'frame')} can be read"
            if n_whole > n_given:
                n_lost = f"{'about ' if about else ''}{n_whole - n_given}"
                lost = f"; {n_lost} of {counted(n_whole, 'frame')} cannot be read"
        mend = self.mend or f"Get it anew{rest}."
        raise BrokenVideoError(f"{self.name} is broken{where}: {reason}{lost}. {mend}")
