"""Models on disk: loaded bitwise equal, refused if they were changed."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from skavid import PAPER, AVIDDetector, TemporalStacker, persistence
from skavid.components import VIDEO_PIXELS, flattened, nested
from skavid.core.anomaly_maps import MAPS
from skavid.core.corruption import noise
from skavid.datasets import make_moving_shapes
from skavid.persistence import FITTED, MOST_HEADER, pack, unpack
from tests.hostile import damages

safetensors = pytest.importorskip("safetensors")

DATA = Path(__file__).parent / "data"
SMALL = {
    "max_epochs": 1,
    "features": "pixels",
    "inpainter__width": 2,
    "detector__width": 2,
    "random_state": 0,
}
NETWORKS = ("inpainter_", "detector_")


def waves(n, height=16, width=16):
    """Images without any random number, so that an old model finds the same ones."""
    y, x = np.mgrid[:height, :width]
    i = np.arange(n)[:, None, None]
    return (100 + 60 * np.sin(y / 2.5 + i) * np.cos(x / 3.5 + 2 * i)).astype(np.float32)


NORMAL = waves(24)
ODD = waves(6)
ODD[:3, 4:9, 3:8] = 255


def stacks():
    data = make_moving_shapes(3, 12, size=(40, 48), random_state=0)
    return TemporalStacker().fit_transform(data.frames, groups=data.clips), data.clips


def fit(parameters, X, **arguments):
    return AVIDDetector(**nested({**SMALL, "inpainter__depth": 1, **parameters})).fit(
        X, **arguments
    )


def numbered(rows):
    return pd.DataFrame(rows, columns=[f"p{i}" for i in range(rows.shape[1])])


MODELS = {
    "images": lambda: (fit({}, NORMAL), ODD),
    "bytes in colour": lambda: (
        fit({"corruption__mask_size": (2, 6)}, np.stack([NORMAL.astype(np.uint8)] * 3, -1)),
        np.stack([ODD.astype(np.uint8)] * 3, -1),
    ),
    "masking, bounded": lambda: (
        fit(
            {
                "corruption__inpainter": "masking", "postprocessing__n_draws": 2,
                "inpainter__patch": 1, "training__reconstruction_loss": "bernoulli",
            },
            NORMAL,
        ),
        ODD,
    ),
    "the paper's": lambda: (
        fit({**PAPER, **SMALL, "inpainter__depth": 2, "batch_size": 4}, waves(8, 52, 52)),
        waves(3, 52, 52) * 2,
    ),
    "clips": lambda: (
        fit({**VIDEO_PIXELS, "training__crop_size": 32}, stacks()[0], groups=stacks()[1]),
        stacks()[0][:9],
    ),
    "named rows": lambda: (
        fit({"image_shape": [16, 16], "value_range": (0, 255)}, numbered(NORMAL.reshape(24, -1))),
        numbered(ODD.reshape(6, -1)),
    ),
    "given thresholds": lambda: (
        fit({"alpha": np.float32(0.1), "zeta": 0.3, "fusion": "min"}, NORMAL),
        ODD,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def models():
    return {name: make() for name, make in MODELS.items()}


@pytest.fixture(scope="module")
def fitted(models):
    """One small fitted detector; never changed, copied where it must be."""
    return models["images"][0]


@pytest.fixture(scope="module")
def written(fitted):
    return packed(fitted)


def packed(detector):
    return pack(detector.get_params(), vars(detector), detector._parameter_constraints)


def assert_equal(one, other):
    """Compare without a tolerance: types of containers, NaN and arrays included."""
    if isinstance(one, np.ndarray):
        assert_array_equal(one, other, strict=True)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, tuple | list):
        assert type(one) is type(other)
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other or (one != one and other != other)


def assert_same_model(one, other):
    assert_equal(one.get_params(), other.get_params())
    for name in FITTED:
        assert hasattr(one, name) == hasattr(other, name)
        assert_equal(getattr(one, name, None), getattr(other, name, None))
    for name in NETWORKS:
        weights, others = (getattr(model, name).state_dict() for model in (one, other))
        assert list(weights) == list(others)
        assert all(torch.equal(weights[key], others[key]) for key in weights)


# --- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_detector_is_equal_to_the_last_bit(models, name, tmp_path):
    detector, X = models[name]
    detector.save(tmp_path / "model.skavid")
    loaded = AVIDDetector.load(tmp_path / "model.skavid")
    assert_same_model(detector, loaded)
    assert_array_equal(loaded.score_samples(X), detector.score_samples(X))
    assert_array_equal(loaded.predict(X), detector.predict(X))
    assert_array_equal(loaded.segment(X), detector.segment(X))
    maps, others = detector.maps(X), loaded.maps(X)
    for key in MAPS:
        assert_array_equal(getattr(others, key), getattr(maps, key), strict=True)
    if name == "images":
        larger = waves(2, 21, 30)
        assert_array_equal(loaded.score_samples(larger), detector.score_samples(larger))


@pytest.mark.parametrize("name", MODELS)
def test_every_attribute_of_a_fitted_detector_is_kept_or_known_not_to_be(models, name):
    detector, _ = models[name]
    attributes = set(vars(detector)) - set(detector.get_params(deep=False))
    assert attributes - set(FITTED) == {"net_", *NETWORKS}


def test_a_loaded_detector_saves_the_same_text_again(fitted, written):
    loaded = AVIDDetector()._restore(*unpack(written, AVIDDetector._parameter_constraints))
    assert split(packed(loaded))[1] == split(written)[1]


def test_the_networks_may_have_other_sizes_than_the_parameters_say_now(fitted, tmp_path):
    changed = copy.copy(fitted).set_params(
        features="pixels",
        inpainter__width=7,
        detector__width=9,
        inpainter__patch=1,
        detector__region_size=8,
    )
    changed.save(tmp_path / "model.skavid")
    loaded = AVIDDetector.load(tmp_path / "model.skavid")
    assert loaded.get_params() == changed.get_params()
    assert_array_equal(loaded.score_samples(ODD), fitted.score_samples(ODD))


ARRAYS = {
    "bool": np.arange(12).reshape(3, 4) % 3 == 0,
    "of other bytes": np.arange(3, dtype=">f8"),
    "strided": np.arange(24).reshape(4, 6)[::2, ::-1],
    "Fortran's order": np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
    "a number": np.array(2.5),
    "empty": np.empty((0, 3), np.float32),
    "read-only": np.broadcast_to(np.float32(1), (2, 2)),
    "names": np.array(["a", "é"], dtype=object),
}


@pytest.mark.parametrize("array", ARRAYS)
def test_arrays_come_along_among_parameters_and_attributes(fitted, array):
    value = ARRAYS[array]
    constraints = {**AVIDDetector._parameter_constraints, "ignore_mask": [np.ndarray, None]}
    given = {**fitted.get_params(deep=False), "ignore_mask": value}
    attributes = {**vars(fitted), "calibration_": {"nested": [(value, 1)]}}
    parameters, kept = unpack(pack(given, attributes, constraints), constraints)
    for found in (parameters["ignore_mask"], kept["calibration_"]["nested"][0][0]):
        assert_array_equal(found, value)
        assert found.dtype == value.dtype.newbyteorder("=")
        assert found.shape == value.shape
        assert found.flags.writeable
    assert parameters.keys() == given.keys()


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(st.text(max_size=2).filter(lambda key: key[:1] != "$"), inner, max_size=3),
    max_leaves=6,
))  # fmt: skip
def test_whatever_is_plain_comes_back_as_it_was(value):
    text = json.dumps(persistence._encode(value, "x", {}), allow_nan=False)
    assert_equal(persistence._decode(json.loads(text), {}), value)


def test_the_file_is_read_by_safetensors_and_json_alone(fitted, tmp_path):
    fitted.save(tmp_path / "model.safetensors")
    with safetensors.safe_open(tmp_path / "model.safetensors", "np") as file:
        said = json.loads(file.metadata()["skavid"])
        weights = file.get_tensor("inpainter.correct.weight")
    assert_array_equal(weights, fitted.inpainter_.correct.weight.numpy())
    assert said["parameters"] == json.loads(json.dumps(flattened(fitted.get_params())))
    card = said["model_card"]
    assert card["trained_on"]["n_images"] == 24
    assert card["trained_on"]["n_held_out"] == fitted.calibration_["n_images"]
    assert card["trained_on"]["n_clips"] is None
    assert card["trained_on"]["image_shape"] == [16, 16, 1]
    assert card["trained_on"]["versions"]["torch"] == torch.__version__
    assert card["thresholds"] == {
        "alpha": fitted.alpha_, "zeta": fitted.zeta_, "balance": fitted.balance_,
        "fusion": "mean", "target_fpr": 0.01, "rest_on": fitted.calibration_,
    }  # fmt: skip
    assert card["kept_epochs"] == fitted.checkpoint_


def test_clips_are_counted_on_the_model_card(models):
    said = json.loads(split(packed(models["clips"][0]))[1])
    assert said["model_card"]["trained_on"]["n_clips"] == 3
    assert said["model_card"]["thresholds"]["rest_on"]["n_clips"] == 3


def test_what_belongs_to_one_machine_is_not_kept(fitted, tmp_path):
    detector = copy.copy(fitted).set_params(
        memory=str(tmp_path), callbacks=[object()], random_state=np.random.RandomState(0)
    )
    detector.save(tmp_path / "model.skavid")
    assert str(tmp_path).encode() not in (tmp_path / "model.skavid").read_bytes()
    parameters = AVIDDetector.load(tmp_path / "model.skavid").get_params()
    gone = {"memory": None, "callbacks": None, "random_state": None}
    assert parameters == {**fitted.get_params(), **gone}


def test_saving_and_loading_leave_random_states_and_the_detector_alone(fitted, tmp_path):
    before = dict(vars(fitted))
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    fitted.save(tmp_path / "model.skavid")
    AVIDDetector.load(tmp_path / "model.skavid")
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert_array_equal(np.random.get_state()[1], numpy_state)
    assert vars(fitted) == before


def test_loading_unpickles_nothing(written, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (torch, "load"), (joblib, "load")):
        monkeypatch.setattr(module, name, refuse)
    unpack(written, AVIDDetector._parameter_constraints)


def test_a_detector_of_the_first_release_scores_as_it_did():
    # Written at 0.1.0: fit(parameters, NORMAL) with these, all else by default.
    parameters = {
        **SMALL, "inpainter__depth": 1, "corruption__inpainter": "masking",
        "corruption__mask_size": (2, 6),
        "max_epochs": 4, "alpha": 0.05, "zeta": 0.4, "balance": 0.5,
    }  # fmt: skip
    loaded = AVIDDetector.load(DATA / "model-0.1.0.skavid")
    assert {name: loaded.get_params()[name] for name in parameters} == parameters
    scores = json.loads((DATA / "scores-0.1.0.json").read_text())
    queries = ODD * np.arange(1, 7, dtype=np.float32)[:, None, None]
    assert_allclose(loaded.score_samples(queries), scores, rtol=0, atol=1e-5)
    assert np.ptp(scores) > 0.1


# --- models over a feature map -------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_features():
    """A detector that remembers each of its training images."""
    return AVIDDetector(**nested(ON_PATCHES)).fit(NORMAL)


ON_PATCHES = {
    "max_epochs": 1, "inpainter__pooling": "place", "detector__width": 4, "random_state": 0,
}  # fmt: skip


def few_remembered(monkeypatch):
    monkeypatch.setattr("skavid.core.linear.REMEMBERED", 10 * 16**2 * 66)
    detector = AVIDDetector(**nested(ON_PATCHES)).fit(NORMAL)
    assert len(detector.inpainter_.keys) == 10
    return detector


def names_in(data):
    return {name for name in split(data)[0] if name.startswith("inpainter.")}


def loaded_from(data):
    return AVIDDetector()._restore(*unpack(data, AVIDDetector._parameter_constraints))


@pytest.mark.parametrize("remembers", ["all images", "few images", "none"])
def test_a_model_over_features_is_equal_to_the_last_bit(on_features, remembers, monkeypatch):
    detector = on_features
    if remembers == "few images":
        detector = few_remembered(monkeypatch)
    elif remembers == "none":
        detector = AVIDDetector(**nested({**ON_PATCHES, "inpainter__pooling": "everywhere"})).fit(
            NORMAL
        )
    data = packed(detector)
    assert ("inpainter.covariance" in names_in(data)) == (remembers != "all images")
    assert_same_model(detector, loaded_from(data))
    assert_array_equal(loaded_from(data).score_samples(ODD), detector.score_samples(ODD))
    assert split(packed(loaded_from(data)))[1:] == split(data)[1:]


def test_statistics_that_an_older_release_computed_are_kept(on_features, tmp_path):
    older = copy.deepcopy(on_features)
    older.inpainter_.covariance *= 1.0001
    data = packed(older)
    assert "inpainter.covariance" in names_in(data)

    def to_format_3(state):
        state["format"] = 3
        assert not state["networks"]["inpainter"].pop("recalled")
        assert not state["networks"]["inpainter"].pop("compact")

    nothing = torch.tensor([0.0, 1.0, 0.0, 0.0])  # whole images counted nothing
    older.whole_.nearness, older.whole_.oddity = nothing, nothing
    data = without(without(packed(older), "whole.nearness"), "whole.oddity")
    assert_same_model(loaded_from(with_state(data, to_format_3)), older)


@pytest.mark.parametrize("remembers", ["all images", "few images"])
def test_a_compact_file_is_small_and_scores_nearly_as_the_detector(
    on_features, remembers, monkeypatch, tmp_path
):
    detector = on_features if remembers == "all images" else few_remembered(monkeypatch)
    sizes = []
    for compact in (False, True):
        detector.save(tmp_path / "model.skavid", compact=compact)
        sizes.append((tmp_path / "model.skavid").stat().st_size)
    assert sizes[1] < 0.7 * sizes[0]
    loaded = AVIDDetector.load(tmp_path / "model.skavid")
    scores, expected = loaded.score_samples(NORMAL), detector.score_samples(NORMAL)
    assert 0 < abs(scores - expected).max() < 0.1 * expected.std()
    assert_allclose(loaded.score_samples(ODD[:3]), detector.score_samples(ODD[:3]), rtol=0.01)
    memory, exact = (one.inpainter_.memory.float() for one in (loaded, detector))
    step = (exact.amax(1) - exact.amin(1)) / 255
    assert ((memory - exact).abs().amax(1) <= 0.51 * step + 2e-3 * exact.abs().amax(1)).all()
    spread = detector.inpainter_.covariance.diagonal(dim1=1, dim2=2).sqrt()
    apart = (loaded.inpainter_.covariance - detector.inpainter_.covariance).abs()
    assert (apart <= 0.02 * spread[:, None] * spread[:, :, None] + 1e-6).all()


def test_loading_does_not_import_the_symbolic_mathematics_of_torch(on_features, tmp_path):
    on_features.save(tmp_path / "model.skavid", compact=True)
    code = (
        "import sys; from skavid import AVIDDetector; "
        f"AVIDDetector.load({str(tmp_path / 'model.skavid')!r}); print('sympy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_a_compact_file_of_a_detector_on_pixels_is_the_same(fitted, written):
    constraints = fitted._parameter_constraints
    data = pack(fitted.get_params(), vars(fitted), constraints, compact=True)
    assert split(data)[1:] == split(written)[1:]


# --- what a loaded detector does -----------------------------------------------------------------


@pytest.mark.parametrize("way", ["partial_fit", "warm_start"])
def test_a_loaded_detector_does_not_go_on_with_its_training_and_says_so(written, way):
    loaded = AVIDDetector()._restore(*unpack(written, AVIDDetector._parameter_constraints))
    loaded.set_params(warm_start=way == "warm_start")
    before = dict(vars(loaded))
    message = (
        "This AVIDDetector was loaded from a file without optimisers, so its training cannot go "
        "on; fit it anew with warm_start=False, or keep detectors with joblib to go on later."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        (loaded.fit if way == "warm_start" else loaded.partial_fit)(NORMAL)
    assert vars(loaded) == before


def test_a_loaded_detector_is_fitted_anew_as_any_other(fitted, written):
    loaded = AVIDDetector()._restore(*unpack(written, AVIDDetector._parameter_constraints))
    loaded.fit(NORMAL)
    assert_array_equal(loaded.score_samples(ODD), fitted.score_samples(ODD))
    assert loaded.partial_fit(NORMAL).n_iter_ == 1


@pytest.mark.parametrize("way", ["pickle", "joblib", "copy"])
def test_a_loaded_detector_is_pickled_and_copied_as_any_other(fitted, written, way, tmp_path):
    loaded = AVIDDetector()._restore(*unpack(written, AVIDDetector._parameter_constraints))
    if way == "joblib":
        joblib.dump(loaded, tmp_path / "model.joblib")
        other = joblib.load(tmp_path / "model.joblib")
    else:
        other = pickle.loads(pickle.dumps(loaded)) if way == "pickle" else copy.deepcopy(loaded)
    assert_same_model(other, fitted)


# --- skops ---------------------------------------------------------------------------------------


def test_skops_keeps_a_pipeline_and_needs_trust_in_one_type():
    skops = pytest.importorskip("skops.io")
    rows = NORMAL.reshape(24, -1)
    pipeline = make_pipeline(
        MinMaxScaler(),
        AVIDDetector(**nested(dict(**SMALL, inpainter__depth=1, image_shape=(16, 16)))),
    ).fit(rows)
    data = skops.dumps(pipeline)
    assert skops.get_untrusted_types(data=data) == ["skavid.estimator.AVIDDetector"]
    loaded = skops.loads(data, trusted=["skavid.estimator.AVIDDetector"])
    assert_same_model(loaded[-1], pipeline[-1])
    assert_array_equal(loaded.score_samples(rows), pipeline.score_samples(rows))


def test_skops_keeps_an_unfitted_detector():
    skops = pytest.importorskip("skops.io")
    detector = AVIDDetector(image_shape=(4, 4), random_state=3)
    loaded = skops.loads(skops.dumps(detector), trusted=["skavid.estimator.AVIDDetector"])
    assert vars(loaded) == vars(detector)


def test_a_damaged_detector_inside_skops_is_refused(fitted, written):
    damaged = np.frombuffer(written, np.uint8).copy()
    damaged[-1] ^= 1
    message = (
        "This model cannot be loaded: its content does not match its checksum; it was damaged or "
        "changed."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        AVIDDetector().__setstate__({"file": damaged})


# --- saving that fails ---------------------------------------------------------------------------


def test_an_unfitted_detector_is_not_saved(tmp_path):
    with pytest.raises(NotFittedError):
        AVIDDetector().save(tmp_path / "model.skavid")
    assert list(tmp_path.iterdir()) == []


UNKEEPABLE = {
    "a corruption of one's own": (
        {"corruption__inpainter": noise},
        {},
        f"corruption__inpainter is a function, {noise!r}, which a file without code cannot hold; "
        "save the detector with joblib, or call set_params(corruption__inpainter='noise') if "
        "it is never fitted again.",
    ),
    "a function of another's": (
        {"corruption__detector": print},
        {},
        f"corruption__detector is a function, {print!r}, which a file without code cannot hold; "
        "save the detector with joblib, or call set_params(corruption__detector='synthetic') if "
        "it is never fitted again.",
    ),
    "an object": (
        {"value_range": (0, 1j)},
        {},
        "value_range.1 is 1j, which a file without code cannot hold; give numbers, text, tuples, "
        "lists or arrays.",
    ),
    "an array of objects": (
        {"corruption__mask_size": (np.array([{}]), 1)},
        {},
        "corruption__mask_size.0 is an array of object, which cannot be saved; convert it to "
        "numbers or bool.",
    ),
    "a parameter set wrongly since": (
        {"gamma": -1},
        {},
        "This AVIDDetector cannot be saved: the 'gamma' parameter of AVIDDetector must be a float "
        "in the range [0.0, inf). Got -1 instead.",
    ),
    "a threshold that is none": (
        {},
        {"alpha_": math.nan},
        "This AVIDDetector cannot be saved: the 'alpha_' parameter of AVIDDetector must be a "
        "float in the range (0.0, 1e+308). Got nan instead.",
    ),
    "too much text": (
        {},
        {"history_": ["x" * MOST_HEADER]},
        "This AVIDDetector cannot be saved: its header has {:,} bytes, but may have 4,194,304; "
        "names of features are the longest part of it.",
    ),
}


@pytest.mark.parametrize("case", UNKEEPABLE)
def test_what_cannot_be_kept_is_refused_before_anything_is_written(fitted, case, tmp_path):
    parameters, attributes, message = UNKEEPABLE[case]
    detector = copy.copy(fitted).set_params(**parameters)
    vars(detector).update(attributes)
    (tmp_path / "model.skavid").write_text("as it was")
    pattern = re.escape(message).replace(re.escape("{:,}"), "[0-9,]+")
    with pytest.raises(ValueError, match=f"^{pattern}$"):
        detector.save(tmp_path / "model.skavid")
    assert (tmp_path / "model.skavid").read_text() == "as it was"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_missing_is_named(fitted, tmp_path):
    path = tmp_path / "no" / "model.skavid"
    message = f"{path} cannot be written: there is no folder {path.parent}; make it first."
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        fitted.save(path)


def test_a_folder_in_place_of_a_file_is_refused(fitted, tmp_path):
    message = f"{tmp_path} is a folder; give the name of a file in it."
    with pytest.raises(IsADirectoryError, match=f"^{re.escape(message)}$"):
        fitted.save(tmp_path)


@pytest.mark.parametrize("step", ["touch", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(fitted, tmp_path, monkeypatch, step):
    def fail(*arguments):
        raise PermissionError(13, "Permission denied", ".part")

    path = tmp_path / "model.skavid"
    path.write_text("as it was")
    monkeypatch.setattr(*((Path, step) if step == "touch" else (os, step)), fail)
    message = f"{path} cannot be written: Permission denied."
    with pytest.raises(PermissionError, match=f"^{re.escape(message)}$"):
        fitted.save(path)
    assert path.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_place_of_a_folder_is_told_clearly(fitted, tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "model.skavid"
    message = f"{path} cannot be written: {path.parent} is not a folder."
    with pytest.raises(NotADirectoryError, match=f"^{re.escape(message)}$"):
        fitted.save(path)


def test_notes_of_what_was_learnt_before_end_with_a_new_training():
    detector = fit({}, NORMAL)
    detector.extra_ = {"trained_on": ["monday.mp4"]}
    with pytest.raises(ValueError, match="NaN"):
        detector.fit(np.full(NORMAL.shape, np.nan))
    assert detector.extra_ == {"trained_on": ["monday.mp4"]}
    assert not hasattr(detector.fit(NORMAL), "extra_")


def test_a_missing_safetensors_names_the_extra(fitted, written, tmp_path, monkeypatch):
    for module in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "there.skavid").write_bytes(written)
    message = "Models on disk need safetensors; pip install 'skavid[save]'."
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        fitted.save(tmp_path / "model.skavid")
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        AVIDDetector.load(tmp_path / "there.skavid")


# --- files that are not to be trusted ------------------------------------------------------------


def split(data):
    """Split a file into its header, the JSON in it, and the rest."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return header, header["__metadata__"]["skavid"], data[8 + length :]


def join(header, text, body, *, checksum=True):
    """Join the parts of a file, with a valid checksum as an attacker would write."""
    entries = {key: value for key, value in header.items() if key != "__metadata__"}
    if checksum:
        found = hashlib.sha256(text.encode())
        kinds = {
            "F32": "<f4", "F16": "<f2", "U8": "|u1", "I64": "<i8", "BOOL": "|b1", "F64": "<f8",
        }  # fmt: skip
        for name in sorted(entries):
            start, stop = entries[name]["data_offsets"]
            kind = kinds.get(entries[name]["dtype"], "?")
            found.update(f"\0{name}\0{kind}\0{tuple(entries[name]['shape'])}\0".encode())
            found.update(body[start:stop])
        metadata = {"skavid": text, "sha256": found.hexdigest()}
    else:
        metadata = header["__metadata__"] | {"skavid": text}
    raw = json.dumps({"__metadata__": metadata, **entries}).encode()
    return len(raw).to_bytes(8, "little") + raw + body


def with_state(data, change):
    header, text, body = split(data)
    state = json.loads(text)
    change(state)
    return join(header, json.dumps(state), body)


def without(data, name):
    header, text, body = split(data)
    start, stop = header.pop(name)["data_offsets"]
    for entry in header.values():
        if entry.get("data_offsets", [0])[0] >= stop:
            entry["data_offsets"] = [at - (stop - start) for at in entry["data_offsets"]]
    return join(header, text, body[:start] + body[stop:])


def put(*keys, value):
    def change(state):
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return lambda data: with_state(data, change)


def drop(*keys):
    def change(state):
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return lambda data: with_state(data, change)


def retype(name, **entry):
    def change(data):
        header, text, body = split(data)
        header[name].update(entry)
        return join(header, text, body)

    return change


def rename(old, new):
    def change(data):
        header, text, body = split(data)
        header[new] = header.pop(old)
        return join(header, text, body)

    return change


def with_weights(data):
    header, text, body = split(data)
    start, _ = header["inpainter.correct.bias"]["data_offsets"]
    spoilt = bytearray(body)
    spoilt[start : start + 4] = np.float32(np.nan).tobytes()
    return join(header, text, bytes(spoilt))


WROTE = "it was not written by AVIDDetector.save"
SIZE = re.compile(r"it has [\d,]+ bytes, but its header describes [\d,]+; it was truncated "
                  r"or changed\.")  # fmt: skip
CHECKSUM = "its content does not match its checksum; it was damaged or changed."
BAD_FILES = {
    "empty": (lambda data: b"", f"{WROTE}, or it was truncated."),
    "a pickle": (lambda data: pickle.dumps({"a": 1}), f"{WROTE}, or it was truncated."),
    "text": (lambda data: b"model: AVID\n" * 9, f"{WROTE}, or it was truncated."),
    "cut in the header": (lambda data: data[:1000], f"{WROTE}, or it was truncated."),
    "cut in the weights": (lambda data: data[:-1], SIZE),
    "longer": (lambda data: data + b"\0", SIZE),
    "weights of something else": (
        lambda data: safetensors.numpy.save({"a": np.zeros(3)}),
        f"{WROTE}.",
    ),
    "a header that is no JSON": (
        lambda data: data[:8] + b"[" + data[9:],
        f"{WROTE}.",
    ),
    "a header without end": (
        lambda data: (MOST_HEADER + 1).to_bytes(8, "little") + b"{" * (MOST_HEADER + 9),
        "its header has 4,194,305 bytes, but may have 4,194,304; names of features are the "
        "longest part of it.",
    ),
    "JSON without end": (
        lambda data: join(split(data)[0], "[" * 100_000, split(data)[2]),
        "its JSON is nested too deeply.",
    ),
    "more metadata": (
        lambda data: join(
            {**split(data)[0], "__metadata__": {**split(data)[0]["__metadata__"], "x": "y"}},
            *split(data)[1:],
            checksum=False,
        ),
        "its metadata must be the two strings skavid and sha256; it was changed.",
    ),
    "a list": (
        lambda data: join(split(data)[0], "[]", split(data)[2]),
        "its description is not a JSON object; it was changed.",
    ),
    "NaN in the JSON": (
        lambda data: join(split(data)[0], '{"format": NaN}', split(data)[2]),
        "its description is not JSON; it was changed.",
    ),
    "a later format": (
        put("format", value=7),
        "it has the format 7, but skavid 0.1.0 reads formats up to 6; update skavid.",
    ),
    "no format": (
        drop("format"),
        "it has the format None, but skavid 0.1.0 reads formats up to 6; update skavid.",
    ),
    "an entry of a later release": (
        put("more", value={}),
        "the entry 'more' is not known to skavid 0.1.0; update skavid.",
    ),
    "a parameter of a later release": (
        put("parameters", "more", value=1),
        "the parameter 'more' is not known to skavid 0.1.0; update skavid.",
    ),
    "an attribute of a later release": (
        put("fitted", "more_", value=1),
        "the attribute 'more_' is not known to skavid 0.1.0; update skavid.",
    ),
    "no threshold": (
        drop("fitted", "alpha_"),
        "the attribute 'alpha_' is missing; it was changed.",
    ),
    "a list of parameters": (
        put("parameters", value=[]),
        "its parameters must be a JSON object. Got [].",
    ),
    "changed, with the old checksum": (
        lambda data: join(
            split(data)[0],
            split(data)[1].replace('"gamma": 0.4', '"gamma": 0.5'),
            split(data)[2],
            checksum=False,
        ),
        CHECKSUM,
    ),
    "a threshold that is no number": (
        put("fitted", "alpha_", value={"$float": "nan"}),
        "the 'alpha_' parameter of AVIDDetector must be a float in the range (0.0, 1e+308). Got "
        "nan instead.",
    ),
    "an infinite threshold": (
        lambda data: join(
            split(data)[0],
            re.sub(r'"alpha_": [^,]+', '"alpha_": 1e999', split(data)[1]),
            split(data)[2],
        ),
        "the 'alpha_' parameter of AVIDDetector must be a float in the range (0.0, 1e+308). Got "
        "inf instead.",
    ),
    "a regularity of 1": (
        put("fitted", "zeta_", value=1),
        "the 'zeta_' parameter of AVIDDetector must be a float in the range (0.0, 1.0). Got 1 "
        "instead.",
    ),
    "a cache of a stranger's": (
        put("parameters", "memory", value="/tmp"),
        "the 'memory' parameter of AVIDDetector must be None. Got '/tmp' instead.",
    ),
    "an unknown corruption": (
        put("parameters", "corruption__detector", value="os.system"),
        "the 'corruption__detector' parameter of AVIDDetector must be a str among {}, a "
        "callable or None. Got 'os.system' instead.",
    ),
    "a wide network": (put("networks", "inpainter", "width", value=200), SIZE),
    "a network of gigabytes": (
        put("networks", "inpainter", value={
            "n_channels": 1, "width": 4096, "depth": 8, "patch": 32, "bounded": True
        }),
        "its arrays have {} bytes, but a file may have 2,147,483,648.",
    ),
    "a deep network": (put("networks", "inpainter", "depth", value=8), SIZE),
    "a network wider than any": (
        put("networks", "detector", "width", value=2**40),
        "the 'width' parameter of detector must be an int in the range [1, 4096]. Got "
        "1099511627776 instead.",
    ),
    "a size of a later release": (
        put("networks", "detector", "more", value=1),
        "the size of the detector 'more' is not known to skavid 0.1.0; update skavid.",
    ),
    "no sizes": (
        put("networks", "detector", value=3),
        "the detector must have sizes. Got 3.",
    ),
    "unknown regions": (
        put("fitted", "geometry_", value={"$tuple": [3, 3]}),
        "the regions {'$tuple': [3, 3]} do not belong to any detector; it was changed.",
    ),
    "regions of another detector": (put("fitted", "geometry_", value={"$tuple": [8, 8]}), SIZE),
    "a wide filter": (
        put("parameters", "postprocessing__smoothing", value=2**40),
        "the 'postprocessing__smoothing' parameter of AVIDDetector must be an int in the range "
        "[0, 32768]. Got 1099511627776 instead.",
    ),
    "a wide filter of what moves": (
        put("fitted", "_auto_filters", "mean", value=2**40),
        "the 'mean' parameter of _auto_filters must be an int in the range [0, 32768]. Got "
        "1099511627776 instead.",
    ),
    "no filter": (
        drop("fitted", "_auto_filters", "mean"),
        "the filter 'mean' is missing; it was changed.",
    ),
    "images of other channels": (
        put("fitted", "image_shape_", value={"$tuple": [16, 16, 3]}),
        "image_shape_ is (16, 16, 3), but the networks take {'inpainter': 1, 'detector': 1} "
        "channels.",
    ),
    "images without pixels": (
        put("fitted", "image_shape_", value={"$tuple": [0, 16, 1]}),
        "image_shape_ must be three positive integers. Got (0, 16, 1).",
    ),
    "other features than pixels": (
        put("fitted", "n_features_in_", value=7),
        "n_features_in_ is 7, but image_shape_ is (16, 16, 1).",
    ),
    "few names": (
        put("fitted", "feature_names_in_", value={"$strings": ["a"]}),
        "feature_names_in_ must be 256 names.",
    ),
    "one name that is a number": (
        lambda data: join(
            {**split(data)[0],
             "array.x": {"dtype": "F64", "shape": [], "data_offsets": [
                 len(split(data)[2]), len(split(data)[2]) + 8]}},
            split(with_state(data, lambda state: state["fitted"].update(
                feature_names_in_={"$array": "array.x", "kind": "F64", "shape": []})))[1],
            split(data)[2] + bytes(8),
        ),
        "feature_names_in_ must be 256 names.",
    ),
    "a number larger than any float": (
        put("fitted", "value_range_", value={"$tuple": [0, 10**400]}),
        f"value_range_ must be two floats. Got (0, {10**400}).",
    ),
    "a falling range": (
        put("fitted", "value_range_", value={"$tuple": [1.0, 0.0]}),
        "value_range must be finite and rising, low < high. Got (1.0, 0.0).",
    ),
    "a range of text": (
        put("fitted", "value_range_", value={"$tuple": ["a", "b"]}),
        "value_range_ must be two floats. Got ('a', 'b').",
    ),
    "a mark that means nothing": (
        put("parameters", "gamma", value={"$import": "os"}),
        "it has {'$import': 'os'}, which has no meaning; it was changed.",
    ),
    "an array that is not there": (
        put("fitted", "calibration_", value={"$array": "array.x", "kind": "F32", "shape": [2]}),
        SIZE,
    ),
    "an endless array": (
        put("fitted", "calibration_",
            value={"$array": "array.x", "kind": "F64", "shape": [2**30, 2**30]}),
        "its arrays have {} bytes, but a file may have 2,147,483,648.",
    ),
    "an array of endless dimensions": (
        put("fitted", "calibration_",
            value={"$array": "array.x", "kind": "F64", "shape": [2**30] * 100_000}),
        "an array is described by {}...",
    ),
    "an array of no kind": (
        put("fitted", "calibration_", value={"$array": "array.x", "kind": "O", "shape": [2]}),
        "an array is described by {'$array': 'array.x', 'kind': 'O', 'shape': [2]}; it was "
        "changed.",
    ),
    "weights that are an array, too": (
        put("fitted", "calibration_",
            value={"$array": "detector.judge.0.bias", "kind": "F32", "shape": [4]}),
        "the array 'detector.judge.0.bias' has two meanings; it was changed.",
    ),
    "weights of another shape": (
        retype("inpainter.correct.weight", shape=[2, 16, 1, 1]),
        "the array 'inpainter.correct.weight' is F32 of shape (2, 16, 1, 1), but must be F32 of "
        "shape (16, 2, 1, 1); it was changed.",
    ),
    "weights of another kind": (
        retype("inpainter.correct.bias", dtype="I32"),
        "the array 'inpainter.correct.bias' is I32 of shape (16,), but must be F32 of shape "
        "(16,); it was changed.",
    ),
    "weights of another name": (
        rename("inpainter.correct.bias", "x"),
        "the array 'inpainter.correct.bias' is missing, but must be F32 of shape (16,); it was "
        "changed.",
    ),
    "weights that overlap": (
        retype("inpainter.correct.bias", data_offsets=[0, 64]),
        "its arrays cannot be read ({}).",
    ),
    "weights that are no numbers": (
        with_weights,
        "the inpainter has weights that are not finite.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_cannot_be_is_refused_in_one_sentence(written, case, tmp_path):
    change, message = BAD_FILES[case]
    path = tmp_path / "model.skavid"
    path.write_bytes(change(written))
    reason = message.pattern if isinstance(message, re.Pattern) else re.escape(message)
    reason = reason.replace(re.escape("{}"), r"[^\n]+")
    outcome, peak = outcome_of(AVIDDetector.load, path)
    assert peak < 2 * MOST_HEADER + 2**20
    assert type(outcome) is ValueError
    assert re.match(f"{re.escape(str(path))} cannot be loaded: {reason}$", str(outcome))


BAD_FEATURE_FILES = {
    "statistics are missing": (
        lambda data: with_array(data, "inpainter.n_images", np.int64(99)),
        "its statistics are missing, but not all images are remembered.",
    ),
    "a giant from few numbers": (
        lambda data: with_state(data, lambda state: state["networks"]["inpainter"].update(
            n_features=4096, n_rows=4096
        )),
        r"its (arrays|networks would) have [\d,]+ bytes, but .* have 2,147,483,648\.",
    ),
    "an unknown form": (
        put("networks", "inpainter", "compact", value="very"),
        "the 'compact' parameter of inpainter must be .* Got 'very' instead.",
    ),
    "no form": (
        drop("networks", "inpainter", "recalled"),
        "the size of the inpainter 'recalled' is missing; it was changed.",
    ),
}  # fmt: skip


def with_array(data, name, value):
    header, text, body = split(data)
    start, stop = header[name]["data_offsets"]
    return join(header, text, body[:start] + value.tobytes() + body[stop:])


@pytest.mark.parametrize("case", BAD_FEATURE_FILES)
def test_a_model_over_features_that_cannot_be_is_refused(on_features, case):
    change, message = BAD_FEATURE_FILES[case]
    with pytest.raises(ValueError, match=f"^This model cannot be loaded: {message}$"):
        loaded_from(change(packed(on_features)))


def test_the_files_above_are_only_refused_for_what_was_changed(fitted, written):
    """The functions that change files leave an unchanged one valid."""
    again = join(*split(written))
    loaded = AVIDDetector()._restore(*unpack(again, AVIDDetector._parameter_constraints))
    assert_same_model(loaded, fitted)


@pytest.mark.parametrize("kind", ["nothing", "a folder", "a pipe"])
def test_what_is_no_file_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "model.skavid"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    message = f"There is no file {path}; give one that was written by AVIDDetector.save."
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        AVIDDetector.load(path)


def test_parameters_that_an_older_release_did_not_have_take_their_defaults(written):
    older = drop("parameters", "gamma")(written)
    loaded = AVIDDetector()._restore(*unpack(older, AVIDDetector._parameter_constraints))
    assert loaded.gamma == AVIDDetector().gamma


def test_bytes_that_are_no_bool_become_one(fitted):
    constraints = {**AVIDDetector._parameter_constraints, "ignore_mask": [np.ndarray]}
    parameters = {**fitted.get_params(), "ignore_mask": np.array([True, False])}
    header, text, body = split(pack(parameters, vars(fitted), constraints))
    start, stop = header["array.ignore_mask"]["data_offsets"]
    found = unpack(join(header, text, body[:start] + bytes([1, 0]) + body[stop:]), constraints)[0][
        "ignore_mask"
    ]
    assert found.tobytes() == bytes([1, 0])
    spoilt = body[:start] + bytes([255, 0]) + body[stop:]
    with pytest.raises(ValueError, match=re.escape(CHECKSUM)):
        unpack(join(header, text, spoilt), constraints)


def outcome_of(load, *arguments):
    """Return the result or the error, and the peak of memory in bytes."""
    tracemalloc.start()
    try:
        outcome = load(*arguments)
    except ValueError as error:
        outcome = error
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return outcome, peak


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_gives_an_equal_model(fitted, written, data, tmp_path):
    path = tmp_path / "model.skavid"
    path.write_bytes(data.draw(damages(written, head=8 + int.from_bytes(written[:8], "little"))))
    outcome, peak = outcome_of(AVIDDetector.load, path)
    assert peak < 2**22
    if isinstance(outcome, ValueError):
        assert re.match(rf"{re.escape(str(path))} cannot be loaded: [^\n]+\.$", str(outcome))
    else:
        assert_same_model(outcome, fitted)


LEAF = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    | st.sampled_from(["auto", "nan", "cpu", 2**62, 2**64, 10**400, -1])
)  # fmt: skip
MARKS = st.sampled_from(["$tuple", "$array", "$float", "$strings", "kind", "shape", "a"])
JSON = LEAF | st.lists(LEAF, max_size=3) | st.dictionaries(
    MARKS, LEAF | st.lists(LEAF, max_size=3) | st.dictionaries(MARKS, LEAF, max_size=2), max_size=3
)  # fmt: skip

SECTIONS = [
    (), ("parameters",), ("fitted",), ("networks", "inpainter"), ("networks", "detector"),
    ("fitted", "_auto_filters"),
]  # fmt: skip


@settings(max_examples=100)
@given(data=st.data())
def test_a_file_changed_on_purpose_with_a_fitting_checksum_never_crashes(written, data):
    state = json.loads(split(written)[1])
    place = state
    for key in data.draw(st.sampled_from(SECTIONS)):
        place = place[key]
    place[data.draw(st.sampled_from(sorted(place)) | st.text(max_size=2))] = data.draw(JSON)
    header, _, body = split(written)
    changed = join(header, json.dumps(state), body)
    outcome, peak = outcome_of(unpack, changed, AVIDDetector._parameter_constraints)
    assert peak < 2**22
    if isinstance(outcome, ValueError):
        assert re.match(r"This model cannot be loaded: [^\n]+\.$", str(outcome))
    else:
        AVIDDetector()._restore(*outcome)._validate_params()
