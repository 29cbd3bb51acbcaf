"""Small stock models with random weights, whose biases and gains are not trivial, and a word tokenizer for them."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

VOCAB = 61


def tokenizer(n: int = VOCAB) -> PreTrainedTokenizerFast:
    """One token per word `w0`, `w1`, …; id 0 is `<s>`, which starts no prompt by itself, and id 1 `<unk>`."""
    vocab = {"<s>": 0, "<unk>": 1, **{f"w{i}": i for i in range(2, n)}}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", unk_token="<unk>")


def shaken(config: Any, scale: float = 0.35) -> Any:
    """A model with every parameter moved off its initial value: fresh biases are zero and fresh gains one."""
    config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    generator = torch.Generator().manual_seed(7)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(
                torch.randn(p.shape, generator=generator) * scale
                + (1.0 if p.dim() == 1 and bool((p == 1).all()) else 0.0)
            )
    return model


def gpt2(**changes: Any) -> Any:
    """Three blocks of GPT-2's kind: learned positions, LayerNorm, biases."""
    shape: dict[str, Any] = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
    return shaken(GPT2Config(**(shape | changes)))


def llama(**changes: Any) -> Any:
    """Three blocks of Llama's kind: rotary positions, RMSNorm, grouped keys and values."""
    shape: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    return shaken(LlamaConfig(**(shape | changes)))
