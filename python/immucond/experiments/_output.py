"""Result files that appear all together, whole, or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .._files import umask, whole


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield an empty folder whose files move into ``out`` when the block succeeds.

    A new ``out`` appears by one rename; into an existing one the files are moved one by one, each
    whole, with interrupts held back until the last has arrived. On failure ``out`` stays as it
    was. Files of other names in ``out`` are left alone.

    Raises
    ------
    NotADirectoryError
        If ``out`` is a file.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file, a folder is needed")
    out.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        stage.chmod(0o777 & ~umask())
        yield stage
        with _interrupts_held():
            if out.exists():
                for path in sorted(stage.iterdir()):
                    os.replace(path, out / path.name)
            else:
                os.replace(stage, out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


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
