"""Ablation, steering and patching: our logits are those of TransformerLens' bridge and of nnsight, on three families."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from nnsight import LanguageModel
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

from tests.peers.perturbed import (
    CLOSE,
    FAMILIES,
    OTHER,
    cases,
    direction,
    folder,
    hook_of,
    ids,
    live,
    module,
    ours,
    tokenizer,
)

PARTS = {
    "gpt2": (lambda m: m.transformer.h, lambda b: b.attn.c_proj, lambda m: m.lm_head),
    "gpt_neox": (lambda m: m.gpt_neox.layers, lambda b: b.attention.dense, lambda m: m.lm_head),
    "llama": (lambda m: m.model.layers, lambda b: b.self_attn.o_proj, lambda m: m.lm_head),
}


@cache
def bridge(family: str) -> Any:
    return TransformerBridge.boot_transformers(
        str(folder(family)), tokenizer=AutoTokenizer.from_pretrained(folder(family)), device="cpu"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_with_nothing_on_the_bridge_gives_the_same_logits(family: str) -> None:
    with torch.no_grad():
        theirs = bridge(family)(ids())[0]
    torch.testing.assert_close(torch.as_tensor(live(family).run([int(i) for i in ids()[0]]).logits), theirs, **CLOSE)


@pytest.mark.parametrize(("kind", "layer", "head"), cases())
@pytest.mark.parametrize("family", FAMILIES)
def test_an_intervention_gives_the_logits_of_the_bridge(family: str, kind: str, layer: int, head: int) -> None:
    with torch.no_grad():
        _, cache_of_other = bridge(family).run_with_cache(ids(OTHER))
        hook = hook_of(kind, layer, head, cache_of_other[f"blocks.{layer}.hook_resid_pre"])
        expected = bridge(family).run_with_hooks(ids(), fwd_hooks=[hook])[0]
    torch.testing.assert_close(ours(family, kind, layer, head), expected, **CLOSE)


@pytest.mark.parametrize(("kind", "layer", "head"), [c for c in cases() if c[0] != "patch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_intervention_gives_the_logits_of_nnsight(family: str, kind: str, layer: int, head: int) -> None:
    model = LanguageModel(module(family), tokenizer=tokenizer())
    layers, projection, unembed = PARTS[family]
    with torch.no_grad(), model.trace(ids()):
        if kind == "ablate":
            projection(layers(model)[layer]).input[:, :, head * 8 : (head + 1) * 8] = 0.0
        else:
            layers(model)[layer].output[:] = layers(model)[layer].output + 0.7 * direction()
        expected = unembed(model).output.save()
    torch.testing.assert_close(ours(family, kind, layer, head), expected[0], **CLOSE)
