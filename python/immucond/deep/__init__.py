"""Networks: immunized against a harmful task, and measured before and after.

They need the extra ``torch``: ``pip install ".[torch]"`` in a clone.
"""

from .._errors import extra

with extra("torch"):
    import torch as _torch  # noqa: F401

from .._card import Card, card
from . import gauge
from ._activations import keep_activations
from ._cost import NetworkCost, attack_cost
from ._immunize import immunize
from ._leak import LeakProfile, leak_profile
from ._maps import NetworkFade
from ._monitor import Monitor
from ._objectives import Objective
from ._probes import linear_probes
from ._record import record
from ._recording import Recording
from ._report import DeepImmunization, DeepReport, immunity_report
from ._rir import DeepImmunity, rir
from ._saved import load_saved, save
from ._sharded import edit_weight
from ._trainer import TrainerMixin
from .attacks import Attack, AttackReport, Trial, attack
from .erasure import EraseResult, NetworkPath, Stage, erase, erasure_path, unlearn

__all__ = [
    "Attack",
    "AttackReport",
    "Card",
    "DeepImmunity",
    "DeepImmunization",
    "DeepReport",
    "EraseResult",
    "LeakProfile",
    "Monitor",
    "NetworkCost",
    "NetworkFade",
    "NetworkPath",
    "Objective",
    "Recording",
    "Stage",
    "TrainerMixin",
    "Trial",
    "attack",
    "attack_cost",
    "card",
    "edit_weight",
    "erase",
    "erasure_path",
    "gauge",
    "immunity_report",
    "immunize",
    "keep_activations",
    "leak_profile",
    "linear_probes",
    "load_saved",
    "record",
    "rir",
    "save",
    "unlearn",
]
