"""How well scores tell normal from irregular (Sec. 4.2).

Floor 2: NumPy and scikit-learn alone; knows neither networks nor data sets.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_curve
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

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
        The label that high scores belong to; None takes 1. Where 0 means normal and 1
        irregular, pass ``pos_label=0``: without it the result is 1 - EER, in silence.

    Returns
    -------
    eer : float
        In [0, 1]: 0.5 for scores that say nothing. The ROC curve is interpolated between its
        vertices.

    Raises
    ------
    ValueError
        If there is one kind of label alone, or ``pos_label`` is none of them.

    See Also
    --------
    sklearn.metrics.roc_curve : The curve that this is a point of.

    Notes
    -----
    An error is a normal sample that scores below the threshold, or an irregular one that does
    not. Published figures differ in where they take the thresholds from and in how they
    interpolate; here every score is a threshold.

    Examples
    --------
    >>> from skavid.metrics import equal_error_rate
    >>> equal_error_rate([1, 1, -1, -1], [0.9, 0.2, 0.3, 0.1])
    0.5
    """
    labels = np.asarray(y_true)
    kinds = np.unique(labels)
    if len(kinds) != 2:
        raise ValueError(
            f"y_true must hold normal and irregular samples, two labels. Got {kinds.tolist()}."
        )
    if pos_label is not None and pos_label not in kinds:
        raise ValueError(
            f"pos_label must be one of {kinds.tolist()}, y_true's. Got {pos_label!r}."
        )
    # Normal is the positive class: its false positives are the irregular samples that pass.
    missed, passed, _ = roc_curve(labels, y_score, pos_label=pos_label)
    gap = missed - (1 - passed)  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float((1 - share) * missed[after - 1] + share * missed[after])


@validate_params(  # type: ignore[untyped-decorator]
    {
        "maps": ["array-like"],
        "cell": [Interval(Integral, 1, None, closed="left")],
        "reduce": [StrOptions({"max", "mean"})],
    },
    prefer_skip_nested_validation=True,
)
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
    if array.ndim != 3:
        raise ValueError(f"maps must have the shape (n_images, H, W). Got {array.shape}.")
    n, height, width = array.shape
    if height % cell or width % cell:
        raise ValueError(
            f"maps are of {height} x {width} pixels, which cells of {cell} x {cell} do not tile; "
            "crop them or take another cell."
        )
    tiles = array.reshape(n, height // cell, cell, width // cell, cell)
    reduced: NDArray[Any] = (np.max if reduce == "max" else np.mean)(tiles, axis=(2, 4))
    return reduced
