"""AVIDDetector keeps scikit-learn's promises, on flat rows and on images."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.metrics import RocCurveDisplay, roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skavid import AVIDDetector, NoveltyKFold, TemporalStacker
from skavid.components import VIDEO_PIXELS, nested

TINY = {
    "max_epochs": 1,
    "features": "pixels",
    "inpainter__width": 4,
    "inpainter__depth": 1,
    "detector__width": 4,
    "postprocessing__n_draws": 2,
    "random_state": 0,
}

# A row of 16 or more features may look like a square image; a check has no images.
pytestmark = [
    pytest.mark.filterwarnings("ignore:X has rows of:UserWarning"),
    pytest.mark.filterwarnings("ignore:y holds 0 and 1:UserWarning"),  # y is ignored
]


@parametrize_with_checks([AVIDDetector(**nested(TINY))])
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.slow
def test_at_least_45_checks_run_and_none_is_expected_to_fail():
    """With checks of array_api input, too, which the environment must ask for."""
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from sklearn.utils.estimator_checks import check_estimator\n"
        "from skavid import AVIDDetector\n"
        "from skavid.components import nested\n"
        f"done = check_estimator(AVIDDetector(**nested({TINY!r})), on_skip=None)\n"
        "kinds = [one['status'] for one in done]\n"
        "print(kinds.count('passed'), kinds.count('failed'), kinds.count('xfail'))\n"
    )
    environment = os.environ | {"SCIPY_ARRAY_API": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    passed, failed, expected = map(int, run.stdout.split())
    assert passed >= 45
    assert failed == expected == 0


def rows_and_labels(n=60):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n, 48)).astype(np.float32)
    labels = np.where(np.arange(n) % 4 == 0, -1, 1)
    rows[labels == -1, :8] += 6
    return rows, labels


DETECTOR = AVIDDetector(**nested(dict(**TINY, image_shape=(8, 6))))


def test_detector_ends_a_pipeline_of_flat_rows():
    rows, labels = rows_and_labels()
    pipeline = make_pipeline(MinMaxScaler(), clone(DETECTOR)).fit(rows[labels == 1])
    scores = pipeline.score_samples(rows)
    assert scores.shape == (60,)
    assert set(pipeline.predict(rows)) <= {-1, 1}
    assert 0 <= roc_auc_score(labels, scores) <= 1
    assert pipeline[-1].segment(pipeline[:-1].transform(rows)).shape == (60, 8, 6)


def test_cross_val_predict_labels_every_image_once():
    rows, labels = rows_and_labels()
    predicted = cross_val_predict(clone(DETECTOR), rows, labels, cv=NoveltyKFold(3))
    assert predicted.shape == labels.shape
    assert set(predicted) <= {-1, 1}


def test_scores_draw_a_roc_curve():
    pytest.importorskip("matplotlib").use("Agg")
    rows, labels = rows_and_labels()
    scores = clone(DETECTOR).fit(rows[labels == 1]).score_samples(rows)
    display = RocCurveDisplay.from_predictions(labels, scores)
    assert display.roc_auc == pytest.approx(roc_auc_score(labels, scores))


def test_data_frames_of_rows_keep_their_feature_names():
    rows, _ = rows_and_labels()
    frame = pd.DataFrame(rows, columns=[f"p{i}" for i in range(48)])
    detector = clone(DETECTOR).fit(frame)
    assert list(detector.feature_names_in_) == list(frame.columns)
    scores = clone(DETECTOR).fit(rows).score_samples(rows)
    np.testing.assert_array_equal(detector.score_samples(frame), scores)


@pytest.mark.parametrize("way", ["pickle", "joblib", "deepcopy"])
def test_a_copy_gives_the_same_scores(way, tmp_path):
    rows, _ = rows_and_labels()
    detector = clone(DETECTOR).fit(rows)
    if way == "pickle":
        other = pickle.loads(pickle.dumps(detector))
    elif way == "joblib":
        joblib.dump(detector, tmp_path / "model.joblib")
        other = joblib.load(tmp_path / "model.joblib")
    else:
        other = copy.deepcopy(detector)
    np.testing.assert_array_equal(other.score_samples(rows), detector.score_samples(rows))
    assert other.partial_fit(rows).n_iter_ == 1


def test_a_pickle_opens_in_a_new_process(tmp_path):
    rows, _ = rows_and_labels()
    detector = clone(DETECTOR).fit(rows)
    joblib.dump(detector, tmp_path / "model.joblib")
    np.save(tmp_path / "rows.npy", rows)
    code = (
        "import joblib, numpy as np, torch\n"
        "torch.set_num_threads(1)\n"
        "model = joblib.load('model.joblib')\n"
        "np.save('scores.npy', model.score_samples(np.load('rows.npy')))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), detector.score_samples(rows))


def test_clone_copies_parameters_and_forgets_the_fit():
    rows, _ = rows_and_labels()
    copied = clone(clone(DETECTOR).fit(rows))
    assert copied.get_params() == DETECTOR.get_params()
    assert not hasattr(copied, "net_")


def test_fit_touches_no_parameter():
    rows, _ = rows_and_labels()
    detector = clone(DETECTOR)
    before = detector.get_params()
    detector.fit(rows).score_samples(rows)
    assert detector.get_params() == before


def test_clip_ids_reach_stacker_and_detector_through_a_pipeline():
    frames = np.random.default_rng(0).normal(size=(24, 12, 10)).astype(np.float32)
    clips = np.repeat([0, 1, 2], 8)
    parameters = {**TINY, **VIDEO_PIXELS, "training__crop_size": None, "max_epochs": 1}
    by_hand = TemporalStacker().fit_transform(frames, groups=clips)
    expected = AVIDDetector(**nested(parameters)).fit(by_hand, groups=clips).predict(by_hand)
    with config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(TemporalStacker(), AVIDDetector(**nested(parameters)))
        pipeline.fit(frames, groups=clips)
        np.testing.assert_array_equal(pipeline.predict(frames, groups=clips), expected)
