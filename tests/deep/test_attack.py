"""The strongest attacker: against descent by hand, on locks and maps, killed runs, bad input."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

import immucond.deep as icd
from immucond.deep.attacks import _solvers
from immucond.deep.attacks._report import Attack, AttackReport
from immucond.deep.attacks._trial import Budget, Trial, _Record


def net(width=12):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3)).double()


def task(count=240, seed=1, batches=1):
    X = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)).double()
    y = (X[:, 0] * X[:, 1] > 0).long() + (X[:, 2] > 0.5).long()
    return list(zip(X.chunk(batches), y.chunk(batches), strict=True))


def run(model, **changed):
    given = {"split": "2", "held_out": task(seed=2), "trials": 6, "steps": 60, "scratch": False,
             "equalize": False, "cuts": (), "attackers": ["gd"], **changed}  # fmt: skip
    return icd.attack(model, given.pop("harmful", task()), **given)


def numbers(report):
    """All that a run gave but its times."""
    return [(name, a.attacker, a.start, [{k: v for k, v in t.as_dict().items() if k != "seconds"}
                                         for t in a.trials])
            for name, attacks in report.attacks.items() for a in attacks]  # fmt: skip


# ---- what a trial is ----


def test_a_probe_by_descent_is_descent_by_hand():
    model, target = net(), 0.93
    report = run(model, attackers=["probe-gd"], target=target, trials=9)
    [attack] = report.attacks["release"]
    (x, y), (x_test, y_test) = task()[0], task(seed=2)[0]
    with torch.no_grad():
        Z, Z_test = ((model[1](model[0](v))).numpy() for v in (x, x_test))
    Z, Z_test = (np.column_stack([v, np.ones(len(v))]) for v in (Z, Z_test))
    hot, unit = np.eye(3)[y], 1.0 / np.square(Z).sum(1).mean()
    assert {trial.ended for trial in attack.trials} >= {"reached", "outrun"}
    for trial in attack.trials:
        head, losses = np.zeros((Z.shape[1], 3)), []
        for _ in range(61):
            told = log_softmax(Z_test @ head, axis=1)
            losses.append(-told[np.arange(len(y_test)), y_test].mean())
            p = np.exp(log_softmax(Z @ head, axis=1))
            head = head - trial.settings["rate"] * unit * Z.T @ (p - hot) / len(Z)
        at = np.array(trial.curve["step"], dtype=int)
        np.testing.assert_allclose(trial.curve["loss"], np.array(losses)[at], rtol=1e-9)
        below = np.flatnonzero(np.array(losses) <= target)
        if trial.ended == "reached":
            assert losses[at[-2]] > target >= losses[at[-1]]
            assert below[0] <= trial.steps <= max(below[0] * 1.05 + 1, 20)
            assert trial.passes == trial.steps
        elif trial.ended == "outrun":  # it could not have been better
            assert not below.size or below[0] >= attack.steps


def test_least_squares_are_those_of_the_normal_equations():
    model = net()
    report = run(model, attackers=["lstsq"], target=1e-9, trials=4)
    [attack] = report.attacks["release"]
    (x, y), (x_test, y_test) = task()[0], task(seed=2)[0]
    with torch.no_grad():
        Z, Z_test = ((model[1](model[0](v))).numpy() for v in (x, x_test))
    hot = np.eye(3)[y]

    def logits(ridge, keep, rows):
        C, T = Z[keep] - Z[keep].mean(0), hot[keep] - hot[keep].mean(0)
        head = np.linalg.solve(C.T @ C + ridge * np.eye(12), C.T @ T)
        return (rows - Z[keep].mean(0)) @ head + hot[keep].mean(0)

    grid, all_rows = np.exp(np.linspace(-2, 8, 501)), np.arange(len(y))
    for trial in attack.trials:
        ridge = trial.settings["rate"] * np.linalg.eigvalsh(np.cov(Z.T, bias=True))[-1] * len(y)
        others = np.stack([logits(ridge, all_rows != i, Z[i]) for i in all_rows])
        losses = [-log_softmax(s * others, axis=1)[all_rows, y].mean() for s in grid]
        told = log_softmax(grid[np.argmin(losses)] * logits(ridge, all_rows, Z_test), axis=1)
        assert trial.accuracy == (told.argmax(1) == y_test.numpy()).mean()
        wanted = -told[np.arange(len(y_test)), y_test].mean()
        assert trial.loss == pytest.approx(wanted, rel=2e-3)


def test_least_squares_on_few_rows_know_how_sure_they_are():
    """A head that fits all its rows is no surer for it: the temperature is near the best one."""
    rng = np.random.default_rng(0)
    Z, W = rng.normal(size=(1300, 250)), rng.normal(size=(250, 3))
    y = (Z @ W + 5.0 * rng.normal(size=(1300, 3))).argmax(1)
    test = np.arange(1000), y[300:]
    for ridge in (1e-6, 1e-2):
        found = _solvers._least_squares(Z[:300], y[:300], Z[300:], ridge, 3).logits
        loss, *others = (
            -log_softmax(s * found, axis=1)[test].mean()
            for s in (1.0, *np.geomspace(0.01, 100, 99))
        )
        assert loss < 1.02 * min(others)
        assert loss < np.log(3)


def test_the_target_is_half_the_entropy_of_the_classes():
    report = run(net(), trials=1, steps=1)
    shares = np.bincount(task(seed=2)[0][1]) / 240
    assert report.target == pytest.approx(-0.5 * (shares * np.log(shares)).sum())
    assert report.majority == shares.max()


def test_trials_spend_steps_only_where_they_can_win():
    [attack] = run(net(), attackers=["probe-adam"], target=0.95, trials=12).attacks["release"]
    assert math.isfinite(attack.steps)
    best = math.inf
    for trial in attack.trials:
        assert trial.curve["step"][-1] < best
        best = min(best, trial.steps)
    assert attack.best_so_far == sorted(attack.best_so_far, reverse=True)
    assert attack.best_so_far[-1] == attack.steps


def rival_of(curve):
    """An earlier trial with a held-out loss at each step."""
    told = {"step": [float(n) for n in range(len(curve))], "loss": curve, "accuracy": curve}
    return Trial({}, math.inf, math.inf, math.inf, min(curve), 0.0, "budget", None, told)


@pytest.mark.parametrize(
    ("losses", "mine", "budget", "ended"),
    [
        (np.ones(200), 1.0, {}, (64, "pruned")),  # nothing gained in 32 steps
        (1.0 - 0.0009 * (np.arange(200) > 31), 1.0, {}, (64, "pruned")),
        (1.0 - 0.0011 * (np.arange(200) > 31), 1.0, {}, (128, "pruned")),
        (np.ones(200), 1.0, {"prune": False}, None),
        (0.99 ** np.arange(200), 0.51, {}, None),
        # Less than half of what an earlier trial had gained by then, and not of what it gained at
        # last.
        (0.99 ** np.arange(200), 0.51, {"rival": [1.0] * 64 + [0.0]}, (64, "pruned")),
        (0.99 ** np.arange(200), 0.49, {"rival": [1.0] * 64 + [0.0]}, None),
        (0.99 ** np.arange(200), 0.51, {"rival": [1.0] * 199 + [0.0]}, None),
        ([1.0, math.nan], 1.0, {"prune": False}, (2, "diverged")),
    ],
)
def test_a_trial_ends_early_only_where_it_stalls_or_stays_behind(losses, mine, budget, ended):
    if "rival" in budget:
        budget = {"rival": rival_of(budget["rival"])}
    record = _Record(Budget(0.0, 200, **budget))
    record.add(0, 1.0, 0.0)
    record.add(1, mine, 0.0)
    found = None
    for step, loss in enumerate(losses, 1):
        if found is None and record.ends_by_training(step, float(loss)):
            found = step, record.ended
    assert found == ended


@pytest.mark.parametrize(
    ("losses", "ended"),
    [
        ([0.5, 999.0], ""),
        ([0.5, 1001.0], "diverged"),  # a thousand nats, or times the start
        ([2.0, 1999.0], ""),
        ([2.0, 2001.0], "diverged"),
        ([0.5, math.inf], "diverged"),
        ([0.5, 0.1], "reached"),
        ([0.1], "reached"),
    ],
)
def test_what_held_out_losses_end(losses, ended):
    record = _Record(Budget(0.1, 10))
    for step, loss in enumerate(losses):
        assert record.ended == ""
        record.add(step, loss, 0.0)
    assert record.ended == ended
    trial = record.trial({}, record.ended or "budget", None, 10)
    assert trial.loss == min(loss for loss in losses if math.isfinite(loss))
    assert trial.steps == (len(losses) - 1 if ended == "reached" else math.inf)


def test_what_each_attacker_searches():
    """A ridge where features are whitened, unless it solves; there the rate is known."""
    names = ["probe-gd", "whitening", "lstsq", "adam"]
    report = run(net(), attackers=names, equalize="both", target=0.0, trials=3, steps=1)
    told = {}
    for attack in report.attacks["release"]:
        keys = {tuple(sorted(trial.settings)) for trial in attack.trials}
        rates = [round(math.log10(trial.settings["rate"])) for trial in attack.trials]
        told[attack.attacker, attack.start] = *keys, rates
    white = ("rate", "ridge"), [1, 2, 0]
    assert told == {
        ("probe-gd", "plain"): (("rate",), [-1, 0, -2]),
        ("whitening", "plain"): white,
        ("lstsq", "plain"): (("rate",), [-6, -5, -7]),
        ("adam", "plain"): (("betas", "rate"), [-3, -2, -4]),
        ("probe-gd", "equalized"): white,
        ("whitening", "equalized"): white,
        ("lstsq", "equalized"): (("rate",), [-6, -5, -7]),
        ("adam", "equalized"): (("betas", "rate", "ridge"), [-3, -2, -4]),
    }


def test_the_search_comes_near_the_best_rate():
    """The rates tried by hand on a fine grid are no better by more than a few steps."""
    [attack] = run(net(), attackers=["probe-gd"], target=0.95, trials=14).attacks["release"]
    (x, y), (x_test, y_test) = task()[0], task(seed=2)[0]
    model = net()
    with torch.no_grad():
        Z, Z_test = (model[1](model[0](v)) for v in (x, x_test))
    unit = 1.0 / (1.0 + float(Z.square().sum(1).mean()))
    best = math.inf
    for rate in np.geomspace(0.1, 100, 61):
        head = nn.Linear(12, 3).double()
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        optimizer = torch.optim.SGD(head.parameters(), lr=rate * unit)
        for step in range(61):
            if nn.functional.cross_entropy(head(Z_test), y_test).item() <= 0.95:
                best = min(best, step)
                break
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(Z), y).backward()
            optimizer.step()
    assert math.isfinite(best)
    assert attack.steps <= 1.2 * best + 1


# ---- what undoes a lock is found unasked ----


def test_freezing_or_merging_what_specdef_inserted_undoes_it():
    model = net(32)
    locked = icd.gauge.lock(model, strength=1e3, top=2, modules=["0"])
    assert icd.gauge.inserted(locked) == ["0.1"]
    keep = {"target": 0.8, "steps": 150, "attackers": ["momentum"], "trials": 8}
    keep["harmful"] = task(600)
    report = run(locked, equalize="both", freeze="inserted", reference=model, **keep)
    locked_by, free_by = (
        {a.start: a.steps for a in report.attacks[name]} for name in ("release", "reference")
    )
    assert set(free_by) == {"plain", "equalized"}
    assert math.isfinite(free_by["plain"])
    assert math.isinf(locked_by["plain"])
    assert locked_by["frozen"] <= 1.5 * free_by["plain"]
    assert locked_by["equalized"] == free_by["equalized"]
    plain, *_ = report.attacks["release"]
    assert report.rfd(plain, signed=True) == report.rfd(plain) > 0.0
    assert report.factor == report.strongest.steps / min(free_by.values())


def test_whitening_undoes_our_own_map():
    model = net()
    primary = [(x, y) for x, y in task(seed=5, batches=4)]
    done = icd.immunize(
        model, split="2", primary=primary, harmful=task(batches=4), method="fade", tau=1e8
    )
    keep = {"target": 0.97, "trials": 9}
    keep["attackers"] = ["probe-gd", "whitening", "lstsq"]
    free, report = run(model, **keep), run(done.model, **keep | {"split": "2.1"})
    free, faded = ({a.attacker: a.steps for a in r.attacks["release"]} for r in (free, report))
    assert math.isfinite(free["probe-gd"])
    assert math.isinf(faded["probe-gd"])
    assert faded["whitening"] <= free["whitening"] + 1
    assert faded["lstsq"] == 1 == report.strongest.steps


def test_probes_find_the_cut_where_most_is_read():
    """The last features are blind, and those before them are not."""
    model = net()
    blind = nn.Sequential(model[0], model[1], nn.Linear(12, 12).double(), model[2])
    with torch.no_grad():
        blind[2].weight.zero_()
    keep = {"attackers": ["lstsq"], "target": 0.97, "split": "3"}
    assert math.isinf(run(blind, **keep).strongest.steps)
    report = run(blind, cuts="auto", **keep)
    assert report.strongest.start in ("plain, 0", "plain, 1")
    named = run(blind, cuts=["1"], attackers=["adam"], target=0.9, split="3", trials=8)
    steps = {a.start: a.steps for a in named.attacks["release"]}
    assert math.isinf(steps["plain"]) or steps["plain, 1"] <= steps["plain"]


def test_scratch_is_attacked_by_those_who_train_the_whole_network():
    report = run(net(), scratch=True, attackers=["adam", "lstsq"], target=0.97, steps=100)
    assert [a.attacker for a in report.attacks["scratch"]] == ["adam"]
    [scratch] = report.attacks["scratch"]
    assert report.scratch_share == report.strongest.steps / scratch.steps


def test_attackers_who_spoil_the_primary_task_do_not_count():
    model, primary = net(), task(seed=7)
    primary = [(x, model(x).argmax(1)) for x, _ in primary]
    keep = {"attackers": ["adam"], "target": 0.6, "steps": 200, "utility": primary}
    free = run(model, max_utility_drop=1.0, **keep)
    capped = run(model, max_utility_drop=0.0, **keep)
    assert free.utility == 1.0
    assert math.isfinite(free.strongest.steps)
    assert free.strongest.best.utility < 1.0
    spoilt = [t for t in capped.strongest.trials if t.ended == "utility"]
    assert spoilt
    assert all(math.isinf(t.steps) and t.utility < 1.0 for t in spoilt)
    assert capped.strongest.steps >= free.strongest.steps
    assert capped.strongest.best.counts
    left = [t for t in capped.strongest.trials if t not in spoilt]
    told = capped.strongest.as_dict()
    assert told["loss"] == min(t.loss for t in left) > 0.6
    assert told["accuracy"] == max(t.accuracy for t in left)
    for trial in spoilt:  # of which the start alone is known to leave the task as it was
        assert trial.curve["loss"][-1] <= 0.6 < trial.loss == trial.curve["loss"][0]
        assert trial.accuracy == trial.curve["accuracy"][0]
    none = replace(capped.strongest, trials=tuple(spoilt))
    assert none.as_dict()["loss"] == spoilt[0].curve["loss"][0]
    assert set(none.accuracy_by(200)) == {spoilt[0].accuracy}
    assert run(model, **keep | {"attackers": ["lstsq"]}).strongest.best.utility is None
    single = {name: [(x.float(), y) for x, y in rows] for name, rows in
              (("harmful", task()), ("held_out", task(seed=2)), ("utility", primary))}  # fmt: skip
    half = run(model.half(), **keep | single | {"trials": 1})  # attacked in float32
    assert half.utility > 0.95


def test_the_reference_may_lose_of_its_own_accuracy():
    """A release that is bad at its task lends the reference no slack, and none the other way."""
    model, spoilt = net(), net()
    with torch.no_grad():
        spoilt[2].weight.neg_()
        spoilt[2].bias.neg_()
    primary = [(x, model(x).argmax(1)) for x, _ in task(seed=7)]
    report = run(spoilt, reference=model, attackers=["adam"], target=0.6, steps=200,
                 utility=primary, max_utility_drop=0.02)  # fmt: skip
    assert report.utility < 0.5
    [attack] = report.attacks["reference"]
    ended = [t for t in attack.trials if t.utility is not None]
    assert ended
    assert all((t.utility >= 0.98) == (t.ended == "reached") for t in ended)


def report_of(steps, **attacks):
    """A report with attackers at their starts, (name, start, steps, accuracy at steps 0 and 1)."""
    found = {
        network: tuple(
            Attack(name, start, (Trial({}, n, n, n, 1.0, 0.0, "reached", None, {
                "step": [0.0, 1.0], "loss": [1.0, 1.0], "accuracy": accuracy,
            }),))
            for name, start, n, accuracy in rows
        )
        for network, rows in attacks.items()
    }  # fmt: skip
    return AttackReport(found, 0.5, steps, 1, {}, 2, 0.5, None, None, 0)


def test_accuracies_stand_beside_the_same_attackers_at_the_same_start():
    report = report_of(
        1,
        release=[("adam", "equalized", 4.0, [0.5, 0.5]), ("adam", "frozen", 6.0, [0.5, 0.5]),
                 ("gd", "plain", 8.0, [0.5, 0.5])],
        reference=[("adam", "plain", 5.0, [1.0, 0.5]), ("adam", "equalized", 2.0, [0.25, 0.5])],
    )  # fmt: skip
    own, frozen, gd = report.attacks["release"]
    assert (report.rfd(own, signed=True), report.rfd(own)) == (-0.5, 0.5)
    assert report.rfd(frozen, signed=True) == 0.25  # there it has no such start: the plain one
    assert report.rfd(gd) is None
    assert (report.strongest, report.factor) == (own, 2.0)


@pytest.mark.parametrize(
    ("release", "other", "ratio"),
    [(4.0, 2.0, 2.0), (4.0, math.inf, 0.0), (math.inf, 2.0, math.inf), (math.inf, math.inf, None),
     (4.0, 0.0, None)],
)  # fmt: skip
def test_ratios_of_steps(release, other, ratio):
    rows = {
        name: [("gd", "plain", steps, [0.5, 0.5])]
        for name, steps in (("release", release), ("reference", other), ("scratch", other))
    }
    report = report_of(1, **rows)
    assert (report.factor, report.scratch_share) == (ratio, ratio)


# ---- runs ----


def test_a_diverging_attacker_is_counted_and_not_fatal():
    model = nn.Sequential(*(nn.Linear(6, 6).double() for _ in range(6)))
    report = run(model, split="5", attackers=["gd"], trials=8, target=1.0)
    assert {"reached", "diverged"} <= {trial.ended for trial in report.strongest.trials}
    assert report.strongest.diverged >= 1
    assert report.as_dict()["attacks"]["release"][0]["diverged"] == report.strongest.diverged
    wild = [(1e200 * x, y) for x, y in task()]
    alone = run(model, split="5", harmful=wild, attackers=["gd"], trials=3)
    assert math.isinf(alone.strongest.steps)


def test_a_target_that_is_never_reached_is_infinite_with_the_best_seen():
    report = run(net(), target=0.0, trials=4)
    assert math.isinf(report.strongest.steps)
    assert report.factor is None
    assert report.scratch_share is None
    assert report.strongest.best.loss == min(t.loss for t in report.strongest.trials)
    json.dumps(report.as_dict(), allow_nan=False)
    assert "never there" in repr(report)


class _KilledError(Exception):
    """Instead of a signal."""


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    model, keep = net(), {"attackers": ["adam", "muon", "lstsq"], "equalize": "both",
                          "scratch": True, "target": 0.85, "trials": 3}  # fmt: skip
    whole = run(model, **keep)
    seen = []

    def kill(step, about):
        seen.append((about["attacker"], about["trial"], step))
        if len(seen) == 100:
            raise _KilledError

    with pytest.raises(_KilledError):
        run(model, checkpoint=tmp_path / "run", callback=kill, **keep)
    kept = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert len(kept) > 3
    before = {name: (tmp_path / "run" / name).read_bytes() for name in kept}
    done = run(model, checkpoint=tmp_path / "run", **keep)
    assert numbers(done) == numbers(whole)
    for name, data in before.items():
        assert (tmp_path / "run" / name).read_bytes() == data

    def refuse(*_):
        pytest.fail("a trial that was kept ran again")

    again = run(model, checkpoint=tmp_path / "run", callback=refuse, **keep)
    assert again.as_dict() == done.as_dict()  # times too: all of it was kept


def test_more_trials_and_other_attackers_go_on_from_there(tmp_path):
    run(net(), checkpoint=tmp_path / "run", trials=2)
    fresh = []

    def note(step, about):
        if step == 0:
            fresh.append((about["attacker"], about["trial"]))

    keep = {"attackers": ["gd", "lstsq"], "trials": 4}
    more = run(net(), checkpoint=tmp_path / "run", callback=note, **keep)
    assert fresh == [("gd", 2), ("gd", 3), *(("lstsq", n) for n in range(4))]
    assert numbers(more) == numbers(run(net(), **keep))


def test_a_folder_is_of_one_run(tmp_path):
    keep = {"checkpoint": tmp_path / "run", "trials": 2}
    run(net(), **keep)
    other = {"target": 0.1, "steps": 50, "equalize": True, "freeze": None, "cuts": ["0"],
             "prune": False, "max_utility_drop": 0.2, "seed": 1}  # fmt: skip
    for name, value in other.items():
        with pytest.raises(ValueError, match=f"that of another run: {name} is"):
            run(net(), **keep | {name: value})
    for part in ("harmful", "held_out", "utility"):
        with pytest.raises(ValueError, match="that of another run: task is"):
            run(net(), **keep | {part: task(seed=3)})
    other = net()
    with torch.no_grad():
        other[0].weight[0, 0] += 1e-12
    with pytest.raises(ValueError, match="networks"):
        run(other, **keep)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="empty folder"):
        run(net(), checkpoint=tmp_path / "used")
    first, second = sorted((tmp_path / "run").glob("release*"))
    kept = second.read_text()
    second.write_text(first.read_text())
    with pytest.raises(ValueError, match=r"not a trial of this run.*it is of .*'gd', 0"):
        run(net(), **keep)
    second.write_text(kept)
    for broken in ("{}", re.sub(r'"loss": [^,[]+,', '"loss": NaN,', kept, count=1)):
        second.write_text(broken)
        with pytest.raises(ValueError, match="not a trial of this run"):
            run(net(), **keep)
    second.write_text(kept)
    first.write_text("{}")
    with pytest.raises(ValueError, match="not a trial of this run"):
        run(net(), **keep)


@pytest.mark.parametrize("text", ["null", "[]", "3"])
def test_settings_that_are_none_are_told_with_the_folder(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=f"checkpoint {tmp_path} is of no run"):
        run(net(), checkpoint=tmp_path)


def test_a_run_that_fails_before_its_first_trial_leaves_the_folder_to_any_other(tmp_path):
    keep = {"checkpoint": tmp_path / "run", "trials": 2}
    with pytest.raises(ValueError, match="cuts must name a module"):
        run(net(), cuts=["9"], steps=3, **keep)
    assert not list((tmp_path / "run").iterdir())
    run(net(), **keep)


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    def second(*_):
        with pytest.raises(BlockingIOError):
            run(net(), checkpoint=tmp_path / "run", trials=1)
        raise _KilledError

    with pytest.raises(_KilledError):
        run(net(), checkpoint=tmp_path / "run", callback=second)


def test_nothing_of_the_model_or_of_random_numbers_changes():
    model = net().float().train()
    model[1].eval()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    run(model, harmful=[(x.float(), y) for x, y in task()],
        held_out=[(x.float(), y) for x, y in task(seed=2)], attackers=["adam", "kfac"],
        utility=[(x.float(), y) for x, y in task(seed=2)], equalize="both", trials=2)  # fmt: skip
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_an_attacker_may_have_fewer_rows():
    some = run(net(), harmful=task(batches=3), rows=100, trials=1)
    assert some.rows["harmful"] == 100
    [(x, y)] = task()
    first = run(net(), harmful=[(x[:80], y[:80]), (x[80:100], y[80:100])], trials=1)
    assert numbers(some) == numbers(first)
    with pytest.raises(ValueError, match="rows=500"):
        run(net(), rows=500)


# ---- bad input ----


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"harmful": [task()[0][0]]}, TypeError, "harmful must have classes.*batch 1 has none"),
        ({"held_out": [(task()[0][0], task()[0][0])]}, TypeError, "held_out must have classes"),
        ({"utility": [task()[0][0]]}, TypeError, "utility must have classes"),
        ({"harmful": [(task()[0][0][:3], torch.tensor([0, 1, 2]))]}, ValueError, "3 classes in"),
        ({"held_out": [(task()[0][0], torch.zeros(240).long())]}, ValueError, "no row of class"),
        ({"harmful": []}, ValueError, "harmful has no batches"),
        ({"split": "1"}, TypeError, "split"),
        ({"attackers": ["sgd"]}, ValueError, "one is 'sgd'"),
        ({"attackers": ["lora-0"]}, ValueError, "lora-0"),
        ({"attackers": ["probe-lstsq"]}, ValueError, "probe-lstsq"),
        ({"attackers": []}, TypeError, "attackers"),
        ({"equalize": "maybe"}, ValueError, "equalize"),
        ({"freeze": "all"}, ValueError, "freeze"),
        ({"steps": 0}, ValueError, "steps"),
        ({"trials": 0}, ValueError, "trials"),
        ({"target": -1.0}, ValueError, "target"),
        ({"target": math.nan}, ValueError, "target"),
        ({"target": 1.1}, ValueError, r"below log\(3\)"),
        ({"max_utility_drop": -0.1}, ValueError, "max_utility_drop"),
        ({"max_utility_drop": 2.0}, ValueError, "max_utility_drop"),
        ({"cuts": ["9"]}, ValueError, "cuts must name a module"),
    ],
)
def test_bad_input_is_named(changed, error, match):
    with pytest.raises(error, match=match):
        run(net(), **changed)


@pytest.mark.parametrize("attacker", ["probe-gd", "adam", "kfac", "lstsq"])
@pytest.mark.parametrize("part", ["harmful", "held_out"])
def test_features_that_are_not_finite_are_refused(attacker, part):
    """Else every attacker would diverge, and the release seem to withstand all."""
    x, y = task()[0]
    x = x.clone()
    x[3, 2] = math.nan
    with pytest.raises(ValueError, match=f"batch 1 of {part} hold NaN"):
        run(net(), attackers=[attacker], **{part: [(x, y)]})


def test_a_network_that_cannot_be_copied_is_refused():
    model = net()
    model.rows = (x for x in range(3))  # a generator
    with pytest.raises(TypeError, match="copied"):
        run(model)


def test_a_missing_extra_is_named(monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *args, **keywords):
        if name.split(".")[0] == "peft":
            raise ModuleNotFoundError("No module named 'peft'", name="peft")
        return real(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"lora"):
        run(net(), attackers=["lora-4"])
