"""Rows spread over processes: the value at all rows, and each rank's part of the one gradient."""

import warnings

import mpmath
import numpy as np
import pytest
import torch_ranks
from torch_cases import assert_close, on_ranks, tensor, torch
from torch_ranks import DTYPES, FUNCTIONS, GRADED, SCALES, SPLITS, WIDTH, graded, losses, rows_of

import immucond as ic
import immucond.torch as ict


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_against_one_process(world, tmp_path):
    # One test for all: starting the processes takes longer than what they do, even from a server
    # that has imported PyTorch already.
    results = on_ranks(torch_ranks.work, world, tmp_path)
    for kind, split in SPLITS[world].items():
        for dtype_name in DTYPES:
            check_regularizers(results, kind, split, dtype_name)
        check_gram(results, kind, split)
    check_masks(results, world)
    check_bits(results)
    check_errors(results)
    Z = rows_of(split, torch.bfloat16).double().requires_grad_()
    value = ict.r_well(features=Z)
    value.backward()
    for result in results:
        assert result["sharded"][0] == result["by mesh"][0] == result["not sharded"][0]
        assert_close(result["sharded"][0], value.detach(), 1e-9)
    net = torch_ranks.layer()
    expected = 2.0 * ict.r_ill(features=net(rows_of(split, torch.bfloat16).double()))
    expected.backward()
    for result in results:
        for found, right in zip(result["averaged"], (expected, net.weight.grad), strict=True):
            assert_close(found, right.detach(), 1e-9)
    found = torch.cat([result["sharded"][1] for result in results])
    assert torch.allclose(found, Z.grad, rtol=1e-9, atol=1e-9 * float(Z.grad.abs().max()))
    Z = rows_of(split, torch.bfloat16).double()
    assert_close(results[0]["loss"][0], ict.ImmunizationLoss(0.1, 2.0)(Z, 2 * Z), 1e-9)


def check_regularizers(results, kind, split, dtype_name):
    dtype = DTYPES[dtype_name]
    eps = torch.finfo(dtype).eps
    for number, (name, options) in enumerate(losses()):
        Z = rows_of(split, dtype).requires_grad_()
        value = FUNCTIONS[name](features=Z, **options)
        (gradient,) = torch.autograd.grad(value, Z)
        largest = gradient.abs().max()
        for result, by_rows in zip(results, gradient.split(split), strict=True):
            found, grad = result[kind, dtype_name, number]
            assert (found.dtype, grad.dtype, grad.shape) == (value.dtype, dtype, by_rows.shape)
            assert_close(found, value, max(1e-9, 4 * torch.finfo(found.dtype).eps))
            assert ((grad - 3.0 * by_rows).abs() <= (1e-9 + 8 * eps) * 3 * largest).all()


def check_masks(results, world):
    """One matrix of the tokens that all ranks keep, of which the last rank has none."""
    Z, mask = torch_ranks.sentences_of(world)
    rows = Z[mask].requires_grad_()
    parts = mask.split(torch_ranks.SENTENCES[world])
    assert not parts[-1].any()
    for name, function in (*FUNCTIONS.items(), ("gram", None)):
        value = ict.gram(rows) if function is None else function(features=rows)
        total = value.square().sum() if function is None else 3.0 * value
        (gradient,) = torch.autograd.grad(total, rows)
        shares = gradient.split([int(part.sum()) for part in parts])
        for result, part, share in zip(results, parts, shares, strict=True):
            found, grad = result["masked", name]
            assert_close(found, value.detach(), 1e-9)
            assert ((grad[part] - share).abs() <= 1e-9 * gradient.abs().max()).all()
            assert (grad[~part] == 0.0).all()
    kept = Z[mask]
    for result in results:
        assert result["masked", "sharded"][0] == result["masked", "r_ill"][0]
        assert_close(
            result["masked", "loss"][0], ict.ImmunizationLoss(0.1, 2.0)(kept, 2 * kept), 1e-9
        )


def check_gram(results, kind, split):
    weights = torch.arange(WIDTH**2).reshape(WIDTH, WIDTH)
    Z = rows_of(split, torch.float64)
    for result, rows in zip(results, Z.split(split), strict=True):
        H, by_rows = result[kind, "float64", "gram"]
        assert torch.equal(H, H.T)
        assert_close(H, Z.T @ Z, 1e-13)
        assert torch.allclose(by_rows, rows @ (weights + weights.T).double(), rtol=1e-13)


def check_bits(results):
    """Every rank has the same value."""
    for key in results[0]:
        if key != "errors":
            assert all(torch.equal(result[key][0], results[0][key][0]) for result in results)


def check_errors(results):
    """They reach every rank."""
    for result in results:
        widths, nan, second, stack, replicated, sum_, one, *of_masks = result["errors"]
        assert "ValueError: features must have one width and dtype on all ranks" in widths
        assert "ValueError" in nan
        assert "must be finite" in nan
        assert "NotImplementedError: with group= there are first derivatives only" in second
        assert "2 dimensions with group, got shape (2, 3, 4)" in stack
        assert "sharded by rows over a mesh of one dimension" in replicated
        assert "Replicate()" in replicated
        for told in (sum_, one):
            assert "OverflowError: Z^T Z of all ranks is not representable in float64" in told
        for told in of_masks[:2]:
            assert told == "TypeError: mask must be a plain dense tensor, and is a DTensor"
        assert "at least one entry, and has shape (0, 5)" in of_masks[2]  # padding on every rank


@pytest.fixture
def alone():
    """A group of this process, whose rows are all rows."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield torch.distributed.group.WORLD
    torch.distributed.destroy_process_group()


def told(name, Z, **options):
    """Value and gradient, or the error, and the warnings."""
    Z = Z.clone().requires_grad_()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            value = FUNCTIONS[name](features=Z, **options)
            value.backward()
            result = value.detach(), Z.grad
        except (ArithmeticError, ValueError) as error:
            result = type(error), str(error)
    return result, [(w.category, str(w.message)) for w in seen]


SPECTRA = {
    "tied": [2.0, 2.0, 1.5, 1.0, 1.0],
    "equal": [3.0] * 5,
    "dead": [4.0, 2.0, 1.0, 0.0, 0.0],
    "far": [1.0, 0.1, 1e-4, 1e-9, 1e-12],
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("options", [{}, {"rank": 3}, {"rank": 5}, {"rtol": 1e-2}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_group_finds_the_ends_and_ties_of_the_rows_themselves(alone, spectrum, options, dtype):
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 5)))[0]
    columns = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    Z = torch.from_numpy(Q * SPECTRA[spectrum] @ columns).to(dtype)
    for name in FUNCTIONS:
        (expected, right), warned = told(name, Z, **options)
        (value, gradient), said = told(name, Z, **options, group=alone)
        assert said == warned
        if isinstance(right, str):
            assert (value, gradient) == (expected, right)
        else:
            assert_close(value, expected, 1e-5)
            assert (gradient - right).abs().max() <= 1e-3 * right.abs().max()


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e-155, 1e160, 1e300])
def test_a_group_takes_rows_of_any_scale(alone, scale):
    Z = tensor((9, 4)) * scale
    for name in ("log_kappa", "kappa"):
        for options in ({}, {"computed_in": "float32"}):
            (expected, right), _ = told(name, Z, **options)
            (value, gradient), _ = told(name, Z, **options, group=alone)
            assert_close(value, expected, 1e-12)
            assert_close(gradient, right, 1e-9)


@pytest.mark.parametrize(("name", "scale"), [("r_ill", 1e-20), ("r_well", 1e15), ("kappa", 1e-39)])
def test_results_of_a_group_beyond_float32_are_no_infinities(alone, name, scale):
    Z = (tensor((9, 4)) * scale).float()
    for group in (None, alone):
        (kind, message), _ = told(name, Z, group=group)
        assert (kind, "not representable in float32" in message) == (OverflowError, True)


@pytest.mark.parametrize("rows", [9, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_second_derivatives_of_a_group_are_never_silently_zero(alone, rows, dtype):
    """By the triangle, by the sum of Gram matrices and by all rows, whoever asks for them."""
    Z, group = tensor((rows, 4)).to(dtype), {"group": alone}
    functions = [lambda z, f=f: f(features=z, **group) for f in FUNCTIONS.values()]
    functions.append(lambda z: ict.gram(z, **group).sum())
    for function in functions:
        z = Z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(z), z, create_graph=True)
        for ask in (
            lambda: torch.autograd.grad(gradient.square().sum(), z, allow_unused=True),  # noqa: B023
            lambda: torch.autograd.functional.hvp(function, Z, Z),  # noqa: B023
        ):
            with pytest.raises(NotImplementedError, match="first derivatives only"):
                ask()


@pytest.fixture(scope="module")
def truth():
    """Both ends of kappa(H) = 1e24 to fifty digits, and the gradient of its logarithm."""
    with mpmath.workdps(50):
        Z = mpmath.matrix(graded().tolist())
        values, Q = mpmath.mp.eigsy(Z.T * Z)
        order = sorted(range(GRADED), key=lambda i: values[i])
        ends = [(values[i], Q[:, i]) for i in (order[-1], order[0])]
        top, bottom = (2 * (Z * v) * v.T / value for value, v in ends)
        gradient = np.array((top - bottom).tolist(), dtype=float)
        return [value for value, _ in ends], gradient


@pytest.mark.filterwarnings("ignore:the smallest singular value of X")
@pytest.mark.parametrize("world", [1, 5])
def test_triangles_of_ranks_keep_what_a_gram_matrix_loses(world, truth, tmp_path):
    (largest, smallest), gradient = truth
    results = on_ranks(torch_ranks.merge, world, tmp_path)
    for result in results:
        assert (result["R"] == results[0]["R"]).all()
        assert (result["gram"] == results[0]["gram"]).all()
        assert result["counts"] == (400, 400)
        for name, most in (("alone", 1e-4), ("written", 1e-4), ("refined", 1e-14)):
            pairs = result[name]
            assert pairs.rank == GRADED
            with mpmath.workdps(50):
                off = float(abs(pairs.sigma_min - smallest))
                assert off <= pairs.bound_min
                assert off <= most * smallest
                assert abs(pairs.sigma_max - largest) <= pairs.bound_max
        assert result["refined"].bound_min <= 1e-9 * result["refined"].sigma_min
        assert result["log_kappa"][0] == pytest.approx(24 * np.log(10), rel=1e-5)
        widths, missing, refused, large = result["errors"]
        assert "rows must be a sequence" in refused or "rows are refused on rank 0" in refused
        assert "OverflowError: features must be below 1.1e+301 with group" in large
        assert result["zeros"] == sum(range(world))
        for scale in SCALES[1:]:  # log kappa does not depend on it
            atol = 1e-2 * float(result[1.0].abs().max()) if len(result[1.0]) else 0.0
            assert torch.allclose(result[scale], result[1.0], rtol=0.0, atol=atol)
        assert ("all ranks must have one width, and have [3, 4" in widths) == (world > 1)
        assert "ValueError: rows must be the 400 that were accumulated, and are 3" in missing
    found = np.vstack([result["log_kappa"][1].numpy() for result in results])
    assert np.abs(found - gradient).max() <= 1e-3 * np.abs(gradient).max()
    assert_close(torch.from_numpy(results[0]["gram"]), graded().T @ graded(), 1e-13)


@pytest.mark.parametrize("group", ["world", 0, torch.distributed])
def test_what_is_no_group_is_refused(group):
    Z = tensor((5, 3))
    calls = [
        ict.gram,
        *(lambda Z, f=f, **group: f(features=Z, **group) for f in FUNCTIONS.values()),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="group must be a ProcessGroup or a DeviceMesh, and is"):
            call(Z, group=group)


def test_without_a_process_group():
    with pytest.raises(RuntimeError, match="no process group: init_process_group first"):
        ic.TriangleAccumulator(2).all_reduce()


def test_gram_of_one_process():
    Z = tensor((6, 3)).requires_grad_()
    assert torch.autograd.gradcheck(ict.gram, Z)
    assert torch.autograd.gradgradcheck(ict.gram, Z)
    assert_close(ict.gram(Z.float()), ic.gram(Z.detach().float().numpy()), 1e-15)
    with pytest.raises(ValueError, match="Z must have 2 dimensions"):
        ict.gram(torch.ones(2, 3, 4))
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="Z must be finite, and holds NaN or infinity"):
            ict.gram(torch.tensor([[1.0, bad], [0.0, 1.0]]))
    with pytest.raises(OverflowError, match=r"Z\^T Z is not representable in float64"):
        ict.gram(torch.full((2, 2), 1e200, dtype=torch.float64))
