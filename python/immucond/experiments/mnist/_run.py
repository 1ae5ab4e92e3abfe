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
from ..._task import Root, root_of_inputs, span_of, with_ones
from ...linear.of_roots import limit_of
from .._measure import RIDGE, descent, size
from .._methods import FailedFitError, Fit, Method, Tasks, fit
from .._units import Progress, Unit, Values, run_units
from ._data import ROUNDING_VARIANCE, Images, load
from ._methods import METHODS

Pair = tuple[int, int]
ALL_PAIRS: tuple[Pair, ...] = tuple(itertools.permutations(range(10), 2))


@dataclass(frozen=True)
class Settings:
    """What a run depends on; the defaults are those of ``immucond mnist``.

    ``methods`` are all those of the protocol by default. ``noise`` is a variance, of normalized
    pixels: times the number of rows it is the delta of the closed form and of its limit.
    """

    data_dir: Path | None = None
    methods: tuple[str, ...] | None = None
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
    methods = chosen_methods(settings)
    images = load(settings.data_dir)
    counts = images.counts({digit for pair in settings.pairs for digit in pair})
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


def chosen_methods(settings: Settings) -> dict[str, Method]:
    """Methods of a run by name."""
    known = METHODS[settings.protocol]
    wanted = tuple(known) if settings.methods is None else settings.methods
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(
            f"the {settings.protocol} protocol has the methods {', '.join(known)}, and not "
            f"{', '.join(unknown)}"
        )
    return {name: method for name, method in known.items() if name in wanted}


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
    values: Values = {
        "seconds": seconds,
        "size": size(found.theta),
        "training": measured(images, pair, found, held_out=False),
        "held_out": measured(images, pair, found, held_out=True),
        "history": found.history,
    }
    if unit["probe_steps"]:
        Z_P, Z_H = found.features(tasks.X_P), found.features(tasks.X_H)
        rank_P, rank_H = (values["training"]["exact"][key] for key in ("rank_P", "rank_H"))
        steps = unit["probe_steps"]
        values["curves"] = {
            "primary": descent(Z_P, tasks.y_P, steps, rank_P),
            "harmful": descent(Z_H, tasks.y_H, steps, rank_H),
        }
        signs = np.random.default_rng(0).choice([-1.0, 1.0], size=len(Z_H))
        compared = probing.compare(tasks.X_H, Z_H, signs, steps=steps)
        values["attackers"] = compared.as_dict()
    return values


@lru_cache(maxsize=40)
def root(images: Images, digit: int, held_out: bool, biased: bool = False) -> Root:
    """Condense a digit's images: what a kappa costs then does not depend on their number."""
    X = images.rows(digit, held_out)
    return root_of_inputs(with_ones(X) if biased else X, f"images of digit {digit}")


def tasks_of(images: Images, pair: Pair) -> Tasks:
    """Training rows of a pair; every label is 1."""
    X_P, X_H = (images.rows(digit) for digit in pair)
    P, H = (root(images, digit, False) for digit in pair)
    return Tasks(X_P, np.ones(len(X_P)), X_H, np.ones(len(X_H)), (P.rank, H.rank))


def measured(images: Images, pair: Pair, found: Fit, *, held_out: bool) -> dict[str, Values]:
    """(i), (ii) and RIR in both conventions.

    What :func:`immucond.linear.immunity` reports, without the limit, which is the same for all.
    """
    span = span_of(found.theta)
    kappas: dict[str, list[tuple[float, float, int]]] = {"exact": [], "ridge": []}
    for digit in pair:
        task, before = (root(images, digit, held_out, biased) for biased in (found.biased, False))
        rank = task.rank_within(span)
        features = task.matrix @ found.theta
        kappas["exact"].append((condition_number(features=features, rank=rank), before.kappa, rank))
        after = condition_number(features=task.scale * features, ridge=RIDGE)
        kappas["ridge"].append((after, ridge_kappa(images, digit, held_out), rank))
    return {
        convention: {
            "kappa_P": kappa_P, "kappa_H": kappa_H, "rank_P": rank_P, "rank_H": rank_H,
            "i": kappa_H / before_H, "ii": kappa_P / before_P,
            "rir": (kappa_H / before_H) / (kappa_P / before_P),
        }
        for convention, ((kappa_P, before_P, rank_P), (kappa_H, before_H, rank_H)) in kappas.items()
    }  # fmt: skip


@lru_cache(maxsize=40)
def ridge_kappa(images: Images, digit: int, held_out: bool) -> float:
    """Condition number of a digit's images with the ridge."""
    task = root(images, digit, held_out)
    return condition_number(features=task.scale * task.matrix, ridge=RIDGE)


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
