"""Adam: rescales every weight by itself, so it sees the coordinates and not only the spectrum."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ._driver import Step
from ._problem import Problem

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


def adam(problem: Problem, lr: float) -> Iterator[Step]:
    """Kingma & Ba (2015), Algorithm 1, on the full gradient, with a constant step.

    Their epsilon is relative to the size of the gradient that a head of the natural size makes.
    """
    natural = problem.head_size
    w = np.zeros_like(problem.minimizer)
    first, second = np.zeros_like(w), np.zeros_like(w)
    epsilon = _EPSILON * natural
    t = 0
    while True:
        yield problem.measure(w)
        t += 1
        gradient = problem.apply(w - problem.minimizer)
        first = _BETA_1 * first + (1 - _BETA_1) * gradient
        second = _BETA_2 * second + (1 - _BETA_2) * gradient**2
        slope = first / (1 - _BETA_1**t)
        w = w - lr * natural * slope / (np.sqrt(second / (1 - _BETA_2**t)) + epsilon)
