"""Symmetric matrices that are not positive semidefinite: singular values are absolute values."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from matrices import GRAIN, exact_psd, generators, on_grid, quiet
from scipy.sparse.linalg import aslinearoperator
from truth import assert_certified

import immucond as ic


def rotated(eigenvalues):
    """Symmetric, with exactly these eigenvalues (multiples of the grain up to 1)."""
    return exact_psd(np.asarray(eigenvalues))


def descending(eigenvalues):
    return np.sort(np.abs(eigenvalues))[::-1]


@pytest.mark.parametrize("small", [3e-14, 1e-13, 1e-9, 0.5, 1.0])
@pytest.mark.parametrize("options", [{}, {"rtol": 0.0}, {"rank": 2}, {"method": "direct"}])
def test_a_negative_eigenvalue_is_a_singular_value(small, options):
    S = np.diag([1.0, -small])
    pairs = quiet(ic.extreme_pairs, S, **options)
    assert pairs.rank == 2
    assert_certified(pairs, [1.0, small])
    assert np.isclose(ic.condition_number(S), np.linalg.cond(S), rtol=1e-10)
    # S v = sigma u: the left vector has the sign that the right one lacks.
    assert np.allclose(S @ pairs.v_min, pairs.sigma_min * pairs.u_min, atol=1e-16)


def test_the_gradient_shrinks_the_modulus_of_a_negative_eigenvalue():
    S = np.diag([1.0, -3e-14])
    for options in ({}, {"rank": 2}):
        value, gradient = ic.kappa.value_and_grad(S, **options)
        assert np.isclose(value, 1 / 3e-14, rtol=1e-12)
        # kappa = s_11 / |s_22|: d kappa / d s_22 = kappa / 3e-14 > 0 at a negative entry.
        assert np.isclose(gradient[1, 1], value / 3e-14, rtol=1e-10)
    assert np.isclose(ic.r_ill(S), 1 / (1 / 4 - (3e-14) ** 2 / 4), rtol=1e-12)


@given(
    rng=generators,
    n=st.integers(2, 100),
    small=st.integers(2, 40),
    negatives=st.integers(1, 3),
)
@example(rng=np.random.default_rng(0), n=100, small=3, negatives=1)
def test_rotated_and_slightly_indefinite(rng, n, small, negatives):
    eigenvalues = on_grid(0.1 + 0.9 * rng.random(n))
    at = rng.choice(n, min(negatives, n - 1), replace=False)
    eigenvalues[at] = -small * GRAIN * np.arange(1, at.size + 1)
    S, truth = rotated(eigenvalues), descending(eigenvalues)
    for method in ("auto", "lanczos", "direct"):
        pairs = quiet(ic.extreme_pairs, S, method=method)
        assert pairs.rank == np.count_nonzero(truth > n * np.finfo(float).eps * truth[0])
        assert_certified(pairs, truth)
    assert_certified(quiet(ic.extreme_pairs, S, rank=n), truth)
    expected = truth[0] / truth[-1]
    assert np.isclose(quiet(ic.kappa, S, rank=n), expected, rtol=1e-15 * n * expected)


@pytest.mark.parametrize("size", [6, 40, 300])
@pytest.mark.parametrize("method", ["auto", "lanczos", "direct", "jacobi"])
def test_an_end_below_zero_is_no_smaller(size, method):
    eigenvalues = np.append(np.linspace(1, 5, size - 1), -100.0)
    for S in (np.diag(eigenvalues), 128 * rotated(np.round(eigenvalues / 128 / GRAIN) * GRAIN)):
        truth = descending(np.linalg.eigvalsh(S))
        pairs = quiet(ic.extreme_pairs, S, method=method)
        assert np.isclose(pairs.sigma_max, 100.0, rtol=1e-12)
        assert pairs.rank == size
        assert np.isclose(pairs.sigma_min, truth[-1], rtol=1e-12)


def test_low_rank_and_indefinite_by_pivoted_cholesky():
    rng = np.random.default_rng(3)
    Q = np.linalg.qr(rng.normal(size=(60, 8)))[0]
    for smallest in (-3.0, -0.01, -1e-9):
        values = np.append(np.linspace(1, 2, 7), smallest)
        S = (Q * values) @ Q.T
        S = (S + S.T) / 2
        pairs = quiet(ic.extreme_pairs, S, method="lanczos")
        assert pairs.rank == 8
        assert np.isclose(pairs.sigma_max, np.abs(values).max(), rtol=1e-12)
        assert np.isclose(pairs.sigma_min, np.abs(values).min(), rtol=1e-5)


def test_rounding_below_zero_is_rounding_where_a_gram_matrix_is_meant():
    rng = np.random.default_rng(0)
    K = ic.gram(rng.normal(size=(3, 7)))
    assert ic.psd_extreme_pairs(K).rank == 3
    with pytest.raises(ValueError, match="positive semidefinite"):
        ic.psd_extreme_pairs(np.diag([1.0, -1e-12]))


def test_what_is_meant_to_be_semidefinite_and_is_not_is_refused():
    H = np.diag([5.0, 4, 3, 2, 1, -0.2])
    for method in ("lanczos", "direct"):
        for options in ({}, {"rank": 5}):
            with pytest.raises(ValueError, match="positive semidefinite"):
                ic.psd_extreme_pairs(H, method=method, **options)
    for values in ([1.0, -5.0, 0.3], [1.0, -1e-3, 0.3]):
        with pytest.raises(ValueError, match="operator must be positive semidefinite"):
            ic.psd_extreme_pairs(aslinearoperator(np.diag(values)))
    S = aslinearoperator(np.diag([1.0, -5.0, 0.3]))
    assert np.isclose(ic.extreme_pairs(S).sigma_max, 5.0)
