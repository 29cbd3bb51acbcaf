"""What every view of a session was last told, key by key, so that a page that opens later sees the same."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp_widgets.widgets.base import View

Json = dict[str, Any]
SENTENCE = 2000


@dataclass
class Shown:
    """What one view was last told.

    Attributes:
        data: each key's newest value, with the revision that it was measured at.
        unsent: keys whose newest value has not been sent.
        sent: whether any of it has been sent.
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
    sent: bool = False

    @property
    def running(self) -> bool:
        """Whether it is not at its end."""
        return self.status in ("computing", "partial")

    @property
    def told(self) -> str:
        """The status as pages are told it: a complaint is seen, and takes no question away that waits for a yes."""
        return "failed" if self.complaint and not self.running and self.status != "asking" else self.status

    @property
    def says(self) -> str:
        """The sentence as pages are told it."""
        if self.complaint and self.status == "asking":
            return " · ".join(filter(None, (self.complaint, self.message)))
        return self.complaint or self.message


class Panels:
    """The open views of a session, by panel, and what each shows; for calls from any thread."""

    def __init__(self) -> None:
        self._views: dict[str, weakref.ref[View]] = {}
        self._shown: dict[str, Shown] = {}
        self._lock = threading.RLock()

    def __bool__(self) -> bool:
        return bool(self._views)

    def add(self, view: View) -> None:
        """A view opened."""
        self._views[view.panel] = weakref.ref(view)

    def remove(self, panel: str) -> bool:
        """A view closed; whether pages have been told anything of it."""
        with self._lock:
            self._views.pop(panel, None)
            shown = self._shown.pop(panel, None)
            return shown is not None and shown.sent

    def views(self) -> list[View]:
        """The open views, in the order in which they opened."""
        return [view for ref in list(self._views.values()) if (view := ref()) is not None]

    def view(self, panel: str) -> View | None:
        """The view that shows `panel`."""
        ref = self._views.get(panel)
        return ref() if ref is not None else None

    def told(self) -> list[str]:
        """The panels that have been told anything."""
        with self._lock:
            return list(self._shown)

    def shows(self, panel: str, revision: int) -> bool:
        """Whether a view shows all there is of `revision`."""
        shown = self._shown.get(panel)
        return shown is not None and not shown.running and shown.revision == revision

    def show(
        self, panel: str, revision: int, status: str | None, data: Json | None, progress: float = 0.0, message: str = ""
    ) -> bool:
        """Note what a view shows from now on, without a status only this data of it; False when it has closed."""
        with self._lock:
            if panel not in self._views:
                return False
            shown = self._shown.setdefault(panel, Shown())
            for key, value in (data or {}).items():
                shown.data[key] = (revision, value)
                shown.unsent.add(key)
            if status is None:
                return True
            if revision > shown.complained_at:
                shown.complaint = ""
            shown.status, shown.revision, shown.progress, shown.message = status, revision, progress, message
            return True

    def complain(self, panel: str, revision: int, message: str) -> bool:
        """Note a sentence beside what a view shows; an empty one takes it away. Whether that is any news."""
        with self._lock:
            if panel not in self._views or (not message and panel not in self._shown):
                return False
            shown = self._shown.setdefault(panel, Shown())
            before, shown.complaint, shown.complained_at = shown.complaint, message[:SENTENCE], revision
            return bool(before or message)

    def news(self, panel: str) -> list[Json]:
        """The messages with what a view has not been sent yet."""
        with self._lock:
            shown = self._shown.get(panel)
            if shown is None:
                return []
            keys, shown.unsent, shown.sent = shown.unsent, set(), True
            return _messages(panel, shown, keys)

    def again(self, panel: str) -> list[Json]:
        """The messages with all that a view shows."""
        with self._lock:
            shown = self._shown.get(panel)
            if shown is None:
                return []
            shown.sent = True
            return _messages(panel, shown, shown.data)


def _messages(panel: str, shown: Shown, keys: Iterable[str]) -> list[Json]:
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
                "status": shown.told if last else "partial",
                "progress": shown.progress if last else 0.0,
                "message": shown.says if last else "",
                "data": data or None,
            }
        )
    return messages
