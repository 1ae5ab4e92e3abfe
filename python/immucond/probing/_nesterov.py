"""Nesterov's accelerated gradient, told the condition number: an attacker at his best."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ._driver import Step
from ._problem import Problem


def nesterov(problem: Problem) -> Iterator[Step]:
    """Step 1 / sigma_max, momentum ``(sqrt(kappa) - 1) / (sqrt(kappa) + 1)``.

    Nesterov, Introductory Lectures on Convex Optimization (2004), scheme (2.2.11).
    """
    h, e = problem.curvature, problem.error
    root = np.sqrt(h[-1])  # 1 / sqrt(kappa)
    momentum = (1.0 - root) / (1.0 + root)
    ahead = e
    while True:
        yield float(e @ (h * e)), float(e @ e)
        previous, e = e, ahead - h * ahead
        ahead = e + momentum * (e - previous)
