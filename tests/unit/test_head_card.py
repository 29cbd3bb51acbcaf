"""A head's card: its sources sum to its direct effect, its copying is what one computes by hand, known heads score as they must."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import interp_widgets as iw
from interp_widgets.methods.attention import attention
from interp_widgets.methods.direct import direct_effects
from interp_widgets.methods.head_card import copying_scores, head_card
from interp_widgets.methods.head_gate import gate_of
from interp_widgets.methods.self_repair import copy_suppression
from tests import architectures
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


# ---- families whose attention is gated, or does not go through the registry ------------------------------------------------

GATED = ["qwen3_next", "afmoe", "laguna"]
OWN = ["gemma2", "gpt_oss", "gptj", "bloom", "gpt_neo"]  # a soft cap, sinks, three kinds of products


def family(name: str) -> Any:
    return architectures.build(name).model


def asked_of(module: Any) -> iw.Session:
    opened = iw.open(module, tokenizer())
    opened.ask(PROMPT, target="w11", foil="w13")
    return opened


@pytest.mark.filterwarnings("ignore")  # of the libraries, about kernels that are not there
@pytest.mark.parametrize("off", [False, True], ids=["plain", "a head is off"])
@pytest.mark.parametrize("name", [*GATED, *OWN])
def test_sources_sum_to_the_direct_effect_however_a_model_attends(name: str, off: bool) -> None:
    opened = asked_of(family(name))
    layer = max(i.index for i in opened.model.anatomy.layers if i.attention is not None)
    on = [iw.Ablate(f"L{layer}H1", mode="zero")] if off else []
    heads = direct_effects(opened.model, first(opened), on).heads
    for head in (0, 2, 3):
        card = head_card(opened.model, first(opened), layer, head, on)
        assert card.direct == pytest.approx(heads[layer, head], abs=1e-5)
    copying = copying_scores(opened.model, first(opened), on)
    suppression = copy_suppression(opened.model, first(opened), on)
    np.testing.assert_allclose(suppression, -copying, atol=1e-5)
    assert np.isfinite(copying[layer]).all()
    assert torch._C._len_torch_function_stack() == 0  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    opened.close()


@pytest.mark.filterwarnings("ignore")
def test_the_gate_is_the_sigmoid_that_the_model_computes() -> None:
    module = family("qwen3_next")
    plain, opened = copy.deepcopy(module), asked_of(module)
    block = plain.model.layers[1].self_attn
    seen: list[torch.Tensor] = []
    block.q_proj.register_forward_hook(lambda _m, _a, out: seen.append(out[0, -1]))
    with torch.no_grad():
        plain(torch.tensor([list(first(opened).ids)]), use_cache=False)
    gate = seen[0].view(4, -1).chunk(2, dim=-1)[1].sigmoid()  # of each head: its query, then its gate
    found = gate_of(opened.model, first(opened), opened.model.anatomy.layers[1])
    torch.testing.assert_close(found.float(), gate, atol=1e-6, rtol=1e-5)
    opened.close()


@pytest.mark.parametrize("build", [gpt2, llama])
def test_a_card_is_the_same_whether_attention_goes_through_the_registry_or_not(build: Any) -> None:
    through, own = build(), build()
    own.set_attn_implementation("eager")
    cards = []
    for module in (through, own):
        opened = asked_of(module)
        cards.append(head_card(opened.model, first(opened), 1, 2))
        weights = attention(opened.model, first(opened), value_weighted=True).weights
        assert weights is not None
        cards.append(weights)
        values = opened.model.run(PROMPT, read=["blocks.1.attn.hook_v"])["blocks.1.attn.hook_v"]
        cards.append(values.numpy())
        opened.close()
    one, weighted, values, two, weighted_own, values_own = cards
    np.testing.assert_allclose(two.contribution, one.contribution, atol=1e-5)
    assert [w.token for w in two.promotes] == [w.token for w in one.promotes]
    assert two.copying == pytest.approx(one.copying, abs=1e-5)
    np.testing.assert_allclose(weighted_own, weighted, atol=1e-5)
    assert values_own.shape == values.shape, "one of a group of heads that share their values"
    np.testing.assert_allclose(values_own, values, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "words"), [("bitnet", "a gate or norm"), ("diffllama", "4 softmaxes for its 2 heads")]
)
def test_heads_that_cannot_be_split_over_their_sources_say_why(name: str, words: str) -> None:
    opened = asked_of(family(name))
    with pytest.raises(iw.FeatureOffError, match=words):
        head_card(opened.model, first(opened), 1, 0)
    if name == "diffllama":
        with pytest.raises(iw.FeatureOffError, match=words):
            attention(opened.model, first(opened))
    opened.close()
