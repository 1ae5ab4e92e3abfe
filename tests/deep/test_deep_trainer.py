"""The mix-in in Hugging Face's own Trainer."""

import pytest
from torch_cases import torch

import immucond.deep as icd
import immucond.torch as ict
from immucond.deep._head import SplitModel

import transformers  # isort: skip  # after torch, which may be absent


class ImmunizingTrainer(icd.TrainerMixin, transformers.Trainer):
    pass


class InOrder(ImmunizingTrainer):
    """The samples in the order of the data set, in every version of transformers."""

    def get_train_dataloader(self):
        return torch.utils.data.DataLoader(
            self.train_dataset, self.args.per_device_train_batch_size, collate_fn=self.data_collator
        )


def network(width=12):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertForSequenceClassification(config)


def sentences(count, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for label in range(count):
        length = 3 + label % 5
        mask = (torch.arange(8) < length).long()
        ids = torch.randint(1, 30, (8,), generator=generator) * mask
        rows.append({"input_ids": ids, "attention_mask": mask, "labels": label % 3})
    return rows


def harmful(size=16):
    return torch.utils.data.DataLoader(sentences(32, 2), batch_size=size)


def trainer(kind, folder, model=None, count=32, loss=None, **changes):
    options = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 16,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
        "dataloader_pin_memory": False,
    } | changes
    arguments = transformers.TrainingArguments(**options)
    model = network() if model is None else model
    data = sentences(count, 1)
    return kind(model, arguments, train_dataset=data, compute_loss_func=loss)


def cross_entropy(outputs, labels, num_items_in_batch=None):
    """As a user writes it, who takes the number of items where there is one."""
    how = "mean" if num_items_in_batch is None else "sum"
    loss = torch.nn.functional.cross_entropy(outputs.logits, labels, reduction=how)
    return loss if num_items_in_batch is None else loss / num_items_in_batch


def states_near(a, b, **tolerance):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.allclose(a[key], b[key], **tolerance) for key in a)


def test_without_weight_it_is_the_plain_trainer(tmp_path):
    plain = trainer(transformers.Trainer, tmp_path)
    ours = trainer(ImmunizingTrainer, tmp_path)
    ours.immunize_against(harmful(), split="classifier", lambdas=(0.0, 0.0))
    for each in (plain, ours):
        each.train()
    assert states_near(plain.model, ours.model, rtol=0, atol=0)
    assert not states_near(network(), ours.model, rtol=0, atol=0)


@pytest.mark.parametrize("accepts", [True, False])
@pytest.mark.parametrize("loss", [None, cross_entropy])
def test_accumulated_batches_make_the_step_of_the_full_batch(tmp_path, loss, accepts):
    steps = []
    for accumulated in (1, 4):
        model = network()
        model.accepts_loss_kwargs = accepts
        ours = trainer(
            InOrder,
            tmp_path,
            model,
            loss=loss,
            max_steps=1,
            learning_rate=1.0,
            per_device_train_batch_size=32 // accumulated,
            gradient_accumulation_steps=accumulated,
        )
        ours.immunize_against(harmful(), split="classifier", lambdas=(0.0, 0.0))
        ours.train()
        before = network().parameters()
        moved = (now - old for now, old in zip(model.parameters(), before, strict=True))
        steps.append(torch.cat([x.detach().flatten() for x in moved]))
    whole, sum_of_parts = steps
    assert whole.norm() > 1e-3
    assert (whole - sum_of_parts).norm() <= 1e-4 * whole.norm()


class _Rule:
    """The part of a trainer that divides accumulated losses, or takes them for divided."""

    current_gradient_accumulation_steps = 4

    def __init__(self, accepts, loss):
        self.model_accepts_loss_kwargs, self.compute_loss_func = accepts, loss

    def compute_loss(self, model, inputs, return_outputs, num_items_in_batch=None):
        assert num_items_in_batch is None
        outputs = model(inputs["x"])
        return outputs.square().mean(), outputs

    def training_step(self, model, inputs, items):
        loss = self.compute_loss(model, inputs, num_items_in_batch=items)
        return loss if self.scaled(items) else loss / 4


class _Older(_Rule):  # transformers 4.56
    def scaled(self, items):
        knows = self.model_accepts_loss_kwargs and items is not None
        return knows or self.compute_loss_func is not None


class _Newer(_Older):  # transformers 5.19
    loss_is_scaled_for_ga = None

    def scaled(self, items):
        asked = self.loss_is_scaled_for_ga
        return super().scaled(items) if asked is None else asked


@pytest.mark.parametrize("rule", [_Older, _Newer])
@pytest.mark.parametrize("accepts", [True, False])
@pytest.mark.parametrize("loss", [None, cross_entropy])
@pytest.mark.parametrize("items", [None, 32])
def test_accumulated_losses_are_divided_once_by_every_rule(rule, accepts, loss, items):
    class Ours(icd.TrainerMixin, rule):
        pass

    torch.manual_seed(0)
    ours = Ours(accepts, loss)
    ours.model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3))
    X = torch.randn(16, 5)
    ours.immunize_against([X], split="1", lambdas=(0.0, 0.0))
    total = sum(ours.training_step(ours.model, {"x": x}, items) for x in X.split(4))
    torch.testing.assert_close(total, ours.model(X).square().mean())


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("loss", [None, cross_entropy])
def test_a_step_descends_on_loss_plus_terms(tmp_path, accumulated, loss):
    lambdas, lr = (1e-3, 2e-5), 1e-2
    model = network().eval()
    ours = trainer(
        InOrder, tmp_path, loss=loss, max_steps=1, gradient_accumulation_steps=accumulated
    )
    ours.immunize_against(harmful(), split="classifier", lambdas=lambdas)
    ours.train()
    collate = torch.utils.data.default_collate
    total = 0.0
    for start in range(0, 16 * accumulated, 16):
        P, H = (collate(sentences(32, seed)[start : start + 16]) for seed in (1, 2))
        loss = model(**P).loss
        Z_P, Z_H = (
            SplitModel(model, "classifier")({k: x for k, x in batch.items() if k != "labels"})[0]
            for batch in (P, H)
        )
        total = total + (loss + ict.ImmunizationLoss(*lambdas)(Z_P, Z_H)) / accumulated
    total.backward()
    before = network()
    for name, parameter in ours.model.named_parameters():
        gradient = dict(model.named_parameters())[name].grad
        if gradient is not None:
            moved = parameter - before.get_parameter(name)
            assert torch.allclose(moved, -lr * gradient, rtol=1e-3, atol=1e-6), name


def test_balance_at_a_large_scale_is_that_of_float64(tmp_path):
    model = network()
    model.bert.pooler.activation = torch.nn.Identity()
    with torch.no_grad():
        for parameter in model.bert.pooler.parameters():
            parameter.mul_(1e6)
        model.classifier.weight.div_(1e6)
    ours = trainer(InOrder, tmp_path, model, max_steps=1, learning_rate=0.0)
    ours.immunize_against(harmful(), split="classifier", lambdas="balance")
    ours.train()
    model = model.double().eval()
    P, H = (torch.utils.data.default_collate(sentences(32, seed)[:16]) for seed in (1, 2))
    Z_P, Z_H = (
        SplitModel(model, "classifier")({k: x for k, x in batch.items() if k != "labels"})[0]
        for batch in (P, H)
    )
    loss = torch.nn.functional.cross_entropy(model.classifier(Z_P), P["labels"])
    options = {"computed_in": torch.float32}
    terms = (ict.r_well(features=Z_P, **options), ict.r_ill(features=Z_H, **options))
    (by_loss,) = torch.autograd.grad(loss, Z_P, retain_graph=True)
    for name, term, Z in zip(("lambda_P", "lambda_H"), terms, (Z_P, Z_H), strict=True):
        (gradient,) = torch.autograd.grad(term, Z)
        expected = float(by_loss.norm() / gradient.norm())
        assert abs(ours.state.log_history[0][name] / expected - 1) < 1e-3


@pytest.mark.parametrize("lambdas", ["balance", (0.1, 0.1)])
def test_a_frozen_extractor_is_told(tmp_path, lambdas):
    model = network()
    model.bert.requires_grad_(False)
    ours = trainer(ImmunizingTrainer, tmp_path, model, max_steps=1)
    ours.immunize_against(harmful(), split="classifier", lambdas=lambdas)
    with pytest.raises(ValueError, match=r"extractor is frozen \(requires_grad=False\)"):
        ours.train()


def test_a_compiled_network_is_told_under_balance(tmp_path):
    model = network()
    model.compile(backend="aot_eager")
    ours = trainer(ImmunizingTrainer, tmp_path, model, max_steps=1)
    ours.immunize_against(harmful(), split="classifier", lambdas="balance")
    with pytest.raises(TypeError, match=r"the model is compiled \(torch.compile\)"):
        ours.train()


def test_it_immunizes_and_logs(tmp_path):
    ours = trainer(ImmunizingTrainer, tmp_path, num_train_epochs=10, learning_rate=0.03)
    ours.immunize_against(harmful(), split="classifier", lambdas=(0.0, 0.01))
    ours.train()
    assert kappa(ours.model) > 3 * kappa(network())
    logged = [entry for entry in ours.state.log_history if "loss" in entry]
    assert len(logged) == 20
    for entry in logged:
        assert (entry["lambda_P"], entry["lambda_H"]) == (0.0, 0.01)
        assert {"well", "ill"} <= entry.keys()
    assert logged[-1]["ill"] < logged[0]["ill"] / 2
    assert ours.evaluate(sentences(16, 4))["eval_loss"] > 0


def test_logs_take_the_total_apart(tmp_path):
    ours = trainer(ImmunizingTrainer, tmp_path, logging_steps=2, gradient_accumulation_steps=1)
    ours.immunize_against(harmful(), split="classifier", lambdas=(2e-3, 3e-5))
    ours.train()
    logged = [entry for entry in ours.state.log_history if "loss" in entry]
    assert len(logged) == 2
    for entry in logged:
        total = entry["primary_loss"] + 2e-3 * entry["well"] + 3e-5 * entry["ill"]
        assert entry["loss"] == pytest.approx(total, rel=1e-3)
        assert 0.3 < entry["primary_loss"] < 3.0


def test_terms_set_the_weights_once_and_a_resumed_run_keeps_them(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 4, "learning_rate": 1e-3}
    ours = trainer(InOrder, tmp_path, **options)
    ours.immunize_against(harmful(32), split="classifier")
    ours.train()
    first, *rest = [entry for entry in ours.state.log_history if "loss" in entry]
    assert first["lambda_P"] * first["well"] == pytest.approx(1.0, rel=1e-5)
    assert first["lambda_H"] * first["ill"] == pytest.approx(10.0, rel=1e-5)
    weights = [(entry["lambda_P"], entry["lambda_H"]) for entry in (first, *rest)]
    assert len(rest) == 3
    assert len(set(weights)) == 1
    again = trainer(InOrder, tmp_path, **options)
    again.immunize_against(harmful(32), split="classifier")
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert {e["lambda_H"] for e in again.state.log_history if "loss" in e} == {weights[0][1]}
    asked = trainer(InOrder, tmp_path, max_steps=1)
    asked.immunize_against(harmful(32), split="classifier", terms=(0.0, 3.0))
    asked.train()
    entry = asked.state.log_history[0]
    assert entry["lambda_P"] == 0.0
    assert entry["lambda_H"] * entry["ill"] == pytest.approx(3.0, rel=1e-5)


class Spied(InOrder):
    def _total(self, *arguments):
        total = super()._total(*arguments)
        self.seen = [*getattr(self, "seen", []), tuple(self._weights.values())]
        return total


@pytest.mark.parametrize("options", [{}, {"lambdas": "balance"}])
def test_alignment_waits_for_a_batch_of_two_classes(tmp_path, options):
    """The first harmful batch sets no weight, and changes nothing."""
    mixed = next(iter(harmful(32)))
    alone = {name: x[mixed["labels"] == 1] for name, x in mixed.items()}
    ours = trainer(Spied, tmp_path, max_steps=4)
    unlabelled = [{name: x for name, x in mixed.items() if name != "labels"}]
    with pytest.raises(ValueError, match="harmful must have labels for 'alignment'"):
        ours.immunize_against(unlabelled, split="classifier", method="alignment")
    ours.immunize_against([alone, mixed], split="classifier", method="alignment", **options)
    ours.train()
    weights = [seen[1] for seen in ours.seen]
    assert weights[0] == 0.0
    assert weights[1] > 0.0
    assert ours._first == (0.0, weights[1])
    if not options:
        assert weights[1] == weights[2] == weights[3]
        logs = [entry for entry in ours.state.log_history if "loss" in entry]
        assert weights[1] * abs(logs[1]["ill"]) == pytest.approx(0.3, rel=1e-5)
    for method in ("fade", "closed_form"):
        with pytest.raises(ValueError, match=f"method must be one that trains, and is {method!r}"):
            ours.immunize_against([mixed], split="classifier", method=method)


LAST = "last"


# Each with each, two at a time.
@pytest.mark.parametrize(
    ("logging_steps", "checkpoint", "options"),
    [
        (1, "checkpoint-2", {"terms": (1, 10)}),
        (500, LAST, {"terms": (1, 10)}),
        (500, "checkpoint-2", {"lambdas": "balance"}),
        (1, LAST, {"lambdas": "balance"}),
    ],
)
def test_a_resumed_run_keeps_its_weights_however_seldom_it_logs(
    tmp_path, logging_steps, checkpoint, options
):
    steps = {"save_strategy": "steps", "save_steps": 1, "logging_steps": logging_steps}
    ours = trainer(Spied, tmp_path, **steps, max_steps=3, learning_rate=1e-3)
    ours.immunize_against(harmful(32), split="classifier", **options)
    ours.train()
    again = trainer(Spied, tmp_path, **steps, max_steps=4, learning_rate=1e-3)
    again.immunize_against(harmful(32), split="classifier", **options)
    resumed = True if checkpoint == LAST else str(tmp_path / checkpoint)
    again.train(resume_from_checkpoint=resumed)
    assert again._first == ours._first == ours.seen[0]
    if "terms" in options:
        assert set(again.seen) == set(ours.seen)
    assert len(again.seen) == (1 if checkpoint == LAST else 2)
    anew = trainer(Spied, tmp_path, max_steps=1)
    anew.immunize_against(harmful(32), split="classifier", terms=(1, 20))
    anew.train()  # a run that is not resumed is another
    assert anew.seen[0][1] == pytest.approx(2 * ours.seen[0][1]) or "terms" not in options


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"terms": (1, 1000)}, r"terms is \[1.0, 10.0\] there and \[1.0, 1000.0\] here"),
        ({"lambdas": (1, 2)}, r"terms is .* lambdas is None there and \[1.0, 2.0\] here"),
        ({"lambdas": "balance"}, "lambdas is None there and 'balance' here"),
        ({"method": "opt_kappa"}, "method is 'algorithm1' there and 'opt_kappa' here"),
        ({"split": "bert.pooler.dense"}, "split is 'classifier' there and 'bert.pooler.dense' he"),
        ({"computed_in": torch.float32}, "computed_in is None there and 'float32' here"),
    ],
)
def test_a_run_is_not_resumed_by_other_terms(tmp_path, change, message):
    steps = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "logging_steps": 500}
    ours = trainer(InOrder, tmp_path, **steps, learning_rate=1e-3)
    ours.immunize_against(harmful(32), split="classifier")
    ours.train()
    again = trainer(InOrder, tmp_path, **steps)
    again.immunize_against(harmful(32), **{"split": "classifier"} | change)
    with pytest.raises(ValueError, match=f"checkpoint-1 is that of another run: .*{message}"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_a_loss_of_ones_own_that_hides_immunization_is_refused_before_a_step(tmp_path):
    class Own(icd.TrainerMixin, transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **keywords):
            outputs = model(**inputs)
            return (outputs.loss, outputs) if return_outputs else outputs.loss

    class Younger(Own):
        pass

    ours = trainer(Younger, tmp_path)
    ours.immunize_against(harmful(), split="classifier")
    with pytest.raises(TypeError, match=r"compute_loss of Own does not call super\(\)\.compute_l"):
        ours.train()
    assert ours.state.global_step == 0
    assert states_near(ours.model, network(), rtol=0, atol=0)


def test_a_weight_for_a_term_that_the_method_lacks_is_refused(tmp_path):
    ours = trainer(ImmunizingTrainer, tmp_path)
    for given in ({"terms": (5, 1)}, {"lambdas": (5, 1)}):
        ours.immunize_against(harmful(), split="classifier", method="r_ill", **given)
        with pytest.raises(ValueError, match=r"must be 0 for a term .* is 5 for the primary one"):
            ours.train()


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        (
            [{"input_ids": torch.ones(4, 8).long().numpy()}],
            TypeError,
            "a batch of harmful must hold tensors, and holds NumPy arrays",
        ),
        ([], ValueError, "harmful has no batches"),
        (None, TypeError, "harmful must be a loader or an iterable of batches, and is None"),
    ],
)
def test_what_are_no_harmful_batches_is_refused_at_once(tmp_path, batches, error, message):
    ours = trainer(ImmunizingTrainer, tmp_path)
    with pytest.raises(error, match=message):
        ours.immunize_against(batches, split="classifier")


def test_the_wrong_order_of_bases_is_refused():
    with pytest.raises(
        TypeError, match=r"must come before Trainer.*class T\(TrainerMixin, Trainer\)"
    ):

        class T(transformers.Trainer, icd.TrainerMixin):
            pass

    class Own(icd.TrainerMixin, transformers.Trainer):
        def compute_loss(self, *arguments, **keywords):
            return super().compute_loss(*arguments, **keywords)

    class Grandchild(Own):
        pass


def test_training_against_nothing_is_refused(tmp_path):
    ours = trainer(ImmunizingTrainer, tmp_path)
    told = r"call trainer.immunize_against\(harmful_loader, split='classifier'\)"
    with pytest.raises(RuntimeError, match=told):
        ours.train()
    assert ours.evaluate(sentences(16, 4))["eval_loss"] > 0


@pytest.mark.parametrize(
    ("count", "changes", "fine"),
    [
        (33, {}, False),
        (33, {"dataloader_drop_last": True}, True),
        (8, {"per_device_train_batch_size": 1}, False),
        (32, {}, True),
    ],
)
def test_a_primary_batch_of_one_is_refused_before_training(tmp_path, count, changes, fine):
    ours = trainer(ImmunizingTrainer, tmp_path, count=count, **changes)
    ours.immunize_against(harmful(), split="classifier", method="r_ill")
    if fine:
        ours.train()
        return
    with pytest.raises(ValueError, match=rf"{count} of train_dataset .* dataloader_drop_last=True"):
        ours.train()
    assert ours.state.global_step == 0


def test_imma_without_labels_is_refused_at_once(tmp_path):
    ours = trainer(ImmunizingTrainer, tmp_path)
    rows = [{k: x for k, x in row.items() if k != "labels"} for row in sentences(32, 2)]
    unlabelled = torch.utils.data.DataLoader(rows, batch_size=16)
    with pytest.raises(ValueError, match="harmful must have labels for 'imma'"):
        ours.immunize_against(unlabelled, split="classifier", method="imma")
    ours.immunize_against(harmful(), split="classifier", method="imma")
    ours.train()


@pytest.mark.filterwarnings("ignore::immucond.DegenerateSpectrumWarning")
@pytest.mark.filterwarnings("ignore::immucond.AccuracyWarning")
@pytest.mark.filterwarnings("ignore:`torch.cpu.amp.autocast:FutureWarning")  # of transformers 4.56
def test_bfloat16_needs_nothing_to_be_set(tmp_path):
    ours = trainer(
        ImmunizingTrainer, tmp_path, network(64), num_train_epochs=4, learning_rate=1e-4, bf16=True
    )
    ours.immunize_against(harmful(32), split="classifier")
    ours.train()
    logged = [entry for entry in ours.state.log_history if "loss" in entry]
    assert len(logged) == 8
    assert logged[-1]["ill"] < logged[0]["ill"]
    known = trainer(ImmunizingTrainer, tmp_path, network(64), max_steps=1, bf16=True)
    known.immunize_against(harmful(32), split="classifier", computed_in="float32")
    known.train()
    with pytest.raises(ValueError, match="computed_in is for methods of the library"):
        known.immunize_against(harmful(), split="classifier", method="imma", computed_in="float32")


def kappa(model):
    batch = torch.utils.data.default_collate(sentences(32, 2))
    batch.pop("labels")
    with torch.no_grad():
        return ict.condition_number(features=SplitModel(model.eval(), "classifier")(batch)[0])
