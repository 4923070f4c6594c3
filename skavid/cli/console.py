"""Output of the commands to the terminal: messages, results, progress, signals."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from skavid.wording import counted, readable, roughly, visible

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

EVERY = 30.0  # seconds between two lines about the progress
SUCCESS, INCOMPLETE, BAD_INPUT, BUG, INTERRUPTED, TERMINATED = 0, 1, 2, 70, 130, 143

# Advice that messages of the library give in Python, and how the command line says it.
REWORDED = (
    ("X holds 1 ", "There is 1 "),
    ("X has 1 ", "There is 1 "),
    ("X has ", "There are "),
    ("target_fpr=", "--target-fpr "),
    (" clips: with a probability", " pieces of video: with a probability"),
    (" clips held out: with a probability", " pieces of video held out: with a probability"),
    ("X holds ", "There are "),
    ("training__checkpoint is about", "--checkpoint is about"),
    ("or set features='pixels'.", "or add --set features=pixels."),
    ("he same fit goes on", "he same command goes on"),
    ("pass size=(height, width)", "give --size WIDTHxHEIGHT"),
    ("; give value_range=(low, high) for another range", ""),
    ("give size=(height, width)", "give --size WIDTHxHEIGHT"),
    (
        "Get a new copy, or read the intact frames with load_frames(..., errors='warn').",
        "Get a new copy.",
    ),
)


class Console:
    """Print results to the standard output and all other messages to the standard error."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.command = arguments.command
        self.quiet = arguments.quiet
        self.verbose = arguments.verbose
        self.as_json = arguments.json
        self.bar: Any = None
        self.was_interrupted = False
        self.unreadable: list[str] = []  # images that were left out

    def log(self, text: str) -> None:
        """Print a message on the progress, except with --quiet."""
        if not self.quiet:
            self._print(text)

    def error(self, text: str) -> None:
        """Print an error in one line."""
        self._print(f"skavid {self.command}: {_reworded(text)}")

    def print_result(self, result: dict[str, Any], text: str) -> None:
        """Print the result, as JSON with --json, otherwise as text."""
        written = json.dumps(result) if self.as_json else visible(readable(text), kept="\n")
        print(written, flush=True)

    def _print(self, text: str) -> None:
        text = visible(readable(text), kept="\n")
        if self.bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self.bar.write(text, file=sys.stderr)

    @contextmanager
    def log_warnings(self) -> Iterator[None]:
        """Print each warning in one line; only those of skavid are shown to users."""
        shown: set[str] = set()  # a batch may repeat what one before it said

        def show(message: Any, category: Any, *_: Any) -> None:
            from skavid.datasets.sources import UnreadableWarning
            from skavid.exceptions import InterruptedTrainingWarning

            if isinstance(message, UnreadableWarning):
                self.unreadable += message.names
                self.error(str(message))
                return
            self.was_interrupted |= issubclass(category, InterruptedTrainingWarning)
            if str(message) in shown:
                return
            shown.add(str(message))
            self.log(f"Note: {_reworded(str(message))}")

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = show  # type: ignore[assignment]
            yield

    @contextmanager
    def progress(self, total: int | None, unit: str, preparing: str = "") -> Iterator[Progress]:
        """Show the progress of a loop; ``preparing`` names the phase before its first step."""
        progress = Progress(self, total, unit, preparing)
        with progress.told_regularly():
            yield progress


class Progress:
    """The steps of a loop: a bar on a terminal, elsewhere a line every 30 seconds.

    The time before the first step, in which much may be prepared, counts for no estimate.
    """

    def __init__(self, console: Console, total: int | None, unit: str, preparing: str) -> None:
        self.console = console
        self.total = total
        self.unit = unit
        self.has_phases = bool(preparing)
        self.n = 0
        self.begin(preparing)
        self._first: tuple[float, int] | None = None  # when the first step ended, and its number

    def begin(self, phase: str) -> None:
        """Begin a phase whose steps are not counted; the next step ends it."""
        self._phase = phase
        self._started = time.monotonic()

    def seconds_of_phase(self) -> float:
        """Return for how long the present phase has lasted."""
        return time.monotonic() - self._started

    def update(self, n: int = 1) -> None:
        """Count steps."""
        self.n += n
        self._phase = ""
        if self._first is not None:
            if self.console.bar is not None:
                self.console.bar.update(n)
            return
        self._first = time.monotonic(), self.n
        if not self.console.quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.console.bar = tqdm(
                total=self.total, initial=self.n, unit=self.unit, file=sys.stderr, leave=False,
                dynamic_ncols=True,
            )  # fmt: skip

    def seconds_left(self) -> float | None:
        """Estimate the time of all steps left by those so far; None while it is unknown."""
        if self._first is None or self.total is None or self.n <= self._first[1]:
            return None
        per_step = (time.monotonic() - self._first[0]) / (self.n - self._first[1])
        return max(0, self.total - self.n) * per_step

    def describe(self) -> str:
        """Return a line about the present state."""
        if self._phase or self.n == 0:
            return f"{self._phase or 'Starting'}: {roughly(self.seconds_of_phase())} so far."
        total = "" if self.total is None else f" of {self.total:,}"
        left = self.seconds_left()
        rest = "" if left is None else f", about {roughly(left)} left"
        return f"{self.n:,}{total} {self.unit if self.total == 1 else self.unit + 's'}{rest}."

    @contextmanager
    def told_regularly(self) -> Iterator[None]:
        """Print a line every 30 seconds while no bar is drawn, and close the bar at the end."""
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(EVERY):
                if self.console.bar is None:
                    self.console.log(self.describe())

        thread = threading.Thread(target=tell, daemon=True)
        # A camera has no total: it would fill a log file.
        is_told = not self.console.quiet and (self.total is not None or self.has_phases)
        if is_told:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if is_told:
                thread.join()
            if self.console.bar is not None:
                self.console.bar.close()
                self.console.bar = None


class CtrlC:
    """Let the first Ctrl-C set ``stopped``, which a loop checks; the second one interrupts."""

    def __init__(self, on_stop: Callable[[], None] | None = None) -> None:
        self.stopped = False
        self.on_stop = on_stop

    def __enter__(self) -> CtrlC:
        self._before = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, *_: Any) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _stop(self, *_: Any) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        if self.on_stop is not None:
            self.on_stop()


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that every block removes its unfinished files.

    A second SIGTERM ends the process immediately. A handler of the calling program is kept.
    """

    def end(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise SystemExit(TERMINATED)

    has_default = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    )
    if has_default:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if has_default:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _reworded(text: str) -> str:
    """Write a message of the library in one line and without Python code."""
    for python, command_line in REWORDED:
        text = text.replace(python, command_line)
    return " ".join(text.split())


def irregular(n: int, total: int, unit: str, reasons: Mapping[str, int]) -> str:
    """Write how many images are irregular, and how many of them as a whole, for which reasons."""
    text = f"{n:,} of {counted(total, unit)} {'is' if total == 1 else 'are'} irregular"
    reasons = dict(reasons)
    n_frozen = reasons.pop("frozen", 0)
    if reasons:
        most = sorted(reasons.items(), key=lambda item: -item[1])
        named = ", ".join(f"{number:,} {reason}" for reason, number in most)
        n_whole = sum(reasons.values())
        text += (
            f"; {counted(n_whole, unit)} {'looks' if n_whole == 1 else 'look'} unlike the "
            f"training {unit}s as a whole ({most[0][0] if len(most) == 1 else named})"
        )
    if n_frozen:
        text += f"; {counted(n_frozen, unit)} {'is' if n_frozen == 1 else 'are'} frozen"
    return text
