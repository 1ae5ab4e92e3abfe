"""The kernel that makes a Hessian level: what its rotations are, on what is hard for them."""

import numpy as np
import pytest

import immucond._core as core
from immucond._leveling import level


def cases():
    """Hessians by name: of all conditions, diagonal, tied, level already, of one feature."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 40):
        A = rng.normal(size=(n + 3, n))
        yield f"random, {n}", A.T @ A
        yield f"graded, {n}", np.diag(np.geomspace(1.0, 1e-12, n))
        yield f"level, {n}", np.eye(n)
        yield f"two values, {n}", np.diag(np.repeat([1.0, 2.0], n)[:n])
        yield f"one is all, {n}", np.diag([1.0] + [0.0] * (n - 1))
        yield f"a row of all, {n}", np.ones((n, n))


CASES = dict(cases())


@pytest.mark.parametrize("name", CASES)
def test_the_rows_are_rotated_and_the_diagonal_is_its_mean(name):
    H, n = CASES[name], len(CASES[name])
    Q = np.eye(n)
    level(Q, H)
    np.testing.assert_allclose(Q @ Q.T, np.eye(n), atol=1e-14 * n)
    size = float(np.max(np.abs(H)))
    np.testing.assert_allclose(np.diag(Q @ H @ Q.T), np.trace(H) / n, atol=1e-13 * n * size)
    rows = np.random.default_rng(1).normal(size=(n, 3))
    wanted = Q @ rows
    level(rows, H)
    np.testing.assert_allclose(rows, wanted, atol=1e-13 * n)


def test_what_does_not_fit_is_told():
    for rows, H in (
        (np.eye(3), np.eye(2)),
        (np.eye(3), np.ones((3, 2))),
        (np.eye(3), np.ones(3)),
        (np.ones(3), np.eye(3)),
    ):
        with pytest.raises(
            ValueError, match=rf"H must be square.*{np.shape(rows)[0]},.*H \({len(H)},"
        ):
            core.level(rows, H)
    for rows in (np.eye(3, dtype=np.float32), np.asfortranarray(np.ones((3, 2)))):
        with pytest.raises(TypeError):  # a copy would be rotated, and thrown away
            core.level(rows, np.eye(3))
    fixed = np.eye(3)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="not writeable"):
        core.level(fixed, np.diag([1.0, 2.0, 3.0]))
