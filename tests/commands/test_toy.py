"""The toy: its tasks, its releases, and `immucond toy`."""

import json
import shutil
import warnings
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra torch is not installed")
pytest.importorskip("peft", reason="the extra lora is not installed")

from immucond import deep  # noqa: E402
from immucond._cli import main  # noqa: E402
from immucond.experiments import toy  # noqa: E402
from immucond.experiments.toy import _experiment, _network, _report  # noqa: E402

FILES = [
    "results.json", "tables.md", "toy-ceiling.png", "toy-ceiling.svg", "toy.png", "toy.svg",
]  # fmt: skip
SCALED = {"times-900": 900.0, "over-1000": 1e-3}
SHARES = [0.05, 0.1]


@pytest.fixture(scope="module", autouse=True)
def _briefly_trained():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_network, "_TRAINED", 2000)
        patch.setattr(_network, "_EPOCHS", 3)
        patch.setattr(_network, "_STEPS", dict.fromkeys(_network._STEPS, 10))
        patch.setattr(_network, "_TRIALS", 2)
        patch.setattr(_network, "_TOL", 0.02)
        _experiment._trained.cache_clear()
        yield
        _experiment._trained.cache_clear()


@pytest.fixture(scope="module")
def made():
    return _network.Toy(seed=0, rows=60)


@pytest.fixture(scope="module")
def releases(made):
    return {name: make(made) for name, make in _network.MAKE.items()}


def features(x):
    """Exclusive ors of neighbouring bits, -1 where they differ."""
    bits = x.numpy() > 0
    return np.where(np.logical_xor(bits[:, 0::2], bits[:, 1::2]), -1.0, 1.0)


def layers(net):
    """Weights and biases of the linear layers in float64."""
    return {
        int(name): [p.detach().double().numpy() for p in (layer.weight, layer.bias)]
        for name, layer in net.named_children()
        if not isinstance(layer, torch.nn.ReLU)
    }


# ---- tasks ----


@pytest.mark.parametrize(("task", "needed"), [("primary", range(5)), ("harmful", range(3, 8))])
@pytest.mark.parametrize("seed", [0, 3])
def test_labels_are_of_five_exclusive_ors(task, needed, seed):
    made = _network.Toy(seed, 60)
    [(x, y)] = getattr(made, task)(4000)
    assert x.shape == (4000, 16)
    assert set(x.unique().tolist()) == {-1.0, 1.0}
    f, y = features(x)[:, list(needed)], y.numpy()
    told = f @ made._weights[task].double().numpy()
    assert (told.argmax(1) == y).mean() > 0.999  # but for ties in single precision
    assert y.max() < told.shape[1] == {"primary": 10, "harmful": 5}[task]

    def ambiguous(columns):
        labels = {}
        for row, label in zip(f[:, columns].tolist(), y, strict=True):
            labels.setdefault(tuple(row), set()).add(label)
        return any(len(found) > 1 for found in labels.values())

    assert not ambiguous(list(range(5)))  # they are all that a label depends on
    for left_out in range(5):  # and it depends on each
        assert ambiguous([i for i in range(5) if i != left_out])


def test_parts_and_seeds_share_rows_by_chance_alone():
    drawn = [
        {row.tobytes() for row in (_network.Toy(seed, 60)._draw(2000, part)[0].numpy() > 0)}
        for seed in (0, 1)
        for part in (*range(6), 999)
    ]
    chance = 2000 * 2000 / 2**16
    for place, rows in enumerate(drawn):
        for others in drawn[:place]:
            assert abs(len(rows & others) - chance) < 5 * chance**0.5


def test_rows_are_those_asked_for_and_the_same_twice(made):
    [(x, y)] = made.harmful()
    assert len(x) == len(y) == 60
    [(again, _)] = _network.Toy(0, 60).harmful()
    assert torch.equal(x, again)
    [(more, _)] = _network.Toy(0, 61).harmful(2000, 4)
    assert len(more) == 2000


def test_the_network_is_of_its_seed_alone(made):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = _network.Toy(0, 61).network
    assert torch.equal(torch.get_rng_state(), before)
    for one, two in zip(made.network.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not made.network.training
    [(x, y)] = made.primary(part=5)
    told = made.network(x).argmax(1)
    assert _network.accuracy(made.network, [(x, y)]) == (told == y).double().mean().item() > 0.2


# ---- releases ----


def test_every_release_has_a_name_and_a_head(releases, made):
    assert list(toy.RELEASES) == list(_network.MAKE)
    before = layers(_network.Toy(0, 60).network)
    for name, net in releases.items():
        head = net.get_submodule(_network.head_of(net))
        assert type(head) is torch.nn.Linear, name
        assert head.out_features == 10
    for place, (weight, bias) in layers(made.network).items():  # none has changed the network
        np.testing.assert_array_equal(weight, before[place][0])
        np.testing.assert_array_equal(bias, before[place][1])


def test_releases_with_an_inverse_keep_the_logits(releases, made):
    [(x, _)] = made.primary(part=5)
    with torch.no_grad():
        told = made.network(x).double()
        # SpecDef's rounding, as `gauge.lock` tells it: strength u / 5 of each of four layers.
        specdef = 4 * 1e3 * torch.finfo(torch.float32).eps / 2 / 5
        for name, net in releases.items():
            error = float((net(x).double() - told).norm() / told.norm())
            if name.startswith("compressed") or name in ("erased", "leace", "retrained"):
                assert error > 1e-3, name
            elif name in _network._STEPS:
                assert error > 0.0, name
            else:
                assert error < (specdef if name == "specdef" else 1e-5), name


def test_what_is_erased_is_narrow_and_tells_the_same_classes(releases, made):
    [(x, y)] = made.primary(part=5)
    net = releases["erased"]
    ranks = {}
    for at, (W, _) in layers(net).items():
        s = np.linalg.svd(W, compute_uv=False)
        ranks[at] = np.count_nonzero(s > 1e-12 * s[0]), len(s)
    assert sum(rank for rank, _ in ranks.values()) < sum(width for _, width in ranks.values()) - 3
    assert _network.accuracy(net, [(x, y)]) > _network.accuracy(made.network, [(x, y)]) - 0.01


def test_locks_are_locks(releases, made):
    before = layers(made.network)
    net = releases["specdef"]
    assert deep.gauge.inserted(net) == ["0.1", "2.1", "3.1", "5.1"]
    for at in (0, 2, 3, 5):
        first, second = (layer.weight.detach().double().numpy() for layer in net[at])
        np.testing.assert_allclose(second @ first, before[at][0], atol=1e-3)
        own, raised = (np.linalg.svd(w, compute_uv=False) for w in (before[at][0], first))
        np.testing.assert_allclose(raised[:2], 1e3 * own[:2], rtol=1e-5)
        np.testing.assert_allclose(raised[2:], own[2:], atol=1e-3)
    gauges = layers(releases["gauges"])
    conditions = {
        at: (np.linalg.cond(w), np.linalg.cond(before[at][0])) for at, (w, _) in gauges.items()
    }
    assert max(locked / own for locked, own in conditions.values()) > 100
    for name, factor in SCALED.items():
        for place in (0, 1):
            np.testing.assert_allclose(
                layers(releases[name])[5][place], factor * before[5][place], rtol=1e-6
            )
    [(x, _)] = made.primary()
    assert _network.head_of(releases["closed-form"]) == "6.1"
    Z = made.network[:6](x).detach().double()
    mapped = releases["closed-form"][6][0](Z.float()).detach().double()
    assert not torch.allclose(Z, mapped, rtol=0.1)


@pytest.mark.parametrize("share", SHARES)
def test_compressed_features_are_projected(releases, made, share):
    """By singular vectors of the features, layer by layer."""
    before, after = layers(made.network), layers(releases[f"compressed-{share:g}"])
    [(x, _)] = made.primary()
    a, cut = x.double().numpy(), {}
    for at in range(7):
        if at in (2, 3, 5, 6):
            _, s, vectors = np.linalg.svd(a, full_matrices=False)
            lost = np.cumsum(s[::-1] ** 2)[::-1] <= share * (s**2).sum()  # from the weakest on
            cut[at] = int((~lost).sum())
            kept, gone = vectors[~lost].T, vectors[lost].T
            old, new = before[at][0], after[at][0]
            scale = np.abs(old).max()
            np.testing.assert_allclose(new @ kept, old @ kept, atol=1e-5 * scale)
            np.testing.assert_allclose(new @ gone, 0.0, atol=1e-5 * scale)
            rank = np.linalg.matrix_rank(new, tol=1e-4 * np.linalg.norm(old, 2))
            assert rank == min(cut[at], *old.shape)
        np.testing.assert_array_equal(after.get(at, [0, 0])[1], before.get(at, [0, 0])[1])
        a = np.maximum(a, 0.0) if at in (1, 4) else a @ after[at][0].T + after[at][1]
    assert 0 < cut[6] < 16


def test_more_is_lost_where_more_may_be(releases, made):
    [(x, _)] = made.primary()
    with torch.no_grad():
        told = made.network(x)
        errors = [float((releases[f"compressed-{s:g}"](x) - told).norm()) for s in SHARES]
    assert all(a <= b for a, b in pairwise(errors))


# ---- the command ----

BOTH = ["--releases", "unprotected", "compressed-0.1"]


def command(out, *more):
    return ["toy", "--out", str(out), "--seeds", "1", "--rows", "60", "--steps", "8", "--trials",
            "2", "--target", "1.2", "--quiet", *more]  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    out = tmp_path_factory.mktemp("toy") / "out"
    assert main(command(out, *BOTH)) == 0
    return out


def read(out):
    return json.loads((out / "results.json").read_text())


def test_what_it_writes(ran):
    assert sorted(p.name for p in ran.iterdir()) == [*FILES, "units"]
    found = read(ran)
    assert found["command"].startswith("immucond toy --out ")
    assert {"immucond", "torch"} <= found["versions"].keys()
    assert list(found["releases"]) == BOTH[1:]
    made = _network.Toy(0, 60)
    for name, told in found["releases"].items():
        [unit] = told["seeds"]
        assert told["label"] == toy.RELEASES[name]
        assert unit["warnings"] == []
        net, [(x, y)] = _network.MAKE[name](made), made.primary(part=5)
        assert unit["primary"] == float((net(x).argmax(1) == y).double().mean())
        run = unit["attack"]
        assert {a["attacker"] for a in run["attacks"]["release"]} == set(toy.ATTACKERS)
        assert run["rows"] == {"harmful": 60, "held_out": 2000}
        assert (run["target"], run["steps"], run["trials"]) == (1.2, 8, 2)
        assert ("scratch" in run["attacks"]) == (name == "unprotected")
        fewest = min(float(a["steps"]) for a in run["attacks"]["release"])
        assert float(run["strongest"]["release"]["steps"]) == fewest
    page = (ran / "tables.md").read_text()
    for text in ("unprotected", "10 % lost", "from scratch", "Target 1.2 nats"):
        assert text in page
    for name in FILES:
        assert (ran / name).stat().st_size > 500


def test_a_second_call_computes_nothing_anew(ran, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(ran, out)
    monkeypatch.setattr(_experiment, "measure", None)
    kept = {p: p.read_bytes() for p in (out / "units").iterdir()}
    assert len(kept) == 2
    assert main(command(out, *BOTH)) == 0
    assert {p: p.read_bytes() for p in (out / "units").iterdir()} == kept
    one, two = read(ran), read(out)
    assert {**one, "command": ""} == {**two, "command": ""}
    assert (ran / "toy.svg").read_bytes() == (out / "toy.svg").read_bytes()


def test_one_release_has_no_correlation(ran, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(ran / "units", out / "units")
    monkeypatch.setattr(_experiment, "measure", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(command(out, "--releases", "compressed-0.1")) == 0
    assert read(out)["correlations"] == [None]
    page = (out / "tables.md").read_text()
    assert "by seed: none" in page
    assert "from scratch" not in page


def test_an_interrupted_run_keeps_what_is_done(ran, tmp_path, monkeypatch, capsys):
    units = {p.name: p.read_bytes() for p in (ran / "units").iterdir()}
    done, computed = json.loads(units[min(units)]), []

    def measure(unit):
        if computed:
            raise KeyboardInterrupt
        computed.append(unit)
        return done["result"]

    monkeypatch.setattr(_experiment, "measure", measure)
    assert main(command(tmp_path / "out", *BOTH)) == 130
    assert capsys.readouterr().err.endswith("immucond toy: interrupted\n")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["units"]
    assert len([*(tmp_path / "out" / "units").iterdir()]) == 1
    assert [unit["release"] for unit in computed] == ["unprotected"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--releases", "fadee"], "did you mean 'fade'"),
        (["--rows", "19"], "--rows"),
        (["--steps", "0"], "--steps"),
        (["--target", "0"], "--target"),
        (["--trials", "0"], "--trials"),
        (["--seeds", "0"], "--seeds"),
    ],
)
def test_bad_input_is_told(tmp_path, capsys, more, told):
    with pytest.raises(SystemExit) as error:
        main(command(tmp_path / "out", *more))
    assert error.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("immucond toy: error: argument ")
    assert told in last
    assert not (tmp_path / "out").exists()


# ---- what came out ----


def result(ceilings, steps):
    """Made up, of one seed."""
    names = list(toy.RELEASES)[: len(steps)]
    units = {
        name: [{"ceiling": c, "primary": 1.0,
                "attack": {"strongest": {"release": {"steps": s}}, "attacks": {"release": []}}}]
        for name, c, s in zip(names, ceilings, steps, strict=True)
    }  # fmt: skip
    return toy.Result(toy.Settings(releases=tuple(names), seeds=1, steps=8), units)


@pytest.mark.parametrize(
    ("ceilings", "steps", "wanted"),
    [
        ([0.2, 0.4, 0.6], ["inf", 5.0, 3.0], -1.0),
        ([0.2, 0.4, 0.4], ["inf", "inf", 3.0], -0.5),  # ranks 1, 2.5, 2.5 and 2.5, 2.5, 1
        ([0.4, 0.4, 0.4], ["inf", 5.0, 3.0], None),
        ([0.2, 0.4, 0.6], ["inf", "inf", "inf"], None),
        ([0.2, 0.4, 0.6], [3.0, 3.0, 3.0], None),
    ],
)
def test_correlations(ceilings, steps, wanted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = toy.as_json(result(ceilings, steps), "immucond toy", {})
    assert told["correlations"] == [wanted if wanted is None else pytest.approx(wanted)]
    json.dumps(told, allow_nan=False)
    [table] = toy.tables(result(ceilings, steps))
    assert ("none" in table.markdown()) == (wanted is None)


def test_every_point_is_within_the_figure():
    figure = toy.figures(result([0.2, 0.4, 0.6], [0.0, 8.0, "inf"]))["toy-ceiling"]
    [ax] = figure.axes
    figure.canvas.draw()
    low, high = ax.get_ylim()
    points = [y for line in ax.lines if line.get_marker() in "os" for y in line.get_ydata()]
    assert len(points) == 3
    assert all(low < y < high for y in points)
    scaled = ax.transData.transform([(50.0, y) for y in points])
    assert np.isfinite(scaled).all()
    assert len({y for _, y in scaled}) == 3
    assert _report.strongest(result([0.1], ["inf"]).units["unprotected"]) == [np.inf]


def test_a_unit_runs_on_one_thread_and_leaves_the_others_as_they_were(monkeypatch):
    """A second thread has nothing to do there, and waits long where other work runs."""
    seen, before = [], torch.get_num_threads()

    def trained(seed, rows):
        seen.append(torch.get_num_threads())
        raise InterruptedError(f"{seed}, {rows}")

    monkeypatch.setattr(_experiment, "_trained", trained)
    torch.set_num_threads(3)
    try:
        with pytest.raises(InterruptedError, match="0, 60"):
            _experiment.measure({"seed": 0, "rows": 60})
        assert (seen, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(before)
