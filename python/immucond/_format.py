"""Numbers as tables and JSON files show them."""

from __future__ import annotations

import math
import re
from typing import Any

from ._validate import plain as as_plain


def number(value: float) -> str:
    """Three digits in at most seven characters."""
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
    return _finite(as_plain(value))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
