"""The arguments of all commands, and their help.

This module imports neither torch nor scikit-learn, so that ``skavid --help`` is fast.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from skavid import __version__
from skavid.cli.arguments import (
    Parser,
    add_average_frames,
    add_dataset,
    add_events,
    add_force,
    add_ground_truth,
    add_inputs,
    add_labels,
    add_model,
    add_reading,
    add_target_fpr,
    positive_number,
    share,
    whole_number,
    width_x_height,
)

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

TILE_SIDE = 256  # pixels
SOURCES = """\
A source is a video, a folder of videos or of images (including its subfolders), an image, or an
.npy file of images (n, height, width[, channels]). Each page of a TIFF is an image."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``skavid``; the module ``skavid.cli.COMMAND`` runs a command."""
    parser = Parser(
        prog="skavid",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Detect anomalies in images and videos after training on normal ones alone.",
        epilog="""\
two commands find the irregular events in a video of a fixed camera:
  skavid fit normal.mp4 model
  skavid segment model today.mp4 --overlay odd.mp4

`skavid COMMAND --help` shows examples. Exit codes: 0 success, 1 some images could not be
read, 2 bad input, 70 a bug in skavid, 130 after Ctrl-C, 143 after SIGTERM.""",
    )
    parser.add_argument("--version", action="version", version=f"skavid {__version__}")
    commands = parser.add_subparsers(
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
        add(commands)
    return parser


def _command(
    commands: Any, name: str, summary: str, description: str, examples: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print the result as JSON")
    level = output.add_mutually_exclusive_group()
    level.add_argument("--quiet", action="store_true", help="print no progress and no notes")
    level.add_argument("--verbose", action="store_true", help="print more details")
    return parser


def _add_fit(commands: Any) -> None:
    parser = _command(
        commands,
        "fit",
        "train on normal images or videos, and write a model",
        f"""\
Train on normal images or videos, and write a model.

{SOURCES}

Videos are resized to a height of 120 pixels, and images to a longest side of 256 pixels, unless
they are smaller; --tiles keeps the full resolution of large images. Each image of a video consists
of three frames (Sec. 3.5 of the paper). A few long clips are split into pieces of up to one
minute, some of which are held out to find the thresholds. The model remembers how its sources were
read, and every command reads other sources alike. Without --epochs the training takes 20 epochs;
with features=pixels 4 to 40, so that about 100,000 images are processed.""",
        """\
  skavid fit normal.mp4 model                      a video of a fixed camera
  skavid fit monday.mp4 tuesday.mp4 model --ignore clock.png
  skavid fit good-parts/ model --long-side 128     a folder of images
  skavid fit good-parts/ model --crop 40 20 600 400 --normalize
  skavid fit webs/ model --tiles                   large images in full resolution
  skavid fit frames/ model --video                 images that are frames of a video
  skavid fit UCSDped2/ model --dataset ucsd-ped2   the training part of a data set
  skavid fit mvtec/bottle/ model --dataset mvtec   the training part of one category
  skavid fit normal.mp4 model --set features=pixels --checkpoint state
  skavid fit normal.mp4 model --set detector__width=32 --set fusion=min""",
    )
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="normal images or videos")
    add("model", type=Path, metavar="MODEL", help="model file to write")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--video", action="store_true", help="take images or arrays as frames of a video"
    )
    kind.add_argument(
        "--images", action="store_true", help="take the frames of a video as single images"
    )
    add_dataset(parser, "train on the training part of")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--size",
        type=width_x_height,
        metavar="WIDTHxHEIGHT",
        help="resize all images to this size, in pixels, such as 256x128",
    )
    size.add_argument(
        "--long-side",
        type=whole_number(8),
        metavar="N",
        help="resize the longest side to N pixels (default: 256 for images), unless it is shorter",
    )
    size.add_argument(
        "--tiles",
        nargs="?",
        const=TILE_SIDE,
        type=whole_number(8),
        metavar="N",
        help=f"cut images into tiles of N x N pixels (default: {TILE_SIDE}) in full resolution, "
        "for small faults in large images whose parts look alike everywhere; without N, write it "
        "after the sources",
    )
    add(
        "--crop",
        nargs=4,
        type=whole_number(0),
        metavar=("LEFT", "TOP", "WIDTH", "HEIGHT"),
        help="use this box of each image alone, in pixels of the original",
    )
    add(
        "--normalize",
        action="store_true",
        help="bring each image to one mean and standard deviation of its intensities, against "
        "changes of the light",
    )
    add("--grey", action="store_true", help="ignore colours; videos are always read as grey")
    add("--epochs", type=whole_number(1), metavar="N", help="number of epochs")
    add(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="with --set features=pixels: save the state of the training after each epoch; after "
        "Ctrl-C or a crash the same command continues from it",
    )
    add(
        "--compact",
        action="store_true",
        help="write a model about half as large, whose scores change a little: features of normal "
        "images are rounded to 8 bits",
    )
    add_target_fpr(parser)
    add("--seed", type=whole_number(0), default=0, metavar="N", help="random seed (default: 0)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a parameter of AVIDDetector; may be given several times",
    )
    add_force(parser)
    add_reading(parser)


def _add_score(commands: Any) -> None:
    parser = _command(
        commands,
        "score",
        "score images or frames, as CSV, JSON lines or Parquet",
        f"""\
Score images or frames: one row per image, which is irregular if its score is at most 0.

{SOURCES}""",
        """\
  skavid score model today.mp4 > scores.csv
  skavid score model today.mp4 --output scores.parquet --average-frames 5
  skavid score model parts/ --json | grep true""",
    )
    add_inputs(parser)
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        metavar="FILE",
        help=".csv, .jsonl or .parquet file to write (default: CSV on the standard output)",
    )
    add_force(parser)
    add_average_frames(parser)


def _add_segment(commands: Any) -> None:
    parser = _command(
        commands,
        "segment",
        "show which pixels are irregular: overlays, masks, boxes",
        f"""\
Show which pixels are irregular, and list the irregular events of videos. Boxes, areas and masks
are in pixels of the original images, whatever the image size of the model.

{SOURCES}""",
        """\
  skavid segment model today.mp4                   lists the events
  skavid segment model today.mp4 --overlay odd.mp4
  skavid segment model parts/ --masks masks --coco boxes.json
  skavid segment model today.mp4 --overlay odd.mp4 --average-frames 5 --ignore road.png""",
    )
    add_inputs(parser)
    add = parser.add_argument
    add(
        "--overlay",
        type=Path,
        metavar="FILE.mp4|FOLDER",
        help="draw regularity, masks and scores over the images: a video, or a folder of images",
    )
    add(
        "--masks",
        type=Path,
        metavar="FOLDER",
        help="write one png per image into a new folder; white pixels are irregular",
    )
    add(
        "--coco",
        type=Path,
        metavar="FILE.json",
        help="write boxes, areas, peaks and masks of irregular patches as COCO annotations",
    )
    add(
        "--scores",
        type=Path,
        metavar="FILE",
        help="write scores to a .csv, .jsonl or .parquet file",
    )
    add_force(parser)
    add_events(parser)
    add_average_frames(parser)


def _add_calibrate(commands: Any) -> None:
    parser = _command(
        commands,
        "calibrate",
        "find or set new thresholds, without training",
        f"""\
Find new thresholds on normal data that the model was not trained on, so that few normal images are
flagged; or, with --labels, on normal and irregular data, so that both are told apart best; or set
them with --alpha and --zeta, such as those found with the sliders of a report. The networks stay
the same. The model is changed in place unless --output names another file.

{SOURCES}""",
        """\
  skavid calibrate model first-week.mp4
  skavid calibrate model first-week.mp4 --target-fpr 0.001 --output strict-model
  skavid calibrate model parts/ --labels folders   parts/good, parts/crack...: labelled images
  skavid calibrate model --alpha 0.4 --zeta 0.2    thresholds by hand""",
    )
    add_inputs(parser, "*")
    add_target_fpr(parser, None)
    add_labels(parser)
    add = parser.add_argument
    add(
        "--criterion",
        choices=("f1", "balanced-accuracy"),
        help="what is largest at the thresholds chosen by --labels (default: balanced-accuracy, "
        "which does not depend on the share of irregular images)",
    )
    add("--alpha", type=positive_number, metavar="A", help="threshold on the residual")
    add("--zeta", type=share, metavar="Z", help="threshold on the regularity, between 0 and 1")
    add(
        "--output",
        "-o",
        type=Path,
        metavar="MODEL",
        help="model file to write (default: change the given model)",
    )
    add_force(parser)


def _add_evaluate(commands: Any) -> None:
    parser = _command(
        commands,
        "evaluate",
        "measure a model on data with ground truth",
        f"""\
Measure a model on data with ground truth: labels or masks.

{SOURCES}""",
        """\
  skavid evaluate model UCSDped2/ --dataset ucsd-ped2
  skavid evaluate model test/ --masks ground_truth/      masks named like their images
  skavid evaluate model today.mp4 --masks masks/         one mask per frame
  skavid evaluate model today.mp4 --labels labels.txt    one label per line
  skavid evaluate model test/ --labels labels.csv        name of an image, label""",
    )
    add_inputs(parser)
    add_ground_truth(parser)
    add_average_frames(parser)


def _add_report(commands: Any) -> None:
    parser = _command(
        commands,
        "report",
        "write an HTML report with adjustable thresholds",
        f"""\
Write one HTML file about a model and its results: the training data, the most irregular images,
scores over time, measures if there is ground truth, and sliders for the thresholds that redraw the
masks. It opens in any browser and loads nothing from the network.

{SOURCES}""",
        """\
  skavid report model today.mp4
  skavid report model parts/ --output parts.html --worst 24
  skavid report model UCSDped2/ --dataset ucsd-ped2 --output ped2.html""",
    )
    add_inputs(parser)
    add = parser.add_argument
    add(
        "--output",
        "-o",
        type=Path,
        default=Path("report.html"),
        metavar="FILE.html",
        help="HTML file to write (default: report.html)",
    )
    add("--title", metavar="TEXT", help="title of the report")
    add(
        "--worst",
        type=whole_number(1),
        default=12,
        metavar="N",
        help="number of images to show; if there is ground truth, the outcomes (misses, false "
        "alarms, hits) share it (default: 12)",
    )
    add_force(parser)
    add_ground_truth(parser)


def _add_watch(commands: Any) -> None:
    parser = _command(
        commands,
        "watch",
        "watch a camera, and report irregular events",
        """\
Watch a camera, and report irregular events: one line of JSON when an event begins, and one when it
ends, with start, end and peak in seconds, boxes and a snapshot. If the connection to a camera is
lost, it is opened again. A file is played at its own speed.""",
        """\
  skavid watch model 0                                   the first camera
  skavid watch model rtsp://camera/stream >> events.jsonl
  skavid watch model today.mp4 --as-fast-as-possible
  skavid watch model 0 --average-frames 5 --webhook https://example.org/alarm""",
    )
    add_model(parser)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="number of a camera, network address, or video file")
    add(
        "--snapshots",
        type=Path,
        default=Path("events"),
        metavar="FOLDER",
        help="folder for one image per event, at its peak (default: events)",
    )
    add("--webhook", metavar="ADDRESS", help="also post each line of JSON to this address")
    add(
        "--timeout",
        type=positive_number,
        default=10.0,
        metavar="SECONDS",
        help="time to wait for an answer of a camera (default: 10)",
    )
    add("--as-fast-as-possible", action="store_true", help="play a file without waiting")
    add_events(parser)
    add_average_frames(parser)
    add_reading(parser)


def _add_export(commands: Any) -> None:
    parser = _command(
        commands,
        "export",
        "write a model as ONNX",
        "Write a model as one ONNX graph, which takes images and returns scores and masks.",
        """\
  skavid export model model.onnx
  skavid export model model.onnx --verify today.mp4
  skavid export model repository/fabric --triton""",
    )
    add_model(parser)
    add = parser.add_argument
    add(
        "output", type=Path, metavar="FILE.onnx", help="ONNX file (with --triton, folder) to write"
    )
    add(
        "--triton",
        action="store_true",
        help="write a folder for the model repository of a Triton Inference Server: the graph and "
        "its config.pbtxt",
    )
    add("--verify", metavar="SOURCE", help="compare graph and model on images of this source")
    add_force(parser)


def _add_demo(commands: Any) -> None:
    parser = _command(
        commands,
        "demo",
        "train on drawn pictures of a fabric, and find the faults of others",
        "Draw pictures of a fabric, train on faultless ones, and find the faults in others.",
        """\
  skavid demo
  skavid demo elsewhere --epochs 20""",
    )
    add = parser.add_argument
    add(
        "folder",
        nargs="?",
        type=Path,
        default=Path("skavid-demo"),
        metavar="FOLDER",
        help="new folder to write to (default: skavid-demo)",
    )
    help_epochs = "number of epochs (default: as in fit)"
    add("--epochs", type=whole_number(1), metavar="N", help=help_epochs)


def _add_info(commands: Any) -> None:
    parser = _command(
        commands,
        "info",
        "show versions and devices for a bug report, or describe a model",
        "Show versions, devices and extras for a bug report, or describe a model.",
        """\
  skavid info
  skavid info model --json""",
    )
    parser.add_argument(
        "model", nargs="?", type=Path, metavar="MODEL", help="model file to describe"
    )
