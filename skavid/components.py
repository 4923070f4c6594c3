"""Groups of parameters of `AVIDDetector`: small scikit-learn components, checked by themselves."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from torch import nn

from skavid.core.corruption import CORRUPTIONS, masking
from skavid.core.features import kind_of, suits_imagenet, weights_path
from skavid.core.images import check_ignored, check_value_range, value_range
from skavid.core.losses import LOSSES
from skavid.core.scene import clip_begins
from skavid.exceptions import LabelWarning
from skavid.sklearn_private import (
    HasMethods,
    Interval,
    StrOptions,
    parameter_constraints,
    validate_parameters,
)
from skavid.wording import counted

__all__ = [
    "PAPER",
    "VIDEO",
    "VIDEO_PIXELS",
    "AdversarialTraining",
    "Corruption",
    "DetectorNetwork",
    "InpainterNetwork",
    "Postprocessing",
]

_COUNT = [Interval(Integral, 1, None, closed="left")]
_PIXELS = [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})]
_SHARE = [Interval(Real, 0, 1, closed="left")]
_WEIGHT = [Interval(Real, 0, None, closed="left")]


MASKING = ("masking", masking)
"""Corruptions of I under which images are scored by masking every pixel."""


class _Component(BaseEstimator):  # type: ignore[misc]
    """Parameters that belong together; equal where all of them are."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Component) or type(self) is not type(other):
            return False
        return bool(self.get_params() == other.get_params())

    __hash__ = None  # type: ignore[assignment]


class Corruption(_Component):
    """What the networks learn from: how normal images are corrupted (Sec. 3.1 and 3.2).

    For ``features="pixels"``. On a feature map D learns from synthetic anomalies.

    Parameters
    ----------
    inpainter : {"noise", "masking", "inversion", "synthetic"} or callable, default="synthetic"
        What I learns to restore; see `skavid.core.corruption`. "masking" serves images of many
        alike objects better, such as puzzles of digits: set `mask_size` then.
    detector : {"noise", "masking", "inversion", "synthetic"} or callable, default="synthetic"
        What D learns to find. "inversion" serves images of two levels, such as circuit boards.
        None leaves D to what I makes, as the paper prints it.
    mask_size : tuple (smallest, largest), default=None
        Sides in pixels of what "masking" masks or "inversion" inverts at once; about half of an
        object serves masking best. None takes 4 pixels to a quarter of the image, or 3 pixels to
        a sixth of it.
    spacing : int, default=None
        For stacked video, over pixels and on feature maps: frames between two channels, as in
        `TemporalStacker`. Synthetic anomalies are then cut from what moves and move at other
        speeds, and ``groups`` are the clips.

    Examples
    --------
    >>> from skavid import AVIDDetector
    >>> from skavid.components import Corruption
    >>> detector = AVIDDetector(features="pixels", corruption=Corruption(inpainter="masking"))
    >>> detector.set_params(corruption__mask_size=(4, 8)).corruption
    Corruption(inpainter='masking', mask_size=(4, 8))
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "inpainter": [StrOptions(set(CORRUPTIONS)), callable],
        "detector": [StrOptions(set(CORRUPTIONS)), callable, None],
        "mask_size": [tuple, list, None],
        "spacing": [*_COUNT, None],
    }

    def __init__(
        self,
        *,
        inpainter: str | Callable[..., Any] = "synthetic",
        detector: str | Callable[..., Any] | None = "synthetic",
        mask_size: tuple[int, int] | None = None,
        spacing: int | None = None,
    ) -> None:
        self.inpainter = inpainter
        self.detector = detector
        self.mask_size = mask_size
        self.spacing = spacing


class InpainterNetwork(_Component):
    """How I is built (Sec. 3.1).

    Parameters
    ----------
    pooling : {"place", "everywhere"}, default="place"
        For feature maps: whether I has statistics for each place, and remembers normal images
        there, or one set of statistics for all places. Images of another size than the training
        images need "everywhere".
    width : int, default=32
        For ``features="pixels"``, as what follows: feature maps of I at its full resolution.
    depth : int, default=2
        How often I halves the resolution, up to 8.
    patch : int, default=4
        Side in pixels of the patches that I reads and writes as one, up to 32: several times
        faster than a U-Net over pixels, which is 1, and copies less of what it should restore.
        With "masking" patches want ``reconstruction_loss="bernoulli"``.

    Examples
    --------
    >>> from skavid import AVIDDetector
    >>> from skavid.components import InpainterNetwork
    >>> AVIDDetector(inpainter=InpainterNetwork(pooling="everywhere")).inpainter.pooling
    'everywhere'
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "pooling": [StrOptions({"place", "everywhere"})],
        "width": _COUNT,
        "depth": [Interval(Integral, 1, 8, closed="both")],
        "patch": [Interval(Integral, 1, 32, closed="both")],
    }

    def __init__(
        self, *, pooling: str = "place", width: int = 32, depth: int = 2, patch: int = 4
    ) -> None:
        self.pooling = pooling
        self.width = width
        self.depth = depth
        self.patch = patch


class DetectorNetwork(_Component):
    """How D is built (Sec. 3.2).

    Parameters
    ----------
    width : int, default=None
        Feature maps of D's first layer; None takes 24 over pixels and 64 on feature maps.
    geometry : {"aligned", "paper"}, default="aligned"
        For ``features="pixels"``, as what follows. The regions of D: tiles of `region_size` with
        context around each, or Fig. 2.
    region_size : int or "auto", default=4
        Side of an aligned region in pixels, a power of two up to 64. For stacked video "auto"
        takes a third of what moves in the training clips.

    Examples
    --------
    >>> from skavid.components import DetectorNetwork
    >>> DetectorNetwork(region_size=8)
    DetectorNetwork(region_size=8)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "width": [*_COUNT, None],
        "geometry": [StrOptions({"aligned", "paper"})],
        "region_size": [Interval(Integral, 1, 64, closed="both"), StrOptions({"auto"})],
    }

    def __init__(
        self,
        *,
        width: int | None = None,
        geometry: str = "aligned",
        region_size: int | str = 4,
    ) -> None:
        self.width = width
        self.geometry = geometry
        self.region_size = region_size


class AdversarialTraining(_Component):
    """How both networks are trained (Sec. 3.3 and 4.3), beside epochs and learning rate.

    Parameters
    ----------
    average_decay : float, default=0.998
        Decay of the moving averages of the weights, which are what is kept.
    loss : {"bce", "lsgan", "hinge", "eq3"}, default="bce"
        For ``features="pixels"``, as what follows: the adversarial loss; see `skavid.losses`.
    adversarial_weight : float, default=0.01
        Weight of the terms in which each network sees the other's work. 0 leaves them out.
    adversarial_start : float, default=0.6
        Share of the training, in [0, 1), after which these terms join in: networks that know
        nothing yet have nothing to teach each other.
    reconstruction_weight : float, default=1.0
        Weight of I's restoring error, which Eq. 3 as printed does not have.
    reconstruction_loss : {"l1", "bernoulli"}, default="l1"
        That error, of masked pixels: the absolute error, whose minimum is the median of the
        possible values, or the cross-entropy of intensities, whose minimum is their mean. If most
        pixels are dark, "l1" predicts dark pixels for many epochs: "bernoulli" was far better on
        drawn digits of 28 pixels, "l1" on those of 8. Unmasked pixels always have the absolute
        error.
    optimizer : {"adamw", "sgd"}, default="adamw"
        Both networks have one of their own.
    momentum : float, default=0.9
        SGD's momentum, or AdamW's first beta.
    n_iter_no_change : int, default=None
        Stop when neither network got better on the held-out images for so many epochs.
    crop_size : int or "auto", default=None
        Images larger than this are trained on random crops of this side, in pixels. For
        stacked video "auto" takes 7.5 times the size of what moves.
    checkpoint : str or path, default=None
        A file that holds the whole state of the training after each epoch. A `fit` that was
        killed goes on from it, with the same images and parameters, and ends with the same
        weights as an undisturbed one; where it ended already, nothing is trained. The file stays
        until you remove it; that of another training is refused. Needs an integer
        ``random_state``, and `fit` without ``warm_start``; `partial_fit` leaves it alone.

    Examples
    --------
    >>> from skavid import AVIDDetector
    >>> from skavid.components import AdversarialTraining
    >>> training = AdversarialTraining(loss="hinge", adversarial_start=0.0)
    >>> AVIDDetector(features="pixels", training=training).training.loss
    'hinge'
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "average_decay": _SHARE,
        "loss": [StrOptions(set(LOSSES))],
        "adversarial_weight": _WEIGHT,
        "adversarial_start": _SHARE,
        "reconstruction_weight": _WEIGHT,
        "reconstruction_loss": [StrOptions({"bernoulli", "l1"})],
        "optimizer": [StrOptions({"adamw", "sgd"})],
        "momentum": _SHARE,
        "n_iter_no_change": [*_COUNT, None],
        "crop_size": [Interval(Integral, 8, None, closed="left"), StrOptions({"auto"}), None],
        "checkpoint": [str, os.PathLike, None],
    }

    def __init__(
        self,
        *,
        average_decay: float = 0.998,
        loss: str = "bce",
        adversarial_weight: float = 0.01,
        adversarial_start: float = 0.6,
        reconstruction_weight: float = 1.0,
        reconstruction_loss: str = "l1",
        optimizer: str = "adamw",
        momentum: float = 0.9,
        n_iter_no_change: int | None = None,
        crop_size: int | str | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self.average_decay = average_decay
        self.loss = loss
        self.adversarial_weight = adversarial_weight
        self.adversarial_start = adversarial_start
        self.reconstruction_weight = reconstruction_weight
        self.reconstruction_loss = reconstruction_loss
        self.optimizer = optimizer
        self.momentum = momentum
        self.n_iter_no_change = n_iter_no_change
        self.crop_size = crop_size
        self.checkpoint = checkpoint


class Postprocessing(_Component):
    """What is done to both maps before they are joined, and to the evidence after (Sec. 3.4).

    Parameters
    ----------
    smoothing : int or "auto", default=3
        Side of the box, in pixels, over which the residual and D's logits are averaged. 0 is
        Eq. 4 as printed. For stacked video "auto" takes the size of what moves.
    dilation : int or "auto", default=0
        Side of a maximum filter that widens both maps to the size of an object, in pixels. For
        stacked video "auto" takes 1.5 times the size of what moves, or 0 on a feature map.
    min_area : int, default=0
        Pixels that must be irregular together for an image to be irregular. Needs the
        extra ``image`` for ``min_area_of="patch"``.
    min_area_of : {"patch", "image"}, default="patch"
        Whether these pixels must be connected or may lie anywhere in the image.
    channel_reduction : {"max", "mean"}, default="max"
        For ``features="pixels"``, as what follows: how the residual's channels become one.
    n_draws : int, default=8
        How often an image is masked and restored when it is scored, where I learnt to restore
        what was masked; at least 2. Draws come in pairs that together mask every pixel: an odd
        number is rounded up to the next even one.

    Examples
    --------
    >>> from skavid import AVIDDetector
    >>> AVIDDetector().set_params(postprocessing__min_area=20).postprocessing
    Postprocessing(min_area=20)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "smoothing": _PIXELS,
        "dilation": _PIXELS,
        "min_area": [Interval(Integral, 0, None, closed="left")],
        "min_area_of": [StrOptions({"patch", "image"})],
        "channel_reduction": [StrOptions({"max", "mean"})],
        "n_draws": [Interval(Integral, 2, None, closed="left")],
    }

    def __init__(
        self,
        *,
        smoothing: int | str = 3,
        dilation: int | str = 0,
        min_area: int = 0,
        min_area_of: str = "patch",
        channel_reduction: str = "max",
        n_draws: int = 8,
    ) -> None:
        self.smoothing = smoothing
        self.dilation = dilation
        self.min_area = min_area
        self.min_area_of = min_area_of
        self.channel_reduction = channel_reduction
        self.n_draws = n_draws


PAPER: dict[str, Any] = {
    "features": "pixels",
    "gamma": 0.4,
    "corruption": Corruption(inpainter="noise", detector=None),
    "inpainter": InpainterNetwork(width=64, depth=4, patch=1),
    "detector": DetectorNetwork(width=96, geometry="paper"),
    "training": AdversarialTraining(
        loss="eq3",
        adversarial_weight=1.0,
        adversarial_start=0.0,
        reconstruction_weight=0.0,
        optimizer="sgd",
        momentum=0.9,
    ),
    "learning_rate": 0.002,
    "batch_size": 16,
    "fusion": "min",
    "postprocessing": Postprocessing(smoothing=0, dilation=0),
}

VIDEO: dict[str, Any] = {
    "features": "motion+pixels",
    "corruption": Corruption(spacing=2),
    "postprocessing": Postprocessing(smoothing="auto"),
    "validation_fraction": 0.2,  # frames of a clip are alike: thresholds want several clips
}

VIDEO_PIXELS: dict[str, Any] = {
    "features": "pixels",
    "corruption": Corruption(spacing=2),
    "detector": DetectorNetwork(region_size="auto"),
    "training": AdversarialTraining(adversarial_weight=0.0, crop_size="auto"),
    "validation_fraction": 0.2,
    "balance": 0.2,
    "postprocessing": Postprocessing(smoothing="auto", dilation="auto"),
}

# Parameters that say nothing about what a fit finds.
SAYS_NOTHING = {
    "callbacks", "device", "image_shape", "memory", "training__checkpoint", "verbose",
    "warm_start",
}  # fmt: skip

COMPONENTS: dict[str, type[BaseEstimator]] = {
    "corruption": Corruption,
    "inpainter": InpainterNetwork,
    "detector": DetectorNetwork,
    "training": AdversarialTraining,
    "postprocessing": Postprocessing,
}
"""The parameters of `AVIDDetector` that hold a component, and of which class."""

FEATURES = {
    "auto", "patches", "imagenet", "patches+imagenet", "motion", "motion+pixels", "pixels",
}  # fmt: skip
"""Where networks can look, beside a module."""

CONSTRAINTS: dict[str, list[Any]] = {
    "features": [
        StrOptions(FEATURES),
        nn.Module,
    ],
    "image_shape": [tuple, list, None],
    "value_range": [tuple, list, None],
    "gamma": [Interval(Real, 0, None, closed="left")],
    "corruption": [Corruption, StrOptions(set(CORRUPTIONS)), None],
    "inpainter": [InpainterNetwork, None],
    "detector": [DetectorNetwork, None],
    "training": [AdversarialTraining, None],
    "learning_rate": [Interval(Real, 0, None, closed="neither")],
    "max_epochs": [Interval(Integral, 1, None, closed="left")],
    "batch_size": [Interval(Integral, 2, None, closed="left")],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "alpha": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
    "zeta": [Interval(Real, 0, 1, closed="neither"), StrOptions({"auto"})],
    "target_fpr": [Interval(Real, 0, 1, closed="neither")],
    "contamination": [Interval(Real, 0, 0.5, closed="right"), StrOptions({"auto"})],
    "fusion": [StrOptions({"min", "mean", "inpainter", "detector"})],
    "balance": [Interval(Real, 0, 1, closed="both"), StrOptions({"auto"})],
    "postprocessing": [Postprocessing, None],
    "ignore_mask": ["array-like", None],
    "memory": [None, str, os.PathLike, HasMethods(["cache"])],
    "warm_start": ["boolean"],
    "callbacks": [list, None],
    "verbose": ["verbose"],
    "device": [str],
    "random_state": ["random_state"],
}
"""What the parameters of `AVIDDetector` may be."""

ON_FEATURES = {
    "corruption__spacing", "inpainter__pooling", "detector__width", "training__average_decay",
    "postprocessing__smoothing", "postprocessing__dilation", "postprocessing__min_area",
    "postprocessing__min_area_of",
}  # fmt: skip
"""Parameters of components that feature maps have, too; the others are about pixels alone."""

_FORMER = {
    "inpainter_corruption": "corruption__inpainter",
    "detector_corruption": "corruption__detector",
    "pooling": "inpainter__pooling",
    **{f"inpainter_{name}": f"inpainter__{name}" for name in ("width", "depth", "patch")},
    "detector_width": "detector__width",
}
FORMER_NAMES = (
    _FORMER
    | {
        name: f"{part}__{name}"
        for part, component in COMPONENTS.items()
        for name in parameter_constraints(component)
        if f"{part}__{name}" not in _FORMER.values()
    }
    | {
        "hidden_size": "corruption__mask_size",
        "widening": "postprocessing__dilation",
        "ignore": "ignore_mask",
    }
)
"""What files of release 0.1.0 call parameters, and what they are called now."""


def as_component(part: str, given: Any) -> Any:
    """Return the component that a parameter stands for: by default, or by its name."""
    if given is None:
        return COMPONENTS[part]()
    if isinstance(given, str):  # a corruption, of both networks
        return COMPONENTS[part](inpainter=given, detector=given)
    return given


def flattened(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Replace components by their own parameters, under nested names; None stands for itself."""
    flat = {name: value for name, value in parameters.items() if name not in COMPONENTS}
    for part in COMPONENTS:
        if parameters.get(part) is not None:
            inner = as_component(part, parameters[part]).get_params(deep=False)
            flat |= {f"{part}__{name}": value for name, value in inner.items()}
    return flat


def all_parameters(detector: Any) -> dict[str, Any]:
    """Return all parameters of a detector, those of its components under nested names."""
    components = {part: detector.component(part) for part in COMPONENTS}
    return flattened(detector.get_params(deep=False) | components)


def changed_parameters(detector: Any) -> dict[str, Any]:
    """Return the parameters that differ from the defaults, for video from those of `VIDEO`.

    Without those that say nothing about what a fit finds.
    """
    is_stacked = detector.component("corruption").spacing is not None
    usual = all_parameters(type(detector)(**(VIDEO if is_stacked else {})))
    return {
        name: value
        for name, value in all_parameters(detector).items()
        if name not in SAYS_NOTHING and not _is_same(value, usual[name])
    }


def _is_same(value: Any, usual: Any) -> bool:
    return not isinstance(value, np.ndarray) and bool(value == usual)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Gather parameters that have their former names, or nested ones, into components."""
    gathered: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        part, _, inner = FORMER_NAMES.get(name, name).partition("__")
        if inner:
            parts.setdefault(part, {})[inner] = value
        else:
            gathered[part] = value
    for part, values in parts.items():
        given = gathered.get(part)
        component = COMPONENTS[part]() if given is None else clone(given)
        gathered[part] = component.set_params(**values)
    return gathered


# --- what a detector is asked for ----------------------------------------------------------------


def is_over_pixels(detector: Any) -> bool:
    """Tell whether the networks look at the image itself, and not at a feature map."""
    return isinstance(detector.features, str) and detector.features == "pixels"


def feature_maps(detector: Any, image_shape: tuple[int, ...]) -> list[Any]:
    """Name the feature maps on each of which a training makes an I and a D.

    A rule without labels: on five sets of images "patches" was ahead on two, "imagenet" on three,
    and both joined were within a point and a half of the better one on four of them, eight points
    behind it on the fifth (benchmarks/results/images).
    """
    if not isinstance(detector.features, str):
        return [detector.features]
    if detector.features != "auto":
        return list(detector.features.split("+"))
    is_stacked = detector.component("corruption").spacing is not None
    if is_stacked or not suits_imagenet(image_shape) or weights_path() is None:
        return ["patches"]
    return ["patches", "imagenet"]


def names_of_maps(detector: Any) -> str:
    """Name the feature maps of a fitted detector, as `features` of `AVIDDetector` would."""
    if hasattr(detector, "members_"):
        return "+".join(member.features for member in detector.members_)
    return kind_of(detector.features_) if hasattr(detector, "features_") else "pixels"


def is_of_maps(features: Any, names: str) -> bool:
    """Tell whether a training with the parameter `features` can have been on these maps."""
    if features == "auto":
        return names in ("patches", "patches+imagenet")
    return names == (features if isinstance(features, str) else "module")


# --- checks --------------------------------------------------------------------------------------


def check_training(
    detector: Any, images: NDArray[Any], y: Any, *, going_on: bool, stacklevel: int
) -> None:
    """Refuse a training that cannot be, and warn where labels say that images are irregular."""
    members = getattr(detector, "members_", [detector])
    if going_on:
        _check_same_map(detector)
    if going_on and not all(hasattr(one, "net_") for one in members):
        raise ValueError(
            "This AVIDDetector was loaded from a file without optimisers, so its training "
            "cannot go on; fit it anew with warm_start=False, or keep detectors with joblib "
            "to go on later."
        )
    if (
        detector.memory is not None
        and not going_on
        and not isinstance(detector.random_state, Integral)
    ):
        warnings.warn(
            f"memory saves no training, since random_state is {detector.random_state!r} and each "
            "training is another one; set random_state to an integer.",
            UserWarning,
            stacklevel=stacklevel,
        )
    labels = None if y is None else np.asarray(y)
    if labels is not None:  # of images, or masks
        is_mask = labels.dtype == bool and labels.ndim > 1
        if np.any(labels) if is_mask else np.any(labels == -1):
            warnings.warn(
                "y marks irregular images, but AVIDDetector ignores y and takes all as normal; "
                "train on the normal ones alone: NoveltyKFold does so in a search or cross-"
                "validation.",
                UserWarning,
                stacklevel=stacklevel,
            )
        elif labels.ndim == 1 and np.unique(labels).tolist() == [0, 1]:
            warnings.warn(
                "y holds 0 and 1, but AVIDDetector ignores y and takes all images as normal; if "
                "one of them means irregular, leave those images out: X[y == 0] or X[y == 1].",
                LabelWarning,
                stacklevel=stacklevel,
            )
    ignored_pixels(detector.ignore_mask, images.shape[1:3])


def _check_same_map(detector: Any) -> None:
    """Refuse to go on with networks on another feature map than the parameter names."""
    before = names_of_maps(detector)
    if not is_of_maps(detector.features, before):
        shown = "a module" if before == "module" else repr(before)
        raise ValueError(
            f"features is {detector.features!r}, but the training to go on with was on {shown}; "
            "set features back, or fit anew with warm_start=False."
        )


def check_parameters(detector: Any) -> None:
    """Refuse parameters that do not fit each other, and components that are not valid."""
    for part in COMPONENTS:
        validate_parameters(detector.component(part))
    _check_auto(detector)
    check_callbacks(detector.callbacks)
    if not is_over_pixels(detector):
        _check_on_features(detector)
    check_device(detector.device)
    check_sides(detector.component("corruption").mask_size)


def check_callbacks(callbacks: Any) -> None:
    """Refuse callbacks of skorch that could not do their work on networks of AVID."""
    for given in callbacks or []:
        one = given[1] if isinstance(given, tuple) else given
        kind = one if isinstance(one, type) else type(one)
        names = {base.__name__ for base in kind.__mro__}
        why = next((why for name, why in _UNFIT_CALLBACKS.items() if name in names), None)
        if "EarlyStopping" in names and getattr(one, "load_best", False):
            why = "the best networks are kept anyway; set load_best=False"
        if why is not None:
            raise ValueError(f"callbacks holds {kind.__name__}, which cannot work here: {why}.")


_KEEP = "set training__checkpoint to continue a training, or call save on the fitted detector"
_OWN_RATE = "the learning rate follows a schedule of its own; set learning_rate"
_OWN_CHECK = (
    "held-out images are corrupted and checked by AVID itself; read net.history in a callback"
)
_UNFIT_CALLBACKS = {
    "Checkpoint": _KEEP,
    "TrainEndCheckpoint": _KEEP,
    "LoadInitState": _KEEP,
    "LRScheduler": _OWN_RATE,
    "EpochScoring": _OWN_CHECK,
    "BatchScoring": _OWN_CHECK,
    "PassthroughScoring": _OWN_CHECK,
    "ParamMapper": "it needs one module; both networks are built and trained together",
    "InputShapeSetter": "the networks take the shape of the images by themselves",
    "WandbLogger": "it needs one module; log net.history in a callback of yours",
    "MlflowLogger": "it needs one module; log net.history in a callback of yours",
    "NeptuneLogger": "it needs one module; log net.history in a callback of yours",
    "SacredLogger": "it needs the batches of a plain training; log net.history in a callback",
}


def check_checkpoint(detector: Any) -> None:
    """Refuse a checkpoint of a training that could not be the same again."""
    if detector.component("training").checkpoint is None:
        return
    if detector.warm_start:
        raise ValueError(
            "training__checkpoint keeps a training from its beginning, but warm_start=True "
            "goes on with an earlier one; set one of them."
        )
    if not isinstance(detector.random_state, Integral):
        raise ValueError(
            "training__checkpoint needs an integer random_state, so that a training can be "
            f"the same again. Got {detector.random_state!r}."
        )


def learned_range(detector: Any, images: NDArray[Any]) -> tuple[float, float]:
    """Return the intensities that become 0 and 1: as given, or those of the training images."""
    found = value_range(images, ignored_pixels(detector.ignore_mask, images.shape[1:3]))
    return found if detector.value_range is None else check_value_range(detector.value_range)


def check_rate(target_fpr: float) -> None:
    """Raise ValueError unless target_fpr is in (0, 1)."""
    if not 0 < target_fpr < 1:
        raise ValueError(f"target_fpr must be a number above 0 and below 1. Got {target_fpr!r}.")


def check_groups(groups: Any, n: int, *, is_stacked: bool = False) -> NDArray[Any] | None:
    """Check the clip ids of n images; stacks without them are one clip."""
    if groups is None:
        return np.zeros(n, dtype=np.int64) if is_stacked else None
    clips: NDArray[Any] = np.asarray(groups)
    if clips.shape != (n,):
        raise ValueError(
            f"groups has the shape {clips.shape}, but X has {counted(n, 'image')}; give one clip "
            "id an image."
        )
    clip_begins(clips)
    return clips


def check_device(device: str) -> str:
    """Check that a device is there; "auto" takes a GPU where there is one."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        raise ValueError(
            f"device={device!r} is not there; this machine has {', '.join(there)}."
        ) from error
    return device


def ignored_pixels(ignore_mask: Any, size: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Check which pixels of images of a size do not count; None where all do."""
    return None if ignore_mask is None else check_ignored(ignore_mask, size)


def check_sides(size: Any) -> tuple[int, int] | None:
    """Check the sides of what is masked or inverted at once."""
    if size is None:
        return None
    if len(size) != 2 or not all(isinstance(side, Integral) for side in size):
        raise ValueError(
            f"corruption__mask_size must be two whole numbers of pixels. Got {size!r}."
        )
    if not 1 <= size[0] <= size[1]:
        raise ValueError(f"corruption__mask_size must rise from 1 pixel at least. Got {size!r}.")
    return int(size[0]), int(size[1])


def _check_on_features(detector: Any) -> None:
    for part, component in COMPONENTS.items():
        defaults = component().get_params()
        for name, value in detector.component(part).get_params().items():
            if f"{part}__{name}" not in ON_FEATURES and value != defaults[name]:
                raise ValueError(
                    f"{part}__{name} is about networks over pixels, but "
                    f"features={detector.features!r}; leave it out, or set features='pixels'."
                )


def _check_auto(detector: Any) -> None:
    for part, name in (
        ("detector", "region_size"), ("training", "crop_size"),
        ("postprocessing", "smoothing"), ("postprocessing", "dilation"),
    ):  # fmt: skip
        if (
            getattr(detector.component(part), name) == "auto"
            and detector.component("corruption").spacing is None
        ):
            raise ValueError(
                f"{part}__{name}='auto' is learnt from what moves in stacked video; give "
                "corruption__spacing, as VIDEO does, or a number of pixels."
            )
