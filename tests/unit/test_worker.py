"""One thread per model: the newest wish, the most urgent first, stopped within a step (groups E and F)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from interp_widgets.model.errors import CancelledError
from interp_widgets.worker import ANSWER, PANEL, PREFETCH, Cancelled, Worker
from tests.timing import Hiccups

pytestmark = pytest.mark.alone

STEP = 0.02


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()
    if (thread := made._thread) is not None:
        thread.join(5)
        assert not thread.is_alive()


class Steps:
    """A job of many steps that says what happened to it."""

    def __init__(self, n: int = 200) -> None:
        self.n, self.starts, self.done, self.last = n, 0, False, 0.0
        self.running = threading.Event()

    def __call__(self, cancelled: Cancelled) -> None:
        self.starts += 1
        for _ in range(self.n):
            self.running.set()
            self.last = time.monotonic()
            time.sleep(STEP)
            if cancelled():
                raise CancelledError
        self.done = True


@pytest.mark.case("E01", "E07")
def test_of_a_hundred_wishes_of_one_key_the_running_and_the_last_are_computed(worker: Worker) -> None:
    did: list[int] = []
    gate = threading.Event()
    worker.submit("block", lambda _c: gate.wait(5) and None)
    for n in range(100):
        worker.submit("key", lambda _c, n=n: did.append(n))
    gate.set()
    assert worker.wait()
    assert did == [99]


@pytest.mark.case("E08")
def test_a_dropped_job_stops_within_one_step_and_is_not_run_again(worker: Worker) -> None:
    job = Steps()
    worker.submit("key", job)
    assert job.running.wait(5)
    with Hiccups() as hiccups:
        asked = time.monotonic()
        worker.drop("key")
        assert worker.wait(5)
    assert (job.starts, job.done) == (1, False)
    assert job.last <= asked + STEP + 0.05 + hiccups.allowed


def test_an_urgent_job_goes_first_and_the_other_is_run_again_afterwards(worker: Worker) -> None:
    slow, order = Steps(5), []
    worker.submit("slow", slow, PANEL)
    assert slow.running.wait(5)
    worker.submit("prefetch", lambda _c: order.append("prefetch"), PREFETCH)
    worker.submit("urgent", lambda _c: order.append(("urgent", slow.done)), ANSWER)
    assert worker.wait()
    assert slow.starts == 2
    assert slow.done
    assert order == [("urgent", False), "prefetch"]


def test_a_job_is_told_to_stop_for_good_even_when_the_urgent_one_is_gone_again(worker: Worker) -> None:
    told: list[bool] = []
    running, go = threading.Event(), threading.Event()

    def job(cancelled: Cancelled) -> None:
        running.set()
        if told:
            return
        go.wait(5)
        told.append(cancelled())
        worker.drop("urgent")
        told.append(cancelled())
        raise CancelledError

    worker.submit("job", job)
    assert running.wait(5)
    worker.submit("urgent", lambda _c: None, ANSWER)
    go.set()
    assert worker.wait()
    assert told == [True, True]


def test_a_job_that_stops_though_nobody_asked_is_not_run_for_ever(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    starts: list[int] = []

    def job(_cancelled: Cancelled) -> None:
        starts.append(1)
        raise CancelledError

    worker.submit("job", job)
    assert worker.wait()
    assert starts == [1]
    assert "nobody asked" in caplog.text


@pytest.mark.case("F10")
def test_a_job_that_raises_is_logged_and_the_next_one_runs(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    did: list[str] = []
    worker.submit("bad", lambda _c: 1 / 0 and None)
    worker.submit("good", lambda _c: did.append("good"))
    assert worker.wait()
    assert did == ["good"]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.case("E07")
def test_start_and_stop_a_hundred_times_ends_stopped_with_one_run_at_a_time(worker: Worker) -> None:
    at_once, most, runs = 0, 0, 0
    lock = threading.Lock()

    def job(cancelled: Cancelled) -> None:
        nonlocal at_once, most, runs
        with lock:
            at_once, runs = at_once + 1, runs + 1
            most = max(most, at_once)
        while not cancelled():
            time.sleep(0.001)
        with lock:
            at_once -= 1
        raise CancelledError

    for _ in range(100):
        worker.submit("generate", job)
        worker.drop("generate")
    assert worker.wait(5)
    assert (most <= 1, at_once) == (True, 0)
    assert not worker.busy


@pytest.mark.case("E09")
def test_closing_ends_the_job_within_a_step_and_the_thread_with_it(worker: Worker) -> None:
    job = Steps()
    worker.submit("key", job)
    worker.submit("waiting", Steps())
    assert job.running.wait(5)
    thread = worker._thread
    assert thread is not None
    with Hiccups() as hiccups:
        asked = time.monotonic()
        worker.close()
        thread.join(5)
    assert not thread.is_alive()
    assert job.last <= asked + STEP + 0.05 + hiccups.allowed
    worker.submit("late", lambda _c: pytest.fail("a closed worker ran a job"))
    assert not worker.busy


def test_wishes_of_many_threads_are_all_done_once(worker: Worker) -> None:
    did: list[Any] = []

    def wish(thread: int) -> None:
        for n in range(100):
            worker.submit((thread, n), lambda _c, key=(thread, n): did.append(key))

    threads = [threading.Thread(target=wish, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worker.wait()
    assert sorted(did) == [(t, n) for t in range(4) for n in range(100)]
    assert len({one.ident for one in threading.enumerate() if one.name == "interp_widgets worker"}) == 1


@pytest.mark.case("F14")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_does_not_inherit_the_worker_and_does_not_hang(worker: Worker) -> None:
    job = Steps(50)
    worker.submit("parents", job)
    assert job.running.wait(5)
    child = os.fork()
    if child == 0:
        worker.submit("childs", lambda _c: os._exit(3))
        worker.drop("parents")
        worker.close()
        os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert worker.wait()
    assert job.done
