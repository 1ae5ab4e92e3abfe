"""Numbers as tables show them."""

import math

import pytest

from immucond.experiments._format import brief, number
from immucond.experiments._summary import cell


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"), (1.0, "1"), (0.01234, "0.0123"), (99.96, "100"), (1234.5, "1234"),
        (12345.0, "1.23e4"), (0.00123, "1.23e-3"), (math.inf, "inf"),
    ],
)  # fmt: skip
def test_three_digits(value, shown):
    assert number(value) == shown


def test_a_spread_of_zero_is_left_out():
    assert cell([{"x": 0}, {"x": 0}], "x") == "0"
    assert cell([{"x": 2.0}], "x") == "2"
    assert cell([{"x": 1.0}, {"x": 3.0}], "x") == "2 ± 1.41"


@pytest.mark.parametrize(
    ("value", "text"), [(1e-6, "1e-6"), (1e20, "1e20"), (0.25, "0.25"), (1.5e-10, "1.5e-10")]
)
def test_numbers_as_people_write_them(value, text):
    assert brief(value) == text
    assert float(text) == value
