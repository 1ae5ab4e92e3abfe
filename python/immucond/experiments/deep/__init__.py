"""Deep networks immunized: ``immucond deep``.

What needs PyTorch and transformers is imported when it is first asked for.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Backbone": "_backbone",
    "METHODS": "_methods",
    "PRESETS": "_presets",
    "ImageFile": "_task",
    "Part": "_task",
    "Result": "_run",
    "Settings": "_settings",
    "Task": "_task",
    "as_json": "_report",
    "figures": "_figures",
    "load": "_sources",
    "load_network": "_backbone.load",
    "load_saved": "_backbone",
    "preset_settings": "_presets",
    "run": "_run",
    "tables": "_report",
    "task": "_task",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, _, attribute = _HOMES[name].partition(".")
    return getattr(import_module(f".{home}", __name__), attribute or name)
