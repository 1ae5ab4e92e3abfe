"""Algorithm 1 against its definition, the closed form against its promise."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

import immucond as ic
from immucond.immunize._losses import task_loss

seeds = st.integers(0, 2**32 - 1)
PARAMETERS = {"lambda_P": 0.05, "lambda_H": 1e4, "lr": 0.01, "steps": 100}


def tasks(seed: int = 0, rows: int = 50, d: int = 4, c: int | None = None):
    rng = np.random.default_rng(seed)
    X_P = rng.normal(size=(rows, d)) * np.arange(d, 0, -1)
    X_H = rng.normal(size=(rows + 3, d))
    y_P = X_P @ rng.normal(size=(d,) if c is None else (d, c)) / d
    return X_P, y_P, X_H


def spectral_gradients(theta, K_P, K_H):
    """G_P and G_H by a full eigendecomposition (THEORY 2, the table)."""
    gradients = []
    for K, ill in ((K_P, False), (K_H, True)):
        H = theta.T @ K @ theta
        values, vectors = np.linalg.eigh(H)
        values, vectors = values[::-1], vectors[:, ::-1]
        p, k = len(H), int(np.linalg.matrix_rank(K, hermitian=True))
        if ill:
            D = np.sum(values**2) / (2 * k) - values[k - 1] ** 2 / 2
            u = vectors[:, k - 1]
            gradients.append(values[k - 1] / D**2 * np.outer(u, u) - H / (k * D**2))
        else:
            gradients.append(values[0] * np.outer(vectors[:, 0], vectors[:, 0]) - H / p)
    return gradients


@pytest.mark.parametrize("preconditioner", ["right", "projected", "ridge", None])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("singular", [False, True])
def test_one_step_is_the_papers_update(preconditioner, loss, singular):
    X_P, y_P, X_H = tasks(d=5)
    if singular:
        X_P[:, 4], X_H[:, 3] = 0.0, X_H[:, 2]
    if loss == "logistic":
        y_P = (y_P > 0).astype(float)
    rng = np.random.default_rng(7)
    theta, omega = np.eye(5) + 0.1 * rng.normal(size=(5, 5)), rng.normal(size=5)
    lr, lambda_P, lambda_H, ridge = 0.01, 0.02, 300.0, 0.7
    result = ic.immunize.algorithm1(
        X_P, y_P, X_H, loss=loss, lambda_P=lambda_P, lambda_H=lambda_H, lr=lr, steps=1,
        preconditioner=preconditioner, ridge=ridge, theta=theta, omega=omega,
    )  # fmt: skip

    f = X_P @ theta @ omega
    if loss == "squared":
        value, by_f = np.mean((f - y_P) ** 2), 2 * (f - y_P) / len(f)
    else:
        sign = 2 * y_P - 1
        value, by_f = np.mean(np.log1p(np.exp(-sign * f))), -sign / (1 + np.exp(sign * f)) / len(f)
    K_P, K_H = X_P.T @ X_P, X_H.T @ X_H
    parts = []
    for K, G in zip((K_P, K_H), spectral_gradients(theta, K_P, K_H), strict=True):
        plain = 2 * K @ theta @ G
        parts.append({
            "right": 2 * theta @ G,
            "projected": np.linalg.pinv(K, hermitian=True) @ plain,
            "ridge": np.linalg.solve(K + ridge * np.eye(5), plain),
            None: plain,
        }[preconditioner])  # fmt: skip
    by_theta = np.outer(X_P.T @ by_f, omega)
    step = by_theta + lambda_P * parts[0] + lambda_H * parts[1]
    np.testing.assert_allclose(result.theta, theta - lr * step, rtol=1e-7, atol=1e-9)
    expected = omega - lr * theta.T @ X_P.T @ by_f
    np.testing.assert_allclose(result.omega, expected, rtol=1e-9, atol=1e-12)
    assert result.history["loss"][0] == pytest.approx(value)
    norms = [np.linalg.norm(part) for part in (by_theta, *parts)]
    found = [result.history[name][0] for name in ("grad_loss", "grad_well", "grad_ill")]
    np.testing.assert_allclose(found, norms, rtol=1e-7)


def test_preconditioned_step_is_k_inverse_times_the_gradient():
    X_P, y_P, X_H = tasks()
    steps = [
        ic.immunize.algorithm1(X_P, y_P, X_H, **PARAMETERS | {"steps": 3}, **keywords).theta
        for keywords in (
            {},
            {"preconditioner": "projected"},
            {"preconditioner": "ridge", "ridge": 0},
        )
    ]
    np.testing.assert_allclose(steps[1], steps[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(steps[2], steps[0], rtol=1e-9, atol=1e-12)


@given(seeds, st.sampled_from(["squared", "logistic"]), st.sampled_from([3, 30]))
def test_gradients_of_the_task_losses(seed, name, rows):
    X, y, _ = tasks(seed, rows, c=2)
    if name == "logistic":
        y = np.sign(y)
    loss = task_loss(name, X, y)
    v = np.random.default_rng(seed).normal(size=(4, 2))
    value, grad = loss.value_and_grad(v)
    direct = (
        np.mean((X @ v - y) ** 2) if name == "squared" else np.mean(np.logaddexp(0, -y * (X @ v)))
    )
    assert value == pytest.approx(direct, rel=1e-10)
    numeric = scipy.optimize.approx_fprime(
        v.ravel(), lambda x: loss.value_and_grad(x.reshape(4, 2))[0], 1e-7
    )
    np.testing.assert_allclose(grad.ravel(), numeric, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_algorithm1_immunizes_and_keeps_the_primary_task(loss):
    X_P, y_P, X_H = tasks()
    if loss == "logistic":
        y_P = np.sign(y_P)
    result = ic.immunize.algorithm1(X_P, y_P, X_H, loss=loss, **PARAMETERS)
    report = result.report
    assert report.condition_a
    assert report.condition_b
    assert report.condition_c
    assert 3 < report.rir <= report.limit.rir
    assert result.history["loss"][-1] < 0.8 * result.history["loss"][0]
    # What the history says last is what the report says, and what NumPy says.
    assert result.history["rir"][-1] == pytest.approx(report.rir, rel=1e-8)
    assert result.history["kappa_H"][-1] == pytest.approx(report.kappa_H, rel=1e-8)
    s = np.linalg.svd(X_P @ result.theta, compute_uv=False)
    assert report.kappa_P == pytest.approx((s[0] / s[-1]) ** 2)
    predicted = X_P @ result.theta @ result.omega
    if loss == "squared":
        assert np.mean((predicted - y_P) ** 2) == pytest.approx(result.history["loss"][-1])
    else:
        assert np.mean(np.sign(predicted) == y_P) > 0.9


def test_singular_inputs_keep_their_rank_all_along():
    X_P, y_P, X_H = tasks(d=6)
    X_P[:, 5], X_H[:, 4] = 0.0, X_H[:, 3]
    parameters = PARAMETERS | {"lambda_P": 0.01}
    result = ic.immunize.algorithm1(X_P, y_P, X_H, **parameters)
    assert (result.report.rank_P, result.report.rank_H) == (5, 5)
    assert result.history["kappa_P"].max() < 100
    assert result.report.i > 1 > result.report.ii


@pytest.mark.parametrize("c", [None, 1, 3])
def test_shapes_follow_the_targets(c):
    X_P, y_P, X_H = tasks(c=c)
    for result in (
        ic.immunize.algorithm1(X_P, y_P, X_H, **PARAMETERS | {"steps": 2}),
        ic.immunize.closed_form(X_P, y_P, X_H),
    ):
        assert result.theta.shape == (4, 4)
        assert (X_P @ result.theta @ result.omega).shape == y_P.shape


def test_wide_and_narrow_extractors():
    X_P, y_P, X_H = tasks()
    rng = np.random.default_rng(0)
    for m in (3, 6):
        theta = np.linalg.qr(rng.normal(size=(max(4, m), min(4, m))))[0]
        theta = theta if m < 4 else theta.T
        result = ic.immunize.algorithm1(
            X_P, y_P, X_H, theta=theta, **PARAMETERS | {"steps": 5, "lambda_H": 1e2}
        )
        assert result.theta.shape == (4, m)
        assert result.report.rank_P == min(4, m)


def test_history_and_callback_tell_the_same():
    X_P, y_P, X_H = tasks()
    seen = []
    result = ic.immunize.algorithm1(
        X_P, y_P, X_H, callback=lambda step, record: seen.append((step, dict(record))), **PARAMETERS
    )
    assert [step for step, _ in seen] == list(range(101))
    assert all(values.shape == (101,) for values in result.history.values())
    for step, record in seen:
        assert record == {name: values[step] for name, values in result.history.items()}
    assert result.history["rir"][0] == pytest.approx(1.0)


def test_a_callback_that_changes_its_record_changes_nothing_else():
    for monotone in (False, True):
        plain, changed = (
            ic.immunize.algorithm1(*tasks(), callback=callback, monotone=monotone, **PARAMETERS)
            for callback in (None, lambda _, record: record.clear())
        )
        np.testing.assert_array_equal(changed.theta, plain.theta)
        assert changed.history.keys() == plain.history.keys()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "keywords", [{"lr": 1e308}, {"lambda_P": 1e308}, {"lr": 1e308, "optimizer": "adam"}]
)
def test_a_divergence_warns_of_nothing_else(keywords):
    with pytest.raises(ic.DivergenceError, match="diverged at step"):
        ic.immunize.algorithm1(*tasks(), **PARAMETERS | keywords)


@pytest.mark.parametrize("scale", [1e-160, 1e300])
def test_the_norm_of_theta_is_the_one_asked_for_near_any_extractor(scale):
    near = np.eye(4) * [1, 2, 3, 4]
    result = ic.immunize.closed_form(*tasks(), nearest_to=near * scale, norm=2.0)
    assert np.linalg.norm(result.theta) == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize("keywords", [{}, {"norm": 1e-300}])
def test_a_closed_form_head_beyond_the_float_range_is_told(keywords):
    X_P, y_P, X_H = tasks()
    far = (X_P, 1e10 * y_P) if keywords else (1e-200 * X_P, 1e200 * y_P)
    with pytest.raises(OverflowError, match=r"head .*is beyond the float range"):
        ic.immunize.closed_form(*far, X_H, **keywords)


def test_callback_stops():
    X_P, y_P, X_H = tasks()
    result = ic.immunize.algorithm1(
        X_P, y_P, X_H, callback=lambda step, record: record["rir"] > 2, **PARAMETERS
    )
    rir = result.history["rir"]
    assert rir[-1] > 2
    assert np.all(rir[:-1] <= 2)
    assert result.report.rir == pytest.approx(rir[-1])


def test_seed_decides_the_first_head_and_nothing_else():
    X_P, y_P, X_H = tasks()
    first, again, other = (
        ic.immunize.algorithm1(X_P, y_P, X_H, seed=seed, **PARAMETERS) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.theta, again.theta)
    np.testing.assert_array_equal(first.omega, again.omega)
    assert not np.array_equal(first.theta, other.theta)


@pytest.mark.filterwarnings("ignore::immucond.AccuracyWarning")
@pytest.mark.filterwarnings("ignore::immucond.DegenerateSpectrumWarning")
def test_a_run_that_diverges_gives_back_the_last_good_extractor():
    with pytest.raises(ic.DivergenceError) as error:
        ic.immunize.algorithm1(*tasks(), **PARAMETERS | {"lr": 50.0})
    done = error.value.result
    steps = len(done.history["loss"]) - 1
    assert steps >= 1
    same = ic.immunize.algorithm1(*tasks(), **PARAMETERS | {"lr": 50.0, "steps": steps})
    np.testing.assert_array_equal(done.theta, same.theta)
    assert done.report == same.report


def test_the_closed_form_leaves_the_primary_condition_number_as_it_is():
    X_P, y_P, X_H = tasks()
    start = np.linalg.cond(X_P) ** 2, np.linalg.cond(X_H) ** 2
    done = ic.immunize.closed_form(X_P, y_P, X_H)
    assert np.linalg.cond(X_P @ done.theta) ** 2 == pytest.approx(start[0], rel=1e-9)
    assert np.linalg.cond(X_H @ done.theta) ** 2 > start[1]
    theta = ic.linear.optimal_extractor(X_P=X_P, X_H=X_H, kappa_P=None)
    np.testing.assert_array_equal(done.theta, theta)
    # One direction has condition number 1, whatever kappa_P is left at.
    one = ic.immunize.closed_form(X_P[:, :1], y_P, X_H[:, :1])
    assert one.report.i == one.report.ii == 1.0


def test_a_harmful_task_that_got_easier_is_told():
    X_P, y_P, _ = tasks()
    with pytest.warns(ic.ImmunityWarning, match=r"got easier.*\(i\).*A larger kappa_P") as told:
        done = ic.immunize.closed_form(X_P, y_P, 2.0 * X_P + 0.1, kappa_P=1.0)
    assert done.report.i < 1.0
    assert told[0].filename == __file__


def test_no_steps_return_the_start():
    X_P, y_P, X_H = tasks()
    result = ic.immunize.algorithm1(X_P, y_P, X_H, **PARAMETERS | {"steps": 0})
    np.testing.assert_array_equal(result.theta, np.eye(4))
    assert result.report.rir == 1.0
    assert result.history["loss"].shape == (1,)


@pytest.mark.parametrize("changed", [{"lr": 1e3}, {"lambda_P": 1e6}, {"lambda_H": 1e12}])
def test_divergence_is_said_so(changed):
    seen = []
    with pytest.raises(
        ic.DivergenceError, match=r"diverged at step \d+.*lower lr \(given"
    ) as error:
        ic.immunize.algorithm1(
            *tasks(), **PARAMETERS | changed, callback=lambda _, record: seen.append(record["loss"])
        )
    done = error.value.result  # what was measured last; None where theta cannot be reported on
    if done is not None:
        assert done.history["loss"].tolist() == seen
        assert np.isfinite(done.theta).all()


def test_warnings_of_the_steps_come_once_and_from_the_caller():
    X_P, y_P, X_H = tasks()
    X_P = np.vstack([np.eye(4) * [2.0, 2.0, 1.0, 1.0]] * 12 + [np.zeros((2, 4))])
    quiet = {"lambda_P": 0.0, "lambda_H": 0.0, "lr": 0.0, "steps": 3}
    with pytest.warns(ic.DegenerateSpectrumWarning, match="at step 0") as record:
        ic.immunize.algorithm1(X_P, y_P, X_H, batch_size=None, hessian="full", **quiet)
    assert [warning.filename for warning in record] == [__file__]


def test_equal_harmful_eigenvalues_are_refused():
    X_P, y_P, _ = tasks()
    with pytest.raises(ic.DegenerateSpectrumError):
        ic.immunize.algorithm1(X_P, y_P, np.eye(4), **PARAMETERS)


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ({"X_P": np.eye(4) * np.nan}, {}, ValueError, "X_P"),
        ({"X_H": np.eye(4) * 1j}, {}, TypeError, "X_H"),
        ({"X_H": np.ones((3, 2))}, {}, ValueError, "X_P and X_H.*4 and 2"),
        ({"y_P": np.ones(3)}, {}, ValueError, "y_P must have one row a sample, 50 as X_P"),
        ({"y_P": np.full(50, np.inf)}, {}, ValueError, "y_P"),
        ({}, {"loss": "hinge"}, ValueError, "loss.*squared.*logistic.*hinge"),
        ({}, {"loss": "logistic"}, ValueError, "y_P must hold labels"),
        ({}, {"preconditioner": "left"}, ValueError, "preconditioner.*right.*left"),
        ({}, {"lr": -1.0}, ValueError, "lr"),
        ({}, {"lambda_P": np.nan}, ValueError, "lambda_P"),
        ({}, {"lambda_H": np.inf}, ValueError, "lambda_H"),
        ({}, {"steps": -1}, ValueError, "steps"),
        ({}, {"steps": 2.5}, TypeError, "steps"),
        ({}, {"ridge": -1.0}, ValueError, "ridge"),
        ({}, {"theta": np.eye(3)}, ValueError, "theta must have 4 rows"),
        ({}, {"omega": np.ones(3)}, ValueError, r"omega must have shape \(4,\)"),
        ({}, {"theta": np.zeros((4, 4))}, ValueError, "theta maps X_P to 0"),
        ({}, {"seed": -1}, ValueError, "seed must be at least 0"),
        ({}, {"seed": "a"}, TypeError, "seed must be an integer"),
        ({}, {"callback": 3}, TypeError, "callback must be callable"),
        ({}, {"batch_size": 64}, ValueError, "batch_size must be at most 50.*X_P.*64"),
        ({}, {"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({}, {"hessian": "batch"}, ValueError, "hessian must be 'full' without a batch_size"),
        ({}, {"hessian": "half"}, ValueError, "hessian.*full.*batch.*half"),
        ({}, {"optimizer": "sgd"}, ValueError, "optimizer must be one of 'gd', 'adam'.*sgd"),
        (
            {},
            {"monotone": True, "optimizer": "adam"},
            ValueError,
            "optimizer must be 'gd' for monotone",
        ),
        ({}, {"balance": "norm"}, ValueError, "balance.*gradient-norm.*norm"),
        ({}, {"checkpoint_every": 0}, ValueError, "checkpoint_every must be at least 1"),
        (
            {},
            {"monotone": True, "hessian": "batch", "batch_size": 9},
            ValueError,
            "hessian must be 'full' for monotone",
        ),
        (
            {},
            {"monotone": True, "preconditioner": None},
            ValueError,
            "preconditioner must be 'right' or 'projected' for monotone.*None",
        ),
        (
            {"X_P": np.ones((50, 4)) * [0, 0, 0, 1]},
            {"preconditioner": "ridge", "ridge": 0.0},
            ValueError,
            "ridge must be large enough.*X_P",
        ),
        ({"X_P": tasks()[0] * 1e200}, {}, OverflowError, "scale X_P down"),
        ({"X_P": tasks()[0] * 1e-200}, {}, OverflowError, "Gram matrix of X_P .* scale X_P up"),
        (
            {"X_H": tasks()[2] * 1e-200},
            {"hessian": "batch", "batch_size": 20},
            ic.ImmucondError,
            "cannot start.* beyond the float range; scale",
        ),
        ({"y_P": tasks()[1] * 1e200}, {}, ic.ImmucondError, "cannot start.*y_P"),
    ],
)
def test_bad_input_is_named(arguments, keywords, error, message):
    given_arguments = dict(zip(("X_P", "y_P", "X_H"), tasks(), strict=True)) | arguments
    with pytest.raises(error, match=message):
        ic.immunize.algorithm1(**given_arguments, **PARAMETERS | keywords)


@given(seeds, st.sampled_from([1.0, 20.0]), st.sampled_from([None, 2]))
def test_closed_form_attains_the_limit_and_keeps_every_prediction(seed, tau, c):
    X_P, y_P, X_H = tasks(seed, c=c)
    y_P = y_P + np.random.default_rng(seed).normal(size=y_P.shape)
    result = ic.immunize.closed_form(X_P, y_P, X_H, kappa_P=tau)
    report = result.report
    assert report.rir == pytest.approx(report.limit.rir, rel=1e-6)
    assert report.kappa_P == pytest.approx(tau, rel=1e-6)
    assert report.condition_c
    assert result.history == {}
    head = np.linalg.lstsq(X_P, y_P, rcond=None)[0]
    for rows in (X_P, np.random.default_rng(1).normal(size=(9, 4))):  # rows never seen, too
        np.testing.assert_allclose(
            rows @ result.theta @ result.omega, rows @ head, rtol=1e-7, atol=1e-8
        )


def test_closed_form_with_singular_inputs():
    X_P, y_P, X_H = tasks(d=6)
    X_P[:, 5] = 0.0
    with pytest.raises(ValueError, match="rank 5 of 6"):
        ic.immunize.closed_form(X_P, y_P, X_H)
    result = ic.immunize.closed_form(X_P, y_P, X_H, delta=0.1)
    fitted = X_P @ np.linalg.lstsq(X_P, y_P, rcond=None)[0]
    np.testing.assert_allclose(X_P @ result.theta @ result.omega, fitted, atol=1e-9)
    assert result.report.limit.case == "unbounded"
    assert result.report.rir > 10


@pytest.mark.parametrize("known", [{}, {"computed_in": np.float32}])
def test_closed_form_head_follows_the_rank(known):
    # Rank 3 of 5 in float32: a head of another rank fits the rounding noise and explodes.
    rng = np.random.default_rng(4)
    B = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 5))
    X_P = B.astype(np.float32)
    X_H = (rng.normal(size=(100, 3)) @ np.linalg.svd(B)[2][:3]).astype(np.float32)
    y = B @ rng.normal(size=5) + 0.1 * rng.normal(size=200)
    if known:
        X_P, X_H = X_P.astype(np.float64), X_H.astype(np.float64)
    result = ic.immunize.closed_form(X_P, y, X_H, **known)
    assert result.report.rank_P == 3
    least = np.linalg.lstsq(X_P.astype(float), y, rcond=1e-5)[0]
    np.testing.assert_allclose(result.theta @ result.omega, least, rtol=1e-4, atol=1e-5)


def test_algorithm1_takes_known_ranks_and_precision():
    X_P, y_P, X_H = tasks()
    X_P[:, 3] = 1e-7 * X_P[:, 0]
    X_P[0, 3] += 1e-7
    for known in ({"ranks": (3, 4)}, {"computed_in": np.float32}):
        result = ic.immunize.algorithm1(X_P, y_P, X_H, **PARAMETERS | {"steps": 1}, **known)
        assert (result.report.rank_P, result.report.rank_H) == (3, 4)


@pytest.mark.parametrize("norm", [None, 2.0])
def test_closed_form_near_to_an_extractor(norm):
    X_P, y_P, X_H = tasks()
    near, rotated = (
        ic.immunize.closed_form(X_P, y_P, X_H, kappa_P=1.0, nearest_to=theta, norm=norm)
        for theta in (np.eye(4), None)
    )
    for result in (near, rotated):
        assert result.report.rir == pytest.approx(result.report.limit.rir, rel=1e-6)
        np.testing.assert_allclose(X_P @ result.theta @ result.omega, y_P, atol=1e-9)
        assert norm is None or np.linalg.norm(result.theta) == pytest.approx(norm)
    far = np.linalg.norm(X_P @ (near.theta - np.eye(4)))
    assert norm is not None or far < np.linalg.norm(X_P @ (rotated.theta - np.eye(4)))
    values, vectors = np.linalg.eigh(X_P.T @ X_P)  # K_P^-1/2, up to scale
    root = (vectors / np.sqrt(values)) @ vectors.T
    np.testing.assert_allclose(
        near.theta / np.linalg.norm(near.theta), root / np.linalg.norm(root), atol=1e-9
    )


def test_closed_form_near_to_a_wide_extractor():
    X_P, y_P, X_H = tasks()
    wide = np.hstack([np.eye(4), np.ones((4, 2))])
    result = ic.immunize.closed_form(X_P, y_P, X_H, nearest_to=wide)
    assert result.theta.shape == (4, 6)
    np.testing.assert_allclose(X_P @ result.theta @ result.omega, y_P, atol=1e-9)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"norm": 0.0}, "norm must be above 0"),
        ({"norm": -1.0}, "norm"),
        ({"nearest_to": np.eye(3)}, "nearest_to must have 4 rows"),
        ({"nearest_to": np.eye(4)[:, :2]}, "nearest_to must have at least 4 columns"),
        ({"nearest_to": np.zeros((4, 4))}, "nearest_to maps the primary inputs to 0"),
    ],
)
def test_closed_form_bad_input_is_named(keywords, message):
    with pytest.raises(ValueError, match=message):
        ic.immunize.closed_form(*tasks(), **keywords)


def test_closed_form_refuses_targets_of_another_length():
    X_P, y_P, X_H = tasks()
    with pytest.raises(ValueError, match="y_P must have one row a sample"):
        ic.immunize.closed_form(X_P, y_P[:-1], X_H)


def test_inputs_stay_as_they_are():
    arrays = tasks()
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    theta = np.eye(4)
    theta.flags.writeable = False
    ic.immunize.algorithm1(*arrays, theta=theta, **PARAMETERS)
    ic.immunize.closed_form(*arrays)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("method", ["algorithm1", "opt_kappa"])
def test_an_iteration_that_made_the_harmful_task_easier_says_so(method):
    rng = np.random.default_rng(0)
    X_P = rng.normal(size=(60, 5)) * [30, 10, 3, 1, 0.3]
    X_H = X_P[:30] * [1, 1, 1, 1, 0.3]
    options = {"lambda_P": 10.0, "lambda_H": 0.0, "lr": 1e-6, "steps": 100}
    with pytest.warns(ic.ImmunityWarning, match=r"got easier.*A larger lambda_H makes") as told:
        easier = getattr(ic.immunize, method)(X_P, X_P @ np.ones(5), X_H, **options)
    assert easier.report.i < 0.1
    assert [each.filename for each in told] == [__file__]


def test_a_task_that_got_a_little_easier_is_not_told_to_be_once_what_it_was():
    X_P = np.random.default_rng(0).normal(size=(40, 8))
    with pytest.warns(ic.ImmunityWarning, match=r"is 1 - \d\.\de-\d+ times what it was"):
        ic.immunize.algorithm1(
            X_P, X_P @ np.ones(8), X_P, lambda_P=1e-2, lambda_H=0.0, lr=1e-3, steps=1
        )
