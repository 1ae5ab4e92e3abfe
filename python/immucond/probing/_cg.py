"""Conjugate gradients: about the square root of gradient descent's steps."""

from __future__ import annotations

from collections.abc import Iterator

from ._driver import Step
from ._problem import Problem


def cg(problem: Problem) -> Iterator[Step]:
    """Run on the normal equations, as ``scipy.sparse.linalg.cg`` does.

    In exact arithmetic it ends after as many steps as there are distinct eigenvalues; in floating
    point a large kappa takes more.
    """
    h, e = problem.curvature, problem.error
    residual = -h * e
    direction = residual
    energy = float(residual @ residual)
    while True:
        yield float(e @ (h * e)), float(e @ e)
        along = h * direction
        bend = float(direction @ along)
        if energy == 0.0 or bend == 0.0:
            return
        alpha = energy / bend
        e = e + alpha * direction
        residual = residual - alpha * along
        previous, energy = energy, float(residual @ residual)
        direction = residual + (energy / previous) * direction
