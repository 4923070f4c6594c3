"""What the README and the examples show, run as they stand."""

from __future__ import annotations

import gzip
import os
import re
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

import skavid

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_first_example_has_at_most_twelve_lines():
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) <= 12


def test_the_two_set_up_commands_stand_in_the_readme_and_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command}" in README
        assert re.search(rf"^{command}:", makefile, flags=re.MULTILINE)


def test_every_link_of_the_readme_leads_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) >= 5
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_every_public_name_of_the_package_stands_in_the_readme():
    for name in set(skavid.__all__) - {"__version__"}:
        assert re.search(rf"\b{name}\b", README), name


def test_every_block_of_the_readme_runs(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCKS:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # The pages train on a handful of images, for a moment.
            warnings.filterwarnings("ignore", "X (holds|has) [0-9,]+ (image|clip)", UserWarning)
            warnings.filterwarnings("ignore", "The detector cannot tell synth", UserWarning)
            exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "anomaly-maps.png").stat().st_size > 1000
    assert (tmp_path / "detector.skavid").exists()


def run_example(name, folder, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.slow
def test_the_demo_prints_figures_of_each_network_and_draws(tmp_path):
    printed = run_example("demo.py", tmp_path, "--epochs", 1)
    for name in ("I alone", "D alone", "both"):
        assert re.search(
            rf"^{name} +AUC of tiles \d\.\d\d\d, AUPRO of pixels \d\.\d\d\d$",
            printed,
            flags=re.MULTILINE,
        )
    assert (tmp_path / "skavid-demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_every_picture_is_drawn_in_the_style_that_is_asked_for(tmp_path):
    matplotlib = pytest.importorskip("matplotlib.image")
    few = ("--epochs", 1, "--images", 32, "--style", "dark_background")
    printed = run_example("pictures.py", tmp_path, *few)
    names = ["irregularity", "scores", "roc", "plane", "history"]
    assert printed.splitlines()[1:] == [f"skavid-{name}.png" for name in names]
    for name in names:
        corner = matplotlib.imread(tmp_path / f"skavid-{name}.png")[0, 0]
        assert corner[:3].tolist() == [0, 0, 0]


def write_idx(path, array):
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def write_clip(folder, n_frames, speed):
    """Write frames of a square that walks, and masks where it walks too fast."""
    image = pytest.importorskip("PIL.Image")
    masks = folder.with_name(f"{folder.name}_gt")
    for directory in (folder, masks):
        directory.mkdir(parents=True)
    for t in range(n_frames):
        frame, mask = np.full((120, 180), 90, np.uint8), np.zeros((120, 180), np.uint8)
        left = t * speed % 160
        frame[50:70, left : left + 20] = 200
        mask[50:70, left : left + 20] = 255 * (speed > 2)
        image.fromarray(frame).save(folder / f"{t + 1:03d}.jpg")
        image.fromarray(mask).save(masks / f"{t + 1:03d}.png")


@pytest.mark.slow
def test_ir_mnist_runs_on_any_idx_files(tmp_path):
    digits = load_digits()
    for part, some in (("train", slice(0, 1200)), ("t10k", slice(1200, None))):
        pictures = np.kron(digits.images[some] * 15, np.ones((1, 3, 3)))
        pictures = np.pad(pictures, ((0, 0), (2, 2), (2, 2)))
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", pictures)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", digits.target[some])
    printed = run_example(
        "ir_mnist.py", tmp_path, "--data", tmp_path, "--epochs", 1, "--images", 32
    )
    for name in ("I alone", "D alone", "both"):
        assert re.search(rf"^{name}( +\d\.\d\d\d){{4}}$", printed, flags=re.MULTILINE)
    assert (tmp_path / "skavid-ir-mnist.png").exists()


@pytest.mark.slow
def test_ped2_runs_on_any_clips_in_its_layout(tmp_path):
    for clip in (1, 2, 3):
        write_clip(tmp_path / "Train" / f"Train{clip:03d}", 30, speed=clip % 2 + 1)
    write_clip(tmp_path / "Test" / "Test001", 30, speed=1)
    write_clip(tmp_path / "Test" / "Test002", 30, speed=6)
    printed = run_example("ped2.py", tmp_path, "--data", tmp_path, "--epochs", 1)
    for name in ("I alone", "D alone", "both"):
        assert re.search(rf"^{name}( +\d\.\d\d\d){{3}}$", printed, flags=re.MULTILINE)
    assert (tmp_path / "skavid-ped2.png").exists()
