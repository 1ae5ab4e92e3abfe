"""LEACE at every cut runs blocks by themselves where that gives what the whole network gives."""

import pytest
import torch
from torch import nn

from immucond.deep.erasure import _replay
from immucond.deep.erasure._bench import Bench
from immucond.deep.erasure._layers import layers_of
from immucond.deep.erasure._leace import leace

TOKENS, WIDTH = 5, 6


class Block(nn.Module):
    """Two layers and what came before; it writes into what it was given."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)

    def forward(self, x, *, scale=None):
        kept = x.clone()
        inner = self.first(x.mul_(0.5).relu_())
        return kept + self.second(inner if scale is None else inner * scale)


class Net(nn.Module):
    """Tokens through blocks, their mean over those that are no padding, and a head."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, 3)
        self.runs = 0

    def through(self, x, ids):
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, ids, attention_mask):
        self.runs += 1
        x = self.through(self.embed(ids), ids)
        mask = attention_mask[..., None]
        return self.head((x * mask).sum(1) / mask.sum(1))


class Twice(Net):
    """Each block runs twice."""

    def through(self, x, ids):
        return super().through(super().through(x, ids), ids)


class Beside(Net):
    """A layer of each block runs outside of it too."""

    def through(self, x, ids):
        for block in self.blocks:
            x = block(x) + block.second(block.first(x))
        return x


class Stashing(Net):
    """Blocks read what the network left on them, which is of the batch that came last."""

    def through(self, x, ids):
        for block in self.blocks:
            block.scale = 1.0 + ids.double().mean().float()
        return super().through(x, ids)

    def __init__(self):
        super().__init__()
        for block in self.blocks:
            block.register_forward_pre_hook(
                lambda module, args, keywords: (args, {**keywords, "scale": module.scale}),
                with_kwargs=True,
            )


class Uncopied(Net):
    """Blocks are handed what cannot be copied."""

    class Handle(float):
        def __deepcopy__(self, _):
            raise TypeError("a handle has no copy")

    def through(self, x, ids):
        for block in self.blocks:
            x = block(x, scale=self.Handle(1.5))
        return x


def rows(seed, labelled=True):
    """Two batches of unlike length."""
    drawn = torch.Generator().manual_seed(seed)
    found = []
    for count in (40, 24):
        y = torch.arange(count) % 3
        ids = torch.randint(3, 12, (count, TOKENS), generator=drawn)
        ids[:, 1] = y  # which tells the class
        mask = torch.ones_like(ids)
        mask[::2, -2:] = 0
        inputs = {"ids": ids, "attention_mask": mask}
        found.append((inputs, y) if labelled else inputs)
    return found


def bench_of(kind, primary=None):
    torch.manual_seed(1)
    net = kind().eval()
    given = {"primary": primary or rows(2, labelled=False), "harmful": rows(3)}
    found = layers_of(net, given["harmful"][0][0], None)
    return Bench(net, net, found.head, found.layers, given, 3, 1, "attention_mask", 0)


def erased(kind, monkeypatch, replays):
    """Return the weights after LEACE at all cuts, and how often the whole network ran."""
    bench = bench_of(kind)
    bench.work.runs = 0
    if not replays:
        monkeypatch.setattr(_replay, "_replayed", lambda *_: None)
    left = leace(bench, len(bench.layers))
    assert any(kept < width for kept, width in left.values())
    return bench.work.state_dict(), bench.work.runs, len(bench.layers)


def test_same_bits_in_fewer_runs(monkeypatch):
    got, runs, layers = erased(Net, monkeypatch, True)
    wanted, all_runs, _ = erased(Net, monkeypatch, False)
    for name, x in wanted.items():
        assert torch.equal(got[name], x), name
    assert layers == 5
    assert all_runs == 5 * 4  # two batches of each task for every layer
    assert runs == (1 + 2) * 4  # and here for the embedding, and for both blocks


@pytest.mark.parametrize("kind", [Twice, Beside, Stashing, Uncopied])
def test_whole_network_runs_where_a_block_alone_would_not_tell(kind, monkeypatch):
    bench = bench_of(kind)
    for name, runs in _replay.runs_to(bench, list(bench.layers)):
        assert all(run.model is bench.work for run in runs.values()), name
    got, _, _ = erased(kind, monkeypatch, True)
    wanted, _, _ = erased(kind, monkeypatch, False)
    for name, x in wanted.items():
        assert torch.equal(got[name], x), name


def test_whole_network_runs_where_too_much_would_be_kept(monkeypatch):
    bench = bench_of(Net)
    within = [name for name in bench.layers if name.startswith("blocks.0.")]
    size = 4 * (40 + 24) * TOKENS * WIDTH
    for most, alone in ((size, True), (size - 1, False)):
        monkeypatch.setattr(_replay, "_MOST", most)
        found = [(runs, runs["harmful"].model is not bench.work)
                 for _, runs in _replay.runs_to(bench, within)]  # fmt: skip
        assert [of_block for _, of_block in found] == [alone, alone]
        assert all(bool(runs) is not alone for runs, _ in found)  # and nothing is held any more


def test_whole_network_runs_where_a_batch_has_no_samples():
    first, second = rows(2, labelled=False)
    none = {name: x[:0] for name, x in first.items()}
    bench = bench_of(Net, [first, none, second])
    within = [name for name in bench.layers if name.startswith("blocks.0.")]
    for _, runs in _replay.runs_to(bench, within):
        assert runs["primary"].model is bench.work


def test_loader_that_shuffles_gives_each_run_the_same_rows():
    data = [(inputs["ids"][i], inputs["attention_mask"][i], y[i])
            for inputs, y in rows(2) for i in range(len(y))]  # fmt: skip

    def collate(items):
        ids, mask, y = (torch.stack(part) for part in zip(*items, strict=True))
        return {"ids": ids, "attention_mask": mask}, y

    loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True, collate_fn=collate)
    bench = bench_of(Net, loader)
    within = [name for name in bench.layers if name.startswith("blocks.1.")]
    for name, runs in _replay.runs_to(bench, within):
        alone = runs["primary"]
        assert alone.model is not bench.work
        got = alone.record(name, cross="labels")
        wanted = _replay.Run(bench.work, loader, bench.mask, bench.seed).record(
            name, cross="labels"
        )
        assert (got.gram(name) == wanted.gram(name)).all()
        assert (got.cross(name) == wanted.cross(name)).all()
