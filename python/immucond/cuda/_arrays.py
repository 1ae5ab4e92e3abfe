"""Arrays in device memory, as PyTorch or CuPy made them: addresses, streams and allocators."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np

_CUDA = (2, 13)  # DLPack's device types: CUDA, and its managed memory
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


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

    Parameters
    ----------
    x : array on a CUDA device
        Of PyTorch or CuPy; or of others by DLPack or ``__cuda_array_interface__``, where one of
        the two is loaded to allocate the results.
    name : str
        The argument's name, for messages.

    Raises
    ------
    TypeError
        Where `x` is no such array, not on a CUDA device, or of another dtype.
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
