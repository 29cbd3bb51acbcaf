"""The recording comm itself: it carries both ways, and it lets nothing through that a browser could not read."""

from __future__ import annotations

import threading
from typing import Any

import ipywidgets
import pytest
import traitlets

from tests.unit.comm import NotStrictJsonError, Wire, strict


class Echo(ipywidgets.Widget):
    """Answers every custom message with its content and its buffers."""

    value = traitlets.Any(1).tag(sync=True)

    def __init__(self) -> None:
        super().__init__()
        self.on_msg(lambda widget, content, buffers: widget.send({"echo": content}, buffers))


def test_opening_a_widget_records_its_state(wire: Wire) -> None:
    widget = Echo()
    assert wire.of(widget).sent[0].kind == "comm_open"
    assert wire.of(widget).state["value"] == 1


def test_a_custom_message_goes_in_and_its_answer_comes_out_with_its_buffers(wire: Wire) -> None:
    widget = Echo()
    wire.of(widget).receive({"a": 1}, [b"\x00\x01"])
    answer = wire.of(widget).custom[-1]
    assert answer.content == {"echo": {"a": 1}}
    assert answer.buffers == (b"\x00\x01",)


def test_a_trait_set_in_the_browser_reaches_the_widget(wire: Wire) -> None:
    widget = Echo()
    wire.of(widget).receive_state(value=7)
    assert widget.value == 7


def test_waiting_sees_a_message_of_another_thread(wire: Wire) -> None:
    widget = Echo()
    mine = wire.of(widget)
    thread = threading.Thread(target=lambda: widget.send({"late": True}))
    thread.start()
    mine.wait(lambda: mine.custom, "the late message")
    thread.join()
    assert mine.custom[0].thread != threading.get_ident()


def test_waiting_for_what_never_comes_fails_with_its_name(wire: Wire) -> None:
    mine = wire.of(Echo())
    with pytest.raises(AssertionError, match="not within 0.01 s: a miracle"):
        mine.wait(lambda: False, "a miracle", timeout=0.01)


@pytest.mark.parametrize(
    "bad",
    [float("nan"), float("inf"), "\ud83d", {1: "a"}, {"a": b"bytes"}, {"a": {2}}, [object()]],
    ids=["nan", "infinity", "lone surrogate", "integer key", "bytes", "set", "object"],
)
def test_what_is_not_strict_json_is_refused(bad: Any) -> None:
    with pytest.raises(NotStrictJsonError):
        strict({"value": bad})


def test_an_outgoing_message_that_is_not_strict_json_fails_where_it_is_sent(wire: Wire) -> None:
    widget = Echo()
    with pytest.raises(NotStrictJsonError, match="Out of range float"):
        widget.send({"metric": float("nan")})
