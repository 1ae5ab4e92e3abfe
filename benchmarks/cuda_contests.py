"""What is measured on a CUDA device: problems, contestants, goals and floors.

For the benchmarks here, and for scripts/gpu_speed.py where there is no pytest-benchmark. Every
contestant takes a tensor on the device and returns tensors there, the same ones as the others.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch

import immucond.cuda as icc
import immucond.torch as ict
from immucond.cuda._device import candidates

AUTOGRAD = "torch autograd through eigvalsh"
LOOP = "a loop of torch autograd through eigvalsh"
EIGH = "torch.linalg.eigh"
DSYRK = "cuBLAS dsyrk, lower half"

Contestant = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class Problem:
    """`floor` maps bytes and flops a second to the least seconds: see docs/guide/cuda.md."""

    name: str
    make: Callable[[], torch.Tensor]
    contestants: dict[str, Contestant]
    floor: Callable[[float, float], float]
    goals: dict[tuple[str, str], float] = field(default_factory=dict)
    rtol: float = 1e-8


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.float64)


def psd(n: int) -> torch.Tensor:
    X = normal(2 * n, n)
    H = X.T @ X
    return (H + H.T) / 2


# ---- R_well(Z_P) + R_ill(Z_H), values and gradients by features ----

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def ours(Z_P: torch.Tensor, Z_H: torch.Tensor) -> torch.Tensor:
    return ict.r_well(features=Z_P) + ict.r_ill(features=Z_H)


def autograd(Z_P: torch.Tensor, Z_H: torch.Tensor) -> torch.Tensor:
    primary = torch.linalg.eigvalsh(Z_P.mT @ Z_P)
    k = min(Z_H.shape[-2:])  # of the m eigenvalues, m - k are zero
    harmful = torch.linalg.eigvalsh(Z_H.mT @ Z_H)[..., -k:]
    well = primary[..., -1] ** 2 / 2 - (primary**2).mean(-1) / 2
    return well + 1 / ((harmful**2).mean(-1) / 2 - harmful[..., 0] ** 2 / 2)


def step(loss: Loss) -> Contestant:
    def values_and_gradients(Z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = [task.detach().requires_grad_() for task in Z]
        value = loss(*leaves)
        return value.detach(), *torch.autograd.grad(value.sum(), leaves)

    return values_and_gradients


def one_by_one(loss: Loss) -> Contestant:
    def looped(Z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = [step(loss)(Z[:, group]) for group in range(Z.shape[1])]
        return tuple(map(torch.stack, zip(*results, strict=True)))

    return looped


def regularizers_floor(count: int, rows: int, cols: int) -> Callable[[float, float], float]:
    """Of `count` regularizers with gradients."""
    n, entries = min(rows, cols), rows * cols
    flops = count * (3 * n * entries + 4 / 3 * n**3)
    moved = count * 16 * entries
    return lambda bandwidth, rate: max(moved / bandwidth, flops / rate)


def training_step(rows: int, cols: int) -> Problem:
    return Problem(
        f"R_well(Z_P) + R_ill(Z_H) with gradients, {rows} x {cols}",
        lambda: normal(2, rows, cols),
        {"immucond": step(ours), AUTOGRAD: step(autograd)},
        regularizers_floor(2, rows, cols),
        {("immucond", AUTOGRAD): 20},
    )


def training_steps(count: int, rows: int, cols: int) -> Problem:
    return Problem(
        f"R_well(Z_P) + R_ill(Z_H) with gradients, {count} groups of {rows} x {cols}",
        lambda: normal(2, count, rows, cols),
        {
            "immucond": step(ours),
            "immucond, one group a call": one_by_one(ours),
            AUTOGRAD: step(autograd),
            LOOP: one_by_one(autograd),
        },
        regularizers_floor(2 * count, rows, cols),
        {("immucond", LOOP): 50},
    )


# ---- both ends of a large matrix ----


def ends(H: torch.Tensor) -> tuple[torch.Tensor, ...]:
    pairs = icc.psd_extreme_pairs(H)
    return pairs.sigma_min, pairs.sigma_max


def ends_by_eigh(H: torch.Tensor) -> tuple[torch.Tensor, ...]:
    values = torch.linalg.eigh(H)[0]
    return values[0], values[-1]


def both_ends(n: int, products: tuple[int, int]) -> Problem:
    """`products`: that Lanczos needs at the top and the bottom, for the floor."""
    flops = n**3 + sum(2 * k * n * n for k in products)
    moved = sum(4 * n * n * k + 16 * n * k * k for k in products)
    return Problem(
        f"both extreme pairs, psd, n = {n}",
        lambda: psd(n),
        {"immucond": ends, EIGH: ends_by_eigh},
        lambda bandwidth, rate: max(moved / bandwidth, flops / rate),
        {("immucond", EIGH): 5},
    )


# ---- Gram matrices ----


@cache
def cublas() -> tuple[ctypes.CDLL, ctypes.c_void_p]:
    for name in candidates("cublas"):
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        raise SystemExit("cuBLAS was not found")
    handle = ctypes.c_void_p()
    assert library.cublasCreate_v2(ctypes.byref(handle)) == 0
    return library, handle


def dsyrk(X: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """One call on the memory of X, which BLAS sees as X^T: the lower half, by columns, of X^T X."""
    library, handle = cublas()
    N, d = X.shape
    out = torch.zeros(d, d, device=X.device, dtype=X.dtype)
    one, zero = ctypes.c_double(1.0), ctypes.c_double(0.0)
    stream = torch.cuda.current_stream().cuda_stream
    assert library.cublasSetStream_v2(handle, ctypes.c_void_p(stream)) == 0
    a, c = ctypes.c_void_p(X.data_ptr()), ctypes.c_void_p(out.data_ptr())
    by, lower, plain = ctypes.byref, 0, 0
    assert library.cublasDsyrk_v2(handle, lower, plain, d, N, by(one), a, d, by(zero), c, d) == 0
    return (out,)


def gram(N: int, d: int) -> Problem:
    return Problem(
        f"Gram matrix, float64, {N} x {d}",
        lambda: normal(N, d),
        {
            "immucond": lambda X: (icc.gram(X),),
            DSYRK: dsyrk,
            "torch, X^T X": lambda X: (X.T @ X,),
        },
        lambda bandwidth, rate: max(8 * N * d / bandwidth, N * d * d / rate),
        {("immucond", DSYRK): 0.85},
        rtol=1e-12,
    )


PROBLEMS = [
    training_step(100, 512),
    training_step(64, 768),
    training_steps(20, 100, 512),
    both_ends(4096, (240, 125)),
    gram(200_000, 512),
]


def require_agreement(problem: Problem, name: str, X: torch.Tensor) -> None:
    """Raise AssertionError where a contestant differs from immucond."""
    got, wanted = problem.contestants[name](X), problem.contestants["immucond"](X)
    for a, b in zip(got, wanted, strict=True):
        b = b.triu() if name == DSYRK else b  # the lower half by columns, seen by rows
        error = float((a - b).norm() / b.norm())
        assert error < problem.rtol, f"{problem.name}: {name} differs by {error:.3g}, relative"
