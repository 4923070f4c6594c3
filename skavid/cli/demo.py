"""``skavid demo``: run fit and segment on a synthetic scene."""

from __future__ import annotations

import argparse

from skavid import datasets
from skavid.cli.console import SUCCESS, Console
from skavid.cli.entry import main
from skavid.video import write_overlay
from skavid.wording import clock
from skavid.writing import check_parent

__all__: list[str] = []  # a part of the command line: nothing here is promised to users


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Draw videos, train on normal ones, and segment another."""
    folder = arguments.folder
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; give the name of a new folder.")
    check_parent(folder)
    folder.mkdir()
    console.log(f"Drawing normal videos of pedestrians, and one with a cart, in {folder}")
    normal = datasets.make_moving_shapes(16, 80, random_state=0)
    today = datasets.make_moving_shapes(1, 300, irregular="shape", share=0.3, random_state=1)
    (folder / "normal").mkdir()
    for clip in range(16):
        frames = normal.frames[normal.clips == clip]
        write_overlay(folder / "normal" / f"{clip:02d}.mp4", frames)
    write_overlay(folder / "today.mp4", today.frames)
    model, overlay = folder / "model", folder / "odd.mp4"
    flags = [flag for flag in ("--quiet", "--verbose", "--json") if getattr(arguments, flag[2:])]
    epochs = ["--epochs", str(arguments.epochs)]
    for command in (
        ["fit", str(folder / "normal"), str(model), "--seed", "0", *epochs],
        ["segment", str(model), str(folder / "today.mp4"), "--overlay", str(overlay)],
    ):
        console.log(f"\n$ skavid {' '.join(command)}")
        code = main([*command, *flags])
        if code != SUCCESS:
            return code
    times = [index / 25 for index, label in enumerate(today.labels) if label == -1]
    console.log(
        f"\nGround truth: the cart is visible from {clock(times[0])} to {clock(times[-1])}. See "
        f"{overlay}."
    )
    return SUCCESS
