"""Rows of numbers from .npy, .npz, .csv and .parquet files, block by block."""

from __future__ import annotations

import codecs
import csv
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from .._errors import extra
from .._validate import Array

BLOCK_BYTES = 2**23
SUFFIXES = (".npy", ".npz", ".csv", ".parquet")

# A block of rows, and what share of the file has been read with it.
Block = tuple[Array, float]


@dataclass(frozen=True)
class Rows:
    """A table of numbers in a file.

    Attributes
    ----------
    name : str
        The file, as it was given.
    columns : int
        Number of columns.
    dtype : numpy.dtype
        Of the numbers as they stand in the file.
    labels : sequence of str, or None
        Names of the columns.
    first_line : int
        Line of the file on which row 1 stands; 0 where a file has no lines.
    """

    name: str
    columns: int
    dtype: np.dtype[Any]
    labels: tuple[str, ...] | None
    first_line: int
    read: Callable[[], Iterator[Block]]

    def blocks(self) -> Iterator[Block]:
        """Yield blocks of finite numbers, none larger than a few megabytes.

        A block may live in memory that the next one overwrites.

        Raises
        ------
        ValueError
            At the first number that is missing, not finite or not a number, with its row and
            column; for a file without rows, or one that ends early.
        """
        seen = 0
        for block, done in self.read():
            if block.dtype.kind == "f" and not np.isfinite(block).all():
                row, column = (int(i) for i in np.argwhere(~np.isfinite(block))[0])
                raise ValueError(f"{self.place(seen + row, column)} holds {block[row, column]}")
            seen += block.shape[0]
            yield block, done
        if not seen:
            raise ValueError(f"{self.name} has no rows")

    def place(self, row: int, column: int) -> str:
        """Name an entry by 0-based indices, as people count: from 1."""
        line = f" (line {self.first_line + row})" if self.first_line else ""
        label = f" ({self.labels[column]!r})" if self.labels else ""
        return f"{self.name}: row {row + 1}{line}, column {column + 1}{label}"


def open_rows(name: str) -> Rows:
    """Open a data file by its suffix; ``FILE.npz:KEY`` chooses among several arrays.

    An index that pandas wrote into a .parquet is no column.

    Raises
    ------
    ValueError
        For another suffix, a file that is not what its suffix says, and a .csv with names of all
        columns but the first, which is an index.
    OSError
        Where it cannot be read.
    ImportError
        For .parquet, where pyarrow is not installed.
    """
    path, key = name, None
    head, separator, tail = name.rpartition(":")
    if separator and head.lower().endswith(".npz"):
        path, key = head, tail
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        return _npy(path)
    if suffix == ".npz":
        return _npz(path, name, key)
    if suffix == ".csv":
        return _csv(path)
    if suffix == ".parquet":
        return _parquet(path)
    raise ValueError(f"{name} must be a file of type {', '.join(SUFFIXES)}, and is of {suffix!r}")


# ---- .npy and .npz ----


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, int], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of a 2-dimensional array of numbers."""
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read(stream)
    except (KeyError, ValueError, TokenError) as error:
        raise ValueError(f"{name} is not an array as numpy.save writes it: {error}") from error
    if not (dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize <= 8)):
        raise ValueError(
            f"{name} must hold float16, float32, float64, integers or bools, and has dtype {dtype}"
        )
    if len(shape) != 2 or shape[0] < 0 or shape[1] < 1:
        raise ValueError(f"{name} must hold a matrix, one row a sample, and has shape {shape}")
    return shape, fortran, dtype


def _npy(path: str) -> Rows:
    with open(path, "rb") as stream:
        shape, fortran, dtype = _header(stream, path)
        start = stream.tell()
    rows, columns = shape
    missing = start + rows * columns * dtype.itemsize - Path(path).stat().st_size
    if missing > 0:
        raise ValueError(f"{path} ends early: {missing} bytes of its {rows} rows are missing")

    def read() -> Iterator[Block]:
        with open(path, "rb", buffering=0) as stream:
            stream.seek(start)
            if not fortran:
                yield from _c_order(stream, path, shape, dtype)
                return
            height = _height(columns, dtype)
            for first in range(0, rows, height):
                block = np.empty((min(height, rows - first), columns), dtype, order="F")
                for j in range(columns):
                    stream.seek(start + (j * rows + first) * dtype.itemsize)
                    _fill(stream, block[:, j], path)
                yield block, (first + block.shape[0]) / rows

    return Rows(path, columns, dtype, None, 0, read)


# A cipher, and a way to compress that is not known, are RuntimeErrors.
_BAD_ZIP = (zipfile.BadZipFile, EOFError, RuntimeError, lzma.LZMAError, zlib.error)


@contextmanager
def _told(path: str) -> Iterator[None]:
    """Say which archive is bad: its directory, an entry's bytes, or how it is packed."""
    try:
        yield
    except (*_BAD_ZIP, OSError) as error:
        if getattr(error, "filename", None) is not None:  # it is the file that cannot be read
            raise
        raise ValueError(
            f"{path} is not an archive as numpy.savez writes it, or is damaged: {error}"
        ) from error


def _npz(path: str, name: str, key: str | None) -> Rows:
    with _told(path), zipfile.ZipFile(path) as archive:
        keys = [e.removesuffix(".npy") for e in archive.namelist() if e.endswith(".npy")]
        if key is None and len(keys) != 1:
            raise ValueError(
                f"{path} holds {len(keys)} arrays ({', '.join(keys)}): choose one as {path}:NAME"
            )
        chosen = keys[0] if key is None else key
        if chosen not in keys:
            raise ValueError(f"{path} holds no array {chosen!r}, but {', '.join(keys)}")
        with archive.open(chosen + ".npy") as stream:
            shape, fortran, dtype = _header(stream, name)

    def read() -> Iterator[Block]:
        with (
            _told(path),
            zipfile.ZipFile(path) as archive,
            archive.open(chosen + ".npy") as stream,
        ):
            if fortran:  # its rows are spread over a stream that only runs forwards
                whole = np.lib.format.read_array(stream, allow_pickle=False)
                height = _height(shape[1], dtype)
                for first in range(0, shape[0], height):
                    block = whole[first : first + height]
                    yield block, (first + block.shape[0]) / shape[0]
                return
            _header(stream, name)
            yield from _c_order(stream, name, shape, dtype)

    return Rows(name, shape[1], dtype, None, 0, read)


def _c_order(
    stream: IO[bytes], name: str, shape: tuple[int, int], dtype: np.dtype[Any]
) -> Iterator[Block]:
    rows, columns = shape
    buffer = np.empty((min(rows, _height(columns, dtype)), columns), dtype)
    for first in range(0, rows, max(1, len(buffer))):
        block = buffer[: rows - first]
        _fill(stream, block, name)
        yield block, (first + len(block)) / rows


def _fill(stream: IO[bytes], block: Array, name: str) -> None:
    """Read exactly the bytes of a contiguous block."""
    view = memoryview(block.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    while view:
        got = stream.readinto(view)  # type: ignore[attr-defined]
        if not got:
            raise ValueError(f"{name} ends early: {len(view)} bytes of a block are missing")
        view = view[got:]


def _height(columns: int, dtype: np.dtype[Any]) -> int:
    return max(1, BLOCK_BYTES // (columns * dtype.itemsize))


# ---- .csv ----


def _csv(path: str) -> Rows:
    size = Path(path).stat().st_size
    with open(path, "rb") as stream:
        first, above = b"", 0
        for first in stream:
            if first.removeprefix(b"" if above else codecs.BOM_UTF8).strip():
                break
            above += 1
    if not first.strip():
        raise ValueError(f"{path} is empty")
    text = _decoded([first], path, above + 1)[0]
    delimiter = max(",;\t", key=re.sub('"[^"]*"', "", text).count)
    cells = _cells(text, delimiter, path, above + 1)
    labels = None if any(map(_is_number, cells)) else tuple(cell.strip() for cell in cells)
    if labels and not labels[0] and any(labels):
        raise ValueError(
            f"{path}: column 1 has no name among columns that have one, like an index that pandas "
            "or R writes: name it, or write the file without (index=False, row.names=FALSE)"
        )
    start = above + (1 if labels is None else 2)  # the line of row 1
    columns = len(cells)

    def blank(text: str) -> bool:  # tabs between nothing are cells, all of them empty
        return not text.strip() and (columns == 1 or delimiter not in text)

    def read() -> Iterator[Block]:
        with open(path, "rb") as stream:
            for _ in range(start - 1):
                stream.readline()
            line, ended = start, False
            while raw := stream.readlines(BLOCK_BYTES // 8):
                lines = _decoded(raw, path, line)
                while lines and blank(lines[-1]):  # blank lines may follow the last row
                    lines.pop()
                if lines and (ended or any(map(blank, lines))):
                    at = line + next((i for i, text in enumerate(lines) if blank(text)), 0)
                    raise ValueError(f"{path}: blank line between rows, at or before line {at}")
                ended = len(lines) < len(raw)
                if lines:
                    yield _parsed(lines, rows, line, delimiter), stream.tell() / size
                line += len(raw)

    rows = Rows(path, columns, np.dtype(np.float64), labels, start, read)
    return rows


def _decoded(raw: list[bytes], path: str, line: int) -> list[str]:
    try:
        return [text.decode("utf-8-sig" if line == 1 else "utf-8") for text in raw]
    except UnicodeDecodeError as error:
        bad = next(i for i, text in enumerate(raw) if error.object == text)
        raise ValueError(f"{path}: line {line + bad} is not text in UTF-8: {error}") from error


def _cells(text: str, delimiter: str, path: str, line: int) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error as error:  # ends in CR alone, goes on and on, or has a quote that is open
        raise ValueError(f"{path}: line {line} is no row of a table: {error}") from error


def _parsed(lines: list[str], rows: Rows, line: int, delimiter: str) -> npt.NDArray[np.float64]:
    """Parse lines at the speed of NumPy; only where that fails, find the cell."""
    try:
        block: npt.NDArray[np.float64] = np.loadtxt(
            lines, delimiter=delimiter, comments=None, quotechar='"', ndmin=2
        )
    except ValueError as error:
        _find_bad_cell(lines, rows, line, delimiter)
        raise ValueError(f"{rows.name}: after line {line}: {error}") from error
    if block.shape[1] != rows.columns:
        _find_bad_cell(lines, rows, line, delimiter)
    return block


def _find_bad_cell(lines: list[str], rows: Rows, line: int, delimiter: str) -> None:
    for offset, text in enumerate(lines):
        cells = _cells(text, delimiter, rows.name, line + offset)
        row = line + offset - rows.first_line
        if len(cells) != rows.columns:
            raise ValueError(
                f"{rows.name}: row {row + 1} (line {line + offset}) has {len(cells)} columns, and "
                f"the first line {rows.columns}"
            )
        for column, cell in enumerate(cells):
            if not _is_number(cell):
                told = f"holds {cell.strip()!r}, not a number" if cell.strip() else "is empty"
                hint = "; a header must hold no numbers" if row == 0 and not rows.labels else ""
                raise ValueError(f"{rows.place(row, column)} {told}{hint}")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


# ---- .parquet ----


def _parquet(path: str) -> Rows:
    with extra("experiments"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    try:
        with pq.ParquetFile(path) as table:
            schema, count = table.schema_arrow, table.metadata.num_rows
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from error
    index = (schema.pandas_metadata or {}).get("index_columns", [])  # of pandas, and no feature
    kept = [i for i, name in enumerate(schema.names) if name not in index]
    labels = tuple(schema.names[i] for i in kept)
    dtypes: list[np.dtype[Any]] = []
    for field in map(schema.field, kept):
        kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
        if not any(kind(field.type) for kind in kinds):
            raise ValueError(
                f"{path}: column {len(dtypes) + 1} ({field.name!r}) must hold floats, integers or "
                f"bools, and holds {field.type}"
            )
        dtypes.append(np.dtype(field.type.to_pandas_dtype()))
    if not labels:
        raise ValueError(f"{path} has no columns")
    dtype = np.result_type(*dtypes)

    def read() -> Iterator[Block]:
        seen = 0
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=_height(len(labels), np.dtype(np.float64))):
                columns = [batch.column(i) for i in kept]
                for column, array in enumerate(columns):
                    if array.null_count:
                        row = array.is_null().to_numpy(zero_copy_only=False).argmax()
                        raise ValueError(f"{rows.place(seen + int(row), column)} is empty")
                arrays = [array.to_numpy(zero_copy_only=False) for array in columns]
                seen += batch.num_rows
                if batch.num_rows:
                    yield np.column_stack(arrays), seen / max(count, 1)

    rows = Rows(path, len(labels), dtype, labels, 0, read)
    return rows
