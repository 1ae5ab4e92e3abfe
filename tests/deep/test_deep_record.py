"""What `record` sums, against rows gathered by hand in float64."""

import copy

import numpy as np
import pytest
from record_cases import FACTORS
from torch_cases import torch

import immucond as ic
import immucond.deep as icd

transformers = pytest.importorskip("transformers", reason="the extra deep is not installed")
nn, F = torch.nn, torch.nn.functional


def assert_moments(found, name, X, *, rtol=1e-14):
    """Gram matrix, triangle, mean and count against the rows themselves."""
    X = np.asarray(X, dtype=np.float64)
    K = X.T @ X
    size = np.sqrt(np.outer(K.diagonal(), K.diagonal()))  # rounding is relative to the columns
    assert np.all(np.abs(found.gram(name) - K) <= rtol * len(X) * size)
    assert found.count(name) == len(X)
    assert np.allclose(found.mean(name), X.mean(axis=0), rtol=1e-12, atol=1e-14 * np.abs(X).max())
    if found.settings["factor"] == "r":
        R = found.R(name)
        assert np.array_equal(R, np.triu(R))
        centred = X - X.mean(axis=0)
        C = found.R(name, center=True)
        assert np.allclose(C.T @ C, centred.T @ centred, atol=1e-13 * len(X) * np.abs(K).max())


def gathered(model, name, batches, of="output"):
    """What passes through one module, batch by batch."""
    seen = []
    module = model.get_submodule(name)

    def hook(_, args, output):
        x = args[0] if of == "input" else output
        seen.append((x[0] if isinstance(x, tuple) else x).detach().double())

    handle = module.register_forward_hook(hook)
    with torch.no_grad():
        for batch in batches:
            model(**batch) if isinstance(batch, dict) else model(batch)
    handle.remove()
    return seen


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.BatchNorm1d(5), nn.Linear(5, 3)).eval()


def vectors(count=70, batch=32, seed=1, width=7):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=generator)
    return list(zip(x.split(batch), (torch.arange(count) % 3).split(batch), strict=True))


@FACTORS
@pytest.mark.parametrize("of", ["input", "output"])
def test_rows_of_samples(of, factor):
    model, batches = perceptron(), vectors()
    found = icd.record(model, batches, "*", of=of, factor=factor)
    assert found.names == ("0", "1", "2", "3")
    for name in found:
        X = torch.cat(gathered(model, name, [x for x, _ in batches], of))
        assert_moments(found, name, X)
        assert found.rank(name) == ic.feature_extreme_pairs(X.numpy(), computed_in="float32").rank
        assert found.kappa(name) == pytest.approx(ic.condition_number(features=X), rel=1e-9)


def images(count=12, side=9, channels=3):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(3))


CONVOLUTIONS = {
    "plain": {},
    "padded and strided": {"padding": 2, "stride": 2},
    "dilated": {"dilation": 2, "padding": 1},
    "oblong": {"kernel_size": (1, 3), "stride": (2, 1), "padding": (0, 1)},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "same": {"padding": "same", "kernel_size": (5, 3)},
    "in groups": {"groups": 3, "padding": 1, "out": 6},
}


@FACTORS
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_patches_are_what_the_kernel_multiplies(kind, factor):
    torch.manual_seed(0)
    options = {"kernel_size": 3, **CONVOLUTIONS[kind]}
    conv = nn.Conv2d(3, options.pop("out", 4), **options, bias=False)
    model, x = nn.Sequential(conv, nn.Flatten(1)).eval(), images()
    found = icd.record(model, [x[:5], x[5:]], "0", patches=True, factor=factor)
    # By the convolution itself: its response to each entry of the kernel is a column of patches.
    width = 3 * int(np.prod(conv.kernel_size))
    unit = nn.Conv2d(3, width, **options | {"groups": 1}, bias=False).double()
    with torch.no_grad():
        unit.weight.copy_(torch.eye(width).reshape(unit.weight.shape))
        X = unit(x.double()).movedim(1, -1).flatten(0, -2)
    assert_moments(found, "0", X)
    if conv.groups == 1:
        # ||conv(x)||^2 by the recorded moment, for the network's own kernel.
        W = conv.weight.detach().double().flatten(1).numpy()
        energy = float(conv(x).detach().double().square().sum())
        assert np.trace(W @ found.gram("0") @ W.T) == pytest.approx(energy, rel=1e-5)


@pytest.mark.parametrize("places", [1, 3])
def test_patches_of_other_dimensions(places):
    torch.manual_seed(0)
    conv = (nn.Conv1d, None, nn.Conv3d)[places - 1](2, 3, 2, padding=1, dilation=2, bias=False)
    x = torch.randn(4, 2, *[6] * places)
    found = icd.record(nn.Sequential(conv), [x], "0", patches=True)
    W = conv.weight.detach().double().flatten(1).numpy()
    y = conv(x).movedim(1, -1).flatten(0, -2).detach().double().numpy()
    assert np.allclose(W @ found.gram("0") @ W.T, y.T @ y, rtol=1e-5, atol=1e-4)
    assert found.count("0") == len(y)


@FACTORS
def test_places_of_images(factor):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 3)
    ).eval()
    x = images()
    for name, of in (("0", "input"), ("0", "output"), ("1", "output"), ("4", "input")):
        found = icd.record(model, [x[:5], x[5:]], name, of=of, factor=factor)
        rows = torch.cat(gathered(model, name, [x], of))
        assert_moments(found, name, rows.movedim(1, -1).flatten(0, -2))
    with pytest.raises(ValueError, match=r"'2' has shape \(5, 4, 7, 7\), and a ReLU does not tell"):
        icd.record(model, [x[:5]], "2")
    rows = torch.cat(gathered(model, "2", [x]))
    found = icd.record(model, [x], "2", of="output", channels="first")
    assert_moments(found, "2", rows.movedim(1, -1).flatten(0, -2))
    found = icd.record(model, [x], "2", of="output", channels="last")
    assert_moments(found, "2", rows.flatten(0, -2))
    mean = icd.record(model, [x], "0", of="output", rows="mean", factor=factor)
    assert_moments(mean, "0", torch.cat(gathered(model, "0", [x])).mean((2, 3)))
    whole = icd.record(model, [x], "2", of="output", rows="sample", factor=factor)
    assert_moments(whole, "2", rows.flatten(1))


def encoder():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=12, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=20, max_position_embeddings=32, initializer_range=0.5, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).eval()


def sentences(side, count=11, length=9, batch=4):
    """Tokens with padding to one side, of 1 to `length` tokens."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, 50, (count, length), generator=generator)
    tokens = torch.arange(length) < (torch.arange(count) % length + 1)[:, None]
    mask = (tokens if side == "right" else tokens.flip(1)).long()
    labels = torch.arange(count) % 3
    parts = (x.split(batch) for x in (ids, mask, labels))
    return [
        {"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in zip(*parts, strict=True)
    ]


def unlabelled(batches):
    return [{k: v for k, v in batch.items() if k != "labels"} for batch in batches]


@FACTORS
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_in_no_row(side, factor):
    model, batches = encoder(), sentences(side)
    names = "bert.encoder.layer.*.attention.output.dense"
    found = icd.record(model, batches, names, factor=factor)
    assert found.names == tuple(f"bert.encoder.layer.{i}.attention.output.dense" for i in (0, 1))
    masks = [batch["attention_mask"].bool() for batch in batches]
    for name in found:
        seen = gathered(model, name, unlabelled(batches), "input")
        X = torch.cat([x[m] for x, m in zip(seen, masks, strict=True)])
        assert_moments(found, name, X)
    mean = icd.record(model, batches, names, rows="mean", factor=factor)
    X = torch.cat(
        [
            torch.stack([tokens[kept].mean(0) for tokens, kept in zip(x, m, strict=True)])
            for x, m in zip(seen, masks, strict=True)
        ]
    )
    assert_moments(mean, name, X)
    assert mean.computed_in(name) == "float32"  # whatever the means themselves are taken in
    everything = icd.record(model, batches, names, mask=None, factor=factor)
    assert_moments(everything, name, torch.cat(seen).flatten(0, 1))
    # What has no tokens is a row a sample.
    pooled = icd.record(model, batches, "classifier", factor=factor)
    assert_moments(
        pooled, "classifier", torch.cat(gathered(model, "classifier", unlabelled(batches), "input"))
    )


def test_a_decoder_on_as_many_tokens_is_not_masked_as_its_encoder():
    torch.manual_seed(0)
    config = transformers.BartConfig(
        vocab_size=50, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=12, decoder_ffn_dim=12, pad_token_id=0,
        max_position_embeddings=32, decoder_start_token_id=2, eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    model = transformers.BartModel(config).eval()
    (given,), (read,) = (sentences(side, batch=11) for side in ("right", "left"))
    batch = {name: given[name] for name in ("input_ids", "attention_mask")}
    batch |= {f"decoder_{name}": read[name] for name in batch}
    of_encoder, of_decoder = (f"{part}.layers.0.fc1" for part in ("encoder", "decoder"))
    told = f"'{of_decoder}' is of a decoder, .* mask='decoder_attention_mask' or a function"
    with pytest.raises(ValueError, match=told):
        icd.record(model, [batch], of_decoder)
    for name, mask in ((of_encoder, "attention_mask"), (of_decoder, "decoder_attention_mask")):
        found = icd.record(model, [batch], name, mask=mask)
        (rows,) = gathered(model, name, [batch], "input")
        assert_moments(found, name, rows[batch[mask].bool()])
    alike = batch | {"decoder_attention_mask": batch["attention_mask"]}
    assert icd.record(model, [alike], of_decoder).count(of_decoder) == alike["attention_mask"].sum()


def test_a_mask_by_a_function_and_padding_that_is_nan():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    x = torch.randn(3, 5, 4)
    mask = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    x[~mask.bool()] = torch.nan
    found = icd.record(model, [x], "0", mask=lambda batch: mask)
    assert_moments(found, "0", x[mask.bool()])
    flat = nn.Sequential(nn.Flatten(0, 1), nn.Linear(4, 3))
    assert_moments(icd.record(flat, [x], "1", mask=lambda batch: mask), "1", x[mask.bool()])
    one = x[:, :1].nan_to_num()  # flattened, they have as many rows as there are samples
    of_one = torch.tensor([[1], [0], [1]])
    assert_moments(icd.record(flat, [one], "1", mask=lambda batch: of_one), "1", one[[0, 2], 0])
    with pytest.raises(ValueError, match=r"all of whose tokens are padding.*batch 1"):
        icd.record(model, [x], "0", mask=lambda batch: mask, rows="mean")


def test_outputs_that_are_tuples_give_their_first_tensor():
    model, batches = encoder(), sentences("right")
    name = "bert.encoder.layer.1.attention.self"
    assert isinstance(model.get_submodule(name)(torch.zeros(1, 2, 12)), tuple)
    seen = gathered(model, name, unlabelled(batches))
    X = torch.cat([x[b["attention_mask"].bool()] for x, b in zip(seen, batches, strict=True)])
    assert_moments(icd.record(model, batches, name, of="output"), name, X)


def test_a_vision_transformer():
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=8, patch_size=4, initializer_range=0.3,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    batches = [{"pixel_values": images(5, 8)}, {"pixel_values": images(3, 8)}]
    for name in (n for n, m in model.named_modules() if isinstance(m, nn.Linear)):
        found = icd.record(model, batches, name, factor="r")
        seen = gathered(model, name, batches, "input")
        assert_moments(found, name, torch.cat([x.flatten(0, -2) for x in seen]))
    name = "vit.embeddings.patch_embeddings.projection"
    found = icd.record(model, batches, name, patches=True)
    X = torch.cat([F.unfold(b["pixel_values"], 4, stride=4).mT.flatten(0, 1) for b in batches])
    assert_moments(found, name, X)


# ---- gradients ----


def test_gradients_are_of_each_samples_own_loss():
    model = perceptron()
    batches = vectors(13, 5)
    found = icd.record(model, batches, "*", of="gradient")
    by_name = {name: [] for name in found}
    for x, y in ((x, y) for xs, ys in batches for x, y in zip(xs, ys, strict=True)):
        seen = {}
        hidden = x[None].requires_grad_()
        for name, module in model.named_children():
            seen[name] = hidden = module(hidden)
        loss = F.cross_entropy(hidden, y[None])
        for name, z in seen.items():
            by_name[name].append(torch.autograd.grad(loss, z, retain_graph=True)[0])
    for name, rows in by_name.items():
        assert np.allclose(
            found.gram(name), (X := torch.cat(rows).double().numpy()).T @ X, rtol=1e-4, atol=1e-7
        )
        assert found.count(name) == 13
    # The mean over a batch of B divides its rows by B.
    mean = icd.record(model, vectors(12, 4), "0", of="gradient", loss=F.cross_entropy)
    own = icd.record(model, vectors(12, 4), "0", of="gradient")
    assert np.allclose(16.0 * mean.gram("0"), own.gram("0"), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_recorded_whatever_mode_is_on(mode):
    model, batches = perceptron(), vectors(13, 5)
    wanted = icd.record(model, batches, "*", of="gradient")
    with mode():
        found = icd.record(model, batches, "*", of="gradient")
    assert all(np.array_equal(found.gram(name), wanted.gram(name)) for name in wanted)


class Skipping(nn.Module):
    """A dropout, which in evaluation hands on its input as it came, beside a skip."""

    def __init__(self, keyword):
        super().__init__()
        torch.manual_seed(0)
        self.dropout, self.inner, self.head = nn.Dropout(), nn.Linear(7, 7), nn.Linear(7, 3)
        self.keyword = keyword

    def forward(self, x):
        branch = self.dropout(input=x) if self.keyword else self.dropout(x)
        return self.head(x + self.inner(branch))


@pytest.mark.parametrize("keyword", [False, True])
def test_the_gradient_of_what_is_handed_on_is_that_of_its_own_readers(keyword):
    model, ((x, y),) = Skipping(keyword), vectors(20)
    found = icd.record(model, [(x, y)], "dropout", of="gradient")
    branch = x.clone().requires_grad_()
    loss = F.cross_entropy(model.head(x + model.inner(branch)), y, reduction="sum")
    (g,) = torch.autograd.grad(loss, branch)
    assert_moments(found, "dropout", g, rtol=1e-6)


class Checkpointed(nn.Module):
    """Tokens through blocks that run again in the backward pass."""

    def __init__(self, reentrant):
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 6)) for _ in range(2)
        )
        self.head = nn.Linear(6, 3)
        self.reentrant = reentrant

    def forward(self, x):
        x = self.embedding(x)
        for block in self.blocks:
            if self.reentrant is None:
                x = x + block(x)
            else:
                x = x + torch.utils.checkpoint.checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x.mean(1))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("frozen", [False, True])
def test_blocks_that_are_checkpointed_count_once(frozen):
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randint(0, 20, (5, 4), generator=generator), torch.arange(5) % 3) for _ in range(2)
    ]
    found = {}
    for kind in (None, False, True):
        torch.manual_seed(0)
        model = Checkpointed(kind).requires_grad_(not frozen)
        for of in ("gradient", "input"):
            found[kind, of] = icd.record(model, batches, "blocks.*.*", of=of)
        assert all(p.grad is None and p.requires_grad != frozen for p in model.parameters())
    for of in ("gradient", "input"):
        plain = found[None, of]
        assert len(plain) == 6
        for name in plain:
            for kind in (False, True):
                assert found[kind, of].count(name) == plain.count(name) == 40
                assert np.array_equal(found[kind, of].gram(name), plain.gram(name))
    assert plain.gram("blocks.0.0").any()


def test_gradients_of_tokens_leave_padding_out():
    model, batches = encoder(), sentences("left")
    name = "bert.encoder.layer.1.output.dense"
    found = icd.record(model, batches, name, of="gradient")
    assert found.count(name) == sum(int(b["attention_mask"].sum()) for b in batches)
    total = np.zeros((12, 12))
    for batch in copy.deepcopy(batches):
        seen, labels = [], batch.pop("labels")
        hook = model.get_submodule(name).register_forward_hook(
            lambda *a, seen=seen: seen.append(a[2])
        )
        loss = F.cross_entropy(model(**batch).logits, labels, reduction="sum")
        hook.remove()
        (g,) = torch.autograd.grad(loss, seen)
        X = g[batch["attention_mask"].bool()].double().numpy()
        total += X.T @ X
    assert np.allclose(found.gram(name), total, rtol=1e-4, atol=1e-6 * np.abs(total).max())
