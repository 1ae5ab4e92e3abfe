"""Whatever a caller has set NumPy to do at underflow, results are the same."""

import numpy as np
import pytest

import immucond as ic
from immucond.probing import METHODS


def tasks(seed=0):
    rng = np.random.default_rng(seed)
    X_P = rng.standard_normal((30, 4)) * [1, 2, 3, 4]
    X_H = rng.standard_normal((30, 4)) * [4, 1, 1, 1e-3]
    return X_P, X_P @ rng.standard_normal(4) + rng.standard_normal(30), X_H


def same_as_by_default(function, fields):
    expected = function()
    with np.errstate(all="raise"):
        found = function()
    for name in fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1.0, 1e-165, 1e150])
@pytest.mark.parametrize("weight_decay", [0.0, 1e-3, 1e300])
def test_probing(method, size, weight_decay):
    """Targets that the features fit, so that an iteration ends in underflow; and ones of no fit."""
    Z, y, _ = tasks()
    for targets in (Z @ [1.0, -1.0, 2.0, 1.0], y):
        same_as_by_default(
            lambda t=targets: ic.probing.probe(
                Z, size * t, method=method, steps=300, weight_decay=weight_decay
            ),
            ("loss", "norm_ratio", "above", "energy", "slow_share", "predicted_loss"),
        )


def test_curves_and_comparisons():
    Z, _, other = tasks()
    y = 1e-165 * Z @ [1.0, -1.0, 2.0, 1.0]

    def answers():
        compared = ic.probing.compare(Z, other, y, tolerance=1e-9, steps=900)
        curve = ic.probing.loss_curve(Z, y, [0, 10, 10**6])
        return str(compared), curve.tolist(), ic.probing.steps_needed(Z, y, 1e-9)

    expected = answers()
    with np.errstate(all="raise"):
        assert answers() == expected


@pytest.mark.parametrize("scale", [1e-150, 1e-70, 1.0, 1e70])
def test_linear_analysis(scale):
    X_P, _, X_H = tasks()
    X_H = scale * X_H
    calls = {
        "limit": (lambda: ic.linear.immunity_limit(X_P=X_P, X_H=X_H), ("rir", "kappa_M")),
        "extractor": (
            lambda: Result(ic.linear.optimal_extractor(X_P=X_P, X_H=X_H, kappa_P=1e3)),
            ("theta",),
        ),
        "joint": (
            lambda: ic.linear.joint_extractor(X_P=[X_P, X_P[:, ::-1]], X_H=X_H, kappa_P=[2.0, 3e2]),
            ("theta",),
        ),
        "report": (
            lambda: ic.linear.immunity(np.diag([1.0, 1e-3, 1e-6, 1.0]), X_P, X_H),
            ("rir", "i", "ii"),
        ),
        "angles": (
            lambda: Result(ic.linear.relative_angles(np.diag([1, 1, 1e-100, 1]), X_P.T @ X_P)),
            ("theta",),
        ),
    }
    for function, fields in calls.values():
        same_as_by_default(function, fields)


class Result:
    def __init__(self, theta):
        self.theta = theta


@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("name", ["algorithm1", "opt_kappa", "imma", "r_ill_only", "closed_form"])
def test_immunization(name, loss):
    """Logits of such size that most samples' probabilities underflow."""
    X_P, y, X_H = tasks()
    if loss == "logistic":
        X_P, y = 1e3 * X_P, (y > 0).astype(float)
    options = {"lr": 1e-9, "steps": 20, "lambda_H": 1e-3, "loss": loss}
    if name in ("algorithm1", "opt_kappa"):
        options["lambda_P"] = 1e-9
    if name == "closed_form":
        options = {}
    arguments = (X_P, y, X_H, y) if name == "imma" else (X_P, y, X_H)
    same_as_by_default(lambda: getattr(ic.immunize, name)(*arguments, **options), ("theta",))
