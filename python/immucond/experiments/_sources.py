"""Where real data lie: a folder of the user's, or a download."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .._extras import extra

VARIABLE = "IMMUCOND_DATA"


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
    if data_dir is None:
        if not os.environ.get(VARIABLE):
            return None
        data_dir, origin = Path(os.environ[VARIABLE]), f" (from {VARIABLE})"
    else:
        origin = ""
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
