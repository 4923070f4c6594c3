"""The command line, ``skavid``."""

from skavid.cli.parser import (
    main,
)

__all__ = [
    "main",
]
