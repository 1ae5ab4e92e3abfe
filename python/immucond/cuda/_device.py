"""The device: the compiled module, loaded on first use, and arrays as PyTorch or CuPy made them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from .._errors import ImmucondError

_CUDA = (2, 13)  # DLPack's device types: CUDA, and its managed memory
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
# Of what PyTorch or the ``nvidia-*`` packages brought along.
_VERSIONS = {"cublas": (13, 12, 11), "cusolver": (12, 11)}


# ---- the compiled module, with cuBLAS and cuSOLVER; or why they are not there ----


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


# ---- arrays in device memory: addresses, streams and allocators ----


class DeviceArray(NamedTuple):
    """Where an array lies, and how; strides in entries."""

    address: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    device: int

    @property
    def layout(self) -> tuple[int, str, tuple[int, ...], tuple[int, ...]]:
        """As the compiled module takes it."""
        return self.address, self.dtype, self.shape, self.strides

    def stacked(self) -> DeviceArray:
        """Return a matrix as a stack of one."""
        if len(self.shape) == 3:
            return self
        return self._replace(shape=(1, *self.shape), strides=(0, *self.strides))

    def matrix(self, i: int) -> DeviceArray:
        """Return one matrix of a stack."""
        offset = i * self.strides[0] * _BYTES[self.dtype]
        return self._replace(
            address=self.address + offset, shape=self.shape[1:], strides=self.strides[1:]
        )

    @property
    def at_least_float32(self) -> str:
        """The dtype of results by the entries."""
        return "float64" if self.dtype == "float64" else "float32"

    def transposed(self) -> DeviceArray:
        """Return a matrix as its transpose."""
        return self._replace(shape=self.shape[::-1], strides=self.strides[::-1])


class Library(Protocol):
    """Who allocates results and workspace, and on whose stream things run."""

    def adopt(self, x: Any) -> Any:
        """Return an array of this library, without derivatives, on the memory of any other's."""

    def where(self, array: Any) -> DeviceArray | None:
        """Return where an array lies, or None where that is not on a CUDA device."""

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        """Return an uninitialized array, contiguous by rows."""

    def address(self, array: Any) -> int:
        """Return where an array begins."""

    def stream(self, device: int) -> int:
        """Return the current stream."""

    def capturing(self) -> bool:
        """Return whether a graph records the current stream: nothing may be waited for."""

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        """Return a copy on the host; this waits for the stream."""

    def assign(self, array: Any, index: Any, values: Any) -> None:
        """Set ``array[index]`` to a NumPy array or a number."""


class Place(NamedTuple):
    """A device, and the library that allocates there, on whose current stream things run."""

    library: Library
    device: int

    def empty(self, *shape: int, dtype: str = "float64") -> Any:
        """Return an uninitialized array, contiguous by rows."""
        return self.library.empty(shape, dtype, self.device)

    def workspace(self, size: int) -> Any:
        """Return so many bytes, or None."""
        return self.empty(size // 8) if size else None

    def run(self, kernel: Callable[..., None], **arguments: Any) -> None:
        """Launch; an array goes by its address, and None by 0."""
        passed = {
            name: value if isinstance(value, int | float | str | tuple) else self._address(value)
            for name, value in arguments.items()
        }
        kernel(**passed, device=self.device, stream=self.library.stream(self.device))

    def _address(self, array: Any) -> int:
        return 0 if array is None else self.library.address(array)


class _Torch:
    def __init__(self) -> None:
        import torch

        self.torch = torch

    def adopt(self, x: Any) -> Any:
        if isinstance(x, self.torch.Tensor):
            return x.detach().resolve_neg()  # a kernel reads memory, which a view may negate
        if hasattr(x, "__dlpack__"):
            return self.torch.utils.dlpack.from_dlpack(x)
        return self.torch.as_tensor(x, device="cuda")

    def where(self, array: Any) -> DeviceArray | None:
        if not array.is_cuda:
            return None
        dtype = str(array.dtype).removeprefix("torch.")
        shape, strides = tuple(array.shape), tuple(array.stride())
        return DeviceArray(array.data_ptr(), dtype, shape, strides, array.device.index)

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        return self.torch.empty(shape, dtype=getattr(self.torch, dtype), device=f"cuda:{device}")

    def address(self, array: Any) -> int:
        return int(array.data_ptr())

    def stream(self, device: int) -> int:
        return int(self.torch.cuda.current_stream(device).cuda_stream)

    def capturing(self) -> bool:
        return bool(self.torch.cuda.is_current_stream_capturing())

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        host = array.detach().cpu()
        # NumPy has no bfloat16; float32 holds its numbers exactly.
        result: np.ndarray[Any, Any] = (
            host.float() if host.dtype == self.torch.bfloat16 else host
        ).numpy()
        return result

    def assign(self, array: Any, index: Any, values: Any) -> None:
        array[index] = self.torch.as_tensor(values, dtype=array.dtype, device=array.device)


class _CuPy:
    def __init__(self) -> None:
        import cupy

        self.cupy = cupy

    def adopt(self, x: Any) -> Any:
        if isinstance(x, self.cupy.ndarray):
            return x
        if hasattr(x, "__dlpack__"):
            return self.cupy.from_dlpack(x)
        return self.cupy.asarray(x)

    def where(self, array: Any) -> DeviceArray | None:
        size = array.dtype.itemsize
        strides = tuple(step // size for step in array.strides)
        return DeviceArray(
            array.data.ptr, array.dtype.name, tuple(array.shape), strides, array.device.id
        )

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        with self.cupy.cuda.Device(device):
            return self.cupy.empty(shape, dtype=dtype)

    def address(self, array: Any) -> int:
        return int(array.data.ptr)

    def stream(self, device: int) -> int:
        with self.cupy.cuda.Device(device):
            return int(self.cupy.cuda.get_current_stream().ptr)

    def capturing(self) -> bool:
        return bool(self.cupy.cuda.get_current_stream().is_capturing())

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        result: np.ndarray[Any, Any] = self.cupy.asnumpy(array)
        return result

    def assign(self, array: Any, index: Any, values: Any) -> None:
        array[index] = self.cupy.asarray(values, dtype=array.dtype)


_LIBRARIES: dict[str, Callable[[], Library]] = {"torch": cache(_Torch), "cupy": cache(_CuPy)}


def ingest(x: Any, name: str) -> tuple[Library, Any, DeviceArray]:
    """Return the library that results shall be of, the array as its own, and where that lies.

    Arrays of others than PyTorch and CuPy come by DLPack or ``__cuda_array_interface__``, where one
    of the two is loaded to allocate the results. `name` is the argument's, for messages.
    """
    own = type(x).__module__.partition(".")[0]
    if own in _LIBRARIES:
        library = _LIBRARIES[own]()
    else:
        if not (hasattr(x, "__dlpack__") or hasattr(x, "__cuda_array_interface__")):
            raise TypeError(
                f"{name} must be an array on a CUDA device (of PyTorch, CuPy, or with DLPack or "
                f"__cuda_array_interface__), and is {type(x).__name__}"
            )
        if hasattr(x, "__dlpack_device__") and x.__dlpack_device__()[0] not in _CUDA:
            raise _on_the_host(name)
        loaded = [module for module in _LIBRARIES if module in sys.modules]
        if not loaded:
            raise TypeError(
                f"{name} is {type(x).__module__}.{type(x).__name__}: import torch or cupy first, "
                "whose allocator the results shall come from"
            )
        library = _LIBRARIES[loaded[0]]()
    x = library.adopt(x)
    found = library.where(x)
    if found is None:
        raise _on_the_host(name)
    if found.dtype not in _BYTES:
        raise TypeError(f"{name} must hold {', '.join(_BYTES)}, and has dtype {found.dtype}")
    return library, x, found


def _on_the_host(name: str) -> TypeError:
    return TypeError(f"{name} must be on a CUDA device, and is on the host")


def float64_by_rows(array: Any, where: DeviceArray, library: Library) -> Any:
    """Return a matrix as it is where it lies so, else a copy."""
    rows, cols = where.shape
    if where.dtype == "float64" and where.strides == (cols, 1):
        return array
    copy = library.empty((rows, cols), "float64", where.device)
    copy[:] = array
    return copy


def torch_library() -> Library:
    """Return PyTorch as the library."""
    return _LIBRARIES["torch"]()
