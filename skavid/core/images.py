"""Validation of images: from a user's array to a checked float32 tensor and back.

No other module checks the shape, dtype and intensities of X.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import validate_data

from skavid.exceptions import InputMismatchWarning

__all__ = ["check_images"]

RESIDUAL_FLOOR = float(np.float32(1e-7))
"""The smallest residual of intensities in [0, 1], so that 0 has a logarithm, too."""

_SMALLEST_SQUARE = 16  # rows of at least this length, a perfect square, look like images
_MOST_CHANNELS = 4  # of images whose channels may come first
_FACTOR = 50.0  # between the ranges of numbers in different units
_DEPTHS = (8, 10, 12, 14, 16)  # usual bits per pixel
_LEAST_SHIFT = 4  # between depths; a light may well be four times as bright
_LARGEST_SHARE = 1.5  # the highest number of images in [0, 1], with noise
_MOST_SAMPLED = 32  # images whose range is looked at
_CHUNK_BYTES = 2**24
_BYTES = (np.arange(256, dtype=np.float64) / 255.0).astype(np.float32)
_TOO_LARGE = "X holds integers that need more than 64 bits; convert it to float64 or rescale it."


def check_images(
    X: npt.ArrayLike,
    *,
    image_shape: tuple[int, ...] | None = None,
    estimator: Any = None,
    fitted_shape: tuple[int, int, int] | None = None,
    min_images: int = 1,
    channel_counts: tuple[int, ...] | None = None,
    ignore_mask: npt.ArrayLike | None = None,
) -> npt.NDArray[Any]:
    """Check images and bring them to the shape (n_images, H, W, C), if possible without a copy.

    Parameters
    ----------
    X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
        Images of any real dtype, channels last, or one image per row. Memory maps are only
        viewed; big-endian, read-only and strided arrays are accepted.
    image_shape : tuple (H, W) or (H, W, C), default=None
        The shape of images given as rows. Without it a row is an image of one line,
        ``(1, n_features)``, with a warning if its length is a perfect square of at least 16.
        Ignored if ``fitted_shape`` is given.
    estimator : estimator, default=None
        Named in messages. In fit its ``n_features_in_`` and ``feature_names_in_`` are set as the
        last step, so that an invalid X leaves it unchanged.
    fitted_shape : tuple (H, W, C), default=None
        The shape seen in fit, which is also that of rows; None in fit. Images may have another
        height and width, as the networks are fully convolutional, but the same channel count.
    min_images : int, default=1
        Minimum number of images.
    channel_counts : tuple of int, default=None
        Allowed numbers of channels; None allows any number.
    ignore_mask : array-like of shape (H, W), bool, default=None
        True where pixels do not count and may be NaN or infinite.

    Returns
    -------
    images : ndarray of shape (n_images, H, W, C)
        In X's own dtype: boolean, integer or floating; object arrays become float64.

    Raises
    ------
    TypeError
        If X is sparse or holds objects that are not numbers.
    ValueError
        If X is not a stack of equally large images of finite real numbers, holds too few of
        them, or does not fit ``image_shape``, ``fitted_shape`` or ``channel_counts``.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.images import check_images
    >>> check_images(np.zeros((10, 8, 6))).shape
    (10, 8, 6, 1)
    >>> check_images(np.zeros((10, 48)), image_shape=(8, 6)).shape
    (10, 8, 6, 1)
    """
    shape = None if image_shape is None else _check_image_shape(image_shape)
    container = _as_container(X)
    if np.ndim(container) <= 2:
        images = _check_rows(container, shape, estimator, fitted_shape, min_images)
    else:
        images = _check_stack(container, shape, estimator, fitted_shape, min_images)
    _check_finite(images, estimator, ignore_mask)
    if channel_counts is not None and images.shape[3] not in channel_counts:
        raise ValueError(
            f"X has images of {_channels(images.shape[3])}, but {_name(estimator)} takes "
            f"{' or '.join(map(str, channel_counts))}; convert them first."
        )
    if fitted_shape is None and estimator is not None:
        _remember_features(estimator, container, images)
    return images


def check_ignored(
    ignore_mask: npt.ArrayLike, shape: tuple[int, ...] | None = None, *, owner: str = "the images"
) -> npt.NDArray[np.bool_]:
    """Check a boolean mask of ignored pixels, (H, W), of the given shape if there is one.

    ``owner`` names the arrays of that shape in messages. Some pixel must be False.
    """
    ignored: npt.NDArray[np.bool_] = np.asarray(ignore_mask)
    if ignored.dtype != bool or ignored.ndim != 2:
        raise ValueError(
            "ignore_mask must be a boolean array of shape (H, W), True where pixels do not count. "
            f"Got {ignored.dtype} of shape {ignored.shape}; write mask > 0 for an image."
        )
    if shape is not None and ignored.shape != shape:
        raise ValueError(
            f"ignore_mask has the shape {ignored.shape}, but {owner} have {shape}; give one value "
            "per pixel."
        )
    if ignored.all():
        raise ValueError("ignore_mask leaves no pixel that counts; leave some False.")
    return ignored


def check_measured(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    """Refuse masked, complex and NaN values of the argument ``name``, without reading maps."""
    array = np.asanyarray(values)
    if np.ma.is_masked(array):
        raise ValueError(
            f"{name} has masked values, which cannot be evaluated; leave them out first."
        )
    if array.dtype.kind == "c":
        raise ValueError(f"{name} must hold real numbers. Got {array.dtype}.")
    if array.dtype.kind == "f" and array.ndim == 1 and np.isnan(array).any():
        raise ValueError(f"{name} holds NaN, which cannot be evaluated; leave it out first.")
    return np.asarray(array)


def value_range(
    images: npt.NDArray[Any], ignore_mask: npt.NDArray[np.bool_] | None = None
) -> tuple[float, float]:
    """Find the lowest and the highest intensity of the pixels that count; 0 and 255 for uint8.

    Memory maps are read in batches.
    """
    lows, highs = [], []
    for rows in _row_chunks(images):
        part = images[rows] if ignore_mask is None else images[rows][:, ~ignore_mask]
        lows.append(part.min())
        highs.append(part.max())
    low, high = float(min(lows)), float(max(highs))
    if low == high:
        raise ValueError(
            f"X is constant (every pixel is {low}), so nothing can be learned from it; give "
            "images that differ."
        )
    if images.dtype == np.uint8:
        return 0.0, 255.0
    if not math.isfinite(high - low):
        raise ValueError(
            f"X ranges from {low} to {high}, which is too wide for float64; rescale it first."
        )
    return low, high


def check_value_range(value: Any) -> tuple[float, float]:
    """Check a range of intensities: a pair of finite numbers, low < high."""
    pair = tuple(value) if isinstance(value, (tuple, list, np.ndarray)) else ()
    if len(pair) != 2 or not all(isinstance(v, Real) for v in pair):
        raise TypeError(f"value_range must be a pair of numbers (low, high). Got {value!r}.")
    low, high = float(pair[0]), float(pair[1])
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"value_range must be finite and rising, low < high. Got {value!r}.")
    return low, high


def check_option(name: str, value: str, options: Iterable[str]) -> None:
    """Raise a ValueError if the argument ``name`` is none of the options."""
    known = list(options)
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}. Got {value!r}.")


def to_tensor(
    images: npt.NDArray[Any],
    value_range: tuple[float, float],
    ignore_mask: npt.NDArray[np.bool_] | None = None,
) -> torch.Tensor:
    """Scale images to [0, 1] and move their channels to the front, as the networks expect.

    ``value_range`` becomes (0, 1), except for uint8, which is always scaled from 0 to 255. Pixels
    that do not count become 0.5. The result is float32, contiguous, on the CPU, and not clipped:
    an outlier may leave the range. It is computed in float64, so that equal numbers of different
    dtypes give the same bits.
    """
    if ignore_mask is not None:
        images = images.copy()
        images[:, ignore_mask] = images[0, ~ignore_mask][0]
    if images.dtype == np.uint8:
        scaled = _BYTES[images]
    else:
        low, high = value_range
        with np.errstate(over="ignore", invalid="ignore"):
            exact = images.astype(np.float64)
            exact -= low
            exact /= high - low
            scaled = exact.astype(np.float32)
        if not np.isfinite(scaled).all():
            worst = images[~np.isfinite(scaled)][0]
            raise ValueError(
                f"X holds {worst}, which is too far from the value range ({low}, {high}) to be "
                "scaled in float32; check its units."
            )
    if ignore_mask is not None:
        scaled[:, ignore_mask] = 0.5
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(scaled, -1, 1)))


def from_tensor(tensor: torch.Tensor, value_range: tuple[float, float]) -> npt.NDArray[np.float32]:
    """Scale tensors back to the units of the images and move their channels to the end."""
    low, high = value_range
    scaled = tensor.detach().to("cpu", torch.float64).numpy()
    images = np.moveaxis(scaled * (high - low) + low, 1, -1)
    return np.ascontiguousarray(images, dtype=np.float32)


def intensity_range(
    images: npt.NDArray[Any], value_range: tuple[float, float]
) -> tuple[float, float]:
    """Return the intensities that become 0 and 1: uint8 images are 0 to 255 whatever was learnt.

    Parameters
    ----------
    images : ndarray of shape (n_images, H, W, C)
        As :func:`check_images` returns them.
    value_range : tuple (low, high)
        Of the training images.

    Returns
    -------
    range : tuple (low, high)
        In the units of these images.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.images import intensity_range
    >>> intensity_range(np.zeros((1, 8, 8, 1), np.uint8), (0.0, 1.0))
    (0.0, 255.0)
    """
    return (0.0, 255.0) if images.dtype == np.uint8 else value_range


def resize(picture: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Resize an image or map, (h, w) or (h, w, n_channels), to a size by nearest neighbours."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, picture.shape[:2], strict=True))
    return np.asarray(picture.take(columns, axis=1).take(rows, axis=0))


def _check_image_shape(image_shape: Any) -> tuple[int, int, int]:
    """Return (H, W, C) of an ``image_shape`` that may lack C."""
    sizes = tuple(image_shape) if isinstance(image_shape, (tuple, list, np.ndarray)) else ()
    valid = len(sizes) in (2, 3) and all(
        isinstance(size, Integral) and not isinstance(size, bool) and int(size) >= 1
        for size in sizes
    )
    if not valid:
        raise ValueError(
            "image_shape must be (height, width) or (height, width, channels), integers of at "
            f"least 1. Got {image_shape!r}."
        )
    return int(sizes[0]), int(sizes[1]), int(sizes[2]) if len(sizes) == 3 else 1


def _as_container(X: Any) -> Any:
    """Convert X to an array, except for data frames and sparse matrices."""
    if sp.issparse(X) or hasattr(X, "columns"):
        return X
    _refuse_files_and_loaders(X)
    _refuse_masked(X)
    if isinstance(X, torch.Tensor):
        X = X.detach()
    if _is_nested(X):
        X = list(X)
    try:
        array = np.asarray(X)
    except OverflowError as error:
        raise ValueError(_TOO_LARGE) from error
    except ValueError as error:
        if "inhomogeneous" in str(error) or "broadcast" in str(error):
            raise ValueError(
                "X holds images of different shapes; resize or crop them to one shape first."
            ) from error
        raise
    if array.dtype.kind == "O":
        _refuse_huge_integers(array)
    # scikit-learn's messages for a Series, a scalar and a flat list name the type of X.
    return X if array.ndim < 2 else array


def _refuse_files_and_loaders(X: Any) -> None:
    """Refuse what holds or yields images, and name the function that reads them."""
    first = X[0] if isinstance(X, list | tuple) and X else X
    if isinstance(X, np.ndarray) and X.dtype.kind in "US" and X.size and X.ndim < 2:
        first = str(X.flat[0])
    if isinstance(first, str | bytes | os.PathLike):
        raise ValueError(
            f"X must be an array of images, but holds paths such as {os.fspath(first)!r}; read "
            "the images first, such as by skavid.datasets.load_folder(folder).frames or "
            "skavid.video.load_frames(video).frames."
        )
    if isinstance(X, torch.utils.data.DataLoader | torch.utils.data.Dataset):
        raise ValueError(
            f"X must be an array of images. Got a {type(X).__name__}; put its images together "
            "first, such as by torch.cat(list(loader)), and channels last by permute(0, 2, 3, 1)."
        )
    if isinstance(X, Iterator):
        raise ValueError(
            f"X must be an array of images. Got a {type(X).__name__}; put its images together "
            "first, such as by np.stack(list(X))."
        )


def _is_nested(X: Any) -> bool:
    """Return whether X is an object array of images rather than of numbers."""
    if not (isinstance(X, np.ndarray) and X.dtype.kind == "O" and X.ndim == 1 and X.size):
        return False
    return any(isinstance(image, list | tuple | np.ndarray) for image in X)


def _refuse_masked(X: Any) -> None:
    parts = X if isinstance(X, list | tuple) else (X,)
    if any(np.ma.isMaskedArray(part) and np.ma.is_masked(part) for part in parts):
        raise ValueError(
            "X has masked values, which networks cannot process; fill them first, such as by "
            "X.filled(0)."
        )


def _refuse_huge_integers(array: npt.NDArray[Any]) -> None:
    """Refuse Python integers that only an object array can hold."""
    for value in array.flat:
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise ValueError(_TOO_LARGE)


def _check_rows(
    X: Any,
    shape: tuple[int, int, int] | None,
    estimator: Any,
    fitted_shape: tuple[int, int, int] | None,
    min_images: int,
) -> npt.NDArray[Any]:
    """Check images given as rows, and reshape them."""
    expected = shape if fitted_shape is None else fitted_shape
    if expected is not None and np.shape(X) == expected[:2] != (1, math.prod(expected)):
        raise ValueError(
            f"X has {np.shape(X)[1]} features, but {_name(estimator)} is expecting "
            f"{math.prod(expected)} features as input; for one image pass X[None]."
        )
    rows = _check_numbers(X, estimator, fitted_shape, min_images)
    n_features = rows.shape[1]
    if fitted_shape is not None:
        shape = fitted_shape
        if n_features != math.prod(shape):
            raise ValueError(
                f"X has rows of {n_features} features, but {_name(estimator)} was fitted on "
                f"images of shape {shape}: {math.prod(shape)} features."
            )
    elif shape is None:
        shape = (1, n_features, 1)
        side = math.isqrt(n_features)
        if side * side == n_features and n_features >= _SMALLEST_SQUARE:
            warnings.warn(
                f"X has rows of {n_features} features, read as images of shape "
                f"(1, {n_features}); if they are square images, pass "
                f"image_shape=({side}, {side}).",
                UserWarning,
                stacklevel=5,  # the caller of fit, which scikit-learn wraps
            )
    elif n_features != math.prod(shape):
        raise ValueError(
            f"X has rows of {n_features} features, but image_shape={_short(shape)} needs "
            f"{math.prod(shape)}; give the height, width and channels of the images."
        )
    return rows.reshape(len(rows), *shape)


def _check_stack(
    X: npt.NDArray[Any],
    shape: tuple[int, int, int] | None,
    estimator: Any,
    fitted_shape: tuple[int, int, int] | None,
    min_images: int,
) -> npt.NDArray[Any]:
    """Check images that already have a height and a width."""
    if X.ndim > 4:
        raise ValueError(
            f"X has {X.ndim} dimensions; it must be (n, H, W), (n, H, W, C) or rows "
            "(n, H * W * C)."
        )
    if 0 in X.shape[1:]:
        raise ValueError(
            f"X has images of shape {X.shape[1:]}; height, width and channels must be at least 1."
        )
    images = _check_numbers(X, estimator, fitted_shape, min_images)
    images = images[..., np.newaxis] if images.ndim == 3 else images
    if fitted_shape is not None:
        found, fitted = images.shape[3], fitted_shape[2]
        if found != fitted:
            is_one = X.shape == fitted_shape
            mend = "for one image pass X[None]" if is_one else "convert them first"
            if X.ndim == 4 and X.shape[1] == fitted:
                mend = "if channels come first, pass np.moveaxis(X, 1, -1)"
            raise ValueError(
                f"X has images of {_channels(found)}, but {_name(estimator)} was fitted on "
                f"{fitted}; {mend}."
            )
    elif shape is not None and images.shape[1:] != shape:
        raise ValueError(
            f"X has images of shape {X.shape[1:]}, but image_shape={_short(shape)}; leave "
            "image_shape out for images that have their shape."
        )
    elif X.ndim == 4 and X.shape[1] <= _MOST_CHANNELS < min(X.shape[2:]):
        warnings.warn(
            f"X has the shape {X.shape}, read as images of {X.shape[1]} x {X.shape[2]} pixels and "
            f"{X.shape[3]} channels; if channels come first, pass np.moveaxis(X, 1, -1).",
            InputMismatchWarning,
            stacklevel=5,  # the caller of fit, which scikit-learn wraps
        )
    return images


def warn_of_other_range(
    images: npt.NDArray[Any],
    value_range: tuple[float, float],
    ignore_mask: npt.NDArray[np.bool_] | None = None,
    *,
    stacklevel: int,
) -> None:
    """Warn about images whose numbers can hardly be in the units of the training images.

    uint8 is read as 0 to 255, which fits trainings on 0 to 255 and on 0 to 1. Other numbers differ
    too much if they span more than 50 times the range of the training, or if floating numbers lie
    in [0, 1] although the training spans more than 10, span less than a 50th of it, or look
    standardised where the training had no negative number; integers, if they fill another depth
    that differs by 4 bits or more, such as 12 and 16. At most 32 images are looked at.
    """
    low, high = value_range
    trained = f"numbers from {low:g} to {high:g}"
    if images.dtype == np.uint8:
        if value_range in ((0.0, 255.0), (0.0, 1.0)):
            return
        mend = "X.astype(float)" if low >= 0 else "X converted as they were"
        mend = "X / 255" if low >= 0 and high <= _LARGEST_SHARE else mend
        found = "uint8 numbers, read as 0 to 255"
    else:
        rows = np.unique(np.linspace(0, len(images) - 1, _MOST_SAMPLED).astype(int))
        some = images[rows]
        some = some if ignore_mask is None else some[:, ~ignore_mask]
        least, most = float(some.min()), float(some.max())
        if least == most or not math.isfinite(most - least):
            return
        is_share = least >= 0 and most <= 1 and images.dtype.kind in "bf"
        if is_share and high - low > _FACTOR / 5:
            found, mend = f"{images.dtype} in [0, 1]", "X * 255"
        elif images.dtype.kind == "f" and (
            (most - least) * _FACTOR < high - low or (least < 0 <= low and most * 10 < high)
        ):
            found, mend = f"{images.dtype} of a much narrower range", "X before it was scaled"
        elif most - least > _FACTOR * (high - low):
            found, mend = f"{images.dtype} of a much wider range", "X divided by its largest value"
        elif images.dtype.kind in "iu" and (shift := _other_depth((least, most), value_range)):
            found = f"{images.dtype} numbers of {_depth(most)} bits"
            trained += f", which take {_depth(high)} bits"
            mend = f"X * {2**shift}" if shift > 0 else f"X / {2**-shift}"
        else:
            return
    warnings.warn(
        f"X holds {found}, but AVIDDetector was fitted on {trained}; give X in the units of the "
        f"training images, such as {mend}.",
        InputMismatchWarning,
        stacklevel=stacklevel + 1,
    )


def _depth(highest: float) -> int:
    """Return the bits per pixel that cameras and files use for so high a number."""
    return next((bits for bits in _DEPTHS if highest < 2**bits), 32)


def _other_depth(found: tuple[float, float], trained: tuple[float, float]) -> int:
    """Return by how many bits numbers must be shifted to fill the depth of the training; or 0.

    Dark pictures of the same depth hardly ever span the same share of another depth's range.
    """
    shift = _depth(trained[1]) - _depth(found[1])
    share = (found[1] - found[0]) * 2.0**shift / (trained[1] - trained[0])
    return shift if abs(shift) >= _LEAST_SHIFT and 0.5 < share < 2 else 0


def _check_numbers(
    X: Any, estimator: Any, fitted_shape: tuple[int, int, int] | None, min_images: int
) -> npt.NDArray[Any]:
    """Check the content of X by scikit-learn's functions; finiteness in batches."""
    checks = {
        "dtype": "numeric",
        "allow_nd": True,
        "ensure_all_finite": False,
        "ensure_min_samples": min_images,
    }
    try:
        if estimator is None or fitted_shape is None or np.ndim(X) > 2:
            array = check_array(X, input_name="X", estimator=estimator, **checks)
        else:
            array = validate_data(estimator, X, reset=False, **checks)
    except OverflowError as error:
        raise ValueError(_TOO_LARGE) from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"X must hold real numbers. Got an array of dtype {array.dtype}.")
    return np.asarray(array)


def _check_finite(images: npt.NDArray[Any], estimator: Any, ignore_mask: Any) -> None:
    """Refuse NaN and infinity, in batches, except where pixels do not count."""
    if images.dtype.kind != "f":
        return
    ignored = None if ignore_mask is None else np.asarray(ignore_mask)
    if ignored is not None and (ignored.dtype != bool or ignored.shape != images.shape[1:3]):
        ignored = None  # refused elsewhere
    for rows in _row_chunks(images):
        part = images[rows] if ignored is None else images[rows][:, ~ignored]
        with np.errstate(invalid="ignore"):  # a signalling NaN is reported like any other
            assert_all_finite(part, estimator_name=_name(estimator, ""), input_name="X")


def _remember_features(estimator: Any, X: Any, images: npt.NDArray[Any]) -> None:
    """Set the attributes that scikit-learn expects of a fitted estimator."""
    if np.ndim(X) == 2:
        validate_data(estimator, X, reset=True, skip_check_array=True)
    else:
        estimator.n_features_in_ = math.prod(images.shape[1:])
        vars(estimator).pop("feature_names_in_", None)


def _row_chunks(array: npt.NDArray[Any]) -> Iterator[slice]:
    """Divide the first axis into slices of bounded memory."""
    row_bytes = max(1, array.itemsize * math.prod(array.shape[1:]))
    step = max(1, _CHUNK_BYTES // row_bytes)
    for start in range(0, len(array), step):
        yield slice(start, start + step)


def _short(shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Leave out a single channel, as users do."""
    return shape[:2] if shape[2] == 1 else shape


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def _name(estimator: Any, default: str = "the estimator") -> str:
    return default if estimator is None else type(estimator).__name__
