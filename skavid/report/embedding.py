"""Margins, masks and pictures of single images in the form in which the page embeds them."""

from __future__ import annotations

import base64
import io
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skavid.core import anomaly_maps

__all__: list[str] = []  # for the report alone

# Margins are stored as whole steps from the fitted thresholds; the sliders move by such steps.
STEP = 1 / 64  # in nats: 1.6 % of alpha, or of the odds of zeta


def margins_in_steps(
    residual: NDArray[np.float32],
    logits: NDArray[np.float32],
    *,
    alpha: float,
    zeta: float,
    fusion: str,
    balance: float,
) -> dict[str, NDArray[np.int16]]:
    """Return the margin of each network in steps, rounded down.

    A margin that is rounded down stays on the same side of every threshold that a slider can
    take. The mean of two of them can change sides; one of them is then moved by one step, so that
    at the fitted thresholds the mask of the page is that of the detector.
    """
    thresholds: dict[str, Any] = {"alpha": alpha, "zeta": zeta}
    steps = {}
    for network in ("inpainter", "detector"):
        margin = anomaly_maps.evidence(residual, logits, fusion=network, **thresholds)
        steps[network] = np.floor(margin / STEP).clip(1 - 2**15, 2**15 - 2).astype(np.int16)
    if fusion == "mean":
        mean = balance * (steps["inpainter"] + 0.5) + (1 - balance) * (steps["detector"] + 0.5)
        evidence = anomaly_maps.evidence(
            residual, logits, fusion="mean", balance=balance, **thresholds
        )
        heavier = steps["inpainter" if balance >= 0.5 else "detector"]
        heavier[(mean < 0) & (evidence >= 0)] += 1
        heavier[(mean >= 0) & (evidence < 0)] -= 1
    return steps


def most_irregular(values: NDArray[Any], evidence: NDArray[Any], reduced: int) -> NDArray[Any]:
    """Represent each block of pixels by its pixel with the most evidence."""
    if reduced == 1:
        return values
    height, width = (-(-length // reduced) for length in values.shape)
    padding = [
        (0, n * reduced - length) for n, length in zip((height, width), values.shape, strict=True)
    ]
    blocks = [
        np.pad(array, padding, mode="edge")
        .reshape(height, reduced, width, reduced)
        .swapaxes(1, 2)
        .reshape(height, width, -1)
        for array in (values, evidence)
    ]
    most = blocks[1].argmax(axis=2)[..., None]
    picked: NDArray[Any] = np.take_along_axis(blocks[0], most, axis=2)[..., 0]
    return picked


def pack_margin(steps: NDArray[np.int16]) -> str:
    """Compress the differences of neighbouring pixels: all low bytes, then all high bytes."""
    # The differences may wrap around; the script sums them in 16 bits, too.
    change = np.diff(steps.ravel(), prepend=np.int16(0)).astype("<i2")
    return _deflate(np.ascontiguousarray(change.view(np.uint8).reshape(-1, 2).T).tobytes())


def pack_mask(mask: NDArray[np.bool_]) -> str:
    """Compress a mask, one bit per pixel."""
    return _deflate(np.packbits(mask).tobytes())


def _deflate(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def overlay(mask: NDArray[np.bool_], ground_truth: NDArray[np.bool_] | None = None) -> str:
    """Draw a mask, and the outline of the ground truth, for browsers that run no scripts."""
    from PIL import Image

    tint = np.zeros((*mask.shape, 4), np.uint8)
    tint[mask] = (255, 59, 31, 120)
    if ground_truth is not None:
        tint[ground_truth & ~ndimage.binary_erosion(ground_truth)] = (0, 208, 255, 255)
    return png(Image.fromarray(tint))


def png(picture: Any) -> str:
    """Return a picture of Pillow as the address of an embedded PNG."""
    file = io.BytesIO()
    picture.save(file, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
