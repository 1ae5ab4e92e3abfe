"""The parts of `immucond.torch` that programs for whole networks share with the operators."""

from ._tokens import IGNORED as IGNORED
from ._tokens import token_mask as token_mask
