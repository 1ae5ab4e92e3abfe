"""What each process of test_torch_distributed.py does; apart, for what it does not import."""

from functools import partial

import torch
import torch.distributed as dist

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
    Z = mine.double().requires_grad_()
    loss = ict.ImmunizationLoss(0.1, 2.0, group=group)
    results["loss"] = loss(Z, 2 * Z).detach(), None
    errors = []
    wrong = [
        lambda: ict.r_ill(features=torch.ones(2, 3 + rank), group=group),
        lambda: ict.r_ill(features=torch.eye(5)[rank : rank + 1] * float("nan"), group=group),
        lambda: gradient_of_gram(Z, group).sum().backward(),
        lambda: ict.r_ill(features=torch.ones(2, 3, 4), group=group),
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
