"""Judge what a user would pick instead, on the very arrays that paper.py reads.

    python benchmarks/rivals.py --reduced --sets ped2 tiles ir_mnist
    python benchmarks/rivals.py --reduced --anomalib VENV/bin/python   # PaDiM and PatchCore, too
    python benchmarks/rivals.py --tables                               # only write the page anew

A rival is a function that learns from normal images and returns another, which gives each test
image a map or a score, the higher the more irregular. Maps are judged at every level that the set
has truth for, scores by images alone; the judges are paper.py's. Nothing here was tuned on test
labels: sizes and filters were fixed before the first run, the rest are the libraries' defaults.

Each rival's figures are kept in a JSON file as soon as they are there, and not measured again;
--again does. PyOD comes with `pip install 'skavid[bench]'`; anomalib needs a venv of its own (see
rivals_anomalib.py). Rivals whose library is absent are left out, and said to be.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import paper
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import OneClassSVM
from sklearn.utils import Bunch
from tables import TITLES

from skavid import AVIDDetector
from skavid.components import nested
from skavid.core.anomaly_maps import smooth

KEPT = paper.ROOT / "benchmarks" / "results" / "rivals"
BOX = 5  # px: the mean that every map gets
VIDEO_FILTERS = (12, 20)  # px: mean and maximum where AVID's are learnt from what moves
SIDE = 64  # px: images are reduced to at most this side for rivals that score whole images
PATCH, STRIDE, N_PATCHES, N_COMPONENTS = 16, 4, 10_000, 32
# Training images, evenly spread; on puzzles cells. Maps of whole images learn from all of them.
AT_MOST = {"OneClassSVM": 3_000, "anomalib": 320, "others": 10_000}
CHUNK = 64


# --- rivals that give maps -----------------------------------------------------------------------


def z_score(train, *, seed=0):
    """Measure how many standard deviations each pixel is from its mean over training images.

    A grey level is added to the standard deviation; channels are averaged.
    """
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = train.std(axis=0, dtype=np.float32) + 1
    return lambda test: over_channels(np.abs(test - mean) / deviation)


def frame_difference(train, *, seed=0):
    """Subtract the oldest moment of a stack from the newest; nothing is learnt."""
    return lambda test: np.abs(test[..., -1].astype(np.float32) - test[..., 0])


def pca_residual(train, *, seed=0):
    """Measure what 64 principal components of whole images leave of each pixel."""
    rows = train.reshape(len(train), -1).astype(np.float32)
    pca = PCA(min(64, len(rows) - 1, rows.shape[1]), svd_solver="randomized", random_state=seed)
    pca.fit(rows)

    def maps(test):
        rows = test.reshape(len(test), -1).astype(np.float32)
        left = rows - pca.inverse_transform(pca.transform(rows))
        return over_channels(np.abs(left).reshape(test.shape))

    return maps


def patch_neighbours(train, *, seed=0):
    """Measure the mean distance of each 16 px patch to its 5 nearest among training patches.

    Patches are reduced to 32 principal components; wherever they lie in the image, they are
    compared with 10,000 random ones. A pixel gets the mean over the patches that cover it.
    """
    rng = np.random.RandomState(seed)
    patch = min(PATCH, *train.shape[1:3])
    tops, lefts = (rng.randint(side - patch + 1, size=N_PATCHES) for side in train.shape[1:3])
    drawn = np.stack([
        train[i, top : top + patch, left : left + patch].ravel()
        for i, top, left in zip(rng.randint(len(train), size=N_PATCHES), tops, lefts, strict=True)
    ]).astype(np.float32)  # fmt: skip
    pca = PCA(min(N_COMPONENTS, drawn.shape[1]), random_state=seed).fit(drawn)
    neighbours = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(pca.transform(drawn))

    def maps(test):
        places = [
            np.s_[top : top + patch, left : left + patch]
            for top in starts(test.shape[1], patch)
            for left in starts(test.shape[2], patch)
        ]
        total = np.zeros(test.shape[:3], np.float32)
        count = np.zeros(test.shape[1:3], np.float32)
        for place in places:
            count[place] += 1
        for image, sums in zip(test, total, strict=True):
            flat = np.stack([image[place].ravel() for place in places]).astype(np.float32)
            distances, _ = neighbours.kneighbors(pca.transform(flat))
            for place, distance in zip(places, distances.mean(axis=1), strict=True):
                sums[place] += distance
        return total / count

    return maps


def starts(side, patch):
    """List where patches start, so that they cover the side to its end."""
    return sorted({*range(0, side - patch + 1, STRIDE), side - patch})


def over_channels(values):
    return values if values.ndim == 3 else values.mean(axis=3)


# --- rivals that give a score an image -----------------------------------------------------------


def isolation_forest(train, *, seed=0):
    """Isolate small images with scikit-learn's defaults."""
    return scored_by(IsolationForest(random_state=seed), train)


def one_class_svm(train, *, seed=0):
    """Enclose small images with an RBF kernel, nu = 0.1."""
    return scored_by(OneClassSVM(nu=0.1), train)


def scored_by(detector, train):
    detector.fit(small_rows(train))
    return lambda test: -detector.score_samples(small_rows(test))


def pyod_knn(train, *, seed=0):
    """Take the distance to the 5th nearest training image, PyOD's default."""
    from pyod.models.knn import KNN

    return decided_by(KNN(), train)


def pyod_auto_encoder(train, *, seed=0):
    """Train PyOD's AutoEncoder for 100 epochs in place of 10: 300 images are few."""
    from pyod.models.auto_encoder import AutoEncoder

    with torch.random.fork_rng(devices=[]):
        return decided_by(
            AutoEncoder(epoch_num=100, random_state=seed, device=torch.device("cpu"), verbose=0),
            train,
        )


def pyod_deep_svdd(train, *, seed=0):
    """Train PyOD's DeepSVDD with its defaults (100 epochs)."""
    from pyod.models.deep_svdd import DeepSVDD

    n_features = small_rows(train[:1]).shape[1]
    with torch.random.fork_rng(devices=[]):
        return decided_by(DeepSVDD(n_features, random_state=seed, verbose=0), train)


def decided_by(detector, train):
    detector.fit(small_rows(train))
    return lambda test: np.asarray(detector.decision_function(small_rows(test)), np.float32)


def small_rows(images):
    """Flatten images, reduced by means over blocks so that no side exceeds 64 px, into [0, 1]."""
    n, height, width, *channels = images.shape
    block = -(-max(height, width) // SIDE)
    height, width = height // block, width // block
    tiled = images[:, : height * block, : width * block].reshape(
        n, height, block, width, block, *channels
    )
    return (tiled.mean(axis=(2, 4), dtype=np.float32) / 255).reshape(n, -1)


MAPS = {
    "z-score of pixels": z_score,
    "frame difference": frame_difference,
    "PCA residual": pca_residual,
    "neighbours of patches": patch_neighbours,
}
SCORES = {
    "IsolationForest": isolation_forest,
    "OneClassSVM": one_class_svm,
    "PyOD KNN": pyod_knn,
    "PyOD AutoEncoder": pyod_auto_encoder,
    "PyOD DeepSVDD": pyod_deep_svdd,
}
ANOMALIB = {
    f"{title}, {said}": (method, features)
    for method, title in (("padim", "PaDiM"), ("patchcore", "PatchCore"))
    for features, said in (
        ("lite0", "EfficientNet-Lite0 on ImageNet"),
        ("random", "ResNet-18, untrained"),
    )
}
EVERYONE = [*MAPS, *SCORES, *ANOMALIB]


# --- one rival on one data set -------------------------------------------------------------------


def measure(name, data, seed, anomalib=None):
    """Train and judge one rival; return its figures."""
    if name in ANOMALIB:
        maps, measured = in_its_own_venv(anomalib, *ANOMALIB[name], data, seed)
        return measured | judge(data, smooth(maps, mean=BOX), maps)
    by_cell = "cell" in data and name != "neighbours of patches"
    train, test = (
        paper.cells(images, data.cell) if by_cell else images for images in (data.train, data.test)
    )
    give_maps = name in MAPS
    if not give_maps or by_cell:
        train = evenly(train, AT_MOST.get(name, AT_MOST["others"]))
    before = reset_peak()
    began = time.process_time()
    score = (MAPS | SCORES)[name](train, seed=seed)
    fitted = time.process_time()
    given = np.concatenate([score(test[i : i + CHUNK]) for i in range(0, len(test), CHUNK)])
    scored = time.process_time()
    measured = {
        "trained on": f"{len(train)} {'cells' if by_cell else 'images'}",
        "cpu_seconds": {
            "fit": round(fitted - began, 2),
            "a test image": round((scored - fitted) / len(data.test), 5),
        },
        "peak_mib": None if before is None else round(peak() - before),
    }
    if give_maps:
        smoothed = smooth(given, mean=BOX)
        if by_cell:
            given, smoothed = puzzles(given, data), puzzles(smoothed, data)
        return measured | judge(data, smoothed, given)
    if by_cell:
        # One figure a cell: there is nothing to smooth.
        maps = puzzles(np.broadcast_to(given[:, None, None], test.shape[:3]), data)
        return measured | judge(data, maps)
    alone = Bunch(**{**data, "masks": None})
    return measured | {"levels": only(paper.levels(alone, {"it": None}, {"it": -given}))}


def judge(data, maps, raw=None):
    """Judge maps as paper.py does; once more after filters of the size that AVID's have there."""
    parameters = AVIDDetector(**nested({"features": "pixels", **data.parameters}))

    def judged(one):
        scores = {"it": paper.image_scores(one, parameters)}
        return only(paper.levels(data, {"it": one}, scores))

    figures = {"levels": judged(maps)}
    if raw is not None:
        processing = parameters.component("postprocessing")
        mean, maximum = (
            usual if size == "auto" else size
            for size, usual in zip(
                (processing.smoothing, processing.dilation), VIDEO_FILTERS, strict=True
            )
        )
        figures["filters"] = [mean, maximum]
        figures["levels_filtered"] = judged(smooth(raw, mean=mean, maximum=maximum))
    return figures


def only(levels):
    return {level: table["it"] for level, table in levels.items()}


def evenly(images, at_most):
    """Take images at even distances where there are too many."""
    if len(images) <= at_most:
        return images
    return images[np.linspace(0, len(images) - 1, at_most).round().astype(int)]


def puzzles(maps, data):
    """Put maps of cells together again."""
    n, height, width = data.test.shape
    rows, columns = height // data.cell, width // data.cell
    tiled = maps.reshape(n, rows, columns, data.cell, data.cell)
    return np.ascontiguousarray(tiled.transpose(0, 1, 3, 2, 4)).reshape(n, height, width)


def in_its_own_venv(python, method, features, data, seed):
    """Hand the arrays to rivals_anomalib.py as files, and read the maps back."""
    train = evenly(data.train, AT_MOST["anomalib"])
    enlarge = 2 if data.test_groups is None and max(data.test.shape[1:3]) <= 128 else 1
    script = Path(__file__).with_name("rivals_anomalib.py")
    with tempfile.TemporaryDirectory() as folder:
        for part, images in (("train", train), ("test", data.test)):
            np.save(Path(folder) / f"{part}.npy", images)
        command = [
            python, script, folder, method, features, "--seed", str(seed),
            "--enlarge", str(enlarge),
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        maps = np.load(Path(folder) / "maps.npy")
        told = json.loads((Path(folder) / "measured.json").read_text())
    return maps, {
        "trained on": f"{len(train)} images" + (f", enlarged {enlarge}x" if enlarge > 1 else ""),
        "cpu_seconds": {
            "fit": round(told["fit"], 2),
            "a test image": round(told["test"] / len(data.test), 5),
        },
        "peak_mib": round(told["peak_mib"]),
        "versions": told["versions"],
    }


def reset_peak():
    """Forget the largest memory so far, where the system can; return what is in use, in MiB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return peak()


def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


# --- what is kept --------------------------------------------------------------------------------


def absent(name, anomalib):
    """Say why a rival cannot run, or nothing."""
    if name in ANOMALIB and not anomalib:
        return "give the Python of anomalib's venv with --anomalib"
    if name.startswith("PyOD"):
        try:
            version("pyod")
        except PackageNotFoundError:
            return "pip install 'skavid[bench]'"
    return None


def versions():
    found = {}
    for name in ("numpy", "scikit-learn", "torch", "pyod"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def read(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def networks_of(kept, runs):
    """Find paper.py's runs on the same arrays: the protocol describes them."""
    return [
        run for run in runs if all(run[key] == kept[key] for key in ("set", "seed", "protocol"))
    ]


def rows_of(kept, runs):
    """List (who, levels, levels after wide filters, training, seconds, memory)."""
    rows = []
    for run in networks_of(kept, runs):
        for judge_ in ("I alone", "D alone", "both"):
            levels = {level: table[judge_] for level, table in run["levels"].items()}
            seconds = f"{run['seconds']['fit']:.0f} (wall)"
            each = f"{1000 * run['seconds']['a test image']:.1f}"
            rows.append((f"AVID, {judge_} ({run['form']})", levels, {}, "all", seconds, each, ""))
    for name in EVERYONE:
        if name not in kept["rivals"]:
            continue
        figures = kept["rivals"][name]
        filtered = figures.get("levels_filtered", {})
        seconds = figures["cpu_seconds"]
        fit, each = f"{seconds['fit']:.1f}", f"{1000 * seconds['a test image']:.1f}"
        memory = "" if figures["peak_mib"] is None else f"{figures['peak_mib']}"
        rows.append((name, figures["levels"], filtered, figures["trained on"], fit, each, memory))
    return rows


def markdown(all_kept, runs):
    """Write one table a data set; the best EER and AUC of each level stand in bold."""
    lines = [
        "# What a user would pick instead",
        "",
        "Written by `benchmarks/rivals.py` from the runs kept beside this page and, for AVID, "
        "those of `benchmarks/paper.py`. EER and AUC in %, the best of a column in bold. Every "
        "map got a 5 px box mean; *wide filters* stands for the same map after a mean and a "
        "maximum of about the size that AVID's maps get on that set, instead. An image counts "
        "by the largest pixel of its map (on puzzles by its 1000th, as AVID's). Rivals without "
        "a map score images reduced to at most 64 px a side. PaDiM and PatchCore learn from at "
        "most 320 images; PatchCore's bank is a coreset of 1,000 out of 10,000 random patches; "
        "their features come from EfficientNet-Lite0 with ImageNet weights, or from a ResNet-18 "
        "that was never trained. On puzzles all but the patches and the networks see single "
        "cells of 28 px, cut out by the known grid, which AVID is not told of. Nothing was "
        "tuned on test labels. AVID's rows are of seed 0 alone; medians of three seeds are in "
        "`benchmarks/results/paper/tables.md`. Seconds are CPU seconds of one thread, AVID's "
        "are wall seconds of one, beside other work; memory is what came on top, for anomalib "
        "the whole process.",
        "",
    ]
    for kept in all_kept:
        rows = rows_of(kept, runs)
        said = ", ".join(f"{name} {number}" for name, number in kept["versions"].items() if number)
        lines += [
            f"## {kept['set']}, {kept['form']}",
            "",
            f"Protocol: {kept['protocol']}. {kept['n_train']} training and {kept['n_test']} test "
            f"images, seed {kept['seed']}; {said}.",
            "",
        ]
        levels = list(dict.fromkeys(level for row in rows for level in row[1]))
        columns = [
            (level, key, figure)
            for level in levels
            for key in (1, 2)
            for figure in ("eer", "auc")
            if any(level in row[key] for row in rows)
        ]
        titles = [
            f"{TITLES[level]} {figure.upper()}{', wide filters' if key == 2 else ''}"
            for level, key, figure in columns
        ]
        head = ["", *titles, "trained on", "fit, s", "a test image, ms", "memory, MiB"]
        lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        # AVID's maps are filtered so by themselves: they stand in both columns.
        values = [
            [(row[key] or (row[1] if row[0].startswith("AVID") else {})).get(level, {}).get(figure)
             for level, key, figure in columns]
            for row in rows
        ]  # fmt: skip
        best = [
            (min if figure == "eer" else max)(
                (row[i] for row in values if row[i] is not None), default=None
            )
            for i, (_, _, figure) in enumerate(columns)
        ]
        for row, figures in zip(rows, values, strict=True):
            cells_ = [
                "" if value is None else f"**{100 * value:.1f}**" if value == top
                else f"{100 * value:.1f}"
                for value, top in zip(figures, best, strict=True)
            ]  # fmt: skip
            lines.append(f"| {' | '.join([row[0], *cells_, *row[3:]])} |")
        lines += ["", *(winners(rows, levels)), ""]
        for name, reason in kept["left out"].items():
            lines += [f"Left out: {name} ({reason}).", ""]
        open_ = [name for name in EVERYONE if name not in kept["rivals"] | kept["left out"]]
        if open_:
            lines += [f"Not measured yet: {'; '.join(open_)}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def winners(rows, levels):
    """Say who has the lowest EER at each level, and where AVID stands."""
    for level in levels:
        ranked = sorted(
            (one[level]["eer"], row[0] + said)
            for row in rows
            for one, said in zip(row[1:3], ("", ", wide filters"), strict=True)
            if level in one
        )
        eer, name = ranked[0]
        line = f"- {TITLES[level]}: the lowest EER is that of {name} ({100 * eer:.1f})"
        ours = [row for row in ranked if row[1].startswith("AVID")]
        if ours and not name.startswith("AVID"):
            line += f"; the lowest of AVID is that of {ours[0][1][6:]} ({100 * ours[0][0]:.1f})"
        yield f"{line}."


def write_page(folder, runs_folder=paper.KEPT):
    runs = read(runs_folder)
    path = folder / "tables.md"
    path.write_text(markdown(read(folder), runs))
    return path


# --- the command ---------------------------------------------------------------------------------


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=paper.parse([]).data)
    parser.add_argument("--sets", nargs="+", metavar="SET", help="only these")
    parser.add_argument("--rivals", nargs="+", metavar="NAME", help="only these; see --list")
    parser.add_argument("--list", action="store_true", help="list the rivals, and stop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reduced", action="store_true", help="as many images as paper.py's")
    parser.add_argument(
        "--anomalib", default=os.environ.get("SKAVID_ANOMALIB"), metavar="PYTHON",
        help="the Python of a venv that has anomalib",
    )  # fmt: skip
    parser.add_argument("--again", action="store_true", help="measure what is already kept")
    parser.add_argument("--results", type=Path, default=KEPT, help="where figures are kept")
    parser.add_argument("--tables", action="store_true", help="only write the page anew")
    return parser.parse_args(arguments)


def main(arguments=None):
    arguments = parse(arguments)
    if arguments.list:
        print("\n".join(EVERYONE))
        return
    for name in arguments.rivals or ():
        if name not in EVERYONE:
            raise SystemExit(f"{name!r} is no rival; --list lists them.")
    arguments.results.mkdir(parents=True, exist_ok=True)
    at_hand = paper.found(arguments.data)
    for name in [] if arguments.tables else arguments.sets or list(at_hand):
        if name not in at_hand:
            raise SystemExit(f"{name} is not below {arguments.data}.")
        run(name, at_hand[name], arguments, arguments.rivals or EVERYONE)
    print(f"written: {write_page(arguments.results)}")


def run(name, reader, arguments, chosen):
    """Measure the chosen rivals on one data set; each is kept as soon as it is done."""
    form = "reduced" if arguments.reduced else "full"
    asked = paper.parse(["--data", str(arguments.data), *(["--reduced"] * arguments.reduced)])
    asked.seed = arguments.seed
    data = reader(arguments.data, asked)
    path = arguments.results / f"rivals-{name}-{form}-seed{arguments.seed}.json"
    kept = json.loads(path.read_text()) if path.exists() else {"rivals": {}, "left out": {}}
    kept |= {
        "set": name,
        "form": form,
        "seed": arguments.seed,
        "protocol": data.protocol,
        "n_train": len(data.train),
        "n_test": len(data.test),
        "versions": versions(),
    }
    for rival in chosen:
        if rival in kept["rivals"] and not arguments.again:
            print(f"{rival} on {name} is kept from an earlier run.")
            continue
        reason = absent(rival, arguments.anomalib)
        if rival == "frame difference" and data.test_groups is None:
            reason = "single images do not move"
        if reason is None:
            print(f"{name}: {rival}", flush=True)
            kept["rivals"][rival] = measure(rival, data, arguments.seed, arguments.anomalib)
            kept["left out"].pop(rival, None)
            for level, figures in kept["rivals"][rival]["levels"].items():
                print(
                    f"  {level:6} EER {100 * figures['eer']:5.1f} %  AUC {figures['auc']:.3f}",
                    flush=True,
                )
        elif rival not in kept["rivals"]:
            kept["left out"][rival] = reason
            print(f"{name}: {rival} is left out: {reason}", file=sys.stderr)
        paper.write_json(path, kept)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
