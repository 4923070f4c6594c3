"""Decoding of videos, images, cameras and network addresses, and the defects found on the way."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skavid.video.pictures import (
    PICTURES,
    Range,
    begins_as_picture,
    convert,
    describe_range,
    find_range,
    import_pillow,
    is_animation,
    is_deep,
    list_pictures,
    natural,
    read_pages,
    shape_of,
    stored_values,
    to_bytes,
    upright,
)
from skavid.wording import counted, pixels_of

__all__ = ["BrokenVideoError"]

# Usual names of videos. Files with other names are identified by their content.
VIDEOS = {
    ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".mxf", ".ogv", ".webm", ".wmv",
}  # fmt: skip
# Containers whose header declares a duration; others are identified by their content.
DECLARES_DURATION = {"avi", "flv", "matroska", "mov"}
DAMAGED = "a frame is damaged"
MOST_PIXELS = 2**26  # of a video frame; 8K has half of it
# Titles may be in any encoding, and a header may claim any size.
FFMPEG: dict[str, Any] = {
    "metadata_errors": "replace",
    "options": {"max_pixels": str(MOST_PIXELS)},
}

# How to decode a frame: its size (None for its own) and whether in colour. None yields only the
# shape, as an array that takes no memory.
View = tuple[tuple[int, int] | None, bool] | None
Decoded = Iterator[tuple[list[NDArray[np.uint8]], float]]


class BrokenVideoError(OSError):
    """A video or a folder of images is damaged or truncated.

    It is raised after the frames that could be read, and names the first missing one.
    """


def open_source(
    source: str | Path | int,
    views: list[View],
    fps: float = 25.0,
    timeout: float = 10.0,
    value_range: Range | None = None,
) -> Decoded:
    """Check the source and return an iterator of its frames, each in the requested views."""
    if not isinstance(source, str | Path):
        av = import_av()
        address, driver = _camera(av, int(source))
        return _decode_live(av, address, driver, views, timeout)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", str(source)):
        return _decode_live(import_av(), str(source), None, views, timeout)
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no video and no folder {path}.")
    if path.is_dir():
        return _decode_pictures(path, some_pictures(path), views, float(fps), value_range)
    if is_picture(path):
        return _decode_pictures(path, [path], views, float(fps), value_range)
    return _decode_file(import_av(), path, views)


def is_picture(path: Path) -> bool:
    """Return whether a file is an image, or an animation that Pillow reads, by its content.

    A file that is named like an image and can be read as nothing else is a damaged image.
    """
    if begins_as_picture(path):
        return True
    return path.suffix.lower() in PICTURES and not _is_film(path)


def is_video(path: Path) -> bool:
    """Return whether a file is a video, or an animation, by its content.

    A file that is named like a video and begins like nothing else is a damaged video.
    """
    if begins_as_picture(path):
        return is_animation(path)
    return path.suffix.lower() in VIDEOS or _is_film(path)


def is_text(path: Path) -> bool:
    """Return whether a file that is named neither like an image nor like a video is text."""
    if path.suffix.lower() in PICTURES | VIDEOS:
        return False  # a damaged one
    head = _head(path)
    return bool(head) and not _is_binary(head)


def _head(path: Path) -> bytes:
    """Return the first bytes of a file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(2**10)
    except OSError:
        return b""


def _is_binary(head: bytes) -> bool:
    return b"\0" in head or head.startswith(b"YUV4MPEG2")


def _is_film(path: Path) -> bool:
    """Return whether FFmpeg finds moving pictures in a file, not text nor the cover of a song."""
    if not _is_binary(_head(path)):
        return False  # text, which FFmpeg might take for a drawing of characters
    try:
        av = import_av()
    except ImportError:
        return False
    try:
        with av.open(str(path), **FFMPEG) as container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None or not stream.codec_context.width:
                return False
            is_cover = bool(stream.disposition & av.stream.Disposition.attached_pic)
            return not is_cover and not container.format.name.endswith("_pipe")
    except (av.error.FFmpegError, ValueError):
        return False


def some_pictures(folder: Path) -> list[Path]:
    pictures = list_pictures(folder)
    if not pictures:
        visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
        found = ", ".join(path.name for path in sorted(visible, key=natural)[:3]) or "nothing"
        raise ValueError(
            f"{folder} holds no image ({', '.join(sorted(PICTURES))}), but {found}; give a "
            "folder of images or the path of a video."
        )
    return pictures


def import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError("Videos need PyAV; pip install 'skavid[video]'.") from error
    return av


def _decode_pictures(
    source: Path, paths: list[Path], views: list[View], fps: float, value_range: Range | None
) -> Decoded:
    """Read image files; a broken one still takes its time."""
    import_pillow()
    breaks = _Breaks(str(source))
    scale = _Scale(source, paths, value_range)
    n_given, time = 0, 0.0
    first: tuple[Path, tuple[int, ...]] | None = None
    for path in paths:
        try:
            for page, seconds in read_pages(path):
                images = _show(page, path, views, scale)
                image = images[0]
                first = first or (path, image.shape)
                if image.shape != first[1]:
                    raise ValueError(
                        f"{path} has {pixels_of(image.shape)}, but {first[0].name} has "
                        f"{pixels_of(first[1])}; give size=(height, width) to resize both."
                    )
                yield images, time
                n_given += 1
                time = round(time + (1 / fps if seconds is None else seconds), 9)
        except OSError as error:
            if error.errno is not None:  # from the system, not from the image
                raise type(error)(
                    f"{path} cannot be read: {error.strerror}; make sure that it is not moved."
                ) from error
            breaks.add(n_given, time, f"{path.name} cannot be read, {error}")
            time = round(time + 1 / fps, 9)
    breaks.report(n_given, n_given + breaks.count)


class _Scale:
    """Scales deep images to 8 bits; the range is told once, and values that lie outside."""

    def __init__(self, source: Path, paths: list[Path], value_range: Range | None) -> None:
        self.source = source
        self.paths = paths
        self.value_range = value_range
        self.has_warned = False

    def apply(self, values: NDArray[Any], path: Path) -> NDArray[np.uint8]:
        if self.value_range is None:
            self.value_range = find_range(self.paths) or (0.0, 65535.0)
            if self.value_range != (0.0, 65535.0):
                warnings.warn(
                    f"The values of {self.source} are read {describe_range(self.value_range)}; "
                    "give value_range=(low, high) for another range.",
                    stacklevel=4,
                )
        scaled, is_outside = to_bytes(values, self.value_range)
        if is_outside and not self.has_warned:
            self.has_warned = True
            low, high = self.value_range
            warnings.warn(
                f"{path} holds values from {values.min():g} to {values.max():g}, but images are "
                f"read from {low:g} to {high:g}; values outside become black or white.",
                stacklevel=4,
            )
        return scaled


def _show(page: Any, path: Path, views: list[View], scale: _Scale) -> list[NDArray[np.uint8]]:
    """Return the views of an image; every defect raises an OSError."""
    from PIL import Image

    if not any(views):
        return [_blank(shape_of(page)) for _ in views]
    if is_deep(page):
        values = stored_values(page, path)
        if values.ndim == 3:  # without transparency
            values = values[..., 0] if values.shape[2] < 3 else values[..., :3]
        picture = Image.fromarray(scale.apply(values, path))
    else:
        picture = upright(page)
    shape = picture.size[::-1]
    return [_blank(shape) if view is None else convert(picture, *view) for view in views]


def _blank(shape: tuple[int, int]) -> NDArray[np.uint8]:
    return np.broadcast_to(np.uint8(0), shape)


def _camera(av: Any, number: int) -> tuple[str, str]:
    """Return the address and the driver of a camera."""
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
    views: list[View],
    timeout: float,
) -> Decoded:
    name = f"Camera {address}" if driver else re.sub(r"//[^/@]*@", "//", address)  # no password
    try:
        container = av.open(address, format=driver, timeout=timeout, **FFMPEG)
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{name} cannot be opened: {reason}.") from None
    with container:
        breaks = _Breaks(name, remedy="Open it again to continue.")
        yield from _decode(av, container, views, breaks)


def _decode_file(av: Any, path: Path, views: list[View]) -> Decoded:
    breaks = _Breaks(str(path))
    try:
        container = av.open(str(path), **FFMPEG)
    except av.error.FFmpegError as error:
        with path.open("rb") as file:  # raises PermissionError where it applies
            if file.read(8)[4:] == b"ftyp":  # mp4 or mov
                breaks.add(0, 0.0, "its index, which comes last, is missing")
                breaks.report(0)
        raise ValueError(
            f"{path} is no video that FFmpeg can read; give a video, or a folder of images."
        ) from error
    with container:
        yield from _decode(av, container, views, breaks)


def _decode(av: Any, container: Any, views: list[View], breaks: _Breaks) -> Decoded:
    """Decode a video, and report its defects at the end."""
    stream = container.streams.best("video")
    if stream is None and len(container.streams):
        raise ValueError(f"{breaks.name} holds no video, only sound or text.")
    if stream is None or stream.codec_context is None:
        breaks.add(0, 0.0, "its index is damaged or cut off")
        breaks.report(0)
    context = stream.codec_context
    if context.width * context.height > MOST_PIXELS:
        raise ValueError(
            f"{breaks.name} claims frames of {context.width} x {context.height} pixels, but at "
            f"most {MOST_PIXELS:,} are allowed; make it smaller first."
        )
    context.options = {
        **context.options,
        **FFMPEG["options"],
    }  # for frames that become larger later
    clock = _Clock(container, stream)
    # A reformatter caches its last size, so each view has its own.
    resizers = [av.video.reformatter.VideoReformatter() for _ in views]
    own: tuple[int, int] | None = None
    n_given, is_told = 0, False
    for frame in _sound_frames(av, container, stream, clock):
        if isinstance(frame, str):
            breaks.add(n_given, clock.next, frame)
            continue
        turns = round(frame.rotation / 90) % 4
        shape = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
        own = own or shape
        if shape != own and not is_told:
            is_told = True
            warnings.warn(
                f"{breaks.name} changes its size at {clock.next:.2f} s from {pixels_of(own)} "
                f"(width x height) to {pixels_of(shape)}; all frames are resized to the first "
                "size.",
                stacklevel=2,
            )
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
            # A copy, as the decoder may still predict other frames from it.
            images.append(np.array(np.rot90(pixels.to_ndarray(), turns)))
        yield images, clock.tick(frame)
        n_given += 1
    if clock.declared is not None and clock.is_early() and breaks.last != n_given:
        reason = f"it ends there, but its header declares {clock.declared:.2f} s"
        breaks.add(n_given, clock.next, reason)
    breaks.report(n_given, stream.frames or clock.n_declared(), about=not stream.frames)
    if n_given == 0:
        raise ValueError(f"{breaks.name} holds no frames.")


def _sound_frames(av: Any, container: Any, stream: Any, clock: _Clock) -> Iterator[Any]:
    """Yield frames, and a reason in place of damaged ones up to the next key frame."""
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
        # A stream may be joined between key frames: it is not broken before the first one.
        begun = begun or failed or bool(frames) or packet.is_keyframe
        if reason is not None:
            if reason != DAMAGED:  # the decoder still holds earlier frames
                frames = frames + _decode_packet(av, stream, None)[0]
            stream.codec_context.flush_buffers()
        for frame in frames:
            # A key frame may be sent before frames with earlier times.
            if since is None or frame.pts is None or frame.pts >= since:
                yield frame
        if reason is not None and begun:
            waiting = True
            yield reason


def _packets(av: Any, container: Any, clock: _Clock) -> Iterator[Any]:
    """Yield packets, and a reason at the end if reading fails."""
    try:
        for packet in container.demux(clock.tracks):
            clock.see(packet)
            yield packet
    except av.error.ExitError:
        yield "no answer in time"
    except av.error.FFmpegError as error:
        yield error.strerror


def _decode_packet(av: Any, stream: Any, packet: Any) -> tuple[list[Any], str | None]:
    """Decode a packet, or flush the decoder with None; return frames and the failure, if any."""
    if packet is not None and packet.is_corrupt:
        return [], "a packet is damaged or cut off"
    try:
        frames = stream.decode(packet)
    except av.error.FFmpegError as error:
        return [], error.strerror
    sound = list(takewhile(lambda frame: not frame.is_corrupt, frames))
    return sound, None if len(sound) == len(frames) else DAMAGED


class _Clock:
    """Computes the times of frames, and whether frames are missing at the end."""

    def __init__(self, container: Any, stream: Any) -> None:
        kind = container.format.name.split(",")[0]
        self.base = stream.time_base
        self.by_dts = kind == "avi"  # which stores only the order of decoding
        self.step = 1 / float(stream.average_rate or 25)
        self.origin: float | None = None
        if stream.start_time is not None and not (
            self.by_dts and stream.codec_context.has_b_frames
        ):
            self.origin = float(stream.start_time * self.base)
        self.next = 0.0  # expected time of the next frame
        self.tracks = [stream]
        self.declared: float | None = None
        if kind in DECLARES_DURATION:
            if stream.duration:
                self.declared = float(stream.duration * self.base)
            elif container.duration:
                self.declared = container.duration / 1e6
                self.tracks += [one for one in container.streams if one.type == "audio"]
            if self.by_dts and stream.frames:
                # FFmpeg shortens the duration of a truncated file, but not this number.
                self.declared = stream.frames * self.step
        self.end = 0.0
        self.last: float | None = None
        self.shortest = self.longest = self.step

    def see(self, packet: Any) -> None:
        """Record the end time of a packet."""
        stamp = packet.dts if self.by_dts else packet.pts
        if stamp is not None and not packet.is_corrupt:
            length = packet.duration * packet.time_base or self.step
            self.end = max(self.end, float(stamp * packet.time_base + length))

    def tick(self, frame: Any) -> float:
        """Return the time of a frame in seconds since the beginning."""
        stamp = frame.dts if self.by_dts else frame.pts
        if stamp is None:
            time = self.next
        else:
            seconds = float(stamp * self.base)
            self.origin = seconds if self.origin is None else self.origin
            time = seconds - self.origin
            if self.last is not None and time <= self.last:  # joined streams: the clock restarts
                time = self.next
                self.origin = seconds - time
        if self.last is not None and time > self.last:
            self.shortest = min(self.shortest, time - self.last)
            self.longest = max(self.longest, time - self.last)
        self.last, self.next = time, time + self.step
        return time

    def is_early(self) -> bool:
        """Return whether frames are missing at the end.

        The last frame may be shown as long as any other, and its duration may not be stored.
        """
        assert self.declared is not None
        return self.end < self.declared - (self.longest - self.shortest / 2)

    def n_declared(self) -> int:
        """Estimate the number of frames of the declared duration; 0 if none is declared."""
        return round((self.declared or 0) / self.step)


class _Breaks:
    """Collects the defects of a source: the first one, and their number."""

    def __init__(self, name: str, *, remedy: str = "") -> None:
        self.name = name
        self.remedy = remedy
        self.count = 0
        self.last = -1

    def add(self, n_before: int, time: float, reason: str) -> None:
        if self.count == 0:
            self.first = n_before, time, reason.rstrip(".")
        self.count += 1
        self.last = n_before

    def report(self, n_given: int, n_whole: int = 0, *, about: bool = False) -> None:
        """Raise if there are defects; `n_whole` is the expected number of frames, 0 if unknown."""
        if self.count == 0:
            return
        n_before, time, reason = self.first
        where = lost = rest = ""
        if n_given:
            more = f", and in {self.count - 1} more places" if self.count > 1 else ""
            where = f" after {counted(n_before, 'frame')}, at {time:.2f} s{more}"
            rest = ", or read the intact frames with load_frames(..., errors='warn')"
            lost = f"; {counted(n_given, 'frame')} can be read"
            if n_whole > n_given:
                n_lost = f"{'about ' if about else ''}{n_whole - n_given}"
                lost = f"; {n_lost} of {counted(n_whole, 'frame')} cannot be read"
        remedy = self.remedy or f"Get a new copy{rest}."
        raise BrokenVideoError(f"{self.name} is broken{where}: {reason}{lost}. {remedy}")
