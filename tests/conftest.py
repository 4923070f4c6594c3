"""What the whole suite shares: real data, one thread, no figures, one hypothesis profile."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# torch's first call of a kind can take seconds; examples stay few, the suite must stay quick.
settings.register_profile(
    "skavid",
    deadline=None,
    max_examples=25,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("skavid")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Two workers on two cores: more threads would only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_figures():
    """A test starts without the figures that others, or doctests, left open."""
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data: $SKAVID_DATA, or data."""
    folder = Path(os.environ.get("SKAVID_DATA", "data"))
    if not folder.is_dir():
        pytest.skip(
            f"no real data in {folder}: set SKAVID_DATA to a folder that holds mnist/ (IDX "
            "files), ucsd_ped2/UCSDped2/ and mtd/"
        )
    return folder
