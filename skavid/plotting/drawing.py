"""Axes, colours and checks that several displays share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skavid.metrics.scores import check_labels

__all__: list[str] = []  # internal to skavid.plotting

FALSE_POSITIVES = "normal ones found irregular (false positive rate)"
TRUE_POSITIVES = "irregular ones found (true positive rate)"


def import_pyplot() -> Any:
    """Import matplotlib, or say how to install it."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("Pictures need matplotlib; pip install 'skavid[plot]'.") from error
    return pyplot


def one_axes(ax: Any, *, figsize: tuple[float, float]) -> Any:
    """Return the given axes, or those of a new figure."""
    if ax is not None:
        return ax
    return import_pyplot().subplots(figsize=figsize, layout="constrained")[1]


def neutral(ax: Any) -> Any:
    """Return the colour of the axis labels, which is visible in every style."""
    return ax.xaxis.label.get_color()


def edged(colour: str = "black") -> list[Any]:
    """Return a path effect that keeps a line visible on any image: an edge of this colour."""
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=3, foreground=colour)]


def shade(
    ax: Any,
    where: NDArray[np.bool_],
    step: float = 1,
    first: float = 0,
    height: float = 1,
    **style: Any,
) -> Any:
    """Draw a band over each run of True, as high as the given share of the axes."""
    from matplotlib.collections import PolyCollection

    edges = first + (np.flatnonzero(np.diff(np.pad(where.astype(int), 1))) - 0.5) * step
    corners = [
        [(left, 0), (left, height), (right, height), (right, 0)]
        for left, right in zip(edges[::2], edges[1::2], strict=True)
    ]
    style = {"color": "C1", "alpha": 0.3, "linewidth": 0, "zorder": 0, **style}
    bands = PolyCollection(corners, transform=ax.get_xaxis_transform(), **style)
    return ax.add_collection(bands, autolim=False)


def check_labels_of(name: str, labels: ArrayLike, n: int, *, both: bool = False) -> NDArray[Any]:
    """Check that there is one label, 1 or -1, for each of ``n`` samples."""
    if np.shape(labels) != (n,):
        raise ValueError(
            f"{name} has the shape {np.shape(labels)}, but must have ({n},); give one label per "
            "sample."
        )
    return check_labels(name, labels, both=both)
