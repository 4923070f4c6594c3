"""Large images in tiles of full resolution: training, scores, masks, measures and errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from skavid import AVIDDetector
from skavid.cli import evaluate, main
from skavid.datasets.sources import check_reading, draw_tiles, list_sources, tile_boxes

pytest.importorskip("safetensors")
Image = pytest.importorskip("PIL.Image")

SIDE = 32  # of the tiles
FAULT = np.s_[72:80, 100:108]
CHECKS = 64 + 128 * ((np.indices((8, 8)) // 2).sum(axis=0) % 2)
SHAPES = [(128, 160), (110, 150)]


def texture(seed, shape=SHAPES[0]):
    grain = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1)
    return (128 + 15 * grain / grain.std()).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Textures of two sizes, one with a small fault, and a model of tiles; never written to."""
    place = tmp_path_factory.mktemp("place")
    for folder, seeds in (("good", range(6)), ("more", range(100, 112)), ("test", range(50, 53))):
        (place / folder).mkdir()
        for seed in seeds:
            Image.fromarray(texture(seed, SHAPES[seed % 2])).save(place / folder / f"{seed}.png")
    faulty, mask = texture(50), np.zeros(SHAPES[0], np.uint8)
    faulty[FAULT], mask[FAULT] = CHECKS, 255
    Image.fromarray(faulty).save(place / "test" / "50.png")
    (place / "truth").mkdir()
    Image.fromarray(mask).save(place / "truth" / "50_mask.png")
    command = ["fit", str(place / "good"), str(place / "model"), "--tiles", str(SIDE)]
    assert main([*command, "--epochs", "1", "--quiet"]) == 0
    return place


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 90), st.integers(1, 90))
def test_tiles_of_one_size_cover_every_pixel_and_are_as_few_as_possible(h, w, high, wide):
    seen = np.zeros((h, w), int)
    boxes = tile_boxes((h, w), (high, wide))
    for left, top, width, height in boxes:
        assert (height, width) == (min(h, high), min(w, wide))
        assert seen[top : top + height, left : left + width].size == height * width
        seen[top : top + height, left : left + width] += 1
    assert seen.min() == 1
    assert len(boxes) == len(range(0, h, high)) * len(range(0, w, wide))


def test_a_fault_that_vanishes_in_the_reduced_image_is_found_where_it_is(place, tmp_path, capsys):
    few = SIDE, SIDE * SHAPES[0][0] // SHAPES[0][1]
    clean, faulty = (
        np.asarray(Image.fromarray(image).resize(few, Image.Resampling.BOX), float)
        for image in (texture(50), read(place / "test" / "50.png"))
    )
    assert np.abs(clean - faulty).max() < 3 * clean.std()
    out = ["--masks", str(tmp_path / "masks"), "--overlay", str(tmp_path / "odd")]
    out += ["--coco", str(tmp_path / "coco.json"), "--json", "--quiet"]
    assert main(["segment", str(place / "model"), str(place / "test"), *out]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["source"] for row in result["irregular_images"]] == ["50.png"]
    mask = read(tmp_path / "masks" / "50.png") > 0
    assert mask.shape == SHAPES[0]
    assert mask[FAULT].mean() > 0.5
    rows, columns = np.nonzero(mask)
    assert {*rows} <= {*range(72 - 16, 80 + 16)}
    assert {*columns} <= {*range(100 - 16, 108 + 16)}
    assert read(tmp_path / "odd" / "51.png").shape == (*SHAPES[1], 3)
    (patch, *_) = json.loads((tmp_path / "coco.json").read_text())["annotations"]
    left, top, width, height = patch["bbox"]
    assert left <= 104 <= left + width
    assert top <= 76 <= top + height


def test_the_score_of_an_image_is_that_of_its_most_irregular_tile(place, capsys):
    assert main(["score", str(place / "model"), str(place / "test"), "--json", "--quiet"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    detector = AVIDDetector.load(place / "model")
    for row in rows:
        image = read(place / "test" / row["source"])
        places = tile_boxes(image.shape, (SIDE, SIDE))
        tiles = [image[top : top + SIDE, left : left + SIDE] for left, top, *_ in places]
        assert row["score"] == pytest.approx(detector.score_samples(np.stack(tiles)).min())


def test_the_tiles_of_a_training_are_drawn_by_the_seed_and_bounded(place):
    found = list_sources([str(place / "more")], stacked=False)
    reading = check_reading(
        {"size": (SIDE, SIDE), "color": False, "stacking": None, "tiled": True}
    )
    some, drawn, per_image = draw_tiles(found, reading, 5, seed=0)
    assert sum(map(len, drawn.values())) == 5
    assert {path.name for source in some for path in source.pictures} == set(drawn)
    assert per_image == np.mean([4 * 5, 4 * 5])  # 128 x 160 and 110 x 150 pixels
    assert draw_tiles(found, reading, 5, seed=0)[1] == drawn
    assert draw_tiles(found, reading, 5, seed=1)[1] != drawn
    _, everything, _ = draw_tiles(found, reading, 10**6, seed=0)
    assert everything["100.png"] == tile_boxes(SHAPES[0], (SIDE, SIDE))
    assert sum(map(len, everything.values())) == 12 * 20


def test_a_model_remembers_its_tiles_and_that_nothing_has_a_place(place, capsys):
    assert main(["info", str(place / "model")]) == 0
    assert "in tiles of 32 x 32 pixels" in capsys.readouterr().out
    assert AVIDDetector.load(place / "model").inpainter.pooling == "everywhere"


def test_calibrate_flags_as_many_whole_images_as_the_rate_allows(place, tmp_path, capsys):
    model, more = str(tmp_path / "model"), str(place / "more")
    command = ["calibrate", str(place / "model"), more, "--output", model, "--quiet"]
    assert main([*command, "--target-fpr", "0.25"]) == 0
    assert "calibrated on 12 images given to calibrate" in capsys.readouterr().out
    assert main(["score", model, more, "--json", "--quiet"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(row["score"] < 1e-6 for row in rows) == 3  # floor(0.25 * 13)


def test_fit_says_what_rates_of_tiles_mean_for_images(place, tmp_path, capsys):
    command = ["fit", str(place / "good"), str(tmp_path / "model"), "--tiles", "32"]
    assert main([*command, "--epochs", "1", "--target-fpr", "0.2"]) == 0
    told = capsys.readouterr()
    assert "on 120 tiles" in told.out
    assert "for a false alarm rate of 0.01;" in told.out  # 0.2 by 20 tiles per image
    assert "With 20 tiles per image, a false alarm rate of 0.17 among new normal" in told.out
    assert "target_fpr" not in told.err


def test_evaluate_reduces_maps_to_their_most_irregular_pixels(place, capsys):
    maps = np.random.default_rng(0).normal(size=(2, 9, 6)).astype(np.float32)
    slow = [[m[3 * i : 3 * i + 3, 2 * j : 2 * j + 2].max() for j in range(3)] for m in maps
            for i in range(3)]  # fmt: skip
    np.testing.assert_array_equal(evaluate._reduced(maps, (3, 3)), np.reshape(slow, (2, 3, 3)))
    command = ["evaluate", str(place / "model"), str(place / "test"), "--json", "--quiet"]
    assert main([*command, "--masks", str(place / "truth")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["auc"] == 1
    assert result["pixel_auc"] > 0.9


def test_a_report_shows_the_most_irregular_tile_of_each_image(place, tmp_path):
    pytest.importorskip("matplotlib")
    page = tmp_path / "report.html"
    command = ["report", str(place / "model"), str(place / "test"), "--output", str(page)]
    assert main([*command, "--masks", str(place / "truth"), "--quiet"]) == 0
    text = page.read_text(encoding="utf-8")
    assert "50.png, its most irregular tile, from column 96 and row 64 on" in text


def test_images_smaller_than_a_tile_are_refused_by_fit_and_scored_whole(place, tmp_path, capsys):
    small = tmp_path / "small"
    small.mkdir()
    Image.fromarray(texture(9, (24, 60))).save(small / "a.png")
    assert main(["score", str(place / "model"), str(small), "--quiet"]) == 0
    assert main(["fit", str(small), str(tmp_path / "new"), "--tiles", "32", "--quiet"]) == 2
    assert capsys.readouterr().err == (
        "skavid fit: a.png has 60 x 24 pixels (width x height), less than the tiles of 32 x 32 "
        "pixels; give --tiles 24, or leave it out.\n"
    )


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["score", "model", "test", "--ignore", "truth/50_mask.png"], "--ignore marks fixed"),
        (["fit", "good", "new", "--tiles", "--ignore", "truth/50_mask.png"], "--ignore marks"),
        (["score", "model", "test", "--average-frames", "2"], "--average-frames averages"),
        (["watch", "model", "test/50.png"], "cannot be applied to a camera"),
        (["fit", "good", "new", "--tiles", "--video"], "is read as a video"),
        (["fit", "array.npy", "new", "--tiles"], "leave out --size, --long-side, --tiles"),
        (["fit", "good", "new", "--tiles", "--dataset", "mvtec"], "--tiles, --crop and"),
        (["score", "model", "array.npy"], "is an array, but the model was trained on images"),
        (["fit", "good", "new", "--tiles", "--size", "8x8"], "not allowed with"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_tiles_is_refused(
    place, tmp_path, monkeypatch, capsys, command, message
):
    monkeypatch.chdir(tmp_path)
    np.save("array.npy", np.zeros((20, 16, 16)))
    for name in ("model", "good", "test", "truth"):
        (tmp_path / name).symlink_to(place / name)
    try:
        code = main([*command, "--quiet"])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
