"""Every place that writes: devices, pipes and links stay what they are, leftovers go."""

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

import immucond as ic
from immucond._cli import main
from immucond._files import destination, exclusive, staged, whole, write_whole
from immucond.experiments._units import Unit, run_units

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

X = np.random.default_rng(0).normal(size=(30, 3)) * [3.0, 2.0, 1.0]


def result(path):
    ic.immunize.closed_form(X, X @ np.ones(3), X[::-1] ** 2).save(path)


def checkpoint(path):
    from immucond.deep._checkpoint import NetworkCheckpoint

    NetworkCheckpoint(path, 1, {"lr": 1.0}).save({"step": 3})


def numpy_checkpoint(path):
    ic.immunize.algorithm1(
        X, X @ np.ones(3), X**2, lambda_P=0.0, lambda_H=0.0, lr=1e-6, steps=2, checkpoint=path
    )


def report(path):
    assert main(["theorems", "theorem-4.1-1", "--instances", "2", "--json", str(path)]) == 0


def markdown(path):
    assert main(["theorems", "theorem-4.1-1", "--instances", "2", "--markdown", str(path)]) == 0


def limit(path):
    """limit.json in a folder of the path's."""
    np.save(path.parent / "x.npy", X)
    np.save(path.parent / "y.npy", X**2)
    names = [str(path.parent / f"{name}.npy") for name in "xy"]
    assert main(["limit", *names, "--overwrite", "--out", str(path.parent)]) == 0


def demo(path):
    words = ["demo", "--steps", "3", "--probe-steps", "3", "--out", str(path.parent)]
    assert main(words) == 0


def text(path):
    write_whole(path, "whole")


WRITERS = {
    "result.npz": result,
    "checkpoint.pt": checkpoint,
    "report.json": report,
    "report.md": markdown,
    "limit.json": limit,
    "limit.png": limit,
    "results.json": demo,
    "loss.png": demo,
    "text": text,
}
places = pytest.mark.parametrize(("name", "write"), WRITERS.items())


def starts(name):
    """First bytes of what is written."""
    return {"npz": b"PK", "pt": b"PK", "json": b"{", "md": b"`", "png": b"\x89PNG"}.get(
        name.rpartition(".")[2], b"whole"
    )


def only(folder, *names):
    """Nothing else lies there."""
    others = {"x.npy", "y.npy", *WRITERS, "norm_ratio.png"}
    return {path.name for path in folder.iterdir()} - others == set(names)


def private_null(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        path.write_bytes(b"x")
    except PermissionError:
        pytest.skip("device nodes need privileges")


@places
def test_a_device_stays_one(tmp_path, name, write):
    path = tmp_path / name
    private_null(path)
    write(path)
    assert stat.S_ISCHR(path.stat().st_mode)
    assert path.stat().st_rdev == os.makedev(1, 3)
    assert only(tmp_path)


@places
def test_a_pipe_is_written_to(tmp_path, name, write):
    path = tmp_path / name
    os.mkfifo(path)
    found = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reader.start()
    write(path)
    reader.join()
    assert found[0].startswith(starts(name))
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert only(tmp_path)


# What a link leads to is looked at in two places: one writer of single files, and one of folders.
@pytest.mark.parametrize(
    ("name", "write", "there"),
    [*((name, write, True) for name, write in WRITERS.items()),
     ("text", text, False), ("limit.json", limit, False)],
)  # fmt: skip
def test_a_link_stays_one(tmp_path, name, write, there):
    path, target = tmp_path / name, tmp_path / "elsewhere" / "deeper" / name
    if there:
        target.parent.mkdir(parents=True)
        target.write_bytes(b"old")
    path.symlink_to(target.relative_to(tmp_path))
    write(path)
    assert os.readlink(path) == str(target.relative_to(tmp_path))
    assert target.read_bytes().startswith(starts(name))
    assert only(tmp_path, "elsewhere")
    assert [p.name for p in target.parent.iterdir()] == [name]


@pytest.mark.parametrize(("name", "write"), [(n, w) for n, w in WRITERS.items() if w is not demo])
def test_a_folder_is_an_error_that_says_so(tmp_path, name, write, capsys):
    path = tmp_path / name
    path.mkdir()
    try:
        write(path)
    except IsADirectoryError as error:
        told = str(error)
    except AssertionError:
        told = capsys.readouterr().err
    assert re.search("a file is needed, and this is a folder", told), told
    assert str(path) in told
    assert list(path.iterdir()) == []


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("save", [checkpoint, numpy_checkpoint])
def test_a_checkpoint_is_a_regular_file(tmp_path, kind, save):
    path = tmp_path / "checkpoint"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        private_null(path)
    if save is checkpoint:
        from immucond.deep._checkpoint import NetworkCheckpoint

        load = NetworkCheckpoint(path, 1, {}).load
        with pytest.raises(ValueError, match=r"checkpoint .* must be a regular file"):
            load()
    else:
        with pytest.raises(ValueError, match=r"checkpoint .* must be a regular file"):
            save(path)
    assert not stat.S_ISREG(path.stat().st_mode)


def test_an_output_folder_may_be_a_link(tmp_path):
    for name in ("there", "dangling"):
        target = tmp_path / f"target-{name}"
        if name == "there":
            target.mkdir()
        link = tmp_path / name
        link.symlink_to(target.name)
        with staged(link) as folder:
            (folder / "a").write_text("1")
        assert os.readlink(link) == target.name
        assert [p.name for p in target.iterdir()] == ["a"]
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("path", ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1"])
@pytest.mark.parametrize("to", ["file", "pipe"])
def test_standard_output_as_a_file(tmp_path, path, to):
    """Written to from where it stands: a file behind it is neither replaced nor cut."""
    words = ["theorems", "theorem-4.1-1", "--instances", "2", "--json", path]
    script = (
        f"import sys; print('first', flush=True); from immucond._cli import main; main({words})"
    )
    with open(tmp_path / "told", "w+b") as file:
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdout=file if to == "file" else subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=True,
        )
        file.seek(0)
        shown = (file.read() if to == "file" else done.stdout).decode()
    assert re.match(r"first\n\{\n.*\}\n.*theorem-4\.1-1", shown, re.DOTALL), shown


def test_permissions_of_what_is_replaced_stay(tmp_path):
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "new", "1")
        (tmp_path / "old").write_text("0")
        (tmp_path / "old").chmod(0o600)
        write_whole(tmp_path / "old", "1")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "old")]
    assert modes == [0o644, 0o600]


def test_errors_name_the_file_and_not_a_draft(tmp_path):
    def full(path):
        with whole(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left") as caught:
        full(tmp_path / "a")
    assert caught.value.filename == str(tmp_path / "a")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels") as caught:
        write_whole(tmp_path / "loop", "")
    assert caught.value.filename == str(tmp_path / "loop")
    with pytest.raises(ValueError, match=r"'a\\x00b' has a NUL character"):
        destination("a\0b")
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


# ---- what killed processes leave ----

HOLDING = """
import sys, time
from pathlib import Path
from immucond._files import passing, staged, whole
out = Path(sys.argv[1])
with staged(out) as folder, whole(out.parent / "file") as file, passing(out.parent / "p") as draft:
    (folder / "part").write_text("half")
    draft.mkdir()
    (draft / "part").write_text("half")
    file.write(b"half")
    print(flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process in the middle of writing to tmp_path / "out" and tmp_path / "file"."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path / "out")], stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path, holder):
    mine = tmp_path / ".immucond-notes"
    mine.write_text("a user's own")
    drafts = {path.name for path in tmp_path.iterdir()} - {mine.name}
    assert len(drafts) == 5  # of the file, of both folders, and the folders' locks
    write_whole(tmp_path / "other", "x")
    assert {path.name for path in tmp_path.iterdir()} == {*drafts, mine.name, "other"}
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    write_whole(tmp_path / "other", "x")
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, "other"}
    assert mine.read_text() == "a user's own"


def test_a_second_process_says_so_before_it_computes(tmp_path, holder, capsys, monkeypatch):
    from immucond.experiments import digits

    monkeypatch.setattr(digits, "run", lambda *_: pytest.fail("computed"))
    assert main(["demo", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"immucond demo: error: --out {tmp_path / 'out'}: another process is writing there: wait "
        "for its end, or give another folder\n"
    )
    with staged(tmp_path / "another") as folder:
        (folder / "a").write_text("")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with exclusive(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["another"]


@pytest.mark.parametrize("clears", [1, 3])
def test_a_process_that_only_clears_leftovers_keeps_nobody_out(tmp_path, monkeypatch, clears):
    """It holds the lock of a folder that was opened but not yet locked, until it removes it."""
    from immucond import _files

    with exclusive(tmp_path / "out"):
        (lock,) = tmp_path.glob(".immucond-*.lock")
    held, pauses = [], []

    def hold():
        held.append(_files._locked(lock, os.O_CREAT))

    def pause():
        pauses.append(1)
        lock.unlink()
        os.close(held.pop())
        if len(pauses) < clears:
            hold()

    hold()
    monkeypatch.setattr(_files, "_pause", pause, raising=False)
    with exclusive(tmp_path / "out") as (place, _):
        assert place == tmp_path / "out"
    assert len(pauses) == clears
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["limit", "house-price", "mnist", "deep"])
def test_so_says_every_command(tmp_path, holder, capsys, command):
    words = {
        "limit": ["x.npy", "y.npy"],
        "deep": ["--backbone", "a", "--primary", "b", "--harmful", "c"],
    }.get(command, [])
    assert main([command, *words, "--out", str(tmp_path / "out")]) == 2
    assert "another process is writing there" in capsys.readouterr().err


FOLDERS = {
    "limit.png": ["limit", "x.npy", "y.npy", "--overwrite"],
    "loss.png": ["demo"],
    "tables.md": ["house-price"],
    "curves.svg": ["house-price"],
    "grid-closed-form.png": ["mnist"],
    "spectra.png": ["deep", "--backbone", "a", "--primary", "b", "--harmful", "c"],
}


@pytest.mark.parametrize(("name", "words"), FOLDERS.items())
def test_a_folder_in_a_file_s_place_is_told_before_it_computes(
    tmp_path, monkeypatch, capsys, name, words
):
    from immucond import limit
    from immucond.experiments import deep, digits, house_price, mnist

    monkeypatch.setitem(vars(deep), "run", lambda *_, **__: pytest.fail("computed"))
    for experiment in (digits, house_price, limit, mnist):
        monkeypatch.setattr(experiment, "run", lambda *_, **__: pytest.fail("computed"))
    (tmp_path / "out" / name).mkdir(parents=True)
    assert main([*words, "--quiet", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        f"immucond {words[0]}: error: --out {tmp_path / 'out' / name}: a file is needed, and this "
        "is a folder\n"
    )
    assert not [*tmp_path.glob(".immucond*")]


def test_nothing_is_written_where_one_of_many_cannot_be(tmp_path):
    """Neither what goes through a link nor what would come before it in the alphabet."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.write_text("old")
    (out / "c").mkdir(parents=True)
    (out / "a").symlink_to(elsewhere)
    (out / "b").write_text("old")

    def write():
        with staged(out) as folder:
            for name in "abc":
                (folder / name).write_text("new")

    with pytest.raises(IsADirectoryError):
        write()
    assert elsewhere.read_text() == (out / "b").read_text() == "old"
    assert not list(tmp_path.glob(".*"))


def test_a_kill_between_units_leaves_none_but_whole_ones(tmp_path):
    script = """
import os, signal, sys
from pathlib import Path
from immucond.experiments import _units

def compute(parameters):
    return parameters

replace, left = os.replace, [3]

def killed(*names):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)

os.replace = killed
_units.run_units([_units.Unit(str(n), {"n": n}) for n in range(5)], compute, Path(sys.argv[1]))
"""
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 3
    computed = []
    units = [Unit(str(n), {"n": n}) for n in range(5)]
    run_units(units, lambda parameters: computed.append(parameters) or {}, tmp_path)
    assert [parameters["n"] for parameters in computed] == [2, 3, 4]
    assert len(list(tmp_path.iterdir())) == 5
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("afresh", [False, True])
def test_a_folder_made_afresh_keeps_nothing_old(tmp_path, afresh):
    for name in "ab":
        with staged(tmp_path / "out", afresh=afresh) as folder:
            (folder / name).write_text("")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == ({"b"} if afresh else {"a", "b"})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_folder_whose_parent_is_another_file_system(tmp_path, monkeypatch):
    """As where it is mounted: drafts lie within it, a rename would fail."""
    from immucond import _files

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(_files.os, "access", lambda *_: False)
    with staged(tmp_path / "out") as folder:
        assert folder.parent == tmp_path / "out"
        (folder / "a").write_text("")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
