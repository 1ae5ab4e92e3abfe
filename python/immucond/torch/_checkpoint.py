"""Checkpoints that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint under another name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with open(number, "wb") as file:
            torch.save(state, file)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def load(path: Path, device: torch.device, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the checkpoint at `path`, None where there is none; of these settings, or refuse."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    different = [key for key in settings if state["settings"].get(key) != settings[key]]
    if different:
        listed = ", ".join(
            f"{key}: {state['settings'].get(key)!r} there, {settings[key]!r} here"
            for key in different
        )
        raise ValueError(
            f"checkpoint {path} is of another run ({listed}); delete it or name another"
        )
    return state
