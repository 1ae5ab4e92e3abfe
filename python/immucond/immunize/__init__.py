"""Making an extractor immune: Algorithm 1 of the paper, and the closed form that attains its limit.

Both return the same :class:`ImmunizationResult`.
"""

from ._algorithm1 import algorithm1
from ._closed_form import closed_form
from ._result import ImmunizationResult

__all__ = ["ImmunizationResult", "algorithm1", "closed_form"]
