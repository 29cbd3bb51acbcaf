"""A widget that a page cannot break: only its own settings can be written, and only with values that make sense."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import traitlets

from interp_widgets.widgets.brief import brief
from interp_widgets.widgets.outbox import Outbox

log = logging.getLogger("interp_widgets")
STATIC = Path(__file__).parent.parent / "static"


def reloading() -> bool:
    """Whether views take their code anew when its file is saved (`make watch`)."""
    return os.environ.get("ANYWIDGET_HMR") == "1"


@functools.cache
def bundle(name: str) -> str | Path:
    """A built bundle: its text, read once (a `Path` would keep every closed widget alive), or its path for hot reload."""
    path = STATIC / name
    return path if reloading() else path.read_text(encoding="utf-8")


class Text(traitlets.TraitType[str, str]):
    """A short text that can be sent: half of a surrogate pair in one widget would make a page lose all of them on reload."""

    def validate(self, obj: Any, value: Any) -> str:
        """See `traitlets.TraitType`."""
        del obj
        if not isinstance(value, str) or len(value) > 1000 or any(0xD800 <= ord(letter) < 0xE000 for letter in value):
            raise traitlets.TraitError("it is a text of at most 1000 whole characters.")
        return value


class Number(traitlets.Float[float, float]):
    """A number that can be sent: NaN passes every bound of a plain `Float`, is no JSON, and never equals itself."""

    def validate(self, obj: Any, value: Any) -> float:
        """See `traitlets.TraitType`."""
        if isinstance(value, bool) or (isinstance(value, (int, float)) and not abs(value) < math.inf):
            raise traitlets.TraitError("it is a finite number.")
        if isinstance(value, int) and value.bit_length() > 1000:
            raise traitlets.TraitError("it is a number of ordinary size.")
        return super().validate(obj, value)


class Guarded(anywidget.AnyWidget):
    """Takes messages from the page one by one, and never raises at it.

    `settings` names the traits that the page may write; anything else (`_esm`, `layout`, …) is dropped and counted. A value
    that a trait refuses is answered with the truth, before anything is echoed.
    """

    settings: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, **kwargs: Any) -> None:
        self.dropped = 0
        self._traits_box = Outbox(_speaker(weakref.ref(self)))
        super().__init__(**kwargs)

    def send_state(self, key: str | Iterable[str] | None = None) -> None:
        """Send these traits, or all, when their turn comes: a loop that sets one a thousand times must not flood the page."""
        names = sorted(self.keys if key is None else [key] if isinstance(key, str) else key)
        self._traits_box.put(tuple(names), lambda: {"names": names})

    def _send_traits(self, names: list[str]) -> None:
        if self.comm is not None:
            self.in_page(lambda: super(Guarded, self).send_state(names))

    def in_page(self, job: Callable[[], None]) -> None:
        """Do `job`, which speaks, where the page is heard again at once."""
        job()

    def _handle_msg(self, msg: Any) -> None:
        try:
            if self.comm is None:
                self.dropped += 1  # closed, and the page does not know it yet
                return
            data = msg["content"]["data"]
            method = data.get("method")
            if method == "update":
                self._take(data)
            elif method == "request_state":
                self.send_state()
            elif method == "custom" and isinstance(data.get("content"), dict):
                self.receive(data["content"], list(msg.get("buffers") or ()))
            else:
                self.dropped += 1
        except Exception:
            self.dropped += 1
            log.exception("a message from the page could not be handled")

    def _take(self, data: Mapping[str, Any]) -> None:
        state = data.get("state")
        if not isinstance(state, dict) or data.get("buffer_paths"):
            self.dropped += 1
            return
        known = {key: value for key, value in state.items() if key in self.settings}
        self.dropped += len(state) - len(known)
        wrong = {key: error for key, value in known.items() if (error := self._wrong(key, value)) is not None}
        if known and not wrong:
            self.accept()
            wrong = self._set(known)
        if wrong:
            # Nothing of the message was taken; the page shows its own values, and is told the true ones.
            self.send_state(list(known))
            for key, error in wrong.items():
                self.refuse(key, f"{key.replace('_', ' ').capitalize()} cannot be {brief(known[key])}: {error}")

    def _wrong(self, key: str, value: Any) -> Exception | None:
        trait = self.traits()[key]
        if isinstance(value, bool) and isinstance(trait, traitlets.Int):
            return traitlets.TraitError("it is a whole number.")
        try:
            trait._validate(self, value)  # noqa: SLF001
        except (traitlets.TraitError, OverflowError, ValueError, TypeError, RecursionError) as error:
            return error
        return None

    def _set(self, values: dict[str, Any]) -> dict[str, Exception]:
        before = {key: getattr(self, key) for key in values}
        try:
            self.set_state(values)
        except Exception as error:  # an observer, ours or the user's
            log.exception("a setting could not take effect")
            for key, value in before.items():
                # Whoever has followed it follows it back; who raised may raise again.
                with contextlib.suppress(Exception):
                    self.set_trait(key, value)
            return dict.fromkeys(values, error)
        return {}

    def receive(self, content: dict[str, Any], buffers: list[Any]) -> None:
        """Handle one custom message; views have none of their own."""
        del content, buffers
        self.dropped += 1

    def accept(self) -> None:
        """What the page sets makes sense, and is about to be set."""

    def refuse(self, key: str, message: str) -> None:
        """Say that a setting was refused."""
        log.warning("%s: %s", key, message)

    def close(self) -> None:
        """Close the comm, and that of the layout, which would stay otherwise."""
        layout = self.layout if self.comm is not None else None
        if layout is not None:
            layout.close()
        self._traits_box.close()
        super().close()


def _speaker(ref: weakref.ref[Guarded]) -> Callable[[dict[str, Any], list[bytes]], None]:
    """Not a method of its own: what sends must not keep a widget alive that nobody else holds."""

    def speak(content: dict[str, Any], _buffers: list[bytes]) -> None:
        widget = ref()
        if widget is not None:
            widget._send_traits(content["names"])  # noqa: SLF001

    return speak
