"""Whatever is asked for: told literally, or refused in a sentence with the old question still there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import interp_widgets as iw
from interp_widgets.methods.attribution import METHODS, attribute
from interp_widgets.methods.deletion import deletion_test
from interp_widgets.methods.spans import span_scores
from interp_widgets.model.errors import FeatureOffError
from interp_widgets.model.live import open_model
from tests.unit import tiny_models
from tests.unit.attribution_models import asked, model, tokenizer
from tests.unit.comm import Wire
from tests.unit.page import PROMPT, Page, open_page

STRANGE = {
    "markup": "<script>alert(1)</script> & <b>x</b>",
    "right to left": "שלום עולם said the مرحبا man",
    "half an emoji": "a 👍🏽 b 🧑‍🚀",
    "controls": "\u202eabc\x00 d\u200b e\ufeff",
    "white space": "\n\n\t  \u00a0 x\r\n",
}


@pytest.fixture(scope="module")
def embedded() -> Iterator[iw.Session]:
    session = iw.open()
    yield session
    session.close()


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE.keys())
def test_every_method_explains_strange_text_token_by_token(embedded: iw.Session, text: str) -> None:
    question = embedded.ask(text).first
    for method in METHODS:
        a = attribute(embedded.model, question, method=method, steps=4)
        assert a.tokens == question.tokens
        assert np.isfinite(a.scores).all()
        for by in ("word", "sentence", "line"):
            spans = span_scores(embedded.model, question, a.scores, by)
            assert [i for span in spans for i in span.positions] == list(range(len(question.tokens)))
            assert sum(span.score for span in spans) == pytest.approx(a.sum, abs=1e-9)
    scores = np.arange(float(len(question.tokens)))
    curves = deletion_test(embedded.model, question, scores, spans="word", orders=1)
    assert np.isfinite(curves.deletion).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_prompt_of_two_tokens_is_the_shortest_that_is_explained(method: str) -> None:
    live = open_model(model("llama"), tokenizer())
    a = attribute(live, asked(live, "w3 w14"), method=method)
    assert a.scores.shape == (2,)
    with pytest.raises(iw.PromptError, match="single token"):
        attribute(live, asked(live, "w3"), method=method)
    live.release()


@pytest.fixture
def page(wire: Wire) -> Iterator[tuple[Page, iw.TokenAttribution]]:
    session = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
    session.ask(PROMPT, target="w11", foil="w13")
    view = iw.TokenAttribution(session, method="gradient_x_input")
    opened = open_page(wire, session)
    opened.calm()
    yield opened, view
    session.close()


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({"prompt": "", "target": "w11", "foil": "w13"}, "empty"),
        ({"prompt": "   ", "target": "w11", "foil": "w13"}, "empty"),
        ({"prompt": " ".join(["w5"] * 65), "target": "w11", "foil": "w13"}, "65 tokens"),
        ({"prompt": PROMPT, "target": "w11", "foil": "w11"}, "both"),
        ({"prompt": PROMPT, "target": ["w11", "w12"], "foil": ["w12", "w11"]}, "both"),
        ({"prompt": PROMPT, "target": "w11 w12 w13", "foil": None}, "w11 w12 w13"),
        ({"prompt": 7, "target": None, "foil": None}, "prompt"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_in_a_sentence_and_the_old_scores_stay(
    page: tuple[Page, iw.TokenAttribution], wish: dict[str, Any], sentence: str
) -> None:
    opened, view = page
    before, data = opened.session.question, opened.panel(view)["data"]
    number = opened.wish("ask", "ask", **wish)
    opened.wait(lambda: opened.refusal(number) is not None, "a refusal")
    said = str(opened.refusal(number))
    assert sentence in said
    assert said.rstrip().endswith((".", "?", "!"))
    opened.calm()
    assert opened.session.question is before
    assert opened.panel(view)["data"]["scores"] == data["scores"]


def test_half_a_surrogate_pair_that_a_page_sends_is_a_question_or_a_sentence(
    page: tuple[Page, iw.TokenAttribution],
) -> None:
    opened, view = page
    number = opened.wish("ask", "ask", prompt="w3 \ud83d w4 w5", target="w11", foil="w13")
    opened.wait(lambda: opened.refusal(number) is not None or "w4" in opened.session.question.first.prompt, "an answer")  # pyright: ignore[reportOptionalMemberAccess]
    opened.calm()
    assert opened.panel(view)["status"] in ("done", "failed")
    opened.wish("ask", "ask", prompt="w3 w4 w5 w6", target="w11", foil="w13")
    opened.wait(lambda: len(opened.panel(view)["data"].get("tokens", ())) == 4, "the next question")
    opened.calm()
    assert opened.panel(view)["status"] == "done"


def test_two_thousand_tokens_are_told_in_small_messages_the_rough_scores_first(wire: Wire) -> None:
    session = iw.open(tiny_models.gpt2(n_positions=2048, n_layer=2, n_embd=16, n_head=2), tiny_models.tokenizer())
    session.ask(" ".join(f"w{2 + i % 50}" for i in range(2000)), target="w11", foil="w13")
    view = iw.TokenAttribution(session, steps=1024, answer=4)
    opened = open_page(wire, session)
    opened.wait(lambda: opened.panel(view)["status"] == "asking", "a question", 60)
    told = [s for s in opened.of("panel") if s.content["panel"] == view.panel and s.content["data"]]
    assert told[0].content["data"]["method"] == "gradient_x_input"
    assert len(told[0].content["data"]["tokens"]) == 2000
    assert opened.panel(view)["data"]["estimate_seconds"] > 10
    view.method = "gradient_x_input"
    opened.wait(lambda: "outputs" in opened.panel(view)["data"].get("answer", {}), "the answer", 120)
    opened.calm(120)
    assert max(sum(len(b) for b in s.buffers) + len(str(s.content)) for s in opened.of("panel")) < 1_000_000
    session.close()


def test_a_method_that_this_model_cannot_have_says_why_and_the_others_go_on(wire: Wire) -> None:
    from tests import architectures, matrix

    built = architectures.build("mixtral").model
    assert built is not None
    session = iw.open(built, matrix.tokenizer(architectures.VOCAB))
    session.ask([20, 40, 60, 80, 100])
    with pytest.raises(FeatureOffError, match="mixture of experts"):
        iw.attribute(session, method="lrp")
    view = iw.TokenAttribution(session, method="lrp")
    opened = open_page(wire, session)
    opened.wait(lambda: opened.panel(view)["status"] == "failed", "a refusal", 60)
    assert "mixture of experts" in opened.panel(view)["message"]
    view.method = "gradient_x_input"
    opened.wait(lambda: opened.panel(view)["status"] == "done", "the other method", 60)
    off = opened.panel(view)["data"]["compare"]["off"]
    assert [one["method"] for one in off] == ["lrp"]
    session.close()
