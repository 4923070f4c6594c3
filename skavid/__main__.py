"""``python -m skavid``: the command line.

Floor 6, just above ``cli``, which it calls.
"""

import sys

from skavid.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
