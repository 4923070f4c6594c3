"""Find a digit that was never seen
================================

IR-MNIST's idea with scikit-learn's own digits, at a size that a laptop trains in minutes: every
training image is a grid of handwritten digits without a single 3; in the test images some cells
hold one. AVIDDetector is told neither what a digit is nor that there is a grid.

Run it with ``make demo``. It prints how well I alone, D alone and both together find the threes
(AUC: 1 is perfect, 0.5 is chance; EER: 0 is perfect, 0.5 is chance) and draws what they see.
"""

# sphinx_gallery_thumbnail_path = "images/demo.png"
from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from skavid import AVIDDetector
from skavid.datasets import make_ir_mnist
from skavid.metrics import cell_scores, equal_error_rate
from skavid.plotting import IrregularityDisplay

CELL = 16


def print_table(maps, data, cell=CELL):
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
    parser.add_argument("--output", default="skavid-demo.png", help="the picture to write")
    parser.add_argument("--epochs", type=int, default=14, help="passes over the training images")
    parser.add_argument("--images", type=int, default=640, help="training images")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    digits = load_digits()
    data = make_ir_mnist(
        np.pad(digits.images, ((0, 0), (1, 1), (1, 1))),  # a margin, so that digits do not touch
        digits.target,
        n_train=arguments.images,
        n_test=100,
        grid=4,
        cell=CELL,
        random_state=arguments.seed,
    )
    print(f"{len(data.train)} training images of {data.train.shape[1:]} pixels, no 3 in any.")
    print("I restores what was hidden, D finds what was pasted in; a line is an epoch.")
    detector = AVIDDetector(
        max_epochs=arguments.epochs, verbose=1, random_state=arguments.seed, **PARAMETERS
    )
    began = time.perf_counter()
    detector.fit(data.train)
    print(f"\nTrained in {time.perf_counter() - began:.0f} s. Can they find the threes?\n")
    print_table(detector.maps(data.test), data)

    shown = np.append(np.flatnonzero(data.labels == -1)[:3], np.flatnonzero(data.labels == 1)[0])
    display = IrregularityDisplay.from_estimator(
        detector, data.test[shown], truth=data.masks[shown]
    )
    display.figure_.suptitle(
        "skavid was trained on digits without a single 3. What does it make of these?"
    )
    display.figure_.savefig(arguments.output, dpi=80)
    print(f"\nWhat they saw: {arguments.output}")


# I fills what is hidden, half a digit at once; maps are averaged over half a digit; one alarm in
# ten normal images is welcome here.
PARAMETERS = {
    "inpainter_corruption": "hiding",
    "inpainter_patch": 1,
    "inpainter_depth": 3,
    "inpainter_width": 12,
    "hidden_size": (6, 10),
    "smoothing": 9,
    "target_fpr": 0.1,
}

if __name__ == "__main__":
    main()

# %%
# It draws this picture:
#
# .. image:: /images/demo.png
#    :alt: Puzzles of digits, what I restored, what D doubts, and the mask beside the truth
