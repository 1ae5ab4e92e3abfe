"""Times the contests of benchmarks/cuda_contests.py on the card, and prints a Markdown table.

    python scripts/gpu_speed.py                          the table
    python scripts/gpu_speed.py --update docs/guide/cuda.md    and into that file
    python scripts/gpu_speed.py --once                   every kernel once, for compute-sanitizer

Medians of device time between two events, inputs in rotation so that none stays in the cache.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import immucond as ic
import immucond.cuda as icc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from cuda_contests import PROBLEMS, Problem, normal, psd, require_agreement

BEGIN, END = "<!-- begin: scripts/gpu_speed.py -->", "<!-- end: scripts/gpu_speed.py -->"
HEAD = ("group", "contestant", "time", "times ours", "goal", "floor", "of the floor")
CACHE_BYTES = 64 << 20  # more than a card's last cache holds


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
    copy = median_seconds(b.copy_, [a])
    n = 8192
    product = median_seconds(lambda x: x @ x, [normal(n, n)])
    return 2 * a.nbytes / copy, 2.0 * n**3 / product


def duration(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def rows(problem: Problem, bandwidth: float, flops: float) -> list[tuple[str, ...]]:
    first = problem.make()
    inputs = [first, *(problem.make() for _ in range(min(32, CACHE_BYTES // first.nbytes)))]
    seconds = {}
    for name, contestant in problem.contestants.items():
        require_agreement(problem, name, first)
        seconds[name] = median_seconds(contestant, inputs)
    least, mine = problem.floor(bandwidth, flops), seconds["immucond"]
    goals = {peer: goal for (_, peer), goal in problem.goals.items()}
    return [
        (
            problem.name,
            name,
            duration(took),
            f"{took / mine:.2f}",
            f"≥ {goals[name]:g}" if name in goals else "",
            duration(least) if name == "immucond" else "",
            f"{100 * least / mine:.0f}%" if name == "immucond" else "",
        )
        for name, took in seconds.items()
    ]


def table() -> str:
    bandwidth, flops = ceilings()
    body = [row for problem in PROBLEMS for row in rows(problem, bandwidth, flops)]
    return "\n".join(
        [
            f"- {datetime.now(UTC):%Y-%m-%d}, {torch.cuda.get_device_name()}, Python "
            f"{platform.python_version()}, PyTorch {version('torch')}, CUDA {torch.version.cuda}, "
            f"immucond {version('immucond')}",
            f"- ceilings, measured: {bandwidth / 1e12:.2f} TB/s copied, {flops / 1e12:.1f} Tflop/s "
            "in float64",
            "",
            "| " + " | ".join(HEAD) + " |",
            "|---|---|---:|---:|---:|---:|---:|",
            *("| " + " | ".join(row) + " |" for row in body),
            "",
        ]
    )


def once() -> None:
    """Every kernel once, small enough for a sanitizer."""
    Z = normal(3, 24, 40)
    for r in (ic.r_well, ic.r_ill, ic.kappa, ic.log_kappa):
        icc.value_and_grad_features(r, Z)
        icc.value_and_grad_features(r, Z.mT)
        icc.value_and_grad_features(r, Z.float())
        icc.value_and_grad(r, psd(24))
    icc.feature_extreme_pairs(Z)
    icc.gram(Z[0].float())
    icc.gram(Z[0].bfloat16(), accumulate="float32")
    icc.feature_hessian(Z[0], normal(40, 8))
    icc.value_and_grad_features(ic.r_ill, normal(180, 150))
    icc.feature_extreme_pairs(normal(150, 180))
    icc.psd_extreme_pairs(psd(150))
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
