"""Definition 3.1 and the RIR, as numbers."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import immucond as ic

seeds = st.integers(0, 2**32 - 1)


def tasks(seed: int, d: int, rows: int = 20) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.random.default_rng(seed).normal(size=(2, rows, d)))


@given(seeds, st.integers(1, 6), st.integers(1, 8))
def test_report_is_what_numpy_says(seed, d, m):
    X_P, X_H = tasks(seed, d)
    rng = np.random.default_rng(seed + 1)
    theta, reference = rng.normal(size=(d, m)), rng.normal(size=(d, d))
    report = ic.linear.immunity(theta, X_P, X_H, reference=reference)

    def kappa(Z):
        s = np.linalg.svd(Z, compute_uv=False)
        return (s[0] / s[min(d, Z.shape[1]) - 1]) ** 2

    assert report.kappa_P == pytest.approx(kappa(X_P @ theta), rel=1e-7)
    assert report.kappa_H == pytest.approx(kappa(X_H @ theta), rel=1e-7)
    assert report.i == pytest.approx(report.kappa_H / kappa(X_H @ reference), rel=1e-7)
    assert report.ii == pytest.approx(report.kappa_P / kappa(X_P @ reference), rel=1e-7)
    assert report.rir == pytest.approx(report.i / report.ii)
    assert (report.rank_P, report.rank_H, report.rank_from) == (min(d, m), min(d, m), "X")
    assert (report.convention, report.ridge) == ("exact", 0.0)
    by_gram = ic.linear.immunity(theta, K_P=X_P.T @ X_P, K_H=X_H.T @ X_H, reference=reference)
    assert by_gram.rank_from == "K"
    assert by_gram.rir == pytest.approx(report.rir, rel=1e-6)


@given(seeds, st.integers(2, 6), st.integers(1, 6))
def test_limit_relative_to_a_reference(seed, d, m):
    X_P, X_H = tasks(seed, d)
    rng = np.random.default_rng(seed + 1)
    theta, reference = rng.normal(size=(d, m)), rng.normal(size=(d, d))
    for ridge in (0.0, 1e-6):
        report = ic.linear.immunity(theta, X_P, X_H, reference=reference, ridge=ridge)
        # The limit of the tasks whose inputs are the reference's features.
        limit = ic.linear.immunity_limit(X_P=X_P @ reference, X_H=X_H @ reference)
        assert report.limit.rir == pytest.approx(limit.rir, rel=1e-6)
        assert report.limit.kappa_M == pytest.approx(limit.kappa_M, rel=1e-6)
    best = ic.linear.optimal_extractor(X_P=X_P, X_H=X_H)
    report = ic.linear.immunity(best, X_P, X_H, reference=reference)
    assert report.rir == pytest.approx(report.limit.rir, rel=1e-6)


@given(seeds, st.integers(1, 6), st.sampled_from([1e-6, 1.0, 100.0]))
def test_ridge_convention_is_that_of_the_published_code(seed, d, ridge):
    X_P, X_H = tasks(seed, d)
    X_H[:, 0] = 0.0 if d > 1 else X_H[:, 0]
    theta = np.random.default_rng(seed).normal(size=(d, d))
    report = ic.linear.immunity(theta, X_P, X_H, ridge=ridge)
    for X, value in ((X_P, report.kappa_P), (X_H, report.kappa_H)):
        H = (X @ theta).T @ (X @ theta)
        w = np.maximum(np.linalg.eigvalsh(H), 0) + ridge
        assert value == pytest.approx(w[-1] / w[0], rel=1e-6)
    assert (report.convention, report.ridge) == ("ridge", ridge)


def test_ridge_convention_depends_on_scale_and_breaks_the_limit():
    K_P, K_H = np.diag([100.0, 0.0]), np.diag([2.0, 1.0])
    ratios = [
        ic.linear.immunity(c * np.eye(2), K_P=K_P, K_H=K_H, ridge=1e-6).kappa_H for c in (1, 1e-6)
    ]
    assert ratios[0] == pytest.approx(2.0, rel=1e-5)
    assert ratios[1] == pytest.approx(1.0, rel=1e-5)
    exact = [ic.linear.immunity(c * np.eye(2), K_P=K_P, K_H=K_H).kappa_H for c in (1, 1e-6)]
    assert exact == [pytest.approx(2.0), pytest.approx(2.0)]


def test_identity_changes_nothing():
    report = ic.linear.immunity(np.eye(4), *tasks(0, 4))
    assert report.i == report.ii == report.rir == 1.0
    assert (report.condition_a, report.condition_b, report.condition_c) == (False, True, True)


def test_conditions_fail_one_by_one():
    X_P, X_H = np.diag([10.0, 1.0, 1.0]), np.diag([1.0, 1.0, 2.0])
    spoiled = ic.linear.immunity(np.diag([10.0, 1.0, 1.0]), X_P, X_H)
    assert (spoiled.condition_a, spoiled.condition_b, spoiled.condition_c) == (True, False, True)
    # One feature less: the primary task loses a dimension.
    lost = ic.linear.immunity(np.eye(3)[:, :2], X_P, X_H)
    assert (lost.condition_c, lost.lost_rank, lost.rank_P) == (False, 1, 2)
    assert not lost.condition_a


def test_c_holds_where_theta_drops_only_what_no_primary_row_uses():
    X_P, X_H = np.diag([3.0, 1.0, 0.0]), np.eye(3)
    report = ic.linear.immunity(np.eye(3)[:, :2], X_P, X_H)
    assert report.condition_c
    assert (report.rank_P, report.rank_H) == (2, 2)


@given(seeds, st.integers(3, 8), st.data())
def test_rank_survives_a_badly_scaled_theta(seed, d, data):
    # THEORY: a tolerance re-applied after theta mistakes the rank; the rank of K is kept instead.
    rank = data.draw(st.integers(1, d - 1))
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(2 * d, rank)) @ rng.normal(size=(rank, d))
    theta = np.linalg.qr(rng.normal(size=(d, d)))[0] * np.logspace(0, -9, d)
    report = ic.linear.immunity(theta, X, X)
    assert (report.rank_P, report.rank_H) == (rank, rank)
    assert report.kappa_H == report.kappa_P


def test_known_ranks_win():
    X = np.diag([1.0, 1e-1, 1e-4])
    assert ic.linear.immunity(np.eye(3), X, X).rank_P == 3
    report = ic.linear.immunity(np.eye(3), X, X, ranks=(3, 2))
    assert (report.rank_P, report.rank_H, report.rank_from) == (3, 2, "given")
    assert report.kappa_P == pytest.approx(1e8)
    assert report.kappa_H == pytest.approx(1e2)
    assert ic.linear.immunity(np.eye(3), X, X, ranks=(None, 2)).rank_from == "given"


def test_precision_of_the_inputs_decides_the_rank():
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.normal(size=(rows, 8)))[0] for rows in (500, 8))
    X = U * np.array([3.0, 2.0, 1.0, *(5 * [1e-6])]) @ V.T  # what float32 leaves of rank 3
    assert ic.linear.immunity(np.eye(8), X, X).rank_P == 8
    assert ic.linear.immunity(np.eye(8), X, X, computed_in=np.float32).rank_P == 3
    X = X.astype(np.float32)
    report = ic.linear.immunity(np.eye(8), X, X)
    assert report.rank_P == 3
    assert report.kappa_P == pytest.approx(9.0, rel=1e-5)


def graded_gram(decades: float, d: int = 5) -> np.ndarray:
    rotate = np.linalg.qr(np.random.default_rng(7).normal(size=(d, d)))[0]
    K = (rotate * np.logspace(0, -decades, d)) @ rotate.T
    return (K + K.T) / 2


@pytest.mark.parametrize("decades", [2, 6, 8, 10, 12, 13])
def test_gram_matrices_keep_the_digits_that_they_carry(decades):
    K_P, K_H = graded_gram(decades), np.diag([1.0, 0.5, 0.3, 0.2, 0.1])
    with mpmath.workdps(60):
        P, H = mpmath.matrix(K_P.tolist()), mpmath.matrix(K_H.tolist())
        whiten = mpmath.cholesky(P) ** -1
        M = whiten * H * whiten.T
        ends = [sorted(mpmath.eigsy((A + A.T) / 2, eigvals_only=True)) for A in (P, M)]
        kappa_P, kappa_M = (float(values[-1] / values[0]) for values in ends)
    report = ic.linear.immunity(np.eye(5), K_P=K_P, K_H=K_H)
    assert report.kappa_P == pytest.approx(kappa_P, rel=1e-8)
    assert report.limit.kappa_M == pytest.approx(kappa_M, rel=1e-4)
    assert ic.linear.immunity_limit(K_P, K_H).rir == pytest.approx(kappa_M * kappa_P / 10, rel=1e-4)


def test_gram_matrices_that_lost_the_small_end_warn():
    K, theta = graded_gram(14.8), np.eye(5)
    with pytest.warns(ic.AccuracyWarning):  # what a sum over many rows would have left of it
        assert ic.linear.immunity_limit(graded_gram(14), np.eye(5)).kappa_P > 1e13
    for call in (
        lambda: ic.linear.immunity(theta, K_P=K, K_H=np.eye(5)),
        lambda: ic.linear.immunity_limit(K, np.eye(5)),
        lambda: ic.linear.optimal_extractor(K, np.eye(5)),
        lambda: ic.linear.step_interval(ic.r_well, theta=theta, gram=K),
    ):
        with pytest.warns(ic.AccuracyWarning, match="of (K_P|gram) is not determined") as record:
            call()
        assert record[0].filename == __file__
    # Noise that delta stands for covers the rounding: nothing is lost then.
    ic.linear.immunity_limit(K, np.eye(5), delta=1e-8)
    # The rank that is known leaves the rounding out.
    ic.linear.immunity(theta, K_P=K, K_H=np.eye(5), ranks=(4, 5))


def test_integers_and_lists_are_exact():
    report = ic.linear.immunity([[1, 0], [0, 2]], [[3, 0], [0, 1]], [[1, 0], [0, 1]])
    assert report.kappa_P == pytest.approx(2.25)
    assert report.kappa_H == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("theta", "keywords", "error", "message"),
    [
        (np.eye(3), {}, ValueError, "theta must have 2 rows"),
        (np.eye(2) * np.nan, {}, ValueError, "theta"),
        (np.zeros((2, 2)), {}, ValueError, "theta maps the primary inputs to 0"),
        (np.ones(2), {}, ValueError, "theta"),
        (np.eye(2), {"ridge": -1.0}, ValueError, "ridge"),
        (np.eye(2), {"ridge": np.nan}, ValueError, "ridge"),
        (np.eye(2), {"reference": np.eye(3)}, ValueError, "reference must have 2 rows"),
        (np.eye(2), {"reference": np.zeros((2, 2))}, ValueError, "reference maps"),
        (np.eye(2), {"K_P": np.eye(2)}, TypeError, "got X_P, X_H, K_P"),
        (np.eye(2), {"ranks": 1}, ValueError, "ranks must be a pair.*got 1"),
        (np.eye(2), {"ranks": (1,)}, ValueError, "ranks must be a pair"),
        (np.eye(2), {"ranks": (1, 2, 2)}, ValueError, "ranks must be a pair"),
        (np.eye(2), {"ranks": (2, 3)}, ValueError, "rank of X_H must be between 1 and 2"),
        (np.eye(2), {"ranks": (1.5, 2)}, TypeError, "rank of X_P must be an integer"),
    ],
)
def test_bad_input_is_named(theta, keywords, error, message):
    with pytest.raises(error, match=message):
        ic.linear.immunity(theta, np.eye(2), np.eye(2), **keywords)


@pytest.mark.parametrize("name", ["K_P", "K_H"])
def test_a_rank_that_a_gram_matrix_has_not_is_told_of_that_matrix(name):
    grams = {"K_P": np.eye(3), "K_H": np.eye(3)} | {name: np.diag([2.0, 1.0, 0.0])}
    with pytest.raises(ValueError, match=f"^rank of {name}: rank = 3 was given"):
        ic.linear.immunity(np.eye(3), **grams, ranks=(3, 3))


def test_a_ridge_beside_what_passes_the_range_names_the_inputs():
    """Their features are infinite, and were told as an argument of another function."""
    X_P, X_H = tasks(0, 3)
    theta = 10.0 * np.eye(3)
    exact = ic.linear.immunity(theta, X_P * 1e307, X_H)
    assert exact.kappa_P == pytest.approx(ic.linear.immunity(theta, X_P, X_H).kappa_P)
    for scales, keywords, match in (
        ((1e307, 1.0), {}, r"X_P under theta passes 1\.8e308, beside which a ridge of 1"),
        ((1.0, 1e307), {}, r"X_H under theta passes 1\.8e308.*scale X_H down"),
        ((2e307, 1.0), {"reference": 100.0 * theta}, "X_P under"),
    ):
        with pytest.raises(OverflowError, match=match):
            ic.linear.immunity(theta, X_P * scales[0], X_H * scales[1], ridge=1.0, **keywords)
    many = np.tile(1.7e308 * np.eye(3), (9, 1))  # whose largest singular value passes it
    with pytest.raises(OverflowError, match=r"X_P under theta passes 1\.8e308"):
        ic.linear.immunity(1e-3 * np.eye(3), many, X_H, ridge=1.0)
