from collections.abc import Callable
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

_Array: TypeAlias = npt.NDArray[Any]
_Float64: TypeAlias = npt.NDArray[np.float64]
# the name of a built-in regularizer, or a function of a spectrum
_Coefficients: TypeAlias = str | Callable[[Spectrum], tuple[float, float, float, float]]

# known rank or 0, rtol, eps of the entries
_Rule: TypeAlias = tuple[int, float, float, float]

# method, tol, vectors to start from at the largest and at the smallest end
_Search: TypeAlias = tuple[str, float, _Float64, _Float64, float]

# value, gradient, pairs, tied, determined; for a stack arrays, with its axis first
_Evaluated: TypeAlias = tuple[Any, _Float64 | None, dict[str, Any] | None, Any, Any, Any]

@final
class Spectrum:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
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

def bind_lapack(blas: dict[str, Any], lapack: dict[str, Any]) -> None: ...
def build_info() -> dict[str, Any]: ...
def lapack_calls() -> dict[str, int]: ...
def gram(X: _Array) -> _Float64: ...
def triangle(X: _Array) -> _Float64: ...
def hessian(theta: _Array, gram: _Array) -> _Float64: ...
def feature_hessian(X: _Array, theta: _Array, method: str) -> _Float64: ...
def psd_extreme_pairs(
    H: _Array, rule: _Rule, search: _Search, name: str = "H"
) -> dict[str, Any]: ...
def extreme_pairs(S: _Array, rule: _Rule, search: _Search, name: str = "S") -> dict[str, Any]: ...
def feature_extreme_pairs(
    Z: _Array, rule: _Rule, search: _Search, name: str = "Z"
) -> dict[str, Any]: ...
def generalized_extreme_pairs(
    A: _Array, B: _Array, rule: _Rule, search: _Search
) -> dict[str, Any]: ...
def largest_pair(
    product: Callable[[_Float64], _Float64],
    n: int,
    tol: float,
    start: _Float64,
    error: float,
    seed: int,
) -> tuple[float, float, float, _Float64, _Float64]: ...
def coefficients(
    name: str,
    p: float,
    rank: float,
    sigma_max: float,
    sigma_min: float,
    below_max: float,
    above_min: float,
    all_tied: bool,
) -> tuple[float, float, float, float]: ...
def evaluate(
    coefficients: _Coefficients,
    degree: int,
    S: _Array,
    rule: _Rule,
    search: _Search,
    p_is_rank: bool,
    gradient: bool,
    pairs: bool,
) -> _Evaluated: ...
def evaluate_theta(
    coefficients: _Coefficients,
    degree: int,
    theta: _Array,
    gram: _Array,
    rule: _Rule,
    search: _Search,
    p_is_rank: bool,
    preconditioned: bool,
    gradient: bool,
    pairs: bool,
) -> _Evaluated: ...
def evaluate_features(
    coefficients: _Coefficients,
    degree: int,
    Z: _Array,
    rule: _Rule,
    search: _Search,
    p_is_rank: bool,
    gradient: bool,
    pairs: bool,
) -> _Evaluated: ...
