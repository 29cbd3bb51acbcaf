"""Architectures for sweeps, and the same numbers by a plain hook on a copy of the model, one forward each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GPTJConfig,
    GPTNeoXConfig,
    MistralConfig,
    MptConfig,
    Olmo2Config,
    OPTConfig,
    PhiConfig,
    Qwen2MoeConfig,
)

from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.question import Asked, Metric
from interp_widgets.model.reference import Reference
from tests.unit import tiny_models

V = tiny_models.VOCAB
LLAMA: dict[str, Any] = {
    "vocab_size": V, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
NEOX: dict[str, Any] = {**LLAMA, "num_key_value_heads": 4}


def made(kind: Any, **sizes: Any) -> Any:
    """A configuration of a kind, of these sizes."""
    return kind(**sizes)


FAMILIES: dict[str, Callable[[], Any]] = {
    "gpt2": tiny_models.gpt2,
    "llama, grouped queries": tiny_models.llama,
    "neox, parallel": lambda: tiny_models.shaken(made(GPTNeoXConfig, **NEOX)),
    "gemma2, sandwich norms, soft cap, sliding": lambda: tiny_models.shaken(
        made(Gemma2Config, **LLAMA, head_dim=8, sliding_window=4, query_pre_attn_scalar=8), 0.2
    ),
    "mistral, sliding": lambda: tiny_models.shaken(made(MistralConfig, **LLAMA, sliding_window=4)),
    "bloom, ALiBi": lambda: tiny_models.shaken(BloomConfig(vocab_size=V, hidden_size=32, n_layer=3, n_head=4)),
    "qwen2 moe": lambda: tiny_models.shaken(
        made(Qwen2MoeConfig, **LLAMA, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, shared_expert_intermediate_size=24)
    ),
    "opt, flattened mlp": lambda: tiny_models.shaken(
        OPTConfig(vocab_size=V, hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4, word_embed_proj_dim=32)
    ),
    "gptj, parallel": lambda: tiny_models.shaken(GPTJConfig(vocab_size=V, n_embd=32, n_layer=3, n_head=4, n_positions=64, rotary_dim=4)),
    "olmo2, norms after": lambda: tiny_models.shaken(made(Olmo2Config, **LLAMA), 0.2),
    "phi, parallel": lambda: tiny_models.shaken(made(PhiConfig, **NEOX)),
    "falcon, parallel": lambda: tiny_models.shaken(
        FalconConfig(vocab_size=V, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, alibi=False)
    ),
    "mpt, ALiBi": lambda: tiny_models.shaken(MptConfig(vocab_size=V, d_model=32, n_layers=3, n_heads=4, max_seq_len=64)),
}  # fmt: skip

PROMPT = "w4 w9 w2 w30 w11 w7 w4 w9 w2"
REFERENCE = Reference("some words", ("w3 w5 w8 w13", "w21 w34 w55 w2 w6 w40"))


@contextmanager
def opened(module: Any) -> Generator[LiveModel]:
    """The live model of `module`, closed at the end."""
    live = open_model(module, tiny_models.tokenizer(), reference=REFERENCE)
    try:
        yield live
    finally:
        live.release()


def ask(live: LiveModel, prompt: str = PROMPT, position: int = -1) -> Asked:
    """A logit difference at a position."""
    tokens = live.tokens.encode(prompt)
    target, foil = live.tokens.one("target", "w17"), live.tokens.one("foil", "w23")
    return Asked(prompt, tokens, Metric((17,), (23,)), (target,), (foil,), position % len(tokens))


class Plain:
    """A copy of the model without any hook of ours, and its logits under one plain hook."""

    def __init__(self, live: LiveModel, module: Any) -> None:
        self.live = live
        self.copy = copy.deepcopy(module)
        for part in self.copy.modules():
            part._forward_hooks.clear()
            part._forward_pre_hooks.clear()
        self.paths = {part: path for path, part in live.anatomy.paths.items()}

    def logits(self, asked: Asked, part: Any = None, pre: Any = None, post: Any = None) -> torch.Tensor:
        """Logits `[vocab]` at the read position."""
        handles = []
        if part is not None:
            module = self.copy.get_submodule(self.paths[part])
            handles += [module.register_forward_pre_hook(pre)] if pre is not None else []
            handles += [module.register_forward_hook(post)] if post is not None else []
        try:
            with torch.no_grad():
                return self.copy(input_ids=torch.tensor([asked.ids]), use_cache=False).logits[0, asked.position].float()
        finally:
            for handle in handles:
                handle.remove()

    def without_head(self, asked: Asked, layer: int, head: int, value: torch.Tensor | None = None) -> torch.Tensor:
        """The head's slice of the output projection's input set to `value` (or zero), everywhere."""
        attention = self.live.anatomy.layers[layer].attention
        assert attention is not None

        def pre(_: Any, args: Any) -> Any:
            x = args[0].clone()
            x.unflatten(-1, (attention.n_heads, -1))[..., head, :] = 0.0 if value is None else value
            return (x, *args[1:])

        return self.logits(asked, attention.output, pre)

    def without_mlp(self, asked: Asked, layer: int) -> torch.Tensor:
        """The MLP's addition to the stream set to zero."""
        mlp = self.live.anatomy.layers[layer].mlp
        assert mlp is not None and mlp.write is not None
        index = mlp.write.index

        def post(_module: Any, _args: Any, out: Any) -> Any:
            if index is None:
                return torch.zeros_like(out)
            return tuple(torch.zeros_like(x) if i == index else x for i, x in enumerate(out))

        return self.logits(asked, mlp.write.module, post=post)
