"""Second moments of one module's rows, from a stream of them: plain, centred, and with targets."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.linalg
import torch

from .._accumulator import Accumulator
from .._gram import GramAccumulator, gram
from .._rank import default_rtol, rank_rule, tolerance_at
from .._ranks import Ranks
from .._svd import svd
from .._triangle import TriangleAccumulator
from .._validate import Array, FloatArray
from ..linear import Alignment, alignment
from ._rows import Chunk, RefusedError

Factor = Literal["gram", "r"]
_HALF = (torch.float16, torch.bfloat16)
_BLOCK = 2**18  # entries of a block of rows, at least


class Moments(ABC):
    """Rows X (n, m) in sum: ``X^T X`` in some form, ``1^T X``, and ``X^T Y`` of their targets Y.

    Rows are added by blocks of one size however they come, so that the bits do not depend on the
    batches, and because a Gram matrix of few rows takes longer to add than to form.
    """

    _MATRICES: ClassVar[int]  # (m, m) that are held, about
    _MORE: ClassVar[int] = 0  # columns behind those of X

    def __init__(self, width: int, accumulator: Accumulator) -> None:
        self.width, self.accumulator = width, accumulator
        self.count = 0
        self.sums = np.zeros(width)
        self.cross = np.zeros((width, 0))
        self.sums_of_targets = np.zeros((1, 0))
        self.energy = 0.0
        self._rows, self._filled = np.empty((0, width), dtype=np.float32), 0

    @classmethod
    def bytes_of(cls, width: int) -> int:
        """Return the memory that is held for one module: its matrices, and a block of rows."""
        return 8 * cls._MATRICES * width**2 + 4 * _block(width) * width

    # ---- rows ----

    def add(self, chunk: Chunk, targets: FloatArray | None, what: str) -> None:
        """Take in rows of some samples of a batch, whose targets are (B, c)."""
        rows = chunk.rows
        if rows.shape[1] != self.width:
            raise RefusedError(
                f"{what} must have {self.width} features in all batches, and has {rows.shape[1]}"
            )
        self.accumulator._counted(0, chunk.computed_in)  # in half precision too
        rows = (rows.float() if rows.dtype in _HALF else rows).cpu()
        block = np.ascontiguousarray(rows.numpy())
        with np.errstate(over="ignore", invalid="ignore"):
            sums = np.add.reduce(block, axis=0, dtype=np.float64)
        if not np.isfinite(sums).all() and not np.isfinite(block).all():
            raise RefusedError(f"{what} must be finite, and holds NaN or infinity")
        self._push(block)
        if targets is not None and len(block):
            self._relate(rows, chunk.samples.cpu(), targets)
        self.count += len(block)

    @property
    def computed_in(self) -> str:
        """The coarsest dtype that rows came in."""
        return self.accumulator._dtype or ""

    def _push(self, block: Array) -> None:
        size, at = _block(self.width), 0
        while at < len(block):
            piece = block[at : at + size - self._filled]
            at += len(piece)
            if len(piece) == size:
                self._update(piece)
                continue
            if not len(self._rows):
                self._rows = np.empty((size, self.width), dtype=block.dtype)
            wider = np.promote_types(self._rows.dtype, block.dtype)
            self._rows = self._rows.astype(wider, copy=False)
            self._rows[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            if self._filled == size:
                self._update(self._rows)
                self._filled = 0

    def _update(self, rows: Array) -> None:
        rows = rows.astype(np.float64)  # at once: by parts, their Gram matrices would be added
        more = np.ones((len(rows), self._MORE))
        self.accumulator.update(np.hstack([rows, more]) if self._MORE else rows)
        self.sums += np.add.reduce(rows, axis=0)

    def _relate(self, rows: torch.Tensor, samples: torch.Tensor, targets: FloatArray) -> None:
        """Add to ``X^T Y``: rows of a sample, which have one target, are summed first."""
        start, end = int(samples[0]), int(samples[-1]) + 1
        of = samples - start
        total = torch.zeros(end - start, self.width, dtype=torch.float64)
        total.index_add_(0, of, rows.double())
        counts, y = torch.bincount(of).numpy(), targets[start:end]
        columns = max(y.shape[1], self.cross.shape[1])
        y = _widened(y, columns)
        self.cross = _widened(self.cross, columns) + total.numpy().T @ y
        self.sums_of_targets = _widened(self.sums_of_targets, columns) + counts @ y
        self.energy += float(counts @ np.sum(y**2, axis=1))

    def close(self) -> None:
        """Add the rows that fill no block."""
        if self._filled:
            self._update(self._rows[: self._filled])
        self._rows, self._filled = self._rows[:0].copy(), 0  # not a view, which would keep all

    def merge(self, other: Moments) -> None:
        """Add another's rows; both are closed."""
        self.accumulator.merge(other.accumulator)
        columns = max(self.cross.shape[1], other.cross.shape[1])
        self.cross = _widened(self.cross, columns) + _widened(other.cross, columns)
        mine, theirs = (_widened(x.sums_of_targets, columns) for x in (self, other))
        self.sums_of_targets = mine + theirs
        self.sums = self.sums + other.sums
        self.energy += other.energy
        self.count += other.count

    def all_reduce(self, ranks: Ranks) -> None:
        """Add what all ranks hold, each of this width and closed."""
        self.accumulator.all_reduce(ranks.group)
        columns = max(int(n) for (n,) in ranks.gathered(np.array([self.cross.shape[1]])))
        parts = (
            _widened(self.cross, columns), self.sums,
            _widened(self.sums_of_targets, columns), np.array([self.energy]),
        )  # fmt: skip
        total = ranks.joined(np.concatenate([part.ravel() for part in parts]), np.add)
        ends = np.cumsum([part.size for part in parts])[:-1]
        cross, self.sums, sums_of_targets, energy = np.split(total, ends)
        self.cross, self.sums_of_targets = cross.reshape(-1, columns), sums_of_targets[None]
        self.energy, self.count = float(energy[0]), self.accumulator.count

    # ---- what was recorded ----

    @property
    @abstractmethod
    def moment(self) -> GramAccumulator | TriangleAccumulator:
        """The accumulator of X alone."""

    @property
    @abstractmethod
    def zero(self) -> bool:
        """Whether no entry of X is other than zero."""

    @abstractmethod
    def gram(self, center: bool) -> FloatArray:
        """``X^T X``, of centred rows where they are to be."""

    @abstractmethod
    def triangle(self, center: bool) -> FloatArray:
        """R with ``R^T R = X^T X``, of centred rows where they are to be."""

    @abstractmethod
    def _aligned(self, center: bool, precision: Any, b: FloatArray, energy: float) -> Alignment:
        """Label alignment by ``X^T Y`` and ``||Y||^2``, centred alike."""

    def cross_of(self, center: bool) -> FloatArray:
        """``X^T Y``, of centred X and Y where they are to be."""
        if not center:
            return self.cross.copy()
        return self.cross - np.outer(self.sums, self.sums_of_targets) / max(self.count, 1)

    def energy_of(self, center: bool) -> float:
        """``||Y||_F^2``, of centred Y where it is to be."""
        if not center:
            return self.energy
        means = float(np.sum(self.sums_of_targets**2)) / max(self.count, 1)
        rest = self.energy - means
        return rest if rest > self._rounding * self.energy else 0.0

    @property
    def _rounding(self) -> float:
        """What a sum of squares less that of the means may be off by, relative to the former."""
        return 4.0 * math.sqrt(max(1, self.count)) * float(np.finfo(np.float64).eps)

    def alignment(self, center: bool, computed_in: Any) -> Alignment:
        """Label alignment of the rows with the targets."""
        energy = self.energy_of(center)
        if not math.isfinite(self.energy):
            raise OverflowError("the targets' sum of squares passes 1.8e308; scale them down")
        if energy == 0.0:
            told = "constant, to the rounding of their squares" if center else "zero"
            raise ValueError(f"the targets are {told}: nothing is left to align with")
        precision = self.computed_in if computed_in is None else computed_in
        return self._aligned(center, precision, self.cross_of(center), energy)

    # ---- in files ----

    @classmethod
    def dtypes(cls) -> dict[str, str]:
        """Return the arrays of the state of moments that are closed, with their dtypes."""
        ours = dict.fromkeys(("sums", "cross", "sums_of_targets"), "float64")
        return {**_ACCUMULATORS[cls]._ARRAYS, **ours}

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return arrays and numbers, from which it goes on to the same bits."""
        arrays = {
            **self.accumulator._arrays(),
            "sums": self.sums, "cross": self.cross, "sums_of_targets": self.sums_of_targets,
        }  # fmt: skip
        if self._filled:
            arrays["waiting"] = self._rows[: self._filled]
        about = {
            "width": self.width, "count": self.count, "energy": self.energy,
            "dtype": self.accumulator._dtype,
        }  # fmt: skip
        return arrays, about

    def restore(self, arrays: dict[str, Array], about: dict[str, Any]) -> None:
        """Take up a state; ValueError where it cannot be one."""
        if about["width"] != self.width:
            raise ValueError(f"width must be {self.width}, and is {about['width']!r}")
        waiting = arrays.get("waiting", self._rows)
        columns = arrays["cross"].shape[-1]
        shapes = {
            "sums": (self.width,), "cross": (self.width, columns), "sums_of_targets": (1, columns),
        }  # fmt: skip
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name} must have shape {shape}, and has {arrays[name].shape}")
            setattr(self, name, arrays[name])
        self.count, self.energy = int(about["count"]), float(about["energy"])
        if not (math.isfinite(self.energy) and self.energy >= 0.0):
            raise ValueError(f"energy must be a sum of squares, and is {self.energy}")
        self._filled = len(waiting)
        if self._filled:
            self._rows = np.empty((_block(self.width), self.width), dtype=waiting.dtype)
            self._rows[: self._filled] = waiting
        added = self.count - self._filled
        if added < 0:
            raise ValueError(f"count must be that of the rows, and is {self.count}")
        held = {name: arrays[name] for name in self.accumulator._ARRAYS}
        self.accumulator._restore(held, added)
        self.accumulator._counted(added, about["dtype"])


class GramMoments(Moments):
    """By Gram matrices; a centred one is a difference of two."""

    accumulator: GramAccumulator
    _MATRICES = 2

    def __init__(self, width: int) -> None:
        super().__init__(width, GramAccumulator(width))

    @property
    def moment(self) -> GramAccumulator:
        """The accumulator of X alone."""
        return self.accumulator

    @property
    def zero(self) -> bool:
        """Whether no entry of X is other than zero."""
        return not self.accumulator.gram.any()

    def gram(self, center: bool) -> FloatArray:
        """``X^T X``, of centred rows where they are to be."""
        found = self.accumulator.gram
        if not center:
            return found
        centred: FloatArray = found - np.outer(self.sums, self.sums) / max(1, self.count)
        # Of a feature that is constant nothing is left, and not a rounding of either sign.
        constant = centred.diagonal() <= self._rounding * found.diagonal()
        centred[constant] = centred[:, constant] = 0.0
        return centred

    def triangle(self, center: bool) -> FloatArray:
        """Refuse: a Cholesky factor would have half of the digits."""
        what = "centred triangle" if center else "triangle"
        raise ValueError(
            f"there is no {what} of what was recorded with factor='gram': record with factor='r'"
        )

    def _aligned(self, center: bool, precision: Any, b: FloatArray, energy: float) -> Alignment:
        K, shape = self.gram(center), (self.count, self.width)
        values = scipy.linalg.eigvalsh(K)[::-1]
        noise = default_rtol(shape, np.float64, "gram") * float(np.trace(self.gram(False)))
        rank = _above(values, default_rtol(shape, precision, "gram"), noise)
        return alignment(K=K, b=b, energy=energy, rank=rank, computed_in=precision)


class TriangleMoments(Moments):
    """By the triangle of ``[X 1]``, which is centred without a square or a difference."""

    accumulator: TriangleAccumulator
    _MATRICES = 12
    _MORE = 1
    _leading: tuple[Any, Any, TriangleAccumulator] | None = None  # rows and triangles it is of

    def __init__(self, width: int) -> None:
        super().__init__(width, TriangleAccumulator(width + 1))

    @property
    def moment(self) -> TriangleAccumulator:
        """The accumulator of X alone, kept with its triangle until rows come: m^2 numbers."""
        rows, triangles = self.accumulator._rows, self.accumulator._triangles  # never changed
        held = self._leading
        if held is None or held[0] is not rows or held[1] is not triangles:
            held = self._leading = rows, triangles, self.accumulator.leading(self.width)
        return held[2]

    @property
    def zero(self) -> bool:
        """Whether no entry of X is other than zero."""
        return not self.moment.R.any()

    def gram(self, center: bool) -> FloatArray:
        """``X^T X``, of centred rows where they are to be."""
        return gram(self.triangle(center))

    def triangle(self, center: bool) -> FloatArray:
        """R with ``R^T R = X^T X``, of centred rows where they are to be."""
        if not center:
            return self.moment.R
        # R of [1 X]: below its first row, all is orthogonal to the vector of ones.
        (R,) = scipy.linalg.qr(np.roll(self.accumulator.R, 1, axis=1), mode="r")
        below: FloatArray = R[1:, 1:]
        return np.where(below.diagonal() < 0.0, -1.0, 1.0)[:, None] * below

    def _aligned(self, center: bool, precision: Any, b: FloatArray, energy: float) -> Alignment:
        R, shape = self.triangle(center), (self.count, self.width)
        u, s, vt = svd(R)
        noise = default_rtol(shape, np.float64, "features") * float(np.linalg.norm(self.moment.R))
        rule = rank_rule(
            R.shape, R.dtype, rank=None, rtol=None, computed_in=precision, given="features"
        )
        rank = _above(s, tolerance_at(s, rule) if s[0] > 0.0 else 1.0, noise)
        labels = u[:, :rank] @ ((vt[:rank] @ b) / s[:rank, None])
        # A row beyond R holds the labels that no features explain; there may be many classes.
        more = max(1, b.shape[1] - self.width)
        rest = np.zeros((more, b.shape[1]))
        rest[0, 0] = math.sqrt(max(0.0, energy - float(np.sum(labels**2))))
        Z = np.vstack([R, np.zeros((more, self.width))])
        Y = np.vstack([labels, rest])
        return alignment(Z, Y, center=False, rank=rank, computed_in=precision)


MOMENTS: dict[str, type[GramMoments | TriangleMoments]] = {
    "gram": GramMoments,
    "r": TriangleMoments,
}
_ACCUMULATORS: dict[type[Moments], type[Accumulator]] = {
    GramMoments: GramAccumulator,
    TriangleMoments: TriangleAccumulator,
}


def _block(width: int) -> int:
    return max(4 * width, _BLOCK // width)


def _widened(A: FloatArray, columns: int) -> FloatArray:
    """Return a matrix with zeros behind its columns, for classes that others have."""
    return np.pad(A, ((0, 0), (0, columns - A.shape[1])))


def _above(descending: FloatArray, rtol: float, noise: float) -> int:
    """How many values are no rounding, relative to the largest and to what was subtracted from."""
    rank = int(np.count_nonzero(descending > max(rtol * float(descending[0]), noise)))
    if rank == 0:
        raise ValueError("the rows are constant, or zero: their rank is 0")
    return rank
