"""What is computed for a session's pages: the answer of the present revision first, then what every view shows."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from interp_widgets.model.errors import CancelledError, ClosedError, InterpError
from interp_widgets.session import Session, Snapshot
from interp_widgets.widgets.panels import SENTENCE, Json, Panels
from interp_widgets.worker import ANSWER, PANEL, Worker

if TYPE_CHECKING:
    from interp_widgets.widgets.base import View

log = logging.getLogger("interp_widgets")
Cancelled = Callable[[], bool]
Draw = Callable[["View", Snapshot, Cancelled], None]


class Computing:
    """The jobs of one session, on its model's worker.

    A job takes the session's state when it starts, not when it was wished for: of two threads that wish at once the one with
    the older state may well be the later, and its wish takes the other's place.

    Args:
        worker: the model's; held, for one that was asked for after the session's end would be a new one that nobody ends.
        session: gives the session while it is open, else None.
        panels: the views.
        news: sends what a view shows; `publish` sends the state.

    Attributes:
        error: why there is no answer.
    """

    def __init__(
        self,
        worker: Worker,
        session: Callable[[], Session | None],
        panels: Panels,
        news: Callable[[str], None],
        publish: Callable[[], None],
    ) -> None:
        self._worker = worker
        self._session = session
        self._panels = panels
        self._news = news
        self._publish = publish
        self._turns: dict[str, tuple[int, Cancelled]] = {}
        # Between the look whether a job has been stopped and what it then shows, nothing stops it.
        self._telling = threading.RLock()
        self._failed = -1
        self.error: str | None = None

    def fails(self, revision: int) -> bool:
        """Whether the answer of this revision could not be computed."""
        return self._failed == revision

    # ---- wishes to the worker -------------------------------------------------------------------------------------

    def compute(self) -> None:
        """Wish for the answer of the present revision, and then for what every view shows."""
        session = self._session()
        if session is not None and self._panels:
            self._worker.drop_where(mine(session, "panel"))
            self._worker.submit((id(session), "answer"), self._answer, ANSWER)

    def recompute(self) -> None:
        """Wish for what is not there: the answer, or what a view was computing when it was stopped."""
        session = self._session()
        if session is None or session.question is None:
            return
        if self._worker.any(mine(session, "answer")):
            return
        if session.peek() is None and not self.fails(session.revision):
            self.compute()
            return
        for view in self._panels.views():
            under_way = self._worker.has((id(session), "panel", view.panel))
            if not under_way and not self._panels.shows(view.panel, session.revision):
                self.compute_panel(view)

    def compute_panel(self, view: View, priority: int = PANEL) -> None:
        """Wish for what one view shows at the present revision; with `PREFETCH`, when nobody else waits."""
        self._submit(view.panel, (), lambda view, *what: view.compute(*what), priority)

    def compute_beside(self, view: View, name: str, draw: Draw) -> None:
        """Wish for a part of what one view shows, which does not wait for the rest nor stop it."""
        self._submit(view.panel, (name,), draw, PANEL)

    def _submit(self, panel: str, part: tuple[str, ...], draw: Draw, priority: int) -> None:
        session = self._session()
        if session is not None:
            job = lambda cancelled: self._draw(panel, draw, cancelled, beside=bool(part))  # noqa: E731
            self._worker.submit((id(session), "panel", panel, *part), job, priority)

    def look(self) -> None:
        """Wish to see, while nothing runs on it, whether the model has changed, or a cell has an answer that the page has not."""
        session = self._session()
        if session is not None and self._panels:
            self._worker.submit((id(session), "look"), self._look, PANEL)

    def stop(self, message: str) -> None:
        """Stop what computes for this session, and say so where it would have been shown."""
        session = self._session()
        if session is None:
            return
        worker = self._worker
        answering = worker.any(mine(session, "answer", "do"))
        stopped = [view.panel for view in self._panels.views() if answering or worker.any(of(session, view.panel))]
        with self._telling:
            worker.drop_where(mine(session, "answer", "panel", "do"))
        for view in self._panels.views():
            view.interrupted()
        if answering:
            self.error, self._failed = message, session.revision
        for panel in stopped:
            self._show(panel, session.revision, "failed", None, 0.0, message)

    def leave(self) -> None:
        """Nobody looks any more: stop what computes for the pages, without a word."""
        session = self._session()
        if session is not None:
            self._worker.drop_where(mine(session, "panel", "answer"))

    def remove(self, panel: str) -> None:
        """A view closed: stop what computes for it."""
        session = self._session()
        if session is not None:
            self._worker.drop_where(of(session, panel))

    # ---- on the worker --------------------------------------------------------------------------------------------

    def _look(self, _cancelled: Cancelled) -> None:
        session = self._session()
        if session is None:
            return
        with contextlib.suppress(ClosedError):  # closed just now
            if not session.look() and self.error and session.peek() is not None:
                self.error = None  # stopped on its way to the page, and asked for in a cell since
                self._publish()

    def _answer(self, cancelled: Cancelled) -> None:
        session = self._session()
        if session is None:
            return
        snapshot = session.snapshot()
        if snapshot.question is not None:
            error = self._asked(session, snapshot, cancelled)
            if cancelled():
                raise CancelledError
            if snapshot.revision != session.revision:
                self.compute()  # whoever changed it was interrupted before telling us
                return
            self.error, self._failed = error, -1 if error is None else snapshot.revision
            self._publish()
        for view in self._panels.views():
            self.compute_panel(view)

    def _asked(self, session: Session, snapshot: Snapshot, cancelled: Cancelled) -> str | None:
        try:
            session.compute(snapshot, cancelled)
        except CancelledError:
            raise
        except InterpError as error:
            return str(error)
        except BaseException as error:  # a SystemExit of the user's own function is told like any other fault of it
            log.exception("the answer could not be computed")
            return _sentence("The answer", error)
        return None

    def _draw(self, panel: str, draw: Draw, cancelled: Cancelled, *, beside: bool) -> None:
        view, session = self._panels.view(panel), self._session()
        if view is None or session is None:
            return
        snapshot = session.snapshot()
        if snapshot.question is None:
            return
        self._turns[panel] = threading.get_ident(), cancelled
        try:
            with session.model.unchanged():
                draw(view, snapshot, cancelled)
        except CancelledError:
            raise
        except BaseException as error:
            if cancelled():
                raise CancelledError from error  # a view that was closed under its own computation, and the like
            known = isinstance(error, InterpError)
            if not known:
                log.exception("%s could not be computed", type(view).__name__)
            why = str(error)[:SENTENCE] if known else _sentence(type(view).__name__, error)
            if not beside:
                self.publish(panel, snapshot.revision, "failed", message=why)
            elif self._panels.complain(panel, snapshot.revision, why):
                self._news(panel)
        finally:
            self._turns.pop(panel, None)

    def publish(
        self,
        panel: str,
        revision: int,
        status: str | None,
        data: Json | None = None,
        progress: float = 0.0,
        message: str = "",
    ) -> None:
        """Send what one panel shows; keys that are left out keep their value, and without a status so does all but the data.

        Raises:
            CancelledError: in a computation that has been told to stop, which has nothing to say any more.
        """
        worker, cancelled = self._turns.get(panel, (0, None))
        with self._telling:
            if cancelled is not None and worker == threading.get_ident() and cancelled():
                raise CancelledError  # on the page's thread it is what was wished, whatever is being computed meanwhile
            is_open = self._panels.show(panel, revision, status, data, progress, message)
        if is_open:
            self._news(panel)

    def _show(self, panel: str, *shown: Any) -> None:
        if self._panels.show(panel, *shown):
            self._news(panel)


def mine(session: Session, *kinds: str) -> Callable[[object], bool]:
    """A test for the keys of this session's jobs of these kinds."""
    me = id(session)
    return lambda key: isinstance(key, tuple) and key[0] == me and key[1] in kinds  # pyright: ignore[reportUnknownVariableType]


def of(session: Session, panel: str) -> Callable[[object], bool]:
    """A test for the keys of the jobs that draw this view."""
    start = (id(session), "panel", panel)
    return lambda key: isinstance(key, tuple) and key[:3] == start  # pyright: ignore[reportUnknownVariableType]


def _sentence(what: str, error: BaseException) -> str:
    """What a page says of an error that nobody expected, and what to do where that is known."""
    where = "".join(f" ({note})" for note in getattr(error, "__notes__", ())[:1])
    text = f"{what} could not be computed{where}: {type(error).__name__}: {error}"[:SENTENCE].rstrip(": ")
    if "device-side assert" in text or "CUDA error" in text or "illegal memory access" in text:
        return f"{text.rstrip('.')}. The GPU has lost its state: restart the kernel; nothing that runs on it can be trusted any more."
    if isinstance(error, MemoryError) or "out of memory" in text:
        return f"{text.rstrip('.')}. Shorten the prompt, or free memory and try again; nothing was changed."
    return text
