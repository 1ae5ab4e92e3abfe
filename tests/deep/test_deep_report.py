"""What `immunize` says it did: condition numbers, probes, warnings; and networks on disk."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from torch_cases import torch
from torch_nets import data, loaders, net

import immucond as ic
import immucond.deep as icd

nn = torch.nn

# What warns is tested where it is looked for.
pytestmark = pytest.mark.filterwarnings("ignore:the harmful task got easier")


class Blobs(nn.Module):
    """Features that are the inputs, so that their condition numbers are known."""

    def __init__(self, width=6):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(width, width, bias=False)
        with torch.no_grad():
            self.body.weight.copy_(torch.eye(width))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.body(x))


def rows(seed, stretch, count=400):
    """Three classes that lie along all directions, one batch."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    centres = torch.randn(3, 6, generator=torch.Generator().manual_seed(7))
    x = (centres[y] + torch.randn(count, 6, generator=generator)) * stretch
    return [(x, y)]


STRETCH = torch.logspace(0, 1.5, 6)
HARMFUL = STRETCH * torch.tensor([1.0, 0.3, 3.0, 0.3, 1.0, 3.0])


def tasks():
    """The primary features are badly conditioned, so that whitening them helps the harmful task."""
    return {"primary": rows(1, STRETCH), "harmful": rows(2, HARMFUL)}


def held_out():
    return rows(3, STRETCH), rows(4, HARMFUL)


def exact(batches, A):
    return float(np.linalg.cond(batches[0][0].double().numpy() @ A) ** 2)


@pytest.mark.parametrize("unseen", [False, True])
def test_the_report_is_that_of_numpy(unseen):
    given = {"held_out": held_out()} if unseen else {}
    done = icd.immunize(Blobs(), split="head", **tasks(), method="closed_form", **given)
    measured = held_out() if unseen else tuple(tasks().values())
    A = done.model.head[0].weight.detach().double().numpy().T
    found = done.report
    assert found.rows == ("held-out" if unseen else "immunized on")
    assert found.counts == (400, 400)
    for got, batches, map_ in (
        (found.kappa_P, measured[0], A),
        (found.kappa_H, measured[1], A),
        (found.reference_kappa_P, measured[0], np.eye(6)),
        (found.reference_kappa_H, measured[1], np.eye(6)),
    ):
        assert got == pytest.approx(exact(batches, map_), rel=1e-3)
    assert found.rir == pytest.approx(found.i / found.ii)
    logits = Blobs()(measured[0][0][0])
    right = float((logits.argmax(1) == measured[0][0][1]).double().mean())
    assert found.accuracy == (right, right)


def test_the_probes_are_such_as_a_user_would_train():
    done = icd.immunize(Blobs(), split="head", **tasks(), method="closed_form", held_out=held_out())
    (x, y), (x_test, y_test) = tasks()["harmful"][0], held_out()[1][0]
    assert set(done.report.probes) == {"sgd", "adam"}
    A = done.model.head[0].weight.detach().T
    for name, (before, after) in done.report.probes.items():
        for accuracy, map_ in ((before, torch.eye(6)), (after, A)):
            given = (x @ map_, y), (x_test @ map_, y_test)
            found = icd.linear_probes(*given, attackers=[name])
            assert found[name]["accuracy"][-1] == pytest.approx(accuracy, abs=0.01)
    # Where it is given the steps, it ends where scikit-learn does.
    best = LogisticRegression(C=1e6, max_iter=10_000, fit_intercept=False).fit(x, y)
    found = icd.linear_probes((x, y), (x_test, y_test), attackers=["adam"], epochs=300)
    assert found["adam"]["accuracy"][-1] == pytest.approx(best.score(x_test, y_test), abs=0.05)


def test_the_default_of_the_closed_form_leaves_kappa_p_and_raises_kappa_h():
    done = icd.immunize(Blobs(), split="head", **tasks(), method="closed_form")
    assert done.report.ii == pytest.approx(1.0, rel=1e-3)
    assert done.report.i > 2.0
    with pytest.warns(ic.ImmunityWarning, match=r"condition number is 0\.\d+ times.*\(i\)"):
        easier = icd.immunize(Blobs(), split="head", **tasks(), method="closed_form", kappa_P=1.0)
    assert easier.report.i < 0.5
    assert easier.report.rir > 2.0  # which says nothing of it


def test_a_probe_that_got_better_is_told():
    """(i) above 1 on one huge direction, and easier for the probe."""
    model = Blobs()
    scale = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1e-4])
    with torch.no_grad():
        model.body.weight.copy_(torch.diag(scale / STRETCH))
    harmful = rows(2, STRETCH)
    with pytest.warns(ic.ImmunityWarning, match=r"linear probe by sgd gets \d+\.\d%, and got"):
        found = icd.immunity_report(
            model, Blobs(), rows(1, STRETCH), rows(4, STRETCH), split="head", harmful_train=harmful
        )
    assert found.i > 1.0
    before, after = found.probes["sgd"]
    assert after > before


def test_without_classes_there_are_no_probes():
    x = tasks()["harmful"][0][0]
    for harmful in ([x], [(x, x[:, 0])], [(x, torch.zeros(len(x)).long())]):
        given = tasks() | {"harmful": harmful}
        done = icd.immunize(Blobs(), split="head", **given, method="closed_form")
        assert done.report.probes == {}
        assert done.report.accuracy is not None
    with pytest.raises(ValueError, match=r"held_out must be two loaders, \(primary, harmful\)"):
        icd.immunize(Blobs(), split="head", **tasks(), held_out=[tasks()])


def test_a_report_and_a_result_are_a_line():
    done = icd.immunize(Blobs(), split="head", **tasks(), method="closed_form")
    text = repr(done)
    assert text.startswith("DeepImmunization(split='head.1', report=DeepReport((i) ")
    assert len(text) < 240
    assert "\n" not in text
    assert "immunized on, 800 rows" in text


@pytest.mark.parametrize("method", ["algorithm1", "alignment", "closed_form", "fade"])
def test_measuring_leaves_the_training_as_it_is(method):
    """The same bits with rows held out and without."""
    found = []
    for given in ({}, {"held_out": held_out()}):
        done = icd.immunize(Blobs(), split="head", **tasks(), method=method, **given)
        found.append(done.model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


# ---- what is measured, and what is not ----


@pytest.fixture
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_by_default")
def test_the_report_does_not_depend_on_the_default_dtype():
    found = []
    model = Blobs().float()
    given = {name: [(x.float(), y) for x, y in task] for name, task in tasks().items()}
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        found.append(icd.immunize(model, split="head", **given, lambdas=(0, 0), lr=0.0).report)
    assert found[0].probes == found[1].probes
    assert len(found[0].probes) == 2


def test_what_cannot_be_measured_costs_nobody_the_network(tmp_path):
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))

    def dying(parameters):
        class Dying(torch.optim.SGD):
            def step(self):
                with torch.no_grad():
                    model_of(parameters).fill_(-1e6)

        return Dying(parameters, lr=0.1)

    def model_of(parameters):
        return parameters[1]  # the bias before the ReLU: all features are zero

    with pytest.warns(ic.ImmunityWarning, match="could not be measured, so that its report is No"):
        done = icd.immunize(model, split="2", **tasks(), lambdas=(0, 0), optimizer=dying)
    assert done.report is None
    assert len(done.history["loss"]) == 1
    icd.save(done, tmp_path)
    assert torch.equal(icd.load_saved(tmp_path, model)[0].bias, torch.full((5,), -1e6))


def test_whole_numbers_that_are_no_classes_get_neither_accuracy_nor_probes():
    (x, _), (x_H, y_H) = tasks()["primary"][0], tasks()["harmful"][0]
    many = torch.arange(len(x)) * 10**9  # columns that no memory holds
    settings = {"split": "head", "lambdas": (0, 0), "lr": 0.0}
    squared = {"loss": lambda logits, y: (logits[:, 0] - y / 1e12).square().mean()}
    done = icd.immunize(Blobs(), primary=[(x, many)], harmful=[(x_H, many)], **settings, **squared)
    assert (done.report.accuracy, done.report.probes) == (None, {})
    # Classes by any names are classes.
    plain = icd.immunize(Blobs(), primary=[(x, y_H)], harmful=[(x_H, y_H)], **settings)
    names = [(x_H, 10**9 * (y_H + 1))]
    named = icd.immunize(Blobs(), primary=[(x, y_H)], harmful=names, **settings)
    assert plain.report.probes == named.report.probes
    assert len(plain.report.probes) == 2


def test_one_logit_predicts_by_its_sign():
    model = Blobs()
    model.head = nn.Linear(6, 1)
    (x, y), harmful = tasks()["primary"][0], tasks()["harmful"]
    y = (y > 0).long()
    done = icd.immunize(
        model, split="head", primary=[(x, y)], harmful=harmful, lambdas=(0, 0), lr=0.0,
        loss=lambda a, b: nn.functional.binary_cross_entropy_with_logits(a[:, 0], b.float()),
    )  # fmt: skip
    right = float(np.mean((model(x)[:, 0].detach().numpy() > 0) == y.numpy()))
    assert done.report.accuracy == (right, right)
    assert 0.0 < right != float((y == 0).double().mean())


def with_weights(*diagonal):
    model = Blobs()
    with torch.no_grad():
        model.body.weight.copy_(torch.diag(torch.tensor(diagonal)))
    return model


def test_a_rank_that_changed_is_told_and_nothing_is_concluded_from_other_spectra():
    before, after = with_weights(1, 1, 1, 1, 1, 0.01), with_weights(1, 1, 1, 1, 1, 1e-9)
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    with pytest.warns(ic.ImmunityWarning) as told:
        found = icd.immunity_report(after, before, [x], [x.flip(1)], split="head")
    assert (found.reference_rank_H, found.rank_H) == (6, 5)
    assert (found.reference_rank_P, found.rank_P) == (6, 5)
    assert found.i < 0.1
    assert [str(w.message).partition(",")[0] for w in told] == [
        "the primary features have rank 5 and had rank 6",
        "the harmful features have rank 5 and had rank 6",
    ]
    assert "rank_P 6 -> 5, rank_H 6 -> 5" in repr(found)
    assert "easier" not in repr(found)


def test_what_got_easier_is_marked_where_it_is_printed():
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    models = with_weights(1, 1, 1, 1, 1, 0.5), with_weights(1, 1, 1, 1, 1, 0.01)
    with pytest.warns(ic.ImmunityWarning, match="the harmful task got easier"):
        found = icd.immunity_report(*models, [x], [x], split="head")
    assert "(the harmful task got easier)" in repr(found)
    ratio = icd.rir(*models, [x], [x], split="head", groups=2, size=50)
    assert "(the harmful task got easier)" in str(ratio)
    assert "(the harmful task got easier)" in repr(ratio)
    harder = icd.immunity_report(*models[::-1], [x], [x], split="head")
    assert "harmful task" not in repr(harder)


def test_the_report_is_in_the_precision_that_was_given():
    generator = torch.Generator().manual_seed(0)
    two = torch.randn(100, 2, generator=generator) @ torch.randn(2, 6, generator=generator)
    x = (two + 1e-9 * torch.randn(100, 6, generator=generator, dtype=torch.float64)).double()
    full = torch.randn(100, 6, generator=generator).double()
    model, y = Blobs().double(), torch.arange(100) % 3
    kept = {"split": "head", "lambdas": (0, 0), "lr": 0.0}
    found = {
        name: icd.immunize(
            model, primary=[(x, y)], harmful=[(full, y)], computed_in=name, **kept
        ).report
        for name in ("float32", "float64")
    }
    sigma = np.linalg.svd(x.numpy(), compute_uv=False)
    assert (found["float32"].rank_P, found["float64"].rank_P) == (2, 6)
    assert found["float32"].kappa_P == pytest.approx((sigma[0] / sigma[1]) ** 2)
    assert found["float64"].kappa_P == pytest.approx((sigma[0] / sigma[5]) ** 2, rel=1e-5)
    again = icd.immunity_report(model, model, [x], [full], split="head", computed_in=torch.float32)
    assert again.kappa_P == found["float32"].kappa_P


ROWS = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
BAD = {
    "nothing": ([], ValueError, "{} has no batches"),
    "None": (None, TypeError, "{} must be a loader or an iterable of batches, and is None"),
    "arrays": ([(ROWS.numpy(), [0] * 20)], TypeError, "a batch of {} must hold tensors"),
    "a pair": ((ROWS, torch.zeros(20)), TypeError, "{} must be a loader .* is a pair"),
    "an iterator": (iter([ROWS]), ValueError, "{} must be iterable any number of times"),
    "one row": ([ROWS[:1]], ValueError, "a batch of {} must have at least two samples"),
    "nan": ([ROWS * torch.nan], ValueError, "the features of {} must be finite"),
    "a width": ([ROWS[:, :5]], ValueError, "the model does not run on a batch of {}"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("which", [0, 1])
def test_rows_to_measure_on_are_inspected_as_those_to_immunize_on(case, which):
    bad, error, message = BAD[case]
    pair = [[ROWS], [ROWS.flip(1)]]
    pair[which] = bad
    name = ("primary", "harmful")[which]
    steps = []
    with pytest.raises(error, match=message.format(f"held_out {name}")):
        icd.immunize(Blobs(), split="head", **tasks(), held_out=pair,
                     callback=lambda step, _: steps.append(step))  # fmt: skip
    assert steps == []
    with pytest.raises(error, match=message.format(name)):
        icd.immunity_report(Blobs(), Blobs(), *pair, split="head")


def test_a_table_in_the_place_of_a_loader_is_refused():
    class DataFrame(list):  # iterates over the names of its columns, as those of pandas
        def to_numpy(self):
            return ROWS.numpy()

    table = DataFrame("abc")
    for call in (
        lambda: icd.immunize(Blobs(), split="head", primary=table, harmful=table),
        lambda: icd.immunity_report(Blobs(), Blobs(), table, table, split="head"),
    ):
        with pytest.raises(TypeError, match=r"primary must be a loader .* is a DataFrame"):
            call()


@pytest.mark.parametrize("measure", [icd.immunity_report, icd.rir])
@pytest.mark.parametrize("split", [3, None, ("head",), ("head", 3)])
def test_names_of_heads_are_names(measure, split):
    with pytest.raises(ValueError, match="split must be one name or that of each network"):
        measure(Blobs(), Blobs(), [ROWS], [ROWS], split=split)


# ---- on disk ----


@pytest.mark.parametrize("method", ["algorithm1", "alignment", "closed_form", "fade"])
def test_saved_networks_are_read_back_to_the_bit(method, tmp_path):
    done = icd.immunize(net(), split="head", **loaders(), method=method)
    icd.save(done, tmp_path / "release")
    again = icd.load_saved(tmp_path / "release", net())
    x = data(20, 5)[:][0]
    assert torch.equal(again(x), done.model(x))
    assert not again.training
    report = json.loads((tmp_path / "release" / "immucond.json").read_text())["report"]
    assert report["kappa_H"] == done.report.kappa_H
    found = icd.immunity_report(again, net(), *loaders().values(), split=(done.split, "head"))
    assert (found.i, found.ii) == (done.report.i, done.report.ii)
    # Nothing for Hugging Face to take for a network.
    assert {p.name for p in (tmp_path / "release").iterdir()} == {"weights.pt", "immucond.json"}


def test_weights_of_another_precision_are_refused(tmp_path):
    doubled = {name: [(x.double(), y) for x, y in task] for name, task in tasks().items()}
    done = icd.immunize(Blobs().double(), split="head", **doubled, method="closed_form")
    icd.save(done, tmp_path)
    x = doubled["primary"][0][0]
    assert torch.equal(icd.load_saved(tmp_path, Blobs().double())(x), done.model(x))
    told = r"'body.weight' is torch.float64 there and torch.float32 in model"
    with pytest.raises(ValueError, match=told):
        icd.load_saved(tmp_path, Blobs())


class Counting(Blobs):
    """A network that keeps more than tensors, as layers of one's own may."""

    kept = 1

    def get_extra_state(self):
        return {"kept": self.kept, "scale": [torch.ones(2)]}

    def set_extra_state(self, state):
        self.kept = state["kept"]


def test_what_a_module_keeps_beside_tensors_is_saved_and_tells_networks_apart(tmp_path):
    model = Counting()
    model.kept = 2
    options = {"split": "head", **tasks(), "checkpoint": tmp_path / "run.pt"}
    done = icd.immunize(model, **options)
    icd.save(done, tmp_path / "saved")
    assert icd.load_saved(tmp_path / "saved", Counting()).kept == 2
    with pytest.raises(ValueError, match=r"model is .* there and"):
        icd.immunize(Counting(), **options)
    (first, second) = (icd.record(m, tasks()["primary"], "head") for m in (model, Counting()))
    assert first.settings["model"] != second.settings["model"]


def test_what_is_no_saved_network_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no immucond\.json"):
        icd.load_saved(tmp_path, net())
    done = icd.immunize(Blobs(), split="head", **tasks(), method="closed_form")
    icd.save(done, tmp_path)
    with pytest.raises(ValueError, match="is of another architecture"):
        icd.load_saved(tmp_path, Blobs(width=5))
    (tmp_path / "weights.pt").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="is no network saved by immucond"):
        icd.load_saved(tmp_path, Blobs())


@pytest.mark.parametrize("kept", ["weights.pt", "run.pt"])
def test_files_of_which_a_bit_flipped_are_refused_or_what_they_were(kept, tmp_path):
    options = {"split": "head", "method": "algorithm1", "epochs": 1}
    options["checkpoint"] = tmp_path / "run.pt"
    net = Blobs()
    done = icd.immunize(net, **tasks(), **options)
    icd.save(done, tmp_path)
    was, refused = (tmp_path / kept).read_bytes(), []
    for place in range(0, len(was), max(1, len(was) // 40)):
        changed = bytearray(was)
        changed[place] ^= 64
        (tmp_path / kept).write_bytes(changed)
        try:
            again = (
                icd.load_saved(tmp_path, net)
                if kept == "weights.pt"
                else icd.immunize(net, **tasks(), **options).model
            )
        except ValueError as error:
            refused.append(str(error))
        else:
            for x, y in zip(again.parameters(), done.model.parameters(), strict=True):
                assert torch.equal(x, y)
    assert len(refused) > 10
    assert all("is no network saved by" in x or "is not one of immucond" in x for x in refused)


@pytest.mark.parametrize("state", [[1], {1: 2}, {"name": 3}, 5])
def test_weights_that_are_none_are_refused_by_the_name_of_their_file(state, tmp_path):
    done = icd.immunize(Blobs(), split="head", **tasks(), method="closed_form")
    icd.save(done, tmp_path)
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights\.pt must hold tensors by their names"):
        icd.load_saved(tmp_path, Blobs())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "is no network saved by immucond"),
        ('{"split": 3, "folded": false}', r"immucond\.json must hold .* split=3"),
        ('{"split": "head", "folded": "no"}', r"immucond\.json must hold .* folded='no'"),
        ('{"split": "tail", "folded": false}', "split must name a module of the model"),
    ],
)
def test_a_description_that_is_none_is_refused(text, message, tmp_path):
    done = icd.immunize(Blobs(), split="head", **tasks(), method="closed_form")
    icd.save(done, tmp_path)
    (tmp_path / "immucond.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        icd.load_saved(tmp_path, Blobs())


def test_what_is_saved_is_a_result(tmp_path):
    with pytest.raises(TypeError, match=r"must be what immunize returned.* and is a Blobs"):
        icd.save(Blobs(), tmp_path)
    assert list(tmp_path.iterdir()) == []


class Pretrained(Blobs):
    """As a network of Hugging Face writes itself."""

    def save_pretrained(self, folder):
        torch.save(self.state_dict(), folder / "model")


def test_a_folded_network_does_not_write_itself_for_others(tmp_path):
    model = Pretrained()
    done = icd.immunize(model, split="head", **tasks(), method="closed_form")
    with pytest.raises(TypeError, match=r"does not know the closed form's map.*deep\.save writes"):
        done.model.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []
    model.save_pretrained(tmp_path)  # the original is as it was
    trained = icd.immunize(model, split="head", **tasks(), lambdas=(0, 0), lr=0.0)
    trained.model.save_pretrained(tmp_path)
    icd.save(done, tmp_path / "release")
    with pytest.raises(TypeError, match="does not know"):
        icd.load_saved(tmp_path / "release", model).save_pretrained(tmp_path)
