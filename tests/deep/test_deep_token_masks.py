"""The mask is the one that the network ran with, however it got there; against unpadded rows."""

import inspect

import pytest
from deep_cases import torch, transformers
from token_cases import (
    HEADS,
    SAMPLES,
    TOKENS,
    VOCABULARY,
    WIDTH,
    Wrapped,
    alone,
    bart,
    batch,
    build,
    distilbert,
    llama,
    seen,
    t5,
)
from torch import nn

import immucond.deep as icd
from immucond.deep._head import SplitModel


class Passing(Wrapped):
    def forward(self, ids, mask):
        return self.lm(ids, attention_mask=mask).logits


class Named(Wrapped):
    """Takes any arguments, as wrappers do."""

    def forward(self, **given):
        return self.lm(**given)


class Deeper(Wrapped):
    def forward(self, ids):
        return self.lm(ids)


WAYS = {
    "by name": ((), lambda ids, mask: {"input_ids": ids, "attention_mask": mask}),
    "through keywords": ((Named,), lambda ids, mask: {"input_ids": ids, "attention_mask": mask}),
    "by place": ((), None),
    "by another name": ((Passing,), lambda ids, mask: (ids, mask)),
    "made within": ((Wrapped,), lambda ids, mask: ids),
    "made deep within": ((Wrapped, Deeper), lambda ids, mask: ids),
}


def given(make, way):
    """A network, its head's name, and a batch."""
    wrappers, inputs = WAYS[way]
    name, (ids, mask) = "lm." * len(wrappers) + HEADS[make], batch()
    if way == "by place":  # which is the second of most, and not of GPT2
        place = list(inspect.signature(type(make()).forward).parameters).index("attention_mask")
        return build(make), name, (ids, *[None] * (place - 2), mask)
    return build(make, *wrappers), name, inputs(ids, mask)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", HEADS)
def test_padding_is_no_row_however_the_mask_comes(make, way):
    model, name, inputs = given(make, way)
    ids, mask = batch()
    found = seen(model, name, inputs)
    inner = build(make)
    wanted = alone(inner, inner.get_submodule(HEADS[make]), inner, ids, mask)
    assert found.by_token
    assert len(found.features) == int(mask.sum()) < mask.numel()
    torch.testing.assert_close(found.features, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ["by another name", "made within"])
def test_condition_numbers_are_those_of_unpadded_rows(way):
    model, name, inputs = given(llama, way)
    ids, mask = batch()
    inner = build(llama)
    s = torch.linalg.svdvals(alone(inner, inner.lm_head, inner, ids, mask).double())
    kappa = float(s[0] / s[-1]) ** 2
    data = {"primary": [(inputs, None)], "harmful": [(inputs, None)]}
    rir = icd.rir(model, model, split=name, **data, groups=1, size=int(mask.sum()))
    assert rir.kappa_P[0] == pytest.approx(kappa, rel=1e-2)
    found = icd.record(model, data["primary"], name, mask=lambda _: mask, factor="r")
    assert found.kappa(name) == pytest.approx(kappa, rel=1e-2)
    told = r"ran with a mask of padding, and the batch has no 'attention_mask' by name: give mask="
    with pytest.raises(ValueError, match=told):
        icd.record(model, data["primary"], name)
    assert icd.record(model, data["primary"], name, mask=None).count(name) == mask.numel()


@pytest.mark.parametrize("kind", [Wrapped, Passing])
def test_what_is_kept_is_of_the_tokens_that_ran(kind):
    model = build(distilbert, kind)
    ids, mask = batch()
    given = ids if kind is Wrapped else None
    rows = [
        ((ids[n], mask[n].float()), 0) if given is None else (ids[n], 0) for n in range(SAMPLES)
    ]
    loader = torch.utils.data.DataLoader(rows, batch_size=3)
    block = "lm.distilbert.transformer.layer.1"
    kept = icd.keep_activations(
        model, loader, split="lm.classifier", trainable=block, deterministic=True
    )
    one = SplitModel(model, "lm.classifier")
    found = torch.cat([kept.run(one, b).features.detach() for b in kept.in_order()])
    inner = model.lm
    wanted = alone(inner, inner.classifier, inner, ids, mask)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


class Sequences(nn.Module):
    """Rows of numbers, of which those that are zero are padding: inputs are floating-point."""

    def __init__(self):
        super().__init__()
        self.front, self.block, self.head = nn.Linear(4, 5), Block(), nn.Linear(5, 3)

    def forward(self, x):
        mask = x.abs().sum(-1) > 0
        return self.head(self.block(torch.tanh(self.front(x)), attention_mask=mask))


class Block(nn.Module):
    """A module of one's own with an argument of that name."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x, *, attention_mask=None):
        return torch.tanh(self.layer(x))


def test_a_mask_made_of_numbers_that_are_not_kept_is_kept():
    model = build(Sequences)
    generator = torch.Generator().manual_seed(2)
    _, mask = batch()
    x = torch.randn(SAMPLES, TOKENS, 4, generator=generator) * mask[..., None]
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, mask.sum(1) % 3), batch_size=3
    )
    split_model = SplitModel(model, "head")
    wanted = model.block(torch.tanh(model.front(x[mask == 1])))
    torch.testing.assert_close(seen(model, "head", x).features, wanted)
    kept = icd.keep_activations(model, loader, split="head", trainable="block")
    found = torch.cat([kept.run(split_model, b).features for b in kept.in_order()])
    torch.testing.assert_close(found, wanted)


# ---- encoders with decoders ----


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("make", [t5, bart])
@pytest.mark.parametrize("masked", [True, False])
def test_of_decoders_it_is_the_decoders_mask(make, masked, wrapped):
    model = build(make, Named) if wrapped else build(make)
    (ids, mask), (decoded, of_decoder) = batch(TOKENS, 1), batch(TOKENS, 2)
    inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoded}
    if masked:
        inputs["decoder_attention_mask"] = of_decoder
    else:
        of_decoder = torch.ones_like(of_decoder)
    found = seen(model, "lm.lm_head" if wrapped else "lm_head", inputs, decoded)
    inner, rows = build(make), []
    hook = inner.lm_head.register_forward_pre_hook(lambda _, args: rows.append(args[0][0]))
    with torch.no_grad():
        for n in range(SAMPLES):
            row = decoded[n][of_decoder[n] == 1][None]
            inner(ids[n][mask[n] == 1][None], decoder_input_ids=row)
    hook.remove()
    torch.testing.assert_close(found.features, torch.cat(rows), rtol=1e-4, atol=1e-5)
    assert torch.equal(found.labels, decoded[of_decoder == 1])  # not moved
    del inputs["decoder_input_ids"]
    told = "must hold decoder_input_ids" if make is bart else "exactly one of input_ids"  # T5's own
    with pytest.raises(ValueError, match=told):
        seen(model, "lm.lm_head" if wrapped else "lm_head", inputs, decoded)


def test_a_decoder_within_another_models_class_reads_labels_that_are_moved():
    encoder, decoder = (
        transformers.BertConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, max_position_embeddings=16, is_decoder=of, add_cross_attention=of,
        )
        for of in (False, True)
    )  # fmt: skip
    torch.manual_seed(0)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = transformers.EncoderDecoderModel(config).eval()
    model.config.decoder_start_token_id, model.config.pad_token_id = 1, 0
    (ids, mask), (decoded, of_decoder) = batch(TOKENS, 1), batch(TOKENS, 2)
    inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoded}
    found = seen(
        model, "decoder.cls.predictions.decoder", inputs | {"decoder_attention_mask": of_decoder},
        decoded,
    )  # fmt: skip
    assert torch.equal(found.labels, decoded[of_decoder == 1])


# ---- a head of one's own, beside the models ----


class Beside(nn.Module):
    """A head on what a model makes; masks as `masks` gives them to one or two models."""

    def __init__(self, masks):
        super().__init__()
        config = transformers.DistilBertConfig(
            vocab_size=VOCABULARY, dim=WIDTH, hidden_dim=16, n_layers=2, n_heads=2,
            max_position_embeddings=16,
        )  # fmt: skip
        self.bodies = nn.ModuleList(transformers.DistilBertModel(config) for _ in range(2))
        self.head, self.masks = nn.Linear(WIDTH, 3), masks

    def forward(self, ids):
        masks = self.masks(ids)
        states = [
            body(ids, mask).last_hidden_state
            for body, mask in zip(self.bodies, masks, strict=False)
        ]
        return self.head(torch.stack(states).sum(0))


def test_a_head_beside_the_model_has_the_models_mask():
    ids, mask = batch()
    for masks in (lambda ids: [ids != 0], lambda ids: [ids != 0, (ids != 0).long()]):
        model = build(lambda masks=masks: Beside(masks))
        wanted = alone(model, model.head, model, ids, mask)
        found = seen(model, "head", ids).features
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    model = build(lambda: Beside(lambda ids: [None]))
    assert len(seen(model, "head", ids).features) == mask.numel()  # all, for all ran


@pytest.mark.parametrize(
    ("masks", "told"),
    [
        (lambda ids: [ids != 0, ids > 3], r"masks differ: 'bodies.0'.*'bodies.1'.*let the forward"),
        (lambda ids: [ids != 0, None], r"'bodies.0', a DistilBertModel, with one.*with no atten"),
        (
            lambda ids: [(ids != 0)[:, None, None].expand(-1, 1, TOKENS, -1)],
            r"cannot be told: 'bodies.0', a DistilBertModel, ran with attention_mask of shape "
            r"\(6, 1, 7, 7\).*shape \(6, 7\)",
        ),
    ],
)
def test_a_mask_that_cannot_be_told_is_refused(masks, told):
    model = build(lambda: Beside(masks))
    with pytest.raises(ValueError, match=told):
        seen(model, "head", batch()[0])


class Windows(nn.Module):
    """A model as of images: it takes no mask, and its layers have masks of their own."""

    def __init__(self):
        super().__init__()
        self.layer, self.text = Block(), None

    def can_generate(self):
        return False

    def forward(self, x):
        if self.text is not None:
            return self.text(x[..., 0].long(), attention_mask=x[..., 0] != 0).last_hidden_state
        return self.layer(x, attention_mask=torch.eye(x.shape[1])[None])


def test_a_model_that_takes_no_mask_tells_of_those_within_it():
    model = nn.Sequential(Windows(), nn.Linear(5, 3))
    assert len(seen(model, "1", torch.randn(6, 4, 5)).features) == 24
    model = nn.Sequential(Windows(), nn.Linear(WIDTH, 3))
    model[0].text = build(lambda: Beside(lambda _: []).bodies[0])
    ids, mask = batch()
    assert len(seen(model, "1", ids[..., None].float()).features) == int(mask.sum())


def test_the_innermost_module_around_the_head_tells():
    class Narrower(Wrapped):
        def forward(self, input_ids, attention_mask):
            return self.lm(input_ids, attention_mask=attention_mask * (input_ids % 2)).logits

    model, (ids, mask) = build(distilbert, Narrower), batch()
    found = seen(model, "lm.classifier", {"input_ids": ids, "attention_mask": mask})
    assert len(found.features) == int((mask * (ids % 2)).sum())


def test_without_a_mask_all_tokens_count():
    ids, mask = batch()
    for make in (llama, distilbert):
        assert len(seen(build(make), HEADS[make], ids).features) == mask.numel()
    assert len(seen(build(bart), "lm_head", {"input_ids": ids, "decoder_input_ids": ids})[0]) == 42
