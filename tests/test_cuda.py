"""A GPU finds what the CPU finds, and what was trained there is at home here."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from skavid import AVIDDetector, TemporalStacker
from skavid.components import VIDEO_PIXELS, nested
from skavid.core.anomaly_maps import MAPS
from skavid.datasets import make_moving_shapes

from .test_estimator import NORMAL, QUERY, TINY, textures

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"corruption__inpainter": "masking"},
        {"ignore_mask": np.eye(16, 12) > 0},
    ],
)
def test_maps_on_a_gpu_are_those_on_the_cpu(parameters):
    detector = AVIDDetector(**nested(dict(**TINY, **parameters, device="cpu"))).fit(NORMAL)
    here = detector.maps(QUERY)
    there = detector.set_params(device="cuda").maps(QUERY)
    for name in MAPS:
        assert_allclose(
            getattr(there, name), getattr(here, name), rtol=1e-3, atol=1e-3, err_msg=name
        )


def test_large_images_are_shown_to_a_gpu_in_tiles(monkeypatch):
    detector = AVIDDetector(**nested(dict(**TINY, device="cuda"))).fit(NORMAL)
    large = textures(n=1, height=150, width=170)
    whole = detector.maps(large)
    monkeypatch.setattr("skavid.core.pixel_pair.TILE_PIXELS", 3000)
    tiled = detector.maps(large)
    for name in MAPS:
        assert_allclose(
            getattr(tiled, name), getattr(whole, name), rtol=1e-3, atol=1e-3, err_msg=name
        )


@pytest.mark.parametrize("keep", ["save", "pickle"])
def test_what_was_trained_on_a_gpu_opens_on_the_cpu(tmp_path, keep):
    detector = AVIDDetector(**nested(dict(**TINY, device="cuda"))).fit(NORMAL)
    expected = detector.score_samples(QUERY)
    if keep == "save":
        detector.save(tmp_path / "model")
        detector = AVIDDetector.load(tmp_path / "model")
    else:
        detector = pickle.loads(pickle.dumps(detector))
    assert {weight.device.type for weight in detector.detector_.parameters()} == {"cpu"}
    assert_allclose(
        detector.set_params(device="cpu").score_samples(QUERY), expected, rtol=1e-3, atol=1e-3
    )


def test_video_is_trained_on_a_gpu_the_same_way_each_time():
    clip = make_moving_shapes(2, 20, size=(48, 64), scale=0.5, random_state=0)
    stacks = TemporalStacker().fit_transform(clip.frames, groups=clip.clips)
    detectors = [
        AVIDDetector(**nested(dict(**{**VIDEO_PIXELS, **TINY}, device="cuda"))).fit(
            stacks, groups=clip.clips
        )
        for _ in range(2)
    ]
    first, second = (detector.history_[0]["detector_loss"] for detector in detectors)
    assert first == pytest.approx(second, rel=1e-3)
