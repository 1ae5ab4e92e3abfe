"""What each file of benchmarks measured, as it is kept, and the part of a page written from all.

A file of benchmarks is a unit: what it measured is kept as soon as it is through, so that a run
which is interrupted has lost nothing but the file that it was at, and the next goes on from there.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ratios import LEGEND, Group, lost, markdown

BEGIN, END = "<!-- begin: pytest benchmarks -->", "<!-- end: pytest benchmarks -->"


@dataclass(frozen=True)
class Unit:
    """What a file of benchmarks measured in one run.

    Attributes
    ----------
    title : str
        What the file shows.
    conditions : str
        Command, commit, versions and machine.
    seconds : float
        Of the whole file, checks and warming up included.
    groups : dict of Group
    """

    title: str
    conditions: str
    seconds: float
    groups: dict[str, Group]

    @classmethod
    def from_json(cls, text: str) -> "Unit":
        told = json.loads(text)
        groups = {name: Group.from_dict(group) for name, group in told.pop("groups").items()}
        return cls(**told, groups=groups)

    def to_json(self) -> str:
        groups = {name: group.as_dict() for name, group in self.groups.items()}
        return json.dumps({**asdict(self), "groups": groups}, indent=1, allow_nan=False) + "\n"

    def section(self, *, alone: bool) -> Iterator[str]:
        """Its lines of the page; what a plot shows is there only where a goal was set.

        The conditions are told unless they are those of all units.
        """
        rows = [
            row
            for name, group in self.groups.items()
            for row in group.rows(name, only_goals=group.at is not None)
        ]
        told = f"{self.conditions}; " if alone else ""
        yield from (f"### {self.title}", "", f"{told}{self.seconds:.0f} s.", "")
        if rows:
            yield from (*markdown(rows), "")
        for name, group in self.groups.items():
            for peer, why in group.left_out.items():
                yield from (f"Left out of {name}: {peer}, {why}.", "")


def keep(page: Path, name: str, unit: Unit) -> None:
    """Keep a unit beside the page, in place of an earlier one, and write the page from all."""
    folder = page.parent / "units" / page.stem
    folder.mkdir(parents=True, exist_ok=True)
    before, after = around(page)
    write_whole(folder / f"{name}.json", unit.to_json())
    units = [Unit.from_json(path.read_text()) for path in sorted(folder.glob("*.json"))]
    write_whole(page, f"{before}{BEGIN}\n\n" + "\n".join(body(units)) + f"\n{END}{after}")


def body(units: list[Unit]) -> Iterator[str]:
    """Where a peer is faster, of all units, and then unit by unit what was measured."""
    conditions = {unit.conditions for unit in units}
    alone = len(conditions) > 1
    if not alone:
        yield from (f"{conditions.pop()}.", "")
    yield from (*lost({k: v for unit in units for k, v in unit.groups.items()}), "", LEGEND, "")
    for unit in units:
        yield from unit.section(alone=alone)


def around(page: Path) -> tuple[str, str]:
    """What stands before and after the two marks.

    Raises
    ------
    ValueError
        Where the page lacks one.
    """
    before, found, rest = page.read_text().partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not (found and found_end):
        raise ValueError(f"{page} must hold the lines {BEGIN} and {END}")
    return before, after


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(text)
    os.replace(draft, path)
