"""The optimal extractor from definite Gram matrices: by Cholesky factors, which must be proved."""

import numpy as np
import pytest
import scipy.linalg

import immucond as ic
from immucond._task import SAFE
from immucond.linear import _factored

LARGE = 260  # smaller ones are reduced without LAPACK, which nobody counts


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def gram(rng, d, decades):
    """Symmetric, with eigenvalues over so many decades."""
    Q, _ = np.linalg.qr(rng.normal(size=(d, d)))
    K = (Q * np.geomspace(1.0, 10.0**-decades, d)) @ Q.T
    return (K + K.T) / 2


def reductions(function):
    """How many matrices are reduced to tridiagonal form meanwhile, and what comes out."""
    before = ic._core.lapack_calls()["dsytrd"]
    found = function()
    return ic._core.lapack_calls()["dsytrd"] - before, found


@pytest.mark.parametrize("kappa_P", [1.0, 30.0])
@pytest.mark.parametrize("decades", [1.0, 4.0])
def test_factors_give_the_frontier_without_an_eigenproblem_of_either_task(rng, decades, kappa_P):
    d = LARGE
    K_P, K_H = gram(rng, d, decades), gram(rng, d, 2.0)
    count, theta = reductions(lambda: ic.linear.optimal_extractor(K_P, K_H, kappa_P=kappa_P))
    assert count == 0  # SciPy's own is not counted
    values = scipy.linalg.eigh(theta.T @ K_P @ theta, eigvals_only=True)
    assert values[-1] / values[0] == pytest.approx(kappa_P, rel=1e-8)
    M = scipy.linalg.eigh(K_H, K_P, eigvals_only=True)
    found = scipy.linalg.eigh(theta.T @ K_H @ theta, eigvals_only=True)
    assert found[-1] / found[0] == pytest.approx(M[-1] / M[0] * kappa_P, rel=1e-6)


def least(d):
    """Smallest eigenvalue, relative to the largest, that a factor may have."""
    return SAFE * d * np.finfo(np.float64).eps


@pytest.mark.parametrize("share", [1e-3, 0.5])
@pytest.mark.parametrize("which", ["K_P", "K_H"])
def test_what_is_not_proved_goes_by_the_certified_ends(rng, which, share):
    d = LARGE
    grams = {"K_P": gram(rng, d, 1.0), "K_H": gram(rng, d, 1.0)}
    grams[which] = gram(rng, d, -np.log10(share * least(d)))
    count, _ = reductions(lambda: ic.linear.optimal_extractor(**grams))
    assert count >= 2


def test_an_eigenvalue_that_hides_from_the_vectors_of_a_fixed_seed_is_not_taken_for_a_large_one():
    """Whoever knows the code puts a vector at a right angle to those of the fixed seeds."""
    d = 90
    known = np.hstack(
        [np.random.default_rng(s).normal(size=(d, s)) for s in (_factored._FEW, _factored._MANY)]
    )
    hidden = np.linalg.svd(known)[0][:, -1]
    small = 1e-3 * least(d)
    R, _ = scipy.linalg.rq(np.eye(d) - (1.0 - np.sqrt(small)) * np.outer(hidden, hidden))
    R *= np.sign(R.diagonal())  # as Cholesky has it
    K = R.T @ R
    K = (K + K.T) / 2
    assert _factored.factored(K, "K", safe=True) is None


@pytest.mark.parametrize("keywords", [{"delta": 1e-3}, {"computed_in": np.float32}, {}])
def test_it_is_that_of_the_inputs(rng, keywords):
    d = 20
    X_P, X_H = rng.normal(size=(2, 3 * d, d))
    by_rows = ic.linear.optimal_extractor(X_P=X_P, X_H=X_H, rotate=False, **keywords)
    by_grams = ic.linear.optimal_extractor(ic.gram(X_P), ic.gram(X_H), rotate=False, **keywords)
    np.testing.assert_allclose(abs(by_grams), abs(by_rows), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda K: K + np.triu(np.full_like(K, 1e-3), 1), "symmetric"),
        (lambda K: np.where(np.eye(len(K)) > 0, np.nan, K), "NaN|finite"),
        (lambda K: K - 0.5 * np.eye(len(K)), "semidefinite"),
        (lambda K: K[:, :-1], "K_H must be square"),
        (lambda K: K[:-1, :-1], "one size"),
        (lambda K: 0.0 * K, "K_H has rank 0"),
        (lambda K: [[1.0, 2.0], [3.0]], "K_H"),
    ],
)
def test_a_matrix_that_is_no_gram_matrix_is_told_as_before(rng, change, told):
    K = gram(rng, 12, 1.0)
    with pytest.raises(ValueError, match=told):
        ic.linear.optimal_extractor(K, change(K))
