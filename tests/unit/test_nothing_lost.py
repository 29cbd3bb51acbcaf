"""What a page wishes is done, or refused in a sentence: across reloads, interrupts, floods, and states of every size (groups D, E)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import interp_widgets as iw
from interp_widgets.methods.coherence import coherence
from interp_widgets.methods.head_card import head_card
from interp_widgets.model import gate
from interp_widgets.widgets.channel import stop_all
from interp_widgets.widgets.outbox import LIMIT
from interp_widgets.widgets.pages import MOST, Pages
from interp_widgets.widgets.wire import MANY
from interp_widgets.worker import worker_of
from tests.unit import tiny_models
from tests.unit.comm import Wire
from tests.unit.conftest import Bench
from tests.unit.page import PROMPT, Page, open_page
from tests.unit.test_channel import Slow


def rows(table: Any) -> list[dict[str, Any]]:
    """A list as the page reads it, also where it came by columns."""
    if isinstance(table, list):
        return table  # pyright: ignore[reportUnknownVariableType]
    each = table["each"]
    return [table["same"] | {name: each[name][n] for name in each} for n in range(table["$rows"])]


def act(page: Page, view: Any, action: str, **args: Any) -> int:
    return page.wish("panel", f"panel:{view.panel}", panel=view.panel, action=action, **args)


@pytest.mark.case("H03", "E09")
def test_a_page_that_is_loaded_again_while_the_answer_computes_gets_it(bench: Bench, wire: Wire) -> None:
    page = bench.page
    page.calm()
    with bench.session.model.lock:  # a cell holds the model
        page.ablate("L1H1")
        page.wait(lambda: page.acknowledged and page.state["busy"], "the word that it computes")
        page.comm.receive({"kind": "bye", "client": page.client})
        again = open_page(wire, bench.session, "again")
        again.wait(lambda: again.shown["revision"] == bench.session.revision, "the state")
    again.calm(10)
    assert again.metric == pytest.approx(bench.zeroed(1, 1), abs=1e-4)
    page.hello()


@pytest.mark.alone
@pytest.mark.case("E10", "F08")
def test_a_question_that_an_interrupt_keeps_from_being_asked_is_refused_and_not_asked_later(bench: Bench) -> None:
    page = bench.page
    page.calm()
    with bench.session.model.lock:
        first = page.wish("ask", "ask", prompt="w7 w8", target=None, foil=None, chat=False)
        page.wait(lambda: page.acknowledged and page.state["busy"], "the word that it is being asked")
        stop_all()
        page.wait(lambda: page.refusal(first), "why it was not asked", 2.0)
    assert worker_of(bench.session.model).wait(10)
    assert "ask again" in str(page.refusal(first))
    question = bench.session.question
    assert question is not None and question.first.prompt == PROMPT


@pytest.mark.alone
@pytest.mark.case("E11")
def test_two_thousand_changes_of_a_setting_go_out_below_sixty_a_second_and_the_last_arrives(
    bench: Bench, wire: Wire
) -> None:
    comm = wire.of(bench.sliders)
    before = len(comm.sent)
    for n in range(2000):
        bench.sliders.tokens = n % 7
    for _ in range(500):
        comm.receive_state(tokens=-5)  # refused, each with the true value
    last = bench.sliders.tokens
    comm.wait(lambda: len(comm.sent) > before and comm.state["tokens"] == last, "the last value")
    worker_of(bench.session.model).wait(20)
    times = [sent.time for sent in comm.sent[before:]]
    most = max(sum(start <= at < start + 1.0 for at in times) for start in times)
    print(f"settings: 2500 changes became {len(times)} messages, at most {most} in a second")
    assert most <= 60
    bench.sliders.tokens = 6


@pytest.mark.alone
@pytest.mark.case("G11", "E11")
def test_with_three_thousand_heads_off_the_state_is_whole_small_and_can_be_undone(wire: Wire) -> None:
    model = tiny_models.gpt2(n_layer=48, n_head=64, n_embd=64, n_inner=8)
    session = iw.open(model, tiny_models.tokenizer())
    session.ask(PROMPT, target="w11", foil="w13")
    view = iw.SelfRepair(session)
    page = open_page(wire, session)
    sites = [f"L{layer}H{head}" for layer in range(48) for head in range(64)][1:]
    started = time.monotonic()
    page.wish("ablate_many", "heads:all", sites=sites, off=True, mode="zero")
    took = time.monotonic() - started
    page.wait(lambda: page.acknowledged and page.metric is not None, "the answer", 60)
    largest = max(sent.size for sent in page.of("state"))
    print(f"3071 heads off: taken in within {took:.2f} s, the largest state {largest / 1e3:.0f} kB")
    assert largest < LIMIT / 2
    assert [one["site"] for one in rows(page.state["interventions"])] == sites
    assert {one["state"] for one in rows(page.state["answer"]["receipts"])} == {"acted"}
    assert page.state["question"]["prompt"] == PROMPT
    assert took < 1.0, "the thread that takes wishes in stood still"
    page.wish("undo", "undo")
    page.wait(lambda: page.acknowledged and rows(page.state["interventions"]) == [], "everything back", 60)
    view.close()
    session.close()


def test_a_few_interventions_are_sent_as_they_are_and_many_by_columns(bench: Bench) -> None:
    bench.page.calm()
    sites = [f"L{layer}H{head}" for layer in range(3) for head in range(4)]
    bench.session.switch(sites, off=True, mode="zero")
    bench.page.calm()
    assert isinstance(bench.page.state["interventions"], list)
    assert len(sites) <= MANY
    bench.session.clear()


@pytest.mark.case("D07")
def test_a_setting_that_an_observer_refuses_is_taken_back_everywhere(bench: Bench, wire: Wire) -> None:
    bench.page.calm()

    def angry(_change: Any) -> None:
        raise ArithmeticError("not this one")

    bench.heads.observe(angry, names="mode")
    wire.of(bench.heads).receive_state(mode="mean")
    bench.page.calm()
    assert bench.heads.mode == "zero"
    assert bench.session.mode == "zero"
    assert "not this one" in bench.page.panel(bench.heads)["message"]
    bench.heads.unobserve(angry, names="mode")


@pytest.mark.case("D01")
def test_a_right_value_takes_away_what_was_said_of_a_wrong_one(bench: Bench, wire: Wire) -> None:
    page, comm = bench.page, wire.of(bench.heads)
    page.calm()
    for wrong, right in (({"draws": 0}, {"read": "KL"}), ({"read": "nonsense"}, {"read": "KL"})):
        comm.receive_state(**wrong)
        page.wait(lambda: "cannot be" in page.panel(bench.heads)["message"], "the refusal")
        assert page.panel(bench.heads)["status"] == "failed"
        comm.receive_state(**right)
        page.wait(lambda: page.panel(bench.heads)["message"] == "", "the sentence gone")
        assert page.panel(bench.heads)["status"] != "failed"
    page.calm()


@pytest.mark.case("E08")
def test_a_sweep_that_was_stopped_is_measured_when_a_setting_asks_for_another(bench: Bench) -> None:
    page = bench.page
    page.calm()
    act(page, bench.heads, "stop")
    bench.heads.positions = (2,)
    page.wait(lambda: page.panel(bench.heads)["data"]["positions"] == [2], "the other positions")
    page.wait(lambda: page.panel(bench.heads)["status"] == "done", "the whole table")
    bench.heads.positions = ()
    page.calm()


@pytest.mark.case("D15")
@pytest.mark.parametrize("what", ["prompt", "target", "foil"])
def test_half_a_character_is_refused_in_a_sentence(bench: Bench, what: str) -> None:
    page = bench.page
    page.calm()
    asked = {"prompt": "w3 w4", "target": "w11", "foil": "w13", "chat": False} | {what: "w3 \ud83d"}
    seq = page.wish("ask", "ask", **asked)
    page.wait(lambda: page.refusal(seq), "the sentence")
    assert f"The {what} holds half of a character (U+D83D)" in str(page.refusal(seq))


@pytest.mark.case("D03")
@pytest.mark.parametrize(
    "args",
    [{"site": 5}, {"positions": [1]}, {"mode": 7}, {"on": "yes"}, {"site": ""}],
    ids=str,
)
def test_a_wish_of_a_vector_with_a_wrong_value_is_refused_and_no_step(bench: Bench, args: dict[str, Any]) -> None:
    page = bench.page
    page.calm()
    page.wish("vector", "vector:push", name="push", on=True)
    page.wait(lambda: page.acknowledged, "the first taken in")
    steps = len(bench.session.history.moments)
    seq = page.wish("vector", "vector:push", name="push", **args)
    page.wait(lambda: page.refusal(seq), "the sentence")
    page.wish("vector", "vector:push", name="push", on=True)
    page.wait(lambda: page.acknowledged, "the second taken in")
    assert len(bench.session.history.moments) == steps, "what changes nothing is no step"


def test_a_vector_is_called_by_a_text_that_a_page_can_send_back(bench: Bench) -> None:
    vector = bench.session.vectors["push"]
    for name in (5, "", "x" * 201):
        with pytest.raises(iw.InterpError, match="a text of 1 to 200 letters"):
            bench.session.add_vector(vector, name)  # pyright: ignore[reportArgumentType]
        with pytest.raises(iw.InterpError, match="a text of 1 to 200 letters"):
            iw.SteeringSliders(bench.session, {"first": vector, name: vector})  # pyright: ignore[reportArgumentType]
        assert set(bench.session.vectors) == {"push"}, "the first vector was kept of a view that was refused"


# ---- asking again -------------------------------------------------------------------------------------------------------


def again(page: Page, **changes: Any) -> None:
    """Ask what the form holds, with these of its fields changed."""
    question = page.state["question"]
    said = {"prompt": question["message"] or question["prompt"], "chat": question["message"] is not None}
    said |= {name: [token["id"] for token in question[name]] or None for name in ("target", "foil")}
    seq = page.wish("ask", "ask", **(said | changes))
    page.wait(lambda: (page.acknowledged and not page.state["busy"]) or page.refusal(seq), "the answer")
    assert page.refusal(seq) is None


def test_a_question_that_is_asked_again_from_the_page_keeps_all_that_was_not_touched(bench: Bench) -> None:
    def chosen(logits: torch.Tensor) -> float:
        return float(logits[4])

    session, page = bench.session, bench.page
    session.ask(PROMPT, "w11", "w13", position=2, corrupt="w6 w9 w12 w5 w30 w7", metric=chosen)
    page.calm()
    before = session.question
    metric = session.answer.metric
    again(page)
    assert session.question == before
    assert session.answer.metric == metric
    again(page, target="w20")
    first = session.question.first if session.question else None
    assert first is not None
    assert (first.position, first.corrupt_prompt, first.metric.fn, first.target[0].text) == (
        2,
        "w6 w9 w12 w5 w30 w7",
        chosen,
        "w20",
    )
    again(page, prompt="w5 w9")
    first = session.question.first if session.question else None
    assert first is not None
    assert (first.position, first.corrupt, first.metric.fn) == (1, None, chosen)
    session.ask(PROMPT, "w11", "w13")
    page.calm()


def test_a_set_of_prompts_that_is_asked_again_from_the_page_stays_a_set(bench: Bench) -> None:
    session, page = bench.session, bench.page
    session.ask([iw.Example(PROMPT, "w11", "w13"), iw.Example("w3 w4 w5", "w20", "w21")])
    page.calm()
    before = session.question
    again(page)
    assert session.question == before
    again(page, target="w12")
    assert session.question is not None
    assert [asked.target[0].text for asked in session.question.examples] == ["w12", "w12"]
    session.ask(PROMPT, "w11", "w13")
    page.calm()


def test_a_prompt_that_had_a_bos_is_asked_with_one_again() -> None:
    session = iw.open()
    session.ask("The cat", bos=True)
    assert session.question is not None
    start = session.question.first.ids[0]
    from interp_widgets.asking import asked_again

    new = asked_again(session.model, session.question, "The dog", None, None, chat=False)
    assert new.first.ids[0] == start
    assert new.first.ids[1] != start
    session.close()


# ---- what a typed pattern may cost --------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.case("D04", "E13")
def test_a_regular_expression_without_end_is_refused_and_holds_nobody_up(bench: Bench, wire: Wire) -> None:
    session, page = bench.session, bench.page
    session.ask(" ".join(["w5"] * 40), "w11", "w13")
    page.calm()
    beats, stop = [0.0], threading.Event()

    def pulse() -> None:
        last = time.monotonic()
        while not stop.wait(0.01):
            beats[0], last = max(beats[0], time.monotonic() - last), time.monotonic()

    thread = threading.Thread(target=pulse, daemon=True)
    thread.start()
    comm = wire.of(bench.tokens)

    def said() -> str:
        return str(page.panel(bench.tokens)["data"].get("matches_note"))

    comm.receive_state(pattern=r"([a-z0-9 ]+)*$x", spans="pattern")  # `re` would be at it until the end of the world
    page.wait(lambda: "matches nothing" in said(), "the sentence", 30)
    comm.receive_state(pattern=r"(.+)(.+)(.+)(.+)(.+)(.+)\6\5\4\3[A-Z]")
    page.wait(lambda: "takes longer than" in said(), "the sentence", 30)
    stop.set()
    thread.join()
    assert beats[0] < 0.8, "every other thread stood still"
    wire.of(bench.tokens).receive_state(pattern="a{99999999999999999999}")
    page.wait(lambda: "cannot be read" in said(), "the sentence", 30)
    wire.of(bench.tokens).receive_state(pattern="w5", spans="token")
    session.ask(PROMPT, "w11", "w13")
    page.calm()


# ---- rounds that nobody asked for ---------------------------------------------------------------------------------------


@pytest.fixture
def rounds(bench: Bench) -> tuple[Slow, Any]:
    """A view whose backups go one round after the other, slowly: two of several have gone."""
    session, page, slow = bench.session, bench.page, Slow(0.0)
    for other in (bench.tokens, bench.sliders, bench.heads):
        other.close()
    view = iw.SelfRepair(session)
    session.set(iw.Edit("L0", slow, name="slow"), iw.Ablate("L0H1", "zero"))
    page.calm()
    slow.seconds = 0.15
    act(page, view, "backups", rounds=8)
    page.wait(lambda: len(session.interventions) > 2, "a round")
    return slow, view


ENDS: dict[str, Callable[[Bench], object]] = {
    "an interrupt": lambda _bench: stop_all(),
    "another question": lambda bench: bench.session.ask("w3 w4 w5 w9", "w20", "w21"),
    "an undo": lambda bench: bench.session.undo(),
}


@pytest.mark.case("F08", "E07")
@pytest.mark.parametrize("how", ENDS)
def test_rounds_of_backups_end_with_what_they_were_wished_for(bench: Bench, rounds: tuple[Slow, Any], how: str) -> None:
    slow, view = rounds
    session = bench.session
    ENDS[how](bench)
    slow.seconds = 0.0
    assert worker_of(session.model).wait(20)
    there = session.interventions
    session.set(iw.Ablate("L0H1", "zero"))
    bench.page.calm()
    assert worker_of(session.model).wait(20)
    assert [i.site.name for i in session.interventions] == ["L0H1"], f"after {how}, heads went off by themselves"
    assert len(there) < 12
    view.close()
    session.clear()
    if how == "another question":
        session.ask(PROMPT, "w11", "w13")


def test_the_page_of_a_state_that_is_too_large_keeps_its_way_back() -> None:
    from interp_widgets.widgets.outbox import _too_large

    state = {"question": {"prompt": "w3"}, "interventions": ["x" * 10], "answer": {"metric": 1.0}, "vectors": []}
    state |= {"history": {"items": [{"label": "asked"}], "index": 0}, "error": None}
    made = _too_large({"kind": "state", "state": state}, 2_000_000)["state"]
    assert made["question"] == {"prompt": "w3"}
    assert made["history"]["items"]
    assert made["interventions"] == []
    huge = {**state, "question": {"prompt": "x" * 2_000_000}}
    assert len(json.dumps(_too_large({"kind": "state", "state": huge}, 2_000_000))) < LIMIT


# ---- small things that were lost ----------------------------------------------------------------------------------------


def test_work_goes_on_while_a_page_beyond_those_that_are_noted_may_still_look() -> None:
    pages = Pages()
    for n in range(MOST + 1):
        pages.came(f"page {n}", listening=True)
    assert not any(pages.left(f"page {n}") for n in range(MOST)), "the last of them may be one that was not noted"


@pytest.mark.case("D03")
def test_a_mode_that_is_not_named_and_an_action_that_is_not_known_are_refused(bench: Bench) -> None:
    page = bench.page
    page.calm()
    before = bench.session.revision
    seqs = [page.wish("mode", "mode", mode=None), act(page, bench.heads, "dance")]
    page.wait(lambda: all(page.refusal(seq) for seq in seqs), "both sentences")
    assert bench.session.revision == before
    assert bench.heads._agreed == -1, "what is not known has said yes to a long sweep"


@pytest.mark.case("D03")
def test_a_key_without_end_is_refused_under_as_much_of_it_as_is_sent_back(bench: Bench) -> None:
    page = bench.page
    page.calm()
    seq = page.wish("strength", "strength:" + "x" * 2000, name="x", value=1.0)
    page.wait(lambda: page.refusal(seq), "the sentence")
    assert "a key of at most 1000 letters" in str(page.refusal(seq))
    page.ablate("L0H0", off=False)  # a number beyond it, so that the page has nothing left to wait for


def test_texts_are_judged_on_a_prompt_that_nearly_fills_the_context_and_not_on_one_that_does(bench: Bench) -> None:
    session, vector = bench.session, bench.session.vectors["push"]
    session.ask(" ".join(["w5"] * 61), "w11", "w13")
    assert session.question is not None
    found = coherence(session.model, session.question.first, vector, [1.0], tokens=8, samples=20)
    assert np.isfinite(found.loss).all()
    session.ask(" ".join(["w5"] * 64), "w11", "w13")
    with pytest.raises(iw.InterpError, match="fills the model's context of 64 tokens"):
        coherence(session.model, session.question.first, vector, [1.0], samples=20)
    session.ask(PROMPT, "w11", "w13")


@pytest.mark.case("A18")
def test_a_heads_card_is_the_same_in_the_callers_inference_mode(bench: Bench) -> None:
    assert bench.session.question is not None
    asked = bench.session.question.first
    plain = head_card(bench.session.model, asked, 1, 2)
    with torch.inference_mode():
        again = head_card(bench.session.model, asked, 1, 2)
    assert again.direct == plain.direct
    assert again.copying == plain.copying


def test_hooks_of_ours_that_torch_calls_without_keywords_leave_the_call_alone() -> None:
    module, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    assert gate.before_hook(module, (x,)) is None
    assert gate.after_hook(module, (x,), x) is None  # pyright: ignore[reportArgumentType]  (torch leaves the keywords out)
