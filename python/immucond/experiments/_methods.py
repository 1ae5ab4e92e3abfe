"""The methods of an experiment: what each is called, with what it runs, what is measured of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .. import immunize, linear, probing
from .._errors import ImmucondError
from .._format import brief
from .._show import thin
from .._task import root_of_inputs, with_ones
from .._triangle import condensed, triangular
from .._two_tasks import Ranks
from .._validate import FloatArray
from ..linear import ImmunityReport
from ._units import Values

Parameters = Mapping[str, Any]
Source = Literal["none", "published", "searched", "by hand", "closed form"]


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
    source : {"none", "published", "searched", "by hand", "closed form"}
        Where they come from: the paper or its code, our search, a few trials (on one
        pair of digits, or given by the user), or there is nothing to choose.
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

    def seeds(self, count: int) -> range:
        """Seeds that it runs with, where an experiment has so many."""
        return range(count if self.seeded else 1)


def chosen(
    known: Mapping[str, Method],
    names: Sequence[str] | None,
    told: str = "methods must be of {known}, and name {unknown}",
) -> dict[str, Method]:
    """Return the known methods of these names, in the order of the known ones; all by default.

    Raises
    ------
    ValueError
        For other names; `told` is the message.
    """
    wanted = tuple(known) if names is None else names
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(told.format(known=", ".join(known), unknown=", ".join(unknown)))
    return {name: method for name, method in known.items() if name in wanted}


@dataclass(frozen=True)
class Fit:
    """An extractor with its primary head, and how it came about.

    A bias is the row of theta that belongs to an input of ones: :meth:`inputs` appends it.
    """

    theta: FloatArray
    omega: FloatArray
    history: dict[str, FloatArray]
    biased: bool = False

    def inputs(self, X: FloatArray) -> FloatArray:
        """Rows that theta acts on."""
        return with_ones(X) if self.biased else X

    def features(self, X: FloatArray) -> FloatArray:
        """Features of rows X."""
        return self.inputs(X) @ self.theta


class FailedFitError(ImmucondError):
    """A method that reached no extractor; what it said is a result of the experiment too."""


def fit(name: str, tasks: Tasks, parameters: Parameters, seed: int) -> Fit:
    """Immunize by a method of `FITS`.

    Raises
    ------
    FailedFitError
        Where it diverges, or keeps nothing within its tolerance.
    """
    try:
        return FITS[name](tasks, parameters, seed)
    except (ArithmeticError, ImmucondError) as error:
        raise FailedFitError(" ".join(str(error).split())) from error


def middle_of_frontier(tasks: Tasks, delta: tuple[float, float]) -> float:
    """kappa_P at which (i) = 1 / (ii), with delta; 1 where the frontier does not reach it."""
    limit = linear.immunity_limit(X_P=tasks.X_P, X_H=tasks.X_H, delta=delta, ranks=tasks.ranks)
    return max(1.0, limit.kappa_P / limit.rir**0.5) if limit.attained else 1.0


def _identity(tasks: Tasks, _: Parameters, __: int) -> Fit:
    rank = None if tasks.ranks is None else tasks.ranks[0]
    root = root_of_inputs(tasks.X_P, "X_P", rank=rank)
    omega = root.least_squares(tasks.X_P, tasks.y_P)
    return Fit(np.eye(tasks.X_P.shape[1]), omega, {})


def _closed_form(tasks: Tasks, parameters: Parameters, _: int) -> Fit:
    chosen = dict(parameters)
    # Only squared losses and Gram matrices count: fewer rows with the same ones will do.
    X_P, y_P = condensed(tasks.X_P, tasks.y_P[:, None])
    tasks = replace(tasks, X_P=X_P, y_P=y_P[:, 0], X_H=triangular(tasks.X_H))
    if chosen.get("kappa_P") == "middle":
        chosen["kappa_P"] = middle_of_frontier(tasks, chosen["delta"])
    # Of the norm of the identity: in the ridge convention a larger theta looks more immune.
    chosen.setdefault("norm", float(np.sqrt(tasks.X_P.shape[1])))
    return _of(immunize.closed_form(tasks.X_P, tasks.y_P, tasks.X_H, ranks=tasks.ranks, **chosen))


def _fade(tasks: Tasks, parameters: Parameters, _: int) -> Fit:
    # Only Gram matrices and products with the targets count: fewer rows with the same ones will do.
    X_P, y_P = condensed(tasks.X_P, tasks.y_P[:, None])
    X_H, y_H = condensed(tasks.X_H, tasks.y_H[:, None])
    return _of(
        immunize.fade(X_P, y_P[:, 0], X_H, y_H[:, 0], center=False, ranks=tasks.ranks, **parameters)
    )


def _leace(tasks: Tasks, _: Parameters, __: int) -> Fit:
    # Erased in the metric of the harmful rows, which says nothing of the primary ones; and their
    # mean with the labels, for who brings an intercept reads these there.
    X, Y = condensed(tasks.X_H, np.column_stack([tasks.y_H, np.ones(len(tasks.y_H))]))
    rank = None if tasks.ranks is None else tasks.ranks[1]
    theta = linear.fade(
        X, [X, X], [Y[:, :1], Y[:, 1:]], tau=math.inf, center=False, ranks=(rank, None)
    ).theta
    Z, y_P = condensed(tasks.X_P @ theta, tasks.y_P[:, None])
    return Fit(theta, root_of_inputs(Z, "features").least_squares(Z, y_P[:, 0]), {})


def _iterative(
    method: Callable[..., immunize.ImmunizationResult], *rows: str
) -> Callable[..., Fit]:
    def run(tasks: Tasks, parameters: Parameters, seed: int) -> Fit:
        chosen = dict(parameters)
        if "epochs" in chosen:  # of batches: passes over the primary rows
            chosen["steps"] = chosen.pop("epochs") * (len(tasks.X_P) // chosen["batch_size"])
        given = [getattr(tasks, name) for name in rows or ("X_P", "y_P", "X_H")]
        return _of(method(*given, seed=seed, ranks=tasks.ranks, **chosen))

    return run


def _published(tasks: Tasks, parameters: Parameters, seed: int) -> Fit:
    return _of(immunize.published(tasks.X_P, tasks.y_P, tasks.X_H, seed=seed, **parameters))


def _of(result: immunize.ImmunizationResult) -> Fit:
    if result.bias is None:
        return Fit(result.theta, result.omega, result.history)
    theta = np.vstack([result.theta, result.bias])
    return Fit(theta, result.omega, result.history, biased=True)


FITS: dict[str, Callable[[Tasks, Parameters, int], Fit]] = {
    "identity": _identity,
    "algorithm1": _iterative(immunize.algorithm1),
    "r_ill_only": _iterative(immunize.r_ill_only),
    "opt_kappa": _iterative(immunize.opt_kappa),
    "imma": _iterative(immunize.imma, "X_P", "y_P", "X_H", "y_H"),
    "published": _published,
    "closed_form": _closed_form,
    "fade": _fade,
    "leace": _leace,
}


# A baseline: it has no inverse.
LEACE = Method("LEACE", "leace", {}, "closed form", seeded=False)

RIDGE = 1e-6
STEPS = 100  # of plain descent, after which losses are told
CONVENTIONS = {
    "exact": "kappa over the nonzero eigenvalues of H, ranks decided on the inputs",
    "ridge": f"kappa of H + {brief(RIDGE)} I, as the published code does; it depends on the scale "
    "theta, and the limit does not bound it",
}


def report_as_dict(report: ImmunityReport) -> dict[str, Any]:
    """Return a report with what follows from it."""
    follows = ("i", "ii", "rir", "condition_a", "condition_b", "condition_c", "lost_rank")
    return asdict(report) | {name: getattr(report, name) for name in follows}


def limits(X_P: FloatArray, X_H: FloatArray, delta: Any) -> dict[str, linear.ImmunityLimit]:
    """Limit of two tasks as they are, and with delta."""
    return {
        "exact": linear.immunity_limit(X_P=X_P, X_H=X_H),
        "delta": linear.immunity_limit(X_P=X_P, X_H=X_H, delta=delta),
    }


def conventions(
    found: Fit, X_P: FloatArray, X_H: FloatArray, ranks: Ranks | None = None
) -> dict[str, dict[str, Any]]:
    """Report of an extractor in both conventions, by their names."""
    reference = None
    if found.biased:
        # The identity has none; and the ranks are those of the inputs with their ones.
        reference, ranks = np.eye(X_P.shape[1] + 1, X_P.shape[1]), None
    P, H = found.inputs(X_P), found.inputs(X_H)
    return {
        name: report_as_dict(
            linear.immunity(found.theta, P, H, ridge=ridge, reference=reference, ranks=ranks)
        )
        for name, ridge in (("exact", 0.0), ("ridge", RIDGE))
    }


def descent(Z: FloatArray, y: npt.ArrayLike, steps: int, rank: int) -> dict[str, Any]:
    """Curves of gradient descent with exact line search on features, thinned for plotting."""
    trace = probing.probe(Z, y, method="gd", steps=steps, rank=rank)
    t, loss = thin(trace.loss)
    start = trace.loss[0]
    return {
        "kappa": trace.kappa,
        "rank": trace.rank,
        "slow_share": trace.slow_share,
        "best_loss": trace.best_loss / start,
        "step": t,
        "loss": loss / start,
        "norm_ratio": trace.norm_ratio[t],
    }


def descents(tasks: Tasks, found: Fit, steps: int, ranks: tuple[int, int]) -> Values:
    """:func:`descent` of the heads of both tasks on the features of their training rows."""
    return {
        "primary": descent(found.features(tasks.X_P), tasks.y_P, steps, ranks[0]),
        "harmful": descent(found.features(tasks.X_H), tasks.y_H, steps, ranks[1]),
    }


def attacked(tasks: Tasks, found: Fit, y_H: FloatArray, steps: int) -> Values:
    """Let every attacker learn the harmful targets, before and after."""
    return probing.compare(tasks.X_H, found.features(tasks.X_H), y_H, steps=steps).as_dict()


def felt(Z: FloatArray, y: FloatArray, rank: int | None) -> dict[str, float]:
    """Label alignment, and the share of the reducible loss after `STEPS` of plain descent.

    Both are means under the labels' spectral measure, and take one decomposition:
    ``linear.alignment`` without centring, for the heads have no intercept, and descent by steps of
    1 / sigma_1.
    """
    trace = probing.probe(Z, y, method="gd-constant", steps=1, rank=rank)
    if not trace.energy.any():  # erased: none of the loss is reducible
        return {"rho": 0.0, "left": 1.0}
    decay = (1.0 - trace.curvature) ** (2 * STEPS)
    return {"rho": float(trace.energy @ trace.curvature), "left": float(trace.energy @ decay)}


def alignments(
    found: Fit, rows: Mapping[str, Sequence[tuple[FloatArray, FloatArray]]], values: Values
) -> Values:
    """:func:`felt` of both tasks before and after, by rows, after at the ranks of their reports."""
    return {
        name: {
            task: {
                "before": felt(X, y, None),
                "after": felt(found.features(X), y, values[name]["exact"][f"rank_{letter}"]),
            }
            for task, letter, (X, y) in zip(("primary", "harmful"), "PH", both, strict=True)
        }
        for name, both in rows.items()
    }


def losses(
    found: Fit, best: npt.NDArray[Any], rows: Mapping[str, tuple[FloatArray, FloatArray]]
) -> dict[str, dict[str, float]]:
    """Mean squared primary loss with the method's own head and with the best one, by rows."""
    return {
        name: {
            head: float(np.mean((found.features(X) @ omega - y) ** 2))
            for head, omega in (("own", found.omega), ("best", best))
        }
        for name, (X, y) in rows.items()
    }


def size(theta: FloatArray) -> float:
    """Root mean square singular value of theta: 1 for the identity."""
    return float(np.linalg.norm(theta) / np.sqrt(theta.shape[1]))
