"""A question is asked in its place among the wishes, though its answer takes a while (group E)."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

import interp_widgets as iw
from interp_widgets.widgets.channel import mirror_of
from interp_widgets.widgets.order import Done, Gap, Order, redone, stepped, undone
from interp_widgets.worker import ANSWER, worker_of
from tests.unit import tiny_models
from tests.unit.comm import Json, Wire
from tests.unit.conftest import Bench
from tests.unit.page import PROMPT, REFERENCE, Page, open_page

SITES = [f"L{layer}H{head}" for layer in range(3) for head in range(4)]


def opened(wire: Wire, client: str = "page") -> Page:
    """A page of a session without a view, so that nothing computes but what is asked."""
    session = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
    session.reference = REFERENCE
    session.ask(PROMPT, target="w11", foil="w13")
    session.add_vector(iw.steering_vector(session, ["w3 w4"], ["w7 w8"], "L1", name="push"))
    return open_page(wire, session, client)


@pytest.fixture
def page(wire: Wire) -> Iterator[Page]:
    made = opened(wire)
    yield made
    made.session.close()


@contextmanager
def busy(session: iw.Session) -> Generator[None]:
    """While the worker has something else to do, and then until all that was asked meanwhile is known."""
    go_on, at_it = threading.Event(), threading.Event()
    worker = worker_of(session.model)
    worker.submit(("test", "busy"), lambda _cancelled: (at_it.set(), go_on.wait(30)), ANSWER)
    assert at_it.wait(10)
    try:
        yield
    finally:
        go_on.set()
        assert worker.wait(30)


def asks(page: Page, prompt: str, target: str | None = "w11", key: str = "ask") -> int:
    """Type a question; the target 'w5 w6', which is two tokens, is refused once the worker looks at it."""
    return page.wish("ask", key, prompt=prompt, target=target, foil="w13")


def moves(page: Page, *names: str) -> None:
    """Undo, redo."""
    for name in names:
        page.wish(name, name)


def prompt(session: iw.Session) -> str:
    """The present prompt."""
    assert session.question is not None
    return session.question.first.prompt


def prompts(session: iw.Session) -> list[str | None]:
    """The prompt of every moment."""
    return [m.question and m.question.first.prompt for m in session.history.moments]


def off(session: iw.Session) -> list[str]:
    """What is done to the model."""
    return [i.site.name for i in session.interventions]


# ---- one page -----------------------------------------------------------------------------------------------------------


@pytest.mark.case("E05")
def test_an_undo_of_a_question_that_another_one_replaced_takes_back_nothing_older(page: Page) -> None:
    session = page.session
    page.ablate("L1H2")
    steps = len(session.history.moments)
    with busy(session):
        asks(page, "w7 w8")
        moves(page, "undo")
        asks(page, "w9 w10")
    assert off(session) == ["L1H2"], "the undo of a replaced question took back the ablation"
    assert prompts(session)[steps:] == ["w9 w10"]
    moves(page, "undo")
    assert (off(session), prompt(session)) == (["L1H2"], PROMPT)


@pytest.mark.case("E05")
@pytest.mark.parametrize("more", [(), ("undo", "redo"), ("redo", "redo")], ids=["undo", "and back", "redone"])
def test_an_undo_of_a_question_that_was_refused_takes_back_nothing_older(page: Page, more: tuple[str, ...]) -> None:
    session = page.session
    page.ablate("L1H2")
    page.ablate("L0H0")
    moves(page, "undo")
    before = session.history.index, len(session.history.moments)
    with busy(session):
        seq = asks(page, "w7 w8", target="w5 w6")
        moves(page, "undo", *more)
    page.wait(lambda: page.refusal(seq), "the sentence")
    assert off(session) == ["L1H2"]
    assert (session.history.index, len(session.history.moments)) == before, "a question that was refused is no step"
    moves(page, "redo")
    assert off(session) == ["L1H2", "L0H0"], "what could be brought back before it was refused is gone"


@pytest.mark.case("E05")
def test_of_two_undos_after_a_question_that_was_refused_the_second_takes_back_the_older_step(page: Page) -> None:
    session = page.session
    page.ablate("L1H2")
    with busy(session):
        asks(page, "w7 w8", target="w5 w6")
        moves(page, "undo", "undo")
        assert off(session) == []
    assert off(session) == []
    moves(page, "redo")
    assert off(session) == ["L1H2"]


@pytest.mark.case("E05")
def test_a_click_after_asking_is_done_at_once_and_its_undo_takes_it_back_and_not_the_question(page: Page) -> None:
    session = page.session
    with busy(session):
        asks(page, "w7 w8")
        page.ablate("L1H2")
        assert (off(session), prompt(session)) == (["L1H2"], PROMPT), "the click had to wait for the question"
        moves(page, "undo")
        assert (off(session), prompt(session)) == ([], PROMPT)
    assert (off(session), prompt(session)) == ([], "w7 w8")
    moves(page, "redo")
    assert (off(session), prompt(session)) == (["L1H2"], "w7 w8")
    moves(page, "undo", "undo")
    assert (off(session), prompt(session)) == ([], PROMPT)


@pytest.mark.case("E05")
def test_a_question_stands_in_the_history_before_the_clicks_that_came_after_it(page: Page) -> None:
    session = page.session
    steps = len(session.history.moments)
    with busy(session):
        page.ablate("L0H0")
        asks(page, "w7 w8")
        page.ablate("L1H2")
        page.drag(0.5)
        page.drag(0.7, final=True)
    labels = [m.label for m in session.history.moments[steps:]]
    assert labels == ["L0H0 off", "asked", "L1H2 off", "push +0.70"]
    assert prompts(session)[steps:] == [PROMPT, "w7 w8", "w7 w8", "w7 w8"]


@pytest.mark.case("E05")
def test_a_question_that_was_undone_before_it_was_known_can_be_brought_back(page: Page) -> None:
    session = page.session
    page.ablate("L1H2")
    with busy(session):
        asks(page, "w7 w8")
        moves(page, "undo")
    assert (off(session), prompt(session)) == (["L1H2"], PROMPT)
    moves(page, "redo")
    assert (off(session), prompt(session)) == (["L1H2"], "w7 w8")


@pytest.mark.case("E05")
def test_a_click_that_the_new_question_has_no_place_for_is_refused_and_its_undo_takes_back_nothing_else(
    page: Page,
) -> None:
    session = page.session
    with busy(session):
        asks(page, "w7 w8")
        seq = page.wish("ablate", "head:L1H2", site="L1H2", off=True, mode="zero", positions=[5])
        assert off(session) == ["L1H2"]
        moves(page, "undo")
    page.wait(lambda: page.refusal(seq), "the sentence")
    assert "Position 5 does not exist" in str(page.refusal(seq))
    assert (off(session), prompt(session)) == ([], "w7 w8"), "the undo of the click took back the question"


@pytest.mark.case("E03", "E05")
def test_a_question_that_comes_late_has_its_place_before_a_newer_click_and_is_gone_behind_a_newer_question(
    page: Page,
) -> None:
    session = page.session
    steps = len(session.history.moments)
    question = page.intent("ask", "ask", prompt="w7 w8", target="w11", foil="w13")
    page.ablate("L1H2")
    moves(page, "undo")
    page.comm.receive(question)
    assert worker_of(session.model).wait(30)
    assert [m.label for m in session.history.moments[steps:]] == ["asked", "L1H2 off"]
    assert (off(session), prompt(session)) == ([], "w7 w8")
    older = page.intent("ask", "ask", prompt="w3 w4", target="w11", foil="w13")
    asks(page, "w9 w10")
    page.comm.receive(older)
    assert worker_of(session.model).wait(30)
    assert "w3 w4" not in prompts(session)


@pytest.mark.case("E05", "D11")
def test_a_question_that_was_stopped_leaves_its_undo_without_effect(page: Page) -> None:
    session = page.session
    page.ablate("L1H2")
    with busy(session):
        seq = asks(page, "w7 w8")
        moves(page, "undo")
        mirror_of(session)._wishes.drop()
    page.wait(lambda: page.refusal(seq), "the word")
    assert (off(session), prompt(session)) == (["L1H2"], PROMPT)
    moves(page, "undo")
    assert off(session) == []


@pytest.mark.case("D10", "E05")
def test_after_a_change_from_python_a_question_still_comes_unless_it_was_taken_back(page: Page) -> None:
    session = page.session
    with busy(session):
        asks(page, "w7 w8")
        session.toggle("L1H1", mode="zero")
    assert (off(session), prompt(session)) == (["L1H1"], "w7 w8")
    with busy(session):
        asks(page, "w9 w10")
        moves(page, "undo")
        session.toggle("L0H0", mode="zero")
    assert (off(session), prompt(session)) == (["L1H1", "L0H0"], "w7 w8")
    moves(page, "undo")
    assert off(session) == ["L1H1"]


# ---- two pages ----------------------------------------------------------------------------------------------------------


@pytest.mark.case("D11", "E05")
def test_of_two_pages_that_ask_at_once_both_questions_are_steps(page: Page, wire: Wire) -> None:
    session, other = page.session, open_page(wire, page.session, "other")
    steps = len(session.history.moments)
    with busy(session):
        asks(page, "w7 w8")
        asks(other, "w9 w10")
    assert prompts(session)[steps:] == ["w7 w8", "w9 w10"], "the question of one page is lost without a word"
    moves(page, "undo")
    assert prompt(session) == "w7 w8"


@pytest.mark.case("D11", "E05")
def test_the_refusal_of_one_pages_question_leaves_the_others_and_its_undo(page: Page, wire: Wire) -> None:
    session, other = page.session, open_page(wire, page.session, "other")
    page.ablate("L1H2")
    with busy(session):
        seq = asks(page, "w7 w8", target="w5 w6")
        asks(other, "w9 w10")
        moves(other, "undo")
    page.wait(lambda: page.refusal(seq), "the sentence")
    assert (off(session), prompt(session)) == (["L1H2"], PROMPT)
    moves(other, "redo")
    assert (off(session), prompt(session)) == (["L1H2"], "w9 w10")


# ---- whatever comes -----------------------------------------------------------------------------------------------------


def random_wishes(page: Page, rng: random.Random, n: int) -> list[Json]:
    """What an impatient user does who also asks, every question about a thing of its own, so that none replaces another."""
    wishes: list[Json] = []
    for at in range(n):
        name = rng.choices(["ask", "ablate", "strength", "mode", "clear", "undo", "redo"], [16, 26, 16, 4, 3, 22, 13])[
            0
        ]
        site, value = rng.choice(SITES), rng.choice([0.0, 0.5, 1.0])
        key, args = {
            "ask": (f"ask:{at}", {"prompt": f"w{at % 50 + 3} w4", "target": "w11", "foil": "w13"}),
            "ablate": (f"head:{site}", {"site": site, "off": rng.random() < 0.7, "mode": "zero"}),
            "strength": ("strength:push", {"name": "push", "value": value, "final": rng.random() < 0.5}),
            "mode": ("mode", {"mode": rng.choice(["zero", "mean"])}),
        }.get(name, (name, {}))
        wishes.append(page.intent(name, key, **args))
    return wishes


def content(session: iw.Session) -> Any:
    """All that a session is, history included."""
    return [(m.entries, m.question, m.mode) for m in session.history.moments], session.history.index


@dataclass
class Pair:
    """A session whose questions are awaited together, and one whose user waits for each."""

    quick: Page
    patient: Page

    def fresh(self, wire: Wire, start: tuple[Any, Any], client: str) -> Pair:
        """Both as they were, each with a new page."""
        for page, mark in zip((self.quick, self.patient), start, strict=True):
            page.session.rewind(mark)
        return Pair(*(Page(page.session, page.comm, client) for page in (self.quick, self.patient)))

    def wait(self, wishes: Sequence[Json]) -> None:
        """The patient one's wishes, one after the other."""
        for wish in wishes:
            self.patient.comm.receive(wish)
            assert worker_of(self.patient.session.model).wait(30)


@pytest.fixture
def pairs(wire: Wire) -> Iterator[Callable[[int], Iterator[tuple[Pair, random.Random]]]]:
    """As many fresh pairs as are wished for, each with its own random numbers."""
    both = Pair(opened(wire), opened(wire))
    start = both.quick.session.mark(), both.patient.session.mark()

    def several(n: int) -> Iterator[tuple[Pair, random.Random]]:
        for seed in range(n):
            yield both.fresh(wire, start, f"seed {seed}"), random.Random(seed)

    yield several
    both.quick.session.close()
    both.patient.session.close()


@pytest.mark.case("E02", "E05")
@pytest.mark.parametrize("by", [0, 4], ids=["in order", "late"])
def test_questions_among_other_wishes_end_as_if_everybody_had_waited_for_each(pairs: Any, by: int) -> None:
    several = 0
    for pair, rng in pairs(100):
        wishes = random_wishes(pair.quick, rng, 14)
        pair.wait(wishes)
        arriving = sorted(wishes, key=lambda wish: wish["seq"] + rng.uniform(0, by))
        parts = rng.randrange(1, 4)
        for part in range(parts):
            with busy(pair.quick.session):
                for wish in arriving[part * 14 // parts : (part + 1) * 14 // parts]:
                    pair.quick.comm.receive(wish)
        assert content(pair.quick.session) == content(pair.patient.session), pair.quick.client
        several += len(set(prompts(pair.quick.session))) > 3
    assert several > 20, "hardly any question was there in the end: the test shows nothing"


@pytest.mark.case("E02", "E05")
def test_questions_that_are_refused_among_other_wishes_leave_on_what_was_on_without_them(pairs: Any) -> None:
    taken_back = 0
    for pair, rng in pairs(100):
        wishes = random_wishes(pair.quick, rng, 14)
        pair.wait(wishes)  # to the user each is a step, until the refusal comes
        with busy(pair.quick.session):
            for wish in wishes:
                wrong = wish["name"] == "ask" and rng.random() < 0.7
                pair.quick.comm.receive(wish | {"args": wish["args"] | {"target": "w5 w6"}} if wrong else wish)
        assert pair.quick.session.interventions == pair.patient.session.interventions, pair.quick.client
        assert pair.quick.session.mode == pair.patient.session.mode
        names = [wish["name"] for wish in wishes]
        taken_back += ("ask", "undo") in list(pairwise(names))
    assert taken_back > 20, "hardly any question was taken back: the test shows nothing"


# ---- the parts ----------------------------------------------------------------------------------------------------------


def test_an_undo_belongs_to_the_last_awaited_step_that_nothing_was_done_after() -> None:
    gaps = (Gap("a", 3), Gap("b", 3))
    first = undone(gaps, 3)
    assert first is not None
    assert first[1] == "b"
    second = undone(first[0], 3)
    assert second is not None
    assert second[1] == "a"
    assert undone(second[0], 3) is None, "both are taken back: the next undo is of a step that is there"
    assert undone(gaps, 4) is None
    back = redone(second[0], 3)
    assert back is not None
    assert back[1] == "a"
    assert redone(second[0], 2) is None, "a step that is there comes back first"
    assert redone(gaps, 3) == (gaps, "b"), "after a new step nothing can be brought back"
    assert redone(stepped(gaps), 3) is None
    assert [gap.of for gap in stepped(first[0])] == ["a"]


def test_wishes_that_changed_nothing_can_be_forgotten_and_a_wish_finds_those_after_it() -> None:
    order: Order[str, int] = Order()
    for seq, wish in enumerate(("one", "two", "three"), 1):
        order.take("a", seq)
        order.did(Done("a", seq, wish, 0, 5, 5))
    assert [one.wish for one in order.since("two", 5) or []] == ["two", "three"]
    order.remove(lambda wish: wish == "two")
    assert order.since("two", 5) is None
    assert [one.wish for one in order.after("a", 1, 5) or []] == ["three"]
    order.remove(lambda wish: wish == "three")
    assert order.after("a", 2, 5) == [], "there is nothing to take back for it"


@pytest.mark.case("E05")
def test_with_views_that_compute_the_page_shows_the_question_and_its_own_numbers(bench: Bench) -> None:
    page, session = bench.page, bench.session
    page.calm()
    with session.model.lock:
        page.wish("ask", "ask", prompt="w7 w8 w9", target="w11", foil="w13")
        page.ablate("L1H2")
        page.wish("undo", "undo")
        page.ablate("L2H1")
    page.calm()
    assert page.state["question"]["prompt"] == "w7 w8 w9"
    assert [one["site"] for one in page.state["interventions"]] == ["L2H1"]
    assert page.metric == pytest.approx(bench.zeroed(2, 1), abs=1e-4)
    assert not page.state["busy"]
    page.wish("ask", "ask", prompt=PROMPT, target="w11", foil="w13")
    page.wish("clear", "clear")
    page.calm()
