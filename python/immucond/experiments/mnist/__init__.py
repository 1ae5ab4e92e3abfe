"""MNIST, the paper's classification experiment: ``immucond mnist``."""

from .._search import as_json as search_as_json
from .._search import table as search_table
from ._data import Images, load
from ._figures import figures
from ._methods import METHODS
from ._report import as_json, log_rir, tables
from ._run import ALL_PAIRS, Result, Settings, run
from ._search import search

__all__ = [
    "ALL_PAIRS",
    "METHODS",
    "Images",
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
