"""r_align: its value by definition, its gradient by finite differences in many digits."""

import mpmath
import numpy as np
import pytest

import immucond as ic


def definition(Z, Y, center):
    if center:
        Z, Y = Z - Z.mean(0), Y - Y.mean(0)
    return np.sum((Z.T @ Y) ** 2) / (np.linalg.norm(Z, 2) ** 2 * np.sum(Y**2))


def in_many_digits(Z, Y, center):
    """The same by mpmath: the top singular value by its characteristic products."""
    Z, Y = mpmath.matrix(Z.tolist()), mpmath.matrix(Y.tolist())
    if center:
        for A in (Z, Y):
            for j in range(A.cols):
                mean = mpmath.fsum(A[i, j] for i in range(A.rows)) / A.rows
                for i in range(A.rows):
                    A[i, j] -= mean
    b = Z.T * Y
    top = mpmath.eigsy(Z.T * Z, eigvals_only=True)[Z.cols - 1]
    return sum(x**2 for x in b) / (top * sum(x**2 for x in Y))


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("shape", [(9, 4, 3), (4, 9, 2), (7, 1, 1), (5, 5, 5)])
def test_value_and_gradient(shape, center):
    rng = np.random.default_rng(sum(shape))
    Z = rng.normal(size=shape[:2]) * np.geomspace(1.0, 1e-4, shape[1]) + 1.0
    Y = rng.normal(size=(shape[0], shape[2]))
    value, grad = ic.r_align.value_and_grad_features(Z, Y, center=center)
    assert value == pytest.approx(definition(Z, Y, center), rel=1e-11)
    assert value == ic.r_align(Z, Y, center=center)
    with mpmath.workdps(50):
        h = mpmath.mpf(10) ** -15
        for i in range(2):
            for j in range(shape[1]):
                ends = []
                for sign in (1, -1):
                    moved = mpmath.matrix(Z.tolist())
                    moved[i, j] += sign * h
                    ends.append(in_many_digits(np.array(moved.tolist(), dtype=object), Y, center))
                slope = float((ends[0] - ends[1]) / (2 * h))
                assert grad[i, j] == pytest.approx(slope, rel=1e-8, abs=1e-10 * np.abs(grad).max())


@pytest.mark.parametrize("scale", [1e150, 1e-150])
def test_scale_never_matters(scale):
    rng = np.random.default_rng(0)
    Z, Y = rng.normal(size=(20, 5)), rng.normal(size=(20, 2))
    value, grad = ic.r_align.value_and_grad_features(Z, Y)
    again, by_scaled = ic.r_align.value_and_grad_features(Z * scale, Y / scale)
    assert again == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(by_scaled * scale, grad, rtol=1e-9, atol=1e-12)


def test_it_is_the_alignment_of_what_the_features_explain():
    rng = np.random.default_rng(1)
    Z, Y = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    found = ic.linear.alignment(Z, Y)
    assert ic.r_align(Z, Y) == pytest.approx(found.rho * found.explained, rel=1e-11)


def test_single_precision_loses_nothing():
    rng = np.random.default_rng(2)
    Z = (rng.normal(size=(50, 6)) * np.geomspace(1, 1e-6, 6)).astype(np.float32)
    Y = rng.normal(size=(50, 3))
    assert ic.r_align(Z, Y) == pytest.approx(ic.r_align(Z.astype(float), Y), rel=1e-12)


@pytest.mark.parametrize(
    ("Z", "Y", "match"),
    [
        (np.ones((5, 2)), np.arange(5.0), "Z is constant"),
        (np.eye(5), np.ones(5), "Y is constant"),
        (np.eye(5), np.arange(4.0), "one row a sample, 5 as Z"),
        (np.full((5, 2), np.nan), np.arange(5.0), "Z must be finite"),
        (np.eye(5), np.full(5, np.inf), "Y must be finite"),
    ],
)
def test_bad_input(Z, Y, match):
    with pytest.raises(ValueError, match=match):
        ic.r_align(Z, Y)


def test_a_gradient_beyond_the_float_range_is_refused():
    Z, Y = np.random.default_rng(0).normal(size=(2, 20, 5))
    with pytest.raises(OverflowError, match="scale Z up"):
        ic.r_align.value_and_grad_features(Z * 1e-316, Y)
