"""Direct attribution by source token: parts close exactly, each equals its definition, and edits are told apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from interp_widgets.builtin.known import known
from interp_widgets.methods.attribution import attribute
from interp_widgets.methods.direct_tokens import direct_by_source
from interp_widgets.methods.words import signed
from interp_widgets.model.errors import FeatureOffError
from interp_widgets.model.interventions import Ablate, Patch, Steer
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.question import Asked, Metric
from tests import architectures, matrix
from tests.unit.attribution_models import FAMILIES, asked, model, tokenizer
from tests.unit.test_attribution_lrp import bias_free


@pytest.fixture(params=FAMILIES)
def live(request: pytest.FixtureRequest) -> Iterator[LiveModel]:
    opened = open_model(model(request.param), tokenizer())
    yield opened
    opened.release()


def test_all_parts_sum_to_the_metric(live: LiveModel) -> None:
    d = direct_by_source(live, asked(live, position=5))
    assert abs(d.error) < 4e-6
    assert np.abs(d.sources).max() > 0.05
    assert (d.sources[:, :, 6:] == 0).all()
    assert (d.replaced == 0).all()


@pytest.mark.parametrize("family", ["gemma3_text", "granite", "cohere", "olmo2", "opt", "mixtral", "phi3"])
def test_multipliers_and_norms_behind_attention_need_no_code_of_their_own(family: str) -> None:
    live = open_model(bias_free(family), tokenizer())
    d = direct_by_source(live, asked(live))
    assert abs(d.error) < 4e-6 * max(1.0, np.abs(d.sources).sum())
    live.release()


def test_a_source_is_pattern_times_value_times_output_times_direction() -> None:
    """By hand on GPT-2, from the weights alone."""
    live = open_model(model("gpt2"), tokenizer())
    question, q = asked(live), 7
    d = direct_by_source(live, question)
    module: Any = live.module
    run = live.run([t.id for t in question.tokens], read=["L1.pattern", "L1.v", "L2"])
    stream = run["L2"][q]
    sigma = (stream.var(unbiased=False) + module.config.layer_norm_epsilon).sqrt()
    gain = module.transformer.ln_f.weight.detach() * (module.lm_head.weight[7] - module.lm_head.weight[8]).detach()
    u = (gain - gain.mean()) / sigma  # dropping the mean of the stream is dropping it from the direction
    width = 48 // 4
    for head in range(4):
        out = module.transformer.h[1].attn.c_proj.weight[head * width : (head + 1) * width].detach() @ u
        expected = run["L1.pattern"][head, q] * (run["L1.v"][:, head] @ out)
        np.testing.assert_allclose(d.sources[1, head], expected.numpy(), atol=2e-6)
    live.release()


def test_what_an_edit_put_into_a_head_is_told_apart_from_what_the_head_carried(live: LiveModel) -> None:
    edit = Ablate("L1H2", mode="zero")
    d = direct_by_source(live, asked(live), (edit,))
    assert abs(d.error) < 4e-6
    assert d.heads[1, 2] == pytest.approx(0.0, abs=1e-6)
    assert d.replaced[1, 2] == pytest.approx(-d.sources[1, 2].sum())
    assert np.count_nonzero(d.replaced) == 1
    assert d.explains == "edited run"


def edits_of(kind: str) -> tuple[Any, ...]:
    torch.manual_seed(5)
    direction = torch.randn(48).tolist()
    return {
        "add": (Steer("L0", direction, 3.0, positions="all"),),
        "last": (Steer("L2", direction, 3.0, positions="all"),),
        "project out": (Steer("L1", direction, mode="project_out", positions="all"),),
        "clamp": (Steer("L1", direction, 2.0, mode="clamp", positions="all"),),
        "first": (Steer("L0.pre", direction, 1.5, positions="all"),),
        "attention": (Steer("L1.attn", direction, 2.0, positions="all"), Ablate("L0H1", mode="zero")),
        "mlp": (Steer("L1.mlp", direction, mode="project_out", positions="all"), Steer("L0.mlp", direction)),
        "patch": (Patch("L1", torch.randn(8, 48), positions="all"), Patch("L2.mlp", torch.randn(8, 48))),
        "all": (
            Patch("L0.attn", torch.randn(8, 48)),
            Ablate("L1H2", mode="zero"),
            Steer("L1", direction, 2.0),
            Steer("L2", direction),
        ),
    }[kind]


@pytest.mark.parametrize("kind", ["add", "last", "project out", "clamp", "first", "attention", "mlp", "patch", "all"])
def test_what_edits_of_the_stream_wrote_is_a_part_and_the_sum_still_closes(live: LiveModel, kind: str) -> None:
    d = direct_by_source(live, asked(live), edits_of(kind))
    assert d.explains == "edited run"
    assert abs(d.error) < 4e-6 * max(1.0, abs(d.metric), np.abs(d.edits).max())
    assert kind == "project out" or np.abs(d.edits).max() > 0.01


def test_a_vector_that_is_added_at_the_end_is_worth_what_it_is_along_the_direction_of_the_answer() -> None:
    live = open_model(model("gpt2"), tokenizer())
    vector = torch.randn(48, generator=torch.Generator().manual_seed(1))
    question = asked(live)
    module: Any = live.module
    edit = Steer("L2", vector.tolist(), 2.0, positions="all")
    d = direct_by_source(live, question, (edit,))
    stream = live.run([t.id for t in question.tokens], (edit,), read=["L2"])["L2"][-1]
    sigma = (stream.var(unbiased=False) + module.config.layer_norm_epsilon).sqrt()
    gain = module.transformer.ln_f.weight.detach() * (module.lm_head.weight[7] - module.lm_head.weight[8]).detach()
    expected = float(2.0 * vector @ (gain - gain.mean()) / sigma)
    assert d.edits.tolist() == pytest.approx([0.0, 0.0, expected], abs=1e-5)
    assert f"edits {signed(expected)}" in attribute(live, question, (edit,), method="direct").line
    live.release()


def test_on_the_known_circuit_one_head_carries_everything_from_one_token() -> None:
    built, words, circuit = known("induction")
    live = open_model(built, words)
    d = direct_by_source(live, asked(live, circuit.prompt, circuit.target, circuit.foil))
    assert d.carriers(3, 1) == [("L1H0", pytest.approx(42.4264, abs=1e-3))]
    np.testing.assert_allclose(d.by_token, [0, 0, 0, d.metric, 0, 0, 0, 0, 0, 0], atol=1e-4)
    a = attribute(live, asked(live, circuit.prompt, circuit.target, circuit.foil), method="direct")
    assert "what sits there may come from other tokens" in a.line
    live.release()


def test_nothing_of_the_model_changes(live: LiveModel) -> None:
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in live.module.modules()]
    question = asked(live)
    d = direct_by_source(live, question)
    assert d.metric == pytest.approx(float(question.metric.of(live.answer(question).logits[None])), abs=1e-6)
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in live.module.modules()]
    assert all(p.grad is None and p.requires_grad for p in live.module.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_an_attention_of_the_models_own_carries_what_the_wrapped_one_carries(family: str) -> None:
    found: list[Any] = []
    for implementation in ("sdpa", "eager"):
        built = model(family)
        built.set_attn_implementation(implementation)
        live = open_model(built, tokenizer())
        found.append(direct_by_source(live, asked(live, position=6), (Ablate("L1H0", mode="zero"),)))
        live.release()
    assert np.abs(found[0].sources).max() > 0.05
    np.testing.assert_allclose(found[0].sources, found[1].sources, atol=2e-6)
    np.testing.assert_allclose(found[0].replaced, found[1].replaced, atol=2e-6)


@pytest.mark.parametrize("name", ["bloom", "falcon", "gptj", "gpt_neo", "gpt_oss", "mpt", "gemma2", "xglm", "codegen"])
def test_families_whose_attention_never_reaches_the_registry_are_split_by_source_too(name: str) -> None:
    """What is seen where softmax's output meets the values is what the heads wrote: nothing is left over."""
    built: Any = architectures.build(name).model
    assert built is not None
    if hasattr(built.config, "final_logit_softcapping"):
        built.config.final_logit_softcapping = None  # with a cap the metric is not linear
    with architectures.quiet():
        live = open_model(built, matrix.tokenizer(architectures.VOCAB))
    question = Asked("", live.tokens.encode([20, 40, 60, 80, 21, 41]), Metric((30,), (31,)), (), (), 4)
    d = direct_by_source(live, question)
    assert abs(d.error) < 4e-6
    assert (d.replaced == 0).all()
    assert (d.sources[:, :, 5:] == 0).all()
    assert np.abs(d.sources).max() > 0.01
    live.release()


def test_a_model_that_does_not_show_its_patterns_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(_module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **_how: Any) -> Any:
        wide = (query.shape[1] // key.shape[1], 1)
        scores = query @ key.repeat_interleave(wide[0], 1).transpose(2, 3) * scaling + mask
        pattern = scores.softmax(-1)
        values = value.repeat_interleave(wide[0], 1)
        return (pattern[..., None] * values[:, :, None]).sum(3).transpose(1, 2), pattern

    built = model("llama")
    built.set_attn_implementation("eager")
    live = open_model(built, tokenizer())
    monkeypatch.setattr("transformers.models.llama.modeling_llama.eager_attention_forward", odd)
    with pytest.raises(FeatureOffError, match="nor multiplies what softmax gave"):
        direct_by_source(live, asked(live))
    live.release()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("roberta-prelayernorm", "direct"), ("modernbert-decoder", "direct")],
)
def test_where_the_parts_would_not_sum_to_the_metric_that_is_said_instead(name: str, sentence: str) -> None:
    """Read-outs with a layer of their own behind the stream."""
    built = architectures.build(name).model
    assert built is not None
    with architectures.quiet():
        live = open_model(built, matrix.tokenizer(architectures.VOCAB))
    question = Asked("", live.tokens.encode([20, 40, 60, 80]), Metric((30,), (31,)), (), (), 3)
    with pytest.raises(FeatureOffError, match=sentence):
        direct_by_source(live, question)
    live.release()
