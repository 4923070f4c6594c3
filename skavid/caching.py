"""Caching by `joblib.Memory`: two processes that want the same training share it.

Callbacks may change a training. Those of skorch are part of its cache entry; a training with
others is not cached, since what they do cannot be known from their names. This module knows
nothing of the rest of skavid.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from inspect import signature
from typing import Any

import joblib
from filelock import FileLock
from sklearn.base import clone
from sklearn.utils.validation import check_memory

__all__: list[str] = []  # a part of AVIDDetector: nothing here is promised to users

# Parameters of trainings that do not decide over their result, or follow from the others, such as
# features from their identity.
UNIMPORTANT = {"verbose", "scene", "checkpoint", "known", "features"}


@contextmanager
def cached(
    training: Callable[..., Any], memory: Any, arguments: Any, callbacks: list[Any] | None = None
) -> Iterator[Any]:
    """Cache a training; two processes that want the same one share it."""
    memory = check_memory(memory)
    if memory.location is None or not _are_known(callbacks):
        yield training
        return
    # As they were built: after a training they hold what they saw.
    unused = None if callbacks is None else [_unused(one) for one in callbacks]
    os.makedirs(memory.location, exist_ok=True)
    lock = os.path.join(memory.location, f"skavid-{joblib.hash((arguments, unused))}.lock")
    try:
        with FileLock(lock):
            unimportant = UNIMPORTANT & set(signature(training).parameters)
            look_up = memory.cache(training, ignore=sorted(unimportant))
            yield lambda *args, **kwargs: look_up(*args, **{**kwargs, "callbacks": unused})
    finally:
        # Whoever waits holds the file open, and then finds the result of this training.
        with suppress(OSError):
            os.unlink(lock)


def _unused(given: Any) -> Any:
    """Return a copy of a callback as it was built; it may have a name, or be a class."""
    if isinstance(given, tuple):
        return given[0], _unused(given[1])
    return given if isinstance(given, type) else clone(given)


def _are_known(callbacks: list[Any] | None) -> bool:
    """Return whether all callbacks are of skorch, and hold nothing that cannot be hashed."""
    for given in callbacks or []:
        one = given[1] if isinstance(given, tuple) else given
        kind = one if isinstance(one, type) else type(one)
        if not kind.__module__.startswith("skorch."):
            return False
    try:
        joblib.hash(callbacks)
    except Exception:  # a lambda, a lock, an open file...
        return False
    return True
