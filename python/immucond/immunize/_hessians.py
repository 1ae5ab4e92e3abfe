r"""A task's Hessian ``H(theta) = theta^T K theta``, of all its rows or of a batch of them.

Steps of theta are dense matrices or, wherever they have low rank, products of thin factors.

A regularizer's step by theta is one of four, with G its gradient by H:

- ``"right"``: :math:`2 \theta G = K^{-1} (2 K \theta G)`, without an inverse
- ``"projected"``: :math:`K^+ (2 K \theta G)`, which moves theta on range(K) only
- ``"ridge"``: :math:`(K + \rho I)^{-1} (2 K \theta G)`
- None: the gradient :math:`2 K \theta G` itself
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.linalg

from .._extreme import ExtremePairs, feature_extreme_pairs, psd_extreme_pairs
from .._gram import gram, hessian
from .._regularizers import SpectralRegularizer
from .._svd import svd
from .._task import Root
from .._validate import FloatArray

Preconditioner = Literal["right", "projected", "ridge"]

_TINY = float(np.finfo(np.float64).tiny)
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


@dataclass(frozen=True)
class Evaluated:
    """A regularizer at one Hessian: its value, its step by theta, and the extreme pairs of H."""

    value: float
    step: Step
    pairs: ExtremePairs


class Hessian(ABC):
    """How theta shapes the Hessian of one task.

    Attributes
    ----------
    kappa_identity : float
        Condition number under the identity: that of K.
    """

    kappa_identity: float

    @abstractmethod
    def evaluate(
        self, regularizer: SpectralRegularizer, theta: FloatArray, start: ExtremePairs | None
    ) -> Evaluated:
        """Value, step and pairs; `start` are the pairs of a Hessian nearby."""

    @abstractmethod
    def pairs(self, theta: FloatArray, start: ExtremePairs | None) -> ExtremePairs:
        """Return the extreme pairs alone."""


class FullHessian(Hessian):
    """By the (d, d) Gram matrix of all rows.

    Parameters
    ----------
    X : (N, d) array
        Inputs, in the coordinates of theta.
    root : Root
        Of the inputs as they were given: rank and condition number.
    basis : (D, d) array or None
        Orthonormal basis that took the given inputs to X.
    columns : int
        Number of columns of theta before such a reduction, which R_well counts.
    span : (d, k) array or None
        Basis of what theta's columns span, None for everything.
    preconditioner, ridge
        Which step.
    """

    def __init__(
        self, X: FloatArray, root: Root, basis: FloatArray | None, columns: int,
        span: FloatArray | None, preconditioner: Preconditioner | None, ridge: float,
    ) -> None:  # fmt: skip
        self.root, self.K = root, _gram(X, root.name)
        self.kappa_identity = root.kappa
        # Fixed while theta stays invertible: re-deciding it on a scaled spectrum would misjudge.
        self.rank = root.rank_within(span)
        if self.rank == 0:
            raise ValueError(f"theta maps {root.name} to 0: its Hessian has rank 0 and no kappa")
        self._columns = columns
        self._free = preconditioner is not None
        # What is left of the free step: (K + ridge I)^-1 K, a projector where ridge is 0.
        self._filter: FloatArray | None = None
        if preconditioner in ("projected", "ridge"):
            V = root.range_basis if basis is None else basis.T @ root.range_basis
            if preconditioner == "ridge" and ridge == 0.0 and root.rank < self.K.shape[0]:
                raise ValueError(_not_definite(root.name, ridge))
            s = root.scale * root.sigma[: root.rank]
            added = math.sqrt(ridge) if preconditioner == "ridge" else 0.0
            self._filter = (V * np.square(s / np.hypot(s, added))) @ V.T

    def evaluate(
        self, regularizer: SpectralRegularizer, theta: FloatArray, start: ExtremePairs | None
    ) -> Evaluated:
        value, step, pairs = regularizer.value_and_grad_theta(
            theta, self.K, preconditioned=self._free, rank=self.rank, start=start,
            return_pairs=True, p=self._columns if regularizer.takes_p else None,
        )  # fmt: skip
        if self._filter is not None:
            step = self._filter @ step
        return Evaluated(value, step, pairs)

    def pairs(self, theta: FloatArray, start: ExtremePairs | None) -> ExtremePairs:
        return psd_extreme_pairs(hessian(theta, self.K), rank=self.rank, start=start)

    def log_kappa_gradient(self, theta: FloatArray, pairs: ExtremePairs) -> LowRank:
        """Gradient of log kappa(H) by theta, from the pairs: ``2 K theta G``."""
        ends = np.column_stack([pairs.v_max, pairs.v_min])
        weights = np.array([2.0 / pairs.sigma_max, -2.0 / pairs.sigma_min])
        return LowRank(self.K @ (theta @ ends) * weights, ends.T)


class BatchHessian(Hessian):
    """By the features ``Z = X theta`` of a few rows: all costs grow with d^2, none with d^3.

    With the singular value decomposition ``Z = U diag(s) V^T`` a regularizer r of H = Z^T Z has
    the gradient ``G = V diag(g) V^T``, g that of r on the diagonal matrix of the nonzero
    eigenvalues s^2; R_well counts these alone (``p="rank"``).

    Parameters
    ----------
    X : (B, d) array
        Rows of the batch.
    name : str
        Of the inputs, for messages.
    most : int
        Rank of all rows: a batch has no more.
    computed_in : dtype
        Precision in which they were computed.
    span, preconditioner, ridge
        As for all rows.
    """

    def __init__(
        self, X: FloatArray, name: str, most: int, computed_in: Any, span: FloatArray | None,
        preconditioner: Preconditioner | None, ridge: float,
    ) -> None:  # fmt: skip
        self._X, self._name = X, name
        self._preconditioner, self._ridge = preconditioner, ridge
        found = feature_extreme_pairs(X, computed_in=computed_in)
        if found.rank > most:
            found = feature_extreme_pairs(X, rank=most)
        self.kappa_identity = float(found.condition_number)
        # That of the rows, not of the features: no scale in theta can hide it.
        self.rank = int(found.rank)
        if span is not None:
            self.rank = int(feature_extreme_pairs(X @ span, computed_in=computed_in).rank)

    def evaluate(
        self,
        regularizer: SpectralRegularizer,
        theta: FloatArray,
        start: ExtremePairs | None,  # noqa: ARG002
    ) -> Evaluated:
        Z = self._features(theta)
        U, s, Vt = svd(Z, full_matrices=False)
        U, s, Vt = U[:, : self.rank], s[: self.rank], Vt[: self.rank]
        value, G, pairs = regularizer.value_and_grad(
            np.diag(s * s),
            rank=self.rank,
            p="rank" if regularizer.takes_p else None,
            return_pairs=True,
        )
        g = 2.0 * G.diagonal()
        if self._preconditioner == "right":
            return Evaluated(value, LowRank(theta @ (Vt.T * g), Vt), pairs)
        # A gradient by features, 2 Z G, is A V^T.
        return Evaluated(value, self._step(U * (s * g), Vt), pairs)

    def pairs(self, theta: FloatArray, start: ExtremePairs | None) -> ExtremePairs:  # noqa: ARG002
        return feature_extreme_pairs(self._features(theta), rank=self.rank)

    def _features(self, theta: FloatArray) -> FloatArray:
        Z = self._X @ theta
        if not _TINY <= np.vdot(Z, Z) < np.inf:
            raise OverflowError("the squares of the features are beyond the float range")
        return Z

    def _step(self, A: FloatArray, Vt: FloatArray) -> LowRank:
        """Preconditioned ``X^T A V^T``, through (B, B) matrices."""
        if self._preconditioner == "projected":
            U, s, Wt = svd(self._X, full_matrices=False)
            k = min(self.rank, s.size)
            return LowRank((Wt[:k].T / s[:k]) @ (U[:, :k].T @ A), Vt)
        if self._preconditioner == "ridge":
            factor = _cholesky(self._X @ self._X.T, self._ridge, self._name)
            A = scipy.linalg.cho_solve(factor, A)
        return LowRank(self._X.T @ A, Vt)


def _cholesky(K: FloatArray, ridge: float, name: str) -> Any:
    try:
        return scipy.linalg.cho_factor(K + ridge * np.eye(K.shape[0]))
    except np.linalg.LinAlgError as error:
        raise ValueError(_not_definite(name, ridge)) from error


def _not_definite(name: str, ridge: float) -> str:
    return (
        f"ridge must be large enough that the Gram matrix of {name} plus ridge I is definite, "
        f"got {ridge:g}"
    )


def _gram(X: FloatArray, name: str) -> FloatArray:
    try:
        K = gram(X)
    except OverflowError as error:
        raise OverflowError(
            f"the Gram matrix of {name} is beyond the float range: scale {name} down"
        ) from error
    if K.diagonal().max() < _TINY:
        raise OverflowError(f"the Gram matrix of {name} is below the float range: scale {name} up")
    return K
