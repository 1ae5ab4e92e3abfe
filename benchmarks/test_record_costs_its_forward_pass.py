"""Recording a network costs its forward pass and the bare BLAS or LAPACK of the same rows."""

import numpy as np
import pytest
from scipy.linalg import blas, lapack

torch = pytest.importorskip("torch")

import immucond.deep as icd  # noqa: E402

SAMPLES, TOKENS, WIDTH, LAYERS, BATCH = 256, 64, 512, 6, 32
GROUP = f"{LAYERS} layers of {WIDTH}, {SAMPLES} samples of {TOKENS} tokens"
PEERS = {
    "gram": "floor: forward and scipy dsyrk",
    "r": "floor: forward and scipy dgeqrf of 4 m rows each",
}
GOALS = {("immucond, gram", PEERS["gram"]): 1 / 1.1, ("immucond, r", PEERS["r"]): 1 / 1.3}


def network(width):
    torch.manual_seed(0)
    parts = [
        part for _ in range(LAYERS) for part in (torch.nn.Linear(width, width), torch.nn.GELU())
    ]
    return torch.nn.Sequential(*parts).eval()


def squares(R):
    return np.square(np.triu(R)).sum(axis=0)


def factor_of(rows, factor):
    """The diagonals of X^T X, by the bare kernels."""
    if factor == "gram":
        return blas.dsyrk(1.0, rows.T).diagonal()
    leaf, total = 4 * rows.shape[1], np.zeros(rows.shape[1])
    for start in range(0, len(rows), leaf):
        piece = np.asfortranarray(rows[start : start + leaf])
        qr, *_ = lapack.dgeqrf(piece, lwork=64 * rows.shape[1], overwrite_a=1)
        total += squares(qr[: rows.shape[1]])
    return total


def bare(net, batches, factor):
    """A forward pass that keeps what enters each layer; their rows, layer by layer."""
    entered = {n: [] for n in range(0, 2 * LAYERS, 2)}
    with torch.no_grad():
        for x, _ in batches:
            for n, part in enumerate(net):
                if n in entered:
                    entered[n].append(x)
                x = part(x)
    rows = (torch.cat(x).flatten(0, 1).double().numpy() for x in entered.values())
    return np.stack([factor_of(X, factor) for X in rows])


def recorded(net, batches, factor):
    found = icd.record(net, batches, [str(n) for n in range(0, 2 * LAYERS, 2)], factor=factor)
    of = {"gram": lambda x: x.gram.diagonal(), "r": lambda x: squares(x.R)}[factor]
    return np.stack([of(moment) for moment in found.values()])


@pytest.mark.parametrize("factor", ["gram", "r"])
@pytest.mark.parametrize("ours", [True, False])
def test_record_costs_its_forward_pass(contest, size, factor, ours):
    width, samples = size(WIDTH), size(SAMPLES)
    net, generator = network(width), torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(min(BATCH, samples), TOKENS, width, generator=generator), None)
        for _ in range(max(1, samples // BATCH))
    ]
    name = f"immucond, {factor}" if ours else PEERS[factor]
    run = recorded if ours else bare
    like = lambda: bare(net, batches, factor)  # noqa: E731
    contest(GROUP, name, lambda: run(net, batches, factor), like=like, goals=GOALS)
