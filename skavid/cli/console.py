"""What commands say, and how they end: words, JSON, progress, Ctrl-C."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from skavid.wording import counted

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

FINE, UNEXPECTED, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

# What Python's users write, in the words of the command line.
WORDS = (
    ("X holds 1 ", "There is 1 "),
    ("X holds ", "There are "),
    ("he same fit goes on", "he same command goes on"),
    ("pass size=(height, width)", "give --size HEIGHT WIDTH"),
    ("give size=(height, width)", "give --size HEIGHT WIDTH"),
    (
        "Get a new copy, or read the intact frames with load_frames(..., errors='warn').",
        "Get a new copy.",
    ),
)


class Console:
    """What a command says: results to the standard output, all else to the standard error."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.command = arguments.command
        self.quiet = arguments.quiet
        self.verbose = arguments.verbose
        self.as_json = arguments.json
        self.bar: Any = None
        self.was_interrupted = False

    def say(self, text: str) -> None:
        """Tell what goes on, unless that is not wanted."""
        if not self.quiet:
            self._print(text)

    def error(self, text: str) -> None:
        """Tell why nothing came of it, in one line."""
        self._print(f"skavid {self.command}: {_reworded(text)}")

    def tell(self, result: dict[str, Any], text: str) -> None:
        """Give the result, as JSON or in words."""
        print(json.dumps(result) if self.as_json else text, flush=True)

    def _print(self, text: str) -> None:
        if self.bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self.bar.write(text, file=sys.stderr)

    @contextmanager
    def notes(self) -> Iterator[None]:
        """Tell warnings in one line each; those of other libraries are not for users."""

        def show(message: Any, category: Any, *_: Any) -> None:
            from skavid.exceptions import InterruptedTrainingWarning

            self.was_interrupted |= issubclass(category, InterruptedTrainingWarning)
            self.say(f"Note: {_reworded(str(message))}")

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = show  # type: ignore[assignment]
            yield

    @contextmanager
    def progress(self, total: int | None, unit: str) -> Iterator[Any]:
        """Show how far it is and how long it will take, on a terminal."""
        from tqdm import tqdm

        # None: no bar where nobody sees it.
        hidden = True if self.quiet else None
        with tqdm(
            total=total,
            unit=unit,
            file=sys.stderr,
            leave=False,
            disable=hidden,
            dynamic_ncols=True,
        ) as bar:
            self.bar = bar
            try:
                yield bar
            finally:
                self.bar = None


class CtrlC:
    """The first Ctrl-C asks a loop to end where it may; the second ends it at once."""

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
def sigterm() -> Iterator[None]:
    """Let SIGTERM leave every block on its way out, so that nothing half-written stays.

    A second one ends the process at once. A program that calls us keeps a way of its own.
    """

    def end(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise SystemExit(TERMINATED)

    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    )
    if is_ours:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _reworded(text: str) -> str:
    """Write a message of the library in one line, for who does not write Python."""
    for python, ours in WORDS:
        text = text.replace(python, ours)
    return " ".join(text.split())


def irregular(n: int, total: int, what: str, n_whole: int = 0) -> str:
    """Write 0 of 1 image is irregular, 3 of 20 images are irregular (1 of them as a whole)."""
    text = f"{n:,} of {counted(total, what)} {'is' if total == 1 else 'are'} irregular"
    if n_whole:
        text += (
            f" ({n_whole:,} of them as a whole: covered, blank, much darker or brighter, or of "
            "another scene)"
        )
    return text
