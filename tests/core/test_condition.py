"""The condition number over the nonzero singular values, exact and in the ridge convention."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from matrices import (
    constructed,
    generators,
    matrices,
    psd_matrices,
    quiet,
    scales,
    separated,
    with_eigenvalues,
    with_singular_values,
)
from truth import true_singular_values

import immucond as ic


@given(rng=generators, k=st.integers(1, 7), more=st.integers(0, 5), scale=scales)
def test_full_rank_as_numpy(rng, k, more, scale):
    S = with_singular_values(rng, k + more, k, separated(rng, k))
    for A in (S, S.T):
        assert np.isclose(quiet(ic.condition_number, A * scale), np.linalg.cond(S), rtol=1e-12)
    squared = np.linalg.cond(S) ** 2
    for A in (S, S.T):
        assert np.isclose(quiet(ic.condition_number, features=A), squared, rtol=1e-11)
    assert np.isclose(quiet(ic.condition_number, ic.gram(S)), squared, rtol=1e-11)


@given(S=matrices, scale=scales)
def test_rank_deficient_against_60_digits(S, scale):
    pairs = quiet(ic.extreme_pairs, S)
    truth = true_singular_values(S)
    assume(pairs.determined_min)
    kappa = float(truth[0] / truth[pairs.rank - 1])
    allowed = 1e-14 + 2 * pairs.bound_min / pairs.sigma_min
    assert quiet(ic.condition_number, S) >= 1
    assert abs(quiet(ic.condition_number, S) / kappa - 1) <= allowed
    # In other units the entries are rounded anew.
    noise = 100 * np.finfo(float).eps * kappa
    assume(noise < 0.1)
    assert abs(quiet(ic.condition_number, S * scale, rank=pairs.rank) / kappa - 1) <= noise


@given(Z=constructed(st.integers(1, 30)))
def test_of_features_as_of_their_pairs(Z):
    pairs = quiet(ic.feature_extreme_pairs, Z)
    assert quiet(ic.condition_number, features=Z) == max(1.0, pairs.condition_number)


def test_keywords_reach_the_rank_rule():
    S = np.diag([4.0, 2.0, 1.0])
    assert ic.condition_number(S) == 4.0
    assert ic.condition_number(S, rank=2) == 2.0
    assert ic.condition_number(S, rtol=0.3) == 2.0
    assert ic.condition_number(features=S) == 16.0
    assert ic.condition_number(features=S, rank=2) == 4.0
    assert ic.condition_number(features=S, rtol=0.3) == 4.0
    noisy = np.diag([1.0, 0.5, 1e-7])
    assert ic.condition_number(noisy, computed_in=np.float32) == 2.0
    assert ic.condition_number(features=noisy, computed_in="float32") == 4.0


@pytest.mark.parametrize("scale", [1e-320, 1e-160, 1e-150, 1e150, 1e160, 3e307])
def test_scale_never_matters(scale):
    S = np.array([[3.0, 0.0], [0.0, 1.5], [0.0, 0.0]])
    assert np.isclose(ic.condition_number(S * scale), 2.0, rtol=1e-3 if scale < 1e-300 else 1e-14)
    assert np.isclose(
        ic.condition_number(features=S * scale), 4.0, rtol=1e-3 if scale < 1e-300 else 1e-14
    )


def test_it_needs_no_representable_singular_value():
    S = np.array([[1.7e308, 1.7e308, 0], [1.7e308, -1.7e308, 0], [0, 0, 1e308]])
    assert np.isclose(ic.condition_number(S), 1.7 * 2**0.5, rtol=1e-14)
    assert ic.condition_number(np.diag([1.7e308, 1.7e308]), ridge=1.7e308) == 1.0
    assert ic.condition_number(np.diag([1.2e308, 0.0]), ridge=1.2e308) == 2.0
    assert ic.condition_number(np.diag([3e-324, 0.0]), ridge=1.0) == 1.0
    assert np.isclose(ic.condition_number(features=np.diag([2e160, 1e160]), ridge=1.0), 4.0)


@pytest.mark.parametrize(
    "keywords",
    [
        {"S": np.diag([1, 1e-310])},
        {"features": np.diag([1, 1e-160])},
        {"features": np.diag([1, 1e-170])},
        {"features": np.diag([1, 1e-310])},
    ],
)
def test_beyond_the_range_it_is_an_error_and_never_infinite(keywords):
    with pytest.raises((OverflowError, ValueError), match=r"range|not representable"):
        quiet(ic.condition_number, **keywords, rank=2)


# ---- ridge ----


@given(H=psd_matrices(), ridge=st.floats(1e-8, 1e3))
def test_ridge(H, ridge):
    sigma = np.clip(np.linalg.eigvalsh(H), 0, None)
    expected = (sigma[-1] + ridge) / (sigma[0] + ridge)
    allowed = 1e-12 + 1e-14 * sigma[-1] / (sigma[0] + ridge)
    assert abs(ic.condition_number(H, ridge=ridge) / expected - 1) <= allowed


@given(Z=constructed(st.integers(1, 20)), ridge=st.floats(1e-8, 1e3))
def test_ridge_of_features_counts_all_m_directions(Z, ridge):
    sigma = np.linalg.svd(Z, compute_uv=False) ** 2
    smallest = sigma[-1] if Z.shape[0] >= Z.shape[1] else 0.0
    expected = (sigma[0] + ridge) / (smallest + ridge)
    rounding = 1e-9 + 8 * np.finfo(float).eps * expected  # that of the smallest eigenvalue
    assert abs(ic.condition_number(features=Z, ridge=ridge) / expected - 1) <= rounding


def test_ridge_is_the_published_convention():
    """A singular Gram matrix: the ridge, not the data, sets the condition number."""
    K = with_eigenvalues(np.random.default_rng(0), 79, np.linspace(1800.0, 1.0, 74))
    published = np.linalg.cond(K + 1e-6 * np.eye(79))
    assert np.isclose(ic.condition_number(K, ridge=1e-6), published, rtol=1e-5)
    assert np.isclose(ic.condition_number(K, ridge=1e-6), 1.8e9, rtol=1e-5)
    assert np.isclose(ic.condition_number(K, rank=74), 1800.0, rtol=1e-10)


def test_ridge_zero_is_none():
    S = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0]])
    assert ic.condition_number(S, ridge=0.0) == ic.condition_number(S)
    assert ic.condition_number(S, ridge=0) == ic.condition_number(S)


def test_ridge_wants_a_semidefinite_matrix():
    for S, what in (
        ([[1.0, 2.0], [0.0, 1.0]], "symmetric"),
        ([[1.0, 0.0], [0.0, -1.0]], "semidefinite"),
        ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], "square"),
    ):
        with pytest.raises(ValueError, match=f"S must be .*{what}"):
            ic.condition_number(S, ridge=1.0)


# ---- arguments and warnings ----


def test_exactly_one_of_matrix_and_features():
    for keywords in ({}, {"S": np.eye(2), "features": np.eye(2)}):
        with pytest.raises(ValueError, match=r"give a matrix.*, or features.*: got (neither|both)"):
            ic.condition_number(**keywords)


def test_an_undetermined_value_is_warned_of_at_the_call():
    S = with_eigenvalues(np.random.default_rng(1), 6, [1.0, 0.5])
    for call in (
        lambda: ic.condition_number(S, rank=3),
        lambda: ic.condition_number(features=S, rank=3),
    ):
        with pytest.warns(ic.AccuracyWarning) as caught:
            call()
        assert [w.filename for w in caught] == [__file__]
    assert ic.condition_number(S, rank=3, ridge=1e-3) > 500


def test_a_ridge_over_features_whose_condition_number_is_not_representable():
    Z = np.diag([1.0, 1e-160])
    with pytest.raises(OverflowError, match="not representable"):
        ic.condition_number(features=Z, rtol=0.0)
    assert ic.condition_number(features=Z, ridge=1.0) == pytest.approx(2.0, rel=1e-15)
    assert ic.condition_number(features=Z, ridge=1e-3) == pytest.approx(1001.0, rel=1e-14)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int8])
def test_a_ridge_over_nothing_is_the_ridge(dtype):
    """0 + ridge I has condition number 1; without a ridge, or of a rank that is given, none."""
    nothing = np.zeros((4, 3), dtype)
    assert ic.condition_number(features=nothing, ridge=1e-6) == 1.0
    assert ic.condition_number(nothing[:3], ridge=1e-6) == 1.0
    for keywords in ({}, {"ridge": 1.0, "rank": 1}):
        with pytest.raises(ValueError, match="rank"):
            ic.condition_number(features=nothing, **keywords)
    with pytest.raises(ValueError, match="square"):
        ic.condition_number(nothing, ridge=1.0)
