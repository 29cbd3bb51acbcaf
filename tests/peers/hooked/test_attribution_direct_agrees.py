"""Direct attribution is TransformerLens', head by head and source by source, on the embedded model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

from interp_widgets.methods.direct_tokens import DirectTokens, direct_by_source
from interp_widgets.model.question import Asked, Metric
from tests.peers.embedded import PROMPT, ids, live
from tests.peers.hooked.converted import converted

CLOSE = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture(scope="module")
def hooked() -> HookedTransformer:
    """Norms folded, as its own attribution needs them; value biases stay, or they would move between the heads' shares."""
    return converted(fold_value_biases=False)


@pytest.fixture(scope="module")
def cache(hooked: HookedTransformer) -> Any:
    with torch.no_grad():
        logits, cache = hooked.run_with_cache(ids())
    centred = logits[0] - logits[0].mean(-1, keepdim=True)
    own = torch.as_tensor(live().run(PROMPT).logits)
    torch.testing.assert_close(centred, own - own.mean(-1, keepdim=True), rtol=0.0, atol=5e-5)
    return cache


def question() -> Asked:
    tokens = live().tokens
    target, foil = tokens.many("target", " Mary"), tokens.many("foil", " John")
    prompt = tokens.encode(PROMPT)
    metric = Metric(tuple(t.id for t in target), tuple(t.id for t in foil))
    return Asked(PROMPT, prompt, metric, target, foil, len(prompt) - 1)


@pytest.fixture(scope="module")
def ours() -> DirectTokens:
    return direct_by_source(live(), question())


def test_each_heads_direct_attribution_is_transformer_lens(cache: Any, ours: DirectTokens) -> None:
    asked = question()
    stack = cache.stack_head_results(layer=-1, pos_slice=-1)
    shares = cache.logit_attrs(
        stack, tokens=asked.target[0].id, incorrect_tokens=asked.foil[0].id, pos_slice=-1, has_batch_dim=True
    )
    expected = shares.flatten().detach().numpy().reshape(ours.replaced.shape)
    assert np.abs(expected).max() > 0.1
    assert abs(ours.error) < 1e-5
    np.testing.assert_allclose(ours.heads, expected, **CLOSE)


def test_what_a_head_carried_from_each_token_is_pattern_times_value(
    hooked: HookedTransformer, cache: Any, ours: DirectTokens
) -> None:
    asked = question()
    q = asked.position
    sigma = cache["ln_final.hook_scale"][0, q]
    direction = (hooked.W_U[:, asked.target[0].id] - hooked.W_U[:, asked.foil[0].id]).detach() / sigma
    for layer in range(ours.replaced.shape[0]):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0, :, q]
        value = cache[f"blocks.{layer}.attn.hook_v"][0]
        out = torch.einsum("hed,d->he", hooked.W_O[layer].detach(), direction)
        expected = pattern * torch.einsum("phe,he->hp", value, out)
        np.testing.assert_allclose(ours.sources[layer], expected.detach().numpy(), **CLOSE)
