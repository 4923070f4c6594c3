"""Beyond one machine: blocks of images are fitted and scored by Dask or any other engine.

The engine starts the processes and moves the data.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch

from skavid import fitting, temporal
from skavid.estimator import AVIDDetector
from skavid.temporal import TemporalStacker

__all__ = ["causal_mean", "fit", "fit_blocks", "maps", "score_samples", "segment", "stack"]

_MERGED = 8  # summaries of blocks that are merged in one task

# --- training, by sums of blocks -----------------------------------------------------------------


def fit(detector: AVIDDetector, X: Any) -> AVIDDetector:
    """Fit a detector on the images of a dask array, block by block.

    The array is read two to four times: to check it, to choose the images that are remembered
    (where there are more than can be), to add up what I follows from, and to judge each image as
    if the others alone had been learnt from. What travels is as large as the model, however many
    images there are. Read more in the :ref:`User Guide <user_guide_scale>`.

    Parameters
    ----------
    detector : AVIDDetector
        Over a feature map, for images without clips, with ``contamination="auto"``.
    X : dask.array.Array of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
        Normal images, in blocks along the first axis; at least 2. Memory is bounded by a block
        and the model.

    Returns
    -------
    detector : AVIDDetector
        The same, fitted. A fit that fails leaves it as it was.

    Raises
    ------
    ImportError
        If dask is missing.
    TypeError
        If ``detector`` is no AVIDDetector, or X no dask array.
    ValueError
        If X or a parameter is not as described.

    See Also
    --------
    fit_blocks : The same on any other engine.

    Notes
    -----
    `memory` and `warm_start` have no effect. Statistics, thresholds and scores are those of
    ``detector.fit`` of all images at once, to the rounding of sums in another order.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from skavid import AVIDDetector, distributed
    >>> X = np.random.default_rng(0).normal(size=(40, 16, 16))
    >>> detector = AVIDDetector(max_epochs=1, random_state=0)
    >>> detector = distributed.fit(detector, da.from_array(X, chunks=(16, 16, 16)))
    >>> at_once = AVIDDetector(max_epochs=1, random_state=0).fit(X)
    >>> np.allclose(detector.score_samples(X), at_once.score_samples(X), rtol=1e-4)
    True
    """
    dask = _import_dask("fit")
    _check_detector(detector)
    X = _check_array(X)

    def run(summarise: Any, merge: Any, blocks: list[tuple[int, Any]]) -> Any:
        sent, both = dask.delayed(summarise, traverse=False), dask.delayed(_merge_all)
        parts = [sent(start, block) for start, block in blocks]
        while len(parts) > 1:
            parts = [both(merge, parts[i : i + _MERGED]) for i in range(0, len(parts), _MERGED)]
        return parts[0].compute()

    return _fit_blocks(detector, _blocks(X), _lengths(X), run)


def fit_blocks(
    detector: AVIDDetector,
    blocks: Sequence[Any],
    *,
    lengths: Sequence[int] | None = None,
    run: Callable[..., Any] | None = None,
) -> AVIDDetector:
    """Fit a detector on blocks of images, by an engine that maps and merges.

    Parameters
    ----------
    detector : AVIDDetector
        As in `fit`.
    blocks : sequence
        Normal images in blocks: arrays as `AVIDDetector.fit` takes them, or what ``run`` turns
        into such arrays, such as names of files or references of an engine.
    lengths : sequence of int, default=None
        Images of each block. None takes ``len`` of each.
    run : callable, default=None
        ``run(summarise, merge, blocks)`` with a list of (start, block): it returns
        ``summarise(start, array)`` of all blocks, merged by ``merge(one, other)`` in any order.
        Both can be pickled. It is called two to four times, and up to
        seven times where two feature maps are joined. None does it here, one block after
        the other.

    Returns
    -------
    detector : AVIDDetector
        The same, fitted. A fit that fails leaves it as it was.

    Raises
    ------
    TypeError
        If ``detector`` is no AVIDDetector.
    ValueError
        If blocks or a parameter are not as described.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from functools import reduce
    >>> import numpy as np
    >>> from skavid import AVIDDetector
    >>> from skavid.distributed import fit_blocks
    >>> def run(summarise, merge, blocks):
    ...     with ThreadPoolExecutor(2) as pool:
    ...         return reduce(merge, pool.map(summarise, *zip(*blocks)))
    >>> X = np.random.default_rng(0).normal(size=(40, 16, 16))
    >>> detector = AVIDDetector(max_epochs=1, random_state=0)
    >>> fit_blocks(detector, np.split(X, 4), run=run).score_samples(X[:2]).shape
    (2,)
    """
    _check_detector(detector)
    return _fit_blocks(detector, blocks, lengths, run)


def _fit_blocks(detector: AVIDDetector, blocks: Any, lengths: Any, run: Any) -> AVIDDetector:
    """Fit a detector; warnings count the frames from here to the user."""
    lengths = [len(block) for block in blocks] if lengths is None else list(lengths)
    if len(lengths) != len(blocks) or not sum(lengths):
        raise ValueError(
            f"lengths must hold the number of images of each block. Got {len(lengths)} numbers, "
            f"{sum(lengths)} images, and {len(blocks)} blocks."
        )
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    listed = [part for part, n in zip(zip(starts, blocks, strict=True), lengths, strict=True) if n]
    chosen = _run_here if run is None else run
    fitting.fit_blocks(
        detector, lambda summarise, merge: chosen(summarise, merge, listed), sum(lengths)
    )
    return detector


def _run_here(summarise: Any, merge: Any, blocks: list[tuple[int, Any]]) -> Any:
    return functools.reduce(merge, (summarise(start, block) for start, block in blocks))


def _merge_all(merge: Any, parts: list[Any]) -> Any:
    return functools.reduce(merge, parts)


def _check_detector(detector: Any) -> None:
    if not isinstance(detector, AVIDDetector):
        raise TypeError(
            f"detector must be an AVIDDetector. Got {type(detector).__name__}; take it out of a "
            "Pipeline, and transform X block by block before."
        )


# --- scoring, block by block ---------------------------------------------------------------------


def score_samples(detector: AVIDDetector, X: Any) -> Any:
    """Score the images of a dask array, block by block: the higher, the more normal.

    Parameters
    ----------
    detector : AVIDDetector
        Fitted. It is sent to each worker once, without what only a training needs.
    X : dask.array.Array of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
        Images, in blocks along the first axis. Blocks that cut images are put together first.
        Memory is bounded by a block and its maps.

    Returns
    -------
    scores : dask.array.Array of shape (n_images,), float64
        Lazy, and equal to ``detector.score_samples`` of all images at once.
        ``da.where(scores < detector.offset_, -1, 1)`` is what ``predict`` says.

    Raises
    ------
    ImportError
        If dask is missing.
    TypeError
        If ``detector`` is no AVIDDetector, or X no dask array.
    ValueError
        If X is not what the detector takes, or has blocks of unknown length.

    See Also
    --------
    stack : Makes such images of video frames.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from skavid import AVIDDetector
    >>> from skavid.distributed import score_samples
    >>> X = np.random.default_rng(0).normal(size=(40, 16, 16))
    >>> detector = AVIDDetector(max_epochs=1, random_state=0).fit(X)
    >>> scores = score_samples(detector, da.from_array(X, chunks=(16, 16, 16)))
    >>> np.array_equal(scores.compute(), detector.score_samples(X))
    True
    """
    X, _, sent = _prepare("score_samples", detector, X)
    return _join(X, [(sent.score_samples(block), ()) for block in _blocks(X)], np.float64)


def segment(detector: AVIDDetector, X: Any) -> Any:
    """Find the irregular pixels in the images of a dask array, block by block, Eq. 4.

    Parameters
    ----------
    detector : AVIDDetector
        Fitted.
    X : dask.array.Array of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
        Images, as for `score_samples`.

    Returns
    -------
    masks : dask.array.Array of shape (n_images, H, W), bool
        Lazy, and equal to ``detector.segment`` of all images at once.

    Raises
    ------
    ImportError
        If dask is missing.
    TypeError
        If ``detector`` is no AVIDDetector, or X no dask array.
    ValueError
        If X is not what the detector takes, or has blocks of unknown length.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from skavid import AVIDDetector
    >>> from skavid.distributed import segment
    >>> X = np.random.default_rng(0).normal(size=(40, 16, 16))
    >>> detector = AVIDDetector(max_epochs=1, random_state=0).fit(X)
    >>> segment(detector, da.from_array(X, chunks=(16, 16, 16))).numblocks
    (3, 1, 1)
    """
    X, shape, sent = _prepare("segment", detector, X)
    return _join(X, [(sent.segment(block), shape[:2]) for block in _blocks(X)], np.bool_)


def maps(detector: AVIDDetector, X: Any) -> Bunch:
    """Return the maps behind masks and scores of the images of a dask array, block by block.

    Parameters
    ----------
    detector : AVIDDetector
        Fitted.
    X : dask.array.Array of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
        Images, as for `score_samples`.

    Returns
    -------
    maps : Bunch
        ``inpainted``, ``residual``, ``regularity`` and ``evidence``, lazy dask arrays of
        float32, and ``whole``, of bool, equal to those of ``detector.maps`` of all images at
        once. Compute those that you need in one call,
        ``dask.compute(maps.evidence, maps.residual)``: a block is then looked at once.

    Raises
    ------
    ImportError
        If dask is missing.
    TypeError
        If ``detector`` is no AVIDDetector, or X no dask array.
    ValueError
        If X is not what the detector takes, or has blocks of unknown length.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from skavid import AVIDDetector
    >>> from skavid.distributed import maps
    >>> X = np.random.default_rng(0).normal(size=(40, 16, 16))
    >>> detector = AVIDDetector(max_epochs=1, random_state=0).fit(X)
    >>> maps(detector, da.from_array(X, chunks=(16, 16, 16))).evidence
    dask.array<concatenate, shape=(40, 16, 16), dtype=float32, chunksize=(16, 16, 16), ...>
    """
    X, shape, sent = _prepare("maps", detector, X)
    looks = [sent.maps(block) for block in _blocks(X)]
    flat = shape[2] == 1 and X.ndim != 4
    shapes = {
        "inpainted": shape[:2] if flat else shape,
        "residual": shape[:2],
        "regularity": shape[:2],
        "evidence": shape[:2],
    }
    joined = {
        name: _join(X, [(getattr(look, name), shape) for look in looks], np.float32)
        for name, shape in shapes.items()
    }
    return Bunch(**joined, whole=_join(X, [(look.reasons > 0, ()) for look in looks], bool))


def stack(stacker: TemporalStacker, X: Any, *, groups: ArrayLike | None = None) -> Any:
    """Stack each frame of a dask array with its past, block by block, Sec. 3.5.

    Parameters
    ----------
    stacker : TemporalStacker
        Fitted, on a few frames, say: nothing is learnt but their shape.
    X : dask.array.Array of shape (n_frames, H, W), (n_frames, H, W, 3) or (n_frames, H * W * C)
        Frames in the order of time, in blocks along the first axis. A block is handed the last
        frames before it that its first stacks reach back to, from its own clip alone.
    groups : array-like of shape (n_frames,), default=None
        Clip of each frame; the frames of a clip follow each other, in as many blocks as they
        like. None: one clip.

    Returns
    -------
    stacks : dask.array.Array of shape (n_frames, H, W, n_channels) or (n_frames, n_features)
        Lazy, in the blocks of X, and equal to ``stacker.transform`` of all frames at once.

    Raises
    ------
    ImportError
        If dask is missing.
    TypeError
        If ``stacker`` is no TemporalStacker, or X no dask array.
    ValueError
        If X is not what the stacker takes, has blocks of unknown length, or a clip is torn
        apart.

    See Also
    --------
    score_samples : Scores them.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from skavid import TemporalStacker
    >>> from skavid.distributed import stack
    >>> frames = 10.0 * np.arange(8).reshape(8, 1, 1)
    >>> stacker = TemporalStacker().fit(frames)
    >>> stacks = stack(stacker, da.from_array(frames, chunks=(3, 1, 1)))
    >>> stacks[[0, 5, 7], 0, 0].compute()
    array([[ 0.,  0.,  0.],
           [ 5., 25., 45.],
           [25., 45., 65.]], dtype=float32)
    """
    dask = _import_dask("stack")
    if not isinstance(stacker, TemporalStacker):
        raise TypeError(f"stacker must be a TemporalStacker. Got {type(stacker).__name__}.")
    X = _check_array(X)
    like = stacker.transform(_one(X), groups=None if groups is None else [0])
    starts = temporal.first_frames(groups, np.empty(len(X)))
    sent = dask.delayed(stacker, traverse=False)
    parts = [
        (dask.delayed(_stack)(sent, *part), like.shape[1:])
        for part in _with_past(X, starts, stacker.reach)
    ]
    return _join(X, parts, like.dtype)


def causal_mean(maps: Any, n_frames: int, *, groups: ArrayLike | None = None) -> Any:
    """Average each frame of a dask array with those before it, block by block.

    Parameters
    ----------
    maps : dask.array.Array of shape (n_frames of all clips, ...)
        Evidence or scores in their order of time, in blocks along the first axis.
    n_frames : int
        How many frames are averaged, this one included.
    groups : array-like of shape (n_frames of all clips,), default=None
        Clip ids; the frames of a clip are consecutive. None: all are one clip.

    Returns
    -------
    means : dask.array.Array of the same shape, float32
        Lazy, and equal to `skavid.temporal.causal_mean` of all frames at once.

    Raises
    ------
    ImportError
        If dask is missing.
    TypeError
        If ``maps`` is no dask array.
    ValueError
        If n_frames is not a whole number above 0, or groups tear a clip apart.

    Examples
    --------
    >>> import dask.array as da
    >>> from skavid.distributed import causal_mean
    >>> scores = da.from_array([0.0, 4.0, 2.0, 9.0], chunks=2)
    >>> causal_mean(scores, 2, groups=["a", "a", "a", "b"]).compute()
    array([0., 2., 3., 9.], dtype=float32)
    """
    dask = _import_dask("causal_mean")
    maps = _check_array(maps, name="maps")
    temporal.causal_mean([0.0], n_frames)  # refuses what is no number of frames
    starts = temporal.first_frames(groups, np.empty(len(maps)))
    parts = [
        (dask.delayed(_causal_mean)(n_frames, *part), maps.shape[1:])
        for part in _with_past(maps, starts, int(n_frames) - 1)
    ]
    return _join(maps, parts, np.float32)


def _import_dask(function: str) -> Any:
    try:
        import dask
        import dask.array
    except ImportError as error:
        raise ImportError(f"{function} needs dask; pip install 'skavid[dask]'.") from error
    return dask


def _check_array(X: Any, name: str = "X") -> Any:
    """Check that X is a dask array of known length, and let no block cut an image."""
    import dask.array

    if not isinstance(X, dask.array.Array):
        raise TypeError(
            f"{name} must be a dask array. Got {type(X).__name__}; wrap it in "
            "dask.array.from_array."
        )
    if np.isnan(X.shape).any():
        raise ValueError(
            f"{name} has blocks of unknown length; call {name}.compute_chunk_sizes() first."
        )
    if not len(X):
        raise ValueError(f"{name} is empty, but must hold at least one row.")
    return X.rechunk(dict.fromkeys(range(1, X.ndim), -1))


def _prepare(function: str, detector: Any, X: Any) -> tuple[Any, tuple[int, ...], Any]:
    """Return X, the shape (H, W, C) of its images, and what is sent to the workers."""
    dask = _import_dask(function)
    _check_detector(detector)
    X = _check_array(X)
    shape = detector.as_images(_one(X)).shape[1:]
    copied = _for_workers(detector)
    if hasattr(copied, "members_"):
        copied.members_ = tuple(_for_workers(member) for member in copied.members_)
    return X, shape, dask.delayed(copied, traverse=False)


def _for_workers(detector: Any) -> Any:
    """Copy a detector without what training alone needs, half of the bytes."""
    copied = copy.copy(detector)
    copied.__dict__.pop("net_", None)
    copied.callbacks = None
    return copied


def _one(X: Any) -> NDArray[Any]:
    """Make an image like those of X, to have it refused now and not in a worker."""
    return np.zeros((1, *X.shape[1:]), X.dtype)


def _blocks(X: Any) -> list[Any]:
    return [
        block
        for block, length in zip(X.to_delayed().ravel(), X.chunks[0], strict=True)
        if length > 0
    ]


def _lengths(X: Any) -> list[int]:
    return [length for length in X.chunks[0] if length > 0]


def _with_past(
    X: Any, starts: NDArray[np.intp], reach: int
) -> Iterator[tuple[list[Any], NDArray[np.intp], int]]:
    """Yield for each block its frames and some before it, their clips, and how many those are."""
    blocks = _blocks(X)
    ends = np.cumsum(_lengths(X))
    begins = np.concatenate([[0], ends[:-1]])
    for index, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        first = max(int(starts[begin]), begin - reach)
        oldest = int(np.searchsorted(ends, first, side="right"))
        frames = [
            # Sliced where it lies, so that only these frames travel.
            blocks[number][max(first - begins[number], 0) :] if number < index else blocks[number]
            for number in range(oldest, index + 1)
        ]
        yield frames, starts[first:end], int(begin - first)


def _stack(
    stacker: TemporalStacker, frames: list[NDArray[Any]], clips: NDArray[np.intp], n_past: int
) -> NDArray[Any]:
    return stacker.transform(np.concatenate(frames), groups=clips)[n_past:]


def _causal_mean(
    n_frames: int, maps: list[NDArray[Any]], clips: NDArray[np.intp], n_past: int
) -> NDArray[np.float32]:
    return temporal.causal_mean(np.concatenate(maps), n_frames, groups=clips)[n_past:]


def _join(X: Any, parts: list[tuple[Any, tuple[int, ...]]], dtype: Any) -> Any:
    import dask.array

    return dask.array.concatenate(
        [
            dask.array.from_delayed(part, (length, *shape), dtype)
            for (part, shape), length in zip(parts, _lengths(X), strict=True)
        ]
    )
