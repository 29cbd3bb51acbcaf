"""Many threads, one model: nobody's numbers are anybody else's, and an interrupt tears nothing (group F)."""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import interp_widgets as iw
from interp_widgets.model import gate
from interp_widgets.widgets.channel import mirror_of
from interp_widgets.worker import worker_of
from tests.invariants import our_hooks, untouched
from tests.unit import tiny_models
from tests.unit.conftest import Bench, threads_of_ours
from tests.unit.page import PROMPT, open_page


def forward(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits


@contextmanager
def beside(work: Callable[[], None]) -> Generator[None]:
    """Do `work` over and over on another thread."""
    stop, wrong = threading.Event(), []

    def loop() -> None:
        while not stop.is_set():
            try:
                work()
            except Exception as error:  # noqa: BLE001  # told to the test below
                wrong.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)
    assert not wrong, wrong[0]


@contextmanager
def switching() -> Generator[None]:
    """Threads take turns fifty times as often: more places to meet at, and nobody waits for a turn of five milliseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@pytest.mark.case("F01", "F02", "F03")
@pytest.mark.timeout(400)
def test_three_views_and_the_users_unlocked_loop_never_see_each_other(bench: Bench) -> None:
    ids = torch.tensor([[5, 9, 12, 7]])
    plain = forward(bench.model, ids)
    live = bench.session.model
    expected = {head: live.run(PROMPT, [iw.Ablate(f"L1H{head}", mode="zero")], read=["L1"]).logits for head in range(4)}
    wrong, forwards, ours = 0, 0, 0
    rng = random.Random(1)
    theirs: list[bool] = []

    def click() -> None:
        bench.page.drag(rng.uniform(-2, 2))
        bench.page.ablate(f"L{rng.randrange(3)}H{rng.randrange(4)}", off=rng.random() < 0.5)
        time.sleep(0.005)

    def run() -> None:
        head = rng.randrange(4)
        theirs.append(
            torch.equal(live.run(PROMPT, [iw.Ablate(f"L1H{head}", mode="zero")], read=["L1"]).logits, expected[head])
        )

    with switching(), beside(click), beside(run):
        while forwards < 3000 or len(theirs) < 100:
            forwards += 1
            wrong += not torch.equal(forward(bench.model, ids), plain)
            ours += worker_of(live).busy
    print(
        f"cross-talk: {wrong} of {forwards} forwards wrong, {theirs.count(False)} of {len(theirs)} runs wrong, views busy in {ours}"
    )
    assert ours > forwards / 10, "the views were not computing: the test shows nothing"
    assert wrong == 0
    assert all(theirs)


def test_a_plain_hook_from_another_thread_spoils_the_users_loop() -> None:
    """The negative control: the same figure with the usual way of steering."""
    model, ids = tiny_models.gpt2(), torch.tensor([[5, 9, 12, 7]])
    plain = forward(model, ids)

    def steer() -> None:
        handle = model.transformer.h[1].register_forward_hook(
            lambda _m, _a, out: (out[0] + 1, *out[1:]) if isinstance(out, tuple) else out + 1
        )
        forward(model, ids)
        handle.remove()

    with beside(steer):
        wrong = sum(not torch.equal(forward(model, ids), plain) for _ in range(300))
    assert wrong > 10


def interrupted(seconds: float, work: Callable[[], Any]) -> bool:
    """Do `work` on the main thread and interrupt it after so long, wherever it is then; whether it was interrupted."""
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        work()
    except KeyboardInterrupt:
        return True
    finally:
        while True:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
                break
            except KeyboardInterrupt:
                continue
    return False


@pytest.fixture
def alarms() -> Iterator[None]:
    """The timer's signal does what the stop button's does."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


needs_signals = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer on this system")
# An interrupt at a random instant also falls into finalizers and collector callbacks of other libraries.
falls_anywhere = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@needs_signals
@falls_anywhere
@pytest.mark.case("F08")
def test_two_thousand_interrupts_at_random_instants_leave_no_run_active_and_no_mode_moved(alarms: None) -> None:
    model, ids, rng = tiny_models.gpt2(n_layer=2), torch.tensor([[5, 9, 12]]), random.Random(2)
    with untouched(model):
        session = iw.open(model, tiny_models.tokenizer())
        session.ask("w5 w9 w12", "w11", "w13")
        live, plain = session.model, forward(model, ids)
        edits = [iw.Ablate("L0H1", mode="zero"), iw.Steer("L0", torch.ones(32), 0.5)]
        wants = live.run("w5 w9 w12", edits).logits
        work: list[Callable[[], Any]] = [
            lambda: live.run("w5 w9 w12", edits),
            lambda: live.answer(session.question.first, edits),  # pyright: ignore[reportOptionalMemberAccess]
            lambda: list(live.generate("w5 w9", edits, 3)),
        ]
        stopped = active = wrong = modes = tries = 0
        while stopped < 2000:
            tries += 1
            stopped += interrupted(rng.uniform(1e-5, 4e-3), rng.choice(work))
            active += gate.active() is not None
            modes += (
                not torch.is_grad_enabled() or torch.is_inference_mode_enabled() or torch.is_autocast_enabled("cpu")
            )
            torch.set_grad_enabled(True)
            if stopped % 10 == 0:
                wrong += not torch.equal(forward(model, ids), plain)
        print(
            f"interrupts: {stopped} of {tries} runs, {active} active afterwards, {wrong} forwards wrong, {modes} modes left"
        )
        assert (active, wrong) == (0, 0)
        assert torch.equal(live.run("w5 w9 w12", edits).logits, wants)
        assert live.lock.acquire(blocking=False), "the lock was left taken"
        live.lock.release()
        assert modes == 0
        session.close()
    assert our_hooks(model) == 0


@needs_signals
def test_hooks_that_are_removed_in_a_finally_stay_after_some_interrupts(alarms: None) -> None:
    """The negative control: try and finally are not enough."""
    model, ids, rng = tiny_models.gpt2(n_layer=2), torch.tensor([[5, 9, 12]]), random.Random(2)

    def steer() -> None:
        handles = [m.register_forward_hook(lambda *_: None) for m in model.modules() for _ in range(8)]
        try:
            forward(model, ids)
        finally:
            for handle in handles:
                handle.remove()

    for _ in range(400):
        stopped = interrupted(rng.uniform(1e-5, 6e-3), steer)
        torch.set_grad_enabled(True)  # torch's own no_grad is no safer: an interrupt in its end leaves gradients off
        if stopped and any(m._forward_hooks for m in model.modules()):
            return
    pytest.fail("no hook was ever left: the figure would hold without us")


@needs_signals
@falls_anywhere
@pytest.mark.case("F08")
def test_a_session_that_is_changed_while_interrupts_fall_still_tells_the_truth(bench: Bench, alarms: None) -> None:
    rng, stopped = random.Random(5), 0
    while stopped < 200:
        head = f"L{rng.randrange(3)}H{rng.randrange(4)}"
        stopped += interrupted(
            rng.uniform(1e-5, 3e-3), lambda head=head: (bench.session.toggle(head, mode="zero"), bench.session.undo())
        )
    bench.session.set(iw.Ablate("L2H1", mode="zero"))
    bench.page.calm()
    assert bench.page.metric == pytest.approx(bench.zeroed(2, 1), abs=1e-4)
    assert [one["site"] for one in bench.page.state["interventions"]] == ["L2H1"]


@pytest.mark.case("F04")
def test_interventions_held_across_an_await_are_not_seen_by_another_task(bench: Bench) -> None:
    ids, seen = torch.tensor([[5, 9, 12]]), {}
    plain = forward(bench.model, ids)
    bench.session.set(iw.Ablate("L1H2", mode="zero"))

    async def cell(inside: asyncio.Event, go_on: asyncio.Event) -> None:
        with bench.session.applied():
            inside.set()
            await go_on.wait()
            seen["cell"] = forward(bench.model, ids)

    async def main() -> None:
        inside, go_on = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(cell(inside, go_on))
        await inside.wait()
        seen["handler"] = forward(bench.model, ids)
        go_on.set()
        await task

    asyncio.run(main())
    assert torch.equal(seen["handler"], plain)
    assert not torch.equal(seen["cell"], plain)


@pytest.mark.case("F05")
def test_threads_that_the_user_starts_inside_applied_run_the_plain_model(bench: Bench) -> None:
    ids = torch.tensor([[5, 9, 12]])
    plain = forward(bench.model, ids)
    bench.session.set(iw.Ablate("L1H2", mode="zero"))
    with bench.session.applied(), ThreadPoolExecutor(2) as pool:
        others = list(pool.map(lambda _: forward(bench.model, ids), range(8)))
        mine = forward(bench.model, ids)
    assert all(torch.equal(other, plain) for other in others)
    assert not torch.equal(mine, plain)


@pytest.mark.case("F05")
def test_threads_that_are_given_a_copy_of_the_context_are_edited_each_by_its_own_rows(bench: Bench) -> None:
    prompts = [torch.tensor([ids]) for ids in ([5, 9, 12, 7], [9, 3, 9, 4, 12, 30, 31, 9], [9, 9])]
    steer = iw.Steer("L1", torch.linspace(-1, 1, 32), 2.0, positions=-1)
    bench.session.set(steer, iw.Ablate("L0H1", mode="zero", positions=iw.tokens("w9")))
    with bench.session.applied() as alone:
        wants = [forward(bench.model, ids) for ids in prompts]
    pace = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # a thread is put aside in the middle of a forward, many times
    try:
        with bench.session.applied() as receipts, ThreadPoolExecutor(3) as pool:
            futures = [
                (n % 3, pool.submit(contextvars.copy_context().run, forward, bench.model, prompts[n % 3]))
                for n in range(150)
            ]
            got = [(n, future.result()) for n, future in futures]
        after = pool_of_one(lambda: forward(bench.model, prompts[0]))
    finally:
        sys.setswitchinterval(pace)
    assert sum(not torch.equal(logits, wants[n]) for n, logits in got) == 0
    assert [one.fired for one in receipts] == [50 * one.fired for one in alone]
    assert [one.positions for one in receipts] == [50 * one.positions for one in alone]
    assert not torch.equal(after, wants[0]), "a thread stays edited after the block"
    bench.session.clear()


def pool_of_one(work: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What `work` gives on another thread, in a copy of this context."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(contextvars.copy_context().run, work).result()


@pytest.mark.case("F04")
def test_tasks_and_threads_of_a_cell_are_edited_inside_its_block_and_plain_after_it(bench: Bench) -> None:
    ids, seen = torch.tensor([[5, 9, 12]]), {}
    plain = forward(bench.model, ids)
    bench.session.set(iw.Ablate("L1H2", mode="zero"))

    async def child(go_on: asyncio.Event | None = None) -> torch.Tensor:
        if go_on is not None:
            await go_on.wait()
        return forward(bench.model, ids)

    async def cell() -> None:
        left = asyncio.Event()
        with bench.session.applied():
            seen["nested"] = await asyncio.create_task(child())
            seen["thread"] = await asyncio.to_thread(forward, bench.model, ids)
            late = asyncio.create_task(child(left))
            await asyncio.sleep(0)
        left.set()
        seen["late"] = await late
        seen["after"] = await child()

    asyncio.run(cell())
    assert {name: torch.equal(logits, plain) for name, logits in seen.items()} == {
        "nested": False, "thread": False, "late": True, "after": True,
    }  # fmt: skip
    bench.session.clear()


@pytest.mark.case("F06")
def test_an_inner_applied_replaces_the_outer_one_and_leaving_in_the_wrong_order_leaves_nothing_active(
    bench: Bench,
) -> None:
    ids = torch.tensor([[5, 9, 12]])
    plain = forward(bench.model, ids)

    def run(*edits: Any) -> Any:
        bench.session.set(*edits)
        return bench.session.applied()

    one, two = iw.Ablate("L1H2", mode="zero"), iw.Ablate("L0H1", mode="zero")
    with run(two):
        alone = forward(bench.model, ids)
    with run(one):
        outer = forward(bench.model, ids)
        with run(two):
            assert torch.equal(forward(bench.model, ids), alone)
        assert torch.equal(forward(bench.model, ids), outer)
    first, second = run(one), run(two)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert gate.active() is None
    assert torch.equal(forward(bench.model, ids), plain)
    bench.session.clear()


@pytest.mark.case("F09")
def test_a_wish_that_comes_while_a_cell_holds_the_model_is_taken_in_at_once(bench: Bench) -> None:
    bench.page.calm()
    with bench.session.model.lock:
        thread = threading.Thread(
            target=lambda: (bench.page.drag(1.0, final=True), bench.page.ablate("L0H1"), bench.page.hello())
        )
        thread.start()
        thread.join(2)
        assert not thread.is_alive(), "the handler waits for the cell that holds the model"
        bench.page.wait(lambda: bench.page.acknowledged, "the acknowledgement", 5)
        assert bench.page.state["busy"] is True
    bench.page.calm()


@pytest.mark.case("F11")
def test_pages_that_greet_while_views_open_and_close_get_every_view_that_stays(bench: Bench) -> None:
    made: list[Any] = []

    def change() -> None:
        view = iw.TokenAttribution(bench.session, steps=1)
        made.append(view)
        view.close()
        time.sleep(0.005)  # a loop that never waits would keep the interpreter to itself

    with beside(change):
        for n in range(60):
            open_page(bench.wire, bench.session, f"other {n % 40}")
            time.sleep(0.01)
    assert len(made) > 2
    bench.page.calm()
    assert len(mirror_of(bench.session).views()) == 3
    assert bench.page.panel(bench.heads)["status"] == "done"


@pytest.mark.case("F13")
def test_fifty_views_of_one_model_share_one_worker(bench: Bench, others: set[threading.Thread]) -> None:
    views = [iw.HeadAblation(bench.session, mode="zero") for _ in range(50)]
    assert len(threads_of_ours() - others) == 1
    for view in views:
        view.close()
    assert len(mirror_of(bench.session).views()) == 3


@pytest.mark.case("F10")
def test_a_thread_that_dies_in_a_run_gives_the_model_back(bench: Bench) -> None:
    def die() -> None:
        with pytest.raises(SystemExit):
            bench.session.model.run(PROMPT, [iw.Edit("L1", lambda _x: (_ for _ in ()).throw(SystemExit), name="dies")])

    thread = threading.Thread(target=die)
    thread.start()
    thread.join(10)
    assert bench.session.model.lock.acquire(timeout=1)
    bench.session.model.lock.release()


@pytest.mark.case("F14")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_forked_while_the_worker_runs_the_model_can_run_it_too(bench: Bench) -> None:
    bench.page.calm()
    taken, go = threading.Event(), threading.Event()

    def hold() -> None:
        with bench.session.model.lock:
            taken.set()
            go.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(5)
    child = os.fork()
    if child == 0:
        signal.alarm(15)  # a child that hangs ends by this signal
        torch.set_num_threads(1)  # as torch's own DataLoader does: OpenMP's threads are not in a forked child
        same = torch.equal(bench.session.model.run(PROMPT).logits, bench.session.model.run(PROMPT).logits)
        os._exit(5 if same else 6)
    _, status = os.waitpid(child, 0)
    go.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 5
