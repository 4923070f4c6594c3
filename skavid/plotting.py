"""Pictures of what the detector sees and how well it tells, as in Figs. 3 and 5 to 7.

Arrays go in, axes come out. matplotlib is imported when something is drawn; colours are those of
its style, and curves differ by more than colour.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from sklearn.metrics import auc, roc_curve
from sklearn.utils.validation import check_is_fitted

from skavid.core.images import RESIDUAL_FLOOR, check_option
from skavid.core.scene import clip_begins
from skavid.metrics.scores import equal_error_rate, reach

__all__ = [
    "HistoryDisplay",
    "IrregularityDisplay",
    "RocDisplay",
    "ScoreOverTimeDisplay",
    "ThresholdPlaneDisplay",
]

LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")
FALSE_POSITIVES = "normal ones found irregular (false positive rate)"
TRUE_POSITIVES = "irregular ones found (true positive rate)"
FALSE_ALARMS = (0.01, 0.1, 0.5)  # whose lines are drawn in the plane of thresholds
NEARLY_0_AND_1 = (1e-30, 1 - 6e-8)  # a regularity of 0 or 1 has no logit
VALUES = ("balanced_accuracy", "tpr", "fpr")


class IrregularityDisplay:
    """Images beside the maps that lead from them to their masks, one image a row.

    It is recommended to use :meth:`from_estimator`.

    Parameters
    ----------
    images : ndarray of shape (n_images, H, W) or (n_images, H, W, C)
        What was looked at. Of other than 1 or 3 channels the newest, the last, is drawn.
    inpainted : ndarray of the same shape
        I(X).
    residual, regularity, evidence : ndarray of shape (n_images, H, W)
        The maps of `AVIDDetector.maps`.
    mask : ndarray of shape (n_images, H, W), bool
        Pixels found irregular.
    truth : ndarray of shape (n_images, H, W), bool, default=None
        Pixels that are irregular.

    Attributes
    ----------
    figure_ : matplotlib Figure
        Once drawn.
    axes_ : ndarray of matplotlib Axes of shape (n_images, 6) or (n_images, 7)
        A row an image: the image, I(X), residual, regularity, evidence, and the image with an
        outline of the mask; where it is known, once more with an outline of the truth.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid import AVIDDetector
    >>> from skavid.plotting import IrregularityDisplay
    >>> X = np.random.default_rng(0).normal(size=(40, 16, 16))
    >>> detector = AVIDDetector(max_epochs=1, random_state=0).fit(X)
    >>> display = IrregularityDisplay.from_estimator(detector, X[:2])
    >>> display.axes_.shape
    (2, 6)
    """

    def __init__(
        self,
        images: NDArray[Any],
        inpainted: NDArray[Any],
        residual: NDArray[Any],
        regularity: NDArray[Any],
        evidence: NDArray[Any],
        mask: NDArray[np.bool_],
        truth: NDArray[np.bool_] | None = None,
    ) -> None:
        self.images = images
        self.inpainted = inpainted
        self.residual = residual
        self.regularity = regularity
        self.evidence = evidence
        self.mask = mask
        self.truth = truth

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: ArrayLike, *, truth: ArrayLike | None = None, axes: Any = None
    ) -> IrregularityDisplay:
        """Look at images with a fitted detector and draw what it sees.

        Parameters
        ----------
        estimator : AVIDDetector
            Fitted.
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            A few images. Of stacked video (``spacing`` of the detector) the newest channel is
            drawn.
        truth : array-like of shape (n_images, H, W), bool, default=None
            Pixels that are irregular.
        axes : ndarray of matplotlib Axes of shape (n_images, 6), default=None
            Where to draw, 7 a row where ``truth`` is known; a new figure when None.

        Returns
        -------
        display : IrregularityDisplay
            Drawn.

        Raises
        ------
        ValueError
            If ``truth`` has another shape than the maps, or ``axes`` are too few or too many.
        """
        images = np.asarray(X)
        maps = estimator.maps(X)
        if images.ndim == 2:  # flat rows
            height, width, n_channels = estimator.image_shape_
            images = images.reshape(-1, height, width, n_channels)
        stacked = estimator.component("corruption").spacing is not None
        shown, restored = (
            pictures[..., -1] if stacked and pictures.ndim == 4 else pictures
            for pictures in (images, maps.inpainted)
        )
        masks = None if truth is None else np.asarray(truth, dtype=bool)
        if masks is not None and masks.shape != maps.evidence.shape:
            raise ValueError(
                f"truth has the shape {masks.shape}, but X holds images of {maps.evidence.shape}; "
                "give one mask an image."
            )
        display = cls(
            shown,
            restored,
            maps.residual,
            maps.regularity,
            maps.evidence,
            maps.evidence >= 0,
            masks,
        )
        return display.plot(axes=axes)

    def plot(self, *, axes: Any = None) -> IrregularityDisplay:
        """Draw.

        Parameters
        ----------
        axes : ndarray of matplotlib Axes of shape (n_images, 6), default=None
            Where to draw, 7 a row where ``truth`` is known; a new figure when None.

        Returns
        -------
        display : IrregularityDisplay
            Itself, with ``figure_`` and ``axes_``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If ``axes`` are too few or too many.
        """
        pyplot = _pyplot()
        n, n_columns = len(self.images), 6 + (self.truth is not None)
        if axes is None:
            height, width = self.mask.shape[1:]
            row = min(max(2.1 * height / width, 0.7), 6.0)  # inches
            figure, axes = pyplot.subplots(
                n,
                n_columns,
                figsize=(2.1 * n_columns, row * n + 1.2),
                squeeze=False,
                layout="constrained",
            )
        else:
            axes = np.asarray(axes)
            if axes.size != n * n_columns:
                raise ValueError(
                    f"axes has the shape {axes.shape}, but {n} images need ({n}, {n_columns})."
                )
            axes = axes.reshape(n, n_columns)
            figure = axes[0, 0].figure
        self.figure_, self.axes_ = figure, axes
        self._draw_images(axes)
        for column, drawn in enumerate(self._maps(), start=2):
            _draw_maps(axes[:, column], *drawn)
        for ax, one in zip(axes[:, 4], self.evidence, strict=True):
            _outline(ax, one >= 0, "black", edge="white")
        for ax in axes.ravel():
            ax.set(xticks=[], yticks=[], anchor="N")
        return self

    def _draw_images(self, axes: Any) -> None:
        limits = {"vmin": self.images.min(), "vmax": self.images.max()}
        columns = [
            (0, "image\nX", self.images, None),
            (1, "restored to normal\nI(X)", self.inpainted, None),
            (5, "found irregular\n(red)", self.images, (self.mask, "red", "white")),
        ]
        if self.truth is not None:
            columns.append(
                (6, "truly irregular\n(green)", self.images, (self.truth, "lime", "black"))
            )
        for column, title, pictures, outlined in columns:
            axes[0, column].set_title(title)
            for index, ax in enumerate(axes[:, column]):
                _show(ax, pictures[index], **limits)
                if outlined is not None:
                    mask, colour, edge = outlined
                    _outline(ax, mask[index], colour, edge=edge)

    def _maps(self) -> list[tuple[str, NDArray[Any], str, float, float]]:
        # What is far below 0 is normal by any measure: the colours are for what is near 0.
        reach = float(max(self.evidence.max(), -np.median(self.evidence), 1e-6))
        return [
            ("what I changed\n|X - I(X)|", self.residual, "magma", 0, float(self.residual.max())),
            ("how regular D finds it\nO", self.regularity, "viridis", 0, 1),
            ("evidence of both\ne >= 0: outlined", self.evidence, "RdBu_r", -reach, reach),
        ]


class ScoreOverTimeDisplay:
    """How irregular each frame is, over time, with the alarms and the truth.

    It is recommended to use :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    scores : ndarray of shape (n_frames,)
        The higher, the more normal; drawn upside down, so that what is irregular stands out.
    threshold : float, default=None
        Frames that score below it are alarms.
    labels : ndarray of shape (n_frames,), default=None
        1 for normal and -1 for irregular frames.
    groups : ndarray of shape (n_frames,), default=None
        Clip of each frame; clips are drawn one after the other.
    frame_rate : float, default=None
        Frames a second; None counts frames.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Once drawn.
    figure_ : matplotlib Figure
        Once drawn.
    line_ : matplotlib Line2D
        The scores with their sign turned; broken between clips.
    threshold_ : matplotlib Line2D or None
        The threshold with its sign turned.
    alarms_ : matplotlib PolyCollection or None
        A mark at the foot under each run of frames below the threshold.
    truth_ : matplotlib PolyCollection or None
        A band over each run of irregular frames.

    Examples
    --------
    >>> from skavid.plotting import ScoreOverTimeDisplay
    >>> display = ScoreOverTimeDisplay.from_predictions(
    ...     [3.0, 2.0, -1.0, -2.0, 1.0], threshold=0.0, labels=[1, 1, 1, -1, -1]
    ... )
    >>> len(display.alarms_.get_paths()), len(display.truth_.get_paths())  # runs of frames
    (1, 1)
    """

    def __init__(
        self,
        scores: NDArray[Any],
        *,
        threshold: float | None = None,
        labels: NDArray[Any] | None = None,
        groups: NDArray[Any] | None = None,
        frame_rate: float | None = None,
    ) -> None:
        self.scores = scores
        self.threshold = threshold
        self.labels = labels
        self.groups = groups
        self.frame_rate = frame_rate

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
        """Score frames with a fitted detector and draw them.

        Parameters
        ----------
        estimator : AVIDDetector, Pipeline or another outlier detector of scikit-learn
            Fitted. Its ``decision_function`` is drawn; alarms are where that is below 0.
        X : array-like of shape (n_frames, ...)
            Frames in the order of time.
        labels : array-like of shape (n_frames,), default=None
            1 for normal and -1 for irregular frames.
        groups : array-like of shape (n_frames,), default=None
            Clip of each frame. The rows of a clip are consecutive.
        frame_rate : float, default=None
            Frames a second; None counts frames.
        ax : matplotlib Axes, default=None
            Where to draw; a new figure when None.

        Returns
        -------
        display : ScoreOverTimeDisplay
            Drawn.
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
        """Draw scores.

        Parameters
        ----------
        scores : array-like of shape (n_frames,)
            The higher, the more normal, as `AVIDDetector.score_samples` gives them.
        threshold : float, default=None
            Frames that score below it are alarms, as below ``offset_``.
        labels : array-like of shape (n_frames,), default=None
            1 for normal and -1 for irregular frames.
        groups : array-like of shape (n_frames,), default=None
            Clip of each frame. The rows of a clip are consecutive.
        frame_rate : float, default=None
            Frames a second; None counts frames.
        ax : matplotlib Axes, default=None
            Where to draw; a new figure when None.

        Returns
        -------
        display : ScoreOverTimeDisplay
            Drawn.

        Raises
        ------
        ValueError
            If the arrays do not fit each other, labels are others than 1 and -1, the rows of a
            clip are not consecutive, or ``frame_rate`` is not above 0.
        """
        given = np.asarray(scores, dtype=np.float64)
        if given.ndim != 1 or not len(given):
            raise ValueError(
                f"scores must hold one figure a frame. Got an array of shape {given.shape}."
            )
        if frame_rate is not None and not frame_rate > 0:
            raise ValueError(f"frame_rate must be above 0 frames a second. Got {frame_rate!r}.")
        truth = None if labels is None else _check_labels("labels", labels, len(given))
        clips = None if groups is None else np.asarray(groups)
        if clips is not None:
            if clips.shape != given.shape:
                raise ValueError(
                    f"groups has the shape {clips.shape}, but scores {given.shape}; give one clip "
                    "id a score."
                )
            clip_begins(clips)
        display = cls(
            given, threshold=threshold, labels=truth, groups=clips, frame_rate=frame_rate
        )
        return display.plot(ax)

    def plot(self, ax: Any = None) -> ScoreOverTimeDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; a new figure when None.

        Returns
        -------
        display : ScoreOverTimeDisplay
            Itself, with its artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.ax_ = ax = _one_axes(ax, figsize=(10, 3.2))
        self.figure_ = ax.figure
        step = 1 if self.frame_rate is None else 1 / self.frame_rate
        times, irregular = np.arange(len(self.scores)) * step, -self.scores
        starts = np.zeros(1, int) if self.groups is None else clip_begins(self.groups)
        (self.line_,) = ax.plot(
            np.insert(times.astype(float), starts[1:], np.nan),
            np.insert(irregular, starts[1:], np.nan),
            linewidth=1.2,
        )
        self.threshold_ = self.alarms_ = self.truth_ = None
        low, high = float(irregular.min()), float(irregular.max())
        if self.labels is not None:
            self.truth_ = _shade(ax, self.labels == -1, step, label="truly irregular")
        if self.threshold is not None:
            level = 0.0 - self.threshold  # not -0
            self.threshold_ = ax.axhline(
                level, color=_neutral(ax), linestyle="--", linewidth=1.2, label="threshold"
            )
            self.alarms_ = _shade(
                ax,
                self.scores < self.threshold,
                step,
                height=0.05,
                color="C3",
                alpha=1,
                linewidth=1,  # one frame of thousands is seen
                label="alarm",
            )
            low, high = min(low, level), max(high, level)
        if starts.size > 1:
            self._mark_clips(starts, step)
        unit = "frame" if self.frame_rate is None else "time (s)"
        # The room on top is the legend's, that at the foot the alarms'.
        room = max(high - low, 1e-6)
        ax.set(
            xlabel=unit if starts.size == 1 else f"{unit}, one clip after the other",
            ylabel="how irregular\n(-score)",
            xlim=(-step / 2, times[-1] + step / 2),
            ylim=(low - 0.1 * room, high + 0.25 * room),
        )
        if self.threshold is not None or self.labels is not None:
            ax.legend(loc="upper left", ncols=3)
        return self

    def _mark_clips(self, starts: NDArray[np.int64], step: float) -> None:
        ax, n = self.ax_, len(self.scores)
        ax.vlines(
            (starts[1:] - 0.5) * step,
            0,
            1,
            transform=ax.get_xaxis_transform(),
            colors=_neutral(ax),
            linewidth=0.8,
            alpha=0.5,
        )
        names = [str(name) for name in np.asarray(self.groups)[starts]]
        middles = (starts + np.append(starts[1:], n) - 1) / 2
        top = ax.secondary_xaxis("top")
        # Names that would run into each other are left out: a letter is about 5 points wide.
        points = ax.bbox.width / ax.figure.dpi * 72
        gap = 5.2 * (max(map(len, names)) + 1) * n / points
        kept: list[int] = []
        for index, middle in enumerate(middles):
            if not kept or middle - middles[kept[-1]] >= gap:
                kept.append(index)
        top.set_ticks(middles[kept] * step, [names[index] for index in kept])
        top.tick_params(length=0, labelsize="small")


class RocDisplay:
    """A ROC curve with its equal error rate, as in Fig. 6; several share one axes.

    It is recommended to use :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    fpr, tpr : ndarray of shape (n_thresholds,)
        Shares of the normal and of the irregular samples that are found irregular.
    thresholds : ndarray of shape (n_thresholds,)
        Rising; samples that score below are found irregular.
    roc_auc : float
        Area under the curve.
    eer : float
        Where both kinds of error are equally frequent, in [0, 1].
    name : str, default=None
        For the legend.

    Attributes
    ----------
    eer_threshold_ : float
        Once drawn: that of `thresholds` whose larger error is the least.
    ax_ : matplotlib Axes
        Once drawn.
    figure_ : matplotlib Figure
        Once drawn.
    line_ : matplotlib Line2D
        The curve.
    eer_point_ : matplotlib Line2D
        A marker where the curve crosses the line of equal errors.

    See Also
    --------
    skavid.metrics.equal_error_rate : Its rule.
    sklearn.metrics.RocCurveDisplay : Curves of any labels, and of folds.

    Examples
    --------
    >>> from skavid.plotting import RocDisplay
    >>> y = [1, 1, 1, -1, -1, -1]
    >>> good = RocDisplay.from_predictions(y, [5, 4, 2, 3, 1, 0], name="both")
    >>> poor = RocDisplay.from_predictions(y, [5, 2, 1, 4, 3, 0], name="I alone", ax=good.ax_)
    >>> round(good.eer, 2), good.eer_threshold_, round(poor.eer, 2)
    (0.33, 2.0, 0.67)
    """

    def __init__(
        self,
        *,
        fpr: NDArray[Any],
        tpr: NDArray[Any],
        thresholds: NDArray[Any],
        roc_auc: float,
        eer: float,
        name: str | None = None,
    ) -> None:
        self.fpr = fpr
        self.tpr = tpr
        self.thresholds = thresholds
        self.roc_auc = roc_auc
        self.eer = eer
        self.name = name

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
        """Score images with a fitted detector and draw its curve.

        Parameters
        ----------
        estimator : AVIDDetector, Pipeline or another outlier detector of scikit-learn
            Fitted. Thresholds are those of its ``decision_function``: 0 is in use.
        X : array-like of shape (n_samples, ...)
            Images.
        y : array-like of shape (n_samples,)
            1 for normal and -1 for irregular images; other pairs with ``pos_label``.
        pos_label : int or str, default=None
            The label of normal images; None takes 1.
        name : str, default=None
            For the legend; None takes the name of the estimator's class.
        ax : matplotlib Axes, default=None
            Where to draw, beside other curves; a new figure when None.

        Returns
        -------
        display : RocDisplay
            Drawn.
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
        """Draw the curve of scores.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            1 for normal and -1 for irregular samples; other pairs with ``pos_label``.
        y_score : array-like of shape (n_samples,)
            The higher, the more normal. Of one network alone:
            ``-maps.residual.max(axis=(1, 2))`` or ``maps.regularity.min(axis=(1, 2))``.
        pos_label : int or str, default=None
            The label of normal samples; None takes 1. Where 0 means normal and 1 irregular, pass
            ``pos_label=0``.
        name : str, default=None
            For the legend.
        ax : matplotlib Axes, default=None
            Where to draw, beside other curves; a new figure when None.

        Returns
        -------
        display : RocDisplay
            Drawn.

        Raises
        ------
        ValueError
            If there is one kind of label alone, or ``pos_label`` is none of them.
        """
        eer = equal_error_rate(y_true, y_score, pos_label=pos_label)
        # Normal is scikit-learn's positive class: what it misses are our false positives.
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
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw, beside other curves; a new figure when None. Each curve takes the next
            colour, kind of line and marker.
        name : str, default=None
            For the legend; None takes that of the display.

        Returns
        -------
        display : RocDisplay
            Itself, with its artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.ax_ = ax = _one_axes(ax, figsize=(5.4, 5.4))
        self.figure_ = ax.figure
        best = int(np.argmin(np.maximum(self.fpr, 1 - self.tpr)))
        self.eer_threshold_ = float(self.thresholds[best])
        curves = [line for line in ax.lines if not line.get_label().startswith("_")]
        if not curves:
            # Chance, and equal errors as far as curves better than chance meet them: the legend
            # lies beyond.
            for x, y in (([0, 1], [0, 1]), ([0, 0.5], [1, 0.5])):
                ax.plot(x, y, color=_neutral(ax), linewidth=0.8, alpha=0.6)
        name = self.name if name is None else name
        figures = (
            f"AUC {self.roc_auc:.3f}, EER {self.eer:.3f} at a score of {self.eer_threshold_:.3g}"
        )
        index = len(curves)
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
            markeredgecolor=_neutral(ax),
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


class HistoryDisplay:
    """How a training went, an epoch a step, and which moments were kept (Sec. 4.3).

    It is recommended to use :meth:`from_estimator`.

    Parameters
    ----------
    history : list of dict
        A row an epoch, as ``AVIDDetector.history_``.
    checkpoint : dict, default=None
        The epochs that I and D were kept from, as ``AVIDDetector.checkpoint_``.
    blind_auc : float, default=0.55
        D is blind where its AUC is below: the training warns after five such epochs in a row.

    Attributes
    ----------
    figure_ : matplotlib Figure
        Once drawn.
    axes_ : ndarray of matplotlib Axes of shape (3,)
        The losses in training; I's error on held-out images; D's AUC on held-out images.
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

    def __init__(
        self,
        history: list[dict[str, Any]],
        *,
        checkpoint: dict[str, dict[str, Any]] | None = None,
        blind_auc: float = 0.55,
    ) -> None:
        self.history = history
        self.checkpoint = checkpoint
        self.blind_auc = blind_auc

    @classmethod
    def from_estimator(cls, estimator: Any, *, axes: Any = None) -> HistoryDisplay:
        """Draw the training of a fitted detector.

        Parameters
        ----------
        estimator : AVIDDetector
            Fitted.
        axes : ndarray of matplotlib Axes of shape (3,), default=None
            Where to draw; a new figure when None.

        Returns
        -------
        display : HistoryDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            If there is no history.
        """
        check_is_fitted(estimator, "history_")
        return cls(estimator.history_, checkpoint=estimator.checkpoint_).plot(axes=axes)

    def plot(self, *, axes: Any = None) -> HistoryDisplay:
        """Draw.

        Parameters
        ----------
        axes : ndarray of matplotlib Axes of shape (3,), default=None
            Where to draw; a new figure when None.

        Returns
        -------
        display : HistoryDisplay
            Itself, with its artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If ``axes`` are not three.
        """
        if axes is None:
            _, axes = _pyplot().subplots(3, sharex=True, figsize=(7, 6.5), layout="constrained")
        elif np.size(axes) != 3:
            raise ValueError(f"axes has the shape {np.shape(axes)}, but must hold three.")
        self.axes_ = axes = np.ravel(axes)
        self.figure_ = axes[0].figure
        epochs = self._column("epoch")
        for name, style in (("inpainter", "-"), ("detector", "--")):
            label = "I" if name == "inpainter" else "D"
            axes[0].plot(epochs, self._column(f"{name}_loss"), style, marker=".", label=label)
        axes[0].legend()
        self._draw_checks(axes[1], "inpainter", "valid_inpainter", "C0", "-")
        self._draw_checks(axes[2], "detector", "valid_detector_auc", "C1", "--")
        axes[2].axhline(self.blind_auc, color=_neutral(axes[2]), linestyle=":", linewidth=1.2)
        blind = self._column("valid_detector_auc") < self.blind_auc
        self.blind_ = _shade(axes[2], blind, first=epochs[0], color="C3") if blind.any() else None
        seconds = sum(row.get("dur", 0.0) for row in self.history)
        unit = "epoch" if len(epochs) == 1 else "epochs"
        axes[0].set_title(f"{len(epochs)} {unit} in {seconds:.0f} s", loc="left")
        if blind.any():
            titles = [axes[2].get_title(loc="left"), "shaded: blind"]
            axes[2].set_title("; ".join(filter(None, titles)), loc="left")
        axes[0].set_ylabel("loss in training")
        axes[1].set_ylabel("error of I,\nheld out")
        axes[2].set(ylabel="AUC of D,\nheld out", xlabel="epoch")
        axes[2].locator_params(axis="x", integer=True, min_n_ticks=1)
        for ax in axes:
            ax.ticklabel_format(useOffset=False)
        return self

    def _draw_checks(self, ax: Any, network: str, figure: str, colour: str, style: str) -> None:
        """Draw a held-out figure, a dot at each new best, and a star where a network is from."""
        epochs, values = self._column("epoch"), self._column(figure)
        letter = network[0].upper()
        better = np.array([letter in row["kept"] for row in self.history])
        ax.plot(epochs, values, style, color=colour)
        ax.plot(epochs[better], values[better], "o", color=colour, markersize=4)
        if self.checkpoint is None:
            return
        kept = self.checkpoint[network]["epoch"]
        at = values[epochs == kept]
        ax.axvline(kept, color=_neutral(ax), linewidth=0.8)
        ax.plot(
            np.full(len(at), kept),
            at,
            "*",
            color=colour,
            markeredgecolor=_neutral(ax),
            markersize=14,
        )
        ax.margins(y=0.15)  # room for the star
        ax.set_title(f"{letter} kept from epoch {kept} (star); dots: the best so far", loc="left")

    def _column(self, name: str) -> NDArray[Any]:
        return np.array([row[name] for row in self.history])


class ThresholdPlaneDisplay:
    """What each pair of thresholds finds: rates over the plane of alpha and zeta (Fig. 6).

    It is recommended to use :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    alphas : ndarray of shape (n_levels,)
        Thresholds on the residual, rising evenly in their logarithm.
    zetas : ndarray of shape (n_levels,)
        Thresholds on the regularity, rising evenly in their logit.
    fpr, tpr : ndarray of shape (n_levels, n_levels)
        Shares of the normal and of the irregular samples that are found irregular; a row a zeta,
        a column an alpha.
    in_use : dict, default=None
        The pair in use, ``alpha`` and ``zeta``, and what it finds, ``fpr`` and ``tpr``.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Once drawn.
    figure_ : matplotlib Figure
        Once drawn.
    mesh_ : matplotlib QuadMesh
        The heat map.
    ray_ : matplotlib Line2D or None
        Where `score_samples` moves both thresholds: ``alpha * exp(t)``, and the odds of zeta
        times ``exp(-t)``.
    point_ : matplotlib Line2D or None
        The pair in use.

    See Also
    --------
    skavid.metrics.threshold_plane : The best rates over the plane, as one curve.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.plotting import ThresholdPlaneDisplay
    >>> residual, regularity = np.array([0.1, 0.9, 0.8, 0.7]), np.array([0.2, 0.9, 0.1, 0.3])
    >>> display = ThresholdPlaneDisplay.from_predictions(
    ...     [1, 1, -1, -1], residual, regularity, alpha=0.5, zeta=0.5
    ... )
    >>> display.in_use["tpr"], display.in_use["fpr"]
    (1.0, 0.0)
    """

    def __init__(
        self,
        *,
        alphas: NDArray[Any],
        zetas: NDArray[Any],
        fpr: NDArray[Any],
        tpr: NDArray[Any],
        in_use: dict[str, float] | None = None,
    ) -> None:
        self.alphas = alphas
        self.zetas = zetas
        self.fpr = fpr
        self.tpr = tpr
        self.in_use = in_use

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        n_levels: int = 60,
        value: str = "balanced_accuracy",
        ax: Any = None,
    ) -> ThresholdPlaneDisplay:
        """Look at images with a fitted detector and draw what its thresholds find.

        Parameters
        ----------
        estimator : AVIDDetector
            Fitted. Its ``fusion`` and ``balance_`` rule the plane.
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            Images; the maps of all of them are held in memory.
        y : array-like of shape (n_images,)
            1 for normal and -1 for irregular images.
        n_levels : int, default=60
            Thresholds on each axis, 2 or more.
        value : {"balanced_accuracy", "tpr", "fpr"}, default="balanced_accuracy"
            What the colours show.
        ax : matplotlib Axes, default=None
            Where to draw; a new figure when None.

        Returns
        -------
        display : ThresholdPlaneDisplay
            Drawn.

        Raises
        ------
        ValueError
            If the detector has a ``min_area``, or as in :meth:`from_predictions`.
        """
        min_area = estimator.component("postprocessing").min_area
        if min_area > 1:
            raise ValueError(
                f"estimator has min_area={min_area}, which this plane does not know; "
                "set_params(postprocessing__min_area=0) shows its thresholds without."
            )
        maps = estimator.maps(X)
        return cls.from_predictions(
            y,
            maps.residual,
            maps.regularity,
            alpha=estimator.alpha_,
            zeta=estimator.zeta_,
            fusion=estimator.fusion,
            balance=estimator.balance_,
            n_levels=n_levels,
            value=value,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        residual: ArrayLike,
        regularity: ArrayLike,
        *,
        alpha: float | None = None,
        zeta: float | None = None,
        fusion: str = "min",
        balance: float = 0.5,
        n_levels: int = 60,
        value: str = "balanced_accuracy",
        ax: Any = None,
    ) -> ThresholdPlaneDisplay:
        """Draw what thresholds find in maps.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            1 for normal and -1 for irregular samples.
        residual : array-like of shape (n_samples, ...)
            R, as `AVIDDetector.maps` gives it: a map a sample, or one figure a sample.
        regularity : array-like of shape (n_samples, ...)
            O, of the same shape.
        alpha, zeta : float, default=None
            The pair in use; both or none.
        fusion : {"min", "mean", "inpainter", "detector"}, default="min"
            As in `skavid.core.anomaly_maps.evidence`: "min" is Eq. 4, both must be passed.
        balance : float, default=0.5
            The share of I's margin in the "mean".
        n_levels : int, default=60
            Thresholds on each axis, 2 or more: from what half of the pixels pass to what none
            does, and the pair in use.
        value : {"balanced_accuracy", "tpr", "fpr"}, default="balanced_accuracy"
            What the colours show.
        ax : matplotlib Axes, default=None
            Where to draw; a new figure when None.

        Returns
        -------
        display : ThresholdPlaneDisplay
            Drawn.

        Raises
        ------
        ValueError
            If the arrays do not fit each other, there is one kind of label alone, ``fusion`` or
            ``value`` is unknown, or one threshold comes without the other.

        Notes
        -----
        The best pair of this picture is the best *for these labels*: it flatters.
        """
        changed, regular = (np.asarray(maps, dtype=np.float32) for maps in (residual, regularity))
        if changed.shape != regular.shape or not changed.ndim:
            raise ValueError(
                f"residual has the shape {changed.shape}, but regularity {regular.shape}; give "
                "both maps of each sample."
            )
        n = len(changed)
        normal = _check_labels("y_true", y_true, n) == 1
        if normal.all() or not normal.any():
            raise ValueError("y_true must hold 1 (normal) and -1 (irregular), both.")
        pair = [] if alpha is None or zeta is None else [alpha, zeta]
        if not pair and (alpha, zeta) != (None, None):
            raise ValueError(f"alpha={alpha!r} and zeta={zeta!r}: give both thresholds or none.")
        if pair and not (pair[0] > 0 and 0 < pair[1] < 1):
            raise ValueError(
                f"alpha must be above 0 and zeta in (0, 1). Got {alpha!r} and {zeta!r}."
            )
        if n_levels < 2:
            raise ValueError(f"n_levels must be 2 or more. Got {n_levels!r}.")
        # I's share in the mean of both margins; None asks for both, Eq. 4.
        shares = {"min": None, "mean": balance, "inpainter": 1.0, "detector": 0.0}
        check_option("fusion", fusion, shares)
        check_option("value", value, VALUES)
        changed, regular = changed.reshape(n, -1), regular.reshape(n, -1)

        def rates(alphas: NDArray[Any], zetas: NDArray[Any]) -> list[NDArray[Any]]:
            flagged = _flagged(changed, regular, alphas, zetas, shares[fusion])
            return [flagged[kind].mean(axis=0) for kind in (normal, ~normal)]

        # From what half of the pixels pass to what none does.
        ends = _margins(
            np.array([np.median(changed), changed.max(), *pair[:1]]),
            np.array([np.median(regular), regular.min(), *pair[1:]]),
        )
        logs, logits = (_beyond(margins, n_levels) for margins in ends)
        alphas, zetas = np.exp(logs), expit(-logits)[::-1]
        fpr, tpr = rates(alphas, zetas)
        in_use = None
        if pair:
            false, true = (float(rate[0, 0]) for rate in rates(*np.array(pair)[:, None]))
            in_use = {"alpha": pair[0], "zeta": pair[1], "fpr": false, "tpr": true}
        display = cls(alphas=alphas, zetas=zetas, fpr=fpr, tpr=tpr, in_use=in_use)
        return display.plot(ax, value=value)

    def plot(self, ax: Any = None, *, value: str = "balanced_accuracy") -> ThresholdPlaneDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; a new figure when None.
        value : {"balanced_accuracy", "tpr", "fpr"}, default="balanced_accuracy"
            What the colours show. Lines show where 1, 10 and 50 % of the normal samples are found
            irregular.

        Returns
        -------
        display : ThresholdPlaneDisplay
            Itself, with its artists.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If ``value`` is unknown.
        """
        check_option("value", value, VALUES)
        balanced = (self.tpr + 1 - self.fpr) / 2
        surface, label, low = {
            "balanced_accuracy": (balanced, "balanced accuracy", min(0.5, float(balanced.min()))),
            "tpr": (self.tpr, TRUE_POSITIVES, 0.0),
            "fpr": (self.fpr, FALSE_POSITIVES, 0.0),
        }[value]
        self.ax_ = ax = _one_axes(ax, figsize=(6.4, 5))
        self.figure_ = ax.figure
        x, y = _edges(np.log(self.alphas)), _edges(logit(self.zetas))
        ax.set(xscale="log", yscale="logit")
        self.mesh_ = ax.pcolormesh(np.exp(x), expit(y), surface, vmin=low, vmax=1, cmap="viridis")
        self.figure_.colorbar(self.mesh_, ax=ax, label=label)
        self._draw_false_alarms(ax)
        self.ray_ = self.point_ = None
        if self.in_use is not None:
            self._draw_in_use(ax, reach=max(np.ptp(x), np.ptp(y)))
        ax.set(
            xlabel="alpha: what I must change",
            ylabel="zeta: how regular D may find it",
            xlim=np.exp(x[[0, -1]]),
            ylim=expit(y[[0, -1]]),
        )
        self._number(ax)
        return self

    def _number(self, ax: Any) -> None:
        """Write 0.2 and not 2 x 10^-1, whose like run into each other, and 0.5, not a tiny 1/2."""
        from matplotlib.ticker import FuncFormatter, LogitFormatter, LogLocator, NullLocator

        class Plain(LogitFormatter):
            """Labels the same ticks, in plain numbers."""

            def __call__(self, zeta: float, pos: int | None = None) -> str:
                return f"{zeta:.6g}" if super().__call__(zeta, pos) else ""

        if self.zetas[0] > 1e-3 and self.zetas[-1] < 1 - 1e-3:
            ax.yaxis.set_major_formatter(Plain())
            ax.yaxis.set_minor_formatter(Plain(minor=True))
        few = self.alphas[-1] < 1000 * self.alphas[0]
        ax.xaxis.set_minor_locator(LogLocator(subs=(2, 5)) if few else NullLocator())
        if few:
            for which in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
                which(FuncFormatter(lambda alpha, _: f"{alpha:g}"))

    def _draw_false_alarms(self, ax: Any) -> None:
        levels = [level for level in FALSE_ALARMS if self.fpr.min() < level < self.fpr.max()]
        if levels:
            lines = ax.contour(
                self.alphas, self.zetas, self.fpr, levels, colors="white", linewidths=1
            )
            lines.set(path_effects=_edged())
            names = ax.clabel(lines, fmt=lambda level: f"{100 * level:.0f} %", fontsize="small")
            for name in names:
                name.set_path_effects(_edged())

    def _draw_in_use(self, ax: Any, *, reach: float) -> None:
        pair = self.in_use or {}
        t = np.linspace(-reach, reach, 201)
        (self.ray_,) = ax.plot(
            pair["alpha"] * np.exp(t),
            expit(logit(pair["zeta"]) - t),
            "--",
            color="white",
            linewidth=1.5,
            path_effects=_edged(),
        )
        (self.point_,) = ax.plot(
            pair["alpha"], pair["zeta"], "*", color="white", markeredgecolor="black", markersize=16
        )
        ax.set_title(
            f"star: in use, finds {100 * pair['tpr']:.0f} % with {100 * pair['fpr']:.0f} % false "
            "alarms\nbroken line: where its score moves; full lines: false alarms",
            loc="left",
            fontsize="medium",
        )


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("Pictures need matplotlib; pip install 'skavid[plot]'.") from error
    return pyplot


def _one_axes(ax: Any, *, figsize: tuple[float, float]) -> Any:
    return _pyplot().subplots(figsize=figsize, layout="constrained")[1] if ax is None else ax


def _neutral(ax: Any) -> Any:
    """Take the colour of the words around the axes: it stands out in any style."""
    return ax.xaxis.label.get_color()


def _edged(colour: str = "black") -> list[Any]:
    """Edge what is bright in black or what is dark in white: it stands out on any picture."""
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=3, foreground=colour)]


def _shade(
    ax: Any,
    where: NDArray[np.bool_],
    step: float = 1,
    first: float = 0,
    height: float = 1,
    **style: Any,
) -> Any:
    """Draw a band over each run of True, up to a share of the height of the axes."""
    from matplotlib.collections import PolyCollection

    edges = first + (np.flatnonzero(np.diff(np.pad(where.astype(int), 1))) - 0.5) * step
    corners = [
        [(left, 0), (left, height), (right, height), (right, 0)]
        for left, right in zip(edges[::2], edges[1::2], strict=True)
    ]
    look = {"color": "C1", "alpha": 0.3, "linewidth": 0, "zorder": 0, **style}
    bands = PolyCollection(corners, transform=ax.get_xaxis_transform(), **look)
    return ax.add_collection(bands, autolim=False)


def _check_labels(name: str, labels: ArrayLike, n: int) -> NDArray[Any]:
    given = np.asarray(labels)
    if given.shape != (n,):
        raise ValueError(
            f"{name} has the shape {given.shape}, but must have ({n},); give one label a sample."
        )
    if not np.isin(given, (-1, 1)).all():
        raise ValueError(
            f"{name} must hold 1 (normal) and -1 (irregular). Got {np.unique(given).tolist()}."
        )
    return given


def _margins(
    residual: NDArray[Any], regularity: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute log(R) and -logit(O), the margins of Eq. 4 without its thresholds."""
    changed = np.log(np.maximum(residual, RESIDUAL_FLOOR, dtype=np.float64))
    return changed, -logit(regularity.astype(np.float64).clip(*NEARLY_0_AND_1))


def _flagged(
    residual: NDArray[np.float32],
    regularity: NDArray[np.float32],
    alphas: NDArray[Any],
    zetas: NDArray[Any],
    share: float | None,
) -> NDArray[np.bool_]:
    """Tell which samples have an irregular pixel, (n_samples, n_zetas, n_alphas).

    ``share`` is I's in the mean of both margins; None asks for both, Eq. 4.
    """
    flagged: NDArray[np.bool_]
    if share is None:
        # Thresholds in float32, as maps are compared.
        highest = reach(residual, regularity, zetas.astype(np.float32))
        flagged = highest[..., None] >= alphas.astype(np.float32)
        return flagged
    peaks = np.empty(len(residual))
    for index, pair in enumerate(zip(residual, regularity, strict=True)):
        changed, doubted = _margins(*pair)
        peaks[index] = (share * changed + (1 - share) * doubted).max()
    cuts = share * np.log(alphas) - (1 - share) * logit(zetas)[:, None]
    flagged = peaks[:, None, None] >= cuts
    return flagged


def _beyond(margins: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Rise evenly from the least to a little beyond the largest."""
    return np.linspace(margins.min(), margins.max() + 0.05 * np.ptp(margins) + 1e-3, n)


def _edges(middles: NDArray[Any]) -> NDArray[Any]:
    half = (middles[1] - middles[0]) / 2
    return np.append(middles - half, middles[-1] + half)


def _draw_maps(
    axes: Any, title: str, maps: NDArray[Any], colours: str, low: float, high: float
) -> None:
    from matplotlib.ticker import MaxNLocator

    for ax, one in zip(axes, maps, strict=True):
        drawn = ax.imshow(one, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    axes[0].set_title(title)
    beyond = "min" if maps.min() < low else "neither"
    axes[0].figure.colorbar(
        drawn,
        ax=list(axes),
        location="bottom",
        shrink=0.9,
        pad=0.02,
        extend=beyond,
        ticks=MaxNLocator(2),  # more labels run into each other
    )


def _show(ax: Any, picture: NDArray[Any], *, vmin: float, vmax: float) -> None:
    if picture.ndim == 3 and picture.shape[-1] == 3:
        scaled = (picture.astype(float) - vmin) / max(float(vmax) - float(vmin), 1e-12)
        ax.imshow(scaled.clip(0, 1), interpolation="nearest")
        return
    grey = picture if picture.ndim == 2 else picture[..., -1]
    ax.imshow(grey, cmap="gray", vmin=vmin, vmax=vmax, interpolation="nearest")


def _outline(ax: Any, mask: NDArray[np.bool_], colour: str, *, edge: str) -> None:
    if mask.any():
        # A border of False closes the outlines of masks that touch the edge.
        closed = np.pad(mask.astype(float), 1)
        y, x = np.arange(closed.shape[0]) - 1, np.arange(closed.shape[1]) - 1
        limits = {"xlim": ax.get_xlim(), "ylim": ax.get_ylim()}
        outline = ax.contour(x, y, closed, levels=[0.5], colors=colour, linewidths=1.5)
        outline.set(clip_on=False, zorder=3, path_effects=_edged(edge))  # over the frame
        ax.set(**limits)
