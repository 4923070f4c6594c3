"""ROC curves with their equal error rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import auc, roc_curve

from skavid.metrics.scores import equal_error_rate
from skavid.plotting.drawing import FALSE_POSITIVES, TRUE_POSITIVES, neutral, one_axes

__all__ = ["RocDisplay"]

LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")


@dataclass(eq=False, repr=False, kw_only=True)
class RocDisplay:
    """Show a ROC curve with its equal error rate, as in Fig. 6; several can share one axes.

    It is recommended to use :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    fpr, tpr : ndarray of shape (n_thresholds,)
        Shares of the normal and of the irregular samples that are found irregular.
    thresholds : ndarray of shape (n_thresholds,)
        In ascending order; samples that score below are found irregular.
    roc_auc : float
        Area under the curve.
    eer : float
        Equal error rate, in [0, 1].
    name : str, default=None
        Name of the curve in the legend.

    Attributes
    ----------
    eer_threshold_ : float
        The value of `thresholds` with the smallest larger error, set by :meth:`plot`.
    ax_, figure_ : matplotlib Axes and Figure
        The axes and their figure, set by :meth:`plot`.
    line_ : matplotlib Line2D
        The curve.
    eer_point_ : matplotlib Line2D
        A marker where the curve crosses the line of equal errors.

    See Also
    --------
    skavid.metrics.equal_error_rate : Computes the equal error rate.
    sklearn.metrics.RocCurveDisplay : Draws curves of any labels, and of folds.

    Examples
    --------
    >>> from skavid.plotting import RocDisplay
    >>> y = [1, 1, 1, -1, -1, -1]
    >>> good = RocDisplay.from_predictions(y, [5, 4, 2, 3, 1, 0], name="both")
    >>> poor = RocDisplay.from_predictions(y, [5, 2, 1, 4, 3, 0], name="I alone", ax=good.ax_)
    >>> round(good.eer, 2), good.eer_threshold_, round(poor.eer, 2)
    (0.33, 2.0, 0.67)
    """

    fpr: NDArray[Any]
    tpr: NDArray[Any]
    thresholds: NDArray[Any]
    roc_auc: float
    eer: float
    name: str | None = None

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        pos_label: int | str | None = None,
        name: str | None = None,
        ax: Any = None,
    ) -> RocDisplay:
        """Score images with a fitted detector and draw the ROC curve.

        Parameters
        ----------
        estimator : AVIDDetector, Pipeline or another outlier detector of scikit-learn
            A fitted detector. Thresholds are values of its ``decision_function``, which itself
            uses 0.
        X : array-like of shape (n_samples, ...)
            Images.
        y : array-like of shape (n_samples,)
            1 for normal and -1 for irregular images; other pairs of labels with ``pos_label``.
        pos_label : int or str, default=None
            The label of normal images; 1 when None.
        name : str, default=None
            Name of the curve in the legend; the estimator's class when None.
        ax : matplotlib Axes, default=None
            As in :meth:`from_predictions`.

        Returns
        -------
        display : RocDisplay
            The drawn display.
        """
        return cls.from_predictions(
            y,
            estimator.decision_function(X),
            pos_label=pos_label,
            name=type(estimator).__name__ if name is None else name,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_score: ArrayLike,
        *,
        pos_label: int | str | None = None,
        name: str | None = None,
        ax: Any = None,
    ) -> RocDisplay:
        """Draw the ROC curve of the given scores.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            1 for normal and -1 for irregular samples; other pairs of labels with ``pos_label``.
        y_score : array-like of shape (n_samples,)
            The higher, the more normal. For one network alone:
            ``-maps.residual.max(axis=(1, 2))`` or ``maps.regularity.min(axis=(1, 2))``.
        pos_label : int or str, default=None
            The label of normal samples; 1 when None. If 0 means normal and 1 irregular, pass
            ``pos_label=0``.
        name : str, default=None
            Name of the curve in the legend.
        ax : matplotlib Axes, default=None
            The axes to draw on, which may hold other curves. A new figure when None.

        Returns
        -------
        display : RocDisplay
            The drawn display.
        """
        eer = equal_error_rate(y_true, y_score, pos_label=pos_label)
        # Normal is scikit-learn's positive class, so its false negatives are our false positives.
        missed, passed, thresholds = roc_curve(
            y_true, y_score, pos_label=pos_label, drop_intermediate=False
        )
        fpr, tpr = 1 - passed[::-1], 1 - missed[::-1]
        display = cls(
            fpr=fpr,
            tpr=tpr,
            thresholds=thresholds[::-1],
            roc_auc=float(auc(fpr, tpr)),
            eer=eer,
            name=name,
        )
        return display.plot(ax)

    def plot(self, ax: Any = None, *, name: str | None = None) -> RocDisplay:
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            The axes to draw on, which may hold other curves. A new figure when None. Each curve
            gets the next colour, line style and marker.
        name : str, default=None
            Name of the curve in the legend; that of the display when None.

        Returns
        -------
        display : RocDisplay
            The display itself, with its artists.
        """
        self.ax_ = ax = one_axes(ax, figsize=(5.4, 5.4))
        self.figure_ = ax.figure
        best = int(np.argmin(np.maximum(self.fpr, 1 - self.tpr)))
        self.eer_threshold_ = float(self.thresholds[best])
        index = sum(not line.get_label().startswith("_") for line in ax.lines)
        if index == 0:
            # Chance, and equal errors up to where curves better than chance meet them.
            for x, y in (([0, 1], [0, 1]), ([0, 0.5], [1, 0.5])):
                ax.plot(x, y, color=neutral(ax), linewidth=0.8, alpha=0.6)
        name = self.name if name is None else name
        figures = (
            f"AUC {self.roc_auc:.3f}, EER {self.eer:.3f} at a score of {self.eer_threshold_:.3g}"
        )
        (self.line_,) = ax.plot(
            self.fpr,
            self.tpr,
            linestyle=LINES[index % len(LINES)],
            label=figures if name is None else f"{name}: {figures}",
        )
        (self.eer_point_,) = ax.plot(
            [self.eer],
            [1 - self.eer],
            MARKERS[index % len(MARKERS)],
            color=self.line_.get_color(),
            markeredgecolor=neutral(ax),
            markersize=7,
        )
        ax.set(
            xlabel=FALSE_POSITIVES,
            ylabel=TRUE_POSITIVES,
            xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.02),
            aspect="equal",
        )
        ax.legend(loc="lower right", fontsize="small")
        return self
