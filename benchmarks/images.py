"""Compare the default detector with simple methods, and with PaDiM and PatchCore, on images.

    python benchmarks/images.py --data FOLDER                    # every set, the defaults, seed 0
    python benchmarks/images.py --data FOLDER --seeds 0 1 2 --features patches imagenet
    python benchmarks/images.py --tables                         # only write the page anew

Each method learns from the normal training images of a set and scores its test images; labels and
masks are read for the figures alone, and nothing was chosen by them in a run. A seed draws the
split of the tiles and of the digits, which have no official one, and whatever is random in a
method. PaDiM and PatchCore see the very feature map that the detector sees, so that methods are
compared and not networks. Figures are kept in a JSON file per set, map and seed as soon as they
are there, and not measured again; --again does, and --again detector keeps those of the rivals.
Where a detector joins two maps, as the default does on images of 64 pixels or more, its members,
which are the detectors on the single maps, are measured as well; the seconds of a fit are then
divided in proportion to the time that each training took.

"tiles, 30 images" and the like keep 30 training images, drawn by the seed. "elpv, turned" and the
like turn every image, for training and for testing, by an angle that the seed draws, and cut it
to a disc on black: parts in any orientation.

The sets are described in docs/rivals.md; the command line of the test suite finds them by the
environment variable SKAVID_DATA. "--features inversion" is D alone over pixels, which learns from
inverted blots (docs/user_guide/corruption.rst). It is for images of two levels, and measured on
--sets "deeppcb at 320 px".
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from rivals import pca_residual, z_score
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.svm import OneClassSVM

from skavid import AVIDDetector, datasets
from skavid.components import (
    AdversarialTraining,
    Corruption,
    InpainterNetwork,
    feature_maps,
    names_of_maps,
)
from skavid.core.anomaly_maps import evidence, smooth
from skavid.core.features import make_features
from skavid.core.images import to_tensor
from skavid.metrics import aupro_score

KEPT = Path(__file__).resolve().parent / "results" / "images"
SIDE = 32  # px: images are reduced to this side for methods that score rows of pixels
CORESET = 0.1  # share of all places that PatchCore remembers, drawn at random
KINDS = ("patches", "imagenet", "patches+imagenet", "inversion")
SANITY = ("tiles", "aitex", "bsdata", "elpv")
# Beside the feature maps: D over pixels, for images of two levels.
INVERSION = {
    "features": "pixels", "fusion": "detector", "max_epochs": 20,
    "corruption": Corruption(detector="inversion"), "inpainter": InpainterNetwork(width=4),
    "training": AdversarialTraining(crop_size=96),
}  # fmt: skip
FUSIONS = {
    "mean": "both", "min": "both, Eq. 4", "inpainter": "I alone", "detector": "D alone",
}  # fmt: skip
ODD = ("black", "white", "grey", "noise", "inverted", "turned", "half covered", "half the light",
       "half the contrast", "shifted")  # fmt: skip


# --- data ----------------------------------------------------------------------------------------


def tiles(root, seed):
    parts = [
        datasets.load_magnetic_tiles(root / "mtd", subset=one, size=(128, 128), random_state=seed)
        for one in ("train", "test")
    ]
    return parts[0].images, parts[1].images, parts[1].labels, parts[1].masks


def folder(name, size, color):
    def read(root, seed):
        parts = [
            datasets.load_mvtec(root / name, subset=one, size=size, color=color)
            for one in ("train", "test")
        ]
        return parts[0].images, parts[1].images, parts[1].labels, parts[1].masks

    return read


def elpv(root, seed):
    def grey(where):
        images = datasets.load_folder(root / "elpv" / where, size=(128, 128)).frames
        return images if images.ndim == 3 else images[..., 0]

    good = grey("test/good")
    bad = np.concatenate([grey("test/defective_mono"), grey("test/defective_poly")])
    labels = np.repeat([1, -1], [len(good), len(bad)])
    return grey("train/good"), np.concatenate([good, bad]), labels, None


def digits(normal):
    def read(root, seed):
        data = load_digits()
        images = (data.images * 255 / 16).round().astype(np.uint8)
        rng = np.random.RandomState(seed)
        rows = rng.permutation(np.flatnonzero(np.isin(data.target, normal)))
        train, rest = rows[: 2 * len(rows) // 3], rows[2 * len(rows) // 3 :]
        odd = np.flatnonzero(~np.isin(data.target, normal))
        labels = np.repeat([1, -1], [len(rest), len(odd)])
        return images[train], images[np.r_[rest, odd]], labels, None

    return read


def few(read, n=30):
    def read_few(root, seed):
        train, *test = read(root, seed)
        return train[np.sort(np.random.RandomState(seed).permutation(len(train))[:n])], *test

    return read_few


def turned(read):
    def read_turned(root, seed):
        train, test, labels, masks = read(root, seed)
        rng = np.random.RandomState(seed)
        height, width = train.shape[1:3]
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        disc = np.hypot(y, x) < 1

        def turn(image, angle, order):
            image = ndimage.rotate(image, angle, reshape=False, order=order, mode="reflect")
            return image * disc

        train = [turn(one, rng.uniform(0, 360), 1) for one in train]
        angles = rng.uniform(0, 360, len(test))
        test = [turn(one, angle, 1) for one, angle in zip(test, angles, strict=True)]
        kept = np.ones(len(test), dtype=bool)
        if masks is not None:
            masks = [
                turn(one.astype(np.uint8), angle, 0) > 0
                for one, angle in zip(masks, angles, strict=True)
            ]
            masks = np.stack(masks)
            kept = (labels == 1) | masks.any((1, 2))  # of other faults nothing is left
        some = None if masks is None else masks[kept]
        return np.stack(train), np.stack(test)[kept], labels[kept], some

    return read_turned


WHOLE_SETS = {
    "tiles": tiles,
    "aitex": folder("aitex", (256, 256), False),
    "bsdata": folder("bsdata", (104, 256), True),
    "elpv": elpv,
    "deeppcb": folder("deeppcb", (160, 160), False),
}
FEW = {
    "tiles, 30 images": few(tiles),
    "elpv, 30 images": few(elpv),
    "bsdata, 30 images": few(WHOLE_SETS["bsdata"]),
}
TURNED = {
    "elpv, turned": turned(elpv),
    "tiles, turned": turned(tiles),
}
SETS = {
    **WHOLE_SETS,
    **FEW,
    **TURNED,
    "deeppcb at 320 px": folder("deeppcb", (320, 320), False),
    **{f"digit {digit}": digits([digit]) for digit in range(10)},
    "digits but 3": digits([digit for digit in range(10) if digit != 3]),
}


# --- methods: from training images to a function that gives scores (and maps), high where odd ----


def of_pixels(method):
    def learn(train, seed):
        learned = method(train, seed=seed)

        def judge(test):
            maps = np.stack([np.asarray(learned(one[None]))[0] for one in test])
            maps = smooth(maps.astype(np.float32), mean=5, maximum=0)
            return maps.max(axis=(1, 2)), maps

        return judge

    return learn


def of_rows(make):
    def learn(train, seed):
        model = make(seed).fit(rows_of(train))
        return lambda test: (-model.score_samples(rows_of(test)), None)

    return learn


def nearest_image(train, seed):
    model = NearestNeighbors(n_neighbors=5).fit(rows_of(train))
    return lambda test: (model.kneighbors(rows_of(test))[0][:, -1], None)


def rows_of(images):
    tensor = to_tensor(images, (0.0, 255.0))
    size = [min(side, SIDE) for side in tensor.shape[2:]]
    return torch.nn.functional.adaptive_avg_pool2d(tensor, size).flatten(1).numpy()


WITHOUT_FEATURES = {
    "z-score": of_pixels(z_score),
    "PCA residual": of_pixels(pca_residual),
    "IsolationForest": of_rows(lambda seed: IsolationForest(random_state=seed)),
    "OneClassSVM": of_rows(lambda seed: OneClassSVM(gamma="scale", nu=0.1)),
    "LOF": of_rows(lambda seed: LocalOutlierFactor(novelty=True)),
    "kNN (5th neighbour)": nearest_image,
}


def mapped(images, features):
    with torch.inference_mode():
        parts = [
            features(to_tensor(images[i : i + 16], (0.0, 255.0)))
            for i in range(0, len(images), 16)
        ]
    return torch.cat(parts)


def enlarged(grid, images):
    size = images.shape[1:3]
    maps = torch.nn.functional.interpolate(grid[:, None], size=size, mode="bilinear")[:, 0].numpy()
    return grid.amax((1, 2)).numpy(), smooth(maps, mean=5, maximum=0)


def padim(train, features):
    """Defard et al., 2021: the Mahalanobis distance at each place."""
    maps = mapped(train, features)
    mean, scale = maps.mean(0), maps.std((0, 2, 3))[:, None, None]
    rows = ((maps - mean) / scale).flatten(2).permute(2, 0, 1)  # (places, n, k)
    identity = torch.eye(rows.shape[-1])
    factor = torch.linalg.cholesky(rows.transpose(1, 2) @ rows / len(train) + 0.01 * identity)

    def judge(test):
        grids = []
        for i in range(0, len(test), 16):
            apart = (mapped(test[i : i + 16], features) - mean) / scale
            n, _, n1, n2 = apart.shape
            solved = torch.linalg.solve_triangular(
                factor, apart.flatten(2).permute(2, 1, 0), upper=False
            )
            grids.append(solved.square().sum(1).sqrt().T.reshape(n, n1, n2))
        return enlarged(torch.cat(grids), test)

    return judge


def patchcore(train, features, seed):
    """Roth et al., 2022: the distance to the nearest remembered place; a random coreset."""
    maps = mapped(train, features)
    rows = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
    n = min(20_000, max(1000, int(CORESET * len(rows))), len(rows))
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:n]
    memory = rows[chosen]

    def judge(test):
        grids = []
        for one in test:
            places = mapped(one[None], features)[0]
            distances = torch.cdist(places.flatten(1).T, memory).amin(1)
            grids.append(distances.reshape(places.shape[1:]))
        return enlarged(torch.stack(grids), test)

    return judge


# --- figures -------------------------------------------------------------------------------------


def logit(regularity):
    regularity = np.clip(regularity, 1e-30, np.nextafter(np.float32(1), np.float32(0)))
    return np.log(regularity) - np.log1p(-regularity)


def figures(labels, masks, scores, maps):
    found = {"auc": 100 * roc_auc_score(labels == -1, scores)}
    if masks is not None and maps is not None and masks.any():
        found["aupro"] = 100 * aupro_score(masks, maps)
    return found


def timed(learn, test):
    begun = time.process_time()
    judge = learn()
    fitted = time.process_time()
    scores, maps = judge(test)
    done = time.process_time()
    return scores, maps, {"fit": fitted - begun, "score": done - fitted}


def detectors(train, features, seed):
    """Fit a detector; return it and its members by the names of their maps, with their seconds."""
    begun = time.process_time()
    chosen = INVERSION if features == "inversion" else {"features": features}
    detector = AVIDDetector(**chosen, random_state=seed).fit(train)
    seconds = time.process_time() - begun
    members = getattr(detector, "members_", ())
    durations = [sum(row["dur"] for row in member.history_) for member in members]
    name = features if features == "inversion" else names_of_maps(detector)
    return {name: (detector, seconds)} | {
        member.features: (member, seconds * duration / sum(durations))
        for member, duration in zip(members, durations, strict=True)
    }


def detector_figures(detector, seconds, test, labels, masks, with_sanity):
    begun = time.process_time()
    scores = detector.score_samples(test)
    seconds = {"fit": seconds, "score": time.process_time() - begun}
    seen, found = detector.maps(test), {}
    for fusion, name in FUSIONS.items():
        maps = evidence(
            seen.residual, logit(seen.regularity), alpha=detector.alpha_, zeta=detector.zeta_,
            fusion=detector.fusion if name == "both" else fusion, balance=detector.balance_,
        )  # fmt: skip
        found[name] = figures(labels, masks, maps.max(axis=(1, 2)), maps) | seconds
    found["both"] |= figures(labels, None, -scores, None)
    found["both"]["balance"] = detector.balance_
    decisions = np.where(detector.offset_ <= scores, 1, -1)
    found["both"]["false_alarms"] = 100 * float((decisions[labels == 1] == -1).mean())
    found["both"]["found"] = 100 * float((decisions[labels == -1] == -1).mean())
    if with_sanity:
        normal = test[labels == 1]
        least = np.percentile(detector.score_samples(normal), 5)
        found["sanity"] = {
            name: 100 * float((detector.score_samples(images) < least).mean())
            for name, images in odd_images(normal[:16]).items()
        }
    return found


def odd_images(images):
    """Spoil normal images as a whole."""
    rng = np.random.RandomState(0)
    half = images.copy()
    half[:, :, : images.shape[2] // 2] = 0
    mean = images.mean(axis=(1, 2), keepdims=True)
    side = min(images.shape[1:3])
    turned = images.copy()
    turned[:, :side, :side] = np.rot90(images[:, :side, :side], axes=(1, 2))
    spoilt = {
        "black": images * 0, "white": images * 0 + 255, "grey": images * 0 + 128,
        "noise": rng.randint(0, 256, images.shape), "inverted": 255 - images, "turned": turned,
        "half covered": half, "half the light": images // 2,
        "half the contrast": (images + mean) / 2,
        "shifted": np.roll(images, images.shape[2] // 10, axis=2),
    }  # fmt: skip
    return {name: one.astype(np.uint8) for name, one in spoilt.items()}


def measure(name, features, seed, root, again):
    KEPT.mkdir(parents=True, exist_ok=True)
    train, test, labels, masks = SETS[name](root, seed)
    train, test = (one if one.ndim == 4 else one[..., None] for one in (train, test))
    if features == "auto":
        features = "+".join(feature_maps(AVIDDetector(), train.shape[1:]))
    if path_of(name, features, seed).exists() and not again:
        return
    for one, (detector, seconds) in detectors(train, features, seed).items():
        path, kept = path_of(name, one, seed), {}
        if path.exists() and again == "detector":
            kept = json.loads(path.read_text())["figures"]
        found = detector_figures(detector, seconds, test, labels, masks, name in SANITY)
        found |= rival_figures(train, test, labels, masks, one, seed, kept)
        both = found["both"]
        print(name, one, seed, {k: round(v, 1) for k, v in both.items()}, flush=True)
        run = {"set": name, "features": one, "seed": seed, "n_train": len(train)}
        path.write_text(json.dumps(run | {"figures": found}, indent=1))


def path_of(name, features, seed):
    return KEPT / f"{name.replace(',', '').replace(' ', '_')}-{features}-seed{seed}.json"


def rival_figures(train, test, labels, masks, features, seed, kept):
    methods, found = {}, {}
    if features in ("patches", "imagenet"):
        module = make_features(features, train.shape[1:])
        methods = {
            "PaDiM, same map": lambda: padim(train, module),
            "PatchCore, same map": lambda: patchcore(train, module, seed),
        }
    if features == "patches":
        methods |= {
            rival: lambda learn=learn: learn(train, seed)
            for rival, learn in WITHOUT_FEATURES.items()
        }
    for rival, learn in methods.items():
        if rival in kept:
            found[rival] = kept[rival]
            continue
        scores, maps, seconds = timed(learn, test)
        found[rival] = figures(labels, masks, scores, maps) | seconds
    return found


# --- the page ------------------------------------------------------------------------------------


def spread(values):
    middle = f"{statistics.median(values):.1f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.1f} to {max(values):.1f})"


def default_table(runs, names, title):
    """List the default detector and every rival on every map."""
    default = "patches+imagenet"
    names = [name for name in names if any(is_of(run, name, default) for run in runs)]
    kept = {f"AVIDDetector(), {method}": (default, method) for method in FUSIONS.values()}
    for features in ("patches", "imagenet"):
        for method in dict.fromkeys(
            method for run in runs for method in run["figures"] if run["features"] == features
        ):
            if "same map" in method:
                kept[method.replace("same map", features)] = features, method
            elif method not in (*FUSIONS.values(), "sanity"):
                kept[method] = features, method
    lines = [
        f"## Image AUC: the defaults, and every other method on every map{title}", "",
        "| method | " + " | ".join(names) + " | mean |", "|---" * (len(names) + 2) + "|",
    ]  # fmt: skip
    for label, (features, method) in kept.items():
        values = [
            [run["figures"][method]["auc"] for run in runs
             if is_of(run, name, features) and method in run["figures"]]
            for name in names
        ]  # fmt: skip
        if all(values):
            mean = statistics.mean(map(statistics.median, values))
            lines.append(f"| {label} | " + " | ".join(map(spread, values)) + f" | {mean:.1f} |")
    return [*lines, ""]


def is_of(run, name, features):
    return (run["set"], run["features"]) == (name, features)


def tables():
    runs = [json.loads(path.read_text()) for path in sorted(KEPT.glob("*.json"))]
    lines = [
        "# Images: the default detector beside simpler methods",
        "",
        "Written by `python benchmarks/images.py`, whose first lines say what is measured. In %; "
        "the median (and range) over seeds. CPU seconds of one thread, fit and score.",
        "",
    ]
    lines += default_table(runs, WHOLE_SETS, "")
    lines += default_table(runs, FEW, ", few images")
    lines += default_table(runs, TURNED, ", any orientation")
    for figure, title in (("auc", "Image AUC"), ("aupro", "Pixel AUPRO (limit 0.3)")):
        for features in KINDS:
            chosen = [run for run in runs if run["features"] == features]
            chosen = [run for run in chosen if figure in run["figures"]["both"]]
            names = [name for name in SETS if name in {run["set"] for run in chosen}]
            if not names:
                continue
            methods = list(dict.fromkeys(m for run in chosen for m in run["figures"]))
            lines += [f"## {title}, features=\"{features}\"", "",
                      "| method | " + " | ".join(names) + " | mean |",
                      "|---" * (len(names) + 2) + "|"]  # fmt: skip
            for method in methods:
                cells, medians = [], []
                for name in names:
                    values = [
                        run["figures"][method][figure]
                        for run in chosen
                        if run["set"] == name and figure in run["figures"].get(method, {})
                    ]
                    cells.append(spread(values) if values else "")
                    medians += [statistics.median(values)] if values else []
                if medians:
                    mean = f"{statistics.mean(medians):.1f}" if len(medians) == len(names) else ""
                    lines.append(f"| {method} | " + " | ".join(cells) + f" | {mean} |")
            lines.append("")
    lines += ["## The detector's false alarms, time and sanity", "",
              "False alarms and faulty images found at thresholds for 1 % of false alarms. "
              "Sanity: the share of 16 normal test images that, spoilt as a whole, score below "
              "the 5th percentile of normal test images.", "",
              "| set | features | false alarms | found | fit, s | PaDiM's fit, s | score, s | "
              + " | ".join(ODD) + " |", "|---" * (7 + len(ODD)) + "|"]  # fmt: skip
    for name in SETS:
        for features in KINDS:
            some = [r["figures"] for r in runs if (r["set"], r["features"]) == (name, features)]
            if some:
                row = [spread([one["both"][key] for one in some])
                       for key in ("false_alarms", "found", "fit")]  # fmt: skip
                of_padim = [
                    one["PaDiM, same map"]["fit"] for one in some if "PaDiM, same map" in one
                ]
                row.append(spread(of_padim) if of_padim else "")
                row.append(spread([one["both"]["score"] for one in some]))
                checked = [one["sanity"] for one in some if "sanity" in one]
                sanity = [spread([one[odd] for one in checked]) if checked else "" for odd in ODD]
                lines.append(f"| {name} | {features} | " + " | ".join([*row, *sanity]) + " |")
    (KEPT / "tables.md").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("SKAVID_DATA"))
    usual = [name for name in SETS if name != "deeppcb at 320 px"]
    parser.add_argument("--sets", nargs="+", choices=SETS, default=usual)
    parser.add_argument("--features", nargs="+", default=["auto"], choices=("auto", *KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--again", nargs="?", const="all", choices=("all", "detector"),
                        help="measure what is there already, too")  # fmt: skip
    parser.add_argument("--tables", action="store_true", help="only write the page anew")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for seed in [] if given.tables else given.seeds:
        for features in given.features:
            for name in given.sets:
                measure(name, features, seed, Path(given.data or "."), given.again)
                tables()
    tables()


if __name__ == "__main__":
    main()
