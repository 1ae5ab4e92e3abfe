"""Extreme pairs of the pencil (A, B)."""

import mpmath
import numpy as np
import pytest
import scipy.linalg as sl
from hypothesis import given
from hypothesis import strategies as st
from matrices import quiet, with_eigenvalues

import immucond as ic


def gram(rng, n, grade):
    X = rng.normal(size=(2 * n, n)) * np.logspace(0, -grade, n)
    return ic.gram(X)


def exact_ends(A, B):
    """The extreme eigenvalues of the float64 pencil, to 40 digits."""
    with mpmath.workdps(60):
        a, b = mpmath.mpf(float(A.max())), mpmath.mpf(float(B.max()))
        inverse = mpmath.cholesky(mpmath.matrix(B.tolist()) / b) ** -1
        M = inverse * (mpmath.matrix(A.tolist()) / a) * inverse.T
        values = mpmath.eigsy((M + M.T) / 2, eigvals_only=True)
        return min(values) * a / b, max(values) * a / b


@given(
    st.integers(1, 9),
    st.floats(0, 2),
    st.floats(0, 2.5),
    st.sampled_from([1e-120, 1.0, 1e120]),
    st.sampled_from([1e-120, 1.0, 1e120]),
    st.integers(0, 2**32),
)
def test_certified_against_60_digits(n, grade_a, grade_b, scale_a, scale_b, seed):
    rng = np.random.default_rng(seed)
    A, B = gram(rng, n, grade_a) * scale_a, gram(rng, n, grade_b) * scale_b
    low, high = exact_ends(A, B)
    pairs = ic.generalized_extreme_pairs(A, B)
    assert abs(mpmath.mpf(float(pairs.sigma_max)) - high) <= pairs.bound_max
    assert abs(mpmath.mpf(float(pairs.sigma_min)) - low) <= pairs.bound_min
    for v in (pairs.v_max, pairs.v_min):
        assert v @ B @ v == pytest.approx(1.0, rel=1e-9)


@given(st.integers(2, 6), st.integers(0, 2**32))
def test_bounds_are_of_the_symmetric_parts_unrounded(n, seed):
    rng = np.random.default_rng(seed)
    pencil = []
    for grade in (4.0, 5.0):
        q = np.linalg.qr(rng.normal(size=(n, n)))[0]
        pencil.append((q * np.logspace(0, -grade, n)) @ q.T)
    with mpmath.workdps(60):
        a, b = (mpmath.matrix(given.tolist()) for given in pencil)
        inverse = mpmath.cholesky((b + b.T) / 2) ** -1
        M = inverse * (a + a.T) * inverse.T / 2
        truth = mpmath.eigsy((M + M.T) / 2, eigvals_only=True)
    pairs = quiet(ic.generalized_extreme_pairs, *pencil)
    assert pairs.rank == n
    assert abs(pairs.sigma_max - max(truth)) <= pairs.bound_max
    assert abs(pairs.sigma_min - min(truth)) <= pairs.bound_min


@pytest.mark.parametrize("method", ["direct", "lanczos"])
@pytest.mark.parametrize("n", [4, 30, 200])
def test_as_scipys_whole_spectrum(n, method):
    rng = np.random.default_rng(n)
    A, B = gram(rng, n, 1), gram(rng, n, 1)
    values, vectors = sl.eigh(A, B)
    pairs = ic.generalized_extreme_pairs(A, B, method=method)
    assert pairs.sigma_max == pytest.approx(values[-1], rel=1e-10)
    assert pairs.sigma_min == pytest.approx(values[0], rel=1e-10)
    for mine, theirs in ((pairs.v_max, vectors[:, -1]), (pairs.v_min, vectors[:, 0])):
        assert abs(mine @ B @ theirs) == pytest.approx(1.0, rel=1e-8)


def test_the_limit_of_immunization():
    rng = np.random.default_rng(3)
    K_P, K_H = gram(rng, 12, 1), gram(rng, 12, 1)
    pairs = ic.generalized_extreme_pairs(K_H, K_P)
    limit = ic.linear.immunity_limit(K_P=K_P, K_H=K_H)
    assert pairs.condition_number == pytest.approx(limit.kappa_M, rel=1e-9)


def test_singular_a():
    rng = np.random.default_rng(4)
    A = ic.gram(rng.normal(size=(3, 6)))
    B = gram(rng, 6, 0)
    pairs = ic.generalized_extreme_pairs(A, B, rank=3)
    values = sl.eigh(A, B, eigvals_only=True)
    assert pairs.rank == 3
    assert pairs.sigma_min == pytest.approx(values[3], rel=1e-10)
    assert ic.generalized_extreme_pairs(A, B).rank == 3


def test_bad_pencils():
    A, B = np.diag([1.0, 2.0, 3.0]), np.eye(3)
    with pytest.raises(ValueError, match=r"^B must be positive definite, and has no Cholesky"):
        ic.generalized_extreme_pairs(A, -B)
    with pytest.raises(ValueError, match=r"^B must be positive definite, and its condition number"):
        ic.generalized_extreme_pairs(A, np.diag([1.0, 1.0, 1e-15]))
    with pytest.raises(ValueError, match=r"^A must be positive semidefinite"):
        ic.generalized_extreme_pairs(-A, B)
    with pytest.raises(
        ValueError, match=r"^A and B must have the same shape, and have 3 and 2 rows"
    ):
        ic.generalized_extreme_pairs(A, B[:2, :2])
    with pytest.raises(ValueError, match=r"^A must be symmetric"):
        ic.generalized_extreme_pairs(np.triu(np.ones((3, 3))), B)
    with pytest.raises(ValueError, match=r"^B must be finite"):
        ic.generalized_extreme_pairs(A, B * np.nan)
    with pytest.raises(ValueError, match=r"^A has rank 0"):
        ic.generalized_extreme_pairs(0 * A, B)


def test_vectors_have_length_one_in_an_ill_conditioned_metric():
    """The Cholesky factor of B alone has them off by eps kappa(B), 6e-7 here."""
    rng = np.random.default_rng(4)
    for seed in range(20):
        B = with_eigenvalues(np.random.default_rng(seed), 5, np.logspace(0, -11, 5))
        pairs = quiet(ic.generalized_extreme_pairs, gram(rng, 5, 1), B)
        for v in (pairs.v_max, pairs.v_min):
            with mpmath.workdps(60):
                x, exact = mpmath.matrix(v.tolist()), mpmath.matrix(B.tolist())
                assert abs((x.T * exact * x)[0] - 1) < 1e-10
