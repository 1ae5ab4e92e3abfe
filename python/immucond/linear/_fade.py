"""Fade: the least change of the primary features that makes the harmful labels slow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._condition import condition_number
from .._display import Columns, Tabular, by_task
from .._errors import ImmunityWarning, underflow_is_zero, warn
from .._rank import default_rtol
from .._task import Ranks, Root, known_ranks, root_of, warn_if_lost
from .._validate import FloatArray, check_choice, check_real
from ._alignment import LabelledTask
from ._alignment_limit import (
    given_tasks,
    live_null_basis,
    one_or_all,
    orthonormal,
    primary_head,
    slow_extractor,
    slow_share,
)
from ._factored import Factored, factored

Form = Literal["near", "whitened"]


@dataclass(frozen=True)
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
        What was added to the diagonal of K_P.
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
        return self._given.root if isinstance(self._given, Factored) else self._given

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
        head = np.asarray(omega, dtype=np.float64)
        if head.ndim not in (1, 2) or head.shape[0] != self.shape[0]:
            raise ValueError(f"omega must have {self.shape[0]} rows, and has shape {head.shape}")
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
        return self._right_of(np.asarray(Z, dtype=np.float64))

    def __matmul__(self, omega: npt.ArrayLike) -> FloatArray:
        head = np.asarray(omega, dtype=np.float64)
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
        """Alignment of the harmful labels with the features under the map; 0 where erased."""
        if math.isinf(self.tau):
            return one_or_all([0.0 for _ in self._tasks])
        return one_or_all([task.rho(self._right_of(task.matrix)) for task in self._tasks])

    @cached_property
    def kappa_P_before(self) -> float:
        """Condition number of K_P."""
        return self._primary.kappa

    @cached_property
    def kappa_P(self) -> float:
        """Condition number of ``H_P = A^T K_P A``."""
        features = self._right_of(self._given.matrix)
        return condition_number(features=features, rank=self._given.rank - self._erased)

    @property
    def _erased(self) -> int:
        """Dimensions of range(K_P) that an infinite tau takes."""
        if not math.isinf(self.tau):
            return 0
        return int(orthonormal(self._given.matrix @ self.left, self.left.shape).shape[1])

    @cached_property
    def limit(self) -> float | tuple[float, ...]:
        """Least rho that any invertible map has at this ``kappa_P`` (see `alignment_limit`).

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
        basis, _ = np.linalg.qr(np.hstack([self.left, self.right]))
        s = np.linalg.svd(basis.T @ (self @ basis), compute_uv=False)
        # Outside the span of both factors A is the identity.
        ends = [*s, 1.0] if basis.shape[1] < basis.shape[0] else s
        return float(max(ends) / min(ends))

    @cached_property
    def moved(self) -> float:
        """``||Z_P (A - I)||_F / ||Z_P||_F``: by how much the primary features change."""
        R = self._given.matrix
        return float(np.linalg.norm(self._right_of(R) - R) / np.linalg.norm(R))

    def __repr__(self) -> str:
        return (
            f"FadeMap(tau={self.tau:g}, form={self.form!r}, shape={self.shape}, "
            f"rank={self.left.shape[1]}, rho={_told(self.rho_before)} -> {_told(self.rho)})"
        )

    def _columns(self) -> Columns:
        return by_task({name: getattr(self, name) for name in ("rho_before", "rho", "limit")})


def _told(value: float | tuple[float, ...]) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return ", ".join(f"{part:.3g}" for part in values)


@underflow_is_zero
def fade(
    X_P: npt.ArrayLike | None = None, X_H: Any = None, Y_H: Any = None, *, tau: float = 1e4,
    form: Form = "near", Y_P: npt.ArrayLike | None = None, protect: bool = False,
    delta: float = 0.0, center: bool = True, K_P: npt.ArrayLike | None = None,
    b_P: npt.ArrayLike | None = None, K_H: Any = None, b_H: Any = None, energy_H: Any = None,
    ranks: Ranks | None = None, computed_in: Any = None,
) -> FadeMap:  # fmt: skip
    r"""Fade the harmful labels out of the features, at the least change of the primary ones.

    Among all A with :math:`A^T Z_H^T Y_H = Z_H^T Y_H / \sqrt\tau`,

    .. math::

        A = I - (1 - 1/\sqrt\tau)\, \Pi, \qquad
        \Pi = K_P^{-1} b_0 (b_0^T K_P^{-1} b_0)^+ b_0^T, \qquad b_0 = Z_H^T Y_H

    changes the primary features least in :math:`\|Z_P (A - I)\|_F`. Its rank is at most c - 1 for c
    classes, its inverse :math:`I + (\sqrt\tau - 1) \Pi`, and with the head
    :math:`A^{-1} \omega` every primary prediction stays. An infinite tau erases: no affine probe
    with a convex loss then does better than a constant on rows of this cross-covariance.

    It is invertible for every finite tau, so it is a lock: an attacker who whitens the features,
    or solves for the least squares, is not slowed at all.

    Parameters
    ----------
    X_P : (N_P, d) array_like
        Primary inputs.
    X_H, Y_H : (N_H, d) array_like, (N_H,) or (N_H, c) array_like
        Harmful inputs and targets or labels, as in :func:`alignment`; lists for several tasks.
    tau : float, default: 1e4
        At least 1. The label's part in the features shrinks by its square root; ``inf`` erases.
    form : {"near", "whitened"}, default: "near"
        ``"whitened"``: ``K_P^-1/2 (sqrt(tau) P' + P_b)``, whose alignment is within a known factor
        of :func:`alignment_limit`, and which changes the primary features altogether.
    Y_P : array_like, optional
        Primary targets or labels, for `protect` and to tell how much of the primary head fades.
    protect : bool, default: False
        Whether directions of the primary head are left out of what fades: what both tasks' labels
        share stays fast.
    delta : float, default: 0
        Added to the diagonal of K_P, in its units. Without it, directions that no primary row uses
        are free: harmful labels fade there first, at no cost to the primary features, by a map that
        is ill-conditioned (:attr:`FadeMap.kappa`) where harmful rows hardly use them either.
    center, K_P, b_P, K_H, b_H, energy_H, ranks, computed_in
        As in :func:`alignment_limit`.

    Returns
    -------
    FadeMap

    Raises
    ------
    ValueError
        For a tau below 1, NaN, mismatched sizes, constant labels, or a protection that leaves
        nothing to fade.

    Warns
    -----
    ImmunityWarning
        Where the features do not see the harmful labels: the map is the identity.
    AccuracyWarning
        Where rounding in K_P is as large as half its smallest eigenvalue.

    Notes
    -----
    Ours; at an infinite tau it is LEACE (Belrose et al., 2023) in the metric of the primary task.

    From Gram matrices it costs a Cholesky factorization of K_P and solves with the labels; for
    a singular K_P a pivoted one and its QR, a third of an eigendecomposition. Where the factor does
    not settle the rank (but for a chance of 1e-10), eigenvectors do. K_H has no part in the map: it
    is looked at, and examined in full when an alignment is first asked for.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> faded = ic.linear.fade(K_P=np.eye(2), K_H=np.diag([4.0, 1.0]), b_H=[2.0, 0.0], tau=100.0)
    >>> faded.theta.round(12)
    array([[0.1, 0. ],
           [0. , 1. ]])
    >>> round(faded.rho_before, 12), round(faded.rho, 12)
    (1.0, 0.04)
    """
    added = check_real(delta, "delta", low=0.0)
    rank_P, _ = known_ranks(ranks)
    keywords: dict[str, Any] = {"rank": rank_P, "computed_in": computed_in}
    P: Root | Factored | None = None
    if K_P is not None and X_P is None and form == "near" and added == 0.0:
        P = factored(K_P, "K_P", **keywords)
    if P is None:
        P = root_of(X_P, K_P, "X_P", "K_P", **keywords).plus(added)
        warn_if_lost(P)
    tasks = given_tasks(
        X_H, Y_H, K_H, b_H, energy_H, center=center, ranks=ranks, computed_in=computed_in, beside=P
    )
    head = primary_head(P, X_P, Y_P, b_P, center=center)
    if protect and head is None:
        raise TypeError("protect=True needs the primary labels: give Y_P, or b_P beside K_P")
    faded = fade_of(P, tasks, head, tau=tau, form=form, protect=protect, delta=added)
    if not faded.left.shape[1]:
        warn(
            "the harmful features do not see their labels, Z_H^T Y_H is 0: the map is the identity",
            ImmunityWarning,
        )
    return faded


def fade_of(
    P: Root | Factored, tasks: Sequence[LabelledTask], head: FloatArray | None = None, *,
    tau: float = 1e4, form: Form = "near", protect: bool = False, delta: float = 0.0,
) -> FadeMap:  # fmt: skip
    """Map from the root of the primary task (to which delta has been added) and labelled tasks."""
    strength = math.inf if tau == math.inf else check_real(tau, "tau", low=1.0)
    check_choice(form, "form", ("near", "whitened"))
    if form == "whitened" and strength == math.inf:
        raise ValueError('tau must be finite for form="whitened"; form="near" erases')
    # Each task counts alike, whatever the units of its rows.
    columns = [task.basis_of_cross() for task in tasks]
    sizes = [float(np.linalg.norm(part)) or 1.0 for part in columns]
    b = np.hstack([part / size for part, size in zip(columns, sizes, strict=True)])
    free = P.to_null(b) if isinstance(P, Factored) else P.null_basis.T @ b
    within = P.whitened(b.T).T
    if protect and head is not None and b.shape[1]:
        lead = orthonormal(head, head.shape)
        kept = within - lead @ (lead.T @ within)
        if np.linalg.norm(kept) <= default_rtol(b.shape, np.float64) * np.linalg.norm(within):
            raise ValueError(
                "protect=True leaves nothing to fade: all of the harmful labels lies in the "
                f"{lead.shape[1]} directions of the primary head"
            )
        within = kept
    left, right, Q = _factors(P, within, free)
    whitening = None
    if form == "whitened":
        whitening = slow_extractor(P.root if isinstance(P, Factored) else P, Q, strength)
    return FadeMap(
        left=left, right=right, tau=strength, form=form, protected=1.0 - slow_share(head, Q),
        delta=delta, whitening=whitening, _given=P, _tasks=tuple(tasks),
    )  # fmt: skip


def _factors(
    P: Root | Factored, within: FloatArray, free: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Factors of Pi for b with ``R^+T b`` within range(K_P) and ``N^T b`` in its null space.

    Labels with a part in the null space fade there, where no primary row is. What has none fades in
    the range, along the orthonormal columns Q of its whitened b, which are returned too.
    """
    if free.size:
        u, s, vt = np.linalg.svd(free, full_matrices=free.shape[0] < free.shape[1])
        size = max(float(s[0]), float(np.linalg.norm(P.unwhitened(within)))) or 1.0
        q = int(np.count_nonzero(s > P.rtol * size))
    else:
        q = 0
    kernel = within @ vt[q:].T if q else within
    Q = orthonormal(kernel, within.shape)
    left = P.unwhitened(Q)
    right = P.transposed(Q) if isinstance(P, Factored) else P.matrix.T @ Q
    if q:
        back = P.from_null if isinstance(P, Factored) else P.null_basis.__matmul__
        # b = R^T within + N free, all of it.
        b = P.matrix.T @ within + back(free)
        rest = (b - right @ (Q.T @ within)) @ (vt[:q].T / s[:q])
        left = np.hstack([left, back(u[:, :q])])
        right = np.hstack([right, rest])
    return left, right, Q
