"""The search for hyper-parameters on a few pairs of digits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .._measure import size
from .._methods import FailedFitError, fit
from .._search import Search, candidates, ranked
from .._units import Progress, Unit, Values, run_units
from ._data import load
from ._methods import GRIDS, SEARCH_PAIRS
from ._run import Settings, chosen_methods, load_again, measured, tasks_of


def search(
    settings: Settings, folder: Path, *, jobs: int = 1, progress: Progress = lambda *_: None
) -> list[Search]:
    """Try every candidate that the folder does not hold yet, for the methods that have a grid."""
    images = load(settings.data_dir)
    images.counts({digit for pair in SEARCH_PAIRS for digit in pair})
    found = []
    grids = GRIDS[settings.protocol]
    for name, method in chosen_methods(settings).items():
        if name not in grids:
            continue
        grid = grids[name]
        tried = candidates(grid, method.parameters)
        units = [
            Unit(
                f"search-{name}-{pair[0]}-{pair[1]}",
                {
                    "experiment": "mnist-search",
                    "data": images.fingerprint,
                    "method": method.fit,
                    "parameters": parameters,
                    "pair": pair,
                    "seed": 0,
                },
            )
            for parameters in tried
            for pair in SEARCH_PAIRS
        ]
        values = run_units(
            units, partial(_try, settings.data_dir), folder,
            jobs=jobs, stage=method.label, progress=progress,
        )  # fmt: skip
        width = len(SEARCH_PAIRS)
        outcomes = [values[k * width : (k + 1) * width] for k in range(len(tried))]
        tasks = [f"primary {P}, harmful {H}" for P, H in SEARCH_PAIRS]
        found.append(ranked(method, grid, tried, outcomes, tasks))
    return found


def _try(data_dir: Path | None, unit: Mapping[str, Any]) -> Values:
    images = load_again(data_dir, unit["data"])
    pair = tuple(unit["pair"])
    tasks = tasks_of(images, pair)
    try:
        found = fit(unit["method"], tasks, unit["parameters"], unit["seed"])
    except FailedFitError as error:
        return {"failure": str(error)}
    return {"size": size(found.theta), **measured(images, pair, found, held_out=False)}
