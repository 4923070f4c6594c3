"""Beyond one machine: blocks give what the whole gives, processes what one process does."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GridSearchCV
from torch import nn

from skavid import AVIDDetector, NoveltyKFold, TemporalStacker, scale, temporal
from tests import together

dask = pytest.importorskip("dask")
pytest.importorskip("dask.array")
accelerate = pytest.importorskip("accelerate")
da = dask.array

TINY = {
    "features": "pixels", "max_epochs": 1,
    "inpainter_width": 4, "inpainter_depth": 2, "detector_width": 4,
    "device": "cpu", "random_state": 0,
}  # fmt: skip
LONG = 31


@pytest.fixture(autouse=True)
def one_thread_of_dask():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).integers(0, 256, (LONG, 16, 20), dtype=np.uint8)


@pytest.fixture(scope="module")
def detector(X):
    return AVIDDetector(**TINY).fit(X)


@st.composite
def cuts(draw, length=LONG):
    """Lengths that add up to ``length``: of blocks, or of clips."""
    places = draw(st.lists(st.integers(0, length), max_size=6))
    return tuple(np.diff([0, *sorted(places), length]).tolist())


def refuses(kind, message, function):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        function()


# --- scoring -------------------------------------------------------------------------------------


@given(blocks=cuts(), rows=st.integers(1, 16))
def test_blocks_give_the_scores_and_masks_of_all_images_at_once(detector, X, blocks, rows):
    lazy = da.from_array(X, chunks=(blocks, rows, 20))
    scores, masks = scale.score_samples(detector, lazy), scale.segment(detector, lazy)
    assert scores.dtype == np.float64
    assert masks.dtype == bool
    assert masks.chunks[1:] == ((16,), (20,))
    assert_array_equal(scores.compute(), detector.score_samples(X))
    assert_array_equal(masks.compute(), detector.segment(X))


@pytest.mark.parametrize("shape", [(20, 8, 8), (20, 8, 8, 1), (20, 8, 8, 3), (20, 64), (20, 192)])
def test_blocks_of_every_form_of_images_give_the_maps_of_all_at_once(shape):
    X = np.random.default_rng(1).normal(size=shape)
    flat = {64: (8, 8), 192: (8, 8, 3)}.get(shape[-1])
    detector = AVIDDetector(**TINY, image_shape=flat).fit(X)
    found = scale.maps(detector, da.from_array(X, chunks=(7, *shape[1:])))
    for name, expected in detector.maps(X).items():
        assert found[name].shape == expected.shape
        assert found[name].dtype == expected.dtype
        assert_array_equal(found[name].compute(), expected)


def test_nothing_is_looked_at_before_it_is_asked_for(detector):
    def load(block):
        raise AssertionError("read too early")

    lazy = da.zeros((9, 8, 8), chunks=3).map_blocks(load, dtype=float, meta=np.empty((0, 0, 0)))
    scale.maps(detector, lazy)
    scale.score_samples(detector, lazy)
    scale.stack(TemporalStacker().fit(np.zeros((1, 8, 8))), lazy)
    scale.causal_mean(lazy, 3)


def test_workers_get_the_networks_and_no_net_that_trains(detector, X):
    scores = scale.score_samples(detector, da.from_array(X, chunks=(10, 16, 20)))
    sent = [value for value in dict(scores.dask).values() if "AVIDDetector" in str(value)[:200]]
    assert len(pickle.dumps(sent)) < 0.7 * len(pickle.dumps(detector))
    assert hasattr(detector, "net_")


@given(blocks=cuts(), clips=cuts(), n_channels=st.integers(1, 4), average=st.booleans())
def test_stacks_of_blocks_are_those_of_all_frames(X, blocks, clips, n_channels, average):
    groups = np.repeat(np.arange(len(clips))[::-1], clips)
    stacker = TemporalStacker(n_channels=n_channels, average=average).fit(X, groups=groups)
    stacks = scale.stack(stacker, da.from_array(X, chunks=(blocks, 16, 20)), groups=groups)
    expected = stacker.transform(X, groups=groups)
    assert stacks.dtype == expected.dtype
    assert stacks.chunks[0] == tuple(length for length in blocks if length)
    assert_array_equal(stacks.compute(), expected)


def test_stacks_of_flat_rows_and_of_a_single_clip_are_those_of_all_frames():
    rows = np.random.default_rng(2).normal(size=(12, 27))
    stacker = TemporalStacker(image_shape=(3, 3, 3), spacing=1).fit(rows)
    stacks = scale.stack(stacker, da.from_array(rows, chunks=(5, 9)))
    assert_array_equal(stacks.compute(), stacker.transform(rows, groups=np.zeros(12)))


def test_a_block_of_frames_reads_no_more_of_the_past_than_its_stacks_do(X):
    read = []

    def note(block):
        read.append(len(block))
        return block

    stacker = TemporalStacker().fit(X)
    lazy = da.from_array(X, chunks=(3, 16, 20)).map_blocks(note, dtype=X.dtype, meta=X[:0])
    assert scale.stack(stacker, lazy)[-3:].compute().shape == (3, 16, 20, 3)
    assert sum(read) <= 3 + 5 + 3  # three stacks, 5 frames back, in whole blocks


@given(blocks=cuts(), clips=cuts(), n_frames=st.integers(1, LONG + 2))
def test_means_over_time_of_blocks_are_those_of_all_frames(blocks, clips, n_frames):
    scores = np.random.default_rng(3).normal(size=(LONG, 2))
    groups = np.repeat(np.arange(len(clips)), clips)
    means = scale.causal_mean(da.from_array(scores, chunks=(blocks, 1)), n_frames, groups=groups)
    assert_array_equal(means.compute(), temporal.causal_mean(scores, n_frames, groups=groups))


def test_refusals_say_what_is_wrong_before_anything_is_computed(detector, X, monkeypatch):
    lazy = da.from_array(X, chunks=(10, 16, 20))
    stacker = TemporalStacker().fit(X, groups=np.zeros(LONG))
    refuses(
        TypeError,
        "X must be a dask array. Got ndarray; wrap it in dask.array.from_array.",
        lambda: scale.score_samples(detector, X),
    )
    refuses(
        TypeError,
        "detector must be an AVIDDetector. Got TemporalStacker; take it out of a Pipeline, and "
        "transform X block by block before.",
        lambda: scale.segment(stacker, lazy),
    )
    refuses(
        TypeError,
        "stacker must be a TemporalStacker. Got AVIDDetector.",
        lambda: scale.stack(detector, lazy),
    )
    refuses(
        ValueError,
        "X has blocks of unknown length; call X.compute_chunk_sizes() first.",
        lambda: scale.maps(detector, lazy[lazy[:, 0, 0] > 0]),
    )
    refuses(
        ValueError,
        "maps is empty, but must hold at least one row.",
        lambda: scale.causal_mean(da.zeros((0, 3)), 2),
    )
    refuses(
        ValueError,
        "X has images of 2 channels, but AVIDDetector was fitted on 1; convert them first.",
        lambda: scale.score_samples(detector, da.zeros((3, 16, 20, 2))),
    )
    refuses(
        ValueError,
        "TemporalStacker was fitted with groups and needs them here, too, to keep clips apart; "
        "pass groups=, zeros for a single clip, or stack before the search.",
        lambda: scale.stack(stacker, lazy),
    )
    refuses(
        ValueError,
        "n_frames must be a whole number above 0. Got 0.",
        lambda: scale.causal_mean(da.zeros(3), 0),
    )
    monkeypatch.setitem(sys.modules, "dask", None)
    refuses(
        ImportError,
        "segment needs dask; pip install 'skavid[dask]'.",
        lambda: scale.segment(detector, lazy),
    )


# --- a cluster -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.slow
def test_a_search_on_a_cluster_finds_what_it_finds_without(client, X):
    y = np.repeat([1, -1], [24, LONG - 24])
    X = X.astype(np.float32)
    X[24:, 4:9, 4:9] += 100

    def search():
        return GridSearchCV(
            AVIDDetector(**TINY, fusion="min"),
            {"alpha": [0.05, 0.4], "zeta": [0.2, 0.5]},
            cv=NoveltyKFold(2),
            scoring="roc_auc",
            refit=False,
        )

    alone = search().fit(X, y)
    with joblib.parallel_config("dask"):
        shared = search().fit(X, y)
    assert shared.best_params_ == alone.best_params_
    for name in ("split0_test_score", "split1_test_score"):
        assert_array_equal(shared.cv_results_[name], alone.cv_results_[name])
    assert all(client.run(lambda: "skavid" in sys.modules).values())  # both had work


@pytest.mark.slow
def test_workers_score_video_as_one_machine_does(client, X):
    groups = np.repeat([0, 1], [13, LONG - 13])
    stacker = TemporalStacker().fit(X, groups=groups)
    stacks = stacker.transform(X, groups=groups)
    detector = AVIDDetector(**TINY, spacing=2).fit(stacks, groups=groups)
    lazy = scale.stack(stacker, da.from_array(X, chunks=(6, 16, 20)), groups=groups)
    scores, masks = client.compute(
        [scale.score_samples(detector, lazy), scale.segment(detector, lazy)], sync=True
    )
    assert_array_equal(scores, detector.score_samples(stacks))
    assert_array_equal(masks, detector.segment(stacks))


# --- training ------------------------------------------------------------------------------------


def weights(detector):
    """Return the bytes of all networks: those that are used, in training, and averaged."""
    net = detector.net_
    networks = [
        detector.inpainter_, detector.detector_, net.inpainter_, net.detector_,
        net.averaged_inpainter_, net.averaged_detector_,
    ]  # fmt: skip
    return [
        value.numpy().tobytes() for network in networks for value in network.state_dict().values()
    ]


def curves(detector):
    names = ("inpainter_loss", "detector_loss", "valid_inpainter", "valid_detector_auc")
    return [[row[name] for name in names] for row in detector.history_]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return what each of two processes held at the end."""
    folder = tmp_path_factory.mktemp("together")
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         "--module", "tests.together", str(folder)],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    kept = [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in (0, 1)]
    return kept, run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", together.CASES)
def test_two_processes_learn_what_one_does(trained, name):
    shared = trained[0][0][name]
    alone = together.fit_case(name, AVIDDetector.fit)
    rtol = 1e-9 if name == "double" else 1e-4
    assert_allclose(curves(shared), curves(alone), rtol=rtol)
    assert_allclose([shared.alpha_, shared.zeta_], [alone.alpha_, alone.zeta_], rtol=1e-3)


@pytest.mark.slow
def test_two_processes_go_on_as_one_does(trained):
    alone = together.fit_case("defaults", AVIDDetector.fit)
    together.go_on(alone, AVIDDetector.fit)
    shared = trained[0][0]["gone on"]
    assert len(shared.history_) == 4
    assert_allclose(curves(shared), curves(alone), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*together.CASES, "unseeded", "gone on"])
def test_all_processes_hold_the_same_to_the_last_bit(trained, name):
    first, second = (kept[name] for kept in trained[0])
    assert weights(first) == weights(second)
    assert first.history_ == second.history_
    assert (first.alpha_, first.zeta_, first.balance_) == (
        second.alpha_,
        second.zeta_,
        second.balance_,
    )


@pytest.mark.slow
def test_one_process_talks_and_different_images_are_refused(trained):
    kept, printed = trained
    assert printed.count("valid_inpainter") == 1
    for one in kept:
        assert one["refused"] == (
            "X or groups is not the same in all processes; give all images to each: it takes its "
            "share by itself."
        )


def test_a_single_process_learns_what_fit_does_and_keeps_no_trace_of_more(X):
    given = AVIDDetector(**TINY, adversarial_start=0.3, batch_size=8)
    shared = scale.fit_distributed(given, X)
    alone = AVIDDetector(**given.get_params()).fit(X)
    assert shared is given
    assert given.get_params() == AVIDDetector(**given.get_params()).get_params()
    assert_allclose(curves(shared), curves(alone), rtol=1e-5)
    layers = [*shared.net_.inpainter_.modules(), *shared.net_.detector_.modules()]
    assert {type(layer) for layer in layers if isinstance(layer, nn.BatchNorm2d)} == {
        nn.BatchNorm2d
    }
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
    assert "scale" not in str(shared.net_.callbacks) + str(shared.net_.callbacks_)


@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_shared_batch_statistics_are_those_of_torch(momentum):
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(3, momentum=momentum)
    nn.init.uniform_(plain.weight)
    shared = pickle.loads(pickle.dumps(plain))
    shared.__class__, shared.add_up = scale._BatchNorm, scale._Sum()
    images = 5 + torch.randn(4, 3, 5, 6)
    answers = []
    for layer in (plain, shared):
        given = images.clone().requires_grad_()
        made = layer(given)
        (made.square() * torch.linspace(0, 1, 6)).sum().backward()
        again = layer.eval()(images)
        answers.append([made, given.grad, layer.weight.grad, layer.bias.grad, again])
        answers[-1] += layer.state_dict().values()
    for expected, found in zip(*answers, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_failed_or_interrupted_training_leaves_the_detector_as_it_was(X):
    from skorch.callbacks import Callback

    class Interrupt(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    detector = AVIDDetector(**{**TINY, "max_epochs": 3}, callbacks=[Interrupt()])
    before = dict(vars(detector))
    with pytest.raises(KeyboardInterrupt):
        scale.fit_distributed(detector, X)
    assert vars(detector) == before


def test_trainings_that_cannot_be_shared_are_refused(X, monkeypatch):
    refuses(
        ValueError,
        "memory must be None in a distributed fit, since processes that share a cache wait for "
        "each other's trainings. Got 'cache'.",
        lambda: scale.fit_distributed(AVIDDetector(features="pixels", memory="cache"), X),
    )
    refuses(
        ValueError,
        "checkpoint must be None in a distributed fit, since all processes would write the same "
        "file. Got 'game'.",
        lambda: scale.fit_distributed(AVIDDetector(features="pixels", checkpoint="game"), X),
    )
    refuses(
        ValueError,
        "device must be 'auto' or 'cpu' in a distributed fit, since each process has a device of "
        "its own. Got 'cuda:1'.",
        lambda: scale.fit_distributed(AVIDDetector(features="pixels", device="cuda:1"), X),
    )
    refuses(
        TypeError,
        "detector must be an AVIDDetector. Got TemporalStacker.",
        lambda: scale.fit_distributed(TemporalStacker(), X),
    )
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        refuses(
            RuntimeError,
            "2 processes were started, but Accelerate was told before that there is 1; call "
            "fit_distributed before it is asked for anything, or make its Accelerator or "
            "PartialState with cpu=True where there is no GPU.",
            lambda: scale.fit_distributed(AVIDDetector(features="pixels"), X),
        )
    monkeypatch.setattr(accelerate.PartialState(cpu=True), "num_processes", 3)
    refuses(
        ValueError,
        "batch_size=2 is shared by 3 processes; it must be 3 or more.",
        lambda: scale.fit_distributed(AVIDDetector(features="pixels", batch_size=2), X),
    )
    monkeypatch.setitem(sys.modules, "accelerate", None)
    refuses(
        ImportError,
        "fit_distributed needs accelerate; pip install 'skavid[accelerate]'.",
        lambda: scale.fit_distributed(AVIDDetector(features="pixels"), X),
    )
