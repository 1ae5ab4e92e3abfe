"""Both extreme pairs of a psd matrix take one reduction, not a full eigendecomposition."""

from functools import cache

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.sparse.linalg import eigsh

import immucond as ic


def ours(H):
    pairs = ic.psd_extreme_pairs(H)
    return np.array([pairs.sigma_min, pairs.sigma_max])


def both_ends(values):
    return np.asarray(values)[[0, -1]]


CONTESTANTS = {
    "immucond": ours,
    "torch.linalg.eigh": lambda H: both_ends(torch.linalg.eigh(torch.from_numpy(H))[0]),
    "torch.linalg.eigvalsh (no vectors)": lambda H: both_ends(
        torch.linalg.eigvalsh(torch.from_numpy(H))
    ),
    "scipy.linalg.eigvalsh (no vectors)": lambda H: both_ends(scipy.linalg.eigvalsh(H)),
    "scipy eigsh, both ends": lambda H: both_ends(eigsh(H, k=2, which="BE")[0]),
}
GOALS = {1024: {("immucond", "torch.linalg.eigh"): 2.5}}


@cache
def covariance(n):
    return ic.gram(np.random.default_rng(1).standard_normal((2 * n, n)))


@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize("n", [64, 256, 512, 1024, pytest.param(2048, marks=pytest.mark.large)])
def test_both_ends_cost_less_than_eigh(contest, size, n, name):
    H = covariance(size(n))
    contest(
        f"both psd ends, n = {n}",
        name,
        lambda: CONTESTANTS[name](H),
        like=lambda: ours(H),
        goals=GOALS.get(n),
    )
