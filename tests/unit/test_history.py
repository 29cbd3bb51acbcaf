"""What undo and redo bring back: the mode too, and what a drag that came to nothing had cut off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import interp_widgets as iw
from interp_widgets.moment import History, Moment
from tests.unit import tiny_models
from tests.unit.comm import Wire
from tests.unit.conftest import Bench
from tests.unit.page import PROMPT, REFERENCE, Page, open_page


@pytest.fixture
def session() -> Iterator[iw.Session]:
    opened = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
    opened.reference = REFERENCE
    opened.ask(PROMPT, target="w11", foil="w13")
    opened.add_vector(iw.steering_vector(opened, ["w3 w4"], ["w7 w8"], "L1", name="push"))
    yield opened
    opened.close()


def labels(session: iw.Session) -> list[str]:
    return [moment.label for moment in session.history.moments]


# ---- the mode -----------------------------------------------------------------------------------------------------------


def test_the_mode_is_part_of_the_state_that_undo_and_redo_bring_back(session: iw.Session) -> None:
    session.set_mode("zero")
    session.toggle("L1H2")
    session.set_mode("resample")
    session.ask("w7 w8", target="w11", foil="w13")
    assert session.mode == "resample", "a question has changed the mode"
    session.undo()
    session.undo()
    assert session.mode == "zero"
    assert [i.mode for i in session.interventions if isinstance(i, iw.Ablate)] == ["zero"]
    assert session.snapshot().mode == "zero"
    session.toggle("L0H0")
    assert [i.mode for i in session.interventions if isinstance(i, iw.Ablate)] == ["zero", "zero"]
    session.undo()
    session.redo()
    session.undo()
    session.undo()
    session.undo()
    assert session.mode == "mean"
    session.redo()
    assert session.mode == "zero"


def test_a_mark_brings_the_mode_back_and_a_saved_session_has_it(session: iw.Session) -> None:
    session.set_mode("zero")
    session.toggle("L1H2")
    mark = session.mark()
    session.set_mode("mean")
    session.rewind(mark)
    assert session.mode == "zero"
    again = iw.Session.from_json(session.to_json(), session.model.module, tiny_models.tokenizer())
    assert again.mode == "zero"
    again.toggle("L0H0")
    assert {i.mode for i in again.interventions if isinstance(i, iw.Ablate)} == {"zero"}
    again.close()


@pytest.mark.case("E05")
def test_the_grid_of_heads_follows_the_mode_back_and_its_page_too(bench: Bench) -> None:
    page = bench.page
    bench.session.ask("w2 w3 w4 w5 w6 w7 w8", target="w11", foil="w13")  # no prompt of the reference is as long
    page.ablate("L1H2")
    page.calm()
    page.wish("mode", "mode", mode="resample")
    page.calm()
    assert page.state["mode"] == "resample"
    assert page.panel(bench.heads)["status"] == "failed", "there is a prompt to resample from: the test shows nothing"
    page.wish("undo", "undo")
    page.calm()
    assert page.state["mode"] == "zero"
    assert [one["mode"] for one in page.state["interventions"]] == ["zero"]
    assert (page.panel(bench.heads)["status"], page.panel(bench.heads)["data"]["mode"]) == ("done", "zero")


# ---- a drag that came to nothing ----------------------------------------------------------------------------------------


def test_a_drag_that_ends_where_it_began_leaves_what_can_be_brought_back(session: iw.Session) -> None:
    session.strength("push", 0.5)
    session.toggle("L1H1", mode="zero")
    metric = session.answer.metric
    session.undo()
    before, index = labels(session), session.history.index
    session.strength("push", 0.7, final=False)
    session.strength("push", 0.9, final=False)
    assert len(labels(session)) == index + 2, "while it is dragged there is nothing after it"
    session.strength("push", 0.5)
    assert (labels(session), session.history.index) == (before, index)
    assert session.history.metrics[index + 1] == metric, "the number of what can be brought back is lost"
    assert session.redo()
    assert [i.site.name for i in session.interventions] == ["L1", "L1H1"]
    assert session.answer.metric == metric


def test_a_drag_that_became_a_step_has_forgotten_what_it_cut_off(session: iw.Session) -> None:
    session.strength("push", 0.5)
    session.toggle("L1H1", mode="zero")
    session.undo()
    session.strength("push", 0.7)
    assert not session.redo()
    session.undo()
    session.strength("push", 0.9, final=False)
    session.toggle("L0H0", mode="zero")  # the slider is left where it is: that is a step
    session.undo()
    session.strength("push", 0.5)
    session.strength("push", 0.9)
    assert not session.redo()
    assert labels(session)[-3:] == ["push +0.90", "push +0.50", "push +0.90"]


def test_a_vector_that_was_given_during_a_drag_is_known_to_what_comes_back(session: iw.Session) -> None:
    session.strength("push", 0.5)
    session.toggle("L1H1", mode="zero")
    session.undo()
    session.strength("push", 0.7, final=False)
    session.add_vector(iw.steering_vector(session, ["w3"], ["w9"], "L0", name="pull"))
    session.strength("push", 0.5)
    assert session.redo()
    assert set(session.vectors) == {"push", "pull"}


@pytest.fixture
def page(session: iw.Session, wire: Wire) -> Page:
    return open_page(wire, session)


@pytest.mark.case("E03")
def test_a_wish_that_comes_late_in_the_middle_of_a_drag_leaves_what_can_be_brought_back(page: Page) -> None:
    session = page.session
    page.drag(0.5, final=True)
    page.ablate("L1H1")
    page.wish("undo", "undo")
    page.drag(0.7)
    late = page.intent("strength", "strength:push", name="push", value=0.8, final=False)
    page.drag(0.9)
    page.comm.receive(late)
    page.drag(0.5, final=True)
    page.wish("redo", "redo")
    assert [i.site.name for i in session.interventions] == ["L1", "L1H1"]


def test_a_moment_keeps_its_place_when_the_oldest_are_given_up() -> None:
    history = History()
    for n in range(500):
        history.step(Moment(label=str(n)))
        assert history.place == n + 1
    assert len(history.moments) == 200
    history.move(-1)
    assert (history.now.label, history.place) == ("498", 499)


def test_numbers_that_no_longer_hold_do_not_come_back_with_what_was_cut_off() -> None:
    history = History([Moment(), Moment(label="a")], 0, {0: 1.0, 1: 2.0})
    history.step(replace(history.now, label="drag", draft="strength:push"))
    history.forget_numbers()
    history.finish()
    assert [moment.label for moment in history.moments] == ["opened", "a"]
    assert history.metrics == {}


# ---- where a vector acts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["99", "6", "-7", "[2, 6]"])
def test_a_vector_is_refused_a_position_that_the_prompt_does_not_have(session: iw.Session, positions: str) -> None:
    session.strength("push", 1.0)
    before, metric = session.revision, session.answer.metric
    with pytest.raises(iw.InterpError, match=r"Position -?\d+ does not exist: the prompt has 6 tokens"):
        session.steer_settings("push", positions=positions)
    assert session.revision == before
    assert session.answer.metric == metric


def test_a_vector_takes_a_position_there_is_and_a_rule_that_matches_nothing_here(session: iw.Session) -> None:
    session.strength("push", 1.0)
    for positions in ("5", "-6", "[0, 5]", "generated", '"w20"', "3:70"):
        session.steer_settings("push", positions=positions)
        assert session.answer.metric


def test_a_vector_that_a_shorter_prompt_left_without_its_place_can_be_switched_off_and_moved(
    session: iw.Session,
) -> None:
    session.strength("push", 1.0)
    session.steer_settings("push", positions="5")
    session.ask("w7 w8", target="w11", foil="w13")
    session.steer_settings("push", on=False, site="L1", positions="5", mode="add")
    assert session.interventions == ()
    with pytest.raises(iw.InterpError, match="Position 5 does not exist: the prompt has 2 tokens"):
        session.steer_settings("push", on=True)
    session.steer_settings("push", on=True, positions="1")
    assert session.answer.receipts[0].state == "acted"


def test_of_a_set_of_prompts_a_vectors_position_has_to_be_in_each(session: iw.Session) -> None:
    session.ask([iw.Example(PROMPT, "w11", "w13"), iw.Example("w3 w4 w5", "w11", "w13")])
    with pytest.raises(iw.InterpError, match="Position 3 does not exist: the prompt has 3 tokens"):
        session.steer_settings("push", positions="3")
    session.steer_settings("push", positions="2")


@pytest.mark.case("D03")
def test_a_page_that_names_a_position_which_is_not_there_is_told_and_every_view_stays(bench: Bench) -> None:
    page = bench.page
    page.drag(1.0, final=True)
    page.calm()
    args: dict[str, Any] = {"name": "push", "on": True, "site": "L1", "mode": "add"}
    seq = page.wish("vector", "vector:push", **args, positions="99")
    page.wait(lambda: page.refusal(seq), "the sentence")
    page.calm()
    assert "Position 99 does not exist" in str(page.refusal(seq))
    assert page.state["error"] is None
    assert [page.panel(view)["status"] for view in (bench.heads, bench.tokens, bench.sliders)] == ["done"] * 3
