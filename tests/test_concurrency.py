"""One detector in many threads, in other processes, and in forked ones: the same numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from skavid import AVIDDetector
from skavid.components import nested

X = np.random.default_rng(1).random((16, 40, 48))


@pytest.fixture(scope="module")
def detector():
    sizes = {
        "features": "pixels",
        "inpainter__width": 4,
        "detector__width": 4,
        "inpainter__depth": 1,
    }
    return AVIDDetector(**nested(dict(max_epochs=1, random_state=0, **sizes))).fit(X)


def test_eight_threads_find_what_one_finds(detector):
    parts = [X[start:] for start in range(8)] * 3
    expected = [detector.score_samples(part) for part in parts]
    masks = detector.segment(X)
    with ThreadPoolExecutor(8) as pool:
        scores = [pool.submit(detector.score_samples, part) for part in parts]
        segments = [pool.submit(detector.segment, X) for _ in range(4)]
        for one, other in zip(scores, expected, strict=True):
            np.testing.assert_array_equal(one.result(timeout=120), other)
        for one in segments:
            np.testing.assert_array_equal(one.result(timeout=120), masks)


@pytest.mark.slow
def test_other_processes_find_what_this_one_finds(detector):
    parts = [X[:5], X[5:9], X[9:]]
    try:
        found = Parallel(n_jobs=2, backend="loky", timeout=300)(
            delayed(detector.score_samples)(part) for part in parts
        )
    finally:
        get_reusable_executor().shutdown(wait=True)
    np.testing.assert_array_equal(np.concatenate(found), detector.score_samples(X))


FORK = """
import faulthandler, multiprocessing, os, signal, sys
import joblib, numpy as np, torch

if __name__ == "__main__":
    faulthandler.dump_traceback_later(150, exit=True)
    torch.set_num_threads(2)
    detector, X = joblib.load(sys.argv[1])
    expected = detector.score_samples(X)  # OpenMP has its threads now
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        same = np.array_equal(detector.score_samples(X), expected)
        os._exit(0 if same and torch.get_num_threads() == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0, "the forked child hung or found other numbers"
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(detector.score_samples, [X[:7], X[7:]]).get(timeout=60)
    assert np.array_equal(np.concatenate(found), expected)
    assert torch.get_num_threads() == 2
    print("the same")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_does_not_wait_for_threads_that_it_has_not(detector, tmp_path):
    import joblib

    large = np.random.default_rng(2).random((12, 120, 160))  # enough for two threads
    joblib.dump((detector, large), tmp_path / "kept")
    (tmp_path / "forks.py").write_text(FORK)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", tmp_path / "forks.py", tmp_path / "kept"],
        capture_output=True, text=True, timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert ran.stdout == "the same\n", ran.stderr
