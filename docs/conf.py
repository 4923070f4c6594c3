"""Sphinx configuration."""

from __future__ import annotations

from sphinx.ext import autosummary

import skavid

project = "skavid"
author = "The skavid developers"
copyright = "2026, The skavid developers"
version = release = skavid.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_title = "skavid"
html_theme_options = {"header_links_before_dropdown": 6}
html_static_path = ["_static"]
html_css_files = ["skavid.css"]
# Single pages need no sidebar.
html_sidebars = {
    page: []
    for page in ("api", "benchmarks", "changelog", "paper_to_code", "quickstart", "rivals")
}
autosummary_generate = True
# The full stop of these abbreviations does not end a summary.
autosummary.WELL_KNOWN_ABBREVIATIONS += ("Eq.", "Fig.", "Sec.")
autodoc_typehints = "none"
numpydoc_show_class_members = False
default_role = "code"

# Every reference must have a target.
nitpicky = True
nitpick_ignore_regex = [
    # Documented by other projects; the build does not use the network.
    (r"py:.*", r"(numpy|sklearn|skorch|torch)\..*"),
]

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "generated/gallery",
    # These examples train for minutes or need data: they are shown, but not run.
    "filename_pattern": r"/(?!demo|digits|hits|ir_mnist|ped2|pictures|surfaces|video)\w+\.py$",
    "within_subsection_order": "FileNameSortKey",
    "capture_repr": (),  # show only what is printed
    "remove_config_comments": True,
    "notebook_extensions": [],  # the scripts take arguments
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,  # they depend on the machine
}
