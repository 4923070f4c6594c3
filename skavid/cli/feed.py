"""Read a camera, a network address or a file in the background, for ``skavid watch``."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from skavid.datasets.sources import ASSUMED_FPS, Reading, Sample
from skavid.temporal import TemporalStacker
from skavid.video import BrokenVideoError, read_pairs
from skavid.wording import pixels_of

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between attempts to reach a camera again


class _Item(NamedTuple):
    """An item of the queue: a frame, a gap, an error, or the end.

    ``n_gaps`` counts the gaps before it, so that none is lost with items that are dropped.
    """

    sample: Sample | None = None
    n_gaps: int = 0
    error: BaseException | None = None
    is_end: bool = False


class Feed:
    """Read a camera, an address or a file in a separate thread, and stack every frame.

    Iterate over it: each item is the newest image, or None after the connection was lost and
    restored. If images arrive faster than they are scored, some are skipped (``n_skipped``).
    Skipped frames are still stacked, so that the speed of moving objects stays correct.
    """

    def __init__(
        self,
        source: str | Path | int,
        reading: Reading,
        *,
        name: str,
        log: Callable[[str], None],
        is_live: bool,
        fast: bool = False,
        timeout: float = 10.0,
        fps: float | None = None,
    ) -> None:
        self.source = source
        self.reading = reading
        self.name = name
        self.log = log
        self.is_live = is_live
        self.fast = fast and not is_live
        self.timeout = timeout
        self.fps = fps
        self.n_skipped = 0
        self._queue: queue.Queue[_Item] = queue.Queue(maxsize=2)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def stop(self) -> None:
        """Ask the thread to stop."""
        self._stop.set()

    def __iter__(self) -> Iterator[Sample | None]:
        self._thread.start()
        n_gaps = 0
        try:
            while not self._stop.is_set():
                try:
                    item = self._queue.get(timeout=0.2)
                except queue.Empty:
                    continue
                if item.error is not None:
                    raise item.error
                if item.is_end:
                    return
                if item.n_gaps > n_gaps:
                    n_gaps = item.n_gaps
                    yield None
                if item.sample is not None:
                    yield item.sample
        finally:
            self.stop()
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        try:
            self._read()
        except BaseException as error:  # raised in the thread that iterates
            self._put(_Item(error=error))
        else:
            self._put(_Item(is_end=True))

    def _read(self) -> None:
        start = time.monotonic()
        stacking = self.reading.stacking
        stacker = None if stacking is None else TemporalStacker(**stacking)
        n_frames, n_gaps, pause = 0, 0, FIRST_PAUSE
        shape: tuple[int, ...] | None = None
        while not self._stop.is_set():
            stream = None if stacker is None else stacker.stream()
            try:
                for frame, display_image in read_pairs(
                    self.source,
                    size=self.reading.decoded_size,
                    color=self.reading.color,
                    timeout=self.timeout,
                    fps=self.fps or ASSUMED_FPS,
                    value_range=self.reading.value_range,
                ):
                    if self._stop.is_set():
                        return
                    if not self.is_live and not self.fast:
                        self._stop.wait(start + frame.time - time.monotonic())
                    if shape is not None and display_image.shape != shape:
                        self.log(
                            f"{self.name} now sends {pixels_of(display_image.shape)} (width x "
                            f"height), no longer {pixels_of(shape)}; they are resized alike."
                        )
                    shape = display_image.shape
                    seconds = time.monotonic() - start if self.is_live else frame.time
                    image = self.reading.prepare(frame.image, self.name)
                    image = image if stream is None else stream.push(image)
                    sample = Sample(
                        image, self.name, n_frames, seconds, display_image, box=self.reading.crop
                    )
                    self._put(_Item(sample, n_gaps), drop=not self.fast)
                    n_frames, pause = n_frames + 1, FIRST_PAUSE
                reason = "it ended."
            except (OSError, ValueError) as error:
                if isinstance(error, BrokenVideoError) and not self.is_live and n_frames:
                    self.log(str(error))
                    return
                if not self.is_live or not n_frames:
                    raise
                reason = str(error)
            if not self.is_live:
                return
            n_gaps += 1
            self._put(_Item(n_gaps=n_gaps))
            self.log(f"{self.name} was lost: {reason} Trying again in {pause:g} s.")
            self._stop.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _put(self, item: _Item, *, drop: bool = False) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0 if drop else 0.1, block=not drop)
                return
            except queue.Full:
                if drop:
                    self._make_room()

    def _make_room(self) -> None:
        try:
            oldest = self._queue.get_nowait()
        except queue.Empty:
            return
        if oldest.sample is None:  # a gap, which the frames after it also count
            return
        if self.n_skipped == 0:
            self.log(
                "Frames arrive faster than they can be scored; some are skipped. Use smaller "
                "frames or a GPU."
            )
        self.n_skipped += 1
