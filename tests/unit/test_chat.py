"""Chat messages: the template's tokens are there, count as template, and stay template wherever the prompt goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import interp_widgets as iw
from interp_widgets.methods.coherence import coherence
from interp_widgets.model.generate import generate, score, side_by_side
from interp_widgets.model.interventions import Steer
from tests.unit import tiny_models
from tests.unit.comm import Wire
from tests.unit.page import REFERENCE, open_page

# The role is a word of its own, and what opens and closes a turn is no special token: only the template says what they are.
TEMPLATE = (
    "{% for m in messages %}w50 {{ 'w51' if m['role'] == 'user' else 'w52' }} {{ m['content'] }} w53 {% endfor %}"
    "{% if add_generation_prompt %}w50 w52{% endif %}"
)
MESSAGES: Any = [
    {"role": "user", "content": "w5 w9"},
    {"role": "assistant", "content": "w12"},
    {"role": "user", "content": "w30 w53 w7"},
]
TEXT = "w50 w51 w5 w9 w53 w50 w52 w12 w53 w50 w51 w30 w53 w7 w53 w50 w52"
CONTENT = [2, 3, 7, 11, 12, 13]


def talking() -> Any:
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture
def session() -> Iterator[iw.Session]:
    opened = iw.open(tiny_models.gpt2(), talking())
    opened.reference = REFERENCE
    opened.ask(MESSAGES, target="w11", foil="w13")
    yield opened
    opened.close()


@pytest.fixture
def push(session: iw.Session) -> iw.Steer:
    return iw.Steer("L1", iw.steering_vector(session, ["w3 w4", "w5 w6"], ["w7 w8", "w9 w10"], "L1"), 3.0, name="push")


def test_a_conversation_is_its_template_with_the_speakers_own_words_as_content(session: iw.Session) -> None:
    assert session.question is not None
    tokens = session.question.first.tokens
    assert [t.text for t in tokens] == TEXT.split()
    assert [n for n, t in enumerate(tokens) if t.kind == "text"] == CONTENT


def test_content_leaves_the_template_out_in_the_answer_and_in_every_token_of_the_text(
    session: iw.Session, push: Steer
) -> None:
    live = session.model
    by_rule = live.run(MESSAGES, [push])
    by_number = live.run(MESSAGES, [Steer("L1", push.vector, 3.0, positions=CONTENT)])
    assert (by_rule.logits == by_number.logits).all()
    assert by_rule.receipts[0].positions == len(CONTENT)
    for use_cache in (True, False):
        run = generate(live, MESSAGES, [push], 8, use_cache)
        assert len(list(run)) == 8
        numbered = generate(
            live, MESSAGES, [Steer("L1", push.vector, 3.0, positions=CONTENT), push_generated(push)], 8, use_cache
        )
        assert [t.id for t in run.tokens] == [t.id for t in numbered]


def push_generated(push: Steer) -> Steer:
    return Steer("L1", push.vector, 3.0, positions="generated")


def test_a_prompt_that_was_read_once_keeps_its_template(session: iw.Session, push: Steer) -> None:
    assert session.question is not None
    live, asked = session.model, session.question.first
    right = [t.id for t in generate(live, MESSAGES, [push], 8)]
    assert [t.id for t in generate(live, asked.tokens, [push], 8)] == right
    pairs = list(side_by_side(live, asked.tokens, [push], 8))
    assert [pair[1].id for pair in pairs if pair[1] is not None] == right
    assert score(live, asked.tokens, right, [push]).shape == (8,)
    assert right != [t.id for t in generate(live, list(asked.ids), [push], 8)], "the template makes no difference here"


def test_the_views_write_what_the_model_writes_to_a_conversation(session: iw.Session, push: Steer, wire: Wire) -> None:
    session.set(push)
    texts = iw.Generation(session, tokens=8)
    sliders = iw.SteeringSliders(session, tokens=8)
    page = open_page(wire, session)
    page.calm(60)
    right = [t.id for t in generate(session.model, MESSAGES, [push], 8)]
    edited = page.panel(texts)["data"]["branch:1"]["tokens"]
    assert [t["id"] for t in edited] == right
    assert [t["id"] for t in page.panel(sliders)["data"]["continuation"]["edited"]] == right


def test_where_text_breaks_is_measured_on_the_conversation(session: iw.Session, push: Steer) -> None:
    assert session.question is not None
    found = coherence(session.model, session.question.first, push, [0.0, 3.0], tokens=8, samples=20)
    assert len(found.texts) == 2


def test_a_page_asks_a_message_through_the_template_and_gets_its_own_words_back_to_edit(
    wire: Wire, session: iw.Session
) -> None:
    iw.HeadAblation(session, mode="zero")
    page = open_page(wire, session)
    page.calm()
    assert page.state["model"]["chat"] is True
    assert page.state["question"]["message"] is None, "a conversation of three messages is not one"
    page.wish("ask", "ask", prompt="w5 w9", target="w11", foil="w13", chat=True)
    page.wait(lambda: page.state["question"]["message"] == "w5 w9", "the message")
    page.calm()
    assert [t["text"] for t in page.state["question"]["tokens"]] == ["w50", "w51", "w5", "w9", "w53", "w50", "w52"]
    assert [t["kind"] for t in page.state["question"]["tokens"]] == [
        "text" if n in (2, 3) else "special" for n in range(7)
    ]
    before = session.question
    refused = page.wish("ask", "ask", prompt="  ", target=None, foil=None, chat=True)
    page.wait(lambda: page.refusal(refused) is not None, "a refusal")
    assert "empty" in str(page.refusal(refused))
    assert session.question is before
    page.wish("ask", "ask", prompt="w5 w9", target="w11", foil="w13", chat=False)
    page.wait(lambda: len(page.state["question"]["tokens"]) == 2, "the plain prompt")
    assert page.state["question"]["message"] is None


def test_where_there_is_no_template_a_message_is_refused_in_a_sentence(wire: Wire) -> None:
    session = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
    session.ask("w5 w9", target="w11", foil="w13")
    iw.HeadAblation(session, mode="zero")
    page = open_page(wire, session)
    assert page.state["model"]["chat"] is False
    refused = page.wish("ask", "ask", prompt="w5 w9", target=None, foil=None, chat=True)
    page.wait(lambda: page.refusal(refused) is not None, "a refusal")
    assert "chat template" in str(page.refusal(refused))
    session.close()
