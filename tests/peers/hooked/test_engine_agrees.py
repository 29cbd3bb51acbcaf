"""Ablation, steering and patching: our logits are those of the classic HookedTransformer, an independent forward."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import (
    convert_gpt2_weights,
    convert_llama_weights,
    convert_neox_weights,
)

from tests.peers.perturbed import (
    CLOSE,
    FAMILIES,
    HEADS,
    LAYERS,
    OTHER,
    VOCAB,
    WIDTH,
    cases,
    hook_of,
    ids,
    live,
    module,
    ours,
)

COMMON = {
    "n_layers": LAYERS,
    "d_model": WIDTH,
    "n_ctx": 64,
    "d_head": WIDTH // HEADS,
    "n_heads": HEADS,
    "d_vocab": VOCAB,
}
OWN: dict[str, dict[str, Any]] = {
    "gpt2": {"d_mlp": 4 * WIDTH, "act_fn": "gelu_new", "eps": 1e-5, "normalization_type": "LN"},
    "gpt_neox": {
        "d_mlp": 48,
        "act_fn": "gelu",
        "eps": 1e-5,
        "normalization_type": "LN",
        "positional_embedding_type": "rotary",
        "rotary_dim": 4,
        "rotary_adjacent_pairs": False,
        "parallel_attn_mlp": True,
    },
    "llama": {
        "d_mlp": 48,
        "act_fn": "silu",
        "eps": 1e-6,
        "normalization_type": "RMS",
        "positional_embedding_type": "rotary",
        "rotary_dim": WIDTH // HEADS,
        "rotary_adjacent_pairs": False,
        "gated_mlp": True,
        "final_rms": True,
        "n_key_value_heads": 2,
    },
}
CONVERT = {"gpt2": convert_gpt2_weights, "gpt_neox": convert_neox_weights, "llama": convert_llama_weights}


@cache
def hooked(family: str) -> HookedTransformer:
    made = HookedTransformer(HookedTransformerConfig(**COMMON, **OWN[family], original_architecture=family))
    theirs = module(family)
    if family == "gpt_neox" and not hasattr(theirs, "embed_out"):
        theirs.embed_out = theirs.lm_head
    made.load_and_process_state_dict(
        CONVERT[family](theirs, made.cfg),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_with_nothing_on_the_logits_are_the_same(family: str) -> None:
    with torch.no_grad():
        theirs = hooked(family)(ids())[0]
    torch.testing.assert_close(torch.as_tensor(live(family).run([int(i) for i in ids()[0]]).logits), theirs, **CLOSE)


@pytest.mark.parametrize(("kind", "layer", "head"), cases())
@pytest.mark.parametrize("family", FAMILIES)
def test_an_intervention_gives_the_same_logits(family: str, kind: str, layer: int, head: int) -> None:
    with torch.no_grad():
        _, cache_of_other = hooked(family).run_with_cache(ids(OTHER))
        hook = hook_of(kind, layer, head, cache_of_other[f"blocks.{layer}.hook_resid_pre"])
        expected = hooked(family).run_with_hooks(ids(), fwd_hooks=[hook])[0]
    torch.testing.assert_close(ours(family, kind, layer, head), expected, **CLOSE)
