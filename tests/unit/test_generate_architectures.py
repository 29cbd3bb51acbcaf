"""Every position rule, with the cache and without, alone and beside a shorter prompt, on models of very different kinds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from interp_widgets.model.decode import Decoder, decoding
from interp_widgets.model.generate import generate, generate_many, line_of
from interp_widgets.model.interventions import Steer
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.positions import tokens
from tests import architectures
from tests.unit.tiny_models import tokenizer

# ALiBi; sliding windows; latent attention and experts; recurrent layers beside attention; no cache that can be trusted; a
# cache that padding on the left would spoil.
KINDS = ["bloom", "gemma3_text", "deepseek_v3", "qwen3_next", "mamba", "bart"]
LONG, SHORT = [70, 81, 92, 103, 75, 81, 99], [92, 103, 75, 118]
N = 3


@pytest.fixture(params=KINDS)
def live(request: pytest.FixtureRequest) -> Iterator[LiveModel]:
    built = architectures.build(request.param)
    if built.model is None:
        pytest.skip(built.reason)
    with architectures.quiet():
        opened = open_model(built.model, tokenizer(architectures.VOCAB))
    yield opened
    opened.release()


def decoded(live: LiveModel, steer: Steer, *, use_cache: bool) -> tuple[list[int], torch.Tensor]:
    decoder = Decoder(live, [line_of(live, LONG, [steer])], use_cache)
    logits: list[torch.Tensor] = []
    for _ in range(N):
        logits.append(decoder.step()[0])
        decoder.append([live.tokens.token(int(logits[-1].argmax()))])
    return [t.id for t in decoder.lines[0].tokens[len(LONG) :]], torch.stack(logits)


def ids(texts: Sequence[Any]) -> list[list[int]]:
    return [[t.id for t in text] for text in texts]


def test_text_does_not_depend_on_the_cache_or_on_what_stands_beside_it(live: LiveModel) -> None:
    push = torch.linspace(-0.5, 0.5, live.anatomy.d_model).numpy()
    rules = ["all", "content", "prompt", "generated", "prompt[-1]", "gen[:2]", -1, [1, 2], slice(1, 3)]
    for rule in [*rules, tokens(live.tokens.token(LONG[3]).text)]:
        steer = Steer("L1", push, positions=rule)
        plain, right = decoded(live, steer, use_cache=False)
        if not decoding(live).no_cache:
            cached, logits = decoded(live, steer, use_cache=True)
            assert cached == plain, rule
            assert float((logits - right).abs().max() / right.abs().max()) < 1e-5, rule
        alone = [list(generate(live, prompt, [steer], N, ignore_eos=True)) for prompt in (LONG, SHORT)]
        together = generate_many(live, [LONG, SHORT], [steer], N, ignore_eos=True).finish()
        assert ids([row.tokens for row in together]) == ids(alone), rule
        assert ids(alone)[0] == plain, rule
