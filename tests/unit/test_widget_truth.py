"""What a view shows, says and takes is what there is: no lock is waited for, no old number passes for a new one."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
import traitlets

import interp_widgets as iw
from interp_widgets.methods import head_effects as sweeps
from interp_widgets.model.errors import InterventionError
from interp_widgets.widgets import attention_patterns, channel, head_ablation
from interp_widgets.widgets.base import View
from interp_widgets.widgets.channel import mirror_of
from interp_widgets.widgets.outbox import Outbox
from interp_widgets.widgets.wire import state_of
from interp_widgets.worker import worker_of
from tests.unit import tiny_models
from tests.unit.comm import Json, Wire
from tests.unit.page import PROMPT, REFERENCE, Page, open_page
from tests.unit.test_anatomy import tiny

pytestmark = pytest.mark.alone

LOCKED = 6.0  # seconds until a message of these tests gives up a lock that it would wait for for ever


@pytest.fixture
def session(wire: Wire) -> Iterator[iw.Session]:
    made = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
    made.reference = REFERENCE
    made.ask(PROMPT, target="w11", foil="w13")
    yield made
    made.close()


def act(page: Page, view: View, action: str, **args: Any) -> int:
    return page.wish("panel", f"panel:{view.panel}:{action}", panel=view.panel, action=action, **args)


# ---- closing, whatever lock is held -----------------------------------------------------------------------------------


def in_a_listener(session: iw.Session, job: Callable[[], object]) -> None:
    """Do `job` as whoever listens to the session does it: once, inside the change of a state."""
    done = False

    def heard(_session: iw.Session, what: str) -> None:
        nonlocal done
        if what == "state" and not done:
            done = True
            job()

    end = session.listen(heard)
    session.toggle("L0H0", mode="zero")
    end()
    assert done


def while_a_message_waits_for_the_session(session: iw.Session, job: Callable[[], object]) -> float:
    """How long `job` takes under the session's lock, as in a listener, while a message is being made that waits for that lock."""
    reached, lock = threading.Event(), session.held()

    def make() -> Json:
        reached.set()
        if lock.acquire(timeout=LOCKED):  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  (a lock it is)
            lock.release()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        return {"kind": "late"}

    with lock:
        mirror_of(session)._outbox.put("late", make)
        assert reached.wait(5)
        begun = time.monotonic()
        job()
        return time.monotonic() - begun


def test_a_view_that_a_listener_closes_is_closed_though_the_page_is_being_told_of_the_change(
    session: iw.Session, wire: Wire
) -> None:
    iw.AttentionPatterns(session)
    view = iw.SelfRepair(session)
    comm = wire.of(view)
    open_page(wire, session).calm()
    seconds = while_a_message_waits_for_the_session(session, view.close)
    assert seconds < LOCKED / 3, "it waited for whoever waited for us"
    assert comm.sent[-1].kind == "comm_close"
    open_page(wire, session, "another").calm()


def test_a_session_that_a_listener_closes_says_goodbye_and_nothing_after(session: iw.Session, wire: Wire) -> None:
    comm = wire.of(iw.SelfRepair(session))
    page = open_page(wire, session)
    page.calm()
    seconds = while_a_message_waits_for_the_session(session, session.close)
    assert seconds < LOCKED / 2, "it waited for whoever waited for us"
    assert [one.kind for one in page.comm.sent].count("comm_close") == 1
    other = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())  # the one sender has come past the message that waited
    iw.SelfRepair(other)
    open_page(wire, other)
    assert page.comm.sent[-1].kind == comm.sent[-1].kind == "comm_close"
    assert page.of("closed")
    assert not page.of("late")
    other.close()


def test_views_that_come_and_go_with_every_change_hold_nobody_up(
    session: iw.Session, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    iw.AttentionPatterns(session)
    page = open_page(wire, session)
    page.calm()
    session.listen(lambda _session, what: iw.SelfRepair(session).close() if what == "state" else None)
    ended = threading.Event()

    def changes() -> None:
        for _ in range(100):
            session.toggle("L0H0", mode="zero")
        ended.set()

    threading.Thread(target=changes, daemon=True).start()
    if not ended.wait(30):
        monkeypatch.setattr(session, "close", lambda: None)  # it would wait too, for ever
        pytest.fail("a change of the session never ends")
    page.calm()


def test_what_is_on_its_way_when_a_box_closes_goes_out_before_the_goodbye() -> None:
    sent, begun = list[Any](), threading.Event()
    box = Outbox(lambda content, _buffers: sent.append(content["n"]))

    def slow() -> Json:
        begun.set()
        time.sleep(0.3)
        return {"n": 1}

    box.put("slow", slow)
    assert begun.wait(5)
    box.put("goodbye", lambda: {"n": 2})
    box.close()
    assert sent == [1, 2]


def test_two_threads_that_open_the_first_view_one_of_them_in_a_listener_both_get_on(
    session: iw.Session, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "_MIRRORS_LOCK", threading.RLock())  # a failure holds it for ever
    making, listening, made = threading.Event(), threading.Event(), list[Any]()
    real = channel.SessionWidget

    def slowly(session: iw.Session) -> Any:
        making.set()
        listening.wait(0.5)
        return real(session)

    monkeypatch.setattr(channel, "SessionWidget", slowly)

    def opens() -> None:
        made.append(mirror_of(session))

    def heard() -> None:
        listening.set()
        opens()

    def changes() -> None:
        assert making.wait(5)
        in_a_listener(session, heard)

    threads = [threading.Thread(target=one, daemon=True) for one in (opens, changes)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(10)
    stuck = any(one.is_alive() for one in threads)
    if stuck:
        monkeypatch.setattr(session, "close", lambda: None)
    assert not stuck
    assert len(made) == 2
    assert made[0] is made[1]


# ---- a part beside the rest -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def nobody_computes(session: iw.Session) -> Generator[None]:
    """The answer comes, and no view's turn does: as while another one computes for long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirror_of(session)._computing, "compute_panel", lambda *_: None)
        yield


def test_a_card_that_is_drawn_before_the_table_does_not_pass_the_old_table_off_as_the_new(
    session: iw.Session, wire: Wire
) -> None:
    view = iw.HeadAblation(session, mode="zero")
    page = open_page(wire, session)
    page.calm()
    old = page.panel(view)["data"]["baseline"]
    with nobody_computes(session):
        page.ablate("L1H2")
        act(page, view, "card", layer=2, head=1)
        page.wait(lambda: page.panel(view)["data"].get("card"), "the card")
        assert worker_of(session.model).wait(10)
    assert page.panel(view)["revision"] == session.revision
    assert page.panel(view)["status"] == "partial", "what is shown is not all there is"
    again = open_page(wire, session, "again")
    again.calm()
    assert again.panel(view)["status"] == "done"
    assert again.panel(view)["data"]["baseline"] == pytest.approx(session.answer.metric, abs=1e-4)
    assert again.panel(view)["data"]["baseline"] != pytest.approx(old, abs=1e-4)


def test_a_card_of_the_table_that_is_shown_leaves_it_done(session: iw.Session, wire: Wire) -> None:
    view = iw.HeadAblation(session, mode="zero")
    page = open_page(wire, session)
    page.calm()
    act(page, view, "card", layer=2, head=1)
    page.wait(lambda: page.panel(view)["data"].get("card"), "the card")
    assert (page.panel(view)["status"], page.panel(view)["progress"]) == ("done", 1.0)


def test_a_part_that_fails_beside_the_rest_is_told_and_the_rest_is_computed_all_the_same(
    session: iw.Session, wire: Wire
) -> None:
    view = iw.HeadAblation(session, mode="zero")
    page = open_page(wire, session)
    page.calm()

    def draw(*_: Any) -> None:
        raise InterventionError("This part cannot be drawn.")

    with nobody_computes(session):
        page.ablate("L1H2")
        mirror_of(session).compute_beside(view, "part", draw)
        page.wait(lambda: "cannot be drawn" in page.panel(view)["message"], "the reason")
        assert worker_of(session.model).wait(10)
    before = len(page.of("panel"))
    page.hello()
    told = lambda: [s.content["data"] or {} for s in page.of("panel")[before:]]  # noqa: E731
    page.wait(
        lambda: any(abs(one.get("baseline", math.inf) - session.answer.metric) < 1e-4 for one in told()), "a table"
    )


def test_a_page_that_comes_while_a_card_is_drawn_gets_the_table_too(session: iw.Session, wire: Wire) -> None:
    view = iw.HeadAblation(session, mode="zero")
    page = open_page(wire, session)
    page.calm()
    begun, go = threading.Event(), threading.Event()

    def draw(*_: Any) -> None:
        begun.set()
        go.wait(10)

    with nobody_computes(session):
        page.ablate("L1H2")
        page.wait(lambda: page.metric is not None and page.shown["revision"] == session.revision, "the answer")
        assert worker_of(session.model).wait(10)
    mirror_of(session).compute_beside(view, "card", draw)
    assert begun.wait(5)
    again = open_page(wire, session, "again")
    go.set()
    here = lambda: (again.panel(view)["status"], again.panel(view)["revision"]) == ("done", session.revision)  # noqa: E731
    again.wait(here, "the table", 10)


# ---- settings that follow ---------------------------------------------------------------------------------------------


def test_the_mode_of_every_view_is_the_sessions_wherever_it_is_set(session: iw.Session, wire: Wire) -> None:
    one, other = (iw.HeadAblation(session, mode="zero") for _ in range(2))
    page = open_page(wire, session)
    page.calm()
    steps = len(session.history.moments)
    page.wish("mode", "mode", mode="mean")
    page.calm()
    assert (one.mode, other.mode, session.mode) == ("mean", "mean", "mean")
    assert len(session.history.moments) == steps + 1, "following is no step of its own"
    one.mode = "zero"
    assert (one.mode, other.mode, session.mode) == ("zero", "zero", "zero")
    wire.of(other).receive_state(mode="mean")
    assert (one.mode, other.mode, session.mode) == ("mean", "mean", "mean")
    assert len(session.history.moments) == steps + 3
    page.calm()
    assert page.panel(one)["data"]["mode"] == page.panel(other)["data"]["mode"] == "mean"
    assert page.state["mode"] == "mean"


def test_a_view_that_cannot_follow_does_not_keep_the_others_from_it(
    session: iw.Session, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = (iw.HeadAblation(session, mode="zero") for _ in range(2))
    one.observe(lambda _change: 1 / 0, names="mode")
    session.set_mode("mean")
    assert (one.mode, other.mode) == ("mean", "mean")
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("before", [(), (1, 2), (3,)])
def test_positions_that_are_set_after_a_question_belong_to_it(
    session: iw.Session, wire: Wire, before: tuple[int, ...]
) -> None:
    view = iw.HeadAblation(session, mode="zero")
    page = open_page(wire, session)
    page.calm()
    view.positions = before
    session.ask("w3 w4 w6 w7 w8", target="w11", foil="w13")
    view.positions = (1, 2)
    page.calm()
    assert view.positions == (1, 2)
    assert page.panel(view)["data"]["positions"] == [1, 2]
    session.aim("w20")
    session.toggle("L0H1", mode="zero")
    page.calm()
    assert view.positions == (1, 2), "the prompt is the same"
    session.ask("w3 w4", target="w11", foil="w13")
    assert view.positions == ()
    page.calm()
    assert (page.panel(view)["status"], page.panel(view)["data"]["positions"]) == ("done", [])


# ---- the history that a page is told ----------------------------------------------------------------------------------


def test_a_page_is_told_the_steps_around_the_present_one(wire: Wire) -> None:
    session = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
    for n in range(61):
        session.toggle(f"L{n % 3}H{n % 4}", mode="zero")
    labels = [moment.label for moment in session.history.moments]
    last = len(labels) - 1
    while True:
        here = session.history.index
        told = state_of(session, busy=False, error=None)["history"]
        assert len(told["items"]) == 40
        assert 0 <= told["index"] < 40
        first = here - told["index"]
        assert [item["label"] for item in told["items"]] == labels[first : first + 40]
        assert (told["index"] > 0, told["index"] < 39) == (here > 0, here < last), "a button is off that could be used"
        if not session.undo():
            break
    assert here == 0
    session.close()


# ---- attention patterns -----------------------------------------------------------------------------------------------


def test_a_head_that_is_chosen_while_its_computation_is_told_to_stop_is_not_refused(
    session: iw.Session, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = iw.AttentionPatterns(session)
    page = open_page(wire, session)
    page.calm()
    begun, go, measure = threading.Event(), threading.Event(), attention_patterns.measure

    def slow(*what: Any) -> Any:
        begun.set()
        go.wait(10)
        return measure(*what)

    monkeypatch.setattr(attention_patterns, "measure", slow)
    session.toggle("L1H1", mode="zero")
    assert begun.wait(10)
    session.toggle("L1H2", mode="zero")  # the one that runs is told to stop
    seq = act(page, view, "head", layer=1, head=3)
    go.set()
    page.calm()
    page.comm.receive({"kind": "ping", "client": page.client, "id": 1})
    page.wait(lambda: page.of("pong"), "all that was said before")
    assert page.refusal(seq) is None
    large = page.panel(view)["data"]["large"]
    assert (large["layer"], large["head"]) == (view.layer, view.head) == (1, 3)


def on(wire: Wire, kind: str) -> tuple[iw.Session, iw.AttentionPatterns, Page]:
    """The patterns of another kind of model on a page."""
    model: Any = tiny(kind)
    session = iw.open(model, tiny_models.tokenizer(model.config.vocab_size))
    session.ask(PROMPT, target="w11", foil="w13")
    view = iw.AttentionPatterns(session)
    page = open_page(wire, session)
    page.calm()
    return session, view, page


def test_patterns_of_a_model_without_heads_are_refused_with_the_reason(wire: Wire) -> None:
    session, view, page = on(wire, "mamba")
    assert page.panel(view)["status"] == "failed"
    assert page.panel(view)["message"].startswith("patterns read is off for ")
    session.close()


def test_a_layer_without_heads_is_refused_and_what_is_drawn_stays(wire: Wire) -> None:
    session, view, page = on(wire, "jamba")
    heads = session.model.anatomy.head_counts
    hole = heads.index(0)
    here = (view.layer, view.head)
    assert here[0] in [layer for layer, count in enumerate(heads) if count]
    with pytest.raises(traitlets.TraitError, match=f"layer {hole} has no attention heads"):
        view.layer = hole
    wire.of(view).receive_state(layer=hole)
    page.wait(lambda: "has no attention heads" in page.panel(view)["message"], "the reason")
    assert (view.layer, view.head) == here
    large = page.panel(view)["data"]["large"]
    assert (large["layer"], large["head"]) == here
    session.close()


def set_at_once(view: View, values: dict[str, int]) -> None:
    with view.hold_trait_notifications():
        for name, value in values.items():
            setattr(view, name, value)


def test_of_a_head_that_is_not_there_nothing_is_taken(session: iw.Session, wire: Wire) -> None:
    view = iw.AttentionPatterns(session, layer=1, head=2)
    page = open_page(wire, session)
    page.calm()
    for wrong in ({"layer": 99}, {"head": 99}, {"layer": 2, "head": 99}, {"layer": 99, "head": 99}):
        with pytest.raises(traitlets.TraitError, match="does not exist; "):
            set_at_once(view, wrong)
        assert (view.layer, view.head) == (1, 2)
        wire.of(view).receive_state(**wrong)
        page.wait(lambda: "does not exist; " in page.panel(view)["message"], "the reason")
        assert (view.layer, view.head) == (1, 2)
        wire.of(view).receive_state(show="now")  # takes the reason away
        page.wait(lambda: not page.panel(view)["message"], "no reason")
    set_at_once(view, {"layer": 2, "head": 3})
    large = lambda: page.panel(view)["data"]["large"]  # noqa: E731
    page.wait(lambda: (large()["layer"], large()["head"]) == (2, 3), "the head that was chosen")


def test_a_head_that_is_chosen_before_anything_was_measured_stays(
    session: iw.Session, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    with session.model.lock:
        view = iw.AttentionPatterns(session)
        view.layer, view.head = 2, 3
    page = open_page(wire, session)
    page.calm()
    large = page.panel(view)["data"]["large"]
    assert (view.layer, view.head) == (large["layer"], large["head"]) == (2, 3)


# ---- a question that waits for a yes ----------------------------------------------------------------------------------


def test_a_refused_setting_takes_no_question_away(
    session: iw.Session, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "ASK", 0.0)
    monkeypatch.setattr(head_ablation, "SAY", 0.0)
    deep = iw.open(tiny_models.gpt2(n_layer=6), tiny_models.tokenizer())
    deep.ask(PROMPT, target="w11", foil="w13")
    view = iw.HeadAblation(deep, mode="zero")
    page = open_page(wire, deep)
    page.calm()
    asked = page.panel(view)["message"]
    assert page.panel(view)["status"] == "asking"
    assert asked.startswith("All 24 heads")
    wire.of(view).receive_state(draws=0)
    page.wait(lambda: "Draws cannot be 0" in page.panel(view)["message"], "the reason")
    for name in ("page", "again"):
        told = open_page(wire, deep, name)
        told.calm()
        assert told.panel(view)["status"] == "asking"
        assert told.panel(view)["message"].endswith(asked)
        assert told.panel(view)["message"].startswith("Draws cannot be 0")
    act(page, view, "compute")
    page.wait(lambda: page.panel(view)["data"]["meanwhile"] == "", "the sweep")
    deep.close()


def test_a_refused_setting_of_what_is_done_is_an_error_that_is_seen(session: iw.Session, wire: Wire) -> None:
    view = iw.HeadAblation(session, mode="zero")
    page = open_page(wire, session)
    page.calm()
    wire.of(view).receive_state(draws=0)
    page.wait(lambda: page.panel(view)["status"] == "failed", "the reason")
    assert page.panel(view)["message"].startswith("Draws cannot be 0")
    wire.of(view).receive_state(draws=2)
    page.wait(lambda: (page.panel(view)["status"], page.panel(view)["message"]) == ("done", ""), "no reason")
