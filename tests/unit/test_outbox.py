"""What leaves for the browser: strict, small, never too fast, and always the last word (groups E and D)."""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import Any

import ipywidgets
import numpy as np
import pytest

from interp_widgets.widgets.outbox import LIMIT, Outbox, pack
from tests.timing import Hiccups
from tests.unit.comm import Wire as Recording
from tests.unit.comm import strict

pytestmark = pytest.mark.alone


class Wire:
    """Keeps what was sent, with its time."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, Any, list[bytes]]] = []
        self.came = threading.Condition()

    def send(self, content: Any, buffers: list[bytes]) -> None:
        strict(content)
        with self.came:
            self.sent.append((time.monotonic(), content, buffers))
            self.came.notify_all()

    def wait(self, holds: Any) -> None:
        with self.came:
            assert self.came.wait_for(holds, 20)

    @property
    def contents(self) -> list[Any]:
        return [content for _, content, _ in self.sent]


@pytest.mark.case("E11")
def test_five_thousand_updates_go_out_below_sixty_a_second_and_the_last_value_arrives() -> None:
    wire = Wire()
    box = Outbox(wire.send)
    for n in range(5000):
        box.put("value", lambda n=n: {"kind": "state", "n": n})
        if n % 50 == 0:
            box.put(("other", n), lambda n=n: {"kind": "panel", "n": n})
    wire.wait(
        lambda: (
            {"kind": "state", "n": 4999} in wire.contents and sum(c["kind"] == "panel" for c in wire.contents) == 100
        )
    )
    times = [at for at, *_ in wire.sent]
    most = max(sum(start <= at < start + 1.0 for at in times) for start in times)
    print(f"wire: 5100 updates became {len(times)} messages, at most {most} in a second")
    assert most <= 60
    numbers = [c["n"] for c in wire.contents if c["kind"] == "state"]
    assert numbers == sorted(numbers)


def test_a_plain_slider_sends_every_update_as_fast_as_a_cell_makes_them(wire: Recording) -> None:
    """The negative control: what a page's server, which takes 1000 messages a second for three seconds, then drops."""
    slider = ipywidgets.IntSlider(max=5000)
    for n in range(5000):
        slider.value = n
    times = [sent.time for sent in wire.of(slider).sent]
    assert max(sum(start <= at < start + 1.0 for at in times) for start in times[::100]) > 60
    slider.close()


@pytest.mark.case("E01")
def test_states_that_never_end_leave_room_for_everything_else() -> None:
    wire, said = Wire(), 0
    box = Outbox(wire.send)

    def state() -> Any:
        nonlocal said
        said += 1
        if said < 60:  # as a page does whose pointer moves: the next wish comes as soon as this one is acknowledged
            box.put("state", state)
        return {"kind": "state", "n": said}

    box.put("state", state)
    for n in range(5):
        box.put(("panel", n), lambda n=n: {"kind": "panel", "n": n})
    wire.wait(lambda: said == 60)
    kinds = [content["kind"] for content in wire.contents[:11]]
    assert kinds == [*["state", "panel"] * 5, "state"]
    assert [content["n"] for content in wire.contents if content["kind"] == "panel"] == list(range(5))


def test_the_state_does_not_queue_behind_tables_and_both_arrive() -> None:
    wire, begun, go = Wire(), threading.Event(), threading.Event()
    box = Outbox(wire.send)

    def first() -> Any:
        begun.set()
        assert go.wait(10)
        return {"kind": "panel", "n": -1}

    box.put("first", first)
    assert begun.wait(10)
    for n in range(5):
        box.put(("panel", n), lambda n=n: {"kind": "panel", "n": n})
    box.put("state", lambda: {"kind": "state", "n": 7})
    go.set()
    wire.wait(lambda: len(wire.sent) == 7)
    assert wire.contents[1] == {"kind": "state", "n": 7}
    assert [c["n"] for c in wire.contents if c["kind"] == "panel"] == [-1, 0, 1, 2, 3, 4]


@pytest.mark.case("F15")
def test_a_page_that_listens_hears_a_beat_every_half_second_and_nothing_once_it_stops() -> None:
    wire, heard = Wire(), True
    box = Outbox(wire.send)
    with Hiccups() as hiccups:
        begun = time.monotonic()
        box.beat(lambda: heard)
        wire.wait(lambda: len(wire.sent) >= 5)
    times = [at - begun for at, *_ in wire.sent]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert wire.contents == [{"kind": "beat"}] * len(wire.sent)
    assert times[0] < 0.3 + hiccups.allowed
    assert min(gaps) > 0.4 - hiccups.allowed, "more is said than is needed"
    assert max(gaps) < 1.0 + hiccups.allowed, "the page would give us up"
    heard = False
    said = len(wire.sent)
    time.sleep(1.2)
    assert len(wire.sent) <= said + 1


@pytest.mark.case("F15")
def test_what_is_said_anyway_is_a_beat_too() -> None:
    wire = Wire()
    box = Outbox(wire.send)
    box.beat(lambda: True)
    for n in range(15):
        box.put("value", lambda n=n: {"kind": "state", "n": n})
        time.sleep(0.1)
    box.close()
    assert sum(content["kind"] == "beat" for content in wire.contents) <= 2


@pytest.mark.case("F15")
def test_a_busy_session_does_not_take_the_beat_of_another() -> None:
    wire, other, stop = Wire(), Wire(), threading.Event()
    busy, box = Outbox(other.send), Outbox(wire.send)

    def hammer() -> None:
        while not stop.is_set():
            busy.put(object(), lambda: {"kind": "busy"})
            time.sleep(0.005)

    thread = threading.Thread(target=hammer)
    thread.start()
    box.beat(lambda: True)
    begun = time.monotonic()
    wire.wait(lambda: len(wire.sent) >= 4)
    stop.set()
    thread.join()
    box.close()
    assert time.monotonic() - begun < 6
    assert len(other.sent) > 20


def test_a_key_that_is_put_again_and_again_keeps_its_place_and_starves_nobody() -> None:
    wire = Wire()
    box = Outbox(wire.send)
    stop = threading.Event()

    def hammer() -> None:
        n = 0
        while not stop.is_set():
            box.put("busy", lambda n=n: {"kind": "busy", "n": n})
            n += 1
            time.sleep(0.001)

    thread = threading.Thread(target=hammer)
    thread.start()
    for n in range(20):
        box.put(("quiet", n), lambda n=n: {"kind": "quiet", "n": n})
    wire.wait(lambda: sum(c["kind"] == "quiet" for c in wire.contents) == 20)
    wire.wait(lambda: sum(c["kind"] == "busy" for c in wire.contents) >= 3)
    stop.set()
    thread.join()
    assert [c["n"] for c in wire.contents if c["kind"] == "quiet"] == list(range(20))


@pytest.mark.case("D07")
def test_a_message_that_cannot_be_made_is_logged_and_the_others_still_go(caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire()
    box = Outbox(wire.send)
    box.put("bad", lambda: {"kind": "panel", "data": object()})
    box.put("worse", lambda: 1 / 0)  # pyright: ignore[reportArgumentType]
    box.put("good", lambda: [{"kind": "one"}, {"kind": "two"}])
    wire.wait(lambda: len(wire.sent) == 2)
    assert wire.contents == [{"kind": "one"}, {"kind": "two"}]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.case("D06", "E12")
def test_what_is_over_a_megabyte_is_replaced_by_a_sentence_of_the_same_kind() -> None:
    wire = Wire()
    box = Outbox(wire.send)
    state = {"question": "x" * LIMIT, "history": {"items": [1], "index": 0}, "busy": False}
    box.put("state", lambda: {"kind": "state", "revision": 3, "acks": {}, "state": state})
    box.put(
        "panel", lambda: {"kind": "panel", "panel": "p", "status": "done", "data": {"a": np.zeros(LIMIT, np.float32)}}
    )
    wire.wait(lambda: len(wire.sent) == 2)
    first, second = wire.contents
    assert "1.0 MB" in first["state"]["error"]
    assert (first["revision"], first["state"]["busy"]) == (3, False)
    assert second["status"] == "failed"
    assert "4.0 MB" in second["message"]
    assert all(len(strict(content)) < 2000 and not buffers for _, content, buffers in wire.sent)


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (float("nan"), None),
        (float("-inf"), None),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        ("a\ud83d", "a\ufffd"),
        ("\ud83d\ude00", "😀"),
        ({1: (2, "\udc00")}, {"1": [2, "\ufffd"]}),
        (True, True),
        (10**30, 10**30),
    ],
)
def test_every_value_leaves_as_strict_json(value: Any, sent: Any) -> None:
    packed = pack(value, [])
    assert packed == sent
    strict({"value": packed})


def test_arrays_leave_as_little_endian_buffers_of_their_own() -> None:
    buffers: list[bytes] = []
    packed = pack({"a": np.arange(6.0).reshape(2, 3), "b": np.array([1, 2], dtype=">i8")}, buffers)
    assert packed == {
        "a": {"$array": 0, "dtype": "float32", "shape": [2, 3]},
        "b": {"$array": 1, "dtype": "int32", "shape": [2]},
    }
    assert np.frombuffer(buffers[0], "<f4").tolist() == [0, 1, 2, 3, 4, 5]
    assert np.frombuffer(buffers[1], "<i4").tolist() == [1, 2]


def test_closing_sends_what_waits_and_nothing_after() -> None:
    wire = Wire()
    box = Outbox(wire.send)
    for n in range(30):
        box.put(n, lambda n=n: {"n": n})
    box.close()
    assert sorted(c["n"] for c in wire.contents) == list(range(30))
    box.put("late", lambda: {"n": "late"})
    box.close()
    other = Outbox(wire.send)
    other.put("after", lambda: {"n": "after"})
    wire.wait(lambda: {"n": "after"} in wire.contents)
    assert {"n": "late"} not in wire.contents


@pytest.mark.case("F14")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_says_nothing_on_its_parents_connection() -> None:
    read, write = os.pipe()

    def send(content: Any, _buffers: list[bytes]) -> None:
        os.write(write, content["who"].encode())

    box = Outbox(send)
    child = os.fork()
    if child == 0:
        box.put("x", lambda: {"who": "child"})
        box.close()
        os._exit(0)
    os.waitpid(child, 0)
    box.put("x", lambda: {"who": "parent"})
    assert os.read(read, 100) == b"parent"
