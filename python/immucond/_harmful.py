"""Whether the harmful task became harder: an RIR above 1 alone does not say so."""

from __future__ import annotations

from ._errors import ImmunityWarning
from ._warn import warn

# Two extractors that differ by a scale alone agree in kappa to rounding, not to the bit.
SLACK = 1e-8
# Two routes to an extractor of the same condition number agree to about this.
OF_EXTRACTORS = 1e-6
# Rows in single precision, run through a network twice, agree to about this.
OF_NETWORKS = 1e-3
MARK = " !"
NOTE = (
    "!: (i) is not above 1, so the harmful task got easier, or no harder; what RIR there is comes "
    "from the primary task."
)


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
