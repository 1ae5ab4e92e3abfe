"""Linear probing in the eigenbasis of its Hessian."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._rank import (
    default_rtol,
    numerical_rank,
    rank_rule,
    refuse_more,
    seen_labels,
    tolerance_at,
)
from .._svd import svd
from .._triangle import condensed
from .._validate import FloatArray, as_float64, as_matrix, as_targets, check_real


@dataclass(frozen=True)
class Problem:
    """``min_w ||Z w - y||^2 + mu ||w||^2`` from w = 0, seen from the eigenbasis of its Hessian.

    Gradient descent, Nesterov's method, conjugate gradients and L-BFGS commute with rotations, and
    with one step length for all heads they see only the energy of the error along each eigenvector.
    So k numbers carry a run on N samples, m features and c heads, and rounding mixes no directions.
    Z and y are brought to unit scale, the loss in the caller's units is ``loss_unit`` times ours;
    so is the Hessian, whose largest eigenvalue is ``curvature_unit``.

    Attributes
    ----------
    Z, y : (n, m) and (n, c) array
        Features and targets, condensed to n <= m + c rows.
    weight_decay : float
        mu.
    curvature : (k,) array
        Nonzero eigenvalues of ``Z^T Z`` plus mu, descending, in ``curvature_unit``.
    error : (k,) array
        Norm over the heads of ``w_0 - w*`` along each eigenvector, times ``curvature_unit``.
    minimizer : (m, c) array
        w*, the one nearest to w_0 = 0, times `curvature_unit`.
    best_loss : float
        Loss at w*.
    measure_of_loss : float
        What a loss above the best is relative to: the best, or where the features fit y exactly (to
        rounding), the loss at w = 0.
    rtol : float
        Singular values of Z below it, relative to the largest, count as 0.
    loss_unit : float
        Square of the scale that y had.
    curvature_unit : float
        Largest eigenvalue of ``Z^T Z`` plus mu: the weight decay may put it anywhere.
    basis : (m, k) array
        Eigenvectors of the Hessian.
    head_size : float
        Root mean square entry of a head that fits all of y along the top eigenvector, times
        `curvature_unit`: the natural unit for methods that step along coordinates.
    """

    Z: FloatArray
    y: FloatArray
    weight_decay: float
    curvature: FloatArray
    error: FloatArray
    minimizer: FloatArray
    best_loss: float
    measure_of_loss: float
    rtol: float
    loss_unit: float
    curvature_unit: float
    basis: FloatArray
    head_size: float

    @classmethod
    def of(
        cls,
        Z: npt.ArrayLike,
        y: npt.ArrayLike,
        weight_decay: float,
        rank: int | None,
        computed_in: Any,
        name: str = "Z",
    ) -> Problem:
        """Check the data and solve for the minimizer; `name` is that of the features."""
        given = as_matrix(Z, name)
        rule = rank_rule(
            given.shape, given.dtype, rank=rank, rtol=None, computed_in=computed_in,
            given="features",
        )  # fmt: skip
        A, Z_scale = _to_unit(as_float64(given, name))
        if not A.any():
            raise ValueError(f"{name} is zero: features of rank 0 cannot be probed")
        b, y_scale = _to_unit(as_targets(y, A.shape[0], "y", name))
        mu = check_real(weight_decay, "weight_decay", low=0.0) / Z_scale / Z_scale
        if np.isinf(mu):
            raise OverflowError(
                f"weight_decay = {weight_decay:g} is beyond the float range beside {name}, "
                f"whose largest entry is {Z_scale:.3g}: scale {name} up"
            )

        A, b = condensed(A, b)
        u, s, vt = svd(A, full_matrices=False)
        k, rtol = numerical_rank(s, rule), tolerance_at(s, rule)
        refuse_more(k, s, name)
        u, s, vt = u[:, :k], s[:k], vt[:k]
        unit = float(s[0]) ** 2 + mu
        curvature = (s**2 + mu) / unit
        seen = seen_labels(u.T @ b, s, float(np.linalg.norm(b)), given.shape)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            w = (s / curvature)[:, None] * seen
            error = np.linalg.norm(w, axis=1)
            largest = 1.0 / curvature[-1] + float(error @ error)
        if not np.isfinite(largest):
            raise OverflowError(
                f"kappa or the best head is beyond the float range: the singular values of {name} "
                f"span a factor of {s[0] / s[-1]:.3g}"
            )
        best_loss = float(
            np.sum((b - u @ seen) ** 2) + np.sum((mu / unit / curvature)[:, None] * seen**2)
        )
        start_loss = float(np.sum(b**2))
        exact = best_loss <= default_rtol(A.shape, np.float64) ** 2 * start_loss
        return cls(
            Z=A, y=b, weight_decay=mu, curvature=curvature, error=error, minimizer=vt.T @ w,
            best_loss=best_loss, measure_of_loss=start_loss if exact else best_loss, rtol=rtol,
            loss_unit=y_scale * y_scale, curvature_unit=unit, basis=vt.T,
            head_size=float(s[0] * np.linalg.norm(b)) / math.sqrt(w.shape[1] * A.shape[1]),
        )  # fmt: skip

    @property
    def excess(self) -> float:
        """Excess loss at the start, times ``curvature_unit``."""
        return float(self.error @ (self.curvature * self.error))

    def loss_of(self, excess: FloatArray) -> FloatArray:
        """Losses in the caller's units from excesses in ours."""
        if not np.isfinite(self.loss_unit):
            raise OverflowError("the loss of y is beyond the float range: scale y")
        return (self.best_loss + excess / self.curvature_unit) * self.loss_unit

    def apply(self, e: FloatArray) -> FloatArray:
        """Hessian, in ``curvature_unit``, times an (m, c) error: the gradient there."""
        mu = self.weight_decay / self.curvature_unit
        along = (self.curvature - mu)[:, None] * (self.basis.T @ e)
        return np.asarray(self.basis @ along + mu * e)

    def measure(self, w: FloatArray) -> tuple[float, float]:
        """Excess loss and squared distance to w* of an (m, c) head, all in the problem's units."""
        e = w - self.minimizer
        return float(np.vdot(e, self.apply(e))), float(np.vdot(e, e))


def _to_unit(A: FloatArray) -> tuple[FloatArray, float]:
    scale = float(np.max(np.abs(A))) or 1.0
    return A / scale, scale
