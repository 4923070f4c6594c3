"""What the documentation shows: its code runs, and its API page is complete."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import runpy
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

import skavid
import skavid.core

DOCS = Path(__file__).resolve().parents[1] / "docs"
CODE = re.compile(r"^\.\. code-block:: python\n\n((?:(?: {3}.*)?\n)+)", flags=re.MULTILINE)
PAGES = [*DOCS.glob("*.rst"), *DOCS.glob("user_guide/*.rst"), *DOCS.glob("how_to/*.rst")]
CODE_OF = {
    path.relative_to(DOCS).as_posix(): [textwrap.dedent(code) for code in found]
    for path in PAGES
    if (found := CODE.findall(path.read_text()))
}
GALLERY = runpy.run_path(str(DOCS / "conf.py"))["sphinx_gallery_conf"]
EXAMPLES = [
    path
    for path in sorted((DOCS.parent / "examples").glob("*.py"))
    if re.search(GALLERY["filename_pattern"], path.as_posix())
]


@pytest.mark.parametrize("page", sorted(CODE_OF))
def test_the_code_of_every_page_runs(page, tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in CODE_OF[page]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # The pages train on a handful of images, for a moment.
            warnings.filterwarnings("ignore", "X (holds|has) [0-9,]+ (image|clip)", UserWarning)
            warnings.filterwarnings("ignore", "The detector cannot tell synth", UserWarning)
            exec(compile(code, page, "exec"), names)


def test_code_was_found_on_the_pages_that_show_some():
    assert {"quickstart.rst", "user_guide/video.rst", "how_to/gpu.rst"} <= set(CODE_OF)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_that_the_gallery_runs_draw_something(path, tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path.name])
    monkeypatch.setattr(pyplot, "show", lambda: None)
    runpy.run_path(str(path), run_name="__main__")
    assert pyplot.get_fignums()


def test_the_gallery_runs_no_example_that_trains_for_minutes():
    assert {"corruptions", "stacks"} <= {path.stem for path in EXAMPLES}
    long = {"demo", "digits", "hits_and_misses", "ir_mnist", "ped2", "pictures", "video_limits"}
    assert not long & {path.stem for path in EXAMPLES}


def test_the_api_page_lists_every_public_name_once():
    listed = re.findall(r"^   ([\w.]+)$", (DOCS / "api.rst").read_text(), flags=re.MULTILINE)
    addresses: dict[object, set[str]] = {}  # a thing may be passed on by a module above
    modules = [name for _, name, _ in pkgutil.iter_modules(skavid.__path__)]
    modules += [f"core.{name}" for _, name, _ in pkgutil.iter_modules(skavid.core.__path__)]
    for module in modules:
        loaded = importlib.import_module(f"skavid.{module}")
        for name in loaded.__all__:
            if inspect.isroutine(thing := getattr(loaded, name)) or inspect.isclass(thing):
                address = name if name in skavid.__all__ else f"{module}.{name}"
                addresses.setdefault(thing, set()).add(address)
    assert set(listed) <= set().union(*addresses.values())
    for names in addresses.values():
        assert sum(address in names for address in listed) == 1, names


def test_every_name_of_the_package_that_a_page_refers_to_exists():
    for path in PAGES:
        for address in re.findall(r"`(?:~)?(skavid(?:\.\w+)+)`", path.read_text()):
            thing = skavid
            for part in address.split(".")[1:]:
                if inspect.ismodule(thing) and not hasattr(thing, part):
                    importlib.import_module(f"{thing.__name__}.{part}")
                assert hasattr(thing, part), f"{path.name} refers to {address}"
                thing = getattr(thing, part)
