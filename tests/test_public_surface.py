"""What users import: names, signatures, docstrings, and nothing that they did not ask for."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from numpydoc.validate import validate

import skavid
import skavid.core
from skavid.components import nested

ROOT = Path(__file__).resolve().parents[1]
MODULES = [name for _, name, _ in pkgutil.iter_modules(skavid.__path__)]
MODULES += [f"core.{name}" for _, name, _ in pkgutil.iter_modules(skavid.core.__path__)]

EXEMPT = {
    "ES01",  # a summary that says all needs no extended one
    "SA01",  # See Also stands where there is something to see
    "RT02",  # what is returned has a name, as in our style
}
SKORCH = {"AVIDNet"}  # its constructor is documented; inherited parts are skorch's
# Methods are shown at work by their class, and nobody calls an exception.
WITHOUT_EXAMPLES = {
    "core.corruption.Corrupted",  # what the functions beside them return and take
    "core.corruption.Neighbours",
    "core.corruption.complementary",  # a part of scoring
    "datasets.load_avenue",  # these need the data
    "datasets.load_magnetic_tiles",
    "datasets.load_mvtec",
    "datasets.load_shanghaitech",
    "datasets.load_ucsd_ped1",
    "datasets.load_ucsd_ped2",
    "datasets.load_umn",
    "core.scene.Scene",
    "core.scene.background",
    "core.scene.learn_scene",
    "core.scene.foreground",
    "core.feature_pair.FeaturePair",  # parts of AVIDDetector
    "core.feature_pair.train",
    "core.feature_training.judge",
    "core.feature_training.train_pair",
    "core.feature_training.warn_if_blind",
    "core.pair.Look",
    "core.pair.Scale",
    "core.pair.Trained",
    "core.pair.both_maps",
    "core.pair.cached_looks",
    "core.pair.iter_looks",
    "core.pair.iter_maps",
    "core.pair.to_pixels",
    "core.pixel_pair.PixelPair",
    "core.pixel_pair.cached_scene",
    "core.pixel_pair.train",
    "core.features.ImageNetFeatures",  # needs the weights of a package
    "core.training.AVIDNet",  # parts of AVIDDetector.fit
    "core.training.scene_of_stacks",
    "core.training.train_networks",
}

# A name that is added is a promise to keep it; one that is taken away breaks somebody's code.
PUBLIC = {
    "skavid": ["AVIDDetector", "NoveltyKFold", "PAPER", "TemporalStacker", "VIDEO", "__version__"],
    "skavid.cli": ["main"],
    "skavid.datasets": [
        "load_avenue",
        "load_folder",
        "load_idx",
        "load_magnetic_tiles",
        "load_mvtec",
        "load_shanghaitech",
        "load_ucsd_ped1",
        "load_ucsd_ped2",
        "load_umn",
        "make_ir_mnist",
        "make_moving_shapes",
    ],
    "skavid.export": ["to_onnx", "verify_onnx", "write_triton"],
    "skavid.hub": ["from_pretrained", "save_pretrained"],
    "skavid.losses": ["LOSSES", "bce", "eq3", "hinge", "lsgan"],
    "skavid.metrics": [
        "aupro_score",
        "cell_scores",
        "clip_auc_score",
        "equal_error_rate",
        "make_map_scorer",
        "pixel_level_auc_score",
        "pixel_level_curve",
        "pixel_level_equal_error_rate",
        "pro_curve",
        "rbdc_score",
        "region_level_auc_score",
        "region_level_equal_error_rate",
        "region_track_curve",
        "tbdc_score",
        "threshold_plane",
    ],
    "skavid.plotting": [
        "HistoryDisplay",
        "IrregularityDisplay",
        "RocDisplay",
        "ScoreOverTimeDisplay",
        "ThresholdPlaneDisplay",
    ],
    "skavid.pyod": ["AVID"],
    "skavid.report": ["write_report"],
    "skavid.distributed": [
        "causal_mean",
        "fit",
        "fit_blocks",
        "maps",
        "score_samples",
        "segment",
        "stack",
    ],
    "skavid.temporal": [
        "FrameStream",
        "TemporalStacker",
        "causal_mean",
        "concatenate_clips",
        "count_still",
    ],
    "skavid.video": [
        "BrokenVideoError",
        "Frame",
        "OverlayWriter",
        "count_frames",
        "draw_overlay",
        "load_frames",
        "read_frames",
        "read_pairs",
        "save_frames",
        "write_overlay",
    ],
}
METHODS = [
    "as_images", "calibrate", "component", "decision_function", "find", "fit", "fit_predict",
    "get_metadata_routing", "get_params", "iter_maps", "load", "maps", "p_values", "pair_",
    "partial_fit",
    "predict", "rule_", "save", "score_samples", "segment", "set_fit_request", "set_params",
    "set_partial_fit_request", "with_thresholds",
]  # fmt: skip
FUNCTIONS = ["datasets", "metrics", "report", "video"]
# What may be given without its name: arrays, and the one thing that a function is about.
POSITIONAL = {
    "make_ir_mnist": ["digits", "labels"],
    "load_idx": ["path"],
    "load_ucsd_ped1": ["folder"],
    "load_ucsd_ped2": ["folder"],
    "load_umn": ["folder"],
    "load_avenue": ["folder"],
    "load_shanghaitech": ["folder"],
    "load_mvtec": ["folder", "category"],
    "load_magnetic_tiles": ["folder"],
    "load_folder": ["folder"],
    "make_moving_shapes": ["n_clips", "n_frames"],
    "equal_error_rate": ["y_true", "y_score"],
    "cell_scores": ["maps", "cell"],
    "clip_auc_score": ["y_true", "y_score", "groups"],
    "pixel_level_curve": ["y_true", "y_score"],
    "aupro_score": ["y_true", "y_score"],
    "region_track_curve": ["y_true", "y_score"],
    "threshold_plane": ["y_true", "residual", "regularity"],
    "count_frames": ["source"],
    "draw_overlay": ["image"],
    "read_frames": ["source"],
    "read_pairs": ["source"],
    "write_overlay": ["path", "frames"],
    "load_frames": ["source"],
    "write_report": ["detector", "path", "X"],
}


def documented():
    """Yield every public name that is defined in the package, with its methods."""
    for module in MODULES:
        loaded = importlib.import_module(f"skavid.{module}")
        for name in getattr(loaded, "__all__", ()):
            thing = getattr(loaded, name)
            if not callable(thing) or not thing.__module__.startswith("skavid"):
                continue
            path = f"{module}.{name}"
            yield path
            if inspect.isclass(thing):
                for method, value in vars(thing).items():
                    described = inspect.isfunction(value) or isinstance(
                        value, classmethod | staticmethod | property
                    )
                    if described and not method.startswith("_"):
                        yield f"{path}.{method}"


def needs_example(path):
    module = max((one for one in MODULES if path.startswith(f"{one}.")), key=len)
    name, *method = path.removeprefix(f"{module}.").split(".")
    thing = getattr(importlib.import_module(f"skavid.{module}"), name)
    is_exception = inspect.isclass(thing) and issubclass(thing, BaseException)
    return not (method or is_exception or path in WITHOUT_EXAMPLES)


@pytest.mark.parametrize("path", sorted(documented()))
def test_public_names_have_numpydoc_docstrings(path):
    exempt = EXEMPT if needs_example(path) else {*EXEMPT, "EX01"}
    if SKORCH & set(path.split(".")) or path.endswith(".forward"):
        exempt = {*exempt, "PR01", "RT01"}
    errors = [error for error in validate(f"skavid.{path}")["errors"] if error[0] not in exempt]
    assert not errors, errors


def test_names_without_examples_are_still_there():
    assert set(documented()) >= WITHOUT_EXAMPLES


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_the_public_names_are_these(module):
    loaded = importlib.import_module(module)
    assert sorted(loaded.__all__) == PUBLIC[module]
    assert all(hasattr(loaded, name) for name in PUBLIC[module])


def test_the_methods_of_the_detector_are_these():
    public = [name for name in dir(skavid.AVIDDetector) if not name.startswith("_")]
    assert public == METHODS


def test_every_name_in_the_reference_is_there():
    reference = (ROOT / "docs" / "api.rst").read_text()
    names = re.findall(r"^   ([\w.]+)$", reference, flags=re.MULTILINE)
    for name in names:
        module, _, last = name.rpartition(".")
        loaded = importlib.import_module(f"skavid.{module}" if module else "skavid")
        assert last in loaded.__all__
    for last in {name for some in PUBLIC.values() for name in some} - {"LOSSES", "__version__"}:
        assert re.search(rf"\b{last}\b", reference), f"docs/api.rst misses {last}"


def test_the_oldest_releases_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *(one for name in ("all", "dev") for one in extras[name])]
    needed += [one for name in re.findall(r"[a-z]+", extras["all"][0])[1:] for one in extras[name]]
    bounds = dict(
        re.match(r"([\w.-]+)(?:\[.*\])?>=([\d.]+)$", one).groups()
        for one in needed
        if not one.startswith("skavid")
    )
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    oldest = dict(line.split("==") for line in lines if "==" in line)
    assert oldest == {name: bound for name, bound in bounds.items() if name in oldest}
    assert {"torch", "scikit-learn", "numpy", "onnx"} <= set(oldest)


def test_parameters_of_the_detector_are_keyword_only_and_match_the_named_sets():
    signature = inspect.signature(skavid.AVIDDetector)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
    for chosen in (skavid.PAPER, skavid.VIDEO):
        skavid.AVIDDetector(**nested(chosen))._validate_params()
        assert set(chosen) <= set(signature.parameters)
    assert set(skavid.AVIDDetector._parameter_constraints) == set(signature.parameters)


@pytest.mark.parametrize("name", sorted(POSITIONAL))
def test_options_of_functions_are_given_by_name(name):
    module = next(f"skavid.{one}" for one in FUNCTIONS if name in PUBLIC[f"skavid.{one}"])
    signature = inspect.signature(getattr(importlib.import_module(module), name))
    positional = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    assert positional == POSITIONAL[name]


def test_importing_skavid_imports_no_extra():
    # pandas is not among them: scikit-learn imports it wherever it is installed.
    code = (
        "import pkgutil, sys, skavid\n"
        "for module in pkgutil.iter_modules(skavid.__path__, 'skavid.'):\n"
        "    __import__(module.name)\n"
        "extras = {'matplotlib', 'av', 'onnx', 'onnxruntime', 'skimage', 'PIL', 'dask',\n"
        "    'safetensors', 'skops'}\n"
        "print(sorted(extras & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    dynamic = project["tool"]["setuptools"]["dynamic"]
    assert dynamic["version"] == {"attr": "skavid.__version__"}


def test_the_version_is_the_installed_one():
    try:
        installed = metadata.version("skavid")
    except metadata.PackageNotFoundError:
        pytest.skip("skavid is imported from its sources, not installed")
    assert installed == skavid.__version__
