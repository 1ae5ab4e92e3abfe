"""Relative angles and the paper's formula for the spectrum, which is not one."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import immucond as ic

seeds = st.integers(0, 2**32 - 1)


def random_gram(seed: int, d: int) -> np.ndarray:
    X = np.random.default_rng(seed).normal(size=(d + 2, d))
    return X.T @ X


@given(seeds, st.integers(1, 7), st.integers(1, 9))
def test_formula_gives_rayleigh_quotients_that_the_spectrum_majorizes(seed, d, m):
    K = random_gram(seed, d)
    theta = np.random.default_rng(seed + 1).normal(size=(d, m))
    quotients = ic.linear.rayleigh_spectrum(theta, K)
    H = theta.T @ K @ theta
    _, _, vt = np.linalg.svd(theta, full_matrices=True)
    np.testing.assert_allclose(quotients, np.diag(vt @ H @ vt.T), atol=1e-9 * np.trace(H))
    # Schur-Horn: partial sums of the sorted spectrum dominate, the totals agree.
    spectrum = np.linalg.eigvalsh(H)[::-1]
    gap = np.cumsum(spectrum) - np.cumsum(np.sort(quotients)[::-1])
    assert gap.min() > -1e-9 * np.trace(H)
    assert gap[-1] == pytest.approx(0.0, abs=1e-9 * np.trace(H))


@given(seeds, st.integers(1, 7), st.integers(1, 9))
def test_angles_are_squared_cosines(seed, d, m):
    K = random_gram(seed, d)
    theta = np.random.default_rng(seed + 1).normal(size=(d, m))
    angles = ic.linear.relative_angles(theta, K)
    assert angles.shape == (m, d)
    used = min(m, d)
    np.testing.assert_allclose(angles[:used].sum(axis=1), 1.0)
    np.testing.assert_array_equal(angles[used:], 0.0)
    u = np.linalg.svd(theta)[0]
    q = np.linalg.eigh(K)[1][:, ::-1]
    np.testing.assert_allclose(angles[:used], (u[:, :used].T @ q) ** 2, atol=1e-7)


def test_formula_is_the_spectrum_where_the_vectors_are_aligned():
    K = np.diag([9.0, 4.0, 1.0])
    theta = np.diag([3.0, 2.0, 1.0])
    np.testing.assert_allclose(ic.linear.rayleigh_spectrum(theta, K), [81.0, 16.0, 1.0])
    np.testing.assert_allclose(ic.linear.relative_angles(theta, K), np.eye(3), atol=1e-15)


def test_formula_overstates_kappa_of_a_singular_hessian():
    # THEORY, erratum 1: K = b b^T with b = (1, 0.01); the truth is 1, the formula says 1e4.
    b = np.array([1.0, 0.01])
    theta = np.diag([1.0 + 1e-9, 1.0])
    quotients = ic.linear.rayleigh_spectrum(theta, np.outer(b, b))
    assert quotients[0] / quotients[1] == pytest.approx(1e4, rel=1e-6)
    report = ic.linear.immunity(theta, K_P=np.outer(b, b), K_H=np.outer(b, b))
    assert report.kappa_H == 1.0


@pytest.mark.parametrize("function", [ic.linear.relative_angles, ic.linear.rayleigh_spectrum])
def test_bad_input_is_named(function):
    with pytest.raises(ValueError, match="theta must have 2 rows"):
        function(np.eye(3), np.eye(2))
    with pytest.raises(ValueError, match="K"):
        function(np.eye(2), [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="theta"):
        function([[np.nan, 0], [0, 1]], np.eye(2))


def test_quotients_beyond_the_float_range():
    with pytest.raises(OverflowError, match="theta"):
        ic.linear.rayleigh_spectrum(np.diag([1e200, 1.0]), np.eye(2))
    # Neither the square of theta nor K alone has to be representable beside the other.
    np.testing.assert_allclose(
        ic.linear.rayleigh_spectrum(np.diag([1e160, 1e159]), np.eye(2) * 1e-300), [1e20, 1e18]
    )


def test_the_gap_is_a_number_where_sums_are_none():
    theta, K = np.diag([2.0, 1.0]), np.array([[1.0, 0.5], [0.5, 1.0]])
    much = 1e308 / np.linalg.eigvalsh(theta @ K @ theta)[-1]
    seen, small = ic.linear.majorization(theta, much * K), ic.linear.majorization(theta, K)
    np.testing.assert_allclose(seen.gap / much, small.gap, atol=1e-12)
    # Equal eigenvalues, whose sum passes 1.8e308: the formula is right, and nothing is left.
    np.testing.assert_array_equal(ic.linear.majorization(np.eye(3), 1.5e308 * np.eye(3)).gap, 0.0)
    # Three eigenvalues of 1e308 and five of about 0, before quotients of 3 / 8 of that each.
    Q = scipy.linalg.hadamard(8) / np.sqrt(8.0)
    K = 1e308 * np.diag([1.0, 1.0, 1.0, 1e-9, 1e-9, 1e-9, 1e-9, 1e-9])
    with pytest.raises(OverflowError, match="sums of them"):
        ic.linear.majorization(np.diag(1.0 + 1e-6 * np.arange(8)), Q @ K @ Q)


@pytest.mark.parametrize("scale", [1e-290, 1e-305, 1e-308])
def test_the_formulas_kappa_keeps_its_digits_where_its_values_have_none(scale):
    theta, K = np.diag([1.0, 1e-7]), np.array([[1.0, 0.5], [0.5, 1.0]])
    # theta is diagonal: the quotients are theta_ii^2 K_ii, 1 and 1e-14.
    assert ic.linear.majorization(theta, scale * K).kappa_rayleigh == pytest.approx(1e14, rel=1e-9)


def test_a_range_of_condition_numbers_beyond_the_float_range():
    bound = ic.linear.distortion(np.diag([3.0, 1.0]))
    assert bound.kappa_range(1e307)[1] == pytest.approx(9e307)
    with pytest.raises(OverflowError, match=r"passes 1\.8e308"):
        bound.kappa_range(1e308)
