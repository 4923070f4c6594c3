"""Watch a camera: look at frames as they come, and tell of events while they happen.

The detector that looks is given to it.
"""

from __future__ import annotations

import json
import queue
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from skavid.cli.outputs import described, save_picture
from skavid.core.anomaly_maps import AnomalyMaps
from skavid.datasets.sources import Look, Reading
from skavid.temporal import TemporalStacker, causal_mean
from skavid.video.files import BrokenVideoError, draw_overlay, read_pairs
from skavid.writing import beside, naming

if TYPE_CHECKING:
    from skavid.estimator import AVIDDetector

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between two tries to reach a camera again
MOST_WAITING = 100  # events for a webhook that does not answer


class Viewer:
    """Look at images in their order of time, with evidence that may be averaged over them."""

    def __init__(self, detector: AVIDDetector, *, average_frames: int = 1) -> None:
        self.detector = detector
        self.average_frames = average_frames
        self.begin()

    def begin(self) -> None:
        """Forget the images so far: the next one begins a clip."""
        self._before: list[NDArray[np.float32]] = []

    def look(self, images: Sequence[NDArray[Any]]) -> AnomalyMaps:
        """Return the maps of the next images, with averaged evidence where it was asked for."""
        maps = self.detector.maps(np.stack(images), inpainted=False)
        if self.average_frames > 1:
            before = len(self._before)
            evidence = np.concatenate([*(one[None] for one in self._before), maps.evidence])
            self._before = list(evidence[-(self.average_frames - 1) :])
            maps = maps.with_evidence(causal_mean(evidence, self.average_frames)[before:])
        return maps


class Event:
    """A time in which something was irregular."""

    def __init__(self, number: int, start: float, peak: float) -> None:
        self.number = number
        self.start = self.end = self.peak_time = start
        self.peak = peak


class Events:
    """Make events of scores: one ends when nothing was irregular for ``max_gap`` seconds."""

    def __init__(self, max_gap: float) -> None:
        self.max_gap = max_gap
        self.count = 0
        self.open: Event | None = None

    def push(self, moment: float, score: float) -> Iterator[tuple[str, Event]]:
        """Take the next score; tell which event ends, begins or has its "peak" so far."""
        if self.open is not None and moment - self.open.end > self.max_gap:
            yield from self.close()
        if score > 0:
            return
        if self.open is None:
            self.count += 1
            self.open = Event(self.count, moment, -score)
            yield "begin", self.open
            yield "peak", self.open
        elif -score > self.open.peak:
            self.open.peak, self.open.peak_time = -score, moment
            yield "peak", self.open
        self.open.end = moment

    def close(self) -> Iterator[tuple[str, Event]]:
        """End the event that is open, if one is."""
        event, self.open = self.open, None
        if event is not None:
            yield "end", event


class _Told(NamedTuple):
    """What the thread that reads passes on: a frame, a gap, or the end.

    ``n_gaps`` came before it, so that none is lost with what is left out.
    """

    look: Look | None = None
    n_gaps: int = 0
    error: BaseException | None = None
    is_end: bool = False


class Feed:
    """Read a camera, an address or a file in a thread of its own, and stack every frame.

    Iterate over it: each item is the newest image, or None where the source was lost and found
    again. Where images come faster than they are looked at, some are left out (``n_skipped``),
    but never from the stacks, so that the speed of what moves stays right.
    """

    def __init__(
        self,
        source: str | Path | int,
        reading: Reading,
        *,
        name: str,
        say: Callable[[str], None],
        is_live: bool,
        fast: bool = False,
        timeout: float = 10.0,
    ) -> None:
        self.source = source
        self.reading = reading
        self.name = name
        self.say = say
        self.is_live = is_live
        self.fast = fast and not is_live
        self.timeout = timeout
        self.n_skipped = 0
        self._queue: queue.Queue[_Told] = queue.Queue(maxsize=2)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stop.set()

    def __iter__(self) -> Iterator[Look | None]:
        self._thread.start()
        n_gaps = 0
        try:
            while not self._stop.is_set():
                try:
                    told = self._queue.get(timeout=0.2)
                except queue.Empty:
                    continue
                if told.error is not None:
                    raise told.error
                if told.is_end:
                    return
                if told.n_gaps > n_gaps:
                    n_gaps = told.n_gaps
                    yield None
                if told.look is not None:
                    yield told.look
        finally:
            self.stop()
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        try:
            self._read()
        except BaseException as error:  # the other thread raises it
            self._put(_Told(error=error))
        else:
            self._put(_Told(is_end=True))

    def _read(self) -> None:
        began = time.monotonic()
        stacking = self.reading.stacking
        stacker = None if stacking is None else TemporalStacker(**stacking)
        n_frames, n_gaps, pause = 0, 0, FIRST_PAUSE
        while not self._stop.is_set():
            stream = None if stacker is None else stacker.stream()
            try:
                for frame, whole in read_pairs(
                    self.source,
                    size=self.reading.size,
                    color=self.reading.color,
                    timeout=self.timeout,
                ):
                    if self._stop.is_set():
                        return
                    if not self.is_live and not self.fast:
                        self._stop.wait(began + frame.time - time.monotonic())
                    moment = time.monotonic() - began if self.is_live else frame.time
                    image = frame.image if stream is None else stream.push(frame.image)
                    look = Look(image, self.name, n_frames, moment, whole)
                    self._put(_Told(look, n_gaps), drop=not self.fast)
                    n_frames, pause = n_frames + 1, FIRST_PAUSE
                reason = "it ended."
            except (OSError, ValueError) as error:
                if isinstance(error, BrokenVideoError) and not self.is_live and n_frames:
                    self.say(str(error))
                    return
                if not self.is_live or not n_frames:
                    raise
                reason = str(error)
            if not self.is_live:
                return
            n_gaps += 1
            self._put(_Told(n_gaps=n_gaps))
            self.say(f"{self.name} was lost: {reason} Trying again in {pause:g} s.")
            self._stop.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _put(self, told: _Told, *, drop: bool = False) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(told, timeout=0 if drop else 0.1, block=not drop)
                return
            except queue.Full:
                if drop:
                    self._make_room()

    def _make_room(self) -> None:
        try:
            oldest = self._queue.get_nowait()
        except queue.Empty:
            return
        if oldest.look is None:  # a gap, of which the frames behind it tell, too
            return
        if self.n_skipped == 0:
            self.say(
                "Frames come faster than they can be looked at; some are left out (smaller "
                "frames or a GPU help)."
            )
        self.n_skipped += 1


class Webhook:
    """Post events in a thread of its own; what goes wrong is said once, and stops nothing."""

    def __init__(self, address: str, *, say: Callable[[str], None], timeout: float = 5.0) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"--webhook must be an address such as https://example.org/hook. Got {address!r}."
            )
        self.address = address
        self.shown = f"{parts.scheme}://{parts.hostname}"  # neither password nor key
        self.say = say
        self.timeout = timeout
        self._failed = False
        self._queue: queue.Queue[bytes | None] = queue.Queue(maxsize=MOST_WAITING)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def send(self, record: dict[str, Any]) -> None:
        """Post an event later."""
        try:
            self._queue.put_nowait(json.dumps(record).encode())
        except queue.Full:
            self._fail("it does not keep up")

    def close(self) -> None:
        """Wait for what is under way, for as long as two posts may take."""
        try:
            self._queue.put(None, timeout=self.timeout)
        except queue.Full:
            return
        self._thread.join(timeout=2 * self.timeout)

    def _run(self) -> None:
        while (body := self._queue.get()) is not None:
            request = urllib.request.Request(
                self.address, data=body, headers={"Content-Type": "application/json"}
            )
            try:
                with urllib.request.urlopen(request, timeout=self.timeout):
                    pass
            except (OSError, HTTPException, ValueError) as error:
                self._fail(str(getattr(error, "reason", None) or error))

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            self.say(
                f"The webhook {self.shown} did not take an event ({reason}); watching goes on, "
                "and no further failure is told."
            )


def watch(
    feed: Feed,
    viewer: Viewer,
    events: Events,
    tell: Callable[[dict[str, Any]], None],
    *,
    snapshots: Path | None = None,
    on_look: Callable[[Look, float], None] | None = None,
) -> None:
    """Look at all that a feed gives, and tell of each event when it begins and when it ends.

    ``snapshots`` is the folder for a picture of each event at its peak; ``on_look`` hears of
    each image and its score. It returns when the source ends or the feed is stopped.
    """
    began_at = datetime.now(UTC)
    at_peak: dict[int, tuple[NDArray[np.uint8] | None, AnomalyMaps]] = {}

    def record(phase: str, event: Event) -> dict[str, Any]:
        told: dict[str, Any] = {
            "phase": phase,
            "event": event.number,
            "source": feed.name,
            "start": round(event.start, 3),
        }
        if feed.is_live:
            start = datetime.fromtimestamp(began_at.timestamp() + event.start, UTC)
            told["start_at"] = start.isoformat(timespec="milliseconds")
        if phase == "begin":
            return {**told, "peak": round(event.peak, 4)}
        whole, seen = at_peak.pop(event.number)
        mask = seen.mask[0]
        size = mask.shape if whole is None else whole.shape[:2]
        boxes = described(seen.find(0), mask, size)
        told |= {
            "end": round(event.end, 3),
            "peak": round(event.peak, 4),
            "peak_time": round(event.peak_time, 3),
            "as_a_whole": bool(seen.irregular_as_a_whole[0]),
            "boxes": [
                {key: box[key] for key in ("bbox", "area", "peak", "peak_at", "carried_by")}
                for box in boxes
            ],
            "snapshot": None,
        }
        if snapshots is not None and whole is not None:
            stamp = f"{began_at:%Y%m%dT%H%M%S}-" if feed.is_live else ""
            path = snapshots / f"{feed.name}-{stamp}{event.number:04d}.png"
            ignored = viewer.detector.ignore_mask
            drawn = draw_overlay(
                whole, mask=mask, regularity=seen.regularity[0], ignore_mask=ignored
            )
            with naming(path):
                snapshots.mkdir(parents=True, exist_ok=True)
                with beside(path) as part:
                    save_picture(snapshots, part.name, drawn)
            told["snapshot"] = str(path)
        return told

    try:
        for look in feed:
            if look is None:
                viewer.begin()
                for phase, event in events.close():
                    tell(record(phase, event))
                continue
            assert look.time is not None
            seen = viewer.look([look.image])
            score = float(seen.scores[0])
            for phase, event in events.push(look.time, score):
                if phase == "peak":
                    at_peak[event.number] = look.whole, seen
                else:
                    tell(record(phase, event))
            if on_look is not None:
                on_look(look, score)
    finally:
        for phase, event in events.close():
            tell(record(phase, event))
