"""What a fixed camera finds, and what it cannot find
==================================================

Drawn clips of a walkway, each with something that a guard would want to know of::

    python examples/video_limits.py

The first clips show walkers alone and train the detector; each further clip has one irregularity.
Four of them look or move unlike anything that was seen where they are: someone runs, is twice as
large as others, pushes a cart, or walks on the lawn. Two do not: someone stands still for long,
and someone is there who should not be, and walks as everybody does. The training takes four
minutes of a CPU core, and 1,800 frames of test clips three.

It prints the frame AUC of each kind over several clips, and draws the score of every frame of one
clip per kind, with a frame of it.
"""

# sphinx_gallery_thumbnail_path = "images/video-limits.png"
from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from sklearn.metrics import roc_auc_score

from skavid import VIDEO, AVIDDetector, TemporalStacker
from skavid.datasets import make_moving_shapes

KINDS = {
    "fast": "someone runs", "large": "someone is too large", "shape": "a cart",
    "place": "someone on the lawn", "loiterer": "someone stands still",
    "intruder": "someone who should not be there",
}  # fmt: skip


def draw(test, scores, masks, offset, aucs, output):
    """Draw, per kind, a frame of its first clip, and the scores of all frames of it."""
    figure, axes = plt.subplots(
        len(KINDS), 2, figsize=(9, 1.7 * len(KINDS)), width_ratios=[1, 2.6], layout="constrained"
    )
    for (kind, title), (left, right) in zip(KINDS.items(), axes, strict=True):
        rows = np.flatnonzero(test.clips == test.clips[test.kinds == kind][0])
        irregular = test.labels[rows] == -1
        row = rows[irregular][irregular.sum() // 2]
        left.imshow(test.frames[row], cmap="gray", vmin=0, vmax=255)
        left.contour(test.masks[row], [0.5], colors="lime", linewidths=1)
        if masks[row].any():
            left.contour(masks[row], [0.5], colors="red", linewidths=1)
        left.set(xticks=[], yticks=[])
        times = np.arange(len(rows))
        right.plot(times, scores[rows], color="black", linewidth=1)
        right.axhline(offset, color="red", linewidth=0.8)
        right.fill_between(
            times, 0, 1, where=irregular, step="mid", color="lime", alpha=0.25, linewidth=0,
            transform=right.get_xaxis_transform(),
        )  # fmt: skip
        right.set(xlim=(0, len(rows) - 1), ylim=(scores.min(), scores.max()), ylabel="score")
        right.set_title(f"{title}: frame AUC {aucs[kind]:.0f} %", fontsize=10)
    axes[-1, 1].set_xlabel("frame; green: with the irregularity; irregular below the red line")
    figure.savefig(output / "video-limits.png", dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(), help="folder for the picture")
    parser.add_argument("--clips", type=int, default=3, help="test clips per kind")
    parser.add_argument("--frames", type=int, default=100, help="frames per clip")
    parser.add_argument("--epochs", type=int, default=AVIDDetector().max_epochs)
    arguments = parser.parse_args()
    train = make_moving_shapes(8, arguments.frames, random_state=0)
    test = make_moving_shapes(
        arguments.clips * len(KINDS), arguments.frames, irregular=tuple(KINDS), random_state=1000
    )
    stacker = TemporalStacker()
    detector = AVIDDetector(**VIDEO, random_state=0).set_params(max_epochs=arguments.epochs)
    detector.fit(stacker.fit_transform(train.frames, groups=train.clips), groups=train.clips)
    maps = detector.maps(stacker.transform(test.frames, groups=test.clips))
    scores, masks = maps.scores, maps.mask
    flagged, normal = scores < detector.offset_, test.labels == 1
    aucs = {}
    for kind, title in KINDS.items():
        rows = test.kinds == kind
        aucs[kind] = 100 * roc_auc_score(test.labels[rows], scores[rows])
        found = flagged[rows & ~normal].mean()
        print(f"{title}: frame AUC {aucs[kind]:.0f} %, {found:.0%} of its frames flagged")
    print(f"normal frames: {flagged[normal].mean():.1%} flagged")
    draw(test, scores, masks, detector.offset_, aucs, arguments.output)


if __name__ == "__main__":
    main()

# %%
# .. image:: /images/video-limits.png
#    :alt: A frame and the scores of all frames of a clip with each of six irregularities
