"""How well irregular images, regions and pixels are found."""

from skavid.metrics.scores import *
from skavid.metrics.scores import __all__ as __all__
