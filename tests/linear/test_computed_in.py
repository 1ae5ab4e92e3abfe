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


@pytest.mark.filterwarnings("ignore:the rank of X_")  # which half precision tells
@pytest.mark.parametrize(
    ("dtype", "weak"), [(np.float16, 1.0), (np.float32, 1.0), (np.float64, 1e-6)]
)
@pytest.mark.parametrize("gram", [False, True])
def test_the_rank_under_fewer_columns_knows_how_far_rounding_turned_the_range(dtype, weak, gram):
    """Two columns that depend on each other to rounding are one feature, of condition number 1."""
    rng = np.random.default_rng(0)
    given = {}
    for task in "PH":
        a, b = rng.normal(size=(2, 100))
        X = np.stack([a, 2.1 * a, weak * b], axis=1).astype(dtype)
        given |= {f"K_{task}": ic.gram(X.astype(float))} if gram else {f"X_{task}": X}
    theta = np.eye(3)[:, :2]
    told = ic.linear.immunity(theta, **given, computed_in=dtype)
    assert (told.rank_P, told.rank_H) == (1, 1)
    assert (told.kappa_P, told.kappa_H) == (1.0, 1.0)
    if gram and dtype is np.float64:
        assert ic.linear.majorization(theta, given["K_P"]).kappa == 1.0
        with pytest.raises(ic.DegenerateSpectrumError, match="all 1 nonzero"):
            ic.linear.step_interval(ic.r_ill, theta=theta, gram=given["K_P"])


@pytest.mark.parametrize("noise", [1e-12, 1e-8, 1e-4])
@pytest.mark.parametrize("gram", [False, True])
def test_what_a_known_rank_leaves_out_is_rounding(noise, gram):
    """Rows that use four directions of six: noise in the others is no energy there."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(4, 6))
    P, H = (rng.normal(size=(80, 4)) @ basis for _ in range(2))
    P, H = P - P.mean(0), H - H.mean(0)
    y = H[:, 1] - rng.normal(size=80)
    y -= y.mean()
    s, vt = np.linalg.svd(P)[1:]
    F = H @ (vt[:4].T / s[:4])
    t = np.linalg.svd(F, compute_uv=False)
    right = (t[0] / t[3]) ** 2 * (s[0] / s[3]) ** 2
    t = np.linalg.svd(H, compute_uv=False)
    right /= (t[0] / t[3]) ** 2
    X_P, X_H = (X + noise * rng.normal(size=X.shape) for X in (P, H))
    X_H -= X_H.mean(0)
    both = (
        {"K_P": ic.gram(X_P), "K_H": ic.gram(X_H)} if gram else {"X_P": X_P, "X_H": X_H}
    )  # fmt: skip
    labels = {"b_H": X_H.T @ y} if gram else {"Y_H": y}
    told = ic.linear.immunity_limit(**both, ranks=(4, 4))
    assert told.case == "restricted"
    assert told.rir == pytest.approx(right, rel=100 * noise + 1e-6)
    if not gram:  # of which a product with labels does not tell how far its rows are rounded
        assert ic.linear.fade(**both, **labels, ranks=(4, 4)).kappa < 1e3
    bracket = ic.linear.alignment_limit(**both, **labels, ranks=(4, 4), kappa_P=2.0)
    assert bracket.case == "restricted"
    assert 0.0 < bracket.lower <= bracket.attained


# ---- results, of rows in single precision that use four directions of six ----


def single(seed):
    """Rows of both tasks in float32, the same in float64, and harmful labels."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(4, 6))
    exact = [rng.normal(size=(rows, 4)) @ basis for rows in (200, 200)]
    return [X.astype(np.float32) for X in exact], exact, rng.integers(2, size=200)


@pytest.mark.filterwarnings("ignore:the harmful task got easier")
@pytest.mark.parametrize("method", ["closed_form", "fade", "published"])
def test_results_know_the_precision_of_the_rows_that_they_measure(method):
    (X_P, X_H), (P, H), y_H = single(0)
    y_P = P[:, 0] > 0
    result = {
        "closed_form": lambda: ic.immunize.closed_form(X_P, y_P, X_H),
        "fade": lambda: ic.immunize.fade(X_P, y_P, X_H, y_H),
        "published": lambda: ic.immunize.published(X_P, y_P, X_H, epochs=1),
    }[method]()
    bias = result.bias if result.bias is not None else np.zeros(6)
    rank = 4 if result.bias is None else 5
    for told in (result.report, result.measure(X_P, X_H)):
        assert (told.rank_P, told.rank_H) == (rank, rank)
        for X, kappa in ((P, told.kappa_P), (H, told.kappa_H)):
            s = np.linalg.svd(X @ result.theta + bias, compute_uv=False)
            assert kappa == pytest.approx((s[0] / s[rank - 1]) ** 2, rel=1e-3)
    Z, y = H - H.mean(0), y_H - y_H.mean()
    explained = np.sum((np.linalg.svd(Z)[0][:, :4].T @ y) ** 2) / (y @ y)
    told = result.alignment(X_H, y_H)
    assert told.rank == 4
    assert told.explained == pytest.approx(explained, rel=1e-4)
    top = np.linalg.norm(Z @ result.theta, 2) ** 2
    seen = np.sum((result.theta.T @ Z.T @ y) ** 2) / (top * explained * (y @ y))
    assert told.rho == pytest.approx(seen, rel=1e-3)
    assert result.alignment(X_H, y_H, center=False).rank == rank


@pytest.mark.filterwarnings("ignore:the harmful task got easier")
def test_the_published_history_is_relative_to_the_rank_of_the_rows():
    (X_P, X_H), (P, H), _ = single(1)
    keywords = {"epochs": 1, "batch_size": 50, "lambda_P": 1.0, "lambda_H": 1.0}
    one = ic.immunize.published(X_P, P[:, 0] > 0, X_H, **keywords).history["rir"]
    other = ic.immunize.published(P, P[:, 0] > 0, H, **keywords, computed_in=np.float32).history[
        "rir"
    ]
    np.testing.assert_allclose(one, other, rtol=1e-2)
    rows = np.random.default_rng([0, 0, 0]).permutation(200)[:50]
    s = [np.linalg.svd(X[rows], compute_uv=False) for X in (P, H)]
    identity = [(x[0] / x[3]) ** 2 for x in s]
    kappas = [
        ic.immunize.published(X_P, P[:, 0] > 0, X_H, **keywords).history[f"kappa_{task}"][0]
        for task in "PH"
    ]
    assert one[0] == pytest.approx(kappas[1] / identity[1] / (kappas[0] / identity[0]), rel=1e-3)


def test_the_rank_that_is_known_is_that_of_the_centred_features():
    """Their mean has a direction of its own."""
    rng = np.random.default_rng(2)
    Z = np.hstack([rng.normal(size=(60, 2)), np.full((60, 1), 2.0)])
    y = rng.normal(size=60) + 1.0
    told = ic.linear.alignment(Z, y, rank=2)
    seen = np.linalg.lstsq(Z, y, rcond=None)[0] @ Z.T
    uncentred = np.sum((Z.T @ y) ** 2) / (np.linalg.norm(Z, 2) ** 2 * (seen @ seen))
    assert told.rho_uncentred == pytest.approx(uncentred, rel=1e-12)
    assert told == ic.linear.alignment(Z, y)
