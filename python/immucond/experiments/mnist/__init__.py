"""MNIST, the paper's classification experiment: ``immucond mnist``."""

from .._search import as_json as search_as_json
from .._search import table as search_table
from .._sources import Images
from .._sources import load_images as load
from ._experiment import (
    ALL_PAIRS,
    GRIDS,
    METHODS,
    NAMES,
    SEARCH_PAIRS,
    MnistExperiment,
    Pair,
    Result,
    Settings,
)
from ._report import as_json, figures, log_rir, tables

run, search = MnistExperiment.run, MnistExperiment.search

__all__ = [
    "ALL_PAIRS",
    "GRIDS",
    "METHODS",
    "NAMES",
    "SEARCH_PAIRS",
    "Images",
    "MnistExperiment",
    "Pair",
    "Result",
    "Settings",
    "as_json",
    "figures",
    "load",
    "log_rir",
    "run",
    "search",
    "search_as_json",
    "search_table",
    "tables",
]
