"""Raw runs as they are read: every value is checked where it is taken, and its place is told."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any, NoReturn

FILES = ("leak.json", "cost.json", "attack.json")


class Value:
    """A value of a raw run, which knows where it stands.

    Attributes
    ----------
    raw : object
        The value as it was read.
    file : str
        What the run is called in messages.
    """

    def __init__(self, value: Any, file: str, path: str = "") -> None:
        self.raw, self.file, self._path = value, file, path

    def __contains__(self, key: str) -> bool:
        return key in self.items()

    def __getitem__(self, key: str) -> Value:
        found = self.items().get(key)
        if found is None:
            raise ValueError(f"{self.file}: {self._under(key)} is missing")
        return found

    def get(self, key: str) -> Value | None:
        """Return the value of a key; None where it is missing or null."""
        found = self.items().get(key)
        return None if found is None or found.raw is None else found

    def items(self) -> dict[str, Value]:
        """Values of an object by their keys."""
        if not isinstance(self.raw, Mapping):
            self._refuse("an object")
        return {
            str(key): Value(item, self.file, self._under(str(key)))
            for key, item in self.raw.items()
        }

    def list(self, least: int = 0) -> list[Value]:
        """Values of a list of at least some length."""
        if not isinstance(self.raw, list | tuple) or len(self.raw) < least:
            self._refuse(f"a list of at least {least}" if least else "a list")
        return [
            Value(item, self.file, f"{self._path}[{place}]") for place, item in enumerate(self.raw)
        ]

    def number(self, low: float = 0.0) -> float:
        """Return a number of at least `low`; an infinite one is the string "inf" or "-inf"."""
        value = float(self.raw) if self.raw in ("inf", "-inf") else self.raw
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= low:
            self._refuse(f'a number of at least {low:g}, or "inf"')
        try:
            return float(value)
        except OverflowError:  # of whole numbers
            self._refuse("a number within the float range")

    def finite(self, low: float = 0.0) -> float:
        """Return a number that is not infinite."""
        number = self.number(low)
        if math.isinf(number):
            self._refuse("a finite number")
        return number

    def share(self) -> float:
        """Return a number between 0 and 1."""
        number = self.finite()
        if number > 1.0:
            self._refuse("a share, 1 at most")
        return number

    def count(self, least: int = 0) -> int:
        """Return a whole number of at least `least`."""
        value = self.raw
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not least <= value < 2**63:
            self._refuse(f"a whole number of at least {least}, of 64 bits")
        return int(value)

    def flag(self) -> bool:
        """Return a truth value."""
        if not isinstance(self.raw, bool):
            self._refuse("true or false")
        return bool(self.raw)

    def text(self) -> str:
        """Return a text in one line, of characters that can be shown."""
        if not isinstance(self.raw, str) or not shown(self.raw):
            self._refuse("a text")
        return shown(self.raw)

    def by_share(self) -> dict[str, Value]:
        """Values of an object whose keys are shares, above 0."""
        found = self.items()
        for key in found:
            try:
                is_share = 0.0 < float(key) <= 1.0
            except ValueError:
                is_share = False
            if not is_share:
                raise ValueError(
                    f"{self.file}: {self._path} has {key!r}, and its keys are shares, above 0 and "
                    "1 at most"
                )
        return found

    def table(self) -> dict[str, Any]:
        """Return an object as `public` does."""
        return {shown(key): item.public() for key, item in self.items().items()}

    def public(self) -> Any:
        """Return all of it, with no path of the machine among its texts."""
        if isinstance(self.raw, Mapping):
            return self.table()
        if isinstance(self.raw, list | tuple):
            return [item.public() for item in self.list()]
        if isinstance(self.raw, str):
            return public_name(self.raw)
        if self.raw is None or isinstance(self.raw, bool | int):
            return self.raw
        return self.number(-math.inf)

    def _under(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _refuse(self, needed: str) -> NoReturn:
        told = repr(self.raw)
        told = told if len(told) <= 60 else f"{told[:57]}..."
        where = self._path or "the whole"
        raise ValueError(f"{self.file}: {where} must be {needed}, and is {told}")


def shown(text: str) -> str:
    """Text in one line, of characters that can be shown."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def public_name(text: str) -> str:
    """Name of a network or of data, without the folders of the machine it lies on.

    An id such as ``owner/name`` stays whole.
    """
    name = shown(text)
    if "\\" in name or name[1:3] == ":/":  # of a machine with Windows
        name = PureWindowsPath(name).name
    elif name.count("/") > 1 or name.startswith(("/", ".", "~")):
        name = name.rstrip("/").rpartition("/")[2]
    return name or "unnamed"


def opened(path: Path) -> list[Value]:
    """Raw runs in a file, or in a folder under the names that commands give them.

    Raises
    ------
    OSError
        For what is not there or cannot be read, and for a folder without such files.
    ValueError
        For what is not JSON.
    """
    files = [path]
    if path.is_dir():
        files = [path / name for name in FILES if (path / name).is_file()]
        if not files:
            raise FileNotFoundError(f"the folder {path} has none of {', '.join(FILES)}")
    return [Value(_parsed(file), str(file)) for file in files]


def _parsed(file: Path) -> Any:
    def refuse(text: str) -> NoReturn:
        raise ValueError(f"it holds {text}")

    try:
        return json.loads(file.read_bytes(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON that can be read: {error}") from error
