"""How long a fit takes is estimated by a trial."""

import itertools

import numpy as np
import pytest

from skavid.core.duration import expected_seconds
from skavid.core.features import make_features


def estimate(n, *, pooling="place", max_epochs=2, is_video=False):
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 1)).astype(np.uint8)
    return expected_seconds(
        images, n, features=make_features("patches", (32, 32, 1)), value_range=(0.0, 255.0),
        is_video=is_video, gamma=0.4, pooling=pooling, detector_width=4, batch_size=4,
        max_epochs=max_epochs, device="cpu",
    )  # fmt: skip


@pytest.fixture
def every_part_takes_a_second(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("skavid.core.duration.time.perf_counter", lambda: float(next(clock)))


@pytest.mark.usefixtures("every_part_takes_a_second")
def test_the_estimate_adds_up_all_batches_and_steps():
    # Features; what I changes; features of a corrupted version and changes of it and the image.
    preparation = 2 + 2 + 2 * (1 + 2)
    look = 1 / 16  # at a map by a member of D
    of_checks = (2 * 2 * 6 + 2 * 16) * look  # of one version
    steps = 2 * 10 * 0.5  # two steps were timed at once
    expected = preparation + steps + 2 * of_checks + 32 * look
    assert estimate(32) == pytest.approx(expected)
    # A second corrupted version of each image, with something that moves.
    expected += 2 * (1 + 1) + of_checks
    assert estimate(32, is_video=True) == pytest.approx(expected)


@pytest.mark.usefixtures("every_part_takes_a_second")
@pytest.mark.parametrize("pooling", ["place", "everywhere"])
def test_more_images_and_more_epochs_take_longer(pooling):
    few = estimate(40, pooling=pooling)
    assert estimate(4000, pooling=pooling) > 10 * few
    assert estimate(40, pooling=pooling, max_epochs=20) > few + 18 * 5


def test_a_trial_leaves_the_state_of_torch_alone():
    import torch

    before = torch.get_rng_state()
    assert estimate(20) > 0
    assert torch.equal(torch.get_rng_state(), before)
