"""What NumPy is to make of numbers that leave the range, whatever the caller has set."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np

_P = ParamSpec("_P")
_T = TypeVar("_T")


def underflow_is_zero(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let underflow give 0 within a function, under ``np.errstate(all="raise")`` too.

    A converging iteration ends in it, and 0 is right. Overflow, NaN and division by zero stay as
    the caller has set them.
    """

    @wraps(function)
    def quiet(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with np.errstate(under="ignore"):
            return function(*args, **kwargs)

    return quiet
