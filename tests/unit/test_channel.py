"""Floods, cancels and failures between a page and its session: the last value in time, and never a half one (group E)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

import interp_widgets as iw
from interp_widgets.widgets import channel, outbox, pages
from interp_widgets.widgets.channel import mirror_of
from interp_widgets.worker import worker_of
from tests.timing import Hiccups
from tests.unit import tiny_models
from tests.unit.comm import Sent
from tests.unit.conftest import Bench

pytestmark = pytest.mark.alone

FORWARD = 0.1
STEP = 0.05


class Slow:
    """Own code that makes every forward take a known time, and notes when it ran."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.calls = seconds, list[float]()
        self.called = threading.Condition()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        with self.called:
            self.calls.append(time.monotonic())
            self.called.notify_all()
        time.sleep(self.seconds)
        return x * 1.5

    def wait(self, n: int) -> None:
        with self.called:
            assert self.called.wait_for(lambda: len(self.calls) >= n, 20)


def flood(send: Callable[[int], object], n: int, hertz: float) -> float:
    """`n` events at a steady rate; when the last was sent."""
    start = time.monotonic()
    for event in range(n):
        time.sleep(max(0.0, start + event / hertz - time.monotonic()))
        send(event)
    return time.monotonic()


@pytest.mark.case("E01")
@pytest.mark.timeout(120)
def test_of_four_hundred_events_at_100_hz_the_last_is_painted_two_forwards_after_it(bench: Bench) -> None:
    page, slow = bench.page, Slow(0.0)
    for view in (bench.tokens, bench.sliders, bench.heads):
        view.close()
    view = iw.TokenAttribution(bench.session, method="occlusion")
    page.hello()
    bench.session.set(iw.Edit("L0", slow, name="slow"))
    page.calm()  # what the view measures before the first event takes two hundred forwards
    before, slow.seconds = len(slow.calls), FORWARD
    with Hiccups() as hiccups:
        last = flood(lambda n: page.drag(n / 400), 400, 100) and time.monotonic()
        page.wait(lambda: page.acknowledged and page.metric is not None and not page.state["busy"], "the last value")
        painted = time.monotonic() - last
    forward = page.state["answer"]["milliseconds"] / 1000
    value = next(one["coefficient"] for one in page.state["interventions"] if one["kind"] == "steer")
    runs = len(slow.calls) - before
    print(
        f"flood: last of 400 events painted {painted:.3f} s after it, forward {forward:.3f} s, {runs} forwards run, "
        f"hiccups of {hiccups.worst:.3f} s"
    )
    assert value == pytest.approx(399 / 400)
    assert page.metric == bench.session.answer.metric
    assert painted <= 2 * forward + 0.05 + hiccups.allowed
    assert 10 <= runs < 80
    assert len(bench.session.history.moments) < 20, "a drag is one step of the history"
    view.close()
    bench.session.clear()


def test_a_handler_that_computes_where_it_receives_is_seconds_late() -> None:
    """The negative control: the same flood, every event computed."""
    done: list[int] = []
    queue: list[int] = []
    stop = threading.Event()

    def kernel() -> None:
        while not stop.is_set() or queue:
            if queue:
                time.sleep(FORWARD)
                done.append(queue.pop(0))
            else:
                time.sleep(0.001)

    thread = threading.Thread(target=kernel)
    thread.start()
    last = flood(queue.append, 30, 100)
    stop.set()
    thread.join()
    assert time.monotonic() - last > 2 * FORWARD + 0.05
    assert done[-1] == 29


def generating(bench: Bench) -> Slow:
    """A continuation under way, one slow step after the other."""
    slow = Slow(STEP)
    bench.tokens.close()
    bench.heads.close()
    bench.sliders.tokens = 100
    bench.page.calm()
    bench.session.set(iw.Edit("L0", slow, name="slow"))
    bench.page.wait(lambda: len(edited(bench)) >= 3, "three tokens")
    return slow


def texts(bench: Bench) -> list[tuple[float, int]]:
    """When the page was told of the edited text of the present state, and how many tokens long it was."""
    return [(sent.time, len(sent.content["data"]["continuation"]["edited"])) for sent in told_of(bench)]


def told_of(bench: Bench) -> list[Sent]:
    """The messages with the continuation of the present state."""
    here, panel = bench.session.revision, bench.sliders.panel
    mine = [s for s in bench.page.of("panel") if (s.content["panel"], s.content["revision"]) == (panel, here)]
    return [sent for sent in mine if "continuation" in (sent.content["data"] or {})]


def edited(bench: Bench) -> list[Any]:
    """The edited text of the present state, as far as the page was told."""
    told = told_of(bench)
    return told[-1].content["data"]["continuation"]["edited"] if told else []


def stop_by_button(bench: Bench) -> None:
    bench.page.wish("panel", f"panel:{bench.sliders.panel}", panel=bench.sliders.panel, action="stop")


def stop_by_closing(bench: Bench) -> None:
    bench.sliders.close()


def stop_by_interrupt(_bench: Bench) -> None:
    channel.stop_all()


def stop_by_tab(bench: Bench) -> None:
    bench.page.comm.receive({"kind": "bye", "client": bench.page.client})


def stop_by_closing_the_session(bench: Bench) -> None:
    bench.session.close()


@pytest.mark.case("E08", "E09")
@pytest.mark.parametrize(
    "stop", [stop_by_button, stop_by_closing, stop_by_interrupt, stop_by_tab, stop_by_closing_the_session]
)
def test_a_generation_stops_within_one_step_however_it_is_stopped(bench: Bench, stop: Callable[[Bench], None]) -> None:
    slow = generating(bench)
    with Hiccups() as hiccups:
        asked = time.monotonic()
        stop(bench)
        time.sleep(6 * STEP)
    bound = STEP + 0.05 + hiccups.allowed
    if stop is stop_by_button:  # what is asked after the text, the curves, goes on; the text does not
        bench.page.wait(
            lambda: bench.page.panel(bench.sliders)["data"]["continuation"]["note"] == "stopped", "the note"
        )
        written = max(length for at, length in texts(bench) if at <= asked + bound)
        time.sleep(4 * STEP)
        assert len(edited(bench)) <= written + 1
    else:
        assert slow.calls[-1] <= asked + bound, f"it went on for {slow.calls[-1] - asked:.2f} s"
        count = len(slow.calls)
        time.sleep(2 * STEP)
        assert len(slow.calls) == count
        assert not worker_of(bench.session.model).busy
    if stop is not stop_by_closing_the_session:
        bench.session.clear()
        bench.page.hello()
        if stop is not stop_by_closing:
            bench.sliders.tokens = 6


def test_a_streamer_goes_on_to_its_last_token_when_its_reader_leaves(model: Any) -> None:
    """The negative control: the usual way to stream, which nothing stops."""
    from transformers import TextIteratorStreamer

    calls: list[float] = []

    def slow(*_: Any) -> None:
        calls.append(time.monotonic())
        time.sleep(STEP)

    model.transformer.h[0].register_forward_pre_hook(slow)
    streamer = TextIteratorStreamer(tiny_models.tokenizer())
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "streamer": streamer}
    thread = threading.Thread(target=model.generate, args=(torch.tensor([[5, 9]]),), kwargs=settings)
    thread.start()
    for _ in streamer:
        if len(calls) >= 3:
            break
    left = time.monotonic()
    thread.join(20)
    assert len(calls) == 12
    assert calls[-1] > left + STEP + 0.05


@pytest.mark.case("E08", "F08")
def test_an_interrupt_says_in_every_view_that_it_was_stopped_and_the_next_change_computes_again(bench: Bench) -> None:
    generating(bench)
    channel.stop_all()
    bench.page.wait(lambda: bench.page.panel(bench.sliders)["status"] == "failed", "the word in the view", 1.0)
    assert "interrupted" in bench.page.panel(bench.sliders)["message"]
    assert len(edited(bench)) >= 3, "the text so far is gone"
    bench.sliders.tokens = 6
    bench.session.clear()


@pytest.mark.case("E08", "F08")
def test_a_token_that_is_being_told_while_the_kernel_is_interrupted_does_not_bring_the_text_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    generating(bench)
    panels = mirror_of(bench.session)._computing._panels
    show, begun = panels.show, threading.Event()

    def interrupted(panel: str, revision: int, status: str | None, *rest: Any) -> bool:
        if status == "partial" and not begun.is_set():
            begun.set()
            stop = threading.Thread(target=channel.stop_all)
            stop.start()
            stop.join(0.3)
        return show(panel, revision, status, *rest)

    monkeypatch.setattr(panels, "show", interrupted)
    assert begun.wait(5)
    assert worker_of(bench.session.model).wait(5)
    bench.page.wait(lambda: bench.page.panel(bench.sliders)["status"] == "failed", "the word in the view", 2.0)
    channel.look_all()  # a cell has ended
    assert worker_of(bench.session.model).wait(5)
    assert bench.page.panel(bench.sliders)["status"] == "failed"
    bench.sliders.tokens = 6
    bench.session.clear()


@pytest.mark.case("E08", "D11")
def test_an_answer_that_was_interrupted_is_shown_once_a_cell_has_asked_for_it(bench: Bench) -> None:
    with bench.session.model.lock:
        bench.session.toggle("L2H1", mode="zero")
        channel.stop_all()
    bench.page.wait(lambda: "interrupted" in str(bench.page.state["error"]), "the word")
    assert bench.page.state["answer"] is None
    metric = bench.session.answer.metric
    channel.look_all()  # as after every cell
    bench.page.wait(lambda: bench.page.state["answer"] is not None, "the answer")
    assert (bench.page.metric, bench.page.state["error"]) == (metric, None)
    assert metric == pytest.approx(bench.zeroed(2, 1), abs=1e-4)
    bench.session.clear()


@pytest.mark.case("E06", "E08")
def test_a_plain_text_that_was_cut_short_is_never_kept_as_the_whole(bench: Bench) -> None:
    page = bench.page
    page.calm()
    for n in range(12):
        bench.sliders.tokens = 30 + n % 2
        page.drag(0.1 * n)
        time.sleep(0.01 * (n % 4))
    page.drag(1.0, final=True)
    page.calm()
    continuation = page.panel(bench.sliders)["data"]["continuation"]
    live, question = bench.session.model, bench.session.question
    assert question is not None
    assert [t["id"] for t in continuation["plain"]] == [
        t.id for t in live.generate(list(question.first.ids), (), bench.sliders.tokens)
    ]
    assert [t["id"] for t in continuation["edited"]] == [
        t.id for t in live.generate(list(question.first.ids), bench.session.interventions, bench.sliders.tokens)
    ]
    assert continuation["running"] is False
    bench.sliders.tokens = 6


@pytest.mark.case("E07")
def test_start_and_stop_a_hundred_times_ends_stopped(bench: Bench) -> None:
    page, panel = bench.page, bench.sliders.panel
    for _ in range(100):
        page.wish("panel", f"panel:{panel}", panel=panel, action="generate")
        page.wish("panel", f"panel:{panel}", panel=panel, action="stop")
    page.calm()
    assert bench.sliders._stopped_at == bench.session.revision
    assert worker_of(bench.session.model).wait(5)


@pytest.mark.case("E10")
def test_an_error_in_the_middle_of_a_text_keeps_what_there_is_and_says_why(bench: Bench) -> None:
    calls: list[int] = []

    def fifth(x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 1:
            calls.append(1)
            if len(calls) == 5:
                raise ArithmeticError("the fifth step")
        return x * 1.2

    bench.page.calm()
    bench.sliders.tokens = 20
    bench.session.set(iw.Edit("L0", fifth, name="fifth"))
    bench.page.wait(lambda: bench.page.panel(bench.sliders)["status"] == "failed", "the failure")
    assert "the fifth step" in bench.page.panel(bench.sliders)["message"]
    assert len(edited(bench)) >= 4
    bench.sliders.tokens = 6
    bench.session.clear()


@pytest.mark.case("F12")
def test_no_token_is_lost_while_values_that_make_no_sense_arrive(bench: Bench) -> None:
    page = bench.page
    page.calm()
    bench.tokens.close()
    bench.heads.close()  # what they would measure under the slow edit is another test's
    bench.sliders.tokens = 40
    bench.session.set(
        iw.Steer("L0", torch.linspace(-1, 1, 32), 1.0, positions="all"), iw.Edit("L1", Slow(0.005), name="slow")
    )
    for n in range(60):
        page.wish("strength", "strength:push", name="push", value="nan", final=False)
        bench.wire.of(bench.sliders).receive_state(tokens=-1 - n)
        time.sleep(0.005)
    page.calm()
    assert "cannot be" in page.panel(bench.sliders)["message"], "the refusal was painted over"
    shown = [token["id"] for token in page.panel(bench.sliders)["data"]["continuation"]["edited"]]
    question = bench.session.question
    assert question is not None
    ids = list(question.first.ids)
    assert shown == [t.id for t in bench.session.model.generate(ids, bench.session.interventions, 40)]
    lengths = [len(s.content["data"]["continuation"]["edited"]) for s in page.of("panel")
               if s.content["panel"] == bench.sliders.panel and s.content["revision"] == bench.session.revision
               and (s.content["data"] or {}).get("continuation", {}).get("running")]  # fmt: skip
    assert lengths, "no token was shown on its way"
    bench.sliders.tokens = 6
    bench.session.clear()


@pytest.mark.case("E13", "E14")
def test_while_a_forward_is_long_the_page_is_answered_at_once_and_errors_too(bench: Bench) -> None:
    slow = Slow(1.5)
    bench.page.calm()
    bench.session.set(iw.Edit("L0", slow, name="slow"))
    slow.wait(1)
    asked = time.monotonic()
    bench.page.comm.receive({"kind": "ping", "client": "page", "id": 7})
    seq = bench.page.ablate("L9H9")
    bench.page.wait(lambda: bench.page.of("pong") and bench.page.refusal(seq), "the pong and the refusal", 1.0)
    assert time.monotonic() - asked < 1.0
    assert bench.page.of("pong")[-1].content == {"kind": "pong", "client": "page", "id": 7}
    assert bench.page.state["busy"] is True
    bench.session.clear()


@pytest.mark.case("E02")
def test_data_of_an_older_state_that_has_not_been_sent_is_not_lost_when_a_newer_one_begins(bench: Bench) -> None:
    bench.page.calm()
    mirror, panel, here = mirror_of(bench.session), bench.heads.panel, bench.session.revision
    with mirror._panels._lock:  # nothing is sent while both are said
        mirror._computing._show(panel, here + 1, "done", {"baseline": 41.0}, 1.0)
        mirror._computing._show(panel, here + 2, "computing", None, 0.0)
        mirror._computing._show(panel, here + 2, "partial", {"floor": 0.5}, 0.5)
    bench.page.wait(lambda: bench.page.panel(bench.heads)["data"].get("floor") == 0.5, "the newer part")
    last = bench.page.panel(bench.heads)
    assert (last["revision"], last["status"], last["data"]["baseline"]) == (here + 2, "partial", 41.0)
    told = [s.content["revision"] for s in bench.page.of("panel") if s.content["panel"] == panel]
    assert told == sorted(told)
    bench.session._revision = here + 2
    bench.session.clear()


def test_what_several_threads_change_at_once_is_never_lost(bench: Bench) -> None:
    def clicks(layer: int) -> None:
        for head in range(4):
            bench.session.switch([f"L{layer}H{head}"], off=True, mode="zero")

    threads = [threading.Thread(target=clicks, args=(layer,)) for layer in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i.site.name for i in bench.session.interventions} == {
        f"L{layer}H{head}" for layer in range(3) for head in range(4)
    }
    bench.session.clear()


@pytest.mark.case("F11")
def test_a_wish_that_is_held_up_does_not_take_the_place_of_a_newer_one_with_an_older_state(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.page.calm()
    worker, reached, go_on = worker_of(bench.session.model), threading.Event(), threading.Event()
    submit = worker.submit

    def held_up(*wish: Any) -> None:
        if threading.current_thread().name == "slow":
            reached.set()
            go_on.wait(5)
        submit(*wish)

    monkeypatch.setattr(worker, "submit", held_up)
    slow = threading.Thread(target=lambda: iw.HeadAblation(bench.session, mode="zero"), name="slow")
    slow.start()
    assert reached.wait(5)
    bench.session.set(iw.Ablate("L2H1", mode="zero"))
    go_on.set()
    slow.join()
    bench.page.calm()
    assert bench.page.metric == pytest.approx(bench.zeroed(2, 1), abs=1e-4)


@pytest.mark.case("F15")
def test_a_page_is_kept_hearing_for_as_long_as_it_listens_and_not_when_it_is_hidden_or_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = bench.page
    page.calm()
    monkeypatch.setattr(outbox, "BEAT", 0.1)

    def beats(seconds: float) -> int:
        before = len(page.of("beat"))
        time.sleep(seconds)
        return len(page.of("beat")) - before

    assert beats(0.3) == 0, "nobody asked for it"
    page.comm.receive({"kind": "listening", "client": page.client, "on": True})
    assert beats(0.5) >= 2
    page.comm.receive({"kind": "listening", "client": page.client, "on": False})
    assert beats(0.3) <= 1
    page.comm.receive({"kind": "hello", "client": page.client, "version": "0", "listening": True})
    assert beats(0.5) >= 2
    page.comm.receive({"kind": "bye", "client": page.client})
    assert beats(0.3) <= 1
    monkeypatch.setattr(pages, "LISTENING", 0.2)  # a page that vanished without a word
    page.comm.receive({"kind": "listening", "client": page.client, "on": True})
    beats(0.4)
    assert beats(0.3) == 0
    for junk in (None, 1, [], {}):
        page.comm.receive({"kind": "listening", "client": page.client, "on": junk})
        page.comm.receive({"kind": "listening", "client": junk, "on": True})
    assert beats(0.3) == 0
