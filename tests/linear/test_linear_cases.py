"""The table of cases: definite and singular tasks, square and rectangular extractors.

One row of docs/guide/linear.md, one test here: the bound holds for random theta, the optimum
attains it, and where there is no bound, a family of theta passes any.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matrices import orthonormal

import immucond as ic

seeds = st.integers(0, 2**32 - 1)
taus = st.sampled_from([1.0, 3.0, 50.0])


def inputs(rng: np.random.Generator, basis: np.ndarray) -> np.ndarray:
    """Rows whose Gram matrix has this range and eigenvalues between 1 and 100."""
    k = basis.shape[1]
    return (orthonormal(rng, k + 4, k) * rng.uniform(1, 10, size=k)) @ basis.T


def tasks(rng, d, rank_P, rank_H, *, inside):
    """Inputs of these ranks; range(K_H) inside range(K_P), or in general position."""
    basis = orthonormal(rng, d, rank_P)
    other = basis @ orthonormal(rng, rank_P, rank_H) if inside else orthonormal(rng, d, rank_H)
    return inputs(rng, basis), inputs(rng, other)


def check(rng, X_P, X_H, case, m, tau, *, conditions=True, random=True):
    """Case, bound and optimum for theta of m columns."""
    d = X_P.shape[1]
    limit = ic.linear.immunity_limit(X_P=X_P, X_H=X_H, features=m)
    assert (limit.case, limit.features, limit.attained) == (case, m, True)
    if random:
        report = ic.linear.immunity(rng.normal(size=(d, m)), X_P, X_H)
        assert report.rir <= limit.rir * (1 + 1e-6)
        assert report.kappa_H <= limit.kappa_M * report.kappa_P * (1 + 1e-6)
    theta = ic.linear.optimal_extractor(X_P=X_P, X_H=X_H, kappa_P=tau, features=m)
    assert theta.shape == (d, m)
    best = ic.linear.immunity(theta, X_P, X_H)
    assert best.kappa_P == pytest.approx(tau, rel=1e-6)
    assert best.kappa_H == pytest.approx(
        1.0 if limit.case == "rank-one harmful" else limit.kappa_M * tau, rel=1e-6
    )
    if limit.case != "rank-one harmful" or tau == 1.0:
        assert best.rir == pytest.approx(limit.rir, rel=1e-6)
    assert best.condition_c == conditions
    assert np.linalg.norm(X_P @ theta) == pytest.approx(np.linalg.norm(X_P))
    return limit, theta


@given(seeds, st.integers(2, 6), taus)
def test_definite_square(seed, d, tau):
    rng = np.random.default_rng(seed)
    _, theta = check(rng, *tasks(rng, d, d, d, inside=True), "definite", d, tau)
    assert np.linalg.matrix_rank(theta) == d


@given(seeds, st.integers(2, 6), st.integers(1, 4), taus)
def test_definite_wide(seed, d, more, tau):
    rng = np.random.default_rng(seed)
    X_P, X_H = tasks(rng, d, d, d, inside=True)
    limit, theta = check(rng, X_P, X_H, "definite", d + more, tau)
    assert limit.rir == pytest.approx(ic.linear.immunity_limit(X_P=X_P, X_H=X_H).rir)
    assert np.linalg.matrix_rank(theta) == d


@given(seeds, st.integers(3, 7), st.data(), taus)
def test_definite_narrow_attains_the_limit_and_loses_the_primary_task(seed, d, data, tau):
    rng = np.random.default_rng(seed)
    m = data.draw(st.integers(2, d - 1))
    X_P, X_H = tasks(rng, d, d, d, inside=True)
    limit, _ = check(rng, X_P, X_H, "definite", m, tau, conditions=False)
    assert limit.rir == pytest.approx(ic.linear.immunity_limit(X_P=X_P, X_H=X_H).rir)


@given(seeds, st.integers(2, 6))
def test_a_single_feature_cannot(seed, d):
    rng = np.random.default_rng(seed)
    X_P, X_H = tasks(rng, d, d, d, inside=True)
    limit, _ = check(rng, X_P, X_H, "single feature", 1, 1.0, conditions=False)
    assert limit.rir == pytest.approx(limit.kappa_P / limit.kappa_H)
    assert limit.rir < ic.linear.immunity_limit(X_P=X_P, X_H=X_H).rir
    with pytest.raises(ValueError, match="kappa_P must be 1 for a single feature"):
        ic.linear.optimal_extractor(X_P=X_P, X_H=X_H, kappa_P=2.0, features=1)


@given(seeds, st.integers(3, 6), st.data(), taus)
def test_singular_harmful_square_and_wide(seed, d, data, tau):
    rng = np.random.default_rng(seed)
    rank_H = data.draw(st.integers(2, d - 1))
    m = data.draw(st.integers(d, d + 2))
    X_P, X_H = tasks(rng, d, d, rank_H, inside=True)
    _, theta = check(rng, X_P, X_H, "singular harmful", m, tau)
    assert np.linalg.matrix_rank(theta) == d  # a zero eigenvalue in the scaling would lose (c)


@given(seeds, st.integers(3, 6), st.data())
def test_singular_harmful_narrow_has_no_limit(seed, d, data):
    rng = np.random.default_rng(seed)
    rank_H, m = data.draw(st.integers(2, d - 1)), data.draw(st.integers(2, d - 1))
    X_P, X_H = tasks(rng, d, d, rank_H, inside=True)
    limit = ic.linear.immunity_limit(X_P=X_P, X_H=X_H, features=m)
    assert (limit.case, limit.rir, limit.attained) == ("unbounded", np.inf, False)
    told = f"no extractor of {m} features.*rank {rank_H}.*Give features >= {d}, or delta > 0"
    with pytest.raises(ValueError, match=told):
        ic.linear.optimal_extractor(X_P=X_P, X_H=X_H, features=m)
    # Whiten the primary task; take the top direction and one ever closer to null(K_H).
    whiten = np.linalg.inv(np.linalg.qr(X_P, mode="r"))
    v = np.linalg.svd(X_H @ whiten)[2].T
    kappas = []
    for tilt in (1e-1, 1e-3, 1e-5):
        theta = np.column_stack([v[:, 0], v[:, rank_H] + tilt * v[:, rank_H - 1]])
        report = ic.linear.immunity(whiten @ np.linalg.qr(theta)[0], X_P, X_H, ranks=(d, rank_H))
        assert report.kappa_P == pytest.approx(1.0, rel=1e-6)
        kappas.append(report.kappa_H)
    assert kappas[2] > 1e3 * kappas[1] > 1e6 * kappas[0]


@given(seeds, st.integers(3, 6), st.data(), taus)
def test_singular_primary_around_the_harmful_null_space(seed, d, data, tau):
    # null(K_P) inside null(K_H): both count on range(K_P) alone.
    rng = np.random.default_rng(seed)
    rank_P = data.draw(st.integers(2, d - 1))
    rank_H = data.draw(st.integers(2, rank_P))
    m = data.draw(st.integers(rank_P, d + 2))
    X_P, X_H = tasks(rng, d, rank_P, rank_H, inside=True)
    limit, theta = check(rng, X_P, X_H, "restricted", m, tau)
    assert np.linalg.matrix_rank(theta) == min(m, d)
    basis = np.linalg.svd(X_P)[2][:rank_P].T
    within = ic.linear.immunity_limit(X_P=X_P @ basis, X_H=X_H @ basis)
    assert within.case == ("definite" if rank_H == rank_P else "singular harmful")
    assert limit.rir == pytest.approx(within.rir, rel=1e-6)


@given(seeds, st.integers(4, 6), st.data(), taus)
def test_singular_primary_narrower_than_its_rank(seed, d, data, tau):
    rng = np.random.default_rng(seed)
    rank_P = data.draw(st.integers(3, d - 1))
    m = data.draw(st.integers(2, rank_P - 1))
    check(
        rng, *tasks(rng, d, rank_P, rank_P, inside=True), "restricted", m, tau, conditions=False
    )  # fmt: skip


@given(seeds, st.integers(3, 6), st.data())
def test_singular_primary_that_the_harmful_task_reaches_beyond(seed, d, data):
    rng = np.random.default_rng(seed)
    rank_P, rank_H = data.draw(st.integers(1, d - 1)), data.draw(st.integers(2, d))
    m = data.draw(st.integers(2, d + 2))
    X_P, X_H = tasks(rng, d, rank_P, rank_H, inside=False)
    limit = ic.linear.immunity_limit(X_P=X_P, X_H=X_H, features=m)
    assert (limit.case, limit.rir, limit.attained) == ("unbounded", np.inf, False)
    n = np.linalg.svd(X_P)[2][-1]
    reports = [
        ic.linear.immunity(np.eye(d) + (c - 1) * np.outer(n, n), X_P, X_H, ranks=(rank_P, rank_H))
        for c in (1e4, 1e6)
    ]
    assert reports[1].ii == pytest.approx(1.0, rel=1e-4)
    assert reports[1].i > 1e3 * reports[0].i
    with pytest.raises(ValueError, match=f"K_P has rank {rank_P} of {d}.*Give delta > 0"):
        ic.linear.optimal_extractor(X_P=X_P, X_H=X_H, features=m)
    # Noise ends it.
    noisy = ic.linear.immunity_limit(X_P=X_P, X_H=X_H, features=m, delta=1.0)
    assert (noisy.case, noisy.attained) == ("definite", True)


@given(seeds, st.integers(2, 6), st.data(), st.booleans())
def test_harmful_task_of_rank_one(seed, d, data, inside):
    rng = np.random.default_rng(seed)
    rank_P, m = data.draw(st.integers(2, d)), data.draw(st.integers(1, d + 2))
    X_P, X_H = tasks(rng, d, rank_P, 1, inside=inside)
    limit, _ = check(rng, X_P, X_H, "rank-one harmful", m, 1.0, conditions=m >= rank_P)
    assert limit.rir == pytest.approx(limit.kappa_P)
    if m > 1:
        check(rng, X_P, X_H, "rank-one harmful", m, 7.0, conditions=m >= rank_P)


@given(seeds, st.integers(1, 5), st.integers(1, 7))
def test_common_ends_leave_nothing_to_gain(seed, d, m):
    # kappa(M) = 1: the frontier is kappa_H = kappa_P.
    rng = np.random.default_rng(seed)
    X, _ = tasks(rng, d, d, d, inside=True)
    tau = 1.0 if min(d, m) == 1 else 5.0
    theta = ic.linear.optimal_extractor(X_P=X, X_H=2 * X, kappa_P=tau, features=m)
    report = ic.linear.immunity(theta, X, 2 * X)
    assert report.kappa_P == pytest.approx(tau, rel=1e-6)
    assert report.kappa_H == pytest.approx(tau, rel=1e-6)


@pytest.mark.parametrize("function", [ic.linear.immunity_limit, ic.linear.optimal_extractor])
@pytest.mark.parametrize(("m", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_a_number_of_features_that_is_none(function, m, error):
    with pytest.raises(error, match="features must be"):
        function(np.eye(2), np.eye(2), features=m)
