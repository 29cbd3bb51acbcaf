"""What is closed is gone: comms, threads, memory, hooks, the model (group L)."""

from __future__ import annotations

import gc
import json
import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import anywidget
import pytest
import torch
import traitlets

import interp_widgets as iw
from interp_widgets.widgets import base
from interp_widgets.widgets.channel import mirror_of
from tests.invariants import our_hooks
from tests.unit import tiny_models
from tests.unit.comm import Sent, Wire
from tests.unit.conftest import Bench, opened, threads_of_ours
from tests.unit.page import PROMPT

pytestmark = pytest.mark.alone


def instances() -> int:
    from ipywidgets.widgets import widget

    return len(widget._instances)


def resident() -> int:
    """Bytes of memory in use."""
    import psutil

    return psutil.Process().memory_info().rss


@pytest.mark.case("L01")
def test_closing_twice_is_closing_once_and_a_closed_view_says_so(bench: Bench, wire: Wire) -> None:
    view = iw.HeadAblation(bench.session, mode="zero")
    comm = wire.of(view)
    view.close()
    view.close()
    assert sum(sent.kind == "comm_close" for sent in comm.sent) == 1
    assert "closed" in repr(view)
    assert view.session is None
    bench.session.close()
    with pytest.raises(iw.ClosedError, match=r"iw\.open"):
        iw.HeadAblation(bench.session)
    with pytest.raises(iw.ClosedError):
        bench.session.toggle("L0H0")


@pytest.mark.case("L01")
def test_closing_a_session_tells_the_page_closes_every_view_and_ends_the_worker(bench: Bench, wire: Wire) -> None:
    comms = [wire.of(widget) for widget in (bench.heads, bench.tokens, bench.sliders)]
    bench.session.close()
    assert bench.page.comm.sent[-1].kind == "comm_close"
    assert bench.page.of("closed")
    assert all(comm.sent[-1].kind == "comm_close" for comm in comms)
    assert our_hooks(bench.model) == 0


@pytest.mark.case("L01")
def test_a_computation_that_goes_on_after_its_session_has_closed_starts_no_thread(
    bench: Bench, others: set[threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.page.calm()
    computing = mirror_of(bench.session)._computing
    at_the_views, closed = threading.Event(), threading.Event()
    submit = computing._submit

    def held_up(*wish: Any) -> None:
        at_the_views.set()
        closed.wait(5)
        submit(*wish)

    monkeypatch.setattr(computing, "_submit", held_up)
    bench.session.toggle("L0H0", mode="zero")
    assert at_the_views.wait(5)
    workers = threads_of_ours() - others
    assert workers, "nothing works for the session: the test shows nothing"
    bench.session.close()
    closed.set()
    for one in workers:
        one.join(5)
    assert not threads_of_ours() & workers


@pytest.mark.case("L02")
def test_a_thousand_views_opened_and_closed_leave_no_object_and_no_memory(wire: Wire) -> None:
    session = iw.open(tiny_models.gpt2(n_layer=2), tiny_models.tokenizer())
    first = iw.HeadAblation(session)
    kinds = [iw.HeadAblation, iw.TokenAttribution, iw.SteeringSliders]

    def cycle(n: int) -> weakref.ref[Any]:
        view = kinds[n % 3](session)
        setattr(view, "payload", bytearray(100_000))  # noqa: B010  # a view that is not freed shows in the memory
        gone = weakref.ref(view)
        view.close()
        return gone

    for n in range(60):
        cycle(n)
    wire.comms = {first.model_id: wire.comms[first.model_id]}
    gc.collect()
    here, count = resident(), instances()
    refs: list[weakref.ref[Any]] = []
    for n in range(1000):
        refs.append(cycle(n))
        wire.comms.clear()
    gc.collect()
    grown = (resident() - here) / 1e6
    alive = sum(ref() is not None for ref in refs)
    print(f"leaks: 1000 views opened and closed: {grown:+.1f} MB, {alive} alive, {instances() - count:+d} instances")
    assert alive == 0
    assert instances() == count
    assert grown <= 5
    session.close()


def test_a_view_that_is_never_closed_stays_for_ever(wire: Wire) -> None:
    """The negative control: ipywidgets itself keeps what nobody closes."""
    import ipywidgets

    gone = weakref.ref(slider := ipywidgets.FloatSlider())
    count = instances()
    del slider
    gc.collect()
    assert gone() is not None
    assert instances() == count
    gone().close()  # pyright: ignore[reportOptionalMemberAccess]


def test_a_view_that_hooks_the_model_with_a_method_of_its_own_holds_both_after_closing(wire: Wire) -> None:
    """The negative control: the usual way to write such a view, closed and never unhooked; its cell, run again, leaves each one."""
    import ipywidgets

    class Plain(ipywidgets.Widget):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.handle = model.transformer.h[0].register_forward_hook(self.steer)

        def steer(self, _module: Any, _args: Any, output: Any) -> Any:
            return output

    model = tiny_models.gpt2(n_layer=2)
    views = [weakref.ref(Plain(model)) for _ in range(5)]
    for view in views:
        view().close()  # pyright: ignore[reportOptionalMemberAccess]
    gc.collect()
    assert sum(view() is not None for view in views) == 5
    assert len(model.transformer.h[0]._forward_hooks) == 5


@pytest.mark.case("L02", "A30")
def test_sessions_opened_and_closed_with_their_views_free_the_model_each_time(
    wire: Wire, others: set[threading.Thread]
) -> None:
    for _ in range(5):
        made = opened(wire, tiny_models.gpt2(n_layer=2))
        made.page.calm()
        gone, model = weakref.ref(made.session), weakref.ref(made.model)
        made.session.close()
        wire.comms.clear()
        del made
        gc.collect()
        assert gone() is None, "the session is still held"
        assert model() is None, "the model is still held"
    assert len(threads_of_ours() - others) <= 1


@pytest.mark.case("A30", "L04")
def test_a_session_whose_views_are_closed_and_that_nobody_holds_is_freed_with_its_model(wire: Wire) -> None:
    made = opened(wire, tiny_models.gpt2(n_layer=2))
    made.page.calm()
    mirror = weakref.ref(mirror_of(made.session))
    out = [made.heads, made.tokens, made.sliders]  # what Out[n] would hold
    for view in out:
        view.close()
    gone, model, hooks = weakref.ref(made.session), weakref.ref(made.model), made.model
    comm = made.page.comm
    del made
    view = None
    gc.collect()
    assert gone() is None, "a closed view, its mirror or a listener holds the session"
    assert our_hooks(hooks) == 0
    comm.wait(lambda comm=comm: comm.sent[-1].kind == "comm_close", "the goodbye to the page")
    del hooks, comm
    gc.collect()
    assert model() is None
    wire.comms.clear()
    out.clear()  # a closed view still knows the mirror, which is small
    gc.collect()
    assert mirror() is None


@pytest.mark.case("L03")
def test_a_cell_that_is_run_again_retires_its_old_views(
    bench: Bench, others: set[threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = 0
    monkeypatch.setattr(base, "_cell", lambda: ("cell-a", f"run {run}"))
    views: list[Any] = []
    for run in range(100):  # noqa: B007
        views.append(iw.HeadAblation(bench.session, mode="zero"))
        views.append(iw.TokenAttribution(bench.session, steps=1))
        live = [view for view in views if view.comm is not None]
        assert live == views[-2:]
    monkeypatch.setattr(base, "_cell", lambda: ("cell-b", "run 0"))
    other = iw.HeadAblation(bench.session, mode="zero")
    assert views[-1].comm is not None, "another cell retired it"
    assert len(threads_of_ours() - others) == 1
    for view in (*views[-2:], other):
        view.close()


def test_a_page_is_told_to_forget_a_view_that_has_closed_and_no_other(bench: Bench) -> None:
    bench.page.calm()
    view = iw.HeadAblation(bench.session, mode="zero")
    bench.page.calm()
    view.close()
    mirror_of(bench.session).complain(view, "too late")
    gone = lambda: [sent.content["panel"] for sent in bench.page.of("panel") if sent.content["status"] == "closed"]  # noqa: E731
    bench.page.wait(lambda: gone() == [view.panel], "the word that it is gone", 5)
    assert view.panel not in mirror_of(bench.session)._panels.told()
    last = next(sent.content for sent in reversed(bench.page.of("panel")) if sent.content["panel"] == view.panel)
    assert last["status"] == "closed", "something was said of it after that, and the page keeps it for ever"


def test_views_of_one_kind_share_one_copy_of_their_code_and_carry_almost_none(bench: Bench, wire: Wire) -> None:
    """A page keeps every module that it has loaded: what each view carries stays in it each time a cell is run again."""
    first, second = iw.HeadAblation(bench.session, mode="zero"), iw.HeadAblation(bench.session, mode="zero")
    assert first.code is second.code is not bench.tokens.code
    assert "Head ablation" in first.code.text
    assert max(len(str(one._esm)) for one in (first, first.code, mirror_of(bench.session))) < 1000
    assert wire.of(first).state["code"] == f"anywidget:{first.code.model_id}"
    code = first.code
    for view in (first, second):
        view.close()
    assert code.comm is not None, "a closed view took the code of the others with it"
    code.close()  # as a page may close everything
    third = iw.HeadAblation(bench.session, mode="zero")
    assert third.code is not code
    assert third.code.comm is not None
    for one in (bench.heads, third):
        one.close()


@pytest.mark.case("L05")
def test_a_half_read_generation_holds_no_hook_active(bench: Bench) -> None:
    ids = torch.tensor([[5, 9, 12]])
    bench.page.calm()
    with torch.no_grad():
        plain = bench.model(ids).logits
    run = bench.session.model.generate(PROMPT, [iw.Steer("L1", torch.ones(32), 5.0)], 50)
    kept = [next(run) for _ in range(3)]
    with torch.no_grad():
        assert torch.equal(bench.model(ids).logits, plain)
    assert len(kept) == 3
    assert bench.session.model.lock.acquire(blocking=False)
    bench.session.model.lock.release()


@pytest.mark.case("L06")
def test_what_is_kept_between_runs_stays_within_its_bytes() -> None:
    session = iw.open(tiny_models.gpt2(), tiny_models.tokenizer(), cache_bytes=200_000)
    for n in range(2, 60):
        session.ask(f"w{n} w3 w4 w5", "w11", "w13")
        _ = session.answer
    assert 0 < session.model.cache.nbytes <= 200_000
    session.close()
    assert session.model.cache.nbytes == 0


@pytest.mark.case("L01", "H09")
def test_a_second_session_on_the_model_keeps_it_open_until_it_closes_too(wire: Wire) -> None:
    made = opened(wire, tiny_models.gpt2(n_layer=2))
    other = iw.open(made.model, tiny_models.tokenizer())
    other.ask(PROMPT, "w11", "w13")
    view = iw.HeadAblation(other, mode="zero")
    made.session.close()
    assert our_hooks(made.model) > 0
    assert other.answer.metric == pytest.approx(made.model and other.answer.plain_metric)
    assert view.comm is not None
    other.close()
    assert our_hooks(made.model) == 0


def test_a_widget_whose_comm_the_page_closed_can_be_made_again(bench: Bench, wire: Wire) -> None:
    old = mirror_of(bench.session)
    old.close()
    new = mirror_of(bench.session)
    assert new is not old
    view = iw.HeadAblation(bench.session, mode="zero")
    assert view._mirror is new
    for one in (view, bench.heads, bench.tokens, bench.sliders):
        one.close()
    bench.session.close()


@pytest.mark.case("K01")
def test_no_prompt_and_no_result_is_in_what_a_notebook_saves(bench: Bench, wire: Wire) -> None:
    bench.page.calm()
    saved = 0
    for widget in (bench.heads, bench.tokens, bench.sliders, mirror_of(bench.session)):
        state = {key: value for key, value in widget.get_state().items() if key not in ("_esm", "_css", "text")}
        saved += len(str(state))
        assert "w12" not in str(state)
    assert saved / 4 < 50_000
    assert PROMPT not in repr(bench.heads) + repr(bench.session)


def text_of(view: Any) -> str:
    """What a notebook saves as the text of a view's output."""
    return view._repr_mimebundle_()[0]["text/plain"]


@pytest.mark.case("K01")
@pytest.mark.parametrize("kind", [iw.HeadAblation, iw.SteeringSliders, iw.TokenAttribution])
def test_a_prompt_is_saved_as_text_with_its_numbers_when_the_user_asks_for_it_and_only_then(
    bench: Bench, kind: type[Any]
) -> None:
    bench.session.toggle("L1H2", mode="zero")
    asking, silent = kind(bench.session, save_prompt=True), kind(bench.session)
    answer = bench.session.answer
    assert repr(PROMPT) in text_of(asking)
    assert f"{answer.metric:.4g}, {answer.plain_metric:.4g} with nothing on" in text_of(asking)
    assert "ablate L1H2, zero" in text_of(asking)
    assert text_of(silent) == f"{kind.__name__}: a live view of a model; run this cell to see it."
    for view in (asking, silent):  # asked for or not: the state that pages are sent, and may save, holds nothing of it
        state = {key: value for key, value in view.get_state().items() if key not in ("_esm", "_css", "text")}
        assert "w12" not in str(state)
        assert PROMPT not in repr(view)
    bench.session.ask([iw.Example("w5 w9", "w11", "w13"), iw.Example("w5 w7", "w11", None)])
    assert "2 prompts" in text_of(asking)
    assert "'w5 w7' → 'w11'\n" in text_of(asking)
    bench.session.undo()
    for view in (asking, silent):
        view.close()


def test_a_question_that_cannot_be_answered_is_saved_with_the_reason_and_its_view_is_shown(bench: Bench) -> None:
    def bad(_x: torch.Tensor) -> torch.Tensor:
        raise ArithmeticError("the edit gave up")

    bench.session.set(iw.Edit("L1", bad, name="bad"))
    view = iw.HeadAblation(bench.session, save_prompt=True)
    assert "No answer" in text_of(view)
    assert "the edit gave up" in text_of(view)
    bench.session.clear()
    view.close()


def test_whether_a_prompt_is_saved_is_yes_or_no(bench: Bench) -> None:
    with pytest.raises(TypeError, match="True or False, not 'no'"):
        iw.HeadAblation(bench.session, save_prompt="no")  # pyright: ignore[reportArgumentType]


LONG = " ".join(f"w{3 + n % 40}" for n in range(60))


def panels(sent: Sequence[Sent]) -> set[str]:
    return {one.content["panel"] for one in sent if one.content.get("kind") == "panel"}


@pytest.mark.case("G11")
def test_what_a_reloaded_page_is_sent_is_below_a_hundred_kilobytes_a_view(bench: Bench, wire: Wire) -> None:
    patterns = iw.AttentionPatterns(bench.session)
    views = (bench.heads, bench.tokens, bench.sliders, patterns)
    bench.session.ask(LONG, target="w11", foil="w13")
    bench.page.calm()
    before = len(bench.page.comm.sent)
    bench.page.hello()
    bench.page.wait(lambda: {v.panel for v in views} <= panels(bench.page.comm.sent[before:]), "all of it again", 2.0)
    bench.page.calm()
    sent = bench.page.comm.sent[before:]
    news = sum(one.size + sum(map(len, one.buffers)) for one in sent) / len(views)
    traits = {type(w).__name__: len(json.dumps(w.get_state())) for w in views}
    mirror = len(json.dumps(mirror_of(bench.session).get_state())) / len(views)
    each = {name: size + news + mirror for name, size in traits.items()}
    print("reload:", {name: f"{size / 1000:.0f} kB" for name, size in each.items()})
    assert max(each.values()) <= 100_000
    patterns.close()


def test_a_widget_that_keeps_its_patterns_in_a_trait_sends_a_reloaded_page_more_than_that(wire: Wire) -> None:
    """The negative control: the usual way to show attention, here of sixteen heads over as long a prompt."""

    class Plain(anywidget.AnyWidget):
        _esm = "export default { render() {} }"
        patterns = traitlets.List().tag(sync=True)

    plain = Plain(patterns=torch.rand(4, 4, 60, 60).softmax(-1).tolist())
    assert len(json.dumps(plain.get_state())) > 100_000
    assert wire.of(plain).sent[0].size > 1_000_000, "and it is one message"
    plain.close()


@pytest.mark.skipif(os.name != "posix", reason="threads are counted by name on posix alone")
def test_the_sender_ends_by_itself_when_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    from interp_widgets.widgets import outbox

    monkeypatch.setattr(outbox, "IDLE", 0.05)
    sender = outbox.Sender()
    box = outbox.Outbox(lambda _content, _buffers: None)
    sender.put(box, "x", lambda: {"kind": "x"})
    thread = sender._thread
    assert thread is not None
    thread.join(5)
    assert not thread.is_alive()
    sender.put(box, "y", lambda: {"kind": "y"})
    assert sender._thread is not None
    sender._thread.join(5)
