"""The rivals: each finds what is obvious, and the page says who wins."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.utils import Bunch

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "results" / "rivals"


@pytest.fixture(autouse=True)
def rivals(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import rivals

    yield rivals
    for name in ("rivals", "paper", "tables"):
        sys.modules.pop(name, None)


@pytest.fixture
def scene():
    """Forty normal images, ten more and ten with a bright square of 6 px."""
    rng = np.random.default_rng(0)
    images = rng.normal(100, 10, size=(60, 24, 24, 3)).clip(0, 255).astype(np.uint8)
    images[50:, 8:14, 9:15, 2] = 250  # in the newest moment alone
    labels = np.repeat([1, -1], [10, 10])
    masks = np.zeros((20, 24, 24), bool)
    masks[10:, 8:14, 9:15] = True
    return Bunch(train=images[:40], test=images[40:], labels=labels, masks=masks)


@pytest.mark.parametrize(
    "name", ["z-score of pixels", "frame difference", "PCA residual", "neighbours of patches"]
)
@pytest.mark.parametrize("grey", [False, True])
def test_maps_are_highest_on_an_obvious_square(rivals, scene, name, grey):
    if grey and name == "frame difference":
        pytest.skip("one moment differs from no other")
    train, test = (x[..., 2] if grey else x for x in (scene.train, scene.test))
    maps = rivals.MAPS[name](train, seed=0)(test)
    assert maps.shape == (20, 24, 24)
    assert maps[scene.masks].mean() > 2 * maps[:10].mean()
    smoothed = rivals.smooth(maps, mean=5)
    assert roc_auc_score(scene.labels == -1, smoothed.max(axis=(1, 2))) == 1


@pytest.mark.parametrize("name", ["IsolationForest", "OneClassSVM"])
def test_scores_are_higher_for_images_with_an_obvious_square(rivals, scene, name):
    scene.test[10:, 4:20, 4:20] = 250
    scores = rivals.SCORES[name](scene.train, seed=0)(scene.test)
    assert roc_auc_score(scene.labels == -1, scores) == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["PyOD KNN", "PyOD AutoEncoder", "PyOD DeepSVDD"])
def test_pyod_scores_are_higher_for_images_with_an_obvious_square(rivals, scene, name):
    pytest.importorskip("pyod", reason="PyOD is absent: pip install 'skavid[bench]'")
    scene.test[10:, 4:20, 4:20] = 250
    scores = rivals.SCORES[name](scene.train, seed=0)(scene.test)
    assert scores.shape == (20,)
    assert roc_auc_score(scene.labels == -1, scores) > 0.9


def test_a_z_score_is_the_distance_in_standard_deviations(rivals):
    train = np.array([[[10, 0]], [[30, 0]]], np.uint8)  # means 20 and 0, deviations 10 and 0
    maps = rivals.z_score(train)(np.array([[[53, 4]]], np.uint8))
    np.testing.assert_allclose(maps, [[[33 / 11, 4 / 1]]])


@pytest.mark.parametrize(("side", "patch"), [(16, 16), (17, 16), (28, 16), (128, 16), (3, 3)])
def test_patches_cover_a_side_to_its_end(rivals, side, patch):
    found = rivals.starts(side, patch)
    assert {pixel for at in found for pixel in range(at, at + patch)} == set(range(side))


def test_small_rows_are_means_over_blocks(rivals, monkeypatch):
    monkeypatch.setattr(rivals, "SIDE", 3)
    images = np.random.default_rng(0).integers(256, size=(2, 4, 7), dtype=np.uint8)
    # Blocks of 3 px make 7 px fit into 3; what is left over at the end is dropped.
    wanted = [[one[:3, 0:3].mean() / 255, one[:3, 3:6].mean() / 255] for one in images]
    np.testing.assert_allclose(rivals.small_rows(images), wanted, rtol=1e-6)


def test_cells_become_the_puzzles_they_were_cut_from(rivals):
    images = np.arange(2 * 6 * 9).reshape(2, 6, 9)
    data = Bunch(test=images, cell=3)
    cut = rivals.paper.cells(images, 3)
    assert cut.shape == (12, 3, 3)
    np.testing.assert_array_equal(cut[1], images[0, :3, 3:6])
    np.testing.assert_array_equal(rivals.puzzles(cut, data), images)


@pytest.mark.parametrize("name", ["z-score of pixels", "IsolationForest"])
def test_puzzles_are_judged_by_cells_too(rivals, name):
    rng = np.random.default_rng(0)
    images = rng.normal(100, 10, size=(40, 16, 16)).astype(np.uint8)
    images[35:, 8:, :8] = 250
    masks = np.zeros((10, 16, 16), bool)
    masks[5:, 8:, :8] = True
    data = Bunch(
        train=images[:30], test=images[30:], labels=np.repeat([1, -1], [5, 5]), masks=masks,
        cell=8, test_groups=None, parameters={
            "postprocessing__min_area": 20, "postprocessing__min_area_of": "image",
        },
    )  # fmt: skip
    figures = rivals.measure(name, data, 0)
    assert figures["trained on"] == "120 cells"
    for level in ("frame", "cell"):
        assert figures["levels"][level]["eer"] == 0


def test_frames_alone_are_judged_where_there_is_no_map(rivals, scene):
    data = Bunch(**scene, test_groups=None, parameters={"postprocessing__smoothing": 3})
    with_maps = rivals.measure("z-score of pixels", data, 0)
    assert set(with_maps["levels"]) == set(with_maps["levels_filtered"])
    assert set(with_maps["levels"]) == {"frame", "pixel"}
    assert with_maps["filters"] == [3, 0]
    assert set(rivals.measure("OneClassSVM", data, 0)["levels"]) == {"frame"}


def test_what_cannot_run_is_left_out_with_a_reason(rivals, monkeypatch):
    def nothing(name):
        raise rivals.PackageNotFoundError(name)

    monkeypatch.setattr(rivals, "version", nothing)
    assert rivals.absent("PyOD KNN", None) == "pip install 'skavid[bench]'"
    assert "--anomalib" in rivals.absent(next(iter(rivals.ANOMALIB)), None)
    assert rivals.absent("z-score of pixels", None) is None


def a_rival(eer, filtered=None):
    def levels(value):
        return {"frame": {"eer": value, "auc": 1 - value}}

    figures = {
        "levels": levels(eer), "trained on": "3 images", "peak_mib": None,
        "cpu_seconds": {"fit": 1.0, "a test image": 0.001},
    }  # fmt: skip
    return figures if filtered is None else figures | {"levels_filtered": levels(filtered)}


def test_the_page_marks_and_names_who_wins(rivals):
    kept = {
        "set": "ped2", "form": "full", "seed": 0, "protocol": "frames", "n_train": 3, "n_test": 2,
        "versions": {"numpy": "2"}, "left out": {"PyOD KNN": "absent"},
        "rivals": {"z-score of pixels": a_rival(0.2, 0.15), "OneClassSVM": a_rival(0.1)},
    }  # fmt: skip
    figures = {"frame": {who: {"eer": 0.3, "auc": 0.7} for who in ("I alone", "both")}}
    figures["frame"]["D alone"] = {"eer": 0.25, "auc": 0.75}
    network = {
        "set": "ped2", "form": "full", "seed": 0, "protocol": "frames", "levels": figures,
        "seconds": {"fit": 9.0, "a test image": 0.002},
    }  # fmt: skip
    page = rivals.markdown([kept], [network, {**network, "seed": 1}, {**network, "set": "tiles"}])
    rows = [re.split(r" *\| *", line)[1:-1] for line in page.splitlines() if line[:2] == "| "][1:]
    assert [row[:5] for row in rows] == [
        ["AVID, I alone (full)", "30.0", "70.0", "30.0", "70.0"],
        ["AVID, D alone (full)", "25.0", "75.0", "25.0", "75.0"],
        ["AVID, both (full)", "30.0", "70.0", "30.0", "70.0"],
        ["z-score of pixels", "20.0", "80.0", "**15.0**", "**85.0**"],
        ["OneClassSVM", "**10.0**", "**90.0**", "", ""],
    ]
    assert "the lowest EER is that of OneClassSVM (10.0)" in page
    assert "the lowest of AVID is that of D alone (full) (25.0)." in page
    assert "Left out: PyOD KNN (absent)." in page


def test_the_kept_page_is_what_the_kept_figures_say(rivals):
    page = (KEPT / "tables.md").read_text()
    assert page == rivals.markdown(rivals.read(KEPT), rivals.read(rivals.paper.KEPT)), (
        "write it anew with: python benchmarks/rivals.py --tables"
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_is_kept_is_not_measured_again(rivals, real_data, tmp_path, capsys):
    command = [
        "--data", str(real_data), "--sets", "tiles", "--results", str(tmp_path), "--rivals",
        "z-score of pixels", "frame difference",
    ]  # fmt: skip
    rivals.main(command)
    path = tmp_path / "rivals-tiles-full-seed0.json"
    kept = json.loads(path.read_text())
    assert list(kept["rivals"]) == ["z-score of pixels"]  # tiles do not move
    capsys.readouterr()
    rivals.main(command)
    assert "z-score of pixels on tiles is kept" in capsys.readouterr().out
    assert json.loads(path.read_text()) == kept
