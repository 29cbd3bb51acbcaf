"""What is asked of one view is done, stopped, or refused in a sentence: nothing is acknowledged and then comes to nothing."""

from __future__ import annotations

import re
import threading
import types
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch

import interp_widgets as iw
from interp_widgets.methods import spans
from interp_widgets.methods.explained import explained
from interp_widgets.methods.spans import span_scores
from interp_widgets.model.errors import InterpError, PromptError
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked, Metric, Tokenizer
from interp_widgets.widgets.base import View
from interp_widgets.widgets.channel import mirror_of
from interp_widgets.worker import Worker, worker_of
from tests.unit import tiny_models
from tests.unit.comm import Json, Wire
from tests.unit.page import PROMPT, REFERENCE, Page, open_page


@pytest.fixture
def session() -> Iterator[iw.Session]:
    opened = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
    opened.reference = REFERENCE
    opened.ask(PROMPT, target="w11", foil="w13")
    yield opened
    opened.close()


def push(session: iw.Session, name: str = "push") -> Any:
    return iw.steering_vector(session, ["w3 w4", "w5 w6"], ["w7 w8", "w9 w10"], "L1", name=name)


def act(page: Page, view: View, action: str, **args: Any) -> int:
    return page.wish("panel", f"panel:{view.panel}:{action}", panel=view.panel, action=action, **args)


def said(page: Page, seq: int) -> str:
    """Why a wish was refused, once that is said."""
    page.wait(lambda: page.refusal(seq) is not None, "a refusal")
    return str(page.refusal(seq))


# ---- a regular expression ------------------------------------------------------------------------------------------


def words() -> tuple[LiveModel, Asked]:
    raw = tiny_models.tokenizer()
    tokens = Tokenizer(raw, tiny_models.VOCAB, None)
    live: Any = types.SimpleNamespace(tokens=tokens, tokenizer=raw)
    encoded = tokens.encode(PROMPT)
    return cast("LiveModel", live), Asked(PROMPT, encoded, Metric((0,)), (), (), len(encoded) - 1)


def chosen(expression: str) -> list[str]:
    live, asked = words()
    found = span_scores(live, asked, np.zeros(len(asked.tokens)), f"/{expression}/")
    return [span.text.strip() for span in found if span.chosen]


def nested(repeat: str, depth: int) -> str:
    text = "w"
    for _ in range(depth):
        text = f"({text}){repeat}"
    return text


TOO_MANY = ["(((w){99}){99}){9}", "w{99999}", "w{99999999999999999999999}", nested("+", 17), nested("{2}", 11)]


@pytest.mark.parametrize("expression", [*TOO_MANY, "(([)(]w{99}[)(]){99}){9}", r"((\)w{99}\(){99}){9}"])
def test_an_expression_whose_repeats_multiply_is_refused_before_it_is_compiled(
    expression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(_expression: str) -> None:
        raise AssertionError("it was compiled, which cannot be stopped")

    monkeypatch.setattr(spans.regex, "compile", compiled)
    with pytest.raises(PromptError, match=r"repeats its parts more than 50,000 times in all; write smaller counts"):
        chosen(expression)


@pytest.mark.parametrize(
    "expression",
    [
        r"w\d", r"w\d+", r"w(?:5|30)\b", r"(w\d+\s?){2}", r"(?:\w{1,4000}\s?){1,4000}", r"[(){}+]{3}|w[5-9]", r"w\d{1,}", r".{0,5000}",
        r"(?<=w5\s)\S+", r"w\d{2}?", r"(?P<n>w\d+)(?=\s)", r"\w{2}\s{1}", r"w{,3}5", r"w5(?# a { comment)", r"[]w]\d", r"\S{3}\\?",
        r"((\w+\s?){3}){2}",
    ],
)  # fmt: skip
def test_ordinary_expressions_match_what_they_match_in_re(expression: str) -> None:
    plain = [m.span() for m in re.finditer(expression, PROMPT) if m.end() > m.start()]
    starts = [PROMPT.index(word) if n != 3 else 10 for n, word in enumerate(PROMPT.split())]  # w5 is there twice
    ends = [*starts[1:], len(PROMPT)]
    touched = {
        i for begin, end in plain for i in range(len(starts)) if max(0, starts[i] - 1) < end and ends[i] - 1 > begin
    }
    assert " ".join(chosen(expression)).split() == [PROMPT.split()[i] for i in sorted(touched)]


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
@pytest.mark.parametrize("at", ["compile", "search"])
def test_an_expression_that_memory_or_stack_cannot_hold_is_refused_in_a_sentence(
    error: type[Exception], at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(
        spans.regex, "compile", fail if at == "compile" else lambda _: types.SimpleNamespace(finditer=fail)
    )
    with pytest.raises(PromptError, match=r"'\(\?R\)' takes more memory than a search has.*calls itself"):
        chosen("(?R)")


def test_a_typed_expression_of_too_many_copies_is_refused_beside_its_field(session: iw.Session, wire: Wire) -> None:
    view = iw.TokenAttribution(session, steps=4)
    page = open_page(wire, session)
    page.calm()
    wire.of(view).receive_state(pattern=TOO_MANY[0])
    page.wait(lambda: "50,000 times" in page.panel(view)["data"].get("matches_note", ""), "a sentence")
    page.calm()
    assert page.panel(view)["status"] == "done"


# ---- the sliders: made whole or not at all -------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["width", "site", "name", "long name"])
def test_sliders_that_cannot_be_made_leave_no_view_that_computes(session: iw.Session, fault: str) -> None:
    good = push(session)
    bigger = {"width": tiny_models.gpt2(n_embd=16), "site": tiny_models.gpt2(n_layer=5)}.get(fault)
    bad, name = good, {"name": "", "long name": "w" * 999}.get(fault, "bad")
    if bigger is not None:
        other = iw.open(bigger, tiny_models.tokenizer())
        where = "L4" if fault == "site" else "L1"
        bad = iw.steering_vector(other, ["w3 w4", "w5 w6"], ["w7 w8", "w9 w10"], where, name="bad")
        other.close()
    with pytest.raises(InterpError):
        iw.SteeringSliders(session, vectors={"good": good, name: bad})
    assert mirror_of(session).views() == []
    if fault != "long name":  # what the session alone knows is found when it is given
        assert list(session.vectors) == []


# ---- the sliders: stops --------------------------------------------------------------------------------------------


def sliders(session: iw.Session, wire: Wire, **settings: Any) -> tuple[iw.SteeringSliders, Page]:
    view = iw.SteeringSliders(session, vectors={"push": push(session)}, **{"coherence": False, **settings})
    page = open_page(wire, session)
    page.calm()
    return view, page


def text_of(page: Page, view: View) -> Json:
    return page.panel(view)["data"].get("continuation", {})


def stopped_while_written(session: iw.Session, wire: Wire) -> tuple[iw.SteeringSliders, Page]:
    view, page = sliders(session, wire, tokens=50)
    page.drag(1.0, final=True)
    page.wait(lambda: text_of(page, view).get("running") and text_of(page, view)["edited"], "a text under way")
    act(page, view, "stop")
    page.calm()
    assert text_of(page, view)["note"] == "stopped"
    return view, page


def test_after_a_stop_another_length_is_written(session: iw.Session, wire: Wire) -> None:
    view, page = stopped_while_written(session, wire)
    wire.of(view).receive_state(tokens=12)
    page.wait(lambda: text_of(page, view)["note"] == "" and not text_of(page, view)["running"], "the text")
    assert [len(text_of(page, view)[which]) for which in ("plain", "edited")] == [12, 12]


def test_after_a_stop_another_question_has_its_own_text(session: iw.Session, wire: Wire) -> None:
    view, page = stopped_while_written(session, wire)
    page.wish("ask", "ask", prompt="w7 w8", target=None, foil=None)
    page.calm()
    own = session.model.generate("w7 w8", max_new_tokens=50)
    assert [token["id"] for token in text_of(page, view)["plain"]] == [token.id for token in own]
    assert text_of(page, view)["note"] == ""


def test_a_text_that_was_stopped_is_not_begun_again_by_what_is_asked_beside_it(session: iw.Session, wire: Wire) -> None:
    view, page = stopped_while_written(session, wire)
    before = text_of(page, view)
    act(page, view, "map", vector="push")
    page.wait(lambda: (page.panel(view)["data"].get("map") or {}).get("done"), "the map")
    page.calm()
    assert text_of(page, view) == before
    act(page, view, "generate")
    page.wait(lambda: len(text_of(page, view)["edited"]) == 50, "the whole text")


def test_a_plain_text_that_was_stopped_says_so(session: iw.Session, wire: Wire) -> None:
    view, page = sliders(session, wire, tokens=50)
    page.wish("ask", "ask", prompt="w7 w8", target=None, foil=None)
    page.wait(lambda: text_of(page, view).get("running") and len(text_of(page, view)["plain"]) < 40, "a text under way")
    act(page, view, "stop")
    page.calm()
    assert (text_of(page, view)["note"], text_of(page, view)["running"]) == ("stopped", False)


def test_a_stop_that_comes_before_a_measurement_begins_is_a_stop_of_it(session: iw.Session, wire: Wire) -> None:
    view, page = sliders(session, wire, tokens=0)
    with session.model.lock:  # the worker waits for the model
        act(page, view, "map", vector="push")
        act(page, view, "stop")
        session.ask(PROMPT, target="w11", foil="w12")
        act(page, view, "stop")
    page.calm()
    last = page.panel(view)
    assert (last["status"], last["message"]) == ("asking", "Stopped; what was measured so far stays")
    assert not (last["data"].get("map") or {}).get("done")
    act(page, view, "compute")
    page.wait(lambda: (page.panel(view)["data"].get("map") or {}).get("done"), "the map, after a yes")


def test_a_stop_of_a_measurement_that_is_set_aside_for_an_answer_holds(session: iw.Session, wire: Wire) -> None:
    view, page = sliders(session, wire, tokens=0)
    free = threading.Event()

    def slow(logits: torch.Tensor) -> float:
        free.wait(0.02)
        return float(logits[11] - logits[13])

    session.ask(PROMPT, target="w11", foil="w13", metric=slow)
    page.wait(lambda: page.panel(view)["status"] == "partial", "the measurement")
    urgent, go_on = threading.Event(), threading.Event()

    def answer(_cancelled: Any) -> None:
        urgent.set()
        go_on.wait(10)

    worker_of(session.model).submit("urgent", answer, 0)
    assert urgent.wait(10), "the measurement was not set aside"
    act(page, view, "stop")
    go_on.set()
    page.calm()
    free.set()
    assert page.panel(view)["message"] == "Stopped; what was measured so far stays"


def test_a_text_that_is_stopped_while_it_is_set_aside_is_under_way_no_more(session: iw.Session, wire: Wire) -> None:
    view, page = sliders(session, wire, tokens=50)
    page.drag(1.0, final=True)
    page.wait(lambda: text_of(page, view).get("running") and text_of(page, view)["edited"], "a text under way")
    urgent, go_on = threading.Event(), threading.Event()

    def answer(_cancelled: Any) -> None:
        urgent.set()
        go_on.wait(10)

    worker_of(session.model).submit("urgent", answer, 0)
    assert urgent.wait(10), "the text was not set aside"
    act(page, view, "stop")
    go_on.set()
    page.calm()
    now = text_of(page, view)
    assert (now["running"], now["note"]) == (False, "stopped")
    assert 0 < len(now["edited"]) < 50


# ---- branches ------------------------------------------------------------------------------------------------------


def test_a_branch_of_a_text_that_is_gone_says_so_and_the_texts_are_there(session: iw.Session, wire: Wire) -> None:
    session.switch(["L0H0"], off=True, mode="zero")
    view = iw.Generation(session, tokens=6)
    page = open_page(wire, session)
    page.calm()
    with session.model.lock:
        act(page, view, "branch", branch=1, at=2, token=5)
        page.wish("clear", "clear")
    page.wait(lambda: page.panel(view)["status"] == "failed", "a sentence")
    last = page.panel(view)
    assert last["message"].startswith("A branch could not begin: the text that was clicked has been written anew")
    assert (last["data"]["order"], last["data"]["running"]) == ([0, 1], False)
    act(page, view, "branch", branch=0, at=2, token=5)
    page.wait(lambda: page.panel(view)["status"] == "done", "the branch that there is a place for")
    assert page.panel(view)["data"]["order"] == [0, 1, 2]


def test_a_branch_grows_on_the_text_that_was_clicked_or_not_at_all(session: iw.Session, wire: Wire) -> None:
    session.switch(["L0H0"], off=True, mode="zero")
    view = iw.Generation(session, tokens=6)
    page = open_page(wire, session)
    page.calm()
    before = [token["id"] for token in page.panel(view)["data"]["branch:1"]["tokens"]]
    with session.model.lock:
        act(page, view, "branch", branch=1, at=2, token=5)
        act(page, view, "branch", branch=0, at=2, token=5)
        session.set(iw.Ablate("L0.mlp", mode="zero"), iw.Ablate("L1.mlp", mode="zero"))
    page.wait(lambda: page.panel(view)["status"] == "failed", "a sentence")
    data = page.panel(view)["data"]
    assert [token["id"] for token in data["branch:1"]["tokens"]][:3] != before[:3], "the test needs another text"
    grown = [data[f"branch:{n}"]["parent"] for n in data["order"] if n > 1]
    assert grown == [0], "the plain text is as it was, and its branch is there"
    assert page.panel(view)["message"].startswith("A branch could not begin")


def test_branches_that_wait_while_another_question_is_asked_are_told_to_be_gone(
    session: iw.Session, wire: Wire
) -> None:
    view = iw.Generation(session, tokens=6)
    page = open_page(wire, session)
    page.calm()
    with session.model.lock:
        act(page, view, "branch", branch=0, at=1, token=5)
        page.wish("panel", "second", panel=view.panel, action="branch", branch=0, at=2, token=6)
        session.ask("w7 w8")
    page.wait(lambda: page.panel(view)["status"] == "failed", "a sentence")
    assert page.panel(view)["message"].startswith("2 branches could not begin")


# ---- backups -------------------------------------------------------------------------------------------------------


def test_backups_are_refused_before_anything_is_measured(session: iw.Session, wire: Wire) -> None:
    session.switch(["L0H0", "L1H1"], off=True, mode="zero")
    with session.model.lock:
        view = iw.SelfRepair(session)
        page = open_page(wire, session)
        assert "still being measured" in said(page, act(page, view, "backups", rounds=1))
    page.calm()
    assert len(session.interventions) == 2


def test_backups_of_nothing_are_refused_in_a_sentence(session: iw.Session, wire: Wire) -> None:
    view = iw.SelfRepair(session)
    page = open_page(wire, session)
    page.calm()
    assert said(page, act(page, view, "backups", rounds=1)) == (
        "There are no backups to ablate: nothing is switched off. Switch a head off first."
    )


def test_backups_are_refused_when_no_head_restores_anything(
    session: iw.Session, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp_widgets.widgets.self_repair.candidates", lambda _report: [])
    session.switch(["L0H0"], off=True, mode="zero")
    view = iw.SelfRepair(session)
    page = open_page(wire, session)
    page.calm()
    assert "no head restores 5% of the direct effect" in said(page, act(page, view, "backups", rounds=1))


def test_after_a_failure_backups_are_refused_with_its_reason_and_no_report_of_before(
    session: iw.Session, wire: Wire
) -> None:
    session.switch(["L0H0"], off=True, mode="zero")
    view = iw.SelfRepair(session)
    page = open_page(wire, session)
    page.calm()
    assert view.report is not None
    session.switch(["L1H1"], off=True, mode="mean")
    page.calm()
    assert page.panel(view)["status"] == "failed"
    assert said(page, act(page, view, "backups", rounds=1)).endswith("choose one mode.")
    assert view.report is None


# ---- another token -------------------------------------------------------------------------------------------------


def tokens(session: iw.Session, wire: Wire, **settings: Any) -> tuple[iw.TokenAttribution, Page]:
    view = iw.TokenAttribution(session, steps=4, **settings)
    page = open_page(wire, session)
    page.calm()
    return view, page


def test_another_output_of_no_answer_is_refused_and_does_not_spring_up_later(session: iw.Session, wire: Wire) -> None:
    view, page = tokens(session, wire)
    assert said(page, act(page, view, "instead", output=0, id=5)).startswith("No answer is explained")
    view.answer = 2
    page.wait(lambda: (page.panel(view)["data"].get("answer") or {}).get("outputs"), "the answer")
    page.calm()
    assert page.panel(view)["data"].get("instead") is None


def test_an_output_beyond_the_answer_is_refused_with_how_many_there_are(session: iw.Session, wire: Wire) -> None:
    view, page = tokens(session, wire, answer=3)
    assert "Output 40 does not exist: 3 tokens are explained" in said(page, act(page, view, "instead", output=40, id=5))
    session.ask(" ".join(f"w{2 + i % 50}" for i in range(62)), target="w11", foil="w13")  # the context holds 64
    page.calm()
    assert "Output 2 does not exist: 2 tokens are explained" in said(page, act(page, view, "instead", output=2, id=5))


def test_another_output_is_forgotten_with_the_question_and_with_the_length(session: iw.Session, wire: Wire) -> None:
    view, page = tokens(session, wire, answer=3)

    def shown() -> Any:
        return (page.panel(view)["data"].get("instead") or {}).get("output")

    act(page, view, "instead", output=2, id=5)
    page.wait(lambda: shown() == 2, "the other token")
    for change in (lambda: setattr(view, "answer", 1), lambda: setattr(view, "answer", 3)):
        change()
        page.wait(lambda: len(page.panel(view)["data"]["answer"].get("outputs", ())) == view.answer, "the answer")
        page.calm()
    assert shown() is None
    act(page, view, "instead", output=1, id=5)
    page.wait(lambda: shown() == 1, "the other token")
    session.ask("w7 w8 w9", target="w11", foil="w13")
    page.wait(lambda: len(page.panel(view)["data"]["tokens"]) == 3, "the other question")
    page.calm()
    assert shown() is None


def test_a_target_that_is_clicked_while_a_question_is_asked_is_that_questions(session: iw.Session, wire: Wire) -> None:
    view, page = tokens(session, wire)
    with session.model.lock:
        page.wish("ask", "ask", prompt="w5 w9 w12", target="w2", foil="w13")
        act(page, view, "target", id=20)
    page.wait(lambda: session.question is not None and session.question.first.prompt == "w5 w9 w12", "the question")
    page.calm()
    assert session.question is not None
    assert [token.text for token in session.question.first.target] == ["w20"]
    assert session.question.first.prompt == "w5 w9 w12"


# ---- what is saved with a notebook ---------------------------------------------------------------------------------


def test_no_words_of_a_baseline_or_a_pattern_are_in_the_state_that_a_notebook_keeps(
    session: iw.Session, wire: Wire
) -> None:
    words = "w3 w4 w8 w9 w20 w21"
    view, page = tokens(session, wire, method="occlusion", baseline=words, pattern="w5|w30")
    assert view.baseline == words, "Python has what it was given"
    assert page.panel(view)["data"]["matches"]["pattern"] == "w5|w30"
    assert act(page, view, "pattern", pattern="w9")
    page.wait(lambda: (page.panel(view)["data"]["matches"] or {}).get("pattern") == "w9", "the matches")
    page.calm()
    for one in (wire.of(view).state, view.get_state()):
        assert (one["baseline"], one["pattern"]) == ("your own prompt", "")
    view.baseline = "zero"
    page.calm()
    page.wait(lambda: wire.of(view).state["baseline"] == "zero", "a name, which says nothing of anybody's")


def test_a_baseline_of_ones_own_that_a_page_sends_back_stays_what_it_is(session: iw.Session, wire: Wire) -> None:
    view, page = tokens(session, wire, method="occlusion", baseline="w3 w4 w8 w9 w20 w21")
    before = page.panel(view)["data"]["scores"]
    wire.of(view).receive_state(baseline="your own prompt")
    page.calm()
    assert (view.baseline, page.panel(view)["data"]["scores"]) == ("w3 w4 w8 w9 w20 w21", before)


@pytest.mark.parametrize("pattern", [None, 5, "w" * 1001, "w\ud83d"])
def test_a_pattern_that_is_no_text_is_refused_and_the_old_one_stays(
    session: iw.Session, wire: Wire, pattern: Any
) -> None:
    view, page = tokens(session, wire, pattern="w5")
    assert "at most 1000 whole characters" in said(page, act(page, view, "pattern", pattern=pattern))
    assert view.pattern == "w5"


# ---- a metric of the user's ----------------------------------------------------------------------------------------


VALUES = [
    (None, "None"),
    ("a", "'a'"),
    ("1.5", "'1.5'"),
    (torch.ones(2), r"a tensor of shape \[2\]"),
    (10**400, "no float holds"),
    ([1, 2], r"\[1, 2\]"),
]


@pytest.mark.parametrize(("value", "shown"), VALUES, ids=[shown for _, shown in VALUES])
def test_a_metric_that_is_not_one_number_is_refused_by_its_name(session: iw.Session, value: Any, shown: str) -> None:
    def my_own(_logits: torch.Tensor) -> Any:
        return value

    session.ask(PROMPT, target="w11", foil="w13", metric=my_own)
    with pytest.raises(PromptError, match=rf"The metric 'my own' returned .*{shown}.*one number is needed"):
        _ = session.answer
    question = session.question
    assert question is not None
    with pytest.raises(PromptError, match=r"The metric 'my own' returned"):
        explained(session.model, question).score(torch.zeros(1, 1, tiny_models.VOCAB))


@pytest.mark.parametrize("value", [1, 1.5, True, np.float32(2), torch.tensor(3.0), torch.tensor([4.0])])
def test_a_metric_that_is_one_number_is_read_whatever_its_type(value: Any) -> None:
    metric = Metric((0,), (1,), lambda _logits: value)
    assert metric.of(torch.zeros(2, 5)).tolist() == [float(value)] * 2


def leaves(_x: torch.Tensor) -> Any:
    raise SystemExit


def test_a_metric_that_would_end_the_process_is_told_and_the_page_goes_on(session: iw.Session, wire: Wire) -> None:
    view = iw.HeadAblation(session, mode="zero")
    page = open_page(wire, session)
    page.calm()
    session.ask(PROMPT, target="w11", foil="w13", metric=leaves)
    page.wait(lambda: page.state["error"] is not None, "a sentence")
    assert page.state["error"] == "The answer could not be computed: SystemExit"
    assert not page.state["busy"]
    page.wait(lambda: page.panel(view)["status"] == "failed", "the view says it too")
    session.ask(PROMPT, target="w11", foil="w13")
    page.calm()
    assert page.metric is not None


def test_an_edit_that_would_end_the_process_is_told_and_the_page_goes_on(session: iw.Session, wire: Wire) -> None:
    view = iw.TokenAttribution(session, steps=4)
    page = open_page(wire, session)
    page.calm()
    session.set(iw.Edit("L1", leaves, name="mine"))
    page.wait(lambda: "SystemExit" in (page.state["error"] or ""), "a sentence")
    page.wait(lambda: page.panel(view)["status"] == "failed", "the view says it too")
    session.clear()
    page.calm()
    assert page.panel(view)["status"] == "done"


def test_a_job_that_would_end_the_thread_is_followed_by_the_next_one() -> None:
    worker, done = Worker(), threading.Event()

    def leave(_cancelled: Any) -> None:
        raise SystemExit

    worker.submit("a", leave)
    assert worker.wait(5), "the worker counts itself as busy for ever"
    worker.submit("b", lambda _cancelled: done.set())
    assert done.wait(5)
    worker.close()
    worker.join(5)
