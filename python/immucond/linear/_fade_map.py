"""The map that fades labels: two factors, what is told of it, and its products with features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._condition import condition_number
from .._display import Columns, Tabular, by_task
from .._rank import default_rtol
from .._task import Root
from .._validate import FloatArray, as_heads, as_rows
from ._alignment_limit import live_null_basis, one_or_all, orthonormal, protection
from ._factored import Factored
from ._labelled import LabelledTask

Form = Literal["near", "whitened"]


@dataclass(frozen=True, eq=False)
class FadeMap(Tabular):
    """``A = I - (1 - 1/sqrt(tau)) left right^T`` with ``right^T left = I``, or its whitened form.

    An array to NumPy (``np.asarray(fade)``), and ``Z @ fade`` maps features without forming it.

    Attributes
    ----------
    left, right : (d, r) array
        Factors of the projector ``Pi = left right^T`` onto what fades.
    tau : float
        By which the eigenvalues that carry harmful labels shrink; ``inf`` erases them.
    form : {"near", "whitened"}
        As asked for.
    protected : float
        Share of the primary head, in the whitened features, outside what fades; NaN where the
        primary labels were not given.
    delta : float
        What was added to the diagonal of K_P; `kappa_P`, `kappa_P_before`, `moved`, `limit` and
        `protected` are those of the sum.
    whitening : (d, d) array or None
        ``A`` in whitened form, which is no small change of the identity.
    """

    left: FloatArray
    right: FloatArray
    tau: float
    form: Form
    protected: float
    delta: float
    whitening: FloatArray | None
    _given: Root | Factored
    _tasks: tuple[LabelledTask, ...]

    @property
    def _primary(self) -> Root:
        return self._given.root

    @property
    def shape(self) -> tuple[int, int]:
        """``(d, d)``."""
        return (self.left.shape[0],) * 2

    @property
    def theta(self) -> FloatArray:
        """(d, d) array A."""
        return self._right_of(np.eye(self.shape[0]))

    @property
    def inverse(self) -> FloatArray:
        """(d, d) array A^-1; the head ``A^-1 omega`` keeps every primary prediction."""
        return self.solve(np.eye(self.shape[0]))

    def solve(self, omega: npt.ArrayLike) -> FloatArray:
        """Return ``A^-1 omega`` without forming the inverse."""
        head = as_heads(omega, self.shape[0])
        if math.isinf(self.tau):
            raise ValueError("tau is infinite: what is erased has no inverse")
        if self.whitening is not None:
            return np.asarray(np.linalg.solve(self.whitening, head))
        return np.asarray(head + (math.sqrt(self.tau) - 1.0) * (self.left @ (self.right.T @ head)))

    def _right_of(self, Z: FloatArray) -> FloatArray:
        if self.whitening is not None:
            return np.asarray(Z @ self.whitening)
        share = 1.0 - 1.0 / math.sqrt(self.tau)
        return np.asarray(Z - share * ((Z @ self.left) @ self.right.T))

    def __rmatmul__(self, Z: npt.ArrayLike) -> FloatArray:
        return self._right_of(as_rows(Z, self.shape[0], "Z"))

    def __matmul__(self, omega: npt.ArrayLike) -> FloatArray:
        head = as_heads(omega, self.shape[0])
        if self.whitening is not None:
            return np.asarray(self.whitening @ head)
        share = 1.0 - 1.0 / math.sqrt(self.tau)
        return np.asarray(head - share * (self.left @ (self.right.T @ head)))

    # NumPy leaves the product Z @ fade to us.
    __array_ufunc__ = None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> FloatArray:
        if copy is False:
            raise ValueError("a map of low rank becomes an array by a copy alone")
        return self.theta.astype(np.float64 if dtype is None else dtype, copy=False)

    @cached_property
    def rho_before(self) -> float | tuple[float, ...]:
        """Alignment of the harmful labels with the features as they were (one number a task)."""
        return one_or_all([task.rho() for task in self._tasks])

    @cached_property
    def rho(self) -> float | tuple[float, ...]:
        """Alignment of the harmful labels under the map; 0, but for rounding, where erased."""
        return one_or_all([self._rho_of(task) for task in self._tasks])

    def _rho_of(self, task: LabelledTask) -> float:
        features = self._right_of(task.matrix)
        found = task.rho(features)
        if math.isfinite(self.tau):
            return found
        # What rounding leaves of labels that are erased.
        size = 1.0 + float(np.linalg.norm(self.left) * np.linalg.norm(self.right))
        left = default_rtol(self.shape, np.float64) * size * float(np.linalg.norm(task.matrix))
        return found if math.sqrt(found) * float(np.linalg.norm(features, 2)) > left else 0.0

    @cached_property
    def kappa_P_before(self) -> float:
        """Condition number of K_P."""
        return self._primary.kappa

    @cached_property
    def kappa_P(self) -> float:
        """Condition number of ``H_P = A^T K_P A``; NaN where nothing is left of it."""
        left = self._given.rank - self._erased
        if not left:
            return math.nan
        return condition_number(features=self._right_of(self._given.matrix), rank=left)

    @property
    def _erased(self) -> int:
        """Dimensions of range(K_P) that an infinite tau takes."""
        if not math.isinf(self.tau):
            return 0
        return int(orthonormal(self._given.matrix @ self.left, self.left.shape).shape[1])

    @cached_property
    def limit(self) -> float | tuple[float, ...]:
        """No invertible map has a smaller rho at this ``kappa_P`` (see `alignment_limit`).

        0 for a K_P that is singular in directions that the harmful rows use.
        """
        P = self._primary
        if math.isinf(self.tau) or any(live_null_basis(P, task).shape[1] for task in self._tasks):
            return one_or_all([0.0 for _ in self._tasks])
        return one_or_all([t.rho(P.whitened(t.matrix)) / self.kappa_P for t in self._tasks])

    @cached_property
    def kappa(self) -> float:
        """Condition number of A: primary predictions keep about ``kappa u`` in precision u."""
        if math.isinf(self.tau):
            return math.inf
        if self.whitening is not None:
            s = np.linalg.svd(self.whitening, compute_uv=False)
            return float(s[0] / s[-1])
        if not self.left.shape[1]:
            return 1.0
        basis, _ = np.linalg.qr(np.hstack([self.left, self.right]))
        # Of A and its inverse: the least singular value of A itself would be rounding. Outside the
        # span of both factors they are the identity.
        sizes = [float(np.linalg.norm(basis.T @ of, 2)) for of in (self @ basis, self.solve(basis))]
        outside = float(basis.shape[1] < basis.shape[0])
        return float(math.prod(max(size, outside) for size in sizes))

    @cached_property
    def moved(self) -> float:
        """``||Z_P (A - I)||_F / ||Z_P||_F``: by how much the primary features change."""
        R = self._given.matrix
        return float(np.linalg.norm(self._right_of(R) - R) / np.linalg.norm(R))

    def __repr__(self) -> str:
        return (
            f"FadeMap(tau={self.tau:g}, form={self.form!r}, shape={self.shape}, "
            f"rank={self.left.shape[1]}, rho={_told(self.rho_before)} -> {_told(self.rho)}"
            f"{protection(self.protected)})"
        )

    def _columns(self) -> Columns:
        told = {name: getattr(self, name) for name in ("rho_before", "rho", "limit")}
        count = len(self._tasks)  # the others are of the primary task, the same for each
        primary = {name: (getattr(self, name),) * count for name in ("kappa_P_before", "kappa_P")}
        return by_task(told | primary)


def _told(value: float | tuple[float, ...]) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return ", ".join(f"{part:.3g}" for part in values)
