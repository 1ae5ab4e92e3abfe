"""Regularizers and pairs of a stack on the device, each matrix by the way that fits it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from .._pairs import ExtremePairs, pairs_from
from .._rank import Rule
from .._regularizers import SpectralRegularizer
from .._search import Search
from ._arrays import DeviceArray, Library, float64_by_rows
from ._gram import gram_of, times
from ._large import large_ends
from ._libraries import bound_module
from ._small import Kind, is_small, small_problems

NAMES = ("r_well", "r_ill", "kappa", "log_kappa")  # those that the kernels know


class Evaluated(NamedTuple):
    """Values (b) and gradients (b, rows, cols) or None, on the device, and what to warn of."""

    value: Any
    gradient: Any
    tied: bool
    determined: bool
    rank: int  # the smallest; as large as can be while a graph is captured


def evaluate(
    regularizer: SpectralRegularizer,
    X: Any,
    stack: DeviceArray,
    library: Library,
    *,
    features: bool,
    rule: Rule,
    p: int,
    gradient: bool,
) -> Evaluated:
    """Return a regularizer of each matrix of the stack X, which `stack` describes.

    Matrices that the kernels leave (ties, lost digits, bad input) are computed by the C++ core on
    the host, which knows what to say of them; while a graph is captured they stay NaN.
    """
    kind: Kind = "features" if features else "matrix"
    options: dict[str, Any] = {"rule": rule, "p": p}
    if is_small(kind, stack.shape, stack.device):
        small = small_problems(
            stack, library, kind=kind, regularizer=regularizer.name, gradient=gradient, **options
        )
        value, by_X = small.value, small.gradient
        if library.capturing():
            return Evaluated(value, by_X, False, True, min(stack.shape[1:]))
        status = library.to_numpy(small.status)
        left = np.flatnonzero(status).tolist()
        ranks = library.to_numpy(small.rank)[status == 0].tolist()
    else:
        count, ranks = stack.shape[0], []
        value = library.empty((count,), "float64", stack.device)
        by_X = (
            library.empty(stack.shape, stack.at_least_float32, stack.device) if gradient else None
        )
        left = [
            i
            for i in range(count)
            if not _evaluate_one(
                regularizer, X, stack, i, library, value, by_X, ranks, features=features, **options
            )
        ]
    tied, determined = False, True
    kernel = _core.evaluate_features if features else _core.evaluate
    for i in left:
        found = kernel(
            library.to_numpy(X[i]),
            coefficients=regularizer.coefficients,
            degree=regularizer.degree,
            rule=rule,
            search=Search(),
            p=p,
            gradient=gradient,
            pairs=False,
        )
        library.assign(value, i, found[0])
        if gradient:
            library.assign(by_X, i, found[1])
            if not _is_finite(by_X[i]):
                raise OverflowError(
                    f"the gradient of {regularizer.name} is not representable in float32"
                )
        tied, determined = tied or found[3], determined and found[4]
        ranks.append(found[5])
    return Evaluated(value, by_X, tied, determined, int(min(ranks)))


def _is_finite(x: Any) -> bool:
    return math.isfinite(float(abs(x).max()))


class _Formed(NamedTuple):
    """A symmetric matrix H (n x n, float64, by rows), and what it is the Gram matrix of, if any."""

    H: Any
    A: DeviceArray  # of features the taller of Z and Z^T

    @property
    def n(self) -> int:
        """The order."""
        return self.A.shape[1]

    def small(self, library: Library, **options: Any) -> Any:
        """Return what one block makes of the Gram matrix; None where that is not for it."""
        shape, device = (1, self.n, self.n), self.A.device
        if not is_small("gram", shape, device):
            return None
        strides = (self.n * self.n, self.n, 1)
        stack = DeviceArray(library.address(self.H), "float64", shape, strides, device)
        return small_problems(stack, library, kind="gram", **options)


def _formed(X: Any, given: DeviceArray, library: Library, features: bool) -> _Formed | None:
    """Return what to decompose in place of a matrix; None for the host."""
    rows, cols = given.shape
    if features:
        A = given.transposed() if rows < cols else given
        return _Formed(gram_of(A, library), A)
    if rows != cols or not bool((X == X.T).all()):
        return None
    return _Formed(float64_by_rows(X, given, library), given)


def _evaluate_one(
    regularizer: SpectralRegularizer,
    X: Any,
    stack: DeviceArray,
    i: int,
    library: Library,
    value: Any,
    by_X: Any,
    ranks: list[int],
    *,
    features: bool,
    rule: Rule,
    p: int,
) -> bool:
    """Put value and gradient to place i, its rank to `ranks`; False: that is for others to do."""
    formed = _formed(X[i], stack.matrix(i), library, features)
    if formed is None:
        return False
    gradient, p = by_X is not None, p or stack.shape[2]
    small = features and formed.small(
        library,
        rule=rule,
        regularizer=regularizer.name,
        p=p,
        gradient=gradient,
    )
    if small:
        if library.to_numpy(small.status).any():
            return False
        value[i], G = small.value[0], small.gradient
        rank = int(library.to_numpy(small.rank)[0])
    else:
        large = large_ends(
            formed.H, formed.n, library, stack.device, rule=rule, formed=features, p=p
        )
        if large is None:
            return False
        if 0 < p < large.ends.rank:
            return False
        found = regularizer.coefficients(large.ends)
        if not np.isfinite(found).all():
            return False
        library.assign(value, i, found[0])
        rank = large.ends.rank
        G = _by_matrix(formed, large.vectors, found[1:], library) if gradient else None
    if gradient and features:
        times(formed.A, 2.0, G, _like(formed.A, by_X[i], library), library)
    elif gradient:
        by_X[i] = G
    done = not gradient or _is_finite(by_X[i])
    if done:
        ranks.append(rank)
    return done


def _by_matrix(
    formed: _Formed, vectors: Any, coefficients: tuple[float, float, float], library: Library
) -> Any:
    """Return ``alpha u u^T + beta w w^T + gamma H``."""
    n, device, at = formed.n, formed.A.device, library.address
    G = library.empty((n, n), "float64", device)
    alpha, beta, gamma = coefficients
    bound_module().rank_two(
        n=n,
        alpha=alpha,
        u=at(vectors),
        beta=beta,
        w=at(vectors) + 8 * n,
        gamma=gamma,
        H=at(formed.H),
        out=at(G),
        device=device,
        stream=library.stream(device),
    )
    return G


def _like(A: DeviceArray, out: Any, library: Library) -> DeviceArray:
    """Return where results of the shape of A go: `out`, which lies as Z does, by rows."""
    rows, cols = tuple(out.shape)
    strides = (cols, 1) if A.shape == (rows, cols) else (1, cols)
    return DeviceArray(library.address(out), A.at_least_float32, A.shape, strides, A.device)


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
        sigma, vectors, rank = small.sigma, small.vectors, small.rank
        waits = not library.capturing()
        left = np.flatnonzero(library.to_numpy(small.status)).tolist() if waits else []
    else:
        sigma = library.empty((count, 2), "float64", device)
        vectors = library.empty((count, 2, cols), "float64", device)
        rank = library.empty((count,), "int32", device)
        left = [
            i
            for i in range(count)
            if not _pairs_of_one(X, stack, i, library, sigma, vectors, rank, features, rule)
        ]
    on_host = {}
    kernel = _core.feature_extreme_pairs if features else _core.extreme_pairs
    for i in left:
        found = kernel(library.to_numpy(X[i]), rule=rule, search=Search())
        on_host[i] = one = pairs_from(found, "Z^T Z" if features else "S")
        library.assign(sigma, i, np.array([one.sigma_max, one.sigma_min]))
        library.assign(vectors, i, np.stack([one.v_max, one.v_min]))
        library.assign(rank, i, one.rank)
    return PairsFound(sigma[:, 0], vectors[:, 0], sigma[:, 1], vectors[:, 1], rank, on_host)


def _pairs_of_one(
    X: Any,
    stack: DeviceArray,
    i: int,
    library: Library,
    sigma: Any,
    vectors: Any,
    rank: Any,
    features: bool,
    rule: Rule,
) -> bool:
    """Put both ends to place i; False where that is for others to do."""
    cols = stack.shape[2]
    formed = _formed(X[i], stack.matrix(i), library, features)
    if formed is None:
        return False
    small = features and formed.small(library, rule=rule, pairs=True)
    if small:
        if library.to_numpy(small.status).any():
            return False
        sigma[i], rank[i], v = small.sigma[0], small.rank[0], small.vectors[0]
    else:
        large = large_ends(
            formed.H, formed.n, library, stack.device, rule=rule, formed=features, p=cols
        )
        if large is None:
            return False
        library.assign(sigma, i, np.array([large.ends.sigma_max, large.ends.sigma_min]))
        library.assign(rank, i, large.ends.rank)
        v = large.vectors
    if formed.n < cols:  # of Z Z^T: v = Z^T w / ||Z^T w||
        w, v = v, library.empty((2, cols), "float64", stack.device)
        columns = DeviceArray(library.address(v), "float64", (cols, 2), (1, cols), stack.device)
        times(formed.A, 1.0, w, columns, library)
        v = v / ((v * v).sum(-1) ** 0.5)[:, None]
    largest = v[[0, 1], abs(v).argmax(-1)]
    vectors[i] = v * (1.0 - 2.0 * (largest < 0.0))[:, None]
    return True
