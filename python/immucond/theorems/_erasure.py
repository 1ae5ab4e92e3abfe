"""Erasure: the cheapest map of a rank, the price of harmful variance, and what never comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .._validate import FloatArray
from ..linear import Erasure, erasure
from ._instances import EPS, extractor, gaussian, kappa, root
from ._parameters import ANGLES, MORE_GAPS, SEED, Parameters, Real, Reals, Whole
from ._theorem import OURS, Claim, Theorem, Verdict, at_most, equal

_DECADES = 6.0


@dataclass(frozen=True)
class Erased:
    """Features of a primary and a harmful task, what outputs feel of them, and a rank.

    Attributes
    ----------
    R : (k, d) array
        Of full row rank: ``K_P = R^T R``.
    J : (c, d) array
        Jacobian of the outputs by the features, of full row rank: ``G = J^T J``.
    Z : (n, d) array
        Harmful features, of full row rank: ``K_H = Z^T Z``.
    A : (d, d) array
        Invertible: the features become ``z A``, and the outputs read them through its inverse.
    rank : int
        What is kept of the features, from 0 to k.
    price : float
        Of harmful variance, in units of ``tr(G K_P)`` for all of it.
    seed : int
        Of random maps and labels.
    """

    R: FloatArray
    J: FloatArray
    Z: FloatArray
    A: FloatArray
    rank: int
    price: float
    seed: int

    @property
    def dim(self) -> int:
        """Number of features, d."""
        return int(self.R.shape[1])

    @property
    def unit(self) -> float:
        """``||K_P|| ||G||``, to which float64 knows a cost."""
        return float(np.linalg.norm(self.R) ** 2 * np.linalg.norm(self.J) ** 2)

    def cost(self, E: FloatArray) -> float:
        """``tr G (E - I)^T K_P (E - I)``, through the roots."""
        moved = self.R @ E @ self.J.T - self.R @ self.J.T
        return float(np.linalg.norm(moved) ** 2)

    @property
    def values(self) -> FloatArray:
        """(k,) eigenvalues of ``G K_P``, descending: squared singular values of ``R J^T``."""
        values = np.zeros(len(self.R))
        s = np.linalg.svd(self.R @ self.J.T, compute_uv=False)
        values[: s.size] = s**2
        return values

    def gauged(self) -> Erased:
        """Return the same outputs from the features ``z A``."""
        J = np.asarray(np.linalg.solve(self.A, self.J.T).T)
        return Erased(self.R @ self.A, J, self.Z @ self.A, self.A, self.rank, self.price, self.seed)

    def erasure(self, **by: float) -> Erasure:
        """Return the library's erasure: of the rank, or of the price with the harmful features."""
        K_P, G, K_H = (x.T @ x for x in (self.R, self.J, self.Z))
        return erasure(K_P, G, price=by["price"], K_H=K_H) if by else erasure(K_P, G, self.rank)


def _erased(
    seed: int, dim: int, primary: Sequence[float], basis: Sequence[float], outputs: Sequence[float],
    other: Sequence[float], harmful: Sequence[float], third: Sequence[float],
    ranks: Sequence[float], keep: float, left: Sequence[float], right: Sequence[float],
    gaps: Sequence[float], price: float,
) -> Erased:  # fmt: skip
    pairs = (primary, basis), (outputs, other), (harmful, third)
    # One in three is definite.
    k, c, n = (1 + int(min(1.5 * share, 1.0) * (dim - 1) + 0.5) for share in ranks)
    R, J, Z = (
        root(spread, angles, dim, _DECADES, rank)
        for (spread, angles), rank in zip(pairs, (k, c, n), strict=True)
    )
    A = extractor(gaps, left, right, dim, dim, dim)
    A = A / np.linalg.norm(A, 2)
    return Erased(R, J, Z, A, int(keep * k + 0.5), 10.0**price, seed)


# ---- the cheapest map of a rank ----


def _alternated(case: Erased, seed: int, sweeps: int = 30) -> FloatArray:
    """Alternate least squares for the factors of a map of that rank, from random ones."""
    Q = gaussian(seed, case.rank, case.dim)
    for _ in range(sweeps):
        P = case.J.T @ np.linalg.pinv(Q @ case.J.T)
        Q = np.linalg.pinv(case.R @ P) @ case.R
    return np.asarray(P @ Q)


def _random_map(case: Erased, seed: int) -> FloatArray:
    """Return the map of that rank of least cost among those with a random range."""
    Q = np.linalg.qr(gaussian(seed, case.dim, max(case.rank, 1)))[0][:, : case.rank].T
    return np.asarray(case.J.T @ np.linalg.pinv(Q @ case.J.T) @ Q)


def _truncated(case: Erased) -> FloatArray:
    """``K_P^-1/2 [K_P^1/2 G^1/2]_r G^-1/2`` with R and J as roots, both invertible."""
    U, s, Vt = np.linalg.svd(case.R @ case.J.T)
    r = case.rank
    return np.asarray(
        np.linalg.solve(case.R, (U[:, :r] * s[:r]) @ np.linalg.solve(case.J, Vt[:r].T).T)
    )


def _cheapest(case: Erased) -> Verdict:
    E, unit, r = case.erasure(), case.unit, case.rank
    theta, values = E.theta, case.values
    bound, cost = float(values[r:].sum()), case.cost(theta)
    own = kappa(case.R) ** 0.5
    lost = 64 * case.dim * EPS * own
    size = max(1.0, float(np.linalg.norm(theta, 2)))
    claims = [
        equal("rank", E.rank, r, 0.0),
        equal("eigenvalues of G K_P", E.values, values, lost, scale=unit),
        equal("cost = bound", cost, bound, lost, scale=unit),
        equal("the library's cost", E.cost, cost, lost, scale=unit),
        equal("a projector", theta @ theta, theta, lost, scale=size**2),
    ]
    others: dict[str, Callable[[int], FloatArray]] = {
        "random": partial(_random_map, case),
        "nearby": lambda seed: theta @ (
            np.eye(case.dim) + 1e-3 * gaussian(seed, case.dim, case.dim)
        ),
        "alternating least squares": partial(_alternated, case),
    }  # fmt: skip
    found = {
        name: min(case.cost(make(case.seed + i)) for i in range(3)) for name, make in others.items()
    }
    claims += [
        at_most(f"bound <= cost of {name}", unit + bound, unit + much, lost)
        for name, much in found.items()
    ]
    wide = lost * kappa(case.J) ** 0.5
    if len(case.R) == len(case.J) == case.dim:
        claims.append(equal("G^-1/2 form", case.cost(_truncated(case)), bound, wide, scale=unit))
    claims += _equivariant(case, theta, values, lost)
    return Verdict.of(*claims, cost=cost, bound=bound, total=float(values.sum()), **found)


def _equivariant(case: Erased, theta: FloatArray, values: FloatArray, lost: float) -> list[Claim]:
    """E -> A^-1 E A, and what it costs; where the rank cuts between equal values, the latter."""
    gauged = case.gauged()
    stretched = kappa(case.A) ** 0.5
    lost = lost * stretched**2
    after = gauged.erasure().theta
    back = case.A @ np.linalg.solve(case.A.T, after.T).T
    claims = [equal("cost under A", case.cost(back), case.cost(theta), lost, scale=case.unit)]
    r = case.rank
    gap = float(values[r - 1] - values[r]) if 0 < r < values.size else float(values[0])
    wide = lost * kappa(case.R) ** 0.5 * case.unit / gap if gap > 0.0 else 1.0
    if wide < 1e-3:
        # Where K_P is singular, on the primary rows alone: the pseudo-inverse sees A elsewhere.
        rows = np.eye(case.dim) if len(case.R) == case.dim else case.R / np.linalg.norm(case.R)
        size = max(1.0, float(np.linalg.norm(theta, 2))) * stretched
        claims.append(equal("E -> A^-1 E A", rows @ back, rows @ theta, wide, scale=size))
    return claims


# ---- the price of harmful variance ----


def _priced(case: Erased) -> Verdict:
    k = len(case.R)
    U, s, Vt = np.linalg.svd(case.R, full_matrices=False)
    W = U.T @ case.R @ case.J.T
    F = case.Z @ Vt.T / s
    worth, harm = W @ W.T, F.T @ F
    whole, total = float(np.trace(harm)), float(np.trace(worth))
    price = case.price * total / whole if whole > 0.0 else case.price
    unit = case.unit + price * float(np.linalg.norm(case.Z) / s[-1]) ** 2
    lost = 256 * case.dim * EPS * kappa(case.R) ** 0.5
    E = case.erasure(price=price)

    def least(V: FloatArray, at: float = price) -> float:
        """Cost and price of the projector onto the columns of V."""
        return float(total - np.sum(V * (worth @ V)) + at * np.sum(V * (harm @ V)))

    found = E.cost + price * E.kept * whole
    values = np.linalg.eigvalsh(worth - price * harm)
    claims = [
        equal("Ky Fan", found, total - values[values > 0].sum(), lost, scale=unit),
        equal("its cost", case.cost(E.theta), E.cost, lost, scale=unit),
    ]
    mine = np.linalg.qr(np.diag(s) @ Vt @ E.left)[0] if E.rank else np.empty((k, 0))
    claims.append(equal("its parts", least(mine), found, lost, scale=unit))
    rest = np.linalg.qr(np.hstack((mine, gaussian(case.seed, k, k))))[0][:, :k]
    for rank in range(k + 1):
        V = np.linalg.qr(gaussian(case.seed + rank, k, k))[0][:, :rank]
        turned = np.linalg.qr(rest + 1e-3 * gaussian(case.seed + rank, k, k))[0][:, :rank]
        for name, other in (("random", V), ("nearby", turned)):
            claims.append(
                at_most(f"least of {name}, rank {rank}", unit + found, unit + least(other), lost)
            )
    dearer = [case.erasure(price=price * 10.0**more).rank for more in (-2.0, 0.0, 2.0, 4.0)]
    fewer = sorted(dearer, reverse=True)
    claims.append(equal("fewer at a higher price", dearer, fewer, 0.0))
    return Verdict.of(*claims, price=price, found=found, total=total, ranks=dearer)


# ---- nothing brings it back ----


def _explained(features: FloatArray, rank: int) -> FloatArray:
    """Orthonormal basis of what features of known rank span."""
    return np.asarray(np.linalg.svd(features, full_matrices=False)[0][:, :rank])


def _holds(case: Erased) -> Verdict:
    E, d = case.erasure(), case.dim
    # Harmful rows of full column rank, spread as the given ones are, and two kinds of labels.
    Z = np.linalg.qr(gaussian(case.seed, d + 3, d))[0] * np.geomspace(1.0, 0.1, d)
    r, theta = E.rank, E.theta
    span = _explained(Z @ E.left, r)
    Y = gaussian(case.seed + 1, d + 3, 2)
    unread = Y - span @ (span.T @ Y)
    energy = float(np.linalg.norm(Y) ** 2)
    floor = float(np.linalg.norm(unread) ** 2)
    own = kappa(Z @ E.left) ** 0.5 if r else 1.0
    lost = 256 * d * EPS * own * kappa(case.R) ** 0.5 * kappa(case.A) ** 0.5
    size = float(np.linalg.norm(theta, 2))

    def loss(features: FloatArray, labels: FloatArray) -> float:
        basis = _explained(features, r)
        return float(np.linalg.norm(labels - basis @ (basis.T @ labels)) ** 2)

    after = Z @ theta @ case.A
    U, s, Vt = np.linalg.svd(after, full_matrices=False)
    claims = [
        equal("rank r", np.linalg.norm(s[r:]), 0.0, lost, scale=max(size, 1.0)),
        equal("loss under A", loss(after, Y), floor, lost, scale=energy),
        equal("loss without A", loss(Z @ theta, Y), floor, lost, scale=energy),
        equal("nothing of these labels", loss(after, unread), floor, lost, scale=energy),
        at_most("no less than before", loss_of(Z, Y) + energy, floor + energy, lost),
    ]
    # Descents on a head, however preconditioned, and heads that were not trained at all.
    w = np.zeros((d, 2))
    C = case.A @ case.A.T
    rate = 1.0 / float(np.linalg.norm(after @ C @ after.T, 2)) if r else 0.0
    for _ in range(20):
        w = w - rate * C @ after.T @ (after @ w - Y)
    heads = {"preconditioned descent": w, "any head": gaussian(case.seed + 2, d, 2)}
    whitened = Vt[:r].T / s[:r]
    heads["whitening"] = whitened @ (U[:, :r].T @ Y)
    found = {name: float(np.linalg.norm(after @ w - Y) ** 2) for name, w in heads.items()}
    claims += [
        at_most(f"floor <= loss of {name}", floor + energy, much + energy, lost)
        for name, much in found.items()
    ]
    return Verdict.of(*claims, rank=r, floor=floor, energy=energy, **found)


def loss_of(features: FloatArray, labels: FloatArray) -> float:
    """Least-squares loss of features of full column rank."""
    basis = np.linalg.qr(features)[0]
    return float(np.linalg.norm(labels - basis @ (basis.T @ labels)) ** 2)


_SHARES = Reals(0.0, 1.0, 3, 3)
_FEATURES: Parameters = {
    "seed": SEED, "dim": Whole(1, 6), "primary": MORE_GAPS, "basis": ANGLES, "outputs": MORE_GAPS,
    "other": ANGLES, "harmful": MORE_GAPS, "third": ANGLES, "ranks": _SHARES,
    "keep": Real(0.0, 1.0), "left": ANGLES, "right": ANGLES, "gaps": Reals(-8.0, 2.0, 0, 5),
    "price": Real(-6.0, 6.0),
}  # fmt: skip
_PAGE = "theory/erasure#"
_theorem = partial(Theorem, source=OURS, parameters=_FEATURES, build=_erased)

ERASURE = (
    _theorem(
        name="erasure", section=_PAGE + "the-least-cost", verify=_cheapest,
        statement="Of all maps of a rank, projectors or not, the one onto the leading eigenvectors "
        "of R G R^T changes the outputs least; invertible maps of the features take it along.",
        formula="min tr G (E - I)^T K_P (E - I) = sum of the eigenvalues of G K_P beyond the r-th, "
        "at E = R^+ V V^T R; A: E -> A^-1 E A",
        hypotheses="K_P = R^T R and G positive semidefinite; to first order in what the outputs "
        "feel; for E itself, a gap at r and K_P definite (else on the rows of R)",
    ),
    _theorem(
        name="erasure-price", section=_PAGE + "harmful-rows", verify=_priced,
        statement="At a price for harmful variance, of all projectors along the primary metric the "
        "one onto the positive eigenspace costs least; a higher price keeps no more directions.",
        formula="min over V^T V = I of tr (I - V V^T) R G R^T + price tr V^T R^+T K_H R^+ V: "
        "tr(G K_P) - sum of the positive eigenvalues of R G R^T - price R^+T K_H R^+",
        hypotheses="K_P = R^T R, G and K_H positive semidefinite",
    ),
    _theorem(
        name="erasure-holds", section=_PAGE + "what-never-comes-back", verify=_holds,
        statement="What any head reads from erased features, whatever invertible map, whitening or "
        "optimizer comes after, is what the kept directions span, and of other labels nothing.",
        formula="min_W ||Z E A W - Y||^2 = ||(I - P) Y||^2 for every invertible A, P the projector "
        "onto the range of Z L, E = L M^T of rank r",
        hypotheses="linear heads on the erased features, which are frozen",
    ),
)  # fmt: skip
