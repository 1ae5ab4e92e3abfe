"""Band Lanczos for the device: its steps by emulation, and when the host takes them for done."""

from fractions import Fraction

import numpy as np
import pytest
from immucond._emulation import Lanczos, measure
from matrices import with_eigenvalues

from immucond.cuda._large import MOST, WIDTH, largest, start

N = 60


class Steps(Lanczos):
    """The emulated steps, with what the device's own have beside."""

    def combine(self, coefficients):
        return coefficients.T @ self.basis(coefficients.shape[0])


class HostSteps:
    """The same in NumPy, for sizes that the emulation is too slow for."""

    def __init__(self, A):
        self.n, self.A = A.shape[0], A
        self.V = start(self.n)
        self.T = np.zeros((MOST + WIDTH, MOST))

    def advance(self, first, last):
        for j in range(first, last):
            w = self.A @ self.V[:, j]
            for _ in range(2):
                c = self.V.T @ w
                w -= self.V @ c
                self.T[: c.size, j] += c
            self.T[c.size, j] = np.linalg.norm(w)
            self.V = np.column_stack([self.V, w / max(self.T[c.size, j], 1e-300)])

    def projection(self, k):
        return self.T[: k + WIDTH, :k]

    def combine(self, coefficients):
        return (self.V[:, : len(coefficients)] @ coefficients).T


def emulated(A, **options):
    return Steps(A, start(len(A)).T.copy(), min(MOST, len(A) - WIDTH), **options)


def spectrum(kind, n):
    rng = np.random.default_rng(0)
    inside = np.sort(rng.random(n - 2))
    return {
        "separated": np.append(inside, [1.5, 2.0]),
        "close": np.append(inside, [2.0 - 1e-6, 2.0]),
        "double": np.append(inside, [2.0, 2.0]),
        "too close": np.append(inside, [2.0 - 1e-13, 2.0]),
    }[kind]


def test_the_steps_keep_the_relation_and_the_basis_orthonormal():
    A = with_eigenvalues(np.random.default_rng(1), N, spectrum("separated", N))
    steps, k = emulated(A), 20
    steps.advance(0, 8)
    steps.advance(8, k)
    V, T = steps.basis(k + WIDTH).T, steps.projection(k)
    assert np.abs(A @ V[:, :k] - V @ T).max() < 1e-14
    assert np.abs(V.T @ V - np.eye(k + WIDTH)).max() < 1e-14
    assert np.abs(T[:k] - T[:k].T).max() < 1e-14


def test_the_steps_have_the_same_bits_in_any_order():
    A = with_eigenvalues(np.random.default_rng(1), N, spectrum("separated", N))
    found = []
    for seed in range(3):
        steps = emulated(A, seed=100 * seed)
        steps.advance(0, 6)
        found.append((steps.projection(6), steps.basis(8)))
    for T, V in found[1:]:
        assert np.array_equal(T, found[0][0])
        assert np.array_equal(V, found[0][1])


@pytest.mark.parametrize("make", [emulated, HostSteps])
@pytest.mark.parametrize("kind", ["separated", "close"])
def test_the_top_and_its_neighbour(make, kind):
    values = spectrum(kind, N)
    A = with_eigenvalues(np.random.default_rng(2), N, values)
    end = largest(make(A), 1e-14)
    assert abs(end.value - 2.0) < 1e-13
    assert abs(end.next - np.sort(values)[-2]) <= end.next_error + 1e-13
    v = np.asarray(end.vectors)[0]
    assert np.isclose(np.linalg.norm(v), 1.0, rtol=1e-12)
    assert np.linalg.norm(A @ v - end.value * v) < 1e-12


def test_where_nearly_all_agree():
    assert largest(HostSteps(np.diag(np.append(np.ones(138), 1e-7))), 1e-14) is None


@pytest.mark.parametrize("kind", ["double", "too close"])
def test_ends_that_may_not_be_simple_are_left_alone(kind):
    A = with_eigenvalues(np.random.default_rng(3), N, spectrum(kind, N))
    assert largest(HostSteps(A), 1e-14) is None


def test_what_does_not_converge_is_left_alone():
    assert largest(HostSteps(np.diag(np.linspace(1.0, 1.0 + 1e-4, 3000))), 1e-14) is None
    assert largest(HostSteps(np.full((50, 50), np.nan)), 1e-14) is None
    assert largest(HostSteps(np.zeros((50, 50))), 1e-14) is None
    assert largest(HostSteps(np.diag([3.0, 2.0, 1.0])), 1e-14) is None  # no room for a projection


def test_an_invariant_subspace_is_not_taken_for_the_whole():
    # From vectors within a subspace the basis ends early: rounding, divided by itself, goes on.
    A = np.diag(np.append(np.ones(N - 1), 3.0))
    end = largest(HostSteps(A), 1e-14)
    assert end is None or abs(end.value - 3.0) < 1e-13


@pytest.mark.parametrize("count", [1, 63, 1000])
def test_sums_of_squares_cancel_nothing(count):
    x = np.random.default_rng(4).normal(size=count) * 10.0 ** np.arange(count).clip(max=9)
    parts = measure(x)
    exact = sum((Fraction(v) ** 2 for v in x.tolist()), Fraction(0))
    found = sum((Fraction(v) for v in parts[:, :2].ravel().tolist()), Fraction(0))
    assert abs(found / exact - 1) < Fraction(1, 10**29)
    assert parts[:, 2].max() == np.abs(x).max()
    x[count // 2] = np.nan
    assert measure(x)[:, 2].max() == np.inf
