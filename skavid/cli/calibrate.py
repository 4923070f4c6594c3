"""``skavid calibrate``: find new thresholds on normal data."""

from __future__ import annotations

import argparse
from pathlib import Path

from skavid.cli.console import SUCCESS, Console
from skavid.cli.models import (
    MAX_NAMES,
    check_model_target,
    check_number,
    model_facts,
    open_model_and_sources,
    thresholds_text,
)
from skavid.cli.outputs import check_targets, temporary_folder
from skavid.datasets import sources
from skavid.datasets.sources import Source
from skavid.estimator import AVIDDetector
from skavid.wording import counted

__all__: list[str] = []  # a part of the command line: nothing here is promised to users


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Calibrate a model, and write it."""
    target = arguments.model if arguments.output is None else arguments.output
    if arguments.output is not None:
        check_model_target(target, "give another name for --output")
    detector, reading, found, _ = open_model_and_sources(arguments, console, {})
    check_targets({"--output": arguments.output}, found)
    _note_training_data(found, detector, console)
    total = sum(source.n_images() or 0 for source in found) or None
    with temporary_folder(target) as folder:
        with console.progress(total, reading.unit) as bar:
            images, ids, fps = sources.load_images(
                found, reading, Path(folder), lambda _: bar.update()
            )
        check_number(len(images), reading.unit, "find thresholds on")
        groups = sources.split_clips(ids, fps) if reading.stacking is not None else None
        console.log(f"Scoring {counted(len(images), reading.unit)} ...")
        thresholds = detector.calibrate(images, target_fpr=arguments.target_fpr, groups=groups)
    before = {"alpha": detector.alpha_, "zeta": detector.zeta_}
    calibrated = detector.with_thresholds(
        thresholds.alpha, thresholds.zeta, calibration=thresholds
    )
    calibrated.extra_ = {
        **getattr(detector, "extra_", {}),
        "calibrated_on": [source.file_name() for source in found[:MAX_NAMES]],
    }
    calibrated.save(target)
    result = {**model_facts(calibrated), "before": before, "model": str(target)}
    console.print_result(
        result,
        f"Before: alpha {before['alpha']:.4g}, zeta {before['zeta']:.4g}.\n"
        f"{thresholds_text(calibrated)}\nThe model is in {target}.",
    )
    return SUCCESS


def _note_training_data(found: list[Source], detector: AVIDDetector, console: Console) -> None:
    """Note a source of the training, on which residuals are smaller than on new data."""
    trained_on = getattr(detector, "extra_", {}).get("trained_on")
    for source in found:
        if isinstance(trained_on, list) and source.file_name() in trained_on:
            console.log(
                f"Note: the model was also trained on a source named {source.file_name()}; "
                "thresholds that are found on training data are too strict."
            )
            return
