"""kappa(H) from features beyond what float64 holds of H or of its QR factor."""

import mpmath as mp
import numpy as np
import pytest

import immucond as ic

SPECTRA = {
    "graded": lambda n, kappa: np.geomspace(1, kappa**-0.5, n),
    "nearly flat with one small": lambda n, kappa: np.r_[np.linspace(1, 0.9, n - 1), kappa**-0.5],
    "two small": lambda n, kappa: np.r_[np.linspace(1, 0.9, n - 2), np.array([3, 1]) * kappa**-0.5],
}


def orthonormal(rng, rows, cols):
    return np.linalg.qr(rng.normal(size=(rows, cols)))[0]


def true_eigenvalues(Z):
    """Ascending eigenvalues of the exact Z^T Z, in 80 digits."""
    with mp.workdps(80):
        exact = mp.matrix(Z.tolist())
        return sorted(mp.eigsy(exact.T * exact, eigvals_only=True))


@pytest.mark.parametrize("shape", [(8, 8), (30, 8), (8, 30)])
@pytest.mark.parametrize("kappa", [1e14, 1e18, 1e20, 1e22, 1e24])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_kappa_is_right_to_ten_digits_and_certified(spectrum, kappa, shape):
    rng = np.random.default_rng([shape[0], int(np.log10(kappa)), len(spectrum)])
    n = min(shape)
    Z = orthonormal(rng, max(shape), n) * SPECTRA[spectrum](n, kappa) @ orthonormal(rng, n, n).T
    Z = Z if shape[0] >= shape[1] else np.ascontiguousarray(Z.T)
    truth = true_eigenvalues(Z if shape[0] >= shape[1] else Z.T)
    pairs = ic.feature_extreme_pairs(Z)
    assert pairs.method == "qr"
    assert pairs.rank == n
    assert pairs.determined_min
    assert abs(pairs.sigma_min - truth[0]) <= pairs.bound_min
    assert abs(pairs.sigma_max - truth[-1]) <= pairs.bound_max
    assert abs(pairs.condition_number / (truth[-1] / truth[0]) - 1) < 1e-10
    # The certificate knows it: rounding up to 1e20, then as far as double-double carries.
    assert pairs.bound_min <= max(1e-15, 1e-10 * (kappa / 1e24) ** 2) * pairs.sigma_min


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_scale_does_not_matter(scale):
    rng = np.random.default_rng(3)
    Z = orthonormal(rng, 40, 6) * np.geomspace(1, 1e-10, 6) @ orthonormal(rng, 6, 6).T
    truth = true_eigenvalues(Z * scale)
    kappa = ic.condition_number(features=Z * scale)
    assert abs(kappa / (truth[-1] / truth[0]) - 1) < 1e-12


def test_smallest_vector_is_refined_too():
    rng = np.random.default_rng(4)
    Z = orthonormal(rng, 50, 6) * np.geomspace(1, 1e-11, 6) @ orthonormal(rng, 6, 6).T
    with mp.workdps(60):
        exact = mp.matrix(Z.tolist())
        _, vectors = mp.eigsy(exact.T * exact)
        truth = np.array([float(x) for x in vectors[:, 0]])
    v = ic.feature_extreme_pairs(Z).v_min
    assert min(np.abs(v - truth).max(), np.abs(v + truth).max()) < 1e-15


def test_close_small_values_keep_a_bound_that_holds():
    rng = np.random.default_rng(5)
    s = np.r_[1, 0.5, 1e-9 * np.array([1 + 1e-6, 1])]
    Z = orthonormal(rng, 20, 4) * s @ orthonormal(rng, 4, 4).T
    truth = true_eigenvalues(Z)
    with pytest.warns(ic.DegenerateSpectrumWarning, match="smallest"):
        pairs = ic.feature_extreme_pairs(Z)
    assert abs(pairs.sigma_min - truth[0]) <= pairs.bound_min < 1e-3 * pairs.sigma_min
