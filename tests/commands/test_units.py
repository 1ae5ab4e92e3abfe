"""Units of work: kept one by one, never mixed, resumed after an interrupt, in several processes."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from functools import partial

import numpy as np
import pytest

from immucond.experiments import _units
from immucond.experiments._units import Unit, run_units

UNITS = [Unit(f"square-{n}", {"n": n}) for n in range(5)]


def square(parameters):
    return {"square": parameters["n"] ** 2}


def threads(parameters):
    return {"threads": os.environ["OPENBLAS_NUM_THREADS"], "process": os.getpid()}


def interrupted_at(most, seen, parameters):
    if len(seen) == most:
        raise KeyboardInterrupt
    seen.append(parameters["n"])
    return square(parameters)


def failing(parameters):
    if parameters["n"] == 3:
        raise OSError("disk full")
    return square(parameters)


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order_and_are_kept(tmp_path, jobs):
    told = []
    results = run_units(
        UNITS, square, tmp_path / "new", jobs=jobs, progress=lambda *args: told.append(args)
    )
    assert [result["square"] for result in results] == [n**2 for n in range(5)]
    assert told == [("units", done, 5) for done in range(6)]
    files = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert files == sorted(unit.file_name for unit in UNITS)
    kept = json.loads((tmp_path / "new" / UNITS[2].file_name).read_text())
    assert kept == {"unit": {"n": 2}, "result": results[2]}
    assert set(results[2]) == {"square", "unit_seconds", "warnings"}
    # Nothing is computed twice.
    assert run_units(UNITS, failing, tmp_path / "new") == results


def test_parameters_of_numpy_are_those_of_python(tmp_path):
    given = {"n": np.int64(2), "lr": np.float64(0.5), "terms": np.array([1.0, 10.0]), "by": (1, 2)}
    plain = {"n": 2, "lr": 0.5, "terms": [1.0, 10.0], "by": [1, 2]}
    units = [Unit("square", parameters) for parameters in (given, plain)]
    assert units[0].file_name == units[1].file_name
    (first,) = run_units(units[:1], square, tmp_path)
    assert run_units(units[1:], failing, tmp_path) == [first]
    assert json.loads((tmp_path / units[0].file_name).read_text())["unit"] == plain


def test_an_interrupt_keeps_what_is_done(tmp_path):
    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run_units(UNITS, partial(interrupted_at, 3, seen), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    run_units(UNITS, partial(interrupted_at, math.inf, seen), tmp_path)
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_in_a_unit_passes_through_and_leaves_no_process(tmp_path, jobs):
    with pytest.raises(OSError, match="disk full"):
        run_units(UNITS, failing, tmp_path, jobs=jobs)
    assert not multiprocessing.active_children()
    assert all(path.name.startswith("square-") for path in tmp_path.iterdir())


def warn(parameters):
    for _ in range(2):
        warnings.warn("lost digits", UserWarning, stacklevel=1)
    return square(parameters)


def test_warnings_are_kept_with_the_result(tmp_path):
    (result,) = run_units([UNITS[2]], warn, tmp_path)
    assert result["warnings"] == ["UserWarning: lost digits"]


def test_other_parameters_are_another_unit(monkeypatch):
    names = {
        Unit("a", parameters).file_name
        for parameters in ({"n": 1}, {"n": 2}, {"n": 1.5}, {"n": [1, 2]}, {"m": 1}, {})
    }
    assert len(names) == 6
    assert Unit("a", {"x": 1, "y": (2,)}).file_name == Unit("a", {"y": [2], "x": 1}).file_name
    before = Unit("a", {}).file_name
    monkeypatch.setattr(_units, "__version__", "99")
    assert Unit("a", {}).file_name != before


def test_infinite_results_come_back_as_text_and_nan_is_refused(tmp_path):
    (result,) = run_units([UNITS[0]], lambda _: {"rir": math.inf}, tmp_path)
    assert result["rir"] == "inf"
    with pytest.raises(ValueError, match="JSON"):
        run_units([UNITS[1]], lambda _: {"rir": math.nan}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [UNITS[0].file_name]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"unit": {}}', '{"result": 5}', "\xff"])
def test_a_file_that_is_no_result_is_named(tmp_path, text):
    path = tmp_path / UNITS[0].file_name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{path.name} is not a result of immucond: remove it"):
        run_units(UNITS, square, tmp_path)


def test_a_folder_that_cannot_be_written_to_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(PermissionError, match="nothing can be written in"):
        run_units(UNITS, lambda _: pytest.fail("computed"), tmp_path)


def test_processes_share_the_processors(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    results = run_units(UNITS, threads, tmp_path, jobs=2)
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {result["threads"] for result in results} == {str(share)}
    assert os.getpid() not in {result["process"] for result in results}
    assert os.environ["OPENBLAS_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_a_worker_that_dies_is_an_error(tmp_path):
    script = tmp_path / "dying.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, pathlib, sys
            from immucond.experiments._units import Unit, run_units

            def die(parameters):
                os._exit(1)

            if __name__ == "__main__":
                units = [Unit(str(n), {"n": n}) for n in range(3)]
                run_units(units, die, pathlib.Path(sys.argv[1]), jobs=2)
            """
        )
    )
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "out")], capture_output=True, text=True
    )
    assert run.returncode == 1
    told = "ImmucondError: a process of --jobs was ended, perhaps for want of memory"
    assert told in run.stderr


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, pathlib, sys, time
            from immucond.experiments._units import Unit, run_units

            def sleep(parameters):
                print(os.getpid(), flush=True)
                time.sleep(600)

            if __name__ == "__main__":
                units = [Unit(str(n), {"n": n}) for n in range(2)]
                run_units(units, sleep, pathlib.Path(sys.argv[1]), jobs=2)
            """
        )
    )
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    ) as process:
        workers = {int(process.stdout.readline()) for _ in range(2)}
        process.kill()
        process.wait()
        deadline = time.monotonic() + 60
        while (left := {pid for pid in workers if running(pid)}) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert not left


def running(pid):
    """Whether a process is there, and no corpse that nobody has asked after."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
