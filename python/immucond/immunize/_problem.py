"""What every iterative method starts from: its keywords, checked data, a start, and its rows."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._rank import default_rtol
from .._svd import svd
from .._task import Root, span_of
from .._two_tasks import Ranks, roots
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
from ._hessians import BatchHessian, FullHessian, Hessian, Preconditioner
from ._losses import Loss, task_loss

Balance = Literal["gradient-norm"]
Callback = Callable[[int, Mapping[str, float]], object]
LossName = Literal["squared", "logistic", "softmax"]
Optimizer = Literal["gd", "adam"]
Path = str | os.PathLike[str]

EVERY = 100  # steps from one checkpoint to the next
# What a result does not keep of its method's keywords: the data, and who looks on.
_NOT_KEPT = ("X_P", "y_P", "X_H", "y_H", "checkpoint", "checkpoint_every", "callback")


@dataclass(frozen=True)
class Setup:
    """What a method was asked for, as :func:`algorithm1` documents it.

    Each method has those of these keywords that its own signature has; the rest stay at the
    defaults here, which mean "not so".
    """

    X_P: npt.ArrayLike
    y_P: npt.ArrayLike
    X_H: npt.ArrayLike
    loss: LossName
    lr: float
    steps: int
    y_H: npt.ArrayLike | None = None
    lambda_P: float = 0.0
    lambda_H: float = 0.0
    balance: Balance | None = None
    monotone: bool = False
    batch_size: int | None = None
    hessian: Literal["full", "batch"] = "full"
    preconditioner: Preconditioner | None = None
    ridge: float = 1.0
    optimizer: Optimizer = "gd"
    theta: npt.ArrayLike | None = None
    omega: npt.ArrayLike | None = None
    seed: int | None = 0
    ranks: Ranks | None = None
    computed_in: Any = None
    checkpoint: Path | None = None
    checkpoint_every: int = EVERY
    callback: Callback | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any], **changed: Any) -> Setup:
        """Take out of a method's arguments, all of them by name, what is no affair of its own."""
        given = {**arguments, **changed}
        return cls(**{part.name: given[part.name] for part in fields(cls) if part.name in given})

    def __post_init__(self) -> None:
        for name in ("lambda_P", "lambda_H", "lr"):
            object.__setattr__(self, name, check_real(getattr(self, name), name, low=0.0))
        for name, least in (("steps", 0), ("checkpoint_every", 1)):
            object.__setattr__(self, name, as_count(getattr(self, name), name, least=least))
        object.__setattr__(self, "monotone", bool(self.monotone))
        check_choice(self.hessian, "hessian", ("full", "batch"))
        if self.preconditioner is not None:
            choices = ("right", "projected", "ridge")
            check_choice(self.preconditioner, "preconditioner", choices)
        check_choice(self.optimizer, "optimizer", ("gd", "adam"))
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"callback must be callable or None, got {self.callback!r}")


def recorded(
    method: Callable[..., Any], setup: Setup, own: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Keywords of a method in the order of its signature, as JSON has them.

    `own` are those that it does not share with others, `seed` the one that was drawn for None.
    """
    values = vars(setup) | dict(own) | {"seed": seed}
    names = [name for name in inspect.signature(method).parameters if name not in _NOT_KEPT]
    return {name: described(values[name]) for name in names}


def described(value: Any) -> Any:
    """Return an array as its shape and the SHA-256 of its entries, all else in plain Python."""
    if value is None or isinstance(value, type) or np.ndim(value) == 0:
        return plain(value)
    array = np.ascontiguousarray(value)
    if array.size <= 2:  # a pair of ranks or ridges
        return array.tolist()
    digest = hashlib.sha256(str(array.dtype.str).encode() + array.tobytes()).hexdigest()
    return f"array of shape {array.shape}, SHA-256 {digest}"


def entropy(seed: int | None) -> int:
    """Return the seed, or a fresh one for None: a run can then be told from another."""
    if seed is not None:
        return as_count(seed, "seed", least=0)
    fresh = np.random.SeedSequence().entropy
    assert isinstance(fresh, int)
    return fresh


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


def reduction(P: Root, H: Root, omega: FloatArray) -> FloatArray | None:
    """Orthonormal basis B (d, r) of range(K_P) + range(K_H) + span(omega); None for all of it.

    Started at the identity, every method that descends along gradients (of orthogonally invariant
    functions) moves theta and omega within that subspace, on both sides: theta is
    ``I + B (T - I) B^T`` all along, with T the extractor in the coordinates B.
    """
    c = omega.shape[1]
    if P.dim - max(P.rank, H.rank) <= c:
        return None
    null = P.null_basis
    _, sines, vt = svd(H.range_basis.T @ null)
    tolerance = _ROUNDING * default_rtol(null.shape, np.float64)
    joint = null @ vt[np.count_nonzero(sines > tolerance) :].T
    if joint.shape[1] <= c:
        return None
    # The head's own part there stays in.
    turned = np.linalg.qr(joint.T @ omega, mode="complete")[0]
    left_out = joint @ turned[:, c:]
    complete = np.linalg.qr(left_out, mode="complete")[0]
    return complete[:, left_out.shape[1] :]


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
    loss : Loss
        Primary loss on all rows.
    inputs_H : (N_H, d) array
        Harmful inputs; the primary ones are the loss's.
    theta, omega : (d, m) and (m, c) arrays
        Start.
    seed : int
        Of the batches.
    batch_size : int or None
        None for all rows.
    full_hessians : bool
        Hessians of all rows, batches or not.
    ridge : (float, float)
        Of both tasks' preconditioners.
    computed_in : (dtype, dtype)
        Precision of both tasks' inputs.
    single : bool
        One head, given and returned without its axis.
    given : dict of str to array
        The data, in the coordinates in which they were given.
    harmful_loss : Loss or None
        Where a method takes the harmful targets.
    span : array or None
        What theta's columns span, None for everything.
    basis : (D, d) array or None
        What took the given inputs to these coordinates, see `reduction`.
    preconditioner
        Which step of a regularizer, see `_hessians`.
    """

    P: Root
    H: Root
    loss: Loss
    inputs_H: FloatArray
    theta: FloatArray
    omega: FloatArray
    seed: int
    batch_size: int | None
    full_hessians: bool
    ridge: tuple[float, float]
    computed_in: tuple[Any, Any]
    single: bool
    given: dict[str, FloatArray]
    harmful_loss: Loss | None = None
    span: FloatArray | None = None
    basis: FloatArray | None = None
    preconditioner: Preconditioner | None = None

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
        basis = self.basis
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
        if (B := self.basis) is None:
            return theta, None
        return np.eye(B.shape[0]) + B @ (theta - np.eye(B.shape[1])) @ B.T, None

    def report(self, theta: FloatArray) -> ImmunityReport:
        """Report on the extractor, relative to the identity."""
        return report_of(self.P, self.H, self.given_theta(theta)[0])

    def given_omega(self, omega: FloatArray) -> FloatArray:
        """Head in the coordinates of the features, of the shape of the targets."""
        head = omega if self.basis is None else self.basis @ omega
        return head[:, 0] if self.single else head


def problem_of(setup: Setup, *, reducible: bool = True) -> Problem:
    """Check the data, draw the start, and find the coordinates to work in.

    `reducible`: whether the method may run in fewer coordinates, see `reduction`; Adam, whose
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
    B = None
    if reducible and setup.theta is None and setup.optimizer == "gd":
        B = reduction(P, H, omega)
    if B is not None:
        theta, omega = np.eye(B.shape[1]), B.T @ omega
        inputs_H = inputs_H @ B
        primary = replace(primary, X=inputs_P @ B)
        harmful = None if harmful is None else replace(harmful, X=inputs_H)
    ridge = check_real(setup.ridge, "ridge", low=0.0)
    return Problem(
        P=P, H=H, loss=primary, harmful_loss=harmful, inputs_H=inputs_H, theta=theta, omega=omega,
        span=span, basis=B, seed=seed, batch_size=size,
        full_hessians=setup.hessian == "full", preconditioner=setup.preconditioner,
        ridge=(ridge, ridge),
        computed_in=dtypes if setup.computed_in is None else (setup.computed_in,) * 2,
        single=single, given=given,
    )  # fmt: skip


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
