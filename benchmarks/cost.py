"""What fitting and scoring cost: the detector beside simpler methods, in one run.

    python benchmarks/cost.py --data FOLDER            # each map and both, about 15 minutes

Each method learns from the normal magnetic tiles (128 x 128 pixels) and scores the test tiles, in
a process of its own and on one thread, with the very code that `benchmarks/images.py` measures
quality by. Seconds are processor time, the feature map included; MiB are the peak of the process
beyond what it has before the fit. "features alone" computes the feature map and nothing else, and
the column beside it says which share of its images per second a method keeps. PyOD's networks are
not here: PyOD needs an older NumPy.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import images as compared
import torch

from skavid import AVIDDetector
from skavid.core.features import make_features

KEPT = Path(__file__).resolve().parent / "results" / "speed" / "cost.json"
DETECTOR, BARE = "AVIDDetector", "features alone"
ON_A_MAP = {"PaDiM, same map": compared.padim, "PatchCore, same map": compared.patchcore}


def methods(features):
    """Name the methods; those without a feature map stand beside "patches"."""
    if "+" in features:
        return [DETECTOR]
    without = list(compared.WITHOUT_FEATURES) if features == "patches" else []
    return [DETECTOR, BARE, *ON_A_MAP, *without]


def cost(method, features, root):
    """Fit and score once; return CPU seconds, images per second and peak memory."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    train, test, *_ = compared.tiles(root, 0)
    train, test = (one if one.ndim == 4 else one[..., None] for one in (train, test))
    module = None if "+" in features else make_features(features, train.shape[1:])
    before, begun = peak(), time.process_time()
    if method == DETECTOR:
        detector = AVIDDetector(features=features, random_state=0).fit(train)
        judge = detector.score_samples
    elif method == BARE:
        compared.mapped(train, module)

        def judge(images):
            for start in range(0, len(images), 16):
                compared.mapped(images[start : start + 16], module)

    elif method in ON_A_MAP:
        seed = (0,) if "PatchCore" in method else ()
        judge = ON_A_MAP[method](train, module, *seed)
    else:
        judge = compared.WITHOUT_FEATURES[method](train, 0)
    fitted = time.process_time()
    of_fit = peak() - before
    judge(test)
    scored = time.process_time() - fitted
    return {
        "fit, s": fitted - begun, "scored per second": len(test) / scored,
        "fit, MiB": of_fit, "fit and score, MiB": peak() - before,
    }  # fmt: skip


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(figures):
    """Write the page of tables."""
    lines = ["# The cost of fitting and scoring", "", *__doc__.split("\n\n")[2:], ""]
    for features, rows in figures.items():
        bare = rows.get(BARE)
        lines += [
            f'## features="{features}"', "",
            "| | fit, s | scored per second | of the features alone | fit, MiB | "
            "fit and score, MiB |", "|---" * 6 + "|",
        ]  # fmt: skip
        for name, row in rows.items():
            share = ""
            if bare and name not in compared.WITHOUT_FEATURES:
                share = f"{row['scored per second'] / bare['scored per second']:.2f}"
            cells = [f"{value:.3g}" for value in row.values()]
            cells.insert(2, share)
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    KEPT.with_suffix(".md").write_text("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("SKAVID_DATA"))
    parser.add_argument("--features", nargs="+", default=compared.KINDS[:3])
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(cost(*given.child, Path(given.data))))
        return
    figures = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for features in given.features:
        figures[features] = {}
        for method in methods(features):
            command = [sys.executable, __file__, "--data", given.data, "--child", method, features]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            figures[features][method] = json.loads(done.stdout.splitlines()[-1])
            print(features, method, figures[features][method], flush=True)
        KEPT.write_text(json.dumps(figures, indent=1) + "\n")
        write(figures)


if __name__ == "__main__":
    main()
