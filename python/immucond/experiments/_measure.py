"""What experiments measure of an extractor."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import linear, probing
from .._format import brief
from .._show import thin
from .._task import Ranks
from .._validate import FloatArray
from ..linear import ImmunityReport
from ._methods import Fit, Tasks
from ._units import Values

RIDGE = 1e-6
CONVENTIONS = {
    "exact": "kappa over the nonzero eigenvalues of H, ranks decided on the inputs",
    "ridge": f"kappa of H + {brief(RIDGE)} I, as the published code does; it depends on the scale "
    "theta, and the limit does not bound it",
}


def report_as_dict(report: ImmunityReport) -> dict[str, Any]:
    """Return a report with what follows from it."""
    return {
        **asdict(report),
        "i": report.i,
        "ii": report.ii,
        "rir": report.rir,
        "condition_a": report.condition_a,
        "condition_b": report.condition_b,
        "condition_c": report.condition_c,
        "lost_rank": report.lost_rank,
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


def mean_squared_error(predicted: FloatArray, y: FloatArray | float) -> float:
    """Mean squared error of a head's predictions."""
    return float(np.mean((predicted - y) ** 2))


def size(theta: FloatArray) -> float:
    """Root mean square singular value of theta: 1 for the identity."""
    return float(np.linalg.norm(theta) / np.sqrt(theta.shape[1]))
