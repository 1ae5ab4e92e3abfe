"""Checkpointed blocks, which run again in the backward pass, against the same ones that do not."""

import logging
from functools import partial

import pytest
from torch.utils.checkpoint import checkpoint
from torch_cases import torch
from torch_nets import data, loaders

import immucond.deep as icd

nn = torch.nn

# PyTorch's own, of blocks that need no gradient, as those of the frozen part.
pytestmark = [
    pytest.mark.usefixtures("short_probes"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),
    pytest.mark.filterwarnings("ignore:the harmful task got easier"),
    pytest.mark.filterwarnings("ignore:the (primary|harmful) features have rank"),
]

RECOMPUTED = pytest.mark.parametrize("reentrant", [False, True], ids=["saved", "reentrant"])


def block(width, out):
    return nn.Sequential(nn.Linear(width, out), nn.BatchNorm1d(out), nn.Tanh(), nn.Dropout(0.3))


class Net(nn.Module):
    """Blocks that a forward pass may checkpoint: not at all, or in one of PyTorch's two ways."""

    def __init__(self, reentrant=None):
        super().__init__()
        self.reentrant = reentrant
        self.stem = nn.Linear(36, 12)
        self.block1, self.block2 = block(12, 12), block(12, 8)
        self.head = nn.Linear(8, 3)

    def run(self, part, x):
        return (
            part(x) if self.reentrant is None else checkpoint(part, x, use_reentrant=self.reentrant)
        )

    def forward(self, x):
        x = self.stem(x.flatten(1))
        return self.head(self.run(self.block2, self.run(self.block1, x)))


class Bound(Net):
    """Methods and partial functions kept as attributes, as libraries that wrap modules do."""

    def __init__(self, reentrant=None):
        super().__init__(reentrant)
        self.way = self.whole
        self.parts = {"first": [partial(self.block1), partial(Bound.second, self)]}

    def second(self, x):
        return self.block2(x)

    def whole(self, x):
        for part in self.parts["first"]:
            x = self.run(part, x)
        return x

    def forward(self, x):
        return self.head(self.way(self.stem(x.flatten(1))))


class Tail(Net):
    """The head is within what is checkpointed."""

    def forward(self, x):
        x = self.block1(self.stem(x.flatten(1)))
        return self.run(lambda z: self.head(self.block2(z)), x)


class First(Net):
    """What is checkpointed takes the network's own input."""

    def forward(self, x):
        x = self.run(lambda z: self.block1(self.stem(z)), x.flatten(1))
        return self.head(self.block2(x))


def build(kind=Net, reentrant=None):
    torch.manual_seed(0)
    return kind(reentrant)


# ---- in somebody else's loop, in training mode ----


class Trainer:
    def __init__(self, model):
        self.model = model

    def compute_loss(self, model, inputs, return_outputs=False):
        x, y = inputs
        outputs = {"logits": model(x)}
        loss = nn.functional.cross_entropy(outputs["logits"], y)
        return (loss, outputs) if return_outputs else loss


class ImmunizingTrainer(icd.TrainerMixin, Trainer):
    pass


def step(model, lambdas):
    """Gradients and buffers after the backward pass of one step, and the modes."""
    (x, y), (x_H, _) = data(40, 1)[:], data(40, 2)[:]
    trainer = ImmunizingTrainer(model.train())
    if lambdas is not None:
        trainer.immunize_against([3 * x_H + 1], split="head", lambdas=lambdas)
    torch.manual_seed(1)
    trainer.compute_loss(model, (x, y)).backward()
    assert all(module.training for module in model.modules())
    gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
    return gradients, {name: b.clone() for name, b in model.named_buffers()}


@RECOMPUTED
@pytest.mark.parametrize("kind", [Net, Bound])
def test_gradients_of_harmful_terms_are_those_without_checkpoints(kind, reentrant):
    lambdas = (0.0, 100.0)
    wanted, _ = step(build(kind), lambdas)
    plain, _ = step(build(kind), None)
    assert (wanted - plain).norm() > plain.norm()  # the term is no small part of it
    found, _ = step(build(kind, reentrant), lambdas)
    assert (found - wanted).norm() < 1e-5 * wanted.norm()


@RECOMPUTED
def test_no_statistics_are_taken_of_what_is_harmful(reentrant):
    _, wanted = step(build(Net, reentrant), None)
    _, found = step(build(Net, reentrant), (0.0, 100.0))
    for name, buffer in wanted.items():
        assert torch.equal(buffer, found[name]), name


def test_hooks_of_the_user_see_harmful_batches_too():
    model, seen = build(), []
    model.block2.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    step(model, (0.0, 1.0))
    assert seen == [40, 40]


# ---- immunize ----


def immunized(model, trainable):
    """Whole tasks as batches: in what order the samples come makes no difference."""
    options = {"split": "head", "epochs": 4, "lr": 0.05, "momentum": 0.0}
    return icd.immunize(model, **loaders(size=64), trainable=trainable, **options).model


@RECOMPUTED
@pytest.mark.parametrize("kind", [Net, Bound, First, Tail])
@pytest.mark.parametrize("trainable", [None, "block2", ["block1", "block2"]], ids=str)
def test_steps_are_those_without_checkpoints(kind, trainable, reentrant):
    if reentrant and kind is Tail:
        with pytest.raises(ValueError, match="no gradient reaches the features"):
            immunized(build(kind, reentrant), trainable)
        return
    wanted, found = (immunized(build(kind, r), trainable).state_dict() for r in (None, reentrant))
    before = build(kind).state_dict()
    moved = 0
    for name, x in found.items():
        change = (wanted[name] - before[name]).abs().max()
        moved += bool(change > 0)
        assert torch.allclose(x, wanted[name], rtol=0, atol=1e-4 * float(change)), name
    assert moved >= 4


@RECOMPUTED
def test_activations_that_are_gone_by_the_backward_pass_are_not_kept(reentrant, caplog):
    model = build(Net, reentrant)
    with pytest.raises(ValueError, match=r"activations cannot be kept: .*backward"):
        icd.keep_activations(model, loaders()["primary"], split="head", trainable="block2")
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    with caplog.at_level(logging.WARNING, logger="immucond"):
        immunized(model, "block2")
    assert "primary runs through the whole model in every epoch" in caplog.text
