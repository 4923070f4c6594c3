"""Events, and the thread that reads a camera: lost and found again, slow or fast."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skavid import TemporalStacker
from skavid.sources import Reading
from skavid.video import BrokenVideoError, Frame
from skavid.watch import Events, Feed, Viewer

STACKED = Reading((4, 6), False, {"n_channels": 3, "spacing": 1, "average": True})


def frames(n, first=0):
    for index in range(n):
        image = np.full((4, 6), first + index, np.uint8)
        yield Frame(image, index / 100, index), np.repeat(image[..., None], 3, axis=2)


def feed(monkeypatch, read, **more):
    monkeypatch.setattr("skavid.watch.read_pairs", lambda *_, **__: read())
    said = []
    options = {"name": "gate", "is_live": True, **more}
    return Feed("rtsp://gate", STACKED, say=said.append, **options), said


@given(st.lists(st.tuples(st.floats(0.01, 3), st.floats(-2, 2)), max_size=40), st.floats(0.1, 4))
def test_events_join_irregular_moments_that_are_near_each_other(steps, patience):
    events, told = Events(patience), []
    moment, irregular = 0.0, []
    for step, score in steps:
        moment += step
        told += list(events.push(moment, score))
        if score <= 0:
            irregular.append((moment, -score))
    told += list(events.close())
    expected = []
    for at, peak in irregular:
        if not expected or at - expected[-1][-1][0] > patience:
            expected.append([])
        expected[-1].append((at, peak))
    ended = [event for phase, event in told if phase == "end"]
    assert [phase for phase, _ in told if phase != "peak"] == ["begin", "end"] * len(expected)
    assert [(e.start, e.end, e.peak) for e in ended] == [
        (one[0][0], one[-1][0], max(peak for _, peak in one)) for one in expected
    ]
    for event, one in zip(ended, expected, strict=True):
        assert (event.peak_time, event.peak) in one


def test_a_lost_camera_is_tried_again_and_its_stacks_begin_anew(monkeypatch):
    monkeypatch.setattr("skavid.watch.FIRST_PAUSE", 0.01)
    calls = []

    def read():
        calls.append(1)
        if len(calls) == 2:
            raise OSError("rtsp://gate cannot be opened: no route.")
        for pair in frames(3, first=50 * len(calls)):
            time.sleep(0.05)
            yield pair
        raise BrokenVideoError("rtsp://gate is broken.")

    watched, said = feed(monkeypatch, read)
    looks = []
    for look in watched:
        looks.append(look)
        if sum(one is not None for one in looks) == 6:
            break
    images = [None if look is None else look.image[0, 0].tolist() for look in looks]
    assert images[:4] == [[50, 50, 50], [50, 50, 51], [50, 51, 52], None]
    assert images[-3:] == [[150, 150, 150], [150, 150, 151], [150, 151, 152]]
    assert said[:2] == [
        "gate was lost: rtsp://gate is broken. Trying again in 0.01 s.",
        "gate was lost: rtsp://gate cannot be opened: no route. Trying again in 0.02 s.",
    ]


def test_a_camera_that_was_never_there_is_not_waited_for(monkeypatch):
    def read():
        raise OSError("rtsp://gate cannot be opened: no route.")

    watched, said = feed(monkeypatch, read)
    with pytest.raises(OSError, match=r"^rtsp://gate cannot be opened: no route\.$"):
        list(watched)
    assert said == []


def test_frames_that_come_too_fast_are_left_out_but_not_of_the_stacks(monkeypatch):
    def read():
        yield from frames(40)
        time.sleep(0.3)
        raise OSError("end of the test")

    watched, said = feed(monkeypatch, read)
    expected = TemporalStacker(spacing=1).fit_transform(
        np.stack([frame.image for frame, _ in frames(40)]), groups=np.zeros(40, int)
    )
    seen = []
    for look in watched:
        if look is None:
            break
        seen.append(look.index)
        np.testing.assert_array_equal(look.image, expected[look.index])
        time.sleep(0.03)
    assert seen[-1] == 39
    assert watched.n_skipped == 40 - len(seen) > 0
    assert said[0].startswith("Frames come faster than they can be looked at;")


def test_a_file_is_played_at_its_own_pace_or_as_fast_as_possible(monkeypatch):
    for fast in (False, True):
        watched, _ = feed(monkeypatch, lambda: frames(30), is_live=False, fast=fast)
        began = time.monotonic()
        assert [look.index for look in watched] == list(range(30))
        assert fast or time.monotonic() - began >= 0.29


def test_findings_are_those_of_the_detector():
    from skavid import AVIDDetector

    X = np.random.default_rng(0).normal(size=(30, 16, 16))
    detector = AVIDDetector(
        max_epochs=1, inpainter_width=4, detector_width=4, target_fpr=0.5, random_state=0
    ).fit(X)
    viewer = Viewer(detector)
    seen = viewer.look(list(X))
    assert [viewer.find(seen, row) for row in range(30)] == detector.find(X)
    np.testing.assert_array_equal(seen.scores, detector.score_samples(X))
