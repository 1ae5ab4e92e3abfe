"""immucond.torch: first, second and third derivatives, backward and forward, and through vmap."""

import pytest
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch_cases import FUNCTIONS, INPUTS, NAMES, SHAPES, assert_close, by_svd, tensor, torch
from torch_cases import kernels as kernels  # a fixture

import immucond as ic
import immucond.torch as ict


def of(name, given, **options):
    return lambda X: FUNCTIONS[name](**{given: X}, **options)


@NAMES
@INPUTS
@SHAPES
def test_gradcheck_and_gradgradcheck(name, given, shape):
    X = tensor(shape).requires_grad_()
    f = of(name, given)
    assert gradcheck(f, X, check_forward_ad=True)
    assert gradgradcheck(f, X, check_fwd_over_rev=True)


@NAMES
@INPUTS
def test_batched_and_by_the_kernels_of_other_devices(kernels, name, given):
    X = tensor((3, 2)).requires_grad_()
    f = of(name, given)
    assert gradcheck(f, X, check_batched_grad=True)
    assert gradgradcheck(f, X, check_batched_grad=True)


@INPUTS
@pytest.mark.parametrize("shape", [(3, 3), (2, 3)], ids=str)
def test_gradcheck_of_the_pairs(kernels, given, shape):
    X = tensor(shape).requires_grad_()

    def f(X):
        return ict.extreme_pairs(**{given: X})[:6]

    assert gradcheck(f, X, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(f, X)


@NAMES
@INPUTS
def test_second_derivatives_against_the_svd(name, given):
    """In one shot, far below the accuracy of differences; rank below p, rows beyond it."""
    for shape in ((6, 4), (4, 6)):
        X = tensor(shape, seed=3)
        expected = torch.func.hessian(lambda x: by_svd(name, given, x))(X)
        assert_close(torch.func.hessian(of(name, given))(X), expected, 1e-9)


@NAMES
@INPUTS
def test_below_full_rank_the_rank_is_fixed(name, given):
    X = tensor((5, 4), 3).requires_grad_()
    f = of(name, given, rank=3)
    assert gradcheck(f, X)
    assert gradgradcheck(f, X)


@pytest.mark.parametrize("skew", [0.0, 1e-15])
def test_under_a_ridge_second_derivatives_are_those_of_the_symmetric_part(skew):
    """Along every direction, whether S is symmetric to the bit or to rounding."""
    Z = tensor((5, 4))
    S = Z.T @ Z
    S = (S + S.T) / 2
    S[0, 1] += skew

    def f(S):
        values = torch.linalg.eigvalsh((S + S.T) / 2)
        return (values[-1] + 0.5) / (values[0] + 0.5)

    def g(S):
        return ict.condition_number(S, ridge=0.5)

    expected = torch.func.hessian(f)(S)
    for found in (torch.func.hessian(g)(S), torch.autograd.functional.hessian(g, S)):
        assert_close(found, expected, 1e-10)


def test_with_p_as_the_rank():
    Z = tensor((3, 5)).requires_grad_()
    f = of("r_well", "features", p="rank")
    assert gradcheck(f, Z)
    assert gradgradcheck(f, Z)


@NAMES
def test_only_simple_ends_have_second_derivatives(kernels, name):
    """r_well uses the largest end alone, r_ill the smallest."""
    for sigma, fails in (
        ([2.0, 2.0, 1.0], name != "r_ill"),
        ([2.0, 1.0, 1.0], name != "r_well"),
    ):
        S = torch.diag(torch.tensor(sigma, dtype=torch.float64)).requires_grad_()
        value = FUNCTIONS[name](features=S) if not fails else None
        if not fails:
            (gradient,) = torch.autograd.grad(value, S, create_graph=True)
            (second,) = torch.autograd.grad(gradient.sum(), S)
            assert second.isfinite().all()
            continue
        with pytest.warns(ic.DegenerateSpectrumWarning, match=f"that {name} uses is not simple"):
            value = FUNCTIONS[name](features=S)
        (gradient,) = torch.autograd.grad(value, S, create_graph=True)
        with pytest.raises(ic.DegenerateSpectrumError, match="exist at simple singular values"):
            torch.autograd.grad(gradient.sum(), S)


def test_third_derivatives():
    X = tensor((4, 3))
    third = torch.func.jacrev(torch.func.hessian(of("log_kappa", "features")))(X)
    expected = torch.func.jacrev(torch.func.hessian(lambda x: by_svd("log_kappa", "features", x)))
    assert_close(third, expected(X), 1e-8)


@NAMES
@INPUTS
def test_every_transform_gives_the_same(name, given):
    f, X = of(name, given), tensor((4, 3))
    leaf = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(leaf), leaf)
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        assert_close(transform(f)(X), gradient, 1e-13)
    expected = torch.autograd.functional.hessian(f, X)
    rev, fwd = torch.func.jacrev, torch.func.jacfwd
    for outer in (rev, fwd):
        for inner in (rev, fwd):
            assert_close(outer(inner(f))(X), expected, 1e-12)


@NAMES
@INPUTS
def test_vmap(name, given):
    f = of(name, given)
    X = torch.stack([tensor((4, 3), seed=seed) for seed in range(3)])
    values = torch.stack([f(x) for x in X])
    gradients = torch.stack([torch.func.grad(f)(x) for x in X])
    assert_close(torch.vmap(f)(X), values, 1e-15)
    assert_close(torch.vmap(f, in_dims=1)(X.movedim(0, 1)), values, 1e-15)
    assert_close(torch.vmap(torch.func.grad(f))(X), gradients, 1e-15)
    assert_close(torch.func.grad(lambda x: torch.vmap(f)(x).sum())(X), gradients, 1e-15)
    nested = torch.vmap(torch.vmap(torch.func.grad(f)))(torch.stack([X, X]))
    assert_close(nested, torch.stack([gradients, gradients]), 1e-15)
    hessians = torch.stack([torch.func.hessian(f)(x) for x in X])
    assert_close(torch.vmap(torch.func.hessian(f))(X), hessians, 1e-13)


def test_vmap_of_pairs_runs_the_stacked_kernels(monkeypatch):
    X = torch.stack([tensor((4, 3), seed=seed) for seed in range(5)])
    stacked = ict.extreme_pairs(X)
    kernel, calls = ic._core.extreme_pairs, []
    monkeypatch.setattr(
        ic._core,
        "extreme_pairs",
        lambda X, **rest: calls.append(X.shape) or kernel(X, **rest),
    )
    mapped = torch.vmap(lambda x: tuple(ict.extreme_pairs(x)))(X)
    assert calls == [(5, 4, 3)]
    for a, b in zip(mapped, stacked, strict=True):
        assert torch.equal(a, b)

    def v_min(x):
        return ict.extreme_pairs(x).v_min

    jacobians = torch.stack([torch.func.jacrev(v_min)(x) for x in X])
    assert_close(torch.vmap(torch.func.jacrev(v_min))(X), jacobians, 1e-13)
    assert_close(torch.vmap(torch.func.jacfwd(v_min))(X), jacobians, 1e-12)


def test_forward_mode_is_never_silently_zero():
    X = tensor((4, 3))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(X, torch.ones_like(X))
        change = forward_ad.unpack_dual(ict.r_ill(features=dual)).tangent
        expected = torch.func.grad(lambda x: ict.r_ill(features=x))(X).sum()
        assert_close(change, expected, 1e-12)
        with pytest.raises(NotImplementedError, match="no forward-mode derivative of its own"):
            torch.ops.immucond.spectral(dual, "r_ill", True, None, None, None, 0, True)
        with pytest.raises((RuntimeError, NotImplementedError), match="jvp"):
            ict.precondition(dual, torch.eye(4, dtype=torch.float64))


def test_gradients_that_nobody_wants_are_not_computed(monkeypatch):
    X, asked = tensor((4, 3)), []
    kernel = ic._core.evaluate_features

    def recording(Z, *, gradient, **rest):
        asked.append(gradient)
        return kernel(Z, gradient=gradient, **rest)

    monkeypatch.setattr(ic._core, "evaluate_features", recording)
    ict.r_ill(features=X)
    with torch.no_grad():
        ict.r_ill(features=X.clone().requires_grad_())
    ict.r_ill(features=X.requires_grad_()).backward()
    assert asked == [False, False, True]


def test_other_operations_around_it():
    X = tensor((5, 4))
    weight = tensor((4, 4), seed=9)

    def f(r):
        return lambda w: (3.0 * r(features=torch.tanh(X @ w)) ** 2 + w.sum()).sin()

    gradient = torch.func.grad(f(ict.log_kappa))(weight)
    expected = torch.func.grad(f(lambda features: by_svd("log_kappa", "features", features)))
    assert_close(gradient, expected(weight), 1e-10)
