"""Steps of theta, dense or as a product of thin factors, and what is done with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .._validate import FloatArray


@dataclass(frozen=True)
class LowRank:
    """The (d, m) matrix ``left @ right``, never formed: left is (d, r), right (r, m)."""

    left: FloatArray
    right: FloatArray


Step = FloatArray | LowRank
Weighted = Sequence[tuple[float, Step]]


def norm(step: Step) -> float:
    """Frobenius norm."""
    if not isinstance(step, LowRank):
        return float(np.linalg.norm(step))
    if step.left.shape[1] == 1:
        return float(np.linalg.norm(step.left) * np.linalg.norm(step.right))
    square = float(np.vdot(step.left.T @ step.left, step.right @ step.right.T))
    return math.sqrt(max(square, 0.0))


def combined(parts: Weighted, start: FloatArray | None = None) -> FloatArray:
    """``start + sum of weight * step``: one product for all thin factors together."""
    thin = [(weight, step) for weight, step in parts if isinstance(step, LowRank)]
    result = None if start is None else start.copy()
    if thin:
        product = np.hstack([weight * step.left for weight, step in thin]) @ np.vstack(
            [step.right for _, step in thin]
        )
        result = product if result is None else np.add(result, product, out=product)
    for weight, step in parts:
        if not isinstance(step, LowRank):
            result = weight * step if result is None else result + weight * step
    assert result is not None
    return result
