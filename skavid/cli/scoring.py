"""Score sources image by image, in batches: the loop of score, segment and evaluate."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skavid.cli.console import INTERRUPTED, SUCCESS, Console, CtrlC
from skavid.core.anomaly_maps import LOG_LIMIT, AnomalyMaps
from skavid.datasets import sources
from skavid.datasets.sources import Reading, Sample, Source
from skavid.estimator import AVIDDetector
from skavid.temporal import causal_mean, count_still
from skavid.wording import counted, visible

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

BATCH_SIZE, BATCH_BYTES = 64, 2**27
BATCH_TILES = 16
FROZEN_AFTER = 1.0  # seconds
OTHER_VIEW, STILL_OTHER_VIEW = 0.5, 0.3  # irregular shares of a frame: of the first, of the next
MAX_LISTED = 20  # irregular images
SAME_FRAME_RATE = 1.3  # ratio up to which a model sees the same speeds
COLUMNS: dict[str, type] = {
    "source": str, "frame": int, "time": float, "score": float, "irregular": bool,
    "as_a_whole": bool, "reason": str,
}  # fmt: skip


class Scorer:
    """Score images in order of time; their evidence may be averaged over several frames.

    Frames of video are irregular, too, where the camera is frozen: where no pixel has changed for
    longer than a second, and twice the longest such time of the training. No stack shows that by
    itself, as the first one of a clip repeats a frame. Where most of a frame is irregular, the
    camera shows another view: what moves is smaller.
    """

    def __init__(
        self, detector: AVIDDetector, *, average_frames: int = 1, finds_trouble: bool = True
    ) -> None:
        self.detector = detector
        self.average_frames = average_frames
        self._is_stacked = detector.component("corruption").spacing is not None
        self._finds_trouble = finds_trouble
        longest = getattr(detector, "extra_", {}).get("longest_still") if finds_trouble else None
        self._most_still = FROZEN_AFTER + 2 * longest if isinstance(longest, float) else math.inf
        self.begin()

    def begin(self) -> None:
        """Begin another clip: earlier images are no longer averaged with the next ones."""
        self._before: list[NDArray[np.float32]] = []
        self._still_since: float | None = None
        self._is_other_view = False

    def score(
        self, images: Sequence[NDArray[Any]], times: Sequence[float | None] = ()
    ) -> AnomalyMaps:
        """Return the maps of the next images, with averaged evidence if this was asked for.

        Frozen frames are found where the times of all images are known, in seconds.
        """
        maps = self.detector.maps(np.stack(images), inpainted=False)
        if self.average_frames > 1:
            n_before = len(self._before)
            evidence = np.concatenate([*(one[None] for one in self._before), maps.evidence])
            self._before = list(evidence[-(self.average_frames - 1) :])
            maps = maps.with_evidence(causal_mean(evidence, self.average_frames)[n_before:])
        if self._finds_trouble and self._is_stacked:
            maps = maps.with_reason(self._find_other_view(maps), "another view")
        known = [time for time in times if time is not None]
        if math.isfinite(self._most_still) and len(known) == len(images):
            frozen = self._find_frozen(np.stack(images), known)
            if frozen.any():
                maps = maps.with_frozen(frozen)
        return maps

    def _find_other_view(self, maps: AnomalyMaps) -> NDArray[np.bool_]:
        does_count = maps.logits < LOG_LIMIT
        shares = maps.mask.sum((1, 2)) / np.maximum(does_count.sum((1, 2)), 1)
        found = np.zeros(len(shares), bool)
        for i, share in enumerate(shares):
            # With two limits a share that varies about one of them makes one event, not many.
            self._is_other_view = share > (STILL_OTHER_VIEW if self._is_other_view else OTHER_VIEW)
            found[i] = self._is_other_view
        return found

    def _find_frozen(self, images: NDArray[Any], times: Sequence[float]) -> NDArray[np.bool_]:
        ignored = self.detector.ignore_mask
        frozen = np.zeros(len(images), bool)
        for i, count in enumerate(count_still(images, ignore_mask=ignored)):
            if count == 0:
                self._still_since = None
            elif self._still_since is None:
                self._still_since = times[i]
            else:
                frozen[i] = times[i] - self._still_since > self._most_still
        return frozen


class Totals:
    """Numbers of images, of irregular ones, and of those that are irregular as a whole.

    Irregular images are kept by name, except the frames of videos, which belong to events.
    """

    def __init__(self) -> None:
        self.n = self.n_irregular = 0
        self.reasons: Counter[str] = Counter()  # of images that are irregular as a whole
        self._listed: list[dict[str, Any]] = []

    def add(self, batch: list[Sample], maps: AnomalyMaps) -> None:
        """Count the images of a batch."""
        self.n += len(maps.scores)
        self.n_irregular += int((maps.scores <= 0).sum())
        self.reasons.update(reason for reason in maps.why if reason)
        for sample, score, reason in zip(batch, maps.scores, maps.why, strict=True):
            if score <= 0 and sample.time is None:
                is_file = sample.file_name == sample.name  # others are rows of an array
                name = sample.name if is_file else f"{sample.name}[{sample.index}]"
                row = {"source": name, "score": float(score), "reason": reason}
                self._listed.append(row)

    def irregular_images(self) -> list[dict[str, Any]]:
        """Return the irregular images, the most irregular one first."""
        return sorted(self._listed, key=lambda row: row["score"])

    def facts(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        whole = {"as_a_whole": self.reasons.total(), "reasons": dict(self.reasons)}
        numbers = {"images": self.n, "irregular": self.n_irregular, **whole}
        return numbers | {"irregular_images": self.irregular_images()}

    def lines(self) -> list[str]:
        """List the irregular images for the terminal."""
        rows = self.irregular_images()
        if not rows:
            return []
        order = ", the most irregular first" if len(rows) > 1 else ""
        order += f" ({MAX_LISTED} of them)" if len(rows) > MAX_LISTED else ""
        return [
            f"{counted(len(rows), 'irregular image')}{order}:",
            *(
                f"    {visible(row['source'])}  (score {row['score']:.3g}"
                f"{row['reason'] and ', unlike the training images as a whole: ' + row['reason']})"
                for row in rows[:MAX_LISTED]
            ),
        ]


def score_sources(
    found: list[Source],
    scorer: Scorer,
    reading: Reading,
    console: Console,
    stop: CtrlC,
    *,
    display: bool,
) -> Iterator[tuple[list[Sample], AnomalyMaps, bool]]:
    """Yield batches of samples, their maps, and whether a batch is the first of its source."""
    if reading.tiled and scorer.average_frames > 1:
        raise ValueError(
            "--average-frames averages frames of one size, but the model cuts images into tiles; "
            "leave it out."
        )
    numbers = [source.n_images() for source in found]
    total = None if None in numbers else sum(number or 0 for number in numbers)
    n_read = 0
    with console.progress(total, reading.unit) as bar:
        for source, number in zip(found, numbers, strict=True):
            scorer.begin()
            is_first = True
            samples = sources.read_source(source, reading, display=display)
            for batch in ([one] for one in samples) if reading.tiled else _batches(samples):
                if is_first:
                    _note_frame_rate(source, batch, scorer.detector, console)
                    _note_single_image(source, number, reading, console)
                n_read += len(batch)
                if reading.tiled:
                    maps, _ = score_tiles(scorer.detector, batch[0].image, reading)
                else:
                    maps = scorer.score(
                        [sample.image for sample in batch], [sample.time for sample in batch]
                    )
                yield batch, maps, is_first
                is_first = False
                bar.update(len(batch))
                if stop.stopped:
                    return
    sources.check_any(n_read, found)


def score_tiles(
    detector: AVIDDetector, image: NDArray[Any], reading: Reading
) -> tuple[AnomalyMaps, sources.Box]:
    """Return the maps of an image that is cut into tiles, and its most irregular tile.

    Where tiles overlap, the most irregular one counts, so that the score of the image is that of
    its most irregular tile. That tile also says whether, and why, it is irregular as a whole.
    """
    assert reading.size is not None
    boxes = sources.tile_boxes(image.shape, reading.size)
    shape = image.shape[:2]
    residual, logits = np.zeros(shape, np.float32), np.full(shape, np.inf, np.float32)
    evidence = np.full(shape, -np.inf, np.float32)
    worst, reason, lowest = boxes[0], np.uint8(0), np.inf
    for start in range(0, len(boxes), BATCH_TILES):
        some = boxes[start : start + BATCH_TILES]
        places = [np.s_[top : top + high, left : left + wide] for left, top, wide, high in some]
        maps = detector.maps(np.stack([image[place] for place in places]), inpainted=False)
        for row, place in enumerate(places):
            np.maximum(residual[place], maps.residual[row], out=residual[place])
            np.minimum(logits[place], maps.logits[row], out=logits[place])
            np.maximum(evidence[place], maps.evidence[row], out=evidence[place])
        row = int(maps.scores.argmin())
        if maps.scores[row] < lowest:
            worst, reason, lowest = some[row], maps.reasons[row], maps.scores[row]
    joined = AnomalyMaps(
        residual[None], logits[None], rule=detector.rule_, reasons=np.array([reason]),
        evidence=evidence[None],
    )  # fmt: skip
    return joined, worst


def _batches(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        display_image = sample.display_image
        size = sample.image.nbytes + (0 if display_image is None else display_image.nbytes)
        if len(batch) >= max(1, min(BATCH_SIZE, BATCH_BYTES // size)):
            yield batch
            batch = []
    if batch:
        yield batch


def _note_single_image(
    source: Source, n_images: int | None, reading: Reading, console: Console
) -> None:
    """Note a picture that a model of video takes for a frame."""
    if reading.stacking is not None and n_images == 1 and not source.has_timestamps():
        console.log(
            f"Note: {source.name} is a single image, in which nothing moves, but the model was "
            "trained on video; give a video, or a folder of frames."
        )


def _note_frame_rate(
    source: Source, batch: list[Sample], detector: AVIDDetector, console: Console
) -> None:
    """Note a frame rate other than that of the training."""
    trained = getattr(detector, "extra_", {}).get("fps")
    if not isinstance(trained, float) or trained <= 0:
        return
    if len(batch) < 3 or not source.has_timestamps():
        return
    rate = frame_rate(batch)
    if not 1 / SAME_FRAME_RATE <= rate / trained <= SAME_FRAME_RATE:
        console.log(
            f"Note: {source.name} has {rate:.3g} frames per second, but the training data had "
            f"{trained:.3g}; objects seem to move {'slower' if rate > trained else 'faster'} than "
            "they do."
        )


def frame_rate(batch: list[Sample]) -> float:
    """Return the median frame rate; single images are shown for half a second each."""
    times = [sample.time for sample in batch if sample.time is not None]
    steps = sorted(after - before for before, after in pairwise(times) if after > before)
    if steps:
        return 1 / steps[len(steps) // 2]
    return 25.0 if times else 2.0


def table_rows(batch: list[Sample], maps: AnomalyMaps) -> list[dict[str, Any]]:
    """Return one row per image for a table of scores."""
    return [table_row(sample, maps, row) for row, sample in enumerate(batch)]


def table_row(sample: Sample, maps: AnomalyMaps, row: int) -> dict[str, Any]:
    """Return the row of one image; its names are those of `COLUMNS`."""
    score = float(maps.scores[row])
    return {
        "source": sample.name,
        "frame": sample.index,
        "time": None if sample.time is None else round(sample.time, 4),
        "score": score,
        "irregular": score <= 0,
        "as_a_whole": bool(maps.irregular_as_a_whole[row]),
        "reason": maps.why[row],
    }


def exit_code(stop: CtrlC, console: Console, done: str, kept: str) -> int:
    """Return the exit code; after Ctrl-C also print the results that are kept."""
    if not stop.stopped:
        return SUCCESS
    console.error(f"interrupted after {done}; {kept}.")
    return INTERRUPTED
