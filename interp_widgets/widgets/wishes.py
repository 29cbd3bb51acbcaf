"""What pages wish, taken in their order and done: at once, in its place when it comes late, or by the worker."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interp_widgets.model.errors import InterpError
from interp_widgets.model.question import Question
from interp_widgets.session import Mark, Session
from interp_widgets.widgets.intents import ASIDE, MOVES, Intent, apply, asking, keys_of, narrowed, read
from interp_widgets.widgets.order import Done, Gap, Gaps, Order, redone, stepped, undone
from interp_widgets.widgets.panels import SENTENCE, Json
from interp_widgets.worker import ANSWER, Worker

if TYPE_CHECKING:
    from interp_widgets.widgets.panels import Panels

log = logging.getLogger("interp_widgets")
_MOVED = {"undo": undone, "redo": redone}
_STOPPED = "Stopped before it was done, because the kernel was interrupted; ask again."


@dataclass(eq=False)
class _Wish:
    """A wish in its place among the others.

    Attributes:
        question: what was asked, once it is known.
        bound: the wish that this undo, or redo, takes back, or brings back, before its step is there.
    """

    intent: Intent
    question: Question | None = None
    bound: object = None

    @property
    def thing(self) -> tuple[str, str]:
        """Of two questions about one thing the newer replaces the older."""
        return self.intent.client, self.intent.key


@dataclass(frozen=True)
class _Place:
    """What a wish found: the session, and the steps that were still awaited."""

    mark: Mark
    gaps: Gaps


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
        self._order: Order[_Wish, _Place] = Order()
        self._taking = threading.RLock()
        self._waiting: dict[tuple[str, str], _Wish] = {}
        self._gaps: Gaps = ()
        self._left = -1

    @property
    def acks(self) -> dict[str, int]:
        """The newest sequence number of each page that was taken in."""
        return self._order.acks

    def view(self, panel: str) -> Any:
        """The view that shows `panel`, or None."""
        return self._panels.view(panel)

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
                        self._try(session, _Wish(intent))
                else:
                    self._step(session, intent)
            self._publish()
        return True

    def _step(self, session: Session, intent: Intent) -> None:
        """Do a wish in its place: when it is late, the newer ones are taken back first and done again after it."""
        fresh = self._order.newest(intent.client, intent.seq, keys_of(intent))
        late = self._order.late(intent.client, intent.seq)
        if intent.name == "ask" and not fresh:
            return  # a newer question of this page's holds
        with session.held():
            again = self._order.after(intent.client, intent.seq, session.revision) if late else []
            if again is None:
                # Something else has changed the session since: only what no newer wish has spoken of is still wished.
                kept = None if intent.name in MOVES else narrowed(intent, fresh)
                if kept is not None:
                    self._do(session, _Wish(kept))
                return
            self._again(session, _Wish(intent), again)

    def _again(self, session: Session, wish: _Wish, again: list[Done[_Wish, _Place]]) -> None:
        """Do a wish in the place of these, which are the last that were done, and then them, if they are others."""
        later = [one for one in again if one.wish is not wish]
        if later:
            session.rewind(again[0].before.mark)
            self._left = session.revision
        if again:
            self._gaps = tuple(gap for gap in again[0].before.gaps if gap.of in self._waiting.values())
            self._order.take_back(again, session.revision)
        self._do(session, wish)
        refused = [one.wish for one in later if not self._do(session, one.wish, was_step=one.end != one.start)]
        for one in refused:
            self._forget(one)

    def _do(self, session: Session, wish: _Wish, *, was_step: bool = False) -> bool:
        """Do a wish now; False when it is refused. One that was a step before is still one to the undo that came after it."""
        intent, wish.bound = wish.intent, None
        if session.revision != self._left:
            self._gaps = stepped(self._gaps)  # somebody else has done something
        before, place = _Place(session.mark(), self._gaps), session.history.place
        found = _MOVED[intent.name](self._gaps, place) if intent.name in _MOVED else None
        if found is not None:
            self._gaps, wish.bound = found
        elif intent.name == "ask" and wish.question is None:
            if not self._ask(session, wish):
                return False
        elif not self._try(session, wish):
            if was_step:
                self._gaps = (*self._gaps, Gap(wish, place))
            return False
        elif intent.name not in _MOVED and session.history.place != place:
            self._gaps = stepped(self._gaps)
        self._left = session.revision
        start, weight = before.mark.revision, len(before.mark.moments)
        self._order.did(Done(intent.client, intent.seq, wish, before, start, session.revision, weight))
        return True

    def _try(self, session: Session, wish: _Wish) -> bool:
        question = wish.question
        if question is not None:
            return self._tried(wish.intent, lambda: session.put(question))
        return self._tried(wish.intent, lambda: apply(self, session, wish.intent))

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

    # ---- questions ------------------------------------------------------------------------------------------------

    def _ask(self, session: Session, wish: _Wish) -> bool:
        """Let the worker find the question before anything else; until then the old one is there to be worked with."""
        if self._waiting.get(wish.thing) is not wish and not self._tried(
            wish.intent, lambda: self._submit(session, wish, asking(session, wish.intent))
        ):
            return False
        session.history.settle()  # what is dragged from now on is a step after the question
        kept = tuple(gap for gap in self._gaps if not gap.undone)
        self._gaps = (*kept, Gap(wish, session.history.place))
        return True

    def _submit(self, session: Session, wish: _Wish, find: Callable[[], Question]) -> None:
        def do(_cancelled: Callable[[], bool]) -> None:
            found: list[Question] = []
            try:
                self._tried(wish.intent, lambda: found.append(find()))
            finally:
                self._known(session, wish, found)
                self._publish()

        replaced = self._waiting.pop(wish.thing, None)
        if replaced is not None:
            self._forget(replaced)
        self._waiting[wish.thing] = wish
        self._worker.submit((id(session), "do", *wish.thing), do, ANSWER)

    def _known(self, session: Session, wish: _Wish, found: list[Question]) -> None:
        """Put a question in its place among the wishes, or, when none was found, take what was to come of it away."""
        with self._taking, session.held():
            if self._waiting.get(wish.thing) is not wish or session.closed:
                return
            del self._waiting[wish.thing]
            if not found:
                self._forget(wish)
                return
            wish.question = found[0]
            again = self._order.since(wish, session.revision)
            gap = next((gap for gap in self._gaps if gap.of is wish), None)
            if again is not None:
                self._again(session, wish, again)
            elif gap is not None and not gap.undone:
                # Something else has changed the session since; a question that was taken back meanwhile is not put at all.
                self._gaps = tuple(one for one in self._gaps if one is not gap)
                self._do(session, wish)

    def _forget(self, wish: _Wish) -> None:
        """A step that will not be there: what has taken it back, or brought it back, has nothing to do either."""
        self._gaps = tuple(gap for gap in self._gaps if gap.of is not wish)
        self._order.remove(lambda one: one is wish or one.bound is wish)

    def drop(self) -> None:
        """What waits is not done any more, and whoever wished it is told."""
        with self._taking:
            waiting, self._waiting = list(self._waiting.values()), {}
            for one in waiting:
                self._forget(one)
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
