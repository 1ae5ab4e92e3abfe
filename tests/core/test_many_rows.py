"""Many rows: rounding of sums and reductions that does not grow with their number."""

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import EPS, generators, quiet

import immucond as ic


def one_hot(rng, rows, classes=3):
    """An intercept beside a full set of indicators: rank = classes, exactly."""
    return np.column_stack([np.ones(rows), np.eye(classes)[rng.integers(0, classes, rows)]])


def dependent(rng, rows):
    """Integer columns, and sums of them: rank 3 of 6, exactly."""
    X = rng.integers(-128, 128, (rows, 3)).astype(float)
    return np.column_stack([X, X[:, 0] + X[:, 1], X[:, 1] - X[:, 2], X.sum(axis=1)])


@pytest.mark.parametrize("rows", [500, 5_000, 50_000, 200_000])
def test_rank_of_an_intercept_and_its_indicators(rows):
    for seed in range(12 if rows <= 50_000 else 4):
        X = one_hot(np.random.default_rng(seed), rows)
        pairs = ic.feature_extreme_pairs(X)
        assert pairs.rank == 3
        exact = np.linalg.eigvalsh((X.T @ X).round())[1:]  # counts: no rounding in them
        assert np.isclose(pairs.condition_number, exact[-1] / exact[0], rtol=1e-12)


@pytest.mark.parametrize("rows", [100, 500, 5_000, 300_000])
def test_equal_constant_columns_have_rank_one(rows):
    for constant in (0.1, 0.3, 1 / 3, 0.7, 0.9, 1.0, 255.0):
        for ratio in (1.0, 0.5, 3.0):
            X = np.column_stack([np.full(rows, constant), np.full(rows, ratio * constant)])
            assert ic.feature_extreme_pairs(X).rank == 1
            assert ic.feature_extreme_pairs(X, method="qr").rank == 1


@pytest.mark.parametrize(
    ("columns", "rows"),
    # A matrix of 600 columns is as high as wide, whichever of these it is.
    [*itertools.product([128, 129, 150, 200, 300], [1, 3, 4]), (600, 1)],
)
def test_rows_whose_rounding_has_one_sign_have_rank_one(columns, rows):
    """LAPACK reduces more than 128 columns by blocks, whose products add up hundreds of rows."""
    rng = np.random.default_rng(columns)
    for row in (
        0.1 * rng.choice([1.0, 0.3, 1 / 3, 0.7], columns),
        1.0 / rng.integers(1, 100, columns),
        rng.standard_normal(columns),
    ):
        X = np.tile(row, (max(columns, rows * 128), 1))
        assert ic.feature_extreme_pairs(X).rank == 1
        assert ic.feature_extreme_pairs(X, method="qr").rank == 1
        assert ic.TriangleAccumulator(columns).update(X).pairs().rank == 1


@given(
    rng=generators,
    rows=st.integers(10, 20_000),
    family=st.sampled_from([one_hot, dependent, "scaled"]),
)
def test_tall_rank_deficient_features(rng, rows, family):
    X = one_hot(rng, rows, 4) * rng.uniform(0.1, 10, 5) if family == "scaled" else family(rng, rows)
    rank = 4 if family == "scaled" else 3
    if np.linalg.matrix_rank(X[:500]) < rank:
        return  # too few rows to show it
    assert quiet(ic.feature_extreme_pairs, X).rank == rank
    assert quiet(ic.feature_extreme_pairs, X, method="qr").rank == rank
    assert np.isfinite(quiet(ic.r_well.value_and_grad_features, X)[1]).all()


@pytest.mark.parametrize("columns", [16, 64, 256])
@pytest.mark.parametrize("leaves", [2, 8])
@pytest.mark.parametrize("smallest", [-8, -34])
def test_singular_values_known_to_the_bit_through_a_tree(columns, leaves, smallest):
    """Orthogonal rows times powers of two times an orthogonal matrix: every entry is exact."""
    rows = leaves * max(128, 4 * columns)
    sigma = 2.0 ** np.linspace(0, smallest, columns).round()
    U = scipy.linalg.hadamard(rows)[:, :columns] * 1.0
    X = (U * sigma) @ (scipy.linalg.hadamard(columns) / math.isqrt(columns))
    triangles = ic.TriangleAccumulator(columns).update(X)
    for pairs in (quiet(ic.feature_extreme_pairs, X, method="qr"), quiet(triangles.pairs)):
        assert pairs.rank == columns
        assert abs(pairs.sigma_max - rows) <= pairs.bound_max <= 1e-11 * rows
        least = rows * 4.0**smallest
        assert abs(pairs.sigma_min - least) <= pairs.bound_min <= 0.05 * least
    H = X.T @ X  # through another Gram matrix, column by column
    R = triangles.R
    assert (np.abs(R.T @ R - H) <= 1e-13 * np.outer(*[np.sqrt(H.diagonal())] * 2)).all()


def test_the_limit_sees_the_rank_of_many_rows():
    rng = np.random.default_rng(1)
    X_P, X_H = one_hot(rng, 200_000), rng.normal(size=(100, 4))
    by_inputs = ic.linear.immunity_limit(X_P=X_P, X_H=X_H)
    by_grams = ic.linear.immunity_limit(ic.gram(X_P), ic.gram(X_H))
    assert by_inputs.rank_P == by_grams.rank_P == 3
    assert by_inputs.case == by_grams.case == "unbounded"
    assert np.isclose(by_inputs.kappa_P, by_grams.kappa_P, rtol=1e-12)


# ---- sums of squares against exact integers ----


def worst_error(gram, constants, rows):
    """Of sums of equal squares, whose rounding has one sign, in units of eps."""
    return max(
        abs(float((Fraction(float(gram[i, i])) - rows * Fraction(c) ** 2) / Fraction(c) ** 2))
        / rows
        / EPS
        for i, c in enumerate(constants)
    )


@pytest.mark.parametrize("rows", [1 << 12, 1 << 20])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gram_of_equal_rows(rows, dtype):
    # 300 eps at 2^20 rows in one call of dsyrk.
    rng = np.random.default_rng(0)
    for _ in range(6):
        constants = rng.uniform(0.5, 1.0, 3).astype(dtype).astype(float)
        X = np.tile(constants.astype(dtype), (rows, 1))
        assert worst_error(ic.gram(X), constants, rows) <= 64
        H = ic.feature_hessian(X, np.eye(3), method="features")
        assert worst_error(H, constants, rows) <= 64


def test_accumulated_blocks_are_as_good_as_one():
    constants = np.array([0.1, 0.3, 0.7])
    block = np.tile(constants, (3, 1))
    total, half = ic.GramAccumulator(3), ic.GramAccumulator(3)
    for _ in range(5_000):
        total.update(block)
        half.update(block)
    total.merge(half)
    assert total.count == 30_000
    assert worst_error(total.gram, constants, 30_000) <= 4  # of a block of three; 1,800 without


PATTERNS = {
    "near tie": lambda c, e: [[c, e, e], [c, -e, e], [c, e, -e], [c, -e, -e * (1 + 2.0**-26)]],
    "two columns": lambda c, e: [[c, e], [c, -e]],
    "turned": lambda c, e: [[c, e], [e, -c]],
}


def true_pairs(pattern, repeats):
    columns = range(len(pattern[0]))
    K = [
        [repeats * sum(Fraction(row[i]) * Fraction(row[j]) for row in pattern) for j in columns]
        for i in columns
    ]
    with mpmath.workdps(60):
        exact = mpmath.matrix([[mpmath.mpf(x.numerator) / x.denominator for x in r] for r in K])
        return sorted(mpmath.eigsy(exact, eigvals_only=True), reverse=True)


@settings(max_examples=10)
@given(
    c=st.floats(0.5, 1.0),
    e=st.floats(1e-4, 0.1),
    name=st.sampled_from(list(PATTERNS)),
    method=st.sampled_from(["auto", "gram", "qr"]),
)
def test_bounds_hold_for_a_million_equal_rows(c, e, name, method):
    pattern = PATTERNS[name](c, e)
    repeats = (1 << 20) // len(pattern)
    truth = true_pairs(pattern, repeats)
    pairs = quiet(ic.feature_extreme_pairs, np.tile(np.array(pattern), (repeats, 1)), method=method)
    assert pairs.rank == len(truth)
    assert abs(pairs.sigma_max - truth[0]) <= pairs.bound_max
    assert abs(pairs.sigma_min - truth[-1]) <= pairs.bound_min


@given(
    rng=generators,
    columns=st.sampled_from([2, 3, 4, 8, 30, 150]),
    part=st.floats(0, 1),
    distinct=st.integers(1, 3),
)
def test_rank_at_every_size_of_a_leaf(rng, columns, part, distinct):
    """Few distinct rows, many times, at every number of rows up to some leaves of the tree."""
    distinct = min(distinct, columns)
    rows = distinct + round(part * max(1500, 16 * columns))
    X = rng.uniform(0.1, 3, (distinct, columns))[np.arange(rows) % distinct]
    assert quiet(ic.feature_extreme_pairs, X, method="qr").rank == distinct
