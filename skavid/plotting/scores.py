"""Scores of the frames of a video over time."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skavid.core.scene import clip_begins
from skavid.plotting.drawing import check_labels_of, neutral, one_axes, shade

__all__ = ["ScoreOverTimeDisplay"]


@dataclass(eq=False, repr=False)
class ScoreOverTimeDisplay:
    """Show the scores of frames over time, with the alarms and the ground truth.

    It is recommended to use :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    scores : ndarray of shape (n_frames,)
        The higher, the more normal. They are drawn with their sign turned, so that irregular
        frames stand out.
    threshold : float, default=None
        Frames that score below it are alarms.
    labels : ndarray of shape (n_frames,), default=None
        1 for normal and -1 for irregular frames.
    groups : ndarray of shape (n_frames,), default=None
        Clip of each frame. Clips are drawn one after the other.
    frame_rate : float, default=None
        Frames per second. If None, the time axis counts frames.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        The axes and their figure, set by :meth:`plot`.
    line_ : matplotlib Line2D
        The scores with their sign turned; broken between clips.
    threshold_ : matplotlib Line2D or None
        The threshold with its sign turned.
    alarms_ : matplotlib PolyCollection or None
        A mark at the bottom for each run of frames below the threshold.
    ground_truth_ : matplotlib PolyCollection or None
        A band over each run of irregular frames.

    Examples
    --------
    >>> from skavid.plotting import ScoreOverTimeDisplay
    >>> display = ScoreOverTimeDisplay.from_predictions(
    ...     [3.0, 2.0, -1.0, -2.0, 1.0], threshold=0.0, labels=[1, 1, 1, -1, -1]
    ... )
    >>> len(display.alarms_.get_paths()), len(display.ground_truth_.get_paths())  # runs of frames
    (1, 1)
    """

    scores: NDArray[Any]
    _: KW_ONLY
    threshold: float | None = None
    labels: NDArray[Any] | None = None
    groups: NDArray[Any] | None = None
    frame_rate: float | None = None

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        *,
        labels: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        frame_rate: float | None = None,
        ax: Any = None,
    ) -> ScoreOverTimeDisplay:
        """Score frames with a fitted detector and draw the scores.

        Parameters
        ----------
        estimator : AVIDDetector, Pipeline or another outlier detector of scikit-learn
            A fitted detector. Its ``decision_function`` is drawn, with a threshold of 0.
        X : array-like of shape (n_frames, ...)
            Frames in temporal order.
        labels, groups, frame_rate, ax : array-like, array-like, float, Axes, default=None
            As in :meth:`from_predictions`.

        Returns
        -------
        display : ScoreOverTimeDisplay
            The drawn display.
        """
        return cls.from_predictions(
            estimator.decision_function(X),
            threshold=0.0,
            labels=labels,
            groups=groups,
            frame_rate=frame_rate,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        scores: ArrayLike,
        *,
        threshold: float | None = None,
        labels: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        frame_rate: float | None = None,
        ax: Any = None,
    ) -> ScoreOverTimeDisplay:
        """Draw the given scores.

        Parameters
        ----------
        scores : array-like of shape (n_frames,)
            The higher, the more normal, as `AVIDDetector.score_samples` returns them.
        threshold : float, default=None
            Frames that score below it are alarms; ``offset_`` for ``score_samples``.
        labels : array-like of shape (n_frames,), default=None
            1 for normal and -1 for irregular frames.
        groups : array-like of shape (n_frames,), default=None
            Clip of each frame. The rows of a clip are consecutive.
        frame_rate : float, default=None
            Frames per second. If None, the time axis counts frames.
        ax : matplotlib Axes, default=None
            The axes to draw on. A new figure when None.

        Returns
        -------
        display : ScoreOverTimeDisplay
            The drawn display.
        """
        given = np.asarray(scores, dtype=np.float64)
        if given.ndim != 1 or not len(given):
            raise ValueError(
                f"scores must hold one number per frame. Got an array of shape {given.shape}."
            )
        if frame_rate is not None and not frame_rate > 0:
            raise ValueError(f"frame_rate must be above 0 frames per second. Got {frame_rate!r}.")
        checked = None if labels is None else check_labels_of("labels", labels, len(given))
        clips = None if groups is None else np.asarray(groups)
        if clips is not None:
            if clips.shape != given.shape:
                raise ValueError(
                    f"groups has the shape {clips.shape}, but scores {given.shape}; give one clip "
                    "id per score."
                )
            clip_begins(clips)
        display = cls(
            given, threshold=threshold, labels=checked, groups=clips, frame_rate=frame_rate
        )
        return display.plot(ax)

    def plot(self, ax: Any = None) -> ScoreOverTimeDisplay:
        """Draw the scores.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            The axes to draw on. A new figure when None.

        Returns
        -------
        display : ScoreOverTimeDisplay
            The display itself, with its artists.
        """
        self.ax_ = ax = one_axes(ax, figsize=(10, 3.2))
        self.figure_ = ax.figure
        step = 1 if self.frame_rate is None else 1 / self.frame_rate
        times, irregular = np.arange(len(self.scores)) * step, -self.scores
        starts = np.zeros(1, int) if self.groups is None else clip_begins(self.groups)
        (self.line_,) = ax.plot(
            np.insert(times.astype(float), starts[1:], np.nan),
            np.insert(irregular, starts[1:], np.nan),
            linewidth=1.2,
        )
        self.threshold_ = self.alarms_ = self.ground_truth_ = None
        if self.labels is not None:
            self.ground_truth_ = shade(
                ax, self.labels == -1, step, label="irregular (ground truth)"
            )
        low, high = float(irregular.min()), float(irregular.max())
        if self.threshold is not None:
            level = 0.0 - self.threshold  # not -0
            self._draw_threshold(level, step)
            low, high = min(low, level), max(high, level)
        if starts.size > 1:
            self._mark_clips(starts, step)
        unit = "frame" if self.frame_rate is None else "time (s)"
        margin = max(high - low, 1e-6)  # for the legend at the top and the alarms at the bottom
        ax.set(
            xlabel=unit if starts.size == 1 else f"{unit}, one clip after the other",
            ylabel="how irregular\n(-score)",
            xlim=(-step / 2, times[-1] + step / 2),
            ylim=(low - 0.1 * margin, high + 0.25 * margin),
        )
        if self.threshold is not None or self.labels is not None:
            ax.legend(loc="upper left", ncols=3)
        return self

    def _draw_threshold(self, level: float, step: float) -> None:
        self.threshold_ = self.ax_.axhline(
            level, color=neutral(self.ax_), linestyle="--", linewidth=1.2, label="threshold"
        )
        self.alarms_ = shade(
            self.ax_,
            self.scores < self.threshold,
            step,
            height=0.05,
            color="C3",
            alpha=1,
            linewidth=1,  # keeps one frame of thousands visible
            label="alarm",
        )

    def _mark_clips(self, starts: NDArray[np.int64], step: float) -> None:
        ax, n = self.ax_, len(self.scores)
        ax.vlines(
            (starts[1:] - 0.5) * step,
            0,
            1,
            transform=ax.get_xaxis_transform(),
            colors=neutral(ax),
            linewidth=0.8,
            alpha=0.5,
        )
        names = [str(name) for name in np.asarray(self.groups)[starts]]
        middles = (starts + np.append(starts[1:], n) - 1) / 2
        top = ax.secondary_xaxis("top")
        # Names that would overlap are left out; a letter is about 5 points wide.
        points = ax.bbox.width / ax.figure.dpi * 72
        gap = 5.2 * (max(map(len, names)) + 1) * n / points
        kept: list[int] = []
        for index, middle in enumerate(middles):
            if not kept or middle - middles[kept[-1]] >= gap:
                kept.append(index)
        top.set_ticks(middles[kept] * step, [names[index] for index in kept])
        top.tick_params(length=0, labelsize="small")
