"""Images that are hardly what was meant, or what the detector was trained on, are told."""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from skavid import AVIDDetector
from skavid.core.images import check_images
from skavid.exceptions import InputMismatchWarning

RNG = np.random.default_rng(0)
BYTES = RNG.normal(100, 12, (40, 16, 16)).clip(20, 200).astype(np.uint8)


def fitted(X, **parameters):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AVIDDetector(max_epochs=1, random_state=0, **parameters).fit(X)


@pytest.fixture(scope="module")
def detectors():
    return {
        "uint8": fitted(BYTES),
        "0..255": fitted(BYTES.astype(np.float32)),
        "0..1": fitted(BYTES / 255),
        "full 0..1": fitted(BYTES / 255, value_range=(0, 1)),
        "12 bits": fitted(BYTES.astype(np.uint16) * 16),
        "16 bits": fitted(BYTES.astype(np.uint16) * 256),
    }


UNITS = [
    ("uint8", BYTES / 255, "X * 255"),
    ("uint8", BYTES.astype(np.uint16) * 257, "X divided by"),
    ("uint8", BYTES / 127.5 - 1, "X before it was scaled"),
    ("uint8", (BYTES - 100.0) / 12, "X before it was scaled"),
    ("0..255", BYTES, "X.astype(float)"),
    ("0..255", BYTES / 255, "X * 255"),
    ("0..1", BYTES, "X / 255"),
    ("0..1", BYTES.astype(np.float64), "X divided by"),
    ("16 bits", BYTES.astype(np.uint16) * 16, "X * 16"),
    ("12 bits", BYTES.astype(np.uint16) * 256, "X / 16"),
]


@pytest.mark.parametrize(("trained", "X", "mend"), UNITS)
def test_numbers_of_other_units_are_told(detectors, trained, X, mend):
    with pytest.warns(InputMismatchWarning, match=re.escape(mend)) as told:
        detectors[trained].score_samples(X[:4])
    assert [one.filename for one in told] == [__file__]


@pytest.mark.parametrize("method", ["predict", "decision_function", "p_values", "segment"])
def test_a_warning_points_at_the_line_of_the_caller(detectors, method):
    with pytest.warns(InputMismatchWarning) as told:
        getattr(detectors["uint8"], method)(BYTES[:4] / 255)
    assert [one.filename for one in told] == [__file__]


@pytest.mark.parametrize("method", ["predict", "segment", "maps", "calibrate", "partial_fit"])
def test_every_method_tells_of_other_units(detectors, method):
    detector = copy.deepcopy(detectors["0..255"])
    with pytest.warns(InputMismatchWarning, match=r"such as X\.astype\(float\)\.$"):
        getattr(detector, method)(BYTES[:10])


@pytest.mark.parametrize(
    ("trained", "X"),
    [
        ("uint8", BYTES),
        ("uint8", BYTES.astype(np.float32)),
        ("uint8", np.zeros_like(BYTES)),
        ("uint8", 0 * BYTES.astype(float)),
        ("0..255", 255 - BYTES.astype(np.int64)),
        ("0..1", BYTES / 255),
        ("0..1", 2 * RNG.normal(size=BYTES.shape)),
        ("16 bits", BYTES.astype(np.uint16) * 8),
        ("16 bits", BYTES.astype(np.uint16) + 1000),
        ("12 bits", BYTES.astype(np.uint16) * 80),
        ("full 0..1", BYTES),
        ("full 0..1", BYTES / 255),
    ],
)
def test_irregular_images_in_the_same_units_are_not_told(detectors, trained, X):
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputMismatchWarning)
        detectors[trained].predict(X[:10])


@pytest.mark.parametrize("n_channels", [1, 3, 4])
@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
def test_channels_that_may_come_first_are_told(n_channels, make):
    X = RNG.random((20, n_channels, 12, 16), dtype=np.float32)
    with pytest.warns(InputMismatchWarning, match=r"pass np\.moveaxis\(X, 1, -1\)\.$"):
        check_images(make(X))
    detector = fitted(np.moveaxis(X, 1, -1))
    with pytest.raises(ValueError, match=r"if channels come first, pass np\.moveaxis\(X, 1, -1\)"):
        detector.score_samples(make(X))


@pytest.mark.parametrize("shape", [(20, 12, 16, 3), (20, 3, 16, 2), (20, 12, 16, 7)])
def test_channels_that_come_last_are_not_told(shape):
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputMismatchWarning)
        check_images(RNG.random(shape))


@pytest.mark.parametrize(
    ("X", "told"),
    [
        (["a.png", "b.png"], "skavid.datasets.load_folder"),
        ("normal/", "skavid.datasets.load_folder"),
        (Path("normal"), "skavid.datasets.load_folder"),
        ([Path("a.png")], "skavid.datasets.load_folder"),
        (np.array(["a.png", "b.png"]), "skavid.datasets.load_folder"),
        (torch.utils.data.DataLoader(torch.zeros(9, 8, 8)), "torch.cat"),
        (torch.utils.data.TensorDataset(torch.zeros(9, 8, 8)), "torch.cat"),
        (iter(BYTES), "np.stack(list(X))"),
    ],
)
def test_what_holds_images_is_refused_with_the_function_that_reads_them(X, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        AVIDDetector().fit(X)


@pytest.mark.parametrize(("value", "rows"), [(np.nan, False), (np.inf, True)])
def test_ignored_pixels_may_be_nan(value, rows):
    ignored = np.zeros((16, 16), dtype=bool)
    ignored[:, :4] = True
    X = BYTES.astype(float)
    blank = X.copy()
    blank[:, ignored] = value
    scores = []
    for images in (X, blank):
        images = images.reshape(len(X), -1) if rows else images
        shape = {"image_shape": (16, 16)} if rows else {}
        detector = fitted(images, ignore_mask=ignored, **shape)
        scores.append(detector.score_samples(images))
        assert np.isfinite(detector.maps(images).evidence).all()
    np.testing.assert_array_equal(*scores)
    blank[3, 8, 8] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        AVIDDetector(ignore_mask=ignored).fit(blank)
