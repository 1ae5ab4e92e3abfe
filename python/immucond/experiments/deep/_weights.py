"""Where the weights of a pre-trained network lie."""

from __future__ import annotations

import os
from pathlib import Path

from ._import import imported, is_import_path

VARIABLE = "IMMUCOND_MODELS"


def located(spec: str) -> str:
    """Return the folder or the id that is to be loaded.

    A folder as it stands or within the one that ``IMMUCOND_MODELS`` names, an import path
    ``package.module:name`` of a folder or an id, or an id.
    """
    if Path(spec).exists():
        return spec
    if is_import_path(spec):
        return str(imported(spec))
    among = Path(os.environ.get(VARIABLE, ".")) / spec
    return str(among) if among.is_dir() else spec
