"""Beyond one machine: Dask scores block by block, several processes train by Accelerate.

There is no engine here: Dask and Accelerate start the processes and move the data.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from numbers import Integral
from typing import Any, cast

import joblib
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch
from skorch.callbacks import Callback
from torch import Tensor, nn
from torch import distributed as dist

from skavid import temporal
from skavid.core.scene import evenly
from skavid.core.training import AVIDNet
from skavid.estimator import AVIDDetector
from skavid.temporal import TemporalStacker

__all__ = ["causal_mean", "fit_distributed", "maps", "score_samples", "segment", "stack"]

N_COMPARED = 16  # images by which processes notice that they were given different ones

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
        name: _join(X, [(look[name], shape) for look in looks], np.float32)
        for name, shape in shapes.items()
    }
    return Bunch(**joined, whole=_join(X, [(look["whole"], ()) for look in looks], bool))


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
    starts = temporal._clip_starts(groups, np.empty(len(X)))
    sent = dask.delayed(stacker, traverse=False)
    parts = [
        (dask.delayed(_stack)(sent, *part), like.shape[1:])
        for part in _with_past(X, starts, stacker._reach())
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
    starts = temporal._clip_starts(groups, np.empty(len(maps)))
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
    if not isinstance(detector, AVIDDetector):
        raise TypeError(
            f"detector must be an AVIDDetector. Got {type(detector).__name__}; take it out of a "
            "Pipeline, and transform X block by block before."
        )
    X = _check_array(X)
    shape = detector._check(_one(X)).shape[1:]
    twin = copy.copy(detector)
    twin.__dict__.pop("net_", None)  # half of the bytes, and no worker trains
    twin.callbacks = None
    return X, shape, dask.delayed(twin, traverse=False)


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


# --- training in several processes ---------------------------------------------------------------


def fit_distributed(
    detector: AVIDDetector, X: ArrayLike, *, groups: ArrayLike | None = None
) -> AVIDDetector:
    """Fit a detector in all processes that Accelerate started: on several GPUs or hosts.

    Every process calls this with the same detector and the same X: start a script by
    ``accelerate launch``, or a function by ``accelerate.notebook_launcher``. In a single process
    it is ``detector.fit``.

    Parameters
    ----------
    detector : AVIDDetector
        With a `batch_size` of all processes together, at least one image each, without `memory`
        and `checkpoint`, and with ``device="auto"`` (each process has a device of its own) or
        "cpu".
    X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
        Normal images, all of them in each process; a memory map serves.
    groups : array-like of shape (n_images,), default=None
        Clip ids, as in `AVIDDetector.fit`.

    Returns
    -------
    detector : AVIDDetector
        The same one, fitted; its networks, thresholds and history are the same in each process
        to the last bit. Save it in one: ``if accelerate.PartialState().is_main_process``.

    Raises
    ------
    ImportError
        If accelerate is missing.
    TypeError
        If ``detector`` is no AVIDDetector.
    ValueError
        If a parameter does not allow it, X is not the same in all processes, or is not what
        `AVIDDetector.fit` takes.
    RuntimeError
        If Accelerate was set up before in a way that lets each process train for itself.

    Warns
    -----
    UserWarning
        What `AVIDDetector.fit` warns of, in each process.

    See Also
    --------
    skavid.AVIDDetector.fit : What a single process does.

    Notes
    -----
    The training is that of one process, but for the order in which sums are added up. All
    processes make the same corrupted batches from the same random state. Each sends its share of
    a batch through the networks, and what they say of it is put together, so that each knows
    the losses of the whole batch. Gradients are added up; batch normalisation takes the
    statistics of the whole batch. Selection and calibration are done alike in all; at the end
    what the first one holds is handed to all.

    Neither skorch's AccelerateMixin nor distributed data parallelism can express this: they
    average the losses of shares, but a loss here is a mean over the corrupted pixels or decided
    regions of a whole batch, and grafts are cut from its other images.

    Making corrupted batches is not shared, so that it bounds what more processes gain.
    Everything is computed in single precision; a mixed precision that was told to Accelerate is
    ignored. `callbacks` are called in each process, and must do the same in each. Interrupting it
    (Ctrl-C) ends all processes and keeps nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid import AVIDDetector
    >>> from skavid.distributed import fit_distributed
    >>> X = np.random.default_rng(0).normal(size=(40, 16, 16))
    >>> detector = AVIDDetector(
    ...     features="pixels", max_epochs=1, device="cpu", random_state=0
    ... )
    >>> fit_distributed(detector, X).score_samples(X[:3]).shape
    (3,)
    """
    try:
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list, gather_object
    except ImportError as error:
        raise ImportError(
            "fit_distributed needs accelerate; pip install 'skavid[accelerate]'."
        ) from error
    if not isinstance(detector, AVIDDetector):
        raise TypeError(f"detector must be an AVIDDetector. Got {type(detector).__name__}.")
    if detector.features != "pixels":
        raise ValueError(
            "features must be 'pixels' in a distributed fit: on a feature map one process needs "
            f"seconds, and partial_fit takes more images. Got {detector.features!r}."
        )
    if detector.memory is not None:
        raise ValueError(
            "memory must be None in a distributed fit, since processes that share a cache wait "
            f"for each other's trainings. Got {detector.memory!r}."
        )
    if detector.checkpoint is not None:
        raise ValueError(
            "checkpoint must be None in a distributed fit, since all processes would write the "
            f"same file. Got {detector.checkpoint!r}."
        )
    if detector.device not in ("auto", "cpu"):
        raise ValueError(
            "device must be 'auto' or 'cpu' in a distributed fit, since each process has a device "
            f"of its own. Got {detector.device!r}."
        )
    # Without being told, Accelerate lets processes without a GPU train each for itself.
    state = PartialState(cpu=detector.device == "cpu" or not torch.cuda.is_available())
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started > state.num_processes:
        raise RuntimeError(
            f"{started} processes were started, but Accelerate was told before that there is "
            f"{state.num_processes}; call fit_distributed before it is asked for anything, or "
            "make its Accelerator or PartialState with cpu=True where there is no GPU."
        )
    if detector.batch_size < state.num_processes:
        raise ValueError(
            f"batch_size={detector.batch_size} is shared by {state.num_processes} processes; it "
            f"must be {state.num_processes} or more."
        )
    if len(set(gather_object([_fingerprint(X, groups)]))) > 1:
        raise ValueError(
            "X or groups is not the same in all processes; give all images to each: it takes its "
            "share by itself."
        )
    given = detector.random_state
    source = np.random.RandomState() if given is None else given
    drawn = given if isinstance(given, Integral) else source.randint(np.iinfo(np.int32).max)
    twin = copy.copy(detector)
    twin.set_params(
        callbacks=[*(detector.callbacks or []), ("share", _Share())],
        device=str(state.device),
        random_state=broadcast_object_list([drawn])[0],
        verbose=detector.verbose if state.is_main_process else 0,
    )
    if detector.warm_start and hasattr(detector, "net_"):
        twin.net_ = copy.deepcopy(detector.net_)  # it keeps its callbacks
        twin.net_.callbacks_.append(("share", _Share()))
    twin.fit(X, groups=groups)
    net = twin.__dict__.pop("net_")
    for name in ("callbacks", "callbacks_"):
        setattr(net, name, [one for one in getattr(net, name) if not _is_share(one)])
    # Neither net nor parameters: a user's callbacks need not be picklable.
    parameters = detector.get_params(deep=False)
    fitted = {name: value for name, value in vars(twin).items() if name not in parameters}
    detector.__dict__.update(broadcast_object_list([fitted])[0], net_=net)
    return detector


def _fingerprint(X: Any, groups: Any) -> str:
    """Tell images of different processes apart, by a few of them."""
    images = np.asarray(X)
    few = images[evenly(len(images), N_COMPARED)] if images.ndim else images
    clips = None if groups is None else np.asarray(groups)
    return str(joblib.hash((images.shape, few, clips)))


def _is_share(callback: Any) -> bool:
    return isinstance(callback, tuple) and isinstance(callback[1], _Share)


class _Share(Callback):  # type: ignore[misc]
    """While a net is trained: share each batch among the processes, and add up gradients."""

    def on_train_begin(self, net: AVIDNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        self.sums_: list[_Sum] = []
        self.hooks_: list[Any] = []
        self.layers_: list[Any] = []
        for name in ("inpainter", "detector"):
            # Both networks may be trained at once, so that each has its own sums.
            add_up = _Sum()
            self.sums_.append(add_up)
            network, average = getattr(net, f"{name}_"), getattr(net, f"averaged_{name}_")
            # The average, too: the referee then sees the same in all processes, and judges alike.
            for each in (network, average):
                batch = _Batch(add_up)
                self.hooks_ += [
                    each.register_forward_pre_hook(batch.take),
                    each.register_forward_hook(batch.put_together),
                ]
            optimizer = getattr(net, f"{name}_optimizer_")
            self.hooks_.append(optimizer.register_step_pre_hook(add_up.gradients))
            for layer in network.modules():
                if type(layer) is nn.BatchNorm2d:
                    layer.__class__ = _BatchNorm
                    cast(_BatchNorm, layer).add_up = add_up
                    self.layers_.append(layer)

    def on_train_end(self, net: AVIDNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        for hook in self.hooks_:
            hook.remove()
        for layer in self.layers_:
            layer.__class__ = nn.BatchNorm2d
            del layer.add_up
        for add_up in self.sums_:
            add_up.close()
        del self.hooks_, self.layers_, self.sums_
        if net.stopped_ is None and net.step_ - net.first_step_ < net.n_steps_:
            raise KeyboardInterrupt  # each process was interrupted elsewhere: nothing is worth it


class _Sum:
    """Adds up tensors over all processes, in a group of its own."""

    def __init__(self) -> None:
        self.group = dist.new_group() if dist.is_initialized() else None

    def __call__(self, value: Tensor) -> Tensor:
        total = value.clone()
        if self.group is not None:
            dist.all_reduce(total, group=self.group)
        return total

    def gradients(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Add up the gradients of an optimiser's parameters, before its step."""
        gradients = [
            parameter.grad
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        total = self(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(total, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def close(self) -> None:
        """Give the group back."""
        if self.group is not None:
            dist.destroy_process_group(self.group)


class _Batch:
    """Give a network the images of this process, and put together what all of them made."""

    def __init__(self, add_up: _Sum) -> None:
        self.add_up = add_up

    def take(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rank, n_processes = (
            (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        )
        self.n = len(inputs[0])
        self.begin, self.end = (self.n * at // n_processes for at in (rank, rank + 1))
        return tuple(each[self.begin : self.end] for each in inputs)

    def put_together(self, network: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        whole = output.new_zeros(self.n, *output.shape[1:])
        whole[self.begin : self.end] = output.detach()
        whole = self.add_up(whole)
        # Only this process's part leads back into the network.
        return torch.cat([whole[: self.begin], output, whole[self.end :]])


class _BatchNorm(nn.BatchNorm2d):
    """Batch normalisation by the statistics of a batch that processes share.

    torch's own (SyncBatchNorm) wants GPUs.
    """

    add_up: _Sum

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        n = features.new_tensor([features.numel() // features.shape[1]])
        total = self._total(torch.cat([features.sum((0, 2, 3)), n]))
        mean, n = total[:-1] / total[-1], total[-1].detach()
        centred = features - mean[:, None, None]
        variance = self._total(centred.square().sum((0, 2, 3))) / n
        with torch.no_grad():
            running, momentum = cast(dict[str, Tensor], self._buffers), cast(float, self.momentum)
            running["running_mean"].lerp_(mean, momentum)
            running["running_var"].lerp_(variance * n / (n - 1), momentum)
            running["num_batches_tracked"].add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale[:, None, None] + self.bias[:, None, None]

    def _total(self, value: Tensor) -> Tensor:
        return cast(Tensor, _Total.apply(value, self.add_up))  # type: ignore[no-untyped-call]


class _Total(torch.autograd.Function):
    """Add up over the processes; as each one's loss is the whole one, gradients add up, too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, add_up: _Sum) -> Tensor:
        ctx.add_up = add_up
        return add_up(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.add_up(gradient), None
