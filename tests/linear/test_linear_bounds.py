"""Bounds on what theta can do: majorization, frontier, noise, distortion, sampling."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from matrices import generators, orthonormal, spectra, with_eigenvalues

import immucond as ic
from immucond import theorems as th
from immucond.theorems import THEOREMS

dims = st.integers(2, 7)


def gram(rng: np.random.Generator, d: int, decades: float = 3.0) -> np.ndarray:
    return with_eigenvalues(rng, d, np.sort(10.0 ** rng.uniform(-decades, 0, size=d))[::-1])


# ---- the paper's formula beside the spectrum ----


@given(generators, st.integers(1, 6), st.integers(1, 8))
def test_spectrum_majorizes_the_formula(rng, d, m):
    K, theta = gram(rng, d), rng.normal(size=(d, m))
    seen = ic.linear.majorization(theta, K)
    H = theta.T @ K @ theta
    np.testing.assert_allclose(seen.spectrum, np.linalg.eigvalsh(H)[::-1], atol=1e-12 * np.trace(H))
    np.testing.assert_allclose(
        seen.rayleigh, np.sort(ic.linear.rayleigh_spectrum(theta, K))[::-1], rtol=1e-12
    )
    assert seen.gap.min() >= -1e-12 * np.trace(H)
    assert abs(seen.gap[-1]) <= 1e-12 * np.trace(H)
    rank = min(d, m)
    assert seen.kappa == pytest.approx(seen.spectrum[0] / seen.spectrum[rank - 1], rel=1e-9)
    if m <= d:  # definite H: the formula never overstates
        assert seen.kappa_rayleigh <= seen.kappa * (1 + 1e-9)


def test_formula_is_right_where_vectors_are_aligned():
    aligned = ic.linear.majorization(np.diag([3.0, 2.0, 1.0]), np.diag([9.0, 4.0, 1.0]))
    np.testing.assert_allclose(aligned.gap, 0.0, atol=1e-12)
    assert aligned.kappa == pytest.approx(aligned.kappa_rayleigh) == pytest.approx(81.0)


def test_formula_overstates_kappa_of_a_singular_hessian():
    b = np.array([1.0, 0.01])
    seen = ic.linear.majorization(np.diag([1.0 + 1e-9, 1.0]), np.outer(b, b))
    assert seen.kappa == 1.0
    assert seen.kappa_rayleigh == pytest.approx(1e4, rel=1e-6)
    np.testing.assert_array_equal(seen.spectrum[1:], 0.0)


@pytest.mark.parametrize("scale", [1e-170, 1e150])
def test_both_kappas_are_those_of_any_scale(scale):
    rng = np.random.default_rng(3)
    theta, K = rng.normal(size=(4, 4)), gram(rng, 4)
    plain = ic.linear.majorization(theta, K)
    scaled = ic.linear.majorization(theta * scale, K)
    assert scaled.kappa == pytest.approx(plain.kappa, rel=1e-9)
    assert scaled.kappa_rayleigh == pytest.approx(plain.kappa_rayleigh, rel=1e-9)


def test_spectrum_keeps_its_digits():
    # By H itself the small end would be lost: kappa(H) = 1e20.
    theta, K = np.diag([1.0, 1e-5]), np.array([[1.0, 0.0], [0.0, 1e-10]])
    seen = ic.linear.majorization(theta, K)
    assert seen.kappa == pytest.approx(1e20, rel=1e-9)


# ---- the frontier ----


@given(generators, dims, st.integers(1, 9))
def test_frontier_is_the_line_that_the_optimal_extractors_walk(rng, d, points):
    K_P, K_H = gram(rng, d), gram(rng, d)
    line = ic.linear.frontier(K_P, K_H, points=points)
    assert line.kappa_P.shape == line.kappa_H.shape == (points,)
    assert line.kappa_P[0] == 1.0
    np.testing.assert_allclose(line.kappa_H, line.limit.kappa_M * line.kappa_P)
    np.testing.assert_allclose(line.i / line.ii, line.limit.rir)
    assert np.all(line.ii <= 1 + 1e-12)
    if points > 1:  # the best (i) under condition (b)
        assert line.i[-1] == pytest.approx(line.limit.rir, rel=1e-9)
    for kappa_P, kappa_H in zip(line.kappa_P[::4], line.kappa_H[::4], strict=True):
        theta = ic.linear.optimal_extractor(K_P, K_H, kappa_P=kappa_P)
        report = ic.linear.immunity(theta, K_P=K_P, K_H=K_H)
        assert report.kappa_H == pytest.approx(kappa_H, rel=1e-6)


def test_frontier_at_chosen_points_and_in_every_case():
    line = ic.linear.frontier(np.diag([100, 1]), np.diag([2, 1]), kappa_P=[1, 7])
    np.testing.assert_allclose(line.kappa_H, [50, 350])
    equal = ic.linear.frontier(np.eye(2), np.eye(2), kappa_P=[1.0, 3.0])
    np.testing.assert_allclose(equal.kappa_H, [1, 3])
    one = ic.linear.frontier(np.diag([9, 1]), np.diag([1, 0]), kappa_P=[1.0, 3.0])
    np.testing.assert_allclose(one.kappa_H, [1, 1])
    endless = ic.linear.frontier(np.diag([9, 0]), np.eye(2))
    assert np.all(np.isinf(endless.kappa_H))
    noisy = ic.linear.frontier(np.diag([9, 0]), np.eye(2), delta=(1.0, 0.0), points=2)
    np.testing.assert_allclose(noisy.kappa_P, [1, 10])
    for bad in ([0.5], [np.nan], []):
        with pytest.raises(ValueError, match="kappa_P must"):
            ic.linear.frontier(np.eye(2), np.eye(2), kappa_P=bad)
    with pytest.raises(ValueError, match="kappa_P must be 1, for the primary task has rank 1"):
        ic.linear.frontier(np.diag([1, 0]), np.diag([1, 0]), kappa_P=[2.0])
    with pytest.raises(ValueError, match="points must be at least 1"):
        ic.linear.frontier(np.eye(2), np.eye(2), points=0)
    with pytest.raises(OverflowError, match=r"kappa_H on the frontier passes 1.8e308"):
        ic.linear.frontier(np.diag([1, 1e-5]), np.diag([1e-5, 1]), kappa_P=[1.0, 1e300])


# ---- noise ----


@given(generators, dims)
def test_noise_curve_is_the_limit_of_noisy_rows(rng, d):
    X_P, X_H = rng.normal(size=(d + 3, d)), rng.normal(size=(d + 8, d))
    X_P[:, 0] = 0.0
    curve = ic.linear.noise_curve(X_P=X_P, X_H=X_H, variance=[1e-4, 0.3])
    assert curve.exact.rir == np.inf
    assert curve.determined.all()
    for t, variance in enumerate(curve.variance):
        rows = [
            np.vstack([X, np.sqrt(len(X) * variance) * np.eye(d)]) for X in (X_P, X_H)
        ]  # fmt: skip
        limit = ic.linear.immunity_limit(X_P=rows[0], X_H=rows[1])
        for name in ("kappa_M", "kappa_P", "kappa_H", "rir"):
            assert getattr(curve, name)[t] == pytest.approx(getattr(limit, name), rel=1e-6)
        np.testing.assert_allclose(curve.delta[t], [len(X_P) * variance, len(X_H) * variance])


def test_noise_curve_is_not_monotone():
    # Here noise first raises the limit, by whitening the harmful task, and then lowers it.
    K_P, K_H = np.diag([1.0, 1e-1, 1e-2]), np.diag([1e-1, 1e-3, 1e-4])
    curve = ic.linear.noise_curve(K_P, K_H, rows=(1, 1), variance=np.geomspace(1e-7, 1e3, 99))
    assert curve.rir[0] == pytest.approx(curve.exact.rir, rel=0.01)
    assert curve.rir.max() > 30 * curve.rir[0]
    assert curve.rir[-1] == pytest.approx(1.0, abs=0.1)


def test_noise_curve_by_default_spans_the_scale_of_the_inputs():
    rng = np.random.default_rng(0)
    X_P, X_H = rng.normal(size=(2, 50, 4)) * 1e3
    seen = []
    curve = ic.linear.noise_curve(
        X_P=X_P, X_H=X_H, progress=lambda done, total: seen.append((done, total))
    )
    assert curve.variance[-1] == pytest.approx(np.mean(X_P**2))
    assert curve.variance[0] == pytest.approx(1e-12 * np.mean(X_P**2))
    assert seen == [(t, 41) for t in range(1, 42)]
    assert curve.rir[0] == pytest.approx(curve.exact.rir, rel=1e-3)
    by_gram = ic.linear.noise_curve(X_P.T @ X_P, X_H.T @ X_H, rows=(50, 50))
    np.testing.assert_allclose(by_gram.rir, curve.rir, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-170, 1e200])
def test_noise_curve_beyond_the_float_range(scale):
    with pytest.raises(OverflowError, match="X_P, about"):
        ic.linear.noise_curve(X_P=np.eye(3) * scale, X_H=np.eye(3))


def test_noise_curve_says_where_a_gram_matrix_is_rounding():
    rng = np.random.default_rng(0)
    K = with_eigenvalues(rng, 5, np.geomspace(1, 1e-15, 5))
    curve = ic.linear.noise_curve(K, np.eye(5), rows=(1, 1), variance=[1e-16, 1e-2])
    assert curve.determined.tolist() == [False, True]


@pytest.mark.parametrize(
    ("keywords", "error", "told"),
    [
        ({}, TypeError, "give rows"),
        ({"rows": (1, 1), "variance": [0.0]}, ValueError, "variance must be above 0"),
        ({"rows": (1, 1), "variance": [-1.0, 1.0]}, ValueError, "variance must be above 0"),
        ({"rows": (1, 1), "variance": [np.nan]}, ValueError, "variance must be finite"),
        ({"rows": (0, 1)}, ValueError, r"rows\[0\] must be at least 1"),
        ({"rows": (1, 1.5)}, TypeError, r"rows\[1\] must be an integer"),
        ({"rows": 3}, ValueError, "rows must be a pair"),
        ({"rows": (10**9, 1), "variance": [1.0, 1e305]}, OverflowError, "rows times variance"),
    ],
)
def test_noise_curve_names_bad_input(keywords, error, told):
    with pytest.raises(error, match=told):
        ic.linear.noise_curve(np.eye(2), np.eye(2), **keywords)


# ---- distortion ----


@given(generators, st.integers(1, 6), st.integers(1, 7))
def test_distortion_bounds_every_eigenvalue(rng, d, decades):
    theta = (orthonormal(rng, d, d) * 10.0 ** rng.uniform(-1, 1, size=d)) @ orthonormal(rng, d, d)
    X = np.sqrt(np.geomspace(1, 10.0**-decades, d))[:, None] * orthonormal(rng, d, d)
    verdict = THEOREMS["distortion"].check(th.Tasks(X, orthonormal(rng, d, d), theta))
    assert verdict.holds, verdict
    bound, s = ic.linear.distortion(theta), np.linalg.svd(theta, compute_uv=False)
    assert (bound.lowest, bound.highest) == pytest.approx((s[-1] ** 2, s[0] ** 2), rel=1e-12)
    assert bound.kappa == pytest.approx(verdict.witness["kappa_theta"], rel=1e-12)
    assert bound.rir == pytest.approx(bound.kappa**4, rel=1e-12)
    kappa = np.linalg.cond(X) ** 2
    expected = max(1.0, kappa / bound.kappa**2), bound.kappa**2 * kappa
    assert bound.kappa_range(max(1.0, kappa)) == pytest.approx(expected, rel=1e-12)


@given(generators, dims)
def test_distortion_bounds_the_rir_and_is_sharp(rng, d):
    theta = rng.normal(size=(d, d))
    bound = ic.linear.distortion(theta)
    report = ic.linear.immunity(theta, K_P=gram(rng, d), K_H=gram(rng, d))
    assert report.rir <= bound.rir * (1 + 1e-6)
    # K_P = (theta theta^T)^-1 is whitened, K_H = theta theta^T twice as bad.
    square = theta @ theta.T
    inverse = np.linalg.inv(square)
    worst = ic.linear.immunity(
        theta, K_P=(inverse + inverse.T) / 2, K_H=(square + square.T) / 2
    )  # fmt: skip
    assert worst.rir == pytest.approx(bound.rir, rel=1e-5)


def test_distortion_needs_a_square_invertible_theta():
    assert ic.linear.distortion([[2]]).rir == 1.0
    for bad, told in (
        (np.ones((2, 3)), r"theta must be square.*\(2, 3\)"),
        (np.ones((2, 2)), "theta must be invertible"),
        (np.zeros((2, 2)), "theta must be invertible"),
        (np.full((2, 2), np.nan), "theta must be finite"),
    ):
        with pytest.raises(ValueError, match=told):
            ic.linear.distortion(bad)
    with pytest.raises(OverflowError, match="theta"):
        ic.linear.distortion(np.eye(2) * 1e200)
    for kappa in (0.5, math.nan):
        with pytest.raises(ValueError, match="kappa must be in"):
            ic.linear.distortion(np.eye(2)).kappa_range(kappa)


# ---- sampling ----


@given(generators, dims)
def test_sampling_ratio_is_that_of_the_pencil_either_way_round(rng, d):
    K, other = gram(rng, d), gram(rng, d)
    values = scipy.linalg.eigh(other, K, eigvals_only=True)
    rho = ic.linear.sampling_ratio(K, other)
    assert rho == pytest.approx(values[-1] / values[0], rel=1e-6)
    assert ic.linear.sampling_ratio(other, K) == pytest.approx(rho, rel=1e-6)
    assert ic.linear.sampling_ratio(K, 3 * K) == pytest.approx(1.0)


@given(generators, dims, st.booleans())
def test_rir_and_its_limit_carry_over_within_the_bound(rng, d, optimal):
    X = [
        rng.normal(size=(rows, d)) * np.geomspace(1, 5, d) for rows in (3 * d, 3 * d, 4 * d, 5 * d)
    ]
    theta = (
        ic.linear.optimal_extractor(X_P=X[0], X_H=X[2]) if optimal else rng.normal(size=(d, d))
    )  # fmt: skip
    both = th.Samples(th.Tasks(X[0], X[2], theta), th.Tasks(X[1], X[3], theta))
    verdict = THEOREMS["sampling"].check(both)
    assert verdict.holds, verdict
    rho_P = ic.linear.sampling_ratio(X=X[0], X_other=X[1])
    rho_H = ic.linear.sampling_ratio(X=X[2], X_other=X[3])
    assert rho_P * rho_H == pytest.approx(verdict.witness["rho"], rel=1e-6)
    reports = [ic.linear.immunity(theta, X[i], X[i + 2]) for i in range(2)]
    assert [report.rir for report in reports] == pytest.approx(verdict.witness["rir"], rel=1e-6)


def test_samples_that_use_other_directions():
    assert ic.linear.sampling_ratio(np.diag([1, 0]), np.eye(2)) == math.inf
    assert ic.linear.sampling_ratio(np.eye(2), np.diag([1, 0])) == math.inf
    assert ic.linear.sampling_ratio(np.diag([4, 1, 0]), np.diag([2, 1, 0])) == pytest.approx(2.0)
    with pytest.raises(TypeError, match="give either X and X_other or K and K_other, got K"):
        ic.linear.sampling_ratio(np.eye(2))
    with pytest.raises(ValueError, match="K and K_other must be of one size, got 2 and 3"):
        ic.linear.sampling_ratio(np.eye(2), np.eye(3))


@pytest.mark.parametrize(("N", "other"), [(2000, 3000), (1500, math.inf), (8000, 1000)])
def test_gaussian_rows_have_the_expected_ratio(N, other):
    d, rng = 300, np.random.default_rng(0)
    scales = np.geomspace(1, 10, d)  # whatever the covariance
    X = rng.normal(size=(N, d)) * scales
    second = np.diag(scales) if other == math.inf else rng.normal(size=(other, d)) * scales
    expected = ic.linear.expected_sampling_ratio(d, N, other)
    assert ic.linear.sampling_ratio(X=X, X_other=second) == pytest.approx(expected, rel=0.1)


@given(st.integers(1, 2000), st.floats(0.01, 100), st.booleans())
def test_rows_needed_are_enough_and_not_too_many(d, excess, population):
    factor = 1 + excess
    N = ic.linear.rows_needed(d, factor, population=population)

    def reached(rows):
        other = math.inf if population else rows
        return ic.linear.expected_sampling_ratio(d, rows, other) ** 4

    assert reached(N) <= factor * (1 + 1e-9)
    assert d + 1 == N or reached(N - 1) > factor * (1 - 1e-9)


def test_sampling_bounds_refuse_what_is_out_of_range():
    assert ic.linear.expected_sampling_ratio(10, 10) == math.inf
    assert ic.linear.expected_sampling_ratio(10, math.inf) == 1.0
    for d, factor, told in (
        (0, 2, "d must be"),
        (3, 1, "factor must be above 1"),
        (3, 0.5, "fact"),
    ):
        with pytest.raises(ValueError, match=told):
            ic.linear.rows_needed(d, factor)
    for rows, other, told in ((0, 9, "^rows"), (math.nan, 9, "^rows"), (9, -1, "^other_rows")):
        with pytest.raises(ValueError, match=told):
            ic.linear.expected_sampling_ratio(3, rows, other)
    with pytest.raises(TypeError, match="rows must be a real number"):
        ic.linear.expected_sampling_ratio(3, "many")


@given(spectra(4, ("random", "graded", "two values")), generators)
def test_sampling_ratio_of_hard_spectra_through_the_rows(sigma, rng):
    X = (orthonormal(rng, 9, 4) * sigma) @ orthonormal(rng, 4, 4)
    other = rng.normal(size=(4, 4)) @ X[:4] if np.linalg.matrix_rank(X[:4]) == 4 else X
    rho = ic.linear.sampling_ratio(X=X, X_other=other, ranks=(4, 4))
    with mpmath.workdps(60):
        A, B = mpmath.matrix(X.tolist()), mpmath.matrix(other.tolist())
        whiten = mpmath.cholesky(A.T * A) ** -1
        M = whiten * (B.T * B) * whiten.T
        values = sorted(mpmath.eigsy((M + M.T) / 2, eigvals_only=True))
        expected = float(values[-1] / values[0])
    # Rounding of the rows moves rho by about eps kappa(X) relatively, or more where rho is large.
    slack = 1e-12 * (sigma[0] / sigma[-1]) * math.sqrt(expected) + 1e-9
    assert rho == pytest.approx(expected, rel=slack)
