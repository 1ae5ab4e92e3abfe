"""What users of other tools reported, on the input they reported, with the right answer here."""

import warnings

import mpmath
import numpy as np
import pytest
from matrices import orthonormal, quiet, with_singular_values
from truth import DIGITS, assert_certified, true_eigenvalues, true_singular_values

import immucond as ic

REGULARIZERS = pytest.mark.parametrize(
    "r", [ic.r_well, ic.r_ill, ic.kappa, ic.log_kappa], ids=lambda r: r.name
)


def lapack_calls(function):
    before = ic._core.lapack_calls()
    result = function()
    after = ic._core.lapack_calls()
    return result, {n: after[n] - before[n] for n in after if after[n] != before[n]}


# ---- PyTorch #58828: fast extremal eigensolvers, where lobpcg takes definite matrices only ----


def second_difference(n):
    """2 on the diagonal and -1 beside it, with its eigenvalues."""
    with mpmath.workdps(DIGITS):
        truth = [4 * mpmath.sin(mpmath.pi * k / (2 * n + 2)) ** 2 for k in range(n, 0, -1)]
    return 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1), truth


@pytest.mark.parametrize("n", [30, 201, 300])
def test_both_ends_come_from_one_reduction(n):
    H, truth = second_difference(n)
    pairs, calls = lapack_calls(lambda: ic.psd_extreme_pairs(H))
    assert calls.pop("dstein") <= 2  # a call an end at most
    assert calls == ({"dsytrd": 1, "dormtr": 1} if n > 256 else {})  # small ones are reduced here
    assert_certified(pairs, truth)
    assert pairs.bound_min <= 1e-9 * pairs.sigma_min
    i, angle = np.arange(1, n + 1), np.pi / (n + 1)
    for v, k in ((pairs.v_max, n), (pairs.v_min, 1)):
        assert abs(v @ np.sin(k * angle * i)) * np.sqrt(2 / (n + 1)) > 1 - 1e-12


def test_both_ends_come_from_two_iterations():
    H, truth = second_difference(201)
    pairs, calls = lapack_calls(lambda: ic.psd_extreme_pairs(H, method="lanczos"))
    assert pairs.method == "lanczos"
    assert calls["dpotrf"] <= 3
    assert_certified(pairs, truth)


def test_semidefinite_indefinite_and_rectangular_matrices_have_ends_too():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(24, 9))
    for pairs, truth in (
        (ic.psd_extreme_pairs(ic.gram(A.T), rank=9), true_eigenvalues(ic.gram(A.T))),
        (ic.extreme_pairs(A[:9] + A[:9].T), true_singular_values(A[:9] + A[:9].T)),
        (ic.extreme_pairs(A), true_singular_values(A)),
    ):
        assert pairs.rank == 9
        assert_certified(pairs, truth)


# ---- PyTorch #187759: svdvals of [[nan, 0], [0, 1]] is [1, 1], and its rank 2 ----

FUNCTIONS = {
    "S": [
        ic.extreme_pairs,
        lambda S: ic.extreme_pairs(S, method="lanczos"),
        ic.condition_number,
        ic.r_well,
        ic.r_ill.value_and_grad,
    ],
    "H": [ic.psd_extreme_pairs, lambda H: ic.psd_extreme_pairs(H, method="lanczos")],
    "Z": [
        ic.feature_extreme_pairs,
        lambda Z: ic.feature_extreme_pairs(Z, method="qr"),
        lambda Z: ic.condition_number(features=Z),
        ic.log_kappa.value_and_grad_features,
    ],
    "gram": [lambda K: ic.kappa.value_and_grad_theta(np.eye(len(K)), K)],
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("n", [2, 40])
@pytest.mark.parametrize(
    ("value", "text"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")]
)
def test_nan_is_an_error_that_names_argument_and_place(name, n, value, text):
    for row in (0, n - 1):
        A = np.eye(n)
        A[0, 0] = 0.5
        A[row, row] = value
        where = f"^(features|{name}) must be finite, and holds {text} at row {row}, column {row}$"
        for function in FUNCTIONS[name]:
            with pytest.raises(ValueError, match=where):
                function(A)


# ---- PyTorch #194705: derivatives are nan where the scale leaves +-sqrt(max) ----

REPORTED = np.array([[4.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]])


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("f4", 1e19), ("f4", 1e-20), ("f8", 1e-200), ("f8", 1e155), ("f8", 1e200), ("f8", 1e290)],
)
def test_scales_beyond_the_square_root_of_the_range(dtype, scale):
    A = REPORTED.astype(dtype) * np.dtype(dtype).type(scale)
    with mpmath.workdps(DIGITS):
        values, vectors = mpmath.eigsy(mpmath.matrix(A.tolist()))  # ascending
        values = list(values)
        top, bottom = (np.array([float(x) for x in vectors[:, i]]) for i in (2, 0))
        kappa = float(values[2] / values[0])
    for pairs in (ic.extreme_pairs(A), ic.psd_extreme_pairs(A), ic.extreme_pairs(A[:, ::-1])):
        assert_certified(pairs, values[::-1])
        assert np.isclose(pairs.condition_number, kappa, rtol=1e-14)
    # grad log kappa = u_1 v_1^T / sigma_1 - u_k v_k^T / sigma_k, and its vectors do not overflow.
    expected = np.outer(top, top) / float(values[2]) - np.outer(bottom, bottom) / float(values[0])
    for r, factor in ((ic.log_kappa, 1.0), (ic.kappa, kappa)):
        value, gradient = r.value_and_grad(A)
        assert np.isclose(value, kappa if r is ic.kappa else np.log(kappa), rtol=1e-14)
        unit = np.abs(expected).max()
        assert np.abs(gradient / unit - factor * expected / unit).max() <= 1e-13 * factor


# ---- PyTorch #181641: the SVD of what cumprod makes of repeated embedding rows ----


@pytest.mark.parametrize("rows", [6, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cumulative_products_along_repeated_rows(rows, dtype):
    """Each row is the same again: rank 1, and the one singular value is a norm."""
    row = np.random.default_rng(rows).normal(size=(1, 8)).astype(dtype)
    X = np.cumprod(np.repeat(row, rows, axis=0), axis=1)
    with mpmath.workdps(DIGITS):
        sigma = mpmath.sqrt(rows * sum(mpmath.mpf(float(x)) ** 2 for x in X[0]))
        for method in ("auto", "lanczos"):
            pairs = ic.extreme_pairs(X, method=method)
            assert pairs.rank == 1
            assert_certified(pairs, [sigma])
            pairs = ic.feature_extreme_pairs(X, method=method)
            assert pairs.rank == 1
            assert_certified(pairs, [sigma**2])


@pytest.mark.parametrize("method", ["auto", "lanczos"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cumulative_products_across_repeated_rows(method, dtype):
    """Powers of one row: a Vandermonde matrix, whose singular values fall steeply."""
    row = np.random.default_rng(1).normal(size=(1, 6)).astype(dtype)
    X = np.cumprod(np.repeat(row, 24, axis=0), axis=0)
    truth = true_singular_values(X)
    for function, power in ((ic.extreme_pairs, 1), (ic.feature_extreme_pairs, 2)):
        pairs = quiet(function, X, method=method)
        with mpmath.workdps(DIGITS):
            assert_certified(pairs, [sigma**power for sigma in truth])
    with np.errstate(over="ignore"):
        X = np.cumprod(np.repeat(3 * row, 2000, axis=0), axis=0)
    row, column = np.argwhere(~np.isfinite(X))[0]
    with pytest.raises(ValueError, match=f"^S must be finite.*at row {row}, column {column}$"):
        ic.extreme_pairs(X)


@pytest.mark.parametrize("noise", [1e-12, 1e-7, 1e-3])
def test_nearly_repeated_rows(noise):
    rng = np.random.default_rng(2)
    row, E = rng.normal(size=(1, 200)), noise * rng.normal(size=(200, 200))
    X = np.repeat(row, 200, axis=0) + E
    for dtype in (np.float64, np.float32):
        for method in ("auto", "lanczos"):
            pairs = quiet(ic.extreme_pairs, X.astype(dtype), computed_in=np.float64, method=method)
            # Weyl: no singular value moves by more than ||E||, here with float32's rounding.
            moved = np.linalg.norm(E) + np.linalg.norm(X.astype(dtype) - X)
            assert abs(pairs.sigma_max - 200**0.5 * np.linalg.norm(row)) <= moved + 1e-11
            assert pairs.rank == 1 or pairs.sigma_min <= moved
    pairs = ic.extreme_pairs(X, rank=1)
    assert pairs.condition_number == 1.0
    small = X[:9, :7]
    truth = true_singular_values(small)
    pairs = quiet(ic.extreme_pairs, small)
    assert_certified(pairs, truth)


# ---- PyTorch #49886, JAX #2311: gradients at repeated or zero singular values are nan ----


def stripes():
    """The matrix of PyTorch #49886: 15 x 15 with the singular values sqrt(5) (3, 2, 1) and 0."""
    y = np.zeros((15, 15))
    for i in range(3):
        y[i, 5 * i : 5 * i + 5] = i + 1
    return y


def test_zero_singular_values_have_no_part_in_the_gradient():
    Y = stripes()
    sigma = 5**0.5 * np.array([3.0, 2.0, 1.0])
    u = np.eye(15)[:, [2, 1, 0]]
    v = np.kron(np.eye(3)[:, ::-1], np.ones((5, 1))) / 5**0.5
    d = np.sum(sigma**2) / 6 - sigma[2] ** 2 / 2
    for r, alpha, beta, gamma in (
        (ic.r_well, sigma[0], 0, -1 / 15),
        (ic.r_ill, 0, sigma[2] / d**2, -1 / (3 * d**2)),
        (ic.kappa, 1 / sigma[2], -sigma[0] / sigma[2] ** 2, 0),
        (ic.log_kappa, 1 / sigma[0], -1 / sigma[2], 0),
    ):
        expected = alpha * np.outer(u[:, 0], v[:, 0]) + beta * np.outer(u[:, 2], v[:, 2])
        _, gradient = r.value_and_grad(Y)
        np.testing.assert_allclose(gradient, expected + gamma * Y, rtol=0, atol=1e-14)


@REGULARIZERS
@pytest.mark.parametrize("n", [3, 5])
def test_ones_have_one_singular_value(r, n):
    """The example of JAX #2311, np.ones((5, 5)): sigma_1 = n, and zeros."""
    S = np.ones((n, n))
    if r is ic.r_ill:
        for method in (r.value_and_grad, r.value_and_grad_features):
            with pytest.raises(ic.DegenerateSpectrumError, match="r_ill is infinite"):
                method(S)
        return
    value, gradient = r.value_and_grad(S)
    if r is ic.r_well:
        assert np.isclose(value, n**2 / 2 - n / 2, rtol=1e-14)
        np.testing.assert_allclose(gradient, (1 - 1 / n) * S, rtol=1e-14)
    else:
        assert value == (r is ic.kappa)
        assert not gradient.any()


def value_by_svd(name, S, k):
    """From all singular values, of which the k largest count."""
    sigma = np.linalg.svd(S, compute_uv=False)
    if name == "r_well":
        return sigma[0] ** 2 / 2 - np.sum(sigma[:k] ** 2) / (2 * len(sigma))
    if name == "r_ill":
        return 1 / (np.sum(sigma[:k] ** 2) / (2 * k) - sigma[k - 1] ** 2 / 2)
    return sigma[0] / sigma[k - 1] if name == "kappa" else np.log(sigma[0] / sigma[k - 1])


TIED = {
    "top": (2.0, 2.0, 1.0),
    "bottom": (2.0, 1.0, 1.0),
    "both": (2.0, 2.0, 1.0, 1.0),
    "top, with zeros": (2.0, 2.0, 1.0, 0.0, 0.0),
    "bottom, with zeros": (3.0, 1.0, 1.0, 1.0, 0.0),
    "all": (1.0, 1.0, 1.0, 1.0),
    "all, with zeros": (1.0, 1.0, 0.0),
}


@REGULARIZERS
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("spectrum", TIED)
def test_at_ties_the_gradient_is_a_subgradient(r, rotated, spectrum):
    """One-sided derivatives along every direction that keeps the rank are on its side.

    sigma_1, and -sigma_k over the matrices of rank k, are maxima of smooth functions; so are
    r_well, kappa and log_kappa, while r_ill is a minimum.
    """
    rng = np.random.default_rng(len(spectrum))
    sigma = np.array(TIED[spectrum])
    n, k = len(sigma), np.count_nonzero(sigma)
    S = np.diag(sigma)
    if rotated:
        S = with_singular_values(rng, n + 1, n, sigma[:k])
    if r is ic.r_ill and sigma[0] == sigma[k - 1]:
        with pytest.raises(ic.DegenerateSpectrumError, match="r_ill is infinite"):
            quiet(r.value_and_grad, S, rank=k)
        return
    value, gradient = quiet(r.value_and_grad, S, rank=k)
    assert np.isclose(value, value_by_svd(r.name, S, k), rtol=1e-13, atol=1e-14)
    assert np.isfinite(gradient).all()
    sign = -1.0 if r is ic.r_ill else 1.0
    step = 1e-6
    slopes = []
    for _ in range(20):
        left, right = (rng.normal(size=(m, m)) for m in S.shape)
        moved = (np.eye(len(S)) + step * left) @ S @ (np.eye(n) + step * right)
        slope = (value_by_svd(r.name, moved, k) - value) / step
        slopes.append(sign * (slope - np.sum(gradient * (moved - S)) / step))
    assert min(slopes) >= -1e-3
    # Where only ends without a part in it are tied, it is the gradient itself.
    used = {"top": "r_well kappa log_kappa", "bottom": "r_ill kappa log_kappa"}
    tied = spectrum.startswith(("both", "all")) or r.name in used[spectrum.split(",")[0]]
    assert (max(slopes) > 1e-2) == tied


@pytest.mark.parametrize("form", ["features", "theta"])
@REGULARIZERS
def test_nothing_is_nan_by_features_or_theta(r, form):
    rng = np.random.default_rng(4)
    q = orthonormal(rng, 6, 4)
    matrices = [np.eye(4), q, q.T, q @ np.diag([2, 2, 1, 1]), stripes(), np.ones((5, 5))]
    for A in matrices:
        try:
            if form == "features":
                value, gradient = quiet(r.value_and_grad_features, A)
            else:
                H = A.T @ A
                value, gradient = quiet(
                    r.value_and_grad_theta, np.eye(len(H)), (H + H.T) / 2, rtol=1e-10
                )
        except ic.DegenerateSpectrumError:
            sigma = np.linalg.svd(A, compute_uv=False)
            assert r is ic.r_ill
            assert np.isclose(sigma[0], sigma[sigma > 1e-8][-1])
            continue
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@REGULARIZERS
def test_the_zero_matrix_is_refused(r):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in (r, r.value_and_grad, r.value_and_grad_features):
            with pytest.raises(ValueError, match="rank 0"):
                method(np.zeros((3, 3)))
