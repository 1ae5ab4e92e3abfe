"""What each process of test_torch_distributed.py does; apart, for what it does not import."""

import pickle
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.nn.parallel import DistributedDataParallel

import immucond as ic
import immucond.torch as ict

FUNCTIONS = {
    "r_well": ict.r_well,
    "r_ill": ict.r_ill,
    "log_kappa": ict.log_kappa,
    "kappa": ict.condition_number,
    "kappa under a ridge": partial(ict.condition_number, ridge=0.1),
}
WIDTH = 5
# Rows on each rank: more than features in all, fewer, and with a rank that has none.
SPLITS = {
    2: {"more": (7, 4), "fewer": (3, 1), "empty": (0, 8), "few and none": (3, 0)},
    4: {"more": (3, 4, 2, 2), "fewer": (1, 1, 1, 1), "empty": (0, 6, 0, 1)},
}
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def rows_of(split, dtype):
    """Singular values far from each other, for bfloat16 to tell them apart."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(sum(split), WIDTH, dtype=torch.float64, generator=generator)
    return (rows * 2.0 ** torch.arange(WIDTH)).to(dtype)


def losses():
    yield from ((name, {}) for name in FUNCTIONS)
    yield "r_well", {"p": "rank"}
    yield "log_kappa", {"rank": 2}


def gradient_of_gram(Z, group):
    H = ict.gram(Z, group=group)
    return torch.autograd.grad(H.square().sum(), Z, create_graph=True)[0]


PLACES = 3  # tokens of a sentence
# Sentences on each rank; the last one's are padding alone.
SENTENCES = {2: (4, 2), 4: (3, 2, 1, 2)}


def sentences_of(world):
    """Features (B, T, m) of all ranks, NaN where there is padding, and the mask."""
    count = sum(SENTENCES[world])
    Z = rows_of((count * PLACES,), torch.float64).reshape(count, PLACES, WIDTH)
    generator = torch.Generator().manual_seed(2)
    mask = torch.arange(PLACES) < torch.randint(1, PLACES + 1, (count, 1), generator=generator)
    mask[-SENTENCES[world][-1] :] = False
    return torch.where(mask[..., None], Z, torch.nan), mask


def masked(rank, world, group, mesh):
    """Values and gradients of the tokens of all ranks, and what is refused."""
    Z, mask = (x.split(SENTENCES[world])[rank] for x in sentences_of(world))
    found = {}
    for name, function in FUNCTIONS.items():
        mine = Z.clone().requires_grad_()
        value = function(features=mine, mask=mask.long(), group=group)
        (3.0 * value).backward()
        found["masked", name] = value.detach(), mine.grad
    mine = Z.clone().requires_grad_()
    H = ict.gram(mine, mask=mask, group=group)
    H.square().sum().backward()
    found["masked", "gram"] = H.detach(), mine.grad
    loss = ict.ImmunizationLoss(0.1, 2.0, group=group)
    found["masked", "loss"] = loss(Z, 2 * Z, mask_P=mask, mask_H=mask).detach(), None
    whole = torch.nan_to_num(Z)
    shape = torch.Size([sum(SENTENCES[world]), PLACES, WIDTH])
    of_all = DTensor.from_local(
        whole, mesh, [Shard(0)], shape=shape, stride=(PLACES * WIDTH, WIDTH, 1)
    )
    places = DTensor.from_local(mask, mesh, [Shard(0)], shape=shape[:2], stride=(PLACES, 1))
    found["masked", "sharded"] = ict.r_ill(features=of_all, mask=mask), None  # a rank's own
    wrong = [
        lambda: ict.r_ill(features=of_all, mask=places),
        lambda: ict.r_ill(features=whole, mask=places, group=group),
        lambda: ict.r_ill(features=whole, mask=mask & False, group=group),
    ]
    return found, wrong


def layer():
    torch.manual_seed(0)
    return torch.nn.Linear(WIDTH, 3, bias=False).double()


def averaged(mine, group):
    """The gradient that DistributedDataParallel leaves of a term of all ranks."""
    net = DistributedDataParallel(layer())
    term = ict.sum_over_ranks(2.0 * ict.r_ill(features=net(mine), group=group), group)
    term.backward()
    return term.detach(), net.module.weight.grad


def work(rank, world, folder):
    """One process: every case, its results to a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    group = dist.group.WORLD
    results = {}
    for kind, split in SPLITS[world].items():
        for dtype_name, dtype in DTYPES.items():
            mine = rows_of(split, dtype).split(split)[rank]
            for number, (name, options) in enumerate(losses()):
                Z = mine.clone().requires_grad_()
                value = FUNCTIONS[name](features=Z, group=group, **options)
                (3.0 * value).backward()
                results[kind, dtype_name, number] = value.detach(), Z.grad
            Z = mine.clone().requires_grad_()
            H = ict.gram(Z, group=group)
            (H * torch.arange(WIDTH**2).reshape(WIDTH, WIDTH)).sum().backward()
            results[kind, dtype_name, "gram"] = H.detach(), Z.grad
    mesh = dist.device_mesh.init_device_mesh("cpu", (world,))
    Z = mine.double().requires_grad_()
    shape = torch.Size([sum(split), WIDTH])
    of_all = DTensor.from_local(Z, mesh, [Shard(0)], shape=shape, stride=(WIDTH, 1))
    value = ict.r_well(features=of_all)
    value.backward()
    results["sharded"] = value.detach(), Z.grad
    results["by mesh"] = ict.r_well(features=Z.detach(), group=mesh), None
    results["not sharded"] = ict.r_well(features=Z.detach(), group=group), None
    Z = mine.double().requires_grad_()
    loss = ict.ImmunizationLoss(0.1, 2.0, group=group)
    results["loss"] = loss(Z, 2 * Z).detach(), None
    results["averaged"] = averaged(mine.double(), group)
    of_tokens, wrong_masks = masked(rank, world, group, mesh)
    results |= of_tokens
    errors = []

    def row(entry):
        return torch.full((1, 2), entry, dtype=torch.float64)

    wrong = [
        lambda: ict.r_ill(features=torch.ones(2, 3 + rank), group=group),
        lambda: ict.r_ill(features=torch.eye(5)[rank : rank + 1] * float("nan"), group=group),
        lambda: gradient_of_gram(Z, group).sum().backward(),
        lambda: ict.r_ill(features=torch.ones(2, 3, 4), group=group),
        lambda: ict.r_ill(features=DTensor.from_local(torch.eye(5), mesh, [Replicate()])),
        lambda: ict.gram(row(1.3e154), group=group),  # each rank's own sum is in range
        lambda: ict.gram(row(1e200 if rank == 1 else 1.0), group=group),
        *wrong_masks,
    ]
    for call in wrong:
        try:
            call()
            errors.append("none")
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
    results["errors"] = errors
    torch.save(results, f"{folder}/{rank}")
    dist.destroy_process_group()


GRADED = 12  # columns
SCALES = (1.0, 1e155, 1e-160)


def graded():
    """Rows of kappa(H) = 1e24, which their Gram matrix does not hold."""
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.normal(size=(n, GRADED)))[0] for n in (400, GRADED))
    return (U * np.logspace(0, -12, GRADED)) @ V.T


def merge(rank, world, folder):
    """One process: the triangle of all ranks' rows, its pairs, and a gradient through it."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    group = dist.group.WORLD
    # The last of several ranks has no rows.
    parts = [*np.array_split(graded(), max(1, world - 1)), np.zeros((0, GRADED))]
    mine = parts[rank]
    mesh = dist.device_mesh.init_device_mesh("cpu", (world,))
    accumulator = ic.TriangleAccumulator(GRADED).update(mine).all_reduce(mesh)
    assert (accumulator.R == ic.TriangleAccumulator(GRADED).update(mine).all_reduce().R).all()
    sums = ic.GramAccumulator(GRADED).update(mine).all_reduce(group)
    keywords = {"rank": GRADED}
    results = {
        "R": accumulator.R,
        "gram": sums.gram,
        "counts": (accumulator.count, sums.count),
        "alone": accumulator.pairs(**keywords),
        "refined": accumulator.pairs(rows=[mine[:3], mine[3:]], group=group, **keywords),
        "written": pickle.loads(pickle.dumps(accumulator)).pairs(**keywords),
    }
    Z = torch.from_numpy(mine).requires_grad_()
    value = ict.log_kappa(features=Z, group=group, **keywords)
    value.backward()
    results["log_kappa"] = value.item(), Z.grad
    for scale in SCALES:
        Z = (torch.from_numpy(mine * np.geomspace(1, 10, GRADED)) * scale).requires_grad_()
        value = ict.log_kappa(features=Z, group=group, **keywords)
        results[scale] = torch.autograd.grad(value, Z)[0] * scale
    zeros = ic.TriangleAccumulator(2).update(np.zeros((rank, 2))).all_reduce(group)
    zeros.to_safetensors(f"{folder}/zeros-{rank}")
    results["zeros"] = ic.TriangleAccumulator.from_safetensors(f"{folder}/zeros-{rank}").count
    errors = []
    for call in (
        lambda: ic.TriangleAccumulator(3 + rank).all_reduce(group),
        lambda: accumulator.pairs(rows=[mine[1:]], group=group),
        lambda: accumulator.pairs(rows=[mine] if rank else 3, group=group),
        lambda: ict.log_kappa(features=torch.full_like(Z, 1e302), group=group),
    ):
        try:
            call()
            errors.append("none")
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
    results["errors"] = errors
    torch.save(results, f"{folder}/{rank}")
    dist.destroy_process_group()
