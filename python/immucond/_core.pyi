from collections.abc import Callable
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

_Array: TypeAlias = npt.NDArray[Any]
_Float64: TypeAlias = npt.NDArray[np.float64]
_Columns: TypeAlias = tuple[_Float64, ...]
_Coefficients: TypeAlias = Callable[[Spectrum], tuple[float, float, float, float]]

# known rank or 0, rtol, precision of the entries, their rounding once
_Rule: TypeAlias = tuple[int, float, float, float]

# method, tol, vectors to start from at the largest and at the smallest end, ratio of the ends there
# and gap of the smallest
_Search: TypeAlias = tuple[str, float, _Columns, _Columns, float, float]

# value, gradient, pairs, tied, determined, rank; for a stack arrays, with its axis first
_Evaluated: TypeAlias = tuple[Any, _Float64 | None, dict[str, Any] | None, Any, Any, Any]

@final
class Spectrum:
    def __init__(
        self,
        *,
        p: int,
        rank: int,
        sigma_max: float,
        sigma_min: float,
        below_max: float,
        above_min: float,
        all_tied: bool = False,
    ) -> None: ...
    @staticmethod
    def of_squares(
        *,
        p: int,
        rank: int,
        sigma_max: float,
        sigma_min: float,
        squares: float,
        rest: float = 0.0,
        all_tied: bool = False,
    ) -> Spectrum: ...
    @property
    def p(self) -> int: ...
    @property
    def rank(self) -> int: ...
    @property
    def sigma_max(self) -> float: ...
    @property
    def sigma_min(self) -> float: ...
    @property
    def below_max(self) -> float: ...
    @property
    def above_min(self) -> float: ...
    @property
    def all_tied(self) -> bool: ...

@final
class BuiltIn:
    def __init__(self, name: str) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def degree(self) -> int: ...
    def __call__(self, spectrum: Spectrum) -> tuple[float, float, float, float]: ...

ROUNDED_ONCE: float
ALL_VALUES: int
NONZERO_VALUES: int

def bind_lapack(blas: dict[str, Any], lapack: dict[str, Any]) -> None: ...
def build_info() -> dict[str, Any]: ...
def lapack_calls() -> dict[str, int]: ...
def blas_threads() -> int: ...
def set_blas_threads(count: int) -> None: ...
def rank_rule(
    *, rows: int, columns: int, eps: float, given: str, rank: int, rtol: float
) -> _Rule: ...
def default_rtol(*, rows: int, columns: int, eps: float, given: str) -> float: ...
def reduction_noise(n: int, eps: float = ...) -> float: ...
def qr_noise(columns: int, eps: float = ...) -> float: ...
def worst_summation(rows: int, columns: int) -> float: ...
def largest_skew(n: int, eps: float) -> float: ...
def largest_negative(n: int, eps: float) -> float: ...
def cut(*, rtol: float, sigma_max: float, floor: float) -> float: ...
def matrix_floor(*, rule: _Rule, squares: float) -> float: ...
def gram_floor(*, rule: _Rule, trace: float) -> float: ...
def gram_rtol(*, rule: _Rule, noise: float) -> float: ...
def gram_carries(
    *,
    rule: _Rule,
    sigma_max: float,
    sigma_min: float,
    rank: int,
    n: int,
    noise: float,
    floor: float,
) -> bool: ...
def tie_width(
    *, sigma: float, sigma_max: float, noise: float, precision: float, features: bool
) -> float: ...
def clearly_simple(*, distance: float, width: float, error: float) -> bool: ...
def gram(X: _Array) -> _Float64: ...
def triangle(X: _Array) -> _Float64: ...
def joined_triangles(upper: _Array, lower: _Array) -> _Float64: ...
def hessian(theta: _Array, gram: _Array) -> _Float64: ...
def feature_hessian(X: _Array, theta: _Array, *, method: str) -> _Float64: ...
def psd_extreme_pairs(
    H: _Array, *, rule: _Rule, search: _Search, name: str = "H"
) -> dict[str, Any]: ...
def extreme_pairs(
    S: _Array, *, rule: _Rule, search: _Search, name: str = "S"
) -> dict[str, Any]: ...
def feature_extreme_pairs(
    Z: _Array, *, rule: _Rule, search: _Search, name: str = "Z"
) -> dict[str, Any]: ...
def triangle_extreme_pairs(
    R: _Array,
    *,
    count: int,
    lost: float,
    product: Callable[[_Float64, _Float64, int], tuple[_Float64, _Float64]],
    rule: _Rule,
    search: _Search,
) -> dict[str, Any]: ...
def gram_product(
    A: _Array, *, x: tuple[_Float64, _Float64], exponent: int
) -> tuple[_Float64, _Float64]: ...
def generalized_extreme_pairs(
    A: _Array, B: _Array, *, rule: _Rule, search: _Search
) -> dict[str, Any]: ...
def largest_pair(
    product: Callable[[_Float64], _Float64],
    *,
    n: int,
    tol: float,
    start: _Columns,
    error: float,
    seed: int,
) -> tuple[float, float, float, _Float64, _Float64]: ...
def evaluate(
    S: _Array,
    *,
    coefficients: _Coefficients,
    degree: int,
    rule: _Rule,
    search: _Search,
    p: int,
    gradient: bool,
    pairs: bool,
) -> _Evaluated: ...
def evaluate_theta(
    theta: _Array,
    gram: _Array,
    *,
    coefficients: _Coefficients,
    degree: int,
    rule: _Rule,
    search: _Search,
    p: int,
    preconditioned: bool,
    gradient: bool,
    pairs: bool,
) -> _Evaluated: ...
def evaluate_features(
    Z: _Array,
    *,
    coefficients: _Coefficients,
    degree: int,
    rule: _Rule,
    search: _Search,
    p: int,
    gradient: bool,
    pairs: bool,
) -> _Evaluated: ...
def descend(
    curvature: _Float64, error: _Float64, *, step: float, steps: int, stop: float
) -> tuple[_Float64, _Float64]: ...
def level(rows: _Float64, H: _Float64) -> None: ...
