"""What users import: names, signatures, docstrings, and nothing that they did not ask for."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from importlib import metadata

import pytest
from numpydoc.validate import validate

import skavid

MODULES = [name for _, name, _ in pkgutil.iter_modules(skavid.__path__)]

EXEMPT = {
    "ES01",  # a summary that says all needs no extended one
    "EX01",  # examples stand where they teach: estimators, data sets, metrics, corruptions
    "SA01",  # See Also stands where there is something to see
    "RT02",  # what is returned has a name, as in our style
    "RT03",  # and may begin with a symbol
    "GL01",  # text begins on the line of the quotes
    "YD01",
}
SKORCH = {"AVIDNet"}  # its constructor is documented; inherited parts are skorch's


def documented():
    """Yield every public name that is defined in the package, with its methods."""
    for module in MODULES:
        loaded = importlib.import_module(f"skavid.{module}")
        for name in loaded.__all__:
            thing = getattr(loaded, name)
            if not callable(thing) or not thing.__module__.startswith("skavid"):
                continue
            path = f"skavid.{module}.{name}"
            yield path
            if inspect.isclass(thing):
                for method, value in vars(thing).items():
                    if not method.startswith("_") and inspect.isfunction(value):
                        yield f"{path}.{method}"


@pytest.mark.parametrize("path", sorted(documented()))
def test_public_names_have_numpydoc_docstrings(path):
    found = validate(path)
    errors = [error for error in found["errors"] if error[0] not in EXEMPT]
    if path.split(".")[2] in SKORCH or path.endswith(".forward"):
        errors = [error for error in errors if error[0] not in {"PR01", "RT01"}]
    assert not errors, errors


def test_the_public_names_are_these():
    assert sorted(skavid.__all__) == [
        "AVIDDetector", "NoveltyKFold", "PAPER", "TemporalStacker", "VIDEO", "__version__",
    ]  # fmt: skip


def test_every_module_says_what_it_holds_and_on_which_floor_it_stands():
    for module in MODULES:
        loaded = importlib.import_module(f"skavid.{module}")
        assert "Floor " in loaded.__doc__


def test_parameters_of_the_detector_are_keyword_only_and_match_the_named_sets():
    signature = inspect.signature(skavid.AVIDDetector)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
    for chosen in (skavid.PAPER, skavid.VIDEO):
        skavid.AVIDDetector(**chosen)._validate_params()
        assert set(chosen) <= set(signature.parameters)
    assert set(skavid.AVIDDetector._parameter_constraints) == set(signature.parameters)


def test_importing_skavid_imports_no_extra():
    code = (
        "import sys, skavid\n"
        "extras = {'matplotlib', 'av', 'onnx', 'onnxruntime', 'skimage', 'PIL', 'dask'}\n"
        "print(sorted(extras & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_version_stands_in_one_place():
    try:
        installed = metadata.version("skavid")
    except metadata.PackageNotFoundError:
        pytest.skip("skavid is imported from its sources, not installed")
    assert installed == skavid.__version__
