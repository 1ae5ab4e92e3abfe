"""The experiment: every method, pair of digits and seed a unit of work."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ... import probing
from ..._condition import condition_number
from ..._validate import FloatArray
from ...linear._limit import limit_of
from ...linear._root import Root, root_of_inputs, span_of
from .._measure import RIDGE, descent, size
from .._methods import FailedFitError, Method, Tasks, fit
from .._units import Progress, Unit, Values, run_units
from ._data import ROUNDING_VARIANCE, Images, load
from ._methods import METHODS

Pair = tuple[int, int]
ALL_PAIRS: tuple[Pair, ...] = tuple(itertools.permutations(range(10), 2))

load_once = lru_cache(maxsize=1)(load)


@dataclass(frozen=True)
class Settings:
    """What a run depends on; the defaults are those of ``immucond mnist``.

    ``noise`` is a variance, of normalized pixels: times the number of rows it is the delta of the
    closed form and of its limit.
    """

    data_dir: Path | None = None
    methods: tuple[str, ...] = tuple(METHODS)
    pairs: tuple[Pair, ...] = ALL_PAIRS
    seeds: int = 1
    protocol: str = "full-batch"
    noise: float = ROUNDING_VARIANCE
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
        Training and held-out images of each digit that plays a part.
    methods : dict
        :class:`Method` by name.
    units : dict
        Results by (method, pair), one a seed.
    limits : dict
        Limits by pair, exact and with delta.
    shown : dict
        Curves and attackers on the first pair, by method.
    """

    settings: Settings
    source: str
    fingerprint: str
    counts: dict[int, tuple[int, int]]
    methods: dict[str, Method]
    units: dict[tuple[str, Pair], list[Values]]
    limits: dict[Pair, Values]
    shown: dict[str, Values]


def run(
    settings: Settings, folder: Path, *, jobs: int = 1, progress: Progress = lambda *_: None
) -> Result:
    """Run what the folder does not hold yet.

    Parameters
    ----------
    settings : Settings
        Data, methods, pairs, seeds and protocol.
    folder : Path
        Keeps one file a finished unit: an interrupted run goes on from there.
    jobs : int, default 1
        Processes.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.
    """
    unknown = [name for name in settings.methods if name not in METHODS]
    if unknown:
        raise ValueError(f"methods must be of {', '.join(METHODS)}, and name {', '.join(unknown)}")
    images = load_once(settings.data_dir)
    counts = images.counts({digit for pair in settings.pairs for digit in pair})
    methods = {name: METHODS[name] for name in METHODS if name in settings.methods}
    common = {"experiment": "mnist", "data": images.fingerprint, "noise": settings.noise}

    wanted: list[tuple[Any, Unit]] = []
    for pair in settings.pairs:
        tag = f"{pair[0]}-{pair[1]}"
        wanted.append((pair, Unit(f"limit-{tag}", {**common, "kind": "limit", "pair": pair})))
        for name, method in methods.items():
            for seed in range(settings.seeds if method.seeded else 1):
                unit = method_unit(common, name, method, pair, seed)
                wanted.append(((name, pair), unit))
    shown = settings.pairs[0]
    for name, method in methods.items():
        unit = method_unit(common, name, method, shown, 0)
        wanted.append(
            (name, Unit(f"probes-{name}-{shown[0]}-{shown[1]}",
                        {**unit.parameters, "kind": "probes", "probe_steps": settings.probe_steps}))
        )  # fmt: skip
    found = run_units(
        [unit for _, unit in wanted], partial(compute, settings.data_dir), folder,
        jobs=jobs, progress=progress,
    )  # fmt: skip

    result = Result(settings, images.source, images.fingerprint, counts, methods, {}, {}, {})
    for (owner, unit), values in zip(wanted, found, strict=True):
        kind = unit.parameters["kind"]
        if kind == "limit":
            result.limits[owner] = values
        elif kind == "probes":
            result.shown[owner] = values
        else:
            result.units.setdefault(owner, []).append(values)
    return result


def method_unit(
    common: Mapping[str, Any], name: str, method: Method, pair: Pair, seed: int
) -> Unit:
    """One method on one pair with one seed."""
    parameters = {
        **common,
        "kind": "immunity",
        "method": method.fit,
        "parameters": dict(method.parameters),
        "pair": pair,
        "seed": seed,
    }
    return Unit(f"{name}-{pair[0]}-{pair[1]}-{seed}", parameters)


def compute(data_dir: Path | None, unit: Mapping[str, Any]) -> Values:
    """Compute a unit by its kind."""
    pair = tuple(unit["pair"])
    P, H = (root(data_dir, digit, False) for digit in pair)
    if unit["kind"] == "limit":
        return _limit(load_once(data_dir), pair, P, H, unit["noise"])
    tasks = tasks_of(data_dir, pair)
    start = time.perf_counter()
    try:
        found = fit(unit["method"], tasks, _with_delta(unit, tasks), unit["seed"])
    except FailedFitError as error:
        return {"failure": str(error)}
    seconds = time.perf_counter() - start
    theta, span = found.theta, span_of(found.theta)
    if unit["kind"] == "probes":
        Z_P, Z_H = tasks.X_P @ theta, tasks.X_H @ theta
        return {
            "curves": {
                "primary": descent(Z_P, tasks.y_P, unit["probe_steps"], P.rank_within(span)),
                "harmful": descent(Z_H, tasks.y_H, unit["probe_steps"], H.rank_within(span)),
            },
            "attackers": probing.compare(
                tasks.X_H, Z_H, tasks.y_H, steps=unit["probe_steps"]
            ).as_dict(),
        }
    held_out = [root(data_dir, digit, True) for digit in pair]
    return {
        "seconds": seconds,
        "size": size(theta),
        "warnings": found.warnings,
        "training": ratios(theta, span, P, H),
        "held_out": ratios(theta, span, *held_out),
        "history": found.history,
    }


@lru_cache(maxsize=20)
def root(data_dir: Path | None, digit: int, held_out: bool) -> Root:
    """Condense a digit's images: what a kappa costs then does not depend on their number."""
    return root_of_inputs(load_once(data_dir).rows(digit, held_out), f"images of digit {digit}")


def tasks_of(data_dir: Path | None, pair: Pair) -> Tasks:
    """Training rows of a pair; every label is 1."""
    X_P, X_H = (load_once(data_dir).rows(digit) for digit in pair)
    P, H = (root(data_dir, digit, False) for digit in pair)
    return Tasks(X_P, np.ones(len(X_P)), X_H, np.ones(len(X_H)), (P.rank, H.rank))


def ratios(theta: FloatArray, span: FloatArray | None, P: Root, H: Root) -> dict[str, Values]:
    """(i), (ii) and RIR in both conventions.

    What :func:`immucond.linear.immunity` reports, without the limit, which is the same for all.
    """
    reports: dict[str, Values] = {}
    for convention in ("exact", "ridge"):
        kappas = []
        for task in (P, H):
            if convention == "exact":
                rank = task.rank_within(span)
                after = condition_number(features=task.matrix @ theta, rank=rank)
                kappas.append((after, task.kappa, rank))
            else:
                rows = task.scale * task.matrix
                before = condition_number(features=rows, ridge=RIDGE)
                after = condition_number(features=rows @ theta, ridge=RIDGE)
                kappas.append((after, before, task.dim))
        (kappa_P, before_P, rank_P), (kappa_H, before_H, rank_H) = kappas
        i, ii = kappa_H / before_H, kappa_P / before_P
        reports[convention] = {
            "kappa_P": kappa_P, "kappa_H": kappa_H, "rank_P": rank_P, "rank_H": rank_H,
            "i": i, "ii": ii, "rir": i / ii,
        }  # fmt: skip
    return reports


def _limit(images: Images, pair: Pair, P: Root, H: Root, noise: float) -> Values:
    counts = images.counts(pair)
    delta_P, delta_H = (noise * counts[digit][0] for digit in pair)
    noisy = limit_of(P.plus(delta_P), H.plus(delta_H), (delta_P, delta_H))
    return {"exact": asdict(limit_of(P, H)), "delta": asdict(noisy)}


def _with_delta(unit: Mapping[str, Any], tasks: Tasks) -> dict[str, Any]:
    """Turn the noise of a pixel into what it adds to the diagonals of the Gram matrices."""
    parameters = dict(unit["parameters"])
    if "delta" in parameters:
        parameters["delta"] = (unit["noise"] * len(tasks.X_P), unit["noise"] * len(tasks.X_H))
    return parameters
