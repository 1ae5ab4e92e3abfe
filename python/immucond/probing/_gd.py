"""Gradient descent with exact line search: the attacker of the paper."""

from __future__ import annotations

import numpy as np

from .._validate import FloatArray
from ._problem import Problem


def gd(problem: Problem, steps: int, stop: float) -> tuple[FloatArray, FloatArray]:
    """Excess loss and squared distance to w* per step, until the excess is at most ``stop``.

    Both in the problem's units (``curvature_unit`` times, and its square times).

    ``e <- (1 - eta h) e`` along each eigenvector, ``eta = sum h^2 e^2 / sum h^3 e^2``: the squares
    e^2 are all it takes, and one matrix-vector product gives every moment of theirs.
    """
    h = problem.curvature
    moments = np.vstack([h, np.ones_like(h), h**2, h**3])
    square = problem.error**2
    trace = np.empty((steps + 1, 4))
    for t in range(steps + 1):
        m = np.dot(moments, square, out=trace[t])
        if m[0] <= stop or m[3] == 0.0:
            break
        square *= (1.0 - (m[2] / m[3]) * h) ** 2
    return trace[: t + 1, 0].copy(), trace[: t + 1, 1].copy()
