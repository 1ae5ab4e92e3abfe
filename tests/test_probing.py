"""Linear probing: every attacker against a plain implementation, and the bounds of the theory."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
from hypothesis import given
from hypothesis import strategies as st

import immucond as ic

seeds = st.integers(0, 2**32 - 1)


def random_problem(seed: int, N: int, m: int, c: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, m)) * 10.0 ** rng.uniform(-1, 1, size=m), rng.normal(size=(N, c))


def minimizer(Z, y, mu):
    if mu:
        return np.linalg.solve(Z.T @ Z + mu * np.eye(Z.shape[1]), Z.T @ y)
    return np.linalg.pinv(Z) @ y


def loss(Z, y, w, mu):
    return np.sum((Z @ w - y) ** 2) + mu * np.sum(w**2)


problems = given(
    seeds, st.integers(2, 12), st.integers(1, 8), st.integers(1, 3), st.sampled_from([0.0, 0.3])
)


@problems
def test_gd_is_exact_line_search_on_the_weights(seed, N, m, c, mu):
    Z, y = random_problem(seed, N, m, c)
    trace = ic.probing.probe(Z, y, method="gd", steps=12, weight_decay=mu)
    H = Z.T @ Z + mu * np.eye(m)
    w, best = np.zeros((m, c)), minimizer(Z, y, mu)
    for t in range(trace.loss.size):
        assert trace.loss[t] == pytest.approx(loss(Z, y, w, mu), rel=1e-8)
        ratio = np.sum((w - best) ** 2) / np.sum(best**2)
        assert trace.norm_ratio[t] == pytest.approx(ratio, rel=1e-5, abs=1e-10)
        g = H @ w - Z.T @ y
        curvature = np.sum(g * (H @ g))
        w = w - (np.sum(g * g) / curvature if curvature else 0.0) * g
    assert trace.best_loss == pytest.approx(loss(Z, y, best, mu), rel=1e-8, abs=1e-12)


@problems
def test_norm_ratio_obeys_the_papers_bound(seed, N, m, c, mu):
    Z, y = random_problem(seed, N, m, c)
    trace = ic.probing.probe(Z, y, method="gd", steps=200, weight_decay=mu)
    bound = (1 - 1 / trace.kappa) ** np.arange(trace.norm_ratio.size)
    assert np.all(trace.norm_ratio <= bound * (1 + 1e-9) + 1e-25)
    assert np.all(np.diff(trace.loss) <= 1e-12 * trace.loss[0])


@problems
def test_cg_is_scipys(seed, N, m, c, mu):
    Z, y = random_problem(seed, N, m, c)
    trace = ic.probing.probe(Z, y, method="cg", steps=4, weight_decay=mu)
    # All heads at once are one vector under a block-diagonal Hessian.
    H = np.kron(np.eye(c), Z.T @ Z + mu * np.eye(m))
    b = (Z.T @ y).T.ravel()
    for t in range(1, min(4, trace.rank) + 1):
        w = scipy.sparse.linalg.cg(H, b, rtol=1e-15, maxiter=t)[0].reshape(c, m).T
        # Late steps carry the rounding of the early ones.
        assert trace.loss[t] == pytest.approx(loss(Z, y, w, mu), abs=1e-6 * trace.loss[0])


@given(seeds, st.integers(1, 4))
def test_cg_needs_as_many_steps_as_there_are_distinct_eigenvalues(seed, distinct):
    rng = np.random.default_rng(seed)
    m = 8
    values = np.arange(1.0, distinct + 1)
    s = values[np.arange(m) % distinct]
    Z = np.linalg.qr(rng.normal(size=(12, m)))[0] * s @ np.linalg.qr(rng.normal(size=(m, m)))[0]
    trace = ic.probing.probe(Z, rng.normal(size=12), method="cg", steps=20, tolerance=1e-10)
    assert trace.steps_to(1e-10) == distinct


@problems
def test_lstsq_arrives_in_one_step(seed, N, m, c, mu):
    Z, y = random_problem(seed, N, m, c)
    trace = ic.probing.probe(Z, y, method="lstsq", weight_decay=mu)
    assert trace.loss.shape == trace.norm_ratio.shape == (2,)
    assert trace.loss[0] == pytest.approx(np.sum(y**2))
    expected = loss(Z, y, minimizer(Z, y, mu), mu)
    assert trace.loss[1] == pytest.approx(expected, rel=1e-8, abs=1e-10)
    assert trace.norm_ratio[1] < 1e-9


@pytest.mark.parametrize("method", ["gd", "cg"])
def test_singular_hessian_goes_to_the_nearest_minimizer(method):
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(20, 3)) @ rng.normal(size=(3, 6))
    trace = ic.probing.probe(Z, rng.normal(size=20), method=method, steps=400)
    assert trace.rank == 3
    assert trace.norm_ratio[-1] < 1e-12


def test_a_large_kappa_alone_does_not_slow_the_loss():
    # THEORY 5: the same features; what counts is where the energy of the labels lies.
    sigma = np.logspace(0, -4, 9)
    easy = ic.probing.probe(np.diag(sigma), sigma, method="gd", steps=50)
    assert easy.kappa == pytest.approx(1e8)
    assert easy.slow_share < 2e-3
    assert easy.loss[-1] < 1e-3 * easy.loss[0]
    assert easy.norm_ratio[-1] > 0.5
    hard = ic.probing.probe(np.diag(sigma), np.ones(9), method="gd", steps=50)
    assert hard.slow_share == pytest.approx(6 / 9)
    assert hard.loss[-1] > 0.5 * hard.loss[0]


@given(seeds, st.sampled_from([1e-6, 1e-2, 1.0]))
def test_weight_decay_caps_kappa(seed, mu):
    Z, y = random_problem(seed, 6, 4, 1)
    top = np.linalg.svd(Z, compute_uv=False)[0] ** 2
    assert ic.probing.probe(Z, y, weight_decay=mu).kappa <= (top + mu) / mu * (1 + 1e-12)


@pytest.mark.parametrize("scale", [1e-200, 1e-100, 1e100, 1e200])
@pytest.mark.parametrize("method", ["gd", "cg", "lstsq"])
def test_scale_of_the_features_never_matters(method, scale):
    Z, y = random_problem(1, 12, 4, 2)
    plain, scaled = (ic.probing.probe(A, y, method=method, steps=9) for A in (Z, Z * scale))
    np.testing.assert_allclose(scaled.loss, plain.loss, rtol=1e-9)
    np.testing.assert_allclose(scaled.norm_ratio, plain.norm_ratio, rtol=1e-6, atol=1e-12)
    assert scaled.kappa == pytest.approx(plain.kappa, rel=1e-9)


def test_scale_of_the_targets():
    Z, y = random_problem(1, 12, 4, 1)
    plain, scaled = (ic.probing.probe(Z, t, steps=9) for t in (y, y * 1e100))
    np.testing.assert_allclose(scaled.loss, plain.loss * 1e200, rtol=1e-9)
    with pytest.raises(OverflowError, match="scale y"):
        ic.probing.probe(Z, y * 1e200)


def test_tolerance_stops_and_is_reported():
    Z, y = random_problem(3, 30, 6, 1)
    full = ic.probing.probe(Z, y, steps=5000)
    short = ic.probing.probe(Z, y, steps=5000, tolerance=0.01)
    reached = full.steps_to(0.01)
    assert reached is not None
    assert reached == short.steps_to(0.01) == short.loss.size - 1
    assert full.loss[reached] <= 1.01 * full.best_loss < full.loss[reached - 1]
    np.testing.assert_array_equal(short.loss, full.loss[: reached + 1])
    assert ic.probing.probe(Z, y, steps=1).steps_to(1e-9) is None


def test_targets_outside_the_features_leave_nothing_to_do():
    trace = ic.probing.probe([[1.0], [0.0]], [0.0, 1.0])
    assert trace.loss.tolist() == [1.0]
    assert trace.best_loss == 1.0
    assert trace.steps_to(0.0) == 0


def test_immunity_slows_descent_but_not_the_solve():
    rng = np.random.default_rng(0)
    X_P = rng.normal(size=(60, 6)) * [6, 5, 4, 3, 2, 1]
    X_H, y = rng.normal(size=(60, 6)), rng.normal(size=60)
    Z = X_H @ ic.linear.optimal_extractor(X_P=X_P, X_H=X_H, kappa_P=36.0)

    def steps(features, method):
        return ic.probing.probe(features, y, method=method, steps=10**5, tolerance=0.01).steps_to(
            0.01
        )

    assert steps(Z, "gd") > 10 * steps(X_H, "gd")
    assert steps(Z, "lstsq") == steps(X_H, "lstsq") == 1


@pytest.mark.parametrize(
    ("Z", "y", "keywords", "error", "message"),
    [
        (np.eye(2), [1, 2], {"method": "newton"}, ValueError, "method.*gd.*cg.*lstsq.*newton"),
        (np.eye(2), [1, 2, 3], {}, ValueError, "y must have one row a sample, 2 as Z"),
        (np.eye(2), [[1, 2], [3]], {}, ValueError, "y does not form an array"),
        (np.eye(2), 1.0, {}, ValueError, "y must have 1 or 2 dimensions"),
        (np.eye(2), [1, np.nan], {}, ValueError, "y"),
        (np.full((2, 2), np.inf), [1, 2], {}, ValueError, "Z"),
        (np.eye(2) * 1j, [1, 2], {}, TypeError, "Z"),
        (np.zeros((2, 2)), [1, 2], {}, ValueError, "Z is zero"),
        (np.zeros((0, 2)), [], {}, ValueError, "Z"),
        (np.eye(2), [1, 2], {"steps": 0}, ValueError, "steps"),
        (np.eye(2), [1, 2], {"steps": 1.5}, TypeError, "steps"),
        (np.eye(2), [1, 2], {"weight_decay": -1.0}, ValueError, "weight_decay"),
        (np.eye(2), [1, 2], {"tolerance": -1.0}, ValueError, "tolerance"),
        (np.eye(2), [1, 2], {"rank": 3}, ValueError, "rank"),
    ],
)
def test_bad_input_is_named(Z, y, keywords, error, message):
    with pytest.raises(error, match=message):
        ic.probing.probe(Z, y, **keywords)


def test_inputs_stay_as_they_are():
    Z, y = random_problem(0, 6, 3, 2)
    before = Z.copy(), y.copy()
    for array in (Z, y):
        array.flags.writeable = False
    for method in ic.probing.METHODS:
        ic.probing.probe(Z[::-1], y[::-1], method=method, steps=3)
    np.testing.assert_array_equal(Z, before[0])
    np.testing.assert_array_equal(y, before[1])


@pytest.mark.parametrize("method", ["gd", "cg", "lstsq"])
@pytest.mark.parametrize("decay", [1e10, 1e110, 1e200, 1e300])
def test_any_weight_decay(method, decay):
    Z, y = random_problem(0, 8, 3, 2)
    trace = ic.probing.probe(Z, y, method=method, weight_decay=decay, steps=5)
    assert trace.norm_ratio[0] == 1.0
    # QR of [Z; sqrt(mu) I] rounds at the size of y: its tiny head keeps no digit in the end.
    if method != "lstsq":
        assert trace.norm_ratio[-1] < 1e-15
    np.testing.assert_allclose(trace.loss, np.sum(y**2), rtol=1e-7)
    assert trace.kappa == pytest.approx(1.0, rel=1e-6)


def test_weight_decay_beyond_the_float_range_beside_the_features():
    with pytest.raises(OverflowError, match="weight_decay = 1e"):
        ic.probing.probe(np.eye(2) * 1e-200, [1, 2], weight_decay=1e10)
