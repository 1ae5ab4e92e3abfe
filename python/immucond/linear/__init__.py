"""Closed-form analysis of linear extractors: what a theta does, and the most any theta can do.

Everything here works on ``H(theta) = theta^T K theta``, the Hessian of linear probing under the
squared loss, for a primary task P (to keep easy) and a harmful task H (to make hard).
"""

from ._alignment import Alignment, alignment
from ._alignment_limit import AlignmentLimit, alignment_limit
from ._curves import Frontier, NoiseCurve, frontier, noise_curve
from ._erasure import Erasure, ErasurePath, erasure, erasure_path
from ._extractor import blind_extractor, leveling_rotation, optimal_extractor
from ._fade import fade
from ._fade_map import FadeMap
from ._joint import JointImmunity, joint_extractor
from ._limit import ImmunityLimit, immunity_limit
from ._nearest import nearest_extractor
from ._report import ImmunityReport, immunity
from ._sampling import Leak, expected_sampling_ratio, leak, rows_needed, sampling_ratio
from ._spectrum import (
    Distortion,
    Majorization,
    distortion,
    majorization,
    rayleigh_spectrum,
    relative_angles,
)
from ._steps import step_interval

__all__ = [
    "Alignment", "AlignmentLimit", "Distortion", "Erasure", "ErasurePath", "FadeMap", "Frontier",
    "ImmunityLimit", "ImmunityReport", "JointImmunity", "Leak", "Majorization", "NoiseCurve",
    "alignment", "alignment_limit", "blind_extractor", "distortion", "erasure", "erasure_path",
    "expected_sampling_ratio", "fade", "frontier", "immunity", "immunity_limit", "joint_extractor",
    "leak", "leveling_rotation", "majorization", "nearest_extractor", "noise_curve",
    "optimal_extractor", "rayleigh_spectrum", "relative_angles", "rows_needed", "sampling_ratio",
    "step_interval",
]  # fmt: skip
