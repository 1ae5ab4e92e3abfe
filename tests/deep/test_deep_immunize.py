"""Deep immunization on tiny networks."""

import logging
import warnings
from types import MethodType, SimpleNamespace

import numpy as np
import pytest
from torch_cases import torch
from torch_nets import Net, data, loaders, net

import immucond as ic
import immucond.deep as icd
import immucond.torch as ict
from immucond.deep._activations import Kept, Loaded, batches_of
from immucond.deep._head import SplitModel

nn = torch.nn

# Settings here are for what is tested, and do not immunize.
pytestmark = [
    pytest.mark.filterwarnings("ignore:the harmful task got easier"),
    pytest.mark.filterwarnings("ignore:the (primary|harmful) features have rank"),
]


class Residual(Net):
    """What runs before the last block reaches past it."""

    def forward(self, x):
        early = self.block1(torch.relu(self.norm(self.stem(x))))
        return self.head(self.block2(early) + early[:, :8])


class Opaque:
    """An output that nobody can look into."""

    def __init__(self, x):
        self.x = x


class Wrapped(nn.Conv2d):
    def forward(self, x):
        return Opaque(super().forward(x))


class Hidden(Net):
    """A frozen module's output is neither a tensor nor a tree of them."""

    def __init__(self):
        super().__init__()
        self.stem = Wrapped(1, 4, 3)

    def forward(self, x):
        x = self.stem(x).x + x[:, :, 1:5, 1:5]
        return self.head(self.block2(self.block1(self.norm(x))))


def states_equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def kappas(model, split):
    split_model = SplitModel(model.eval(), split)
    found = []
    for seed in (1, 2):
        x, _ = data(200, seed)[:]
        with torch.no_grad():
            found.append(float(ict.condition_number(features=split_model(x)[0])))
    return found


def ratio(model, split="head"):
    kappa_P, kappa_H = kappas(model, split)
    return kappa_H / kappa_P


@pytest.mark.parametrize("method", ["algorithm1", "r_ill", "opt_kappa"])
def test_methods_raise_the_ratio(method):
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    done = icd.immunize(
        model,
        split="head",
        **loaders(),
        method=method,
        lambdas="balance",
        trainable=["block2"],
        epochs=15,
        lr=0.05,
        momentum=0.0,
    )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    moved = {
        name
        for name, value in done.model.state_dict().items()
        if not torch.equal(before[name], value)
    }
    assert moved == {"block2.0.weight", "block2.0.bias", "head.weight", "head.bias"}
    assert kappas(done.model, "head")[1] > 1.2 * kappas(model, "head")[1]
    assert {len(values) for values in done.history.values()} == {30}
    assert np.isfinite(list(done.history.values())).all()


def test_imma_raises_the_loss_of_an_adapted_head():
    options = {"split": "head", **loaders(), "method": "imma", "trainable": "block2"}
    without, done = (
        icd.immunize(net(), lambdas=lambdas, epochs=30, lr=0.02, **options).history
        for lambdas in ((0.0, 0.0), (0.0, 1.0))
    )
    assert done["ill"][-2:].mean() < without["ill"][-2:].mean() - 0.01  # minus the adapted loss
    assert not done["well"].any()


def test_fixed_weights_and_balanced_ones():
    options = {"split": "head", **loaders(), "trainable": "block2", "epochs": 2, "lr": 1e-3}
    fixed = icd.immunize(net(), lambdas=(0.5, 7.0), **options).history
    assert set(fixed["lambda_P"]) == {0.5}
    assert set(fixed["lambda_H"]) == {7.0}
    balanced = icd.immunize(net(), lambdas="balance", **options).history
    for term, weight in (("well", "lambda_P"), ("ill", "lambda_H")):
        weighted = balanced[weight] * balanced[f"grad_{term}"]
        assert np.allclose(weighted, balanced["grad_loss"], rtol=1e-5)


class Scaled(nn.Module):
    """Features of another size, and the same logits; maybe under autocast."""

    def __init__(self, scale, autocast=None):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 3, bias=False)
        with torch.no_grad():
            self.body[3].weight.mul_(scale)
            self.body[3].bias.mul_(scale)
            self.head.weight.div_(scale)
        self.autocast = autocast

    def forward(self, x):
        how = self.autocast
        with torch.autocast("cpu", dtype=how or torch.bfloat16, enabled=how is not None):
            return self.head(self.body(x.to(self.head.weight.dtype)))


@pytest.mark.parametrize("objective", ["algorithm1", "r_ill"])
@pytest.mark.parametrize(
    ("dtype", "autocast", "scales"),
    [
        (torch.float32, None, (1e-5, 1e5)),
        (torch.bfloat16, None, (1e-5, 1e5)),
        (torch.float16, None, (0.1, 1.0, 100.0)),
        (torch.float32, torch.float16, (0.1, 1.0, 100.0)),
        (torch.float32, torch.bfloat16, (1e-5, 1e5)),
    ],
    ids=str,
)
def test_balance_is_that_of_float64_at_any_precision_and_scale(dtype, autocast, scales, objective):
    for scale in scales:
        x, y = data(64, 1)[:]
        batch, harmful = [(x, y)], [(data(64, 2)[:][0], y)]
        histories = []
        for kind, how in ((torch.float64, None), (dtype, autocast)):
            model = Scaled(scale, how).to(kind)
            options = {"split": "head", "primary": batch, "harmful": harmful, "lr": 0.0}
            options["lambdas"] = "balance"
            histories.append(icd.immunize(model, method=objective, **options).history)
        exact, found = histories
        precision = torch.finfo(autocast or dtype).eps
        for name in ("lambda_P", "lambda_H", "grad_loss", "grad_well", "grad_ill"):
            np.testing.assert_allclose(found[name], exact[name], rtol=40 * precision)
        assert found["lambda_H"] > 0
        assert (found["lambda_P"] > 0) == (objective != "r_ill")


@pytest.mark.filterwarnings("ignore:the rank of Z:immucond.AccuracyWarning")  # after the step
@pytest.mark.parametrize(("lambdas", "lr"), [("balance", 1e4), ((1e-9, 1e9), 1e2)], ids=str)
def test_gradients_beyond_float16_are_those_of_float64(lambdas, lr):
    """Of fixed weights too: the weight brings the gradient back into the range."""
    x, y = data(64, 1)[:]
    moved = []
    for dtype in (torch.float64, torch.float16):
        model = Scaled(100.0).to(dtype)
        model.requires_grad_(False).body[3].requires_grad_()  # others would leave the range
        options = {"split": "head", "primary": [(x, y)], "harmful": [(data(64, 2)[:][0], y)]}
        done = icd.immunize(model, lambdas=lambdas, lr=lr, momentum=0.0, **options)
        before = Scaled(100.0).body[3].weight
        moved.append((done.model.body[3].weight.double() - before.to(dtype).double()).detach())
    assert (moved[0] - moved[1]).norm() <= 0.05 * moved[0].norm()


def test_a_weight_that_would_be_none_is_refused():
    x, y = data(64, 1)[:]
    harmful = [(data(64, 2)[:][0], y)]

    def no_gradient(logits, labels):
        return 0.0 * logits.sum() + labels.sum()

    for scale, loss, method, name in (
        (1.0, no_gradient, "algorithm1", "lambda_P"),
        (1e10, None, "r_ill", "lambda_H"),
    ):
        options = {"primary": [(x, y)], "harmful": harmful, "loss": loss, "method": method}
        options["lambdas"] = "balance"
        with pytest.raises(ic.ImmucondError, match=f"'balance' gives no {name}: .* (norm|has) 0"):
            icd.immunize(Scaled(scale), split="head", **options)


@pytest.mark.parametrize("method", ["algorithm1", "closed_form"])
@pytest.mark.parametrize("place", ["block2.0", "head", "block1.1"])
def test_weight_norm_of_old_is_that_of_now(place, method):
    """It leaves a tensor in a graph on the module, which cannot be deep-copied."""
    found = []
    for norm in (nn.utils.weight_norm, nn.utils.parametrizations.weight_norm):
        model = net()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated
            norm(model.get_submodule(place))
        model(data(4, 1)[:][0])
        before = [x.clone() for x in model.parameters()]
        options = {"split": "head", "method": method}
        if method != "closed_form":
            options |= {"trainable": ["block1", "block2"], "lr": 0.05}
        done = icd.immunize(model, **options, **loaders())
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        found.append(SplitModel(done.model, done.split)(data(64, 2)[:][0])[0].detach())
    assert (found[0] - found[1]).norm() <= 1e-5 * found[1].norm()
    assert (found[0] - SplitModel(net(), "head")(data(64, 2)[:][0])[0]).norm() > 1e-4


def test_a_compiled_network_is_told():
    model = net()
    compiled = torch.compile(model, backend="aot_eager")
    compiled(data(8, 1)[:][0])
    with pytest.raises(TypeError, match=r"the model is compiled \(torch.compile\).*_orig_mod"):
        icd.immunize(compiled, split="_orig_mod.head", **loaders())
    done = icd.immunize(compiled._orig_mod, split="head", trainable="block2", **loaders())
    plain = icd.immunize(net(), split="head", trainable="block2", **loaders())
    assert states_equal(done.model, plain.model)


@pytest.mark.parametrize("trainable", [["block2"], ["block1", "block2"], ["norm", "block2"]])
def test_kept_activations_give_what_the_whole_model_gives(trainable, tmp_path, monkeypatch):
    model = net()
    blocks = [model.get_submodule(name) for name in trainable]
    split = SplitModel(model, "head")
    for limit in (2**30, 0):  # in memory, and mapped
        monkeypatch.setattr("immucond.deep._activations._IN_MEMORY", limit)
        task = batches_of(
            split, blocks, loaders(70)["primary"], torch.device("cpu"), tmp_path, "primary"
        )
        assert isinstance(task, Kept)
        x, y = data(70, 1)[:]
        index = torch.tensor([3, 69, 0])
        with monkeypatch.context() as patch:
            patch.setattr(model.stem, "_conv_forward", None)  # it would fail if it ran
            features, logits, labels = task.run(split, index)[:3]
        assert torch.equal(labels, y[index])
        expected = split(x[index])
        assert torch.allclose(features, expected[0], atol=1e-6)
        assert torch.allclose(logits, expected[1], atol=1e-6)
        # By the parameters of the trainable blocks the gradients are the same too.
        grads = [
            torch.autograd.grad(z.square().sum(), list(blocks[0].parameters()))
            for z in (features, expected[0])
        ]
        for got, wanted in zip(*grads, strict=True):
            assert torch.allclose(got, wanted, atol=1e-5)
        seen = torch.cat(list(task.epoch(torch.Generator().manual_seed(0))))
        assert sorted(seen.tolist()) == list(range(70))


class Noisy(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return torch.randn(1, 6, 6), index % 3


class Flipped(Noisy):
    """Two outcomes a sample."""

    def __getitem__(self, index):
        x, y = data(64, 1)[index]
        return (x.flip(-1) if torch.rand(()) < 0.5 else x), y


@pytest.mark.parametrize("seed", range(30))
def test_random_flips_are_noticed(seed):
    model, loader = net(), torch.utils.data.DataLoader(Flipped(), batch_size=32)
    torch.manual_seed(seed)
    with pytest.raises(ValueError, match="drawn at random anew"):
        icd.keep_activations(model, loader, split="head", trainable="block2")


def by_sampler(sampler):
    return torch.utils.data.DataLoader(data(64, 1), batch_size=20, sampler=sampler)


@pytest.mark.parametrize(
    ("kind", "loader", "why"),
    [
        (Net, torch.utils.data.DataLoader(Noisy(), batch_size=32), "drawn at random anew"),
        (Residual, loaders()["primary"], "reaches past them"),
        (Hidden, loaders()["primary"], "does not run on them"),
        (Net, [data(40, 1)[:]], "no DataLoader"),
        (Net, by_sampler(torch.utils.data.SubsetRandomSampler(range(40))), "a sampler of its own"),
        (Net, by_sampler(torch.utils.data.RandomSampler(range(64), True)), "a sampler of its own"),
        (
            Net,
            torch.utils.data.DataLoader(data(64, 1), batch_sampler=[range(20), range(20, 64)]),
            "a sampler of its own",
        ),
    ],
)
def test_what_cannot_be_kept_runs_whole_and_says_so(kind, loader, why, caplog):
    model = net(kind)
    with caplog.at_level(logging.WARNING, logger="immucond"):
        task = batches_of(
            SplitModel(model, "head"), [model.block2], loader, torch.device("cpu"), None, "primary"
        )
    assert isinstance(task, Loaded)
    assert why in caplog.text
    done = icd.immunize(
        model, split="head", primary=loader, harmful=loaders()["harmful"], trainable="block2"
    )
    assert np.isfinite(done.history["loss"]).all()


class Text(nn.Module):
    """Keyword arguments, a mask read at the end, logits in a mapping."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.classifier = nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        mask = attention_mask[..., None].float()
        return {"logits": self.classifier((x * mask).sum(1) / mask.sum(1))}


def test_mappings_as_batches():
    torch.manual_seed(0)
    model = Text().eval()
    rows = [
        {
            "input_ids": torch.randint(20, (5,)),
            "attention_mask": (torch.arange(5) < 2 + i % 4).long(),
            "labels": i % 2,
        }
        for i in range(48)
    ]
    loader = torch.utils.data.DataLoader(rows, batch_size=16)
    task = batches_of(
        SplitModel(model, "classifier"), [model.layers[1]], loader, torch.device("cpu"), None, "P"
    )
    assert isinstance(task, Kept)
    done = icd.immunize(
        model, split="classifier", primary=loader, harmful=loader, trainable="layers.1", epochs=2
    )
    assert len(done.history["loss"]) == 6


def test_the_closed_form_attains_the_limit_at_the_same_logits():
    model = net()
    done = icd.immunize(model, split="head", **loaders(200, 50), method="closed_form")
    x, _ = data(50, 3)[:]
    with torch.no_grad():
        assert torch.allclose(done.model(x), model(x), atol=1e-4)
    assert done.split == "head.1"
    split = SplitModel(model, "head")
    Z = []
    for seed in (1, 2):
        with torch.no_grad():
            Z.append(split(data(200, seed)[:][0])[0].double().numpy())
    limit = ic.linear.immunity_limit(X_P=Z[0], X_H=Z[1]).rir
    assert np.isclose(ratio(done.model, done.split) / ratio(model), limit, rtol=1e-2)
    assert done.history == {}


def test_activations_that_there_is_no_room_for(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("immucond.deep._activations._IN_MEMORY", 0)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    options = {"split": "head", "trainable": "block2"}
    with pytest.raises(ValueError, match=r"cannot be kept: they take .* GiB, and .* has "):
        icd.keep_activations(net(), loaders()["primary"], cache=tmp_path, **options)
    with caplog.at_level(logging.WARNING, logger="immucond"):
        done = icd.immunize(net(), **loaders(), cache=tmp_path, **options)
    assert "primary runs through the whole model in every epoch: they take" in caplog.text
    assert len(done.history["loss"]) == 2


def test_a_callback_stops():
    done = icd.immunize(
        net(), split="head", **loaders(), epochs=9, callback=lambda step, record: step == 3
    )
    assert len(done.history["loss"]) == 3


def test_bfloat16():
    model = net().bfloat16()
    tasks = {}
    for name, seed in (("primary", 1), ("harmful", 2)):
        x, y = data(40, seed)[:]
        tasks[name] = [(x.bfloat16(), y)]
    done = icd.immunize(model, split="head", **tasks, trainable="block2", epochs=2)
    assert np.isfinite(done.history["ill"]).all()


def test_a_short_last_batch_is_refused_before_training():
    refused(ValueError, "primary must have at least two samples", **loaders(65))
    kept = icd.keep_activations(net(), loaders(65)["harmful"], split="head", trainable="block2")
    refused(ValueError, "harmful must have at least two", harmful=kept, trainable="block2")
    with_drop = loaders(65, drop_last=True)
    assert len(icd.immunize(net(), split="head", **with_drop).history["loss"]) == 2


# ---- in somebody else's loop ----


class Trainer:
    """The part of Hugging Face's that the mix-in meets."""

    def __init__(self, model):
        self.model = model

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        x, y = inputs
        outputs = {"logits": model(x)}
        loss = nn.functional.cross_entropy(outputs["logits"], y)
        return (loss, outputs) if return_outputs else loss


class ImmunizingTrainer(icd.TrainerMixin, Trainer):
    pass


@pytest.mark.parametrize("lambdas", ["balance", (0.5, 3.0)])
def test_the_mixin_adds_the_terms(lambdas):
    model, (x, y), (x_H, _) = net(), data(40, 1)[:], data(40, 2)[:]
    trainer = ImmunizingTrainer(model)
    plain = trainer.compute_loss(model, (x, y))
    trainer.immunize_against([x_H], split="head", lambdas=lambdas)
    for _ in range(2):  # the harmful batches start anew
        total, outputs = trainer.compute_loss(model, (x, y), True, num_items_in_batch=40)
    assert outputs["logits"].shape == (40, 3)
    if lambdas != "balance":
        split = SplitModel(model, "head")
        expected = plain + ict.ImmunizationLoss(*lambdas)(split(x)[0], split(x_H)[0])
        assert torch.allclose(total, expected, rtol=1e-5)
    total.backward()
    assert model.stem.weight.grad.isfinite().all()
    with torch.no_grad():
        assert trainer.compute_loss(model, (x, y)) == plain  # evaluation stays as it was


def test_the_mixin_takes_no_statistics_of_what_is_harmful():
    found = []
    for against in (False, True):
        model, (x, y), (x_H, _) = net(), data(40, 1)[:], data(40, 2)[:]
        trainer = ImmunizingTrainer(model.train())
        model.drop.eval()
        if against:
            trainer.immunize_against([x_H * 5 + 1], split="head")
        trainer.compute_loss(model, (x, y)).backward()
        assert model.norm.training
        assert not model.drop.training
        found.append(model.norm.running_mean)
    assert torch.equal(*found)


def test_the_mixin_refuses():
    trainer = ImmunizingTrainer(net())
    with pytest.raises(ValueError, match="split must name"):
        trainer.immunize_against([], split="fc")
    with pytest.raises(ValueError, match="one that trains"):
        trainer.immunize_against([], split="head", method="closed_form")
    x, y = data(8, 1)[:]
    with pytest.raises(ValueError, match="harmful must have at least two samples"):
        trainer.immunize_against([(x, y), (x[:1], y[:1])], split="head")
    with pytest.raises(ValueError, match="harmful must be iterable any number of times"):
        trainer.immunize_against(iter([(x, y)]), split="head")
    trainer.immunize_against(Growing(), split="head")
    trainer.compute_loss(trainer.model, (x, y))
    with pytest.raises(ValueError, match="harmful must have at least two samples"):
        trainer.compute_loss(trainer.model, (x, y))
    with pytest.raises(ValueError, match="harmful has no batches"):
        trainer.immunize_against([], split="head")


# ---- the measure ----


def test_rir_is_that_of_the_groups():
    model = net()
    tasks = {name: [data(300, seed)[:]] for name, seed in (("primary", 1), ("harmful", 2))}
    done = icd.immunize(model, split="head", **tasks, method="closed_form")
    for ridge in (0.0, 1e-6):
        found = icd.rir(
            done.model, model, **tasks, split=(done.split, "head"), groups=6, size=50, ridge=ridge
        )
        assert found.rir.shape == (6,)
        assert np.allclose(found.rir, found.i / found.ii)
        assert np.isclose(found.mean, found.rir.mean())
        assert ("ridge 1e-06" in str(found)) == (ridge > 0)
        # The whole task as one group: what the closed form is measured by.
        whole = icd.rir(
            done.model, model, **tasks, split=(done.split, "head"), groups=1, size=300, ridge=ridge
        )
        Z = [features_of(m, s) for m, s in ((done.model, done.split), (model, "head"))]
        i, ii = (
            ic.condition_number(features=Z[0][at], ridge=ridge)
            / ic.condition_number(features=Z[1][at], ridge=ridge)
            for at in (1, 0)
        )
        assert np.isclose(whole.mean, i / ii, rtol=1e-9)
        assert whole.std == 0.0
    assert not model.training
    same = icd.rir(model, model, **tasks, split="head", groups=3, size=60)
    assert np.array_equal(same.rir, np.ones(3))


def features_of(model, split):
    with torch.no_grad():
        return [
            SplitModel(model, split)(data(300, seed)[:][0])[0].double().numpy() for seed in (1, 2)
        ]


def test_rir_refuses():
    with pytest.raises(ValueError, match="primary must have at least 100 samples, and has 64"):
        icd.rir(net(), net(), **loaders(), split="head")
    with pytest.raises(ValueError, match="size must be at least 2"):
        icd.rir(net(), net(), **loaders(), split="head", size=1)
    with pytest.raises(ValueError, match="split must be one name or that of each network"):
        icd.rir(net(), net(), **loaders(), split=("head", "head", "head"))
    x = torch.randn(8, 1, 6, 6)
    for harmful, message in (
        ([torch.randn(8, 1, 7, 6)], "does not run on a batch of harmful: mat1 and mat2"),
        ([], "harmful has no batches"),
        (iter([x]), "harmful must be iterable any number of times"),
    ):
        with pytest.raises(ValueError, match=message):
            icd.rir(net(), net(), [x], harmful, split="head", size=4)


MEASURED = {
    "rir": lambda model: icd.rir(model, net(), **loaders(), split="head", groups=2, size=20),
    "report": lambda model: icd.immunity_report(model, net(), **loaders(), split="head"),
    "kept": lambda model: icd.keep_activations(
        model, loaders()["primary"], split="head", trainable="block2"
    ),
}


@pytest.mark.parametrize("call", MEASURED)
def test_each_module_is_left_in_its_own_mode(call):
    model = net().train()
    model.norm.eval()  # frozen statistics, in a network that trains
    modes = [module.training for module in model.modules()]
    MEASURED[call](model)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("call", MEASURED)
def test_each_module_is_in_its_own_mode_after_an_interrupt_midway(call):
    class Interrupted(nn.Dropout):
        def train(self, mode=True):
            if not mode:
                raise KeyboardInterrupt
            return super().train(mode)

    model = net().train()
    model.drop = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        MEASURED[call](model)
    assert all(module.training for module in model.modules())


# ---- refused before any training ----


def refused(error, message, model=None, **changes):
    options = {"split": "head", **loaders(), "epochs": 1} | changes
    with pytest.raises(error, match=message):
        icd.immunize(net() if model is None else model, **options)


def test_names():
    refused(ValueError, "split must name a module.*'fc'.*'block2.0'", split="fc")
    refused(TypeError, "'block2' is a Sequential; linear layers are 'block1.1'", split="block2")
    refused(ValueError, "trainable must name a module.*'layer4'", trainable="layer4")
    refused(ValueError, "method must be one of", method="adam")


def test_batches():
    x, y = data(8, 1)[:]
    refused(ValueError, "primary must have at least two samples", primary=[(x[:1], y[:1])])
    refused(ValueError, "features of harmful are the same", harmful=[(torch.zeros_like(x), y)])
    refused(ValueError, "harmful must be finite", harmful=[(x * torch.nan, y)])
    refused(ValueError, "primary has no batches", primary=[])
    refused(ValueError, "primary must be iterable any number", primary=iter([(x, y)]))
    refused(ValueError, "primary must have labels", primary=[x])
    refused(ValueError, "harmful must have labels", harmful=[x], method="imma")
    refused(ValueError, "a batch must be", primary=[(x, y, y)])


def test_batches_that_the_loss_does_not_take():
    x, y = data(8, 1)[:]
    told = "loss and terms cannot be computed on a first batch of each task: "
    refused(ValueError, told + "Target 9 is out of bounds", primary=[(x, y + 9)])
    refused(ValueError, told + "Expected input batch_size", primary=[(x, y[:5])])
    refused(
        ValueError, told + "expected (target|scalar type)", harmful=[(x, y.float())], method="imma"
    )


def test_features_of_rank_1():
    model = net()
    with torch.no_grad():
        model.block2[0].weight[1:] = 0.0
        model.block2[0].bias.zero_()
    refused(ValueError, "r_ill is infinite", model=model)


class Growing:
    """Batches that nobody knows the sizes of beforehand."""

    def __iter__(self):
        x, y = data(8, 1)[:]
        return iter([(x, y), (x[:1], y[:1])])


def test_a_short_batch_is_named():
    x, y = data(8, 1)[:]
    steps = []
    options = {"callback": lambda step, _: steps.append(step)}
    few = [(x, y), (x[:1], y[:1])]
    refused(ValueError, "batch of primary must have at least two", primary=few, **options)
    assert steps == []
    two = [(x, y)] * 2
    told = "batch of harmful must have at least two samples, and one has 1"
    refused(ValueError, told, primary=two, harmful=Growing(), **options)
    assert steps == []
    fixed = options | {"lambdas": (0.1, 0.1)}  # for which no batches are looked at beforehand
    refused(ValueError, told, primary=two, harmful=Growing(), **fixed)
    assert steps == [1]


class Spoiled(icd.Objective):
    """A term whose value is finite, and whose gradient is not."""

    def terms(self, primary, harmful):
        return torch.sqrt(primary.features * 0.0).sum(), None


class Undefined(icd.Objective):
    """A term whose gradient is finite, and whose value is not."""

    def terms(self, primary, harmful):
        return primary.features.square().sum() + float("nan"), None


def test_a_value_that_is_not_finite():
    with pytest.raises(ic.ImmucondError, match="the primary term is not finite"):
        icd.immunize(net(), split="head", method=Undefined(), lambdas=(1.0, 0.0), **loaders())


@pytest.mark.parametrize("lambdas", ["balance", (1.0, 0.0)])
def test_a_gradient_that_is_not_finite(lambdas):
    told = "gradient of the primary term by the features is not finite"
    refused(ic.ImmucondError, told, method=Spoiled(), lambdas=lambdas)


def test_what_requires_a_gradient_stays_as_it_was():
    model = net()
    model.stem.requires_grad_(False)
    done = icd.immunize(model, split="head", **loaders(), trainable="block2")
    for given, got in zip(model.parameters(), done.model.parameters(), strict=True):
        assert got.requires_grad == given.requires_grad


@pytest.mark.parametrize("method", ["algorithm1", "closed_form", "fade"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_that_are_on_change_nothing(mode, method):
    options = {"split": "head", **loaders(), "method": method}
    model = net()
    wanted = icd.immunize(model, **options)
    with mode():
        found = icd.immunize(model, **options)
    assert states_equal(found.model, wanted.model)
    assert found.report == wanted.report
    assert all(p.grad is None and not p.is_inference() for p in found.model.parameters())


def test_numbers():
    refused(ValueError, "lambdas must be", lambdas="even")
    refused(ValueError, "lambdas must be", lambdas=3.0)
    refused(ValueError, r"lambda_H must be in", lambdas=(1.0, -1.0))
    refused(ValueError, "lr must be in", lr=-1.0)
    refused(ValueError, "epochs must be at least 0", epochs=-1)


def test_a_loss_that_diverges():
    refused(
        ic.ImmucondError,
        "primary loss is nan",
        loss=lambda logits, labels: logits.sum() * torch.nan,
    )


def test_widths():
    x, y = torch.randn(8, 1, 7, 6), torch.zeros(8).long()
    refused(ValueError, "does not run on a batch of harmful: mat1 and mat2", harmful=[(x, y)])

    class Flat(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Flatten(), nn.Linear(36, 2))

    told = r"of harmful: the features that enter '1' must have shape \(N, 36\).* shape \(8, 42\)"
    refused(ValueError, told, model=Flat(), split="1", harmful=[(x, y)])


def only_the_head(module):
    if isinstance(module, Net):
        module.head.requires_grad_()


def test_nothing_to_train():
    refused(ValueError, "no parameter of the trainable blocks", trainable="drop")
    model = net().requires_grad_(False)
    told = r"no parameter of what comes before the head.*as trainable, or call requires_grad_\(\)"
    refused(ValueError, told, model=model)
    refused(ValueError, told, model=net().requires_grad_(False).apply(only_the_head))
    model.block2.requires_grad_()  # the head stays as it is
    done = icd.immunize(model, split="head", **loaders())
    assert torch.equal(done.model.head.weight, model.head.weight)
    assert not torch.equal(done.model.block2[0].weight, model.block2[0].weight)


def test_features_must_be_rows():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 2)

        def forward(self, x):
            return self.head(x)

    refused(ValueError, r"must have shape \(N, 6\).*have shape \(32, 1, 6, 6\)", model=Tokens())


def test_activations_kept_once_serve_many_runs():
    model = net()
    tasks = loaders()
    kept = {
        name: icd.keep_activations(model, loader, split="head", trainable="block2")
        for name, loader in tasks.items()
    }
    options = {"split": "head", "trainable": "block2", "epochs": 2, "lr": 0.02}
    for seed in (0, 1):
        fresh, again = (
            icd.immunize(model, **options, **given, seed=seed).model for given in (tasks, kept)
        )
        assert states_equal(fresh, again)
    straight = {
        name: torch.utils.data.DataLoader(loader.dataset, batch_size=32)
        for name, loader in tasks.items()
    }
    found, wanted = (
        icd.rir(again, model, **given, split="head", groups=3, size=40)
        for given in (kept, straight)
    )
    np.testing.assert_allclose(found.rir, wanted.rir, rtol=1e-3)


def test_activations_of_other_weights_are_refused():
    model = net()
    kept = icd.keep_activations(model, loaders()["harmful"], split="head", trainable="block2")
    with torch.no_grad():
        model.block2[0].weight += 1.0  # what is trained may differ
    options = {"split": "head", "trainable": "block2", "epochs": 1}
    icd.immunize(model, primary=loaders()["primary"], harmful=kept, **options)
    with torch.no_grad():
        model.norm.running_mean += 1.0
    refused(
        ValueError, "what was kept of harmful is of other weights before", model,
        harmful=kept, trainable="block2",
    )  # fmt: skip


def test_a_forward_that_an_instance_has_stays_its_own():
    def doubled(module, x):
        return 2.0 * type(module).forward(module, x)

    model = net()
    model.stem.forward = MethodType(doubled, model.stem)  # as those who wrap layers do
    x = data(8, 1)[:][0]
    wanted = model(x)
    icd.keep_activations(model, loaders()["primary"], split="head", trainable="block2")
    assert torch.equal(model(x), wanted)
    done = icd.immunize(model, split="head", trainable="block2", **loaders(), epochs=0)
    assert torch.equal(done.model(x), wanted)


@pytest.mark.parametrize("trainable", [None, "block1", ["block1", "block2"]])
def test_activations_behind_what_is_to_be_trained_are_refused(trainable):
    kept = icd.keep_activations(net(), loaders()["harmful"], split="head", trainable="block2")
    refused(ValueError, "is to be trained, and what was kept", harmful=kept, trainable=trainable)


def test_activations_that_cannot_be_kept_are_refused():
    with pytest.raises(ValueError, match="reaches past them"):
        icd.keep_activations(net(Residual), loaders()["primary"], split="head", trainable="block2")
