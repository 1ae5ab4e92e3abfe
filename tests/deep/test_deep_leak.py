"""The leak profile: cuts that are found, what is read at them, and that no lock changes it."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_cases import torch
from torch_nets import net, states_equal

import immucond as ic
import immucond.deep as icd

nn = torch.nn


def batches(count=200, seed=0, size=40, width=8, dtype=torch.float32, classes=2):
    """Harmful labels lie in two of the features, of which the primary rows vary less."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=generator)
    y = (x[:, 0] > 0).long() + (classes > 2) * (x[:, 1] > 0).long()
    return list(zip(x.to(dtype).split(size), y.split(size), strict=True))


def primary(count=150, width=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(9)
    scale = torch.linspace(0.2, 2.0, width)
    return [(torch.randn(count, width, generator=generator) * scale).to(dtype)]


def mlp(dtype=torch.float32, width=8):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(width, 8), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 6), nn.Linear(6, 3)
    ).to(dtype)


def profile(model=None, harmful=None, **options):
    given_options = {"primary": primary(), "held_out": batches(seed=1), "untrained": False}
    return icd.leak_profile(
        mlp() if model is None else model,
        batches() if harmful is None else harmful,
        **(given_options | options),
    )


def activations(model, name, data, of="output"):
    """Rows of a module by hooks of the test's own."""
    seen = []
    module = model.get_submodule(name)
    hook = (
        module.register_forward_hook(lambda m, a, out: seen.append(out))
        if of == "output"
        else module.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    )
    with torch.no_grad():
        for batch in data:
            model(batch[0] if isinstance(batch, tuple) else batch)
    hook.remove()
    return torch.cat(seen)


def labels(data):
    return torch.cat([y for _, y in data]).numpy()


def test_every_cut_is_the_ceiling_of_its_features():
    model, harmful, held_out = mlp(), batches(), batches(seed=1)
    found = profile(model)
    assert list(found.cuts) == ["0", "1", "2", "3", "4 (input)"]
    for name, told in found.cuts.items():
        where, of = name.removesuffix(" (input)"), "input" if "input" in name else "output"
        Z, Z_P, test = (
            activations(model, where, data, of).numpy() for data in (harmful, primary(), held_out)
        )
        wanted = ic.probing.ceiling(Z, labels(harmful), Z_P, held_out=(test, labels(held_out)))
        assert np.array_equal(told.predictions, wanted.predictions)
        assert told.as_dict() == wanted.as_dict()
        assert found.widths[name] == Z.shape[1]
    assert found.rows == {"harmful": 200, "primary": 150, "held_out": 200}
    assert found.classes == 2
    assert found.majority == max(np.mean(labels(held_out) == label) for label in (0, 1))
    assert found.ceiling == found.cuts[found.where].accuracy > 0.9
    with torch.no_grad():
        logits = [model(torch.cat([x for x, _ in data])) for data in (harmful, held_out)]
        served = ic.probing.ceiling(
            logits[0].numpy(), labels(harmful), model(primary()[0]).numpy(),
            held_out=(logits[1].numpy(), labels(held_out)),
        )  # fmt: skip
    assert np.array_equal(found.logits.predictions, served.predictions)


def locked(model, first, A):
    """The same network with a map folded into two linear layers that follow each other."""
    found = copy.deepcopy(model)
    one, two = found[first], found[first + 1]
    with torch.no_grad():
        one.weight.copy_(A @ one.weight)
        one.bias.copy_(A @ one.bias)
        two.weight.copy_(two.weight @ torch.linalg.inv(A))
    return found


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 6.0), st.sampled_from([(0, 8), (3, 6)]))
def test_no_gauge_changes_a_prediction_at_any_cut(seed, digits, place):
    rng = np.random.default_rng(seed)
    first, width = place
    Q, R = (np.linalg.qr(rng.standard_normal((width, width)))[0] for _ in range(2))
    A = torch.from_numpy(Q * np.geomspace(1.0, 10.0**digits, width) @ R)
    data = {
        "harmful": batches(dtype=torch.float64),
        "primary": primary(dtype=torch.float64),
        "held_out": batches(seed=1, dtype=torch.float64),
    }
    model = mlp(torch.float64)
    plain, found = (profile(m, **data) for m in (model, locked(model, first, A)))
    for name, told in plain.cuts.items():
        assert np.array_equal(told.predictions, found.cuts[name].predictions), name
        assert told.ridge == found.cuts[name].ridge
    assert np.array_equal(plain.logits.predictions, found.logits.predictions)
    assert plain.ceiling == found.ceiling


def test_in_float32_too_where_the_map_is_mild():
    rng = np.random.default_rng(0)
    A = torch.from_numpy(rng.standard_normal((8, 8)) + 3 * np.eye(8)).float()
    plain, found = profile(mlp()), profile(locked(mlp(), 0, A))
    for name, told in plain.cuts.items():
        changed = np.mean(told.predictions != found.cuts[name].predictions)
        assert changed <= 0.01, name  # a tie to rounding


def test_erasing_the_labels_lowers_every_cut_behind_and_a_lock_none():
    model = mlp(torch.float64)
    kinds = {"dtype": torch.float64}
    data = {"harmful": batches(1000, **kinds), "held_out": batches(1000, 1, **kinds)}
    data["primary"] = primary(1000, **kinds)
    Z, Z_P = (
        activations(model, "1", data[part], "input").numpy() for part in ("harmful", "primary")
    )
    before = profile(model, **data)
    ceilings = {}
    for tau in (1e4, np.inf):
        map_ = np.asarray(ic.linear.fade(Z_P, Z, labels(data["harmful"]), tau=tau).theta)
        faded = copy.deepcopy(model)
        faded.insert(1, nn.Linear(8, 8, bias=False, dtype=torch.float64))
        with torch.no_grad():
            faded[1].weight.copy_(torch.from_numpy(map_.T.copy()))
        ceilings[tau] = {n: c.accuracy for n, c in profile(faded, **data).cuts.items()}
    assert ceilings[1e4]["1"] == before.cuts["0"].accuracy > 0.9
    assert ceilings[np.inf]["0"] == before.cuts["0"].accuracy  # cut earlier, and it is all there
    for name in ("1", "2", "4"):
        assert ceilings[np.inf][name] < ceilings[1e4]["1"] - 0.2


def test_passes_that_memory_needs_change_nothing():
    whole, calls = profile(), []
    told = profile(max_bytes=1, callback=lambda batch, about: calls.append((batch, about)))
    assert whole.as_dict() == told.as_dict()
    assert list(whole.cuts) == list(told.cuts)
    assert max(about["pass"] for _, about in calls) == 5
    assert {about["data"] for _, about in calls} == {"harmful", "primary", "held_out", "ceilings"}
    assert calls[0] == (1, {"network": "release", "data": "harmful", "batches": 5, "pass": 1})


def test_the_order_of_rows_and_the_batches_do_not_matter():
    x, y = (torch.cat(parts) for parts in zip(*batches(seed=1), strict=True))
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    mixed = list(zip(x[order].split(33), y[order].split(33), strict=True))
    plain, found = profile(), profile(held_out=mixed)
    for name, told in plain.cuts.items():
        assert told.accuracy == found.cuts[name].accuracy
        assert np.array_equal(told.predictions[order], found.cuts[name].predictions)


def test_the_model_is_left_as_it_was():
    model = mlp().train()
    model[2].eval()
    before = copy.deepcopy(model)
    icd.leak_profile(model, batches(), primary=primary(), held_out=batches(seed=1))
    assert states_equal(model, before)
    assert [m.training for m in model] == [True, True, False, True, True]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# ---- the untrained network ----


def test_the_untrained_network_is_drawn_anew_and_alike_each_time():
    model = mlp()
    first, again, other = (profile(model, untrained=True, seed=seed) for seed in (0, 0, 1))
    assert list(first.untrained) == list(first.cuts)
    assert first.as_dict() == again.as_dict()
    assert first.as_dict() != other.as_dict()
    assert profile(model).untrained == {}
    own = profile(model, untrained=mlp())  # a network of one's own: the same one here
    assert {n: c.as_dict() for n, c in own.untrained.items()} == {
        n: c.as_dict() for n, c in own.cuts.items()
    }


def test_weights_that_nothing_draws_anew_are_named():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.gain = nn.Linear(8, 8), nn.Parameter(torch.ones(8))
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.first(x) * self.gain)

    with pytest.raises(ValueError, match=r"cannot be drawn anew: 'gain', .*untrained=False"):
        profile(Scaled(), untrained=True)
    assert list(profile(Scaled()).cuts) == ["first", "head (input)"]


# ---- cuts that are found, and those named ----


def images(count=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 6, 6, generator=generator)
    return [(x, (x[:, 0, 0, 0] > 0).long())]


def test_patterns_name_outputs():
    options = {"primary": images(), "held_out": images(seed=1)}
    found = profile(net(), images(), cuts=["stem", "block*.1"], **options)
    assert list(found.cuts) == ["stem", "block1.1", "block2.1"]
    assert found.widths == {"stem": 4, "block1.1": 12, "block2.1": 8, "served logits": 3}
    auto = profile(net(), images(), logits=False, **options)
    assert list(auto.cuts) == ["stem", "norm", "block1", "block2", "head (input)"]
    assert auto.logits is None


@pytest.mark.parametrize("last", [False, True])
def test_channels_are_told_by_the_layers_within(last):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.LayerNorm(5) if last else nn.BatchNorm2d(5)

        def forward(self, x):
            return self.layer(x.movedim(1, -1)) if last else self.layer(x)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(1, 5, 2)  # 5 places each way, and 5 channels
            self.block, self.head = Block(), nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.block(self.stem(x)).mean((1, 2) if last else (2, 3)))

    torch.manual_seed(0)
    model = Model().eval()
    found = profile(model, images(), primary=images(), held_out=images(seed=1))
    entered, block = found.cuts["head (input)"], found.cuts["block"]
    assert np.array_equal(block.predictions, entered.predictions)
    wrong = profile(
        model, images(), primary=images(), held_out=images(seed=1),
        channels="first" if last else "last",
    )  # fmt: skip
    assert wrong.cuts["block"].as_dict() != block.as_dict()


def test_a_norm_over_channels_and_places_tells_of_neither():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm = nn.Conv2d(1, 3, 2), nn.LayerNorm([3, 5, 5])
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.norm(self.stem(x)).mean((2, 3)))

    torch.manual_seed(0)
    model = Model().eval()
    found = profile(model, images(), primary=images(), held_out=images(seed=1))
    assert (
        found.cuts["norm"].predictions.tolist() == found.cuts["head (input)"].predictions.tolist()
    )
    assert found.widths["norm"] == 3
    with pytest.raises(ValueError, match="a LayerNorm does not tell where its channels are"):
        icd.record(model, images(), "norm", of="output")
    out = activations(model, "norm", images()).movedim(1, -1).reshape(-1, 3).double().numpy()
    gram = icd.record(model, images(), "norm", of="output", channels="first").gram("norm")
    assert np.allclose(gram, out.T @ out, rtol=1e-12)


@pytest.mark.parametrize("time", [7, 20])
def test_what_has_time_first_is_no_cut_with_as_many_samples_either(time):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.memory = nn.Linear(4, 6), nn.LSTM(6, 5)
            self.head = nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.memory(self.stem(x).transpose(0, 1))[0][-1])

    torch.manual_seed(0)
    rows = [(torch.randn(20, time, 4), torch.arange(20) % 2) for _ in range(4)]
    data = {"primary": rows[2:], "held_out": rows[2:]}
    assert list(profile(Model(), rows[:2], **data).cuts) == ["stem", "head (input)"]
    options = {"split": "head", "held_out": rows[2:], "attackers": "lstsq", "trials": 1}
    found = icd.attack(Model(), rows[:2], **options, scratch=False, equalize=False)
    assert [of.start for of in found.attacks["release"]] == ["plain", "plain, stem"]


def test_cuts_that_match_nothing_or_never_ran():
    with pytest.raises(ValueError, match="'layers' matches none; near are "):
        profile(cuts="layers")
    model = mlp()
    model.spare = nn.Linear(3, 3)
    model.forward = lambda x: nn.Sequential(*list(model)[:5])(x)
    with pytest.raises(ValueError, match="modules that never ran: 'spare'"):
        profile(model, cuts=["0", "spare"])
    assert "spare" not in profile(model).cuts
    with pytest.raises(ValueError, match="split must name a module of the model, and is 'fc'"):
        profile(split="fc")


def test_a_module_that_runs_twice_is_no_cut():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.layer(self.layer(x)))

    assert list(profile(Twice()).cuts) == ["head (input)"]
    with pytest.raises(ValueError, match="'layer' runs more than once in a forward pass"):
        profile(Twice(), cuts="layer")


# ---- what is refused ----


def relabelled(change, **options):
    return [(x, change(y)) for x, y in batches(**options)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"harmful": relabelled(lambda y: 0 * y)}, "two classes at least, and all labels are 0"),
        ({"held_out": relabelled(lambda y: 0 * y)}, "held_out has no row of class 1"),
        ({"held_out": relabelled(lambda y: 2 * y)}, "held_out has no row of class 1"),
        ({"held_out": batches(classes=3)}, "harmful has no row of held_out's class 2"),
        ({"harmful": [x for x, _ in batches()]}, "harmful must have labels in every batch"),
        ({"held_out": [x for x, _ in batches()]}, "held_out must have labels in every batch"),
        ({"harmful": relabelled(lambda y: y + 0.5)}, "the labels of harmful must be classes"),
        ({"harmful": relabelled(lambda y: y[1:])}, "batch 1 of harmful must have 40 labels"),
        ({"harmful": []}, "harmful has no batches"),
        ({"primary": []}, "primary has no batches"),
        ({"primary": [torch.ones(1, 8)]}, "at the cut '0': Z_P must have two rows at least"),
        ({"harmful": batches(width=7)}, "does not run on a batch of harmful"),
    ],
)
def test_data_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        profile(**options)


def told_alike(one, other):
    assert (one.rows, one.classes, one.majority) == (other.rows, other.classes, other.majority)
    for name, told in one.cuts.items():
        assert np.array_equal(told.predictions, other.cuts[name].predictions)
        assert told.ridge == other.cuts[name].ridge


def test_samples_without_a_label_that_counts_are_left_out():
    """-100 is what losses of torch do not count; any other whole number names a class."""
    harmful, held_out = batches(), batches(seed=1)
    some = torch.arange(40) % 5 > 0
    fewer = [[(x[some], y[some]) for x, y in data] for data in (harmful, held_out)]
    marked = [
        [(x, torch.where(some, y, -100)) for x, y in data] for data in (harmful, held_out)
    ]  # fmt: skip
    plain = profile(harmful=fewer[0], held_out=fewer[1])
    found = profile(harmful=marked[0], held_out=marked[1], max_bytes=1)
    assert found.rows == {"harmful": 160, "primary": 150, "held_out": 160}
    assert found.classes == 2
    told_alike(plain, found)
    with pytest.raises(ValueError, match="harmful has no label that counts: all are -100"):
        profile(harmful=relabelled(lambda y: 0 * y - 100))
    signs = profile(harmful=relabelled(lambda y: 2 * y - 1), held_out=relabelled(
        lambda y: 2 * y - 1, seed=1))  # fmt: skip
    told = profile()
    assert signs.as_dict() == told.as_dict()


def test_batches_without_rows_change_nothing():
    x, y = batches()[0]
    empty = [(x[:0], y[:0])]
    more = {
        "harmful": empty + batches() + empty,
        "primary": [*primary(), x[:0]],
        "held_out": batches(seed=1) + empty,
    }
    told_alike(profile(), profile(**more))
    with pytest.raises(ValueError, match="harmful has no batches"):
        profile(harmful=empty)


def test_labels_in_half_precision_are_no_classes():
    with pytest.raises(ValueError, match="the labels of harmful must be classes"):
        profile(harmful=relabelled(lambda y: y.bfloat16()))
    told_alike(profile(primary=[(primary()[0], torch.zeros(150).bfloat16())]), profile())


def test_a_cut_that_varies_by_rounding_or_on_other_rows_alone_is_a_constant_guess():
    class Block(nn.Linear):
        def forward(self, x):
            return torch.relu(super().forward(x))

    torch.manual_seed(0)
    faint = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    late = nn.Sequential(Block(8, 6), nn.Linear(6, 3))  # of the first feature, where it is large
    with torch.no_grad():
        faint[1].weight.mul_(1e-9)
        late[0].weight.zero_()
        late[0].weight[:, 0], late[0].bias[:] = 1.0, -5.0
    far = [(4.0 * x, y) for x, y in batches(seed=1)]
    for model, data, name in ((faint, batches(seed=1), "1"), (late, far, "0")):
        told = profile(model, held_out=data).cuts[name]
        assert (
            told.accuracy
            == told.majority
            == np.mean(labels(data) == labels(batches()).mean().round())
        )
        assert (told.rank, told.kappa, told.rho) == (0, np.inf, 0.0)
        assert len(set(told.predictions)) == 1
    assert activations(late, "0", far).std() > 0.1


def test_an_untrained_network_that_is_none():
    for wrong in ("yes", None, 1, nn.Linear):
        with pytest.raises(TypeError, match="untrained must be True, False or a network"):
            profile(untrained=wrong)


def test_whole_numbers_are_not_drawn_anew():
    model = mlp()
    model[3].scale = nn.Parameter(torch.arange(3), requires_grad=False)
    assert list(profile(model).cuts) == list(profile().cuts)
    with pytest.raises(ValueError, match=r"cannot be drawn anew: '3\.scale'.*untrained=False"):
        profile(model, untrained=True)


@pytest.mark.parametrize("wrong", [None, torch.ones(3, 8), "cifar"])
def test_what_is_no_loader(wrong):
    for part in ("harmful", "primary", "held_out"):
        with pytest.raises(TypeError, match=f"{part} must be a loader"):
            icd.leak_profile(
                mlp(),
                **{"harmful": batches(), "primary": primary(), "held_out": batches(1), part: wrong},
            )


def test_nan_is_told_by_module_and_batch():
    held_out = batches(seed=1)
    held_out[2][0][5, 3] = torch.nan
    with pytest.raises(ValueError, match=r"output of '0' must be finite.*\(batch 3\)"):
        profile(held_out=held_out)
    model = mlp()
    with torch.no_grad():
        model[4].bias[0] = torch.inf
    with pytest.raises(ValueError, match=r"the logits must be finite.*\(batch 1\)"):
        profile(model)


# ---- how it is told ----


def test_it_prints_as_a_table_and_goes_to_json():
    found = profile(untrained=True)
    told = str(found).splitlines()
    assert told[0].split() == ["cut", "features", "rank", "kappa", "rho", "ceiling", "untrained"]
    assert [line.split("  ")[0] for line in told[1:6]] == list(found.cuts)
    assert told[6].startswith("served logits")
    assert "200 harmful, 150 primary, 200 held-out" in told[7]
    assert f"{found.ceiling:.1%}" in repr(found)
    numbers = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert numbers["cuts"]["4 (input)"]["untrained"]["accuracy"] > 0.5
    assert numbers["logits"]["features"] == 3


def test_half_precision():
    half = {"dtype": torch.bfloat16}
    found = profile(
        mlp().bfloat16(), batches(**half), primary=primary(**half), held_out=batches(seed=1, **half)
    )
    full = profile()
    assert found.ceiling == pytest.approx(full.ceiling, abs=0.05)
