"""Optima to choose from: blind, near to the identity, for several tasks, or folded into a net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .._validate import FloatArray
from ..linear import optimal_extractor
from ._instances import (
    EPS,
    Tasks,
    extractor,
    filled,
    gaussian,
    inputs,
    kappa,
    kappa_M,
    rir,
    root,
    rounding,
    singular_values,
    whitening,
)
from ._limit import DEFINITE, EXTRACTOR, PAIR, SPREAD, tasks
from ._parameters import ANGLES, GAPS, MORE_GAPS, SEED, Parameters, Real, Reals, Whole
from ._theorem import OURS, Theorem, Verdict, at_most, equal


def _blind(case: Tasks) -> Verdict:
    """Theta of K_P alone; only the check looks at the harmful task."""
    blind = whitening(case.X_P) @ np.linalg.qr(case.theta)[0]
    found, limit = rir(case.X_P, case.X_H, blind), case.limit
    lost = rounding(case.dim, case.condition)
    return Verdict.of(
        equal(
            "kappa_P = 1", kappa(case.X_P @ blind), 1.0, rounding(case.dim, kappa(case.X_P) ** 0.5)
        ),
        equal("RIR = RIR*", found, limit, lost),
        rir=found,
        rir_limit=limit,
    )


def _nearest(case: Tasks) -> Verdict:
    """Distance ||X_P (theta - I)||_F of the claimed optimum and of another one."""
    _, s, vt = np.linalg.svd(case.X_P, full_matrices=False)
    d = case.dim
    inverse = (vt.T / s) @ vt
    best = inverse * (s.sum() / d)
    c = float(np.linalg.norm(case.theta))
    another = c * inverse @ np.linalg.qr(case.theta)[0]
    distance, other = (
        float(np.linalg.norm(case.X_P @ (theta - np.eye(d)))) for theta in (best, another)
    )
    lost = 64 * d * EPS * float(s[0] * np.linalg.norm(best, 2) + s[0]) / max(other, EPS)
    return Verdict.of(
        at_most("no optimum is nearer", distance, other, lost),
        equal(
            "distance",
            distance**2,
            float(s @ s) - s.sum() ** 2 / d,
            64 * d * EPS * float(s[0] / s[-1]),
            scale=float(s @ s),
        ),
        kappa_P=kappa(case.X_P @ best),
        distance=distance,
        other=other,
    )


@dataclass(frozen=True)
class SeveralTasks:
    """Several primary tasks, a harmful one, and an extractor.

    Attributes
    ----------
    primary : tuple of (n, d) arrays
        Inputs of the primary tasks.
    X_H : (n, d) array
        Harmful inputs.
    theta : (d, d) array
        Extractor.
    """

    primary: tuple[FloatArray, ...]
    X_H: FloatArray
    theta: FloatArray


def _several_case(
    primary: Sequence[float], second: Sequence[float], harmful: Sequence[float],
    basis: Sequence[float], other: Sequence[float], theta: Sequence[float], left: Sequence[float],
) -> SeveralTasks:  # fmt: skip
    d = len(primary) + 1
    both = root(primary, [], d, 8.0), root(second, basis, d, 8.0)
    return SeveralTasks(both, root(harmful, other, d, 8.0), extractor(theta, left, [], d, d, d))


def _several(case: SeveralTasks) -> Verdict:
    kappa_H = kappa(case.X_H @ case.theta)
    bounds, lost = [], 0.0
    for X in case.primary:
        both = Tasks(X, case.X_H, case.theta)
        bounds.append(kappa_M(X, case.X_H) * kappa(X @ case.theta))
        lost = max(lost, rounding(both.dim, both.condition))
        own = max(kappa(X), kappa(case.X_H)) ** 0.5
        lost = max(lost, rounding(both.dim, own, both.kappa_theta))
    return Verdict.of(
        at_most("kappa_H <= min over tasks", kappa_H, min(bounds), 2 * lost),
        kappa_H=kappa_H,
        bounds=bounds,
    )


@dataclass(frozen=True)
class Rescaled:
    """Two tasks, and the factors by which an attacker rescales the features.

    Attributes
    ----------
    X_P, X_H : (n, d) arrays
        Inputs of full column rank.
    kappa_P : float
        Point of the frontier.
    factors : (d,) array
        Positive.
    """

    X_P: FloatArray
    X_H: FloatArray
    kappa_P: float
    factors: FloatArray


def _rescaled_case(decades: float, factors: Sequence[float], **pair: Sequence[float]) -> Rescaled:
    d = len(pair["primary"]) + 1
    return Rescaled(*inputs(**pair), 10.0**decades, 10.0 ** filled(factors, d))


def _rotation(case: Rescaled) -> Verdict:
    d = case.X_P.shape[1]
    keywords = {"X_P": case.X_P, "X_H": case.X_H, "kappa_P": case.kappa_P, "ranks": (d, d)}
    theta = optimal_extractor(**keywords)  # type: ignore[arg-type]
    plain = optimal_extractor(**keywords, rotate=False)  # type: ignore[arg-type]
    Z = case.X_H @ theta
    s = singular_values(Z)
    diagonal = np.sum(Z**2, axis=0)
    bound = float(diagonal.mean()) / float(s[-1]) ** 2
    spread = float(np.linalg.cond(theta))
    lost = rounding(d, kappa(case.X_H) ** 0.5, spread)
    lost += rounding(d, (kappa(case.X_P) * kappa(case.X_H)) ** 0.5)
    attacked = kappa(Z * case.factors)
    Y = case.X_H @ plain
    undone = kappa(Y / np.linalg.norm(Y, axis=0))
    return Verdict.of(
        equal("constant diagonal", diagonal, diagonal.mean(), lost),
        at_most("bound <= kappa(D H D)", bound, attacked, lost * float(np.ptp(case.factors) + 1)),
        at_most("kappa(H)/m <= bound", kappa(Z) / d, bound, lost),
        equal("kappa_P as before", kappa(case.X_P @ theta), case.kappa_P, lost),
        equal("unrotated: undone by scaling", undone, 1.0, lost * kappa(Y) ** 0.5),
        kappa_H=kappa(Z),
        bound=bound,
        after_rescaling=attacked,
    )


# Six features, and a square theta of full rank.
_SQUARE: Parameters = (
    PAIR
    | EXTRACTOR
    | {"columns": Whole(6, 6), "lost": Whole(0, 0), "primary": Reals(-8.0, 6.0, 5, 5)}
)
_theorem = partial(Theorem, source=OURS)

OPTIMA = (
    _theorem(
        name="blind-optimum", section="theory/limit#the-blind-optimum", parameters=_SQUARE,
        build=tasks, verify=_blind,
        statement="Whitening the primary task attains the limit against every harmful task at "
        "once, without looking at one.",
        formula="theta = c K_P^-1/2 Q: kappa_P = 1, RIR = RIR* for every K_H",
        hypotheses=DEFINITE,
    ),
    _theorem(
        name="nearest-optimum", section="theory/limit#the-blind-optimum", parameters=_SQUARE,
        build=tasks, verify=_nearest,
        statement="Among the optima with kappa_P = 1, the one nearest to the identity on primary "
        "inputs is K_P^-1/2 tr(K_P^1/2)/d.",
        formula="argmin ||X_P (c K_P^-1/2 Q - I)||_F: Q = I, c = tr(K_P^1/2)/d",
        hypotheses="K_P definite",
    ),
    _theorem(
        name="several-primary-tasks", section="theory/limit#the-blind-optimum", build=_several_case,
        verify=_several,
        statement="With several primary tasks the tightest of their limits holds.",
        formula="kappa_H <= min_i kappa(M_i) kappa(H_Pi)",
        hypotheses="all Gram matrices definite",
        parameters={
            "primary": GAPS, "second": MORE_GAPS, "harmful": MORE_GAPS, "basis": ANGLES,
            "other": ANGLES, "theta": Reals(-8.0, 3.0, 0, 5), "left": ANGLES,
        },
    ),
    _theorem(
        name="rotation", section="theory/limit#rotate",
        parameters=SPREAD | {"decades": Real(0.0, 3.0), "factors": Reals(-3.0, 3.0, 0, 6)},
        build=_rescaled_case, verify=_rotation,
        statement="A rotation of the features that makes the diagonal of H_H constant defeats "
        "every per-feature rescaling, and costs nothing; without it, rescaling undoes everything.",
        formula="diag(H_H) = tr(H_H)/m: kappa(D H_H D) >= (tr H_H/m)/lambda_min(H_H) >= "
        "kappa(H_H)/m for every diagonal D > 0",
        hypotheses=DEFINITE,
    ),
)  # fmt: skip


# ---- folded into a network ----


@dataclass(frozen=True)
class Net:
    """Features of a net on both tasks, its head, and a map to put after the features.

    Attributes
    ----------
    Z_P, Z_H : (N, m) arrays
        Features of the primary and the harmful samples.
    omega : (m, c) array
        Primary head.
    A : (m, m) array
        Invertible map.
    """

    Z_P: FloatArray
    Z_H: FloatArray
    omega: FloatArray
    A: FloatArray


def _net(
    seed: int, features: int, gaps: Sequence[float], left: Sequence[float], right: Sequence[float]
) -> Net:
    """Two-layer ReLU net with Gaussian weights, on Gaussian inputs of two tasks."""
    hidden, inputs, rows = 16, 8, 24
    W, V = gaussian(seed, inputs, hidden), gaussian(seed + 1, hidden, features)
    scale = np.geomspace(1.0, 0.1, inputs)
    Z_P, Z_H = (
        np.maximum(gaussian(seed + i, rows, inputs) * s @ W, 0.0) @ V
        for i, s in ((2, scale), (3, scale[::-1]))
    )
    A = extractor(gaps, left, right, features, features, features)
    return Net(Z_P, Z_H, gaussian(seed + 4, features, 2), A)


def _fold(case: Net) -> Verdict:
    m = case.A.shape[0]
    spread = float(np.linalg.cond(case.A))
    own_P, own_H = kappa(case.Z_P) ** 0.5, kappa(case.Z_H) ** 0.5
    lost = rounding(m, max(own_P, own_H), spread) + rounding(m, own_P, own_H)
    before = case.Z_P @ case.omega
    served_P, served_H = case.Z_P @ case.A, case.Z_H @ case.A
    folded = np.linalg.solve(case.A, case.omega)
    size = float(np.linalg.norm(case.Z_P, 2) * np.linalg.norm(case.omega, 2))
    # The same limit with K := H(theta_0), attained by whitening the primary features.
    limit = Tasks(case.Z_P, case.Z_H, case.A).limit
    of_M = kappa_M(case.Z_P, case.Z_H)
    return Verdict.of(
        equal("predictions", served_P @ folded, before, rounding(m, spread**2), scale=size),
        at_most("kappa_H <= kappa(M) kappa_P", kappa(served_H), of_M * kappa(served_P), lost),
        equal("RIR* attained", rir(case.Z_P, case.Z_H, whitening(case.Z_P)), limit, lost),
        # Whitening what is served undoes A, whatever A is.
        equal("whitening removes it", kappa(served_H @ whitening(served_H)), 1.0, lost),
        kappa_P=kappa(served_P),
        kappa_H=kappa(served_H),
        rir_limit=limit,
    )


DEEP = (
    Theorem(
        name="fold", source=OURS, section="theory/limit#deep-nets", build=_net, verify=_fold,
        statement="A linear map A after the features, its inverse folded into the head, leaves "
        "every primary prediction as it was and maps both Hessians; the same limit holds. "
        "Whitening the served features removes it.",
        formula="Z A (A^-1 omega) = Z omega; (H_P, H_H) -> (A^T H_P A, A^T H_H A)",
        hypotheses="A invertible, features of full column rank on both tasks",
        parameters={
            "seed": SEED, "features": Whole(2, 6), "gaps": Reals(-8.0, 3.0, 0, 5), "left": ANGLES,
            "right": ANGLES,
        },
    ),
)  # fmt: skip
