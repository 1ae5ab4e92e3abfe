"""How results are told: numbers in tables and JSON files, and whether the harmful task got harder.

An RIR above 1 alone does not say so.
"""

from __future__ import annotations

import math
import re
from typing import Any

from ._errors import ImmunityWarning, warn
from ._validate import plain as as_plain

# Two extractors that differ by a scale alone agree in kappa to rounding, not to the bit.
SLACK = 1e-8
# Two routes to an extractor of the same condition number agree to about this.
OF_EXTRACTORS = 1e-6
# Rows in single precision, run through a network twice, agree to about this.
OF_NETWORKS = 1e-3
MARK = " !"
NOTE = (
    "!: (i) is not above 1: the harmful condition number did not grow, and what RIR there is comes "
    "from the primary task."
)


def number(value: float) -> str:
    """Three digits in at most seven characters, and a sign."""
    if value < 0:
        return f"-{number(-value)}"
    if 100 <= value < 10_000:
        return f"{value:.0f}"
    if value == 0 or math.isinf(value) or 0.01 <= value < 100:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def brief(value: float, digits: int = 6) -> str:
    """As many digits as it needs, as people write them: 1e-6, not 1e-06."""
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{value:.{digits}g}")


def reworded(text: str) -> str:
    """Text whose numbers are written so: a message that Python's formats made."""
    return re.sub(r"(?<=\d)e(\+?)(-?)0*(?=\d)", r"e\2", text)


def listed(value: Any) -> str:
    """Value of a parameter: a number as `brief`, several with commas between them."""
    if isinstance(value, list | tuple):
        return f"({', '.join(map(listed, value))})"
    number_like = isinstance(value, float | int) and not isinstance(value, bool)
    return brief(value) if number_like else str(value)


def plain(value: Any) -> Any:
    """Plain Python values that JSON can hold; an infinite number is the string "inf" or "-inf"."""
    return finite(as_plain(value))


def finite(value: Any) -> Any:
    """Return numbers and arrays as Python's own, the string "inf" or "-inf" for an infinite one."""
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def easier(i: float, slack: float = SLACK) -> bool:
    """Whether the harmful task got easier by (i), beyond what the slack explains."""
    return i < 1.0 - slack


def not_harder(i: float, rir: float, slack: float = SLACK) -> str:
    """Say what became of the harmful task by (i); nothing where it got harder, or nothing moved."""
    if easier(i, slack):
        return "the harmful task got easier"
    moved = abs(rir - 1.0) > slack
    return "the harmful task got no harder" if moved and i <= 1.0 + slack else ""


def marked(told: str, i: float, rir: float) -> str:
    """Text of an RIR, marked where the harmful task got no harder; ``NOTE`` decodes the mark."""
    return told + MARK if not_harder(i, rir) else told


def times(i: float) -> str:
    """Text of (i) that does not round what is below 1 to 1."""
    return f"{i:.3g}" if abs(1.0 - i) >= 5e-3 else f"1 - {1.0 - i:.1e}"


def warn_if_easier(i: float, rir: float, remedy: str) -> None:
    """Warn where an extractor made the harmful task easier."""
    if easier(i, OF_EXTRACTORS):
        warn(
            f"the harmful task got easier: its condition number is {times(i)} times "
            f"what it was, (i), on the rows given, at a RIR of {rir:.3g}. {remedy}",
            ImmunityWarning,
        )
