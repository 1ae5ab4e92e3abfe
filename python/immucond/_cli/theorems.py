"""Check every theorem on random instances and show what held and what did not.

Those of the paper as printed, their corrections, and what goes beyond them. A statement that is
false as printed is shown with its smallest counterexample and what is true instead. The command
fails if a statement that is known to be true does not hold.
"""

from __future__ import annotations

import argparse
import fnmatch
import shutil
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import ImmucondError, __version__
from .._files import writable, write_whole
from .._format import brief, plain
from .._show import terminal
from ._arguments import Whole, add_output, nearest
from ._output import json_text, print_json, progress

if TYPE_CHECKING:
    from rich.console import Console

    from ..theorems import Examination, Theorem


STDOUT = Path("-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME",
        help="theorems to check, by name or by a pattern such as 'theorem-4*'; by default all",
    )  # fmt: skip
    parser.add_argument(
        "--instances", type=Whole(1), default=200, metavar="N",
        help="random instances of each theorem",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=Whole(0), default=0, metavar="N",
        help="of the instances; each theorem draws the same ones whatever else is checked",
    )  # fmt: skip
    parser.add_argument(
        "--json", type=Path, nargs="?", const=STDOUT, default=None, metavar="FILE",
        help="write the report there as JSON, or without a FILE print it instead, and nothing else",
    )  # fmt: skip
    parser.add_argument(
        "--markdown", type=Path, default=None, metavar="FILE",
        help="write the table and the counterexamples there as Markdown; by default none is "
        "written",
    )  # fmt: skip
    parser.add_argument(
        "--list", action="store_true", help="list names and statements, and check nothing"
    )
    add_output(parser, json=False)


def run(args: argparse.Namespace) -> None:
    """Check and report; files appear whole, after everything has been checked."""
    console = terminal()
    from ..theorems import THEOREMS

    chosen = _chosen(args.names)
    if args.json is not None and (named := fnmatch.filter(THEOREMS, str(args.json))):
        args.parser.error(f"--json takes a FILE, and {args.json} names {named[0]}: names go first")
    if args.markdown == STDOUT:
        args.parser.error("--markdown takes a FILE, such as /dev/stdout, got -")
    given = [file for file in (args.json, args.markdown) if file not in (None, STDOUT)]
    if args.list:
        if given:
            args.parser.error(f"--list writes no file: leave {given[0]} out")
        _list(chosen, args.json == STDOUT)
        return
    places = [place for place in map(writable, given) if place is not None]  # told now
    if len(places) > len(set(places)):
        args.parser.error(f"--json and --markdown must be two files, got {args.json} for both")
    found = _examine(chosen, args.instances, args.seed, args.quiet)
    failed = [error for error in map(partial(_write, found, args), given) if error is not None]
    console.width = max(console.width, 80)  # narrower, names would be cut
    if args.json == STDOUT:
        print_json(_as_json(found, args))
    else:
        _print(found, console)  # whether or not a file could be written
    if failed:
        raise failed[0]
    broken = [e.theorem.name for e in found if e.held < e.instances and not e.theorem.corrected_by]
    if broken:
        raise ImmucondError(f"known to be true, and did not hold: {', '.join(broken)}")


def _write(found: Sequence[Examination], args: argparse.Namespace, file: Path) -> OSError | None:
    """Write one of the files; return what kept it from being written."""
    try:
        by_json = file is args.json
        text = json_text(_as_json(found, args)) if by_json else _as_markdown(found, args)
        write_whole(file, text)
    except OSError as error:
        return error
    return None


def _chosen(names: Sequence[str]) -> list[Theorem]:
    from ..theorems import THEOREMS

    matches = {name: fnmatch.filter(THEOREMS, name) for name in names}
    for name, found in matches.items():
        if not found:
            near = nearest(name, THEOREMS)
            raise ValueError(f"no theorem is named {name!r}{near}; --list shows them all")
    wanted = {name for found in matches.values() for name in found} or set(THEOREMS)
    return [theorem for name, theorem in THEOREMS.items() if name in wanted]


def _examine(
    chosen: Sequence[Theorem], instances: int, seed: int, quiet: bool
) -> list[Examination]:
    from ..theorems import examine

    found: list[Examination] = []
    with progress(quiet) as report:
        for theorem in chosen:
            before = len(found) * instances

            def tell(done: int, before: int = before) -> None:
                report("instances", before + done, len(chosen) * instances)

            found.append(examine(theorem, instances=instances, seed=seed, progress=tell))
    return found


def _verdict(found: Examination) -> str:
    true_instead = found.theorem.corrected_by
    if found.counterexample is None:
        return "holds" if true_instead is None else "false, though no instance showed it"
    return "FAILS" if true_instead is None else f"false; see {true_instead}"


def _slack(found: Examination) -> str:
    rounding = f" ± {found.worst.rounding:.0e}" if found.worst.rounding else ""
    return f"{found.worst.slack:.1e}{rounding}"


def _counterexample(found: Examination) -> list[str]:
    """Lines that tell the counterexample: what fails, and every number behind it."""
    assert found.counterexample is not None
    verdict = found.counterexample.verdict
    theorem = found.theorem
    lines = [f"claimed: {theorem.statement}", theorem.formula, f"fails at: {verdict.claim.name}"]
    return lines + [f"{name} = {_short(value)}" for name, value in verdict.witness.items()]


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_short, value))}]"
    return brief(value) if isinstance(value, float) else str(value)


def _print(found: Sequence[Examination], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    # Names stand whole: they are what one types.
    width = max(len(e.theorem.name) for e in found)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("statement", no_wrap=True, min_width=width)
    table.add_column("held", justify="right", no_wrap=True)
    table.add_column("worst slack", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for e in found:
        table.add_row(
            Text(e.theorem.name, "bold"),
            f"{e.held}/{e.instances}",
            _slack(e),
            Text(_verdict(e), style="" if e.expected else "bold red"),
        )
    console.print(table)
    console.print(
        "held: on so many of the instances tried. Slack: relative; 0 at the edge, negative where "
        "violated; ± what rounding may carry, nothing where exact rational arithmetic "
        "decided. --list shows what each statement says.\n",
        style="dim",
    )
    for e in found:
        if e.counterexample is not None:
            console.print(f"Smallest counterexample to {e.theorem.name}", style="bold")
            console.print(*(f"  {line}" for line in _counterexample(e)), sep="\n")
            console.print()


def _list(chosen: Sequence[Theorem], as_json: bool) -> None:
    if as_json:
        names = ("name", "statement", "formula", "hypotheses", "source", "corrected_by")
        print_json([{name: getattr(theorem, name) for name in names} for theorem in chosen])
        return
    width = shutil.get_terminal_size().columns
    for theorem in chosen:
        print(theorem.name)
        for text in (theorem.statement, f"({theorem.source})"):
            print(textwrap.fill(text, width, initial_indent="    ", subsequent_indent="    "))


def _as_markdown(found: Sequence[Examination], args: argparse.Namespace) -> str:
    lines = [
        f"`{args.command_line}`, immucond {__version__}",
        "",
        "| theorem | statement | source | held | worst slack | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for e in found:
        cells = (
            f"`{e.theorem.name}`", e.theorem.statement, e.theorem.source,
            f"{e.held}/{e.instances}", _slack(e), _verdict(e),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    for e in found:
        if e.counterexample is not None:
            lines += ["", f"Smallest counterexample to `{e.theorem.name}`:", "", "```text"]
            lines += [*_counterexample(e), "```"]
    return "\n".join(lines) + "\n"


def _as_json(found: Sequence[Examination], args: argparse.Namespace) -> dict[str, Any]:
    return {
        "command": args.command_line,
        "version": __version__,
        "instances": args.instances,
        "seed": args.seed,
        "theorems": [
            {
                "name": e.theorem.name,
                "statement": e.theorem.statement,
                "formula": e.theorem.formula,
                "hypotheses": e.theorem.hypotheses,
                "source": e.theorem.source,
                "proof": f"docs/{e.theorem.section}",
                "corrected_by": e.theorem.corrected_by,
                "instances": e.instances,
                "held": e.held,
                "verdict": _verdict(e),
                "worst": plain(
                    {
                        "slack": e.worst.slack,
                        "rounding": e.worst.rounding,
                        "claim": e.worst.claim.name,
                        "witness": e.worst.witness,
                    }
                ),
                "counterexample": e.counterexample
                and plain(
                    {
                        "parameters": e.counterexample.parameters,
                        "claim": e.counterexample.verdict.claim.name,
                        "slack": e.counterexample.verdict.slack,
                        "witness": e.counterexample.verdict.witness,
                    }
                ),
            }
            for e in found
        ],
    }
