"""House prices, the paper's regression experiment: ``immucond house-price``."""

from .._experiment import Result
from .._search import as_json as search_as_json
from .._search import table as search_table
from ._data import HousePrice, Task, load
from ._experiment import GRIDS, METHODS, HousePriceExperiment, Settings
from ._report import as_json, figures, tables

run, search = HousePriceExperiment.run, HousePriceExperiment.search

__all__ = [
    "GRIDS",
    "METHODS",
    "HousePrice",
    "HousePriceExperiment",
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
