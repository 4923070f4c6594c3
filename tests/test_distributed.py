"""Beyond one machine: blocks give what the whole gives."""

from __future__ import annotations

import pickle
import re
import sys

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.model_selection import GridSearchCV

from skavid import AVIDDetector, NoveltyKFold, TemporalStacker, distributed, temporal
from skavid.components import nested

dask = pytest.importorskip("dask")
pytest.importorskip("dask.array")
da = dask.array

TINY = {
    "features": "pixels", "max_epochs": 1,
    "inpainter__width": 4, "inpainter__depth": 2, "detector__width": 4,
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
    return AVIDDetector(**nested(TINY)).fit(X)


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
    scores, masks = distributed.score_samples(detector, lazy), distributed.segment(detector, lazy)
    assert scores.dtype == np.float64
    assert masks.dtype == bool
    assert masks.chunks[1:] == ((16,), (20,))
    assert_array_equal(scores.compute(), detector.score_samples(X))
    assert_array_equal(masks.compute(), detector.segment(X))


@pytest.mark.parametrize("shape", [(20, 8, 8), (20, 8, 8, 1), (20, 8, 8, 3), (20, 64), (20, 192)])
def test_blocks_of_every_form_of_images_give_the_maps_of_all_at_once(shape):
    X = np.random.default_rng(1).normal(size=shape)
    flat = {64: (8, 8), 192: (8, 8, 3)}.get(shape[-1])
    detector = AVIDDetector(**nested(dict(**TINY, image_shape=flat))).fit(X)
    found = distributed.maps(detector, da.from_array(X, chunks=(7, *shape[1:])))
    for name in found:
        expected = getattr(detector.maps(X), name)
        assert found[name].shape == expected.shape
        assert found[name].dtype == expected.dtype
        assert_array_equal(found[name].compute(), expected)


def test_nothing_is_looked_at_before_it_is_asked_for(detector):
    def load(block):
        raise AssertionError("read too early")

    lazy = da.zeros((9, 8, 8), chunks=3).map_blocks(load, dtype=float, meta=np.empty((0, 0, 0)))
    distributed.maps(detector, lazy)
    distributed.score_samples(detector, lazy)
    distributed.stack(TemporalStacker().fit(np.zeros((1, 8, 8))), lazy)
    distributed.causal_mean(lazy, 3)


def test_workers_get_the_networks_and_no_net_that_trains(detector, X):
    scores = distributed.score_samples(detector, da.from_array(X, chunks=(10, 16, 20)))
    sent = [value for value in dict(scores.dask).values() if "AVIDDetector" in str(value)[:200]]
    assert len(pickle.dumps(sent)) < 0.7 * len(pickle.dumps(detector))
    assert hasattr(detector, "net_")


@given(blocks=cuts(), clips=cuts(), n_channels=st.integers(1, 4), average=st.booleans())
def test_stacks_of_blocks_are_those_of_all_frames(X, blocks, clips, n_channels, average):
    groups = np.repeat(np.arange(len(clips))[::-1], clips)
    stacker = TemporalStacker(n_channels=n_channels, average=average).fit(X, groups=groups)
    stacks = distributed.stack(stacker, da.from_array(X, chunks=(blocks, 16, 20)), groups=groups)
    expected = stacker.transform(X, groups=groups)
    assert stacks.dtype == expected.dtype
    assert stacks.chunks[0] == tuple(length for length in blocks if length)
    assert_array_equal(stacks.compute(), expected)


def test_stacks_of_flat_rows_and_of_a_single_clip_are_those_of_all_frames():
    rows = np.random.default_rng(2).normal(size=(12, 27))
    stacker = TemporalStacker(image_shape=(3, 3, 3), spacing=1).fit(rows)
    stacks = distributed.stack(stacker, da.from_array(rows, chunks=(5, 9)))
    assert_array_equal(stacks.compute(), stacker.transform(rows, groups=np.zeros(12)))


def test_a_block_of_frames_reads_no_more_of_the_past_than_its_stacks_do(X):
    read = []

    def note(block):
        read.append(len(block))
        return block

    stacker = TemporalStacker().fit(X)
    lazy = da.from_array(X, chunks=(3, 16, 20)).map_blocks(note, dtype=X.dtype, meta=X[:0])
    assert distributed.stack(stacker, lazy)[-3:].compute().shape == (3, 16, 20, 3)
    assert sum(read) <= 3 + 5 + 3  # three stacks, 5 frames back, in whole blocks


@given(blocks=cuts(), clips=cuts(), n_frames=st.integers(1, LONG + 2))
def test_means_over_time_of_blocks_are_those_of_all_frames(blocks, clips, n_frames):
    scores = np.random.default_rng(3).normal(size=(LONG, 2))
    groups = np.repeat(np.arange(len(clips)), clips)
    means = distributed.causal_mean(
        da.from_array(scores, chunks=(blocks, 1)), n_frames, groups=groups
    )
    assert_array_equal(means.compute(), temporal.causal_mean(scores, n_frames, groups=groups))


def test_refusals_say_what_is_wrong_before_anything_is_computed(detector, X, monkeypatch):
    lazy = da.from_array(X, chunks=(10, 16, 20))
    stacker = TemporalStacker().fit(X, groups=np.zeros(LONG))
    refuses(
        TypeError,
        "X must be a dask array. Got ndarray; wrap it in dask.array.from_array.",
        lambda: distributed.score_samples(detector, X),
    )
    refuses(
        TypeError,
        "detector must be an AVIDDetector. Got TemporalStacker; take it out of a Pipeline, and "
        "transform X block by block before.",
        lambda: distributed.segment(stacker, lazy),
    )
    refuses(
        TypeError,
        "stacker must be a TemporalStacker. Got AVIDDetector.",
        lambda: distributed.stack(detector, lazy),
    )
    refuses(
        ValueError,
        "X has blocks of unknown length; call X.compute_chunk_sizes() first.",
        lambda: distributed.maps(detector, lazy[lazy[:, 0, 0] > 0]),
    )
    refuses(
        ValueError,
        "maps is empty, but must hold at least one row.",
        lambda: distributed.causal_mean(da.zeros((0, 3)), 2),
    )
    refuses(
        ValueError,
        "X has images of 2 channels, but AVIDDetector was fitted on 1; convert them first.",
        lambda: distributed.score_samples(detector, da.zeros((3, 16, 20, 2))),
    )
    refuses(
        ValueError,
        "TemporalStacker was fitted with groups and needs them here, too, to keep clips apart; "
        "pass groups=, zeros for a single clip, or stack before the search.",
        lambda: distributed.stack(stacker, lazy),
    )
    refuses(
        ValueError,
        "n_frames must be a whole number above 0. Got 0.",
        lambda: distributed.causal_mean(da.zeros(3), 0),
    )
    monkeypatch.setitem(sys.modules, "dask", None)
    refuses(
        ImportError,
        "segment needs dask; pip install 'skavid[dask]'.",
        lambda: distributed.segment(detector, lazy),
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
            AVIDDetector(**nested(dict(**TINY, fusion="min"))),
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
    detector = AVIDDetector(**nested(dict(**TINY, corruption__spacing=2))).fit(
        stacks, groups=groups
    )
    lazy = distributed.stack(stacker, da.from_array(X, chunks=(6, 16, 20)), groups=groups)
    scores, masks = client.compute(
        [distributed.score_samples(detector, lazy), distributed.segment(detector, lazy)], sync=True
    )
    assert_array_equal(scores, detector.score_samples(stacks))
    assert_array_equal(masks, detector.segment(stacks))


# --- training ------------------------------------------------------------------------------------
