"""Extreme singular pairs against NumPy and, bound for bound, against 60-digit arithmetic."""

import warnings

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from matrices import (
    DTYPES,
    EPS,
    LAYOUTS,
    constructed,
    generators,
    integer_matrices,
    matrices,
    orthonormal,
    psd_matrices,
    quiet,
    scales,
    separated,
    spectra,
    with_eigenvalues,
    with_singular_values,
)
from truth import DIGITS, assert_certified, true_eigenvalues, true_singular_values

import immucond as ic


def true_feature_eigenvalues(Z):
    with mpmath.workdps(DIGITS):
        return [sigma**2 for sigma in true_singular_values(Z)]


# One row a function: how to call it, which matrices it takes, and what is true.
GENERAL = (ic.extreme_pairs, matrices, true_singular_values)
PSD = (ic.psd_extreme_pairs, psd_matrices(), true_eigenvalues)
FEATURES = (ic.feature_extreme_pairs, matrices, true_feature_eigenvalues)
FUNCTIONS = pytest.mark.parametrize(
    ("function", "given_matrices", "truth"),
    [GENERAL, PSD, FEATURES],
    ids=["general", "psd", "features"],
)


# ---- certified bounds ----


@FUNCTIONS
@given(data=st.data())
def test_the_truth_is_within_the_bounds(function, given_matrices, truth, data):
    A = data.draw(given_matrices)
    assert_certified(quiet(function, A), truth(A))


@pytest.mark.parametrize("method", ["gram", "qr", "auto"])
@given(Z=matrices)
def test_the_truth_is_within_the_bounds_by_every_method(method, Z):
    assert_certified(quiet(ic.feature_extreme_pairs, Z, method=method), true_feature_eigenvalues(Z))


@given(S=matrices, scale=scales)
def test_the_truth_is_within_the_bounds_at_every_scale(S, scale):
    S = S * scale
    assert_certified(quiet(ic.extreme_pairs, S), true_singular_values(S))
    H = S.T @ (S / scale)
    H = (H + H.T) / 2
    assert_certified(quiet(ic.psd_extreme_pairs, H), true_eigenvalues(H))


@given(Z=matrices, exponent=st.integers(-520, 500))
def test_features_at_every_scale(Z, exponent):
    Z = np.ldexp(Z, exponent)
    assert_certified(quiet(ic.feature_extreme_pairs, Z), true_feature_eigenvalues(Z))


@FUNCTIONS
@pytest.mark.parametrize("n", [30, 60])
def test_bounds_hold_beyond_toy_sizes(function, given_matrices, truth, n):
    rng = np.random.default_rng(n)
    sigma = np.geomspace(1.0, 1e-5, n)
    A = with_eigenvalues(rng, n, sigma) if truth is true_eigenvalues else None
    A = with_singular_values(rng, n + 5, n, sigma) if A is None else A
    assert_certified(function(A), truth(A))


@FUNCTIONS
@given(rng=generators, n=st.integers(2, 4), scale=st.floats(0.1, 10), dtype=st.sampled_from("efd"))
def test_bounds_hold_where_ends_are_equal_or_nearly(
    function, given_matrices, truth, rng, n, scale, dtype
):
    """To the rounding of the dtype, which is what ties are judged by."""
    sigma = scale * (1.0 + 3 * np.finfo(dtype).eps * rng.random(n))
    if dtype != "d":
        A = np.diag(sigma).astype(dtype)
    elif truth is true_eigenvalues:
        A = with_eigenvalues(rng, n, sigma)
    else:
        A = with_singular_values(rng, n + 1, n, sigma)
    exact = truth(A)
    pairs = quiet(function, A)
    assert_certified(pairs, exact)
    assert abs(pairs.condition_number / float(exact[0] / exact[-1]) - 1) <= 1e-13


def test_bounds_are_tight_where_a_gap_isolates_the_ends():
    rng = np.random.default_rng(0)
    sigma = separated(rng, 20)
    for pairs in (
        ic.extreme_pairs(with_singular_values(rng, 30, 20, sigma)),
        ic.psd_extreme_pairs(with_eigenvalues(rng, 20, sigma)),
        ic.feature_extreme_pairs(with_singular_values(rng, 30, 20, sigma)),
    ):
        assert pairs.bound_max <= 2 * EPS * pairs.sigma_max
        assert pairs.bound_min <= 2 * EPS * pairs.sigma_min


# ---- against NumPy ----


@given(S=st.one_of(constructed(), integer_matrices))
def test_extreme_pairs_against_numpy(S):
    pairs = quiet(ic.extreme_pairs, S)
    sigma = np.linalg.svd(S, compute_uv=False)
    tolerance = max(S.shape) * EPS * sigma[0]
    # At the edge of the tolerance rounding decides which side a singular value is on.
    assert (sigma > 1.5 * tolerance).sum() <= pairs.rank <= (sigma > 0.5 * tolerance).sum()
    noise = 30 * EPS * np.sqrt(max(S.shape)) * sigma[0]
    assert abs(pairs.sigma_max - sigma[0]) <= noise
    assert abs(pairs.sigma_min - sigma[pairs.rank - 1]) <= noise
    assert np.isclose(pairs.frobenius, np.linalg.norm(S), rtol=1e-14)
    for u, v, s in (
        (pairs.u_max, pairs.v_max, pairs.sigma_max),
        (pairs.u_min, pairs.v_min, pairs.sigma_min),
    ):
        assert u.shape == (S.shape[0],)
        assert v.shape == (S.shape[1],)
        assert abs(np.linalg.norm(u) - 1) < 1e-14
        assert abs(np.linalg.norm(v) - 1) < 1e-14
        assert v[np.abs(v).argmax()] > 0
        if s > 1e-3 * sigma[0]:
            assert np.abs(S @ v - s * u).max() <= noise
            assert np.abs(S.T @ u - s * v).max() <= noise


@given(H=psd_matrices())
def test_psd_extreme_pairs_against_numpy(H):
    assume(H.any())
    pairs = quiet(ic.psd_extreme_pairs, H)
    values = np.linalg.eigvalsh(H)[::-1]
    noise = 20 * EPS * np.sqrt(len(H)) * values[0]
    assert abs(pairs.sigma_max - values[0]) <= noise
    assert abs(pairs.sigma_min - values[pairs.rank - 1]) <= noise
    assert np.isclose(pairs.frobenius, np.linalg.norm(H), rtol=1e-14)
    for v, s in ((pairs.v_max, pairs.sigma_max), (pairs.v_min, pairs.sigma_min)):
        assert abs(np.linalg.norm(v) - 1) < 1e-14
        assert np.abs(H @ v - s * v).max() <= noise
    assert np.array_equal(pairs.u_max, pairs.v_max)
    assert np.array_equal(pairs.u_min, pairs.v_min)


@pytest.mark.parametrize("method", ["auto", "gram", "qr"])
@given(Z=constructed(st.integers(1, 40)))
def test_feature_extreme_pairs_against_numpy(method, Z):
    pairs = quiet(ic.feature_extreme_pairs, Z, method=method)
    values = np.linalg.svd(Z, compute_uv=False) ** 2
    noise = 60 * EPS * np.sqrt(max(Z.shape)) * values[0]
    assert abs(pairs.sigma_max - values[0]) <= noise
    assert abs(pairs.sigma_min - values[pairs.rank - 1]) <= noise
    assert np.isclose(pairs.frobenius, np.linalg.norm(values), rtol=1e-13)
    H = Z.T @ Z
    for v, s in ((pairs.v_max, pairs.sigma_max), (pairs.v_min, pairs.sigma_min)):
        assert v.shape == (Z.shape[1],)
        assert abs(np.linalg.norm(v) - 1) < 1e-14
        if s > 1e-3 * values[0]:
            assert np.abs(H @ v - s * v).max() <= 10 * noise
    if method != "auto":
        assert pairs.method == method


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_vectors_have_one_singular_value(shape):
    S = np.random.default_rng(1).normal(size=shape)
    pairs = ic.extreme_pairs(S)
    assert pairs.rank == 1
    assert pairs.gap_max == pairs.gap_min == np.inf
    assert pairs.sigma_max == pairs.sigma_min
    assert np.isclose(pairs.sigma_max, np.linalg.norm(S), rtol=1e-15)
    assert np.allclose(np.outer(pairs.u_max, pairs.v_max) * pairs.sigma_max, S, rtol=1e-14)
    features = ic.feature_extreme_pairs(S)
    assert features.rank == 1
    assert np.isclose(features.sigma_max, np.linalg.norm(S) ** 2, rtol=1e-15)


def test_a_larger_matrix_with_a_known_spectrum():
    rng = np.random.default_rng(2)
    n = 300
    sigma = np.geomspace(1.0, 1e-6, n)
    H, S = with_eigenvalues(rng, n, sigma), with_singular_values(rng, 400, n, sigma)
    for pairs, top, bottom in (
        (ic.psd_extreme_pairs(H), 1.0, 1e-6),
        (ic.extreme_pairs(S), 1.0, 1e-6),
        (ic.extreme_pairs(S.T), 1.0, 1e-6),
        (ic.feature_extreme_pairs(S), 1.0, 1e-12),
        (ic.feature_extreme_pairs(S.T), 1.0, 1e-12),
    ):
        assert pairs.rank == n
        assert np.isclose(pairs.sigma_max, top, rtol=1e-13)
        assert np.isclose(pairs.sigma_min, bottom, rtol=1e-8)
        assert pairs.simple_max
        assert pairs.simple_min


# ---- gaps and ties ----


@given(rng=generators, k=st.integers(2, 7))
def test_gaps_are_relative_distances_to_the_neighbours(rng, k):
    sigma = separated(rng, k)
    n, m = k + rng.integers(0, 4), k + rng.integers(0, 4)
    gap_max, gap_min = 1 - sigma[1] / sigma[0], sigma[-2] / sigma[-1] - 1
    pairs = ic.extreme_pairs(with_singular_values(rng, n, m, sigma))
    assert np.isclose(pairs.gap_max, gap_max, rtol=1e-12)
    assert np.isclose(pairs.gap_min, gap_min, rtol=1e-12)
    pairs = ic.psd_extreme_pairs(with_eigenvalues(rng, n, sigma))
    assert np.isclose(pairs.gap_max, gap_max, rtol=1e-12)
    assert np.isclose(pairs.gap_min, gap_min, rtol=1e-12)
    Z = with_singular_values(rng, n, m, np.sqrt(sigma))
    for method in ("gram", "qr"):
        pairs = ic.feature_extreme_pairs(Z, method=method)
        assert np.isclose(pairs.gap_max, gap_max, rtol=1e-11)
        assert np.isclose(pairs.gap_min, gap_min, rtol=1e-11)


@pytest.mark.parametrize("top", [1, 2, 5])
@pytest.mark.parametrize("bottom", [1, 2, 5])
@pytest.mark.parametrize("n", [12, 70])
def test_repeated_ends_are_flagged_and_no_others(top, bottom, n):
    rng = np.random.default_rng(n + 10 * top + bottom)
    sigma = np.concatenate([[3.0] * top, np.linspace(2.5, 1.5, 12 - top - bottom), [1.0] * bottom])
    H, S = with_eigenvalues(rng, n, sigma), with_singular_values(rng, n + 3, n, sigma)
    ends = [name for name, count in (("largest", top), ("smallest", bottom)) if count > 1]
    for call, squared in (
        (lambda: ic.psd_extreme_pairs(H, rank=12), 1),
        (lambda: ic.extreme_pairs(S, rank=12), 1),
        (lambda: ic.feature_extreme_pairs(S, rank=12), 2),
        (lambda: ic.feature_extreme_pairs(S.T, rank=12, method="qr"), 2),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pairs = call()
        assert (pairs.simple_max, pairs.simple_min) == (top == 1, bottom == 1)
        assert np.isclose(pairs.sigma_max, 3.0**squared, rtol=1e-13)
        assert np.isclose(pairs.sigma_min, 1.0, rtol=1e-12)
        assert [w.category for w in caught] == [ic.DegenerateSpectrumWarning] * bool(ends)
        for name in ends:
            assert name in str(caught[0].message)


@pytest.mark.parametrize("n", [2, 40, 300])
def test_all_singular_values_equal(n):
    q = orthonormal(np.random.default_rng(n), n + 2, n)
    for A, call in (
        (np.eye(n), ic.psd_extreme_pairs),
        (7.0 * np.eye(n), ic.extreme_pairs),
        (q, ic.extreme_pairs),
        (q, ic.feature_extreme_pairs),
        (q.T, ic.feature_extreme_pairs),
    ):
        with pytest.warns(ic.DegenerateSpectrumWarning, match="largest and the smallest"):
            pairs = call(A)
        assert pairs.rank == n
        assert not pairs.simple_max
        assert not pairs.simple_min
        assert np.isclose(pairs.condition_number, 1.0, rtol=1e-13)


@given(rng=generators, exponent=st.integers(2, 12), n=st.integers(3, 60))
def test_close_but_distinct_ends_are_simple(rng, exponent, n):
    gap = 10.0**-exponent
    sigma = np.concatenate([[1.0, 1.0 - gap], np.linspace(0.9, 0.6, n - 3), [0.5]])
    pairs = ic.psd_extreme_pairs(np.diag(sigma))
    assert pairs.simple_max
    assert np.isclose(pairs.gap_max, gap, rtol=1e-3)
    pairs = ic.psd_extreme_pairs(with_eigenvalues(rng, n, sigma))
    assert pairs.simple_max
    assert abs(pairs.gap_max - gap) <= 100 * EPS


# ---- features: digits that the Gram matrix does not hold ----


@pytest.mark.parametrize("shape", [(60, 8), (8, 60), (8, 8), (3000, 8)])
@pytest.mark.parametrize("log_kappa", [2, 8, 12, 14, 16, 18, 20])
def test_kappa_of_features_to_1e_6(shape, log_kappa):
    rng = np.random.default_rng(log_kappa)
    sigma = np.geomspace(1.0, 10.0 ** (-log_kappa / 2), 8)
    Z = with_singular_values(rng, *shape, sigma)
    small = Z if max(shape) <= 60 else None
    truth = float(true_feature_eigenvalues(small)[7]) if small is not None else sigma[-1] ** 2
    pairs = quiet(ic.feature_extreme_pairs, Z)
    assert pairs.rank == 8
    assert abs(pairs.sigma_min / truth - 1) <= 1e-6
    assert abs(quiet(ic.condition_number, features=Z) * truth / pairs.sigma_max - 1) <= 1e-6
    # Sums over many rows leave fewer digits in the Gram matrix.
    gram = log_kappa <= (8 if max(shape) <= 60 else 2)
    assert pairs.method == ("gram" if gram else "qr")


@pytest.mark.parametrize("log_kappa", [12, 14, 16, 18, 20])
def test_qr_is_certified_where_it_is_right(log_kappa):
    rng = np.random.default_rng(log_kappa)
    Z = with_singular_values(rng, 60, 6, np.geomspace(1.0, 10.0 ** (-log_kappa / 2), 6))
    pairs = ic.feature_extreme_pairs(Z)
    assert_certified(pairs, true_feature_eigenvalues(Z))
    assert pairs.bound_min <= 1e-3 * pairs.sigma_min


def test_grading_in_the_columns_costs_qr_nothing():
    rng = np.random.default_rng(3)
    Z = rng.normal(size=(50, 6)) * np.geomspace(1.0, 1e-12, 6)
    truth = true_feature_eigenvalues(Z)
    pairs = quiet(ic.feature_extreme_pairs, Z, rank=6)
    assert pairs.method == "qr"
    assert abs(pairs.sigma_min / truth[5] - 1) <= 1e-2


def test_qr_merges_many_blocks_of_rows():
    rng = np.random.default_rng(4)
    for layout in ("C", "Fortran", "sliced"):
        Z = LAYOUTS[layout](with_singular_values(rng, 5000, 5, np.geomspace(1, 1e-7, 5)))
        pairs = ic.feature_extreme_pairs(Z, method="qr")
        assert np.isclose(pairs.sigma_min, 1e-14, rtol=1e-7)
        assert np.isclose(pairs.sigma_max, 1.0, rtol=1e-13)


@given(Z=constructed(st.integers(1, 40)))
def test_features_and_their_transpose_have_one_spectrum(Z):
    tall, wide = quiet(ic.feature_extreme_pairs, Z), quiet(ic.feature_extreme_pairs, Z.T)
    assert tall.rank == wide.rank
    assert np.isclose(tall.sigma_max, wide.sigma_max, rtol=1e-13)
    assert np.isclose(tall.frobenius, wide.frobenius, rtol=1e-13)
    assert abs(tall.sigma_min - wide.sigma_min) <= tall.bound_min + wide.bound_min


# ---- rank ----


@FUNCTIONS
@pytest.mark.parametrize("known", [1, 2, 3, 4])
def test_a_known_rank_wins(function, given_matrices, truth, known):
    rng = np.random.default_rng(5)
    sigma = np.array([8.0, 4.0, 2.0, 1.0])
    if truth is true_eigenvalues:
        A = with_eigenvalues(rng, 6, sigma)
    else:
        A = with_singular_values(rng, 9, 6, sigma)
    pairs = function(A, rank=known)
    assert pairs.rank == known
    assert_certified(pairs, truth(A))
    assert function(A, rank=np.int64(known)).rank == known


@given(rng=generators, k=st.integers(1, 6), extra=st.integers(1, 3))
def test_rank_deficiency_is_seen_through_rounding(rng, k, extra):
    sigma = separated(rng, k)
    n = k + extra
    for pairs in (
        ic.extreme_pairs(with_singular_values(rng, 4 * n, n, sigma), rtol=1e-12),
        ic.psd_extreme_pairs(with_eigenvalues(rng, n, sigma), rtol=1e-12),
        ic.feature_extreme_pairs(with_singular_values(rng, 4 * n, n, sigma)),
        ic.feature_extreme_pairs(with_singular_values(rng, n, 4 * n, sigma)),
    ):
        assert pairs.rank == k


@given(sigma=spectra(6), rtol=st.floats(0, 0.999))
def test_rtol_is_numpys(sigma, rtol):
    pairs = quiet(ic.extreme_pairs, np.diag(sigma), rtol=rtol)
    assert pairs.rank == np.linalg.matrix_rank(np.diag(sigma), tol=rtol * sigma.max())
    signed = np.diag(sigma * [1, -1, 1, -1, 1, -1])
    assert quiet(ic.extreme_pairs, signed, rtol=rtol).rank == pairs.rank


@given(
    rng=generators,
    log_a=st.floats(-12, -1),
    log_d=st.floats(-16, -1),
    form=st.sampled_from(["general", "psd", "auto", "gram", "qr"]),
    by_rank=st.booleans(),
)
def test_bounds_hold_with_singular_values_just_below_the_cut(rng, log_a, log_d, form, by_rank):
    a, d = 10.0**log_a, 10.0 ** (log_a + log_d)
    sigma = np.array([1, a + d, a - d, a - 2 * d, a / 2, a / 3])
    keywords = {"rank": 2} if by_rank else {"rtol": a}
    if form == "psd":
        A, function, truth = with_eigenvalues(rng, 6, sigma), *PSD[::2]
    elif form == "general":
        A, function, truth = with_singular_values(rng, 8, 6, sigma), *GENERAL[::2]
    else:
        A, function, truth = with_singular_values(rng, 9, 6, np.sqrt(sigma)), *FEATURES[::2]
        keywords = {"rank": 2} if by_rank else {"rtol": a**0.5}
        keywords["method"] = form
    assert_certified(quiet(function, A, **keywords), truth(A))


@pytest.mark.parametrize("dtype", ["f2", "f8"])
def test_small_negative_eigenvalues_are_singular_values(dtype):
    S = np.diag([1.0, -0.01, 0.001] + [0.0] * 17).astype(dtype)
    pairs = ic.extreme_pairs(S, rank=2)
    assert np.isclose(pairs.sigma_min, 0.01, rtol=1e-2)
    assert np.isclose(pairs.u_min @ pairs.v_min, -1)
    pairs = ic.extreme_pairs(np.diag([1, -0.05, 0.01]), rank=2, rtol=0.1)
    assert pairs.sigma_min == 0.05


def test_computed_in_covers_asymmetry_too():
    rng = np.random.default_rng(13)
    H = with_eigenvalues(rng, 8, separated(rng, 8))
    H[1, 0] += 1e-7
    assert ic.psd_extreme_pairs(H, computed_in=np.float32).rank == 8
    with pytest.raises(ValueError, match="H must be symmetric"):
        ic.psd_extreme_pairs(H)


@given(generators, st.integers(2, 6), st.integers(1, 9))
def test_bounds_are_of_the_symmetric_part_unrounded(rng, n, e):
    """As products such as theta^T K theta come, symmetric but for the last bits."""
    q = orthonormal(rng, n, n)
    H = (q * np.geomspace(1.0, 10.0**-e, n)) @ q.T
    with mpmath.workdps(DIGITS):
        exact = mpmath.matrix(H.tolist())
        truth = sorted(mpmath.eigsy((exact + exact.T) / 2, eigvals_only=True), reverse=True)
    for layout in (H, np.asfortranarray(H)):
        assert_certified(quiet(ic.psd_extreme_pairs, layout), truth)


@pytest.mark.parametrize("method", ["auto", "gram", "qr"])
def test_rows_chosen_so_that_the_wrong_end_stands_out(method):
    """Squares that round to nothing beside a one: their sum decides which column is longer."""
    for step in range(100):
        Z = np.zeros((200, 2))
        Z[0] = [0.0, 1.0]
        Z[1] = [1.0 + step * EPS, 0.0]
        Z[2:, 1] = np.sqrt(EPS / 2 * 0.999)
        with mpmath.workdps(DIGITS):
            truth = [sum(mpmath.mpf(x) ** 2 for x in column) for column in Z.T.tolist()]
        pairs = quiet(ic.feature_extreme_pairs, Z, method=method)
        assert_certified(pairs, sorted(truth, reverse=True))


def test_computed_in_sets_the_noise_floor():
    rng = np.random.default_rng(6)
    Z = with_singular_values(rng, 200, 10, np.linspace(2, 1, 7)).astype(np.float32)
    assert ic.feature_extreme_pairs(Z).rank == 7
    wide = Z.astype(np.float64)
    assert quiet(ic.feature_extreme_pairs, wide).rank == 10
    for name in (np.float32, "float32", np.dtype("f4"), "f4", ">f4"):
        assert ic.feature_extreme_pairs(wide, computed_in=name).rank == 7
    assert quiet(ic.extreme_pairs, wide, computed_in="bfloat16").rank == 7
    assert ic.extreme_pairs(Z, rtol=1e-3).rank == 7


@pytest.mark.parametrize("dtype", ["i1", "?"])
def test_exact_types_are_computed_in_float64(dtype):
    S = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]], dtype)
    with pytest.warns(ic.DegenerateSpectrumWarning):
        pairs = ic.extreme_pairs(S)
    assert pairs.rank == 3
    assert np.isclose(pairs.condition_number, 2.0, rtol=1e-15)


# ---- scale, layout, dtype ----


@given(S=matrices, exponent=st.integers(-900, 900))
def test_powers_of_two_change_nothing_but_the_exponent(S, exponent):
    one, scaled = quiet(ic.extreme_pairs, S), quiet(ic.extreme_pairs, np.ldexp(S, exponent))
    assert scaled.condition_number == one.condition_number
    assert scaled.rank == one.rank
    for name in ("sigma_max", "sigma_min", "frobenius"):
        assert getattr(scaled, name) == np.ldexp(getattr(one, name), exponent)
    for name in ("u_max", "v_max", "u_min", "v_min"):
        assert np.array_equal(getattr(scaled, name), getattr(one, name))


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-150, 1e150, 1e200, 8e307])
def test_the_far_ends_of_float64(scale):
    S = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]) * scale
    for pairs in (ic.extreme_pairs(S), ic.psd_extreme_pairs(S[:2])):
        assert (pairs.sigma_max, pairs.sigma_min) == (2 * scale, scale)
        assert pairs.condition_number == 2.0


def test_what_float64_cannot_hold_is_an_overflow_error():
    big = np.full((3, 3), 1.7e308)
    with pytest.raises(OverflowError, match=r"singular values? of S"):
        ic.extreme_pairs(big)
    with pytest.raises(OverflowError, match=r"singular values? of H"):
        ic.psd_extreme_pairs(big)
    with pytest.raises(OverflowError, match=r"singular values? of Z"):
        ic.feature_extreme_pairs([[1e155]])


@FUNCTIONS
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "?"])
def test_layout_and_dtype_do_not_matter(function, given_matrices, truth, layout, dtype):
    rng = np.random.default_rng(7)
    A = np.abs(rng.integers(0, 5, size=(12, 12))) + 20 * np.eye(12, dtype=int)
    A = (A + A.T).astype(dtype)  # diagonally not dominant, but far from singular
    expected = quiet(function, A.astype(np.float64), computed_in=np.float64)
    got = quiet(function, LAYOUTS[layout](A), computed_in=np.float64)
    assert got.rank == expected.rank
    assert np.isclose(got.sigma_max, expected.sigma_max, rtol=1e-13)
    assert np.isclose(got.sigma_min, expected.sigma_min, rtol=1e-11)
    assert np.allclose(got.v_max, expected.v_max, atol=1e-10)


# ---- textbook matrices ----


@pytest.mark.parametrize("n", [21, 101])
def test_textbook_matrices(n):
    wilkinson = np.diag(np.abs(np.arange(n) - n // 2)) + np.eye(n, k=1) + np.eye(n, k=-1)
    second_difference = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    kahan = np.triu(-np.ones((n, n)), 1) + np.eye(n)
    hilbert = 1.0 / (np.arange(n)[:, None] + np.arange(n) + 1)
    for S in (wilkinson, second_difference, kahan, hilbert, np.ones((n, n))):
        pairs = quiet(ic.extreme_pairs, S)
        sigma = np.linalg.svd(S, compute_uv=False)
        assert abs(pairs.sigma_max - sigma[0]) <= 1e-14 * n * sigma[0]
        assert abs(pairs.sigma_min - sigma[pairs.rank - 1]) <= 1e-14 * n * sigma[0]
    exact = 4 * np.sin(np.pi * np.array([1, n]) / (2 * n + 2)) ** 2
    pairs = ic.psd_extreme_pairs(second_difference)
    assert np.isclose(pairs.sigma_min, exact[0], rtol=1e-12)
    assert np.isclose(pairs.sigma_max, exact[1], rtol=1e-14)


# ---- the result object ----


def test_pairs_are_frozen_and_tell_themselves():
    pairs = ic.extreme_pairs(np.diag([2.0, 1.0]))
    with pytest.raises(AttributeError):
        pairs.sigma_max = 3.0
    assert "sigma_max=2" in repr(pairs)
    assert "rank=2" in repr(pairs)
    assert ic.extreme_pairs(np.diag([2.0, 1.1]), start=pairs, tol=1e-3).sigma_min == 1.1


def test_an_undetermined_smallest_value_is_warned_of():
    S = with_eigenvalues(np.random.default_rng(12), 6, [1.0, 0.5])
    with pytest.warns(ic.AccuracyWarning, match="H is not determined") as caught:
        pairs = ic.psd_extreme_pairs(S, rank=3)
    assert not pairs.determined_min
    assert caught[0].filename == __file__


def test_couplings_at_the_edge_of_the_range():
    # LAPACK's inverse iteration loses its way over off-diagonals of 1e-305.
    rng = np.random.default_rng(12)
    H = np.diag([3.0, 2.0, 1.0])
    H[0, 1] = H[1, 0] = 1e-305
    assert ic.psd_extreme_pairs(H).sigma_max == 3.0
    for _ in range(300):
        n = int(rng.integers(2, 6))
        tiny = np.tril(10.0 ** rng.uniform(-310, -100, (n, n)) * rng.choice([-1, 0, 1], (n, n)), -1)
        H = np.diag(np.arange(1.0, n + 1)) + tiny + tiny.T
        pairs = ic.psd_extreme_pairs(H)
        assert abs(pairs.sigma_max - n) <= pairs.bound_max <= 1e-14
        assert abs(pairs.sigma_min - 1) <= pairs.bound_min <= 1e-14
        assert np.allclose(np.abs(pairs.v_max), np.eye(n)[-1], atol=1e-14)
