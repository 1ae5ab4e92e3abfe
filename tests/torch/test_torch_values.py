"""immucond.torch: values and gradients, of every dtype, layout, rank and scale, by every kernel."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given as examples
from hypothesis import strategies as st
from matrices import LAYOUTS, generators, quiet, with_singular_values
from torch_cases import (
    FUNCTIONS,
    INPUTS,
    NAMES,
    SHAPES,
    assert_close,
    by_svd,
    core_value_and_grad,
    tensor,
    torch,
)
from torch_cases import kernels as kernels  # a fixture

import immucond as ic
import immucond.torch as ict


def value_and_grad(function, given, X, **options):
    X = X.detach().requires_grad_()
    value = function(**{given: X}, **options)
    value.sum().backward()
    return value.detach(), X.grad


@NAMES
@INPUTS
@SHAPES
def test_against_autograd_through_the_svd(kernels, name, given, shape):
    X = tensor(shape)
    value, gradient = value_and_grad(FUNCTIONS[name], given, X)
    expected, by_X = value_and_grad(lambda **x: by_svd(name, given, x[given]), given, X)
    assert_close(value, expected, 1e-12)
    assert_close(gradient, by_X)
    assert FUNCTIONS[name](**{given: X}) == value  # nothing to differentiate: the value alone


@NAMES
@INPUTS
@pytest.mark.parametrize("k", [2, 3])
def test_below_full_rank(kernels, name, given, k):
    X = tensor((6, 5), k)
    for options in ({"rank": k}, {"rtol": 1e-9}, {"computed_in": "float32"}, {}):
        value, gradient = value_and_grad(FUNCTIONS[name], given, X, **options)
        expected, by_X = core_value_and_grad(name, given, X.numpy(), rank=k)
        assert_close(value, expected, 1e-11)
        assert_close(gradient, by_X)


@examples(
    rng=generators,
    shape=st.sampled_from([(7, 3), (3, 7), (4, 4)]),
    exponent=st.sampled_from([-120, -40, 0, 37, 120]),
)
def test_the_pure_torch_kernel_is_the_core_at_every_scale(rng, shape, exponent):
    from immucond._rank import rank_rule
    from immucond.torch._kernels import CPU, FALLBACK

    k = int(rng.integers(2, 4))
    X = torch.from_numpy(with_singular_values(rng, *shape, rng.random(k) + 0.1) * 2.0**exponent)
    for features in (False, True):
        given = "features" if features else "matrix"
        rule = rank_rule(shape, X.dtype, rank=None, rtol=None, computed_in=None, given=given)
        for r in (ic.r_well, ic.r_ill, ic.kappa, ic.log_kappa):
            for p in (0, -1, 9):
                options = {"features": features, "rule": rule, "p": p}
                a, b = (m.evaluate(r, X, gradient=True, **options) for m in (CPU, FALLBACK))
                assert np.isclose(a[0], b[0], rtol=1e-7)
                assert_close(a[1], b[1], 1e-7)
                assert a[2:] == b[2:]
        a, b = (m.pairs(X, features=features, rule=rule) for m in (CPU, FALLBACK))
        for field in ("sigma_max", "u_max", "v_max", "sigma_min", "rank"):
            assert_close(getattr(b, field), getattr(a, field), 1e-7)


@NAMES
@INPUTS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_are_accumulated_in_float64(kernels, name, given, dtype):
    X = tensor((8, 3)).to(dtype)
    value, gradient = value_and_grad(FUNCTIONS[name], given, X)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert (value.dtype, gradient.dtype) == (wide, dtype)
    expected, by_X = core_value_and_grad(name, given, X.double().numpy(), rank=3)
    assert_close(value, expected, max(1e-13, 4 * torch.finfo(wide).eps))
    assert_close(gradient, by_X, max(1e-12, 4 * torch.finfo(dtype).eps))


def test_the_rank_follows_the_dtype_in_which_features_were_computed():
    X = tensor((60, 9), 5)
    ranks = {
        torch.float64: ict.extreme_pairs(features=X).rank,
        torch.float32: ict.extreme_pairs(features=X.float()).rank,
        "kept": ict.extreme_pairs(features=X.float().double(), computed_in=torch.float32).rank,
        "NumPy": ict.extreme_pairs(features=X.float().double(), computed_in=np.float32).rank,
        "half": quiet(
            ict.extreme_pairs, features=X.bfloat16().double(), computed_in="bfloat16"
        ).rank,
    }
    assert {key: int(rank) for key, rank in ranks.items()} == dict.fromkeys(ranks, 5)
    assert int(ict.extreme_pairs(features=X.float().double()).rank) == 9


@NAMES
@INPUTS
def test_any_strides(kernels, name, given):
    X = tensor((7, 4))
    expected = value_and_grad(FUNCTIONS[name], given, X)
    views = [
        torch.from_numpy(change(X.numpy()))
        for layout, change in LAYOUTS.items()
        if layout in ("Fortran", "padded rows", "padded columns", "sliced")
    ]
    wide = X[None].expand(3, -1, -1)
    negated = torch.complex(X, -X).conj().imag
    assert negated.is_neg()
    views += [X.mT.contiguous().mT, wide[1], torch.stack([X, X], -1)[..., 0], negated]
    for view in views:
        value, gradient = value_and_grad(FUNCTIONS[name], given, view)
        assert_close(value, expected[0], 1e-12)
        assert_close(gradient, expected[1])


@NAMES
@INPUTS
def test_a_stack_is_its_matrices(kernels, name, given):
    X = torch.stack([tensor((5, 3), seed=seed) for seed in range(6)])
    expected = [value_and_grad(FUNCTIONS[name], given, x) for x in X]
    for stack in (X, X.reshape(2, 3, 5, 3)):
        value, gradient = value_and_grad(FUNCTIONS[name], given, stack)
        assert value.shape == stack.shape[:-2]
        assert_close(value.flatten(), torch.stack([v for v, _ in expected]), 1e-14)
        assert_close(gradient.reshape(X.shape), torch.stack([g for _, g in expected]), 1e-14)


@INPUTS
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (2, 5, 3)], ids=str)
def test_extreme_pairs(kernels, given, shape):
    X = tensor(shape[-2:])
    X = X if len(shape) == 2 else torch.stack([X, 2 * X.flip(0)])
    pairs = ict.extreme_pairs(**{given: X})
    H = X.mT @ X
    u, sigma, vh = torch.linalg.svd(X if given == "S" else H, full_matrices=False)
    k = min(shape[-2:])
    for at, end in ((0, "max"), (k - 1, "min")):
        assert_close(getattr(pairs, f"sigma_{end}"), sigma[..., at], 1e-12)
        got_u, got_v = getattr(pairs, f"u_{end}"), getattr(pairs, f"v_{end}")
        outer = got_u[..., :, None] * got_v[..., None, :]
        assert_close(outer, u[..., :, at, None] * vh[..., None, at, :])
        assert (got_v.gather(-1, got_v.abs().argmax(-1, keepdim=True)) > 0).all()
    assert (pairs.rank == k).all()
    assert pairs.simple_max.all()
    assert pairs.simple_min.all()


def test_p_counts_all_singular_values_or_the_nonzero_ones(kernels):
    Z = tensor((3, 7))
    for p, count in ((None, 7), ("rank", 3)):
        value, gradient = value_and_grad(ict.r_well, "features", Z, p=p)
        expected = value_and_grad(
            lambda features, count=count: by_svd("r_well", "features", features, count),
            "features",
            Z,
        )
        assert_close(value, expected[0], 1e-12)
        assert_close(gradient, expected[1])


def test_features_that_a_gram_matrix_would_lose(kernels):
    rng = np.random.default_rng(5)
    Z = with_singular_values(rng, 40, 6, np.geomspace(1.0, 1e-9, 6))
    value = ict.condition_number(features=torch.from_numpy(Z))
    assert np.isclose(value.item(), 1e18, rtol=1e-5)


def test_what_the_value_of_float32_cannot_hold_is_an_overflow_error(kernels):
    X = tensor((4, 3)).float()
    with pytest.raises(OverflowError, match="r_well is not representable in float32"):
        ict.r_well(X * 1e30)
    with pytest.raises(OverflowError, match="gradient of kappa is not representable in float32"):
        ict.condition_number((X * 1e-39).requires_grad_())
    with pytest.raises(OverflowError, match="not representable in float64"):
        ict.r_well(X.double() * 1e160)


def test_a_function_without_gradients_still_rescales():
    X = tensor((4, 3))
    assert np.isclose(ict.r_well(X * 1e-30).item(), ict.r_well(X).item() * 1e-60)
    assert quiet(ict.condition_number, X * 1e150).item() == pytest.approx(
        ict.condition_number(X).item(), rel=1e-12
    )


BEYOND = torch.from_numpy(np.random.default_rng(0).normal(size=(9, 3)) * 1e-42).float()
LABELS = torch.arange(9.0)[:, None] ** 2


@pytest.mark.parametrize(
    "function",
    [
        lambda Z: ict.condition_number(features=Z),
        lambda Z: ict.condition_number(features=Z, ridge=1e-80),
        lambda Z: ict.condition_number(Z[:3, 0].abs().diag(), ridge=1e-43),
        lambda Z: ict.r_align(Z, LABELS),
        lambda Z: ict.r_align(LABELS, Z),
    ],
)
def test_a_gradient_beyond_float32_is_no_infinity(function):
    Z = BEYOND.clone().requires_grad_()
    with pytest.raises(OverflowError, match="not representable in float32"):
        function(Z).backward()
    assert torch.autograd.grad(function(wide := Z.double()), wide)[0].isfinite().all()


# ---- under a ridge ----


@INPUTS
@pytest.mark.parametrize(("shape", "k"), [((7, 4), 4), ((7, 4), 2), ((3, 5), 3), ((4, 4), 4)])
@pytest.mark.parametrize("ridge", [1e-6, 0.3, 1e3])
def test_condition_number_under_a_ridge(kernels, given, shape, k, ridge):
    Z = tensor(shape, k)
    X = Z if given == "features" else Z.mT @ Z
    value, gradient = value_and_grad(lambda **x: ict.condition_number(**x, ridge=ridge), given, X)
    assert_close(value, ic.condition_number(**{given: X.numpy()}, ridge=ridge), 1e-9)
    if k < shape[1] and given == "S":
        return  # the smallest eigenvalue, zero, is not simple
    expected, by_X = value_and_grad(lambda **x: by_eigvalsh(x[given], given, ridge), given, X)
    assert_close(value, expected, 1e-6)
    assert_close(gradient, by_X, 1e-6)


def by_eigvalsh(X, given, ridge):
    sigma = torch.linalg.eigvalsh(X.mT @ X if given == "features" else X) + ridge
    return sigma[-1] / sigma[0]


def test_a_ridge_with_the_other_keywords():
    Z = tensor((6, 4))
    for options in ({"rank": 2}, {"rtol": 0.4}):
        expected = ic.condition_number(features=Z.numpy(), ridge=0.1, **options)
        assert_close(ict.condition_number(features=Z, ridge=0.1, **options), expected, 1e-12)
    stack = torch.stack([Z, 2 * Z])
    apart = [ict.condition_number(features=X, ridge=0.1) for X in stack]
    assert torch.equal(ict.condition_number(features=stack, ridge=0.1), torch.stack(apart))
    assert ict.condition_number(features=Z.float(), ridge=0.1).dtype == torch.float32
    by_rows = torch.func.vmap(lambda X: ict.condition_number(features=X, ridge=0.1))(stack)
    assert_close(by_rows, torch.stack(apart), 1e-12)
    kappa = torch.compile(
        lambda X: ict.condition_number(X.mT @ X, ridge=0.1), fullgraph=True, backend="eager"
    )
    assert_close(kappa(Z), ict.condition_number(features=Z, ridge=0.1), 1e-9)
    function = partial(ict.condition_number, ridge=0.1)
    assert torch.autograd.gradgradcheck(lambda X: function(features=X), Z.requires_grad_())


@pytest.mark.parametrize(
    "S", [[[1.0, 2.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, -1.0]], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]
)
def test_a_ridge_needs_a_psd_matrix(S):
    with pytest.raises(ValueError, match="S must be symmetric positive semidefinite"):
        ict.condition_number(torch.tensor(S), ridge=0.1)
    with pytest.raises(ValueError, match="ridge must be in"):
        ict.condition_number(torch.tensor(S), ridge=-0.1)


@pytest.mark.filterwarnings("ignore::immucond.DegenerateSpectrumWarning")
@pytest.mark.parametrize("ridge", [1e-6, 1e-8])
def test_a_ridge_shifts_the_eigenvalues_of_the_symmetric_part(ridge):
    S = torch.diag(torch.tensor([1.0, 1e-8, 1e-8]))
    S[2, 1], S[1, 2] = 9e-7, -9e-7  # no more than rounding in float32
    value, gradient = value_and_grad(partial(ict.condition_number, ridge=ridge), "S", S)
    smallest = 1e-8 + ridge
    assert_close(value, (1.0 + ridge) / smallest, 1e-6)
    each = -(1.0 + ridge) / smallest**2 / 2.0
    expected = torch.diag(torch.tensor([1.0 / smallest, each, each]))
    assert_close(gradient, expected, 1e-5)


def test_a_ridge_needs_a_square_matrix_in_transformed_programs_too():
    S = torch.ones(2, 2, 3)
    told = r"S must be symmetric positive semidefinite .*, and has shape \(2, 3\)"
    with pytest.raises(ValueError, match=told):
        torch.func.vmap(partial(ict.condition_number, ridge=1.0))(S)
    with pytest.raises(ValueError, match=told):
        torch.func.grad(partial(ict.condition_number, ridge=1.0))(S[0])


def test_a_ridge_takes_rounding_for_what_it_is():
    v = torch.tensor([1.0, 0.3])
    K = torch.outer(v, v)  # float32: its smallest eigenvalue is -3.3e-9
    assert_close(ict.condition_number(K, ridge=1e-6), torch.tensor(1.09 / 1e-6 + 1), 1e-5)
    rng = np.random.default_rng(0)
    for dtype in (torch.float32, torch.float16):
        for n in (16, 80):
            Z = torch.tensor(rng.normal(size=(n // 2, n))).to(dtype)
            K = Z.T @ Z
            expected = ic.condition_number(K.numpy(), ridge=1.0)
            assert_close(ict.condition_number(K, ridge=1.0).double(), torch.tensor(expected), 2e-3)
    S = torch.tensor([[1, 0.5], [0.5 + 1e-7, 1]], dtype=torch.float64)
    kappa = ict.condition_number(S, ridge=0.1, computed_in=torch.float32)
    assert_close(kappa, torch.tensor(1.6 / 0.6, dtype=torch.float64), 1e-6)
    half = torch.eye(512, dtype=torch.float16)
    half[0, 1] = 0.5
    with pytest.raises(ValueError, match="S must be symmetric"):
        ict.condition_number(half, ridge=0.1)


@INPUTS
def test_so_many_singular_values_may_count(kernels, given):
    X = tensor((4, 3)).requires_grad_()
    value, expected = ict.r_well(**{given: X}, p=9), by_svd("r_well", given, X, p=9)
    assert_close(value, expected)
    assert_close(*(torch.autograd.grad(y, X)[0] for y in (value, expected)))
    hessians = (
        torch.func.hessian(f)(X.detach())
        for f in (
            lambda X: ict.r_well(**{given: X}, p=9),
            lambda X: by_svd("r_well", given, X, p=9),
        )
    )
    assert_close(*hessians)
    with pytest.raises(ValueError, match="p must be at least the rank, 3, and is 2"):
        ict.r_well(**{given: X}, p=2)


@pytest.mark.parametrize("scale", [1.0, 1e-250, 1e250])
def test_a_ridge_of_any_scale(scale):
    """Also where sums pass the range, and an eigenvalue is below it beside the largest."""
    for S, ridge, kappa in (
        ([1.2e58, 1.0, 1.0], 1e57, 13.0),
        ([1.0, 1e-200, 1.0], 1.0, 2.0),
        ([1.0, 0.0, 0.0], 1e-57, 1e57),
    ):
        S = torch.tensor(S, dtype=torch.float64) * scale
        if S.isfinite().all():
            assert_close(ict.condition_number(torch.diag(S), ridge=ridge * scale), kappa, 1e-14)
    Z = torch.diag(torch.tensor([1.0, 1e-200, 1.0], dtype=torch.float64))
    assert_close(ict.condition_number(features=Z, ridge=1.0), 2.0, 1e-14)
    assert_close(ict.condition_number(0.7e308 * Z, ridge=1.7e308), 2.4 / 1.7, 1e-14)


def test_a_ridge_that_leaves_a_ratio_beyond_the_range_is_an_overflow_error():
    S = torch.diag(torch.tensor([1.0, 0.0]))
    with pytest.raises(OverflowError, match="not representable in float32"):
        ict.condition_number(S, ridge=1e-40)
    assert_close(ict.condition_number(S.double(), ridge=1e-40), 1e40, 1e-14)
    with pytest.raises(OverflowError, match="not representable in float64"):
        ict.condition_number(S.double(), ridge=1e-310)


def test_a_ridge_says_where_a_number_is_not_finite():
    with pytest.raises(ValueError, match="S must be finite, and holds NaN at row 1"):
        ict.condition_number(torch.tensor([[1.0, 0.0], [torch.nan, 1.0]]), ridge=1.0)
