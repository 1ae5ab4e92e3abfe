"""`feature_hessian` costs what the cheaper of its two routes costs by hand, in little memory."""

from functools import cache

import numpy as np
import pytest

import immucond as ic

ROWS, COLUMNS, WIDTH = 200_000, 784, 784
GROUP = f"feature_hessian {ROWS} x {COLUMNS} -> {WIDTH}"
BY_GRAM, BY_FEATURES = "numpy theta.T @ (X.T @ X) @ theta", "numpy Z = X @ theta; Z.T @ Z"
EXTRA_MEMORY_MIB = 64


def by_features(X, theta):
    Z = X @ theta
    return Z.T @ Z


STREAMED = {
    "immucond": ic.feature_hessian,
    BY_GRAM: lambda X, theta: theta.T @ (X.T @ X) @ theta,
    BY_FEATURES: by_features,
}
DENSE = {"immucond": ic.hessian, "numpy theta.T @ K @ theta": lambda theta, K: theta.T @ K @ theta}


@cache
def inputs(rows, columns):
    return np.random.default_rng(3).standard_normal((rows, columns))


@cache
def extractor(columns, width):
    return np.random.default_rng(4).standard_normal((columns, width)) / columns**0.5


@pytest.mark.large
@pytest.mark.parametrize("name", STREAMED)
def test_feature_hessian_takes_the_cheaper_route(contest, size, name):
    X, theta = inputs(size(ROWS), size(COLUMNS)), extractor(size(COLUMNS), size(WIDTH))
    contest(
        GROUP,
        name,
        lambda: STREAMED[name](X, theta),
        like=lambda: ic.feature_hessian(X, theta),
        goals={("immucond", BY_GRAM): 1 / 1.1, ("immucond", BY_FEATURES): 1 / 1.1},
    )


@pytest.mark.large
def test_feature_hessian_needs_little_extra_memory(extra_memory, size):
    shapes = (size(ROWS), size(COLUMNS)), (size(COLUMNS), size(WIDTH))
    extra_memory(GROUP, "immucond", "feature_hessian", "f8", *shapes, allowed=EXTRA_MEMORY_MIB)


@pytest.mark.parametrize("name", DENSE)
def test_hessian_uses_symmetry(contest, size, name):
    n = size(1024)
    theta, K = extractor(n, n), ic.gram(inputs(2 * n, n))
    contest(
        "hessian, d = m = 1024",
        name,
        lambda: DENSE[name](theta, K),
        like=lambda: ic.hessian(theta, K),
    )
