"""The theory, executable: each theorem an object that says what it claims and checks it.

Those of the paper as printed, what is true where they are not, and what goes beyond them; the
proofs of what is ours stand on the documentation page "Theory".
"""

from ._alignment import ALIGNMENT, Labelled
from ._bounds import BOUNDS, Matrix
from ._equivariance import EQUIVARIANCE, Adapted, Damped
from ._erasure import ERASURE, Erased
from ._examine import Counterexample, Examination, examine
from ._gauge import GAUGE, Pair
from ._gradients import GRADIENTS, Extractor, Features, Slope
from ._instances import Tasks
from ._limit import LIMIT, Frontier, Optimum
from ._optima import DEEP, OPTIMA, Net, Rescaled, SeveralTasks
from ._probing import PROBING, Descent, Probe
from ._singular import SINGULAR, Narrow, SingularTasks, Stretched
from ._specdef import SPECDEF, SpecDef
from ._spectrum import DISTORTION, SPECTRUM, Extraction, Samples
from ._steps import STEPS, Step
from ._theorem import Claim, Theorem, Verdict

THEOREMS: dict[str, Theorem] = {
    theorem.name: theorem
    for group in (
        SPECTRUM, BOUNDS, GRADIENTS, STEPS, LIMIT, OPTIMA, SINGULAR, DISTORTION, PROBING,
        DEEP, ALIGNMENT, GAUGE, EQUIVARIANCE, SPECDEF,
        ERASURE,
    )
    for theorem in group
}  # fmt: skip
"""Every theorem by its name."""

__all__ = [
    "THEOREMS",
    "Adapted",
    "Claim",
    "Counterexample",
    "Damped",
    "Descent",
    "Erased",
    "Examination",
    "Extraction",
    "Extractor",
    "Features",
    "Frontier",
    "Labelled",
    "Matrix",
    "Narrow",
    "Net",
    "Optimum",
    "Pair",
    "Probe",
    "Rescaled",
    "Samples",
    "SeveralTasks",
    "SingularTasks",
    "Slope",
    "SpecDef",
    "Step",
    "Stretched",
    "Tasks",
    "Theorem",
    "Verdict",
    "examine",
]  # fmt: skip
