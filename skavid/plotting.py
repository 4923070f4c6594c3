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
    axes_ : ndarray of matplotlib Axes
        One row an image.

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
        X : array-like of shape (n_images, H, W) or (n_images, H, W, C)
            A few images.
        truth : array-like of shape (n_images, H, W), bool, default=None
            Pixels that are irregular.
        axes : ndarray of matplotlib Axes of shape (n_images, 6), default=None
            Where to draw; a new figure when None.

        Returns
        -------
        display : IrregularityDisplay
            Drawn.
        """
        images = np.asarray(X)
        maps = estimator.maps(images)
        display = cls(
            images,
            maps.inpainted,
            maps.residual,
            maps.regularity,
            maps.evidence,
            estimator.segment(images),
            None if truth is None else np.asarray(truth, dtype=bool),
        )
        return display.plot(axes=axes)

    def plot(self, *, axes: Any = None) -> IrregularityDisplay:
        """Draw.

        Parameters
        ----------
        axes : ndarray of matplotlib Axes of shape (n_images, 6), default=None
            Where to draw; a new figure when None.

        Returns
        -------
        display : IrregularityDisplay
            Itself, with ``figure_`` and ``axes_``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise ImportError("Pictures need matplotlib; pip install 'skavid[plot]'.") from error
        n = len(self.images)
        if axes is None:
            figure, axes = pyplot.subplots(
                n, 6, figsize=(15, 2.6 * n + 0.5), squeeze=False, layout="constrained"
            )
        else:
            axes = np.asarray(axes).reshape(n, 6)
            figure = axes[0, 0].figure
        self.figure_, self.axes_ = figure, axes
        self._draw_pictures(axes)
        for column, drawn in enumerate(self._maps(), start=2):
            self._draw_map(axes[:, column], *drawn)
        self._draw_masks(axes[:, 5])
        for ax in axes.ravel():
            ax.set(xticks=[], yticks=[])
        return self

    def _maps(self) -> list[tuple[str, NDArray[Any], str, float, float]]:
        reach = float(np.abs(self.evidence).max()) or 1.0
        return [
            ("what I changed\n|X - I(X)|", self.residual, "magma", 0, float(self.residual.max())),
            ("how regular D finds it\nO (yellow: regular)", self.regularity, "viridis", 0, 1),
            ("evidence e\n(red: irregular)", self.evidence, "RdBu_r", -reach, reach),
        ]

    def _draw_pictures(self, axes: Any) -> None:
        limits = {"vmin": self.images.min(), "vmax": self.images.max()}
        columns = (("image\nX", self.images), ("restored to normal\nI(X)", self.inpainted))
        for column, (title, pictures) in enumerate(columns):
            for ax, picture in zip(axes[:, column], pictures, strict=True):
                _show(ax, picture, **limits)
            axes[0, column].set_title(title)

    def _draw_map(
        self, axes: Any, title: str, maps: NDArray[Any], colours: str, low: float, high: float
    ) -> None:
        for ax, one in zip(axes, maps, strict=True):
            drawn = ax.imshow(one, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        axes[0].set_title(title)
        axes[0].figure.colorbar(drawn, ax=list(axes), shrink=0.9, pad=0.02)

    def _draw_masks(self, axes: Any) -> None:
        limits = {"vmin": self.images.min(), "vmax": self.images.max()}
        for index, ax in enumerate(axes):
            _show(ax, self.images[index], **limits)
            _outline(ax, self.mask[index], "red", "-")
            if self.truth is not None:
                _outline(ax, self.truth[index], "lime", "--")
        told = "found (red)" if self.truth is None else "found (red)\ntruth (green, dashed)"
        axes[0].set_title(told)


def _show(ax: Any, picture: NDArray[Any], *, vmin: float, vmax: float) -> None:
    if picture.ndim == 3 and picture.shape[-1] == 3:
        scaled = (picture.astype(float) - vmin) / max(float(vmax) - float(vmin), 1e-12)
        ax.imshow(scaled.clip(0, 1), interpolation="nearest")
        return
    grey = picture if picture.ndim == 2 else picture[..., -1]
    ax.imshow(grey, cmap="gray", vmin=vmin, vmax=vmax, interpolation="nearest")


def _outline(ax: Any, mask: NDArray[np.bool_], colour: str, style: str) -> None:
    if mask.any():
        # A border of False closes the outlines of masks that touch the edge.
        closed = np.pad(mask.astype(float), 1)
        y, x = np.arange(closed.shape[0]) - 1, np.arange(closed.shape[1]) - 1
        ax.contour(x, y, closed, levels=[0.5], colors=colour, linestyles=style, linewidths=1.5)
