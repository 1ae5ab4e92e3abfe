"""The most that any invertible extractor can immunize, from the pencil of the two tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt
import scipy.linalg

from .._display import Record
from .._errors import underflow_is_zero
from .._extreme import psd_ends
from .._gram import gram
from .._rank import epsilon, rank_rule
from .._svd import svd
from .._task import SAFE, Root, squared_ratio
from .._two_tasks import Ranks, roots_plus
from .._validate import FloatArray, as_count
from ._factored import Factored
from ._labelled import LabelledTask

# ---- the pencil ----


@dataclass(frozen=True)
class Pencil:
    """``K_H V = K_P V diag(values)``, ``V^T K_P V = I`` on range(K_P); roots at unit scale.

    The values are squared singular values of ``A = R_H R_P^+``: an eigensolver of the pencil would
    square the condition number once more. ``A^T A`` is diagonalized only where that keeps digits.
    """

    vectors: FloatArray
    values: FloatArray
    rank: int


def pencil(P: Root | Factored, H: Root | Factored) -> Pencil:
    """Solve the generalized eigenproblem of (K_H, K_P) on range(K_P)."""
    A = P.whitened(H.matrix)
    # M has the rank of K_H, or less where range(K_H) sticks out: then kappa(M) plays no part.
    rank = min(H.rank, P.rank)
    values, w = _squares(A, _squared_already(P, H))
    values[rank:] = 0.0
    return Pencil(P.unwhitened(w), values, rank)


def _squared_already(P: Root | Factored, H: Root | Factored) -> bool:
    """Whether both come from Gram matrices, where `A^T A` costs few digits more."""
    return P.rounding > 0.0 and H.rounding > 0.0


def _squares(A: FloatArray, may_square: bool) -> tuple[FloatArray, FloatArray]:
    """Squared singular values of A, descending, and its right singular vectors, all of them."""
    m = A.shape[1]
    if may_square and A.shape[0] >= m:
        values, vectors = scipy.linalg.eigh(gram(A), driver="evd", check_finite=False)
        if values[0] > SAFE * m * epsilon(np.float64) * values[-1]:
            return values[::-1].copy(), vectors[:, ::-1]
    _, s, vt = svd(A, full_matrices=True)
    values = np.zeros(m)
    values[: s.size] = s**2
    return values, vt.T


def kappa_of_pencil(P: Root, H: Root) -> float:
    """Condition number of M over its nonzero eigenvalues, range(K_H) lying in range(K_P)."""
    A = P.whitened(H.matrix)
    if _squared_already(P, H):
        M = gram(A.T)
        rule = rank_rule(M.shape, M.dtype, rank=H.rank, rtol=None, computed_in=None)
        _, ratio, _ = psd_ends(M, rule, "M")
        if ratio > SAFE * H.rank * epsilon(np.float64):
            return 1.0 / ratio
    s = np.linalg.svd(A, compute_uv=False)
    return squared_ratio(s[0], s[H.rank - 1], f"{H.name} relative to {P.name}")


def deficit_of(P: Root | Factored, H: Root | Factored | LabelledTask) -> int:
    """Count the directions of null(K_P) in which K_H has more energy than rounding explains."""
    if P.rank == P.dim:
        return 0
    assert isinstance(P, Root)  # of what is factored only a definite one comes here
    leak = np.linalg.svd(H.matrix @ P.null_basis, compute_uv=False)
    explained = H.rtol + np.linalg.norm((H.matrix @ P.range_basis) * P.turned, 2)
    # Counting dimensions settles what angles leave open: range(K_H) of more does not fit.
    return max(int(np.count_nonzero(leak > explained)), H.rank - P.rank)


# ---- the limit ----


Case = Literal[
    "definite", "singular harmful", "restricted", "rank-one harmful", "single feature", "unbounded"
]


@dataclass(frozen=True)
class ImmunityLimit(Record):
    """The limit RIR* of the relative immunization ratio, and where it comes from.

    Attributes
    ----------
    rir : float
        Supremum of the RIR over theta with `features` columns, m, under which the primary features
        have the rank min(m, rank(K_P)): invertible ones where m = d, of full rank for a definite
        K_P. ``inf`` where there is none.
    kappa_M : float
        Condition number of ``M = K_P^-1/2 K_H K_P^-1/2`` over its nonzero eigenvalues; the Pareto
        frontier is ``kappa_H = kappa_M * kappa_P``. ``inf`` where the supremum is.
    attained : bool
        Whether some theta reaches it (:func:`optimal_extractor` returns one).
    case : str
        ``"definite"``: both Gram matrices are; ``"singular harmful"``: K_P is definite, K_H not;
        ``"restricted"``: null(K_P) lies in null(K_H), both count on range(K_P) alone;
        ``"rank-one harmful"``: kappa_H is 1 whatever theta; ``"single feature"``: both kappas are;
        ``"unbounded"``: K_H has energy in null(K_P), where theta may stretch at no cost to the
        primary task, or theta has fewer columns than rank(K_P) and may come as close as it likes to
        null(K_H).
    kappa_P, kappa_H : float
        Condition numbers of K_P and K_H themselves (with delta, where one was given).
    rank_P, rank_H : int
        Their ranks.
    deficit : int
        Number of directions of null(K_P) in which K_H has energy.
    delta : tuple of float
        What was added to the diagonals of K_P and K_H.
    features : int
        Number of columns of theta. Below ``rank_P`` condition (c) of Definition 3.1 is lost.
    """

    rir: float
    kappa_M: float
    attained: bool
    case: Case
    kappa_P: float
    kappa_H: float
    rank_P: int
    rank_H: int
    deficit: int
    delta: tuple[float, float]
    features: int

    @property
    def why_unbounded(self) -> str:
        """Why an infinite limit is infinite, in a sentence; see `case`."""
        return (
            f"K_P has rank {self.rank_P}, and K_H (rank {self.rank_H}) has energy in "
            f"{self.deficit} directions that no primary row uses."
        )


def limit_of(
    P: Root, H: Root, delta: tuple[float, float] = (0.0, 0.0), features: int | None = None
) -> ImmunityLimit:
    """Limit from the roots (to which delta has been added)."""
    m = P.dim if features is None else features
    deficit = deficit_of(P, H)
    case: Case
    if H.rank == 1:
        kappa_M, case = 1.0, "rank-one harmful"
    elif m == 1:
        kappa_M, case = 1.0, "single feature"
    elif deficit or (m < P.rank and H.rank < P.rank):
        kappa_M, case = np.inf, "unbounded"
    else:
        kappa_M = kappa_of_pencil(P, H)
        if P.rank < P.dim:
            case = "restricted"
        else:
            case = "definite" if H.rank == H.dim else "singular harmful"
    rir = kappa_M * (P.kappa / H.kappa)
    if np.isinf(rir) and case != "unbounded":
        raise OverflowError(f"the limit passes 1.8e308: kappa(M) is {kappa_M:.3g}")
    return ImmunityLimit(
        rir=rir, kappa_M=kappa_M, attained=case != "unbounded", case=case, kappa_P=P.kappa,
        kappa_H=H.kappa, rank_P=P.rank, rank_H=H.rank, deficit=deficit, delta=delta, features=m,
    )  # fmt: skip


@underflow_is_zero
def immunity_limit(
    K_P: npt.ArrayLike | None = None, K_H: npt.ArrayLike | None = None, *,
    X_P: npt.ArrayLike | None = None, X_H: npt.ArrayLike | None = None,
    delta: float | tuple[float, float] = 0.0, features: SupportsIndex | None = None,
    ranks: Ranks | None = None, computed_in: Any = None,
) -> ImmunityLimit:  # fmt: skip
    r"""Find the largest relative immunization ratio that any invertible extractor can reach.

    With :math:`M = K_P^{-1/2} K_H K_P^{-1/2}`, every extractor obeys
    :math:`\kappa(H_H(\theta)) \le \kappa(M)\, \kappa(H_P(\theta))`, hence

    .. math:: RIR \le RIR^* = \kappa(M)\, \kappa(K_P) / \kappa(K_H).

    For definite Gram matrices this holds for theta of any shape and rank, and is attained. Where
    K_P is singular and K_H has energy in its null space, the supremum is infinite.

    Parameters
    ----------
    K_P, K_H : (d, d) array_like
        Gram matrices of the primary and the harmful inputs, symmetric positive semidefinite.
    X_P, X_H : (N_P, d) and (N_H, d) array_like
        The inputs instead, one row a sample: keeps twice the digits of the Gram matrices.
    delta : float or (float, float), default 0
        Added to the diagonals of (K_P, K_H), in their units. Feature noise of variance s^2 in N
        rows means ``delta = N s^2``.
    features : int, optional
        Number of columns of theta, m; d by default. More change nothing. Fewer attain the same
        limit where both Gram matrices are definite (two suffice), but lose primary directions.
    ranks : (int or None, int or None), optional
        Known ranks of (K_P, K_H).
    computed_in : dtype, optional
        Precision in which the inputs were computed; sets the tolerance that decides the ranks. Of
        a Gram matrix too: in float64 it is taken as summed so, and in less by its own dtype.

    Returns
    -------
    ImmunityLimit

    Raises
    ------
    ValueError
        For NaN, mismatched sizes, a matrix that is not symmetric positive semidefinite, a
        negative delta, or a task of rank 0.

    Warns
    -----
    AccuracyWarning
        Where rounding in a Gram matrix is as large as half its smallest eigenvalue.

    Notes
    -----
    Not in the paper (arXiv 2505.23760), which defines the ratio. The limit is one of the exact
    condition number; it does not bound the ridge convention ``kappa(H + ridge I)``.

    Examples
    --------
    >>> import immucond as ic
    >>> limit = ic.linear.immunity_limit([[100, 0], [0, 1]], [[2, 0], [0, 1]])
    >>> round(limit.rir), limit.case
    (2500, 'definite')
    """
    P, H, deltas = roots_plus(X_P, X_H, K_P, K_H, delta, ranks=ranks, computed_in=computed_in)
    return limit_of(P, H, deltas, features_of(features))


def features_of(features: SupportsIndex | None) -> int | None:
    """Check the number of columns of theta."""
    return None if features is None else as_count(features, "features", least=1)
