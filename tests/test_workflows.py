"""What the README and the examples show, run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

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


def test_every_block_of_the_readme_runs(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCKS:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "what-they-saw.png").stat().st_size > 1000
    assert (tmp_path / "detector.joblib").exists()
    from matplotlib import pyplot

    pyplot.close("all")


def run_example(name, folder, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)],
        cwd=folder,
        env={**__import__("os").environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.slow
def test_the_demo_prints_figures_of_each_network_and_draws(tmp_path):
    printed = run_example("demo.py", tmp_path, "--epochs", 1, "--images", 32)
    for name in ("I alone", "D alone", "both"):
        assert re.search(rf"^{name}( +\d\.\d\d\d){{4}}$", printed, flags=re.MULTILINE)
    assert (tmp_path / "skavid-demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_ir_mnist_runs_on_real_digits(tmp_path, real_data):
    printed = run_example(
        "ir_mnist.py", tmp_path, "--data", real_data / "mnist", "--epochs", 1, "--images", 32
    )
    assert re.search(r"^both( +\d\.\d\d\d){4}$", printed, flags=re.MULTILINE)
    assert (tmp_path / "skavid-ir-mnist.png").exists()


@pytest.mark.slow
def test_ped2_runs_on_real_frames(tmp_path, real_data):
    folder = real_data / "ucsd_ped2" / "UCSDped2"
    printed = run_example("ped2.py", tmp_path, "--data", folder, "--epochs", 1, "--clips", 2)
    assert re.search(r"^both( +\d\.\d\d\d){3}$", printed, flags=re.MULTILINE)
    assert (tmp_path / "skavid-ped2.png").exists()
