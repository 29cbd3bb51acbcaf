"""The checks on attach: models that a fast path or a pattern must be right for, and faults that they must notice."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import interp_widgets as iw
from interp_widgets.builtin.known import known
from interp_widgets.methods.direct import direct_effects
from interp_widgets.methods.head_effects import head_effects
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.question import Asked, Metric
from interp_widgets.model.reads import norm_scale
from tests import architectures
from tests.unit.tiny_models import gpt2, llama, tokenizer

PROMPT = "w70 w90 w112 w75 w90 w101 w88"


def tiny(name: str) -> Any:
    model = architectures.build(name).model
    assert model is not None
    return model


@contextmanager
def opened(model: Any) -> Generator[LiveModel]:
    live = open_model(model, tokenizer(model.get_input_embeddings().num_embeddings))
    try:
        yield live
    finally:
        live.release()


def asked(live: LiveModel) -> Asked:
    tokens = live.tokens.encode(PROMPT)
    return Asked(PROMPT, tokens, Metric((20,), (30,)), (), (), len(tokens) - 1)


def off(model: Any) -> dict[str, str]:
    with opened(model) as live:
        return live.report.off


def returning(module: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let an attention module hand on another pattern than it used."""
    forward = module.forward

    def changed(*args: Any, **kwargs: Any) -> Any:
        out, pattern, *rest = forward(*args, **kwargs)
        return (out, change(pattern), *rest)

    module.forward = changed


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().max() / b.float().abs().max())


# ---- from the last block to the logits ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["minicpm3", "bart", "roberta", "nanochat", "modernbert-decoder", "openai-gpt"])
def test_a_replayed_edit_of_the_last_stream_is_the_whole_models(name: str) -> None:
    """A scaled hidden state, no final norm, a norm that serves twice, a head of several layers: all before the logits."""
    with opened(tiny(name)) as live:
        assert not {"replay", "growing batch", "split block"} & set(live.report.off)
        vector = torch.linspace(-1, 1, live.anatomy.d_model)
        for layer in range(len(live.anatomy.layers)):
            edit = iw.Steer(f"L{layer}", vector, 2.0, positions="all")
            run = live.run(PROMPT, [edit])
            assert run.receipts[0].state == "acted"
            assert relative(live.answer(asked(live), [edit]).logits, run.logits[-1]) < 2e-6
            assert relative(run.logits[-1], live.run(PROMPT).logits[-1]) > 1e-3


@pytest.mark.parametrize("name", ["bart", "minicpm3", "openai-gpt", "opt", "llama4_text", "nanochat"])
def test_a_sweep_is_one_by_one_also_where_rows_and_positions_share_a_dimension(name: str) -> None:
    with opened(tiny(name)) as live:
        assert "read position only" not in live.report.off
        question = asked(live)
        table = head_effects(live, question, mode="zero")
        plain = float(question.metric.of(live.run(PROMPT).logits[-1:])[0])
        for layer, head in ((0, 0), (0, 3), (1, 1), (1, 2)):
            alone = live.run(PROMPT, [iw.Ablate(f"L{layer}H{head}", mode="zero")]).logits[-1:]
            assert table.effects[layer, head] == pytest.approx(plain - float(question.metric.of(alone)[0]), abs=1e-4)


def test_the_last_stream_of_a_model_without_a_final_norm_is_what_its_last_block_gives() -> None:
    model = tiny("openai-gpt")
    caught: list[torch.Tensor] = []
    with opened(model) as live:
        handle = live.anatomy.layers[-1].module.register_forward_hook(lambda _m, _a, out: caught.append(out[0]))
        run = live.run(PROMPT, read=["L1"])
        handle.remove()
    assert torch.equal(run["L1"], caught[0][0])


@pytest.mark.parametrize("name", ["bart", "roberta", "openai-gpt", "minicpm3"])
def test_the_script_of_plain_hooks_reaches_the_last_stream_too(name: str) -> None:
    model = tiny(name)
    session = iw.open(model, tokenizer(architectures.VOCAB))
    question = session.ask(PROMPT, target="w20", foil="w30")
    plain = float(question.first.metric.of(session.model.run(PROMPT).logits[-1:])[0])
    session.set(iw.Steer("L1", torch.linspace(-1, 1, 64), 2.0), iw.Ablate("L0H1", mode="zero"))
    scope: dict[str, Any] = {"model": model}
    exec(session.to_code("torch"), scope)
    assert scope["metric"] == pytest.approx(session.answer.metric, abs=1e-4)
    assert abs(scope["metric"] - plain) > 1e-2
    session.close()


@pytest.mark.parametrize("name", ["bert", "electra"])
def test_an_edit_before_a_head_that_is_given_one_position_only_acts_at_its_own_positions(name: str) -> None:
    with opened(tiny(name)) as live:
        edit = iw.Steer("L1", torch.ones(live.anatomy.d_model), 3.0, positions=[len(live.tokens.encode(PROMPT)) - 1])
        answer = live.answer(asked(live), [edit])
        assert answer.receipts[0].positions == 1
        assert relative(answer.logits, live.run(PROMPT, [edit]).logits[-1]) < 2e-6


def test_a_state_that_blocks_hand_on_beside_the_stream_is_noticed() -> None:
    """Zaya's router passes a state from block to block, which a replay with recorded arguments would hold fixed."""
    with opened(tiny("zaya")) as live:
        assert {"replay", "stream alone"} <= set(live.report.off)
        edit = iw.Ablate("L0H0", mode="zero")
        assert relative(live.answer(asked(live), [edit]).logits, live.run(PROMPT, [edit]).logits[-1]) < 2e-6


def test_inputs_of_every_layer_beside_the_stream_are_noticed() -> None:
    assert "by another way" in off(tiny("gemma4_text"))["stream alone"]
    assert "stream alone" not in off(tiny("gemma2"))


# ---- direct effects ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["minicpm3", "olmo", "granite", "gpt2"])
def test_direct_effects_close_also_behind_a_scaled_or_parameterless_norm(name: str) -> None:
    with opened(tiny(name)) as live:
        effects = direct_effects(live, asked(live))
        assert abs(effects.remainder) < 1e-4
        assert abs(effects.heads).max() > 1e-3


@pytest.mark.parametrize(("name", "why"), [("bart", "normalises the stream"), ("inkling_text", "it is no norm")])
def test_direct_effects_that_would_not_be_a_sum_are_off(name: str, why: str) -> None:
    with opened(tiny(name)) as live, pytest.raises(iw.FeatureOffError, match=why):
        direct_effects(live, asked(live))


@pytest.mark.parametrize("eps", [1e-3, 1e-5, 1e-6])
def test_what_a_norm_adds_to_the_variance_is_found_where_it_does_not_say(eps: float) -> None:
    class Silent(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=eps)

    x = torch.randn(1, 4, 64) * 0.01
    expected = (x.var(-1, correction=0) + eps).sqrt()
    assert torch.allclose(norm_scale(Silent(), x, centred=True), expected, rtol=1e-4)


def test_a_final_norm_is_found_where_every_stream_has_one_length() -> None:
    """In the modular-addition clock the norm divides all streams by one number, as a mere factor would."""
    model, words, _ = known("clock-23")
    live = open_model(model, words)
    assert live.anatomy.final_norm is model.model.norm
    assert live.anatomy.hidden_scale == 1.0
    assert live.report.ok, str(live.report)
    live.release()


# ---- models without heads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jetmoe", "mamba", "qwen4_exp_text"])
def test_a_model_without_heads_opens_and_says_what_it_lacks(name: str) -> None:
    with opened(tiny(name)) as live:
        assert "no layer" in live.report.off["heads"]
        assert "no layer" in live.report.off["patterns read"]
        assert live.report.off["patterns written"]
        edit = iw.Steer("L0", torch.ones(live.anatomy.d_model), 1.0)
        run = live.run(PROMPT, [edit])
        assert relative(live.answer(asked(live), [edit]).logits, run.logits[-1]) < 2e-6
        with pytest.raises(iw.FeatureOffError, match="does not exist"):
            live.run(PROMPT, [iw.Ablate("L0H0", mode="zero")])


# ---- patterns ---------------------------------------------------------------------------------------------------------


def test_a_pattern_whose_rows_leave_room_for_a_sink_is_read() -> None:
    with opened(tiny("gpt_oss")) as live:
        assert "patterns read" not in live.report.off
        pattern = live.run(PROMPT, read=["L1.pattern"])["L1.pattern"]
        assert float(pattern.sum(-1).max()) < 1.0
        assert float(pattern.sum(-1).min()) > 0.0


def test_a_pattern_that_the_values_do_not_bear_out_is_not_believed() -> None:
    model = tiny("gpt_oss")
    for layer in model.model.layers:
        returning(layer.self_attn, lambda pattern: pattern * 0.9)
    assert "pattern · v = z" in off(model)["patterns read"]


def test_a_pattern_that_looks_ahead_is_not_believed() -> None:
    model = gpt2()
    model.set_attn_implementation("eager")
    for block in model.transformer.h:
        returning(block.attn, lambda pattern: pattern.flip(-1))
    assert "nobody looks ahead" in off(model)["patterns read"]


def test_attention_that_returns_its_pattern_is_read_and_not_written() -> None:
    sdpa, eager = gpt2(), gpt2()
    eager.set_attn_implementation("eager")
    with opened(sdpa) as one, opened(eager) as two:
        assert "registry" in two.report.off["patterns written"]
        ids = torch.randint(2, 61, (1, 6), generator=torch.Generator().manual_seed(0))[0].tolist()
        a, b = one.run(ids, read=["L1.pattern"]), two.run(ids, read=["L1.pattern"])
        assert torch.allclose(a["L1.pattern"], b["L1.pattern"], atol=1e-6)
        with pytest.raises(iw.FeatureOffError, match="registry"):
            two.run(ids, [iw.Ablate("L1H0", mode="edge", edge=(3, 1))])


def test_attention_of_its_own_says_that_it_bypasses_the_registry() -> None:
    assert "FalconForCausalLM does not return" in (reasons := off(tiny("falcon")))["patterns read"]
    assert "does not go through" in reasons["patterns written"]


def test_the_attention_of_the_language_part_decides_and_not_that_of_the_whole() -> None:
    """The vision part runs eagerly, and the model as a whole says so too."""
    model = tiny("got_ocr2")
    assert model.config._attn_implementation == "eager"
    with opened(model) as live:
        assert live.attention_implementation == "sdpa"
        assert not {"patterns read", "patterns written"} & set(live.report.off)


def test_a_norm_over_all_heads_does_not_switch_patterns_off() -> None:
    with opened(tiny("bitnet")) as live:
        assert "patterns written" not in live.report.off
        cut = iw.Ablate("L0H2", mode="edge", edge=(4, 2))
        run = live.run(PROMPT, [cut], read=["L0.pattern"])
        assert run.receipts[0].state == "acted"
        assert float(run["L0.pattern"][2, 4, 2]) == 0.0


# ---- faults that must be noticed --------------------------------------------------------------------------------------


def test_a_block_that_remembers_its_calls_is_not_replayed() -> None:
    model = llama()
    calls = 0

    def drift(_m: Any, _a: Any, out: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return out * (1 + 0.01 * calls)

    model.model.layers[1].mlp.register_forward_hook(drift)
    reasons = off(model)
    assert {"edits", "replay", "growing batch"} <= set(reasons)
    assert "leaves no trace" in reasons["edits"]


def test_rows_that_see_each_other_do_not_grow() -> None:
    model = llama()
    model.model.layers[1].mlp.register_forward_hook(lambda _m, _a, out: out + 0.1 * (out.mean(0, keepdim=True) - out))
    reasons = off(model)
    assert "replay" not in reasons
    assert "growing batch" in reasons
