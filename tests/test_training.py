"""The game: who is held out, what is kept, alarms, interruption, going on, caching."""

from __future__ import annotations

import copy
import pickle
import re

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback

from skavid import AVIDDetector, NoveltyKFold
from skavid.components import nested
from skavid.core import training
from skavid.core.corruption import Corrupted, synthetic_anomalies
from skavid.core.regions import PAPER_GEOMETRY, aligned
from skavid.core.training import region_targets, split
from skavid.exceptions import CollapseWarning, DivergedError

from .test_estimator import NORMAL, QUERY, TINY, textures


class Interrupt(Callback):
    """Press Ctrl-C in the first batch of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_batch_begin(self, net, **kwargs):
        if len(net.history) == self.epoch:
            raise KeyboardInterrupt


@given(n=st.integers(2, 60), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_split_holds_out_some_images_and_trains_on_the_others(n, fraction, seed):
    parts = split(n, None, fraction, np.random.RandomState(seed))
    assert_array_equal(np.sort(np.concatenate(parts)), np.arange(n))
    assert min(len(parts.train), len(parts.held_out)) >= 1
    assert len(parts.held_out) == min(max(1, round(fraction * n)), n - 1)


@given(sizes=st.lists(st.integers(1, 9), min_size=5, max_size=9), fraction=st.floats(0.05, 0.9))
def test_split_holds_out_whole_clips(sizes, fraction):
    clips = np.repeat(np.arange(len(sizes)), sizes)
    parts = split(len(clips), clips, fraction, np.random.RandomState(0))
    assert not set(clips[parts.train]) & set(clips[parts.held_out])
    assert min(len(parts.train), len(parts.held_out)) >= 1


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4), fraction=st.floats(0.01, 0.9))
def test_split_of_few_clips_holds_out_the_end_of_each_and_never_more_than_asked(sizes, fraction):
    clips = np.repeat(np.arange(len(sizes)), sizes)
    if len(clips) < 2:
        return
    parts = split(len(clips), clips, fraction, np.random.RandomState(0))
    assert not set(parts.train) & set(parts.held_out)
    assert min(len(parts.train), len(parts.held_out)) >= 1
    assert len(parts.held_out) <= max(1, fraction * len(clips))
    for clip in np.unique(clips[parts.held_out]):
        own = parts.held_out[clips[parts.held_out] == clip]
        assert own[-1] == np.flatnonzero(clips == clip)[-1]
        assert not (parts.train[clips[parts.train] == clip] > own[0]).any()


def test_neighbouring_frames_of_what_is_held_out_are_not_trained_on():
    parts = split(100, np.zeros(100), 0.2, np.random.RandomState(0))
    assert_array_equal(parts.held_out, np.arange(80, 100))
    assert_array_equal(parts.train, np.arange(75))


def test_a_region_is_irregular_undecided_or_regular_by_its_corrupted_share():
    where = torch.zeros(1, 4, 12)
    where[0, :2, 4:8] = 1  # half of the second region
    where[0, 0, 8:10] = 1  # an eighth of the third
    made = Corrupted(where, where, where, torch.ones_like(where))
    regular, weight = region_targets(made, aligned(4))
    assert regular.tolist() == [[[1, 0, 1]]]
    assert weight.tolist() == [[[1, training.IRREGULAR_WEIGHT, 0]]]


def test_a_small_oddity_makes_a_large_region_of_fig_2_irregular():
    where = torch.zeros(1, 51, 51)
    where[0, 20:29, 20:29] = 1
    made = Corrupted(where, where, where, torch.ones_like(where))
    assert region_targets(made, PAPER_GEOMETRY)[0].item() == 0


def test_averages_forget_untrained_weights_soon_and_are_what_is_kept():
    average = training.Average(0.998)
    assert average(torch.tensor(0.0), torch.tensor(1.0), 0) == pytest.approx(0.9)
    assert average(torch.tensor(0.0), torch.tensor(1.0), 10**6) == pytest.approx(0.002)
    detector = AVIDDetector(**nested(TINY)).fit(NORMAL)
    kept = detector.net_.best_["detector"]["weights"]
    for name, weight in detector.detector_.state_dict().items():
        assert torch.equal(weight, kept[name])


def test_training_teaches_both_networks():
    images = textures(n=64, height=24, width=24)
    detector = AVIDDetector(
        **nested(
            {
                **TINY,
                "max_epochs": 25,
                "features": "pixels",
                "inpainter__width": 8,
                "detector__width": 8,
            }
        )
    ).fit(images)
    first, last = detector.history_[0], detector.history_[-1]
    assert last["valid_inpainter"] < 0.7 * first["valid_inpainter"]
    assert detector.checkpoint_["detector"]["region_auc"] > 0.8


def test_interruption_keeps_the_best_networks_and_says_so():
    detector = AVIDDetector(**nested(dict(**{**TINY, "max_epochs": 9}, callbacks=[Interrupt(3)])))
    message = "The training was interrupted after epoch 2; the best networks so far are kept"
    with pytest.warns(ConvergenceWarning, match=re.escape(message)):
        detector.fit(NORMAL)
    assert len(detector.history_) == detector.n_iter_ == 2
    assert np.isfinite(detector.score_samples(QUERY)).all()


def test_interruption_before_the_first_epoch_ends_is_an_interruption():
    detector = AVIDDetector(**nested(dict(**TINY, callbacks=[Interrupt(1)])))
    with pytest.raises(KeyboardInterrupt):
        detector.fit(NORMAL)
    assert set(vars(detector)) == set(detector.get_params(deep=False))


@pytest.mark.filterwarnings("ignore::skavid.exceptions.CollapseWarning")
def test_the_game_stops_early_when_neither_network_gets_better():
    parameters = {**TINY, "max_epochs": 60, "learning_rate": 1e-12}
    detector = AVIDDetector(**nested(dict(**parameters, training__n_iter_no_change=3))).fit(NORMAL)
    assert detector.n_iter_ < 60
    assert detector.net_.stopped_ == "no better network for 3 epochs"


def test_a_blind_detector_raises_an_alarm():
    parameters = {**TINY, "max_epochs": 6, "learning_rate": 1e-12, "corruption__detector": "noise"}
    with pytest.warns(CollapseWarning) as caught:
        AVIDDetector(**nested(dict(**parameters, gamma=0.0, alpha=0.1, zeta=0.5))).fit(NORMAL)
    assert len(caught) == 1
    assert re.fullmatch(
        r"The detector cannot tell regular from irregular regions: its AUC on held-out images was "
        r"below 0\.55 for 5 epochs in a row \(now 0\.\d\d\); raise max_epochs or raise "
        r"learning_rate \(now 1e-12, usually 0\.002\) or set corruption__detector='synthetic'\.",
        str(caught[0].message),
    )


def test_the_alarm_names_the_adversarial_weight_where_it_is_high():
    parameters = {**TINY, "max_epochs": 5, "learning_rate": 1e-12, "gamma": 0.0}
    parameters |= {"corruption": "noise", "training__adversarial_weight": 1.0}
    with pytest.warns(CollapseWarning, match=r"lower training__adversarial_weight \(now 1, us"):
        AVIDDetector(**nested(dict(**parameters, alpha=0.1, zeta=0.5))).fit(NORMAL)


def test_divergence_is_an_error_that_says_what_to_change():
    def explode(images, **kwargs):
        made = torch.full_like(images, float("inf"))
        return Corrupted(made, torch.zeros_like(made), made[:, 0] * 0 + 1, made[:, 0] * 0 + 1)

    detector = AVIDDetector(**nested(dict(**TINY, corruption__inpainter=explode)))
    message = (
        "The inpainter's loss became nan in epoch 1; lower learning_rate (now 0.002) or take "
        "loss='bce'."
    )
    with pytest.raises(DivergedError, match=re.escape(message)):
        detector.fit(NORMAL)
    assert not hasattr(detector, "net_")


def test_partial_fit_goes_on_and_leaves_copies_alone():
    detector = AVIDDetector(**nested(TINY)).fit(NORMAL)
    before = copy.deepcopy(detector)
    shared = copy.copy(detector)
    detector.partial_fit(NORMAL)
    assert len(detector.history_) == 3
    assert_array_equal(shared.score_samples(QUERY), before.score_samples(QUERY))
    assert (detector.score_samples(QUERY) != before.score_samples(QUERY)).any()


def test_partial_fit_begins_where_nothing_was_fitted():
    detector = AVIDDetector(**nested(TINY)).partial_fit(NORMAL)
    assert len(detector.history_) == detector.n_iter_ == 1


def test_warm_start_goes_on_and_a_cold_start_begins_anew():
    warm = AVIDDetector(**nested(dict(**TINY, warm_start=True))).fit(NORMAL).fit(NORMAL)
    cold = AVIDDetector(**nested(TINY)).fit(NORMAL).fit(NORMAL)
    assert (len(warm.history_), warm.n_iter_) == (4, 2)
    assert (len(cold.history_), cold.n_iter_) == (2, 2)


def test_held_out_images_are_corrupted_once_whatever_the_epochs():
    calls = []

    def count(images, **drawing):
        calls.append(len(images))
        return synthetic_anomalies(images, **drawing)

    def made(max_epochs):
        calls.clear()
        corruptions = {"corruption__inpainter": count, "corruption__detector": count}
        detector = AVIDDetector(**nested({**TINY, **corruptions, "max_epochs": max_epochs})).fit(
            NORMAL
        )
        return len(calls), sum(len(row["batches"]) for row in detector.net_.history)

    first, third = made(1), made(3)
    assert third[0] - first[0] == third[1] - first[1]  # a call a step: one draw serves both


class Rates(Callback):
    """Note the learning rate of every step."""

    def on_batch_end(self, net, **kwargs):
        self.seen = [*getattr(self, "seen", []), net.detector_optimizer_.param_groups[0]["lr"]]


def test_each_game_has_a_learning_rate_of_its_own_that_falls_to_its_end():
    images = textures(n=80)
    detector = AVIDDetector(**nested(dict(**{**TINY, "max_epochs": 6}, callbacks=[Rates()]))).fit(
        images
    )
    detector.partial_fit(images)
    rates = dict(detector.net_.callbacks_)["Rates"].seen
    first, second = rates[: 6 * 5], rates[6 * 5 :]
    assert len(second) == 5
    for game in (first, second):
        assert max(game) > 0.9 * detector.learning_rate
        assert game[-1] == min(game)
    assert first[-1] < 0.05 * detector.learning_rate


def test_a_fitted_net_holds_no_training_image():
    detector = AVIDDetector(**nested(TINY)).fit(NORMAL)
    large = AVIDDetector(**nested(TINY)).fit(textures(n=200))
    assert len(pickle.dumps(large)) < 1.3 * len(pickle.dumps(detector))


def labelled():
    images = np.concatenate([textures(n=18), textures(n=9, seed=3)])
    images[18:, 4:9, 3:8] = 255
    return images, np.repeat([1, -1], [18, 9])


GRID = {"alpha": [0.02, 0.05, 0.1, 0.2, 0.4], "zeta": [0.1, 0.3, 0.5, 0.7, 0.9]}


def search(memory, n_jobs=None, grid=GRID):
    images, labels = labelled()
    detector = AVIDDetector(**nested(dict(**{**TINY, "max_epochs": 1}, memory=memory)))
    return GridSearchCV(detector, grid, cv=NoveltyKFold(3), scoring="roc_auc", n_jobs=n_jobs).fit(
        images, labels
    )


def kept(folder, function="train_networks"):
    """Count the results of a function that joblib has stored."""
    return len(list(folder.rglob(f"{function}/*/output.pkl")))


@pytest.mark.filterwarnings("ignore:y marks irregular:UserWarning")
def test_a_search_over_25_thresholds_trains_once_a_fold_and_once_at_the_end(tmp_path):
    found = search(str(tmp_path))
    assert kept(tmp_path) == 4
    assert kept(tmp_path, "_look_at_all") == 7  # held-out and test images of each fold, and all
    assert np.isfinite(found.cv_results_["mean_test_score"]).all()
    # Other thresholds on the same folds train nothing and look at nothing.
    search(str(tmp_path), grid={"alpha": [0.03], "zeta": [0.2, 0.4], "fusion": ["min", "mean"]})
    assert (kept(tmp_path), kept(tmp_path, "_look_at_all")) == (4, 7)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:y marks irregular:UserWarning")
def test_a_search_without_memory_or_with_two_processes_finds_the_same(tmp_path):
    few = {name: values[::4] for name, values in GRID.items()}  # 13 trainings without memory
    cached = search(str(tmp_path / "one"), grid=few).cv_results_["mean_test_score"]
    plain = search(None, grid=few).cv_results_["mean_test_score"]
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        parallel = search(str(tmp_path / "two"), n_jobs=2, grid=few)
    parallel = parallel.cv_results_["mean_test_score"]
    assert_allclose(plain, cached, rtol=0, atol=0)
    assert_allclose(parallel, cached, rtol=0, atol=0)
    assert kept(tmp_path / "two") == 4


def test_a_warm_start_minds_new_parameters_and_counts_its_own_epochs():
    detector = AVIDDetector(**nested(dict(**TINY, warm_start=True))).fit(NORMAL)
    detector.set_params(learning_rate=0.001, max_epochs=1, training__momentum=0.5).fit(NORMAL)
    assert (detector.net_.lr, detector.net_.momentum) == (0.001, 0.5)
    assert (detector.n_iter_, len(detector.history_)) == (1, 3)


def test_a_warm_start_keeps_the_regions_of_its_detector():
    detector = AVIDDetector(**nested(dict(**TINY, warm_start=True))).fit(NORMAL)
    detector.set_params(detector__region_size=8).fit(NORMAL)
    assert detector.geometry_ == detector.detector_.geometry == aligned(4)
    assert detector.segment(QUERY).shape == QUERY.shape


def test_a_warm_start_after_an_interruption_counts_whole_epochs():
    detector = AVIDDetector(
        **nested(dict(**{**TINY, "max_epochs": 9}, callbacks=[Interrupt(3)], warm_start=True))
    )
    with pytest.warns(ConvergenceWarning, match="interrupted after epoch 2;"):
        detector.fit(NORMAL)
    dict(detector.net_.callbacks_)["Interrupt"].epoch = None
    detector.set_params(max_epochs=2).fit(NORMAL)
    assert (detector.n_iter_, len(detector.history_)) == (2, 4)
    assert [row["epoch"] for row in detector.history_] == [1, 2, 3, 4]


@pytest.mark.filterwarnings("ignore::skavid.exceptions.CollapseWarning")
def test_an_interruption_is_told_after_an_early_stop_too():
    parameters = {**TINY, "max_epochs": 60, "learning_rate": 1e-12, "warm_start": True}
    callback = Interrupt(0)
    detector = AVIDDetector(
        **nested(dict(**parameters, training__n_iter_no_change=3, callbacks=[callback]))
    ).fit(NORMAL)
    dict(detector.net_.callbacks_)["Interrupt"].epoch = detector.n_iter_ + 2
    detector.set_params(learning_rate=0.002, training__n_iter_no_change=None)
    with pytest.warns(ConvergenceWarning, match="interrupted after epoch"):
        detector.fit(NORMAL)
    assert detector.n_iter_ == 1


@pytest.mark.parametrize(("optimizer", "key"), [("adamw", "betas"), ("sgd", "momentum")])
def test_a_warm_start_applies_momentum_decay_and_optimiser(optimizer, key):
    detector = AVIDDetector(**nested(dict(**TINY, warm_start=True))).fit(NORMAL)
    detector.set_params(
        training__optimizer=optimizer, training__momentum=0.5, training__average_decay=0.9
    ).fit(NORMAL)
    net = detector.net_
    for network in ("inpainter", "detector"):
        (group,) = getattr(net, f"{network}_optimizer_").param_groups
        assert group[key] == {"betas": (0.5, 0.999), "momentum": 0.5}[key]
        assert getattr(net, f"averaged_{network}_").avg_fn.decay == 0.9


def test_an_inpainter_of_patches_learns_hidden_pixels_as_shares():
    stripes = np.zeros((48, 16, 16))
    stripes[:, :, ::4] = stripes[:, :, 1::4] = 1
    parameters = {
        **TINY,
        "max_epochs": 30,
        "features": "pixels",
        "inpainter__width": 16,
        "inpainter__depth": 1,
    }
    detector = AVIDDetector(
        **nested(
            dict(
                **parameters,
                corruption__inpainter="masking",
                inpainter__patch=4,
                training__reconstruction_loss="bernoulli",
                training__adversarial_weight=0,
            )
        )
    ).fit(stripes)
    losses = [row["inpainter_loss"] for row in detector.history_]
    assert losses[0] > 0.5
    assert losses[-1] < 0.2 < np.log(2)  # a guess of one half costs log 2
    maps = detector.maps(stripes[:4])
    assert maps.inpainted.min() >= 0
    assert maps.inpainted.max() <= 1
    assert maps.residual.mean() < 0.15
