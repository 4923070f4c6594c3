"""Conversion of video to images: frames stacked with past frames as channels (Sec. 3.5)."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Sequence
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils import Tags, check_array, column_or_1d
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from skavid.core.images import check_images
from skavid.core.scene import clip_starts
from skavid.sklearn_private import (
    Interval,
    StrOptions,
    check_feature_names_in,
    fit_context,
    get_output_config,
)

__all__ = [
    "FrameStream", "TemporalStacker", "causal_mean", "concatenate_clips", "count_still",
]  # fmt: skip

_BLOCK_BYTES = 2**25
# On UCSD Ped2, frames change by at most 2.2 times the median within clips, and by 4.6 to 9.5 times
# between clips.
CUT = 4
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


class TemporalStacker(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Stack each frame with past frames as channels, so that motion becomes visible (Sec. 3.5).

    Frame t becomes an image of several channels, the oldest first::

        I'_t = (I_t + I_{t-1}) / 2
        X_t  = <I'_{t-4}, I'_{t-2}, I'_t>

    There are as many stacks as frames: the first frame of a clip is repeated before it, and
    :meth:`is_padded` returns which stacks contain repeated frames. Only the shape of the frames
    is learned.

    Parameters
    ----------
    n_channels : int, default=3
        Number of frames in a stack.
    spacing : int, default=2
        Distance between the frames of a stack.
    average : bool, default=True
        Whether to replace each frame by its mean with the previous frame, I'.
    image_shape : tuple (H, W) or (H, W, 3), default=None
        The shape of frames given as flat rows. Their stacks are flat rows, too.
    dtype : {None, "float32"}, default=None
        Dtype of the stacks. None keeps uint8, with means rounded half up, and converts other
        dtypes to float32 in their own units. ``"float32"`` also converts uint8, without rounding.

    Attributes
    ----------
    image_shape_ : tuple (H, W, C)
        Shape of the frames seen in fit.
    n_features_in_ : int
        ``H * W * C``.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X was a data frame with string names.

    See Also
    --------
    skavid.temporal.concatenate_clips : Concatenates clips and creates their groups.

    Notes
    -----
    Frames with three channels are converted to luma, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601),
    which is rounded half up if the stacks are uint8.

    ``groups`` keep clips apart. Inside a Pipeline they arrive by metadata routing and are
    requested by default. It is also correct to stack once before a search, as nothing is learned
    from the data. A stacker that was fitted with groups refuses to stack without them, which
    would mix clips. Without groups it warns about changes so abrupt that another clip seems to
    begin.

    References
    ----------
    .. [1] Sabokrou et al., "AVID: Adversarial Visual Irregularity Detection",
       ACCV 2018, section 3.5.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid import TemporalStacker
    >>> frames = 10.0 * np.arange(8).reshape(8, 1, 1)
    >>> stacks = TemporalStacker().fit_transform(frames)
    >>> stacks.shape
    (8, 1, 1, 3)
    >>> stacks[[0, 5, 7], 0, 0]
    array([[ 0.,  0.,  0.],
           [ 5., 25., 45.],
           [25., 45., 65.]], dtype=float32)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_channels": [Interval(Integral, 1, None, closed="left")],
        "spacing": [Interval(Integral, 1, None, closed="left")],
        "average": ["boolean"],
        "image_shape": [tuple, list, None],
        "dtype": [StrOptions({"float32"}), None],
    }
    # For scikit-learn's metadata routing: groups are requested by default, and ``out`` is for
    # direct calls.
    __metadata_request__fit: ClassVar[dict[str, bool]] = {"groups": True}
    __metadata_request__transform: ClassVar[dict[str, Any]] = {"groups": True, "out": UNUSED}

    image_shape_: tuple[int, int, int]
    n_features_in_: int

    def __init__(
        self,
        *,
        n_channels: int = 3,
        spacing: int = 2,
        average: bool = True,
        image_shape: tuple[int, ...] | None = None,
        dtype: str | None = None,
    ) -> None:
        self.n_channels = n_channels
        self.spacing = spacing
        self.average = average
        self.image_shape = image_shape
        self.dtype = dtype

    @fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self, X: npt.ArrayLike, y: object = None, *, groups: npt.ArrayLike | None = None
    ) -> TemporalStacker:
        """Learn the shape of the frames.

        Parameters
        ----------
        X : array-like of shape (n_frames, H, W), (n_frames, H, W, 3) or (n_frames, H * W * C)
            Frames in temporal order.
        y : object
            Ignored, exists for compatibility.
        groups : array-like of shape (n_frames,), default=None
            Clip of each frame; the frames of a clip are consecutive. None: one clip.

        Returns
        -------
        self : TemporalStacker
            The fitted stacker.
        """
        if groups is not None:
            first_frames(groups, X)
        images = check_images(
            X, image_shape=self.image_shape, estimator=self, channel_counts=(1, 3)
        )
        self.image_shape_ = images.shape[1:]
        self._fitted_with_groups = groups is not None
        return self

    def transform(
        self,
        X: npt.ArrayLike,
        *,
        groups: npt.ArrayLike | None = None,
        out: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        """Stack each frame with its past.

        Parameters
        ----------
        X : array-like of shape (n_frames, H, W), (n_frames, H, W, 3) or (n_frames, H * W * C)
            Frames in temporal order; a memory map is read in blocks. Height and width may differ
            from those seen in fit, except for flat rows.
        groups : array-like of shape (n_frames,), default=None
            Clip of each frame; the frames of a clip are consecutive. None: one clip.
        out : ndarray of the shape and dtype of the stacks, default=None
            Array for the result; may be a memory map.

        Returns
        -------
        stacks : ndarray of shape (n_frames, H, W, n_channels) or (n_frames, H * W * n_channels)
            Of uint8 or float32, see ``dtype``; ``out`` if it is given.

        Raises
        ------
        ValueError
            If X differs from the frames seen in fit, the frames of a clip are not consecutive,
            ``groups`` are missing although fit had them, ``out`` does not match, or `set_output`
            requests data frames but X does not consist of flat rows.
        """
        check_is_fitted(self)
        images = check_images(X, estimator=self, fitted_shape=self.image_shape_)
        if groups is None and self._fitted_with_groups:
            raise ValueError(
                "TemporalStacker was fitted with groups and needs them here, too, to keep clips "
                "apart; pass groups=, zeros for a single clip, or stack before the search."
            )
        starts = first_frames(groups, images)
        n, height, width, _ = images.shape
        container = get_output_config("transform", self)["dense"]
        if container != "default" and np.ndim(X) != 2:
            raise ValueError(
                f"X has the shape {np.shape(X)}, and a {container} data frame cannot hold its "
                f"stacks; pass flat rows and image_shape=({height}, {width}), or "
                "set_output(transform='default')."
            )
        dtype = self._out_dtype(images.dtype)
        flat = (n, height * width * self.n_channels)
        shape = flat if np.asarray(X).ndim == 2 else (n, height, width, self.n_channels)
        stacks = np.empty(shape, dtype) if out is None else _check_out(out, shape, dtype, images)
        # Splitting the last axis of rows yields a view for any strides.
        change = self._stack(images, starts, stacks.reshape(n, height, width, self.n_channels))
        if groups is None:
            _warn_of_cuts(change)
        return stacks

    def fit_transform(
        self,
        X: npt.ArrayLike,
        y: object = None,
        *,
        groups: npt.ArrayLike | None = None,
        out: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        """Fit the stacker and stack the same frames.

        Parameters
        ----------
        X : array-like of shape (n_frames, H, W), (n_frames, H, W, 3) or (n_frames, H * W * C)
            As in :meth:`fit`.
        y : object
            Ignored, exists for compatibility.
        groups : array-like of shape (n_frames,), default=None
            Clip of each frame, for both :meth:`fit` and :meth:`transform`.
        out : ndarray of the shape and dtype of the stacks, default=None
            As in :meth:`transform`.

        Returns
        -------
        stacks : ndarray of shape (n_frames, H, W, n_channels) or (n_frames, H * W * n_channels)
            As :meth:`transform` returns them.
        """
        stacks: npt.NDArray[Any] = self.fit(X, groups=groups).transform(X, groups=groups, out=out)
        return stacks

    def is_padded(
        self, X: npt.ArrayLike, *, groups: npt.ArrayLike | None = None
    ) -> npt.NDArray[np.bool_]:
        """Return which stacks repeat the first frame of their clip.

        Parameters
        ----------
        X : array-like of shape (n_frames, ...)
            Frames or stacks; only their number is used.
        groups : array-like of shape (n_frames,), default=None
            Clip of each frame, as in :meth:`transform`.

        Returns
        -------
        padded : ndarray of shape (n_frames,), bool
            True for the first ``(n_channels - 1) * spacing`` frames of a clip, and one more
            if ``average`` is True.

        Examples
        --------
        >>> import numpy as np
        >>> from skavid import TemporalStacker
        >>> stacker = TemporalStacker(n_channels=2, spacing=1)
        >>> stacker.is_padded(np.zeros((6, 4, 4)), groups=[0, 0, 0, 1, 1, 1])
        array([ True,  True, False,  True,  True, False])
        """
        self._validate_params()
        starts = first_frames(groups, np.asarray(X))
        padded: npt.NDArray[np.bool_] = np.arange(len(starts)) - starts < self.reach
        return padded

    def stream(self) -> FrameStream:
        """Return an object that stacks a live stream frame by frame, with the same results.

        Returns
        -------
        stream : FrameStream
            An independent stream; the stacker need not be fitted.

        Examples
        --------
        >>> import numpy as np
        >>> from skavid import TemporalStacker
        >>> stream = TemporalStacker(spacing=1).stream()
        >>> for intensity in (0, 10, 20, 31):
        ...     stack = stream.push(np.full((2, 2), intensity, dtype=np.uint8))
        >>> stack[0, 0]
        array([ 5, 15, 26], dtype=uint8)
        """
        self._validate_params()
        return FrameStream(self)

    def get_feature_names_out(self, input_features: npt.ArrayLike | None = None) -> Any:
        """Return the names of the columns of stacked flat rows.

        Parameters
        ----------
        input_features : array-like of str of shape (`n_features_in_`,), default=None
            Names of the features; by default those seen in fit, or ``x0``, ``x1``, ...

        Returns
        -------
        names : ndarray of shape (H * W * n_channels,), object
            The name of the pixel and its time: ``x0_t-4``, ``x0_t-2``, ``x0_t``. A pixel of
            colour frames has the name of its first channel.
        """
        check_is_fitted(self)
        names = check_feature_names_in(self, input_features)
        moments = [f"t-{lag}" if lag else "t" for lag in self._lags()]
        pixels = names[:: self.image_shape_[2]]
        return np.array([f"{pixel}_{moment}" for pixel in pixels for moment in moments], object)

    def __sklearn_tags__(self) -> Tags:
        """Declare to scikit-learn that float32 is preserved and that X may have three dimensions.

        Returns
        -------
        tags : Tags
            The tags of the stacker.
        """
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _lags(self) -> range:
        """Return the delay of each channel in frames, the oldest first."""
        return range((self.n_channels - 1) * self.spacing, -1, -self.spacing)

    @property
    def reach(self) -> int:
        """Number of past frames that a stack depends on."""
        return self._lags()[0] + bool(self.average)

    def _out_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        keeps = self.dtype is None and dtype == np.uint8
        return np.dtype(np.uint8 if keeps else np.float32)

    def _stack(
        self, images: npt.NDArray[Any], starts: npt.NDArray[np.intp], stacks: npt.NDArray[Any]
    ) -> npt.NDArray[np.float64]:
        """Fill ``stacks`` in blocks of consecutive frames; return the change of each frame."""
        n, *shape = images.shape
        change = np.zeros(n)
        reach = self.reach
        # Each block also reads the past frames of its first stacks, so it is at least as long.
        step = max(_BLOCK_BYTES // (4 * math.prod(shape)), reach, 1)
        for begin in range(0, n, step):
            end, first = min(begin + step, n), max(begin - reach, 0)
            frames = _to_grey(images[first:end], stacks.dtype)
            if end - first > 1:
                few = frames[
                    max(begin - first - 1, 0) :, :: shape[0] // 48 + 1, :: shape[1] // 48 + 1
                ]
                steps = np.abs(np.diff(few.astype(np.float32), axis=0)).mean(axis=(1, 2))
                change[end - len(steps) : end] = steps
            if self.average:
                times = np.arange(first, end)
                before = np.maximum(times - 1, np.maximum(starts[first:end], first))
                frames = _mean(frames, frames[before - first])
            times = np.arange(begin, end)
            for channel, lag in enumerate(self._lags()):
                sources = np.maximum(times - lag, starts[begin:end])
                stacks[begin:end, ..., channel] = frames[sources - first]
        return change


class FrameStream:
    """Stack a live stream frame by frame, as :meth:`skavid.TemporalStacker.stream` returns it.

    Parameters
    ----------
    stacker : TemporalStacker
        The stacker whose current parameters are used.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid import TemporalStacker
    >>> stream = TemporalStacker(average=False, spacing=1).stream()
    >>> [stream.push(np.full((1, 1), t)).ravel().tolist() for t in (5, 6, 7)]
    [[5.0, 5.0, 5.0], [5.0, 5.0, 6.0], [5.0, 6.0, 7.0]]
    """

    def __init__(self, stacker: TemporalStacker) -> None:
        self._stacker = clone(stacker)
        self._reach = stacker._lags()[0]
        self._moments: deque[npt.NDArray[Any]] = deque(maxlen=self._reach + 1)
        self._last: npt.NDArray[Any]
        self._kind: tuple[tuple[int, int, int], np.dtype[Any]] | None = None

    def push(self, frame: npt.ArrayLike) -> npt.NDArray[Any]:
        """Add the next frame and return its stack.

        Parameters
        ----------
        frame : array-like of shape (H, W), (H, W, 3) or (H * W * C,)
            A frame of the shape and dtype of those before it; a flat row has the ``image_shape``
            of the stacker.

        Returns
        -------
        stack : ndarray of shape (H, W, n_channels)
            The row that :meth:`skavid.TemporalStacker.transform` returns for this frame.
        """
        frames: list[Any] = [frame]
        image = check_images(
            frames,
            image_shape=self._stacker.image_shape,
            estimator=self._stacker,
            fitted_shape=None if self._kind is None else self._kind[0],
            channel_counts=(1, 3),
        )
        _, height, width, n_channels = image.shape
        kind = ((height, width, n_channels), image.dtype)
        if self._kind is not None and self._kind != kind:
            raise ValueError(
                f"frame has shape {kind[0]} and dtype {kind[1]}, but this stream began with "
                f"{self._kind[0]} and {self._kind[1]}; call reset() before another clip."
            )
        self._kind = kind
        grey = _to_grey(image, self._stacker._out_dtype(image.dtype))[0]
        moment = _mean(grey, self._last) if self._stacker.average and self._moments else grey
        # The first frame is repeated before it.
        self._moments.extend([moment] * (1 if self._moments else self._reach + 1))
        self._last = grey
        return np.stack([self._moments[-1 - lag] for lag in self._stacker._lags()], axis=-1)

    def reset(self) -> None:
        """Forget all frames, so that the next one begins a clip."""
        self._moments.clear()
        self._kind = None


def concatenate_clips(
    clips: Sequence[npt.ArrayLike],
) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Concatenate clips to one array, and create the groups that keep them apart.

    Parameters
    ----------
    clips : sequence of array-like of shape (n_frames, H, W) or (n_frames, H, W, C)
        Clips of the same dtype and frame shape; their lengths may differ.

    Returns
    -------
    frames : ndarray of shape (n_frames of all clips, H, W) or (..., H, W, C)
        One clip after the other.
    groups : ndarray of shape (n_frames of all clips,), int
        Index of the clip of each frame: 0, 1, ...

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.temporal import concatenate_clips
    >>> frames, groups = concatenate_clips([np.zeros((2, 4, 4)), np.ones((3, 4, 4))])
    >>> frames.shape, groups
    ((5, 4, 4), array([0, 0, 1, 1, 1]))
    """
    arrays = [np.asarray(clip) for clip in clips]
    if not arrays:
        raise ValueError("clips must hold at least one clip. Got none.")
    first = arrays[0]
    for index, clip in enumerate(arrays):
        if clip.ndim < 2:
            raise ValueError(
                f"Each clip must be a stack of frames. Got shape {clip.shape} for clip {index}."
            )
        if clip.shape[1:] != first.shape[1:] or clip.dtype != first.dtype:
            raise ValueError(
                f"Clip {index} has frames of shape {clip.shape[1:]} and dtype {clip.dtype}, but "
                f"clip 0 has {first.shape[1:]} and {first.dtype}; convert them first."
            )
    return np.concatenate(arrays), np.repeat(np.arange(len(arrays)), [len(a) for a in arrays])


def count_still(
    stacks: npt.ArrayLike, *, before: int = 0, ignore_mask: npt.ArrayLike | None = None
) -> npt.NDArray[np.int64]:
    """Count how many stacks in a row, up to each one, have shown no change at all.

    Parameters
    ----------
    stacks : array-like of shape (n_frames, H, W, n_channels)
        Consecutive stacks of one clip, from `TemporalStacker`.
    before : int, default=0
        The count of the stack before the first one; 0 at the beginning of a clip.
    ignore_mask : array-like of shape (H, W), bool, default=None
        True where pixels do not count, such as those of a clock.

    Returns
    -------
    counts : ndarray of shape (n_frames,), int64
        0 where the moments of a stack differ in any pixel. The first stack of a clip repeats one
        frame, and counts as well.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.temporal import count_still
    >>> stacks = np.zeros((4, 1, 1, 2))
    >>> stacks[1, 0, 0] = 3, 5
    >>> count_still(stacks, before=7)
    array([8, 0, 1, 2])
    """
    counts = np.empty(len(stacks := np.asanyarray(stacks)), np.int64)
    for i, one in enumerate(stacks):
        if ignore_mask is not None:
            one = one[~np.asarray(ignore_mask, bool)]
        before = before + 1 if (one == one[..., :1]).all() else 0
        counts[i] = before
    return counts


def causal_mean(
    maps: npt.ArrayLike, n_frames: int, *, groups: npt.ArrayLike | None = None
) -> npt.NDArray[np.float32]:
    """Average each frame with those before it, to suppress alarms of single frames.

    Parameters
    ----------
    maps : array-like of shape (n_frames of all clips, ...)
        Evidence or scores in temporal order.
    n_frames : int
        Number of frames to average, including the current one; 1 changes nothing.
    groups : array-like of shape (n_frames of all clips,), default=None
        Clip of each frame; the frames of a clip are consecutive. None: one clip.

    Returns
    -------
    means : ndarray of the same shape, float32
        At the beginning of a clip fewer frames are averaged. Results do not depend on later
        frames or on other clips, so a live stream gives the same.

    Examples
    --------
    >>> from skavid.temporal import causal_mean
    >>> causal_mean([0.0, 4.0, 2.0, 9.0], 2, groups=["a", "a", "a", "b"])
    array([0., 2., 3., 9.], dtype=float32)
    """
    if not isinstance(n_frames, Integral) or n_frames < 1:
        raise ValueError(f"n_frames must be a whole number above 0. Got {n_frames!r}.")
    values = np.asarray(maps, dtype=np.float32)
    starts = first_frames(groups, values)
    total = values.copy()
    count = np.ones(len(values), dtype=np.float32)
    for lag in range(1, min(int(n_frames), len(values))):
        same = starts[lag:] == starts[:-lag]
        total[lag:][same] += values[:-lag][same]
        count[lag:] += same
    return np.asarray(total / count.reshape(-1, *[1] * (values.ndim - 1)))


def _to_grey(images: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Convert (n, H, W, C) to luma, (n, H, W), by ITU-R BT.601, in the dtype of the stacks."""
    if dtype == np.uint8 and images.shape[3] == 3:
        red, green, blue = np.moveaxis(images.astype(np.uint32), -1, 0)
        return np.asarray((299 * red + 587 * green + 114 * blue + 500) // 1000, dtype)
    with np.errstate(over="ignore"):
        images = images.astype(dtype, copy=False)
    if not np.isfinite(images).all():
        raise ValueError("X holds values too large for float32; rescale it first.")
    if images.shape[3] == 1:
        return np.asarray(images[..., 0])
    red, green, blue = np.moveaxis(images, -1, 0)
    return np.asarray(red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2])


def _mean(frames: npt.NDArray[Any], before: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Compute I', the mean of two frames; uint8 is rounded half up."""
    if frames.dtype == np.uint8:
        return np.asarray((frames.astype(np.uint16) + before + 1) // 2, np.uint8)
    # Halved before the addition, which cannot overflow then.
    return np.asarray(np.float32(0.5) * frames + np.float32(0.5) * before)


def first_frames(groups: npt.ArrayLike | None, frames: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the index of the first frame of the clip of each frame."""
    if groups is None:
        return clip_starts(np.shape(frames)[0], None)
    check_consistent_length(frames, groups)
    ids = column_or_1d(check_array(groups, input_name="groups", ensure_2d=False, dtype=None))
    return clip_starts(len(ids), ids)


def _warn_of_cuts(change: npt.NDArray[np.float64]) -> None:
    """Warn if a clip seems to begin within frames without groups."""
    usual = np.median(change)
    known = len(change) >= 10 and usual > 0
    cuts = np.flatnonzero(change > CUT * usual)
    if known and len(cuts):
        shown = ", ".join(str(index) for index in cuts[:5]) + (", ..." if len(cuts) > 5 else "")
        warnings.warn(
            f"X changes at frame {shown} more than {CUT} times as much as usual, as at the "
            "beginning of a clip; if there are several clips, pass groups= (inside a Pipeline by "
            "metadata routing), so that no stack mixes clips. Zeros declare a single clip.",
            UserWarning,
            stacklevel=4,
        )


def _check_out(
    out: npt.NDArray[Any],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    images: npt.NDArray[Any],
) -> npt.NDArray[Any]:
    """Check an array for the stacks."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an ndarray. Got {type(out).__name__}.")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(
            f"out must have shape {shape} and dtype {dtype}. Got {out.shape} and {out.dtype}."
        )
    if not out.flags.writeable:
        raise ValueError("out is read-only; open it for writing, such as with mode='r+'.")
    if np.may_share_memory(out, images):
        raise ValueError("out must not share memory with X; pass a separate array.")
    return out
