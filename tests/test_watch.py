"""Events, and the thread that reads a camera: lost and found again, slow or fast."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skavid import AVIDDetector, TemporalStacker
from skavid.cli.events import Events
from skavid.cli.feed import Feed
from skavid.cli.scoring import Scorer
from skavid.cli.watch import watch
from skavid.components import nested
from skavid.core.anomaly_maps import AnomalyMaps, DecisionRule
from skavid.datasets.sources import Reading
from skavid.video import BrokenVideoError, Frame

STACKED = Reading((4, 6), False, {"n_channels": 3, "spacing": 1, "average": True})


def frames(n, first=0):
    for index in range(n):
        image = np.full((4, 6), first + index, np.uint8)
        yield Frame(image, index / 100, index), np.repeat(image[..., None], 3, axis=2)


def feed(monkeypatch, read, **more):
    monkeypatch.setattr("skavid.cli.feed.read_pairs", lambda *_, **__: read())
    logged = []
    options = {"name": "gate", "is_live": True, **more}
    return Feed("rtsp://gate", STACKED, log=logged.append, **options), logged


@given(st.lists(st.tuples(st.floats(0.01, 3), st.floats(-2, 2)), max_size=40), st.floats(0.1, 4))
def test_events_join_irregular_moments_that_are_near_each_other(steps, max_gap):
    events, told = Events(max_gap), []
    moment, irregular = 0.0, []
    for step, score in steps:
        moment += step
        told += list(events.push(moment, score))
        if score <= 0:
            irregular.append((moment, -score))
    told += list(events.close())
    expected = []
    for at, peak in irregular:
        if not expected or at - expected[-1][-1][0] > max_gap:
            expected.append([])
        expected[-1].append((at, peak))
    ended = [event for phase, event in told if phase == "end"]
    assert [phase for phase, _ in told if phase != "peak"] == ["begin", "end"] * len(expected)
    assert [(e.start, e.end, e.peak) for e in ended] == [
        (one[0][0], one[-1][0], max(peak for _, peak in one)) for one in expected
    ]
    for event, one in zip(ended, expected, strict=True):
        assert (event.peak_time, event.peak) in one


@given(
    st.lists(st.booleans(), max_size=60), st.integers(1, 6).flatmap(
        lambda n: st.tuples(st.integers(1, n), st.just(n))
    ),
)  # fmt: skip
def test_an_event_begins_once_k_of_n_frames_are_irregular(irregular, persistence):
    needed, last = persistence
    events = Events(1e9, persistence)  # an event that has begun goes on
    begun = [
        at
        for at, odd in enumerate(irregular)
        for phase, _ in events.push(float(at), -1.0 if odd else 1.0)
        if phase == "begin"
    ]
    counts = [sum(irregular[max(0, at + 1 - last) : at + 1]) for at in range(len(irregular))]
    expected = [at for at, count in enumerate(counts) if irregular[at] and count >= needed]
    assert begun == expected[:1]
    if begun:
        recent = range(max(0, begun[0] + 1 - last), begun[0] + 1)
        assert events.open.start == next(at for at in recent if irregular[at])


def test_frames_that_are_irregular_as_a_whole_are_events_of_their_own():
    events = Events(2.0)
    told = []
    for at, reason in enumerate(["", "darker", "darker", "less sharp", ""]):
        told += list(events.push(float(at), -1.0, reason))
    told += list(events.close())
    ended = [(e.start, e.end, e.reason) for phase, e in told if phase == "end"]
    assert ended == [(0.0, 0.0, ""), (1.0, 3.0, "darker"), (4.0, 4.0, "")]


def test_an_event_is_named_by_most_of_its_frames_not_by_its_peak():
    events = Events(2.0)
    told = []
    for at, reason in enumerate(["darker", *["blank or covered"] * 3]):
        told += list(events.push(float(at), -5.0 if reason == "darker" else -1.0, reason))
    assert [phase for phase, _ in told] == ["begin", "peak"]
    ((_, event),) = events.close()
    assert (event.reason, event.peak, event.peak_time) == ("blank or covered", 5.0, 0.0)


def test_a_lost_camera_is_tried_again_and_its_stacks_begin_anew(monkeypatch):
    monkeypatch.setattr("skavid.cli.feed.FIRST_PAUSE", 0.01)
    calls = []

    def read():
        calls.append(1)
        if len(calls) == 2:
            raise OSError("rtsp://gate cannot be opened: no route.")
        for pair in frames(3, first=50 * len(calls)):
            time.sleep(0.05)
            yield pair
        raise BrokenVideoError("rtsp://gate is broken.")

    watched, logged = feed(monkeypatch, read)
    samples = []
    for sample in watched:
        samples.append(sample)
        if sum(one is not None for one in samples) == 6:
            break
    images = [None if sample is None else sample.image[0, 0].tolist() for sample in samples]
    assert images[:4] == [[50, 50, 50], [50, 50, 51], [50, 51, 52], None]
    assert images[-3:] == [[150, 150, 150], [150, 150, 151], [150, 151, 152]]
    assert logged[:2] == [
        "gate was lost: rtsp://gate is broken. Trying again in 0.01 s.",
        "gate was lost: rtsp://gate cannot be opened: no route. Trying again in 0.02 s.",
    ]


def test_a_camera_that_returns_in_another_size_is_told_and_watched(monkeypatch):
    monkeypatch.setattr("skavid.cli.feed.FIRST_PAUSE", 0.01)
    sides = iter([6, 6, 9])

    def read():
        side = next(sides)
        for frame, _ in frames(2):
            time.sleep(0.05)
            yield frame, np.zeros((4, side, 3), np.uint8)
        raise BrokenVideoError("rtsp://gate is broken.")

    watched, logged = feed(monkeypatch, read)
    shapes = []
    for sample in watched:
        shapes += [] if sample is None else [(sample.image.shape, sample.display_image.shape)]
        if len(shapes) == 6:
            break
    assert shapes == 4 * [((4, 6, 3), (4, 6, 3))] + 2 * [((4, 6, 3), (4, 9, 3))]
    assert [line for line in logged if "now sends" in line] == [
        "gate now sends 9 x 4 pixels (width x height), no longer 6 x 4 pixels; they are resized "
        "alike."
    ]


def test_a_clock_that_jumps_back_changes_no_times(monkeypatch):
    """Times are those of the monotonic clock; the time of day is read once, for their origin."""
    noon = 1_700_000_000.0
    monkeypatch.setattr("time.time", lambda: noon)

    def read():
        for index, pair in enumerate(frames(6)):
            time.sleep(0.02)
            if index == 3:
                monkeypatch.setattr("time.time", lambda: noon - 3600)
            yield pair

    watched, _ = feed(monkeypatch, read)
    times = []
    for sample in watched:
        if sample is None:
            break
        times.append(sample.time)
    assert len(times) == 6
    assert (np.diff(times) > 0).all()
    assert times[-1] < 60


def test_a_gap_comes_before_the_frames_behind_it_though_some_are_left_out(monkeypatch):
    monkeypatch.setattr("skavid.cli.feed.FIRST_PAUSE", 0.01)
    calls = []

    def read():
        calls.append(1)
        if len(calls) > 2:
            raise OSError("end of the test")
        yield from frames(len(calls) ** 2, first=50 * len(calls))
        raise OSError("rtsp://gate is broken.")

    watched, _ = feed(monkeypatch, read)
    full, taken = threading.Event(), threading.Event()
    make_room = watched._make_room

    def make_room_and_wait():
        make_room()
        full.set()
        taken.wait(5)

    monkeypatch.setattr(watched, "_make_room", make_room_and_wait)
    samples = iter(watched)
    assert next(samples).image[0, 0, 0] == 50
    assert full.wait(5)  # of a gap and the frame behind it
    assert next(samples) is None
    assert next(samples).image[0, 0, 0] == 100
    taken.set()
    samples.close()


class Unlocated(AnomalyMaps):
    def find(self, row):
        return []


class Glance:
    """A scorer without networks: bright frames are irregular."""

    def begin(self):
        pass

    def score(self, images, times):
        evidence = images[0][None].astype(np.float32) - 200
        return Unlocated(evidence, evidence, rule=DecisionRule(0.1, 0.5), evidence=evidence)


@pytest.mark.slow
def test_a_long_watch_of_a_bad_camera_loses_no_event_and_no_memory(monkeypatch):
    """20,000 frames: the camera is lost every 40 to 60, stalls, and is tried in vain."""
    monkeypatch.setattr("skavid.cli.feed.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("skavid.cli.feed.LONGEST_PAUSE", 0.002)
    rng = np.random.default_rng(0)
    ready = threading.Semaphore(1)  # a camera no faster than the reader
    sent, moments, clip = [], [], 0

    def read():
        nonlocal clip
        clip += 1
        if clip % 7 == 0:
            raise OSError("no route to the camera.")
        bright = (rng.random(rng.integers(40, 60)) < 0.1) & (clip % 3 > 0)
        for index, is_bright in enumerate(bright):
            ready.acquire()
            if clip % 100 == 50 and index == 20:
                time.sleep(0.25)  # longer than the feed waits at a time
            moments.append(time.monotonic())
            sent.append((clip, bool(is_bright)))
            image = np.full((4, 6), 255 if is_bright else 9, np.uint8)
            yield Frame(image, index / 25, index), np.repeat(image[..., None], 3, axis=2)
        raise BrokenVideoError("the camera is broken.")

    monkeypatch.setattr("skavid.cli.feed.read_pairs", lambda *_, **__: read())
    plain, told, samples, sizes = Reading((4, 6), False, None), [], [], []
    watched = Feed("rtsp://gate", plain, name="gate", log=lambda _: None, is_live=True)

    def on_sample(sample, score):
        samples.append((sample.index, sample.time))
        ready.release()
        if len(samples) % 4000 == 0:
            sizes.append(resident())
        if len(samples) == 20_000:
            watched.stop()

    watch(watched, Glance(), Events(max_gap=1e9), told.append, on_sample=on_sample)
    assert [index for index, _ in samples] == list(range(20_000))
    assert watched.n_skipped == 0
    late = np.array([moment for _, moment in samples]) - moments[:20_000]
    assert np.ptp(late) < 1  # but for where the clock began
    expected = []
    for (number, is_bright), (_, moment) in zip(sent, samples, strict=False):
        if is_bright:
            if not expected or expected[-1][0] != number:
                expected.append((number, moment, moment))
            expected[-1] = (number, expected[-1][1], moment)
    assert len(expected) > 200
    assert [one["phase"] for one in told] == ["begin", "end"] * len(expected)
    assert [(one["event"], one["start"], one["end"]) for one in told[1::2]] == [
        (n, round(start, 3), round(end, 3)) for n, (_, start, end) in enumerate(expected, start=1)
    ]
    assert max(sizes[1:]) - sizes[0] < 2**24


def resident():
    """Bytes of memory that this process holds; 0 where the system does not tell."""
    told = Path("/proc/self/statm")
    return int(told.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") if told.exists() else 0


def test_a_camera_that_was_never_there_is_not_waited_for(monkeypatch):
    def read():
        raise OSError("rtsp://gate cannot be opened: no route.")

    watched, logged = feed(monkeypatch, read)
    with pytest.raises(OSError, match=r"^rtsp://gate cannot be opened: no route\.$"):
        list(watched)
    assert logged == []


def test_frames_that_come_too_fast_are_left_out_but_not_of_the_stacks(monkeypatch):
    def read():
        yield from frames(40)
        time.sleep(0.3)
        raise OSError("end of the test")

    watched, logged = feed(monkeypatch, read)
    expected = TemporalStacker(spacing=1).fit_transform(
        np.stack([frame.image for frame, _ in frames(40)]), groups=np.zeros(40, int)
    )
    seen = []
    for sample in watched:
        if sample is None:
            break
        seen.append(sample.index)
        np.testing.assert_array_equal(sample.image, expected[sample.index])
        time.sleep(0.03)
    assert seen[-1] == 39
    assert watched.n_skipped == 40 - len(seen) > 0
    assert logged[0].startswith("Frames arrive faster than they can be scored;")


def test_a_file_is_played_at_its_own_pace_or_as_fast_as_possible(monkeypatch):
    for fast in (False, True):
        watched, _ = feed(monkeypatch, lambda: frames(30), is_live=False, fast=fast)
        began = time.monotonic()
        seen = [sample.index for sample in watched]
        assert fast or time.monotonic() - began >= 0.29
        # A busy machine may miss frames of what is played; none of them twice, none untold.
        assert seen == sorted(set(seen))
        assert len(seen) + watched.n_skipped == 30
        assert not fast or seen == list(range(30))


def test_findings_are_those_of_the_detector():
    from skavid import AVIDDetector

    X = np.random.default_rng(0).normal(size=(30, 16, 16))
    detector = AVIDDetector(
        **nested(
            {
                "max_epochs": 1,
                "features": "pixels",
                "inpainter__width": 4,
                "detector__width": 4,
                "target_fpr": 0.5,
                "random_state": 0,
            }
        )
    ).fit(X)
    scorer = Scorer(detector)
    seen = scorer.score(list(X))
    assert [seen.find(row) for row in range(30)] == detector.find(X)
    np.testing.assert_array_equal(seen.scores, detector.score_samples(X))


def test_a_patch_that_rests_on_earlier_frames_is_said_to():
    class Maps(AVIDDetector):
        evidence = iter([3.0, -1.0])

        def maps(self, images, inpainted):
            level = next(self.evidence)
            seen = level > 0
            return AnomalyMaps(
                np.full((1, 1, 1), 0.2 if seen else 0.05, np.float32),
                np.full((1, 1, 1), -2.0 if seen else 2.0, np.float32),
                rule=DecisionRule(0.1, 0.5),
                evidence=np.full((1, 1, 1), level, np.float32),
            )

    scorer = Scorer(Maps(), average_frames=2)
    carried = [scorer.score([np.zeros((1, 1))]).find(0)[0].carried_by for _ in range(2)]
    assert carried == ["both", "earlier"]
