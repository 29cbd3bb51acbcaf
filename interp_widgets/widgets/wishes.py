"""What pages wish, taken in their order and done: at once, in its place when it comes late, or by the worker."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from interp_widgets.model.errors import InterpError
from interp_widgets.session import Mark, Session
from interp_widgets.widgets.intents import ASIDE, MOVES, Intent, apply, keys_of, narrowed, read
from interp_widgets.widgets.order import Done, Order
from interp_widgets.widgets.panels import SENTENCE, Json
from interp_widgets.worker import ANSWER, Worker

if TYPE_CHECKING:
    from interp_widgets.widgets.panels import Panels

log = logging.getLogger("interp_widgets")
_STOPPED = "Stopped before it was done, because the kernel was interrupted; ask again."


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A wish that the worker is to do; of two with one key, the older one's end is not that of the newer."""

    intent: Intent


class Wishes:
    """The wishes of every page for one session.

    Args:
        worker: the model's.
        panels: the views that wishes may speak of.
        refuse: sends why a wish was refused.
        publish: sends the state.
    """

    def __init__(
        self, worker: Worker, panels: Panels, refuse: Callable[[Json], None], publish: Callable[[], None]
    ) -> None:
        self._worker = worker
        self._panels = panels
        self._refuse = refuse
        self._publish = publish
        self._order: Order[Intent, Mark] = Order()
        self._taking = threading.RLock()
        self._waiting: dict[str, _Waiting] = {}

    @property
    def acks(self) -> dict[str, int]:
        """The newest sequence number of each page that was taken in."""
        return self._order.acks

    @property
    def waiting(self) -> bool:
        """Whether something that was taken in is still to be done."""
        return bool(self._waiting)

    def take(self, session: Session, content: Json) -> bool:
        """Take in one wish, and do it unless it came before; False when it could not be read."""
        try:
            intent = read(content)
        except InterpError as error:
            self._refuse_unread(content, str(error))
            return False
        with self._taking:
            if self._order.take(intent.client, intent.seq):
                if intent.name in ASIDE:
                    if self._order.newest(intent.client, intent.seq, [intent.key]):
                        self._try(session, intent)
                else:
                    self._step(session, intent)
            self._publish()
        return True

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
        return self._tried(intent, lambda: apply(self, session, intent))

    def _tried(self, intent: Intent, job: Callable[[], object]) -> bool:
        try:
            job()
        except InterpError as error:
            self.refused(intent, str(error))
        except Exception as error:
            log.exception("the wish %s failed", intent.name)
            self.refused(intent, f"This could not be done: {type(error).__name__}: {error}")
        else:
            return True
        return False

    # ---- what `apply` needs ---------------------------------------------------------------------------------------

    def view(self, panel: str) -> Any:
        """The view that shows `panel`, or None."""
        return self._panels.view(panel)

    def later(self, session: Session, intent: Intent, prepare: Callable[[], Callable[[], object]]) -> None:
        """Let the worker `prepare` before anything else, which may run the model, and do what it gives; of one key only the newest."""
        me = _Waiting(intent)

        def do(_cancelled: Callable[[], bool]) -> None:
            try:
                self._tried(intent, lambda: self._unless_dropped(me, prepare()))
            finally:
                if self._waiting.get(intent.key) is me:
                    del self._waiting[intent.key]
            self._publish()

        self._waiting[intent.key] = me
        self._worker.submit((id(session), "do", intent.key), do, ANSWER)

    def _unless_dropped(self, waiting: _Waiting, job: Callable[[], object]) -> None:
        with self._taking:
            if self._waiting.get(waiting.intent.key) is waiting:
                job()

    def after_asking(self, session: Session, intent: Intent, job: Callable[[], object]) -> None:
        """Do `job` now; while a question is being asked, after it, for it takes back or brings back what was before."""
        if self._waiting:
            # Two of them are two steps: the sequence number keeps the second from taking the first one's place.
            self.later(session, replace(intent, key=f"{intent.key}:{intent.client}:{intent.seq}"), lambda: job)
        else:
            job()

    def drop(self) -> None:
        """What waits is not done any more, and whoever wished it is told."""
        with self._taking:
            waiting, self._waiting = list(self._waiting.values()), {}
        for one in waiting:
            self.refused(one.intent, _STOPPED)

    # ---- refusals -------------------------------------------------------------------------------------------------

    def refused(self, intent: Intent, message: str) -> None:
        """Tell the page that a wish was wrong, in a sentence."""
        self._refuse(_refusal(intent.client, intent.seq, intent.key, message))

    def _refuse_unread(self, content: Json, message: str) -> None:
        client, seq, key = content.get("client"), content.get("seq"), content.get("key")
        if isinstance(client, str) and isinstance(seq, int) and abs(seq) < 1 << 53 and isinstance(key, str):
            self._refuse(_refusal(client[:64], int(seq), key[:1000], message))


def _refusal(client: str, seq: int, key: str, message: str) -> Json:
    return {"kind": "refused", "client": client, "seq": seq, "key": key, "message": message[:SENTENCE]}
