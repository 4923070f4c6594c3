"""From the parameters and attributes of a detector to what the functions of `skavid.core` take.

The one place that chooses between networks over pixels and over a feature map.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_random_state

from skavid.checkpoint import Checkpoint, fingerprint
from skavid.components import (
    MASKING,
    check_device,
    check_groups,
    check_parameters,
    check_sides,
    check_training,
    feature_maps,
    ignored_pixels,
    is_over_pixels,
    learned_range,
)
from skavid.core import block_training, calibration, feature_pair, joined_pair, pair, pixel_pair
from skavid.core.anomaly_maps import DecisionRule
from skavid.core.corruption import CORRUPTIONS, Corrupted, complementary, inversion, masking
from skavid.core.detector_training import STEPS_PER_EPOCH
from skavid.core.features import make_features
from skavid.core.images import check_ignored, check_images, check_value_range, value_range
from skavid.core.pair import NetworkPair, Scale, Trained
from skavid.core.training import BLIND_AUC, Split, split
from skavid.exceptions import CalibrationWarning, CollapseWarning, InterruptedTrainingWarning
from skavid.persistence import versions
from skavid.sklearn_private import validate_parameters

__all__: list[str] = []  # a part of AVIDDetector: nothing here is promised to users

BASIS = ("n_images", "n_clips", "fpr_bound", "fpr_limit", "clip_risk")
"""What thresholds rest on, as `skavid.core.calibration.basis` says it."""

SCALE = ("geometry_", "object_size_", "object_speed_", "_crop_size", "_auto_filters")
"""The attributes of a detector that hold its `skavid.core.pair.Scale`."""

NETWORKS = ("features_", "inpainter_", "detector_", "whole_", "net_", "members_", "units_")
"""What a training gives a detector: the last two where it joins feature maps, else the others."""


def fit(
    detector: Any, images: NDArray[Any], y: Any, groups: Any, *, n_epochs: int, going_on: bool,
    checkpoint: str | os.PathLike[str] | None = None,
) -> None:  # fmt: skip
    """Train the networks of a detector on checked images, and find its thresholds."""
    pair.guard_forked()
    check_training(detector, images, y, going_on=going_on, stacklevel=5)
    if not going_on:
        detector.value_range_ = learned_range(detector, images)
        detector.image_shape_ = images.shape[1:]
    check_parameters(detector)
    is_stacked = detector.component("corruption").spacing is not None
    clips = check_groups(groups, len(images), is_stacked=is_stacked)
    detector._seed = draw_seed(detector.random_state)
    state = np.random.RandomState(detector._seed)
    parts = split(len(images), clips, detector.validation_fraction, state)
    scale = Scale(*(getattr(detector, name) for name in SCALE)) if going_on else None
    trained = train(
        detector, images, clips, parts, n_epochs=n_epochs, seed=detector._seed, scale=scale,
        checkpoint=checkpoint,
    )  # fmt: skip
    finish(detector, trained, clips, len(images), images)


def train(
    detector: Any,
    images: NDArray[Any],
    clips: NDArray[Any] | None,
    parts: Split,
    *,
    n_epochs: int,
    seed: int,
    scale: Scale | None,
    checkpoint: str | os.PathLike[str] | None = None,
    batches_per_epoch: int | None = None,
) -> Trained:
    """Train the networks of a detector; with a ``scale``, which is theirs, go on with them."""
    before = getattr(detector, "members_", ()) if scale is not None else ()
    names = [one.features for one in before] or feature_maps(detector, detector.image_shape_)
    if before or (scale is None and len(names) > 1):
        training = partial(train, images=images, clips=clips, parts=parts, seed=seed)
        return _train_members(
            detector, names, before, training, n_epochs=n_epochs, clips=clips,
            shape=images.shape, images=images,
        )  # fmt: skip
    learned = {
        "value_range": detector.value_range_,
        "ignore_mask": ignored_pixels(detector.ignore_mask, images.shape[1:3]),
        "seed": seed,
    }
    watched = {"callbacks": detector.callbacks, "verbose": int(detector.verbose)}
    if is_over_pixels(detector):
        settings = pixel_settings(detector, n_epochs) | learned
        settings["batches_per_epoch"] = batches_per_epoch
        return _train_on_pixels(
            detector, images, clips, parts, settings, watched, scale, checkpoint
        )
    settings = feature_settings(detector, n_epochs) | learned
    return _train_on_features(detector, images, clips, parts, settings, watched, scale)


def train_on_blocks(
    detector: Any, run: block_training.Run, surveyed: block_training.Surveyed, *,
    n_epochs: int, seed: int, scale: None = None,
) -> Trained:  # fmt: skip
    """Train the networks of a detector on images that are read in blocks; none goes on."""
    names = feature_maps(detector, surveyed.shape)
    if len(names) > 1:
        training = partial(train_on_blocks, run=run, surveyed=surveyed, seed=seed)
        return _train_members(
            detector, names, (), training, n_epochs=n_epochs, clips=None,
            shape=(surveyed.n, *surveyed.shape), keeps_interrupted=False,
        )  # fmt: skip
    settings = feature_settings(detector, n_epochs) | {
        "value_range": detector.value_range_,
        "ignore_mask": ignored_pixels(detector.ignore_mask, surveyed.shape[:2]),
        "seed": seed,
        "callbacks": detector.callbacks,
        "verbose": int(detector.verbose),
        "features": _only_map(detector),
    }
    del settings["spacing"]
    sizes = feature_pair.measure(settings["features"])
    return feature_pair.train_on_blocks(
        run, surveyed, settings, scale=sizes, filters=filter_sizes(detector, sizes.filters)
    )


def fit_blocks(detector: Any, run: block_training.Run, n_images: int) -> None:
    """Fit a detector on images that are read in blocks; if that fails, it is as it was."""
    with all_or_nothing(detector):
        validate_parameters(detector)
        check_parameters(detector)
        _check_blocks(detector)
        ignored = None if detector.ignore_mask is None else check_ignored(detector.ignore_mask)
        surveyed = run(block_training.Survey(detector.image_shape, ignored), block_training.merge)
        if surveyed.n != n_images:
            raise ValueError(f"X has {surveyed.n} images, but lengths say {n_images}.")
        head = np.stack([surveyed.head[row] for row in sorted(surveyed.head)])
        check_images(head, estimator=detector, min_images=2, ignore_mask=detector.ignore_mask)
        ends = np.array([surveyed.low, surveyed.high]).astype(surveyed.dtype)
        found = value_range(ends.reshape(2, 1, 1, 1))
        given = detector.value_range
        detector.value_range_ = found if given is None else check_value_range(given)
        detector.image_shape_ = surveyed.shape
        detector._seed = draw_seed(detector.random_state)
        trained = train_on_blocks(
            detector, run, surveyed, n_epochs=detector.max_epochs, seed=detector._seed
        )
        finish(detector, trained, None, n_images)
        detector.__dict__.pop("extra_", None)


def _check_blocks(detector: Any) -> None:
    """Refuse a detector whose training is no sum over images."""
    if is_over_pixels(detector):
        raise ValueError(
            "features='pixels' trains networks step by step, which no sum over blocks can do; "
            "take features='patches' or 'imagenet', or fit on a sample of the images."
        )
    if detector.component("corruption").spacing is not None or detector.features == "motion":
        raise ValueError(
            "corruption__spacing is that of video, whose clips are held out as a whole; fit on "
            "some clips at once, and score the others block by block."
        )
    if not isinstance(detector.contamination, str):
        raise ValueError(
            f"contamination must be 'auto' for blocks of images. Got {detector.contamination}; "
            "move the thresholds afterwards by with_thresholds."
        )


def keep(detector: Any, trained: Trained) -> None:
    """Give a detector the networks of a training, in place of those that it has."""
    for name in NETWORKS:
        detector.__dict__.pop(name, None)
    detector.geometry_, detector.object_size_, detector.object_speed_ = trained.scale[:3]
    detector._crop_size, detector._auto_filters = trained.scale[3:]
    if trained.members:
        detector.members_, detector.units_ = trained.members, trained.units
    else:
        detector.inpainter_, detector.detector_ = trained.inpainter, trained.detector
        detector.net_ = trained.net
    if trained.features is not None:
        detector.features_, detector.whole_ = trained.features, trained.whole
    detector.history_, detector.n_iter_ = trained.history, trained.n_epochs
    detector.checkpoint_ = trained.checkpoint
    detector._is_blind = trained.is_blind


def draw_seed(random_state: Any) -> int:
    """Draw the one number that everything random of a training follows from."""
    # Not check_random_state(None): that would draw from NumPy's global state.
    source = np.random.RandomState() if random_state is None else check_random_state(random_state)
    return int(source.randint(np.iinfo(np.int32).max))


def note(n_images: int, clips: NDArray[Any] | None, trained: Trained) -> dict[str, Any]:
    """Note what a detector was trained on, for its file."""
    return {
        "n_images": n_images,
        "n_held_out": trained.n_held_out,
        "n_clips": None if clips is None else len(np.unique(clips)),
        "versions": versions(),
    }


def make_pair(detector: Any, auto_filters: dict[str, int], seed: int) -> NetworkPair:
    """Return the networks of a fitted detector with all that it takes to look at images."""
    filters = filter_sizes(detector, auto_filters)
    if hasattr(detector, "members_"):
        members: list[Any] = [make_pair(one, auto_filters, seed) for one in detector.members_]
        pairs = [replace(one, filters=filters) for one in members]
        for i, one in enumerate(pairs):
            if isinstance(one, pixel_pair.PixelPair):
                pairs[i] = replace(one, judges=bool(detector.units_[i, 0, 1] > 0))
        return joined_pair.JoinedPair(tuple(pairs), detector.units_)
    networks = detector.inpainter_, detector.detector_
    if is_over_pixels(detector):
        reduction = detector.component("postprocessing").channel_reduction
        draws = masking_draws(detector, seed)
        return pixel_pair.PixelPair(*networks, detector.geometry_, filters, reduction, draws)
    return feature_pair.FeaturePair(
        detector.features_, *networks, detector.whole_, detector.geometry_, filters
    )


def make_rule(detector: Any, *, is_blind: bool) -> DecisionRule:
    """Return the thresholds of a fitted detector; where D is blind, I decides alone."""
    processing = detector.component("postprocessing")
    return DecisionRule(
        detector.alpha_,
        detector.zeta_,
        "inpainter" if is_blind else detector.fusion,
        detector.balance_,
        processing.min_area,
        processing.min_area_of,
    )


def move_normal_scores(detector: Any, rule: DecisionRule) -> None:
    """Bring the scores of held-out images from the thresholds of a rule to those in use."""
    scores = getattr(detector, "normal_scores_", None)
    shift = calibration.evidence_shift(rule, detector.rule_)
    detector.normal_scores_ = None if scores is None or shift is None else scores - shift


def looking(detector: Any, images: NDArray[Any]) -> dict[str, Any]:
    """Return how a fitted detector looks at images, beside its networks."""
    return {
        "value_range": detector.value_range_,
        "ignore_mask": ignored_pixels(detector.ignore_mask, images.shape[1:3]),
        "device": check_device(detector.device),
        "memory": detector.memory,
    }


def _train_on_pixels(
    detector: Any,
    images: NDArray[Any],
    clips: NDArray[Any] | None,
    parts: Split,
    settings: dict[str, Any],
    watched: dict[str, Any],
    scale: Scale | None,
    checkpoint: str | os.PathLike[str] | None,
) -> Trained:
    net = None if scale is None else detector.net_
    scene = pixel_pair.cached_scene(images, clips, parts, settings, detector.memory)
    if scale is None:
        regions = detector.component("detector")
        scale = pixel_pair.measure(
            scene,
            images.shape[1:3],
            geometry=regions.geometry,
            region_size=regions.region_size,
            crop_size=detector.component("training").crop_size,
        )
    settings |= {"geometry": scale.geometry, "crop_size": scale.crop_size}
    kept = None
    if checkpoint is not None:
        found = fingerprint(images, decisive_parameters(detector, settings, clips))
        kept = Checkpoint(checkpoint, found)
    return pixel_pair.train(
        images, clips, parts, settings, scale=scale, scene=scene, memory=detector.memory,
        net=net, checkpoint=kept, **watched,
    )  # fmt: skip


def _train_on_features(
    detector: Any,
    images: NDArray[Any],
    clips: NDArray[Any] | None,
    parts: Split,
    settings: dict[str, Any],
    watched: dict[str, Any],
    scale: Scale | None,
) -> Trained:
    known = None if scale is None else (detector.inpainter_, detector.whole_, detector.net_)
    scene = pixel_pair.cached_scene(images, clips, parts, settings, detector.memory)
    if scale is None:
        settings["features"] = _only_map(detector)
        scale = feature_pair.measure(settings["features"], scene)
    else:
        settings["features"] = detector.features_
    return feature_pair.train(
        images, clips, parts, settings, scale=scale, filters=filter_sizes(detector, scale.filters),
        memory=detector.memory, known=known, scene=scene, **watched,
    )  # fmt: skip


def _only_map(detector: Any) -> Any:
    """Build the feature map of a detector that has one."""
    return make_features(feature_maps(detector, detector.image_shape_)[0], detector.image_shape_)


def _train_members(
    detector: Any, names: list[str], knowing: tuple[Any, ...],
    training: Callable[..., Trained], *,
    n_epochs: int, clips: NDArray[Any] | None, shape: tuple[int, ...],
    images: Any = None, keeps_interrupted: bool = True,
) -> Trained:  # fmt: skip
    """Train a detector on each feature map, and find the units in which their maps compare.

    Those that know something already, if there are any, go on.
    """
    for name in () if knowing else names:  # images that a map cannot take cost no training
        if name != "pixels":
            make_features(name, shape[1:])  # type: ignore[arg-type]
    members: list[Any] = []
    found: list[Trained] = []
    for name, before in zip(names, knowing or [None] * len(names), strict=True):
        member = copy.copy(detector)
        member.features, scale = name, None
        member.__dict__.pop("extra_", None)  # notes on an earlier training
        for own in NETWORKS:
            member.__dict__.pop(own, None)
        if before is not None:
            member.__dict__.update(
                {own: vars(before)[own] for own in NETWORKS if own in vars(before)}
            )
            scale = Scale(*(getattr(before, own) for own in SCALE))
        given = {}
        if is_over_pixels(member):
            given = {"batches_per_epoch": n_batches(shape[0], detector.batch_size)}
            member.detector, member.training = (
                clone(detector.component(part)) for part in ("detector", "training")
            )
            member.detector.set_params(region_size="auto")
            member.training.set_params(adversarial_weight=0.0, crop_size="auto")
        with _named(name):
            try:
                trained = training(member, n_epochs=n_epochs, scale=scale, **given)
            except KeyboardInterrupt:
                if not found or not keeps_interrupted:
                    raise
                # What the others have learnt is kept.
                trained = training(member, n_epochs=1, scale=scale, **given)
        if trained.maps is None:
            scale = trained.scale._replace(filters=found[0].scale.filters)
            trained = trained._replace(scale=scale)
            keep(member, trained)
            seen = pair.both_maps(member.pair_, images, trained.rows, **looking(member, images))
            is_blind = trained.checkpoint["detector"]["region_auc"] < BLIND_AUC
            trained = trained._replace(maps=seen, is_blind=is_blind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)  # told of all together
            finish(member, trained, clips, shape[0])
        members.append(member)
        found.append(trained)
        if trained.n_epochs < n_epochs and trained.net.stopped_by_ is None:
            n_epochs = trained.n_epochs  # the user is waiting
    return _joined(members, found, ignored_pixels(detector.ignore_mask, shape[1:3]))


def n_batches(n_images: int, batch_size: int) -> int:
    """Return how many batches an epoch over pixels has beside a feature map, whose D takes ten."""
    return int(np.clip(n_images / batch_size / 2, 2 * STEPS_PER_EPOCH, 6 * STEPS_PER_EPOCH))


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Let warnings of a training say which of several feature maps they are about."""
    with warnings.catch_warnings(record=True) as told:
        yield
    for one in told:
        text = str(one.message)
        if issubclass(one.category, CollapseWarning | InterruptedTrainingWarning):
            text = f"On the feature map {name!r}: {text}"
        warnings.warn(text, one.category, stacklevel=8)


def finish(
    detector: Any, trained: Trained, clips: NDArray[Any] | None, n_images: int,
    images: Any = None,
) -> None:  # fmt: skip
    """Give a detector the networks of a training, and thresholds from what they say.

    The training has looked at the held-out images already, or ``images`` are all that were given;
    with them `contamination` moves the thresholds.
    """
    keep(detector, trained)
    residual, logits = trained.maps or pair.both_maps(
        detector.pair_, images, trained.rows, **looking(detector, images)
    )
    groups = None if clips is None else clips[trained.rows]
    processing = detector.component("postprocessing")
    rule = calibration.choose_rule(
        residual, logits,
        alpha=detector.alpha, zeta=detector.zeta, fusion=detector.fusion,
        balance=detector.balance, target_fpr=detector.target_fpr,
        min_area=processing.min_area, min_area_of=processing.min_area_of,
        groups=groups, region_auc=trained.region_auc, is_blind=trained.is_blind,
    )  # fmt: skip
    if rule.fusion == "min":
        calibration.warn_if_one_decides(residual, logits, rule.alpha, rule.zeta, stacklevel=6)
    detector.alpha_, detector.zeta_, detector.balance_ = rule.alpha, rule.zeta, rule.balance
    detector.offset_ = float(np.nextafter(0, 1))
    detector.calibration_ = None
    if isinstance(detector.alpha, str) or isinstance(detector.zeta, str):
        found = calibration.basis(len(trained.rows), groups, detector.target_fpr)
        detector.calibration_ = found
        calibration.warn_if_few(found, detector.target_fpr, n_given=n_images, stacklevel=6)
    if images is not None and not isinstance(detector.contamination, str):
        detector.alpha_, detector.zeta_ = calibration.shift_for_contamination(
            detector._score(images), detector.alpha_, detector.zeta_, detector.contamination
        )
    detector.normal_scores_ = calibration.normal_scores(residual, logits, detector.rule_)
    detector._trained_on = note(n_images, clips, trained)


def _joined(
    members: list[Any], found: list[Trained], ignore_mask: NDArray[np.bool_] | None
) -> Trained:
    """Gather what several trainings leave behind.

    Over pixels D alone judges, and as much as the D of the feature map: both find nearly all
    synthetic anomalies, which does not tell the better one.
    """
    first, maps = found[0], [trained.maps for trained in found]
    on_maps = [trained for trained in found if trained.region_auc is not None]
    aucs: Any = [trained.region_auc for trained in on_maps]
    votes = [(trained.region_auc is not None, not trained.is_blind) for trained in found]
    units = joined_pair.learn_units(
        maps, votes, aucs if len(aucs) == len(maps) else None  # type: ignore[arg-type]
    )  # fmt: skip
    voting = [auc for (_, auc), one in zip(aucs, on_maps, strict=True) if not one.is_blind]
    if not voting:
        voting = [auc for _, auc in aucs]
    region_auc = float(np.mean([auc for auc, _ in aucs])), float(np.mean(voting))
    history = [
        _mean_row([row for row in rows if row is not None])
        for rows in zip_longest(*(trained.history for trained in found))
    ]
    checkpoint = {
        part: {"epoch": max(one.checkpoint[part]["epoch"] for one in on_maps), "region_auc": auc}
        for part, auc in zip(("inpainter", "detector"), region_auc, strict=True)
    }
    return Trained(
        None, None, None, history, max(trained.n_epochs for trained in found), checkpoint,
        first.rows, first.n_held_out, first.scale,
        maps=joined_pair.join(maps, units, ignore_mask),  # type: ignore[arg-type]
        region_auc=region_auc, is_blind=all(trained.is_blind for trained in found),
        members=tuple(members), units=units,
    )  # fmt: skip


def _mean_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Join what several trainings noted of an epoch: the mean of all figures, the sum of time."""
    means = {
        name: float(np.mean([row[name] for row in rows]))
        for name, value in rows[0].items()
        if isinstance(value, float)
    }
    return rows[0] | means | {"dur": sum(row["dur"] for row in rows)}


def _settings(detector: Any, n_epochs: int) -> dict[str, Any]:
    return {
        "gamma": detector.gamma,
        "learning_rate": detector.learning_rate,
        "batch_size": detector.batch_size,
        "max_epochs": n_epochs,
        "average_decay": detector.component("training").average_decay,
        "device": check_device(detector.device),
    }


def feature_settings(detector: Any, n_epochs: int) -> dict[str, Any]:
    """Return what `skavid.core.feature_training.train_pair` takes of a detector's parameters."""
    return _settings(detector, n_epochs) | {
        "pooling": detector.component("inpainter").pooling,
        "spacing": detector.component("corruption").spacing,
        "detector_width": detector.component("detector").width or 64,
    }


def pixel_settings(detector: Any, n_epochs: int) -> dict[str, Any]:
    """Return what `skavid.core.training.train_networks` takes of a detector's parameters."""
    corruption, inpainter, training = (
        detector.component(part) for part in ("corruption", "inpainter", "training")
    )

    def named(chosen: Any) -> Any:
        for with_sides in (masking, inversion):
            if chosen in (with_sides.__name__, with_sides):
                return partial(with_sides, size=check_sides(corruption.mask_size))
        return CORRUPTIONS[chosen] if isinstance(chosen, str) else chosen

    return _settings(detector, n_epochs) | {
        "inpainter_width": inpainter.width,
        "inpainter_depth": inpainter.depth,
        "inpainter_patch": inpainter.patch,
        "detector_width": detector.component("detector").width or 24,
        "spacing": corruption.spacing,
        "inpainter_corruption": named(corruption.inpainter),
        "detector_corruption": named(corruption.detector),
        "loss": training.loss,
        "adversarial_weight": training.adversarial_weight,
        "adversarial_start": training.adversarial_start,
        "reconstruction_weight": training.reconstruction_weight,
        "reconstruction_loss": training.reconstruction_loss,
        "optimizer_name": training.optimizer,
        "momentum": training.momentum,
        "n_iter_no_change": training.n_iter_no_change,
    }


def decisive_parameters(
    detector: Any, settings: dict[str, Any], groups: NDArray[Any] | None
) -> dict[str, Any]:
    """Name what decides over the weights beside the images, by the names that users know."""
    own = detector.get_params(deep=False)
    given = {name: value for name, value in settings.items() if name in own}
    given |= {name: own[name] for name in ("validation_fraction", "random_state")}
    for part in ("corruption", "inpainter", "detector", "training"):
        inner = detector.component(part).get_params()
        given |= {f"{part}__{name}": value for name, value in inner.items()}
    del given["training__checkpoint"]
    return given | {
        "detector__region_size": settings["geometry"].size,
        "device": torch.device(settings["device"]).type,
        "groups": groups,
    }


def filter_sizes(detector: Any, auto: Mapping[str, int]) -> dict[str, int]:
    """Return the sides of both filters in pixels; "auto" takes those of the training."""
    processing = detector.component("postprocessing")
    given = {"mean": processing.smoothing, "maximum": processing.dilation}
    return {name: auto[name] if size == "auto" else int(size) for name, size in given.items()}


def masking_draws(detector: Any, seed: int) -> Callable[..., Iterator[Corrupted]] | None:
    """Return how images are masked when they are scored; None where I learnt something else."""
    corruption = detector.component("corruption")
    if corruption.inpainter not in MASKING:
        return None
    return partial(
        complementary,
        n_draws=detector.component("postprocessing").n_draws,
        gamma=detector.gamma,
        seed=seed,
        video=corruption.spacing is not None,
        size=check_sides(corruption.mask_size),
    )


@contextmanager
def all_or_nothing(estimator: BaseEstimator) -> Iterator[None]:
    """Put an estimator back as it was when something in the block fails."""
    before = dict(estimator.__dict__)
    try:
        yield
    except BaseException:
        estimator.__dict__.clear()
        estimator.__dict__.update(before)
        raise
