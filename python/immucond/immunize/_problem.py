"""What every iterative method starts from: checked data, a start, and the rows of each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .._rank import default_rtol
from .._task import Root, roots, span_of
from .._validate import FloatArray, as_count, as_float64, as_matrix, as_theta, check_real
from ..linear import ImmunityReport
from ..linear.of_roots import report_of
from ._hessians import BatchHessian, FullHessian, Hessian
from ._losses import Loss, task_loss
from ._setup import Preconditioner, Setup, entropy

# Units of rounding within which a direction of null(K_P) counts as one of null(K_H) too.
_ROUNDING = 16.0


class Batches:
    """Rows of each step; what an epoch leaves over when it is cut into batches is left out.

    No state is carried from step to step, so a run can start again anywhere.

    Parameters
    ----------
    rows, size : int
        Number of rows, and of those in a batch.
    seed : int
        Seed of the whole run.
    stream : int
        Tasks of different streams are shuffled independently.
    """

    def __init__(self, rows: int, size: int, seed: int, stream: int) -> None:
        self._rows, self._size, self._key = rows, size, (seed, stream)
        self._epoch, self._order = -1, np.empty(0, dtype=np.intp)

    def __call__(self, step: int) -> npt.NDArray[np.intp]:
        """Return the indices of the step's rows."""
        epoch, at = divmod(step, self._rows // self._size)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([*self._key, epoch]).permutation(self._rows)
        return self._order[at * self._size : (at + 1) * self._size]


@dataclass(frozen=True)
class Reduction:
    """Coordinates of range(K_P) + range(K_H) + span(omega), in which descent stays.

    Started at the identity, every method that descends along gradients (of orthogonally invariant
    functions) moves theta and omega within that subspace, on both sides: theta is
    ``I + B (T - I) B^T`` all along, with T the extractor in the coordinates B.

    Attributes
    ----------
    basis : (d, r) array
        Orthonormal columns, B.
    """

    basis: FloatArray

    def extractor(self, reduced: FloatArray) -> FloatArray:
        """Theta from T."""
        d, r = self.basis.shape
        moved: FloatArray = self.basis @ (reduced - np.eye(r)) @ self.basis.T
        return np.eye(d) + moved


def reduction(P: Root, H: Root, omega: FloatArray) -> Reduction | None:
    """Find the subspace; None where it is everything."""
    c = omega.shape[1]
    if P.dim - max(P.rank, H.rank) <= c:
        return None
    null = P.null_basis
    _, sines, vt = np.linalg.svd(H.range_basis.T @ null)
    tolerance = _ROUNDING * default_rtol(null.shape, np.float64)
    joint = null @ vt[np.count_nonzero(sines > tolerance) :].T
    if joint.shape[1] <= c:
        return None
    # The head's own part there stays in.
    turned = np.linalg.qr(joint.T @ omega, mode="complete")[0]
    left_out = joint @ turned[:, c:]
    complete = np.linalg.qr(left_out, mode="complete")[0]
    return Reduction(complete[:, left_out.shape[1] :])


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


def problem_of(setup: Setup, *, reducible: bool = True) -> Problem:
    """Check the data, draw the start, and find the coordinates to work in.

    `reducible`: whether the method may run in fewer coordinates, see `Reduction`; Adam, whose
    steps depend on the coordinates, never does.
    """
    P, H = roots(setup.X_P, setup.X_H, None, None, ranks=setup.ranks, computed_in=setup.computed_in)
    dtypes = as_matrix(setup.X_P, "X_P").dtype, as_matrix(setup.X_H, "X_H").dtype
    inputs_P, inputs_H = as_float64(setup.X_P, "X_P"), as_float64(setup.X_H, "X_H")
    primary = task_loss(setup.loss, inputs_P, setup.y_P)
    given = {"X_P": inputs_P, "y_P": primary.targets, "X_H": inputs_H}
    harmful = None
    if setup.y_H is not None:
        harmful = task_loss(setup.loss, inputs_H, setup.y_H, ("y_H", "X_H"))
        given["y_H"] = harmful.targets
    size = _batch_size(setup, inputs_P.shape[0], inputs_H.shape[0])

    single = np.ndim(setup.y_P) == 1 and setup.loss != "softmax"
    seed = entropy(setup.seed)
    theta = np.eye(P.dim) if setup.theta is None else as_theta(setup.theta, P.dim).copy()
    omega = _start_head(setup.omega, theta.shape[1], primary.heads, single, seed)
    span = None if setup.theta is None else span_of(theta)
    reduced = None
    if reducible and setup.theta is None and setup.optimizer == "gd":
        reduced = reduction(P, H, omega)
    if reduced is not None:
        B = reduced.basis
        theta, omega = np.eye(B.shape[1]), B.T @ omega
        inputs_H = inputs_H @ B
        primary = primary.on_inputs(inputs_P @ B)
        harmful = None if harmful is None else harmful.on_inputs(inputs_H)
    ridge = check_real(setup.ridge, "ridge", low=0.0)
    return Problem(
        P=P,
        H=H,
        loss=primary,
        harmful_loss=harmful,
        inputs_H=inputs_H,
        theta=theta,
        omega=omega,
        span=span,
        reduced=reduced,
        seed=seed,
        batch_size=size,
        full_hessians=setup.hessian == "full",
        preconditioner=setup.preconditioner,
        ridge=(ridge, ridge),
        computed_in=dtypes if setup.computed_in is None else (setup.computed_in,) * 2,
        single=single,
        given=given,
    )


def _batch_size(setup: Setup, rows_P: int, rows_H: int) -> int | None:
    if setup.batch_size is None:
        if setup.hessian == "batch":
            raise ValueError("hessian must be 'full' without a batch_size, and is 'batch'")
        return None
    size = as_count(setup.batch_size, "batch_size", least=1)
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
