"""How far any invertible extractor may turn a task's labels into slow directions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .._display import Columns, Tabular, by_task
from .._errors import underflow_is_zero
from .._labels import labels_of
from .._rank import default_rtol
from .._svd import svd
from .._task import Root, root_of, warn_if_lost
from .._two_tasks import Ranks, known_ranks
from .._validate import FloatArray, as_targets, check_real
from ._extractor import kappa_within
from ._factored import Factored
from ._labelled import CANCELLED, LabelledTask, centred, tasks_of, varies
from ._limit import deficit_of

AlignmentCase = Literal["definite", "restricted", "free", "partly free"]

_ROUNDS = 60
_SETTLED = 1e-10


@dataclass(frozen=True, eq=False)
class AlignmentLimit(Tabular):
    """The least label alignment of the harmful task at a given condition number of the primary one.

    Attributes
    ----------
    lower : float or tuple of float
        No invertible extractor has a smaller rho of the harmful task with ``kappa(H_P) = kappa_P``
        (with several harmful tasks, one number a task).
    attained : float or tuple of float
        rho under :attr:`theta`: the infimum lies between the two.
    rho, rho_whitened : float or tuple of float
        rho of the features as they are, and under ``K_P^-1/2``, of which `lower` is the
        ``kappa_P``-th part.
    case : str
        ``"definite"``: K_P is; ``"restricted"``: null(K_P) lies in null(K_H), and range(K_P) counts
        alone; ``"free"``: the labels can be made slow in directions that no primary row uses, and
        the infimum is 0 at an unchanged H_P, or where the labels span all that the harmful rows do,
        the least share of them in one direction (1 for rows of rank 1); ``"partly free"``: such
        directions hold a part of the labels that cannot be moved there, `lower` is 0 and `attained`
        what leaving them out gives.
        Of several tasks, whose `lower` follows the case of each, the first of them in the order
        free, partly free, restricted, definite; what one map attains of all is not 0 then.
    kappa_P : float
        Condition number that the primary task is allowed.
    protected : float
        Share of the primary head, in the whitened features, outside the slow directions of
        :attr:`theta`; NaN where the primary labels were not given.
    delta : float
        What was added to the diagonal of K_P.
    theta : (d, d) array or None
        Extractor that has `attained`, with ``kappa(H_P) = kappa_P`` (1 where the labels of several
        tasks span everything, or are not seen), at the size of the identity's features; None where
        the infimum is approached and not attained.
    """

    lower: float | tuple[float, ...]
    attained: float | tuple[float, ...]
    rho: float | tuple[float, ...]
    rho_whitened: float | tuple[float, ...]
    case: AlignmentCase
    kappa_P: float
    protected: float
    delta: float
    theta: FloatArray | None

    def __repr__(self) -> str:
        return (
            f"AlignmentLimit(case={self.case!r}, kappa_P={self.kappa_P:.4g}, "
            f"rho={_told(self.rho)}, lower={_told(self.lower)}, attained={_told(self.attained)}"
            f"{protection(self.protected)})"
        )

    def _columns(self) -> Columns:
        names = ("rho", "rho_whitened", "lower", "attained")
        return by_task({name: getattr(self, name) for name in names})


def _told(value: float | tuple[float, ...]) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(f"{part:.4g}" for part in value) + ")"
    return f"{value:.4g}"


def protection(share: float) -> str:
    """Return what a representation tells of the primary head's protected share, if known."""
    return "" if math.isnan(share) else f", protected={share:.4g}"


@underflow_is_zero
def alignment_limit(
    X_P: npt.ArrayLike | None = None, X_H: Any = None, Y_H: Any = None, *, kappa_P: float | None,
    Y_P: npt.ArrayLike | None = None, delta: float = 0.0, center: bool = True,
    K_P: npt.ArrayLike | None = None, b_P: npt.ArrayLike | None = None, K_H: Any = None,
    b_H: Any = None, energy_H: Any = None, ranks: Ranks | None = None, computed_in: Any = None,
) -> AlignmentLimit:  # fmt: skip
    r"""Bracket the least alignment of the harmful labels that a primary condition number buys.

    With :math:`F = Z_H K_P^{-1/2}`, every invertible A has

    .. math:: \rho(Z_H A, Y) \ge \rho(F, Y) / \kappa(H_P(A)),

    for :math:`Z_H A A^T Z_H^T = F S F^T` with :math:`I \preceq S \preceq \tau I` after scaling,
    :math:`\tau = \kappa(H_P(A))`. From above, extractors :math:`A = K_P^{-1/2} S^{1/2}` with S
    either 1 or tau in each direction: 1 on the span of :math:`b = F^T Y` to begin with, then in
    turn S for the top direction of :math:`F S F^T` and that direction for S, each step exact.

    Parameters
    ----------
    X_P : (N_P, d) array_like
        Primary inputs.
    X_H, Y_H : (N_H, d) array_like, (N_H,) or (N_H, c) array_like
        Harmful inputs and targets or labels, as in :func:`alignment`; lists of them for several
        harmful tasks, whose labels are made slow together.
    kappa_P : float or None
        Condition number that the primary task may have; None for that of K_P.
    Y_P : (N_P,) or (N_P, c) array_like, optional
        Primary targets or labels: the result then says how much of the primary head is `protected`.
    delta : float, default: 0
        Added to the diagonal of K_P, in its units.
    center : bool, default: True
        Whether harmful inputs and all labels are centred; Gram matrices are of what they are.
    K_P, b_P, K_H, b_H, energy_H : array_like, optional
        In place of inputs: Gram matrices, the products ``X^T Y`` with the labels, and
        ``||Y_H||_F^2``.
    ranks : pair of int, optional
        Known ranks of K_P and K_H.
    computed_in : dtype_like, optional
        Precision in which the inputs were computed, where it is not their dtype; as in
        :func:`immunity_limit`.

    Returns
    -------
    AlignmentLimit

    Raises
    ------
    ValueError
        For NaN, mismatched sizes, constant labels, or a kappa_P below 1.

    Warns
    -----
    AccuracyWarning
        Where rounding in K_P is as large as half its smallest eigenvalue.

    Notes
    -----
    Ours.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> K_P, K_H = np.eye(3), np.diag([4.0, 2.0, 1.0])
    >>> bracket = ic.linear.alignment_limit(K_P=K_P, K_H=K_H, b_H=[2.0, 0, 0], kappa_P=100.0)
    >>> round(bracket.rho, 12), round(bracket.lower, 12), round(bracket.attained, 12)
    (1.0, 0.01, 0.02)
    """
    rank_P, _ = known_ranks(ranks)
    P = root_of(X_P, K_P, "X_P", "K_P", rank=rank_P, computed_in=computed_in)
    tasks = given_tasks(
        X_H, Y_H, K_H, b_H, energy_H, center=center, ranks=ranks, computed_in=computed_in, beside=P
    )
    added = check_real(delta, "delta", low=0.0)
    P = P.plus(added)
    head = primary_head(P, X_P, Y_P, b_P, center=center)
    warn_if_lost(P)
    tau = kappa_within(P, kappa_P, P.dim)
    cases = [case_of(P, task) for task in tasks]
    case: AlignmentCase = next(
        case for case in ("free", "partly free", "restricted", "definite") if case in cases
    )
    F = [P.whitened(task.matrix) for task in tasks]
    labels = [F_t.T @ task.basis_of_labels() for F_t, task in zip(F, tasks, strict=True)]
    Q = slowest(F, labels, tau)
    reached = [task.rho(_spread(F_t, Q, tau)) for F_t, task in zip(F, tasks, strict=True)]
    whitened = [task.rho(F_t) for F_t, task in zip(F, tasks, strict=True)]
    lower = [
        least_share(task) if of == "free" else 0.0 if of == "partly free" else rho / tau
        for task, rho, of in zip(tasks, whitened, cases, strict=True)
    ]
    if cases == ["free"]:
        reached = lower
    return AlignmentLimit(
        lower=one_or_all(lower), attained=one_or_all(reached),
        rho=one_or_all([task.rho() for task in tasks]), rho_whitened=one_or_all(whitened),
        case=case, kappa_P=tau, protected=1.0 - slow_share(head, Q), delta=added,
        theta=None if case in ("free", "partly free") else slow_extractor(P, Q, tau),
    )  # fmt: skip


def given_tasks(
    X_H: Any, Y_H: Any, K_H: Any, b_H: Any, energy_H: Any, *, center: bool,
    ranks: Ranks | None, computed_in: Any, beside: Root | Factored,
) -> list[LabelledTask]:  # fmt: skip
    """Harmful tasks with their labels, of as many features as the primary task beside them."""
    _, rank_H = known_ranks(ranks)
    tasks = tasks_of(
        X_H, Y_H, K_H, b_H, energy_H, center=bool(center), rank=rank_H, computed_in=computed_in
    )
    for task in tasks:
        if task.dim != beside.dim:
            raise ValueError(
                f"{beside.name} and {task.name} must have as many columns, got {beside.dim} and "
                f"{task.dim}"
            )
    return tasks


class PrimaryHead(NamedTuple):
    """``K_P^-1/2 b_P`` in some unit, and by how much rounding may have moved b_P in it."""

    whitened: FloatArray
    rounding: float


def primary_head(
    P: Root | Factored, X_P: Any, Y_P: Any, b_P: Any, *, center: bool
) -> PrimaryHead | None:
    """``K_P^-1/2 Z_P^T Y_P``, the primary head in whitened features; None without labels."""
    if Y_P is None and b_P is None:
        return None
    if Y_P is not None and b_P is not None:
        raise TypeError("give either Y_P or b_P, which is X_P^T Y_P, got both")
    if b_P is not None:
        cross = _at_unit(as_targets(b_P, P.dim, "b_P", P.name))
        most = CANCELLED * float(np.linalg.norm(cross))
    elif X_P is None:
        raise TypeError("Y_P needs X_P; beside K_P give b_P, which is X_P^T Y_P")
    else:
        inputs = np.asarray(X_P, dtype=np.float64)
        y = _at_unit(labels_of(Y_P, inputs.shape[0], "Y_P", "X_P"))
        y = centred(y) if center else y
        if not varies(y):
            raise ValueError(f"Y_P is {'constant' if center else 'zero'}: there is no primary head")
        cross = (inputs / P.scale).T @ y
        most = float(np.linalg.norm(inputs / P.scale) * np.linalg.norm(y))
    rounding = default_rtol((1, P.dim), np.float64, "features") * most
    head = P.whitened(cross.T).T
    size = float(np.max(np.abs(head)))
    if size == 0.0 or (b_P is None and float(np.linalg.norm(cross)) <= rounding):
        raise ValueError("the primary labels have nothing in common with the primary inputs")
    return PrimaryHead(head / size, rounding / size)


def _at_unit(x: FloatArray) -> FloatArray:
    """Return it with entries up to 1, whose sums and squares are numbers."""
    return np.asarray(x / (float(np.max(np.abs(x))) or 1.0))


def slow_share(head: PrimaryHead | None, Q: FloatArray) -> float:
    """Share of the primary head in the span of the orthonormal columns Q."""
    if head is None:
        return math.nan
    return float(np.sum((Q.T @ head.whitened) ** 2) / np.sum(head.whitened**2))


def case_of(P: Root, H: LabelledTask) -> AlignmentCase:
    """Where the harmful task stands to the null space of the primary one."""
    if P.rank == P.dim:
        return "definite"
    if not (live := live_null_basis(P, H)).shape[1]:
        return "restricted"
    free = live.T @ (H.matrix.T @ H.basis_of_labels())
    size = float(np.linalg.norm(H.matrix, 2) * np.linalg.norm(H.basis_of_labels(), 2))
    s = np.linalg.svd(free, compute_uv=False)
    rank = int(np.count_nonzero(s > max(H.rtol, default_rtol(free.shape, np.float64)) * size))
    # Slow and empty of labels, or able to take the labels in whole.
    return "free" if rank < live.shape[1] or rank == free.shape[1] else "partly free"


def least_share(H: LabelledTask) -> float:
    """Least share of the labels in a direction of the features' range; no map has a smaller rho."""
    s = np.linalg.svd(H.labels, compute_uv=False)
    if s.size < H.rank or s[-1] <= max(H.rtol, default_rtol(H.labels.shape, np.float64)) * s[0]:
        return 0.0
    return float((s[-1] / np.linalg.norm(s)) ** 2)


def live_null_basis(P: Root, H: LabelledTask) -> FloatArray:
    """Orthonormal basis of the directions of null(K_P) in which harmful rows have energy."""
    _, _, vt = svd(H.matrix @ P.null_basis, full_matrices=False)
    return np.asarray(P.null_basis @ vt[: deficit_of(P, H)].T)


def orthonormal(columns: FloatArray, shape: tuple[int, ...], rounding: float = 0.0) -> FloatArray:
    """Orthonormal basis of the span, by the one rule of rank and what is known to be rounding."""
    u, s, _ = svd(columns, full_matrices=False)
    least = max(default_rtol(shape, np.float64) * float(s[0]), rounding) if s.size else 0.0
    return u[:, : int(np.count_nonzero(s > least))]


def _spread(F: FloatArray, Q: FloatArray, tau: float) -> FloatArray:
    """``F S^1/2`` for S = 1 / tau on the span of Q, and 1 elsewhere."""
    return F - (1.0 - 1.0 / math.sqrt(tau)) * ((F @ Q) @ Q.T)


def slowest(F: list[FloatArray], labels: list[FloatArray], tau: float) -> FloatArray:
    """Directions Q in which ``S = tau I - (tau - 1) Q Q^T`` makes the labels slow.

    For one task the ratio of ``tr(b^T S b)`` and ``w^T S w`` is minimized over S with its
    eigenvalues in [1, tau], w the image of the top direction of ``F S F^T``; as that direction's
    Rayleigh quotient bounds the largest eigenvalue from below, rho falls from step to step.
    """
    b = np.hstack([part / max(float(np.linalg.norm(part)), 1e-300) for part in labels])
    Q = orthonormal(b, b.shape)
    if len(F) > 1 or tau == 1.0 or not Q.shape[1]:
        return Q
    (only,) = F

    def rho(Q: FloatArray) -> tuple[float, FloatArray]:
        u, s, _ = svd(_spread(only, Q, tau), full_matrices=False)
        return float(np.sum(_spread(b.T, Q, tau) ** 2)) / float(s[0]) ** 2, only.T @ u[:, 0]

    best, w = rho(Q)
    for _ in range(_ROUNDS):
        proposed = _least_ratio(b, w, tau, best)
        value, w = rho(proposed)
        if not value < best * (1.0 - _SETTLED):
            break
        Q, best = proposed, value
    return Q


def _least_ratio(b: FloatArray, w: FloatArray, tau: float, ratio: float) -> FloatArray:
    """Directions where S is 1 at the least ``tr(b^T S b) / w^T S w``, by Dinkelbach's method."""
    basis = orthonormal(np.column_stack([b, w / np.linalg.norm(w)]), b.shape)
    inner, top = basis.T @ b, basis.T @ w
    Q = basis
    for _ in range(_ROUNDS):
        values, vectors = np.linalg.eigh(inner @ inner.T - ratio * np.outer(top, top))
        Q = basis @ vectors[:, values > default_rtol(basis.shape, np.float64) * values[-1]]
        new = float(np.sum(_spread(b.T, Q, tau) ** 2) / np.sum(_spread(w[None], Q, tau) ** 2))
        if not new < ratio * (1.0 - _SETTLED):
            break
        ratio = new
    return Q


def slow_extractor(P: Root, Q: FloatArray, tau: float) -> FloatArray:
    """``K_P^-1/2 S^1/2`` at the size of the identity's primary features, invertible."""
    S = _spread(np.eye(P.rank), Q, tau)
    columns = P.unwhitened(S)
    if P.rank < P.dim:
        columns = np.hstack([columns, P.null_basis / (P.smallest * math.sqrt(tau))])
    return np.asarray(columns * (P.frobenius / float(np.linalg.norm(S))))


def one_or_all(values: list[float]) -> float | tuple[float, ...]:
    """One number for one task, else a tuple."""
    return values[0] if len(values) == 1 else tuple(values)
