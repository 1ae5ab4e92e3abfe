"""The MNIST experiment: its methods with their hyper-parameters, and what it measures."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..._condition import condition_number
from ..._task import Root, root_of_inputs, span_of, with_ones
from ..._triangle import condensed
from ..._validate import FloatArray
from ...linear.of_roots import limit_of
from .. import _experiment
from .._experiment import immunized, method_units
from .._methods import (
    LEACE,
    RIDGE,
    Fit,
    Method,
    Parameters,
    Source,
    Tasks,
    attacked,
    chosen,
    descents,
    felt,
)
from .._search import Grid
from .._sources import ROUNDING_VARIANCE, Images, load_images
from .._units import Unit, Values

Pair = tuple[int, int]
ALL_PAIRS: tuple[Pair, ...] = tuple(itertools.permutations(range(10), 2))

_IDENTITY = Method("identity", "identity", {}, "none", seeded=False)
_FADE = Method("fade", "fade", {"tau": 1e4, "delta": "rounding"}, "closed form", seeded=False)
_CLOSED_FORM = Method(
    "closed form",
    "closed_form",
    {"delta": "rounding", "kappa_P": "middle"},
    "closed form",
    seeded=False,
)


# What `immucond mnist --search` tries, every combination, by protocol. Theta feels lr times a
# weight, and lr alone moves the head only: where theta moves by R_well, R_ill or kappa, it stays
# the paper's.
GRIDS: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {
    "full-batch": {
        "r-ill-only": {"lr": (5e-3,), "lambda_H": tuple(10.0**k for k in range(15, 22))},
        "imma": {"lr": (1e-3, 1e-2, 1e-1), "lambda_H": (0.1, 1.0, 10.0), "inner_steps": (1, 4)},
        "opt-kappa": {
            "lr": (5e-3,),
            # At 1000 the first step takes theta's top singular value through 0, at 10 kappa_H
            # grows until it leaves float64 behind: more of either is not stable.
            "lambda_P": (10.0, 30.0, 100.0, 300.0),
            "lambda_H": (0.1, 0.3, 1.0, 3.0),
        },
        "algorithm1": {
            "lr": (5e-3,),
            "lambda_P": (1e-5, 2e-5, 4e-5, 8e-5),
            "lambda_H": (5e16, 1e17, 2e17, 4e17),
        },
    },
    "mini-batch": {  # by a tenth of the run
        "r-ill-only": {
            "epochs": (3,),
            "lr": (5e-3,),
            "lambda_H": tuple(10.0**k for k in range(9, 16)),
        },
        "algorithm1": {
            "epochs": (3,),
            "lr": (5e-3,),
            "lambda_P": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
            "lambda_H": (1e10, 1e11, 1e12, 1e13, 1e14),
        },
    },
}
# Top eigenvectors that lie apart (0, 1) and close together: the easiest and the hardest pairs.
SEARCH_PAIRS = ((0, 1), (9, 4), (8, 5))


def _protocol(
    protocol: str,
    steps: Mapping[str, Any],
    hessians: Mapping[str, Any],
    weights: Mapping[str, Mapping[str, float]],
) -> dict[str, Method]:
    """Methods with what a protocol says of their steps and of the Hessians they see.

    Weights of one protocol are not those of the other: eigenvalues of a batch are as much smaller
    as it is, and R_well steps by their first power, R_ill by their inverse third.
    """

    def iterative(name: str, label: str, fit: str, parameters: Mapping[str, Any]) -> Method:
        source: Source = "searched" if name in GRIDS[protocol] else "by hand"
        chosen = {"loss": "logistic", **steps, **parameters, "lr": 5e-3, **weights[name]}
        return Method(label, fit, chosen, source)

    # kappa differs by four orders of magnitude among the digits: no fixed weights suit all pairs.
    balance = {"balance": "gradient-norm"}
    right = {"preconditioner": "right"}
    return {
        "identity": _IDENTITY,
        "r-ill-only": iterative("r-ill-only", "R_ill only", "r_ill_only", {**hessians, **right}),
        "imma": iterative("imma", "IMMA", "imma", {}),
        "opt-kappa": iterative("opt-kappa", "Opt kappa", "opt_kappa", {**hessians, **balance}),
        "algorithm1": iterative("algorithm1", "Algorithm 1", "algorithm1", hessians),
        "closed-form": _CLOSED_FORM,
        "fade": _FADE,
        "leace": LEACE,
    }


METHODS = {
    "full-batch": _protocol(
        "full-batch",
        {"steps": 30},
        {},
        {
            "r-ill-only": {"lambda_H": 1e19},
            "imma": {"lr": 1e-3, "lambda_H": 0.1, "inner_steps": 4},
            "opt-kappa": {"lambda_P": 300.0, "lambda_H": 3.0},
            "algorithm1": {"lambda_P": 4e-5, "lambda_H": 1e17},
        },
    ),
    "mini-batch": {
        **_protocol(
            "mini-batch",
            {"epochs": 30, "batch_size": 64},
            {"hessian": "batch"},
            {
                "r-ill-only": {"lambda_H": 1e14},
                "imma": {"lr": 1e-3, "lambda_H": 0.1, "inner_steps": 4},
                "opt-kappa": {"lambda_P": 1.0, "lambda_H": 0.01},
                "algorithm1": {"lambda_P": 3e-3, "lambda_H": 1e12},
            },
        ),
        "published": Method(
            "Algorithm 1, published code",
            "published",
            {"loss": "logistic", "lambda_P": 1.0, "lambda_H": 5e7, "lr": 1e-3, "epochs": 30,
             "ridge": (1.0, 1e-7)},
            "published",
        ),
    },
}  # fmt: skip
NAMES = tuple(METHODS["mini-batch"])


@dataclass(frozen=True)
class Settings(_experiment.Settings):
    """What a run depends on; the defaults are those of ``immucond mnist``.

    Attributes
    ----------
    pairs : tuple of (int, int)
        Primary and harmful digits. The first pair is probed too, which takes longer than all else.
    protocol : str
        Of `METHODS`.
    noise : float
        A variance, of normalized pixels: times the number of rows it is the delta of the closed
        form, of its limit and of fade.
    """

    pairs: tuple[Pair, ...] = ALL_PAIRS
    protocol: str = "full-batch"
    noise: float = ROUNDING_VARIANCE


@dataclass(frozen=True)
class Result(_experiment.Result):
    """Outcome of a run; units are by (method, pair)."""

    @property
    def probed(self) -> dict[str, Values]:
        """First seed on the first pair by method, with curves and attackers."""
        found = {name: self.units[name, self.settings.pairs[0]][0] for name in self.methods}
        return {name: values for name, values in found.items() if "curves" in values}


class MnistExperiment(_experiment.LinearExperiment[Settings, Images, Result]):
    """Pairs of digits: a unit is a method on a pair with a seed, or the limits of a pair."""

    name = "mnist"

    def load(self) -> Images:
        """Load the images."""
        return load_images(self.settings.data_dir)

    def methods(self) -> dict[str, Method]:
        """Methods of the protocol."""
        protocol = self.settings.protocol
        told = f"the {protocol} protocol has the methods {{known}}, and not {{unknown}}"
        return chosen(METHODS[protocol], self.settings.methods, told)

    def grid(self, method: str) -> Grid | None:
        """Values that a search by the protocol combines."""
        return GRIDS[self.settings.protocol].get(method)

    def common(self, data: Images) -> Parameters:
        """Parameters of every unit."""
        return {"experiment": self.name, "data": data.fingerprint, "centred": False}

    def plan(self, data: Images, methods: Mapping[str, Method]) -> dict[Any, list[Unit]]:
        """Units by (method, pair); limits by ("limits", pair)."""
        pairs, steps = self.settings.pairs, self.settings.probe_steps
        data.counts({digit for pair in pairs for digit in pair})
        common = {**self.common(data), "noise": self.settings.noise}
        plan: dict[Any, list[Unit]] = {
            ("limits", (P, H)): [Unit(f"limit-{P}-{H}", {**common, "pair": (P, H)})]
            for P, H in pairs
        }
        for pair in pairs:

            def probe(_: str, seed: int, pair: Pair = pair) -> Parameters:
                return {"probe_steps": steps if pair == pairs[0] and not seed else 0}

            units = method_units(
                methods,
                self.settings.seeds,
                {**common, "pair": pair},
                probe,
                "{}-{}-".format(*pair),
            )
            plan |= {(name, pair): mine for name, mine in units.items()}
        return plan

    def searched(self, data: Images) -> dict[str, Parameters]:
        """Return a few pairs that stand for all."""
        data.counts({digit for pair in SEARCH_PAIRS for digit in pair})
        return {f"primary {P}, harmful {H}": {"pair": (P, H)} for P, H in SEARCH_PAIRS}

    def tasks(self, data: Images, unit: Parameters) -> Tasks:
        """Training rows of a pair; every label is 1."""
        X_P, X_H = (data.rows(digit) for digit in unit["pair"])
        P, H = (_root(data, digit, False) for digit in unit["pair"])
        return Tasks(X_P, np.ones(len(X_P)), X_H, np.ones(len(X_H)), (P.rank, H.rank))

    def measure(self, data: Images, unit: Parameters) -> Values:
        """Compute the limits of a pair, or immunize it by one method and measure."""
        pair = tuple(unit["pair"])
        if "method" not in unit:
            return self._limits(data, pair)
        tasks = self.tasks(data, unit)
        parameters = dict(unit["parameters"])
        if "delta" in parameters:
            delta = self._delta(len(tasks.X_P), len(tasks.X_H))
            parameters["delta"] = delta[0] if unit["method"] == "fade" else delta
        found, values = immunized(tasks, {**unit, "parameters": parameters})
        values["training"] = _measured(data, pair, found, held_out=False)
        values["held_out"] = _measured(data, pair, found, held_out=True)
        values["alignment"] = {
            rows: {
                task: _felt(data, digit, found, values[rows]["exact"][f"rank_{letter}"], rows)
                for task, letter, digit in zip(("primary", "harmful"), "PH", pair, strict=True)
                if (rows, task) != ("held_out", "primary")
            }
            for rows in ("training", "held_out")
        }
        if unit["probe_steps"]:
            exact, steps = values["training"]["exact"], unit["probe_steps"]
            values["curves"] = descents(tasks, found, steps, (exact["rank_P"], exact["rank_H"]))
            signs = np.random.default_rng(0).choice([-1.0, 1.0], size=len(tasks.X_H))
            values["attackers"] = attacked(tasks, found, signs, steps)
        return values

    def reports(self, data: Images, unit: Parameters, found: Fit) -> Values:
        """Report on training rows."""
        return _measured(data, tuple(unit["pair"]), found, held_out=False)

    def result(
        self, data: Images, methods: dict[str, Method], units: dict[Any, list[Values]]
    ) -> Result:
        """Put a run's results together."""
        pairs = self.settings.pairs
        limits = {pair: units.pop(("limits", pair))[0] for pair in pairs}
        counts = data.counts({digit for pair in pairs for digit in pair})
        return Result(self.settings, data.source, data.fingerprint, counts, methods, units, limits)

    def _delta(self, *rows: int) -> tuple[float, ...]:
        """Return what the noise of a pixel adds to the diagonals of the Gram matrices."""
        return tuple(self.settings.noise * count for count in rows)

    def _limits(self, data: Images, pair: tuple[int, ...]) -> Values:
        P, H = (_root(data, digit, False) for digit in pair)
        counts = data.counts(pair)
        delta_P, delta_H = self._delta(*(counts[digit][0] for digit in pair))
        noisy = limit_of(P.plus(delta_P), H.plus(delta_H), (delta_P, delta_H))
        return {"exact": asdict(limit_of(P, H)), "delta": asdict(noisy)}


@lru_cache(maxsize=40)
def _root(images: Images, digit: int, held_out: bool, biased: bool = False) -> Root:
    """Condense a digit's images: what a kappa costs then does not depend on their number."""
    X = images.rows(digit, held_out)
    return root_of_inputs(with_ones(X) if biased else X, f"images of digit {digit}")


@lru_cache(maxsize=40)
def _ridge_kappa(images: Images, digit: int, held_out: bool) -> float:
    """Condition number of a digit's images with the ridge."""
    task = _root(images, digit, held_out)
    return condition_number(features=task.scale * task.matrix, ridge=RIDGE)


@lru_cache(maxsize=40)
def _labelled(images: Images, digit: int, held_out: bool) -> tuple[FloatArray, FloatArray]:
    """Condense a digit's images with their label 1, which an input of ones is too."""
    X = images.rows(digit, held_out)
    return condensed(X, np.ones((len(X), 1)))


def _felt(images: Images, digit: int, found: Fit, rank: int, rows: str) -> Values:
    X, y = _labelled(images, digit, rows == "held_out")
    Z = np.hstack([X, y]) @ found.theta if found.biased else X @ found.theta
    before = _felt_before(images, digit, rows == "held_out")
    return {"before": before, "after": felt(Z, y[:, 0], rank)}


@lru_cache(maxsize=40)
def _felt_before(images: Images, digit: int, held_out: bool) -> dict[str, float]:
    X, y = _labelled(images, digit, held_out)
    return felt(X, y[:, 0], _root(images, digit, held_out).rank)


def _measured(images: Images, pair: tuple[int, ...], found: Fit, *, held_out: bool) -> Values:
    """(i), (ii) and RIR in both conventions.

    What :func:`immucond.linear.immunity` reports, without the limit, which is the same for all.
    """
    span = span_of(found.theta)
    kappas: dict[str, list[tuple[float, float, int]]] = {"exact": [], "ridge": []}
    for digit in pair:
        task, before = (_root(images, digit, held_out, biased) for biased in (found.biased, False))
        rank = task.rank_within(span)
        features = task.matrix @ found.theta
        kappas["exact"].append((condition_number(features=features, rank=rank), before.kappa, rank))
        after = condition_number(features=task.scale * features, ridge=RIDGE)
        kappas["ridge"].append((after, _ridge_kappa(images, digit, held_out), rank))
    return {
        convention: {
            "kappa_P": kappa_P, "kappa_H": kappa_H, "rank_P": rank_P, "rank_H": rank_H,
            "i": kappa_H / before_H, "ii": kappa_P / before_P,
            "rir": (kappa_H / before_H) / (kappa_P / before_P),
        }
        for convention, ((kappa_P, before_P, rank_P), (kappa_H, before_H, rank_H)) in kappas.items()
    }  # fmt: skip
