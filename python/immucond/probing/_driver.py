"""The loop that every attacker shares."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from .._validate import FloatArray

# What a method yields at each step, from t = 0 on: excess loss and squared distance to w*, in the
# problem's units (``curvature_unit`` times the one, its square times the other).
Step = tuple[float, float]


def drive(method: Iterator[Step], steps: int, stop: float) -> tuple[FloatArray, FloatArray]:
    """Excess loss and squared distance by step, until `steps` are done or the excess is low.

    A method that returns has arrived as near as it can.
    """
    taken: list[Step] = []
    for step in islice(method, steps + 1):
        taken.append(step)
        if step[0] <= stop:
            break
    excess, distance = np.array(taken).T
    return excess.copy(), distance.copy()
