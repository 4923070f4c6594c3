"""Faults of surfaces and parts
============================

Real faults, found by a detector that has seen faultless pictures alone::

    python examples/surfaces.py --data FOLDER

FOLDER holds pictures in MVTec's layout: train/good, test/good, test/FAULT, ground_truth/FAULT. The
default is the fabric of the AITEX data set (Silvestre-Blanes et al., 2019), the folder aitex in
$SKAVID_DATA, or in data: 217 pictures of 256 x 256 pixels, three minutes of two CPU cores.
``--features patches`` leaves out the frozen network of ``skavid[features]``: half the time.

It prints how well faulty pictures are told from faultless ones, for each kind of fault, and draws
one picture of each kind, the most frequent kinds first: the one with the median score of its kind,
so neither the best nor the worst.
"""

# sphinx_gallery_thumbnail_path = "images/surfaces.png"
from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from sklearn.metrics import roc_auc_score

from skavid import AVIDDetector
from skavid.datasets import load_mvtec

SHOWN = 5  # kinds of faults


def median_of(rows, scores):
    """Return the row whose score is the median."""
    return rows[np.argsort(scores[rows])[len(rows) // 2]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(os.environ.get("SKAVID_DATA", "data")) / "aitex"
    parser.add_argument("--data", type=Path, default=root, help="the folder of the data set")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), help="height and width")
    parser.add_argument("--color", action="store_true", help="read colour")
    parser.add_argument("--output", default="skavid-surfaces.png", help="the picture to write")
    parser.add_argument("--features", default="auto", choices=("auto", "patches", "imagenet"))
    parser.add_argument("--epochs", type=int, default=20, help="epochs of ten batches for D")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    train, test = (
        load_mvtec(
            arguments.data, subset=subset, size=tuple(arguments.size), color=arguments.color
        )
        for subset in ("train", "test")
    )
    detector = AVIDDetector(
        features=arguments.features, max_epochs=arguments.epochs, random_state=arguments.seed
    )
    began = time.perf_counter()
    detector.fit(train.images)
    seconds = time.perf_counter() - began
    print(f"Trained on {len(train.images)} pictures in {seconds:.0f} s.")

    evidence = detector.maps(test.images).evidence
    scores = -evidence.max(axis=(1, 2))
    kinds = np.array(test.kinds)
    normal = np.flatnonzero(test.labels == 1)
    shown = {"no fault": median_of(normal, scores)}
    for kind, _ in Counter(kinds[test.labels == -1]).most_common():
        rows = np.flatnonzero(kinds == kind)
        labels = np.repeat([1, -1], [len(normal), len(rows)])
        auc = roc_auc_score(labels, scores[np.r_[normal, rows]])
        print(f"{kind:15} {len(rows):4} pictures, AUC {auc:.3f}")
        if len(shown) <= SHOWN:
            shown[kind.replace("_", " ")] = median_of(rows, scores)
    print(f"all faults      {(test.labels == -1).sum():4} pictures, AUC ", end="")
    print(f"{roc_auc_score(test.labels, scores):.3f}")

    draw(test, evidence, shown, arguments.output)
    print(f"\nOne picture of each kind: {arguments.output}")


def draw(test, evidence, shown, output):
    """Draw pictures with their faults outlined above what was found."""
    figure, axes = plt.subplots(2, len(shown), figsize=(2 * len(shown), 4.5), layout="constrained")
    for (kind, row), (above, below) in zip(shown.items(), axes.T, strict=True):
        above.imshow(test.images[row], cmap="gray", vmin=0, vmax=255)
        above.set_title(kind, fontsize=11)
        if test.masks[row].any():
            above.contour(test.masks[row], [0.5], colors="lime", linewidths=1.5)
        below.imshow(evidence[row], cmap="magma", vmin=-1.5, vmax=0.5)
        if (evidence[row] >= 0).any():
            below.contour(evidence[row] >= 0, [0.5], colors="white", linewidths=1.2)
        for axis in (above, below):
            axis.set_xticks([])
            axis.set_yticks([])
    axes[0, 0].set_ylabel("true fault (green)")
    axes[1, 0].set_ylabel("evidence, found (white)")
    figure.savefig(output, dpi=90)


if __name__ == "__main__":
    main()

# %%
# It draws this picture:
#
# .. image:: /images/surfaces.png
#    :alt: Pieces of fabric with their faults outlined, and what the detector found in them
