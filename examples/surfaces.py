"""Faults of surfaces and parts
============================

Real faults, found by a detector that has seen faultless pictures alone::

    python examples/surfaces.py --data FOLDER

FOLDER holds pictures in MVTec's layout: train/good, test/good, test/FAULT, ground_truth/FAULT. The
default is the ball screw drive of BSData (Schlagenhauf, Landwehr and Fleischer, 2021; CC BY-SA
4.0), which wears until pits form: the folder bsdata in $SKAVID_DATA, or in data, 200 pictures to
learn from, three minutes of two CPU cores. ``--features patches`` leaves out the frozen network of
``skavid[features]``: half the time.

It prints how well faulty pictures are told from faultless ones, for each kind of fault, and draws
a faultless picture and five faulty ones. These are not chosen by hand: of each kind, the most
frequent kinds first, they stand at evenly spaced ranks of its scores (with five kinds or more, one
picture of each kind, that with the median score).
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

SHOWN = 5  # faulty pictures


def spread(kind, rows, scores, n):
    """Return n of the rows, at evenly spaced ranks of their scores, the most irregular first."""
    ranks = (2 * np.arange(n) + 1) * len(rows) // (2 * n)
    chosen = rows[np.argsort(scores[rows])[ranks]]
    return [
        (f"{kind} ({rank + 1} of {len(rows)})", row)
        for rank, row in zip(ranks, chosen, strict=True)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(os.environ.get("SKAVID_DATA", "data")) / "bsdata"
    parser.add_argument("--data", type=Path, default=root, help="the folder of the data set")
    parser.add_argument("--size", type=int, nargs=2, default=(104, 256), help="height and width")
    parser.add_argument("--grey", action="store_true", help="read no colour")
    parser.add_argument("--output", default="skavid-surfaces.png", help="the picture to write")
    parser.add_argument("--features", default="auto", choices=("auto", "patches", "imagenet"))
    parser.add_argument("--epochs", type=int, default=20, help="epochs of ten batches for D")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    train, test = (
        load_mvtec(
            arguments.data, subset=subset, size=tuple(arguments.size), color=not arguments.grey
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
    shown = spread("no fault", normal, scores, 1)
    counts = Counter(kinds[test.labels == -1]).most_common()
    for kind, _ in counts:
        rows = np.flatnonzero(kinds == kind)
        labels = np.repeat([1, -1], [len(normal), len(rows)])
        auc = roc_auc_score(labels, scores[np.r_[normal, rows]])
        print(f"{kind:15} {len(rows):4} pictures, AUC {auc:.3f}")
        n = min(max(1, SHOWN // len(counts)), SHOWN + 1 - len(shown))
        shown += spread(kind.replace("_", " "), rows, scores, n)
    print(f"all faults      {(test.labels == -1).sum():4} pictures, AUC ", end="")
    print(f"{roc_auc_score(test.labels, scores):.3f}")

    draw(test, evidence, shown, arguments.output)
    print(f"\nPictures: {arguments.output}")


def draw(test, evidence, shown, output):
    """Draw pictures with their faults outlined above what was found."""
    height, width = test.images.shape[1:3]
    n_columns = 6 if width < 1.5 * height else 3
    n_rows, side = 2 * -(-len(shown) // n_columns), 12 / n_columns
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(12, n_rows * (side * height / width + 0.3)),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    pairs = axes.reshape(-1, 2, n_columns).swapaxes(1, 2).reshape(-1, 2)
    for (kind, row), (above, below) in zip(shown, pairs, strict=False):
        above.imshow(test.images[row], cmap="gray", vmin=0, vmax=255)
        above.set_title(kind, fontsize=11)
        if test.masks[row].any():
            above.contour(test.masks[row], [0.5], colors="lime", linewidths=1.5)
        below.imshow(evidence[row], cmap="magma", vmin=-1.5, vmax=0.5)
        if (evidence[row] >= 0).any():
            below.contour(evidence[row] >= 0, [0.5], colors="white", linewidths=1.2)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for above, below in pairs[::n_columns]:
        above.set_ylabel("true fault")
        below.set_ylabel("found")
    figure.savefig(output, dpi=90)


if __name__ == "__main__":
    main()

# %%
# It draws this picture:
#
# .. image:: /images/surfaces.png
#    :alt: A worn ball screw with its pits outlined, and what the detector found
