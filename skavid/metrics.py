"""How well scores tell normal from irregular (Sec. 4.2).

Floor 2: NumPy and scikit-learn alone; knows neither networks nor data sets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_curve

__all__ = ["cell_scores", "equal_error_rate"]


def equal_error_rate(
    y_true: ArrayLike, y_score: ArrayLike, *, pos_label: int | str | None = None
) -> float:
    """Find the error rate at the threshold where both kinds of error are equally frequent.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        1 for normal and -1 for irregular samples, as `AVIDDetector.predict` labels them; other
        pairs of labels with ``pos_label``.
    y_score : array-like of shape (n_samples,)
        The higher, the more normal, as `AVIDDetector.score_samples` gives them.
    pos_label : int or str, default=None
        The label that high scores belong to.

    Returns
    -------
    eer : float
        In [0, 1]: 0.5 for scores that say nothing. The ROC curve is interpolated between its
        vertices.

    Raises
    ------
    ValueError
        If only one kind of label is there.

    Notes
    -----
    Published figures differ in how they interpolate; with thousands of scores the choice
    matters little, with a hundred thresholds it can move the figure by a point.

    Examples
    --------
    >>> from skavid.metrics import equal_error_rate
    >>> equal_error_rate([1, 1, 1, -1, -1], [0.9, 0.8, 0.1, 0.3, 0.2])
    0.3333333333333333
    """
    labels = np.asarray(y_true)
    kinds = np.unique(labels)
    if len(kinds) != 2:
        raise ValueError(
            f"y_true must hold normal and irregular samples, two labels. Got {kinds.tolist()}."
        )
    false_alarms, hits, _ = roc_curve(
        labels, y_score, pos_label=pos_label, drop_intermediate=False
    )
    gap = false_alarms - (1 - hits)  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    before = max(0, after - 1)
    share = 0.0 if after == before else -gap[before] / (gap[after] - gap[before])
    return float(false_alarms[before] + share * (false_alarms[after] - false_alarms[before]))


def cell_scores(maps: ArrayLike, cell: int, *, reduce: str = "max") -> NDArray[Any]:
    """Reduce pixel maps to the square cells of a grid.

    Parameters
    ----------
    maps : array-like of shape (n_images, H, W)
        Evidence, say: the higher, the more irregular.
    cell : int
        Side of a cell in pixels; H and W are multiples of it.
    reduce : {"max", "mean"}, default="max"
        How the pixels of a cell become one figure.

    Returns
    -------
    scores : ndarray of shape (n_images, H // cell, W // cell)
        One figure a cell.

    Raises
    ------
    ValueError
        If the cells do not tile the maps.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.metrics import cell_scores
    >>> cell_scores(np.arange(16.0).reshape(1, 4, 4), 2)
    array([[[ 5.,  7.],
            [13., 15.]]])
    """
    array = np.asarray(maps)
    n, height, width = array.shape
    if height % cell or width % cell:
        raise ValueError(
            f"maps of {height} x {width} pixels are not tiled by cells of {cell}; resize or crop "
            "them."
        )
    tiles = array.reshape(n, height // cell, cell, width // cell, cell)
    reduced: NDArray[Any] = (np.max if reduce == "max" else np.mean)(tiles, axis=(2, 4))
    return reduced
