"""``skavid segment``: write overlays, masks, boxes and scores, and list the events of videos."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skavid import __version__
from skavid.cli import outputs
from skavid.cli.console import Console, CtrlC, irregular
from skavid.cli.events import Event, Events
from skavid.cli.models import open_model_and_sources
from skavid.cli.outputs import check_file
from skavid.cli.scoring import (
    COLUMNS,
    Scorer,
    Totals,
    exit_code,
    frame_rate,
    score_sources,
    table_row,
)
from skavid.core.anomaly_maps import AnomalyMaps
from skavid.datasets import sources
from skavid.datasets.sources import Sample, Source
from skavid.video import OverlayWriter
from skavid.video.frames import pixel_aspect
from skavid.video.pictures import import_pillow
from skavid.wording import clock, counted, listed, pixels_of, visible
from skavid.writing import check_parent, naming

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

MAX_LISTED = 10  # events

Writer = Callable[[Sample, AnomalyMaps, int], None]  # writes row i of a batch


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Segment images, and write what was asked for."""
    targets = {
        f"--{name}": getattr(arguments, name) for name in ("overlay", "masks", "coco", "scores")
    }
    _check_outputs(arguments)
    detector, reading, found, ignored = open_model_and_sources(arguments, console, targets)
    if arguments.overlay is not None and arguments.overlay.suffix:
        _check_one_size(found)
    display = any((arguments.overlay, arguments.masks, arguments.coco))
    totals = Totals()
    events = _EventList(arguments.max_gap, arguments.persistence)
    scorer = Scorer(detector, average_frames=arguments.average_frames)
    with CtrlC() as stop:
        with ExitStack() as exits:
            writers: list[Writer] | None = None
            for batch, maps, is_first in score_sources(
                found, scorer, reading, console, stop, display=display
            ):
                if writers is None:  # the first images could be read: now the outputs may begin
                    writers = _open_writers(arguments, found, batch, ignored, exits)
                if is_first:
                    events.begin(batch[0].name)
                for row, sample in enumerate(batch):
                    events.push(sample, float(maps.scores[row]), maps.why[row])
                    for write in writers:
                        write(sample, maps, row)
                totals.add(batch, maps)
        listed = events.finish()
        written = [str(target) for target in targets.values() if target is not None]
        result = totals.facts() | {"events": listed, "outputs": written}
        summary = irregular(totals.n_irregular, totals.n, reading.unit, totals.reasons)
        console.print_result(result, _text(summary, totals.lines(), listed, written))
        where = f"are in {', '.join(written)}" if written else "were printed"
        done = counted(totals.n, reading.unit)
        return exit_code(stop, console, done, f"the results so far {where}")


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Raise an error for an output that cannot be written, before anything is read."""
    check_file("--coco", arguments.coco, ".json")
    if arguments.coco is not None:
        outputs.import_coco_mask()
    check_file("--scores", arguments.scores, *outputs.TABLES)
    if arguments.scores is not None:
        outputs.check_table(arguments.scores)
    folders = [arguments.masks]
    overlay = arguments.overlay
    if overlay is not None and not overlay.suffix:
        folders.append(overlay)
    elif overlay is not None and overlay.suffix.lower() != ".mp4":
        raise ValueError(
            f"--overlay must end with .mp4, or be a folder without a suffix. Got {overlay}."
        )
    else:
        check_file("--overlay", overlay, ".mp4")
        if overlay is not None:
            import_pillow()
    for folder in folders:
        if folder is not None:
            import_pillow()
            check_parent(folder)
            outputs.check_folder(folder)


def _check_one_size(found: list[Source]) -> None:
    """Raise an error for images of several sizes, which one video cannot show."""
    first: tuple[str, tuple[int, ...]] | None = None
    aspects = {source.name: _pixel_aspect(source) for source in found}
    if len(set(aspects.values())) > 1:
        named = listed([f"{one:.3g} in {name}" for name, one in aspects.items()])
        raise ValueError(
            "--overlay with .mp4 needs pixels of one shape, but their width relative to their "
            f"height is {named}; segment the videos one by one."
        )
    for source in found:
        for name, shape in sources.read_shapes(source):
            first = first or (name, shape)
            if shape != first[1]:
                raise ValueError(
                    f"--overlay with .mp4 needs images of one size, but {first[0]} has "
                    f"{pixels_of(first[1])}, and {name} has {pixels_of(shape)}; give a folder, "
                    "such as --overlay odd."
                )


def _pixel_aspect(source: Source) -> float:
    is_film = source.kind == "video" and "://" not in str(source.path)
    return pixel_aspect(Path(source.path)) if is_film else 1.0


def _open_writers(
    arguments: argparse.Namespace,
    found: list[Source],
    batch: list[Sample],
    ignored: NDArray[np.bool_] | None,
    exits: ExitStack,
) -> list[Writer]:
    """Open the outputs, which are complete once ``exits`` is left without an error."""
    names = _picture_names(found)
    writers: list[Writer] = []
    if arguments.masks is not None:
        writers.append(_mask_writer(arguments.masks, names, exits))
    if arguments.coco is not None:
        writers.append(_coco_writer(arguments.coco, exits))
    if arguments.scores is not None:
        writers.append(_score_writer(arguments.scores, exits))
    if arguments.overlay is not None:
        if batch[0].display_image is None:
            raise ValueError(
                "--overlay needs images to draw on, but these arrays are neither grey nor colour "
                "images of uint8; use --masks."
            )
        if arguments.overlay.suffix:
            rate = frame_rate(batch)
            if ignored is not None:
                ignored = outputs.in_original(ignored, batch[0], fill=True)
            aspect, is_named = _pixel_aspect(found[0]), len(found) > 1
            writers.append(
                _video_writer(arguments.overlay, rate, aspect, ignored, exits, is_named=is_named)
            )
        else:
            aspects = {source.name: _pixel_aspect(source) for source in found}
            writers.append(_overlay_writer(arguments.overlay, names, aspects, ignored, exits))
    return writers


def _mask_writer(folder: Path, names: dict[str, str], exits: ExitStack) -> Writer:
    temporary = exits.enter_context(outputs.folder_beside(folder))

    def write(sample: Sample, maps: AnomalyMaps, row: int) -> None:
        mask = outputs.in_original(maps.evidence[row] >= 0, sample)
        with naming(folder):
            outputs.save_picture(temporary, _file_name(sample, names), np.uint8(255) * mask)

    return write


def _coco_writer(path: Path, exits: ExitStack) -> Writer:
    coco = exits.enter_context(outputs.CocoWriter(path, {"description": f"skavid {__version__}"}))

    def write(sample: Sample, maps: AnomalyMaps, row: int) -> None:
        height, width = outputs.original_size(sample)
        image: dict[str, Any] = {"file_name": sample.file_name, "width": width, "height": height}
        image["source"] = sample.name  # as in tables of scores and in events
        if sample.time is not None:
            image |= {"frame": sample.index, "time": round(sample.time, 4)}
        image["score"] = float(maps.scores[row])
        image["as_a_whole"] = bool(maps.irregular_as_a_whole[row])
        image["reason"] = maps.why[row]
        findings = maps.find(row)
        mask = maps.evidence[row] >= 0
        coco.write(
            image,
            outputs.describe_patches(findings, mask, sample, encode=outputs.encode_mask),
        )

    return write


def _score_writer(path: Path, exits: ExitStack) -> Writer:
    write_rows = exits.enter_context(outputs.table(path, COLUMNS))

    def write(sample: Sample, maps: AnomalyMaps, row: int) -> None:
        write_rows([table_row(sample, maps, row)])

    return write


def _video_writer(
    path: Path,
    fps: float,
    aspect: float,
    ignored: NDArray[np.bool_] | None,
    exits: ExitStack,
    *,
    is_named: bool,
) -> Writer:
    video = exits.enter_context(
        OverlayWriter(path, fps=fps, ignore_mask=ignored, pixel_aspect=aspect)
    )
    begin, last, source = 0.0, -1 / fps, ""  # of the source, in the overlay

    def write(sample: Sample, maps: AnomalyMaps, row: int) -> None:
        nonlocal begin, last, source
        assert sample.display_image is not None
        if sample.time is None or sample.name != source:  # the next video follows this one
            begin, source = last + 1 / fps, sample.name
        last = begin + (sample.time or 0.0)
        mask = outputs.in_original(maps.evidence[row] >= 0, sample)
        regularity = outputs.in_original(maps.regularity[row], sample, fill=1)
        score, note = float(maps.scores[row]), maps.why[row]
        if is_named:  # the events are listed by the name of a source and the time in it
            name = sample.name if sample.time is None else f"{sample.name} {clock(sample.time)}"
            note = f"{name}: {note}" if note else name
        video.write(
            sample.display_image, mask=mask, regularity=regularity, score=score, time=last,
            note=note,
        )  # fmt: skip

    return write


def _overlay_writer(
    folder: Path, names: dict[str, str], aspects: dict[str, float],
    ignored: NDArray[np.bool_] | None, exits: ExitStack,
) -> Writer:  # fmt: skip
    temporary = exits.enter_context(outputs.folder_beside(folder))

    def write(sample: Sample, maps: AnomalyMaps, row: int) -> None:
        assert sample.display_image is not None
        drawn = outputs.draw_results(sample, maps, row, ignored)
        drawn = outputs.in_square_pixels(drawn, aspects.get(sample.name, 1.0))
        with naming(folder):
            outputs.save_picture(temporary, _file_name(sample, names), drawn)

    return write


def _file_name(sample: Sample, names: dict[str, str]) -> str:
    return names.get(sample.name) or f"{sample.name}/{sample.index:06d}.png"


def _picture_names(found: Sequence[Source]) -> dict[str, str]:
    """Map pictures to names of outputs: 7.jpg to 7.png, but to 7.jpg.png beside another 7."""
    short = {
        source.name_of(path, page): source.name_of(path.with_suffix(""), page) + ".png"
        for source in found
        for path, page in source.images()
    }
    # Some systems ignore case in file names.
    numbers = Counter(name.lower() for name in short.values())
    ambiguous = {PurePosixPath(name).parent for name in short if numbers[short[name].lower()] > 1}
    return {
        name: f"{name}.png" if PurePosixPath(name).parent in ambiguous else short[name]
        for name in short
    }


class _EventList:
    """The events of all videos; pictures that are not frames of a video have none."""

    def __init__(self, max_gap: float, persistence: tuple[int, int]) -> None:
        self.max_gap, self.persistence = max_gap, persistence
        self._rows: list[dict[str, Any]] = []
        self._name: str | None = None

    def begin(self, name: str) -> None:
        """Begin another source."""
        self._close()
        self._name = name
        self._events = Events(self.max_gap, self.persistence)

    def push(self, sample: Sample, score: float, reason: str) -> None:
        """Add the next image."""
        if sample.time is not None:
            self._add(self._events.push(sample.time, score, reason))

    def finish(self) -> list[dict[str, Any]]:
        """Return all events, the most irregular one first."""
        self._close()
        return sorted(self._rows, key=lambda row: -row["peak"])

    def _close(self) -> None:
        if self._name is not None:
            self._add(self._events.close())

    def _add(self, changes: Iterator[tuple[str, Event]]) -> None:
        for phase, event in changes:
            if phase == "end":
                fields = ("start", "end", "peak", "peak_time")
                values = {name: round(getattr(event, name), 4) for name in fields}
                self._rows.append({"source": self._name, **values, "reason": event.reason})


def _text(
    summary: str, images: list[str], events: list[dict[str, Any]], written: list[str]
) -> str:
    lines = [f"{summary}.", *images]
    if events:
        order = ", the most irregular first" if len(events) > 1 else ""
        order += f" ({MAX_LISTED} of them)" if len(events) > MAX_LISTED else ""
        lines.append(f"{counted(len(events), 'event')}{order}:")
        lines += [
            f"    {clock(event['start'])} to {clock(event['end'])}  {visible(event['source'])}  "
            f"(peak at {clock(event['peak_time'])}, evidence {event['peak']:.2f}"
            f"{event['reason'] and ', camera trouble: ' + event['reason']})"
            for event in events[:MAX_LISTED]
        ]
    if written:
        lines.append(f"Written: {', '.join(written)}")
    return "\n".join(lines)
