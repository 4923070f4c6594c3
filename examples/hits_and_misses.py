"""A hit, a miss and a false alarm
===============================

What the default parameters find in real pictures, and what they do not::

    python examples/hits_and_misses.py bsdata deeppcb --data FOLDER

FOLDER ($SKAVID_DATA, or data) holds the data sets by name: aitex, bsdata, deeppcb and elpv with
the folders train/good, test/good, test/FAULT and, except elpv, ground_truth/FAULT; and mtd, the
magnetic tiles. A fit takes one to three minutes of a CPU core.

For each data set it prints how many faults are found and how many faultless pictures are flagged
at the calibrated thresholds (1 % of false alarms requested), and draws a picture of each outcome:
the one with the median score of all hits, of all misses and of all false alarms.
"""

# sphinx_gallery_thumbnail_path = "images/hits-and-misses-bsdata.png"
from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from sklearn.metrics import roc_auc_score
from sklearn.utils import Bunch

from skavid import AVIDDetector
from skavid.datasets import load_folder, load_magnetic_tiles, load_mvtec

SIZES = {
    "aitex": (256, 256), "bsdata": (104, 256), "deeppcb": (160, 160), "elpv": (150, 150),
    "mtd": (128, 128),
}  # fmt: skip
COLOR = {"bsdata"}
OUTCOMES = ("hit", "miss", "false alarm")


def load(folder, name):
    """Return the training images and the labelled test images, with masks where there are some."""
    size = SIZES[name]
    if name == "mtd":
        train, test = (
            load_magnetic_tiles(folder / name, size=size, subset=subset)
            for subset in ("train", "test")
        )
        return train.images, test
    if name == "elpv":  # has labels only
        parts = {
            part.name: load_folder(part, size=size).frames
            for part in sorted((folder / name / "test").iterdir())
        }
        labels = [1 if part == "good" else -1 for part, images in parts.items() for _ in images]
        images = np.concatenate(list(parts.values()))
        train = load_folder(folder / name / "train" / "good", size=size).frames
        return train, Bunch(images=images, labels=np.array(labels), masks=None)
    train, test = (
        load_mvtec(folder / name, subset=subset, size=size, color=name in COLOR)
        for subset in ("train", "test")
    )
    return train.images, test


def draw(name, detector, test, scores, masks, output):
    """Draw a picture per outcome: as it is, with the true fault, and with what was found."""
    flagged = scores < detector.offset_
    rows = {
        "hit": np.flatnonzero(flagged & (test.labels == -1)),
        "miss": np.flatnonzero(~flagged & (test.labels == -1)),
        "false alarm": np.flatnonzero(flagged & (test.labels == 1)),
    }
    height, width = test.images.shape[1:3]
    figure, axes = plt.subplots(
        2, 3, figsize=(9, 0.9 + 6 * height / width), layout="constrained", squeeze=False
    )
    for outcome, (above, below) in zip(OUTCOMES, axes.T, strict=True):
        for axis in (above, below):
            axis.set_xticks([])
            axis.set_yticks([])
        if not len(rows[outcome]):
            above.set_title(f"{outcome}: none", fontsize=10)
            for axis in (above, below):
                axis.set_frame_on(False)
            continue
        row = rows[outcome][np.argsort(scores[rows[outcome]])[len(rows[outcome]) // 2]]
        for axis in (above, below):
            axis.imshow(test.images[row], cmap="gray", vmin=0, vmax=255)
        above.set_title(f"{outcome}: score {scores[row]:.2f}", fontsize=10)
        if test.masks is not None and test.masks[row].any():
            above.contour(test.masks[row], [0.5], colors="lime", linewidths=1.2)
        if masks[row].any():
            below.contour(masks[row], [0.5], colors="red", linewidths=1.2)
    axes[0, 0].set_ylabel("annotated (green)", fontsize=8)
    axes[1, 0].set_ylabel("found (red)", fontsize=8)
    figure.suptitle(
        f"{name}: irregular at scores of 0 or less (alpha {detector.alpha_:.3g}, "
        f"zeta {detector.zeta_:.3g})",
        fontsize=10,
    )
    figure.savefig(output, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=sorted(SIZES), help="data sets")
    root = Path(os.environ.get("SKAVID_DATA", "data"))
    parser.add_argument("--data", type=Path, default=root, help="the folder of all data sets")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for the pictures")
    parser.add_argument("--epochs", type=int, default=AVIDDetector().max_epochs)
    arguments = parser.parse_args()
    for name in arguments.names:
        train, test = load(arguments.data, name)
        detector = AVIDDetector(max_epochs=arguments.epochs, random_state=0)
        began = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a detector that finds nothing is shown
            detector.fit(train)
        seconds = time.process_time() - began
        scores, masks = detector.score_samples(test.images), detector.segment(test.images)
        found, normal = scores < detector.offset_, test.labels == 1
        print(
            f"{name}: {len(train)} pictures trained on in {seconds:.0f} CPU seconds; AUC "
            f"{roc_auc_score(test.labels, scores):.3f}; {found[~normal].sum()} of "
            f"{(~normal).sum()} faults found, {found[normal].sum()} of {normal.sum()} faultless "
            "pictures flagged"
        )
        draw(name, detector, test, scores, masks, arguments.output / f"hits-and-misses-{name}.png")


if __name__ == "__main__":
    main()

# %%
# It draws such a picture of each data set. This one is of ball screws (BSData, Schlagenhauf,
# Landwehr and Fleischer, 2021), and is therefore under its licence, CC BY-SA 4.0:
#
# .. image:: /images/hits-and-misses-bsdata.png
#    :alt: A hit, a miss and a false alarm on ball screws, with annotated and found faults outlined
