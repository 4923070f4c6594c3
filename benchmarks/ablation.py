"""What each part of the recipe is worth: one part changed at a time, on short runs.

    python benchmarks/ablation.py

Every row is one training of a few epochs (rows that only change how two trained networks are
read share the training of the row "as it is"). Seed 0, one run each: differences below two points
are noise. Rows are kept in benchmarks/results/ablation as soon as they are done and are not run
again; the table is written from them. No row was chosen by a label within its run, but the test
set is what they are compared on: they explain the defaults, they are no benchmark.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import time
from pathlib import Path

import paper
import torch

from skavid import AVIDDetector
from skavid.components import VIDEO_PIXELS, nested
from skavid.core import corruption

KEPT = paper.ROOT / "benchmarks" / "results" / "ablation"
EPOCHS = {"ped2": 6, "tiles": 60}
SIZES = {"ped2": ("60", "90"), "tiles": ("64", "64")}  # a quarter of the pixels of the full runs
JUDGES = ("I alone", "D alone", "both")

# Name, parameters, constants of skavid.core.corruption. A name in READINGS needs no training.
TRAININGS = {
    "ped2": [
        ("as it is", {}, {}),
        ("no moving average of weights", {"average_decay": 0.0}, {}),
        ("no hard negatives", {}, {"VIDEO_HARD_NEGATIVES": False}),
        ("only things that are too fast", {}, {"VIDEO_KINDS": {"skip": 1.0}}),
        ("only things that slide", {}, {"VIDEO_KINDS": {"slide": 1.0}}),
        ("only things of another shape", {}, {"VIDEO_KINDS": {"warp": 1.0}}),
        ("adversarial terms, weight 0.01, late", {"adversarial_weight": 0.01}, {}),
        ("regions of 8 px", {"region_size": 8}, {}),
        ("I fills what is hidden", {"inpainter_corruption": "masking"}, {}),
    ],
    "tiles": [
        ("as it is", {}, {}),
        ("no moving average of weights", {"average_decay": 0.0}, {}),
        ("no hard negatives", {}, {"HARD_NEGATIVE_SHARE": 0.0}),
        ("only pasted pieces", {}, {"IMAGE_KINDS": {"place": 0.4, "swap": 0.3, "turn": 0.3}}),
        ("only changed levels, lines and specks", {}, {
            "IMAGE_KINDS": {"level": 0.4, "line": 0.4, "noise": 0.2},
        }),
        ("no adversarial terms", {"adversarial_weight": 0.0}, {}),
        ("adversarial terms from the start", {"adversarial_start": 0.0}, {}),
        ("regions of 8 px", {"region_size": 8}, {}),
    ],
}  # fmt: skip
READINGS = [
    ("no averaging over space", {"smoothing": 0}),
    ("no dilation", {"dilation": 0}),
    ("the lesser of both margins, Eq. 4", {"fusion": "min"}),
    ("the mean of both margins, I weighs half", {"fusion": "mean", "balance": 0.5}),
    ("the mean of both margins, I weighs a fifth", {"fusion": "mean", "balance": 0.2}),
    ("an image counts by its 100th pixel", {"min_area": 100, "min_area_of": "image"}),
]


@contextlib.contextmanager
def constants(changed):
    """Put other constants into `skavid.core.corruption` for a while."""
    before = {name: getattr(corruption, name) for name in changed}
    try:
        for name, value in changed.items():
            if isinstance(value, dict):  # the kinds that it does not name are left out
                value = {**dict.fromkeys(before[name], 0.0), **value}
            setattr(corruption, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(corruption, name, value)


def judge(data, detector):
    """Judge I, D and both as paper.py does."""
    maps = detector.maps(data.test)
    judged = paper.by_judge(maps)
    scores = {name: paper.image_scores(one, detector) for name, one in judged.items()}
    return paper.levels(data, judged, scores)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=paper.parse([]).data)
    parser.add_argument("--sets", nargs="+", choices=list(TRAININGS), default=list(TRAININGS))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--results", type=Path, default=KEPT)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.results.mkdir(parents=True, exist_ok=True)
    for name in arguments.sets:
        data = None
        for row, parameters, changed in TRAININGS[name]:
            path = arguments.results / f"{name}-{row.replace(' ', '_').replace(',', '')}.json"
            if path.exists():
                continue
            data = data or paper.found(arguments.data)[name](
                arguments.data, paper.parse(["--size", *SIZES[name], "--name", "ablation"])
            )
            print(f"{name}: {row}", flush=True)
            base = VIDEO_PIXELS if name == "ped2" else data.parameters
            chosen = {**base, "max_epochs": EPOCHS[name], "random_state": 0}
            began = time.perf_counter()
            with constants(changed):
                detector = AVIDDetector(
                    **nested({"features": "pixels", **chosen, **parameters})
                ).fit(data.train, groups=data.groups)
            seconds = round(time.perf_counter() - began, 1)
            rows = [{"row": row, "seconds": seconds, "levels": judge(data, detector)}]
            if row == "as it is":
                for reading, changes in READINGS:
                    reader = copy.copy(detector).set_params(**changes)
                    reader.balance_ = changes.get("balance", detector.balance_)
                    rows.append({"row": reading, "levels": judge(data, reader)})
            kept = {"set": name, "rows": rows, "environment": paper.environment("cpu")}
            paper.write_json(path, kept)
    write(arguments.results)


def write(folder):
    """Write the table of all kept rows."""
    lines = [
        "# What each part of the recipe is worth",
        "",
        "Written by `python benchmarks/ablation.py` from the rows kept beside this page. Seed "
        "0, one short training a row (Ped2 6 epochs at 60 x 90, tiles 60 at 64 x 64), so all "
        "figures differ from those of the full runs, and differences below two points are noise. "
        "EER of frames or images and AUC of both, in %; AUPRO of both; seconds of training "
        "where the row has one of its own, by the wall clock: other work ran beside, and some "
        "rows were held up for minutes.",
        "",
    ]
    for name in TRAININGS:
        paths = sorted(folder.glob(f"{name}-*.json"), key=lambda path: path.stat().st_mtime)
        runs = [json.loads(path.read_text()) for path in paths]
        order = [row for row, *_ in TRAININGS[name]]
        rows = [row for run in runs for row in run["rows"]]
        rows.sort(key=lambda row: order.index(row["row"]) if row["row"] in order else 0.5)
        if not rows:
            continue
        lines += [f"## {name}", "", "| changed | I | D | both | AUC | AUPRO | seconds |"]
        lines.append("|---|---|---|---|---|---|---|")
        for row in rows:
            frame, pixel = row["levels"]["frame"], row["levels"].get("pixel")
            eers = " | ".join(f"{100 * frame[judge]['eer']:.1f}" for judge in JUDGES)
            overlap = f"{100 * pixel['both']['aupro']:.1f}" if pixel else ""
            lines.append(
                f"| {row['row']} | {eers} | {100 * frame['both']['auc']:.1f} | {overlap} | "
                f"{row.get('seconds', '')} |"
            )
        lines.append("")
    page = folder / "tables.md"
    page.write_text("\n".join(lines))
    print(f"written: {page}")


if __name__ == "__main__":
    main()
