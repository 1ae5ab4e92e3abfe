"""Regularizers and extreme pairs of a stack on the device, each matrix by the way that fits it.

Small matrices take one launch for the whole stack, long features a Gram matrix first, large ones
Lanczos. What the kernels leave (ties, lost digits, bad input) the C++ core computes on the host,
which knows what to say of it.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np

from .. import _core
from .._pairs import ExtremePairs, Search, pairs_from
from .._rank import Rule
from .._regularizers import SpectralRegularizer
from . import _device
from ._device import DeviceArray, Library, Place, float64_by_rows
from ._device import torch_library as torch_library
from ._large import Large, LargeMatrix

Kind = Literal["matrix", "features", "gram"]


def where_on_device(X: Any) -> DeviceArray:
    """Return where a CUDA tensor lies."""
    found = torch_library().where(X)
    assert found is not None
    return found


def built_in(regularizer: Any) -> str | None:
    """Return the name of a regularizer that the kernels know, None for any other."""
    coefficients = getattr(regularizer, "coefficients", None)
    return coefficients.name if isinstance(coefficients, _core.BuiltIn) else None


# ---- what the compiled module does ----


def gram_of(X: DeviceArray, library: Library, *, narrow: bool = False) -> Any:
    """Return ``X^T X`` for a matrix; see `gram`."""
    cuda, place, cols = _device.bound_module(), Place(library, X.device), X.shape[1]
    out = place.empty(cols, cols, dtype="float32" if narrow else "float64")
    workspace = place.workspace(0 if narrow else cuda.gram_workspace_bytes(X.layout))
    place.run(cuda.gram, X=X.layout, out=out, workspace=workspace, narrow=narrow)
    return out


def times(A: DeviceArray, scale: float, B: Any, out: DeviceArray, library: Library) -> None:
    """Set ``out = scale A B^T``, for B (columns, n) in float64 by rows."""
    cuda, place = _device.bound_module(), Place(library, A.device)
    workspace = place.workspace(cuda.times_workspace_bytes(A.layout, out.shape[1]))
    place.run(cuda.times, A=A.layout, scale=scale, B=B, out=out.layout, workspace=workspace)


class Small(NamedTuple):
    """What one launch made of a stack, as device arrays; None where it was not asked for.

    `status` is not 0 where a direct method has to take a matrix on; its results are NaN then.
    """

    value: Any
    gradient: Any
    sigma: Any
    vectors: Any
    rank: Any
    status: Any


def is_small(kind: Kind, shape: tuple[int, ...], device: int) -> bool:
    """Return whether one block should take each matrix of this shape."""
    rows, cols = shape[-2:]
    if kind != "features" and rows != cols:
        return False
    cuda = _device.module()
    return bool(cuda.is_small(kind, rows, cols, cuda.shared_limit(device)))


def small_problems(
    stack: DeviceArray,
    library: Library,
    *,
    kind: Kind,
    rule: Rule,
    regularizer: str = "none",
    p: int = _core.ALL_VALUES,
    gradient: bool = False,
    ends: bool = False,
    pairs: bool = False,
) -> Small:
    """Launch one block of threads a matrix on the current stream; nothing is waited for.

    `ends`: their values, which come with `pairs` too.
    """
    cuda, place = _device.module(), Place(library, stack.device)
    count, rows, cols = stack.shape

    def empty(wanted: bool, *shape: int, dtype: str = "float64") -> Any:
        return place.empty(count, *shape, dtype=dtype) if wanted else None

    found = Small(
        value=empty(regularizer != "none"),
        gradient=empty(gradient, rows, cols, dtype=stack.at_least_float32),
        sigma=empty(ends or pairs, 2),
        vectors=empty(pairs, 2, cols),
        rank=empty(True, dtype="int32"),
        status=empty(True, dtype="int32"),
    )
    workspace = place.workspace(cuda.small_workspace_bytes(kind, count, rows, cols, gradient))
    place.run(
        cuda.small_problems, stack=stack.layout, kind=kind, rule=tuple(rule),
        regularizer=regularizer, p=p, gram=workspace, **found._asdict(),
    )  # fmt: skip
    return found


# ---- a stack ----


class Evaluated(NamedTuple):
    """Values (b) and gradients (b, rows, cols) or None, on the device, and what to warn of."""

    value: Any
    gradient: Any
    tied: bool
    determined: bool
    rank: int  # the smallest; as large as can be while a graph is captured


class PairsFound(NamedTuple):
    """Both ends of each matrix of a stack, on the device; vectors are unit, rows of (b, n)."""

    sigma_max: Any
    v_max: Any
    sigma_min: Any
    v_min: Any
    rank: Any
    left: dict[int, ExtremePairs]  # what the host had to do: vectors u apart from v, and flags


class _Formed(NamedTuple):
    """A symmetric matrix H (n x n, float64, by rows), and what it is the Gram matrix of, if any."""

    H: Any
    A: DeviceArray  # of features the taller of Z and Z^T

    @property
    def n(self) -> int:
        """The order."""
        return self.A.shape[1]


class Stack:
    """Matrices S on the device, or features Z that stand for ``Z^T Z``; X is (b, rows, cols)."""

    def __init__(
        self, X: Any, where: DeviceArray, library: Library, *, features: bool, rule: Rule
    ) -> None:
        self.X, self.where, self.library = X, where, library
        self.features, self.rule = features, rule
        self._kind: Kind = "features" if features else "matrix"
        self._launched = is_small(self._kind, where.shape, where.device)

    def evaluate(self, regularizer: SpectralRegularizer, *, p: int, gradient: bool) -> Evaluated:
        """Return a built-in regularizer of each matrix; `p` counts as in the core.

        Matrices that the kernels leave stay NaN while a graph is captured.
        """
        where, library, place = self.where, self.library, Place(self.library, self.where.device)
        ranks: list[int]  # 0: for the host
        if self._launched:
            small = small_problems(
                where,
                library,
                kind=self._kind,
                rule=self.rule,
                regularizer=built_in(regularizer) or "none",
                p=p,
                gradient=gradient,
            )
            value, by_X = small.value, small.gradient
            if library.capturing():
                return Evaluated(value, by_X, False, True, min(where.shape[1:]))
            status = library.to_numpy(small.status)
            ranks = np.where(status == 0, library.to_numpy(small.rank), 0).tolist()
        else:
            value = place.empty(where.shape[0])
            by_X = place.empty(*where.shape, dtype=where.at_least_float32) if gradient else None
            ranks = [
                self._evaluate_one(i, regularizer, p, value, by_X) for i in range(where.shape[0])
            ]
        tied, determined = False, True
        kernel = _core.evaluate_features if self.features else _core.evaluate
        for i in [i for i, rank in enumerate(ranks) if rank == 0]:
            on_host = kernel(
                library.to_numpy(self.X[i]),
                coefficients=regularizer.coefficients,
                degree=regularizer.degree,
                rule=self.rule,
                search=Search(),
                p=p,
                gradient=gradient,
                pairs=False,
            )
            library.assign(value, i, on_host[0])
            if gradient:
                library.assign(by_X, i, on_host[1])
                if not _is_finite(by_X[i]):
                    raise OverflowError(
                        f"the gradient of {regularizer.name} is not representable in float32"
                    )
            tied, determined = tied or on_host[3], determined and on_host[4]
            ranks[i] = on_host[5]
        return Evaluated(value, by_X, bool(tied), bool(determined), min(ranks))

    def pairs(self, *, psd: bool = False) -> PairsFound:
        """Return both ends of each: symmetric positive semidefinite matrices, or features.

        Other matrices are refused with `psd`; their singular triplets are found without.
        """
        library, (count, _, cols) = self.library, self.where.shape
        if self._launched:
            small = small_problems(self.where, library, kind=self._kind, rule=self.rule, pairs=True)
            sigma, vectors, rank = small.sigma, small.vectors, small.rank
            waits = not library.capturing()
            left = np.flatnonzero(library.to_numpy(small.status)).tolist() if waits else []
        else:
            place = Place(library, self.where.device)
            sigma, vectors = place.empty(count, 2), place.empty(count, 2, cols)
            rank = place.empty(count, dtype="int32")
            left = [i for i in range(count) if not self._pairs_of_one(i, sigma, vectors, rank)]
        on_host = {}
        of_matrix = _core.psd_extreme_pairs if psd else _core.extreme_pairs
        kernel = _core.feature_extreme_pairs if self.features else of_matrix
        name = "Z^T Z" if self.features else "H" if psd else "S"
        for i in left:
            found = kernel(library.to_numpy(self.X[i]), rule=self.rule, search=Search())
            on_host[i] = one = pairs_from(found, name)
            library.assign(sigma, i, np.array([one.sigma_max, one.sigma_min]))
            library.assign(vectors, i, np.stack([one.v_max, one.v_min]))
            library.assign(rank, i, one.rank)
        return PairsFound(sigma[:, 0], vectors[:, 0], sigma[:, 1], vectors[:, 1], rank, on_host)

    def _formed(self, i: int) -> _Formed | None:
        """Return what to decompose in place of a matrix; None for the host."""
        given = self.where.matrix(i)
        rows, cols = given.shape
        if self.features:
            A = given.transposed() if rows < cols else given
            return _Formed(gram_of(A, self.library), A)
        if rows != cols or not bool((self.X[i] == self.X[i].T).all()):
            return None
        return _Formed(float64_by_rows(self.X[i], given, self.library), given)

    def _ends(self, formed: _Formed, p: int, **wanted: Any) -> Small | Large | None:
        """Return what one block makes of a Gram matrix, or the ends of a large matrix.

        None: that is for the host.
        """
        n, device, library = formed.n, self.where.device, self.library
        if self.features and is_small("gram", (1, n, n), device):
            gram = DeviceArray(
                library.address(formed.H), "float64", (1, n, n), (n * n, n, 1), device
            )
            small = small_problems(
                gram, library, kind="gram", rule=self.rule, p=p, ends=True, **wanted
            )
            done = not library.to_numpy(small.status).any() and self._carries(formed, small)
            return small if done else None
        rows = formed.A.shape[0] if self.features else 0
        return LargeMatrix(formed.H, n, library, device, rule=self.rule, rows=rows).ends(p)

    def _carries(self, formed: _Formed, small: Small) -> bool:
        """Return whether sums over so many rows carry the digits; one block knows no rows."""
        sigma, rank = (self.library.to_numpy(x)[0] for x in (small.sigma, small.rank))
        floor = 0.0
        if self.rule.rounded > 0.0:
            floor = _core.gram_floor(rule=self.rule, trace=float(formed.H.trace()))
        return _core.gram_carries(
            rule=self.rule, sigma_max=float(sigma[0]), sigma_min=float(sigma[1]), rank=int(rank),
            n=formed.n, noise=_core.reduction_noise(formed.A.shape[0]), floor=floor,
        )  # fmt: skip

    def _evaluate_one(
        self, i: int, regularizer: SpectralRegularizer, p: int, value: Any, by_X: Any
    ) -> int:
        """Put value and gradient to place i; return the rank, or 0 where the host has to."""
        library, gradient = self.library, by_X is not None
        formed = self._formed(i)
        if formed is None:
            return 0
        if self.features and p == _core.ALL_VALUES:
            p = self.where.shape[2]  # more than the order of Z Z^T where rows are few
        found = self._ends(formed, p, regularizer=built_in(regularizer), gradient=gradient)
        if found is None:
            return 0
        if isinstance(found, Small):
            value[i], G = found.value[0], found.gradient
            rank = int(library.to_numpy(found.rank)[0])
        else:
            number, *coefficients = regularizer.coefficients(found.spectrum)
            if (
                found.spectrum.p < found.spectrum.rank
                or not np.isfinite([number, *coefficients]).all()
            ):
                return 0
            library.assign(value, i, number)
            rank = found.spectrum.rank
            G = self._by_matrix(formed, found.vectors, *coefficients) if gradient else None
        if gradient and self.features:
            times(formed.A, 2.0, G, self._like(formed.A, by_X[i]), library)
        elif gradient:
            by_X[i] = G
        return rank if not gradient or _is_finite(by_X[i]) else 0

    def _by_matrix(
        self, formed: _Formed, vectors: Any, alpha: float, beta: float, gamma: float
    ) -> Any:
        """Return ``alpha u u^T + beta w w^T + gamma H``."""
        place, n = Place(self.library, formed.A.device), formed.n
        G = place.empty(n, n)
        place.run(
            _device.bound_module().rank_two, n=n, alpha=alpha, u=vectors[0], beta=beta,
            w=vectors[1], gamma=gamma, H=formed.H, out=G,
        )  # fmt: skip
        return G

    def _like(self, A: DeviceArray, out: Any) -> DeviceArray:
        """Return where results of the shape of A go: `out`, which lies as Z does, by rows."""
        rows, cols = tuple(out.shape)
        strides = (cols, 1) if A.shape == (rows, cols) else (1, cols)
        address = self.library.address(out)
        return DeviceArray(address, A.at_least_float32, A.shape, strides, A.device)

    def _pairs_of_one(self, i: int, sigma: Any, vectors: Any, rank: Any) -> bool:
        """Put both ends to place i; False where that is for the host."""
        library, device, cols = self.library, self.where.device, self.where.shape[2]
        formed = self._formed(i)
        found = None if formed is None else self._ends(formed, _core.ALL_VALUES, pairs=True)
        if formed is None or found is None:
            return False
        if isinstance(found, Small):
            sigma[i], rank[i], v = found.sigma[0], found.rank[0], found.vectors[0]
        else:
            ends = found.spectrum
            library.assign(sigma, i, np.array([ends.sigma_max, ends.sigma_min]))
            library.assign(rank, i, ends.rank)
            v = found.vectors
        if formed.n < cols:  # of Z Z^T: v = Z^T w / ||Z^T w||
            w, v = v, library.empty((2, cols), "float64", device)
            columns = DeviceArray(library.address(v), "float64", (cols, 2), (1, cols), device)
            times(formed.A, 1.0, w, columns, library)
            v = v / ((v * v).sum(-1) ** 0.5)[:, None]
        largest = v[[0, 1], abs(v).argmax(-1)]
        vectors[i] = v * (1.0 - 2.0 * (largest < 0.0))[:, None]
        return True


def _is_finite(x: Any) -> bool:
    return math.isfinite(float(abs(x).max()))
