"""Which rows an attacker trains on and is measured by, and as what: unlabelled ones, tokens."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves as leaves

import immucond.deep as icd
from immucond.deep.attacks._attackers import parse_attackers
from immucond.deep.attacks._rows import task_of
from immucond.deep.attacks._starts import starts_of
from immucond.deep.attacks._victims import features_of, utility_of, victim_of
from immucond.deep.gauge._equalize import first_batch


def net(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def task(count=60, seed=1, batches=2, shape=()):
    X = torch.randn(count, *shape, 6, generator=torch.Generator().manual_seed(seed)).double()
    y = (X[..., 0] * X[..., 1] > 0).long() + (X[..., 2] > 0.5).long()
    return list(zip(X.chunk(batches), y.chunk(batches), strict=True))


def run(harmful=None, held_out=None, model=None, **changed):
    given = {"split": "2", "trials": 2, "steps": 6, "target": 0.0, "scratch": False, "cuts": (),
             "equalize": False, **changed}  # fmt: skip
    return icd.attack(model or net(), harmful or task(),
                      held_out=held_out or task(seed=2), **given)  # fmt: skip


def told(report):
    """All that a run gave but its times."""
    return [{k: v for k, v in t.as_dict().items() if k != "seconds"}
            for a in report.attacks["release"] for t in a.trials]  # fmt: skip


# ---- labels of -100 ----


def unlabelled(batches, every=3):
    """The same batches with rows between them that do not count, and a batch of such alone."""
    found = []
    for x, y in batches:
        wide = torch.full((2 * len(y),), -100)
        wide[::2] = y
        found.append((x.repeat_interleave(2, dim=0) + torch.arange(2 * len(y))[:, None] % 2, wide))
    return [*found[:1], (found[0][0][:4], torch.full((4,), -100)), *found[1:]]


@pytest.mark.parametrize("attacker", ["adam", "lbfgs", "kfac", "lstsq", "whitening"])
def test_samples_without_a_label_do_not_count(attacker):
    primary = [(x, net()(x).argmax(1)) for x, _ in task(seed=3)]
    keep = {"attackers": [attacker], "target": 1.05, "rows": 40}
    plain = run(utility=primary, **keep)
    found = run(unlabelled(task()), unlabelled(task(seed=2)), utility=unlabelled(primary), **keep)
    assert told(found) == told(plain)
    assert (found.rows, found.utility, found.majority) == (plain.rows, 1.0, plain.majority)


def test_samples_without_a_label_cost_nothing():
    def cost(batches):
        return icd.attack_cost(net(), batches, split="2", products=8, steps=4)

    np.testing.assert_array_equal(cost(unlabelled(task())).measured, cost(task()).measured)
    assert cost(unlabelled(task())).steps(0.5) == cost(task()).steps(0.5)


def test_a_task_without_any_label_is_refused():
    none = [(x, torch.full_like(y, -100)) for x, y in task()]
    for name in ("harmful", "held_out", "utility"):
        with pytest.raises(ValueError, match=f"{name} has no label that counts"):
            run(**{name: none})
    with pytest.raises(ValueError, match="harmful has no label that counts"):
        icd.attack_cost(net(), none, split="2")
    for labels in (torch.full((60,), -1), torch.arange(60) % 3 - 1):
        with pytest.raises(ValueError, match="must count classes from 0"):
            icd.attack_cost(net(), [(task(batches=1)[0][0], labels)], split="2")


# ---- tokens are rows ----


@pytest.mark.parametrize("attacker", ["gd", "adam", "lbfgs", "kfac"])
def test_tokens_are_trained_on_as_rows(attacker):
    """Where no token sees another, a text is its tokens, in batches of whatever size."""
    texts = [*task(3, batches=1, shape=(5,)), *task(12, seed=4, batches=1, shape=(5,))]
    keep = {"attackers": [attacker], "prune": False}
    if attacker in ("gd", "adam"):  # of a batch a step
        texts = texts[1:]
    by_token = run(texts, task(seed=2, shape=(5,)), **keep)
    flat = run(*([(x.flatten(0, 1), y.flatten()) for x, y in part]
                 for part in (texts, task(seed=2, shape=(5,)))), **keep)  # fmt: skip
    for one, other in zip(told(by_token), told(flat), strict=True):
        np.testing.assert_allclose(one["curve"]["loss"], other["curve"]["loss"], rtol=1e-6)


def test_batches_weigh_as_their_tokens_that_count():
    """A step on all rows follows the mean over tokens, whichever batch they are in."""
    (x, y), (x2, y2) = task(12, shape=(5,))
    y = y.clone()
    y[1:] = -100
    texts = [(x, y), (x2, y2)]
    flat = [(torch.cat([x[0], x2.flatten(0, 1)]), torch.cat([y[0], y2.flatten()]))]
    keep = {"attackers": ["lbfgs"], "prune": False}
    for one, other in zip(told(run(texts, **keep)), told(run(flat, **keep)), strict=True):
        np.testing.assert_allclose(one["curve"]["loss"], other["curve"]["loss"], rtol=1e-6)


# ---- labels that are not a class a row ----


@pytest.mark.parametrize("part", ["harmful", "held_out", "utility"])
@pytest.mark.parametrize(
    "wrong", [lambda y: y[:, None], lambda y: y[:1], lambda y: y[:-1], lambda y: y.repeat(2)]
)
def test_labels_are_one_a_row(part, wrong):
    """Else they are broadcast against the predictions, and an accuracy may be 15."""
    given = {name: task(seed=seed) for seed, name in enumerate(("harmful", "held_out", "utility"))}
    (x, y), (x2, y2) = given[part]
    given[part] = [(x, y), (x2, wrong(y2))]
    with pytest.raises(ValueError, match=f"batch 2 of {part} must have a class a row, 30, and"):
        run(attackers=["lstsq"], **given)


@pytest.mark.parametrize("wrong", [-1, 3, 255])
def test_the_primary_task_has_classes_of_the_head(wrong):
    x, y = task(batches=1)[0]
    y = y.clone()
    y[4] = wrong
    with pytest.raises(ValueError, match=r"classes of the head '2', 0 to 2, and batch 1 has"):
        run(utility=[(x, y)], attackers=["lstsq"])
    with pytest.raises(ValueError, match=r"logits of batch 1 of utility must be finite"):
        run(utility=[(x * torch.nan, y)], attackers=["lstsq"])


def test_logits_that_are_not_finite_are_wrong_once_attacked():
    """The largest of some with NaN is at the NaN, perhaps by chance in the class."""
    model, rows = net(), task(batches=1)
    task_ = task_of(task(), task(), rows, None, torch.device("cpu"), 0)
    for value in (torch.nan, torch.inf):
        with torch.no_grad():
            model[2].bias[1] = value
        assert utility_of(model, "2", task_) == 0.0


def test_a_single_logit_tells_two_classes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x = task(batches=1)[0][0]
    y = (model(x)[:, 0] > 0).long()
    assert 0 < y.sum() < len(y)
    assert run(model=model, utility=[(x, y)], attackers=["lstsq"]).utility == 1.0


# ---- features that hardly vary ----


def dead(train, held_out, dtype):
    """A report on a feature, `train` of the classes of training rows, `held_out` of others."""
    model = nn.Sequential(nn.Linear(1, 2), nn.Identity(), nn.Linear(2, 3)).to(dtype)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.zero_()
    y = torch.arange(60) % 3
    parts = [[(f(y.to(dtype))[:, None], y)] for f in (train, held_out)]
    return run(*parts, model, attackers=["whitening"], reference=model)


def test_features_that_do_not_vary_teach_nothing():
    """Whitened they are 0, and all that is learned are the shares of the classes."""
    for dtype in (torch.float32, torch.float64):
        report = dead(lambda y: 0.1 + 0.0 * y, lambda y: 100.0 * y, dtype)
        [attack] = report.attacks["release"]
        assert attack.best.loss == pytest.approx(np.log(3), rel=1e-6)
        assert attack.best.accuracy == pytest.approx(1 / 3)
        assert attack.diverged == 0


def test_a_trial_whose_start_is_not_finite_is_told():
    """Whitening by rows that vary by 1e-30 overflows on others: no curve, and no error for it."""
    report = dead(lambda y: 1e-30 * y, lambda y: 1e20 * y, torch.float32)
    [attack] = report.attacks["release"]
    assert [t.ended for t in attack.trials] == ["diverged"] * 2
    assert attack.best.curve["step"] == []
    np.testing.assert_array_equal(attack.accuracy_by(2), np.zeros(3))
    assert report.as_dict()["attacks"]["release"][0]["rfd"] is None
    assert report._curves().ylim[1] == pytest.approx(1.3 * np.log(3))
    assert "never there" in str(report)


@pytest.mark.parametrize("ridge", [1e-12, 1e-1])
def test_whitened_features_have_a_variance_of_one_but_for_the_ridge(ridge):
    """By the definition, whoever trains on them; descent's rates are in units of their size."""
    task_ = task_of(task(), task(), None, None, torch.device("cpu"), 0)
    [start] = starts_of(net(), "2", torch.device("cpu"), task()[0], forms=["plain"])
    [features] = features_of([replace(start, whitened=True)], task_)
    Z = torch.cat([net()[:2](x) for x, _ in task()]).detach().numpy()
    values, V = np.linalg.eigh(np.cov(Z.T, bias=True))
    left = values / (values + ridge * values[-1])
    head, whole = (
        victim_of(features, parse_attackers(name)[0], {"ridge": ridge}, 0)
        for name in ("probe-gd", "gd")
    )
    found = torch.cat([z for z, _ in head.train]).numpy()
    np.testing.assert_allclose(found.mean(0), 0.0, atol=1e-9)
    np.testing.assert_allclose(np.cov(found.T, bias=True), (V * left) @ V.T, atol=1e-6)
    entered = []
    whole.module[2].register_forward_hook(lambda _, args, __: entered.append(args[0].detach()))
    for batch in task():
        whole.run(batch)
    np.testing.assert_allclose(torch.cat(entered).numpy(), found, rtol=1e-9, atol=1e-9)
    assert head.scale() == whole.scale() == pytest.approx(1.0 + left.sum())


# ---- a batch of one row ----


def test_one_row_is_normalized_by_running_statistics():
    """A batch norm cannot train on it; a step on it is that of a layer in evaluation mode."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()
    rows = task(61, batches=1)[0]
    batches = [(rows[0][:60], rows[1][:60]), (rows[0][60:], rows[1][60:])]
    model(batches[0][0])
    report = run(batches, model=model, split="3", attackers=["adam", "kfac"], scratch=True,
                 trials=4, steps=3)  # fmt: skip
    trials = [t for attacks in report.attacks.values() for a in attacks for t in a.trials]
    assert {t.settings["training"] for t in trials} == {True, False}
    assert all(t.ended == "budget" for t in trials if t.settings["rate"] < 1e-2)

    task_ = task_of(batches, batches, None, None, torch.device("cpu"), 0)
    [start] = starts_of(model, "3", torch.device("cpu"), batches[0], forms=["plain"])
    [features] = features_of([start], task_)
    victim = victim_of(features, parse_attackers("adam")[0], {}, 0)
    nn.init.normal_(victim.module[3].weight)
    victim.mode({"training": True})
    before = victim.module[1].running_mean.clone()
    found, _ = victim.run(batches[1])
    assert torch.equal(victim.module[1].running_mean, before)
    torch.testing.assert_close(found, victim.module.eval()(batches[1][0]))
    victim.mode({"training": True})
    victim.run(batches[0])
    entered = victim.module[0](batches[0][0]).detach()
    wanted = 0.9 * before + 0.1 * entered.mean(0)
    torch.testing.assert_close(victim.module[1].running_mean, wanted)


# ---- in which precision, and under whose modes ----


def costs(model, batches):
    return icd.attack_cost(model, batches, split="2", products=6, steps=3).measured


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_in_half_precision_are_those_rows_in_single(dtype):
    half = [[(x.to(dtype), y) for x, y in task(seed=seed)] for seed in (1, 2)]
    model = net(dtype)
    single = [[(x.float(), y) for x, y in part] for part in half]
    keep = {"attackers": ["adam", "lstsq"], "equalize": True}
    assert told(run(*half, model, utility=half[0], **keep)) == told(run(*single, model, **keep))
    np.testing.assert_array_equal(costs(model, half[0]), costs(model, single[0]))


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_the_callers_modes_change_nothing(mode):
    def both():
        model, parts = (
            net(torch.float32),
            ([(x.float(), y) for x, y in task(seed=s)] for s in (1, 2)),
        )
        train, held_out = parts
        report = run(train, held_out, model, attackers=["adam", "lstsq"], equalize=True)
        return told(report), costs(model, train).tolist()

    plain = both()
    with mode():
        assert both() == plain


def test_a_forecast_leaves_random_numbers_alone():
    model, rows = net(), task()
    torch.manual_seed(3)
    wanted = torch.rand(3)
    torch.manual_seed(3)
    costs(model, rows)
    assert torch.equal(torch.rand(3), wanted)


# ---- batches of whatever form ----


class Sum(nn.Module):
    """A network of two inputs, the second of which is scaled."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.head = net()

    def forward(self, x, shift=0.0):
        return self.head(self.act(self.first(x) + shift))


FORMS = (
    lambda x, s, y: ((x, s), y), lambda x, s, y: ([x, s], y),
    lambda x, s, y: ({"x": x, "shift": s}, y), lambda x, s, y: {"x": x, "shift": s, "labels": y},
    lambda x, s, y: {"x": x, "shift": s, "label": y},
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_networks_of_several_inputs_are_attacked(form):
    parts = [[(x, x[:, :1], y) for x, y in task(seed=seed)] for seed in (1, 2)]
    keep = {"attackers": ["adam", "lstsq"], "equalize": "both", "split": "head", "model": Sum()}
    found, wanted = (
        run(*([as_batch(*batch) for batch in part] for part in parts), **keep)
        for as_batch in (form, FORMS[0])
    )
    assert told(found) == told(wanted)
    assert {a.start for a in found.attacks["release"]} == {"plain", "equalized"}


@pytest.mark.parametrize("form", FORMS)
def test_the_gauge_takes_the_first_batch_of_any_form(form):
    x, y = task(batches=1)[0]
    batch = form(x, x[:, :1], y)
    wanted = first_batch(batch)
    for data in ([batch, batch], [batch], (batch, batch), iter([batch])):
        found = first_batch(data)
        assert all(torch.equal(a, b) for a, b in zip(*map(leaves, (found, wanted)), strict=True))
    assert [leaf.shape for leaf in leaves(wanted)] == [(60, 6), (60, 1)]
    assert icd.gauge.lock(Sum(), strength=10.0, groups="all", data=[batch]) is not None


# ---- what is told ----


@pytest.mark.parametrize("part", ["harmful", "held_out", "utility"])
def test_what_is_no_loader_is_told(part):
    x, y = task(batches=1)[0]
    given = {"harmful": task(), "held_out": task(), "split": "2"}
    for wrong, match in (((x, y), r"a pair \(X, y\)"), (x, "is a Tensor"), (None, "is None")):
        if wrong is not None or part != "utility":
            with pytest.raises(TypeError, match=f"{part} must be a loader.*{match}"):
                icd.attack(net(), **given | {part: wrong})
    with pytest.raises(TypeError, match=f"the batches of {part} must have classes.*complex64"):
        icd.attack(net(), **given | {part: [(x, y.to(torch.complex64))]})


@pytest.mark.parametrize("scratch", [None, 1, "yes"])
def test_scratch_is_told(scratch):
    with pytest.raises(TypeError, match="scratch must be True, False or a network"):
        run(scratch=scratch)


def test_an_empty_batch_changes_nothing():
    x, y = task()[0]
    keep = {"attackers": ["adam", "lbfgs", "lstsq"]}
    assert told(run([(x[:0], y[:0]), *task()], **keep)) == told(run(**keep))


def test_parameters_that_are_no_numbers_stay():
    class Counted(nn.Sequential):
        def __init__(self, *layers):
            super().__init__(*layers)
            self.count = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)

    keep = {"attackers": ["adam", "kfac", "lstsq"], "equalize": "both", "cuts": "auto"}
    assert told(run(model=Counted(*net()), **keep)) == told(run(**keep))
    np.testing.assert_array_equal(costs(Counted(*net()), task()), costs(net(), task()))


def test_a_network_that_fails_to_be_copied_is_told():
    class Single(nn.Sequential):
        def __deepcopy__(self, memo):
            raise RuntimeError("there is one")

    for call in (lambda m: run(model=m), lambda m: costs(m, task())):
        with pytest.raises(TypeError, match=r"cannot be copied.*there is one"):
            call(Single(*net()))


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_logistic_regression_does_not_see_the_size_of_features(size):
    """Its tolerance and C are in their units: of small ones it had learned nothing."""
    linear_model = pytest.importorskip(
        "sklearn.linear_model", reason="the extra sklearn is not installed"
    )
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(400, 5, generator=generator).double() + 3.0
    y = (X[:, 0] + 0.5 * torch.randn(400, generator=generator) > 3.0).long()
    net = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 2)).double()
    with torch.no_grad():
        net[0].weight.copy_(size * torch.eye(5))
    found = icd.attack(
        net, [(X[:200], y[:200])], held_out=[(X[200:], y[200:])], split="1", trials=3, steps=100,
        attackers=["logistic"], scratch=False, equalize=False, cuts=(), target=0.0,
    ).strongest  # fmt: skip
    Z = ((X - X[:200].mean(0)) / (X[:200] - X[:200].mean(0)).square().mean().sqrt()).numpy()
    for trial in found.trials:
        model = linear_model.LogisticRegression(C=trial.settings["rate"], max_iter=100)
        p = model.fit(Z[:200], y[:200].numpy()).predict_proba(Z[200:])
        loss = -np.log(p[np.arange(200), y[200:].numpy()]).mean()
        assert trial.loss == pytest.approx(loss, rel=1e-4)
