"""The headless session widget: intents in, states out. Truth stays in the Python session."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from interp_widgets.model.errors import CancelledError, InterpError
from interp_widgets.session import Session, Snapshot
from interp_widgets.widgets.guard import Guarded, bundle
from interp_widgets.widgets.intents import Intent, apply, read
from interp_widgets.widgets.order import Order
from interp_widgets.widgets.outbox import Outbox
from interp_widgets.widgets.wire import state_of
from interp_widgets.worker import ANSWER, PANEL, worker_of

if TYPE_CHECKING:
    from interp_widgets.widgets.base import View

log = logging.getLogger("interp_widgets")
Json = dict[str, Any]


@dataclass
class Shown:
    """What a panel was last told, key by key with its revision, so that a page that opens later sees the same."""

    data: dict[str, tuple[int, Any]] = field(default_factory=dict[str, tuple[int, Any]])
    status: str = "computing"
    revision: int = 0
    progress: float = 0.0
    message: str = ""


class SessionWidget(Guarded):
    """One per session, without a view of its own: its browser half exports the store that every view shares."""

    _esm = bundle("session.js")

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)
        self._order = Order()
        self._panels: dict[str, weakref.ref[View]] = {}
        self._shown: dict[str, Shown] = {}
        self._taking = threading.RLock()
        self._error: str | None = None
        super().__init__()
        self._outbox = Outbox(lambda content, buffers: self.send(content, buffers))
        self._unlisten = session.listen(_listener(weakref.ref(self)))
        self._gone = weakref.finalize(session, _close_mirror, weakref.ref(self))

    # ---- in -------------------------------------------------------------------------------------------------------

    def receive(self, content: dict[str, Any], buffers: list[Any]) -> None:
        """Take one message of the page: answer a ping, greet a page, or note a wish."""
        del buffers
        kind = content.get("kind")
        if kind == "ping" and isinstance(content.get("client"), str):
            pong = {"kind": "pong", "client": content["client"][:64], "id": _plain(content.get("id"))}
            self._outbox.put(("pong", pong["client"]), lambda: pong)
        elif kind == "hello" and isinstance(content.get("client"), str):
            self._greet()
        elif kind == "intent":
            self._wish(content)
        else:
            self.dropped += 1

    def _greet(self) -> None:
        self.publish_state()
        for panel in list(self._shown):
            self._resend(panel)
        session = self._session()
        if session is not None and session.peek() is None:
            self.compute()

    def _wish(self, content: dict[str, Any]) -> None:
        session = self._session()
        if session is None or session.closed:
            self._outbox.put(
                "closed", lambda: {"kind": "closed", "message": "This session is closed; run the cell again."}
            )
            return
        try:
            intent = read(content)
        except InterpError as error:
            self.dropped += 1
            self._refuse_raw(content, str(error))
            return
        with self._taking:
            if not self._order.fresh(intent.client, intent.seq, intent.key, intent.name):
                return
            try:
                self._error = None
                apply(self, session, intent, self._order)
            except InterpError as error:
                self.refused(intent, str(error))
            except Exception as error:
                log.exception("the wish %s failed", intent.name)
                self.refused(intent, f"This could not be done: {type(error).__name__}: {error}")
            self.publish_state()

    def refused(self, intent: Intent, message: str) -> None:
        """Tell the page that a wish was wrong, in a sentence."""
        content = {"kind": "refused", "client": intent.client, "seq": intent.seq, "key": intent.key, "message": message}
        self._outbox.put(("refused", intent.client, intent.key), lambda: content)

    def _refuse_raw(self, content: dict[str, Any], message: str) -> None:
        client, seq, key = content.get("client"), content.get("seq"), content.get("key")
        if isinstance(client, str) and isinstance(seq, int) and isinstance(key, str):
            reply = {"kind": "refused", "client": client[:64], "seq": seq, "key": key[:200], "message": message}
            self._outbox.put(("refused", client[:64], key[:200]), lambda: reply)

    # ---- out ------------------------------------------------------------------------------------------------------

    def publish_state(self) -> None:
        """Send the state as it is when its turn comes."""
        self._outbox.put("state", self._state)

    def _state(self) -> Json | None:
        session = self._session()
        if session is None:
            return None
        state = state_of(session, busy=session.peek() is None and session.question is not None, error=self._error)
        return {"kind": "state", "revision": session.revision, "acks": dict(self._order.acks), "state": state}

    def publish(
        self,
        panel: str,
        revision: int,
        status: str,
        data: Json | None = None,
        progress: float = 0.0,
        message: str = "",
    ) -> None:
        """Send what one panel shows; keys that are left out keep their value."""
        shown = self._shown.setdefault(panel, Shown())
        for key, value in (data or {}).items():
            shown.data[key] = (revision, value)
        shown.status, shown.revision, shown.progress, shown.message = status, revision, progress, message
        fresh = set(data or ())
        slot = ("panel", panel)
        waiting = self._keys.setdefault(panel, set())
        waiting |= fresh
        self._outbox.put(slot, lambda: self._panel(panel))

    @property
    def _keys(self) -> dict[str, set[str]]:
        return self.__dict__.setdefault("_unsent", {})

    def _panel(self, panel: str) -> Json | None:
        shown = self._shown.get(panel)
        if shown is None:
            return None
        keys, self._keys[panel] = self._keys.get(panel, set()), set()
        data = {k: shown.data[k][1] for k in keys if shown.data[k][0] == shown.revision}
        return self._panel_message(panel, shown, shown.revision, data)

    def _panel_message(self, panel: str, shown: Shown, revision: int, data: Json) -> Json:
        return {
            "kind": "panel",
            "panel": panel,
            "revision": revision,
            "status": shown.status,
            "progress": shown.progress,
            "message": shown.message,
            "data": data or None,
        }

    def _resend(self, panel: str) -> None:
        shown = self._shown[panel]
        revisions = sorted({revision for revision, _ in shown.data.values()} | {shown.revision})
        for revision in revisions:
            data = {k: v for k, (r, v) in shown.data.items() if r == revision}
            message = self._panel_message(panel, shown, revision, data)
            self._outbox.put(("again", panel, revision), lambda m=message: m)

    # ---- computing ------------------------------------------------------------------------------------------------

    def add(self, view: View) -> None:
        """A view opened: compute what it shows."""
        self._panels[view.panel] = weakref.ref(view)
        self.publish_state()
        self.compute()

    def remove(self, view: View) -> None:
        """A view closed: stop what computes for it."""
        self._panels.pop(view.panel, None)
        self._shown.pop(view.panel, None)
        session = self._session()
        if session is not None:
            worker_of(session.model).drop((id(session), "panel", view.panel))

    def views(self) -> list[View]:
        """The open views, in the order in which they opened."""
        return [view for ref in list(self._panels.values()) if (view := ref()) is not None]

    def view(self, panel: str) -> View | None:
        """The view that shows `panel`."""
        ref = self._panels.get(panel)
        return ref() if ref is not None else None

    def compute(self) -> None:
        """Wish for the answer of the present revision, and then for what every view shows."""
        session = self._session()
        if session is None or session.closed or not self._panels:
            return
        snapshot = session.snapshot()
        worker = worker_of(session.model)
        worker.drop_where(lambda key: isinstance(key, tuple) and key[:2] == (id(session), "panel"))
        worker.submit((id(session), "answer"), lambda cancelled: self._answer(snapshot, cancelled), ANSWER)

    def _answer(self, snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
        session = self._session()
        if session is None or snapshot.revision != session.revision:
            return
        if snapshot.question is not None:
            try:
                session.compute(snapshot, cancelled)
                self._error = None
            except CancelledError:
                raise
            except InterpError as error:
                self._error = str(error)
            except Exception as error:
                log.exception("the answer could not be computed")
                self._error = f"The answer could not be computed: {type(error).__name__}: {error}"
            self.publish_state()
        for view in self.views():
            self.compute_panel(view)

    def compute_panel(self, view: View) -> None:
        """Wish for what one view shows at the present revision."""
        session = self._session()
        if session is None or session.closed:
            return
        snapshot, panel = session.snapshot(), view.panel
        worker_of(session.model).submit(
            (id(session), "panel", panel), lambda cancelled: self._compute_panel(panel, snapshot, cancelled), PANEL
        )

    def _compute_panel(self, panel: str, snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
        view, session = self.view(panel), self._session()
        if view is None or session is None or snapshot.revision != session.revision or snapshot.question is None:
            return
        try:
            view.compute(snapshot, cancelled)
        except CancelledError:
            raise
        except InterpError as error:
            self.publish(panel, snapshot.revision, "failed", message=str(error))
        except Exception as error:
            log.exception("%s could not be computed", type(view).__name__)
            self.publish(panel, snapshot.revision, "failed", message=f"{type(error).__name__}: {error}")

    def later(self, key: Hashable, job: Callable[[], None]) -> None:
        """Let the worker do `job` before anything else: for what may run the model."""
        session = self._session()
        if session is not None:
            worker_of(session.model).submit((id(session), "do", key), lambda _cancelled: job(), ANSWER)

    def told(self, what: str) -> None:
        """The session changed, or closed."""
        if what == "closed":
            self._outbox.put(
                "closed", lambda: {"kind": "closed", "message": "This session is closed; run the cell again."}
            )
            return
        self.publish_state()
        self.compute()

    def close(self) -> None:
        """Say goodbye to the page and close the comm."""
        self._unlisten()
        self._outbox.close()
        super().close()


def _listener(ref: weakref.ref[SessionWidget]) -> Callable[[Session, str], None]:
    def tell(_session: Session, what: str) -> None:
        widget = ref()
        if widget is not None:
            widget.told(what)

    return tell


def _close_mirror(ref: weakref.ref[SessionWidget]) -> None:
    widget = ref()
    if widget is not None:
        widget.close()


def _plain(value: Any) -> str | int | None:
    return value if isinstance(value, int) else str(value)[:64] if value is not None else None


_MIRRORS: weakref.WeakKeyDictionary[Session, SessionWidget] = weakref.WeakKeyDictionary()
_MIRRORS_LOCK = threading.Lock()


def mirror_of(session: Session) -> SessionWidget:
    """The session's widget, made when its first view opens."""
    with _MIRRORS_LOCK:
        mirror = _MIRRORS.get(session)
        if mirror is None or mirror.comm is None:
            mirror = _MIRRORS[session] = SessionWidget(session)
            session.holds(mirror)
        return mirror
