"""The leak profile of transformers' networks: their blocks, padding, and weights drawn anew."""

import numpy as np
import pytest
from deep_cases import torch, transformers

import immucond as ic
import immucond.deep as icd

SIZES = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip


def bert():
    config = transformers.BertConfig(
        vocab_size=20, max_position_embeddings=8, num_labels=3, initializer_range=0.3, **SIZES
    )
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config).eval()


def texts(count=60, seed=0, padding=0):
    """Sentences of 3 to 6 tokens; the class is whether the first is below 10."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 20, (count, 6 + padding), generator=generator)
    lengths = torch.randint(3, 7, (count,), generator=generator)
    kept = (torch.arange(6 + padding) < lengths[:, None]).long()
    # What padding holds must not matter.
    return [{"input_ids": ids, "attention_mask": kept, "labels": (ids[:, 0] < 10).long()}]


def vit():
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_labels=3, **SIZES)
    torch.manual_seed(0)
    return transformers.ViTForImageClassification(config).eval()


def resnet():
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[6, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    torch.manual_seed(0)
    return transformers.ResNetForImageClassification(config).eval()


def images(count=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, 8, 8, generator=generator)
    y = (torch.arange(count) % 2)[torch.randperm(count, generator=generator)]
    x[:, 0] += y[:, None, None].float()
    return [(x, y)]


def test_blocks_of_a_text_encoder_are_pooled_over_what_is_no_padding():
    model, data = bert(), [texts(seed=seed) for seed in range(3)]
    found = icd.leak_profile(model, data[0], primary=data[1], held_out=data[2], untrained=False)
    layers = [f"bert.encoder.layer.{i}" for i in range(2)]
    assert list(found.cuts) == [
        "bert.embeddings", *layers, "bert.pooler", "classifier (input)",
    ]  # fmt: skip
    with torch.no_grad():
        pooled = []
        for (batch,) in data:
            mask = batch["attention_mask"]
            states = model.bert(
                input_ids=batch["input_ids"], attention_mask=mask, output_hidden_states=True
            ).hidden_states[1]
            total = (states.double() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            pooled.append(total.float().numpy())
    y, y_test = data[0][0]["labels"].numpy(), data[2][0]["labels"].numpy()
    wanted = ic.probing.ceiling(pooled[0], y, pooled[1], held_out=(pooled[2], y_test))
    assert np.array_equal(found.cuts[layers[0]].predictions, wanted.predictions)
    assert found.cuts[layers[0]].as_dict() == wanted.as_dict()
    every = icd.leak_profile(
        model, data[0], primary=data[1], held_out=data[2], untrained=False, mask=None
    )
    assert every.cuts[layers[0]].as_dict() != found.cuts[layers[0]].as_dict()


@pytest.mark.parametrize(
    ("make", "cuts"),
    [
        (vit, ["vit.embeddings", "vit.layers.0", "vit.layers.1", "vit.layernorm",
               "classifier (input)"]),
        (resnet, ["resnet.embedder", "resnet.encoder.stages.0", "resnet.encoder.stages.1",
                  "classifier.1 (input)"]),
    ],
)  # fmt: skip
def test_blocks_of_image_classifiers(make, cuts):
    model = make()
    found = icd.leak_profile(
        model, images(), primary=images(seed=1), held_out=images(seed=2), untrained=False
    )
    assert list(found.cuts) == cuts
    assert found.logits.rank <= 3
    if make is resnet:  # channels, and not columns of places
        assert [found.widths[name] for name in cuts] == [4, 6, 8, 8]
        assert np.array_equal(*(found.cuts[name].predictions for name in cuts[-2:]))


@pytest.mark.parametrize("make", [bert, vit, resnet])
def test_all_their_weights_can_be_drawn_anew_as_they_start(make, tmp_path):
    from immucond.deep._untrained import untrained_like

    make().save_pretrained(tmp_path)
    loaded = type(make()).from_pretrained(tmp_path)  # whose weights are marked as loaded
    with torch.no_grad():
        for p in loaded.parameters():
            p.add_(10.0)
    device = torch.device("cpu")
    found, again = (untrained_like(loaded, device, 0, argument="untrained") for _ in range(2))
    fresh = make().state_dict()
    for name, x in found.state_dict().items():
        assert torch.equal(x, again.state_dict()[name])
        if x.is_floating_point():
            assert x.isfinite().all()
            assert float(x.abs().max()) < 5.0, name
            if x.numel() > 100:  # of the size that they start with
                assert float(x.std()) == pytest.approx(float(fresh[name].std()), rel=0.3), name
    assert all(float(p.detach().mean()) > 4.0 for p in loaded.parameters())
