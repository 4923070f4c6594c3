"""The adapter keeps what PyOD documents of its detectors."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skavid import AVIDDetector
from skavid.pyod import AVID

INNER = AVIDDetector(image_shape=(8, 8), max_epochs=1, random_state=0)


def rows(n=20, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 64))


@pytest.fixture(scope="module")
def fitted():
    return AVID(contamination=0.2, detector=INNER).fit(rows())


def test_attributes_of_the_training_data_have_the_documented_shapes_and_types(fitted):
    assert fitted.decision_scores_.shape == fitted.labels_.shape == (20,)
    assert fitted.decision_scores_.dtype == np.float64
    assert fitted.labels_.dtype.kind == "i"
    assert isinstance(fitted.threshold_, float)


def test_as_many_training_images_are_outliers_as_pyod_would_label(fitted):
    """PyOD labels what is above the percentile of 100 * (1 - contamination)."""
    pyods = fitted.decision_scores_ > np.percentile(fitted.decision_scores_, 80)
    assert fitted.labels_.sum() == 4 == 0.2 * 20
    assert_array_equal(fitted.labels_, pyods)


def test_higher_scores_are_more_abnormal_and_outliers_are_1(fitted):
    X = np.concatenate([rows(3), rows(3, seed=1) + 5])
    scores, labels = fitted.decision_function(X), fitted.predict(X)
    assert scores[3:].min() > scores[:3].max()
    assert_array_equal(labels, scores > fitted.threshold_)
    assert_array_equal(labels[3:], 1)


def test_training_data_are_labelled_and_scored_alike_afterwards(fitted):
    assert_array_equal(fitted.decision_function(rows()), fitted.decision_scores_)
    assert_array_equal(fitted.predict(rows()), fitted.labels_)


def test_probabilities_have_two_columns_that_add_up_to_1_and_follow_the_scores(fitted):
    X = np.concatenate([rows(8, seed=1), rows(2) + 5])
    p = fitted.predict_proba(X)
    assert p.shape == (10, 2)
    assert ((p >= 0) & (p <= 1)).all()
    np.testing.assert_allclose(p.sum(1), 1)
    assert_array_equal(np.argsort(p[:, 1]), np.argsort(fitted.decision_function(X)))


def test_labels_agree_with_the_masks_of_the_detector(fitted):
    masks = fitted.detector_.segment(rows())
    assert_array_equal(fitted.labels_ == 1, masks.any(axis=(1, 2)))


def test_fit_predict_gives_the_labels_and_ignores_y(fitted):
    again = AVID(contamination=0.2, detector=INNER)
    assert_array_equal(again.fit_predict(rows(), np.ones(20)), fitted.labels_)


def test_it_is_cloned_and_searched_like_any_estimator():
    model = clone(AVID(detector=INNER)).set_params(detector__gamma=0.2, contamination=0.2)
    assert model.get_params()["detector__gamma"] == 0.2
    assert INNER.gamma == 0.4
    assert AVID().contamination == 0.1


def test_bad_parameters_and_unfitted_models_raise_errors_that_say_so():
    with pytest.raises(ValueError, match=r"'contamination' parameter of AVID must be a float"):
        AVID(contamination=0.6).fit(rows())
    with pytest.raises(NotFittedError, match="AVID instance is not fitted yet"):
        AVID().predict(rows())
    with pytest.raises(NotFittedError, match="AVID instance is not fitted yet"):
        AVID().predict_proba(rows())


def test_pyods_own_detectors_have_these_names_and_its_functions_take_our_scores(fitted):
    pytest.importorskip("pyod", reason="PyOD is not installed: pip install 'skavid[bench]'")
    from pyod.models.combination import average
    from pyod.models.knn import KNN

    theirs = KNN(contamination=0.2).fit(rows())
    for name in ("decision_scores_", "labels_"):
        assert getattr(theirs, name).shape == getattr(fitted, name).shape
    assert theirs.labels_.sum() == fitted.labels_.sum()
    assert theirs.predict_proba(rows()).shape == fitted.predict_proba(rows()).shape
    both = np.column_stack([theirs.decision_scores_, fitted.decision_scores_])
    assert average(both).shape == (20,)
