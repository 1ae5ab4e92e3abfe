"""What commands leave: results as JSON with what made them, tables and figures."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy

from .. import __version__
from .._errors import extra
from .._show import Table, print_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def versions() -> dict[str, str]:
    """Versions of what ran, by name."""
    return {
        "immucond": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def write_json(path: Path, numbers: Any) -> None:
    """Write numbers, none of which is NaN or infinite."""
    path.write_text(json.dumps(numbers, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def file_names(figures: Sequence[str] = ()) -> list[str]:
    """Names of what `write_results` writes."""
    drawn = [f"{name}.{kind}" for name in figures for kind in ("png", "svg")]
    return ["results.json", "tables.md", *drawn]


def write_results(
    folder: Path, tables: Sequence[Table], figures: Mapping[str, Figure], numbers: Any
) -> list[str]:
    """Write results.json, tables.md and the figures; return their names."""
    write_json(folder / "results.json", numbers)
    (folder / "tables.md").write_text(
        f"`{numbers['command']}`, immucond {numbers['versions']['immucond']}\n\n"
        + "\n".join(table.markdown() for table in tables),
        encoding="utf-8",
        errors="backslashreplace",  # a command may name files in any bytes
    )
    with print_style():  # names within an SVG are of when it is written, not of when it is drawn
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=200)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    return ["results.json", "tables.md", *(f"{n}.png, {n}.svg" for n in figures)]


def show(tables: Sequence[Table], written: Sequence[str], out: Path, quiet: bool) -> None:
    """Print tables, and where the files are."""
    with extra("experiments"):
        from rich.console import Console
    console = Console(highlight=False)
    for table in tables:
        table.show(console)
    if not quiet:
        console.print(f"Wrote {', '.join(written)} to {out}", style="bold", markup=False)
