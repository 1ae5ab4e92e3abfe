"""The parts of `immucond.probing` that profiles of networks share with it."""

from ._ceiling import blind as blind
from ._whitened import ConstantError as ConstantError
