"""What was recorded: second moments of a network's modules, by their names."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from .._display import Columns, Tabular
from .._errors import DegenerateSpectrumWarning, extra
from .._extreme import ExtremePairs
from .._gram import GramAccumulator
from .._ranks import Ranks
from .._tensor_file import read_tensors, write_tensors
from .._triangle import TriangleAccumulator
from .._validate import Array, FloatArray, refuse_other
from ..linear import Alignment
from ._moments import MOMENTS, Moments
from ._rows import DTYPES

_SHOWN = 24  # modules in a message


class Recording(Tabular, Mapping[str, GramAccumulator | TriangleAccumulator]):
    """Second moments of a network's modules, as `record` returns them.

    A mapping from names of modules to what was accumulated of each: a `GramAccumulator`, or with
    ``factor="r"`` a `TriangleAccumulator`. A module that the network holds under several names is
    there once, and is found under all of them.

    Attributes
    ----------
    names : tuple of str
        The first name of each module, in the network's order.
    aliases : dict of str to tuple of str
        Further names of a module, where it has any.
    settings : dict
        What was recorded of which network: two recordings merge where they agree in all of it.
    passes : tuple of tuple of str
        The modules that each pass over the data recorded: one pass, unless ``max_bytes`` needed
        more.

    Examples
    --------
    >>> import torch
    >>> import immucond as ic, immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    >>> batches = [(torch.randn(40, 6), torch.arange(40) % 3) for _ in range(2)]
    >>> found = icd.record(net, batches, ["0", "2"], cross="labels")
    >>> found
    Recording of 2 modules: input, by gram
      name  width  rows  computed in
      0         6    80  float32
      2         5    80  float32
    >>> found.rank("2"), 1.0 < found.kappa("2") < 100.0
    (5, True)

    Two tasks' recordings are what the linear theory takes; centred, they give the label alignment:

    >>> found.alignment("2").rank
    5
    >>> K, b = found.gram("2", center=True), found.cross("2", center=True)
    >>> faded = ic.linear.fade(K_P=found.gram("2"), K_H=K, b_H=b, energy_H=found.energy("2"))
    >>> faded.shape
    (5, 5)
    """

    def __init__(
        self,
        moments: Mapping[str, Moments],
        aliases: Mapping[str, tuple[str, ...]],
        settings: Mapping[str, Any],
        passes: tuple[tuple[str, ...], ...],
    ) -> None:
        self._moments = dict(moments)
        self.aliases, self.settings, self.passes = dict(aliases), dict(settings), passes
        self._first = {other: name for name, more in self.aliases.items() for other in more}
        self._ends: dict[str, ExtremePairs] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The first name of each module."""
        return tuple(self._moments)

    def __getitem__(self, name: str) -> GramAccumulator | TriangleAccumulator:
        return copy.copy(self._of(name).moment)  # to be updated, or merged, apart

    def __iter__(self) -> Iterator[str]:
        return iter(self._moments)

    def __len__(self) -> int:
        return len(self._moments)

    def _of(self, name: str) -> Moments:
        found = self._moments.get(self._first.get(name, name))
        if found is None:
            listed = ", ".join(map(repr, self.names[:_SHOWN]))
            more = f" and {len(self) - _SHOWN} more" if len(self) > _SHOWN else ""
            raise KeyError(f"no module {name!r} was recorded; there are {listed}{more}")
        return found

    def count(self, name: str) -> int:
        """Return the number of a module's rows."""
        return self._of(name).count

    def computed_in(self, name: str) -> str:
        """Return the name of the coarsest dtype that a module's rows came in."""
        return self._of(name).computed_in

    def mean(self, name: str) -> FloatArray:
        """Return the mean of a module's rows, shape (m,)."""
        found = self._of(name)
        return np.asarray(found.sums / max(1, found.count))

    def gram(self, name: str, *, center: bool = False) -> FloatArray:
        """Return ``X^T X`` of a module's rows X (n, m), of centred ones if asked; not divided by n.

        A centred one is a difference: it loses as many digits as the mean is larger than the
        spread, squared, and of a constant feature has exact zeros; with ``factor="r"`` not squared.
        """
        return self._of(name).gram(center)

    def R(self, name: str, *, center: bool = False) -> FloatArray:
        """Return the upper triangle with ``R^T R = X^T X``, shape (m, m), of centred rows if asked.

        Raises
        ------
        ValueError
            Where Gram matrices were recorded.
        """
        return self._of(name).triangle(center)

    def pairs(self, name: str, **keywords: Any) -> ExtremePairs:
        """Return the extreme eigenpairs of ``X^T X``, as the accumulator's ``pairs`` does.

        The rank follows the precision in which the rows were computed, unless ``computed_in=`` or
        ``rtol=`` says otherwise.
        """
        try:
            return self._of(name).moment.pairs(**keywords)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def kappa(self, name: str) -> float:
        """Return the condition number of ``X^T X`` over its nonzero eigenvalues."""
        return self._end(name).condition_number

    def rank(self, name: str) -> int:
        """Return the numerical rank of a module's rows; 0 where they are zero, or none."""
        return 0 if self._of(name).zero else self._end(name).rank

    def _end(self, name: str) -> ExtremePairs:
        first = self._first.get(name, name)
        if first not in self._ends:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DegenerateSpectrumWarning)  # no vectors are used
                self._ends[first] = self.pairs(name)
        return self._ends[first]

    def cross(self, name: str, *, center: bool = False) -> FloatArray:
        """Return ``X^T Y``, shape (m, c), of the targets that ``cross=`` gave.

        Raises
        ------
        ValueError
            Where there were none.
        """
        return self._related(name).cross_of(center)

    def energy(self, name: str, *, center: bool = True) -> float:
        """Return ``||Y||_F^2`` of a module's targets, one a row, centred unless told otherwise."""
        return self._related(name).energy_of(center)

    def alignment(self, name: str, *, center: bool = True, computed_in: Any = None) -> Alignment:
        """Return the label alignment of a module's rows with the targets.

        Parameters
        ----------
        name : str
            The module.
        center : bool
            Whether rows and targets are centred, as in `immucond.linear.alignment`.
        computed_in : dtype_like, optional
            The precision in which the rows were computed; by default what they came in.

        Returns
        -------
        Alignment
            As of all rows at once (``rho_uncentred`` is NaN); through ``X^T Y``, which a Gram
            matrix relates to the labels with a rounding of its condition number, and a triangle
            with one of its root.

        Raises
        ------
        ValueError
            Where there were no targets, or rows or targets are constant.
        """
        found = self._related(name)
        try:
            return found.alignment(center, computed_in)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def _related(self, name: str) -> Moments:
        if self.settings["cross"] is None:
            raise ValueError("no targets were recorded: record with cross='labels', or a function")
        return self._of(name)

    def merge(self, other: Recording) -> Self:
        """Add what was recorded of other data by the same network, in the same way.

        Returns
        -------
        Recording
            Itself.

        Raises
        ------
        TypeError, ValueError
            For what is no recording, or one of another network, other modules or other settings.
        OverflowError
            Where a sum of squares passes 1.8e308. In either case the recording is as it was.
        """
        if not isinstance(other, Recording):
            raise TypeError(f"other must be a Recording, and is a {type(other).__name__}")
        here, there = ({**x.settings, "modules": list(x.names)} for x in (self, other))
        refuse_other(
            there, here, "the recording", "Only recordings of one network in one way merge"
        )
        widths = [
            f"{name!r} has {theirs.width} features there and {mine.width} here"
            for name, mine in self._moments.items()
            if (theirs := other._moments[name]).width != mine.width
        ]
        if widths:
            raise ValueError(f"recordings must have features of one width: {'; '.join(widths)}")
        merged = {}  # apart, so that an error leaves all of it as it was
        for name, theirs in other._moments.items():
            merged[name] = copy.deepcopy(self._moments[name])
            try:
                merged[name].merge(theirs)
            except OverflowError as error:
                raise OverflowError(f"{name}: {error}") from error
        self._moments = merged
        self._ends.clear()
        return self

    def all_reduce(self, group: Any = None) -> Self:
        """Add what the other ranks of a group recorded of the same network, on every rank of it.

        Parameters
        ----------
        group : torch.distributed.ProcessGroup or DeviceMesh, optional
            A mesh of one dimension; by default every process. All of its ranks must call. Each
            module takes a binary tree of messages, as the accumulators' own ``all_reduce``.

        Returns
        -------
        Recording
            Itself, the same to the bit on every rank.

        Raises
        ------
        ValueError
            On every rank, where they differ in network, modules, settings, widths, or the dtypes
            in which a module's rows were computed; a rank may have no rows.
        OverflowError
            On every rank, where a sum of squares passes 1.8e308.
        RuntimeError
            Where there is no process group, or a rank does not answer within its time-out.
        """
        ranks = Ranks(group)
        told = {**self.settings, "modules": list(self.names)}
        told |= {f"width of {name!r}": moments.width for name, moments in self._moments.items()}
        refuse_unlike(ranks, told)
        _refuse_mixed(ranks, self._moments)
        merged = copy.deepcopy(self._moments)  # apart, so that an error leaves all as it was
        for moments in merged.values():
            moments.all_reduce(ranks)
        self._moments = merged
        self._ends.clear()
        return self

    def __copy__(self) -> Self:
        return copy.deepcopy(self)

    def to_safetensors(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file, whole or not at all.

        Raises
        ------
        OSError
            Where it cannot be written.
        """
        tensors: dict[str, Array] = {}
        modules = []
        for number, (name, moments) in enumerate(self._moments.items()):
            arrays, about = moments.state()
            tensors |= {f"{number}.{key}": array for key, array in arrays.items()}
            modules.append({"name": name, "aliases": self.aliases.get(name, ()), **about})
        about = {"modules": modules, "settings": self.settings, "passes": self.passes}
        write_tensors(path, "Recording", tensors, {"recording": json.dumps(about)})

    @classmethod
    def from_safetensors(cls, path: str | os.PathLike[str]) -> Recording:
        """Read what `to_safetensors` wrote.

        Raises
        ------
        OSError
            Where the file cannot be read.
        ValueError
            Where it holds something else.
        """
        return _read(path)

    def __repr__(self) -> str:
        return self._as_text().replace("\n", "\n  ")

    def _caption(self) -> str:
        return "Recording of {} modules: {of}, by {factor}".format(len(self), **self.settings)

    def _columns(self) -> Columns:
        found = self._moments.values()
        given = {"width": "width", "rows": "count", "computed in": "computed_in"}
        return {"name": self.names} | {
            n: [getattr(x, of) for x in found] for n, of in given.items()
        }


def refuse_unlike(ranks: Ranks, told: Mapping[str, Any]) -> None:
    """Refuse on every rank what is not told alike on all of them."""

    def digests(values: Any) -> Array:
        whole = [hashlib.sha256(json.dumps(value).encode()).digest()[:8] for value in values]
        return np.frombuffer(b"".join(whole), dtype=np.int64)

    # The names first: then there are as many values on each.
    for what, values in (("settings", [list(told)]), ("", list(told.values()))):
        found = np.stack(ranks.gathered(digests(values)))
        other = found != found[0]
        unlike = np.flatnonzero(other.any(axis=0))
        if unlike.size:
            rank = int(np.flatnonzero(other.any(axis=1))[0])
            names = what or ", ".join(list(told)[place] for place in unlike)
            raise ValueError(
                "all ranks must record one network in one way, and ranks 0 and "
                f"{rank} differ in: {names}"
            )


def _refuse_mixed(ranks: Ranks, moments: Mapping[str, Moments]) -> None:
    """Refuse on every rank what came in float32 to one, and in bfloat16 to another."""
    mine = np.array([DTYPES.index(x.computed_in) if x.count else -1 for x in moments.values()])
    for name, found in zip(moments, np.transpose(ranks.gathered(mine)), strict=True):
        came = {DTYPES[code]: rank for rank, code in enumerate(found) if code >= 0}
        if len(came) > 1:
            listed = ", ".join(f"{dtype} (rank {rank})" for dtype, rank in came.items())
            raise ValueError(f"all ranks must record {name!r} in one dtype, and did in {listed}")


def _read(path: str | os.PathLike[str]) -> Recording:
    name = os.fspath(path)
    with extra("safetensors"):
        from safetensors import SafetensorError, safe_open
    with Path(name).open("rb"):
        pass
    try:
        with safe_open(name, framework="np") as file:
            about = json.loads((file.metadata() or {})["recording"])
        modules, settings = about["modules"], about["settings"]
        wanted = {
            f"{number}.{key}": dtype
            for number in range(len(modules))
            for key, dtype in MOMENTS[settings["factor"]].dtypes().items()
        }
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name} holds no Recording ({type(error).__name__}: {error})") from error
    tensors, _ = read_tensors(path, "Recording", wanted)
    try:
        moments: dict[str, Moments] = {}
        aliases: dict[str, tuple[str, ...]] = {}
        for number, of in enumerate(modules):
            prefix = f"{number}."
            arrays = {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}
            moments[of["name"]] = MOMENTS[settings["factor"]](arrays["sums"].size)
            moments[of["name"]].restore(arrays, of)
            if of["aliases"]:
                aliases[of["name"]] = tuple(of["aliases"])
        return Recording(moments, aliases, settings, tuple(map(tuple, about["passes"])))
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{name} holds no Recording: {error}") from error
