"""A least-squares solve: the attacker whom no condition number slows."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from .._validate import FloatArray
from ._problem import Problem


def lstsq(problem: Problem, steps: int, stop: float) -> tuple[FloatArray, FloatArray]:  # noqa: ARG001
    """Excess loss and squared distance to w* before and after one solve on the features.

    Both in the problem's units, as those of `gd`. Run on the features by ``scipy.linalg.lstsq``
    (pivoted QR), so that what kappa costs in digits shows.
    """
    Z, y, mu = problem.Z, problem.y, problem.weight_decay
    A, b = Z, y
    if mu > 0.0:
        m = Z.shape[1]
        A = np.vstack([Z, np.sqrt(mu) * np.eye(m)])
        b = np.vstack([y, np.zeros((m, y.shape[1]))])
    w = scipy.linalg.lstsq(A, b, cond=problem.rtol, lapack_driver="gelsy")[0]
    e, unit = problem.error, problem.curvature_unit
    start = float(e @ (problem.curvature * e))
    reached = float(np.sum((A @ w - b) ** 2)) - problem.best_loss
    return (
        np.array([start, max(0.0, reached) * unit]),
        np.array([float(e @ e), float(np.sum(((w - problem.minimizer) * unit) ** 2))]),
    )
