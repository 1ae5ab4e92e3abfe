"""The compiled module for CUDA devices, with cuBLAS and cuSOLVER: loaded on first use.

Or why they are not there.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from .._errors import ImmucondError

# Of what PyTorch or the ``nvidia-*`` packages brought along.
_VERSIONS = {"cublas": (13, 12, 11), "cusolver": (12, 11)}


class CudaUnavailableError(ImmucondError, ImportError):
    """Raised where the CUDA kernels were not built, or the machine has no CUDA device."""


@cache
def _load() -> tuple[Any, str]:
    """Return the module, or None and why."""
    try:
        module = import_module("immucond._cuda")
    except ImportError as error:
        if error.name == "immucond._cuda":
            return (
                None,
                "not built: that takes nvcc and "
                "pip install --config-settings=cmake.define.IMMUCOND_CUDA=ON",
            )
        return None, f"not loaded: {error}"
    return module, ""


@cache
def _devices() -> tuple[tuple[dict[str, Any], ...], str]:
    module, why = _load()
    if module is None:
        return (), why
    try:
        found = tuple(module.devices())
    except module.CudaError as error:
        return (), f"no CUDA device: {error}"
    return found, "" if found else "no CUDA device"


def runs_on(architectures: str, capability: tuple[int, int]) -> bool:
    """Return whether what was built for these (CMake's names) runs on a device.

    Machine code runs on its own major capability from its minor one on, PTX on all from its own on.
    """
    major, minor = capability
    for name in architectures.split(", "):
        number, _, kind = name.partition("-")
        if not number.isdigit():  # "native", "90a"
            return True
        built = divmod(int(number), 10)
        if built <= (major, minor) and (kind != "real" or built[0] == major):
            return True
    return False


@cache
def _why_not(device: int | None) -> str:
    """Say why nothing runs, on this device or on any; empty where it does."""
    found, why = _devices()
    if not found:
        return why
    built = _load()[0].build_info()["architectures"]
    chosen = found if device is None else found[device : device + 1]
    if any(runs_on(built, one["capability"]) for one in chosen):
        return ""
    names = ", ".join(f"{one['name']} (sm_{_number(one['capability'])})" for one in chosen)
    return f"built for {built}, which do not run on {names}"


def module() -> Any:
    """Return the compiled module; `CudaUnavailableError` where it, or a device, is not there."""
    why = _why_not(None)
    if why:
        raise CudaUnavailableError(f"the CUDA kernels cannot run here: {why}")
    return _load()[0]


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


def available(device: int | None = None) -> bool:
    """Return whether the CUDA kernels can run: they were built, and the machine has a device.

    Parameters
    ----------
    device : int, optional
        On this one; on any by default.

    Examples
    --------
    >>> import immucond.cuda
    >>> immucond.cuda.available() in (True, False)
    True
    """
    return not _why_not(device)


def facts() -> dict[str, str]:
    """Tell what was built, for which architectures, and what the machine has."""
    built, why = _load()
    if built is None:
        return {"cuda": why}
    info = built.build_info()
    targets = ", ".join(_target(name) for name in info["architectures"].split(", "))
    about = {"cuda": f"{targets} ({info['compiler']}, runtime {_version(info['runtime'])})"}
    found, why = _devices()
    driver = built.driver_version()
    about["cuda driver"] = f"for {_version(driver)}" if driver else "none"
    about["cuda devices"] = why or "; ".join(
        f"{device['name']} (sm_{_number(device['capability'])}, "
        f"{device['multiprocessors']} multiprocessors, {device['memory_bytes'] / 2**30:.0f} GiB)"
        for device in found
    )
    return about


def _number(capability: tuple[int, int]) -> str:
    return "{}{}".format(*capability)


def _target(architecture: str) -> str:
    number, _, kind = architecture.partition("-")
    return f"PTX {number}" if kind == "virtual" else f"sm_{number}"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
