"""Gram matrices and Hessians: exact conversion, symmetry to the bit, any layout, bounded memory."""

import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matrices import DTYPES, EPS, LAYOUTS, generators, orthonormal, typed_matrices

import immucond as ic


def assert_symmetric(a):
    assert a.dtype == np.float64
    assert np.array_equal(a, a.T)


def assert_product(got, a, b, rows):
    """got = a^T b, each entry within what rounding of its own sum explains."""
    a, b = a.astype(np.longdouble), b.astype(np.longdouble)
    error = np.abs(got - a.T @ b)
    allowed = (rows + 4) * EPS * (np.abs(a).T @ np.abs(b)) + np.finfo(np.float64).tiny
    assert (error <= allowed).all()


# ---- gram ----


@given(typed_matrices())
def test_gram_is_the_product_to_rounding_of_every_sum(X):
    got = ic.gram(X)
    assert got.shape == (X.shape[1], X.shape[1])
    assert_symmetric(got)
    assert_product(got, X, X, X.shape[0])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_integers_are_exact_in_every_dtype_and_layout(dtype, layout):
    rng = np.random.default_rng(1)
    top = 2 if dtype == "?" else 100
    X = rng.integers(0, top, size=(67, 35)).astype(dtype)
    expected = X.astype(np.int64).T @ X.astype(np.int64)
    assert np.array_equal(ic.gram(LAYOUTS[layout](X)), expected)


@pytest.mark.parametrize("layout", ["C", "Fortran", "sliced", "odd offset", "big-endian"])
def test_every_finite_float16_is_read_exactly(layout):
    values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    values = values[np.isfinite(values)]
    assert (np.abs(values[values != 0]) < np.finfo(np.float16).tiny).sum() == 2 * 1023  # subnormals
    for chunk in np.array_split(values, 128):
        X = np.concatenate([np.ones(1, np.float16), chunk])[np.newaxis]
        # A row (1, x) has the Gram matrix (1, x; x, x^2): its first row tells what was read.
        assert np.array_equal(ic.gram(LAYOUTS[layout](X))[0, 1:], chunk.astype(np.float64))


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_the_extreme_integers_are_read_exactly(dtype):
    info = np.iinfo(dtype)
    ends = [max(info.min, -(2**53)), min(info.max, 2**53)]
    X = np.array([[1, *ends]], dtype)
    assert ic.gram(X)[0].tolist() == [1.0, *map(float, ends)]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_ends_of_the_float_range_are_read_exactly(dtype):
    info = np.finfo(dtype)
    X = np.array([[1, info.smallest_subnormal, info.tiny, 3 * info.smallest_subnormal]], dtype)
    assert np.array_equal(ic.gram(X)[0], X[0].astype(np.float64))


@given(generators, st.sampled_from(DTYPES), st.integers(1, 30), st.integers(1, 30))
def test_broadcast_views_are_read_through_zero_strides(rng, dtype, rows, cols):
    row = rng.integers(0, 2, size=(1, cols)).astype(dtype)
    for view in (np.broadcast_to(row, (rows, cols)), np.broadcast_to(row, (rows, cols)).T):
        whole = view.astype(np.int64)
        assert np.array_equal(ic.gram(view), whole.T @ whole)


def test_overlapping_windows():
    windows = np.lib.stride_tricks.sliding_window_view(np.arange(50.0), 7)
    assert np.array_equal(ic.gram(windows), windows.T @ windows)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (5000, 3), (3, 700), (1025, 65)])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("layout", ["C", "Fortran", "sliced"])
def test_shapes_across_block_boundaries(shape, dtype, layout):
    X = np.random.default_rng(2).normal(size=shape).astype(dtype)
    got = ic.gram(LAYOUTS[layout](X))
    assert_symmetric(got)
    assert_product(got, X, X, shape[0])


@pytest.mark.parametrize("dtype", ["f2", "f4"])
def test_low_precision_is_accumulated_in_float64(dtype):
    # 2^24 + 1 is not a float32, and 2^24 no float16.
    X = np.array([[4096.0], *[[1.0]] * 3], dtype)
    assert ic.gram(X) == 2**24 + 3


def test_lists_and_sequences():
    assert ic.gram([[1, 2], [3, 4]]).tolist() == [[10, 14], [14, 20]]
    assert ic.gram(([True, False], [True, True])).tolist() == [[2, 1], [1, 1]]
    assert ic.gram([range(3)]).tolist() == [[0, 0, 0], [0, 1, 2], [0, 2, 4]]


def test_results_are_fresh_and_writeable():
    X = np.eye(3)
    for result in (ic.gram(X), ic.hessian(X, X), ic.feature_hessian(X, X)):
        assert result.flags.writeable
        assert result.flags.c_contiguous
        assert not np.shares_memory(result, X)


def test_squares_below_the_range_are_zero_and_above_it_an_error():
    assert ic.gram([[1e-170]]) == 0.0
    with pytest.raises(OverflowError, match="X"):
        ic.gram([[1e155]])
    with pytest.raises(OverflowError, match="X"):
        ic.gram(np.full((1000, 2), 1e153))  # every square is finite, their sum is not


# ---- hessian ----


@given(typed_matrices(20), generators)
def test_hessian(theta, rng):
    K = ic.gram(rng.normal(size=(30, theta.shape[0])))
    got = ic.hessian(theta, K)
    assert_symmetric(got)
    t = theta.astype(np.longdouble)
    allowed = 4 * (len(K) + 4) * EPS * (np.abs(t).T @ np.abs(K) @ np.abs(t))
    assert (np.abs(got - t.T @ K @ t) <= allowed + 1e-300).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hessian_in_every_layout(layout):
    rng = np.random.default_rng(3)
    theta = rng.integers(-5, 6, size=(9, 4))
    K = rng.integers(-5, 6, size=(9, 9))
    K = K + K.T  # symmetric is enough, semidefinite is not asked for
    expected = theta.T @ K @ theta
    change = LAYOUTS[layout]
    for dtype in ("i2", "f2", "f4", "f8"):
        got = ic.hessian(change(theta.astype(dtype)), change(K.astype(dtype)))
        assert np.array_equal(got, expected)


def test_hessian_takes_the_symmetric_part_of_a_matrix_symmetric_to_rounding():
    K = np.array([[2.0, 1.0 + EPS], [1.0, 3.0]])
    got = ic.hessian(np.eye(2), K)
    assert_symmetric(got)
    assert abs(got[0, 1] - 1.0) <= EPS


@pytest.mark.parametrize(
    ("by_theta", "by_gram"), [(-660, 1000), (660, -1000), (-530, 1010), (500, 0), (-500, 0)]
)
def test_hessian_scales_theta_and_gram_apart(by_theta, by_gram):
    rng = np.random.default_rng(6)
    theta = rng.integers(1, 5, size=(4, 3)).astype(float)
    K = ic.gram(rng.integers(1, 5, size=(9, 4)))
    got = ic.hessian(np.ldexp(theta, by_theta), np.ldexp(K, by_gram))
    assert np.array_equal(got, np.ldexp(theta.T @ K @ theta, 2 * by_theta + by_gram))


@pytest.mark.parametrize("K", [[[0.0, 0.4], [0.4, 0.0]], [[0.0, 4.0], [4.0, 0.0]], np.eye(2)])
def test_hessian_beyond_the_range_is_an_overflow_error(K):
    with pytest.raises(OverflowError, match="theta"):
        ic.hessian(1e200 * np.eye(2), K)


# ---- feature_hessian ----


@given(
    typed_matrices(), st.integers(1, 40), st.sampled_from(["auto", "features", "gram"]), generators
)
def test_feature_hessian(X, m, method, rng):
    theta = rng.normal(size=(X.shape[1], m))
    got = ic.feature_hessian(X, theta, method=method)
    assert_symmetric(got)
    X, theta = X.astype(np.longdouble), theta.astype(np.longdouble)
    size = np.abs(X) @ np.abs(theta)
    n, d = X.shape
    allowed = 4 * (n + 2 * d + 4) * EPS * (size.T @ size)
    assert (np.abs(got - (X @ theta).T @ (X @ theta)) <= allowed + 1e-300).all()


@given(generators, st.integers(1, 300), st.integers(1, 20), st.integers(1, 40))
def test_the_two_routes_agree(rng, n, d, m):
    X, theta = rng.normal(size=(n, d)), rng.normal(size=(d, m))
    by_features = ic.feature_hessian(X, theta, method="features")
    by_gram = ic.feature_hessian(X, theta, method="gram")
    size = np.abs(X) @ np.abs(theta)
    assert (np.abs(by_features - by_gram) <= 8 * (n + 2 * d) * EPS * (size.T @ size)).all()


@pytest.mark.parametrize("smallest", [1e-4, 1e-7, 1e-9])
def test_auto_keeps_the_digits_that_the_gram_route_cancels(smallest):
    rng = np.random.default_rng(4)
    d = 12
    sigma = np.geomspace(1.0, smallest, d)
    q = orthonormal(rng, d, d)
    X = (orthonormal(rng, 4000, d) * sigma) @ q.T
    theta = q / sigma  # whitens the features: each row of theta^T K theta cancels down to I
    exact = (X.astype(np.longdouble) @ theta).T @ (X.astype(np.longdouble) @ theta)

    def error(method):
        return float(np.abs(ic.feature_hessian(X, theta, method=method) - exact).max())

    assert error("auto") < 1e-6
    assert error("features") <= 100 * EPS / smallest
    if smallest <= 1e-7:
        assert error("gram") > 1e-6  # else this test would show nothing


@pytest.mark.parametrize(
    ("row", "theta"),
    [
        ([1e300, 1e-20], [[1e-180, 0.0], [0.0, 1e20]]),
        ([1e300, 1e-20], [[0.0], [1e-90]]),
        ([1e170, 1.0], [[1e-170], [1.0]]),
        ([1e-170, 1.0], [[1e170, 0.0], [1e-5, 1.0]]),
    ],
)
@pytest.mark.parametrize("rows", [1, 1000])
def test_entries_out_of_range_whose_products_are_not(row, theta, rows):
    truth = rows * np.outer(np.array(row) @ theta, np.array(row) @ theta)
    X = np.tile(row, (rows, 1))
    for method in ("auto", "features"):
        got = ic.feature_hessian(X, theta, method=method)
        assert np.allclose(got, truth, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("method", ["features", "gram", "auto"])
@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_every_route_survives_a_gram_matrix_beyond_the_range(method, scale):
    rng = np.random.default_rng(5)
    X, theta = rng.normal(size=(200, 3)), rng.normal(size=(3, 3))
    got = ic.feature_hessian(X * scale, theta / scale, method=method)
    assert np.allclose(got, (X @ theta).T @ (X @ theta), rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", ["auto", "features", "gram"])
def test_nan_is_told_even_where_theta_is_zero(method):
    X = np.ones((50, 3))
    X[17, 2] = np.nan
    theta = np.array([[1.0], [1.0], [0.0]])
    with pytest.raises(ValueError, match="X must be finite, and holds NaN at row 17, column 2"):
        ic.feature_hessian(X, theta, method=method)


# ---- memory ----


@pytest.mark.parametrize(
    "X",
    [
        "np.ones((100_000, 64), np.float32)",
        "np.ones((200_000, 64), np.float16)",
        "np.ones((100_000, 64), np.float32, order='F')",
        "np.ones((50_000, 128))[:, ::2]",
        "np.ones((50_000, 64), order='F')[::-1]",
        "np.broadcast_to(np.ones(64), (100_000, 64))",
    ],
)
def test_extra_memory_does_not_grow_with_the_rows(X):
    script = textwrap.dedent(
        f"""
        import os, resource
        import numpy as np
        import immucond as ic

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

        theta = np.eye(64)
        data = {X}
        data.sum()  # a page that nobody has read is not in memory
        for call in (
            lambda X: ic.gram(X),
            lambda X: ic.feature_hessian(X, theta, method="features"),
            lambda X: ic.GramAccumulator(64).update(X),
            lambda X: ic.feature_extreme_pairs(X, method="qr"),
        ):
            child = os.fork()  # whose peak is its own
            if child == 0:
                call(data[:3000])  # the BLAS allocates its own buffers at the first call
                before = peak()
                call(data)
                print(peak() - before, flush=True)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        """
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    extra = [int(line) for line in run.stdout.split()]
    assert len(extra) == 4
    assert max(extra) <= 16 * 2**20  # a copy, in their own type even, takes 24 MiB


# ---- GramAccumulator ----


@given(typed_matrices(25), generators)
def test_accumulator_equals_one_shot(X, rng):
    cuts = np.sort(rng.integers(0, len(X) + 1, size=3))
    blocks = [block for block in np.split(X, cuts) if len(block)]
    stream, halves = ic.GramAccumulator(X.shape[1]), []
    for block in blocks:
        assert stream.update(block) is stream
        halves.append(ic.GramAccumulator(X.shape[1]).update(block))
    merged = ic.GramAccumulator(X.shape[1])
    for half in halves:
        assert merged.merge(half) is merged
    for accumulator in (stream, merged, pickle.loads(pickle.dumps(stream))):
        assert accumulator.count == len(X)
        assert_symmetric(accumulator.gram)
        assert_product(accumulator.gram, X, X, len(X) + len(blocks))
