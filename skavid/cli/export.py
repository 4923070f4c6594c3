"""``skavid export``: write a model as an ONNX graph."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from itertools import islice
from typing import Any

import numpy as np

from skavid.cli.console import INCOMPLETE, SUCCESS, Console
from skavid.cli.models import find_sources, open_model
from skavid.cli.outputs import check_file, check_targets
from skavid.datasets import sources
from skavid.export import to_onnx, verify_onnx, write_triton
from skavid.export.graph import RUNTIMES
from skavid.wording import counted
from skavid.writing import check_parent

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

N_VERIFIED = 32  # images on which graph and model are compared


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Write a graph, and compare it with the model."""
    output = arguments.output
    if arguments.triton:
        check_parent(output)
        graph = output / "1" / "model.onnx"
    else:
        check_file("FILE.onnx", output, ".onnx")
        graph = output
    detector, reading = open_model(arguments)
    found = [] if arguments.verify is None else find_sources([arguments.verify], reading)
    check_targets({"FILE.onnx": graph}, found, arguments.model, arguments.force)
    examples: list[Any] = []
    if found:
        samples = sources.read_source(found[0], reading)
        if reading.tiled:
            samples = sources.cut_tiles(samples, reading)
        examples = [sample.image for sample in islice(samples, N_VERIFIED)]
    takes_bytes = reading.size is not None or detector.value_range_ == (0.0, 255.0)
    dtype = "uint8" if takes_bytes else "float32"
    write = write_triton if arguments.triton else to_onnx
    write(detector, output, dtype=dtype)
    result: dict[str, Any] = {
        "model": str(output),
        "image_shape": list(detector.image_shape_),
        "dtype": dtype,
    }
    shape = ", ".join(map(str, detector.image_shape_))
    text = f"{output} takes {dtype} images of shape (n, {shape})"
    text += "." if reading.stacking is None else ", frames stacked as in Sec. 3.5."
    if reading.crop is not None or reading.normalize or reading.tiled:
        text += f"\nPrepare them as the model reads images: {reading.describe()}."
    if examples:
        # OpenVINO, another runtime of the same graph, is compared where it is installed.
        runtimes = [name for name in RUNTIMES if name != "openvino" or find_spec(name)]
        try:
            found_by = {
                name: verify_onnx(detector, graph, np.stack(examples), runtime=name)
                for name in runtimes
            }
        except AssertionError as error:
            console.error(f"{graph} was written, but {error}")
            return INCOMPLETE
        differences = found_by["onnxruntime"]
        result |= {"verified_on": len(examples), "differences": dict(differences)}
        result |= {"runtimes": runtimes}
        worst = max(one.score for one in found_by.values())
        text += (
            f"\nIt agrees with the model on {counted(len(examples), reading.unit)}, run by "
            f"{' and '.join(runtimes)}: scores differ by at most {worst:.1g}."
        )
    console.print_result(result, text)
    return SUCCESS
