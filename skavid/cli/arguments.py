"""Arguments that several commands share, types of arguments, and messages about wrong ones."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from skavid.cli.console import BAD_INPUT

__all__: list[str] = []  # a part of the command line: nothing here is promised to users


class Dataset(NamedTuple):
    """A data set that --dataset knows: whether it is video, and the size to train on."""

    is_video: bool
    size: tuple[int, int]


MOST_SIDE = 2**15  # pixels

DATASETS = {
    "avenue": Dataset(True, (120, 214)),
    "magnetic-tiles": Dataset(False, (128, 128)),
    "mvtec": Dataset(False, (256, 256)),
    "shanghaitech": Dataset(True, (120, 214)),
    "ucsd-ped1": Dataset(True, (120, 180)),
    "ucsd-ped2": Dataset(True, (120, 180)),
    "umn": Dataset(True, (120, 160)),
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question for the known word that is most like another one, or nothing."""
    import difflib  # which only errors need

    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""


class Parser(argparse.ArgumentParser):
    """A parser that reports wrong arguments in one line and suggests similar options."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Report unknown arguments by the name of the command, not by that of the program."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._advice(unknown[0])}")
        return known, unknown

    def _advice(self, unknown: str) -> str:
        if not unknown.startswith("-"):
            return "; give all sources one after another, without an option between them"
        advice = did_you_mean(unknown.partition("=")[0], self._option_string_actions)
        return advice and f"; {advice}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Suggest the command that is most like an unknown one."""
        if isinstance(value, str) and action.choices is not None and value not in action.choices:
            advice = did_you_mean(value, action.choices)
            if advice:
                raise argparse.ArgumentError(action, f"there is no {value!r}; {advice}")
        super()._check_value(action, value)

    def error(self, message: str) -> Any:
        """Print one line, and exit."""
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see `{self.prog} --help`)\n")


def whole_number(least: int, most: float = math.inf) -> Callable[[str], int]:
    """Return a type of arguments: integers from ``least`` to ``most``."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            limit = "" if most == math.inf else f" and at most {most:,}"
            raise argparse.ArgumentTypeError(
                f"must be an integer of at least {least}{limit}, not {text!r}"
            )
        return value

    return convert


def width_x_height(text: str) -> tuple[int, int]:
    """Convert 256x128, a width and a height in pixels, to (128, 256)."""
    try:
        width, height = (int(side) for side in text.lower().split("x"))
    except ValueError:
        width = height = 0
    if not 8 <= min(width, height) <= max(width, height) <= MOST_SIDE:
        raise argparse.ArgumentTypeError(
            "must be a width and a height in pixels such as 256x128, each at least 8 and at most "
            f"{MOST_SIDE:,}, not {text!r}"
        )
    return height, width


def positive_number(text: str) -> float:
    """Convert an argument to a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def share(text: str) -> float:
    """Convert an argument to a number between 0 and 1."""
    value = positive_number(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and below 1, not {text!r}")
    return value


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the model that a command reads."""
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="model file written by `skavid fit`"
    )


def add_inputs(parser: argparse.ArgumentParser, n_sources: str = "+") -> None:
    """Add the model and the sources that it scores, the pixels to ignore and the device."""
    add_model(parser)
    parser.add_argument("sources", nargs=n_sources, metavar="SOURCE", help="images or videos")
    add_reading(parser)


def add_dataset(parser: argparse.ArgumentParser, use: str) -> None:
    """Add --dataset."""
    parser.add_argument(
        "--dataset",
        choices=list(DATASETS),
        metavar="NAME",
        help=f"{use} a known data set, whose folder is SOURCE (for mvtec, the folder of one "
        f"category): {', '.join(DATASETS)}",
    )


def add_target_fpr(parser: argparse.ArgumentParser, default: float | None = 0.01) -> None:
    """Add --target-fpr; with ``default=None`` the command tells whether it was given."""
    parser.add_argument(
        "--target-fpr",
        type=share,
        default=default,
        metavar="SHARE",
        help="share of normal images that may be flagged as irregular (default: 0.01); n images "
        "support rates of at least 1 / (n + 1), so that 0.01 needs 99",
    )


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Add --labels."""
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE|folders",
        help="text file with one label per line, normal or irregular (or 1 and -1), or with the "
        "name of an image and its label (NAME,LABEL); or the word folders: images in folders "
        "called good, ok, okay, normal, regular or free are normal, "
        "all others irregular",
    )


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add --force."""
    parser.add_argument(
        "--force", action="store_true", help="replace files that exist; folders must be new"
    )


def add_ground_truth(parser: argparse.ArgumentParser) -> None:
    """Add the options that give ground truth."""
    add_dataset(parser, "score the test part of")
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="FOLDER",
        help="folder of mask images, or .npy file of masks; nonzero pixels are irregular",
    )
    add_labels(parser)


def add_average_frames(parser: argparse.ArgumentParser) -> None:
    """Add --average-frames."""
    parser.add_argument(
        "--average-frames",
        type=whole_number(1),
        default=1,
        metavar="N",
        help="average the evidence of each frame with that of the N - 1 frames before it "
        "(default: 1)",
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add --fps, --ignore and --device."""
    add = parser.add_argument
    add(
        "--fps",
        type=positive_number,
        metavar="RATE",
        help="frames per second of folders of images that are frames of a video (default: 25)",
    )
    add(
        "--ignore",
        type=Path,
        metavar="MASK.png",
        help="image of the size of the source; pixels that are not black are ignored",
    )
    add(
        "--device",
        default="auto",
        metavar="DEVICE",
        help="cpu, cuda, cuda:1... (default: a GPU if there is one)",
    )


def k_of_n(text: str) -> tuple[int, int]:
    """Convert 3/5 to (3, 5)."""
    try:
        needed, last = (int(part) for part in text.split("/"))
    except ValueError:
        needed, last = 0, 0
    if not 1 <= needed <= last:
        raise argparse.ArgumentTypeError(
            f"must be two integers such as 3/5, the first at least 1 and at most the second, "
            f"not {text!r}"
        )
    return needed, last


def add_events(parser: argparse.ArgumentParser) -> None:
    """Add --max-gap and --persistence."""
    parser.add_argument(
        "--max-gap",
        type=positive_number,
        default=2.0,
        metavar="SECONDS",
        help="end an event after this time without an irregular frame (default: 2)",
    )
    parser.add_argument(
        "--persistence",
        type=k_of_n,
        default=(1, 1),
        metavar="K/N",
        help="begin an event once K of the last N frames are irregular (default: 1/1)",
    )
