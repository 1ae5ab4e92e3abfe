"""House prices, the paper's regression experiment: ``immucond house-price``."""

from .._search import as_json as search_as_json
from .._search import table as search_table
from ._data import HousePrice, Task, load
from ._figures import figures
from ._methods import METHODS
from ._report import as_json, tables
from ._run import Result, Settings, run
from ._search import search

__all__ = [
    "METHODS",
    "HousePrice",
    "Result",
    "Settings",
    "Task",
    "as_json",
    "figures",
    "load",
    "run",
    "search",
    "search_as_json",
    "search_table",
    "tables",
]
