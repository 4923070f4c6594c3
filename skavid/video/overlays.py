"""Videos and images with the results of a detector drawn over them.

PyAV is imported when a video is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from itertools import repeat
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_dilation, binary_erosion

from skavid.core.images import check_ignored, resize
from skavid.sklearn_private import Interval, validated
from skavid.video.decoding import import_av
from skavid.video.frames import Frame
from skavid.video.pictures import import_pillow
from skavid.wording import pixels_of
from skavid.writing import beside

__all__ = ["OverlayWriter", "draw_overlay", "write_overlay"]

_HEAT = np.array([230, 0, 126])  # magenta, which few things are; the stronger, the less regular
_OUTLINE, _RIM = (255, 255, 255), (0, 0, 0)
_TICK = Fraction(1, 90_000)  # seconds, as in MPEG, for frames that have times
_STRIP, _ALARM = (24, 24, 28), (90, 45, 0)  # background of regular and irregular frames
_STRIPES = 150, 30  # grey on dark
_REGULAR, _IRREGULAR, _LINE = (84, 130, 190), (255, 176, 0), (235, 235, 235)


class OverlayWriter:
    """Write a video of results frame by frame, as H.264 in mp4, which browsers can play.

    Irregular pixels are tinted magenta, the more, the lower their regularity is, and regular ones
    stay as they are; the mask is outlined in white with a black rim; ignored pixels are hatched.
    A strip below shows the scores of the last frames, as many as the frame is wide, relative to
    the threshold; those at or below it are orange. A ``note`` is written into it, on the left.

    Use it in a ``with`` block. The file is complete once the block ends; if the block raises, or
    no frame was written, an existing file is left unchanged.

    Parameters
    ----------
    path : str or Path
        The video to write, ``.mp4``.
    fps : float, default=25.0
        Frames per second of frames without a time.
    threshold : float, default=0.0
        A frame is irregular if its score is at most this. 0 fits the ``score_samples`` of
        :class:`skavid.AVIDDetector`.
    opacity : float, default=0.5
        Opacity of the tint where the regularity is 0, in [0, 1].
    zoom : int, default=1
        Factor by which each side is enlarged; larger values give small images fine outlines.
    ignore_mask : array-like of shape (h, w), bool, default=None
        True where pixels do not count, as in :class:`skavid.AVIDDetector`. They are hatched and
        show no regularity. The mask is resized to the images.
    pixel_aspect : float, default=1.0
        Width of a pixel relative to its height, which players stretch the video by. That of the
        source keeps its proportions, such as 16 / 11 for widescreen PAL of 720 x 576 pixels.

    See Also
    --------
    write_overlay : Writes arrays at once.

    Notes
    -----
    The strip is drawn if the first frame has a score. Its scale spans all scores so far. Sides of
    an odd number of pixels are padded by one, as H.264 requires.

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

    @validated(
        path=[str, Path],
        fps=[Interval(Real, 0, None, closed="neither")],
        threshold=[Interval(Real, None, None, closed="neither")],
        opacity=[Interval(Real, 0, 1, closed="both")],
        zoom=[Interval(Integral, 1, None, closed="left")],
        ignore_mask=["array-like", None],
        pixel_aspect=[Interval(Real, 0, None, closed="neither")],
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
        pixel_aspect: float = 1.0,
    ) -> None:
        self.path = Path(path).expanduser()
        if self.path.suffix.lower() != ".mp4":
            raise ValueError(f"path must end with .mp4. Got {str(path)!r}.")
        self.fps = fps
        self.threshold = threshold
        self.opacity = opacity
        self.zoom = zoom
        self.ignore_mask = None if ignore_mask is None else check_ignored(ignore_mask)
        self.pixel_aspect = pixel_aspect
        self._av = import_av()
        self._exits: ExitStack | None = None

    def __enter__(self) -> OverlayWriter:
        with ExitStack() as exits:
            self._part = exits.enter_context(beside(self.path))
            with self._errors_named():
                self._container = exits.enter_context(
                    self._av.open(
                        str(self._part),
                        "w",
                        format="mp4",
                        container_options={"movflags": "+faststart"},
                    )
                )
            self._kind: tuple[tuple[int, int], bool] | None = None
            self._last_pts: int | None = None
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
            with exits, self._errors_named():
                if self._kind is None:
                    raise ValueError(f"No frame was written to {self.path}.")
                self._container.mux(self._stream.encode(None))
                self._container.close()
        else:
            with suppress(self._av.error.FFmpegError):  # ``error`` came first and is the reason
                exits.__exit__(kind, error, trace)

    def write(
        self,
        image: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        regularity: ArrayLike | None = None,
        score: float | None = None,
        time: float | None = None,
        note: str = "",
    ) -> None:
        """Write the next frame.

        Parameters
        ----------
        image : array-like of shape (H, W) or (H, W, 3), uint8
            An image of the size of the frames before it.
        mask : array-like of shape (h, w), bool, default=None
            True where a pixel is irregular. Maps are resized to the image.
        regularity : array-like of shape (h, w), default=None
            In [0, 1], 1 where the image is regular.
        score : float, default=None
            The higher, the more regular. None and NaN leave a gap in the strip.
        time : float, default=None
            When the frame is shown, in seconds, so that a video of variable frame rate keeps its
            times. None shows it ``1 / fps`` after the frame before it, and so does a time that
            does not follow that of the frame before it.
        note : str, default=""
            A few words to write into the strip below this frame, such as "blank or covered".

        Raises
        ------
        ValueError
            If the image or a map has a wrong shape or dtype, the image has another size than the
            first, or it has a score but the first frame had none.
        OSError
            If the file cannot be written, for example because the disk is full.
        ImportError
            If there is a note, and Pillow is not installed.
        """
        if self._exits is None:
            raise ValueError("An OverlayWriter must be used in a with block.")
        frame = _check_image(image)
        kind = frame.shape[:2], score is not None
        if self._kind is None:
            self._begin(*kind, has_times=time is not None)
        assert self._kind is not None
        if kind[0] != self._kind[0]:
            raise ValueError(
                f"image has {pixels_of(kind[0])}, but the first had {pixels_of(self._kind[0])}; "
                "resize it first."
            )
        if kind[1] and not self._kind[1]:
            raise ValueError(
                "score was given after frames without one; give the first frame a score, NaN if "
                "it has none."
            )
        picture = self._draw(frame, mask, regularity, score, note)
        odd = np.array(picture.shape[:2]) % 2
        picture = np.pad(picture, [(0, odd[0]), (0, odd[1]), (0, 0)], mode="edge")
        shown = self._av.VideoFrame.from_ndarray(picture, format="rgb24")
        shown.pts, shown.time_base = self._next_pts(time), self._base
        with self._errors_named():
            self._container.mux(self._stream.encode(shown))

    def _next_pts(self, time: float | None) -> int:
        """Return the time of the next frame in units of the time base; times always rise."""
        step = max(1, round(1 / (self._base * self._rate)))
        expected = 0 if self._last_pts is None else self._last_pts + step
        pts = expected if time is None else round(time / self._base)
        self._last_pts = pts if self._last_pts is None or pts > self._last_pts else expected
        return self._last_pts

    def _begin(self, shape: tuple[int, int], has_strip: bool, *, has_times: bool) -> None:
        self._kind = shape, has_strip
        height, width = self.zoom * shape[0], self.zoom * shape[1]
        self._scores: deque[float] = deque(maxlen=shape[1])
        self._range = (self.threshold, self.threshold)
        self._strip_height = max(24, height // 5) if has_strip else 0
        self._rate = rate = Fraction(self.fps).limit_denominator(1001)
        self._base = _TICK if has_times else 1 / rate
        with self._errors_named():
            self._stream = self._container.add_stream(
                "libx264",
                rate=rate,
                width=width + width % 2,
                height=(whole := height + self._strip_height) + whole % 2,
                pix_fmt="yuv420p",
                options={"crf": "18", "preset": "veryfast", "g": str(max(1, round(2 * rate)))},
            )
            aspect = Fraction(self.pixel_aspect).limit_denominator(255)
            self._stream.codec_context.sample_aspect_ratio = aspect
            self._stream.codec_context.time_base = self._stream.time_base = self._base

    def _draw(
        self,
        frame: NDArray[np.uint8],
        mask: ArrayLike | None,
        regularity: ArrayLike | None,
        score: float | None,
        note: str,
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
        strip = strip.repeat(self.zoom, axis=1)
        if note:
            _write_note(strip, note)
        return np.concatenate([picture, strip])

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Name the target, not its temporary file, in errors."""
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
    """Draw a mask and a regularity map over a single image, as `OverlayWriter` does.

    Parameters
    ----------
    image : array-like of shape (H, W) or (H, W, 3), uint8
        The image.
    mask : array-like of shape (h, w), bool, default=None
        True where a pixel is irregular. Maps are resized to the image.
    regularity : array-like of shape (h, w), default=None
        In [0, 1], 1 where the image is regular.
    opacity, zoom, ignore_mask : float, int, array-like or None
        As in :class:`OverlayWriter`.

    Returns
    -------
    picture : ndarray of shape (zoom * H, zoom * W, 3), uint8
        The drawing in red, green and blue.

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
        regular = resize(_check_map(regularity, "regularity"), size).astype(np.float32)
        share = opacity * (1 - np.nan_to_num(regular, nan=1))[..., None]
        picture = np.rint((1 - share) * picture + share * _HEAT).astype(np.uint8)
    if ignore_mask is not None:
        ignored = resize(check_ignored(ignore_mask), size)
        picture[ignored] = _hatched(resize(frame, size))[ignored]
    if mask is not None:
        inside = resize(_check_map(mask, "mask") != 0, size)
        width = max(1, size[0] // 360)  # remains visible in large images
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
    pixel_aspect: float = 1.0,
) -> None:
    """Write a video of results, as H.264 in mp4, which browsers can play.

    Parameters
    ----------
    path : str or Path
        The video to write, ``.mp4``.
    frames : iterable of array-like of shape (H, W) or (H, W, 3), uint8, or of Frame
        Frames; one is in memory at a time. Those of :func:`read_frames` keep their times.
    masks : iterable of array-like of shape (h, w), bool, default=None
        Irregular pixels of each frame, as ``segment`` returns them.
    regularity : iterable of array-like of shape (h, w), default=None
        In [0, 1], 1 where the frame is regular, as ``maps`` returns it.
    scores : iterable of float, default=None
        The higher, the more regular, as ``score_samples`` returns them.
    fps, threshold, opacity, zoom : float, float, float, int
        As in :class:`OverlayWriter`.
    ignore_mask, pixel_aspect : array-like or None, float
        As in :class:`OverlayWriter`.

    Raises
    ------
    ImportError
        If PyAV is not installed.
    ValueError
        If there are not as many masks, maps or scores as frames, or one of them is invalid.
    OSError
        If the file cannot be written. An existing file is left unchanged.

    See Also
    --------
    OverlayWriter : Writes frames one by one, and describes the drawing.

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
        path,
        fps=fps,
        threshold=threshold,
        opacity=opacity,
        zoom=zoom,
        ignore_mask=ignore_mask,
        pixel_aspect=pixel_aspect,
    ) as writer:
        n = 0
        rows = [iter(column) for column in columns]
        for frame in frames:
            values: list[Any] = [next(row, end) for row in rows]
            for name, value in zip(given, values, strict=True):
                if value is end:
                    raise ValueError(f"{name} has {n} rows, but there are more frames.")
            image = frame.image if isinstance(frame, Frame) else frame
            mask, regular, score = values
            time = frame.time if isinstance(frame, Frame) else None
            writer.write(image, mask=mask, regularity=regular, score=score, time=time)
            n += 1
        for (name, column), row in zip(given.items(), rows, strict=True):
            if column is not None and next(row, end) is not end:
                raise ValueError(f"{name} has more rows than the {n} frames.")


def _check_image(image: ArrayLike) -> NDArray[np.uint8]:
    """Check an image and convert it to red, green and blue."""
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


def _hatched(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw stripes over an image, dark on bright pixels and bright on dark ones."""
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    period = max(8, picture.shape[0] // 30)
    stripes = np.where((rows + columns) % period < period // 4, *_STRIPES)
    return np.asarray(0.4 * picture + 0.6 * stripes[..., None]).astype(np.uint8)


def _write_note(strip: NDArray[np.uint8], note: str) -> None:
    """Write a note on a dark ground at the upper left, as large as fits, but at most half as high.

    A font of one size is enlarged by whole pixels, since older Pillow has no other.
    """
    from PIL import ImageDraw, ImageFont

    Image = import_pillow()
    font = ImageFont.load_default()
    note = note.encode("latin-1", "replace").decode("latin-1")  # all that an old font can draw
    left, top, right, bottom = map(round, font.getbbox(note))
    text = Image.new("L", (right - left + 4, bottom - top + 4))
    ImageDraw.Draw(text).text((2 - left, 2 - top), note, fill=255, font=font)
    factor = max(1, min(strip.shape[1] // text.width, strip.shape[0] // (2 * text.height)))
    share = np.asarray(text).repeat(factor, axis=0).repeat(factor, axis=1)[..., None] / 255
    height, width = (min(pair) for pair in zip(strip.shape, share.shape[:2], strict=False))
    share = share[:height, :width]
    strip[:height, :width] = np.rint((1 - share) * _STRIP + share * _LINE)


def _strip(
    scores: deque[float], width: int, height: int, limits: tuple[float, float], threshold: float
) -> NDArray[np.uint8]:
    """Draw the last scores, the newest on the right, and the threshold."""
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
