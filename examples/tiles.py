"""Faults of magnetic tiles
========================

Real faults of a production line, found by a detector that has seen faultless tiles alone::

    python examples/tiles.py --data FOLDER

FOLDER is the data set of magnetic tile defects (Huang, Qiu and Yuan, 2020; default: the folder mtd
in $SKAVID_DATA, or in data). 300 faultless tiles of 128 x 128 pixels train for one or two minutes
of two CPU cores. ``--features imagenet`` takes the frozen network of ``skavid[features]``.

It prints how well faulty tiles are told from faultless ones, for each kind of fault, and draws one
tile of each kind: the one with the median score of its kind, so neither the best nor the worst.
"""

# sphinx_gallery_thumbnail_path = "images/tiles.png"
from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from sklearn.metrics import roc_auc_score

from skavid import AVIDDetector
from skavid.datasets import load_magnetic_tiles


def median_of(rows, scores):
    """Return the row whose score is the median."""
    return rows[np.argsort(scores[rows])[len(rows) // 2]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(os.environ.get("SKAVID_DATA", "data")) / "mtd"
    parser.add_argument("--data", type=Path, default=root, help="the folder of the data set")
    parser.add_argument("--output", default="skavid-tiles.png", help="the picture to write")
    parser.add_argument("--features", default="patches", choices=("patches", "imagenet"))
    parser.add_argument("--epochs", type=int, default=40, help="epochs of ten batches for D")
    parser.add_argument("--train", type=int, default=300, help="how many tiles to train on")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    train, test = (
        load_magnetic_tiles(
            arguments.data, size=(128, 128), subset=subset, n_train=arguments.train,
            random_state=arguments.seed,
        )
        for subset in ("train", "test")
    )  # fmt: skip
    detector = AVIDDetector(
        features=arguments.features, max_epochs=arguments.epochs, random_state=arguments.seed
    )
    began = time.perf_counter()
    detector.fit(train.images)
    print(f"Trained on {len(train.images)} tiles in {time.perf_counter() - began:.0f} s.")

    evidence = detector.maps(test.images).evidence
    scores = -evidence.max(axis=(1, 2))
    kinds = np.array(test.kinds)
    normal = np.flatnonzero(kinds == "Free")
    shown = {"no fault": median_of(normal, scores)}
    for kind in dict.fromkeys(kinds[kinds != "Free"]):
        rows = np.flatnonzero(kinds == kind)
        labels = np.repeat([1, -1], [len(normal), len(rows)])
        auc = roc_auc_score(labels, scores[np.r_[normal, rows]])
        print(f"{kind:10} {len(rows):4} tiles, AUC {auc:.3f}")
        shown[kind.lower()] = median_of(rows, scores)
    print(f"all faults      AUC {roc_auc_score(test.labels, scores):.3f}")

    draw(test, evidence, shown, arguments.output)
    print(f"\nOne tile of each kind: {arguments.output}")


def draw(test, evidence, shown, output):
    """Draw tiles with their faults outlined above what was found."""
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
    axes[0, 0].set_ylabel("tile, true fault (green)")
    axes[1, 0].set_ylabel("evidence, found (white)")
    figure.savefig(output, dpi=90)


if __name__ == "__main__":
    main()

# %%
# It draws this picture:
#
# .. image:: /images/tiles.png
#    :alt: Six magnetic tiles with their faults outlined, and what the detector found in them
