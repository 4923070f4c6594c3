"""Pictures of what the detector sees, as in Figs. 3, 5 and 7.

Floor 2: arrays in, axes out; knows no network. matplotlib is imported when something is drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["IrregularityDisplay"]


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


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("Pictures need matplotlib; pip install 'skavid[plot]'.") from error
    return pyplot


def _edged(colour: str = "black") -> list[Any]:
    """Edge what is bright in black or what is dark in white: it stands out on any picture."""
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=3, foreground=colour)]


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
