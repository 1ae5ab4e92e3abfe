"""What immucond.cuda calls, on the host: kernels by emulation, cuBLAS and cuSOLVER by NumPy.

So its host logic, from a tensor to the gradient, runs on machines without a device: which way a
matrix goes, workspaces, strides, what is left to the C++ core. Addresses are those of host memory.
"""

import ctypes
from typing import Any

import numpy as np
import torch

from immucond import _emulation
from immucond.cuda import _device
from immucond.cuda._device import DeviceArray, _Torch

STORED = {"float64": np.float64, "float32": np.float32, "float16": np.float16}
STORED["bfloat16"] = np.uint16  # what the emulation takes for it


def view(address: int, dtype: Any, shape: tuple[int, ...], strides: Any = None) -> np.ndarray:
    """An array at an address, strides in entries."""
    dtype = np.dtype(dtype)
    if strides is None:
        strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    length = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    memory = (ctypes.c_char * (length * dtype.itemsize)).from_address(address)
    flat = np.frombuffer(memory, dtype)
    return np.lib.stride_tricks.as_strided(flat, shape, [s * dtype.itemsize for s in strides])


def read(layout: Any) -> np.ndarray:
    """The array of a layout in float64."""
    address, dtype, shape, strides = layout
    stored = view(address, STORED[dtype], shape, strides)
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


class EmulatedCuda:
    """The interface of the compiled module."""

    PARTS = 4

    def __init__(self, shared_bytes: int = 200 * 1024, most: float = np.inf) -> None:
        self.shared_bytes, self.most = shared_bytes, most  # `most`: entries of a small problem
        self.calls: list[str] = []

    def shared_limit(self, device: int) -> int:
        return self.shared_bytes

    def is_small(self, kind: str, rows: int, cols: int, shared_bytes: int) -> bool:
        kind_ = getattr(_emulation.Kind, kind)
        return rows * cols <= self.most and _emulation.is_small(kind_, rows, cols, shared_bytes)

    def small_workspace_bytes(self, kind: str, *sizes: int) -> int:
        return _emulation.small_workspace_bytes(getattr(_emulation.Kind, kind), *sizes)

    def small_problems(self, *, stack, kind, rule, regularizer, p, **where):
        self.calls.append(f"small {kind}")
        address, dtype, shape, strides = stack
        found = _emulation.small_problems(
            view(address, STORED[dtype], shape, strides),
            getattr(_emulation.Kind, kind),
            rule,
            getattr(_emulation.Regularizer, regularizer),
            p=p,
            gradient=where["gradient"] != 0,
            ends=where["sigma"] != 0,
            pairs=where["vectors"] != 0,
        )
        for name, array in found.items():
            if where[name] != 0:
                view(where[name], array.dtype, array.shape)[...] = array

    def gram_workspace_bytes(self, X) -> int:
        return _emulation.plan_gram(X[2], X[3], X[1], False)[-1]

    def gram(self, *, X, out, workspace, narrow, **_):
        self.calls.append("gram")
        assert (workspace != 0) == (not narrow and self.gram_workspace_bytes(X) > 0)
        A = read(X)
        dtype = np.float32 if narrow else np.float64
        view(out, dtype, (A.shape[1],) * 2)[...] = A.T @ A

    def feature_hessian_workspace_bytes(self, X, m) -> int:
        return 8

    def feature_hessian(self, *, X, theta, columns, out, **_):
        F = read(X) @ view(theta, np.float64, (X[2][1], columns))
        view(out, np.float64, (columns, columns))[...] = F.T @ F

    def times_workspace_bytes(self, A, columns) -> int:
        return 8

    def times(self, *, A, scale, B, out, **_):
        address, dtype, shape, strides = out
        product = scale * read(A) @ view(B, np.float64, (shape[1], A[2][1])).T
        with np.errstate(over="ignore"):
            view(address, dtype, shape, strides)[...] = product

    def rank_two(self, *, n, alpha, u, beta, w, gamma, H, out, **_):
        u, w = view(u, np.float64, (n,)), view(w, np.float64, (n,))
        H = view(H, np.float64, (n, n))
        G = alpha * np.outer(u, u) + beta * np.outer(w, w) + gamma * H
        view(out, np.float64, (n, n))[...] = G

    def measure(self, *, count, x, out, **_):
        found = _emulation.measure(view(x, np.float64, (count,)), self.PARTS)
        view(out, np.float64, found.shape)[...] = found

    def lanczos_workspace(self, n, rows) -> int:
        return n + rows

    def lanczos(self, *, n, A, V, width, first, last, T, rows, **_):
        self.calls.append("lanczos")
        # cuBLAS reads the lower triangle, by columns.
        triangle = np.triu(view(A, np.float64, (n, n)))
        A = triangle + np.triu(triangle, 1).T
        V, T = view(V, np.float64, (rows, n)), view(T, np.float64, (rows - width, rows))
        for j in range(first, last):
            w, size = A @ V[j], j + width
            for _ in range(2):
                c = V[:size] @ w
                w = w - c @ V[:size]
                T[j, :size] += c
            T[j, size] = np.linalg.norm(w)
            V[size] = w / T[j, size]

    def combine(self, *, n, V, k, S, count, out, **_):
        product = view(S, np.float64, (count, k)) @ view(V, np.float64, (k, n))
        view(out, np.float64, (count, n))[...] = product

    def inverse_workspace(self, n, a, device) -> int:
        return 1

    def inverse(self, *, n, a, info, **_):
        A = view(a, np.float64, (n, n))
        try:
            np.linalg.cholesky(A)
        except np.linalg.LinAlgError:
            view(info, np.int32, (2,))[...] = (1, 0)
            return
        inverse = np.linalg.inv(A)
        A[np.triu_indices(n)] = inverse[np.triu_indices(n)]  # the lower triangle, by columns
        view(info, np.int32, (2,))[...] = 0

    def syevd_workspace(self, n, a, w, device) -> int:
        return 1

    def syevd(self, *, n, a, w, info, **_):
        self.calls.append("syevd")
        A = view(a, np.float64, (n, n))
        values, vectors = np.linalg.eigh(A)
        view(w, np.float64, (n,))[...] = values
        A[...] = vectors.T  # columns there: rows here
        view(info, np.int32, (1,))[...] = 0


class HostTorch(_Torch):
    """PyTorch's CPU tensors as if they were on a device."""

    def where(self, array):
        dtype = str(array.dtype).removeprefix("torch.")
        return DeviceArray(
            array.data_ptr(), dtype, tuple(array.shape), tuple(array.stride()), device=0
        )

    def empty(self, shape, dtype, device):
        # Whatever is not written shows.
        fill = 0x7F if dtype.startswith("int") else float("nan")
        return torch.full(shape, fill, dtype=getattr(torch, dtype))

    def stream(self, device):
        return 0

    def capturing(self):
        return False


def install(monkeypatch: Any, cuda: EmulatedCuda) -> HostTorch:
    """Put it in the place of the compiled module, for CPU tensors."""
    library = HostTorch()
    for name in ("module", "bound_module"):
        monkeypatch.setattr(_device, name, lambda: cuda)
    monkeypatch.setitem(_device._LIBRARIES, "torch", lambda: library)
    return library
