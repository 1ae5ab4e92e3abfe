"""cuBLAS and cuSOLVER, from what PyTorch or the ``nvidia-*`` packages brought along."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

from ._module import CudaUnavailableError, module

_VERSIONS = {"cublas": (13, 12, 11), "cusolver": (12, 11)}


def candidates(library: str, folders: list[str] | None = None) -> list[str]:
    """Return names to try for a library: sonames, which find what is loaded, then files."""
    names = [f"lib{library}.so.{version}" for version in _VERSIONS[library]]
    found = [
        str(path)
        for folder in (sys.path if folders is None else folders)
        for pattern in (f"nvidia/*/lib/lib{library}.so.*", f"torch/lib/lib{library}*.so*")
        for path in sorted(Path(folder or ".").glob(pattern), reverse=True)
    ]
    return names + found


@cache
def bound_module() -> Any:
    """Return the compiled module with cuBLAS and cuSOLVER behind it."""
    cuda = module()
    if not cuda.libraries_bound():
        try:
            cuda.bind_libraries(candidates("cublas"), candidates("cusolver"))
        except cuda.MissingLibrary as error:
            raise CudaUnavailableError(str(error)) from error
    return cuda
