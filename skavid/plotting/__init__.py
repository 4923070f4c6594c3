"""Displays of images, scores, curves, thresholds and trainings, as in Figs. 3 and 5 to 7.

Each display takes arrays and draws on matplotlib axes. matplotlib is imported when something is
drawn; colours are those of its style, and curves differ by more than their colour.
"""

from skavid.plotting.history import HistoryDisplay
from skavid.plotting.images import IrregularityDisplay
from skavid.plotting.roc import RocDisplay
from skavid.plotting.scores import ScoreOverTimeDisplay
from skavid.plotting.thresholds import ThresholdPlaneDisplay

__all__ = [
    "HistoryDisplay",
    "IrregularityDisplay",
    "RocDisplay",
    "ScoreOverTimeDisplay",
    "ThresholdPlaneDisplay",
]
