"""Accumulators: any blocks, any tree of merges and any file in between, one certified answer."""

import copy
import math
import os
import pickle
import signal
import sys

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import exact_general, generators, on_grid, orthonormal, quiet, typed_matrices
from truth import DIGITS, assert_certified

import immucond as ic
from immucond import _gram
from immucond._products import two_sum
from immucond._rank import default_rtol

KINDS = (ic.GramAccumulator, ic.TriangleAccumulator)
every_kind = pytest.mark.parametrize("kind", KINDS)


class Deep(ic.TriangleAccumulator):
    """Leaves so small that a few rows make a deep tree."""

    def __init__(self, d):
        super().__init__(d)
        self._leaf = d + 1


def held(accumulator):
    return getattr(accumulator, "gram" if isinstance(accumulator, ic.GramAccumulator) else "R")


def same(one, other):
    assert one.count == other.count
    assert held(one).tobytes() == held(other).tobytes()
    if one.count and np.any(held(one)):
        mine, theirs = quiet(one.pairs), quiet(other.pairs)
        assert (mine.rank, mine.sigma_min) == (theirs.rank, theirs.sigma_min)
        assert (mine.bound_max, mine.bound_min) == (theirs.bound_max, theirs.bound_min)


def cut(X, rng, blocks):
    return np.split(X, np.sort(rng.integers(0, len(X) + 1, size=blocks - 1)))


def merged(kind, blocks, rng):
    """One accumulator a block, merged in pairs at random: any order and any tree."""
    trees = [kind(blocks[0].shape[1]).update(block) for block in blocks]
    while len(trees) > 1:
        other = trees.pop(int(rng.integers(len(trees))))
        trees[int(rng.integers(len(trees)))].merge(other)
    return trees[0]


def true_eigenvalues_of_rows(X):
    """Of X^T X for exactly these rows, to 60 digits, descending."""
    # Whole numbers, so that the sums are exact.
    least = min((math.frexp(x)[1] - 53 for x in X.ravel().tolist() if x), default=0)
    whole = np.array(
        [
            [int(m * 2**53) << e - 53 - least if m else 0 for m, e in map(math.frexp, row)]
            for row in X.astype(np.float64).tolist()
        ],
        dtype=object,
    )
    squares = whole.T @ whole
    with mpmath.workdps(6 * DIGITS):
        exact = mpmath.matrix([[mpmath.ldexp(x, 2 * least) for x in row] for row in squares])
        return sorted(mpmath.eigsy(exact, eigvals_only=True), reverse=True)


def true_rank(truth, d):
    """How many count as nonzero; None where one is so near the tolerance that it may do or not."""
    cut_at = default_rtol((d, d), "float64", "features") ** 2 * truth[0]
    if any(1e-4 * cut_at < value < 1e4 * cut_at for value in truth):
        return None
    return sum(value > cut_at for value in truth)


# ---- what both are ----


@every_kind
def test_starts_empty_and_hands_out_copies(kind):
    accumulator = kind(2)
    assert accumulator.count == 0
    assert held(accumulator).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match=rf"{kind.__name__}\(d=2, count=0\) has seen no rows"):
        accumulator.pairs()
    accumulator.update([[1, 2]])
    before = held(accumulator).copy()
    held(accumulator)[:] = -1
    assert np.array_equal(held(accumulator), before)
    assert repr(accumulator) == f"{kind.__name__}(d=2, count=1)"


@every_kind
def test_no_rows_add_nothing(kind):
    accumulator = kind(2).update(np.empty((0, 2), np.float16))
    same(accumulator, kind(2))
    accumulator.update([[1.0, 2.0]]).update(np.empty((0, 2), np.float16)).merge(kind(2))
    same(accumulator, kind(2).update([[1.0, 2.0]]))
    with pytest.raises(ValueError, match="at least one entry"):
        accumulator.update(np.empty((0, 3)))


def test_r_is_that_of_all_rows_after_it_was_asked_for():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 3))
    asked = Deep(3)
    for start in range(0, 300, 7):
        asked.update(rows[start : start + 7])
        assert np.array_equal(asked.R, Deep(3).update(rows[: start + 7]).R)
        assert np.array_equal(pickle.loads(pickle.dumps(asked)).R, asked.R)
    assert np.array_equal(copy.copy(asked).merge(asked).R, Deep(3).update(rows).merge(asked).R)


@every_kind
def test_merging_with_itself_doubles(kind):
    accumulator = kind(2).update([[1, 2], [0, 1]])
    accumulator.merge(accumulator)
    same(accumulator, kind(2).update([[1, 2], [0, 1]] * 2))


@every_kind
@pytest.mark.parametrize(
    ("block", "error"),
    [
        ([[1.0, np.nan]], ValueError),
        ([[np.inf, 1.0]], ValueError),
        ([[1.0, 2.0, 3.0]], ValueError),
        ([1.0, 2.0], ValueError),
        ([[1j, 2.0]], TypeError),
        ([["a", "b"]], TypeError),
        ([[1.7e308, 1.0]], OverflowError),
        (np.vstack([np.ones((9000, 2)), [[-np.inf, 1.0]]]), ValueError),  # after some leaves
        (np.vstack([np.ones((9000, 2)), [[-1.7e308, 1.0]]]), OverflowError),
    ],
)
def test_a_refused_block_leaves_it_as_it_was(kind, block, error):
    accumulator = kind(2).update([[1.2e154, 3.0]])
    with pytest.raises(error):
        accumulator.update(block)
    same(accumulator, kind(2).update([[1.2e154, 3.0]]))


def test_refused_rows_are_named():
    accumulator = ic.TriangleAccumulator(2)
    with pytest.raises(ValueError, match="X must be finite, and holds NaN at row 1, column 0"):
        accumulator.update(np.array([[1, 2], [np.nan, 1]], np.float32))
    with pytest.raises(OverflowError, match=r"X holds -1\.7e\+308, beyond 1\.1e\+301; scale"):
        accumulator.update([[-1.7e308, 0.0]])


def test_sums_of_squares_that_overflow_leave_it_as_it_was():
    accumulator = ic.GramAccumulator(1).update([[1.2e154]])
    for add in (
        lambda: accumulator.update([[1.2e154]]),
        lambda: accumulator.merge(ic.GramAccumulator(1).update([[1.2e154]])),
    ):
        with pytest.raises(OverflowError, match=r"passes 1\.8e308"):
            add()
        same(accumulator, ic.GramAccumulator(1).update([[1.2e154]]))


@every_kind
def test_others_are_refused(kind):
    accumulator = kind(1)
    with pytest.raises(ValueError, match="other must have width 1, and has 2"):
        accumulator.merge(kind(2))
    with pytest.raises(TypeError, match=f"other must be a {kind.__name__}, and is ndarray"):
        accumulator.merge(np.eye(1))
    with pytest.raises(TypeError, match=f"other must be a {kind.__name__}, and is "):
        accumulator.merge(KINDS[kind is KINDS[0]](1))


@every_kind
def test_the_dtype_of_the_rows_sets_the_tolerance(kind):
    rng = np.random.default_rng(0)
    # Five singular values that float64 knows, and that might be the rounding of float32.
    sigma = np.where(np.arange(8) < 3, 1.0, 5e-7) * np.linspace(1.0, 1.2, 8)
    Z = (orthonormal(rng, 400, 8) * sigma @ orthonormal(rng, 8, 8).T).astype(np.float32)

    def rank(accumulator, **keywords):
        return quiet(accumulator.pairs, **keywords).rank

    assert rank(kind(8).update(Z.astype(float))) == 8
    single = kind(8).update(Z)
    assert rank(single) == 3 == quiet(ic.feature_extreme_pairs, Z).rank
    # The coarsest of all, wherever it came.
    for mixed in (
        kind(8).update(Z[:200]).update(Z[200:].astype(float)),
        kind(8).update(Z.astype(float)).merge(kind(8).update(Z[:1])),
        kind(8).update(np.zeros((2, 8), np.int64)).merge(single),
        pickle.loads(pickle.dumps(single)),
    ):
        assert rank(mixed) == 3
    assert rank(single, computed_in="float64") == 8
    assert rank(single, rank=8) == 8
    assert rank(single, rtol=0.0) == 8
    assert rank(kind(8).update(Z.astype(float)), computed_in="float32") == 3


def test_half_precision_is_told_of():
    Z = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float16)
    Z[:, 3] = Z[:, 2] * np.float16(1.001)
    by_rows = quiet(ic.feature_extreme_pairs, Z)
    with pytest.warns(ic.AccuracyWarning, match="float16 were rounded"):
        assert ic.TriangleAccumulator(4).update(Z).pairs().rank == by_rows.rank == 3


@every_kind
def test_keywords_of_the_search_are_passed_on(kind):
    accumulator = kind(30).update(np.diag(np.arange(1.0, 31.0)))
    first = accumulator.pairs(method="lanczos", tol=1e-8)
    assert "lanczos" in first.method
    assert np.isclose(accumulator.pairs(start=first).condition_number, 900.0)
    with pytest.raises(ValueError, match="start must be the pairs of one matrix"):
        kind(2).update(np.diag([2.0, 1.0])).pairs(start=first)
    with pytest.raises(ValueError, match="method must be one of"):
        accumulator.pairs(method="none")
    with pytest.raises(TypeError, match="nonsense"):
        accumulator.pairs(nonsense=1)


@every_kind
def test_an_undetermined_end_is_told_of(kind):
    lost = {ic.GramAccumulator: 1e-8, ic.TriangleAccumulator: 1e-15}[kind]
    X = np.random.default_rng(0).normal(size=(6000, 2)) @ np.array([[1.0, 1.0], [0.0, lost]])
    with pytest.warns(ic.AccuracyWarning, match="not determined"):
        pairs = kind(2).update(X).pairs(rank=2)
    assert not pairs.determined_min


@every_kind
def test_zeros_have_no_pairs(kind):
    with pytest.raises(ValueError, match="has rank 0"):
        kind(3).update(np.zeros((5, 3))).pairs()


@every_kind
def test_numpy_may_raise_at_underflow(kind):
    rows = np.array([[1.0, 1e-160], [1e-170, 1.0]])
    expected = quiet(kind(2).update(rows).pairs)
    with np.errstate(all="raise"):
        found = quiet(kind(2).update(rows).pairs)
    assert (found.sigma_min, found.bound_min) == (expected.sigma_min, expected.bound_min)


@every_kind
def test_a_stream_may_reuse_its_memory(kind):
    X = np.random.default_rng(0).normal(size=(130, 20))
    total, buffer = kind(20), np.empty((13, 20))  # fewer rows than columns
    for block in np.split(X, 10):
        buffer[...] = block
        total.update(buffer)
    buffer[...] = np.nan
    found = held(total) if kind is ic.GramAccumulator else total.R.T @ total.R
    assert np.allclose(found, X.T @ X, rtol=1e-12, atol=1e-12)


# ---- copies and files ----


def by_pickle(accumulator, folder):
    return pickle.loads(pickle.dumps(accumulator))


def by_file(accumulator, folder):
    path = folder / "moments.safetensors"
    accumulator.to_safetensors(path)
    assert os.listdir(folder) == [path.name]
    return type(accumulator).from_safetensors(path)


@every_kind
@pytest.mark.parametrize("rows", [0, 1, 2047, 2048, 9000])
@pytest.mark.parametrize("through", [by_pickle, by_file, lambda a, _: copy.copy(a)])
def test_a_copy_goes_on_to_the_same_bits_apart(kind, rows, through, tmp_path):
    rng = np.random.default_rng(rows)
    X, more = rng.normal(size=(rows, 4)), rng.normal(size=(3000, 4)).astype(np.float32)
    accumulator, unbroken = kind(4).update(X), kind(4).update(X).update(more)
    again = through(accumulator, tmp_path)
    same(again, accumulator)
    same(again.update(more), unbroken)
    same(accumulator, kind(4).update(X))
    assert again.pairs(rtol=1e-3).rank == 4


def written(path, of, changes):
    """A file like those of an accumulator of these rows, with changes."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    of(2).update(np.arange(9002.0).reshape(-1, 2)).to_safetensors(path)
    with safe_open(path, "np") as file:
        arrays, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    assert (about["count"], about["dtype"], about["version"]) == ("4501", "float64", "1")
    assert about["kind"] == f"immucond.{of.__name__}"
    for name, change in changes.items():
        home = arrays if name in arrays else about
        home[name] = change(home[name]) if callable(change) else change
    save_file(arrays, path, {name: text for name, text in about.items() if text is not None})
    return path


def with_entry(value):
    def change(array):
        array = array.copy()
        array[..., -1, 0] = value
        return array

    return change


LIES = {
    "other kind": (None, {"kind": "immucond.Recording"}, "must hold immucond.*, and holds"),
    "no kind": (None, {"kind": None}, "and does not say what it holds"),
    "other version": (None, {"version": "2"}, "must be of version 1, and is of version 2"),
    "no count": (None, {"count": None}, "count must be a whole number, and is ''"),
    "odd count": (None, {"count": "-3"}, "count must be a whole number, and is '-3'"),
    "no dtype": (None, {"dtype": ""}, "there must be a dtype"),
    "other dtype": (None, {"dtype": "complex64"}, "computed_in must be one of"),
    "gram: nan": (0, {"gram": with_entry(np.nan)}, "gram in .* must be finite"),
    "gram: skew": (0, {"gram": with_entry(1.0)}, "gram must be symmetric"),
    "gram: oblong": (0, {"gram": lambda K: K[:1]}, "gram must be symmetric, and has shape"),
    "gram: rest": (0, {"rest": np.zeros((3, 3))}, "rest must be symmetric, and has shape"),
    "gram: negative": (0, {"gram": lambda K: -K}, "gram must be a sum of 4501 squares"),
    "gram: no square": (0, {"gram": lambda K: K + 1e9 * (1 - np.eye(2)) * K.max()}, "semidefinite"),
    "gram: single": (0, {"gram": lambda K: K.astype("f4")}, "must hold the arrays"),
    "gram: more": (0, {"count": "0", "dtype": ""}, "gram must be a sum of 0 squares"),
    "triangle: nan": (1, {"triangles": with_entry(np.nan)}, "triangles in .* must be finite"),
    "triangle: nan row": (1, {"rows": with_entry(np.inf)}, "rows in .* must be finite"),
    "triangle: full": (1, {"triangles": with_entry(1.0)}, "zero below their diagonals"),
    "triangle: fewer": (1, {"triangles": lambda R: R[:, :1]}, "triangles must have shape"),
    "triangle: levels": (1, {"levels": np.array([-1])}, "levels must descend"),
    "triangle: more levels": (1, {"levels": np.arange(3)}, "triangles must have shape"),
    "triangle: rows": (1, {"rows": np.zeros((4096, 2))}, "rows must be fewer than 4096"),
    "triangle: width": (1, {"rows": np.zeros((3, 5))}, "triangles must have shape"),
    "triangle: vector": (1, {"rows": np.zeros(2)}, r"rows must be a matrix.*\(2,\)"),
    "triangle: number": (1, {"rows": np.array(2.0)}, r"rows must be a matrix.*\(\)"),
    "triangle: count": (1, {"count": "7"}, "count must be that of the rows held, and is 7"),
}


@pytest.mark.parametrize(("at", "changes", "told"), LIES.values(), ids=LIES)
def test_files_of_something_else_are_refused(at, changes, told, tmp_path):
    for kind in KINDS if at is None else KINDS[at : at + 1]:
        path = written(tmp_path / "a.safetensors", kind, changes)
        with pytest.raises(ValueError, match=told) as caught:
            kind.from_safetensors(path)
        assert str(path) in str(caught.value)


@every_kind
def test_files_that_are_none_are_refused(kind, tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError):
        kind.from_safetensors(path)
    with pytest.raises(IsADirectoryError):
        kind.from_safetensors(tmp_path)
    KINDS[kind is KINDS[0]](2).to_safetensors(path)
    with pytest.raises(ValueError, match=f"must hold immucond.{kind.__name__}, and holds immucond"):
        kind.from_safetensors(path)
    whole = path.read_bytes()
    for data in (b"", b"hello", whole[:-1], whole[:40]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is no safetensors file"):
            kind.from_safetensors(path)


@every_kind
def test_files_need_an_extra(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r'pip install "immucond\[safetensors\]"'):
        kind(2).to_safetensors(tmp_path / "a")
    with pytest.raises(ImportError, match=r'pip install "immucond\[safetensors\]"'):
        kind.from_safetensors(tmp_path / "a")
    assert not os.listdir(tmp_path)


# ---- R ----


def unique(R):
    return R * np.where(np.diag(R) < 0, -1.0, 1.0)[:, None]


@given(generators, st.integers(1, 9), st.integers(0, 60))
def test_r_is_the_factor_with_a_positive_diagonal(rng, d, rows):
    X = rng.normal(size=(rows, d))
    for kind in (ic.TriangleAccumulator, Deep):
        R = kind(d).update(X).R
        assert R.shape == (d, d)
        assert np.array_equal(R, np.triu(R))
        assert not np.signbit(R[R == 0]).any()
        assert not np.any(R[rows:])
        assert (np.diag(R)[:rows] > 0).all()
        if rows:
            wanted = unique(np.linalg.qr(X, mode="r")[:, : min(rows, d)])
            assert np.allclose(R[:rows, : min(rows, d)], wanted, rtol=1e-9, atol=1e-9)
            assert np.allclose(R.T @ R, X.T @ X, rtol=1e-12, atol=1e-12)


@given(typed_matrices(25), generators, st.integers(1, 6))
def test_the_same_rows_in_any_blocks_give_the_same_bits(X, rng, blocks):
    for kind in (ic.TriangleAccumulator, Deep):
        once = kind(X.shape[1]).update(X)
        stream = kind(X.shape[1])
        for block in cut(X, rng, blocks):
            assert stream.update(block) is stream
        same(stream, once)
        if len(X) <= 25:
            same(kind(X.shape[1]).update(X.astype(float)), kind(X.shape[1]).update(X.astype(float)))


def test_large_blocks_and_single_rows_give_the_same_bits():
    X = np.random.default_rng(0).normal(size=(5000, 6)).astype(np.float32)
    single = ic.TriangleAccumulator(6)
    for row in X:
        single.update(row[None])
    same(single, ic.TriangleAccumulator(6).update(np.asfortranarray(X)))


@every_kind
def test_the_same_tree_gives_the_same_bits(kind):
    X = np.random.default_rng(0).normal(size=(20_000, 5))
    blocks = cut(X, np.random.default_rng(1), 17)
    trees = [merged(kind, blocks, np.random.default_rng(2)) for _ in range(2)]
    same(*trees)


@given(generators, st.integers(1, 300))
def test_what_is_held_grows_with_the_logarithm_of_the_rows(rng, blocks):
    d = 3
    accumulator = merged(Deep, [rng.normal(size=(7, d)) for _ in range(blocks)], rng)
    numbers = sum(array.size for array in accumulator._arrays().values())
    assert numbers <= (d + 1) * d + (d * d + 1) * (1 + math.log2(7 * blocks))


# ---- certificates ----


def graded(rng, d, rows):
    """Kappa(H) up to 1e24, rotated: no scaling of columns undoes it."""
    sigma = np.geomspace(1.0, 10.0 ** -rng.uniform(0, 12), d)
    return (rng.normal(size=(rows, d)) * sigma) @ orthonormal(rng, d, d).T


def graded_by_columns(rng, d, rows):
    return rng.normal(size=(rows, d)) * rng.permutation(np.geomspace(1.0, 1e-12, d))


def duplicate_and_dead_columns(rng, d, rows):
    X = rng.normal(size=(rows, d))
    X[:, rng.integers(0, d, d // 2)] = X[:, :1]
    X[:, rng.integers(0, d)] = 0.0
    return X


def nearly_equal_columns(rng, d, rows):
    X = np.tile(rng.uniform(0.5, 1.0, (rows, 1)), (1, d))
    return X + 10.0 ** -rng.uniform(1, 11) * rng.normal(size=(rows, d))


def equal_rows(rng, d, rows):
    """Rounding has one sign."""
    return np.tile(rng.uniform(0.1, 3.0, (1 + rows // 200, d)), (200, 1))[:rows]


def blocks_of_other_scales(rng, d, rows):
    X = rng.normal(size=(rows, d))
    X[: rows // 2] *= 1e-75
    X[rows // 2 :, 0] *= 1e75
    X[rows // 2 :, 1:] = 0.0
    return rng.permutation(X) if rng.random() < 0.5 else X


def tiny_beside_huge(rng, d, rows):
    X = rng.normal(size=(rows, d)) * 1e9
    X[:, -1] = 0.0
    X[0] = np.eye(d)[-1]
    return X


def far_scales(rng, d, rows):
    return graded(rng, d, rows) * rng.choice([1e-140, 1e140, 3e-150])


ROWS = (
    graded, graded_by_columns, duplicate_and_dead_columns, nearly_equal_columns, equal_rows,
    blocks_of_other_scales, tiny_beside_huge, far_scales,
)  # fmt: skip


@settings(max_examples=25)
@given(generators, st.integers(2, 5), st.integers(2, 90), st.integers(1, 12))
@pytest.mark.parametrize("rows_like", ROWS)
def test_any_tree_holds_the_truth(rows_like, rng, d, rows, blocks):
    """Of the rows themselves, not of R; and the trees agree on the rank."""
    X = rows_like(rng, d, rows)
    if not np.any(X):
        return
    truth = true_eigenvalues_of_rows(X)
    rank = true_rank(truth, d)
    for kind in (Deep, ic.TriangleAccumulator):
        for accumulator in (kind(d).update(X), merged(kind, cut(X, rng, blocks), rng)):
            for again in ({}, {"rows": cut(X, rng, blocks)}):
                pairs = quiet(accumulator.pairs, **again)
                assert_certified(pairs, truth)
                assert rank is None or pairs.rank == rank
    pairs = quiet(merged(ic.GramAccumulator, cut(X, rng, blocks), rng).pairs)
    assert_certified(pairs, truth)


@pytest.mark.parametrize("rows_like", [graded, equal_rows, tiny_beside_huge])
def test_a_thousand_blocks_of_one_row(rows_like):
    rng = np.random.default_rng(0)
    X = rows_like(rng, 4, 1000)
    truth = true_eigenvalues_of_rows(X)
    found = []
    for kind in (Deep, ic.TriangleAccumulator):
        for _ in range(3):
            accumulator = merged(kind, np.split(X, 1000), rng)
            assert accumulator.count == 1000
            found.append(quiet(accumulator.pairs))
            assert_certified(found[-1], truth)
    assert len({pairs.rank for pairs in found}) == 1


def test_a_chain_of_tiny_merges_onto_a_huge_one():
    rng = np.random.default_rng(0)
    huge = np.tile(rng.uniform(0.5, 1.0, (1, 3)), (1000, 1)) + 1e-9 * rng.normal(size=(1000, 3))
    tiny = 1e-9 * rng.normal(size=(500, 3))
    total = Deep(3).update(huge)
    for row in tiny:
        total.merge(Deep(3).update(row[None]))
    pairs = total.pairs()
    assert_certified(pairs, true_eigenvalues_of_rows(np.vstack([huge, tiny])))
    assert pairs.rank == 3
    assert pairs.determined_min


@pytest.mark.parametrize("d", [2, 8, 40])
@pytest.mark.parametrize("kappa", [1e4, 1e12])
def test_spectra_known_to_the_bit(d, kappa):
    """Many copies of a matrix with exactly these singular values: theirs times a power of two."""
    sigma = on_grid(np.geomspace(1.0, 1.0 / kappa, d))
    X = np.tile(exact_general(sigma, "tall"), (64, 1))
    rng = np.random.default_rng(d)
    truth = [mpmath.mpf(64) * mpmath.mpf(s) ** 2 for s in sigma.tolist()]
    for accumulator in (
        ic.TriangleAccumulator(d).update(X),
        merged(ic.TriangleAccumulator, cut(X, rng, 9), rng),
        merged(Deep, cut(X, rng, 9), rng),
    ):
        pairs = quiet(accumulator.pairs)
        assert_certified(pairs, truth)
        assert pairs.rank == d


@pytest.mark.parametrize("d", [3, 64])
def test_columns_of_other_scales_cost_no_digits(d):
    rng = np.random.default_rng(0)
    X = np.tile(rng.normal(size=(2 * d, d)), (20, 1)) * np.geomspace(1.0, 1e-12, d)
    pairs = merged(ic.TriangleAccumulator, cut(X, rng, 7), rng).pairs()
    assert pairs.rank == d
    assert 1e22 < pairs.condition_number < 1e27
    assert pairs.bound_min < 1e-9 * pairs.sigma_min
    if d == 3:
        assert_certified(pairs, true_eigenvalues_of_rows(X))


def test_twice_the_digits_of_a_gram_matrix():
    """Kappa(H) 1e24, rotated: a Gram matrix has lost all of it."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(3000, 6)) * np.geomspace(1.0, 1e-12, 6)) @ orthonormal(rng, 6, 6).T
    truth = true_eigenvalues_of_rows(X)
    accumulator = merged(ic.TriangleAccumulator, cut(X, rng, 8), rng)
    pairs = accumulator.pairs()
    assert pairs.rank == 6
    assert pairs.determined_min
    assert abs(pairs.sigma_min - truth[-1]) < 1e-3 * truth[-1]
    refined = accumulator.pairs(rows=np.array_split(X, 5))
    assert_certified(refined, truth)
    assert refined.bound_min < 1e-9 * refined.sigma_min
    assert abs(refined.sigma_min - truth[-1]) < 1e-14 * truth[-1]
    assert quiet(ic.GramAccumulator(6).update(X).pairs).rank < 6


@pytest.mark.parametrize("scale", [1e-152, 1e-157, 1e-161, 1e-310])
def test_squares_that_underflow_are_allowed_for(scale):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3)) * scale
    truth = true_eigenvalues_of_rows(X)
    blocks = cut(X, rng, 7)
    triangle = merged(ic.TriangleAccumulator, blocks, rng)
    found = [quiet(triangle.pairs), quiet(triangle.pairs, rows=blocks)]
    if scale > 1e-200:
        found.append(quiet(merged(ic.GramAccumulator, blocks, rng).pairs))
    for pairs in found:
        for sigma, bound, true in (
            (pairs.sigma_max, pairs.bound_max, truth[0]),
            (pairs.sigma_min, pairs.bound_min, truth[-1]),
        ):
            assert abs(mpmath.mpf(sigma) - true) <= bound
    many = np.full((10001, 1), 1.5e-162)
    many[0] = 1e-160  # beside it the others' squares are nothing, and their sum is not
    pairs = quiet(ic.GramAccumulator(1).update(many).pairs)
    assert abs(mpmath.mpf(pairs.sigma_max) - true_eigenvalues_of_rows(many)[0]) <= pairs.bound_max


def test_sums_over_ranks_that_overflow_leave_it_as_it_was():
    accumulator = ic.GramAccumulator(1).update([[1e154]])
    packed = accumulator._packed()
    with pytest.raises(OverflowError, match="sum of squares"):
        accumulator._unpack(accumulator._joined(packed, packed), 1)
    assert accumulator.gram == 1e308


def test_rows_that_refine_are_those_that_were_accumulated():
    X = np.random.default_rng(0).normal(size=(50, 3))
    accumulator = ic.TriangleAccumulator(3).update(X)
    with pytest.raises(ValueError, match="rows must be the 50 that were accumulated, and are 49"):
        accumulator.pairs(rows=[X[1:]])
    with pytest.raises(ValueError, match="rows must have 3 columns, and a block has 2"):
        accumulator.pairs(rows=[X[:, :2]])
    with pytest.raises(ValueError, match="rows must be finite"):
        accumulator.pairs(rows=[np.full((50, 3), np.nan)])
    for others in (X * (1.0 + 1e-9), X[::-1] * np.array([1.0, 1.0, 1.001]), np.flip(X, axis=1)):
        with pytest.raises(ValueError, match="that were accumulated, and are others: where"):
            accumulator.pairs(rows=[others])
    fewer = ic.TriangleAccumulator(3).update(X[:2])
    assert fewer.pairs(rows=[X[:2]]).sigma_min == fewer.pairs().sigma_min


@given(generators, st.sampled_from(["two", "three"]))
@settings(max_examples=8)
def test_a_hundred_thousand_equal_rows(rng, name):
    d = {"two": 2, "three": 3}[name]
    pattern = rng.uniform(0.5, 1.0, (d, d))
    repeats = 1 << 15
    truth = [repeats * value for value in true_eigenvalues_of_rows(pattern)]
    blocks = cut(np.tile(pattern, (repeats, 1)), rng, 5)
    for kind in (ic.TriangleAccumulator, ic.GramAccumulator):
        pairs = quiet(merged(kind, blocks, rng).pairs)
        assert pairs.rank == d
        assert_certified(pairs, truth)


@pytest.mark.parametrize("rows", [1, 3, 40, 600, 9000])
def test_the_leading_columns_are_as_if_they_alone_had_come(rows):
    rng = np.random.default_rng(rows)
    X = rng.normal(size=(rows, 7)) * np.geomspace(1.0, 1e-9, 7)
    whole = ic.TriangleAccumulator(7).update(X)
    for d in (1, 4, 7):
        found, alone = whole.leading(d), ic.TriangleAccumulator(d).update(X[:, :d])
        assert found.count == rows
        size = np.linalg.norm(X[:, :d], axis=0)  # rounding is relative to the columns
        assert np.all(np.abs(found.R - alone.R) <= 1e-13 * size)
        mine, theirs = quiet(found.pairs), quiet(alone.pairs)
        assert mine.rank == theirs.rank
        assert abs(mine.sigma_min - theirs.sigma_min) <= mine.bound_min + theirs.bound_min
        more = rng.normal(size=(300, d))
        assert found.update(more).count == rows + 300
        assert np.allclose(found.R.T @ found.R, X[:, :d].T @ X[:, :d] + more.T @ more, rtol=1e-12)
    assert whole.count == rows
    for wrong in (0, 8):
        with pytest.raises(ValueError, match=r"d must be at (least 1|most the width, 7)"):
            whole.leading(wrong)


@pytest.mark.parametrize("d", [150, 200, 300])
@pytest.mark.parametrize("rows", [2, 3])
def test_equal_rows_of_many_columns(d, rows):
    """Where LAPACK reduces by blocks of columns, rounding of one sign leaves the most."""
    rng = np.random.default_rng(d)
    pattern = rng.uniform(0.1, 3.0, (rows, d))
    repeats = 8 * d // rows
    truth = [repeats * value for value in true_eigenvalues_of_rows(pattern.T)]
    X = np.tile(pattern, (repeats, 1))
    for accumulator in (
        ic.TriangleAccumulator(d).update(X),
        merged(ic.TriangleAccumulator, cut(X, rng, 4), rng),
        merged(ic.GramAccumulator, cut(X, rng, 4), rng),
    ):
        assert_certified(quiet(accumulator.pairs, rank=rows), truth)


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_rows_whose_squares_underflow_are_read(tmp_path, kind):
    """A product of two such entries may be all that is left."""
    rows = np.array([[1e-162, 3e-162]])
    kind(2).update(rows).to_safetensors(tmp_path / "a.safetensors")
    again = kind.from_safetensors(tmp_path / "a.safetensors")
    assert again.count == 1
    if kind is ic.GramAccumulator:
        np.testing.assert_array_equal(again.gram, ic.gram(rows))


@pytest.mark.parametrize("d", [1, 2, 5])
def test_rows_chosen_so_that_sums_lose_most(d):
    """One, then squares that each round to nothing beside it: all of them are lost in one go."""
    x = np.full(4096, math.sqrt(2.0**-53 * 0.999))
    x[::1024] = 1.0
    with mpmath.workdps(DIGITS):
        truth = d * sum(mpmath.mpf(entry) ** 2 for entry in x.tolist())
        for accumulator in (
            ic.GramAccumulator(d).update(np.repeat(x[:, None], d, axis=1)),
            ic.TriangleAccumulator(d).update(np.repeat(x[:, None], d, axis=1)),
        ):
            pairs = quiet(accumulator.pairs, rank=1)
            assert abs(pairs.sigma_max - truth) <= pairs.bound_max < 1e-12 * pairs.sigma_max


@every_kind
def test_few_rows_have_no_higher_rank(kind):
    few = kind(4).update(np.random.default_rng(0).normal(size=(2, 4)))
    assert quiet(few.pairs, rtol=1e-20).rank == 2
    with pytest.raises(ValueError, match=r"rank must be between 1 and 2 for shape \(2, 4\)"):
        few.pairs(rank=3)


@every_kind
def test_messages_are_about_the_rows(kind):
    with pytest.raises(ValueError, match=r"^X(\^T X)? has rank 0"):
        kind(2).update(np.zeros((3, 2))).pairs()
    with pytest.warns(ic.AccuracyWarning, match=r"of X\^T X is not determined"):
        kind(2).update(np.full((3, 2), 0.1)).pairs(rank=2)
    with pytest.warns(ic.DegenerateSpectrumWarning, match=r"of X\^T X is not simple"):
        kind(2).update(np.eye(2)).pairs()


@pytest.mark.parametrize("merge", [False, True])
def test_an_interrupt_leaves_no_half_of_the_rows(monkeypatch, merge):
    """Wide sums are added in place, by and by; after Ctrl-C there are all rows or none."""
    X = np.random.default_rng(0).normal(size=(300, 200))
    accumulator = ic.GramAccumulator(200).update(X[:100])
    other = ic.GramAccumulator(200).update(X[100:])
    calls = []

    def interrupted(a, b):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return two_sum(a, b)

    monkeypatch.setattr(_gram, "two_sum", interrupted)
    with pytest.raises(KeyboardInterrupt):
        accumulator.merge(other) if merge else accumulator.update(X[100:])
    assert len(calls) > 2
    assert accumulator.count == 300
    assert np.allclose(accumulator.gram, X.T @ X, rtol=0.0, atol=1e-10)
