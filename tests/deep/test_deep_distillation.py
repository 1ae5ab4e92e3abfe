"""Fade distilled into the last blocks: what they serve, what the head says, and what loads it."""

import numpy as np
import pytest
from torch_cases import torch
from torch_nets import loaders, net, states_equal

import immucond as ic
import immucond.deep as icd
from immucond.deep._distillation import Lesson, imitation
from immucond.deep._head import SplitModel

import transformers  # isort: skip  # after torch, which may be absent

nn = torch.nn
pytestmark = [
    pytest.mark.usefixtures("short_probes"),
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
    return icd.immunize(model, split="4", method="fade", trainable=BLOCKS, epochs=10, **given)


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


def test_history_starts_at_a_network_that_has_not_moved(trained, distilled):
    model, given = trained
    Z = seen(model, given["primary"].dataset.tensors[0])
    change = centred(Z @ distilled.fade.map.theta - Z)
    history = distilled.history
    assert abs(history["loss"][0]) < 1e-6  # Kullback-Leibler divergence from itself
    first = np.sum(change**2) / np.sum(centred(Z) ** 2)
    assert history["well"][0] == pytest.approx(first, rel=0.2)  # of a batch
    assert history["well"][-1] < 0.7 * first
    assert history["ill"][-1] < history["ill"][0] - 0.3
    assert set(history["lambda_P"]) == set(history["lambda_H"]) == {1.0}


def test_weights_and_optimizer_can_be_given(trained):
    model, given = trained
    options = {"split": "4", "method": "fade", "trainable": BLOCKS, **given}
    alone = icd.immunize(model, lambdas=(0, 1), **options)
    assert set(alone.history["lambda_P"]) == {0.0}
    own = icd.immunize(model, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), **options)
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


def test_constant_outputs_are_imitated_too():
    """Their spread is rounding, or nothing: the loss is finite, and 0 where they stay."""
    for value in (0.0, 3.0):
        said = torch.full((4, 1), value)
        lesson = Lesson(said, said, said, said)
        assert imitation(said, lesson) == 0.0
        assert imitation(said + 0.1, lesson) < 1e6


# LayerNorm leaves 11 dimensions, which half precision says of itself that it cannot prove.
OF_HALF = pytest.mark.filterwarnings("ignore:the rank of .* is 11 of 12")


def small(dtype=torch.float32):
    torch.manual_seed(0)
    body = (nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 12), nn.LayerNorm(12))
    return nn.Sequential(*body, nn.Linear(12, 3)).to(dtype)


def rows():
    torch.manual_seed(1)
    x_P, x_H = torch.randn(200, 10), torch.randn(200, 10) + 0.3
    return (x_P, (x_P @ torch.randn(10, 3)).argmax(1)), (x_H, (x_H @ torch.randn(10, 4)).argmax(1))


def distil(model, primary, harmful, **options):
    options = {"split": "4", "trainable": BLOCKS, "epochs": 4, **options}
    return icd.immunize(model, method="fade", primary=primary, harmful=harmful, **options)


@OF_HALF
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_networks_in_another_precision_learn_what_those_in_float32_do(dtype):
    (x_P, y_P), (x_H, y_H) = rows()
    single = distil(small(), loader(x_P, y_P), loader(x_H, y_H), epochs=20)
    done = distil(small(dtype), loader(x_P.to(dtype), y_P), loader(x_H.to(dtype), y_H), epochs=20)
    assert done.model[2].weight.dtype == dtype
    assert single.report.rho < 0.8 * single.report.reference_rho
    assert done.report.rho == pytest.approx(single.report.rho, rel=0.2)
    assert done.history["well"][-1] == pytest.approx(single.history["well"][-1], rel=0.1)


@OF_HALF
@pytest.mark.parametrize("targets", [False, True])
def test_logits_of_a_network_in_float16_may_be_large(targets):
    (x_P, y_P), (x_H, y_H) = rows()
    model = small().half()
    with torch.no_grad():
        model[4].weight.mul_(1000.0)
        said = model(x_P.half()).float()
    assert float(said.var()) > torch.finfo(torch.float16).max
    tasks = loader(x_P.half(), said if targets else y_P), loader(x_H.half(), y_H)
    assert np.isfinite(distil(model, *tasks, epochs=1).history["loss"]).all()


@pytest.mark.parametrize("power", [-90, 70])
def test_the_scale_of_the_features_does_not_matter(power):
    (x_P, y_P), (x_H, y_H) = rows()
    scaled = small()
    with torch.no_grad():
        for parameter, by in zip(scaled[3:].parameters(), (1, 1, -1, 0), strict=True):
            parameter.mul_(2.0 ** (by * power))
    tasks = loader(x_P, y_P), loader(x_H, y_H)
    one, other = (distil(model, *tasks, lr=0.0, epochs=1) for model in (small(), scaled))
    for name in ("well", "ill"):
        assert np.allclose(other.history[name], one.history[name], rtol=1e-5)


@pytest.mark.parametrize("harmful", ["targets", "of one class a batch"])
@pytest.mark.parametrize("labelled", [True, False])
def test_labels_may_be_targets_or_lack(harmful, labelled):
    (x_P, y_P), (x_H, y_H) = rows()
    order = y_H.argsort()
    batches_P = [
        (x, y) if labelled else x for x, y in zip(x_P.split(50), y_P.split(50), strict=True)
    ]
    if harmful == "targets":
        batches_H = [(x, x[:, 0].double()) for x in x_H.split(50)]
    else:
        batches_H = [(x_H[order[y_H[order] == c]], y_H[order[y_H[order] == c]]) for c in range(4)]
    history = distil(small(), batches_P, batches_H, epochs=20).history
    assert history["well"][-1] < 0.8
    assert history["ill"][-4:].mean() < history["ill"][:4].mean() - 0.2


def test_a_primary_batch_without_differences_has_nothing_to_learn():
    (x_P, y_P), harmful = rows()
    batches = [(x_P, y_P), (x_P[:1].expand(2, 10), y_P[:1].expand(2))]
    history = distil(small(), batches, [harmful], epochs=3).history
    # Equal rows of a batch may differ by rounding, with the place that they have in it.
    assert history["well"][1::2].max() < 0.1 < history["well"][0::2].min()


def test_a_map_that_moves_nothing_leaves_the_network_nearly_as_it_was():
    (x_P, y_P), (x_H, y_H) = rows()
    done = distil(small(), loader(x_P, y_P), loader(x_H, y_H), tau=1.0)
    assert done.fade.logits_changed < 0.02
    assert done.report.rho == pytest.approx(done.report.reference_rho, rel=3e-2)


class Tied(nn.Module):
    """A head with the weight of the first layer, which moves with it."""

    def __init__(self):
        super().__init__()
        self.first, self.middle = nn.Linear(10, 10, bias=False), nn.Linear(10, 10)
        self.norm, self.head = nn.LayerNorm(10), nn.Linear(10, 10, bias=False)
        self.head.weight = self.first.weight

    def forward(self, x):
        return self.head(self.norm(torch.tanh(self.middle(torch.tanh(self.first(x))))))


@pytest.mark.parametrize("tied", [False, True])
def test_a_checkpoint_is_taken_up_to_the_same_bits(tied, tmp_path):
    (x_P, y_P), (x_H, y_H) = rows()
    torch.manual_seed(0)
    model = Tied() if tied else small()
    where = {"split": "head", "trainable": "middle"} if tied else {}

    def run(**options):
        return distil(model, loader(x_P, y_P), loader(x_H, y_H), **where, **options)

    whole, file = run(), tmp_path / "run.pt"
    run(checkpoint=file, checkpoint_every=1, callback=lambda step, _: step == 5)
    again = run(checkpoint=file)
    assert states_equal(again.model, whole.model)
    assert all(np.array_equal(again.history[name], whole.history[name]) for name in whole.history)
    assert again.fade.logits_changed == whole.fade.logits_changed
    assert again.report.rho == whole.report.rho
    if tied:
        assert again.model.head.weight is again.model.first.weight
    with pytest.raises(ValueError, match=r"map is \[10000.0, 0.0\] there and \[10.0, 0.0\] here"):
        run(checkpoint=file, tau=10.0)


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


def test_the_rate_falls_to_nothing_and_another_number_of_epochs_is_another_run(tmp_path):
    def run(**options):
        return icd.immunize(
            net(), **loaders(), split="head", method="fade", trainable="block2", **options
        )

    path = tmp_path / "run.pt"
    run(epochs=2, checkpoint=path)
    rates = [g["lr"] for g in torch.load(path)["optimizer"]["param_groups"]]
    assert rates == pytest.approx([1e-3 * (1 + np.cos(np.pi * 3 / 4)) / 2])
    with pytest.raises(ValueError, match="epochs"):
        run(epochs=3, checkpoint=path)
