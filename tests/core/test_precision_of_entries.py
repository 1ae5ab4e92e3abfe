"""The precision in which entries were computed says what is symmetric, and what is negative."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matrices import generators, quiet

import immucond as ic

OF_SYMMETRIC = {
    "psd_extreme_pairs": lambda S, **k: ic.psd_extreme_pairs(S, **k),
    "generalized": lambda S, **k: ic.generalized_extreme_pairs(S, np.eye(len(S)), **k),
    "generalized, second": lambda S, **k: ic.generalized_extreme_pairs(np.eye(len(S)), S, **k),
    "ridge": lambda S, **k: ic.condition_number(S, ridge=0.1, **k),
    "theta": lambda S, **k: ic.r_well.value_and_grad_theta(np.eye(len(S)), S, **k),
}


@pytest.mark.parametrize("name", OF_SYMMETRIC)
def test_a_tolerance_for_the_rank_makes_nothing_symmetric(name):
    with pytest.raises(ValueError, match="must be symmetric"):
        OF_SYMMETRIC[name](np.array([[1.0, 0.4], [0.0, 1.0]]), rtol=0.5)


@pytest.mark.parametrize("name", OF_SYMMETRIC)
@pytest.mark.parametrize("n", [2, 64, 600])
def test_half_precision_allows_no_more_than_its_rounding(name, n):
    S = np.eye(n, dtype=np.float16)
    S[0, 1] = 0.5
    with pytest.raises(ValueError, match="must be symmetric"):
        OF_SYMMETRIC[name](S)
    S[0, 1], S[1, 0] = 0.5, np.nextafter(np.float16(0.5), np.float16(1))
    quiet(OF_SYMMETRIC[name], S)


@pytest.mark.parametrize("name", OF_SYMMETRIC)
def test_computed_in_says_what_is_symmetric(name):
    S = np.array([[1.0, 0.5], [0.5 + 1e-7, 1.0]])
    with pytest.raises(ValueError, match="must be symmetric"):
        OF_SYMMETRIC[name](S)
    quiet(OF_SYMMETRIC[name], S, computed_in=np.float32)


def test_the_condition_number_of_a_matrix_computed_in_float32():
    S = [[1, 0.5], [0.5 + 1e-7, 1]]
    expected = (1.5 + 0.1 + 5e-8) / (0.5 + 0.1 - 5e-8)
    assert np.isclose(ic.condition_number(S, ridge=0.1, computed_in="f4"), expected, rtol=1e-12)


# ---- Gram matrices that rounding made slightly indefinite ----


def half_rank(rng, n, dtype):
    Z = rng.normal(size=(n // 2, n)).astype(dtype)
    return Z.T @ Z


def test_a_ridge_beside_the_rounding_of_float32():
    v = np.array([1, 0.3], np.float32)
    K = np.outer(v, v)
    assert np.linalg.eigvalsh(K.astype(float))[0] < 0
    # What is below zero is rounding of a zero.
    assert np.isclose(ic.condition_number(K, ridge=1e-6), 1.09 / 1e-6 + 1, rtol=1e-6)


@given(rng=generators, n=st.integers(2, 80), dtype=st.sampled_from([np.float32, np.float16]))
def test_half_rank_gram_matrices_of_low_precision(rng, n, dtype):
    K = half_rank(rng, n, dtype)
    exact = np.linalg.eigvalsh(K.astype(float))
    top, k = exact[-1], max(1, n // 2)
    ridge = 0.01 * top
    for options, smallest in (({}, max(0.0, exact[0])), ({"rank": k}, 0.0 if k < n else exact[0])):
        kappa = quiet(ic.condition_number, K, ridge=ridge, **options)
        assert np.isclose(kappa, (top + ridge) / (smallest + ridge), rtol=1e-9)
    for options in ({}, {"rtol": 1e-9}, {"rank": k}):
        pairs = quiet(ic.psd_extreme_pairs, K, **options)
        assert np.isclose(pairs.sigma_max, top, rtol=1e-12)
        assert pairs.sigma_min >= 0
        pencil = quiet(ic.generalized_extreme_pairs, K, np.eye(n), **options)
        assert np.isclose(pencil.sigma_max, top, rtol=1e-12)
        value, gradient = quiet(ic.r_well.value_and_grad_theta, np.eye(n), K, **options)
        assert np.isfinite(gradient).all()
        assert np.isclose(value, top**2 / 2 - np.sum(exact**2) / (2 * n), rtol=1e-6)


@pytest.mark.parametrize("computed_in", [None, np.float64])
def test_a_negative_eigenvalue_beyond_rounding_is_refused(computed_in):
    S = np.diag([1.0, -1e-3])
    with pytest.raises(ValueError, match="positive semidefinite"):
        ic.psd_extreme_pairs(S, computed_in=computed_in)
    with pytest.raises(ValueError, match="positive semidefinite"):
        ic.psd_extreme_pairs(S.astype(np.float32))
    with pytest.raises(ValueError, match="positive semidefinite"):
        ic.psd_extreme_pairs(np.diag([1.0, -0.3]).astype(np.float16))


def test_a_ridge_below_the_entries_rounding_warns():
    v = np.array([1, 0.3], np.float32)
    with pytest.warns(ic.AccuracyWarning, match="1e-12 I"):
        ic.condition_number(np.outer(v, v), ridge=1e-12)
    Z = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
    ic.condition_number(features=Z, ridge=1e-12)  # zeros because of the shape are no rounding


def test_the_vector_of_an_eigenvalue_below_zero_is_its_own():
    v = np.random.default_rng(16).normal(size=16).astype(np.float32)
    G = np.outer(v, v)
    pairs = quiet(ic.psd_extreme_pairs, G, rank=16)
    values = np.linalg.eigvalsh(G.astype(float))
    quotient = pairs.v_min @ G.astype(float) @ pairs.v_min
    assert np.min(np.abs(values - quotient)) <= 1e-13
    assert np.isclose(abs(quotient), pairs.sigma_min, rtol=1e-6)
