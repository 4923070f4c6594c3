"""Callbacks of skorch either do their work or are refused in one sentence."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from skorch import callbacks

from skavid import AVIDDetector
from skavid.components import nested
from skavid.exceptions import InterruptedTrainingWarning

X = np.random.default_rng(0).normal(100, 9, (40, 16, 16)).astype(np.float32)
SMALL = {"inpainter__width": 4, "inpainter__depth": 1, "detector__width": 4}
WHERE = {"patches": {}, "pixels": {"features": "pixels", **SMALL}}


def fit(where, callback, n_epochs=2, **options):
    parameters = nested(WHERE[where] | {"max_epochs": n_epochs, "random_state": 0} | options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", InterruptedTrainingWarning)
        given = None if callback is None else [callback]
        return AVIDDetector(**parameters, callbacks=given).fit(X)


@pytest.mark.parametrize("where", WHERE)
def test_the_history_has_the_validation_loss_that_callbacks_look_for(where):
    detector = fit(where, callbacks.EarlyStopping(patience=9))
    assert all(np.isfinite(detector.net_.history[:, "valid_loss"]))
    assert detector.net_.stopped_by_ is None


@pytest.mark.parametrize("where", WHERE)
def test_a_callback_that_ends_the_training_is_named_and_no_interruption(where, tmp_path):
    at_once = callbacks.EarlyStopping(patience=1, threshold=2.0, threshold_mode="abs")
    detector = fit(where, at_once, 4, memory=str(tmp_path))
    assert detector.net_.stopped_by_ == "EarlyStopping"
    assert detector.n_iter_ == len(detector.history_) < 4
    whole = fit(where, callbacks.EpochTimer(), 4, memory=str(tmp_path))
    assert whole.n_iter_ == 4  # not the short training, from the cache


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("named", [False, True])
def test_a_callback_that_was_used_finds_its_training_in_the_cache(
    where, named, tmp_path, monkeypatch
):
    steps = []
    watch = callbacks.EarlyStopping(patience=5, monitor="valid_loss")
    given = ("stop", watch) if named else watch
    first = fit(where, given, memory=str(tmp_path))
    watch.misses_, watch.dynamic_threshold_ = 3, 0.1  # as after a training
    for net in ("training.AVIDNet", "detector_training.ResidualNet"):
        monkeypatch.setattr(f"skavid.core.{net}.train_step", lambda *a, **k: steps.append(1))
    again = fit(where, given, memory=str(tmp_path))
    assert not steps
    assert np.array_equal(again.score_samples(X), first.score_samples(X))


@pytest.mark.parametrize("where", WHERE)
def test_an_interruption_after_a_callback_ended_a_training_is_told(where):
    class Interrupt(callbacks.Callback):
        def on_batch_begin(self, net, **kwargs):
            if len(net.history) == 2:
                raise KeyboardInterrupt

    with pytest.raises(InterruptedTrainingWarning, match="interrupted after epoch 1"):
        fit(where, Interrupt(), 4)


@pytest.mark.parametrize("where", WHERE)
def test_gradients_can_be_clipped(where):
    plain, clipped = (
        fit(where, callbacks.GradientNormClipping(limit)).score_samples(X) for limit in (1e9, 1e-9)
    )
    assert not np.array_equal(plain, clipped)


@pytest.mark.parametrize("where", WHERE)
def test_a_training_with_callbacks_that_change_it_shares_no_cache_entry(where, tmp_path):
    memory = {"memory": str(tmp_path)}
    plain = fit(where, None, **memory).score_samples(X)
    clipping = callbacks.GradientNormClipping
    clipped = fit(where, clipping(1e-9)).score_samples(X)
    for _ in range(2):  # trained, then from the cache
        again = fit(where, clipping(1e-9), **memory).score_samples(X)
        np.testing.assert_array_equal(again, clipped)
    np.testing.assert_array_equal(fit(where, None, **memory).score_samples(X), plain)
    assert not np.array_equal(clipped, plain)


@pytest.mark.parametrize("where", WHERE)
def test_callbacks_of_your_own_are_called_in_each_training_in_spite_of_a_cache(where, tmp_path):
    begun = []

    class Count(callbacks.Callback):
        def on_train_begin(self, net, **kwargs):
            begun.append(net)

    for callback in (None, Count(), Count()):
        fit(where, callback, memory=str(tmp_path))
    assert len(begun) == 2


@pytest.mark.parametrize(
    ("callback", "told"),
    [
        (callbacks.Checkpoint(), "training__checkpoint"),
        (callbacks.TrainEndCheckpoint(), "training__checkpoint"),
        (callbacks.LRScheduler("StepLR", step_size=1), "set learning_rate"),
        (("rate", callbacks.LRScheduler), "set learning_rate"),
        (callbacks.EpochScoring("accuracy"), "held-out images"),
        (callbacks.BatchScoring("accuracy"), "held-out images"),
        (callbacks.Freezer("*"), "one module"),
        (callbacks.EarlyStopping(load_best=True), "load_best=False"),
    ],
)
@pytest.mark.parametrize("where", WHERE)
def test_a_callback_that_cannot_work_is_refused(where, callback, told):
    with pytest.raises(ValueError, match=rf"which cannot work here: .*{told}"):
        fit(where, callback)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(
    "callback", [callbacks.ProgressBar(), callbacks.PrintLog(), callbacks.EpochTimer()]
)
def test_callbacks_that_show_the_progress_work(where, callback, capsys):
    fit(where, callback)
