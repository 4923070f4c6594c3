import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import config_context
from sklearn.base import clone
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from skavid.model_selection import NoveltyKFold


@st.composite
def labelled_samples(draw):
    """Labels in any order, with enough of each kind for the folds."""
    n_splits = draw(st.integers(2, 5))
    n_regular = draw(st.integers(n_splits, 30))
    n_irregular = draw(st.integers(n_splits, 30))
    y = draw(st.permutations([1] * n_regular + [-1] * n_irregular))
    return n_splits, np.array(y)


@st.composite
def grouped_samples(draw):
    """Groups of three kinds, with enough groups of each label for the folds."""
    n_splits = draw(st.integers(2, 4))
    n_mixed = draw(st.integers(0, 5))
    fewest = max(n_splits - n_mixed, 0)
    kinds = ["mixed"] * n_mixed
    kinds += ["regular"] * draw(st.integers(fewest, fewest + 4))
    kinds += ["irregular"] * draw(st.integers(fewest, fewest + 4))
    y, groups = [], []
    for group, kind in enumerate(draw(st.permutations(kinds))):
        labels = {"mixed": [1, -1], "regular": [1], "irregular": [-1]}[kind]
        labels = labels * draw(st.integers(1, 6))
        y += labels
        groups += [f"clip {group}"] * len(labels)
    order = np.random.default_rng(draw(st.integers(0, 9))).permutation(len(y))
    return n_splits, np.array(y)[order], np.array(groups)[order]


def blobs(n_regular=60, n_irregular=9):
    """Two kinds, sorted by label, a little mixed."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(n_regular, 2)), rng.normal(3, size=(n_irregular, 2))])
    return X, np.repeat([1, -1], [n_regular, n_irregular])


def check_folds(folds, y, n_splits):
    """Hold for any folds: the contract of the class docstring."""
    assert len(folds) == n_splits
    tested = np.concatenate([test for _, test in folds])
    assert np.array_equal(np.sort(tested), np.arange(len(y)))
    for train, test in folds:
        assert len(train) > 0
        assert set(y[train]) == {1}
        assert set(y[test]) == {1, -1}
        assert not set(train) & set(test)
        assert np.array_equal(train, np.sort(train))
        assert np.array_equal(test, np.sort(test))


@settings(deadline=None, max_examples=50)
@given(samples=labelled_samples(), shuffle=st.booleans())
def test_folds_train_on_regular_samples_and_test_every_sample_once(samples, shuffle):
    n_splits, y = samples
    folds = list(NoveltyKFold(n_splits, shuffle=shuffle).split(y, y))
    check_folds(folds, y, n_splits)
    for train, test in folds:
        # Without groups, every regular sample that is not tested is trained on.
        assert len(train) == np.sum(y == 1) - np.sum(y[test] == 1)
        for label in (1, -1):
            assert abs(np.sum(y[test] == label) - np.sum(y == label) / n_splits) < 1


def test_masks_as_y_are_irregular_where_they_are_not_empty():
    masks = np.zeros((12, 3, 4), dtype=bool)
    masks[[1, 4, 7], 2, 1] = True
    labels = np.where(masks.any(axis=(1, 2)), -1, 1)
    for one, other in zip(
        NoveltyKFold(3).split(masks, masks), NoveltyKFold(3).split(labels, labels), strict=True
    ):
        assert [part.tolist() for part in one] == [part.tolist() for part in other]


@settings(deadline=None, max_examples=100)
@given(samples=grouped_samples(), shuffle=st.booleans())
def test_groups_stay_whole_and_no_fold_lacks_a_kind(samples, shuffle):
    n_splits, y, groups = samples
    folds = list(NoveltyKFold(n_splits, shuffle=shuffle).split(y, y, groups))
    check_folds(folds, y, n_splits)
    for train, test in folds:
        assert not set(groups[train]) & set(groups[test])
        untested = ~np.isin(groups, groups[test])
        assert np.array_equal(train, np.flatnonzero(untested & (y == 1)))


def test_groups_of_one_kind_fill_what_mixed_groups_leave():
    # Dealt by size alone, one fold of these gets no irregular sample.
    sizes = [(10, 0), (10, 0), (0, 1), (1, 20), (10, 1)]
    labels = [[1] * regular + [-1] * irregular for regular, irregular in sizes]
    y = np.concatenate(labels)
    groups = np.repeat(np.arange(5), [len(group) for group in labels])
    check_folds(list(NoveltyKFold(3).split(y, y, groups)), y, 3)


def test_groups_of_one_size_are_assigned_evenly():
    groups = np.repeat(np.arange(12), 5)
    y = np.where(groups < 8, 1, -1)
    for _, test in NoveltyKFold(4).split(y, y, groups):
        assert np.sum(y[test] == 1) == 10
        assert np.sum(y[test] == -1) == 5


def test_without_shuffle_a_fold_tests_neighbours():
    y = np.array([1, -1, 1, 1, -1, 1])
    folds = [(list(train), list(test)) for train, test in NoveltyKFold(2).split(y, y)]
    assert folds == [([3, 5], [0, 1, 2]), ([0, 2], [3, 4, 5])]


@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(23), 3)])
def test_a_seed_repeats_its_shuffle(groups):
    y = np.repeat([1, -1], [42, 27])

    def folds(seed):
        cv = NoveltyKFold(3, shuffle=True, random_state=seed)
        return [test.tolist() for _, test in cv.split(y, y, groups)]

    assert folds(0) == folds(0)
    assert folds(0) != folds(1)
    state = np.random.RandomState(0)
    assert folds(state) != folds(state)


def test_numpys_global_state_is_untouched_with_a_seed():
    y = np.repeat([1, -1], 9)
    before = np.random.get_state()[1].copy()
    list(NoveltyKFold(3, shuffle=True, random_state=0).split(y, y))
    assert np.array_equal(before, np.random.get_state()[1])


def test_labels_may_be_floats_or_lists():
    y = [1.0, -1.0] * 4
    assert len(list(NoveltyKFold(2).split(y, y))) == 2


# Inside scikit-learn -----------------------------------------------------------------------------


def test_a_search_on_sorted_labels_has_no_nan_fold():
    X, y = blobs()
    search = GridSearchCV(
        IsolationForest(random_state=0),
        {"n_estimators": [5, 10]},
        cv=NoveltyKFold(3),
        scoring="roc_auc",
        error_score="raise",
    ).fit(X, y)
    scores = [search.cv_results_[f"split{fold}_test_score"] for fold in range(3)]
    assert np.all(np.array(scores) > 0.7)


def test_cross_validation_scores_held_out_samples_alone():
    X, y = blobs()
    cv = NoveltyKFold(3)
    expected = [
        roc_auc_score(y[test], OneClassSVM().fit(X[train]).decision_function(X[test]))
        for train, test in cv.split(X, y)
    ]
    scores = cross_val_score(OneClassSVM(), X, y, cv=cv, scoring="roc_auc")
    assert np.array_equal(scores, expected)


def test_cross_val_predict_covers_every_sample():
    X, y = blobs()
    predicted = cross_val_predict(OneClassSVM(), X, y, cv=NoveltyKFold(3))
    assert set(predicted) == {1, -1}
    scores = cross_val_predict(
        OneClassSVM(), X, cv=list(NoveltyKFold(3).split(X, y)), method="decision_function"
    )
    assert np.array_equal(np.where(scores >= 0, 1, -1), predicted)


@pytest.mark.parametrize("routing", [False, True])
def test_a_search_hands_groups_to_the_folds(routing):
    X, y = blobs(60, 10)
    groups = np.repeat(np.arange(14), 5)
    with config_context(enable_metadata_routing=routing):
        params = {"params": {"groups": groups}} if routing else {"groups": groups}
        pipeline = make_pipeline(StandardScaler(), OneClassSVM())
        scores = cross_val_score(
            pipeline, X, y, cv=NoveltyKFold(2), scoring="roc_auc", error_score="raise", **params
        )
    expected = [
        roc_auc_score(y[test], clone(pipeline).fit(X[train]).decision_function(X[test]))
        for train, test in NoveltyKFold(2).split(X, y, groups)
    ]
    assert np.array_equal(scores, expected)


def test_routing_requests_groups_unless_told_otherwise():
    cv = NoveltyKFold()
    with config_context(enable_metadata_routing=True):
        assert cv.get_metadata_routing().consumes("split", {"groups"}) == {"groups"}
        cv.set_split_request(groups=False)
        assert cv.get_metadata_routing().consumes("split", {"groups"}) == set()


def test_it_looks_and_copies_like_scikit_learns_splitters():
    cv = NoveltyKFold(3, shuffle=True, random_state=0)
    assert repr(cv) == "NoveltyKFold(n_splits=3, random_state=0, shuffle=True)"
    assert cv.get_n_splits() == cv.get_n_splits(np.zeros(9), np.ones(9), None) == 3
    search = clone(GridSearchCV(OneClassSVM(), {}, cv=cv))
    assert search.cv is not cv
    assert repr(search.cv) == repr(cv)


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_splits": 2.0}, TypeError, "n_splits must be an int. Got 2.0."),
        ({"n_splits": True}, TypeError, "n_splits must be an int. Got True."),
        ({"n_splits": 1}, ValueError, "n_splits must be at least 2. Got 1."),
        ({"shuffle": 1}, TypeError, "shuffle must be True or False. Got 1."),
        (
            {"random_state": 0},
            ValueError,
            "random_state has no effect without shuffle=True. Got 0; leave it out or pass "
            "shuffle=True.",
        ),
    ],
)
def test_wrong_parameters_are_refused_at_once(parameters, error, message):
    with pytest.raises(error, match=re.escape(message)):
        NoveltyKFold(**parameters)


@pytest.mark.parametrize(
    ("y", "groups", "message"),
    [
        (
            None,
            None,
            "NoveltyKFold needs y: 1 for regular, -1 for irregular samples. Got None.",
        ),
        (
            [0, 0, 0, 1, 1, 1],
            None,
            "y must be 1 for regular and -1 for irregular samples. Got labels 0, 1; where 1 "
            "marks the irregular ones, pass np.where(y == 0, 1, -1).",
        ),
        (
            [False, False, True, True, False, True],
            None,
            "y must be 1 for regular and -1 for irregular samples. Got labels False, True; where "
            "1 marks the irregular ones, pass np.where(y == 0, 1, -1).",
        ),
        (
            ["good", "good", "bad", "good", "bad", "good"],
            None,
            "y must be 1 for regular and -1 for irregular samples. Got labels 'bad', 'good'; pass "
            "np.where(y == regular_label, 1, -1).",
        ),
        (
            [1, 1, 1, 1, 1, 1],
            None,
            "n_splits=3 needs at least 3 irregular samples (y == -1), one per fold. Got 0.",
        ),
        (
            [1, -1, -1, -1, -1, 1],
            None,
            "n_splits=3 needs at least 3 regular samples (y == 1), one per fold. Got 2.",
        ),
        (
            [1, 1, 1, 1, -1, -1],
            [0, 0, 1, 1, 2, 3],
            "n_splits=3 needs at least 3 groups that hold regular samples (y == 1), one per fold. "
            "Got 2.",
        ),
        (
            [1, 1, 1, -1, -1, -1],
            [0, 1, 2, 2, 3, 3],
            "n_splits=3 needs at least 3 groups that hold irregular samples (y == -1), one per "
            "fold. Got 2.",
        ),
    ],
)
def test_samples_that_cannot_be_split_are_refused(y, groups, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        list(NoveltyKFold(3).split(np.zeros((6, 2)), y, groups))


@pytest.mark.parametrize("argument", ["y", "groups"])
def test_lengths_must_agree(argument):
    arguments = {"y": [1, -1] * 3, "groups": np.arange(6)}
    arguments[argument] = arguments[argument][:5]
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        list(NoveltyKFold(2).split(np.zeros(6), **arguments))
