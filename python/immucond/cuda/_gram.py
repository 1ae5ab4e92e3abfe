"""Gram matrices on the device, by cuBLAS."""

from __future__ import annotations

from typing import Any, Literal

from ._arrays import DeviceArray, Library, float64_by_rows, ingest
from ._libraries import bound_module


def gram_of(X: DeviceArray, library: Library, *, narrow: bool = False) -> Any:
    """Return ``X^T X`` for a matrix; see `gram`."""
    cuda, device = bound_module(), X.device
    cols = X.shape[1]
    out = library.empty((cols, cols), "float32" if narrow else "float64", device)
    size = 0 if narrow else cuda.gram_workspace_bytes(X.layout)
    workspace = library.empty((size // 8,), "float64", device) if size else None
    cuda.gram(
        X=X.layout,
        out=library.address(out),
        workspace=library.address(workspace) if size else 0,
        narrow=narrow,
        device=device,
        stream=library.stream(device),
    )
    return out


def times(A: DeviceArray, scale: float, B: Any, out: DeviceArray, library: Library) -> None:
    """Set ``out = scale A B^T``, for B (columns, n) in float64 by rows."""
    cuda, device = bound_module(), A.device
    size = cuda.times_workspace_bytes(A.layout, out.shape[1])
    workspace = library.empty((size // 8,), "float64", device)
    cuda.times(
        A=A.layout,
        scale=scale,
        B=library.address(B),
        out=out.layout,
        workspace=library.address(workspace),
        device=device,
        stream=library.stream(device),
    )


def gram(X: Any, *, accumulate: Literal["float64", "float32"] = "float64") -> Any:
    """Return the Gram matrix ``X^T X``, on the device and the stream of X.

    Parameters
    ----------
    X : array on a CUDA device, shape (N, d)
        float64, float32, bfloat16 or float16 of any strides; read in place where it lies by rows
        or by columns in float64, else converted by blocks of rows.
    accumulate : {"float64", "float32"}
        "float32": products by the tensor cores in the entries' own precision (float32 rounded to
        TF32), summed in float32; for what lies by rows or columns.

    Returns
    -------
    array, shape (d, d)
        Of the library of X, float64 or float32.

    Raises
    ------
    CudaUnavailableError
        Where the kernels, a device or cuBLAS are not there.
    TypeError, ValueError
        Where X is not a matrix on a CUDA device, or not of these dtypes.

    Notes
    -----
    Nothing is waited for, so NaN and infinity in X stay in the result.

    Examples
    --------
    >>> import torch
    >>> import immucond.cuda as icc
    >>> if icc.available():
    ...     X = torch.ones(3, 2, device="cuda")
    ...     assert icc.gram(X).tolist() == [[3.0, 3.0], [3.0, 3.0]]
    """
    if accumulate not in ("float64", "float32"):
        raise ValueError(f"accumulate must be 'float64' or 'float32', and is {accumulate!r}")
    library, _, inputs = _matrix(X, "X")
    return gram_of(inputs, library, narrow=accumulate == "float32")


def feature_hessian(X: Any, theta: Any) -> Any:
    """Return ``(X theta)^T (X theta)``, without ever holding ``X theta``.

    Parameters
    ----------
    X : array on a CUDA device, shape (N, d)
        As in `gram`.
    theta : array on the same device, shape (d, m)
        Linear feature extractor; read in place in float64 by rows, else copied.

    Returns
    -------
    array, shape (m, m), float64

    Raises
    ------
    CudaUnavailableError, TypeError, ValueError
        As in `gram`, and where the shapes do not match.

    Examples
    --------
    >>> import torch
    >>> import immucond.cuda as icc
    >>> if icc.available():
    ...     X, theta = torch.ones(3, 2).cuda(), 2 * torch.eye(2, dtype=torch.float64).cuda()
    ...     assert icc.feature_hessian(X, theta).tolist() == [[12.0, 12.0], [12.0, 12.0]]
    """
    library, _, inputs = _matrix(X, "X")
    _, theta, extractor = _matrix(theta, "theta")
    d, m = extractor.shape
    if inputs.shape[1] != d or inputs.device != extractor.device:
        raise ValueError(
            f"X must have one column a row of theta, on the same device; X has shape "
            f"{inputs.shape} on device {inputs.device}, theta {extractor.shape} on "
            f"{extractor.device}"
        )
    theta = float64_by_rows(library.adopt(theta), extractor, library)
    cuda, device = bound_module(), inputs.device
    out = library.empty((m, m), "float64", device)
    size = cuda.feature_hessian_workspace_bytes(inputs.layout, m)
    workspace = library.empty((size // 8,), "float64", device)
    cuda.feature_hessian(
        X=inputs.layout,
        theta=library.address(theta),
        columns=m,
        out=library.address(out),
        workspace=library.address(workspace),
        device=device,
        stream=library.stream(device),
    )
    return out


def _matrix(X: Any, name: str) -> tuple[Library, Any, DeviceArray]:
    """As `ingest`, for a matrix with at least one entry."""
    library, X, found = ingest(X, name)
    if len(found.shape) != 2 or 0 in found.shape:
        raise ValueError(
            f"{name} must be a matrix with at least one entry, and has shape {found.shape}"
        )
    return library, X, found
