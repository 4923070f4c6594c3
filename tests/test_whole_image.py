"""An image as a whole: its own statistics, and how far it is from every normal image."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from skavid import AVIDDetector
from skavid.core.linear import learn_statistics
from skavid.core.whole_image import WholeImage, composite_distances, log_distance
from skavid.exceptions import InputMismatchWarning
from tests.test_linear import normal_features

GAMMA = 0.4


def images_of_two_kinds(n, seed, spread=0.05):
    """Draw features whose places all follow the kind of the image."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 2
    noise = spread * rng.normal(size=(n, 3, 4, 4))
    return torch.from_numpy(kind[:, None, None, None] + noise).float()


def left_out(features):
    keys = torch.arange(len(features))
    inpainter = learn_statistics([features], gamma=GAMMA, keys=keys)
    return inpainter, inpainter.left_out(features, keys).apart


def test_a_whole_image_counts_where_its_statistics_are_beyond_those_of_all_training_images():
    features = normal_features(n=60, n1=8, n2=8)
    whole = WholeImage(5)
    whole.inpainter = learn_statistics([whole.statistics(features)], gamma=whole.inpainter.gamma)
    left_out = whole.inpainter.left_out(whole.statistics(features), torch.arange(60))
    left_out = left_out.size[:, 0, 0].log()
    places = torch.linspace(-1, 1, 60)
    whole.align(left_out, places, places)
    assert (whole.residual(left_out) == 0).all()
    assert whole.residual(whole.change(features[:1] * 0.2)) > math.e
    assert whole.logits(whole.change(features[:1] * 0.2)) < -1


@pytest.mark.parametrize("n", [2, 10, 99, 400])
def test_a_clip_of_the_same_kind_is_rarely_irregular_as_a_whole_however_few_were_seen(n):
    # Frames of n + 1 clips whose changes have exponential tails.
    change = torch.from_numpy(np.random.default_rng(n).exponential(size=(n + 1, 50, 500))).float()
    exceeds = []
    for frames in change.unbind(2):
        whole = WholeImage(5)
        seen = frames[:-1].flatten()
        whole.align(seen, seen, seen, torch.arange(n).repeat_interleave(50))
        exceeds.append(bool(frames[-1].max() > whole.farthest))
    assert 0 < np.mean(exceeds) < 0.03


def test_no_image_is_its_own_nearest():
    features = images_of_two_kinds(12, 0)
    inpainter, apart = left_out(features)
    scored = log_distance(inpainter.changes(features).apart)
    assert_allclose(scored, log_distance(apart), atol=0.15)


def test_without_another_image_there_is_no_distance():
    assert log_distance(torch.rand(3, 4, 0)).tolist() == [math.inf] * 3


@pytest.mark.parametrize("halved", ["above and below", "left and right"])
def test_a_composite_is_as_far_as_the_image_that_is_put_together(halved):
    features = images_of_two_kinds(16, 1)
    inpainter = learn_statistics([features], gamma=GAMMA, keys=torch.arange(16))
    new = images_of_two_kinds(2, 2)
    found = composite_distances(inpainter.changes(new).apart)[1].reshape(2, 2)
    together = new.clone()
    if halved == "above and below":
        together[:, :, 2:] = new.flip(0)[:, :, 2:]
    else:
        together[..., 2:] = new.flip(0)[..., 2:]
    expected = log_distance(inpainter.changes(together).apart)
    assert_allclose(found[int(halved != "above and below")], expected, rtol=1e-4)


def test_a_grid_of_one_row_has_only_left_and_right_halves():
    features = torch.randn(6, 3, 1, 4, generator=torch.Generator().manual_seed(0))
    assert len(composite_distances(left_out(features)[1])[1]) == 6 * 5
    assert len(composite_distances(left_out(features[..., :1])[1])[1]) == 0


def test_no_composite_is_made_within_a_block_of_time():
    apart = left_out(images_of_two_kinds(6, 0))[1]
    blocks = torch.tensor([0, 0, 0, 1, 1, 1])
    assert len(composite_distances(apart, blocks)[1]) == 2 * 2 * 9
    assert len(composite_distances(apart, torch.zeros(6))[1]) == 0


def weights_of(features, region_auc=(0.9, 0.99)):
    whole, apart = WholeImage(3), left_out(features)[1]
    peaks = torch.linspace(0, 1, len(features))
    composite = composite_distances(apart)
    whole.note_nearness(
        log_distance(apart), composite, peaks, 2 * peaks, region_auc, len(features)
    )
    return whole.nearness.tolist()[2:]


def test_the_distance_counts_only_where_normal_images_have_something_in_common_as_a_whole():
    in_common = weights_of(images_of_two_kinds(40, 0))
    independent = torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert min(in_common) > 3 * max(weights_of(independent))


@pytest.mark.parametrize("n", [3, 4])
def test_a_handful_of_images_gives_the_distance_hardly_any_weight(n):
    nothing = max(weights_of(torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(n))))
    assert max(nothing, *weights_of(images_of_two_kinds(n, 0))) < 0.2


def test_an_image_and_a_composite_of_it_lack_the_same_images():
    features = images_of_two_kinds(8, 3)
    inpainter, apart = left_out(features)
    normal, composite = composite_distances(apart[:2])
    rest = copy.deepcopy(inpainter)
    rest.memory, rest.keys = inpainter.memory[:, 2:], inpainter.keys[2:]
    expected = log_distance(rest.solve().left_out(features[:2], torch.arange(2)).apart)
    assert_allclose(normal[:2], expected, rtol=1e-4)
    assert composite.isfinite().all()


def test_numbers_far_beyond_those_of_the_training_give_finite_scores():
    images = np.random.default_rng(0).uniform(size=(30, 32, 32))
    detector = AVIDDetector(max_epochs=1, value_range=(0, 1), random_state=0).fit(images)
    detector.whole_.nearness[2:] = 1.0
    with pytest.warns(InputMismatchWarning):
        far = detector.score_samples(images[:2] * [[[1e4]], [[1e8]]])
    assert np.isfinite(far).all()
    assert far.max() < detector.score_samples(images).min()


def test_the_distance_never_weighs_more_than_a_network():
    peaks = torch.linspace(0, 1, 50)
    whole = WholeImage(3)
    whole.note_nearness(peaks, (peaks, peaks + 5), peaks, 2 * peaks, (0.6, 0.9), 50)
    assert_allclose(whole.nearness[2:], [peaks.std(), 2 * peaks.std()], rtol=1e-5)


def test_the_distance_weighs_as_detectability_indices_say():
    distance = torch.from_numpy(norm.ppf(np.linspace(0.001, 0.999, 500)))
    whole, peaks = WholeImage(3), torch.linspace(0, 1, 500)
    whole.note_nearness(distance, (distance, distance + 1), peaks, peaks, (0.8, 0.98), 500)
    auc = norm.cdf(1 / math.sqrt(2))  # of two normal spreads that far apart
    drawn = np.random.default_rng(0).normal(size=(2, 2000, 500)) + [[[0]], [[1]]]
    error = np.std(
        [roc_auc_score([0] * 500 + [1] * 500, np.r_[a, b]) for a, b in zip(*drawn, strict=True)]
    )
    of_distance = norm.ppf(auc - 2 * error)
    expected = float(peaks.std()) * of_distance / norm.ppf([0.8, 0.98])
    assert_allclose(whole.nearness[2:], expected, rtol=0.02)


@pytest.mark.parametrize("by", ["its distance", "its statistics"])
def test_an_image_no_farther_than_usual_keeps_its_maps_and_the_peak_of_another_rises(by):
    whole = WholeImage(3)
    whole.nearness = torch.tensor([-1.0, 0.5, 0.2, 0.4])
    maps = torch.rand(4, 2, 3), torch.randn(4, 2, 3)
    distance, change = torch.tensor([-3.0, -0.5, 0.5, math.inf]), torch.zeros(4)
    if by == "its statistics":
        whole.nearness, whole.oddity = whole.oddity, whole.nearness
        distance, change = change, distance
    residual, logits = whole.lift(*maps, distance, change)
    for mine, before in zip((residual, logits), maps, strict=True):
        assert torch.equal(mine[[0, 1, 3]], before[[0, 1, 3]])
        assert torch.equal(mine[2].flatten().argsort(), before[2].flatten().argsort())
    # Two spreads beyond the one that is usual.
    assert_allclose(residual[2].max(), maps[0][2].max() * math.exp(0.4), rtol=1e-6)
    assert_allclose(logits[2].min(), maps[1][2].min() - 0.8, rtol=1e-6)
    assert (residual[2] >= maps[0][2]).all()
    assert (logits[2] <= maps[1][2]).all()


def test_both_ways_to_be_odd_as_a_whole_add_up():
    whole = WholeImage(3)
    whole.nearness = torch.tensor([0.0, 1.0, 0.1, 0.2])
    whole.oddity = torch.tensor([5.0, 2.0, 0.3, 0.5])
    residual, logits = whole.lift(
        torch.ones(1, 1, 1), torch.zeros(1, 1, 1), torch.tensor([3.0]), torch.tensor([8.0])
    )
    assert_allclose(residual.log(), 2 * 0.1 + 0.5 * 0.3, rtol=1e-5)
    assert_allclose(logits, -2 * 0.2 - 0.5 * 0.5, rtol=1e-5)


def test_statistics_weigh_as_the_detectability_of_synthetic_anomalies_says():
    change = torch.from_numpy(norm.ppf(np.linspace(0.001, 0.999, 400)))
    peaks, found = torch.linspace(0, 1, 400), {}
    for step in (0.0, 0.5, 1.0, 9.0):
        whole = WholeImage(3)
        whole.note_oddity(change, change + step, peaks, 2 * peaks, (0.8, 0.98), 400)
        found[step] = whole.oddity[2:] / torch.stack([peaks.std(), 2 * peaks.std()])
    assert found[0.0].tolist() == [0, 0]
    assert (found[0.5] > 0).all()
    assert (found[1.0] > found[0.5]).all()
    assert_allclose(found[9.0], 1, rtol=1e-5)  # never more than a network
    # In proportion to what each network is worth.
    assert_allclose(found[0.5][0] / found[0.5][1], norm.ppf(0.98) / norm.ppf(0.8), rtol=1e-4)


def test_images_of_less_contrast_are_odder_by_their_statistics():
    rng = np.random.default_rng(0)
    normal = 120 + rng.normal(scale=10, size=(80, 32, 32)) + rng.normal(scale=4, size=(80, 1, 1))
    detector = AVIDDetector(max_epochs=4, value_range=(0, 255), random_state=0).fit(normal)
    duller = 120 + 0.97 * (normal - 120)
    maps = detector.maps(duller, inpainted=False)
    assert (detector.whole_.oddity[2:] > 0).all()
    detector.whole_.oddity[2:] = 0
    without = detector.score_samples(duller)
    within = ~maps.whole  # beyond the limit, an image is irregular anyway
    assert np.mean((without > maps.scores)[within]) > 0.2


def test_an_image_put_together_from_two_kinds_of_normal_ones_is_more_irregular():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    kinds = np.stack([120 + 60 * np.sin(x / 2), 120 + 60 * np.sin(y / 2)])

    def images(kind):
        return kinds[kind] + rng.normal(scale=4, size=(len(kind), 32, 32))

    normal = images(np.arange(120) % 2)
    put_together = images(np.arange(10) % 2)
    put_together[:, :, 16:] = images(np.arange(1, 11) % 2)[:, :, 16:]
    detector = AVIDDetector(max_epochs=4, value_range=(0, 255), random_state=0).fit(normal)
    scores = detector.score_samples(put_together)
    assert scores.max() < detector.score_samples(images(np.arange(20) % 2)).min()
    detector.whole_.nearness[2:] = 0
    assert (detector.score_samples(put_together) > scores).all()
