"""Fade as a method: primary predictions stay, and descent on the harmful labels stands still."""

import numpy as np
import pytest

import immucond as ic
from immucond import ToleranceError


def tasks(seed=0, rows=400, d=8):
    rng = np.random.default_rng(seed)
    X_P = rng.normal(size=(rows, d)) * np.geomspace(4.0, 0.5, d)
    X_H = rng.normal(size=(rows, d)) * np.geomspace(3.0, 0.5, d)
    return X_P, X_P @ rng.normal(size=d), X_H, (X_H @ rng.normal(size=(d, 3))).argmax(1)


def test_one_label_on_every_row_fades_without_centring():
    rng = np.random.default_rng(5)
    X_P, X_H = rng.normal(size=(2, 60, 4)) + 1.0
    y_P, ones = X_P @ np.arange(4.0), np.ones(60)
    with pytest.raises(ValueError, match="Y_H is constant"):
        ic.immunize.fade(X_P, y_P, X_H, ones)
    result = ic.immunize.fade(X_P, y_P, X_H, ones, center=False)
    assert result.parameters["center"] is False
    b = X_H.sum(axis=0)
    x = np.linalg.solve(X_P.T @ X_P, b)
    expected = np.eye(4) - 0.99 * np.outer(x, b) / (b @ x)
    np.testing.assert_allclose(result.theta, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(result.features(X_P) @ result.omega, y_P, rtol=1e-9, atol=1e-9)


def test_predictions_stay_on_any_row():
    X_P, y_P, X_H, y_H = tasks()
    result = ic.immunize.fade(X_P, y_P, X_H, y_H)
    w = np.linalg.lstsq(X_P, y_P, rcond=None)[0]
    other = np.random.default_rng(1).normal(size=(50, 8))
    np.testing.assert_allclose(result.features(other) @ result.omega, other @ w, rtol=1e-9)
    assert result.method == "fade"
    assert result.history == {}
    assert result.parameters["tau"] == 1e4


def test_no_head_hides_behind_another_of_larger_targets():
    """One does not use what fades, and is exact; the other is nothing else, and rounding alone."""
    X_P, _, X_H, y_H = tasks()
    faded = ic.linear.fade(X_P, X_H, y_H == 0, tau=1e31)
    small = 1e-14 * X_P @ faded.left[:, 0]
    large = X_P @ np.linalg.svd(faded.right.T)[2][-1]
    for y_P in (small, np.column_stack([large, small]), np.column_stack([0 * large, small])):
        with pytest.raises(ToleranceError, match="rounding would change the primary"):
            ic.immunize.fade(X_P, y_P, X_H, y_H == 0, tau=1e31)
    kept = np.column_stack([large, 0 * large])
    result = ic.immunize.fade(X_P, kept, X_H, y_H == 0, tau=1e31)
    np.testing.assert_allclose(result.features(X_P) @ result.omega, kept, atol=1e-9)


def test_gradient_descent_on_the_harmful_labels_is_as_slow_as_rho_says():
    X_P, y_P, X_H, y_H = tasks()
    result = ic.immunize.fade(X_P, y_P, X_H, y_H)
    Y = np.eye(3)[y_H]
    Y -= Y.mean(0)
    shares = []
    for features in (X_H, result.features(X_H)):
        Z = features - features.mean(0)
        fitted = Z @ np.linalg.lstsq(Z, Y, rcond=1e-12)[0]
        top = np.linalg.norm(Z, 2) ** 2
        W = np.zeros((8, 3))
        for _ in range(50):
            W -= Z.T @ (Z @ W - Y) / top
        shares.append(np.sum((Z @ W - fitted) ** 2) / np.sum(fitted**2))
    bound = result.alignment(X_H, y_H)
    assert shares[0] < 0.3
    assert shares[1] > 0.99
    assert shares[1] >= bound.loss(50)
    assert bound.rho == pytest.approx(ic.linear.fade(X_P, X_H, y_H).rho, rel=1e-6)


def test_results_are_kept(tmp_path):
    result = ic.immunize.fade(*tasks(), protect=True, form="near")
    result.save(tmp_path / "fade.npz")
    again = ic.immunize.ImmunizationResult.load(tmp_path / "fade.npz")
    np.testing.assert_array_equal(again.theta, result.theta)
    assert again.parameters == result.parameters
    assert again.report == result.report


def test_heads_of_several_columns():
    X_P, y_P, X_H, y_H = tasks(1)
    result = ic.immunize.fade(X_P, np.column_stack([y_P, -y_P]), X_H, y_H, form="whitened")
    assert result.omega.shape == (8, 2)
    np.testing.assert_allclose(result.features(X_P) @ result.omega[:, 0], y_P, rtol=1e-6, atol=1e-6)
    assert result.report.kappa_P == pytest.approx(1e4, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"tau": np.inf}, r"tau must be in \[1, inf\)"),
        ({"tau": 0.1}, "tau must be in"),
        ({"form": "far"}, "form must be one of"),
        ({"delta": -1}, "delta must be in"),
    ],
)
def test_bad_input(change, match):
    with pytest.raises(ValueError, match=match):
        ic.immunize.fade(*tasks(), **change)


def test_a_head_beyond_the_float_range_is_told():
    X_P, y_P, X_H, y_H = tasks()
    with pytest.raises(OverflowError, match=r"least-squares head on X_P .* scale X_P up"):
        ic.immunize.fade(1e-200 * X_P, 1e200 * y_P, X_H, y_H)


def test_predictions_that_rounding_would_change_are_refused():
    rng = np.random.default_rng(0)
    X_P, X_H = (rng.normal(size=(200, 6)) * np.geomspace(1, 1e-8, 6) for _ in range(2))
    y_P, y_H = X_P @ np.geomspace(1, 1e8, 6), X_H[:, 0] + 1e8 * X_H[:, 5]
    with pytest.raises(ValueError, match=r"change the primary predictions by .* tau is 1e\+30"):
        ic.immunize.fade(X_P, y_P, X_H, y_H, tau=1e30)
    kept = ic.immunize.fade(X_P, y_P, X_H, y_H, tau=1e4)
    np.testing.assert_allclose(kept.features(X_P) @ kept.omega, y_P, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kappa_P", [None, 1e20])
def test_the_closed_form_that_rounding_would_change_is_refused(kappa_P):
    rng = np.random.default_rng(0)
    sizes = np.geomspace(1, 1e-9, 6)
    X_P, X_H = rng.normal(size=(200, 6)) * sizes, rng.normal(size=(200, 6))
    y_P = X_P @ (1 / sizes)
    with pytest.raises(ValueError, match=r"change the primary predictions by .* kappa_P is 1.*e\+"):
        ic.immunize.closed_form(X_P, y_P, X_H, kappa_P=kappa_P)
    kept = ic.immunize.closed_form(X_P, y_P, X_H, kappa_P=1.0)
    np.testing.assert_allclose(kept.features(X_P) @ kept.omega, y_P, rtol=0, atol=1e-5)


def test_sizes_and_labels_that_do_not_fit_are_told_by_the_arguments_name():
    X_P, y_P, X_H, y_H = tasks()
    faded, result = ic.linear.fade(X_P, X_H, y_H), ic.immunize.fade(X_P, y_P, X_H, y_H)
    for call, told in (
        (lambda: X_P[:, 1:] @ faded, r"^Z must have 8 columns, and has shape \(400, 7\)"),
        (lambda: faded @ np.ones(7), r"^omega must have 8 rows, and has shape \(7,\)"),
        (lambda: faded.solve(np.ones((7, 8))), r"^omega must have 8 rows"),
        (lambda: result.features(X_P[:, 1:]), r"^X must have 8 columns, and has shape \(400, 7\)"),
        (lambda: result.alignment(X_H[:, 1:], y_H), "^X_H must have 8 columns"),
        (lambda: result.alignment(np.full((3, 8), np.nan), y_H), "^X_H must be finite"),
        (lambda: result.alignment(X_H, y_H[1:]), "^y_H must have 400 labels, as X_H rows"),
        (lambda: ic.immunize.fade(X_P, y_P, X_H, y_H[1:]), "^y_H must have 400 labels, as X_H"),
        (lambda: ic.immunize.fade(X_P, y_P, X_H, y_H * 0), "^y_H is constant"),
    ):
        with pytest.raises(ValueError, match=told):
            call()
    for y in (None, y_H + 1j):
        for call in (lambda y=y: ic.immunize.fade(X_P, y_P, X_H, y),
                     lambda y=y: result.alignment(X_H, y)):  # fmt: skip
            with pytest.raises(TypeError, match=r"^y_H must hold"):
                call()
