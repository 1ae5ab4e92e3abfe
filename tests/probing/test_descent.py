"""The core's gradient descent along eigenvectors, against the same steps in 60 digits."""

import _thread
import sys
import threading
from decimal import Decimal
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from immucond import _core, probing

ENDLESS = 2**50


def by_mpmath(curvature, error, steps, step=0.0):
    """Excess loss and squared distance by step, from ``e <- (1 - eta h) e`` itself."""
    with mpmath.workdps(60):
        h, e = ([mpmath.mpf(float(x)) for x in given] for given in (curvature, error))
        excess, distance = [], []
        for _ in range(steps + 1):
            excess.append(float(mpmath.fsum(a * b * b for a, b in zip(h, e, strict=True))))
            distance.append(float(mpmath.fsum(b * b for b in e)))
            second, third = (
                mpmath.fsum(a**k * b * b for a, b in zip(h, e, strict=True)) for k in (2, 3)
            )
            eta = step or second / third
            e = [(1 - eta * a) * b for a, b in zip(h, e, strict=True)]
        return excess, distance


@pytest.mark.parametrize("step", [0.0, 1.0, 1.9])
@pytest.mark.parametrize("decades", [1, 2, 6, 12])
def test_every_step_is_that_of_exact_arithmetic(decades, step):
    rng = np.random.default_rng(decades)
    curvature, error = np.logspace(0, -decades, 7), rng.normal(size=7)
    taken = _core.descend(curvature, error, step=step, steps=40, stop=-1.0)
    for found, exact in zip(taken, by_mpmath(curvature, error, 40, step), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-9)


def test_a_million_steps_keep_nine_digits():
    """What a fast direction leaves falls below the range, and the slow one goes on to the digit."""
    curvature, error, steps = np.array([1.0, 0.3, 1e-7]), np.array([1.0, 1e-3, 1e3]), 10**6
    excess, distance = _core.descend(curvature, error, step=0.5, steps=steps, stop=0.0)
    with mpmath.workdps(60):
        left = float(1000000 * (1 - mpmath.mpf(0.5) * mpmath.mpf(1e-7)) ** (2 * steps))
    assert excess.size == distance.size == steps + 1
    assert distance[-1] == pytest.approx(left, rel=1e-9)
    assert excess[-1] == pytest.approx(1e-7 * left, rel=1e-9)


def test_it_ends_where_it_is_told_to_and_where_nothing_is_left():
    curvature, error = np.array([1.0, 0.5]), np.array([0.0, 1.0])
    excess, distance = _core.descend(curvature, error, step=0.0, steps=ENDLESS, stop=-1.0)
    assert excess.tolist() == [0.5, 0.0]
    assert distance.tolist() == [1.0, 0.0]
    excess, _ = _core.descend(curvature, error, step=1.0, steps=ENDLESS, stop=0.5 / 4**3)
    assert excess.tolist() == [0.5, 0.5 / 4, 0.5 / 16, 0.5 / 64]
    for steps in (0, 1, 5):
        excess, _ = _core.descend(curvature, error, step=1.0, steps=steps, stop=0.0)
        assert excess.size == steps + 1


def test_ctrl_c_ends_it():
    """The signal comes while the kernel runs: the other thread gets the GIL no sooner."""
    kernel_runs = threading.Lock()
    kernel_runs.acquire()

    def interrupt():
        with kernel_runs:
            _thread.interrupt_main()

    other = threading.Thread(target=interrupt)
    other.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e6)
    many = np.full(2**16, 1.0)
    try:
        kernel_runs.release()
        with pytest.raises(KeyboardInterrupt):
            _core.descend(many, many, step=1e-12, steps=ENDLESS, stop=-1.0)
    finally:
        sys.setswitchinterval(interval)
        other.join()


@pytest.mark.parametrize("error", [np.ones(3), np.ones((2, 1))])
def test_lengths_that_differ_are_refused(error):
    with pytest.raises(ValueError, match="vectors of one length"):
        _core.descend(np.ones(2), error, step=0.0, steps=1, stop=0.0)


def test_steps_up_to_the_largest_float():
    """Steps beyond all that descent needs: what is left is what no head explains, in silence."""
    Z, y = np.diag([1.0, 0.1, 1e-3])[:, :2], np.array([1.0, 1.0, 2.0])
    most = float(np.finfo(np.float64).max)
    with np.errstate(all="raise"):
        np.testing.assert_allclose(probing.loss_curve(Z, y, [1e300, most]), 4.0, rtol=1e-12)
        lower, _, upper = probing.attack_cost(Z, y, step=1.5).loss([1e300, most])
    assert np.all(lower <= 4.0)
    assert np.all(upper >= 4.0)
    np.testing.assert_allclose(upper, 4.0, rtol=1e-3)


def test_numbers_of_other_types_are_the_numbers():
    Z, y = np.diag([1.0, 0.1])[[0, 1, 1]], np.array([1.0, 1.0, 0.0])
    found = probing.probe(Z, y, tolerance=Decimal("0.25"))
    np.testing.assert_array_equal(found.loss, probing.probe(Z, y, tolerance=0.25).loss)
    assert probing.attack_cost(Z, y, step=Fraction(1, 2)).step == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"step must be below 2 / lambda_max = .*, and is 2.5"):
        probing.attack_cost(Z, y, step=Fraction(5, 2))
