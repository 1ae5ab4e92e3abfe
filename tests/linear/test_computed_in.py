"""``computed_in`` is the precision of the features, whether they or their Gram matrix are given."""

from __future__ import annotations

import numpy as np
import pytest

import immucond as ic

D = 12
SPREADS = np.r_[1e3, np.ones(D - 2), 1e-2]  # one feature far above the others, as in transformers


def features(seed: int, rows: int = 400) -> np.ndarray:
    """In float32, and beside the largest feature another is 1e-5: 1e-10 of a second moment."""
    return (np.random.default_rng(seed).normal(size=(rows, D)) * SPREADS).astype(np.float32)


def labels(Z: np.ndarray) -> np.ndarray:
    return np.eye(2)[(Z[:, 1] > 0.0).astype(int)]


@pytest.fixture
def grams() -> tuple[np.ndarray, np.ndarray]:
    return ic.gram(features(0).astype(float)), ic.gram(features(1).astype(float))


def test_an_immunity_limit_counts_the_features_that_stand_out_of_rounding(grams):
    K = dict(zip(("K_P", "K_H"), grams, strict=True))
    X = {"X_P": features(0), "X_H": features(1)}
    by_rows, by_grams = (
        ic.linear.immunity_limit(**given, computed_in="float32") for given in (X, K)
    )
    assert by_grams.rir == pytest.approx(by_rows.rir, rel=1e-4)
    found = ic.linear.immunity(np.eye(D), **K, computed_in="float32")
    assert (found.rank_P, found.rank_H) == (D, D)


def test_fade_moves_no_more_by_gram_matrices_than_by_rows(grams):
    Z_P, Z_H = (features(seed).astype(float) for seed in (0, 1))
    Y = labels(Z_H)
    Z_c, Y_c = Z_H - Z_H.mean(0), Y - Y.mean(0)
    by_rows = ic.linear.fade(Z_P, Z_H, Y, tau=100.0, computed_in="float32")
    by_grams = ic.linear.fade(
        K_P=grams[0], K_H=ic.gram(Z_c), b_H=Z_c.T @ Y_c, energy_H=float(np.sum(Y_c**2)),
        tau=100.0, computed_in="float32",
    )  # fmt: skip
    np.testing.assert_allclose(Z_P @ by_grams, Z_P @ by_rows, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("needed", [1, D - 1])
def test_what_the_outputs_need_is_not_erased_for_free(needed):
    """However small a direction is beside the largest: what stays is told by the outputs."""
    Z = features(0).astype(float)
    K = ic.gram(Z) / len(Z)
    J = np.zeros((D, 1))
    J[needed] = 1.0 / SPREADS[needed]
    path = ic.linear.erasure_path(K, J @ J.T, K_H=np.eye(D), computed_in="float32")
    outputs = Z @ J
    for price in (0.0, 1e-9):
        E = path.at(price)
        changed = np.mean((Z @ E @ J - outputs) ** 2)
        assert changed == pytest.approx(E.cost, rel=1e-6, abs=1e-10)
        assert changed < 1e-6 * np.mean(outputs**2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rounding_of_the_features_is_no_rank(dtype):
    rng = np.random.default_rng(2)
    low = (rng.normal(size=(500, 3)) @ rng.normal(size=(3, D))).astype(dtype).astype(float)
    K = ic.gram(low)
    given = {"K_P": K, "K_H": np.eye(D), "computed_in": dtype}
    assert ic.linear.immunity(np.eye(D), **given).rank_P == 3
    assert ic.linear.erasure_path(K / 500, np.eye(D), computed_in=dtype).at(0.0).rank == 3
    if dtype == np.float16:  # squares of float32's are no more than float64's
        assert ic.linear.immunity(np.eye(D), **{**given, "computed_in": None}).rank_P > 3


def test_sums_in_float32_have_their_own_rounding():
    """A Gram matrix whose dtype is float32 shows less than its features do."""
    K = ic.gram(features(0).astype(float))
    assert ic.linear.immunity(np.eye(D), K_P=K.astype(np.float32), K_H=np.eye(D)).rank_P < D
