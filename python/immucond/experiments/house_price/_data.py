"""The House Price tasks: 79 features of a sale; LotArea is primary, SalePrice is harmful."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..._validate import FloatArray
from .._sources import data_folder, openml

FILES = ("D_P.csv", "D_H.csv")
PRIMARY, HARMFUL, ZONE = "LotArea", "SalePrice", "MSZoning"
_COLUMNS = """
Id MSSubClass MSZoning LotFrontage LotArea Street Alley LotShape LandContour Utilities LotConfig
LandSlope Neighborhood Condition1 Condition2 BldgType HouseStyle OverallQual OverallCond
YearBuilt YearRemodAdd RoofStyle RoofMatl Exterior1st Exterior2nd MasVnrType MasVnrArea
ExterQual ExterCond Foundation BsmtQual BsmtCond BsmtExposure BsmtFinType1 BsmtFinSF1
BsmtFinType2 BsmtFinSF2 BsmtUnfSF TotalBsmtSF Heating HeatingQC CentralAir Electrical 1stFlrSF
2ndFlrSF LowQualFinSF GrLivArea BsmtFullBath BsmtHalfBath FullBath HalfBath BedroomAbvGr
KitchenAbvGr KitchenQual TotRmsAbvGrd Functional Fireplaces FireplaceQu GarageType GarageYrBlt
GarageFinish GarageCars GarageArea GarageQual GarageCond PavedDrive WoodDeckSF OpenPorchSF
EnclosedPorch 3SsnPorch ScreenPorch PoolArea PoolQC Fence MiscFeature MiscVal MoSold YrSold
SaleType SaleCondition SalePrice
"""
COLUMNS = tuple(_COLUMNS.split())
_MISSING = ("", "NA")

Cells = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Task:
    """One set of sales, standardized: the first rows are for training, the others held out.

    Attributes
    ----------
    X, y : (N, 79) and (N,) array
        Features and target of the training rows.
    X_held_out, y_held_out : arrays
        The same of the others.
    """

    X: FloatArray
    y: FloatArray
    X_held_out: FloatArray
    y_held_out: FloatArray


@dataclass(frozen=True)
class HousePrice:
    """Both tasks, their features' names, and what identifies the data."""

    primary: Task
    harmful: Task
    features: tuple[str, ...]
    source: str
    fingerprint: str


def load(data_dir: Path | None = None, rows: int = 200) -> HousePrice:
    """Load the data and prepare them as the paper does.

    A missing value becomes 0, a category its place among the sorted ones of its file, then every
    feature and the target are standardized over all rows of their file; a constant feature is 0.

    Parameters
    ----------
    data_dir : Path, optional
        Folder with D_P.csv and D_H.csv, or with a subfolder house_price that has them; by default
        ``IMMUCOND_DATA``, and without it a download from OpenML.
    rows : int, default 200
        First rows of each file that are for training.

    Raises
    ------
    OSError
        For files that are not there or cannot be read.
    ValueError
        For an absent column, an entry that is not finite, a target that is constant, or too few
        rows; the message names the file, the column and the line.
    """
    folder = data_folder(data_dir, "house_price", FILES)
    if folder is None:
        sets = openml("house_prices", 1, _split, f"house_price/{' and house_price/'.join(FILES)}")
        names = ("OpenML's house_prices outside zone RL", "OpenML's house_prices in zone RL")
        source = "OpenML"
    else:
        sets = tuple(_read(folder / file) for file in FILES)
        names, source = (str(folder / FILES[0]), str(folder / FILES[1])), str(folder)
    features = tuple(name for name in COLUMNS if name not in (PRIMARY, HARMFUL))
    primary, harmful = (
        _task(cells, name, features, target, rows)
        for cells, name, target in zip(sets, names, (PRIMARY, HARMFUL), strict=True)
    )
    digest = hashlib.sha256()
    for task in (primary, harmful):
        for array in (task.X, task.y, task.X_held_out, task.y_held_out):
            digest.update(array.tobytes())
    return HousePrice(primary, harmful, features, source, digest.hexdigest()[:16])


def _read(path: Path) -> Cells:
    """Columns of a CSV file as text."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if not lines:
        raise ValueError(f"{path} is empty")
    header, rows = lines[0], [line for line in lines[1:] if line]
    twice = [name for place, name in enumerate(header) if name in header[:place]]
    if twice:
        raise ValueError(f"{path} has the column {twice[0]!r} twice")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise ValueError(
                f"{path}: row {number} has {len(row)} columns, and the header {len(header)}"
            )
    return _checked({name: [row[j] for row in rows] for j, name in enumerate(header)}, str(path))


def _split(bunch: Any) -> tuple[Cells, Cells]:
    """Split a download by zone, rows in their order."""
    frame = bunch.frame
    cells = _checked(
        {
            name: ["" if value is None or value != value else str(value) for value in frame[name]]
            for name in frame.columns
        },
        "OpenML's house_prices",
    )
    residential = [zone == "RL" for zone in cells[ZONE]]
    return tuple(  # type: ignore[return-value]
        {
            name: [cell for cell, inside in zip(column, residential, strict=True) if inside is kept]
            for name, column in cells.items()
        }
        for kept in (False, True)
    )


def _checked(cells: Cells, name: str) -> Cells:
    absent = [column for column in COLUMNS if column not in cells]
    if absent:
        raise ValueError(f"{name} has no column {', '.join(map(repr, absent))}")
    unknown = [column for column in cells if column not in COLUMNS]
    if unknown:
        raise ValueError(
            f"{name} has other features than the House Price data: {', '.join(map(repr, unknown))}"
        )
    return cells


def _task(cells: Cells, name: str, features: Sequence[str], target: str, rows: int) -> Task:
    if len(cells[target]) <= rows:
        raise ValueError(
            f"{name} has {len(cells[target])} rows, and more than {rows} are needed: the first "
            f"{rows} for training, the others held out"
        )
    for number, cell in enumerate(cells[target], 1):
        if not _is_number(cell):
            raise ValueError(
                f"{name}: row {number}, column {target!r} holds {cell!r}, not a number"
            )
    y = _numbers(cells[target], target, name)
    if np.ptp(y) == 0.0:
        raise ValueError(f"{name}: column {target!r} is {y[0]:g} in every row: nothing to learn")
    X = np.column_stack([_standardized(_numbers(cells[f], f, name)) for f in features])
    y = _standardized(y)
    return Task(X[:rows], y[:rows], X[rows:], y[rows:])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(cells: Sequence[str], column: str, name: str) -> FloatArray:
    """Return numbers with 0 for what is missing, or the codes of the sorted categories."""
    filled = ["0" if cell in _MISSING else cell for cell in cells]
    if all(map(_is_number, filled)):
        values = [float(cell) for cell in filled]
    else:
        codes = {category: code for code, category in enumerate(sorted(set(filled)))}
        values = [float(codes[cell]) for cell in filled]
    for number, value in enumerate(values, 1):
        if not math.isfinite(value):
            raise ValueError(f"{name}: row {number}, column {column!r} holds {cells[number - 1]}")
    return np.array(values)


def _standardized(values: FloatArray) -> FloatArray:
    spread = values.std() if np.ptp(values) > 0.0 else 0.0  # not what rounding of the mean leaves
    centred: FloatArray = values - values.mean()
    return centred / spread if spread > 0.0 else np.zeros_like(values)
