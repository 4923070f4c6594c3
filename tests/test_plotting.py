"""Pictures: what is drawn where, and what happens without matplotlib."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.utils import Bunch

from skavid.plotting import IrregularityDisplay

pyplot = pytest.importorskip("matplotlib.pyplot")
pyplot.switch_backend("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


class Fake:
    """Maps that are easy to recognise."""

    def maps(self, X):
        shape = X.shape[:3]
        return Bunch(
            inpainted=X * 0.5,
            residual=np.full(shape, 0.2, np.float32),
            regularity=np.full(shape, 0.7, np.float32),
            evidence=np.linspace(-3, 1, np.prod(shape), dtype=np.float32).reshape(shape),
        )

    def segment(self, X):
        mask = np.zeros(X.shape[:3], dtype=bool)
        mask[0, :4, :5] = True
        return mask


GREY = np.random.default_rng(0).uniform(size=(3, 12, 10))


def contours(ax):
    return [one for one in ax.collections if type(one).__name__ == "QuadContourSet"]


def test_each_image_is_a_row_of_six_pictures_with_titles_in_plain_words():
    display = IrregularityDisplay.from_estimator(Fake(), GREY)
    assert display.axes_.shape == (3, 6)
    titles = [ax.get_title() for ax in display.axes_[0]]
    assert all(titles)
    assert titles[1] == "restored to normal\nI(X)"
    np.testing.assert_array_equal(display.axes_[2, 0].images[0].get_array(), GREY[2])
    np.testing.assert_array_equal(display.axes_[2, 1].images[0].get_array(), GREY[2] * 0.5)


def test_regularity_is_viridis_from_0_to_1_and_evidence_is_centred_on_0():
    display = IrregularityDisplay.from_estimator(Fake(), GREY)
    regularity, evidence = (display.axes_[0, k].images[0] for k in (3, 4))
    assert regularity.get_cmap().name == "viridis"
    assert regularity.get_clim() == (0, 1)
    assert evidence.get_clim() == (-3, 3)


def test_the_truth_is_outlined_only_where_it_is_known():
    truth = np.zeros(GREY.shape, dtype=bool)
    truth[1, 3:6, 3:6] = True
    without = IrregularityDisplay.from_estimator(Fake(), GREY)
    beside = IrregularityDisplay.from_estimator(Fake(), GREY, truth=truth)
    assert [len(contours(ax)) for ax in without.axes_[:, 5]] == [1, 0, 0]
    assert [len(contours(ax)) for ax in beside.axes_[:, 5]] == [1, 1, 0]


@pytest.mark.parametrize(("n_channels", "drawn"), [(1, 2), (2, 2), (3, 3), (5, 2)])
def test_colour_stays_colour_and_stacks_show_their_newest_channel(n_channels, drawn):
    images = np.random.default_rng(0).uniform(size=(1, 8, 8, n_channels))
    display = IrregularityDisplay.from_estimator(Fake(), images)
    array = display.axes_[0, 0].images[0].get_array()
    assert array.ndim == drawn
    if drawn == 2:
        np.testing.assert_array_equal(array, images[0, ..., -1])


def test_given_axes_are_drawn_on():
    figure, axes = pyplot.subplots(3, 6)
    display = IrregularityDisplay.from_estimator(Fake(), GREY, axes=axes)
    assert display.figure_ is figure
    assert axes[0, 0].images


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        ImportError, match=r"^Pictures need matplotlib; pip install 'skavid\[plot\]'"
    ):
        IrregularityDisplay.from_estimator(Fake(), GREY)
