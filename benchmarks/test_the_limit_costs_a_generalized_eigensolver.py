"""The limit and the optimal extractor cost about what `scipy.linalg.eigh(K_H, K_P)` does.

They do more: ranks and condition numbers of both Gram matrices, with certified ends, and the
rotation that defeats per-feature scaling. The peers take it on trust that both are definite.
"""

from functools import cache

import numpy as np
import pytest
import scipy.linalg
from floors import reduction
from scipy.linalg.lapack import dpotrf

import immucond as ic


@cache
def grams(d):
    rng = np.random.default_rng(5)
    return tuple(
        ic.gram(rng.standard_normal((2 * d, d)) * np.geomspace(first, last, d))
        for first, last in ((10, 1), (1, 3))
    )


def kappa(values):
    return values[-1] / values[0]


LIMIT = {
    "immucond immunity_limit": lambda K_P, K_H: ic.linear.immunity_limit(K_P, K_H).kappa_M,
    "scipy.linalg.eigh(K_H, K_P)": lambda K_P, K_H: kappa(scipy.linalg.eigh(K_H, K_P)[0]),
    "scipy.linalg.eigvalsh(K_H, K_P)": lambda K_P, K_H: kappa(scipy.linalg.eigvalsh(K_H, K_P)),
}


def by_eigh(K_P, K_H):
    """Whitens the primary task, at its Frobenius norm."""
    _, V = scipy.linalg.eigh(K_H, K_P)
    return V * np.sqrt(K_P.trace() / len(K_P))


# Frobenius norms agree whatever the rotation; tests/linear/test_linear_limit.py checks the rest.
EXTRACTOR = {
    "immucond optimal_extractor": lambda K_P, K_H: np.linalg.norm(
        ic.linear.optimal_extractor(K_P, K_H)
    ),
    "immucond, rotate=False": lambda K_P, K_H: np.linalg.norm(
        ic.linear.optimal_extractor(K_P, K_H, rotate=False)
    ),
    "scipy.linalg.eigh(K_H, K_P)": lambda K_P, K_H: np.linalg.norm(by_eigh(K_P, K_H)),
}

PEER = "scipy.linalg.eigh(K_H, K_P)"
GOALS = {784: (1.0, 0.9), 2048: (1.2, 0.8)}  # of the limit and the extractor
SIZES = pytest.mark.parametrize("d", [784, pytest.param(2048, marks=pytest.mark.large)])


@SIZES
@pytest.mark.parametrize("name", LIMIT)
def test_the_limit_costs_a_generalized_eigensolver(contest, size, d, name):
    K_P, K_H = grams(size(d))
    contest(
        f"immunity_limit, d = {d}",
        name,
        lambda: LIMIT[name](K_P, K_H),
        like=lambda: LIMIT["immucond immunity_limit"](K_P, K_H),
        rtol=1e-6,
        goals={("immucond immunity_limit", PEER): GOALS[d][0]},
    )


@SIZES
@pytest.mark.parametrize("name", EXTRACTOR)
def test_the_optimal_extractor_costs_a_generalized_eigensolver(contest, size, d, name):
    K_P, K_H = grams(size(d))
    contest(
        f"optimal_extractor, d = {d}",
        name,
        lambda: EXTRACTOR[name](K_P, K_H),
        like=lambda: EXTRACTOR["immucond optimal_extractor"](K_P, K_H),
        rtol=1e-6,
        goals={("immucond optimal_extractor", PEER): GOALS[d][1]},
    )


def three_reductions(K_P, K_H):
    """Of K_P, of K_H and of what stands for the pencil, which needs a factor of K_P."""
    dpotrf(K_P.T, lower=0)
    for A in (K_P, K_H, K_H):
        reduction(A.T)


def factors_and_vectors(K_P, K_H):
    """Of both matrices a Cholesky factor, and all eigenvectors once."""
    for A in (K_P, K_H):
        dpotrf(A.T, lower=0)
    scipy.linalg.eigh(K_H, check_finite=False)


FLOORS = {
    "immunity_limit": ("floor: dpotrf and three dsytrd", three_reductions),
    "optimal_extractor": ("floor: two dpotrf and one eigh", factors_and_vectors),
}


@SIZES
@pytest.mark.parametrize("group", FLOORS)
def test_both_beside_their_floor(contest, size, d, group):
    K_P, K_H = grams(size(d))
    name, kernels = FLOORS[group]
    contest(f"{group}, d = {d}", name, lambda: (kernels(K_P, K_H), ())[1], like=lambda: ())
