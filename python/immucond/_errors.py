"""Errors and warnings of immucond."""

from __future__ import annotations

from typing import Any


class ImmucondError(Exception):
    """Base of the errors that are immucond's own; bad arguments are plain ``ValueError``."""


class DegenerateSpectrumError(ImmucondError, ValueError):
    """All nonzero singular values are equal, and what was asked for is infinite there."""


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
