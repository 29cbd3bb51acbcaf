"""One head off: our logits are those of the classic HookedTransformer, for every head of the embedded model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from interp_widgets.model.interventions import Ablate
from tests.peers.embedded import PROMPT, heads, ids, live
from tests.peers.hooked.converted import converted

CLOSE = {"rtol": 0.0, "atol": 2e-5}


@pytest.fixture(scope="module")
def hooked() -> HookedTransformer:
    """The same weights without folding or centring, so that logits can be compared as they are."""
    return converted(fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False)


def test_with_nothing_on_the_logits_are_the_same(hooked: HookedTransformer) -> None:
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(live().run(PROMPT).logits), hooked(ids())[0], **CLOSE)


@pytest.mark.parametrize(("layer", "head"), heads())
def test_a_head_at_zero_gives_the_same_logits(hooked: HookedTransformer, layer: int, head: int) -> None:
    def off(z: torch.Tensor, hook: Any) -> torch.Tensor:
        z[:, :, head] = 0.0
        return z

    with torch.no_grad():
        expected = hooked.run_with_hooks(ids(), fwd_hooks=[(f"blocks.{layer}.attn.hook_z", off)])[0]
    run = live().run(PROMPT, [Ablate(f"L{layer}H{head}", mode="zero")])
    torch.testing.assert_close(torch.as_tensor(run.logits), expected, **CLOSE)
