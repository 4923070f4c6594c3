"""Losses of the adversarial training: Eq. 3 and alternatives."""

from skavid.core.losses import *
from skavid.core.losses import __all__ as __all__
