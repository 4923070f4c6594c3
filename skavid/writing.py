"""Write files completely or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, Any

__all__: list[str] = []  # for the modules that write files: nothing here is promised to users


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Name the intended file in errors of the system about a failed write."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # one of ours, which names the file
            raise
        raise type(error)(f"{path} cannot be written: {error.strerror}.") from error


def check_target(path: Path, use: str = "in it") -> None:
    """Raise an error if a file cannot be written, before any work; ``use`` says what it is for."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file {use}.")
    check_parent(path)


def check_parent(path: Path) -> None:
    """Raise an error if the folder that is to hold a file or folder is missing."""
    folder = path.parent
    if not folder.exists():
        raise FileNotFoundError(
            f"{path} cannot be written: there is no folder {folder}; make it first."
        )
    if not folder.is_dir():
        raise NotADirectoryError(f"{path} cannot be written: {folder} is not a folder.")


def part_of(path: Path) -> Path:
    """Return a temporary name beside ``path``, for a file that is renamed once complete."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def remove_parts(path: Path) -> None:
    """Remove the temporary files of ``path`` that a killed process has left."""
    for part in path.parent.glob(f".{escape(path.name)}.*.part"):
        part.unlink(missing_ok=True)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside ``path``, which replaces ``path`` if nothing is raised."""
    part = part_of(path)
    try:
        with naming(path):
            part.touch()
        yield part
        with naming(path):
            os.replace(part, path)
    finally:
        # If the folder is gone, so is the file; the error that is being raised says more.
        with suppress(OSError):
            part.unlink()


@contextmanager
def opened(path: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a temporary file, which replaces ``path`` if nothing is raised."""
    with beside(path) as part:
        file = part.open(mode, **options)
        try:
            yield file
        finally:
            with naming(path):
                file.close()


def replace(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Write a file; ``sync`` waits until it would survive a power cut."""
    with opened(path, "wb") as file, naming(path):
        file.write(content)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    if sync:
        with suppress(OSError):  # not every system syncs folders
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
