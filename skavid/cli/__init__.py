"""The command line, ``skavid``."""

from skavid.cli.parser import *
from skavid.cli.parser import __all__ as __all__
