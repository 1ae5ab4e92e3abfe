"""What each process of test_deep_record_ranks.py does; apart, for what it does not import."""

import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import immucond as ic
import immucond.deep as icd

# Samples of each rank; one has none.
SPLITS = {2: (70, 30), 4: (40, 0, 35, 25)}
NAMES = ("0", "2")
TAU = 100.0


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 3)).double()


def data():
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(100, 6, dtype=torch.float64, generator=generator)
    X[:, 5] = X[:, 4] + 1e-10 * X[:, 5]  # what Gram matrices lose
    return X, torch.arange(100) % 3


def loader(rows):
    X, y = data()
    return DataLoader(TensorDataset(X[rows], y[rows]), batch_size=16)


def told(recording):
    """Everything of a recording, as arrays."""
    found = {}
    for name in recording.names:
        found[name] = {
            "gram": recording.gram(name),
            "cross": recording.cross(name, center=True),
            "energy": recording.energy(name),
            "mean": recording.mean(name),
            "count": recording.count(name),
            "rank": recording.rank(name),
            "rho": recording.alignment(name).rho,
        }
        if recording.settings["factor"] == "r":
            found[name]["R"] = recording.R(name)
    return found


def refused(run):
    try:
        run()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def fade_of(recording):
    """The map for what enters the head, the same task as harmful: all that a fold needs."""
    K, b = recording.gram("2", center=True), recording.cross("2", center=True)
    return ic.linear.fade(
        K_P=recording.gram("2"), K_H=K, b_H=b, energy_H=recording.energy("2"), tau=TAU
    )


def fold(model, A):
    """Multiply the layer before the head by A, and the head by its inverse."""
    theta = torch.from_numpy(A.theta)
    icd.edit_weight(model[1].weight, lambda W: theta.T @ W)
    icd.edit_weight(model[1].bias, lambda b: theta.T @ b)
    icd.edit_weight(model[2].weight, lambda W: torch.from_numpy(A.solve(W.numpy().T)).T)


def begin(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )


def work(rank, world, folder):
    """One process: every case, its results to a file."""
    begin(rank, world, folder)
    group, split = dist.group.WORLD, SPLITS[world]
    rows = slice(sum(split[:rank]), sum(split[: rank + 1]))
    results = {}
    for factor in ("gram", "r"):
        options = {"factor": factor, "cross": "labels", "group": group}
        results[factor] = told(icd.record(net(), loader(rows), NAMES, **options))
    wrapped = DistributedDataParallel(net())
    results["wrapped"] = told(icd.record(wrapped, loader(rows), NAMES, **options))

    X, y = data()
    broken = X.clone()
    broken[0] = torch.nan  # of rank 0 alone
    batches = [(broken[rows][:16], y[rows][:16])]
    results["nan"] = refused(lambda: icd.record(net(), batches, NAMES, group=group))
    of = "input" if rank == 0 else "output"
    results["of"] = refused(lambda: icd.record(net(), loader(rows), NAMES, of=of, group=group))
    other = net()
    other[0].weight.data += rank
    results["network"] = refused(lambda: icd.record(other, loader(rows), NAMES, group=group))
    none = slice(0, 0)
    results["empty"] = refused(lambda: icd.record(net(), loader(none), NAMES, group=group))
    single = [(X[rows].float(), y[rows])] if split[rank] else []
    with torch.autocast("cpu", torch.bfloat16, enabled=rank == 0):
        mixed = refused(lambda: icd.record(net().float(), single, NAMES, group=group))
    results["mixed"] = mixed

    results["sharded"] = sharded(rank, world, folder, rows)
    torch.save(results, Path(folder) / str(rank))
    dist.barrier()
    dist.destroy_process_group()


def sharded(rank, world, folder, rows):
    """A network of fully_shard: recorded, edited one matrix at a time, and saved in parts."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world,))
    model = net()
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    # A forward pass is one of all ranks: as many batches on each.
    X, y = data()
    mine = [(X[place::world][:25], y[place::world][:25]) for place in (rank,)]
    found = icd.record(model, mine, NAMES, cross="labels", group=mesh)
    fold(model, fade_of(found))
    placements = [type(p).__name__ for p in model.parameters()]
    dcp.save({"model": model.state_dict()}, checkpoint_id=f"{folder}/parts")
    odd = refused(lambda: icd.edit_weight(model[1].weight, lambda W: W.T))
    bad = refused(lambda: icd.edit_weight(model[1].weight, lambda W: W * torch.inf))
    whole = {name: p.full_tensor() for name, p in model.state_dict().items()}
    return {"placements": placements, "odd": odd, "bad": bad, "whole": whole, "told": told(found)}


def dies(rank, world, folder):
    """The last rank ends without a word while the others wait for its part."""
    begin(rank, world, folder)
    X, y = data()

    def until(step, record):
        if rank == world - 1:
            os._exit(0)

    out = Path(folder) / f"{rank}.safetensors"
    try:
        found = icd.record(net(), [(X, y)], NAMES, callback=until, group=dist.group.WORLD)
        found.to_safetensors(out)
    except RuntimeError as error:
        torch.save(str(error), Path(folder) / str(rank))
    os._exit(0)  # without the farewell that the dead would have to answer


def by_hand(rows, name):
    """Rows that enter a module, from plain products."""
    X, y = data()
    model = net()
    with torch.no_grad():
        Z = X if name == "0" else model[1](model[0](X))
    return Z[rows].numpy(), np.eye(3)[y[rows].numpy()]
