"""How fast a linear probe converges, and what kappa does not say of its loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .._condition import condition_number
from .._validate import FloatArray, as_float64, as_targets
from ..probing import attack_cost, probe
from ._instances import EPS, filled, kappa, rotation, rounding, singular_values, spectrum
from ._parameters import ANGLES, GAPS, Parameters, Real, Reals, Whole
from ._theorem import OURS, PAPER, Theorem, Verdict, at_most, equal

STEPS = 60


@dataclass(frozen=True)
class Probe:
    """Features and targets of a linear probe that starts at w = 0.

    Attributes
    ----------
    Z : (N, m) array
        Features.
    y : (N, c) array
        Targets of c heads.
    weight_decay : float
        mu in ``||Z w - y||^2 + mu ||w||^2``.
    """

    Z: FloatArray
    y: FloatArray
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        Z = as_float64(self.Z, "Z")
        object.__setattr__(self, "Z", Z)
        object.__setattr__(self, "y", as_targets(self.y, Z.shape[0], "y", "Z"))


def _probe(
    gaps: Sequence[float], rows: int, left: Sequence[float], right: Sequence[float],
    head: Sequence[float], residual: Sequence[float], decades: float = 8.0,
) -> Probe:  # fmt: skip
    """Build features with a Hessian spectrum, and targets of some size in each direction."""
    k = len(gaps) + 1
    N = k + rows
    U = rotation(left, N)
    Z = (U[:, :k] * np.sqrt(spectrum(gaps, k, decades))) @ rotation(right, k).T
    return Probe(Z, (U[:, :k] @ _powers(head, k) + U[:, k:] @ _powers(residual, rows))[:, None])


def _powers(exponents: Sequence[float], size: int) -> FloatArray:
    """Powers of ten, none of them 0: missing exponents are."""
    return np.power(10.0, filled(exponents, size))


def _two_heads(
    gaps: Sequence[float], left: Sequence[float], right: Sequence[float],
    first: Sequence[float], second: Sequence[float],
) -> Probe:  # fmt: skip
    one, two = (_probe(gaps, 0, left, right, head, []) for head in (first, second))
    return Probe(one.Z, np.hstack([one.y, two.y]))


def _line_search(case: Probe) -> Verdict:
    trace = probe(case.Z, case.y, method="gd", steps=STEPS, rank=min(case.Z.shape))
    t = np.arange(trace.norm_ratio.size)
    bound = (1 - 1 / trace.kappa) ** t
    # Far below rounding in w* itself, both are 0.
    floor = (EPS * case.Z.size) ** 2
    own = kappa(case.Z)
    slack = (bound + floor - trace.norm_ratio) / (bound + floor)
    at = int(np.argmin(slack))
    return Verdict.of(
        at_most("norm ratio <= (1 - 1/kappa)^t", trace.norm_ratio[at], bound[at] + floor,
                STEPS * rounding(case.Z.shape[1], 1.0)),
        equal("library's kappa", trace.kappa, own, rounding(max(case.Z.shape), own**0.5)),
        kappa=trace.kappa,
        step=at,
        norm_ratio=float(trace.norm_ratio[at]),
        bound=float(bound[at]),
    )  # fmt: skip


@dataclass(frozen=True)
class Descent:
    """A quadratic in its eigenbasis, a constant step, and an error to reduce.

    Attributes
    ----------
    sigma : (k,) array
        Eigenvalues of the true Hessian, descending.
    error : (k,) array
        ``w_0 - w*`` along each eigenvector.
    share : float
        Where the step lies in the interval of Eq. 2, from 0 to 1.
    """

    sigma: FloatArray
    error: FloatArray
    share: float


def _descent(gaps: Sequence[float], error: Sequence[float], share: float) -> Descent:
    k = len(gaps) + 1
    return Descent(spectrum(gaps, k, 8.0), _powers(error, k), share)


def _run(sigma: FloatArray, error: FloatArray, eta: float) -> FloatArray:
    """Squared norm ratios of gradient descent with that step."""
    e, squares = error.copy(), []
    for _ in range(STEPS + 1):
        squares.append(float(e @ e))
        e = e - eta * (sigma * e)
    return np.asarray(np.array(squares) / squares[0])


def _constant_step(case: Descent) -> Verdict:
    sigma = case.sigma
    first, last, k = float(sigma[0]), float(sigma[-1]), sigma.size
    excess = float(sigma[0] - sigma[-1]) / last  # kappa - 1, without cancellation
    rate = excess / (1 + excess)  # 1 - 1/kappa
    root = math.sqrt(rate)
    low, high = (1 - root) / last, (1 + root) / first
    t = np.arange(STEPS + 1)
    lost = 16 * STEPS * EPS * (1 + 1 / excess)
    floor = (EPS * k) ** 2
    best = (excess / (2 + excess)) ** 2
    claims = []
    for name, eta, falls in (
        ("Eq. 2 in the interval", low + case.share * (high - low), rate),
        ("Eq. 2 in the interval", 1 / first, rate),
        ("best constant step", 2 / (first + last), best),
    ):
        ratios = _run(sigma, case.error, eta)
        bound = falls**t + floor
        at = int(np.argmin((bound - ratios) / bound))
        claims.append(at_most(name, float(ratios[at]), float(bound[at]), lost))
    # Outside, the slowest or the fastest eigenvector alone breaks it in one step.
    ends = np.eye(k)[[-1, 0]]
    for eta, start in ((low * (1 - 1e-3), ends[0]), (high * (1 + 1e-3), ends[1])):
        after = float(_run(sigma, start, eta)[1])
        claims.append(at_most("Eq. 2 fails outside", rate, after, lost))
    slow = _run(sigma, ends[0], 1 / first)[1]
    claims.append(equal("(1 - 1/kappa)^(2t) at 1/sigma_1 is sharp", slow, rate**2, lost,
                        scale=1.0))  # fmt: skip
    return Verdict.of(*claims, kappa=1 + excess, low=low, high=high)


def _loss_curve(case: Probe) -> Verdict:
    """Gradient descent on the weights themselves, against the closed form."""
    Z, y = case.Z, case.y
    u, s, _ = np.linalg.svd(Z, full_matrices=False)
    H = Z.T @ Z
    sigma, energy = s**2, np.sum((u.T @ y) ** 2, axis=1)
    best = float(np.sum((y - u @ (u.T @ y)) ** 2))
    w = np.zeros((Z.shape[1], y.shape[1]))
    measured, predicted = [], []
    for t in range(STEPS + 1):
        measured.append(float(np.sum((Z @ w - y) ** 2)))
        predicted.append(best + float(energy @ (1 - sigma / sigma[0]) ** (2 * t)))
        w = w - (H @ w - Z.T @ y) / sigma[0]
    size = float(np.sum(y**2))
    lost = 16 * max(Z.shape) * STEPS * EPS
    return Verdict.of(
        equal("loss_t", measured, predicted, lost, scale=size),
        kappa=float(sigma[0] / sigma[-1]),
        loss=measured[-1] / size,
    )


def _attack_cost(case: Probe) -> Verdict:
    """Bounds from one to three products, against the whole spectrum."""
    u, s, _ = np.linalg.svd(case.Z, full_matrices=False)
    seen = u.T @ case.y
    total, best = float(np.sum(case.y**2)), float(np.sum((case.y - u @ seen) ** 2))
    share = (np.sum(seen**2, axis=1), (s / s[0]) ** 2)
    kappa_H = float(s[0] / s[-1]) ** 2
    lost = 16 * case.Z.size * EPS
    # Where eigenvalues are close beside a small one, the Krylov minimum hangs on their distance.
    shaky = min(lost * kappa_H, 1e-3)
    claims = []
    for k in (1, 2, 3):
        cost = attack_cost(case.Z, case.y, products=k, rank=s.size)
        for t in (k, 10, 1000, 10**6):
            left = best + float(share[0] @ (1.0 - share[1]) ** (2 * t))
            lower, _, upper = cost.loss(t)
            for name, small, large in (
                ("Gauss <= loss", lower, left),
                ("loss <= Gauss-Radau", left, upper),
            ):
                claims.append(at_most(f"{name}, k = {k}", small, large + lost * total, lost))
        cg = float(probe(case.Z, case.y, method="cg", steps=k, rank=s.size).loss[-1])
        claims.append(at_most(f"Krylov <= conjugate gradients, k = {k}", cost.krylov_loss(k),
                              cg + shaky * total, shaky))  # fmt: skip
    return Verdict.of(*claims, kappa=kappa_H, loss=total)


def _decayed(
    gaps: Sequence[float], rows: int, left: Sequence[float], right: Sequence[float],
    missing: int, decades: float,
) -> Probe:  # fmt: skip
    case = _probe(gaps, rows, left, right, [], [], 12.0)
    Z = np.hstack([case.Z, np.zeros((case.Z.shape[0], missing))])
    return Probe(Z, case.y, 10.0**decades)


def _weight_decay(case: Probe) -> Verdict:
    s = singular_values(case.Z)
    m, mu = case.Z.shape[1], case.weight_decay
    s = np.append(s, np.zeros(m))[:m]
    capped = float(s[0] ** 2 + mu) / mu
    # H + mu I = A^T A: the singular values of A keep the digits that a Gram matrix of Z would not.
    A = np.vstack([case.Z, mu**0.5 * np.eye(m)])
    found = condition_number(A) ** 2
    exact = float(s[0] ** 2 + mu) / float(s[-1] ** 2 + mu)
    lost = rounding(max(case.Z.shape), max(1.0, float(s[0]) / max(float(s[-1]), mu**0.5)))
    claims = [
        at_most("kappa <= (sigma_1 + mu)/mu", found, capped, lost),
        equal("library's kappa", found, exact, lost),
    ]
    if np.linalg.matrix_rank(case.Z) < m:
        claims.append(equal("attained for singular H", found, capped, lost))
    return Verdict.of(*claims, kappa=found, cap=capped, mu=mu)


_HEADS = Reals(-3.0, 3.0, 0, 6)
_PROBE: Parameters = {
    "gaps": GAPS, "rows": Whole(0, 2), "left": ANGLES, "right": ANGLES, "head": _HEADS,
    "residual": Reals(-3.0, 3.0, 0, 2),
}  # fmt: skip

PROBING = (
    Theorem(
        name="equation-2", source=f"{PAPER}, Eq. 2",
        section="theory/probing#how-fast-a-probe-converges", build=_two_heads, verify=_line_search,
        statement="Gradient descent with exact line search contracts the distance to the minimizer "
        "by 1 - 1/kappa a step, with several heads too.",
        formula="||w_t - w*||^2 <= (1 - 1/kappa)^t ||w_0 - w*||^2",
        hypotheses="squared loss; for singular H, w* the minimizer nearest to w_0",
        parameters={
            "gaps": GAPS, "left": ANGLES, "right": ANGLES, "first": _HEADS, "second": _HEADS,
        },
    ),
    Theorem(
        name="constant-step", source=OURS, section="theory/probing#how-fast-a-probe-converges",
        parameters={"gaps": GAPS, "error": _HEADS, "share": Real(0.0, 1.0)}, build=_descent,
        verify=_constant_step,
        statement="With a constant step, Eq. 2 holds exactly for the steps of an interval around "
        "1/sigma_1, where (1 - 1/kappa)^(2t) is sharp; the best one is 2/(sigma_1 + sigma_k).",
        formula="Eq. 2 iff (1 - sqrt(1 - 1/kappa))/sigma_k <= eta <= (1 + sqrt(1 - "
        "1/kappa))/sigma_1; rate ((kappa - 1)/(kappa + 1))^(2t) at eta = 2/(sigma_1 + sigma_k)",
        hypotheses="squared loss, sigma_i the eigenvalues of its true Hessian",
    ),
    Theorem(
        name="loss-curve", source=OURS, section="theory/probing#the-loss-curve", parameters=_PROBE,
        build=_probe, verify=_loss_curve,
        statement="The loss is not the norm ratio: each direction's share of the label energy "
        "falls at its own rate, so labels along large eigenvalues are learned at once.",
        formula="excess loss_t = sum_i (u_i^T y)^2 (1 - sigma_i/sigma_1)^(2t)",
        hypotheses="squared loss, w_0 = 0, step 1/sigma_1",
    ),
    Theorem(
        name="attack-cost", source=OURS, section="theory/probing#attack-cost", parameters=_PROBE,
        build=_probe, verify=_attack_cost,
        statement="k products bound the loss of gradient descent at every step, and that of any "
        "Krylov method after as many.",
        formula="Gauss rule <= sum_i (u_i^T y)^2 (1 - eta sigma_i)^(2t) <= Gauss-Radau rule, node "
        "0; min over p(0) = 1 of ||p(Z Z^T) y||^2 = 1 / sum_j pi_j(0)^2",
        hypotheses="squared loss, w_0 = 0, eta <= 1/sigma_1",
    ),
    Theorem(
        name="weight-decay", source=OURS, section="theory/probing#weight-decay", build=_decayed,
        verify=_weight_decay,
        statement="Weight decay caps kappa, whatever the features are.",
        formula="kappa(H + mu I) <= (sigma_1 + mu)/mu, with equality for singular H",
        hypotheses="mu > 0",
        parameters={
            "gaps": GAPS, "rows": Whole(0, 2), "left": ANGLES, "right": ANGLES,
            "missing": Whole(0, 2), "decades": Real(-3.0, 6.0),
        },
    ),
)  # fmt: skip
