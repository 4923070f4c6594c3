"""Trainings that several processes want at once are done once, and leave no locks behind."""

from __future__ import annotations

import time

import joblib
import pytest

from skavid.caching import cached


def train(number, record, callbacks=None):
    with record.open("a") as file:
        file.write("trained\n")
    time.sleep(0.3)
    if number < 0:
        raise ValueError("no such training")
    return 2 * number


def want(number, record, folder):
    with cached(train, str(folder), (number,)) as training:
        return training(number, record)


def test_processes_that_want_one_training_share_it_and_leave_no_lock(tmp_path):
    record, folder = tmp_path / "record", tmp_path / "cache"
    wanted = [joblib.delayed(want)(number, record, folder) for number in (3, 3, 4, 3, 4, 3)]
    assert joblib.Parallel(n_jobs=3)(wanted) == [6, 6, 8, 6, 8, 6]
    assert record.read_text().count("trained") == 2
    assert not list(folder.rglob("*.lock"))


def test_a_training_that_fails_leaves_no_lock(tmp_path):
    with pytest.raises(ValueError, match="no such training"):
        want(-1, tmp_path / "record", tmp_path / "cache")
    assert not list(tmp_path.rglob("*.lock"))
