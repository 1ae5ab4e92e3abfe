"""Ranks that are given, and tolerances of zero, where the values are rounding or zero."""

import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matrices import generators, quiet
from truth import true_eigenvalues, true_singular_values

import immucond as ic

REFUSED = "not nonzero|rank 0|not representable|passes 1.8e308"


def assert_sound(pairs):
    """Nothing negative, nothing NaN, and no certificate beyond what it certifies."""
    ends = (pairs.sigma_max, pairs.sigma_min, pairs.bound_max, pairs.bound_min)
    assert np.isfinite(ends).all()
    assert min(ends) >= 0
    assert np.isfinite(pairs.condition_number)
    assert pairs.condition_number >= 1
    assert pairs.determined_min == (pairs.bound_min < pairs.sigma_min / 2)
    assert np.isfinite(pairs.v_min).all()
    assert np.isfinite(pairs.u_min).all()


def told(function, *args, **options):
    """What is found, or None where the input is refused in words."""
    try:
        return quiet(function, *args, **options)
    except (ValueError, OverflowError) as error:
        if not re.search(REFUSED, str(error)):
            raise
        return None


def sound(function, *args, **options):
    """Pairs that are sound, or None where the input is refused in words."""
    pairs = told(function, *args, **options)
    if pairs is not None:
        assert_sound(pairs)
    return pairs


@given(rng=generators, n=st.integers(2, 8))
def test_a_rank_beyond_an_outer_product(rng, n):
    v = rng.normal(size=n)
    H = np.outer(v, v)
    pairs = sound(ic.psd_extreme_pairs, H, rank=2)
    if pairs is not None:  # else the second eigenvalue is exactly zero
        truth = true_eigenvalues(H)[1]  # of the rounded entries, of either sign
        assert abs(pairs.sigma_min - abs(truth)) <= pairs.bound_min
        assert pairs.condition_number > 1e13
        # Of either sign here: as a singular value it may round to zero where a reduction does not.
        kappa = told(ic.kappa, H, rank=2)
        assert kappa is None or kappa > 1e13


@given(rng=generators, k=st.integers(1, 3), n=st.integers(4, 7))
def test_no_tolerance_on_singular_gram_matrices(rng, k, n):
    W = rng.normal(size=(k, n))
    H = ic.gram(W)
    pairs = sound(ic.psd_extreme_pairs, H, rtol=0.0)
    if pairs is not None:
        truth = true_eigenvalues(H)[pairs.rank - 1]
        assert abs(pairs.sigma_min - abs(truth)) <= pairs.bound_min


scales = st.sampled_from([0, -3, -20, -40, -80, -100, -150, -160, -200])


@given(
    rng=generators,
    rows=st.integers(2, 30),
    columns=st.lists(scales, min_size=2, max_size=6),
    by_rows=st.booleans(),
    method=st.sampled_from(["auto", "gram", "qr", "direct", "jacobi", "lanczos"]),
)
def test_no_tolerance_on_features_of_mixed_scale(rng, rows, columns, by_rows, method):
    Z = rng.normal(size=(rows, len(columns))) * 10.0 ** np.array(columns)
    if by_rows:
        Z = Z * 10.0 ** rng.choice(columns, rows)[:, None]
    pairs = sound(ic.feature_extreme_pairs, Z, rtol=0.0, method=method)
    if pairs is not None and rows < 8 and pairs.sigma_min > 0:
        truth = [sigma**2 for sigma in true_singular_values(Z, digits=300)]
        assert abs(pairs.sigma_max - truth[0]) <= pairs.bound_max
        assert abs(pairs.sigma_min - truth[pairs.rank - 1]) <= pairs.bound_min


@given(
    rng=generators,
    n=st.integers(2, 6),
    method=st.sampled_from(["auto", "qr", "gram", "jacobi"]),
)
def test_equal_rows_with_their_number_for_a_rank(rng, n, method):
    row = rng.integers(1, 9, n).astype(float)
    Z = np.vstack([row, row])
    pairs = sound(ic.feature_extreme_pairs, Z, rank=2, method=method)
    assert pairs is None or not pairs.determined_min
    assert sound(ic.feature_extreme_pairs, Z, method=method).rank == 1
    assert sound(ic.extreme_pairs, Z).rank == 1


def test_three_tiers_of_scale():
    rng = np.random.default_rng(0)
    for exponents in ([0, -100, -150], [0, -60, -120], [0, -9, -18]):
        Z = rng.normal(size=(20, 3)) * 10.0 ** np.array(exponents)
        sound(ic.feature_extreme_pairs, Z, rtol=0.0)
        sound(ic.feature_extreme_pairs, Z, rank=3)


# ---- below the range of normal numbers ----


@pytest.mark.parametrize("exponent", [-497, -510, -525, -537])
def test_subnormal_results_are_not_called_determined(exponent):
    Z = np.array([[0.07320142, -0.17819697], [0.37286063, -0.90766863]]) * 2.0**exponent
    assert_sound(quiet(ic.feature_extreme_pairs, Z))
    S = np.diag([1.0, 1e-5]) * 2.0 ** (2 * exponent + 20)
    pairs = quiet(ic.extreme_pairs, S)
    assert_sound(pairs)
    # The ratio needs no unit, and keeps its digits without a warning.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isclose(ic.condition_number(S), S[0, 0] / S[1, 1], rtol=1e-12)
        kappa = ic.condition_number(features=np.diag([1.0, 1e-3]) * 2.0**exponent)
        assert np.isclose(kappa, 1e6, rtol=1e-12)
