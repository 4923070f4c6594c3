"""Pictures of what the detector sees and how well it tells, as in Figs. 3 and 5 to 7.

Floor 2, just above ``metrics``: arrays in, axes out; knows no network. matplotlib is imported when
something is drawn; colours are those of its style, and curves differ by more than colour.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "IrregularityDisplay",
    "ScoreOverTimeDisplay",
]


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
        stacked = getattr(estimator, "spacing", None) is not None
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
            estimator.segment(X),
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
                    f"groups has the shape {clips.shape}, but there are {len(given)} scores; give "
                    "one clip id a score."
                )
            if len(_clip_starts(clips)) != len(np.unique(clips)):
                raise ValueError(
                    "groups has a clip whose frames are not consecutive; sort scores, labels and "
                    "groups by clip and time."
                )
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
        starts = np.zeros(1, int) if self.groups is None else _clip_starts(self.groups)
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


def _clip_starts(groups: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.flatnonzero(groups[1:] != groups[:-1]) + 1])


def _check_labels(name: str, labels: ArrayLike, n: int) -> NDArray[Any]:
    given = np.asarray(labels)
    if given.shape != (n,):
        raise ValueError(
            f"{name} has the shape {given.shape}, but there are {n} samples; give one label each."
        )
    if not np.isin(given, (-1, 1)).all():
        raise ValueError(
            f"{name} must hold 1 (normal) and -1 (irregular). Got {np.unique(given).tolist()}."
        )
    return given


def _draw_maps(
    axes: Any, title: str, maps: NDArray[Any], colours: str, low: float, high: float
) -> None:
    for ax, one in zip(axes, maps, strict=True):
        drawn = ax.imshow(one, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    axes[0].set_title(title)
    beyond = "min" if maps.min() < low else "neither"
    axes[0].figure.colorbar(
        drawn, ax=list(axes), location="bottom", shrink=0.9, pad=0.02, extend=beyond
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
