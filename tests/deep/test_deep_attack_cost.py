"""Attack cost of networks: against the Jacobian itself, and against real descent."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

import immucond as ic
import immucond.deep as icd


def net(width=8, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3)).to(dtype)


def rows(count=12, dtype=torch.float64):
    x = torch.randn(count, 5, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def with_head(model, classes, seed):
    """The network as the attacker starts it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(model[2].in_features, classes).to(model[2].weight)
    return nn.Sequential(model[0], model[1], head)


def explicit(model, x, y):
    """Jacobian of all outputs, and outputs less one-hot labels."""
    trained = dict(model.named_parameters())
    found = jacrev(lambda p: functional_call(model, p, x).ravel())(trained)
    J = torch.cat([part.reshape(len(x) * 3, -1) for part in found.values()], dim=1)
    residual = model(x) - nn.functional.one_hot(y, 3)
    return J.detach().numpy(), residual.detach().numpy().ravel()


@pytest.mark.parametrize("products", [5, 36])
@pytest.mark.parametrize("batches", [1, 3])
def test_it_is_the_cost_of_probing_the_jacobian(products, batches):
    model, (x, y) = net(), rows()
    split = [(a, b) for a, b in zip(x.chunk(batches), y.chunk(batches), strict=True)]
    before = {name: p.clone() for name, p in model.state_dict().items()}
    cost = icd.attack_cost(model, split, split="2", products=products, seed=4)
    J, residual = explicit(with_head(model, 3, 4), x, y)
    exact = ic.probing.attack_cost(J, residual, products=products, step=cost.step)
    steps = np.array([0, 1, 3, 50, 1000])
    for side in range(3):
        np.testing.assert_allclose(cost.loss(steps)[side], exact.loss(steps)[side], rtol=1e-5)
    assert cost.krylov_loss(3) == pytest.approx(exact.krylov_loss(3), rel=1e-6)
    assert 1 - 1e-9 <= cost.lambda_max / exact.lambda_max <= 1.1
    assert not cost.certified
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


def test_the_head_alone_is_a_probe_of_the_features():
    model, (x, y) = net(), rows(40)
    cost = icd.attack_cost(model, [(x, y)], split="2", params="head", products=30, seed=1)
    started = with_head(model, 3, 1)
    features = np.c_[started[:2](x).detach().numpy(), np.ones(40)]
    residual = (started(x) - nn.functional.one_hot(y, 3)).detach().numpy()
    exact = ic.probing.attack_cost(features, residual, step=cost.step)
    steps = np.array([1, 10, 100])
    np.testing.assert_allclose(cost.loss(steps).lower, exact.loss(steps).lower, rtol=1e-4)
    assert cost.error < 1e-3  # it is linear


def test_what_comes_before_the_head_runs_once_where_the_head_alone_is_trained():
    model, (x, y) = net(), rows(40)
    runs = []
    model[0].register_forward_hook(lambda *_: runs.append(1))
    parts = [*zip(x.chunk(4), y.chunk(4), strict=True)]
    icd.attack_cost(model, parts, split="2", params="head", products=20)
    assert len(runs) == len(parts)


def test_a_head_whose_output_is_changed_after_it_runs_in_its_network():
    class Tempered(nn.Sequential):
        def forward(self, x):
            return 0.5 * super().forward(x)

    model, (x, y) = Tempered(*net()), rows(40)
    cost = icd.attack_cost(model, [(x, y)], split="2", params="head", products=30, seed=1)
    started = with_head(model, 3, 1)
    features = 0.5 * np.c_[started[:2](x).detach().numpy(), np.ones(40)]
    residual = (0.5 * started(x) - nn.functional.one_hot(y, 3)).detach().numpy()
    exact = ic.probing.attack_cost(features, residual, step=cost.step)
    np.testing.assert_allclose(cost.loss([1, 100]).lower, exact.loss([1, 100]).lower, rtol=1e-4)


@pytest.mark.parametrize("params", ["full", "head"])
def test_every_batch_is_told(params):
    model, (x, y) = net(), rows()
    parts, told = [*zip(x.chunk(3), y.chunk(3), strict=True)], []
    icd.attack_cost(
        model, parts, split="2", params=params, products=5, steps=4,
        callback=lambda *seen: told.append(seen),
    )  # fmt: skip
    batches = 3 * (2 * 5 + 5)
    assert told == [(at, {"batches": batches}) for at in range(1, batches + 1)]


def test_measured_is_gradient_descent():
    model, (x, y) = net(), rows()
    cost = icd.attack_cost(model, [(x, y)], split="2", products=5, steps=4, seed=2)
    again = with_head(model, 3, 2)
    optimizer = torch.optim.SGD(again.parameters(), lr=cost.step)
    for loss in cost.measured:
        optimizer.zero_grad()
        square = (again(x) - nn.functional.one_hot(y, 3)).square().sum()
        assert loss == pytest.approx(square.item(), rel=1e-9)
        (square / 2).backward()
        optimizer.step()


def test_it_tells_a_lazy_network_from_one_that_is_not():
    x, y = rows(32)
    wide = icd.attack_cost(net(4096), [(x, y)], split="2")
    assert wide.lazy
    assert wide.error < 0.01
    assert "not lazy" not in repr(wide)
    far = 100.0 * torch.randn(32, 1, dtype=torch.float64)
    narrow = icd.attack_cost(net(3), [(x, far)], split="2", steps=200)
    assert not narrow.lazy
    assert "not lazy" in repr(narrow)


def test_adapters_are_those_of_peft():
    pytest.importorskip("peft")
    model, (x, y) = net(), rows()
    cost = icd.attack_cost(model, [(x, y)], split="2", params="lora", rank=2, products=12)
    head = icd.attack_cost(model, [(x, y)], split="2", params="head", products=12)
    # At the start adapters are zero, and add to the kernel.
    assert cost.loss(0).lower == pytest.approx(head.loss(0).lower)
    assert cost.lambda_max > head.lambda_max
    assert cost.error < 0.2


@pytest.mark.parametrize("kind", ["bert", "llama", "tokens"])
def test_attention_and_tokens(kind):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 16, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "llama":
        config = transformers.LlamaConfig(**sizes, num_key_value_heads=1, num_labels=2)
        model, split = transformers.LlamaForSequenceClassification(config), "score"
    else:
        config = transformers.BertConfig(**sizes, num_labels=2)
        name = "Token" if kind == "tokens" else "Sequence"
        model = getattr(transformers, f"BertFor{name}Classification")(config)
        split = "classifier"
    ids = torch.randint(1, 20, (6, 5))
    mask = torch.ones_like(ids)
    mask[::2, 3:] = 0
    labels = torch.randint(0, 3, (6, 5)) if kind == "tokens" else torch.randint(0, 3, (6,))
    if kind == "tokens":
        labels[mask == 0] = -100
    inputs = {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}
    parts = [{name: x[at : at + 2] for name, x in inputs.items()} for at in (0, 2, 4)]
    cost = icd.attack_cost(model.double(), parts, split=split, products=15, steps=8)
    counted = int(mask.sum()) if kind == "tokens" else 6
    assert cost.measure.norms.shape == (1,)
    assert cost.start == pytest.approx(cost.measured[0])
    assert cost.measured[-1] < cost.measured[0]
    assert cost.error < 0.2
    assert cost.products == min(15, counted * 3)


def test_half_precision_and_targets():
    x, y = rows(dtype=torch.float32)
    cost = icd.attack_cost(net(dtype=torch.bfloat16).float(), [(x, y)], split="2", products=8)
    half = icd.attack_cost(net(dtype=torch.bfloat16), [(x, y)], split="2", products=8)
    np.testing.assert_allclose(half.loss([0, 5, 50]).lower, cost.loss([0, 5, 50]).lower, rtol=1e-4)
    for targets in (torch.randn(12), torch.randn(12, 2)):
        found = icd.attack_cost(net(dtype=torch.float32), [(x, targets)], split="2", products=5)
        assert found.start > 0


def test_bad_input_is_told():
    model, (x, y) = net(), rows()
    for keywords, data, error, match in (
        ({"split": "1"}, [(x, y)], TypeError, "split must name a linear layer"),
        ({"params": "all"}, [(x, y)], ValueError, "params must be one of"),
        ({"products": 0}, [(x, y)], ValueError, "products"),
        ({"steps": 0}, [(x, y)], ValueError, "steps"),
        ({"step": 1e9}, [(x, y)], ValueError, "step must be below 2 / lambda_max"),
        ({}, [], ValueError, "harmful has no batches"),
        ({}, [x], TypeError, "must have labels"),
        ({}, [(x, torch.zeros_like(y))], ValueError, "at least two classes"),
        ({}, [(x * torch.nan, y)], ValueError, "not finite"),
        ({}, None, TypeError, "harmful must be a loader.*is None"),
        ({}, (x, y), TypeError, r"harmful must be a loader.*pair \(X, y\)"),
        ({}, x, TypeError, "harmful must be a loader.*is a Tensor"),
        ({}, [(x, y[:-1])], ValueError, r"batch 1 .* outputs, \(12, 3\), .* shape \(11, 3\)"),
        ({}, [(x, x[:, :2]), (x, x[:, :3])], ValueError, r"batch 2 .* \(12, 2\), .* \(12, 3\)"),
        ({}, [(x, x[:, :2]), (x, x[:, :2].T)], ValueError, r"batch 2 .* shape \(2, 12\)"),
        ({}, [(x, y), (x, y.double())], TypeError, "classes or targets, and are both"),
        ({}, [(x, y.to(torch.complex64))], TypeError, r"numbers \(torch.complex64\)"),
    ):
        with pytest.raises(error, match=match):
            icd.attack_cost(model, data, **({"split": "2"} | keywords))


def test_an_empty_batch_changes_nothing():
    x, y = rows()
    costs = [
        icd.attack_cost(net(), [(x, y), *more], split="2", products=4, steps=2).measured
        for more in ([], [(x[:0], y[:0])])
    ]
    np.testing.assert_array_equal(*costs)


def test_networks_without_a_forward_derivative_are_told():
    x, y = rows()
    compiled = net()
    compiled.compile(backend="eager")
    for model, match in (
        (nn.Sequential(nn.utils.parametrizations.weight_norm(net()[0]), *net()[1:]), "weight_norm"),
        (compiled, "compiled"),
    ):
        with pytest.raises(TypeError, match=match):
            icd.attack_cost(model, [(x, y)], split="2", products=4)
