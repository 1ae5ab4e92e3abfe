"""Erasure: against 50 digits and SciPy's pencils, on matrices and units that ask for trouble."""

import dataclasses
import gc
import math
from functools import partial

import mpmath
import numpy as np
import pytest
import scipy.linalg

from immucond import theorems as th
from immucond._task import Root
from immucond.linear import Erasure, ErasurePath, _erasure, erasure, erasure_path


def gram(seed: int, d: int, rank: int | None = None, kappa: float = 10.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    k = rank or d
    U, V = (np.linalg.qr(rng.normal(size=(n, n)))[0][:, :k] for n in (d + 2, d))
    X = (U * np.geomspace(1.0, kappa**-0.5, k)) @ V.T
    return X.T @ X


def cost(K, G, E) -> float:
    moved = np.asarray(E) - np.eye(len(K))
    return float(np.trace(G @ moved.T @ K @ moved))


def lagrangian(K, G, H, E, price):
    """Cost, and price times harmful variance in primary units, of a projector, by mpmath."""
    K, G, H, E = (mpmath.matrix(np.asarray(x).tolist()) for x in (K, G, H, E))
    moved = E - mpmath.eye(K.rows)
    # V V^T = R E R^-1, hence tr V^T R^-T K_H R^-1 V = tr E^T K_H E K^-1, R gone.
    return trace(G * moved.T * K * moved) + price * trace(E.T * H * E * K**-1)


def trace(A):
    return sum(A[i, i] for i in range(A.rows))


def least(K, G, H, price):
    """What Ky Fan allows, and how many directions that keeps, by mpmath."""
    K, G, H = (mpmath.matrix(x.tolist()) for x in (K, G, H))
    R = mpmath.cholesky(K).T
    values = mpmath.eigsy(R * G * R.T - price * (R.T**-1 * H * R**-1), eigvals_only=True)
    return trace(G * K) - sum(x for x in values if x > 0), sum(x > 0 for x in values)


# Rank


@pytest.mark.parametrize("d", [1, 2, 3, 5])
@pytest.mark.parametrize("kappa", [1.0, 1e3, 1e8])
def test_it_is_the_spectral_projector_of_g_k_to_fifty_digits(d, kappa):
    K, G = gram(d, d, kappa=kappa), gram(d + 10, d)
    with mpmath.workdps(50):
        KG = mpmath.matrix(K.tolist()) * mpmath.matrix(G.tolist())
        values, left, right = mpmath.eig(KG, left=True, right=True)
        order = sorted(range(d), key=lambda i: -mpmath.re(values[i]))
        exact = np.array([float(mpmath.re(values[i])) for i in order])
        E = mpmath.zeros(d)
        for r in range(d + 1):
            found = erasure(K, G, r)
            # Rows: z E = z L M^T with M eigenvectors of K G.
            expected = np.array([[float(mpmath.re(x)) for x in row] for row in E.T.tolist()])
            np.testing.assert_allclose(found.theta, expected, atol=1e-12 * kappa, rtol=0)
            np.testing.assert_allclose(found.values, exact, atol=1e-14 * d, rtol=0)
            assert found.cost == pytest.approx(exact[r:].sum(), abs=1e-14 * d)
            assert found.bound == pytest.approx(exact[r:].sum(), abs=1e-14 * d)
            if r < d:
                x, y = right[:, order[r]], left[order[r], :]
                E += x * y / (y * x)[0]


def test_an_invertible_map_takes_it_along_and_where_k_p_is_singular_on_its_rows():
    A = np.random.default_rng(0).normal(size=(5, 5))
    for rank in (5, 3):
        K, G = gram(1, 5, rank), gram(2, 5)
        E = erasure(K, G, 2)
        after = erasure(A.T @ K @ A, np.linalg.solve(A, np.linalg.solve(A, G).T), 2)
        back = A @ after.theta @ np.linalg.inv(A)
        np.testing.assert_allclose(K @ back, K @ E.theta, atol=1e-12)
        assert np.allclose(back, E.theta, atol=1e-10) == (rank == 5)


# Price


@pytest.mark.parametrize("rank_H", [1, 2, 4])
@pytest.mark.parametrize("kappa", [1.0, 1e6])
@pytest.mark.parametrize("price", [0.0, 1e-6, 1e-2, 1.0, 1e2, 1e6, 1e10])
def test_at_a_price_it_is_what_ky_fan_allows_to_fifty_digits(price, kappa, rank_H):
    with mpmath.workdps(50):
        for seed in range(3):
            K, G, H = gram(seed, 4, kappa=kappa), gram(seed + 5, 4), gram(seed + 9, 4, rank_H)
            path = erasure_path(K, G, K_H=H)
            much = float(price * path.total / np.trace(path.harm))
            E = path.at(much)
            allowed, rank = least(K, G, H, much)
            # Of a rank-deficient K_H rounding makes a little harm, which the price magnifies.
            lost = 1e-13 * (1.0 + price * 1e-2) * kappa**0.5 * path.total
            assert abs(lagrangian(K, G, H, E, much) - allowed) < lost
            assert E.rank == rank
            assert E.cost == pytest.approx(cost(K, G, E), abs=1e-10)


@pytest.mark.parametrize(("rank", "matrices"), [(60, 4), (59, 5)])
def test_all_prices_together_take_few_matrices(rank, matrices):
    path = erasure_path(gram(0, 60, rank), gram(1, 60), K_H=gram(2, 60))
    for price in (0.0, 1e-3, 1.0):
        path.at(price)
        path.keeping(30)
    held, seen = [path], {}
    while held:
        x = held.pop()
        if isinstance(x, np.ndarray):
            x = x if x.base is None else x.base
            seen[id(x)] = getattr(x, "nbytes", 0)
        elif id(x) not in seen and isinstance(
            x, tuple | list | dict | partial | ErasurePath | Root
        ):
            seen[id(x)] = 0
            held += gc.get_referents(x)
    assert matrices - 1 < sum(seen.values()) / (8 * 60**2) < matrices + 0.5


@pytest.mark.parametrize("seed", range(3))
def test_prices_of_ranks_are_the_eigenvalues_of_the_pencil(seed):
    K, G, H = (gram(seed + i, 5) for i in (0, 10, 20))
    inside = np.linalg.solve(K, np.linalg.solve(K, H).T)
    prices = scipy.linalg.eigh(G, inside, eigvals_only=True)[::-1]
    path = erasure_path(K, G, K_H=H)
    for r, price in enumerate(prices):
        E = path.keeping(r)
        assert (E.rank, E.price) == (r, pytest.approx(price, rel=1e-10))
        assert path.at(E.price * (1 + 1e-9)).rank == r
        assert path.at(E.price * (1 - 1e-9)).rank == r + 1
        np.testing.assert_allclose(path.at(E.price * (1 + 1e-9)).theta, E.theta, atol=1e-6)
    assert path.keeping(5).price == 0.0


def test_where_no_harmful_row_goes_directions_stay_at_every_price():
    K, G, H = gram(0, 6, kappa=1e4), gram(1, 6), gram(2, 6, 2)
    path = erasure_path(K, G, K_H=H)
    for r in range(4):
        E = path.keeping(r)
        assert E.price == math.inf
        assert E.kept < 1e-20
        # The least cost under the constraint that no harm is left.
        N = scipy.linalg.null_space(path.harm, rcond=1e-12)
        inside = np.linalg.eigvalsh(N.T @ path.worth @ N)[::-1]
        assert E.cost == pytest.approx(path.total - inside[:r].sum(), rel=1e-9)
    assert math.isfinite(path.keeping(4).price)
    ranks = [path.at(10.0**p).rank for p in range(-20, 308, 4)]
    assert ranks == sorted(ranks, reverse=True)
    assert (ranks[0], ranks[-1]) == (6, 4)


def test_a_tie_goes_and_what_is_worth_more_stays():
    path = erasure_path(np.eye(3), np.diag([3.0, 2.0, 2.0]))
    assert [path.at(p).rank for p in (0.0, 1.99, 2.0, 2.01, 3.0)] == [3, 3, 1, 1, 0]
    assert [path.keeping(r).price for r in range(4)] == [3.0, 2.0, 2.0, 0.0]
    harmful = erasure_path(np.eye(3), np.diag([3.0, 2.0, 2.0]), K_H=np.diag([3.0, 1.0, 1.0]))
    assert [harmful.at(p).rank for p in (0.99, 1.0, 1.99, 2.0)] == [3, 2, 2, 0]
    assert [harmful.keeping(r).price for r in range(4)] == pytest.approx([2.0, 2.0, 1.0, 0.0])


def test_what_is_worth_nothing_stays_where_a_rank_asks_the_least_harmful_first():
    E = erasure(np.eye(4), np.diag([1.0, 0, 0, 0]), 2, K_H=np.diag([1.0, 9.0, 0.5, 3.0]))
    np.testing.assert_allclose(E.theta.diagonal(), [1, 0, 1, 0], atol=1e-12)
    assert erasure(np.eye(4), np.diag([1.0, 0, 0, 0]), price=0).rank == 1


def test_what_has_neither_worth_nor_harm_asks_for_no_price():
    path = erasure_path(np.eye(3), np.diag([1.0, 0, 2.0]), K_H=np.diag([1.0, 0, 0]))
    assert [path.keeping(r).price for r in range(4)] == pytest.approx([math.inf, 1.0, 0.0, 0.0])


def test_without_harmful_features_what_is_kept_is_a_share_of_the_directions_in_use():
    path = erasure_path(np.diag([1.0, 2.0, 0.0]), np.eye(3))
    assert [path.keeping(r).kept for r in range(4)] == [0.0, 0.5, 1.0, 1.0]


# An adversary's


@pytest.mark.parametrize("rank_K", [1, 3, 6])
@pytest.mark.parametrize("rank_G", [1, 3, 6])
@pytest.mark.parametrize("kappa", [1.0, 1e12])
def test_singular_matrices_and_nearly_singular_ones(rank_K, rank_G, kappa):
    K, G, H = gram(0, 6, rank_K, kappa), gram(1, 6, rank_G, kappa), gram(2, 6, 1)
    for r in range(7):
        E = erasure(K, G, r)
        assert E.rank == min(r, rank_K)
        assert cost(K, G, E) == pytest.approx(E.bound, abs=1e-14)
        assert E.cost == pytest.approx(E.bound, abs=1e-14)
        assert E.cost >= 0.0
        np.testing.assert_allclose(E.right.T @ E.left, np.eye(E.rank), atol=1e-9)
        with_harm = erasure(K, G, r, K_H=H)
        assert with_harm.rank == min(r, rank_K)
        assert with_harm.cost >= E.bound - 1e-14
        assert 0.0 <= with_harm.kept <= 1.0 + 1e-12


@pytest.mark.parametrize("by", [{"rank": 2}, {"price": 1.0}])
@pytest.mark.parametrize("exponent", [-300, -150, 150, 300])
def test_units_do_not_matter(exponent, by):
    much, (K, G, H) = 10.0**exponent, (gram(i, 4) for i in range(3))
    for units in ((much, 1.0, 1.0), (1.0, much, 1.0), (much, 1.0 / much, 1.0), (1.0, 1.0, much)):
        scaled = [a * u for a, u in zip((K, G, H), units, strict=True)]
        worth, harm = units[0] * units[1], units[2] / units[0]
        for with_harm in (False, True):
            factor = worth / harm if with_harm and harm else worth
            if not 0.0 < worth < math.inf or not 0.0 < factor < math.inf:
                continue
            given = {name: value * (factor if name == "price" else 1) for name, value in by.items()}
            one = erasure(K, G, K_H=H if with_harm else None, **by)
            E = erasure(*scaled[:2], K_H=scaled[2] if with_harm else None, **given)
            np.testing.assert_allclose(E.theta, one.theta, atol=1e-10)
            assert (E.cost, E.kept) == pytest.approx((one.cost * worth, one.kept), rel=1e-10, abs=0)


def test_nothing_needed_and_nothing_harmful():
    K, G, none = gram(0, 4), gram(1, 4), np.zeros((4, 4))
    assert erasure(K, none, price=0.0).rank == erasure(K, none, price=0.0, K_H=G).rank == 0
    for harm in (None, G, none):
        E = erasure(K, none, 2, K_H=harm)
        assert (E.rank, E.cost, E.bound, E.total) == (2, 0.0, 0.0, 0.0)
    for r in range(5):
        E = erasure(K, G, r, K_H=none)
        assert E.kept == 0.0
        assert E.cost == pytest.approx(E.bound, abs=1e-14)
        assert E.price == (math.inf if r < 4 else 0.0)
    assert erasure(K, G, price=1e300, K_H=none).rank == 4


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64, np.int8])
@pytest.mark.parametrize("by", [{"rank": 2}, {"price": 3.0}])
def test_any_real_dtype(dtype, by):
    given = [np.round(100 * gram(i, 3)).astype(dtype) for i in range(3)]
    found, exact = (
        erasure(K, G, K_H=H, **by).theta for K, G, H in (given, [A.astype(float) for A in given])
    )
    np.testing.assert_allclose(found, exact, atol=1e-9)


def test_rounding_in_half_precision_is_no_negative_eigenvalue():
    X = np.random.default_rng(0).normal(size=(50, 3)) @ np.random.default_rng(1).normal(
        size=(3, 32)
    )
    G = (X.T @ X).astype(np.float16)
    assert np.linalg.eigvalsh(G.astype(float))[0] < -1e-3
    assert erasure(np.eye(32), G, 3).cost < 1e-2 * np.trace(G.astype(float))
    with pytest.raises(ValueError, match="G must be positive semidefinite"):
        erasure(np.eye(32), G.astype(float), 3)


def test_lists_views_and_integers_of_numpy_are_read_and_left_as_they_were():
    K, G = gram(0, 3), gram(1, 3)
    expected = erasure(K, G, 2).theta
    K.setflags(write=False)
    G = np.asfortranarray(G)
    copy = G.copy()
    with np.errstate(all="raise"):
        for rank in (2, np.int8(2), np.uint64(2)):
            np.testing.assert_array_equal(erasure(K, G, rank).theta, expected)
        np.testing.assert_allclose(erasure(K.tolist(), G.tolist(), 2).theta, expected, atol=1e-13)
        erasure(K, G, price=1e-3, K_H=np.diag([1.0, 0.0, 1e-300]))
    np.testing.assert_array_equal(G, copy)
    assert erasure([[2.0]], [[3.0]], True).theta == pytest.approx(1.0)


def test_it_multiplies_rows_and_heads():
    E = erasure(gram(0, 4), gram(1, 4), 2)
    Z, w = np.random.default_rng(0).normal(size=(2, 4, 4))
    np.testing.assert_allclose(Z @ E, Z @ E.theta, atol=1e-13)
    np.testing.assert_allclose(E @ w, E.theta @ w, atol=1e-13)
    np.testing.assert_allclose(np.asarray(E, dtype=np.float32), E.theta, atol=1e-6)
    assert (E.shape, E.rank, repr(E)[:20]) == ((4, 4), 2, "Erasure(rank 2 of 4,")
    with pytest.raises(ValueError, match="by a copy alone"):
        np.asarray(E, copy=False)


NAN, SKEW, I2 = np.diag([np.nan, 1.0]), np.array([[1.0, 0.5], [0.0, 1.0]]), np.eye(2)
ERRORS = [
    # K_P, G, rank, price, K_H
    ((I2, I2, 1, 1.0), "give either rank or price"),
    ((I2, I2, 3), "rank must be at most 2, the features, and is 3"),
    ((I2, I2, -1), "rank must be at least 0, and is -1"),
    ((I2, I2, 1.0), "rank must be an integer, and is 1.0"),
    ((I2, I2, None, -1.0), r"price must be in \[0, inf\), and is -1"),
    ((I2, I2, None, math.nan), "price must be in .* and is nan"),
    ((I2, I2, None, "1"), "price must be a real number"),
    ((NAN, I2, 1), "K_P must be finite"),
    ((I2, NAN, 1), "G must be finite"),
    ((I2, I2, 1, None, NAN), "K_H must be finite"),
    ((np.ones((2, 3)), I2, 1), "K_P must be square"),
    ((I2, np.eye(3), 1), r"G must have shape \(2, 2\), as K_P, and has \(3, 3\)"),
    ((SKEW, I2, 1), "K_P must be symmetric"),
    ((I2, SKEW, 1), r"G must be symmetric, and max\|A - A\^T\| is 0.5"),
    ((-I2, I2, 1), "K_P must be positive semidefinite"),
    ((I2, np.diag([3.0, -2.0]), 1), "G must be .* has the eigenvalue -2"),
    ((I2, I2, 1, None, -I2), "K_H must be positive semidefinite"),
    ((0 * I2, I2, 1), "K_P has rank 0"),
    ((1e200 * I2, 1e200 * I2, 1), "G K_P is beyond the range of float64"),
    ((1e-200 * I2, 1e-200 * I2, 1), "G K_P is beyond the range of float64"),
    ((1e-200 * I2, I2, 1, None, 1e200 * I2), "K_H K_P.-1 is beyond the range"),
    ((1e150 * I2, 1e150 * I2, 1, None, I2), "the price is beyond the range"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), ERRORS)
def test_errors_say_which_argument_and_why(arguments, message):
    given = dict(zip(("K_P", "G", "rank", "price", "K_H"), arguments, strict=False))
    with pytest.raises((ValueError, TypeError), match=message):
        erasure(**given)


def turned(path):
    return dataclasses.replace(path, basis=path.basis[:, ::-1])


MUTATIONS = [
    # Directions of the other end, a bound that is too high, and a map that can be undone.
    ("erasure", _erasure, "erasure_path", lambda f: lambda *a, **k: turned(f(*a, **k))),
    ("erasure-price", _erasure, "erasure_path", lambda f: lambda *a, **k: turned(f(*a, **k))),
    ("erasure", th.Erased, "values", lambda f: property(lambda case: 1.001 * f.fget(case))),
    ("erasure-holds", Erasure, "theta",
     lambda f: property(lambda E: f.fget(E) + 1e-6 * np.eye(E.shape[0]))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "where", "attribute", "wrong"), MUTATIONS)
def test_theorems_notice_what_is_wrong(monkeypatch, name, where, attribute, wrong):
    monkeypatch.setattr(where, attribute, wrong(getattr(where, attribute)))
    assert th.examine(th.THEOREMS[name], instances=20).held < 20


@pytest.mark.parametrize("exponent", [-170, 170])
def test_a_price_beyond_the_float_range_is_told(exponent):
    """Of a price that was rounded to 0 came the map of no price at all."""
    K, G, H = (gram(i, 4) for i in range(3))
    K = K * 10.0**exponent
    path = erasure_path(K, G, K_H=H)
    with pytest.raises(ValueError, match="price is beyond the range of float64"):
        path.keeping(2)
    assert path.keeping(4).price == 0.0
    other = erasure(K, G * 10.0**-exponent, 2, K_H=H * 10.0**exponent)
    np.testing.assert_allclose(other.theta, erasure(gram(0, 4), G, 2, K_H=H).theta, atol=1e-10)


def test_products_of_other_sizes_are_told_by_name():
    E = erasure(gram(0, 4), gram(1, 4), 2)
    for bad in (np.ones((3, 5)), np.ones(5), 2.0):
        with pytest.raises(ValueError, match=r"^Z must have 4 columns, and has shape \("):
            bad @ E
    for bad in (np.ones((5, 4)), np.ones(5), 2.0):
        with pytest.raises(ValueError, match=r"^omega must have 4 rows, and has shape \("):
            E @ bad
