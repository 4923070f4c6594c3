"""The command line: from a video of a fixed camera to its odd moments in two commands.

It imports neither torch nor scikit-learn: ``skavid --help`` waits for nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from skavid import __version__
from skavid.cli import commands
from skavid.cli.commands import DATASETS
from skavid.cli.console import BAD_INPUT, FINE, INTERRUPTED, UNEXPECTED, Console, sigterm

__all__ = ["main"]

SOURCES = """\
A source is a video, a folder of videos, a folder of pictures (those in folders below it, too), a
picture, or an .npy file of images (n, height, width[, channels])."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, default=None
        What stands behind ``skavid``; None takes it from the command line.

    Returns
    -------
    code : int
        0 where all went well; 2 for bad input, which one line on the standard error describes;
        130 after Ctrl-C; 143 after SIGTERM; 1 for what is unexpected.

    Examples
    --------
    >>> from skavid.cli import main
    >>> main(["info", "no-such-model"])
    2
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as asked:
        return int(asked.code or 0)
    console = Console(arguments)
    try:
        with sigterm(), console.notes():
            code: int = arguments.run(arguments, console)
            sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        console.error("interrupted; nothing was written.")
        return INTERRUPTED
    except SystemExit as ended:  # by SIGTERM
        return int(ended.code or 0)
    except BrokenPipeError:  # `skavid score ... | head` has seen enough
        _let_go_of_output()
        return FINE
    except (ValueError, OSError, ImportError) as error:
        if arguments.verbose:
            traceback.print_exc()
        console.error(_words(error))
        try:
            sys.stdout.flush()
        except OSError:  # Python would try again at its end, and tell of that
            _let_go_of_output()
        return BAD_INPUT
    except Exception:
        traceback.print_exc()
        console.error(
            "this is a mistake in skavid; please report it, with what `skavid info` says."
        )
        return UNEXPECTED


def _words(error: Exception) -> str:
    """Tell what is wrong; of what the system says leave out its number."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{error.strerror}."


def _let_go_of_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is unknown to this command; argparse would, in the name of `skavid`."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._mend(unknown[0])}")
        return known, unknown

    def _mend(self, unknown: str) -> str:
        if not unknown.startswith("-"):
            return "; sources stand side by side, and no option between them"
        import difflib

        options = self._option_string_actions
        near = difflib.get_close_matches(unknown.partition("=")[0], options, n=1)
        return f"; did you mean {near[0]}?" if near else ""

    def error(self, message: str) -> Any:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (`{self.prog} --help` shows how)\n")


def _whole(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {least} on, not {text!r}"
            )
        return value

    return whole


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and below 1, not {text!r}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="skavid",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Find what does not belong in pictures and videos, after training on normal "
        "ones alone.",
        epilog="""\
two commands, from videos of a fixed camera to its odd moments:
  skavid fit normal.mp4 model
  skavid segment model today.mp4 --overlay odd.mp4

`skavid COMMAND --help` has examples. Exit codes: 0 fine, 2 bad input, 130 after Ctrl-C, 143 after
SIGTERM, 1 a mistake in skavid.""",
    )
    parser.add_argument("--version", action="version", version=f"skavid {__version__}")
    added = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands"
    )
    for add in (
        _add_fit,
        _add_score,
        _add_segment,
        _add_calibrate,
        _add_evaluate,
        _add_report,
        _add_watch,
        _add_export,
        _add_demo,
        _add_info,
    ):
        add(added)
    return parser


def _command(
    added: Any,
    run: Callable[[argparse.Namespace, Console], int],
    summary: str,
    about: str,
    show: str,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = added.add_parser(
        run.__name__,
        help=summary,
        description=about,
        epilog=f"examples:\n{show}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    said = parser.add_argument_group("what is said")
    said.add_argument("--json", action="store_true", help="give the result as JSON")
    level = said.add_mutually_exclusive_group()
    level.add_argument("--quiet", action="store_true", help="no progress, no notes")
    level.add_argument("--verbose", action="store_true", help="more of what goes on")
    return parser


def _add_fit(added: Any) -> None:
    parser = _command(
        added,
        commands.fit,
        "train on normal pictures or videos, and write a model",
        f"""\
Train on normal pictures or videos, and write a model.

{SOURCES}

Videos are brought to a height of 120 pixels, pictures to a longest side of 256, unless they are
smaller. Three moments of a video make an image (Sec. 3.5 of the paper). A few long clips are cut
into pieces of up to a minute, some of which are held out to find the thresholds. The model
remembers how its sources were read. Without --epochs about 100,000 images are looked at, in 4 to
40 epochs.""",
        """\
  skavid fit normal.mp4 model                      a video of a fixed camera
  skavid fit monday.mp4 tuesday.mp4 model --ignore clock.png
  skavid fit good-parts/ model --size 128 128      a folder of pictures
  skavid fit frames/ model --video                 pictures that are frames of a video
  skavid fit UCSDped2/ model --dataset ucsd-ped2   the training part of a data set
  skavid fit mvtec/bottle/ model --dataset mvtec   that of one category
  skavid fit normal.mp4 model --checkpoint state   may be killed, and goes on
  skavid fit normal.mp4 model --set detector__width=32 --set fusion=min""",
    )
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="normal pictures or videos")
    add("model", type=Path, metavar="MODEL", help="the file to write")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--video", action="store_true", help="pictures or arrays are frames in their order"
    )
    kind.add_argument(
        "--images", action="store_true", help="the frames of a video are single images"
    )
    _add_dataset(parser, "train on the training part of a data set, of which SOURCE is the folder")
    add(
        "--size",
        nargs=2,
        type=_whole(8),
        metavar=("HEIGHT", "WIDTH"),
        help="bring all to this size, in pixels",
    )
    add("--grey", action="store_true", help="leave colours out; videos are grey anyway")
    add("--epochs", type=_whole(1), metavar="N", help="how often to look at each image")
    add(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="keep the state of the training there after each epoch; the same command goes on "
        "from it after a crash or Ctrl-C",
    )
    _add_target(parser)
    add("--seed", type=_whole(0), default=0, metavar="N", help="of what is random (default: 0)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of AVIDDetector; may be given more than once",
    )
    _add_looking(parser, average_frames=False)


def _add_score(added: Any) -> None:
    parser = _command(
        added,
        commands.score,
        "score pictures or frames, as CSV or Parquet",
        f"""\
Score pictures or frames: a row each, irregular where the score is 0 or less.

{SOURCES}""",
        """\
  skavid score model today.mp4 > scores.csv
  skavid score model today.mp4 --output scores.parquet --average-frames 5
  skavid score model parts/ --json | grep true""",
    )
    _add_model(parser, "SOURCE")
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        metavar="FILE",
        help="a .csv, .jsonl or .parquet file (default: CSV to the standard output)",
    )
    _add_looking(parser)


def _add_segment(added: Any) -> None:
    parser = _command(
        added,
        commands.segment,
        "show what is irregular: overlays, masks, boxes",
        f"""\
Show what is irregular, pixel by pixel, and list the odd moments of videos. Boxes, areas and masks
are in pixels of the pictures as they are, whatever size the model looks at.

{SOURCES}""",
        """\
  skavid segment model today.mp4                   lists the odd moments
  skavid segment model today.mp4 --overlay odd.mp4
  skavid segment model parts/ --masks masks --coco boxes.json
  skavid segment model today.mp4 --overlay odd.mp4 --average-frames 5 --ignore road.png""",
    )
    _add_model(parser, "SOURCE")
    add = parser.add_argument
    add(
        "--overlay",
        type=Path,
        metavar="FILE.mp4|FOLDER",
        help="regularity, mask and scores over what was seen: a video, or a folder of pictures",
    )
    add(
        "--masks",
        type=Path,
        metavar="FOLDER",
        help="a png for each image, white where it is irregular; a new folder",
    )
    add(
        "--coco",
        type=Path,
        metavar="FILE.json",
        help="boxes, areas, peaks and masks of irregular patches, in the form of COCO",
    )
    add("--scores", type=Path, metavar="FILE", help="a .csv, .jsonl or .parquet file of scores")
    _add_patience(parser)
    _add_looking(parser)


def _add_calibrate(added: Any) -> None:
    parser = _command(
        added,
        commands.calibrate,
        "find new thresholds on normal data, without training",
        f"""\
Find new thresholds on normal data that was not trained on, without training.

{SOURCES}""",
        """\
  skavid calibrate model first-week.mp4
  skavid calibrate model first-week.mp4 --target-fpr 0.001 --output strict-model""",
    )
    _add_model(parser, "SOURCE")
    _add_target(parser)
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        metavar="MODEL",
        help="write another model (default: this one gets the thresholds)",
    )
    _add_looking(parser, average_frames=False)


def _add_evaluate(added: Any) -> None:
    parser = _command(
        added,
        commands.evaluate,
        "measure a model on data of which the truth is known",
        f"""\
Measure a model on data of which the truth is known.

{SOURCES}""",
        """\
  skavid evaluate model UCSDped2/ --dataset ucsd-ped2
  skavid evaluate model test/ --masks ground_truth/      masks named as their pictures
  skavid evaluate model today.mp4 --masks masks/         as many masks as frames
  skavid evaluate model today.mp4 --labels labels.txt    normal or irregular, one a line""",
    )
    _add_model(parser, "SOURCE")
    _add_truth(parser)
    _add_looking(parser)


def _add_report(added: Any) -> None:
    parser = _command(
        added,
        commands.report,
        "write a page that shows a model at work, with thresholds to move",
        f"""\
Write one HTML file that shows a model at work: what it was trained on, its worst images, scores
over time, figures where the truth is known, and thresholds on sliders that redraw the masks. It
opens in any browser and fetches nothing.

{SOURCES}""",
        """\
  skavid report model today.mp4
  skavid report model parts/ --output parts.html --worst 24
  skavid report model UCSDped2/ --dataset ucsd-ped2 --output ped2.html""",
    )
    _add_model(parser, "SOURCE")
    add = parser.add_argument
    add(
        "--output",
        "-o",
        type=Path,
        default=Path("report.html"),
        metavar="FILE.html",
        help="the page to write (default: report.html)",
    )
    add("--title", metavar="TEXT", help="its headline")
    add(
        "--worst",
        type=_whole(1),
        default=12,
        metavar="N",
        help="how many images to show, the most irregular ones (default: 12)",
    )
    _add_truth(parser)
    _add_looking(parser, average_frames=False)


def _add_watch(added: Any) -> None:
    parser = _command(
        added,
        commands.watch,
        "watch a camera, and tell of events as they happen",
        """\
Watch a camera, and tell of events as they happen: a line of JSON when one begins, and one when it
ends, with start, end and peak in seconds, boxes and a snapshot. A camera that is lost is tried
again. A file is played at its own speed.""",
        """\
  skavid watch model 0                                   the first camera
  skavid watch model rtsp://camera/stream >> events.jsonl
  skavid watch model today.mp4 --as-fast-as-possible
  skavid watch model 0 --average-frames 5 --webhook https://example.org/alarm""",
    )
    add = parser.add_argument
    _add_model(parser, None)
    add("source", metavar="SOURCE", help="the number of a camera, a network address, or a video")
    add(
        "--snapshots",
        type=Path,
        default=Path("events"),
        metavar="FOLDER",
        help="for a picture of each event at its peak (default: events)",
    )
    add("--webhook", metavar="ADDRESS", help="post each line there, too")
    add(
        "--timeout",
        type=_number,
        default=10.0,
        metavar="SECONDS",
        help="how long to wait for a camera's answer (default: 10)",
    )
    add("--as-fast-as-possible", action="store_true", help="play a file without waiting")
    _add_patience(parser)
    _add_looking(parser)


def _add_export(added: Any) -> None:
    parser = _command(
        added,
        commands.export,
        "write a model as ONNX",
        "Write a model as one ONNX graph, from images to scores and masks.",
        """\
  skavid export model model.onnx
  skavid export model model.onnx --verify today.mp4""",
    )
    _add_model(parser, None)
    add = parser.add_argument
    add("output", type=Path, metavar="FILE.onnx", help="the file to write")
    add("--verify", metavar="SOURCE", help="compare both on images of this source")


def _add_demo(added: Any) -> None:
    parser = _command(
        added,
        commands.demo,
        "fit and segment at work on a drawn scene, in a few minutes",
        "Draw two videos of a walkway, train on the first, and find what is odd in the second.",
        """\
  skavid demo
  skavid demo elsewhere --epochs 20""",
    )
    parser.set_defaults(again=main)
    add = parser.add_argument
    add(
        "folder",
        nargs="?",
        type=Path,
        default=Path("skavid-demo"),
        metavar="FOLDER",
        help="a new folder (default: skavid-demo)",
    )
    add(
        "--epochs",
        type=_whole(1),
        default=8,
        metavar="N",
        help="how often to look at each image (default: 8)",
    )


def _add_info(added: Any) -> None:
    parser = _command(
        added,
        commands.info,
        "versions, devices and extras, for a bug report; or what a model is",
        "Show versions, devices and extras: what to paste into a bug report. Or what a model is.",
        """\
  skavid info
  skavid info model --json""",
    )
    add = parser.add_argument
    add("model", nargs="?", type=Path, metavar="MODEL", help="a file that `skavid fit` wrote")


def _add_model(parser: argparse.ArgumentParser, sources: str | None) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="a file that `skavid fit` wrote")
    if sources is not None:
        parser.add_argument("sources", nargs="+", metavar=sources, help="pictures or videos")


def _add_dataset(parser: argparse.ArgumentParser, text: str) -> None:
    names = ", ".join(DATASETS)
    parser.add_argument(
        "--dataset",
        choices=list(DATASETS),
        metavar="NAME",
        help=f"{text} (of mvtec, that of a category): {names}",
    )


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target-fpr",
        type=_share,
        default=0.01,
        metavar="SHARE",
        help="share of normal images that may be flagged (default: 0.01)",
    )


def _add_truth(parser: argparse.ArgumentParser) -> None:
    _add_dataset(parser, "the test part of a data set, of which SOURCE is the folder")
    add = parser.add_argument
    add(
        "--masks",
        type=Path,
        metavar="FOLDER",
        help="pictures, or an .npy file, that are not 0 where it is irregular",
    )
    add(
        "--labels",
        type=Path,
        metavar="FILE",
        help="normal or irregular (or 1 and -1), one a line",
    )


def _add_looking(parser: argparse.ArgumentParser, *, average_frames: bool = True) -> None:
    add = parser.add_argument
    if average_frames:
        add(
            "--average-frames",
            type=_whole(1),
            default=1,
            metavar="N",
            help="average the evidence of a frame with that of the N - 1 before it",
        )
    add(
        "--ignore",
        type=Path,
        metavar="MASK.png",
        help="a picture, drawn over one of the source: pixels that are not black do not count",
    )
    add(
        "--device",
        default="auto",
        metavar="DEVICE",
        help="cpu, cuda, cuda:1... (default: a GPU where there is one)",
    )


def _add_patience(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-gap",
        type=_number,
        default=2.0,
        metavar="SECONDS",
        help="an odd moment ends after so long without anything irregular (default: 2)",
    )


if __name__ == "__main__":
    sys.exit(main())
