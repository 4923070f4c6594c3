"""Caching by `joblib.Memory`: two processes that want the same training share it.

It knows nothing of the rest of skavid.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import joblib
from filelock import FileLock
from sklearn.utils.validation import check_memory

__all__: list[str] = []  # a part of AVIDDetector: nothing here is promised to users

# Parameters of trainings that do not decide over their result, or follow from the others.
UNIMPORTANT = {"callbacks", "verbose", "scene", "checkpoint", "known"}


@contextmanager
def cached(training: Callable[..., Any], memory: Any, arguments: Any) -> Iterator[Any]:
    """Cache a training; two processes that want the same one share it."""
    memory = check_memory(memory)
    if memory.location is None:
        yield training
        return
    os.makedirs(memory.location, exist_ok=True)
    lock = os.path.join(memory.location, f"skavid-{joblib.hash(arguments)}.lock")
    with FileLock(lock):
        unimportant = UNIMPORTANT & set(signature(training).parameters)
        yield memory.cache(training, ignore=sorted(unimportant))
