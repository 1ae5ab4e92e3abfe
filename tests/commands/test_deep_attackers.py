"""Attackers of `immucond deep`: each as strong as it is said to be, at any scale of features."""

import sys

import numpy as np
import pytest
from deep_cases import (
    encoder_folder,
    pictures,
    resnet_folder,
    sentences,
    torch,
    transformers,
    write_csv,
    write_zip,
)
from torch.nn.functional import cross_entropy

from immucond.experiments._units import silent
from immucond.experiments.deep import ATTACKERS, Settings, _experiment, _saved, attack
from immucond.experiments.deep._attackers import BATCH, Rows, standardized, whitened
from immucond.experiments.deep._prepare import features, loaded, of_parts, prepared
from immucond.experiments.deep._tuning import TUNED, batch_norms, fine_tune, reestimated

EPOCHS = 4
DESCENTS = [n for n in ATTACKERS if n not in ("logistic", "scaled-logistic", "least-squares")]


@pytest.fixture(scope="module", autouse=True)
def _quiet_transformers():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def rows(count, seed, stretch=None, shift=3.0):
    """Three classes that a head with a bias tells apart, far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    centres = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])
    Z = torch.randn(count, 6, generator=generator)
    Z[:, :2] += 2.0 * centres[y]
    Z += shift
    return (Z if stretch is None else Z @ stretch), y


def ends(found):
    return {name: curve["accuracy"][-1] for name, curve in found.items()}


def test_every_attacker_learns_what_can_be_learned():
    found = attack(rows(600, 1), rows(300, 2), epochs=EPOCHS)
    assert set(found) == set(ATTACKERS)
    for name, curve in found.items():
        assert curve["accuracy"][-1] > 0.97, name
        assert len(curve["accuracy"]) == len(curve["loss"])
        assert len(curve["accuracy"]) == (EPOCHS + 1 if name in DESCENTS else 1)
        if name in DESCENTS:
            assert curve["loss"][0] == pytest.approx(np.log(3.0), rel=1e-6)
            assert curve["loss"][-1] < curve["loss"][0]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("sgd", torch.optim.SGD),
        ("momentum", lambda heads, lr: torch.optim.SGD(heads, lr, momentum=0.9)),
        ("adam", torch.optim.Adam),
    ],
)
def test_heads_trained_side_by_side_are_those_that_a_user_trains(name, make):
    (Z, y), (Z_test, y_test) = rows(600, 1, shift=0.5), rows(300, 2, shift=0.5)
    found = attack((Z, y), (Z_test, y_test), attackers=[name], epochs=3, seed=5)[name]
    size = Z.square().mean().sqrt()
    head = torch.nn.Linear(6, 3)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer = make(head.parameters(), lr=found["lr"])
    order = torch.Generator().manual_seed(5)
    accuracy, loss = [], []
    for epoch in range(4):
        for batch in torch.randperm(600, generator=order).split(BATCH) if epoch else ():
            optimizer.zero_grad()
            cross_entropy(head(Z[batch] / size), y[batch]).backward()
            optimizer.step()
        accuracy.append(float((head(Z_test / size).argmax(1) == y_test).double().mean()))
        loss.append(cross_entropy(head(Z / size), y).item())
    assert found["accuracy"] == pytest.approx(accuracy, abs=0.004)
    assert found["loss"] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_the_scale_of_features_slows_no_descent(scale):
    (Z, y), (Z_test, y_test) = rows(300, 1), rows(300, 2)
    plain, scaled = (
        ends(attack((c * Z, y), (c * Z_test, y_test), attackers=DESCENTS, epochs=2))
        for c in (1.0, scale)
    )
    assert scaled == pytest.approx(plain, abs=0.02)


def test_what_undoes_a_map_does_not_see_it_and_descent_does():
    stretch = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    stretch = torch.diag(torch.tensor([1e-3, 1e-3, 1.0, 1.0, 1.0, 1.0])) @ stretch
    plain, slow = (
        ends(attack(rows(600, 1, m), rows(300, 2, m), epochs=EPOCHS)) for m in (None, stretch)
    )
    for name, attacker in ATTACKERS.items():
        if attacker.undoes:
            assert slow[name] == pytest.approx(plain[name], abs=0.01), name
    for name in ("sgd", "momentum"):
        assert slow[name] < 0.6 < plain[name]


def test_standardized_and_whitened_are_what_they_say():
    (Z, y), (Z_test, y_test) = rows(600, 1), rows(300, 2)
    Z, Z_test = (torch.cat([part, torch.full((len(part), 1), 2.5)], 1) for part in (Z, Z_test))
    found = standardized(Rows(Z, y, Z_test, y_test))
    torch.testing.assert_close(found.Z.mean(0), torch.zeros(7).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        found.Z.std(0, correction=0), torch.tensor([1.0] * 6 + [0.0]).double()
    )
    white = whitened(Rows(Z, y, Z_test, y_test), center=True).Z
    assert white.shape == (600, 6)  # a constant feature is lost
    torch.testing.assert_close(white.T @ white / 600, torch.eye(6).double(), atol=1e-6, rtol=1e-6)


def test_a_constant_feature_and_a_batch_of_one_row_break_nothing():
    Z, y = rows(BATCH + 1, 1)
    Z[:, 0] = 4.0
    for name, curve in attack((Z, y), (Z, y), epochs=1).items():
        assert np.isfinite(curve["loss"]).all(), name


def test_the_order_of_the_rows_follows_from_the_seed():
    train, test = rows(600, 1, shift=0.0), rows(300, 2, shift=0.0)
    runs = [attack(train, test, attackers=["sgd"], epochs=1, seed=s)["sgd"] for s in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0]["loss"] != runs[2]["loss"]


GOOD = rows(30, 1)


@pytest.mark.parametrize(
    ("train", "test", "more", "error", "message"),
    [
        ((GOOD[0].numpy(), GOOD[1]), GOOD, {}, TypeError, "train must be a pair of tensors"),
        (GOOD, (GOOD[0][:9], GOOD[1]), {}, ValueError, r"test must be .* shapes \(9, 6\) and \(30"),
        (GOOD, (GOOD[0][:, :5], GOOD[1]), {}, ValueError, "one width, and have 6 and 5"),
        ((GOOD[0] * torch.nan, GOOD[1]), GOOD, {}, ValueError, "train must be finite"),
        ((0.0 * GOOD[0], GOOD[1]), GOOD, {}, ValueError, "must not all be zero"),
        ((GOOD[0], GOOD[1] - 1), GOOD, {}, ValueError, "counted from 0, and hold -1"),
        ((GOOD[0].long(), GOOD[1]), GOOD, {}, TypeError, "train must be real numbers"),
        ((GOOD[0], GOOD[1] * 1.0), GOOD, {}, TypeError, "classes of train must be whole numbers"),
        ((GOOD[0], 0 * GOOD[1]), GOOD, {}, ValueError, "two classes at least, and has 0 alone"),
        (GOOD, GOOD, {"attackers": ["newton"]}, ValueError, "attackers must be one of"),
        (GOOD, GOOD, {"epochs": 0}, ValueError, "epochs must be"),
        (GOOD, GOOD, {"seed": -1}, ValueError, "seed must be"),
    ],
)
def test_wrong_input_is_named(train, test, more, error, message):
    with pytest.raises(error, match=message):
        attack(train, test, **more)


# ---- who holds the network ----


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A residual network and two tasks of images, prepared."""
    folder = tmp_path_factory.mktemp("resnet")
    resnet_folder(folder / "resnet")
    for name, labels, seed in (("primary", ("circle", "square"), 1), ("harmful", ("0", "1"), 2)):
        for part, count in (("train", 96), ("test", 48)):
            write_zip(folder / name / f"{part}.zip", pictures(labels, count, seed + count, 16))
    settings = Settings(
        str(folder / "resnet"), "primary", "harmful", data_dir=folder, batch_size=16, group_size=12,
        trainable=("resnet.encoder.stages.1",), image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3,
        defender_rows=(20, 56), train_size=(80, 96),
    )  # fmt: skip
    return prepared(settings, folder / "cache", silent)


def test_defender_and_attacker_share_no_sample(resnet):
    sides = [resnet.defender, resnet.attacker]
    names = [{sample.stamp for sample in side.inputs} for side in sides]
    assert not names[0] & names[1]
    assert names[0] | names[1] == {sample.stamp for sample in resnet.harmful.train.inputs}
    assert [len(side.inputs) for side in sides] == [56, 40]
    assert len(resnet.primary.train.inputs) == 80
    assert sorted(resnet.defended) == [20, 56]
    few, all_of_them = (
        features(resnet.backbone.model, resnet.backbone.split, resnet.defended[n]).Z
        for n in (20, 56)
    )
    kept = {tuple(row) for row in all_of_them.numpy().round(4).tolist()}
    assert {tuple(row) for row in few.numpy().round(4).tolist()} <= kept  # the larger holds it


def test_batch_norms_are_estimated_on_the_attackers_images(resnet):
    backbone, task = resnet.backbone, resnet.kept["H train"]
    before = {name: x.clone() for name, x in backbone.model.state_dict().items()}
    other = reestimated(backbone.model, backbone.split, backbone.trainable, task)
    seen = []
    layer = batch_norms(other, backbone.trainable)[0]
    layer.register_forward_hook(lambda _, __, output: seen.append(output))
    features(other, backbone.split, task)
    weight, bias = (x.detach()[:, None, None] for x in (layer.weight, layer.bias))
    scaled = (torch.cat(seen) - bias) / weight
    assert float(scaled.mean((0, 2, 3)).abs().max()) < 0.05
    assert float((scaled.var((0, 2, 3)) - 1.0).abs().max()) < 0.2  # means over batches
    for name, value in backbone.model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(("method", "parameters"), [("fade", {"tau": 1e4}), ("leace", {})])
def test_where_the_head_alone_differs_only_the_head_runs(resnet, tmp_path, method, parameters):
    unit = {"method": method, "parameters": parameters, "seed": 0}
    done = _experiment._immunized(resnet, unit, tmp_path / "checkpoint.pt")
    _saved.save(resnet.backbone, done.model, tmp_path)
    model = _saved.load_saved(tmp_path)
    short = resnet.after(model, done.split) | resnet.reestimated(model, done.split)
    whole = of_parts(model, done.split, resnet.kept) | resnet._of_reestimated(model, done.split)
    assert set(short) == set(whole)
    for name, found in short.items():
        torch.testing.assert_close(found.Z, whole[name].Z, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.logits, whole[name].logits, rtol=1e-3, atol=1e-3)
    block = model.get_submodule(resnet.backbone.trainable[0])
    with torch.no_grad():
        next(block.parameters()).mul_(1.5)  # then the whole of it runs
    moved = resnet.after(model, done.split)["P test"].Z
    assert not torch.allclose(moved, short["P test"].Z, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", TUNED)
def test_fine_tuning_trains_the_last_blocks_of_a_copy(resnet, name):
    backbone = resnet.backbone
    before = {key: x.clone() for key, x in backbone.model.state_dict().items()}
    found = fine_tune(
        backbone.model, backbone.split, backbone.trainable, resnet.kept["H train"],
        resnet.kept["H test"], classes=2, epochs=4, lora=name == "lora",
    )  # fmt: skip
    assert len(found["accuracy"]) == 4
    assert found["loss"][-1] < found["loss"][0]
    assert all(torch.equal(x, before[key]) for key, x in backbone.model.state_dict().items())


def test_without_peft_the_extra_is_named_before_anything_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"peft is not installed: .*lora"):
        loaded(Settings("no such network", "primary", "harmful", fine_tune=True))


def test_texts_are_parted_too(tmp_path):
    encoder_folder(tmp_path / "encoder")
    for name, classes in (("primary", ("greet", "cook")), ("harmful", ("travel", "pay"))):
        for part in ("train", "test"):
            write_csv(tmp_path / name / f"{part}.csv", sentences(classes, 24, 1))
    settings = Settings(
        str(tmp_path / "encoder"), "primary", "harmful", data_dir=tmp_path, batch_size=8,
        group_size=12, max_length=10,
    )  # fmt: skip
    here = prepared(settings, tmp_path / "cache", silent)
    assert sorted(here.defended) == [12]
    assert not batch_norms(here.backbone.model, here.backbone.trainable)
