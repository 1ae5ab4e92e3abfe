"""The limit of immunization, and the extractor that attains it."""

import mpmath
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matrices import orthonormal

import immucond as ic
from immucond import theorems as th
from immucond.theorems import THEOREMS

seeds = st.integers(0, 2**32 - 1)
dims = st.integers(2, 8)


def definite_tasks(seed: int, d: int, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of two tasks of full column rank, their columns graded."""
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-spread / 2, spread / 2, size=(2, d))
    X_P, X_H = rng.normal(size=(2, 2 * d + 3, d)) * scales[:, None, :]
    return X_P, X_H


def kappa(Z: np.ndarray, rank: int) -> float:
    s = np.linalg.svd(Z, compute_uv=False)
    return (s[0] / s[rank - 1]) ** 2


# The limit


@given(seeds, dims)
def test_limit_is_that_of_the_generalized_eigenvalues(seed, d):
    X_P, X_H = definite_tasks(seed, d)
    K_P, K_H = X_P.T @ X_P, X_H.T @ X_H
    values = scipy.linalg.eigh(K_H, K_P, eigvals_only=True)
    for limit in (ic.linear.immunity_limit(K_P, K_H), ic.linear.immunity_limit(X_P=X_P, X_H=X_H)):
        assert limit.case == "definite"
        assert limit.attained
        assert limit.kappa_M == pytest.approx(values[-1] / values[0], rel=1e-7)
        expected = limit.kappa_M * np.linalg.cond(K_P) / np.linalg.cond(K_H)
        assert limit.rir == pytest.approx(expected, rel=1e-7)
        assert 1 - 1e-9 <= limit.rir <= limit.kappa_P**2 * (1 + 1e-9)
        assert (limit.rank_P, limit.rank_H, limit.deficit) == (d, d, 0)


@given(seeds, dims, st.integers(1, 12))
def test_no_extractor_of_any_shape_beats_the_limit(seed, d, m):
    X_P, X_H = definite_tasks(seed, d)
    theta = np.random.default_rng(seed + 1).normal(size=(d, m))
    verdict = THEOREMS["limit"].check(th.Tasks(X_P, X_H, theta))
    assert verdict.holds, verdict
    report, seen = ic.linear.immunity(theta, X_P, X_H), verdict.witness
    assert report.limit.rir == pytest.approx(seen["rir_limit"], rel=1e-7)
    assert report.kappa_P == pytest.approx(seen["kappa_P"], rel=1e-7)
    assert report.kappa_H == pytest.approx(seen["kappa_H"], rel=1e-7)


def test_limit_keeps_its_digits_where_the_gram_matrices_lose_them():
    # kappa(K) = 1e20 in the primary task: hopeless from K, fine from X.
    rng = np.random.default_rng(0)
    rotate, other = (np.linalg.qr(rng.normal(size=(5, 5)))[0] for _ in range(2))
    X_P = rotate * np.logspace(0, -10, 5)  # graded columns
    X_H = other * np.logspace(-2, 0, 5)
    with mpmath.workdps(60):
        R_P, R_H = mpmath.matrix(X_P.tolist()), mpmath.matrix(X_H.tolist())
        inverse = R_P**-1
        A = R_H * inverse
        values = sorted(mpmath.eigsy(A.T * A, eigvals_only=True))
        expected = float(values[-1] / values[0])
    limit = ic.linear.immunity_limit(X_P=X_P, X_H=X_H)
    assert limit.kappa_P == pytest.approx(1e20, rel=1e-5)
    assert limit.kappa_M == pytest.approx(expected, rel=1e-5)


@given(seeds, dims, st.sampled_from([1e-150, 1e-30, 1.0, 1e30, 1e150]))
def test_scale_never_matters(seed, d, scale):
    X_P, X_H = definite_tasks(seed, d)
    theta = np.random.default_rng(seed).normal(size=(d, d))
    plain = ic.linear.immunity(theta, X_P, X_H)
    scaled = ic.linear.immunity(theta * scale, X_P * scale, X_H / scale)
    for name in ("kappa_P", "kappa_H", "i", "ii", "rir"):
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name), rel=1e-9)
    assert scaled.limit.rir == pytest.approx(plain.limit.rir, rel=1e-9)
    assert (scaled.rank_P, scaled.rank_H) == (plain.rank_P, plain.rank_H)
    one, other = (
        ic.linear.optimal_extractor(X_P=X_P * c, X_H=X_H / c, rotate=False) for c in (1.0, scale)
    )
    # Singular vectors are unique up to sign, theta theta^T entirely.
    np.testing.assert_allclose(other @ other.T, one @ one.T, rtol=1e-5, atol=1e-9)


# Singular Gram matrices


def singular_tasks(seed: int, d: int, rank_P: int, rank_H: int, contained: bool):
    """Inputs of given ranks; range(K_H) within range(K_P) or in general position."""
    rng = np.random.default_rng(seed)

    basis = orthonormal(rng, d, rank_P)
    X_P = orthonormal(rng, d + 2, rank_P) * rng.uniform(1, 10, size=rank_P) @ basis.T
    other = basis @ orthonormal(rng, rank_P, rank_H) if contained else orthonormal(rng, d, rank_H)
    X_H = orthonormal(rng, d + 3, rank_H) * rng.uniform(1, 10, size=rank_H) @ other.T
    return X_P, X_H


@given(seeds, st.integers(3, 7), st.data())
def test_primary_null_space_within_the_harmful_one(seed, d, data):
    rank_P = data.draw(st.integers(2, d - 1))
    rank_H = data.draw(st.integers(2, rank_P))
    X_P, X_H = singular_tasks(seed, d, rank_P, rank_H, contained=True)
    limit = ic.linear.immunity_limit(X_P=X_P, X_H=X_H)
    assert limit.case == "restricted"
    assert (limit.rank_P, limit.rank_H, limit.deficit) == (rank_P, rank_H, 0)
    theta = np.random.default_rng(seed).normal(size=(d, d))  # invertible
    report = ic.linear.immunity(theta, X_P, X_H)
    assert (report.rank_P, report.rank_H) == (rank_P, rank_H)
    assert report.rir <= limit.rir * (1 + 1e-6)
    for tau in (1.0, 10.0):
        best = ic.linear.immunity(
            ic.linear.optimal_extractor(X_P=X_P, X_H=X_H, kappa_P=tau), X_P, X_H
        )
        assert best.condition_c
        assert best.rir == pytest.approx(limit.rir, rel=1e-6)
        assert best.kappa_P == pytest.approx(tau, rel=1e-6)


@given(seeds, st.integers(3, 7), st.data())
def test_singular_harmful_task(seed, d, data):
    rank_H = data.draw(st.integers(2, d - 1))
    X_P, X_H = singular_tasks(seed, d, d, rank_H, contained=True)
    limit = ic.linear.immunity_limit(X_P=X_P, X_H=X_H)
    assert limit.case == "singular harmful"
    theta = ic.linear.optimal_extractor(X_P=X_P, X_H=X_H, kappa_P=5.0)
    report = ic.linear.immunity(theta, X_P, X_H)
    assert np.linalg.matrix_rank(theta) == d
    assert report.rir == pytest.approx(limit.rir, rel=1e-6)
    assert report.kappa_P == pytest.approx(5.0, rel=1e-6)


@given(seeds, st.integers(3, 7), st.data())
def test_without_a_bound_a_stretched_direction_goes_beyond_any(seed, d, data):
    rank_P = data.draw(st.integers(1, d - 1))
    rank_H = data.draw(st.integers(2, d))
    X_P, X_H = singular_tasks(seed, d, rank_P, rank_H, contained=False)
    limit = ic.linear.immunity_limit(X_P=X_P, X_H=X_H)
    assert (limit.case, limit.rir, limit.attained) == ("unbounded", np.inf, False)
    assert limit.deficit == min(rank_H, d - rank_P)
    n = scipy.linalg.null_space(X_P, rcond=1e-10)[:, 0]
    reports = [
        ic.linear.immunity(np.eye(d) + (c - 1) * np.outer(n, n), X_P, X_H, ranks=(rank_P, rank_H))
        for c in (1.0, 1e3, 1e5)
    ]
    assert reports[2].kappa_P == pytest.approx(reports[0].kappa_P, rel=1e-5)
    assert reports[2].rir > 100 * reports[1].rir > 1000 * reports[0].rir / limit.kappa_H
    with pytest.raises(ValueError, match=rf"rank {rank_P} of {d}.*delta = "):
        ic.linear.optimal_extractor(X_P=X_P, X_H=X_H)


@pytest.mark.parametrize("contained", [True, False])
def test_rank_one_harmful_task_is_bounded_by_kappa_of_the_primary(contained):
    X_P, X_H = singular_tasks(3, 5, 3, 1, contained=contained)
    limit = ic.linear.immunity_limit(X_P=X_P, X_H=X_H)
    assert (limit.case, limit.attained, limit.kappa_M) == ("rank-one harmful", True, 1.0)
    assert limit.rir == pytest.approx(kappa(X_P, 3), rel=1e-9)
    report = ic.linear.immunity(ic.linear.optimal_extractor(X_P=X_P, X_H=X_H), X_P, X_H)
    assert report.rir == pytest.approx(limit.rir, rel=1e-9)


def test_suggested_delta_makes_the_limit_finite_and_keeps_kappa():
    X_P, X_H = singular_tasks(0, 6, 3, 4, contained=False)
    with pytest.raises(ValueError, match="delta = ") as refused:
        ic.linear.optimal_extractor(X_P=X_P, X_H=X_H)
    delta = float(str(refused.value).split("delta = ")[1].split(",")[0])
    limit = ic.linear.immunity_limit(X_P=X_P, X_H=X_H, delta=delta)
    assert limit.attained
    before = ic.linear.immunity_limit(X_P=X_P, X_H=X_H).kappa_P
    assert before < limit.kappa_P < 3 * before


def test_more_harmful_directions_than_primary_ones_have_no_limit():
    # Rounding leaves the weak primary direction open, by more than the harmful task leaks.
    rng = np.random.default_rng(0)
    B = rng.normal(size=(2, 4))
    X_P = rng.normal(size=(6, 2)) * [1.0, 1e-14] @ B
    X_H = rng.normal(size=(6, 2)) @ B + 1e-3 * rng.normal(size=(6, 4))
    limit = ic.linear.immunity_limit(X_P=X_P, X_H=X_H)
    assert (limit.case, limit.rank_P, limit.rank_H, limit.deficit) == ("unbounded", 2, 4, 2)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_no_delta_is_suggested_beyond_the_float_range(scale):
    X_P = np.diag([4.0, 0.0]) * scale
    with pytest.raises(ValueError, match=r"is infinite: .* squared, is beyond .*: scale X_P"):
        ic.linear.optimal_extractor(X_P=X_P, X_H=np.diag([2.0, 1.0]))


def test_delta_that_drowns_the_inputs():
    keywords = {"X_P": np.diag([4.0, 1.0]) * 1e-200, "X_H": np.diag([2.0, 1.0]), "delta": 1e300}
    assert ic.linear.immunity_limit(**keywords).rir == 1.0
    theta = ic.linear.optimal_extractor(**keywords)
    np.testing.assert_allclose(theta.T @ theta, theta[0] @ theta[0] * np.eye(2))
    blind = ic.linear.blind_extractor(X_P=keywords["X_P"], delta=1e300)
    np.testing.assert_allclose(blind, np.eye(2))


def test_delta_beside_inputs_whose_norm_passes_the_range():
    X = 1e308 * np.array([[1.0, 0.5], [1.0, -0.5], [1.0, 0.5], [1.0, -0.5]])  # kappa 4
    for X_P, X_H, name, rir in ((X, np.eye(2), "X_P", 16.0), (np.eye(2), X, "X_H", 1.0)):
        with pytest.raises(OverflowError, match=f"largest singular value of {name} passes"):
            ic.linear.immunity_limit(X_P=X_P, X_H=X_H, delta=1.0)
        assert ic.linear.immunity_limit(X_P=X_P, X_H=X_H).rir == pytest.approx(rir, rel=1e-12)


@pytest.mark.parametrize("kappa_P", [1e10, 1.7e308])
def test_extractor_whose_weights_have_no_sum(kappa_P):
    K_P, K_H = np.diag([2.0, 1.0, 1.0]), np.diag([4.0, 2.0, 1.0])  # two of the pencil are equal
    theta = ic.linear.optimal_extractor(K_P, K_H, kappa_P=kappa_P, rotate=False)
    s = np.linalg.svd(np.sqrt(K_P) @ theta, compute_uv=False)
    assert np.sum(s**2) == pytest.approx(4.0, rel=1e-12)
    assert s[0] / s[-1] == pytest.approx(np.sqrt(kappa_P), rel=1e-12)


def test_extractor_of_a_kappa_near_the_end_of_the_range():
    X_P, X_H = np.diag([1.0, 1e-6]), np.diag([1e-6, 1.0])
    theta = ic.linear.optimal_extractor(X_P=X_P, X_H=X_H, kappa_P=1e300)
    rows = X_P @ theta  # orthogonal: both tasks are diagonal
    s = np.linalg.norm(rows / np.array([[1e-150], [1.0]]), axis=1)
    assert s[0] == pytest.approx(s[1], rel=1e-9)
    np.testing.assert_allclose(np.abs(theta[:, 0]), np.abs(theta[:, 1]))  # the rotation


@given(seeds, dims, st.sampled_from([1e-6, 1e-2, 1.0]), st.sampled_from([0.0, 0.1]))
def test_delta_is_noise_rows(seed, d, delta_P, delta_H):
    rng = np.random.default_rng(seed)
    X_P, X_H = rng.normal(size=(2, d + 1, d))
    X_P[:, 0] = 0.0
    rows_P, rows_H = (
        np.vstack([X, np.sqrt(delta) * np.eye(d)]) for X, delta in ((X_P, delta_P), (X_H, delta_H))
    )
    delta = (delta_P, delta_H)
    limit = ic.linear.immunity_limit(X_P=X_P, X_H=X_H, delta=delta)
    assert limit.delta == delta
    assert limit.case == "definite"
    assert limit.rir == pytest.approx(
        ic.linear.immunity_limit(X_P=rows_P, X_H=rows_H).rir, rel=1e-6
    )
    theta = ic.linear.optimal_extractor(X_P=X_P, X_H=X_H, delta=delta)
    assert ic.linear.immunity(theta, rows_P, rows_H).rir == pytest.approx(limit.rir, rel=1e-6)


# The optimal extractor


@given(seeds, dims, st.floats(0, 4), st.booleans())
def test_extractor_attains_the_limit_all_along_the_frontier(seed, d, log_tau, rotate):
    X_P, X_H = definite_tasks(seed, d)
    tau = 10.0**log_tau
    theta = ic.linear.optimal_extractor(X_P=X_P, X_H=X_H, kappa_P=tau, rotate=rotate)
    report = ic.linear.immunity(theta, X_P, X_H)
    assert theta.shape == (d, d)
    assert report.kappa_P == pytest.approx(tau, rel=1e-6)
    assert report.kappa_H == pytest.approx(report.limit.kappa_M * tau, rel=1e-6)
    assert report.rir == pytest.approx(report.limit.rir, rel=1e-6)
    assert report.condition_c
    assert np.linalg.norm(X_P @ theta) == pytest.approx(np.linalg.norm(X_P))


@given(seeds, dims)
def test_blind_optimum_serves_every_harmful_task(seed, d):
    X_P, X_H = definite_tasks(seed, d)
    theta = ic.linear.optimal_extractor(X_P=X_P, X_H=X_H)
    unseen = definite_tasks(seed + 1, d)[1]
    report = ic.linear.immunity(theta, X_P, unseen)
    assert report.rir == pytest.approx(report.limit.rir, rel=1e-6)


@given(seeds, dims, st.sampled_from([1.0, 30.0]))
def test_rotation_holds_against_rescaled_features(seed, d, tau):
    X_P, X_H = definite_tasks(seed, d)
    rescale = 10.0 ** np.random.default_rng(seed).uniform(-3, 3, size=d)
    verdict = THEOREMS["rotation"].check(th.Rescaled(X_P, X_H, tau, rescale))
    assert verdict.holds, verdict


def test_equal_tasks_have_nothing_to_gain():
    X = np.random.default_rng(0).normal(size=(9, 4))
    limit = ic.linear.immunity_limit(X_P=X, X_H=3 * X)
    assert limit.rir == pytest.approx(1.0)
    theta = ic.linear.optimal_extractor(X_P=X, X_H=3 * X, kappa_P=7.0)
    report = ic.linear.immunity(theta, X, 3 * X)
    assert (report.kappa_P, report.kappa_H) == (pytest.approx(7.0), pytest.approx(7.0))


@pytest.mark.parametrize("call", [ic.linear.immunity_limit, ic.linear.frontier])
def test_condition_numbers_beyond_the_float_range(call):
    tiny, eye = np.diag([1.0, 1e-160]), np.eye(2)
    with pytest.raises(OverflowError, match=r"the condition number of X_P passes 1.8e308"):
        call(X_P=tiny, X_H=eye, ranks=(2, 2))
    with pytest.raises(
        OverflowError, match=r"condition number of X_H( relative|) .*passes 1.8e308"
    ):
        call(X_P=eye, X_H=tiny, ranks=(2, 2))
    with pytest.raises(OverflowError, match=r"the limit passes 1.8e308"):
        call(X_P=np.diag([1.0, 1e-100]), X_H=np.diag([1.0, 1.0]), ranks=(2, 2))


def test_extractor_of_a_kappa_beyond_the_float_range():
    one, other = np.diag([1.0, 1e-100]), np.diag([1e-100, 1.0])
    with pytest.raises(OverflowError, match=r"kappa\(M\), .* passes 1.8e308"):
        ic.linear.optimal_extractor(X_P=one, X_H=other, ranks=(2, 2))


@pytest.mark.filterwarnings("ignore::immucond.AccuracyWarning")
@given(arrays(float, st.integers(2, 4), elements=st.floats(0.1, 10.0)))
def test_a_given_rank_that_the_gram_matrix_does_not_have(v):
    # Its last eigenvalue is 0, which float64 sees as rounding of either sign, or as nothing.
    K, eye = np.outer(v, v), np.eye(v.size)
    for call in (
        lambda: ic.linear.immunity_limit(K, eye, ranks=(2, None)).kappa_P,
        lambda: ic.linear.immunity(eye, K_P=K, K_H=eye, ranks=(2, None)).kappa_P,
        lambda: ic.linear.step_interval(ic.r_well, theta=eye, gram=K, rank=2),
        lambda: float(np.linalg.norm(ic.linear.blind_extractor(K, rank=2))),
    ):
        try:
            found = call()
        except ValueError as error:
            if not str(error).startswith("rank "):
                raise
        else:
            assert 0.0 < found < np.inf


# Bad input


@pytest.mark.parametrize("function", [ic.linear.immunity_limit, ic.linear.optimal_extractor])
@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"K_P": np.eye(2)}, TypeError, "K_P and K_H, got K_P"),
        ({"K_P": np.eye(2), "X_H": np.eye(2)}, TypeError, "got X_H, K_P"),
        ({"K_P": np.eye(2), "K_H": np.eye(3)}, ValueError, "K_P and K_H.*2 and 3"),
        ({"X_P": np.eye(2), "X_H": np.eye(3)}, ValueError, "X_P and X_H.*2 and 3"),
        ({"K_P": [[1, 2], [0, 1]], "K_H": np.eye(2)}, ValueError, "K_P"),
        ({"K_P": np.eye(2), "K_H": np.diag([1, -1])}, ValueError, "K_H"),
        ({"K_P": np.eye(2), "K_H": [[np.nan, 0], [0, 1]]}, ValueError, "K_H"),
        ({"X_P": [[np.inf, 0], [0, 1]], "X_H": np.eye(2)}, ValueError, "X_P"),
        ({"X_P": np.zeros((2, 2)), "X_H": np.eye(2)}, ValueError, "X_P is zero"),
        ({"X_P": np.eye(2) * 1j, "X_H": np.eye(2)}, TypeError, "X_P"),
        ({"X_P": [1.0, 2.0], "X_H": np.eye(2)}, ValueError, "X_P"),
        ({"K_P": np.eye(2), "K_H": np.eye(2), "delta": -1}, ValueError, "delta"),
        ({"K_P": np.eye(2), "K_H": np.eye(2), "delta": (1, 2, 3)}, ValueError, "delta"),
        ({"K_P": np.eye(2), "K_H": np.eye(2), "delta": np.nan}, ValueError, "delta"),
        ({"K_P": np.eye(2), "K_H": np.eye(2), "ranks": (3, 2)}, ValueError, "rank"),
        ({"X_P": [[1, 0], [0, 0]], "X_H": np.eye(2), "ranks": (2, 2)}, ValueError, "rank of X_P"),
    ],
)
def test_bad_input_is_named(function, keywords, error, message):
    with pytest.raises(error, match=message):
        function(**keywords)


def test_kappa_P_below_one_or_out_of_reach():
    with pytest.raises(ValueError, match="kappa_P"):
        ic.linear.optimal_extractor(np.eye(2), np.eye(2), kappa_P=0.5)
    with pytest.raises(ValueError, match="kappa_P must be 1"):
        ic.linear.optimal_extractor(np.diag([1, 0]), np.diag([1, 0]), kappa_P=2)


def test_inputs_stay_as_they_are():
    X_P, X_H = definite_tasks(0, 3)
    before = X_P.copy(), X_H.copy()
    for X in (X_P, X_H):
        X.flags.writeable = False
    ic.linear.optimal_extractor(X_P=X_P, X_H=np.asfortranarray(X_H)[::-1])
    ic.linear.immunity(np.eye(3), X_P, X_H)
    np.testing.assert_array_equal((X_P, X_H), before)
