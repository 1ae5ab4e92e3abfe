"""Files and folders that appear whole or not at all; the state of a run, from which it goes on.

A draft lies beside its destination under a name of this module's own, and its maker holds a lock
on it, which the kernel releases however the maker ends: a draft that nobody holds is a leftover.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import re
import secrets
import shutil
import signal
import stat
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from ._validate import as_path, plain, refuse_other

_MARK = ".immucond-"
# The draft of a file; the draft of a folder, which the lock of the folder's name guards; that lock.
_OWN = re.compile(r"\.immucond-(?:[0-9a-f]{32}|([0-9a-f]{16})(?:-[0-9a-f]{16}|\.lock))")
# What writing answers without naming a file.
_WRITING = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EPIPE, errno.ENXIO,
)  # fmt: skip
# Tries for a folder's lock, which another process that clears leftovers may hold for a moment.
_TRIES = 40
# What file systems without locks answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Yield a file to fill, which takes its place when the block succeeds.

    A regular file is replaced by one rename, with its permissions; a symbolic link stays one, and
    what it leads to is replaced. Devices, pipes and descriptors such as /dev/stdout are written to.

    Raises
    ------
    OSError
        With the path as its ``filename``, whatever failed.
    """
    place = destination(path)
    with naming(path):
        if place is None:
            buffer = io.BytesIO()  # so that it may be sought in, and a failure writes nothing
            yield buffer
            number = _descriptor(path)
            with open(path if number is None else os.dup(number), "wb") as direct:
                direct.write(buffer.getbuffer())
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(place.parent)
        file, draft = _draft(place.parent)
        try:
            with file:
                yield file
                file.flush()
                if place.exists():
                    os.fchmod(file.fileno(), stat.S_IMODE(place.stat().st_mode))
                os.replace(draft, place)
        finally:
            draft.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    with whole(path) as file:
        file.write(text.encode(errors="backslashreplace"))  # of a name in other bytes


def destination(path: str | os.PathLike[str]) -> Path | None:
    """Return the regular file, there or to be made, that all links lead to; None for no such.

    Raises
    ------
    IsADirectoryError
        For a folder.
    ValueError
        For a path with a NUL character.
    """
    name = os.fspath(path)
    if "\0" in name:
        raise ValueError(f"the path {name!r} has a NUL character")
    if _descriptor(name) is not None:
        return None
    try:
        mode = os.stat(name).st_mode
    except FileNotFoundError:
        return Path(os.path.realpath(name))
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a file is needed, and this is a folder", name)
    return Path(os.path.realpath(name)) if stat.S_ISREG(mode) else None


def writable(path: str | os.PathLike[str]) -> Path | None:
    """Return `destination`, whose folder can be written to, or made.

    Raises
    ------
    IsADirectoryError, ValueError
        As `destination`.
    PermissionError
        Where it cannot.
    """
    place = destination(path)
    if place is not None:
        folder = next(parent for parent in place.parents if parent.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            told = f"nothing can be written in {folder}"
            raise PermissionError(errno.EACCES, told, os.fspath(path))
    return place


@contextmanager
def exclusive(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Let no other process in for the time of the block.

    Yields
    ------
    place, draft : Path
        The folder with all links followed, and a name beside it that is nobody else's.

    Raises
    ------
    BlockingIOError
        Where another process is in.
    NotADirectoryError
        For what is there and no folder.
    """
    with naming(folder):
        with suppress(FileNotFoundError):
            os.stat(folder)  # its own error for a loop, or a name that is too long
        if folder.exists() and not folder.is_dir():
            kind = "file" if folder.is_file() else "device or a pipe"
            raise NotADirectoryError(
                errno.ENOTDIR, f"a folder is needed, and this is a {kind}", os.fspath(folder)
            )
        place = Path(os.path.realpath(folder))
        place.parent.mkdir(parents=True, exist_ok=True)
        home = _home(place)
        clear_leftovers(home)
        stem = f"{_MARK}{hashlib.sha256(os.fsencode(place.name)).hexdigest()[:16]}"
        lock = home / f"{stem}.lock"
        for _ in range(_TRIES):
            number = _locked(lock, os.O_CREAT)
            if number is not None:
                break
            _pause()
        else:
            raise BlockingIOError(
                errno.EWOULDBLOCK,
                "another process is writing there: wait for its end, or give another folder",
                os.fspath(folder),
            )
    assert number is not None
    try:
        yield place, home / f"{stem}-{secrets.token_hex(8)}"
    finally:
        lock.unlink(missing_ok=True)
        os.close(number)


@contextmanager
def staged(out: Path, names: Iterable[str] = (), *, afresh: bool = False) -> Iterator[Path]:
    """Yield an empty folder whose files move into ``out`` when the block succeeds.

    A new ``out`` appears by one rename; into an existing one the files are moved one by one, each
    whole, with interrupts held back until the last has arrived. On failure ``out`` stays as it
    was. Files of other names in ``out`` are left alone, unless it is to be made afresh. Those that
    `names` says will come are found to be none of them a folder before the block begins.

    Raises
    ------
    BlockingIOError
        While another process writes to ``out``.
    IsADirectoryError
        If a file of the block would replace a folder.
    NotADirectoryError
        If ``out`` is a file.
    """
    with exclusive(out) as (place, stage):
        for name in names:
            destination(out / name)
        stage.mkdir()
        try:
            with naming(out):
                yield stage
                _move(stage, place, afresh)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def passing(place: Path) -> Iterator[Path]:
    """Yield the name beside a place of a folder that goes with the block: a leftover, if killed.

    Raises
    ------
    BlockingIOError
        While another process has one for that place.
    """
    with exclusive(place) as (_, draft):
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _move(stage: Path, out: Path, afresh: bool) -> None:
    old = stage.with_name(f"{stage.name[:-4]}0000")  # a leftover too, should this be cut off
    if not out.exists() or (afresh and stage.parent == out.parent):
        with interrupts_held():
            if out.exists():
                os.replace(out, old)
            os.replace(stage, out)
        shutil.rmtree(old, ignore_errors=True)
        return
    targets = {path: out / path.name for path in sorted(stage.iterdir())}
    plain = {path for path, target in targets.items() if destination(target) == target}
    for path in sorted(targets.keys() - plain):  # a link, a device or a pipe
        with whole(targets[path]) as file, path.open("rb") as made:
            shutil.copyfileobj(made, file)
    with interrupts_held():
        for path in sorted(plain):
            os.replace(path, targets[path])


def clear_leftovers(folder: Path) -> None:
    """Remove this user's drafts and locks that no process holds any more."""
    for path in folder.glob(f"{_MARK}*"):
        own = _OWN.fullmatch(path.name)
        with suppress(OSError):  # another process may be at the same
            if own is None or path.lstat().st_uid != os.geteuid():
                continue
            is_folder = path.is_dir()
            lock = path.with_name(f"{_MARK}{own[1]}.lock") if is_folder else path
            number = _locked(lock, os.O_CREAT if is_folder else 0)
            if number is None:
                continue
            if is_folder:
                shutil.rmtree(path, ignore_errors=True)
            lock.unlink(missing_ok=True)
            os.close(number)


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let errors of writing name the path, in place of a draft or nothing."""
    try:
        yield
    except OSError as error:
        draft = error.filename is not None and _MARK in os.fsdecode(error.filename)
        if draft or (error.filename is None and error.errno in _WRITING):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


def _draft(folder: Path) -> tuple[IO[bytes], Path]:
    while True:
        path = folder / f"{_MARK}{secrets.token_hex(16)}"
        number = _locked(path, os.O_CREAT | os.O_EXCL, wait=True)
        if number is not None:
            return os.fdopen(number, "wb"), path


def _pause() -> None:
    time.sleep(0.025)


def _locked(path: Path, flags: int, *, wait: bool = False) -> int | None:
    """Descriptor of a file that this process now holds; None where another one does."""
    while True:
        number = os.open(path, os.O_RDWR | os.O_NOFOLLOW | flags, 0o666)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(number)
            return None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(number)
                raise
            if not flags:  # whether anyone holds it cannot be told
                os.close(number)
                return None
            return number
        if os.fstat(number).st_nlink:
            return number
        os.close(number)  # removed by who held it
        if flags & os.O_EXCL:
            return None


def _home(place: Path) -> Path:
    """Folder for the drafts of a folder: its parent, unless one cannot rename from there."""
    parent = place.parent
    if place.is_dir() and (
        not os.access(parent, os.W_OK | os.X_OK) or parent.stat().st_dev != place.stat().st_dev
    ):
        return place
    return parent


def _descriptor(path: str | os.PathLike[str]) -> int | None:
    """Find the number of this process's open file that a path such as /dev/stdout leads to."""
    place = Path(os.path.abspath(path))
    for _ in range(40):  # as many links as Linux follows
        folder = os.path.realpath(place.parent)
        if re.fullmatch(rf"/proc/{os.getpid()}(/task/\d+)?/fd", folder) and place.name.isdigit():
            return int(place.name)
        if not place.is_symlink():
            break
        place = Path(folder, os.readlink(place))
    return None


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let interrupts wait for the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []
    numbers = signal.SIGINT, signal.SIGTERM
    held = [n for n in numbers if signal.getsignal(n) is not None]  # else set outside Python
    before = [signal.signal(number, lambda received, _: seen.append(received)) for number in held]
    try:
        yield
    finally:
        for number, handler in zip(held, before, strict=True):
            signal.signal(number, handler)
        for received in seen:
            signal.raise_signal(received)


State = TypeVar("State")


class Checkpoint(ABC, Generic[State]):
    """Where a run is kept, every how many steps, and which run it is.

    Parameters
    ----------
    path : path-like
        The file.
    every : int
        Steps from one writing to the next.
    settings : dict
        All that decides the run's bits, except how many steps it takes.
    """

    def __init__(self, path: str | os.PathLike[str], every: int, settings: dict[str, Any]) -> None:
        self.path, self.every = as_path(path, "checkpoint"), every
        self.settings = plain(settings)

    @abstractmethod
    def save(self, state: State) -> None:
        """Write the state with the settings, whole or not at all."""

    @abstractmethod
    def read(self) -> tuple[dict[str, Any], State]:
        """Return the settings and the state in the file; ValueError where there are none."""

    def load(self) -> State | None:
        """Return the state of this run; None where there is no file.

        Raises
        ------
        ValueError
            Where the file is something else, or that of another run: the message says what differs.
        """
        if not self.path.exists():
            return None
        if not self.path.is_file():
            raise ValueError(f"checkpoint {self.path} must be a regular file")
        there, state = self.read()
        refuse_other(
            there, self.settings, f"checkpoint {self.path}", "Give another path, or remove it"
        )
        return state
