"""R_well(Z_P) + R_ill(Z_H) with feature gradients, without autograd through an eigensolver.

The peer is the published formulation: H = Z^T Z, its eigenvalues by `torch.linalg.eigvalsh`, the
value from them, and back to Z.
"""

from functools import cache

import numpy as np
import pytest
import torch
from floors import fastest_threads, regularizers

import immucond as ic

AUTOGRAD = "torch autograd through eigvalsh"


def ours(Z_P, Z_H):
    well, by_primary = ic.r_well.value_and_grad_features(Z_P)
    ill, by_harmful = ic.r_ill.value_and_grad_features(Z_H)
    return well + ill, by_primary, by_harmful


def ours_between_torch_calls(Z_P, Z_H):
    torch.mm(BUSY, BUSY)  # wakes PyTorch's pool, as a training loop does
    return ours(Z_P, Z_H)


def autograd(Z_P, Z_H):
    Z_P, Z_H = (torch.from_numpy(Z).requires_grad_() for Z in (Z_P, Z_H))
    primary = torch.linalg.eigvalsh(Z_P.T @ Z_P)
    k = min(Z_H.shape)  # of the m eigenvalues, m - k are zero
    harmful = torch.linalg.eigvalsh(Z_H.T @ Z_H)[-k:]
    well = primary[-1] ** 2 / 2 - (primary**2).mean() / 2
    ill = 1 / ((harmful**2).mean() / 2 - harmful[0] ** 2 / 2)
    value = well + ill
    value.backward()
    return value.item(), Z_P.grad, Z_H.grad


BUSY = torch.ones(128, 128)
FLOOR = "floor: dsyrk, dsytrd and dgemm alone"
CONTESTANTS = {
    "immucond": ours,
    "immucond, a torch.mm before each call": ours_between_torch_calls,
    AUTOGRAD: autograd,
}
LEAST_RATIO = {(64, 768): 50, (100, 512): 40, (128, 384): 20, (4096, 1024): 3}


@cache
def features(rows, columns):
    rng = np.random.default_rng(2)
    return rng.standard_normal((rows, columns)), rng.standard_normal((rows, columns))


@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize(("rows", "columns"), LEAST_RATIO)
def test_regularizers_outrun_autograd(contest, size, rows, columns, name):
    Z_P, Z_H = features(size(rows), size(columns))
    contest(
        f"R_well + R_ill, {rows} x {columns}",
        name,
        lambda: CONTESTANTS[name](Z_P, Z_H),
        like=lambda: ours(Z_P, Z_H),
        goals={("immucond", AUTOGRAD): LEAST_RATIO[rows, columns]},
    )


@pytest.mark.parametrize(("rows", "columns"), LEAST_RATIO)
def test_regularizers_beside_their_floor(contest, size, rows, columns):
    Z_P, Z_H = features(size(rows), size(columns))
    with fastest_threads(min(rows, columns)):
        contest(
            f"R_well + R_ill, {rows} x {columns}",
            FLOOR,
            lambda: (regularizers(Z_P, Z_H), ())[1],
            like=lambda: (),
        )
