"""The three families of corruption: Eq. 2's noise, hiding, grafts with decoys."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skavid import corruption
from skavid.corruption import CORRUPTIONS, Neighbours, complementary, grafts, hiding, noise

EQ2 = {"gamma": 0.4, "sigma": 1.0}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def scene(n=8, n_channels=3, side=32):
    """A grey road with a bright square that moves two pixels a channel."""
    generator = seeded(7)
    plate = torch.full((n, n_channels, side, side), 0.5)
    images, fast = plate.clone(), plate.clone()
    places = torch.randint(8, side - 14, (n, 2), generator=generator).tolist()
    for stack, speed in ((images, 2), (fast, 5)):
        for i, (y, x) in enumerate(places):
            for c in range(n_channels):
                stack[i, c, y : y + 6, x + speed * c : x + speed * c + 6] = 1.0
    return images, Neighbours(fast.clamp(0, 1), plate)


@pytest.mark.parametrize("name", CORRUPTIONS)
@given(
    height=st.integers(1, 24), width=st.integers(1, 24), n=st.integers(1, 4), c=st.integers(1, 3)
)
def test_each_family_keeps_shapes_ranges_and_its_input(name, height, width, n, c):
    images = torch.rand(n, c, height, width, generator=seeded())
    before = images.clone()
    for beside in (None, Neighbours(images.flip(0), images.mean(0, True).expand_as(images))):
        made = CORRUPTIONS[name](images, **EQ2, generator=seeded(1), neighbours=beside)
        assert made.images.shape == made.hidden.shape == images.shape
        assert made.where.shape == made.weight.shape == (n, height, width)
        assert torch.isfinite(made.images).all()
        for share in (made.where, made.weight, made.hidden):
            assert share.min() >= 0
            assert share.max() <= 1
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("video", [False, True])
def test_one_seed_makes_one_corruption_and_leaves_global_randomness_alone(name, video):
    images, beside = scene()
    state = torch.get_rng_state()
    made = [
        CORRUPTIONS[name](images, **EQ2, generator=seeded(s), neighbours=beside if video else None)
        for s in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(made[0], made[1], strict=True))
    assert not torch.equal(made[0].images, made[2].images)


@pytest.mark.parametrize(("gamma", "sigma"), [(0.4, 1.0), (0.1, 0.5), (0.0, 1.0)])
def test_noise_has_the_spread_of_equation_2_on_every_pixel(gamma, sigma):
    images = torch.full((2, 3, 64, 64), 0.5)
    made = noise(images, gamma=gamma, sigma=sigma, generator=seeded())
    change = made.images - images
    assert change.std().item() == pytest.approx(gamma * sigma, rel=0.03)
    assert change.mean().item() == pytest.approx(0, abs=0.02)
    assert made.where.min() == 1
    assert made.hidden.max() == 0


def test_hiding_keeps_visible_pixels_and_says_nothing_of_hidden_ones():
    images = torch.rand(16, 1, 32, 32, generator=seeded())
    made = hiding(images, **EQ2, generator=seeded(1))
    visible = made.hidden == 0
    assert torch.equal(made.images[visible], images[visible])
    # What is filled in depends on the hidden pixels by their mean alone.
    other = torch.where(visible, images, images.flip(0))
    filled = made.images - images.mean((2, 3), True)
    again = hiding(other, **EQ2, generator=seeded(1)).images - other.mean((2, 3), True)
    torch.testing.assert_close(filled[~visible], again[~visible])
    assert 0.3 < made.hidden.mean() < 0.7


def test_hiding_knows_blocks_stripes_and_in_video_whole_channels():
    images = torch.rand(64, 3, 32, 32, generator=seeded())
    beside = Neighbours(images, images)
    hidden = hiding(images, **EQ2, generator=seeded(1), neighbours=beside).hidden
    rows = (hidden == hidden[..., :1]).flatten(1).all(1)
    columns = (hidden == hidden[:, :, :1]).flatten(1).all(1)
    channels = hidden.sum(1).flatten(1).max(1).values == 1
    assert rows.any()
    assert columns.any()
    assert channels.any()
    assert (~rows & ~columns & ~channels).any()
    still = hiding(images, **EQ2, generator=seeded(1)).hidden
    assert torch.equal(still[:, 0], still[:, 2]), "images lose all channels of a pixel at once"


@given(height=st.integers(1, 40), width=st.integers(1, 40), n_draws=st.integers(2, 9))
def test_complementary_draws_hide_every_pixel_equally_often(height, width, n_draws):
    images = torch.rand(2, 3, height, width)
    draws = list(complementary(images, n_draws, **EQ2, seed=3, video=True))
    times = torch.stack([draw.hidden for draw in draws]).sum(0)
    assert len(draws) == n_draws + n_draws % 2
    assert torch.equal(times, torch.full_like(times, len(draws) // 2))


def test_a_draw_of_an_image_does_not_depend_on_its_neighbours():
    images = torch.rand(5, 1, 16, 16)
    together = list(complementary(images, 4, **EQ2, seed=3))
    alone = list(complementary(images[3:4], 4, **EQ2, seed=3))
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a.images[3:4], b.images)


@pytest.mark.parametrize("video", [False, True])
def test_grafts_change_only_what_they_own_up_to_or_a_decoy(video, monkeypatch):
    images, beside = scene(n=64)
    images = images + 0.05 * torch.rand(images.shape, generator=seeded())
    made = grafts(images, **EQ2, generator=seeded(1), neighbours=beside if video else None)
    change = (made.images - images).abs().amax(1)
    assert (made.where > 0.5).flatten(1).any(1).float().mean() > 0.3, "most images hold a graft"
    assert (made.where > 0.5).float().mean() < 0.5, "most pixels stay normal"
    # Where it says that a pixel is corrupted, something changed nearby.
    near = torch.nn.functional.max_pool2d(change[:, None], 5, 1, 2)[:, 0]
    assert near[made.where > 0.5].min() > 0.01


def test_a_decoy_changes_the_image_and_is_no_irregularity(monkeypatch):
    def only_decoys(salience, generator, *args):
        piece = original(salience, generator, *args)
        return piece._replace(
            irregular=torch.zeros_like(piece.irregular), active=torch.ones_like(piece.active)
        )

    original = corruption._image_piece
    monkeypatch.setattr(corruption, "_image_piece", only_decoys)
    images = torch.rand(16, 1, 32, 32, generator=seeded())
    made = grafts(images, **EQ2, generator=seeded(1))
    assert not torch.equal(made.images, images)
    assert made.where.max() == 0
    assert made.weight.min() == 1


def test_an_invisible_graft_is_undecided():
    images = torch.full((16, 1, 32, 32), 0.5)
    images[:, :, 0, 0] = 1.0  # some contrast, far from most grafts
    made = grafts(images, gamma=0.0, sigma=1.0, generator=seeded(1))
    change = (made.images - images).abs().amax(1, keepdim=True)
    unchanged = torch.nn.functional.max_pool2d(change, 5, 1, 2)[:, 0] < 1e-3
    assert (made.weight == 0).any()
    assert made.where[unchanged].max() == 0
    assert ((made.weight == 0) & (made.where > 0.05)).sum() == 0


def test_grafts_in_video_move_at_other_speeds_than_their_scene():
    images, beside = scene(n=64)
    made = grafts(images, **EQ2, generator=seeded(1), neighbours=beside)
    foreign = made.where > 0.5
    moved = (made.images[:, 0] - made.images[:, -1]).abs()
    assert moved[foreign].mean() > 0.05
    quiet = (made.where == 0) & (made.weight < 0.3)
    assert quiet.float().mean() > 0.3, "an empty road counts little"
