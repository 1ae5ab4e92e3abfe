"""`fade` and its kin on inputs that somebody chose: null spaces, labels that are shared, sums."""

import math
import warnings

import mpmath
import numpy as np
import pytest

import immucond as ic

SPREADS = [1.0, 1e1, 1e3, 1e5]


def faded_share(found, b):
    """What is left of labels, relative to what tau asks for."""
    return found.theta.T @ b * math.sqrt(found.tau)


# ---- labels beside the range of K_P ----


@pytest.mark.parametrize("weak", [1e-3, 1e-8, 1e-12])
def test_labels_where_no_primary_row_is_fade_whatever_the_weakest_direction(weak):
    """Rounding of the null space grows with sqrt(kappa) or kappa; real labels are above it."""
    b = np.array([0.0, 1.0, 1.0])
    given = {"K_P": np.diag([1.0, weak, 0.0]), "K_H": np.eye(3), "b_H": b}
    found = ic.linear.fade(**given)
    np.testing.assert_allclose(faded_share(found, b), b, atol=1e-9)
    left, top = np.sum((found.theta.T @ b) ** 2), np.linalg.norm(found.theta, 2) ** 2
    assert found.rho == pytest.approx(left / (top * 2.0), rel=1e-9)
    erased = ic.linear.fade(**given, tau=math.inf)
    np.testing.assert_allclose(erased.theta.T @ b, 0.0, atol=1e-9)
    assert erased.rho == 0.0
    by_rows = ic.linear.fade(
        np.diag([1.0, 5e-4, 0.0]).astype(np.float32), K_H=np.eye(3), b_H=b, K_P=None
    )
    np.testing.assert_allclose(faded_share(by_rows, b), b, atol=1e-9)


@pytest.mark.parametrize("decades", [2, 4, 6])
@pytest.mark.parametrize("gram", [False, True])
def test_singular_tasks_fade_as_far_as_tau_says(decades, gram):
    rng = np.random.default_rng(decades)
    for _ in range(10):
        Q = np.linalg.qr(rng.normal(size=(8, 8)))[0]
        X_P = rng.normal(size=(60, 6)) * np.geomspace(1, 10.0 ** (-decades / 2), 6) @ Q[:6]
        X_H = rng.normal(size=(90, 8))
        y = rng.integers(3, size=90)
        Z, Y = X_H - X_H.mean(0), np.eye(3)[y] - np.bincount(y, minlength=3) / 90
        found = (
            ic.linear.fade(K_P=X_P.T @ X_P, K_H=Z.T @ Z, b_H=Z.T @ Y)
            if gram else ic.linear.fade(X_P, X_H, y)
        )  # fmt: skip
        b = Z.T @ Y
        np.testing.assert_allclose(faded_share(found, b), b, atol=1e-4 * np.abs(b).max(), rtol=1e-4)


def test_what_cannot_be_told_from_rounding_stays_and_is_told():
    """Rows in single precision, whose weakest direction holds the other part of the labels."""
    X_P = np.diag([1.0, 1e-6, 0.0]).astype(np.float32)
    with pytest.warns(ic.AccuracyWarning, match="a share of 0.45 of the harmful labels"):
        found = ic.linear.fade(X_P, K_H=np.eye(3), b_H=[0.0, 1.0, 0.5], tau=math.inf)
    assert found.rho > 0.01  # and not 0


def test_the_whitened_form_is_refused_where_it_would_raise_the_alignment():
    rng = np.random.default_rng(183)
    X_P = rng.normal(size=(40, 5))
    X_P[:, 4] = 0
    Q = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    X_H = rng.normal(size=(60, 5)) * 10.0 ** rng.uniform(-1, 1, 5) @ Q
    y = X_H @ rng.normal(size=5)
    with pytest.raises(ValueError, match=r"rank 4 of 5, and 1 directions of them lie beside it"):
        ic.linear.fade(X_P, X_H, y, form="whitened")
    assert ic.linear.fade(X_P, X_H, y, form="whitened", delta=1e-3).rho < 0.1
    assert ic.linear.fade(X_P, X_H, y).rho < 1e-3


# ---- labels that both tasks share ----


def shared(seed, spread):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(300, 6)) * np.geomspace(1, 1 / spread, 6)
    X = X @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    X -= X.mean(0)
    return X, rng


@pytest.mark.parametrize("spread", SPREADS)
def test_protection_of_the_same_labels_leaves_nothing(spread):
    """The rounding of two sums over the same rows is no direction that could fade."""
    for seed in range(10):
        X, rng = shared(seed, spread)
        y = (X @ rng.normal(size=(6, 3))).argmax(1)
        Y, K = np.eye(3)[y] - np.bincount(y, minlength=3) / 300, X.T @ X
        with pytest.raises(ValueError, match="leaves nothing to fade"):
            ic.linear.fade(X, X, y, Y_P=y, protect=True)
        with pytest.raises(
            ValueError, match=r"leaves nothing to fade: .* share of [0-9.e-]+, which"
        ):
            ic.linear.fade(K_P=K, K_H=K, b_H=X.T @ Y, b_P=(Y.T @ X).T, protect=True)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("gram", [False, True])
def test_protection_of_one_target_of_three_leaves_two(spread, gram):
    for seed in range(10):
        X, rng = shared(seed, spread)
        Y = X @ rng.normal(size=(6, 3))
        found = (
            ic.linear.fade(
                K_P=X.T @ X, K_H=X.T @ X, b_H=X.T @ Y, b_P=(Y[:, :1].T @ X).T, protect=True
            )
            if gram else ic.linear.fade(X, X, Y, Y_P=Y[:, 0], protect=True)
        )  # fmt: skip
        assert found.left.shape == (6, 2)
        assert found.protected == pytest.approx(1.0, abs=1e-6)


def test_erasing_beside_a_protected_head_tells_what_is_left():
    given = {"K_P": np.eye(2), "K_H": np.eye(2), "b_H": [1, 1], "b_P": [1, 0], "protect": True}
    found = ic.linear.fade(**given, tau=math.inf)
    assert found.rho == pytest.approx(0.5)
    assert found.rho == pytest.approx(ic.linear.fade(**given, tau=1e12).rho, rel=1e-5)


@pytest.mark.parametrize("Y_P", [np.full(80, 0.1), np.ones(80), np.full(80, 1e300)])
def test_constant_primary_labels_have_no_head(Y_P):
    rng = np.random.default_rng(0)
    X_P, X_H = rng.normal(size=(80, 5)), rng.normal(size=(200, 5))
    with pytest.raises(ValueError, match="Y_P is constant"):
        ic.linear.fade(X_P, X_H, X_H[:, 0] > 0, Y_P=Y_P)


def test_primary_labels_that_no_input_tells_have_no_head():
    rng = np.random.default_rng(0)
    X_P, X_H, y = rng.normal(size=(80, 5)), rng.normal(size=(200, 5)), rng.normal(size=80)
    beside = np.linalg.qr(np.column_stack([X_P, np.ones(80), y]))[0][:, -1]
    with pytest.raises(ValueError, match="nothing in common"):
        ic.linear.fade(X_P, X_H, X_H[:, 0] > 0, Y_P=beside, protect=True)


# ---- sums, scales, labels that span everything ----


@pytest.mark.parametrize("mean", [0.0, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("told", [False, True])
def test_sums_that_are_centred_by_a_difference_have_one_class_less(mean, told):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        c = int(rng.integers(3, 8))
        y, X = rng.integers(c, size=1000), rng.normal(size=(1000, 9)) + mean
        Y, X_P = np.eye(c)[y], rng.normal(size=(500, 9))
        K = X.T @ X - 1000 * np.outer(X.mean(0), X.mean(0))
        b = X.T @ Y - 1000 * np.outer(X.mean(0), Y.mean(0))
        energy = 1000 - np.sum(Y.sum(0) ** 2) / 1000 if told else None
        found = ic.linear.fade(K_P=X_P.T @ X_P, K_H=K, b_H=b, energy_H=energy)
        assert found.left.shape == (9, c - 1)
        assert found.moved == pytest.approx(ic.linear.fade(X_P, X, y).moved, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e153, 1e155, 1e300])
def test_alignment_whatever_the_scale_of_labels(scale):
    rng = np.random.default_rng(0)
    Z, y = rng.normal(size=(60, 5)), rng.normal(size=60)
    one, other = ic.linear.alignment(Z, y), ic.linear.alignment(Z, y * scale)
    assert other.rho == pytest.approx(one.rho, rel=1e-12)
    assert other.explained == pytest.approx(one.explained, rel=1e-12)
    assert ic.r_align(Z, y * scale) == pytest.approx(ic.r_align(Z, y), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-310, 1e-160, 1e155, 1e300])
def test_sums_of_any_unit(scale):
    """Sums are as the features and the labels are: each may be in a unit of its own."""
    rng = np.random.default_rng(0)
    X, Z, y, y_P = (rng.normal(size=size) for size in ((50, 5), (60, 5), 60, 50))
    Z, y = Z - Z.mean(0), y - y.mean()
    right = ic.linear.alignment(Z, y)
    K, b = Z.T @ Z, Z.T @ y
    found = ic.linear.alignment(K=K * scale, b=b * scale, energy=y @ y * scale)
    assert found.rho == pytest.approx(right.rho, rel=1e-9)
    assert found.explained == pytest.approx(right.explained, rel=1e-9)
    assert ic.linear.alignment(K=K * scale, b=b).rho == pytest.approx(right.rho, rel=1e-9)
    # The primary head: labels that it shares stay.
    given = {"K_P": X.T @ X, "K_H": K, "b_H": b, "protect": True}
    one = ic.linear.fade(**given, b_P=X.T @ y_P)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = ic.linear.fade(**given, b_P=X.T @ y_P * scale)
    np.testing.assert_allclose(other.theta, one.theta, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("error")
def test_primary_targets_near_the_largest_float():
    rng = np.random.default_rng(0)
    X, Z, y, y_P = rng.normal(size=(50, 5)), rng.normal(size=(60, 5)), *rng.uniform(size=(2, 60))
    one, other = (ic.linear.fade(X, Z, y, Y_P=y_P[:50] * unit) for unit in (1.0, 1.7e308))
    assert other.protected == pytest.approx(one.protected, rel=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("tau", [1e4, 1e308])
def test_the_whitened_form_at_the_largest_tau(tau):
    """Its primary features are of the size that they were, 0 where the labels are at last."""
    rng = np.random.default_rng(0)
    X, Z, y = rng.normal(size=(50, 4)) * [4, 3, 2, 1], rng.normal(size=(60, 4)), rng.normal(size=60)
    b = np.linalg.solve(np.linalg.cholesky(X.T @ X), (Z - Z.mean(0)).T @ (y - y.mean()))
    unit = b / np.linalg.norm(b)
    S = np.eye(4) - (1 - tau**-0.5) * np.outer(unit, unit)
    for theta in (
        ic.linear.fade(X, Z, y, tau=tau, form="whitened").theta,
        # Along b alone S is 1 by the formula; the limit may have found better.
        ic.linear.alignment_limit(X, [Z, Z], [y, y], kappa_P=tau).theta,
    ):
        G = theta.T @ X.T @ X @ theta
        assert np.trace(G) == pytest.approx(np.sum(X**2), rel=1e-12)
        values = np.linalg.eigvalsh(G) / np.linalg.eigvalsh(G)[-1]
        np.testing.assert_allclose(values, np.linalg.eigvalsh(S) ** 2, rtol=1e-6, atol=1e-12)


def test_labels_that_span_the_features():
    """Then fade scales all alike, and says so; the limit still spends its condition number."""
    rng = np.random.default_rng(2)
    X_P, X_H = rng.normal(size=(50, 2)), rng.normal(size=(60, 2)) * [3, 0.3]
    y = (np.arctan2(X_H[:, 1] * 10, X_H[:, 0]) // (2 * np.pi / 5)).astype(int)
    with pytest.warns(ic.ImmunityWarning, match="span all 2 features"):
        found = ic.linear.fade(X_P, X_H, y, tau=100.0)
    assert found.rho == pytest.approx(found.rho_before)
    bracket = ic.linear.alignment_limit(X_P, X_H, y, kappa_P=100.0)
    assert np.linalg.cond(X_P @ bracket.theta) ** 2 == pytest.approx(100.0)
    assert bracket.lower <= bracket.attained < 0.9 * bracket.rho
    reached = ic.linear.alignment(X_H @ bracket.theta, y).rho
    assert reached == pytest.approx(bracket.attained, rel=1e-9)


def test_the_whitened_form_of_labels_that_features_do_not_see():
    with pytest.warns(ic.ImmunityWarning, match="that which whitens"):
        found = ic.linear.fade(
            K_P=np.diag([4.0, 1.0]), K_H=np.eye(2), b_H=np.zeros((2, 1)), form="whitened"
        )
    assert found.theta[0, 0] == pytest.approx(found.theta[1, 1] / 2)


def test_each_of_several_tasks_has_its_own_bound():
    K_P = np.diag([1.0, 1.0, 0.0])
    free, bound = (np.eye(3), [0.0, 1.0, 0.0]), (np.diag([2.0, 1.0, 0.0]), [1.0, 0.0, 0.0])
    alone = [ic.linear.alignment_limit(K_P=K_P, K_H=K, b_H=b, kappa_P=10) for K, b in (free, bound)]
    assert [one.case for one in alone] == ["free", "restricted"]
    both = ic.linear.alignment_limit(
        K_P=K_P, K_H=[free[0], bound[0]], b_H=[free[1], bound[1]], kappa_P=10
    )
    assert both.lower == (alone[0].lower, alone[1].lower) == (0.0, pytest.approx(0.1))
    assert all(a >= b for a, b in zip(both.attained, both.lower, strict=True))
    assert both.theta is None


@pytest.mark.parametrize("tau", [1e4, 1e20, 1e28, 1e34])
def test_kappa_of_the_map_by_mpmath(tau):
    rng = np.random.default_rng(1)
    X_P, X_H = rng.normal(size=(40, 3)) * [3, 1, 0.1], rng.normal(size=(50, 3))
    found = ic.linear.fade(X_P, X_H, X_H[:, 0] + X_H[:, 1], tau=tau)
    with mpmath.workdps(80):
        left, right = (mpmath.matrix(x.tolist()) for x in (found.left, found.right))
        share = 1 - 1 / mpmath.sqrt(tau)
        # The factors are only nearly of a projector: mpmath's makes them one.
        right = right / (right.T * left)[0, 0]
        s = mpmath.svd_r(mpmath.eye(3) - share * left * right.T, compute_uv=False)
        wanted = float(s[0] / s[2])
    assert found.kappa == pytest.approx(wanted, rel=1e-6)


def test_no_task_is_told():
    with pytest.raises(ValueError, match="X_H holds no task"):
        ic.linear.fade(np.eye(3), [], [])


def test_constant_input_of_any_size_is_refused():
    Z = np.random.default_rng(0).normal(size=(7, 3))
    for value in (0.1, 1 / 3, 1e300, 1e-300):
        with pytest.raises(ValueError, match="Y is constant"):
            ic.r_align(Z, np.full(7, value))
        with pytest.raises(ValueError, match="Z is constant"):
            ic.r_align(np.full((7, 3), value), Z[:, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 < ic.r_align(Z + 1e9, Z[:, 0]) < 1


# ---- labels that were erased ----


@pytest.mark.parametrize("decades", [0, 3, 6, 9])
@pytest.mark.parametrize("shape", [(200, 30), (40, 60)])
def test_rounding_of_erased_labels_is_not_seen(decades, shape):
    """Rounding turns the weak directions most; what they then share with the labels is nothing."""
    rng = np.random.default_rng(decades)
    Z = rng.normal(size=shape) * np.logspace(0, -decades, shape[1])
    y = rng.normal(size=shape[0])
    erased = Z @ ic.linear.fade(Z, Z, y, tau=math.inf, center=False).theta
    seen = ic.linear.alignment(erased, y, center=False)
    assert (seen.rho, seen.explained) == (0.0, 0.0)
    trace = ic.probing.probe(erased, y, method="gd-constant", steps=3)
    assert trace.best_loss == trace.loss[0] == trace.loss[-1] == pytest.approx(y @ y)
    assert not trace.energy.any()
    found = ic.probing.compare(Z, erased, y, methods=["lstsq"], steps=3)
    before, after = map(str, found.efforts["lstsq"])
    assert (before, after) == ("1", "nothing to learn")


def test_an_intercept_reads_what_was_erased_without_one():
    """The features' mean carries the labels' on; a second task of ones takes it as well."""
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(60, 5)) + 2.0
    y, ones = (Z @ rng.normal(size=5))[:, None], np.ones((60, 1))
    alone = Z @ ic.linear.fade(Z, Z, y, tau=math.inf, center=False).theta
    both = Z @ ic.linear.fade(Z, [Z, Z], [y, ones], tau=math.inf, center=False).theta

    def read(features):
        best = np.linalg.lstsq(features, y, rcond=1e-10)[0]
        return 1.0 - np.sum((y - features @ best) ** 2) / np.sum((y - y.mean()) ** 2)

    assert np.sum((alone.T @ y) ** 2) < 1e-20 * np.sum((Z.T @ y) ** 2)
    assert read(np.hstack([alone, ones])) > 0.05
    assert read(np.hstack([both, ones])) == pytest.approx(0.0, abs=1e-9)
    assert ic.linear.alignment(both, y, center=False).explained == 0.0


@pytest.mark.parametrize("decades", [3, 6, 9, 12])
def test_labels_along_the_weakest_direction_are_seen(decades):
    rng = np.random.default_rng(decades)
    u, _ = np.linalg.qr(rng.normal(size=(50, 8)))
    Z = u * np.logspace(0, -decades, 8)
    seen = ic.linear.alignment(Z, u[:, -1], center=False)
    assert seen.rho == pytest.approx(10.0 ** (-2 * decades), rel=1e-3)
    assert seen.explained == pytest.approx(1.0)
    trace = ic.probing.probe(Z, u[:, -1], method="lstsq")
    assert trace.best_loss == pytest.approx(0.0, abs=1e-6)
    assert trace.energy[-1] == pytest.approx(1.0)


def test_a_known_rank_reaches_below_rounding():
    seen = ic.linear.alignment(np.diag([1.0, 1e-30]), [0.0, 1.0], center=False, rank=2)
    assert (seen.rho, seen.explained) == (pytest.approx(1e-60), 1.0)
