"""Deep networks: ``immucond deep``, ``leak``, ``cost``, ``attack``, ``erase`` and ``lock``.

What needs PyTorch and transformers is imported when it is first asked for.
"""

from importlib import import_module
from operator import attrgetter
from typing import Any

_HOMES = {
    "ATTACKERS": "_attackers",
    "AttackSettings": "_attack",
    "Attacks": "_attack",
    "BY_ROWS": "_settings",
    "Backbone": "_backbone",
    "CostSettings": "_cost",
    "Costs": "_cost",
    "DeepExperiment": "_experiment",
    "ERASERS": "_erased.METHODS",
    "EraseSettings": "_erased",
    "Erased": "_erased",
    "Leak": "_leak",
    "LeakSettings": "_leak",
    "LockSettings": "_lock",
    "Locked": "_lock",
    "METHODS": "_settings",
    "PRESETS": "_settings",
    "ImageFile": "_task",
    "LABELS": "_report",
    "PARAMS": "_settings",
    "Part": "_task",
    "Result": "_experiment",
    "Settings": "_settings",
    "Task": "_task",
    "Unaided": "_unaided",
    "as_json": "_report",
    "attack": "_attackers",
    "attack_release": "_attack",
    "cost": "_cost",
    "erase_release": "_erase",
    "figures": "_figures",
    "leak": "_leak",
    "load": "_data",
    "load_network": "_backbone.load",
    "load_saved": "_saved",
    "lock_release": "_lock",
    "parse_attackers": "_attack",
    "preset_settings": "_settings",
    "run": "_experiment.DeepExperiment.run",
    "tables": "_report",
    "task": "_task",
    "unaided": "_unaided",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, _, attribute = _HOMES[name].partition(".")
    found: Any = import_module(f".{home}", __name__)
    return attrgetter(attribute or name)(found)
