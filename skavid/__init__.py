"""AVID, adversarial visual irregularity detection, as a scikit-learn estimator."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skavid.estimator import PAPER, VIDEO, AVIDDetector
    from skavid.model_selection import NoveltyKFold
    from skavid.temporal import TemporalStacker

__version__ = "0.1.0"

__all__ = ["PAPER", "VIDEO", "AVIDDetector", "NoveltyKFold", "TemporalStacker", "__version__"]

# Imported when they are asked for: `skavid --help` does not wait for torch.
_HOMES = {
    "PAPER": "estimator",
    "VIDEO": "estimator",
    "AVIDDetector": "estimator",
    "NoveltyKFold": "model_selection",
    "TemporalStacker": "temporal",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    thing = getattr(import_module(f"skavid.{_HOMES[name]}"), name)
    globals()[name] = thing
    return thing


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
