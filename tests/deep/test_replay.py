"""LEACE at every cut runs blocks by themselves where that gives what the whole network gives."""

import pytest
import torch
from torch import nn

from immucond.deep.erasure import _flow, _leace
from immucond.deep.erasure._bench import Bench
from immucond.deep.erasure._layers import layers_of
from immucond.deep.erasure._leace import leace
from immucond.deep.erasure._replay import Replay, Run

TOKENS, WIDTH, BLOCKS = 5, 6, 4


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
        self.blocks = nn.ModuleList([Block() for _ in range(BLOCKS)])
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


class Between(Net):
    """Something stands between blocks that changes no bit of what passes."""

    def through(self, x, ids):
        for block in self.blocks:
            x = block(x) * 1.0
        return x


class Scaled(Net):
    """Each block is handed a number of its own."""

    def through(self, x, ids):
        for number, block in enumerate(self.blocks, 1):
            x = block(x, scale=1.0 / number)
        return x


class Turning(Net):
    """From the second block on, what enters is turned round where layers have been erased."""

    def through(self, x, ids):
        for block in self.blocks:
            erased = torch.linalg.matrix_rank(self.blocks[0].second.weight) < WIDTH
            x = block(-x if erased and block is not self.blocks[0] else x)
        return x


class StashingLater(Net):
    """What the third block puts out is scaled by what the network left on it."""

    def through(self, x, ids):
        self.blocks[2].scale = 1.0 + ids.double().mean().float()
        return super().through(x, ids)

    def __init__(self):
        super().__init__()
        self.blocks[2].register_forward_hook(lambda module, _, x: module.scale * x)


class Needing(Net):
    """Blocks run within their network alone."""

    def __init__(self):
        super().__init__()
        self.running = False
        for block in self.blocks:
            block.register_forward_pre_hook(self.check)

    def check(self, *_):
        if not self.running:
            raise RuntimeError("no network is running")

    def through(self, x, ids):
        self.running = True
        x = super().through(x, ids)
        self.running = False
        return x


class Whole(Replay):
    """No block runs by itself."""

    def _replayed(self, *_):
        return {}


class EachAnew(Replay):
    """No block follows another."""

    def __init__(self, *given, follows=False):
        super().__init__(*given, follows=False)


def erased(kind, monkeypatch, replay=Replay):
    """Return the weights after LEACE at all cuts, and how often the whole network ran."""
    bench = bench_of(kind)
    bench.work.runs = 0
    monkeypatch.setattr(_leace, "Replay", replay)
    left = leace(bench, len(bench.layers))
    assert any(kept < width for kept, width in left.values())
    return bench.work.state_dict(), bench.work.runs


def same(got, wanted):
    assert got.keys() == wanted.keys()
    return all(torch.equal(got[name], x) for name, x in wanted.items())


EACH = 4  # two batches of each task
FOLLOWING = (1 + 1 + 1) * EACH  # the embedding, the first block, and to see that all was so
ANEW = (1 + BLOCKS) * EACH
SEEN = FOLLOWING - 2  # one task is enough to see at the end that it was not


def test_same_bits_in_fewer_runs(monkeypatch):
    wanted, all_runs = erased(Net, monkeypatch, Whole)
    assert all_runs == (1 + 2 * BLOCKS) * EACH  # for every layer
    for replay, expected in ((Replay, FOLLOWING), (EachAnew, ANEW)):
        got, runs = erased(Net, monkeypatch, replay)
        assert same(got, wanted)
        assert runs == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Between, ANEW),
        (Scaled, ANEW),
        (Turning, SEEN + ANEW),
        (StashingLater, SEEN + ANEW - EACH + 2 + 2 * EACH),  # one task tells that no block will do
    ],
)
def test_block_that_does_not_follow_has_its_own_run(kind, expected, monkeypatch):
    wanted, _ = erased(kind, monkeypatch, Whole)
    got, runs = erased(kind, monkeypatch)
    assert same(got, wanted)
    assert runs == expected


@pytest.mark.parametrize("kind", [Twice, Beside, Stashing, Uncopied, Needing])
def test_whole_network_runs_where_a_block_alone_would_not_tell(kind, monkeypatch):
    bench = bench_of(kind)
    for name, runs in Replay(bench, list(bench.layers)):
        assert all(run.model is bench.work for run in runs.values()), name
    wanted, _ = erased(kind, monkeypatch, Whole)
    got, _ = erased(kind, monkeypatch)
    assert same(got, wanted)


def test_block_runs_no_further_than_the_layer_that_is_recorded():
    bench = bench_of(Net)
    ran = []
    for block in bench.work.blocks:
        block.second.register_forward_pre_hook(lambda *_: ran.append(1))
    for name, runs in Replay(bench, ["blocks.0.first", "blocks.0.second"]):
        ran.clear()
        runs["harmful"].record(name, rows="mean")
        assert len(ran) == (0 if name.endswith("first") else 2)  # a batch each


def test_whole_network_runs_where_too_much_would_be_kept(monkeypatch):
    bench = bench_of(Net)
    within = [name for name in bench.layers if name.startswith("blocks.0.")]
    size = 4 * (40 + 24) * TOKENS * WIDTH
    for most, alone in ((size, True), (size - 1, False)):
        monkeypatch.setattr(_flow, "_MOST", most)
        found = [(runs, runs["harmful"].model is not bench.work)
                 for _, runs in Replay(bench, within)]  # fmt: skip
        assert [of_block for _, of_block in found] == [alone, alone]
        assert all(bool(runs) is not alone for runs, _ in found)  # and nothing is held any more


def test_whole_network_runs_where_a_batch_has_no_samples():
    first, second = rows(2, labelled=False)
    none = {name: x[:0] for name, x in first.items()}
    bench = bench_of(Net, [first, none, second])
    within = [name for name in bench.layers if name.startswith("blocks.0.")]
    for _, runs in Replay(bench, within):
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
    for name, runs in Replay(bench, within):
        alone = runs["primary"]
        assert alone.model is not bench.work
        got = alone.record(name, cross="labels")
        wanted = Run(bench.work, loader, bench.mask, bench.seed).record(name, cross="labels")
        assert (got.gram(name) == wanted.gram(name)).all()
        assert (got.cross(name) == wanted.cross(name)).all()
