"""On another device than the CPU: nothing meets a tensor of the wrong device.

There is no GPU where these tests run. The device "meta" stands in for it: its tensors here carry
numbers, which are computed on the CPU, and refuse to meet tensors that are not on the device.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from skavid import VIDEO, AVIDDetector, TemporalStacker
from skavid.components import nested
from skavid.core import detector_training
from skavid.core.features import make_features
from skavid.core.pair import placed

DEVICE = "meta"


class There(torch.Tensor):
    """A tensor that says it is on the device; its numbers are ``here``."""

    @staticmethod
    def __new__(cls, here):
        return torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(),
            dtype=here.dtype, device=DEVICE,
        )  # fmt: skip

    def __init__(self, here):
        self.here = here

    def __deepcopy__(self, memo):
        copied = There(self.here.clone()).requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copied._is_param = True
        return copied

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


def compute(function, args, kwargs):
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    is_there = [isinstance(one, There) for one in tensors]
    name = function.__name__.split(".")[0]
    becomes_there = any(is_there)
    if kwargs.get("device") is not None:
        becomes_there = torch.device(kwargs["device"]).type == DEVICE
        kwargs = {**kwargs, "device": torch.device("cpu"), "pin_memory": None}
        kwargs.pop("pin_memory")
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        # Indices may be on the CPU, but not on the device for a tensor that is on the CPU.
        wrong = any(is_there) and not is_there[0]
    elif name in ("copy_", "_to_copy"):
        wrong = False
    else:  # numbers without dimensions may be anywhere
        wrong = any(is_there) and any(
            not there and one.dim() for one, there in zip(tensors, is_there, strict=True)
        )
    if wrong:
        raise RuntimeError(f"{function} met tensors of two devices")

    def here(one):
        return one.here if isinstance(one, There) else one

    found = function(*tree_map(here, args), **tree_map(here, kwargs))
    if function._schema.is_mutable and name.endswith("_"):
        return args[0]
    if not becomes_there:
        return found
    return tree_map(lambda one: There(one) if isinstance(one, torch.Tensor) else one, found)


class Factories(TorchFunctionMode):
    """These would make tensors of the device that carry no numbers."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.Tensor.new_tensor:
            return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].device)
        if function is torch.tensor and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return torch.tensor(*args, **kwargs).to(device)
        return function(*args, **kwargs)


class Everywhere(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


@pytest.fixture
def device(monkeypatch):
    """Make the device "meta" one that computes, in this thread."""

    def enter(self):
        self.entered = torch.no_grad()
        self.entered.__enter__()

    def leave(self, *error):
        self.entered.__exit__(*error)

    # Tensors of inference mode cannot be wrapped.
    monkeypatch.setattr(torch.inference_mode, "__enter__", enter)
    monkeypatch.setattr(torch.inference_mode, "__exit__", leave)
    monkeypatch.setattr(detector_training, "STEPS_PER_EPOCH", 2)
    monkeypatch.setattr("skavid.core.threads.torch.get_num_threads", lambda: 1)
    with Factories(), Everywhere():
        yield DEVICE


def test_the_device_of_these_tests_finds_what_a_gpu_would_refuse(device):
    there = torch.ones(3).to(device)
    assert (there + 1).cpu().tolist() == [2, 2, 2]
    with pytest.raises(RuntimeError, match="two devices"):
        there + torch.ones(3)
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()


PIXELS = {
    "features": "pixels", "corruption__inpainter": "masking",
    "inpainter__width": 4, "inpainter__depth": 2, "detector__width": 4,
}  # fmt: skip
CASES = {
    "patches": {},
    "module": {"features": torch.nn.Conv2d(1, 3, 2, stride=2)},
    "pixels": PIXELS,
    "motion": {**VIDEO, "features": "motion"},
    "motion+pixels": VIDEO,
}


def images(name):
    """Images, or stacks in which a square moves, and their clips."""
    rng = np.random.default_rng(0)
    if "motion" not in name:
        return rng.integers(0, 256, (4, 12, 16), dtype=np.uint8), None
    frames = rng.integers(0, 30, (12, 16, 20), dtype=np.uint8)
    for i, frame in enumerate(frames):
        frame[5:9, i : i + 4] = 200
    clips = np.arange(12) // 6
    return TemporalStacker().fit_transform(frames, groups=clips), clips


def build(name, **parameters):
    return AVIDDetector(
        **nested({**CASES[name], "max_epochs": 1, "random_state": 0, **parameters})
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * ("motion" in name)) for name in CASES]
)
def test_a_training_on_a_device_gives_the_scores_of_one_on_the_cpu(device, name):
    X, groups = images(name)
    here = build(name, device="cpu").fit(X, groups=groups)
    there = build(name, device=device).fit(X, groups=groups)
    for one in getattr(there, "members_", [there]):
        assert {weight.device.type for weight in one.detector_.state_dict().values()} == {"cpu"}
    expected = here.score_samples(X)
    assert_allclose(there.score_samples(X), expected, atol=5e-3)
    there.maps(X[:1])
    assert_allclose(there.set_params(device="cpu").score_samples(X), expected, atol=5e-3)


@pytest.mark.filterwarnings("ignore")
def test_a_training_goes_on_where_it_is_told(device, monkeypatch):
    X, _ = images("module")
    there = build("module", device=device).fit(X)
    seen, step = set(), detector_training.ResidualNet.train_step

    def watched(net, *args, **kwargs):
        seen.add(next(net.detector_.parameters()).device.type)
        return step(net, *args, **kwargs)

    monkeypatch.setattr(detector_training.ResidualNet, "train_step", watched)
    there.partial_fit(X)
    assert seen == {DEVICE}
    assert there.net_.device == "cpu"


def test_a_network_travels_to_a_device_once(device):
    network = torch.nn.Conv2d(1, 1, 1).requires_grad_(False)
    first = placed(network, device)
    assert placed(network, device) is first
    network.weight += 1  # trained on in place
    second = placed(network, device)
    assert second is not first
    network.bias = torch.nn.Parameter(torch.ones(1))
    assert placed(network, device) is not second


def test_a_users_module_stays_on_its_device(device):
    network = torch.nn.Conv2d(1, 3, 2, stride=2).to(device)
    features = make_features(network, (8, 8, 1))
    assert {one.device.type for one in features.parameters()} == {"cpu"}
    assert network.weight.device.type == DEVICE
