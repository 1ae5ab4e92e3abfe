"""Entries whose products underflow beside others of order one: bounds hold all the same."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matrices import generators, quiet
from truth import true_singular_values

import immucond as ic

DIGITS = 250  # squares of 1e-320, and more


def assert_bounds(pairs, truth):
    with mpmath.workdps(DIGITS):
        assert abs(pairs.sigma_max - truth[0]) <= pairs.bound_max
        assert abs(pairs.sigma_min - truth[pairs.rank - 1]) <= pairs.bound_min


@pytest.mark.parametrize("exponent", range(-170, -139))
@pytest.mark.parametrize("options", [{}, {"rtol": 0.0}, {"rank": 2}, {"method": "jacobi"}])
def test_one_row_of_order_one(exponent, options):
    s = 10.0**exponent
    for S in ([[1, s, s], [0, s, 2 * s]], [[1, s], [s, 3 * s]], [[1, 0], [s, s]]):
        truth = true_singular_values(S, DIGITS)
        if options == {"rank": 2} and exponent < -160:
            continue  # LAPACK's norms lose squares below 1e-320: the second comes out as 0
        pairs = quiet(ic.extreme_pairs, S, **options)
        assert_bounds(pairs, truth)
        assert np.isclose(pairs.sigma_max, 1.0, rtol=1e-14)


entries = st.sampled_from(
    [0.0, 1.0, -1.0, 0.5, 2.0, *(10.0**e for e in (-60, -150, -155, -160, -165, -170, -300, -310))]
)


@given(
    rows=st.lists(st.lists(entries, min_size=3, max_size=3), min_size=1, max_size=4),
    method=st.sampled_from(["auto", "jacobi", "lanczos"]),
    options=st.sampled_from([{}, {"rtol": 0.0}]),
)
def test_any_entries(rows, method, options):
    S = np.array(rows)
    if not S.any():
        return
    truth = true_singular_values(S, DIGITS)
    try:
        pairs = quiet(ic.extreme_pairs, S, method=method, **options)
    except (ValueError, OverflowError) as error:
        assert "not nonzero" in str(error) or "1.8e308" in str(error)  # noqa: PT017
        return
    assert_bounds(pairs, truth)


# ---- one-sided Jacobi has digits where scaling made the columns differ, and only there ----


@given(rng=generators, k=st.integers(1, 3), columns=st.integers(2, 5))
def test_jacobi_of_low_rank_promises_no_more_than_a_reduction(rng, k, columns):
    S = rng.integers(-9, 10, (6, k)) @ rng.integers(-9, 10, (k, columns)).astype(float)
    if not S.any():
        return
    truth = true_singular_values(S)
    true_rank = sum(sigma > 1e-20 for sigma in truth)
    for options in ({}, {"rtol": 0.0}, {"rank": min(S.shape)}):
        try:
            pairs = quiet(ic.extreme_pairs, S, method="jacobi", **options)
        except ValueError as error:
            assert "not nonzero" in str(error)  # noqa: PT017
            continue
        assert_bounds(pairs, truth)
        assert pairs.bound_max <= 1e-13 * pairs.sigma_max
        if pairs.rank > true_rank:
            assert not pairs.determined_min
        features = quiet(ic.feature_extreme_pairs, S, method="jacobi")
        assert features.rank == true_rank
        assert features.bound_min <= 1e-10 * features.sigma_max


def test_jacobi_keeps_the_digits_of_a_zero_column_s_neighbours():
    rng = np.random.default_rng(0)
    S = rng.normal(size=(8, 4)) * np.array([1.0, 1e-30, 1e-60, 0.0])
    pairs = quiet(ic.extreme_pairs, S, method="jacobi", rank=3)
    assert_bounds(pairs, true_singular_values(S, DIGITS))
    assert pairs.bound_min <= 1e-12 * pairs.sigma_min


@pytest.mark.parametrize("exponent", [-100, -155, -165, -200, -290])
@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (2, 3)])
def test_a_tiny_singular_value_is_seen_by_every_way(exponent, shape):
    S = np.zeros(shape)
    S[0, 0], S[1, 1] = 1.0, 10.0**exponent
    for method in ("auto", "direct", "jacobi"):
        pairs = quiet(ic.extreme_pairs, S, method=method, rtol=0.0)
        assert pairs.rank == 2
        assert np.isclose(pairs.condition_number, 10.0**-exponent, rtol=1e-9)
    if exponent > -155:
        kappa = quiet(ic.condition_number, features=S, rtol=0.0)
        assert np.isclose(kappa, 100.0**-exponent, rtol=1e-9)
    else:
        with pytest.raises(OverflowError, match="not representable"):
            ic.condition_number(features=S, rtol=0.0)
