"""Thresholds and the balance of both networks from normal images held out of the training.

Split conformal prediction on the maps of `anomaly_maps` (Sec. 3.4); NumPy on arrays of maps.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, expit, logit, ndtri

from skavid.core.anomaly_maps import (
    LOG_LIMIT,
    DecisionRule,
    check_thresholds,
    evidence,
    regularity,
)
from skavid.core.images import RESIDUAL_FLOOR
from skavid.exceptions import CalibrationWarning
from skavid.wording import counted

__all__ = [
    "balance_margins",
    "basis",
    "calibrate",
    "choose_rule",
    "conformal_count",
    "evidence_shift",
    "move_thresholds",
    "normal_scores",
    "p_values",
    "shift_for_contamination",
    "warn_if_few",
    "warn_if_one_decides",
]

BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
# The smallest normal float32.
LEAST = float(np.finfo(np.float32).tiny)
LARGEST_AUC = 0.9999  # beyond this it says how many regions there were
BLOCK_PIXELS = 2**20
SURE = 0.95  # how often the rate of false alarms shall stay within its limit
CLIP_RISK = 0.1  # a share of clips with too many false alarms that is worth a warning


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
    >>> from skavid.core.calibration import balance_margins
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
    >>> from skavid.core.calibration import move_thresholds
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
    >>> from skavid.core.calibration import calibrate
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
    lowest = np.sort(np.clip(regularity(logits.min(axis=(1, 2))), LEAST, BELOW_ONE))
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
    >>> from skavid.core.calibration import conformal_count
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
    >>> from skavid.core.calibration import shift_for_contamination
    >>> shift_for_contamination(np.array([3.0, 1.0, 4.0]), 0.5, 0.5, contamination=0.3)
    (0.067667..., 0.880797...)
    """
    ordered = np.sort(scores)
    n_flagged = int((ordered < np.percentile(ordered, 100 * contamination)).sum())
    beside = ordered[max(0, n_flagged - 1) : n_flagged + 1]
    cut = beside.mean() if n_flagged else beside[0] - 1.0
    return move_thresholds(alpha, zeta, -float(cut))


def normal_scores(
    residual: NDArray[np.float32], logits: NDArray[np.float32], rule: DecisionRule
) -> NDArray[np.float64]:
    """Score held-out normal images from their maps, in rising order.

    Parameters
    ----------
    residual, logits : ndarray of shape (n_images, height, width)
        The maps of held-out normal images.
    rule : DecisionRule
        The thresholds in use.

    Returns
    -------
    scores : ndarray of shape (n_images,), float64
        As `skavid.core.anomaly_maps.score`, sorted: the most irregular image first.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.anomaly_maps import DecisionRule
    >>> from skavid.core.calibration import normal_scores
    >>> maps = np.float32([[[0.1]], [[0.4]]]), np.float32([[[0.0]], [[0.0]]])
    >>> normal_scores(*maps, DecisionRule(0.2, 0.5, fusion="inpainter")).round(3)
    array([-0.693,  0.693])
    """
    given = rule._asdict()
    level = given.pop("alpha"), given.pop("zeta")
    peaks = _peaks(residual, logits, np.arange(len(residual)), level, given)
    return np.sort(-peaks.astype(np.float64))


def evidence_shift(old: DecisionRule, new: DecisionRule) -> float | None:
    """Tell how much other thresholds add to the evidence of every pixel.

    Parameters
    ----------
    old, new : DecisionRule
        Two rules that differ in their thresholds alone.

    Returns
    -------
    shift : float or None
        What is added, in nats. None under ``fusion="min"`` unless both thresholds lie on one ray:
        the evidence of each pixel then changes by an amount of its own.

    Examples
    --------
    >>> from skavid.core.anomaly_maps import DecisionRule
    >>> from skavid.core.calibration import evidence_shift
    >>> old = DecisionRule(0.2, 0.5, fusion="mean")
    >>> round(evidence_shift(old, old._replace(alpha=0.1)), 3)
    0.347
    """
    by_alpha = math.log(old.alpha) - math.log(new.alpha)
    by_zeta = float(logit(new.zeta) - logit(old.zeta))
    if old.fusion == "min":
        return by_alpha if math.isclose(by_alpha, by_zeta, abs_tol=1e-5) else None
    share = {"mean": old.balance, "inpainter": 1.0, "detector": 0.0}[old.fusion]
    return share * by_alpha + (1 - share) * by_zeta


def p_values(
    scores: NDArray[np.float64], normal_scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Estimate which share of new normal images would score no higher than given images.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Of the images in question; the higher, the more normal.
    normal_scores : ndarray of shape (n_normal,)
        Of normal images that were held out of the training; at least one.

    Returns
    -------
    p : ndarray of shape (n,), float64
        In (0, 1), strictly increasing in the scores.

    Notes
    -----
    At the k-th lowest of n normal scores p is ``k / (n + 1)``, the bound of split conformal
    prediction on the share of new normal images that score no higher; between two normal scores
    it is interpolated linearly. Beyond the lowest one, n images say no more than that the share
    is below ``1 / (n + 1)``: with d, the distance to it in mean absolute deviations of the normal
    scores, p is ``1 / (n + 1) / (1 + d)``, so that the images stay in order. The same holds for
    1 - p beyond the highest.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.calibration import p_values
    >>> p_values(np.array([0.0, 1.0, 2.5, 5.0]), np.array([1.0, 2.0, 3.0]))
    array([0.1   , 0.25  , 0.625 , 0.9375])
    """
    # Equal scores count together, as they are flagged together.
    values, counts = np.unique(normal_scores, return_counts=True)
    share = np.cumsum(counts) / (len(normal_scores) + 1)
    spread = float(np.abs(normal_scores - np.mean(normal_scores)).mean()) or 1.0
    p: NDArray[np.float64] = np.interp(scores, values, share)
    below = np.maximum(values[0] - scores, 0) / spread
    above = np.maximum(scores - values[-1], 0) / spread
    p = np.where(above > 0, 1 - (1 - p) / (1 + above), p / (1 + below))
    return p


def choose_rule(
    residual: NDArray[np.float32],
    logits: NDArray[np.float32],
    *,
    alpha: float | str,
    zeta: float | str,
    fusion: str,
    balance: float | str,
    min_area: int,
    min_area_of: str,
    target_fpr: float,
    groups: NDArray[Any] | None = None,
    region_auc: tuple[float, float] | None = None,
    is_blind: bool = False,
) -> DecisionRule:
    """Choose all thresholds that are "auto", and the balance of both networks.

    Parameters
    ----------
    residual, logits : ndarray of shape (n_images, height, width)
        The maps of held-out normal images.
    alpha, zeta : float or "auto"
        As in `calibrate`.
    fusion : {"min", "mean", "inpainter", "detector"}
        How the margins are joined.
    balance : float or "auto"
        The share of I's margin in the "mean"; "auto" is `balance_margins`.
    min_area, min_area_of : int, str
        As in `skavid.core.anomaly_maps.evidence`.
    target_fpr : float
        Share of normal images to flag at most.
    groups : ndarray of shape (n_images,), default=None
        Clip ids of the held-out images.
    region_auc : tuple of two float, default=None
        As in `balance_margins`.
    is_blind : bool, default=False
        Whether D cannot tell synthetic anomalies from normal regions: I then decides alone.

    Returns
    -------
    rule : DecisionRule
        The thresholds to use.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.calibration import choose_rule
    >>> given = {"fusion": "min", "balance": "auto", "min_area": 0, "min_area_of": "patch"}
    >>> maps = np.float32([[[0.1]], [[0.4]]]), np.float32([[[1.0]], [[0.0]]])
    >>> choose_rule(*maps, alpha="auto", zeta=0.5, target_fpr=0.5, **given).alpha
    0.4000000059604645
    """
    is_auto = fusion == "mean" and isinstance(balance, str)
    share = 0.5 if isinstance(balance, str) else float(balance)
    if is_auto:
        share = balance_margins(residual, logits, region_auc=region_auc)
    if isinstance(alpha, str) or isinstance(zeta, str):
        alpha, zeta = calibrate(
            residual,
            logits,
            alpha=alpha,
            zeta=zeta,
            target_fpr=target_fpr,
            groups=groups,
            fusion="inpainter" if is_blind else fusion,
            balance=share,
            min_area=min_area,
            min_area_of=min_area_of,
        )
    joined = "inpainter" if is_blind else fusion
    return DecisionRule(float(alpha), float(zeta), joined, share, min_area, min_area_of)


def basis(n: int, groups: NDArray[Any] | None, target_fpr: float) -> dict[str, Any]:
    """Say what calibrated thresholds rest on.

    Parameters
    ----------
    n : int
        Number of held-out images.
    groups : ndarray of shape (n,) or None
        Clip ids of the held-out images.
    target_fpr : float
        Share of normal images to flag at most.

    Returns
    -------
    basis : dict
        ``n_images`` and ``n_clips`` (None without groups); ``fpr_bound``, the rate of false
        alarms among new normal images that they support, and ``fpr_limit``, which it exceeds in
        one calibration of twenty (both None with groups); ``clip_risk``, how likely a new clip
        has a larger share of its frames flagged (None without).

    Notes
    -----
    Where k of n images are flagged, the rate among all normal images is spread from one
    calibration to the next as a beta distribution with the parameters k and n + 1 - k (Vovk,
    "Conditional validity of inductive conformal predictors", 2012), if images are independent
    and no two score alike. The bound is its mean, the limit its 95th percentile.

    Examples
    --------
    >>> from skavid.core.calibration import basis
    >>> found = basis(99, None, 0.05)
    >>> found["fpr_bound"], round(found["fpr_limit"], 3)
    (0.05, 0.09)
    """
    n_clips = None if groups is None else len(np.unique(groups))
    k = conformal_count(n, target_fpr)
    return {
        "n_images": n,
        "n_clips": n_clips,
        "fpr_bound": k / (n + 1) if n_clips is None else None,
        "fpr_limit": float(betaincinv(k, n + 1 - k, SURE)) if n_clips is None else None,
        "clip_risk": None if n_clips is None else 1 / (n_clips + 1),
    }


def warn_if_few(
    found: dict[str, Any], target_fpr: float, *, n_given: int | None = None, stacklevel: int = 2
) -> None:
    """Warn where so few images or clips cannot support the rate of false alarms.

    Parameters
    ----------
    found : dict
        From `basis`.
    target_fpr : float
        Share of normal images to flag at most.
    n_given : int, default=None
        Images that `fit` was given, where only some of them were held out to calibrate.
    stacklevel : int, default=2
        Of the warning; 2 is the caller.

    Examples
    --------
    >>> from skavid.core.calibration import basis, warn_if_few
    >>> warn_if_few(basis(99, None, 0.05), 0.05)
    """
    risk, bound = found["clip_risk"], found["fpr_bound"]
    is_part = n_given is not None and found["n_images"] < n_given
    images, clips = counted(found["n_images"], "image"), counted(found["n_clips"] or 0, "clip")
    if bound is not None and bound > target_fpr:
        mend = (
            " to be held out: give more images or a larger validation_fraction, or take "
            "thresholds from calibrate(X_more)"
        )
        warnings.warn(
            f"X has {images}{' held out' if is_part else ''}, so the lowest false-alarm rate that "
            f"can be guaranteed is {bound:.2g}; target_fpr={target_fpr:g} needs at least "
            f"{math.ceil(1 / target_fpr) - 1} images{mend if is_part else ''}.",
            CalibrationWarning,
            stacklevel=stacklevel,
        )
    if risk is not None and risk > CLIP_RISK:
        warnings.warn(
            f"X holds {clips}{' held out' if is_part else ''}: with a probability of up to "
            f"{risk:.2g} a new clip has more than target_fpr={target_fpr:g} of its frames "
            f"flagged; {math.ceil(1 / CLIP_RISK) - 1} clips would bring that down to "
            f"{CLIP_RISK:g}.",
            CalibrationWarning,
            stacklevel=stacklevel,
        )


def warn_if_one_decides(
    residual: NDArray[np.float32],
    logits: NDArray[np.float32],
    alpha: float,
    zeta: float,
    *,
    stacklevel: int = 2,
) -> None:
    """Warn where Eq. 4 asks both networks, but one of them agrees everywhere.

    Parameters
    ----------
    residual, logits : ndarray of shape (n_images, height, width)
        The maps of held-out normal images.
    alpha, zeta : float
        Thresholds.
    stacklevel : int, default=2
        Of the warning; 2 is the caller.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.calibration import warn_if_one_decides
    >>> maps = np.float32([[[0.1, 0.4]]]), np.float32([[[1.0, -1.0]]])
    >>> warn_if_one_decides(*maps, alpha=0.2, zeta=0.5)
    """
    counted_pixels = logits < LOG_LIMIT  # those of ignore_mask are regular by definition
    if not counted_pixels.any():
        return
    least, most = residual[counted_pixels].min(), regularity(logits[counted_pixels].max())
    if least >= alpha:
        told = (
            f"Of both thresholds zeta alone decides: alpha={alpha:g} is below the residual of "
            f"every pixel of the held-out normal images, the lowest of which is {least:.3g}; "
            "raise alpha"
        )
    elif most <= zeta:
        told = (
            f"Of both thresholds alpha alone decides: zeta={zeta:g} is above the regularity of "
            f"every pixel of the held-out normal images, the highest of which is {most:.3g}; "
            "lower zeta"
        )
    else:
        return
    warnings.warn(f"{told}, or set it to 'auto'.", CalibrationWarning, stacklevel=stacklevel)


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
