"""Widgets without a kernel: comms that record what goes out and take what a browser would send.

Everything that leaves is held to the wire's rules at once: strict JSON (no NaN, no infinity, no lone surrogate), string
keys, binary only in buffers.

    def test_a_click_is_answered(wire: Wire) -> None:
        widget = iw.HeadAblation(session)
        wire.of(widget).receive({"kind": "hello", "client": "a", "version": "0.1.0"})
        assert wire.of(widget).custom[-1].content["kind"] == "state"
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import comm
import pytest
from comm.base_comm import BaseComm, CommManager

Json = dict[str, Any]


class NotStrictJsonError(AssertionError):
    """A message could not be sent as strict JSON in UTF-8."""


@dataclass(frozen=True)
class Sent:
    """One message from kernel to browser; `size` is that of its JSON in bytes, `thread` the sender's."""

    kind: str
    data: Json
    buffers: tuple[bytes, ...]
    size: int
    thread: int
    time: float

    @property
    def content(self) -> Json:
        """The content of a custom message (`widget.send(content)`)."""
        return self.data["content"]


def strict(data: object) -> bytes:
    """What goes over the wire, byte for byte, or `NotStrictJsonError` naming what is wrong."""
    _only_json(data, "$")
    try:
        return json.dumps(data, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError) as error:  # UnicodeEncodeError is a ValueError
        raise NotStrictJsonError(f"{error} in {data!r:.300}") from error


def _only_json(value: object, path: str) -> None:
    # json.dumps would quietly turn an int key into a string and a tuple into a list; a key must be what the page reads.
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise NotStrictJsonError(f"the key {key!r} at {path} is not a string")
            _only_json(inner, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _only_json(inner, f"{path}[{index}]")
    elif not isinstance(value, str | int | float | bool | None):
        raise NotStrictJsonError(f"{type(value).__name__} at {path} is not JSON")


class RecordingComm(BaseComm):
    """A comm whose other end is the test."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.sent: list[Sent] = []
        self.arrived = threading.Condition()
        super().__init__(*args, **kwargs)

    def publish_msg(
        self,
        msg_type: str,
        data: Any = None,
        metadata: Any = None,
        buffers: Sequence[bytes] | None = None,
        **keys: Any,
    ) -> None:
        size = len(strict({"data": data, "metadata": metadata, **keys}))
        copies = tuple(bytes(buffer) for buffer in buffers or ())
        with self.arrived:
            self.sent.append(
                Sent(msg_type, json.loads(strict(data or {})), copies, size, threading.get_ident(), time.monotonic())
            )
            self.arrived.notify_all()

    @property
    def custom(self) -> list[Sent]:
        """The custom messages so far, in order."""
        return [message for message in list(self.sent) if message.data.get("method") == "custom"]

    @property
    def state(self) -> Json:
        """The traits as the browser has them: the opening state and every update since."""
        state: Json = {}
        for message in list(self.sent):
            state |= message.data.get("state", {})
        return state

    def receive(self, content: Json, buffers: Sequence[bytes] = ()) -> None:
        """A custom message from the browser, handled on the calling thread."""
        self._receive({"method": "custom", "content": content}, buffers)

    def receive_state(self, **state: Any) -> None:
        """The browser sets traits."""
        self._receive({"method": "update", "state": state, "buffer_paths": []}, ())

    def _receive(self, data: Json, buffers: Sequence[bytes]) -> None:
        self.handle_msg(
            {
                "content": {"comm_id": self.comm_id, "data": data},
                "buffers": [memoryview(buffer) for buffer in buffers],
                "metadata": {},
            }  # pyright: ignore[reportArgumentType]  # comm declares a message narrower than what kernels deliver
        )

    def wait(self, holds: Callable[[], object], what: str, timeout: float = 10.0) -> None:
        """Wait until `holds()`, looked at after every message; AssertionError naming `what` after `timeout` seconds."""
        with self.arrived:
            assert self.arrived.wait_for(holds, timeout), f"not within {timeout} s: {what}"


@dataclass
class Wire:
    """Every comm that a test opened, by id."""

    comms: dict[str, RecordingComm] = field(default_factory=dict[str, RecordingComm])
    manager: CommManager = field(default_factory=CommManager)

    def open(self, *args: Any, **kwargs: Any) -> RecordingComm:
        """Stand in for `comm.create_comm`."""
        opened = RecordingComm(*args, **kwargs)
        self.comms[opened.comm_id] = opened
        return opened

    def of(self, widget: Any) -> RecordingComm:
        """The comm of one widget."""
        return self.comms[widget.model_id]

    @property
    def sent(self) -> list[Sent]:
        """All messages of all comms, oldest first."""
        return sorted((message for one in self.comms.values() for message in one.sent), key=lambda sent: sent.time)


def install(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Give every widget made from here on a recording comm; undone with the monkeypatch."""
    wire = Wire()
    monkeypatch.setattr(comm, "create_comm", wire.open)
    monkeypatch.setattr(comm, "get_comm_manager", lambda: wire.manager)
    return wire
