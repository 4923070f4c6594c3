"""False alarms of fits on small sets stay within what `calibration_` states."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import betabinom
from sklearn.datasets import load_digits

from skavid import AVIDDetector

N_TRAIN = 60
N_NEW = 100
TARGET = 0.1


def walls(seed):
    """Draw a grain of one size, with joints in every second set; the light varies."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(N_TRAIN + N_NEW, 16, 16))
    images = gaussian_filter(noise, (0, *rng.uniform(0.5, 3, 2)))
    images *= 20 / images.std()
    images += 100 + rng.normal(0, 5, (len(images), 1, 1))
    images[:, :: rng.integers(4, 9)] -= 40 * (seed % 2)
    return images


def small_sets():
    digits = load_digits()
    rng = np.random.default_rng(0)
    for digit in range(10):
        yield rng.permutation(digits.images[digits.target == digit])[: N_TRAIN + N_NEW]
    yield from map(walls, range(10))


@pytest.mark.slow
def test_false_alarms_on_twenty_small_sets_are_those_of_exchangeable_scores():
    rates, stated = [], []
    for images in small_sets():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            detector = AVIDDetector(max_epochs=1, target_fpr=TARGET, random_state=0)
            detector.fit(images[:N_TRAIN])
        rates.append(np.mean(detector.predict(images[N_TRAIN:]) == -1))
        stated.append(detector.calibration_["fpr_bound"])
    assert max(stated) <= TARGET
    assert np.mean(rates) < 1.25 * TARGET
    # If new and training images are exchangeable, the rate of one set has this distribution, and
    # 17 of 20 sets or more lie within its 95th percentile in 98 of 100 cases.
    n_above = round(stated[0] * (N_TRAIN + 1))
    most = betabinom(N_NEW, n_above, N_TRAIN + 1 - n_above).ppf(0.95) / N_NEW
    assert most < 2.1 * TARGET
    assert np.sum(np.array(rates) <= most) >= 17


@pytest.mark.slow
def test_false_alarms_where_features_outnumber_images_are_those_of_exchangeable_scores():
    torch.manual_seed(0)
    features = torch.nn.Sequential(
        torch.nn.Conv2d(1, 64, 5, 2, 2), torch.nn.ReLU(), torch.nn.Conv2d(64, 200, 3, 2, 1)
    )
    n_train, rates = 20, []
    for seed in range(4):
        images = walls(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            detector = AVIDDetector(
                features=features, max_epochs=10, target_fpr=TARGET, random_state=0
            ).fit(images[:n_train])
        rates.append(np.mean(detector.predict(images[n_train:]) == -1))
    n_above = round(detector.calibration_["fpr_bound"] * (n_train + 1))
    most = betabinom(N_NEW, n_above, n_train + 1 - n_above).ppf(0.99) / N_NEW
    assert np.mean(rates) < 1.5 * TARGET, rates
    assert max(rates) <= most, rates
