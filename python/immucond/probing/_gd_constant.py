"""Gradient descent with one step length throughout."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ._driver import Step
from ._problem import Problem


def gd_constant(problem: Problem, lr: float) -> Iterator[Step]:
    """``e <- (1 - lr h) e`` along each eigenvector, h relative to the largest."""
    h = problem.curvature
    moments = np.vstack([h, np.ones_like(h)])
    square = problem.error**2
    factor = (1.0 - lr * h) ** 2
    while True:
        excess, distance = (moments @ square).tolist()
        yield excess, distance
        square *= factor
