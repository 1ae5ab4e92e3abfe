"""K-FAC against the Fisher matrix itself and under gauges; networks, adapters and tokens."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from deep_cases import transformers
from torch import nn
from torch.func import functional_call, jacrev

import immucond.deep as icd
from immucond.deep._attacked import with_new_head
from immucond.deep._search import propose
from immucond.deep.attacks._attackers import STANDARD, parse_attackers
from immucond.deep.attacks._kfac import KFAC
from immucond.deep.attacks._optimizers import optimizer_for


class Whole:
    """A network with its rows, as attackers see one."""

    def __init__(self, module, *batches):
        self.module, self.train = module, list(batches)

    def run(self, batch):
        return self.module(batch[0]), batch[1]


def closure(victim):
    def found():
        victim.module.zero_grad()
        x, y = victim.train[0]
        loss = nn.functional.cross_entropy(victim.module(x), y)
        loss.backward()
        return loss

    return found


def rows(count=40, shape=(5,), classes=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *shape, generator=generator).double()
    return x, torch.randint(0, classes, (count,), generator=generator)


def moments(module, x):
    """What enters a last linear layer and the gradients of drawn classes, by autograd alone."""
    drawn = torch.multinomial(
        module(x).detach().softmax(1), 1, generator=torch.Generator().manual_seed(0)
    )[:, 0]
    logits = module(x).detach().requires_grad_()
    [g] = torch.autograd.grad(nn.functional.cross_entropy(logits, drawn, reduction="sum"), [logits])
    return g.T @ g / len(x)


def test_a_step_solves_with_both_factors():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3).double()
    x, y = rows()
    before = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().clone()
    a = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    A, G = a.T @ a / len(x), moments(layer, x)
    layer.zero_grad()
    nn.functional.cross_entropy(layer(x), y).backward()
    slope = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], dim=1)
    damping = 1e-3
    A += damping * A.diagonal().mean() * torch.eye(6)
    G += damping * G.diagonal().mean() * torch.eye(3)
    wanted = before - 0.5 * torch.linalg.solve(G, slope) @ torch.linalg.inv(A)
    KFAC(Whole(layer, (x, y)), 0.5, damping, 0).step(closure(Whole(layer, (x, y))))
    found = torch.cat([layer.weight, layer.bias[:, None]], dim=1)
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-9, atol=1e-12)


def test_without_damping_a_step_on_one_row_is_newtons():
    """Of one row the Kronecker product is the Fisher matrix: no approximation is left."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 2, bias=False).double()
    x, y = rows(1, (4,), 2)
    probability = layer(x).detach().softmax(1)[0]
    J = jacrev(lambda w: functional_call(layer, {"weight": w}, x)[0])(layer.weight).reshape(2, 8)
    drawn = torch.multinomial(probability, 1, generator=torch.Generator().manual_seed(0))
    g = probability.clone()
    g[drawn] -= 1.0
    fisher = J.T @ torch.outer(g, g) @ J
    layer.zero_grad()
    nn.functional.cross_entropy(layer(x), y).backward()
    wanted = layer.weight - (
        torch.linalg.pinv(fisher.detach()) @ layer.weight.grad.ravel()
    ).reshape(2, 4)
    KFAC(Whole(layer, (x, y)), 1.0, 0.0, 0).step(closure(Whole(layer, (x, y))))
    torch.testing.assert_close(layer.weight.detach(), wanted.detach(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("condition", "within"), [(1e2, 1e-4), (1e4, 1e-2)])
def test_kfac_does_not_see_a_gauge(condition, within):
    """BEYOND's T2: what a step does to the function stays; that of descent does not."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = rows()
    locked = icd.gauge.lock(net, strength=condition, groups="linear", data=x, seed=3)
    torch.testing.assert_close(locked(x), net(x), rtol=1e-6, atol=1e-8)

    def moved(model, rule):
        model = copy.deepcopy(model)
        start, victim = model(x).log_softmax(1).detach(), Whole(model, (x, y))
        if rule == "kfac":
            KFAC(victim, 0.1, 1e-13, 0).step(closure(victim))
        else:
            torch.optim.SGD(model.parameters(), lr=1e-6).step(closure(victim))
        return model(x).log_softmax(1).detach() - start  # a shift of all logits says nothing

    for rule, least, most in (("kfac", 0.0, within), ("gd", 0.5, math.inf)):
        one, other = moved(net, rule), moved(locked, rule)
        assert least <= float((other - one).norm() / one.norm()) <= most


def test_a_convolution_is_a_linear_layer_on_patches():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, stride=2, padding=1).double()
    net = nn.Sequential(conv, nn.Flatten(), nn.Linear(27, 3).double())
    net[2].requires_grad_(False)
    x, y = rows(30, (2, 5, 5))
    before = conv.weight.detach().clone()
    patches = nn.functional.unfold(x, 3, padding=1, stride=2).mT.flatten(0, 1)
    a = torch.cat([patches, torch.ones(len(patches), 1)], dim=1)
    A = a.T @ a / len(x)
    drawn = torch.multinomial(
        net(x).detach().softmax(1), 1, generator=torch.Generator().manual_seed(0)
    )[:, 0]
    out = conv(x).detach().requires_grad_()
    [g] = torch.autograd.grad(
        nn.functional.cross_entropy(net[2](out.flatten(1)), drawn, reduction="sum"), [out]
    )
    g = g.movedim(1, -1).reshape(-1, 3)
    G = g.T @ g / len(g)
    net.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward()
    slope = torch.cat([conv.weight.grad.flatten(1), conv.bias.grad[:, None]], dim=1)
    for factor in (A, G):
        factor += 1e-6 * factor.diagonal().mean() * torch.eye(len(factor))
    step = torch.linalg.solve(G, slope) @ torch.linalg.inv(A)
    KFAC(Whole(net, (x, y)), 1.0, 1e-6, 0).step(closure(Whole(net, (x, y))))
    wanted = before - step[:, :-1].reshape(before.shape)
    torch.testing.assert_close(conv.weight.detach(), wanted, rtol=1e-6, atol=1e-9)


def test_a_convolution_in_groups_stays_as_it_is():
    """It has as many factors as groups, and K-FAC knows of one."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(54, 3)).double()
    before = copy.deepcopy(net)
    x, y = rows(30, (4, 5, 5))
    KFAC(Whole(net, (x, y)), 0.5, 1e-6, 0).step(closure(Whole(net, (x, y))))
    assert torch.equal(net[0].weight, before[0].weight)
    assert not torch.equal(net[2].weight, before[2].weight)


def stepped(net, x, y):
    """Return logits after a step of K-FAC."""
    KFAC(Whole(net, (x, y)), 0.5, 1e-6, 0).step(closure(Whole(net, (x, y))))
    return net(x).detach()


@pytest.mark.parametrize("places", [1, 3])
def test_convolutions_over_other_places_are_those_of_images(places):
    """An image of one row, and one of one slice."""
    torch.manual_seed(0)
    kinds, head = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}, nn.Linear(12, 3)
    of = {1: (3,), 2: (1, 3), 3: (1, 1, 3)}
    image = nn.Conv2d(2, 3, of[2], stride=(1, 2), padding=(0, 1), padding_mode="circular")
    other = kinds[places](
        2,
        3,
        of[places],
        stride=(*of[places][:-1], 2),
        padding=(*(0 for _ in of[places][1:]), 1),
        padding_mode="circular",
    )
    other.load_state_dict({name: x.reshape(getattr(other, name).shape)
                           for name, x in image.state_dict().items()})  # fmt: skip
    x, y = rows(30, (2, 8))
    found = [
        stepped(
            nn.Sequential(conv, nn.Flatten(), copy.deepcopy(head)).double(),
            x.reshape(30, 2, *(1 for _ in conv.kernel_size[1:]), 8),
            y,
        )
        for conv in (image, other)
    ]
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


def test_the_linear_layer_of_gpt2_is_a_linear_layer():
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    turned = copy.deepcopy(net)
    turned[0] = Conv1D(6, 5).double()
    with torch.no_grad():
        turned[0].weight.copy_(net[0].weight.T)
        turned[0].bias.copy_(net[0].bias)
    x, y = rows()
    torch.testing.assert_close(stepped(turned, x, y), stepped(net, x, y), rtol=1e-6, atol=1e-6)


def test_lbfgs_goes_on_where_features_are_small():
    """Neither an absolute tolerance nor the rounding of the loss ends it at its start."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(600, 8, generator=generator)
    batches = [(x, (x[:, 0] + 0.3 * x[:, 1] > 0).long()) for x in X.split(200)]
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 2))
    with torch.no_grad():
        net[0].weight.copy_(1e-4 * torch.eye(8))
    report = icd.attack(net, batches[:2], held_out=batches[2:], split="1", trials=4, steps=50,
                        attackers=["probe-lbfgs"], scratch=False, equalize=False,
                        cuts=())  # fmt: skip
    assert report.strongest.steps <= 40


# ---- networks of transformers' classes ----


def test_least_squares_of_large_class_numbers_take_no_square_of_them():
    torch.manual_seed(0)
    net, y = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.arange(20) % 2
    x, found = torch.randn(20, 3) + y[:, None], []
    for numbers in (y, 200_000 * y):
        batches = [(x, numbers)]
        found.append(
            icd.attack(
                net, batches, held_out=batches, split="1", attackers="lstsq", trials=1,
                equalize=False, scratch=False, cuts=[], target=0.1,
            )
        )  # fmt: skip
    few, many = (of.strongest.best for of in found)
    assert many.accuracy == few.accuracy > 0.7


def bert(kind=transformers.BertForSequenceClassification):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, initializer_range=0.3, num_labels=3,
    )  # fmt: skip
    return kind(config)


def texts(count=48, seed=1, tokens=False):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 40, (count, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[::2, 5:] = 0
    labels = (ids > 20).long() if tokens else (ids[:, 0] > 20).long()
    if tokens:
        labels[mask == 0] = -100
    parts = zip(ids.split(16), mask.split(16), labels.split(16), strict=True)
    return [{"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in parts]


KEEP = {
    "equalize": False,
    "split": "classifier",
    "trials": 3,
    "steps": 12,
    "scratch": False,
    "target": 0.3,
}


@pytest.mark.parametrize("name", [name for name in STANDARD if name != "lora-8"])
def test_every_attacker_runs_on_a_transformer(name):
    extra = pytest.importorskip if name == "logistic" else lambda *_, **__: None
    extra("sklearn", reason="the extra sklearn is not installed")
    report = icd.attack(bert(), texts(), held_out=texts(seed=2), attackers=[name],
                        **KEEP | {"equalize": "both", "trials": 2, "steps": 6})  # fmt: skip
    entropy = 2 * report.as_dict()["target"]
    starts = {a.start for a in report.attacks["release"]}
    assert {"plain", "equalized"} <= starts
    cuts = {s for s in starts if s.startswith("plain, ")}
    assert bool(cuts) == parse_attackers([name])[0].probes
    for attack in report.attacks["release"]:
        assert attack.best.loss < entropy + 1.0


@pytest.mark.parametrize("name", ["lora-4", "dora-4", "loha-4", "lokr-4"])
def test_adapters_train_beside_the_layers(name):
    pytest.importorskip("peft", reason="the extra lora is not installed")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    x = torch.randn(120, 4)
    batch = [(x, (x[:, 0] * x[:, 1] > 0).long())]
    keep = {"split": "4", "held_out": batch, "scratch": False, "equalize": False, "target": 0.0}
    lost = {
        who: icd.attack(net, batch, attackers=[who], steps=150, trials=3, cuts=(), **keep)
        .strongest.best.loss
        for who in (name, "probe-adam")
    }  # fmt: skip
    assert lost[name] < 0.9 * lost["probe-adam"]


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=8, n_embd=16, n_layer=1, n_head=2, initializer_range=0.3,
        num_labels=3, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.GPT2ForSequenceClassification(config).eval()


@pytest.mark.parametrize("start", [False, True])
def test_a_head_of_zeros_on_the_last_token_is_trained_as_by_hand(start):
    """It puts out the same at all tokens, and does not tell at which one the network reads it."""
    batches, others = (
        [{**b, "input_ids": b["input_ids"] * b["attention_mask"]} for b in texts(seed=seed)]
        for seed in (1, 2)
    )  # its padding is 0
    model = gpt2()
    report = icd.attack(model, batches, held_out=others, attackers=["gd"], steps=2, trials=1,
                        target=0.0, scratch=False,
                        split="score", equalize=start)  # fmt: skip
    curve = report.strongest.best.curve
    assert len(curve["loss"]) == 3
    assert curve["loss"][0] == pytest.approx(math.log(2))
    if start:
        return
    model.score = nn.Linear(16, 2)
    nn.init.zeros_(model.score.weight), nn.init.zeros_(model.score.bias)
    features = []
    hook = model.score.register_forward_pre_hook(lambda _, args: features.append(args[0].detach()))

    def told(batch):
        """The logits at the last token that is no padding."""
        out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return out.logits, batch["attention_mask"].sum(1) - 1

    with torch.no_grad():
        ends = [told(batch)[1] for batch in batches]
    at = [z[torch.arange(len(end)), end] for z, end in zip(features, ends, strict=True)]
    hook.remove()
    unit = 1.0 + float(torch.cat(at).square().sum(1).mean())
    order = torch.randperm(3, generator=torch.Generator().manual_seed(0)).tolist()
    optimizer = torch.optim.SGD(model.parameters(), report.strongest.best.settings["rate"] / unit)
    for number in order[:2]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(told(batches[number])[0], batches[number]["labels"]).backward()
        optimizer.step()
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(told(b)[0], b["labels"]) for b in others]
    assert curve["loss"][-1] == pytest.approx(float(sum(losses)) / 3, rel=1e-5)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_stand_beside_every_layer_that_peft_knows(kind):
    pytest.importorskip("peft", reason="the extra lora is not installed")
    model = gpt2()
    with_new_head(model, "score", 2, params=kind, seed=0, rank=2)
    names = {name.split(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    wanted = {f"transformer.h.0.{name}" for name in layers}
    assert names == wanted | {"score.weight", "score.bias"}


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_leave_groups_that_do_not_divide_their_rank(kind):
    pytest.importorskip("peft", reason="the extra lora is not installed")
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 6, 3, groups=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2),
    )  # fmt: skip
    with_new_head(net, "5", 2, params=kind, seed=0, rank=4)
    names = {name.split(".lora_")[0] for name, p in net.named_parameters() if p.requires_grad}
    assert names == {"0", "2", "5.weight", "5.bias"}
    net(torch.randn(2, 3, 9, 9)).sum().backward()


def test_heads_on_tokens_learn_tokens():
    model = bert(transformers.BertForTokenClassification)
    report = icd.attack(model, texts(tokens=True), held_out=texts(seed=2, tokens=True),
                        attackers=["probe-adam", "adam", "lstsq"],
                        **KEEP | {"steps": 40})  # fmt: skip
    assert {a.start for a in report.attacks["release"]} == {"plain"}
    accuracy = {a.attacker: a.best.accuracy for a in report.attacks["release"]}
    assert accuracy["adam"] > max(report.majority, accuracy["probe-adam"])
    assert report.rows == {"harmful": 48, "held_out": 48}


def test_batch_norm_is_in_training_mode_from_scratch_and_not_before_it_is_tried():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    x, y = rows(60, (6,))
    report = icd.attack(net, [(x.float(), y)], held_out=[(x.float(), y)], split="3", trials=12,
                        attackers=["adam"], steps=3, target=0.0, equalize=False)  # fmt: skip
    first = {name: attack.trials[0].settings["training"]
             for name, [attack] in report.attacks.items()}  # fmt: skip
    assert first == {"release": False, "scratch": True}
    assert {t.settings["training"] for t in report.strongest.trials} == {False, True}


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ("gd", {}),
        ("momentum", {"momentum": 0.8}),
        ("adam", {"betas": [0.8, 0.99]}),
        ("adamw", {"weight_decay": 0.5}),
        ("muon", {"momentum": 0.9, "others": 0.1}),
    ],
)
def test_a_rule_steps_by_its_settings(rule, settings):
    """The published formulas in NumPy, on softmax regression; of Muon its matrix aside."""
    torch.manual_seed(0)
    layer, (x, y), rate, unit = nn.Linear(5, 3).double(), rows(), 0.05, 2.0
    P = {name: p.detach().numpy().copy() for name, p in layer.named_parameters()}
    mine = torch.nn.Parameter(layer.weight.detach().clone())
    victim = Whole(layer, (x, y))
    optimizer = optimizer_for(rule, victim, {"rate": rate, **settings}, unit, 0)
    if rule == "muon":
        matrix = torch.optim.Muon([mine], lr=rate * unit, momentum=0.9, weight_decay=0.0)
    rate *= unit * settings.get("others", 1.0)
    one, two = settings.get("betas", (0.9, 0.999))
    m, v = ({name: np.zeros_like(p) for name, p in P.items()} for _ in range(2))
    for step in range(1, 4):
        logits = x.numpy() @ P["weight"].T + P["bias"]
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(3)[y]
        for name, g in (("weight", p.T @ x.numpy() / len(x)), ("bias", p.mean(0))):
            if rule in ("gd", "momentum"):
                m[name] = settings.get("momentum", 0.0) * m[name] + g
                P[name] -= rate * m[name]
            elif rule == "muon" and name == "weight":
                mine.grad = torch.from_numpy(g)
                matrix.step()
                P[name] = mine.detach().numpy()
            else:
                P[name] *= 1.0 - rate * settings.get("weight_decay", 0.0)
                m[name] = one * m[name] + (1.0 - one) * g
                v[name] = two * v[name] + (1.0 - two) * g**2
                root = np.sqrt(v[name] / (1.0 - two**step)) + 1e-8
                P[name] -= rate * m[name] / (1.0 - one**step) / root
        optimizer.step(closure(victim))
    for name, p in layer.named_parameters():
        np.testing.assert_allclose(p.detach().numpy(), P[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["adam", "adamw", "lora-8", "probe-adam", "probe-adamw"])
def test_networks_get_a_tenth_of_the_rate_of_heads(name):
    """Every decade from the least to the largest, the usual one first."""
    space = parse_attackers([name])[0].space({})
    tried = [propose(space.rates, {}, [({}, 0.0)] * n, 0)["rate"] for n in range(len(space.rates))]
    usual = 1e-2 if name.startswith("probe-") else 1e-3
    assert tried[0] == usual
    np.testing.assert_allclose(sorted(tried), usual * 10.0 ** np.arange(-3, 3))


@pytest.mark.parametrize("kind", ["lora", "dora", "loha", "lokr"])
def test_adapters_stand_beside_no_layer_whose_name_ends_like_anothers(kind):
    pytest.importorskip("peft", reason="the extra lora is not installed")
    inner = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net = nn.Sequential(inner, nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with_new_head(net, "3", 2, params=kind, seed=0, rank=2, frozen=("0.1",))
    names = [name for name, p in net.named_parameters() if p.requires_grad]
    trained = {re.split(r"\.(?:lora|hada|lokr)_", name)[0] for name in names}
    assert trained == {"0.0", "1", "3.weight", "3.bias"}
