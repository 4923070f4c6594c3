"""From two maps to one evidence, a mask, a score and thresholds (Sec. 3.4, Eq. 4).

NumPy and SciPy on arrays of maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.special import expit, logit, ndtri

from skavid.core.images import RESIDUAL_FLOOR, check_option

__all__ = [
    "FUSIONS",
    "Finding",
    "balance_margins",
    "calibrate",
    "check_thresholds",
    "conformal_count",
    "evidence",
    "find",
    "mask",
    "move_thresholds",
    "regularity",
    "score",
    "shift_for_contamination",
    "smooth",
]

FUSIONS = ("min", "mean", "inpainter", "detector")
"""Ways to join the margins of I and D; "min" is Eq. 4."""

AREAS = ("patch", "image")
BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
# The smallest normal float32: a margin that stays negative wherever subnormals count as 0.
TINY = float(np.finfo(np.float32).tiny)
# e^-87 and e^87 are normal float32 numbers.
LOG_LIMIT = 87.0
LARGEST_AUC = 0.9999  # beyond this it says how many regions there were
BLOCK_PIXELS = 2**20


def smooth(
    maps: ArrayLike,
    *,
    mean: int = 0,
    maximum: int = 0,
    ignore_mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Bring maps to the scale of an object: a box mean, then a maximum filter.

    Parameters
    ----------
    maps : array-like of shape (n_images, height, width)
        Higher where irregular. For D's logits take ``-smooth(-logits)``.
    mean : int, default=0
        Side of the box over which pixels are averaged. 0 and 1 leave them alone.
    maximum : int, default=0
        Side of the box whose maximum a pixel takes. 0 and 1 leave them alone.
    ignore_mask : ndarray of shape (height, width), bool, default=None
        True where pixels do not count: there, too, stands the median, of those that do.

    Returns
    -------
    smoothed : ndarray of shape (n_images, height, width), float32
        Beyond the border stands the image's median: nothing there speaks for an irregularity,
        so that half an object at the border needs more evidence, not less. A box of an even
        side reaches one pixel further up and left. No image sees another.

    Examples
    --------
    >>> from skavid.core.anomaly_maps import smooth
    >>> smooth([[[0.0, 9.0, 0.0], [0.0] * 3, [0.0] * 3]], mean=3, maximum=2)
    array([[[1., 1., 1.],
            [1., 1., 1.],
            [1., 1., 1.]]], dtype=float32)
    """
    smoothed: NDArray[np.float32] = np.array(maps, dtype=np.float32)
    if not smoothed.size:
        return smoothed
    counted = smoothed.reshape(len(smoothed), -1)
    if ignore_mask is not None:
        counted = smoothed[:, ~ignore_mask]
    middle = np.median(counted, axis=1)[:, None, None]
    if ignore_mask is not None:
        smoothed[:, ignore_mask] = middle[:, 0]
    if mean > 1:
        wide = ndimage.uniform_filter(smoothed - middle, (1, mean, mean), np.float64, "constant")
        smoothed = (wide + middle).astype(np.float32)
    if maximum > 1:
        smoothed = ndimage.maximum_filter(smoothed, (1, maximum, maximum), mode="nearest")
    return smoothed


def regularity(logits: ArrayLike) -> NDArray[np.float32]:
    """Turn D's logits z into the regularity O of Eq. 4.

    Parameters
    ----------
    logits : array-like
        D's linear output.

    Returns
    -------
    regularity : ndarray of the same shape, float32
        ``1 / (1 + exp(-z))``, in [0, 1]; exactly 1 from z of about 17 on.

    Examples
    --------
    >>> from skavid.core.anomaly_maps import regularity
    >>> regularity([0.0, 100.0])
    array([0.5, 1. ], dtype=float32)
    """
    probabilities: NDArray[np.float32] = expit(np.asarray(logits, dtype=np.float32))
    return probabilities


def evidence(
    residual: ArrayLike,
    logits: ArrayLike,
    *,
    alpha: float,
    zeta: float,
    fusion: str = "min",
    balance: float = 0.5,
    min_area: int = 0,
    min_area_of: str = "patch",
) -> NDArray[np.float32]:
    """Say how irregular each pixel is, as a signed margin: at least 0 where Eq. 4 holds.

    Parameters
    ----------
    residual : array-like of shape (n_images, height, width)
        R, what I would change: ``|X - I(X)|`` in units of the value range. Taken as float32.
    logits : array-like of shape (n_images, height, width)
        D's linear output, z: the lowest of the regions that hold a pixel. Taken as float32.
    alpha : float
        Threshold on the residual, above 0.
    zeta : float
        Threshold on the regularity ``O = sigmoid(z)``, in (0, 1).
    fusion : {"min", "mean", "inpainter", "detector"}, default="min"
        How the margins of I and D are joined. "min" is Eq. 4, both must be irregular; "mean"
        lets one make up for the other; "inpainter" and "detector" are one of them alone.
    balance : float, default=0.5
        The share of I's margin in the "mean", in [0, 1]; see `balance_margins`.
    min_area : int, default=0
        Fewer irregular pixels than this count neither for the mask nor for the score, at any
        threshold. More pixels than an image has mean all of them.
    min_area_of : {"patch", "image"}, default="patch"
        Whether these pixels must be connected (over edges or corners), or may lie anywhere.

    Returns
    -------
    evidence : ndarray of shape (n_images, height, width), float32
        In nats; finite for finite maps.

    Raises
    ------
    ValueError
        If alpha or zeta is out of its range, or fusion or min_area_of is unknown.
    ImportError
        If connected patches are asked for and scikit-image is missing.

    Notes
    -----
    Eq. 4 of [1]_ calls a pixel irregular where ``R >= alpha`` and ``O <= zeta``. Here

    ``e = min(log(R / alpha), logit(zeta) - z)``

    with R not below 1e-7. The sign of each margin is the one of its comparison on the float32
    maps, ties and saturated regularities included, so ``e >= 0`` is Eq. 4 to the last bit.
    Raising alpha or lowering zeta raises e nowhere. Lowering all of e by t is moving both
    thresholds, see `move_thresholds`. An area opening lowers e where a patch is too small; for
    whole images e is cut at the ``min_area``-th largest value.

    References
    ----------
    .. [1] Sabokrou et al., "AVID: Adversarial Visual Irregularity Detection", ACCV 2018,
       section 3.4.

    Examples
    --------
    >>> from skavid.core.anomaly_maps import evidence
    >>> residual, logits = [[[0.2, 0.2, 0.05]]], [[[-2.0, 1.0, -2.0]]]
    >>> evidence(residual, logits, alpha=0.1, zeta=0.5).round(2)
    array([[[ 0.69, -1.  , -0.69]]], dtype=float32)
    """
    check_thresholds(alpha, zeta)
    check_option("fusion", fusion, FUSIONS)
    check_option("min_area_of", min_area_of, AREAS)
    if fusion == "inpainter":
        joined = _inpainter_margin(residual, alpha)
    elif fusion == "detector":
        joined = _detector_margin(logits, zeta)
    elif fusion == "mean":
        joined = balance * _inpainter_margin(residual, alpha)
        joined += (1 - balance) * _detector_margin(logits, zeta)
    else:
        joined = np.minimum(_inpainter_margin(residual, alpha), _detector_margin(logits, zeta))
    margin = joined.astype(np.float32)
    if min_area > 1 and margin.size:
        lower = _open_patches if min_area_of == "patch" else _cut_at_largest
        margin = lower(margin, min(min_area, margin[0].size))
    return margin


def balance_margins(
    residual: NDArray[np.float32],
    logits: NDArray[np.float32],
    *,
    region_auc: tuple[float, float] | None = None,
) -> float:
    """Weigh both margins so that they count alike for normal images, or as each network is worth.

    Parameters
    ----------
    residual, logits : ndarray of shape (n_images, height, width)
        The maps of held-out normal images.
    region_auc : tuple of two float, default=None
        How well I and D each tell synthetic anomalies from normal regions, in [0, 1]. None takes
        both as equally good.

    Returns
    -------
    balance : float
        The share of I's margin in their mean, in [0, 1]: each margin weighs the inverse of how
        much its extreme differs from image to image, times the network's detectability index.
        0.5 where this says nothing.

    Notes
    -----
    A logit spans many nats where a log residual spans one; in a plain mean D would drown I.
    The detectability index of signal detection theory is ``sqrt(2) * Phi^-1(AUC)``, and 0 for
    a network at chance: weights in proportion to it make the best linear combination of two
    independent normal scores of equal spread (Green and Swets, "Signal detection theory and
    psychophysics", 1966). The weights add up to 1, so that moving both thresholds along their ray
    by t still lowers the evidence by t.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.anomaly_maps import balance_margins
    >>> residual = np.exp(np.array([0.0, 1.0], np.float32)).reshape(2, 1, 1)
    >>> logits = np.array([0.0, 3.0], np.float32).reshape(2, 1, 1)
    >>> balance_margins(residual, logits)
    0.75
    >>> balance_margins(residual, logits, region_auc=(0.5, 0.9))
    0.0
    """
    largest = np.log(np.maximum(residual.max(axis=(1, 2)), RESIDUAL_FLOOR).astype(np.float64))
    lowest = logits.min(axis=(1, 2)).astype(np.float64)
    of_inpainter, of_detector = float(lowest.std()), float(largest.std())
    if region_auc is not None:
        worth = ndtri(np.clip(region_auc, 0.5, LARGEST_AUC))
        of_inpainter, of_detector = of_inpainter * worth[0], of_detector * worth[1]
    total = of_inpainter + of_detector
    return round(float(of_inpainter / total), 6) if total > 0 else 0.5


class Finding(NamedTuple):
    """A connected patch of irregular pixels.

    Parameters
    ----------
    box : tuple (top, left, bottom, right)
        The rows and columns that hold it, in pixels; the last two are the first beyond it, as
        slices have it.
    area : int
        Its pixels.
    peak : float
        Its largest evidence, in nats, at least 0.
    peak_at : tuple (row, column)
        Where that is.
    carried_by : {"both", "inpainter", "detector", "earlier"}
        Which condition of Eq. 4 holds there: I changed it, D doubts it, or both. Under
        ``fusion="mean"`` one that is strong can do without the other. Neither holds where
        evidence that was averaged over time rests on earlier frames.

    Examples
    --------
    >>> from skavid.core.anomaly_maps import Finding
    >>> Finding((2, 3, 5, 9), 11, 0.5, (4, 6), "both").area
    11
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float
    peak_at: tuple[int, int]
    carried_by: str


def find(
    evidence: NDArray[np.float32],
    residual: NDArray[np.float32],
    logits: NDArray[np.float32],
    *,
    alpha: float,
    zeta: float,
) -> list[Finding]:
    """List the connected patches of one image's mask, the most irregular one first.

    Parameters
    ----------
    evidence : ndarray of shape (height, width)
        From `evidence`.
    residual, logits : ndarray of shape (height, width)
        The maps that it was made of.
    alpha, zeta : float
        The thresholds in use.

    Returns
    -------
    findings : list of Finding
        Pixels are connected over edges and corners, as for ``min_area``.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.anomaly_maps import find
    >>> maps = np.float32([[0.5, 0.1, 0.2]]), np.float32([[-1, 1, 1]])
    >>> for one in find(np.float32([[1, -1, 0]]), *maps, alpha=0.2, zeta=0.5):
    ...     print(one.box, one.area, one.carried_by)
    (0, 0, 1, 1) 1 both
    (0, 2, 1, 3) 1 inpainter
    """
    patches, n = ndimage.label(mask(evidence), structure=np.ones((3, 3)))
    numbers = np.arange(1, n + 1)
    areas = np.bincount(patches.ravel(), minlength=n + 1)[1:]
    places = ndimage.maximum_position(evidence, patches, numbers) if n else []
    findings = []
    for (rows, columns), area, (row, column) in zip(
        ndimage.find_objects(patches), areas, places, strict=True
    ):
        changed = bool(_inpainter_margin(residual[row, column], alpha) >= 0)
        doubted = bool(_detector_margin(logits[row, column], zeta) >= 0)
        carriers = {(True, True): "both", (True, False): "inpainter", (False, True): "detector"}
        findings.append(
            Finding(
                (rows.start, columns.start, rows.stop, columns.stop),
                int(area),
                float(evidence[row, column]),
                (int(row), int(column)),
                carriers.get((changed, doubted), "earlier"),
            )
        )
    return sorted(findings, key=lambda one: -one.peak)


def mask(evidence: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Cut the evidence at 0, the mask M of Eq. 4.

    Parameters
    ----------
    evidence : ndarray of shape (n_images, height, width)
        From `evidence`.

    Returns
    -------
    mask : ndarray of the same shape, bool
        True where a pixel is irregular; a tie is irregular.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.anomaly_maps import mask
    >>> mask(np.array([[[0.0, -0.5]]]))
    array([[[ True, False]]])
    """
    irregular: NDArray[np.bool_] = evidence >= 0
    return irregular


def score(evidence: NDArray[np.float32]) -> NDArray[np.float64]:
    """Score images by their most irregular pixel: the higher, the more normal.

    Parameters
    ----------
    evidence : ndarray of shape (n_images, height, width)
        From `evidence`.

    Returns
    -------
    scores : ndarray of shape (n_images,), float64
        ``-max(e)``, above 0 exactly where the mask is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.anomaly_maps import score
    >>> score(np.array([[[0.0, -0.5]], [[-2.0, -0.5]]]))
    array([0. , 0.5])
    """
    # 0 - x, not -x: a tie shall not print as -0.
    scores: NDArray[np.float64] = 0.0 - evidence.max(axis=(1, 2)).astype(np.float64)
    return scores


def move_thresholds(alpha: float, zeta: float, t: float) -> tuple[float, float]:
    """Move both thresholds of Eq. 4 along their ray, as the paper draws its ROC.

    Parameters
    ----------
    alpha, zeta : float
        Thresholds, above 0 and in (0, 1).
    t : float
        How much evidence more to ask for, in nats: `evidence` becomes ``e - t``.

    Returns
    -------
    alpha, zeta : float
        ``alpha * exp(t)``, and zeta with its odds times ``exp(-t)``. Rounded to float32, the
        precision of the maps, and kept finite, above 0, and zeta below 1.

    Examples
    --------
    >>> from skavid.core.anomaly_maps import move_thresholds
    >>> move_thresholds(0.25, 0.5, 1.0)
    (0.679570..., 0.268941...)
    """
    check_thresholds(alpha, zeta)
    log_alpha = np.clip(math.log(alpha) + t, -LOG_LIMIT, LOG_LIMIT)
    logit_zeta = np.clip(logit(zeta) - t, -LOG_LIMIT, LOG_LIMIT)
    return float(np.float32(np.exp(log_alpha))), min(
        float(np.float32(expit(logit_zeta))), BELOW_ONE
    )


def calibrate(
    residual: NDArray[np.float32],
    logits: NDArray[np.float32],
    *,
    alpha: float | str = "auto",
    zeta: float | str = "auto",
    target_fpr: float = 0.01,
    groups: NDArray[Any] | None = None,
    fusion: str = "min",
    balance: float = 0.5,
    min_area: int = 0,
    min_area_of: str = "patch",
) -> tuple[float, float]:
    """Choose thresholds so that few normal images, not seen in training, have a mask.

    Parameters
    ----------
    residual, logits : ndarray of shape (n_images, height, width)
        The maps of held-out normal images, as in `evidence`.
    alpha, zeta : float or "auto", default="auto"
        A number is used as it is, "auto" is searched.
    target_fpr : float, default=0.01
        Share of normal images to flag at most, in (0, 1].
    groups : ndarray of shape (n_images,), default=None
        Clip ids. No clip may then have a larger share flagged: see the notes.
    fusion, balance, min_area, min_area_of : str, float, int, str
        As in `evidence`.

    Returns
    -------
    alpha, zeta : float
        Exactly float32 numbers where they were searched.

    Raises
    ------
    ValueError
        If there is no image, or as in `evidence`.

    Notes
    -----
    The rule is split conformal prediction [1]_: with thresholds exactly at the k-th most
    irregular of n images, a new normal image is flagged with a probability of at most
    ``k / (n + 1)``. So k is the largest for which this is no more than the target
    (`conformal_count`), and 1 where none is. Frames of one clip are alike, so this promises
    nothing for the next clip. With groups, a clip passes with ``floor(target_fpr * n_g)`` of its
    n_g images flagged, and the thresholds stand exactly at the first image too many of the worst
    of m clips: clips taken as exchangeable, a new one fails with a probability of at most about
    ``1 / (m + 1)``.

    Both thresholds are taken at the same quantile of their own map. With the largest residual
    of each image in falling order and the lowest regularity of each in rising order, level j
    takes the j-th of both. From the last level that flags too few, or the first one, both
    thresholds are moved along their ray (`move_thresholds`) until that image is flagged. Where
    one threshold is given, the other is moved alone under ``fusion="mean"``, and takes the first
    level that flags enough, or else the last, under the others. Ties are flagged together.

    Eq. 4 flags nothing whose residual is 0, or whose regularity is 1 in float32; if that
    leaves fewer than k images, the thresholds of the level stay.

    References
    ----------
    .. [1] Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005;
       conformal anomaly detection: Laxhammar and Falkman, 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.anomaly_maps import calibrate
    >>> residual = np.array([0.1, 0.5, 0.2, 0.3], np.float32).reshape(4, 1, 1)
    >>> logits = np.array([2.0, -1.0, 1.0, 0.0], np.float32).reshape(4, 1, 1)
    >>> calibrate(residual, logits, target_fpr=0.5)
    (0.183939..., 0.5)
    """
    if not isinstance(alpha, str) and not isinstance(zeta, str):
        return float(alpha), float(zeta)
    n = len(residual)
    if n == 0:
        raise ValueError("residual must hold at least one held-out image. Got none.")
    clips = np.zeros(n, np.int64) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(clips)
    enough = (
        np.array([conformal_count(n, target_fpr)])
        if groups is None
        else np.minimum(np.floor(target_fpr * sizes + 1e-9).astype(int) + 1, sizes)
    )

    def are_enough(flagged: NDArray[np.bool_]) -> bool:
        return bool((np.bincount(clips, flagged) >= enough).any())

    extremes = residual.max(axis=(1, 2)).astype(np.float32)
    largest = np.sort(np.maximum(extremes, RESIDUAL_FLOOR))[::-1]
    lowest = np.sort(np.clip(regularity(logits.min(axis=(1, 2))), TINY, BELOW_ONE))
    free = isinstance(alpha, str), isinstance(zeta, str)
    levels = [
        (
            float(largest[j]) if free[0] else float(alpha),
            float(lowest[j]) if free[1] else float(zeta),
        )
        for j in range(n)
    ]
    rule = {"fusion": fusion, "balance": balance, "min_area": min_area, "min_area_of": min_area_of}
    level = _lowest_level(residual, logits, levels, are_enough, rule)
    # How much the evidence falls where the free thresholds move by one nat.
    slope = 1.0 if all(free) else {(True, False): balance, (False, True): 1 - balance}[free]
    if all(free) or (fusion == "mean" and slope > 0):
        start = levels[max(0, level - 1)]
        everything = np.arange(n)
        peaks = _peaks(residual, logits, everything, start, rule).astype(np.float64)
        cut = max(np.sort(peaks[clips == clip])[-k] for clip, k in enumerate(enough)) / slope
        # Thresholds are rounded to float32 and regularities near 1 are coarse: step down until
        # the image is really flagged.
        for nudge in (0.0, *(1e-6 * 4.0**i for i in range(13))):
            moved = move_thresholds(*start, cut - nudge)
            moved = (moved[0] if free[0] else start[0], moved[1] if free[1] else start[1])
            if are_enough(_peaks(residual, logits, everything, moved, rule) >= 0):
                return moved
    return levels[min(level, n - 1)]


def conformal_count(n: int, target_fpr: float) -> int:
    """Tell how many of n held-out normal images are to be flagged.

    Parameters
    ----------
    n : int
        Number of images.
    target_fpr : float
        Share of new normal images to flag at most, in (0, 1].

    Returns
    -------
    k : int
        The largest for which ``k / (n + 1)``, a bound on the probability that a new normal image
        is flagged, is no more than the target; 1 where none is.

    Examples
    --------
    >>> from skavid.core.anomaly_maps import conformal_count
    >>> conformal_count(199, 0.01), conformal_count(30, 0.01)
    (2, 1)
    """
    return min(n, max(1, math.floor(target_fpr * (n + 1) + 1e-9)))


def shift_for_contamination(
    scores: NDArray[np.float64], alpha: float, zeta: float, contamination: float
) -> tuple[float, float]:
    """Move both thresholds so that a share of the training images is irregular.

    Parameters
    ----------
    scores : ndarray of shape (n_images,)
        Of the training images, at the present thresholds, from `score`.
    alpha, zeta : float
        The present thresholds.
    contamination : float
        The share, in (0, 0.5].

    Returns
    -------
    alpha, zeta : float
        From `move_thresholds`: as many images are irregular as have a score below the
        ``100 * contamination``-th percentile, scikit-learn's rule. The cut lies half way
        between the two scores beside it. Where all scores are equal, none is irregular.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.anomaly_maps import shift_for_contamination
    >>> shift_for_contamination(np.array([3.0, 1.0, 4.0]), 0.5, 0.5, contamination=0.3)
    (0.067667..., 0.880797...)
    """
    ordered = np.sort(scores)
    n_flagged = int((ordered < np.percentile(ordered, 100 * contamination)).sum())
    beside = ordered[max(0, n_flagged - 1) : n_flagged + 1]
    cut = beside.mean() if n_flagged else beside[0] - 1.0
    return move_thresholds(alpha, zeta, -float(cut))


def check_thresholds(alpha: float, zeta: float) -> None:
    """Refuse thresholds that Eq. 4 cannot take.

    Parameters
    ----------
    alpha, zeta : float
        Thresholds on the residual and on the regularity.

    Raises
    ------
    ValueError
        If alpha is not above 0 and finite, or zeta not in (0, 1).

    Examples
    --------
    >>> from skavid.core.anomaly_maps import check_thresholds
    >>> check_thresholds(0.1, 0.5)
    """
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be a finite number above 0. Got {alpha!r}.")
    if not 0 < zeta < 1:
        raise ValueError(f"zeta must be a number above 0 and below 1. Got {zeta!r}.")


def _inpainter_margin(residual: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """Compute log(R / alpha), at least 0 exactly where R >= alpha."""
    rounded = np.asarray(residual, dtype=np.float32)
    margin = np.log(np.maximum(rounded, RESIDUAL_FLOOR, dtype=np.float64)) - math.log(alpha)
    return _with_sign(margin, rounded >= _as_float32(alpha))


def _detector_margin(logits: ArrayLike, zeta: float) -> NDArray[np.float64]:
    """Compute logit(zeta) - z, at least 0 exactly where O <= zeta."""
    margin = logit(float(zeta)) - np.asarray(logits, dtype=np.float32).astype(np.float64)
    return _with_sign(margin, regularity(logits) <= _as_float32(zeta))


def _as_float32(threshold: float) -> np.float32:
    """Round as NumPy does when it compares a Python float with a float32 map."""
    with np.errstate(over="ignore"):
        return np.float32(threshold)


def _with_sign(margin: NDArray[np.float64], holds: NDArray[np.bool_]) -> NDArray[np.float64]:
    signed: NDArray[np.float64] = np.where(
        holds, np.maximum(margin, 0.0), np.minimum(margin, -TINY)
    )
    return signed


def _open_patches(margin: NDArray[np.float32], min_area: int) -> NDArray[np.float32]:
    """Lower e until no connected patch of {e >= t} is smaller than ``min_area``, for any t."""
    try:
        from skimage.morphology import area_opening
    except ImportError as error:
        raise ImportError(
            "min_area with min_area_of='patch' needs scikit-image; "
            "pip install 'skavid[image]', or take min_area_of='image'."
        ) from error
    # area_opening fails on images of one pixel's width; a border below all values mends it.
    bordered = np.pad(margin, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    for image in bordered:
        image[...] = area_opening(image, min_area, connectivity=2)
    return bordered[:, 1:-1, 1:-1].copy()


def _cut_at_largest(margin: NDArray[np.float32], min_area: int) -> NDArray[np.float32]:
    """Lower e to each image's ``min_area``-th largest value."""
    flat = margin.reshape(len(margin), -1)
    place = flat.shape[1] - min_area
    return np.minimum(margin, np.partition(flat, place, axis=1)[:, place, None, None])


def _peaks(
    residual: NDArray[np.float32],
    logits: NDArray[np.float32],
    rows: NDArray[np.int64],
    level: tuple[float, float],
    rule: dict[str, Any],
) -> NDArray[np.float32]:
    """Find the largest evidence of some images, a block of them at a time."""
    size = max(1, BLOCK_PIXELS // (residual.shape[1] * residual.shape[2]))
    alpha, zeta = level
    peaks = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        e = evidence(residual[block], logits[block], alpha=alpha, zeta=zeta, **rule)
        peaks[start : start + size] = e.max(axis=(1, 2))
    return peaks


def _lowest_level(
    residual: NDArray[np.float32],
    logits: NDArray[np.float32],
    levels: list[tuple[float, float]],
    are_enough: Callable[[NDArray[np.bool_]], bool],
    rule: dict[str, Any],
) -> int:
    """Bisect for the lowest level that flags enough images; their number if none does."""
    low, high = 0, len(levels)
    # What is flagged at `low` stays flagged, what is not flagged at `high` stays so: neither
    # need be looked at again.
    undecided = np.arange(len(residual))
    decided = np.zeros(len(residual), dtype=bool)
    while low < high:
        middle = (low + high) // 2
        here = _peaks(residual, logits, undecided, levels[middle], rule) >= 0
        flagged = decided.copy()
        flagged[undecided[here]] = True
        if are_enough(flagged):
            high, undecided = middle, undecided[here]
        else:
            decided = flagged
            low, undecided = middle + 1, undecided[~here]
    return low
