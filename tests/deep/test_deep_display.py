"""Results of networks show themselves, and their pictures are those of the commands."""

import math

import pytest
from matplotlib.figure import Figure
from torch_cases import torch

import immucond.deep as icd

ROWS = 40


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))


def batches(seed, classes=2):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, 5, generator=generator)
    return [(x, (x[:, 0] > 0).long() if classes == 2 else torch.arange(ROWS) % classes)]


def labels_of(ax):
    return ax.get_xlabel(), ax.get_ylabel()


def test_a_leak_profile():
    found = icd.leak_profile(net(), batches(1), primary=batches(2), held_out=batches(3))
    frame = found.to_pandas().set_index("cut")
    assert list(frame.index) == [*found.cuts, "served logits"]
    for name, ceiling in found.cuts.items():
        assert frame.loc[name, "accuracy"] == ceiling.accuracy
        assert frame.loc[name, "untrained"] == found.untrained[name].accuracy
    assert math.isnan(frame.loc["served logits", "untrained"])
    ax = found.plot(Figure().subplots())
    assert [t.get_text() for t in ax.get_xticklabels()] == list(found.cuts)
    assert all(labels_of(ax))
    drawn = ax.containers[0].lines[0].get_ydata()
    assert list(drawn) == [100.0 * c.accuracy for c in found.cuts.values()]
    assert "served logits" in found._repr_html_()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_cost_with_its_real_run_beside_another():
    cost = icd.attack_cost(net(), batches(1), split="2", params="head", products=5, steps=4)
    frame = cost.to_pandas()
    assert frame["measured"][:5].tolist() == cost.measured.tolist()
    assert frame["measured"][5:].isna().all()
    at = frame["step"].iloc[7]
    assert frame["forecast"].iloc[7] == cost.loss(int(at)).forecast
    ax = Figure().subplots()
    for label in ("one", "two"):
        cost.plot(ax, label=label, color="#D55E00", marker="s")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["one", "two"]
    assert len(ax.lines) == 4  # a forecast and the points of a real run, each
    assert {line.get_color() for line in ax.lines} == {"#D55E00"}
    assert [line.get_marker() for line in ax.lines] == ["None", "s"] * 2
    assert all(labels_of(ax))


def test_attacks():
    found = icd.attack(
        net(), batches(1), held_out=batches(3), split="2", attackers=["adam"], steps=4, trials=1,
        reference=net(), scratch=False,
    )  # fmt: skip
    frame = found.to_pandas()
    every = [(n, a) for n, attacks in found.attacks.items() for a in attacks]
    assert frame["network"].tolist() == [n for n, _ in every]
    assert frame["accuracy"].tolist() == [a.best.accuracy for _, a in every]
    ax = found.plot(Figure().subplots())
    assert len(ax.lines) == len(every) + 1  # and the target
    assert all(labels_of(ax))
    one = found.strongest
    assert one.to_pandas()["loss"].tolist() == one.best.curve["loss"]
    assert one.plot(Figure().subplots()).get_ylabel() == "held-out cross-entropy, nats"


def test_an_erasure_with_and_without_a_leak():
    for more in ({}, {"harmful": batches(1), "harmful_held_out": batches(4)}):
        with pytest.MonkeyPatch.context():
            done = icd.erase(
                net(), batches(2, 3), held_out=batches(5, 3), tol=0.5, split="2", **more
            )
        frame = done.to_pandas()
        assert frame["kept"].tolist() == [stage.kept for stage in done.curve]
        ax = done.plot(Figure().subplots())
        assert all(labels_of(ax))
        shown = [s for s in done.curve if done.leak is None or s.ceiling is not None]
        assert len(ax.lines[0].get_ydata()) == len(shown)


def test_reports_recordings_and_groups():
    before, after = net(), net()
    with torch.no_grad():
        before[0].weight[0] *= 9.0
    tasks = batches(2, 3), batches(1)
    report = icd.immunity_report(after, before, *tasks, split="2")
    frame = report.to_pandas().set_index("")
    assert frame.loc["kappa_H", "after"] == report.kappa_H
    assert frame.loc["kappa_H", "before"] == report.reference_kappa_H
    assert frame.loc["probe by adam: accuracy", "after"] == report.probes["adam"][1]
    ratios = icd.rir(after, before, *tasks, split="2", groups=3, size=20)
    assert ratios.to_pandas()["rir"].tolist() == ratios.rir.tolist()
    record = icd.record(before, batches(1), ["0", "2"])
    assert record.to_pandas()["rows"].tolist() == [ROWS, ROWS]
    assert "computed in" in record._repr_html_()
    [group] = icd.gauge.groups(torch.nn.Sequential(net()[0], torch.nn.ReLU(), net()[2]))
    assert group.to_pandas()["dimension"].tolist() == [6]
