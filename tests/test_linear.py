"""The closed form of I: it restores what Eq. 2 hides, exactly, in any order, image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skavid.linear import LinearInpainter, WholeImage, learn_statistics

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


@given(st.integers(2, 12), st.integers(0, 3))
def test_leaving_an_image_out_is_the_fit_without_it(n, row):
    features = normal_features(n + 2, k=3, n1=1, n2=2, seed=n)
    other = normal_features(n + 2, k=3, n1=1, n2=2, seed=n + 100)
    row = min(row, n)
    inpainter = learn_statistics([features], gamma=GAMMA)
    rest = learn_statistics([torch.cat([features[:row], features[row + 1 :]])], gamma=GAMMA)
    ridge = GAMMA**2 * (n + 2) / (n + 1)
    scale = inpainter.scale
    for images, found in (
        (features, inpainter.left_out(features)),
        (other, inpainter.left_out(features, other)),
    ):
        for place in range(2):
            covariance = (rest.covariance[place] / scale / scale[:, None]).double()
            apart = ((images[row].flatten(1)[:, place] - rest.mean[place]) / scale).double()
            expected = ridge * torch.linalg.solve(covariance + ridge * torch.eye(3), apart)
            assert_allclose(found[row].flatten(1)[:, place], expected, atol=1e-4)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_statistics_in_parts_and_in_any_order_are_those_at_once(sizes):
    features = normal_features(sum(sizes) + 1)
    at_once = learn_statistics([features], gamma=GAMMA)
    parts = [learn_statistics([part], gamma=GAMMA) for part in torch.split(features, [*sizes, 1])]
    for order in (parts, parts[::-1]):
        merged = order[0]
        for part in order[1:]:
            merged = merged.merge(part)
        assert int(merged.n_images) == len(features)
        assert_allclose(merged.covariance, at_once.covariance, atol=1e-5)
        assert_allclose(merged.residual(features), at_once.residual(features), atol=1e-4)


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


def test_the_expected_level_is_that_of_new_normal_images():
    places = torch.linspace(0.3, 2, 12)[:, None].expand(12, 4)
    features, new = (normal_features(n=300, n1=12, seed=seed) * places for seed in (1, 2))
    inpainter = learn_statistics([features], gamma=GAMMA)
    found = inpainter.residual(new).abs().mean((0, 1))
    assert_allclose(found / found.mean(), inpainter.level, rtol=0.2)
    assert_allclose(inpainter.level.mean(), 1, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_images_and_features_that_never_change_give_finite_numbers(n):
    features = torch.ones(n, 4, 2, 2)
    inpainter = learn_statistics([features], gamma=GAMMA)
    assert torch.isfinite(inpainter.residual(features + 1)).all()
    assert torch.isfinite(inpainter.left_out(features)).all()


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        learn_statistics([], gamma=GAMMA)


def test_a_whole_image_counts_where_its_statistics_are_beyond_those_of_all_training_images():
    features = normal_features(n=60, n1=8, n2=8)
    whole = WholeImage(5)
    whole.inpainter = learn_statistics([whole.statistics(features)], gamma=GAMMA)
    left_out = whole.inpainter.left_out(whole.statistics(features)).abs().mean((1, 2, 3)).log()
    places = torch.linspace(-1, 1, 60)
    whole.align(left_out, places, places)
    assert float(whole.residual(left_out).max().log()) == pytest.approx(1.0)
    assert whole.residual(whole.change(features[:1] * 0.2)) > whole.residual(left_out).max()
    assert whole.logits(whole.change(features[:1] * 0.2)) < -1


def test_an_inpainter_that_is_built_anew_from_its_statistics_is_equal_to_the_last_bit():
    features = normal_features()
    inpainter = learn_statistics([features], gamma=GAMMA)
    again = LinearInpainter(5, 3, 4, gamma=GAMMA)
    again.load_state_dict(inpainter.state_dict())
    assert torch.equal(again.solve().residual(features), inpainter.residual(features))
