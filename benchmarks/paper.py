r"""Reproduce Table 1, Table 2 and Fig. 6 of the paper on the data sets at hand.

    python benchmarks/paper.py --reduced               # two CPU cores, 20 minutes
    python benchmarks/paper.py --seeds 0 1 2           # all at full size
    python benchmarks/paper.py --sets ped2 --size 60 90 --set max_epochs=8 --name small
    python benchmarks/paper.py --sets ped2 --name pixels --set features=pixels balance=0.2 \
        max_epochs=14 detector__region_size=auto training__crop_size=auto \
        training__adversarial_weight=0 postprocessing__smoothing=auto postprocessing__dilation=auto

Each data set whose folder is found below --data is run once a seed: trained on normal images
alone, scored with I alone, D alone and both. A run is kept as a JSON file as soon as it is done,
and is not run again; --again does. After an interruption the same command goes on where it
stopped. At the end (or with --tables alone) all kept runs
become a page of tables in Markdown and the pictures beside it.

Folders below --data (default: $SKAVID_DATA, or data): ucsd_ped1/UCSDped1, ucsd_ped2/UCSDped2,
umn (the avi), avenue, shanghaitech, urfall/cam0 and cam1, mnist (IDX files), mtd, mvtec/CATEGORY.
"""

from __future__ import annotations

import argparse
import ast
import copy
import csv
import json
import os
import platform
import subprocess
import time
from pathlib import Path

import joblib
import numpy as np
import sklearn
import tables
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.utils import Bunch
from skorch.callbacks import Callback

from skavid import VIDEO, AVIDDetector, TemporalStacker, __version__, datasets
from skavid.components import (
    flattened,
    nested,
)
from skavid.core.images import resize
from skavid.metrics import (
    aupro_score,
    cell_scores,
    clip_auc_score,
    equal_error_rate,
    pixel_level_auc_score,
    pixel_level_curve,
    pixel_level_equal_error_rate,
    region_level_auc_score,
    region_level_equal_error_rate,
    threshold_plane,
)
from skavid.plotting import IrregularityDisplay

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "results" / "paper"
CURVE_POINTS = 200
EPOCH_PIXELS = 2_500_000  # looked at after each epoch, in 24 images at least


# --- the data sets -------------------------------------------------------------------------------


def stacked(train, test, **rest):
    """Bring clips into the form of the other data sets, stacked as in Sec. 3.5."""
    stacker = TemporalStacker()
    return Bunch(
        train=stacker.fit_transform(train.frames, groups=train.clips),
        groups=train.clips,
        test=stacker.transform(test.frames, groups=test.clips),
        test_groups=test.clips,
        labels=test.labels,
        **rest,
    )


def video(load, folder, size, n_clips=None):
    """Stack the frames of Sec. 3.5; clips stay apart, their first frames are repeated.

    With ``n_clips`` only the first clips train.
    """

    def read(data, arguments):
        shape = tuple(arguments.size or size)
        train, test = (
            load(data / folder, subset=subset, size=shape) for subset in ("train", "test")
        )
        if n_clips is not None:
            kept = np.isin(train.clips, np.unique(train.clips)[:n_clips])
            train.frames, train.clips = train.frames[kept], train.clips[kept]
        whole = load(data / folder, subset="test") if test.get("masks") is not None else None
        return stacked(
            train,
            test,
            # Masks of the frames' own size judge; where a set has masks of some clips alone,
            # these alone are judged by pixels.
            masks=None if whole is None else whole.masks,
            has_masks=test.get("has_masks"),
            parameters=VIDEO,
            protocol=(
                f"frames of {shape[0]} x {shape[1]}, stacked; all test frames count, the first "
                "ones of a clip repeat its first frame; micro (all frames in one curve), scores "
                "not normalised by clip; masks at the frames' own size"
            )
            + (f"; the first {n_clips} training clips alone" if n_clips else ""),
        )

    return read, folder


def rooms(camera):
    """Read the clips of the UR Fall Detection Dataset, with labels of frames in a table."""

    def read(data, arguments):
        shape = tuple(arguments.size or (96, 128))
        train, test = (
            datasets.load_folder(data / "urfall" / camera / subset, size=shape)
            for subset in ("train", "test")
        )
        with (data / "urfall" / "labels.csv").open() as file:
            irregular = {
                (Path(row["clip"]).stem, int(row["frame"])): row["irregular"] == "1"
                for row in csv.DictReader(file)
            }
        begins = np.searchsorted(test.clips, np.arange(len(test.names)))
        test.labels = np.array(
            [
                -1 if irregular[Path(test.names[clip]).stem, 1 + row - begins[clip]] else 1
                for row, clip in enumerate(test.clips)
            ]
        )
        return stacked(
            train,
            test,
            masks=None,
            parameters=VIDEO,
            protocol=(
                "people who walk or sit train, whole clips with a fall test; frames of "
                f"{shape[0]} x {shape[1]}, stacked; all test frames count; micro. Every test clip "
                "begins normal and ends irregular, so the time in the clip alone has a frame AUC "
                "of 95 %"
            ),
        )

    return read, f"urfall/{camera}"


def shapes(speed, scale, size):
    """Draw a scene of walkers at one speed and size; the parameters are the same for all."""

    def read(data, arguments):
        n_train, n_test = (4, 4) if arguments.reduced else (8, 8)
        train, test = (
            datasets.make_moving_shapes(
                n, 100, size=size, speed=speed, scale=scale, irregular=kinds, random_state=seed
            )
            for n, kinds, seed in (
                (n_train, (), arguments.seed),
                (n_test, ("fast", "large", "shape", "place"), 1000 + arguments.seed),
            )
        )
        return stacked(
            train,
            test,
            masks=test.masks,
            kinds=test.kinds,
            parameters=VIDEO,
            protocol=(
                f"{n_train} drawn clips of walkers train, {n_test} with something irregular test "
                f"(too fast, too large, a cart, on the lawn), 100 frames of {size[0]} x {size[1]} "
                f"each; {speed:g} pixels a frame, {scale:g} times the usual size"
            ),
        )

    return read, ""


def puzzles():
    def read(data, arguments):
        digits = [
            datasets.load_idx(data / "mnist" / f"{part}-{kind}.gz")
            for part in ("train", "t10k")
            for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
        ]
        n_train, n_test, epochs = (640, 200, 24) if arguments.reduced else (5000, 1000, 9)
        made = datasets.make_ir_mnist(
            digits[0],
            digits[1],
            test_digits=digits[2],
            test_labels=digits[3],
            n_train=n_train,
            n_test=n_test,
            random_state=arguments.seed,
        )
        return Bunch(
            train=made.train,
            groups=None,
            test=made.test,
            test_groups=None,
            labels=made.labels,
            masks=made.masks,
            cell=28,
            # Up to half a digit is hidden at once, maps are averaged over half a digit. An image
            # is as irregular as its 1000th pixel: a natural share of threes is many small ones.
            parameters={
                "inpainter_corruption": "masking",
                "inpainter_width": 64,
                "detector_width": 16,
                "adversarial_weight": 0.0,
                "validation_fraction": 0.04,
                "reconstruction_loss": "bernoulli",
                "mask_size": (4, 14),
                "smoothing": 13,
                "min_area": 1000,
                "min_area_of": "image",
                "crop_size": 112,
                "max_epochs": epochs,
            },
            protocol=(
                f"{n_train} training and {n_test} test puzzles of 11 x 11 digits, 308 x 308; half "
                "of the test puzzles hold 3s, at their natural share; localisation over cells; an "
                "image counts by its 1000th pixel (over the plane of thresholds by its largest)"
            ),
        )

    return read, "mnist"


def tiles():
    def read(data, arguments):
        shape = tuple(arguments.size or (128, 128))
        train, test = (
            datasets.load_magnetic_tiles(data / "mtd", subset=subset, size=shape)
            for subset in ("train", "test")
        )
        for part in (train, test):
            part.images = standardised(part.images)
        return still(
            train,
            test,
            {"value_range": (0.0, 255.0), "max_epochs": 16 if arguments.reduced else 140},
            f"300 normal tiles train, the others and all faulty ones test; {shape[0]} x "
            f"{shape[1]} pixels, each image brought to the same mean and spread",
        )

    return read, "mtd"


def standardised(images):
    """Bring each image to a mean of 127.5 and a spread of 38 of 255 levels, float32."""
    spread = np.maximum(images.std((1, 2), keepdims=True), 5)
    return (127.5 + 38 * (images - images.mean((1, 2), keepdims=True)) / spread).astype("float32")


def mvtec(category):
    def read(data, arguments):
        shape = tuple(arguments.size or (128, 128))
        train, test = (
            datasets.load_mvtec(data / "mvtec", category, subset=subset, size=shape)
            for subset in ("train", "test")
        )
        epochs = 15 if arguments.reduced else 60
        return still(train, test, {"max_epochs": epochs}, f"{shape[0]} x {shape[1]} pixels")

    return read, f"mvtec/{category}"


def still(train, test, parameters, protocol):
    """Bring a data set of single images into the form of the others."""
    return Bunch(
        train=train.images,
        groups=None,
        test=test.images,
        test_groups=None,
        labels=test.labels,
        masks=test.masks,
        kinds=test.kinds,
        parameters=parameters,
        protocol=protocol,
    )


SETS = {
    "ped1": video(datasets.load_ucsd_ped1, "ucsd_ped1/UCSDped1", (120, 180)),
    "ped2": video(datasets.load_ucsd_ped2, "ucsd_ped2/UCSDped2", (120, 180)),
    "ped2_two_clips": video(datasets.load_ucsd_ped2, "ucsd_ped2/UCSDped2", (120, 180), n_clips=2),
    "umn": video(datasets.load_umn, "umn", (120, 160)),
    "avenue": video(datasets.load_avenue, "avenue", (120, 214)),
    "shanghaitech": video(datasets.load_shanghaitech, "shanghaitech", (120, 214)),
    "urfall_cam0": rooms("cam0"),
    "urfall_cam1": rooms("cam1"),
    "ir_mnist": puzzles(),
    "tiles": tiles(),
    "shapes": shapes(1.0, 1.0, (96, 128)),
    "shapes_fast": shapes(2.0, 1.6, (144, 192)),
    "shapes_slow": shapes(0.5, 0.8, (80, 104)),
}


def found(data):
    """Name the data sets that are there, and how to read them."""
    known = dict(SETS)
    for folder in sorted((data / "mvtec").glob("*/train")):
        known[f"mvtec_{folder.parent.name}"] = mvtec(folder.parent.name)
    return {name: read for name, (read, folder) in known.items() if (data / folder).exists()}


# --- one run -------------------------------------------------------------------------------------


def run(name, read, arguments):
    """Train and judge one data set with one seed; yield what is known, first without epochs."""
    data = read(arguments.data, arguments)
    parameters = {"features": "pixels", **data.parameters, **dict(arguments.set)}
    over_pixels = parameters["features"] == "pixels"
    snapshots = Snapshots()
    detector = AVIDDetector(
        **nested(
            dict(
                **parameters,
                callbacks=[snapshots] if over_pixels else None,
                verbose=1,
                device=arguments.device,
                random_state=arguments.seed,
            )
        )
    )
    began = time.perf_counter()
    detector.fit(data.train, groups=data.groups)
    if (
        detector.n_iter_ < detector.max_epochs
        and detector.component("training").n_iter_no_change is None
    ):
        raise KeyboardInterrupt  # the detector kept what it had; a benchmark must not
    trained = time.perf_counter()
    maps = detector.maps(data.test)
    scored = time.perf_counter()
    is_flagged = maps.evidence.max(axis=(1, 2)) >= 0
    judged = by_judge(maps)
    scores = {judge: image_scores(one, detector) for judge, one in judged.items()}
    results = {
        "set": name,
        "form": arguments.name or ("reduced" if arguments.reduced else "full"),
        "seed": arguments.seed,
        "protocol": data.protocol,
        "parameters": flattened(parameters),
        "environment": environment(arguments.device),
        "seconds": {
            "fit": round(trained - began, 1),
            "a test image": round((scored - trained) / len(data.test), 5),
        },
        "levels": levels(data, judged, scores),
        "object": [detector.object_size_, detector.object_speed_],
        "balance": detector.balance_,
        "thresholds": {
            "alpha": detector.alpha_,
            "zeta": detector.zeta_,
            "target_fpr": detector.target_fpr,
            "alarms": float(is_flagged[data.labels == 1].mean()),
            "found": float(is_flagged[data.labels == -1].mean()),
        },
        "curves": curves(data, maps, judged, scores),
        "by_epoch": [],
        "checkpoint": detector.checkpoint_,
        "history": detector.history_,
    }
    yield results
    kept, snapshots.kept = snapshots.kept, []
    if arguments.models is not None:
        arguments.models.mkdir(parents=True, exist_ok=True)
        path = arguments.models / f"{name}-{results['form']}-seed{arguments.seed}.joblib"
        light = copy.copy(detector)
        light.callbacks = None
        del light.net_  # it holds the callbacks, too
        joblib.dump(light, path)
    if arguments.seed == arguments.seeds[0]:
        draw(data, detector, arguments.results / f"{name}-{results['form']}.png")
    yield results | {"by_epoch": by_epoch(data, detector, kept)}


class Snapshots(Callback):
    """Keep both networks as they are after each epoch."""

    def __init__(self):
        self.kept = []

    def on_epoch_end(self, net, **kwargs):
        """Keep copies; nothing is judged during the training."""
        pair = (net.averaged_inpainter_, net.averaged_detector_)
        self.kept.append([copy.deepcopy(one.module.state_dict()) for one in pair])


def by_epoch(data, detector, kept):
    """Judge both networks after each epoch, on every so many-th test image.

    Nothing is chosen by these figures: they show what the choice without labels was worth.
    """
    if data.masks is None:
        return []
    most = max(24, EPOCH_PIXELS // (data.test.shape[1] * data.test.shape[2]))
    rows = np.arange(len(data.test))[:: max(1, -(-len(data.test) // most))]
    some = Bunch(**{**data, "masks": data.masks[rows], "labels": data.labels[rows]})
    table = []
    for inpainter, judge in kept:
        then = copy.copy(detector)
        then.inpainter_, then.detector_ = map(copy.deepcopy, (then.inpainter_, then.detector_))
        then.inpainter_.load_state_dict(inpainter)
        then.detector_.load_state_dict(judge)
        maps = then.maps(data.test[rows])
        table.append(
            {
                name: {
                    "region": region_auc(some, one),
                    "image": float(roc_auc_score(some.labels, image_scores(one, detector))),
                }
                for name, one in by_judge(maps).items()
            }
        )
    return table


def region_auc(data, maps):
    """AUC over cells, or over every 16th pixel of the maps."""
    if "cell" in data:
        return region_level_auc_score(data.masks, maps, cell=data.cell)
    rows, columns = (
        np.arange(2, side, 4) * whole // side
        for side, whole in zip(maps.shape[1:], data.masks.shape[1:], strict=True)
    )
    truth = data.masks[:, rows[:, None], columns]
    return float(roc_auc_score(truth.ravel(), maps[:, 2::4, 2::4].ravel()))


def by_judge(maps):
    return {"I alone": maps.residual, "D alone": -maps.regularity, "both": maps.evidence}


def image_scores(maps, detector):
    """Score images by the largest pixel of their map, or by its min_area-th: whoever judges."""
    flat = maps.reshape(len(maps), -1)
    processing = detector.component("postprocessing")
    whole = processing.min_area if processing.min_area_of == "image" else 1
    at = flat.shape[1] - max(1, whole)
    return -np.partition(flat, at, axis=1)[:, at]


def levels(data, judged, all_scores):
    """Judge I, D and both at every level that the data set has truth for."""
    table = {"frame": {}}
    by_pixels = data.masks is not None and "cell" not in data
    rows = slice(None) if data.get("has_masks") is None else data.has_masks
    for name, maps in judged.items():
        scores = all_scores[name]
        table["frame"][name] = rates(data.labels, scores)
        if data.test_groups is not None:
            macro = clip_auc_score(data.labels, scores, data.test_groups)
            table["frame"][name]["macro_auc"] = macro
        if "kinds" in data:
            table["frame"][name]["kinds"] = by_kind(data, scores)
        if by_pixels:
            masks = data.masks[rows]
            table.setdefault("pixel", {})[name] = {
                "auc": pixel_level_auc_score(masks, maps[rows]),
                "eer": pixel_level_equal_error_rate(masks, maps[rows]),
                "dual_eer": pixel_level_equal_error_rate(masks, maps[rows], rule="dual"),
                "aupro": aupro_score(masks, maps[rows], n_thresholds=500),
            }
        if "cell" in data:
            table.setdefault("cell", {})[name] = {
                "auc": region_level_auc_score(data.masks, maps, cell=data.cell),
                "eer": region_level_equal_error_rate(data.masks, maps, cell=data.cell),
            }
    return table


def rates(labels, scores):
    return {
        "auc": float(roc_auc_score(labels, scores)),
        "eer": equal_error_rate(labels, scores),
    }


def by_kind(data, scores):
    """Judge each kind of fault against all normal images."""
    kinds = np.asarray(data.kinds)
    normal = data.labels == 1
    return {
        str(kind): float(roc_auc_score(data.labels[rows], scores[rows]))
        for kind in np.unique(kinds[~normal])
        if len(np.unique(data.labels[rows := normal | (kinds == kind)])) == 2
    }


def curves(data, maps, judged, scores):
    """Draw Fig. 6: detection over images, localisation over cells or pixels of frames."""
    drawn = {"detection": {}, "localisation": {}}
    for name, one in judged.items():
        fpr, tpr, _ = roc_curve(data.labels == -1, -scores[name])
        drawn["detection"][name] = thinned(fpr, tpr)
        if "cell" in data:
            odd = cell_scores(data.masks, data.cell).ravel()
            fpr, tpr, _ = roc_curve(odd, cell_scores(one, data.cell).ravel())
            drawn["localisation"][name] = thinned(fpr, tpr)
        elif data.masks is not None:
            rows = slice(None) if data.get("has_masks") is None else data.has_masks
            fpr, tpr, _ = pixel_level_curve(data.masks[rows], one[rows])
            drawn["localisation"][name] = thinned(fpr, tpr)
    plane = threshold_plane(data.labels, maps.residual, maps.regularity)
    drawn["detection"]["both, any alpha and zeta"] = thinned(plane.fpr, plane.tpr)
    if "cell" in data:
        labels = np.where(odd, -1, 1)
        residual, regularity = (
            cells(one, data.cell).reshape(len(labels), -1)
            for one in (maps.residual, maps.regularity)
        )
        plane = threshold_plane(labels, residual, regularity, n_levels=50)
        drawn["localisation"]["both, any alpha and zeta"] = thinned(plane.fpr, plane.tpr)
    return drawn


def thinned(fpr, tpr):
    """Keep a curve's steps at evenly spread rates of false alarms."""
    grid = np.linspace(0, 1, CURVE_POINTS + 1)
    last = np.searchsorted(fpr, grid, side="right") - 1
    return {"fpr": np.round(grid, 4).tolist(), "tpr": np.round(tpr[last], 4).tolist()}


def cells(images, cell):
    """Cut puzzles, or their maps, into cells, row by row."""
    n, height, width = images.shape
    tiles = images.reshape(n, height // cell, cell, width // cell, cell)
    return tiles.transpose(0, 1, 3, 2, 4).reshape(-1, cell, cell)


def draw(data, detector, path):
    """Show what both networks make of some images (as Figs. 3, 4, 5 and 7 of the paper do)."""
    odd, normal = (np.flatnonzero(data.labels == label) for label in (-1, 1))
    shown = np.concatenate([odd[np.linspace(0, len(odd) - 1, 6).astype(int)[1:-1]], normal[:1]])
    X = data.test[shown]
    truth = None
    if data.masks is not None:
        truth = np.array([resize(mask, X.shape[1:3]) for mask in data.masks[shown]])
    display = IrregularityDisplay.from_estimator(detector, X, ground_truth=truth)
    display.figure_.savefig(path, dpi=80)


def write_json(path, content):
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1, default=float) + "\n")
    part.replace(path)


def environment(device):
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "skavid": __version__,
        "commit": commit.stdout.strip(),
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "device": device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


# --- the command ---------------------------------------------------------------------------------


def setting(text):
    """Read name=value, the value as Python writes it."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = Path(os.environ.get("SKAVID_DATA", "data"))
    parser.add_argument("--data", type=Path, default=data, help="folder of the data sets")
    parser.add_argument("--sets", nargs="+", metavar="SET", help="only these; see --list")
    parser.add_argument("--list", action="store_true", help="list what is found, and stop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--reduced", action="store_true", help="the form of 20 minutes")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of the images")
    parser.add_argument(
        "--set", type=setting, nargs="+", default=[], metavar="NAME=VALUE",
        help="parameters of AVIDDetector; give the run a --name then",
    )  # fmt: skip
    parser.add_argument("--name", help="of the form, instead of full or reduced")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--again", action="store_true", help="run what is already kept")
    parser.add_argument("--results", type=Path, default=KEPT, help="where runs are kept")
    parser.add_argument("--models", type=Path, help="keep fitted detectors in this folder, too")
    parser.add_argument("--threads", type=int, help="of torch; its own choice when left out")
    parser.add_argument("--tables", action="store_true", help="only write the tables anew")
    parsed = parser.parse_args(arguments)
    if (parsed.size or parsed.set) and not parsed.name:
        parser.error("--size and --set make another benchmark; give it a --name")
    return parsed


def main(arguments=None):
    arguments = parse(arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    at_hand = found(arguments.data)
    if arguments.list:
        print("\n".join(f"{name}: {'found' if name in at_hand else 'absent'}" for name in SETS))
        return
    chosen = [] if arguments.tables else (arguments.sets or list(at_hand))
    for name in chosen:
        if name not in at_hand:
            raise SystemExit(f"{name} is not below {arguments.data}; see --help for the folders.")
    form = arguments.name or ("reduced" if arguments.reduced else "full")
    arguments.results.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for name in chosen:
            path = arguments.results / f"{name}-{form}-seed{seed}.json"
            if path.exists() and not arguments.again:
                print(f"{path.name} is kept from an earlier run.")
                continue
            print(f"{name}, {form}, seed {seed}", flush=True)
            arguments.seed = seed
            try:
                for results in run(name, at_hand[name], arguments):
                    write_json(path, results)
            except KeyboardInterrupt:
                raise SystemExit("Interrupted; the same command goes on from here.") from None
            print(tables.summary(results), flush=True)
    for path in tables.write(arguments.results):
        print(f"written: {path}")
    if arguments.results == KEPT:
        readme = ROOT / "README.md"
        readme.write_text(tables.fill(readme.read_text(), tables.read(KEPT)))


if __name__ == "__main__":
    main()
