"""What accumulators share: rows come in blocks, from others, from other ranks, from a file."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from ._errors import warn_accuracy
from ._extreme import ExtremePairs
from ._files import interrupts_held
from ._rank import epsilon
from ._ranks import Ranks
from ._tensor_file import read_tensors, write_tensors
from ._validate import Array, FloatArray, as_count, as_matrix

_NARROW = 64  # columns


class Accumulator(ABC):
    """Second moments of a stream of rows, mergeable and to be saved."""

    _ARRAYS: ClassVar[Mapping[str, str]]  # of a file, with their dtypes

    def __init__(self, d: int) -> None:
        self._d = as_count(d, "d", least=1)
        self._count = 0
        self._dtype: str | None = None  # the coarsest that rows came in

    @property
    def count(self) -> int:
        """The number of rows so far."""
        return self._count

    def update(self, X: npt.ArrayLike) -> Self:
        """Add the rows of `X`, shape (n, d).

        Parameters
        ----------
        X : array_like, shape (n, d)
            float16, float32, float64, integers or bools; of no rows too, which add nothing. Its
            dtype sets the default tolerance on the rank, the coarsest one where blocks differ.

        Returns
        -------
        Self
            Itself.

        Raises
        ------
        TypeError, ValueError
            Where `X` is not a finite real matrix of d columns.
        OverflowError
            Where what is accumulated leaves the range of float64. In either case the accumulator
            is as it was.
        """
        if getattr(X, "shape", None) == (0, self._d):
            return self
        rows = as_matrix(X, "X")
        if rows.shape[1] != self._d:
            raise ValueError(f"X must have {self._d} columns, and has shape {rows.shape}")
        with self._undivided():
            self._add(rows)
            self._counted(len(rows), rows.dtype.name)
        return self

    def merge(self, other: Self) -> Self:
        """Add all that another accumulator of the same width has seen; it is not changed.

        Returns
        -------
        Self
            Itself.

        Raises
        ------
        TypeError, ValueError
            Where `other` is of another kind or width.
        OverflowError
            As `update`.
        """
        kind = type(self).__name__
        if not isinstance(other, type(self)):
            raise TypeError(f"other must be a {kind}, and is {type(other).__name__}")
        if other._d != self._d:
            raise ValueError(f"other must have width {self._d}, and has {other._d}")
        with self._undivided():
            self._join(other)
            self._counted(other._count, other._dtype)
        return self

    def all_reduce(self, group: Any = None) -> Self:
        """Add all that the other ranks of a group have seen, on every rank of it.

        A binary tree of merges: a rank receives at most ``ceil(log2 P)`` messages before the result
        goes to all, the same to the bit. A rank may have seen no rows.

        Parameters
        ----------
        group : torch.distributed.ProcessGroup or DeviceMesh, optional
            A mesh of one dimension; by default every process. All of its ranks must call.

        Returns
        -------
        Self
            Itself.

        Raises
        ------
        ValueError
            On every rank, where widths differ.
        OverflowError
            On every rank, as `update`.
        RuntimeError
            Where there is no process group, or a rank does not answer within its time-out.
        """
        ranks = Ranks(group)
        name = np.zeros(16, np.uint8)
        text = (self._dtype or "").encode()
        name[: len(text)] = list(text)
        about = ranks.gathered(np.array([self._d, self._count, self._depth(), *name], np.int64))
        widths = [int(numbers[0]) for numbers in about]
        if len(set(widths)) > 1:
            raise ValueError(f"all ranks must have one width, and have {widths}")
        if not any(numbers[1] for numbers in about):
            return self
        total = ranks.joined(self._packed(), self._joined)
        with self._undivided():
            self._unpack(total, max(int(n[2]) for n in about) + (ranks.size - 1).bit_length())
            self._count = 0
            for numbers in about:
                found = bytes(numbers[3:].astype(np.uint8)).rstrip(b"\0").decode()
                self._counted(int(numbers[1]), found or None)
        return self

    def _undivided(self) -> AbstractContextManager[None]:
        """Let interrupts wait: half of the rows would be in, and none counted.

        Narrow ones take no longer than this does.
        """
        return interrupts_held() if self._d > _NARROW else nullcontext()

    def _counted(self, rows: int, dtype: str | None) -> None:
        self._count += rows
        if dtype is not None:
            self._dtype = max(self._dtype or dtype, dtype, key=epsilon)

    @abstractmethod
    def _add(self, rows: Array) -> None:
        """Take in rows of the right width, or raise and change nothing."""

    @abstractmethod
    def _join(self, other: Self) -> None:
        """Take in what another one of the same width holds, or raise and change nothing."""

    def _depth(self) -> int:
        """How many roundings a row has gone through, where that matters."""
        return 0

    @abstractmethod
    def _packed(self) -> FloatArray:
        """Return all that is held as few numbers, whose length depends on the width alone."""

    @abstractmethod
    def _joined(self, first: FloatArray, second: FloatArray) -> FloatArray:
        """Return what two ranks packed as one, for one more of depth."""

    @abstractmethod
    def _unpack(self, packed: FloatArray, depth: int) -> None:
        """Hold this, and nothing else."""

    @abstractmethod
    def _arrays(self) -> dict[str, Array]:
        """Return all that is held, by the names in `_ARRAYS`."""

    @abstractmethod
    def _restore(self, arrays: dict[str, Array], count: int) -> None:
        """Take in what `_arrays` returned of so many rows; ValueError where it cannot have."""

    def to_safetensors(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file, whole or not at all; needs the extra ``safetensors``.

        What is read back goes on to the same bits. The metadata name ``kind``, ``version``,
        ``count`` and ``dtype``.
        """
        about = {"count": str(self._count), "dtype": self._dtype or ""}
        write_tensors(path, type(self).__name__, self._arrays(), about)

    @classmethod
    def from_safetensors(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `to_safetensors` wrote.

        Raises
        ------
        OSError
            Where the file cannot be read.
        ValueError
            Where it holds something else, or what no accumulator holds: NaN, other shapes.
        """
        arrays, about = read_tensors(path, cls.__name__, cls._ARRAYS)
        try:
            count, dtype = _read_count(about.get("count", "")), about.get("dtype", "")
            if (count == 0) != (dtype == ""):
                raise ValueError(f"there must be a dtype where there are rows, and it is {dtype!r}")
            name = next(iter(cls._ARRAYS))
            if arrays[name].ndim != 2:
                raise ValueError(f"{name} must be a matrix, and has shape {arrays[name].shape}")
            accumulator = cls(arrays[name].shape[1])
            accumulator._restore(arrays, count)
            accumulator._counted(count, dtype or None)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{os.fspath(path)} holds no {cls.__name__}: {error}") from error
        return accumulator

    def __repr__(self) -> str:
        return f"{type(self).__name__}(d={self._d}, count={self._count})"


def _read_count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise ValueError(f"count must be a whole number, and is {text!r}")
    return int(text)


def need_rows(accumulator: Accumulator) -> None:
    if accumulator.count == 0:
        raise ValueError(f"{accumulator!r} has seen no rows, and has no pairs")


def wider(
    pairs: ExtremePairs, share_max: float, share_min: float, lost: float = 0.0
) -> ExtremePairs:
    """Widen the bounds by these shares of the eigenvalues, and by what is lost whatever they are.

    And tell what is not determined then.
    """
    # One that underflows is as determined as its scaled self.
    known = pairs.bound_min / pairs.sigma_min if pairs.sigma_min > 0.0 else 0.0
    bound_min = _plus_share(pairs.bound_min, share_min, pairs.sigma_min) + lost
    determined = pairs.determined_min and known + share_min * (1.0 + known) < 0.5
    determined = determined and (lost == 0.0 or bound_min < pairs.sigma_min / 2.0)
    if pairs.determined_min and not determined:
        warn_accuracy("X^T X")
    return replace(
        pairs,
        bound_max=_plus_share(pairs.bound_max, share_max, pairs.sigma_max) + lost,
        bound_min=bound_min,
        determined_min=determined,
    )


def _plus_share(bound: float, share: float, sigma: float) -> float:
    largest = sigma + bound
    return bound + share * largest if largest > 0.0 else bound
