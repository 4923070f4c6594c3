"""I and D over a feature map: I in closed form, D on what I changes (Sec. 3.1 to 3.4)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skavid.caching import cached
from skavid.core import anomaly_maps, block_training
from skavid.core.detector_training import ResidualNet
from skavid.core.feature_training import Pair, judge, train_pair, warn_if_blind
from skavid.core.features import FeatureMap, FrozenFeatures, MotionFeatures, identity
from skavid.core.linear import LinearInpainter
from skavid.core.networks import ResidualDetector
from skavid.core.pair import Look, Scale, Trained, calibration_rows, digest, placed, to_pixels
from skavid.core.regions import Geometry, aligned
from skavid.core.scene import Scene
from skavid.core.training import InterruptedTraining, Split
from skavid.core.whole_image import WholeImage
from skavid.exceptions import InterruptedTrainingWarning

__all__ = ["FeaturePair", "measure", "train"]

CHUNK = 8  # the matrices of I are read once per chunk


@dataclass(frozen=True)
class FeaturePair:
    """I and D over a feature map.

    Parameters
    ----------
    features : Module
        The feature map.
    inpainter : LinearInpainter
        I.
    detector : ResidualDetector
        D.
    whole : WholeImage
        What judges an image by its own statistics.
    geometry : Geometry
        Which pixels each place of the feature map holds.
    filters : dict
        Sides of the "mean" and the "maximum" filter, in pixels.
    """

    features: FeatureMap
    inpainter: LinearInpainter
    detector: ResidualDetector
    whole: WholeImage
    geometry: Geometry
    filters: dict[str, int]

    def to(self, device: str) -> FeaturePair:
        """Return the pair with its networks on a device.

        Parameters
        ----------
        device : str
            Where to compute.

        Returns
        -------
        pair : FeaturePair
            On a GPU, copies of all networks.
        """
        return replace(
            self,
            features=placed(self.features, device),
            inpainter=placed(self.inpainter, device),
            detector=placed(self.detector, device),
            whole=placed(self.whole, device),
        )

    def chunk_size(self, height: int, width: int, device: str) -> int:
        """Return how many images the networks look at at once.

        Parameters
        ----------
        height, width : int
            Of an image, in pixels.
        device : str
            Where to compute.

        Returns
        -------
        n : int
            The same for all sizes: one frame of a video, which may be live, or several images.
        """
        return 1 if isinstance(self.features, MotionFeatures) and device == "cpu" else CHUNK

    def check_size(self, size: tuple[int, ...], fitted: tuple[int, ...]) -> None:
        """Refuse images of a size that the networks cannot look at.

        Parameters
        ----------
        size, fitted : tuple (height, width)
            Of an image and of the training images.
        """
        if not self.inpainter.is_pooled and size != fitted:
            raise ValueError(
                f"X has images of shape {size}, but AVIDDetector was fitted on {fitted} and "
                "knows what is normal at each place; resize them, or fit with "
                "inpainter__pooling='everywhere'."
            )

    @torch.inference_mode()
    def look(
        self,
        images: Tensor,
        n: int,
        ignore_mask: NDArray[np.bool_] | None,
        *,
        restores: bool = True,
    ) -> Look:
        """Look at a chunk of images.

        Parameters
        ----------
        images : Tensor of shape (n_images, n_channels, height, width)
            Scaled, on the device of the networks.
        n : int
            How many of them count.
        ignore_mask : ndarray of shape (height, width), bool, or None
            True where pixels do not count.
        restores : bool, default=True
            Whether to look for I(X), which "patches" and "motion" have.

        Returns
        -------
        look : Look
            Both maps of the first ``n`` images.
        """
        maps = self.features(images).float()
        judged = judge(maps, self.inpainter, self.detector, self.whole)
        inpainted = images
        if restores and not isinstance(self.features, FrozenFeatures):
            inpainted = self.features.repaint(images, self.inpainter(maps) - maps)
        residual, logits = _maps(
            judged.residual[:n].cpu().numpy(), judged.logits[:n].cpu().numpy(),
            self.geometry, images.shape[2:], self.filters, ignore_mask,
        )  # fmt: skip
        reasons = judged.whole.to(torch.uint8)
        if reasons.any():
            reasons *= self.whole.explain(images)
        return Look(residual, logits, reasons[:n].cpu().numpy(), inpainted[:n].cpu())

    def fingerprint(self) -> tuple[Any, ...]:
        """Name all that the maps depend on beside the images, for a cache.

        Returns
        -------
        fingerprint : tuple
            Hashes and numbers.
        """
        networks = self.inpainter, self.detector, self.whole
        return digest(*networks), self.geometry, self.filters


def measure(features: FeatureMap, scene: Scene | None = None) -> Scale:
    """Return the sizes that follow from a feature map.

    Parameters
    ----------
    features : Module
        The feature map.
    scene : Scene, optional
        What moves in the training clips.

    Returns
    -------
    scale : Scale
        Maps of video are averaged over an object.

    Examples
    --------
    >>> from skavid.core.feature_pair import measure
    >>> from skavid.core.features import make_features
    >>> measure(make_features("patches", (32, 32, 1))).object_size is None
    True
    """
    size = None if scene is None else scene.size
    speed = None if scene is None or size is None else scene.speed
    filters = {"mean": 0 if size is None else round(size), "maximum": 0}
    return Scale(aligned(features.region_size), size, speed, None, filters)


def train(
    images: NDArray[Any],
    groups: NDArray[Any] | None,
    parts: Split,
    settings: dict[str, Any],
    *,
    scale: Scale,
    filters: dict[str, int],
    memory: Any,
    known: tuple[LinearInpainter, WholeImage, ResidualNet] | None,
    **watched: Any,
) -> Trained:
    """Solve for I and train D, or take them from a cache.

    Parameters
    ----------
    images : ndarray of shape (n_images, height, width, n_channels)
        Checked images.
    groups : ndarray of shape (n_images,) or None
        Clip ids.
    parts : Split
        Which rows train and which are held out. Without ``groups`` all images train, and each
        one calibrates as if the others alone had been trained on.
    settings : dict
        Of `skavid.core.feature_training.train_pair`.
    scale : Scale
        From `measure`.
    filters : dict
        Sides of the filters, in pixels, for the maps to calibrate on.
    memory : None, str or Memory
        A cache.
    known : tuple (LinearInpainter, WholeImage, ResidualNet) or None
        What to go on with.
    **watched : dict
        ``callbacks``; ``verbose``, which does not decide over the result; and the ``scene``,
        which follows from the images.

    Returns
    -------
    trained : Trained
        Both networks and the maps to calibrate on. An interrupted training warns.
    """
    # Frames of a clip are alike: thresholds come from clips that were held out.
    rows = np.arange(len(images)) if groups is None else parts.train
    held_out = None if groups is None else parts.held_out
    try:
        if known is not None:
            pair = train_pair(
                images, rows, held_out, known=known, groups=groups, **watched, **settings
            )
        else:
            own = None
            if memory is not None:
                own = identity(settings["features"], images.shape[1:])
            decisive = (images, rows, held_out, groups, settings | {"features": own})
            with cached(train_pair, memory, decisive, watched["callbacks"]) as training:
                pair = training(
                    images, rows, held_out, groups=groups, identity=own, **watched, **settings
                )
    except InterruptedTraining as interrupted:
        pair = interrupted.result
        if pair.net.stopped_by_ is None:
            warnings.warn(
                f"The training was interrupted after epoch {pair.net.n_trained_}; what D learnt "
                "so far is kept.",
                InterruptedTrainingWarning,
                stacklevel=7,
            )
    calibrating = rows if held_out is None else held_out
    size = images.shape[1:3]
    chosen = calibration_rows(np.arange(len(calibrating)), *size)
    pair = pair._replace(residual=pair.residual[chosen], logits=pair.logits[chosen])
    return _trained(
        pair, calibrating[chosen], len(calibrating), size, settings, scale=scale, filters=filters
    )


def train_on_blocks(
    run: block_training.Run,
    surveyed: block_training.Surveyed,
    settings: dict[str, Any],
    *,
    scale: Scale,
    filters: dict[str, int],
) -> Trained:
    """Train as `train` does on images that are read in blocks, without clips.

    Parameters
    ----------
    run : callable
        Of `skavid.core.block_training.train_on_blocks`.
    surveyed : Surveyed
        What is known of the images.
    settings : dict
        As of `train`, with ``callbacks`` and ``verbose``.
    scale, filters : Scale, dict
        As of `train`.

    Returns
    -------
    trained : Trained
        Both networks and the maps to calibrate on.
    """
    pair, rows = block_training.train_on_blocks(run, surveyed, **settings)
    size = surveyed.shape[:2]
    return _trained(pair, rows, surveyed.n, size, settings, scale=scale, filters=filters)


def _trained(
    pair: Pair,
    rows: NDArray[np.int64],
    n_held_out: int,
    size: tuple[int, ...],
    settings: dict[str, Any],
    *,
    scale: Scale,
    filters: dict[str, int],
) -> Trained:
    """Gather what a training leaves behind; the pair holds the maps of the rows."""
    maps = _maps(
        pair.residual, pair.logits, scale.geometry, size, filters, settings["ignore_mask"]
    )
    return Trained(
        pair.inpainter, pair.detector, pair.net, pair.history, pair.net.n_trained_,
        checkpoint={
            "inpainter": {"epoch": 0, "region_auc": pair.region_auc[0]},
            "detector": {"epoch": len(pair.history), "region_auc": pair.region_auc[1]},
        },
        rows=rows,
        n_held_out=n_held_out,
        scale=scale,
        features=settings["features"],
        whole=pair.whole,
        maps=maps,
        region_auc=pair.region_auc,
        is_blind=warn_if_blind(pair),
    )  # fmt: skip


def _maps(
    residual: NDArray[np.float32],
    logits: NDArray[np.float32],
    geometry: Geometry,
    size: Any,
    filters: dict[str, int],
    ignore_mask: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Bring what both networks say of the places of a feature map to pixels."""
    to: dict[str, Any] = {
        "geometry": geometry,
        "size": tuple(size),
        "filters": filters,
        "ignore_mask": ignore_mask,
    }
    return (
        -to_pixels(-residual, **to, ignored=0.0),
        to_pixels(logits, **to, ignored=anomaly_maps.LOG_LIMIT),
    )
