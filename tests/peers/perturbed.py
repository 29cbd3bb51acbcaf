"""Small random models of three families, biases and gains perturbed (fresh ones hide half the bugs), as each side opens them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, PreTrainedTokenizerFast

from interp_widgets.model.interventions import Ablate, Intervention, Patch, Steer
from interp_widgets.model.live import LiveModel, open_model

FAMILIES = ("gpt2", "gpt_neox", "llama")
LAYERS, HEADS, WIDTH, VOCAB = 3, 4, 32, 61
PROMPT = "w5 w9 w12 w5 w30 w7 w44 w9"
OTHER = "w3 w9 w17 w5 w31 w8 w20 w6"
CLOSE = {"rtol": 0.0, "atol": 1e-5}


def _config(family: str) -> Any:
    ends: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0}
    if family == "gpt2":
        return GPT2Config(
            vocab_size=VOCAB,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            n_positions=64,
            tie_word_embeddings=False,
            **ends,
        )
    shape: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 64,
        **ends,
    }
    if family == "gpt_neox":
        return GPTNeoXConfig(**shape, rotary_pct=0.5)
    return LlamaConfig(**shape, num_key_value_heads=2, attention_bias=False)


def tokenizer() -> PreTrainedTokenizerFast:
    vocab = {"<s>": 0, "<unk>": 1, **{f"w{i}": i for i in range(2, VOCAB)}}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="<s>", pad_token="<s>", unk_token="<unk>"
    )


@cache
def folder(family: str) -> Path:
    """The model and its tokenizer, saved as `from_pretrained` reads them."""
    torch.manual_seed(11)
    module = AutoModelForCausalLM.from_config(_config(family)).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in module.parameters():
            gain = 1.0 if p.dim() == 1 and bool((p == 1).all()) else 0.0
            p.copy_(gain + torch.randn(p.shape, generator=generator) * 0.12)
    path = Path(tempfile.mkdtemp(prefix=f"perturbed-{family}-"))
    module.save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def module(family: str) -> Any:
    """A fresh module with the family's weights."""
    return AutoModelForCausalLM.from_pretrained(folder(family), dtype=torch.float32).eval()


@cache
def live(family: str) -> LiveModel:
    """Ours."""
    return open_model(module(family), tokenizer())


def ids(prompt: str = PROMPT) -> torch.Tensor:
    """A prompt's tokens, `[1, pos]`."""
    return torch.tensor([[int(w[1:]) for w in prompt.split()]])


def direction() -> torch.Tensor:
    """What is added to the stream."""
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(9))


def cases() -> list[tuple[str, int, int]]:
    """What is done: every head at zero, a push and a patch at every layer."""
    heads = [("ablate", layer, head) for layer in range(LAYERS) for head in range(HEADS)]
    return heads + [(kind, layer, 0) for kind in ("steer", "patch") for layer in range(LAYERS)]


def ours(family: str, kind: str, layer: int, head: int) -> torch.Tensor:
    """Our logits, `[pos, vocab]`."""
    made: dict[str, Callable[[], Intervention]] = {
        "ablate": lambda: Ablate(f"L{layer}H{head}", mode="zero"),
        "steer": lambda: Steer(f"L{layer}", direction(), 0.7, positions="all"),
        "patch": lambda: Patch(f"L{layer}.pre", OTHER, positions=[2, 5]),
    }
    run = live(family).run(PROMPT, [made[kind]()])
    assert run.receipts[0].state == "acted"
    return torch.as_tensor(run.logits)


def hook_of(kind: str, layer: int, head: int, stream: torch.Tensor) -> tuple[str, Callable[..., torch.Tensor]]:
    """The same intervention in TransformerLens' words; `stream` is the other prompt's, `[1, pos, d_model]`."""

    def off(z: torch.Tensor, hook: Any) -> torch.Tensor:
        z[:, :, head] = 0.0
        return z

    def push(x: torch.Tensor, hook: Any) -> torch.Tensor:
        return x + 0.7 * direction()

    def patch(x: torch.Tensor, hook: Any) -> torch.Tensor:
        x = x.clone()
        x[:, [2, 5]] = stream[:, [2, 5]]
        return x

    return {
        "ablate": (f"blocks.{layer}.attn.hook_z", off),
        "steer": (f"blocks.{layer}.hook_resid_post", push),
        "patch": (f"blocks.{layer}.hook_resid_pre", patch),
    }[kind]
