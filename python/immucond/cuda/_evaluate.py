"""Regularizers and pairs of a stack on the device, each matrix by the way that fits it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import _core
from .._extreme import ExtremePairs, Search, pairs_from
from .._rank import Rule
from .._regularizers import SpectralRegularizer
from ._arrays import DeviceArray, Library
from ._gram import gram_of
from ._large import Large, large_ends
from ._libraries import bound_module
from ._small import Kind, Small, is_small, small_problems

NAMES = ("r_well", "r_ill", "kappa", "log_kappa")  # those that the kernels know


class Evaluated(NamedTuple):
    """Values (b) and gradients (b, rows, cols) or None, on the device, and what to warn of."""

    value: Any
    gradient: Any
    tied: bool
    determined: bool


def evaluate(
    regularizer: SpectralRegularizer,
    X: Any,
    stack: DeviceArray,
    library: Library,
    *,
    features: bool,
    rule: Rule,
    p_is_rank: bool,
    gradient: bool,
) -> Evaluated:
    """Return a regularizer of each matrix of the stack X, which `stack` describes.

    Matrices that the kernels leave (ties, lost digits, bad input) are computed by the C++ core on
    the host, which knows what to say of them; while a graph is captured they stay NaN.
    """
    count, rows, cols = stack.shape
    kind: Kind = "features" if features else "matrix"
    options: dict[str, Any] = {"rule": rule, "p_is_rank": p_is_rank, "gradient": gradient}
    if is_small(kind, stack.shape, stack.device):
        small = small_problems(stack, library, kind=kind, regularizer=regularizer.name, **options)
        if library.capturing():
            return Evaluated(small.value, small.gradient, False, True)
        value, by_X = small.value, small.gradient
        left = np.flatnonzero(library.to_numpy(small.status))
    else:
        dtype = "float64" if stack.dtype == "float64" else "float32"
        value = library.empty((count,), "float64", stack.device)
        by_X = library.empty((count, rows, cols), dtype, stack.device) if gradient else None
        left = np.array(
            [
                i
                for i in range(count)
                if not _one_large(
                    regularizer, X[i], _at(stack, i), library, value, by_X, i, features, **options
                )
            ],
            dtype=int,
        )
    tied, determined = False, True
    for i in left.tolist():
        kernel = _core.evaluate_features if features else _core.evaluate
        found = kernel(
            regularizer._coefficients,
            regularizer._degree,
            library.to_numpy(X[i]),
            rule,
            Search(),
            p_is_rank,
            gradient,
            False,
        )
        library.assign(value, i, found[0])
        if gradient:
            library.assign(by_X, i, found[1])
        tied, determined = tied or found[3], determined and found[4]
    return Evaluated(value, by_X, tied, determined)


def _at(stack: DeviceArray, i: int) -> DeviceArray:
    """Return one matrix of a stack."""
    size = {"float64": 8, "float32": 4}.get(stack.dtype, 2)
    return stack._replace(
        address=stack.address + i * stack.strides[0] * size,
        shape=stack.shape[1:],
        strides=stack.strides[1:],
    )


def _one_large(
    regularizer: SpectralRegularizer,
    matrix: Any,
    X: DeviceArray,
    library: Library,
    value: Any,
    by_X: Any,
    i: int,
    features: bool,
    *,
    rule: Rule,
    p_is_rank: bool,
    gradient: bool,
) -> bool:
    """Put value and gradient to place i; False where that is for others to do."""
    rows, cols = X.shape
    if not features:  # a general matrix is the host's, but for what Lanczos can do
        if rows != cols or X.dtype != "float64" or not bool((matrix == matrix.T).all()):
            return False
        A, H = X, matrix if X.strides == (cols, 1) else _contiguous(matrix, library, X.device)
    else:
        A = X.transposed() if rows < cols else X
        H = gram_of(A, library)
    n, device = A.shape[1], X.device
    cuda, at, stream = bound_module(), library.address, library.stream(device)
    if is_small("gram", (n, n), device):
        formed = DeviceArray(at(H), "float64", (1, n, n), (n * n, n, 1), device)
        small = small_problems(
            formed,
            library,
            kind="gram" if features else "matrix",
            rule=rule,
            regularizer=regularizer.name,
            p=cols,
            p_is_rank=p_is_rank,
            gradient=gradient,
        )
        if library.to_numpy(small.status).any():
            return False
        value[i] = small.value[0]
        G = small.gradient
    else:
        large = large_ends(H, n, library, device, rule=rule, formed=features, p=cols)
        if large is None:
            return False
        ends = large.ends
        if p_is_rank:
            ends.p = ends.rank
        found, alpha, beta, gamma = regularizer._coefficients(ends)  # type: ignore[arg-type]
        if not np.isfinite([found, alpha, beta, gamma]).all():
            return False
        library.assign(value, i, found)
        G = H
        if gradient:
            vectors = at(large.vectors)
            G = library.empty((n, n), "float64", device)
            cuda.rank_two(
                n=n,
                scale=1.0,
                alpha=alpha,
                u=vectors,
                beta=beta,
                w=vectors + 8 * n,
                gamma=gamma,
                H=at(H),
                out=at(G),
                device=device,
                stream=stream,
            )
    if not gradient:
        return True
    if not features:
        by_X[i] = G.reshape(n, n)
        return True
    size = cuda.feature_gradient_workspace_bytes(A.layout)
    work = library.empty((size // 8,), "float64", device)
    strides = (1, cols) if rows < cols else (cols, 1)
    dtype = "float64" if X.dtype == "float64" else "float32"
    cuda.feature_gradient(
        A=A.layout,
        G=at(G),
        out=(at(by_X[i]), dtype, A.shape, strides),
        workspace=at(work),
        device=device,
        stream=stream,
    )
    return True


def _contiguous(matrix: Any, library: Library, device: int) -> Any:
    copy = library.empty(tuple(matrix.shape), "float64", device)
    copy[:] = matrix
    return copy


class PairsFound(NamedTuple):
    """Both ends of each matrix of a stack, on the device; vectors are unit, rows of (b, n)."""

    sigma_max: Any
    v_max: Any
    sigma_min: Any
    v_min: Any
    rank: Any
    left: dict[int, ExtremePairs]  # what the host had to do: vectors u apart from v, and flags


def pairs(
    X: Any, stack: DeviceArray, library: Library, *, features: bool, rule: Rule
) -> PairsFound:
    """Return both ends of each matrix of the stack: symmetric psd matrices, or features."""
    count, _, cols = stack.shape
    device = stack.device
    kind: Kind = "features" if features else "matrix"
    if is_small(kind, stack.shape, device):
        small = small_problems(stack, library, kind=kind, rule=rule, pairs=True)
    else:
        small = Small(
            None,
            None,
            library.empty((count, 2), "float64", device),
            library.empty((count, 2, cols), "float64", device),
            library.empty((count,), "int32", device),
            None,
        )
    sigma, vectors, rank = small.sigma, small.vectors, small.rank
    if small.status is None:
        left = [
            i
            for i in range(count)
            if not _large_pair(
                X[i], _at(stack, i), library, sigma, vectors, rank, i, features, rule
            )
        ]
    elif library.capturing():
        left = []
    else:
        left = np.flatnonzero(library.to_numpy(small.status)).tolist()
    on_host = {}
    for i in left:
        kernel = _core.feature_extreme_pairs if features else _core.extreme_pairs
        found = kernel(library.to_numpy(X[i]), rule, Search())
        on_host[i] = one = pairs_from(found, "Z^T Z" if features else "S")
        library.assign(sigma, i, np.array([one.sigma_max, one.sigma_min]))
        library.assign(vectors, i, np.stack([one.v_max, one.v_min]))
        library.assign(rank, i, one.rank)
    return PairsFound(sigma[:, 0], vectors[:, 0], sigma[:, 1], vectors[:, 1], rank, on_host)


def _large_pair(
    matrix: Any,
    X: DeviceArray,
    library: Library,
    sigma: Any,
    vectors: Any,
    rank: Any,
    i: int,
    features: bool,
    rule: Rule,
) -> bool:
    rows, cols = X.shape
    if features and rows < cols:
        return False  # v = Z^T w is the host's
    if features:
        H = gram_of(X, library)
    elif rows == cols and X.dtype == "float64" and bool((matrix == matrix.T).all()):
        H = matrix if X.strides == (cols, 1) else _contiguous(matrix, library, X.device)
    else:
        return False
    large = large_ends(H, cols, library, X.device, rule=rule, formed=features, p=cols)
    if large is None:
        return False
    library.assign(sigma, i, np.array([large.ends.sigma_max, large.ends.sigma_min]))
    vectors[i] = _signed(large)
    library.assign(rank, i, large.ends.rank)
    return True


def _signed(large: Large) -> Any:
    """Return the vectors with their largest components positive."""
    v = large.vectors
    for row in range(2):
        if float(v[row][int(abs(v[row]).argmax())]) < 0.0:
            v[row] *= -1.0
    return v
