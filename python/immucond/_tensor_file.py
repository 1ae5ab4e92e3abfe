"""Arrays by name in one safetensors file, with what they are: `safetensors` is imported in use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ._errors import extra
from ._files import whole
from ._validate import Array

_VERSION = "1"  # of what the files hold; another one is not guessed at


def write_tensors(
    path: str | os.PathLike[str], kind: str, tensors: Mapping[str, Array], about: Mapping[str, str]
) -> None:
    """Write the arrays, whole or not at all, with `kind` and `about` as the file's metadata."""
    with extra("safetensors"):
        from safetensors.numpy import save
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    data = save(arrays, {"kind": f"immucond.{kind}", "version": _VERSION, **about})
    with whole(path) as file:
        file.write(data)


def read_tensors(
    path: str | os.PathLike[str], kind: str, dtypes: Mapping[str, str]
) -> tuple[dict[str, Array], dict[str, str]]:
    """Return what `write_tensors` wrote.

    Parameters
    ----------
    path : path-like
        The file.
    kind : str
        What it must hold.
    dtypes : mapping
        The arrays that it must hold, and no others, with the dtype of each.

    Returns
    -------
    tensors, about : dict
        Finite arrays of these names, and the metadata.

    Raises
    ------
    OSError
        Where the file cannot be read.
    ValueError
        Where it is something else.
    """
    with extra("safetensors"):
        from safetensors import SafetensorError, safe_open
    name = os.fspath(path)
    with Path(name).open("rb"):  # Python's own errors for what is not there
        pass
    try:
        with safe_open(name, framework="np") as file:
            about: dict[str, str] = file.metadata() or {}
            _check_kind(name, about, kind)
            held = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
            wanted = {key: _CODES[dtype] for key, dtype in dtypes.items()}
            if held != wanted:
                raise ValueError(f"{name} must hold the arrays {wanted}, and holds {held}")
            tensors: dict[str, Any] = {key: file.get_tensor(key) for key in wanted}
    except SafetensorError as error:
        raise ValueError(f"{name} is no safetensors file: {error}") from error
    for key, array in tensors.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{key} in {name} must be finite, and holds NaN or infinity")
    return tensors, about


_CODES = {"float64": "F64", "int64": "I64"}


def _check_kind(name: str, about: Mapping[str, str], kind: str) -> None:
    there, version = about.get("kind"), about.get("version")
    if there != f"immucond.{kind}":
        found = "does not say what it holds" if there is None else f"holds {there}"
        raise ValueError(f"{name} must hold immucond.{kind}, and {found}")
    if version != _VERSION:
        raise ValueError(f"{name} must be of version {_VERSION}, and is of version {version}")
