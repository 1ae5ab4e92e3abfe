"""Sphinx configuration: sphinx-build --fail-on-warning docs docs/_build."""

from importlib.metadata import version as installed_version

project = "immucond"
author = "the immucond developers"
copyright = f"2026, {author}"
release = version = installed_version("immucond")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings tell types and shapes
napoleon_google_docstring = False
napoleon_use_ivar = True
strip_signature_backslash = True  # napoleon then keeps the underscore of attributes such as theta_

html_theme = "furo"
html_title = f"immucond {release}"
