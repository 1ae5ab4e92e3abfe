"""Linear probes by mini-batches, and the head that is fitted where there is none."""

import numpy as np
import pytest
from deep_cases import torch

from immucond.deep import linear_probes
from immucond.deep._probes import RULES, drop
from immucond.experiments.deep._backbone import WEIGHT_DECAY, fit_head

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


Z, LABELS = clusters(3, count=40)


@pytest.mark.parametrize(
    ("train", "test", "error", "message"),
    [
        ((0 * Z, LABELS), (Z, LABELS), ValueError, "features of train must not all be zero"),
        ((Z * np.nan, LABELS), (Z, LABELS), ValueError, "features of train must be finite"),
        ((Z, LABELS), (Z / 0, LABELS), ValueError, "features of test must be finite"),
        ((Z.numpy(), LABELS), (Z, LABELS), TypeError, "train must be .* holds a ndarray"),
        ((Z, LABELS.numpy()), (Z, LABELS), TypeError, "train must be .* holds a ndarray"),
        ((Z[:0], LABELS[:0]), (Z, LABELS), ValueError, r"train must be .* \(0, 8\) and \(0,\)"),
        ((Z, LABELS - 1), (Z, LABELS), ValueError, "counted from 0, and hold -1"),
        ((Z, LABELS[:30]), (Z, LABELS), ValueError, r"has shapes \(40, 8\) and \(30,\)"),
        ((Z[:30], LABELS), (Z, LABELS), ValueError, r"has shapes \(30, 8\) and \(40,\)"),
        ((Z, LABELS), (Z[:, :3], LABELS), ValueError, "of one width, and have 8 and 3"),
        ((Z, LABELS + 0.7), (Z, LABELS), TypeError, "classes of train must be whole numbers"),
        ((Z[0], LABELS), (Z, LABELS), ValueError, "has shapes"),
        (Z, (Z, LABELS), TypeError, "train must be a pair of tensors,.* is a Tensor"),
    ],
)
def test_what_are_no_features_with_classes_is_refused(train, test, error, message):
    with pytest.raises(error, match=message):
        linear_probes(train, test)


def test_names_of_attackers_come_in_a_sequence():
    with pytest.raises(TypeError, match="attackers must be a sequence of names, and is 'sgd'"):
        linear_probes((Z, LABELS), (Z, LABELS), attackers="sgd")


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_modes_that_are_on_change_nothing(mode):
    Z, y = torch.randn(300, 5, generator=torch.Generator().manual_seed(0)), torch.arange(300) % 2
    wanted = linear_probes((Z, y), (Z, y), epochs=2)
    with mode():
        found = linear_probes((Z.clone(), y.clone()), (Z.clone(), y.clone()), epochs=2)
    for name, curves in wanted.items():
        assert np.array_equal(found[name]["loss"], curves["loss"])
        assert np.array_equal(found[name]["accuracy"], curves["accuracy"])


def test_curves_start_at_chance_and_learn():
    found = linear_probes(*parts(), epochs=8)
    assert set(found) == set(RULES)
    for curve in found.values():
        assert curve["accuracy"].shape == curve["loss"].shape == (9,)
        assert curve["loss"][0] == pytest.approx(np.log(CLASSES))
        assert curve["loss"][-1] < 0.6 * curve["loss"][0]
        assert curve["accuracy"][-1] > 0.8


def test_the_scale_of_the_features_changes_nothing():
    plain, scaled = (linear_probes(*parts(lambda Z, c=c: c * Z), epochs=4) for c in (1.0, 64.0))
    for name in RULES:
        np.testing.assert_allclose(scaled[name]["loss"], plain[name]["loss"], rtol=1e-3)


@pytest.mark.parametrize("power", [-1000, -660, 660, 1000])
def test_scales_whose_squares_leave_the_range_change_nothing(power):
    scale = 2.0**power
    plain = linear_probes(*parts(lambda Z: Z.double()), epochs=2)
    scaled = linear_probes(*parts(lambda Z: scale * Z.double()), epochs=2)
    for name in RULES:
        assert np.array_equal(scaled[name]["loss"], plain[name]["loss"])
        assert np.array_equal(scaled[name]["accuracy"], plain[name]["accuracy"])
    assert scaled["adam"]["lr"] == plain["adam"]["lr"] / scale
    assert scaled["whitening"]["lr"] == plain["whitening"]["lr"]
    assert scaled["sgd"]["lr"] == (np.inf if power < 0 else 0.0)


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
