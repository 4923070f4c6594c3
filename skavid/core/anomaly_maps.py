"""From two maps to one evidence, a mask and a score (Sec. 3.4, Eq. 4).

NumPy and SciPy on arrays of maps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.special import expit, logit

from skavid.core.images import RESIDUAL_FLOOR, check_option

__all__ = [
    "FUSIONS",
    "AnomalyMaps",
    "DecisionRule",
    "Finding",
    "as_output",
    "check_thresholds",
    "evidence",
    "find",
    "gather",
    "margins",
    "mask",
    "regularity",
    "score",
    "smooth",
]

FUSIONS = ("min", "mean", "inpainter", "detector")
"""Ways to join the margins of I and D; "min" is Eq. 4."""

AREAS = ("patch", "image")
REASONS = (
    "", "blank or covered", "darker", "brighter", "less contrast", "more contrast",
    "less sharp", "more fine detail", "another view", "frozen",
)  # fmt: skip
MAPS = ("inpainted", "residual", "logits", "regularity", "evidence")  # the first three are stored
# The smallest normal float32: a margin that stays negative wherever subnormals count as 0.
TINY = float(np.finfo(np.float32).tiny)
# e^-87 and e^87 are normal float32 numbers.
LOG_LIMIT = 87.0
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


def margins(
    residual: ArrayLike, logits: ArrayLike, *, alpha: float, zeta: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the margin of each network alone, which `evidence` joins.

    Parameters
    ----------
    residual, logits : array-like of shape (n_images, height, width)
        As in `evidence`.
    alpha, zeta : float
        Thresholds, above 0 and in (0, 1).

    Returns
    -------
    inpainter, detector : ndarray of the same shape, float64
        ``log(R / alpha)`` and ``logit(zeta) - z``, in nats: at least 0 exactly where
        ``R >= alpha``, and where ``O <= zeta``.

    Examples
    --------
    >>> from skavid.core.anomaly_maps import margins
    >>> inpainter, detector = margins([[[0.2]]], [[[-2.0]]], alpha=0.1, zeta=0.5)
    >>> inpainter.round(2), detector
    (array([[[0.69]]]), array([[[2.]]]))
    """
    check_thresholds(alpha, zeta)
    return _inpainter_margin(residual, alpha), _detector_margin(logits, zeta)


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
        Where that is; of equal ones the first in reading order.
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
    patches, _ = ndimage.label(mask(evidence), structure=np.ones((3, 3)))
    findings = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(patches), 1):
        inside = patches[rows, columns] == number
        within = np.where(inside, evidence[rows, columns], -np.inf)
        row, column = np.unravel_index(within.argmax(), within.shape)
        row, column = rows.start + row, columns.start + column
        changed = bool(_inpainter_margin(residual[row, column], alpha) >= 0)
        doubted = bool(_detector_margin(logits[row, column], zeta) >= 0)
        carriers = {(True, True): "both", (True, False): "inpainter", (False, True): "detector"}
        findings.append(
            Finding(
                (rows.start, columns.start, rows.stop, columns.stop),
                int(inside.sum()),
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


class DecisionRule(NamedTuple):
    """The thresholds of Eq. 4 and how they are applied, as `evidence` takes them.

    Parameters
    ----------
    alpha, zeta : float
        Thresholds on the residual, above 0, and on the regularity, in (0, 1).
    fusion : {"min", "mean", "inpainter", "detector"}, default="min"
        How the margins of I and D are joined.
    balance : float, default=0.5
        The share of I's margin in the "mean", in [0, 1].
    min_area : int, default=0
        How many pixels must be irregular together.
    min_area_of : {"patch", "image"}, default="patch"
        Whether they must be connected.

    Examples
    --------
    >>> from skavid.core.anomaly_maps import DecisionRule
    >>> DecisionRule(0.1, 0.5, fusion="mean").balance
    0.5
    """

    alpha: float
    zeta: float
    fusion: str = "min"
    balance: float = 0.5
    min_area: int = 0
    min_area_of: str = "patch"


class AnomalyMaps:
    """The maps of some images, and all that follows from them: evidence, masks, scores, patches.

    `AVIDDetector.maps` and `AVIDDetector.iter_maps` return it.

    Parameters
    ----------
    residual : ndarray of shape (n_images, height, width), float32
        R, how much I changes each pixel, in the units of alpha.
    logits : ndarray of shape (n_images, height, width), float32
        D's linear output, z: the lowest of the regions that hold a pixel.
    rule : DecisionRule
        The thresholds, and how both maps are joined.
    reasons : ndarray of shape (n_images,), uint8, default=None
        Where an image as a whole is farther from normal than any training image, the place in
        `REASONS` of how it differs most; elsewhere 0. None takes 0 for all.
    inpainted : ndarray of shape (n_images, height, width[, n_channels]), float32, default=None
        I(X), in X's units. None where it was not asked for.
    evidence : ndarray of shape (n_images, height, width), float32, default=None
        What takes the place of the evidence that follows from both maps: its mean over some
        frames, for example.
    regularity : ndarray of shape (n_images, height, width), float32, default=None
        O, where it has been computed already.

    Attributes
    ----------
    evidence : ndarray of shape (n_images, height, width), float32
        The anomaly map e of Eq. 4, at least 0 where a pixel is irregular; computed once, when it
        is first asked for.
    regularity : ndarray of shape (n_images, height, width), float32
        O, D's score in [0, 1] of the least regular region that holds a pixel.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.anomaly_maps import AnomalyMaps, DecisionRule
    >>> residual, logits = np.float32([[[0.2, 0.05]]]), np.float32([[[-2.0, 1.0]]])
    >>> maps = AnomalyMaps(residual, logits, rule=DecisionRule(alpha=0.1, zeta=0.5))
    >>> maps.mask
    array([[[ True, False]]])
    >>> maps.with_thresholds(0.3, 0.5).mask
    array([[[False, False]]])
    """

    def __init__(
        self,
        residual: NDArray[np.float32],
        logits: NDArray[np.float32],
        *,
        rule: DecisionRule,
        reasons: NDArray[np.uint8] | None = None,
        inpainted: NDArray[np.float32] | None = None,
        evidence: NDArray[np.float32] | None = None,
        regularity: NDArray[np.float32] | None = None,
    ) -> None:
        self.residual = residual
        self.logits = logits
        self.rule = rule
        self.reasons = np.zeros(len(residual), np.uint8) if reasons is None else reasons
        self.inpainted = inpainted
        if evidence is not None:
            self.evidence = evidence
        if regularity is not None:
            self.regularity = regularity

    def __len__(self) -> int:
        return len(self.residual)

    @cached_property
    def evidence(self) -> NDArray[np.float32]:
        """The anomaly map e, at least 0 where a pixel is irregular."""
        joined = np.empty(self.residual.shape, np.float32)
        step = max(1, BLOCK_PIXELS // max(1, self.residual[0].size)) if len(self) else 1
        for start in range(0, len(self), step):  # float64 for a block of images only
            rows = slice(start, start + step)
            joined[rows] = evidence(self.residual[rows], self.logits[rows], **self.rule._asdict())
        return joined

    @cached_property
    def regularity(self) -> NDArray[np.float32]:
        """D's score in [0, 1] of the least regular region that holds a pixel."""
        return regularity(self.logits)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """True where a pixel is irregular, bool of shape (n_images, height, width)."""
        return mask(self.evidence)

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """The score of each image, the higher the more normal: above 0 where its mask is empty."""
        return score(self.evidence)

    @property
    def whole(self) -> NDArray[np.bool_]:
        """True where an image as a whole is farther from normal than any training image.

        Also where `with_frozen` or `with_reason` say so.
        """
        return self.reasons > 0

    @cached_property
    def why(self) -> list[str]:
        """How images that are irregular as a whole differ, "" for others; one of `REASONS`."""
        return [REASONS[code] for code in self.reasons * self.irregular_as_a_whole]

    @property
    def irregular_as_a_whole(self) -> NDArray[np.bool_]:
        """True where `whole` holds and the mask is not empty, bool of shape (n_images,)."""
        return self.whole & (self.scores <= 0)

    @property
    def margins(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The margins of I and D alone, computed anew at each call; see `margins`."""
        alpha, zeta = self.rule[:2]
        return margins(self.residual, self.logits, alpha=alpha, zeta=zeta)

    def find(self, row: int) -> list[Finding]:
        """List the connected patches of the mask of one image, the most irregular one first.

        Parameters
        ----------
        row : int
            Which image.

        Returns
        -------
        findings : list of Finding
            See `find`.
        """
        alpha, zeta = self.rule[:2]
        maps = self.evidence[row], self.residual[row], self.logits[row]
        return find(*maps, alpha=alpha, zeta=zeta)

    def with_thresholds(self, alpha: float, zeta: float) -> AnomalyMaps:
        """Return the same maps under other thresholds.

        Parameters
        ----------
        alpha, zeta : float
            Thresholds on the residual, above 0, and on the regularity, in (0, 1).

        Returns
        -------
        maps : AnomalyMaps
            It shares the arrays that do not depend on the thresholds.
        """
        check_thresholds(alpha, zeta)
        rule = self.rule._replace(alpha=float(alpha), zeta=float(zeta))
        return AnomalyMaps(
            self.residual, self.logits, rule=rule, reasons=self.reasons, inpainted=self.inpainted
        )

    def with_frozen(self, frozen: NDArray[np.bool_]) -> AnomalyMaps:
        """Return the same maps, but with the frames of a frozen camera irregular everywhere.

        Parameters
        ----------
        frozen : ndarray of shape (n_images,), bool
            True for these images. Their evidence becomes 1 where it is less, but for ignored
            pixels, and `why` "frozen" where it does not say anything else.

        Returns
        -------
        maps : AnomalyMaps
            It shares all other arrays.
        """
        lifted = frozen[:, None, None] & (self.logits < LOG_LIMIT)
        evidence = np.where(lifted, np.maximum(self.evidence, 1), self.evidence)
        return self.with_evidence(evidence.astype(np.float32)).with_reason(frozen, "frozen")

    def with_reason(self, holds: NDArray[np.bool_], reason: str) -> AnomalyMaps:
        """Return the same maps, with a reason why some images are irregular as a whole.

        Parameters
        ----------
        holds : ndarray of shape (n_images,), bool
            True for these images. Those that have another reason keep it.
        reason : str
            One of `REASONS`.

        Returns
        -------
        maps : AnomalyMaps
            It shares all other arrays.
        """
        reasons = np.where(holds & (self.reasons == 0), REASONS.index(reason), self.reasons)
        return AnomalyMaps(
            self.residual, self.logits, rule=self.rule, reasons=reasons.astype(np.uint8),
            inpainted=self.inpainted, evidence=self.evidence,
        )  # fmt: skip

    def with_evidence(self, evidence: NDArray[np.float32]) -> AnomalyMaps:
        """Return the same maps with other evidence, such as its mean over some frames.

        Parameters
        ----------
        evidence : ndarray of shape (n_images, height, width), float32
            The evidence that masks, scores and patches shall follow from.

        Returns
        -------
        maps : AnomalyMaps
            It shares all other arrays.
        """
        return AnomalyMaps(
            self.residual, self.logits, rule=self.rule, reasons=self.reasons,
            inpainted=self.inpainted, evidence=evidence,
        )  # fmt: skip


def gather(
    parts: Iterable[tuple[slice, AnomalyMaps]],
    shape: tuple[int, int, int],
    *,
    rule: DecisionRule,
    inpainted_shape: tuple[int, ...] | None = None,
    out: Mapping[str, NDArray[Any]] | None = None,
) -> AnomalyMaps:
    """Gather the maps of batches in arrays of all images.

    Parameters
    ----------
    parts : iterable of (slice, AnomalyMaps)
        Which images, and their maps.
    shape : tuple (n_images, height, width)
        Of the maps.
    rule : DecisionRule
        The rule of all parts.
    inpainted_shape : tuple, default=None
        Of all inpainted images. None: the parts have none.
    out : dict, default=None
        Arrays to write to, by their names: "inpainted", "residual", "logits", "regularity" and
        "evidence". The first three are made where they are missing, the last two when they are
        asked for.

    Returns
    -------
    maps : AnomalyMaps
        Of all images.

    Raises
    ------
    ValueError
        If ``out`` has another key, or an array of another shape or dtype than float32.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.anomaly_maps import AnomalyMaps, DecisionRule, gather
    >>> rule, one = DecisionRule(0.1, 0.5), np.ones((1, 2, 2), np.float32)
    >>> one = AnomalyMaps(one, one, rule=rule, inpainted=one)
    >>> parts = [(slice(0, 1), one), (slice(1, 2), one)]
    >>> len(gather(parts, (2, 2, 2), rule=rule, inpainted_shape=(2, 2, 2)))
    2
    """
    given = out or {}
    unknown = set(given) - set(MAPS)
    if unknown:
        raise ValueError(f"out has the key {min(unknown)!r}, but must have some of {MAPS}.")
    names = [name for name in MAPS if name in given or name in MAPS[:3]]
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, shape)
    if inpainted_shape is None:
        del shapes["inpainted"]
    else:
        shapes["inpainted"] = inpainted_shape
    arrays = {
        name: as_output(given.get(name), needed, np.float32, f"out[{name!r}]")
        for name, needed in shapes.items()
    }
    reasons = np.zeros(shape[0], np.uint8)
    for rows, part in parts:
        reasons[rows] = part.reasons
        for name, array in arrays.items():
            array[rows] = getattr(part, name)
    return AnomalyMaps(rule=rule, reasons=reasons, **arrays)


def as_output(
    out: NDArray[Any] | None, shape: tuple[int, ...], dtype: Any, name: str
) -> NDArray[Any]:
    """Check an array to write to, or make one.

    Parameters
    ----------
    out : ndarray or None
        What the user gave.
    shape : tuple of int
        The shape it must have.
    dtype : dtype
        The dtype it must have.
    name : str
        What to call it in messages.

    Returns
    -------
    out : ndarray
        The given array, or an empty one.

    Raises
    ------
    ValueError
        If it has another shape or dtype.

    Examples
    --------
    >>> from skavid.core.anomaly_maps import as_output
    >>> as_output(None, (2, 3), bool, "out").shape
    (2, 3)
    """
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(
            f"{name} has shape {out.shape} and dtype {out.dtype}, but must have shape {shape} and "
            f"dtype {np.dtype(dtype)}."
        )
    return out


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
