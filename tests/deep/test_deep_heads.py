"""Heads within other modules: whose labels are moved, and which layers are heads."""

import copy

import pytest
from deep_cases import torch, transformers
from token_cases import HEADS, Wrapped, bart, batch, build, distilbert, gpt2, llama, seen, t5
from torch import nn

import immucond.deep as icd
from immucond.deep._head import SplitModel
from immucond.deep._outcome import outcome_of

peft = pytest.importorskip("peft", reason="the extra lora is not installed")

pytestmark = [
    pytest.mark.usefixtures("short_probes"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT's
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]


def adapted(model, *targets, **more):
    config = peft.LoraConfig(r=2, target_modules=list(targets), **more)
    return peft.get_peft_model(copy.deepcopy(model), config).eval()


# ---- labels ----


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("make", [llama, gpt2])
def test_labels_of_a_language_model_within_another_module_are_moved(make, twice):
    ids, mask = batch()
    labels = ids.masked_fill((mask == 0) | (ids % 5 == 0), -100)
    model = build(make, Wrapped)
    name = "lm.lm_head"
    if twice:
        model, name = nn.Sequential(model), f"0.{name}"
    found = seen(model, name, ids, labels)
    inner = build(make)
    with torch.no_grad():
        wanted = inner(ids, attention_mask=mask, labels=labels).loss  # moved by transformers
    mine = torch.nn.functional.cross_entropy(found.logits, found.labels)
    assert float(mine) == pytest.approx(float(wanted), rel=1e-5)
    assert SplitModel(model, name).runs_on_tokens


@pytest.mark.parametrize("make", [distilbert, t5, bart])
def test_other_labels_within_another_module_are_not_moved(make):
    class Keywords(Wrapped):
        def forward(self, **given):
            return self.lm(**given)

    ids, mask = batch()
    labels = (ids % 3).masked_fill(mask == 0, -100)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if make is not distilbert:
        inputs = {**inputs, "decoder_input_ids": ids, "decoder_attention_mask": mask}
    name = HEADS.get(make, "lm_head")
    found = seen(build(make, Keywords), f"lm.{name}", inputs, labels)
    assert torch.equal(found.labels, labels[mask == 1])
    assert SplitModel(build(make, Keywords), f"lm.{name}").runs_on_tokens


def test_peft_around_a_language_model():
    ids, mask = batch()
    labels = ids.masked_fill(mask == 0, -100)
    model = build(llama)
    wrapped = adapted(model, "q_proj", task_type="CAUSAL_LM")
    for inputs in (
        {"input_ids": ids, "attention_mask": mask},
        (ids, mask),
    ):
        found = seen(wrapped, "base_model.model.lm_head", inputs, labels)
        wanted = seen(model, "lm_head", {"input_ids": ids, "attention_mask": mask}, labels)
        torch.testing.assert_close(found.features, wanted.features)
        assert torch.equal(found.labels, wanted.labels)
        assert len(found.labels) == int(mask[:, 1:].sum())


def test_virtual_tokens_are_rows_of_the_mask_that_ran():
    ids, mask = batch()
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = peft.get_peft_model(build(llama), config).eval()
    inputs = {"input_ids": ids, "attention_mask": mask}
    found = seen(model, "base_model.lm_head", inputs)
    assert len(found.features) == int(mask.sum()) + 2 * len(ids)
    with pytest.raises(ValueError, match=r"labels must be one a token, \(6, 9\).*\(6, 7\)"):
        seen(model, "base_model.lm_head", inputs, ids)


# ---- labels and logits whose shapes tell two things ----


class Places(nn.Module):
    def __init__(self, classes, make=lambda z: z):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.make = nn.Linear(5, classes), make

    def forward(self, x):
        return self.make(self.head(x))


@pytest.mark.parametrize("classes", [3, 4])
def test_targets_of_samples_are_so_with_as_many_tokens(classes):
    x, Y = torch.randn(6, 4, 5), torch.rand(6, classes)
    found = seen(Places(classes), "head", x, Y)
    assert torch.equal(found.labels, Y.repeat_interleave(4, dim=0))
    one = torch.rand(6, 4)
    assert torch.equal(seen(Places(1), "head", x, one).labels, one.flatten())


@pytest.mark.parametrize("classes", [3, 5])
def test_whole_numbers_of_another_length_are_refused(classes):
    with pytest.raises(ValueError, match=r"one a token, \(6, 4\), or one a sample, \(6,\)"):
        seen(Places(3), "head", torch.randn(6, 4, 5), torch.ones(6, classes, dtype=torch.int64))


@pytest.mark.parametrize("classes", [3, 4])
def test_logits_with_classes_first_are_refused(classes):
    x = torch.randn(6, 4, 5)
    with pytest.raises(ValueError, match="once their classes are last"):
        seen(Places(classes, lambda z: z.mT), "head", x)
    assert len(seen(Places(classes, lambda z: 2.0 * z), "head", x).logits) == 24


# ---- which layers are heads ----


def refused(model, split):
    with pytest.raises(TypeError) as caught:
        icd.immunize(model, split=split, primary=[torch.ones(2, 2)], harmful=[torch.ones(2, 2)])
    return str(caught.value)


def test_adapters_around_the_head_are_named():
    model = build(llama)
    wrapped = adapted(model, "lm_head")
    name = "base_model.model.lm_head"
    told = refused(wrapped, name)
    assert "'base_model.model.lm_head' is a Linear of peft.tuners.lora" in told
    assert "adds to 'base_model.model.lm_head.base_layer'" in told
    assert "merge_and_unload()" in told
    # The layer within, by itself, is not what makes the logits.
    assert "adds to what 'base_model.model.lm_head.base_layer' puts out" in refused(
        wrapped, f"{name}.base_layer"
    )
    ids, mask = batch()
    inputs = {"input_ids": ids, "attention_mask": mask}
    merged = wrapped.merge_and_unload()
    wanted = seen(model, "lm_head", inputs).features
    torch.testing.assert_close(seen(merged, "lm_head", inputs).features, wanted)


def test_the_copy_that_runs_in_place_of_the_head_is_named():
    model = build(distilbert)
    wrapped = adapted(model, "q_lin", modules_to_save=["classifier"])
    name = "base_model.model.classifier"
    told = refused(wrapped, name)
    assert "is a ModulesToSaveWrapper of peft" in told
    assert told.split("name the one that runs, ")[1].startswith(
        "'base_model.model.classifier.modules_to_save.default';"
    )
    ids, mask = batch()
    found = seen(wrapped, f"{name}.modules_to_save.default", (ids, mask))
    torch.testing.assert_close(found.features, seen(model, "classifier", (ids, mask)).features)
    with pytest.raises(ValueError, match="must run once in each forward pass, and ran 0 times"):
        seen(wrapped, f"{name}.original_module", (ids, mask))


class Packed(nn.Linear):
    """As bitsandbytes packs two weights of four bits into a byte."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        packed = torch.zeros(inputs * outputs // 2, 1, dtype=torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)


class Buffers(nn.Module):
    """As GPTQ's layers hold whole numbers in buffers."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.register_buffer("qweight", torch.zeros(inputs // 8, outputs, dtype=torch.int32))


class Scaled(torch.Tensor):
    """As torchao's tensors: floating-point from outside, whole numbers within."""

    @staticmethod
    def __new__(cls, whole):
        return torch.Tensor._make_wrapper_subclass(cls, whole.shape, dtype=torch.float32)

    def __init__(self, whole):
        self.whole = whole

    def __tensor_flatten__(self):
        return ["whole"], None

    @classmethod
    def __tensor_unflatten__(cls, held, *_):
        return cls(held["whole"])

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].whole)
        raise NotImplementedError(function)


def scaled():
    layer = nn.Linear(8, 4)
    layer.weight = nn.Parameter(Scaled(torch.zeros(4, 8, dtype=torch.int8)), requires_grad=False)
    return layer


def eight_bits():
    layer = nn.Linear(8, 4)
    layer.weight = nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    return layer


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: Packed(8, 4),
            r"Packed whose weight is quantized \(torch.uint8, shape \(16, 1\)",
        ),
        (lambda: Buffers(8, 4), r"a Buffers whose weight is quantized \(qweight: torch.int32\)"),
        (scaled, r"a Linear whose weight is quantized \(held as a Scaled\)"),
        (eight_bits, r"quantized \(torch.float8_e4m3fn, shape \(4, 8\)\)"),
        (
            lambda: torch.ao.nn.quantized.Linear(8, 4),
            r"a Linear whose weight is quantized \(packed\)",
        ),
    ],
)
def test_quantized_heads_are_told_what_to_do(make, told):
    model = nn.Sequential(nn.Linear(8, 8), make())
    with pytest.raises(TypeError, match=told + r".*modules_to_not_convert.*dequantize\(\)"):
        SplitModel(model, "1")


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_a_layer_without_a_weight_yet_is_told():
    with pytest.raises(TypeError, match=r"no weight yet .*run the model once before"):
        SplitModel(nn.Sequential(nn.Linear(8, 8), nn.LazyLinear(3)), "1")


def test_an_edit_of_a_tied_head_is_one_of_the_embedding():
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=30, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
    ))  # fmt: skip
    before = model.lm_head.weight.detach().clone()
    icd.edit_weight(model.lm_head.weight, lambda W: 2.0 * W)
    assert torch.equal(model.get_input_embeddings().weight, 2.0 * before)


def test_a_pass_is_looked_at_once():
    model = build(llama)
    split_model = SplitModel(model, "lm_head")
    ids, mask = batch()
    first = split_model({"input_ids": ids, "attention_mask": mask})
    second = split_model({"input_ids": ids})
    assert len(outcome_of(split_model, first, None).features) == int(mask.sum())
    assert len(outcome_of(split_model, second, None).features) == mask.numel()
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
