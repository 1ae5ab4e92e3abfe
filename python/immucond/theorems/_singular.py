"""Singular Gram matrices: where the limit survives, changes, or is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .._validate import FloatArray, as_float64, as_theta
from ..linear import immunity_limit, optimal_extractor
from ._instances import extractor, kappa, root, rotation, rounding, singular_values, spectrum
from ._parameters import ANGLES, MORE_GAPS, Parameters, Real, Reals, Whole
from ._theorem import OURS, Theorem, Verdict, at_most, equal


@dataclass(frozen=True)
class SingularTasks:
    """Two tasks of known ranks and an invertible extractor.

    Attributes
    ----------
    X_P : (rank_P, d) array
        Primary inputs, of full row rank.
    X_H : (rank_H, d) array
        Harmful inputs, of full row rank.
    theta : (d, d) array
        Invertible extractor.
    """

    X_P: FloatArray
    X_H: FloatArray
    theta: FloatArray

    def __post_init__(self) -> None:
        for name in ("X_P", "X_H"):
            object.__setattr__(self, name, as_float64(getattr(self, name), name))
        object.__setattr__(self, "theta", as_theta(self.theta, self.X_P.shape[1]))

    @property
    def ranks(self) -> tuple[int, int]:
        """Of K_P and K_H."""
        return self.X_P.shape[0], self.X_H.shape[0]

    @property
    def factor(self) -> FloatArray:
        """N with ``X_H = N X_P``, where null(K_P) lies within null(K_H)."""
        u, s, vt = np.linalg.svd(self.X_P, full_matrices=False)
        return np.asarray(((self.X_H @ vt.T) / s) @ u.T)

    def lost(self, rank: int) -> float:
        """Bound rounding in the condition numbers."""
        d = self.X_P.shape[1]
        own = kappa(self.X_P) * kappa(self.X_H, rank)
        return rounding(d, own**0.5, float(np.linalg.cond(self.theta)))


def _restricted(
    primary: Sequence[float], harmful: Sequence[float], null_P: int, null_H: int,
    basis: Sequence[float], inner: Sequence[float],
    theta: Sequence[float], left: Sequence[float], right: Sequence[float],
) -> SingularTasks:  # fmt: skip
    """Build range(K_H) within range(K_P), which is all but null_P directions."""
    k = len(primary) + 1
    d = k + null_P
    r = max(1, k - null_H)
    Q = rotation(basis, d)[:, :k]
    X_P = np.sqrt(spectrum(primary, k, 6.0))[:, None] * Q.T
    X_H = np.sqrt(spectrum(harmful, r, 6.0))[:, None] * (Q @ rotation(inner, k)[:, :r]).T
    return SingularTasks(X_P, X_H, extractor(theta, left, right, d, d, d))


def _bounded(case: SingularTasks) -> Verdict:
    k, r = case.ranks
    N = case.factor
    kappa_M = kappa(N, r)
    kappa_P = kappa(case.X_P @ case.theta, k)
    kappa_H = kappa(case.X_H @ case.theta, r)
    lost = case.lost(r)
    limit = immunity_limit(X_P=case.X_P, X_H=case.X_H, ranks=case.ranks)
    best = optimal_extractor(X_P=case.X_P, X_H=case.X_H, kappa_P=1.0, ranks=case.ranks)
    stretch = float(np.linalg.cond(best))
    fine = rounding(case.X_P.shape[1], max(kappa(case.X_P), kappa(case.X_H)) ** 0.5, stretch)
    return Verdict.of(
        at_most("kappa_H <= kappa(M) kappa_P", kappa_H, kappa_M * kappa_P, lost),
        equal("library's kappa(M)", limit.kappa_M, kappa_M, lost),
        equal("attained", kappa(case.X_H @ best, r), kappa_M, lost + fine),
        equal("attained at kappa_P = 1", kappa(case.X_P @ best, k), 1.0, lost + fine),
        # (c) of Definition 3.1: invertible, whatever the zero eigenvalues of M.
        at_most("theta stays invertible", stretch, 1e12, 0.0),
        ranks=case.ranks,
        kappa_M=kappa_M,
        kappa_P=kappa_P,
        kappa_H=kappa_H,
    )


def _of_rank_one(
    primary: Sequence[float], harmful: Sequence[float], null_P: int,
    basis: Sequence[float], inner: Sequence[float],
    theta: Sequence[float], left: Sequence[float], right: Sequence[float],
) -> SingularTasks:  # fmt: skip
    k = len(primary) + 1
    d = k + null_P
    X_P = root(primary, basis, d, 6.0, k)
    X_H = spectrum(harmful, 2, 6.0)[:1, None] * rotation(inner, d)[:, :1].T
    return SingularTasks(X_P, X_H, extractor(theta, left, right, d, d, d))


def _rank_one(case: SingularTasks) -> Verdict:
    k, _ = case.ranks
    kappa_H = kappa(case.X_H @ case.theta, 1)
    own = kappa(case.X_P)
    rir = kappa_H / (kappa(case.X_P @ case.theta, k) / own)
    best = optimal_extractor(X_P=case.X_P, X_H=case.X_H, ranks=case.ranks)
    limit = immunity_limit(X_P=case.X_P, X_H=case.X_H, ranks=case.ranks)
    lost = case.lost(1) + rounding(case.X_P.shape[1], own)
    return Verdict.of(
        at_most("RIR <= kappa(K_P)", rir, own, lost),
        equal("library's RIR*", limit.rir, own, lost),
        equal("attained", own / kappa(case.X_P @ best, k), own, lost),
        kappa_P=own,
        rir=rir,
    )


@dataclass(frozen=True)
class Stretched:
    """Two tasks, and how far to stretch a direction that the primary task does not see.

    Attributes
    ----------
    X_P, X_H : (n, d) arrays
        Inputs; X_P of full row rank.
    n : (d,) array
        Unit vector in null(K_P), not in null(K_H).
    c : float
        Stretch, above 1.
    """

    X_P: FloatArray
    X_H: FloatArray
    n: FloatArray
    c: float


def _stretched_case(
    primary: Sequence[float], harmful: Sequence[float], null_P: int,
    basis: Sequence[float], other: Sequence[float], null_H: int, decades: float,
) -> Stretched:  # fmt: skip
    k = len(primary) + 1
    d = k + null_P
    r = max(2, d - null_H)
    Q = rotation(basis, d)
    n = Q[:, -1]
    X_P = np.sqrt(spectrum(primary, k, 6.0))[:, None] * Q[:, :k].T
    # A harmful basis that starts near n: K_H has energy there.
    start = np.column_stack([n, Q[:, : d - 1]]) @ rotation([0.5 * a for a in other], d)
    X_H = np.sqrt(spectrum(harmful, r, 6.0))[:, None] * start[:, :r].T
    return Stretched(X_P, X_H, n, 10.0**decades)


def _unbounded(case: Stretched) -> Verdict:
    d = case.n.size
    theta = np.eye(d) + (case.c - 1) * np.outer(case.n, case.n)
    s = singular_values(case.X_H @ theta)
    rank = case.X_H.shape[0]
    energy = float(np.sum((case.X_H @ case.n) ** 2))
    top = singular_values(case.X_H)[0] ** 2
    kappa_H = float(s[0] / s[rank - 1]) ** 2
    lost = rounding(d, case.c, float(singular_values(case.X_P)[0]))
    moved = case.X_P @ theta - case.X_P
    return Verdict.of(
        at_most("c^2 n^T K_H n / lambda_1(K_H) <= kappa_H", case.c**2 * energy / top, kappa_H,
                rounding(d, kappa(case.X_H) ** 0.5, case.c)),
        equal("H_P unchanged", moved, 0.0, lost, scale=float(singular_values(case.X_P)[0])),
        c=case.c,
        kappa_H=kappa_H,
    )  # fmt: skip


@dataclass(frozen=True)
class Narrow:
    """Two tasks, K_P definite and K_H singular, and the angle of two columns.

    Attributes
    ----------
    X_P : (d, d) array
        Primary inputs of rank d.
    X_H : (r, d) array
        Harmful inputs of rank r, 2 <= r < d.
    angle : float
        Between the second column and the null space of M, in radians.
    """

    X_P: FloatArray
    X_H: FloatArray
    angle: float


def _narrow_case(
    primary: Sequence[float], harmful: Sequence[float], null_H: int,
    basis: Sequence[float], other: Sequence[float], decades: float,
) -> Narrow:  # fmt: skip
    d = len(primary) + 1
    r = max(2, d - null_H)
    return Narrow(root(primary, basis, d, 4.0), root(harmful, other, d, 2.0, r), 10.0**-decades)


def _narrow(case: Narrow) -> Verdict:
    _, s, vt = np.linalg.svd(case.X_P)
    white = vt.T / s
    _, t, wt = np.linalg.svd(case.X_H @ white)
    a, b = np.cos(case.angle), np.sin(case.angle)
    theta = white @ np.column_stack([wt[0], a * wt[-1] + b * wt[1]])
    expected = float(t[0] / (t[1] * b)) ** 2
    lost = rounding(s.size, float(s[0] / s[-1]), float(t[0] / (t[1] * b)))
    return Verdict.of(
        equal("kappa_P = 1", kappa(case.X_P @ theta), 1.0, lost),
        equal("kappa_H", kappa(case.X_H @ theta), expected, lost),
        # Grows without bound as the angle falls.
        at_most("1/sin^2 <= kappa_H", b**-2, expected, lost),
        angle=case.angle,
        kappa_H=expected,
    )


_TASKS: Parameters = {
    "primary": Reals(-8.0, 6.0, 1, 3), "harmful": MORE_GAPS, "null_P": Whole(0, 2),
    "null_H": Whole(0, 2), "basis": ANGLES, "inner": ANGLES, "theta": Reals(-8.0, 3.0, 0, 5),
    "left": ANGLES, "right": ANGLES,
}  # fmt: skip

_STRETCHED: Parameters = {
    "primary": Reals(-8.0, 6.0, 1, 3), "harmful": MORE_GAPS, "null_P": Whole(1, 3),
    "basis": ANGLES, "other": ANGLES, "null_H": Whole(0, 2), "decades": Real(0.0, 6.0),
}  # fmt: skip
_NARROW: Parameters = {
    "primary": Reals(-8.0, 6.0, 2, 5), "harmful": MORE_GAPS, "null_H": Whole(1, 3),
    "basis": ANGLES, "other": ANGLES, "decades": Real(0.0, 4.0),
}  # fmt: skip

_theorem = partial(Theorem, source=OURS, section="theory/limit#singular-gram-matrices")

SINGULAR = (
    _theorem(
        name="singular-limit", parameters=_TASKS, build=_restricted, verify=_bounded,
        statement="Where null(K_P) lies within null(K_H), the limit holds for invertible theta "
        "with kappa(M) over its nonzero eigenvalues, M taken on range(K_P), and is attained.",
        formula="null(K_P) in null(K_H): kappa(H_H) <= kappa(M) kappa(H_P)",
        hypotheses="null(K_P) within null(K_H), either may be singular; theta invertible",
    ),
    _theorem(
        name="rank-one-harmful", build=_of_rank_one, verify=_rank_one,
        statement="A harmful task of rank 1 stays at kappa 1: only the primary task can improve.",
        formula="rank(K_H) = 1: RIR <= kappa(K_P), attained",
        hypotheses="rank(K_H) = 1, theta invertible, any K_P",
        parameters={name: kind for name, kind in _TASKS.items() if name != "null_H"}
        | {"null_P": Whole(0, 2)},
    ),
    _theorem(
        name="unbounded", parameters=_STRETCHED, build=_stretched_case, verify=_unbounded,
        statement="Where K_H has energy in a direction that K_P does not see, stretching it raises "
        "kappa_H without bound and leaves H_P as it was.",
        formula="K_P n = 0: theta = I + (c-1) n n^T has H_P = K_P and kappa(H_H) >= "
        "c^2 n^T K_H n / lambda_1(K_H)",
        hypotheses="K_P n = 0, K_H n != 0, rank(K_H) >= 2, c >= 1",
    ),
    _theorem(
        name="narrow-extractor", parameters=_NARROW, build=_narrow_case, verify=_narrow,
        statement="For singular K_H an extractor with fewer columns than features has no limit.",
        formula="theta = K_P^-1/2 [w_1, cos(phi) w_0 + sin(phi) w_2], M w_0 = 0: kappa_P = 1, "
        "kappa_H = lambda_1/(lambda_2 sin^2 phi)",
        hypotheses="K_P definite, 2 <= rank(K_H) < d, m = 2",
    ),
)  # fmt: skip
