"""The state of a training on disk, so that an interrupted fit can be continued.

Nothing in a file is executed: tensors and numbers are read by ``torch.load(weights_only=True)``.
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

__all__: list[str] = []  # internal to AVIDDetector.fit

# Incremented when the meaning of a file changes; other formats are refused.
MAGIC = b"skavid checkpoint 1\n"
REMEDY = "remove it, or give another file name."
MATTER = ("skavid", "torch", "numpy")  # releases that determine the weights exactly
CHUNK_BYTES = 2**24
PARTS = (
    "inpainter_", "detector_", "averaged_inpainter_", "averaged_detector_",
    "inpainter_optimizer_", "detector_optimizer_",
)  # fmt: skip
COUNTS = ("blind_", "warned_", "stale_")  # of the validation


def fingerprint(images: NDArray[Any], given: Mapping[str, Any]) -> dict[str, str]:
    """Return texts that identify a training: of X, of all that is given, and of the releases.

    Arrays and functions are hashed, other values are written out. X is read once, in parts.
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
    """Reads the file of a training before it, and writes the file after each epoch.

    ``fingerprint`` is the result of `fingerprint`; the file of another training is refused.
    """

    def __init__(self, path: str | os.PathLike[str], fingerprint: dict[str, str]) -> None:
        self.path = Path(path).expanduser()
        self.fingerprint = fingerprint
        self._state = self._read() if self.path.exists() else None
        self._is_there = self._state is not None

    def restore(self, net: AVIDNet, order: Generator) -> None:
        """Set a new training to the state of the file, if there is one.

        ``order`` generates the order and the crops of the training images.
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
        """Check before the first epoch that the file can be written."""
        check_target(self.path)
        remove_parts(self.path)
        with suppress(_WritableError), beside(self.path):
            raise _WritableError

    def on_epoch_end(self, net: AVIDNet, dataset_train: Any = None, **kwargs: Any) -> None:
        """Write the file."""
        self.write(net)

    def write(self, net: AVIDNet) -> None:
        """Write the file; an existing one is replaced once the new one is complete."""
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
                f"{self.path} was written by another training in the meantime; give each "
                "training its own checkpoint."
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
            raise self._refusal("it was truncated or changed")
        try:
            state = torch.load(io.BytesIO(data[start:]), map_location="cpu", weights_only=True)
            state["history"] = json.loads(state["history"])
            found = dict(state["fingerprint"])
        except Exception as error:  # torch does not document its exceptions
            raise self._refusal("it was changed") from error
        differences = [
            _difference(name, found.get(name), self.fingerprint.get(name))
            for name in {**self.fingerprint, **found}
            if found.get(name) != self.fingerprint.get(name)
        ]
        if differences:
            raise ValueError(
                f"{self.path} is the checkpoint of another training: {', '.join(differences[:3])}"
                f"{', ...' if len(differences) > 3 else ''}; {REMEDY}"
            )
        return dict(state)

    def _refusal(self, why: str) -> ValueError:
        return ValueError(f"{self.path} is not a checkpoint to continue from: {why}; {REMEDY}")


class _WritableError(Exception):
    """Ends a trial write without a file."""


def _difference(name: str, then: str | None, now: str | None) -> str:
    if then is None or now is None or "#" in (then[:1], now[:1]):
        return f"{name} is another"
    return f"{name} was {then}, now it is {now}"


def _plain(value: Any) -> Any:
    """Convert values of callbacks for JSON."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return value.tolist()
    raise ValueError(
        f"A callback wrote {value!r} to the history, which a checkpoint cannot hold; write "
        "numbers or text."
    )
