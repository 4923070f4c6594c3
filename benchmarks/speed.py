"""How much slower than its two bare networks is the detector? Ratios within one run.

    make bench

Prints a table and keeps it as benchmarks/results/speed.json. Each figure is the median of
interleaved repetitions; only the ratios travel from one machine to another.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
import tracemalloc
from pathlib import Path

import numpy as np
import torch

from skavid import AVIDDetector, __version__
from skavid.corruption import grafts, hiding, noise
from skavid.metrics import pixel_level_curve

REPETITIONS = 5
SIDE = 128


def seconds(*functions):
    """Time functions in turn; return the median of each."""
    taken = [[] for _ in functions]
    for _ in range(REPETITIONS + 1):
        for function, times in zip(functions, taken, strict=True):
            began = time.perf_counter()
            function()
            times.append(time.perf_counter() - began)
    return [statistics.median(times[1:]) for times in taken]


def compare_scoring(detector, images):
    """Score images, and run the bare networks on the same chunks."""
    tensor = torch.from_numpy(images[:, None] / 255).float()

    @torch.inference_mode()
    def bare():
        for chunk in tensor.split(2):
            for _ in range(detector.n_draws):
                detector.inpainter_(chunk, chunk)
            detector.detector_(chunk)

    scored, networks = seconds(lambda: detector.score_samples(images), bare)
    return {
        "score_samples, images a second": len(images) / scored,
        "bare networks, images a second": len(images) / networks,
        "ratio": networks / scored,
    }


def compare_corruption(detector, images):
    """Make corrupted batches, and take bare training steps on batches of the same size."""
    batch = torch.from_numpy(images[:16, None] / 255).float()
    generator = torch.Generator().manual_seed(0)
    inpainter, judge = detector.net_.inpainter_, detector.net_.detector_
    inpainter.requires_grad_(True).train()
    judge.requires_grad_(True).train()

    def step():
        inpainter(batch, batch).mean().backward()
        judge(torch.cat([batch, batch])).mean().backward()

    def corrupt(family):
        return lambda: family(batch, gamma=0.4, sigma=1.0, generator=generator)

    stepped, *made = seconds(step, *(corrupt(family) for family in (noise, hiding, grafts)))
    names = ("noise", "hiding", "grafts")
    shares = {f"{n}, share of a step": t / stepped for n, t in zip(names, made, strict=True)}
    return {"bare training step, seconds": stepped, **shares}


def judge_pixels():
    """Judge as many masks as UCSD Ped2 has, at 240 x 360; extra memory beside masks and maps."""
    masks = np.zeros((2010, 240, 360), dtype=bool)
    for frame in range(1648):
        masks[frame, 100:130, frame % 330 : frame % 330 + 30] = True
    maps = np.random.default_rng(0).normal(size=masks.shape).astype(np.float32) + masks
    figures = {}
    for rule in ("pami2014", "cvpr2010", "dual"):
        began = time.perf_counter()
        pixel_level_curve(masks, maps, rule=rule)
        figures[f"{rule}, seconds"] = time.perf_counter() - began
        tracemalloc.start()
        pixel_level_curve(masks[::10], maps[::10], rule=rule)
        tenth = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        pixel_level_curve(masks, maps, rule=rule)
        whole = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        figures[f"{rule}, peak MB"] = whole / 1e6
        figures[f"{rule}, peak over that of a tenth"] = whole / tenth
    return figures


def main():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (32, SIDE, SIDE), dtype=np.uint8)
    detector = AVIDDetector(max_epochs=1, random_state=0).fit(images)
    results = {
        "skavid": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "images": f"{SIDE} x {SIDE}, grey",
        "scoring": compare_scoring(detector, images),
        "corruption": compare_corruption(detector, images),
        "pixel level": judge_pixels(),
    }
    for part in ("scoring", "corruption", "pixel level"):
        for name, figure in results[part].items():
            print(f"{part:12}{name:36}{figure:10.3f}")
    path = Path(__file__).parent / "results" / "speed.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"kept in {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
