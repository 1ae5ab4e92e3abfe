"""Where data and networks lie, and the images of handwritten digits: IDX files or a download."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import math
import os
import re
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._errors import extra
from .._validate import FloatArray

VARIABLE, MODELS = "IMMUCOND_DATA", "IMMUCOND_MODELS"
_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def named_folder(data_dir: Path | None) -> Path | None:
    """Folder of data that was given, or that the environment names; None for neither."""
    named = os.environ.get(VARIABLE)
    return data_dir or (Path(named) if named else None)


def classes_in(spec: str) -> tuple[str, list[str]]:
    """Return a data set's name and the classes in brackets behind it, which need not be there.

    What is a file of that name has none.
    """
    found = re.fullmatch(r"(.+)\[(.+)\]", spec)
    # Not by Path, which refuses a name that is too long for a file: there may be many classes.
    if found is None or os.path.exists(spec):
        return spec, []
    return found[1], [name.strip() for name in found[2].split(",")]


def data_folder(data_dir: Path | None, name: str, files: Sequence[str]) -> Path | None:
    """Folder that holds all the files: ``DIR/name`` or DIR itself; None where none was named.

    Parameters
    ----------
    data_dir : Path or None
        DIR; by default the environment variable ``IMMUCOND_DATA``.
    name : str
        Its subfolder for this data set.
    files : sequence of str
        What must be there, as it is or with ``.gz`` appended.

    Raises
    ------
    FileNotFoundError
        If a folder was named and files are missing from it.
    """
    origin = "" if data_dir else f" (from {VARIABLE})"
    data_dir = named_folder(data_dir)
    if data_dir is None:
        return None
    if not data_dir.is_dir():
        raise FileNotFoundError(f"{data_dir} does not exist: it is where data should lie{origin}")
    for folder in (data_dir / name, data_dir):
        missing = [file for file in files if find(folder, file) is None]
        if not missing:
            return folder
        if folder.name == name and folder.is_dir():
            break
    raise FileNotFoundError(f"{folder}{origin} has no {', '.join(missing)}")


def find(folder: Path, file: str) -> Path | None:
    """Path of a file, or of its .gz."""
    return next((p for p in (folder / file, folder / f"{file}.gz") if p.is_file()), None)


def openml(name: str, version: int, read: Callable[[Any], Any], wanted: str) -> Any:
    """Download a data set through scikit-learn, which keeps it for the next time.

    Parameters
    ----------
    name, version : str, int
        Of the data set.
    read : callable
        What to make of the Bunch that scikit-learn returns.
    wanted : str
        What a user may give instead, for the message.

    Raises
    ------
    FileNotFoundError
        If it cannot be had.
    """
    with extra("experiments"):
        from sklearn.datasets import fetch_openml
    try:
        bunch = fetch_openml(name, version=version, as_frame=True)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"no data: give --data-dir or set {VARIABLE} to a folder with {wanted}; "
            f"the download of {name} from OpenML failed ({error})"
        ) from error
    return read(bunch)


def is_import_path(text: str) -> bool:
    """Whether it reads like ``package.module:name``."""
    return _IMPORT_PATH.fullmatch(text) is not None


def imported(path: str) -> Any:
    """Return the object at a path; a function is called, without arguments.

    Raises
    ------
    ValueError
        Where there is no such module, or no such name in it.
    """
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: there is no module {error.name}") from error
    except AttributeError as error:
        raise ValueError(f"{path}: {error}") from error
    return found() if callable(found) else found


def located(spec: str) -> str:
    """Return the folder or the id of a network that is to be loaded.

    A folder as it stands or within the one that ``IMMUCOND_MODELS`` names, an import path
    ``package.module:name`` of a folder or an id, or an id.
    """
    if Path(spec).exists():
        return spec
    if is_import_path(spec):
        return str(imported(spec))
    among = Path(os.environ.get(MODELS, ".")) / spec
    return str(among) if among.is_dir() else spec


IDX_FILES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
MEAN, STD = 0.1307, 0.3081  # of all training pixels, as the published code has them
# A pixel is a grey level rounded to one of 256, so it is known up to this variance.
ROUNDING_VARIANCE = 1.0 / (12.0 * 255.0**2 * STD**2)
_UBYTE = 8  # the only type of entries that MNIST has
_TRAIN = 60_000  # OpenML has all images in one table, these first

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Images:
    """Grey levels with their digits, for training and held out: an image a row, or in its shape."""

    pixels: Pixels
    digits: Pixels
    pixels_held_out: Pixels
    digits_held_out: Pixels
    source: str
    fingerprint: str

    def rows(self, digit: int, held_out: bool = False) -> FloatArray:
        """(N, 784) normalized pixels of a digit's images."""
        pixels = self.pixels_held_out if held_out else self.pixels
        digits = self.digits_held_out if held_out else self.digits
        chosen = pixels[digits == digit]
        return np.asarray((chosen.reshape(len(chosen), -1) / 255.0 - MEAN) / STD)

    def counts(self, wanted: Collection[int]) -> dict[int, tuple[int, int]]:
        """Training and held-out images of each digit; an error for one without."""
        found = {}
        for digit in sorted(wanted):
            for digits, part in ((self.digits, "training"), (self.digits_held_out, "held-out")):
                if digit not in digits:
                    raise ValueError(f"{self.source}: no {part} image shows the digit {digit}")
            found[digit] = (
                int(np.count_nonzero(self.digits == digit)),
                int(np.count_nonzero(self.digits_held_out == digit)),
            )
        return found


def load_images(data_dir: Path | None = None) -> Images:
    """Load the images.

    Parameters
    ----------
    data_dir : Path, optional
        Folder with the four IDX files (``train-images-idx3-ubyte`` and so on, compressed or not),
        or with a subfolder mnist that has them; by default ``IMMUCOND_DATA``, and without it a
        download from OpenML.

    Raises
    ------
    OSError
        For files that are not there or cannot be read.
    ValueError
        For a file that is not in the IDX format or ends early, labels that do not fit the images,
        or a digit without images.
    """
    folder = data_folder(data_dir, "mnist", IDX_FILES)
    if folder is None:
        wanted = "the IDX files of MNIST (train-images-idx3-ubyte and so on)"
        arrays = openml("mnist_784", 1, _table, wanted)
        names, source = ["OpenML's mnist_784"] * 4, "OpenML"
    else:
        paths = [find(folder, name) for name in IDX_FILES]
        arrays = [_read_idx(path, 1 if "labels" in path.name else 3) for path in paths if path]
        names, source = list(map(str, paths)), str(folder)
    pixels, digits, pixels_held_out, digits_held_out = arrays
    if pixels.shape[1:] != pixels_held_out.shape[1:]:
        raise ValueError(
            f"{names[0]} has images of shape {pixels.shape[1:]}, {names[2]} of shape "
            f"{pixels_held_out.shape[1:]}: they must agree"
        )
    _check_labels(digits, len(pixels), names[1])
    _check_labels(digits_held_out, len(pixels_held_out), names[3])
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    return Images(pixels, digits, pixels_held_out, digits_held_out, source, digest.hexdigest()[:16])


def _read_idx(path: Path, dimensions: int) -> Pixels:
    """Array in an IDX file: a magic number, its sizes, its bytes."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is not a whole gzip file: {error}") from error
    start = 4 + 4 * dimensions
    if len(data) < start or tuple(data[:4]) != (0, 0, _UBYTE, dimensions):
        raise ValueError(
            f"{path} is not an IDX file of bytes in {dimensions} dimension(s): it starts with "
            f"{data[:4].hex(' ') or 'nothing'}, and should with 00 00 08 {dimensions:02x}"
        )
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dimensions, 4))
    needed = start + math.prod(shape)
    if len(data) != needed or not math.prod(shape):
        raise ValueError(
            f"{path} should have {needed} bytes for an array of shape {shape}, and has {len(data)}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _check_labels(digits: Pixels, images: int, name: str) -> None:
    if len(digits) != images:
        raise ValueError(f"{name} has {len(digits)} labels for {images} images")
    wrong = np.flatnonzero(digits > 9)
    if wrong.size:
        raise ValueError(f"{name}: row {wrong[0] + 1} holds {digits[wrong[0]]}, not a digit")
    present = np.unique(digits)
    if present.size < 2:
        raise ValueError(f"{name} holds the digit {present[0]} alone: two tasks are needed")


def _table(bunch: Any) -> list[Pixels]:
    """Arrays from a download."""
    values = np.asarray(bunch.data, dtype=np.float64)
    digits = np.asarray(bunch.target, dtype=np.int64).astype(np.uint8)
    row, column = next(map(tuple, np.argwhere(~((values >= 0) & (values <= 255)))), (None, None))
    if row is not None:
        raise ValueError(
            f"OpenML's mnist_784: row {row + 1}, column {column + 1} holds "
            f"{values[row, column]:g}, not a grey level"
        )
    pixels = values.astype(np.uint8)
    return [pixels[:_TRAIN], digits[:_TRAIN], pixels[_TRAIN:], digits[_TRAIN:]]
