"""Numbers as tables and JSON files show them."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np


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


def plain(value: Any) -> Any:
    """Plain Python values that JSON can hold; an infinite number is the string "inf" or "-inf"."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if isinstance(value, float) and math.isinf(value) else value
