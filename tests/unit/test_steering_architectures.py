"""The identities of steering on models that are not GPT-2 or Llama: recurrent mixers, experts, further norms and scales."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from interp_widgets.methods.dose_response import dose_response
from interp_widgets.methods.steering import across
from interp_widgets.model.errors import FeatureOffError, SiteError
from interp_widgets.model.interventions import Edit, Steer
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.question import Asked, Metric
from interp_widgets.model.sites import Site
from tests import architectures
from tests.unit.tiny_models import tokenizer

PROMPT = [70, 81, 92, 103, 75, 81, 99, 64, 88]
# Sandwich norms and caps; parallel blocks; attention beside a recurrent mixer, or one after the other; recurrence alone;
# experts; a multiplied stream with two further writes; a stream that per-layer inputs are added to.
KINDS = [
    "gemma2", "gpt_neox", "falcon_h1", "jamba", "mamba", "gpt_oss", "granitemoehybrid", "gemma4_text", "nemotron_h",
]  # fmt: skip


def opened(kind: str) -> LiveModel:
    built = architectures.build(kind)
    if built.model is None:
        pytest.skip(built.reason)
    with architectures.quiet():
        return open_model(built.model, tokenizer(architectures.VOCAB))


@pytest.fixture(scope="module", params=KINDS)
def live(request: pytest.FixtureRequest) -> Iterator[LiveModel]:
    model = opened(request.param)
    yield model
    model.release()


def direction(live: LiveModel) -> torch.Tensor:
    return torch.randn(live.anatomy.d_model, generator=torch.Generator().manual_seed(3))


def out_of_every_write(live: LiveModel) -> tuple[Steer, ...]:
    return across(live, Steer("L0", direction(live), mode="project_out", positions="all"), "writes")


def test_projecting_out_at_every_write_leaves_nothing_of_the_direction_in_any_stream(live: LiveModel) -> None:
    streams = [f"L{layer.index}" for layer in live.anatomy.layers]
    unit = direction(live) / direction(live).norm()
    run = live.run(PROMPT, out_of_every_write(live), read=streams)
    plain = live.run(PROMPT, read=streams)
    for name in streams:
        assert float((run[name] @ unit).abs().max()) <= 1e-6 * float(run[name].norm(dim=-1).max())
        assert float((plain[name] @ unit).abs().max()) > 1e-3 * float(plain[name].norm(dim=-1).max())
    assert {receipt.state for receipt in run.receipts} == {"acted"}


def test_a_push_twice_is_the_push_of_the_sum_and_one_of_strength_0_is_nothing(live: LiveModel) -> None:
    push = direction(live).numpy()
    plain = live.run(PROMPT).logits
    assert torch.equal(live.run(PROMPT, [Steer("L1", push, 0.0)]).logits, plain)
    both = live.run(PROMPT, [Steer("L1", push, 0.3), Steer("L1", push, 0.9)]).logits
    once = live.run(PROMPT, [Steer("L1", push, 1.2)]).logits
    assert float((both - once).abs().max()) <= 1e-6 * max(1.0, float(once.abs().max()))
    assert float((plain - once).abs().max()) > 1e-3 * float(once.abs().max())


@pytest.mark.parametrize("kind", ["jamba", "mamba"])
def test_without_the_direction_in_its_weights_a_recurrent_model_is_the_one_it_is_projected_out_of(kind: str) -> None:
    live = opened(kind)
    try:
        other: Any = copy.deepcopy(live.module)
        unit = (direction(live) / direction(live).norm()).double()
        with torch.no_grad():
            for name, weight in other.named_parameters():
                wide = weight.double()
                if "embed" in name:
                    weight.copy_(wide - (wide @ unit)[:, None] * unit)
                elif any(part in name for part in ("mixer.out_proj", "mamba.out_proj", "o_proj", "down_proj")):
                    along = (unit[:, None] * wide).sum(-2, keepdim=True)
                    weight.copy_(wide - unit[:, None] * along)
            right = other(input_ids=torch.tensor([PROMPT])).logits[0]
        ours = live.run(PROMPT, out_of_every_write(live)).logits
        assert float((ours - right).abs().max()) <= 2e-6 * float(right.abs().max())
        assert float((live.run(PROMPT).logits - right).abs().max()) > 1e-3 * float(right.abs().max())
    finally:
        live.release()


@pytest.mark.parametrize("kind", ["zamba2", "bart"])
def test_where_not_every_write_is_known_it_is_refused_rather_than_done_in_part(kind: str) -> None:
    live = opened(kind)
    try:
        with pytest.raises(FeatureOffError, match=r'"writes" is off .*over="layers"'):
            out_of_every_write(live)
    finally:
        live.release()


def test_what_a_recurrent_mixer_adds_is_a_site_like_any_other() -> None:
    live = opened("falcon_h1")
    try:
        push = direction(live).numpy()
        mixer = Site.parse("L0.other.0")
        assert (mixer, mixer.name) == (Site("other", 0, 0), "L0.other.0")
        run = live.run(
            PROMPT, [Edit(mixer, torch.zeros_like, name="none")], read=[mixer, "L0.attn", "L0.mlp", "L0.pre", "L0"]
        )
        parts = [run[name] for name in ("L0.pre", "L0.attn", "L0.mlp")]
        assert not run[mixer].any()
        assert torch.allclose(
            sum(parts, torch.zeros_like(parts[0])), run["L0"], atol=1e-5 * float(run["L0"].abs().max())
        )
        asked = one_question(live)
        curve = dose_response(live, asked, Steer(mixer, push, positions="all"), [-1.0, 0.5], randoms=0)
        for strength, metric in zip((-1.0, 0.5), curve.metric, strict=True):
            now = live.run(PROMPT, [Steer(mixer, push, strength, positions="all")]).logits[None, -1]
            assert float(metric) == pytest.approx(float(asked.metric.of(now)[0]), abs=1e-3)
        with pytest.raises(SiteError, match=r"L0\.other\.1 does not exist: L0\.other\.0 to 0"):
            live.run(PROMPT, read=["L0.other.1"])
        with pytest.raises(SiteError, match="which of them"):
            Site("other", 0)
        with pytest.raises(SiteError, match="no name for"):
            _ = mixer.lens_name
    finally:
        live.release()


def one_question(live: LiveModel) -> Asked:
    tokens = live.tokens.encode(PROMPT)
    return Asked("", tokens, Metric((70,), (71,)), (tokens[0],), (tokens[1],), len(tokens) - 1)
