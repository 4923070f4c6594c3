"""Measures of scores and maps against labels and masks (Sec. 4.2, Fig. 6)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import auc, roc_auc_score, roc_curve
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch

from skavid.core.images import check_ignored, check_measured
from skavid.exceptions import LabelWarning
from skavid.metrics.overlap import (
    aupro_score,
    check_maps,
    pairs,
    pro_curve,
    rbdc_score,
    region_track_curve,
    tbdc_score,
)
from skavid.sklearn_private import Interval, StrOptions, validated

__all__ = [
    "aupro_score",
    "cell_scores",
    "clip_auc_score",
    "equal_error_rate",
    "make_map_scorer",
    "pixel_level_auc_score",
    "pixel_level_curve",
    "pixel_level_equal_error_rate",
    "pro_curve",
    "rbdc_score",
    "region_level_auc_score",
    "region_level_equal_error_rate",
    "region_track_curve",
    "tbdc_score",
    "threshold_plane",
]

RULES = ("pami2014", "cvpr2010", "dual")
_FPR_GRID = 1001

_SHARE = [Interval(Real, 0, 1, closed="right")]
_LEVEL = {
    "y_true": ["array-like"],
    "y_score": ["array-like"],
    "rule": [StrOptions(set(RULES))],
    "overlap": _SHARE,
    "precision": _SHARE,
    "ignore_mask": ["array-like", None],
}


def equal_error_rate(
    y_true: ArrayLike, y_score: ArrayLike, *, pos_label: int | str | None = None
) -> float:
    """Compute the equal error rate, at which misses and false alarms are equally frequent.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        1 for normal and -1 for irregular samples, as `AVIDDetector.predict` returns them; other
        pairs of labels with ``pos_label``.
    y_score : array-like of shape (n_samples,)
        The higher, the more normal, as `AVIDDetector.score_samples` returns them.
    pos_label : int or str, default=None
        The label of samples with high scores; 1 when None. If 0 means normal and 1 irregular,
        pass ``pos_label=0``; without it the result is 1 - EER, and a warning says so.

    Returns
    -------
    eer : float
        In [0, 1], about 0.5 for random scores. The ROC curve is interpolated between its
        vertices.

    See Also
    --------
    sklearn.metrics.roc_curve : Computes the curve that contains this point.

    Notes
    -----
    An error is a normal sample that scores below the threshold, or an irregular one that does
    not. Published results differ in their thresholds and their interpolation; here every score
    is a threshold.

    Examples
    --------
    >>> from skavid.metrics import equal_error_rate
    >>> equal_error_rate([1, 1, -1, -1], [0.9, 0.2, 0.3, 0.1])
    0.5
    """
    labels, scores = check_measured("y_true", y_true), check_measured("y_score", y_score)
    kinds = np.unique(labels)
    if len(kinds) != 2:
        raise ValueError(
            f"y_true must hold two labels, for normal and irregular samples. Got {kinds.tolist()}."
        )
    if pos_label is None and kinds.tolist() == [0, 1]:
        warnings.warn(
            "y_true holds 0 and 1, of which 1 is taken for normal; pass pos_label=0 if 1 means "
            "irregular, and pos_label=1 if it means normal.",
            LabelWarning,
            stacklevel=2,
        )
    if pos_label is not None and pos_label not in kinds:
        raise ValueError(
            f"pos_label must be one of y_true's labels {kinds.tolist()}. Got {pos_label!r}."
        )
    # Normal is the positive class, so its false positives are irregular samples that pass.
    missed, passed, _ = roc_curve(labels, scores, pos_label=pos_label)
    return _crossing(missed, passed)


@validated(**_LEVEL)
def pixel_level_curve(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    rule: str = "pami2014",
    overlap: float = 0.4,
    precision: float = 0.05,
    ignore_mask: ArrayLike | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Compute the ROC curve of frames that requires irregular pixels to be localised.

    Parameters
    ----------
    y_true : array-like of shape (n_frames, H, W), bool
        Masks, True where a pixel is irregular; a frame is irregular if its mask is not empty.
    y_score : array-like of shape (n_frames, h, w)
        Maps, the higher the more irregular, such as ``evidence`` of `AVIDDetector.maps`. They
        are resized to the masks by nearest neighbours.
    rule : {"pami2014", "cvpr2010", "dual"}, default="pami2014"
        The definition of hits and false alarms; see Notes.
    overlap : float, default=0.4
        Share of the irregular pixels of a frame that must be flagged, in (0, 1].
    precision : float, default=0.05
        For "dual": share of the flagged pixels that must be irregular, in (0, 1].
    ignore_mask : array-like of shape (H, W), bool, default=None
        True where pixels of the masks count neither as irregular nor as normal. A frame that is
        irregular only there is normal.

    Returns
    -------
    fpr, tpr : ndarray of shape (n_thresholds,)
        Rates of false alarms and of hits, at every threshold that changes either.
    thresholds : ndarray of shape (n_thresholds,)
        In descending order from infinity; a pixel is flagged if its score is at least that.

    See Also
    --------
    pixel_level_auc_score : Computes the area under the curve.
    pixel_level_equal_error_rate : Computes the equal error rate.

    Notes
    -----
    - "pami2014" [1]_, the rule of the paper's Table 1: an irregular frame is a hit if
      ``overlap`` of its irregular pixels are flagged; a normal frame is a false alarm if any
      pixel is. Flagged normal pixels of an irregular frame are not penalised, so whole frames
      can be flagged.
    - "cvpr2010" [2]_: an irregular frame with flagged pixels that is not a hit counts as a false
      alarm. The false alarm rate is the share of false alarms among false alarms and true
      negatives, and need not be monotonic in the threshold.
    - "dual" [3]_: for a hit, ``precision`` of the flagged pixels must be irregular as well. The
      hit rate decreases at thresholds so low that they flag everything.

    References
    ----------
    .. [1] W. Li, V. Mahadevan, N. Vasconcelos, "Anomaly Detection and Localization in Crowded
       Scenes", PAMI 2014.
    .. [2] V. Mahadevan et al., "Anomaly Detection in Crowded Scenes", CVPR 2010.
    .. [3] M. Sabokrou et al., "Real-time anomaly detection and localization in crowded
       scenes", CVPR Workshops 2015.

    Examples
    --------
    >>> from skavid.metrics import pixel_level_curve
    >>> masks = [[[True, True, False]], [[False, False, False]]]
    >>> fpr, tpr, thresholds = pixel_level_curve(masks, [[[1, 3, 4]], [[2, 0, 0]]])
    >>> fpr, tpr, thresholds
    (array([0., 0., 1.]), array([0., 1., 1.]), array([inf,  3.,  2.]))
    """
    masks, maps, counted = check_maps(y_true, y_score, ignore_mask)
    hits, alarms, astray = _Steps([], []), _Steps([], []), _Steps([], [])
    n_irregular = 0
    for mask, scores in pairs(masks, maps, counted):
        highest = float(scores[counted].max())
        if not mask.any():
            alarms.add(highest, 1)
            continue
        n_irregular += 1
        found = np.sort(scores[mask])[::-1]
        # The smallest number of pixels that is this share of them, robust to rounding.
        needed = max(1, int(np.ceil(overlap * len(found) - 1e-9)))
        enough = float(found[needed - 1])
        if rule == "dual":
            for threshold, step in _dual_hits(found, scores[counted & ~mask], enough, precision):
                hits.add(threshold, step)
            continue
        hits.add(enough, 1)
        if rule == "cvpr2010":
            astray.add(highest, 1)
            astray.add(enough, -1)
    n_normal = len(masks) - n_irregular
    if 0 in (n_irregular, n_normal):
        kind = "irregular" if n_irregular == 0 else "normal"
        raise ValueError(f"y_true must hold irregular and normal frames. Got no {kind} one.")
    thresholds = np.unique(hits.at + alarms.at + astray.at)[::-1].astype(np.float64)
    beside = astray.total(thresholds)
    fpr = (alarms.total(thresholds) + beside) / (n_normal + beside)
    return (
        np.concatenate([[0], fpr]),
        np.concatenate([[0], hits.total(thresholds) / n_irregular]),
        np.concatenate([[np.inf], thresholds]),
    )


@validated(**_LEVEL)
def pixel_level_auc_score(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    rule: str = "pami2014",
    overlap: float = 0.4,
    precision: float = 0.05,
    ignore_mask: ArrayLike | None = None,
) -> float:
    """Compute the area under the pixel-level ROC curve of frames.

    Parameters
    ----------
    y_true, y_score, rule, overlap, precision, ignore_mask : array-like, str, float
        As in `pixel_level_curve`.

    Returns
    -------
    area : float
        In [0, 1], by the trapezoid rule. For "cvpr2010" and "dual", whose curves are not
        monotonic, the area under the best hit rate at each or a lower false alarm rate.

    Examples
    --------
    >>> from skavid.metrics import pixel_level_auc_score
    >>> masks = [[[True, True, False]], [[False, False, False]]]
    >>> pixel_level_auc_score(masks, [[[1, 3, 4]], [[2, 0, 0]]])
    1.0
    """
    fpr, tpr, _ = pixel_level_curve(
        y_true, y_score, rule=rule, overlap=overlap, precision=precision, ignore_mask=ignore_mask
    )
    order = np.lexsort((tpr, fpr))
    # A curve that ends before an FPR of 1 is extended by a constant.
    x, y = np.append(fpr[order], 1.0), np.maximum.accumulate(np.append(tpr[order], 0.0))
    return float(auc(x, y))


@validated(**_LEVEL)
def pixel_level_equal_error_rate(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    rule: str = "pami2014",
    overlap: float = 0.4,
    precision: float = 0.05,
    ignore_mask: ArrayLike | None = None,
) -> float:
    """Compute the equal error rate of the pixel-level ROC curve of frames.

    Parameters
    ----------
    y_true, y_score, rule, overlap, precision, ignore_mask : array-like, str, float
        As in `pixel_level_curve`.

    Returns
    -------
    eer : float
        In [0, 1], interpolated between the vertices of the curve; the first crossing from high
        thresholds on if there are several.

    Examples
    --------
    >>> from skavid.metrics import pixel_level_equal_error_rate
    >>> masks = [[[True, True, False]], [[False, False, False]]]
    >>> pixel_level_equal_error_rate(masks, [[[1, 3, 4]], [[2, 0, 0]]])
    0.0
    """
    fpr, tpr, _ = pixel_level_curve(
        y_true, y_score, rule=rule, overlap=overlap, precision=precision, ignore_mask=ignore_mask
    )
    return _crossing(fpr, tpr)


def region_level_auc_score(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    cell: int,
    reduce: str = "max",
    ignore_mask: ArrayLike | None = None,
) -> float:
    """Compute the area under the ROC curve over the cells of a grid.

    Parameters
    ----------
    y_true : array-like of shape (n_images, H, W), bool
        Masks; a cell is irregular where any of its pixels is.
    y_score : array-like of shape (n_images, h, w)
        Maps, the higher the more irregular; resized to the masks.
    cell : int
        Side of a cell in pixels; H and W are multiples of it.
    reduce : {"max", "mean"}, default="max"
        How the scores of a cell are aggregated.
    ignore_mask : array-like of shape (H, W), bool, default=None
        True where pixels do not count. A cell without other pixels is left out.

    Returns
    -------
    area : float
        In [0, 1], over the cells of all images; the paper's localisation measure on IR-MNIST.

    Examples
    --------
    >>> from skavid.metrics import region_level_auc_score
    >>> masks = [[[True, False], [False, False]]]
    >>> region_level_auc_score(masks, [[[5, 2], [3, 7]]], cell=1)
    0.666...
    """
    return float(roc_auc_score(*_cells(y_true, y_score, cell, reduce, ignore_mask)))


def region_level_equal_error_rate(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    cell: int,
    reduce: str = "max",
    ignore_mask: ArrayLike | None = None,
) -> float:
    """Compute the equal error rate over the cells of a grid.

    Parameters
    ----------
    y_true, y_score, cell, reduce, ignore_mask : array-like, array-like, int, str, array-like
        As in `region_level_auc_score`.

    Returns
    -------
    eer : float
        In [0, 1].

    Examples
    --------
    >>> from skavid.metrics import region_level_equal_error_rate
    >>> masks = [[[True, False], [False, False]]]
    >>> region_level_equal_error_rate(masks, [[[5, 2], [3, 7]]], cell=1)
    0.333...
    """
    irregular, scores = _cells(y_true, y_score, cell, reduce, ignore_mask)
    return equal_error_rate(np.where(irregular, -1, 1), -scores)


@validated(
    y_true=["array-like"],
    y_score=["array-like"],
    groups=["array-like"],
    one_kind=[StrOptions({"skip", "pad"})],
)
def clip_auc_score(
    y_true: ArrayLike, y_score: ArrayLike, groups: ArrayLike, *, one_kind: str = "skip"
) -> float:
    """Compute the "macro" AUC: the mean over clips of the area under the ROC curve.

    Parameters
    ----------
    y_true : array-like of shape (n_frames,)
        1 for normal and -1 for irregular frames.
    y_score : array-like of shape (n_frames,)
        The higher, the more normal, as `AVIDDetector.score_samples` returns them.
    groups : array-like of shape (n_frames,)
        Clip of each frame.
    one_kind : {"skip", "pad"}, default="skip"
        The treatment of clips with a single label, whose AUC is undefined. "skip" leaves them
        out; "pad" adds to every clip, as in published results, a normal frame with its highest
        and an irregular frame with its lowest score.

    Returns
    -------
    area : float
        In [0, 1]. "micro" AUC, over the frames of all clips, is scikit-learn's
        ``roc_auc_score``; macro AUC is usually higher, as each clip has its own thresholds.

    Examples
    --------
    >>> from skavid.metrics import clip_auc_score
    >>> clip_auc_score([1, -1, 1, -1], [0.9, 0.8, 0.3, 0.1], [0, 0, 1, 1])
    1.0
    """
    given_arrays = {"y_true": y_true, "y_score": y_score, "groups": groups}
    labels, scores, clips = (check_measured(*given) for given in given_arrays.items())
    if not labels.shape == scores.shape == clips.shape == (len(labels),):
        raise ValueError(
            "y_true, y_score and groups must have the same length. Got shapes "
            f"{labels.shape}, {scores.shape} and {clips.shape}."
        )
    check_labels("y_true", labels)
    areas = []
    for clip in np.unique(clips):
        here = clips == clip
        kinds, given = labels[here], scores[here]
        if one_kind == "pad":
            kinds = np.append(kinds, (1, -1))
            given = np.append(given, (given.max(), given.min()))
        if len(np.unique(kinds)) == 2:
            areas.append(roc_auc_score(kinds, given))
    if not areas:
        raise ValueError("groups leave no clip with normal and irregular frames; see one_kind.")
    return float(np.mean(areas))


@validated(
    y_true=["array-like"],
    residual=["array-like"],
    regularity=["array-like"],
    n_levels=[Interval(Integral, 1, None, closed="left")],
    ignore_mask=["array-like", None],
)
def threshold_plane(
    y_true: ArrayLike,
    residual: ArrayLike,
    regularity: ArrayLike,
    *,
    n_levels: int = 100,
    ignore_mask: ArrayLike | None = None,
) -> Bunch:
    """Compute the ROC curve of Eq. 4 over the plane of both thresholds, Fig. 6.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        1 for normal and -1 for irregular samples.
    residual : array-like of shape (n_samples, ...)
        R: one map per sample, as `AVIDDetector.maps` returns it (detection), or one number per
        sample, cell or pixel (localisation).
    regularity : array-like of shape (n_samples, ...)
        O, of the same shape.
    n_levels : int, default=100
        Number of values of zeta, quantiles of the lowest regularity of each sample, in addition
        to one that passes every pixel. Each is combined with every value of alpha.
    ignore_mask : array-like of shape (H, W), bool, default=None
        True where pixels of the maps, of shape (n_samples, H, W), do not count.

    Returns
    -------
    plane : Bunch
        ``fpr``, 0, 0.001 ... 1; for each the highest ``tpr`` of all pairs of thresholds with at
        most that false positive rate, and such a pair, ``alpha`` and ``zeta``.

    See Also
    --------
    sklearn.metrics.roc_curve : Computes the curve of the scores, along one ray of this plane.

    Notes
    -----
    A sample is flagged if any pixel has ``R >= alpha`` and ``O <= zeta``. Each point of the curve
    uses the best pair *for these labels*, so it is an upper bound, more optimistic than the curve
    along a ray that was chosen without labels.

    Examples
    --------
    >>> from skavid.metrics import threshold_plane
    >>> plane = threshold_plane([1, 1, -1], [0.1, 0.9, 0.8], [0.2, 0.9, 0.1])
    >>> plane.tpr[[0, -1]], plane.alpha[0], plane.zeta[0]
    (array([1., 1.]), np.float64(0.8), np.float64(0.1))
    """
    labels = check_labels("y_true", y_true, both=True)
    changed = check_measured("residual", residual)
    regular = check_measured("regularity", regularity)
    for name, maps in (("residual", changed), ("regularity", regular)):
        if not np.isfinite(maps).all():
            raise ValueError(f"{name} holds NaN or infinity; give finite maps.")
    if changed.shape != regular.shape or changed.shape[:1] != labels.shape:
        raise ValueError(
            f"residual has the shape {changed.shape}, regularity {regular.shape}, and y_true "
            f"{labels.shape}; give both maps of each sample."
        )
    if ignore_mask is not None:
        counted = ~check_ignored(ignore_mask, changed.shape[1:], owner="the maps")
        changed, regular = changed[:, counted], regular[:, counted]
    changed, regular = (array.reshape(len(labels), -1) for array in (changed, regular))
    lowest = regular.min(axis=1)
    levels = np.quantile(lowest, np.linspace(0, 1, n_levels), method="nearest")
    zetas = np.unique(np.append(levels, regular.max()))  # the last passes every pixel
    irregular = labels == -1
    highest = largest_alphas(changed, regular, zetas)
    best = Bunch(
        fpr=np.linspace(0, 1, _FPR_GRID),
        tpr=np.zeros(_FPR_GRID),
        alpha=np.full(_FPR_GRID, np.inf),
        zeta=np.full(_FPR_GRID, zetas[0]),
    )
    for zeta, flagged_up_to in zip(zetas, highest.T, strict=True):
        alphas = np.unique(flagged_up_to[flagged_up_to > -np.inf])[::-1]
        # (n_alphas,): shares of either kind that reach each alpha
        fpr, tpr = (
            (kind.sum() - np.searchsorted(np.sort(flagged_up_to[kind]), alphas)) / kind.sum()
            for kind in (~irregular, irregular)
        )
        last = np.searchsorted(fpr, best.fpr + 1e-12, side="right") - 1
        better = (last >= 0) & (tpr[last] > best.tpr)
        best.tpr[better] = tpr[last][better]
        best.alpha[better] = alphas[last][better]
        best.zeta[better] = zeta
    return best


def make_map_scorer(
    score_func: Callable[..., float], *, greater_is_better: bool = True, **parameters: Any
) -> _MapScorer:
    """Make a scorer of maps for cross-validation and searches with masks as y.

    Parameters
    ----------
    score_func : callable
        ``score_func(masks, maps, **parameters)``, such as `aupro_score`.
    greater_is_better : bool, default=True
        False negates the score, for error rates.
    **parameters : dict
        Parameters of ``score_func``.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y)`` for ``scoring=``, where y are masks of shape (n_images, H, W).
        The maps are the ``evidence`` of ``estimator.maps(X)``, in a Pipeline of its last step.
        Stack video before the search, as a stacker that was fitted with groups requires them.

    See Also
    --------
    skavid.NoveltyKFold : Splits images, also with masks as y.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import cross_val_score
    >>> from skavid import AVIDDetector, NoveltyKFold
    >>> from skavid.metrics import aupro_score, make_map_scorer
    >>> X = np.random.default_rng(0).normal(size=(40, 16, 16))
    >>> masks = np.zeros((40, 16, 16), bool)
    >>> X[30:, 4:8, 4:8] += 9
    >>> masks[30:, 4:8, 4:8] = True
    >>> detector = AVIDDetector(max_epochs=1, random_state=0)
    >>> scorer = make_map_scorer(aupro_score, max_fpr=0.3)
    >>> cross_val_score(detector, X, masks, cv=NoveltyKFold(2), scoring=scorer).shape
    (2,)
    """
    return _MapScorer(score_func, 1 if greater_is_better else -1, parameters)


@validated(
    maps=["array-like"],
    cell=[Interval(Integral, 1, None, closed="left")],
    reduce=[StrOptions({"max", "mean"})],
)
def cell_scores(maps: ArrayLike, cell: int, *, reduce: str = "max") -> NDArray[Any]:
    """Aggregate pixel maps over the square cells of a grid.

    Parameters
    ----------
    maps : array-like of shape (n_images, H, W)
        Maps such as evidence. Masked elements of a masked array are ignored.
    cell : int
        Side of a cell in pixels; H and W are multiples of it.
    reduce : {"max", "mean"}, default="max"
        How the pixels of a cell are aggregated.

    Returns
    -------
    scores : ndarray of shape (n_images, H // cell, W // cell)
        One number per cell.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.metrics import cell_scores
    >>> cell_scores(np.arange(16.0).reshape(1, 4, 4), 2)
    array([[[ 5.,  7.],
            [13., 15.]]])
    """
    array = np.asanyarray(maps)
    if array.ndim != 3:
        raise ValueError(f"maps must have the shape (n_images, H, W). Got {array.shape}.")
    n, height, width = array.shape
    if height % cell or width % cell:
        raise ValueError(
            f"maps have {height} x {width} pixels, which cells of {cell} x {cell} do not tile; "
            "crop the maps or choose another cell."
        )
    tiles = array.reshape(n, height // cell, cell, width // cell, cell)
    reduced: NDArray[Any] = (np.max if reduce == "max" else np.mean)(tiles, axis=(2, 4))
    return reduced


class _MapScorer(NamedTuple):
    """The scorer that `make_map_scorer` returns."""

    score_func: Callable[..., float]
    sign: int
    parameters: dict[str, Any]

    def __call__(self, estimator: Any, X: Any, y_true: ArrayLike) -> float:
        if isinstance(estimator, Pipeline):
            X, estimator = estimator[:-1].transform(X), estimator[-1]
        evidence = estimator.maps(X).evidence
        return float(self.sign * self.score_func(y_true, evidence, **self.parameters))


def _cells(
    y_true: ArrayLike, y_score: ArrayLike, cell: int, reduce: str, ignore_mask: ArrayLike | None
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Return whether each cell that counts is irregular, and its score."""
    masks, maps, counted = check_maps(y_true, y_score, ignore_mask)
    masks, maps = map(np.stack, zip(*pairs(masks, maps, counted), strict=True))
    judged = np.ma.array(maps, mask=np.broadcast_to(~counted, maps.shape))
    scores = np.ma.asarray(cell_scores(judged, cell, reduce=reduce))
    irregular = cell_scores(masks.astype(bool), cell)
    return irregular[~np.ma.getmaskarray(scores)], scores.compressed()


class _Steps(NamedTuple):
    """A count as a function of the threshold: it changes by ``by[i]`` at and below ``at[i]``."""

    at: list[float]
    by: list[int]

    def add(self, threshold: float, step: int) -> None:
        self.at.append(threshold)
        self.by.append(step)

    def total(self, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        order = np.argsort(self.at)
        rising, steps = np.asarray(self.at)[order], np.asarray(self.by)[order]
        sums = np.concatenate([np.cumsum(steps[::-1])[::-1], [0]])
        return np.asarray(sums[np.searchsorted(rising, thresholds, side="left")], float)


def _dual_hits(
    found: NDArray[Any], beside: NDArray[Any], enough: float, precision: float
) -> list[tuple[float, int]]:
    """Find where a frame begins (1) and ceases (-1) to be a hit with decreasing threshold."""
    # With more flagged normal pixels than this, the precision is too low.
    most = int(len(found) / precision) + 1
    if len(beside) > most:
        beside = -np.partition(-beside, most - 1)[:most]
        reached = float(beside.min())
    else:
        reached = -np.inf
    levels = np.unique(np.concatenate([found, beside]))[::-1]
    n_found = len(found) - np.searchsorted(found[::-1], levels, side="left")
    n_beside = len(beside) - np.searchsorted(np.sort(beside), levels, side="left")
    exact = n_found >= precision * (n_found + n_beside) - 1e-9
    hit = exact & (levels <= enough) & (levels >= reached)
    change = np.flatnonzero(np.diff(np.concatenate([[False], hit]).astype(int)))
    return [(float(levels[index]), 1 if hit[index] else -1) for index in change]


def check_labels(name: str, labels: ArrayLike, *, both: bool = False) -> NDArray[Any]:
    """Check that labels are 1 and -1, and if ``both`` that each of them occurs."""
    given = check_measured(name, labels)
    found = np.unique(given).tolist()
    if not set(found) <= {-1, 1} or (both and len(found) < 2):
        raise ValueError(
            f"{name} must hold 1 (normal) and -1 (irregular){', both' * both}. Got {found}."
        )
    return given


def largest_alphas(
    residual: NDArray[Any], regularity: NDArray[Any], zetas: NDArray[Any]
) -> NDArray[np.float64]:
    """Find the largest alpha at which Eq. 4 flags each sample at each zeta.

    ``residual`` and ``regularity`` have the shape (n_samples, n_pixels), ``zetas`` the dtype of
    the regularity. The result, (n_samples, n_zetas), is ``-inf`` where D flags no pixel.
    """
    highest = np.full((len(residual), len(zetas)), -np.inf)
    for row, changed, regular in zip(highest, residual, regularity, strict=True):
        order = np.argsort(regular)
        largest = np.maximum.accumulate(changed[order])
        n_doubted = np.searchsorted(regular[order], zetas, side="right")
        row[n_doubted > 0] = largest[n_doubted[n_doubted > 0] - 1]
    return highest


def _crossing(fpr: NDArray[Any], tpr: NDArray[Any]) -> float:
    """Find where FPR and miss rate meet first, from high thresholds on."""
    gap = fpr - (1 - tpr)  # from -1 to 1, or to 0 if the hit rate returns to 0
    after = int(np.argmax(gap >= 0))
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float((1 - share) * fpr[after - 1] + share * fpr[after])
