"""The losses and their derivatives against formulas of their own and finite differences."""

import dataclasses

import mpmath
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

import immucond as ic
from immucond.immunize._losses import task_loss

seeds = st.integers(0, 2**32 - 1)
NAMES = ["squared", "logistic", "softmax"]


def problem(name, seed, rows=9, d=4):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, d))
    if name == "squared":
        return X, rng.normal(size=(rows, 3)), rng
    if name == "logistic":
        return X, np.sign(rng.normal(size=(rows, 2))), rng
    return X, np.r_[0, 1, 2, rng.integers(0, 3, rows - 3)], rng


@given(seeds, st.sampled_from([1.0, 1e3]))
def test_softmax_is_the_mean_negative_log_likelihood(seed, scale):
    X, y, rng = problem("softmax", seed)
    v = scale * rng.normal(size=(4, 3))
    value, grad = task_loss("softmax", X, y).value_and_grad(v)
    F = X @ v
    direct = np.mean(scipy.special.logsumexp(F, axis=1) - F[np.arange(9), y])
    assert value == pytest.approx(direct, rel=1e-10, abs=1e-10)
    expected = X.T @ (scipy.special.softmax(F, axis=1) - np.eye(3)[y]) / 9
    np.testing.assert_allclose(grad, expected, rtol=1e-9, atol=1e-12)


def test_softmax_of_two_classes_is_logistic():
    X, y, rng = problem("logistic", 0)
    y = y[:, 0]
    v = rng.normal(size=(4, 2))
    two, _ = task_loss("softmax", X, y).value_and_grad(v)
    one, _ = task_loss("logistic", X, y).value_and_grad(v[:, 1:] - v[:, :1])
    assert two == pytest.approx(one, rel=1e-12)


@pytest.mark.parametrize(
    "labels",
    [
        [3, -1, 3, 7], ["b", "a", "b", "c"], [2.5, 0.5, 2.5, 9.0],
        np.array(["b", "a", "b", "c"], dtype=object),  # as a column of a table
    ],
)  # fmt: skip
def test_any_labels_are_classes(labels):
    X = np.random.default_rng(0).normal(size=(4, 2))
    loss, plain = task_loss("softmax", X, labels), task_loss("softmax", X, [1, 0, 1, 2])
    v = np.arange(6.0).reshape(2, 3)
    assert loss.value_and_grad(v)[0] == plain.value_and_grad(v)[0]
    assert loss.classes.tolist() == sorted(set(labels))


@pytest.mark.parametrize("name", NAMES)
@given(seed=seeds)
def test_curvature_differentiates_the_gradient(name, seed):
    X, y, rng = problem(name, seed)
    loss = task_loss(name, X, y)
    v, u = rng.normal(size=(2, 4, loss.heads))
    numeric = (loss.value_and_grad(v + 1e-5 * u)[1] - loss.value_and_grad(v - 1e-5 * u)[1]) / 2e-5
    np.testing.assert_allclose(loss.curvature(v, u), numeric, rtol=1e-6, atol=1e-8)
    # No row's curvature by its predictions is more than the loss says.
    assert np.vdot(u, loss.curvature(v, u)) <= loss.smoothness() * np.sum((X @ u) ** 2) * (1 + 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_losses_of_some_rows_and_of_other_inputs(name):
    X, y, rng = problem(name, 5)
    loss, index = task_loss(name, X, y), np.array([0, 1, 2, 7])
    v = rng.normal(size=(4, loss.heads))
    some, direct = loss.rows(index), task_loss(name, X[index], y[index])
    assert some.value_and_grad(v)[0] == pytest.approx(direct.value_and_grad(v)[0], rel=1e-14)
    B = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    turned = dataclasses.replace(loss, X=X @ B).value_and_grad(B.T @ v)[0]
    assert turned == pytest.approx(loss.value_and_grad(v)[0], rel=1e-12)
    long = task_loss(name, np.vstack([X] * 5), np.concatenate([y] * 5))
    value, grad = long.whole().value_and_grad(v)
    assert value == pytest.approx(loss.value_and_grad(v)[0], rel=1e-12)
    np.testing.assert_allclose(grad, loss.value_and_grad(v)[1], rtol=1e-10, atol=1e-13)


def test_softmax_of_far_predictions_keeps_its_digits():
    X, y = np.array([[1.0], [2.0]]), [0, 1]
    v = np.array([[30.0, -30.0]])
    value, _ = task_loss("softmax", X, y).value_and_grad(v)
    with mpmath.workdps(40):
        truth = (mpmath.log(1 + mpmath.exp(-60)) + 120 + mpmath.log(1 + mpmath.exp(-120))) / 2
    assert value == pytest.approx(float(truth), rel=1e-14)


def test_gradients_by_finite_differences():
    for name in NAMES:
        X, y, rng = problem(name, 11)
        loss = task_loss(name, X, y)
        v = rng.normal(size=(4, loss.heads))
        numeric = scipy.optimize.approx_fprime(
            v.ravel(), lambda x, loss=loss, v=v: loss.value_and_grad(x.reshape(v.shape))[0], 1e-7
        )
        np.testing.assert_allclose(loss.value_and_grad(v)[1].ravel(), numeric, rtol=1e-4, atol=1e-6)


def test_softmax_head_has_a_column_a_class():
    rng = np.random.default_rng(0)
    X_P, X_H = rng.normal(size=(60, 4)) * [4, 3, 2, 1], rng.normal(size=(50, 4))
    y = np.array(["x", "y", "z"])[np.argmax(X_P[:, :3], axis=1)]
    result = ic.immunize.algorithm1(
        X_P, y, X_H, loss="softmax", lambda_P=0.05, lambda_H=1e4, lr=0.01, steps=100
    )
    assert result.omega.shape == (4, 3)
    assert result.classes.tolist() == ["x", "y", "z"]
    assert result.report.condition_a
    assert result.report.condition_b
    predicted = result.classes[np.argmax(result.features(X_P) @ result.omega, axis=1)]
    assert np.mean(predicted == y) > 0.8


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (np.zeros(9, dtype=int), ValueError, "y_P must hold at least 2 classes.*0 alone"),
        (np.zeros((9, 2)), ValueError, r"y_P must have 1 dimension.*\(9, 2\)"),
        ([1, 2, 3], ValueError, "y_P must have one label a sample, 9 as X_P, got 3"),
        ([np.nan] * 9, ValueError, "y_P must be finite.*nan"),
        ([None] * 9, TypeError, "y_P must hold numbers or strings.*object"),
        (np.ma.masked_equal([0, 1, 2] * 3, 2), TypeError, "y_P is a masked array"),
    ],
)
def test_bad_labels_are_named(y, error, message):
    X, _, _ = problem("softmax", 0)
    with pytest.raises(error, match=message):
        task_loss("softmax", X, y)
