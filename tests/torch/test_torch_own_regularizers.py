"""Regularizers of one's own in PyTorch, on the same coefficients as in NumPy."""

import math

import numpy as np
import pytest
from torch_cases import INPUTS, SHAPES, assert_close, by_svd, tensor, torch
from torch_cases import kernels as kernels  # a fixture

import immucond as ic
import immucond.torch as ict


def well(s):
    return s.below_max / (2 * s.p), s.sigma_max, 0.0, -1 / s.p


def ill(s):
    D = s.above_min / (2 * s.rank)
    return 1 / D, 0.0, s.sigma_min / D**2, -1 / (s.rank * D**2)


def log_kappa(s):
    return np.log(s.sigma_max) - np.log(s.sigma_min), 1 / s.sigma_max, -1 / s.sigma_min, 0.0


def spread(s):
    """sqrt(kappa), beside a branch and more of NumPy's functions."""
    root = np.sqrt(s.sigma_max / s.sigma_min)
    assert s.sigma_max >= s.sigma_min
    return root, root / (2 * s.sigma_max), -np.exp(np.log(root)) / (2 * s.sigma_min), 0.0


def mixed(s):
    """sigma_1^3 sigma_k / F, which moves with both ends and with F."""
    F = s.p * s.sigma_max**2 - s.below_max
    return (
        s.sigma_max**3 * s.sigma_min / F,
        3 * np.square(s.sigma_max) * s.sigma_min / F,
        s.sigma_max**3 * np.reciprocal(F),
        -2 * s.sigma_max**3 * s.sigma_min / np.power(F, 2),
    )


OWN = {
    "r_well": ic.SpectralRegularizer("mine", 2, well),
    "r_ill": ic.SpectralRegularizer("kappa", -2, ill),  # the name decides nothing
    "log_kappa": ic.SpectralRegularizer("mine", 0, log_kappa),
}
SPREAD = ic.SpectralRegularizer("spread", 0, spread)
MIXED = ic.SpectralRegularizer("mixed", 2, mixed)
BOTH = pytest.mark.parametrize("own", [SPREAD, MIXED], ids=lambda r: r.name)


@INPUTS
@pytest.mark.parametrize("name", OWN)
def test_the_formulas_of_the_built_in_ones_give_their_values_and_gradients(kernels, name, given):
    found = []
    for value in (
        lambda X: ict.evaluate(OWN[name], **{given: X}),
        lambda X: ict.evaluate(getattr(ic, name), **{given: X}),
    ):
        X = torch.stack([tensor((5, 4)), tensor((5, 4), seed=1)]).requires_grad_()
        values = value(X)
        values.sum().backward()
        found.append((values, X.grad))
    for got, expected in zip(*found, strict=True):
        assert_close(got, expected)


@INPUTS
@SHAPES
@BOTH
def test_first_and_second_derivatives(own, given, shape):
    X = tensor(shape).requires_grad_()

    def value(X):
        return ict.evaluate(own, **{given: X})

    assert torch.autograd.gradcheck(value, X)
    assert torch.autograd.gradgradcheck(value, X)


@INPUTS
@pytest.mark.parametrize("name", OWN)
def test_hessians_by_every_transform(name, given):
    X = tensor((3, 3))

    def value(X):
        return ict.evaluate(OWN[name], **{given: X})

    expected = torch.func.hessian(lambda X: by_svd(name, given, X))(X)
    for transform in (
        torch.func.jacrev(torch.func.jacrev(value)),
        torch.func.jacfwd(torch.func.jacrev(value)),
        torch.func.jacfwd(torch.func.jacfwd(value)),
    ):
        assert_close(transform(X), expected, 1e-8)


def test_a_stack_has_the_derivatives_of_its_matrices():
    Z = torch.stack([tensor((5, 3), seed=seed) for seed in range(3)]).requires_grad_()
    W = torch.randn_like(Z)

    def product(Z, W):
        (gradient,) = torch.autograd.grad(
            ict.evaluate(MIXED, features=Z).sum(), Z, create_graph=True
        )
        return torch.autograd.grad((gradient * W).sum(), Z)[0]

    together = product(Z, W)
    for one, direction, expected in zip(Z.detach(), W, together, strict=True):
        assert_close(product(one.requires_grad_(), direction), expected)


@pytest.mark.filterwarnings("ignore::immucond.DegenerateSpectrumWarning")
def test_an_end_that_a_coefficient_leaves_out_may_be_tied():
    S = torch.diag(torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64)).requires_grad_()
    (gradient,) = torch.autograd.grad(ict.evaluate(OWN["r_well"], S), S, create_graph=True)
    gradient.square().sum().backward()
    assert S.grad.isfinite().all()
    with pytest.raises(ic.DegenerateSpectrumError):
        torch.func.hessian(lambda S: ict.evaluate(MIXED, S))(S.detach())


def test_coefficients_that_want_a_float_have_no_second_derivative():
    own = ic.SpectralRegularizer(
        "log norm", 0, lambda s: (math.log(s.sigma_max), 1 / s.sigma_max, 0.0, 0.0)
    )
    S = tensor((4, 3)).requires_grad_()
    (gradient,) = torch.autograd.grad(ict.evaluate(own, S), S, create_graph=True)
    with pytest.raises(TypeError, match=r"coefficients of log norm .*numpy\.log in place of math"):
        gradient.sum().backward()
    odd = ic.SpectralRegularizer("odd", 1, lambda s: (s.sigma_max, np.cos(s.rank), 0.0, 0.0))
    (gradient,) = torch.autograd.grad(ict.evaluate(odd, S), S, create_graph=True)
    with pytest.raises(TypeError, match=r"coefficients of odd .*numpy\.cos"):
        gradient.sum().backward()


def test_a_power_of_a_number_keeps_the_digits_of_float64():
    def coefficients(s):
        value, c = 0.3 ** (s.sigma_min / s.sigma_max), np.log(0.3)
        return value, -c * value * s.sigma_min / s.sigma_max**2, c * value / s.sigma_max, 0.0

    def by_values(S):
        sigma = torch.linalg.svdvals(S)
        return 0.3 ** (sigma[-1] / sigma[0])

    own, S = ic.SpectralRegularizer("power", 0, coefficients), tensor((4, 3))
    found = torch.func.hessian(lambda S: ict.evaluate(own, S))(S)
    assert_close(found, torch.func.hessian(by_values)(S), 1e-12)


def test_what_is_no_regularizer_is_refused():
    with pytest.raises(TypeError, match="regularizer must be a SpectralRegularizer, and is a str"):
        ict.evaluate("kappa", torch.eye(2))


def test_compiled_before_any_call():
    """Its name is known when the graph runs, of each regularizer that one program is given."""
    compiled = torch.compile(lambda S, r: ict.evaluate(r, S), backend="aot_eager", fullgraph=True)
    X = tensor((4, 3))
    for factor in (1.0, 2.0, 3.0):
        own = ic.SpectralRegularizer("norm", 1, lambda s, c=factor: (c * s.sigma_max, c, 0.0, 0.0))
        for _ in range(2):
            assert_close(compiled(X, own), factor * torch.linalg.matrix_norm(X, 2))


def test_compiled():
    compiled = torch.compile(lambda S: ict.evaluate(MIXED, S), backend="aot_eager")
    X = tensor((4, 3)).requires_grad_()
    compiled(X).backward()
    expected = X.grad
    X.grad = None
    ict.evaluate(MIXED, X).backward()
    assert_close(X.grad, expected)
