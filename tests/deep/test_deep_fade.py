"""Label alignment for networks: fade, folded or inserted; descent on the alignment; the report."""

import math
import warnings

import numpy as np
import pytest
from torch_cases import torch
from torch_nets import Net, data, loaders, net, states_equal

import immucond as ic
import immucond.deep as icd
from immucond.deep._head import SplitModel

import transformers  # isort: skip  # after torch, which may be absent

nn = torch.nn
pytestmark = [
    pytest.mark.filterwarnings("ignore:the harmful task got easier"),
    pytest.mark.filterwarnings("ignore:the (primary|harmful) features have rank"),
]

WIDTH, CLASSES = 8, 3


def rows(seed, count=300, places=(0, 1)):
    """One batch: three classes by two of the inputs, which are large there."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 12, generator=generator) * torch.linspace(2.0, 0.7, 12)
    y = (x[:, places[0]] > 0).long() + (x[:, places[1]] > 0).long()
    return x, y


def tasks(count=300):
    return {"primary": [rows(1, count, (4, 5))], "harmful": [rows(2, count)]}


def chain(*between):
    """A linear layer, what stands between, and the head."""
    torch.manual_seed(0)
    layers = [nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, WIDTH), *between]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES)).eval()


def split_of(model):
    return [name for name, m in model.named_modules() if isinstance(m, nn.Linear)][-1]


def fade(model=None, given=None, **options):
    model = chain() if model is None else model
    given = tasks() if given is None else given
    return icd.immunize(model, split=split_of(model), **given, method="fade", **options)


def features(model, split, x):
    with torch.no_grad():
        return SplitModel(model.eval(), split)(x)[0].double().numpy()


def one_hot(y):
    return np.eye(int(y.max()) + 1)[y.numpy()]


def rho(Z, y):
    """By its definition, with an orthonormal basis of the features' range."""
    Z, Y = (A - A.mean(axis=0) for A in (Z, one_hot(y)))
    basis = np.linalg.svd(Z, full_matrices=False)[0]
    reached = np.sum((basis.T @ Y) ** 2)
    return float(np.sum((Z.T @ Y) ** 2) / (np.linalg.norm(Z, 2) ** 2 * reached))


def dense_map(Z_P, Z_H, y, tau):
    """The closed formula, by inverses."""
    b = (Z_H - Z_H.mean(axis=0)).T @ (one_hot(y) - one_hot(y).mean(axis=0))
    inverse = np.linalg.inv(Z_P.T @ Z_P)
    Pi = inverse @ b @ np.linalg.pinv(b.T @ inverse @ b, rcond=1e-10) @ b.T
    return np.eye(len(b)) - (1.0 - 1.0 / math.sqrt(tau)) * Pi


# ---- fade ----


@pytest.mark.parametrize("tau", [25.0, 1e4])
@pytest.mark.parametrize("between", [(), (nn.Tanh(),)], ids=["folded", "inserted"])
def test_features_are_those_of_the_formula_and_logits_stay(between, tau):
    model, given = chain(*between), tasks()
    done = fade(model, given, tau=tau)
    (x_P, _), (x_H, y_H) = given["primary"][0], given["harmful"][0]
    split = split_of(model)
    Z_P, Z_H = (features(model, split, x) for x in (x_P, x_H))
    A = dense_map(Z_P, Z_H, y_H, tau)
    for x, Z in ((x_P, Z_P), (x_H, Z_H)):
        served = features(done.model, done.split, x)
        assert np.allclose(served, Z @ A, atol=2e-5 * np.abs(Z).max())
        assert np.abs(served - Z).max() > 0.1 * np.abs(Z).max()  # the served ones did change
    with torch.no_grad():
        before, after = model(x_P), done.model(x_P)
    changed = float((after - before).abs().max() / before.abs().max())
    assert 0.0 < changed < 1e-4
    assert done.fade.logits_changed == pytest.approx(changed, rel=1e-3)
    assert done.history == {}


@pytest.mark.parametrize("between", [(), (nn.Tanh(),)], ids=["folded", "inserted"])
def test_rho_is_that_of_linear_fade_and_of_the_definition(between):
    model, given = chain(*between), tasks()
    x_H, y_H = given["harmful"][0]
    Z_P, Z_H = (features(model, split_of(model), batches[0][0]) for batches in given.values())
    done = fade(model, given)
    alone = ic.linear.fade(Z_P, Z_H, y_H.numpy(), computed_in="float32")
    assert done.fade.map.rho == pytest.approx(alone.rho, rel=1e-9)
    report = done.report
    assert report.reference_rho == pytest.approx(rho(Z_H, y_H), rel=1e-6)
    assert report.rho == pytest.approx(rho(features(done.model, done.split, x_H), y_H), rel=1e-6)
    assert report.rho == pytest.approx(alone.rho, rel=1e-2)  # features are in float32
    assert report.rho < 1e-3 < 0.1 < report.reference_rho
    told = f"rho {report.reference_rho:.3g} -> {report.rho:.3g}"
    assert told in repr(report)
    assert told in repr(done.fade)
    text = repr(done)
    assert f"fade=NetworkFade(A in {done.fade.place!r}" in text
    assert f"primary logits changed by {done.fade.logits_changed:.1e}" in text


def test_a_folded_map_is_in_the_weights_of_a_plain_network(tmp_path):
    model = chain(nn.Dropout(0.5), nn.Identity())
    done = fade(model)
    assert (done.split, done.fade.place, done.fade.inserted) == ("5", "2", False)
    assert type(done.model[2]) is type(done.model[5]) is nn.Linear
    assert done.model.state_dict().keys() == model.state_dict().keys()
    plain = chain(nn.Dropout(0.5), nn.Identity())
    plain.load_state_dict(done.model.state_dict())
    x, _ = rows(3)
    assert torch.equal(plain(x), done.model(x))
    assert np.array_equal(features(plain, "5", x), features(done.model, "5", x))
    for name in ("0.weight", "0.bias"):  # what stands before is as it was
        assert torch.equal(plain.state_dict()[name], model.state_dict()[name])
    icd.save(done, tmp_path)
    assert states_equal(icd.load_saved(tmp_path, model), done.model)
    done.model[2].weight.requires_grad_()  # a parameter like any


class Config(transformers.PretrainedConfig):
    model_type = "immucond-test"

    def __init__(self, between=False, **others):
        super().__init__(**others)
        self.between = between


class Classifier(transformers.PreTrainedModel):
    """A projection right before the head, or a nonlinearity between the two."""

    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        self.body, self.projection = nn.Linear(12, 10), nn.Linear(10, WIDTH)
        self.classifier = nn.Linear(WIDTH, CLASSES)
        self.post_init()

    def forward(self, x):
        Z = self.projection(torch.tanh(self.body(x)))
        Z = torch.tanh(Z) if self.config.between else Z
        return {"logits": self.classifier(Z)}


def test_transformers_loads_a_folded_network(tmp_path):
    torch.manual_seed(0)
    options = {"split": "classifier", **tasks(), "method": "fade"}
    done = icd.immunize(Classifier(Config()), **options)
    assert done.fade.place == "projection"
    done.model.save_pretrained(tmp_path)
    again = Classifier.from_pretrained(tmp_path).eval()
    x, _ = rows(3)
    assert torch.equal(again(x)["logits"], done.model(x)["logits"])
    served = features(again, "classifier", x)
    assert np.array_equal(served, features(done.model, done.split, x))
    inserted = icd.immunize(Classifier(Config(between=True)), **options)
    assert inserted.fade.place == "classifier.0"
    with pytest.raises(TypeError, match=r"save_pretrained does not know .* fade's"):
        inserted.model.save_pretrained(tmp_path)


def test_layers_without_a_bias_and_in_half_precision():
    model = chain()
    model[2], model[3] = nn.Linear(10, WIDTH, bias=False), nn.Linear(WIDTH, CLASSES, bias=False)
    assert fade(model).fade.place == "2"
    half = {name: [(x.half(), y) for x, y in given] for name, given in tasks().items()}
    done = fade(chain().half(), half, tau=25.0)
    assert done.model[2].weight.dtype == torch.float16
    assert 1e-5 < done.fade.logits_changed < 1e-2


class Between(nn.Module):
    """What comes between a linear layer and the head is as the kind says."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.seen = kind, None
        self.front, self.body = nn.Linear(12, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.inplace, self.head = nn.ReLU(inplace=True), nn.Linear(WIDTH, CLASSES)
        if kind == "parametrized":
            nn.utils.parametrizations.weight_norm(self.body)
        if kind == "tied":
            self.front.weight = nn.Parameter(torch.randn(WIDTH, 12))
            self.twin = nn.Linear(WIDTH, WIDTH)
            self.twin.weight = self.body.weight
        if kind == "memory":
            self.other = nn.Parameter(self.body.weight.detach()[:2])
        if kind == "hook":
            self.body.register_forward_hook(lambda *of: of[2] * 2.0)

    def forward(self, x):
        early = torch.tanh(self.front(x))
        Z = self.body(early)
        if self.kind == "twice":
            Z = self.body(Z)
        if self.kind == "in place":
            Z = self.inplace(Z)
        if self.kind == "residual":
            Z = Z + early
        if self.kind == "weight":
            Z = Z + self.body.weight.sum() * 0.0
        logits = self.head(Z)
        if self.kind == "read":
            self.seen = Z.abs().sum()
        if self.kind == "penalty":
            logits = logits + Z.mean(1, keepdim=True)
        return {"logits": logits, "features": Z}


KINDS = ["twice", "in place", "residual", "weight", "read", "parametrized", "tied", "memory",
         "hook"]  # fmt: skip


@pytest.mark.parametrize("kind", ["plain", *KINDS])
def test_a_layer_is_folded_where_the_head_alone_reads_it(kind):
    model = Between(kind).eval()
    done = icd.immunize(model, split="head", **tasks(), method="fade")
    assert done.fade.inserted == (kind != "plain")
    assert done.fade.place == ("body" if kind == "plain" else "head.0")
    x, _ = rows(3)
    with torch.no_grad():
        before, after = model(x), done.model(x)
    assert torch.allclose(before["logits"], after["logits"], atol=1e-4)
    if kind == "plain":  # features that the network returns are the faded ones
        assert np.array_equal(after["features"].numpy(), features(done.model, "head", x))


class Named(nn.Module):
    """A network that gives its head the features by name."""

    def __init__(self, model):
        super().__init__()
        self.body, self.head = model[:-1], model[-1]

    def forward(self, x):
        return self.head(input=self.body(x))


@pytest.mark.parametrize("method", ["fade", "closed_form", "alignment"])
def test_features_may_enter_the_head_by_name(method):
    plain = chain()
    wanted = icd.immunize(plain, split=split_of(plain), **tasks(), method=method)
    found = icd.immunize(Named(plain), split="head", **tasks(), method=method)
    assert found.report.kappa_H == wanted.report.kappa_H
    if method == "fade":
        assert found.fade.form == wanted.fade.form == "folded"


def test_what_reads_the_features_beside_the_head_keeps_them():
    """The map is put after that reader, which sees the features as before."""
    model = Between("penalty").eval()
    done = icd.immunize(model, split="head", **tasks(), method="fade")
    assert done.fade.inserted
    x, _ = rows(3)
    assert torch.allclose(model(x)["logits"], done.model(x)["logits"], atol=1e-4)


def test_from_kept_activations_the_map_is_folded_too():
    class Plain(Net):
        def __init__(self):
            super().__init__()
            self.block2 = nn.Linear(12, 8)

    model = net(Plain)
    kept = {
        name: icd.keep_activations(model, loader, split="head", trainable="block2")
        for name, loader in loaders(200, 50).items()
    }
    done = icd.immunize(model, split="head", **kept, method="fade")
    assert done.fade.place == "block2"
    x, _ = data(50, 3)[:]
    assert torch.allclose(model(x), done.model(x), atol=1e-3)
    whole = icd.immunize(model, split="head", **loaders(200, 50), method="fade")
    assert np.allclose(done.fade.map.theta, whole.fade.map.theta, atol=1e-4)


def test_probes_get_slower():
    unseen = [rows(3, 600, (4, 5))], [rows(4, 600)]
    done = fade(given=tasks(6000), held_out=unseen)
    assert done.report.accuracy[0] == done.report.accuracy[1]
    for name in ("sgd", "adam"):
        before, after = done.report.probes[name]
        assert after < 0.55 < 0.6 < before  # the largest class has half the rows
    x, y = rows(2, 6000)
    curves = []
    for model in (chain(), done.model):
        Z, Z_test = (
            torch.from_numpy(features(model, "3", of)).float() for of in (x, unseen[1][0][0])
        )
        found = icd.linear_probes((Z, y), (Z_test, unseen[1][0][1]), attackers=["sgd", "adam"])
        curves.append({name: np.asarray(found[name]["accuracy"]) for name in found})
    for name in ("sgd", "adam"):
        assert curves[1][name].max() < curves[0][name].max() - 0.1


def test_targets_are_labels_too():
    given = tasks()
    x, y = given["harmful"][0]
    columns = torch.nn.functional.one_hot(y).float()
    found = [fade(given=given | {"harmful": [(x, labels)]}) for labels in (y, y + 7, columns)]
    for other in found[1:]:
        assert np.allclose(found[0].fade.map.theta, other.fade.map.theta, atol=1e-10)
    assert found[2].report.rho is None  # columns are no classes
    assert "rho" not in repr(found[2].report)
    fade(given=given | {"harmful": [(x, x[:, 0])]})


# ---- what fade refuses ----


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tau": 0.5}, ValueError, r"tau must be in \[1, inf\), and is 0\.5"),
        ({"tau": math.nan}, ValueError, "tau must be"),
        ({"tau": "10"}, TypeError, "tau must be a real number"),
        ({"tau": math.inf}, ValueError, r"no inverse for the head.*immucond\.linear\.fade\(.*inf"),
        ({"tau": np.float32(np.inf)}, ValueError, "tau must be finite"),
        ({"delta": (0.1, 0.2)}, TypeError, "delta must be a real number"),
        ({"delta": -1.0}, ValueError, "delta must be"),
    ],
)
def test_numbers_that_are_none_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        fade(**options)


def test_labels_that_are_none_are_refused():
    given = tasks()
    x, y = given["harmful"][0]
    for harmful, message in (
        ([x], r"harmful must have labels: batches \(inputs, labels\)"),
        ([(x, y), x], "harmful must have labels for fade"),
        ([(x, 2 * y - 1)], "harmful must count classes from 0, and holds -1"),
        ([(x, torch.zeros(len(x)).long())], r"their labels Y_H: Y_H is constant"),
        ([(x, torch.arange(len(x)))], "a row a class tells features nothing"),
    ):
        with pytest.raises(ValueError, match=message):
            fade(given=given | {"harmful": harmful})


def test_logits_that_rounding_would_change_are_refused():
    model = chain()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"change primary logits by \S+ of the largest.*1e\+16.*mod"
    ):
        fade(model, tau=1e16)
    for name, x in model.state_dict().items():
        assert torch.equal(x, before[name])
    double = {name: [(x.double(), y) for x, y in given] for name, given in tasks().items()}
    assert fade(chain().double(), double, tau=1e16).fade.logits_changed < 1e-2
    low = {name: [(x.bfloat16(), y) for x, y in given] for name, given in tasks().items()}
    with pytest.raises(ValueError, match=r"torch\.bfloat16.*smaller tau \(it is 10000\)"):
        fade(chain().bfloat16(), low)


def test_delta_keeps_the_map_near_the_identity():
    """Directions that primary rows hardly use cost nothing, and a large condition number."""
    model = chain()
    with torch.no_grad():
        model[2].weight[-1] *= 1e-4
    plain, damped = fade(model), fade(model, delta=1.0)
    assert damped.fade.map.delta == 1.0
    assert damped.fade.map.kappa < plain.fade.map.kappa


# ---- descent on the alignment ----


def align(given, **options):
    model = chain(nn.Tanh())
    return icd.immunize(model, split="4", **given, method="alignment", **options), model


def test_alignment_training_lowers_rho_at_the_same_accuracy():
    x_H, y_H = rows(2, 600)
    given = {
        name: torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*pair), batch_size=100, shuffle=True
        )
        for name, pair in (("primary", rows(1, 600, (4, 5))), ("harmful", (x_H, y_H)))
    }
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, CLASSES))
    options = {"split": "1", **given, "epochs": 15, "lr": 0.03}
    trained = icd.immunize(base, **options, method="alignment", lambdas=(0.0, 0.0)).model
    done = icd.immunize(trained, **options, method="alignment")
    had, has = done.report.accuracy
    assert has > had - 0.01 > 0.7
    assert done.report.rho < 0.1 * done.report.reference_rho
    for model, found in ((trained, done.report.reference_rho), (done.model, done.report.rho)):
        assert found == pytest.approx(rho(features(model, "1", x_H), y_H), rel=1e-5)
    without = icd.immunize(trained, **options, method="alignment", lambdas=(0.0, 0.0))
    assert done.report.rho < 0.1 * without.report.rho
    assert done.history["ill"][-1] < done.history["ill"][0] - 1.0
    assert not done.history["lambda_P"].any()
    assert not done.history["well"].any()
    assert done.report.probes["adam"][1] < done.report.probes["adam"][0] - 0.05


def test_the_term_is_the_logarithm_of_the_alignment():
    """In the first step; with all label energy in place of what features reach."""
    given = tasks(100)
    done, model = align(given, lambdas=(0.0, 1.0))
    x, y = given["harmful"][0]
    Z, Y = features(model, "4", x), one_hot(y)
    Z, Y = Z - Z.mean(axis=0), Y - Y.mean(axis=0)
    wanted = np.sum((Z.T @ Y) ** 2) / (np.linalg.norm(Z, 2) ** 2 * np.sum(Y**2))
    assert done.history["ill"][0] == pytest.approx(math.log(wanted), rel=1e-6)
    for labels in (y * 10 - 3, one_hot(y)):
        labels = torch.as_tensor(labels)
        same, _ = align(given | {"harmful": [(x, labels)]}, lambdas=(0.0, 1.0))
        assert same.history["ill"][0] == pytest.approx(math.log(wanted), rel=1e-6)


def test_samples_without_a_label_that_counts_are_not_in_the_alignment():
    given, (x, y) = tasks(100), rows(2, 200)
    left = given | {"harmful": [(x[50:], y[50:])]}
    wanted, _ = align(left, lambdas=(0.0, 1.0))
    y = torch.cat([torch.full_like(y[:50], -100), y[50:]])
    found, _ = align(given | {"harmful": [(x, y)]}, lambdas=(0.0, 1.0))
    assert found.history["ill"] == pytest.approx(wanted.history["ill"], rel=1e-6)
    none = [(x, torch.full_like(y, -100))]  # nothing to align with
    assert not align(given | {"harmful": none}, lambdas=(0.0, 1.0))[0].history["ill"].any()


def test_a_batch_of_one_class_contributes_nothing():
    x, y = rows(2, 200)
    alone, mixed = (x[y == 1], y[y == 1]), (x, y)
    primary = [rows(1, 100, (4, 5))] * 4
    plain, _ = align({"primary": primary, "harmful": [mixed]}, lambdas=(0.0, 0.0))
    none, _ = align({"primary": primary, "harmful": [alone]}, lambdas=(0.0, 1.0))
    assert states_equal(plain.model, none.model)
    assert not none.history["ill"].any()
    assert not none.history["grad_ill"].any()
    both = {"primary": primary, "harmful": [alone, mixed]}
    for options in ({}, {"lambdas": "balance"}, {"terms": (0.0, 5.0)}):
        history = align(both, **options)[0].history
        assert list(history["ill"] != 0.0) == [False, True, False, True]
        assert (history["lambda_H"][1::2] > 0.0).all()
        assert all(np.isfinite(values).all() for values in history.values())
    with pytest.raises(ic.ImmucondError, match=r"labels of one class each\. Shuffle them"):
        align({"primary": primary, "harmful": [alone]})


def test_balance_after_a_batch_of_one_class_goes_on_from_a_checkpoint(tmp_path):
    x, y = rows(2, 200)
    harmful = [(x[y == 1], y[y == 1]), (x, y)]
    given = {"primary": [rows(1, 100, (4, 5))] * 4, "harmful": harmful}
    whole, _ = align(given, lambdas="balance", epochs=2)
    options = {"lambdas": "balance", "epochs": 2, "checkpoint": tmp_path / "run.pt"}
    align(given, **options, callback=lambda step, _: step == 3)
    again, _ = align(given, **options)
    assert states_equal(whole.model, again.model)
    assert np.array_equal(whole.history["lambda_H"], again.history["lambda_H"])


def test_alignment_refuses_what_it_does_not_have():
    given = tasks(100)
    x, _ = given["harmful"][0]
    with pytest.raises(ValueError, match="harmful must have labels"):
        align(given | {"harmful": [x]})
    with pytest.raises(
        ValueError, match=r"computed_in is for methods .*IMMA and alignment have none"
    ):
        align(given, computed_in="float32")
    with pytest.raises(ValueError, match="alone have tau"):
        align(given, tau=10.0)


# ---- the report ----


def test_a_report_of_other_networks_has_rho_too():
    model, given = chain(nn.Tanh()), tasks()
    done = icd.immunize(model, split="4", **given, method="closed_form")
    x, y = given["harmful"][0]
    assert done.report.reference_rho == pytest.approx(rho(features(model, "4", x), y), rel=1e-6)
    after = rho(features(done.model, done.split, x), y)
    assert done.report.rho == pytest.approx(after, rel=1e-5)
    for labels in (torch.zeros(len(x)).long(), torch.arange(len(x)), x[:, 0]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ic.ImmunityWarning)
            found = icd.immunity_report(
                model, model, given["primary"], [(x, labels)], split="4", harmful_train=[(x, y)]
            )
        assert found.rho is None
        assert found.reference_rho is None


def test_weights_beyond_the_range_of_their_dtype_are_refused_by_their_names():
    model = chain()
    with torch.no_grad():
        model[-1].weight.mul_(1e36)
    with pytest.raises(ValueError, match=r"'2' or of the head beyond the range of torch\.float32"):
        fade(model, tau=1e8)
    done = fade(
        model.double(), {k: [(x.double(), y) for x, y in v] for k, v in tasks().items()}, tau=1e8
    )
    assert done.fade.form == "folded"
