"""Find coins in a wall
====================

A photograph of a brick wall, which comes with scikit-image, is cut into 100 tiles. AVIDDetector
learns from 70 of them what the wall looks like; copies of the others get a coin, cut from another
photograph, to be found. Nobody tells the detector what a brick or a coin is.

Run it with ``make demo``. It prints how well I alone, D alone and both together tell tiles with a
coin from those without (AUC: 1 is perfect, 0.5 is chance) and draws what they see.
"""

# sphinx_gallery_thumbnail_path = "images/demo.png"
from __future__ import annotations

import argparse
import time

import numpy as np
from scipy import ndimage
from skimage import data, filters, transform
from sklearn.metrics import roc_auc_score

from skavid import AVIDDetector
from skavid.metrics import aupro_score
from skavid.plotting import IrregularityDisplay

SIDE, COIN, N_TRAIN = 48, 18, 70  # pixels, pixels, tiles


def cut_tiles(image):
    """Cut an image into tiles, row by row."""
    n1, n2 = (length // SIDE for length in image.shape)
    tiles = image[: n1 * SIDE, : n2 * SIDE].reshape(n1, SIDE, n2, SIDE)
    return tiles.swapaxes(1, 2).reshape(-1, SIDE, SIDE)


def cut_coins():
    """Cut the coins out of scikit-image's photograph: their pixels, and where they are."""
    photograph = data.coins()
    bright = photograph > filters.threshold_otsu(photograph)
    labels, _ = ndimage.label(ndimage.binary_fill_holes(ndimage.binary_opening(bright, None, 2)))
    coins = []
    for index, place in enumerate(ndimage.find_objects(labels), start=1):
        shape = labels[place] == index
        if shape.sum() > 900 and min(shape.shape) > 0.7 * max(shape.shape):  # no reflections
            scale = COIN / max(shape.shape)
            pixels = transform.rescale(photograph[place], scale, preserve_range=True)
            coins.append((pixels, transform.rescale(shape.astype(float), scale) > 0.5))
    return coins


def lay(coins, tiles, rng):
    """Lay a coin on each tile; return the tiles and the masks of the coins."""
    tiles, masks = tiles.copy(), np.zeros(tiles.shape, dtype=bool)
    for index, (tile, mask) in enumerate(zip(tiles, masks, strict=True)):
        pixels, shape = coins[index % len(coins)]
        top, left = rng.integers(4, SIDE - COIN - 4, 2)
        place = slice(top, top + shape.shape[0]), slice(left, left + shape.shape[1])
        tile[place][shape] = pixels[shape]
        mask[place] = shape
    return tiles, masks


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="skavid-demo.png", help="the picture to write")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of ten batches for D")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    rng = np.random.default_rng(arguments.seed)
    tiles = rng.permutation(cut_tiles(data.brick()))
    train, plain = tiles[:N_TRAIN], tiles[N_TRAIN:]
    with_coin, masks = lay(cut_coins(), plain, rng)
    X = np.concatenate([plain, with_coin])
    labels = np.repeat([1, -1], len(plain))
    truth = np.concatenate([np.zeros_like(masks), masks])

    print(f"{len(train)} tiles of a wall to learn from, {SIDE} x {SIDE} pixels, no coin on any.")
    detector = AVIDDetector(
        target_fpr=0.05, max_epochs=arguments.epochs, random_state=arguments.seed
    )
    began = time.perf_counter()
    detector.fit(train)
    print(f"Trained in {time.perf_counter() - began:.0f} s.")

    maps = detector.maps(X)
    judged = {"I alone": maps.residual, "D alone": -maps.regularity, "both": maps.evidence}
    print(f"\n{len(plain)} new tiles without and {len(plain)} with a coin:")
    for name, irregularity in judged.items():
        auc = roc_auc_score(labels == -1, irregularity.max(axis=(1, 2)))
        aupro = aupro_score(truth, irregularity)
        print(f"{name:8} AUC of tiles {auc:.3f}, AUPRO of pixels {aupro:.3f}")
    found = detector.predict(X) == -1
    print(
        f"At the calibrated thresholds: {found[labels == -1].sum()} of {len(plain)} coins found, "
        f"{found[labels == 1].sum()} false alarms."
    )

    shown = [0, *(len(plain) + np.arange(4))]
    display = IrregularityDisplay.from_estimator(detector, X[shown], ground_truth=truth[shown])
    display.figure_.suptitle(
        "skavid was trained on a bare brick wall. What does it make of coins?"
    )
    display.figure_.savefig(arguments.output, dpi=80)
    print(f"\nAnomaly maps: {arguments.output}")


if __name__ == "__main__":
    main()

# %%
# It draws this picture:
#
# .. image:: /images/demo.png
#    :alt: Tiles of a wall, what I restored, what both networks say, and the coins that were found
