"""Sphinx configuration: sphinx-build --fail-on-warning docs docs/_build."""

import os
import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the extensions beside this file
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TQDM_DISABLE", "1")  # bars of what examples load

from gallery_setup import executed

project = "immucond"
author = "The immucond authors"
copyright = f"2026, {author}"
release = version = installed_version("immucond")

extensions = [
    "checks",
    "mathml",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "unbroken",
]
exclude_patterns = ["_build", "examples"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {
    name: name for name in ("ArrayLike", "FloatArray", "npt.ArrayLike", "Ranks", "Value")
}
python_maximum_signature_line_length = 88
napoleon_google_docstring = False
napoleon_use_ivar = True
strip_signature_backslash = True  # napoleon then keeps the underscore of attributes such as theta_

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": executed(),
    "within_subsection_order": "gallery_setup.Order",
    "reset_modules": ("gallery_setup.look",),
    "image_srcset": ["2x"],
    "abort_on_example_error": True,
    "run_stale_examples": True,  # the library may have changed where the script has not
    "remove_config_comments": True,
    "write_computation_times": False,
    "show_signature": False,
    "plot_gallery": True,
}

ALIAS = re.compile(r"TypeAliasForwardRef\('(?:npt\.)?(\w+)'\)")

html_math_renderer = "mathml"
html_static_path = ["_static"]
html_theme = "furo"
html_title = f"immucond {release}"


def start_attribute(app, what, name, obj, options, lines):
    """Keep napoleon from reading "Definition 3.1 (a): ..." as a type: annotations tell types."""
    if what in ("attribute", "data", "property") and lines:
        lines[:0] = ["..", ""]  # a comment without text


def short_types(app, what, name, obj, options, signature, returns):
    """Show an alias by its name, as the source has it."""
    shown = (text and ALIAS.sub(r"\1", text) for text in (signature, returns))
    return tuple(shown)


def setup(app):
    app.connect("autodoc-process-signature", short_types)
    app.connect("autodoc-process-docstring", start_attribute, priority=400)
