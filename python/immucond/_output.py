"""Result files that appear all together, whole, or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ._files import destination, exclusive, naming, whole


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


def _move(stage: Path, out: Path, afresh: bool) -> None:
    old = stage.with_name(f"{stage.name[:-4]}0000")  # a leftover too, should this be cut off
    if not out.exists() or (afresh and stage.parent == out.parent):
        with _interrupts_held():
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
    with _interrupts_held():
        for path in sorted(plain):
            os.replace(path, targets[path])


def write_whole(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    with whole(path) as file:
        file.write(text.encode())


@contextmanager
def _interrupts_held() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []
    held = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda received, _: seen.append(received)) for number in held]
    try:
        yield
    finally:
        for number, handler in zip(held, before, strict=True):
            signal.signal(number, handler)
        for received in seen:
            signal.raise_signal(received)
