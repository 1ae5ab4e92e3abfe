"""The experiment: every method and seed a unit of work; immunize, measure, probe."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ... import linear, probing
from .._measure import conventions, descent, size
from .._methods import FailedFitError, Method, Tasks, fit
from .._units import Progress, Unit, Values, run_units
from ._data import HousePrice, load
from ._methods import DELTA, METHODS


@dataclass(frozen=True)
class Settings:
    """What a run depends on; the defaults are those of ``immucond house-price``: all methods."""

    data_dir: Path | None = None
    methods: tuple[str, ...] | None = None
    seeds: int = 3
    rows: int = 200
    delta: float = DELTA
    probe_steps: int = 10_000


@dataclass(frozen=True)
class Result:
    """Outcome of a run.

    Attributes
    ----------
    settings : Settings
        In full.
    source, fingerprint : str
        Of the data.
    counts : dict of str to int
        Rows by set.
    limits : dict
        Report of the identity by rows ("training", "held_out") and by "exact" or "delta": limits
        and ranks.
    methods : dict
        :class:`Method` by name.
    units : dict
        Results of each method, one a seed.
    """

    settings: Settings
    source: str
    fingerprint: str
    counts: dict[str, int]
    limits: dict[str, dict[str, Any]]
    methods: dict[str, Method]
    units: dict[str, list[Values]]


def chosen_methods(settings: Settings) -> dict[str, Method]:
    """Methods of a run with the run's delta."""
    wanted = tuple(METHODS) if settings.methods is None else settings.methods
    unknown = [name for name in wanted if name not in METHODS]
    if unknown:
        raise ValueError(f"methods must be of {', '.join(METHODS)}, and name {', '.join(unknown)}")
    return {
        name: replace(method, parameters={**method.parameters, "delta": settings.delta})
        if "delta" in method.parameters
        else method
        for name, method in METHODS.items()
        if name in wanted
    }


def run(
    settings: Settings, folder: Path, *, jobs: int = 1, progress: Progress = lambda *_: None
) -> Result:
    """Run what the folder does not hold yet.

    Parameters
    ----------
    settings : Settings
        Data, methods and seeds.
    folder : Path
        Keeps one file a finished unit: an interrupted run goes on from there.
    jobs : int, default 1
        Processes.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.
    """
    data = load(settings.data_dir, settings.rows)
    methods = chosen_methods(settings)
    units, owners = [], []
    for name, method in methods.items():
        for seed in range(settings.seeds if method.seeded else 1):
            parameters = {
                "experiment": "house-price",
                "data": data.fingerprint,
                "rows": settings.rows,
                "method": method.fit,
                "parameters": dict(method.parameters),
                "seed": seed,
                "probe_steps": settings.probe_steps,
                "attackers": seed == 0,
            }
            units.append(Unit(f"{name}-{seed}", parameters))
            owners.append(name)
    found = run_units(
        units, partial(compute, settings.data_dir), folder, jobs=jobs, progress=progress
    )
    results: dict[str, list[Values]] = {name: [] for name in methods}
    for name, result in zip(owners, found, strict=True):
        results[name].append(result)
    P, H = data.primary, data.harmful
    return Result(
        settings,
        data.source,
        data.fingerprint,
        {
            "P training": len(P.X), "P held-out": len(P.X_held_out),
            "H training": len(H.X), "H held-out": len(H.X_held_out),
        },
        {rows: _limits(data, rows, settings.delta) for rows in ("training", "held_out")},
        methods,
        results,
    )  # fmt: skip


def _limits(data: HousePrice, rows: str, delta: float) -> dict[str, Any]:
    X_P, X_H = _inputs(data, rows)
    return {
        "exact": linear.immunity_limit(X_P=X_P, X_H=X_H),
        "delta": linear.immunity_limit(X_P=X_P, X_H=X_H, delta=delta),
    }


def _inputs(data: HousePrice, rows: str) -> tuple[Any, Any]:
    if rows == "training":
        return data.primary.X, data.harmful.X
    return data.primary.X_held_out, data.harmful.X_held_out


@lru_cache(maxsize=1)
def load_again(data_dir: Path | None, rows: int, fingerprint: str) -> HousePrice:
    """Load the data once in each process, and see that they are the same ones."""
    data = load(data_dir, rows)
    if data.fingerprint != fingerprint:
        raise ValueError(f"the data in {data.source} changed during the run")
    return data


def compute(data_dir: Path | None, unit: Mapping[str, Any]) -> Values:
    """Immunize by one method, one seed, and measure."""
    data = load_again(data_dir, unit["rows"], unit["data"])
    P, H = data.primary, data.harmful
    start = time.perf_counter()
    try:
        found = fit(unit["method"], Tasks(P.X, P.y, H.X, H.y), unit["parameters"], unit["seed"])
    except FailedFitError as error:
        return {"failure": str(error)}
    seconds = time.perf_counter() - start
    Z_P, Z_H = found.features(P.X), found.features(H.X)
    rows = {name: conventions(found, *_inputs(data, name)) for name in ("training", "held_out")}
    exact = rows["training"]["exact"]
    head = np.linalg.lstsq(Z_P, P.y, rcond=1e-10)[0]
    values: Values = {
        "seconds": seconds,
        "size": size(found.theta),
        **rows,
        "loss": {
            name: {
                "own": _mse(found.features(X) @ found.omega, y),
                "best": _mse(found.features(X) @ head, y),
            }
            for name, X, y in (
                ("training", P.X, P.y), ("held_out", P.X_held_out, P.y_held_out),
            )
        },
        "curves": {
            "primary": descent(Z_P, P.y, unit["probe_steps"], exact["rank_P"]),
            "harmful": descent(Z_H, H.y, unit["probe_steps"], exact["rank_H"]),
        },
        "history": found.history,
    }  # fmt: skip
    if unit["attackers"]:
        values["attackers"] = probing.compare(H.X, Z_H, H.y, steps=unit["probe_steps"]).as_dict()
    return values


def _mse(predicted: Any, y: Any) -> float:
    return float(np.mean((predicted - y) ** 2))
