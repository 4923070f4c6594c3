"""What is done at once: both networks on half of the threads each, and a batch ahead."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, partial
from typing import Any, TypeVar

import torch
from threadpoolctl import ThreadpoolController
from torch import get_num_threads, set_num_threads

__all__ = ["ahead", "side_by_side"]

First = TypeVar("First")
Second = TypeVar("Second")
_END: Any = object()


def side_by_side(
    first: Callable[[], First], second: Callable[[], Second], *, device: str
) -> tuple[First, Second]:
    """Call two functions at once, each on half of torch's threads.

    Two networks on one core each are faster than one after the other on both: what is not a
    convolution runs on one core anyway. With one thread, or on a GPU, they run one by one.

    Parameters
    ----------
    first, second : callable
        Without arguments. ``first`` runs in the calling thread.
    device : str
        Where they compute.

    Returns
    -------
    results : tuple
        Of both. An error in either is raised once both have ended.

    Examples
    --------
    >>> from skavid.core.threads import side_by_side
    >>> side_by_side(lambda: 1, lambda: 2, device="cpu")
    (1, 2)
    """
    n_threads = torch.get_num_threads()
    if device != "cpu" or n_threads < 2:
        return first(), second()
    later = _beside(os.getpid()).submit(_limited, second, n_threads // 2)
    try:
        one = _limited(first, n_threads - n_threads // 2)
    finally:
        wait([later])
    return one, later.result()


def ahead(items: Iterator[First]) -> Iterator[First]:
    """Make the next item in another thread while the last one is in use.

    Parameters
    ----------
    items : iterator
        What makes them. With one torch thread they are made when they are asked for.

    Yields
    ------
    item : object
        The same ones, in the same order.

    Examples
    --------
    >>> from skavid.core.threads import ahead
    >>> list(ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    if torch.get_num_threads() < 2:
        yield from items
        return
    make = partial(_limited, partial(next, items, _END), 1)
    later = _beside(os.getpid()).submit(make)
    try:
        while (item := later.result()) is not _END:
            later = _beside(os.getpid()).submit(make)
            yield item
    finally:
        wait([later])


def _limited(task: Callable[[], First], n_threads: int) -> First:
    # Of the calling thread alone, and only meanwhile.
    with _openmp().limit(limits=n_threads):
        return task()


@cache
def _beside(process: int) -> ThreadPoolExecutor:
    """Keep threads ready: new ones would be slow to get memory. A forked process needs its own."""
    # This sets the number to itself. Without it, idle OpenMP threads spin and slow the others.
    set_num_threads(get_num_threads())
    # The first call of torch in a thread sets its number of threads to that of the process. Were
    # that inside of the first task, its sums would be split, and rounded, in another way than
    # those of later tasks.
    return ThreadPoolExecutor(thread_name_prefix="skavid", initializer=get_num_threads)


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="openmp")
