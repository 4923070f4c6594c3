"""``skavid watch``: score the frames of a camera as they come, and report events at once."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from skavid.cli.console import INTERRUPTED, SUCCESS, Console, CtrlC
from skavid.cli.events import Event, Events
from skavid.cli.feed import Feed
from skavid.cli.models import find_sources, note_kind, open_model, set_ignore_mask
from skavid.cli.outputs import describe_patches, draw_results, save_picture
from skavid.cli.scoring import Scorer
from skavid.cli.webhook import Webhook
from skavid.core.anomaly_maps import AnomalyMaps
from skavid.datasets.sources import Reading, Sample, Source
from skavid.video.decoding import VIDEOS
from skavid.video.pictures import import_pillow
from skavid.wording import counted
from skavid.writing import beside, check_parent, naming

__all__: list[str] = []  # a part of the command line: nothing here is promised to users


class _Records:
    """Make JSON records of events, with boxes and a snapshot of the frame at the peak."""

    def __init__(self, feed: Feed, scorer: Scorer, snapshots: Path | None) -> None:
        self._feed = feed
        self._scorer = scorer
        self._snapshots = snapshots
        self._started_at = datetime.now(UTC)
        self._peak: tuple[Sample, AnomalyMaps] | None = None

    def keep_peak(self, sample: Sample, maps: AnomalyMaps) -> None:
        """Keep the frame of the open event that is the most irregular so far."""
        self._peak = sample, maps

    def begin(self, event: Event) -> dict[str, Any]:
        """Describe an event that begins."""
        return {"phase": "begin", **self._start(event), "peak": round(event.peak, 4)}

    def end(self, event: Event) -> dict[str, Any]:
        """Describe an event that has ended, and write its snapshot."""
        assert self._peak is not None
        sample, maps = self._peak
        mask = maps.mask[0]
        return {
            "phase": "end",
            **self._start(event),
            "end": round(event.end, 3),
            "peak": round(event.peak, 4),
            "peak_time": round(event.peak_time, 3),
            "as_a_whole": bool(maps.irregular_as_a_whole[0]),
            "boxes": describe_patches(maps.find(0), mask, sample),
            "snapshot": self._save_snapshot(event, sample, maps),
        }

    def _start(self, event: Event) -> dict[str, Any]:
        record: dict[str, Any] = {
            "event": event.number,
            "source": self._feed.name,
            "start": round(event.start, 3),
            "reason": event.reason,
        }
        if self._feed.is_live:
            start = datetime.fromtimestamp(self._started_at.timestamp() + event.start, UTC)
            record["start_at"] = start.isoformat(timespec="milliseconds")
        return record

    def _save_snapshot(self, event: Event, sample: Sample, maps: AnomalyMaps) -> str | None:
        folder = self._snapshots
        if folder is None or sample.display_image is None:
            return None
        # The time keeps the snapshots of the last time that the source was watched.
        started = f"{self._started_at:%Y%m%dT%H%M%S}"
        path = folder / f"{self._feed.name}-{started}-{event.number:04d}.png"
        ignored = self._scorer.detector.ignore_mask
        ignored = None if ignored is None else np.asarray(ignored)
        drawn = draw_results(sample, maps, 0, ignored)
        with naming(path):
            folder.mkdir(parents=True, exist_ok=True)
            with beside(path) as part:
                save_picture(folder, part.name, drawn)
        return str(path)


def watch(
    feed: Feed,
    scorer: Scorer,
    events: Events,
    report: Callable[[dict[str, Any]], None],
    *,
    snapshots: Path | None = None,
    on_sample: Callable[[Sample, float], None] | None = None,
) -> None:
    """Score all frames of a feed, and report each event when it begins and when it ends.

    ``snapshots`` is the folder for an image of each event at its peak; ``on_sample`` is called
    with each frame and its score. The function returns when the source ends or the feed is
    stopped.
    """
    records = _Records(feed, scorer, snapshots)
    try:
        for sample in feed:
            if sample is None:  # the connection was lost
                scorer.begin()
                for _, event in events.close():
                    report(records.end(event))
                continue
            assert sample.time is not None
            maps = scorer.score([sample.image], [sample.time])
            score = float(maps.scores[0])
            for phase, event in events.push(sample.time, score, maps.why[0]):
                if phase == "peak":
                    records.keep_peak(sample, maps)
                else:
                    report(records.begin(event) if phase == "begin" else records.end(event))
            if on_sample is not None:
                on_sample(sample, score)
    finally:
        for _, event in events.close():
            report(records.end(event))


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Watch a camera, an address or a file."""
    _check_snapshots(arguments.snapshots)
    detector, reading = open_model(arguments)
    if reading.size is None:
        raise ValueError(
            f"{arguments.model} was trained on arrays, so it cannot be applied to a camera."
        )
    if reading.tiled:
        raise ValueError(
            f"{arguments.model} cuts images into tiles, so it cannot be applied to a camera."
        )
    feed, found = _open_feed(arguments, reading, console)
    note_kind(found, detector, reading, console)
    set_ignore_mask(arguments, detector, reading, found)
    hook = None if arguments.webhook is None else Webhook(arguments.webhook, log=console.log)

    def report(record: dict[str, Any]) -> None:
        print(json.dumps(record), flush=True)
        if hook is not None:
            hook.send(record)

    console.log(f"Watching {feed.name}, {reading.describe()}. Ctrl-C ends it.")
    scorer = Scorer(detector, average_frames=arguments.average_frames)
    events = Events(arguments.max_gap, arguments.persistence)
    n_scored = 0
    with CtrlC(on_stop=feed.stop) as stop, console.progress(None, "frame") as bar:

        def on_sample(sample: Sample, score: float) -> None:
            nonlocal n_scored
            n_scored += 1
            bar.update()
            if console.verbose:
                console.log(f"{sample.time:.2f} s: {score:.3f}")

        try:
            watch(feed, scorer, events, report, snapshots=arguments.snapshots, on_sample=on_sample)
        finally:
            if hook is not None:
                hook.close()
    skipped = f", {feed.n_skipped} were skipped" if feed.n_skipped else ""
    console.log(f"{counted(n_scored, 'frame')} scored{skipped}; {counted(events.count, 'event')}.")
    return INTERRUPTED if stop.stopped else SUCCESS


def _check_snapshots(folder: Path) -> None:
    import_pillow()
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is not a folder; give a folder for --snapshots.")
    check_parent(folder)


def _open_feed(
    arguments: argparse.Namespace, reading: Reading, console: Console
) -> tuple[Feed, list[Source]]:
    """Make a feed of a camera, an address or a file; a file is also returned as a source."""
    given = arguments.source
    source: str | int = int(given) if given.isdecimal() else given
    is_address = isinstance(source, str) and "://" in source
    is_remote_file = (
        given.startswith("http") and Path(given.split("?")[0]).suffix.lower() in VIDEOS
    )
    is_live = isinstance(source, int) or (is_address and not is_remote_file)
    found = [] if is_live or is_address else find_sources([given], reading, arguments.fps)
    if len(found) > 1:
        raise ValueError(f"{given} contains {len(found)} videos; give one of them.")
    name = f"camera-{source}"
    if not isinstance(source, int):
        name = find_sources([given], reading)[0].name
    feed = Feed(
        source if is_live or is_address else Path(given).expanduser(),
        reading,
        name=name,
        log=console.log,
        is_live=is_live,
        fast=arguments.as_fast_as_possible,
        timeout=arguments.timeout,
        fps=arguments.fps,
    )
    return feed, found
