"""immucond.torch at the ends of what is defined: ties, NaN, rank 0, wrong arguments."""

import warnings

import numpy as np
import pytest
from torch_cases import FUNCTIONS, INPUTS, NAMES, assert_close, core_value_and_grad, tensor, torch
from torch_cases import kernels as kernels  # a fixture

import immucond as ic
import immucond.torch as ict


def caught(function):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = function()
    return result, seen


def tied(dtype=None):
    return torch.diag(torch.tensor([2.0, 2.0, 1.5, 1.0, 1.0], dtype=dtype or torch.float64))


@NAMES
@INPUTS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_ties_give_the_mean_over_the_group_and_one_warning(kernels, name, given, dtype):
    X = tied(dtype).requires_grad_()

    def step():
        value = FUNCTIONS[name](**{given: X})
        value.backward()
        return value

    value, seen = caught(step)
    assert [w.category for w in seen] == [ic.DegenerateSpectrumWarning]
    assert seen[0].filename == __file__
    assert f"that {name} uses is not simple" in str(seen[0].message)
    X64 = tied().numpy()
    expected, by_X = caught(lambda: core_value_and_grad(name, given, X64))[0]
    assert_close(value, expected, 1e-6)
    assert_close(X.grad, by_X, 0.01 if dtype == torch.bfloat16 else 1e-6)
    assert X.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore::immucond.AccuracyWarning")
def test_a_kappa_beyond_the_float_range(kernels):
    Z = torch.diag(torch.tensor([1.0, 1e-160], dtype=torch.float64))
    with pytest.raises(OverflowError, match="not representable in float64"):
        ict.condition_number(features=Z, rank=2)


def test_the_warning_is_shown_once_a_call_site():
    X = tied().requires_grad_()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(5):
            ict.r_well(X).backward()
    assert len(seen) == 1


def test_a_module_warns_at_the_line_that_calls_it():
    _, seen = caught(lambda: ict.RWell()(tied().requires_grad_()))
    assert [w.filename for w in seen] == [__file__]


def test_a_stack_warns_once():
    X = torch.stack([tied(), tied(), tied()]).requires_grad_()
    _, seen = caught(lambda: ict.log_kappa(X))
    assert len(seen) == 1
    _, seen = caught(lambda: ict.extreme_pairs(X))
    assert [w.category for w in seen] == [ic.DegenerateSpectrumWarning]


@pytest.mark.parametrize("name", ["r_well", "log_kappa", "kappa"])
@INPUTS
def test_equal_singular_values_have_gradient_zero_and_no_warning(kernels, name, given):
    X = (3.0 * torch.eye(4, dtype=torch.float64)).requires_grad_()
    value = FUNCTIONS[name](**{given: X})
    value.backward()
    assert_close(value, 1.0 if name == "kappa" else 0.0, 1e-15)
    assert not X.grad.any()


@INPUTS
def test_r_ill_at_equal_singular_values_is_an_error(kernels, given):
    with pytest.raises(ic.DegenerateSpectrumError, match="all nonzero singular values are equal"):
        ict.r_ill(**{given: torch.eye(4, requires_grad=True)})


@NAMES
@INPUTS
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_nan_never_passes(kernels, name, given, bad, dtype):
    X = tensor((4, 3)).to(dtype)
    X[2, 1] = bad
    with pytest.raises(ValueError, match="must be finite"):
        FUNCTIONS[name](**{given: X})
    with pytest.raises(ValueError, match="must be finite"):
        ict.extreme_pairs(**{given: X})


@NAMES
@INPUTS
def test_rank_0(kernels, name, given):
    with pytest.raises(ValueError, match="rank 0"):
        FUNCTIONS[name](**{given: torch.zeros(3, 2)})


def test_a_ridge_over_nothing_is_the_ridge(kernels):
    """0 + ridge I has condition number 1 and gradient 0, alone, in a stack and below vmap."""
    S = torch.stack([torch.zeros(3, 3), torch.diag(torch.tensor([3.0, 2.0, 1.0]))])
    S.requires_grad_()
    found = ict.condition_number(S, ridge=1.0)
    assert found.tolist() == [1.0, 2.0]
    (grad,) = torch.autograd.grad(found.sum(), S)
    assert torch.equal(grad[0], torch.zeros(3, 3))
    assert grad[1].abs().max() > 0.1
    below = torch.func.vmap(lambda s: ict.condition_number(s, ridge=1.0))(S.detach())
    assert below.tolist() == [1.0, 2.0]
    Z = torch.zeros(4, 3, dtype=torch.bfloat16)
    assert ict.condition_number(features=Z, ridge=1e-6) == 1.0
    with pytest.raises(ValueError, match="rank"):
        ict.condition_number(features=Z, ridge=1e-6, rank=2)


def test_noise_is_told(kernels):
    S = torch.diag(torch.tensor([1.0, 0.5, 1e-17], dtype=torch.float64)).requires_grad_()
    value, seen = caught(lambda: ict.log_kappa(S, rank=3))
    assert [w.category for w in seen] == [ic.AccuracyWarning]
    assert value.isfinite()
    _, seen = caught(lambda: ict.r_well(S, rank=3))
    assert seen == []


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((), {}, ValueError, "got neither"),
        ((torch.eye(2),), {"features": torch.eye(2)}, ValueError, "got both"),
        ((np.eye(2),), {}, TypeError, "S must be a torch.Tensor, and is ndarray"),
        ((), {"features": [[1.0]]}, TypeError, "features must be a torch.Tensor, and is list"),
        ((torch.eye(2, dtype=torch.int64),), {}, TypeError, "S must hold float64.*int64"),
        ((torch.eye(2, dtype=torch.complex64),), {}, TypeError, "complex64"),
        ((torch.eye(2).to_sparse(),), {}, TypeError, r"dense.*sparse_coo.*S\.to_dense\(\)"),
        ((torch.ones(3),), {}, ValueError, r"matrix with at least one entry.*\(3,\)"),
        ((), {"features": torch.ones(0, 3)}, ValueError, r"features must be.*\(0, 3\)"),
        ((torch.eye(2),), {"rank": 3}, ValueError, "rank must be between 1 and 2"),
        ((torch.eye(2),), {"rank": 1.5}, TypeError, "rank must be an integer"),
        ((torch.eye(2),), {"rtol": 1.0}, ValueError, "rtol must be in"),
        ((torch.eye(2),), {"computed_in": "float8"}, (TypeError, ValueError), "computed_in"),
        ((torch.eye(2),), {"group": "world"}, ValueError, "group goes with features"),
    ],
)
@NAMES
def test_wrong_arguments_are_named(name, arguments, keywords, error, message):
    with pytest.raises(error, match=message):
        FUNCTIONS[name](*arguments, **keywords)
    if "group" not in keywords:
        with pytest.raises(error, match=message):
            ict.extreme_pairs(*arguments, **keywords)


def test_p():
    with pytest.raises(ValueError, match="p must be None, 'rank' or a positive integer"):
        ict.r_well(torch.eye(2), p="all")


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_tensors_are_told_to_be_sparse_by_the_numpy_interface_too():
    for given in (torch.eye(2).to_sparse(), torch.eye(2).to_sparse_csr()):
        with pytest.raises(TypeError, match=r"X is sparse \(Tensor\).*to_dense\(\)"):
            ic.gram(given)
        with pytest.raises(TypeError, match=r"features must be a dense tensor, and is sparse"):
            ict.r_ill(features=given)


@pytest.mark.filterwarnings(
    "ignore:The PyTorch API of nested tensors", "ignore:The PyTorch API of M"
)
@pytest.mark.parametrize("kind", ["nested", "jagged", "MaskedTensor"])
def test_what_is_not_laid_out_as_a_matrix_is_told_by_its_kind(kind):
    parts = [torch.eye(3), torch.ones(2, 3)]
    if kind == "MaskedTensor":
        X = torch.masked.masked_tensor(parts[0], parts[0] > 0)
    else:
        X = torch.nested.nested_tensor(
            parts, layout=torch.strided if kind == "nested" else torch.jagged
        )
        assert torch.equal(torch.cat(X.unbind()), torch.cat(parts))
    told = "must be a dense tensor, and is " + ("a Masked" if kind == "MaskedTensor" else "nested")
    for call in (
        *(lambda f=f: f(features=X) for f in FUNCTIONS.values()),
        lambda: ict.condition_number(X, ridge=1.0),
        lambda: ict.extreme_pairs(X),
        lambda: ict.r_well(features=X, mask=torch.ones(2, 3)),
        lambda: ict.r_align(X, torch.ones(3, 1)),
        lambda: ict.r_align(torch.eye(3), X),
        lambda: ict.gram(X),
        lambda: ict.precondition(torch.eye(3), X),
    ):
        with pytest.raises(TypeError, match=told):
            call()


@pytest.mark.parametrize("spectrum", [(2.0, 2.0, 1.0), (2.0, 1.0, 1.0), (3.0, 3.0, 3.0)])
@pytest.mark.parametrize("of_features", [False, True])
def test_under_a_ridge_too_ties_give_the_mean_over_the_group(spectrum, of_features):
    Q = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0])
    s, ridge = torch.tensor(spectrum, dtype=torch.float64), 0.1
    X = torch.sqrt(s)[:, None] * Q.T if of_features else (Q * s) @ Q.T
    X = (X if of_features else (X + X.T) / 2).requires_grad_()
    given = {"features" if of_features else "S": X}
    value, seen = caught(lambda: ict.condition_number(**given, ridge=ridge))
    equal = bool(s.max() == s.min())
    assert [w.category for w in seen] == [ic.DegenerateSpectrumWarning] * (not equal)
    (gradient,) = torch.autograd.grad(value, X, create_graph=True)
    top, bottom = (s == s.max()).double(), (s == s.min()).double()
    slope = top / top.sum() / (s.min() + ridge)
    slope = slope - bottom / bottom.sum() * (s.max() + ridge) / (s.min() + ridge) ** 2
    G = (Q * slope) @ Q.T
    assert torch.allclose(gradient, 2.0 * X @ G if of_features else G, atol=1e-12)
    with pytest.raises(ic.DegenerateSpectrumError):
        gradient.square().sum().backward()
