"""Operators known by their products: SciPy's LinearOperator protocol."""

import numpy as np
import pytest
import scipy.fft
import scipy.linalg as sl
from matrices import exact_psd, on_grid, quiet
from scipy.sparse.linalg import LinearOperator, aslinearoperator, cg

import immucond as ic

RNG = np.random.default_rng(8)


def cholesky_solver(H):
    factor = sl.cho_factor(H)

    def solve(x):
        return sl.cho_solve(factor, x.reshape(-1))

    return LinearOperator(H.shape, matvec=solve, rmatvec=solve, dtype=float)


def lu_solver(S):
    factor = sl.lu_factor(S)
    return LinearOperator(
        S.shape,
        matvec=lambda x: sl.lu_solve(factor, x.reshape(-1)),
        rmatvec=lambda x: sl.lu_solve(factor, x.reshape(-1), trans=1),
        dtype=float,
    )


def spd(n, kappa, seed=0):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    H = (Q * np.logspace(0, -np.log10(kappa), n)) @ Q.T
    return (H + H.T) / 2


@pytest.mark.parametrize("n", [1, 2, 3, 10, 150, 300])
@pytest.mark.parametrize("kappa", [2.0, 1e6])
def test_psd_as_the_matrix(n, kappa):
    H = spd(n, kappa)
    pairs = ic.psd_extreme_pairs(aslinearoperator(H), inverse=cholesky_solver(H))
    exact = np.linalg.eigvalsh(H)
    assert pairs.sigma_max == pytest.approx(exact[-1], rel=1e-13)
    assert pairs.sigma_min == pytest.approx(exact[0], rel=1e-13 * kappa)
    assert abs(pairs.sigma_max - exact[-1]) <= pairs.bound_max + 1e-15 * n * exact[-1]
    assert pairs.bound_min < 1e-13 * kappa * pairs.sigma_min
    assert pairs.rank == n
    assert pairs.method == "lanczos"
    for sigma, v in ((pairs.sigma_max, pairs.v_max), (pairs.sigma_min, pairs.v_min)):
        assert np.linalg.norm(H @ v - sigma * v) < 1e-12
    if n > 3:
        gaps = (exact[-1] - exact[-2]) / exact[-1], (exact[1] - exact[0]) / exact[0]
        assert (pairs.gap_max, pairs.gap_min) == pytest.approx(gaps, rel=0.05)


@pytest.mark.parametrize("shape", [(90, 90), (90, 40), (40, 90), (1, 7), (7, 1)])
def test_general_as_the_matrix(shape):
    S = RNG.normal(size=shape)
    square = shape[0] == shape[1]
    pairs = ic.extreme_pairs(aslinearoperator(S), inverse=lu_solver(S) if square else None)
    sigma = np.linalg.svd(S, compute_uv=False)
    assert pairs.sigma_max == pytest.approx(sigma[0], rel=1e-12)
    assert np.allclose(S @ pairs.v_max, pairs.sigma_max * pairs.u_max, atol=1e-11)
    assert np.allclose(S.T @ pairs.u_max, pairs.sigma_max * pairs.v_max, atol=1e-11)
    if square:
        assert pairs.sigma_min == pytest.approx(sigma[-1], rel=1e-9)
        assert np.allclose(S @ pairs.v_min, pairs.sigma_min * pairs.u_min, atol=1e-11)
        assert pairs.condition_number == pytest.approx(sigma[0] / sigma[-1], rel=1e-9)


def test_without_an_inverse_the_small_end_is_unknown():
    pairs = ic.psd_extreme_pairs(aslinearoperator(spd(50, 10.0)))
    for name in ("sigma_min", "u_min", "v_min", "bound_min", "rank", "condition_number"):
        assert getattr(pairs, name) is None
    assert not pairs.determined_min
    assert repr(pairs).startswith("ExtremePairs(sigma_max=1 ")


def test_a_matrix_never_formed():
    # d = 20,000: H would take 3.2 GB. Its ends are known: second differences over a plane, whose
    # ends lie less close to their neighbours than those over a line.
    sides = 160, 125
    n = sides[0] * sides[1]
    x, y = (2.0 * np.cos(np.pi * np.arange(1, side + 1) / (side + 1)) for side in sides)
    eigenvalues = 5.0 - x[:, None] - y

    def product(v):
        plane = v.reshape(sides)
        found = 5.0 * plane
        found[1:] -= plane[:-1]
        found[:-1] -= plane[1:]
        found[:, 1:] -= plane[:, :-1]
        found[:, :-1] -= plane[:, 1:]
        return found.reshape(-1)

    def solve(v):
        return scipy.fft.idstn(scipy.fft.dstn(v.reshape(sides), 1) / eigenvalues, 1).reshape(-1)

    H = LinearOperator((n, n), matvec=product, rmatvec=product, dtype=float)
    inverse = LinearOperator((n, n), matvec=solve, rmatvec=solve, dtype=float)
    pairs = ic.psd_extreme_pairs(H, inverse=inverse, tol=1e-5)
    assert abs(pairs.sigma_max - (5 + x[0] + y[0])) <= 1e-4
    assert abs(pairs.sigma_min - (5 - x[0] - y[0])) <= 1e-4


def test_warm_start_takes_fewer_products():
    H = spd(300, 100.0)
    calls = []
    op = LinearOperator(H.shape, matvec=lambda x: (calls.append(1), H @ x)[1], dtype=float)
    cold = ic.psd_extreme_pairs(op, tol=1e-10)
    first = len(calls)
    warm = ic.psd_extreme_pairs(op, tol=1e-10, start=cold)
    assert len(calls) - first < first / 2
    assert warm.sigma_max == pytest.approx(cold.sigma_max, rel=1e-12)


def rounded(A, dtype, declared, kind):
    """Products with A in a lower precision: each component rounded, or all of it computed there."""
    eps = np.finfo(dtype).eps

    def product(A, x):
        y = A @ x.reshape(-1)
        if kind == "nearest":
            return y.astype(dtype)
        if kind == "in":  # the argument, the entries and the sums
            return A.astype(dtype) @ x.reshape(-1).astype(dtype)
        return (y + (eps / 2) * np.abs(y) * np.sign(x.sum() * np.ones_like(y))).astype(dtype)

    return LinearOperator(
        A.shape,
        matvec=lambda x: product(A, x),
        rmatvec=lambda x: product(A.T, x),
        dtype=declared,
    )


PRECISIONS = pytest.mark.parametrize(
    ("dtype", "declared"),
    [("f4", "f4"), ("f4", "f8"), ("f4", None), ("f4", "i8"), ("f2", "f2"), ("f2", "f4")],
)


@PRECISIONS
@pytest.mark.parametrize("kind", ["nearest", "in", "one way"])
@pytest.mark.parametrize("tol", [None, 1e-6])
@pytest.mark.parametrize("n", [1, 5, 40, 300])
def test_the_rounding_of_the_products_is_within_the_bound(dtype, declared, kind, tol, n):
    H = spd(n, 10.0)
    exact = np.linalg.eigvalsh(H)
    pairs = ic.psd_extreme_pairs(
        rounded(H, dtype, declared, kind),
        inverse=rounded(np.linalg.inv(H), dtype, declared, kind),
        tol=tol,
    )
    eps = np.finfo(dtype).eps
    for sigma, bound, true in (
        (pairs.sigma_max, pairs.bound_max, exact[-1]),
        (pairs.sigma_min, pairs.bound_min, exact[0]),
    ):
        assert abs(sigma - true) <= bound
        assert bound <= 30 * np.sqrt(max(n, 16)) * eps * exact[-1]


@PRECISIONS
@pytest.mark.parametrize("shape", [(60, 60), (300, 20), (20, 300), (1, 7)])
def test_the_rounding_of_general_products_is_within_the_bound(dtype, declared, shape):
    S = np.random.default_rng(2).normal(size=shape)
    inverse = None
    if shape == (60, 60):
        S += 20.0 * np.eye(60)
        inverse = rounded(np.linalg.inv(S), dtype, declared, "nearest")
    pairs = ic.extreme_pairs(rounded(S, dtype, declared, "nearest"), inverse=inverse)
    sigma = np.linalg.svd(S, compute_uv=False)
    assert abs(pairs.sigma_max - sigma[0]) <= pairs.bound_max
    if inverse is not None:
        assert abs(pairs.sigma_min - sigma[-1]) <= pairs.bound_min


def test_an_operator_in_float64_keeps_its_digits():
    H = spd(100, 10.0)
    for op in (aslinearoperator(H), LinearOperator(H.shape, matvec=lambda x: H @ x, dtype="i4")):
        assert ic.psd_extreme_pairs(op).bound_max < 1e-13


def test_a_precision_that_falls_on_the_way():
    H, calls = spd(40, 10.0), []

    def product(x):
        calls.append(1)
        return H @ x if len(calls) < 10 else (H @ x).astype("f4")

    pairs = ic.psd_extreme_pairs(LinearOperator(H.shape, matvec=product, dtype="f8"))
    assert 1e-8 < pairs.bound_max < 1e-4
    assert abs(pairs.sigma_max - np.linalg.eigvalsh(H)[-1]) <= pairs.bound_max


def test_a_hessian_product_of_a_network_in_float32():
    torch = pytest.importorskip("torch", reason="the extra torch is not installed")
    rng = np.random.default_rng(5)
    X, y, w = rng.normal(size=(80, 30)), rng.normal(size=80), rng.normal(size=30)

    def hessian_product(w, v, dtype):
        data, target, point, direction = (
            torch.tensor(a, dtype=dtype) for a in (X, y, w, v.reshape(-1))
        )
        loss = lambda p: ((torch.tanh(data @ p) - target) ** 2).mean() + (p * p).sum()  # noqa: E731
        return torch.autograd.functional.hvp(loss, point, direction)[1].numpy()

    n = w.size
    exact = np.array([hessian_product(w, e, torch.float64) for e in np.eye(n)])
    op = LinearOperator(
        (n, n), matvec=lambda v: hessian_product(w, v, torch.float32), dtype=np.float32
    )
    pairs = ic.psd_extreme_pairs(op)
    error = abs(pairs.sigma_max - np.linalg.eigvalsh(exact)[-1])
    assert 0.0 < error <= pairs.bound_max < 1e-4 * pairs.sigma_max


@pytest.mark.parametrize("dtype", [complex, int, bool, object])
def test_products_that_are_no_real_numbers_are_refused(dtype):
    H = spd(6, 10.0)
    op = LinearOperator(H.shape, matvec=lambda x: (H @ x).astype(dtype), dtype=float)
    with pytest.raises(TypeError, match=r"^a product of H must hold real floating-point numbers"):
        ic.psd_extreme_pairs(op)


def test_bad_operators():
    H = spd(6, 10.0)
    op, solver = aslinearoperator(H), cholesky_solver(H)
    with pytest.raises(ValueError, match=r"^H must be square, and has shape \(6, 3\)"):
        ic.psd_extreme_pairs(aslinearoperator(H[:, :3]))
    with pytest.raises(ValueError, match=r"^inverse must have shape \(6, 6\), and has shape"):
        ic.psd_extreme_pairs(op, inverse=aslinearoperator(H[:3, :3]))
    with pytest.raises(ValueError, match=r"^inverse has a meaning for square S only"):
        ic.extreme_pairs(aslinearoperator(H[:, :3]), inverse=solver)
    with pytest.raises(TypeError, match=r"^S must be real, and has dtype complex128"):
        ic.extreme_pairs(aslinearoperator(H + 0j))
    with pytest.raises(TypeError, match=r"inverse goes with a LinearOperator H"):
        ic.psd_extreme_pairs(H, inverse=solver)
    with pytest.raises(ValueError, match=r"rtol must be None for a LinearOperator, and is 0.1"):
        ic.psd_extreme_pairs(op, rtol=0.1)
    with pytest.raises(ValueError, match=r"method must be one of 'auto', 'lanczos'"):
        ic.psd_extreme_pairs(op, method="direct")
    with pytest.raises(ValueError, match=r"^H has rank 0"):
        ic.psd_extreme_pairs(aslinearoperator(np.zeros((5, 5))))
    with pytest.raises(ValueError, match=r"^a product of H with a finite vector is not finite"):
        ic.psd_extreme_pairs(aslinearoperator(np.full((5, 5), np.nan)))
    with pytest.raises(ValueError, match=r"start must be the pairs of one matrix"):
        ic.psd_extreme_pairs(op, start=ic.psd_extreme_pairs(np.eye(2) + 1))
    with pytest.raises(ValueError, match=r"^seed must be below 2\^64, and is 1844"):
        ic.psd_extreme_pairs(op, seed=2**64)


@pytest.mark.parametrize("scale", [1e-300, 1e-3, 0.3, 3.0, 1e3, 1e300])
def test_the_inverse_of_another_matrix_is_refused(scale):
    """Its sigma_min may even be above sigma_max."""
    H = spd(6, 10.0)
    told = r"^inverse must be a solver for the same H, and is none: it says that H makes"
    with pytest.raises(ValueError, match=told):
        ic.psd_extreme_pairs(
            aslinearoperator(H), inverse=aslinearoperator(np.linalg.inv(H) * scale)
        )
    ridge = H + scale * 0.3 * np.eye(6)
    if scale > 1.0:
        with pytest.raises(ValueError, match=told.replace("H", "S")):
            ic.extreme_pairs(aslinearoperator(H), inverse=lu_solver(ridge))


@pytest.mark.parametrize("kappa", [1e4, 1e10, 1e15])
def test_a_solver_that_rounds_is_one(kappa):
    H = spd(40, kappa)
    pairs = ic.extreme_pairs(aslinearoperator(H), inverse=lu_solver(H))
    assert pairs.sigma_min == pytest.approx(1.0 / kappa, rel=1e-15 * kappa)


def solver(solve):
    return lambda H: LinearOperator(
        H.shape, matvec=lambda x: solve(H, x.reshape(-1)), rmatvec=lambda x: solve(H, x.reshape(-1))
    )


SOLVERS = {
    "cholesky": cholesky_solver,
    "lu": lu_solver,
    "inverse": lambda H: aslinearoperator(np.linalg.inv(H)),
    "cg": solver(lambda H, x: cg(H, x, maxiter=10_000)[0]),  # to its default, 1e-5
    "of another": lambda H: aslinearoperator(np.linalg.inv(1.3 * H)),
}


@pytest.mark.parametrize("make", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("find", [ic.psd_extreme_pairs, ic.extreme_pairs])
@pytest.mark.parametrize("kappa", [10.0, 1e3, 1e6])
@pytest.mark.parametrize("n", [8, 32])
def test_the_bound_of_the_small_end_allows_for_the_solver(make, find, kappa, n):
    sigma = on_grid(np.geomspace(1.0, 1.0 / kappa, n))
    H = exact_psd(sigma)  # with exactly these eigenvalues
    pairs = find(aslinearoperator(H), inverse=make(H))
    assert abs(pairs.sigma_max - sigma[0]) <= pairs.bound_max
    assert abs(pairs.sigma_min - sigma[-1]) <= pairs.bound_min <= 0.4 * sigma[-1]
    assert pairs.determined_min == (pairs.bound_min < pairs.sigma_min / 2.0)


@pytest.mark.parametrize("kappa", [10.0, 1e3, 1e6, 1e9, 1e12])
def test_the_bound_of_the_small_end_allows_for_a_general_solver(kappa):
    sigma = on_grid(np.geomspace(1.0, 1.0 / kappa, 16))
    S = exact_psd(sigma)[::-1] * np.where(np.arange(16) % 3 == 0, -1.0, 1.0)
    pairs = ic.extreme_pairs(aslinearoperator(S), inverse=lu_solver(S))
    assert abs(pairs.sigma_min - sigma[-1]) <= pairs.bound_min <= 1e-13 * sigma[0]


def test_an_exception_in_a_product_comes_through():
    class StopError(Exception):
        pass

    def product(x):
        raise StopError

    with pytest.raises(StopError):
        ic.psd_extreme_pairs(LinearOperator((9, 9), matvec=product, dtype=float))


@pytest.mark.parametrize("declared", [float, None])
@pytest.mark.parametrize("pairs", [ic.extreme_pairs, ic.psd_extreme_pairs])
def test_complex_products_are_refused(pairs, declared):
    """The imaginary part was dropped where the dtype did not tell of it."""
    H = spd(40, 10.0) + 0.5j * np.diag(np.arange(40.0))

    class Operator:
        shape, dtype = H.shape, declared

        def matvec(self, x):
            return H @ x

        rmatvec = matvec

    with pytest.raises(TypeError, match=r"product of [SH] must hold real .* has dtype complex128"):
        pairs(Operator())
    real = aslinearoperator(spd(40, 10.0))
    with pytest.raises(TypeError, match=r"product of inverse must hold real .* has dtype complex"):
        pairs(real, inverse=Operator())


def test_products_of_other_real_dtypes_are_taken():
    H = np.diag([3.0, 2.0, 1.0])
    op = LinearOperator((3, 3), matvec=lambda x: (H @ x).astype(np.float32), dtype=float)
    assert abs(ic.psd_extreme_pairs(op, tol=1e-6).sigma_max - 3.0) < 1e-5


def test_a_start_that_misses_the_end_is_drawn_anew_by_the_seed():
    n = 300
    seen = []

    def watch(x):
        seen.append(np.array(x).ravel())
        return np.ravel(x)

    ic.psd_extreme_pairs(LinearOperator((n, n), matvec=watch, dtype=float))
    starts = np.array(seen[:2])
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=n)
    hidden -= np.linalg.pinv(starts) @ (starts @ hidden)
    hidden /= np.linalg.norm(hidden)
    H = np.eye(n) + np.outer(hidden, hidden)  # one product ends the iteration
    op = LinearOperator((n, n), matvec=lambda x: H @ x, dtype=float)
    first, second = (quiet(ic.psd_extreme_pairs, op, seed=seed) for seed in (0, 1))
    # What is certified of an operator is the distance to a singular value.
    values = np.array([1.0, 2.0])
    for pairs in (first, second):
        assert np.min(np.abs(values - pairs.sigma_max)) <= pairs.bound_max
    assert np.isclose(second.sigma_max, 2.0, rtol=1e-12)
    with pytest.raises(ValueError, match="seed must be at least 0"):
        ic.psd_extreme_pairs(op, seed=-1)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e-155, 1e155, 1e170, 1e300])
@pytest.mark.parametrize("kind", ["psd", "general"])
def test_the_scale_of_the_products_does_not_matter(kind, scale):
    find, A = ic.psd_extreme_pairs, spd(6, 50.0)
    if kind == "general":
        find, A = ic.extreme_pairs, A[::-1]
    pairs = find(aslinearoperator(A * scale), inverse=aslinearoperator(np.linalg.inv(A) / scale))
    s = np.linalg.svd(A, compute_uv=False)
    assert pairs.sigma_max == pytest.approx(s[0] * scale, rel=1e-13, abs=0.0)
    assert pairs.sigma_min == pytest.approx(s[-1] * scale, rel=1e-12, abs=0.0)
    assert pairs.condition_number == pytest.approx(s[0] / s[-1], rel=1e-12)
    assert pairs.bound_max < 1e-12 * pairs.sigma_max
    assert pairs.bound_min < 1e-10 * pairs.sigma_min
    assert pairs.determined_min


def test_products_of_subnormal_numbers_keep_few_digits():
    """Eight multiples of the least float make the largest entry."""
    s = np.array([8.0, 3.0, 2.0, 1.0]) * 2.0**-1074
    U = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    operator = LinearOperator(
        (4, 4), lambda x: s * (U @ x.ravel()), lambda x: U.T @ (s * x.ravel()), dtype=float
    )
    pairs = ic.extreme_pairs(operator)
    assert abs(pairs.sigma_max - s[0]) <= pairs.bound_max


def test_a_ratio_beyond_the_range_is_an_overflow_error():
    H = np.diag([1e200, 1.0, 1e-200])
    with pytest.raises(OverflowError, match=r"of H, or their ratio, are not representable"):
        ic.psd_extreme_pairs(aslinearoperator(H), inverse=aslinearoperator(np.linalg.inv(H)))
