"""The arrays of a file that a `LinearInpainter` follows from.

What follows from other arrays is left out; a compact file holds rounded numbers besides.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from skavid.core.linear import LinearInpainter, halved

__all__: list[str] = []  # internal to AVIDDetector.save and load

LEVELS = 255  # steps between the least and the largest of a remembered feature at a place
TINY = torch.finfo(torch.float32).tiny


def is_recalled(inpainter: LinearInpainter) -> bool:
    """Say whether mean and covariance are those of the remembered images, to the last bit.

    Those of a model that an older release fitted are not, as that rounded less.
    """
    if not inpainter.remembers_all:
        return False
    again = LinearInpainter(inpainter.n_features, inpainter.n_rows, inpainter.n_columns)
    again.memory, again.origin = inpainter.memory, inpainter.origin
    again.recall()
    return torch.equal(again.mean, inpainter.mean) and torch.equal(
        again.covariance, inpainter.covariance
    )


def to_arrays(inpainter: LinearInpainter, *, recalled: bool, compact: bool) -> dict[str, Tensor]:
    """Return the arrays that a file holds."""
    arrays: dict[str, Tensor] = dict(inpainter.state_dict())
    if recalled:
        del arrays["mean"], arrays["covariance"]
    elif compact:
        covariance = arrays.pop("covariance")
        spread = covariance.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
        row, column = _triangle(covariance)
        size = (spread[:, row] * spread[:, column]).clamp(min=TINY)
        arrays["spread"] = spread
        arrays["correlation"] = (covariance[:, row, column] / size).half()
    if compact and len(inpainter.keys):
        memory = arrays.pop("memory").float()
        low, high = memory.aminmax(dim=1, keepdim=True)
        step = (high - low) / LEVELS
        codes = ((memory - low) / step.clamp(min=TINY)).round()
        arrays |= {"codes": codes.to(torch.uint8), "lowest": low[:, 0], "step": step[:, 0]}
    return arrays


def placeholders(
    inpainter: LinearInpainter, *, recalled: bool, compact: bool
) -> dict[str, Tensor]:
    """Return what `to_arrays` returns, without numbers."""
    # Not by `to_arrays` on the device "meta": reductions there import sympy, for half a second.
    arrays: dict[str, Tensor] = dict(inpainter.state_dict())
    n_places, n_remembered, k = inpainter.memory.shape
    if recalled:
        del arrays["mean"], arrays["covariance"]
    elif compact:
        del arrays["covariance"]
        arrays["spread"] = _nothing(n_places, k)
        arrays["correlation"] = _nothing(n_places, k * (k - 1) // 2, dtype=torch.float16)
    if compact and n_remembered:
        del arrays["memory"]
        arrays["codes"] = _nothing(n_places, n_remembered, k, dtype=torch.uint8)
        arrays["lowest"] = arrays["step"] = _nothing(n_places, k)
    return arrays


def from_arrays(
    inpainter: LinearInpainter, arrays: Mapping[str, Tensor], *, recalled: bool
) -> None:
    """Fill an inpainter without memory from arrays of a file."""
    state = dict(arrays)
    if "codes" in state:
        codes, low, step = (state.pop(name) for name in ("codes", "lowest", "step"))
        state["memory"] = halved(low[:, None] + codes * step[:, None])
    if recalled:
        state["mean"] = torch.empty(inpainter.mean.shape)
        state["covariance"] = torch.empty(inpainter.covariance.shape)
    elif "correlation" in state:
        spread, correlation = state.pop("spread"), state.pop("correlation").float()
        covariance = torch.diag_embed(spread.square())
        row, column = _triangle(covariance)
        between = correlation * spread[:, row] * spread[:, column]
        covariance[:, row, column] = covariance[:, column, row] = between
        state["covariance"] = covariance
    inpainter.load_state_dict(state, assign=True)
    if recalled:
        if not inpainter.remembers_all:
            raise ValueError("its statistics are missing, but not all images are remembered.")
        inpainter.recall()


def _triangle(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows and columns below the diagonal."""
    k = covariance.shape[-1]
    row, column = torch.tril_indices(k, k, -1)
    return row, column


def _nothing(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
