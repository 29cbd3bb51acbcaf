"""The attention registry: wrapped once while a model is open, as it was afterwards, and nobody's configuration is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import AttentionInterface

import interp_widgets as iw
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.patterns import GatedAttention
from tests.invariants import untouched
from tests.unit.tiny_models import gpt2, llama, tokenizer

REGISTRY: dict[str, Any] = AttentionInterface._global_mapping
PROMPT = "w5 w9 w12 w5 w30 w7"
CUT = iw.Ablate("L1H1", mode="edge", edge=(4, 2))


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = dict(REGISTRY)
    yield
    assert before == REGISTRY


def opened(model: Any) -> LiveModel:
    return open_model(model, tokenizer())


def own(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[5, 9, 12, 5, 30, 7]])).logits


def test_the_entry_is_wrapped_once_for_two_models_and_given_back_with_the_last() -> None:
    original = REGISTRY["sdpa"]
    one, two = gpt2(), llama()
    with untouched(one), untouched(two):
        first = opened(one)
        wrapped = REGISTRY["sdpa"]
        assert isinstance(wrapped, GatedAttention)
        assert wrapped.original is original
        second = opened(two)
        assert REGISTRY["sdpa"] is wrapped
        first.release()
        assert REGISTRY["sdpa"] is wrapped
        assert second.run(PROMPT, [CUT]).receipts[0].state == "acted"
        with pytest.raises(iw.ClosedError):
            first.run(PROMPT)
        second.release()
    assert REGISTRY["sdpa"] is original


def test_an_edit_of_one_model_is_not_seen_by_another_of_the_same_implementation() -> None:
    one, two = llama(), llama(num_hidden_layers=2)
    plain = own(two)
    live, other = opened(one), opened(two)
    seen: list[torch.Tensor] = []
    handle = one.model.layers[1].self_attn.register_forward_hook(lambda *_: seen.append(own(two)))
    live.run(PROMPT, [CUT])  # the other model runs while the edit is in force
    handle.remove()
    assert seen
    assert all(torch.equal(x, plain) for x in seen)
    assert torch.equal(other.run(PROMPT).logits, plain[0])
    live.release()
    other.release()


def test_nothing_of_the_configuration_is_written_while_patterns_are_read_and_written() -> None:
    model = llama()
    before = model.config.to_dict(), model.config._attn_implementation
    live = opened(model)
    run = live.run(PROMPT, [CUT], read=["L1.pattern"])
    assert (model.config.to_dict(), model.config._attn_implementation) == before
    assert float(run["L1.pattern"][1, 4, 2]) == 0.0
    assert torch.equal(own(model)[0], live.run(PROMPT).logits)
    live.release()
    assert (model.config.to_dict(), model.config._attn_implementation) == before


def test_an_entry_that_its_owner_replaced_while_open_is_not_taken_back() -> None:
    """Whoever registers an attention of their own keeps it."""
    original = REGISTRY["sdpa"]

    def theirs(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    live = opened(llama())
    REGISTRY["sdpa"] = theirs
    live.release()
    assert REGISTRY["sdpa"] is theirs
    REGISTRY["sdpa"] = original


def test_an_attention_of_ones_own_that_is_registered_is_wrapped_like_any_other() -> None:
    sdpa, calls = REGISTRY["sdpa"], 0

    def theirs(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return sdpa(*args, **kwargs)

    REGISTRY["theirs"] = theirs
    model = llama()
    model.config._attn_implementation = "theirs"
    live = opened(model)
    assert not {"patterns read", "patterns written"} & set(live.report.off)
    calls = 0
    assert live.run(PROMPT, [CUT]).receipts[0].state == "acted"
    assert calls == 3
    live.release()
    assert REGISTRY.pop("theirs") is theirs


@pytest.mark.parametrize("maker", [gpt2, llama], ids=["gpt2", "llama"])
def test_patterns_are_those_of_eager_attention_and_the_logits_stay_the_kernels(maker: Callable[[], Any]) -> None:
    model, twin = maker(), maker()
    twin.set_attn_implementation("eager")
    plain = own(model)
    with torch.no_grad():
        expected = twin(torch.tensor([[5, 9, 12, 5, 30, 7]]), output_attentions=True).attentions
    live = opened(model)
    run = live.run(PROMPT, read=[f"L{i}.pattern" for i in range(3)])
    assert torch.equal(run.logits, plain[0])
    for i, pattern in enumerate(expected):
        assert float((run[f"L{i}.pattern"] - pattern[0]).abs().max()) < 1e-6
    live.release()


def test_a_model_that_attends_eagerly_is_read_and_leaves_the_registry_alone() -> None:
    model, before = gpt2(), dict(REGISTRY)
    model.set_attn_implementation("eager")
    live = opened(model)
    assert before == REGISTRY
    assert live.run(PROMPT, read=["L1.pattern"])["L1.pattern"].shape == (4, 6, 6)
    with pytest.raises(iw.FeatureOffError, match=r"patterns written is off .*\(eager\)"):
        live.run(PROMPT, [CUT])
    live.release()


def test_a_model_that_changes_its_attention_while_open_gives_back_what_was_wrapped() -> None:
    model, original = llama(), REGISTRY["sdpa"]
    live = opened(model)
    model.set_attn_implementation("eager")
    assert live.run(PROMPT).logits.shape[0] == 6
    live.release()
    assert REGISTRY["sdpa"] is original
