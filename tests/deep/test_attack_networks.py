"""Attackers of networks that are built in ways of their own."""

import pytest
import torch
from torch import nn

import immucond.deep as icd
from immucond.deep._attacked import with_new_head
from immucond.deep.attacks._starts import at_cut, starts_of

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
    cut = at_cut(start, "model.norm", (inputs, None)).model
    entered = []
    cut.head.register_forward_pre_hook(lambda _, args: entered.append(args[0].detach()))
    cut(**inputs)
    torch.testing.assert_close(entered[0], wanted)
    report = icd.attack(net, [batch, texts(7)], held_out=[texts(6, seed=2)], split="score",
                        attackers=["lstsq"], trials=1, scratch=False, equalize=False)  # fmt: skip
    assert "plain, model.norm" in {attack.start for attack in report.attacks["release"]}


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
    cost = icd.attack_cost(Encoder(), sequences(), split="head", params=params, products=30, steps=5)
    assert cost.lazy
