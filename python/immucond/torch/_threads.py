"""SciPy's BLAS never takes more threads than PyTorch was told to."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import scipy.linalg.cython_blas
import torch

_NAMES = (
    ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
    ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("openblas_get_num_threads64_", "openblas_set_num_threads64_"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
)


@cache
def _control() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    # A look-up in the wrapper module's handle searches the BLAS that it was linked to as well.
    library = ctypes.CDLL(scipy.linalg.cython_blas.__file__)
    for get, set_ in _NAMES:
        if hasattr(library, get) and hasattr(library, set_):
            setter = getattr(library, set_)
            setter.restype = None
            return getattr(library, get), setter
    return None


@contextmanager
def torch_threads() -> Iterator[None]:
    """Hold the BLAS to ``torch.get_num_threads()`` threads, where it would take more."""
    control = _control()
    allowed = torch.get_num_threads()
    before = control[0]() if control is not None else 0
    if control is None or before <= allowed:
        yield
        return
    control[1](allowed)
    try:
        yield
    finally:
        control[1](before)
