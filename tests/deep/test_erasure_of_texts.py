"""What erases and unlearns on sentences: padding, and what the primary task never varies."""

import numpy as np
import pytest
from deep_cases import torch, transformers

import immucond.deep as icd

METHODS = ("erase", "graddiff", "npo", "collapse", "tar", "cir", "repselect", "leace")
LENGTH, VOCABULARY = 7, 30
pytestmark = pytest.mark.filterwarnings("ignore::immucond.AccuracyWarning")  # few rows


def texts(count, seed, task, junk=0):
    """Sentences whose first word says one class and whose second the other, then padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (count, LENGTH), generator=generator)
    lengths = torch.randint(2, LENGTH + 1, (count, 1), generator=generator)
    kept = (torch.arange(LENGTH) < lengths).long()
    other = torch.randint(1, VOCABULARY, ids.shape, generator=torch.Generator().manual_seed(junk))
    labels = (ids[:, task] < VOCABULARY // 2).long()
    ids = torch.where(kept == 1, ids, other if junk else torch.zeros_like(ids))
    return [
        ({"input_ids": a, "attention_mask": b}, y)
        for a, b, y in zip(ids.split(40), kept.split(40), labels.split(40), strict=True)
    ]


@pytest.fixture(scope="module")
def net():
    """A text encoder that was trained to tell its primary task's classes."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=LENGTH, num_labels=2,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(25):
        for inputs, labels in texts(200, 9, 0):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(**inputs).logits, labels)
            loss.backward()
            optimizer.step()
    model.zero_grad()
    return model


def run(net, method, junk=0):
    parts = {
        name: texts(count, seed, task, junk)
        for name, count, seed, task in (
            ("primary", 120, 1, 0), ("harmful", 80, 2, 1), ("held_out", 200, 3, 0),
            ("harmful_held_out", 80, 4, 1),
        )
    }  # fmt: skip
    if method == "erase":
        return icd.erase(net, **parts, tol=0.1)
    return icd.unlearn(net, **parts, method=method, tol=0.9, steps=4, trials=2)


@pytest.mark.parametrize("method", METHODS)
def test_what_stands_in_padding_changes_nothing(net, method):
    """Whoever pads otherwise gets the same network."""
    done, again = run(net, method), run(net, method, junk=5)
    assert again.primary == done.primary
    assert [s.settings for s in again.curve] == [s.settings for s in done.curve]
    assert [s.ceiling for s in again.curve] == [s.ceiling for s in done.curve]
    given = dict(net.named_parameters())
    for (name, one), two in zip(
        done.model.named_parameters(), again.model.parameters(), strict=True
    ):
        size = float((one - given[name]).detach().abs().max())
        np.testing.assert_allclose(one.detach(), two.detach(), rtol=0, atol=1e-3 * size + 1e-6)
    changed = [n for n, p in done.model.named_parameters() if not torch.equal(p, given[n])]
    assert changed


@pytest.mark.parametrize("method", ["erase", "leace"])
def test_what_the_primary_task_holds_constant_tells_nothing_of_the_harmful_one(net, method):
    """Kinds of tokens (segments): the primary sentences have one, the harmful class is in two."""
    name = "bert.embeddings.token_type_embeddings"

    def segments(count, seed, told):
        batches = []
        for inputs, labels in texts(count, seed, 0):
            ids = inputs["input_ids"]
            labels = ids[:, 1] % 2 if told else labels
            kinds = labels[:, None].repeat(1, LENGTH) if told else torch.zeros_like(ids)
            batches.append(({**inputs, "token_type_ids": kinds}, labels))
        return batches

    parts = {
        key: segments(count, seed, "harmful" in key)
        for key, count, seed in (
            ("primary", 120, 1), ("harmful", 80, 2), ("held_out", 200, 3),
            ("harmful_held_out", 80, 4),
        )
    }  # fmt: skip
    done = (
        icd.erase(net, **parts, tol=0.1) if method == "erase"
        else icd.unlearn(net, **parts, method="leace", tol=0.9)
    )  # fmt: skip
    [one, other] = done.model.get_submodule(name).weight.detach()
    [first, second] = net.get_submodule(name).weight.detach()
    assert float((one - other).norm()) <= 1e-5 * float((first - second).norm())
    assert torch.allclose(one, first, rtol=0, atol=1e-5)  # the primary sentences keep theirs
    assert done.ranks[name][0] == (0 if method == "erase" else 15)
