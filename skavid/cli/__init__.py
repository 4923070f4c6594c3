"""The command line, ``skavid``."""

from skavid.cli.entry import *
from skavid.cli.entry import __all__ as __all__
