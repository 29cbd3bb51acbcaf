"""The shipped folders open in plain transformers, TransformerLens and nnsight: the same tokens, logits within 1e-4."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from nnsight import LanguageModel
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp_widgets.builtin import load as builtin

PROMPTS = {
    "embedded": "When Mary and John went to the store, John gave a drink to",
    "embedded:names": "When Mary and John went to the store, John gave a drink to",
    "embedded:addition": "12+34=",
}
NAMES = [name for name in PROMPTS if name in builtin.names()]
CLOSE = {"rtol": 0.0, "atol": 1e-4}


@cache
def ours(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and logits of the model as we open it."""
    model, tokenizer = builtin.load(name)
    ids = tokenizer(PROMPTS[name], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return ids, model(ids).logits


@pytest.mark.parametrize("name", NAMES)
def test_plain_transformers_agrees(name: str) -> None:
    folder = str(builtin.folder(name))
    ids, logits = ours(name)
    theirs = AutoTokenizer.from_pretrained(folder)(PROMPTS[name], return_tensors="pt")["input_ids"]
    assert torch.equal(theirs, ids)
    with torch.no_grad():
        torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(folder).eval()(theirs).logits, logits, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_the_bridge_of_transformer_lens_agrees(name: str) -> None:
    bridge: Any = TransformerBridge.boot_transformers(str(builtin.folder(name)), device="cpu")
    ids, logits = ours(name)
    with torch.no_grad():
        torch.testing.assert_close(bridge(ids), logits, **CLOSE)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "embedded:addition"])
def test_the_bridge_tokenises_with_one_bos(name: str) -> None:
    bridge: Any = TransformerBridge.boot_transformers(str(builtin.folder(name)), device="cpu")
    assert torch.equal(bridge.to_tokens(PROMPTS[name]), ours(name)[0])


@pytest.mark.parametrize("name", NAMES)
def test_nnsight_agrees_on_tokens_and_logits(name: str) -> None:
    model = LanguageModel(str(builtin.folder(name)), device_map="cpu", dispatch=True)
    ids, logits = ours(name)
    with torch.no_grad(), model.trace(PROMPTS[name]):
        seen = model.inputs[1]["input_ids"].save()
        found = model.lm_head.output.save()
    assert torch.equal(seen, ids)
    torch.testing.assert_close(found, logits, **CLOSE)
