"""Time and extra memory of the kernels against rows, features, order and stack, with their floor.

    python -m benchmarks.scaling --plot FOLDER     two figures a kernel: times, extra memory
    python -m benchmarks.scaling gram --most 4096  one kernel, printed, no size above it

The floor of the times are the kernel's flops at the rate at which dgemm runs here on all threads;
of the memory, the results. A curve that leaves its floor says where overheads, or a method of more
passes, begin to count.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy.linalg import blas
from threadpoolctl import ThreadpoolController

import immucond as ic

try:
    from .command import asked
    from .scaling_plot import Curves, save_plot
except ImportError:  # in the folder itself
    from command import asked
    from scaling_plot import Curves, save_plot

RUNS = 5
ONE, ALL = "immucond, one thread", "immucond, all threads"
MEMORY = "immucond, extra memory"
FLOOR, RESULTS = "floor: its flops at the rate of dgemm", "floor: the results"
WORDS = 8  # bytes

# Resident memory in a process of its own; Linux keeps the peak in VmHWM.
PEAK = """
import sys
import numpy as np
import immucond as ic

def mib(key):
    with open("/proc/self/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith(key))) / 1024

inputs = [np.ones(tuple(map(int, text.split("x"))), sys.argv[2]) for text in sys.argv[3:]]
before = mib("VmRSS")
assert before > 0.99 * mib("VmHWM"), "the peak belongs to making the inputs"
function = ic
for name in sys.argv[1].split("."):
    function = getattr(function, name)
function(*inputs)
print(mib("VmHWM") - before)
"""


def extra_memory(function: str, dtype: str, *shapes: tuple[int, ...]) -> float:
    """MiB by which the peak memory of a fresh process grows in one call, inputs excluded."""
    texts = ["x".join(map(str, shape)) for shape in shapes]
    command = [sys.executable, "-W", "ignore", "-c", PEAK, function, dtype, *texts]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


@dataclass(frozen=True)
class Axis:
    """What grows: the input's shape, the kernel's flops and the numbers it returns, by size."""

    name: str
    sizes: tuple[int, ...]
    shape: Callable[[int], tuple[int, ...]]
    flops: Callable[[int], float]
    results: Callable[[int], float]


def features(results: Callable[[int, int], float], products: float, reduction: float) -> list[Axis]:
    """Rows N and features m of an (N, m) input: ``products N m^2 + reduction m^3`` flops."""

    def axis(name: str, sizes: tuple[int, ...], shape: Callable[[int], tuple[int, int]]) -> Axis:
        def flops(size: int) -> float:
            N, m = shape(size)
            return products * N * m * m + reduction * m**3

        return Axis(name, sizes, shape, flops, lambda size: results(*shape(size)))

    return [
        axis("rows N, 384 features", (512, 1024, 4096, 16384, 65536), lambda N: (N, 384)),
        axis("features m, 4096 rows", (64, 128, 256, 512, 1024), lambda m: (4096, m)),
    ]


ORDER = [
    Axis(
        "order n", (64, 128, 256, 512, 1024, 2048), lambda n: (n, n), lambda n: 4 / 3 * n**3,
        lambda n: 6 * n,
    ),
    Axis(
        "b matrices 64 x 64", (1, 4, 16, 64, 256), lambda b: (b, 64, 64),
        lambda b: 4 / 3 * 64**3 * b, lambda b: 4 * 64 * b,
    ),
]  # fmt: skip
KERNELS = {
    "gram": features(lambda N, m: m * m, 1.0, 0.0),
    "feature_extreme_pairs": features(lambda N, m: 6 * m, 1.0, 4 / 3),
    "r_well.value_and_grad_features": features(lambda N, m: N * m, 3.0, 4 / 3),
    "psd_extreme_pairs": ORDER,
}


# ---- measuring ----


def function_of(kernel: str) -> Callable[[np.ndarray], object]:
    found: object = ic
    for name in kernel.split("."):
        found = getattr(found, name)
    return found  # type: ignore[return-value]


def example(kernel: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random features, or symmetric matrices of them."""
    Z = np.random.default_rng(0).standard_normal(shape)
    return Z @ Z.swapaxes(-1, -2) if kernel == "psd_extreme_pairs" else Z


def seconds(call: Callable[[], object], runs: int) -> float:
    """Median of some runs after one that warms up."""
    taken = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken[1:])


def rate(runs: int) -> float:
    """Flops a second of dgemm, on all threads."""
    A = np.asfortranarray(np.random.default_rng(0).standard_normal((1024, 1024)))
    return 2.0 * 1024**3 / seconds(lambda: blas.dgemm(1.0, A, A), runs)


def measured(kernel: str, most: int | None, runs: int, speed: float) -> tuple[Curves, Curves]:
    """Seconds and MiB by axis, curve and size."""
    function, pools = function_of(kernel), ThreadpoolController()
    times: Curves = {}
    memory: Curves = {}
    for axis in KERNELS[kernel]:
        sizes = [size for size in axis.sizes if most is None or size <= most]
        time_of = times[axis.name] = {ONE: {}, ALL: {}, FLOOR: {}}
        of = memory[axis.name] = {MEMORY: {}, RESULTS: {}}
        for size in sizes:
            given = example(kernel, axis.shape(size))
            for name, limit in ((ONE, 1), (ALL, None)):
                with pools.limit(limits=limit):
                    time_of[name][size] = seconds(lambda: function(given), runs)  # noqa: B023
            time_of[FLOOR][size] = axis.flops(size) / speed
            least = axis.results(size) * WORDS / 2**20
            of[RESULTS][size] = least
            of[MEMORY][size] = max(extra_memory(kernel, "float64", axis.shape(size)), 1 / 256)
    return times, memory


def table(times: Curves, memory: Curves) -> list[str]:
    """A line a size."""
    lines = []
    for axis, curves in times.items():
        heads = "  ".join(f"{head:>12}" for head in ("one thread", "all threads", "floor"))
        lines.append(f"  {axis:<24}  {heads}  memory")
        for size in curves[ONE]:
            cells = "  ".join(f"{1e3 * curves[name][size]:9.3g} ms" for name in (ONE, ALL, FLOOR))
            lines.append(f"  {size:<24}  {cells}  {memory[axis][MEMORY][size]:.3g} MiB")
    return lines


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, and draw."""
    least = {name: max(min(axis.sizes) for axis in axes) for name, axes in KERNELS.items()}
    args = asked("scaling", __doc__, "KERNEL", least, RUNS, given)
    speed = rate(args.runs)
    print(f"dgemm: {speed / 1e9:.1f} Gflop/s", flush=True)
    for name in args.names:
        times, memory = measured(name, args.most, args.runs, speed)
        print(name, *table(times, memory), sep="\n", flush=True)
        if args.plot is not None:
            save_plot(times, args.plot / f"scaling-{name}.svg", xlabel="")
            save_plot(
                memory, args.plot / f"memory-{name}.svg", xlabel="", ylabel="extra memory, MiB"
            )


if __name__ == "__main__":
    main()
