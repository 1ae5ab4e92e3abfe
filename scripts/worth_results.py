"""Measure what each defence of a network is worth, and write docs/results/worth.md.

worth_results.py [--work FOLDER] [--only RELEASE ...]

Makes releases of one network by ``immucond deep``, ``lock`` and ``erase``, measures each by
``immucond leak``, ``cost`` and ``attack``, and writes one table from their files. Each command runs
into a subfolder of the work folder, unless what it leaves is there already. With --only these
releases are measured, and nothing is written: several such runs may share a work folder once the
releases are made (--only without names). Data and models lie where IMMUCOND_DATA and
IMMUCOND_MODELS say.
"""

import argparse
import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from matplotlib.figure import Figure
from page import ROOT, commit, write
from scipy.stats import spearmanr

from immucond._cli import main as immucond
from immucond._files import write_whole
from immucond._format import number
from immucond._show import BLACK, BLUE, GREEN, PURPLE, VERMILION, legend_below, print_style
from immucond.experiments.deep import METHODS

PAGE = ROOT / "docs" / "results" / "worth.md"
PLOT = ROOT / "docs" / "images" / "worth.svg"
READING = "--image-size 64 --mean 0.4914 0.4822 0.4465 --std 0.2470 0.2435 0.2616"
PRIMARY = "cifar10[airplane,automobile,ship,truck]"
HARMFUL = "cifar10[bird,cat,deer,dog,frog,horse]"
TASKS = f"--primary {PRIMARY} --harmful {HARMFUL} {READING}"
BASE = "identity"
MADE = (
    BASE, "closed-form", "fade", "leace", "algorithm1", "r-ill-only", "imma", "opt-kappa",
    "fade-distilled", "alignment",
)  # fmt: skip
DEEP = (
    f"deep --backbone resnet18-cifar10 {TASKS} --trainable resnet.encoder.stages.3 "
    "--train-size 4000 --test-size 2000 --terms-opt-kappa 0.1 0.003 --seeds 1 --jobs 2 "
    f"--method {' '.join(MADE)} --save {' '.join(MADE)}"
)
# At the others' step length IMMA diverges there.
IMMA = DEEP.partition("--method")[0] + "--lr 0.001 --method imma --save imma"
LOCKS = {"specdef": "SpecDef, alpha 1e3", "gauges": "random gauges, kappa 1e3"}
ERASED = {"erase-0.01": "erasure, 1 point", "erase-0.03": "erasure, 3 points"}
COLOURS = (BLACK, BLUE, VERMILION, GREEN, PURPLE)
STYLES = [(colour, marker) for marker in "os^" for colour in COLOURS]
HEADS = (
    "--train-size 600 --test-size 600 --steps 60 --trials 12 "
    "--attackers lstsq whitening logistic probe-adam"
)

Found = dict[str, dict[str, Any]]


def main() -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "immucond-worth")
    parser.add_argument("--only", nargs="*", metavar="RELEASE", default=None)
    given = parser.parse_args()
    made = releases(given.work)
    names = made if given.only is None else given.only
    found = {name: measure(given.work, name, made[name][1]) for name in names}
    if given.only is None:
        write(PAGE, Path(__file__).name, [*page(given.work, made, found)])


def releases(work: Path) -> dict[str, tuple[str, str]]:
    """Make releases; return their labels and folders by name."""
    models = command(DEEP, work / "deep", "results.json") / "units" / "models"
    found = {name: (METHODS[name].label, str(models / name)) for name in MADE}
    models = command(IMMA, work / "imma", "results.json") / "units" / "models"
    found["imma"] = (METHODS["imma"].label, str(models / "imma"))
    base = found[BASE][1]
    for kind, label in LOCKS.items():
        words = f"lock --backbone {base} --primary {PRIMARY} {READING} --kind {kind}"
        place = command(words, work / kind, "lock.json")
        found[kind] = (label, str(place / "release"))
    tols = " ".join(name.partition("-")[2] for name in ERASED)
    place = command(f"erase --backbone {base} {TASKS} --tols {tols}", work / "erase", "erase.json")
    return found | {name: (label, str(place / "releases" / name)) for name, label in ERASED.items()}


def measure(work: Path, name: str, release: str) -> dict[str, Any]:
    """Measure one release: its profile, its cost, and its strongest attacker."""
    out, at = work / "measured" / name, f"--backbone {release}"
    attack = told(f"attack {at} {TASKS} {HEADS} --no-scratch", out / "heads")["runs"][0]
    return {
        "leak": told(f"leak {at} {TASKS} --no-untrained", out / "leak"),
        "cost": told(f"cost {at} --harmful {HARMFUL} {READING} --params head", out / "cost"),
        "attack": attack,
        "strongest": strongest(attack["attacks"]["release"]),
    }


def strongest(attacks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the attack of the fewest steps, or of the least loss where nobody gets there."""
    found = [{**a, "steps": float(a["steps"]), "loss": float(a["loss"])} for a in attacks]
    return min(found, key=lambda attack: (attack["steps"], attack["loss"]))


def told(words: str, out: Path) -> dict[str, Any]:
    """Run a command of ours, and return what it wrote."""
    kind = words.split()[0]
    place = command(words, out, f"{kind}.json")
    found: dict[str, Any] = json.loads((place / f"{kind}.json").read_text(encoding="utf-8"))
    return found


def command(words: str, out: Path, file: str) -> Path:
    """Run a command of ours into a folder, unless its file is there."""
    if not (out / file).exists():
        start = time.monotonic()
        if immucond([*shlex.split(words), "--out", str(out), "--quiet"]):
            raise SystemExit(f"immucond {words} failed")
        made = {"commit": commit(), "seconds": time.monotonic() - start}
        write_whole(out / "made.json", json.dumps(made))
    return out


def page(work: Path, made: Mapping[str, tuple[str, str]], found: Found) -> Iterator[str]:
    """Lines of the table and what they are of."""
    base, runs = found[BASE], [json.loads(x.read_text()) for x in sorted(work.rglob("made.json"))]
    at, seconds = sorted({run["commit"] for run in runs}), sum(run["seconds"] for run in runs)
    yield (
        f"`python scripts/worth_results.py`, commit {' and '.join(at)}, seed 0, {seconds:.0f} s of "
        f"computing beside other work. Releases by `immucond {DEEP}`, IMMA, which diverges there, "
        "with `--lr 0.001`, and of theta_0 by `immucond lock` and `immucond erase`; each attacked "
        f"with `{HEADS}`, from every start and cut; "
        "`immucond leak` and `immucond cost --params head` with their defaults."
    )
    yield ""
    heads = ("release", "primary", "RIR", "rho", "Adam, head", "GD, head", "ceiling", "at",
             "strongest", "who", "loss", "accuracy", "factor")  # fmt: skip
    yield f"| {' | '.join(heads)} |"
    yield f"|{'|'.join(['---'] + ['--:'] * (len(heads) - 1))}|"
    deep = {**results(work / "deep"), **results(work / "imma")}
    for name, (label, _) in made.items():
        of = found[name]
        profile, steps = of["leak"]["profile"], of["cost"]["costs"]["release"]["head"]["steps"]
        unit = deep[name]["seeds"][0] if name in deep else {}
        cells = [
            label,
            f"{of['attack']['utility']:.1%}",
            number(unit["all"]["rir"]) if unit else "",
            number([*profile["cuts"].values()][-1]["rho"]),
            f"{unit['probe']['adam']['accuracy'][-1]:.1%}" if unit else "",
            number(float(steps["0.5"]["lower"])),
            f"{profile['ceiling']:.1%}",
            short(profile["where"]),
            *who(of["strongest"]),
            number(of["strongest"]["steps"] / base["strongest"]["steps"]),
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield (
        "primary: accuracy, of the attack's rows. RIR: of test samples, where `immucond deep` made "
        "the release. rho: label alignment of the harmful labels at the head's input. Adam, head: "
        "what a new head gets in 20 epochs of `immucond deep`. GD, head: forecast of the steps of "
        "gradient descent on it until half of the squared loss is left. ceiling: of the leak "
        "profile, the most over all cuts. strongest: fewest steps of "
        "any attacker until the held-out cross-entropy is at "
        f"{number(base['attack']['target'])} nats; loss and accuracy: his at best, "
        "or where nobody gets there those of the least loss. factor: over the steps on theta_0."
    )
    yield ""
    yield correlation(found)
    yield ""
    draw(made, found)
    yield f"![Steps of the strongest attacker against the ceiling](../images/{PLOT.name})"


def results(folder: Path) -> dict[str, Any]:
    """What ``immucond deep`` told of its methods."""
    found: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return found["methods"]


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


def draw(made: Mapping[str, tuple[str, str]], found: Found) -> None:
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
        figure.savefig(PLOT, metadata={"Date": None})


def short(name: str) -> str:
    """Return the end of a module's name."""
    return name.replace("resnet.encoder.", "")


def who(attack: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Cells of an attack: steps, who and from where, his loss and accuracy."""
    name = short(f"{attack['attacker']}, {attack['start']}")
    return number(attack["steps"]), name, f"{attack['loss']:.2f}", f"{attack['accuracy']:.1%}"


if __name__ == "__main__":
    main()
