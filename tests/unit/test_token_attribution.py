"""TokenAttribution as a page sees it: rough at once, then as chosen, with its evidence, for any target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import interp_widgets as iw
from interp_widgets.methods.attribution import METHODS, attribute
from interp_widgets.methods.deletion import deletion_test, evidence
from interp_widgets.widgets import token_attribution as module
from tests.unit import tiny_models
from tests.unit.comm import Json, Wire
from tests.unit.page import PROMPT, REFERENCE, Page, open_page


@dataclass
class Bench:
    session: iw.Session
    page: Page
    view: iw.TokenAttribution

    @property
    def told(self) -> list[Json]:
        """The messages about the view that carry data, oldest first."""
        return [s.content for s in self.page.of("panel") if s.content["panel"] == self.view.panel and s.content["data"]]

    def array(self, name: str, inner: str | None = None) -> Any:
        for sent in reversed(self.page.of("panel")):
            value = (sent.content["data"] or {}).get(name)
            value = value.get(inner) if isinstance(value, dict) and inner is not None else value
            if sent.content["panel"] == self.view.panel and value is not None:
                return np.frombuffer(sent.buffers[value["$array"]], value["dtype"]).reshape(value["shape"])
        raise AssertionError(f"{name} was never sent")


@pytest.fixture
def bench(wire: Wire) -> Iterator[Bench]:
    session = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
    session.reference = REFERENCE
    session.ask(PROMPT, target="w11", foil="w13")
    view = iw.TokenAttribution(session, steps=4)
    page = open_page(wire, session)
    page.calm()
    yield Bench(session, page, view)
    session.close()


def test_every_method_gives_its_own_numbers_and_its_line_ends_with_the_evidence(bench: Bench) -> None:
    question = bench.session.question
    assert question is not None
    for method in METHODS:
        bench.view.method = method
        bench.page.wait(
            lambda method=method: (
                bench.page.panel(bench.view)["status"] == "done"
                and bench.page.panel(bench.view)["data"]["method"] == method
                and "evidence" in bench.page.panel(bench.view)["data"]["line"]
            ),
            method,
        )
        alone = attribute(bench.session.model, question, method=method, steps=4)
        np.testing.assert_allclose(bench.array("scores"), alone.scores, atol=1e-5)
        line = bench.page.panel(bench.view)["data"]["line"]
        assert line.startswith(alone.line)
        assert line.endswith(evidence(bench.session.model, question, alone.scores).line)
    assert bench.page.panel(bench.view)["data"]["methods"] == list(METHODS)


def test_the_evidence_is_one_point_of_the_deletion_test(bench: Bench) -> None:
    question = bench.session.question
    assert question is not None
    scores = attribute(bench.session.model, question).scores
    whole = deletion_test(bench.session.model, question, scores)
    for k in (1, 3, 99):
        one = evidence(bench.session.model, question, scores, k=k)
        assert one.cost == pytest.approx(whole.cost(one.k), abs=1e-5)
        assert one.random_cost == pytest.approx(whole.random_cost(one.k), abs=1e-5)
        assert one.line == whole.line(k)


def test_gradients_are_shown_until_the_finer_method_has_answered(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = module.attribute

    def slowly(*args: Any, **kwargs: Any) -> Any:
        method = args[3]
        if method != "gradient_x_input":
            bench.page.wait(lambda: bench.told[-1]["data"]["method"] == "gradient_x_input", "the rough scores")
        asked.append(method)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "attribute", slowly)
    bench.page.ablate("L0H1")
    bench.page.calm()
    assert asked == ["gradient_x_input", "integrated_gradients"]
    assert bench.told[-1]["data"]["method"] == "integrated_gradients"


def test_going_back_to_a_method_or_a_state_computes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.page.ablate("L0H1")
    bench.page.calm()
    monkeypatch.setattr(module, "attribute", lambda *_a, **_k: pytest.fail("computed again"))
    bench.page.wish("undo", "undo")
    bench.page.calm()
    assert bench.page.panel(bench.view)["status"] == "done"
    assert "plain run" in bench.page.panel(bench.view)["data"]["line"]


def test_words_and_sentences_cover_every_token_once_in_order(bench: Bench) -> None:
    for by in ("word", "sentence", "line"):
        index = bench.array("groups", by)
        assert len(index) == len(bench.session.question.first.tokens)  # pyright: ignore[reportOptionalMemberAccess]
        assert index[0] == 0
        assert set(np.diff(index)) <= {0, 1}


def test_of_a_prompt_set_the_line_says_which_one_is_explained(bench: Bench) -> None:
    bench.session.ask([iw.Example(PROMPT, "w11", "w13"), iw.Example("w3 w4 w5", "w11", "w13")])
    bench.page.calm()
    assert bench.page.panel(bench.view)["data"]["line"].startswith("the first of 2 prompts · explains the plain run")


def test_another_next_token_becomes_the_target_and_the_foil_stays(bench: Bench) -> None:
    before = bench.session.answer.metric
    token = next(n.id for n in bench.session.answer.top if n.text not in ("w11", "w13"))
    bench.page.wish("panel", "target", panel=bench.view.panel, action="target", id=token)
    bench.page.calm()
    question = bench.page.state["question"]
    assert [t["id"] for t in question["target"]] == [token]
    assert [t["text"].strip() for t in question["foil"]] == ["w13"]
    assert question["prompt"] == PROMPT
    assert bench.page.metric != pytest.approx(before, abs=1e-3)
    bench.page.wish("undo", "undo")
    bench.page.calm()
    assert bench.page.metric == pytest.approx(before, abs=1e-6)


def test_the_foil_as_the_target_changes_places_with_it(bench: Bench) -> None:
    before = bench.session.answer.metric
    foil = bench.page.state["question"]["foil"][0]["id"]
    bench.page.wish("panel", "target", panel=bench.view.panel, action="target", id=foil)
    bench.page.calm()
    assert bench.page.metric == pytest.approx(-before, abs=1e-5)


def test_what_is_no_token_is_refused_in_a_sentence(bench: Bench) -> None:
    for wrong in (-1, 10**9, "w11", True, None):
        seq = bench.page.wish("panel", "target", panel=bench.view.panel, action="target", id=wrong)
        bench.page.wait(lambda seq=seq: bench.page.refusal(seq), "a refusal")
        assert "is not the id of a token" in str(bench.page.refusal(seq))
