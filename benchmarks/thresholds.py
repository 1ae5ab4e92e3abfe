"""From what size on the other method is faster, on this machine, beside what the kernels assume.

    python -m benchmarks.thresholds                     every rule, some minutes
    python -m benchmarks.thresholds threads --runs 15   one of them, with more rounds
    python -m benchmarks.thresholds --plot FOLDER       draws the times too, a file a rule

The numbers stand in one line of C++ each; who finds others here changes that line and builds. Both
contestants take turns, so that what disturbs the machine disturbs both.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy.linalg import blas, lapack
from threadpoolctl import ThreadpoolController

import immucond as ic

try:
    from .command import asked
    from .scaling import FLOOR, rate
    from .scaling_plot import Curves, save_plot
except ImportError:  # in the folder itself
    from command import asked
    from scaling import FLOOR, rate
    from scaling_plot import Curves, save_plot

RUNS = 7


@dataclass(frozen=True)
class Rule:
    """Which of two ways is taken from which size on.

    Attributes
    ----------
    small, large : str
        The way below the threshold, and from it on.
    sizes : tuple of int
        Orders n at which both are timed.
    task : callable
        From n to a function of the way, which runs it once.
    flops : callable
        From n to the flops of the small way: those of the threshold where that is in flops.
    constant : str
        Its name and file.
    used : float
        What the kernels assume, in n, or in flops where `in_flops`.
    """

    small: str
    large: str
    sizes: tuple[int, ...]
    task: Callable[[int], Callable[[str], object]]
    flops: Callable[[int], float]
    constant: str
    used: float
    in_flops: bool = False


# ---- the work ----


def decaying(n: int) -> np.ndarray:
    """A symmetric matrix whose eigenvalues fall to 1e-6: harder for an iteration than a random."""
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]
    H = (Q * np.geomspace(1.0, 1e-6, n)) @ Q.T
    return (H + H.T) / 2


def symmetric(n: int) -> Callable[[str], object]:
    H = decaying(n)
    return lambda method: ic.psd_extreme_pairs(H, method=method)


def following(n: int) -> Callable[[str], object]:
    """The matrix after, of a sequence as in training, with the pairs of the one before."""
    H, E = decaying(n), np.random.default_rng(1).standard_normal((n, n))
    start = ic.psd_extreme_pairs(H, method=LANCZOS)
    theta = np.eye(n) + 1e-3 / math.sqrt(n) * E
    after = ic.hessian(theta, H)
    return lambda method: ic.psd_extreme_pairs(after, method=method, start=start)


def general(n: int) -> Callable[[str], object]:
    S = np.random.default_rng(0).standard_normal((n, n))
    return lambda method: ic.extreme_pairs(S, method=method)


def threads(kernel: Callable[[np.ndarray], object]) -> Callable[[int], Callable[[str], object]]:
    """The BLAS or LAPACK alone, at one thread or at all."""

    def task(n: int) -> Callable[[str], object]:
        A, pools = np.asfortranarray(decaying(n)), ThreadpoolController()

        def run(way: str) -> object:
            with pools.limit(limits=1 if way == ONE else None):
                return kernel(A)

        return run

    return task


DIRECT, LANCZOS = "direct", "lanczos"
ONE, ALL = "one thread", "all threads"
CHOOSE, THREADS = "cpp/src/choose.cpp", "cpp/include/immucond/blas_threads.hpp"
RULES = {
    "symmetric": Rule(
        DIRECT, LANCZOS, (512, 768, 1024, 1536, 2048, 3072), symmetric,
        lambda n: 4 / 3 * n**3, f"kPsdSize, {CHOOSE}", 2048,
    ),
    "warm": Rule(
        DIRECT, LANCZOS, (256, 384, 512, 768, 1024, 1536), following,
        lambda n: 4 / 3 * n**3, f"kWarmPsdSize, {CHOOSE}", 512,
    ),
    "general": Rule(
        DIRECT, LANCZOS, (256, 384, 512, 768, 1024, 1536), general,
        lambda n: 8 / 3 * n**3, f"kGeneralSize, {CHOOSE}", 768,
    ),
    "products": Rule(
        ONE, ALL, (64, 128, 192, 256, 384, 512, 768), threads(lambda A: blas.dgemm(1.0, A, A)),
        lambda n: 2.0 * n**3, f"kProductFlops, {THREADS}", 2e8, in_flops=True,
    ),
    "reductions": Rule(
        ONE, ALL, (128, 192, 256, 384, 512, 768, 1024), threads(lambda A: lapack.dsytrd(A)),
        lambda n: 4 / 3 * n**3, f"kReductionFlops, {THREADS}", 5e8, in_flops=True,
    ),
}  # fmt: skip


# ---- measuring ----


def times(rule: Rule, sizes: Sequence[int], runs: int) -> dict[str, list[float]]:
    """Median seconds of both ways at each size, in turns."""
    found: dict[str, list[float]] = {rule.small: [], rule.large: []}
    for n in sizes:
        run = rule.task(n)
        seconds: dict[str, list[float]] = {way: [] for way in found}
        for _ in range(runs + 1):
            for way, taken in seconds.items():
                start = time.perf_counter()
                run(way)
                taken.append(time.perf_counter() - start)
        for way, taken in seconds.items():
            found[way].append(median(taken[1:]))  # the first one warms up
    return found


def crossing(sizes: Sequence[int], small: Sequence[float], large: Sequence[float]) -> float:
    """The size from which `large` is faster at all sizes to come; inf where it is not at the last.

    Between two sizes it is where the lines of the ratio's logarithm meet 0.
    """
    gains = [math.log(s / o) for s, o in zip(small, large, strict=True)]
    if gains[-1] <= 0.0:
        return math.inf
    at = len(gains) - 1
    while at > 0 and gains[at - 1] > 0.0:
        at -= 1
    if at == 0:
        return float(sizes[0])
    share = gains[at - 1] / (gains[at - 1] - gains[at])
    low, high = math.log(sizes[at - 1]), math.log(sizes[at])
    return math.exp(low + share * (high - low))


# ---- telling ----


def told(name: str, rule: Rule, found: float, sizes: Sequence[int]) -> str:
    """One line: what is used, and what was measured."""

    def size(n: float) -> str:
        return f"{rule.flops(int(n)):.2g} flops (n = {n:.0f})" if rule.in_flops else f"n = {n:.0f}"

    used = f"{rule.used:.2g} flops" if rule.in_flops else f"n = {rule.used:.0f}"
    if math.isinf(found):
        here = f"beyond {size(sizes[-1])}"
    else:
        here = f"{'at most ' if found == sizes[0] else ''}{size(found)}"
    return f"{name}: {rule.large} from {here} on; used: {used} ({rule.constant})"


def table(rule: Rule, sizes: Sequence[int], found: dict[str, list[float]]) -> list[str]:
    """Median milliseconds by size."""
    small, large = found[rule.small], found[rule.large]
    lines = [f"  {'n':>6}  {rule.small:>12}  {rule.large:>12}  ratio"]
    for n, s, o in zip(sizes, small, large, strict=True):
        lines.append(f"  {n:6d}  {1e3 * s:9.3g} ms  {1e3 * o:9.3g} ms  {s / o:.2f}")
    return lines


def main(given: Sequence[str] | None = None) -> None:
    """Measure, and print what was found."""
    least = {name: rule.sizes[1] for name, rule in RULES.items()}
    args = asked("thresholds", __doc__, "RULE", least, RUNS, given)
    speed = rate(args.runs)
    print(f"dgemm: {speed / 1e9:.1f} Gflop/s", flush=True)
    for name in args.names:
        rule = RULES[name]
        sizes = [n for n in rule.sizes if args.most is None or n <= args.most]
        found = times(rule, sizes, args.runs)
        at = crossing(sizes, found[rule.small], found[rule.large])
        print(told(name, rule, at, sizes), *table(rule, sizes, found), sep="\n", flush=True)
        if args.plot is not None:
            by_size = {way: dict(zip(sizes, taken, strict=True)) for way, taken in found.items()}
            by_size[FLOOR] = {n: rule.flops(n) / speed for n in sizes}
            panels: Curves = {name: by_size}
            save_plot(panels, args.plot / f"threshold-{name}.svg")


if __name__ == "__main__":
    main()
