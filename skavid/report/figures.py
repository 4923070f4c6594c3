"""Matplotlib figures as SVG text that takes its colours and fonts from the page around it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__: list[str] = []  # for the report alone

INK = "#010203"  # stands for the text colour of the page
INKED = (
    "text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color",
    "ytick.color", "patch.edgecolor", "hatch.color",
)  # fmt: skip


def import_matplotlib() -> Any:
    """Return matplotlib, or say how to install it."""
    try:
        import matplotlib.figure
        import matplotlib.style
    except ImportError as error:
        raise ImportError("Reports need matplotlib; pip install 'skavid[plot]'.") from error
    return matplotlib


def draw_svg(
    draw: Callable[[Any], Any], label: str, size: tuple[float, float], n_axes: int = 1
) -> tuple[str, Any]:
    """Draw a figure as SVG; return the SVG element and the axes.

    Parameters
    ----------
    draw : callable
        Draws on the axes that it is given.
    label : str
        Text for screen readers. Not escaped, so it must be a constant.
    size : tuple (width, height)
        In inches.
    n_axes : int, default=1
        Number of axes, one below the other; for more than one, ``draw`` gets an array of axes.
    """
    matplotlib = import_matplotlib()
    style: dict[str, Any] = dict.fromkeys(INKED, INK)
    style |= {
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": matplotlib.cycler(color=["#3b82c4", "#d97706", "#2f9e6e", "#dc4a3d"]),
        "figure.facecolor": "none",
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": label,
        "text.parse_math": False,
    }
    file = io.StringIO()
    with matplotlib.style.context(style, after_reset=True), warnings.catch_warnings():
        # The browser has fonts for glyphs that matplotlib's fonts lack.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
        axes = figure.subplots(n_axes, sharex=True)
        draw(axes)
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=no_metadata)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # matplotlib uses the same ids in every figure
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1), axes


def draw_histogram(
    ax: Any, scores: NDArray[np.float64], labels: NDArray[Any] | None, threshold: float
) -> None:
    """Draw a histogram of the negated scores, by label where labels are known."""
    irregular = 0.0 - scores
    # The threshold is a bin edge, so that no bar holds both alarms and other images.
    low, high = irregular.min() + threshold, irregular.max() + threshold
    width = max(high - low, 1e-3 * abs(high), 1e-6) / 40
    edges = width * np.arange(low // width - 1, high // width + 3) - threshold
    groups = [(irregular, "images", "")]
    if labels is not None:
        groups = [
            (irregular[labels == 1], "normal", ""),
            (irregular[labels == -1], "irregular", "///"),
        ]
    for values, label, hatch in groups:
        if len(values):
            ax.hist(values, edges, alpha=0.6, hatch=hatch, label=f"{label} ({len(values)})")
    ax.axvline(0.0 - threshold, color=INK, linestyle="--", linewidth=1.2, label="threshold")
    ax.set(xlabel="-score (higher is more irregular)", ylabel="number of images")
    ax.locator_params(axis="y", integer=True)
    ax.legend()
