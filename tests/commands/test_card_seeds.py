"""Numbers of a card over seeds: medians and intervals, also of what lies beyond the budget."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from immucond._card._seeds import Bounds, over_seeds, within


@pytest.mark.parametrize("n", [3, 5, 6, 8, 9, 12, 17, 30])
def test_the_interval_is_that_of_the_sign_test(n):
    values = np.random.default_rng(n).lognormal(size=n)
    found = over_seeds([Bounds(x, x) for x in values])
    assert found.seeds == n
    assert found.median == Bounds(np.median(values), np.median(values))
    assert found.worst.lower == values.min()
    if n < 6:  # no interval has 95 %
        assert found.interval == Bounds(values.min(), values.max())
        assert found.level == 1.0 - 2.0 ** (1 - n)
        return
    # SciPy's two-sided interval, by the quantile test at level 95 %.
    theirs = stats.quantile_test(values, q=0.0, p=0.5).confidence_interval(0.95)
    assert found.interval == Bounds(theirs.low, theirs.high)
    k = sorted(values).index(found.interval.lower)
    assert found.level == pytest.approx(1.0 - 2.0 * stats.binom.cdf(k, n, 0.5), abs=1e-14)
    assert found.level >= 0.95


def test_fewer_than_three_seeds_have_no_interval():
    for n in (1, 2):
        found = over_seeds([Bounds(2.0, 2.0)] * n)
        assert (found.interval, found.level) == (None, None)
        assert found.told == f"no interval: {n} of 3 seeds"


steps = st.one_of(st.integers(1, 600), st.integers(601, 10**6))


@given(st.lists(st.tuples(steps, steps), min_size=1, max_size=9))
def test_what_is_beyond_the_budget_is_bounded(pairs):
    """The truth, were there no budget, lies within what is told."""

    def seen(value):
        return within(math.inf if value > 600 else float(value), 600.0)

    truth = [a / b for a, b in pairs]
    found = over_seeds([seen(a).over(seen(b)) for a, b in pairs])
    exact = over_seeds([Bounds(x, x) for x in truth])
    for name in ("median", "worst", "interval"):
        told, true = getattr(found, name), getattr(exact, name)
        if true is not None:
            assert told.lower <= true.lower * (1 + 1e-12)
            assert told.upper >= true.upper * (1 - 1e-12)
    if all(a <= 600 and b <= 600 for a, b in pairs):
        assert found == exact


@pytest.mark.parametrize(
    ("release", "other", "told"),
    [
        (80, 2, "40"), (math.inf, 28, "> 21.4"), (60, math.inf, "< 0.1"), (3, 0, "inf"),
        (math.inf, math.inf, "unknown"), (0, 0, "unknown"), (0, math.inf, "0"),
    ],
)  # fmt: skip
def test_a_quotient_is_told_as_far_as_it_is_known(release, other, told):
    assert str(within(release, 600.0).over(within(other, 600.0))) == told
