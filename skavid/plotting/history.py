"""Losses and validation measures of a training."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from skavid.plotting.drawing import import_pyplot, neutral, shade

__all__ = ["HistoryDisplay"]


@dataclass(eq=False, repr=False)
class HistoryDisplay:
    """Show the course of a training and the epochs that the networks were kept from (Sec. 4.3).

    It is recommended to use :meth:`from_estimator`.

    Parameters
    ----------
    history : list of dict
        One row per epoch, as ``AVIDDetector.history_``.
    checkpoint : dict, default=None
        The epochs that I and D were kept from, as ``AVIDDetector.checkpoint_``.
    blind_auc : float, default=0.55
        D is blind in epochs with a lower validation AUC; the training warns after five such
        epochs in a row.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure, set by :meth:`plot`.
    axes_ : ndarray of matplotlib Axes of shape (3,)
        The training losses, the validation error of I, and the validation AUC of D.
    blind_ : matplotlib PolyCollection or None
        A band over each run of epochs in which D was blind.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid import AVIDDetector
    >>> from skavid.plotting import HistoryDisplay
    >>> X = np.random.default_rng(0).normal(size=(40, 16, 16))
    >>> detector = AVIDDetector(max_epochs=2, random_state=0).fit(X)
    >>> display = HistoryDisplay.from_estimator(detector)
    >>> display.axes_[0].get_title(loc="left")
    '2 epochs in ... s'
    """

    history: list[dict[str, Any]]
    _: KW_ONLY
    checkpoint: dict[str, dict[str, Any]] | None = None
    blind_auc: float = 0.55

    @classmethod
    def from_estimator(cls, estimator: Any, *, axes: Any = None) -> HistoryDisplay:
        """Draw the training of a fitted detector.

        Parameters
        ----------
        estimator : AVIDDetector
            A fitted detector.
        axes : ndarray of matplotlib Axes of shape (3,), default=None
            The axes to draw on. A new figure when None.

        Returns
        -------
        display : HistoryDisplay
            The drawn display.
        """
        check_is_fitted(estimator, "history_")
        return cls(estimator.history_, checkpoint=estimator.checkpoint_).plot(axes=axes)

    def plot(self, *, axes: Any = None) -> HistoryDisplay:
        """Draw the training.

        Parameters
        ----------
        axes : ndarray of matplotlib Axes of shape (3,), default=None
            The axes to draw on. A new figure when None.

        Returns
        -------
        display : HistoryDisplay
            The display itself, with its artists.
        """
        if axes is None:
            pyplot = import_pyplot()
            _, axes = pyplot.subplots(3, sharex=True, figsize=(7, 6.5), layout="constrained")
        elif np.size(axes) != 3:
            raise ValueError(f"axes has the shape {np.shape(axes)}, but must hold three.")
        self.axes_ = axes = np.ravel(axes)
        self.figure_ = axes[0].figure
        epochs = self._column("epoch")
        for network, name, style in (
            ("inpainter", "inpainter_loss", "-"),
            ("detector", "detector_loss", "--"),
        ):
            axes[0].plot(epochs, self._column(name), style, marker=".", label=network)
        axes[0].legend()
        self._draw_validation(axes[1], "inpainter", "valid_inpainter", "C0", "-")
        self._draw_validation(axes[2], "detector", "valid_detector_auc", "C1", "--")
        self._draw_blind(axes[2], epochs[0])
        seconds = sum(row.get("dur", 0.0) for row in self.history)
        unit = "epoch" if len(epochs) == 1 else "epochs"
        axes[0].set_title(f"{len(epochs)} {unit} in {seconds:.0f} s", loc="left")
        axes[0].set_ylabel("loss in training")
        axes[1].set_ylabel("error of the inpainter,\nheld out")
        axes[2].set(ylabel="AUC of the detector,\nheld out", xlabel="epoch")
        axes[2].locator_params(axis="x", integer=True, min_n_ticks=1)
        for ax in axes:
            ax.ticklabel_format(useOffset=False)
        return self

    def _draw_validation(self, ax: Any, network: str, name: str, colour: str, style: str) -> None:
        """Draw a validation measure, a dot at each new best, and a star at the kept epoch."""
        epochs, values = self._column("epoch"), self._column(name)
        letter = network[0].upper()
        better = np.array([letter in row["kept"] for row in self.history])
        ax.plot(epochs, values, style, color=colour)
        ax.plot(epochs[better], values[better], "o", color=colour, markersize=4)
        if self.checkpoint is None:
            return
        kept = self.checkpoint[network]["epoch"]
        at = values[epochs == kept]
        ax.axvline(kept, color=neutral(ax), linewidth=0.8)
        star = {"color": colour, "markeredgecolor": neutral(ax), "markersize": 14}
        ax.plot(np.full(len(at), kept), at, "*", **star)
        ax.margins(y=0.15)  # room for the star
        ax.set_title(f"{network} kept from epoch {kept} (star); dots: the best so far", loc="left")

    def _draw_blind(self, ax: Any, first: float) -> None:
        ax.axhline(self.blind_auc, color=neutral(ax), linestyle=":", linewidth=1.2)
        blind = self._column("valid_detector_auc") < self.blind_auc
        self.blind_ = shade(ax, blind, first=first, color="C3") if blind.any() else None
        if blind.any():
            titles = [ax.get_title(loc="left"), "shaded: blind"]
            ax.set_title("; ".join(filter(None, titles)), loc="left")

    def _column(self, name: str) -> NDArray[Any]:
        return np.array([row[name] for row in self.history])
