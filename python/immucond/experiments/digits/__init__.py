"""Immunizing scikit-learn's handwritten digits: one digit primary, another one harmful."""

from ._data import Digits, load
from ._figures import figures
from ._report import as_json, closing, opening, print_tables
from ._run import Method, Result, Settings, run

__all__ = [
    "Digits",
    "Method",
    "Result",
    "Settings",
    "as_json",
    "closing",
    "figures",
    "load",
    "opening",
    "print_tables",
    "run",
]
