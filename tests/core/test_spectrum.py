"""The rules of the core as Python sees them, and spectra that are not found by its kernels."""

import copy
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import immucond as ic
from immucond import _core
from immucond._rank import epsilon, numerical_rank, rank_rule

BUILT_IN = (ic.r_well, ic.r_ill, ic.kappa, ic.log_kappa)


def spectrum(sigma, p=None):
    """That of exact singular values, descending."""
    squares = sum(Fraction(s) ** 2 for s in sigma)
    hi = float(squares)
    return _core.Spectrum.of_squares(
        p=len(sigma) if p is None else p,
        rank=len(sigma),
        sigma_max=sigma[0],
        sigma_min=sigma[-1],
        squares=hi,
        rest=float(squares - Fraction(hi)),
    )


def test_a_spectrum_has_the_fields_that_it_was_given():
    fields = {
        "p": 5,
        "rank": 3,
        "sigma_max": 4.0,
        "sigma_min": 0.5,
        "below_max": 60.0,
        "above_min": 16.0,
        "all_tied": True,
    }
    found = _core.Spectrum(**fields)
    assert {name: getattr(found, name) for name in fields} == fields
    assert all(f"{name}={value}" in repr(found) for name, value in fields.items())
    assert all(name in _core.Spectrum.__doc__ for name in fields)
    with pytest.raises(TypeError):
        _core.Spectrum(5, 3, 4.0, 0.5, 60.0, 16.0)


@given(
    sigma=st.lists(st.floats(0.01, 100.0), min_size=1, max_size=8).map(
        lambda x: sorted(x, reverse=True)
    ),
    zeros=st.integers(0, 3),
)
def test_excesses_of_a_spectrum_cancel_nothing(sigma, zeros):
    found = spectrum(sigma, len(sigma) + zeros)
    top, bottom = Fraction(sigma[0]) ** 2, Fraction(sigma[-1]) ** 2
    squares = sum(Fraction(s) ** 2 for s in sigma)
    for got, exact in (
        (found.below_max, found.p * top - squares),
        (found.above_min, squares - found.rank * bottom),
    ):
        assert abs(Fraction(got) - exact) <= Fraction(2.0**-52) * exact + top * Fraction(2.0**-95)


def test_the_kernels_show_regularizers_the_spectrum_that_python_can_make():
    seen = []

    def looking(s):
        seen.append(s)
        return (0.0, 0.0, 0.0, 0.0)

    sigma = [4.0, 2.0, 1.0]
    ic.SpectralRegularizer("looking", 0, looking)(np.diag([*sigma, 0.0]))
    expected = spectrum(sigma, 4)
    unit = 2.0**3  # in which the kernel works
    (s,) = seen
    assert (s.p, s.rank, s.all_tied) == (expected.p, expected.rank, expected.all_tied)
    for name, degree in (("sigma_max", 1), ("sigma_min", 1), ("below_max", 2), ("above_min", 2)):
        assert getattr(s, name) * unit**degree == pytest.approx(getattr(expected, name), rel=1e-12)


@pytest.mark.parametrize("r", BUILT_IN, ids=lambda r: r.name)
def test_coefficients_and_degree_are_public(r):
    s = spectrum([3.0, 2.0, 1.0])
    value, alpha, beta, gamma = r.coefficients(s)
    S = np.diag([3.0, 2.0, 1.0])
    by_S = np.diag([alpha, 0.0, beta]) + gamma * S
    expected, gradient = r.value_and_grad(S)
    assert value == pytest.approx(expected, rel=1e-13)
    assert by_S == pytest.approx(gradient, rel=1e-13, abs=1e-14)
    assert r(2.0 * S) == pytest.approx(2.0**r.degree * expected, rel=1e-13)
    assert type(r.coefficients) is _core.BuiltIn  # which the kernels evaluate without Python
    assert (r.coefficients.name, r.coefficients.degree) == (r.name, r.degree)
    assert r.takes_p == (r is ic.r_well)
    for other in (copy.deepcopy(r), pickle.loads(pickle.dumps(r))):
        assert other.coefficients(s) == r.coefficients(s)


def test_the_coefficients_of_ones_own_regularizer_are_the_function():
    def coefficients(s):
        return (s.sigma_max, 1.0, 0.0, 0.0)

    assert ic.SpectralRegularizer("norm", 1, coefficients).coefficients is coefficients


def test_r_ill_of_equal_singular_values_is_infinite():
    tied = _core.Spectrum(
        p=2, rank=2, sigma_max=1.0, sigma_min=1.0, below_max=0.0, above_min=0.0, all_tied=True
    )
    with pytest.raises(ic.DegenerateSpectrumError, match="r_ill is infinite"):
        ic.r_ill.coefficients(tied)


@pytest.mark.parametrize("form", ["S", "theta", "features"])
def test_p_counts_so_many_singular_values(form):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(4, 3))
    H = A.T @ A
    for p in (3, 5, np.int64(17)):
        if form == "S":
            value, gradient = ic.r_well.value_and_grad(A, p=p)
            S, by = A, lambda G: G
        elif form == "theta":
            value, gradient = ic.r_well.value_and_grad_theta(np.eye(3), H, p=p)
            S, by = H, lambda G: 2.0 * H @ G
        else:
            value, gradient = ic.r_well.value_and_grad_features(A, p=p)
            S, by = H, lambda G: 2.0 * A @ G
        u, sigma, vt = np.linalg.svd(S)
        G = sigma[0] * np.outer(u[:, 0], vt[0]) - S / p
        assert value == pytest.approx(sigma[0] ** 2 / 2 - (sigma**2).sum() / (2 * p), rel=1e-12)
        assert gradient == pytest.approx(by(G), rel=1e-11, abs=1e-12)
    assert ic.r_well(A, p=3) == ic.r_well(A) == ic.r_well(A, p="rank")
    low = np.diag([2.0, 1.0, 0.0])
    assert ic.r_well(low, p=2) == ic.r_well(low, p="rank")
    assert ic.r_well(low, p=3) == ic.r_well(low)


def test_p_below_the_rank_is_refused():
    stack = np.random.default_rng(0).normal(size=(3, 5, 4))
    for call in (ic.r_well, ic.r_well.value_and_grad, ic.r_well.value_and_grad_features):
        with pytest.raises(ValueError, match=r"^p must be at least the rank, 4, and is 3$"):
            call(stack, p=3)


@given(
    shape=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    given=st.sampled_from(["matrix", "features", "gram", "product"]),
    computed_in=st.sampled_from(["float64", "float32", "float16", "bfloat16"]),
)
def test_the_default_rule_is_sane(shape, given, computed_in):
    rule = rank_rule(
        shape, np.dtype(np.float64), rank=None, rtol=None, computed_in=computed_in, given=given
    )
    assert rule.rank == 0
    assert epsilon("float64") <= rule.rtol <= 0.5
    assert 0.0 < rule.precision <= epsilon(computed_in)
    half = computed_in in ("float16", "bfloat16") and given != "product"
    assert (rule.rounded > 0.0) == half
    sigma = np.ones(min(shape))
    assert numerical_rank(sigma, rule) in (0, min(shape))
    known = rank_rule(
        shape, np.dtype(np.float64), rank=1, rtol=None, computed_in=computed_in, given=given
    )
    assert (known.rank, known.rounded) == (1, 0.0)


def test_tie_widths_of_features_are_those_of_their_singular_values_squared():
    # An error of r sigma_1 in sigma moves sigma^2 by (sigma + r sigma_1)^2 - sigma^2.
    r, sigma_max, noise = 4 * 2.0**-23, 3.0, 1e-15
    for sigma in (3.0, 1.0, 1e-3, 1e-9):
        width = _core.tie_width(
            sigma=sigma**2,
            sigma_max=sigma_max**2,
            noise=noise,
            precision=2.0**-23,
            features=True,
        )
        moved = (sigma + r * sigma_max) ** 2 - sigma**2
        assert math.isclose(width, noise + moved, rel_tol=1e-9 + 1e-15 / moved)


def test_threads_of_the_blas():
    before = _core.blas_threads()
    assert before >= 1
    try:
        _core.set_blas_threads(1)
        assert _core.blas_threads() == 1
    finally:
        _core.set_blas_threads(before)
    assert _core.blas_threads() == before
