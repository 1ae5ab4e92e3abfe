"""Matrices to try the kernels on, and what is true of them in exact arithmetic."""

import warnings
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

Array = npt.NDArray[np.float64]

EPS = np.finfo(np.float64).eps

seeds = st.integers(0, 2**32 - 1)
generators = seeds.map(np.random.default_rng)

# ---- spectra ----

_exponents = st.integers(1, 15)

SPECTRA: dict[str, Callable[[np.random.Generator, int, int], Array]] = {
    "random": lambda rng, k, e: 0.1 + rng.random(k),
    "graded": lambda rng, k, e: np.geomspace(1.0, 10.0**-e, k),
    "clustered": lambda rng, k, e: 1.0 + 10.0**-e * rng.random(k),
    "two values": lambda rng, k, e: np.where(rng.random(k) < 0.5, 1.0, 10.0 ** (-e / 2)),
    "one small": lambda rng, k, e: np.append(np.ones(k - 1), 10.0 ** (-e / 2)),
    "one large": lambda rng, k, e: np.append(1.0, np.full(k - 1, 10.0 ** (-e / 2))),
    "close bottom": lambda rng, k, e: np.append(
        np.geomspace(1.0, 1e-4, k - 1) if k > 2 else np.ones(k - 1), 1e-4 * (1 - 10.0**-e)
    ),
    "equal": lambda rng, k, e: np.ones(k),
}


@st.composite
def spectra(draw: st.DrawFn, k: int, kinds: tuple[str, ...] = tuple(SPECTRA)) -> Array:
    """k positive numbers, descending."""
    kind = draw(st.sampled_from(kinds))
    sigma = SPECTRA[kind](draw(generators), k, draw(_exponents))
    return np.sort(sigma)[::-1].copy()


def separated(rng: np.random.Generator, k: int) -> Array:
    """Singular values far from each other, for gradients that finite differences can see."""
    return np.arange(k, 0, -1) + 0.3 * rng.random(k)


def orthonormal(rng: np.random.Generator, n: int, k: int) -> Array:
    """n x k with orthonormal columns."""
    return np.linalg.qr(rng.normal(size=(n, k)))[0]


def with_singular_values(rng: np.random.Generator, n: int, m: int, sigma: npt.ArrayLike) -> Array:
    """n x m with these nonzero singular values, to rounding."""
    sigma = np.asarray(sigma)
    return (orthonormal(rng, n, sigma.size) * sigma) @ orthonormal(rng, m, sigma.size).T


def with_eigenvalues(rng: np.random.Generator, n: int, sigma: npt.ArrayLike) -> Array:
    """Symmetric n x n with these nonzero eigenvalues, to rounding."""
    sigma = np.asarray(sigma)
    q = orthonormal(rng, n, sigma.size)
    a = (q * sigma) @ q.T
    return (a + a.T) / 2


# ---- matrices whose singular values are known to the last bit ----

# Multiples of this up to 1 keep their sums and halves exact in all that is done below.
GRAIN = 2.0**-46


def on_grid(sigma: npt.ArrayLike) -> Array:
    """Nearby numbers that the exact matrices can have as singular values."""
    return np.maximum(np.round(np.asarray(sigma) / GRAIN), 1.0) * GRAIN


def exact_psd(sigma: Array) -> Array:
    """Symmetric, with exactly these eigenvalues, numbers on the grid up to 1: W diag(sigma) W^T / b
    for Hadamard matrices W, in diagonal blocks of orders b that are powers of two, at most 64."""
    n, at = sigma.size, 0
    H = np.zeros((n, n))
    while at < n:
        b = min(64, 1 << ((n - at).bit_length() - 1))
        block = slice(at, at + b)
        W = scipy.linalg.hadamard(b).astype(float)
        H[block, block] = (W * sigma[block]) @ W.T / b
        at += b
    return H


def exact_general(sigma: Array, shape: str) -> Array:
    """Tall, wide or square, with exactly these singular values."""
    S = exact_psd(sigma)[::-1] * np.where(np.arange(sigma.size) % 3 == 0, -1.0, 1.0)
    if shape == "square":
        return S
    tall = np.kron(np.array([[0.5], [-0.5], [0.5], [0.5]]), S)
    return tall if shape == "tall" else np.ascontiguousarray(tall.T)


# ---- matrices ----

sides = st.integers(1, 7)
# Scales by powers of two and of ten, to the far ends of float64's range.
scales = st.one_of(
    st.just(1.0),
    st.integers(-30, 30).map(lambda e: 2.0**e),
    st.sampled_from([1e-150, 1e150, 3e-290, 3e290]),
)


@st.composite
def constructed(draw: st.DrawFn, rows: st.SearchStrategy[int] = sides) -> Array:
    """Tall, wide and square, of full rank or not, with a spectrum out of the catalogue."""
    n, m = draw(rows), draw(sides)
    sigma = draw(spectra(draw(st.integers(1, min(n, m)))))
    return with_singular_values(draw(generators), n, m, sigma)


# Small integers: exact zeros, repeated rows, exact ties and exact rank deficiency.
integer_matrices = hnp.arrays(
    np.float64, st.tuples(sides, sides), elements=st.integers(-3, 3).map(float)
).filter(np.any)

matrices = st.one_of(constructed(), integer_matrices)


@st.composite
def psd_matrices(draw: st.DrawFn) -> Array:
    """Symmetric positive semidefinite."""
    if draw(st.booleans()):
        a = draw(integer_matrices)
        return a.T @ a
    n = draw(sides)
    return with_eigenvalues(draw(generators), n, draw(spectra(draw(st.integers(1, n)))))


# ---- layouts ----


def _sliced(a: np.ndarray) -> np.ndarray:
    base = np.zeros((2 * a.shape[0] + 1, 3 * a.shape[1] + 2), a.dtype)
    view = base[1::2, 2::3]
    view[...] = a
    return view


def _negative(a: np.ndarray) -> np.ndarray:
    return a[::-1, ::-1].copy()[::-1, ::-1]


def _unaligned(a: np.ndarray) -> np.ndarray:
    record = np.zeros(a.shape, np.dtype([("pad", np.uint8), ("value", a.dtype)]))
    record["value"] = a
    return record["value"]


def _odd_offset(a: np.ndarray) -> np.ndarray:
    view = np.frombuffer(bytearray(a.nbytes + 1), a.dtype, offset=1).reshape(a.shape)
    view[...] = a
    return view


def _padded(a: np.ndarray) -> np.ndarray:
    base = np.zeros((a.shape[0], a.shape[1] + 3), a.dtype)
    base[:, : a.shape[1]] = a
    return base[:, : a.shape[1]]


def _read_only(a: np.ndarray) -> np.ndarray:
    copy = a.copy()
    copy.flags.writeable = False
    return copy


# The same entries in other places of memory.
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "padded rows": _padded,
    "padded columns": lambda a: _padded(a.T).T,
    "sliced": _sliced,
    "negative strides": _negative,
    "unaligned records": _unaligned,
    "odd offset": _odd_offset,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "little-endian": lambda a: a.astype(a.dtype.newbyteorder("<")),
    "read-only": _read_only,
}

DTYPES = ["f2", "f4", "f8", "?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]


@st.composite
def typed_matrices(draw: st.DrawFn, max_side: int = 40) -> np.ndarray:
    """Any dtype that float64 holds exactly, any layout, from 1 x 1 to some dozens."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.tuples(st.integers(1, max_side), st.integers(1, max_side)))
    rng = draw(generators)
    if dtype.kind == "f":
        a = rng.normal(size=shape) * 10.0 ** rng.integers(-4, 4, size=shape)
    elif dtype.kind == "b":
        a = rng.random(shape) < 0.5
    else:
        info = np.iinfo(dtype)
        a = rng.integers(max(info.min, -(2**53)), min(info.max, 2**53), size=shape, endpoint=True)
    return LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](a.astype(dtype))


# ---- calls ----


def quiet(function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """The result, whatever it warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **keywords)


def finite_differences(f: Callable[[Array], float], x: Array, step: float = 1e-6) -> Array:
    """The gradient of f by central differences."""
    gradient = np.empty_like(x)
    for at in np.ndindex(x.shape):
        ends = []
        for sign in (1.0, -1.0):
            moved = x.copy()
            moved[at] += sign * step
            ends.append(f(moved))
        gradient[at] = (ends[0] - ends[1]) / (2 * step)
    return gradient


def equal_rows(count, apart):
    """Features (count x 2), all rows equal but the last, and the ends of Z^T Z to the last digit.

    The rounding of equal products has one sign, so that it adds up.
    """
    Z = np.zeros((count, 2))
    Z[:-1], Z[-1, 1] = (3**-0.5, 0.42), apart * count**0.5
    with localcontext() as context:
        context.prec = 120
        x, y, z = (Decimal(float(entry)) for entry in (*Z[0], Z[-1, 1]))
        a, b, c = (count - 1) * x * x, (count - 1) * x * y, (count - 1) * y * y + z * z
        largest = (a + c + ((a - c) ** 2 + 4 * b * b).sqrt()) / 2
        return Z, np.array([float(largest), float((a * c - b * b) / largest)])
