"""Files that are written whole, or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, Any

__all__: list[str] = []  # a part of what writes: nothing here is promised to users


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Let what the system says of a failed write name the file that was meant."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # said already
            raise
        raise type(error)(f"{path} cannot be written: {error.strerror}.") from error


def check_target(path: Path, use: str = "in it") -> None:
    """Refuse a file that can never be written, before any work; ``use`` says what it is for."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file {use}.")
    check_parent(path)


def check_parent(path: Path) -> None:
    """Refuse a file or folder whose own folder is missing, or is none."""
    folder = path.parent
    if not folder.exists():
        raise FileNotFoundError(
            f"{path} cannot be written: there is no folder {folder}; make it first."
        )
    if not folder.is_dir():
        raise NotADirectoryError(f"{path} cannot be written: {folder} is no folder.")


def part_of(path: Path) -> Path:
    """Name a file or folder beside ``path`` that is to become it once it is complete."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def remove_parts(path: Path) -> None:
    """Remove what a process that was killed left of writing ``path``."""
    for part in path.parent.glob(f".{escape(path.name)}.*.part"):
        part.unlink(missing_ok=True)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; it replaces ``path`` if nothing is raised."""
    part = part_of(path)
    try:
        with naming(path):
            part.touch()
        yield part
        with naming(path):
            os.replace(part, path)
    finally:
        # Where the folder is gone, so is the file; what is raised tells more.
        with suppress(OSError):
            part.unlink()


@contextmanager
def opened(path: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a file beside ``path``, which replaces ``path`` if nothing is raised."""
    with beside(path) as part:
        file = part.open(mode, **options)
        try:
            yield file
        finally:
            with naming(path):
                file.close()


def replace(path: Path, content: bytes, *, surely: bool = False) -> None:
    """Write a file; ``surely`` waits until a power cut would not cost it, either."""
    with opened(path, "wb") as file, naming(path):
        file.write(content)
        if surely:
            file.flush()
            os.fsync(file.fileno())
    if surely:
        with suppress(OSError):  # not every system syncs folders
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
