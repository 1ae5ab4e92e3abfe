"""Conjugate gradients: about the square root of gradient descent's steps."""

from __future__ import annotations

import numpy as np

from .._validate import FloatArray
from ._problem import Problem


def cg(problem: Problem, steps: int, stop: float) -> tuple[FloatArray, FloatArray]:
    """Excess loss and squared distance to w* per step, until the excess is at most ``stop``.

    Both in the problem's units (``curvature_unit`` times, and its square times).

    In exact arithmetic it ends after as many steps as there are distinct eigenvalues; in floating
    point a large kappa takes more. Equals ``scipy.sparse.linalg.cg`` on the normal equations.
    """
    h, e = problem.curvature, problem.error
    residual = -h * e
    direction = residual
    energy = float(residual @ residual)
    excess, distance = [float(e @ (h * e))], [float(e @ e)]
    while len(excess) <= steps and excess[-1] > stop and energy > 0.0:
        along = h * direction
        alpha = energy / float(direction @ along)
        e = e + alpha * direction
        residual = residual - alpha * along
        previous, energy = energy, float(residual @ residual)
        direction = residual + (energy / previous) * direction
        excess.append(float(e @ (h * e)))
        distance.append(float(e @ e))
    return np.array(excess), np.array(distance)
