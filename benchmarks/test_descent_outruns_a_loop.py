"""Every step of a linear probe's descent, in less time than NumPy takes to make the steps.

Counted, m directions: a step along the eigenvectors is ten flops a direction, and some microseconds
more in NumPy for its calls, whatever m is; on the weights it is a product with the Gram matrix, 2
m^2 flops. Before the first step the former takes a singular value decomposition, about 6 N m^2 + 20
m^3 flops, the latter the Gram matrix, N m^2.
"""

from functools import cache

import numpy as np
import pytest

import immucond as ic

OURS = "immucond probe"


@cache
def features(m):
    """Features whose eigenvalues fall by eight decades, and labels all over their range."""
    rng = np.random.default_rng(3)
    Z = np.linalg.qr(rng.standard_normal((4 * m, m)))[0] * np.logspace(0, -4, m)
    return Z, rng.standard_normal(4 * m)


def by_probe(m, steps):
    return ic.probing.probe(*features(m), steps=steps).loss


def by_loop(m, steps):
    Z, y = features(m)
    u, s, _ = np.linalg.svd(Z, full_matrices=False)
    h, energy = s**2, (u.T @ y) ** 2
    rest = y @ y - energy.sum()
    moments, loss = np.vstack([np.ones_like(h), h, h**2]), []
    for _ in range(steps + 1):
        left, second, third = (moments @ energy).tolist()
        loss.append(left + rest)
        energy *= (1.0 - (second / third) * h) ** 2
    return np.array(loss)


def by_weights(m, steps):
    Z, y = features(m)
    K, b, square = Z.T @ Z, Z.T @ y, y @ y
    w, loss = np.zeros(m), []
    gradient = -b
    for _ in range(steps + 1):
        loss.append(square + w @ (gradient - b))
        along = K @ gradient
        eta = (gradient @ gradient) / (gradient @ along)
        w = w - eta * gradient
        gradient = gradient - eta * along
    return np.array(loss)


PEERS = {
    "numpy, a step along the eigenvectors at a time": by_loop,
    "numpy, a step of the weights at a time": by_weights,
}


@pytest.mark.parametrize("m", [50, 500])
@pytest.mark.parametrize("name", [OURS, *PEERS])
def test_descent_outruns_a_loop(contest, size, m, name):
    m, steps = size(m), size(10_000)
    function = {OURS: by_probe, **PEERS}[name]
    contest(
        f"loss of a probe at each of {steps:,} steps, {4 * m:,} x {m:,} features",
        name,
        lambda: function(m, steps),
        like=lambda: by_loop(m, steps),
        rtol=1e-6,
        goals={(OURS, peer): 1.0 for peer in PEERS},
    )
