"""The adversarial training of Sec. 3.3 and Eq. 3, on normal images alone."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, RandomSampler

from skavid.core.corruption import Corrupted, Corruption, Neighbours, synthetic_anomalies
from skavid.core.images import to_tensor
from skavid.core.losses import LOSSES
from skavid.core.networks import Detector, Inpainter
from skavid.core.regions import Geometry, region_mean
from skavid.core.scene import (
    Read,
    Scene,
    background,
    clip_begins,
    clip_starts,
    evenly,
    learn_scene,
)
from skavid.core.threads import ahead, side_by_side
from skavid.exceptions import CollapseWarning, DivergedError

__all__ = [
    "AVIDNet",
    "InterruptedTraining",
    "scene_of_stacks",
    "split",
    "train_networks",
]

FEW_CLIPS = 5  # fewer than these: parts of each are held out
BANK_SIZE = 64  # held-out images that judge both networks after each epoch
PER_IMAGE = ("background", "top", "gain", "level")  # of Neighbours: a row an image
CUT_EDGE = 8  # pixels beside the edge of a crop that D is not asked about
N_REPLAYED = 64  # old outputs of I that D is shown again
BLIND_AUC = 0.55
BLIND_CHECKS = 5
USUAL_RATE = 0.002  # the defaults of AVIDDetector
USUAL_ADVERSARIAL_WEIGHT = 0.01
NEARLY_0_AND_1 = (1e-4, 1 - 1e-4)
IRREGULAR_WEIGHT = 2.5  # irregular regions are rare: each counts this much more for D
OWN_CALLBACKS = ("validation", "check", "checkpoint")  # all others are the user's
INTACT_WEIGHT = 0.1  # what an intact pixel counts for I, beside 1 for a corrupted one


class InterruptedTraining(Exception):
    """The user or a callback ended a training that has usable networks already.

    An exception, so that no cache takes the result for that of a whole training.

    Parameters
    ----------
    result : AVIDNet or Pair
        What the training would have returned, as it was when it was interrupted.
    """

    def __init__(self, result: Any) -> None:
        super().__init__("the training was interrupted")
        self.result = result


class StoppableNet(NeuralNet):  # type: ignore[misc]
    """A skorch net that notes which callback of the user ended its training.

    skorch ends a training by a KeyboardInterrupt, whether a callback or the user asked for it.

    Attributes
    ----------
    stopped_by_ : str or None
        Class of the callback that ended the last training after an epoch.
    """

    stopped_by_: str | None = None

    def notify(self, method_name: str, **kwargs: Any) -> None:
        """Call a method of all callbacks, as skorch does.

        Parameters
        ----------
        method_name : str
            Such as "on_epoch_end".
        **kwargs : dict
            What the method takes.
        """
        if method_name == "on_train_begin":
            self.stopped_by_ = None
        getattr(self, method_name)(self, **kwargs)
        for name, callback in self.callbacks_:
            try:
                getattr(callback, method_name)(self, **kwargs)
            except KeyboardInterrupt:
                if method_name == "on_epoch_end" and name not in OWN_CALLBACKS:
                    self.stopped_by_ = type(callback).__name__
                raise


class Split(NamedTuple):
    """Which images train and which are held out.

    Parameters
    ----------
    train, held_out : ndarray of int
        Row numbers, sorted.
    """

    train: NDArray[np.int64]
    held_out: NDArray[np.int64]


def split(
    n: int, groups: NDArray[Any] | None, fraction: float, random_state: np.random.RandomState
) -> Split:
    """Hold images out of the training; whole clips where there are several.

    Parameters
    ----------
    n : int
        Number of images, at least 2.
    groups : ndarray of shape (n,) or None
        Clip ids. With fewer than five clips, the end of each is held out, and a gap before it
        belongs to neither part, since neighbouring frames are alike.
    fraction : float
        Share to hold out, in (0, 1), of images or of clips; at least one is, and one is not.
    random_state : RandomState
        Chooses images or clips.

    Returns
    -------
    split : Split
        Row numbers, disjoint.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid.core.training import split
    >>> split(20, np.repeat([0, 1], 10), 0.2, np.random.RandomState(0)).held_out
    array([ 8,  9, 18, 19])
    """
    wanted = min(max(1, round(fraction * n)), n - 1)
    rows = np.arange(n)
    names = np.array([]) if groups is None else np.unique(groups)
    if groups is None:
        chosen = np.isin(rows, random_state.permutation(n)[:wanted])
    elif len(names) < FEW_CLIPS:
        return _ends(groups, fraction)
    else:
        chosen = np.zeros(n, dtype=bool)
        for name in random_state.permutation(names)[:-1]:
            chosen |= groups == name
            if chosen.sum() >= wanted:
                break
    return Split(rows[~chosen], rows[chosen])


def _ends(groups: NDArray[Any], fraction: float) -> Split:
    """Hold out the end of each clip, but for a gap before it."""
    begins = clip_begins(groups)
    train, held_out = [], []
    for clip in np.split(np.arange(len(groups)), begins[1:]):
        n = int(fraction * len(clip))
        gap = -(-n // 4) if len(clip) > n + -(-n // 4) else 0
        train.append(clip[: len(clip) - n - gap])
        held_out.append(clip[len(clip) - n :])
    if not sum(map(len, held_out)):  # clips so short that no share of them is a frame
        last = max(train, key=len)
        return Split(np.setdiff1d(np.concatenate(train), last[-1:]), last[-1:])
    return Split(np.concatenate(train), np.concatenate(held_out))


class Batch(NamedTuple):
    """What one training step sees.

    Parameters
    ----------
    images : Tensor of shape (n_images, n_channels, height, width)
        Clean images X, cropped.
    inside : Tensor of shape (n_images, height, width)
        0 near an edge that only the crop made, where what was cut off could tell more, and where
        pixels do not count. Else 1.
    beside : Neighbours or None
        What clips add.
    """

    images: Tensor
    inside: Tensor
    beside: Neighbours | None

    def to(self, device: str) -> Batch:
        """Bring all of it to a device."""
        beside = self.beside and _slice(self.beside, slice(None), device)
        return Batch(self.images.to(device), self.inside.to(device), beside)


class _CorruptedBatch(NamedTuple):
    """A batch, and what both networks are to make of it."""

    images: Tensor
    inside: Tensor
    task: Corrupted  # for I
    detector_task: Corrupted | None  # for D


class _Images(Dataset[Any]):
    """Batches of training images, with what clips add to them, cropped on the way."""

    def __init__(
        self,
        images: NDArray[Any],
        rows: NDArray[np.int64],
        *,
        value_range: tuple[float, float],
        groups: NDArray[Any] | None,
        spacing: int | None,
        scene: Scene | None,
        crop_size: int | None,
        ignore_mask: NDArray[np.bool_] | None,
        generator: Generator,
        batches_per_epoch: int | None = None,
    ) -> None:
        self.images = images
        self.ignore_mask = ignore_mask
        self.rows = rows
        self.value_range = value_range
        self.crop_size = crop_size
        self.spacing = spacing
        self.scene = scene
        self.starts = clip_starts(len(images), groups)
        self.generator = generator
        self.batches_per_epoch = batches_per_epoch

    def __len__(self) -> int:
        return len(self.rows)

    def n_batches(self, batch_size: int) -> int:
        """Return how many batches an epoch has."""
        return self.batches_per_epoch or -(-len(self) // batch_size)

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = self.rows[np.asarray(indices)]
        images = to_tensor(self.images[rows], self.value_range, self.ignore_mask)
        if self.scene is None or self.spacing is None:
            images, inside, _ = self._crop(images, None)
            return Batch(images, inside, None)
        still = torch.stack([self._background(int(self.starts[row])) for row in rows])[:, None]
        stack, inside, top = self._crop(torch.cat([images, still], 1), still)
        # Pictures taken at another hour, and of people who walk the other way.
        gain, level = 0.9 + 0.2 * self._rand(len(rows)), 0.12 * (self._rand(len(rows)) - 0.5)
        stack = stack * gain[:, None, None, None] + level[:, None, None, None]
        turned = self._rand(len(rows)) < 0.5
        stack = torch.where(turned[:, None, None, None], stack.flip(-1), stack)
        inside = torch.where(turned[:, None, None], inside.flip(-1), inside)
        beside = Neighbours(self.scene, stack[:, -1:], top, gain, level, self.spacing)
        return Batch(stack[:, :-1], inside, beside)

    def _rand(self, n: int) -> Tensor:
        return torch.rand(n, generator=self.generator)

    def _background(self, start: int) -> Tensor:
        """Return a clip's background; a clip that is held out has its own, made when asked."""
        assert self.scene is not None
        if start not in self.scene.backgrounds:
            clip = np.flatnonzero(self.starts == start)
            self.scene.backgrounds[start] = torch.from_numpy(
                background(_newest(self.images, self.value_range, self.ignore_mask), clip)
            )
        return self.scene.backgrounds[start]

    def _crop(self, images: Tensor, still: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Cut out what moves, or any place, at random; say what is inside, and each top row."""
        (n, _, height, width), size = images.shape, self.crop_size
        tall, broad = min(size or height, height), min(size or width, width)
        counts = torch.ones(height, width)
        if self.ignore_mask is not None:
            counts[torch.from_numpy(self.ignore_mask)] = 0
        if (tall, broad) == (height, width):
            return images, counts.expand(n, -1, -1), torch.zeros(n)
        top = torch.randint(height - tall + 1, (n,), generator=self.generator)
        left = torch.randint(width - broad + 1, (n,), generator=self.generator)
        if still is not None:
            change = (images[:, :-1] - still).abs().amax(1).flatten(1) ** 2 + 1e-9
            centre = torch.multinomial(change, 1, generator=self.generator)[:, 0]
            busy = self._rand(n) < 0.85
            top = torch.where(busy, (centre // width - tall // 2).clamp(0, height - tall), top)
            left = torch.where(busy, (centre % width - broad // 2).clamp(0, width - broad), left)
        places = list(zip(top.tolist(), left.tolist(), strict=True))
        cut = torch.stack(
            [
                one[:, y : y + tall, x : x + broad]
                for one, (y, x) in zip(images, places, strict=True)
            ]
        )
        edge = min(CUT_EDGE, tall // 4, broad // 4)
        inside = F.pad(torch.ones(n, tall - 2 * edge, broad - 2 * edge), [edge] * 4)
        for one, (y, x) in zip(inside, places, strict=True):
            one[: edge * (y == 0)] = one[edge]
            one[tall - edge * (y == height - tall) :] = one[tall - edge - 1]
            one[:, : edge * (x == 0)] = one[:, edge : edge + 1]
            one[:, broad - edge * (x == width - broad) :] = one[:, broad - edge - 1, None]
            one *= counts[y : y + tall, x : x + broad]
        return cut, inside, top.float()


def scene_of_stacks(
    images: NDArray[Any],
    groups: NDArray[Any] | None,
    rows: NDArray[np.int64],
    *,
    value_range: tuple[float, float],
    spacing: int,
    ignore_mask: NDArray[np.bool_] | None = None,
) -> Scene:
    """Learn from training clips what moves there.

    Parameters
    ----------
    images : ndarray of shape (n_images, height, width, n_channels)
        Checked stacks.
    groups : ndarray of shape (n_images,) or None
        Clip ids.
    rows : ndarray of int
        Those that train.
    value_range : tuple of float
        What is scaled to 0 and 1.
    spacing : int
        Frames between two channels.
    ignore_mask : ndarray of shape (height, width), bool, default=None
        True where pixels do not count: nothing moves there.

    Returns
    -------
    scene : Scene
        Backgrounds, objects, sizes and speeds.
    """
    return learn_scene(
        _newest(images, value_range, ignore_mask),
        rows,
        clip_starts(len(images), groups),
        n_channels=images.shape[-1],
        spacing=spacing,
    )


def _newest(
    images: NDArray[Any], value_range: tuple[float, float], ignore_mask: NDArray[np.bool_] | None
) -> Read:
    def read(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        newest = to_tensor(images[rows][..., -1:], value_range, ignore_mask)
        moments: NDArray[np.float32] = newest[:, 0].numpy()
        return moments

    return read


def region_targets(
    corrupted: Corrupted, geometry: Geometry, *, fake: bool = False
) -> tuple[Tensor, Tensor]:
    """Convert the corrupted pixels to targets and weights of D's regions.

    A region is irregular where enough of it is corrupted, regular where next to nothing is,
    and undecided (weight 0) between.

    Parameters
    ----------
    corrupted : Corrupted
        As a corruption returns it.
    geometry : Geometry
        Which pixels each region holds.
    fake : bool, default=False
        The images are I's work: every touched pixel counts.

    Returns
    -------
    regular, weight : Tensor of shape (n_images, n1, n2)
        1 regular, 0 irregular; how much the region counts.
    """
    share = region_mean(corrupted.where, geometry)
    # In a large region a few pixels suffice: it should say so when it holds a small oddity.
    enough = min(0.35, 64 / geometry.size**2)
    regular = (share < enough).float()
    decided = (share >= enough) | (share <= enough / 7)
    weight = decided * (1 + (IRREGULAR_WEIGHT - 1) * (1 - regular))
    return regular, weight if fake else weight * region_mean(corrupted.weight, geometry)


class _CorruptedBatches:
    """The turns of an epoch, each made while the one before it is used."""

    def __init__(
        self, batches: DataLoader[Any], prepare: Callable[[Batch], _CorruptedBatch]
    ) -> None:
        self.batches = batches
        self.prepare = prepare

    def __iter__(self) -> Iterator[_CorruptedBatch]:
        return ahead(map(self.prepare, self.batches))


class AVIDNet(StoppableNet):
    """The adversarial training: two modules, two optimisers, one train step.

    Parameters
    ----------
    inpainter : Inpainter
        I, trained in place.
    detector : Detector
        D, trained in place.
    inpainter_corruption : callable
        What I restores, see `skavid.core.corruption`.
    detector_corruption : callable or None
        What D finds; None teaches D by I's work alone, as printed.
    gamma : float
        Eq. 2's noise.
    loss : {"bce", "lsgan", "hinge", "eq3"}
        The adversarial loss, see `skavid.losses`.
    adversarial_weight : float
        Weight of the terms in which one network sees the other's work; 0 leaves them out.
    adversarial_start : float
        Share of the training, in [0, 1), after which these terms join in.
    reconstruction_weight : float
        Weight of I's restoring error; Eq. 3 as printed has none.
    reconstruction_loss : {"bernoulli", "l1"}
        How far masked pixels are from what they were: as the cross-entropy of intensities in
        [0, 1], or absolutely, as all other pixels are.
    optimizer_name : {"adamw", "sgd"}
        Both networks have their own.
    momentum : float
        SGD's momentum or AdamW's first beta.
    average_decay : float
        Decay of the moving averages of both networks, which are what is kept.
    n_iter_no_change : int or None
        Epochs without a better I or D after which the training ends.
    seed : int
        Of the corruptions.
    **kwargs : dict
        Of `skorch.NeuralNet`: ``max_epochs``, ``lr``, ``device``, ``callbacks``, ``verbose``...

    Attributes
    ----------
    inpainter_, detector_ : Module
        The networks in training.
    averaged_inpainter_, averaged_detector_ : AveragedModel
        Their moving averages.
    best_ : dict
        For "inpainter" and "detector": the epoch, the figure that chose it, and the weights.
    stopped_ : str or None
        Why the training ended before its time.
    n_trained_ : int
        Epochs of the last training.
    """

    def __init__(
        self,
        inpainter: Inpainter,
        detector: Detector,
        *,
        inpainter_corruption: Corruption,
        detector_corruption: Corruption | None,
        gamma: float,
        loss: str,
        adversarial_weight: float,
        adversarial_start: float,
        reconstruction_weight: float,
        reconstruction_loss: str,
        optimizer_name: str,
        momentum: float,
        average_decay: float,
        n_iter_no_change: int | None,
        seed: int,
        **kwargs: Any,
    ) -> None:
        self.inpainter = inpainter
        self.detector = detector
        self.inpainter_corruption = inpainter_corruption
        self.detector_corruption = detector_corruption
        self.gamma = gamma
        self.loss = loss
        self.adversarial_weight = adversarial_weight
        self.adversarial_start = adversarial_start
        self.reconstruction_weight = reconstruction_weight
        self.reconstruction_loss = reconstruction_loss
        self.optimizer_name = optimizer_name
        self.momentum = momentum
        self.average_decay = average_decay
        self.n_iter_no_change = n_iter_no_change
        self.seed = seed
        super().__init__(module=inpainter, criterion=nn.Identity, **kwargs)

    def initialize_module(self) -> AVIDNet:
        """Take both networks and start their moving averages."""
        self.inpainter_ = self.inpainter
        self.detector_ = self.detector
        average = Average(self.average_decay)
        self.averaged_inpainter_ = AveragedModel(self.inpainter, avg_fn=average, use_buffers=True)
        self.averaged_detector_ = AveragedModel(self.detector, avg_fn=average, use_buffers=True)
        self.generator_ = Generator().manual_seed(self.seed)
        self.replay_generator_ = Generator().manual_seed(self.seed + 3)
        self.replayed_: list[tuple[Tensor, Tensor, Tensor]] = []
        self.best_: dict[str, dict[str, Any]] = {}
        self.stopped_: str | None = None
        self.step_ = 0
        return self

    def initialize_criterion(self) -> AVIDNet:
        """Build nothing: the losses are functions."""
        return self

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> AVIDNet:
        """Give each network its own optimiser."""
        self.inpainter_optimizer_ = self._optimizer(self.inpainter_)
        self.detector_optimizer_ = self._optimizer(self.detector_)
        return self

    def _optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        if self.optimizer_name == "sgd":
            return torch.optim.SGD(network.parameters(), lr=self.lr, **self._inertia())
        return torch.optim.AdamW(
            network.parameters(), lr=self.lr, weight_decay=0.01, **self._inertia()
        )

    def _inertia(self) -> dict[str, Any]:
        if self.optimizer_name == "sgd":
            return {"momentum": self.momentum}
        return {"betas": (self.momentum, 0.999)}

    def get_iterator(self, dataset: _Images, training: bool = False) -> _CorruptedBatches:
        """Shuffle the training images into whole batches and corrupt them, one ahead.

        Parameters
        ----------
        dataset : Dataset
            Training images, with the generator of their order.
        training : bool, default=False
            Not used: the validation reads held-out images by itself.

        Returns
        -------
        turns : iterable
            An epoch at a time, of ``batch_size`` images each; the last one is filled up with
            images seen before, since batch statistics of a lone image would be worth nothing.
        """
        n = dataset.n_batches(self.batch_size) * self.batch_size
        sampler = RandomSampler(dataset, num_samples=n, generator=dataset.generator)
        batches = DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=_as_it_is,
            generator=dataset.generator,
        )
        return _CorruptedBatches(batches, self._prepare)

    @torch.no_grad()
    def _prepare(self, batch: Batch) -> _CorruptedBatch:
        batch = batch.to(self.device)
        task = self._corrupt(self.inpainter_corruption, batch.images, batch.beside)
        detector_task = None
        if self.detector_corruption is self.inpainter_corruption:
            detector_task = task  # one draw serves both networks
        elif self.detector_corruption is not None:
            detector_task = self._corrupt(self.detector_corruption, batch.images, batch.beside)
        return _CorruptedBatch(batch.images, batch.inside, task, detector_task)

    def train_step(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        """Move D and I on one batch; at once where neither sees the other's work.

        Parameters
        ----------
        batch : tuple
            Clean images X, what counts of them, I's task and D's task.
        **fit_params : dict
            Not used.

        Returns
        -------
        step : dict
            ``loss``, the sum of both networks' losses.

        Notes
        -----
        With X~ a corrupted X, Y all ones, l the loss and v the adversarial weight ([1]_, Eq. 3)::

            D:  min  l(D(X~), Y - where) + v l(D(I(X~)), Y - where)
            I:  min  d(X, I(X~))  + v l(D(I(X~)), Y)

        where X~ is made by each network's own corruption and d is the reconstruction loss.
        Where X~ is not corrupted it is X; a D without a corruption of its own sees X instead, as
        printed. D also sees old outputs of I.

        References
        ----------
        .. [1] Sabokrou et al., "AVID: Adversarial Visual Irregularity Detection", ACCV 2018.
        """
        self._set_learning_rate()
        if self._is_adversarial():
            restored, made = self._restore(batch)
            detector_loss = self._step_detector(batch, made.detach())
            inpainter_loss = self._step_inpainter(batch, restored, made)
        else:
            inpainter_loss, detector_loss = side_by_side(
                partial(self._step_inpainter, batch), partial(self._step_detector, batch),
                device=self.device,
            )  # fmt: skip
        self.averaged_inpainter_.update_parameters(self.inpainter_)
        self.averaged_detector_.update_parameters(self.detector_)
        self.step_ += 1
        for name, loss in (("inpainter", inpainter_loss), ("detector", detector_loss)):
            if not torch.isfinite(loss):
                raise DivergedError(
                    f"The {name}'s loss became {loss.item()} in epoch {len(self.history)}; "
                    f"lower learning_rate (now {self.lr:g}) or take loss='bce'."
                )
            self.history.record_batch(f"{name}_loss", loss.item())
        return {"loss": (inpainter_loss + detector_loss).detach(), "y_pred": None}

    def _corrupt(
        self, corruption: Corruption, images: Tensor, beside: Neighbours | None
    ) -> Corrupted:
        return corruption(
            images,
            gamma=self.gamma,
            generator=self.generator_,
            neighbours=beside,
        )

    def _restore(self, batch: _CorruptedBatch) -> tuple[Tensor, Tensor]:
        """Return I(X~), and what I made of X: I(X~) where pixels were masked, if any were."""
        task = batch.task
        restored = self.inpainter_(task.images, task.masked)
        if not task.masked.any():
            return restored, restored
        return restored, torch.where(task.masked > 0, restored, batch.images)

    def _step_detector(self, batch: _CorruptedBatch, made: Tensor | None = None) -> Tensor:
        detector_task, geometry, loss = (
            batch.detector_task,
            self.detector_.geometry,
            LOSSES[self.loss],
        )
        logits = self.detector_(batch.images if detector_task is None else detector_task.images)
        if detector_task is None:
            total = loss(logits, torch.ones_like(logits), None)
        else:
            # What was not pasted over is X: a clean batch would teach little at much cost.
            regular, weight = region_targets(detector_task, geometry)
            weight = weight * region_mean(batch.inside, geometry)
            total = loss(logits, regular, weight)
        if made is not None:
            fake, *truth = self._replay(made, *region_targets(batch.task, geometry, fake=True))
            # Fixed statistics: I's work must not shift what D takes for normal.
            self.detector_.eval()
            total = total + self.adversarial_weight * loss(self.detector_(fake), *truth)
            self.detector_.train()
        self._descend(self.detector_, self.detector_optimizer_, total)
        return total.detach()

    def _replay(
        self, made: Tensor, regular: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Show D old outputs of I in half of the places, so that it does not forget them."""
        out = []
        for new in zip(made, regular, weight, strict=True):
            coin, place = torch.rand(2, generator=self.replay_generator_).tolist()
            if len(self.replayed_) < N_REPLAYED:
                self.replayed_.append(_copied(new))
                out.append(new)
            elif coin < 0.5:
                slot = int(place * N_REPLAYED)
                old = self.replayed_[slot]
                self.replayed_[slot] = _copied(new)
                out.append(old if old[0].shape == new[0].shape else new)
            else:
                out.append(new)
        first, second, third = (torch.stack(parts) for parts in zip(*out, strict=True))
        return first, second, third

    def _step_inpainter(
        self, batch: _CorruptedBatch, restored: Tensor | None = None, made: Tensor | None = None
    ) -> Tensor:
        if restored is None:
            restored, _ = self._restore(batch)
        images, task = batch.images, batch.task
        weight = INTACT_WEIGHT + (1 - INTACT_WEIGHT) * task.where[:, None]
        if task.masked.any():
            weight = torch.maximum(weight * INTACT_WEIGHT, task.masked)
        error = (images - restored).abs()
        if self.reconstruction_loss == "bernoulli":
            shares = restored.clamp(*NEARLY_0_AND_1)
            entropy = F.binary_cross_entropy(shares, images.clamp(0, 1), reduction="none")
            error = torch.where(task.masked > 0, entropy, error)
        error = (weight * error).sum() / weight.expand_as(images).sum()
        total = self.reconstruction_weight * error
        if made is not None:
            # Fixed batch statistics: I must please D as it judges, not shift its averages.
            self.detector_.eval()
            loss = LOSSES[self.loss]
            pleased = loss(self.detector_(made), None, None, network="inpainter")
            self.detector_.train()
            total = total + self.adversarial_weight * pleased
        self._descend(self.inpainter_, self.inpainter_optimizer_, total)
        return total.detach()

    def _descend(self, network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = list(network.named_parameters())
        self.notify("on_grad_computed", named_parameters=parameters, training=True)
        optimizer.step()

    def _is_adversarial(self) -> bool:
        # A D without a corruption of its own learns from I's work alone, from the first step.
        begins = 0 if self.detector_corruption is None else self.adversarial_start * self.n_steps_
        return self.adversarial_weight > 0 and self.step_ - self.first_step_ >= begins

    def _set_learning_rate(self) -> None:
        """Warm up for a twentieth of each training, then follow a cosine to its end."""
        step = self.step_ - self.first_step_
        done = step / max(1, self.n_steps_)
        warm = min(1.0, (step + 1) / max(1.0, min(200.0, 0.05 * self.n_steps_)))
        rate = self.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        for optimizer in (self.inpainter_optimizer_, self.detector_optimizer_):
            for group in optimizer.param_groups:
                group["lr"] = rate


def _copied(parts: tuple[Tensor, ...]) -> Any:
    # A view would keep its whole batch.
    return tuple(part.clone() for part in parts)


class Average:
    """An exponential moving average that soon forgets the untrained weights."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def __call__(self, average: Tensor, new: Tensor, n_averaged: Tensor | int) -> Tensor:
        decay = min(self.decay, (1 + int(n_averaged)) / (10 + int(n_averaged)))
        return average * decay + new * (1 - decay) if average.is_floating_point() else new


class _Validation(Callback):  # type: ignore[misc]
    """After each epoch: check both networks on held-out images, keep the best of each, Sec. 4.3.

    I is kept where it restores held-out normal images best, D where it tells regular from
    irregular regions of a fixed bank of corrupted held-out images best.
    """

    images: Tensor
    beside: Neighbours | None
    bank: list[tuple[Tensor, Corrupted, Corrupted | None]]

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def begin(self, images: Tensor, beside: Neighbours | None) -> None:
        """Take the held-out images of a new training."""
        self.images, self.beside, self.bank = images, beside, []
        self.blind_ = 0
        self.warned_ = False
        self.stale_ = 0

    @torch.no_grad()
    def on_epoch_end(self, net: AVIDNet, dataset_train: Any = None, **kwargs: Any) -> None:
        for name in ("inpainter", "detector"):
            batches = net.history[-1, "batches", :, f"{name}_loss"]
            net.history.record(f"{name}_loss", float(np.mean(batches)))
        error, auc = self._check(net)
        net.history.record("valid_inpainter", error)
        net.history.record("valid_detector_auc", auc)
        net.history.record("valid_loss", error)  # the name that callbacks of skorch look for
        better = [
            self._keep(net, "inpainter", error, -error),
            self._keep(net, "detector", auc, auc),
        ]
        net.history.record("kept", " and ".join(c for c, b in zip("ID", better, strict=True) if b))
        self._watch(net, auc, any(better))

    def _check(self, net: AVIDNet) -> tuple[float, float]:
        """Return I's mean error where it had to restore, and D's region AUC."""
        self.bank = self.bank or self._corrupted(net)
        inpainter, detector = net.averaged_inpainter_.eval(), net.averaged_detector_.eval()
        geometry = net.detector_.geometry
        errors, truths, scores = [], [], []
        for images, task, detector_task in self.bank:
            restored = inpainter(task.images, task.masked)
            where = task.where[:, None]
            errors.append(
                ((images - restored).abs() * where).sum() / (where.expand_as(images).sum() + 1e-6)
            )
            seen = restored if detector_task is None else detector_task.images
            regular, weight = region_targets(
                task if detector_task is None else detector_task, geometry
            )
            clean = detector(images)
            truths += [regular[weight > 0], torch.ones_like(clean).flatten()]
            scores += [detector(seen)[weight > 0], clean.flatten()]
        truth, score = torch.cat(truths).cpu().numpy(), torch.cat(scores).cpu().numpy()
        # A bank without an irregular region (tiny images) cannot tell anything.
        auc = float(roc_auc_score(truth, score)) if 0 < truth.mean() < 1 else 0.5
        return float(torch.stack(errors).mean()), auc

    def _corrupted(self, net: AVIDNet) -> list[tuple[Tensor, Corrupted, Corrupted | None]]:
        """Corrupt the held-out images for I and, where it has one of its own, for D."""
        generator = net.generator_
        net.generator_ = Generator().manual_seed(self.seed)
        bank = []
        for start in range(0, len(self.images), net.batch_size):
            part = slice(start, start + net.batch_size)
            images = self.images[part].to(net.device)
            beside = self.beside and _slice(self.beside, part, net.device)
            task = net._corrupt(net.inpainter_corruption, images, beside)
            detector_task = None
            if net.detector_corruption is not None:
                detector_task = net._corrupt(net.detector_corruption, images, beside)
            bank.append((images, task, detector_task))
        net.generator_ = generator
        return bank

    def _keep(self, net: AVIDNet, name: str, figure: float, goodness: float) -> bool:
        best = net.best_.get(name)
        if best is not None and not goodness > best["goodness"]:
            return False
        average = getattr(net, f"averaged_{name}_").module
        weights = {
            key: value.detach().cpu().clone() for key, value in average.state_dict().items()
        }
        net.best_[name] = {
            "epoch": len(net.history),
            "figure": figure,
            "goodness": goodness,
            "weights": weights,
        }
        return True

    def _watch(self, net: AVIDNet, auc: float, better: bool) -> None:
        self.blind_ = self.blind_ + 1 if auc < BLIND_AUC else 0
        if self.blind_ >= BLIND_CHECKS and not self.warned_:
            self.warned_ = True
            warnings.warn(
                f"The detector cannot tell regular from irregular regions: its AUC on held-out "
                f"images was below {BLIND_AUC} for {BLIND_CHECKS} epochs in a row "
                f"(now {auc:.2f}); {_mends(net)}.",
                CollapseWarning,
                stacklevel=2,
            )
        self.stale_ = 0 if better else self.stale_ + 1
        if net.n_iter_no_change is not None and self.stale_ >= net.n_iter_no_change:
            net.stopped_ = f"no better network for {self.stale_} epochs"
            raise KeyboardInterrupt  # skorch's own way to end a training


def _mends(net: AVIDNet) -> str:
    """Say what to change of the parameters of a training in which D learns nothing."""
    mends = ["raise max_epochs", *unusual_rate(net.lr)]
    if net.detector_corruption is not synthetic_anomalies:
        mends.append("set corruption__detector='synthetic'")
    if net.adversarial_weight > USUAL_ADVERSARIAL_WEIGHT:
        mends.append(
            f"lower training__adversarial_weight (now {net.adversarial_weight:g}, usually "
            f"{USUAL_ADVERSARIAL_WEIGHT:g})"
        )
    return " or ".join(mends)


def unusual_rate(rate: float) -> list[str]:
    """Say to which side a learning rate must be moved that differs tenfold from the default.

    Parameters
    ----------
    rate : float
        The learning rate in use.

    Returns
    -------
    mend : list of str
        Empty for usual rates.

    Examples
    --------
    >>> from skavid.core.training import unusual_rate
    >>> unusual_rate(0.5), unusual_rate(0.002)
    (['lower learning_rate (now 0.5, usually 0.002)'], [])
    """
    if USUAL_RATE / 10 < rate < USUAL_RATE * 10:
        return []
    verb = "raise" if rate < USUAL_RATE else "lower"
    return [f"{verb} learning_rate (now {rate:g}, usually {USUAL_RATE:g})"]


def _go_on(net: AVIDNet, parameters: dict[str, Any]) -> None:
    """Prepare a net for one more training, under new parameters."""
    restarted = parameters["optimizer_name"] != net.optimizer_name
    for name, value in parameters.items():
        setattr(net, name, value)
    net.best_.clear()
    net.stopped_ = None
    if restarted:
        net.initialize_optimizer()
    for name in ("inpainter", "detector"):
        getattr(net, f"averaged_{name}_").avg_fn.decay = net.average_decay
        for group in getattr(net, f"{name}_optimizer_").param_groups:
            group.update(net._inertia())


def _slice(beside: Neighbours, part: slice, device: str) -> Neighbours:
    return beside._replace(**{name: getattr(beside, name)[part].to(device) for name in PER_IMAGE})


def _as_it_is(batch: Any) -> Any:
    return batch


def _move(net: AVIDNet, device: str) -> None:
    """Bring the networks and their optimisers to a device; on the CPU any machine opens them."""
    net.device = device
    for name in ("inpainter", "detector"):
        getattr(net, f"{name}_").to(device)
        getattr(net, f"averaged_{name}_").to(device)
        for state in getattr(net, f"{name}_optimizer_").state.values():
            for key, value in state.items():
                state[key] = value.to(device) if isinstance(value, Tensor) else value


def train_networks(
    images: NDArray[Any],
    groups: NDArray[Any] | None,
    parts: Split,
    *,
    value_range: tuple[float, float],
    scene: Scene | None,
    geometry: Geometry,
    inpainter_corruption: Corruption,
    detector_corruption: Corruption | None,
    inpainter_width: int,
    inpainter_depth: int,
    inpainter_patch: int,
    detector_width: int,
    spacing: int | None,
    crop_size: int | None,
    ignore_mask: NDArray[np.bool_] | None,
    max_epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    device: str,
    callbacks: list[Any] | None,
    verbose: int,
    batches_per_epoch: int | None = None,
    net: AVIDNet | None = None,
    checkpoint: Any = None,
    **settings: Any,
) -> AVIDNet:
    """Train a pair of networks on normal images.

    Parameters
    ----------
    images : ndarray of shape (n_images, height, width, n_channels)
        Checked images.
    groups : ndarray of shape (n_images,) or None
        Clip ids.
    parts : Split
        Which rows train and which are held out.
    value_range : tuple of float
        What is scaled to 0 and 1.
    scene : Scene or None
        From `scene_of_stacks`, for stacked video.
    geometry : Geometry
        The detector's regions.
    inpainter_corruption, detector_corruption : callable
        What I restores and what D finds, see `skavid.core.corruption`; None for D teaches it by
        I's work alone.
    inpainter_width, inpainter_depth, inpainter_patch, detector_width : int
        Sizes of the networks.
    spacing : int or None
        Frames between the channels of stacked video; None for images.
    crop_size : int or None
        Larger images are trained on crops of this size, in pixels.
    ignore_mask : ndarray of shape (height, width), bool, or None
        True where pixels do not count.
    max_epochs, batch_size : int
        How long, and how many images at once.
    learning_rate : float
        Its peak.
    seed : int
        The one source of randomness.
    device : str
        Where to train.
    callbacks : list or None
        More skorch callbacks.
    verbose : int
        0 is silent.
    batches_per_epoch : int, default=None
        Of images drawn at random. None passes over all images.
    net : AVIDNet, optional
        A net to go on with; it is left alone, a copy is trained. It keeps the sizes of its
        networks and its callbacks.
    checkpoint : Checkpoint, optional
        Of `skavid.checkpoint`: where the state of a new training is kept after each epoch,
        and where it may go on from.
    **settings : dict
        The other parameters of `AVIDNet`.

    Returns
    -------
    net : AVIDNet
        After the training, on the CPU.

    Raises
    ------
    InterruptedTraining
        When the user or a callback ended it after the first epoch; it carries the net.
    DivergedError
        When a loss is no longer finite.
    """
    options: dict[str, Any] = {
        "value_range": value_range,
        "groups": groups,
        "spacing": spacing,
        "scene": scene,
        "crop_size": crop_size,
        "ignore_mask": ignore_mask,
    }
    settings |= {
        "inpainter_corruption": inpainter_corruption,
        "detector_corruption": detector_corruption,
        "lr": learning_rate,
        "batch_size": batch_size,
        "verbose": verbose,
    }
    if net is None:
        networks = make_networks(
            images.shape[-1], geometry, seed, detector_width,
            width=inpainter_width, depth=inpainter_depth, patch=inpainter_patch,
            bounded=settings["reconstruction_loss"] == "bernoulli",
        )  # fmt: skip
        net = AVIDNet(
            *networks,
            seed=seed,
            device=device,
            callbacks=[("validation", _Validation(seed=seed + 2)), *(callbacks or [])],
            train_split=None,
            **settings,
        ).initialize()
    else:
        net = copy.deepcopy(net)
        _go_on(net, settings)
    # A training that goes on must not repeat the order of its last part.
    order = Generator().manual_seed(seed + 1 + net.step_)
    train = _Images(
        images, parts.train, generator=order, batches_per_epoch=batches_per_epoch, **options
    )
    _move(net, device)
    net.first_step_ = net.step_
    net.n_steps_ = max_epochs * train.n_batches(batch_size)
    validation = dict(net.callbacks_)["validation"]
    validation.begin(*_bank(images, parts.held_out, seed=seed + 2, options=options))
    begun = len(net.history)
    if checkpoint is not None:
        checkpoint.restore(net, order)
        net.callbacks_.append(("checkpoint", checkpoint))  # the last one: all is done by then
    if net.stopped_ is None and (left := max_epochs - len(net.history) + begun):
        net.partial_fit(train, epochs=left)
    if checkpoint is not None:
        net.callbacks_.pop()
        if net.stopped_ is not None:  # an early stop skips the callbacks behind the validation
            checkpoint.write(net)
    if len(net.history) > begun and "valid_inpainter" not in net.history[-1]:
        net.history.pop()  # an epoch that was interrupted
    net.n_trained_ = len(net.history) - begun
    # What only a running training needs stays out of pickles.
    net.replayed_.clear()
    del validation.images, validation.beside, validation.bank
    _move(net, "cpu")
    if net.n_trained_ < max_epochs and net.stopped_ is None:
        if not net.best_:
            raise KeyboardInterrupt
        raise InterruptedTraining(net)
    return net


def make_networks(
    n_channels: int, geometry: Geometry, seed: int, detector_width: int, **sizes: Any
) -> tuple[Inpainter, Detector]:
    """Build a pair of networks that have learnt nothing.

    Parameters
    ----------
    n_channels : int
        Of the images.
    geometry : Geometry
        The detector's regions.
    seed : int
        Of the weights.
    detector_width : int
        Of D.
    **sizes : dict
        Of I, as `skavid.core.networks.Inpainter` takes them.

    Returns
    -------
    inpainter, detector : Module
        On the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inpainter = Inpainter(n_channels, **sizes)
        detector = Detector(n_channels, geometry=geometry, width=detector_width)
    # Channels last: a third faster on CPUs.
    for network in (inpainter, detector):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return inpainter, detector


def _bank(
    images: NDArray[Any], rows: NDArray[np.int64], *, seed: int, options: dict[str, Any]
) -> tuple[Tensor, Neighbours | None]:
    held_out = _Images(images, rows, generator=Generator().manual_seed(seed), **options)
    batch = held_out.__getitems__(evenly(len(rows), BANK_SIZE).tolist())
    return batch.images, batch.beside
