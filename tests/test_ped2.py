"""Sec. 3.5 inside scikit-learn, on real frames: UCSD Ped2 in Pipelines, folds and searches."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import Pipeline

from skavid import AVIDDetector, NoveltyKFold, TemporalStacker
from skavid.components import VIDEO_PIXELS, nested
from skavid.datasets import load_ucsd_ped2
from skavid.metrics import make_map_scorer, pixel_level_auc_score

pytestmark = pytest.mark.slow

SMALL = {
    **VIDEO_PIXELS, "max_epochs": 1, "inpainter__width": 4, "detector__width": 8,
    "training__crop_size": 40, "learning_rate": 0.005, "postprocessing__smoothing": 3,
    "postprocessing__dilation": 0, "random_state": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def ped2(real_data):
    """Every third clip: frames of 40 x 60 pixels with clips, labels and masks."""
    parts = {}
    for subset in ("train", "test"):
        data = load_ucsd_ped2(real_data / "ucsd_ped2/UCSDped2", subset=subset, size=(40, 60))
        few = data.clips % 3 == 1
        parts[subset] = {
            name: data[name][few]
            for name in ("frames", "clips", "labels", "masks")
            if data[name] is not None
        }
    return parts


@pytest.fixture(scope="module")
def labelled(ped2):
    """Train and test clips together, their ids apart."""
    frames, clips, labels = (
        np.concatenate([ped2[subset][name] for subset in ("train", "test")])
        for name in ("frames", "clips", "labels")
    )
    n_train = len(ped2["train"]["frames"])
    clips[n_train:] += 100
    masks = np.zeros(frames.shape, dtype=bool)
    masks[n_train:] = ped2["test"]["masks"]
    return TemporalStacker().fit_transform(frames, groups=clips), clips, labels, masks


def test_a_pipeline_of_frames_gives_what_stacking_first_gives(ped2):
    train, test = ped2["train"], ped2["test"]
    with config_context(enable_metadata_routing=True):
        pipeline = Pipeline(
            [("stack", TemporalStacker()), ("avid", AVIDDetector(**nested(SMALL)))]
        )
        pipeline.fit(train["frames"], groups=train["clips"])
        decision = pipeline.decision_function(test["frames"], groups=test["clips"])
        found = pipeline.predict(test["frames"], groups=test["clips"])
        stacks = pipeline[:-1].transform(test["frames"], groups=test["clips"])
        with pytest.raises(ValueError, match="needs them here, too"):
            pipeline.score_samples(test["frames"])
    masks = pipeline[-1].segment(stacks)
    assert_array_equal(found == -1, masks.any(axis=(1, 2)))
    assert_array_equal(found, np.where(decision < 0, -1, 1))

    stacker = TemporalStacker()
    detector = AVIDDetector(**nested(SMALL))
    detector.fit(
        stacker.fit_transform(train["frames"], groups=train["clips"]), groups=train["clips"]
    )
    X_test = stacker.transform(test["frames"], groups=test["clips"])
    assert_array_equal(decision, detector.decision_function(X_test))
    assert_array_equal(masks, detector.segment(X_test))
    assert roc_auc_score(test["labels"], decision) > 0.55


def test_a_search_over_stacked_frames_mixes_no_clip(labelled, tmp_path):
    stacks, clips, labels, masks = labelled
    cv = NoveltyKFold(2)
    for train, test in cv.split(stacks, labels, clips):
        assert not set(clips[train]) & set(clips[test])
        assert (labels[train] == 1).all()
    grid = {"alpha": [0.02, 0.1], "zeta": [0.2, 0.6]}
    detector = AVIDDetector(**nested(dict(**SMALL, memory=str(tmp_path))))
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            detector, grid, cv=cv, scoring="roc_auc", refit=False, error_score="raise"
        ).fit(stacks, labels, groups=clips)
    for part in ("scene_of_stacks", "train_networks"):  # a training a fold
        assert len(list(tmp_path.rglob(f"{part}/*/output.pkl"))) == 2

    with config_context(enable_metadata_routing=True):
        areas = cross_val_score(
            clone(detector).set_params(alpha=0.1, zeta=0.6),
            stacks,
            masks,
            cv=cv,
            params={"groups": clips},
            scoring=make_map_scorer(pixel_level_auc_score),
        )
    for fold, (train, test) in enumerate(cv.split(stacks, labels, clips)):
        alone = clone(detector).set_params(alpha=0.1, zeta=0.6)
        alone.fit(stacks[train], groups=clips[train])
        expected = roc_auc_score(labels[test], alone.score_samples(stacks[test]))
        assert search.cv_results_[f"split{fold}_test_score"][3] == expected
        evidence = alone.maps(stacks[test]).evidence
        assert areas[fold] == pixel_level_auc_score(masks[test], evidence)


def test_folds_of_whole_clips_train_on_normal_frames_alone(ped2):
    train = ped2["train"]
    stacks = TemporalStacker().fit_transform(train["frames"], groups=train["clips"])
    with config_context(enable_metadata_routing=True):
        shares = cross_val_score(
            AVIDDetector(**nested(SMALL)),
            stacks,
            params={"groups": train["clips"]},
            cv=GroupKFold(2),
            scoring=lambda detector, X, y=None: np.mean(detector.predict(X) == 1),
        )
    assert (shares > 0.5).all()


def test_a_search_inside_a_pipeline_fails_or_warns_but_never_mixes_clips_in_silence(ped2):
    test = ped2["test"]
    pipeline = Pipeline([("stack", TemporalStacker()), ("avid", AVIDDetector(**nested(SMALL)))])
    search = GridSearchCV(
        pipeline,
        {"avid__alpha": [0.05]},
        cv=NoveltyKFold(2),
        scoring="roc_auc",
        refit=False,
        error_score="raise",
    )
    with (
        config_context(enable_metadata_routing=True),
        pytest.raises(ValueError, match="needs them here, too"),
    ):
        search.fit(test["frames"], test["labels"], groups=test["clips"])
    # Without routing the groups reach the splitter alone.
    with pytest.warns(
        UserWarning,
        match=re.escape("as at the beginning of a clip; if there are several clips, pass"),
    ):
        search.fit(test["frames"], test["labels"], groups=test["clips"])
