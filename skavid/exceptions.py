"""Warnings and errors with names of their own, for programs that react to them."""

from __future__ import annotations

from sklearn.exceptions import ConvergenceWarning

__all__ = [
    "CalibrationWarning",
    "CollapseWarning",
    "DivergedError",
    "InputMismatchWarning",
    "InterruptedTrainingWarning",
    "LabelWarning",
]


class CalibrationWarning(UserWarning):
    """Thresholds on too few normal images or clips, or of which only one has an effect."""


class CollapseWarning(ConvergenceWarning):  # type: ignore[misc]
    """D could not tell regular from irregular regions for several epochs."""


class DivergedError(RuntimeError):
    """A loss was no longer finite."""


class InputMismatchWarning(UserWarning):
    """Images whose shape or range can hardly be what was meant, or what was trained on."""


class InterruptedTrainingWarning(ConvergenceWarning):  # type: ignore[misc]
    """The user interrupted a training; what was learnt so far is kept."""


class LabelWarning(UserWarning):
    """Labels 0 and 1, which do not say whether 1 means normal or irregular."""
