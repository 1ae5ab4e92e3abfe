"""Iterations for the ends of a spectrum: never wrong, warm or cold, and direct where they stall."""

import dataclasses

import mpmath
import numpy as np
import pytest
import scipy.sparse.linalg
from hypothesis import assume, given
from hypothesis import strategies as st
from matrices import (
    EPS,
    GRAIN,
    exact_general,
    exact_psd,
    generators,
    on_grid,
    orthonormal,
    quiet,
    with_eigenvalues,
    with_singular_values,
)
from truth import DIGITS, assert_certified, true_eigenvalues, true_singular_values

import immucond as ic

# One row a problem: the function, its keywords, a matrix with exactly these singular values, and
# the power of them that the pairs are about.
PROBLEMS = {
    "psd": (ic.psd_extreme_pairs, "lanczos", exact_psd, 1),
    "tall": (ic.extreme_pairs, "lanczos", lambda s: exact_general(s, "tall"), 1),
    "wide": (ic.extreme_pairs, "lanczos", lambda s: exact_general(s, "wide"), 1),
    "square": (ic.extreme_pairs, "lanczos", lambda s: exact_general(s, "square"), 1),
    "features": (ic.feature_extreme_pairs, "lanczos", lambda s: exact_general(s, "tall"), 2),
    "samples": (ic.feature_extreme_pairs, "lanczos", lambda s: exact_general(s, "wide"), 2),
    "qr": (ic.feature_extreme_pairs, "qr", lambda s: exact_general(s, "tall"), 2),
    "gram": (ic.feature_extreme_pairs, "gram", lambda s: exact_general(s, "tall"), 2),
}
EVERY_PROBLEM = pytest.mark.parametrize("problem", PROBLEMS)
WARM_PROBLEMS = pytest.mark.parametrize("problem", ["psd", "tall", "wide", "square", "features"])


def solve(problem, A, **keywords):
    function, method, _, _ = PROBLEMS[problem]
    return quiet(function, A, **({"method": method} | keywords))


def matrix(problem, sigma):
    return PROBLEMS[problem][2](sigma)


def truth(problem, sigma):
    with mpmath.workdps(DIGITS):
        return [mpmath.mpf(s) ** PROBLEMS[problem][3] for s in np.sort(sigma)[::-1]]


# ---- spectra on the grid ----


def cluster(draw, count):
    """1 + gap * offsets: `count` values with one gap from 1e-1 to none, or two."""
    gap = 10.0 ** -draw(st.floats(1, 16))
    offsets = draw(
        st.sampled_from(
            [
                np.arange(count),
                np.minimum(np.arange(count), 1) * (1 + 1e-3 * np.arange(count)),
                np.arange(count) // 2,
                np.sqrt(np.arange(count)),
            ]
        )
    )
    return gap * offsets


SIZES = st.sampled_from([4, 5, 8, 13, 16, 24, 32, 64, 120])
CONDITIONS = st.one_of(st.floats(0.1, 1.0), st.floats(1.0, 9.0)).map(lambda e: 10.0**-e)


@st.composite
def spectra(draw, sizes=SIZES):
    """Full rank: a cluster or not at either end, and flat, random or graded in between."""
    n = draw(sizes)
    rng = draw(generators)
    low = draw(CONDITIONS)
    top = 1 - cluster(draw, draw(st.integers(1, min(5, n - 2))))
    bottom = low * (1 + cluster(draw, draw(st.integers(1, min(5, n - top.size - 1)))))
    inside = n - top.size - bottom.size
    high = (0.9 + low) / 2 if low > 0.5 else 0.9
    middle = draw(
        st.sampled_from(
            [
                np.full(inside, (low + high) / 2),
                low + (high - low) * rng.random(inside),
                np.linspace(low * 1.2, high, inside),
                np.geomspace(low * 1.2, high, inside),
            ]
        )
    )
    return rng.permutation(on_grid(np.concatenate([top, middle, bottom])))


def separated_spectrum(rng, n):
    """Simple ends, for certain."""
    inside = np.sort(0.2 + 0.6 * rng.random(n - 4))
    return rng.permutation(on_grid(np.concatenate([[1.0, 0.9], inside, [0.1, 0.05]])))


# ---- cold ----


@EVERY_PROBLEM
@given(sigma=spectra())
def test_the_truth_is_within_the_bounds(problem, sigma):
    assert_certified(solve(problem, matrix(problem, sigma)), truth(problem, sigma))


@given(
    rng=generators,
    n=st.integers(4, 9),
    exponent=st.integers(1, 15),
    kind=st.sampled_from(["graded", "one small", "close ends", "random"]),
    scale=st.sampled_from([1.0, 1e-150, 1e150]),
)
def test_the_truth_is_within_the_bounds_of_full_matrices_at_every_scale(
    rng, n, exponent, kind, scale
):
    small = 10.0**-exponent
    sigma = {
        "graded": np.geomspace(1, small, n),
        "one small": np.append(np.linspace(1, 0.8, n - 1), small),
        "close ends": np.concatenate([[1, 1 - small], np.full(n - 4, 0.7), [0.5 + small, 0.5]]),
        "random": 0.1 + rng.random(n),
    }[kind]
    H = with_eigenvalues(rng, n, sigma) * scale
    eigenvalues = true_eigenvalues(H)
    assume(eigenvalues[-1] > 0)
    assert_certified(quiet(ic.psd_extreme_pairs, H, method="lanczos"), eigenvalues)
    S = with_singular_values(rng, n + 2, n, sigma)
    exact = true_singular_values(S * scale)
    assert_certified(quiet(ic.extreme_pairs, S * scale, method="lanczos"), exact)
    Z = S * scale**0.5
    with mpmath.workdps(DIGITS):
        exact = [s**2 for s in true_singular_values(Z)]
    for method in ("lanczos", "qr", "gram"):
        assert_certified(quiet(ic.feature_extreme_pairs, Z, method=method), exact)


@EVERY_PROBLEM
@pytest.mark.parametrize("n", [4, 5, 6, 7, 12, 33, 64, 90, 120])
def test_separated_ends_are_found_to_rounding_by_iteration(problem, n):
    sigma = separated_spectrum(np.random.default_rng(n), n)
    pairs = solve(problem, matrix(problem, sigma), tol=None)
    exact = truth(problem, sigma)
    assert_certified(pairs, exact)
    # Features that are told which matrix to form leave the rest to "auto".
    by_size = {"qr": "qr", "gram": "gram", "features": "gram-lanczos", "samples": "gram-lanczos"}
    assert pairs.method == by_size.get(problem, "lanczos")
    assert pairs.rank == n
    # Of R, the top is certified with an allowance for what the factorization rounds.
    assert pairs.bound_max <= (200 if problem == "qr" else 4) * EPS * pairs.sigma_max
    assert pairs.bound_min <= 4 * EPS * pairs.sigma_min
    assert pairs.simple_max
    assert pairs.simple_min
    power = PROBLEMS[problem][3]
    assert np.isclose(pairs.gap_max, 1 - 0.9**power, rtol=0.1)
    assert np.isclose(pairs.gap_min, 2**power - 1, rtol=0.1)


@pytest.mark.parametrize("n", [4, 17, 64, 120])
def test_the_vectors_are_those_of_the_direct_method(n):
    sigma = separated_spectrum(np.random.default_rng(n), n)
    for problem in PROBLEMS:
        A = matrix(problem, sigma)
        pairs, direct = solve(problem, A), solve(problem, A, method="direct")
        for name in ("u_max", "v_max", "u_min", "v_min"):
            got, wanted = getattr(pairs, name), getattr(direct, name)
            # Components of equal size leave the sign open.
            assert abs(abs(got @ wanted) - 1) <= 1e-13
            assert min(np.abs(got - wanted).max(), np.abs(got + wanted).max()) <= 1e-12


@given(sigma=spectra(st.sampled_from([8, 16, 33, 64])), zeros=st.integers(1, 20))
def test_rank_deficient_matrices(sigma, zeros):
    assume(sigma.min() > 1e-7)
    sigma = np.concatenate([sigma, np.zeros(zeros)])
    k = np.count_nonzero(sigma)
    for problem in ("psd", "tall", "wide", "square", "features", "samples", "qr"):
        power = PROBLEMS[problem][3]
        for keywords in ({"rank": k}, {"rtol": 1e-8}):
            pairs = solve(problem, matrix(problem, sigma), **keywords)
            assert pairs.rank == k
            assert_certified(pairs, truth(problem, sigma))
            assert pairs.sigma_min > 0.5 * sigma[:k].min() ** power


@pytest.mark.parametrize("zeros", [1, 10, 50])
def test_clear_rank_is_found_by_pivoted_cholesky(zeros):
    sigma = np.concatenate([separated_spectrum(np.random.default_rng(zeros), 64), np.zeros(zeros)])
    for keywords in ({"rtol": 1e-8}, {"rank": 64}):
        pairs = solve("psd", exact_psd(sigma), **keywords)
        assert pairs.method == "lanczos"
        assert pairs.rank == 64
        assert_certified(pairs, truth("psd", sigma))


# ---- where it falls back ----


@pytest.mark.parametrize("multiplicity", [2, 3])
@pytest.mark.parametrize("end", ["max", "min"])
@pytest.mark.parametrize("n", [8, 40, 120])
@EVERY_PROBLEM
def test_equal_ends_are_left_to_the_direct_method(problem, n, end, multiplicity):
    sigma = np.sort(separated_spectrum(np.random.default_rng(n), n))
    if end == "max":
        sigma[-multiplicity:] = 1.0
    else:
        sigma[:multiplicity] = 0.0625
    pairs = solve(problem, matrix(problem, sigma))
    assert_certified(pairs, truth(problem, sigma))
    direct = {"features": "gram", "samples": "gram", "qr": "qr", "gram": "gram"}
    assert pairs.method == direct.get(problem, "direct")
    assert (pairs.simple_max, pairs.simple_min) == (end == "min", end == "max")


@pytest.mark.parametrize("gap", [1, 2, 8, 64, 512])
@pytest.mark.parametrize("end", ["max", "min"])
def test_ends_that_are_close_to_rounding(end, gap):
    sigma = np.sort(separated_spectrum(np.random.default_rng(gap), 64))
    sigma[:2] = 0.5, 0.5 + gap * GRAIN
    sigma[2:-2] = on_grid(0.55 + sigma[2:-2] / 4)
    if end == "max":
        sigma[-2] = 1 - gap * GRAIN
        sigma[0] = 0.25
    pairs = solve("psd", exact_psd(sigma))
    assert_certified(pairs, truth("psd", sigma))
    simple = pairs.simple_max if end == "max" else pairs.simple_min
    assert pairs.method == "direct" or gap > 1
    assert simple or gap == 1


def test_small_matrices_are_left_to_the_direct_method():
    for n in (1, 2, 3):
        sigma = np.linspace(1.0, 0.5, n)
        pairs = solve("psd", exact_psd(sigma))
        assert pairs.method == "direct"
        assert_certified(pairs, truth("psd", sigma))


# ---- auto ----


def test_auto_iterates_on_large_matrices_and_falls_back():
    rng = np.random.default_rng(0)
    sigma = separated_spectrum(rng, 2048)
    H = exact_psd(sigma)
    cold = ic.psd_extreme_pairs(H)
    assert cold.method == "lanczos"
    assert_certified(cold, truth("psd", sigma))
    # The same vectors with other values, all else at its place.
    sigma = on_grid(sigma * (1 - 1e-4 * rng.random(sigma.size)))
    warm = ic.psd_extreme_pairs(exact_psd(sigma), start=cold)
    assert warm.method == "lanczos"
    assert_certified(warm, truth("psd", sigma))
    sigma = np.sort(sigma)
    sigma[1] = sigma[0]
    with pytest.warns(ic.DegenerateSpectrumWarning, match="smallest"):
        pairs = ic.psd_extreme_pairs(exact_psd(sigma))
    assert pairs.method == "direct"
    assert_certified(pairs, truth("psd", sigma))


def test_direct_never_iterates():
    sigma = separated_spectrum(np.random.default_rng(1), 256)
    for problem in ("tall", "psd", "features"):
        A = matrix(problem, sigma)
        pairs = solve(problem, A, method="direct", start=solve(problem, A))
        assert "lanczos" not in pairs.method
        assert_certified(pairs, truth(problem, sigma))


# ---- warm ----

CHANGES = {
    "small": lambda rng, sigma: on_grid(sigma * (1 + 1e-6 * rng.normal(size=sigma.size))),
    "moderate": lambda rng, sigma: on_grid(sigma * (1 + 1e-3 * rng.normal(size=sigma.size))),
    "permuted": lambda rng, sigma: rng.permutation(sigma),
    "reversed": lambda rng, sigma: on_grid(1 + sigma.min() - sigma),
    "unrelated": lambda rng, sigma: on_grid(0.01 + 0.99 * rng.random(sigma.size)),
    "next best": lambda rng, sigma: swapped(sigma, 1),
    "third best": lambda rng, sigma: swapped(sigma, 2),
    "fourth best": lambda rng, sigma: swapped(sigma, 3),
}


def swapped(sigma, by):
    """The ends change places with others near them; their vectors stay."""
    order, new = np.argsort(sigma), sigma.copy()
    new[order[[0, by]]] = new[order[[by, 0]]]
    new[order[[-1, -1 - by]]] = new[order[[-1 - by, -1]]]
    return new


@WARM_PROBLEMS
@pytest.mark.parametrize("change", CHANGES)
@given(sigma=spectra(), rng=generators)
def test_a_warm_start_is_never_wrong(problem, change, sigma, rng):
    """The vectors stay as they are: the hardest case, since the start is then an exact eigenvector
    of another end."""
    start = solve(problem, matrix(problem, sigma))
    sigma = np.minimum(1.0, CHANGES[change](rng, sigma))
    pairs = solve(problem, matrix(problem, sigma), start=start)
    assert_certified(pairs, truth(problem, sigma))


@WARM_PROBLEMS
@given(sigma=spectra(), rng=generators, exponent=st.integers(-15, 1))
def test_a_warm_start_among_turning_vectors_is_never_wrong(problem, sigma, rng, exponent):
    A = matrix(problem, sigma)
    start = solve(problem, A)
    change = np.eye(A.shape[1]) + 10.0**exponent * rng.normal(size=(A.shape[1],) * 2)
    A = A @ change if problem != "psd" else change.T @ A @ change
    A = A if problem != "psd" else (A + A.T) / 2
    warm, direct = solve(problem, A, start=start), solve(problem, A, method="direct")
    assert warm.rank == direct.rank
    for end in ("max", "min"):
        error = abs(getattr(warm, f"sigma_{end}") - getattr(direct, f"sigma_{end}"))
        assert error <= getattr(warm, f"bound_{end}") + getattr(direct, f"bound_{end}")


@WARM_PROBLEMS
def test_a_slowly_changing_sequence(problem):
    rng = np.random.default_rng(2)
    n = 60
    A = matrix(problem, separated_spectrum(rng, n))
    start, iterated = None, 0
    for _ in range(12):
        change = np.eye(A.shape[1]) + 1e-3 * rng.normal(size=(A.shape[1],) * 2)
        A = A @ change if problem != "psd" else change.T @ A @ change
        A = A if problem != "psd" else (A + A.T) / 2
        warm, cold = solve(problem, A, start=start), solve(problem, A)
        assert abs(warm.sigma_max - cold.sigma_max) <= warm.bound_max + cold.bound_max
        assert abs(warm.sigma_min - cold.sigma_min) <= warm.bound_min + cold.bound_min
        assert warm.bound_min <= 1e-10 * warm.sigma_min
        iterated += warm.method.endswith("lanczos")
        start = warm
    assert iterated == 12


@pytest.mark.parametrize("place", [1, 2, 3, 10])
@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("n", [13, 24, 100])
def test_ends_that_change_places(n, spread, place):
    """As in training, where the singular vectors stay and the singular values move."""
    rng = np.random.default_rng(n)
    middle = np.linspace(1.5, 1.9, n - 5)
    sigma = np.concatenate([1 + spread * np.arange(4), middle, [2.0]])
    after = sigma.copy()
    after[[0, place]] = after[[place, 0]]
    q = orthonormal(rng, n, n)

    def with_vectors(values):
        H = (q * values) @ q.T
        return (H + H.T) / 2

    for turn in (lambda values: values, lambda values: 3 - values):  # the other end
        start = solve("psd", with_vectors(turn(sigma)))
        H = with_vectors(turn(after))
        warm, direct = solve("psd", H, start=start), solve("psd", H, method="direct")
        assert abs(warm.sigma_max - direct.sigma_max) <= warm.bound_max + direct.bound_max
        assert abs(warm.sigma_min - direct.sigma_min) <= warm.bound_min + direct.bound_min


@pytest.mark.parametrize("problem", ["psd", "tall", "wide", "features", "samples"])
def test_a_start_of_any_origin_will_do(problem):
    """From the direct method, which keeps no neighbours, from a known rank, and from itself."""
    rng = np.random.default_rng(3)
    sigma = separated_spectrum(rng, 40)
    A = matrix(problem, sigma)
    first = solve(problem, A)
    for start in (solve(problem, A, method="direct"), first, solve(problem, A, rank=7)):
        pairs = solve(problem, A, start=start)
        assert_certified(pairs, truth(problem, sigma))


def test_a_start_without_a_bottom_is_none():
    """From an operator whose inverse was not given."""
    sigma = separated_spectrum(np.random.default_rng(3), 40)
    H = exact_psd(sigma)
    start = ic.extreme_pairs(scipy.sparse.linalg.aslinearoperator(H))
    assert_certified(solve("psd", H, start=start), truth("psd", sigma))


@pytest.mark.parametrize("method", ["auto", "lanczos"])
def test_a_start_on_other_features_is_none(method):
    """Samples that share no feature with those of the start: what it carries over is zero."""
    sigma = separated_spectrum(np.random.default_rng(3), 40)
    Z = exact_general(sigma, "wide")
    old, new = np.hstack([Z, 0.0 * Z]), np.hstack([0.0 * Z, Z])
    start = ic.feature_extreme_pairs(old, method=method)
    pairs = ic.feature_extreme_pairs(new, method=method, start=start)
    assert_certified(pairs, truth("samples", sigma))
    value, cold = (ic.log_kappa.value_and_grad_features(new, start=s)[0] for s in (start, None))
    assert value == pytest.approx(cold, rel=1e-14)


@pytest.mark.parametrize("entry", [0.0, 1e-320, 1e-170, 1e300])
@pytest.mark.parametrize("ends", [("max",), ("min",), ("max", "min")])
@WARM_PROBLEMS
def test_a_start_of_any_length_will_do(problem, ends, entry):
    sigma = separated_spectrum(np.random.default_rng(3), 40)
    A = matrix(problem, sigma)
    start = solve(problem, A)
    names = [f"{vector}_{end}" for end in ends for vector in "uv"] + [
        f"neighbour_{e}" for e in ends
    ]
    start = dataclasses.replace(start, **{k: np.full_like(getattr(start, k), entry) for k in names})
    assert_certified(solve(problem, A, start=start), truth(problem, sigma))


@pytest.mark.parametrize("gap", [-np.inf, -1.0, 0.0, 1e-17, 0.5, 1e8, 1e300, np.inf, np.nan])
@pytest.mark.parametrize("kappa", [1e-320, 0.5, 1.0, 19.0, 21.0, 1e9, 1e300, np.inf, np.nan])
@pytest.mark.parametrize("entry", [1.0, 1e-170])
def test_what_a_start_claims_of_its_matrix_is_a_guess(kappa, gap, entry):
    """Where the bottom is sought first; where it is found is proved."""
    sigma = separated_spectrum(np.random.default_rng(3), 40)
    H = exact_psd(sigma)
    start = ic.psd_extreme_pairs(H, method="lanczos")
    vectors = {n: entry * getattr(start, n) for n in ("u_min", "v_min", "neighbour_min")}
    start = dataclasses.replace(start, condition_number=kappa, gap_min=gap, **vectors)
    pairs = ic.psd_extreme_pairs(H, method="lanczos", start=start)
    assert_certified(pairs, truth("psd", sigma))
    assert pairs.method == "lanczos"
    assert np.isclose(pairs.gap_min, 1.0, rtol=0.1)


@pytest.mark.parametrize("end", ["max", "min"])
@pytest.mark.parametrize("n", [20, 200, 1000])
def test_a_neighbour_that_the_start_does_not_know_is_seen(n, end):
    """Exact eigenvectors, that of the neighbour but one in the neighbour's place."""
    sigma = separated_spectrum(np.random.default_rng(n), n)
    H = exact_psd(sigma)
    start = ic.psd_extreme_pairs(H, method="lanczos")
    V = np.linalg.eigh(H)[1]
    start = dataclasses.replace(start, **{f"neighbour_{end}": V[:, -3 if end == "max" else 2]})
    pairs = ic.psd_extreme_pairs(H, method="lanczos", start=start)
    assert pairs.method == "lanczos"
    assert np.isclose(pairs.gap_max, 0.1, rtol=1e-3)
    assert np.isclose(pairs.gap_min, 1.0, rtol=1e-3)


def test_a_warm_start_pays_from_smaller_orders_on():
    """Where the rank was full: else the iteration would look for what is not there."""
    sigma = separated_spectrum(np.random.default_rng(3), 800)
    H = exact_psd(sigma)
    first = ic.psd_extreme_pairs(H)
    second = ic.psd_extreme_pairs(H, start=first)
    assert [first.method, second.method] == ["direct", "lanczos"]
    for end in ("max", "min"):
        bounds = getattr(first, f"bound_{end}") + getattr(second, f"bound_{end}")
        assert abs(getattr(first, f"sigma_{end}") - getattr(second, f"sigma_{end}")) <= bounds
    less = dataclasses.replace(second, rank=799)
    assert ic.psd_extreme_pairs(H, start=less).method == "direct"


@pytest.mark.parametrize("field", ["max", "min"])
@pytest.mark.parametrize("entry", [np.nan, np.inf, 1j])
@pytest.mark.parametrize("problem", [*PROBLEMS, "operator", "theta"])
def test_a_start_that_is_no_vector_is_refused(problem, field, entry):
    sigma = separated_spectrum(np.random.default_rng(3), 16)
    calls = {
        "operator": lambda H, **k: ic.psd_extreme_pairs(
            scipy.sparse.linalg.aslinearoperator(H), **k
        ),
        "theta": lambda H, **k: ic.r_well.value_and_grad_theta(np.eye(len(H)), H, **k),
    }
    A = matrix(problem if problem in PROBLEMS else "psd", sigma)
    call = calls.get(problem, lambda A, **k: solve(problem, A, **k))
    start = quiet(ic.extreme_pairs if problem == "wide" else ic.feature_extreme_pairs, A)
    broken = {f"{side}_{field}": entry * getattr(start, f"{side}_{field}") for side in "uv"}
    with pytest.raises(ValueError, match=r"^start must hold finite real vectors"):
        call(A, start=dataclasses.replace(start, **broken))


@pytest.mark.parametrize("hidden", [0.0, 0.9])
@pytest.mark.parametrize("n", [600, 2048])
def test_a_bottom_that_the_old_vectors_cannot_see(n, hidden):
    """A small end beside a large one, found through the ratio of the ends or by a fresh search."""
    rng = np.random.default_rng(5)
    Q = np.linalg.qr(rng.standard_normal((n, 3)))[0]
    sigma = np.array([1.0, 1e-7, 1.5e-7])

    def with_ends(Q, sigma):
        return 1e-2 * (np.eye(n) - Q @ Q.T) + (Q * sigma) @ Q.T

    start = ic.psd_extreme_pairs(with_ends(Q, sigma), method="lanczos")
    turned = np.linalg.qr(Q + 1e-5 * rng.standard_normal(Q.shape))[0]
    sigma[2] *= 1.0 - hidden  # 0.15e-7: what was the neighbour has crossed the end
    H = with_ends(turned, sigma)
    warm, direct = (
        ic.psd_extreme_pairs(H, method=m, start=s)
        for m, s in (("lanczos", start), ("direct", None))
    )
    assert warm.method == "lanczos"
    for end in ("max", "min"):
        bounds = getattr(warm, f"bound_{end}") + getattr(direct, f"bound_{end}")
        assert abs(getattr(warm, f"sigma_{end}") - getattr(direct, f"sigma_{end}")) <= bounds


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("size", [3, 15, 17])
def test_a_start_of_another_size_is_refused(problem, size):
    rng = np.random.default_rng(4)
    A = matrix(problem, separated_spectrum(rng, 16))
    start = ic.psd_extreme_pairs(np.diag(np.arange(1.0, size + 1)))
    needed = 64 if problem == "samples" else 16
    with pytest.raises(
        ValueError, match=rf"^start must be .* length {needed},? .* shape \({size},\)$"
    ):
        solve(problem, A, start=start)


# ---- tol ----


@EVERY_PROBLEM
@given(sigma=spectra(), exponent=st.integers(1, 14), warm=st.booleans(), rng=generators)
def test_a_coarse_tolerance_keeps_true_bounds(problem, sigma, exponent, warm, rng):
    start = None
    if warm:
        start = solve(problem, matrix(problem, CHANGES["moderate"](rng, np.minimum(sigma, 0.99))))
    pairs = solve(problem, matrix(problem, sigma), tol=10.0**-exponent, start=start)
    assert_certified(pairs, truth(problem, sigma))


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6, 1e-10])
@EVERY_PROBLEM
def test_errors_stay_below_the_tolerance(problem, tol):
    for seed in range(10):
        sigma = separated_spectrum(np.random.default_rng(seed), 64)
        pairs = solve(problem, matrix(problem, sigma), tol=tol)
        exact = truth(problem, sigma)
        assert_certified(pairs, exact)
        assert abs(pairs.sigma_max / exact[0] - 1) <= tol
        assert abs(pairs.sigma_min / exact[-1] - 1) <= tol


# ---- the same bits ----


@EVERY_PROBLEM
@pytest.mark.parametrize("n", [30, 300])
def test_same_input_same_bits(problem, n):
    rng = np.random.default_rng(n)
    sigma = separated_spectrum(rng, n)
    A, B = matrix(problem, sigma), matrix(problem, CHANGES["small"](rng, np.minimum(sigma, 0.99)))
    start = solve(problem, B)

    def bits(**keywords):
        pairs = vars(solve(problem, A.copy(), **keywords))
        return {name: np.asarray(value).tobytes() for name, value in pairs.items()}

    assert bits() == bits()
    assert bits(start=start) == bits(start=start)
    assert bits(tol=1e-5) == bits(tol=1e-5)


# ---- found by trying to break them ----


def test_three_values_close_to_the_noise():
    """Two starting vectors see two of them."""
    sigma = np.full(11, 0.5)
    sigma[[0, 5, 10, 8]] = 1 - 2.0**-45, 1 - 6 * 2.0**-46, 1.0, 0.02586734555970
    assert_certified(solve("psd", np.diag(sigma)), truth("psd", sigma))
    assert_certified(solve("psd", exact_psd(on_grid(sigma))), truth("psd", on_grid(sigma)))


@pytest.mark.parametrize("tol", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("spacing", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("count", [3, 4, 5])
def test_more_values_within_the_tolerance_than_starting_vectors(count, spacing, tol):
    top = 1 - spacing * tol * np.arange(count)
    sigma = on_grid(np.concatenate([top, np.full(15 - count, 0.5), [0.25]]))
    for seed in range(20):
        shuffled = np.random.default_rng(seed).permutation(sigma)
        assert_certified(solve("psd", exact_psd(shuffled), tol=tol), truth("psd", sigma))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([1.00000007, 0.04399942, 0.04399939, 0.99999911], [1 - 3e-12, 0.044, 0.044, 1 - 4e-12]),
        ([0.38, 0.19, 0.84, 0.34], [0.00058, 0.00058, 1.0, 0.00058]),
        ([1.0, 1.0, 6e-5, 6e-5], [6e-5, 6e-5, 1.0, 1.0]),
    ],
)
def test_an_invariant_subspace_from_the_start(before, after):
    """Lanczos has nothing left to do there, and must not fail over it."""
    start = solve("psd", np.diag(before))
    assert_certified(solve("psd", np.diag(after), start=start), sorted(after, reverse=True))


def test_close_ends_among_exact_eigenvectors():
    """The start spans an invariant subspace without the end, closer to it than its residuals."""
    sigma = np.concatenate(
        [1 - 1.7709293694337273e-10 * np.array([0, 1e-3, 1, 2]), np.full(7, 0.3)]
    )
    sigma = np.append(sigma, 0.1)
    for seed in range(600):
        rng = np.random.default_rng(seed)
        start = solve("psd", np.diag(rng.permutation(sigma)))
        pairs = solve("psd", np.diag(rng.permutation(sigma)), start=start)
        assert_certified(pairs, truth("psd", sigma))
