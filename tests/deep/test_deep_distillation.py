"""Fade distilled into the last blocks: what they serve, what the head says, and what loads it."""

import numpy as np
import pytest
from torch_cases import torch
from torch_nets import loaders, net

import immucond as ic
import immucond.deep as icd
from immucond.deep._network import SplitModel

import transformers  # isort: skip  # after torch, which may be absent

nn = torch.nn
pytestmark = [
    pytest.mark.filterwarnings("ignore:the harmful task got easier"),
    pytest.mark.filterwarnings("ignore:the (primary|harmful) features have rank"),
]

BLOCKS = ["2", "3"]


def loader(x, y):
    data = torch.utils.data.TensorDataset(x, y)
    return torch.utils.data.DataLoader(data, batch_size=100, shuffle=True)


@pytest.fixture(scope="module")
def trained():
    """A network that knows its primary task, with rows of both tasks: defender's and others."""
    torch.manual_seed(0)
    body = (nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 32), nn.LayerNorm(32))
    model = nn.Sequential(*body, nn.Linear(32, 5)).eval()
    x = {name: torch.randn(3000, 20) + shift for name, shift in (("P", 0.0), ("H", 0.3))}
    y = {name: (x[name] @ torch.randn(20, c)).argmax(1) for name, c in (("P", 5), ("H", 4))}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x["P"]), y["P"]).backward()
        optimizer.step()
    own, others = slice(2000), slice(2000, None)
    return model, {
        "primary": loader(x["P"][own], y["P"][own]),
        "harmful": loader(x["H"][own], y["H"][own]),
        "held_out": tuple(loader(x[name][others], y[name][others]) for name in "PH"),
    }


@pytest.fixture(scope="module")
def distilled(trained):
    model, given = trained
    return icd.immunize(model, split="4", method="fade", trainable=BLOCKS, epochs=6, **given)


def seen(model, x, split="4"):
    with torch.no_grad():
        return SplitModel(model.eval(), split)(x)[0].double().numpy()


def centred(Z):
    return Z - Z.mean(axis=0)


def test_nothing_is_inserted_and_what_was_not_named_stays(trained, distilled):
    model, _ = trained
    before, after = model.state_dict(), distilled.model.state_dict()
    assert distilled.split == "4"
    assert list(map(type, distilled.model)) == list(map(type, model))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"{n}.{what}" for n in (*BLOCKS, "4") for what in ("weight", "bias")}
    fade = distilled.fade
    assert (fade.place, fade.form, fade.inserted) == ("2, 3", "distilled", False)


def test_the_blocks_serve_what_the_map_makes_of_the_features(trained, distilled):
    model, given = trained
    (x_P, _), (x_H, _) = (part.dataset.tensors for part in given["held_out"])
    y_H = given["harmful"].dataset.tensors[1].numpy()
    A = ic.linear.fade(
        *(seen(model, given[task].dataset.tensors[0]) for task in ("primary", "harmful")),
        y_H,
        computed_in="float32",
    )
    assert np.allclose(distilled.fade.map.theta, A.theta, atol=1e-6)
    for x, most in ((x_P, 0.7), (x_H, 0.5)):
        Z = seen(model, x)
        wanted, served = centred(Z @ A.theta), centred(seen(distilled.model, x))
        missing = np.sum((served - wanted) ** 2) / np.sum((wanted - centred(Z)) ** 2)
        assert missing < most  # 1 for a network that did not move


def test_what_is_reached_stands_beside_the_exact_map(trained, distilled):
    model, given = trained
    x, y = given["held_out"][1].dataset.tensors
    report, fade = distilled.report, distilled.fade
    exact, reached = (
        ic.linear.alignment(Z, y.numpy(), computed_in="float32").rho
        for Z in (seen(model, x) @ fade.map.theta, seen(distilled.model, x))
    )
    assert fade.exact_rho == pytest.approx(exact, rel=1e-4)
    assert report.rho == pytest.approx(reached, rel=1e-4)
    assert fade.exact_rho < report.rho < 0.7 * report.reference_rho
    assert f"(exact map {exact:.3g})" in repr(fade)
    with torch.no_grad():
        x_P, _ = given["held_out"][0].dataset.tensors
        changed = int((model(x_P).argmax(1) != distilled.model(x_P).argmax(1)).sum())
        x_P, _ = given["primary"].dataset.tensors
        before, after = model(x_P), distilled.model(x_P)
    assert report.changed == changed < 150
    assert report.accuracy[1] > report.accuracy[0] - 0.05
    largest = float((after - before).abs().max() / before.abs().max())
    assert fade.logits_changed == pytest.approx(largest, rel=1e-4)


def test_history_starts_at_a_network_that_has_not_moved(distilled):
    history = distilled.history
    assert abs(history["loss"][0]) < 1e-6  # Kullback-Leibler divergence from itself
    assert history["well"][0] == pytest.approx(1.0, rel=1e-5)
    assert history["well"][-1] < 0.7
    assert history["ill"][-1] < history["ill"][0] - 0.3
    assert set(history["lambda_P"]) == set(history["lambda_H"]) == {1.0}


def test_weights_and_optimizer_can_be_given(trained):
    model, given = trained
    options = {"split": "4", "method": "fade", "trainable": BLOCKS, **given}
    alone = icd.immunize(model, lambdas=(0, 1), **options)
    assert set(alone.history["lambda_P"]) == {0.0}
    own = icd.immunize(model, optimizer=lambda p: torch.optim.SGD(p, lr=1e-2), **options)
    assert own.history["ill"][-5:].mean() < own.history["ill"][0]
    still = icd.immunize(model, lr=0.0, **options)
    assert still.fade.logits_changed == 0.0
    assert still.report.changed == 0


def test_targets_are_imitated_by_their_squares():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(400, 6)
    given = {"primary": loader(x, x[:, :1]), "harmful": loader(x, (x[:, 1] > 0).long())}
    done = icd.immunize(model, split="4", method="fade", trainable="2", **given)
    assert done.report.changed is None
    with torch.no_grad():
        before, after = model(x), done.model(x)
    first = done.history["loss"][0]
    assert first == 0.0
    share = float((after - before).square().mean() / before.var())
    assert 0.0 < share < 0.5


def test_kept_activations_give_the_same(trained):
    def run(primary, harmful):
        return icd.immunize(
            net(), split="head", primary=primary, harmful=harmful, method="fade",
            trainable="block2", epochs=2,
        )  # fmt: skip

    plain = run(**loaders())
    kept = run(
        **{
            name: icd.keep_activations(net(), given, split="head", trainable="block2")
            for name, given in loaders().items()
        }
    )
    for name, value in plain.model.state_dict().items():
        assert torch.allclose(value, kept.model.state_dict()[name], atol=1e-5)


def test_transformers_loads_a_distilled_network(tmp_path):
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=8, patch_size=4, num_labels=3,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    x = torch.randn(300, 3, 8, 8)
    batches = [{"pixel_values": x, "labels": torch.arange(300) % 3}]
    done = icd.immunize(
        model,
        split="classifier",
        primary=batches,
        harmful=batches,
        method="fade",
        trainable=[name for name, m in model.named_modules() if type(m).__name__ == "ViTLayer"][-1],
        epochs=2,
    )
    done.model.save_pretrained(tmp_path)
    again = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(x).logits, done.model(x).logits)
        assert not torch.allclose(again.vit(x)[0], model.vit(x)[0])
