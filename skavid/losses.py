"""Losses of the adversarial training: Eq. 3 and its working relatives."""

from skavid.core.losses import *
from skavid.core.losses import __all__ as __all__
