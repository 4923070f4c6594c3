"""Components hold parameters that belong together, as everywhere in scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skavid import PAPER, VIDEO, AVIDDetector, NoveltyKFold
from skavid.components import (
    COMPONENTS,
    FORMER_NAMES,
    AdversarialTraining,
    Corruption,
    DetectorNetwork,
    InpainterNetwork,
    all_parameters,
    changed_parameters,
    flattened,
    nested,
)

MOMENT = {"max_epochs": 1, "random_state": 0}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (24, 16, 16), dtype=np.uint8)


def test_the_signature_fits_a_screen():
    assert len(AVIDDetector().get_params(deep=False)) <= 26


@pytest.mark.parametrize("part", COMPONENTS)
def test_every_parameter_of_a_component_is_checked_and_set_by_its_nested_name(part):
    component = COMPONENTS[part]()
    assert set(component.get_params()) == set(component._parameter_constraints)
    component._validate_params()
    for name, value in component.get_params().items():
        detector = AVIDDetector().set_params(**{f"{part}__{name}": value})
        assert getattr(detector, part) == component
        assert detector.get_params()[f"{part}__{name}"] == value


def test_setting_a_parameter_of_a_component_leaves_the_named_sets_alone():
    detector = AVIDDetector(**VIDEO).set_params(corruption__spacing=3)
    assert detector.corruption.spacing == 3
    assert VIDEO["corruption"].spacing == 2
    AVIDDetector(**PAPER).set_params(training__loss="bce", inpainter__width=2)
    assert (PAPER["training"].loss, PAPER["inpainter"].width) == ("eq3", 64)


def test_clones_share_no_component():
    detector = AVIDDetector(inpainter=InpainterNetwork(width=8))
    other = clone(detector)
    assert other.inpainter == detector.inpainter
    assert other.inpainter is not detector.inpainter


def test_a_string_names_the_corruption_of_both_networks():
    found = AVIDDetector(corruption="noise").component("corruption")
    assert found == Corruption(inpainter="noise", detector="noise")
    detector = AVIDDetector(corruption="noise").set_params(corruption__spacing=2)
    assert detector.corruption == Corruption(inpainter="noise", detector="noise", spacing=2)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"training__loss": "l3"}, "The 'loss' parameter of AdversarialTraining must be "),
        ({"inpainter__depth": 9}, "The 'depth' parameter of InpainterNetwork must be "),
        ({"inpainter": Corruption()}, "The 'inpainter' parameter of AVIDDetector must be "),
    ],
)
def test_what_a_component_may_not_be_is_told_by_fit(parameters, message, images):
    with pytest.raises(ValueError, match=f"^{message}"):
        AVIDDetector(**MOMENT).set_params(features="pixels", **parameters).fit(images)


def test_an_unknown_parameter_of_a_component_is_refused_at_once():
    with pytest.raises(ValueError, match="Invalid parameter 'wdth' for estimator Inp"):
        AVIDDetector().set_params(inpainter__wdth=3)


def test_a_search_over_thresholds_and_components_finds_a_best_set(images):
    X = np.concatenate([images, images[:12] // 4])
    y = np.repeat([1, -1], [24, 12])
    grid = {"alpha": [0.2, 0.8], "zeta": [0.5], "inpainter__pooling": ["place", "everywhere"]}
    search = GridSearchCV(
        AVIDDetector(fusion="min", **MOMENT), grid, cv=NoveltyKFold(2), scoring="roc_auc",
        refit=False, error_score="raise",
    ).fit(X, y)  # fmt: skip
    assert set(search.best_params_) == set(grid)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_what_is_printed_differs_from_the_defaults():
    assert repr(AVIDDetector()) == "AVIDDetector()"
    detector = AVIDDetector(training=AdversarialTraining(loss="hinge"))
    assert repr(detector) == "AVIDDetector(training=AdversarialTraining(loss='hinge'))"
    assert "AdversarialTraining" in detector._repr_html_()


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(FORMER_NAMES)), st.integers(0, 9)),
        max_size=6,
        unique_by=lambda one: FORMER_NAMES[one[0]],  # one name each
    ).map(dict),
    st.integers(0, 9),
)
def test_former_names_stand_for_nested_ones(flat, seed):
    found = flattened(nested({**flat, "random_state": seed}))
    for name, value in flat.items():
        assert found[FORMER_NAMES[name]] == value
    assert found["random_state"] == seed


def test_changed_parameters_are_those_that_decide_over_scores():
    assert changed_parameters(AVIDDetector()) == {}
    assert changed_parameters(AVIDDetector(**VIDEO, device="cpu", verbose=1)) == {}
    assert changed_parameters(AVIDDetector(learning_rate=np.float64(0.002))) == {}
    assert changed_parameters(AVIDDetector(random_state=3)) == {"random_state": 3}
    mask = np.eye(3, dtype=bool)
    changed = changed_parameters(
        AVIDDetector(gamma=0.5, ignore_mask=mask).set_params(detector=DetectorNetwork(width=8))
    )
    assert changed == {"gamma": 0.5, "ignore_mask": mask, "detector__width": 8}
    changed = changed_parameters(AVIDDetector(**{**VIDEO, "features": "motion"}))
    assert changed == {"features": "motion"}


def test_all_parameters_name_each_one_once():
    names = list(all_parameters(AVIDDetector(**VIDEO)))
    assert len(names) == len(set(names))
    assert not set(names) & set(COMPONENTS)
    assert "detector__region_size" in names


def test_a_named_corruption_and_its_parameters_can_be_set_together():
    detector = AVIDDetector().set_params(corruption="noise", corruption__mask_size=3)
    assert detector.corruption.inpainter == detector.corruption.detector == "noise"
    assert detector.corruption.mask_size == 3
    assert AVIDDetector().set_params(inpainter=None, inpainter__width=8).inpainter.width == 8
