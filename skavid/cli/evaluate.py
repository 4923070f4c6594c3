"""``skavid evaluate``: measure a model against labels or masks."""

from __future__ import annotations

import argparse
import tempfile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from skavid.cli import scoring
from skavid.cli.console import SUCCESS, Console, CtrlC
from skavid.cli.ground_truth import (
    check_ground_truth,
    load_dataset,
    open_model_for_dataset,
    read_ground_truth,
)
from skavid.cli.models import open_model_and_sources, set_ignore_mask
from skavid.core.anomaly_maps import AnomalyMaps
from skavid.estimator import AVIDDetector
from skavid.report import evaluation

__all__: list[str] = []  # a part of the command line: nothing here is promised to users


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Score images, and print measures."""
    if [arguments.dataset, arguments.masks, arguments.labels].count(None) != 2:
        raise ValueError("give the ground truth by one of --dataset, --masks and --labels.")
    evaluate = _evaluate_dataset if arguments.dataset else _evaluate_sources
    with tempfile.TemporaryFile() as file, CtrlC() as stop:
        result, unit, detector = evaluate(arguments, console, _Scores(file), stop)
    fpr = evaluation.most_alarms(detector, unit)
    console.print_result(result, evaluation.format_metrics(result, unit, fpr))
    return SUCCESS


class _Scores:
    """Scores and evidence of all images; the evidence is kept in a file, not in memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._scores: list[NDArray[np.float64]] = []
        self._shape: tuple[int, ...] = ()
        self.clip_ids: list[int] = []

    def add(self, maps: AnomalyMaps, clip_id: int, size: tuple[int, int] | None = None) -> None:
        """Add a batch of one clip; its evidence is reduced to ``size``."""
        evidence = maps.evidence if size is None else _reduced(maps.evidence, size)
        self._file.write(evidence.tobytes())
        self._shape = evidence.shape[1:]
        self._scores.append(maps.scores)
        self.clip_ids += [clip_id] * len(maps.scores)

    def measure(
        self,
        labels: NDArray[np.int64],
        masks: NDArray[np.bool_] | None,
        ignored: NDArray[np.bool_] | None,
        unit: str,
        *,
        has_masks: NDArray[np.bool_] | None = None,
        kinds: list[str] | None = None,
    ) -> dict[str, Any]:
        """Compute the measures; ``has_masks`` is False where nobody drew a mask."""
        self._file.flush()
        shape = len(self.clip_ids), *self._shape
        return evaluation.compute_metrics(
            np.concatenate(self._scores),
            np.memmap(self._file, np.float32, "r", shape=shape),
            labels,
            masks,
            np.array(self.clip_ids),
            ignored,
            unit,
            has_masks=has_masks,
            kinds=kinds,
        )


def _reduced(evidence: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Reduce maps so that each pixel is the most irregular one that it covers."""
    for axis, side in enumerate(size, start=1):
        firsts = np.arange(side) * evidence.shape[axis] // side
        evidence = np.maximum.reduceat(evidence, firsts, axis=axis)
    return evidence


def _evaluate_dataset(
    arguments: argparse.Namespace, console: Console, scores: _Scores, stop: CtrlC
) -> tuple[dict[str, Any], str, AVIDDetector]:
    detector, reading = open_model_for_dataset(arguments)
    ignored = set_ignore_mask(arguments, detector, reading, [])
    images, ids, data = load_dataset(arguments, reading, "test")
    scorer = scoring.Scorer(detector, average_frames=arguments.average_frames, finds_trouble=False)
    with console.progress(len(images), reading.unit) as bar:
        for clip_id in np.unique(ids):
            scorer.begin()
            rows = np.flatnonzero(ids == clip_id)
            for start in range(0, len(rows), scoring.BATCH_SIZE):
                batch = rows[start : start + scoring.BATCH_SIZE]
                scores.add(scorer.score(list(images[batch])), clip_id)
                bar.update(len(batch))
                if stop.stopped:
                    raise KeyboardInterrupt
    result = scores.measure(
        data.labels, data.masks, ignored, reading.unit, has_masks=data.get("has_masks"),
        kinds=data.get("kinds"),
    )  # fmt: skip
    return result, reading.unit, detector


def _evaluate_sources(
    arguments: argparse.Namespace, console: Console, scores: _Scores, stop: CtrlC
) -> tuple[dict[str, Any], str, AVIDDetector]:
    detector, reading, found, ignored = open_model_and_sources(arguments, console, {})
    truth = read_ground_truth(arguments, found, reading, detector)
    scorer = scoring.Scorer(detector, average_frames=arguments.average_frames, finds_trouble=False)
    clip_id, names = -1, []
    for batch, maps, is_first in scoring.score_sources(
        found, scorer, reading, console, stop, display=False
    ):
        clip_id += is_first
        scores.add(maps, clip_id, reading.size if reading.tiled else None)
        names += [sample.name for sample in batch]
    if stop.stopped:
        raise KeyboardInterrupt
    truth = truth.of(names)
    check_ground_truth(arguments, truth, len(names), reading.unit)
    labels, masks, kinds, _ = truth
    if labels is None:
        assert masks is not None
        labels = np.where(masks.any(axis=(1, 2)), -1, 1)
    result = scores.measure(labels, masks, ignored, reading.unit, kinds=kinds)
    return result, reading.unit, detector
