"""GPTQ's update from a triangle R with R^T R = X^T X: nothing is inverted, nothing damped."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Grid:
    """2^bits equally spaced values for each output: scale (k - zero), with zero itself on it."""

    scale: Array
    zero: Array
    top: int

    @classmethod
    def of(cls, W: Array, bits: int) -> "Grid":
        """Span each row of the weights W (outputs, inputs)."""
        low, high, top = np.minimum(W.min(1), 0.0), np.maximum(W.max(1), 0.0), 2**bits - 1
        scale = np.where(high > low, high - low, 1.0) / top
        return cls(scale, np.round(-low / scale), top)

    def nearest(self, w: Array) -> Array:
        """Round one weight of each output."""
        return self.scale * (np.clip(np.round(w / self.scale + self.zero), 0, self.top) - self.zero)


def factor(R: Array, rank: int) -> tuple[Array, Array]:
    """Return T (rank, m), upper triangular first, and an order: R[:, order] = Q T.

    Columns beyond the rank stand last: each is a combination of those before it.
    """
    _, pivots = scipy.linalg.qr(R, mode="r", pivoting=True)
    basis, dependent = np.sort(pivots[:rank]), np.sort(pivots[rank:])
    order = np.concatenate([basis[::-1], dependent])  # quantized from the back, as GPTQ's order
    (T,) = scipy.linalg.qr(R[:, order], mode="r")
    return T[:rank], order


def quantize(W: Array, R: Array, rank: int, grid: Grid) -> Array:
    """Quantize W (outputs, m) column by column, later columns making up for earlier ones."""
    T, order = factor(R, rank)
    W, E = W[:, order], np.zeros_like(W)  # what is still to be made up for: W - quantized
    for k in reversed(range(W.shape[1])):
        wanted = W[:, k]
        if k < rank:
            wanted = wanted + E[:, k + 1 :] @ (T[k, k + 1 :] / T[k, k])
        E[:, k] = W[:, k] - grid.nearest(wanted)
    quantized = np.empty_like(W)
    quantized[:, order] = W - E
    return quantized
