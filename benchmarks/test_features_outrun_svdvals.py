"""Both extreme pairs of Z^T Z take less than all singular values of Z."""

from functools import cache

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.linalg.lapack import dgeqrf, dgeqrf_lwork

import immucond as ic

ROWS, COLUMNS = 4096, 512


def by(method):
    def ends(Z):
        pairs = ic.feature_extreme_pairs(Z, method=method)
        return np.sqrt([pairs.sigma_max, pairs.sigma_min])

    return ends


CONTESTANTS = {
    "immucond, gram": by("gram"),
    "immucond, qr": by("qr"),
    "torch.linalg.svdvals": lambda Z: np.asarray(torch.linalg.svdvals(torch.from_numpy(Z)))[
        [0, -1]
    ],
    "scipy.linalg.svdvals": lambda Z: scipy.linalg.svdvals(Z)[[0, -1]],
}


@cache
def features(rows, columns):
    return np.random.default_rng(5).standard_normal((rows, columns))


@pytest.mark.parametrize("name", CONTESTANTS)
def test_features_outrun_svdvals(contest, size, name):
    Z = features(size(ROWS), size(COLUMNS))
    contest(
        f"feature_extreme_pairs {ROWS} x {COLUMNS}",
        name,
        lambda: CONTESTANTS[name](Z),
        like=lambda: by("qr")(Z),
        goals={("immucond, gram", "torch.linalg.svdvals"): 1.0},
    )


def r_and_its_values(Z):
    """A triangular factor and its singular values, without vectors, bounds or refinement."""
    lwork, _ = dgeqrf_lwork(*Z.shape)
    R = dgeqrf(Z, lwork=int(lwork))[0][: Z.shape[1]]
    return scipy.linalg.svdvals(np.triu(R), check_finite=False)[[0, -1]]


def test_features_beside_their_floor(contest, size):
    Z = features(size(ROWS), size(COLUMNS))
    contest(
        f"feature_extreme_pairs {ROWS} x {COLUMNS}",
        "floor: dgeqrf and svdvals of R",
        lambda: r_and_its_values(Z),
        like=lambda: by("qr")(Z),
    )
