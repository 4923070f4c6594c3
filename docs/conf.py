"""Sphinx configuration."""

from __future__ import annotations

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
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_title = "skavid"
autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
default_role = "code"
