"""The paper's tables: what is kept, resumed and written."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "results" / "paper"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield
    for name in ("paper", "speed", "tables"):
        sys.modules.pop(name, None)


def a_run(seed, eer):
    figures = {"auc": 1 - eer, "eer": eer}
    return {
        "set": "ped2",
        "form": "full",
        "seed": seed,
        "protocol": "frames",
        "parameters": {"spacing": 2},
        "seconds": {"fit": 100.0},
        "environment": {"device": "cpu", "threads": 2, "torch": "2", "commit": "abc"},
        "levels": {
            "frame": dict.fromkeys(("I alone", "D alone", "both"), figures),
            "pixel": {judge: {**figures, "aupro": 0.5} for judge in ("I alone", "both")}
            | {"D alone": {**figures, "aupro": 0.25}},
        },
        "thresholds": {"alarms": 0.05, "target_fpr": 0.01},
    }


def test_tables_hold_medians_ranges_and_what_the_paper_prints():
    import tables

    page = tables.markdown({("ped2", "full"): [a_run(0, 0.1), a_run(1, 0.3), a_run(2, 0.125)]})
    rows = [re.split(r" *\| *", line)[1:-1] for line in page.splitlines() if "alone" in line]
    assert rows[0] == [
        "frame or image", "I alone", "12.5 (10.0 to 30.0)", "17.8", "87.5 (70.0 to 90.0)", "",
    ]  # fmt: skip
    assert rows[3] == [
        "pixel (PAMI 2014, 40 %)", "D alone", "12.5 (10.0 to 30.0)", "17.2",
        "87.5 (70.0 to 90.0)", "AUPRO 25.0 (25.0 to 25.0)",
    ]  # fmt: skip
    assert "Parameters beside the defaults: `spacing=2`." in page
    assert "Alarms on normal test images: 5.0 (5.0 to 5.0) %, asked for: 1 %." in page


def test_the_kept_page_is_what_the_kept_runs_say():
    import tables

    groups = tables.read(KEPT)
    assert groups
    assert (KEPT / "tables.md").read_text() == tables.markdown(groups)
    readme = (ROOT / "README.md").read_text()
    assert tables.overview(groups) in readme
    assert tables.fill(readme, groups) == readme


def test_the_overview_prefers_full_runs():
    import tables

    groups = {("ped2", "reduced"): [a_run(0, 0.4)], ("ped2", "full"): [a_run(0, 0.1)]}
    page = tables.fill(f"a {tables.BEGIN} old {tables.END} b", groups)
    assert page.startswith(f"a {tables.BEGIN}\n\n| data |")
    assert page.endswith(f"{tables.END} b")
    assert "| ped2, full | frame or image | 10.0 | 10.0 | 10.0 | 14 |" in page
    assert "40.0" not in page
    assert "old" not in page


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_is_kept_and_not_run_again(tmp_path, capsys):
    pytest.importorskip("matplotlib").use("Agg")
    import paper

    command = [
        "--data", str(tmp_path), "--sets", "shapes_slow", "--reduced", "--name", "small",
        "--results", str(tmp_path), "--threads", "1", "--set", "max_epochs=1",
        "features=pixels", "inpainter_width=4", "detector_width=8", "crop_size=40",
    ]  # fmt: skip
    paper.main(command)
    path = tmp_path / "shapes_slow-small-seed0.json"
    kept = path.read_text()
    run = json.loads(kept)
    assert run["parameters"]["max_epochs"] == 1
    for level in ("frame", "pixel"):
        for judge in ("I alone", "D alone", "both"):
            assert 0 < run["levels"][level][judge]["eer"] < 1
    assert {path.name for path in tmp_path.glob("shapes_slow-small*.png")} == {
        "shapes_slow-small.png", "shapes_slow-small-curves.png",
    }  # fmt: skip
    assert "shapes_slow, small" in (tmp_path / "tables.md").read_text()
    capsys.readouterr()
    paper.main(command)
    assert "shapes_slow-small-seed0.json is kept from an earlier run." in capsys.readouterr().out
    assert path.read_text() == kept
    # D's and I's figures of each epoch stand beside the choice that was made without labels.
    assert len(run["by_epoch"]) == run["parameters"]["max_epochs"]
    assert 0 < run["by_epoch"][0]["D alone"]["region"] < 1


def test_the_page_of_speed_follows_from_the_kept_figures(tmp_path):
    import speed

    kept = ROOT / "benchmarks" / "results" / "speed"
    (tmp_path / "figures.json").write_text((kept / "figures.json").read_text())
    speed.write(tmp_path)
    assert (tmp_path / "tables.md").read_text() == (kept / "tables.md").read_text()


def test_other_parameters_need_a_name(capsys):
    import paper

    with pytest.raises(SystemExit):
        paper.parse(["--set", "alpha=0.1"])
    assert "--size and --set make another benchmark; give it a --name" in capsys.readouterr().err
