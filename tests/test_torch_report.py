"""What `immunize` says it did: condition numbers, probes, warnings; and networks on disk."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from torch_cases import torch
from torch_nets import data, loaders, net

import immucond as ic
import immucond.torch as ict

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
    done = ict.immunize(Blobs(), split="head", **tasks(), method="closed_form", **given)
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
    done = ict.immunize(Blobs(), split="head", **tasks(), method="closed_form", held_out=held_out())
    (x, y), (x_test, y_test) = tasks()["harmful"][0], held_out()[1][0]
    assert set(done.report.probes) == {"sgd", "adam"}
    A = done.model.head[0].weight.detach().T
    for name, (before, after) in done.report.probes.items():
        for accuracy, map_ in ((before, torch.eye(6)), (after, A)):
            given = (x @ map_, y), (x_test @ map_, y_test)
            found = ict.linear_probes(*given, attackers=[name])
            assert found[name]["accuracy"][-1] == pytest.approx(accuracy, abs=0.01)
    # Where it is given the steps, it ends where scikit-learn does.
    best = LogisticRegression(C=1e6, max_iter=10_000, fit_intercept=False).fit(x, y)
    found = ict.linear_probes((x, y), (x_test, y_test), attackers=["adam"], epochs=300)
    assert found["adam"]["accuracy"][-1] == pytest.approx(best.score(x_test, y_test), abs=0.05)


def test_the_default_of_the_closed_form_leaves_kappa_p_and_raises_kappa_h():
    done = ict.immunize(Blobs(), split="head", **tasks(), method="closed_form")
    assert done.report.ii == pytest.approx(1.0, rel=1e-3)
    assert done.report.i > 2.0
    with pytest.warns(ic.ImmunityWarning, match=r"condition number is 0\.\d+ times.*\(i\)"):
        easier = ict.immunize(Blobs(), split="head", **tasks(), method="closed_form", kappa_P=1.0)
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
        found = ict.immunity_report(
            model, Blobs(), rows(1, STRETCH), rows(4, STRETCH), split="head", harmful_train=harmful
        )
    assert found.i > 1.0
    before, after = found.probes["sgd"]
    assert after > before


def test_without_classes_there_are_no_probes():
    x = tasks()["harmful"][0][0]
    for harmful in ([x], [(x, x[:, 0])], [(x, torch.zeros(len(x)).long())]):
        given = tasks() | {"harmful": harmful}
        done = ict.immunize(Blobs(), split="head", **given, method="closed_form")
        assert done.report.probes == {}
        assert done.report.accuracy is not None
    with pytest.raises(ValueError, match=r"held_out must be two loaders, \(primary, harmful\)"):
        ict.immunize(Blobs(), split="head", **tasks(), held_out=[tasks()])


def test_a_report_and_a_result_are_a_line():
    done = ict.immunize(Blobs(), split="head", **tasks(), method="closed_form")
    text = repr(done)
    assert text.startswith("DeepImmunization(split='head.1', report=DeepReport((i) ")
    assert len(text) < 240
    assert "\n" not in text
    assert "immunized on, 800 rows" in text


@pytest.mark.parametrize("method", ["algorithm1", "closed_form"])
def test_measuring_leaves_the_training_as_it_is(method):
    """The same bits with rows held out and without."""
    found = []
    for given in ({}, {"held_out": held_out()}):
        done = ict.immunize(Blobs(), split="head", **tasks(), method=method, **given)
        found.append(done.model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


# ---- on disk ----


@pytest.mark.parametrize("method", ["algorithm1", "closed_form"])
def test_saved_networks_are_read_back_to_the_bit(method, tmp_path):
    done = ict.immunize(net(), split="head", **loaders(), method=method)
    ict.save(done, tmp_path / "release")
    again = ict.load_saved(tmp_path / "release", net())
    x = data(20, 5)[:][0]
    assert torch.equal(again(x), done.model(x))
    assert not again.training
    report = json.loads((tmp_path / "release" / "immucond.json").read_text())["report"]
    assert report["kappa_H"] == done.report.kappa_H
    found = ict.immunity_report(again, net(), *loaders().values(), split=(done.split, "head"))
    assert (found.i, found.ii) == (done.report.i, done.report.ii)
    # Nothing for Hugging Face to take for a network.
    assert {p.name for p in (tmp_path / "release").iterdir()} == {"weights.pt", "immucond.json"}


def test_what_is_no_saved_network_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no immucond\.json"):
        ict.load_saved(tmp_path, net())
    done = ict.immunize(Blobs(), split="head", **tasks(), method="closed_form")
    ict.save(done, tmp_path)
    with pytest.raises(ValueError, match="is of another architecture"):
        ict.load_saved(tmp_path, Blobs(width=5))
    (tmp_path / "weights.pt").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="is no network saved by immucond"):
        ict.load_saved(tmp_path, Blobs())


class Pretrained(Blobs):
    """As a network of Hugging Face writes itself."""

    def save_pretrained(self, folder):
        torch.save(self.state_dict(), folder / "model")


def test_a_folded_network_does_not_write_itself_for_others(tmp_path):
    model = Pretrained()
    done = ict.immunize(model, split="head", **tasks(), method="closed_form")
    with pytest.raises(TypeError, match=r"does not know the closed form's map.*torch\.save writes"):
        done.model.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []
    model.save_pretrained(tmp_path)  # the original is as it was
    trained = ict.immunize(model, split="head", **tasks(), lambdas=(0, 0), lr=0.0)
    trained.model.save_pretrained(tmp_path)
    ict.save(done, tmp_path / "release")
    with pytest.raises(TypeError, match="does not know"):
        ict.load_saved(tmp_path / "release", model).save_pretrained(tmp_path)
