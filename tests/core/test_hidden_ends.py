"""Ends of the spectrum that hide from an iteration's start: proved, or found another way."""

import numpy as np
import pytest
from matrices import orthonormal, quiet
from scipy.sparse.linalg import LinearOperator

import immucond as ic


def starting_vectors(n):
    """What an iteration starts from, as anybody can learn it who passes an operator.

    After a vector that shows the products' dtype and unit.
    """
    seen = []

    def product(x):
        seen.append(np.array(x).ravel())
        if len(seen) == 3:
            raise StopIteration
        return np.ravel(x)

    with pytest.raises(StopIteration):
        ic.psd_extreme_pairs(LinearOperator((n, n), matvec=product, dtype=float))
    return np.array(seen[1:]).T


def hidden(n, top, bottom, seed=0, between=(0.3, 0.5)):
    """Orthonormal vectors and values: the two ends' vectors are orthogonal to every start."""
    rng = np.random.default_rng(seed)
    start = starting_vectors(n)
    Q = np.linalg.qr(np.column_stack([start, rng.normal(size=(n, n - 2))]))[0]
    inside = np.column_stack([Q[:, :2], Q[:, 4:]]) @ orthonormal(rng, n - 2, n - 2)
    # Few values, far apart at both ends: an iteration is done before rounding lets the hidden in.
    values = np.full(n - 2, between[0])
    values[: (n - 2) // 2] = between[1]
    values[0], values[1], values[-1], values[-2] = 1.0, 0.75, 0.1, 0.15
    return np.column_stack([Q[:, 2], inside, Q[:, 3]]), np.concatenate([[top], values, [bottom]])


@pytest.mark.parametrize(("top", "bottom"), [(1.2, 0.05), (1.2, 0.2), (0.9, 0.05)])
@pytest.mark.parametrize(("n", "method"), [(100, "lanczos"), (400, "lanczos"), (1024, "lanczos")])
def test_symmetric(n, top, bottom, method):
    vectors, values = hidden(n, top, bottom)
    H = (vectors * values) @ vectors.T
    H = (H + H.T) / 2
    pairs = quiet(ic.psd_extreme_pairs, H, method=method)
    assert np.isclose(pairs.sigma_max, values.max(), rtol=1e-12)
    assert np.isclose(pairs.sigma_min, values.min(), rtol=1e-12)
    assert pairs.bound_max < 1e-12
    assert pairs.bound_min < 1e-12


@pytest.mark.parametrize("n", [100, 256, 400])
@pytest.mark.parametrize(("top", "bottom"), [(1.2, 0.05), (1.2, 0.2), (0.9, 0.05)])
def test_general_and_features(n, top, bottom):
    vectors, values = hidden(n, top, bottom)
    S = (orthonormal(np.random.default_rng(1), n, n) * values) @ vectors.T
    R = np.linalg.qr(S)[1]  # its right vectors are those of S, and it is its own QR
    for matrix in (S, R):
        pairs = quiet(ic.extreme_pairs, matrix, method="lanczos")
        assert np.isclose(pairs.sigma_max, values.max(), rtol=1e-12)
        assert np.isclose(pairs.sigma_min, values.min(), rtol=1e-12)
        pairs = quiet(ic.feature_extreme_pairs, matrix, method="lanczos")
        assert np.isclose(pairs.sigma_max, values.max() ** 2, rtol=1e-12)
        assert np.isclose(pairs.sigma_min, values.min() ** 2, rtol=1e-12)


def test_a_warm_start_does_not_hide_an_end_either():
    n = 600
    vectors, values = hidden(n, 1.2, 0.05)
    H = (vectors * values) @ vectors.T
    H = (H + H.T) / 2
    inner = H - (0.6 * np.outer(vectors[:, 0], vectors[:, 0]))
    inner += 0.3 * np.outer(vectors[:, -1], vectors[:, -1])
    first = quiet(ic.psd_extreme_pairs, inner, method="lanczos")
    pairs = quiet(ic.psd_extreme_pairs, H, start=first, method="lanczos")
    assert np.isclose(pairs.sigma_max, 1.2, rtol=1e-12)
    assert np.isclose(pairs.sigma_min, 0.05, rtol=1e-12)


def test_a_double_end_is_told_where_one_copy_hides():
    n = 300
    vectors, values = hidden(n, 1.0, 0.1)  # both ends twice
    H = (vectors * values) @ vectors.T
    H = (H + H.T) / 2
    pairs = quiet(ic.psd_extreme_pairs, H, method="lanczos")
    assert not pairs.simple_max
    assert not pairs.simple_min


def test_the_condition_of_the_second_matrix_of_a_pencil_does_not_hide():
    n = 200
    vectors, values = hidden(n, 1.0, 1e-17)
    B = (vectors * values) @ vectors.T
    B = (B + B.T) / 2
    with pytest.raises(ValueError, match="positive definite"):
        ic.generalized_extreme_pairs(np.eye(n), B)
