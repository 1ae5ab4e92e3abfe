"""Linear probing of fixed features, from gradient descent to least squares: what immunity is worth.

kappa governs unpreconditioned first-order probing alone. A least-squares solve does not see it, and
how much any probe reads, `ceiling` tells.
"""

from ._attackers import LABELS, METHODS
from ._ceiling import RIDGES, Ceiling, ceiling
from ._compare import Comparison, Effort, compare
from ._cost import AttackCost, Bracket, attack_cost
from ._curve import loss_curve, steps_needed
from ._probe import ProbeTrace, probe

__all__ = [
    "LABELS",
    "METHODS",
    "RIDGES",
    "AttackCost",
    "Bracket",
    "Ceiling",
    "Comparison",
    "Effort",
    "ProbeTrace",
    "attack_cost",
    "ceiling",
    "compare",
    "loss_curve",
    "probe",
    "steps_needed",
]
