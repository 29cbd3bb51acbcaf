"""Direct effects: they close, and each is the dot product that its definition says."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from interp_widgets.builtin.known import known
from interp_widgets.methods.direct import direct_effects
from interp_widgets.model.errors import FeatureOffError
from interp_widgets.model.interventions import Ablate, Steer
from interp_widgets.model.live import open_model
from interp_widgets.model.question import Asked, Metric, Question
from tests.unit import tiny_models
from tests.unit.sweep_models import FAMILIES, ask, opened


@pytest.mark.parametrize("family", FAMILIES)
def test_all_parts_and_the_remainder_are_the_metric_and_the_remainder_is_rounding(family: str) -> None:
    with opened(FAMILIES[family]()) as live:
        asked = ask(live)
        parts = direct_effects(live, asked)
        total = (
            parts.embed
            + parts.heads.sum()
            + parts.mlps.sum()
            + parts.attention_bias.sum()
            + parts.other.sum()
            + parts.bias
        )
        assert total + parts.remainder == pytest.approx(parts.metric, abs=1e-9)
        assert parts.metric == pytest.approx(float(asked.metric.of(live.answer(asked).logits[None])[0]), abs=1e-5)
        size = max(1.0, np.abs(parts.heads).max(), np.abs(parts.mlps).max())
        if live.anatomy.softcap is None:
            assert abs(parts.remainder) <= 2e-5 * size
        assert np.abs(parts.other).max() <= 2e-5 * size  # nothing else is added in these families


def test_a_head_is_the_dot_product_of_its_write_with_the_direction_of_the_metric() -> None:
    module = tiny_models.gpt2()
    with opened(module) as live:
        asked = ask(live)
        parts = direct_effects(live, asked)
        run = live.run(asked.prompt, read=["L1.heads", "L2", "L1.mlp", "final.norm"])
        weight = module.lm_head.weight
        unembed = (weight[17] - weight[23]).detach()
        norm = module.transformer.ln_f
        direction = norm.weight.detach() * unembed
        direction = direction - direction.mean()  # the norm takes the mean away
        scale = run["final.norm"][-1]
        projection = module.transformer.h[1].attn.c_proj.weight.detach()
        for head in range(4):
            written = run["L1.heads"][-1, head] @ projection[head * 8 : head * 8 + 8]
            assert parts.heads[1, head] == pytest.approx(float(written @ direction / scale), abs=1e-5)
        assert parts.mlps[1] == pytest.approx(float(run["L1.mlp"][-1] @ direction / scale), abs=1e-5)
        assert parts.bias == pytest.approx(float(norm.bias.detach() @ unembed), abs=1e-5)
        assert parts.scale == pytest.approx(float(scale), rel=1e-6)


def test_a_head_of_a_sandwich_norm_is_taken_through_it_at_the_scale_of_the_run() -> None:
    with opened(FAMILIES["gemma2, sandwich norms, soft cap, sliding"]()) as live:
        attention = live.anatomy.layers[1].attention
        assert attention is not None
        assert attention.norm is not None
        parts = direct_effects(live, ask(live))
        assert np.isfinite(parts.heads).all()
        assert np.abs(parts.attention_bias).max() <= 1e-5  # these projections have no bias
        assert abs(parts.remainder) > 1e-6  # the soft cap is in it


@pytest.mark.parametrize("name", ["induction", "induction-llama", "self-repair-both"])
def test_on_a_known_circuit_direct_effects_are_the_closed_forms(name: str) -> None:
    module, words, circuit = known(name)
    live = open_model(module, words)
    try:
        tokens = live.tokens.encode(circuit.prompt)
        target, foil = (live.tokens.one("target", t) for t in (circuit.target, circuit.foil))
        asked = Asked(circuit.prompt, tokens, Metric((target.id,), (foil.id,)), (target,), (foil,), len(tokens) - 1)
        parts = direct_effects(live, asked)
        for site, value in circuit.answers.items():
            if site.startswith("direct:L") and "H" in site:
                layer, head = (int(n) for n in site.removeprefix("direct:L").split("H"))
                assert parts.heads[layer, head] == pytest.approx(value, abs=1e-3)
    finally:
        live.release()


def test_what_is_on_is_in_the_parts() -> None:
    with opened(tiny_models.llama()) as live:
        asked = ask(live)
        v = torch.randn(32, generator=torch.Generator().manual_seed(1))
        on = [Ablate("L1H2", mode="zero"), Steer("L0", v, 0.5, positions="all"), Ablate("L2.mlp", mode="zero")]
        parts = direct_effects(live, asked, on)
        assert parts.heads[1, 2] == 0.0
        assert parts.mlps[2] == 0.0
        assert abs(parts.other[0]) > 1e-3  # the push
        assert parts.metric == pytest.approx(float(asked.metric.of(live.answer(asked, on).logits[None])[0]), abs=1e-5)
        assert abs(parts.remainder) <= 1e-4


@pytest.mark.parametrize("metric", [Metric((17,)), Metric((17, 18), (23, 24))])
def test_a_mean_logit_closes_and_several_tokens_leave_their_curvature_in_the_remainder(metric: Metric) -> None:
    with opened(tiny_models.gpt2()) as live:
        asked = dataclasses.replace(ask(live), metric=metric)
        parts = direct_effects(live, asked)
        assert parts.metric == pytest.approx(float(metric.of(live.answer(asked).logits[None])[0]), abs=1e-5)
        assert (abs(parts.remainder) <= 1e-4) == (len(metric.target) == 1)


def test_a_metric_of_ones_own_has_no_direction() -> None:
    def entropy(logits: Any) -> float:
        return float(torch.distributions.Categorical(logits=logits).entropy())

    with opened(tiny_models.gpt2()) as live:
        asked = dataclasses.replace(ask(live), metric=Metric((17,), (), entropy))
        with pytest.raises(FeatureOffError, match="'entropy' is a function of one's own"):
            direct_effects(live, asked)


def test_a_prompt_set_gives_means() -> None:
    with opened(tiny_models.gpt2()) as live:
        one, two = ask(live), ask(live, "w8 w3 w40 w2")
        both = direct_effects(live, Question((one, two)))
        single = [direct_effects(live, a) for a in (one, two)]
        np.testing.assert_allclose(both.heads, (single[0].heads + single[1].heads) / 2)
        assert both.n == 2


def test_the_parts_read_as_a_data_frame_that_sums_to_the_metric() -> None:
    with opened(tiny_models.gpt2()) as live:
        parts = direct_effects(live, ask(live))
        assert parts.to_pandas()["direct effect"].sum() == pytest.approx(parts.metric, abs=1e-9)
