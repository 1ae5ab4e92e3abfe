"""Weights from gradient norms, and steps that never lose ground."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import immucond as ic

seeds = st.integers(0, 2**32 - 1)


def tasks(seed, d=4, singular=False, rows=20):
    rng = np.random.default_rng(seed)
    X_P = rng.normal(size=(rows, d)) * np.geomspace(10.0 ** rng.uniform(0, 2), 1, d)
    X_H = rng.normal(size=(rows, d)) @ rng.normal(size=(d, d))
    if singular:
        X_P[:, 0], X_H[:, 1] = 0.0, X_H[:, 2]
    return X_P, X_P @ rng.normal(size=d), X_H


def kappas(theta, *inputs):
    found = []
    for X in inputs:
        s = np.linalg.svd(X @ theta, compute_uv=False)
        found.append((s[0] / s[np.linalg.matrix_rank(X) - 1]) ** 2)
    return found


@given(seeds, st.booleans(), st.floats(-6, 6), st.floats(-6, 6), st.floats(-4, 1))
def test_monotone_steps_never_lose_ground(seed, singular, log_P, log_H, log_lr):
    X_P, y_P, X_H = tasks(seed, singular=singular)
    lr = 10.0**log_lr
    well = ic.linear.step_interval(ic.r_well, theta=np.eye(4), gram=ic.gram(X_P))
    parameters = {"lambda_P": 10.0**log_P * well / lr, "lambda_H": 10.0**log_H, "lr": lr}
    theta, omega = np.eye(4), np.random.default_rng(seed).normal(size=4) / 4
    before = kappas(theta, X_P, X_H)
    for _ in range(4):
        try:
            result = ic.immunize.algorithm1(
                X_P, y_P, X_H, steps=2, monotone=True, theta=theta, omega=omega, **parameters
            )
        except ic.ImmucondError as error:  # the head's own steps are not bounded
            assert "diverged" in str(error)  # noqa: PT017
            return
        assert np.all(np.diff(result.history["kappa_P"]) <= 0)
        assert np.all(np.diff(result.history["kappa_H"]) >= 0)
        theta, omega = result.theta, result.omega
        after = kappas(theta, X_P, X_H)
        assert after[0] <= before[0] * (1 + 1e-7)
        assert after[1] >= before[1] * (1 - 1e-7)
        before = after


def test_monotone_steps_get_on():
    for seed in range(5):
        X_P, y_P, X_H = tasks(seed)
        lr = 0.01
        well = ic.linear.step_interval(ic.r_well, theta=np.eye(4), gram=ic.gram(X_P))
        result = ic.immunize.algorithm1(
            X_P, y_P, X_H, lambda_P=well / lr, lambda_H=1e3, lr=lr, steps=60, monotone=True
        )
        assert result.report.rir > 1.5
        assert result.report.i >= 1
        assert result.report.ii <= 1
        assert result.report.rir <= result.report.limit.rir * (1 + 1e-9)


def test_monotone_steps_stay_within_the_sharp_interval():
    X_P, y_P, X_H = tasks(1)
    lr = 1e-9  # the loss plays no part
    well = ic.linear.step_interval(ic.r_well, theta=np.eye(4), gram=ic.gram(X_P))
    keywords = {"lambda_P": 1.2 * well / lr, "lambda_H": 0.0, "lr": lr, "steps": 1}
    free, bound = (
        ic.immunize.algorithm1(X_P, y_P, X_H, monotone=monotone, **keywords)
        for monotone in (False, True)
    )
    assert free.history["kappa_P"][1] > free.history["kappa_P"][0]
    assert bound.history["kappa_P"][1] <= bound.history["kappa_P"][0]


def test_at_the_frontier_monotone_theta_stays():
    # kappa_H = kappa_M kappa_P holds all along the frontier: one cannot rise as the other falls.
    X_P, y_P, X_H = tasks(2, d=2)
    start = ic.linear.optimal_extractor(X_P=X_P, X_H=X_H, kappa_P=3.0, rotate=False)
    result = ic.immunize.algorithm1(
        X_P, y_P, X_H, lambda_P=1e-3, lambda_H=1.0, lr=1e-4, steps=5, monotone=True, theta=start
    )
    assert result.report.rir == pytest.approx(result.report.limit.rir, rel=1e-6)


def test_monotone_steps_of_length_0_stay():
    result = ic.immunize.algorithm1(
        *tasks(3), lambda_P=1.0, lambda_H=1.0, lr=0.0, steps=3, monotone=True
    )
    np.testing.assert_array_equal(result.theta, np.eye(4))


@pytest.mark.parametrize("preconditioner", ["right", "projected", "ridge", None])
@pytest.mark.parametrize("batches", [{}, {"batch_size": 10, "hessian": "batch"}])
def test_balance_makes_three_even_parts(preconditioner, batches):
    X_P, y_P, X_H = tasks(3)
    common = {"lr": 1e-3, "preconditioner": preconditioner} | batches
    free = ic.immunize.algorithm1(X_P, y_P, X_H, lambda_P=1, lambda_H=1, steps=0, **common)
    norms = {name: free.history[f"grad_{name}"][0] for name in ("loss", "well", "ill")}
    shares = {"lambda_P": 2.0, "lambda_H": 0.5}
    result = ic.immunize.algorithm1(
        X_P, y_P, X_H, steps=1, balance="gradient-norm", **shares, **common
    )
    by_hand = ic.immunize.algorithm1(
        X_P, y_P, X_H, steps=1, **common,
        lambda_P=2.0 * norms["loss"] / norms["well"], lambda_H=0.5 * norms["loss"] / norms["ill"],
    )  # fmt: skip
    np.testing.assert_allclose(result.theta, by_hand.theta, rtol=1e-10)


@pytest.mark.parametrize("batches", [{}, {"batch_size": 10, "hessian": "batch"}])
def test_balance_takes_norms_whose_squares_leave_the_range(batches):
    """R_well by theta grows as the square of X_P; powers of two are exact."""
    X_P, y_P, X_H = tasks(3)
    small = 2.0**-330
    common = {"lambda_P": 1.0, "lambda_H": 1.0, "balance": "gradient-norm", "steps": 1} | batches
    here, there = (
        ic.immunize.algorithm1(X_P * scale, y_P, X_H, lr=1e-3 / scale**2, **common)
        for scale in (1.0, small)
    )
    for name, power in (("well", 2), ("ill", 0)):
        norms = (run.history[f"grad_{name}"][0] for run in (there, here))
        np.testing.assert_allclose(next(norms), next(norms) * small**power, rtol=1e-12)


def test_balance_refuses_a_weight_that_is_not_finite():
    X_P, y_P, X_H = tasks(3)
    options = {"lambda_P": 1.0, "lambda_H": 1.0, "lr": 1.0, "steps": 1}
    with pytest.raises(ValueError, match=r"the step of ill has .*its weight would be inf"):
        ic.immunize.algorithm1(1e60 * X_P, y_P, 1e50 * X_H, balance="gradient-norm", **options)


@pytest.mark.parametrize("batches", [{}, {"batch_size": 10, "hessian": "batch"}])
def test_balance_of_condition_numbers(batches):
    X_P, y_P, X_H = tasks(3)
    common = {"lr": 1e-3} | batches
    free = ic.immunize.opt_kappa(X_P, y_P, X_H, steps=0, **common)
    norms = {name: free.history[f"grad_{name}"][0] for name in ("loss", "kappa_P", "kappa_H")}
    shares = {"lambda_P": 2.0, "lambda_H": 0.5}
    result = ic.immunize.opt_kappa(
        X_P, y_P, X_H, steps=1, balance="gradient-norm", **shares, **common
    )
    by_hand = ic.immunize.opt_kappa(
        X_P, y_P, X_H, steps=1, **common,
        lambda_P=2.0 * norms["loss"] / norms["kappa_P"],
        lambda_H=0.5 * norms["loss"] / norms["kappa_H"],
    )  # fmt: skip
    np.testing.assert_allclose(result.theta, by_hand.theta, rtol=1e-10)
    with pytest.raises(ValueError, match=r"balance must be .*gradient-norm.*norm"):
        ic.immunize.opt_kappa(X_P, y_P, X_H, steps=1, balance="norm", **common)


def test_balance_needs_something_to_balance():
    X_P, y_P, X_H = tasks(3)
    Q = np.linalg.qr(X_P)[0]
    with pytest.raises(ValueError, match="balance must be None here: the step of well vanishes"):
        ic.immunize.algorithm1(
            Q, y_P, X_H, lambda_P=1, lambda_H=1, lr=1, steps=1, balance="gradient-norm"
        )
