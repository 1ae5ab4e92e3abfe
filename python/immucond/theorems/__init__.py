"""The theory, executable: each theorem an object that says what it claims and checks it.

Those of the paper as printed, what is true where they are not, and what goes beyond them; the
proofs of what is ours stand on the documentation page "Theory".
"""

from ._bounds import BOUNDS
from ._deep import DEEP
from ._distortion import DISTORTION
from ._examination import Counterexample, Examination, examine
from ._gradients import GRADIENTS
from ._limit import LIMIT
from ._probing import PROBING
from ._singular import SINGULAR
from ._spectrum import SPECTRUM
from ._steps import STEPS
from ._theorem import Theorem
from ._verdict import Verdict

THEOREMS: dict[str, Theorem] = {
    theorem.name: theorem
    for group in (
        SPECTRUM, BOUNDS, GRADIENTS, STEPS, LIMIT, SINGULAR, DISTORTION, PROBING, DEEP
    )
    for theorem in group
}  # fmt: skip
"""Every theorem by its name."""

__all__ = ["THEOREMS", "Counterexample", "Examination", "Theorem", "Verdict", "examine"]
