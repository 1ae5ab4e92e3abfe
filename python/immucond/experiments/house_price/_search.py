"""The search for hyper-parameters on the House Price data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .._methods import Tasks
from .._search import Search, candidates, outcome, ranked
from .._units import Progress, Unit, Values, run_units
from ._data import load
from ._methods import GRIDS
from ._run import Settings, chosen_methods, load_again


def search(
    settings: Settings, folder: Path, *, jobs: int = 1, progress: Progress = lambda *_: None
) -> list[Search]:
    """Try every candidate that the folder does not hold yet, for the methods that have a grid."""
    data = load(settings.data_dir, settings.rows)
    found = []
    for name, method in chosen_methods(settings).items():
        if name not in GRIDS:
            continue
        grid = GRIDS[name]
        tried = candidates(grid, method.parameters)
        units = [
            Unit(
                f"search-{name}-{number}",
                {
                    "experiment": "house-price-search",
                    "data": data.fingerprint,
                    "rows": settings.rows,
                    "method": method.fit,
                    "parameters": parameters,
                    "seed": 0,
                },
            )
            for number, parameters in enumerate(tried)
        ]
        values = run_units(
            units, partial(_try, settings.data_dir), folder,
            jobs=jobs, stage=method.label, progress=progress,
        )  # fmt: skip
        tasks = [f"the first {settings.rows} rows of either set"]
        found.append(ranked(method, grid, tried, [[v] for v in values], tasks))
    return found


def _try(data_dir: Path | None, unit: Mapping[str, Any]) -> Values:
    data = load_again(data_dir, unit["rows"], unit["data"])
    P, H = data.primary, data.harmful
    return outcome(unit["method"], Tasks(P.X, P.y, H.X, H.y), unit["parameters"], unit["seed"])
