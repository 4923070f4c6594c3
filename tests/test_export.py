"""The exported graph: what it says is what the detector says, at any size and threshold."""

from __future__ import annotations

import copy
import json
import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

import skavid
from skavid import PAPER, AVIDDetector, TemporalStacker
from skavid.components import VIDEO_PIXELS, nested
from skavid.datasets import load_ucsd_ped2, make_moving_shapes
from skavid.export import to_onnx, verify_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

TINY = {
    "features": "pixels", "max_epochs": 1,
    "inpainter__width": 4, "inpainter__depth": 2, "detector__width": 4,
    "postprocessing__n_draws": 4, "random_state": 0,
}  # fmt: skip
SIZES = [(1, 17, 23), (5, 64, 48), (1, 37, 45), (2, 1, 1), (1, 1, 9), (2, 3, 2), (1, 120, 180)]


def pictures(n, height, width, n_channels, seed=0):
    """Tiles of 6 x 6 pixels: they differ by more than noise does, which networks average out."""
    tiles = (n, height // 6 + 1, width // 6 + 1, n_channels)
    coarse = np.random.default_rng(seed).integers(0, 256, tiles, dtype=np.uint8)
    return coarse.repeat(6, axis=1).repeat(6, axis=2)[:, :height, :width]


@torch.no_grad()
def shaken(detector):
    """Give every weight and statistic a value of its own, and each map a threshold inside it.

    A network of one epoch is next to an untrained one, which changes nothing and doubts nothing.
    """
    detector = copy.deepcopy(detector)
    generator = torch.Generator().manual_seed(0)
    for network in (detector.inpainter_, detector.detector_):
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0, 0.1, generator=generator)
            if isinstance(module, torch.nn.BatchNorm2d):
                for statistic in (module.weight, module.running_var):
                    statistic.uniform_(0.5, 1.5, generator=generator)
                for statistic in (module.bias, module.running_mean):
                    statistic.normal_(0, 0.1, generator=generator)
    height, width, n_channels = detector.image_shape_
    images = pictures(3, 3 * height, 3 * width, n_channels, seed=1)
    spread_logits(detector.detector_, torch.from_numpy(images / 255).float().permute(0, 3, 1, 2))
    if detector.ignore_mask is not None or detector.component("corruption").inpainter == "masking":
        images = images[:, :height, :width]
    maps = detector.maps(images)
    return detector.with_thresholds(
        float(np.median(maps.residual)), float(np.median(maps.regularity))
    )


def spread_logits(network, images):
    """Scale D's last layer to logits of about 0 +- 2."""
    *_, last = (module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
    seen = []
    hook = last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(images)
    hook.remove()
    mean = seen[0].mean((0, 2, 3))[None, :, None, None]
    last.weight -= (last.weight * mean).sum() / (mean**2).sum() * mean
    last.weight *= 2 / network(images).std()


def fit(images, **parameters):
    return shaken(AVIDDetector(**nested({**TINY, **parameters})).fit(images))


def session_of(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(session, images, **thresholds):
    feeds = {name: np.array(value) for name, value in thresholds.items()}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images, **feeds}), strict=True))


def assert_same(found, detector, images):
    maps = detector.maps(images)
    assert_allclose(found["score"], detector.score_samples(images), atol=1e-4, rtol=0)
    assert_allclose(found["residual"], maps.residual, atol=1e-4, rtol=0)
    assert_allclose(found["regularity"], maps.regularity, atol=1e-4, rtol=0)
    clear = np.abs(maps.evidence) > 1e-4
    assert_array_equal(found["mask"][clear], detector.segment(images)[clear])
    # The evidence is a logarithm of the residual: far below any threshold it is not compared.
    seen = maps.residual > 1e-2
    assert_allclose(found["anomaly_map"][seen], maps.evidence[seen], atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def grey():
    return fit(pictures(12, 16, 12, 1), fusion="min", smoothing=3, dilation=2)


@pytest.fixture(scope="module")
def exported(grey, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "grey.onnx"
    to_onnx(grey, path)
    return path


@pytest.fixture(scope="module")
def session(exported):
    return session_of(exported)


# --- parity --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize(
    "parameters",
    [
        {
            "fusion": "mean",
            "balance": 0.3,
            "postprocessing__smoothing": 4,
            "postprocessing__dilation": 6,
        },
        {
            "fusion": "min",
            "postprocessing__smoothing": 5,
            "postprocessing__dilation": 5,
            "detector__region_size": 8,
        },
        {
            "fusion": "inpainter",
            "postprocessing__smoothing": 0,
            "inpainter__patch": 1,
            "postprocessing__channel_reduction": "mean",
        },
        {"fusion": "detector", "postprocessing__smoothing": 2, "detector__region_size": 1},
        {
            "postprocessing__min_area": 9,
            "postprocessing__min_area_of": "image",
            "postprocessing__smoothing": 1,
            "corruption__inpainter": "noise",
        },
        {**PAPER, "inpainter__depth": 3},
    ],
    ids=lambda parameters: (
        parameters.get("fusion", "mean") + " paper" * ("detector" in parameters)
    ),
)
def test_one_graph_serves_all_sizes_as_the_detector_does(n_channels, parameters, tmp_path):
    is_paper = "detector" in parameters
    side = 56 if is_paper else 16
    detector = fit(pictures(4, side, side, n_channels), **{**parameters, **TINY})
    to_onnx(detector, tmp_path / "detector.onnx")
    onnx.checker.check_model(tmp_path / "detector.onnx", full_check=True)
    session = session_of(tmp_path / "detector.onnx")
    irregular = []
    for n, height, width in [(1, 51, 51), (2, 66, 67), (2, 100, 131)] if is_paper else SIZES:
        images = pictures(n, height, width, n_channels, seed=2)
        found = run(session, images)
        assert_same(found, detector, images)
        irregular.append(found["mask"].mean())
    assert 0.02 < np.mean(irregular) < 0.98


@given(n=st.integers(1, 3), height=st.integers(1, 40), width=st.integers(1, 40))
def test_any_size_will_do(grey, session, n, height, width):
    images = pictures(n, height, width, 1, seed=height)
    assert_same(run(session, images), grey, images)


@pytest.mark.skipif(
    tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 31),
    reason="onnxruntime before 1.31 ends the process when it is given no image",
)
def test_no_image_is_no_error(session):
    found = run(session, pictures(0, 16, 16, 1))
    assert found["score"].shape == (0,)
    assert found["mask"].shape == (0, 16, 16)


def test_what_an_image_gets_does_not_depend_on_the_others(session):
    images = pictures(5, 20, 21, 1)
    together = run(session, images)
    for i in range(5):
        for name, alone in run(session, images[i : i + 1]).items():
            assert_allclose(alone[0], together[name][i], atol=1e-6)


@pytest.mark.filterwarnings("ignore:X holds uint8:UserWarning")  # `fit` shakes weights by them
@pytest.mark.parametrize("low", [-100.0, 1e5])
def test_floats_have_the_units_of_the_training_images(low, tmp_path):
    rng = np.random.default_rng(0)
    # float64 in training; the graph takes float32, whose steps near 1e5 are 0.008.
    detector = fit(low + rng.uniform(0, 3, (12, 16, 16)))
    to_onnx(detector, tmp_path / "detector.onnx", dtype="float32")
    images = (low + rng.uniform(-1, 5, (3, 18, 25, 1))).astype(np.float32)
    assert_same(run(session_of(tmp_path / "detector.onnx"), images), detector, images)


@pytest.mark.parametrize("loss", ["bernoulli", "l1"])
def test_masking_is_done_as_the_detector_does_it(loss, tmp_path):
    detector = fit(
        pictures(12, 16, 12, 3),
        inpainter_corruption="masking",
        reconstruction_loss=loss,
        spacing=1,
    )
    path = tmp_path / "detector.onnx"
    to_onnx(detector, path)
    images = pictures(3, 16, 12, 3, seed=4)
    session = session_of(path)
    assert session.get_inputs()[0].shape == ["n", 16, 12, 3]
    assert_same(run(session, images), detector, images)
    # Four draws share their weights.
    n_weights = sum(weights.numel() for weights in detector.inpainter_.parameters())
    assert len(onnx.load(path).SerializeToString()) < 4 * (2 * n_weights + 100_000)
    message = (
        f"X has images of 16 x 13 pixels, but the graph in {path} takes 16 x 12 alone, for "
        "ignore_mask and masking fix the size."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        verify_onnx(detector, path, pictures(1, 16, 13, 3))


@pytest.mark.parametrize("smoothing", [0, 4])
def test_pixels_that_do_not_count_change_nothing(smoothing, tmp_path):
    ignore_mask = np.zeros((16, 12), dtype=bool)
    ignore_mask[3:8, 5:] = True
    detector = fit(
        pictures(12, 16, 12, 1), ignore_mask=ignore_mask, smoothing=smoothing, dilation=3
    )
    to_onnx(detector, tmp_path / "detector.onnx")
    session = session_of(tmp_path / "detector.onnx")
    images = pictures(3, 16, 12, 1, seed=5)
    found = run(session, images)
    assert_same(found, detector, images)
    assert not found["mask"][:, ignore_mask].any()
    assert found["mask"].any()
    other = np.where(ignore_mask[..., None], pictures(3, 16, 12, 1, seed=6), images)
    for name, values in run(session, other).items():
        assert_array_equal(values, found[name])


def test_stacks_of_video_with_what_is_learnt_from_it(tmp_path):
    scene = make_moving_shapes(3, 12, size=(40, 48), random_state=0)
    stacker = TemporalStacker()
    stacks = stacker.fit_transform(scene.frames, groups=scene.clips)
    detector = AVIDDetector(**nested({**VIDEO_PIXELS, **TINY})).fit(stacks, groups=scene.clips)
    detector = shaken(detector)
    assert detector.pair_.filters["mean"] > 1
    to_onnx(detector, tmp_path / "detector.onnx")
    session = session_of(tmp_path / "detector.onnx")
    assert_same(run(session, stacks), detector, stacks)
    assert_same(run(session, stacks[:, :33, :31]), detector, stacks[:, :33, :31])


@pytest.mark.slow
def test_frames_of_ped2(real_data, tmp_path):
    folder = real_data / "ucsd_ped2/UCSDped2"
    if not folder.is_dir():
        pytest.skip(f"no UCSD Ped2 in {folder}")
    train, test = (
        load_ucsd_ped2(folder, subset=name, size=(60, 90)) for name in ("train", "test")
    )
    few = train.clips % 4 == 1
    stacker = TemporalStacker()
    stacks = stacker.fit_transform(train.frames[few], groups=train.clips[few])
    small = {
        "max_epochs": 2,
        "inpainter__width": 8,
        "detector__width": 8,
        "random_state": 0,
    }
    detector = AVIDDetector(**nested(dict(**VIDEO_PIXELS, **small))).fit(
        stacks, groups=train.clips[few]
    )
    to_onnx(detector, tmp_path / "detector.onnx")
    some = test.clips <= 2
    X = stacker.fit_transform(test.frames[some], groups=test.clips[some])[::5]
    differences = verify_onnx(detector, tmp_path / "detector.onnx", X)
    assert differences.mask == 0
    assert differences.score < 1e-4


# --- thresholds ----------------------------------------------------------------------------------


@given(alpha=st.floats(1e-3, 3), zeta=st.floats(1e-3, 1 - 1e-6))
def test_thresholds_can_be_given_at_run_time(grey, session, alpha, zeta):
    images = pictures(2, 20, 21, 1, seed=7)
    found = run(session, images, alpha=alpha, zeta=zeta)
    assert_same(found, grey.with_thresholds(alpha, zeta), images)


def test_thresholds_that_are_left_out_are_the_detectors_own(grey, session):
    images = pictures(2, 20, 21, 1, seed=7)
    own = run(session, images)
    given_ = run(session, images, alpha=grey.alpha_, zeta=grey.zeta_)
    for name, values in own.items():
        assert_array_equal(values, given_[name])
    # One of them may be given alone.
    assert run(session, images, alpha=100.0)["mask"].sum() == 0 < own["mask"].sum()


@given(data=st.data())
@settings(max_examples=10)
def test_the_mask_is_equation_4_ties_included(session, data):
    images = pictures(1, 20, 21, 1, seed=8)
    maps = run(session, images)
    # Thresholds out of the maps themselves, so that ties happen.
    alpha = float(data.draw(st.sampled_from(np.unique(maps["residual"]).tolist())))
    zeta = float(data.draw(st.sampled_from(np.unique(maps["regularity"]).tolist())))
    found = run(session, images, alpha=alpha, zeta=zeta)
    expected = (maps["residual"] >= alpha) & (maps["regularity"] <= zeta)
    assert_array_equal(found["mask"], expected)
    assert (found["score"] <= 0) == expected.any()


def test_a_regularity_that_is_nearly_1_is_cut_as_the_detector_cuts_it(tmp_path):
    detector = fit(pictures(12, 16, 16, 1), fusion="detector", smoothing=0)
    with torch.no_grad():
        detector.detector_.judge[-1].bias += 16.5
    detector = detector.with_thresholds(0.1, float(np.nextafter(np.float32(1), np.float32(0))))
    to_onnx(detector, tmp_path / "detector.onnx")
    images = pictures(4, 40, 40, 1, seed=9)
    found = run(session_of(tmp_path / "detector.onnx"), images)
    assert 0.1 < found["mask"].mean() < 0.9
    assert_array_equal(found["mask"], detector.segment(images))
    assert_same(found, detector, images)


# --- names, types, metadata ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_inputs_and_outputs_are_those_that_are_documented(grey, tmp_path, dtype):
    to_onnx(grey, tmp_path / "detector.onnx", dtype=dtype)
    session = session_of(tmp_path / "detector.onnx")
    images = session.get_inputs()
    number = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}[dtype]
    assert [(one.name, one.type, one.shape) for one in images] == [
        ("images", number, ["n", "height", "width", 1])
    ]
    optional = session.get_overridable_initializers()
    assert sorted((one.name, one.type, one.shape) for one in optional) == [
        ("alpha", "tensor(double)", []),
        ("zeta", "tensor(double)", []),
    ]
    shape = ["n", "height", "width"]
    assert [(one.name, one.type, one.shape) for one in session.get_outputs()] == [
        ("score", "tensor(float)", ["n"]),
        ("anomaly_map", "tensor(float)", shape),
        ("mask", "tensor(bool)", shape),
        ("residual", "tensor(float)", shape),
        ("regularity", "tensor(float)", shape),
    ]


def test_a_threshold_that_the_fusion_does_not_ask_for_may_be_given(tmp_path):
    detector = fit(pictures(12, 16, 16, 1), fusion="detector")
    to_onnx(detector, tmp_path / "detector.onnx")
    session, images = session_of(tmp_path / "detector.onnx"), pictures(1, 16, 16, 1)
    assert_array_equal(run(session, images, alpha=9.0)["mask"], run(session, images)["mask"])


def test_the_file_says_what_made_it(exported, grey):
    described = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}
    assert described.pop("skavid_version") == skavid.__version__
    assert described.pop("fusion") == "min"
    assert {name: json.loads(value) for name, value in described.items()} == {
        "image_shape": [16, 12, 1], "value_range": [0, 255], "spacing": None,
        "alpha": grey.alpha_, "zeta": grey.zeta_, "balance": grey.balance_,
        "smoothing": 3, "dilation": 2, "min_area": 0, "target_fpr": 0.01,
    }  # fmt: skip


def test_numbers_of_numpy_are_described_too(grey, tmp_path):
    detector = copy.copy(grey).set_params(
        postprocessing__min_area=np.int64(4), postprocessing__min_area_of="image"
    )
    to_onnx(detector, tmp_path / "detector.onnx")
    described = onnx.load(tmp_path / "detector.onnx").metadata_props
    assert {entry.key: entry.value for entry in described}["min_area"] == "4"


# --- what is refused -----------------------------------------------------------------------------


def refuses(error, message, call):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


def test_connected_patches_are_refused(grey, tmp_path):
    detector = copy.copy(grey).set_params(postprocessing__min_area=5)
    refuses(
        ValueError,
        "detector asks for connected patches (min_area=5, min_area_of='patch'), which ONNX has no "
        "operation for; set postprocessing__min_area=0 or postprocessing__min_area_of='image', "
        "and calibrate the thresholds for it.",
        lambda: to_onnx(detector, tmp_path / "detector.onnx"),
    )
    assert not list(tmp_path.iterdir())


def test_only_a_fitted_detector_can_be_exported(grey, tmp_path):
    path = tmp_path / "detector.onnx"
    refuses(
        TypeError,
        "detector must be an AVIDDetector. Got Pipeline; of a Pipeline or a search give the "
        "detector inside, such as pipeline[-1].",
        lambda: to_onnx(make_pipeline(grey), path),
    )
    with pytest.raises(NotFittedError):
        to_onnx(AVIDDetector(), path)
    with pytest.raises(ValueError, match="The 'fusion' parameter of AVIDDetector must be"):
        to_onnx(copy.copy(grey).set_params(fusion="median"), path)
    refuses(
        ValueError,
        "dtype must be 'uint8' or 'float32'. Got 'float16'.",
        lambda: to_onnx(grey, path, dtype="float16"),
    )
    other = copy.deepcopy(grey)
    other.detector_.judge[1] = torch.nn.Tanh()
    refuses(
        NotImplementedError,
        "Tanh layers cannot be exported; skavid's own networks have none.",
        lambda: to_onnx(other, path),
    )
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_leaves_nothing_behind(grey, tmp_path):
    path = tmp_path / "missing" / "detector.onnx"
    refuses(
        FileNotFoundError,
        f"{path} cannot be written: No such file or directory.",
        lambda: to_onnx(grey, path),
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    refuses(
        IsADirectoryError,
        f"{folder} cannot be written: Is a directory.",
        lambda: to_onnx(grey, folder),
    )
    assert list(tmp_path.iterdir()) == [folder]


def test_without_onnx_the_error_names_the_extra(grey, exported, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    refuses(
        ImportError,
        "to_onnx needs onnx; pip install 'skavid[onnx]'.",
        lambda: to_onnx(grey, tmp_path / "detector.onnx"),
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refuses(
        ImportError,
        "verify_onnx needs onnxruntime; pip install 'skavid[onnx]'.",
        lambda: verify_onnx(grey, exported, pictures(1, 16, 16, 1)),
    )


# --- verifying -----------------------------------------------------------------------------------


def test_verifying_returns_the_largest_differences(grey, exported):
    differences = verify_onnx(grey, str(exported), pictures(3, 20, 21, 1))
    assert sorted(differences) == ["anomaly_map", "mask", "regularity", "residual", "score"]
    assert differences.mask == 0
    assert all(0 <= difference < 1e-4 for difference in differences.values())
    assert verify_onnx(grey, exported, pictures(2, 16, 12, 1).reshape(2, -1)).mask == 0  # rows
    assert grey.device == "auto"


def test_a_graph_that_is_not_the_detectors_is_found_out(grey, exported, session):
    images = pictures(2, 20, 21, 1)
    changed = copy.copy(grey)
    changed.alpha_ *= 2
    by_graph, by_detector = run(session, images)["score"], changed.score_samples(images)
    refuses(
        AssertionError,
        f"score of image 0 is {by_graph[0]} by the graph, but {by_detector[0]} by the detector; "
        "export it anew if it has changed.",
        lambda: verify_onnx(changed, exported, images),
    )


def test_the_pixel_that_differs_is_named(grey, exported, session):
    class Doctored(AVIDDetector):
        def maps(self, X):
            maps = super().maps(X)
            maps.residual[1, 2, 3] = 0.75
            return maps

    images = pictures(2, 20, 21, 1)
    other = copy.copy(grey)
    other.__class__ = Doctored
    by_graph = run(session, images)["residual"][1, 2, 3]
    refuses(
        AssertionError,
        f"residual of image 1, pixel (2, 3), is {by_graph} by the graph, but 0.75 by the "
        "detector; export it anew if it has changed.",
        lambda: verify_onnx(other, exported, images),
    )


def test_images_that_the_graph_does_not_take_are_refused(grey, exported, tmp_path):
    refuses(
        ValueError,
        f"X holds float64, but the graph in {exported} takes uint8; convert X, or export with "
        "another dtype.",
        lambda: verify_onnx(grey, exported, np.zeros((1, 16, 16))),
    )
    path = tmp_path / "detector.onnx"
    refuses(
        FileNotFoundError,
        f"{path} is not there; write it with to_onnx first.",
        lambda: verify_onnx(grey, path, np.zeros((1, 16, 16))),
    )
    to_onnx(grey, path, dtype="float32")
    refuses(
        ValueError,
        f"X holds uint8, but the graph in {path} takes float32, in the units of the training "
        "images; convert X, or export with another dtype.",
        lambda: verify_onnx(grey, path, pictures(1, 16, 16, 1)),
    )
    assert verify_onnx(grey, path, pictures(1, 16, 16, 1).astype(float)).mask == 0
