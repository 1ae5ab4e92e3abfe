"""Fade from Gram matrices: by a factor whose rank is certified, and the harmful task on demand."""

import math
import pickle

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import immucond as ic
from immucond._task import lost
from immucond.linear import _factored
from immucond.linear._factored import factored
from immucond.linear._fade import fade_of
from immucond.linear._labelled import tasks_of

SEEDS = st.integers(0, 2**32 - 1)


def primary(seed, d, rank, decades=3.0):
    """Gram matrix of that rank, its nonzero eigenvalues over so many decades."""
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.normal(size=(d, d)))
    R = np.geomspace(1.0, 10.0 ** (-decades / 2), rank)[:, None] * Q[:, :rank].T
    K = R.T @ R
    return (K + K.T) / 2


def harmful(seed, d, rows=200, classes=4):
    rng = np.random.default_rng(seed)
    Z, y = rng.normal(size=(rows, d)), rng.integers(classes, size=rows)
    Z += np.eye(classes)[y] @ rng.normal(size=(classes, d))
    Z -= Z.mean(axis=0)
    Y = np.eye(classes)[y] - np.bincount(y, minlength=classes) / rows
    return {"K_H": Z.T @ Z, "b_H": Z.T @ Y, "energy_H": float(np.sum(Y**2))}


def by_root(P, given_):
    """The map from the eigenvectors of K_P."""
    (task,) = tasks_of(None, None, *given_.values(), center=True, rank=None, computed_in=None)
    return fade_of(P.root, [task])


@given(SEEDS, st.integers(30, 80), st.floats(0.0, 1.0), st.floats(0.5, 7.0))
def test_the_factor_gives_the_map_of_the_eigenvectors(seed, d, share, decades):
    rank = max(3, round(share * d))
    K_P, given_ = primary(seed, d, rank, decades), harmful(seed + 1, d)
    P = factored(K_P, "K_P")
    if P is None:  # rounding in K_P left no gap
        assert rank < d
        return
    assert P.rank == P.root.rank == rank
    found, expected = ic.linear.fade(K_P=K_P, **given_), by_root(P, given_)
    assert found.left.shape == expected.left.shape == (d, 3)
    lost = 1e-13 * d * 10.0**decades
    np.testing.assert_allclose(
        found.theta, expected.theta, atol=lost * np.abs(expected.theta).max()
    )
    np.testing.assert_allclose(found.right.T @ found.left, np.eye(3), atol=lost)
    assert found.rho == pytest.approx(expected.rho, rel=1e3 * lost)
    assert found.kappa_P == pytest.approx(expected.kappa_P, rel=1e3 * lost)
    assert found.kappa_P_before == expected.kappa_P_before
    assert found.limit == pytest.approx(expected.limit, rel=1e3 * lost)
    assert found.moved == pytest.approx(expected.moved, rel=1e3 * lost, abs=lost)


@given(SEEDS, st.integers(20, 80), st.integers(0, 3), st.floats(7.0, 14.0))
def test_what_a_factor_settles_is_what_the_certified_ends_say(seed, d, lost_ranks, decades):
    P = factored(primary(seed, d, d - lost_ranks, decades), "K_P")
    if P is not None:
        assert P.rank == P.root.rank
        assert not lost(P.root)  # nothing to warn of


@pytest.mark.parametrize("rank", [60, 45])
@pytest.mark.parametrize("scale", [2.0**-498, 1.0, 2.0**498])  # others round the null space away
def test_a_factor_settles_what_has_a_gap_at_any_scale(rank, scale):
    P = factored(primary(0, 60, rank) * scale, "K_P")
    assert P is not None
    assert P.rank == rank
    A = np.random.default_rng(1).normal(size=(60, 5))
    K = primary(0, 60, rank)
    size = K.diagonal().max()
    np.testing.assert_allclose(P.matrix.T @ P.matrix * size, K, atol=1e-14)
    np.testing.assert_allclose(P.transposed(A[:rank]), P.matrix.T @ A[:rank], atol=1e-12)
    # R^+ by its products from both sides, and the null space beside it.
    np.testing.assert_allclose(P.matrix @ P.unwhitened(A[:rank]), A[:rank], atol=1e-11)
    pinv = np.linalg.pinv(P.matrix)
    np.testing.assert_allclose(P.whitened(A.T), A.T @ pinv, atol=1e-11)
    null = A - pinv @ (P.matrix @ A)
    if rank < 60:
        np.testing.assert_allclose(P.from_null(P.to_null(A)), null, atol=1e-11)
    else:
        assert P.to_null(A).shape == (0, 5)


@pytest.mark.parametrize(
    ("change", "keywords"),
    [
        (lambda K: K + np.triu(np.ones_like(K), 1) * 1e-6, {}),  # not symmetric
        (lambda K: K - 0.5 * np.eye(60), {}),  # not positive semidefinite
        (lambda K: np.where(np.eye(60) > 0, np.nan, K), {}),
        (lambda K: np.where(np.eye(60) > 0, np.inf, K), {}),
        (lambda K: 0.0 * K, {}),
        (lambda K: K[:, :59], {}),
        (lambda K: K.astype(np.float32), {}),
        (lambda K: K, {"computed_in": "float16"}),
        (lambda K: K, {"rank": 59}),
        (lambda K: primary(0, 60, 60, 13.0), {}),  # an eigenvalue at the tolerance
        (lambda K: primary(0, 60, 60, 25.0), {}),  # no gap
    ],
)
def test_what_a_factor_does_not_settle_is_left_to_the_eigenvectors(change, keywords):
    assert factored(primary(0, 60, 60), "K_P") is not None
    assert factored(change(primary(0, 60, 60)), "K_P", **keywords) is None


@given(SEEDS, st.integers(1, 30), st.sampled_from([_factored._FEW, _factored._MANY]))
def test_a_norm_is_within_its_bound(seed, d, count):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(d, d)) * 10.0 ** rng.uniform(-9, 0, size=d)
    norm = np.linalg.norm(A, 2)
    found = min(_factored._norm_bounds(A @ rng.normal(size=(d, 2 * count))))
    assert norm <= found <= 400.0 * np.sqrt(d) * norm


def test_the_harmful_task_is_examined_where_it_is_asked_for():
    K_P, given_ = primary(0, 40, 40), harmful(1, 40)
    faded = ic.linear.fade(K_P=K_P, **given_)
    again = pickle.loads(pickle.dumps(faded))  # with nothing examined yet
    assert again.rho == faded.rho
    # Not positive semidefinite, with a diagonal that does not show it.
    odd = given_ | {"K_H": given_["K_H"] + 1e5 * (np.ones((40, 40)) - np.eye(40))}
    found = ic.linear.fade(K_P=K_P, **odd)
    np.testing.assert_array_equal(found.theta, faded.theta)
    for name in ("rho", "rho_before", "limit"):
        with pytest.raises(ValueError, match="K_H must be positive semidefinite"):
            getattr(found, name)
    with pytest.raises(ValueError, match="K_H must be positive semidefinite"):
        ic.linear.alignment_limit(K_P=K_P, **odd, kappa_P=10.0)


def test_grams_that_change_before_they_are_examined_are_not_taken_for_what_they_were():
    K_P, given_ = primary(0, 40, 40), harmful(1, 40)
    faded = ic.linear.fade(K_P=K_P, **given_)
    before = ic.linear.fade(K_P=K_P, **given_).rho
    kept = given_["K_H"].copy()
    given_["K_H"] += np.eye(40)  # as an accumulator does that goes on
    with pytest.raises(ValueError, match="K_H has changed since"):
        _ = faded.rho
    given_["K_H"][:] = kept
    assert faded.rho == before
    K_P *= 2.0
    with pytest.raises(ValueError, match="K_P has changed since"):
        _ = faded.kappa_P_before


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"K_H": np.full((40, 40), np.nan)}, "K_H"),
        ({"K_H": -np.eye(40)}, "K_H"),
        ({"K_H": np.zeros((40, 40))}, "K_H"),
        ({"K_H": np.eye(39)}, "40"),
        ({"energy_H": 1e-3}, "alone explain"),
        ({"b_H": np.full((40, 4), np.inf)}, "b_H must be finite"),
        ({"ranks": (None, 41)}, "rank of K_H must be between 1 and 40"),
        ({"ranks": (41, None)}, "rank of K_P must be between 1 and 40"),
        ({"K_P": primary(0, 40, 40) - 0.5 * np.eye(40)}, "K_P must be positive semidefinite"),
        ({"K_P": np.triu(primary(0, 40, 40))}, "K_P must be symmetric"),
    ],
)
def test_a_glance_refuses_the_rest_at_once(change, match):
    given_ = {"K_P": primary(0, 40, 40), **harmful(1, 40), **change}
    with pytest.raises(ValueError, match=match):
        ic.linear.fade(**given_)


def test_an_eigenvalue_that_hides_from_the_vectors_of_a_fixed_seed_is_found():
    """Whoever knows the code puts a vector of the factor at a right angle to all of them."""
    d = 90
    known = np.hstack(
        [np.random.default_rng(s).normal(size=(d, s)) for s in (_factored._FEW, _factored._MANY)]
    )
    hidden = np.linalg.svd(known)[0][:, -1]
    small = d * np.finfo(np.float64).eps  # what rounding leaves
    R, _ = scipy.linalg.rq(np.eye(d) - (1.0 - np.sqrt(small)) * np.outer(hidden, hidden))
    R *= np.sign(R.diagonal())  # as Cholesky has it
    K = R.T @ R
    K = (K + K.T) / 2
    assert np.linalg.matrix_rank(K, tol=1e-10) == d - 1
    images = known
    for trans in (0, 1):  # (R R^T)^-1, as if it were bounded
        images = scipy.linalg.solve_triangular(R, images, trans=trans)
    assert np.linalg.norm(images) < 1e-6 / small
    found = factored(K, "K")
    assert found is None or found.rank == d - 1


# ---- scale, what is not seen, and what contradicts itself ----


def sums_of(seed=0):
    """K, b and the labels' energy of centred rows."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(40, 4)) * [3.0, 2.0, 1.0, 0.5]
    Z, Y = Z - Z.mean(0), rng.normal(size=(40, 2))
    Y -= Y.mean(0)
    return Z.T @ Z, Z.T @ Y, float(np.sum(Y**2))


@pytest.mark.parametrize("power", [-200, -165, 165, 200])
def test_labels_of_any_unit_have_one_alignment(power):
    K, b, energy = sums_of()
    right = ic.linear.alignment(K=K, b=b, energy=energy)
    scaled = ic.linear.alignment(K=K, b=b * 10.0**power)
    assert scaled.rho == pytest.approx(right.rho, rel=1e-12)
    limits = [
        ic.linear.alignment_limit(
            K_P=np.diag([4.0, 3.0, 2.0, 1.0]), K_H=K, b_H=b * scale, kappa_P=9.0
        )
        for scale in (1.0, 10.0**power)
    ]
    assert limits[1].rho == pytest.approx(limits[0].rho, rel=1e-12)
    assert limits[1].attained == pytest.approx(limits[0].attained, rel=1e-9)


def test_an_energy_of_zero_is_refused():
    K, b, _ = sums_of()
    for cross in (b, b * 1e-200, 0.0 * b):
        with pytest.raises(ValueError, match="energy is 0: labels that are constant"):
            ic.linear.alignment(K=K, b=cross, energy=0.0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_labels_that_the_features_do_not_see_are_told_by_their_energy(dtype):
    rng = np.random.default_rng(1)
    Z = np.linalg.qr(rng.normal(size=(40, 6)))[0]
    Z -= Z.mean(0)
    Y = rng.normal(size=(40, 1))
    Y -= Y.mean(0)
    Y -= Z @ np.linalg.lstsq(Z, Y, rcond=None)[0]
    K, energy = (Z.T @ Z).astype(dtype), float(np.sum(Y**2))
    b = Z.astype(dtype).T @ Y.astype(dtype)
    assert np.abs(b).max() > 0.0  # rounding
    found = ic.linear.alignment(K=K, b=b, energy=energy)
    assert (found.rho, found.explained) == (0.0, 0.0)
    with pytest.warns(ic.ImmunityWarning, match="is 0: the map is the identity"):
        faded = ic.linear.fade(K_P=np.eye(6), K_H=K, b_H=b, energy_H=energy)
    assert faded.rho_before == faded.rho == 0.0


def test_labels_beside_the_range_of_their_gram_matrix_are_refused():
    K = np.diag([1.0, 0.0])
    with pytest.raises(ValueError, match=r"b has 0.707 of its norm beside the range of K"):
        ic.linear.alignment(K=K, b=[1.0, 1.0], energy=5.0)
    # Rows that have them all but in rounding are no contradiction.
    weak = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1e-9], [0.0, -1e-9]])
    y = np.array([0.0, 0.0, 1.0, -1.0])
    told = ic.linear.alignment(K=weak.T @ weak, b=weak.T @ y, energy=2.0)
    assert told.explained == 0.0


def test_all_features_erased_is_told():
    rng = np.random.default_rng(0)
    X_P, X_H = rng.normal(size=(60, 8)), rng.normal(size=(50, 8))
    y = np.arange(50) % 9
    with pytest.warns(ic.ImmunityWarning, match="erased: nothing of the primary task is left"):
        found = ic.linear.fade(X_P, X_H, y, tau=math.inf)
    assert math.isnan(found.kappa_P)
    assert found.moved == pytest.approx(1.0)
    assert np.abs(found.theta).max() < 1e-12
    assert "nan" in found._repr_html_().lower()


@pytest.mark.parametrize("decades", [12, 13, 14, 15])
def test_labels_that_weak_directions_explain_are_no_contradiction(decades):
    """Rounding of K then makes more of them than there was: by 1e-5 at kappa 1e14."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        Q = np.linalg.qr(rng.normal(size=(5, 5)))[0]
        Z = rng.normal(size=(30, 5)) * np.geomspace(1.0, 10.0 ** (-decades / 2), 5) @ Q
        Z = Z - Z.mean(0)
        Y = Z @ Q[-1]  # of the weakest direction
        found = ic.linear.alignment(K=Z.T @ Z, b=Z.T @ Y, energy=float(Y @ Y))
        assert 0.0 <= found.explained <= 1.0
    with pytest.raises(ValueError, match="alone explain"):
        ic.linear.alignment(K=np.eye(2), b=[1.0, 1.0], energy=1.999)
