"""UCSD Ped2, Sec. 4 of the paper
==============================

What does not belong on a walkway, frame by frame::

    python examples/ped2.py --data FOLDER

FOLDER is UCSDped2 (default: the folder ucsd_ped2/UCSDped2 in $SKAVID_DATA, or in
data). Frames of 120 x 180 pixels are stacked as in Sec. 3.5; two CPU cores finish
within 10 minutes. Frame level: is anything irregular in the frame? All test frames count, the
first of a clip with its stack filled up by itself; scores are not normalised by clip.

Both networks look at pixels here, as in the paper. `skavid.VIDEO`, which suits other cameras as
well, asks a D of this kind beside networks on features of motion.

It prints how well I alone, D alone and both tell irregular frames and pixels. The figures of a
longer training, with their protocol, are in benchmarks/results/paper/tables.md, by
benchmarks/paper.py.
"""

# sphinx_gallery_thumbnail_path = "../benchmarks/results/paper/ped2-pixels.png"
from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from skavid import AVIDDetector, TemporalStacker
from skavid.components import VIDEO_PIXELS
from skavid.datasets import load_ucsd_ped2
from skavid.metrics import equal_error_rate
from skavid.plotting import IrregularityDisplay


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(os.environ.get("SKAVID_DATA", "data")) / "ucsd_ped2" / "UCSDped2"
    parser.add_argument("--data", type=Path, default=root, help="the folder UCSDped2")
    parser.add_argument("--output", default="skavid-ped2.png", help="the picture to write")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the training frames")
    parser.add_argument("--clips", type=int, default=16, help="how many clips, for a quick look")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    train = load_ucsd_ped2(arguments.data, subset="train", size=(120, 180))
    test = load_ucsd_ped2(arguments.data, subset="test", size=(120, 180))
    for data in (train, test):
        few = data.clips <= arguments.clips
        data.frames, data.labels, data.clips = data.frames[few], data.labels[few], data.clips[few]
        data.masks = None if data.masks is None else data.masks[few]
    stacker = TemporalStacker()
    X = stacker.fit_transform(train.frames, groups=train.clips)
    X_test = stacker.transform(test.frames, groups=test.clips)
    detector = AVIDDetector(
        **VIDEO_PIXELS,
        max_epochs=arguments.epochs,
        verbose=1,
        random_state=arguments.seed,
    )
    began = time.perf_counter()
    detector.fit(X, groups=train.clips)
    print(f"\nTrained in {time.perf_counter() - began:.0f} s.\n")

    maps = detector.maps(X_test)
    judged = {"I alone": maps.residual, "D alone": -maps.regularity, "both": maps.evidence}
    print(f"{'':10}{'frame AUC':>11}{'frame EER':>11}{'pixel AUC':>11}")
    pixels = slice(None, None, 7), slice(None, None, 3), slice(None, None, 3)
    for name, irregularity in judged.items():
        score = -irregularity.max(axis=(1, 2))
        truth = np.where(test.masks[pixels], -1, 1).ravel()
        print(
            f"{name:10}{roc_auc_score(test.labels, score):11.3f}"
            f"{equal_error_rate(test.labels, score):11.3f}"
            f"{roc_auc_score(truth, -irregularity[pixels].ravel()):11.3f}"
        )
    alarms = (maps.evidence.max(axis=(1, 2)) >= 0)[test.labels == 1].mean()
    print(f"\nAlarms on normal test frames: {alarms:.1%} (asked: {detector.target_fpr:.0%})")

    odd = np.flatnonzero(test.labels == -1)
    shown = odd[np.linspace(0, len(odd) - 1, 4).astype(int)]
    display = IrregularityDisplay.from_estimator(
        detector, X_test[shown], ground_truth=test.masks[shown]
    )
    display.figure_.savefig(arguments.output, dpi=80)
    print(f"Anomaly maps: {arguments.output}")


if __name__ == "__main__":
    main()
