"""What Algorithm 1 costs beside its matrix products, and that House Price takes a blink.

The peer on House Price is the same algorithm as users of PyTorch would write it, and as the
published code does: Hessians by theta, `eigvalsh`, autograd back to theta, a solve with the Gram
matrix.
"""

from functools import cache

import numpy as np
import pytest
import torch
from floors import fastest_threads, reduction

import immucond as ic
from immucond.experiments.house_price import load

AUTOGRAD = "torch autograd through eigvalsh, and a solve"
FLOOR = "floor: numpy, the products of two steps"
SIZES = [64, 128, 256, 512, 1024]
LARGE_SIZES = [pytest.param(n, marks=pytest.mark.large) for n in (2048, 4096)]
HOUSES = {"lambda_P": 0.056, "lambda_H": 1.5e10, "lr": 0.005, "preconditioner": "ridge"}


# ---- House Price ----


@cache
def houses(folder):
    data = load(folder)
    return data.primary.X, data.primary.y, data.harmful.X


def algorithm1(X_P, y_P, X_H, steps):
    d = X_P.shape[1]
    start = {"omega": np.full(d, 1.0 / d)}
    return ic.immunize.algorithm1(X_P, y_P, X_H, steps=steps, **start, **HOUSES).theta


def by_autograd(X_P, y_P, X_H, steps):
    """Algorithm 1 with the ridge solve, by automatic differentiation."""
    X, y, other = (torch.from_numpy(a) for a in (X_P, y_P, X_H))
    d = X.shape[1]
    K_P, K_H = X.T @ X, other.T @ other
    ranks = [int(torch.linalg.matrix_rank(A)) for A in (X, other)]
    theta = torch.eye(d, dtype=X.dtype, requires_grad=True)
    omega = torch.full((d,), 1.0 / d, dtype=X.dtype, requires_grad=True)
    eye = torch.eye(d, dtype=X.dtype)
    for _ in range(steps):
        loss = ((X @ theta @ omega - y) ** 2).mean()
        grad, by_omega = torch.autograd.grad(loss, (theta, omega))
        step = grad
        for K, k, weight, well in (
            (K_P, ranks[0], HOUSES["lambda_P"], True),
            (K_H, ranks[1], HOUSES["lambda_H"], False),
        ):
            sigma = torch.linalg.eigvalsh(theta.T @ K @ theta)[-k:]
            if well:
                value = sigma[-1] ** 2 / 2 - (sigma**2).sum() / (2 * d)
            else:
                value = 1 / ((sigma**2).mean() / 2 - sigma[0] ** 2 / 2)
            (by_theta,) = torch.autograd.grad(value, theta)
            step = step + weight * torch.linalg.solve(K + eye, by_theta)
        with torch.no_grad():
            theta -= HOUSES["lr"] * step
            omega -= HOUSES["lr"] * by_omega
    return theta.detach().numpy()


HOUSE_PRICE = {"immucond": algorithm1, AUTOGRAD: by_autograd}


@pytest.mark.parametrize("name", HOUSE_PRICE)
def test_house_price_takes_a_blink(contest, request, data_dir, name):
    data = houses(data_dir)
    steps = 3 if request.config.getoption("--smoke") else 100
    contest(
        "Algorithm 1, House Price, 100 steps",
        name,
        lambda: HOUSE_PRICE[name](*data, steps),
        like=lambda: algorithm1(*data, steps),
        rtol=1e-5,
        limits={("immucond", ""): 0.06},
    )


def its_kernels(d, steps):
    """For both tasks and every step theta^T K theta, its reduction, and the product back."""
    A, B = np.ones((2, d, d), order="F")
    H = np.asfortranarray(np.cov(np.random.default_rng(0).normal(size=(d, 2 * d))))
    for _ in range(2 * steps):
        for _ in range(3):
            A @ B
        reduction(H)


def test_house_price_beside_its_floor(contest, request, data_dir):
    d = houses(data_dir)[0].shape[1]
    steps = 3 if request.config.getoption("--smoke") else 100
    with fastest_threads(d):
        contest(
            "Algorithm 1, House Price, 100 steps",
            "floor: 600 products and 200 dsytrd alone",
            lambda: (its_kernels(d, steps), ())[1],
            like=lambda: (),
        )


# ---- cost of a step against its size ----

STEPS = 2


@cache
def tasks(n):
    rng = np.random.default_rng(4)
    X_P, X_H = rng.normal(size=(2, 2 * n, n))
    return X_P, X_P @ rng.normal(size=n), X_H


def steps(data):
    """Two steps, with what comes before the first and after the last: ranks, kappas, the report."""
    result = ic.immunize.algorithm1(*data, lambda_P=1e-9, lambda_H=1e-3, lr=1e-3, steps=STEPS)
    return result.history["kappa_H"]


def products(data):
    """For both tasks theta^T K theta and theta G, at the rate of this machine's dgemm."""
    n = data[0].shape[1]
    A, B = np.ones((2, n, n))
    for _ in range(STEPS * 2 * 3):
        A @ B


STEP = {"immucond, two steps and the report": steps, FLOOR: products}


@pytest.mark.filterwarnings("ignore:the harmful task got easier")  # two steps, random tasks
@pytest.mark.parametrize("name", STEP)
@pytest.mark.parametrize("n", [*SIZES, *LARGE_SIZES])
def test_steps_beside_their_products(contest, size, n, name):
    data = tasks(size(n))
    contest(
        f"Algorithm 1, {STEPS} full-batch steps, d = {n}",
        name,
        lambda: (STEP[name](data), ())[1],
        like=lambda: (),
        at=("algorithm1_step", "Algorithm 1, d = n", n),
        seconds=0.6,
    )
