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
    """

    settings: Settings
    source: str
    fingerprint: str
    counts: dict[int, tuple[int, int]]
    methods: dict[str, Method]
    units: dict[tuple[str, Pair], list[Values]]
    limits: dict[Pair, Values]

    @property
    def probed(self) -> dict[str, Values]:
        """First seed on the first pair by method, with curves and attackers."""
        first = {name: self.units[name, self.settings.pairs[0]][0] for name in self.methods}
        return {name: values for name, values in first.items() if "curves" in values}


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
    images = load(settings.data_dir)
    counts = images.counts({digit for pair in settings.pairs for digit in pair})
    methods = {name: METHODS[name] for name in METHODS if name in settings.methods}
    common = {"experiment": "mnist", "data": images.fingerprint, "noise": settings.noise}
    units = {
        ("limits", pair): [Unit(f"limit-{pair[0]}-{pair[1]}", {**common, "pair": pair})]
        for pair in settings.pairs
    }
    for pair in settings.pairs:
        for name, method in methods.items():
            units[name, pair] = [
                Unit(
                    f"{name}-{pair[0]}-{pair[1]}-{seed}",
                    {
                        **common,
                        "pair": pair,
                        "method": method.fit,
                        "parameters": dict(method.parameters),
                        "seed": seed,
                        # Probes attack the first pair alone: they take longer than all else.
                        "probe_steps": settings.probe_steps
                        if pair == settings.pairs[0] and not seed
                        else 0,
                    },
                )
                for seed in range(settings.seeds if method.seeded else 1)
            ]
    found = iter(
        run_units(
            list(itertools.chain(*units.values())), partial(compute, settings.data_dir), folder,
            jobs=jobs, progress=progress,
        )
    )  # fmt: skip
    results = {owner: [next(found) for _ in mine] for owner, mine in units.items()}
    limits = {pair: results.pop(("limits", pair))[0] for pair in settings.pairs}
    return Result(settings, images.source, images.fingerprint, counts, methods, results, limits)


@lru_cache(maxsize=1)
def load_again(data_dir: Path | None, fingerprint: str) -> Images:
    """Load the images once in each process, and see that they are the same ones."""
    images = load(data_dir)
    if images.fingerprint != fingerprint:
        raise ValueError(f"the data in {images.source} changed during the run")
    return images


def compute(data_dir: Path | None, unit: Mapping[str, Any]) -> Values:
    """Compute the limits of a pair, or immunize it by one method and measure."""
    images = load_again(data_dir, unit["data"])
    pair = tuple(unit["pair"])
    P, H = (root(images, digit, False) for digit in pair)
    if "method" not in unit:
        return _limit(images, pair, P, H, unit["noise"])
    tasks = tasks_of(images, pair)
    start = time.perf_counter()
    try:
        found = fit(unit["method"], tasks, _with_delta(unit, tasks), unit["seed"])
    except FailedFitError as error:
        return {"failure": str(error)}
    seconds = time.perf_counter() - start
    theta, span = found.theta, span_of(found.theta)
    held_out = [root(images, digit, True) for digit in pair]
    values: Values = {
        "seconds": seconds,
        "size": size(theta),
        "warnings": found.warnings,
        "training": ratios(theta, span, P, H),
        "held_out": ratios(theta, span, *held_out),
        "history": found.history,
    }
    if unit["probe_steps"]:
        Z_P, Z_H, steps = tasks.X_P @ theta, tasks.X_H @ theta, unit["probe_steps"]
        values["curves"] = {
            "primary": descent(Z_P, tasks.y_P, steps, P.rank_within(span)),
            "harmful": descent(Z_H, tasks.y_H, steps, H.rank_within(span)),
        }
        compared = probing.compare(tasks.X_H, Z_H, tasks.y_H, steps=steps)
        values["attackers"] = compared.as_dict()
    return values


@lru_cache(maxsize=20)
def root(images: Images, digit: int, held_out: bool) -> Root:
    """Condense a digit's images: what a kappa costs then does not depend on their number."""
    return root_of_inputs(images.rows(digit, held_out), f"images of digit {digit}")


def tasks_of(images: Images, pair: Pair) -> Tasks:
    """Training rows of a pair; every label is 1."""
    X_P, X_H = (images.rows(digit) for digit in pair)
    P, H = (root(images, digit, False) for digit in pair)
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
