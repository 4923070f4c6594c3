"""Networks I and D: shapes, borders, receptive fields, and Fig. 2 as printed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skavid.core.networks import Detector, Inpainter, in_tiles
from skavid.core.regions import PAPER_GEOMETRY, aligned, grid_shape, region_slices

SIDES = st.integers(1, 40)


def awake(network):
    """Set all weights of a network at random, so that none is zero by design."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for weight in network.parameters():
            weight.copy_(0.3 * torch.randn_like(weight))
    return network.eval()


@given(height=SIDES, width=SIDES, n_channels=st.integers(1, 5), depth=st.integers(1, 4))
def test_inpainter_restores_images_of_any_size_and_channel_count(height, width, n_channels, depth):
    network = Inpainter(n_channels, width=2, depth=depth).eval()
    images = torch.rand(2, n_channels, height, width)
    assert network(images).shape == images.shape


def test_untrained_inpainter_changes_nothing():
    images = torch.rand(2, 3, 9, 14)
    assert torch.equal(Inpainter(3, width=4).eval()(images), images)


@given(height=SIDES, width=SIDES, level=st.floats(-1, 2))
def test_networks_see_no_border_in_a_constant_image(height, width, level):
    images = torch.full((1, 2, height, width), level)
    restored = awake(Inpainter(2, width=4, depth=3))(images)
    logits = awake(Detector(2, geometry=aligned(4), width=4))(images)
    torch.testing.assert_close(restored, restored[..., :1, :1].expand_as(restored))
    torch.testing.assert_close(logits, logits[..., :1, :1].expand_as(logits))


def test_inpainter_knows_what_is_hidden():
    network = awake(Inpainter(1, width=4))
    images = torch.rand(1, 1, 16, 16)
    assert not torch.equal(network(images), network(images, torch.ones_like(images)))


@given(height=SIDES, width=SIDES, power=st.integers(0, 4))
def test_aligned_detector_scores_every_region_of_any_image(height, width, power):
    geometry = aligned(2**power)
    logits = Detector(1, geometry=geometry, width=2).eval()(torch.rand(2, 1, height, width))
    assert logits.shape == (2, *grid_shape(geometry, height, width))


@pytest.mark.parametrize(("size", "regions"), [(51, 1), (227, 12), (224, 12), (52, 2)])
def test_paper_detector_leaves_no_pixel_unseen(size, regions):
    network = Detector(1, geometry=PAPER_GEOMETRY, width=6).eval()
    assert network(torch.rand(1, 1, size, size)).shape == (1, regions, regions)


def test_paper_detector_has_the_size_of_the_authors_network():
    network = Detector(1, geometry=PAPER_GEOMETRY, width=96)
    assert sum(weight.numel() for weight in network.parameters()) == 2_454_176


def test_paper_detector_sees_exactly_the_pixels_of_each_region():
    network = awake(Detector(1, geometry=PAPER_GEOMETRY, width=6)).double()
    with torch.no_grad():
        for weight in network.parameters():
            weight.abs_()  # no ReLU is asleep, nothing cancels
    images = torch.rand(1, 1, 83, 99, dtype=torch.float64, requires_grad=True)
    logits = network(images)
    for i in range(logits.shape[1]):
        for j in range(logits.shape[2]):
            (gradient,) = torch.autograd.grad(logits[0, i, j], images, retain_graph=True)
            expected = torch.zeros(83, 99, dtype=torch.bool)
            expected[region_slices(PAPER_GEOMETRY, i, j, 83, 99)] = True
            assert torch.equal(gradient[0, 0] != 0, expected)


@pytest.mark.parametrize("power", [0, 1, 2, 3])
def test_aligned_detector_sees_its_region_and_as_much_around_on_each_side(power):
    geometry = aligned(2**power)
    network = awake(Detector(1, geometry=geometry, width=3)).double()
    side = 40 * geometry.size
    images = torch.rand(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    logits = network(images)
    middle = logits.shape[1] // 2
    (gradient,) = torch.autograd.grad(logits[0, middle, middle], images)
    rows = torch.nonzero(gradient[0, 0].abs().sum(1))[:, 0]
    region = region_slices(geometry, middle, middle, side, side)[0]
    before, after = region.start - rows.min().item(), rows.max().item() - (region.stop - 1)
    assert before > 0
    # The coarser scale is aligned to pairs of regions, so the two sides differ by that much.
    assert abs(before - after) <= 2 * geometry.size


def test_bright_pixel_moves_its_own_region_most():
    network = awake(Detector(1, geometry=aligned(4), width=8))
    clean = torch.zeros(1, 1, 64, 64)
    for y, x in ((0, 0), (63, 63), (30, 17), (63, 2)):
        bright = clean.clone()
        bright[0, 0, y, x] = 5
        change = (network(bright) - network(clean)).abs()[0]
        reach = torch.nonzero(change > 0)
        assert change[y // 4, x // 4] > 0
        assert (reach - torch.tensor([y // 4, x // 4])).abs().max() < 12


@given(height=SIDES, width=SIDES, n_channels=st.integers(1, 3), patch=st.sampled_from([2, 3, 4]))
def test_an_inpainter_of_patches_restores_images_of_any_size(height, width, n_channels, patch):
    network = Inpainter(n_channels, width=2, depth=2, patch=patch).eval()
    images = torch.rand(2, n_channels, height, width)
    assert torch.equal(network(images), images)
    assert awake(network)(images).shape == images.shape


@given(seed=st.integers(0, 9), patch=st.sampled_from([1, 4]))
def test_a_bounded_inpainter_guesses_shares_from_the_mean_of_what_it_sees(seed, patch):
    generator = torch.Generator().manual_seed(seed)
    images = 3 * torch.rand(2, 2, 13, 9, generator=generator) - 1
    hidden = (torch.rand(images.shape, generator=generator) < 0.5).float()
    network = awake(Inpainter(2, width=3, depth=1, patch=patch, bounded=True))
    restored = network(images, hidden)
    guesses = restored[hidden > 0]
    assert guesses.min() >= 0
    assert guesses.max() <= 1
    fresh = Inpainter(2, width=3, depth=1, patch=patch, bounded=True).eval()
    level = (images * (1 - hidden)).sum((1, 2, 3)) / (1 - hidden).sum((1, 2, 3))
    guessed = fresh(images, hidden)
    for one, where, mean in zip(guessed, hidden > 0, level, strict=True):
        expected = torch.sigmoid(8 * (mean - 0.5))
        torch.testing.assert_close(one[where], expected.expand_as(one[where]))
    assert torch.equal(guessed[hidden == 0], images[hidden == 0])


def test_an_image_of_which_nothing_is_seen_is_guessed_from_0():
    images = torch.full((1, 1, 8, 8), 0.9)
    restored = Inpainter(1, width=2, depth=1, bounded=True).eval()(images, torch.ones_like(images))
    torch.testing.assert_close(restored, torch.full_like(images, 0.017986))


NETWORKS = {
    "pixels": awake(Inpainter(1, width=2, depth=2)),
    "patches": awake(Inpainter(1, width=2, depth=1, patch=4)),
    "regions of 1": awake(Detector(1, geometry=aligned(1), width=2)),
    "regions of 8": awake(Detector(1, geometry=aligned(8), width=2)),
    "Fig. 2": awake(Detector(1, geometry=PAPER_GEOMETRY, width=3)),
}


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=15)
@given(height=st.integers(1, 400), width=st.integers(1, 400), n_pixels=st.integers(1, 30_000))
def test_in_tiles_a_network_says_what_it_says_of_the_whole(name, height, width, n_pixels):
    images = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(height))
    with torch.inference_mode():
        whole = NETWORKS[name](images)
        tiled = in_tiles(NETWORKS[name], images, max(n_pixels, height * width // 40))
    torch.testing.assert_close(tiled, whole, rtol=1e-5, atol=1e-5 * float(whole.abs().max()))
