import re
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.base import BaseEstimator

from skavid.core.images import (
    check_images,
    check_value_range,
    from_tensor,
    resize,
    to_tensor,
    value_range,
)


class Detector(BaseEstimator):
    """An estimator for messages and attributes."""


class ArrayLike:
    """An array-like that is not an ndarray."""

    def __init__(self, data):
        self.data = data

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.data, dtype=dtype)


DTYPES = [bool, np.uint8, np.int8, np.uint16, np.int64, np.uint64, np.float16, ">f4", ">i2", "f8"]
finite = st.floats(-1e6, 1e6, width=32)
stacks = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=4, max_dims=4, max_side=5), elements=finite
)


def some_images(shape=(3, 4, 5, 2), dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 2, shape).astype(dtype)


# Shapes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "image_shape", "expected"),
    [
        ((3, 4, 5), None, (3, 4, 5, 1)),
        ((3, 4, 5, 2), None, (3, 4, 5, 2)),
        ((3, 20), (4, 5), (3, 4, 5, 1)),
        ((3, 40), (4, 5, 2), (3, 4, 5, 2)),
        ((3, 40), np.array([4, 5, 2]), (3, 4, 5, 2)),
        ((3, 40), [4, 5, 2], (3, 4, 5, 2)),
        ((3, 4, 5), (4, 5), (3, 4, 5, 1)),
        ((3, 4, 5), (4, 5, 1), (3, 4, 5, 1)),
        ((3, 20), None, (3, 1, 20, 1)),
        ((1, 1, 1), None, (1, 1, 1, 1)),
    ],
)
def test_every_layout_becomes_four_dimensions(shape, image_shape, expected):
    X = some_images(shape)
    images = check_images(X, image_shape=image_shape)
    assert images.shape == expected
    assert np.array_equal(images.ravel(), X.ravel())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 40), (3, 4, 5, 2)])
def test_any_real_dtype_is_viewed_and_kept(dtype, shape):
    X = some_images(shape, dtype)
    images = check_images(X, image_shape=(4, 5, 2))
    assert images.dtype == np.dtype(dtype)
    assert np.shares_memory(images, X)


@pytest.mark.parametrize(
    "X",
    [
        np.asfortranarray(some_images()),
        np.asfortranarray(some_images((3, 40))),
        some_images()[::-1, ::-1, ::-1],
        some_images((3, 40))[:, ::-1],
        some_images((9, 40))[::3],
    ],
)
def test_strided_arrays_are_viewed(X):
    X.flags.writeable = False
    images = check_images(X, image_shape=(4, 5, 2))
    assert np.shares_memory(images, X)
    assert np.array_equal(images, X.reshape(3, 4, 5, 2))


@pytest.mark.parametrize("shape", [(6, 4, 5), (6, 20)])
def test_a_memory_map_is_viewed_and_may_be_read_only(tmp_path, shape):
    path = tmp_path / "images.npy"
    np.save(path, some_images(shape, np.float32))
    X = np.load(path, mmap_mode="r")
    images = check_images(X, image_shape=(4, 5))
    assert np.shares_memory(images, X)
    assert value_range(images) == (0.0, 1.0)
    assert to_tensor(images, (0.0, 1.0)).shape == (6, 1, 4, 5)


@pytest.mark.parametrize("wrap", [np.ndarray.tolist, list, tuple, ArrayLike, torch.from_numpy])
@pytest.mark.parametrize("shape", [(3, 40), (3, 8, 5), (3, 4, 5, 2)])
def test_array_likes_give_what_arrays_give(wrap, shape):
    X = some_images(shape, np.float32)
    image_shape = (4, 5, 2) if len(shape) == 2 else None
    images = check_images(wrap(X), image_shape=image_shape)
    assert np.array_equal(images, check_images(X, image_shape=image_shape))


def test_object_arrays_of_numbers_become_float64():
    X = some_images().astype(object)
    assert check_images(X).dtype == np.float64
    assert np.array_equal(check_images(X), some_images())


def test_an_object_array_of_equal_images_is_a_stack():
    X = np.empty(2, dtype=object)
    X[:] = [np.zeros((4, 5)), np.ones((4, 5))]
    assert check_images(X).shape == (2, 4, 5, 1)


# What fit remembers ------------------------------------------------------------------------------


def test_fit_on_a_frame_remembers_feature_names():
    estimator = Detector()
    frame = pd.DataFrame(some_images((3, 6)), columns=list("abcdef"))
    assert check_images(frame, image_shape=(2, 3), estimator=estimator).shape == (3, 2, 3, 1)
    assert estimator.n_features_in_ == 6
    assert list(estimator.feature_names_in_) == list("abcdef")


def test_fit_on_images_counts_features_and_forgets_names():
    estimator = Detector()
    estimator.feature_names_in_ = np.array(["a"], dtype=object)
    check_images(some_images(), estimator=estimator)
    assert vars(estimator) == {"n_features_in_": 40}


def test_predict_sets_nothing():
    estimator = Detector()
    check_images(some_images((3, 6)), estimator=estimator, fitted_shape=(2, 3, 1))
    check_images(some_images((3, 2, 3)), estimator=estimator, fitted_shape=(2, 3, 1))
    assert vars(estimator) == {}


@pytest.mark.parametrize(
    "X", [np.zeros((3, 5)), np.full((3, 4), np.nan), np.zeros((3, 0)), np.zeros((3, 3, 3))]
)
def test_a_refused_fit_leaves_the_estimator_as_it_was(X):
    estimator = Detector()
    with pytest.raises(ValueError, match=r"X|feature"):
        check_images(X, image_shape=(2, 2), estimator=estimator)
    assert vars(estimator) == {}


def test_predict_reads_rows_by_the_fitted_shape():
    images = check_images(some_images((3, 40)), fitted_shape=(4, 5, 2), image_shape=None)
    assert images.shape == (3, 4, 5, 2)


def test_predict_takes_another_size():
    assert check_images(some_images((2, 9, 7)), fitted_shape=(4, 5, 1)).shape == (2, 9, 7, 1)


def test_predict_knows_a_frame_by_its_names():
    estimator = Detector()
    frame = pd.DataFrame(some_images((3, 4)), columns=list("abcd"))
    check_images(frame, image_shape=(2, 2), estimator=estimator)
    with pytest.raises(ValueError, match="feature names should match"):
        check_images(frame[list("badc")], estimator=estimator, fitted_shape=(2, 2, 1))


@pytest.mark.parametrize("n_features", [16, 25, 784])
def test_square_rows_without_a_shape_warn_in_fit_alone(n_features):
    side = int(n_features**0.5)
    message = (
        f"X has rows of {n_features} features, read as images of shape (1, {n_features}); if "
        f"they are square images, pass image_shape=({side}, {side})."
    )
    X = some_images((3, n_features))
    with pytest.warns(UserWarning, match=re.escape(message)):
        check_images(X)
    check_images(X, fitted_shape=(1, n_features, 1))
    check_images(X, image_shape=(1, n_features))


@pytest.mark.parametrize("n_features", [1, 4, 9, 15, 17, 20])
def test_other_rows_do_not_warn(n_features):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_images(some_images((3, n_features)))


# What is refused ---------------------------------------------------------------------------------

RAGGED = "X holds images of different shapes; resize or crop them to one shape first."
HUGE = "X holds integers that need more than 64 bits; convert it to float64 or rescale it."
SHAPE = (
    "image_shape must be (height, width) or (height, width, channels), integers of at least 1. "
)


def ragged_object_array():
    X = np.empty(2, dtype=object)
    X[:] = [np.zeros((4, 5)), np.ones((4, 6))]
    return X


def of_objects(value):
    X = some_images((3, 4)).astype(object)
    X[0, 0] = value
    return X


@pytest.mark.parametrize(
    ("X", "parameters", "error", "message"),
    [
        ([[1, 2], [3]], {}, ValueError, RAGGED),
        ([np.zeros((2, 3)), np.zeros((3, 2))], {}, ValueError, RAGGED),
        ([np.zeros((2, 3)), np.zeros((2, 3, 1))], {}, ValueError, RAGGED),
        (ragged_object_array(), {}, ValueError, RAGGED),
        ([[2**70, 1], [1, 2]], {}, ValueError, HUGE),
        ([[[10**400, 1], [1, 2]]], {}, ValueError, HUGE),
        (of_objects(-(2**64)), {}, ValueError, HUGE),
        (
            np.ma.masked_equal(np.eye(3), 1),
            {},
            ValueError,
            "X has masked values, which networks cannot process; fill them first, such as by "
            "X.filled(0).",
        ),
        (
            [np.ma.masked_equal(np.eye(3), 1)],
            {},
            ValueError,
            "X has masked values, which networks cannot process; fill them first, such as by "
            "X.filled(0).",
        ),
        (
            np.zeros((2, 3), dtype="M8[s]"),
            {},
            ValueError,
            "X must hold real numbers. Got an array of dtype datetime64[s].",
        ),
        (
            np.zeros((2, 3, 4, 1, 1)),
            {},
            ValueError,
            "X has 5 dimensions; it must be (n, H, W), (n, H, W, C) or rows (n, H * W * C).",
        ),
        (
            np.zeros((2, 0, 4)),
            {},
            ValueError,
            "X has images of shape (0, 4); height, width and channels must be at least 1.",
        ),
        (
            np.zeros((2, 3, 4, 0)),
            {},
            ValueError,
            "X has images of shape (3, 4, 0); height, width and channels must be at least 1.",
        ),
        (
            np.zeros((2, 0)),
            {},
            ValueError,
            "Found array with 0 feature(s) (shape=(2, 0)) while a minimum of 1 is required by "
            "Detector.",
        ),
        (
            np.zeros((0, 3, 4)),
            {},
            ValueError,
            "Found array with 0 sample(s) (shape=(0, 3, 4)) while a minimum of 1 is required by "
            "Detector.",
        ),
        (
            np.zeros((1, 12)),
            {"min_images": 2},
            ValueError,
            "Found array with 1 sample(s) (shape=(1, 12)) while a minimum of 2 is required by "
            "Detector.",
        ),
        (
            np.zeros((2, 5)),
            {"image_shape": (2, 3)},
            ValueError,
            "X has rows of 5 features, but image_shape=(2, 3) needs 6; give the height, width "
            "and channels of the images.",
        ),
        (
            np.zeros((2, 5)),
            {"fitted_shape": (2, 3, 1)},
            ValueError,
            "X has rows of 5 features, but Detector was fitted on images of shape (2, 3, 1): 6 "
            "features.",
        ),
        (
            np.zeros((2, 3)),
            {"image_shape": (2, 3)},
            ValueError,
            "X has 3 features, but Detector is expecting 6 features as input; for one image pass "
            "X[None].",
        ),
        (
            np.zeros((2, 3)),
            {"fitted_shape": (2, 3, 1)},
            ValueError,
            "X has 3 features, but Detector is expecting 6 features as input; for one image pass "
            "X[None].",
        ),
        (
            np.zeros((4, 5, 3)),
            {"fitted_shape": (4, 5, 3)},
            ValueError,
            "X has images of 1 channel, but Detector was fitted on 3; for one image pass X[None].",
        ),
        (
            np.zeros((2, 4, 4, 3)),
            {"image_shape": (4, 4)},
            ValueError,
            "X has images of shape (4, 4, 3), but image_shape=(4, 4); leave image_shape out for "
            "images that have their shape.",
        ),
        (
            np.zeros((2, 4, 4)),
            {"fitted_shape": (4, 4, 3)},
            ValueError,
            "X has images of 1 channel, but Detector was fitted on 3; convert them first.",
        ),
        (
            np.zeros((2, 4, 4, 3)),
            {"fitted_shape": (4, 4, 1)},
            ValueError,
            "X has images of 3 channels, but Detector was fitted on 1; convert them first.",
        ),
        (
            np.zeros((2, 4, 4, 2)),
            {"channel_counts": (1, 3)},
            ValueError,
            "X has images of 2 channels, but Detector takes 1 or 3; convert them first.",
        ),
        *[
            (np.zeros((2, 4)), {"image_shape": shape}, ValueError, SHAPE + f"Got {shape!r}.")
            for shape in [4, (4,), (2, 2, 1, 1), (2, 2.0), (0, 4), (-2, -2), (True, 4), "22"]
        ],
        (sp.csr_array(np.eye(3)), {}, TypeError, "Sparse data was passed for X, but dense"),
        (of_objects({"a": 1}), {}, TypeError, "argument must be a string or a real number"),
        (of_objects("a"), {}, ValueError, "could not convert string to float: 'a'"),
        (np.full((2, 3), "a"), {}, ValueError, "not compatible with arrays of bytes/strings"),
        (np.zeros((2, 3), dtype=complex), {}, ValueError, "Complex data not supported"),
        (np.zeros((2, 3, 4), dtype=complex), {}, ValueError, "Complex data not supported"),
        (np.zeros(4), {}, ValueError, "Expected 2D array, got 1D array instead"),
        (3, {}, ValueError, "Expected 2D array, got scalar array instead"),
        (pd.Series([1.0, 2.0]), {}, ValueError, "Expected a 2-dimensional container"),
    ],
)
def test_what_is_no_stack_of_images_is_refused(X, parameters, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check_images(X, estimator=Detector(), **parameters)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f8", object])
@pytest.mark.parametrize("shape", [(3, 12), (3, 4, 3)])
@pytest.mark.parametrize("fitted_shape", [None, (4, 3, 1)])
def test_one_value_that_is_not_finite_is_refused(bad, dtype, shape, fitted_shape):
    X = some_images(shape).astype(dtype)
    X.flat[-1] = bad
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
        check_images(X, fitted_shape=fitted_shape)


def test_finiteness_is_checked_beyond_the_first_batch(monkeypatch):
    monkeypatch.setattr("skavid.core.images._CHUNK_BYTES", 100)
    X = some_images((9, 4, 3), np.float32)
    check_images(X)
    X[8, 3, 2] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        check_images(X)


def test_float16_images_whose_sum_overflows_are_finite():
    assert check_images(np.full((2, 20, 20), 60000, np.float16)).shape == (2, 20, 20, 1)


# Intensities -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(images=stacks, chunk=st.integers(1, 300))
def test_value_range_is_the_minimum_and_the_maximum_in_any_batches(images, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skavid.core.images._CHUNK_BYTES", chunk)
        if images.min() == images.max():
            with pytest.raises(ValueError, match="X is constant"):
                value_range(images)
        else:
            assert value_range(images) == (images.min(), images.max())


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_constant_images_are_refused(dtype):
    message = (
        "X is constant (every pixel is 3.0), so nothing can be learned from it; give images that "
        "differ."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        value_range(np.full((2, 3, 3, 1), 3, dtype))


def test_a_range_that_overflows_is_refused():
    message = "X ranges from -1e+308 to 1e+308, which is too wide for float64; rescale it first."
    with pytest.raises(ValueError, match=re.escape(message)):
        value_range(np.array([-1e308, 1e308]).reshape(1, 1, 2, 1))


def test_uint8_means_0_to_255():
    images = np.array([10, 20], dtype=np.uint8).reshape(1, 1, 2, 1)
    assert value_range(images) == (0.0, 255.0)
    expected = torch.tensor([[[[10 / 255, 20 / 255]]]])
    assert torch.equal(to_tensor(images, (10.0, 20.0)), expected)


@pytest.mark.parametrize("dtype", [np.int16, np.int64, ">f4", np.float32, np.float64])
def test_the_same_bytes_in_another_dtype_give_the_same_bits(dtype):
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    same = to_tensor(images.astype(dtype), (0.0, 255.0))
    assert torch.equal(to_tensor(images, (0.0, 255.0)), same)


@settings(deadline=None, max_examples=50)
@given(images=stacks, low=finite, span=st.floats(1e-3, 1e6))
def test_scaling_is_exact_to_float32_and_never_clips(images, low, span):
    tensor = to_tensor(images, (low, low + span))
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    expected = np.array(
        [[[[(x - low) / ((low + span) - low) for x in column] for column in row] for row in image]
         for image in images.transpose(0, 3, 1, 2)]
    )  # fmt: skip
    assert np.array_equal(tensor.numpy(), expected.astype(np.float32))


@settings(deadline=None, max_examples=50)
@given(images=stacks, low=finite, span=st.floats(1e-3, 1e6))
def test_there_and_back_again_is_the_identity_to_float32(images, low, span):
    limits = (low, low + span)
    back = from_tensor(to_tensor(images, limits), limits)
    assert back.dtype == np.float32
    assert back.flags.c_contiguous
    # One float32 rounding of the scaled value, one of the result; or they are subnormal.
    scale = np.abs(images - low) + abs(low) + np.abs(images)
    assert np.all(np.abs(back - images) <= 2 * np.finfo(np.float32).eps * scale + 1e-37)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 9), order=st.sampled_from("CF"), cut=st.integers(1, 4))
def test_layout_and_batches_change_no_bit(seed, order, cut):
    images = np.random.default_rng(seed).normal(size=(5, 4, 3, 2))
    whole = to_tensor(images, (-1.0, 1.0))
    laid_out = np.array(images, order=order)
    parts = [to_tensor(laid_out[rows], (-1.0, 1.0)) for rows in (slice(cut), slice(cut, None))]
    assert torch.equal(torch.cat(parts), whole)


def test_from_tensor_takes_tensors_with_gradients():
    tensor = torch.zeros(1, 2, 3, 4, requires_grad=True)
    assert from_tensor(tensor, (0.0, 1.0)).shape == (1, 3, 4, 2)


def test_the_tensor_is_never_the_users_memory():
    images = np.zeros((1, 2, 2, 1), dtype=np.float32)
    to_tensor(images, (0.0, 1.0)).fill_(1.0)
    assert not images.any()


def test_values_beyond_float32_are_refused():
    message = (
        "X holds 1e+300, which is too far from the value range (0.0, 1.0) to be scaled in "
        "float32; check its units."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        to_tensor(np.array([0.0, 1e300]).reshape(1, 1, 2, 1), (0.0, 1.0))


@pytest.mark.parametrize("value", [(0, 1), [0.0, 1.0], np.array([0.0, 1.0])])
def test_a_users_range_becomes_floats(value):
    assert check_value_range(value) == (0.0, 1.0)


@pytest.mark.parametrize("value", ["01", 3, None, (1,), (0, 1, 2), ("a", "b"), (0, 1j)])
def test_what_is_no_pair_of_numbers_is_no_range(value):
    message = f"value_range must be a pair of numbers (low, high). Got {value!r}."
    with pytest.raises(TypeError, match=re.escape(message)):
        check_value_range(value)


@pytest.mark.parametrize("value", [(1, 1), (2, 1), (0, np.inf), (np.nan, 1), (-1e308, 1e308)])
def test_a_range_must_be_finite_and_rising(value):
    message = f"value_range must be finite and rising, low < high. Got {value!r}."
    with pytest.raises(ValueError, match=re.escape(message)):
        check_value_range(value)


@given(
    picture=hnp.arrays(np.int16, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_each_pixel_of_another_size_is_the_one_that_its_corner_lies_in(picture, size):
    resized = resize(picture, size)
    (height, width), (h, w) = size, picture.shape[:2]
    assert resized.shape == (*size, *picture.shape[2:])
    assert resized.dtype == picture.dtype
    for y, x in np.ndindex(size):
        assert np.array_equal(resized[y, x], picture[y * h // height, x * w // width])
