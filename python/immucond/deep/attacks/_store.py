"""The trials of a run, each in a file of its own as soon as it is done."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ..._files import exclusive, write_whole
from ..._format import plain
from ..._validate import as_path, refuse_other
from ._trial import Trial

_RUN = "run.json"


class Store:
    """Trials by what they are of; without a folder none is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, *key: Any) -> Trial | None:
        """Return a trial that was kept."""
        path = self._path(key)
        if path is None or not path.exists():
            return None
        try:
            told = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
            if told["trial"] != list(key):
                raise ValueError(f"it is of {told['trial']}")
            return Trial.from_dict(told["result"])
        except (UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a trial of this run: remove it ({error})") from error

    def put(self, trial: Trial, *key: Any) -> Trial:
        """Keep a trial, and return it as it will be read."""
        told = trial.as_dict()
        path = self._path(key)
        if path is not None:
            record = {"trial": list(key), "result": told}
            write_whole(path, json.dumps(record, allow_nan=False) + "\n")
        return Trial.from_dict(told)

    def _path(self, key: tuple[Any, ...]) -> Path | None:
        if self._folder is None:
            return None
        words = [
            re.sub(r"[^\w.-]+", "_", f"{part:03d}" if isinstance(part, int) else part)
            for part in key
        ]
        return self._folder / f"{'-'.join(words)}.json"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}")


@contextmanager
def opened(folder: str | Path | None, settings: Mapping[str, Any]) -> Iterator[Store]:
    """Give the trials in a folder, which no other process may write to meanwhile.

    Raises
    ------
    BlockingIOError
        Where another one does.
    ValueError
        Where the folder is of another run: the message says in what it differs.
    """
    if folder is None:
        yield Store(None)
        return
    with exclusive(as_path(folder, "checkpoint")) as (place, _):
        place.mkdir(parents=True, exist_ok=True)
        path, here = place / _RUN, plain(settings)
        if path.exists():
            try:
                there = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{path} is not of a run of attacks: remove it") from error
            refuse_other(there, here, f"checkpoint {folder}", "Give another folder, or remove it")
        elif any(place.iterdir()):
            raise ValueError(f"checkpoint {folder} must be an empty folder, or one of this run")
        else:
            write_whole(path, json.dumps(here, indent=2, allow_nan=False) + "\n")
        try:
            yield Store(place)
        except BaseException:
            if list(place.iterdir()) == [path]:  # nothing is done: other settings may follow
                path.unlink()
            raise
