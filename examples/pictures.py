"""Every picture of skavid.plotting
================================

Drawn from one small training::

    python examples/pictures.py

As in examples/demo.py the images are puzzles of scikit-learn's digits; here some digits of the
test images are crossed out, which a training of half a minute finds. The test images are put in an
order, as if they came by on a belt, the spoilt ones in runs. ``--style dark_background``, or any
other style of matplotlib, draws the same in other colours.
"""

# sphinx_gallery_thumbnail_path = "images/pictures-scores.png"
from __future__ import annotations

import argparse
import time

import numpy as np
from matplotlib import style
from sklearn.datasets import load_digits

from skavid import AVIDDetector
from skavid.datasets import make_ir_mnist
from skavid.plotting import (
    HistoryDisplay,
    IrregularityDisplay,
    RocDisplay,
    ScoreOverTimeDisplay,
    ThresholdPlaneDisplay,
)


def make_puzzles(n_train, seed):
    """Make puzzles of digits; the threes, which no training image holds, are crossed out."""
    digits = load_digits()
    pictures = digits.images.copy()
    spoilt = digits.target == 3
    pictures[spoilt] = np.maximum(pictures[spoilt], 12 * np.eye(8))
    pictures = np.pad(pictures, ((0, 0), (1, 1), (1, 1)))
    return make_ir_mnist(
        pictures,
        digits.target,
        n_train=n_train,
        n_test=120,
        grid=3,
        cell=16,
        random_state=seed,
    )


def draw(detector, data):
    """Yield the name and the figure of each picture."""
    normal, irregular = (np.flatnonzero(data.labels == label) for label in (1, -1))
    belt = [normal[:20], irregular[:15], normal[20:30], irregular[15:], normal[30:]]
    order = np.concatenate(belt)
    X, y, masks = data.test[order], data.labels[order], data.masks[order]
    shifts = np.repeat(["morning", "noon", "evening"], 40)
    shown = [0, *np.flatnonzero(y == -1)[:2]]

    display = IrregularityDisplay.from_estimator(detector, X[shown], ground_truth=masks[shown])
    yield "irregularity", display.figure_

    display = ScoreOverTimeDisplay.from_estimator(detector, X, labels=y, groups=shifts)
    yield "scores", display.figure_

    maps, ax = detector.maps(X), None
    for name, scores in (
        ("I alone", -maps.residual.max(axis=(1, 2))),
        ("D alone", maps.regularity.min(axis=(1, 2))),
        ("both", detector.score_samples(X)),
    ):
        ax = RocDisplay.from_predictions(y, scores, name=name, ax=ax).ax_
    yield "roc", ax.figure

    yield "plane", ThresholdPlaneDisplay.from_estimator(detector, X, y).figure_
    yield "history", HistoryDisplay.from_estimator(detector).figure_


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="skavid-", help="how the names of the pictures begin")
    parser.add_argument("--style", default="default", help="a style of matplotlib")
    parser.add_argument("--epochs", type=int, default=14, help="passes over the training images")
    parser.add_argument("--images", type=int, default=200, help="training images")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    data = make_puzzles(arguments.images, arguments.seed)
    detector = AVIDDetector(
        max_epochs=arguments.epochs, target_fpr=0.05, random_state=arguments.seed
    )
    began = time.perf_counter()
    detector.fit(data.train)
    print(f"Trained in {time.perf_counter() - began:.0f} s.")
    with style.context(arguments.style):
        for name, figure in draw(detector, data):
            path = f"{arguments.output}{name}.png"
            figure.savefig(path, dpi=70)
            print(path)


if __name__ == "__main__":
    main()
