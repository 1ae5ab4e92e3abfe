"""Rows spread over processes: the value at all rows, and each rank's part of the one gradient."""

import multiprocessing

import pytest
import torch_ranks
from torch_cases import assert_close, tensor, torch
from torch_ranks import DTYPES, FUNCTIONS, SPLITS, WIDTH, losses, rows_of

import immucond as ic
import immucond.torch as ict


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_against_one_process(world, tmp_path):
    # One test for all: starting the processes takes longer than what they do, even from a server
    # that has imported PyTorch already.
    multiprocessing.set_forkserver_preload(["immucond.torch"])
    torch.multiprocessing.start_processes(
        torch_ranks.work, args=(world, str(tmp_path)), nprocs=world, start_method="forkserver"
    )
    results = [torch.load(tmp_path / str(rank)) for rank in range(world)]
    for kind, split in SPLITS[world].items():
        for dtype_name in DTYPES:
            check_regularizers(results, kind, split, dtype_name)
        check_gram(results, kind, split)
    check_bits(results)
    check_errors(results)
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
        widths, nan, second, stack = result["errors"]
        assert "ValueError: features must have one width and dtype on all ranks" in widths
        assert "ValueError" in nan
        assert "must be finite" in nan
        assert "once_differentiable" in second
        assert "2 dimensions with group, got shape (2, 3, 4)" in stack


def test_gram_of_one_process():
    Z = tensor((6, 3)).requires_grad_()
    assert torch.autograd.gradcheck(ict.gram, Z)
    assert torch.autograd.gradgradcheck(ict.gram, Z)
    assert_close(ict.gram(Z.float()), ic.gram(Z.detach().float().numpy()), 1e-15)
    with pytest.raises(ValueError, match="Z must have 2 dimensions"):
        ict.gram(torch.ones(2, 3, 4))
