"""A head's card: its sources sum to its direct effect, its copying is what one computes by hand, known heads score as they must."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import interp_widgets as iw
from interp_widgets.methods.direct import direct_effects
from interp_widgets.methods.head_card import copying_scores, head_card
from tests.unit.tiny_models import gpt2, llama, tokenizer

PROMPT = "w5 w9 w12 w5 w30 w7"


@pytest.fixture(params=["gpt2", "llama"])
def session(request: pytest.FixtureRequest) -> Iterator[iw.Session]:
    opened = iw.open({"gpt2": gpt2, "llama": llama}[request.param](), tokenizer())
    opened.ask(PROMPT, target="w11", foil="w13")
    yield opened
    opened.close()


def first(session: iw.Session):  # noqa: ANN201
    assert session.question is not None
    return session.question.first


@pytest.mark.parametrize("edited", [False, True], ids=["plain", "edited"])
def test_sources_sum_to_the_heads_direct_effect(session: iw.Session, edited: bool) -> None:
    on = [iw.Ablate("L0H1", mode="zero"), iw.Steer("L0", torch.ones(32), 0.3)] if edited else []
    heads = direct_effects(session.model, first(session), on).heads
    for layer in range(3):
        for head in range(4):
            card = head_card(session.model, first(session), layer, head, on)
            off = edited and (layer, head) == (0, 1)
            assert card.edited is off
            assert card.direct == pytest.approx(heads[layer, head], abs=1e-5) or off
            assert card.attention.sum() == pytest.approx(1.0, abs=1e-5)


def test_what_a_head_writes_is_what_taking_it_away_from_the_last_stream_takes_from_the_logits(
    session: iw.Session,
) -> None:
    card = head_card(session.model, first(session), 2, 1)
    live = session.model
    run = live.run(PROMPT, read=["L2H1"])
    part = live.anatomy.layers[2].attention
    norm = live.anatomy.final_norm
    assert part is not None and norm is not None
    z = torch.zeros(1, 1, 32)
    z[..., 8:16] = run["L2H1"][-1]
    with torch.no_grad():
        write = (part.output(z) - part.output(torch.zeros_like(z)))[0, 0]
        stream = live.run(PROMPT, read=["L2"])["L2"][-1]
        scale = live.run(PROMPT, read=["final.norm"])["final.norm"][-1]
        gain = norm.weight
        centred = write - write.mean() if isinstance(norm, torch.nn.LayerNorm) else write
        moved = live.anatomy.unembed((gain * centred / scale)[None])[0]
    del stream
    moved = moved - moved.mean()
    assert card.promotes[0].token.id == int(moved.argmax())
    assert card.promotes[0].logit == pytest.approx(float(moved.max()), abs=1e-4)
    assert card.suppresses[0].logit == pytest.approx(float(moved.min()), abs=1e-4)


def test_the_scores_of_all_heads_are_those_of_their_cards(session: iw.Session) -> None:
    scores = copying_scores(session.model, first(session))
    for layer, head in ((0, 0), (1, 2), (2, 3)):
        assert scores[layer, head] == pytest.approx(
            head_card(session.model, first(session), layer, head).copying, abs=1e-6
        )


def test_heads_that_share_keys_and_values_are_siblings() -> None:
    session = iw.open(llama(), tokenizer())
    session.ask(PROMPT, "w11", "w13")
    assert head_card(session.model, first(session), 1, 2).siblings == ("L1H3",)
    session.close()


def test_the_induction_head_of_the_known_circuit_copies_and_the_suppressor_suppresses() -> None:
    session = iw.open("known:self-repair-both")
    from interp_widgets.builtin.known import known

    circuit = known("self-repair-both")[2]
    session.ask(circuit.prompt, circuit.target, circuit.foil)
    scores = copying_scores(session.model, first(session))
    assert scores[1, 0] > 10, "the induction head raises the token that it looks at"
    assert scores[2, 1] < -10, "the suppressing head lowers the token that it looks at"
    assert np.abs(scores[0, 1]) < 1e-6, "an unused head writes nothing"
    session.close()


def test_a_head_that_does_not_exist_is_refused(session: iw.Session) -> None:
    with pytest.raises(iw.SiteError, match="L1H9 does not exist"):
        head_card(session.model, first(session), 1, 9)
