"""Files that hold a classification task: images in folders and zips, IDX files, CSV and JSON."""

from __future__ import annotations

import csv
import json
import textwrap
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from .._sources import IDX_FILES as IDX
from .._sources import VARIABLE, classes_in, imported, is_import_path, named_folder
from .._sources import load_images as load_idx
from ._task import ImageFile, Part, Samples, Task, task

TEXT = ("text", "sentence", "utterance")
LABEL = ("label", "category", "intent", "class")
SUFFIXES = (".csv", ".json", ".jsonl", ".zip")
_UNPACKED = (".bmp", ".ppm", ".pgm")  # as large whatever they show
IMAGES = (".jpg", ".jpeg", ".png", ".webp", *_UNPACKED)
_HELD_OUT = 5  # where there is no test part, every fifth sample of a class


def load(spec: str, data_dir: Path | None = None) -> Task:
    """Load a task.

    Parameters
    ----------
    spec : str
        A folder or a file, as it is or within `data_dir`: with parts ``train`` and ``test``, each
        a folder of images by class, a .zip of one, a .csv or a .json of texts; with one of these
        without parts (every fifth sample of a class is held out); or with the IDX files of MNIST.
        With classes after it, ``DATA[one,two]``, those samples alone; ``DATA[-one,-two]``: those
        of all others.
        Or an import path ``package.module:name`` of ``((samples, labels), (samples, labels))``,
        to train on and to test on, or of a function that returns it.
    data_dir : Path, optional
        By default the environment variable ``IMMUCOND_DATA``.

    Raises
    ------
    OSError
        For what is not there or cannot be read.
    ValueError
        For what is not a task, and why.
    """
    whole, named = classes_in(spec)
    if named:
        return _only(load(whole, data_dir), spec, named)
    if is_import_path(spec) and not Path(spec).exists():
        return _given(spec, imported(spec))
    path = _found(spec, data_dir)
    if path.is_dir() and any((path / f"{IDX[0]}{end}").is_file() for end in ("", ".gz")):
        images = load_idx(path)
        return task(
            spec,
            _grey(images.pixels, images.digits),
            _grey(images.pixels_held_out, images.digits_held_out),
        )
    parts = {part: _part(path, part) for part in ("train", "test")}
    if (
        path.name in parts
        and not any(parts.values())
        and all(_part(path.parent, part) for part in parts)
    ):
        raise ValueError(
            f"{path} is one part of a data set: give the folder that holds both, {path.parent}"
        )
    if parts["train"] is not None and parts["test"] is not None:
        return task(spec, _read(parts["train"]), _read(parts["test"]))
    if parts["train"] is not None or parts["test"] is not None:
        there, missing = sorted(parts, key=lambda part: parts[part] is None)
        raise FileNotFoundError(f"{path} has a part {there!r}, and no part {missing!r}")
    inside = sorted(p for p in path.glob("*") if p.suffix in SUFFIXES) if path.is_dir() else []
    source = inside[0] if len(inside) == 1 else path
    if source.suffix == ".json":
        found = _json(source)
        if isinstance(found, dict):
            missing_parts = [part for part in parts if part not in found]
            if missing_parts:
                raise ValueError(f"{source} has no {missing_parts[0]!r}, only {', '.join(found)}")
            train, test = (_records(found[part], f"{source}: {part}") for part in parts)
            return task(spec, train, test)
    return task(spec, *_split(_read(source)))


def _only(whole: Task, spec: str, names: Sequence[str]) -> Task:
    """Return the samples of some classes, or of all but those behind a minus sign."""
    without = all(name.startswith("-") and name not in whole.classes for name in names)
    named = [name[1:].strip() if without else name for name in names]
    unknown = [name for name in named if name not in whole.classes]
    if unknown or len(set(named)) < len(named):
        raise ValueError(
            f"{spec} must name classes of {whole.name}, each once, and names "
            f"{', '.join(map(repr, unknown or named))}: there are {', '.join(whole.classes)}"
        )

    def samples(part: Part) -> Samples:
        told = [whole.classes[y] for y in part.labels]
        kept = [i for i, name in enumerate(told) if (name in named) != without]
        return [part.inputs[i] for i in kept], [told[i] for i in kept]

    return task(spec, samples(whole.train), samples(whole.test))


def _found(spec: str, data_dir: Path | None) -> Path:
    named = named_folder(data_dir)
    tried = [Path(spec), *([named / spec] if named else [])]
    for path in tried:
        if path.exists():
            return path
    raise FileNotFoundError(
        f"no data set {spec!r}: looked for {' and '.join(map(str, tried))}; give a folder, a zip, "
        f"CSV or JSON file, an import path package.module:name, or --data-dir (or {VARIABLE})"
    )


def _given(spec: str, value: Any) -> Task:
    if isinstance(value, Task):
        return value
    try:
        (X, y), (X_test, y_test) = value
        parts = ((list(X), list(map(str, y))), (list(X_test), list(map(str, y_test))))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{spec} must be ((samples, labels), (samples, labels)), to train on and to test on"
        ) from error
    return task(spec, *parts)


def _part(path: Path, name: str) -> Path | None:
    if not path.is_dir():
        return None
    candidates = (path / name, *(path / f"{name}{suffix}" for suffix in SUFFIXES))
    return next((p for p in candidates if p.exists()), None)


def _read(path: Path) -> Samples:
    if not (path.is_dir() or path.is_file()):
        raise ValueError(f"{path} must be a folder or a regular file")
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return _images(path, ((p.relative_to(path), _stamp(p), p.read_bytes) for p in files))
    if path.suffix == ".zip":
        return _zip(path)
    if path.suffix == ".csv":
        try:
            with path.open(newline="", encoding="utf-8-sig") as lines:
                rows = list(csv.DictReader(lines))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not CSV in UTF-8: {error}") from error
        return _records(rows, str(path))
    if path.suffix in (".json", ".jsonl"):
        return _records(_json(path), str(path))
    raise ValueError(f"{path} is not a data set: it must be a folder or {', '.join(SUFFIXES)}")


def _stamp(path: Path) -> str:
    """Size of a file, which changes with its content where that is packed; else its bytes count."""
    size = str(path.stat().st_size)
    unpacked = path.suffix.lower() in _UNPACKED
    return f"{zlib.crc32(path.read_bytes())} {size}" if unpacked else size


def _zip(path: Path) -> Samples:
    try:
        archive = zipfile.ZipFile(path)  # open as long as its images are
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not a whole zip file: {error}") from error
    entries = sorted(archive.infolist(), key=lambda entry: entry.filename)
    return _images(
        path,
        (
            (
                PurePosixPath(entry.filename),
                f"{entry.CRC} {entry.file_size}",
                partial(archive.read, entry),
            )
            for entry in entries
        ),
    )


def _images(path: Path, files: Iterable[tuple[PurePath, str, Callable[[], bytes]]]) -> Samples:
    """Images among files; the folder that holds one is its class."""
    samples: Samples = ([], [])
    for name, stamp, read in files:
        if name.suffix.lower() in IMAGES:
            if not name.parent.name:
                raise ValueError(f"{path}: {name} lies in no folder that names its class")
            samples[0].append(ImageFile(f"{path}: {name}", f"{name} {stamp}", read))
            samples[1].append(name.parent.name)
    if not samples[0]:
        raise ValueError(f"{path} has no images ({', '.join(IMAGES)})")
    return samples


def _grey(pixels: Any, digits: Any) -> Samples:
    """Images of grey levels, each level three times."""
    return list(pixels[..., None].repeat(3, axis=3)), [str(digit) for digit in digits]


def _json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _records(rows: Any, name: str) -> Samples:
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{name} must be a list of texts with labels, and is empty or none")
    samples: Samples = ([], [])
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            text, label = (_field(row, names, name) for names in (TEXT, LABEL))
        elif isinstance(row, list) and len(row) == 2:
            text, label = row
        else:
            raise ValueError(f"{name}: entry {number} is not a text with a label")
        no_label = label is None or label != label or not str(label).strip()  # or NaN
        if not isinstance(text, str) or not text.strip() or no_label:
            raise ValueError(f"{name}: entry {number} has no text or no label")
        if not isinstance(label, str | int | float):
            raise ValueError(
                f"{name}: the label of entry {number} must be a text or a number, and is "
                f"{textwrap.shorten(str(label), 60)}"
            )
        samples[0].append(text)
        samples[1].append(str(label))
    return samples


def _field(row: dict[str, Any], names: Sequence[str], source: str) -> Any:
    found = next((name for name in names if name in row), None)
    if found is None:
        raise ValueError(
            f"{source} needs a column {' or '.join(names)}, and has {', '.join(map(str, row))}"
        )
    return row[found]


def _split(samples: Samples) -> tuple[Samples, Samples]:
    """Hold out every fifth sample of each class."""
    train: Samples = ([], [])
    test: Samples = ([], [])
    seen: dict[str, int] = {}
    for sample, label in zip(*samples, strict=True):
        seen[label] = seen.get(label, 0) + 1
        part = test if seen[label] % _HELD_OUT == 0 else train
        part[0].append(sample)
        part[1].append(label)
    return train, test
