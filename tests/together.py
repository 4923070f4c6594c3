"""Fit detectors in several processes; `test_distributed` starts it by torchrun.

It gets a folder to write to. Each process keeps what it holds at the end, or the message of what
was refused.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from skorch.callbacks import Callback

from skavid import VIDEO, AVIDDetector
from skavid.distributed import fit_distributed


class InDouble(Callback):
    """Train in double precision, where a game of some epochs is no chaos of rounding errors."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        self.hooks = []
        for network in self._networks(net):
            network.double()
            cast = network.register_forward_pre_hook(
                lambda _, given: tuple(x.double() for x in given)
            )
            self.hooks.append(cast)

    def on_train_end(self, net, X=None, y=None, **kwargs):
        for hook in self.hooks:
            hook.remove()
        for network in self._networks(net):
            network.float()
        del self.hooks

    def _networks(self, net):
        yield from (net.inpainter_, net.detector_, net.averaged_inpainter_, net.averaged_detector_)


TINY = {
    "features": "pixels", "inpainter_width": 4, "inpainter_depth": 2, "detector_width": 4,
    "max_epochs": 1, "batch_size": 8, "device": "cpu", "random_state": 0,
}  # fmt: skip
HIDING = {"inpainter_corruption": "hiding", "reconstruction_loss": "bernoulli", "loss": "lsgan"}
CASES = {
    "defaults": {**TINY, "adversarial_start": 0.3, "max_epochs": 2},
    "double": {**TINY, "adversarial_start": 0.3, "max_epochs": 3, "callbacks": [InDouble()]},
    "uneven": {**TINY, "batch_size": 5, "device": "auto", "verbose": 1},
    "hiding": {**TINY, **HIDING, "adversarial_start": 0.0},
    "video": {**VIDEO, **TINY, "spacing": 1},
    "one held out": {**TINY, "validation_fraction": 0.01, "target_fpr": 0.5},
}


def images():
    """Tiles of 4 x 4 pixels in three channels: two clips."""
    coarse = np.random.default_rng(0).integers(0, 256, (32, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2), np.repeat([0, 1], 16)


def fit_case(name, fit):
    X, groups = images()
    detector = AVIDDetector(**CASES[name])
    return fit(detector, X, groups=groups if name == "video" else None)


def go_on(detector, fit):
    return fit(detector.set_params(warm_start=True), images()[0])


def main(folder):
    state = PartialState(cpu=True)
    kept = {}
    for name in CASES:
        # With two threads both networks are trained at once, each with sums of its own.
        torch.set_num_threads(2 if name == "double" else 1)
        kept[name] = fit_case(name, fit_distributed)
    torch.set_num_threads(1)
    kept["unseeded"] = fit_distributed(AVIDDetector(**{**TINY, "random_state": None}), images()[0])
    kept["gone on"] = go_on(pickle.loads(pickle.dumps(kept["defaults"])), fit_distributed)
    try:
        fit_distributed(AVIDDetector(**TINY), images()[0] + state.process_index)
    except ValueError as error:
        kept["refused"] = str(error)
    (Path(folder) / f"{state.process_index}.pickle").write_bytes(pickle.dumps(kept))


if __name__ == "__main__":
    from tests import together  # what is pickled is of this name, not of __main__

    together.main(sys.argv[1])
