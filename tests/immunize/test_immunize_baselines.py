"""Each baseline's step against derivatives of its objective as it is written down."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import immucond as ic
from immucond.immunize._problem import Batches

# Settings here are for what is tested, and do not immunize.
pytestmark = pytest.mark.filterwarnings("ignore:the harmful task got easier")

seeds = st.integers(0, 2**32 - 1)
D, M = 4, 3


def tasks(seed, c=None):
    rng = np.random.default_rng(seed)
    X_P, X_H = rng.normal(size=(7, D)) * [4, 3, 2, 1], rng.normal(size=(8, D))
    shape = (D,) if c is None else (D, c)
    y_P, y_H = X_P @ rng.normal(size=shape), X_H @ rng.normal(size=shape)
    theta = rng.normal(size=(D, M))
    return X_P, y_P, X_H, y_H, theta, rng.normal(size=(M, *shape[1:])), rng


def kappa(X, theta):
    values = sorted(mpmath.eigsy(theta.T * X.T * X * theta, eigvals_only=True))
    return values[-1] / values[0]


def r_ill(X, theta):
    values = sorted(mpmath.eigsy(theta.T * X.T * X * theta, eigvals_only=True))
    k = len(values)
    return 1 / (sum(v**2 for v in values) / (2 * k) - values[0] ** 2 / 2)


def squared(X, y, theta, omega):
    residual = X * theta * omega - y
    return sum(r**2 for r in residual) / len(residual)


def logistic(X, y, theta, omega):
    f = X * theta * omega
    return sum(mpmath.log(1 + mpmath.exp(-s * v)) for s, v in zip(y, f, strict=True)) / len(f)


LOSSES = {"squared": squared, "logistic": logistic}


def matrices(*arrays):
    return [mpmath.matrix(np.reshape(a, (a.shape[0], -1)).tolist()) for a in arrays]


def slope(objective, x, direction):
    """Derivative of a function of a matrix along a direction, to 25 digits or so."""
    with mpmath.workdps(40):
        X, E = matrices(x, direction)
        h = mpmath.mpf(10) ** -12
        return float((objective(X + h * E) - objective(X - h * E)) / (2 * h))


def moved(method, *data, lr=1e-6, **keywords):
    """Gradients by theta and omega: one step, undone."""
    result = method(*data, lr=lr, steps=1, **keywords)
    return (keywords["theta"] - result.theta) / lr, (keywords["omega"] - result.omega) / lr


@given(seeds, st.sampled_from(["squared", "logistic"]))
def test_opt_kappa_descends_on_its_objective(seed, loss):
    X_P, y_P, X_H, _, theta, omega, rng = tasks(seed)
    y_P = np.sign(y_P) if loss == "logistic" else y_P
    by_theta, by_omega = moved(
        ic.immunize.opt_kappa, X_P, y_P, X_H, loss=loss, lambda_P=0.3, lambda_H=0.2, theta=theta,
        omega=omega,
    )  # fmt: skip
    P, H, y, w, t = matrices(X_P, X_H, y_P, omega, theta)
    along = rng.normal(size=(D, M))
    truth = slope(
        lambda t: LOSSES[loss](P, y, t, w) + 0.3 * kappa(P, t) - 0.2 * kappa(H, t), theta, along
    )
    scale = np.linalg.norm(by_theta) * np.linalg.norm(along)
    assert np.vdot(by_theta, along) == pytest.approx(truth, abs=1e-5 * scale)
    truth = slope(lambda w: LOSSES[loss](P, y, t, w), omega, omega)
    assert np.vdot(by_omega, omega) == pytest.approx(truth, rel=1e-5, abs=1e-7)


@given(seeds)
def test_r_ill_only_descends_on_r_ill_and_leaves_the_loss_to_the_head(seed):
    X_P, y_P, X_H, _, theta, omega, rng = tasks(seed)
    by_theta, by_omega = moved(
        ic.immunize.r_ill_only, X_P, y_P, X_H, lambda_H=3.0, lr=1e-3, theta=theta, omega=omega
    )
    H, P, y, t = matrices(X_H, X_P, y_P, theta)
    along = rng.normal(size=(D, M))
    truth = slope(lambda t: 3 * r_ill(H, t), theta, along)
    scale = np.linalg.norm(by_theta) * np.linalg.norm(along)
    assert np.vdot(by_theta, along) == pytest.approx(truth, abs=1e-6 * scale + 1e-10)
    truth = slope(lambda w: squared(P, y, t, w), omega, omega)
    assert np.vdot(by_omega, omega) == pytest.approx(truth, rel=1e-6, abs=1e-9)


@given(seeds, st.sampled_from(["squared", "logistic"]), st.integers(1, 4))
def test_imma_differentiates_through_the_inner_steps(seed, loss, inner_steps):
    X_P, y_P, X_H, y_H, theta, omega, rng = tasks(seed)
    if loss == "logistic":
        y_P, y_H = np.sign(y_P), np.sign(y_H)
    a = 0.01
    by_theta, by_omega = moved(
        ic.immunize.imma, X_P, y_P, X_H, y_H, loss=loss, lambda_H=0.7, inner_lr=a,
        inner_steps=inner_steps, theta=theta, omega=omega,
    )  # fmt: skip
    P, H, y, yh, w, t = matrices(X_P, X_H, y_P, y_H, omega, theta)

    def slope_by_head(t, w):
        f = H * t * w
        if loss == "squared":
            by_f = [2 * (v - s) / len(f) for v, s in zip(f, yh, strict=True)]
        else:
            by_f = [-s / (1 + mpmath.exp(s * v)) / len(f) for v, s in zip(f, yh, strict=True)]
        return t.T * H.T * mpmath.matrix(by_f)

    def objective(t):
        w_t = mpmath.zeros(M, 1)
        for _ in range(inner_steps):
            w_t = w_t - mpmath.mpf(a) * slope_by_head(t, w_t)
        return LOSSES[loss](P, y, t, w) - mpmath.mpf(0.7) * LOSSES[loss](H, yh, t, w_t)

    along = rng.normal(size=(D, M))
    truth = slope(objective, theta, along)
    scale = np.linalg.norm(by_theta) * np.linalg.norm(along)
    assert np.vdot(by_theta, along) == pytest.approx(truth, abs=1e-6 * scale + 1e-8)
    truth = slope(lambda w: LOSSES[loss](P, y, t, w), omega, omega)
    assert np.vdot(by_omega, omega) == pytest.approx(truth, rel=1e-5, abs=1e-7)


def test_imma_raises_the_loss_that_the_attacker_reaches():
    X_P, y_P, X_H, y_H, *_ = tasks(3, c=2)
    result = ic.immunize.imma(X_P, y_P, X_H, y_H, lr=0.002, steps=40, inner_steps=5)
    history = result.history
    assert history["adapted_loss"][-1] > history["adapted_loss"][0]
    assert result.omega.shape == (D, 2)
    # By default 1 / L of the harmful loss at the identity.
    expected = y_H.size / (2 * np.linalg.norm(X_H, 2) ** 2)
    assert result.parameters["inner_lr"] == pytest.approx(expected)


def test_imma_in_batches_adapts_to_the_batch():
    X_P, y_P, X_H, y_H, *_ = tasks(1)
    result = ic.immunize.imma(X_P, y_P, X_H, y_H, lr=0.01, steps=1, inner_lr=0.01, batch_size=4)
    X, y = X_H[Batches(8, 4, 0, 1)(0)], y_H[Batches(8, 4, 0, 1)(0)]
    w = 0.01 * X.T @ (2 * y / 4)
    assert result.history["adapted_loss"][0] == pytest.approx(np.mean((X @ w - y) ** 2))
    assert result.history["rir"][0] == pytest.approx(1.0)


def adam(gradients, lr):
    """Sum of Adam's steps, as its paper writes them."""
    m = v = total = 0.0
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        total = total - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        yield total


@pytest.mark.parametrize("name", ["algorithm1", "r_ill_only", "opt_kappa", "imma"])
def test_adam_takes_the_same_gradients(name):
    X_P, y_P, X_H, y_H, theta, omega, _ = tasks(6)
    data = (X_P, y_P, X_H, y_H) if name == "imma" else (X_P, y_P, X_H)
    keywords = {
        "algorithm1": {"lambda_P": 1e-3, "lambda_H": 10.0},
        "r_ill_only": {"lambda_H": 10.0},
        "opt_kappa": {"lambda_P": 0.1, "lambda_H": 0.1},
        "imma": {"inner_lr": 0.01},
    }[name]
    method = getattr(ic.immunize, name)
    result = method(*data, lr=0.05, steps=6, optimizer="adam", theta=theta, omega=omega, **keywords)
    at, seen = (theta, omega), ([], [])
    for _ in range(6):
        gradients = moved(method, *data, theta=at[0], omega=at[1], **keywords)
        for one, g in zip(seen, gradients, strict=True):
            one.append(g)
        at = [
            start + list(adam(one, 0.05))[-1]
            for start, one in zip((theta, omega), seen, strict=True)
        ]
    np.testing.assert_allclose(result.theta, at[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.omega, at[1], rtol=1e-4, atol=1e-6)


def test_published_is_the_published_formulation():
    rng = np.random.default_rng(8)
    d, B, rows, seed = 6, 4, 14, 5
    X_P, X_H = rng.normal(size=(rows + 3, d)), rng.normal(size=(rows, d)) + 0.3
    y = rng.normal(size=rows + 3)
    settings_ = {"lambda_P": 0.02, "lambda_H": 30.0, "lr": 0.02, "ridge": (0.5, 0.2)}
    result = ic.immunize.published(X_P, y, X_H, batch_size=B, epochs=2, seed=seed, **settings_)
    start = np.random.default_rng(seed)
    reach = d**-0.5
    W = start.uniform(-reach, reach, size=(d + 1, d))
    w = start.normal(size=(d, 1))[:, 0]
    theta, omega, seen = [W], [w], ([], [])
    batches = Batches(rows, B, seed, 0)
    moves = [None, None]
    for t in range(6):
        index, (W, w) = batches(t), (theta[-1], omega[-1])
        A_P, A_H = (np.hstack([X[index], np.ones((B, 1))]) for X in (X_P, X_H))
        residual = A_P @ W @ w - y[index]
        by_W = np.outer(A_P.T @ residual, w) * 2 / B
        for A, ill, weight, ridge in (
            (A_P, False, settings_["lambda_P"], settings_["ridge"][0]),
            (A_H, True, settings_["lambda_H"], settings_["ridge"][1]),
        ):
            Z = A @ W
            H = Z.T @ Z
            values, vectors = np.linalg.eigh(H)
            if ill:  # rank 4 of 6: the smallest eigenvalue's share is nothing
                G = -H / d / (np.sum(values**2) / (2 * d)) ** 2
            else:
                G = values[-1] * np.outer(vectors[:, -1], vectors[:, -1]) - H / d
            by_Z = 2 * Z @ G
            K = A[:, :-1].T @ A[:, :-1]
            by_weights = A[:, :-1].T @ by_Z @ np.linalg.inv(K + ridge * np.eye(d))
            by_W = by_W + weight * np.vstack([by_weights, by_Z.sum(axis=0)])
        for which, g in ((0, by_W), (1, (A_P @ W).T @ residual * 2 / B)):
            seen[which].append(g)
            moves[which] = list(adam(seen[which], settings_["lr"]))[-1]
        theta.append(theta[0] + moves[0])
        omega.append(omega[0] + moves[1])
    np.testing.assert_allclose(result.theta, theta[-1][:-1], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(result.bias, theta[-1][-1], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(result.omega, omega[-1], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(result.features(X_P), X_P @ result.theta + result.bias)
    # The report goes by the features with their bias, relative to the inputs as they are.
    for X, kappa_of, reference in (
        (X_P[:rows], result.report.kappa_P, result.report.kappa_P_reference),
        (X_H, result.report.kappa_H, result.report.kappa_H_reference),
    ):
        assert kappa_of == pytest.approx(np.linalg.cond(result.features(X)) ** 2)
        assert reference == pytest.approx(np.linalg.cond(X) ** 2)
    ridged = result.measure(X_P[:rows], X_H, ridge=0.1)
    H = result.features(X_P[:rows])
    H = H.T @ H
    assert ridged.kappa_P == pytest.approx(np.linalg.cond(H + 0.1 * np.eye(d)))


def test_published_r_ill_at_equal_eigenvalues():
    from immucond.immunize._published import _ill_of

    with pytest.raises(ic.DegenerateSpectrumError, match="all 3 eigenvalues are equal"):
        _ill_of(3)(2.0 * np.eye(3))
    H = np.diag([1.0, 1.0, 1.0 - 1e-7])  # F / (2 d) - sigma_d^2 / 2, of which no digit may cancel
    smallest = H[2, 2]
    exact = 6.0 / float(2 * (1 - Fraction(smallest) ** 2))
    assert _ill_of(3)(H) == pytest.approx(exact, rel=1e-14)


def test_published_counts_the_smallest_eigenvalue_where_there_is_one():
    rng = np.random.default_rng(2)
    X_P, X_H = rng.normal(size=(40, 3)), rng.normal(size=(40, 3)) * [3, 2, 1]
    result = ic.immunize.published(X_P, X_P.sum(axis=1), X_H, batch_size=20, epochs=1, seed=1)
    start = np.random.default_rng(1).uniform(-(3**-0.5), 3**-0.5, size=(4, 3))
    index = Batches(40, 20, 1, 0)(0)
    Z = np.hstack([X_H[index], np.ones((20, 1))]) @ start
    values = np.linalg.eigvalsh(Z.T @ Z)
    assert result.history["r_ill"][0] == pytest.approx(
        1 / (np.sum(values**2) / 6 - values[0] ** 2 / 2), rel=1e-9
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda d: ic.immunize.r_ill_only(*d[:3], lambda_H=-1, lr=1, steps=1), ValueError,
         "lambda_H"),
        (lambda d: ic.immunize.opt_kappa(*d[:3], lambda_P=np.nan, lr=1, steps=1), ValueError,
         "lambda_P"),
        (lambda d: ic.immunize.opt_kappa(*d[:3], lr=1e9, steps=5), ic.ImmucondError,
         r"opt_kappa diverged at step \d+.*lower lr \(given 1e\+09\), lambda_P"),
        (lambda d: ic.immunize.imma(*d[:3], d[3][:-1], lr=1, steps=1), ValueError,
         "y_H must have one row a sample, 8 as X_H"),
        (lambda d: ic.immunize.imma(*d[:3], None, lr=1, steps=1), TypeError, "y_H is None"),
        (lambda d: ic.immunize.imma(*d[:4], lr=1, steps=1, inner_steps=0), ValueError,
         "inner_steps must be at least 1"),
        (lambda d: ic.immunize.imma(*d[:4], lr=1, steps=1, inner_lr=-1), ValueError, "inner_lr"),
        (lambda d: ic.immunize.imma(*d[:4], lr=1e9, steps=9), ic.ImmucondError,
         r"imma diverged at step \d+.*lower lr"),
        (lambda d: ic.immunize.published(*d[:3]), ValueError,
         "batch_size must be at most 7, the number of rows that both tasks have, and is 64"),
        (lambda d: ic.immunize.published(*d[:3], batch_size=4, ridge=1.0), ValueError,
         "ridge must be"),
        (lambda d: ic.immunize.published(*d[:3], batch_size=4, ridge=(1, 0)), ValueError,
         "ridge must be a pair of numbers above 0"),
        (lambda d: ic.immunize.published(*d[:3], batch_size=4, loss="softmax"), ValueError,
         "loss must be one of 'squared', 'logistic'"),
        (lambda d: ic.immunize.published(*d[:3], batch_size=4, epochs=-1), ValueError, "epochs"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(tasks(0))
