"""Label alignment in Algorithm 1's driver: exact gradients, descent, and clear refusals."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import immucond as ic

seeds = st.integers(0, 2**32 - 1)
D, M = 4, 3


def tasks(seed=0, rows=40, classes=3):
    rng = np.random.default_rng(seed)
    X_P, X_H = rng.normal(size=(2, rows, D)) * [4, 3, 2, 1] + 0.5
    labels = (X_H @ rng.normal(size=(D, classes)) / [1, 1.5, 2][:classes]).argmax(1)
    labels[:classes] = np.arange(classes)
    return X_P, X_P @ rng.normal(size=D), X_H, labels


def matrix(a):
    return mpmath.matrix(np.reshape(a, (a.shape[0], -1)).tolist())


def log_rho(X, Y, theta):
    """Log of ``||Z^T Y||^2 / (sigma_1 ||Y||^2)`` for centred X and Y."""
    Z = X * theta
    top = max(mpmath.eigsy(Z.T * Z, eigvals_only=True))
    b = Z.T * Y
    return mpmath.log(sum(v**2 for v in b) / (top * sum(v**2 for v in Y)))


def slope(function, x, direction):
    """Derivative along a direction, to 25 digits or so."""
    with mpmath.workdps(40):
        X, E, h = matrix(x), matrix(direction), mpmath.mpf(10) ** -12
        return float((function(X + h * E) - function(X - h * E)) / (2 * h))


def moved(*data, lr=1e-6, **keywords):
    """Gradients by theta and omega: one step, undone."""
    result = ic.immunize.alignment(*data, lr=lr, steps=1, **keywords)
    return (keywords["theta"] - result.theta) / lr, (keywords["omega"] - result.omega) / lr


def centred(A):
    """Exactly so in 40 digits: the mean of float64 rows is not."""
    with mpmath.workdps(40):
        A = matrix(A)
        means = [sum(A[:, j]) / A.rows for j in range(A.cols)]
        return mpmath.matrix([[A[i, j] - means[j] for j in range(A.cols)] for i in range(A.rows)])


@given(seeds, st.sampled_from([None, "projected", "ridge"]))
def test_the_step_is_the_gradient_of_the_objective(seed, preconditioner):
    rng = np.random.default_rng(seed)
    X_P, y_P, X_H, labels = tasks(seed, rows=9)
    theta, omega, along = rng.normal(size=(D, M)), rng.normal(size=M), rng.normal(size=(D, M))
    keywords = {"theta": theta, "omega": omega, "preconditioner": preconditioner, "ridge": 0.7}
    X, Y = centred(X_H), centred(np.eye(3)[labels])
    by_theta, by_omega = moved(X_P, y_P, X_H, labels, lambda_H=0.3, **keywords)
    plain, _ = moved(X_P, y_P, X_H, labels, lambda_H=0.0, **keywords)
    # The preconditioner is on the left of the harmful part: undone, the gradient is left.
    harmful = by_theta - plain
    centre = X_H - X_H.mean(0)
    if preconditioner is not None:
        K = centre.T @ centre + (0.7 if preconditioner == "ridge" else 0.0) * np.eye(D)
        harmful = K @ harmful
    truth = slope(lambda t: 0.3 * log_rho(X, Y, t), theta, along)
    scale = np.linalg.norm(harmful) * np.linalg.norm(along)
    size = 1.0 if preconditioner is None else np.linalg.norm(centre, 2) ** 2
    assert np.vdot(harmful, along) == pytest.approx(truth, abs=1e-6 * scale + 1e-8 * size)

    def loss(t, w):
        residual = X_P @ t @ w - y_P
        return residual @ residual / len(y_P)

    h = 1e-5
    truth = (loss(theta + h * along, omega) - loss(theta - h * along, omega)) / (2 * h)
    assert np.vdot(plain, along) == pytest.approx(truth, rel=1e-4, abs=1e-4)
    truth = (loss(theta, omega * (1 + h)) - loss(theta, omega * (1 - h))) / (2 * h)
    assert np.vdot(by_omega, omega) == pytest.approx(truth, rel=1e-4, abs=1e-4)


@given(seeds, st.sampled_from(["squared", "logistic"]), st.sampled_from([None, "gradient-norm"]))
def test_the_objective_falls_at_small_steps(seed, loss, balance):
    X_P, y_P, X_H, labels = tasks(seed)
    y_P = np.sign(y_P) if loss == "logistic" else y_P
    result = ic.immunize.alignment(
        X_P, y_P, X_H, labels, loss=loss, lambda_H=0.1, balance=balance, lr=1e-4, steps=30
    )
    history = result.history
    share = 0.1 if balance is None else 0.1 * history["grad_loss"][0] / history["grad_alignment"][0]
    objective = history["loss"] + share * np.log(history["rho"])
    assert np.all(np.diff(objective) < 1e-13 * np.abs(objective[1:]))


def test_the_harmful_labels_end_in_slow_directions_at_a_primary_loss_that_falls():
    X_P, y_P, X_H, labels = tasks(1)
    result = ic.immunize.alignment(X_P, y_P, X_H, labels, lr=0.005, steps=400)
    assert result.history["loss"][-1] < 0.01 * result.history["loss"][0]
    before, after = ic.linear.alignment(X_H, labels), result.alignment(X_H, labels)
    assert after.rho < 0.3 * before.rho
    assert result.history["rho"][-1] == pytest.approx(after.rho * after.explained, rel=1e-9)
    assert result.history["rho"][0] == pytest.approx(before.rho * before.explained, rel=1e-9)
    names = ["loss", "rho", "kappa_P", "kappa_H", "rir", "grad_loss", "grad_alignment"]
    assert list(result.history) == names
    assert result.method == "alignment"
    assert result.parameters["hessian"] == "full"


def test_directions_that_no_row_uses_stay_as_they_are():
    X_P, y_P, X_H, labels = tasks(2)
    wide = [np.hstack([X, np.zeros((len(X), 3))]) for X in (X_P, X_H)]
    omega = np.random.default_rng(0).normal(size=D)
    given_ = {"lr": 0.005, "steps": 50}
    small = ic.immunize.alignment(X_P, y_P, X_H, labels, omega=omega, **given_)
    large = ic.immunize.alignment(
        wide[0], y_P, wide[1], labels, omega=np.append(omega, np.zeros(3)), **given_
    )
    expected = np.eye(D + 3)
    expected[:D, :D] = small.theta
    np.testing.assert_allclose(large.theta, expected, atol=1e-10)
    np.testing.assert_allclose(large.history["rho"], small.history["rho"], rtol=1e-10)


@pytest.mark.parametrize("hessian", ["full", "batch"])
def test_batches_see_their_rows_or_all(hessian):
    X_P, y_P, X_H, labels = tasks(3)
    keywords = {"lr": 0.005, "batch_size": 20, "hessian": hessian, "steps": 60}
    result = ic.immunize.alignment(X_P, y_P, X_H, labels, **keywords)
    all_rows = ic.r_align(X_H, np.eye(3)[labels])
    assert (result.history["rho"][0] == pytest.approx(all_rows, rel=1e-9)) == (hessian == "full")
    assert result.alignment(X_H, labels).rho < 0.5 * ic.linear.alignment(X_H, labels).rho


def test_targets_of_any_kind_and_adam():
    X_P, y_P, X_H, labels = tasks(4)
    names = np.array(["cat", "dog", "eel"])[labels]
    keywords = {"lr": 0.01, "steps": 5, "optimizer": "adam"}
    by_names, by_numbers, by_columns = (
        ic.immunize.alignment(X_P, y_P, X_H, y, **keywords)
        for y in (names, labels, np.eye(3)[labels])
    )
    np.testing.assert_array_equal(by_names.theta, by_numbers.theta)
    np.testing.assert_array_equal(by_names.theta, by_columns.theta)


@pytest.mark.filterwarnings("error")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("unit", [1e-300, 1e-160, 1e160, 1e308])
@pytest.mark.parametrize("hessian", ["full", "batch"])
def test_the_unit_of_harmful_targets_is_none_of_its_business(unit, hessian):
    X_P, y_P, X_H, _ = tasks()
    y_H = 1.5 + np.sin(X_H[:, 0]) / 10
    keywords = {"lr": 1e-2, "steps": 5, "batch_size": 20, "hessian": hessian}
    one, other = (
        ic.immunize.alignment(X_P, y_P, X_H, y_H * scale, **keywords) for scale in (1.0, unit)
    )
    np.testing.assert_allclose(other.theta, one.theta, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("preconditioner", [None, "projected", "ridge"])
@pytest.mark.parametrize(
    "batches", [{}, {"batch_size": 50}, {"batch_size": 50, "hessian": "batch"}]
)
def test_rounding_of_rows_in_single_precision_is_no_direction(preconditioner, batches):
    """The pseudo-inverse made it 1e7 times as large."""
    rng = np.random.default_rng(0)
    X_P, X_H = rng.normal(size=(200, 6)), rng.normal(size=(200, 4)) @ rng.normal(size=(4, 6))
    y_P, y_H = X_P[:, 0], rng.integers(2, size=200)
    keywords = {"lr": 1e-2, "steps": 5, "preconditioner": preconditioner, "ridge": 1e-3, **batches}
    single = X_H.astype(np.float32)
    one = ic.immunize.alignment(X_P, y_P, X_H, y_H, **keywords)
    for X, told in ((single, {}), (single.astype(float), {"ranks": (6, 4)})):
        other = ic.immunize.alignment(X_P, y_P, X, y_H, **keywords, **told)
        np.testing.assert_allclose(other.theta, one.theta, atol=1e-5)


def test_a_condition_number_that_falls_is_no_news():
    # Labels along the mean, which dominates the uncentred Hessian: it gets better conditioned.
    rng = np.random.default_rng(1)
    X_P, X_H = rng.normal(size=(2, 40, 3)) * [3, 2, 1] + [10, 0, 0]
    y_H = X_H[:, 0] + 0.3 * rng.normal(size=40)
    result = ic.immunize.alignment(
        X_P, np.zeros(40), X_H, y_H, omega=np.zeros(3), lr=0.01, steps=15
    )
    assert result.report.i < 0.99
    assert result.history["rho"][-1] < result.history["rho"][0]


NAN = np.append(np.nan, np.zeros(39))


@pytest.mark.parametrize(
    ("labels", "keywords", "error", "match"),
    [
        (np.zeros(40, int), {}, ValueError, "y_H is constant: all 40 labels are 0"),
        (np.full(40, 2.5), {}, ValueError, "y_H is constant"),
        (NAN, {}, ValueError, "y_H must be finite"),
        (None, {}, TypeError, "y_H is None"),
        (np.arange(40), {}, ValueError, "y_H names 40 classes on 40 rows"),
        (np.zeros(39), {}, ValueError, "39"),
        ("right", {}, ValueError, "preconditioner must be 'projected', 'ridge' or None"),
        ("blind", {}, ValueError, "X_H does not see its labels"),
        ("good", {"lambda_H": -1.0}, ValueError, "lambda_H"),
        ("good", {"lambda_H": np.nan}, ValueError, "lambda_H"),
        ("good", {"lr": 1e3, "steps": 50}, ic.ImmucondError, r"lower lr .* or lambda_H"),
        ("good", {"theta": np.zeros((D, 2))}, ValueError, "theta"),
        ("rare", {"batch_size": 2, "hessian": "batch", "steps": 40}, ic.ImmucondError, "one label"),
    ],
)
def test_bad_input(labels, keywords, error, match):
    X_P, y_P, X_H, good = tasks()
    if isinstance(labels, str):
        keywords = keywords | ({"preconditioner": "right"} if labels == "right" else {})
        if labels == "blind":
            X_H = np.vstack([X_H[:20], X_H[:20]])
            good = np.repeat([0, 1], 20)
        labels = (np.arange(40) == 7).astype(int) if labels == "rare" else good
    with pytest.raises(error, match=match):
        ic.immunize.alignment(X_P, y_P, X_H, labels, **({"lr": 0.01, "steps": 2} | keywords))
