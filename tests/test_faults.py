"""What is left when a process is killed, a disk is full, or a file is gone."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
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

from skavid import VIDEO, AVIDDetector, NoveltyKFold, TemporalStacker
from skavid.datasets import make_moving_shapes

from .test_estimator import NORMAL, QUERY, textures

TINY = {"inpainter_width": 4, "detector_width": 4, "random_state": 0}
EPOCHS = 5
# Two batches an epoch: old outputs of I are shown again from the third epoch on.
GAMES = {
    "images": {"adversarial_weight": 0.5, "adversarial_start": 0.3},
    "hiding": {
        "inpainter_corruption": "hiding",
        "detector_corruption": None,
        "reconstruction_loss": "bernoulli",
        "optimizer": "sgd",
        "adversarial_weight": 0.5,
        "n_draws": 2,
    },
    "video": {**VIDEO, "adversarial_weight": 0.5, "adversarial_start": 0.0, "crop_size": 16},
}


def clips():
    made = make_moving_shapes(4, 8, size=(24, 32), random_state=0)
    return TemporalStacker().fit_transform(made.frames, groups=made.clips), made.clips


def game(name, **parameters):
    return AVIDDetector(**TINY | {"max_epochs": EPOCHS} | GAMES[name] | parameters)


def fit(detector):
    if detector.spacing is None:
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


@settings(max_examples=4)
@given(epoch=st.integers(1, EPOCHS), batch=st.sampled_from([0, 1, None]))
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
