"""`gram` streams blocks of rows, and still runs at the BLAS's own rate, in little extra memory."""

from functools import cache

import numpy as np
import pytest
from scipy.linalg.blas import dsyrk

import immucond as ic

ROWS, COLUMNS = 200_000, 512
GROUP = f"gram {ROWS} x {COLUMNS}"
DSYRK = "floor: scipy dsyrk, float64, upper half"
NUMPY = "numpy X.T @ X"
GOALS = {
    ("immucond", DSYRK): 0.9,
    ("immucond, float32 input", DSYRK): 0.8,
    ("immucond", NUMPY): 1.0,
}
EXTRA_MEMORY_MIB = 64

CONTESTANTS = {
    "immucond": ic.gram,
    "immucond, float32 input": lambda X: ic.gram(single(*X.shape)),
    # The C-ordered array is its transpose in Fortran's order: one call, no copy.
    DSYRK: lambda X: dsyrk(1.0, X.T),
    NUMPY: lambda X: X.T @ X,
}


@cache
def single(rows, columns):
    return np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)


@cache
def double(rows, columns):
    return single(rows, columns).astype(np.float64)  # the same numbers: one answer for all


@pytest.mark.parametrize("name", CONTESTANTS)
def test_gram_runs_at_the_rate_of_dsyrk(contest, size, name):
    X = double(size(ROWS), size(COLUMNS))
    contest(
        GROUP,
        name,
        lambda: CONTESTANTS[name](X),
        like=lambda: np.triu(ic.gram(X)) if name == DSYRK else ic.gram(X),
        goals=GOALS,
    )


@pytest.mark.parametrize(("name", "dtype"), [("immucond", "f8"), ("immucond, float32 input", "f4")])
def test_gram_needs_little_extra_memory(extra_memory, size, name, dtype):
    shape = size(ROWS), size(COLUMNS)
    extra_memory(GROUP, name, "gram", dtype, shape, allowed=EXTRA_MEMORY_MIB)
