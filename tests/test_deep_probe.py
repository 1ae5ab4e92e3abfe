"""Linear probes by mini-batches, and the head that is fitted where there is none."""

import numpy as np
import pytest
from deep_cases import torch

from immucond.experiments.deep._head import WEIGHT_DECAY, fit_head
from immucond.torch import linear_probes
from immucond.torch._probes import ATTACKERS, drop

CLASSES = 3


def clusters(seed, count=300, width=8):
    """Features of overlapping classes."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(CLASSES, width))
    labels = rng.integers(0, CLASSES, size=count)
    Z = centres[labels] + 0.7 * rng.normal(size=(count, width))
    return torch.tensor(Z, dtype=torch.float32), torch.tensor(labels)


def parts(change=lambda Z: Z):
    found = []
    for seed in (1, 2):
        Z, labels = clusters(seed)
        found.append((change(Z), labels))
    return found


def test_curves_start_at_chance_and_learn():
    found = linear_probes(*parts(), epochs=8)
    assert set(found) == set(ATTACKERS)
    for curve in found.values():
        assert curve["accuracy"].shape == curve["loss"].shape == (9,)
        assert curve["loss"][0] == pytest.approx(np.log(CLASSES))
        assert curve["loss"][-1] < 0.6 * curve["loss"][0]
        assert curve["accuracy"][-1] > 0.8


def test_the_scale_of_the_features_changes_nothing():
    plain, scaled = (linear_probes(*parts(lambda Z, c=c: c * Z), epochs=4) for c in (1.0, 64.0))
    for name in ATTACKERS:
        np.testing.assert_allclose(scaled[name]["loss"], plain[name]["loss"], rtol=1e-3)


def test_conditioning_slows_descent_and_not_who_whitens():
    stretch = torch.logspace(0, -3, 8)
    plain, ill = (linear_probes(*parts(lambda Z, s=s: Z * s), epochs=6) for s in (1.0, stretch))
    np.testing.assert_allclose(ill["whitening"]["loss"], plain["whitening"]["loss"], rtol=0.02)
    for name in ("sgd", "momentum"):
        assert ill[name]["loss"][-1] > 1.3 * plain[name]["loss"][-1]
        assert drop(plain[name], ill[name]) > 0.0
    assert drop(plain["sgd"], plain["sgd"]) == 0.0


def test_a_head_is_the_minimizer_of_the_regularized_loss():
    Z, labels = clusters(3)
    Z = 5.0 + 20.0 * Z
    head = torch.nn.Linear(Z.shape[1], CLASSES)
    fit_head(head, Z, labels)
    mean = Z.double().mean(0)
    scale = (Z.double() - mean).square().mean().sqrt()
    W = (head.weight.detach().double() * scale).requires_grad_()
    b = (head.bias.detach().double() + head.weight.detach().double() @ mean).requires_grad_()
    X = (Z.double() - mean) / scale
    loss = torch.nn.functional.cross_entropy(X @ W.T + b, labels)
    loss = loss + 0.5 * WEIGHT_DECAY * W.square().sum()
    for gradient in torch.autograd.grad(loss, (W, b)):
        assert float(gradient.abs().max()) < 1e-4


def test_attackers_and_numbers_are_checked():
    train, test = parts()
    assert set(linear_probes(train, test, attackers=["adam"], epochs=np.int64(1))) == {"adam"}
    with pytest.raises(ValueError, match=r"attackers must be one of 'sgd'.*and is 'newton'"):
        linear_probes(train, test, attackers=["newton"])
    with pytest.raises(ValueError, match="classes must be at least 3, and is 2"):
        linear_probes(train, test, classes=2)
