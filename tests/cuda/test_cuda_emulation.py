"""The device algorithms on host threads, against the C++ core and against exact spectra."""

import numpy as np
import pytest
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st
from immucond._emulation import STATUS, Kind, Regularizer, small_problems
from matrices import (
    equal_rows,
    exact_psd,
    generators,
    on_grid,
    quiet,
    separated,
    spectra,
    with_eigenvalues,
    with_singular_values,
)

import immucond as ic
from immucond._rank import rank_rule

NAMES = ("r_well", "r_ill", "kappa", "log_kappa")
SHAPES = [(5, 9), (9, 5), (1, 4), (4, 1), (2, 3), (31, 40), (40, 33), (7, 7)]


def rule_for(X, given="features", **options):
    options = {"rank": None, "rtol": None, "computed_in": None} | options
    return tuple(rank_rule(X.shape[-2:], X.dtype, given=given, **options))


def run(X, name="none", kind=Kind.features, **options):
    given = "matrix" if kind == Kind.matrix else "features"
    rule = rule_for(X, given, **{k: options.pop(k) for k in ("rank", "rtol") if k in options})
    stack = X if X.ndim == 3 else X[None]
    found = small_problems(stack, kind, rule, getattr(Regularizer, name), **options)
    return found if X.ndim == 3 else {key: field[0] for key, field in found.items() if len(field)}


def close(got, expected, rtol):
    return np.abs(got - expected).max() <= rtol * np.abs(expected).max()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_by_features_are_those_of_the_core(name, shape):
    rng = np.random.default_rng(3)
    Z = with_singular_values(rng, *shape, separated(rng, min(shape)))
    if name == "r_ill" and min(shape) == 1:
        assert run(Z, name, gradient=True)["status"] == STATUS["degenerate"]
        return
    more = max(shape) + 1
    counts = {None: 0, "rank": -1, more: more} if name == "r_well" else {None: 0}
    for p, count in counts.items():
        found = run(Z, name, gradient=True, p=count)
        value, gradient = getattr(ic, name).value_and_grad_features(Z, p=p)
        assert found["status"] == 0
        assert np.isclose(found["value"], value, rtol=1e-12, atol=1e-14)
        assert np.abs(found["gradient"] - gradient).max() <= 1e-11 * max(
            np.abs(gradient).max(), np.abs(Z).max()
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [2, 3, 8, 33])
def test_values_and_gradients_by_a_psd_matrix_are_those_of_the_core(name, n):
    rng = np.random.default_rng(n)
    H = with_eigenvalues(rng, n, separated(rng, n))
    found = run(H, name, kind=Kind.matrix, gradient=True)
    value, gradient = getattr(ic, name).value_and_grad(H)
    assert found["status"] == 0
    assert np.isclose(found["value"], value, rtol=1e-12)
    assert close(found["gradient"], gradient, 1e-11)


@examples(rng=generators, shape=st.sampled_from([(6, 14), (14, 6), (9, 9)]), k=st.integers(2, 6))
@settings(max_examples=15)
def test_below_full_rank(rng, shape, k):
    Z = with_singular_values(rng, *shape, separated(rng, k))
    for options in ({"rank": k}, {"rtol": 1e-6}):
        found = run(Z, "log_kappa", gradient=True, **options)
        value, gradient = ic.log_kappa.value_and_grad_features(Z, rank=k)
        assert (found["status"], found["rank"]) == (0, k)
        assert np.isclose(found["value"], value, rtol=1e-11)
        assert close(found["gradient"], gradient, 1e-10)


@examples(data=st.data(), n=st.integers(2, 40))
@settings(max_examples=25)
def test_both_ends_of_exact_spectra(data, n):
    sigma = on_grid(data.draw(spectra(n)))
    H = exact_psd(sigma)
    found = run(H, kind=Kind.matrix, pairs=True, rank=n)
    top, bottom = sigma.max(), sigma.min()
    noise = 4 * 2.0**-52 * np.sqrt(max(n, 16)) * top
    if found["status"] == 0:
        assert abs(found["sigma"][0] - top) <= noise
        assert abs(found["sigma"][1] - bottom) <= noise
        for value, vector in zip(found["sigma"], found["vectors"], strict=True):
            assert np.isclose(np.linalg.norm(vector), 1.0, rtol=1e-13)
            assert np.linalg.norm(H @ vector - value * vector) <= 4 * noise
            assert vector[np.abs(vector).argmax()] > 0.0
    else:  # for one of these reasons alone, and rightly so
        tied = min(top - np.sort(sigma)[-2], np.sort(sigma)[1] - bottom) <= 8 * noise
        lost = bottom <= 4 * noise
        allowed = (STATUS["tied"] if tied else 0) | (STATUS["digits_lost"] if lost else 0)
        assert found["status"] & ~allowed == 0


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)], ids=str)
def test_pairs_by_features(shape):
    rng = np.random.default_rng(1)
    Z = with_singular_values(rng, *shape, separated(rng, 6))
    found, core = run(Z, pairs=True), ic.feature_extreme_pairs(Z)
    assert found["status"] == 0
    assert np.allclose(found["sigma"], [core.sigma_max, core.sigma_min], rtol=1e-12)
    assert close(found["vectors"], np.stack([core.v_max, core.v_min]), 1e-10)


@pytest.mark.parametrize("apart", [1e-4, 1e-2])
def test_sums_over_many_equal_rows_keep_the_digits_that_are_told(apart):
    Z, truth = equal_rows(200_000, apart)
    found = run(Z, pairs=True)
    assert found["status"] == (STATUS["digits_lost"] if apart == 1e-4 else 0)
    if found["status"] == 0:
        assert (np.abs(found["sigma"] / truth - 1.0) <= [4e-14, 1e-6]).all()


def test_a_formed_gram_matrix_has_the_rules_of_features():
    rng = np.random.default_rng(2)
    Z = with_singular_values(rng, 8, 30, separated(rng, 8))
    H = Z @ Z.T
    rule = rule_for(Z)
    found = small_problems(
        ((H + H.T) / 2)[None], Kind.gram, rule, Regularizer.r_well, p=30, gradient=True
    )
    value, gradient = ic.r_well.value_and_grad_features(Z)
    assert np.isclose(found["value"][0], value, rtol=1e-12)
    assert close(2 * found["gradient"][0] @ Z, gradient, 1e-11)


@pytest.mark.parametrize("threads", [64, 96, 128, 256])
def test_the_order_of_threads_and_their_number_decide_nothing(threads):
    rng = np.random.default_rng(4)
    Z = with_singular_values(rng, 21, 30, separated(rng, 21))
    found = [run(Z, "r_ill", gradient=True, pairs=True, threads=threads, seed=s) for s in range(4)]
    for other in found[1:]:  # a missing barrier would show
        assert all(np.array_equal(found[0][key], other[key]) for key in other)
    value, gradient = ic.r_ill.value_and_grad_features(Z)
    assert np.isclose(found[0]["value"], value, rtol=1e-12)
    assert close(found[0]["gradient"], gradient, 1e-11)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_dtypes_and_strides(dtype):
    rng = np.random.default_rng(5)
    wide = rng.normal(size=(3, 12, 10))
    if dtype == "bfloat16":
        bits = (wide.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        stored, exact = bits, (bits.astype(np.uint32) << 16).view(np.float32).astype(float)
    else:
        stored = wide.astype(dtype)
        exact = stored.astype(float)
    for index in (np.s_[:], np.s_[::-1, ::2, 1::3], np.s_[:2, ::-1, :4]):
        given, truth = stored[index], exact[index]
        for view, meant in ((given, truth), (given.swapaxes(1, 2), truth.swapaxes(1, 2))):
            rule = (0, 1e-9, 2.0**-52, 0.0)
            found = small_problems(view, Kind.features, rule, Regularizer.kappa, gradient=True)
            assert (found["status"] == 0).all()
            assert found["gradient"].dtype == (np.float64 if dtype == "float64" else np.float32)
            for i, Z in enumerate(meant):
                value, gradient = ic.kappa.value_and_grad_features(Z, rtol=1e-9)
                assert np.isclose(found["value"][i], value, rtol=1e-10)
                rtol = 1e-9 if dtype == "float64" else 1e-6
                assert close(found["gradient"][i], gradient, rtol)


def test_float16_is_read_exactly_to_the_last_bit_pattern():
    x = np.arange(0, 0x7E00, 181, dtype=np.uint16).view(np.float16)  # zero to NaN
    with np.errstate(invalid="ignore"):
        found, exact = run(x[:, None, None], pairs=True), x.astype(float) ** 2
    good = (exact > 0) & np.isfinite(exact)
    assert np.allclose(found["sigma"][good, 0], exact[good], rtol=4e-16, atol=0)
    assert found["status"][0] == STATUS["rank_zero"]
    assert (found["status"][~good][1:] == STATUS["not_finite"]).all()
    assert (~good).sum() > 2


@pytest.mark.parametrize("exponent", [-1000, -300, -40, 0, 37, 300, 1000])
def test_every_scale(exponent):
    rng = np.random.default_rng(6)
    Z = with_singular_values(rng, 6, 9, separated(rng, 6))
    S = np.ldexp(Z, exponent)
    at_one, found = (run(X, "log_kappa", gradient=True) for X in (Z, S))
    assert found["value"] == at_one["value"]
    if abs(exponent) <= 300:  # beyond, some of the gradient may leave the range
        assert np.array_equal(np.ldexp(found["gradient"], exponent), at_one["gradient"])
    well = run(S, "r_well", gradient=True)
    fits = abs(4 * exponent) < 1000
    assert (well["status"] == STATUS["unrepresentable"]) == (not fits and exponent > 0)


FAILURES = {
    "not_finite": (np.array([[1.0, np.nan], [2.0, 3.0]]), Kind.features, "kappa"),
    "infinite": (np.array([[1.0, -np.inf], [2.0, 3.0]]), Kind.features, "kappa"),
    "rank_zero": (np.zeros((3, 4)), Kind.features, "kappa"),
    "not_psd": (np.diag([1.0, -1.0, 2.0]), Kind.matrix, "kappa"),
    "skew": (np.array([[1.0, 2.0], [3.0, 9.0]]), Kind.matrix, "kappa"),
    "digits_lost": (np.diag([1.0, 1e-5]), Kind.features, "kappa"),
    "tied": (np.diag([2.0, 2.0, 1.0]), Kind.features, "r_well"),
    "degenerate": (np.eye(3), Kind.features, "r_ill"),
}
STANDS_FOR = {"infinite": "not_finite", "skew": "not_psd"}


@pytest.mark.parametrize("why", FAILURES)
def test_what_is_left_to_others_is_nan_and_says_why(why):
    X, kind, name = FAILURES[why]
    good = np.diag(np.arange(1.0, X.shape[0] + 1)) @ np.eye(*X.shape)
    stack = np.stack([good, X, good]) if name != "r_ill" else np.stack([np.diag([1.0, 2, 4]), X])
    found = run(stack, name, kind=kind, gradient=True)
    assert found["status"][1] == STATUS[STANDS_FOR.get(why, why)]
    assert np.isnan(found["value"][1])
    assert np.isnan(found["gradient"][1]).all()
    assert (np.delete(found["status"], 1) == 0).all()  # and its neighbours are done
    assert np.isfinite(np.delete(found["gradient"], 1, axis=0)).all()


@pytest.mark.parametrize("name", ["r_well", "kappa", "log_kappa"])
def test_all_singular_values_equal_need_no_vectors(name):
    for X, k in ((3 * np.eye(4), 4), (np.outer([1.0, 2.0, 2.0], [2.0, 1.0]), 1)):
        found = run(X, name, gradient=True, rank=k)
        value, gradient = getattr(ic, name).value_and_grad_features(X, rank=k)
        assert found["status"] == 0
        assert np.isclose(found["value"], value, rtol=1e-13)
        assert np.abs(found["gradient"] - gradient).max() <= 1e-13 * max(1, np.abs(gradient).max())


def test_hard_spectra_of_the_tridiagonal_matrix():
    n = 24
    wilkinson = np.diag(np.abs(np.arange(n) - n // 2) + 1.0)
    wilkinson += np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)
    graded = np.diag(np.geomspace(1.0, 1e-9, n))
    blocks = np.kron(np.eye(n // 2), [[2.0, 1.0], [1.0, 2.0]]) * np.repeat(np.arange(1.0, 13), 2)
    blocks = (blocks + blocks.T) / 2
    for H in (wilkinson @ wilkinson.T + np.eye(n), graded, blocks):
        found = run(H, kind=Kind.matrix, pairs=True)
        values = np.linalg.eigvalsh(H)
        if found["status"] == 0:
            assert np.allclose(found["sigma"], values[[-1, 0]], rtol=1e-12, atol=1e-15 * values[-1])
        else:
            gaps = np.diff(values)[[0, -1]]
            assert gaps.min() < 1e-12 * values[-1]
            assert found["status"] == STATUS["tied"]


@pytest.mark.parametrize("tiny", [1e-150, 1e-158, 1e-160, 1e-162])
def test_entries_whose_squares_underflow(tiny):
    rng = np.random.default_rng(8)
    H = np.zeros((8, 8))
    H[1:, 1:] = with_eigenvalues(rng, 7, separated(rng, 7))
    H[0, 0] = 10.0
    H[0, 2:] = H[2:, 0] = tiny * rng.normal(size=6)
    found = run(H, kind=Kind.matrix, pairs=True)
    assert found["status"] == 0
    assert np.allclose(found["sigma"], np.linalg.eigvalsh(H)[[-1, 0]], rtol=1e-13)


def test_a_gradient_beyond_float32():
    Z = 1e-12 * np.diag([1.0, 2.0, 4.0]).astype(np.float32)
    found = run(Z, "r_ill", gradient=True)
    assert found["status"] == STATUS["unrepresentable"]
    assert np.isnan(found["gradient"]).all()
    assert run(Z.astype(float), "r_ill", gradient=True)["status"] == 0


@pytest.mark.slow
def test_the_largest_order():
    rng = np.random.default_rng(7)
    Z = with_singular_values(rng, 128, 140, separated(rng, 128))
    found = run(Z, "r_ill", gradient=True)
    value, gradient = quiet(ic.r_ill.value_and_grad_features, Z)
    assert found["status"] == 0
    assert np.isclose(found["value"], value, rtol=1e-11)
    assert close(found["gradient"], gradient, 1e-9)


@pytest.mark.parametrize("small", [3e-14, 1e-12, 0.5])
def test_a_negative_eigenvalue_that_counts_goes_to_the_host(small):
    for S in (np.diag([1.0, -small]), np.diag([1.0, 0.5, -small]), np.diag([1.0, 0.0, -small])):
        assert run(S, "kappa", kind=Kind.matrix)["status"] & STATUS["not_psd"]
        by_rank = run(S, "kappa", kind=Kind.matrix, rank=len(S) - S.diagonal().tolist().count(0.0))
        assert by_rank["status"] & STATUS["not_psd"]
    K = ic.gram(np.random.default_rng(0).normal(size=(5, 8)))  # rounding below zero is a zero
    assert run(K, "kappa", kind=Kind.matrix)["status"] == 0
