"""Measures of the overlap with irregular regions: AUPRO, detection of regions and tracks."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from sklearn.utils import Bunch

from skavid.core.images import check_ignored, check_measured, resize
from skavid.core.scene import clip_begins
from skavid.sklearn_private import Interval, validated

__all__ = ["aupro_score", "pro_curve", "rbdc_score", "region_track_curve", "tbdc_score"]

# Regions are connected over edges and corners, as in the evaluation of MVTec AD.
_NEIGHBOURS = np.ones((3, 3), dtype=bool)
# The quantiles of each map that are candidate thresholds, as shares of pixels above.
_SHARES = (0.0, 1e-4, 1e-3, 0.01, 0.05, 0.2)

_SHARE = [Interval(Real, 0, 1, closed="right")]
_COUNT = [Interval(Integral, 2, None, closed="left")]


@validated(
    y_true=["array-like"],
    y_score=["array-like"],
    n_thresholds=[*_COUNT, None],
    ignore_mask=["array-like", None],
)
def pro_curve(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    n_thresholds: int | None = None,
    ignore_mask: ArrayLike | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[Any]]:
    """Compute the per-region overlap (PRO) as a function of the false positive rate of pixels.

    Parameters
    ----------
    y_true : array-like of shape (n_images, H, W), bool
        Masks, True where a pixel is irregular. A region is a set of pixels that are connected
        over edges or corners.
    y_score : array-like of shape (n_images, h, w)
        Maps, the higher the more irregular, such as ``evidence`` of `AVIDDetector.maps`. They
        are resized to the masks by nearest neighbours.
    n_thresholds : int, default=None
        Number of thresholds, quantiles of a sample of the scores. None uses every score as a
        threshold, which is exact and needs memory for all of them.
    ignore_mask : array-like of shape (H, W), bool, default=None
        True where pixels of the masks count neither as irregular nor as normal. A region that
        they divide counts as two.

    Returns
    -------
    fpr : ndarray of shape (n_thresholds + 1,)
        Share of the normal pixels of all images at or above each threshold.
    pro : ndarray of shape (n_thresholds + 1,)
        Mean over regions of the share of their pixels at or above each threshold.
    thresholds : ndarray of shape (n_thresholds + 1,)
        In descending order from infinity.

    See Also
    --------
    aupro_score : Computes the area under the curve.

    References
    ----------
    .. [1] P. Bergmann et al., "Uninformed Students: Student-Teacher Anomaly Detection with
       Discriminative Latent Embeddings", CVPR 2020.

    Examples
    --------
    >>> from skavid.metrics import pro_curve
    >>> fpr, pro, _ = pro_curve([[[True, True, False, False]]], [[[3, 1, 2, 0]]])
    >>> fpr, pro
    (array([0. , 0. , 0.5, 0.5, 1. ]), array([0. , 0.5, 0.5, 1. , 1. ]))
    """
    masks, maps, counted = check_maps(y_true, y_score, ignore_mask)
    rising = _pixel_thresholds(maps, counted, n_thresholds)
    n_levels = len(rising)
    alarms, overlap = np.zeros(n_levels + 1), np.zeros(n_levels + 1)
    n_regions = 0
    for mask, scores in pairs(masks, maps, counted):
        # The number of ascending thresholds that each pixel reaches.
        level = np.searchsorted(rising, scores, side="right")
        # Not bincount, which would visit all levels for each image.
        np.add.at(alarms, level[counted & ~mask], 1)
        labels, found = ndimage.label(mask, _NEIGHBOURS)
        if found:
            sizes = np.bincount(labels.ravel())
            weights = 1 / sizes[labels[mask]]
            np.add.at(overlap, level[mask], weights)
            n_regions += found
    if n_regions == 0 or alarms.sum() == 0:
        kind = "irregular" if n_regions == 0 else "normal"
        raise ValueError(f"y_true must hold irregular and normal pixels. Got no {kind} one.")
    fpr = np.cumsum(alarms[::-1])[:-1] / alarms.sum()
    # Sums of shares may exceed 1 by rounding.
    pro = np.minimum(np.cumsum(overlap[::-1])[:-1] / n_regions, 1)
    return (
        np.concatenate([[0], fpr]),
        np.concatenate([[0], pro]),
        np.concatenate([[np.inf], rising[::-1]]),
    )


@validated(max_fpr=_SHARE)
def aupro_score(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    max_fpr: float = 0.3,
    n_thresholds: int | None = None,
    ignore_mask: ArrayLike | None = None,
) -> float:
    """Compute the area under the per-region overlap curve, AUPRO.

    Parameters
    ----------
    y_true : array-like of shape (n_images, H, W), bool
        Masks, as in `pro_curve`.
    y_score : array-like of shape (n_images, h, w)
        Maps, the higher the more irregular, as in `pro_curve`.
    max_fpr : float, default=0.3
        Upper limit of the false positive rate, in (0, 1]; the curve is interpolated there.
    n_thresholds : int, default=None
        As in `pro_curve`.
    ignore_mask : array-like of shape (H, W), bool, default=None
        True where pixels do not count, as in `pro_curve`.

    Returns
    -------
    aupro : float
        The area divided by ``max_fpr``, in [0, 1].

    Examples
    --------
    >>> from skavid.metrics import aupro_score
    >>> aupro_score([[[True, True, False, False]]], [[[3, 1, 2, 0]]], max_fpr=1.0)
    0.75
    """
    fpr, pro, _ = pro_curve(y_true, y_score, n_thresholds=n_thresholds, ignore_mask=ignore_mask)
    return area_to(fpr, pro, max_fpr) / max_fpr


@validated(
    y_true=["array-like"],
    y_score=["array-like"],
    groups=["array-like", None],
    min_iou=_SHARE,
    min_share=_SHARE,
    n_thresholds=_COUNT,
    thresholds=["array-like", None],
    ignore_mask=["array-like", None],
)
def region_track_curve(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    min_iou: float = 0.1,
    min_share: float = 0.1,
    n_thresholds: int = 50,
    thresholds: ArrayLike | None = None,
    ignore_mask: ArrayLike | None = None,
) -> Bunch:
    """Compute detection rates of regions and tracks as functions of false regions per frame.

    Parameters
    ----------
    y_true : array-like of shape (n_frames, H, W), bool or int
        Masks. If bool, regions are the connected components of a frame, and regions that touch or
        overlap from frame to frame form a track. If int, 0 is normal and each other number is
        the id of a track, whose pixels in a frame form one region.
    y_score : array-like of shape (n_frames, h, w)
        Maps, the higher the more irregular; resized to the masks.
    groups : array-like of shape (n_frames,), default=None
        Clip of each frame; tracks do not extend over clips. None: one clip.
    min_iou : float, default=0.1
        Minimum intersection over union of a detected with an irregular region, in (0, 1].
    min_share : float, default=0.1
        Minimum share of detected regions of a detected track, in (0, 1].
    n_thresholds : int, default=50
        Number of thresholds, quantiles of candidates from all frames. Regions of every frame are
        labelled for each threshold.
    thresholds : array-like, default=None
        The thresholds, instead of ``n_thresholds``.
    ignore_mask : array-like of shape (H, W), bool, default=None
        True where pixels of the masks do not count and belong to no region. They divide tracks
        unless the masks number their tracks.

    Returns
    -------
    curve : Bunch
        ``thresholds`` in descending order; for each of them ``false_regions`` (the mean number
        per frame of connected regions of the map that match no irregular region), ``regions`` and
        ``tracks`` (the shares that are detected); and ``n_regions``, ``n_tracks``.

    See Also
    --------
    rbdc_score : Computes the area under ``regions``.
    tbdc_score : Computes the area under ``tracks``.

    References
    ----------
    .. [1] B. Ramachandra, M. J. Jones, "Street Scene: A new dataset and evaluation protocol for
       video anomaly detection", WACV 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.metrics import region_track_curve
    >>> masks = np.zeros((4, 6, 6), bool)
    >>> masks[1:, 2:4, 2:4] = True
    >>> curve = region_track_curve(masks, masks * 2.0, thresholds=[1.0])
    >>> curve.regions, curve.tracks, curve.false_regions, curve.n_regions, curve.n_tracks
    (array([1.]), array([1.]), array([0.]), 3, 1)
    """
    masks, maps, counted = check_maps(y_true, y_score, ignore_mask, whole=True)
    numbered = bool(masks.dtype != bool and masks.max(where=counted, initial=0) > 1)
    if thresholds is None:
        levels = _suggest_thresholds(maps, counted, n_thresholds)
    else:
        levels = np.unique(np.asarray(thresholds, dtype=np.float64))[::-1]
    false = np.zeros(len(levels))
    detected: list[NDArray[np.bool_]] = []
    tracks: list[int] = []
    for labels, scores, of_track in _true_regions(masks, maps, counted, groups, numbered):
        found = np.zeros((len(levels), len(of_track)), dtype=bool)
        for index in np.flatnonzero(levels <= scores[counted].max()):
            flagged = ndimage.label(counted & (scores >= levels[index]), _NEIGHBOURS)[0]
            meets = _iou(flagged, labels) >= min_iou
            found[index] = meets.any(axis=0)
            false[index] += np.count_nonzero(~meets.any(axis=1))
        detected.append(found)
        tracks += of_track
    hits = np.concatenate(detected, axis=1)  # (n_thresholds, n_regions)
    if not tracks:
        raise ValueError("y_true must hold irregular pixels. Got none.")
    _, track = np.unique(tracks, return_inverse=True)
    sizes = np.bincount(track)
    shares = np.stack([np.bincount(track, row, minlength=len(sizes)) for row in hits]) / sizes
    return Bunch(
        thresholds=levels,
        false_regions=false / len(maps),
        regions=hits.mean(axis=1),
        # Robust to rounding.
        tracks=(shares >= min_share - 1e-12).mean(axis=1),
        n_regions=len(tracks),
        n_tracks=len(sizes),
    )


def rbdc_score(y_true: ArrayLike, y_score: ArrayLike, **parameters: Any) -> float:
    """Compute the area under the region-based detection curve, RBDC.

    Parameters
    ----------
    y_true : array-like of shape (n_frames, H, W), bool or int
        Masks, as in `region_track_curve`.
    y_score : array-like of shape (n_frames, h, w)
        Maps, the higher the more irregular.
    **parameters : dict
        Parameters of `region_track_curve`.

    Returns
    -------
    rbdc : float
        In [0, 1]: the mean over x from 0 to 1 of the best detection rate with at most x false
        regions per frame. The curve is extended by a constant, as in [1]_.

    References
    ----------
    .. [1] M.-I. Georgescu et al., "A background-agnostic framework with adversarial training
       for abnormal event detection in video", TPAMI 2021, whose evaluation extends the curve.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.metrics import rbdc_score
    >>> masks = np.zeros((4, 6, 6), bool)
    >>> masks[1:, 2:4, 2:4] = True
    >>> rbdc_score(masks, masks * 2.0)
    1.0
    """
    curve = region_track_curve(y_true, y_score, **parameters)
    return _best_area(curve.false_regions, curve.regions)


def tbdc_score(y_true: ArrayLike, y_score: ArrayLike, **parameters: Any) -> float:
    """Compute the area under the track-based detection curve, TBDC.

    Parameters
    ----------
    y_true : array-like of shape (n_frames, H, W), bool or int
        Masks, as in `region_track_curve`.
    y_score : array-like of shape (n_frames, h, w)
        Maps, the higher the more irregular.
    **parameters : dict
        Parameters of `region_track_curve`.

    Returns
    -------
    tbdc : float
        In [0, 1], as `rbdc_score` for tracks.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.metrics import tbdc_score
    >>> masks = np.zeros((4, 8, 8), bool)
    >>> masks[1:, 2:4, 2:4] = True
    >>> tbdc_score(masks, np.zeros((4, 8, 8)))
    0.0
    """
    curve = region_track_curve(y_true, y_score, **parameters)
    return _best_area(curve.false_regions, curve.tracks)


def check_maps(
    y_true: ArrayLike,
    y_score: ArrayLike,
    ignore_mask: ArrayLike | None = None,
    *,
    whole: bool = False,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Check masks and maps without reading memory maps; return them and the pixels that count.

    Masks hold bool, or integers 0 and 1; with ``whole`` any track numbers. The pixels that count
    are a mask of shape (H, W), False where ``ignore_mask`` is True.
    """
    masks, maps = check_measured("y_true", y_true), check_measured("y_score", y_score)
    for name, array in (("y_true", masks), ("y_score", maps)):
        if array.ndim != 3 or 0 in array.shape:
            raise ValueError(f"{name} must have the shape (n_images, H, W). Got {array.shape}.")
    if len(masks) != len(maps):
        raise ValueError(
            f"y_true has {len(masks)} masks, but y_score has {len(maps)} maps; give one map per "
            "mask."
        )
    (height, width), (rows, columns) = masks.shape[1:], maps.shape[1:]
    # Rounding of a resized frame may add or remove one row or column.
    if abs(height * columns - width * rows) > max(height, width, rows, columns):
        raise ValueError(
            f"y_true has masks of {height} x {width} pixels, but y_score has maps of {rows} x "
            f"{columns}, which is another aspect; resize them to one."
        )
    counted = np.ones((height, width), dtype=bool)
    if ignore_mask is not None:
        counted = ~check_ignored(ignore_mask, (height, width), owner="the masks")
    if masks.dtype != bool:
        some = masks[0][counted][0]
        low, high = (reduce(masks, where=counted, initial=some) for reduce in (np.min, np.max))
        wrong = not np.issubdtype(masks.dtype, np.integer) or low < 0
        if wrong or (not whole and high > 1):
            kinds = "bool or track numbers" if whole else "bool"
            raise ValueError(
                f"y_true must hold {kinds}. Got {masks.dtype} from {low} to {high}; masks of 0 "
                "and 255 become bool by y_true > 0."
            )
    return masks, maps, counted


def pairs(
    masks: NDArray[Any], maps: NDArray[Any], counted: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield each boolean mask with its map at the size of the mask, one in memory at a time.

    Masks are False where pixels do not count; scores have no NaN where pixels count.
    """
    for index, (mask, one) in enumerate(zip(masks, maps, strict=True)):
        scores = one if one.shape == mask.shape else resize(one, mask.shape)
        if np.isnan(scores[counted]).any():
            raise ValueError(f"y_score holds NaN in map {index}.")
        yield mask.astype(bool, copy=False) & counted, scores


def area_to(x: NDArray[np.float64], y: NDArray[np.float64], limit: float) -> float:
    """Integrate a curve, x ascending from 0 and flat beyond its end, from 0 to a limit."""
    # Not np.interp, as the last point before a vertical step counts.
    inside = int(np.searchsorted(x, limit, side="right"))
    at_limit = y[inside - 1]
    if inside < len(x):
        slope = (y[inside] - y[inside - 1]) / (x[inside] - x[inside - 1])
        at_limit = y[inside - 1] + slope * (limit - x[inside - 1])
    return float(np.trapezoid(np.append(y[:inside], at_limit), np.append(x[:inside], limit)))


def _used_pixels(maps: NDArray[Any], counted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which pixels of the maps give a score to any pixel that counts."""
    numbers = np.arange(maps[0].size).reshape(maps.shape[1:])
    return np.isin(numbers, resize(numbers, counted.shape)[counted])


def _pixel_thresholds(
    maps: NDArray[Any], counted: NDArray[np.bool_], n_thresholds: int | None
) -> NDArray[Any]:
    used = _used_pixels(maps, counted)
    if n_thresholds is None:
        return np.unique(maps if used.all() else maps[:, used])
    step = max(1, int(used.sum()) * len(maps) // 2**22)
    sample = np.concatenate([one[used][index % step :: step] for index, one in enumerate(maps)])
    # Dense at the high end, where small shares of the pixels matter.
    shares = np.concatenate([[0], np.geomspace(1 / len(sample), 1, n_thresholds - 1)])
    return np.unique(np.quantile(sample, 1 - shares, method="nearest"))


def _suggest_thresholds(
    maps: NDArray[Any], counted: NDArray[np.bool_], n_thresholds: int
) -> NDArray[np.float64]:
    used = _used_pixels(maps, counted)
    levels = [np.quantile(one[used], 1 - np.array(_SHARES), method="nearest") for one in maps]
    shares = np.linspace(0, 1, n_thresholds)
    quantiles = np.quantile(np.concatenate(levels), shares, method="nearest")
    return np.unique(quantiles.astype(np.float64))[::-1]


def _true_regions(
    masks: NDArray[Any],
    maps: NDArray[Any],
    counted: NDArray[np.bool_],
    groups: ArrayLike | None,
    numbered: bool,
) -> Iterator[tuple[NDArray[Any], NDArray[Any], list[int]]]:
    """Yield for each frame its labelled irregular regions, its scores and their tracks."""
    ids = np.zeros(len(masks), int) if groups is None else np.asarray(groups)
    if ids.shape != (len(masks),):
        raise ValueError(
            f"groups has the shape {ids.shape}, but y_true has {len(masks)} masks; give one clip "
            "per mask."
        )
    n_tracks = 0
    begins = clip_begins(ids)
    for begin, end in zip(begins, np.append(begins[1:], len(ids)), strict=True):
        clip = masks[begin:end] * counted
        volume = clip if numbered else ndimage.label(clip, np.ones((3, 3, 3)))[0]
        for index, (mask, scores) in enumerate(pairs(clip, maps[begin:end], counted)):
            if numbered:
                names, labels = np.unique(clip[index], return_inverse=True)
                labels = labels.reshape(mask.shape) + (names[0] != 0)
                of_track = names[names != 0].tolist()
            else:
                labels, found = ndimage.label(mask, _NEIGHBOURS)
                firsts = np.unique(labels, return_index=True)[1]
                of_track = volume[index].ravel()[firsts[len(firsts) - found :]].tolist()
            yield labels, scores, [n_tracks + number for number in of_track]
        n_tracks += int(volume.max()) + 1


def _iou(found: NDArray[Any], true: NDArray[Any]) -> NDArray[np.float64]:
    """Compute the IoU of each found with each irregular region, (n_found, n_true)."""
    n_found, n_true = int(found.max()) + 1, int(true.max()) + 1
    both = np.bincount(found.ravel() * n_true + true.ravel(), minlength=n_found * n_true)
    both = both.reshape(n_found, n_true)
    union = both.sum(axis=1, keepdims=True) + both.sum(axis=0) - both
    return np.asarray(both[1:, 1:] / np.maximum(union[1:, 1:], 1))


def _best_area(false: NDArray[np.float64], rate: NDArray[np.float64]) -> float:
    """Integrate the best rate with at most x false regions per frame, for x from 0 to 1."""
    order = np.lexsort((rate, false))
    x = np.concatenate([[0.0], false[order]])
    y = np.concatenate([[0.0], np.maximum.accumulate(rate[order])])
    return area_to(x, y, 1.0)
