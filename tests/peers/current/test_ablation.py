"""One head off: our logits are those of TransformerLens (bridge) and nnsight, for every head of the embedded model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nnsight import LanguageModel
from transformer_lens.model_bridge import TransformerBridge

from interp_widgets.model.interventions import Ablate
from tests.peers.embedded import FOLDER, PROMPT, heads, ids, live, theirs

CLOSE = {"rtol": 0.0, "atol": 2e-5}


@pytest.fixture(scope="module")
def bridge() -> Any:
    return TransformerBridge.boot_transformers(str(FOLDER), tokenizer=theirs()[1], device="cpu")


def ours(layer: int, head: int) -> torch.Tensor:
    logits = live().run(PROMPT, [Ablate(f"L{layer}H{head}", mode="zero")]).logits
    return torch.as_tensor(logits)


def test_with_nothing_on_the_bridge_gives_the_same_logits(bridge: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(live().run(PROMPT).logits), bridge(ids())[0], **CLOSE)


@pytest.mark.parametrize(("layer", "head"), heads())
def test_a_head_at_zero_gives_the_logits_of_the_bridge(bridge: Any, layer: int, head: int) -> None:
    def off(z: torch.Tensor, hook: Any) -> torch.Tensor:
        z[:, :, head] = 0.0
        return z

    expected = bridge.run_with_hooks(ids(), fwd_hooks=[(f"blocks.{layer}.attn.hook_z", off)])[0]
    torch.testing.assert_close(ours(layer, head), expected, **CLOSE)


@pytest.mark.parametrize(("layer", "head"), heads())
def test_a_head_at_zero_gives_the_logits_of_nnsight(layer: int, head: int) -> None:
    module, tokenizer = theirs()
    model = LanguageModel(module, tokenizer=tokenizer)
    width = module.config.n_embd // module.config.n_head
    with torch.no_grad(), model.trace(ids()):
        model.transformer.h[layer].attn.c_proj.input[:, :, head * width : (head + 1) * width] = 0.0
        expected = model.lm_head.output.save()
    torch.testing.assert_close(ours(layer, head), expected[0], **CLOSE)


def test_the_comparison_would_see_another_head() -> None:
    assert not torch.allclose(ours(0, 0), ours(0, 1), **CLOSE)
