"""CP-LRP: it conserves where it must, changes no number of the forward, and says where it has no rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from interp_widgets.methods.attribution import attribute
from interp_widgets.model.errors import FeatureOffError
from interp_widgets.model.interventions import Ablate, Steer
from interp_widgets.model.live import open_model
from tests.unit.attribution_models import asked, model, tokenizer

SMALL: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 0, "final_logit_softcapping": None,
}  # fmt: skip


def bias_free(family: str) -> Any:
    """A model whose stream is fed by tokens alone: biases and position embeddings are zero, gains are not one."""
    if family in ("gpt2", "llama", "neox"):
        built = model(family)
    else:
        torch.manual_seed(1)
        sizes = {name: n for name, n in SMALL.items() if (family, name) != ("falcon", "head_dim")}
        built = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes)).eval()
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if name.endswith("bias") or "wpe" in name:
                weight.zero_()
            elif weight.dim() == 1:
                weight.add_(0.2 * torch.rand_like(weight))
            elif family not in ("gpt2", "llama", "neox"):
                weight.mul_(5)
    return built


@pytest.mark.parametrize(
    "family", ["gpt2", "llama", "neox", "qwen3", "gemma2", "phi3", "olmo2", "starcoder2", "cohere", "bloom", "falcon"]
)
def test_relevance_is_conserved_where_nothing_but_tokens_feeds_the_stream(family: str) -> None:
    live = open_model(bias_free(family), tokenizer())
    a = attribute(live, asked(live), method="lrp")
    assert abs(a.metric) > 0.01
    assert a.sum == pytest.approx(a.metric, abs=2e-5 * np.abs(a.scores).sum())
    live.release()


@pytest.mark.parametrize("family", ["gpt2", "neox", "llama", "gemma2"])
def test_relevance_is_conserved_with_neurons_and_heads_switched_off(family: str) -> None:
    """An edited neuron is no product of two, and a head that is off carries nothing: what is left still sums to the metric."""
    live = open_model(bias_free(family), tokenizer())
    edits = (Ablate("L1.mlp.3", mode="zero"), Ablate("L0.mlp.5", mode="zero"), Ablate("L1H1", mode="zero"))
    a = attribute(live, asked(live), edits, method="lrp")
    assert a.explains == "edited run"
    assert a.sum == pytest.approx(a.metric, abs=2e-5 * np.abs(a.scores).sum())
    live.release()


def test_a_write_that_a_norm_stands_in_front_of_may_be_steered() -> None:
    """Gemma's attention writes through a norm, whose rule is about what the norm gave."""
    live = open_model(bias_free("gemma3_text"), tokenizer())
    steer = Steer("L0.attn", torch.randn(48).tolist(), 1.0, positions="all")
    edited, plain = (attribute(live, asked(live), edits, method="lrp") for edits in ((steer,), ()))
    assert edited.metric != plain.metric
    assert abs(plain.error) < 1e-4 < abs(edited.error), "what was steered in belongs to no token"
    live.release()


def test_the_rules_leave_no_hook_behind_and_change_no_number() -> None:
    built = model("gpt2")
    live = open_model(built, tokenizer())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in built.modules()]
    question = asked(live)
    a = attribute(live, question, method="lrp")
    assert a.metric == float(question.metric.of(live.answer(question).logits[None]))
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in built.modules()]
    built.requires_grad_(False)
    np.testing.assert_array_equal(a.scores, attribute(live, question, method="lrp").scores)
    live.release()


def test_without_the_rules_nothing_is_conserved() -> None:
    """The test above would mean little if gradient × input summed to the metric as well."""
    live = open_model(bias_free("llama"), tokenizer())
    a = attribute(live, asked(live), method="gradient_x_input")
    assert abs(a.error) > 0.05 * abs(a.metric)
    live.release()


def test_a_mixture_of_experts_is_refused_by_name() -> None:
    config = AutoConfig.for_model("mixtral", **SMALL | {"num_local_experts": 4})
    live = open_model(AutoModelForCausalLM.from_config(config).eval(), tokenizer())
    with pytest.raises(FeatureOffError, match="layer 0 has a mixture of experts"):
        attribute(live, asked(live), method="lrp")
    live.release()


def test_the_same_relevance_where_the_model_computes_attention_itself() -> None:
    """Through the wrapper, and with the model's own softmax: two ways to hold one pattern constant."""
    scores: list[np.ndarray[Any, np.dtype[np.float64]]] = []
    for implementation in ("sdpa", "eager"):
        built = model("neox")
        built.set_attn_implementation(implementation)
        live = open_model(built, tokenizer())
        scores.append(attribute(live, asked(live), method="lrp").scores)
        live.release()
    assert np.abs(scores[0]).max() > 0.01
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)
