"""Step intervals: they hold inside and end where they say; test_theorems has the published ones."""

import copy
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import immucond as ic
from immucond.theorems import _steps

spectra = st.lists(st.floats(-2, 2), min_size=2, max_size=6).map(
    lambda logs: 10.0 ** np.sort(np.array(logs))[::-1]
)


def interval(sigma, regularizer, by_theta):
    if by_theta:
        return ic.linear.step_interval(regularizer, theta=np.eye(sigma.size), gram=np.diag(sigma))
    return ic.linear.step_interval(regularizer, np.diag(sigma))


cases = pytest.mark.parametrize("by_theta", [False, True])
either = pytest.mark.parametrize("regularizer", [ic.r_well, ic.r_ill], ids=["r_well", "r_ill"])


@cases
@either
@given(spectra, st.floats(0.001, 0.999))
def test_inside_kappa_moves_as_promised_and_at_the_end_it_is_back(
    regularizer, by_theta, sigma, share
):
    assume(np.all(sigma[:-1] / sigma[1:] > 1.02))
    step, kind = ic.theorems.Step(sigma, sigma.size, share), regularizer.name
    name = f"{kind.replace('_', '-')}-step{'-theta' if by_theta else ''}"
    verdict = ic.theorems.THEOREMS[name].check(step)  # inside, just beyond, and the library's end
    assert verdict.holds, verdict
    end = interval(sigma, regularizer, by_theta)
    assert end > 0
    if np.isfinite(end):  # kappa is continuous: at the sharp end it is what it was
        at_end = _steps.after(kind, by_theta, step.exact, step.p, Fraction(end))
        assert float(_steps.ratio(at_end)) == pytest.approx(sigma[0] / sigma[-1], rel=1e-4)


@cases
@either
def test_interval_depends_on_the_spectrum_alone(regularizer, by_theta):
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(2))
    sigma = np.array([8.6, 5.4, 4.5, 4.0])
    expected = interval(sigma, regularizer, by_theta)
    if by_theta:
        theta = u @ np.diag(np.sqrt(sigma)) @ v  # H = theta^T theta
        found = ic.linear.step_interval(regularizer, theta=theta, gram=np.eye(4))
    else:
        found = ic.linear.step_interval(regularizer, u @ np.diag(sigma) @ v)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@cases
@either
def test_units_of_the_step(regularizer, by_theta, scale):
    sigma = np.array([8.6, 5.4, 4.5, 4.0])
    power = {(ic.r_well, False): 0, (ic.r_well, True): -1, (ic.r_ill, False): 4,
             (ic.r_ill, True): 3}[regularizer, by_theta]  # fmt: skip
    found = interval(sigma * scale, regularizer, by_theta)
    assert found == pytest.approx(interval(sigma, regularizer, by_theta) * scale**power, rel=1e-9)


def test_end_beyond_the_float_range():
    with pytest.raises(OverflowError, match="scale the input"):
        ic.linear.step_interval(ic.r_ill, np.diag([3e150, 2e150, 1e150]))


def test_every_step_of_features_that_underflow():
    theta, gram = 1e-200 * np.diag([1.0, 0.5]), 1e-300 * np.eye(2)
    assert ic.linear.step_interval(ic.r_ill, theta=theta, gram=gram) == np.inf


def test_end_by_theta_beyond_the_float_range():
    K = np.diag([4.0, 3.9, 3.8, 2.0])
    unit = ic.linear.step_interval(ic.r_well, theta=np.eye(4), gram=K)
    for scale in (1e-150, 1e150):  # the Hessian itself is there, its cube is not
        found = ic.linear.step_interval(ic.r_well, theta=np.eye(4) * scale, gram=K)
        assert found * scale * scale == pytest.approx(unit, rel=1e-12)
    with pytest.raises(OverflowError, match="scale the input"):
        ic.linear.step_interval(ic.r_well, theta=np.eye(4) * 1e-160, gram=K)
    assert ic.linear.step_interval(ic.r_well, theta=np.eye(4) * 1e165, gram=K) == 0.0
    assert np.isfinite(ic.linear.step_interval(ic.r_ill, theta=np.eye(4), gram=K))
    assert ic.linear.step_interval(ic.r_ill, theta=np.eye(4) * 1e-160, gram=K) == 0.0
    with pytest.raises(OverflowError, match="scale the input"):
        ic.linear.step_interval(ic.r_ill, theta=np.eye(4) * 1e160, gram=K)


@pytest.mark.filterwarnings("error")
def test_an_end_beyond_the_float_range_says_so_and_no_more():
    with pytest.raises(OverflowError, match="scale the input"):
        ic.linear.step_interval(ic.r_well, theta=np.eye(2) * 1e-318, gram=np.diag([2.0, 1.0]))


def test_known_cases():
    assert ic.linear.step_interval(ic.r_ill, np.diag([2.0, 1.0])) == np.inf  # k = 2
    assert ic.linear.step_interval(ic.r_ill, np.diag([3.0, 1.0, 1.0])) == np.inf  # k = 2 * 2
    assert ic.linear.step_interval(ic.r_well, [[3.0, 0.0], [0.0, 0.0]]) == 0.0  # rank 1


@cases
@either
@pytest.mark.filterwarnings("ignore::immucond.DegenerateSpectrumWarning")
@given(spectra, st.integers(2, 3), st.floats(0.001, 0.999), st.integers(0, 2**32 - 1))
def test_ties_move_with_the_mean_of_their_gradients(regularizer, by_theta, others, m, share, seed):
    assume(np.all(others[:-1] / others[1:] > 1.02))
    sigma = np.sqrt(others / others[0 if regularizer is ic.r_well else -1])
    sigma = np.sort(np.append(np.ones(m - 1), sigma))[::-1]
    u, v = (np.linalg.qr(np.random.default_rng(seed + i).normal(size=(sigma.size,) * 2))[0]
            for i in range(2))  # fmt: skip
    if by_theta:
        S = (u * np.sqrt(sigma)) @ v
        end = ic.linear.step_interval(regularizer, theta=S, gram=np.eye(len(S)))
        _, slope = regularizer.value_and_grad_theta(S, np.eye(len(S)), preconditioned=True)
    else:
        S = (u * sigma) @ v
        end = ic.linear.step_interval(regularizer, S)
        _, slope = regularizer.value_and_grad(S)

    def kappa(eta):
        return float(np.linalg.cond(S - eta * slope))

    most = end if np.isfinite(end) else 1e3 * (np.mean(sigma**2) - sigma[-1] ** 2) ** 2
    way = -1.0 if regularizer is ic.r_well else 1.0
    assert way * (kappa(share * most) - kappa(0.0)) > -1e-12 * kappa(0.0)
    if np.isfinite(end):
        assert way * (kappa((1.0 + 1e-5) * end) - kappa(0.0)) <= 1e-9 * kappa(0.0)


@pytest.mark.parametrize("sigma", [[2.0, 2.0, 2.0], [2.0, 2.0, 0.0]])
@cases
def test_r_well_has_no_step_at_equal_singular_values(sigma, by_theta):
    assert interval(np.array(sigma), ic.r_well, by_theta) == 0.0


@pytest.mark.parametrize("sigma", [[2.0, 2.0, 2.0], [2.0, 2.0, 0.0], [2.0, 0.0, 0.0]])
@cases
def test_r_ill_has_no_step_at_equal_singular_values(sigma, by_theta):
    with pytest.raises(ic.DegenerateSpectrumError, match="equal"):
        interval(np.array(sigma), ic.r_ill, by_theta)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({}, TypeError, "either S or both theta and gram"),
        ({"theta": np.eye(2)}, TypeError, "either S or both"),
        ({"S": np.eye(2), "theta": np.eye(2), "gram": np.eye(2)}, TypeError, "either S or both"),
        ({"S": np.zeros((2, 2))}, ValueError, "S"),
        ({"S": np.full((2, 2), np.nan)}, ValueError, "S"),
        ({"theta": np.zeros((2, 2)), "gram": np.eye(2)}, ValueError, "theta maps"),
        ({"theta": np.eye(2), "gram": [[1, 2], [0, 1]]}, ValueError, "gram"),
    ],
)
def test_bad_input_is_named(keywords, error, message):
    with pytest.raises(error, match=message):
        ic.linear.step_interval(ic.r_well, **keywords)


def test_only_proved_intervals():
    namesake = ic.SpectralRegularizer("r_well", 1, lambda s: (s.sigma_max, 1.0, 0.0, 0.0))
    for other in (ic.kappa, namesake):
        with pytest.raises(ValueError, match=r"regularizer must be ic\.r_well or ic\.r_ill"):
            ic.linear.step_interval(other, np.diag([2.0, 1.0]))
    with pytest.raises(TypeError, match=r"ic\.r_well or ic\.r_ill, got 'r_well'"):
        ic.linear.step_interval("r_well", np.diag([2.0, 1.0]))


def test_rank_of_the_matrix_itself():
    sigma = np.diag([4.0, 2.0, 1.0, 1e-9])
    assert ic.linear.step_interval(ic.r_ill, sigma, rank=2) == np.inf
    assert ic.linear.step_interval(ic.r_ill, sigma) < np.inf
    with pytest.raises(ValueError, match="rank is given as 3, and S has at most 2"):
        ic.linear.step_interval(ic.r_ill, np.diag([2.0, 1.0, 0.0]), rank=3)


@either
def test_copies_of_a_regularizer_are_the_regularizer(regularizer):
    """As another process gets them."""
    S = np.diag([4.0, 2.0, 1.0])
    end = ic.linear.step_interval(regularizer, S)
    for again in (
        copy.copy(regularizer), copy.deepcopy([regularizer])[0],
        pickle.loads(pickle.dumps(regularizer)),
    ):  # fmt: skip
        assert ic.linear.step_interval(again, S) == end
    own = ic.SpectralRegularizer("r_well", 2, regularizer.coefficients, takes_p=True)
    assert copy.copy(own) is not own
    with pytest.raises(ValueError, match=r"must be ic\.r_well or ic\.r_ill"):
        ic.linear.step_interval(pickle.loads(pickle.dumps(own)), S)
