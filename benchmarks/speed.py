"""How fast, beside the two bare networks; how it grows; what live video costs.

    make bench                                       # all parts, about a quarter of an hour
    python benchmarks/speed.py --parts scoring live

Ratios come from interleaved repetitions within one run (medians), so they travel from one machine
to another; milliseconds and images a second do not. Each part is kept in
benchmarks/results/speed/figures.json as soon as it is done, and the page of tables beside it is
written anew. Networks are trained for an epoch: their speed does not depend on what they learnt.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import tables
import torch
from skorch.callbacks import Callback
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from skavid import AVIDDetector, TemporalStacker, __version__
from skavid.components import VIDEO, VIDEO_PIXELS, nested
from skavid.core.corruption import masking, noise, synthetic_anomalies
from skavid.core.pixel_pair import chunk_size
from skavid.datasets import make_moving_shapes
from skavid.export import to_onnx
from skavid.metrics import pixel_level_curve

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "benchmarks" / "results" / "speed"
REPETITIONS = 15
VIDEO_SIZES = [(60, 90), (120, 180), (240, 360)]
GROWTH = (1_000, 10_000)  # frames of 60 x 90
PAPER = KEPT.parent / "paper"
# What can be had for less: size, parameters, and the form of benchmarks/paper.py that tells its
# quality on UCSD Ped2.
CHOICES = {
    "60 x 90": ((60, 90), {}, "60x90"),
    "120 x 180, half the channels": (
        (120, 180), {"inpainter_width": 16, "detector_width": 12}, "narrow",
    ),
    "120 x 180": ((120, 180), {}, "pixels"),
    "240 x 360": ((240, 360), {}, "240x360"),
}  # fmt: skip


def seconds(repetitions, *functions):
    """Time functions in turn; return the median of each."""
    taken = [[] for _ in functions]
    for _ in range(repetitions + 1):
        for function, times in zip(functions, taken, strict=True):
            began = time.perf_counter()
            function()
            times.append(time.perf_counter() - began)
    return [statistics.median(times[1:]) for times in taken]


def image_detector(side=128):
    """Train the defaults on noise for an epoch; return them and some images."""
    images = np.random.default_rng(0).integers(0, 255, (32, side, side), dtype=np.uint8)
    return AVIDDetector(features="pixels", max_epochs=1, random_state=0).fit(images), images


def video_detector(height, width, usual=VIDEO_PIXELS, **parameters):
    """Train on drawn walkers for an epoch; return the detector, frames and stacks."""
    walk = make_moving_shapes(2, 40, size=(height, width), scale=height / 96, random_state=0)
    frames, clips = walk.frames, walk.clips
    stacks = TemporalStacker().fit_transform(frames, groups=clips)
    chosen = {**usual, "max_epochs": 1, "random_state": 0, **parameters}
    return AVIDDetector(**nested(chosen)).fit(stacks, groups=clips), frames, stacks


def cases(*sizes):
    """Name the detector of images, and those of video at some sizes, each with what it reads."""
    found = {"images of 128 x 128, the defaults": image_detector()}
    for size in sizes:
        detector, _, stacks = video_detector(*size)
        found["stacks of {} x {}, pixels".format(*size)] = detector, stacks[:32]
    return found


def chunk(images):
    """Return as many images as the detector looks at at once, as a tensor."""
    n = chunk_size(*images.shape[1:3], "cpu")
    stacks = images if images.ndim == 4 else images[..., None]
    return torch.from_numpy(np.ascontiguousarray(stacks[:n].transpose(0, 3, 1, 2)) / 255).float()


def scoring():
    """Score and segment, and run the bare networks on the same chunks."""
    figures = {}
    for name, (detector, images) in cases(*VIDEO_SIZES).items():
        batch = chunk(images)
        rounds = -(-len(images) // len(batch))

        @torch.inference_mode()
        def bare(detector=detector, batch=batch, rounds=rounds):
            for _ in range(rounds):
                detector.inpainter_(batch)
                detector.detector_(batch)

        networks, scored, segmented = seconds(
            REPETITIONS,
            bare,
            lambda detector=detector, images=images: detector.score_samples(images),
            lambda detector=detector, images=images: detector.segment(images),
        )
        figures[name] = {
            "bare networks, images a second": rounds * len(batch) / networks,
            "score_samples, images a second": len(images) / scored,
            "segment, images a second": len(images) / segmented,
            "score_samples over bare": networks / rounds / len(batch) * len(images) / scored,
            "segment over bare": networks / rounds / len(batch) * len(images) / segmented,
        }
    return figures


def training():
    """Train an epoch, and the bare networks on as many ready batches; means of four."""
    _, _, stacks = video_detector(120, 180)
    trainings = {
        "images of 128 x 128, the defaults": (
            {"features": "pixels"},
            image_detector()[1].repeat(16, 0),
            None,
        ),
        "stacks of 120 x 180, pixels": (
            VIDEO_PIXELS,
            stacks.repeat(32, 0),
            np.arange(80 * 32) // 320,
        ),
    }
    figures = {}
    for name, (parameters, images, clips) in trainings.items():

        def fit(parameters=parameters, images=images, clips=clips):
            ends = Ends()
            chosen = {**parameters, "max_epochs": 3, "random_state": 0, "callbacks": [ends]}
            detector = AVIDDetector(**nested(chosen)).fit(images, groups=clips)
            return detector, ends.at[-1] - ends.at[0]

        detector, taken = fit()
        net = detector.net_
        side = detector._crop_size or max(images.shape[1:3])
        shape = [min(side, length) for length in images.shape[1:3]]
        channels = images.shape[3] if images.ndim == 4 else 1
        batch = torch.rand(net.batch_size, channels, *shape)
        n_steps = len(net.history[-1, "batches"])
        # The adversarial terms join late; the bare networks play the last two epochs of three.
        begins = (net.adversarial_start if net.adversarial_weight else 1) * 3 * n_steps

        def bare(net=net, batch=batch, n_steps=n_steps, begins=begins):
            inpainter, judge = net.inpainter_.train(), net.detector_.train()
            for network in (inpainter, judge):
                network.requires_grad_(True)
            for step in range(n_steps, 3 * n_steps):
                adversarial = step >= begins
                restored = inpainter(batch, torch.zeros_like(batch))
                loss = judge(batch).mean()
                if adversarial:
                    loss = loss + judge(restored.detach()).mean()
                net.detector_optimizer_.zero_grad()
                loss.backward()
                net.detector_optimizer_.step()
                error = (restored - batch).abs().mean()
                if adversarial:
                    error = error + judge(restored).mean()
                net.inpainter_optimizer_.zero_grad()
                error.backward()
                net.inpainter_optimizer_.step()

        # In turn: the machine is not equally fast all the time.
        began = time.perf_counter()
        bare()
        ready = time.perf_counter() - began
        taken += fit()[1]
        began = time.perf_counter()
        bare()
        ready += time.perf_counter() - began
        figures[name] = {
            "an epoch, seconds": taken / 4,
            "the same steps of bare networks, seconds": ready / 4,
            "bare over fit": ready / taken,
            "steps": n_steps,
        }
    return figures


class Ends(Callback):
    """Note when an epoch ends, all that follows its steps included."""

    def __init__(self):
        self.at = []

    def on_epoch_end(self, net, **kwargs):
        """Take the time, after all other callbacks."""
        self.at.append(time.perf_counter())


def corruption():
    """Make corrupted batches; seconds for 16 images of 128 x 128."""
    images = image_detector()[1]
    batch = torch.from_numpy(images[:16, None] / 255).float()
    generator = torch.Generator().manual_seed(0)

    def corrupt(family):
        return lambda: family(batch, gamma=0.4, generator=generator)

    made = seconds(
        REPETITIONS, *(corrupt(family) for family in (noise, masking, synthetic_anomalies))
    )
    return {"a batch, seconds": dict(zip(("noise", "masking", "synthetic"), made, strict=True))}


def live():
    """Stack, score and mask frames one at a time in a new process, as `skavid watch` does."""
    # In a process that has trained before, idle threads sleep, and a frame takes longer.
    figures = {}
    made = {
        name: partial(video_detector, *size, **more) for name, (size, more, _) in CHOICES.items()
    }
    for height, width in VIDEO_SIZES[1:]:
        made[f"{height} x {width}, the defaults"] = partial(video_detector, height, width, VIDEO)
    for name, make in made.items():
        detector, frames, _ = make()
        with (
            tempfile.TemporaryDirectory() as folder,
            ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other,
        ):
            path = Path(folder) / "model.skavid"
            detector.save(path)
            taken = other.submit(_watch, path, frames, torch.get_num_threads()).result()
        figures[name] = {
            "frames a second, three runs": sorted(1 / statistics.median(run) for run in taken),
            "the slowest of a hundred, ms": 1e3 * float(np.quantile(np.concatenate(taken), 0.99)),
        }
    return figures


def _watch(path, frames, n_threads):
    """Return the seconds of each frame, three times."""
    torch.set_num_threads(n_threads)
    detector, runs = AVIDDetector.load(path), []
    for _ in range(4):  # the first one warms up
        stream, taken = TemporalStacker().stream(), []
        for frame in frames:
            began = time.perf_counter()
            detector.find(stream.push(frame)[None])
            taken.append(time.perf_counter() - began)
        runs.append(taken)
    return runs[1:]


def folded(network):
    """Fold batch statistics into the convolutions before them."""
    network = copy.deepcopy(network)
    for part in network.modules():
        if isinstance(part, nn.Sequential):
            for i in range(len(part) - 1):
                if isinstance(part[i], nn.Conv2d) and isinstance(part[i + 1], nn.BatchNorm2d):
                    part[i], part[i + 1] = fuse_conv_bn_eval(part[i], part[i + 1]), nn.Identity()
    return network


def forms():
    """Run both networks plain, folded, channels last, in bfloat16 and compiled; plain is 1."""
    figures = {}
    for name, (detector, images) in cases((240, 360)).items():
        batch = chunk(images)
        pair = [detector.inpainter_.eval(), detector.detector_.eval()]
        last = {"memory_format": torch.channels_last}

        @torch.inference_mode()
        def both(networks, given):
            return [network(given) for network in networks]

        runs = {
            "plain": partial(both, pair, batch),
            "batch statistics folded in": partial(both, [folded(n) for n in pair], batch),
            "channels last": partial(
                both, [copy.deepcopy(n).to(**last) for n in pair], batch.to(**last)
            ),
            "bfloat16": partial(
                both, [copy.deepcopy(n).bfloat16() for n in pair], batch.bfloat16()
            ),
        }
        compiled = partial(both, [torch.compile(n) for n in pair], batch)
        try:
            compiled()
        except Exception as reason:  # no compiler, most likely
            print(f"torch.compile: {type(reason).__name__}")
        else:
            runs["torch.compile"] = compiled
        taken = seconds(REPETITIONS, *runs.values())
        expected = runs["plain"]()
        figures[name] = {
            form: {
                "speed": taken[0] / time_,
                "largest difference": max(
                    float((one.float() - other).abs().max())
                    for one, other in zip(run(), expected, strict=True)
                ),
            }
            for (form, run), time_ in zip(runs.items(), taken, strict=True)
        }
    return figures


def limit():
    """Compare the convolutions' operations a second with those of a large matrix product."""
    left, right = torch.rand(2, 2048, 2048)
    figures = {}
    for name, (detector, images) in cases((240, 360)).items():
        batch = chunk(images)
        for label, network in (("I", detector.inpainter_), ("D", detector.detector_)):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(batch)

            @torch.inference_mode()
            def run(network=network, batch=batch):
                network(batch)

            product, taken = seconds(REPETITIONS, lambda: left @ right, run)
            reached, possible = counter.get_total_flops() / taken, 2 * 2048**3 / product
            figures[f"{label}, {name}"] = {
                "GFLOP/s": reached / 1e9,
                "matrix product, GFLOP/s": possible / 1e9,
                "share": reached / possible,
            }
    return figures


def onnx():
    """Look at images in onnxruntime and in torch, in turn, each in a process of its own."""
    figures = {}
    for name, (detector, images) in cases((120, 180), (240, 360)).items():
        with tempfile.TemporaryDirectory() as folder:
            to_onnx(detector, f"{folder}/detector.onnx")
            detector.save(f"{folder}/detector.skavid")
            np.save(f"{folder}/images.npy", images)
            for n in (1, 8):
                taken = {"torch": [], "onnxruntime": []}
                for runtime in [*taken] * 3:
                    asked = ["--child", runtime, folder, str(n)]
                    taken[runtime].append(float(_child(*asked)))
                torch_, other = (statistics.median(times) for times in taken.values())
                figures[f"{name}, {n} at once"] = {
                    "torch, ms an image": 1e3 * torch_ / n,
                    "onnxruntime, ms an image": 1e3 * other / n,
                    "torch over onnxruntime": torch_ / other,
                }
    return figures


def _look(runtime, folder, n):
    """Print the median time of `maps` or of the graph; a runtime's idle threads stay apart."""
    images = np.load(f"{folder}/images.npy")[: int(n)]
    if runtime == "torch":
        detector = AVIDDetector.load(f"{folder}/detector.skavid")
        print(seconds(REPETITIONS, lambda: detector.maps(images))[0])
        return
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(f"{folder}/detector.onnx", options)
    images = images if images.ndim == 4 else images[..., None]
    print(seconds(REPETITIONS, lambda: session.run(None, {"images": images}))[0])


def growth():
    """Score and train on ten times as many mapped frames, and on larger images."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/frames.npy"
        frames = np.lib.format.open_memmap(path, "w+", np.uint8, (GROWTH[1], 60, 90))
        for start in range(0, len(frames), 500):
            frames[start : start + 500] = np.random.default_rng(start).integers(
                0, 255, (500, 60, 90), dtype=np.uint8
            )
        del frames
        for what in ("score", "fit"):
            few, many = (json.loads(_child("--child", what, path, str(n))) for n in GROWTH)
            figures[f"{what}, {GROWTH[0]:,} and {GROWTH[1]:,} frames"] = {
                "peak memory, MiB": [few["peak"], many["peak"]],
                "memory, ratio": many["peak"] / few["peak"],
                "time, ratio": many["seconds"] / few["seconds"],
            }
    detector, _ = image_detector(64)
    sides = (128, 256, 512)
    tests = [np.zeros((4, side, side), np.uint8) for side in sides]
    taken = seconds(5, *(lambda test=test: detector.score_samples(test) for test in tests))
    figures["score, sides of 128, 256 and 512 px"] = {
        "time to that of the size before": [b / a for a, b in pairwise(taken)]
    }
    return figures


def _grow(what, path, n):
    """Print seconds and peak memory of a look at, or a training on, the first n mapped frames."""
    small = {
        "features": "pixels",
        "inpainter_width": 8,
        "detector_width": 8,
        "max_epochs": 1,
        "random_state": 0,
    }
    frames = np.load(path, mmap_mode="r")[: int(n)]
    detector = AVIDDetector(**nested(small)).fit(
        frames[:64] if what == "score" else frames[: GROWTH[0]]
    )
    began = time.perf_counter()
    detector.score_samples(frames) if what == "score" else AVIDDetector(**nested(small)).fit(
        frames
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # Mapped pages that the system keeps for itself count as the process's own: leave them out.
    status = Path("/proc/self/status").read_text()
    mapped = int(status.split("RssFile:")[1].split()[0]) / 1024
    print(json.dumps({"seconds": time.perf_counter() - began, "peak": peak - mapped}))


def pixels():
    """Judge as many masks as UCSD Ped2 has, at 240 x 360; extra memory beside masks and maps."""
    masks = np.zeros((2010, 240, 360), dtype=bool)
    for frame in range(1648):
        masks[frame, 100:130, frame % 330 : frame % 330 + 30] = True
    maps = np.random.default_rng(0).normal(size=masks.shape).astype(np.float32) + masks
    figures = {}
    for rule in ("pami2014", "cvpr2010", "dual"):
        began = time.perf_counter()
        pixel_level_curve(masks, maps, rule=rule)
        taken = time.perf_counter() - began
        tracemalloc.start()
        pixel_level_curve(masks, maps, rule=rule)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        figures[rule] = {"seconds": taken, "peak, MB": peak / 1e6}
    return figures


PARTS = {
    "scoring": scoring, "training": training, "live": live, "forms": forms, "limit": limit,
    "onnx": onnx, "growth": growth, "corruption": corruption, "pixels": pixels,
}  # fmt: skip


def _child(*arguments):
    """Run this file in another process; return what it printed last."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    return done.stdout.strip().splitlines()[-1]


def write(folder):
    """Write the page of tables from the kept figures."""
    kept = json.loads((folder / "figures.json").read_text())
    lines = [
        "# Speed, memory and growth",
        "",
        "Written by `python benchmarks/speed.py`. Ratios are medians of interleaved repetitions "
        "in one run; milliseconds and images a second belong to the machine named below.",
    ]
    for part, run in kept.items():
        rows = run["figures"]
        names = list(next(iter(rows.values())))
        if any(list(row) != names for row in rows.values()):
            names = list(dict.fromkeys(name for row in rows.values() for name in row))
        lines += ["", f"## {part.capitalize()}", "", PARTS[part].__doc__, ""]
        lines.append("| | " + " | ".join(names) + " |")
        lines.append("|---" * (len(names) + 1) + "|")
        for name, row in rows.items():
            cells = [_written(row.get(column, "")) for column in names]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines += [
            "",
            "*{machine}, {threads} threads, torch {torch}, skavid {skavid}*".format(**run),
        ]
    if "live" in kept:
        lines += quality(kept["live"])
    (folder / "tables.md").write_text("\n".join(lines) + "\n")


def quality(live):
    """Join frames a second with what `benchmarks/paper.py` found on UCSD Ped2 at that price."""
    lines = [
        "",
        "## Speed against quality",
        "",
        "UCSD Ped2, networks over pixels: `python benchmarks/paper.py --sets ped2 --set "
        "features=pixels balance=0.2 detector__region_size=auto training__crop_size=auto "
        "training__adversarial_weight=0 postprocessing__smoothing=auto "
        "postprocessing__dilation=auto`, followed by what the row says; medians over its seeds.",
        "",
        "| | live, frames a second | frame EER, % | pixel EER, % | followed by |",
        "|---|---|---|---|---|",
    ]
    groups = tables.read(PAPER)
    for name, (size, parameters, form) in CHOICES.items():
        runs = groups.get(("ped2", form), [])
        if not runs or name not in live["figures"]:
            continue
        eers = [
            statistics.median(run["levels"][level]["both"]["eer"] for run in runs)
            for level in ("frame", "pixel")
        ]
        speed = statistics.median(live["figures"][name]["frames a second, three runs"])
        chosen = {**parameters, "max_epochs": runs[0]["parameters"]["max_epochs"]}
        options = " ".join(f"{parameter}={value}" for parameter, value in chosen.items())
        options += f" --name {form} --size {size[0]} {size[1]} --seeds "
        options += " ".join(str(run["seed"]) for run in runs)
        lines.append(
            f"| {name} | {speed:.0f} | {100 * eers[0]:.1f} | {100 * eers[1]:.1f} | `{options}` |"
        )
    return lines


def _written(figure):
    if isinstance(figure, dict):
        return "; ".join(f"{name} {_written(value)}" for name, value in figure.items())
    if isinstance(figure, list):
        return ", ".join(map(_written, figure))
    return f"{figure:.3g}" if isinstance(figure, float) else str(figure)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--threads", type=int, help="of torch; its own choice when left out")
    parser.add_argument("--results", type=Path, default=KEPT)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        task = arguments.child[0]
        (_grow if task in ("score", "fit") else _look)(*arguments.child)
        return
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / "figures.json"
    for part in arguments.parts:
        print(f"{part}: {PARTS[part].__doc__}", flush=True)
        figures = PARTS[part]()
        kept = json.loads(path.read_text()) if path.exists() else {}
        kept[part] = {
            "figures": figures,
            "machine": f"{platform.machine()}, {platform.system()}",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "skavid": __version__,
        }
        ordered = {name: kept[name] for name in PARTS if name in kept}
        path.write_text(json.dumps(ordered, indent=1) + "\n")
        for name, row in figures.items():
            print(f"  {name}: {_written(row)}", flush=True)
    write(arguments.results)
    print(f"written: {arguments.results / 'tables.md'}")


if __name__ == "__main__":
    main()
