"""How `record` runs: in several passes, resumed, compiled, under autocast; and what it leaves."""

import copy
import logging

import numpy as np
import pytest
from record_cases import FACTORS, NAMES, assert_same, recorded, shuffled
from torch_cases import torch
from torch_nets import Net, data, net, states_equal

import immucond as ic
import immucond.deep as icd
from immucond.deep._moments import MOMENTS

nn = torch.nn


# ---- several passes, and one that is cut off ----


@FACTORS
def test_passes_under_a_budget_give_the_bits_of_one(factor, caplog):
    whole = recorded(factor=factor)
    assert whole.passes == (NAMES,)
    largest = max(MOMENTS[factor].bytes_of(len(whole.gram(name))) for name in NAMES)
    seen = []
    with caplog.at_level(logging.WARNING, logger="immucond"):
        parts = recorded(
            factor=factor,
            max_bytes=2 * largest,
            callback=lambda step, told: seen.append((step, told)),
        )
    assert_same(parts, whole)
    assert len(parts.passes) > 1
    assert sum(parts.passes, ()) == NAMES
    assert "max_bytes needs" in caplog.text
    assert f"{len(parts.passes)} passes" in caplog.text
    # Said with the first batch, and true.
    assert {told["passes"] for _, told in seen} == {len(parts.passes)}
    assert [step for step, _ in seen] == list(range(1, 5 * len(parts.passes) + 1))
    assert seen[7][1] | {"rows": 0} == {
        "pass": 2,
        "passes": len(parts.passes),
        "batch": 3,
        "batches": 5,
        "rows": 0,
    }
    assert recorded(factor=factor, max_bytes=100 * largest).passes == (NAMES,)
    with pytest.raises(
        ValueError, match=r"'stem' has 1 features.*more than max_bytes=10 \(batch 1\)"
    ):
        recorded(factor=factor, max_bytes=10)


class KilledError(BaseException):
    pass


def killing(at):
    def callback(step, _):
        if step == at:
            raise KilledError

    return callback


@FACTORS
@pytest.mark.parametrize("budget", [None, 2_600_000])
@pytest.mark.parametrize("of", ["input", "gradient"])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(of, budget, factor, tmp_path):
    options = {"factor": factor, "max_bytes": budget, "of": of, "seed": 3}
    whole = recorded(**options)
    steps = 5 * len(whole.passes)
    assert (len(whole.passes) > 1) == (budget is not None)
    options |= {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 2}
    for at in range(1, steps, 2):
        model = net().train()
        with pytest.raises(KilledError):
            recorded(model, **options, callback=killing(at))
        assert all(module.training for module in model.modules())
    ran = []
    assert_same(recorded(**options, callback=lambda step, _: ran.append(step)), whole)
    assert ran[-1] == steps
    assert ran[0] > 1
    again = []
    assert_same(recorded(**options, callback=lambda step, _: again.append(step)), whole)
    assert again == []  # there is nothing left to do


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    recorded(checkpoint=path)
    other = net()
    with torch.no_grad():
        other.head.bias += 1e-3
    for model, options, told in (
        (other, {}, "model is"),
        (None, {"loader": shuffled(60)}, "loader is"),
        (None, {"modules": ["head"]}, "modules is"),
        (None, {"of": "output"}, "of is 'input' there and 'output' here"),
        (None, {"factor": "r"}, "factor is"),
        (None, {"cross": None}, "cross is"),
        (None, {"seed": 1}, "seed is"),
        (None, {"rows": "mean"}, "rows is"),
        (None, {"max_bytes": 10**9}, "max_bytes is"),
    ):
        with pytest.raises(ValueError, match=f"is that of another run: .*{told}"):
            recorded(model, checkpoint=path, **options)
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"checkpoint .*run\.pt is not one of immucond"):
        recorded(checkpoint=path)


@FACTORS
def test_means_and_what_they_centre_do_not_depend_on_batches(factor):
    """Of float64, whose sums round: those of a few float32 are exact, in any order."""
    rows = torch.randn(500, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = torch.pi * (rows + 3.0)
    model = nn.Sequential(nn.Linear(6, 2)).double()
    found = [icd.record(model, rows.split(size), "0", factor=factor) for size in (7, 500, 64)]
    for other in found[1:]:
        assert np.array_equal(other.mean("0"), found[0].mean("0"))
        assert np.array_equal(other.gram("0", center=True), found[0].gram("0", center=True))
    assert np.allclose(found[0].mean("0"), rows.mean(0).numpy(), rtol=1e-14)


def test_bits_do_not_depend_on_batches():
    in_order = [torch.utils.data.DataLoader(data(70, 1), batch_size=size) for size in (70, 32, 7)]
    # Of one batch size the network's own rounding differs: take what it is given.
    first, *others = (recorded(loader=loader, modules="stem") for loader in in_order)
    for other in others:
        assert np.array_equal(first.gram("stem"), other.gram("stem"))


def test_what_the_network_and_the_loader_draw_follows_from_the_seed():
    class Noisy(Net):
        def forward(self, x, scale=None):
            return super().forward(x + torch.randn_like(x), scale)

    model, loader = net(Noisy), shuffled(generator=torch.Generator().manual_seed(5))
    state, before = torch.get_rng_state(), loader.generator.get_state()
    one, two = (recorded(model, loader, seed=7) for _ in range(2))
    assert_same(one, two)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(loader.generator.get_state(), before)
    other = recorded(model, loader, seed=8)
    assert not np.array_equal(one.gram("stem"), other.gram("stem"))


# ---- what a model is wrapped in, and what is left of the run ----


@pytest.mark.parametrize("kind", ["whole", "in place", "a block"])
@pytest.mark.parametrize("of", ["input", "gradient"])
def test_compiled_networks(of, kind):
    plain = recorded(of=of)
    model = net()
    if kind == "in place":
        model.compile(backend="eager")
    elif kind == "a block":
        model.block2 = torch.compile(model.block2, backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    x = data(4, 1)[:][0]
    with torch.no_grad():
        before = model(x)  # compiled, so that a hook that is new would not be seen
        assert_same(recorded(model, of=of), plain)
        assert torch.equal(model(x), before)
    torch._dynamo.reset()


def test_mixed_precision_is_remembered():
    x, y = data(70, 1)[:]
    batches = list(zip(x.split(35), y.split(35), strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        found = icd.record(net(), batches, list(NAMES), of="output")
        seen = []
        model = net()
        hook = model.block2[0].register_forward_hook(lambda *a: seen.append(a[2]))
        with torch.no_grad():
            for part, _ in batches:
                model(part)
        hook.remove()
    X = torch.cat(seen)
    assert X.dtype == torch.bfloat16
    assert found.computed_in("block2.0") == "bfloat16"
    X = X.double().numpy()
    assert np.allclose(found.gram("block2.0"), X.T @ X, rtol=1e-13)


@pytest.mark.filterwarnings("ignore:the rank of .* entries in bfloat16 were rounded")
def test_alignment_in_half_precision_is_that_of_the_rows():
    """Of a graded spectrum, whose small end the rounding of bfloat16 has taken."""
    rng = np.random.default_rng(0)
    rows = (
        rng.standard_normal((300, 12))
        * 2.0 ** -np.arange(12)
        @ np.linalg.qr(rng.standard_normal((12, 12)))[0]
    )
    x = torch.from_numpy(rows).bfloat16()
    labels = torch.from_numpy(rng.integers(0, 3, 300))
    found = icd.record(
        nn.Sequential(nn.Linear(12, 2).bfloat16()), [(x, labels)], ["0"], factor="r", cross="labels"
    )
    truth = ic.linear.alignment(
        x.double().numpy(), np.eye(3)[labels.numpy()], computed_in="bfloat16"
    )
    assert 3 < truth.rank < 12
    mine = found.alignment("0")
    assert mine.rank == truth.rank
    assert mine.rho == pytest.approx(truth.rho, rel=1e-8)


@FACTORS
@pytest.mark.filterwarnings("ignore:the rank of .* entries in bfloat16 were rounded")
def test_the_rank_of_half_precision_is_that_of_its_rounding(factor):
    """Rows of rank 1, each rounded: added as float32, they would seem to have full rank."""
    torch.manual_seed(1)
    line = nn.Linear(1, 8, bias=False).bfloat16()
    x = torch.linspace(1, 2, 50)[:, None].bfloat16()
    found = icd.record(nn.Sequential(line), [x], "0", of="output", factor=factor)
    assert found.computed_in("0") == "bfloat16"
    assert found.rank("0") == found["0"].pairs().rank == 1
    assert found.pairs("0", computed_in="float32").rank == 8


@pytest.mark.parametrize("of", ["input", "gradient"])
def test_all_is_left_as_it_was(of):
    model = net().train()
    model.block1.eval()
    model.stem.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    wanted = [p.requires_grad for p in model.parameters()]
    before = copy.deepcopy(model.state_dict())

    def check():
        assert [module.training for module in model.modules()] == modes
        assert [p.requires_grad for p in model.parameters()] == wanted
        assert all(p.grad is None for p in model.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())

    recorded(model, of=of)
    check()

    def interrupt(step, _):
        model(data(4, 1)[:][0])  # a callback may run the network: nobody hears
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recorded(model, of=of, callback=interrupt)
    check()
    with pytest.raises(ValueError, match="the model does not run on a batch of loader"):
        recorded(model, [(torch.ones(4, 1, 3, 3), torch.zeros(4).long())], of=of)
    check()
    x, y = data(4, 1)[:]
    with pytest.raises(ValueError, match=r"must be finite.*\(batch 2\)"):
        recorded(model, [(x, y), (x * torch.nan, y)], of=of)
    check()
    assert states_equal(model, net())


def test_a_callback_that_runs_the_network_is_not_heard():
    model, x = net(), data(9, 2)[:][0]
    assert_same(recorded(model, callback=lambda *_: model(x)), recorded())


def test_modules_with_several_names_are_there_once():
    model = net()
    model.twin = model.block2
    found = recorded(model, modules="*2.0")
    assert found.names == ("block2.0",)
    found = recorded(model, modules="twin.0")
    assert found.names == ("block2.0",)
    assert found.aliases == {"block2.0": ("twin.0",)}
    assert np.array_equal(found.gram("twin.0"), found.gram("block2.0"))
    assert found["twin.0"].count == 70


def test_a_module_that_runs_twice():
    class Twice(Net):
        def forward(self, x):
            x = self.block1(torch.relu(self.norm(self.stem(x))))
            return self.head(self.block2(x) + self.block2(x + 1.0))

    told = r"'block2.0' runs more than once in a forward pass.*repeated='sum'.*\(batch 1\)"
    for of in ("input", "output", "gradient"):
        with pytest.raises(ValueError, match=told):
            recorded(net(Twice), modules="block2.0", of=of)
        found = recorded(net(Twice), modules="block2.0", of=of, repeated="sum")
        assert found.count("block2.0") == 140
    model, seen = net(Twice), []
    hook = model.block2[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(data(70, 1)[:][0])
    hook.remove()
    X = torch.cat(seen).double().numpy()
    found = recorded(net(Twice), modules="block2.0", repeated="sum")
    assert np.allclose(found.gram("block2.0"), X.T @ X, rtol=1e-6)
    assert found.energy("block2.0", center=False) == 140
