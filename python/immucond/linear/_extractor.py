"""Extractors that attain the limit, and the rotation that no rescaling of features undoes."""

from __future__ import annotations

import math
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._errors import underflow_is_zero
from .._extreme import psd_ends
from .._leveling import level
from .._rank import rank_rule
from .._task import Root, root_of, warn_if_lost
from .._two_tasks import Ranks
from .._validate import FloatArray, as_float64, as_matrix, check_real
from ._factored import Factored, factors_or_roots
from ._limit import Pencil, deficit_of, features_of, pencil


@underflow_is_zero
def optimal_extractor(
    K_P: npt.ArrayLike | None = None, K_H: npt.ArrayLike | None = None, *,
    X_P: npt.ArrayLike | None = None, X_H: npt.ArrayLike | None = None, kappa_P: float | None = 1.0,
    delta: float | tuple[float, float] = 0.0, rotate: bool = True,
    features: SupportsIndex | None = None, ranks: Ranks | None = None, computed_in: Any = None,
) -> FloatArray:  # fmt: skip
    r"""Invertible extractor that attains the limit of immunization at a chosen kappa(H_P).

    With :math:`K_H V = K_P V \Lambda`, :math:`V^T K_P V = I`, the extractors
    :math:`\theta_s = c\, V \Lambda^{s/2} Q` have :math:`\kappa(H_P) = \kappa(M)^s` and
    :math:`\kappa(H_H) = \kappa(M)^{1+s}`: the whole Pareto frontier. ``kappa_P`` picks s; at 1 the
    extractor whitens the primary features, needs no harmful data and is optimal against every
    harmful task at once.

    Parameters
    ----------
    K_P, K_H, X_P, X_H, delta, ranks, computed_in
        As in :func:`immunity_limit`.
    kappa_P : float or None, default 1
        Condition number that H_P(theta) shall have; the harmful one is ``kappa_M * kappa_P``. None
        leaves the primary one as it is, that of K_P: then the harmful one is at least
        ``kappa(K_H)``. At 1 the ratio of both is as large, and the harmful one may well be less
        than it was.
    rotate : bool, default True
        Rotate the features so that H_H(theta) has a constant diagonal. Otherwise H_H is diagonal,
        and one who standardizes the features undoes everything; with it, no rescaling D of the
        features brings kappa(D H_H D) below kappa(H_H) / d. Predictions stay as they are.
    features : int, optional
        Number of columns of theta, m; d by default. More are zero columns; with fewer than
        rank(K_P) the limit is still attained, by columns that include both extremes of the pencil,
        but primary directions are lost: condition (c) no longer holds.

    Returns
    -------
    (d, m) array
        theta, invertible for m = d, scaled so that the primary features keep their Frobenius norm.

    Raises
    ------
    ValueError
        Where the supremum is infinite, so no extractor attains it (the message names the rank
        deficit and suggests a delta); for ``kappa_P`` below 1, or above it where one direction or
        one feature is all there is.

    Warns
    -----
    AccuracyWarning
        Where rounding in a Gram matrix is as large as half its smallest eigenvalue.

    Notes
    -----
    Not in the paper (arXiv 2505.23760). On null(K_P), where it lies within null(K_H), theta only
    has to be invertible. Compute kappa(H_H) of the result from the features ``X_H theta``:
    ``theta^T K_H theta`` loses the small end.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> K_P, K_H = np.diag([100.0, 1.0]), np.diag([2.0, 1.0])
    >>> theta = ic.linear.optimal_extractor(K_P, K_H)
    >>> round(ic.linear.immunity(theta, K_P=K_P, K_H=K_H).rir)
    2500
    """
    given = X_P, X_H, K_P, K_H
    P, H = factors_or_roots(*given, delta, ranks=ranks, computed_in=computed_in)
    return extractor_of(P, H, kappa_P=kappa_P, rotate=rotate, features=features_of(features))


def extractor_of(
    P: Root | Factored,
    H: Root | Factored,
    *,
    kappa_P: float | None,
    rotate: bool,
    features: int | None = None,
) -> FloatArray:
    """Extractor from the roots (to which delta has been added)."""
    m = P.dim if features is None else features
    tau = kappa_within(P, kappa_P, m)
    refuse_unbounded(P, H, m)
    solved = pencil(P, H)
    weights = tau ** _exponents(solved)
    kept = slice(None)
    if m < P.rank:  # both extremes of the pencil stay
        kept = np.r_[: m - 1, max(m - 1, solved.rank - 1)]
        weights = weights[kept]
    columns = [solved.vectors[:, kept] * np.sqrt(weights)]
    if P.rank < P.dim:
        assert isinstance(P, Root)
        columns.append(P.null_basis / P.smallest)
    theta = np.zeros((P.dim, m))
    used = min(m, P.dim)
    theta[:, :used] = np.hstack(columns)[:, :used]
    theta *= P.frobenius / math.hypot(*np.sqrt(weights))  # their sum may overflow
    if rotate and H.rank > 1:  # kappa_H is 1 under any scaling at rank 1
        diagonal = np.zeros(used)
        values = solved.values[kept]
        diagonal[: weights.size] = values / values[0] * (weights / weights[0])
        rows = theta[:, :used].T.copy()
        level(rows, np.diag(diagonal))
        theta[:, :used] = rows.T
    return theta


def kappa_within(P: Root | Factored, kappa_P: float | None, features: int) -> float:
    """Check kappa_P, which is 1 where only one direction is left; None stands for that of P."""
    if kappa_P is None:
        kappa_P = 1.0 if 1 in (P.rank, features) else max(1.0, P.kappa)
    tau = check_real(kappa_P, "kappa_P", low=1.0)
    if tau > 1.0 and P.rank == 1:
        raise ValueError(f"kappa_P must be 1 for a primary task of rank 1, got {kappa_P}")
    if tau > 1.0 and features == 1:
        raise ValueError(f"kappa_P must be 1 for a single feature, got {kappa_P}")
    return tau


def refuse_unbounded(P: Root | Factored, H: Root | Factored, features: int) -> None:
    """Refuse tasks whose supremum is infinite: no extractor attains it."""
    if H.rank == 1 or features == 1:
        return
    deficit = deficit_of(P, H)
    if deficit:
        assert isinstance(P, Root)
        raise ValueError(_unbounded(P, H, deficit))
    if features < P.rank and H.rank < P.rank:
        raise ValueError(
            f"no extractor of {features} features attains the supremum, which is infinite: K_H has "
            f"rank {H.rank}, and fewer features than rank(K_P) = {P.rank} may come as close as "
            f"they like to its null space. Give features >= {P.rank}, or delta > 0"
        )


def _exponents(solved: Pencil) -> FloatArray:
    """``log(lambda_i / lambda_min) / log(kappa_M)``, in [0, 1]: stable where kappa_M is near 1."""
    t = np.zeros(solved.values.size)
    positive = solved.values[: solved.rank]
    if solved.rank > 1 and positive[0] > positive[-1]:
        with np.errstate(over="ignore", divide="ignore"):
            ratios = positive / positive[-1]
        if np.isinf(ratios[0]):
            raise OverflowError("kappa(M), of the harmful task on the primary one, passes 1.8e308")
        t[: solved.rank] = np.log(ratios) / np.log(ratios[0])
    else:
        t[0] = 1.0  # equal eigenvalues: any one direction sets kappa_P
    return t


def sufficient_delta(P: Root, H: Root) -> float:
    """Choose a delta for K_P with which an optimum exists: 0 where there is one already."""
    if H.rank == 1 or not deficit_of(P, H):
        return 0.0
    smallest = _smallest_eigenvalue(P)
    if not 0.0 < smallest < math.inf:
        raise OverflowError(_beyond(P))
    return smallest


def _smallest_eigenvalue(P: Root) -> float:
    with np.errstate(over="ignore", under="ignore"):
        return float(np.square(np.float64(P.scale * P.smallest)))


def _beyond(P: Root) -> str:
    return (
        f"the smallest nonzero eigenvalue of K_P, {P.scale * P.smallest:.3g} squared, is beyond "
        f"the float range: scale {P.name}"
    )


def _unbounded(P: Root, H: Root | Factored, deficit: int) -> str:
    smallest = _smallest_eigenvalue(P)
    hint = (
        f"delta = {smallest:.3g}, the smallest nonzero eigenvalue of K_P, leaves kappa(K_P) about "
        f"as it is"
        if 0.0 < smallest < math.inf
        else _beyond(P)
    )
    return (
        f"no extractor attains the supremum, which is infinite: K_P has rank {P.rank} of {P.dim}, "
        f"and K_H (rank {H.rank}) has energy in {deficit} of the {P.dim - P.rank} directions of "
        f"its null space, where theta may stretch without limit. Give delta > 0, for feature noise "
        f"of variance s^2 in N rows N s^2; {hint}"
    )


@underflow_is_zero
def blind_extractor(
    K_P: npt.ArrayLike | None = None,
    *,
    X_P: npt.ArrayLike | None = None,
    delta: float = 0.0,
    rank: SupportsIndex | None = None,
    computed_in: Any = None,
) -> FloatArray:
    r"""Blind optimum :math:`c\, K_P^{-1/2}`: attains RIR* for every harmful task, and needs none.

    It whitens the primary features, so :math:`\kappa(H_P) = 1` and
    :math:`\kappa(H_H) = \kappa(M)`. Harmful data are worth something only for
    :math:`\kappa(H_P) > 1`.

    Parameters
    ----------
    K_P, X_P, delta, computed_in
        As in :func:`immunity_limit`, of the primary task alone.
    rank : int, optional
        Known rank of K_P.

    Returns
    -------
    (d, d) array
        theta, symmetric positive definite, scaled so that the primary features keep their Frobenius
        norm. On null(K_P) it is a multiple of the identity; a harmful task with energy there has
        no limit to attain.

    Raises
    ------
    ValueError
        For NaN, a K_P that is not symmetric positive semidefinite, a negative delta or rank 0.
    TypeError
        Unless exactly one of K_P and X_P is given.

    Warns
    -----
    AccuracyWarning
        Where rounding in K_P is as large as half its smallest eigenvalue.

    Notes
    -----
    Ours. Follow it by the rotation of :func:`leveling_rotation` once a harmful task is known, so
    that rescaled features undo nothing; any orthogonal factor on the right keeps the optimum.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> K_P = np.diag([100.0, 1.0])
    >>> theta = ic.linear.blind_extractor(K_P)
    >>> harmful = (np.diag([2.0, 1.0]), np.array([[1.0, 0.9], [0.9, 1.0]]))
    >>> reports = [ic.linear.immunity(theta, K_P=K_P, K_H=K_H) for K_H in harmful]
    >>> [round(report.rir / report.limit.rir, 9) for report in reports]
    [1.0, 1.0]
    """
    P = root_of(X_P, K_P, "X_P", "K_P", rank=rank, computed_in=computed_in)
    P = P.plus(check_real(delta, "delta", low=0.0))
    warn_if_lost(P)
    inverse = np.full(P.dim, 1.0 / P.sigma[P.rank - 1])
    inverse[: P.rank] = 1.0 / P.sigma[: P.rank]
    theta: FloatArray = (P.vectors * inverse) @ P.vectors.T
    theta *= np.linalg.norm(P.sigma) / np.sqrt(P.rank)
    theta += theta.T.copy()
    return theta / 2


# ---- the rotation ----


@underflow_is_zero
def leveling_rotation(H: npt.ArrayLike) -> FloatArray:
    r"""Orthogonal Q for which ``diag(Q^T H Q)`` is constant, by at most m - 1 Givens rotations.

    Standardized features, a Jacobi preconditioner and, roughly, Adam rescale one feature at a time:
    ``D H D`` with a positive diagonal D. Where H is diagonal that brings kappa down to 1. After the
    rotation no D gains more than a factor m:

    .. math:: \kappa(D H D) \ge \frac{\operatorname{tr} H / m}{\lambda_{\min}(H)}
              \ge \frac{\kappa(H)}{m}.

    Parameters
    ----------
    H : (m, m) array_like
        Hessian of the features, symmetric positive semidefinite.

    Returns
    -------
    (m, m) array
        Q. Serve ``theta Q`` in place of theta: every condition number stays as it is, and with the
        head ``Q^T omega`` every prediction does.

    Raises
    ------
    ValueError
        Where H is not symmetric, positive semidefinite, finite and nonzero.

    Notes
    -----
    Ours. That a rotation can make the diagonal of a symmetric matrix constant goes back to
    Schur and Horn; :func:`optimal_extractor` applies this one by default.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> H = np.diag([100.0, 1.0, 1.0])
    >>> Q = ic.linear.leveling_rotation(H)
    >>> (Q.T @ H @ Q).diagonal().round(12)
    array([34., 34., 34.])
    """
    given = as_matrix(H, "H")
    rule = rank_rule(given.shape, given.dtype, rank=None, rtol=None, computed_in=None)
    psd_ends(given, rule, "H")  # refuses what is not symmetric positive semidefinite
    A = as_float64(given, "H")
    rows = np.eye(A.shape[0])
    level(rows, A / np.max(np.abs(A)))
    return rows.T
