"""The headless session widget: intents in, states out. Truth stays in the Python session."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from interp_widgets.session import Session
from interp_widgets.widgets.computing import Computing, Draw
from interp_widgets.widgets.held import Held
from interp_widgets.widgets.interrupt import watch_cells
from interp_widgets.widgets.outbox import STATE, Outbox
from interp_widgets.widgets.pages import Pages
from interp_widgets.widgets.panels import Json, Panels
from interp_widgets.widgets.wire import state_of
from interp_widgets.widgets.wishes import Wishes
from interp_widgets.worker import PANEL, worker_of

if TYPE_CHECKING:
    from interp_widgets.widgets.base import View

log = logging.getLogger("interp_widgets")
_CLOSED = "This session is closed; run the cell again."
_STOPPED = "Stopped, because the kernel was interrupted; change something, or run the cell again."


class SessionWidget(Held):
    """One per session, without a view of its own: its browser half exports the store that every view shares."""

    def __init__(self, session: Session) -> None:
        self._ref = weakref.ref(session)
        self._context: Context | None = None
        self._outbox = Outbox(self._post)
        self._pages = Pages()
        self._panels = Panels()
        worker = worker_of(session.model)
        self._wishes = Wishes(worker, self._panels, self._refuse, self.publish_state)
        self._computing = Computing(worker, self._open, self._panels, self._news, self.publish_state)
        super().__init__("session")
        self._unlisten = session.listen(_listener(weakref.ref(self)))
        weakref.finalize(session, _close_later, weakref.ref(self))
        _OPEN.add(self)
        watch_cells(stop_all, look_all)

    def _open(self) -> Session | None:
        session = self._ref()
        return None if session is None or session.closed else session

    # ---- in -------------------------------------------------------------------------------------------------------

    def receive(self, content: dict[str, Any], buffers: list[Any]) -> None:
        """Take one message of the page: answer a ping, greet a page, or note a wish."""
        del buffers
        self._context = copy_context()
        kind, client = content.get("kind"), content.get("client")
        if kind == "intent":
            self._wish(content)
        elif not isinstance(client, str):
            self.dropped += 1
        elif kind == "ping":
            pong = {"kind": "pong", "client": client[:64], "id": _plain(content.get("id"))}
            self._outbox.put(("pong", client[:64]), lambda: pong)
        elif kind == "hello":
            self._pages.came(client[:64], listening=content.get("listening"))
            self._greet()
        elif kind == "listening":
            self._pages.listens(client[:64], on=content.get("on"))
            self._beat()
        elif kind == "bye":
            if self._pages.left(client[:64]):
                self._computing.leave()
        else:
            self.dropped += 1

    def _greet(self) -> None:
        self._beat()
        self.publish_state()
        for panel in self._panels.told():
            self._outbox.put(("again", panel), lambda panel=panel: self._panels.again(panel))
        for view in self.views():
            self._outbox.put(("noted", view.panel), lambda view=view: self._note(view))
        self._computing.recompute()

    def _beat(self) -> None:
        if self._pages.listened:
            self._outbox.beat(lambda: self._pages.listened)

    def _note(self, view: View) -> None:
        # ipykernel sends what a page says to the thread that last spoke on the same comm. A view has only spoken in its cell,
        # so a setting changed in the page would wait for the running cell; one word in the page's own context turns that.
        self.in_page(lambda: view.send({"kind": "noted"}))

    def _wish(self, content: dict[str, Any]) -> None:
        session = self._open()
        if session is None:
            self._outbox.put("closed", lambda: {"kind": "closed", "message": _CLOSED})
        elif not self._wishes.take(session, content):
            self.dropped += 1

    # ---- out ------------------------------------------------------------------------------------------------------

    def _post(self, content: Json, buffers: list[bytes]) -> None:
        self.in_page(lambda: self.send(content, buffers))

    def in_page(self, job: Callable[[], None]) -> None:
        """Do `job`, which speaks, where the page is heard again at once."""
        # As part of the page's last message, not of the cell that happens to run: ipykernel answers, and routes what the page
        # says next, by the message that a thread is working on.
        context = self._context
        if context is None:
            job()
        else:
            context.copy().run(job)

    def _refuse(self, refusal: Json) -> None:
        self._outbox.put(("refused", refusal["client"], refusal["key"]), lambda: refusal)

    def _news(self, panel: str) -> None:
        self._outbox.put(("panel", panel), lambda: self._panels.news(panel))

    def publish_state(self) -> None:
        """Send the state as it is when its turn comes."""
        self._outbox.put(STATE, self._state)

    def _state(self) -> Json | None:
        session = self._ref()
        if session is None:
            return None
        with session.held():
            waits = session.question is not None and session.peek() is None
            working = waits and not self._computing.fails(session.revision) and bool(self._panels)
            busy = working or self._wishes.waiting
            state = state_of(session, busy=busy, error=self._computing.error)
            return {"kind": "state", "revision": session.revision, "acks": self._wishes.acks, "state": state}

    # ---- what views call ------------------------------------------------------------------------------------------

    def add(self, view: View) -> None:
        """A view opened: compute what it shows."""
        self._panels.add(view)
        self.publish_state()
        self._computing.compute()

    def remove(self, view: View) -> None:
        """A view closed: stop what computes for it, and let the page forget what it was told."""
        told = self._panels.remove(view.panel)
        self._computing.remove(view.panel)
        if told:
            gone = {"kind": "panel", "panel": view.panel, "revision": 0, "status": "closed"}
            gone |= {"progress": 0.0, "message": "", "data": None}
            self._outbox.put(("gone", view.panel), lambda: gone)

    def views(self) -> list[View]:
        """The open views, in the order in which they opened."""
        return self._panels.views()

    def compute_panel(self, view: View, priority: int = PANEL) -> None:
        """Wish for what one view shows at the present revision; with `PREFETCH`, when nobody else waits."""
        self._computing.compute_panel(view, priority)

    def compute_beside(self, view: View, name: str, draw: Draw) -> None:
        """See `Computing.compute_beside`."""
        self._computing.compute_beside(view, name, draw)

    def publish(
        self,
        panel: str,
        revision: int,
        status: str | None,
        data: Json | None = None,
        progress: float = 0.0,
        message: str = "",
    ) -> None:
        """See `Computing.publish`."""
        self._computing.publish(panel, revision, status, data, progress, message)

    def complain(self, view: View, message: str) -> None:
        """Show a sentence in a view, beside what it shows; an empty one takes it away."""
        session = self._ref()
        if session is not None and self._panels.complain(view.panel, session.revision, message):
            self._news(view.panel)

    # ---- life -----------------------------------------------------------------------------------------------------

    def told(self, what: str) -> None:
        """The session changed, or closed."""
        if what == "closed":
            self._outbox.put("closed", lambda: {"kind": "closed", "message": _CLOSED})
            return
        self._computing.error = None
        self.publish_state()
        self._computing.compute()
        for view in self.views():
            try:
                view.changed()
            except Exception:
                log.exception("a view could not follow the session; the others still do")

    def stop(self, message: str) -> None:
        """Stop what computes for this session, and say so where it would have been shown."""
        self._wishes.drop()
        self._computing.stop(message)
        self.publish_state()

    def look(self) -> None:
        """See whether the model is still the one on screen, when its turn comes: the user may have trained it."""
        self._computing.look()

    def close(self) -> None:
        """Say goodbye to the page and close the comm."""
        if self.comm is None:
            return
        _OPEN.discard(self)
        self._unlisten()
        self._outbox.close()
        super().close()


def _listener(ref: weakref.ref[SessionWidget]) -> Callable[[Session, str], None]:
    def tell(_session: Session, what: str) -> None:
        widget = ref()
        if widget is not None:
            widget.told(what)

    return tell


def _close_later(ref: weakref.ref[SessionWidget]) -> None:
    # Called wherever memory happens to be freed, maybe while a lock is held that closing would wait for.
    widget = ref()
    if widget is not None:
        widget._outbox.later(widget.close)  # noqa: SLF001


def _plain(value: Any) -> str | int | None:
    if isinstance(value, int) and abs(value) < 1 << 53:
        return int(value)
    return value[:64] if isinstance(value, str) else None


_OPEN: weakref.WeakSet[SessionWidget] = weakref.WeakSet()
_MIRRORS: weakref.WeakKeyDictionary[Session, SessionWidget] = weakref.WeakKeyDictionary()
_MIRRORS_LOCK = threading.RLock()


def stop_all() -> None:
    """Stop everything that computes for a page: the kernel was interrupted."""
    for mirror in list(_OPEN):
        mirror.stop(_STOPPED)


def look_all() -> None:
    """See of every session whether its page shows what there is: a cell has ended."""
    for mirror in list(_OPEN):
        mirror.look()


def mirror_of(session: Session) -> SessionWidget:
    """The session's widget, made when its first view opens."""
    mirror = _MIRRORS.get(session)
    if mirror is not None and mirror.comm is not None:
        return mirror
    # The session's lock first: making one takes it, and a listener of the session, which holds it, may make a view.
    with session.held(), _MIRRORS_LOCK:
        mirror = _MIRRORS.get(session)
        if mirror is None or mirror.comm is None:
            mirror = _MIRRORS[session] = SessionWidget(session)
            session.holds(mirror)
        return mirror
