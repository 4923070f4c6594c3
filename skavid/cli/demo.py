"""``skavid demo``: run fit, segment, evaluate and report on drawn pictures of a fabric."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from skavid.cli.console import SUCCESS, Console
from skavid.cli.entry import main
from skavid.video.pictures import import_pillow
from skavid.writing import check_parent

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

N_NORMAL, N_NEW = 100, 20  # pictures to train on; new ones without a fault
N_PER_FAULT = 5
SIDE, PITCH = 128, 8  # of a picture, and from thread to thread, in pixels
FAULTS = ("hole", "stain", "loose_thread", "missing_thread")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Draw pictures, train on normal ones, and find, measure and show the faults of others."""
    folder = arguments.folder
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; give the name of a new folder.")
    check_parent(folder)
    import_pillow()
    normal, new, masks = (folder / name for name in ("normal", "new", "new-masks"))
    console.log(
        f"Drawing {N_NORMAL} pictures of a faultless fabric, and {N_NEW} new ones without and "
        f"{N_PER_FAULT * len(FAULTS)} with a fault, in {folder}"
    )
    rng = np.random.default_rng(0)
    _draw(normal, N_NORMAL, "", rng)
    _draw(new / "good", N_NEW, "", rng)
    for fault in FAULTS:
        _draw(new / fault, N_PER_FAULT, fault, rng, masks / fault)
    model = str(folder / "model")
    flags = [flag for flag in ("--quiet", "--verbose", "--json") if getattr(arguments, flag[2:])]
    epochs = [] if arguments.epochs is None else ["--epochs", str(arguments.epochs)]
    truth = ["--masks", str(masks)]
    for command in (
        ["fit", str(normal), model, "--set", "features=patches", *epochs],
        ["segment", model, str(new), "--overlay", str(folder / "marked")],
        ["evaluate", model, str(new), *truth],
        ["report", model, str(new), *truth, "--output", str(folder / "report.html")],
    ):
        console.log(f"\n$ skavid {' '.join(command)}")
        code = main([*command, *flags])
        if code != SUCCESS:
            return code
    console.log(
        f"\nThese pictures were drawn: the figures say nothing about other data. Look at "
        f"{folder / 'marked'}, and open {folder / 'report.html'} in a browser."
    )
    return SUCCESS


def _draw(
    folder: Path, n: int, fault: str, rng: np.random.Generator, masks: Path | None = None
) -> None:
    """Write pictures, and the masks of their faults."""
    image = import_pillow()
    folder.mkdir(parents=True)
    if masks is not None:
        masks.mkdir(parents=True)
    for index in range(n):
        picture, mask = _draw_fabric(fault, rng)
        image.fromarray(picture).save(folder / f"{index:03d}.png")
        if masks is not None:
            image.fromarray(mask).save(masks / f"{index:03d}.png")


def _draw_fabric(
    fault: str, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw a plain weave whose threads are uneven, somewhere on the cloth; and the mask."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    bend = [gaussian_filter(rng.normal(size=(SIDE, SIDE)), 12) * 20 for _ in range(2)]
    along, across = y + bend[0] + rng.uniform(0, PITCH), x + bend[1] + rng.uniform(0, PITCH)
    row, column = np.floor(along / PITCH).astype(int), np.floor(across / PITCH).astype(int)
    over = (row + column) % 2 == 0  # whether the horizontal thread lies above
    depth = np.where(over, np.sin(np.pi * along / PITCH), np.sin(np.pi * across / PITCH)) ** 2
    tints = rng.normal(0, 5, (2, SIDE))  # of each thread
    tint = np.where(over, tints[0][row], tints[1][column])
    cloth = 95 + 70 * depth + tint
    center = rng.uniform(0.2 * SIDE, 0.8 * SIDE, 2)
    distance = np.hypot(y - center[0], x - center[1])
    ragged = gaussian_filter(rng.normal(size=(SIDE, SIDE)), 3) * 12
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    if fault == "hole":
        mask = distance + ragged < rng.uniform(4, 8)
        cloth[mask] = 40
    elif fault == "stain":
        mask = distance + ragged < rng.uniform(8, 14)
        cloth -= rng.uniform(15, 45) * gaussian_filter(mask.astype(float), 1.5)
    elif fault == "loose_thread":
        curve = (
            center[0] + 10 * np.sin(x / rng.uniform(8, 16)) + rng.uniform(-1, 1) * (x - SIDE / 2)
        )
        mask = (abs(y - curve) < 1.2) & (abs(x - center[1]) < rng.uniform(10, 30))
        cloth[mask] = 205
    elif fault == "missing_thread":
        mask = row == row[int(center[0]), int(center[1])]
        cloth[mask & over] = 60
    light = 1 + 0.05 * gaussian_filter(rng.normal(size=(SIDE, SIDE)), 30) * 60
    noisy = gaussian_filter(cloth, 0.7) * light + rng.normal(0, 3, cloth.shape)
    return np.round(noisy).clip(0, 255).astype(np.uint8), mask
