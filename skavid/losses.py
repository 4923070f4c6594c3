"""Losses of the adversarial training: Eq. 3 and its working relatives."""

from skavid.core.losses import (
    LOSSES,
    bce,
    eq3,
    hinge,
    lsgan,
)

__all__ = [
    "LOSSES",
    "bce",
    "eq3",
    "hinge",
    "lsgan",
]
