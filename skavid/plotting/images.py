"""Images beside the maps and masks that a detector computes for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skavid.plotting.drawing import edged, import_pyplot

__all__ = ["IrregularityDisplay"]


@dataclass(eq=False, repr=False)
class IrregularityDisplay:
    """Show images beside their maps and masks, one row per image.

    It is recommended to use :meth:`from_estimator`.

    Parameters
    ----------
    images : ndarray of shape (n_images, H, W) or (n_images, H, W, C)
        The images. If there are neither 1 nor 3 channels, the last channel is drawn, which is the
        newest frame of stacked video.
    inpainted : ndarray of the same shape
        The inpainted images, I(X).
    residual, regularity, evidence : ndarray of shape (n_images, H, W)
        The maps of `AVIDDetector.maps`.
    mask : ndarray of shape (n_images, H, W), bool
        True where a pixel was found irregular.
    ground_truth : ndarray of shape (n_images, H, W), bool, default=None
        True where a pixel is irregular.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure, set by :meth:`plot`.
    axes_ : ndarray of matplotlib Axes of shape (n_images, 6) or (n_images, 7)
        One row per image: the image, I(X), residual, regularity, evidence, the image with the
        outline of the mask, and, if it is given, the image with the outline of the ground truth.

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

    images: NDArray[Any]
    inpainted: NDArray[Any]
    residual: NDArray[Any]
    regularity: NDArray[Any]
    evidence: NDArray[Any]
    mask: NDArray[np.bool_]
    ground_truth: NDArray[np.bool_] | None = None

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        *,
        ground_truth: ArrayLike | None = None,
        axes: Any = None,
    ) -> IrregularityDisplay:
        """Compute the maps of a fitted detector and draw them.

        Parameters
        ----------
        estimator : AVIDDetector
            A fitted detector.
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            A few images. Of stacked video (``spacing`` of the detector is set) the newest channel
            is drawn.
        ground_truth : array-like of shape (n_images, H, W), bool, default=None
            True where a pixel is irregular.
        axes : ndarray of matplotlib Axes of shape (n_images, 6), default=None
            The axes to draw on, 7 per row with ``ground_truth``. A new figure when None.

        Returns
        -------
        display : IrregularityDisplay
            The drawn display.
        """
        images = np.asarray(X)
        maps = estimator.maps(X)
        if images.ndim == 2:  # flat rows
            images = images.reshape(-1, *estimator.image_shape_)
        inpainted = maps.inpainted
        if estimator.component("corruption").spacing is not None:
            images, inpainted = (
                some[..., -1] if some.ndim == 4 else some for some in (images, inpainted)
            )
        masks = None if ground_truth is None else np.asarray(ground_truth, dtype=bool)
        if masks is not None and masks.shape != maps.evidence.shape:
            raise ValueError(
                f"ground_truth has the shape {masks.shape}, but X holds images of "
                f"{maps.evidence.shape}; give one mask per image."
            )
        mask = maps.evidence >= 0
        display = cls(
            images, inpainted, maps.residual, maps.regularity, maps.evidence, mask, masks
        )
        return display.plot(axes=axes)

    def plot(self, *, axes: Any = None) -> IrregularityDisplay:
        """Draw the images, maps and masks.

        Parameters
        ----------
        axes : ndarray of matplotlib Axes of shape (n_images, 6), default=None
            The axes to draw on, 7 per row with ``ground_truth``. A new figure when None.

        Returns
        -------
        display : IrregularityDisplay
            The display itself, with ``figure_`` and ``axes_``.
        """
        self.axes_ = axes = self._layout(axes)
        self.figure_ = axes[0, 0].figure
        self._draw_images(axes)
        # Evidence far below 0 is normal by any measure, so the colours are for values near 0.
        limit = float(max(self.evidence.max(), -np.median(self.evidence), 1e-6))
        highest = float(self.residual.max())
        for column, title, maps, colours, low, high in (
            (2, "residual\n|X - I(X)|", self.residual, "magma", 0, highest),
            (3, "regularity, by D\nO", self.regularity, "viridis", 0, 1),
            (4, "evidence of both\ne >= 0: outlined", self.evidence, "RdBu_r", -limit, limit),
        ):
            _draw_maps(axes[:, column], title, maps, colours, low, high)
        for ax, one in zip(axes[:, 4], self.evidence, strict=True):
            _outline(ax, one >= 0, "black", edge="white")
        for ax in axes.ravel():
            ax.set(xticks=[], yticks=[], anchor="N")
        return self

    def _layout(self, axes: Any) -> NDArray[Any]:
        """Return axes of one row per image: those given, or those of a new figure."""
        shape = n, n_columns = len(self.images), 6 + (self.ground_truth is not None)
        if axes is not None:
            if np.size(axes) != n * n_columns:
                raise ValueError(
                    f"axes has the shape {np.shape(axes)}, but {n} images need {shape}."
                )
            return np.reshape(axes, shape)
        height, width = self.mask.shape[1:]
        row = min(max(2.1 * height / width, 0.7), 6.0)  # inches
        drawn: NDArray[Any] = import_pyplot().subplots(
            *shape,
            figsize=(2.1 * n_columns, row * n + 1.2),
            squeeze=False,
            layout="constrained",
        )[1]
        return drawn

    def _draw_images(self, axes: NDArray[Any]) -> None:
        limits = {"vmin": self.images.min(), "vmax": self.images.max()}
        for column, title, images, masks, colour, edge in (
            (0, "image\nX", self.images, None, "", ""),
            (1, "restored to normal\nI(X)", self.inpainted, None, "", ""),
            (5, "predicted mask\n(red)", self.images, self.mask, "red", "white"),
            (6, "ground truth\n(green)", self.images, self.ground_truth, "lime", "black"),
        ):
            if column == axes.shape[1]:  # no ground truth
                continue
            axes[0, column].set_title(title)
            for index, ax in enumerate(axes[:, column]):
                _show(ax, images[index], **limits)
                if masks is not None:
                    _outline(ax, masks[index], colour, edge=edge)


def _draw_maps(
    axes: Any, title: str, maps: NDArray[Any], colours: str, low: float, high: float
) -> None:
    from matplotlib.ticker import MaxNLocator

    for ax, one in zip(axes, maps, strict=True):
        drawn = ax.imshow(one, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    axes[0].set_title(title)
    axes[0].figure.colorbar(
        drawn,
        ax=list(axes),
        location="bottom",
        shrink=0.9,
        pad=0.02,
        extend="min" if maps.min() < low else "neither",
        ticks=MaxNLocator(2),  # more labels would overlap
    )


def _show(ax: Any, image: NDArray[Any], *, vmin: float, vmax: float) -> None:
    if image.ndim == 3 and image.shape[-1] == 3:
        scaled = (image.astype(float) - vmin) / max(float(vmax) - float(vmin), 1e-12)
        ax.imshow(scaled.clip(0, 1), interpolation="nearest")
        return
    grey = image if image.ndim == 2 else image[..., -1]
    ax.imshow(grey, cmap="gray", vmin=vmin, vmax=vmax, interpolation="nearest")


def _outline(ax: Any, mask: NDArray[np.bool_], colour: str, *, edge: str) -> None:
    if mask.any():
        # A border of False closes the outlines of masks that touch the edge.
        closed = np.pad(mask.astype(float), 1)
        y, x = np.arange(closed.shape[0]) - 1, np.arange(closed.shape[1]) - 1
        limits = {"xlim": ax.get_xlim(), "ylim": ax.get_ylim()}
        outline = ax.contour(x, y, closed, levels=[0.5], colors=colour, linewidths=1.5)
        outline.set(clip_on=False, zorder=3, path_effects=edged(edge))  # above the frame
        ax.set(**limits)
