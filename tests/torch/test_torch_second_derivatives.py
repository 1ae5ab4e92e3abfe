"""immucond.torch: second derivatives keep their digits, whatever shape, condition and scale."""

import warnings
from itertools import product

import mpmath
import numpy as np
import pytest
from matrices import with_singular_values
from torch_cases import FUNCTIONS, NAMES, torch
from torch_cases import kernels as kernels  # a fixture

import immucond as ic
import immucond.torch as ict

SHAPES = pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)], ids=str)
EPS = 2.0**-52
DIGITS = 100
STEP = mpmath.mpf(10) ** -35


def exact(Z):
    return mpmath.matrix(np.asarray(Z, np.float64).tolist())


def features(shape, kappa, seed=0):
    """Features of which ``Z^T Z`` has this condition number, in geometric progression."""
    sigma = np.geomspace(1.0, kappa**-0.5, min(shape))
    return with_singular_values(np.random.default_rng(seed), *shape, sigma)


def directions(Z, seed=1):
    """Any change, and ones relative to Z from either side, as a layer before or after makes."""
    rng = np.random.default_rng(seed)
    rows, columns = Z.shape
    return (
        rng.standard_normal(Z.shape),
        Z @ rng.standard_normal((columns, columns)),
        rng.standard_normal((rows, rows)) @ Z,
    )


def ends(Z):
    """lambda_1, v_1, lambda_k, v_k and F of exactly ``Z^T Z`` at full rank, v_k's sign as ours."""
    wide = Z.rows < Z.cols
    values, vectors = mpmath.eigsy(Z * Z.T if wide else Z.T * Z)
    found = []
    for i in (len(values) - 1, 0):
        v = vectors[:, i]
        if wide:
            v = Z.T * v / mpmath.sqrt(values[i])
        found += [values[i], v if max(v, key=abs) > 0 else -v]
    return (*found, sum(x * x for x in values), len(values))


def true_gradient(name, Z):
    first, v1, last, vk, F, k = ends(Z)
    D = F / (2 * k) - last**2 / 2
    alpha, beta, gamma = {
        "r_well": (first, 0, -mpmath.mpf(1) / Z.cols),
        "r_ill": (0, last / D**2, -1 / (k * D**2)),
        "kappa": (1 / last, -first / last**2, 0),
        "log_kappa": (1 / first, -1 / last, 0),
    }[name]
    return 2 * (alpha * (Z * v1) * v1.T + beta * (Z * vk) * vk.T + gamma * Z * Z.T * Z)


def along(f, Z, W):
    """The derivative of f at Z along W, by a difference with a hundred digits."""
    with mpmath.workdps(DIGITS):
        Z, W = exact(Z), exact(W)
        change = (f(Z + STEP * W) - f(Z - STEP * W)) / (2 * STEP)
        return np.array(change.tolist(), dtype=np.float64)


def hessian_product(name, Z, W, **options):
    Z = Z.clone().requires_grad_()
    value = FUNCTIONS[name](features=Z, **options).sum()
    (gradient,) = torch.autograd.grad(value, Z, create_graph=True)
    return torch.autograd.grad((gradient * W).sum(), Z)[0]


def error(got, expected):
    return np.abs(got.double().numpy() - expected).max() / np.abs(expected).max()


@NAMES
@SHAPES
@pytest.mark.parametrize("kappa", [1e4, 1e6, 1e8, 1e10, 1e12, 1e14])
def test_hessian_products_lose_no_more_than_the_root_of_kappa(name, shape, kappa):
    Z = features(shape, kappa)
    for W in directions(Z):
        expected = along(lambda X: true_gradient(name, X), Z, W)
        got = hessian_product(name, torch.from_numpy(Z), torch.from_numpy(W))
        assert error(got, expected) <= 10 * EPS * kappa**0.5


@pytest.mark.parametrize("kappa", [1e4, 1e8, 1e12])
def test_the_transposed_problem_has_the_transposed_product(kernels, kappa):
    """As for a mini-batch of a deep net; there r_well counts the rank, and the rest does anyway."""
    Z = torch.from_numpy(features((6, 17), kappa))
    W = torch.from_numpy(directions(Z.numpy())[0])
    for name in FUNCTIONS:
        options = {"p": "rank"} if name == "r_well" else {}
        wide = hessian_product(name, Z, W, **options)
        tall = hessian_product(name, Z.mT.contiguous(), W.mT, **options)
        assert error(wide, tall.mT.numpy()) <= 20 * EPS * kappa**0.5


@SHAPES
@pytest.mark.parametrize("kappa", [1e4, 1e8, 1e12])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_of_a_vector(shape, kappa, dtype):
    kappa = kappa if dtype == torch.float64 else kappa**0.75
    Z = torch.from_numpy(features(shape, kappa)).to(dtype)
    c = np.random.default_rng(2).standard_normal(shape[1])
    X = Z.clone().requires_grad_()
    v = ict.extreme_pairs(features=X).v_min
    (got,) = torch.autograd.grad((v * torch.from_numpy(c).to(dtype)).sum(), X)
    for W in directions(Z.double().numpy()):
        expected = along(lambda X: exact(c[None]) * ends(X)[3], Z.double().numpy(), W)
        size = float(got.double().norm()) * np.linalg.norm(W)
        change = (got.double() * torch.from_numpy(W)).sum().item()
        limit = 10 * EPS * kappa**0.5 + 4 * torch.finfo(dtype).eps
        assert abs(change - expected.item()) <= limit * size


def test_float32_features_have_the_digits_of_float32():
    Z = torch.from_numpy(features((3, 5), 1e9)).float()
    W = torch.from_numpy(directions(Z.double().numpy())[0]).float()
    for name in FUNCTIONS:
        expected = along(lambda X, name=name: true_gradient(name, X), Z.double(), W.double())
        got = hessian_product(name, Z, W)
        assert got.dtype == torch.float32
        assert error(got, expected) <= 4 * torch.finfo(torch.float32).eps


def test_below_full_rank_and_in_stacks():
    """Rank 3 of 4, known; the product along changes that keep it, at full rank in coordinates."""
    rng = np.random.default_rng(5)
    core, Q = features((6, 3), 1e10), np.linalg.qr(rng.standard_normal((4, 4)))[0][:, :3]
    for name in ("r_ill", "log_kappa", "kappa"):
        W = directions(core)[0]
        expected = hessian_product(name, torch.from_numpy(core), torch.from_numpy(W)).numpy()
        for turned in (False, True):
            Z, V = (torch.from_numpy(x @ Q.T) for x in (core, W))
            if turned:
                Z, V = Z.mT, V.mT
            Z, V = torch.stack([Z, 2.0 * Z]), torch.stack([V, V])
            found = hessian_product(name, Z, V, rank=3)
            found = (found.mT if turned else found) @ torch.from_numpy(Q)
            assert error(found[0], expected) <= 1e-9
            degree = -6 if name == "r_ill" else -2
            assert error(found[1], expected * 2.0**degree) <= 1e-9


@pytest.mark.parametrize("gap", [1e-4, 1e-8, 1e-10, 1e-11, 1e-12, 1e-13])
def test_where_digits_are_lost_a_warning_says_so(gap):
    """Near neighbours: the vectors' derivatives divide by the gap."""
    rng = np.random.default_rng(3)
    sigma = np.array([1.0, 0.5, 0.25 * (1 + 4 * gap), 0.25])
    for shape, seed in product(((4, 6), (6, 4)), range(3)):
        Z = with_singular_values(rng, *shape, sigma)
        W = directions(Z, seed)[0]
        expected = along(lambda X: true_gradient("log_kappa", X), Z, W)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            got = hessian_product("log_kappa", torch.from_numpy(Z), torch.from_numpy(W))
        told = ic.AccuracyWarning in [w.category for w in seen]
        assert told or error(got, expected) <= 1e-2
        assert not told or gap < 1e-11
        if gap == 1e-13:
            assert told
            assert {w.filename for w in seen} == {__file__}, [str(w) for w in seen]


def size(x):
    return float(torch.as_tensor(x).detach().double().abs().max().log2())


def scales(dtype):
    """Powers of two over the range of a dtype, of which its smallest numbers keep all digits."""
    return (-980, -600, -538, -500, -300, 0, 200, 480, 900) if dtype == torch.float64 else (
        -100, -63, -40, -20, 0, 20, 40, 80, 110
    )  # fmt: skip


@NAMES
@SHAPES
@pytest.mark.parametrize("given", ["S", "features"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_scale_of_a_power_of_two_is_one_of_the_product(name, shape, given, dtype):
    """Exact at any scale; what is not representable is an OverflowError."""
    Z0 = torch.from_numpy(features(shape, 1e3)).to(dtype)
    W = torch.from_numpy(directions(Z0.double().numpy())[0]).to(dtype)

    def found(Z):
        Z = Z.clone().requires_grad_()
        value = FUNCTIONS[name](**{given: Z})
        (gradient,) = torch.autograd.grad(value, Z, create_graph=True)
        return value, gradient, torch.autograd.grad((gradient * W).sum(), Z)[0]

    degree = getattr(ic, name).degree * (1 if given == "S" else 2)
    at_one = found(Z0)
    top, tiny = np.log2(torch.finfo(dtype).max), torch.finfo(dtype).smallest_normal
    errors = 0
    for k in scales(dtype):
        sizes = [size(x) + (degree - order) * k for order, x in enumerate(at_one)]
        Z = torch.from_numpy(np.ldexp(Z0.numpy(), k))
        if max(sizes) > top:
            errors += 1
            with pytest.raises(OverflowError, match="not representable in"):
                found(Z)
            continue
        expected = np.ldexp(at_one[2].numpy(), (degree - 2) * k)
        np.testing.assert_allclose(found(Z)[2].numpy(), expected, rtol=1e-5, atol=tiny)
    assert errors > 0


def test_only_the_product_may_overflow():
    """At 1e-120 the gradient of log kappa is of the order of 1e120, and its derivative 1e240."""
    Z = torch.from_numpy(features((3, 5), 1e2)) * 2.0**-400
    for direction, fails in ((1.0, False), (2.0**300, True)):
        W = torch.ones_like(Z) * direction
        if fails:
            with pytest.raises(OverflowError, match=r"not representable in float64.* \* 2\^1102"):
                hessian_product("log_kappa", Z, W)
            with pytest.raises(OverflowError, match="not representable in float64"):
                torch.func.jvp(torch.func.grad(lambda x: ict.log_kappa(features=x)), (Z,), (W,))
        else:
            assert hessian_product("log_kappa", Z, W).isfinite().all()


@SHAPES
@pytest.mark.parametrize("given", ["S", "features"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_derivatives_of_pairs_at_any_scale(shape, given, dtype):
    Z0 = torch.from_numpy(features(shape, 1e3)).to(dtype)
    W = torch.from_numpy(directions(Z0.double().numpy())[0]).to(dtype)

    def found(Z):
        X = Z.clone().requires_grad_()
        pairs = ict.extreme_pairs(**{given: X})
        backward = [
            torch.autograd.grad(x.sum(), X, retain_graph=True)[0]
            for x in (pairs.sigma_min, pairs.v_min)
        ]
        of = torch.func.jvp(lambda x: tuple(ict.extreme_pairs(**{given: x})[3:6]), (Z,), (W,))[1]
        return backward[0], of[0], backward[1], of[2]

    at_one = found(Z0)
    top, tiny = np.log2(torch.finfo(dtype).max), torch.finfo(dtype).smallest_normal
    of_value = 0 if given == "S" else 1
    for k in scales(dtype):
        Z = torch.from_numpy(np.ldexp(Z0.numpy(), k))
        if of_value * 2 * k > top:
            with pytest.raises(OverflowError, match="not representable in"):
                found(Z)
            continue
        if -k + max(size(x) for x in at_one[2:]) > top:
            continue
        for x, one, power in zip(found(Z), at_one, (of_value, of_value, -1, -1), strict=True):
            np.testing.assert_allclose(
                x.numpy(), np.ldexp(one.numpy(), power * k), rtol=2e-5, atol=tiny
            )


def test_a_count_of_the_nonzero_ones_keeps_its_digits():
    Z = torch.from_numpy(features((3, 5), 100.0))
    found = torch.func.hessian(lambda Z: ict.r_well(features=Z, p="rank"))(Z)

    def by_svd(Z):
        sigma = torch.linalg.svdvals(Z) ** 2
        return sigma[0] ** 2 / 2 - sigma.square().sum() / 6

    expected = torch.func.hessian(by_svd)(Z)
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
