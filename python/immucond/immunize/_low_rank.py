"""Steps of theta, dense or as a product of thin factors, and what is done with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .._validate import FloatArray

_SAFE = 1e-140  # a norm, of whose squares none that matters is lost


@dataclass(frozen=True)
class LowRank:
    """The (d, m) matrix ``left @ right``, never formed: left is (d, r), right (r, m)."""

    left: FloatArray
    right: FloatArray


Step = FloatArray | LowRank
Weighted = Sequence[tuple[float, Step]]


def norm(step: Step) -> float:
    """Frobenius norm; no square leaves the range of float64."""
    if not isinstance(step, LowRank):
        return _norm(step)
    if step.left.shape[1] == 1:
        return _norm(step.left) * _norm(step.right)
    left, right = _norm(step.left), _norm(step.right)
    if not 0.0 < left < math.inf or not 0.0 < right < math.inf:
        return left * right
    L, R = step.left / left, step.right / right
    return left * right * math.sqrt(max(float(np.vdot(L.T @ L, R @ R.T)), 0.0))


def _norm(x: FloatArray) -> float:
    size = float(np.linalg.norm(x))
    if _SAFE < size < 1.0 / _SAFE or math.isnan(size):
        return size
    unit = float(np.abs(x).max())
    return unit * float(np.linalg.norm(x / unit)) if 0.0 < unit < math.inf else unit


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
