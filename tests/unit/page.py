"""A page without a browser: wishes out, states and panels in, kept as the browser's store keeps them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

import interp_widgets as iw
from interp_widgets.widgets.base import View
from interp_widgets.widgets.channel import mirror_of
from interp_widgets.worker import worker_of
from tests.unit.comm import Json, RecordingComm, Sent, Wire

PROMPT = "w5 w9 w12 w5 w30 w7"
REFERENCE = ["w3 w4 w8 w11", "w20 w21 w22"]


@dataclass
class Page:
    """One page that has opened a session's widget.

    Attributes:
        comm: the session widget's, from the browser's side.
        client: the page's own name.
        seq: the last sequence number given.
    """

    session: iw.Session
    comm: RecordingComm
    client: str = "page"
    seq: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def hello(self) -> None:
        """Greet the kernel, as a page that has just been opened."""
        self.comm.receive({"kind": "hello", "client": self.client, "version": "0"})

    def intent(self, name: str, key: str, /, **args: Any) -> Json:
        """The next wish, not yet sent."""
        with self.lock:
            self.seq += 1
            return {"kind": "intent", "client": self.client, "seq": self.seq, "name": name, "key": key, "args": args}

    def wish(self, name: str, key: str, /, **args: Any) -> int:
        """Send a wish; its number."""
        message = self.intent(name, key, **args)
        self.comm.receive(message)
        return message["seq"]

    def ablate(self, site: str, *, off: bool = True, mode: str = "zero") -> int:
        """Click on a head."""
        return self.wish("ablate", f"head:{site}", site=site, off=off, mode=mode)

    def drag(self, value: float, *, final: bool = False, name: str = "push") -> int:
        """Move a slider."""
        return self.wish("strength", f"strength:{name}", name=name, value=value, final=final)

    # ---- what is shown --------------------------------------------------------------------------------------------

    def of(self, kind: str) -> list[Sent]:
        """Every message of one kind, oldest first."""
        return [sent for sent in self.comm.custom if sent.content.get("kind") == kind]

    @property
    def shown(self) -> Json:
        """The newest state message that is painted: an older revision never is."""
        best: Json = {"revision": -1, "acks": {}, "state": {"busy": True, "answer": None}}
        for sent in self.of("state"):
            best = sent.content if sent.content["revision"] >= best["revision"] else best
        return best

    @property
    def state(self) -> Json:
        """The state on the screen."""
        return self.shown["state"]

    @property
    def metric(self) -> float | None:
        """The number on the screen."""
        answer = self.state["answer"]
        return None if answer is None else answer["metric"]

    def panel(self, view: View) -> Json:
        """The last that was said of a view, with all of its data, as the page adds it up."""
        last: Json = {"revision": -1, "status": "computing", "data": {}}
        for sent in self.of("panel"):
            new = sent.content
            if new["panel"] == view.panel and new["revision"] >= last["revision"]:
                last = {**new, "data": {**last["data"], **(new["data"] or {})}}
        return last

    def refusal(self, seq: int) -> str | None:
        """Why a wish was refused, if it was."""
        return next((s.content["message"] for s in self.of("refused") if s.content["seq"] == seq), None)

    # ---- waiting --------------------------------------------------------------------------------------------------

    def wait(self, holds: Any, what: str, timeout: float = 20.0) -> None:
        """Wait until `holds()`, looked at after every message."""
        self.comm.wait(holds, what, timeout)

    def calm(self, timeout: float = 30.0) -> None:
        """Wait until the page shows the kernel's state with its answer, and no view computes (one that takes long may ask first)."""
        mirror = mirror_of(self.session)

        def quiet() -> bool:
            here = self.session.revision
            ready = self.shown["revision"] == here and not self.state["busy"] and self.acknowledged
            return ready and all(
                (last := self.panel(view))["status"] in ("done", "failed", "asking") and last["revision"] == here
                for view in mirror.views()
                if self.session.question is not None
            )

        self.wait(quiet, "a calm page", timeout)
        assert worker_of(self.session.model).wait(timeout)  # a view that asked may have been told to go on
        self.wait(quiet, "a calm page", timeout)

    @property
    def acknowledged(self) -> bool:
        """Whether everything that was sent has been taken in."""
        return self.shown["acks"].get(self.client, 0) >= self.seq or self.seq == 0


def open_page(wire: Wire, session: iw.Session, client: str = "page") -> Page:
    """A page on the session's widget that has said hello, and was told the state: another thread sends it."""
    page = Page(session, wire.of(mirror_of(session)), client)
    told = len(page.of("state"))
    page.hello()
    page.wait(lambda: len(page.of("state")) > told, "the state after a hello")
    return page


class Said(NamedTuple):
    """One thing that a view said."""

    panel: str
    status: str
    data: Json
    message: str


def record(monkeypatch: pytest.MonkeyPatch, session: iw.Session) -> list[Said]:
    """What the views say from now on, as they say it: of what one view says in quick succession a page gets the sum."""
    mirror, told = mirror_of(session), list[Said]()
    publish = mirror.publish

    def kept(panel: str, revision: int, status: str, data: Json | None, progress: float, message: str) -> None:
        told.append(Said(panel, status, data or {}, message))
        publish(panel, revision, status, data, progress, message)

    monkeypatch.setattr(mirror, "publish", kept)
    return told
