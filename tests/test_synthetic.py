"""The synthetic scene: moving objects, their speed and size, and exact masks."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from skavid.datasets.synthetic import IRREGULARITIES, _Object, _render, make_moving_shapes


@given(
    kinds=st.lists(st.sampled_from(IRREGULARITIES), max_size=3),
    share=st.sampled_from([0.1, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_labels_say_where_masks_are_and_only_odd_clips_have_some(kinds, share, seed):
    data = make_moving_shapes(
        2, 12, size=(48, 64), irregular=tuple(kinds), share=share, random_state=seed
    )
    assert data.frames.shape == data.masks.shape == (24, 48, 64)
    np.testing.assert_array_equal(data.labels == -1, data.masks.any(axis=(1, 2)))
    assert data.clips.tolist() == [0] * 12 + [1] * 12
    if not kinds:
        assert set(data.kinds.tolist()) == {""}
        assert not data.masks.any()
    else:
        assert data.kinds[[0, 12]].tolist() == [kinds[0], kinds[1 % len(kinds)]]
        for clip in (0, 1):
            assert (data.labels[data.clips == clip] == -1).sum() <= max(1, round(share * 12))


def test_one_seed_draws_one_film_and_another_another():
    one, same, other = (
        make_moving_shapes(1, 5, irregular="shape", random_state=seed) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one.frames, same.frames)
    assert (one.frames != other.frames).any()


def centres(data):
    return np.array([ndimage.center_of_mass(mask) for mask in data.masks[data.labels == -1]])


@pytest.mark.parametrize(("speed", "scale"), [(0.5, 0.7), (1.5, 1.6)])
def test_irregular_ones_are_faster_larger_or_elsewhere_at_any_speed_and_size(speed, scale):
    size = (144, 400)
    made = {
        kind: make_moving_shapes(
            6, 20, size=size, n_walkers=0, speed=speed, scale=scale, irregular=kind, share=1.0,
            random_state=0,
        )
        for kind in IRREGULARITIES
    }  # fmt: skip
    paces, tall, rows = {}, {}, {}
    for kind, data in made.items():
        steps = np.abs(np.diff(centres(data)[:, 1]))
        paces[kind] = np.median(steps[np.arange(len(steps)) % 20 != 19]) / speed
        tall[kind] = np.median(data.masks.any(axis=2).sum(axis=1)) / scale
        rows[kind] = centres(data)[:, 0] / size[0]
    assert paces["fast"] > 2
    assert all(0.6 < paces[kind] < 1.4 for kind in ("large", "shape", "place", "intruder"))
    assert paces["loiterer"] == 0
    assert tall["large"] > 1.5 * tall["fast"]
    assert (rows["place"] < 0.45).all()
    assert all((rows[kind] > 0.35).all() for kind in ("fast", "loiterer", "intruder"))


@pytest.mark.parametrize("kind", IRREGULARITIES)
def test_nothing_appears_or_vanishes_within_the_image(kind):
    options = {"size": (96, 200), "n_walkers": 0, "random_state": 3}
    empty = make_moving_shapes(1, 1, **options).frames[0].astype(int)
    data = make_moving_shapes(4, 100, irregular=kind, **options)
    assert set(data.labels.tolist()) == {-1, 1}
    seen = (np.abs(data.frames - empty) > 25).reshape(4, 100, 96, 200).any(axis=2)
    for clip in seen:
        for beside in (np.roll(clip, 1, axis=0), np.roll(clip, -1, axis=0)):
            for one, other in zip(clip[1:-1], beside[1:-1], strict=True):
                assert other.any() or one[:4].any() or one[-4:].any() or not one.any()


def test_a_mask_is_what_the_irregular_one_changes():
    with_it = make_moving_shapes(1, 8, n_walkers=0, irregular="shape", share=1.0, random_state=1)
    empty = make_moving_shapes(1, 8, n_walkers=0, random_state=1)
    change = np.abs(with_it.frames.astype(int) - empty.frames).astype(float)
    assert change[with_it.masks].min() > 20
    assert np.quantile(change[~ndimage.binary_dilation(with_it.masks, np.ones((1, 3, 3)))], 1) < 20


def test_what_stands_before_an_irregular_one_is_no_part_of_its_mask():
    scene = np.full((96, 128), 130.0)
    cart = _Object(64, 0, 60, 20, 0, 250, 0, 1, "shape")
    walker = cart._replace(row=64, grey=10, kind="")
    behind = walker._replace(row=56)
    alone = _render(scene, [cart], 0, np.random.RandomState(0))[1]
    frame, mask = _render(scene, [walker, cart, behind], 0, np.random.RandomState(0))
    clear = alone & (abs(frame - 130.0) > 20)  # others are mixed of both
    np.testing.assert_array_equal(mask[clear], frame[clear] > 130)
    assert not mask[~alone].any()
    assert (alone & ~clear).sum() < 10
    assert 40 < (alone & ~mask).sum() < alone.sum() / 2


@pytest.mark.parametrize("n_walkers", [0, 40])
def test_normal_walkers_keep_to_the_walkway(n_walkers):
    data = make_moving_shapes(1, 6, n_walkers=n_walkers, random_state=0)
    change = np.abs(np.diff(data.frames.astype(int), axis=0)).max(axis=(0, 2)) > 25
    assert change[44:].any() == bool(n_walkers)  # row 43 is the edge of the walkway
    assert not change[:24].any()  # a head reaches above it, nobody walks there


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (8, 64)}, "size must be (height, width), at least 16 pixels each. Got (8, 64)."),
        (
            {"irregular": ("fast", "furious")},
            f"irregular must be some of {IRREGULARITIES}. Got 'furious'.",
        ),
    ],
)
def test_scenes_that_cannot_be_drawn_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_moving_shapes(1, 2, **arguments)
