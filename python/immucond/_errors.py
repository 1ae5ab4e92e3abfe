"""Errors and warnings: their types, the line they point at, and what NumPy and imports raise."""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

_P = ParamSpec("_P")
_T = TypeVar("_T")


class ImmucondError(Exception):
    """Base of the errors that are immucond's own; bad arguments are plain ``ValueError``."""


class DegenerateSpectrumError(ImmucondError, ValueError):
    """All nonzero singular values are equal, and what was asked for is infinite there."""


class ToleranceError(ImmucondError, ValueError):
    """Nothing that was tried keeps what is to stay within the tolerance."""


class ConvergenceError(ImmucondError, RuntimeError):
    """A numerical routine failed on valid input."""


class DivergenceError(ImmucondError):
    """A method that iterates left the floating-point range.

    Attributes
    ----------
    result : object
        What the method returns, with the last iterate at which all was finite and the history up
        to it; None where there is none.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class DegenerateSpectrumWarning(UserWarning):
    """An extreme singular value is not simple: its vectors are one choice among many."""


class AccuracyWarning(UserWarning):
    """The smallest singular value is below what rounding leaves of it."""


class ImmunityWarning(UserWarning):
    """What was to be immunized is not, the harmful task got easier; or it could not be measured."""


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line of the user's program, whatever of ours lies between."""
    others = (getattr(sys.modules.get(name), "__file__", None) for name in ("torch", "sklearn"))
    files = [__file__, *filter(None, others)]
    # The last two stand between for torch.random.fork_rng and cached properties.
    ours = (
        *(str(Path(file).parent) + "/" for file in files), contextlib.__file__, functools.__file__
    )  # fmt: skip
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def warn_accuracy(name: str) -> None:
    """Say that the smallest singular value of what is called `name` is noise."""
    warn(
        f"the smallest nonzero singular value of {name} is not determined: rounding is as large as "
        "itself. Give the rank where it is known, a larger rtol, or the features instead of their "
        "Gram matrix",
        AccuracyWarning,
    )


def warn_tied(name: str, regularizer: str) -> None:
    """Say that a gradient is a subgradient, at a tie of an end that the regularizer uses."""
    warn(
        f"an extreme singular value of {name} that {regularizer} uses is not simple to rounding: "
        "the gradient takes the mean over the tied group",
        DegenerateSpectrumWarning,
    )


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn a failed import into one that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f'{error.name} is not installed: pip install "immucond[{name}]", or in a clone '
            f'pip install ".[{name}]"',
            name=error.name,
        ) from error


def underflow_is_zero(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let underflow give 0 within a function, under ``np.errstate(all="raise")`` too.

    A converging iteration ends in it, and 0 is right. Overflow, NaN and division by zero stay as
    the caller has set them.
    """

    @functools.wraps(function)
    def quiet(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with np.errstate(under="ignore"):
            return function(*args, **kwargs)

    return quiet
