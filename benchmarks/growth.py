"""Measure how time and memory of fit and score grow with images, pixels and channels.

    python benchmarks/growth.py

Each measurement runs in a process of its own, on patches, a detector network of
four channels and one epoch. Time is processor time, which other programs on the machine hardly
change; memory is the peak of the process beyond what it has before (Linux only). The figures go
to benchmarks/results/speed, the plot to docs/images.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from skavid import AVIDDetector, __version__
from skavid.components import nested

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "benchmarks" / "results" / "speed"
PLOT = ROOT / "docs" / "images" / "growth.png"
SMALL = {"features": "patches", "max_epochs": 1, "detector__width": 4, "random_state": 0}
# What grows, and the images: (n, side, channels).
SWEEPS = {
    "images": [(n, 32, 1) for n in (10, 100, 1000)],
    "pixels per image": [(20, side, 1) for side in (64, 202, 640)],
    "channels": [(20, 32, channels) for channels in (1, 3, 10)],
}
FIGURES = ("fit, s", "score, s", "fit, MiB", "score, MiB")


def measure(n, side, channels):
    """Return processor seconds and peak MiB of a fit on n images, and of scoring them."""
    images = np.random.default_rng(0).integers(0, 255, (n, side, side, channels), dtype=np.uint8)
    before, began = _peak(), time.process_time()
    detector = AVIDDetector(**nested(SMALL)).fit(images)
    found = {"fit, s": time.process_time() - began, "fit, MiB": _peak() - before}
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before, began = _peak(), time.process_time()
    detector.score_samples(images)
    return found | {"score, s": time.process_time() - began, "score, MiB": _peak() - before}


def _peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def _child(sizes):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, *map(str, sizes)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    return json.loads(done.stdout.splitlines()[-1])


def size_of(name, n, side, channels):
    return {"images": n, "pixels per image": side**2, "channels": channels}[name]


def slope(name, rows, figure):
    """Return the exponent of growth from the last but one to the largest size."""
    few, many = rows[-2:]
    ratio = size_of(name, *many["sizes"]) / size_of(name, *few["sizes"])
    return float(np.log(many[figure] / few[figure]) / np.log(ratio))


def draw(sweeps):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, rows_of_axes = plt.subplots(2, 3, figsize=(10, 6), layout="constrained")
    for axes, unit in zip(rows_of_axes, ("s", "MiB"), strict=True):
        for ax, (name, rows) in zip(axes, sweeps.items(), strict=True):
            x = [size_of(name, *row["sizes"]) for row in rows]
            for what, mark in (("fit", "o"), ("score", "s")):
                key = f"{what}, {unit}"
                label = f"{what}, slope {slope(name, rows, key):.2f}"
                ax.loglog(x, [row[key] for row in rows], marker=mark, label=label)
            ax.set_xlabel(name)
            ax.legend()
        axes[0].set_ylabel({"s": "processor time, s", "MiB": "peak memory, MiB"}[unit])
    figure.savefig(PLOT, dpi=100)


def write(kept):
    lines = [
        "# Growth",
        "",
        "Written by `python benchmarks/growth.py`: uint8 noise, features=\"patches\", one epoch, "
        "a detector network of four channels. Seconds are processor time; MiB are the peak of "
        "the process beyond what it has before the fit, and before scoring. "
        "The slope is the exponent of growth between the two largest sizes: 1 is proportional. "
        "Scoring compares each image with the remembered ones, so that it grows faster than the "
        "images while a fit on more of them remembers more.",
    ]  # fmt: skip
    for name, rows in kept["sweeps"].items():
        lines += ["", f"## {name.capitalize()}", ""]
        lines.append("| images | side, pixels | channels | " + " | ".join(FIGURES) + " |")
        lines.append("|---" * (3 + len(FIGURES)) + "|")
        for row in rows:
            cells = [str(size) for size in row["sizes"]]
            cells += [f"{row[figure]:.3g}" for figure in FIGURES]
            lines.append("| " + " | ".join(cells) + " |")
        slopes = [f"{slope(name, rows, figure):.2f}" for figure in FIGURES]
        lines.append("| slope | | | " + " | ".join(slopes) + " |")
    lines += ["", "*{machine}, threads: {threads}, torch {torch}, skavid {skavid}*".format(**kept)]
    (KEPT / "growth.md").write_text("\n".join(lines) + "\n")


def main():
    if sys.argv[1:]:
        print(json.dumps(measure(*map(int, sys.argv[1:]))))
        return
    sweeps = {}
    for name, all_sizes in SWEEPS.items():
        sweeps[name] = []
        for sizes in all_sizes:
            row = {"sizes": sizes, **_child(sizes)}
            sweeps[name].append(row)
            print(name, row, flush=True)
    kept = {
        "sweeps": sweeps,
        "machine": f"{platform.machine()}, {platform.system()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "skavid": __version__,
    }
    (KEPT / "growth.json").write_text(json.dumps(kept, indent=1) + "\n")
    write(kept)
    draw(sweeps)


if __name__ == "__main__":
    main()
