"""One-sided Jacobi: every singular value to its own digits, where scaling made them differ."""

import warnings

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import immucond as ic


def exact_ends(S):
    """The extreme singular values of the float64 matrix, to 40 digits."""
    with mpmath.workdps(140):
        A = mpmath.matrix((S if S.shape[0] >= S.shape[1] else S.T).tolist())
        values = [mpmath.sqrt(x) for x in mpmath.eigsy(A.T * A, eigvals_only=True)]
        return min(values), max(values)


@given(
    st.integers(1, 7),
    st.integers(0, 5),
    st.floats(0, 25),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_graded_columns_keep_every_digit(n, more, grade, wide, seed):
    rng = np.random.default_rng(seed)
    S = rng.normal(size=(n + more, n)) * 10.0 ** rng.uniform(-grade, 0, n)
    low, high = exact_ends(S)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a random square may be close to singular, or tied
        pairs = ic.extreme_pairs(S.T if wide else S, method="jacobi", rtol=0.0)
    assert pairs.method == "jacobi"
    assert abs(mpmath.mpf(float(pairs.sigma_min)) - low) <= pairs.bound_min
    assert abs(mpmath.mpf(float(pairs.sigma_max)) - high) <= pairs.bound_max
    # The condition of S with unit columns is what may cost digits.
    unit = S / np.linalg.norm(S, axis=0)
    assert abs(pairs.sigma_min / float(low) - 1) < 1e-13 * np.linalg.cond(unit)


def test_a_certificate_where_a_reduction_has_none():
    S = np.random.default_rng(1).normal(size=(20, 8)) * np.logspace(0, -18, 8)
    with pytest.warns() as told:
        direct = ic.extreme_pairs(S, method="direct", rtol=0.0)
    assert {w.category for w in told} == {ic.AccuracyWarning, ic.DegenerateSpectrumWarning}
    jacobi = ic.extreme_pairs(S, method="jacobi", rtol=0.0)
    assert not direct.determined_min
    assert jacobi.determined_min
    assert jacobi.bound_min < 1e-12 * jacobi.sigma_min


@pytest.mark.parametrize("shape", [(1, 1), (9, 4), (4, 9), (6, 6)])
def test_triplets(shape):
    S = np.random.default_rng(2).normal(size=shape)
    pairs = ic.extreme_pairs(S, method="jacobi")
    sigma = np.linalg.svd(S, compute_uv=False)
    for value, u, v, at in (
        (pairs.sigma_max, pairs.u_max, pairs.v_max, 0),
        (pairs.sigma_min, pairs.u_min, pairs.v_min, -1),
    ):
        assert value == pytest.approx(sigma[at], rel=1e-13)
        assert np.allclose(S @ v, value * u, atol=1e-13)
        assert np.allclose(S.T @ u, value * v, atol=1e-13)


def test_rank_and_ties():
    S = np.diag([3.0, 3.0, 2.0, 1e-9, 0.0])
    with pytest.warns(ic.DegenerateSpectrumWarning, match="largest"):
        pairs = ic.extreme_pairs(S, method="jacobi")
    assert pairs.rank == 4
    assert pairs.sigma_min == pytest.approx(1e-9, rel=1e-15)
    assert not pairs.simple_max
    assert pairs.simple_min


def test_features():
    Z = np.random.default_rng(3).normal(size=(30, 5)) * np.logspace(0, -9, 5)
    pairs = ic.feature_extreme_pairs(Z, method="jacobi")
    low, high = exact_ends(Z)
    assert pairs.method == "qr-jacobi"
    assert pairs.sigma_min == pytest.approx(float(low**2), rel=1e-10)
    assert pairs.sigma_max == pytest.approx(float(high**2), rel=1e-13)
