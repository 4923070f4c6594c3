"""What moves in training clips: backgrounds, objects, sizes and speeds."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from skavid import TemporalStacker
from skavid.core.scene import (
    background,
    clip_begins,
    clip_starts,
    foreground,
    learn_scene,
    time_blocks,
)
from skavid.datasets import make_moving_shapes


def look(data, spacing=2):
    stacks = TemporalStacker(spacing=spacing).fit_transform(data.frames, groups=data.clips)
    newest = stacks[..., -1].astype(np.float32) / 255
    starts = clip_starts(len(newest), data.clips)
    rows = np.arange(len(newest))
    return learn_scene(newest.__getitem__, rows, starts, n_channels=3, spacing=spacing)


@pytest.mark.parametrize(("speed", "scale"), [(1.0, 1.0), (2.0, 1.6), (0.5, 0.8)])
def test_speed_and_size_are_those_that_were_drawn(speed, scale):
    seen = look(make_moving_shapes(2, 60, speed=speed, scale=scale, random_state=0))
    assert seen.speed == pytest.approx(speed, rel=0.25)
    # A walker is about 14 px high and half as broad, its trace over a stack broader.
    travel = 4 * speed
    assert seen.size == pytest.approx(np.sqrt(14 * scale * (7 * scale + travel)), rel=0.3)


def filmed(height, *, speed, n_objects=1, noise=0.0, slope=0.0, clips=2, n=80, seed=0):
    """Draw textured boxes, half as broad as they are high, that cross the frame side by side.

    With a ``slope`` they are higher by this share of the height at the bottom of the frame.
    """
    rng = np.random.default_rng(seed)
    frames, groups = [], []
    for clip in range(clips):
        ground = 0.4 + 0.1 * rng.random((120, 160)).astype(np.float32)
        film = np.repeat(ground[None], n, axis=0)
        for number in range(n_objects):
            bottom = 20 + height + (95 - height) * (number + 0.5) / n_objects
            tall = round(height * (1 + slope * (bottom / 120 - 0.5)))
            broad = max(2, tall // 2)
            # The middle of each object hardly differs from the ground, so that it falls apart.
            texture = rng.choice([0.05, 0.95], (tall, broad)).astype(np.float32)
            texture[tall // 3 : tall // 2] = 0.5
            start = rng.uniform(-100, 100)
            for time in range(n):
                left = round(start + speed * time + 60 * number) % 220 - 30
                top, low, high = round(bottom) - tall, max(left, 0), min(left + broad, 160)
                if low < high:
                    film[time, top : top + tall, low:high] = texture[:, low - left : high - left]
        frames.append(film + noise * rng.normal(size=film.shape).astype(np.float32))
        groups.append(np.full(n, clip))
    return np.concatenate(frames), np.concatenate(groups)


@pytest.mark.parametrize(
    ("height", "options"),
    [
        (40, {"speed": 1.5}),
        (40, {"speed": 1.5, "noise": 0.03}),
        (24, {"speed": 1.0, "n_objects": 3}),
        (16, {"speed": 1.0, "n_objects": 5, "noise": 0.02}),
        (30, {"speed": 2.0, "n_objects": 2, "slope": 0.6}),
    ],
)
def test_size_and_speed_hold_for_objects_that_fall_apart_noise_and_perspective(height, options):
    frames, groups = filmed(height, **options)
    stacks = TemporalStacker(dtype="float32").fit_transform(frames, groups=groups)
    newest = stacks[..., -1]
    starts = clip_starts(len(newest), groups)
    seen = learn_scene(newest.__getitem__, np.arange(len(newest)), starts, n_channels=3, spacing=2)
    traced = height / 2 + 4 * options["speed"]  # over the moments of a stack
    assert seen.size == pytest.approx(np.sqrt(height * traced), rel=0.25)
    assert seen.speed == pytest.approx(options["speed"], rel=0.25)


@pytest.mark.parametrize("lengths", [[20, 20], [244, 145], [10] * 12])
def test_clips_are_left_out_as_a_whole(lengths):
    clips = np.repeat(np.arange(len(lengths)), lengths)
    assert (time_blocks(clips) == clips).all()


@pytest.mark.parametrize("lengths", [[40], [3, 50], [5, 6, 80, 2]])
def test_a_clip_of_nearly_all_frames_is_cut_into_blocks_of_one_length(lengths):
    clips = np.repeat(np.arange(len(lengths)), lengths)
    blocks = time_blocks(clips)
    assert (np.diff(blocks) >= 0).all()
    for clip, length in enumerate(lengths):
        own, counts = np.unique(blocks[clips == clip], return_counts=True)
        assert len(own) == (10 if length == max(lengths) else 1)
        assert np.ptp(counts) <= 1
        assert not np.isin(own, blocks[clips != clip]).any()


def test_objects_travel_along_the_walkway():
    seen = look(make_moving_shapes(2, 60, random_state=1))
    across, along = seen.velocities[seen.alone].abs().mean(0)
    assert along > 3 * across


def test_the_background_of_a_clip_is_what_stands_still():
    frames = np.full((30, 12, 40), 0.5, np.float32)
    for t in range(30):
        frames[t, 3:9, t : t + 6] = 1.0
    assert (background(frames.__getitem__, np.arange(30)) == 0.5).all()


def test_nothing_is_found_where_nothing_moves():
    frames = np.full((30, 12, 12), 0.5, np.float32)
    seen = learn_scene(
        frames.__getitem__, np.arange(30), np.zeros(30, int), n_channels=3, spacing=2
    )
    assert seen.size is None
    assert seen.speed == 0
    assert len(seen.moments) == 0


def test_windows_never_reach_into_another_clip():
    data = make_moving_shapes(2, 24, random_state=0)
    data.frames[:24] //= 4  # the first clip is dark
    seen = look(data)
    dark = seen.window_backgrounds.amax((1, 2)) < 0.27
    newest, oldest = seen.moments[:, 0].float(), seen.moments[:, -1].float()
    assert dark.any()
    assert (~dark).any()
    assert ((newest.amax((1, 2)) < 0.3) == dark).all()
    assert ((oldest.amax((1, 2)) < 0.3) == dark).all()


def test_the_foreground_is_opaque_where_the_change_is_clear_and_empty_where_it_is_faint():
    change = torch.zeros(1, 1, 9, 20)
    change[..., 10:] = 0.5
    opacity = foreground(change, 0.2)
    assert opacity[..., :8].max() == 0
    assert opacity[..., 12:].min() == 1


def test_clips_start_where_their_id_changes():
    assert clip_starts(4, None).tolist() == [0, 0, 0, 0]
    assert clip_starts(5, np.array(list("aabbb"))).tolist() == [0, 0, 2, 2, 2]
    assert clip_begins(np.array(list("aabbb"))).tolist() == [0, 2]
    assert clip_begins(np.array([])).tolist() == []


@pytest.mark.parametrize("named", [str, int, lambda one: (None, one)[one]])
def test_starts_are_those_that_a_reader_of_the_rows_would_find(named):
    ids = np.array([named(one) for one in (1, 1, 0, 0, 0)], dtype=object)
    firsts = [next(row for row, other in enumerate(ids) if other == one) for one in ids]
    assert clip_starts(5, ids).tolist() == firsts
    assert clip_begins(ids).tolist() == sorted(set(firsts))


@pytest.mark.parametrize(
    ("ids", "torn"), [("aba", "'a'"), ([1, 0, 0, 1], "1"), ([np.nan, np.nan], "nan")]
)
def test_a_clip_that_is_torn_apart_is_refused_by_its_name(ids, torn):
    message = (
        f"groups must keep the rows of a clip together, but those of {torn} are interrupted; "
        "sort all arrays by clip, and by time within it."
    )
    groups = np.array(list(ids))
    for look in (clip_begins, lambda given: clip_starts(len(given), given)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            look(groups)
