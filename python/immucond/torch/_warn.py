"""What the operators warn of."""

from __future__ import annotations

from .._errors import AccuracyWarning, DegenerateSpectrumWarning
from .._rank import Rule, cut_off
from .._warn import warn


def warn_tied(name: str, what: str) -> None:
    """Say that a gradient is a subgradient."""
    warn(
        f"an extreme singular value of {name} that {what} uses is not simple to rounding: the "
        "gradient takes the mean over the tied group",
        DegenerateSpectrumWarning,
    )


def warn_not_simple(name: str) -> None:
    """Say that vectors are one choice among many."""
    warn(
        f"an extreme singular value of {name} is not simple to rounding: its vectors are one "
        "choice among many",
        DegenerateSpectrumWarning,
    )


def warn_accuracy(name: str) -> None:
    """Say that sigma_min is noise."""
    warn(
        f"the smallest nonzero singular value of {name} is not determined: rounding is as large as "
        "itself. Give the rank where it is known, a larger rtol, or the features instead of their "
        "Gram matrix",
        AccuracyWarning,
    )


def warn_half(name: str, rank: int, size: int, rule: Rule) -> None:
    """Say how many singular values the rounding of half precision has left, if not all."""
    if told := cut_off(name, rank, size, rule):
        warn(told, AccuracyWarning)


def warn_second() -> None:
    """Say that derivatives of singular vectors are mostly noise."""
    warn(
        "derivatives of singular vectors, and second derivatives of the regularizers, have lost "
        "all but three digits or fewer: an extreme singular value lies too close to a neighbour or "
        "to zero, by the measure of sigma_max",
        AccuracyWarning,
    )
