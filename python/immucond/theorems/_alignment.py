"""Label alignment: what it bounds, how small it can be made, and what fading labels costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .._validate import FloatArray
from ._instances import EPS, extractor, gaussian, kappa, root, rounding, singular_values
from ._parameters import ANGLES, SEED, Parameters, Real, Reals, Whole
from ._theorem import OURS, Theorem, Verdict, at_most, equal

_DECADES = 6.0


@dataclass(frozen=True)
class Labelled:
    """A primary and a harmful task with labels, an extractor, and how much the labels shall fade.

    Attributes
    ----------
    X_P, X_H : (n, d) arrays
        Inputs of full column rank.
    Y_P, Y_H : (n, c) arrays
        Targets, their columns independent.
    theta : (d, d) array
        Extractor of full rank.
    tau : float
        At least 1.
    """

    X_P: FloatArray
    X_H: FloatArray
    Y_P: FloatArray
    Y_H: FloatArray
    theta: FloatArray
    tau: float

    @property
    def dim(self) -> int:
        """Number of input features, d."""
        return int(self.X_P.shape[1])

    @property
    def cross(self) -> FloatArray:
        """``Z_H^T Y_H``, divided by its norm."""
        b = self.X_H.T @ self.Y_H
        return np.asarray(b / np.linalg.norm(b))

    @property
    def whitening(self) -> FloatArray:
        """``K_P^-1/2``."""
        _, s, vt = np.linalg.svd(self.X_P, full_matrices=False)
        return np.asarray((vt.T / s) @ vt)

    @property
    def projector(self) -> FloatArray:
        """``Pi = K_P^-1 b (b^T K_P^-1 b)^+ b^T``, from an orthonormal basis of ``K_P^-1/2 b``."""
        _, s, vt = np.linalg.svd(self.X_P, full_matrices=False)
        Q, _ = np.linalg.qr((vt.T / s).T @ self.cross)
        return np.asarray((vt.T / s) @ Q @ (Q.T @ (s[:, None] * vt)))

    @property
    def lost(self) -> float:
        """Relative rounding of the projector: it is oblique by at most kappa(X_P)."""
        own = singular_values(self.cross)
        return rounding(self.dim, kappa(self.X_P), float(own[0] / own[-1]))


def rho(Z: FloatArray, Y: FloatArray) -> float:
    """Label alignment of features of full column rank, without centring."""
    u, s, vt = np.linalg.svd(Z, full_matrices=False)
    seen = u.T @ Y
    return float(np.sum((vt.T @ ((s / s[0])[:, None] * seen)) ** 2) / np.sum(seen**2))


def _build(
    primary: Sequence[float], harmful: Sequence[float], basis: Sequence[float],
    other: Sequence[float], theta: Sequence[float], left: Sequence[float], classes: int, seed: int,
    decades: float,
) -> Labelled:  # fmt: skip
    d = len(primary) + 1
    c = min(classes, d - 1)
    Y = np.linalg.qr(gaussian(seed, 2 * d + 2, 2 * d + 2))[0]
    return Labelled(
        X_P=np.vstack([root(primary, basis, d, _DECADES), np.zeros((2, d))]),
        X_H=np.vstack([root(harmful, other, d, _DECADES), np.zeros((2, d))]),
        Y_P=Y[: d + 2, :c],
        Y_H=Y[: d + 2, c : 2 * c] + Y[-d - 2 :, :c],
        theta=extractor(theta, left, [], d, d, d),
        tau=10.0**decades,
    )


def _descent(case: Labelled) -> Verdict:
    s = singular_values(case.X_H)
    share = np.sum((np.linalg.svd(case.X_H, full_matrices=False)[0].T @ case.Y_H) ** 2, axis=1)
    share /= share.sum()
    found = rho(case.X_H, case.Y_H)
    quick = 2.0 - 2.0 / (1.0 + case.tau)  # in [1, 2), times 1 / sigma_1
    claims, losses = [], []
    for steps in (1, 3, 30):
        left = float(share @ (1.0 - quick * (s / s[0]) ** 2) ** (2 * steps))
        losses.append(left)
        bound = max(0.0, 1.0 - quick * found) ** (2 * steps)
        lost = 64 * steps * case.dim * EPS / max(1.0 - quick * found, 1e-3)
        claims.append(at_most(f"loss after {steps} steps", bound, left, lost))
    h = (s / s[0]) ** 2
    ends = np.minimum(2.0, 1.0 / h)  # stable steps that end each direction, as far as there are any
    for name, lengths in (("the longest", np.full(case.dim, 2.0)), ("those that end it", ends)):
        left = float(share @ np.prod((1.0 - np.outer(lengths, h)) ** 2, axis=0))
        bound = max(0.0, 1.0 - 2.0 * found) ** (2 * case.dim)
        lost = 64 * case.dim**2 * EPS / max(1.0 - 2.0 * found, 1e-3)
        claims.append(at_most(f"loss after {case.dim} steps, {name}", bound, left, lost))
    return Verdict.of(*claims, rho=found, losses=losses)


def _slow(case: Labelled) -> tuple[FloatArray, FloatArray]:
    """Orthonormal basis of ``K_P^-1/2 b``, and ``sqrt(tau) P' + P_b``: slow there alone."""
    Q, _ = np.linalg.qr(case.whitening @ case.cross)
    root_tau = math.sqrt(case.tau)
    return Q, root_tau * np.eye(case.dim) - (root_tau - 1.0) * (Q @ Q.T)


def _limit(case: Labelled) -> Verdict:
    """Any extractor, and one that comes as near as there is a proof of."""
    least = rho(case.X_H @ case.whitening, case.Y_H)
    claims, found, spent = [], [], []
    for name, A in (("any", case.theta), ("slow", case.whitening @ _slow(case)[1])):
        found.append(rho(case.X_H @ A, case.Y_H))
        spent.append(kappa(case.X_P @ A))
        lost = rounding(case.dim, kappa(case.X_P) ** 0.5, float(np.linalg.cond(A)))
        lost += rounding(case.dim, (kappa(case.X_P) * kappa(case.X_H)) ** 0.5)
        claims.append(
            at_most(f"rho(F) / kappa(H_P) <= rho, {name}", least / spent[-1], found[-1], lost)
        )
    return Verdict.of(*claims, rho=found, kappa_P=spent, rho_whitened=least)


def _attained(case: Labelled) -> Verdict:
    F = case.X_H @ case.whitening
    Q, slow = _slow(case)
    found = rho(F @ slow, case.Y_H)
    outside = float(np.linalg.norm(F - (F @ Q) @ Q.T, 2) / np.linalg.norm(F, 2)) ** 2
    least = rho(F, case.Y_H) / case.tau
    lost = case.lost * math.sqrt(case.tau)
    return Verdict.of(
        equal(
            "kappa(H_P) = tau",
            kappa(case.X_P @ case.whitening @ slow),
            case.tau,
            rounding(case.dim, kappa(case.X_P) ** 0.5, math.sqrt(case.tau)),
        ),
        at_most("limit <= rho", least, found, lost),
        at_most("rho <= limit ||M|| / ||P'MP'||", found * outside, least, lost),
        rho=found,
        limit=least,
    )


def _fade(case: Labelled) -> Verdict:
    share = 1.0 - 1.0 / math.sqrt(case.tau)
    b, Pi = case.cross, case.projector
    D = -share * Pi
    # Any other map with the same effect on b differs by what maps from the null space of b^T.
    free = np.linalg.qr(b, mode="complete")[0][:, b.shape[1] :]
    by = case.X_P @ free @ (free.T @ case.theta)
    mine = case.X_P @ D
    nearest = mine - by * (float(np.vdot(by, mine)) / float(np.vdot(by, by)))  # so far along it
    moved, more = float(np.linalg.norm(mine)), float(np.linalg.norm(nearest))
    size = share * float(np.linalg.norm(case.X_P, 2) * np.linalg.norm(Pi, 2))
    return Verdict.of(
        equal("A^T b = b / sqrt(tau)", b + D.T @ b, b / math.sqrt(case.tau), case.lost, scale=1.0),
        at_most("no such map is nearer", moved, more, case.lost * size / moved if moved else 0.0),
        moved=moved,
        other=more,
    )


def _inverse(case: Labelled) -> Verdict:
    root_tau = math.sqrt(case.tau)
    A = np.eye(case.dim) - (1.0 - 1.0 / root_tau) * case.projector
    inverse = np.eye(case.dim) + (root_tau - 1.0) * case.projector
    size = root_tau * max(1.0, float(np.linalg.norm(case.projector, 2))) ** 2
    return Verdict.of(
        equal(
            "A (I + (sqrt(tau) - 1) Pi) = I", A @ inverse, np.eye(case.dim), case.lost, scale=size
        ),
        at_most("kappa(A)", float(np.linalg.cond(A)), 4.0 * size, case.lost),
        kappa_A=float(np.linalg.cond(A)),
    )


def _erasure(case: Labelled) -> Verdict:
    A = np.eye(case.dim) - case.projector
    head = case.whitening @ (case.X_P.T @ case.Y_P)
    Q, _ = np.linalg.qr(case.whitening @ case.cross)
    # What stays of the primary features spans what Q leaves of the whitened ones.
    basis = np.linalg.svd(np.eye(case.dim) - Q @ Q.T)[0][:, : case.dim - Q.shape[1]]
    kept = case.X_P @ case.whitening @ basis
    before, after = (
        float(np.sum((case.Y_P - Z @ np.linalg.lstsq(Z, case.Y_P, rcond=None)[0]) ** 2))
        for Z in (case.X_P, kept)
    )
    return Verdict.of(
        equal("A^T b = 0", A.T @ case.cross, np.zeros_like(case.cross), case.lost, scale=1.0),
        equal(
            "primary loss grows by ||P_b b_P||^2",
            after - before,
            float(np.sum((Q.T @ head) ** 2)),
            case.lost,
            scale=float(np.sum(case.Y_P**2)),
        ),
        before=before,
        after=after,
    )


def _protected(case: Labelled) -> Verdict:
    _, s, vt = np.linalg.svd(case.X_P, full_matrices=False)
    inverse, forward = vt.T / s, s[:, None] * vt
    lead, _ = np.linalg.qr(inverse.T @ (case.X_P.T @ case.Y_P))
    within = inverse.T @ case.cross
    within = within - lead @ (lead.T @ within)
    Q = np.linalg.qr(within)[0] if 2 * lead.shape[1] <= case.dim else np.zeros((case.dim, 0))
    A = np.eye(case.dim) - (1.0 - 1.0 / math.sqrt(case.tau)) * (inverse @ Q @ (Q.T @ forward))
    head = inverse @ lead
    moved = A @ head - head
    scale = float(np.linalg.norm(head))
    own = singular_values(within)
    lost = case.lost * float(own[0] / max(own[-1], EPS * own[0]))
    return Verdict.of(
        equal("A omega_P = omega_P", moved, np.zeros_like(moved), min(lost, 1e-3), scale=scale),
        moved=float(np.linalg.norm(moved)) / scale,
    )


_PARAMETERS: Parameters = {
    "primary": Reals(-2.0, 3.0, 3, 5), "harmful": Reals(-2.0, 3.0, 0, 5), "basis": ANGLES,
    "other": ANGLES, "theta": Reals(-3.0, 2.0, 0, 5), "left": ANGLES, "classes": Whole(1, 2),
    "seed": SEED, "decades": Real(0.0, 4.0),
}  # fmt: skip
_PAGE = "theory/alignment#"
_theorem = partial(Theorem, source=OURS, parameters=_PARAMETERS, build=_build)
_definite = partial(_theorem, hypotheses="K_P definite")

ALIGNMENT = (
    _theorem(
        name="label-alignment-descent", section=_PAGE + "what-alignment-bounds", verify=_descent,
        statement="Plain gradient descent leaves at least the share of the reducible loss that the "
        "label alignment says, for every constant step and for every schedule of stable ones.",
        formula="loss_t / loss_0 >= (1 - eta sigma_1 rho)^(2t); max(0, 1 - 2 rho)^(2t)",
        hypotheses="squared loss from w = 0; a constant eta with eta sigma_1 rho <= 1; steps in "
        "[0, 2 / sigma_1]",
    ),
    _theorem(
        name="label-alignment-limit", section=_PAGE + "the-limit", verify=_limit,
        statement="A condition number spent on the primary task buys at most that factor of label "
        "alignment.",
        formula="rho(Z_H A, Y) >= rho(Z_H K_P^-1/2, Y) / kappa(H_P(A))",
        hypotheses="K_P definite, A invertible",
    ),
    _definite(
        name="label-alignment-attained", section=_PAGE + "the-limit", verify=_attained,
        statement="Slow on the span of b alone, the limit is met up to a known factor.",
        formula="A = K_P^-1/2 (sqrt(tau) P' + P_b): rho <= (||M|| / ||P' M P'||) rho(F) / tau",
    ),
    _definite(
        name="fade-nearest", section=_PAGE + "fade", verify=_fade,
        statement="Fade changes the primary features least among all maps that shrink the "
        "cross-covariance with the harmful labels alike.",
        formula="argmin ||Z_P (A - I)||_F, A^T b = b / sqrt(tau): A = I - (1 - 1/sqrt(tau)) Pi",
    ),
    _definite(
        name="fade-inverse", section=_PAGE + "fade", verify=_inverse,
        statement="Fade is invertible, in closed form, at every finite tau.",
        formula="A^-1 = I + (sqrt(tau) - 1) Pi, kappa(A) <= 4 sqrt(tau) max(1, ||Pi||)^2",
    ),
    _definite(
        name="erasure-cost", section=_PAGE + "erasure", verify=_erasure,
        statement="At an infinite tau no cross-covariance is left, and the primary least-squares "
        "loss grows by what its head had in the erased directions.",
        formula="A^T b = 0, loss_P grows by ||P_b b_P||_F^2",
    ),
    _definite(
        name="fade-protected", section=_PAGE + "protection", verify=_protected,
        statement="Without the primary head's directions in b, fade leaves the primary head as it "
        "is.",
        formula="b -> (I - P_(b_P)) b: A omega_P = omega_P",
    ),
)  # fmt: skip
