"""Attackers of networks that are built in ways of their own."""

import pytest
import torch
from torch import nn

import immucond.deep as icd
from immucond.deep._attacked import with_new_head
from immucond.deep._untrained import untrained_like
from immucond.deep.attacks import _suite, _victims
from immucond.deep.attacks._attackers import parse_attackers
from immucond.deep.attacks._rows import task_of
from immucond.deep.attacks._starts import at_cuts, pooled_at, starts_of
from immucond.deep.attacks._victims import features_of, victim_of

transformers = pytest.importorskip("transformers", reason="the extra deep is not installed")


# ---- cuts ----


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_labels=3,
        num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    return transformers.LlamaForSequenceClassification(config).eval()


def texts(tokens, count=30, seed=1):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 20, (count, tokens), generator=generator)
    mask = torch.ones_like(ids)
    ids[::3, -2:] = mask[::3, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": (ids[:, 0] > 10).long()}


def test_a_cut_without_layers_of_a_type_is_the_mean_of_its_tokens():
    """Of RMSNorm, say, whose class tells nothing: batches of other lengths went wrong there."""
    net, batch = llama(), texts(5)
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    with torch.no_grad():
        hidden = net.model(**inputs).last_hidden_state
        kept = batch["attention_mask"][..., None]
        wanted = (hidden * kept).sum(1) / kept.sum(1)
    [start] = starts_of(net, "score", torch.device("cpu"), (inputs, None), forms=["plain"])
    [cut] = (at.model for at in at_cuts(start, ["model.norm"], (inputs, None)))
    entered = []
    cut.head.register_forward_pre_hook(lambda _, args: entered.append(args[0].detach()))
    cut(**inputs)
    torch.testing.assert_close(entered[0], wanted)
    report = icd.attack(net, [batch, texts(7)], held_out=[texts(6, seed=2)], split="score",
                        attackers=["lstsq"], trials=1, scratch=False, equalize=False)  # fmt: skip
    assert "plain, model.norm" in {attack.start for attack in report.attacks["release"]}


class Filled(nn.Module):
    """A network that fills padding, which nothing reads later, with some number."""

    def __init__(self, fill):
        super().__init__()
        torch.manual_seed(0)
        self.fill = fill
        self.emb, self.block, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask):
        padding = attention_mask[..., None] == 0
        x = self.block(self.emb(input_ids).masked_fill(padding, self.fill))
        return self.head(x.masked_fill(padding, 0.0).sum(1) / attention_mask.sum(1, keepdim=True))


def test_nan_in_padding_stays_there():
    rows = [[texts(6, count=40, seed=seed)] for seed in (1, 2, 3)]
    found = []
    for fill in (0.0, torch.nan):
        report = icd.attack(
            Filled(fill), rows[0], held_out=rows[1], split="head", attackers="lstsq", trials=1,
            scratch=False, equalize=False,
        )  # fmt: skip
        done = icd.erase(Filled(fill), rows[2], held_out=rows[1], tol=0.5)
        curves = {of.start: of.best.curve for of in report.attacks["release"]}
        found.append((curves, done.ranks, done.skipped, done.primary))
    assert found[0] == found[1]
    assert set(found[0][0]) == {"plain", "plain, emb", "plain, block"}
    assert set(found[0][1]) == {"emb", "block"}


def test_one_pass_shows_every_cut_before_what_writes_over_it():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)
    ).eval()  # fmt: skip
    X = torch.randn(40, 6)
    with torch.no_grad():
        first = X @ net[0].weight.T + net[0].bias
        found = pooled_at(net, ["0", "1"], (X,))
    torch.testing.assert_close(found, [first, first.clamp(min=0.0)])

    batch, ran = [(X, (X[:, 0] > 0).long())], []
    net[0].register_forward_hook(lambda *_: ran.append(1))
    options = {"held_out": batch, "split": "4", "scratch": False, "equalize": False,
               "attackers": ["lstsq"], "trials": 1}  # fmt: skip
    every = {"0", "1", "2", "3"}
    together = icd.attack(net, batch, **options, cuts=["0", "1", "2", "3"])
    passes = len(ran)
    alone = {cut: icd.attack(net, batch, **options, cuts=[cut]) for cut in every}
    assert passes == 5  # widths; training and held-out rows at the head, and at all cuts
    for attack in together.attacks["release"][1:]:
        cut = attack.start.removeprefix("plain, ")
        [_, other] = alone[cut].attacks["release"]
        every.remove(cut)
        assert attack.trials[0].curve == other.trials[0].curve
    assert not every


def test_a_cut_that_runs_twice_is_what_it_first_puts_out_and_one_that_never_runs_is_told():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice, self.never, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.twice(self.twice(x)))

    net, X = Net(), torch.randn(40, 6)
    found = pooled_at(net, ["twice", "head"], (X,))
    torch.testing.assert_close(found, [net.twice(X), net(X)])
    batch = [(X, (X[:, 0] > 0).long())]
    with pytest.raises(ValueError, match="the module 'never' of cuts never ran"):
        icd.attack(net, batch, held_out=batch, split="head", cuts=["twice", "never"])


def test_a_cut_that_is_no_tensor_is_told():
    class Split(nn.Module):
        def forward(self, x):
            return "left", x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.split, self.head = Split(), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.split(x)[1])

    batch = [(torch.randn(20, 6), torch.arange(20) % 2)]
    with pytest.raises(ValueError, match="the output of 'split' must be a tensor"):
        icd.attack(Net(), batch, held_out=batch, split="head", cuts=["split"])


def test_what_was_inserted_stays_at_other_cuts_too():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    locked = icd.gauge.lock(net, strength=1e3, top=2, modules=["0"])
    batch = (torch.randn(40, 6), torch.arange(40) % 2)
    rows = task_of([batch], [batch], None, None, torch.device("cpu"), 0)
    [start] = starts_of(locked, "2", torch.device("cpu"), batch, forms=["frozen"])
    for each in (start, *at_cuts(start, ["1"], batch)):
        [features] = features_of([each], rows)
        module = victim_of(features, parse_attackers("adam")[0], {}, 0).module
        trained = {name.removeprefix("model.") for name, p in module.named_parameters()
                   if p.requires_grad}  # fmt: skip
        assert "0.0.weight" in trained
        assert not any(name.startswith("0.1.") for name in trained)


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_modes_are_searched_where_a_layer_has_them(p):
    net, batch = nn.Sequential(nn.Dropout(p), nn.Linear(6, 2)), (torch.randn(40, 6), None)
    for training in (False, True):
        [start] = starts_of(
            net, "1", torch.device("cpu"), batch, forms=["plain"], training=training
        )
        assert start.also == ({"training": (training, not training)} if p else {})


# ---- PyTorch's own encoder layers ----


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(8, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.encoder(self.up(x)).mean(1))


def sequences(count=40, seed=1):
    X = torch.randn(count, 5, 8, generator=torch.Generator().manual_seed(seed))
    return [(X, (X[:, 0, 0] > 0).long())]


def test_adapters_in_an_encoder_layer_are_trained_and_measured():
    """The kernel that runs such a layer in evaluation mode knows of none."""
    pytest.importorskip("peft", reason="the extra lora is not installed")
    [batch] = sequences()
    enabled = torch.backends.mha.get_fastpath_enabled()
    report = icd.attack(Encoder(), [batch], held_out=[batch], split="head", attackers=["lora-4"],
                        trials=1, steps=20, target=0.0, scratch=False, cuts=(),
                        equalize=False)  # fmt: skip
    assert torch.backends.mha.get_fastpath_enabled() == enabled
    curve = report.strongest.best.curve["loss"]

    net = Encoder()  # in training mode, without dropout: each layer is called
    head = with_new_head(net, "head", 2, params="lora", rank=4, seed=0)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    adam = torch.optim.Adam([p for p in net.parameters() if p.requires_grad],
                            lr=report.strongest.best.settings["rate"])  # fmt: skip
    losses = []
    for _ in range(21):
        adam.zero_grad()
        loss = nn.functional.cross_entropy(net(batch[0]), batch[1])
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    torch.testing.assert_close(torch.tensor(curve), torch.tensor(losses), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("params", ["full", "lora"])
def test_an_encoder_layer_has_a_forecast(params):
    if params == "lora":
        pytest.importorskip("peft", reason="the extra lora is not installed")
    keep = {"split": "head", "products": 30, "steps": 5}
    cost = icd.attack_cost(Encoder(), sequences(), params=params, **keep)
    assert cost.lazy


def test_an_encoder_layer_is_drawn_anew_as_pytorch_draws_it():
    batch = sequences()
    fresh = untrained_like(Encoder(), torch.device("cpu"), 0, argument="scratch")
    attention = fresh.encoder.layers[0].self_attn
    weight = attention.in_proj_weight
    assert 0.9 < weight.abs().max() / (6 / (8 + 24)) ** 0.5 <= 1.0  # Glorot's uniform
    assert not torch.equal(weight, Encoder().encoder.layers[0].self_attn.in_proj_weight)
    assert not attention.in_proj_bias.any()
    assert not attention.out_proj.bias.any()
    report = icd.attack(Encoder(), batch, held_out=batch, split="head", attackers=["gd"],
                        trials=1, steps=1, equalize=False)  # fmt: skip
    assert "scratch" in report.attacks


# ---- tensors by name, networks that draw numbers ----


class ByName(nn.Module):
    """Every layer is given its input by name."""

    def __init__(self, named=True):
        super().__init__()
        torch.manual_seed(0)
        self.named = named
        self.body, self.norm, self.head = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        for layer in (self.body, self.norm, torch.tanh, self.head):
            x = layer(input=x) if self.named else layer(x)
        return x


def rows(count=60, seed=1, batches=1):
    X = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
    return list(zip(X.chunk(batches), y.chunk(batches), strict=True))


def run(model, **changed):
    given = {"held_out": rows(seed=2), "trials": 3, "steps": 8, "target": 0.0, "scratch": False,
             "cuts": (), "split": "head", "equalize": False, **changed}  # fmt: skip
    return icd.attack(model, given.pop("harmful", rows()), **given)


def told(report):
    """All that a run gave but its times."""
    return [[{k: v for k, v in t.as_dict().items() if k != "seconds"} for t in a.trials]
            for a in report.attacks["release"]]  # fmt: skip


@pytest.mark.parametrize("attacker", ["kfac", "adam", "whitening"])
def test_layers_may_be_given_their_input_by_name(attacker):
    keep = {"attackers": [attacker], "equalize": "both"}
    assert told(run(ByName(), **keep)) == told(run(ByName(named=False), **keep))


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x + 0.3 * torch.randn_like(x))))


def test_networks_that_draw_numbers_draw_those_of_the_seed(tmp_path):
    """Also where an interrupted run goes on from what it kept."""
    keep = {"attackers": ["probe-adam", "lstsq"], "cuts": ["body"]}
    net, found = Noisy(), []
    for state in (1, 2):
        torch.manual_seed(state)
        found.append(told(run(net, utility=rows(seed=3), **keep)))
    assert found[0] == found[1]

    def interrupt(_, about):
        if "body" in about["start"]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(net, callback=interrupt, checkpoint=tmp_path / "run", **keep)
    assert told(run(net, checkpoint=tmp_path / "run", **keep)) == told(run(net, **keep))


def test_what_a_callback_draws_changes_nothing():
    net = nn.Sequential(nn.Linear(6, 8), nn.Dropout(), nn.Linear(8, 3))
    keep = {"split": "2", "attackers": ["adam"], "trials": 8}
    assert any(t["settings"]["training"] for [*of] in told(run(net, **keep)) for t in of)
    assert told(run(net, callback=lambda *_: torch.rand(3), **keep)) == told(run(net, **keep))


# ---- what is counted ----


class Counting(nn.Module):
    """Counts the rows that it is trained on."""

    seen = 0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        Counting.seen += len(x) * torch.is_grad_enabled()
        return self.head(torch.tanh(self.body(x)))


@pytest.mark.parametrize("attacker", ["gd", "lbfgs", "kfac"])
def test_passes_are_all_that_a_rule_takes_over_the_rows(attacker):
    Counting.seen = 0
    report = run(Counting(), harmful=rows(batches=3), attackers=[attacker], trials=1, steps=100,
                 target=1.0)  # fmt: skip
    best = report.strongest.best
    assert best.ended == "reached"
    assert best.passes == Counting.seen / 60
    assert (best.passes > best.steps) == (attacker != "gd")


def test_rows_are_counted_by_their_labels():
    """And not by the first tensor of the inputs, which may be of no sample."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, scale, x):
            return self.head(torch.tanh(self.body(x) * scale.sum()))

    def scaled(batches):
        return [{"scale": torch.ones(3), "x": x, "labels": y} for x, y in batches]

    [(x, y)] = rows()
    keep = {"attackers": ["adam"], "held_out": scaled(rows(seed=2))}
    some = run(Scaled(), harmful=scaled(rows()), rows=40, **keep)
    assert some.rows["harmful"] == 40
    assert told(some) == told(run(Scaled(), harmful=scaled([(x[:40], y[:40])]), **keep))


@pytest.mark.parametrize(("after", "ended"), [(0.7, "reached"), (0.6, "utility")])
def test_an_attacker_may_lose_as_much_as_is_allowed(after, ended, monkeypatch):
    """0.7 is less than 0.8 - 0.1 in floating point."""
    monkeypatch.setattr(_suite, "utility_of", lambda *_, **__: 0.8)
    monkeypatch.setattr(_victims, "utility_of", lambda *_, **__: after)
    report = run(Counting(), attackers=["adam"], target=1.0, trials=2, steps=100, utility=rows(),
                 max_utility_drop=0.1)  # fmt: skip
    assert report.strongest.trials[1].ended == ended


def test_seeds_may_have_more_than_32_bits():
    pytest.importorskip("sklearn", reason="the extra sklearn is not installed")
    found = [told(run(Counting(), attackers=["logistic"], seed=seed)) for seed in (0, 2**32 + 5)]
    assert found[0] == found[1]  # nothing is drawn


def test_a_checkpoint_is_of_one_architecture(tmp_path):
    def net(layer):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), layer, nn.Linear(8, 3))

    keep = {"split": "2", "attackers": ["adam"], "checkpoint": tmp_path / "run"}
    run(net(nn.Tanh()), **keep)
    for other in (nn.ReLU(), nn.Dropout()):
        with pytest.raises(ValueError, match="networks is"):
            run(net(other), **keep)
    run(net(nn.Tanh()), **keep)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"model": object()}, "must be a torch.nn.Module, and is a object"),
        ({"reference": 3}, "must be a torch.nn.Module, and is a int"),
        ({"attackers": 3}, "attackers must be"),
        ({"cuts": None}, "cuts must be 'auto' or names"),
    ],
)
def test_what_is_of_no_such_kind_is_told(changed, match):
    with pytest.raises(TypeError, match=match):
        run(**{"model": Counting(), **changed})


def test_names_may_be_what_is_read_once():
    given = {"attackers": iter(["lstsq"]), "trials": 1}
    once = run(Counting(), cuts=iter(["body"]), **given)
    assert [a.start for a in once.attacks["release"]] == ["plain", "plain, body"]
