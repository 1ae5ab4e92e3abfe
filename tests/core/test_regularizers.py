"""Spectral regularizers: values, gradients in all three forms, ties, cancellation, scale, price."""

import math
import pickle
import warnings
from dataclasses import dataclass
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from matrices import (
    EPS,
    LAYOUTS,
    constructed,
    finite_differences,
    generators,
    orthonormal,
    quiet,
    separated,
    spectra,
    with_eigenvalues,
    with_singular_values,
)
from truth import DIGITS, true_singular_values

import immucond as ic
from immucond._core import Spectrum

ALL = [ic.r_well, ic.r_ill, ic.kappa, ic.log_kappa]
REGULARIZERS = pytest.mark.parametrize("r", ALL, ids=lambda r: r.name)
DEGREES = {"r_well": 2, "r_ill": -2, "kappa": 0, "log_kappa": 0}


# ---- the closed forms of THEORY's table, from a full SVD ----


def closed_form_value(name, sigma, p):
    """From the nonzero singular values, descending, in whatever arithmetic they come."""
    k = len(sigma)
    if name == "kappa":
        return sigma[0] / sigma[-1]
    if name == "log_kappa":
        log = mpmath.log if isinstance(sigma[0], mpmath.mpf) else np.log
        return log(sigma[0] / sigma[-1])
    squares = sum(s**2 for s in sigma)
    if name == "r_well":
        return sigma[0] ** 2 / 2 - squares / (2 * p)
    return 1 / (squares / (2 * k) - sigma[-1] ** 2 / 2)


def coefficients(name, sigma, p):
    k = len(sigma)
    if name == "r_well":
        return sigma[0], 0.0, -1.0 / p
    if name == "kappa":
        return 1 / sigma[-1], -sigma[0] / sigma[-1] ** 2, 0.0
    if name == "log_kappa":
        return 1 / sigma[0], -1 / sigma[-1], 0.0
    d = np.sum(sigma**2) / (2 * k) - sigma[-1] ** 2 / 2
    return 0.0, sigma[-1] / d**2, -1 / (k * d**2)


def closed_form(name, S, k, p=None, tied=(1, 1)):
    """Value and gradient by S; `tied` counts the equal singular values at either end."""
    u, sigma, vt = np.linalg.svd(S, full_matrices=False)
    u, sigma, vt = u[:, :k], sigma[:k], vt[:k]
    p = min(S.shape) if p is None else p
    alpha, beta, gamma = coefficients(name, sigma, p)
    top, bottom = tied
    gradient = (
        alpha / top * u[:, :top] @ vt[:top]
        + beta / bottom * u[:, k - bottom :] @ vt[k - bottom :]
        + gamma * (u * sigma) @ vt
    )
    return closed_form_value(name, sigma, p), gradient


def assert_close(got, expected, rtol=1e-11):
    """Relative to the largest entry."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= rtol * np.abs(expected).max()


@dataclass
class Case:
    """A spectrum with simple ends, in a tall, wide or square matrix of full rank or not."""

    rng: np.random.Generator
    n: int
    m: int
    k: int

    def matrix(self):
        return with_singular_values(self.rng, self.n, self.m, separated(self.rng, self.k))


@st.composite
def cases(draw, max_side=8):
    n, m = draw(st.integers(2, max_side)), draw(st.integers(2, max_side))
    return Case(draw(generators), n, m, draw(st.integers(2, min(n, m))))


# ---- by S ----


@REGULARIZERS
@given(case=cases())
def test_by_matrix_against_the_svd(r, case):
    S = case.matrix()
    value, gradient = r.value_and_grad(S, rank=case.k)
    expected, expected_gradient = closed_form(r.name, S, case.k)
    assert np.isclose(value, expected, rtol=1e-12)
    assert_close(gradient, expected_gradient)
    assert r(S, rank=case.k) == value
    assert isinstance(value, float)


@REGULARIZERS
@given(case=cases(4))
def test_by_matrix_against_finite_differences(r, case):
    S = case.matrix()
    _, gradient = r.value_and_grad(S, rank=case.k)
    numeric = finite_differences(lambda x: quiet(r, x, rank=case.k), S)
    assert_close(gradient, numeric, rtol=1e-6)


@REGULARIZERS
@given(rng=generators, n=st.integers(2, 30))
def test_symmetric_semidefinite_matrices_take_the_cheap_way_to_the_same(r, rng, n):
    H = with_eigenvalues(rng, n, separated(rng, n))
    value, gradient = r.value_and_grad(H)
    expected, expected_gradient = closed_form(r.name, H, n)
    assert np.isclose(value, expected, rtol=1e-11)
    assert_close(gradient, expected_gradient)
    # One bit of asymmetry sends it the general way.
    H[0, 1] = np.nextafter(H[0, 1], 9.0)
    general, general_gradient = r.value_and_grad(H)
    assert np.isclose(general, value, rtol=1e-11)
    assert_close(general_gradient, gradient)


@given(case=cases())
def test_r_well_over_the_rank(case):
    S = case.matrix()
    value, gradient = ic.r_well.value_and_grad(S, rank=case.k, p="rank")
    expected, expected_gradient = closed_form("r_well", S, case.k, p=case.k)
    assert np.isclose(value, expected, rtol=1e-11)
    assert_close(gradient, expected_gradient)


@REGULARIZERS
def test_one_row_against_its_norm(r):
    S = np.array([[3.0, 4.0]])
    if r is ic.r_ill:
        with pytest.raises(ic.DegenerateSpectrumError, match="r_ill is infinite where all nonzero"):
            r.value_and_grad(S)
        return
    value, gradient = r.value_and_grad(S)
    assert value == pytest.approx(
        {"r_well": 0.0, "kappa": 1.0, "log_kappa": 0.0}[r.name], abs=4e-15
    )
    assert np.array_equal(gradient, np.zeros((1, 2)))


# ---- by theta ----


@REGULARIZERS
@given(rng=generators, d=st.integers(2, 8), m=st.integers(2, 8), more=st.integers(0, 3))
def test_by_theta_against_the_chain_rule(r, rng, d, m, more):
    k = min(d, m)
    K = with_eigenvalues(rng, d, 1.0 + rng.random(d))
    # The spectrum of H is chosen, with simple ends; theta is K^-1/2 times a root of it.
    w, q = np.linalg.eigh(K)
    theta = (q / np.sqrt(w)) @ q.T @ with_singular_values(rng, d, m, np.sqrt(separated(rng, k)))
    H = theta.T @ K @ theta
    expected, G = closed_form(r.name, (H + H.T) / 2, k)
    value, gradient = r.value_and_grad_theta(theta, K, rank=k)
    assert np.isclose(value, expected, rtol=1e-11)
    assert_close(gradient, 2 * K @ theta @ G)
    same, preconditioned = r.value_and_grad_theta(theta, K, rank=k, preconditioned=True)
    assert same == value
    assert_close(preconditioned, 2 * theta @ G)
    assert_close(K @ preconditioned, gradient)


@REGULARIZERS
@given(rng=generators, m=st.integers(2, 4))
def test_by_theta_against_finite_differences(r, rng, m):
    K = with_eigenvalues(rng, 4, [4.0, 3.0, 2.0, 1.0])
    theta = with_singular_values(rng, 4, m, separated(rng, m))
    assume(np.diff(np.linalg.eigvalsh(theta.T @ K @ theta)).min() > 0.1)
    _, gradient = r.value_and_grad_theta(theta, K)
    numeric = finite_differences(lambda t: quiet(r.value_and_grad_theta, t, K)[0], theta)
    assert_close(gradient, numeric, rtol=1e-6)


@REGULARIZERS
def test_by_theta_with_a_singular_gram_matrix_and_its_known_rank(r):
    rng = np.random.default_rng(0)
    K = with_eigenvalues(rng, 7, separated(rng, 4))
    theta = np.eye(7) + 0.1 * rng.normal(size=(7, 7))
    H = theta.T @ K @ theta
    value, gradient = r.value_and_grad_theta(theta, K, rank=4)
    expected, G = closed_form(r.name, (H + H.T) / 2, 4)
    assert np.isclose(value, expected, rtol=1e-11)
    assert_close(gradient, 2 * K @ theta @ G)


@pytest.mark.parametrize("d", [1e-6, 1e-10, 1e-13, 1e-15, 1e-17, 1e-20])
def test_a_theta_that_undoes_the_gram_matrix_is_right_or_warned_of(d):
    """Its columns lie where K is small: the digits of theta^T K theta cancel."""
    rng = np.random.default_rng(0)
    q = orthonormal(rng, 6, 6)
    K = (q * np.array([1, 1, 1, 3 * d, 2 * d, d])) @ q.T
    K = (K + K.T) / 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value, gradient = ic.kappa.value_and_grad_theta(q[:, 3:], K)
    assert np.isfinite(gradient).all()
    categories = [w.category for w in caught]
    if d >= 1e-10:
        assert categories == []
    if categories == []:
        assert abs(value / 3.0 - 1) <= 0.1
    if d <= 1e-16:
        assert ic.AccuracyWarning in categories


# ---- by features ----


@REGULARIZERS
@given(case=cases(12))
def test_by_features_against_the_chain_rule(r, case):
    """N > m, N < m (all from Z Z^T then), full rank or not: one formula, p = m."""
    Z = case.matrix()
    H = Z.T @ Z
    expected, G = closed_form(r.name, (H + H.T) / 2, case.k)
    value, gradient = r.value_and_grad_features(Z, rank=case.k)
    assert np.isclose(value, expected, rtol=1e-10)
    assert_close(gradient, 2 * Z @ G, rtol=1e-10)


@REGULARIZERS
@given(case=cases(4))
def test_by_features_against_finite_differences(r, case):
    Z = case.matrix()
    _, gradient = r.value_and_grad_features(Z, rank=case.k)
    numeric = finite_differences(lambda z: quiet(r.value_and_grad_features, z, rank=case.k)[0], Z)
    assert_close(gradient, numeric, rtol=1e-6)


@REGULARIZERS
@given(rng=generators, n=st.integers(2, 10), more=st.integers(1, 20))
def test_dual_form_equals_primal_form(r, rng, n, more):
    """Zeros appended as rows change neither H nor its gradient, but turn the dual form off."""
    m = n + more
    Z = with_singular_values(rng, n, m, separated(rng, n))
    padded = np.concatenate([Z, np.zeros((m, m))])
    dual, dual_gradient = r.value_and_grad_features(Z, rank=n)
    primal, primal_gradient = r.value_and_grad_features(padded, rank=n)
    assert np.isclose(dual, primal, rtol=1e-11)
    assert_close(dual_gradient, primal_gradient[:n])
    assert np.abs(primal_gradient[n:]).max() <= 1e-11 * np.abs(primal_gradient).max()


@given(rng=generators, n=st.integers(2, 6), more=st.integers(1, 9))
def test_r_well_of_a_small_batch_counts_all_m_or_the_rank(rng, n, more):
    m = n + more
    Z = with_singular_values(rng, n, m, separated(rng, n))
    values = np.linalg.svd(Z, compute_uv=False) ** 2
    for p, count in ((None, m), ("rank", n)):
        value, gradient = ic.r_well.value_and_grad_features(Z, p=p)
        assert np.isclose(value, closed_form_value("r_well", values, count), rtol=1e-11)
        G = closed_form("r_well", Z.T @ Z, n, p=count)[1]
        assert_close(gradient, 2 * Z @ G)


@pytest.mark.parametrize("log_kappa", [14, 16, 18])
def test_gradients_of_ill_conditioned_features(log_kappa):
    """H's eigenvalues span more digits than float64 holds; the gradient comes through QR."""
    rng = np.random.default_rng(log_kappa)
    sigma = np.geomspace(1.0, 10.0 ** (-log_kappa / 2), 5)
    Z = with_singular_values(rng, 40, 5, sigma)
    value, gradient = quiet(ic.log_kappa.value_and_grad_features, Z)
    exact = true_singular_values(Z)
    assert np.isclose(value, float(2 * mpmath.log(exact[0] / exact[-1])), rtol=1e-7)
    u, s, vt = np.linalg.svd(Z, full_matrices=False)
    expected = 2 * np.outer(u[:, 0], vt[0]) / s[0] - 2 * np.outer(u[:, -1], vt[-1]) / s[-1]
    assert_close(gradient, expected, rtol=1e-5)


# ---- ties ----


@REGULARIZERS
@pytest.mark.parametrize("form", ["matrix", "symmetric", "theta", "features"])
@pytest.mark.parametrize(("top", "bottom"), [(2, 1), (1, 2), (3, 3), (2, 8)])
def test_a_tie_takes_the_mean_over_its_group(r, form, top, bottom):
    rng = np.random.default_rng(top + 10 * bottom)
    middle = np.linspace(2.5, 1.5, 10 - top - bottom)
    sigma = np.concatenate([[3.0] * top, middle, [1.0] * bottom])
    H = with_eigenvalues(rng, 12, sigma)
    _, G = closed_form(r.name, H, 10, tied=(top, bottom))
    if form == "matrix":
        S = with_singular_values(rng, 15, 12, sigma)
        expected = closed_form(r.name, S, 10, tied=(top, bottom))[1]

        def call():
            return r.value_and_grad(S, rank=10)
    elif form == "symmetric":
        expected = G

        def call():
            return r.value_and_grad(H, rank=10)
    elif form == "theta":
        expected = 2 * H @ G

        def call():
            return r.value_and_grad_theta(np.eye(12), H, rank=10)
    else:
        w, q = np.linalg.eigh(H)
        Z = (orthonormal(rng, 20, 10) * np.sqrt(w[2:])) @ q[:, 2:].T
        expected = 2 * Z @ G

        def call():
            return r.value_and_grad_features(Z, rank=10)

    uses_top, uses_bottom = r is not ic.r_ill, r is not ic.r_well
    if (top > 1 and uses_top) or (bottom > 1 and uses_bottom):
        with pytest.warns(ic.DegenerateSpectrumWarning, match=r.name):
            _, gradient = call()
    else:
        _, gradient = call()  # a tie at an end with no part in it is no matter
    assert_close(gradient, expected, rtol=1e-10)


@pytest.mark.parametrize("form", ["matrix", "symmetric", "theta", "features"])
@pytest.mark.parametrize("sigma", [(2.0, 2.0, 1.0), (3.0, 3.0, 3.0, 1.0, 0.5), (5.0, 5.0, 4.9)])
def test_at_a_tie_descent_lowers_kappa(form, sigma):
    """By theta at (2, 2, 1) a single solver pair would raise it."""
    rng = np.random.default_rng(1)
    n = len(sigma)
    for r in (ic.r_well, ic.kappa, ic.log_kappa):
        if form == "features":
            x = with_singular_values(rng, 9, n, np.sqrt(sigma))
            gradient = quiet(r.value_and_grad_features, x)[1]
        elif form == "theta":
            x, K = np.eye(n), with_eigenvalues(rng, n, sigma)
            gradient = quiet(r.value_and_grad_theta, x, K)[1]
        else:
            make = with_eigenvalues if form == "symmetric" else with_singular_values
            x = make(rng, n, sigma) if form == "symmetric" else make(rng, n, n, sigma)
            gradient = quiet(r.value_and_grad, x)[1]
        moved = x - 1e-4 / np.abs(gradient).max() * gradient
        before, after = (x.T @ K @ x, moved.T @ K @ moved) if form == "theta" else (x, moved)
        assert np.linalg.cond(after) < np.linalg.cond(before) * (1 - 1e-6)


@pytest.mark.parametrize("n", [1, 2, 5, 64])
def test_equal_singular_values_have_gradient_zero_to_the_bit(n):
    rng = np.random.default_rng(n)
    q = orthonormal(rng, n + 3, n)
    for scale in (1.0, 0.3, 1e-120, 1e120):
        for S in (scale * np.eye(n), scale * q, scale * q.T):
            for r in (ic.r_well, ic.kappa, ic.log_kappa):
                value, gradient = r.value_and_grad(S)
                unit = scale**2 if r is ic.r_well else 1.0
                assert np.isclose(value, float(r is ic.kappa), atol=1e-14 * unit, rtol=1e-14)
                tolerance = 1e-15 * scale if r is ic.r_well else 0.0
                assert np.abs(gradient).max() <= tolerance
    for r in (ic.r_well, ic.kappa, ic.log_kappa):
        assert not np.any(r.value_and_grad(4.0 * np.eye(n))[1])
        assert not np.any(r.value_and_grad_features(np.eye(n))[1])
        assert not np.any(r.value_and_grad_theta(np.eye(n), 9.0 * np.eye(n))[1])
    assert 0.0 <= ic.r_well(0.1 * np.eye(n)) < 1e-32
    assert ic.kappa(0.1 * np.eye(n)) == 1.0
    assert ic.log_kappa(0.1 * np.eye(n)) == 0.0


@pytest.mark.parametrize("scale", [1.0, 0.3, 1e-100, 1e100])
def test_r_ill_says_that_equal_singular_values_are_infinite(scale):
    rng = np.random.default_rng(2)
    S = scale * orthonormal(rng, 6, 4)
    rank_one = scale * np.outer(rng.normal(size=4), rng.normal(size=3))
    eye = np.eye(3)
    for call in (
        lambda: ic.r_ill(S),
        lambda: ic.r_ill.value_and_grad(S),
        lambda: ic.r_ill.value_and_grad(scale * eye),
        lambda: ic.r_ill.value_and_grad(rank_one, rank=1),
        lambda: ic.r_ill.value_and_grad_theta(eye, scale * eye),
    ):
        with pytest.raises(ic.DegenerateSpectrumError, match="r_ill is infinite where all nonzero"):
            call()
    assert issubclass(ic.DegenerateSpectrumError, ValueError)
    assert issubclass(ic.DegenerateSpectrumError, ic.ImmucondError)


@given(rng=generators, n=st.integers(2, 40), more=st.integers(0, 60), scale=st.floats(0.1, 10))
def test_r_ill_knows_equal_singular_values_in_every_form(rng, n, more, scale):
    Z = scale * orthonormal(rng, n + more, n)
    K = ic.gram(rng.normal(size=(3 * n, n)))
    theta = scale * np.linalg.inv(np.linalg.cholesky(K)).T
    for call in (
        lambda: ic.r_ill(Z),
        lambda: ic.r_ill.value_and_grad_features(Z),
        lambda: ic.r_ill.value_and_grad_features(Z.T),
        lambda: ic.r_ill.value_and_grad_features(Z.astype(np.float32)),
        lambda: ic.r_ill.value_and_grad_theta(theta, K),
    ):
        with pytest.raises(ic.DegenerateSpectrumError):
            call()


# ---- cancellation ----


@REGULARIZERS
@given(rng=generators, k=st.integers(2, 8), exponent=st.integers(1, 13), scale=st.integers(-40, 40))
def test_values_near_equal_spectra_keep_their_digits(r, rng, k, exponent, scale):
    sigma = np.ldexp(1.0 + 10.0**-exponent * rng.random(k), scale)
    assume(sigma.max() - sigma.min() > 1e-14 * sigma.max())
    S = np.zeros((k + 1, k))
    S[rng.permutation(k + 1)[:k], np.arange(k)] = sigma * rng.choice([-1.0, 1.0], size=k)
    with mpmath.workdps(DIGITS):
        exact = sorted((mpmath.mpf(float(s)) for s in sigma), reverse=True)
        truth = float(closed_form_value(r.name, exact, k))
    assert np.isclose(quiet(r, np.diag(sigma)), truth, rtol=1e-14)
    # Reflectors round, and the spread of the spectrum is what is left of the digits.
    allowed = 100 * EPS * sigma.max() / (sigma.max() - sigma.min())
    for A in (S, S.T):
        assert np.isclose(quiet(r, A), truth, rtol=allowed)


@given(rng=generators, n=st.integers(2, 6), exponent=st.integers(1, 6))
def test_values_near_equal_spectra_of_full_matrices(rng, n, exponent):
    S = with_singular_values(rng, n + 2, n, 1.0 + 10.0**-exponent * rng.random(n))
    exact = true_singular_values(S)
    for r in (ic.r_well, ic.r_ill, ic.log_kappa):
        with mpmath.workdps(DIGITS):
            truth = float(closed_form_value(r.name, exact, n))
        assume(truth != 0)
        # Rounding of the reduction against the spread of the spectrum.
        spread = float(exact[0] - exact[-1])
        assert abs(quiet(r, S) / truth - 1) <= 100 * EPS / spread


@pytest.mark.parametrize("exponent", [3, 6, 9, 12])
def test_r_ill_gradient_near_equal_spectra(exponent):
    sigma = 1.0 + 10.0**-exponent * np.array([0.9, 0.6, 0.25, 0.1])
    S = np.diag(sigma)
    with mpmath.workdps(DIGITS):
        exact = [mpmath.mpf(s) for s in sigma]
        d = sum(s**2 for s in exact) / 8 - exact[-1] ** 2 / 2
        truth = [-s / (4 * d**2) for s in exact]
        truth[-1] += exact[-1] / d**2
    gradient = ic.r_ill.value_and_grad(S)[1]
    assert_close(gradient, np.diag([float(t) for t in truth]), rtol=1e-13)


# ---- scale ----


@REGULARIZERS
@given(S=constructed(), exponent=st.integers(-300, 300))
def test_homogeneous_to_the_bit_under_powers_of_two(r, S, exponent):
    degree = DEGREES[r.name]
    try:
        value, gradient = quiet(r.value_and_grad, S)
    except ic.DegenerateSpectrumError:
        with pytest.raises(ic.DegenerateSpectrumError):
            r(np.ldexp(S, exponent))
        return
    scaled, scaled_gradient = quiet(r.value_and_grad, np.ldexp(S, exponent))
    assert scaled == np.ldexp(value, degree * exponent)
    assert np.array_equal(scaled_gradient, np.ldexp(gradient, (degree - 1) * exponent))


@REGULARIZERS
@pytest.mark.parametrize("exponent", [-150, -40, 7, 40, 150])
def test_homogeneous_by_theta_and_features(r, exponent):
    rng = np.random.default_rng(3)
    degree = DEGREES[r.name]
    Z, K = rng.normal(size=(9, 4)), ic.gram(rng.normal(size=(9, 6)))
    theta = rng.normal(size=(6, 3))
    value, gradient = r.value_and_grad_features(Z)
    scaled, scaled_gradient = r.value_and_grad_features(np.ldexp(Z, exponent))
    assert scaled == np.ldexp(value, 2 * degree * exponent)
    assert np.array_equal(scaled_gradient, np.ldexp(gradient, (2 * degree - 1) * exponent))
    for preconditioned in (False, True):
        value, gradient = r.value_and_grad_theta(theta, K, preconditioned=preconditioned)
        for t, k in (
            (exponent, 0),
            (0, 2 * exponent),
            (exponent, -2 * exponent),
            (-exponent, exponent),
        ):
            scaled, scaled_gradient = r.value_and_grad_theta(
                np.ldexp(theta, t), np.ldexp(K, k), preconditioned=preconditioned
            )
            of_h = 2 * t + k
            assert scaled == np.ldexp(value, degree * of_h)
            power = of_h * (degree - 1) + t + (0 if preconditioned else k)
            assert np.array_equal(scaled_gradient, np.ldexp(gradient, power))


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_kappa_and_its_gradient_at_extreme_scales(scale):
    rng = np.random.default_rng(4)
    S = rng.normal(size=(7, 4))
    for r in (ic.kappa, ic.log_kappa):
        value, gradient = r.value_and_grad(S)
        scaled, scaled_gradient = r.value_and_grad(S * scale)
        assert np.isclose(scaled, value, rtol=1e-12)
        assert np.allclose(scaled_gradient * scale, gradient, rtol=1e-10)
        value, gradient = r.value_and_grad_features(S)
        scaled, scaled_gradient = r.value_and_grad_features(S * scale)
        assert np.isclose(scaled, value, rtol=1e-12)
        assert np.allclose(scaled_gradient * scale, gradient, rtol=1e-9)
        scaled, scaled_gradient = r.value_and_grad_theta(S * scale, np.eye(7) / scale)
        assert np.isclose(scaled, value, rtol=1e-12)
        assert np.allclose(scaled_gradient * scale, gradient, rtol=1e-9)


@pytest.mark.parametrize(
    ("r", "scale"), [(ic.r_well, 1e160), (ic.r_ill, 1e-160), (ic.r_well, 1e300), (ic.r_ill, 5e-324)]
)
def test_a_value_beyond_the_range_is_an_overflow_error(r, scale):
    S = np.diag([3.0, 2.0, 1.0]) * scale
    for call in (lambda: r(S), lambda: r.value_and_grad(S)):
        with pytest.raises(OverflowError, match="value is not representable"):
            call()


def test_a_gradient_beyond_the_range_is_an_overflow_error():
    S = np.diag([3.0, 2.0, 1.0])
    for call in (
        lambda: ic.r_ill.value_and_grad(S * 1e-120),
        lambda: ic.kappa.value_and_grad(S * 5e-324),
        lambda: ic.r_ill.value_and_grad_features(S * 1e-70),
        lambda: ic.r_ill.value_and_grad_theta(S, np.eye(3) * 1e-110, preconditioned=True),
    ):
        with pytest.raises(OverflowError, match="gradient"):
            call()


@pytest.mark.parametrize("tiny", [1e-160, 1e-170, 1e-310])
def test_kappa_beyond_the_range_is_an_error_and_never_nan(tiny):
    S = np.diag([1.0, tiny])
    for r in (ic.kappa, ic.log_kappa):
        with pytest.raises((OverflowError, ValueError), match=r"range|not representable"):
            quiet(r.value_and_grad_features, S, rank=2)
    with pytest.raises((OverflowError, ValueError), match=r"range|not representable"):
        quiet(ic.kappa.value_and_grad, S, rank=2)


@pytest.mark.parametrize("tiny", [1e-20, 1e-100, 1e-140])
def test_kappa_near_the_end_of_the_range(tiny):
    S = np.diag([1.0, tiny])
    for method, power in (
        (ic.log_kappa.value_and_grad, 1),
        (ic.log_kappa.value_and_grad_features, 2),
    ):
        value, gradient = quiet(method, S, rank=2)
        assert np.isclose(value, -power * np.log(tiny), rtol=1e-13)
        assert_close(gradient, np.diag([power, -power / tiny]))
    value, gradient = quiet(ic.kappa.value_and_grad, S, rank=2)
    assert np.isclose(value, 1 / tiny, rtol=1e-13)
    assert_close(gradient, np.diag([1 / tiny, -1 / tiny**2]))


def test_underflow_is_zero():
    S = np.diag([3.0, 2.0, 1.0])
    value, gradient = ic.r_well.value_and_grad(S * 1e-200)
    assert value == 0.0
    assert np.allclose(gradient, np.diag([2.0, -2 / 3, -1 / 3]) * 1e-200, rtol=1e-14)
    value, gradient = ic.r_ill.value_and_grad(S * 1e120)
    assert np.isclose(value, 0.75e-240, rtol=1e-14)
    assert not gradient.any()


# ---- bounds of the theory ----


@given(sigma=st.integers(2, 7).flatmap(spectra), rows=st.integers(0, 3), rng=generators)
def test_bounds(sigma, rows, rng):
    k = len(sigma)
    assume(sigma[0] > sigma[-1] * (1 + 1e-12))
    S = with_singular_values(rng, k + rows, k + 2, sigma)
    known = {"rank": k}
    p = min(S.shape)
    log_kappa = quiet(ic.log_kappa, S, **known)
    slack = 1 + 1e-9
    for count, q in ((p, None), (k, "rank")):
        r_well = quiet(ic.r_well, S, p=q, **known)
        assert r_well >= 0
        assert log_kappa <= slack * count / sigma[-1] ** 2 * r_well + 1e-14 / sigma[-1] ** 2
    r_ill = quiet(ic.r_ill, S, **known)
    assert r_ill > 0
    assert 1 / log_kappa <= slack * (k - 1) / k * sigma[0] ** 2 * r_ill * (1 + 1e-13 / log_kappa)


# ---- rank, precision, pairs ----


@REGULARIZERS
def test_float32_noise_is_no_rank(r):
    rng = np.random.default_rng(5)
    Z = with_singular_values(rng, 60, 9, separated(rng, 5))
    expected, expected_gradient = r.value_and_grad_features(Z, rank=5)
    Z32 = Z.astype(np.float32)
    for call in (
        lambda: r.value_and_grad_features(Z32),
        lambda: r.value_and_grad_features(Z32.astype(np.float64), computed_in=np.float32),
        lambda: r.value_and_grad_features(Z32.astype(np.float64), computed_in="float32"),
        lambda: r.value_and_grad_features(Z32.astype(np.float64), rtol=1e-4),
        lambda: r.value_and_grad_features(Z32, rank=5),
    ):
        value, gradient = call()
        assert np.isclose(value, expected, rtol=1e-5)
        assert_close(gradient, expected_gradient, rtol=1e-5)
    by_matrix = r(Z, rank=5)
    assert np.isclose(r(Z32), by_matrix, rtol=1e-5)
    assert np.isclose(r(Z32.astype(np.float64), computed_in=np.float32), by_matrix, rtol=1e-5)


@REGULARIZERS
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "u1"])
def test_layout_and_dtype_do_not_matter(r, layout, dtype):
    rng = np.random.default_rng(6)
    Z = rng.integers(0, 9, size=(7, 4)).astype(dtype)
    theta = (np.diag([3, 4, 5, 6]) + rng.integers(0, 2, size=(4, 4))).astype(dtype)
    K = np.diag([2, 3, 4, 5]).astype(dtype)
    change = LAYOUTS[layout]
    for forms in (
        lambda f: r.value_and_grad(f(Z), computed_in="float64"),
        lambda f: r.value_and_grad_features(f(Z), computed_in="float64"),
        lambda f: r.value_and_grad_theta(f(theta), f(K), computed_in="float64"),
    ):
        value, gradient = forms(change)
        expected, expected_gradient = forms(lambda a: a.astype(np.float64))
        assert np.isclose(value, expected, rtol=1e-12)
        assert_close(gradient, expected_gradient)
        assert gradient.flags.c_contiguous
        assert gradient.dtype == np.float64


@REGULARIZERS
def test_the_pairs_come_along(r):
    rng = np.random.default_rng(7)
    Z, K = rng.normal(size=(9, 4)), ic.gram(rng.normal(size=(9, 6)))
    theta = rng.normal(size=(6, 3))
    value, gradient, pairs = r.value_and_grad(Z, return_pairs=True)
    assert repr(vars(pairs)) == repr(vars(ic.extreme_pairs(Z)))
    assert (r(Z, return_pairs=True)[0], len(r(Z, return_pairs=True))) == (value, 2)
    value, gradient, pairs = r.value_and_grad_features(Z, return_pairs=True)
    assert repr(vars(pairs)) == repr(vars(ic.feature_extreme_pairs(Z)))
    again, same = r.value_and_grad_features(Z, start=pairs)
    assert again == value
    assert np.array_equal(same, gradient)
    _, _, pairs = r.value_and_grad_theta(theta, K, return_pairs=True)
    sigma = np.linalg.eigvalsh(theta.T @ K @ theta)
    assert np.isclose(pairs.sigma_max, sigma[-1], rtol=1e-12)
    assert np.isclose(pairs.sigma_min, sigma[0], rtol=1e-11)


@pytest.mark.parametrize("d", [5, 50, 400])
@pytest.mark.parametrize(("t", "k"), [(0.1, 0.3), (0.7, 1.1), (1e-150, 1e-5)])
def test_bounds_by_theta_hold_where_all_sums_round_alike(d, t, k):
    """The products of equal numbers: their rounding has one sign."""
    _, _, pairs = ic.r_well.value_and_grad_theta(
        np.full((d, 1), t), np.full((d, d), k), return_pairs=True
    )
    truth = Fraction(t) ** 2 * Fraction(k) * d**2
    for sigma, bound in ((pairs.sigma_max, pairs.bound_max), (pairs.sigma_min, pairs.bound_min)):
        assert abs(Fraction(sigma) - truth) <= Fraction(bound) < truth / 10**9


# ---- the price: LAPACK calls ----


def lapack_calls(function):
    before = ic._core.lapack_calls()
    function()
    after = ic._core.lapack_calls()
    skip = ("dgemm", "dsyrk")
    return {n: after[n] - before[n] for n in after if after[n] != before[n] and n not in skip}


@REGULARIZERS
def test_one_reduction_and_no_vectors_beyond_the_ends_used(r):
    rng = np.random.default_rng(8)  # of more than 256: smaller ones take no reduction of LAPACK's
    Z, theta = rng.normal(size=(320, 260)), rng.normal(size=(260, 260))
    H = ic.gram(Z)
    ends = 1 if r in (ic.r_well, ic.r_ill) else 2
    by_psd = {"dsytrd": 1, "dstein": 1, "dormtr": 1}  # both at once, for certificates too
    assert lapack_calls(lambda: r(H)) == {"dsytrd": 1}
    assert lapack_calls(lambda: r(Z)) == {"dgebrd": 1}
    assert lapack_calls(lambda: r.value_and_grad(H)) == by_psd
    assert lapack_calls(lambda: r.value_and_grad(H, return_pairs=True)) == by_psd
    assert lapack_calls(lambda: r.value_and_grad_theta(theta, H)) == by_psd
    assert lapack_calls(lambda: r.value_and_grad_features(Z)) == by_psd
    assert lapack_calls(lambda: r.value_and_grad_features(Z.T)) == by_psd
    assert lapack_calls(lambda: r.value_and_grad(Z)) == {
        "dgebrd": 1,
        "dstein": ends,
        "dormbr": 2 * ends,
    }


def test_equal_singular_values_need_no_vectors():
    assert lapack_calls(lambda: ic.kappa.value_and_grad(np.eye(260))) == {"dsytrd": 1}


# ---- a regularizer of one's own ----


def test_any_function_of_the_ends_is_a_regularizer():
    norm = ic.SpectralRegularizer("norm", 1, lambda s: (s.sigma_max, 1.0, 0.0, 0.0))
    S = np.random.default_rng(9).normal(size=(5, 3))
    value, gradient = norm.value_and_grad(S)
    assert np.isclose(value, np.linalg.norm(S, 2), rtol=1e-13)
    assert_close(gradient, finite_differences(lambda x: np.linalg.norm(x, 2), S), rtol=1e-7)
    value, gradient = norm.value_and_grad(S * 1e200)
    assert np.isclose(value, 1e200 * np.linalg.norm(S, 2), rtol=1e-13)
    assert "norm" in repr(norm)


def test_an_error_in_it_reaches_the_caller():
    def broken(spectrum):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ic.SpectralRegularizer("broken", 0, broken).value_and_grad(np.eye(2))


def test_a_value_whose_gradient_is_beyond_the_range():
    S = np.diag([1.0, 1e-200])
    assert quiet(ic.kappa, S, rank=2) == pytest.approx(1e200, rel=1e-15)
    with pytest.raises(OverflowError, match="not representable"):
        quiet(ic.kappa.value_and_grad, S, rank=2)


@pytest.mark.parametrize("found", [None, (1.0, 2.0), ("1", 0.0, 0.0, 0.0), (1j, 0.0, 0.0, 0.0)])
@pytest.mark.parametrize("shape", [(3, 3), (4, 3, 3)])
def test_coefficients_that_are_not_four_numbers_are_told(found, shape):
    r = ic.SpectralRegularizer("broken", 0, lambda spectrum: found)
    with pytest.raises(TypeError, match=r"must return four numbers, .*, and returned .*"):
        r(np.broadcast_to(np.eye(3), shape))


def test_what_makes_no_regularizer_is_refused():
    with pytest.raises(TypeError, match=r"degree must be an integer, and is 0.5"):
        ic.SpectralRegularizer("root", 0.5, lambda s: (s.sigma_max**0.5, 0.0, 0.0, 0.0))
    with pytest.raises(TypeError, match="coefficients must be a function of a spectrum, or a name"):
        ic.SpectralRegularizer("norm", 1, (1.0, 1.0, 0.0, 0.0))


# ---- where warnings point ----


def warned(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [(w.category, w.filename) for w in caught]


def test_warnings_point_at_the_caller():
    S = np.diag([2.0, 2.0, 1.0])
    here = [(ic.DegenerateSpectrumWarning, __file__)]
    assert warned(lambda: ic.kappa.value_and_grad(S)) == here
    assert warned(lambda: ic.kappa.value_and_grad_theta(np.eye(3), S)) == here
    assert warned(lambda: ic.kappa.value_and_grad_features(S)) == here
    noise = np.diag([1.0, 1.0, 1e-17])
    here = [(ic.AccuracyWarning, __file__)]
    assert warned(lambda: ic.kappa(noise, rank=3)) == here
    assert warned(lambda: ic.r_ill.value_and_grad(noise, rank=3)) == here
    assert warned(lambda: ic.r_ill.value_and_grad_theta(np.eye(3), noise, rank=3)) == here
    assert warned(lambda: ic.r_well.value_and_grad(np.diag([2.0, 1.0, 1e-17]), rank=3)) == []


def test_built_in_coefficients_of_a_spectrum_that_another_device_found():
    ends = Spectrum(p=4, rank=3, sigma_max=3.0, sigma_min=1.0, below_max=22.0, above_min=11.0)
    well, D = Fraction(4 * 9 - 14, 8), Fraction(14 - 3, 6)
    for r, expected in (
        (ic.r_well, (well, 3, 0, Fraction(-1, 4))),
        (ic.r_ill, (1 / D, 0, 1 / D**2, -1 / (3 * D**2))),
        (ic.kappa, (3, 1, -3, 0)),
        (ic.log_kappa, (math.log(3), Fraction(1, 3), -1, 0)),
    ):
        assert r.coefficients(ends) == pytest.approx([float(x) for x in expected], rel=1e-15)
        assert pickle.loads(pickle.dumps(r))(np.diag([3.0, 2.0, 1.0])) == r(
            np.diag([3.0, 2.0, 1.0])
        )


def test_unknown_coefficients_are_named():
    with pytest.raises(ValueError, match=r"^coefficients must be a function, or .* nope$"):
        ic.SpectralRegularizer("own", 1, "nope")(np.eye(2))
