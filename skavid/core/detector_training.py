"""D over a feature map: it learns from what I changes of images that it never saw."""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from skorch.callbacks import Callback
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset

from skavid.core.corruption import Corrupted, Neighbours, synthetic_anomalies
from skavid.core.features import LENGTH, FeatureMap, MotionFeatures
from skavid.core.images import to_tensor
from skavid.core.linear import (
    Changes,
    LinearInpainter,
    halved,
)
from skavid.core.losses import bce
from skavid.core.networks import ResidualDetector
from skavid.core.regions import Geometry, aligned, region_mean
from skavid.core.scene import Scene, clip_starts
from skavid.core.training import (
    Average,
    StoppableNet,
    region_targets,
)
from skavid.core.whole_image import WholeImage, composite_distances, log_distance
from skavid.exceptions import DivergedError

__all__: list[str] = []  # a part of AVIDDetector: nothing here is promised to users

BATCH = 16  # images whose features are computed at once in training
N_VERSIONS = 2  # corrupted versions of each image that D learns from, at most
BANK_IMAGES = 256
BANK_NUMBERS = 2**28  # of feature maps that are held for D, in half precision
CROP = 16  # places on a side of what D sees of a map in one step
STEPS_PER_EPOCH = 10
STRENGTH = (0.3, 1.5)  # of synthetic anomalies: from just visible to plain
VISIBLE = 0.5  # a region must change by this much of what I changes of normal ones
STILL = 0.25  # what stands still may count so much less; not 0, as it may be irregular, too
FEW_ALARMS = 0.1  # of normal frames
LEAST_MOVE = 0.05  # places
MOST_CHANGE = 1e3
N_CHECKED = 48  # images that each member of D is checked on at the end
N_WATCHED = 6  # and after each epoch


def evenness(inpainter: LinearInpainter) -> Tensor:
    """Return what residuals are divided by, so that normal images change more alike everywhere.

    Half way between their typical size at each place and the mean of it: where normal images
    hardly change at all, a small change is not yet an irregular one.
    """
    return (inpainter.typical / inpainter.typical.mean() + 1) / 2


def seen_by_detector(
    detector: ResidualDetector, inpainter: LinearInpainter, changes: Changes, features: Tensor
) -> Tensor:
    # Half precision ends at 65504, and D has learnt nothing of what is larger than this.
    read = (changes.white.abs() / evenness(inpainter)).clamp(max=MOST_CHANGE)
    if not detector.sees_features:
        return read
    mean, scale = inpainter.mean.mean(0), inpainter.scale
    usual = (features - mean[:, None, None]) / scale[:, None, None]
    return torch.cat([read, usual.clamp(-MOST_CHANGE, MOST_CHANGE)], 1)


def length_of(detector: ResidualDetector, read: Tensor) -> Tensor:
    # A user's own map may have fewer features; nothing moves in it.
    return read[:, LENGTH if detector.sees_features else 0]


class _Bank(NamedTuple):
    """Feature maps that D learns from: clean images and their corrupted versions."""

    features: Tensor  # (n_versions + 1, n, k, n1, n2) in half precision; then |F - I(F)|
    regular: Tensor  # (n_versions + 1, n, n1, n2), 1 where a place is regular
    weight: Tensor  # of the same shape, 0 where it is undecided


class _Check(Callback):  # type: ignore[misc]
    """Checks D on synthetic anomalies in images that its members did not see."""

    def __init__(self, bank: _Bank, fold: Tensor) -> None:
        self.bank, self.fold = bank, fold

    def on_epoch_end(self, net: ResidualNet, **kwargs: Any) -> None:
        detector: Any = copy.deepcopy(net.averaged_.module).cpu().eval()
        if not all(torch.isfinite(one).all() for one in detector.state_dict().values()):
            net.diverge("weights are no longer finite")
        auc = _find_anomalies(detector, self.bank, self.fold, N_WATCHED).region[1]
        net.history.record("valid_detector_auc", auc)
        net.history.record("valid_loss", 1 - auc)  # the name that callbacks of skorch look for


class _Maps(Dataset[Any]):
    """The batches of an epoch: crops of the bank, for each member of D its own images."""

    def __init__(self, bank: _Bank, fold: Tensor, batch_size: int, generator: Generator) -> None:
        self.bank, self.fold, self.batch_size, self.generator = bank, fold, batch_size, generator

    def __len__(self) -> int:
        return STEPS_PER_EPOCH

    def __iter__(self) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
        for _ in range(STEPS_PER_EPOCH):
            yield [self._batch(torch.nonzero(self.fold != i)[:, 0]) for i in (0, 1)]

    def _batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n_versions, _, _, n1, n2 = self.bank.features.shape

        def draw(high: int) -> Tensor:
            return torch.randint(high, (self.batch_size,), generator=self.generator)

        tall, broad = min(CROP, n1), min(CROP, n2)
        places = zip(
            draw(n_versions).tolist(), rows[draw(len(rows))].tolist(),
            draw(n1 - tall + 1).tolist(), draw(n2 - broad + 1).tolist(), strict=True,
        )  # fmt: skip
        crops = [
            [part[v, i, ..., y : y + tall, x : x + broad] for part in self.bank]
            for v, i, y, x in places
        ]
        maps, regular, weight = (torch.stack(parts) for parts in zip(*crops, strict=True))
        return maps.float(), regular, weight


class ResidualNet(StoppableNet):
    """Train the members of D, each on images that the other one is checked on.

    Parameters
    ----------
    detector : ResidualDetector
        D, trained in place.
    average_decay : float
        Decay of the moving average of its weights, which is what is kept.
    **kwargs : dict
        Of `skorch.NeuralNet`.
    """

    def __init__(self, detector: ResidualDetector, *, average_decay: float, **kwargs: Any) -> None:
        self.detector = detector
        self.average_decay = average_decay
        super().__init__(module=detector, criterion=nn.Identity, **kwargs)

    def initialize_module(self) -> ResidualNet:
        """Take D and start its moving average."""
        self.detector_ = self.detector
        average = Average(self.average_decay)
        self.averaged_ = AveragedModel(self.detector, avg_fn=average, use_buffers=True)
        return self

    def initialize_criterion(self) -> ResidualNet:
        """Build nothing: the loss is a function."""
        return self

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> ResidualNet:
        """Build AdamW."""
        self.optimizer_ = torch.optim.AdamW(
            self.detector_.parameters(), lr=self.lr, weight_decay=0.01
        )
        return self

    def get_iterator(self, dataset: _Maps, training: bool = False) -> _Maps:
        """Return the batches of an epoch, which the bank draws by itself."""
        return dataset

    def train_step(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        """Move both members on a batch each: min l(D(|F~ - I(F~)|), Y - where)."""
        warm = min(1.0, (self.step_ + 1) / max(1.0, 0.05 * self.n_steps_))
        done = min(1.0, self.step_ / self.n_steps_)
        for group in self.optimizer_.param_groups:
            group["lr"] = self.lr * warm * 0.5 * (1 + math.cos(math.pi * done))
        loss = torch.zeros(())
        for member, parts in zip(self.detector_.members, batch, strict=True):
            maps, regular, weight = (part.to(self.device) for part in parts)
            if weight.sum() > 0:
                loss = loss.to(self.device) + bce(member(maps)[:, 0], regular, weight)
        if not torch.isfinite(loss):
            self.diverge(f"loss became {loss.item()}")
        self.optimizer_.zero_grad()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
            self.notify(
                "on_grad_computed",
                named_parameters=list(self.detector_.named_parameters()),
                training=True,
            )
        self.optimizer_.step()
        self.averaged_.update_parameters(self.detector_)
        self.step_ += 1
        self.history.record_batch("detector_loss", loss.item())
        return {"loss": loss.detach(), "y_pred": None}

    def diverge(self, what: str) -> None:
        """Refuse to go on with numbers that are not finite."""
        raise DivergedError(
            f"The detector's {what} in epoch {len(self.history)}; lower learning_rate (now "
            f"{self.lr:g})."
        )


class Reader:
    """Reads images of an array as features, in batches."""

    def __init__(
        self, images: NDArray[Any], features: FeatureMap, value_range: tuple[float, float],
        ignore_mask: NDArray[np.bool_] | None, device: str,
    ) -> None:  # fmt: skip
        self.images, self.value_range, self.ignore_mask, self.device = (
            images, value_range, ignore_mask, device,
        )  # fmt: skip
        self.module = features if device == "cpu" else copy.deepcopy(features).to(device)

    def parts(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        for start in range(0, len(rows), BATCH):
            yield rows[start : start + BATCH]

    def keys(self, rows: NDArray[np.int64]) -> Tensor:
        """Hash each image: the lowest hashes are remembered, whatever the order of the images."""
        hashes = [
            blake2b(one.numpy().tobytes(), digest_size=8).digest()
            for part in self.parts(rows)
            for one in self.tensor(part)
        ]
        return torch.from_numpy(np.frombuffer(b"".join(hashes), np.int64).copy())

    def tensor(self, rows: NDArray[np.int64]) -> Tensor:
        return to_tensor(self.images[rows], self.value_range, self.ignore_mask)

    @torch.inference_mode()
    def of(self, tensor: Tensor) -> Tensor:
        # Full batches, as convolutions of others may round differently.
        missing = max(0, BATCH - len(tensor))
        full = torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])
        maps: Tensor = self.module(full.to(self.device))[: len(tensor)]
        return maps.float().cpu()

    def features(self, rows: NDArray[np.int64]) -> Tensor:
        return self.of(self.tensor(rows))

    def at(self, rows: NDArray[np.int64], statistics: list[Tensor]) -> Iterator[Tensor]:
        """Yield features, and note the statistics of whole images on the way."""
        for part in self.parts(rows):
            features = self.features(part)
            statistics.append(WholeImage.statistics(features))
            yield features


class LeftOut:
    """Lets I change training images that it never saw, nor others of the same block of time."""

    def __init__(self, inpainter: LinearInpainter, keys: Tensor, blocks: Tensor | None) -> None:
        self.inpainter, self.keys, self.blocks = inpainter, keys, blocks
        if blocks is not None:
            order = torch.argsort(keys, stable=True)
            place = torch.searchsorted(keys[order], inpainter.keys).clamp(max=len(keys) - 1)
            same = keys[order][place] == inpainter.keys
            # Images that were remembered earlier are of no block.
            self.remembered = torch.where(same, blocks[order][place], -1)

    def __call__(
        self, features: Tensor, indices: NDArray[np.int64], corrupted: Tensor | None = None
    ) -> Changes:
        alike, blocks = None, self.blocks_of(indices)
        if blocks is not None and len(self.remembered) > 1:
            alike = blocks[:, None] == self.remembered
        return self.inpainter.left_out(features, self.keys[indices], corrupted, alike)

    def recalled(self, indices: NDArray[np.int64]) -> Tensor | None:
        """Return the features, less their origin, of images that I remembers; None if not all."""
        rank, is_known = self.inpainter.rank(self.keys[indices])
        return self.inpainter.recalled(rank) if bool(is_known.all()) else None

    def blocks_of(self, indices: NDArray[np.int64]) -> Tensor | None:
        return None if self.blocks is None else self.blocks[indices]


class Normal(NamedTuple):
    """What I says of normal images that it never saw."""

    sizes: Tensor  # of what it changes at each place, (n, n1, n2)
    distance: Tensor  # from the nearest normal image as a whole, (n,)
    composite: tuple[Tensor, Tensor]  # of images and of composites, (n_composites,) each
    n_independent: int  # images, or blocks of time that they come from


class Aucs(NamedTuple):
    """How well I and D each find synthetic anomalies in images that they never saw."""

    region: tuple[float, float]  # among normal regions
    image: tuple[float, float]  # by their most irregular region, among normal images


class Learnt(NamedTuple):
    """What D learnt from a sample of the images."""

    detector: ResidualDetector
    net: ResidualNet
    normal: Normal
    corrupted: Tensor  # statistics of whole versions with synthetic anomalies, (v, n, k, 1, 1)
    is_visible: Tensor  # whether I changes what is irregular, (v, n)
    residual: Tensor  # of the images of the sample, (n, n1, n2)
    logits: Tensor
    auc: Aucs

    def history(self, error: float, begun: float) -> list[dict[str, Any]]:
        """Tell of each epoch; ``error`` is what I changes on average.

        I was there before the first epoch, whose time includes its own.
        """
        net = self.net
        rows = net.history[len(net.history) - net.n_trained_ :]
        before = time.perf_counter() - begun - sum(row["dur"] for row in rows)
        return [
            {
                "epoch": i + 1,
                "dur": row["dur"] + before * (i == 0),
                "inpainter_loss": error,
                "detector_loss": float(np.mean([b["detector_loss"] for b in row["batches"]])),
                "valid_inpainter": error,
                "valid_detector_auc": row["valid_detector_auc"],
                "kept": " and ".join("I" * (i == 0) + "D" * (i == len(rows) - 1)),
            }
            for i, row in enumerate(rows)
        ]


def learn_detector(
    reader: Reader, rows: NDArray[np.int64], left_out: LeftOut, chosen: NDArray[np.int64], *,
    gamma: float, detector_width: int, learning_rate: float, batch_size: int, max_epochs: int,
    average_decay: float, seed: int, device: str, callbacks: list[Any] | None, verbose: int,
    groups: NDArray[Any] | None = None, scene: Scene | None = None, spacing: int | None = None,
    known: ResidualNet | None = None,
) -> Learnt:  # fmt: skip
    """Train D on some rows of a reader, which are the chosen ones of those that I learnt from."""
    features, inpainter = reader.module, left_out.inpainter
    corruptions = _corruptions(gamma, len(reader.images), groups, scene, spacing)
    geometry = aligned(features.region_size)
    bank = _make_bank(reader, rows, left_out, chosen, geometry, corruptions, seed=seed)
    blocks = left_out.blocks_of(chosen)
    fold = torch.arange(len(rows)) % 2
    if blocks is not None:
        fold = torch.unique(blocks, return_inverse=True)[1] % 2
    net = copy.deepcopy(known) if known is not None else _make_net(
        features.n_features, isinstance(features, MotionFeatures), detector_width, average_decay,
        seed, lr=learning_rate, batch_size=batch_size, device=device, callbacks=callbacks,
        verbose=verbose, max_epochs=max_epochs,
    )  # fmt: skip
    bank, normal, corrupted = _to_changes(
        bank, left_out, net.detector_, chosen, inpainter.origin, seed + 6
    )
    maps = _Maps(bank, fold, batch_size, _generator(seed + 5 + len(net.history)))
    _fit_detector(net, maps, max_epochs, device)
    detector: Any = copy.deepcopy(net.averaged_.module).eval().requires_grad_(False)
    auc = _find_anomalies(detector, bank, fold)
    if scene is not None and scene.size is not None and spacing is not None:
        move = scene.speed * spacing / features.region_size
        side = scene.size / features.region_size
        of_frames = _watch_movement(detector, inpainter, bank, fold, move, side)
        auc = Aucs(of_frames, of_frames)
    of_sample = _judge_bank(detector, bank, fold, normal.sizes)
    is_visible = _is_irregular(bank, slice(1, None)).any(-1).any(-1)
    return Learnt(detector, net, normal, corrupted, is_visible, *of_sample, auc)


def bank_size(n_numbers: int, n: int) -> int:
    """Return from how many of n images, whose maps have so many numbers, D learns."""
    return max(2, min(n, BANK_IMAGES, BANK_NUMBERS // (n_numbers * (N_VERSIONS + 1))))


def _generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def _corruptions(
    gamma: float, n: int, groups: NDArray[Any] | None, scene: Scene | None,
    spacing: int | None,
) -> list[Callable[[Tensor, NDArray[np.int64], Generator], Corrupted]]:  # fmt: skip
    """Return what makes each corrupted version: images, their rows and a generator come in."""
    low, high = (math.log(one) for one in STRENGTH)
    make = functools.partial(synthetic_anomalies, gamma=gamma)

    def still(clean: Tensor, rows: NDArray[np.int64], generator: Generator) -> Corrupted:
        made = make(clean, generator=generator)
        strength = torch.rand(len(clean), 1, 1, 1, generator=generator)
        strength = torch.exp(low + (high - low) * strength)
        return made._replace(images=clean + strength * (made.images - clean))

    if scene is None or spacing is None or not len(scene.moments):
        return [still]
    starts = clip_starts(n, groups)

    def moving(clean: Tensor, rows: NDArray[np.int64], generator: Generator) -> Corrupted:
        backgrounds = [scene.backgrounds[start] for start in starts[rows].tolist()]
        none, one = torch.zeros(len(clean)), torch.ones(len(clean))
        beside = Neighbours(scene, torch.stack(backgrounds)[:, None], none, one, none, spacing)
        return make(clean, generator=generator, neighbours=beside)

    return [moving, still]


def _make_bank(
    reader: Reader, rows: NDArray[np.int64], left_out: LeftOut, chosen: NDArray[np.int64],
    geometry: Geometry, corruptions: list[Callable[..., Corrupted]], *, seed: int,
) -> _Bank:  # fmt: skip
    """Compute the features, less their origin, of images and versions with synthetic anomalies."""
    origin = left_out.inpainter.origin[:, None, None]
    generator = _generator(seed)
    versions: list[list[list[Tensor]]] = [[] for _ in range(len(corruptions) + 1)]
    counts = (
        None if reader.ignore_mask is None else torch.from_numpy(~reader.ignore_mask).float()[None]
    )
    for start in range(0, len(rows), BATCH):
        # Pieces come from the other images of a batch: a lone last image has a neighbour.
        first = min(start, max(0, len(rows) - 2))
        part, kept = rows[first : start + BATCH], slice(start - first, None)
        recalled = left_out.recalled(chosen[first : start + BATCH])
        clean = reader.tensor(part)
        for version, corrupt in zip(versions, [_intact, *corruptions], strict=True):
            made = corrupt(clean, part, generator)
            regular, weight = region_targets(made, geometry)
            if counts is not None:
                weight = weight * region_mean(counts, geometry)
            features = recalled if corrupt is _intact else None
            if features is None:
                features = halved(reader.of(made.images) - origin)
            version.append([one[kept] for one in (features, regular, weight)])
    return _Bank(
        *(
            torch.stack([torch.cat([batch[i] for batch in version]) for version in versions])
            for i in range(3)
        )
    )


def _intact(clean: Tensor, rows: NDArray[np.int64], generator: Generator) -> Corrupted:
    nowhere = torch.zeros_like(clean[:, 0])
    return Corrupted(clean, torch.zeros_like(clean), nowhere, torch.ones_like(nowhere))


def _to_changes(
    bank: _Bank, left_out: LeftOut, detector: ResidualDetector, chosen: NDArray[np.int64],
    origin: Tensor, seed: int,
) -> tuple[_Bank, Normal, Tensor]:  # fmt: skip
    """Replace features by what D reads, in place where it fits; unseen anomalies are undecided.

    Also return what I says of the clean images, and statistics of the other versions.
    """
    inpainter = left_out.inpainter
    even = evenness(inpainter)
    typical = inpainter.typical / even
    n_versions, n, k, n1, n2 = bank.features.shape
    read = bank.features
    if detector.sees_features:
        read = read.new_empty(n_versions, n, 2 * k, n1, n2)
    sizes, distance = torch.empty(n, n1, n2), torch.empty(n)
    normals, composites = [], []
    corrupted = torch.empty(n_versions - 1, n, 2 * k, 1, 1)
    # In any order: the images of a batch are put together, and neighbours may be alike.
    for part in torch.split(torch.randperm(n, generator=_generator(seed)), BATCH):
        clean = bank.features[0, part].float() + origin[:, None, None]
        normal = left_out(clean, chosen[part])
        sizes[part], distance[part] = normal.size / even, log_distance(normal.apart)
        both = composite_distances(normal.apart, left_out.blocks_of(chosen[part]))
        normals.append(both[0])
        composites.append(both[1])
        read[0, part] = seen_by_detector(detector, inpainter, normal, clean).half()
        for version in range(1, n_versions):
            other = bank.features[version, part].float() + origin[:, None, None]
            corrupted[version - 1, part] = WholeImage.statistics(other)
            changes = left_out(clean, chosen[part], other)
            seen = (changes.size - normal.size) / even > VISIBLE * typical
            hidden = (bank.regular[version, part] < 0.5) & ~seen
            bank.weight[version, part] *= ~hidden
            read[version, part] = seen_by_detector(detector, inpainter, changes, other).half()
    blocks = left_out.blocks_of(chosen)
    n_independent = n if blocks is None else len(torch.unique(blocks))
    both = torch.cat(normals), torch.cat(composites)
    return bank._replace(features=read), Normal(sizes, distance, both, n_independent), corrupted


def _make_net(
    n_features: int, sees_features: bool, width: int, average_decay: float, seed: int,
    **options: Any,
) -> ResidualNet:  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = ResidualDetector(n_features, sees_features=sees_features, width=width)
    net = ResidualNet(detector, average_decay=average_decay, train_split=None, **options)
    net.initialize()
    net.step_ = 0
    return net


def _move(net: ResidualNet, device: str) -> None:
    net.device = device
    net.detector_.to(device)
    net.averaged_.to(device)
    for state in net.optimizer_.state.values():
        for key, value in state.items():
            state[key] = value.to(device) if isinstance(value, Tensor) else value


def _fit_detector(net: ResidualNet, maps: _Maps, max_epochs: int, device: str) -> None:
    begun = len(net.history)
    _move(net, device)
    net.step_, net.n_steps_ = 0, max_epochs * STEPS_PER_EPOCH
    net.callbacks_.insert(0, ("check", _Check(maps.bank, maps.fold)))
    try:
        net.partial_fit(maps, epochs=max_epochs)
    finally:
        net.callbacks_.pop(0)  # its maps stay out of pickles
    if len(net.history) > begun and "valid_detector_auc" not in net.history[-1]:
        net.history.pop()  # an epoch that was interrupted
    net.n_trained_ = len(net.history) - begun
    _move(net, "cpu")
    if net.n_trained_ == 0:
        raise KeyboardInterrupt


def _is_irregular(bank: _Bank, *index: Any) -> Tensor:
    return (bank.weight[index] > 0) & (bank.regular[index] < 0.5)


@torch.inference_mode()
def _find_anomalies(
    detector: ResidualDetector, bank: _Bank, fold: Tensor, n: int = N_CHECKED
) -> Aucs:
    """Let I and D each tell synthetic anomalies from normal regions of images they never saw."""
    truth, said, images, peaks = [], [], [], []
    for i, member in enumerate(detector.members):
        rows = torch.nonzero(fold == i)[:, 0][:n]
        for version in range(len(bank.features)):
            for some in torch.split(rows, BATCH):
                weight = bank.weight[version, some] > 0
                read = bank.features[version, some].float()
                size = read[:, : detector.n_features].square().mean(1).sqrt()
                logits = member(read)[:, 0]
                truth.append(bank.regular[version, some][weight])
                said.append(torch.stack([-size[weight], logits[weight]]))
                kept = _is_irregular(bank, version, some).any(-1).any(-1) | (version == 0)
                images.append(torch.full((int(kept.sum()),), float(version == 0)))
                peaks.append(torch.stack([-size.amax((1, 2)), logits.amin((1, 2))])[:, kept])
    return Aucs(_aucs(truth, said), _aucs(images, peaks))


def _aucs(regular: list[Tensor], said: list[Tensor]) -> tuple[float, float]:
    labels, scores = torch.cat(regular).numpy(), torch.cat(said, 1).numpy()
    if not 0 < labels.mean() < 1:
        return 0.5, 0.5
    of_inpainter, of_detector = (float(roc_auc_score(labels, one)) for one in scores)
    return of_inpainter, of_detector


@torch.inference_mode()
def _watch_movement(
    detector: ResidualDetector, inpainter: LinearInpainter, bank: _Bank, fold: Tensor,
    move: float, side: float,
) -> tuple[float, float]:  # fmt: skip
    """Decide whether what stands still counts less, and say how well I and D each do then.

    Where people come and go, what stands still differs from all that was seen and hides what
    moves in an unusual way. It counts less if the networks then find more of the frames with
    moving synthetic anomalies, which they did not see, at few false alarms: by the mean area
    under their ROC curves up to one alarm in ten normal frames (McClish, 1989).

    Parameters
    ----------
    move : float
        By how many places an object usually moves between the last two moments.
    side : float
        Side of an object in places.
    """
    index = range(detector.n_features)[LENGTH]
    mean, scale = inpainter.mean.mean(0)[index], inpainter.scale[index]
    detector.moves = torch.stack([-mean / scale, (max(move, LEAST_MOVE) - mean) / scale])
    maps: list[list[tuple[Tensor, Tensor, Tensor]]] = [[], []]
    for i, member in enumerate(detector.members):
        for some in torch.split(torch.nonzero(fold == i)[:, 0], BATCH):
            for version in (0, 1):
                read = bank.features[version, some].float()
                size = read[:, : detector.n_features].square().mean(1).sqrt()
                irregular = bank.weight[version, some] * (bank.regular[version, some] < 0.5)
                kept = irregular.amax((1, 2)) > 0 if version else slice(None)
                maps[version].append((read[kept, LENGTH], size[kept], member(read)[kept, 0]))
    detector.normal = torch.cat([logits for _, _, logits in maps[0]]).median()
    if not any(len(size) for _, size, _ in maps[1]):
        return 0.5, 0.5

    def peaks(version: int) -> Tensor:
        weighed = [torch.stack(detector.weigh(*one)) for one in maps[version]]
        of_inpainter, logits = torch.cat(weighed, 1)
        both = torch.stack([of_inpainter, detector.normal - logits])
        box = 2 * (round(side) // 2) + 1
        return F.avg_pool2d(both, box, 1, box // 2, count_include_pad=False).amax((2, 3))

    def aucs(
        normal: Tensor, irregular: Tensor, max_fpr: float | None = None
    ) -> tuple[float, float]:
        labels = [0] * normal.shape[1] + [1] * irregular.shape[1]
        of_inpainter, of_detector = (
            float(roc_auc_score(labels, one, max_fpr=max_fpr))
            for one in torch.cat([normal, irregular], 1).numpy()
        )
        return of_inpainter, of_detector

    found = {}
    for still in (1.0, STILL):
        detector.still = torch.tensor(still)
        found[still] = peaks(0), peaks(1)
    chosen = max(found, key=lambda still: sum(aucs(*found[still], FEW_ALARMS)))
    detector.still = torch.tensor(chosen)
    return aucs(*found[chosen])


@torch.inference_mode()
def _judge_bank(
    detector: ResidualDetector, bank: _Bank, fold: Tensor, sizes: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what both networks say of the clean images of the bank, D by an unknowing member."""
    residual, logits = torch.empty(2, *sizes.shape)
    for i, member in enumerate(detector.members):
        for some in torch.split(torch.nonzero(fold == i)[:, 0], BATCH):
            read = bank.features[0, some].float()
            residual[some], logits[some] = detector.weigh(
                length_of(detector, read), sizes[some], member(read)[:, 0]
            )
    return residual, logits
