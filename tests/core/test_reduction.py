"""Tridiagonal reduction of small matrices: every size of its blocks, and where LAPACK's begins."""

import mpmath
import numpy as np
import pytest
import scipy.linalg
from scipy.sparse.linalg import aslinearoperator
from truth import DIGITS, assert_certified, true_eigenvalues

import immucond as ic

# Around whole registers, and around the order from which LAPACK reduces.
SMALL, LARGE = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33], [64, 65, 255, 256, 257]


@pytest.mark.filterwarnings("ignore::immucond.DegenerateSpectrumWarning")
@pytest.mark.parametrize("n", SMALL + LARGE)
@pytest.mark.parametrize("c", [0.1, 1 / 3, 1e4])
def test_constant_matrices_whose_rounding_has_one_sign(n, c):
    """I + c 1 1^T has the eigenvalues 1 + n c and 1; a diagonal entry rounds their sum."""
    H = np.full((n, n), c) + np.eye(n)
    with mpmath.workdps(DIGITS):
        one = mpmath.mpf(H[0, 0]) - (mpmath.mpf(c) if n > 1 else 0)
        truth = [one + (n * mpmath.mpf(c) if n > 1 else 0)] + [one] * (n - 1)
    pairs = ic.psd_extreme_pairs(H)
    assert_certified(pairs, truth)
    assert pairs.bound_max < 1e-14 * pairs.sigma_max
    assert np.isclose(abs(pairs.v_max.sum()), np.sqrt(n), rtol=1e-13)
    assert np.isclose(np.linalg.norm(pairs.v_min), 1.0, rtol=1e-13)


@pytest.mark.parametrize("n", SMALL)
def test_random_matrices_to_sixty_digits(n):
    A = np.random.default_rng(n).standard_normal((2 * n, n))
    H = A.T @ A
    H = 0.5 * (H + H.T)
    assert_certified(ic.psd_extreme_pairs(H), true_eigenvalues(H))


@pytest.mark.parametrize("n", LARGE)
def test_random_matrices_have_the_ends_of_a_whole_decomposition(n):
    A = np.random.default_rng(n).standard_normal((2 * n, n))
    H = A.T @ A
    values, vectors = scipy.linalg.eigh(H)
    pairs = ic.psd_extreme_pairs(H)
    assert np.allclose([pairs.sigma_min, pairs.sigma_max], values[[0, -1]], rtol=1e-12)
    assert np.isclose(abs(vectors[:, -1] @ pairs.v_max), 1.0, rtol=1e-12)
    assert np.isclose(abs(vectors[:, 0] @ pairs.v_min), 1.0, rtol=1e-10)


def test_no_vector_where_nothing_is_below_the_diagonal():
    """Reflectors of columns that are zero already are none."""
    H = np.diag([3.0, 1.0, 2.0, 7.0, 5.0])
    pairs = ic.psd_extreme_pairs(H)
    assert (pairs.sigma_max, pairs.sigma_min) == (7.0, 1.0)
    assert np.allclose(np.abs(pairs.v_max), np.eye(5)[3], atol=1e-30)
    assert np.allclose(np.abs(pairs.v_min), np.eye(5)[1], atol=1e-30)


@pytest.mark.parametrize("exponent", [-900, -600, 600, 900])
def test_squares_beyond_the_range_change_no_digit(exponent):
    """An operator's projections are reduced in its own units, which nobody scales before."""
    A = np.random.default_rng(0).standard_normal((300, 300))
    H = A @ A.T + 300 * np.eye(300)
    whole, scaled = (ic.psd_extreme_pairs(aslinearoperator(K)) for K in (H, np.ldexp(H, exponent)))
    assert whole.method == scaled.method == "lanczos"
    assert np.ldexp(whole.sigma_max, exponent) == scaled.sigma_max
    assert np.array_equal(whole.v_max, scaled.v_max)
