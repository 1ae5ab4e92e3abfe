"""Write docs/deep-results.md from finished runs of ``immucond deep``.

deep_results.py TITLE=FOLDER [TITLE=FOLDER ...]

Every figure of the page comes from the folders' results.json and tables.md; the plots are copied.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
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
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    units = [unit for method in results["methods"].values() for unit in method["seeds"]]
    seconds = sum(unit["unit_seconds"] for unit in units)
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    prints = ", ".join(f"{name} {value}" for name, value in results["fingerprints"].items())
    yield f"## {title}"
    yield ""
    yield (
        f"`{results['command']}`: {len(units)} units of work, {seconds:.0f} s of computing on one "
        f"core of a shared machine, measuring and probing included; {versions}; fingerprints: "
        f"{prints}."
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
    command = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def page(runs: dict[str, Path]) -> str:
    lines = [
        "# Deep networks: results",
        "",
        "<!-- Written by scripts/deep_results.py: do not edit. -->",
        "",
        f"What `immucond deep` gave, at commit {commit()}; its measures are explained in "
        "{doc}`deep`. " + WORTH,
        "",
    ]
    for title, folder in runs.items():
        lines += section(title, folder)
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    runs = {}
    for argument in sys.argv[1:]:
        title, separator, folder = argument.partition("=")
        if not separator or not (Path(folder) / "results.json").is_file():
            sys.exit(f"{argument}: TITLE=FOLDER is needed, of a folder with a results.json")
        runs[title] = Path(folder)
    if not runs:
        sys.exit(__doc__)
    (ROOT / "docs" / "deep-results.md").write_text(page(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
