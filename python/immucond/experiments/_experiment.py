"""The protocol of the experiments, with the one run and the one search that there is.

An experiment says what its data are, which units of work it consists of and what is measured of
each; what is kept, what is computed anew and in how many processes is decided here.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from ._methods import FailedFitError, Fit, Method, Parameters, Tasks, fit, size
from ._search import Grid, Search, candidates, ranked
from ._units import Progress, Unit, Values, run_units, silent


@dataclass(frozen=True)
class Settings:
    """What every run depends on; the defaults are those of the experiment's command.

    Attributes
    ----------
    data_dir : Path or None
        Where the data lie, see the experiment's ``load``.
    methods : tuple of str or None
        Names of the methods to run; all by default.
    seeds : int
        Runs of each method that depends on a seed.
    probe_steps : int
        Most steps of a linear probe.
    """

    data_dir: Path | None = None
    methods: tuple[str, ...] | None = None
    seeds: int = 1
    probe_steps: int = 1000


@dataclass(frozen=True)
class Result:
    """Outcome of a run.

    Attributes
    ----------
    settings : Settings
        In full.
    source, fingerprint : str
        Of the data.
    counts : dict
        Training and held-out rows by set.
    methods : dict
        :class:`Method` by name.
    units : dict
        Results by method, or by (method, pair of tasks): one a seed.
    limits : dict
        Limits "exact" and with "delta", by set of rows or by pair of tasks.
    """

    settings: Any
    source: str
    fingerprint: str
    counts: dict[Any, Any]
    methods: dict[str, Method]
    units: dict[Any, list[Values]]
    limits: dict[Any, Any]


Owner = TypeVar("Owner", bound=Hashable)
S = TypeVar("S")  # settings
D = TypeVar("D")  # data
R = TypeVar("R")  # result


@dataclass(frozen=True)
class Experiment(ABC, Generic[S, D, R]):
    """What runs by units of work: its data, its methods, its plan, and what computes a unit."""

    settings: S

    @abstractmethod
    def load(self) -> D:
        """Load the data."""

    @abstractmethod
    def methods(self) -> dict[str, Method]:
        """Methods that run, by name."""

    @abstractmethod
    def plan(self, data: D, methods: Mapping[str, Method]) -> dict[Any, list[Unit]]:
        """Units of a run, by what `result` has them under."""

    @abstractmethod
    def work(self, folder: Path, progress: Progress | None) -> Callable[[Parameters], Values]:
        """Return what computes a unit; without progress it goes to other processes."""

    @abstractmethod
    def result(self, data: D, methods: dict[str, Method], units: dict[Any, list[Values]]) -> R:
        """Put a run's results together."""

    def check(self, folder: Path, plan: Mapping[Any, Sequence[Unit]]) -> None:
        """Refuse a folder that keeps units, and beside them what is of others."""

    @classmethod
    def run(cls, settings: S, folder: Path, *, jobs: int = 1, progress: Progress = silent) -> R:
        """Run what the folder does not hold yet.

        Parameters
        ----------
        settings : Settings
            Data, methods, seeds, and what else the experiment depends on.
        folder : Path
            Keeps one file a finished unit: an interrupted run goes on from there.
        jobs : int, default 1
            Processes, each of which loads the data for itself.
        progress : callable, optional
            Called as ``progress(stage, done, total)``.

        Raises
        ------
        OSError, ValueError
            Before any work, for data or settings that are not there or do not fit.
        """
        experiment = cls(settings)
        methods, data = experiment.methods(), experiment.load()
        plan = experiment.plan(data, methods)
        experiment.check(folder, plan)
        work = experiment.work(folder, progress if jobs == 1 else None)
        units = run_plan(plan, work, folder, jobs=jobs, progress=progress)
        return experiment.result(data, methods, units)


class LinearExperiment(Experiment[S, D, R]):
    """An experiment on linear extractors, whose hyper-parameters can be searched."""

    name: ClassVar[str]

    @abstractmethod
    def common(self, data: D) -> Parameters:
        """Parameters of every unit, of a run and of a search; ``data`` is the fingerprint."""

    @abstractmethod
    def tasks(self, data: D, unit: Parameters) -> Tasks:
        """Rows that a unit trains on."""

    @abstractmethod
    def measure(self, data: D, unit: Parameters) -> Values:
        """Compute a unit of the plan; a FailedFitError becomes its result."""

    @abstractmethod
    def grid(self, method: str) -> Grid | None:
        """Values of which a search tries every combination; None for a method without a search."""

    @abstractmethod
    def searched(self, data: D) -> dict[str, Parameters]:
        """Name the tasks that a search tries, with what tells each of them in a unit."""

    @abstractmethod
    def reports(self, data: D, unit: Parameters, found: Fit) -> Values:
        """Report on training rows in the conventions "exact" and "ridge", as a search keeps it."""

    def work(self, folder: Path, progress: Progress | None) -> Callable[[Parameters], Values]:  # noqa: ARG002
        """Return what measures a unit."""
        return partial(_measured, self)

    @classmethod
    def search(
        cls, settings: S, folder: Path, *, jobs: int = 1, progress: Progress = silent
    ) -> list[Search]:
        """Try every candidate that the folder does not hold yet, for the methods with a grid.

        The parameters are those of `run`, and so are the errors; one is that there is no grid.
        """
        experiment = cls(settings)
        methods = experiment.methods()
        if not any(map(experiment.grid, methods)):
            raise ValueError(f"there is nothing to search for {', '.join(methods)}")
        data = experiment.load()
        common = {**experiment.common(data), "experiment": f"{cls.name}-search", "seed": 0}
        tasks = experiment.searched(data)
        found = []
        for name, method in methods.items():
            grid = experiment.grid(name)
            if grid is None:
                continue
            tried = candidates(grid, method.parameters)
            plan = {}
            for number, parameters in enumerate(tried):
                chosen = {**common, "method": method.fit, "parameters": parameters}
                plan[number] = [
                    Unit(
                        "-".join(map(str, ["search", name, *task.get("pair", [number])])),
                        {**chosen, **task},
                    )
                    for task in tasks.values()
                ]
            outcomes = run_plan(
                plan, partial(_outcome, experiment), folder,
                jobs=jobs, stage=method.label, progress=progress,
            )  # fmt: skip
            found.append(ranked(method, grid, tried, list(outcomes.values()), list(tasks)))
        return found


def method_units(
    methods: Mapping[str, Method],
    seeds: int,
    common: Parameters,
    of: Callable[[str, int], Parameters] = lambda *_: {},
    stem: str = "",
) -> dict[str, list[Unit]]:
    """Units of every method and seed.

    Parameters
    ----------
    methods : mapping
        By name.
    seeds : int
        Of each method that depends on one.
    common : mapping
        Parameters that all units share.
    of : callable
        Further parameters by method and seed.
    stem : str
        What comes between method and seed in the names of their files.
    """
    return {
        name: [
            Unit(
                f"{name}-{stem}{seed}",
                {**common, "method": method.fit, "parameters": dict(method.parameters),
                 "seed": seed, **of(name, seed)},
            )
            for seed in method.seeds(seeds)
        ]
        for name, method in methods.items()
    }  # fmt: skip


def run_plan(
    plan: Mapping[Owner, Sequence[Unit]],
    compute: Callable[[Parameters], Values],
    folder: Path,
    **options: Any,
) -> dict[Owner, list[Values]]:
    """:func:`run_units` of several owners' units at once."""
    found = iter(run_units(list(chain(*plan.values())), compute, folder, **options))
    return {owner: [next(found) for _ in units] for owner, units in plan.items()}


def immunized(tasks: Tasks, unit: Parameters) -> tuple[Fit, Values]:
    """Immunize as a unit says; with the time, the size of theta and the history for its result."""
    start = time.perf_counter()
    found = fit(unit["method"], tasks, unit["parameters"], unit["seed"])
    seconds = time.perf_counter() - start
    return found, {"seconds": seconds, "size": size(found.theta), "history": found.history}


def _measured(experiment: LinearExperiment[Any, Any, Any], unit: Parameters) -> Values:
    try:
        return experiment.measure(_loaded(experiment, unit["data"]), unit)
    except FailedFitError as error:
        return {"failure": str(error)}


def _outcome(experiment: LinearExperiment[Any, Any, Any], unit: Parameters) -> Values:
    """Measure a candidate of a search on training rows, or tell how it failed."""
    data = _loaded(experiment, unit["data"])
    try:
        found = fit(unit["method"], experiment.tasks(data, unit), unit["parameters"], unit["seed"])
        return {"size": size(found.theta), **experiment.reports(data, unit, found)}
    except FailedFitError as error:
        return {"failure": str(error)}


@lru_cache(maxsize=1)
def _loaded(experiment: LinearExperiment[Any, Any, Any], fingerprint: str) -> Any:
    """Load the data once in each process, and see that they are the same ones."""
    data = experiment.load()
    if data.fingerprint != fingerprint:
        raise ValueError(f"the data in {data.source} changed during the run")
    return data
