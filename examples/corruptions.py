"""Look at what the networks learn from
=====================================

Each family of corruption, on puzzles of digits::

    python examples/corruptions.py

Columns: the clean image; what is made of it; where it was corrupted (white); how much each pixel
counts when D is taught (black: undecided).
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from matplotlib import pyplot
from sklearn.datasets import load_digits

from skavid.core.corruption import CORRUPTIONS
from skavid.datasets import make_ir_mnist


def main():
    parser = argparse.ArgumentParser(description="Draw what the networks learn from.")
    parser.add_argument("--output", default="skavid-corruptions.png", help="the picture to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    digits = load_digits()
    pictures = np.pad(digits.images, ((0, 0), (1, 1), (1, 1)))
    data = make_ir_mnist(pictures, digits.target, n_train=16, n_test=2, grid=4, cell=16)
    images = torch.from_numpy(data.train[:, None] / 255).float()
    generator = torch.Generator().manual_seed(arguments.seed)

    figure, axes = pyplot.subplots(3 * len(CORRUPTIONS), 4, figsize=(6, 17), layout="constrained")
    rows = iter(axes)
    for name, corrupt in CORRUPTIONS.items():
        made = corrupt(images, gamma=0.4, generator=generator)
        busiest = made.where.sum((1, 2)).argsort(descending=True)[:3].tolist()
        for index in busiest if name == "synthetic" else range(3):
            row = next(rows)
            shown = (images[index, 0], made.images[index, 0])
            shown += (made.where[index], made.weight[index])
            for ax, picture in zip(row, shown, strict=True):
                ax.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1)
                ax.set(xticks=[], yticks=[])
            row[0].set_ylabel(name)
    for ax, title in zip(axes[0], ("clean", "corrupted", "where", "weight"), strict=True):
        ax.set_title(title)
    figure.savefig(arguments.output, dpi=60)
    print(f"What they learn from: {arguments.output}")


if __name__ == "__main__":
    main()
