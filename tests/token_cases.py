"""Tiny networks of transformers whose heads run on tokens, and sentences with padding."""

from deep_cases import torch, transformers
from torch import nn

from immucond.deep._head import SplitModel
from immucond.deep._outcome import outcome_of

WIDTH, VOCABULARY, SAMPLES, TOKENS = 8, 30, 6, 7
SMALL = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        **SMALL, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, use_cache=False,
    ))  # fmt: skip


def gpt2():
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=16, use_cache=False,
        bos_token_id=1, eos_token_id=2,
    ))  # fmt: skip


def distilbert():
    return transformers.DistilBertForTokenClassification(transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=WIDTH, hidden_dim=16, n_layers=2, n_heads=2,
        max_position_embeddings=16, num_labels=3, pad_token_id=0,
    ))  # fmt: skip


def t5():
    return transformers.T5ForConditionalGeneration(transformers.T5Config(
        **SMALL, d_model=WIDTH, d_kv=4, d_ff=16, num_layers=1, num_heads=2,
        decoder_start_token_id=0, use_cache=False,
    ))  # fmt: skip


def bart():
    return transformers.BartForConditionalGeneration(transformers.BartConfig(
        **SMALL, d_model=WIDTH, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        max_position_embeddings=16, decoder_start_token_id=2, use_cache=False,
    ))  # fmt: skip


HEADS = {llama: "lm_head", gpt2: "lm_head", distilbert: "classifier"}


def build(make, *wrappers):
    torch.manual_seed(0)
    model = make().eval()
    for wrap in wrappers:
        model = wrap(model)
    return model.eval()


def batch(tokens=TOKENS, seed=1):
    """Sentences with padding on the right, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (SAMPLES, tokens), generator=generator)
    length = torch.randint(3, tokens + 1, (SAMPLES, 1), generator=generator)
    length[0] = tokens - 2
    mask = (torch.arange(tokens) < length).long()
    return ids * mask, mask


def seen(model, split, inputs, labels=None):
    split_model = SplitModel(model, split)
    with torch.no_grad():
        return outcome_of(split_model, split_model(inputs), labels)


def alone(model, head, run, ids, mask):
    """What enters the head of each sentence by itself, which has no padding, end to end."""
    rows = []
    hook = head.register_forward_pre_hook(lambda _, args: rows.append(args[0][0]))
    with torch.no_grad():
        for row, kept in zip(ids, mask.bool(), strict=True):
            run(row[kept][None])
    hook.remove()
    return torch.cat(rows)


class Wrapped(nn.Module):
    """A network in another module, whose forward may make the mask."""

    def __init__(self, lm):
        super().__init__()
        self.lm = lm

    def forward(self, ids):
        return self.lm(input_ids=ids, attention_mask=ids != 0).logits
