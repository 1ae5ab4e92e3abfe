"""Which rows erasure looks at, in which order it draws them, and what it refuses of them."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import LlamaConfig, LlamaForCausalLM

import immucond.deep as icd
from immucond.deep.erasure._worth import _counting, gains_of


def net_of(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        net[0].weight[:, 4:].mul_(torch.arange(16)[:, None] % 2)
        net[4].weight.mul_(3.0)
    return net.eval().to(dtype)


def rows(of, count: int, seed: int, dtype: torch.dtype = torch.float32):
    X = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)
    with torch.no_grad():
        return list(zip(X.split(100), of(X).split(100), strict=True))


def tasks(net: nn.Module, dtype: torch.dtype = torch.float32):
    def told(x: Tensor) -> Tensor:
        return net(x).argmax(1)

    def sign(x: Tensor) -> Tensor:
        return (x[:, 7] > 0).long()

    primary, held_out = rows(told, 400, 1, dtype), rows(told, 400, 2, dtype)
    return primary, held_out, rows(sign, 400, 3, dtype), rows(sign, 400, 4, dtype)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


# ---- which rows count ----


class Tokens(nn.Module):
    """Logits of every token, padding among them."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.own, self.pooled = nn.Embedding(30, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        kept = attention_mask.float()[..., None]
        x = self.words(input_ids)
        mean = (self.pooled(x) * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True)
        return self.head(torch.tanh(self.own(x)) + mean)


@pytest.mark.parametrize("labelled", [True, False])
def test_padding_is_worth_nothing(labelled):
    net = Tokens().eval()

    def worth(pad: int) -> dict[str, float]:
        draw = torch.Generator().manual_seed(1)
        batches = []
        for _ in range(3):
            ids = torch.randint(1, 30, (20, 4), generator=draw)
            mask = nn.functional.pad(torch.ones_like(ids), (0, pad))
            batch = {"input_ids": nn.functional.pad(ids, (0, pad)), "attention_mask": mask}
            if labelled:
                with torch.no_grad():
                    batch["labels"] = net(**batch).argmax(-1)
            batches.append(batch)
        found = icd.erasure_path(net, batches, metric="gram")
        return {name: each.path.total for name, each in found.worth.items()}

    bare = worth(0)
    assert min(bare.values()) > 0.1
    assert worth(30) == pytest.approx(bare, rel=1e-5)


def test_the_worth_of_a_language_model_is_of_the_logits_that_its_labels_are_compared_with():
    """Beside all logits' gradients, one by one, at the token before the answer: causal, so that
    no token after it has any."""
    config = LlamaConfig(
        vocab_size=12, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=8,
        tie_word_embeddings=False, pad_token_id=None,
    )  # fmt: skip
    net = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(8.0 if p.ndim > 1 else 1.0)
    ids = torch.randint(0, 12, (400, 5), generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(5) == 3, ids, -100)  # the answer alone
    name = "model.layers.0.mlp.down_proj"

    def gains(ids: Tensor) -> np.ndarray:
        given = zip(ids.split(50), labels.split(50), strict=True)
        batches = [{"input_ids": x, "labels": y} for x, y in given]
        settings = {"mask": "attention_mask", "seed": 0, "repeated": "sum"}
        return gains_of(net, [name], "lm_head", batches, "gram", **settings)[name]

    found = gains(ids)
    later = ids.clone()
    later[:, 3:] = 7
    np.testing.assert_allclose(gains(later), found, rtol=1e-5, atol=1e-6 * np.abs(found).max())
    seen: list[Tensor] = []
    handle = net.get_submodule(name).register_forward_hook(lambda *x: seen.append(x[-1]))
    logits = net(input_ids=ids).logits
    handle.remove()
    true = np.zeros((8, 8))
    for j in range(12):
        (g,) = torch.autograd.grad(logits[:, 2, j].sum(), seen[0], retain_graph=True)
        rows = g.reshape(-1, 8).double().numpy()
        true += rows.T @ rows / len(ids)
    assert np.linalg.norm(found - true) < 0.2 * np.linalg.norm(true)  # of drawn signs


def test_tokens_of_a_language_model_count_where_they_and_the_next_do():
    """Padding may stand first, and then says nothing of the first word."""
    kept = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    labels = torch.tensor([[-100, -100, 4, 5, 6], [3, 4, 5, -100, -100], [3, -100, 5, 6, -100]])
    labels[0, 1] = 9  # on padding
    for shifts in (False, True):
        for mask in (kept, None):
            found = _counting(labels, mask, shifts)
            for b, t in np.ndindex(3, 5):
                at = t + shifts
                wanted = at < 5 and int(labels[b, at]) != -100
                if wanted and mask is not None:
                    wanted = bool(kept[b, t] and kept[b, at])
                assert found[b, t] == wanted, (shifts, mask, b, t)


@pytest.mark.parametrize(("metric", "classes"), [("fisher", 1), ("fisher", 3), ("gram", 3)])
def test_what_a_layer_is_worth_is_fishers_information_of_its_output(metric, classes):
    """Of a layer before the head W^T F W, F the classes' covariance or 1; drawn 20,000 times."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, classes)).double().eval()
    X = torch.randn(20000, 8).double()
    settings = {"mask": None, "seed": 0, "repeated": "sum"}
    found = gains_of(net, ["0"], "1", [X], metric, **settings)["0"]
    W, logits = net[1].weight.detach().numpy(), net(X).detach().numpy()
    if metric == "gram":
        F = np.eye(classes)
    elif classes == 1:
        p = 1.0 / (1.0 + np.exp(-logits))
        F = (p * (1.0 - p)).mean(0)[:, None]
    else:
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        F = np.diag(p.mean(0)) - p.T @ p / len(p)
    np.testing.assert_allclose(found, W.T @ F @ W, atol=0.03 * np.linalg.norm(W.T @ F @ W))


# ---- what is drawn ----


def states(generator: torch.Generator):
    drawn = np.random.get_state()[1].tobytes()  # noqa: NPY002 (what a user's own code draws from)
    torchs = (torch.get_rng_state(), generator.get_state())
    return random.getstate(), drawn, *(x.numpy().tobytes() for x in torchs)


@pytest.mark.parametrize("method", ["erase", "recover", "path", "graddiff", "npo", "cir", "tar"])
def test_whatever_draws_is_left_as_it_was_found(method):
    net = net_of()
    primary, held_out, harmful, harmful_held_out = tasks(net)
    generator = torch.Generator().manual_seed(3)
    data = TensorDataset(*(torch.cat(x) for x in zip(*primary, strict=True)))
    loader = DataLoader(data, batch_size=100, shuffle=True, generator=generator)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = states(generator)
    if method == "path":
        icd.erasure_path(net, loader)
    elif method in ("erase", "recover"):
        icd.erase(net, loader, held_out=held_out, tol=0.05, recover=3 * (method == "recover"))
    else:
        icd.unlearn(net, loader, harmful, held_out=held_out, harmful_held_out=harmful_held_out,
                    tol=0.5, method=method, steps=3, trials=1)  # fmt: skip
    assert states(generator) == before


class Turning:
    """A sampler that another order comes from in each pass, as a distributed one's."""

    def __init__(self, count: int) -> None:
        self.count, self.number = count, 0

    def set_epoch(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        order = torch.Generator().manual_seed(self.number)
        yield from torch.randperm(self.count, generator=order).tolist()


def test_an_interrupted_run_goes_on_to_the_same_bits_whatever_the_sampler(tmp_path):
    net = net_of()
    primary, held_out, *_ = tasks(net)
    data = TensorDataset(*(torch.cat(x) for x in zip(*primary, strict=True)))

    def run(rounds_until: int | None, path):
        loader = DataLoader(data, batch_size=100, sampler=Turning(len(data)))

        def stop(_: int, record) -> None:
            if record["round"] == rounds_until:
                raise KeyboardInterrupt

        return icd.erase(
            net, loader, held_out=held_out, tol=0.2, rounds=2, recover=6, checkpoint=path,
            callback=stop,
        ).model.state_dict()  # fmt: skip

    whole = run(None, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(2, tmp_path / "part")
    again = run(None, tmp_path / "part")
    assert all(torch.equal(x, again[name]) for name, x in whole.items())


# ---- what is refused, and what half precision tells ----


def test_harmful_batches_and_labels_that_are_none_are_refused():
    net = net_of()
    primary, held_out, harmful, _ = tasks(net)
    with pytest.raises(ValueError, match="harmful has no batches"):
        icd.erase(net, primary, held_out=held_out, harmful=[])
    column = [(x, y[:, None]) for x, y in harmful]
    with pytest.raises(ValueError, match=r"labels of harmful have shape \(100, 1\)"):
        icd.erase(net, primary, held_out=held_out, harmful=column)


def test_samples_that_are_drawn_anew_are_not_the_same_rows():
    net = net_of()

    class Drawn:
        def __iter__(self):
            for _ in range(4):
                x = torch.from_numpy(np.random.default_rng().normal(size=(100, 8))).float()
                yield x, net(x).argmax(1)

        def __len__(self) -> int:
            return 4

    assert icd.erase(net, Drawn(), held_out=Drawn(), tol=0.2).kept[0] < 32
    primary, *_ = tasks(net)
    with pytest.raises(ValueError, match="primary and held_out are the same rows"):
        icd.erase(net, primary, held_out=primary)


def test_the_leak_of_half_precision_is_that_of_what_is_stored():
    net = net_of(torch.float16)
    primary, held_out, harmful, harmful_held_out = tasks(net, torch.float16)
    found = icd.erase(
        net, primary, held_out=held_out, harmful=harmful, harmful_held_out=harmful_held_out,
        tol=0.05,
    )  # fmt: skip
    wide = [[(x.float(), y) for x, y in part] for part in (harmful, harmful_held_out, primary)]
    stored = icd.leak_profile(
        found.model.float(), wide[0], held_out=wide[1], primary=wide[2], untrained=False
    )
    assert found.leak.ceiling == pytest.approx(stored.ceiling, abs=1e-9)
    assert found.curve[-1].ceiling == found.leak.ceiling


def test_layers_on_a_path_around_the_head_are_no_matter_to_the_ascent():
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.beside, self.head = nn.Linear(8, 16), nn.Linear(8, 3), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x).tanh()) + self.beside(x)

    net = Around().eval()
    primary, held_out, harmful, harmful_held_out = tasks(net)
    found = icd.unlearn(
        net, primary, harmful, held_out=held_out, harmful_held_out=harmful_held_out, split="head",
        tol=0.9, method="cir", steps=3, trials=1,
    )  # fmt: skip
    assert torch.equal(found.model.beside.weight, net.beside.weight)
    assert not torch.equal(found.model.body.weight, net.body.weight)


# ---- the caller's modes ----


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode", "autocast"])
def test_the_callers_modes_change_nothing(mode):
    net = net_of()
    primary, held_out, harmful, harmful_held_out = tasks(net)

    def made() -> list[nn.Module]:
        path = icd.erasure_path(net, primary)
        options = {"held_out": held_out, "tol": 0.1}
        few = {**options, "harmful_held_out": harmful_held_out, "steps": 3, "lr": 1e-3, "trials": 1}
        return [
            icd.erase(net, primary, path=path, recover=2, lr=1e-4, **options).model,
            icd.unlearn(net, primary, harmful, **few).model,
        ]

    wanted = made()
    modes = {
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    }
    with modes[mode]():
        found = made()
    for one, other in zip(found, wanted, strict=True):
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)
        one(held_out[0][0]).sum().backward()  # no inference tensors


# ---- what does not fit is told ----


def test_rows_and_paths_that_do_not_fit_are_told():
    net = net_of()
    primary, held_out, *_ = tasks(net)
    wrong = [(torch.randn(20, 5), torch.zeros(20).long())]
    with pytest.raises(ValueError, match="the model does not run on a batch of primary"):
        icd.erase(net, wrong, held_out=held_out)
    with pytest.raises(TypeError, match="path must be what erasure_path returned"):
        icd.erase(net, primary, held_out=held_out, path={})
    beyond = [(x, y + 3) for x, y in held_out]
    with pytest.raises(ValueError, match="no held-out row of the primary task in its class"):
        icd.erase(net, primary, held_out=beyond)


@pytest.mark.parametrize("kind", ["bool", "uint8", "ignored", "a batch that is ignored"])
def test_classes_are_measured_by_accuracy_whatever_names_them(kind):
    """One sample labelled -100, or bools, had the loss told of the logits instead."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).eval()
    X = torch.randn(400, 6)
    y = (net(X)[:, 1] > net(X)[:, 0]).long()
    y[300:310] = 1 - y[300:310]
    told, counts = y.clone(), torch.ones(400, dtype=torch.bool)
    if "ignored" in kind:
        counts[350 if kind == "ignored" else slice(300, 400)] = False
        told[~counts] = -100
    elif kind != "ignored":
        told = told.to(getattr(torch, kind))
    batches = list(zip(X.split(100), told.split(100), strict=True))
    done = icd.erase(net, batches[:2], held_out=batches[2:], tol=0.05)
    held = counts.clone()
    held[:200] = False
    assert done.measure == "accuracy"
    assert done.rows == int(held.sum())
    for model, found in ((net, done.primary_before), (done.model, done.primary)):
        with torch.no_grad():
            right = (model(X).argmax(1) == y)[held]
        assert found == pytest.approx(float(right.double().mean()), abs=1e-12)


def test_held_out_rows_of_which_none_counts_are_refused():
    net, X = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)), torch.randn(40, 6)
    batches = [(X[:20], torch.arange(20) % 2), (X[20:], torch.full((20,), -100))]
    with pytest.raises(ValueError, match="held_out has no label that counts: all are -100"):
        icd.erase(net, batches[:1], held_out=batches[1:])
