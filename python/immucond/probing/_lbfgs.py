"""L-BFGS with exact line search, ten pairs remembered."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from .._validate import FloatArray
from ._driver import Step
from ._problem import Problem

_MEMORY = 10


def lbfgs(problem: Problem) -> Iterator[Step]:
    """Two-loop recursion of Nocedal & Wright, Numerical Optimization, Algorithm 7.4.

    On a quadratic with exact line search its first steps are those of conjugate gradients; later
    rounding harms it less.
    """
    h, e = problem.curvature, problem.error
    gradient = h * e
    pairs: deque[tuple[FloatArray, FloatArray, float]] = deque(maxlen=_MEMORY)
    while True:
        yield float(e @ (h * e)), float(e @ e)
        direction = -gradient
        remembered = []
        for s, y, curvature in reversed(pairs):
            a = float(s @ direction) / curvature
            direction = direction - a * y
            remembered.append(a)
        if pairs:
            s, y, curvature = pairs[-1]
            direction = direction * (curvature / float(y @ y))
        for (s, y, curvature), a in zip(pairs, reversed(remembered), strict=True):
            direction = direction + (a - float(y @ direction) / curvature) * s
        along = h * direction
        bend = float(direction @ along)
        if bend == 0.0:
            return
        s = -float(gradient @ direction) / bend * direction
        y = h * s
        curvature = float(s @ y)
        if curvature == 0.0 or float(y @ y) == 0.0:
            return
        pairs.append((s, y, curvature))
        e = e + s
        gradient = h * e
