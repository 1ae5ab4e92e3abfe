"""The experiment: every method and seed a unit of work; immunize, measure, probe."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..._errors import ImmucondError
from ..._output import staged
from .._methods import Method
from .._units import Progress, Unit, Values, run_units
from . import _backbone
from ._immunized import immunized
from ._measure import measured, reloaded
from ._methods import chosen_methods
from ._prepare import loaded, prepared
from ._settings import Settings


@dataclass(frozen=True)
class Result:
    """Outcome of a run.

    Attributes
    ----------
    settings : Settings
        In full.
    fingerprints : dict of str to str
        Of the backbone and of both tasks.
    counts : dict of str to int
        Samples by task and part, classes by task, features.
    trainable : tuple of str
        Names of the trained blocks.
    methods : dict
        :class:`Method` by name.
    units : dict
        Results of each method, one a seed.
    """

    settings: Settings
    fingerprints: dict[str, str]
    counts: dict[str, int]
    trainable: tuple[str, ...]
    methods: dict[str, Method]
    units: dict[str, list[Values]]


def run(
    settings: Settings,
    folder: Path,
    *,
    jobs: int = 1,
    progress: Progress = lambda *_: None,
) -> Result:
    """Run what the folder does not hold yet.

    Parameters
    ----------
    settings : Settings
        Network, tasks, methods and seeds.
    folder : Path
        Keeps one file a finished unit, and a checkpoint of the one under way: an interrupted run
        goes on from there.
    jobs : int, default 1
        Processes; each runs the frozen part of the network for itself.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Raises
    ------
    OSError, ValueError
        Before any work, for a backbone or a data set that is not there or does not fit.
    """
    backbone, primary, harmful = loaded(settings)
    methods = chosen_methods(settings.methods, settings.parameters)
    unwanted = [name for name in settings.save if name not in methods]
    if unwanted:
        raise ValueError(f"save must name methods that run, and names {', '.join(unwanted)}")
    fingerprints = {
        "backbone": backbone.fingerprint,
        "primary": primary.fingerprint,
        "harmful": harmful.fingerprint,
    }
    units, owners = [], []
    for name, method in methods.items():
        for seed in range(settings.seeds if method.seeded else 1):
            parameters = {
                "experiment": "deep",
                **fingerprints,
                "trainable": [*backbone.trainable],
                "batch_size": settings.batch_size,
                "method": method.fit,
                "parameters": {key: _plain(value) for key, value in method.parameters.items()},
                "seed": seed,
                "probe_epochs": settings.probe_epochs,
                "probe_steps": settings.probe_steps,
                "groups": [settings.groups, settings.group_size],
                "attackers": seed == 0,
                "save": seed == 0 and name in settings.save,
                "name": name,
            }
            units.append(Unit(f"{name}-{seed}", parameters))
            owners.append(name)
    work = partial(compute, settings, folder)
    if jobs == 1:  # other processes cannot call it
        work = partial(work, progress=progress)
    found = run_units(units, work, folder, jobs=jobs, progress=progress)
    prepared.cache_clear()
    results: dict[str, list[Values]] = {name: [] for name in methods}
    for name, result in zip(owners, found, strict=True):
        results[name].append(result)
    counts = {
        "P training": len(primary.train.inputs), "P test": len(primary.test.inputs),
        "P classes": len(primary.classes),
        "H training": len(harmful.train.inputs), "H test": len(harmful.test.inputs),
        "H classes": len(harmful.classes),
    }  # fmt: skip
    return Result(settings, fingerprints, counts, backbone.trainable, methods, results)


def _silent(*_: Any) -> None:
    pass


def compute(
    settings: Settings, folder: Path, unit: Mapping[str, Any], progress: Progress = _silent
) -> Values:
    """Immunize by one method, one seed, and measure."""
    here = prepared(settings, folder, progress)
    start = time.perf_counter()
    checkpoint = folder / "checkpoints" / Unit(f"{unit['name']}-{unit['seed']}", unit).file_name
    checkpoint = checkpoint.with_suffix(".pt")
    try:
        done = immunized(here, unit, checkpoint)
    except ImmucondError as error:
        return {"failure": str(error)}
    seconds = time.perf_counter() - start
    values = measured(here, done, unit)
    if unit["save"]:
        place = folder / "models" / unit["name"]
        with staged(place, afresh=True) as stage:
            _backbone.save(here.backbone, done.model, stage)
        values["read_back"] = reloaded(here, done, place)
    checkpoint.unlink(missing_ok=True)
    history = {name: _thinned(series) for name, series in done.history.items()}
    return {"seconds": seconds, **values, "history": history}


def _thinned(series: Any) -> dict[str, Any]:
    places = np.unique(np.linspace(0, len(series) - 1, 200).round().astype(int))
    return {"step": places + 1, "value": np.asarray(series)[places]}


def _plain(value: Any) -> Any:
    return [*value] if isinstance(value, tuple) else value
