"""Reparameterizations that keep a network's function: found, used as locks, and removed.

An invertible map between two layers and its inverse after it change nothing that a network
computes, and everything about how fast gradient descent trains it: it is a preconditioner.
``groups`` finds these maps, ``equalize`` brings a network to the form that all of them share, and
``lock`` is the baseline that ``equalize`` removes. ``inserted`` names layers that add nothing.
"""

from ._equalize import Equalized, equalize
from ._find import groups
from ._group import GaugeGroup
from ._lock import insert_again as insert_again
from ._lock import lock
from ._merge import inserted

__all__ = ["Equalized", "GaugeGroup", "equalize", "groups", "inserted", "lock"]
