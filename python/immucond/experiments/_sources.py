"""Where data and networks lie: a folder of the user's, an import path, or a download."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .._errors import extra

VARIABLE, MODELS = "IMMUCOND_DATA", "IMMUCOND_MODELS"
_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def named_folder(data_dir: Path | None) -> Path | None:
    """Folder of data that was given, or that the environment names; None for neither."""
    named = os.environ.get(VARIABLE)
    return data_dir or (Path(named) if named else None)


def data_folder(data_dir: Path | None, name: str, files: Sequence[str]) -> Path | None:
    """Folder that holds all the files: ``DIR/name`` or DIR itself; None where none was named.

    Parameters
    ----------
    data_dir : Path or None
        DIR; by default the environment variable ``IMMUCOND_DATA``.
    name : str
        Its subfolder for this data set.
    files : sequence of str
        What must be there, as it is or with ``.gz`` appended.

    Raises
    ------
    FileNotFoundError
        If a folder was named and files are missing from it.
    """
    origin = "" if data_dir else f" (from {VARIABLE})"
    data_dir = named_folder(data_dir)
    if data_dir is None:
        return None
    if not data_dir.is_dir():
        raise FileNotFoundError(f"the data folder {data_dir}{origin} does not exist")
    for folder in (data_dir / name, data_dir):
        missing = [file for file in files if find(folder, file) is None]
        if not missing:
            return folder
        if folder.name == name and folder.is_dir():
            break
    raise FileNotFoundError(f"{folder}{origin} has no {', '.join(missing)}")


def find(folder: Path, file: str) -> Path | None:
    """Path of a file, or of its .gz."""
    return next((p for p in (folder / file, folder / f"{file}.gz") if p.is_file()), None)


def openml(name: str, version: int, read: Callable[[Any], Any], wanted: str) -> Any:
    """Download a data set through scikit-learn, which keeps it for the next time.

    Parameters
    ----------
    name, version : str, int
        Of the data set.
    read : callable
        What to make of the Bunch that scikit-learn returns.
    wanted : str
        What a user may give instead, for the message.

    Raises
    ------
    FileNotFoundError
        If it cannot be had.
    """
    with extra("experiments"):
        from sklearn.datasets import fetch_openml
    try:
        bunch = fetch_openml(name, version=version, as_frame=True)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"no data: give --data-dir or set {VARIABLE} to a folder with {wanted}; "
            f"the download of {name} from OpenML failed ({error})"
        ) from error
    return read(bunch)


def is_import_path(text: str) -> bool:
    """Whether it reads like ``package.module:name``."""
    return _IMPORT_PATH.fullmatch(text) is not None


def imported(path: str) -> Any:
    """Return the object at a path; a function is called, without arguments.

    Raises
    ------
    ValueError
        Where there is no such module, or no such name in it.
    """
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: there is no module {error.name}") from error
    except AttributeError as error:
        raise ValueError(f"{path}: {error}") from error
    return found() if callable(found) else found


def located(spec: str) -> str:
    """Return the folder or the id of a network that is to be loaded.

    A folder as it stands or within the one that ``IMMUCOND_MODELS`` names, an import path
    ``package.module:name`` of a folder or an id, or an id.
    """
    if Path(spec).exists():
        return spec
    if is_import_path(spec):
        return str(imported(spec))
    among = Path(os.environ.get(MODELS, ".")) / spec
    return str(among) if among.is_dir() else spec
