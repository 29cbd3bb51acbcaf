"""Models with random weights, the same for everybody, and prompts of random tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked, Metric

SHAPES: dict[str, Any] = {
    "gpt2": lambda: GPT2Config(initializer_range=0.05),  # 12 layers of 12 heads, width 768, 124 M
    "tiny": lambda: GPT2Config(n_layer=4, n_head=8, n_embd=256, vocab_size=8000, initializer_range=0.05),
    "llama": lambda: LlamaConfig(
        hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=4,
        vocab_size=50257, initializer_range=0.05,
    ),
    "qwen": lambda: Qwen3Config(
        hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8,
        head_dim=128, vocab_size=151936, initializer_range=0.03,
    ),
}  # fmt: skip


def build(name: str) -> Any:
    """A model whose biases and gains are not trivial, in evaluation mode."""
    config = SHAPES[name]()
    config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.05)
    return model


def tokenizer(n: int) -> PreTrainedTokenizerFast:
    """One word per token: `w2`, `w3` and so on; special tokens are named so that none is the beginning of a word."""
    vocabulary = {"<unk>": 0, "<bos>": 1, **{f"w{i}": i for i in range(2, n)}}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<bos>", eos_token="<bos>", pad_token="<unk>"
    )


def save(model: Any, words: Any, folder: Path) -> str:
    """What other libraries load from."""
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def question(live: LiveModel, length: int, seed: int = 1, corrupt: bool = False) -> Asked:
    """A logit difference at the last of `length` random tokens; the corrupt prompt differs everywhere."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, live.anatomy.vocab, (2, length), generator=generator)
    tokens, other = (tuple(live.tokens.token(int(i)) for i in row) for row in ids)
    target, foil = live.tokens.token(5), live.tokens.token(7)
    return Asked("", tokens, Metric((5,), (7,)), (target,), (foil,), length - 1, other if corrupt else None)
