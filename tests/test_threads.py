"""Two things at once: the same results, errors that arrive, torch as it was."""

from __future__ import annotations

import itertools
import multiprocessing
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skavid.core.threads import ahead, side_by_side


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@given(items=st.lists(st.integers()))
def test_items_come_in_order_and_none_is_lost(items):
    assert list(ahead(iter(items))) == items


def test_one_item_is_made_ahead_and_no_more():
    made = []
    turns = ahead(made.append(i) or i for i in itertools.count())
    assert [next(turns), next(turns)] == [0, 1]
    turns.close()
    assert made in ([0, 1], [0, 1, 2])


def test_items_are_made_in_another_thread():
    here = threading.get_ident()
    assert here not in ahead(threading.get_ident() for _ in range(3))
    assert here == side_by_side(threading.get_ident, threading.get_ident, device="cpu")[0]


def test_an_error_comes_where_its_item_would_have_come():
    def broken():
        yield 1
        raise OSError("no more frames")

    turns = ahead(broken())
    assert next(turns) == 1
    with pytest.raises(OSError, match="no more frames"):
        next(turns)


def test_an_error_waits_until_both_have_ended():
    ended = threading.Event()
    both_are_there = threading.Barrier(2, timeout=30)

    def fail():
        both_are_there.wait()
        raise MemoryError("no more")

    def go_on():
        both_are_there.wait()
        ended.set()

    with pytest.raises(MemoryError, match="no more"):
        side_by_side(fail, go_on, device="cpu")
    assert ended.is_set()
    with pytest.raises(MemoryError, match="no more"):
        side_by_side(go_on, fail, device="cpu")


def _in_a_fork(results):
    results.put(side_by_side(lambda: 1, lambda: 2, device="cpu"))


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    side_by_side(lambda: 1, lambda: 2, device="cpu")  # threads that the child will not have
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_in_a_fork, args=(results,))
    child.start()
    assert results.get(timeout=60) == (1, 2)
    child.join()
