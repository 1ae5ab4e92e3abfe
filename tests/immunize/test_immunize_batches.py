"""Mini-batches and the directions left out: the same steps as the definition's, at less cost."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import immucond as ic
from immucond._task import root_of_inputs
from immucond.immunize._hessians import BatchHessian, FullHessian
from immucond.immunize._problem import Batches

# Settings here are for what is tested, and do not immunize.
pytestmark = pytest.mark.filterwarnings("ignore:the harmful task got easier")

PRECONDITIONERS = ["right", "projected", "ridge", None]
STEP = {"lambda_P": 1e-3, "lambda_H": 0.1, "lr": 1e-2}


def tasks(rows=40, d=7, seed=0):
    rng = np.random.default_rng(seed)
    X_P, X_H = rng.normal(size=(rows, d)) * np.geomspace(3, 1, d), rng.normal(size=(rows + 5, d))
    return X_P, X_P @ rng.normal(size=d), X_H


def gradient(H, k, ill):
    """Gradient of R_ill, or of R_well counting k, by H of rank k."""
    values, vectors = np.linalg.eigh(H)
    top, low = vectors[:, -1], vectors[:, len(H) - k]
    if not ill:
        return values[-1] * np.outer(top, top) - H / k
    last = values[len(H) - k]
    D = np.sum(values**2) / (2 * k) - last**2 / 2
    return (last * np.outer(low, low) - H / k) / D**2


def steps_by_definition(X_P, y_P, X_H, batches, preconditioner, ridge, theta, omega, loss):
    for rows_P, rows_H in batches:
        X, y, Xh = X_P[rows_P], y_P[rows_P], X_H[rows_H]
        f = X @ theta @ omega
        by_f = 2 * (f - y) / len(f) if loss == "squared" else -y / (1 + np.exp(y * f)) / len(f)
        moved = np.outer(X.T @ by_f, omega)
        for weight, rows, ill in ((STEP["lambda_P"], X, False), (STEP["lambda_H"], Xh, True)):
            K = rows.T @ rows
            G = gradient(theta.T @ K @ theta, np.linalg.matrix_rank(rows), ill)
            plain = 2 * K @ theta @ G
            moved = moved + weight * {
                "right": 2 * theta @ G,
                "projected": np.linalg.pinv(K, rcond=1e-12, hermitian=True) @ plain,
                "ridge": np.linalg.solve(K + ridge * np.eye(len(K)), plain),
                None: plain,
            }[preconditioner]  # fmt: skip
        omega = omega - STEP["lr"] * theta.T @ (X.T @ by_f)
        theta = theta - STEP["lr"] * moved
    return theta, omega


@pytest.mark.parametrize("preconditioner", PRECONDITIONERS)
@pytest.mark.parametrize("size", [4, 20])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_batch_steps_are_those_of_the_definition(preconditioner, size, loss):
    X_P, y_P, X_H = tasks()
    y_P = np.sign(y_P) if loss == "logistic" else y_P
    rng = np.random.default_rng(1)
    theta, omega = np.eye(7) + 0.1 * rng.normal(size=(7, 7)), rng.normal(size=7)
    seed, steps = 3, 40 // size + 2  # into the second epoch
    of_P, of_H = Batches(40, size, seed, 0), Batches(45, size, seed, 1)
    result = ic.immunize.algorithm1(
        X_P, y_P, X_H, loss=loss, steps=steps, batch_size=size, hessian="batch", seed=seed,
        preconditioner=preconditioner, ridge=0.3, theta=theta, omega=omega, **STEP,
    )  # fmt: skip
    expected, head = steps_by_definition(
        X_P, y_P, X_H, [(of_P(t), of_H(t)) for t in range(steps)], preconditioner, 0.3, theta,
        omega, loss,
    )  # fmt: skip
    np.testing.assert_allclose(result.theta, expected, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(result.omega, head, rtol=1e-7, atol=1e-9)


@given(st.integers(1, 60), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_an_epoch_takes_each_row_once(rows, size, seed):
    size = min(size, rows)
    batches = Batches(rows, size, seed, 0)
    count = rows // size
    for epoch in range(2):
        taken = np.concatenate([batches(epoch * count + at) for at in range(count)])
        assert len(np.unique(taken)) == len(taken) == count * size
    # From anywhere the same: nothing is carried on.
    np.testing.assert_array_equal(Batches(rows, size, seed, 0)(count), batches(count))


def test_whole_batches_are_the_full_hessians():
    X_P, _, X_H = tasks()
    theta = np.eye(7) + 0.1 * np.random.default_rng(2).normal(size=(7, 7))
    for X, regularizer in ((X_P, ic.r_well), (X_H, ic.r_ill), (X_H, ic.kappa)):
        full = FullHessian(X, root_of_inputs(X, "X"), None, 7, None, "right", 1.0)
        batch = BatchHessian(X, "X", 7, None, None, "right", 1.0)
        one, other = (h.evaluate(regularizer, theta, None) for h in (full, batch))
        assert other.value == pytest.approx(one.value, rel=1e-10)
        np.testing.assert_allclose(
            other.step.left @ other.step.right, one.step, rtol=1e-7, atol=1e-12
        )
        assert batch.kappa_identity == pytest.approx(full.kappa_identity, rel=1e-10)
        assert other.pairs.condition_number == pytest.approx(one.pairs.condition_number, rel=1e-10)


def test_full_hessians_with_the_loss_of_a_batch():
    X_P, y_P, X_H = tasks()
    result = ic.immunize.algorithm1(X_P, y_P, X_H, steps=30, batch_size=8, **STEP)
    whole = ic.linear.immunity(result.theta, X_P, X_H)
    assert result.history["rir"][-1] == pytest.approx(whole.rir, rel=1e-8)
    first = Batches(40, 8, 0, 0)(0)
    omega = np.random.default_rng(0).normal(scale=1 / 7, size=7)
    assert result.history["loss"][0] == pytest.approx(
        np.mean((X_P[first] @ omega - y_P[first]) ** 2)
    )


def test_a_batch_of_few_rows_counts_its_own_rank():
    X_P, y_P, X_H = tasks(d=30)
    result = ic.immunize.algorithm1(
        X_P, y_P, X_H, steps=50, batch_size=5, hessian="batch", lambda_P=1e-4, lambda_H=1.0, lr=1e-4
    )
    assert result.history["rir"][0] == pytest.approx(1.0, rel=1e-9)
    s = np.linalg.svd(X_P[Batches(40, 5, 0, 0)(0)], compute_uv=False)
    assert result.history["kappa_P"][0] == pytest.approx((s[0] / s[-1]) ** 2, rel=1e-9)
    values = s**2  # R_well with p = k = 5
    assert result.history["r_well"][0] == pytest.approx(
        values[0] ** 2 / 2 - np.sum(values**2) / 10, rel=1e-9
    )


@pytest.mark.parametrize("m", [3, 9])
@pytest.mark.parametrize("optimizer", ["gd", "adam"])
def test_narrow_and_wide_extractors_in_batches(m, optimizer):
    X_P, y_P, X_H = tasks()
    theta = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 9)))[0][:7, :m]
    result = ic.immunize.algorithm1(
        X_P, y_P, X_H, steps=20, batch_size=20, hessian="batch", theta=theta, optimizer=optimizer,
        **STEP,
    )  # fmt: skip
    assert result.theta.shape == (7, m)
    assert result.report.rank_P == min(7, m)
    s = np.linalg.svd(X_P[Batches(40, 20, 0, 0)(0)] @ theta, compute_uv=False)
    assert result.history["kappa_P"][0] == pytest.approx((s[0] / s[min(7, m) - 1]) ** 2, rel=1e-9)


def reducible(seed, d=9):
    """Two columns that are zero in both tasks, one in either, and a column twice."""
    X_P, y_P, X_H = tasks(rows=30, d=d, seed=seed)
    for X in (X_P, X_H):
        X[:, [1, 4]] = 0.0
        X[:, 8] = X[:, 7]
    X_P[:, 2], X_H[:, 3] = 0.0, 0.0
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    return X_P @ turn, y_P, X_H @ turn


@pytest.mark.parametrize("preconditioner", PRECONDITIONERS)
@pytest.mark.parametrize("batches", [{}, {"batch_size": 10, "hessian": "batch"}])
def test_left_out_directions_change_nothing(preconditioner, batches):
    X_P, y_P, X_H = reducible(4)
    given_identity, reduced = (
        ic.immunize.algorithm1(
            X_P, y_P, X_H, steps=20, preconditioner=preconditioner, theta=theta, **batches, **STEP
        )
        for theta in (np.eye(9), None)
    )
    np.testing.assert_allclose(reduced.theta, given_identity.theta, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(reduced.omega, given_identity.omega, rtol=1e-7, atol=1e-9)
    for name, values in given_identity.history.items():
        np.testing.assert_allclose(reduced.history[name], values, rtol=1e-6, err_msg=name)
    assert np.abs(reduced.theta - np.eye(9)).max() > 1e-3


def test_left_out_directions_keep_the_identity():
    X_P, y_P, X_H = reducible(5)
    result = ic.immunize.algorithm1(X_P, y_P, X_H, steps=20, **STEP)
    null = np.linalg.svd(np.vstack([X_P, X_H]))[2][6:].T
    omega = np.random.default_rng(0).normal(scale=1 / 9, size=9)
    still = null @ np.linalg.svd((null.T @ omega)[None])[2][1:].T  # orthogonal to the head, too
    assert still.shape == (9, 2)
    np.testing.assert_allclose(result.theta @ still, still, atol=1e-12)
    np.testing.assert_allclose(still.T @ result.theta, still.T, atol=1e-12)


# ---- the ridge step of all rows ----


def with_singular_values(sigma, seed=0):
    rng = np.random.default_rng(seed)
    Q, V = (np.linalg.qr(rng.normal(size=(n, len(sigma))))[0] for n in (8, len(sigma)))
    return Q * sigma @ V


def ridged(X, ridge):
    return FullHessian(X, root_of_inputs(X, "X"), None, X.shape[1], None, "ridge", ridge)


def test_a_ridge_step_keeps_the_digits_of_an_ill_conditioned_gram_matrix():
    """Against 40 digits: a solve with K would lose 12 of them on the way through K theta G."""
    X, ridge = with_singular_values([1e6, 1e3, 1.0, 1e-3]), 0.5
    theta = np.eye(4) + 0.1 * np.random.default_rng(1).normal(size=(4, 4))
    found = ridged(X, ridge).evaluate(ic.r_well, theta, None).step
    with mpmath.workdps(40):
        A, t = mpmath.matrix(X.tolist()), mpmath.matrix(theta.tolist())
        K = A.T * A
        H = t.T * K * t
        values, V = mpmath.eigsy(H)
        G = values[3] * V[:, 3] * V[:, 3].T - H / 4
        step = mpmath.inverse(K + ridge * mpmath.eye(4)) * (2 * K * t * G)
    wanted = np.array(step.tolist(), dtype=float)
    assert np.linalg.norm(found - wanted) < 1e-11 * np.linalg.norm(wanted)


@pytest.mark.parametrize("scale", [2.0**-500, 2.0**450])
def test_the_unit_of_inputs_and_ridge_does_not_matter(scale):
    X = with_singular_values([1e6, 1e3, 1.0, 1e-3])
    one, other = ridged(X, 1.0)._filter, ridged(X * scale, scale**2)._filter
    np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-14)
    assert np.linalg.eigvalsh(one) == pytest.approx([1e-6, 0.5, 1 - 1e-6, 1.0], abs=1e-9)
