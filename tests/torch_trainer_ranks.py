"""What each process of test_torch_trainer_ranks.py does; apart, for what it does not import."""

import os

import torch
import torch.distributed as dist
import transformers
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import immucond.deep as icd
import immucond.torch as ict

ROWS, BATCH, STEPS = 32, 8, 3


class Net(torch.nn.Module):
    """A classifier as the trainer wants it: keywords in, a loss out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = torch.nn.Linear(6, 5).double(), torch.nn.Linear(5, 3).double()

    def forward(self, x, labels=None):
        logits = self.head(torch.tanh(self.body(x)))
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def rows(seed, count=ROWS):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, dtype=torch.float64, generator=generator)
    return [{"x": x[i], "labels": i % 3} for i in range(count)]


def batches(data, size):
    return [torch.utils.data.default_collate(data[i : i + size]) for i in range(0, len(data), size)]


class Immunizing(icd.TrainerMixin, transformers.Trainer):
    pass


class Seen(list):
    """Batches, with a record of which were read."""

    def __init__(self, items):
        super().__init__(items)
        self.read = []

    def __iter__(self):
        for batch in super().__iter__():
            self.read.append(batch["x"])
            yield batch


def first_of_one_class():
    """Harmful batches, the first of which, that of the first process, has labels of one class."""
    found = batches(rows(2, 48), BATCH)
    found[0]["labels"] = torch.zeros_like(found[0]["labels"])
    return found


def trained(folder, world, lambdas, terms=None, method="algorithm1", given=None):
    """SGD steps over BATCH rows of each task in every process; what came of them."""
    arguments = transformers.TrainingArguments(
        output_dir=f"{folder}/out",
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=3,
        dataloader_pin_memory=False,
    )
    trainer = Immunizing(Net(), arguments, train_dataset=rows(1))
    harmful, used = Seen(given or batches(rows(2, 48), BATCH)), []
    trainer.immunize_against(harmful, split="head", lambdas=lambdas, terms=terms, method=method)
    forward = trainer.model.forward

    def seeing(x, labels=None):
        used.append(x)
        return forward(x, labels)

    trainer.model.forward = seeing
    trainer.train()
    state = {key: x.clone() for key, x in trainer.model.state_dict().items()}
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {"state": state, "used": used, "logs": logs, "world": world}


class Tokens(Net):
    """A head on tokens, and labels one each."""

    def forward(self, x, labels=None):
        logits = self.head(torch.tanh(self.body(x)))
        loss = None
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits}


def without_labels(folder, rank):
    """A step in which no token of the last process is labelled."""
    data = [{"x": torch.stack([row["x"]] * 2), "labels": torch.tensor([0, 1])} for row in rows(1)]

    def collate(found):
        batch = torch.utils.data.default_collate(found)
        return batch | {"labels": torch.full_like(batch["labels"], -100)} if rank else batch

    arguments = transformers.TrainingArguments(
        output_dir=f"{folder}/out", per_device_train_batch_size=BATCH, max_steps=1,
        save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Immunizing(Tokens(), arguments, train_dataset=data, data_collator=collate)
    trainer.immunize_against(batches(data, BATCH), split="head", lambdas=(1e-2, 1e-3))
    trainer.train()


def told(call):
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def work(rank, world, folder):
    """One process."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "0",  # nobody listens: the group is there already
    }
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    group = dist.group.WORLD
    found = {
        "fixed": trained(folder, world, (1e-2, 1e-3)),
        "balance": trained(folder, world, "balance"),
        "terms": trained(folder, world, None, (1.0, 10.0)),
        "imma": trained(folder, world, None, (0.0, 1.0), "imma"),
        "alignment": trained(folder, world, None, (0.0, 0.3), "alignment", first_of_one_class()),
        "balanced alignment": trained(
            folder, world, "balance", None, "alignment", first_of_one_class()
        ),
    }
    found["without labels"] = told(lambda: without_labels(folder, rank))
    Z = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    mesh = init_device_mesh("cpu", (world,))
    sharded = distribute_tensor(Z, mesh, [Shard(0)])
    found["whole"] = ict.r_ill(features=Z)
    found["sharded"] = ict.r_ill(features=sharded)
    found["grams"] = ict.gram(sharded), ict.gram(Z)
    found["modules"] = ict.RWell()(sharded), ict.RWell()(Z)
    found["dtensor"] = [
        told(lambda: ict.r_ill(sharded)),
        told(lambda: ict.extreme_pairs(sharded)),
        told(lambda: ict.extreme_pairs(features=sharded)),
    ]
    found["full"] = ict.r_ill(features=sharded.full_tensor())
    found["local"] = ict.r_ill(features=sharded.to_local(), group=group)
    mine = sharded.to_local()

    def total(z):
        return 2.0 * ict.r_ill(features=z, group=group)

    found["compiled"] = told(lambda: torch.compile(total, backend="eager")(mine))
    torch._dynamo.reset()
    compiled = torch.compile(total, backend="eager", fullgraph=True)
    found["fullgraph"] = told(lambda: compiled(mine))
    torch.save(found, f"{folder}/{rank}")
    dist.destroy_process_group()
