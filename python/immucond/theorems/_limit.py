"""How far immunization can go: the limit, the frontier, and all that attains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .._validate import FloatArray, as_float64, check_real
from ..linear import optimal_extractor
from ._instances import (
    Tasks,
    extractor,
    filled,
    inputs,
    invertible,
    kappa,
    kappa_M,
    pencil,
    rotation,
    rounding,
)
from ._parameters import ANGLES, GAPS, MORE_GAPS, Parameters, Real, Reals, Whole
from ._theorem import OURS, Theorem, Verdict, at_most, equal


def tasks(
    theta: Sequence[float], left: Sequence[float], right: Sequence[float], columns: int, lost: int,
    **pair: Sequence[float],
) -> Tasks:  # fmt: skip
    """Two tasks, and an extractor of any shape and rank."""
    d = len(pair["primary"]) + 1
    rank = max(1, min(d, columns) - lost)
    found = extractor(theta, left, right, d, columns, rank)
    return Tasks(*inputs(**pair, decades=(12.0, 8.0)), found, rank)


PAIR: Parameters = {"primary": GAPS, "harmful": MORE_GAPS, "basis": ANGLES, "other": ANGLES}
EXTRACTOR: Parameters = {
    "theta": Reals(-8.0, 3.0, 0, 5), "left": ANGLES, "right": ANGLES, "columns": Whole(1, 8),
    "lost": Whole(0, 2),
}  # fmt: skip


def _limit(case: Tasks) -> Verdict:
    d = case.dim
    of_M = kappa_M(case.X_P, case.X_H)
    kappa_P = kappa(case.X_P @ case.theta, case.rank)
    kappa_H = kappa(case.X_H @ case.theta, case.rank)
    own_P, own_H = kappa(case.X_P), kappa(case.X_H)
    lost = rounding(d, case.condition)
    features = rounding(d, max(own_P, own_H) ** 0.5, case.kappa_theta)
    rir_limit = of_M * own_P / own_H
    return Verdict.of(
        at_most("kappa_H <= kappa(M) kappa_P", kappa_H, of_M * kappa_P, lost + features),
        at_most("RIR <= RIR*", (kappa_H / own_H) / (kappa_P / own_P), rir_limit, lost + features),
        at_most("1 <= RIR*", 1.0, rir_limit, lost),
        at_most("RIR* <= kappa(K_P)^2", rir_limit, own_P**2, lost),
        equal("library's RIR*", case.limit, rir_limit, 2 * lost),
        kappa_M=of_M,
        kappa_P=kappa_P,
        kappa_H=kappa_H,
        rir_limit=rir_limit,
    )


@dataclass(frozen=True)
class Frontier:
    """Two tasks, and the point of the frontier to reach.

    Attributes
    ----------
    X_P, X_H : (n, d) arrays
        Inputs of full column rank.
    kappa_P : float
        What the primary task shall have.
    more : int
        Columns beyond d, or fewer than d where negative (but at least 2).
    """

    X_P: FloatArray
    X_H: FloatArray
    kappa_P: float
    more: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "X_P", as_float64(self.X_P, "X_P"))
        object.__setattr__(self, "X_H", as_float64(self.X_H, "X_H"))
        check_real(self.kappa_P, "kappa_P", low=1.0)

    @property
    def tasks(self) -> Tasks:
        """Both tasks, with the identity as the extractor."""
        return Tasks(self.X_P, self.X_H, np.eye(self.X_P.shape[1]))


def _frontier_case(decades: float, more: int, **pair: Sequence[float]) -> Frontier:
    return Frontier(*inputs(**pair), 10.0**decades, more)


def _frontier(case: Frontier) -> Verdict:
    both, tau = case.tasks, case.kappa_P
    d = both.dim
    V, values = pencil(case.X_P, case.X_H)
    of_M = float(values[0] / values[-1])
    # tau = kappa(M)^s; where all generalized eigenvalues are equal, any one direction does it.
    logs = np.log(values / values[-1])
    shares = logs / logs[0] if logs[0] > 0 else np.arange(d - 1, -1, -1) / (d - 1)
    theta = V * tau ** (shares / 2)
    if case.more >= 0:
        theta = np.hstack([theta, np.zeros((d, case.more))])
    else:  # both extremes stay
        kept = max(2, d + case.more)
        theta = theta[:, [*range(kept - 1), d - 1]]
    rank = min(theta.shape)
    lost = both.lost(kappa(theta, rank) ** 0.5)
    found = optimal_extractor(X_P=case.X_P, X_H=case.X_H, kappa_P=tau, ranks=(d, d))
    return Verdict.of(
        equal("kappa_P = tau", kappa(case.X_P @ theta, rank), tau, lost),
        equal("kappa_H = kappa(M) tau", kappa(case.X_H @ theta, rank), of_M * tau, lost),
        equal("library's kappa_P", kappa(case.X_P @ found), tau, lost),
        equal("library's kappa_H", kappa(case.X_H @ found), of_M * tau, lost),
        kappa_M=of_M,
        tau=tau,
    )


def _optima(case: Tasks) -> Verdict:
    """Bound kappa_H by how far e_1 and e_d are from the ends of B = A A^T, A = V^-1 theta."""
    V, values = pencil(case.X_P, case.X_H)
    A = np.linalg.solve(V, case.theta)
    u, s, _ = np.linalg.svd(A)
    weights = (s / s[-1]) ** 2  # spectrum of B, from tau to 1
    tau = float(weights[0])
    at_top = float(u[0] ** 2 @ weights)  # e_1^T B e_1 <= tau
    at_bottom = float(u[-1] ** 2 @ (1 / weights))  # e_d^T B^-1 e_d <= 1
    top = values[1] * tau + (values[0] - values[1]) * at_top
    bottom = 1 / values[-2] + (1 / values[-1] - 1 / values[-2]) * at_bottom
    kappa_H = kappa(case.X_H @ case.theta)
    kappa_P = kappa(case.X_P @ case.theta)
    lost = rounding(case.dim, case.condition, float(np.linalg.cond(case.theta)))
    limit = values[0] / values[-1] * tau
    return Verdict.of(
        equal("kappa_P = kappa(B)", kappa_P, tau, lost),
        at_most("kappa_H <= bound", kappa_H, top * bottom, lost),
        at_most("bound <= kappa(M) tau", top * bottom, limit, lost), kappa_H=kappa_H,
        bound=top * bottom, limit=limit, at_top=at_top / tau, at_bottom=at_bottom,
    )  # fmt: skip


@dataclass(frozen=True)
class Optimum:
    """Two tasks and one of their optima, ``V diag(tau, W, 1)^(1/2) Q``.

    Attributes
    ----------
    X_P, X_H : (n, d) arrays
        Inputs of full column rank.
    weights : (d,) array
        Spectrum of ``diag(tau, W, 1)``: tau, then the eigenvalues of W in [1, tau], then 1.
    middle : (d - 2, d - 2) array
        Eigenvectors of W.
    Q : (d, d) array
        Orthogonal.
    """

    X_P: FloatArray
    X_H: FloatArray
    weights: FloatArray
    middle: FloatArray
    Q: FloatArray


def _optimum_case(
    decades: float, shares: Sequence[float], middle: Sequence[float], right: Sequence[float],
    **pair: Sequence[float],
) -> Optimum:  # fmt: skip
    d = len(pair["primary"]) + 1
    weights = 10.0 ** (decades * np.concatenate([[1.0], filled(shares, d - 2), [0.0]]))
    return Optimum(*inputs(**pair), weights, rotation(middle, d - 2), rotation(right, d))


def _optimum(case: Optimum) -> Verdict:
    V, values = pencil(case.X_P, case.X_H)
    d, tau = values.size, float(case.weights[0])
    block = np.eye(d)
    block[1:-1, 1:-1] = case.middle
    theta = (V @ block) * np.sqrt(case.weights) @ case.Q
    limit = float(values[0] / values[-1]) * tau
    both = Tasks(case.X_P, case.X_H, theta)
    lost = rounding(d, both.condition, np.sqrt(tau))
    lost += rounding(d, max(kappa(case.X_P), kappa(case.X_H)) ** 0.5, both.kappa_theta)
    return Verdict.of(
        equal("kappa_P = tau", kappa(case.X_P @ theta), tau, lost),
        equal("kappa_H = kappa(M) tau", kappa(case.X_H @ theta), limit, lost),
        tau=tau,
        limit=limit,
    )


SPREAD: Parameters = PAIR | {"primary": Reals(-3.0, 4.0, 1, 5), "harmful": Reals(-3.0, 4.0, 0, 5)}
DEFINITE = "K_P and K_H definite"

_theorem = partial(Theorem, source=OURS)

LIMIT = (
    _theorem(
        name="limit", section="theory/limit#the-limit", parameters=PAIR | EXTRACTOR, build=tasks,
        verify=_limit,
        statement="No extractor, of any shape and rank, makes the harmful task worse than kappa(M) "
        "times the primary one; so RIR <= RIR*, between 1 and kappa(K_P)^2.",
        formula="kappa(H_H) <= kappa(M) kappa(H_P); RIR <= RIR* = kappa(M) kappa(K_P)/kappa(K_H); "
        "1 <= RIR* <= kappa(K_P)^2; M = K_P^-1/2 K_H K_P^-1/2",
        hypotheses=f"{DEFINITE}, theta != 0 of any shape and rank",
    ),
    _theorem(
        name="frontier", section="theory/limit#the-frontier",
        parameters=SPREAD | {"decades": Real(0.0, 3.0), "more": Whole(-2, 2)}, build=_frontier_case,
        verify=_frontier,
        statement="The limit is attained at every kappa_P >= 1, by columns of V Lambda^(s/2): as "
        "many as there are features, more, or fewer with both extremes among them.",
        formula="theta_s = V Lambda^(s/2): kappa_P = kappa(M)^s, kappa_H = kappa(M)^(1+s)",
        hypotheses=f"{DEFINITE}; at least 2 columns",
    ),
    _theorem(
        name="all-optima", section="theory/limit#all-optima", build=_optimum_case, verify=_optimum,
        statement="Every V diag(tau, W, 1)^(1/2) Q with I <= W <= tau I is optimal.",
        formula="kappa_P = tau, kappa_H = kappa(M) tau",
        hypotheses=f"{DEFINITE}; Q orthogonal",
        parameters=SPREAD
        | {
            "decades": Real(0.0, 3.0),
            "shares": Reals(0.0, 1.0, 0, 4),
            "middle": ANGLES,
            "right": ANGLES,
        },
    ),
    _theorem(
        name="no-other-optima", section="theory/limit#all-optima",
        parameters=SPREAD | {"theta": Reals(-3.0, 2.0, 0, 5), "left": ANGLES, "right": ANGLES},
        build=invertible, verify=_optima,
        statement="Nothing else is: kappa_H falls short of the limit by how far B = V^-1 theta "
        "theta^T V^-T, scaled to [1, tau], is from having e_1 and e_d as its extreme eigenvectors.",
        formula="kappa_H <= [lambda_2 tau + (lambda_1 - lambda_2) e_1^T B e_1] "
        "[1/lambda_{d-1} + (1/lambda_d - 1/lambda_{d-1}) e_d^T B^-1 e_d] <= kappa(M) tau",
        hypotheses=f"{DEFINITE}, theta invertible; for uniqueness, lambda_1 > lambda_2 and "
        "lambda_{d-1} > lambda_d",
    ),
)  # fmt: skip
