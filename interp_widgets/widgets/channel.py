"""The headless session widget: intents in, states out. Truth stays in the Python session."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from interp_widgets.model.errors import CancelledError, InterpError
from interp_widgets.session import Mark, Session, Snapshot
from interp_widgets.widgets.guard import Guarded, bundle
from interp_widgets.widgets.intents import ASIDE, MOVES, Intent, apply, keys_of, narrowed, read
from interp_widgets.widgets.interrupt import watch_interrupts
from interp_widgets.widgets.order import Done, Order
from interp_widgets.widgets.outbox import Outbox
from interp_widgets.widgets.wire import state_of
from interp_widgets.worker import ANSWER, PANEL, worker_of

if TYPE_CHECKING:
    from interp_widgets.widgets.base import View

log = logging.getLogger("interp_widgets")
Json = dict[str, Any]
PAGES = 64
SENTENCE = 2000


_CLOSED = "This session is closed; run the cell again."
_STOPPED = "Stopped, because the kernel was interrupted; change something, or run the cell again."


@dataclass
class Shown:
    """What a panel was last told, key by key with its revision, so that a page that opens later sees the same.

    Attributes:
        unsent: keys whose newest value has not been sent.
        complaint: why the last setting was refused; shown until one is taken, or the session changes.
    """

    data: dict[str, tuple[int, Any]] = field(default_factory=dict[str, tuple[int, Any]])
    unsent: set[str] = field(default_factory=set[str])
    status: str = "computing"
    revision: int = 0
    progress: float = 0.0
    message: str = ""
    complaint: str = ""
    complained_at: int = 0


class SessionWidget(Guarded):
    """One per session, without a view of its own: its browser half exports the store that every view shares."""

    _esm = bundle("session.js")

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)
        self._order: Order[Intent, Mark] = Order()
        self._panels: dict[str, weakref.ref[View]] = {}
        self._shown: dict[str, Shown] = {}
        self._turns: dict[str, Callable[[], bool]] = {}
        self._pages: set[str] = set()
        self._taking = threading.RLock()
        self._showing = threading.RLock()
        self._error: str | None = None
        self._failed = -1
        self._context: Context | None = None
        super().__init__()
        self._outbox = Outbox(self._post)
        self._unlisten = session.listen(_listener(weakref.ref(self)))
        weakref.finalize(session, _close_later, weakref.ref(self))
        _OPEN.add(self)
        watch_interrupts(stop_all)

    # ---- in -------------------------------------------------------------------------------------------------------

    def receive(self, content: dict[str, Any], buffers: list[Any]) -> None:
        """Take one message of the page: answer a ping, greet a page, or note a wish."""
        del buffers
        self._context = copy_context()
        kind, client = content.get("kind"), content.get("client")
        if kind == "ping" and isinstance(client, str):
            pong = {"kind": "pong", "client": client[:64], "id": _plain(content.get("id"))}
            self._outbox.put(("pong", client[:64]), lambda: pong)
        elif kind == "hello" and isinstance(client, str):
            self._greet(client[:64])
        elif kind == "bye" and isinstance(client, str):
            self._left(client[:64])
        elif kind == "intent":
            self._wish(content)
        else:
            self.dropped += 1

    def _greet(self, client: str) -> None:
        if len(self._pages) < PAGES:
            self._pages.add(client)
        self.publish_state()
        with self._showing:
            panels = list(self._shown)
        for panel in panels:
            self._outbox.put(("again", panel), lambda panel=panel: self._again(panel))
        for view in self.views():
            self._outbox.put(("noted", view.panel), lambda view=view: self._note(view))
        self.recompute()

    def _note(self, view: View) -> None:
        # ipykernel sends what a page says to the thread that last spoke on the same comm. A view has only spoken in its cell,
        # so a setting changed in the page would wait for the running cell; one word in the page's own context turns that.
        self._in_context(lambda: view.send({"kind": "noted"}))

    def _left(self, client: str) -> None:
        self._pages.discard(client)
        session = self._session()
        if session is not None and not self._pages:
            worker_of(session.model).drop_where(_mine(session, "panel", "answer"))

    def _wish(self, content: dict[str, Any]) -> None:
        session = self._session()
        if session is None or session.closed:
            self._outbox.put("closed", lambda: {"kind": "closed", "message": _CLOSED})
            return
        try:
            intent = read(content)
        except InterpError as error:
            self.dropped += 1
            self._refuse_raw(content, str(error))
            return
        with self._taking:
            if self._order.take(intent.client, intent.seq):
                if intent.name in ASIDE:
                    if self._order.newest(intent.client, intent.seq, [intent.key]):
                        self._try(session, intent)
                else:
                    self._step(session, intent)
            self.publish_state()

    def _step(self, session: Session, intent: Intent) -> None:
        """Do a wish in its place: when it is late, the newer ones are taken back first and done again after it."""
        fresh = self._order.newest(intent.client, intent.seq, keys_of(intent))
        late = self._order.late(intent.client, intent.seq)
        with session.held():
            again = self._order.after(intent.client, intent.seq, session.revision) if late else []
            if again is None:
                # Something else has changed the session since: only what no newer wish has spoken of is still wished.
                kept = None if intent.name in MOVES else narrowed(intent, fresh)
                if kept is not None:
                    self._do(session, kept)
                return
            if again:
                session.rewind(again[0].before)
                self._order.take_back(again, session.revision)
            self._do(session, intent)
            for one in again:
                self._do(session, one.wish)

    def _do(self, session: Session, intent: Intent) -> None:
        before = session.mark()
        if self._try(session, intent):
            done = Done(intent.client, intent.seq, intent, before, before.revision, session.revision)
            self._order.did(done)

    def _try(self, session: Session, intent: Intent) -> bool:
        try:
            apply(self, session, intent)
        except InterpError as error:
            self.refused(intent, str(error))
        except Exception as error:
            log.exception("the wish %s failed", intent.name)
            self.refused(intent, f"This could not be done: {type(error).__name__}: {error}")
        else:
            return True
        return False

    def later(self, intent: Intent, job: Callable[[], object]) -> None:
        """Let the worker do `job` before anything else, for what may run the model; of one key only the newest."""
        session = self._session()
        if session is None:
            return

        def do(_cancelled: Callable[[], bool]) -> None:
            try:
                job()
            except InterpError as error:
                self.refused(intent, str(error))
            except Exception as error:
                log.exception("the wish %s failed", intent.name)
                self.refused(intent, f"This could not be done: {type(error).__name__}: {error}")

        worker_of(session.model).submit((id(session), "do", intent.key), do, ANSWER)

    def after_asking(self, intent: Intent, job: Callable[[], object]) -> None:
        """Do `job` now; while a question is being asked, after it, for it takes back or brings back what was before."""
        session = self._session()
        if session is not None and worker_of(session.model).any(_mine(session, "do")):
            # Two of them are two steps: the sequence number keeps the second from taking the first one's place.
            self.later(replace(intent, key=f"{intent.key}:{intent.client}:{intent.seq}"), job)
        else:
            job()

    def refused(self, intent: Intent, message: str) -> None:
        """Tell the page that a wish was wrong, in a sentence."""
        content = {
            "kind": "refused",
            "client": intent.client,
            "seq": intent.seq,
            "key": intent.key,
            "message": message[:SENTENCE],
        }
        self._outbox.put(("refused", intent.client, intent.key), lambda: content)

    def _refuse_raw(self, content: dict[str, Any], message: str) -> None:
        client, seq, key = content.get("client"), content.get("seq"), content.get("key")
        if isinstance(client, str) and isinstance(seq, int) and abs(seq) < 1 << 53 and isinstance(key, str):
            reply = {
                "kind": "refused",
                "client": client[:64],
                "seq": int(seq),
                "key": key[:200],
                "message": message[:SENTENCE],
            }
            self._outbox.put(("refused", client[:64], key[:200]), lambda: reply)

    # ---- out ------------------------------------------------------------------------------------------------------

    def _post(self, content: Json, buffers: list[bytes]) -> None:
        self._in_context(lambda: self.send(content, buffers))

    def _in_context(self, job: Callable[[], None]) -> None:
        # As part of the page's last message, not of the cell that happens to run: ipykernel answers, and routes what the page
        # says next, by the message that a thread is working on.
        context = self._context
        if context is None:
            job()
        else:
            context.copy().run(job)

    def publish_state(self) -> None:
        """Send the state as it is when its turn comes."""
        self._outbox.put("state", self._state)

    def _state(self) -> Json | None:
        session = self._session()
        if session is None:
            return None
        with session.held():
            waiting = session.question is not None and session.peek() is None and self._failed != session.revision
            working = waiting and bool(self._panels)
            state = state_of(session, busy=working, error=self._error)
            return {"kind": "state", "revision": session.revision, "acks": self._order.acks, "state": state}

    def publish(
        self,
        panel: str,
        revision: int,
        status: str,
        data: Json | None = None,
        progress: float = 0.0,
        message: str = "",
    ) -> None:
        """Send what one panel shows; keys that are left out keep their value.

        Raises:
            CancelledError: in a computation that has been told to stop, which has nothing to say any more.
        """
        turn = self._turns.get(panel)
        if turn is not None and turn():
            raise CancelledError
        self._show(panel, revision, status, data, progress, message)

    def _show(
        self, panel: str, revision: int, status: str, data: Json | None, progress: float, message: str = ""
    ) -> None:
        with self._showing:
            if panel not in self._panels:
                return
            shown = self._shown.setdefault(panel, Shown())
            for key, value in (data or {}).items():
                shown.data[key] = (revision, value)
                shown.unsent.add(key)
            if revision > shown.complained_at:
                shown.complaint = ""
            shown.status, shown.revision, shown.progress, shown.message = status, revision, progress, message
        self._outbox.put(("panel", panel), lambda: self._news(panel))

    def _news(self, panel: str) -> list[Json]:
        with self._showing:
            shown = self._shown.get(panel)
            if shown is None:
                return []
            keys, shown.unsent = shown.unsent, set()
            return _panel_messages(panel, shown, keys)

    def _again(self, panel: str) -> list[Json]:
        with self._showing:
            shown = self._shown.get(panel)
            return [] if shown is None else _panel_messages(panel, shown, shown.data)

    # ---- computing ------------------------------------------------------------------------------------------------

    def add(self, view: View) -> None:
        """A view opened: compute what it shows."""
        self._panels[view.panel] = weakref.ref(view)
        self.publish_state()
        self.compute()

    def complain(self, view: View, message: str) -> None:
        """Show a sentence in a view, beside what it shows; an empty one takes it away."""
        session = self._session()
        if session is None:
            return
        with self._showing:
            shown = self._shown.setdefault(view.panel, Shown())
            shown.complaint, shown.complained_at = message[:SENTENCE], session.revision
            if message and shown.status not in ("computing", "partial"):
                shown.status = "failed"
        self._outbox.put(("panel", view.panel), lambda: self._news(view.panel))

    def remove(self, view: View) -> None:
        """A view closed: stop what computes for it."""
        with self._showing:
            self._panels.pop(view.panel, None)
            self._shown.pop(view.panel, None)
        session = self._session()
        if session is not None and not session.closed:
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
        worker.drop_where(_mine(session, "panel"))
        worker.submit((id(session), "answer"), lambda cancelled: self._answer(snapshot, cancelled), ANSWER)

    def recompute(self) -> None:
        """Wish for what is not there: the answer, or what a view was computing when it was stopped."""
        session = self._session()
        if session is None or session.closed or session.question is None:
            return
        if worker_of(session.model).any(_mine(session, "answer", "panel")):
            return
        if session.peek() is None and self._failed != session.revision:
            self.compute()
            return
        for view in self.views():
            shown = self._shown.get(view.panel)
            if shown is None or shown.status in ("computing", "partial") or shown.revision != session.revision:
                self.compute_panel(view)

    def stop(self, message: str) -> None:
        """Stop what computes for this session, and say so where it would have been shown."""
        session = self._session()
        if session is None or session.closed:
            return
        worker = worker_of(session.model)
        answering = worker.any(_mine(session, "answer", "do"))
        waiting = [view.panel for view in self.views() if answering or worker.has((id(session), "panel", view.panel))]
        worker.drop_where(_mine(session, "answer", "panel", "do"))
        if answering:
            self._error, self._failed = message, session.revision
            self.publish_state()
        for panel in waiting:
            self._show(panel, session.revision, "failed", None, 0.0, message)

    def _answer(self, snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
        session = self._session()
        if session is None or session.closed or snapshot.revision != session.revision:
            return
        if snapshot.question is not None:
            error = self._asked(session, snapshot, cancelled)
            if cancelled():
                raise CancelledError
            if snapshot.revision != session.revision:
                return
            self._error, self._failed = error, -1 if error is None else snapshot.revision
            self.publish_state()
        for view in self.views():
            self.compute_panel(view)

    def _asked(self, session: Session, snapshot: Snapshot, cancelled: Callable[[], bool]) -> str | None:
        try:
            session.compute(snapshot, cancelled)
        except CancelledError:
            raise
        except InterpError as error:
            return str(error)
        except Exception as error:
            log.exception("the answer could not be computed")
            return _sentence("The answer", error)
        return None

    def compute_panel(self, view: View, priority: int = PANEL) -> None:
        """Wish for what one view shows at the present revision; with `PREFETCH`, when nobody else waits."""
        session = self._session()
        if session is None or session.closed:
            return
        snapshot, panel = session.snapshot(), view.panel
        worker_of(session.model).submit(
            (id(session), "panel", panel), lambda cancelled: self._compute_panel(panel, snapshot, cancelled), priority
        )

    def _compute_panel(self, panel: str, snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
        view, session = self.view(panel), self._session()
        if view is None or session is None or snapshot.revision != session.revision or snapshot.question is None:
            return
        self._turns[panel] = cancelled
        try:
            view.compute(snapshot, cancelled)
        except CancelledError:
            raise
        except InterpError as error:
            self.publish(panel, snapshot.revision, "failed", message=str(error)[:SENTENCE])
        except Exception as error:
            if cancelled():
                raise CancelledError from error  # a view that was closed under its own computation
            log.exception("%s could not be computed", type(view).__name__)
            self.publish(panel, snapshot.revision, "failed", message=_sentence(type(view).__name__, error))
        finally:
            self._turns.pop(panel, None)

    def told(self, what: str) -> None:
        """The session changed, or closed."""
        if what == "closed":
            self._outbox.put("closed", lambda: {"kind": "closed", "message": _CLOSED})
            return
        self._error = None
        self.publish_state()
        self.compute()

    def close(self) -> None:
        """Say goodbye to the page and close the comm."""
        if self.comm is None:
            return
        _OPEN.discard(self)
        self._unlisten()
        self._outbox.close()
        super().close()


def _sentence(what: str, error: Exception) -> str:
    """What a page says of an error that nobody expected, and what to do where that is known."""
    text = f"{what} could not be computed: {type(error).__name__}: {error}"[:SENTENCE]
    if "device-side assert" in text or "CUDA error" in text or "illegal memory access" in text:
        return f"{text.rstrip('.')}. The GPU has lost its state: restart the kernel; nothing that runs on it can be trusted any more."
    if isinstance(error, MemoryError) or "out of memory" in text:
        return f"{text.rstrip('.')}. Shorten the prompt, or free memory and try again; nothing was changed."
    return text


def _panel_messages(panel: str, shown: Shown, keys: Iterable[str]) -> list[Json]:
    """What `keys` are now, one message for each revision that they were measured at, oldest first."""
    messages: list[Json] = []
    for revision in sorted({shown.data[key][0] for key in keys} | {shown.revision}):
        data = {key: shown.data[key][1] for key in keys if shown.data[key][0] == revision}
        last = revision == shown.revision
        messages.append(
            {
                "kind": "panel",
                "panel": panel,
                "revision": revision,
                "status": shown.status if last else "partial",
                "progress": shown.progress if last else 0.0,
                "message": (shown.complaint or shown.message) if last else "",
                "data": data or None,
            }
        )
    return messages


def _mine(session: Session, *kinds: str) -> Callable[[object], bool]:
    me = id(session)
    return lambda key: isinstance(key, tuple) and key[0] == me and key[1] in kinds  # pyright: ignore[reportUnknownVariableType]


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


def mirror_of(session: Session) -> SessionWidget:
    """The session's widget, made when its first view opens."""
    with _MIRRORS_LOCK:
        mirror = _MIRRORS.get(session)
        if mirror is None or mirror.comm is None:
            mirror = _MIRRORS[session] = SessionWidget(session)
            session.holds(mirror)
        return mirror
