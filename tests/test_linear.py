"""The closed form of I: it restores what Eq. 2 hides, exactly, in any order, image by image."""

from __future__ import annotations

import copy
import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skavid.core.linear import SAME, LinearInpainter, Sums, capacity, learn_statistics

GAMMA = 0.4


def normal_features(n=20, k=5, n1=3, n2=4, seed=0):
    features = torch.randn(n, k, n1, n2, generator=torch.Generator().manual_seed(seed))
    features[:, 2] = features[:, 0] + 0.5 * features[:, 1] + 3
    return features


def restored_by_ridge_regression(clean, noisy_scale, query):
    """Fit the best linear restorer at one place by brute force on many noisy copies."""
    rng = np.random.default_rng(0)
    copies = np.repeat(clean, 4000, axis=0)
    noisy = copies + noisy_scale * rng.normal(size=copies.shape)
    design = np.c_[noisy, np.ones(len(noisy))]
    weights, *_ = np.linalg.lstsq(design, copies, rcond=None)
    return np.r_[query, 1] @ weights


def test_it_is_the_best_linear_restorer_under_the_noise_of_equation_2():
    features = normal_features(n=12, k=3)
    inpainter = learn_statistics([features], gamma=GAMMA)
    scale = inpainter.scale.double().numpy()
    clean, query = (
        features[:, :, 1, 2].double().numpy() / scale,
        features[0, :, 1, 2].numpy() / scale,
    )
    expected = restored_by_ridge_regression(clean, GAMMA, query) * scale
    assert_allclose(inpainter(features[:1])[0, :, 1, 2], expected, atol=0.02)


def nearest_by_brute_force(images, place, rest, scale, ridge, candidates):
    """Return the shortest sqrt(ridge) L^-1 (x - m) over m, with L L^T = S + ridge 1."""
    found = []
    for at in candidates(place):
        covariance = (rest.covariance[at] / scale / scale[:, None]).double().numpy()
        factor = np.linalg.cholesky(covariance + ridge * np.eye(len(covariance)))
        apart = (
            images[:, place] - rest.origin.numpy() - rest.memory[at].double().numpy()
        ) / scale.double().numpy()
        found.extend(np.sqrt(ridge) * np.linalg.solve(factor, apart.T).T)
    return min(found, key=np.linalg.norm)


@given(
    st.integers(2, 12), st.integers(0, 3), st.booleans(), st.booleans(), st.sampled_from([3, 150])
)
def test_leaving_an_image_out_is_the_fit_without_it(n, row, remembers, is_corrupted, k):
    features = normal_features(n + 2, k=k, n1=1, n2=2, seed=n).half().float()
    other = normal_features(n + 2, k=k, n1=1, n2=2, seed=n + 100)
    row, keys = min(row, n), torch.arange(n + 2).flip(0)
    kept = torch.arange(n + 2) != row
    inpainter, rest = (
        learn_statistics([features[some]], gamma=GAMMA, keys=keys[some] if remembers else None)
        for some in (torch.ones(n + 2, dtype=torch.bool), kept)
    )
    ridge = GAMMA**2 * (n + 2) / (n + 1)
    scale = inpainter.scale
    if not remembers:
        rest.memory, rest.origin = rest.mean[:, None], torch.zeros(k)
    looked_at = other if is_corrupted else features
    found = inpainter.left_out(features, keys, other if is_corrupted else None)
    for place in range(2):
        expected = nearest_by_brute_force(
            looked_at[row].flatten(1).double().numpy(),
            place,
            rest,
            scale,
            ridge,
            lambda at: [0, 1] if remembers else [at],
        )
        # Remembered features are rounded to half precision about another origin. With far more
        # features than images I nearly restores each one, so that differences cancel.
        rtol = 1e-3 if k == 3 else 2e-2
        size = np.sqrt(np.square(expected).mean())
        assert_allclose(found.size[row].flatten()[place], size, rtol=rtol, atol=5e-4)
        white = found.white[row].flatten(1)[:, place]
        assert_allclose(white.square().mean().sqrt(), size, rtol=rtol, atol=5e-4)
        if is_corrupted:  # otherwise two images may be equally near
            assert_allclose(white, expected, atol=1e-3 + 2 * rtol * np.abs(expected).max())


@given(st.integers(0, 99))
def test_what_is_seen_at_a_place_is_compared_with_the_place_and_the_four_beside_it(seed):
    features, new = (
        normal_features(9, 3, 3, 4, seed=seed),
        normal_features(1, 3, 3, 4, seed=seed + 100),
    )
    inpainter = learn_statistics([features], gamma=GAMMA, keys=torch.arange(9))

    def candidates(place):
        row, column = divmod(place, 4)
        around = [(row, column), (row - 1, column), (row + 1, column), (row, column - 1)]
        around.append((row, column + 1))
        return [4 * y + x for y, x in around if 0 <= y < 3 and 0 <= x < 4]

    found = inpainter.changes(new).size[0].flatten()
    for place in range(12):
        expected = nearest_by_brute_force(
            new[0].flatten(1).double().numpy(), place, inpainter, inpainter.scale, GAMMA**2,
            candidates,
        )  # fmt: skip
        size = np.sqrt(np.square(expected).mean())
        if size > 1.1 * SAME:  # nearer, it would be taken for the image itself
            assert_allclose(found[place], size, rtol=2e-3, atol=1e-3)


@given(st.integers(0, 99))
def test_images_that_are_left_out_together_are_not_remembered(seed):
    features = normal_features(12, seed=seed)
    keys, blocks = torch.arange(12), torch.arange(12) // 3
    inpainter = learn_statistics([features], gamma=GAMMA, keys=keys)
    alike = blocks[:, None] == blocks[inpainter.keys]
    found = inpainter.left_out(features, keys, alike=alike)
    for row in range(12):
        rest = copy.deepcopy(inpainter)
        kept = ~alike[row] | (inpainter.keys == row)
        rest.memory, rest.keys = inpainter.memory[:, kept], inpainter.keys[kept]
        expected = rest.solve().left_out(features[row, None], keys[row, None])
        assert_allclose(found.size[row], expected.size[0], rtol=1e-5)


@given(st.integers(2, 9), st.booleans())
def test_how_far_each_remembered_image_is_as_a_whole_is_a_mean_over_all_places(n, is_left_out):
    features = normal_features(n + 2, k=3, n1=3, n2=2, seed=n).half().float()
    keys = torch.arange(n + 2)
    inpainter = learn_statistics([features], gamma=GAMMA, keys=keys)
    rest, ridge, looked_at = inpainter, GAMMA**2, normal_features(1, k=3, n1=3, n2=2, seed=99)
    found = inpainter.changes(looked_at).apart
    if is_left_out:
        rest, looked_at = learn_statistics([features[1:]], gamma=GAMMA, keys=keys[1:]), features
        ridge = GAMMA**2 * (n + 2) / (n + 1)
        found = inpainter.left_out(features, keys).apart
        assert (found[0, :, 0] == math.inf).all()
        found = found[:, :, 1:]
    expected = torch.zeros(4, len(rest.keys), dtype=torch.float64)
    for place in range(6):
        quarter = 2 * (place // 2 > 1) + place % 2  # the middle one of three rows is above
        for image in range(len(rest.keys)):
            change = nearest_by_brute_force(
                looked_at[0].flatten(1).double().numpy(), place,
                SimpleNamespace(
                    covariance=rest.covariance, origin=rest.origin,
                    memory=rest.memory[:, image : image + 1],
                ),
                inpainter.scale, ridge, lambda at: [at],
            )  # fmt: skip
            expected[quarter, image] += np.square(change).mean() / 6
    assert_allclose(found[0], expected, rtol=5e-3, atol=1e-3)


def test_what_is_near_one_of_several_kinds_of_normal_images_is_normal():
    features = 0.1 * normal_features(n=60, k=3)[:, :2]
    features[::2, 0] += 5
    features[1::2, 1] += 5
    linear = learn_statistics([features], gamma=GAMMA)
    inpainter = learn_statistics([features], gamma=GAMMA, keys=torch.arange(60))
    between = features[:1].clone()
    between[0, 0] -= 2.5
    between[0, 1] += 2.5
    largest = [one.left_out(features, torch.arange(60)).size.max() for one in (linear, inpainter)]
    assert linear.changes(between).size.max() < largest[0]
    assert inpainter.changes(between).size.min() > largest[1]


def test_a_normal_feature_may_stand_one_place_apart_from_where_it_was_seen():
    features = normal_features(n=30, k=4, n1=6, n2=6)
    inpainter = learn_statistics([features], gamma=GAMMA, keys=torch.arange(30))
    for shift in ((1, 0), (0, -1), (0, 1), (-1, 0)):
        moved = torch.roll(features[:3], shift, (2, 3))[:, :, 1:-1, 1:-1]
        padded = torch.nn.functional.pad(moved, [1] * 4)
        assert_allclose(inpainter.changes(padded).size[:, 1:-1, 1:-1], 0, atol=0.01)


def test_few_of_many_images_are_remembered_whatever_their_order(monkeypatch):
    monkeypatch.setattr("skavid.core.linear.REMEMBERED", 5 * 3 * 4 * 7)
    features, keys = normal_features(n=30), torch.randperm(30)
    inpainter = learn_statistics(features.split(11), gamma=GAMMA, keys=keys)
    again = learn_statistics([features.flip(0)], gamma=GAMMA, keys=keys.flip(0))
    assert inpainter.memory.shape == (12, 7, 5)
    assert torch.equal(inpainter.keys, torch.arange(7))
    for one in (inpainter, again):
        kept = one.memory.float() + one.origin
        expected = features[keys.argsort()[:7]].flatten(2).permute(2, 0, 1)
        assert_allclose(kept, expected, atol=0.01)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_statistics_in_parts_and_in_any_order_are_those_at_once(sizes):
    features = normal_features(sum(sizes) + 1)
    keys = torch.arange(len(features)).flip(0)
    at_once = learn_statistics([features], gamma=GAMMA, keys=keys)
    parts = [
        learn_statistics([features[some]], gamma=GAMMA, keys=keys[some])
        for some in torch.split(torch.arange(len(features)), [*sizes, 1])
    ]
    for order in (parts, parts[::-1]):
        merged = order[0]
        for part in order[1:]:
            merged = merged.merge(part)
        assert int(merged.n_images) == len(features)
        # Remembered features are rounded to half precision, twice where origins differ.
        assert_allclose(merged.covariance, at_once.covariance, atol=1e-2)
        assert torch.equal(merged.keys, at_once.keys)
        new = normal_features(seed=1)
        assert_allclose(merged.changes(new).size, at_once.changes(new).size, atol=5e-3)
        assert_allclose(merged.typical, at_once.typical, atol=5e-3)


@given(st.permutations(range(4)), st.integers(2, 40))
def test_statistics_of_images_that_are_all_remembered_are_theirs_in_any_order(order, n):
    features, keys = normal_features(n, seed=n), torch.randperm(n)
    batches = torch.arange(n).tensor_split(4)
    parts = [
        Sums(torch.ones(5), 3, 4, remembers_all=True).add(features[some], keys[some], keys.max())
        for some in batches
    ]
    sums = functools.reduce(Sums.merge, [parts[i] for i in order])
    inpainter = sums.inpainter(GAMMA)
    at_once = Sums(torch.ones(5), 3, 4).add(features, keys, keys.max()).inpainter(GAMMA)
    assert sums.squares.numel() == 0
    assert inpainter.remembers_all
    assert torch.equal(inpainter.covariance, at_once.covariance)
    rows = features[:, :, 1, 2].numpy()
    assert_allclose(inpainter.mean[6], rows.mean(0), atol=3e-3)
    assert_allclose(inpainter.covariance[6], np.cov(rows.T, bias=True), atol=1e-2)
    again = LinearInpainter(5, 3, 4, gamma=GAMMA, n_remembered=n)
    again.memory, again.origin = inpainter.memory, inpainter.origin
    assert torch.equal(again.recall().covariance, inpainter.covariance)
    assert torch.equal(again.mean, inpainter.mean)


def test_no_more_images_are_remembered_than_asked_for_and_statistics_are_of_all():
    features, keys = normal_features(n=30), torch.randperm(30)
    at_once = learn_statistics([features], gamma=GAMMA, keys=keys, most=7)
    halves = [slice(0, 12), slice(12, 30)]
    one, other = (
        learn_statistics([features[half]], gamma=GAMMA, keys=keys[half], most=7) for half in halves
    )
    sums = [
        Sums(features.mean((0, 2, 3)), 3, 4, most=7).add(features[half], keys[half], keys.max())
        for half in halves
    ]
    for found in (at_once, one.merge(other, 7), sums[0].merge(sums[1]).inpainter(GAMMA)):
        assert found.keys.tolist() == list(range(7))
        rows = features[:, :, 1, 2].numpy()
        assert_allclose(found.covariance[6], np.cov(rows.T, bias=True), atol=1e-5)
    assert len(one.merge(other).keys) == 14
    assert capacity(100, 1) == capacity(2**30) == 2


def test_nothing_is_changed_of_no_image():
    for keys in (None, torch.arange(9)):
        inpainter = learn_statistics([normal_features(9)], gamma=GAMMA, keys=keys)
        none = inpainter.changes(torch.zeros(0, 5, 3, 4))
        assert none.white.shape == (0, 5, 3, 4)
        assert none.size.shape == (0, 3, 4)


@pytest.mark.parametrize("n_parts", [1, 3])
def test_statistics_of_many_images_are_exact_although_few_are_remembered(monkeypatch, n_parts):
    monkeypatch.setattr("skavid.core.linear.REMEMBERED", 5 * 3 * 4 * 7)
    features, keys = normal_features(n=30), torch.arange(30)
    parts = [
        learn_statistics([features[some]], gamma=GAMMA, keys=keys[some])
        for some in keys.tensor_split(n_parts)
    ]
    inpainter = functools.reduce(LinearInpainter.merge, parts)
    assert not inpainter.remembers_all
    assert len(inpainter.keys) == 7
    rows = features[:, :, 1, 2].numpy()
    assert_allclose(inpainter.covariance[6], np.cov(rows.T, bias=True), atol=1e-5)


def test_pooled_statistics_are_those_of_all_places_as_samples():
    features = normal_features()
    pooled = learn_statistics([features], gamma=GAMMA).pooled()
    samples = features.permute(0, 2, 3, 1).reshape(-1, 5).numpy()
    assert_allclose(pooled.mean[0], samples.mean(0), atol=1e-5)
    assert_allclose(pooled.covariance[0], np.cov(samples.T, bias=True), atol=1e-5)
    assert pooled(features[:2, :, :2, :3]).shape == (2, 5, 2, 3)


def test_what_normal_features_have_in_common_is_restored_and_what_varies_is_left_alone():
    features = normal_features(n=200)
    inpainter = learn_statistics([features], gamma=0.1)
    broken, varied = features[:1].clone(), features[:1].clone()
    broken[0, 2, 1, 1] += 4
    varied[0, 3, 1, 1] += 4  # varies freely among normal images
    change = [inpainter.residual(one).abs()[0, :, 1, 1].sum() for one in (broken, varied)]
    assert change[0] > 10 * change[1]


@pytest.mark.parametrize("keys", [None, torch.arange(300)])
def test_what_is_typically_changed_is_that_of_new_normal_images(keys):
    places = torch.linspace(0.3, 2, 12)[:, None].expand(12, 4)
    features, new = (normal_features(n=300, n1=12, seed=seed) * places for seed in (1, 2))
    inpainter = learn_statistics([features], gamma=GAMMA, keys=keys)
    assert_allclose(inpainter.changes(new).size.mean(0), inpainter.typical, rtol=0.2)


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_images_and_features_that_never_change_give_finite_numbers(n):
    features = torch.ones(n, 4, 2, 2)
    keys = torch.arange(n)
    inpainter = learn_statistics([features], gamma=GAMMA, keys=keys)
    assert torch.isfinite(inpainter(features + 1)).all()
    assert all(torch.isfinite(one).all() for one in inpainter.changes(features + 1))
    assert all(torch.isfinite(one).all() for one in inpainter.left_out(features, keys)[:2])


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        learn_statistics([], gamma=GAMMA)


def test_an_inpainter_that_is_built_anew_from_its_statistics_is_equal_to_the_last_bit():
    features = normal_features()
    inpainter = learn_statistics([features], gamma=GAMMA, keys=torch.arange(20))
    again = LinearInpainter(5, 3, 4, gamma=GAMMA, n_remembered=20)
    again.load_state_dict(inpainter.state_dict())
    assert torch.equal(again.solve().residual(features), inpainter.residual(features))
