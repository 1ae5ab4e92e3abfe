"""Measure what attackers outside of the threat model get: the table of docs/guide/limits.md.

limits_table.py [--data-dir FOLDER] [--models-dir FOLDER] [--train N] [--test N] [--seed N]

ResNet-18 on CIFAR-10, immunized against MNIST by the closed form (kappa_P as it was) and by
Algorithm 1, and a list of attackers, each with what it tunes for itself. One thread.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import immucond.deep as icd
from immucond.experiments.deep import Backbone, Part, load_network
from immucond.experiments.deep import load as load_task

PAGE = Path(__file__).resolve().parent.parent / "docs" / "guide" / "limits.md"
BEGIN, END = "<!-- begin: scripts/limits_table.py -->", "<!-- end: scripts/limits_table.py -->"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
TRAINED = "resnet.encoder.stages.3"
BATCH, PROBE_EPOCHS, TUNE_EPOCHS = 128, 20, 3
Labelled = tuple[Tensor, Tensor]


def images(backbone: Backbone, part: Part) -> Labelled:
    """A part of a task as the network takes it."""
    rows = [backbone.preparation(sample)["pixel_values"] for sample in part.inputs]
    return torch.stack(rows), torch.from_numpy(part.labels)


def loader(data: Labelled) -> DataLoader[Any]:
    """Its batches, by the name of the input that the network has."""
    return DataLoader(TensorDataset(*data), BATCH, shuffle=True, drop_last=True)


@torch.no_grad()
def features(model: nn.Module, module: str, x: Tensor) -> Tensor:
    """What enters a module, of all images; of channels their means."""
    seen: list[Tensor] = []
    hook = model.get_submodule(module).register_forward_pre_hook(
        lambda _, arguments: seen.append(arguments[0].flatten(2).mean(2) if arguments[0].ndim > 2
                                         else arguments[0])
    )  # fmt: skip
    for batch in x.split(BATCH):
        model(batch)
    hook.remove()
    return torch.cat(seen)


# ---- attackers on frozen features: (training, test) with labels, to test accuracy ----


def probe(kind: str) -> Callable[[Labelled, Labelled, int], float]:
    """One of the library's own: the best of its step lengths by training loss."""

    def accuracy(train: Labelled, test: Labelled, seed: int) -> float:
        found = icd.linear_probes(
            train, test, attackers=[kind], classes=10, epochs=PROBE_EPOCHS, seed=seed
        )
        return float(found[kind]["accuracy"][-1])

    return accuracy


def standardized(train: Labelled, test: Labelled, seed: int) -> float:
    """SGD on columns of mean 0 and variance 1, as StandardScaler makes them."""
    Z = train[0].double()
    mean, size = Z.mean(0), Z.std(0, correction=0)
    size = torch.where(size > 0, size, 1.0)
    scaled = [((Z.double() - mean) / size, y) for Z, y in (train, test)]
    return probe("sgd")(scaled[0], scaled[1], seed)


def heads(
    train: Labelled, test: Labelled, seed: int, make: Callable[[], nn.Module],
    optimizers: Sequence[Callable[[Any], torch.optim.Optimizer]], epochs: int,
) -> float:  # fmt: skip
    """The best of some optimizers on a head, by test accuracy: what tuning can get at most."""
    (Z, y), best = train, 0.0
    for optimizer_of in optimizers:
        torch.manual_seed(seed)
        head = make()
        optimizer = optimizer_of(head.parameters())
        for _ in range(epochs):
            for batch in torch.randperm(len(Z)).split(256):
                optimizer.zero_grad()
                nn.functional.cross_entropy(head(Z[batch]), y[batch]).backward()
                optimizer.step()
        with torch.no_grad():
            found = (head.eval()(test[0]).argmax(1) == test[1]).double().mean()
        best = max(best, float(found))
    return best


def batch_norm_head(train: Labelled, test: Labelled, seed: int) -> float:
    """SGD on BatchNorm1d and a linear layer, five learning rates."""

    def make() -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(train[0].shape[1]), nn.Linear(train[0].shape[1], 10))

    rates = [lambda p, lr=lr: torch.optim.SGD(p, lr) for lr in (0.003, 0.01, 0.03, 0.1, 0.3)]
    return heads(train, test, seed, make, rates, PROBE_EPOCHS)


def tuned_adamw(train: Labelled, test: Labelled, seed: int) -> float:
    """AdamW, six learning rates by two weight decays, three times the epochs."""
    unit = 1.0 / float(train[0].square().mean().sqrt())
    choices = [
        lambda p, lr=lr, decay=decay: torch.optim.AdamW(p, lr * unit, weight_decay=decay)
        for lr in (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
        for decay in (0.0, 1e-2)
    ]
    width = train[0].shape[1]
    return heads(train, test, seed, lambda: nn.Linear(width, 10), choices, 3 * PROBE_EPOCHS)


# ---- attackers who run the network ----


def reestimated(model: nn.Module, x: Tensor) -> nn.Module:
    """A copy whose BatchNorm statistics are those of these images, without labels."""
    model = deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
            module.train()
    with torch.no_grad():
        for batch in x.split(BATCH):
            model(batch)
    return model.eval()


def fine_tuned(
    model: nn.Module, split: str, train: Labelled, test: Labelled, seed: int
) -> tuple[float, float]:
    """AdamW at 1e-3 on the whole network with a new head: accuracy after one epoch and the last."""
    torch.manual_seed(seed)
    model = deepcopy(model).train().requires_grad_()
    width = model.get_submodule(split).in_features
    model.set_submodule(split, nn.Linear(width, 10))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    (x, y), found = train, []
    for _ in range(TUNE_EPOCHS):
        model.train()
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]).logits, y[batch]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            hits = [model(b).logits.argmax(1) == c for b, c in zip(test[0].split(BATCH),
                    test[1].split(BATCH), strict=True)]  # fmt: skip
        found.append(float(torch.cat(hits).double().mean()))
    return found[0], found[-1]


FROZEN: dict[str, Callable[[Labelled, Labelled, int], float]] = {
    "the threat model: SGD, best of five step lengths": probe("sgd"),
    "`StandardScaler`, then SGD": standardized,
    "a BatchNorm head, SGD": batch_norm_head,
    "AdamW, learning rate and weight decay tuned": tuned_adamw,
    "whitening, then SGD": probe("whitening"),
}


def table(args: argparse.Namespace) -> Iterator[str]:
    """The rows, as they are measured."""
    started, seed = time.perf_counter(), args.seed
    tasks = [
        load_task(name, Path(os.environ["IMMUCOND_DATA"])).subset(args.train, args.test, seed)
        for name in ("cifar10", "mnist")
    ]
    backbone = load_network(
        "resnet18-cifar10", tasks[0], trainable=(TRAINED,), image_size=64, mean=MEAN, std=STD
    )
    P, H = ({n: images(backbone, getattr(t, n)) for n in ("train", "test")} for t in tasks)
    kept = {
        name: icd.keep_activations(
            backbone.model, loader(data["train"]), split=backbone.split, trainable=TRAINED
        )
        for name, data in (("primary", P), ("harmful", H))
    }
    options: dict[str, Any] = {"split": backbone.split, **kept}
    closed = icd.immunize(backbone.model, method="closed_form", **options)
    trained = icd.immunize(
        backbone.model, trainable=TRAINED, terms=(1.0, 10.0), epochs=args.epochs, lr=3e-3,
        momentum=0.9, seed=seed, **options,
    )  # fmt: skip
    networks = {
        "unprotected": (backbone.model, backbone.split, TRAINED),
        "closed form": (closed.model, closed.split, backbone.split),
        "Algorithm 1": (trained.model, trained.split, TRAINED),
    }
    yield "| harmful test accuracy of | " + " | ".join(networks) + " |"
    yield "|---|" + "--:|" * len(networks)

    def row(name: str, values: Sequence[str]) -> str:
        print(f"{time.perf_counter() - started:5.0f} s  {name}: {', '.join(values)}", flush=True)
        return f"| {name} | " + " | ".join(values) + " |"

    def of(model: nn.Module, module: str) -> tuple[Labelled, Labelled]:
        train, test = ((features(model, module, x), y) for x, y in (H["train"], H["test"]))
        return train, test

    served = {name: of(model, split) for name, (model, split, _) in networks.items()}
    for name, attack in FROZEN.items():
        yield row(name, [f"{attack(*pair, seed):.1%}" for pair in served.values()])
    few = H["train"][0][:1000]
    sgd = FROZEN["the threat model: SGD, best of five step lengths"]
    values = [
        f"{sgd(*of(reestimated(model, few), split), seed):.1%}"
        for model, split, _ in networks.values()
    ]
    yield row("BatchNorm re-estimated on 1,000 unlabelled harmful images, SGD", values)
    values = ["–"] + [
        f"{sgd(*of(model, before), seed):.1%}" for model, _, before in [*networks.values()][1:]
    ]
    yield row("features read before the map, or before the trained block; SGD", values)
    part = tuple(x[: args.tune] for x in H["train"])
    values = [
        "{:.1%}, {:.1%}".format(*fine_tuned(model, split, part, H["test"], seed))
        for model, split, _ in networks.values()
    ]
    yield row(
        f"full fine-tuning, AdamW, {args.tune} images; after 1 and {TUNE_EPOCHS} epochs", values
    )
    right = []
    for model, _, _ in networks.values():
        with torch.no_grad():
            hits = [model(x).logits.argmax(1) for x in P["test"][0].split(BATCH)]
        right.append(f"{(torch.cat(hits) == P['test'][1]).double().mean():.1%}")
    yield row("(primary test accuracy)", right)
    commit = subprocess.run(
        ["git", "-C", str(PAGE.parent), "rev-parse", "--short=12", "HEAD"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    yield ""
    yield (
        f"`python scripts/limits_table.py --train {args.train} --test {args.test} --epochs "
        f"{args.epochs} --tune {args.tune} --seed {seed}` at commit {commit}, "
        f"{time.perf_counter() - started:.0f} s on one thread of a shared machine, "
        f"{time.process_time():.0f} s of computing; torch "
        f"{torch.__version__}. ResNet-18, CIFAR-10 against MNIST. Whoever tunes has the best test "
        "accuracy of its grid, what tuning gets at most."
    )


def main() -> None:
    """Measure, and write what is between the marks of the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="by default what IMMUCOND_DATA names")
    parser.add_argument("--models-dir", type=Path, help="by default what IMMUCOND_MODELS names")
    parser.add_argument("--train", type=int, default=1024, help="images of each task")
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=8, help="of Algorithm 1")
    parser.add_argument("--tune", type=int, default=320, help="images of full fine-tuning")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for variable, folder in (("DATA", args.data_dir), ("MODELS", args.models_dir)):
        if folder is not None:
            os.environ[f"IMMUCOND_{variable}"] = str(folder)
    torch.set_num_threads(1)
    lines = list(table(args))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page = before + "\n".join([BEGIN, "", *lines, "", END]) + after
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
