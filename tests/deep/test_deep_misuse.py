"""What `immunize` is given by mistake: it says so, or does the right thing; never a silent no."""

import math

import numpy as np
import pytest
from torch_cases import torch
from torch_nets import data, loaders, net

import immucond as ic
import immucond.deep as icd
import immucond.torch as ict

nn = torch.nn
pytestmark = [
    pytest.mark.filterwarnings("ignore:the harmful task got easier"),
    pytest.mark.usefixtures("short_probes"),
]


def immunize(model=None, **changes):
    return icd.immunize(
        net() if model is None else model, **{"split": "head", **loaders(), **changes}
    )


# ---- weights ----


@pytest.mark.parametrize(
    ("method", "default"),
    [
        ("algorithm1", (1, 10)),
        ("r_ill", (0, 3)),
        ("imma", (0, 3)),
        ("opt_kappa", (1, 0.03)),
        ("alignment", (0, 0.3)),
    ],
)
def test_terms_are_so_large_at_the_start(method, default):
    """On one pair of batches, so that their mean is that of the first step."""
    one = {"primary": [data(64, 1)[:]], "harmful": [data(64, 2)[:]]}
    lacking = method in ("r_ill", "imma", "alignment")
    for terms in (None, (0.0 if lacking else 0.5, 7.0)):
        history = immunize(**one, method=method, terms=terms).history
        for wanted, weight, term in zip(
            default if terms is None else terms,
            ("lambda_P", "lambda_H"),
            ("well", "ill"),
            strict=True,
        ):
            got = history[weight][0] * abs(history[term][0])
            if term == "well" and lacking:
                assert got == 0.0  # there is no such term
            else:
                assert got == pytest.approx(wanted, rel=1e-5)


def test_the_defaults_are_those_of_the_published_results():
    from immucond.deep._descent import LR
    from immucond.deep._objectives import OBJECTIVES
    from immucond.experiments.deep import METHODS

    for method in METHODS.values():
        if method.fit in OBJECTIVES:
            assert method.parameters["terms"] == OBJECTIVES[method.fit].sizes
            assert method.parameters["lr"] == LR


def test_a_mean_of_batches_sets_the_weights():
    history = immunize(epochs=1, lr=0.0, terms=(1.0, 10.0)).history
    assert np.ptp(history["lambda_H"]) == 0.0
    batches = history["ill"]  # all of them, whose mean the weights are of
    assert history["lambda_H"][0] * batches.mean() == pytest.approx(10.0, rel=0.5)


def test_a_term_that_is_zero_has_no_size():
    class Nothing(icd.Objective):
        def terms(self, primary, harmful):
            return 0.0 * primary.features.sum(), harmful.features.square().sum()

    with pytest.raises(ic.ImmucondError, match=r"no weight makes the primary term.*terms says, 1"):
        immunize(method=Nothing())
    assert immunize(method=Nothing(), terms=(0, 1)).history["lambda_P"][0] == 0.0


def test_balanced_weights_do_not_run_away():
    """R_ill falls by orders of magnitude, and its gradient with it."""
    history = immunize(
        lambdas="balance", method="r_ill", trainable="block2", epochs=40, lr=0.05
    ).history
    grown = history["grad_loss"] / history["grad_ill"] / history["lambda_H"][0]
    assert grown.max() > 11.0  # what a balance without a cap would have taken
    assert (history["lambda_H"] / history["lambda_H"][0]).max() == pytest.approx(10.0)


@pytest.mark.parametrize(
    "kind", [list, np.array, torch.tensor, lambda x: [np.float32(v) for v in x],
             lambda x: [torch.tensor(v) for v in x]],
)  # fmt: skip
def test_weights_of_any_kind_are_numbers(kind, tmp_path):
    wanted = immunize(lambdas=(0.5, 7.0)).history
    for given in (
        {"lambdas": kind((0.5, 7.0))},
        {"lambdas": kind((0.5, 7.0)), "seed": np.int64(0)},
    ):
        history = immunize(**given, checkpoint=tmp_path / "run.pt").history
        assert np.array_equal(history["loss"], wanted["loss"])


@pytest.mark.parametrize("name", ["lambdas", "terms"])
def test_a_parameter_as_a_weight_is_refused(name):
    lambda_H = nn.Parameter(torch.tensor(3.0))
    for given in ((1.0, lambda_H), nn.Parameter(torch.ones(2)), torch.stack([lambda_H, lambda_H])):
        with pytest.raises(TypeError, match="requires a gradient, which would end here"):
            immunize(**{name: given})
    with pytest.raises(TypeError, match=r"lambda_H must be a number.*lambda_H\.item\(\)"):
        ict.ImmunizationLoss(1.0, lambda_H)
    with pytest.raises(ValueError, match=r"give either lambdas.*or terms"):
        immunize(lambdas=(1, 1), terms=(1, 1))


@pytest.mark.parametrize("method", ["r_ill", "imma", "alignment"])
@pytest.mark.parametrize("name", ["terms", "lambdas"])
def test_a_weight_for_a_term_that_the_method_lacks_is_refused(method, name):
    told = rf"{name} must be 0 for a term .*, and is 5 for the primary one"
    with pytest.raises(ValueError, match=told):
        immunize(method=method, **{name: (5.0, 1.0)})
    immunize(method=method, **{name: (0.0, 1e-3)}, lr=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)}, "and is a SGD"),
        ({"optimizer": lambda parameters: parameters}, "and makes a list"),
        ({"lr": "0.1"}, "lr must be a real number, and is '0.1'"),
        ({"momentum": b"0.1"}, "momentum must be a real number, and is b'0.1'"),
        ({"terms": ("1", "2")}, r"terms\[0\] must be a real number, and is '1'"),
    ],
)
def test_optimizers_are_made_and_numbers_are_no_text(given, message):
    with pytest.raises(TypeError, match=message):
        immunize(**given)


# ---- divergence ----


def test_a_run_that_diverges_gives_back_the_last_good_network():
    seen = []

    def keep(step, record):
        seen.append(record)

    def loss(logits, labels):
        value = nn.functional.cross_entropy(logits, labels)
        return value if len(seen) < 3 else value * torch.inf

    states = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            states.append([p.detach().clone() for p in self.param_groups[0]["params"]])
            return super().step(closure)

    with pytest.raises(
        ic.DivergenceError, match=r"diverged in step 4: the primary loss is inf"
    ) as error:
        immunize(
            loss=loss, epochs=9, callback=keep, trainable="block2", lambdas=(0.1, 0.1),
            optimizer=lambda parameters: Watched(parameters, lr=1e-2),
        )  # fmt: skip
    done = error.value.result
    assert len(done.history["loss"]) == len(seen) == 3
    assert np.array_equal(done.history["ill"], [record["ill"] for record in seen])
    moved = [*done.model.block2.parameters(), *done.model.head.parameters()]
    for parameter in moved:  # as before the third step, where its record was taken
        assert any(torch.equal(parameter, old) for old in states[2])
    assert done.report.i > 0.0
    assert done.model.stem.weight.requires_grad


@pytest.mark.parametrize("lr", [1e3, 1e30])
def test_an_adversarial_learning_rate_loses_neither_network_nor_history(lr):
    with pytest.raises(ic.DivergenceError) as error:
        immunize(epochs=30, lr=lr, lambdas="balance")
    done = error.value.result
    assert all(bool(p.isfinite().all()) for p in done.model.parameters())
    assert np.isfinite(list(done.history.values())).all()


def test_what_diverges_at_once_has_no_result():
    with pytest.raises(ic.ImmucondError, match="primary loss is nan") as error:
        immunize(loss=lambda logits, labels: logits.sum() * torch.nan)
    assert not isinstance(error.value, ic.DivergenceError)


# ---- arguments of other methods ----


@pytest.mark.parametrize(
    "given",
    [
        {"epochs": 3}, {"lambdas": (1, 1)}, {"terms": (1, 1)}, {"lr": 0.1},
        {"momentum": 0.5}, {"loss": nn.functional.cross_entropy}, {"optimizer": torch.optim.Adam},
        {"checkpoint": "run.pt"}, {"checkpoint_every": 1}, {"callback": print}, {"cache": "."},
        {"deterministic": True},
    ],
    ids=lambda given: next(iter(given)),
)  # fmt: skip
@pytest.mark.parametrize("method", ["closed_form", "fade"])
def test_the_closed_form_and_fade_refuse_what_they_do_not_have(method, given):
    with pytest.raises(ValueError, match=f"does not train.*, and has no {next(iter(given))}"):
        immunize(method=method, **given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"loss": nn.functional.cross_entropy}, "imitates the network's own logits.* no loss"),
        ({"momentum": 0.5}, "takes Adam, and has no momentum"),
        ({"lambdas": "balance"}, "must be two numbers for distillation.* has not moved"),
        ({"kappa_P": 2.0}, "only the closed form has kappa_P"),
        ({"trainable": "nowhere"}, "trainable must name a module"),
        ({"tau": math.inf}, "tau must be finite"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_distillation_refuses_what_it_does_not_have(given, told):
    with pytest.raises(ValueError, match=told):
        immunize(**{"method": "fade", "trainable": "block2", **given})


def test_the_closed_form_has_no_trainable_blocks():
    with pytest.raises(ValueError, match="does not train, and has no trainable"):
        immunize(method="closed_form", trainable="block2")


def test_others_refuse_what_the_closed_form_and_fade_have():
    with pytest.raises(ValueError, match="the closed form and fade alone have kappa_P, delta, tau"):
        immunize(kappa_P=2.0, delta=0.1, tau=10.0)
    with pytest.raises(ValueError, match="only fade has tau"):
        immunize(method="closed_form", tau=10.0)
    with pytest.raises(ValueError, match="only the closed form has kappa_P"):
        immunize(method="fade", kappa_P=10.0)
    with pytest.raises(ValueError, match="an optimizer of one's own has its own lr"):
        immunize(optimizer=torch.optim.Adam, lr=0.1)


# ---- data and heads ----


def test_rows_in_the_place_of_a_loader():
    x, y = data(64, 1)[:]
    for given in ((x, y), (x.numpy(), y.numpy()), (x, y.tolist()), x, x.numpy()):
        for name in ("primary", "harmful"):
            told = rf"{name} must be a loader.*DataLoader\(TensorDataset\(X, y\)"
            with pytest.raises(TypeError, match=told):
                immunize(**{name: given})
    told = "a batch of primary must hold tensors, and holds NumPy arrays"
    with pytest.raises(TypeError, match=told):
        immunize(primary=[(x.numpy(), y.numpy())])
    immunize(harmful=(x[:32], x[32:]))  # two batches of inputs


def test_places_are_not_samples():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.body(x[:, 0])).mean(1)

    told = r"have shape \(32, 6, 6\).*logits of shape \(32, 2\): neither one row a token.*Pool the"
    with pytest.raises(ValueError, match=told):
        immunize(Tokens())


class Adapter(nn.Module):
    """As PEFT wraps a linear layer."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer

    def forward(self, x):
        return self.base_layer(x)


def test_an_adapter_around_the_head_is_told():
    model = net()
    model.head = Adapter(model.head)
    told = r"'head' is a Adapter of .*an adapter around 'head.base_layer': name the one.*merge"
    with pytest.raises(TypeError, match=told):
        immunize(model)
    assert immunize(model, split="head.base_layer").split == "head.base_layer"


def test_one_sample_has_no_condition_number():
    x, y = data(64, 1)[:]
    for name in ("primary", "harmful"):
        with pytest.raises(ValueError, match=f"a batch of {name} must have at least two samples"):
            immunize(**{name: [(x[:1], y[:1])]})


class Answering(nn.Module):
    """A network whose output is a mapping, in which nothing is called logits."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return {"scores": self.net(x)}


def test_a_loss_that_is_no_tensor_is_told():
    with pytest.raises(ValueError, match="loss and terms cannot be computed on a first batch"):
        immunize(loss=lambda *_: 1.0)


def test_a_mapping_without_logits_is_told():
    tasks = loaders()
    for call in (
        lambda: immunize(Answering(), split="net.head"),
        lambda: icd.record(Answering(), tasks["primary"], "net.head", of="gradient"),
        lambda: icd.leak_profile(Answering(), **tasks, held_out=tasks["harmful"]),
        lambda: icd.attack_cost(Answering(), tasks["harmful"], split="net.head"),
    ):
        with pytest.raises((TypeError, ValueError), match="as 'logits', and returned a dict"):
            call()


TAKES_NETWORKS = {
    "immunize": immunize,
    "record": lambda model: icd.record(model, loaders()["primary"], "*"),
    "keep_activations": lambda model: icd.keep_activations(
        model, loaders()["primary"], split="head", trainable="block2"
    ),
    "rir": lambda model: icd.rir(model, net(), **loaders(), split="head"),
    "immunity_report": lambda model: icd.immunity_report(model, net(), **loaders(), split="head"),
    "monitor": lambda model: icd.Monitor(*loaders().values(), split="head").measure(model),
    "leak_profile": lambda model: icd.leak_profile(
        model, **loaders(), held_out=loaders()["harmful"]
    ),
    "attack_cost": lambda model: icd.attack_cost(model, loaders()["harmful"], split="head"),
}


@pytest.mark.parametrize("call", TAKES_NETWORKS)
@pytest.mark.parametrize(
    ("model", "error", "told"),
    [
        ("net.pt", TypeError, r"a network must be a torch.nn.Module, and is a str"),
        (net().to("meta"), ValueError, "must be there, and are on the device meta"),
        (nn.Identity(), ValueError, "there are none|matches none|no block of the network"),
    ],
)
def test_what_is_no_network_or_has_no_weights_is_told(call, model, error, told):
    with pytest.raises(error, match=told):
        TAKES_NETWORKS[call](model)


WITH_PATHS = {
    "immunize": lambda path: immunize(checkpoint=path),
    "record": lambda path: icd.record(net(), loaders()["primary"], "*", checkpoint=path),
    "attack": lambda path: icd.attack(
        net(), loaders()["harmful"], held_out=loaders()["harmful"], split="head",
        attackers=["lstsq"], trials=1, scratch=False, checkpoint=path,
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", WITH_PATHS)
def test_what_is_no_path_is_told_by_its_argument(call):
    with pytest.raises(TypeError, match="checkpoint must be a path, and is 3"):
        WITH_PATHS[call](3)


def test_a_cache_and_a_folder_that_are_no_path_are_told():
    with pytest.raises(TypeError, match="cache must be a path, and is 3"):
        immunize(cache=3)
    with pytest.raises(TypeError, match="cache must be a path, and is 3"):
        icd.keep_activations(net(), loaders()["primary"], split="head", trainable="block2", cache=3)
    with pytest.raises(TypeError, match="folder must be a path, and is 3"):
        icd.load_saved(3, net())
