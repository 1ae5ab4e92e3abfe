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
        slack = 1e-8 * trace.loss[0]  # rounding of the weights, where nothing is left of the loss
        assert trace.loss[t] == pytest.approx(loss(Z, y, w, mu), rel=1e-8, abs=slack)
        ratio = np.sum((w - best) ** 2) / np.sum(best**2)
        assert trace.norm_ratio[t] == pytest.approx(ratio, rel=1e-5, abs=1e-10)
        g = H @ w - Z.T @ y
        curvature = np.sum(g * (H @ g))
        w = w - (np.sum(g * g) / curvature if curvature else 0.0) * g
    assert trace.best_loss == pytest.approx(loss(Z, y, best, mu), rel=1e-8, abs=1e-12)


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


# ---- further attackers, each against a plain implementation on the weights ----


@problems
def test_gd_constant_is_plain_and_its_curve_is_exact(seed, N, m, c, mu):
    Z, y = random_problem(seed, N, m, c)
    for lr in (1.0, 0.3, 1.7):
        trace = ic.probing.probe(
            Z, y, method="gd-constant", steps=30, weight_decay=mu, lr=lr
        )  # fmt: skip
        H = Z.T @ Z + mu * np.eye(m)
        step = lr / np.linalg.eigvalsh(H)[-1]
        w = np.zeros((m, c))
        for t in range(trace.loss.size):
            measured = loss(Z, y, w, mu)
            assert trace.loss[t] == pytest.approx(measured, rel=1e-8)
            assert trace.predicted_loss[t] == pytest.approx(measured, rel=1e-8)
            w = w - step * (H @ w - Z.T @ y)
        assert np.all(trace.norm_ratio <= trace.predicted_norm_ratio * (1 + 1e-9) + 1e-25)


@problems
def test_constant_step_keeps_the_papers_rate_and_the_best_one(seed, N, m, c, mu):
    Z, y = random_problem(seed, N, m, c)
    trace = ic.probing.probe(Z, y, method="gd-constant", steps=50, weight_decay=mu)
    t = np.arange(trace.loss.size)
    assert np.all(trace.norm_ratio <= (1 - 1 / trace.kappa) ** (2 * t) * (1 + 1e-9) + 1e-25)
    lr = 2 / (1 + 1 / trace.kappa)  # 2 / (sigma_max + sigma_min)
    best = ic.probing.probe(
        Z, y, method="gd-constant", steps=50, weight_decay=mu, lr=min(lr, np.nextafter(2, 0))
    )
    t = np.arange(best.loss.size)
    rate = (trace.kappa - 1) / (trace.kappa + 1)
    assert np.all(best.norm_ratio <= rate ** (2 * t) * (1 + 1e-9) + 1e-25)


def test_constant_step_rate_is_sharp():
    Z = np.diag([1.0, 0.1])
    trace = ic.probing.probe(Z, np.array([0.0, 1.0]), method="gd-constant", steps=20)
    np.testing.assert_allclose(trace.norm_ratio, 0.99 ** (2 * np.arange(21)))


@problems
def test_nesterov_is_plain_and_keeps_its_bound(seed, N, m, c, mu):
    Z, y = random_problem(seed, N, m, c)
    trace = ic.probing.probe(Z, y, method="nesterov", steps=40, weight_decay=mu)
    H = Z.T @ Z + mu * np.eye(m)
    momentum = (np.sqrt(trace.kappa) - 1) / (np.sqrt(trace.kappa) + 1)
    w = ahead = np.zeros((m, c))
    for t in range(trace.loss.size):
        assert trace.loss[t] == pytest.approx(loss(Z, y, w, mu), rel=1e-7, abs=1e-9)
        w, last = ahead - (H @ ahead - Z.T @ y) / np.linalg.eigvalsh(H)[-1], w
        ahead = w + momentum * (w - last)
    slack = 1e-12 * trace.loss[0]
    assert np.all(trace.loss <= trace.predicted_loss * (1 + 1e-9) + slack)
    assert np.all(trace.norm_ratio <= trace.predicted_norm_ratio * (1 + 1e-9) + 1e-20)


@problems
def test_cg_and_gd_keep_their_bounds(seed, N, m, c, mu):
    Z, y = random_problem(seed, N, m, c)
    for method in ("gd", "cg"):
        trace = ic.probing.probe(Z, y, method=method, steps=200, weight_decay=mu)
        slack = 1e-12 * trace.loss[0]
        assert np.all(trace.loss <= trace.predicted_loss * (1 + 1e-9) + slack)
        assert np.all(trace.norm_ratio <= trace.predicted_norm_ratio * (1 + 1e-9) + 1e-20)
        if method == "gd":  # Eq. 2 of the paper
            bound = (1 - 1 / trace.kappa) ** np.arange(trace.norm_ratio.size)
            assert np.all(trace.norm_ratio <= bound * (1 + 1e-9) + 1e-25)
            assert np.all(np.diff(trace.loss) <= 1e-12 * trace.loss[0])


@problems
def test_lbfgs_with_exact_line_search_is_cg(seed, N, m, c, mu):
    Z, y = random_problem(seed, N, m, c)
    one, other = (
        ic.probing.probe(Z, y, method=method, steps=4, weight_decay=mu)
        for method in ("lbfgs", "cg")
    )
    steps = min(one.loss.size, other.loss.size)
    np.testing.assert_allclose(
        one.loss[:steps], other.loss[:steps], rtol=1e-6, atol=1e-9 * one.loss[0]
    )


def test_lbfgs_finds_the_minimum_of_a_hard_problem():
    Z = np.diag(np.geomspace(1, 1e-4, 30))
    trace = ic.probing.probe(Z, np.ones(30), method="lbfgs", steps=3000)
    assert trace.loss[-1] < 1e-10
    assert np.all(np.diff(trace.loss) <= 1e-12)


def plain_adam(Z, y, mu, lr, steps):
    """On the loss itself: the factor 2 of its gradient cancels."""
    w = np.zeros((Z.shape[1], y.shape[1]))
    m, v, losses = np.zeros_like(w), np.zeros_like(w), [loss(Z, y, w, mu)]
    for t in range(1, steps + 1):
        g = 2 * (Z.T @ (Z @ w - y) + mu * w)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-12)
        losses.append(loss(Z, y, w, mu))
    return losses


@problems
def test_adam_is_adam_on_the_weights(seed, N, m, c, mu):
    Z, y = random_problem(seed, N, m, c)
    trace = ic.probing.probe(Z, y, method="adam", steps=25, weight_decay=mu, lr=0.05)
    s = np.linalg.svd(Z, compute_uv=False)[0]
    lr = 0.05 * s / (s**2 + mu) * np.linalg.norm(y) / np.sqrt(m * c)
    np.testing.assert_allclose(trace.loss, plain_adam(Z, y, mu, lr, 25), rtol=1e-4)


def test_adam_sees_the_coordinates():
    # Diagonal features: it rescales kappa away. Rotated ones: it cannot.
    rng = np.random.default_rng(0)
    H = np.geomspace(1, 1e-6, 8)
    y = np.append(np.ones(8), 0.3)
    Z = np.vstack([np.diag(np.sqrt(H)), np.zeros(8)])
    rotated = Z @ np.linalg.qr(rng.normal(size=(8, 8)))[0]
    options = {"method": "adam", "steps": 5000, "tolerance": 0.1, "lr": 1.0}
    plain, turned = (ic.probing.probe(A, y, **options) for A in (Z, rotated))
    assert plain.loss[-1] / plain.best_loss < turned.loss[-1] / turned.best_loss


@problems
def test_whitening_arrives_at_once(seed, N, m, c, mu):
    Z, y = random_problem(seed, N, m, c)
    trace = ic.probing.probe(Z, y, method="whitening", steps=20, weight_decay=mu)
    assert trace.loss[1] == pytest.approx(trace.best_loss, rel=1e-7, abs=1e-9 * trace.loss[0])


@pytest.mark.parametrize("decades", [1, 2, 3])
def test_what_kappa_costs_solvers_in_digits(decades):
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(n, 8)))[0] for n in (60, 8))
    Z = (u * np.geomspace(1, 10.0**-decades, 8)) @ v.T
    y = Z @ rng.normal(size=8) + 1e-2 * rng.normal(size=60)
    lost = {}
    for method in ("lstsq", "lstsq-float32", "whitening"):
        trace = ic.probing.probe(Z, y, method=method, steps=1)
        lost[method] = np.sqrt(trace.norm_ratio[1])
        predicted = np.sqrt(trace.predicted_norm_ratio[1])
        assert trace.predicted_norm_ratio[0] == 1.0
        assert trace.predicted_loss is None
        # An order of magnitude, and a worst case.
        assert 1e-4 * predicted < lost[method] < 10 * predicted
    assert lost["lstsq"] < 1e-6 * lost["lstsq-float32"]


@problems
def test_lstsq_arrives_in_one_step(seed, N, m, c, mu):
    Z, y = random_problem(seed, N, m, c)
    trace = ic.probing.probe(Z, y, method="lstsq", weight_decay=mu)
    assert trace.loss.shape == trace.norm_ratio.shape == (2,)
    assert trace.loss[0] == pytest.approx(np.sum(y**2))
    expected = loss(Z, y, minimizer(Z, y, mu), mu)
    assert trace.loss[1] == pytest.approx(expected, rel=1e-8, abs=1e-10)
    assert trace.norm_ratio[1] < 1e-9


@pytest.mark.parametrize(
    "method", ["gd", "gd-constant", "nesterov", "cg", "lbfgs", "whitening", "lstsq"]
)
def test_singular_hessian_goes_to_the_nearest_minimizer(method):
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(20, 3)) @ rng.normal(size=(3, 6))
    trace = ic.probing.probe(Z, rng.normal(size=20), method=method, steps=5000)
    assert trace.rank == 3
    assert trace.norm_ratio[-1] < 1e-12


def test_a_large_kappa_alone_does_not_slow_the_loss():
    # THEORY 5: the same features; what counts is where the energy of the labels lies.
    sigma = np.append(1.0, np.logspace(-0.4, -4, 8))  # no eigenvalue at the edge of the slow ones
    easy = ic.probing.probe(np.diag(sigma), sigma, method="gd", steps=50)
    assert easy.kappa == pytest.approx(1e8)
    assert easy.slow_share < 2e-3
    assert easy.loss[-1] < 1e-3 * easy.loss[0]
    assert easy.norm_ratio[-1] > 0.5
    hard = ic.probing.probe(np.diag(sigma), np.ones(9), method="gd", steps=50)
    assert hard.slow_share == pytest.approx(6 / 9)
    assert hard.loss[-1] > 0.5 * hard.loss[0]


@problems
def test_label_energy_is_that_of_the_left_singular_vectors(seed, N, m, c, mu):
    Z, y = random_problem(seed, N, m, c)
    trace = ic.probing.probe(Z, y, steps=1, weight_decay=mu)
    u, s, _ = np.linalg.svd(Z, full_matrices=False)
    energy = s**2 / (s**2 + mu) * np.sum((u.T @ y) ** 2, axis=1)
    np.testing.assert_allclose(trace.energy, energy / energy.sum(), rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(trace.curvature, (s**2 + mu) / (s[0] ** 2 + mu), rtol=1e-9)
    assert trace.slow_energy() == pytest.approx(trace.slow_share)
    assert trace.slow_energy(2.0) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="below must be"):
        trace.slow_energy(-1.0)


# ---- the curve in closed form ----


@problems
def test_loss_curve_is_the_measured_one(seed, N, m, c, mu):
    Z, y = random_problem(seed, N, m, c)
    trace = ic.probing.probe(Z, y, method="gd-constant", steps=100, weight_decay=mu)
    curve = ic.probing.loss_curve(Z, y, np.arange(trace.loss.size), weight_decay=mu)
    np.testing.assert_allclose(curve, trace.loss, rtol=1e-9)


def test_loss_curve_of_the_theory_page():
    # kappa = 7.6e7, labels along the top direction: the loss falls, the weights stand still.
    Z = np.diag([1.0, 7.6e7**-0.5])
    y = np.array([1.0, 1.5e-3])
    trace = ic.probing.probe(Z, y, method="gd-constant", steps=50)
    assert trace.kappa == pytest.approx(7.6e7)
    assert trace.loss[-1] < 3e-6 * trace.loss[0]
    assert trace.norm_ratio[-1] > 0.98


@given(seeds, st.sampled_from([1e-3, 1e-2, 0.3]), st.sampled_from([0.0, 1e-3]))
def test_steps_needed_are_the_first_that_suffice(seed, tolerance, mu):
    Z, y = random_problem(seed, 12, 4, 1)
    needed = ic.probing.steps_needed(Z, y, tolerance, weight_decay=mu)
    curve = ic.probing.loss_curve(Z, y, [needed, max(needed - 1, 0), 1e18], weight_decay=mu)
    allowed = (1 + tolerance) * curve[2]
    assert curve[0] <= allowed * (1 + 1e-9)
    assert needed == 0 or curve[1] > allowed * (1 - 1e-9)


def test_steps_needed_far_beyond_any_run():
    Z = np.vstack([np.diag([1.0, 1e-8]), np.zeros(2)])
    y = np.ones(3)
    needed = ic.probing.steps_needed(Z, y, 0.01)
    assert needed == pytest.approx(np.log(100) / 2e-16, rel=1e-6)
    exact = ic.probing.steps_needed(Z[:2], y[:2], 0.01)  # the best loss is 0: relative to the first
    assert exact == pytest.approx(np.log(50) / 2e-16, rel=1e-6)
    assert ic.probing.steps_needed(Z[:2], y[:2], 0.0) is None
    assert ic.probing.steps_needed([[1.0], [0.0]], [0.0, 1.0], 0.01) == 0
    with pytest.raises(ValueError, match="steps must be at least 0"):
        ic.probing.loss_curve(Z, y, [-1])
    with pytest.raises(ValueError, match="steps must be finite"):
        ic.probing.loss_curve(Z, y, [np.nan])
    with pytest.raises(ValueError, match="tolerance"):
        ic.probing.steps_needed(Z, y, -1)


# ---- before and after ----


def immunized(kappa_P: float = 100.0):
    rng = np.random.default_rng(0)
    X_P, X_H = rng.normal(size=(2, 300, 8)) * [[np.geomspace(20, 1, 8)], [np.ones(8)]]
    y = X_H @ rng.normal(size=8) + rng.normal(size=300)
    return X_H, X_H @ ic.linear.optimal_extractor(X_P=X_P, X_H=X_H, kappa_P=kappa_P), y


def test_compare_tells_what_each_attacker_still_needs():
    before, after, y = immunized()
    compared = ic.probing.compare(before, after, y, steps=3000)
    assert tuple(compared.efforts) == tuple(ic.probing.METHODS)
    for name, (one, other) in compared.efforts.items():
        trace = ic.probing.probe(before, y, method=name, steps=3000, tolerance=0.01)
        if name != "adam":
            assert one.steps == trace.steps_to(0.01) == one.taken
        assert one.above <= 0.01
        if name in ("whitening", "lstsq", "lstsq-float32"):
            assert (one.steps, other.steps) == (1, 1)
        else:
            assert (other.steps or 3001) > 2 * one.steps
    assert compared.efforts["gd"][1].steps is None
    assert compared.efforts["gd"][1].taken == 3000
    constant = compared.efforts["gd-constant"]
    assert constant[0].predicted == constant[0].steps
    assert constant[1].predicted == ic.probing.steps_needed(after, y, 0.01) > 3000
    assert compared.kappa[1] > 1e3 * compared.kappa[0]
    assert compared.slow_share[1] > compared.slow_share[0]


def test_compare_prints_a_table():
    before, after, y = immunized()
    lines = str(ic.probing.compare(before, after, y, steps=100, methods=["gd", "lstsq"])).split(
        "\n"
    )
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[-4:] == ["best", "loss", "before", "after"]
    assert "> 100" in lines[1]
    assert lines[2].split()[-2:] == ["1", "1"]
    assert "kappa" in lines[3]
    assert lines[4].endswith("%")


def test_compare_as_plain_values():
    import json

    before, after, y = immunized()
    compared = ic.probing.compare(before, after, y, steps=50, methods=["gd-constant", "cg"])
    told = json.loads(json.dumps(compared.as_dict()))
    assert told["attackers"]["gd-constant"]["after"]["steps"] is None
    assert told["attackers"]["gd-constant"]["after"]["taken"] == 50
    assert told["kappa"]["after"] == compared.kappa[1]


def test_adam_is_tuned_for_compare():
    before, after, y = immunized()
    effort = ic.probing.compare(before, after, y, methods=["adam"], steps=3000).efforts["adam"][0]
    runs = [
        ic.probing.probe(before, y, method="adam", steps=3000, lr=lr).steps_to(0.01)
        for lr in (1e-3, 1e-2, 1e-1, 1.0)
    ]
    assert effort.steps == min(run for run in runs if run is not None)


@pytest.mark.parametrize(
    ("keywords", "error", "told"),
    [
        ({"methods": ["newton"]}, ValueError, "methods must be one of 'gd', .*, and is 'newton'"),
        ({"methods": []}, ValueError, "methods must name at least one of gd, "),
        ({"methods": "gd"}, TypeError, "methods must be a sequence of names, and is 'gd'"),
        ({"methods": 3}, TypeError, "methods must be a sequence of names, and is 3"),
        ({"methods": np.eye(2)}, ValueError, "methods must be one of 'gd', .*, and is array"),
        ({"tolerance": -1.0}, ValueError, "tolerance"),
        ({"steps": 0}, ValueError, "steps"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay"),
    ],
)
def test_compare_names_bad_input(keywords, error, told):
    with pytest.raises(error, match=told):
        ic.probing.compare(np.eye(2), np.eye(2), [1, 2], **keywords)


def test_compare_names_bad_features():
    eye, nan = np.eye(2), np.full((2, 2), np.nan)
    for before, after, told in (
        (eye, np.eye(3), "y must have one row a sample, 3 as after"),
        (nan, eye, "before must be finite"),
        (eye, nan, "after must be finite"),
    ):
        with pytest.raises(ValueError, match=told):
            ic.probing.compare(before, after, [1, 2])
    for before, after, told in ((0 * eye, eye, "before is zero"), (eye, 0 * eye, "after is zero")):
        with pytest.raises(ValueError, match=told):
            ic.probing.compare(before, after, [1, 2])
    with pytest.raises(OverflowError, match=r"beside after, .*: scale after up"):
        ic.probing.compare(eye, 1e-200 * eye, [1, 2], weight_decay=1.0)


@given(seeds, st.sampled_from([1e-6, 1e-2, 1.0]))
def test_weight_decay_caps_kappa(seed, mu):
    Z, y = random_problem(seed, 6, 4, 1)
    top = np.linalg.svd(Z, compute_uv=False)[0] ** 2
    assert ic.probing.probe(Z, y, weight_decay=mu).kappa <= (top + mu) / mu * (1 + 1e-12)


@pytest.mark.parametrize("scale", [1e-200, 1e-100, 1e100, 1e200])
@pytest.mark.parametrize("method", sorted(set(ic.probing.METHODS) - {"lstsq-float32"}))
def test_scale_of_the_features_never_matters(method, scale):
    Z, y = random_problem(1, 12, 4, 2)
    plain, scaled = (ic.probing.probe(A, y, method=method, steps=9) for A in (Z, Z * scale))
    shared = min(plain.loss.size, scaled.loss.size)  # once there, rounding decides when to stop
    np.testing.assert_allclose(scaled.loss[:shared], plain.loss[:shared], rtol=1e-9)
    np.testing.assert_allclose(
        scaled.norm_ratio[:shared], plain.norm_ratio[:shared], rtol=1e-6, atol=1e-12
    )
    assert scaled.kappa == pytest.approx(plain.kappa, rel=1e-9)


def test_scale_of_the_targets():
    Z, y = random_problem(1, 12, 4, 1)
    plain, scaled = (ic.probing.probe(Z, t, steps=9) for t in (y, y * 1e100))
    np.testing.assert_allclose(scaled.loss, plain.loss * 1e200, rtol=1e-9)
    with pytest.raises(OverflowError, match="scale y"):
        ic.probing.probe(Z, y * 1e200)


@pytest.mark.parametrize("scale", [1e-161, 1e-170])
def test_targets_whose_squares_underflow(scale):
    Z, y = random_problem(1, 12, 4, 1)
    plain, tiny = (ic.probing.probe(Z, t, steps=500) for t in (y, y * scale))
    np.testing.assert_allclose(tiny.above, plain.above, rtol=1e-6, atol=1e-12)
    assert tiny.steps_to(0.01) == plain.steps_to(0.01) > 1
    compared = ic.probing.compare(Z, Z, y * scale, methods=["gd"])
    assert compared.efforts["gd"][0].steps == plain.steps_to(0.01)


def test_above_keeps_the_digits_that_the_loss_has_not():
    Z, y = np.diag([1.0, 0.5])[[0, 1, 1]], np.array([1e-9, 0.0, 1.0])
    y[1] = -y[2]  # the features see only y_0
    trace = ic.probing.probe(Z, y, method="gd-constant", lr=0.5, steps=10)
    expected = 1e-18 * 0.25 ** np.arange(11) / 2.0
    np.testing.assert_allclose(trace.above, expected, rtol=1e-6)
    assert ic.probing.probe(Z, np.zeros(3)).above.tolist() == [0.0]


@pytest.mark.parametrize("N", [3, 6])
@pytest.mark.parametrize("scale", [1.0, 1e-165])
def test_targets_that_the_features_fit_exactly(N, scale):
    Z, y = random_problem(0, N, 6, 2)
    exact = ic.probing.probe(Z, y * scale, method="lstsq", steps=1)
    assert exact.above[0] == pytest.approx(1.0)
    assert exact.steps_to(0.01) == 1
    compared = ic.probing.compare(Z, Z, y * scale)
    assert all(before.steps is not None for before, _ in compared.efforts.values())
    trace = ic.probing.probe(Z, y, steps=2000)
    reached = trace.steps_to(0.01)
    assert trace.loss[reached] <= 0.01 * np.sum(y**2) < trace.loss[reached - 1]
    constant = ic.probing.probe(Z, y, method="gd-constant", steps=100_000, tolerance=0.01)
    assert ic.probing.steps_needed(Z, y, 0.01) == constant.steps_to(0.01)


def test_condition_numbers_near_the_end_of_the_range():
    trace = ic.probing.probe(np.diag([1.0, 1e-60]), [0.0, 1.0], rank=2)
    assert trace.kappa == pytest.approx(1e120)
    assert trace.above.tolist() == [pytest.approx(1.0), 0.0]  # one direction takes one step
    with pytest.raises(OverflowError, match=r"span a factor of 1e\+160"):
        ic.probing.probe(np.diag([1.0, 1e-160]), [1.0, 1.0], rank=2)


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
        (np.diag([1, 0]), [1, 2], {"rank": 2}, ValueError, "rank is given as 2, .* at most 1"),
        (np.eye(2), [1, 2], {"lr": 1.0}, TypeError, "lr is for gd-constant and adam, gd has no"),
        (np.eye(2), [1, 2], {"method": "cg", "lr": 1.0}, TypeError, "cg has no use"),
        (np.eye(2), [1, 2], {"method": "adam", "lr": 0.0}, ValueError, "lr must be above 0"),
        (np.eye(2), [1, 2], {"method": "adam", "lr": np.nan}, ValueError, "lr must be"),
        (
            np.eye(2),
            [1, 2],
            {"method": "gd-constant", "lr": 2},
            ValueError,
            "below 2, where it div",
        ),
    ],
)
def test_bad_input_is_named(Z, y, keywords, error, message):
    with pytest.raises(error, match=message):
        ic.probing.probe(Z, y, **keywords)


def test_closed_forms_refuse_a_rank_that_features_have_not():
    for ask in (ic.probing.loss_curve, ic.probing.steps_needed):
        with pytest.raises(ValueError, match="rank is given as 2, and Z has at most 1"):
            ask(np.diag([1.0, 0.0]), [1.0, 2.0], [1] if ask is ic.probing.loss_curve else 1, rank=2)


@pytest.mark.parametrize("method", ["gd", "gd-constant", "cg"])
def test_more_steps_than_an_integer_of_the_machine_end_where_they_are_told_to(method):
    Z, y = np.diag([1.0, 0.1]), np.array([1.0, 0.1])
    few, many = (
        ic.probing.probe(Z, y, method=method, steps=steps, tolerance=1e-3)
        for steps in (10**4, 10**30)
    )
    np.testing.assert_array_equal(many.loss, few.loss)


def test_inputs_stay_as_they_are():
    Z, y = random_problem(0, 6, 3, 2)
    before = Z.copy(), y.copy()
    for array in (Z, y):
        array.flags.writeable = False
    for method in ic.probing.METHODS:
        ic.probing.probe(Z[::-1], y[::-1], method=method, steps=3)
    np.testing.assert_array_equal(Z, before[0])
    np.testing.assert_array_equal(y, before[1])


@pytest.mark.parametrize("method", sorted(ic.probing.METHODS))
@pytest.mark.parametrize("decay", [1e10, 1e110, 1e200, 1e300])
def test_any_weight_decay(method, decay):
    Z, y = random_problem(0, 8, 3, 2)
    trace = ic.probing.probe(Z, y, method=method, weight_decay=decay, steps=5)
    assert trace.norm_ratio[0] == 1.0
    # QR of [Z; sqrt(mu) I] rounds at the size of y: its tiny head keeps no digit in the end. Adam
    # steps along signs.
    if method not in ("lstsq", "lstsq-float32", "adam"):
        assert trace.norm_ratio[-1] < 1e-15
    np.testing.assert_allclose(trace.loss, np.sum(y**2), rtol=1e-7)
    assert trace.kappa == pytest.approx(1.0, rel=1e-6)


def test_weight_decay_beyond_the_float_range_beside_the_features():
    with pytest.raises(OverflowError, match="weight_decay = 1e"):
        ic.probing.probe(np.eye(2) * 1e-200, [1, 2], weight_decay=1e10)
