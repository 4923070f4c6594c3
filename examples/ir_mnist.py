"""IR-MNIST, Sec. 4 of the paper
=============================

Puzzles of MNIST digits, the 3 never seen in training::

    python examples/ir_mnist.py --data FOLDER

FOLDER holds MNIST's four IDX files (default: the folder mnist in $SKAVID_DATA, or in
data). The defaults are smaller than the paper's (11 x 11 digits, 5000 training
images) so that two CPU cores finish within 10 minutes. Training puzzles are made of MNIST's
training digits, test puzzles of its test digits; half of these hold a 3, at its natural share of
the cells and at least once.

It prints how well I alone, D alone and both find the threes. A maximum over cells decides
detection here: one odd normal digit is enough for an alarm. The figures of puzzles of the paper's
size are in benchmarks/results/paper/tables.md, by benchmarks/paper.py.
"""

# sphinx_gallery_thumbnail_path = "../benchmarks/results/paper/ir_mnist-full.png"
from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from skavid import AVIDDetector
from skavid.components import Corruption, InpainterNetwork, Postprocessing
from skavid.datasets import load_idx, make_ir_mnist
from skavid.metrics import cell_scores, equal_error_rate
from skavid.plotting import IrregularityDisplay

CELL = 28


def print_table(maps, data, cell):
    """Print detection (images) and localisation (cells) of each network and of both."""
    judged = {"I alone": maps.residual, "D alone": -maps.regularity, "both": maps.evidence}
    print(f"{'':10}{'detection':>20}{'localisation':>20}")
    print(f"{'':10}{'AUC':>11}{'EER':>9}{'AUC':>11}{'EER':>9}")
    for name, irregularity in judged.items():
        cells = cell_scores(irregularity, cell)
        figures = []
        for truth, score in (
            (data.labels, -cells.max(axis=(1, 2))),
            (data.region_labels.ravel(), -cells.ravel()),
        ):
            figures += [roc_auc_score(truth, score), equal_error_rate(truth, score)]
        print("{:10}{:11.3f}{:9.3f}{:11.3f}{:9.3f}".format(name, *figures))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = Path(os.environ.get("SKAVID_DATA", "data")) / "mnist"
    parser.add_argument("--data", type=Path, default=folder, help="folder of MNIST's IDX files")
    parser.add_argument("--output", default="skavid-ir-mnist.png", help="the picture to write")
    parser.add_argument("--images", type=int, default=640, help="training images")
    parser.add_argument("--grid", type=int, default=3, help="digits along each side")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training images")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    digits, labels, test_digits, test_labels = (
        load_idx(arguments.data / f"{part}-{kind}.gz")
        for part in ("train", "t10k")
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    data = make_ir_mnist(
        digits,
        labels,
        test_digits=test_digits,
        test_labels=test_labels,
        n_train=arguments.images,
        n_test=150,
        grid=arguments.grid,
        cell=CELL,
        random_state=arguments.seed,
    )
    print(f"{len(data.train)} training images of {data.train.shape[1:]} pixels, no 3 in any.")
    detector = AVIDDetector(
        max_epochs=arguments.epochs, verbose=1, random_state=arguments.seed, **PARAMETERS
    )
    began = time.perf_counter()
    detector.fit(data.train)
    print(f"\nTrained in {time.perf_counter() - began:.0f} s.\n")
    print_table(detector.maps(data.test), data, CELL)

    odd = np.flatnonzero(data.labels == -1)[:3]
    shown = np.append(odd, np.flatnonzero(data.labels == 1)[0])
    display = IrregularityDisplay.from_estimator(
        detector, data.test[shown], ground_truth=data.masks[shown]
    )
    display.figure_.savefig(arguments.output, dpi=80)
    print(f"\nAnomaly maps: {arguments.output}")


# I fills what is hidden, half a digit at once; maps are averaged over half a digit.
PARAMETERS = {
    "features": "pixels",
    "corruption": Corruption(inpainter="masking", mask_size=(10, 16)),
    "inpainter": InpainterNetwork(patch=1, depth=3, width=12),
    "postprocessing": Postprocessing(smoothing=13),
}

if __name__ == "__main__":
    main()
