"""Join irregular frames that are near each other in time to events."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

__all__: list[str] = []  # a part of the command line: nothing here is promised to users


class Event:
    """A period of time with irregular frames."""

    def __init__(self, number: int, start: float, peak: float) -> None:
        self.number = number
        self.reasons: Counter[str] = Counter()  # of its frames
        self.start = self.end = self.peak_time = start
        self.peak = peak

    @property
    def reason(self) -> str:
        """The most frequent reason so far; "" if its frames are irregular in places alone."""
        return self.reasons.most_common(1)[0][0]


class Events:
    """Join scores to events, which end after ``max_gap`` seconds without an irregular frame.

    With ``persistence`` (k, n) an event begins once k of the last n frames are irregular. Frames
    that are irregular as a whole, for a ``reason`` such as less light, are events of their own.
    """

    def __init__(self, max_gap: float, persistence: tuple[int, int] = (1, 1)) -> None:
        self.max_gap = max_gap
        self.needed, last = persistence
        self._irregular: deque[float | None] = deque(maxlen=last)  # times; None where regular
        self.count = 0
        self.open: Event | None = None

    def push(self, time: float, score: float, reason: str = "") -> Iterator[tuple[str, Event]]:
        """Add the next score; yield events that "end", "begin" or have a new "peak"."""
        if self.open is not None:
            other_kind = score <= 0 and bool(reason) != bool(self.open.reason)
            if other_kind or time - self.open.end > self.max_gap:
                yield from self.close()
        self._irregular.append(time if score <= 0 else None)
        if score > 0:
            return
        if self.open is None:
            times = [one for one in self._irregular if one is not None]
            if len(times) < self.needed:
                return
            self.count += 1
            self.open = Event(self.count, times[0], -score)
            self.open.peak_time = time
            self.open.reasons[reason] += 1
            yield "begin", self.open
            yield "peak", self.open
            return
        self.open.end = time
        self.open.reasons[reason] += 1
        if -score > self.open.peak:
            self.open.peak, self.open.peak_time = -score, time
            yield "peak", self.open

    def close(self) -> Iterator[tuple[str, Event]]:
        """End the open event, if there is one."""
        event, self.open = self.open, None
        self._irregular.clear()
        if event is not None:
            yield "end", event
