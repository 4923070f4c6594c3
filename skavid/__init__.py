"""AVID, adversarial visual irregularity detection, as a scikit-learn estimator."""

from skavid.estimator import PAPER, VIDEO, AVIDDetector
from skavid.model_selection import NoveltyKFold
from skavid.temporal import TemporalStacker

__version__ = "0.1.0"

__all__ = ["PAPER", "VIDEO", "AVIDDetector", "NoveltyKFold", "TemporalStacker", "__version__"]
