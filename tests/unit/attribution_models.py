"""Small stock models with perturbed biases and gains, and questions to put to them."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked, Metric

VOCAB = 97
FAMILIES = ("gpt2", "llama", "neox")
PROMPT = "w3 w14 w15 w9 w2 w6 w5 w35"


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<bos>": 0, "<unk>": 1, **{f"w{i}": i for i in range(2, VOCAB)}}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", unk_token="<unk>")


def model(family: str) -> Any:
    """A model of random weights; biases and gains are perturbed, or half of what can go wrong would not show."""
    torch.manual_seed(3)
    if family == "gpt2":
        built: Any = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=48, n_layer=3, n_head=4, n_positions=64))
    elif family == "llama":
        built = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCAB,
                hidden_size=48,
                intermediate_size=96,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
            )
        )
    else:
        built = GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=VOCAB,
                hidden_size=48,
                intermediate_size=96,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=64,
            )
        )
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if weight.dim() == 1:
                weight.add_(0.3 * torch.randn_like(weight))
            elif "emb" in name or "wte" in name or "lm_head" in name:
                weight.mul_(10)
            else:
                weight.mul_(4)
    return built.eval()


def asked(
    live: LiveModel, prompt: str = PROMPT, target: str = "w7", foil: str | None = "w8", position: int = -1
) -> Asked:
    tokens = live.tokens.encode(prompt)
    one, other = live.tokens.many("target", target), live.tokens.many("foil", foil)
    metric = Metric(tuple(t.id for t in one), tuple(t.id for t in other))
    return Asked(prompt, tokens, metric, one, other, position % len(tokens))
