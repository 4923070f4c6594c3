"""The families of corruption: Eq. 2, masking, inversion, synthetic anomalies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skavid import TemporalStacker
from skavid.core import corruption
from skavid.core.corruption import (
    CORRUPTIONS,
    Neighbours,
    complementary,
    inversion,
    masking,
    noise,
    synthetic_anomalies,
)
from skavid.core.scene import clip_starts, learn_scene
from skavid.datasets import make_moving_shapes

EQ2 = {"gamma": 0.4}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(n=8):
    """Stacks of a drawn scene with walkers, and what its clips add to them."""
    data = make_moving_shapes(2, 40, size=(64, 64), random_state=0)
    stacks = TemporalStacker().fit_transform(data.frames, groups=data.clips)
    images = torch.from_numpy(stacks).permute(0, 3, 1, 2) / 255
    starts = clip_starts(len(images), data.clips)
    seen = learn_scene(
        lambda rows: images[rows, -1].numpy(),
        np.arange(len(images)),
        starts,
        n_channels=3,
        spacing=2,
    )
    rows = np.linspace(0, len(images) - 1, n).astype(int)
    background = torch.stack([seen.backgrounds[start] for start in starts[rows]])
    return images[rows], beside(n, seen, background[:, None])


def beside(n, seen, background):
    return Neighbours(seen, background, torch.zeros(n), torch.ones(n), torch.zeros(n), 2)


SEEN = drawn()[1].scene


@pytest.mark.parametrize("name", CORRUPTIONS)
@given(
    height=st.integers(1, 24), width=st.integers(1, 24), n=st.integers(1, 4), c=st.integers(1, 3)
)
def test_each_family_keeps_shapes_ranges_and_its_input(name, height, width, n, c):
    images = torch.rand(n, c, height, width, generator=seeded())
    before = images.clone()
    for neighbours in (None, beside(n, SEEN, images[:, :1])):
        made = CORRUPTIONS[name](images, **EQ2, generator=seeded(1), neighbours=neighbours)
        assert made.images.shape == made.masked.shape == images.shape
        assert made.where.shape == made.weight.shape == (n, height, width)
        assert torch.isfinite(made.images).all()
        for share in (made.where, made.weight, made.masked):
            assert share.min() >= 0
            assert share.max() <= 1
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("video", [False, True])
def test_one_seed_makes_one_corruption_and_leaves_global_randomness_alone(name, video):
    images, neighbours = drawn()
    state = torch.get_rng_state()
    made = [
        CORRUPTIONS[name](
            images, **EQ2, generator=seeded(s), neighbours=neighbours if video else None
        )
        for s in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(made[0], made[1], strict=True))
    assert not torch.equal(made[0].images, made[2].images)


@pytest.mark.parametrize("gamma", [0.4, 0.05, 0.0])
def test_noise_has_the_spread_of_equation_2_on_every_pixel(gamma):
    images = torch.full((2, 3, 64, 64), 0.5)
    made = noise(images, gamma=gamma, generator=seeded())
    change = made.images - images
    assert change.std().item() == pytest.approx(gamma, rel=0.03)
    assert change.mean().item() == pytest.approx(0, abs=0.02)
    assert made.where.min() == 1
    assert made.masked.max() == 0


def test_masking_keeps_visible_pixels_and_says_nothing_of_hidden_ones():
    images = torch.rand(16, 1, 32, 32, generator=seeded())
    made = masking(images, **EQ2, generator=seeded(1))
    visible = made.masked == 0
    assert torch.equal(made.images[visible], images[visible])
    # What is filled in depends on the hidden pixels by their mean alone.
    other = torch.where(visible, images, images.flip(0))
    filled = made.images - images.mean((2, 3), True)
    again = masking(other, **EQ2, generator=seeded(1)).images - other.mean((2, 3), True)
    torch.testing.assert_close(filled[~visible], again[~visible])
    assert 0.3 < made.masked.mean() < 0.7


@given(st.integers(0, 99), st.integers(3, 9), st.integers(0, 6))
def test_inversion_turns_bright_and_dark_around_within_blots_of_the_given_sizes(seed, low, more):
    images = torch.rand(4, 2, 60, 40, generator=seeded(seed))
    made = inversion(images, **EQ2, generator=seeded(seed), size=(low, low + more))
    inside = made.where[:, None].expand_as(images) > 0
    assert_allclose(made.images[inside], 1 - images[inside])
    assert torch.equal(made.images[~inside], images[~inside])
    assert not made.masked.any()
    assert (made.weight == 1).all()
    # Three blots, each within a circle that is a little larger than its diameter.
    most = 3 * math.pi * (1.5 * (low + more) ** 2 / 4) * 1.3
    assert (made.where.sum((1, 2)) <= most).all()
    assert made.where.any()


def test_masking_knows_blocks_stripes_and_in_video_whole_channels():
    images = torch.rand(64, 3, 32, 32, generator=seeded())
    neighbours = beside(64, SEEN, images[:, :1])
    hidden = masking(images, **EQ2, generator=seeded(1), neighbours=neighbours).masked
    rows = (hidden == hidden[..., :1]).flatten(1).all(1)
    columns = (hidden == hidden[:, :, :1]).flatten(1).all(1)
    channels = hidden.sum(1).flatten(1).max(1).values == 1
    assert rows.any()
    assert columns.any()
    assert channels.any()
    assert (~rows & ~columns & ~channels).any()
    still = masking(images, **EQ2, generator=seeded(1)).masked
    assert torch.equal(still[:, 0], still[:, 2]), "images lose all channels of a pixel at once"


@given(height=st.integers(1, 40), width=st.integers(1, 40), n_draws=st.integers(2, 9))
def test_complementary_draws_hide_every_pixel_equally_often(height, width, n_draws):
    images = torch.rand(2, 3, height, width)
    draws = list(complementary(images, n_draws, **EQ2, seed=3, video=True))
    times = torch.stack([draw.masked for draw in draws]).sum(0)
    assert len(draws) == n_draws + n_draws % 2
    assert torch.equal(times, torch.full_like(times, len(draws) // 2))


def test_a_draw_of_an_image_does_not_depend_on_its_neighbours():
    images = torch.rand(5, 1, 16, 16)
    together = list(complementary(images, 4, **EQ2, seed=3))
    alone = list(complementary(images[3:4], 4, **EQ2, seed=3))
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a.images[3:4], b.images)


@pytest.mark.parametrize("video", [False, True])
def test_synthetic_anomalies_change_only_what_they_own_up_to_or_a_hard_negative(
    video, monkeypatch
):
    images, neighbours = drawn(n=64)

    def made_with_change():
        made = synthetic_anomalies(
            images, **EQ2, generator=seeded(1), neighbours=neighbours if video else None
        )
        change = (made.images - images).abs().amax(1)
        # Neither corrupted nor undecided, but for the last of a soft edge.
        return made, change, change[(made.where <= 0.05) & (made.weight > 0)]

    made, change, beside_anomalies = made_with_change()
    assert beside_anomalies.max() > 0.5, "hard negatives change what is called regular"
    with monkeypatch.context() as without_hard_negatives:
        without_hard_negatives.setattr(corruption, "HARD_NEGATIVE_SHARE", 0.0)
        without_hard_negatives.setattr(corruption, "VIDEO_HARD_NEGATIVES", False)
        assert made_with_change()[2].max() < 0.05, "nothing else does"
    assert (made.where > 0.5).flatten(1).any(1).float().mean() > 0.3, (
        "most images hold a synthetic anomaly"
    )
    assert (made.where > 0.5).float().mean() < 0.5, "most pixels stay normal"
    # Where it says that a pixel is corrupted, something changed nearby.
    near = torch.nn.functional.max_pool2d(change[:, None], 5, 1, 2)[:, 0]
    assert near[made.where > 0.5].min() > 0.01


def test_a_hard_negative_changes_the_image_and_is_no_irregularity(monkeypatch):
    def only_hard_negatives(*args):
        piece = original(*args)
        return piece._replace(
            irregular=torch.zeros_like(piece.irregular), active=torch.ones_like(piece.active)
        )

    original = corruption._image_piece
    monkeypatch.setattr(corruption, "_image_piece", only_hard_negatives)
    images = torch.rand(16, 1, 32, 32, generator=seeded())
    made = synthetic_anomalies(images, **EQ2, generator=seeded(1))
    assert not torch.equal(made.images, images)
    assert made.where.max() == 0
    assert made.weight.min() == 1


def test_an_invisible_anomaly_is_undecided():
    images = torch.full((16, 1, 32, 32), 0.5)
    images[:, :, 0, 0] = 1.0  # some contrast, far from most synthetic anomalies
    made = synthetic_anomalies(images, gamma=0.0, generator=seeded(1))
    change = (made.images - images).abs().amax(1, keepdim=True)
    unchanged = torch.nn.functional.max_pool2d(change, 5, 1, 2)[:, 0] < 1e-3
    assert (made.weight == 0).any()
    assert made.where[unchanged].max() == 0
    assert ((made.weight == 0) & (made.where > 0.05)).sum() == 0


def test_synthetic_anomalies_in_video_change_what_moves_and_not_the_empty_ground():
    images, neighbours = drawn(n=64)
    made = synthetic_anomalies(images, **EQ2, generator=seeded(1), neighbours=neighbours)
    foreign = made.where > 0.5
    moved = (made.images[:, 0] - made.images[:, -1]).abs()
    assert moved[foreign].mean() > 3 * moved.mean()
    quiet = (made.where == 0) & (made.weight < 0.3)
    assert quiet.float().mean() > 0.3, "an empty road counts little"


def test_what_is_pasted_shares_the_brightness_of_its_image():
    images, neighbours = drawn(n=64)
    plain = synthetic_anomalies(images, **EQ2, generator=seeded(1), neighbours=neighbours)
    darker = neighbours._replace(
        background=0.5 * neighbours.background, gain=neighbours.gain * 0.5, level=neighbours.level
    )
    dark = synthetic_anomalies(0.5 * images, **EQ2, generator=seeded(1), neighbours=darker)
    torch.testing.assert_close(dark.images, 0.5 * plain.images)


def test_stacks_in_which_nothing_moves_get_the_synthetic_anomalies_of_images():
    images = torch.rand(8, 3, 32, 32, generator=seeded())
    nothing = learn_scene(
        lambda rows: np.zeros((len(rows), 32, 32), np.float32),
        np.arange(20),
        np.zeros(20, int),
        n_channels=3,
        spacing=2,
    )
    made = synthetic_anomalies(
        images, **EQ2, generator=seeded(1), neighbours=beside(8, nothing, images[:, :1])
    )
    still = synthetic_anomalies(images, **EQ2, generator=seeded(1))
    assert torch.equal(made.images, still.images)


@given(factor=st.sampled_from([2, 3, 4]), strength=st.floats(0.3, 1.0))
def test_synthetic_anomalies_learn_their_scales_from_the_images(factor, strength):
    small = torch.rand(4, 1, 12, 12, generator=seeded())
    large = strength * small.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    torch.testing.assert_close(corruption._contrast(large), strength * corruption._contrast(small))
    ratio = corruption._grain(large) / corruption._grain(small)
    assert (ratio > 0.7 * factor).all()
    assert (ratio < 1.3 * factor).all()
