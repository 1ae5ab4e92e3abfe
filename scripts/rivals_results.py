"""Set erasure against every other way of unlearning, and write docs/results/rivals.md.

rivals_results.py [NETWORK ...] [--seeds N] [--heads] [--work FOLDER]

For each network and seed ``immucond erase`` makes a network by each method within one tolerance,
and ``immucond attack`` asks what those pay who solve for a head or train one; with the first seed,
of the network as it was, of the erased one and of what no head gets the better of, also what those
pay who train all of it, unless ``--heads`` leaves them out. A section is written from what
docs/results/units keeps, a file a seed: what was measured by the same commands is not measured
again. Each command runs into a subfolder of the work folder, unless it has succeeded there. Data
and models lie where IMMUCOND_DATA and IMMUCOND_MODELS say.
"""

import argparse
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
from deep_results import BENIGN
from erasure_results import CARDS, SMOLLM2, located
from matplotlib.figure import Figure
from page import ROOT, chosen, command, write
from scipy.stats import sem
from scipy.stats import t as student
from worth_results import COLOURS, UNITS, best, read, there
from worth_results import NETWORKS as WORTH

from immucond._files import write_whole
from immucond._format import number
from immucond._show import BLACK, legend_below, print_style
from immucond.experiments.deep import ERASERS

PAGE = ROOT / "docs" / "results" / "rivals.md"
BASE = "as it is"
OURS = "erase"
SEEDS = 3

Row = dict[str, Any]  # what is kept of a network: its figures, and what attackers pay


@dataclass(frozen=True)
class Contest:
    """A network, two tasks, and the methods that are compared on them.

    Attributes
    ----------
    title : str
    backbone : str
    tasks : str
        Options: both tasks, and how they are read.
    methods : str
        Of ``immucond erase``.
    tol : float
        What each may lose of the primary accuracy.
    making : str
        Further options of ``immucond erase``.
    heads : str
        Options of ``immucond attack`` for those who solve for a head or train one.
    whole : str
        The same for those who train all of it, with the first seed; nobody where there are none.
    """

    title: str
    backbone: str
    tasks: str
    methods: str
    tol: float
    making: str
    heads: str
    whole: str = ""

    @property
    def made(self) -> str:
        """The command that makes all networks of a seed."""
        return (
            f"erase --backbone {self.backbone} {self.tasks} --tols {self.tol:g} {self.making} "
            f"--no-untrained --methods {self.methods}"
        )

    def attacked(self, how: str) -> str:
        """The command that attacks one of them."""
        return f"attack --backbone {{at}} {self.tasks} {how}"


ALL = "erase leace-erase primary pca leace graddiff npo cir repselect"
TRAINED = "--steps 25 --trials 8"  # of what is trained: some minutes, of which erasure takes three
HEADS = "--test-size 600 --steps 60 --trials 6 --attackers lstsq whitening logistic"
RESNET = WORTH["resnet18"]
NETWORKS = {
    "resnet18": Contest(
        "ResNet-18: vehicles kept, animals erased", RESNET.backbone, RESNET.tasks,
        f"{ALL} collapse", 0.005, f"--test-size 4000 {TRAINED}", f"--train-size 600 {HEADS}",
        "--train-size 600 --test-size 300 --batch-size 64 --steps 60 --trials 6 "
        "--max-utility-drop 1 --attackers adam lora-8 --target {target}",
    ),
    "mnist": Contest(
        "ResNet-18: CIFAR-10 kept, MNIST erased", RESNET.backbone,
        f"--primary cifar10 --harmful mnist {RESNET.reading}",
        ALL, 0.005, f"--test-size 4000 {TRAINED}", f"--train-size 600 {HEADS}",
    ),
    "minilm": Contest(
        "MiniLM: CLINC150 kept, BANKING77 erased", WORTH["minilm"].backbone, WORTH["minilm"].tasks,
        ALL, 0.01, f"--train-size 4000 {TRAINED}", f"--train-size 2000 {HEADS}",
    ),
    "smollm2": Contest(
        "SmolLM2: travel and kitchen of CLINC150 kept, cards of BANKING77 erased", SMOLLM2,
        f"--primary clinc150[{BENIGN}] --harmful banking77[{CARDS}] --max-length 24",
        "erase pca leace graddiff", 0.01,
        "--train-size 800 --test-size 600 --steps 20 --trials 3",
        "--train-size 400 --test-size 300 --steps 60 --trials 6 --attackers lstsq logistic",
        "--train-size 400 --test-size 120 --batch-size 16 --steps 10 --trials 3 "
        "--max-utility-drop 1 --attackers adam lora-8 --target {target}",
    ),
}  # fmt: skip


def main() -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument(
        "--seeds", type=int, default=SEEDS, metavar="N", help="default: %(default)s"
    )
    parser.add_argument("--heads", action="store_true", help="nobody trains all of a network")
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "immucond-rivals")
    given = parser.parse_args()
    if given.seeds < 1:
        parser.error(f"--seeds must be 1 or more, and is {given.seeds}")
    for name in chosen(parser, given.networks, NETWORKS):
        contest, kept = NETWORKS[name], UNITS / f"rivals-{name}"
        if given.heads:
            contest = replace(contest, whole="")
        units = [
            measured(contest, seed, given.work / name / f"seed-{seed}", kept / f"seed-{seed}.json")
            for seed in range(given.seeds)
        ]
        write(PAGE, f"{Path(__file__).name} {name}", [*section(name, contest, units)])


def measured(contest: Contest, seed: int, work: Path, kept: Path) -> Row:
    """What the methods come to with a seed, as it is kept; measured first where it has not been."""
    how = [contest.made, *map(contest.attacked, (contest.heads, contest.whole))]
    if kept.exists():
        unit = read(kept)
        if unit["how"] == how:
            return unit
    out = command(f"{located(contest.made, work)} --seed {seed}", work / "made")
    told, ran = read(out / "erase.json"), [read(out / "made.json")]

    def attacks(words: str, at: str, folder: Path, scratch: bool) -> Mapping[str, Sequence[Row]]:
        more = f"--seed {seed}" + ("" if scratch else " --no-scratch")
        command(f"{words.replace('{at}', shlex.quote(at))} {more}", folder)
        ran.append(read(folder / "made.json"))
        return read(folder / "attack.json")["runs"][0]

    def folder_of(method: str) -> Path:
        return work / method.replace(" ", "-")

    rows = {BASE: told["before"], **{point["method"]: point for point in told["points"]}}
    places = {method: out / "releases" / f"{method}-{contest.tol:g}" for method in rows}
    places[BASE] = Path(*shlex.split(located(contest.backbone, work)))
    found: dict[str, Row] = {}
    for method, row in rows.items():
        run = attacks(how[1], str(places[method]), folder_of(method) / "heads", False)
        found[method] = {
            "fresh": row["fresh"],
            "ceiling": row["leak"]["ceiling"],
            "target": run["target"],
            "making": row.get("seconds"),
            "heads": best(run["attacks"]["release"]),
        }
    for method, row in found.items():
        held = float(row["heads"]["steps"]) == float("inf")
        if contest.whole and seed == 0 and (held or method in (BASE, OURS)):
            words = how[2].replace("{target}", str(row["target"]))
            place = str(places[method])
            trained = attacks(words, place, folder_of(method) / "whole", method == BASE)["attacks"]
            row["whole"] = {net: best(of) for net, of in trained.items()}
    unit = {
        "how": how,
        "commits": sorted({run["commit"] for run in ran}),
        "seconds": sum(run["seconds"] for run in ran),
        "failures": told["failures"],
        "unaided": told["unaided"]["least_squares"],
        "methods": found,
    }
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps(unit, indent=1, allow_nan=False) + "\n")
    return unit


def section(name: str, contest: Contest, units: Sequence[Row]) -> Iterator[str]:
    """Lines of a network's section: its table, what it is of, and its plot."""
    commits = sorted({commit for unit in units for commit in unit["commits"]})
    seconds = sum(unit["seconds"] for unit in units)
    whole = f", and `immucond {contest.attacked(contest.whole)}`" if contest.whole else ""
    yield f"## {contest.title}"
    yield ""
    some = f" --seeds {len(units)}" if len(units) != SEEDS else ""
    some += " --heads" if contest != NETWORKS[name] else ""
    seeds = f"seeds 0 to {len(units) - 1}" if len(units) > 1 else "seed 0"
    yield (
        f"`python scripts/rivals_results.py {name}{some}`, commit {' and '.join(commits)}, "
        f"{seeds}, {seconds:.0f} s of computing: `immucond {contest.made}`, and of each network "
        f"`immucond {contest.attacked(contest.heads)}`{whole}."
    )
    yield ""
    heads = ["", "lost", "ceiling", "above erasure's", "strongest head", "who", "seconds"]
    heads += ["all of it trained", "who", "seconds"] if contest.whole else []
    heads += ["making"]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'|'.join(['---'] + ['--:'] * (len(heads) - 1))}|"
    known = [BASE, *contest.methods.split()]
    for method in known:
        if any(method in unit["methods"] for unit in units):
            yield f"| {' | '.join(cells(contest, method, units))} |"
    yield f"| no network | | {100.0 * unaided(units):.1f} % |{' |' * (len(heads) - 3)}"
    if contest.whole:
        taken = of_each(BASE, units, lambda row: row.get("whole", {}).get("scratch"))
        yield f"| from scratch |{' |' * 6} {' | '.join(paid(taken))} | |"
    yield ""
    if none := [ERASERS[m] for m in known[1:] if any(m not in unit["methods"] for unit in units)]:
        yield f"Within the tolerance they find no network on some seeds or any: {', '.join(none)}."
        yield ""
    target = units[0]["methods"][BASE]["target"]
    trained = "all of it trained: the same of who trains all weights or adapters, with seed 0. "
    yield (
        "lost: points of the primary accuracy, on fresh rows. ceiling: of the leak profile, the "
        "most over all cuts; of no network by least squares on pixels or words. Both are means "
        "over seeds; above erasure's: the difference of ceilings, mean over pairs of a seed, with "
        "the interval of 95 % by Student's t. strongest head: least steps of any attacker who "
        "solves for a head or trains one, at any cut and from any start, to a held-out "
        f"cross-entropy of {float(target):.3g} nats, seed by seed; in brackets the least loss "
        f"where nobody gets there. {trained if contest.whole else ''}seconds: theirs until then. "
        "making: seconds of making it, mean."
    )
    yield ""
    plot = ROOT / "docs" / "images" / f"rivals-{name}.svg"
    draw(contest, units, plot)
    yield f"![Ceiling against what is lost of the primary accuracy](../images/{plot.name})"


def cells(contest: Contest, method: str, units: Sequence[Row]) -> Iterator[str]:
    """Cells of a method's row."""
    yield ERASERS.get(method, BASE)
    yield f"{np.mean(lost(method, units)):.2f}" if method != BASE else ""
    yield f"{np.mean(of_each(method, units, _ceiling)):.1f} %"
    yield above(method, units) if method not in (OURS, BASE) else ""
    yield from paid(of_each(method, units, lambda row: row["heads"]))
    if contest.whole:
        yield from paid(of_each(method, units, lambda row: row.get("whole", {}).get("release")))
    making = of_each(method, units, lambda row: row["making"])
    yield f"{np.mean(making):.0f}" if method != BASE else ""


def of_each(method: str, units: Sequence[Row], value: Callable[[Row], Any]) -> list[Any]:
    """Return a value of a method's network for each seed that has one."""
    return [value(unit["methods"][method]) for unit in units if method in unit["methods"]]


def lost(method: str, units: Sequence[Row]) -> list[float]:
    """Points of the primary accuracy that a method loses, by seed."""
    having = [unit["methods"] for unit in units if method in unit["methods"]]
    return [100.0 * (unit[BASE]["fresh"] - unit[method]["fresh"]) for unit in having]


def unaided(units: Sequence[Row]) -> float:
    """What classifiers of the samples themselves get right, mean over seeds."""
    return float(np.mean([unit["unaided"] for unit in units]))


def _ceiling(row: Row) -> float:
    return 100.0 * row["ceiling"]


def above(method: str, units: Sequence[Row]) -> str:
    """Cell of how far a method's ceiling is above erasure's, in points."""
    both = [unit for unit in units if {method, OURS} <= set(unit["methods"])]
    apart = np.subtract(*(of_each(name, both, _ceiling) for name in (method, OURS)))
    mean = np.mean(apart)
    if len(both) < 2:
        return f"{mean:+.1f}"
    half = student.ppf(0.975, len(both) - 1) * sem(apart)
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def paid(attacks: Sequence[Row | None]) -> tuple[str, str, str]:
    """Cells of attacks, one a seed: steps, or the loss where nobody gets there; who; seconds."""
    asked = [attack for attack in attacks if attack is not None]
    names = dict.fromkeys(attack["attacker"] for attack in asked)
    seconds = (number(float(attack["seconds"])) for attack in asked)
    return ", ".join(map(there, asked)), ", ".join(names), ", ".join(seconds)


def draw(contest: Contest, units: Sequence[Row], plot: Path) -> None:
    """Draw each method's ceiling against what it loses, a point a seed."""
    with print_style():
        figure = Figure(figsize=(7.0, 5.2), layout="constrained")
        ax = figure.subplots()
        ceiling = np.mean(of_each(BASE, units, _ceiling))
        ax.plot([0.0], [ceiling], "k*", label=BASE)
        for i, method in enumerate(contest.methods.split()):
            if not lost(method, units):  # on no seed is there a network
                continue
            ax.plot(
                lost(method, units), of_each(method, units, _ceiling), "os^Dv<>Xph"[i],
                color=COLOURS[i % len(COLOURS)], markerfacecolor="none", linestyle="none",
                label=ERASERS[method],
            )  # fmt: skip
        ax.axhline(100.0 * unaided(units), color=BLACK, linestyle="-.", label="no network")
        ax.set_xlabel("lost of the primary accuracy on fresh rows, points")
        ax.set_ylabel("harmful task: ceiling over all cuts, %")
        legend_below(ax, 3)
        figure.savefig(plot, metadata={"Date": None})


if __name__ == "__main__":
    main()
