"""Fits with one seed are bitwise equal: in one process, in others, and beside other load."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FIRST_TASK = """
import torch
from skavid.core.threads import ahead, side_by_side

torch.set_num_threads(2)
numbers = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
add = lambda: numbers.sum().item()  # two threads would round it in another way
sums = [side_by_side(add, add, device="cpu")[1] for _ in range(3)]
sums += list(ahead(add() for _ in range(3)))
torch.set_num_threads(1)
print(*{*sums, add()})
"""

FITS = """
import hashlib
import sys
import warnings

import torch
from sklearn.datasets import load_digits
from skavid import VIDEO, AVIDDetector, TemporalStacker
from skavid.datasets import make_moving_shapes

warnings.simplefilter("ignore")
torch.set_num_threads(int(sys.argv[1]))
digits = load_digits().images[:32]
clips = make_moving_shapes(2, 10, size=(24, 32), random_state=0)
stacks = TemporalStacker().fit_transform(clips.frames, groups=clips.clips)
few = {"max_epochs": 1, "random_state": 0}


def fits():
    for features in ("patches", "pixels"):
        yield AVIDDetector(features=features, **few).fit(digits).score_samples(digits)
    detector = AVIDDetector(**VIDEO, **few).fit(stacks, groups=clips.clips)
    yield detector.score_samples(stacks)


for _ in range(2):
    print(hashlib.sha256(b"".join(scores.tobytes() for scores in fits())).hexdigest())
"""


def started(code, *arguments):
    # Threads that wait by spinning are slow where processes share cores.
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def said(process):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return out.split()


def test_the_first_task_of_a_thread_has_as_many_threads_as_the_others():
    assert len(said(started(FIRST_TASK))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("n_threads", ["1", "2"])
def test_fits_in_two_processes_side_by_side_are_bitwise_equal(n_threads):
    processes = [started(FITS, n_threads) for _ in range(2)]
    fits = [fit for process in processes for fit in said(process)]
    assert len(fits) == 4
    assert len(set(fits)) == 1
