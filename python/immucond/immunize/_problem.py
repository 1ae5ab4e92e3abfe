"""What every iterative method starts from: checked data, a start, and the rows of each step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .._task import Ranks, Root, roots, span_of
from .._validate import (
    FloatArray,
    as_count,
    as_float64,
    as_matrix,
    as_theta,
    check_choice,
    check_real,
    plain,
)
from ..linear import ImmunityReport
from ..linear.of_roots import report_of
from ._batches import Batches
from ._hessians import (
    PRECONDITIONERS,
    BatchHessian,
    FullHessian,
    Hessian,
    Preconditioner,
)
from ._losses import Loss, task_loss
from ._reduction import Reduction, reduction

Seed = int | None


@dataclass(frozen=True)
class Rows:
    """One step's rows: the losses and the Hessians (primary, harmful) on them."""

    loss: Loss
    hessians: tuple[Hessian, Hessian]
    harmful_loss: Loss | None


@dataclass(frozen=True)
class Problem:
    """Both tasks in the coordinates of the iteration.

    Attributes
    ----------
    P, H : Root
        Of the inputs as they were given.
    loss, harmful_loss : Loss
        On all rows; the harmful one only where a method takes the harmful targets.
    inputs_H : (N_H, d) array
        Harmful inputs; the primary ones are the loss's.
    theta, omega : (d, m) and (m, c) arrays
        Start.
    span : array or None
        What theta's columns span, None for everything.
    reduced : Reduction or None
        What took the given inputs to these coordinates.
    seed : int
        Of the batches.
    batch_size : int or None
        None for all rows.
    given : dict of str to array
        The data, in the coordinates in which they were given.
    """

    P: Root
    H: Root
    loss: Loss
    harmful_loss: Loss | None
    inputs_H: FloatArray
    theta: FloatArray
    omega: FloatArray
    span: FloatArray | None
    reduced: Reduction | None
    seed: int
    batch_size: int | None
    full_hessians: bool
    preconditioner: Preconditioner | None
    ridge: tuple[float, float]
    computed_in: tuple[Any, Any]
    single: bool  # one head, given and returned without its axis
    given: dict[str, FloatArray]

    def rows(self, step: int) -> Rows:
        """Rows of a step."""
        if self._batches is None:
            return self._all
        of_P, of_H = (batches(step) for batches in self._batches)
        harmful = self.harmful_loss
        return Rows(
            self.loss.rows(of_P),
            self._full if self.full_hessians else self.batch_hessians(of_P, of_H),
            None if harmful is None else harmful.rows(of_H),
        )

    def batch_hessians(
        self, of_P: npt.NDArray[np.intp], of_H: npt.NDArray[np.intp]
    ) -> tuple[Hessian, Hessian]:
        """Hessians of the batch."""
        P, H = (
            BatchHessian(X, root.name, root.rank, dtype, self.span, self.preconditioner, ridge)
            for X, root, dtype, ridge in zip(
                (self.loss.X[of_P], self.inputs_H[of_H]),
                (self.P, self.H),
                self.computed_in,
                self.ridge,
                strict=True,
            )
        )
        return P, H

    @cached_property
    def _batches(self) -> tuple[Callable[[int], npt.NDArray[np.intp]], ...] | None:
        if self.batch_size is None:
            return None
        sizes = (self.loss.X.shape[0], self.inputs_H.shape[0])
        return tuple(
            Batches(size, self.batch_size, self.seed, stream) for stream, size in enumerate(sizes)
        )

    @cached_property
    def _all(self) -> Rows:
        harmful = self.harmful_loss
        return Rows(self.loss.whole(), self._full, None if harmful is None else harmful.whole())

    @cached_property
    def _full(self) -> tuple[FullHessian, FullHessian]:
        basis = None if self.reduced is None else self.reduced.basis
        columns = self.theta.shape[1] if basis is None else basis.shape[0]
        P, H = (
            FullHessian(X, root, basis, columns, self.span, self.preconditioner, ridge)
            for X, root, ridge in zip(
                (self.loss.X, self.inputs_H), (self.P, self.H), self.ridge, strict=True
            )
        )
        return P, H

    def given_theta(self, theta: FloatArray) -> tuple[FloatArray, FloatArray | None]:
        """Extractor in the coordinates of the inputs, and its bias where it has one."""
        return (theta if self.reduced is None else self.reduced.extractor(theta)), None

    def report(self, theta: FloatArray) -> ImmunityReport:
        """Report on the extractor, relative to the identity."""
        return report_of(self.P, self.H, self.given_theta(theta)[0])

    def given_omega(self, omega: FloatArray) -> FloatArray:
        """Head in the coordinates of the features, of the shape of the targets."""
        head = omega if self.reduced is None else self.reduced.basis @ omega
        return head[:, 0] if self.single else head


def problem_of(
    X_P: npt.ArrayLike,
    y_P: npt.ArrayLike,
    X_H: npt.ArrayLike,
    y_H: npt.ArrayLike | None = None,
    *,
    loss: str,
    batch_size: int | None,
    hessian: str,
    preconditioner: str | None,
    ridge: float = 1.0,
    theta: npt.ArrayLike | None,
    omega: npt.ArrayLike | None,
    seed: Seed,
    ranks: Ranks | None,
    computed_in: Any,
    reducible: bool = True,
) -> Problem:
    """Check the data, draw the start, and find the coordinates to work in."""
    check_choice(hessian, "hessian", ("full", "batch"))
    if preconditioner is not None:
        check_choice(preconditioner, "preconditioner", PRECONDITIONERS)
    P, H = roots(X_P, X_H, None, None, ranks=ranks, computed_in=computed_in)
    dtypes = as_matrix(X_P, "X_P").dtype, as_matrix(X_H, "X_H").dtype
    inputs_P, inputs_H = as_float64(X_P, "X_P"), as_float64(X_H, "X_H")
    primary = task_loss(loss, inputs_P, y_P)
    harmful = None if y_H is None else task_loss(loss, inputs_H, y_H, ("y_H", "X_H"))
    given = {"X_P": inputs_P, "y_P": primary.targets, "X_H": inputs_H}
    if harmful is not None:
        given["y_H"] = harmful.targets
    size = _batch_size(batch_size, hessian, inputs_P.shape[0], inputs_H.shape[0])

    single = np.ndim(y_P) == 1 and loss != "softmax"
    drawn = entropy(seed)
    extractor = np.eye(P.dim) if theta is None else as_theta(theta, P.dim).copy()
    head = _start_head(omega, extractor.shape[1], primary.heads, single, drawn)
    span = None if theta is None else span_of(extractor)
    reduced = reduction(P, H, head) if reducible and theta is None else None
    if reduced is not None:
        B = reduced.basis
        extractor, head = np.eye(B.shape[1]), B.T @ head
        inputs_H = inputs_H @ B
        primary = primary.on_inputs(inputs_P @ B)
        harmful = None if harmful is None else harmful.on_inputs(inputs_H)
    share = check_real(ridge, "ridge", low=0.0)
    return Problem(
        P=P,
        H=H,
        loss=primary,
        harmful_loss=harmful,
        inputs_H=inputs_H,
        theta=extractor,
        omega=head,
        span=span,
        reduced=reduced,
        seed=drawn,
        batch_size=size,
        full_hessians=hessian == "full",
        preconditioner=preconditioner,  # type: ignore[arg-type]
        ridge=(share, share),
        computed_in=dtypes if computed_in is None else (computed_in, computed_in),
        single=single,
        given=given,
    )


def entropy(seed: Seed) -> int:
    """Return the seed, or a fresh one for None: a run can then be told from another."""
    if seed is not None:
        return as_count(seed, "seed", least=0)
    fresh = np.random.SeedSequence().entropy
    assert isinstance(fresh, int)
    return fresh


def described(value: Any) -> Any:
    """Return an array as its shape and the SHA-256 of its entries, all else in plain Python."""
    if value is None or isinstance(value, type) or np.ndim(value) == 0:
        return plain(value)
    array = np.ascontiguousarray(value)
    if array.size <= 2:  # a pair of ranks or ridges
        return array.tolist()
    digest = hashlib.sha256(str(array.dtype.str).encode() + array.tobytes()).hexdigest()
    return f"array of shape {array.shape}, SHA-256 {digest}"


def _batch_size(batch_size: int | None, hessian: str, rows_P: int, rows_H: int) -> int | None:
    if batch_size is None:
        if hessian == "batch":
            raise ValueError("hessian must be 'full' without a batch_size, and is 'batch'")
        return None
    size = as_count(batch_size, "batch_size", least=1)
    for rows, name in ((rows_P, "X_P"), (rows_H, "X_H")):
        if size > rows:
            raise ValueError(
                f"batch_size must be at most {rows}, the number of rows of {name}, and is {size}"
            )
    return size


def _start_head(
    omega: npt.ArrayLike | None, m: int, heads: int, single: bool, seed: int
) -> FloatArray:
    wanted = (m,) if single else (m, heads)
    if omega is None:
        head = np.random.default_rng(seed).normal(scale=1.0 / m, size=wanted)
    else:
        head = as_float64(omega, "omega", ndim=len(wanted))
        if head.shape != wanted:
            raise ValueError(f"omega must have shape {wanted}, got {head.shape}")
    return head.reshape(m, -1)
