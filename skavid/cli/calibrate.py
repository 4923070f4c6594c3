"""``skavid calibrate``: find or set new thresholds, without training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skavid.cli import scoring
from skavid.cli.console import SUCCESS, Console, CtrlC
from skavid.cli.ground_truth import check_ground_truth, read_ground_truth
from skavid.cli.models import (
    CRITERIA,
    MAX_NAMES,
    check_model_target,
    check_number,
    model_facts,
    open_model,
    open_model_and_sources,
    thresholds_text,
)
from skavid.cli.outputs import check_targets, temporary_folder
from skavid.core import calibration
from skavid.datasets import sources
from skavid.datasets.sources import Reading, Source
from skavid.estimator import AVIDDetector
from skavid.report import evaluation
from skavid.wording import counted

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

Calibrated = tuple[AVIDDetector, dict[str, Any], list[str]]  # notes to keep, lines to print


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Find or set the thresholds of a model, and write it."""
    _check_arguments(arguments)
    target = arguments.model if arguments.output is None else arguments.output
    if arguments.output is not None:
        check_model_target(target, "give another name for --output")
    if not arguments.sources:
        detector, _ = open_model(arguments)
        check_targets({"--output": arguments.output}, [], arguments.model, arguments.force)
        alpha, zeta = arguments.alpha, arguments.zeta
        calibrated = detector.with_thresholds(
            detector.alpha_ if alpha is None else alpha, detector.zeta_ if zeta is None else zeta
        )
        notes: dict[str, Any] = {}
        lines: list[str] = []
    else:
        detector, reading, found, _ = open_model_and_sources(
            arguments, console, {"--output": arguments.output}
        )
        find = _calibrate if arguments.labels is None else _choose_on_labels
        calibrated, notes, lines = find(arguments, detector, reading, found, console)
    kept = getattr(detector, "extra_", {})
    dropped = ("calibrated_on", "chosen_on_labels")
    calibrated.extra_ = {name: kept[name] for name in kept if name not in dropped} | notes
    calibrated.save(target, compact=kept.get("compact", False))
    before = {"alpha": detector.alpha_, "zeta": detector.zeta_}
    result = {**model_facts(calibrated), "before": before, "model": str(target)}
    text = [
        f"Before: alpha {before['alpha']:.4g}, zeta {before['zeta']:.4g}.",
        *lines,
        thresholds_text(calibrated),
        f"The model is in {target}.",
    ]
    console.print_result(result, "\n".join(text))
    return SUCCESS


def _check_arguments(arguments: argparse.Namespace) -> None:
    by_hand = arguments.alpha is not None or arguments.zeta is not None
    if by_hand and (arguments.sources or arguments.labels or arguments.ignore):
        raise ValueError(
            "--alpha and --zeta set the thresholds by hand; give no SOURCE, --labels or --ignore "
            "with them."
        )
    if not by_hand and not arguments.sources:
        if arguments.labels is not None:
            raise ValueError("--labels needs the labelled images; give their SOURCE, too.")
        raise ValueError(
            "give normal images, labelled images with --labels, or --alpha and --zeta."
        )
    if arguments.labels is not None and arguments.target_fpr is not None:
        raise ValueError(
            "--target-fpr needs normal images alone, and --labels chooses the thresholds by "
            "--criterion; give one of them."
        )
    if arguments.criterion is not None and arguments.labels is None:
        raise ValueError("--criterion needs --labels.")


def _calibrate(
    arguments: argparse.Namespace, detector: AVIDDetector, reading: Reading, found: list[Source],
    console: Console,
) -> Calibrated:  # fmt: skip
    """Find thresholds on normal images."""
    _note_training_data(found, detector, console)
    if reading.tiled:
        return _calibrate_on_scores(arguments, detector, reading, found, console)
    total = sum(source.n_images() or 0 for source in found) or None
    with temporary_folder(arguments.output or arguments.model) as folder:
        with console.progress(total, reading.unit) as bar:
            images, ids, fps = sources.load_images(
                found, reading, Path(folder), lambda _: bar.update()
            )
        check_number(len(images), reading.unit, "find thresholds on")
        groups = sources.split_clips(ids, fps) if reading.stacking is not None else None
        console.log(f"Scoring {counted(len(images), reading.unit)} ...")
        thresholds = detector.calibrate(
            images, target_fpr=arguments.target_fpr or 0.01, groups=groups
        )
    calibrated = detector.with_thresholds(
        thresholds.alpha, thresholds.zeta, calibration=thresholds
    )
    return calibrated, {"calibrated_on": _names(found)}, []


def _calibrate_on_scores(
    arguments: argparse.Namespace, detector: AVIDDetector, reading: Reading, found: list[Source],
    console: Console,
) -> Calibrated:  # fmt: skip
    """Move both thresholds along their ray by the scores of whole images, cut into tiles."""
    target_fpr = arguments.target_fpr or 0.01
    scores, _ = _score_all(detector, reading, found, console)
    n = len(scores)
    check_number(n, reading.unit, "find thresholds on")
    cut = float(np.sort(scores)[calibration.conformal_count(n, target_fpr) - 1])
    basis = calibration.basis(n, None, target_fpr)
    calibration.warn_if_few(basis, target_fpr)
    moved = calibration.move_thresholds(detector.alpha_, detector.zeta_, -cut)
    facts = {"target_fpr": target_fpr, "normal_scores": np.sort(scores) - cut, **basis}
    calibrated = detector.with_thresholds(*moved, calibration=facts)
    return calibrated, {"calibrated_on": _names(found)}, []


def _score_all(
    detector: AVIDDetector, reading: Reading, found: list[Source], console: Console
) -> tuple[NDArray[np.float64], list[str]]:
    """Return the scores and the names of all images."""
    scores: list[NDArray[np.float64]] = []
    names: list[str] = []
    scorer = scoring.Scorer(detector, finds_trouble=False)
    with CtrlC() as stop:
        for batch, maps, _ in scoring.score_sources(
            found, scorer, reading, console, stop, display=False
        ):
            scores.append(maps.scores)
            names += [sample.name for sample in batch]
    if stop.stopped:
        raise KeyboardInterrupt
    return np.concatenate(scores), names


def _choose_on_labels(
    arguments: argparse.Namespace, detector: AVIDDetector, reading: Reading, found: list[Source],
    console: Console,
) -> Calibrated:  # fmt: skip
    """Find the thresholds that separate labelled images best, along the ray of both."""
    truth = read_ground_truth(arguments, found, reading, detector)
    every_score, names = _score_all(detector, reading, found, console)
    truth = truth.of(names)
    check_ground_truth(arguments, truth, len(names), reading.unit)
    assert truth.labels is not None
    irregular = truth.labels == -1
    evaluation.check_kinds(irregular, reading.unit)
    criterion = arguments.criterion or "balanced-accuracy"
    best = {name: evaluation.best_cut(every_score, truth.labels, name) for name in CRITERIA}
    cut, value = best[criterion]
    moved = calibration.move_thresholds(detector.alpha_, detector.zeta_, -cut)
    chosen = detector.with_thresholds(*moved)
    notes = {
        "criterion": criterion,
        "value": value,
        "n_images": len(names),
        "n_irregular": int(irregular.sum()),
        "sources": _names(found),
    }
    lines = []
    for name, words in CRITERIA.items():
        flagged = every_score <= best[name][0]
        hits, alarms = (flagged & irregular).sum(), (flagged & ~irregular).sum()
        lines.append(
            f"The largest {words} on these labels: {hits} of {irregular.sum()} irregular "
            f"{reading.unit}s found, {alarms} of {(~irregular).sum()} normal ones flagged"
            f"{' (taken)' * (name == criterion)}."
        )
    lines.append(
        f"New {reading.unit}s usually give worse figures than those that the thresholds were "
        "chosen on."
    )
    return chosen, {"chosen_on_labels": notes}, lines


def _names(found: list[Source]) -> list[str]:
    return [source.file_name() for source in found[:MAX_NAMES]]


def _note_training_data(found: list[Source], detector: AVIDDetector, console: Console) -> None:
    """Note a source of the training, on which residuals are smaller than on new data."""
    trained_on = getattr(detector, "extra_", {}).get("trained_on")
    for source in found:
        # Many folders of images share a name, such as good.
        is_known = isinstance(trained_on, list) and source.file_name() in trained_on
        if is_known and source.kind != "pictures":
            console.log(
                f"Note: the model was also trained on a source named {source.file_name()}; "
                "thresholds that are found on training data are too strict."
            )
            return
