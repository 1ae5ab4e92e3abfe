"""Erasure: what the primary task does not use is taken out of a network's weights."""

from ._erase import erase
from ._path import NetworkPath, erasure_path
from ._result import EraseResult, Stage
from ._unlearn import unlearn

__all__ = ["EraseResult", "NetworkPath", "Stage", "erase", "erasure_path", "unlearn"]
