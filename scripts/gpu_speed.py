"""Times the CUDA kernels beside PyTorch's on the same card, and prints a Markdown table.

    python scripts/gpu_speed.py                          the table
    python scripts/gpu_speed.py --update docs/cuda.md    and into that file
    python scripts/gpu_speed.py --once                   every kernel once, for compute-sanitizer

Medians of device time between two events, inputs in rotation so that none stays in the cache.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import immucond as ic
import immucond.cuda as icc
import immucond.torch as ict

BEGIN, END = "<!-- begin: scripts/gpu_speed.py -->", "<!-- end: scripts/gpu_speed.py -->"
HEAD = ("work", "ours", "peer", "peer's", "ratio", "goal", "floor", "of the floor")


def median_seconds(work: Callable[[Any], Any], inputs: list[Any], budget: float = 1.0) -> float:
    for x in inputs[:2]:
        work(x)
    torch.cuda.synchronize()
    times: list[float] = []
    while len(times) < 5 or (sum(times) < budget and len(times) < 200):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work(inputs[len(times) % len(inputs)])
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def ceilings() -> tuple[float, float]:
    """Bytes a second of a copy (read and written), flops a second of a float64 product."""
    a = torch.randn(1 << 27, device="cuda", dtype=torch.float64)
    b = torch.empty_like(a)
    copy = median_seconds(lambda x: b.copy_(x), [a])
    n = 8192
    X = torch.randn(n, n, device="cuda", dtype=torch.float64)
    product = median_seconds(lambda x: x @ x, [X])
    return 2 * a.nbytes / copy, 2.0 * n**3 / product


def random_features(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.float64)


def step(loss: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], Any]:
    """Value and gradient of one training step."""

    def run(Z: torch.Tensor) -> Any:
        leaf = Z.detach().requires_grad_()
        return torch.autograd.grad(loss(leaf).sum(), leaf)[0]

    return run


def regularizers(Z: torch.Tensor) -> torch.Tensor:
    return ict.r_well(features=Z) + ict.r_ill(features=Z)


def autograd(Z: torch.Tensor) -> torch.Tensor:
    k = min(Z.shape[-2:])
    sigma = torch.linalg.eigvalsh(Z.mT @ Z)
    last, m = sigma[..., -k:], sigma.shape[-1]
    well = sigma[..., -1] ** 2 / 2 - (sigma**2).sum(-1) / (2 * m)
    return well + 1 / ((last**2).mean(-1) / 2 - last[..., 0] ** 2 / 2)


def looped(Z: torch.Tensor) -> torch.Tensor:
    return torch.stack([autograd(group) for group in Z])


def spd(n: int) -> torch.Tensor:
    X = random_features(2 * n, n)
    return ic_symmetric(X.T @ X)


def ic_symmetric(H: torch.Tensor) -> torch.Tensor:
    return (H + H.T) / 2


def small_floor(count: int, rows: int, cols: int, bandwidth: float, flops: float) -> float:
    """The larger of bytes and flops of R_well and R_ill with gradients: docs/cuda.md."""
    n = min(rows, cols)
    one = count * (n * n * max(rows, cols) + 2 * n * n * max(rows, cols) + 4 / 3 * n**3)
    return max(2 * one / flops, 2 * count * 2 * 8 * rows * cols / bandwidth)


def contests() -> list[tuple[Any, ...]]:
    """(work, inputs, ours, peer's name, peer, goal, flops or None, kind of floor)."""
    rows: list[tuple[Any, ...]] = []
    for shape in ((100, 512), (64, 768)):
        inputs = [random_features(*shape) for _ in range(8)]
        rows.append(
            (
                f"R_well + R_ill with feature gradients, {shape[0]} x {shape[1]}",
                inputs,
                step(regularizers),
                "autograd through eigvalsh",
                step(autograd),
                20.0,
                lambda b, f, s=shape: small_floor(1, *s, b, f),
            )
        )
    stacks = [random_features(20, 100, 512) for _ in range(4)]
    rows.append(
        (
            "the same, 20 groups of 100 x 512",
            stacks,
            step(regularizers),
            "a loop of autograd",
            step(looped),
            50.0,
            lambda b, f: small_floor(20, 100, 512, b, f),
        )
    )
    n = 4096
    rows.append(
        (
            f"both ends, psd, n = {n}",
            [spd(n)],
            icc.psd_extreme_pairs,
            "torch.linalg.eigh",
            torch.linalg.eigh,
            5.0,
            lambda b, f: max(n**3 / f, 8 * n * n / b),
        )
    )
    N, d = 200_000, 512
    rows.append(
        (
            f"Gram matrix, float64, {N} x {d}",
            [random_features(N, d) for _ in range(2)],
            icc.gram,
            "torch, X^T X (twice the flops)",
            lambda X: X.T @ X,
            None,
            lambda b, f: max(N * d * d / f, 8 * N * d / b),
        )
    )
    return rows


def agree(a: Any, b: Any) -> None:
    a, b = (x[0] if isinstance(x, tuple) else x for x in (a, b))
    b = b[-1] if a.ndim == 0 and b.ndim == 1 else b  # the largest eigenvalue of all
    error = float((a - b).norm() / b.norm())
    if not error < 1e-8:
        raise SystemExit(f"the results differ by {error:.3g}, relative")


def duration(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def table() -> str:
    bandwidth, flops = ceilings()
    lines = [
        f"- {datetime.now(UTC):%Y-%m-%d}, {torch.cuda.get_device_name()}, Python "
        f"{platform.python_version()}, PyTorch {version('torch')}, CUDA {torch.version.cuda}, "
        f"immucond {version('immucond')}",
        f"- ceilings, measured: {bandwidth / 1e12:.2f} TB/s copied, {flops / 1e12:.1f} Tflop/s in "
        "float64",
        "",
        "| " + " | ".join(HEAD) + " |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for work, inputs, ours, name, peer, goal, floor in contests():
        agree(ours(inputs[0]), peer(inputs[0]))
        mine, theirs = median_seconds(ours, inputs), median_seconds(peer, inputs)
        least = floor(bandwidth, flops)
        cells = (
            work,
            duration(mine),
            name,
            duration(theirs),
            f"{theirs / mine:.1f}",
            "" if goal is None else f"≥ {goal:g}",
            duration(least),
            f"{100 * least / mine:.0f}%",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def once() -> None:
    """Every kernel once, small enough for a sanitizer."""
    Z = random_features(3, 24, 40)
    for r in (ic.r_well, ic.r_ill, ic.kappa, ic.log_kappa):
        icc.value_and_grad_features(r, Z)
        icc.value_and_grad_features(r, Z.mT)
        icc.value_and_grad_features(r, Z.float())
        icc.value_and_grad(r, ic_symmetric(Z[0] @ Z[0].T))
    icc.feature_extreme_pairs(Z)
    icc.gram(Z[0].float())
    icc.gram(Z[0].bfloat16(), accumulate="float32")
    icc.feature_hessian(Z[0], random_features(40, 8))
    icc.value_and_grad_features(ic.r_ill, random_features(180, 150))
    icc.psd_extreme_pairs(spd(150))
    torch.cuda.synchronize()


def write_between_markers(path: Path, text: str) -> None:
    before, found, rest = path.read_text().partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not (found and found_end):
        raise SystemExit(f"{path} must hold the lines {BEGIN} and {END}")
    write(path, f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def write(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".part")
    draft.write_text(text)
    os.replace(draft, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="every kernel once, no times")
    parser.add_argument("--output", type=Path, help="write the table there")
    parser.add_argument("--update", type=Path, help="write it between this file's markers")
    arguments = parser.parse_args()
    if not icc.available():
        raise SystemExit("immucond.cuda is not available here: see `immucond info`")
    if arguments.once:
        once()
        return
    text = table()
    print(text)
    if arguments.output:
        write(arguments.output, text)
    if arguments.update:
        write_between_markers(arguments.update, text)


if __name__ == "__main__":
    main()
