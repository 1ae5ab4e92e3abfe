"""A long experiment as units of work, each kept in a file of its own as soon as it is done."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from .. import __version__
from .._errors import ImmucondError
from .._files import writable, write_whole
from .._format import plain

Progress = Callable[[str, int, int], object]
Values = dict[str, Any]


def silent(*_: Any) -> None:
    """Report no progress."""


# What the common BLAS libraries read when they are loaded.
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Unit:
    """A piece of an experiment that can be computed by itself.

    Attributes
    ----------
    name : str
        Readable start of its file's name.
    parameters : dict
        All that its result depends on: a unit whose parameters differ in anything, as JSON holds
        them, is another unit, with a file of its own.
    """

    name: str
    parameters: Mapping[str, Any]

    @property
    def file_name(self) -> str:
        """Name of the file that keeps the result."""
        told = [__version__, plain(self.parameters)]
        text = json.dumps(told, sort_keys=True, allow_nan=False)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def run_units(
    units: Sequence[Unit],
    compute: Callable[[Mapping[str, Any]], Values],
    folder: Path,
    *,
    jobs: int = 1,
    stage: str = "units",
    progress: Progress = silent,
) -> list[Values]:
    """Compute the units that the folder does not hold yet, and return all results in order.

    An interrupt keeps what is done; the next call goes on from there.

    Parameters
    ----------
    units : sequence of Unit
        What to compute.
    compute : callable
        Result from a unit's parameters; of a module, so that other processes find it. What it
        warned of and the time it took are added, as "warnings" and "unit_seconds".
    folder : Path
        Where results are kept, one file a unit.
    jobs : int, default 1
        Processes; above 1 each gets its share of the processors for its BLAS.
    stage, progress
        What ``progress(stage, done, total)`` is told.

    Raises
    ------
    OSError
        Where the folder cannot be made, or written to.
    ValueError
        For a file that is not a result.
    ImmucondError
        Where one of several processes was ended.
    """
    folder.mkdir(parents=True, exist_ok=True)  # it fails now rather than after hours,
    results: dict[str, Values] = {}
    missing: dict[str, Unit] = {}
    for unit in units:
        path = folder / unit.file_name
        if path.exists():
            results[unit.file_name] = _read(path)
        else:
            missing[unit.file_name] = unit
            writable(path)  # as does this
    total = len(results) + len(missing)
    progress(stage, len(results), total)
    with closing(_computed(missing, compute, jobs)) as coming:
        for name, result in coming:
            record = {"unit": plain(missing[name].parameters), "result": plain(result)}
            write_whole(folder / name, json.dumps(record, allow_nan=False) + "\n")
            results[name] = record["result"]
            progress(stage, len(results), total)
    return [results[unit.file_name] for unit in units]


def _read(path: Path) -> Values:
    try:
        result: Values = json.loads(path.read_text(encoding="utf-8"))["result"]
        if not isinstance(result, dict):
            raise TypeError(f"it holds {result!r:.60}")
    except (UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a result of immucond: remove it ({error})") from error
    return result


def _computed(
    missing: Mapping[str, Unit], compute: Callable[[Mapping[str, Any]], Values], jobs: int
) -> Generator[tuple[str, Values], None, None]:
    """Results as they come."""
    if jobs == 1 or len(missing) < 2:
        for name, unit in missing.items():
            yield name, _timed(compute, unit.parameters)
        return
    workers = min(jobs, len(missing))
    others = set(multiprocessing.active_children())
    with _blas_threads(max(1, len(os.sched_getaffinity(0)) // workers)):
        # Spawned, so that each worker loads its BLAS under the variables just set.
        pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_follow_parent
        )
        try:
            futures: dict[Future[Values], str] = {
                pool.submit(_timed, compute, unit.parameters): name
                for name, unit in missing.items()
            }
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException as error:
            # Whatever they are at is lost: they write nothing themselves.
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise ImmucondError(
                    "a process of --jobs was ended, perhaps for want of memory: fewer need less, "
                    "and the same command goes on from what is done"
                ) from error
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _timed(compute: Callable[[Mapping[str, Any]], Values], parameters: Mapping[str, Any]) -> Values:
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = compute(parameters)
    told = dict.fromkeys(f"{w.category.__name__}: {w.message}" for w in caught)
    return {**result, "warnings": [*told], "unit_seconds": time.perf_counter() - start}


def _follow_parent() -> None:
    """Leave interrupts to the parent, and end when it has ended, however it did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


@contextmanager
def _blas_threads(count: int) -> Iterator[None]:
    """Let processes started within the block load their BLAS with so many threads."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
