"""Run a command, and turn errors into one line and an exit code.

The module of a command is imported when it runs, so that ``skavid --help`` is fast.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from skavid.cli.console import (
    BAD_INPUT,
    BUG,
    INCOMPLETE,
    INTERRUPTED,
    SUCCESS,
    Console,
    exit_on_sigterm,
)
from skavid.cli.parser import make_parser

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, default=None
        The arguments after ``skavid``; None takes them from the command line.

    Returns
    -------
    code : int
        0 on success; 1 if images could not be read, and all others were used; 2 for bad input,
        which one line on the standard error describes; 70 for a bug in skavid; 130 after Ctrl-C;
        143 after SIGTERM.

    Examples
    --------
    >>> from skavid.cli import main
    >>> main(["info", "no-such-model"])
    2
    """
    try:
        arguments = make_parser().parse_args(argv)
    except SystemExit as ended:
        return int(ended.code or 0)
    console = Console(arguments)
    try:
        with exit_on_sigterm(), console.log_warnings():
            command = importlib.import_module(f"skavid.cli.{arguments.command}")
            code: int = command.run(arguments, console)
            sys.stdout.flush()
            return code or (INCOMPLETE if console.unreadable else SUCCESS)
    except KeyboardInterrupt:
        console.error("interrupted; nothing was written.")
        return INTERRUPTED
    except SystemExit as ended:  # by SIGTERM
        return int(ended.code or 0)
    except BrokenPipeError:  # `skavid score ... | head` has read enough
        _discard_stdout()
        return SUCCESS
    except (ValueError, OSError, ImportError) as error:
        if arguments.verbose:
            traceback.print_exc()
        console.error(_message(error))
        try:
            sys.stdout.flush()
        except OSError:  # Python would flush again at its end, and print another error
            _discard_stdout()
        return BAD_INPUT
    except Exception:
        traceback.print_exc()
        console.error(
            "this is a bug in skavid; please report it with the output of `skavid info`."
        )
        return BUG


def _message(error: Exception) -> str:
    """Return the message of an error; of an error of the system, without its number."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    prefix = "" if error.filename is None else f"{error.filename}: "
    return f"{prefix}{error.strerror}."


def _discard_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
