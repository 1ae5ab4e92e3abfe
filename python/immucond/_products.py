"""Sums and products in twice the working precision: of rows that are still at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core
from ._ranks import Ranks
from ._validate import Array, FloatArray, as_matrix


def two_sum(a: FloatArray, b: FloatArray | float) -> tuple[FloatArray, FloatArray]:
    """Return a + b and what rounding took from it (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


class RowProduct:
    """``(x, e) -> 4^-e X^T (X x)`` in double-double, for rows X in blocks, of all ranks."""

    def __init__(self, rows: Sequence[npt.ArrayLike], d: int, group: Any) -> None:
        self._ranks = None if group is None else Ranks(group)
        refused: Exception | None = None
        try:
            self._blocks = _blocks_of(rows, d)
            self.count = sum(map(len, self._blocks))
        except (TypeError, ValueError) as error:
            refused, self.count = error, -1
        if self._ranks is not None:  # a rank that is refused leaves none waiting
            counts = [int(n[0]) for n in self._ranks.gathered(np.array([self.count]))]
            if refused is None and min(counts) < 0:
                refused = ValueError(f"rows are refused on rank {counts.index(-1)}")
            self.count = sum(counts)
        if refused is not None:
            raise refused

    def __call__(
        self, hi: FloatArray, lo: FloatArray, exponent: int
    ) -> tuple[FloatArray, FloatArray]:
        parts = [_core.gram_product(block, x=(hi, lo), exponent=exponent) for block in self._blocks]
        total = _sum_of_halves(parts, len(hi))
        if self._ranks is not None:
            total = _sum_of_halves(self._ranks.gathered(np.stack(total)), len(hi))
        return total


def _blocks_of(rows: Sequence[npt.ArrayLike], d: int) -> list[Array]:
    if not isinstance(rows, Sequence):
        raise TypeError(f"rows must be a sequence of blocks, and is a {type(rows).__name__}")
    blocks = [as_matrix(block, "rows") for block in rows if np.shape(block) != (0, d)]
    for block in blocks:
        if block.shape[1] != d:
            raise ValueError(f"rows must have {d} columns, and a block has {block.shape[1]}")
        if not np.isfinite(block).all():
            raise ValueError("rows must be finite, and hold NaN or infinity")
    return blocks


def _sum_of_halves(parts: Sequence[Any], d: int) -> tuple[FloatArray, FloatArray]:
    """Sum vectors in double-double, in their order."""
    total, rest = np.zeros(d), np.zeros(d)
    for hi, lo in parts:
        total, lost = two_sum(total, hi)
        rest += lost + lo
    return two_sum(total, rest)
