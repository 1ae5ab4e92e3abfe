from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

class Kind(Enum):
    matrix = 0
    features = 1
    gram = 2

class Regularizer(Enum):
    none = 0
    r_well = 1
    r_ill = 2
    kappa = 3
    log_kappa = 4

LARGEST_ORDER: int
STATUS: dict[str, int]

def small_problems(
    stack: npt.NDArray[Any],
    kind: Kind,
    rule: tuple[int, float, float, float],
    regularizer: Regularizer = ...,
    p: int = ...,
    gradient: bool = False,
    pairs: bool = False,
    threads: int = 0,
    seed: int = 0,
) -> dict[str, npt.NDArray[Any]]: ...
def small_launch(kind: Kind, count: int, rows: int, cols: int) -> tuple[int, int, int]: ...
def is_small(kind: Kind, rows: int, cols: int, shared_limit: int) -> bool: ...
def vector_blocks(n: int) -> int: ...
def entry_blocks(count: int) -> int: ...
def small_workspace_bytes(kind: Kind, count: int, rows: int, cols: int, gradient: bool) -> int: ...
def plan_gram(
    shape: Sequence[int], strides: Sequence[int], dtype: str, narrow: bool
) -> tuple[bool, bool, int, int, int]: ...

class Lanczos:
    n: int
    def __init__(
        self,
        A: npt.NDArray[np.float64],
        start: npt.NDArray[np.float64],
        most: int,
        threads: int = 64,
        seed: int = 0,
    ) -> None: ...
    def advance(self, first: int, last: int) -> None: ...
    def projection(self, k: int) -> npt.NDArray[np.float64]: ...
    def basis(self, k: int) -> npt.NDArray[np.float64]: ...

def measure(
    x: npt.NDArray[np.float64], parts: int = 4, threads: int = 64
) -> npt.NDArray[np.float64]: ...
