"""Immunizing scikit-learn's handwritten digits: one digit primary, another one harmful."""

from ._report import as_json, closing, figures, opening, print_tables
from ._run import Digits, Method, Result, Settings, load, run

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
