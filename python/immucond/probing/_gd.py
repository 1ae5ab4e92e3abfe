"""Gradient descent with exact line search: the attacker of the paper."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ._driver import Step
from ._problem import Problem


def gd(problem: Problem) -> Iterator[Step]:
    """``e <- (1 - eta h) e`` along each eigenvector, ``eta = sum h^2 e^2 / sum h^3 e^2``.

    The energies h e^2 are all it takes, and one matrix-vector product gives every moment of theirs.
    """
    h = problem.curvature
    moments = np.vstack([np.ones_like(h), 1.0 / h, h, h**2])
    energy = h * problem.error**2
    while True:
        excess, distance, second, third = (moments @ energy).tolist()
        yield excess, distance
        if third == 0.0:
            return
        energy *= (1.0 - (second / third) * h) ** 2
