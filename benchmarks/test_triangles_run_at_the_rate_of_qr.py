"""A streamed triangle costs the QR of its blocks and little more; a Gram matrix a fraction."""

from functools import cache

import numpy as np
import pytest
from scipy.linalg import lapack

import immucond as ic

ROWS, COLUMNS, BLOCK = 200_000, 512, 4096
LEAF = 4 * COLUMNS
GROUP = f"stream of {ROWS} x {COLUMNS} in blocks of {BLOCK}"
GEQRF = f"floor: scipy dgeqrf of {LEAF} rows each, not joined"
# Joining two triangles costs 10/3 d^3 flops beside the 22/3 d^3 of a leaf: 0.69 at this size.
GOALS = {("immucond", GEQRF): 0.65}


@cache
def stream(rows, columns):
    return np.random.default_rng(0).standard_normal((rows, columns))


def accumulated(kind, X, block):
    total = kind(X.shape[1])
    for start in range(0, len(X), block):
        total.update(X[start : start + block])
    return total


def reduced(X, leaf):
    """The squares of the columns' norms, of LAPACK's triangles."""
    squares = np.zeros(X.shape[1])
    for start in range(0, len(X), leaf):
        piece = X[start : start + leaf].copy(order="F")
        qr, _, _, info = lapack.dgeqrf(piece, lwork=64 * X.shape[1], overwrite_a=1)
        assert info == 0
        squares += np.square(np.triu(qr[: X.shape[1]])).sum(axis=0)
    return squares


@pytest.mark.parametrize("name", ["immucond", GEQRF, "immucond, Gram matrix"])
def test_triangles_run_at_the_rate_of_qr(contest, size, name):
    X, block, leaf = stream(size(ROWS), size(COLUMNS)), size(BLOCK), size(LEAF)
    contestants = {
        "immucond": lambda: np.square(accumulated(ic.TriangleAccumulator, X, block).R).sum(axis=0),
        GEQRF: lambda: reduced(X, leaf),
        "immucond, Gram matrix": lambda: accumulated(ic.GramAccumulator, X, block).gram.diagonal(),
    }
    contest(GROUP, name, contestants[name], like=lambda: np.square(X).sum(axis=0), goals=GOALS)
