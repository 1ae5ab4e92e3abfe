"""Contests between immucond and its peers, and the table of ratios at the end.

    pytest benchmarks             about four minutes
    pytest benchmarks --large     also what takes longer, or more memory
    pytest benchmarks --smoke     tiny sizes, no timing: does everything still run and agree?
    pytest benchmarks --large --update docs/results/speed.md     renews the tables in that file
    pytest benchmarks --plot docs/images     draws times against sizes, a file a figure

Tables and figures are renewed as soon as a file of benchmarks is through, so that a run may be
interrupted, or be of some files alone.

Contestants whose name begins with "immucond" are ours. One that begins with "floor:" does less than
the job: what is left of it is what ours has to fall short of.

The BLAS of NumPy and SciPy and PyTorch each keep a pool of threads, whose idle threads spin for a
while. So every contestant warms up until its own pool is the only one awake; medians are reported.
Other processes disturb two threads more than one, so what they took while we measured is watched.
"""

import os
import platform
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ratios import HEAD, LEGEND, Group, Timing, aligned, curves, lost
from scaling import extra_memory as peak_growth
from scaling_plot import save_plot
from speed_page import BEGIN, Unit, around, keep
from threadpoolctl import threadpool_info

WARM_UP_SECONDS = 0.3  # an idle OpenBLAS thread spins for less than a tenth of this
TIMED_SECONDS = 1.5
ROUNDS = (5, 300)
LONG_SECONDS = 10.0  # a call that is timed once, for it warms itself up
DISTURBED = 0.05  # of the machine, taken by other processes

RESULTS = pytest.StashKey[dict[str, dict[str, Group]]]()  # by file, and in it by problem
BEGUN = pytest.StashKey[dict[str, float]]()
BYSTANDERS = pytest.StashKey["Bystanders"]()
CONDITIONS = pytest.StashKey[str]()


class Bystanders:
    """Other processes: what share of the machine they take."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self.mark()

    def mark(self) -> None:
        """Count from now on."""
        self._wall, self._cpu = time.perf_counter(), self._cpu_seconds()

    def share(self) -> float:
        """Their share of the machine since the last mark."""
        elapsed = (time.perf_counter() - self._wall) * len(os.sched_getaffinity(0))
        return (self._cpu_seconds() - self._cpu) / elapsed

    def wait(self) -> None:
        """Wait until they rest, as long as patience lasts."""
        share = 1.0
        while share > DISTURBED and self._patience > 0:
            self.mark()
            time.sleep(1.0)
            share = self.share()
            self._patience -= 1.0 if share > DISTURBED else 0.0

    @staticmethod
    def _cpu_seconds() -> float:
        with open("/proc/stat") as stat:
            user, nice, system, _, _, irq, softirq, steal = map(int, stat.readline().split()[1:9])
        machine = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return machine - sum(os.times()[:4])


class Contest:
    """Times one contestant of a group, after a check that it agrees with immucond."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._groups = groups_of(request)
        self._bystanders = request.config.stash[BYSTANDERS]

    def __call__(
        self,
        group: str,
        name: str,
        function: Callable[[], Any],
        *,
        like: Callable[[], Any],
        rtol: float = 1e-9,
        goals: dict[tuple[str, str], float] | None = None,
        limits: dict[tuple[str, str], float] | None = None,
        at: tuple[str, str, int] | None = None,
        seconds: float = TIMED_SECONDS,
    ) -> None:
        """Time `function`, which returns arrays equal to those of `like` to `rtol` of the largest.

        `goals` maps (ours, peer) to the
        least ratio of medians, peer over ours, and `limits` to the most seconds that ours may take
        longer, or, beside the peer "", in all; `at` is the group's place in a plot.
        """
        begin = time.perf_counter()
        result = function()
        long = time.perf_counter() - begin > LONG_SECONDS
        for got, wanted in zip(arrays(result), arrays(like()), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=rtol * np.abs(wanted).max())
        benchmark = self._request.getfixturevalue("benchmark")
        if benchmark.disabled:
            benchmark(function)
            return
        self._bystanders.wait()
        begin, calls = time.perf_counter(), 0
        while not long and (calls < 2 or time.perf_counter() - begin < WARM_UP_SECONDS):
            last = time.perf_counter()
            function()
            calls += 1
        rounds = 1 if long else int(np.clip(seconds / (time.perf_counter() - last), *ROUNDS))
        benchmark.group = group
        benchmark.name = name
        self._bystanders.mark()
        benchmark.pedantic(function, rounds=rounds)
        disturbed = self._bystanders.share() > DISTURBED
        stats = benchmark.stats.stats
        entry = self._groups.setdefault(group, Group())
        entry.at = at
        side = entry.ours if name.startswith("immucond") else entry.peers
        side[name] = Timing(stats.median, stats.iqr, disturbed)
        entry.goals.update(goals or {})
        entry.limits.update(limits or {})

    def predicted(self, group: str, name: str, factor: float) -> float:
        """The seconds that a contest would take at `factor` times the time in a group before."""
        entry = self._groups.get(group, Group())
        timing = entry.ours.get(name) or entry.peers.get(name)
        # One call for the agreement, two to warm up, and the rounds.
        return 0.0 if timing is None else timing.median * factor * (3 + ROUNDS[0])

    def left_out(self, group: str, name: str) -> str | None:
        """Why a peer had no part in a group, if it had none."""
        return self._groups.get(group, Group()).left_out.get(name)

    def leave_out(self, group: str, name: str, why: str) -> None:
        """Say in the summary why a peer has no part in a group."""
        self._groups.setdefault(group, Group()).left_out[name] = why


def groups_of(request: pytest.FixtureRequest) -> dict[str, Group]:
    """What the file of this test has measured."""
    return request.config.stash[RESULTS].setdefault(request.path.stem, {})


def arrays(result: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(a) for a in (result if isinstance(result, tuple) else (result,)))


@pytest.fixture
def contest(request: pytest.FixtureRequest) -> Contest:
    return Contest(request)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real data sets."""
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("IMMUCOND_DATA", beside))
    if not folder.is_dir():
        pytest.skip("real data absent: set IMMUCOND_DATA")
    return folder


@pytest.fixture
def record_memory(request: pytest.FixtureRequest) -> Callable[[str, str, float, float], None]:
    """Put memory into the table: group, name, MiB measured, MiB allowed."""

    def record(group: str, name: str, measured: float, allowed: float) -> None:
        if not request.config.getoption("--smoke"):
            groups_of(request).setdefault(group, Group()).memory[name] = (measured, allowed)

    return record


@pytest.fixture
def record_seconds(request: pytest.FixtureRequest) -> Callable[[str, str, float, float], None]:
    """Put one run's time into the table: group, name, seconds measured, seconds allowed."""

    def record(group: str, name: str, measured: float, allowed: float) -> None:
        entry = groups_of(request).setdefault(group, Group())
        entry.ours[name] = Timing(measured, 0.0, disturbed=False)
        entry.limits[name, ""] = allowed

    return record


@pytest.fixture
def extra_memory(record_memory: Callable[[str, str, float, float], None]) -> Callable[..., None]:
    """Report what the peak memory of a fresh process grows by in one call, inputs excluded."""

    def measure(
        group: str, name: str, function: str, dtype: str, *shapes: tuple[int, int], allowed: float
    ) -> None:
        record_memory(group, name, peak_growth(function, dtype, *shapes), allowed)

    return measure


@pytest.fixture
def size(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """The size to run in place of a nominal one: the same, or tiny with --smoke."""
    smoke = request.config.getoption("--smoke")
    return lambda n: max(8, n // 32) if smoke else n


# ---- options ----


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("immucond benchmarks")
    group.addoption("--large", action="store_true", help="also what takes long, or gigabytes")
    group.addoption("--smoke", action="store_true", help="tiny sizes, agreement only, no timing")
    group.addoption(
        "--patience",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="wait so long, over all contestants, for other processes to rest (default: 60)",
    )
    group.addoption(
        "--update",
        type=Path,
        metavar="FILE",
        help=f"write what is kept between FILE's {BEGIN} markers, and what was measured with it",
    )
    group.addoption(
        "--plot", type=Path, metavar="FOLDER", help="draw times against sizes, an SVG a figure"
    )


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark reads its options
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "large: only with --large (or tiny, with --smoke)")
    config.stash[RESULTS], config.stash[BEGUN] = {}, {}
    command = shlex.join(["pytest", *config.invocation_params.args])
    config.stash[CONDITIONS] = conditions(command)  # now: the tree may move on while this runs
    config.stash[BYSTANDERS] = Bystanders(config.getoption("--patience"))
    if config.getoption("--smoke"):  # beside others, with the threads that it is given
        config.option.benchmark_disable = True
        if config.getoption("--update") or config.getoption("--plot"):
            raise pytest.UsageError("--smoke measures nothing that --update or --plot could show")
    else:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    if page := config.getoption("--update"):
        try:
            around(page)
        except (OSError, ValueError) as error:
            raise pytest.UsageError(f"--update: {error}") from error


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--large") or config.getoption("--smoke"):
        return
    large = [item for item in items if item.get_closest_marker("large")]
    config.hook.pytest_deselected(items=large)
    items[:] = [item for item in items if item not in large]


# ---- the table ----


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.config.stash[BEGUN].setdefault(item.path.stem, time.perf_counter())


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Keep and draw what a file measured, once it is through."""
    if nextitem is None or nextitem.path != item.path:
        publish(item.config, item.path.stem, item.module.__doc__)


def publish(config: pytest.Config, name: str, about: str) -> None:
    groups = config.stash[RESULTS].get(name, {})
    if page := config.getoption("--update") if groups else None:
        title = " ".join(about.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")
        seconds = time.perf_counter() - config.stash[BEGUN][name]
        keep(page, name, Unit(title, config.stash[CONDITIONS], seconds, groups))
    if folder := config.getoption("--plot"):
        for figure, panels in curves(groups).items():
            save_plot(panels, folder / f"{figure}.svg")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    groups = {name: group for of in config.stash[RESULTS].values() for name, group in of.items()}
    absent = [
        f"left out: {peer} in {name}: {why}"
        for name, group in groups.items()
        for peer, why in group.left_out.items()
    ]
    if absent:
        terminalreporter.section("left out")
        terminalreporter.write("\n".join(absent) + "\n")
    rows = [row for name, group in groups.items() for row in group.rows(name)]
    if not rows:
        return
    terminalreporter.section("ratios of medians, peer / ours")
    terminalreporter.write("\n".join(aligned([HEAD, *rows])).replace("**", "") + "\n")
    terminalreporter.write(f"{LEGEND}\n\n" + "\n".join(lost(groups)) + "\n")
    if config.getoption("--plot") and not curves(groups):
        terminalreporter.write("--plot: nothing was measured that has a place in a figure\n")


def conditions(command: str) -> str:
    """Say where, when and with what the figures were measured."""
    root = Path(__file__).resolve().parent.parent
    commit = git(root, "rev-parse", "--short", "HEAD")
    if git(root, "status", "--porcelain", "--untracked-files=no", "--", "cpp", "python"):
        commit += " with local changes"
    cpu = Path("/proc/cpuinfo").read_text()
    model, family = (
        re.search(rf"^{key}\s*: (.*)$", cpu, re.MULTILINE) for key in ("model name", "cpu family")
    )
    threads = len(os.sched_getaffinity(0))
    blas = [
        f"{pool['internal_api']} {pool['version']}, kernels for {pool.get('architecture', 'any')}"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    ]
    packages = ", ".join(f"{p} {version(p)}" for p in ("immucond", "numpy", "scipy", "torch"))
    return (
        f"`{command}`, commit {commit}, {datetime.now(UTC):%Y-%m-%d}: {packages}, "
        f"Python {platform.python_version()}; {threads} cores of "
        f"{model[1] if model else platform.machine()}"
        + (f" (family {family[1]})" if family else "")
        + f", {threads} threads for everyone; BLAS of NumPy and SciPy: "
        f"{', '.join(sorted(set(blas)))}, of PyTorch: "
        + ("MKL" if torch.backends.mkl.is_available() else "its own")
    )


def git(root: Path, *arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return run.stdout.strip() if run.returncode == 0 else "unknown"
