"""Arrays and a description in one .npz file, written whole and read without pickle."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._files import whole
from .._validate import plain

_VERSION = 1
_DESCRIPTION = "description"


def write_archive(
    path: str | os.PathLike[str],
    kind: str,
    description: dict[str, Any],
    arrays: dict[str, npt.NDArray[Any]],
) -> None:
    """Write an archive of a kind ("result", "checkpoint"): whole, or the old file stays."""
    heading = {"immucond": kind, "version": _VERSION} | plain(description)
    named: dict[str, Any] = {_DESCRIPTION: np.array(json.dumps(heading))} | arrays
    with whole(Path(path)) as file:
        np.savez(file, **named)


def read_archive(
    path: str | os.PathLike[str], kind: str
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read what `write_archive` wrote.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where it is no archive of this kind and version.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            arrays = {key: archive[key] for key in archive.files}
        heading = json.loads(str(arrays.pop(_DESCRIPTION)))
    except FileNotFoundError:
        raise
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{name} is not a {kind} of immucond: {error}") from error
    found = heading.pop("immucond", None), heading.pop("version", None)
    if found != (kind, _VERSION):
        raise ValueError(
            f"{name} must hold a {kind} of version {_VERSION}, and holds a {found[0]} of version "
            f"{found[1]}"
        )
    return heading, arrays
