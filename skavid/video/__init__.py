"""Videos and pictures in, overlays out."""

from skavid.video.files import *
from skavid.video.files import __all__ as __all__
