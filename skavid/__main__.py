"""``python -m skavid``: the command line."""

import sys

from skavid.cli.entry import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
