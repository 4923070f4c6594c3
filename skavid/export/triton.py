"""A folder for the model repository of NVIDIA's Triton Inference Server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skavid.estimator import AVIDDetector
from skavid.export.graph import build_model
from skavid.writing import check_parent, naming, replace

__all__ = ["write_triton"]

DELAY = 2000  # microseconds that a request may wait for others


def write_triton(
    detector: AVIDDetector,
    folder: str | os.PathLike[str],
    *,
    dtype: str = "uint8",
    max_batch_size: int = 32,
) -> None:
    """Write a fitted detector as a model of Triton's model repository.

    Parameters
    ----------
    detector : AVIDDetector
        Fitted.
    folder : str or Path
        The folder of the model inside the repository; its name is that of the model. It is made
        if it is missing, and gets ``1/model.onnx``, from `to_onnx`, and ``config.pbtxt``, which
        are replaced where they exist.
    dtype : {"uint8", "float32"}, default="uint8"
        Of the images, as in `to_onnx`.
    max_batch_size : int, default=32
        Images that the server may join in one batch, from several requests; requests wait 2 ms
        for others. Memory grows with it.

    Raises
    ------
    ImportError
        If onnx is missing.
    ValueError
        If ``max_batch_size`` is below 1, or as in `to_onnx`.
    OSError
        If a file cannot be written.

    See Also
    --------
    to_onnx : The graph alone; the inputs ``alpha`` and ``zeta`` are not offered by the server.

    Notes
    -----
    The configuration follows ``model_config.proto``: the first axis of all inputs and outputs is
    that of the batch, and dimensions of any length are -1. Images of different sizes are not
    joined in one batch.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from skavid import AVIDDetector, export
    >>> X = np.random.default_rng(0).normal(size=(40, 16, 16))
    >>> folder = tempfile.mkdtemp()
    >>> export.write_triton(AVIDDetector(max_epochs=1).fit(X), folder, dtype="float32")
    >>> sorted(os.listdir(folder))
    ['1', 'config.pbtxt']
    """
    if max_batch_size < 1:
        raise ValueError(f"max_batch_size must be at least 1. Got {max_batch_size!r}.")
    folder = Path(folder)
    check_parent(folder)
    model = build_model(detector, dtype, "write_triton")
    text = "".join(f"{line}\n" for line in _configuration(model.graph, max_batch_size))
    with naming(folder):
        (folder / "1").mkdir(parents=True, exist_ok=True)
    replace(folder / "1" / "model.onnx", model.SerializeToString())
    replace(folder / "config.pbtxt", text.encode())


def _configuration(graph: Any, max_batch_size: int) -> Iterator[str]:
    """Yield the lines of config.pbtxt."""
    yield 'backend: "onnxruntime"'
    yield f"max_batch_size: {max_batch_size}"
    yield f"dynamic_batching {{ max_queue_delay_microseconds: {DELAY} }}"
    defaults = {tensor.name for tensor in graph.initializer}
    required = [one for one in graph.input if one.name not in defaults]
    for kind, tensors in (("input", required), ("output", graph.output)):
        for tensor in tensors:
            yield from _tensor(kind, tensor)


def _tensor(kind: str, tensor: Any) -> Iterator[str]:
    types = {1: "TYPE_FP32", 2: "TYPE_UINT8", 9: "TYPE_BOOL"}  # by ONNX's numbers
    _, *dims = tensor.type.tensor_type.shape.dim
    lengths = ", ".join(str(dim.dim_value or -1) for dim in dims)
    yield f"{kind} {{"
    yield f'  name: "{tensor.name}"'
    yield f"  data_type: {types[tensor.type.tensor_type.elem_type]}"
    yield f"  dims: [ {lengths or 1} ]"
    if not lengths:  # one number per image, to which Triton gives an axis
        yield "  reshape { shape: [ ] }"
    yield "}"
