"""Arrays of any kind: what a plain copy gives, or a refusal; never a changed array or state."""

from __future__ import annotations

import pickle
import warnings
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided, sliding_window_view

from skavid import AVIDDetector, TemporalStacker
from skavid.components import nested
from skavid.metrics import (
    cell_scores,
    clip_auc_score,
    equal_error_rate,
    pixel_level_auc_score,
    region_level_auc_score,
    threshold_plane,
)

SMALL = {
    "features": "pixels", "max_epochs": 1,
    "inpainter__width": 2, "detector__width": 2, "inpainter__depth": 1,
    "random_state": 0,
}  # fmt: skip
NORMAL = np.random.default_rng(0).integers(0, 100, (12, 12, 10))
pytestmark = pytest.mark.filterwarnings("ignore::skavid.exceptions.InputMismatchWarning")

SHAPE = (4, 12, 10)


@pytest.fixture(scope="module")
def detector():
    return AVIDDetector(**nested(SMALL)).fit(NORMAL)


def state():
    return (
        pickle.dumps(np.random.get_state()),
        torch.get_rng_state().numpy().tobytes(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        list(warnings.filters),
        np.geterr(),
    )


USES = {
    "score_samples": lambda detector, X: detector.score_samples(X),
    "predict": lambda detector, X: detector.predict(X),
    "segment": lambda detector, X: detector.segment(X),
    "maps": lambda detector, X: detector.maps(X).inpainted,
    "TemporalStacker": lambda _, X: TemporalStacker(spacing=1).fit_transform(X),
}
FIT = {"fit": lambda _, X: AVIDDetector(**nested(SMALL)).fit(X).score_samples(NORMAL[:2])}

# --- good arrays in odd clothes ------------------------------------------------------------------

DTYPES = [
    "?", "i1", "u1", "<i2", ">i2", ">u2", "<u4", ">i4", "<i8", ">u8", "<f2", ">f2", "<f4", ">f4",
    "<f8", ">f8", "g", "O",
]  # fmt: skip


def unaligned(X):
    raw = np.empty(X.nbytes + 1, np.uint8)
    view = raw[1:].view(X.dtype).reshape(X.shape) if X.dtype != object else X
    view[...] = X
    return view


def overlapping(X):
    return as_strided(X, (X.shape[0], *X.shape[1:]), (X.strides[1], *X.strides[1:]))


LAYOUTS = {
    "as it is": lambda X: X,
    "Fortran order": np.asfortranarray,
    "axes swapped": lambda X: np.ascontiguousarray(X.swapaxes(0, 2)).swapaxes(0, 2),
    "backwards": lambda X: X[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "every second": lambda X: np.repeat(np.repeat(X, 2, 0), 2, 2)[::2, :, ::2],
    "one image again and again": lambda X: np.broadcast_to(X[:1], X.shape),
    "one pixel again and again": lambda X: np.broadcast_to(X[:, :, :1], X.shape),
    "overlapping rows": overlapping,
    "sliding windows": lambda X: sliding_window_view(X.reshape(-1)[:483], 480)[:4].reshape(SHAPE),
    "unaligned": unaligned,
    "masked, but nowhere": lambda X: np.ma.array(X, mask=np.zeros(X.shape, bool)),
    "a list of arrays": list,
    "a tuple of lists": lambda X: tuple(X.tolist()),
    "four axes": lambda X: X[..., None],
}


@settings(max_examples=60)
@given(data=st.data())
def test_the_layout_of_an_array_changes_no_result(detector, data):
    name = data.draw(st.sampled_from(DTYPES))
    seed, use = data.draw(st.integers(0, 99)), data.draw(st.sampled_from(list(USES)))
    plain = np.random.default_rng(seed).integers(0, 100, SHAPE).astype(name)
    X = LAYOUTS[data.draw(st.sampled_from(list(LAYOUTS)))](plain)
    if isinstance(X, np.ndarray) and data.draw(st.booleans()):
        X.flags.writeable = False
    copy = np.array(X, order="C")
    copy = copy.astype(copy.dtype.newbyteorder("="))
    before, global_state = copy.copy(), state()
    found, expected = USES[use](detector, X), USES[use](detector, copy)
    assert state() == global_state
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.asarray(X), before)


@pytest.mark.parametrize("name", ["?", ">i2", ">f4", "g", "O", "<f2"])
def test_training_takes_any_dtype_and_leaves_it_alone(name):
    X = np.asfortranarray(NORMAL.astype(name))[::-1]
    X.flags.writeable = False
    before, global_state = X.copy(), state()
    found = FIT["fit"](None, X)
    assert state() == global_state
    np.testing.assert_array_equal(X, before)
    copy = np.array(X, order="C")
    np.testing.assert_array_equal(
        found, FIT["fit"](None, copy.astype(copy.dtype.newbyteorder("=")))
    )


@pytest.mark.parametrize(
    "dress",
    [
        pd.DataFrame,
        lambda rows: pd.DataFrame(rows).astype("Int64"),
        torch.from_numpy,
        lambda rows: torch.from_numpy(np.asfortranarray(rows)),
        lambda rows: torch.from_numpy(rows.astype(np.float64)).requires_grad_(),
        lambda rows: rows.astype(np.float64).view(np.matrix),
    ],
    ids=["frame", "frame of Int64", "tensor", "strided tensor", "tensor with gradient", "matrix"],
)  # fmt: skip
def test_rows_of_other_libraries_are_rows(detector, dress):
    rows = NORMAL[:3].reshape(3, -1)
    found = detector.score_samples(dress(rows))
    np.testing.assert_array_equal(found, detector.score_samples(NORMAL[:3]))


def test_a_memory_map_for_reading_is_read(detector, tmp_path):
    np.save(tmp_path / "X.npy", np.asfortranarray(NORMAL.astype(">f4")))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    for use in (USES | FIT).values():
        np.testing.assert_array_equal(use(detector, mapped), use(detector, NORMAL.astype("f4")))


# --- bad arrays ----------------------------------------------------------------------------------


def with_value(value, dtype=np.float64):
    X = NORMAL[:4].astype(dtype)
    X.flat[-1] = value
    return X


def masked():
    return np.ma.masked_equal(NORMAL, NORMAL[0, 0, 0])


PAYLOAD = np.array([0x7FF0DEADBEEF0001], np.uint64).view(np.float64)[0]  # signalling

BAD = {
    "NaN": lambda: with_value(np.nan),
    "NaN with a payload": lambda: with_value(PAYLOAD),
    "NaN of 16 bits": lambda: with_value(np.nan, np.float16),
    "NaN of 128 bits": lambda: with_value(np.nan, np.longdouble),
    "NaN in an object": lambda: with_value(float("nan"), object),
    "infinity": lambda: with_value(-np.inf, ">f4"),
    "a number beyond float64": lambda: with_value(np.longdouble("1e4000"), np.longdouble),
    "None": lambda: with_value(None, object),
    "a word": lambda: with_value("grey", object),
    "a dict": lambda: with_value({}, object),
    "a complex object": lambda: with_value(1j, object),
    "a huge integer": lambda: with_value(10**400, object),
    "complex": lambda: NORMAL.astype(complex),
    "strings": lambda: NORMAL.astype(str),
    "bytes": lambda: NORMAL.astype("S3"),
    "dates": lambda: NORMAL.astype("M8[s]"),
    "spans": lambda: NORMAL.astype("m8[s]"),
    "records": lambda: np.zeros(SHAPE, [("a", "f8"), ("b", "i4")]),
    "raw": lambda: np.zeros(SHAPE, "V8"),
    "masked": masked,
    "masked in a list": lambda: list(masked()),
    "sparse": lambda: sp.csr_matrix(NORMAL.reshape(12, -1)),
    "a sparse array": lambda: sp.coo_array(NORMAL.reshape(12, -1)),
    "sparse images": lambda: [sp.csr_array(image) for image in NORMAL],
    "a sparse frame": lambda: pd.DataFrame(NORMAL.reshape(12, -1)).replace(5, pd.NA),
    "a frame of words": lambda: pd.DataFrame(NORMAL.reshape(12, -1).astype(str)).map("x{}".format),
    "a Series": lambda: pd.Series(range(9)),
    "a sparse tensor": lambda: torch.from_numpy(NORMAL.astype("f4")).to_sparse(),
    "a tensor without data": lambda: torch.zeros(SHAPE, device="meta"),
    "bfloat16": lambda: torch.zeros(SHAPE, dtype=torch.bfloat16),
    "nothing": lambda: None,
    "a number": lambda: 3.0,
    "a word alone": lambda: "X.npy",
    "a set": lambda: {1, 2},
    "a generator": lambda: (image for image in NORMAL),
    "no images": lambda: NORMAL[:0],
    "no rows": lambda: NORMAL[:, :0],
    "no columns": lambda: NORMAL[:, :, :0],
    "no channels": lambda: np.zeros((*SHAPE, 0)),
    "five axes": lambda: NORMAL[..., None, None],
    "one axis": lambda: NORMAL.ravel(),
    "ragged": lambda: [NORMAL[0], NORMAL[1, 1:]],
}  # fmt: skip


@pytest.mark.parametrize("use", [*USES, *FIT])
@pytest.mark.parametrize("name", BAD)
def test_what_holds_no_images_is_refused(detector, use, name):
    X, global_state = BAD[name](), state()
    with pytest.raises((ValueError, TypeError)) as caught:
        (USES | FIT)[use](detector, X)
    assert type(caught.value) in (ValueError, TypeError), caught.value
    assert str(caught.value)
    assert state() == global_state


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 5000), (2, 5000, 1), (3, 2, 2), (1, 700)])
@pytest.mark.parametrize("use", [*USES, *FIT])
def test_the_smallest_and_the_longest_images_are_taken_or_refused(detector, use, shape):
    X = np.random.default_rng(0).random(shape)
    with suppress(ValueError):
        (USES | FIT)[use](detector, X)


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-45, 1e-30, 1e38, 1e300])
def test_units_do_not_matter_down_to_the_smallest_number(scale):
    X = NORMAL * scale
    found = AVIDDetector(**nested(SMALL)).fit(X).score_samples(X)
    expected = AVIDDetector(**nested(SMALL)).fit(NORMAL).score_samples(NORMAL)
    np.testing.assert_allclose(found, expected,
                               rtol=1e-3, atol=1e-3)  # fmt: skip


# --- measures ------------------------------------------------------------------------------------

LABELS = np.array([1, 1, -1, -1, 1, -1])
SCORES = np.array([3.0, 1.0, 0.5, 1.5, 2.0, -1.0])
MASKS = NORMAL[:6] > 80
MASKS[:3] = False
MAPS = NORMAL[6:12].astype(float)

MEASURES = {
    "equal_error_rate": (equal_error_rate, [LABELS, SCORES]),
    "pixel_level_auc_score": (pixel_level_auc_score, [MASKS, MAPS]),
    "region_level_auc_score": (
        lambda masks, maps: region_level_auc_score(masks, maps, cell=2),
        [MASKS, MAPS],
    ),
    "clip_auc_score": (clip_auc_score, [LABELS, SCORES, np.repeat([0, 1], 3)]),
    "cell_scores": (lambda maps: cell_scores(maps, 2), [MAPS]),
    "threshold_plane": (
        lambda y, residual, regularity: threshold_plane(y, residual, regularity)["tpr"],
        [LABELS, MAPS, MAPS / 100],
    ),
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("layout", ["backwards", "byte order", "Fortran order", "lists"])
def test_the_layout_of_arrays_changes_no_measure(name, layout):
    measure, arrays = MEASURES[name]
    dress = {
        "backwards": lambda X: np.ascontiguousarray(X[::-1])[::-1],
        "byte order": lambda X: X.astype(X.dtype.newbyteorder("S")),
        "Fortran order": np.asfortranarray,
        "lists": np.ndarray.tolist,
    }[layout]
    found = measure(*(dress(array) for array in arrays))
    np.testing.assert_array_equal(found, measure(*arrays))


@pytest.mark.parametrize("bad", ["NaN", "masked", "complex", "strings", "sparse", "too short"])
@pytest.mark.parametrize("name", [name for name in MEASURES if name != "cell_scores"])
def test_what_cannot_be_measured_is_refused(name, bad):
    measure, arrays = MEASURES[name]
    for place, array in enumerate(arrays[:2]):  # ids of clips may be words
        numbers = array.astype(float)
        flat = numbers.reshape(len(array), -1)
        changed = {
            "NaN": lambda n=numbers: np.where(n == n.flat[0], np.nan, n),
            "masked": lambda n=numbers: np.ma.masked_equal(n, n.flat[0]),
            "complex": lambda n=numbers: n + 1j,
            "strings": lambda n=numbers: np.full(n.shape, "grey"),
            "sparse": lambda f=flat: sp.csr_matrix(f),
            "too short": lambda n=numbers: n[:-1],
        }[bad]()
        with pytest.raises((ValueError, TypeError)):
            measure(*arrays[:place], changed, *arrays[place + 1 :])
