"""AVID as a scikit-learn estimator: fit on normal images, score, segment (Sec. 3.4, Eq. 4).

The method is in `skavid.core`; parameters and their checks are in `skavid.components`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import OutlierMixin, clone
from sklearn.utils import Bunch, Tags
from sklearn.utils.validation import check_is_fitted

from skavid import components, fitting
from skavid.components import (
    PAPER,
    VIDEO,
    AdversarialTraining,
    Corruption,
    DetectorNetwork,
    InpainterNetwork,
    Postprocessing,
    ignored_pixels,
)
from skavid.core import anomaly_maps, calibration, pair
from skavid.core.anomaly_maps import AnomalyMaps, DecisionRule
from skavid.core.images import check_images, warn_of_other_range
from skavid.saving import SavedEstimator
from skavid.sklearn_private import fit_context

__all__ = ["PAPER", "VIDEO", "AVIDDetector"]


class AVIDDetector(OutlierMixin, SavedEstimator):  # type: ignore[misc]
    """Adversarial visual irregularity detection (AVID).

    Two networks judge an image: the inpainter I restores it to what is normal, and the detector D
    scores how regular each region is. A pixel is irregular where I changed it and D doubts its
    region [1]_. On a feature map, the default, I is solved in closed form, and D learns from
    synthetic anomalies; with ``features="pixels"`` both are trained against each other on images
    that are corrupted on purpose, as in the paper.

    Read more in the user guide.

    Parameters
    ----------
    features : {"auto", "patches", "imagenet", "patches+imagenet", "motion", "motion+pixels", \
            "pixels"} or torch Module, default="auto"
        What both networks look at. "auto": "patches+imagenet" if the extra ``features`` is
        installed and the images are grey or have 3 channels, and at least 64 pixels on the
        shorter side; otherwise, and for stacked video, "patches". "patches": brightness and
        texture around each place at four resolutions; no pretrained weights. "imagenet": a frozen
        EfficientNet-Lite0; needs the extra ``features``. "patches+imagenet": an I and a D on each
        of both maps; for each pixel the map that finds it more irregular counts, in units of how
        normal images vary and of how well each network finds synthetic anomalies. "motion": for
        stacked video, the appearance of the newest moment, and how it changes and moves.
        "motion+pixels", which `VIDEO` takes: as "motion", with a second D that is trained on the
        stacks themselves, which takes several times as long. "pixels": both networks on the image
        itself, as in the paper and `PAPER`. A module that returns a map, or a list of maps, is
        used frozen; see `skavid.core.features.FrozenFeatures`.
    image_shape : tuple (H, W) or (H, W, C), default=None
        How to read X when it is given as flat rows, as inside a Pipeline.
    value_range : tuple (low, high), default=None
        Intensities that become 0 and 1 inside the networks. None learns them from the
        training images. uint8 images are always 0 to 255. Never clipped.
    gamma : float, default=0.4
        Strength of the noise of Eq. 2 in every corruption, where the value range has length 1.
    corruption : Corruption or {"noise", "masking", "inversion", "synthetic"}, default=None
        What the networks over pixels learn from; a string is what both do, None ``"synthetic"``.
    inpainter : InpainterNetwork, default=None
        How I is built. None takes the defaults of the component, here and in the next two.
        Parameters of components are set as everywhere in scikit-learn, and searched alike:
        ``set_params(inpainter__pooling="everywhere")``.
    detector : DetectorNetwork, default=None
        How D is built.
    training : AdversarialTraining, default=None
        How both are trained.
    learning_rate : float, default=0.002
        The highest learning rate; a short warm-up comes before and a cosine after it.
    max_epochs : int, default=20
        Passes over the training images. On a feature map, where D alone is trained, an epoch is
        ten batches. For the second D of "motion+pixels" an epoch is as many batches as hold half
        of the images, but at least twenty and at most sixty.
    batch_size : int, default=16
        Images in a training batch; on a feature map, pieces of maps.
    validation_fraction : float, default=0.1
        Share of the images (with ``groups``: of whole clips; of fewer than five, the end of each)
        that is held out to choose the best weights and to calibrate the thresholds. On a feature
        map, without ``groups``, no image is held out: each one calibrates as if the others alone
        had been trained on.
    alpha : float or "auto", default="auto"
        Threshold of Eq. 4 on the residual: over pixels in units of the value range, on a feature
        map in units of the spread of a feature among normal images, the mean over the features.
        "auto" calibrates it on normal images that were not trained on.
    zeta : float or "auto", default="auto"
        Threshold of Eq. 4 on the regularity, in (0, 1).
    target_fpr : float, default=0.01
        Share of normal images that may be found irregular, for "auto". With n such
        images no less than about 1 / (n + 1) can be promised.
    contamination : float or "auto", default="auto"
        A float moves both thresholds so that this share of the training images is irregular.
    fusion : {"mean", "min", "inpainter", "detector"}, default="mean"
        How the margins of I and D are joined: "mean" lets one make up for the other (weighed
        by `balance`), "min" is Eq. 4 as printed, the last two look at one network alone.
    balance : float or "auto", default="auto"
        The share of I's margin under ``fusion="mean"``, in [0, 1]. "auto" weighs both margins
        so that they vary alike among held-out normal images, and on a feature map by how well
        each network finds synthetic anomalies; where one is known to be better, give it more.
    postprocessing : Postprocessing, default=None
        How maps are averaged, dilated and cleared of small patches.
    ignore_mask : array-like of shape (H, W), bool, default=None
        True where pixels do not count, such as a busy road or a burnt-in clock: what they hold
        changes neither the training nor any score or mask. Images then keep the size of the
        training images.
    memory : str or object with the joblib.Memory interface, default=None
        Caches trained networks by the training images and parameters, and their maps of up to
        2**26 pixels of images, so that a search over thresholds trains and scores once per fold.
        Needs an integer ``random_state``. A training with callbacks that are not of skorch is not
        cached, as they may change it.
    warm_start : bool, default=False
        Whether `fit` goes on from the networks of the last call, which keep their sizes and
        their callbacks.
    callbacks : list of skorch callbacks, default=None
        Called during the training, with ``valid_loss`` in the history. Those that need one module
        or a learning rate of their own, such as Checkpoint and LRScheduler, are refused.
    verbose : int, default=0
        1 prints one line per epoch.
    device : str, default="auto"
        "cpu", "cuda", "cuda:1"...; "auto" takes a GPU where there is one.
    random_state : int, RandomState instance or None, default=None
        Seeds everything that is random. An int makes two fits on one CPU, with as many threads
        of torch, bitwise equal.

    Attributes
    ----------
    features_ : Module
        The feature map; not there for ``features="pixels"``.
    inpainter_, detector_ : Module
        I and D, on the CPU.
    whole_ : WholeImage
        What judges an image by its own statistics; not there for ``features="pixels"``.
    net_ : AVIDNet or ResidualNet
        The skorch net that trained both networks, or D alone.
    members_ : tuple of AVIDDetector
        Only where two feature maps are joined, or one and pixels, and then in place of the
        attributes above: a fitted detector for each, with thresholds of its own, calibrated
        without `contamination`.
    units_ : ndarray of shape (2, 2, 2)
        As `members_`: in which units their maps are compared, see
        `skavid.core.joined_pair.learn_units`.
    geometry_ : Geometry
        Which pixels each region of D holds; of the first of several maps.
    object_size_, object_speed_ : float or None
        Typical side in pixels of what moves in the training clips, which "auto" sizes are taken
        from, and its speed in pixels per frame; None where nothing moves and for images.
    alpha_, zeta_, balance_ : float
        The thresholds of Eq. 4 and the share of I's margin in use.
    rule_ : DecisionRule
        These and all else that leads from both maps to masks and scores.
    pair_ : PixelPair, FeaturePair or JoinedPair
        The networks with all that leads from images to both maps.
    calibration_ : dict or None
        What "auto" thresholds rest on: ``n_images`` and ``n_clips`` (None without groups) that
        were held out; ``fpr_bound``, the rate of false alarms among new normal images that they
        support, taken as independent, and ``fpr_limit``, which it exceeds in one calibration of
        twenty (both None with groups); ``clip_risk``, how likely a new clip has a larger share
        of its frames flagged than `target_fpr` (None without). None where both thresholds were
        given.
    normal_scores_ : ndarray of shape (n_held_out,)
        The scores of these held-out images at the thresholds in use, in rising order, which
        `p_values` compares with.
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
        One row per epoch: losses, figures on held-out images, seconds ("dur"), and in "kept" the
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

    _is_blind = False  # files of 0.1.0 do not say
    alpha_: float
    zeta_: float
    offset_: float
    calibration_: dict[str, Any] | None
    _auto_filters: dict[str, int]

    # Clip ids travel by metadata routing without being asked for.
    __metadata_request__fit: ClassVar = {"groups": True}
    __metadata_request__partial_fit: ClassVar = {"groups": True}

    _parameter_constraints: ClassVar = components.CONSTRAINTS

    def __init__(
        self,
        *,
        features: Any = "auto",
        image_shape: tuple[int, ...] | None = None,
        value_range: tuple[float, float] | None = None,
        gamma: float = 0.4,
        corruption: Corruption | str | None = None,
        inpainter: InpainterNetwork | None = None,
        detector: DetectorNetwork | None = None,
        training: AdversarialTraining | None = None,
        learning_rate: float = 0.002,
        max_epochs: int = 20,
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
        """
        return components.as_component(name, getattr(self, name))

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
        for name in components.COMPONENTS:
            if not any(key.startswith(f"{name}__") for key in params):
                continue
            if name not in params:
                setattr(self, name, clone(self.component(name)))
            elif params[name] is None or isinstance(params[name], str):
                params[name] = components.as_component(name, params[name])
        super().set_params(**params)
        return self

    @fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self, X: ArrayLike, y: ArrayLike | None = None, *, groups: ArrayLike | None = None
    ) -> AVIDDetector:
        """Train both networks on normal images and calibrate the thresholds.

        Interrupting it (Ctrl-C) after the first epoch keeps the best networks so far; where two
        feature maps are joined, the one whose turn has not come yet is given one epoch.

        Parameters
        ----------
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            Normal images; any real dtype. uint8 means 0 to 255. At least 2.
        y : array-like of shape (n_images,), default=None
            Ignored, and may be masks. A warning says so where it marks irregular images.
        groups : array-like of shape (n_images,), default=None
            Clip ids, rows of a clip consecutive in time. Whole clips are held out; of fewer than
            five, the end of each. Stacks without ``groups`` are one clip.

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
        with fitting.all_or_nothing(self):
            components.check_checkpoint(self)
            known = getattr(self, "image_shape_", None) if self.warm_start else None
            images = check_images(X, fitted_shape=known, **self._input_checks())
            fitting.fit(
                self, images, y, groups, n_epochs=self.max_epochs, going_on=known is not None,
                checkpoint=self.component("training").checkpoint,
            )  # fmt: skip
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
        with fitting.all_or_nothing(self):
            known = getattr(self, "image_shape_", None)
            images = check_images(X, fitted_shape=known, **self._input_checks())
            if known is not None:
                ignored = ignored_pixels(self.ignore_mask, images.shape[1:3])
                warn_of_other_range(images, self.value_range_, ignored, stacklevel=3)
            fitting.fit(self, images, y, groups, n_epochs=1, going_on=known is not None)
        return self

    def _input_checks(self) -> dict[str, Any]:
        return {
            "image_shape": self.image_shape, "estimator": self, "min_images": 2,
            "ignore_mask": self.ignore_mask,
        }  # fmt: skip

    def calibrate(
        self, X: ArrayLike, *, target_fpr: float = 0.01, groups: ArrayLike | None = None
    ) -> Bunch:
        """Choose thresholds on more normal images, without training.

        Nothing of the detector changes: hand the thresholds to `with_thresholds`. The rule is that
        of `skavid.core.calibration.calibrate`.

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
            ``alpha``, ``zeta``, ``target_fpr``, and what they rest on, as in `calibration_`:
            ``n_images``, ``n_clips``, ``fpr_bound`` and ``fpr_limit`` (split conformal
            prediction), ``clip_risk``; and ``normal_scores``, the scores of the images of X
            with these thresholds.

        Warns
        -----
        UserWarning
            Where so few images or clips cannot support the rate; it says how many would do.

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
        images = self.as_images(X)
        components.check_rate(target_fpr)
        clips = components.check_groups(groups, len(images))
        rows = pair.calibration_rows(np.arange(len(images)), *images.shape[1:3])
        clips = None if clips is None else clips[rows]
        rule = self.rule_._asdict() | {"alpha": "auto", "zeta": "auto"}
        maps = pair.both_maps(self.pair_, images, rows, **fitting.looking(self, images))
        alpha, zeta = calibration.calibrate(*maps, target_fpr=target_fpr, groups=clips, **rule)
        basis = calibration.basis(len(rows), clips, target_fpr)
        calibration.warn_if_few(basis, target_fpr, stacklevel=3)
        scores = calibration.normal_scores(*maps, self.rule_._replace(alpha=alpha, zeta=zeta))
        return Bunch(alpha=alpha, zeta=zeta, target_fpr=target_fpr, normal_scores=scores, **basis)

    def with_thresholds(
        self, alpha: float, zeta: float, *, calibration: dict[str, Any] | None = None
    ) -> AVIDDetector:
        """Return a detector with other thresholds that shares these networks.

        Parameters
        ----------
        alpha, zeta : float
            Thresholds on the residual, above 0, and on the regularity, in (0, 1).
        calibration : dict, default=None
            What `calibrate` returned, if they are from there: they then count as "auto", and
            `calibration_` says what they rest on, as do `p_values`.

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
        copied.alpha_, copied.zeta_, copied.calibration_ = float(alpha), float(zeta), None
        copied.set_params(alpha=copied.alpha_, zeta=copied.zeta_, contamination="auto")
        if calibration is not None:
            copied.set_params(alpha="auto", zeta="auto", target_fpr=calibration["target_fpr"])
            copied.calibration_ = {name: calibration.get(name) for name in fitting.BASIS}
            copied.normal_scores_ = calibration["normal_scores"]
        else:
            fitting.move_normal_scores(copied, self.rule_)
        return copied

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score images: the higher, the more normal.

        Parameters
        ----------
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            Images with as many channels as in fit. Another height and width is allowed with
            ``inpainter__pooling="everywhere"`` or ``features="pixels"``.

        Returns
        -------
        scores : ndarray of shape (n_images,), float64
            The largest evidence of each image, with its sign turned. Negative or zero where the
            mask of the image is not empty. For ``roc_auc_score`` label normal images 1 and
            irregular ones -1.
        """
        return self._score(self.as_images(X))

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
        return self._score(self.as_images(X)) - self.offset_

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
        return np.where(self._score(self.as_images(X)) < self.offset_, -1, 1)

    def p_values(self, X: ArrayLike) -> NDArray[np.float64]:
        """Tell which share of normal images is at least as irregular as each image.

        A score in (0, 1) with a meaning: with an alarm below 0.001, about one normal image in a
        thousand raises one. It is not the probability that an image is irregular, which depends
        on how many irregular images there are. Read more in the user guide.

        Parameters
        ----------
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            Images.

        Returns
        -------
        p : ndarray of shape (n_images,), float64
            In (0, 1): the higher, the more normal, in the order of `score_samples`. Estimated
            from the held-out images of `calibration_`: with n of them, a value below
            ``1 / (n + 1)`` only says that the image is more irregular than each of them.

        Raises
        ------
        ValueError
            If there are no scores of held-out images with the present thresholds: after
            `with_thresholds` without ``calibration`` under ``fusion="min"``, and in files of
            older releases.

        Examples
        --------
        >>> import numpy as np
        >>> from skavid import AVIDDetector
        >>> X = np.random.default_rng(0).normal(size=(40, 16, 16))
        >>> detector = AVIDDetector(max_epochs=1, random_state=0).fit(X)
        >>> bool(detector.p_values(X[:1] + 5) < 1 / 41)
        True
        """
        check_is_fitted(self)
        if getattr(self, "normal_scores_", None) is None:
            raise ValueError(
                "p_values needs the scores of normal images with the present thresholds, which "
                "this detector does not have; find thresholds with calibrate on normal images, "
                "and pass its result on: with_thresholds(found.alpha, found.zeta, "
                "calibration=found)."
            )
        return calibration.p_values(self._score(self.as_images(X)), self.normal_scores_)

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
        images = self.as_images(X)
        masks = anomaly_maps.as_output(out, images.shape[:3], np.bool_, "out")
        for rows, maps in self._iter_maps(images):
            masks[rows] = maps.mask
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
        parts = self._iter_maps(self.as_images(X))
        return [maps.find(row) for _, maps in parts for row in range(len(maps))]

    def maps(
        self, X: ArrayLike, *, inpainted: bool = True, out: dict[str, NDArray[Any]] | None = None
    ) -> AnomalyMaps:
        """Return the maps behind masks and scores.

        Parameters
        ----------
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            Images.
        inpainted : bool, default=True
            Whether I(X) is wanted. On a feature map it costs time, and it is never cached.
        out : dict, default=None
            Arrays of float32 to write to (memory maps, for example), by their names:
            "inpainted", "residual", "logits", "regularity", "evidence". The first three are made
            where they are missing, the last two when they are asked for.

        Returns
        -------
        maps : AnomalyMaps
            ``inpainted``, I(X), in X's units, (n_images, H, W) or (n_images, H, W, C) as X: for
            ``features="patches"`` X with the local brightness that I restores, for a frozen
            network, whose maps are no images, X itself; ``residual``, what I changes, in the
            units of `alpha`; ``logits`` and ``regularity``, D's score in [0, 1] of the least
            regular region that holds a pixel; ``evidence``, >= 0 where a pixel is irregular.
            All float32 and, but for the first, (n_images, H, W), after ``smoothing`` and
            ``dilation``. Beside them ``mask``, ``scores`` and ``whole``, bool (n_images,): True
            where the image as a whole is farther from normal than any training image; never for
            ``features="pixels"``. ``why`` says how: "darker" or "less sharp", for example.
        """
        images = self.as_images(X)
        squeezed = images.shape[-1] == 1 and np.ndim(X) != 4
        shape = images.shape[:3] if squeezed else images.shape
        return anomaly_maps.gather(
            self._iter_maps(images, inpainted=inpainted, squeezed=squeezed), images.shape[:3],
            rule=self.rule_, inpainted_shape=shape if inpainted else None, out=out,
        )  # fmt: skip

    def iter_maps(self, X: ArrayLike, *, inpainted: bool = True) -> Iterator[Any]:
        """Yield the maps of a batch of images at a time: memory does not grow with X.

        Parameters
        ----------
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            Images.
        inpainted : bool, default=True
            As in `maps`.

        Returns
        -------
        parts : iterator of (slice, AnomalyMaps)
            Which of the images, and their maps, as `maps` returns them.
        """
        images = self.as_images(X)
        squeezed = images.shape[-1] == 1 and np.ndim(X) != 4
        return self._iter_maps(images, inpainted=inpainted, squeezed=squeezed)

    def as_images(self, X: ArrayLike) -> NDArray[Any]:
        """Return X as the images that the detector looks at, or refuse it.

        Parameters
        ----------
        X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
            Images.

        Returns
        -------
        images : ndarray of shape (n_images, H, W, C)
            In X's own dtype; of real numbers, all finite.

        Raises
        ------
        ValueError
            If X is not as described, or holds images that the detector was not fitted for.
        """
        check_is_fitted(self)
        images = check_images(
            X, estimator=self, fitted_shape=self.image_shape_, ignore_mask=self.ignore_mask
        )
        ignored = ignored_pixels(self.ignore_mask, images.shape[1:3])
        warn_of_other_range(images, self.value_range_, ignored, stacklevel=3)
        self.pair_.check_size(images.shape[1:3], self.image_shape_[:2])
        return images

    @property
    def pair_(self) -> pair.NetworkPair:
        """I and D with all that it takes to look at images, such as a `FeaturePair`."""
        return fitting.make_pair(self, self._auto_filters, self._seed)

    @property
    def rule_(self) -> DecisionRule:
        """The thresholds in use and how both maps are joined; D that is blind gets no vote."""
        return fitting.make_rule(self, is_blind=self._is_blind)

    def _score(self, images: NDArray[Any]) -> NDArray[np.float64]:
        scores = np.empty(len(images))
        for rows, maps in self._iter_maps(images):
            scores[rows] = maps.scores
        return scores

    def _iter_maps(
        self, images: NDArray[Any], **asked: Any
    ) -> Iterator[tuple[slice, AnomalyMaps]]:
        return pair.iter_maps(
            self.pair_, images, rule=self.rule_, **asked, **fitting.looking(self, images)
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags
