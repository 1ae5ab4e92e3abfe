"""From Gram matrices `fade` costs a factorization of K_P and solves with the labels, or less than
an eigendecomposition where K_P is singular, the rank certified either way.

Counted, d features and c classes: d^3/3 flops for the Cholesky factor and 2 d^2 (c - 1) a pair of
solves; 10 d^2 more a pair for the certificate. Singular of rank r: about r d^2 - r^3/3 for the
pivoted factor, which has been tried without pivots before, and 2 d r^2 - 2 r^3/3 for its QR, where
eigenvectors take about 9 d^3. The alignment is examined when it is asked for.
"""

from functools import cache

import numpy as np
import pytest
import scipy.linalg

import immucond as ic

CLASSES = 10


@cache
def task(d, rank):
    """K_P of that rank; K_H, b_H and the energy of labels on rows in its range; and a vector."""
    rng = np.random.default_rng(5)
    basis = np.eye(d) if rank == d else rng.standard_normal((rank, d)) / np.sqrt(d)
    X_P = rng.standard_normal((2 * rank, rank)) * np.geomspace(10, 1, rank) @ basis
    y = rng.integers(CLASSES, size=2 * d)
    Y = np.eye(CLASSES)[y] - np.bincount(y, minlength=CLASSES) / (2 * d)
    Z = rng.standard_normal((2 * d, rank)) @ basis
    Z -= Z.mean(axis=0)
    Z += Y @ rng.standard_normal((CLASSES, rank)) @ basis
    given = {"K_H": ic.gram(Z), "b_H": Z.T @ Y, "energy_H": float(np.sum(Y**2))}
    return ic.gram(X_P), given, rng.standard_normal(d)


def faded(K_P, given, x):
    """What fades of x."""
    found = ic.linear.fade(K_P=K_P, **given)
    return found.left @ (found.right.T @ x)


def projected(solved, b, x):
    return solved @ (np.linalg.pinv(b.T @ solved, rcond=1e-9) @ (b.T @ x))


def by_cholesky(K_P, given, x):
    """Takes it on trust that K_P is definite, and that the last class says nothing new."""
    b = given["b_H"][:, :-1]
    factor = scipy.linalg.cho_factor(K_P, check_finite=False)
    return projected(scipy.linalg.cho_solve(factor, b, check_finite=False), b, x)


def by_eigh(K_P, given, x):
    b = given["b_H"]
    values, vectors = scipy.linalg.eigh(K_P, check_finite=False)
    kept = values > 1e-9 * values[-1]
    V = vectors[:, kept]
    return projected(V @ ((V.T @ b) / values[kept, None]), b, x)


OURS = "immucond fade"
PEERS = {
    "definite": {"floor: scipy cho_factor + cho_solve": by_cholesky},
    "singular": {"floor: scipy.linalg.eigh": by_eigh},
}
GOALS = {"definite": 1 / 1.5, "singular": 1.0}


@pytest.mark.parametrize("d", [784, pytest.param(4096, marks=pytest.mark.large)])
@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in PEERS for name in (OURS, *PEERS[kind])]
)
def test_fade_costs_a_factorization(contest, size, d, kind, name):
    n = size(d)
    data = task(n, n if kind == "definite" else n - n // 8)
    function = {OURS: faded, **PEERS[kind]}[name]
    contest(
        f"fade from Gram matrices, {kind} K_P, d = {d}",
        name,
        lambda: function(*data),
        like=lambda: faded(*data),
        rtol=1e-6,
        goals={(OURS, peer): GOALS[kind] for peer in PEERS[kind]},
    )
