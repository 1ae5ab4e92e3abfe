"""Tiny networks of every family that the gauge groups are found in, with batches."""

from deep_cases import torch, transformers
from torch import nn

WIDE = {"initializer_range": 0.3}  # else random attention is flat, and hides much


def llama(**more):
    """Grouped queries, rotary embeddings, SwiGLU, RMSNorm."""
    config = transformers.LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, **WIDE, **more,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def bert():
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, **WIDE,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).eval()


def vit():
    config = transformers.ViTConfig(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=8, patch_size=4, **WIDE,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config).eval()


def gpt2():
    """Fused projections, Conv1D, tied embeddings."""
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=1,
        eos_token_id=2, **WIDE,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def resnet(layer_type="basic"):
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[8, 8], depths=[2, 1], layer_type=layer_type
    )
    net = transformers.ResNetForImageClassification(config)
    for module in net.modules():  # statistics of data, and scales of both signs
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.2, 3.0)
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return net.eval()


def bottleneck():
    return resnet("bottleneck")


FAMILIES = [llama, bert, vit, gpt2, resnet, bottleneck]


def outputs(model, batch):
    """Logits in float64."""
    with torch.no_grad():
        found = model(**batch) if isinstance(batch, dict) else model(batch)
    return found if isinstance(found, torch.Tensor) else found.logits


def off(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def difference(one, other):
    """Largest relative difference of a parameter or buffer of two networks, and its name."""
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    return max(
        (off(right[name].double(), x.double()), name)
        for name, x in left.items()
        if x.is_floating_point() and x.norm() > 0
    )
