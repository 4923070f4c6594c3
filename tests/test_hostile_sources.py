"""Sources, names and disks that nobody expects: read right, or refused in one sentence."""

from __future__ import annotations

import csv
import json
import os
import resource

import numpy as np
import pytest

from skavid.cli import main
from skavid.cli.outputs import describe_patches
from skavid.core.anomaly_maps import Finding
from skavid.datasets.sources import Sample

pytest.importorskip("safetensors")
Image = pytest.importorskip("PIL.Image")

TINY = [
    "--epochs", "1", "--set", "features=pixels", "--set", "inpainter__width=4",
    "--set", "detector__width=4", "--quiet",
]  # fmt: skip
NOISE = np.random.default_rng(0).integers(60, 200, (14, 32, 48), dtype=np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures and a model of them; never written to."""
    place = tmp_path_factory.mktemp("place")
    (place / "good").mkdir()
    for index, image in enumerate(NOISE):
        Image.fromarray(image).save(place / "good" / f"{index}.png")
    assert main(["fit", str(place / "good"), str(place / "model"), *TINY]) == 0
    return place


@pytest.fixture
def run(place, tmp_path, monkeypatch, capsys):
    """Run a command beside the pictures and the model, without its prints of before."""
    monkeypatch.chdir(tmp_path)
    for name in ("good", "model"):
        (tmp_path / name).symlink_to(place / name)
    capsys.readouterr()

    def run(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def test_names_of_every_kind_are_one_row_and_one_line_each(run, tmp_path):
    names = ["new\nline.png", "-dash.png", "--help.png", "\x1b[2J.png", "quote'\".png", "*.png"]
    names += ["ünï😀.png", "%s%d{x}.png", "\u202ergb.png", "200" * 66 + ".png"]
    (tmp_path / "names").mkdir()
    for name in names:
        with (tmp_path / "names" / name).open("wb") as file:
            Image.fromarray(NOISE[0]).save(file, format="PNG")
    code, out, err = run("segment", "model", "names", "--scores", "s.csv", "--coco", "c.json",
                         "--masks", "masks")  # fmt: skip
    assert (code, err) == (0, "")
    assert "\u202e" not in out
    assert "\x1b" not in out
    assert sum(".png  (score" in line for line in out.splitlines()) in (0, len(names))
    with open("s.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    listed = [
        image["file_name"] for image in json.loads((tmp_path / "c.json").read_text())["images"]
    ]
    assert [row["source"] for row in rows] == listed
    assert len(set(listed)) == len(list((tmp_path / "masks").iterdir())) == len(names)
    code, out, _ = run("score", "model", "--", "names/-dash.png")
    assert code == 0
    assert "-dash.png" in out


def test_a_folder_called_like_a_picture_is_a_folder(run, tmp_path):
    (tmp_path / "x.png").mkdir()
    Image.fromarray(NOISE[0]).save(tmp_path / "x.png" / "inner.png")
    code, out, _ = run("score", "model", "x.png")
    assert code == 0
    assert out.splitlines()[1].startswith("inner.png,0,,")


def test_a_patch_that_vanishes_in_a_smaller_image_is_left_out():
    mask = np.zeros((32, 48), bool)
    mask[4:8, 4:8] = mask[31, 47] = True
    findings = [
        Finding((31, 47, 32, 48), 1, 0.9, (31, 47), "both"),
        Finding((4, 4, 8, 8), 16, 0.5, (5, 5), "both"),
    ]
    image = np.zeros((8, 12, 3), np.uint8)
    sample = Sample(NOISE[0], "small.png", 0, None, image, box=(0, 0, 12, 8))
    (row,) = describe_patches(findings, mask, sample)
    assert row["bbox"] == [1, 1, 1, 1]


def test_pictures_turned_by_exif_have_patches_in_the_turned_picture(run, tmp_path):
    (tmp_path / "turned").mkdir()
    for number in range(1, 9):
        exif = Image.Exif()
        exif[274] = number
        Image.fromarray(NOISE[number]).save(tmp_path / "turned" / f"{number}.jpg", exif=exif)
    code, _, err = run("segment", "model", "turned", "--coco", "c.json", "--masks", "masks")
    assert code == 0
    assert "bug" not in err
    content = json.loads((tmp_path / "c.json").read_text())
    sizes = {int(image["file_name"][0]): (image["height"], image["width"])
             for image in content["images"]}  # fmt: skip
    assert sizes == {number: (48, 32) if number > 4 else (32, 48) for number in range(1, 9)}
    for number, size in sizes.items():
        with Image.open(tmp_path / "masks" / f"{number}.png") as mask:
            assert mask.size[::-1] == size


@pytest.mark.parametrize("command", ["score", "watch", "segment"])
def test_a_named_pipe_is_refused_at_once(run, tmp_path, command):
    os.mkfifo(tmp_path / "pipe.png")
    code, _, err = run(command, "model", "pipe.png")
    assert code == 2
    assert err == (
        f"skavid {command}: pipe.png is a named pipe, which can be read only once; give a file or "
        "a folder.\n"
    )


def test_an_empty_source_is_not_the_present_folder(run):
    assert run("score", "model", "")[::2] == (
        2,
        "skavid score: a source is an empty text; give a file or a folder, such as . for this "
        "one.\n",
    )


@pytest.mark.parametrize("content", [b"", bytes(5000), b"hello"])
def test_an_empty_video_is_refused(run, tmp_path, content):
    (tmp_path / "empty.mp4").write_bytes(content)
    code, out, err = run("score", "model", "empty.mp4")
    assert (code, out) == (2, "")
    assert "empty.mp4 is no video that FFmpeg can read" in err


@pytest.mark.parametrize("words", [("score", "model", "model"), ("fit", "model", "new")])
def test_a_model_is_no_picture(run, tmp_path, words):
    code, _, err = run(*words)
    assert code == 2
    assert "model is no video that FFmpeg can read" in err
    assert not (tmp_path / "new").exists()


def test_a_palette_of_16_bits_is_named_instead_of_its_places_read_as_grey(run, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    (tmp_path / "new").mkdir()
    colors = np.random.default_rng(0).integers(0, 65535, (3, 65536)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "new" / "palette.tif", NOISE[0].astype(np.uint16),
                     photometric="palette", colormap=colors)  # fmt: skip
    Image.fromarray(NOISE[0]).save(tmp_path / "new" / "good.png")
    code, out, err = run("score", "model", "new")
    assert code == 1
    assert "1 of 2 images cannot be read: palette.tif" in err
    assert "palette" not in out


def test_colours_of_print_are_those_that_are_seen(run, tmp_path):
    color = np.stack([NOISE[0], NOISE[1], NOISE[2]], axis=-1)
    (tmp_path / "new").mkdir()
    picture = Image.fromarray(color).convert("CMYK")
    picture.save(tmp_path / "new" / "cmyk.tif")
    picture.convert("RGB").save(tmp_path / "new" / "rgb.tif")
    code, out, _ = run("score", "model", "new")
    rows = list(csv.DictReader(out.splitlines()))
    assert code == 0
    assert rows[0]["score"] == rows[1]["score"]


def test_labels_of_windows_may_begin_with_a_byte_order_mark(run, tmp_path):
    text = "normal\r\n" * 13 + "irregular\r\n"
    (tmp_path / "labels.txt").write_bytes(text.encode("utf-8-sig"))
    code, out, _ = run("evaluate", "model", "good", "--labels", "labels.txt", "--json")
    assert code == 0
    assert json.loads(out)["irregular"] == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--size", "99999999999x8"), "such as 256x128, each at least 8 and at most 32,768, not"),
        (("--size", "72"), "must be a width and a height in pixels such as 256x128"),
        (("--set", "inpainter=x"), "--set cannot set 'inpainter'"),
    ],
)
def test_sizes_and_components_that_cannot_be_are_refused(run, tmp_path, words, told):
    code, _, err = run("fit", "good", "new", *TINY, *words)
    assert code == 2
    assert told in err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("output", ["--coco", "--scores", "--masks", "--overlay"])
def test_a_full_disk_leaves_no_output_and_says_so(run, tmp_path, output):
    """A limit on the size of files stands for a full disk."""
    name = {"--coco": "o.json", "--scores": "o.jsonl"}.get(output, "o")
    before = sorted(path.name for path in tmp_path.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        code, _, err = run("segment", "model", "good", output, name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert f"{name}" in err
    assert "File too large" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == before
