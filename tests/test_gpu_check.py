"""The check of a GPU runs through without one, and says what failed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu

    monkeypatch.setattr(gpu, "LOOK", 0.01)
    yield gpu
    sys.modules.pop("gpu")


@pytest.mark.filterwarnings("ignore")
def test_a_dry_run_does_all_of_it_on_the_cpu(gpu, tmp_path):
    cases = ["tiles, patches", "ped2, pixels"]
    found = gpu.main(["--dry-run", "--results", str(tmp_path), "--cases", *cases])
    kept = json.loads((tmp_path / "dry-run.json").read_text())
    assert found == 0
    assert kept["tests"]["passes"] is True
    assert list(kept["cases"]) == cases
    for case in kept["cases"].values():
        assert case["scores, device against CPU"]["largest"] == 0
        assert case["bare networks, images per s"] > 0
    assert (tmp_path / "dry-run.md").read_text().count("drawn frames") == 1


@pytest.mark.filterwarnings("ignore")
def test_a_case_that_fails_costs_no_other_one_and_is_told(gpu, tmp_path, monkeypatch):
    def fails(name, *_):
        raise RuntimeError("two devices")

    monkeypatch.setattr(gpu, "run_tests", lambda timeout: {"passes": None, "says": "left out"})
    monkeypatch.setattr(gpu, "measure", fails)
    assert gpu.main(["--dry-run", "--results", str(tmp_path)]) == 1
    kept = json.loads((tmp_path / "dry-run.json").read_text())
    assert {case["says"] for case in kept["cases"].values()} == {"RuntimeError: two devices"}
    assert set(kept["cases"]) == set(gpu.CASES)


def test_scores_of_two_devices_pass_by_their_spread(gpu):
    scores = np.arange(200.0)
    near, far = scores + 0.04 * scores.std(), scores + 0.06 * scores.std()
    assert gpu.compare(scores, near)["passes"]
    assert not gpu.compare(scores, far)["passes"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(gpu, capsys):
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "torch finds no CUDA device here" in capsys.readouterr().err
