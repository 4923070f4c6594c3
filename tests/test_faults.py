"""What is left when a process is killed, a disk is full, or a file is gone."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback

import skavid
from skavid import AVIDDetector, NoveltyKFold, TemporalStacker
from skavid.checkpoint import MAGIC
from skavid.cli import main
from skavid.components import VIDEO_PIXELS, nested
from skavid.datasets import make_moving_shapes

from .test_estimator import NORMAL, QUERY

TINY = {"features": "pixels", "inpainter__width": 4, "detector__width": 4, "random_state": 0}
EPOCHS = 4
# Two batches an epoch: old outputs of I are shown again from the third epoch on.
GAMES = {
    "images": {"training__adversarial_weight": 0.5, "training__adversarial_start": 0.3},
    "masking": {
        "corruption__inpainter": "masking",
        "corruption__detector": None,
        "training__reconstruction_loss": "bernoulli",
        "training__optimizer": "sgd",
        "training__adversarial_weight": 0.5,
        "postprocessing__n_draws": 2,
    },
    "video": {
        **VIDEO_PIXELS,
        "training__adversarial_weight": 0.5,
        "training__adversarial_start": 0.0,
        "training__crop_size": 16,
    },
}


def clips():
    made = make_moving_shapes(4, 8, size=(24, 32), random_state=0)
    return TemporalStacker().fit_transform(made.frames, groups=made.clips), made.clips


def game(name, **parameters):
    return AVIDDetector(**nested(TINY | {"max_epochs": EPOCHS} | GAMES[name] | parameters))


def fit(detector):
    if detector.component("corruption").spacing is None:
        return detector.fit(NORMAL)
    images, groups = clips()
    return detector.fit(images, groups=groups)


@pytest.fixture(scope="module")
def undisturbed():
    """What each game ends with when nothing goes wrong."""
    return {name: fit(game(name)) for name in GAMES}


def end(detector):
    """All that a training ends with, but for how long it took."""
    net = detector.net_
    parts = [detector.inpainter_, detector.detector_, net.averaged_inpainter_, net.detector_]
    states = [part.state_dict() for part in parts] + [
        optimizer.state_dict()["state"]
        for optimizer in (net.inpainter_optimizer_, net.detector_optimizer_)
    ]
    rows = [{key: value for key, value in row.items() if key != "dur"} for row in net.history]
    figures = (detector.alpha_, detector.zeta_, detector.checkpoint_, detector.n_iter_)
    return states, rows, figures


def assert_same(one, other):
    states, rows, figures = end(one)
    torch.testing.assert_close(states, end(other)[0], rtol=0, atol=0)
    assert (rows, figures) == end(other)[1:]


class Stop(Callback):
    """Fail in a batch of an epoch, or at its end."""

    def __init__(self, epoch, batch=None):
        self.epoch, self.batch = epoch, batch

    def on_batch_begin(self, net, **kwargs):
        here = len(net.history), len(net.history[-1]["batches"])
        if here == (self.epoch, self.batch):
            raise RuntimeError("the lights went out")

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == self.epoch and self.batch is None:
            raise RuntimeError("the lights went out")


def stopped(detector, *when):
    """Let a training fail; nothing of it may remain in the detector."""
    before = dict(vars(detector.set_params(callbacks=[Stop(*when)])))
    with pytest.raises(RuntimeError, match=r"^the lights went out$"):
        fit(detector)
    assert vars(detector) == before
    return detector.set_params(callbacks=None)


@pytest.mark.parametrize("name", GAMES)
def test_a_training_that_fails_in_each_epoch_ends_as_an_undisturbed_one(
    undisturbed, tmp_path, name
):
    detector = game(name, checkpoint=tmp_path / "state")
    for epoch in range(1, EPOCHS + 1):
        stopped(detector, epoch, None if epoch % 2 else 1)
    assert_same(fit(detector), undisturbed[name])
    assert os.listdir(tmp_path) == ["state"]


@pytest.mark.slow
@settings(max_examples=6)
@given(epoch=st.integers(1, EPOCHS), batch=st.sampled_from([1, 2, None]))
def test_a_training_that_fails_anywhere_ends_as_an_undisturbed_one(
    undisturbed, tmp_path_factory, epoch, batch
):
    detector = game("images", checkpoint=tmp_path_factory.mktemp("anywhere") / "state")
    assert_same(fit(stopped(detector, epoch, batch)), undisturbed["images"])


KILLED = """
import os, signal, sys
from skavid import writing
from tests.test_faults import Callback, fit, game

class Kill(Callback):
    def on_batch_begin(self, net, **kwargs):
        if (len(net.history), len(net.history[-1]["batches"])) == (3, 1):
            os.kill(os.getpid(), signal.SIGKILL)

def replace(part, path, n=[0], replace=os.replace):
    n[0] += 1
    if n[0] == 3:
        with open(part, "r+b") as file:
            file.truncate(1000)
        os.kill(os.getpid(), signal.SIGKILL)
    replace(part, path)

if sys.argv[1] == "in a batch":
    callbacks = [Kill()]
else:
    callbacks, writing.os.replace = None, replace
import torch
torch.set_num_threads(1)
fit(game("images", checkpoint="state", callbacks=callbacks))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a system with SIGKILL")
@pytest.mark.parametrize("moment", ["in a batch", "while it writes"])
def test_a_process_that_is_killed_leaves_what_the_next_one_goes_on_from(
    undisturbed, tmp_path, moment
):
    root = Path(__file__).resolve().parents[1]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, moment], cwd=tmp_path, env=os.environ | {"PYTHONPATH": root}
    )
    assert killed.returncode == -signal.SIGKILL
    detector = game("images", checkpoint=tmp_path / "state", callbacks=[Count()])
    fit(detector)
    (count,) = detector.callbacks
    assert count.n_epochs == EPOCHS - 2
    assert_same(detector, undisturbed["images"])
    assert os.listdir(tmp_path) == ["state"]


class Count(Callback):
    """Count the epochs that are played."""

    n_epochs = 0

    def on_epoch_end(self, net, **kwargs):
        self.n_epochs += 1


# --- a checkpoint: when it serves, and when it does not ------------------------------------------


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """The checkpoint of a training that ended after two of its epochs; never written to."""
    path = tmp_path_factory.mktemp("half") / "state"
    stopped(game("images", checkpoint=path), 3)
    return path.read_bytes()


@pytest.fixture
def state(half, tmp_path):
    path = tmp_path / "state"
    path.write_bytes(half)
    return path


def refused(kind, message, function):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        function()


def test_a_training_that_has_ended_is_not_repeated_whatever_the_thresholds(undisturbed, state):
    first = fit(game("images", checkpoint=state))
    count = Count()
    other = game("images", checkpoint=str(state), callbacks=[count], alpha=0.1, fusion="min")
    fit(other)
    assert count.n_epochs == 0
    assert_same(first, undisturbed["images"])
    assert (other.alpha_, other.n_iter_, other.history_) == (0.1, EPOCHS, first.history_)
    assert end(other)[1] == end(first)[1]


@pytest.mark.filterwarnings("ignore::skavid.exceptions.CollapseWarning")
def test_a_training_that_stopped_early_has_ended(tmp_path):
    parameters = {"learning_rate": 1e-12, "training__n_iter_no_change": 2, "max_epochs": 30}
    first, second = (
        game("images", checkpoint=tmp_path / "state", callbacks=[Count()], **parameters)
        for _ in range(2)
    )
    fit(first)
    assert first.n_iter_ < 30
    assert fit(second).callbacks[0].n_epochs == 0
    assert_same(first, second)
    assert second.net_.stopped_ == first.net_.stopped_


def test_a_detector_that_went_on_can_be_copied_and_trained_further(state):
    detector = fit(game("images", checkpoint=state))
    before = state.read_bytes()
    assert clone(detector).component("training").checkpoint == state
    detector.partial_fit(NORMAL)
    assert detector.n_iter_ == 1
    assert state.read_bytes() == before
    assert "checkpoint" not in dict(detector.net_.callbacks_)


def test_after_an_interruption_the_best_networks_are_kept_and_the_fit_goes_on(undisturbed, state):
    class Interrupt(Callback):
        def on_epoch_begin(self, net, **kwargs):
            raise KeyboardInterrupt

    detector = game("images", checkpoint=state, callbacks=[Interrupt()])
    message = re.escape(f" The same fit goes on from {state}.")
    with pytest.warns(
        ConvergenceWarning, match=f"^The training was .* after epoch 2; .*{message}$"
    ):
        fit(detector)
    assert np.isfinite(detector.score_samples(QUERY)).all()
    assert_same(fit(detector.set_params(callbacks=None)), undisturbed["images"])


REMEDY = "remove it, or give another file name."


@pytest.mark.parametrize(
    ("parameters", "difference"),
    [
        ({"max_epochs": 6}, "max_epochs was 4, now it is 6"),
        ({"learning_rate": 0.01}, "learning_rate was 0.002, now it is 0.01"),
        (
            {"corruption__inpainter": "noise"},
            "corruption__inpainter was synthetic, now it is noise",
        ),
        ({"random_state": 1}, "random_state was 0, now it is 1"),
        ({"ignore_mask": np.eye(16, 12) > 0}, "ignore_mask is another"),
        (
            {
                "detector__region_size": 8,
                "training__momentum": 0.5,
                "batch_size": 8,
                "training__crop_size": 8,
            },
            "batch_size was 16, now it is 8, detector__region_size was 4, now it is 8, "
            "training__crop_size was None, now it is 8, ...",
        ),
    ],
)
def test_the_checkpoint_of_other_parameters_is_refused_and_stays(state, parameters, difference):
    before = state.read_bytes()
    message = f"{state} is the checkpoint of another training: {difference}; {REMEDY}"
    refused(ValueError, message, lambda: fit(game("images", checkpoint=state, **parameters)))
    assert state.read_bytes() == before


def test_the_checkpoint_of_other_images_clips_or_releases_is_refused(state, monkeypatch):
    detector = game("images", checkpoint=state)
    said = f"{state} is the checkpoint of another training: "
    other = NORMAL.copy()
    other[5, 3, 3] ^= 1
    groups = np.repeat([0, 1], 12)
    refused(ValueError, f"{said}X is another; {REMEDY}", lambda: detector.fit(other))
    refused(
        ValueError,
        f"{said}groups is another; {REMEDY}",
        lambda: detector.fit(NORMAL, groups=groups),
    )
    now = {"skavid": "9.9", "torch": torch.__version__, "numpy": np.__version__}
    monkeypatch.setattr("skavid.checkpoint.versions", lambda: now)
    with pytest.raises(ValueError, match=r"training: skavid was .*, now it is 9\.9; remove it"):
        detector.fit(NORMAL)


def test_a_search_with_one_checkpoint_is_refused_at_its_second_fit(tmp_path):
    detector = game("images", checkpoint=tmp_path / "state", max_epochs=1)
    labels = np.repeat([1, -1], [20, 4])
    search = GridSearchCV(
        detector, {"alpha": [0.1]}, cv=NoveltyKFold(2), scoring="roc_auc", error_score="raise"
    )
    message = f"{tmp_path / 'state'} is the checkpoint of another training: X is another; {REMEDY}"
    refused(ValueError, message, lambda: search.fit(NORMAL, labels))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda data: b"{}", f"skavid {skavid.__version__} did not write it"),
        (lambda data: b"", f"skavid {skavid.__version__} did not write it"),
        (lambda data: data[: len(data) // 2], "it was truncated or changed"),
        (lambda data: data[:-9] + b"x" + data[-8:], "it was truncated or changed"),
        (lambda data: sealed(b"no zip archive"), "it was changed"),
        (lambda data: sealed(pickled(Harm())), "it was changed"),
    ],
)
def test_a_file_that_is_no_whole_checkpoint_is_refused_and_stays(state, spoil, why):
    spoiled = spoil(state.read_bytes())
    state.write_bytes(spoiled)
    message = f"{state} is not a checkpoint to continue from: {why}; {REMEDY}"
    refused(ValueError, message, lambda: fit(game("images", checkpoint=state)))
    assert state.read_bytes() == spoiled


def test_a_checkpoint_whose_weights_have_other_shapes_is_refused(state):
    data = state.read_bytes()
    content = torch.load(io.BytesIO(data[len(MAGIC) + 32 :]), weights_only=True)
    weights = content["inpainter_"]
    weights[next(iter(weights))] = torch.zeros(3)
    file = io.BytesIO()
    torch.save(content, file)
    state.write_bytes(sealed(file.getvalue()))
    message = f"{state} is not a checkpoint to continue from: it was changed; {REMEDY}"
    refused(ValueError, message, lambda: fit(game("images", checkpoint=state)))


def sealed(body):
    return MAGIC + hashlib.sha256(body).digest() + body


def pickled(what):
    file = io.BytesIO()
    torch.save(what, file)
    return file.getvalue()


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"random_state": None},
            "training__checkpoint needs an integer random_state, so that a training can be the "
            "same again. Got None.",
        ),
        (
            {"warm_start": True},
            "training__checkpoint keeps a training from its beginning, but warm_start=True goes "
            "on with an earlier one; set one of them.",
        ),
        (
            {"training__checkpoint": 3},
            "The 'checkpoint' parameter of AdversarialTraining must be an instance of 'str', an "
            "instance of 'os.PathLike' or None. Got 3 instead.",
        ),
    ],
)
def test_what_a_checkpoint_needs_is_told(tmp_path, parameters, message):
    detector = game("images", **{"training__checkpoint": tmp_path / "state", **parameters})
    refused(ValueError, message, lambda: fit(detector))
    assert list(tmp_path.iterdir()) == []


def test_two_trainings_at_once_do_not_overwrite_each_other(tmp_path):
    path = tmp_path / "state"

    class Other(Callback):
        def on_epoch_end(self, net, **kwargs):
            path.write_bytes(b"of the other")

    message = (
        f"{path} was written by another training in the meantime; give each training its own "
        "checkpoint."
    )
    detector = game("images", checkpoint=path, callbacks=[Other()])
    refused(FileExistsError, message, lambda: fit(detector))
    assert path.read_bytes() == b"of the other"


def test_a_history_that_cannot_be_kept_is_told(tmp_path):
    class Note(Callback):
        def on_epoch_end(self, net, **kwargs):
            net.history.record("odd", {1, 2})

    message = (
        "A callback wrote {1, 2} to the history, which a checkpoint cannot hold; write numbers or "
        "text."
    )
    detector = game("images", checkpoint=tmp_path / "state", callbacks=[Note()])
    refused(ValueError, message, lambda: fit(detector))


# --- full disks, and folders that cannot be written to -------------------------------------------


@contextmanager
def small_files(n_bytes=60):
    """Let no file grow: real writes fail, as on a full disk."""
    resource = pytest.importorskip("resource", reason="needs limits to the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FULL = os.strerror(errno.EFBIG)
DENIED = os.strerror(errno.EACCES)


def test_a_full_disk_during_a_fit_is_told_and_costs_no_finished_epoch(
    undisturbed, half, state, tmp_path
):
    detector = game("images", checkpoint=state)
    message = (
        f"{state} cannot be written: {FULL}; once it can be, the same fit goes on after epoch 2."
    )
    with small_files(1000):
        refused(OSError, message, lambda: fit(detector))
    assert state.read_bytes() == half
    assert os.listdir(tmp_path) == ["state"]
    assert not hasattr(detector, "net_")
    assert_same(fit(detector), undisturbed["images"])


def test_a_checkpoint_that_cannot_be_written_is_told_before_the_first_epoch(tmp_path, monkeypatch):
    count = Count()
    detector = game("images", callbacks=[count])

    def attempt(path, kind, why):
        detector.set_params(training__checkpoint=path)
        refused(kind, f"{path}{why}", lambda: fit(detector))

    nowhere = tmp_path / "nowhere"
    why = f" cannot be written: there is no folder {nowhere}; make it first."
    attempt(nowhere / "state", FileNotFoundError, why)
    why = " is a folder; give the name of a file in it."
    attempt(tmp_path, IsADirectoryError, why)
    deny(monkeypatch)
    attempt(tmp_path / "state", PermissionError, f" cannot be written: {DENIED}.")
    assert count.n_epochs == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_vanishes_during_a_fit_is_told(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()

    class Vanish(Callback):
        def on_epoch_end(self, net, **kwargs):
            shutil.rmtree(folder)

    detector = game("images", checkpoint=folder / "state", callbacks=[Vanish()])
    message = f"{folder / 'state'} cannot be written: {os.strerror(errno.ENOENT)}."
    refused(FileNotFoundError, message, lambda: fit(detector))
    assert list(tmp_path.iterdir()) == []


def deny(monkeypatch):
    """Refuse to make anything, as a folder that is only to be read; root may write to those."""

    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, DENIED, str(arguments[0]))

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(os, "mkdir", refuse)


def write_report_of(detector, path):
    pytest.importorskip("matplotlib")
    from skavid.report import write_report

    write_report(detector, path, NORMAL)


def export_of(detector, path):
    pytest.importorskip("onnx")
    from skavid.export import to_onnx

    to_onnx(detector, path)


def save(detector, path):
    pytest.importorskip("safetensors")
    detector.save(path)


@pytest.mark.parametrize("write", [save, write_report_of, export_of])
def test_a_full_disk_or_a_folder_to_read_leaves_what_was_there(
    undisturbed, tmp_path, monkeypatch, write
):
    path = tmp_path / "old"
    path.write_text("as it was")
    attempt = partial(write, undisturbed["images"], path)
    with small_files():
        refused(OSError, f"{path} cannot be written: {FULL}.", attempt)
    deny(monkeypatch)
    refused(PermissionError, f"{path} cannot be written: {DENIED}.", attempt)
    assert path.read_text() == "as it was"
    assert os.listdir(tmp_path) == ["old"]


# --- the command line ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model of pictures, one of stacked frames and one of arrays, and sources; never changed."""
    for name in ("av", "safetensors", "PIL", "pyarrow"):
        pytest.importorskip(name)
    from skavid.cli.outputs import save_picture
    from skavid.video import write_overlay

    place = tmp_path_factory.mktemp("place")
    frames = make_moving_shapes(1, 24, size=(16, 24), random_state=0).frames
    (place / "frames").mkdir()
    for number, frame in enumerate(frames):
        save_picture(place / "frames", f"{number:03d}.png", frame)
    write_overlay(place / "film.mp4", frames, fps=10)
    np.save(place / "array.npy", frames)
    stacking = {"n_channels": 3, "spacing": 2, "average": True}
    stacks = TemporalStacker(**stacking).fit_transform(frames, groups=np.zeros(24, int))
    one = {**TINY, "max_epochs": 1}
    for name, images, more, size, stack in (
        ("pictures", frames, {}, (16, 24), None),
        ("video", stacks, {"corruption__spacing": 2}, (16, 24), stacking),
        ("arrays", frames, {}, None, None),
    ):
        detector = AVIDDetector(**nested(dict(**one, **more))).fit(images)
        detector.extra_ = {"reading": {"size": size, "color": False, "stacking": stack}}
        detector.save(place / name)
    return place


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(capsys, *words):
    """Run a command that ends in one line: its exit code and this line."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    return code, err.rstrip("\n")


TARGETS = {
    "csv": ("score", "--output", "old.csv"),
    "jsonl": ("score", "--output", "old.jsonl"),
    "parquet": ("score", "--output", "old.parquet"),
    "scores": ("segment", "--scores", "old.csv"),
    "masks": ("segment", "--masks", "masks"),
    "coco": ("segment", "--coco", "old.json"),
    "overlay": ("segment", "--overlay", "old.mp4"),
    "drawn": ("segment", "--overlay", "drawn"),
}


def command(place, target, model="video", source="frames", folder=""):
    verb, option, name = TARGETS[target]
    return [verb, place / model, place / source, option, Path(folder) / name, "--force", "--quiet"]


def old(name):
    """Let there be an older file, but for folders, of which none is ever replaced."""
    if Path(name).suffix:
        Path(name).write_text("as it was")
    return sorted(os.listdir())


def untouched(before):
    assert sorted(os.listdir()) == before
    assert all(Path(name).read_text() == "as it was" for name in before)


@pytest.mark.parametrize("target", TARGETS)
def test_commands_tell_of_a_full_disk_in_one_line(capsys, place, target):
    verb, _, name = TARGETS[target]
    before = old(name)
    with small_files():
        code, line = run(capsys, *command(place, target))
    assert code == 2
    said = re.escape(f"skavid {verb}: {name} cannot be written: ")
    assert re.fullmatch(rf"{said}.*{FULL}\.", line)
    untouched(before)


@pytest.mark.parametrize("target", TARGETS)
def test_commands_tell_of_a_folder_that_is_only_to_be_read(capsys, place, monkeypatch, target):
    verb, _, name = TARGETS[target]
    before = old(name)
    deny(monkeypatch)
    line = f"skavid {verb}: {name} cannot be written: {DENIED}."
    assert run(capsys, *command(place, target)) == (2, line)
    untouched(before)


@pytest.mark.parametrize("target", TARGETS)
def test_commands_tell_of_an_output_whose_folder_vanishes(capsys, place, monkeypatch, target):
    verb, _, name = TARGETS[target]
    Path("out").mkdir()
    after(monkeypatch, 2, lambda: shutil.rmtree("out"))
    code, line = run(capsys, *command(place, target, folder="out"))
    assert code == 2
    assert line.startswith(f"skavid {verb}: out/{name} cannot be written: ")
    assert os.listdir() == []


def after(monkeypatch, n, happens):
    """Let something happen before the n-th look at four images."""
    from skavid.cli.scoring import Scorer

    real, looks = Scorer.score, []

    def score(self, images, times):
        looks.append(1)
        if len(looks) == n:
            happens()
        return real(self, images)

    monkeypatch.setattr("skavid.cli.scoring.BATCH_SIZE", 4)
    monkeypatch.setattr(Scorer, "score", score)


@pytest.mark.parametrize("target", ["csv", "parquet", "masks", "coco", "overlay"])
@pytest.mark.parametrize("model", ["video", "pictures"])
def test_commands_tell_of_pictures_that_vanish(capsys, place, monkeypatch, target, model):
    verb, _, name = TARGETS[target]
    before = old(name)
    shutil.copytree(place / "frames", "frames")
    after(monkeypatch, 2, lambda: shutil.rmtree("frames"))
    code, line = run(capsys, *command(place, target, model, Path("frames").absolute()))
    assert code == 2
    assert line.startswith(f"skavid {verb}: ")
    assert re.search(r"frames/0\d\d\.png", line)
    untouched(before)


@pytest.mark.parametrize("target", ["csv", "masks"])
def test_commands_tell_of_an_array_that_is_cut_off_while_it_is_read(
    capsys, place, monkeypatch, target
):
    verb, _, name = TARGETS[target]
    before = old(name)
    array = Path("array.npy").absolute()
    shutil.copy(place / "array.npy", array)
    after(monkeypatch, 2, lambda: os.truncate(array, 5000))
    line = (
        f"skavid {verb}: {array} was truncated while it was read, after 12 of 24 images; get a "
        "new copy."
    )
    assert run(capsys, *command(place, target, "arrays", array)) == (2, line)
    array.unlink()
    untouched(before)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_standard_output_that_is_full_is_told(capsys, place, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["score", str(place / "video"), str(place / "frames"), "--quiet"]) == 2
    why = os.strerror(errno.ENOSPC)
    line = f"skavid score: the standard output cannot be written: {why}.\n"
    assert capsys.readouterr().err == line


FIT = ["--size", "24x16", "--epochs", "3", "--set", "batch_size=8"]
FIT += ["--set", "features=pixels", "--set", "inpainter__width=4", "--set", "detector__width=4"]


def test_fit_tells_of_a_full_disk_and_of_a_checkpoint_in_no_folder(capsys, place):
    words = ["fit", place / "film.mp4", "model", *FIT, "--quiet"]
    with small_files():
        code, line = run(capsys, *words)
    assert code == 2
    assert re.fullmatch(
        rf"skavid fit: .*/\.model\..*/images\.npy cannot be written: {FULL}\.", line
    )
    line = "skavid fit: no/state cannot be written: there is no folder no; make it first."
    assert run(capsys, *words, "--checkpoint", "no/state") == (2, line)
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["export", "old.onnx", "--force"], "old.onnx"),
        (["calibrate", "frames", "--output", "new"], r".*/\.new\..*/images\.npy"),
        (
            ["report", "frames", "--force", "--output", "old.html"],
            r".*/\.old\.html\..*/images\.npy",
        ),
    ],
)
def test_other_commands_tell_of_a_full_disk(capsys, place, words, named):
    pytest.importorskip("onnx")
    verb, first, *more = words
    before = old(first if verb == "export" else more[-1]) if verb != "calibrate" else []
    source = first if verb == "export" else place / first
    with small_files():
        code, line = run(capsys, verb, place / "pictures", source, *more, "--quiet")
    assert code == 2
    assert re.fullmatch(rf"skavid {verb}: {named} cannot be written: {FULL}\.", line)
    untouched(before)


def test_ctrl_c_says_that_a_fit_goes_on_and_it_does(capsys, place, monkeypatch):
    from skavid.core.training import AVIDNet

    words = ["fit", str(place / "film.mp4"), "model", *FIT, "--checkpoint", "state"]
    assert main(["fit", str(place / "film.mp4"), "undisturbed", *FIT, "--quiet"]) == 0
    real, steps = AVIDNet.train_step, []

    def step(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(AVIDNet, "train_step", step)
    capsys.readouterr()
    assert main(words) == 130
    err = capsys.readouterr().err
    assert "best networks so far; the same command then continues the training." in err
    assert " The same command goes on from state." in err
    assert main(words) == 0
    assert re.search(r"Continuing after epoch [12] of 3\.", capsys.readouterr().err)
    one, other = (AVIDDetector.load(name) for name in ("model", "undisturbed"))
    for part in ("inpainter_", "detector_"):
        states = (getattr(detector, part).state_dict() for detector in (one, other))
        torch.testing.assert_close(*states, rtol=0, atol=0)
    assert main(words) == 0
    assert "The training in state was finished already;" in capsys.readouterr().err
