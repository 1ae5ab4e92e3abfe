"""Immunizing scikit-learn's handwritten digits: one digit primary, another one harmful."""

from .._experiment import Result
from .._methods import Method
from ._experiment import Digits, DigitsExperiment, Settings, load, run
from ._report import as_json, closing, figures, opening, print_tables

__all__ = [
    "Digits",
    "DigitsExperiment",
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
