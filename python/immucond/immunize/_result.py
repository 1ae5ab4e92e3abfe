"""What every immunization method returns, and the files that keep it: .npz, without pickle."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from .._display import Columns, Curves, Plotted, history_columns, history_curves
from .._files import whole
from .._format import not_harder
from .._labels import labels_of
from .._task import span_of, with_ones
from .._two_tasks import Ranks
from .._validate import FloatArray, as_matrix, as_rows, plain
from ..linear import Alignment, ImmunityLimit, ImmunityReport, alignment, immunity

HISTORY = "history/"  # before the names of its arrays in a file
_VERSION = 1
_DESCRIPTION = "description"


@dataclass(frozen=True, eq=False)
class ImmunizationResult(Plotted):
    """An immunized linear extractor, its primary head, and how it came about.

    Attributes
    ----------
    theta : (d, m) array
        Extractor; features are ``X @ theta``, plus `bias` where there is one.
    omega : (m,) or (m, c) array
        Primary head, of the shape of ``y_P`` (softmax: one column a class); predictions are
        ``features(X) @ omega``.
    history : dict of str to (steps + 1,) array
        What was measured before each step and after the last; empty for the closed form, which
        takes none.
    report : ImmunityReport
        Condition numbers, (i), (ii), RIR and the limit, on the rows that were given.
    method : str
        Name of the function that made it.
    parameters : dict
        Its keywords, as JSON has them; arrays stand as their shape and SHA-256.
    bias : (m,) array or None
        Added to every feature row; :func:`published` alone has one.
    classes : (c,) array or None
        Labels of the columns of `omega`, for the softmax loss.

    Examples
    --------
    >>> import tempfile, numpy as np, immucond as ic
    >>> rng = np.random.default_rng(0)
    >>> X_P, X_H = rng.normal(size=(50, 4)) * [4, 3, 2, 1], rng.normal(size=(50, 4))
    >>> result = ic.immunize.closed_form(X_P, X_P @ np.ones(4), X_H)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result.save(folder + "/result.npz")
    ...     again = ic.immunize.ImmunizationResult.load(folder + "/result.npz")
    >>> bool(np.array_equal(again.theta, result.theta)), again.report == result.report
    (True, True)
    """

    theta: FloatArray
    omega: FloatArray
    history: dict[str, FloatArray]
    report: ImmunityReport
    method: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    bias: FloatArray | None = None
    classes: npt.NDArray[Any] | None = None

    def __repr__(self) -> str:
        steps = max((values.shape[0] - 1 for values in self.history.values()), default=0)
        r = self.report
        told = not_harder(r.i, r.rir)
        return (
            f"ImmunizationResult(method={self.method!r}, i={r.i:.4g}, ii={r.ii:.4g}, "
            f"rir={r.rir:.4g}{f' ({told})' if told else ''}, theta {self.theta.shape}, "
            f"omega {self.omega.shape}, {steps} steps)"
        )

    def _columns(self) -> Columns:
        return history_columns(self.history)

    def _curves(self) -> Curves:
        return history_curves(self.history, ("loss", "kappa_P", "kappa_H", "rir", "rho"))

    def features(self, X: npt.ArrayLike) -> FloatArray:
        """Features of rows X (N x d): ``X @ theta``, plus the bias where there is one."""
        return self._features(X, "X")

    def _features(self, X: npt.ArrayLike, name: str) -> FloatArray:
        Z: FloatArray = as_rows(X, len(self.theta), name, ndim=2) @ self.theta
        return Z if self.bias is None else Z + self.bias

    def measure(
        self,
        X_P: npt.ArrayLike,
        X_H: npt.ArrayLike,
        *,
        ridge: float = 0.0,
        ranks: Ranks | None = None,
        computed_in: Any = None,
    ) -> ImmunityReport:
        """Report on other rows or in the ridge convention, relative to the identity.

        As :func:`immucond.linear.immunity`, with the bias where there is one: it is the row of
        theta that belongs to an input of ones, which the ranks then count.
        """
        theta, reference = self.theta, None
        if self.bias is not None:
            X_P, X_H = with_ones(as_matrix(X_P, "X_P")), with_ones(as_matrix(X_H, "X_H"))
            theta, reference = np.vstack([theta, self.bias]), np.eye(len(theta) + 1, len(theta))
        return immunity(
            theta, X_P, X_H, ridge=ridge, reference=reference, ranks=ranks, computed_in=computed_in
        )

    def alignment(self, X_H: npt.ArrayLike, y_H: npt.ArrayLike, **options: Any) -> Alignment:
        """Label alignment of the harmful task in these features; see `linear.alignment`.

        Their rank is that of the inputs where theta is invertible: no scale in it can hide it.
        """
        options = {"computed_in": as_matrix(X_H, "X_H").dtype} | options
        Z = self._features(X_H, "X_H")
        Y = labels_of(y_H, len(Z), "y_H", "X_H")
        shifted = self.bias is not None and not options.get("center", True)
        if "rank" not in options and span_of(self.theta) is None and not shifted:
            options["rank"] = alignment(X_H, Y, **options).rank
        return alignment(Z, Y, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one .npz file, which appears whole or not at all."""
        optional = {"bias": self.bias, "classes": self.classes}
        write_archive(
            path,
            "result",
            {"method": self.method, "parameters": self.parameters, "report": asdict(self.report)},
            {"theta": self.theta, "omega": self.omega}
            | {name: array for name, array in optional.items() if array is not None}
            | {HISTORY + name: values for name, values in self.history.items()},
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            Where there is no such file.
        ValueError
            Where it holds something else.
        """
        description, arrays = read_archive(path, "result")
        with reading(path, "result"):
            report = description["report"]
            limit = report["limit"]
            limit["delta"] = tuple(limit["delta"])
            return cls(
                theta=arrays["theta"],
                omega=arrays["omega"],
                history=under(HISTORY, arrays),
                report=ImmunityReport(**report | {"limit": ImmunityLimit(**limit)}),
                method=description["method"],
                parameters=description["parameters"],
                bias=arrays.get("bias"),
                classes=arrays.get("classes"),
            )


def under(prefix: str, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Arrays of an archive whose names begin so, by the rest of their names."""
    return {
        name.removeprefix(prefix): values
        for name, values in arrays.items()
        if name.startswith(prefix)
    }


def write_archive(
    path: str | os.PathLike[str],
    kind: str,
    description: dict[str, Any],
    arrays: dict[str, npt.NDArray[Any]],
) -> None:
    """Write an archive of a kind ("result", "checkpoint"): whole, or the old file stays."""
    heading = {"immucond": kind, "version": _VERSION} | plain(description)
    named: dict[str, Any] = {_DESCRIPTION: np.array(json.dumps(heading))} | arrays
    with whole(Path(path)) as file:
        np.savez(file, **named)


@contextmanager
def reading(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Let whatever is amiss with what a file holds name the file."""
    try:
        yield
    except FileNotFoundError:
        raise
    except KeyError as error:
        raise ValueError(
            f"{os.fspath(path)} is not a {kind} of immucond: it has no {error.args[0]!r}"
        ) from error
    except (
        OSError, EOFError, IndexError, TypeError, ValueError, NotImplementedError,
        zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise ValueError(f"{os.fspath(path)} is not a {kind} of immucond: {error}") from error


def read_archive(
    path: str | os.PathLike[str], kind: str
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read what `write_archive` wrote.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where it is no archive of this kind and version.
    """
    name = os.fspath(path)
    with reading(path, kind), open(name, "rb") as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        arrays = {key: archive[key] for key in archive.files}
        heading = dict(json.loads(str(arrays.pop(_DESCRIPTION))))
    found = heading.pop("immucond", None), heading.pop("version", None)
    if found != (kind, _VERSION):
        raise ValueError(
            f"{name} must hold a {kind} of version {_VERSION}, and holds a {found[0]} of version "
            f"{found[1]}"
        )
    return heading, arrays
