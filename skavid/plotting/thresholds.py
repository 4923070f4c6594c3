"""Detection rates over the plane of both thresholds of Eq. 4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from skavid.core.images import RESIDUAL_FLOOR, check_option
from skavid.metrics.scores import largest_alphas
from skavid.plotting.drawing import (
    FALSE_POSITIVES,
    TRUE_POSITIVES,
    check_labels_of,
    edged,
    one_axes,
)

__all__ = ["ThresholdPlaneDisplay"]

FALSE_ALARMS = (0.01, 0.1, 0.5)  # false positive rates whose contour lines are drawn
NEARLY_0_AND_1 = (1e-30, 1 - 6e-8)  # a regularity of 0 or 1 has no logit
VALUES = ("balanced_accuracy", "tpr", "fpr")


@dataclass(eq=False, repr=False, kw_only=True)
class ThresholdPlaneDisplay:
    """Show detection rates for each pair of thresholds alpha and zeta (Fig. 6).

    It is recommended to use :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    alphas : ndarray of shape (n_levels,)
        Thresholds on the residual, evenly spaced in their logarithm.
    zetas : ndarray of shape (n_levels,)
        Thresholds on the regularity, evenly spaced in their logit.
    fpr, tpr : ndarray of shape (n_levels, n_levels)
        Shares of the normal and of the irregular samples that are found irregular; one row per
        zeta, one column per alpha.
    in_use : dict, default=None
        The pair in use, ``alpha`` and ``zeta``, and its rates, ``fpr`` and ``tpr``.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        The axes and their figure, set by :meth:`plot`.
    mesh_ : matplotlib QuadMesh
        The heat map.
    ray_ : matplotlib Line2D or None
        The pairs that `score_samples` corresponds to: ``alpha * exp(t)``, and the odds of zeta
        times ``exp(-t)``.
    point_ : matplotlib Line2D or None
        The pair in use.

    See Also
    --------
    skavid.metrics.threshold_plane : Computes the best rates over the plane, as one curve.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.plotting import ThresholdPlaneDisplay
    >>> residual, regularity = np.array([0.1, 0.9, 0.8, 0.7]), np.array([0.2, 0.9, 0.1, 0.3])
    >>> display = ThresholdPlaneDisplay.from_predictions(
    ...     [1, 1, -1, -1], residual, regularity, alpha=0.5, zeta=0.5
    ... )
    >>> display.in_use["tpr"], display.in_use["fpr"]
    (1.0, 0.0)
    """

    alphas: NDArray[Any]
    zetas: NDArray[Any]
    fpr: NDArray[Any]
    tpr: NDArray[Any]
    in_use: dict[str, float] | None = None

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        n_levels: int = 60,
        value: str = "balanced_accuracy",
        ax: Any = None,
    ) -> ThresholdPlaneDisplay:
        """Compute the maps of a fitted detector and draw its detection rates.

        Parameters
        ----------
        estimator : AVIDDetector
            A fitted detector. Its ``fusion`` and ``balance_`` combine the maps.
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            Images; the maps of all of them are held in memory.
        y : array-like of shape (n_images,)
            1 for normal and -1 for irregular images.
        n_levels, value, ax : int, str, Axes
            As in :meth:`from_predictions`.

        Returns
        -------
        display : ThresholdPlaneDisplay
            The drawn display.
        """
        min_area = estimator.component("postprocessing").min_area
        if min_area > 1:
            raise ValueError(
                f"estimator has min_area={min_area}, which this plane does not know; "
                "set_params(postprocessing__min_area=0) shows its thresholds without."
            )
        maps = estimator.maps(X)
        return cls.from_predictions(
            y,
            maps.residual,
            maps.regularity,
            alpha=estimator.alpha_,
            zeta=estimator.zeta_,
            fusion=estimator.fusion,
            balance=estimator.balance_,
            n_levels=n_levels,
            value=value,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        residual: ArrayLike,
        regularity: ArrayLike,
        *,
        alpha: float | None = None,
        zeta: float | None = None,
        fusion: str = "min",
        balance: float = 0.5,
        n_levels: int = 60,
        value: str = "balanced_accuracy",
        ax: Any = None,
    ) -> ThresholdPlaneDisplay:
        """Draw the detection rates of the given maps.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            1 for normal and -1 for irregular samples.
        residual : array-like of shape (n_samples, ...)
            R, one map or one number per sample, as `AVIDDetector.maps` returns it.
        regularity : array-like of shape (n_samples, ...)
            O, of the same shape.
        alpha, zeta : float, default=None
            The pair in use; both or none.
        fusion : {"min", "mean", "inpainter", "detector"}, default="min"
            As in `skavid.core.anomaly_maps.evidence`: "min" is Eq. 4, where both thresholds
            must be passed.
        balance : float, default=0.5
            The share of I's margin in the "mean".
        n_levels : int, default=60
            Number of thresholds on each axis, at least 2. They range from one that half of the
            pixels pass to one that no pixel passes, and include the pair in use.
        value : {"balanced_accuracy", "tpr", "fpr"}, default="balanced_accuracy"
            The measure that the colours show.
        ax : matplotlib Axes, default=None
            The axes to draw on. A new figure when None.

        Returns
        -------
        display : ThresholdPlaneDisplay
            The drawn display.

        Notes
        -----
        The best pair of this plane is chosen with the labels, so its rates are optimistic.
        """
        changed, regular = (np.asarray(maps, dtype=np.float32) for maps in (residual, regularity))
        if changed.shape != regular.shape or not changed.ndim:
            raise ValueError(
                f"residual has the shape {changed.shape}, but regularity {regular.shape}; give "
                "both maps of each sample."
            )
        n = len(changed)
        normal = check_labels_of("y_true", y_true, n, both=True) == 1
        pair = _check_pair(alpha, zeta)
        if n_levels < 2:
            raise ValueError(f"n_levels must be 2 or more. Got {n_levels!r}.")
        # I's share in the mean of both margins; None requires both margins, Eq. 4.
        shares = {"min": None, "mean": balance, "inpainter": 1.0, "detector": 0.0}
        check_option("fusion", fusion, shares)
        check_option("value", value, VALUES)
        changed, regular = changed.reshape(n, -1), regular.reshape(n, -1)

        def rates(alphas: NDArray[Any], zetas: NDArray[Any]) -> list[NDArray[Any]]:
            flagged = _flagged(changed, regular, alphas, zetas, shares[fusion])
            return [flagged[kind].mean(axis=0) for kind in (normal, ~normal)]

        # From thresholds that half of the pixels pass to a little beyond those that none passes.
        ends = _margins(
            np.array([np.median(changed), changed.max(), *pair[:1]]),
            np.array([np.median(regular), regular.min(), *pair[1:]]),
        )
        logs, logits = (
            np.linspace(some.min(), some.max() + 0.05 * np.ptp(some) + 1e-3, n_levels)
            for some in ends
        )
        alphas, zetas = np.exp(logs), expit(-logits)[::-1]
        fpr, tpr = rates(alphas, zetas)
        in_use = None
        if pair:
            false, true = (float(rate[0, 0]) for rate in rates(*np.array(pair)[:, None]))
            in_use = {"alpha": pair[0], "zeta": pair[1], "fpr": false, "tpr": true}
        display = cls(alphas=alphas, zetas=zetas, fpr=fpr, tpr=tpr, in_use=in_use)
        return display.plot(ax, value=value)

    def plot(self, ax: Any = None, *, value: str = "balanced_accuracy") -> ThresholdPlaneDisplay:
        """Draw the plane.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            The axes to draw on. A new figure when None.
        value : {"balanced_accuracy", "tpr", "fpr"}, default="balanced_accuracy"
            The measure that the colours show. Contour lines show false positive rates of 1, 10
            and 50 %.

        Returns
        -------
        display : ThresholdPlaneDisplay
            The display itself, with its artists.
        """
        check_option("value", value, VALUES)
        balanced = (self.tpr + 1 - self.fpr) / 2
        surface, label, low = {
            "balanced_accuracy": (balanced, "balanced accuracy", min(0.5, float(balanced.min()))),
            "tpr": (self.tpr, TRUE_POSITIVES, 0.0),
            "fpr": (self.fpr, FALSE_POSITIVES, 0.0),
        }[value]
        self.ax_ = ax = one_axes(ax, figsize=(6.4, 5))
        self.figure_ = ax.figure
        x, y = _edges(np.log(self.alphas)), _edges(logit(self.zetas))
        ax.set(xscale="log", yscale="logit")
        self.mesh_ = ax.pcolormesh(np.exp(x), expit(y), surface, vmin=low, vmax=1, cmap="viridis")
        self.figure_.colorbar(self.mesh_, ax=ax, label=label)
        self._draw_false_alarms(ax)
        self.ray_ = self.point_ = None
        if self.in_use is not None:
            self._draw_in_use(ax, self.in_use, limit=max(np.ptp(x), np.ptp(y)))
        ax.set(
            xlabel="alpha (threshold on the residual)",
            ylabel="zeta (threshold on the regularity)",
            xlim=np.exp(x[[0, -1]]),
            ylim=expit(y[[0, -1]]),
        )
        self._format_ticks(ax)
        return self

    def _format_ticks(self, ax: Any) -> None:
        """Write 0.2 instead of 2 x 10^-1, which would overlap, and 0.5 instead of a small 1/2."""
        from matplotlib.ticker import FuncFormatter, LogitFormatter, LogLocator, NullLocator

        class Plain(LogitFormatter):
            """Labels the same ticks with plain numbers."""

            def __call__(self, zeta: float, pos: int | None = None) -> str:
                return f"{zeta:.6g}" if super().__call__(zeta, pos) else ""

        if self.zetas[0] > 1e-3 and self.zetas[-1] < 1 - 1e-3:
            ax.yaxis.set_major_formatter(Plain())
            ax.yaxis.set_minor_formatter(Plain(minor=True))
        few = self.alphas[-1] < 1000 * self.alphas[0]
        ax.xaxis.set_minor_locator(LogLocator(subs=(2, 5)) if few else NullLocator())
        if few:
            for set_formatter in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
                set_formatter(FuncFormatter(lambda alpha, _: f"{alpha:g}"))

    def _draw_false_alarms(self, ax: Any) -> None:
        levels = [level for level in FALSE_ALARMS if self.fpr.min() < level < self.fpr.max()]
        if levels:
            lines = ax.contour(
                self.alphas, self.zetas, self.fpr, levels, colors="white", linewidths=1
            )
            lines.set(path_effects=edged())
            names = ax.clabel(lines, fmt=lambda level: f"{100 * level:.0f} %", fontsize="small")
            for name in names:
                name.set_path_effects(edged())

    def _draw_in_use(self, ax: Any, pair: dict[str, float], *, limit: float) -> None:
        t = np.linspace(-limit, limit, 201)
        (self.ray_,) = ax.plot(
            pair["alpha"] * np.exp(t),
            expit(logit(pair["zeta"]) - t),
            "--",
            color="white",
            linewidth=1.5,
            path_effects=edged(),
        )
        (self.point_,) = ax.plot(
            pair["alpha"], pair["zeta"], "*", color="white", markeredgecolor="black", markersize=16
        )
        ax.set_title(
            f"star: in use, finds {100 * pair['tpr']:.0f} % with {100 * pair['fpr']:.0f} % false "
            "alarms\nbroken line: where its score moves; full lines: false alarms",
            loc="left",
            fontsize="medium",
        )


def _check_pair(alpha: float | None, zeta: float | None) -> list[float]:
    """Check both thresholds in use; return an empty list if there are none."""
    if alpha is None or zeta is None:
        if (alpha, zeta) != (None, None):
            raise ValueError(f"alpha={alpha!r} and zeta={zeta!r}: give both thresholds or none.")
        return []
    if not (alpha > 0 and 0 < zeta < 1):
        raise ValueError(f"alpha must be above 0 and zeta in (0, 1). Got {alpha!r} and {zeta!r}.")
    return [alpha, zeta]


def _margins(
    residual: NDArray[Any], regularity: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute log(R) and -logit(O), the margins of Eq. 4 without its thresholds."""
    changed = np.log(np.maximum(residual, RESIDUAL_FLOOR, dtype=np.float64))
    return changed, -logit(regularity.astype(np.float64).clip(*NEARLY_0_AND_1))


def _flagged(
    residual: NDArray[np.float32],
    regularity: NDArray[np.float32],
    alphas: NDArray[Any],
    zetas: NDArray[Any],
    share: float | None,
) -> NDArray[np.bool_]:
    """Return whether each sample has an irregular pixel, (n_samples, n_zetas, n_alphas).

    ``share`` is I's share in the mean of both margins; None requires both margins, Eq. 4.
    """
    flagged: NDArray[np.bool_]
    if share is None:
        # Thresholds in float32, as maps are compared.
        highest = largest_alphas(residual, regularity, zetas.astype(np.float32))
        flagged = highest[..., None] >= alphas.astype(np.float32)
        return flagged
    peaks = np.empty(len(residual))
    for index, pair in enumerate(zip(residual, regularity, strict=True)):
        changed, doubted = _margins(*pair)
        peaks[index] = (share * changed + (1 - share) * doubted).max()
    cuts = share * np.log(alphas) - (1 - share) * logit(zetas)[:, None]
    flagged = peaks[:, None, None] >= cuts
    return flagged


def _edges(middles: NDArray[Any]) -> NDArray[Any]:
    half = (middles[1] - middles[0]) / 2
    return np.append(middles - half, middles[-1] + half)
