"""Which extractors are optimal: blind, rotated, near to a given one, for several tasks."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import generators, orthonormal, psd_matrices, with_eigenvalues

import immucond as ic

dims = st.integers(2, 6)


def tasks(rng: np.random.Generator, d: int, count: int = 2) -> list[np.ndarray]:
    """Rows of `count` tasks of full rank, their columns graded."""
    scales = 10.0 ** rng.uniform(-1, 1, size=(count, 1, d))
    return list(rng.normal(size=(count, 2 * d + 3, d)) * scales)


# ---- the rotation ----


@given(st.one_of(psd_matrices(), st.builds(lambda e: np.diag(10.0**e), st.lists(
    st.floats(-8, 0), min_size=1, max_size=8).map(np.array))).filter(np.any))  # fmt: skip
def test_rotation_levels_the_diagonal(H):
    m = len(H)
    Q = ic.linear.leveling_rotation(H)
    np.testing.assert_allclose(Q.T @ Q, np.eye(m), atol=1e-13 * m)
    mean = np.trace(H) / m
    np.testing.assert_allclose((Q.T @ H @ Q).diagonal(), mean, rtol=1e-12 * m)


@given(generators, st.lists(st.integers(0, 6), min_size=1, max_size=8), st.booleans())
def test_rotation_of_what_is_level_to_rounding(rng, ulps, turned):
    # The mean itself is rounded, so all that is left may lie on the same side of it.
    eps, m = np.finfo(np.float64).eps, len(ulps)
    d = 1.0 + eps * np.array(ulps)
    H = with_eigenvalues(rng, m, d) if turned else np.diag(d)
    Q = ic.linear.leveling_rotation(H)
    np.testing.assert_allclose(Q.T @ Q, np.eye(m), atol=1e-14)
    np.testing.assert_allclose((Q.T @ H @ Q).diagonal(), 1.0, rtol=8 * m * eps)


@given(generators, dims)
def test_identical_tasks_have_an_optimum(rng, d):
    X = tasks(rng, d, 1)[0]
    theta = ic.linear.optimal_extractor(X_P=X, X_H=X)
    report = ic.linear.immunity(theta, X_P=X, X_H=X)
    assert report.rir == pytest.approx(1.0, rel=1e-9)
    assert report.kappa_P == pytest.approx(1.0, rel=1e-9)


@given(generators, st.integers(2, 12))
def test_rotation_takes_at_most_m_less_one_givens_rotations(rng, m):
    # A product of r plane rotations leaves all but 2 r coordinates, and has rank(Q - I) <= 2 r; the
    # first row to leave is level after a single one: count them as they are made.
    from immucond.linear._extractor import level

    class Counting(np.ndarray):
        pairs = 0

        def __setitem__(self, index, value):
            type(self).pairs += 1
            super().__setitem__(index, value)

    Counting.pairs = 0
    H = with_eigenvalues(rng, m, np.geomspace(1, 1e-6, m))
    level(np.eye(m).view(Counting), H)
    assert Counting.pairs <= 2 * (m - 1)


@given(generators, st.integers(2, 8))
def test_no_scaling_profits_from_rotated_features(rng, m):
    H = with_eigenvalues(rng, m, np.geomspace(1, 1e-5, m))
    Q = ic.linear.leveling_rotation(H)
    rotated = Q.T @ H @ Q
    values = np.linalg.eigvalsh(H)
    floor = np.trace(H) / m / values[0]
    assert floor >= np.linalg.cond(H) / m
    for _ in range(10):
        D = 10.0 ** rng.uniform(-3, 3, size=m)
        assert np.linalg.cond(rotated * np.outer(D, D)) >= floor * (1 - 1e-6)
    unrotated = np.diag(values)
    jacobi = 1 / np.sqrt(values)
    assert np.linalg.cond(unrotated * np.outer(jacobi, jacobi)) == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_rotation_at_the_ends_of_the_range(scale):
    H = np.diag([1.0, 0.1, 0.01]) * scale
    np.testing.assert_allclose(
        ic.linear.leveling_rotation(H), ic.linear.leveling_rotation(H / scale), atol=1e-12
    )


@pytest.mark.parametrize(
    ("H", "told"),
    [
        ([[1, 2], [0, 1]], "H must be symmetric"),
        (np.diag([1, -1]), "H .*must be positive semidefinite"),
        (np.ones((2, 3)), "H "),
        (np.zeros((2, 2)), "H has rank 0"),
        (np.diag([1.0, np.nan]), "H must be finite"),
    ],
)
def test_rotation_names_bad_input(H, told):
    with pytest.raises(ValueError, match=told):
        ic.linear.leveling_rotation(H)


# ---- the blind optimum ----


@given(generators, dims)
def test_blind_optimum_attains_the_limit_of_every_harmful_task(rng, d):
    X_P, *harmful = tasks(rng, d, 4)
    theta = ic.linear.blind_extractor(X_P=X_P)
    assert np.linalg.norm(X_P @ theta) == pytest.approx(np.linalg.norm(X_P))
    Q = orthonormal(rng, d, d)
    for X_H in harmful:
        for other in (theta, 3 * theta @ Q):
            report = ic.linear.immunity(other, X_P, X_H)
            assert report.kappa_P == pytest.approx(1.0, rel=1e-6)
            assert report.rir == pytest.approx(report.limit.rir, rel=1e-6)
    root = scipy.linalg.sqrtm(np.linalg.inv(X_P.T @ X_P))
    np.testing.assert_allclose(theta / np.trace(theta), root / np.trace(root), atol=1e-9)
    by_gram = ic.linear.blind_extractor(X_P.T @ X_P)
    np.testing.assert_allclose(by_gram, theta, rtol=1e-6, atol=1e-9 * np.abs(theta).max())


@given(generators, st.integers(3, 6))
def test_blind_optimum_of_a_singular_task(rng, d):
    basis = orthonormal(rng, d, d - 1)
    X_P, X_H = (rng.normal(size=(d + 4, d - 1)) @ basis.T for _ in range(2))
    theta = ic.linear.blind_extractor(X_P=X_P)
    assert np.linalg.matrix_rank(theta) == d
    report = ic.linear.immunity(theta, X_P, X_H)
    assert report.limit.case == "restricted"
    assert report.rir == pytest.approx(report.limit.rir, rel=1e-6)
    noisy = ic.linear.blind_extractor(X_P=X_P, delta=0.5)
    K_P, K_H = X_P.T @ X_P + 0.5 * np.eye(d), X_H.T @ X_H + np.eye(d)
    report = ic.linear.immunity(noisy, K_P=K_P, K_H=K_H)
    assert report.rir == pytest.approx(report.limit.rir, rel=1e-6)


def test_blind_optimum_names_bad_input():
    for keywords, error, told in (
        ({}, TypeError, "give either X_P or K_P, got neither"),
        ({"K_P": np.eye(2), "X_P": np.eye(2)}, TypeError, "got both"),
        ({"K_P": np.diag([1, -1])}, ValueError, "K_P"),
        ({"K_P": np.eye(2), "delta": -1.0}, ValueError, "delta"),
        ({"X_P": np.zeros((3, 2))}, ValueError, "X_P is zero"),
        ({"X_P": np.eye(2), "rank": 3}, ValueError, "rank of X_P"),
    ):
        with pytest.raises(error, match=told):
            ic.linear.blind_extractor(**keywords)


# ---- the nearest optimum ----


@given(generators, dims, st.sampled_from([1.0, 4.0, 300.0]), st.integers(0, 2))
def test_nearest_extractor_is_optimal(rng, d, tau, more):
    X_P, X_H = tasks(rng, d)
    given_theta = rng.normal(size=(d, d + more))
    theta = ic.linear.nearest_extractor(given_theta, X_P=X_P, X_H=X_H, kappa_P=tau)
    assert theta.shape == given_theta.shape
    report = ic.linear.immunity(theta, X_P, X_H)
    assert report.kappa_P == pytest.approx(tau, rel=1e-6)
    assert report.kappa_H == pytest.approx(report.limit.kappa_M * tau, rel=1e-6)
    assert report.condition_c


@given(generators, dims)
def test_nearest_to_the_identity_has_a_closed_form(rng, d):
    X_P, X_H = tasks(rng, d)
    theta = ic.linear.nearest_extractor(np.eye(d), X_P=X_P, X_H=X_H)
    values, q = np.linalg.eigh(X_P.T @ X_P)
    root = (q * np.sqrt(values)) @ q.T
    expected = np.linalg.inv(root) * np.trace(root) / d
    np.testing.assert_allclose(theta, expected, rtol=1e-6, atol=1e-8 * np.abs(expected).max())


@given(generators, dims)
def test_no_whitening_map_is_nearer(rng, d):
    X_P, X_H = tasks(rng, d)
    given_theta = rng.normal(size=(d, d))
    theta = ic.linear.nearest_extractor(given_theta, X_P=X_P, X_H=X_H)
    nearest = np.linalg.norm(X_P @ (theta - given_theta))
    whiten = ic.linear.blind_extractor(X_P=X_P)
    for _ in range(20):
        other = whiten @ orthonormal(rng, d, d) * 10.0 ** rng.uniform(-1, 1)
        assert np.linalg.norm(X_P @ (other - given_theta)) >= nearest * (1 - 1e-9)
    for near in (1e-3, 1e-1):  # and its neighbours
        turn = scipy.linalg.expm(near * (a := rng.normal(size=(d, d))) - near * a.T)
        for scale in (1 - near, 1, 1 + near):
            other = scale * theta @ turn
            assert np.linalg.norm(X_P @ (other - given_theta)) >= nearest * (1 - 1e-9)


@given(generators, st.integers(3, 6), st.sampled_from([4.0, 300.0]))
def test_nearest_beyond_whitening_is_a_local_minimum_and_beats_the_canonical_one(rng, d, tau):
    X_P, X_H = tasks(rng, d)
    given_theta = rng.normal(size=(d, d))
    theta = ic.linear.nearest_extractor(given_theta, X_P=X_P, X_H=X_H, kappa_P=tau)
    nearest = np.linalg.norm(X_P @ (theta - given_theta))
    plain = ic.linear.optimal_extractor(X_P=X_P, X_H=X_H, kappa_P=tau)
    # The canonical optimum with the best scale and rotation.
    u, s, vt = np.linalg.svd((X_P @ plain).T @ (X_P @ given_theta))
    fitted = plain @ (u @ vt) * s.sum() / np.linalg.norm(X_P @ plain) ** 2
    assert nearest <= np.linalg.norm(X_P @ (fitted - given_theta)) * (1 + 1e-9)
    turn = scipy.linalg.expm(1e-3 * (a := rng.normal(size=(d, d))) - 1e-3 * a.T)
    for scale in (0.999, 1, 1.001):
        other = scale * theta @ turn
        assert np.linalg.norm(X_P @ (other - given_theta)) >= nearest * (1 - 1e-6)


def test_an_optimum_is_the_nearest_to_itself():
    rng = np.random.default_rng(0)
    X_P, X_H = tasks(rng, 5)
    for tau in (1.0, 20.0):
        best = ic.linear.optimal_extractor(X_P=X_P, X_H=X_H, kappa_P=tau)
        theta = ic.linear.nearest_extractor(best, X_P=X_P, X_H=X_H, kappa_P=tau)
        np.testing.assert_allclose(theta, best, rtol=1e-6, atol=1e-9 * np.abs(best).max())


@given(generators, st.integers(3, 6))
def test_nearest_leaves_the_null_space_alone(rng, d):
    basis, n = (q := orthonormal(rng, d, d))[:, :-1], q[:, -1:]
    X_P, X_H = (rng.normal(size=(d + 4, d - 1)) @ basis.T for _ in range(2))
    theta = ic.linear.nearest_extractor(np.eye(d), X_P=X_P, X_H=X_H, kappa_P=3.0)
    np.testing.assert_allclose(n.T @ theta, n.T, atol=1e-9)
    assert np.linalg.matrix_rank(theta) == d
    report = ic.linear.immunity(theta, X_P, X_H)
    assert report.rir == pytest.approx(report.limit.rir, rel=1e-6)
    assert report.kappa_P == pytest.approx(3.0, rel=1e-6)


@pytest.mark.parametrize(("rank_H", "tau"), [(2, 1.0), (2, 9.0), (1, 9.0)])
def test_nearest_with_a_singular_harmful_task(rank_H, tau):
    rng = np.random.default_rng(1)
    X_P = rng.normal(size=(9, 4))
    X_H = rng.normal(size=(9, rank_H)) @ rng.normal(size=(rank_H, 4))
    theta = ic.linear.nearest_extractor(np.eye(4), X_P=X_P, X_H=X_H, kappa_P=tau)
    report = ic.linear.immunity(theta, X_P, X_H)
    assert report.kappa_P == pytest.approx(tau, rel=1e-6)
    assert report.kappa_H == pytest.approx(report.limit.kappa_M * (tau if rank_H > 1 else 1))


def test_nearest_names_bad_input():
    for theta, keywords, told in (
        (np.eye(3), {}, "theta must have 2 rows"),
        (np.ones((2, 1)), {}, "theta must have at least 2 columns, the rank of K_P, got 1"),
        (np.zeros((2, 2)), {}, "theta maps the primary inputs to 0"),
        (np.eye(2) * np.nan, {}, "theta must be finite"),
        (np.eye(2), {"kappa_P": 0.5}, "kappa_P"),
        (np.eye(2), {"K_P": np.diag([1, 0])}, "no extractor attains the supremum"),
    ):
        with pytest.raises(ValueError, match=told):
            ic.linear.nearest_extractor(theta, **{"K_P": np.eye(2), "K_H": np.eye(2), **keywords})


# ---- several primary tasks ----


@settings(max_examples=15)
@given(generators, st.integers(1, 5), st.integers(1, 3), st.sampled_from([None, 1e6]))
def test_joint_extractor_reports_what_it_does_and_keeps_its_bound(rng, d, count, cap):
    *primary, X_H = tasks(rng, d, count + 1)
    found = ic.linear.joint_extractor(X_P=primary, X_H=X_H, kappa_P=cap, iterations=20)
    reports = [ic.linear.immunity(found.theta, X_P, X_H) for X_P in primary]
    for t, report in enumerate(reports):
        assert found.kappa_P[t] == pytest.approx(report.kappa_P, rel=1e-6)
        assert found.ii[t] == pytest.approx(report.ii, rel=1e-6)
        allowed = 1.0 if d == 1 else cap or report.kappa_P_reference
        assert found.caps[t] == pytest.approx(allowed, rel=1e-9)
        assert found.kappa_P[t] <= found.caps[t] * (1 + 1e-6)
        assert found.kappa_H <= report.limit.kappa_M * report.kappa_P * (1 + 1e-6)
    assert found.kappa_H == pytest.approx(reports[0].kappa_H, rel=1e-6)
    assert found.i == pytest.approx(reports[0].i, rel=1e-6)
    assert found.rir == pytest.approx(found.i / max(found.ii))
    expected = min(r.limit.kappa_M * c for r, c in zip(reports, found.caps, strict=True))
    assert found.bound == pytest.approx(expected, rel=1e-6)
    assert found.gap == pytest.approx(found.bound / found.kappa_H)
    assert found.gap >= 1 - 1e-6
    if count == 1:
        assert found.gap == pytest.approx(1.0, rel=1e-6)


def test_joint_extractor_beats_search_within_its_caps():
    rng = np.random.default_rng(3)
    *primary, X_H = tasks(rng, 3, 3)
    found = ic.linear.joint_extractor(X_P=primary, X_H=X_H)
    caps = [np.linalg.cond(X) ** 2 for X in primary]

    def kappa_H(theta):
        if any(np.linalg.cond(X @ theta) ** 2 > c for X, c in zip(primary, caps, strict=True)):
            return 0.0
        return np.linalg.cond(X_H @ theta) ** 2

    best = max(
        kappa_H(ic.linear.blind_extractor(X_P=X) @ Q * 10.0 ** rng.uniform(-1, 1, 3))
        for X in primary
        for Q in (orthonormal(rng, 3, 3) for _ in range(1000))
    )
    assert 1 < best < found.kappa_H * (1 + 1e-6)
    # No small change improves it by more than smoothing hides.
    moved = [found.theta @ (np.eye(3) + 1e-3 * rng.normal(size=(3, 3))) for _ in range(500)]
    assert max(map(kappa_H, moved)) <= found.kappa_H * 1.02


def test_joint_extractor_closes_the_gap_where_one_task_is_implied():
    X_P, X_H = tasks(np.random.default_rng(0), 4)
    for cap in (None, 1.0, (5.0, 5.0)):
        found = ic.linear.joint_extractor(X_P=[X_P, 5 * X_P], X_H=X_H, kappa_P=cap)
        assert found.gap == pytest.approx(1.0, rel=1e-6)


def test_joint_extractor_says_when_caps_are_out_of_reach():
    # No theta whitens two tasks of different shape.
    tasks = [np.diag([100.0, 1.0]), np.eye(2)]
    with pytest.raises(ValueError, match=r"kappa_P is out of reach: .* by a factor 9"):
        ic.linear.joint_extractor(tasks, np.eye(2), kappa_P=1.05)
    reached = ic.linear.joint_extractor(tasks, np.eye(2), kappa_P=10.0 * (1 + 1e-3))
    assert max(reached.kappa_P) <= 10.011


def test_joint_extractor_takes_a_stack_of_inputs():
    X_P, X_H = np.stack([np.diag([9.0, 1.0]), np.diag([4.0, 1.0])]), np.diag([1.0, 2.0])
    stack, several = (
        ic.linear.joint_extractor(X_P=given, X_H=X_H, iterations=5) for given in (X_P, list(X_P))
    )
    np.testing.assert_array_equal(stack.theta, several.theta)


def test_joint_extractor_takes_gram_matrices_and_delta():
    rng = np.random.default_rng(2)
    *primary, X_H = tasks(rng, 3, 3)
    primary[0][:, 0] = 0.0
    grams = [X.T @ X for X in (*primary, X_H)]
    with pytest.raises(ValueError, match=r"K_P\[0\] has rank 2 of 3.*delta > 0"):
        ic.linear.joint_extractor(grams[:2], grams[2])
    found = ic.linear.joint_extractor(grams[:2], grams[2], delta=(0.1, 0.0))
    noisy = [K + 0.1 * np.eye(3) for K in grams[:2]]
    assert found.rir == pytest.approx(
        min(ic.linear.immunity(found.theta, K_P=K, K_H=grams[2]).rir for K in noisy), rel=1e-6
    )


@pytest.mark.parametrize(
    ("keywords", "error", "told"),
    [
        ({"K_P": [np.eye(2)]}, TypeError, "give either X_P and X_H or K_P and K_H"),
        ({"K_P": [], "K_H": np.eye(2)}, ValueError, "K_P must hold at least one"),
        ({"K_P": 2.0, "K_H": np.eye(2)}, TypeError, "K_P must be a sequence of matrices, .* 2.0"),
        ({"K_P": [np.eye(3)], "K_H": np.eye(2)}, ValueError, r"K_P\[0\] must have 2 columns"),
        ({"K_P": [np.eye(2)], "K_H": np.diag([1, 0])}, ValueError, "K_H has rank 1 of 2"),
        ({"K_P": [np.eye(2) * np.nan], "K_H": np.eye(2)}, ValueError, r"K_P\[0\] must be finite"),
        ({"X_P": [np.eye(2), np.eye(3)], "X_H": np.eye(2)}, ValueError, r"X_P\[1\] must have 2"),
        ({"K_P": [np.eye(2)], "K_H": np.eye(2), "iterations": 0}, ValueError, "iterations"),
        (
            {"K_P": [np.eye(2)], "K_H": np.eye(2), "kappa_P": 0.5},
            ValueError,
            "kappa_P must be a",
        ),
        ({"K_P": [np.eye(2)], "K_H": np.eye(2), "kappa_P": [1, 2]}, ValueError, "or 1 of them"),
        (
            {"K_P": [np.eye(2)], "K_H": np.eye(2), "kappa_P": np.nan},
            ValueError,
            "kappa_P must be",
        ),
    ],
)
def test_joint_extractor_names_bad_input(keywords, error, told):
    with pytest.raises(error, match=told):
        ic.linear.joint_extractor(**keywords)
