"""R_well(Z_P) + R_ill(Z_H) in an eager training step, forward and backward.

The peer is the published formulation, H = Z^T Z and `torch.linalg.eigvalsh`, differentiated by
PyTorch. On a tiny batch a no-op `autograd.Function` shows what calling any operator costs.
"""

from functools import cache

import pytest
import torch
from floors import fastest_threads, regularizers

import immucond.torch as ict

AUTOGRAD = "torch autograd through eigvalsh"
NO_OP = "floor: a no-op autograd.Function"
FLOOR = "floor: dsyrk, dsytrd and gemm alone"
LEAST_RATIO = {  # float64, float32
    (64, 768): (50, 40), (100, 512): (40, 25), (128, 384): (20, 12), (4096, 1024): (3, 2),
}  # fmt: skip
OVERHEAD = 60e-6


def ours(Z_P, Z_H):
    return ict.r_well(features=Z_P) + ict.r_ill(features=Z_H)


def autograd(Z_P, Z_H):
    primary = torch.linalg.eigvalsh(Z_P.T @ Z_P)
    k = min(Z_H.shape)  # of the m eigenvalues, m - k are zero
    harmful = torch.linalg.eigvalsh(Z_H.T @ Z_H)[-k:]
    well = primary[-1] ** 2 / 2 - (primary**2).mean() / 2
    return well + 1 / ((harmful**2).mean() / 2 - harmful[0] ** 2 / 2)


CONTESTANTS = {"immucond": ours, AUTOGRAD: autograd}


def step(loss, *leaves):
    """Value and gradients of one step."""
    for leaf in leaves:
        leaf.grad = None
    value = loss(*leaves)
    value.backward()
    return (value.item(), *(leaf.grad for leaf in leaves))


@cache
def features(rows, columns, dtype):
    generator = torch.Generator().manual_seed(2)
    return [
        torch.randn(rows, columns, dtype=dtype, generator=generator).requires_grad_()
        for _ in range(2)
    ]


def title(rows, columns, dtype):
    of = str(dtype).removeprefix("torch.")
    return f"a training step in PyTorch, {rows} x {columns}, {of}"


DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32], ids=["float64", "float32"]
)


@pytest.mark.parametrize("name", CONTESTANTS)
@DTYPES
@pytest.mark.parametrize(("rows", "columns"), LEAST_RATIO)
def test_torch_operators_outrun_autograd(contest, size, rows, columns, dtype, name):
    leaves = features(size(rows), size(columns), dtype)
    in_float64 = dtype == torch.float64
    contest(
        title(rows, columns, dtype),
        name,
        lambda: step(CONTESTANTS[name], *leaves),
        like=lambda: step(ours, *leaves),
        rtol=1e-9 if in_float64 else 1e-2,
        goals={("immucond", AUTOGRAD): LEAST_RATIO[rows, columns][0 if in_float64 else 1]},
    )


@DTYPES
@pytest.mark.parametrize(("rows", "columns"), LEAST_RATIO)
def test_torch_operators_beside_their_floor(contest, size, rows, columns, dtype):
    tasks = [leaf.detach().numpy() for leaf in features(size(rows), size(columns), dtype)]
    with fastest_threads(min(rows, columns)):
        contest(
            title(rows, columns, dtype),
            FLOOR,
            lambda: (regularizers(*tasks), ())[1],
            like=lambda: (),
        )


class NoOp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, Z):
        ctx.save_for_backward(Z)
        return Z.new_zeros(())

    @staticmethod
    def backward(ctx, upstream):
        return upstream * ctx.saved_tensors[0]


SMALL = {"immucond": lambda Z: ict.r_ill(features=Z), NO_OP: NoOp.apply}


@pytest.mark.parametrize("name", SMALL)
def test_torch_operators_are_light(contest, name):
    Z = features(8, 4, torch.float32)[0]
    contest(
        "R_ill in PyTorch, forward and backward, 8 x 4, float32",
        name,
        lambda: step(SMALL[name], Z),
        like=lambda: step(SMALL[name], Z),
        limits={("immucond", NO_OP): OVERHEAD},
    )
