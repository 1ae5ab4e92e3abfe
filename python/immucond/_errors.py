"""Errors and warnings of immucond."""

from __future__ import annotations


class ImmucondError(Exception):
    """Base of the errors that are immucond's own; bad arguments are plain ``ValueError``."""


class DegenerateSpectrumError(ImmucondError, ValueError):
    """All nonzero singular values are equal, and what was asked for is infinite there."""


class ConvergenceError(ImmucondError, RuntimeError):
    """A numerical routine failed on valid input."""


class DegenerateSpectrumWarning(UserWarning):
    """An extreme singular value is not simple: its vectors are one choice among many."""


class AccuracyWarning(UserWarning):
    """The smallest singular value is below what rounding leaves of it."""
