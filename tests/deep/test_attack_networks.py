"""Attackers of networks that are built in ways of their own."""

import pytest
import torch
from torch import nn

import immucond.deep as icd
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
