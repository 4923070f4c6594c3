"""Check and measure skavid on a machine with an NVIDIA GPU, in under eight minutes.

    make gpu-check                          # on a machine that has the environment
    python benchmarks/gpu.py                # anywhere: the repository, torch and scikit-learn do
    python benchmarks/gpu.py --dry-run      # everything on the CPU, with tiny images

It runs tests/test_cuda.py, trains with each kind of features on magnetic tiles and on stacks of
UCSD Ped2 (where SKAVID_DATA has them, otherwise on random images of that number and size), lets
the GPU and the CPU score the same images with the same networks, and measures images per second,
those of the bare networks on ready batches, and memory. No network access is needed. The figures
go to a JSON file and a table in benchmarks/results/gpu/ after each case, so that a case that
fails or finds no time left costs no other one; the exit status is 1 where something failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a bare machine has no installation

from skavid import VIDEO, AVIDDetector, TemporalStacker, __version__, datasets  # noqa: E402
from skavid.components import VIDEO_PIXELS, nested  # noqa: E402
from skavid.core.features import WEIGHTS_PACKAGE, weights_path  # noqa: E402
from skavid.core.images import to_tensor  # noqa: E402
from skavid.core.pair import placed  # noqa: E402

KEPT = ROOT / "benchmarks" / "results" / "gpu"
MINUTES = 7.5
# Convolutions on a GPU use TF32, with ten bits of a number, unless a user asks otherwise.
TOLERANCE = 0.05  # of the standard deviation of the scores
WITHIN = 0.99  # of the images; a displacement of "motion" may jump where two match equally well
COMPARED = 128
LOOK = 0.5  # seconds, at least, that the bare networks are timed for

# Name: data, parameters, epochs. Speed does not depend on what networks over pixels have learnt.
CASES = {
    "tiles, patches": ("tiles", {"features": "patches"}, None),
    "tiles, imagenet": ("tiles", {"features": "imagenet"}, None),
    "tiles, both maps": ("tiles", {"features": "patches+imagenet"}, None),
    "tiles, pixels": ("tiles", {"features": "pixels"}, 3),
    "ped2, pixels": ("ped2", VIDEO_PIXELS, 1),
    "ped2, motion": ("ped2", {**VIDEO, "features": "motion"}, None),
    "ped2, motion and pixels": ("ped2", VIDEO, None),
    "ped2, patches": ("ped2", {"features": "patches", "corruption__spacing": 2}, None),
}


# --- data ----------------------------------------------------------------------------------------


def tiles(root, tiny):
    """Return images to train on, images to score, their labels or None, and clips or None."""
    if not tiny and root is not None and (root / "mtd").is_dir():
        train, test = (
            datasets.load_magnetic_tiles(root / "mtd", subset=one, size=(128, 128), random_state=0)
            for one in ("train", "test")
        )
        return train.images, test.images, test.labels, None, "magnetic tiles"
    n, side = (8, 24) if tiny else (761, 128)
    images = np.random.default_rng(0).integers(60, 200, (2 * n, side, side), dtype=np.uint8)
    images = (images[:, ::-1].astype(int) + images + np.roll(images, 1, 2)) // 3
    return images[:n].astype(np.uint8), images[n:].astype(np.uint8), None, None, "random images"


def ped2(root, tiny):
    """Return stacks like `tiles`; all frames in their full size."""
    stacker = TemporalStacker()
    folder = None if root is None else root / "ucsd_ped2" / "UCSDped2"
    if not tiny and folder is not None and folder.is_dir():
        train, test = (datasets.load_ucsd_ped2(folder, subset=one) for one in ("train", "test"))
        stacks = [stacker.fit_transform(one.frames, groups=one.clips) for one in (train, test)]
        return *stacks, test.labels, train.clips, "UCSD Ped2"
    n, size = (12, (16, 24)) if tiny else (2550, (240, 360))
    rng = np.random.default_rng(0)
    frames = rng.integers(90, 100, (n, *size), dtype=np.uint8)
    clips = np.arange(n) // (6 if tiny else 160)
    height, width = size[0] // 6, size[1] // 12
    for i, frame in enumerate(frames):  # two that walk
        x = (3 * i) % (size[1] - width)
        frame[height : 2 * height, x : x + width] = 180
        frame[-2 * height : -height, -x - width - 1 : -x - 1] = 40
    stacks = stacker.fit_transform(frames, groups=clips)
    return stacks, stacks[: 12 if tiny else 2010], None, clips, "drawn frames"


# --- measuring -----------------------------------------------------------------------------------


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def timed(function, device):
    wait(device)
    began = time.perf_counter()
    found = function()
    wait(device)
    return found, time.perf_counter() - began


def bare_look(detector, batch, device):
    """Return what looks at a batch with the networks alone."""
    parts = [placed(detector.inpainter_, device), placed(detector.detector_, device)]
    features = getattr(detector, "features_", None)
    features = features and placed(features, device)

    def look():
        if features is None:
            return [part(batch) for part in parts]
        maps = features(batch).float()
        white = parts[0].changes(maps).white
        reads = parts[1].n_features if not parts[1].sees_features else 2 * parts[1].n_features
        return parts[1](torch.cat([white, maps], 1)[:, :reads])

    return look


def bare(detector, images, device):
    """Return how many images per second the networks alone look at, on a batch that is there."""
    pair = detector.pair_
    size = pair.chunk_size(*images.shape[1:3], device)
    shaped = images[:size] if images.ndim == 4 else images[:size, ..., None]
    batch = to_tensor(shaped, detector.value_range_).to(device)
    looks = [
        bare_look(member, batch, device) for member in getattr(detector, "members_", [detector])
    ]

    @torch.inference_mode()
    def look():
        return [one() for one in looks]

    look()
    repetitions, taken = 1, 0.0
    while taken < LOOK and repetitions < 1000:
        repetitions *= 4
        taken = timed(lambda n=repetitions: [look() for _ in range(n)], device)[1]
    return repetitions * len(batch) / taken


def compare(here, there):
    """Return how far scores of two devices are apart, in standard deviations of the scores."""
    spread = max(float(np.std(here)), 1e-6)
    apart = np.abs(here - there) / spread
    return {
        "median": float(np.median(apart)),
        f"{100 * WITHIN:.0f} % within": float(np.quantile(apart, WITHIN)),
        "largest": float(apart.max()),
        "spread of the scores": spread,
        "passes": bool(np.quantile(apart, WITHIN) <= TOLERANCE),
    }


def auc(labels, scores):
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.asarray(labels) == 1, scores))


def measure(name, root, device, tiny):
    """Fit, score and compare one case."""
    data, parameters, epochs = CASES[name]
    train, test, labels, clips, source = {"tiles": tiles, "ped2": ped2}[data](root, tiny)
    chosen = {**parameters, "random_state": 0, "device": device}
    epochs = 1 if tiny else epochs
    if epochs is not None:
        chosen["max_epochs"] = epochs
    if tiny and chosen.get("features") == "pixels":
        chosen |= {"inpainter__width": 4, "inpainter__depth": 2, "detector__width": 4}
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    detector, fitted = timed(
        lambda: AVIDDetector(**nested(chosen)).fit(train, groups=clips), device
    )
    detector.score_samples(test[:1])  # the first call copies the networks
    scores, scored = timed(lambda: detector.score_samples(test), device)
    on_device = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None
    rate = bare(detector, test, device)
    rows = np.unique(np.linspace(0, len(test) - 1, COMPARED).astype(int))
    detector.set_params(device="cpu")
    here, on_cpu = timed(lambda: detector.score_samples(test[rows]), "cpu")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {
        "data": source, "images": [len(train), len(test)], "shape": list(train.shape[1:]),
        "epochs": detector.n_iter_, "fit, s": fitted, "fit, images per s": len(train) / fitted,
        "score, images per s": len(test) / scored, "bare networks, images per s": rate,
        "score over bare": len(test) / scored / rate,
        "score on the CPU, images per s": len(rows) / on_cpu,
        "device memory, MiB": on_device,
        "peak memory of the process, MiB": peak,
        "scores, device against CPU": compare(here, scores[rows]),
    }  # fmt: skip
    if labels is not None:
        found["AUC"] = auc(labels, scores)
    return found


def run_tests(timeout):
    """Run tests/test_cuda.py, without plugins and without the project's own options."""
    if importlib.util.find_spec("pytest") is None:
        return {"passes": None, "says": "pytest is not installed here"}
    command = [
        sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(ROOT),
        "--noconftest", "-p", "no:cacheprovider", str(ROOT / "tests" / "test_cuda.py"),
    ]  # fmt: skip
    environment = {
        **os.environ,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *(one for one in sys.path if one)]),
    }
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=environment, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        return {"passes": False, "says": f"not done after {timeout:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))]
    return {
        "passes": done.returncode == 0, "says": lines[-1] if lines else done.stderr[-500:],
        "failures": failed[:40],
    }  # fmt: skip


def machine(device):
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "python": platform.python_version(), "skavid": __version__,
        "TF32 convolutions": torch.backends.cudnn.allow_tf32,
        "TF32 matrix products": torch.backends.cuda.matmul.allow_tf32,
    }  # fmt: skip


# --- what is kept --------------------------------------------------------------------------------

COLUMNS = (
    "fit, s", "fit, images per s", "score, images per s", "bare networks, images per s",
    "score over bare", "score on the CPU, images per s", "device memory, MiB",
    "peak memory of the process, MiB", "AUC",
)  # fmt: skip


def written(value):
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def write(path, kept):
    """Write the figures, and the table beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n")
    about = kept["machine"]
    lines = [
        "# On a GPU",
        "",
        "Written by `python benchmarks/gpu.py`, whose first lines say what is measured. "
        f"{about['device']}, {about['cores']} cores, torch {about['torch']}.",
        "",
        f"Tests: {kept['tests']['says']}.",
        "",
        "| case | images, train and test | " + " | ".join(COLUMNS)
        + f" | scores apart, {100 * WITHIN:.0f} % within |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]  # fmt: skip
    for name, found in kept["cases"].items():
        if "fit, s" not in found:
            lines.append(f"| {name} | {found['says']} |" + " |" * (len(COLUMNS) + 1))
            continue
        apart = found["scores, device against CPU"]
        cells = [written(found.get(column)) for column in COLUMNS]
        shape = " x ".join(map(str, found["shape"]))
        told = f"{apart[f'{100 * WITHIN:.0f} % within']:.2g}" + (
            "" if apart["passes"] else " (too far)"
        )
        row = [
            name, "{} and {} of {}, {}".format(*found["images"], shape, found["data"]),
            *cells, told,
        ]  # fmt: skip
        lines.append("| " + " | ".join(row) + " |")
    lines += [
        "",
        "The last column compares what the GPU and the CPU score with the same networks, in "
        f"standard deviations of the scores; up to {TOLERANCE} passes.",
    ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with tiny images")
    parser.add_argument("--data", type=Path, default=os.environ.get("SKAVID_DATA"))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--minutes", type=float, default=MINUTES, help="begin no case after these")
    parser.add_argument("--results", type=Path, default=KEPT)
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    device = "cpu" if given.dry_run else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "torch finds no CUDA device here; --dry-run does all of it on the CPU.\n")
    warnings.simplefilter("ignore")
    path = given.results / ("dry-run.json" if given.dry_run else "figures.json")
    root = None if given.data is None else Path(given.data)
    kept = {"machine": machine(device), "tests": run_tests(120), "cases": {}}
    print(f"tests: {kept['tests']['says']}", flush=True)
    slowest = 0.0
    for name in given.cases:
        left = 60 * given.minutes - (time.perf_counter() - began)
        if left < slowest:  # the next one may take as long
            found = {"says": "no time was left"}
        elif "imagenet" in CASES[name][1].get("features", "") and weights_path() is None:
            found = {"says": f"{WEIGHTS_PACKAGE} is not installed here"}
        else:
            case_began = time.perf_counter()
            try:
                found = measure(name, root, device, given.dry_run)
            except Exception as error:  # the other cases still tell something
                found = {
                    "says": f"{type(error).__name__}: {error}",
                    "traceback": traceback.format_exc(),
                }
            slowest = max(slowest, time.perf_counter() - case_began)
        kept["cases"][name] = found
        kept["seconds"] = time.perf_counter() - began
        write(path, kept)
        told = found.get("says") or {
            key: written(found.get(key)) for key in COLUMNS if found.get(key) is not None
        }
        print(f"{name}: {told}", flush=True)
    print(f"written: {path}")
    failed = kept["tests"]["passes"] is False or any(
        "traceback" in found
        or not found.get("scores, device against CPU", {"passes": True})["passes"]
        for found in kept["cases"].values()
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
