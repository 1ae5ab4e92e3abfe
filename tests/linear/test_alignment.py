"""Label alignment: what it bounds, how small it can be made, and the map that fades labels out."""

import pickle

import mpmath
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import immucond as ic


def data(seed, rows=60, d=8, classes=4, rows_P=80, spread=2.0):
    rng = np.random.default_rng(seed)
    scales = np.geomspace(1.0, 10.0**-spread, d)
    X_P = rng.normal(size=(rows_P, d)) @ rng.normal(size=(d, d)) * scales
    X_H = rng.normal(size=(rows, d)) @ rng.normal(size=(d, d)) * scales + 3.0
    y_H = (X_H @ rng.normal(size=(d, classes)) + rng.normal(size=(rows, classes))).argmax(1)
    y_H[:classes] = np.arange(classes)
    return X_P, X_H, y_H


def one_hot(y):
    return np.eye(int(y.max()) + 1)[y]


def rho(Z, Y):
    """The definition, by plain products and a projection."""
    Z, Y = Z - Z.mean(0), Y - Y.mean(0)
    fitted = Z @ np.linalg.lstsq(Z, Y, rcond=1e-12)[0]
    return np.sum((Z.T @ Y) ** 2) / (np.linalg.norm(Z, 2) ** 2 * np.sum(fitted**2))


def grams(X_H, y_H):
    Z, Y = X_H - X_H.mean(0), one_hot(y_H) - one_hot(y_H).mean(0)
    return {"K_H": Z.T @ Z, "b_H": Z.T @ Y, "energy_H": float(np.sum(Y**2))}


def sqrtm(A, power=0.5):
    values, vectors = np.linalg.eigh(A)
    return vectors * values**power @ vectors.T


# ---- rho and its bound ----


def test_a_rank_beyond_what_varies_is_refused():
    """Labels were counted along singular vectors of 0, which are any."""
    X_P, X_H, y_H = data(0)
    X_H[:, -1] = 0.0
    with pytest.raises(ValueError, match="rank of Z is given as 8, and Z has at most 7"):
        ic.linear.alignment(X_H, y_H, rank=8)
    assert ic.linear.alignment(X_H, y_H, rank=7).rho == ic.linear.alignment(X_H, y_H).rho
    told = "rank of X_H is given as 8, and X_H has at most 7"
    with pytest.raises(ValueError, match=told):
        ic.linear.fade(X_P, X_H, y_H, ranks=(8, 8))
    with pytest.raises(ValueError, match=told):
        ic.linear.alignment_limit(X_P, X_H, y_H, kappa_P=2.0, ranks=(8, 8))
    few, y = X_H[:5, :7], np.array([0, 1, 0, 1, 1])  # of 5 rows that are centred 4 are free
    with pytest.raises(ValueError, match="rank of Z is given as 5, and Z has at most 4"):
        ic.linear.alignment(few, y, rank=5)
    assert ic.linear.alignment(few, y, rank=5, center=False).rank == 5


@pytest.mark.parametrize("seed", range(5))
def test_alignment_is_its_definition(seed):
    _, X, y = data(seed)
    found = ic.linear.alignment(X, y)
    assert found.rho == pytest.approx(rho(X, one_hot(y)), rel=1e-10)
    Y = one_hot(y)
    plain = np.sum((X.T @ Y) ** 2) / np.linalg.norm(X, 2) ** 2
    explained = np.sum((X @ np.linalg.lstsq(X, Y, rcond=None)[0]) ** 2)
    assert found.rho_uncentred == pytest.approx(plain / explained, rel=1e-10)
    Z, centred = X - X.mean(0), Y - Y.mean(0)
    by_gram = ic.linear.alignment(K=Z.T @ Z, b=Z.T @ centred, energy=np.sum(centred**2))
    assert by_gram.rho == pytest.approx(found.rho, rel=1e-8)
    assert by_gram.explained == pytest.approx(found.explained, rel=1e-8)


def test_names_of_classes_are_what_their_one_hot_columns_are():
    _, X, y = data(0)
    expected = ic.linear.alignment(X, one_hot(y)).rho
    for labels in (y, y.astype(np.uint8), [f"class {i}" for i in y], np.array(list(y), dtype=int)):
        assert ic.linear.alignment(X, labels).rho == pytest.approx(expected, rel=1e-12)
    scaled = ic.linear.alignment(X * 1e150, 3.0 * one_hot(y)).rho
    assert scaled == pytest.approx(expected, rel=1e-12)


@given(seed=st.integers(0, 10**6), steps=st.integers(0, 60), step=st.floats(0.0, 2.0))
def test_gradient_descent_is_no_faster_than_the_bound(seed, steps, step):
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 7))
    Z = rng.normal(size=(12, m)) * 10.0 ** rng.uniform(-3, 0, size=m)
    Y = rng.normal(size=(12, int(rng.integers(1, 4))))
    found = ic.linear.alignment(Z, Y, center=False)
    u, s, _ = np.linalg.svd(Z, full_matrices=False)
    seen = u.T @ Y
    lengths = rng.uniform(0.0, step, size=steps) if seed % 2 else np.full(steps, step)
    left = np.prod([(1.0 - eta * (s / s[0]) ** 2) ** 2 for eta in lengths], axis=0)
    share = np.sum(left[:, None] * seen**2 if steps else seen**2) / np.sum(seen**2)
    assert share >= found.loss(steps) * (1.0 - 1e-9)
    if found.rho < 0.5 and steps and 0.0 < share < 1.0:
        assert steps >= found.steps(share) * (1.0 - 1e-9)


def test_the_bound_is_met_where_all_labels_lie_in_one_direction():
    Z = np.vstack([np.diag([1.0, 0.3]), -np.diag([1.0, 0.3])])
    y = np.array([0.0, 1.0, 0.0, -1.0])
    found = ic.linear.alignment(Z, y)
    assert found.rho == pytest.approx(0.09, rel=1e-12)
    assert found.loss(7) == pytest.approx((1.0 - 2 * 0.09) ** 14, rel=1e-12)
    assert found.steps((1.0 - 2 * 0.09) ** 14) == pytest.approx(7.0, rel=1e-12)


@pytest.mark.parametrize(("rho", "steps"), [(1e-17, 10**18), (3e-13, 10**12), (1e-9, 10**9)])
def test_the_bound_holds_for_an_alignment_that_is_small_beside_1(rho, steps):
    with mpmath.workdps(50):
        truth = float((1 - 2 * mpmath.mpf(rho)) ** (2 * steps))
    found = ic.linear.Alignment(rho, np.nan, 1.0, 2)
    assert found.loss(steps) == pytest.approx(truth, rel=1e-13)
    assert found.steps(truth) == pytest.approx(steps, rel=1e-13)


# ---- the limit under a condition number of the primary task ----


@given(seed=st.integers(0, 10**6), exponent=st.floats(0.0, 6.0))
def test_no_extractor_is_below_the_limit(seed, exponent):
    X_P, X_H, y = data(seed % 50, d=5)
    rng = np.random.default_rng(seed)
    root = sqrtm(X_P.T @ X_P, -0.5)
    u, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    A = root @ u * 10.0 ** rng.uniform(0.0, exponent / 2, size=5) @ u.T
    kappa = np.linalg.cond(X_P @ A) ** 2
    bracket = ic.linear.alignment_limit(X_P, X_H, y, kappa_P=max(1.0, kappa))
    assert rho(X_H @ A, one_hot(y)) >= bracket.lower * (1.0 - 1e-6)
    assert bracket.lower <= bracket.attained * (1.0 + 1e-12)


@pytest.mark.parametrize("tau", [1.0, 10.0, 1e4])
@pytest.mark.parametrize("seed", range(4))
def test_the_bracket_is_what_its_extractor_attains(seed, tau):
    X_P, X_H, y = data(seed)
    bracket = ic.linear.alignment_limit(X_P, X_H, y, kappa_P=tau)
    assert bracket.case == "definite"
    assert np.linalg.cond(X_P @ bracket.theta) ** 2 == pytest.approx(tau, rel=1e-7)
    assert rho(X_H @ bracket.theta, one_hot(y)) == pytest.approx(bracket.attained, rel=1e-6)
    whitened = rho(X_H @ sqrtm(X_P.T @ X_P, -0.5), one_hot(y))
    assert bracket.lower == pytest.approx(whitened / tau, rel=1e-7)
    size = np.linalg.norm(X_P @ bracket.theta) / np.linalg.norm(X_P)
    assert size == pytest.approx(1.0, rel=1e-9)
    by_gram = ic.linear.alignment_limit(K_P=X_P.T @ X_P, **grams(X_H, y), kappa_P=tau)
    assert by_gram.lower == pytest.approx(bracket.lower, rel=1e-6)
    assert by_gram.attained == pytest.approx(bracket.attained, rel=1e-6)


def test_turns_close_the_bracket():
    better = 0
    for seed in range(6):
        X_P, X_H, y = data(seed, classes=3)
        bracket = ic.linear.alignment_limit(X_P, X_H, y, kappa_P=1e3)
        F = (X_H - X_H.mean(0)) @ sqrtm(X_P.T @ X_P, -0.5)
        b = F.T @ (one_hot(y) - one_hot(y).mean(0))
        Q = scipy.linalg.orth(b, rcond=1e-10)
        S = np.sqrt(1e3) * np.eye(8) - (np.sqrt(1e3) - 1) * Q @ Q.T
        first = rho(F @ S, one_hot(y))
        assert bracket.attained <= first * (1.0 + 1e-9)
        better += bracket.attained < 0.9 * first
    assert better >= 3


@pytest.mark.parametrize("seed", range(20))
def test_nothing_on_a_grid_is_below_what_is_attained(seed):
    """Of two features S = 1 along one direction and tau across is all that an optimum can be."""
    rng = np.random.default_rng(seed)
    X_P, X_H = rng.normal(size=(2, 12, 2)) * 10.0 ** rng.uniform(-1, 1, (2, 1, 2))
    Y = rng.normal(size=(12, 1 + seed % 3))  # of two columns and more they span the features
    tau = 10.0 ** rng.uniform(0.5, 4)
    found = ic.linear.alignment_limit(X_P, X_H, Y, kappa_P=tau, center=False)
    F = np.linalg.solve(np.linalg.cholesky(X_P.T @ X_P), X_H.T).T
    q, R = np.linalg.qr(F)
    b, M, reached = F.T @ Y, R.T @ R, np.sum((q.T @ Y) ** 2)
    angle = np.linspace(0.0, np.pi, 20_001)
    v = np.stack([np.cos(angle), np.sin(angle)])
    S = tau * np.eye(2) - (tau - 1.0) * np.einsum("ik,jk->kij", v, v)
    top = np.linalg.eigvals(M @ S).real.max(axis=1)
    least = float(np.min(np.einsum("ic,kij,jc->k", b, S, b) / top) / reached)
    assert found.attained <= min(least, found.rho_whitened) * (1.0 + 1e-9)
    assert found.attained >= least * (1.0 - 1e-3) or found.attained == found.rho_whitened


def test_directions_that_no_primary_row_uses_are_free():
    X_P, X_H, y = data(1)
    X_P = X_P.copy()
    X_P[:, :5] = 0.0  # three directions are left; the harmful labels have three
    bracket = ic.linear.alignment_limit(X_P, X_H, y, kappa_P=10.0)
    assert bracket.case == "free"
    assert bracket.lower == bracket.attained == 0.0
    assert bracket.theta is None
    # H_P as it was, and rho as small as one likes.
    faded = ic.linear.fade(X_P, X_H, y, tau=1e12)
    assert faded.moved <= 1e-12
    assert rho(X_H @ faded.theta, one_hot(y)) < 1e-9


@pytest.mark.parametrize("by_gram", [False, True])
@pytest.mark.parametrize(
    ("C", "least"), [([[2.0]], 1.0), ([[2.0, 0.0], [0.0, 1.0]], 0.2), ([[2.0], [1.0]], 0.0)]
)
def test_labels_that_span_what_harmful_rows_do_cannot_all_be_slow(C, least, by_gram):
    rng = np.random.default_rng(0)
    q = len(C)
    U = np.linalg.qr((lambda x: x - x.mean(0))(rng.normal(size=(6, q))))[0]
    R = rng.normal(size=(q, 4))
    X_P, Z, Y = rng.normal(size=(9, 4)) * [1.0, 1.0, 0.0, 0.0], U @ R, U @ C
    given = {"X_P": X_P, "X_H": Z, "Y_H": Y}
    if by_gram:
        given = {"K_P": X_P.T @ X_P, "K_H": Z.T @ Z, "b_H": Z.T @ Y, "energy_H": np.sum(Y**2)}
    bracket = ic.linear.alignment_limit(**given, kappa_P=10.0)
    assert bracket.case == "free"
    assert bracket.lower == bracket.attained == pytest.approx(least, abs=1e-12)
    assert min(rho(Z @ rng.normal(size=(4, 4)), Y) for _ in range(200)) >= least * (1.0 - 1e-12)
    # Directions that no primary row uses write any features: of rows 1 where labels are least.
    u, _, _ = np.linalg.svd(C)
    rows = np.linalg.qr(rng.normal(size=(4, q)))[0].T
    wanted = (u * np.append(np.full(q - 1, 1e-5), 1.0)) @ rows
    A = np.eye(4)
    A[2:] += np.linalg.pinv(R[:, 2:]) @ (wanted - R)
    assert np.allclose(X_P @ A, X_P)
    assert np.linalg.matrix_rank(A) == 4
    assert rho(Z @ A, Y) == pytest.approx(least, abs=1e-8)


def test_one_free_direction_does_not_hold_labels_of_three():
    X_P, X_H, y = data(1)
    X_P = X_P.copy()
    X_P[:, 0] = 0.0
    bracket = ic.linear.alignment_limit(X_P, X_H, y, kappa_P=10.0)
    assert bracket.case == "partly free"
    assert bracket.lower == 0.0 < bracket.attained
    with_delta = ic.linear.alignment_limit(X_P, X_H, y, kappa_P=10.0, delta=1.0)
    assert with_delta.case == "definite"


def test_range_of_the_primary_task_alone_counts_where_harmful_rows_stay_within():
    X_P, X_H, y = data(2, d=6)
    wide = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 9)))[0][:6]
    inner = ic.linear.alignment_limit(X_P, X_H, y, kappa_P=50.0)
    outer = ic.linear.alignment_limit(X_P @ wide, X_H @ wide, y, kappa_P=50.0)
    assert outer.case == "restricted"
    assert outer.lower == pytest.approx(inner.lower, rel=1e-7)
    assert outer.attained == pytest.approx(inner.attained, rel=1e-7)
    assert np.linalg.matrix_rank(outer.theta) == 9


# ---- fade ----


@pytest.mark.parametrize("tau", [1.0, 4.0, 1e4, np.inf])
@pytest.mark.parametrize("seed", range(3))
def test_fade_is_its_formula(seed, tau):
    X_P, X_H, y = data(seed)
    K_P, b = X_P.T @ X_P, grams(X_H, y)["b_H"]
    Pi = np.linalg.solve(K_P, b) @ np.linalg.pinv(b.T @ np.linalg.solve(K_P, b), 1e-10) @ b.T
    faded = ic.linear.fade(X_P, X_H, y, tau=tau)
    assert faded.left.shape == (8, 3)
    expected = np.eye(8) - (1.0 - tau**-0.5) * Pi
    np.testing.assert_allclose(faded.theta, expected, atol=1e-8 * np.linalg.norm(Pi))
    np.testing.assert_allclose(X_H @ faded, X_H @ faded.theta, atol=1e-12 * np.abs(X_H).max() * 8)
    np.testing.assert_array_equal(np.asarray(faded), faded.theta)
    by_gram = ic.linear.fade(K_P=K_P, **grams(X_H, y), tau=tau)
    np.testing.assert_allclose(by_gram.theta, expected, atol=1e-6 * np.linalg.norm(Pi))
    if tau < np.inf:
        np.testing.assert_allclose(faded.theta.T @ b, b / np.sqrt(tau), atol=1e-9 * np.abs(b).max())
        np.testing.assert_allclose(faded.inverse @ faded.theta, np.eye(8), atol=1e-7)
        omega = np.arange(8.0)
        np.testing.assert_allclose((X_P @ faded) @ faded.solve(omega), X_P @ omega, rtol=1e-6)
        assert faded.kappa_P_before == pytest.approx(np.linalg.cond(X_P) ** 2, rel=1e-9)
        assert faded.kappa == pytest.approx(np.linalg.cond(faded.theta), rel=1e-6)
        assert faded.kappa_P == pytest.approx(np.linalg.cond(X_P @ faded.theta) ** 2, rel=1e-6)
        assert faded.rho >= faded.limit * (1.0 - 1e-9)
        assert faded.rho == pytest.approx(rho(X_H @ faded.theta, one_hot(y)), rel=1e-6)
    else:
        np.testing.assert_allclose(faded.theta.T @ b, 0.0, atol=1e-9 * np.abs(b).max())
        assert faded.rho == 0.0
        with pytest.raises(ValueError, match="tau is infinite: what is erased has no inverse"):
            _ = faded.inverse


@pytest.mark.parametrize("lost", [0, 1, 2, 5])
def test_fade_changes_the_primary_features_least(lost):
    """Against the minimum of the constrained least squares, by its own normal equations."""
    X_P, X_H, y = data(3)
    X_P = X_P.copy()
    X_P[:, :lost] = 0.0
    b, tau = grams(X_H, y)["b_H"], 25.0
    faded = ic.linear.fade(X_P, X_H, y, tau=tau)
    np.testing.assert_allclose(faded.theta.T @ b, b / 5.0, atol=1e-9 * np.abs(b).max())
    np.testing.assert_allclose(faded.right.T @ faded.left, np.eye(3), atol=1e-8)
    np.testing.assert_allclose(faded.inverse @ faded.theta, np.eye(8), atol=1e-7)
    # All D with D^T b = -(1 - 1/5) b are D_0 + N W for a basis N of null(b^T).
    N = scipy.linalg.null_space(b.T, rcond=1e-10)
    D_0 = -0.8 * np.linalg.pinv(b.T, rcond=1e-10) @ b.T
    W = np.linalg.lstsq(X_P @ N, -X_P @ D_0, rcond=1e-11)[0]
    least = np.linalg.norm(X_P @ (D_0 + N @ W))
    scale = np.linalg.norm(X_P)
    assert np.linalg.norm(X_P @ faded.theta - X_P) <= least + 1e-8 * scale
    assert faded.moved == pytest.approx(least / scale, abs=1e-8)
    assert (least < 1e-8 * scale) == (lost >= 3)


def test_erasure_leaves_nothing_to_any_affine_probe_and_costs_what_it_says():
    X_P, X_H, y = data(4)
    y_P = X_P @ np.arange(8.0) + np.random.default_rng(0).normal(size=80)
    y_P -= y_P.mean()
    faded = ic.linear.fade(X_P, X_H, y, tau=np.inf, Y_P=y_P)
    Z, Y = X_H - X_H.mean(0), one_hot(y) - one_hot(y).mean(0)
    fitted = (Z @ faded) @ np.linalg.lstsq(Z @ faded, Y, rcond=1e-10)[0]
    assert np.linalg.norm(fitted) <= 1e-7 * np.linalg.norm(Y)

    def least(X):
        return np.sum((X @ np.linalg.lstsq(X, y_P, rcond=1e-10)[0] - y_P) ** 2)

    b_P = sqrtm(X_P.T @ X_P, -0.5) @ X_P.T @ y_P
    grown = least(X_P @ faded) - least(X_P)
    assert grown == pytest.approx((1.0 - faded.protected) * (b_P @ b_P), rel=1e-6)


def test_protection_keeps_the_primary_head_fast():
    X_P, X_H, y = data(5)
    y_P = X_P @ np.arange(8.0)
    plain = ic.linear.fade(X_P, X_H, y, Y_P=y_P)
    assert plain.protected < 1.0 - 1e-6
    kept = ic.linear.fade(X_P, X_H, y, Y_P=y_P, protect=True)
    assert kept.protected == pytest.approx(1.0, abs=1e-9)
    assert kept.rho > plain.rho
    w = np.linalg.lstsq(X_P, y_P - y_P.mean(), rcond=None)[0]
    np.testing.assert_allclose(kept @ w, w, rtol=1e-7)
    cross = X_P.T @ (y_P - y_P.mean())
    again = ic.linear.fade(K_P=X_P.T @ X_P, b_P=cross, **grams(X_H, y), protect=True)
    np.testing.assert_allclose(again.theta, kept.theta, atol=1e-6 * np.abs(kept.theta).max())


def test_several_tasks_fade_together():
    X_P, X_H, y = data(6, classes=3)
    _, other, z = data(7, classes=3, rows=40)
    faded = ic.linear.fade(X_P, [X_H, other], [y, z], tau=1e4)
    assert faded.left.shape == (8, 4)
    for X, labels, before, after in zip(
        (X_H, other), (y, z), faded.rho_before, faded.rho, strict=True
    ):
        b = grams(X, labels)["b_H"]
        np.testing.assert_allclose(faded.theta.T @ b, b / 100.0, atol=1e-9 * np.abs(b).max())
        assert after == pytest.approx(rho(X @ faded.theta, one_hot(labels)), rel=1e-6)
        assert after < before
    each = [grams(X_H, y), grams(other, z)]
    by_gram = ic.linear.fade(K_P=X_P.T @ X_P, **{k: [g[k] for g in each] for k in each[0]})
    np.testing.assert_allclose(by_gram.theta, faded.theta, atol=1e-6 * np.abs(faded.theta).max())
    bracket = ic.linear.alignment_limit(X_P, [X_H, other], [y, z], kappa_P=100.0)
    for low, high in zip(bracket.lower, bracket.attained, strict=True):
        assert low <= high


def test_the_whitened_form_lies_near_the_limit():
    X_P, X_H, y = data(8)
    faded = ic.linear.fade(X_P, X_H, y, form="whitened", tau=100.0)
    assert faded.kappa_P == pytest.approx(100.0, rel=1e-7)
    F = (X_H - X_H.mean(0)) @ sqrtm(X_P.T @ X_P, -0.5)
    slow = scipy.linalg.orth(F.T @ (one_hot(y) - one_hot(y).mean(0)), rcond=1e-10)
    outside = np.linalg.norm(F - F @ slow @ slow.T, 2) ** 2
    assert faded.limit <= faded.rho <= faded.limit * np.linalg.norm(F, 2) ** 2 / outside
    np.testing.assert_allclose(faded.inverse @ faded.theta, np.eye(8), atol=1e-7)


def test_more_features_than_rows():
    rng = np.random.default_rng(0)
    X_P, X_H = rng.normal(size=(15, 30)), rng.normal(size=(12, 30))
    y = np.arange(12) % 3
    faded = ic.linear.fade(X_P, X_H, y)
    assert faded.moved <= 1e-10  # the null space of the primary task takes all
    assert faded.rho < faded.rho_before * 1e-3
    assert ic.linear.alignment(X_H, y).rank == 11
    assert ic.linear.alignment(X_H, y).explained == pytest.approx(1.0)


def test_float32_features_lose_only_the_digits_that_they_lack():
    X_P, X_H, y = data(9)
    exact = ic.linear.fade(X_P, X_H, y)
    single = ic.linear.fade(X_P.astype(np.float32), X_H.astype(np.float32), y)
    np.testing.assert_allclose(single.theta, exact.theta, atol=1e-2 * np.abs(exact.theta).max())
    rounded = X_H.astype(np.float32).astype(np.float64)
    told = ic.linear.fade(X_P, rounded, y, computed_in=np.float32)
    assert told.rho == pytest.approx(exact.rho, rel=1e-2)


def test_a_map_is_a_value():
    X_P, X_H, y = data(10)
    faded = ic.linear.fade(X_P, X_H, y)
    again = pickle.loads(pickle.dumps(faded))
    np.testing.assert_array_equal(again.theta, faded.theta)
    assert again.rho == faded.rho
    assert "rank=3" in repr(faded)


# ---- bad input ----


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"Y_H": np.zeros(60, int)}, ValueError, "Y_H is constant: all 60 labels are"),
        ({"Y_H": np.ones((60, 2))}, ValueError, "Y_H is constant"),
        ({"Y_H": np.arange(60)}, ValueError, "60 classes on 60 rows"),
        ({"Y_H": np.ones((60, 61))}, ValueError, "61 columns, more classes than its 60 rows"),
        ({"Y_H": np.full(60, np.nan)}, ValueError, "Y_H must be finite"),
        ({"Y_H": np.zeros(59, int)}, ValueError, "60 labels, as X_H rows, got 59"),
        ({"Y_H": None}, TypeError, "give either X_H and Y_H or K_H and b_H"),
        ({"tau": 0.5}, ValueError, r"tau must be in \[1, inf\]"),
        ({"tau": np.nan}, ValueError, "tau must be in"),
        ({"form": "far"}, ValueError, "form must be one of 'near', 'whitened'"),
        ({"form": "whitened", "tau": np.inf}, ValueError, "tau must be finite"),
        ({"protect": True}, TypeError, "protect=True needs the primary labels"),
        ({"X_H": np.ones((60, 7))}, ValueError, "is constant"),
        ({"delta": -1.0}, ValueError, "delta must be in"),
        ({"ranks": 5}, ValueError, "ranks must be a pair"),
        ({"ranks": (9, None)}, ValueError, "rank of X_P must be between 1 and 8"),
        ({"ranks": (None, 9)}, ValueError, "rank of X_H must be between 1 and 8"),
        ({"X_P": None}, TypeError, "give either X_P or K_P"),
        ({"X_P": np.full((80, 8), np.nan)}, ValueError, "X_P must be finite"),
        ({"X_H": np.ones((60, 8), complex)}, TypeError, "X_H must hold float16"),
    ],
)
def test_bad_input_is_named(change, error, match):
    X_P, X_H, y = data(0)
    with pytest.raises(error, match=match):
        ic.linear.fade(**{"X_P": X_P, "X_H": X_H, "Y_H": y, **change})


def test_other_bad_input_is_named():
    X_P, X_H, y = data(0)
    with pytest.raises(ValueError, match="as many columns, got 8 and 7"):
        ic.linear.fade(X_P, X_H[:, :7], y)
    b = grams(X_H, y)["b_H"]
    with pytest.raises(ValueError, match="leaves nothing to fade"):
        ic.linear.fade(K_P=X_P.T @ X_P, **grams(X_H, y), b_P=b, protect=True)
    with pytest.raises(ValueError, match="alone explain"):
        ic.linear.fade(K_P=X_P.T @ X_P, **(grams(X_H, y) | {"energy_H": 0.1}))
    with pytest.raises(ValueError, match="kappa_P"):
        ic.linear.alignment_limit(X_P, X_H, y, kappa_P=0.9)
    with pytest.raises(ValueError, match="one item a task"):
        ic.linear.fade(X_P, [X_H, X_H], [y])


def test_constant_features_and_energies_of_nothing_are_told_in_words():
    y = np.array([0.0, 1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="Z is constant: centred, its rank is 0"):
        ic.linear.alignment(np.ones((4, 2)), y, rank=2)
    with pytest.raises(ValueError, match="energy is below what K and b alone explain, inf of it"):
        ic.linear.alignment(K=np.eye(2), b=[1e300, 0.0], energy=1.0, rank=2)


def test_labels_that_the_features_do_not_see_leave_the_identity():
    X_P, X_H, _ = data(0)
    Z = X_H - X_H.mean(0)
    y = scipy.linalg.null_space(np.hstack([Z, np.ones((60, 1))]).T)[:, 0]
    with pytest.warns(ic.ImmunityWarning, match="do not see their labels") as told:
        faded = ic.linear.fade(X_P, X_H, y)
    assert told[0].filename == __file__
    np.testing.assert_array_equal(faded.theta, np.eye(8))
    assert faded.rho == faded.rho_before == 0.0
    assert ic.linear.alignment(X_H, y).steps(0.5) == np.inf


# ---- other rows ----

MEANS = np.random.default_rng(99).normal(size=(4, 12)) * np.geomspace(3.0, 0.3, 12)
SCALES = np.geomspace(3.0, 0.5, 12)


def mixture(seed, rows):
    """Features of a mixture of four Gaussians, whose labels are its components."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, size=rows)
    return MEANS[y] + rng.normal(size=(rows, 12)) * SCALES, y


def rho_of_population(A):
    """Of all rows that there could be, from the moments of the mixture."""
    middle = MEANS - MEANS.mean(0)
    covariance = middle.T @ middle / 4 + np.diag(SCALES**2)
    b = middle.T / 4
    explained = np.sum(b * np.linalg.solve(covariance, b))
    return np.sum((A.T @ b) ** 2) / (np.linalg.norm(A.T @ covariance @ A, 2) * explained)


@pytest.mark.parametrize(("tau", "rows"), [(100, 4000), (1e4, 400), (1e4, 4000), (np.inf, 400)])
def test_the_leak_on_other_rows_follows_its_law(tau, rows):
    X_P = mixture(1, 3000)[0]
    samples = [mixture(seed, rows) for seed in range(100, 160)]
    measured = [rho_of_population(ic.linear.fade(X_P, *s, tau=tau).theta) for s in samples]
    told = [ic.linear.leak(X_P, *s, tau=tau).expected(rows) for s in samples[:5]]
    # Sixty squares of few independent errors scatter by a tenth, and the law is of first order.
    assert np.mean(measured) == pytest.approx(np.mean(told), rel=0.2)


def test_rows_needed_give_the_leak_wanted():
    X_P = mixture(1, 3000)[0]
    Z, y = mixture(2, 1000)
    found = ic.linear.leak(X_P, Z, y)
    assert found.rows_needed(found.expected(4000)) == pytest.approx(4000, abs=1)
    with pytest.raises(ValueError, match="rho must be above"):
        found.rows_needed(found.own / 2)
    with pytest.raises(ValueError, match=r"folds = 5 needs 10 rows"):
        ic.linear.leak(X_P, Z[:9], y[:9])
    rare = np.where(np.arange(1000) < 4, 7, y)
    with pytest.raises(ValueError, match=r"part 1 of 5 has 200 rows alike in column 4 of Y_H"):
        ic.linear.leak(X_P, Z, rare)
    assert ic.linear.leak(X_P, Z, np.where(np.arange(1000) < 5, 7, y)).other > 0.0
    assert ic.linear.leak(X_P, Z, y) == found
    assert ic.linear.leak(X_P, Z, y, seed=1) != found


def test_the_interval_holds_the_reduction_on_other_rows():
    """Ninety-five of a hundred times, or more often: it is wide on purpose."""
    X_P = mixture(1, 3000)[0]
    hits = 0
    for seed in range(40):
        Z, y = mixture(1000 + seed, 500)
        found = ic.linear.leak(X_P, Z, y, folds=4)
        truth = [
            ic.linear.leak(X_P, *mixture(5000 + 40 * seed + k, 500), folds=4).reduction
            for k in range(3)
        ]
        hits += found.interval[0] <= np.exp(np.mean(np.log(truth))) <= found.interval[1]
    assert hits >= 36


# ---- what tables and units make of labels ----


def test_warnings_of_what_is_computed_when_asked_for_are_of_the_users_line():
    X_P, X_H, y = data(0)
    faded = ic.linear.fade(X_P, X_H, y == 1, tau=1e40, form="whitened")
    with pytest.warns(ic.AccuracyWarning) as told:
        _ = faded.kappa_P
    assert [warning.filename for warning in told] == [__file__]


def test_maps_take_the_rows_that_the_library_takes():
    X_P, X_H, y = data(0)
    for A in (ic.linear.fade(X_P, X_H, y), ic.linear.erasure(X_P.T @ X_P, np.eye(8), 4)):
        np.testing.assert_allclose(X_H.tolist() @ A, X_H @ A.theta, atol=1e-12)
        np.testing.assert_allclose(np.stack([X_H, X_P[:60]]) @ A, [X_H @ A, X_P[:60] @ A])
        np.testing.assert_allclose(X_H[0] @ A, X_H[0] @ A.theta, atol=1e-12)
        for bad, error in (
            (X_H * 1j, TypeError),
            (np.ma.masked_greater(X_H, 1), TypeError),
            (np.where(X_H > 1, np.nan, X_H), ValueError),
        ):
            with pytest.raises(error, match=r"^Z (must|is a masked)"):
                bad @ A
            with pytest.raises(error, match=r"^omega (must|is a masked)"):
                A @ bad.T


def test_it_is_at_most_1_where_all_features_are_one():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        Z, y = np.outer(rng.normal(size=9), rng.normal(size=3)), rng.normal(size=(9, 2))
        assert 1.0 - 1e-12 < ic.linear.alignment(Z, y).rho <= 1.0


def test_a_column_of_labels_names_classes_too():
    X_P, X_H, y = data(0)
    by_row = ic.linear.fade(X_P, X_H, y)
    for column in (y[:, None], y[:, None].astype(str), (y[:, None] == 1)):
        found = ic.linear.fade(X_P, X_H, column)
        expected = ic.linear.fade(X_P, X_H, column[:, 0])
        np.testing.assert_array_equal(found.theta, expected.theta)
    assert by_row.left.shape[1] == len(np.unique(y)) - 1
    Z = X_H - X_H.mean(0)
    assert ic.r_align(Z, y) == ic.r_align(Z, y[:, None]) == ic.r_align(Z, np.eye(y.max() + 1)[y])


def test_labels_that_are_masked_are_refused():
    """NumPy hands on what stands below the mask."""
    X_P, X_H, y = data(0)
    masked = np.ma.masked_equal(y, 2)
    for call in (
        lambda: ic.linear.alignment(X_H, masked),
        lambda: ic.r_align(X_H, masked),
        lambda: ic.linear.leak(X_P, X_H, masked),
        lambda: ic.probing.ceiling(X_H, masked, X_P, held_out=(X_H, y)),
        lambda: ic.probing.ceiling(X_H, y, X_P, held_out=(X_H, masked)),
    ):
        with pytest.raises(TypeError, match=r"(Y|Y_H|y|held_out\[1\]) is a masked array"):
            call()


def test_the_regularizer_takes_a_batch_of_fewer_rows_than_classes():
    rng = np.random.default_rng(0)
    Z, y = rng.normal(size=(6, 4)), np.array([0, 3, 3, 8, 5, 1])
    Y = np.eye(9)[y]
    A, C = Z - Z.mean(0), Y - Y.mean(0)
    right = np.linalg.norm(A.T @ C) ** 2 / (np.linalg.norm(A, 2) ** 2 * np.sum(C**2))
    assert ic.r_align(Z, y) == pytest.approx(right, rel=1e-12)
    assert ic.r_align(Z, Y) == pytest.approx(right, rel=1e-12)
    assert 0.0 < ic.r_align(Z, np.arange(6)) <= 1.0


@pytest.mark.parametrize("scales", [(1e200, 1.0), (1.0, 1e200), (1e-200, 1e-200)])
def test_leak_has_no_unit(scales):
    X_P, X_H, _ = data(0)
    y = X_H[:, :1] + 0.1 * np.random.default_rng(3).normal(size=(len(X_H), 1))
    right = ic.linear.leak(X_P, X_H, y)
    found = ic.linear.leak(X_P, X_H * scales[0], y * scales[1])
    for name in ("own", "other", "before", "reduction", "per_row"):
        assert getattr(found, name) == pytest.approx(getattr(right, name), rel=1e-6), name


def test_leak_names_what_is_wrong():
    X_P, X_H, y = data(0)
    with pytest.raises(ValueError, match="X_P and X_H must have as many columns, got 8 and 5"):
        ic.linear.leak(X_P, X_H[:, :5], y)
    with pytest.raises(ValueError, match="seed must be at least 0, and is -1"):
        ic.linear.leak(X_P, X_H, y, seed=-1)
    with pytest.raises(ValueError, match=r"tau must be below 1\.8e308"):
        ic.linear.fade(X_P, X_H, y, tau=10**400)
    with pytest.raises(ValueError, match="Y_H must hold one item a task, 2, got 1 items"):
        ic.linear.fade(X_P, [X_H, X_H], [y])


def test_how_much_of_the_primary_head_is_protected_is_shown():
    X_P, X_H, y = data(0)
    found = ic.linear.fade(X_P, X_H, y, Y_P=X_P[:, 0])
    assert f"protected={found.protected:.4g}" in repr(found)
    assert "protected" not in repr(ic.linear.fade(X_P, X_H, y))
    limit = ic.linear.alignment_limit(X_P, X_H, y, kappa_P=4.0, Y_P=X_P[:, 0])
    assert f"protected={limit.protected:.4g}" in repr(limit)
