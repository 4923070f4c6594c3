"""Data sets, folders of pictures and drawn scenes, as arrays."""

from skavid.datasets.loaders import *
from skavid.datasets.loaders import __all__ as __all__
