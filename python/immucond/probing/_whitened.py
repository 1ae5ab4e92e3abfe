"""Both tasks' features whitened together: coordinates in which their Gram matrices are diagonal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from .._rank import epsilon, rank_rule
from .._svd import svd
from .._triangle import TriangleAccumulator
from .._validate import Array, FloatArray, as_float64
from ..linear import alignment

_UNUSED = 1e-3  # of a whitened direction: more is no rounding, whatever a rank says
_BLOCK = 2**22  # numbers that are held at once for a block of rows


class ConstantError(ValueError):
    """Harmful features that are the same for all rows, but for rounding."""


class _Columns(NamedTuple):
    """Means and units of the columns of some rows."""

    mean: FloatArray
    square: FloatArray


def blocks(rows: Array, name: str, width: int = 0) -> Iterator[tuple[slice, FloatArray]]:
    """Yield rows as float64, some at once; `width` is that of what is made of a row."""
    step = max(1, _BLOCK // max(rows.shape[1], width))
    for start in range(0, len(rows), step):
        part = slice(start, min(start + step, len(rows)))
        yield part, as_float64(rows[part], name)


def _largest(*tasks: tuple[Array, str]) -> FloatArray:
    largest = np.zeros(tasks[0][0].shape[1])
    for rows, name in tasks:
        for _, block in blocks(rows, name):
            np.maximum(largest, np.abs(block).max(0), out=largest)
    return largest


def _columns(rows: Array, unit: FloatArray, name: str) -> _Columns:
    total, square = np.zeros(len(unit)), np.zeros(len(unit))
    for _, block in blocks(rows, name):
        block = block / unit
        total += block.sum(0)
        square += np.square(block).sum(0)
    mean = total / len(rows)
    # Once more, of what rounding left of the mean.
    rest = sum((block / unit - mean).sum(0) for _, block in blocks(rows, name))
    return _Columns(mean + rest / len(rows), square / len(rows))


@dataclass(frozen=True)
class Whitened:
    """Both tasks' centred features in the coordinates where their Gram matrices are diagonal.

    ``G = (Z / unit - mean) T`` has ``G^T G = N C^2``, and the primary features alike ``N_P S^2``
    (about their own mean), with ``C^2 + S^2 = I``, C falling; ``cross = G^T Y / N`` of centred
    labels. `span` (m, r) is an orthonormal basis of what all these rows use, `noise` the rounding
    in a column.
    """

    unit: FloatArray
    mean: FloatArray
    span: FloatArray
    noise: float
    T: FloatArray
    C: FloatArray
    S: FloatArray
    cross: FloatArray
    shares: FloatArray
    rank: int
    rank_P: int
    kappa: float
    rho: float

    @classmethod
    def of(
        cls, Z: Array, of: Array, classes: int, Z_P: Array, rank: SupportsIndex | None,
        computed_in: Any,
    ) -> Whitened:  # fmt: skip
        m = Z.shape[1]
        coarsest = max((Z.dtype, Z_P.dtype), key=epsilon) if computed_in is None else computed_in
        rule = rank_rule(
            (len(Z) + len(Z_P), m), Z.dtype, rank=rank, rtol=None, computed_in=coarsest,
            given="features",
        )  # fmt: skip
        unit = _largest((Z, "Z"), (Z_P, "Z_P"))
        unit[unit == 0.0] = 1.0
        H, P = _columns(Z, unit, "Z"), _columns(Z_P, unit, "Z_P")
        norms = np.sqrt(H.square + P.square)
        norms[norms == 0.0] = 1.0
        unit, mean, mean_P = unit * norms, H.mean / norms, P.mean / norms
        shares = np.bincount(of, minlength=classes) / len(of)
        one_hot = np.eye(classes) - shares

        stream = TriangleAccumulator(m + classes)
        for part, block in blocks(Z, "Z", m + classes):
            stream.update(np.hstack([block / unit - mean, one_hot[of[part]]]))
        both = stream.R / math.sqrt(len(Z))
        stream = TriangleAccumulator(m)
        for _, block in blocks(Z_P, "Z_P"):
            stream.update(block / unit - mean_P)
        R_H, R_P, labels = both[:m, :m], stream.R / math.sqrt(len(Z_P)), both[:m, m:]

        # Columns had norm 1 before they were centred: rounding in them is rtol itself.
        noise = max(rule.rtol, rule.rounded * math.sqrt(m))
        left, sigma, right = svd(np.vstack([R_H, R_P]), full_matrices=False)
        r = rule.rank or int(np.count_nonzero(sigma > noise))
        ranks = [int(np.count_nonzero(np.linalg.svd(R, compute_uv=False) > noise))
                 for R in (R_H, R_P)]  # fmt: skip
        if r == 0 or ranks[0] == 0:
            raise ConstantError("Z is constant: centred, its rank is 0")
        if sigma[r - 1] == 0.0:
            raise ValueError(
                f"rank is given as {r}, and Z and Z_P have at most {np.count_nonzero(sigma)}"
            )
        turned, C, V = svd(left[:m, :r], full_matrices=False)
        V = V.T
        S = np.linalg.norm(left[m:, :r] @ V, axis=0)
        # What one task's rows do not use is known by its rank: a ridge would make rounding large.
        for rest in (C[ranks[0] :], S[: max(0, r - ranks[1])]):
            rest[rest < _UNUSED] = 0.0
        plain_units = unit / unit.max()
        seen = both * np.concatenate([plain_units, np.ones(classes)])
        sizes = np.linalg.svd(seen[:m, :m], compute_uv=False)
        # Directions whose squares are nothing beside the largest add nothing to rho either.
        counted = min(ranks[0], int(np.count_nonzero(sizes > 1e-100 * sizes[0])))
        return cls(
            unit=unit, mean=mean, span=right[:r].T, noise=noise,
            T=(right[:r].T / sigma[:r]) @ V, C=C, S=S,
            cross=C[:, None] * (turned.T @ labels), shares=shares, rank=ranks[0], rank_P=ranks[1],
            kappa=_kappa(sizes, ranks[0]),
            rho=alignment(seen[:, :m], seen[:, m:], center=False, rank=counted).rho,
        )  # fmt: skip

    def coordinates(self, block: FloatArray) -> FloatArray:
        """Return G of some rows."""
        return np.asarray((block / self.unit - self.mean) @ self.T)

    def outside(self, block: FloatArray) -> int:
        """Count rows with more than rounding where none of both tasks' rows has anything."""
        X = block / self.unit - self.mean
        left = np.linalg.norm(X - (X @ self.span) @ self.span.T, axis=1)
        allowed = 10.0 * self.noise * math.sqrt(X.shape[1]) * np.linalg.norm(X, axis=1)
        return int(np.count_nonzero(left > allowed))

    def scores(self, G: FloatArray, weights: FloatArray) -> FloatArray:
        """Return the probes' scores (n, k, c) of rows in these coordinates."""
        heads = (weights[:, :, None] * self.cross[:, None, :]).reshape(len(weights), -1)
        shape = len(G), weights.shape[1], self.cross.shape[1]
        return np.asarray((G @ heads).reshape(shape) + self.shares)


def _kappa(sigma: FloatArray, rank: int) -> float:
    """Condition number of R^T R over so many eigenvalues; inf where float64 does not tell."""
    with np.errstate(divide="ignore", over="ignore"):
        return float(np.square(sigma[0] / sigma[rank - 1]))
