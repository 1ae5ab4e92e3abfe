"""The search for Algorithm 1's hyper-parameters on a few pairs of digits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ...linear._root import span_of
from .._measure import size
from .._methods import FailedFitError, fit
from .._search import Search, candidates, ranked, table
from .._table import Table
from .._units import Progress, Unit, Values, run_units
from ._data import load
from ._methods import GRID, METHODS, SEARCH_PAIRS
from ._run import Settings, load_again, ratios, root, tasks_of


def search(
    settings: Settings, folder: Path, *, jobs: int = 1, progress: Progress = lambda *_: None
) -> Search:
    """Try every candidate of the grid that the folder does not hold yet."""
    images = load(settings.data_dir)
    images.counts({digit for pair in SEARCH_PAIRS for digit in pair})
    tried = candidates(GRID, METHODS["algorithm1"].parameters)
    units = [
        Unit(
            f"search-{number}-{pair[0]}-{pair[1]}",
            {
                "experiment": "mnist-search",
                "data": images.fingerprint,
                "parameters": parameters,
                "pair": pair,
                "seed": 0,
            },
        )
        for number, parameters in enumerate(tried)
        for pair in SEARCH_PAIRS
    ]
    found = run_units(
        units, partial(_try, settings.data_dir), folder,
        jobs=jobs, stage="candidates", progress=progress,
    )  # fmt: skip
    width = len(SEARCH_PAIRS)
    outcomes = [found[k * width : (k + 1) * width] for k in range(len(tried))]
    tasks = [f"primary {P}, harmful {H}" for P, H in SEARCH_PAIRS]
    return ranked("MNIST: hyper-parameters of Algorithm 1", tried, outcomes, tasks)


def search_table(found: Search) -> Table:
    """Show the best candidates."""
    return table(found, GRID, METHODS["algorithm1"])


def _try(data_dir: Path | None, unit: Mapping[str, Any]) -> Values:
    images = load_again(data_dir, unit["data"])
    P, H = (root(images, digit, False) for digit in unit["pair"])
    tasks = tasks_of(images, tuple(unit["pair"]))
    try:
        found = fit("algorithm1", tasks, unit["parameters"], unit["seed"])
    except FailedFitError as error:
        return {"failure": str(error)}
    return {"size": size(found.theta), **ratios(found.theta, span_of(found.theta), P, H)}
