"""The estimator's method "fade": labels of any kind, predictions that stay, and clear refusals."""

import numpy as np
import pytest

import immucond as ic

pytest.importorskip("sklearn")
from sklearn.linear_model import LinearRegression

from immucond.sklearn import ConditionImmunizer


def tasks():
    rng = np.random.default_rng(0)
    X, X_harmful = rng.normal(size=(2, 300, 6)) * np.geomspace(4, 1, 6)
    return X, X_harmful, (X_harmful @ rng.normal(size=(6, 3))).argmax(1)


@pytest.mark.parametrize("kind", [int, float, str])
def test_it_is_the_method_of_immunize(kind):
    X, X_harmful, y = tasks()
    immunizer = ConditionImmunizer("fade", tau=100.0)
    immunizer.fit(X, X_harmful=X_harmful, y_harmful=y.astype(kind))
    expected = ic.immunize.fade(X, X[:, 0], X_harmful, y, tau=100.0)
    np.testing.assert_allclose(immunizer.theta_, expected.theta, atol=1e-12)
    assert immunizer.delta_ == (0.0, 0.0)
    before = ic.linear.alignment(X_harmful, y).rho
    assert ic.linear.alignment(immunizer.transform(X_harmful), y).rho < 0.2 * before


def test_a_linear_probe_of_the_primary_task_predicts_what_it_did():
    X, X_harmful, y = tasks()
    target = X @ np.arange(6.0)
    immunizer = ConditionImmunizer("fade").fit(X, X_harmful=X_harmful, y_harmful=y)
    found = LinearRegression().fit(immunizer.transform(X), target)
    np.testing.assert_allclose(found.predict(immunizer.transform(X)), target, rtol=1e-6, atol=1e-6)


def test_protection_takes_primary_labels():
    X, X_harmful, y = tasks()
    labels = np.where(X[:, 0] > 0, "yes", "no")
    options = {"method_params": {"protect": True}}
    immunizer = ConditionImmunizer("fade", **options)
    with pytest.raises(ValueError, match="y is needed for method='fade'"):
        immunizer.fit(X, X_harmful=X_harmful, y_harmful=y)
    immunizer.fit(X, labels, X_harmful=X_harmful, y_harmful=y)
    one_hot = (labels[:, None] == ["no", "yes"]).astype(float)
    expected = ic.linear.fade(X, X_harmful, y, Y_P=one_hot, protect=True)
    np.testing.assert_allclose(immunizer.theta_, expected.theta, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "given", "match"),
    [
        ({}, {"y_harmful": None}, "y_harmful is needed for method='fade'"),
        ({"tau": 0.5}, {}, "tau must be in"),
        ({"delta": (1.0, 2.0)}, {}, "delta must be one number"),
        ({"delta": "some"}, {}, "delta must be one of 'auto'"),
        ({"method_params": {"speed": 1}}, {}, "method_params of 'fade' may hold"),
    ],
)
def test_bad_input(options, given, match):
    X, X_harmful, y = tasks()
    with pytest.raises(ValueError, match=match):
        ConditionImmunizer("fade", **options).fit(
            X, **{"X_harmful": X_harmful, "y_harmful": y, **given}
        )


def test_alignment_takes_harmful_labels_of_any_kind_beside_any_primary_loss():
    X, X_harmful, y = tasks()
    settings = {"lr": 0.005, "steps": 50}
    labels = np.where(X[:, 0] > 0, "yes", "no")
    immunizer = ConditionImmunizer("alignment", **settings, random_state=0)
    immunizer.fit(X, labels, X_harmful=X_harmful, y_harmful=y.astype(str))
    expected = ic.immunize.alignment(
        X, (X[:, 0] > 0).astype(int), X_harmful, y, loss="logistic", seed=0, **settings
    )
    np.testing.assert_array_equal(immunizer.theta_, expected.theta)
    assert immunizer.classes_.tolist() == ["no", "yes"]
    assert immunizer.history_["rho"][-1] < immunizer.history_["rho"][0]
    # Without primary targets there is no loss, and log rho alone moves theta.
    alone = ConditionImmunizer("alignment", **settings).fit(
        X, X_harmful=X_harmful, y_harmful=X_harmful[:, 0]
    )
    assert alone.omega_ is None
    assert not alone.history_["loss"].any()
    assert alone.history_["rho"][-1] < alone.history_["rho"][0]
    with pytest.raises(ValueError, match="y_harmful is needed for method='alignment'"):
        ConditionImmunizer("alignment", **settings).fit(X, labels, X_harmful=X_harmful)


def test_the_blind_optimum_is_of_the_closed_form():
    with pytest.raises(ValueError, match="X_harmful is needed for method='fade'"):
        ConditionImmunizer("fade").fit(tasks()[0])
