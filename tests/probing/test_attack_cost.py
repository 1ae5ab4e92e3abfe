"""Attack cost: no bound is broken, and bounds meet where the products tell all."""

import math

import matrices as mx
import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
from hypothesis import given
from hypothesis import strategies as st

import immucond as ic
from immucond.probing import attack_cost
from immucond.probing.quadrature import bidiagonalize, tridiagonalize

STEPS = [0, 1, 2, 5, 9, 30, 100, 10**4, 10**6, 10**9, 10**16]


def true_losses(s, energies, eta, steps):
    """``sum e (1 - eta s^2)^(2 t)`` with 60 digits."""
    with mpmath.workdps(60):
        x = [1 - mpmath.mpf(float(eta)) * mpmath.mpf(float(v)) ** 2 for v in s]
        pairs = list(zip(x, map(mpmath.mpf, energies), strict=True))
        return [mpmath.fsum(e * abs(v) ** (2 * int(t)) for v, e in pairs) for t in steps]


def hold(cost, s, energies, steps=STEPS):
    """Whether the true losses lie within the bounds; eta is the float that `step` gives."""
    lower, forecast, upper = cost.loss(np.array(steps, dtype=float))
    assert np.all(lower <= forecast)
    assert np.all(forecast <= upper)
    truth = true_losses(s, energies, cost.rate / cost.lambda_max, steps)
    # eta was rounded once more here than there: a relative change of 2 u, t times.
    slack = [mpmath.mpf(1) + mpmath.mpf(2) ** -50 for _ in steps]
    assert all(lo <= x * f for lo, x, f in zip(lower, truth, slack, strict=True))
    assert all(x <= up * f for x, up, f in zip(truth, upper, slack, strict=True))


@st.composite
def rotated(draw):
    """Z with exactly known singular values, and the energy of integer labels along each."""
    count = draw(st.integers(1, 24))
    sigma = mx.on_grid(draw(mx.spectra(count)))
    if draw(st.booleans()):
        sigma = sigma * (np.arange(count) % 3 > 0) if count > 1 else sigma
    Z = mx.exact_psd(sigma)
    y = np.array(draw(st.lists(st.integers(-9, 9), min_size=count, max_size=count)), dtype=float)
    return Z, sigma, y


def blocks(count):
    """Eigenvectors of `exact_psd`: Hadamard matrices, times the square root of their order."""
    W, orders, at = np.zeros((count, count)), np.zeros(count), 0
    while at < count:
        b = min(64, 1 << ((count - at).bit_length() - 1))
        W[at : at + b, at : at + b] = scipy.linalg.hadamard(b)
        orders[at : at + b] = b
        at += b
    return W, orders


@given(rotated(), st.integers(1, 30), st.sampled_from([None, 0.3, 1.2, 1.97]))
def test_no_bound_is_broken_on_rotated_features(drawn, products, rate):
    Z, sigma, y = drawn
    if not y.any() or not Z.any():
        return
    W, orders = blocks(len(y))
    seen = W.T @ y  # integers
    energies = [mpmath.mpf(float(a)) ** 2 / int(b) for a, b in zip(seen, orders, strict=True)]
    step = None if rate is None else float(rate / sigma.max() ** 2)
    hold(attack_cost(Z, y, products=products, step=step), sigma, energies)


@given(
    mx.generators, st.integers(1, 40), st.integers(1, 3), st.integers(1, 45),
    st.sampled_from(["decades", "pairs", "zeros", "powers"]), st.floats(0, 8),
)  # fmt: skip
def test_no_bound_is_broken_to_kappa_1e16(rng, m, heads, products, kind, decades):
    s = {
        "decades": lambda: 10.0 ** -np.linspace(0, decades, m),
        "pairs": lambda: (
            np.where(rng.random(m) < 0.5, 1.0, 10.0**-decades)
            * (1 + 2.0**-50 * rng.integers(-3, 3, m))
        ),
        "zeros": lambda: 10.0 ** -(decades * rng.random(m)) * (rng.random(m) < 0.7),
        "powers": lambda: 1.0 / np.arange(1, m + 1) ** (decades / 3),
    }[kind]()
    s[0] = 1.0
    y = rng.standard_normal((m, heads)) * 10.0 ** rng.uniform(-6, 0, (m, 1))
    order = rng.permutation(m)
    energies = [mpmath.fsum(mpmath.mpf(v) ** 2 for v in row) for row in y[order].tolist()]
    hold(attack_cost(np.diag(s)[order], y[order], products=products), s[order], energies)


@given(mx.generators, st.integers(1, 12), st.integers(1, 9), st.integers(1, 3))
def test_up_to_k_steps_it_is_the_measured_loss(rng, N, m, heads):
    Z, y = rng.normal(size=(N, m)), rng.normal(size=(N, heads))
    cost = attack_cost(Z, y, products=4)
    w, reached = np.zeros((m, heads)), []
    for _ in range(cost.products + 1):
        reached.append(np.sum((Z @ w - y) ** 2))
        w -= cost.step * Z.T @ (Z @ w - y)
    bounds = cost.loss(np.arange(len(reached)))
    for bound in bounds:
        np.testing.assert_allclose(bound, reached, rtol=1e-9, atol=1e-12 * reached[0])


def test_all_products_give_the_loss_curve():
    rng = np.random.default_rng(0)
    Z = mx.with_singular_values(rng, 60, 20, np.geomspace(1, 1e-3, 20))
    y = rng.normal(size=(60, 2))
    cost = attack_cost(Z, y)
    steps = np.array([0, 1, 10, 10**3, 10**5, 10**7])
    curve = ic.probing.loss_curve(Z, y, steps)
    for bound in cost.loss(steps):
        np.testing.assert_allclose(bound, curve, rtol=1e-7)
    np.testing.assert_allclose(cost.irreducible, curve[-1], rtol=1e-9)


@given(mx.generators, st.integers(3, 15), st.integers(2, 9))
def test_krylov_is_least_squares_over_the_krylov_space(rng, N, m):
    Z, y = rng.normal(size=(N, m)), rng.normal(size=N)
    cost = attack_cost(Z, y)
    vector, space = Z.T @ y, []
    for t in range(1, min(cost.products, 4) + 1):
        space.append(vector / np.linalg.norm(vector))
        vector = Z.T @ (Z @ space[-1])
        features = Z @ np.stack(space, axis=1)
        best = np.sum((features @ np.linalg.lstsq(features, y, rcond=None)[0] - y) ** 2)
        assert cost.krylov_loss(t) == pytest.approx(best, rel=1e-6, abs=1e-10 * (y @ y))
    for t in range(cost.products + 1):
        _, _, _, norm, *_ = scipy.sparse.linalg.lsqr(Z, y, atol=0, btol=0, conlim=0, iter_lim=t)
        assert cost.krylov_loss(t) <= norm**2 * (1 + 1e-8) + 1e-12 * (y @ y)


def test_momentum_and_conjugate_gradients_are_not_below_krylov():
    rng = np.random.default_rng(1)
    Z = mx.with_singular_values(rng, 80, 50, np.geomspace(1, 1e-2, 50))
    y = rng.normal(size=(80, 3))
    cost = attack_cost(Z, y, products=30)
    for method in ("gd", "nesterov", "cg", "lbfgs"):
        loss = ic.probing.probe(Z, y, method=method, steps=30).loss
        least = [cost.krylov_loss(t) for t in range(len(loss))]
        assert np.all(np.array(least) <= loss * (1 + 1e-9))
    assert cost.krylov_loss(31) == 0.0
    assert cost.krylov(1e-9) == 31
    assert cost.krylov(0.5) <= np.flatnonzero(loss <= 0.5 * loss[0])[0]


def test_one_product_is_the_bound_by_label_alignment():
    rng = np.random.default_rng(2)
    Z = mx.with_singular_values(rng, 30, 12, np.geomspace(1, 1e-2, 12))
    y = Z @ np.linalg.pinv(Z) @ rng.normal(size=30)
    seen = ic.linear.alignment(Z, y, center=False)
    t = np.array([2, 5, 10])
    lower = attack_cost(Z, y, products=1).loss(t).lower
    np.testing.assert_allclose(lower, (y @ y) * (1 - seen.rho) ** (2 * t), rtol=1e-6)


@given(mx.generators, st.floats(1e-6, 0.9))
def test_steps_bracket_the_truth(rng, eps):
    s = 10.0 ** -rng.uniform(0, 3, size=15)
    s[0] = 1.0
    y = rng.normal(size=15)
    cost = attack_cost(np.diag(s), y, products=int(rng.integers(1, 15)))
    at = cost.steps(eps)
    assert at.lower <= at.forecast <= at.upper

    def left(t):
        return np.sum(y**2 * (1 - s**2 / s.max() ** 2) ** (2 * t)) / np.sum(y**2)

    assert at.lower == 0 or left(at.lower - 1) > eps * (1 - 1e-9)
    assert at.upper == math.inf or left(at.upper) < eps * (1 + 1e-9)


def test_steps_of_the_reducible_loss():
    rng = np.random.default_rng(3)
    Z, y = np.diag([1.0, 0.1, 0.0, 0.0]), np.array([1.0, 1.0, 5.0, 5.0])
    cost = attack_cost(Z, y)
    assert cost.steps(0.5).lower == math.inf  # of 52, 50 are out of reach
    found = cost.steps(0.25, reducible=True)
    truth = math.ceil(math.log(0.5) / (2 * math.log1p(-0.01)))
    assert found == (truth, truth, truth)
    few = attack_cost(Z[rng.permutation(4)], y, products=1).steps(0.25, reducible=True)
    assert few.lower <= truth


def test_heads_add_up_and_empty_ones_cost_nothing():
    rng = np.random.default_rng(4)
    Z, y = rng.normal(size=(40, 10)), rng.normal(size=(40, 3))
    y[:, 1] = 0.0
    steps = np.array([0, 3, 50, 1000])
    whole = attack_cost(Z, y, products=5)
    parts = [attack_cost(Z, y[:, at], products=5) for at in (0, 2)]
    for side in range(3):
        total = sum(part.loss(steps)[side] for part in parts)
        np.testing.assert_allclose(whole.loss(steps)[side], total, rtol=1e-8)


def test_a_head_that_ends_early_is_exact_beside_one_that_does_not():
    rng = np.random.default_rng(5)
    s = np.geomspace(1, 1e-2, 30)
    y = np.zeros((30, 2))
    y[[3, 7], 0] = 1.0, 2.0  # two eigenvectors are all that it sees
    y[:, 1] = 1e-3 * rng.normal(size=30)
    cost = attack_cost(np.diag(s), y, products=8)
    energies = np.sum(y**2, axis=1)
    hold(cost, s, energies)
    (lower, _, upper), alone = (
        cost.loss(1e4),
        attack_cost(np.diag(s), y[:, 1], products=8).loss(1e4),
    )
    assert upper - lower <= (alone.upper - alone.lower) * (1 + 1e-9) + 1e-12


def test_scale_does_not_matter():
    rng = np.random.default_rng(6)
    Z, y = rng.normal(size=(20, 8)), rng.normal(size=20)
    plain = attack_cost(Z, y, products=3)
    for power in (-500, 500):
        scale = 2.0**power
        moved = attack_cost(Z * scale, y / scale, products=3)
        np.testing.assert_allclose(moved.loss(100).lower * scale * scale, plain.loss(100).lower)
        assert moved.steps(0.5) == plain.steps(0.5)
        assert moved.lambda_max / scale / scale == pytest.approx(plain.lambda_max)
    for name, pair in {"Z": (Z * 1e200, y), "y": (Z, y * 1e-200)}.items():
        with pytest.raises(OverflowError, match=f"^the square of {name}, "):
            attack_cost(*pair)


def test_lambda_max_is_above_the_largest_eigenvalue_even_where_labels_do_not_see_it():
    Z, y = np.diag([1.0, 0.5, 0.25]), np.array([0.0, 1.0, 1.0])
    cost = attack_cost(Z, y)
    assert 1.0 <= cost.lambda_max <= 1.0 + cost.residual + 1e-15
    assert cost.residual < 1e-13
    assert cost.loss(1).upper == pytest.approx(0.75**2 + (1 - 1 / 16) ** 2)


@given(mx.generators)
def test_bounds_hold_for_all_features_within_their_precision(rng):
    s, y = np.geomspace(1, 1e-4, 10), rng.normal(size=10)
    Z = np.diag(s)
    off = rng.normal(size=(10, 10))
    off *= 2.0**-24 / np.linalg.norm(off, 2)
    cost = attack_cost(Z + off, y, products=6, computed_in="float32")
    assert cost.backward_error > 2.0**-24
    steps = [1, 10, 100, 10**4, 10**8]
    lower, _, upper = cost.loss(np.array(steps))
    truth = true_losses(s, y**2, cost.step, steps)
    assert all(lo <= x <= up for lo, x, up in zip(lower, truth, upper, strict=True))


def test_a_known_rank_ends_the_products():
    rng = np.random.default_rng(7)
    Z = rng.normal(size=(30, 4)) @ rng.normal(size=(4, 20))
    y = rng.normal(size=30)
    cost = attack_cost(Z, y, rank=4)
    assert cost.closed
    assert cost.products == 4
    curve = ic.probing.loss_curve(Z, y, [10**6], rank=4)
    np.testing.assert_allclose(cost.loss(10**6), curve[0], rtol=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("rounded", [np.float32, np.float64])
def test_what_a_known_rank_leaves_out_breaks_no_bound(rank, rounded):
    # Features of rank 2 but for rounding: what that leaves falls too, after long.
    rng = np.random.default_rng(rank)
    Z = (rng.normal(size=(6, 2)) @ rng.normal(size=(2, 4))).astype(rounded).astype(float)
    y = rng.normal(size=6)
    cost = attack_cost(Z, y, rank=rank)
    with mpmath.workdps(60):
        K = mpmath.matrix(Z.tolist()) * mpmath.matrix(Z.T.tolist())
        values, vectors = mpmath.eigsy(K)
        energy = [x**2 for x in vectors.T * mpmath.matrix(y.tolist())]
        eta = mpmath.mpf(1) / mpmath.mpf(cost.lambda_max)
        for t in (1, 10**4, 10**8, 10**10, 10**12, 10**14, 10**16):
            truth = sum(e * (1 - eta * x) ** (2 * t) for e, x in zip(energy, values, strict=True))
            assert cost.loss(t).lower <= truth <= cost.loss(t).upper


@pytest.mark.parametrize(("apart", "left"), [(0.0, 0.0), (2.0**-40, 1 / 3)])
def test_the_krylov_minimum_hangs_on_how_near_eigenvalues_are(apart, left):
    # One part in 2^40 decides beside an eigenvalue as small: the true minima, of which no bound
    # could hold for both. So it is promised of features within backward_error, and not certified.
    s = np.sqrt([1.0, 1.0 + apart, 2.0**-40])
    cost = attack_cost(np.diag(s), np.ones(3))
    assert cost.backward_error < 1e-12
    assert cost.krylov_loss(2) == pytest.approx(left, rel=1e-3, abs=1e-20)
    assert cost.krylov_loss(3) == pytest.approx(0.0, abs=1e-12)


def test_bad_input_is_told():
    Z, y = np.eye(3), np.ones(3)
    for arguments, keywords, error, match in (
        ((Z, np.ones(4)), {}, ValueError, "y must have one row a sample, 3 as Z"),
        ((Z * np.nan, y), {}, ValueError, "Z must be finite"),
        ((Z, y * np.nan), {}, ValueError, "y must be finite"),
        ((Z * 0, y), {}, ValueError, "Z is zero"),
        ((Z, y * 0), {}, ValueError, "y is zero"),
        ((Z, y), {"products": 0}, ValueError, "products"),
        ((Z, y), {"step": 2.0}, ValueError, "step must be below 2 / lambda_max"),
        ((Z, y), {"step": 0.0}, ValueError, "step"),
        ((Z, y), {"rank": 4}, ValueError, "rank must be between 1 and 3"),
        ((np.diag([1.0, 1.0, 0.0]), y), {"rank": 3}, ValueError, "rank .* 3, and Z has at most 2"),
        ((Z, y), {"computed_in": "int4"}, TypeError, "computed_in"),
    ):
        with pytest.raises(error, match=match):
            attack_cost(*arguments, **keywords)
    cost = attack_cost(Z, y)
    for t in (-1, math.nan, math.inf, [1, -2]):
        with pytest.raises(ValueError, match="t must hold numbers of steps"):
            cost.loss(t)
    for t in ("3", b"3", ["1", "2"], 3 + 2j, None):
        with pytest.raises(TypeError, match="t must hold numbers of steps"):
            cost.loss(t)
    assert cost.loss(10**30) == cost.loss(1e30)
    for ask in (cost.steps, cost.krylov):
        with pytest.raises(ValueError, match="eps"):
            ask(1.5)
    with pytest.raises(ValueError, match="t must be"):
        cost.krylov_loss(-1)


@pytest.mark.parametrize(("decades", "least", "last"), [(0, 10, 40), (2, 275, 300), (7, 1e6, 1e6)])
def test_the_picture_ends_where_nothing_is_seen(decades, least, last):
    """A loss that is learned whole leaves the plot; one that stays is drawn to a million steps."""
    cost = attack_cost(np.diag(np.logspace(0, -decades / 2, 4)), np.ones(4), products=4)
    [line] = cost._curves().lines
    assert least <= line.x[-1] <= last
    if decades == 2:  # of 4 parts the slowest one, (1 - 0.01)^(2 t) / 4, is at 1e-3
        assert line.band[1][-1] < 1e-3 <= line.band[1][-2]


@pytest.mark.parametrize("small", [1e-100, 1e-161, 1e-163, 1e-200, 1e-320])
def test_heads_of_any_size_beside_another(small):
    """The square of the second one is nothing beside that of the first, whose loss it is."""
    rng = np.random.default_rng(0)
    Z, y = rng.normal(size=(30, 10)), rng.normal(size=30)
    steps = np.array([0, 1, 10, 1000])
    alone = attack_cost(Z, y, products=5).loss(steps)
    for both in (np.stack([y, small * y[::-1]], 1), np.stack([small * y[::-1], y], 1)):
        cost = attack_cost(Z, both, products=5)
        np.testing.assert_allclose(cost.loss(steps), alone, rtol=1e-12)
        assert math.isfinite(cost.krylov(0.5))
    head = rng.normal(size=(1, 30))
    for made in (
        lambda y: bidiagonalize(lambda v: v @ Z.T, lambda u: u @ Z, y, 4),
        lambda y: tridiagonalize(lambda u: u @ Z @ Z.T, y, 4),
    ):
        plain, scaled = made(head), made(head * 2.0**-600)
        assert np.array_equal(plain.alpha, scaled.alpha)
        assert np.array_equal(plain.beta, scaled.beta)
        assert scaled.norms == plain.norms * 2.0**-600


@pytest.mark.parametrize("decades", [1, 4, 8, 14, 16])
@pytest.mark.parametrize("N", [6, 12])
def test_the_irreducible_loss_lies_within_its_bounds(N, decades):
    rng = np.random.default_rng(0)
    Z = mx.with_singular_values(rng, N, 6, np.logspace(0, -decades, 6))
    y = np.linalg.svd(Z)[0] @ np.r_[np.ones(6), np.full(N - 6, 1e-2)]
    lower, upper = attack_cost(Z, y).irreducible
    with mpmath.workdps(60):
        A, b = mpmath.matrix(Z.tolist()), mpmath.matrix(y.tolist())
        Q, _ = mpmath.qr(A, mode="skinny")
        r = b - Q * (Q.T * b)
        least = mpmath.fsum(x * x for x in r)
        assert lower <= least <= upper
        if decades < 5:  # and they say something
            assert upper - lower < 1e-6 * least + 1e-20


def test_the_irreducible_loss_is_one_of_all_features_within_their_precision():
    rng = np.random.default_rng(1)
    Z, y = rng.normal(size=(20, 4)) * [1.0, 1.0, 1.0, 1e-4], rng.normal(size=20)
    lower, upper = attack_cost(Z, y, computed_in="float32").irreducible
    least = [
        np.linalg.lstsq(Z + off / np.linalg.norm(off, 2) * 2.0**-24, y, rcond=None)[1][0]
        for off in rng.normal(size=(50, 20, 4))
    ]
    assert lower <= min(least) < max(least) <= upper < 1.01 * lower
