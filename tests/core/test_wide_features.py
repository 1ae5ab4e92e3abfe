"""Fewer samples than features: the vectors keep the digits that the values have."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matrices import EPS, generators, orthonormal, quiet, with_singular_values
from truth import assert_certified, true_quotient, true_singular_values

import immucond as ic


@pytest.mark.parametrize("shape", [(8, 30), (20, 60), (5, 700), (8, 8)])
@pytest.mark.parametrize("kappa", [1e4, 1e8, 1e12, 1e16, 1e18, 1e20, 1e24])
def test_v_min_is_the_vector_of_sigma_min(shape, kappa):
    Z = with_singular_values(
        np.random.default_rng(0), *shape, np.geomspace(1, kappa**-0.5, shape[0])
    )
    pairs = ic.feature_extreme_pairs(Z)
    assert pairs.rank == shape[0]
    # A vector in float64 is off by its rounding in the largest direction, which counts squared.
    rounding = (4 * EPS * np.sqrt(shape[1])) ** 2 * pairs.sigma_max
    for sigma, v, bound in (
        (pairs.sigma_max, pairs.v_max, pairs.bound_max),
        (pairs.sigma_min, pairs.v_min, pairs.bound_min),
    ):
        assert np.isclose(np.linalg.norm(v), 1, rtol=1e-14)
        assert abs(float(true_quotient(Z, v) - sigma)) <= bound + rounding
    # Through the Gram matrix, v_min = Z^T w / ||Z^T w|| loses sqrt(kappa) of the rounding.
    lost = np.sqrt(kappa) if pairs.method == "gram" else 1.0
    assert abs(pairs.v_min @ pairs.v_max) <= 64 * EPS * lost


@pytest.mark.parametrize("method", ["auto", "gram", "qr", "jacobi"])
def test_vectors_of_low_rank(method):
    rng = np.random.default_rng(1)
    Z = with_singular_values(rng, 9, 40, np.geomspace(1, 1e-3, 5))
    pairs = quiet(ic.feature_extreme_pairs, Z, method=method)
    assert pairs.rank == 5
    assert np.isclose(float(true_quotient(Z, pairs.v_min)), 1e-6, rtol=1e-8)


@given(
    rng=generators,
    rows=st.integers(2, 6),
    more=st.integers(0, 20),
    log_kappa=st.floats(0, 22),
    method=st.sampled_from(["auto", "qr", "jacobi"]),
)
def test_a_transposed_problem_has_the_same_ends(rng, rows, more, log_kappa, method):
    Z = with_singular_values(rng, rows, rows + more, np.geomspace(1, 10 ** (-log_kappa / 2), rows))
    truth = [sigma**2 for sigma in true_singular_values(Z)]
    wide, tall = (quiet(ic.feature_extreme_pairs, A, method=method) for A in (Z, Z.T))
    for pairs in (wide, tall):
        assert pairs.rank == rows
        assert_certified(pairs, truth)
    rounding = (4 * EPS * np.sqrt(max(16, rows + more))) ** 2
    off = abs(float(true_quotient(Z, wide.v_min) - truth[-1]))
    assert off <= wide.bound_min + rounding * wide.sigma_max


def test_gradients_of_wide_features_stand_on_their_vectors():
    rng = np.random.default_rng(2)
    U, V = orthonormal(rng, 6, 6), orthonormal(rng, 50, 6)
    sigma = np.geomspace(1, 1e-6, 6)
    Z = (U * sigma) @ V.T
    _, gradient = ic.log_kappa.value_and_grad_features(Z)
    # d log kappa(Z^T Z) / d sigma_i = 2 / sigma_1 at the top, -2 / sigma_k at the bottom.
    expected = 2 / sigma[0] * np.outer(U[:, 0], V[:, 0]) - 2 / sigma[5] * np.outer(U[:, 5], V[:, 5])
    assert np.linalg.norm(gradient - expected) <= 1e-8 * np.linalg.norm(expected)


def test_v_min_of_graded_features_of_low_rank():
    rng = np.random.default_rng(4)
    for _ in range(40):
        Z = (rng.normal(size=(3, 2)) * [1, 1e-13]) @ rng.normal(size=(2, 5))
        Z *= 10.0 ** rng.uniform(-6, 0, (3, 1))
        pairs = quiet(ic.feature_extreme_pairs, Z, method="qr", rank=2)
        assert pairs.bound_min <= 1e-13 * pairs.sigma_max
        off = abs(float(true_quotient(Z, pairs.v_min)) - pairs.sigma_min)
        assert off <= pairs.bound_min + (16 * EPS) ** 2 * pairs.sigma_max


def test_vectors_have_unit_length_where_the_value_is_zero():
    for row in ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [0.0, 0.0, 1.0]):
        Z = np.array([row, row])
        for method in ("gram", "auto", "qr", "jacobi"):
            try:
                pairs = quiet(ic.feature_extreme_pairs, Z, rank=2, method=method)
            except ValueError:
                continue  # the second value is exactly zero
            assert np.isclose(np.linalg.norm(pairs.v_min), 1.0)
            assert abs(pairs.v_min @ pairs.v_max) < 1e-7
            assert not pairs.determined_min
