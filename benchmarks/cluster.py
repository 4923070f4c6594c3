"""Fit on an archive that is read block by block, by two Dask workers: memory and time.

    python benchmarks/cluster.py                        # about twenty minutes on two cores
    python benchmarks/cluster.py --sizes 1000 2000 --pooling place

An archive of random images of 64 x 64 is written to a temporary file. For each number of images a
process of its own starts a LocalCluster of two workers with one thread each and fits the default
detector by `skavid.distributed.fit`, in blocks of 1000 images that the workers read. Kept are
seconds, and the peak memory of this process and of the larger worker. Figures and the table are
in benchmarks/results/cluster/.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

KEPT = Path(__file__).resolve().parent / "results" / "cluster"
SIDE, BLOCK = 64, 1000
SIZES = {"everywhere": (10_000, 30_000, 100_000), "place": (1_000, 2_000, 4_000)}


def write_archive(path, n):
    with open(path, "wb") as file:
        for start in range(0, n, BLOCK):
            rng = np.random.default_rng(start)
            y, x = np.mgrid[:SIDE, :SIDE]
            phase = rng.uniform(0, 6, (2, BLOCK, 1, 1))
            images = 127 + 60 * np.sin(x / 3 + phase[0]) * np.cos(y / 4 + phase[1])
            images += rng.normal(0, 8, images.shape)
            file.write(images.clip(0, 255).astype(np.uint8).tobytes())


def read(path, start, n):
    """Read some images, without mapped pages, which would count as memory."""
    flat = np.fromfile(path, np.uint8, n * SIDE * SIDE, offset=start * SIDE * SIDE)
    return flat.reshape(n, SIDE, SIDE)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fit(path, n, pooling):
    """Print seconds and peaks of one fit."""
    import dask
    import dask.array as da
    from dask.distributed import Client, LocalCluster

    from skavid import AVIDDetector, distributed
    from skavid.components import nested

    blocks = [
        da.from_delayed(dask.delayed(read)(path, start, BLOCK), (BLOCK, SIDE, SIDE), np.uint8)
        for start in range(0, n, BLOCK)
    ]
    with (
        LocalCluster(2, threads_per_worker=1, dashboard_address=":0", memory_limit=0) as cluster,
        Client(cluster) as client,
    ):
        client.run(lambda: __import__("skavid").AVIDDetector)
        before = [peak(), max(client.run(peak).values())]
        began = time.perf_counter()
        parameters = {"features": "patches", "inpainter__pooling": pooling, "random_state": 0}
        detector = AVIDDetector(**nested(parameters))
        distributed.fit(detector, da.concatenate(blocks))
        taken = time.perf_counter() - began
        found = {
            "seconds": taken, "memory of this process, MiB": peak(),
            "memory of a worker, MiB": max(client.run(peak).values()),
            "before, MiB": before, "thresholds": [detector.alpha_, detector.zeta_],
        }  # fmt: skip
    print(json.dumps(found))


def write_tables():
    kept = json.loads((KEPT / "figures.json").read_text())
    lines = [
        "# Fit on blocks, by two Dask workers",
        "",
        "Written by `python benchmarks/cluster.py`, whose first lines say what is measured.",
        "",
        "| pooling | images | seconds | images per s | memory of a worker, MiB "
        "| memory of the process that asks, MiB |",
        "|---" * 6 + "|",
    ]
    for pooling, runs in kept.items():
        for n, run in sorted(runs.items(), key=lambda one: int(one[0])):
            lines.append(
                f"| {pooling} | {int(n):,} | {run['seconds']:.0f} "
                f"| {int(n) / run['seconds']:.0f} | {run['memory of a worker, MiB']:.0f} "
                f"| {run['memory of this process, MiB']:.0f} |"
            )
    (KEPT / "tables.md").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pooling", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--sizes", nargs="+", type=int, help="images, multiples of 1000")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        fit(given.child[0], int(given.child[1]), given.child[2])
        return
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / "figures.json"
    for pooling in given.pooling:
        sizes = given.sizes or SIZES[pooling]
        with tempfile.TemporaryDirectory() as folder:
            archive = f"{folder}/archive"
            write_archive(archive, max(sizes))
            for n in sizes:
                done = subprocess.run(
                    [sys.executable, __file__, "--child", archive, str(n), pooling],
                    check=True, stdout=subprocess.PIPE, text=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )  # fmt: skip
                found = json.loads(done.stdout.strip().splitlines()[-1])
                kept = json.loads(path.read_text()) if path.exists() else {}
                kept.setdefault(pooling, {})[str(n)] = found
                path.write_text(json.dumps(kept, indent=1) + "\n")
                write_tables()
                print(f"{pooling}, {n:,} images: {found}", flush=True)


if __name__ == "__main__":
    main()
