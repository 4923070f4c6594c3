"""What moves in training clips: backgrounds, objects, sizes and speeds."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from skavid import TemporalStacker
from skavid.core.scene import background, clip_begins, clip_starts, foreground, learn_scene
from skavid.datasets import make_moving_shapes


def look(data, spacing=2):
    stacks = TemporalStacker(spacing=spacing).fit_transform(data.frames, groups=data.clips)
    newest = stacks[..., -1].astype(np.float32) / 255
    starts = clip_starts(len(newest), data.clips)
    rows = np.arange(len(newest))
    return learn_scene(newest.__getitem__, rows, starts, n_channels=3, spacing=spacing)


@pytest.mark.parametrize(("speed", "scale"), [(1.0, 1.0), (2.0, 1.6), (0.5, 0.8)])
def test_pace_and_size_are_those_that_were_drawn(speed, scale):
    seen = look(make_moving_shapes(2, 60, speed=speed, scale=scale, random_state=0))
    assert seen.speed == pytest.approx(speed, rel=0.25)
    # A walker is about 14 px high and half as broad, its trace over a stack broader.
    travel = 4 * speed
    assert seen.size == pytest.approx(np.sqrt(14 * scale * (7 * scale + travel)), rel=0.3)


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


def test_a_matte_is_opaque_where_the_change_is_clear_and_empty_where_it_is_faint():
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
