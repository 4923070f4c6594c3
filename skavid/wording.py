"""Numbers, times and lists as words, for messages."""

from __future__ import annotations

from collections.abc import Sequence

__all__: list[str] = []  # for messages of skavid alone


def counted(n: int, one: str, many: str | None = None) -> str:
    """Write "1 frame" or "2 frames"; ``many`` is the plural if it is not formed by an s."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def listed(names: Sequence[str], most: int = 10) -> str:
    """Write "a, b", or the first names of many and the number of the others."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def either(names: Sequence[str]) -> str:
    """Write "a, b or c"."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def there_are(n: int, what: str) -> str:
    """Write "there is 1 frame" or "there are 2 frames"."""
    return f"there {'is' if n == 1 else 'are'} {counted(n, what)}"


def readable(name: str) -> str:
    """Write the bytes of a file name that are not UTF-8 as escapes of their values."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def visible(text: object, *, kept: str = "") -> str:
    """Escape unprintable characters but ``kept``: control characters, direction marks, bytes."""
    return "".join(
        char if char.isprintable() or char in kept else char.encode("unicode_escape").decode()
        for char in str(text)
    )


def pixels_of(shape: Sequence[int]) -> str:
    """Write the size of an image, (height, width, ...), as width x height."""
    return f"{shape[1]} x {shape[0]} pixels"


def pace(speed: float) -> str:
    """Write pixels per frame; slower motion than a tenth of a pixel is not measured well."""
    return f"{speed:.2g}" if speed >= 0.1 else "less than 0.1"


def roughly(seconds: float) -> str:
    """Write a duration in one unit, such as "40 s", "3 min" or "1.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def clock(seconds: float) -> str:
    """Write seconds as "1:02.5", or with hours as "1:01:02.5"."""
    minutes, rest = divmod(max(0.0, seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
