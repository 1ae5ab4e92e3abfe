"""The decomposition that is taken where LAPACK's divide and conquer gives up."""

import numpy as np
import pytest

import immucond as ic
from immucond._svd import svd


@pytest.fixture
def gives_up(monkeypatch):
    def fails(A, full_matrices=True, compute_uv=True, hermitian=False):
        if compute_uv:
            raise np.linalg.LinAlgError("SVD did not converge")
        return decompose(A, compute_uv=False)

    decompose = np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", fails)


@pytest.mark.usefixtures("gives_up")
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (25, 25)])
def test_another_method_finds_the_same(shape, full):
    A = np.random.default_rng(0).normal(size=shape) * np.logspace(0, -12, shape[1])
    U, s, Vt = svd(A, full_matrices=full)
    k = min(shape)
    assert (U.shape, Vt.shape) == (
        ((shape[0],) * 2, (shape[1],) * 2) if full else ((shape[0], k), (k, shape[1]))
    )
    assert np.all(np.diff(s) <= 0.0)
    np.testing.assert_allclose((U[:, :k] * s) @ Vt[:k], A, atol=1e-14)
    np.testing.assert_allclose(U.T @ U, np.eye(U.shape[1]), atol=1e-13)
    np.testing.assert_allclose(Vt @ Vt.T, np.eye(Vt.shape[0]), atol=1e-13)


def test_what_is_not_a_number_is_no_matrix():
    with pytest.raises(ValueError, match="infs or NaNs"):
        svd(np.array([[1.0, np.nan], [0.0, 1.0]]))


@pytest.mark.usefixtures("gives_up")
def test_closed_forms_do_not_end_with_it():
    rng = np.random.default_rng(0)
    X_P, X_H, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 6)), rng.normal(size=40)
    assert ic.linear.immunity_limit(X_P=X_P, X_H=X_H).attained
    assert ic.linear.fade(X_P, X_H, y).rho < ic.linear.alignment(X_H, y).rho
    assert ic.linear.alignment_limit(X_P, X_H, y, kappa_P=10.0).attained < 1.0
    assert ic.probing.probe(X_H, y, method="lstsq", steps=1).above[-1] < 1e-9
    assert np.isfinite(ic.immunize.closed_form(X_P, y, X_H).theta).all()
