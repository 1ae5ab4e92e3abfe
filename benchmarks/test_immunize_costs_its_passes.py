"""An epoch of deep immunization costs little more than its forward and backward passes.

The first peer is the same loop with squares of the features for regularizers, so that both batches
go through the network and back all the same. The second is what fine-tuning on the primary task
alone takes, in a plain loop: one batch instead of two, and the frozen part in every epoch.
"""

import copy
from functools import cache

import pytest
import torch
from torch import nn

import immucond.deep as icd
import immucond.torch as ict

SAME_LOOP = "floor: the same loop, squares for regularizers"
PLAIN = "floor: plain PyTorch, primary task alone"
BATCH = 64
LAMBDAS = (1e-5, 1e-1)
LR = 1e-4


class Squares(icd.Objective):
    """Terms that cost next to nothing."""

    def terms(self, primary, harmful):
        return primary.features.square().sum(), harmful.features.square().sum()


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)


class Residual(nn.Module):
    """The last block of ResNet-18, without its normalizations."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Conv2d(512, 512, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return torch.relu(x + self.second(torch.relu(self.first(x))))


def encoder(layers):
    blocks = [
        nn.TransformerEncoderLayer(384, 12, 1536, dropout=0.0, batch_first=True)
        for _ in range(layers)
    ]
    return nn.Sequential(*blocks)


# Frozen part, trainable block, pooling; shape of a sample, samples.
NETWORKS = {
    "a transformer block, 16 tokens, 384 features": (
        lambda: (encoder(5), encoder(1), Mean(), nn.Linear(384, 10)),
        (16, 384),
        2 * BATCH,
    ),
    "a residual block, 2 x 2 pixels, 512 features": (
        lambda: (
            nn.Sequential(nn.Conv2d(16, 512, 3, padding=1), nn.ReLU(), Residual()),
            Residual(),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(512, 10),
        ),
        (16, 2, 2),
        4 * BATCH,
    ),
    "one linear layer, 512 x 512": (
        lambda: (
            nn.Sequential(nn.Linear(64, 512), nn.Tanh()),
            nn.Linear(512, 512),
            nn.Tanh(),
            nn.Linear(512, 10),
        ),
        (64,),
        32 * BATCH,
    ),
}


@cache
def problem(name, samples, batch):
    """The network, both data sets, and their activations, kept."""
    parts, shape, _ = NETWORKS[name]
    torch.manual_seed(0)
    model = nn.Sequential(*parts()).eval()
    x = torch.randn(2, samples, *shape)
    data = [torch.utils.data.TensorDataset(inputs, torch.arange(samples) % 10) for inputs in x]
    kept = [
        icd.keep_activations(
            model, torch.utils.data.DataLoader(each, batch), split="3", trainable="1"
        )
        for each in data
    ]
    return model, data, kept


def immunized(name, samples, batch, method="algorithm1", lambdas=LAMBDAS):
    model, _, (primary, harmful) = problem(name, samples, batch)
    done = icd.immunize(
        model,
        split="3",
        trainable="1",
        primary=primary,
        harmful=harmful,
        method=method,
        lambdas=lambdas,
        lr=LR,
    )
    return weights(done.model)


def plain(name, samples, batch, regularizer=None):
    """Stochastic gradient descent in the order in which `immunize` goes."""
    original, data, _ = problem(name, samples, batch)
    model = copy.deepcopy(original)
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=LR, momentum=0.9
    )
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(samples, generator=generator).split(batch) for _ in range(2)]
    for P, H in zip(*orders, strict=True):
        x, y = data[0][P]
        features = model[:3](x)
        loss = nn.functional.cross_entropy(model[3](features), y)
        if regularizer is not None:
            loss = loss + regularizer(features, model[:3](data[1][H][0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weights(model)


def weights(model):
    return tuple(p.detach() for p in model[1].parameters())


def by_autograd(name, samples, batch):
    """The same immunization in a plain loop."""
    return plain(name, samples, batch, ict.ImmunizationLoss(*LAMBDAS, p="rank"))


CONTESTANTS = {
    "immucond": (immunized, by_autograd),
    SAME_LOOP: (
        lambda *task: immunized(*task, method=Squares()),
        lambda *task: immunized(*task, method=Squares()),
    ),
    PLAIN: (plain, lambda *task: immunized(*task, lambdas=(0.0, 0.0))),
}


@pytest.mark.filterwarnings("ignore:the harmful task got easier")  # random networks and data
@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize("network", NETWORKS)
def test_immunize_costs_its_passes(contest, size, network, name):
    batch = size(BATCH)
    task = network, batch * max(1, size(NETWORKS[network][2]) // batch), batch
    function, like = CONTESTANTS[name]
    contest(
        f"an epoch of immunize, batches of {BATCH}: {network}",
        name,
        lambda: function(*task),
        like=lambda: like(*task),
        rtol=1e-4,
        goals={("immucond", SAME_LOOP): 1 / 1.3},
    )
