"""Bounds on a probe's loss at every step cost less than the spectrum that gives it exactly.

Counted, N x m features and one head: N m^2 flops for the smaller Gram matrix and 4/3 m^3 for its
largest eigenvalue, certified, and 4 N m a product, 40 of them; a singular value decomposition takes
about 6 N m^2 + 20 m^3, eigenvectors of the Gram matrix N m^2 + 9 m^3 (and lose half the digits).
"""

from functools import cache

import numpy as np
import pytest
import scipy.linalg

import immucond as ic

OURS = "immucond attack_cost, 40 products"
STEPS = np.array([10.0, 100.0, 1e3, 1e4])


@cache
def probe(N, m):
    """Features whose eigenvalues fall as a power, and labels all over their range."""
    rng = np.random.default_rng(6)
    Z = rng.standard_normal((N, m)) * np.arange(1, m + 1) ** -0.75
    return Z, Z @ (rng.standard_normal(m) * np.arange(1, m + 1) ** 0.5)


def by_products(Z, y):
    return ic.probing.attack_cost(Z, y).loss(STEPS).forecast


def curve(curvature, energy, rest):
    return (
        rest + np.exp(2.0 * np.outer(STEPS, np.log1p(-curvature[1:] / curvature[0]))) @ energy[1:]
    )


def by_svd(Z, y):
    u, s, _ = np.linalg.svd(Z, full_matrices=False)
    energy = (u.T @ y) ** 2
    return curve(s**2, energy, max(0.0, y @ y - energy.sum()))


def by_eigh(Z, y):
    values, vectors = scipy.linalg.eigh(Z.T @ Z, check_finite=False)
    values, vectors = values[::-1], vectors[:, ::-1]
    energy = (vectors.T @ (Z.T @ y)) ** 2 / values
    return curve(values, energy, max(0.0, y @ y - energy.sum()))


PEERS = {
    "numpy svd, the loss from all of it": by_svd,
    "scipy eigh of the Gram matrix, the same": by_eigh,
}


@pytest.mark.parametrize(
    ("N", "m"), [(4096, 512), (8192, 1024), pytest.param(50_000, 2048, marks=pytest.mark.large)]
)
@pytest.mark.parametrize("name", [OURS, *PEERS])
def test_attack_cost_is_less_than_a_spectrum(contest, size, N, m, name):
    data = probe(size(N), size(m))
    function = {OURS: by_products, **PEERS}[name]
    contest(
        f"loss of a probe after 10 to 10,000 steps, {N:,} x {m:,} features",
        name,
        lambda: function(*data),
        like=lambda: by_svd(*data),
        rtol=0.2,
        goals={(OURS, peer): 1.0 for peer in PEERS},
    )
