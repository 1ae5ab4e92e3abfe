"""The theorems on gauges and SpecDef: false neighbours are found, formulas agree with others."""

import dataclasses
import functools

import numpy as np
import pytest
from scipy.linalg import hadamard

from immucond import theorems as th
from immucond.theorems import THEOREMS, _equivariance, _specdef

UPDATES = {**_equivariance.EQUIVARIANT, **_equivariance.OTHERS}


def cases(name: str, count: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return [THEOREMS[name].random(rng) for _ in range(count)]


def by_differences(function, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Jacobian by central differences, (outputs, x.size)."""
    columns = []
    for i in range(x.size):
        shift = np.zeros(x.size)
        shift[i] = step
        ends = (np.ravel(function(x + shift.reshape(x.shape))) for shift in (shift, -shift))
        columns.append(np.subtract(*ends) / (2 * step))
    return np.transpose(columns)


def locked(W: np.ndarray, top: int, strength: float, bits: int = 8) -> th.SpecDef:
    """Lock a matrix of one's own."""
    U, s, Vt = np.linalg.svd(W)
    return locked_of(U, s, Vt.T, top, strength, bits)


def locked_of(
    U: np.ndarray, s: np.ndarray, V: np.ndarray, top: int, strength: float, bits: int
) -> th.SpecDef:
    """Lock the matrix that has this singular value decomposition."""
    t = np.where(np.arange(s.size) < top, strength, 1.0)
    c, d = len(U), len(V)
    X = np.linalg.qr(np.random.default_rng(0).normal(size=(d + 2, d)))[0]
    return th.SpecDef(U, s, V, t, X, np.ones((d + 2, c)), 1.0, 20, bits)


# What is false beside what is true


@pytest.mark.parametrize("name", _equivariance.OTHERS)
def test_gradient_sign_and_orthogonalized_steps_see_the_gauge(name):
    true = THEOREMS["equivariant-updates"]
    verify = functools.partial(true.verify, updates={name: UPDATES[name]})
    found = th.examine(dataclasses.replace(true, verify=verify), instances=100)
    assert found.held < 10
    assert found.counterexample.verdict.claim.name.startswith(name)
    again = verify(true.instance(**found.counterexample.parameters))
    assert again == found.counterexample.verdict
    assert again.slack < -100 * again.rounding


def test_an_orthogonal_gauge_hides_from_gradient_and_orthogonalized_steps_but_not_from_signs():
    A = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    case = th.Damped(np.eye(3, 4), np.eye(4, 3), np.eye(5, 4), np.ones((5, 4)), A, 0.0, 1, 0.1)
    verdict = THEOREMS["equivariant-updates"].check(case)
    assert verdict.holds
    assert verdict.witness["gradient"] < 1e-14
    assert verdict.witness["orthogonalized"] < 1e-14
    assert verdict.witness["sign"] > 0.1


def test_damped_k_fac_sees_the_gauge():
    # Hence the claim of its own: the damping is another one in the original weights.
    for case in cases("equivariant-updates", 20):
        damping = np.eye(len(case.A)), np.eye(len(case.A))
        damped = functools.partial(_equivariance.kfac, damping=damping)
        case = dataclasses.replace(case, A=np.diag(np.arange(2.0, 2.0 + len(case.A))))
        verdict = THEOREMS["equivariant-updates"].verify(case, updates={"lambda = 1": damped})
        assert not verdict.holds
        assert verdict.claim.name.startswith("lambda = 1")


MUTATIONS = [
    # theorem, where, attribute, what to put in its place
    ("equivariant-updates", _equivariance, "gradient",
     lambda f: lambda *a: (f(*a)[0], f(*a)[1] * (1 + np.abs(a[1][1])))),
    # Gauss-Newton's effect, without the inverse.
    ("equivariant-updates", _equivariance, "_onto",
     lambda _: lambda J, residual, rank: J @ J.T @ residual.ravel()),
    ("parallel-adapter", th.Pair, "S", lambda _: property(lambda case: case.A @ case.A.T)),
    ("parallel-adapter", th.Pair, "gauged",
     lambda f: lambda case, A: (f(case, A)[0] * 1.001, f(case, A)[1])),
    ("specdef-rates", th.SpecDef, "locked", lambda f: property(
        lambda case: (f.fget(case)[0], f.fget(case)[1] * 1.001))),
    # The same function, by other powers of T.
    ("specdef-rates", th.SpecDef, "locked", lambda f: property(lambda case: f.fget(
        dataclasses.replace(case, t=case.t**1.1)))),
    # C frozen: every direction as the unlocked layer.
    ("specdef-rates", _specdef, "_descend",
     lambda f: lambda case, C, first, scale: f(case, C, first, np.ones(len(C)) if scale.ndim == 1
                                               else np.eye(len(C)))),
    ("specdef-precision", _specdef, "perturbed", lambda f: lambda case: f(
        dataclasses.replace(case, bits=case.bits - 2))),
    # Rounding costs u, whatever alpha is.
    ("specdef-precision", th.SpecDef, "strength", lambda _: property(lambda _: 1.0)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "where", "attribute", "wrong"), MUTATIONS)
def test_checks_notice_what_is_wrong(monkeypatch, name, where, attribute, wrong):
    monkeypatch.setattr(where, attribute, wrong(getattr(where, attribute)))
    assert th.examine(THEOREMS[name], instances=50).held < 50


def test_nan_is_never_passed():
    (case,) = cases("specdef-precision", 1)
    broken = dataclasses.replace(case, s=np.full_like(case.s, np.nan))
    with pytest.raises(np.linalg.LinAlgError):
        THEOREMS["specdef-rates"].check(dataclasses.replace(case, X=np.full_like(case.X, np.nan)))
    assert not THEOREMS["specdef-precision"].check(broken).holds


# Updates


def loss(case: th.Pair, W1: np.ndarray, W2: np.ndarray) -> float:
    return 0.5 * np.sum((case.X @ W1.T @ W2.T - case.Y) ** 2)


def updated(seed: int):
    (case,) = cases("equivariant-updates", 1, seed)
    return case, (case.W1, case.W2), case.X @ case.W1.T @ case.W2.T - case.Y


@pytest.mark.parametrize("seed", range(5))
def test_gradients_and_hessian_are_those_of_the_loss(seed):
    case, W, residual = updated(seed)

    def layers(theta):
        parts = np.split(theta, [W[0].size])
        return tuple(x.reshape(w.shape, order="F") for x, w in zip(parts, W, strict=True))

    def gradients(theta):
        W1, W2 = layers(theta)
        found = _equivariance.gradient(case.X, (W1, W2), case.X @ W1.T @ W2.T - case.Y)
        return np.concatenate([g.ravel(order="F") for g in found])

    theta = np.concatenate([w.ravel(order="F") for w in W])
    by_loss = by_differences(lambda x: loss(case, *layers(x)), theta)[0]
    np.testing.assert_allclose(gradients(theta), by_loss, atol=1e-8)
    hessian = _equivariance.hessian(case.X, W, residual)
    np.testing.assert_allclose(hessian, by_differences(gradients, theta), atol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_k_fac_is_gauss_newton_by_layers(seed):
    # Of linear layers under the squared loss it is exact: compare with the blocks of J^T J.
    case, W, residual = updated(seed)
    J = _equivariance.jacobian(case, np.eye(len(case.A)))
    steps = _equivariance.kfac(case.X, W, residual)
    for found, block in zip(steps, np.split(J, [case.W1.size], axis=1), strict=True):
        expected = np.linalg.lstsq(block, residual.ravel(), rcond=None)[0]
        np.testing.assert_allclose(found.ravel(order="F"), expected, atol=1e-10)


def test_at_kappa_1e4_k_fac_keeps_its_effect_and_the_others_do_not():
    rng = np.random.default_rng(0)
    h, d, c, n = 8, 10, 9, 12
    A = np.linalg.qr(rng.normal(size=(h, h)))[0] * np.geomspace(100.0, 0.01, h)
    W1, W2, X, Y = (rng.normal(size=shape) for shape in ((h, d), (c, h), (n, d), (n, c)))
    case = th.Damped(W1, W2, X, Y, A, 0.0, 1, 1e-3)
    verdict = THEOREMS["equivariant-updates"].check(case)
    assert verdict.holds
    assert verdict.witness["kappa_A"] == pytest.approx(1e4)
    assert _equivariance._change(case, _equivariance.kfac) < 1e-6
    assert verdict.witness["gradient"] > 100.0
    assert min(verdict.witness["sign"], verdict.witness["orthogonalized"]) > 5.0


# Adapters


@pytest.mark.parametrize("seed", range(5))
def test_kernels_of_adapters_are_those_of_the_network(seed):
    (case,) = cases("parallel-adapter", 1, seed)
    pair, A = case.pair, case.pair.A
    W1, W2 = pair.gauged(A)

    def kernel_of(block, P, Q):
        """By differences of the network around a block with an adapter."""

        def outputs(P, Q):
            return np.tanh(pair.X @ block(Q @ P).T) @ case.last.T

        one, two = (lambda x: outputs(x, Q)), (lambda x: outputs(P, x))
        J = np.hstack([by_differences(one, P), by_differences(two, Q)])
        return J @ J.T

    found = _equivariance.kernel(case.slope(A, case.P, case.Q), pair.X, case.P, case.Q)
    expected = kernel_of(lambda QP: W2 @ W1 + QP, case.P, case.Q)
    np.testing.assert_allclose(found, expected, atol=1e-7 * np.abs(found).max())
    # LoRA within the first layer, at its start.
    start, none = np.zeros((len(A), len(case.P))), np.zeros_like(case.Q)
    found = _equivariance.kernel(case.slope(A, case.P, none) @ W2, pair.X, case.P, start)
    expected = kernel_of(lambda QP: W2 @ (W1 + QP), case.P, start)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(found).max())


def test_adapters_within_the_block_see_the_lock():
    changes = [
        THEOREMS["parallel-adapter"].check(case).witness["change_within"]
        for case in cases("parallel-adapter", 50)
    ]
    assert np.median(changes) > 0.5


# SpecDef


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3)])
@pytest.mark.parametrize("top", [1, 2, 3])
def test_each_direction_moves_at_its_rate(shape, top):
    # By the layers' own gradients; the difference of two opposite steps has no second order.
    case = locked(np.random.default_rng(1).normal(size=shape), top, 30.0)
    C, first = case.locked
    (c, d), r = shape, case.s.size
    t_rows = np.append(1.0 / case.t**2, np.zeros(c - r))
    ts = np.append(case.t * case.s, np.zeros(d - r))
    for i in range(c):
        for j in range(d):
            G = np.outer(case.U[:, i], case.V[:, j])

            def after(eta, G=G):
                return (C - eta * G @ first.T) @ (first - eta * C.T @ G)

            moved = (after(-0.5) - after(0.5)) / (t_rows[i] + ts[j] ** 2)
            np.testing.assert_allclose(moved, G, atol=1e-9)


def test_few_top_values_are_stiff_and_all_of_them_are_not():
    W = np.diag(np.geomspace(10.0, 1.0, 24))
    few, more, every = (
        THEOREMS["specdef-rates"].check(locked(W, top, alpha)).witness["kappa"]
        for top, alpha in ((1, 1e3), (1, 1e4), (24, 1e4))
    )
    assert few == pytest.approx((1.0 + 1e8) / (1e-6 + 1.0), rel=1e-9)
    assert more == pytest.approx(100 * few, rel=1e-3)
    assert every == pytest.approx(100.0)  # that of W, squared


def test_a_frozen_inserted_layer_leaves_the_rows_of_a_layer_that_widens_where_they_were():
    # C has the rank of W: outputs outside its range, here 2 of 5, are out of reach until it trains.
    case = locked(np.random.default_rng(2).normal(size=(5, 3)), 1, 100.0)
    C, first = case.locked
    products = _specdef._descend(case, C, first, np.eye(5))
    assert np.abs(case.U[:, 3:].T @ products).max() < 1e-12
    assert np.abs(case.U[:, 1:3].T @ (products[-1] - products[0])).max() > 0.1
    assert THEOREMS["specdef-rates"].check(case).holds


# Rounding


def bfloat16(x: np.ndarray) -> np.ndarray:
    """Upper halves of float32, rounded to even."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return bits.astype(np.uint32).view(np.float32).astype(float)


@pytest.mark.parametrize(
    ("bits", "convert"),
    [
        (8, bfloat16),
        (11, lambda x: x.astype(np.float16).astype(float)),
        (24, lambda x: x.astype(np.float32).astype(float)),
    ],
)
def test_stored_is_what_the_formats_store(bits, convert):
    x = np.random.default_rng(0).normal(size=4000).astype(np.float32).astype(float)
    x = x[np.abs(x) > 1e-3]
    x = np.r_[x, 0.0, -1.0, 1.0 + 2.0**-bits, 1.0 + 3 * 2.0**-bits]  # and ties
    found = _specdef.stored(x, bits)
    np.testing.assert_array_equal(found, convert(x))
    assert np.all(np.abs(found - x) <= 2.0**-bits * np.abs(x))


def test_the_bound_is_sharp():
    # One direction locked, its singular vectors flat: nothing below 3 u alpha holds for all.
    H = hadamard(256) / 16.0
    case = locked_of(H, np.r_[1.0, np.full(255, 1e-6)], H, 1, 1e3, bits=16)
    witness = THEOREMS["specdef-precision"].check(case).witness
    assert 2.97 < witness["worst"] / (witness["u"] * 1e3) <= 3.0 + 2 * witness["u"]


@pytest.mark.parametrize("bits", [8, 11, 24])
@pytest.mark.parametrize("top", [1, 2, 8])
def test_rounding_to_nearest_costs_half_u_alpha_times_the_root_of_the_share(bits, top):
    W = np.random.default_rng(0).normal(size=(128, 192))
    case = locked(W, top, 300.0, bits)
    verdict = THEOREMS["specdef-precision"].check(case)
    share = np.sum(case.s[:top] ** 2) / np.sum(case.s**2)
    assert verdict.holds
    assert verdict.witness["error_in_u_alpha"] == pytest.approx(0.5 * share**0.5, rel=0.15)


def test_all_values_locked_alike_cost_no_more_than_rounding():
    case = locked(np.random.default_rng(0).normal(size=(16, 16)), 16, 1e3)
    assert THEOREMS["specdef-precision"].check(case).witness["nearest"] < 2.0**-8
