"""Numerical rank: one rule, in one place."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matrices import constructed, integer_matrices, quiet, with_singular_values

import immucond as ic
from immucond._rank import default_rtol, epsilon, rank_rule


@pytest.mark.parametrize(
    ("computed_in", "expected"),
    [
        (np.float64, 2.0**-52),
        ("float32", 2.0**-23),
        (np.dtype(">f4"), 2.0**-23),
        ("float16", 2.0**-10),
        ("bfloat16", 2.0**-7),
        ("torch.bfloat16", 2.0**-7),
        (np.int32, 2.0**-52),
        (bool, 2.0**-52),
    ],
)
def test_epsilon(computed_in, expected):
    assert epsilon(computed_in) == expected


def test_default_tolerances():
    assert default_rtol((300, 20), np.float64) == 300 * 2.0**-52
    assert default_rtol((20, 300), np.float64) == 300 * 2.0**-52
    # Features: the noise does not grow with the number of samples.
    assert default_rtol((10**6, 16), np.float32, "features") == 16 * 2.0**-23
    assert default_rtol((3, 16), np.float32, "features") == 16 * 2.0**-23
    for columns, like in ((3, 16), (100, 100), (129, 1024), (1023, 1024), (2048, 2048)):
        rtol = default_rtol((9, columns), "float64", "features")
        assert math.isclose(rtol, 4 * like**0.5 * 2.0**-52)


def test_the_rule_in_all_its_forms():
    def rule(shape=(5, 3), rank=None, rtol=None, computed_in=None, given="matrix"):
        dtype = np.dtype(np.float32)
        return rank_rule(shape, dtype, rank=rank, rtol=rtol, computed_in=computed_in, given=given)

    single, double = 2.0**-23, 2.0**-52
    assert rule() == (0, 5 * single, single, 0)
    assert rule(given="features") == (0, 4 * 3**0.5 * single, single, 0)
    assert rule(computed_in=np.float64) == (0, 5 * double, double, 0)
    assert rule(rtol=1e-3, computed_in=np.float64) == (0, 1e-3, double, 0)
    assert rule(rank=2, rtol=0.0) == (2, 0.0, single, 0)
    # In half precision each entry is rounded once, of what float32 accumulated.
    half = rule(computed_in="bfloat16", given="features")
    assert half == (0, 4 * 3**0.5 * single, 2.0**-10, 2.0**-8 + 4 * 3**0.5 * single)
    assert rule(computed_in="bfloat16", rank=2).rounded == 0
    assert rule(computed_in="float16", rtol=0.1) == (0, 0.1, 2.0**-13, 0)
    # A tolerance beyond 1 would leave no singular value.
    assert rule(shape=(5, 10**8)).rtol < 1


@given(S=st.one_of(constructed(), integer_matrices), rtol=st.floats(1e-12, 0.9))
def test_rtol_has_numpys_meaning(S, rtol):
    sigma = np.linalg.svd(S, compute_uv=False)
    pairs = quiet(ic.extreme_pairs, S, rtol=rtol)
    features = quiet(ic.feature_extreme_pairs, S, rtol=rtol, method="qr")
    edges = [(sigma > rtol * (1 + slack) * sigma[0]).sum() for slack in (1e-3, 0.0, -1e-3)]
    assert edges[0] <= pairs.rank <= edges[2]
    # Features: on the singular values of Z, not of H.
    assert edges[0] <= features.rank <= edges[2]


@pytest.fixture(scope="module")
def sentence_embeddings():
    """The spectrum that mean-pooled float32 embeddings of all-MiniLM-L6-v2 have on CLINC150."""
    rng = np.random.default_rng(0)
    sigma = np.concatenate([np.geomspace(225.0, 4.03, 381), [2e-6, 2e-15, 1e-15]])
    return with_singular_values(rng, 1500, 384, sigma).astype(np.float32)


def test_float32_embeddings_have_rank_381_not_382(sentence_embeddings):
    kappa = (225.0 / 4.03) ** 2
    for Z in (sentence_embeddings, sentence_embeddings.T):
        pairs = ic.feature_extreme_pairs(Z)
        assert pairs.rank == 381
        assert np.isclose(pairs.condition_number, kappa, rtol=1e-5)
    assert np.isclose(ic.condition_number(features=sentence_embeddings), kappa, rtol=1e-5)
    converted = sentence_embeddings.astype(np.float64)
    assert np.isclose(
        ic.condition_number(features=converted, computed_in=np.float32), kappa, rtol=1e-5
    )
    assert np.isclose(ic.condition_number(features=converted, rank=381), kappa, rtol=1e-5)
    # float64's tolerance takes float32's noise for rank.
    pairs = quiet(ic.feature_extreme_pairs, converted)
    assert pairs.rank > 381
    assert pairs.condition_number > 1e12


def test_many_samples_do_not_hide_immunized_directions():
    """NumPy's max(N, m) eps would cut off kappa(H) above 3e5 at 15,000 float32 samples."""
    rng = np.random.default_rng(1)
    sigma = np.geomspace(1.0, 10**-3.5, 16)
    Z = with_singular_values(rng, 15_000, 16, sigma).astype(np.float32)
    assert np.linalg.matrix_rank(Z) < 16
    pairs = ic.feature_extreme_pairs(Z)
    assert pairs.rank == 16
    assert np.isclose(pairs.condition_number, 1e7, rtol=1e-2)


def test_a_rank_beyond_what_is_there_is_refused_or_warned_of():
    S = np.diag([2.0, 1.0, 0.0])
    for call in (
        lambda: ic.extreme_pairs(S, rank=3),
        lambda: ic.psd_extreme_pairs(S, rank=3),
        lambda: ic.feature_extreme_pairs(S, rank=3),
        lambda: ic.condition_number(S, rank=3),
        lambda: ic.kappa(S, rank=3),
        lambda: ic.kappa.value_and_grad_features(S, rank=3),
    ):
        with pytest.raises(ValueError, match="rank = 3 was given"):
            call()
