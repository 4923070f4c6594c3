"""The state of a training on disk, so that a fit that was killed goes on (Sec. 3.3).

Nothing in a file is run: tensors and numbers are read by ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback
from torch import Generator

from skavid.core.training import AVIDNet
from skavid.persistence import versions
from skavid.writing import beside, check_target, remove_parts, replace

__all__: list[str] = []  # a part of AVIDDetector.fit: nothing here is promised to users

# Rises when a file changes its meaning; files of another format are refused.
MAGIC = b"skavid checkpoint 1\n"
CURE = "remove it, or name another file."
MATTER = ("skavid", "torch", "numpy")  # releases that decide over the last bit of a weight
CHUNK_BYTES = 2**24
PARTS = (
    "inpainter_", "detector_", "averaged_inpainter_", "averaged_detector_",
    "inpainter_optimizer_", "detector_optimizer_",
)  # fmt: skip
COUNTS = ("blind_", "warned_", "stale_")  # of the validation


def fingerprint(images: NDArray[Any], given: Mapping[str, Any]) -> dict[str, str]:
    """Name all that decides over the end of a training, in words that people can compare.

    Parameters
    ----------
    images : ndarray of shape (n_images, height, width, n_channels)
        The training images. All of them are read once, a part at a time.
    given : dict
        What else matters, by its name: arrays and functions are hashed, all else is written out.

    Returns
    -------
    fingerprint : dict of str
        Of X, of all that was given, and of the releases at work.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.checkpoint import fingerprint
    >>> one, other = (fingerprint(np.full((2, 4, 4, 1), fill), {"seed": 0}) for fill in (0.0, 1.0))
    >>> [name for name in one if one[name] != other[name]]
    ['X']
    """
    digest = hashlib.sha256(f"{images.shape} {images.dtype}".encode())
    step = max(1, CHUNK_BYTES // max(1, images[0].nbytes))
    for start in range(0, len(images), step):
        digest.update(np.ascontiguousarray(images[start : start + step]).data)
    found = {"X": f"#{digest.hexdigest()}"}
    found |= {name: _written(value) for name, value in given.items()}
    return found | {name: version for name, version in versions().items() if name in MATTER}


def _written(value: Any) -> str:
    if isinstance(value, Real):  # 1 is 1.0
        number = float(value)
        return str(int(number) if number.is_integer() else number)
    if value is None or isinstance(value, str | tuple | list):
        return str(value)
    return f"#{joblib.hash(value)}"


class Checkpoint(Callback):  # type: ignore[misc]
    """The file of a training: read before it, written at the end of each epoch.

    Parameters
    ----------
    path : str or path
        The file.
    fingerprint : dict of str
        From `fingerprint`: what a file must say to be gone on with.

    Raises
    ------
    ValueError
        If there is a file that is no checkpoint, is damaged, or is that of another training.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> from skavid.checkpoint import Checkpoint
    >>> Checkpoint("no-such-file", {}).restore
    <bound method Checkpoint.restore of ...>
    """

    def __init__(self, path: str | os.PathLike[str], fingerprint: dict[str, str]) -> None:
        self.path = Path(path).expanduser()
        self.fingerprint = fingerprint
        self._state = self._read() if self.path.exists() else None
        self._is_there = self._state is not None

    def restore(self, net: AVIDNet, order: Generator) -> None:
        """Bring a new training to where the file's is; without a file, leave it at its beginning.

        Parameters
        ----------
        net : AVIDNet
            On its device; its validation batch is ready, and no epoch was trained.
        order : Generator
            Of the order and the crops of the training images.
        """
        self.order = order
        if self._state is None:
            return
        try:
            self._fill(net, self._state)
        except (
            AttributeError,
            IndexError,
            KeyError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise self._refusal("it was changed") from error
        self._state = None

    def _fill(self, net: AVIDNet, state: dict[str, Any]) -> None:
        for name in PARTS:
            getattr(net, name).load_state_dict(state[name])
        net.generator_.set_state(state["generator"])
        net.replay_generator_.set_state(state["replay_generator"])
        self.order.set_state(state["order"])
        net.replayed_ = [
            (made.to(net.device), regular.to(net.device), weight.to(net.device))
            for made, regular, weight in state["replayed"]
        ]
        net.best_, net.stopped_, net.step_ = state["best"], state["stopped"], state["step"]
        callbacks = dict(net.callbacks_)
        for name in COUNTS:
            setattr(callbacks["validation"], name, state["validation"][name])
        callbacks["train_loss"].best_score_ = min(row["train_loss"] for row in state["history"])
        net.history.extend(state["history"])

    def on_train_begin(self, net: AVIDNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Learn before the first epoch, not after it, that the file cannot be written."""
        check_target(self.path)
        remove_parts(self.path)
        with suppress(_Enough), beside(self.path):
            raise _Enough

    def on_epoch_end(self, net: AVIDNet, dataset_train: Any = None, **kwargs: Any) -> None:
        """Write the file anew."""
        self.write(net)

    def write(self, net: AVIDNet) -> None:
        """Write the file; an older one stays as it was until the new one is complete.

        Parameters
        ----------
        net : AVIDNet
            At the end of an epoch.
        """
        validation = dict(net.callbacks_)["validation"]
        state = {
            "fingerprint": self.fingerprint,
            **{name: getattr(net, name).state_dict() for name in PARTS},
            "generator": net.generator_.get_state(),
            "replay_generator": net.replay_generator_.get_state(),
            "order": self.order.get_state(),
            "replayed": net.replayed_,
            "best": net.best_,
            "stopped": net.stopped_,
            "step": net.step_,
            "validation": {name: getattr(validation, name) for name in COUNTS},
            "history": json.dumps(net.history, default=_plain),
        }
        if not self._is_there and self.path.exists():
            raise FileExistsError(
                f"{self.path} was written by another training meanwhile; give each one a "
                "checkpoint of its own."
            )
        file = io.BytesIO()
        torch.save(state, file)
        body = file.getvalue()
        try:
            replace(self.path, MAGIC + hashlib.sha256(body).digest() + body, sync=True)
        except OSError as error:
            if not self._is_there:
                raise
            raise type(error)(
                f"{str(error).rstrip('.')}; once it can be, the same fit goes on after epoch "
                f"{len(net.history) - 1}."
            ) from error
        self._is_there = True

    def _read(self) -> dict[str, Any]:
        check_target(self.path)
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise type(error)(f"{self.path} cannot be read: {error.strerror}.") from error
        start = len(MAGIC) + hashlib.sha256().digest_size
        if data[: len(MAGIC)] != MAGIC:
            raise self._refusal(f"skavid {versions()['skavid']} did not write it")
        if hashlib.sha256(data[start:]).digest() != data[len(MAGIC) : start]:
            raise self._refusal("it was cut off or changed")
        try:
            state = torch.load(io.BytesIO(data[start:]), map_location="cpu", weights_only=True)
            state["history"] = json.loads(state["history"])
            found = dict(state["fingerprint"])
        except Exception as error:  # torch does not say what it may raise
            raise self._refusal("it was changed") from error
        differences = [
            _difference(name, found.get(name), self.fingerprint.get(name))
            for name in {**self.fingerprint, **found}
            if found.get(name) != self.fingerprint.get(name)
        ]
        if differences:
            raise ValueError(
                f"{self.path} is the checkpoint of another training: {', '.join(differences[:3])}"
                f"{', ...' if len(differences) > 3 else ''}; {CURE}"
            )
        return dict(state)

    def _refusal(self, why: str) -> ValueError:
        return ValueError(f"{self.path} is no checkpoint to go on from: {why}; {CURE}")


class _Enough(Exception):
    """What ends a write that only shows that one is possible."""


def _difference(name: str, then: str | None, now: str | None) -> str:
    if then is None or now is None or "#" in (then[:1], now[:1]):
        return f"{name} is another"
    return f"{name} was {then}, now it is {now}"


def _plain(value: Any) -> Any:
    """Let JSON hold what callbacks note."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return value.tolist()
    raise ValueError(
        f"A callback noted {value!r} in the history, which a checkpoint cannot keep; note numbers "
        "or text."
    )
