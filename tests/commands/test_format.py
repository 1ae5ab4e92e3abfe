"""Numbers as tables show them."""

import math

import pytest

from immucond._format import brief, listed, number, reworded
from immucond.experiments._report import cell, remarks


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"), (1.0, "1"), (0.01234, "0.0123"), (99.96, "100"), (1234.5, "1234"),
        (12345.0, "1.23e4"), (0.00123, "1.23e-3"), (math.inf, "inf"),
        (-0.25, "-0.25"), (-1234.5, "-1234"), (-0.00123, "-1.23e-3"), (-math.inf, "-inf"),
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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("kappa of H + 1e-06 I", "kappa of H + 1e-6 I"),
        ("at a RIR of 1.11e+05. Lower it", "at a RIR of 1.11e5. Lower it"),
        ("1e-10, 2e+20, 3e+00 and 4e-00", "1e-10, 2e20, 3e0 and 4e-0"),
        ("the word e+05, theta-0, case-0 and 3.5", "the word e+05, theta-0, case-0 and 3.5"),
    ],
)
def test_numbers_in_a_message(text, shown):
    assert reworded(text) == shown
    assert remarks("IMMA", [{"warnings": [text]}]) == [f"IMMA: {shown}."]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ((1.0, 10.0), "(1, 10)"), ([1e-06, 0.5], "(1e-6, 0.5)"), (1e19, "1e19"), (30, "30"),
        ("right", "right"), (True, "True"), ((1, (2.0, "x")), "(1, (2, x))"), (None, "None"),
    ],
)  # fmt: skip
def test_parameters_as_people_write_them(value, shown):
    assert listed(value) == shown
