"""What every view is: a reference to its session, a panel, its own settings, and the promise to close well."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import traitlets

from interp_widgets.model.errors import ClosedError, InterventionError
from interp_widgets.session import Session, Snapshot
from interp_widgets.widgets.channel import mirror_of
from interp_widgets.widgets.guard import Guarded, bundle, reloading
from interp_widgets.widgets.held import code_of
from interp_widgets.widgets.saved import saved_text
from interp_widgets.widgets.wire import Json

_COUNT = itertools.count(1)


def _reference(session: Session | None, _widget: Any) -> str | None:
    return None if session is None or session.closed else f"anywidget:{mirror_of(session).model_id}"


def _code_reference(code: Any, _widget: Any) -> str | None:
    return None if code is None else f"anywidget:{code.model_id}"


class View(Guarded):
    """A widget over a session.

    Args:
        session: from `iw.open`.
        save_prompt: also put the question and its numbers, as text, into the output that is saved with a notebook. Without it
            a saved notebook holds nothing of what was asked; with it, what held when the cell ran.
        settings: the widget's own traits, by keyword; an unknown one raises `TypeError`.

    Raises:
        TypeError: for an unknown keyword, with the ones that there are, and for a `save_prompt` that is no bool.
        ClosedError: when the session is closed.
    """

    session: Any = traitlets.Any(allow_none=True).tag(sync=True, to_json=_reference)
    code: Any = traitlets.Any(allow_none=True).tag(sync=True, to_json=_code_reference)
    panel = traitlets.Unicode().tag(sync=True)
    settings: ClassVar[frozenset[str]] = frozenset()
    _esm = bundle("view.js")
    _bundle: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if reloading() and "_bundle" in vars(cls):
            cls._esm = bundle(
                f"{cls._bundle}.js"
            )  # carried by the view itself, it is taken anew when the file is saved
        super().__init_subclass__(**kwargs)

    def __init__(self, session: Session, *, save_prompt: bool = False, **settings: Any) -> None:
        if not isinstance(session, Session):  # pyright: ignore[reportUnnecessaryIsInstance]  (users pass anything)
            raise TypeError(
                f"{type(self).__name__} needs a session: iw.{type(self).__name__}(iw.open(...)), not {type(session).__name__}."
            )
        if session.closed:
            raise ClosedError("This session is closed; open the model again with iw.open(...).")
        if not isinstance(save_prompt, bool):  # pyright: ignore[reportUnnecessaryIsInstance]  (a "no" must not mean yes)
            raise TypeError(f"save_prompt is True or False, not {save_prompt!r}.")
        unknown = sorted(set(settings) - self.settings)
        if unknown:
            have = ", ".join(sorted(self.settings | {"save_prompt"}))
            raise TypeError(f"{type(self).__name__} has no setting {unknown[0]!r}; its settings are: {have}.")
        retire(self)
        panel = f"{type(self).__name__}-{next(_COUNT)}"
        super().__init__(session=session, code=code_of(self._bundle) if self._bundle else None, panel=panel, **settings)
        self._save_prompt = save_prompt
        self._mirror = mirror_of(session)
        session.holds(self)
        self.observe(self._setting_changed, names=sorted(self.settings) or traitlets.All)
        self._mirror.add(self)

    def compute(self, snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
        """Compute and publish what this view shows of one revision; runs on the worker. The base shows nothing."""

    def act(self, action: str, args: Json) -> None:
        """Do what the page wishes of this view alone.

        Raises:
            InterventionError: for an action that this view does not know.
        """
        del args
        if action == "compute":
            self._mirror.compute_panel(self)
            return
        raise InterventionError(f"{type(self).__name__} cannot do {action!r}.")

    def changed(self) -> None:
        """The session changed: what of this view goes with it goes now, on the thread and under the lock of the change."""

    def interrupted(self) -> None:
        """The kernel was interrupted: what this view would have begun by itself it does not begin. The base begins nothing."""

    def publish(
        self, snapshot: Snapshot, status: str | None, data: Json | None = None, progress: float = 0.0, message: str = ""
    ) -> None:
        """Send what this view shows; with `None`, a part beside the rest, which stays as far as it is."""
        self._mirror.publish(self.panel, snapshot.revision, status, data, progress, message)

    def in_page(self, job: Callable[[], None]) -> None:
        """See `SessionWidget.in_page`: the view's comm is heard where the session's is."""
        self._mirror.in_page(job)

    def accept(self) -> None:
        """Take away what was said of the setting before."""
        self._mirror.complain(self, "")

    def refuse(self, key: str, message: str) -> None:
        """Show in the view why a setting was refused."""
        del key
        self._mirror.complain(self, message)

    def _setting_changed(self, change: Any) -> None:
        if change["name"] in self.settings and self.comm is not None:
            self._mirror.complain(self, "")
            self._mirror.compute_panel(self)

    def close(self) -> None:
        """Close the view and let go of the session; the model stays open while another view or variable holds it."""
        if self.comm is None:
            return
        self._mirror.remove(self)
        super().close()
        self.session = None

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        # What is shown where there is no kernel: on a page of a saved notebook, in a diff. It tells nothing of what was asked,
        # unless the user wants that.
        made: Any = super()._repr_mimebundle_(**kwargs)
        bundle = made[0] if isinstance(made, tuple) else made
        if bundle is not None and "text/plain" in bundle:
            kept = f"\n{saved_text(self.session)}" if self._save_prompt and self.session is not None else ""
            bundle["text/plain"] = f"{type(self).__name__}: a live view of a model; run this cell to see it.{kept}"
        return made

    def __repr__(self) -> str:
        state = "closed" if self.comm is None else f"of {self.session!r}"
        return f"{type(self).__name__}({state})"


_CELLS: dict[str, tuple[str, weakref.WeakSet[View]]] = {}
_CELLS_LOCK = threading.RLock()  # memory freed inside the block may close other views


def _cell() -> tuple[str, str] | None:
    """The cell that runs now and the number of its run, where the front end says so."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return None
    shell: Any = get_ipython()
    parent = shell.get_parent() if shell is not None and hasattr(shell, "get_parent") else None
    if not isinstance(parent, dict) or parent.get("header", {}).get("msg_type") != "execute_request":
        return None
    cell = parent.get("metadata", {}).get("cellId")
    return (str(cell), str(parent["header"]["msg_id"])) if cell else None


def retire(view: View) -> None:
    """Close the views that an earlier run of this cell made: they are gone from the page, and would live on."""
    here = _cell()
    if here is None:
        return
    cell, run = here
    with _CELLS_LOCK:
        last, views = _CELLS.get(cell, (run, weakref.WeakSet()))
        old = list(views) if last != run else []
        views = weakref.WeakSet() if last != run else views
        views.add(view)
        _CELLS[cell] = (run, views)
    for former in old:
        former.close()
