"""Heads that run on tokens: the rows are the tokens that count, and none else."""

import numpy as np
import pytest
from torch_cases import torch

import immucond as ic
import immucond.deep as icd
import immucond.torch as ict
from immucond.deep._head import SplitModel
from immucond.deep._outcome import outcome_of

import transformers  # isort: skip  # after torch, which may be absent

WIDTH, VOCABULARY, TOKENS, FILLING = 8, 30, 7, 29
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 16,
    "num_labels": 3, "pad_token_id": 0,
}  # fmt: skip
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LLAMA = {**SIZES, "num_key_value_heads": 1, "tie_word_embeddings": False, "use_cache": False}


def network(kind, **changes):
    torch.manual_seed(0)
    if kind == "token":
        config = transformers.BertConfig(**{**SIZES, **QUIET, **changes})
        model, head = transformers.BertForTokenClassification(config), "classifier"
        for name, p in model.named_parameters():
            if "LayerNorm" in name:  # else the features lie in a hyperplane, but for rounding
                torch.nn.init.normal_(p, 1.0 * name.endswith("weight"), 0.5)
    elif kind == "causal":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**LLAMA, **changes}))
        head = "lm_head"
    else:
        config = transformers.LlamaConfig(**{**LLAMA, **changes})
        model, head = transformers.LlamaForSequenceClassification(config), "score"
    return model.eval(), head


BLOCKS = {"token": "bert.encoder.layer.1", "causal": "model.layers.1", "last": "model.layers.1"}
KINDS = tuple(BLOCKS)
every_kind = pytest.mark.parametrize("kind", KINDS)


def task(kind, seed, side="right", count=24, batch=8):
    """Batches of sentences with padding on one side; labels as the kind of network reads them."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count // batch):
        ids = torch.randint(1, VOCABULARY, (batch, TOKENS), generator=generator)
        length = torch.randint(3, TOKENS + 1, (batch, 1), generator=generator)
        mask = (torch.arange(TOKENS) < length).long()
        mask = mask.flip(1) if side == "left" else mask
        ids = ids * mask
        labels = {
            "token": (ids % 3).masked_fill((mask == 0) | (ids % 5 == 0), -100),
            "causal": ids.masked_fill(mask == 0, -100),
            "last": ids.amax(1) % 3,
        }[kind]
        found.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return found


def rows_by_hand(kind, model, batches):
    """Features, logits and labels of what counts, sentence by sentence and token by token."""
    features, logits, labels = [], [], []
    for batch in batches:
        ids, mask, y = (batch[key] for key in ("input_ids", "attention_mask", "labels"))
        with torch.no_grad():
            output = model(ids, attention_mask=mask, output_hidden_states=True)
        Z = output.hidden_states[-1]
        for n in range(len(ids)):
            attended = [t for t in range(TOKENS) if mask[n, t]]
            if kind == "last":
                features.append(Z[n, attended[-1]])
                logits.append(output.logits[n])
                labels.append(int(y[n]))
                continue
            for t in attended:
                behind = t + (kind == "causal")
                if behind < TOKENS and mask[n, behind] and y[n, behind] != -100:
                    features.append(Z[n, t])
                    logits.append(output.logits[n, t])
                    labels.append(int(y[n, behind]))
    return torch.stack(features), torch.stack(logits), torch.tensor(labels)


def kappa(Z):
    sigma = np.linalg.svd(Z.double().numpy(), compute_uv=False)
    sigma = sigma[sigma > 1e-5 * sigma[0]]  # LayerNorm takes a direction
    return (sigma[0] / sigma[-1]) ** 2


@every_kind
@pytest.mark.parametrize("side", ["right", "left"])
def test_condition_numbers_are_of_the_tokens_that_count(kind, side):
    model, head = network(kind)
    other, _ = network(kind)
    last = "output.dense.weight" if kind == "token" else "mlp.down_proj.weight"
    with torch.no_grad():
        other.get_submodule(BLOCKS[kind]).get_parameter(last).mul_(3.0)
    for batches in (task(kind, 1, side), task(kind, 2, side)):
        (Z, *_), (before, *_) = (rows_by_hand(kind, x, batches) for x in (other, model))
        tasks = {"split": head, "primary": batches, "harmful": batches}
        found = icd.rir(other, model, **tasks, groups=1, size=len(Z))  # a group of all rows
        for kappas in (found.kappa_P, found.kappa_H):
            assert kappas[0] == pytest.approx(kappa(Z), rel=1e-3)
        assert found.reference_kappa_P[0] == pytest.approx(kappa(before), rel=1e-3)
        with pytest.raises(ValueError, match=f"must have at least {len(Z) + 1} samples, and has"):
            icd.rir(other, model, **tasks, size=len(Z) + 1)


@every_kind
def test_what_stands_in_padding_changes_nothing(kind):
    model, head = network(kind)
    P, H = (
        [{**b, "input_ids": b["input_ids"].clamp_max(FILLING - 1)} for b in task(kind, seed)]
        for seed in (1, 2)
    )
    wanted = icd.rir(model, model, split=head, primary=P, harmful=H, size=9)
    if kind == "last":
        model.config.pad_token_id = FILLING  # by which transformers finds the last token
    P, H = (
        [
            {**b, "input_ids": b["input_ids"].masked_fill(b["attention_mask"] == 0, FILLING)}
            for b in x
        ]
        for x in (P, H)
    )
    found = icd.rir(model, model, split=head, primary=P, harmful=H, size=9)
    np.testing.assert_allclose(found.kappa_P, wanted.kappa_P, rtol=1e-4)
    np.testing.assert_allclose(found.kappa_H, wanted.kappa_H, rtol=1e-4)


@every_kind
def test_a_step_is_that_of_autograd_on_the_rows(kind):
    model, head = network(kind)
    P, H = (task(kind, seed, count=8) for seed in (1, 2))
    a, b, lr = 0.3, 0.2, 1e-2
    done = icd.immunize(
        model, split=head, primary=P, harmful=H, trainable=BLOCKS[kind], epochs=1, lambdas=(a, b),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr),
    ).model  # fmt: skip
    mine, _ = network(kind)
    features = {}
    for name, (batch,) in (("P", P), ("H", H)):
        output = mine(
            batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True
        )
        y, mask, Z = batch["labels"], batch["attention_mask"].bool(), output.hidden_states[-1]
        logits = output.logits
        if kind == "last":
            Z = Z[torch.arange(len(Z)), mask.sum(1) - 1]
        else:
            if kind == "causal":
                Z, logits, y, mask = Z[:, :-1], logits[:, :-1], y[:, 1:], mask[:, 1:]
            counted = mask & (y != -100)
            Z, logits, y = Z[counted], logits[counted], y[counted]
        features[name] = Z
        if name == "P":
            loss = torch.nn.functional.cross_entropy(logits, y)
    total = loss + a * ict.r_well(features=features["P"]) + b * ict.r_ill(features=features["H"])
    total.backward()
    trained = list(mine.get_submodule(BLOCKS[kind]).parameters())
    for found, p in zip(done.get_submodule(BLOCKS[kind]).parameters(), trained, strict=True):
        assert p.grad.abs().max() > 0.0
        torch.testing.assert_close(found, p - lr * p.grad, rtol=1e-4, atol=1e-6)


@every_kind
@pytest.mark.parametrize("kept", [True, False])
def test_training_makes_the_harmful_tokens_ill_conditioned(kind, kept):
    model, head = network(kind)
    tasks = (task(kind, seed, count=32) for seed in (1, 2))
    loaders = [
        torch.utils.data.DataLoader([row for batch in x for row in split(batch)], batch_size=8)
        for x in tasks
    ]
    if kept:
        loaders = [
            icd.keep_activations(
                model, loader, split=head, trainable=BLOCKS[kind], deterministic=True
            )
            for loader in loaders
        ]
    done = icd.immunize(
        model, split=head, primary=loaders[0], harmful=loaders[1], trainable=BLOCKS[kind], epochs=6,
        method="r_ill", terms=(0.0, 3.0),
    )  # fmt: skip
    rows, _, _ = rows_by_hand(kind, done.model, task(kind, 2, count=32))
    before, _, _ = rows_by_hand(kind, model, task(kind, 2, count=32))
    assert kappa(rows) > 1.3 * kappa(before)
    assert done.report.i == pytest.approx(kappa(rows) / kappa(before), rel=0.02)
    assert done.report.counts[1] == len(rows)


def split(batch):
    return [{key: x[n] for key, x in batch.items()} for n in range(len(batch["labels"]))]


def test_fade_of_tokens_is_that_of_their_rows():
    model, head = network("token")
    P, H = task("token", 1, count=64), task("token", 2, count=64)
    done = icd.immunize(
        model, split=head, primary=P, harmful=H, method="fade", tau=100.0, delta=0.0
    )
    (Z_P, logits, _), (Z_H, _, y) = (rows_by_hand("token", model, x) for x in (P, H))
    Y = np.eye(3)[y.numpy()]
    truth = ic.linear.fade(Z_P.double().numpy(), Z_H.double().numpy(), Y, tau=100.0, delta=0.0,
                           computed_in="float32")  # fmt: skip
    np.testing.assert_allclose(done.fade.map.theta, truth.theta, atol=1e-3)
    assert done.report.changed == 0
    with torch.no_grad():
        batch = {key: P[0][key] for key in ("input_ids", "attention_mask")}
        change = (done.model(**batch).logits - model(**batch).logits)[batch["attention_mask"] == 1]
    assert change.abs().max() <= 1.5 * done.fade.logits_changed * logits.abs().max() <= 1e-2


def test_distilled_in_the_last_block_plain_transformers_reads_it(tmp_path):
    model, head = network("token")
    done = icd.immunize(
        model, split=head, primary=task("token", 1), harmful=task("token", 2),
        trainable=BLOCKS["token"], method="fade", tau=100.0, epochs=2,
    )  # fmt: skip
    done.model.save_pretrained(tmp_path)
    read = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path).eval()
    batch = {key: task("token", 3)[0][key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        assert torch.equal(read(**batch).logits, done.model.eval()(**batch).logits)


def test_the_closed_form_leaves_tied_embeddings_as_they_are():
    model, head = network("causal", tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    P, H = task("causal", 1), task("causal", 2)
    done = icd.immunize(model, split=head, primary=P, harmful=H, method="closed_form")
    embedded = done.model.model.embed_tokens.weight
    assert torch.equal(embedded, model.model.embed_tokens.weight)
    batch = {key: P[0][key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        torch.testing.assert_close(
            done.model(**batch).logits, model(**batch).logits, rtol=1e-3, atol=1e-3
        )
    with pytest.raises(TypeError, match="save_pretrained does not know the closed form's map"):
        done.model.save_pretrained("nowhere")


class Places(torch.nn.Module):
    """A head on every place, whose outputs `make` turns into logits."""

    def __init__(self, make):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.make = torch.nn.Linear(6, 5), torch.nn.Linear(5, 2), make

    def forward(self, x):
        return self.make(self.head(self.body(x)))


def immunized(model, labels):
    task = [(torch.randn(16, 4, 6, generator=torch.Generator().manual_seed(1)), labels)]
    return icd.immunize(model, split="head", primary=task, harmful=task, trainable="body", epochs=1)


def test_places_of_networks_without_masks_are_rows():
    labels = torch.arange(64).reshape(16, 4) % 2
    done = immunized(Places(lambda z: z), labels)
    assert done.report.counts == (64, 64)
    of_samples = immunized(Places(lambda z: z), labels[:, 0])
    assert of_samples.report.counts == (64, 64)


@pytest.mark.parametrize(
    ("make", "labels", "told"),
    [
        (
            lambda z: z.mean(1),
            torch.arange(16) % 2,
            r"\(16, 4, 5\).*logits of shape \(16, 2\)",
        ),
        (
            lambda z: z[:, 0] + 0.1,
            torch.arange(16) % 2,
            "nor those of one token, the same in each sample. Pool",
        ),
        (lambda z: z, torch.arange(15) % 2, r"labels must be one a token, \(16, 4\)"),
        (lambda z: z, torch.full((16, 4), -100), "no token of a batch counts"),
    ],
)
def test_what_are_no_rows_is_refused(make, labels, told):
    with pytest.raises(ValueError, match=told):
        immunized(Places(make), labels)


@every_kind
def test_masks_that_do_not_fit_are_refused(kind):
    model, head = network(kind)
    batches = task(kind, 1)
    for mask, told in (
        (batches[0]["attention_mask"][:, :-1], r"\(samples, tokens\)|does not run"),
        (0.5 * batches[0]["attention_mask"], "must hold 0 for padding and 1 for tokens"),
    ):
        wrong = [{**batches[0], "attention_mask": mask}]
        with pytest.raises(ValueError, match=told):
            icd.rir(model, model, split=head, primary=wrong, harmful=batches, size=5)


def test_a_batch_of_one_sentence_has_many_tokens():
    model, head = network("token")
    P, H = (task("token", seed, count=3, batch=1) for seed in (1, 2))
    done = icd.immunize(
        model, split=head, primary=P, harmful=H, trainable=BLOCKS["token"], epochs=1
    )
    assert done.report is not None
    classifier, head = network("last")
    P, H = (task("last", seed, count=3, batch=1) for seed in (1, 2))
    with pytest.raises(ValueError, match="at least two samples, and one has 1"):
        icd.immunize(
            classifier, split=head, primary=P, harmful=H, trainable=BLOCKS["last"], epochs=1
        )


def test_the_token_behind_the_logits_is_found_where_others_are_alike():
    class First(Places):
        def __init__(self, at, zero=False):
            super().__init__(lambda z: z[:, at])
            if zero:
                for p in self.head.parameters():
                    torch.nn.init.zeros_(p)

    labels = torch.arange(16) % 2
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 4, 6, generator=generator)
    x[:8, 1:3] = x[:8, :1]  # tokens that are alike
    for at in (0, 3):
        model = First(at)
        Z = model.body(x)[:, at].detach()
        found = icd.rir(
            model, model, split="head", primary=[(x, labels)], harmful=[(x, labels)], groups=1,
            size=16,
        )  # fmt: skip
        assert found.kappa_P[0] == pytest.approx(kappa(Z), rel=1e-3)
    with pytest.raises(ValueError, match="nor those of one token, the same in each sample"):
        icd.rir(
            First(0, zero=True), model, split="head", primary=[(x, labels)], harmful=[(x, labels)]
        )


def test_a_run_that_diverges_says_so_and_keeps_what_it_had():
    model, head = network("last")
    P, H = (task("last", seed) for seed in (1, 2))
    with pytest.raises(ic.DivergenceError) as caught:
        icd.immunize(
            model, split=head, primary=P, harmful=H, trainable=BLOCKS["last"], epochs=2, lr=1e30
        )
    assert caught.value.result is not None


def test_a_last_batch_of_one_sentence_is_refused_before_any_step():
    model, head = network("last")
    rows = split(task("last", 1, count=9, batch=9)[0])
    loader = torch.utils.data.DataLoader(rows, batch_size=8)
    steps = []
    with pytest.raises(ValueError, match="at least two samples, and one has 1"):
        icd.immunize(
            model, split=head, primary=loader, harmful=loader, trainable=BLOCKS["last"],
            callback=lambda step, record: steps.append(step),
        )  # fmt: skip
    assert not steps


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_kept_activations_keep_the_mask(dtype):
    model, head = network("token")
    batch = task("token", 1, count=16, batch=16)[0]
    rows = split({**batch, "attention_mask": batch["attention_mask"].to(dtype)})
    loader = torch.utils.data.DataLoader(rows, batch_size=8)
    kept = icd.keep_activations(
        model, loader, split=head, trainable=BLOCKS["token"], deterministic=True
    )
    tasks = {"split": head, "groups": 1, "size": len(rows_by_hand("token", model, [batch])[0])}
    of_kept = icd.rir(model, model, primary=kept, harmful=kept, **tasks)
    assert of_kept.kappa_P[0] == pytest.approx(
        icd.rir(model, model, primary=loader, harmful=loader, **tasks).kappa_P[0], rel=1e-4
    )


def seen(model, head, inputs, labels):
    split_model = SplitModel(model, head)
    return outcome_of(split_model, split_model(inputs), labels)


def test_labels_are_moved_where_transformers_moves_them():
    """The mean cross-entropy of the rows is the loss of the class itself."""
    small = {"n_layers": 1, "n_heads": 2, "emb_dim": WIDTH, "n_words": VOCABULARY}
    torch.manual_seed(0)
    for model, head in (
        (transformers.GPT2LMHeadModel(transformers.GPT2Config(
            vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=1, n_head=2, n_positions=16)), "lm_head"),
        (transformers.XLMWithLMHeadModel(transformers.XLMConfig(
            **small, pad_index=0, dropout=0.0, attention_dropout=0.0)), "pred_layer.proj"),
        (transformers.BertForMaskedLM(transformers.BertConfig(**SIZES)), "cls.predictions.decoder"),
        (transformers.BertLMHeadModel(transformers.BertConfig(**SIZES, is_decoder=True)),
         "cls.predictions.decoder"),
    ):  # fmt: skip
        (batch,) = task("causal", 1, count=8)
        model.eval()
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            found = seen(model, head, inputs, batch["labels"])
            wanted = model(**batch).loss
        mine = torch.nn.functional.cross_entropy(found.logits, found.labels)
        assert float(mine) == pytest.approx(float(wanted), rel=1e-5), type(model).__name__


def test_encoders_with_decoders_need_the_decoders_inputs():
    torch.manual_seed(0)
    model = transformers.BartForConditionalGeneration(
        transformers.BartConfig(
            vocab_size=VOCABULARY, d_model=WIDTH, encoder_layers=1, decoder_layers=1,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
            decoder_ffn_dim=16, max_position_embeddings=16, pad_token_id=0,
        )
    ).eval()  # fmt: skip
    (batch,) = task("causal", 1, count=8)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match=r"must hold decoder_input_ids.*DataCollatorForSeq2Seq"):
        seen(model, "lm_head", inputs, batch["labels"])
    with torch.no_grad():
        decoded = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        found = seen(model, "lm_head", {**inputs, "decoder_input_ids": decoded}, batch["labels"])
        wanted = model(**batch).loss
    mine = torch.nn.functional.cross_entropy(found.logits, found.labels)
    assert float(mine) == pytest.approx(float(wanted), rel=1e-5)


def test_classes_of_few_bits_are_not_taken_for_minus_a_hundred():
    model, head = network("token")
    (batch,) = task("token", 1, count=8)
    labels = torch.full((8, TOKENS), 156, dtype=torch.uint8)
    found = seen(model, head, {"input_ids": batch["input_ids"]}, labels)
    assert len(found.labels) == 8 * TOKENS


class ImmunizingTrainer(icd.TrainerMixin, transformers.Trainer):
    pass


def of_rows(outputs, labels, **_):
    """A loss of one's own, for which the trainer takes the labels out of the batch."""
    return torch.nn.functional.cross_entropy(outputs.logits.flatten(0, -2), labels.flatten())


@every_kind
@pytest.mark.parametrize("loss", [None, of_rows])
def test_the_trainers_terms_are_of_the_tokens_that_count(kind, loss, tmp_path):
    model, head = network(kind)
    P, H = (task(kind, seed, count=8) for seed in (1, 2))
    wanted = [float(term(features=rows_by_hand(kind, model, x)[0]))
              for term, x in ((ict.r_well, P), (ict.r_ill, H))]  # fmt: skip
    trainer = ImmunizingTrainer(
        model,
        transformers.TrainingArguments(
            str(tmp_path), per_device_train_batch_size=8, max_steps=1, logging_steps=1,
            report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=split(P[0]),
        compute_loss_func=loss,
    )  # fmt: skip
    trainer.immunize_against(H, split=head, lambdas=(0.1, 0.1))
    trainer.train()
    logs = trainer.state.log_history[0]
    assert [logs["well"], logs["ill"]] == pytest.approx(wanted, rel=1e-3)
