"""SteeringSliders as a page sees it: one drag is one step, and what is written is shown for what it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import interp_widgets as iw
from tests.unit import tiny_models
from tests.unit.comm import Wire
from tests.unit.page import PROMPT, REFERENCE, Page, open_page


@dataclass
class Bench:
    session: iw.Session
    page: Page
    view: iw.SteeringSliders

    @property
    def steps(self) -> list[str]:
        """The labels of the history."""
        return [moment.label for moment in self.session.history.moments]


@pytest.fixture
def bench(wire: Wire) -> Iterator[Bench]:
    session = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
    session.reference = REFERENCE
    session.ask(PROMPT, target="w11", foil="w13")
    vector = iw.steering_vector(session, ["w3 w4", "w5 w6"], ["w7 w8", "w9 w10"], "L1", name="push")
    view = iw.SteeringSliders(session, vectors={"push": vector}, tokens=6)
    page = open_page(wire, session)
    page.calm()
    yield Bench(session, page, view)
    session.close()


def test_a_drag_is_one_step_however_many_messages_it_was(bench: Bench) -> None:
    before = bench.steps
    for value in (0.1, 0.2, 0.3):
        bench.page.drag(value)
    bench.page.drag(0.4, final=True)
    bench.page.calm()
    assert bench.steps == [*before, "push +0.40"]


def test_a_second_drag_is_a_second_step_and_undo_takes_one_back(bench: Bench) -> None:
    before = bench.steps
    for value in (0.4, 0.8):
        bench.page.drag(value / 2)
        bench.page.drag(value, final=True)
    assert bench.steps == [*before, "push +0.40", "push +0.80"]
    bench.page.wish("undo", "undo")
    bench.page.calm()
    assert bench.page.state["vectors"][0]["coefficient"] == pytest.approx(0.4)


def test_a_release_where_the_drag_began_leaves_no_step(bench: Bench) -> None:
    bench.page.drag(0.4, final=True)
    before = bench.steps
    bench.page.drag(0.7)
    bench.page.drag(0.4, final=True)
    bench.page.calm()
    assert bench.steps == before


def test_a_release_without_a_move_leaves_no_step(bench: Bench) -> None:
    bench.page.drag(0.4, final=True)
    before = bench.steps
    bench.page.drag(0.4, final=True)
    bench.page.calm()
    assert bench.steps == before
    assert bench.page.metric == pytest.approx(bench.session.answer.metric)


def test_a_written_token_says_of_what_kind_it_is(bench: Bench) -> None:
    written = bench.page.panel(bench.view)["data"]["continuation"]["plain"]
    assert written
    assert [one["kind"] for one in written] == [bench.session.model.tokens.token(one["id"]).kind for one in written]
