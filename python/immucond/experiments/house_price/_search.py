"""The search for Algorithm 1's hyper-parameters on the House Price data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .._methods import Tasks
from .._search import Search, candidates, outcome, ranked, table
from .._table import Table
from .._units import Progress, Unit, Values, run_units
from ._data import load
from ._methods import GRID, METHODS
from ._run import Settings, load_again


def search(
    settings: Settings, folder: Path, *, jobs: int = 1, progress: Progress = lambda *_: None
) -> Search:
    """Try every candidate of the grid that the folder does not hold yet."""
    data = load(settings.data_dir, settings.rows)
    tried = candidates(GRID, METHODS["algorithm1"].parameters)
    units = [
        Unit(
            f"search-{number}",
            {
                "experiment": "house-price-search",
                "data": data.fingerprint,
                "rows": settings.rows,
                "parameters": parameters,
                "seed": 0,
            },
        )
        for number, parameters in enumerate(tried)
    ]
    found = run_units(
        units, partial(_try, settings.data_dir), folder,
        jobs=jobs, stage="candidates", progress=progress,
    )  # fmt: skip
    title = "House Price: hyper-parameters of Algorithm 1"
    return ranked(title, tried, [[values] for values in found], ["the first rows of either set"])


def search_table(found: Search) -> Table:
    """Show the best candidates."""
    return table(found, GRID, METHODS["algorithm1"])


def _try(data_dir: Path | None, unit: Mapping[str, Any]) -> Values:
    data = load_again(data_dir, unit["rows"], unit["data"])
    P, H = data.primary, data.harmful
    return outcome(Tasks(P.X, P.y, H.X, H.y), (P.X, H.X), unit["parameters"], unit["seed"])
