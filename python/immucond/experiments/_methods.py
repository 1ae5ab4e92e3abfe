"""The methods of an experiment: what each is called, and with what it runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .. import immunize, linear
from .._errors import ImmucondError
from .._validate import FloatArray
from ..linear._root import Ranks, root_of_inputs
from ._measure import size

Parameters = Mapping[str, Any]
Source = Literal["none", "published", "searched", "closed form"]


@dataclass(frozen=True)
class Tasks:
    """Training rows and targets of both tasks, and the ranks of the rows where they are known."""

    X_P: FloatArray
    y_P: FloatArray
    X_H: FloatArray
    y_H: FloatArray
    ranks: Ranks | None = None


@dataclass(frozen=True)
class Method:
    """One method as an experiment runs it.

    Attributes
    ----------
    label : str
        What tables and figures call it.
    fit : str
        Name in `FITS`.
    parameters : mapping
        Keyword arguments: its hyper-parameters.
    source : {"none", "published", "searched", "closed form"}
        Where they come from: the paper or its code, our search, or there is nothing to choose.
    paper : (float, float, float) or None
        (i), (ii) and RIR in the paper, ridge convention.
    seeded : bool
        Whether it depends on a seed.
    """

    label: str
    fit: str
    parameters: Parameters
    source: Source
    paper: tuple[float, float, float] | None = None
    seeded: bool = True


@dataclass(frozen=True)
class Fit:
    """An extractor, its primary head where there is one, and how it came about."""

    theta: FloatArray
    omega: FloatArray | None
    history: dict[str, FloatArray]
    warnings: tuple[str, ...] = ()


class FailedFitError(ImmucondError):
    """A method that reached no extractor; what it said is a result of the experiment too."""


def fit(name: str, tasks: Tasks, parameters: Parameters, seed: int) -> Fit:
    """Immunize by a method of `FITS`.

    Raises
    ------
    FailedFitError
        Where it diverges.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = FITS[name](tasks, parameters, seed)
        except (ArithmeticError, ImmucondError) as error:
            raise FailedFitError(" ".join(str(error).split())) from error
    told = tuple(dict.fromkeys(f"{w.category.__name__}: {w.message}" for w in caught))
    return Fit(found.theta, found.omega, found.history, told)


def middle_of_frontier(tasks: Tasks, delta: tuple[float, float]) -> float:
    """kappa_P at which (i) = 1 / (ii), with delta; 1 where the frontier does not reach it."""
    limit = linear.immunity_limit(X_P=tasks.X_P, X_H=tasks.X_H, delta=delta, ranks=tasks.ranks)
    return max(1.0, limit.kappa_P / limit.rir**0.5) if limit.attained else 1.0


def _identity(tasks: Tasks, _: Parameters, __: int) -> Fit:
    rank = None if tasks.ranks is None else tasks.ranks[0]
    root = root_of_inputs(tasks.X_P, "X_P", rank=rank)
    omega = root.least_squares(tasks.X_P, tasks.y_P)
    return Fit(np.eye(tasks.X_P.shape[1]), omega, {})


def _algorithm1(tasks: Tasks, parameters: Parameters, seed: int) -> Fit:
    return _of(
        immunize.algorithm1(
            tasks.X_P, tasks.y_P, tasks.X_H, seed=seed, ranks=tasks.ranks, **parameters
        )
    )


def _closed_form(tasks: Tasks, parameters: Parameters, _: int) -> Fit:
    chosen = dict(parameters)
    if chosen.get("kappa_P") == "middle":
        chosen["kappa_P"] = middle_of_frontier(tasks, chosen["delta"])
    result = immunize.closed_form(tasks.X_P, tasks.y_P, tasks.X_H, ranks=tasks.ranks, **chosen)
    # Of the norm of the identity: in the ridge convention a larger theta looks more immune.
    scale = size(result.theta)
    return Fit(result.theta / scale, result.omega * scale, result.history)


def _of(result: immunize.ImmunizationResult) -> Fit:
    return Fit(result.theta, result.omega, result.history)


FITS: dict[str, Callable[[Tasks, Parameters, int], Fit]] = {
    "identity": _identity,
    "algorithm1": _algorithm1,
    "closed_form": _closed_form,
}
