"""A widget that a page cannot break: only its own settings can be written, and only with values that make sense."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import traitlets

log = logging.getLogger("interp_widgets")
STATIC = Path(__file__).parent.parent / "static"


@functools.cache
def bundle(name: str) -> str | Path:
    """A built bundle: its text, read once (a `Path` would keep every closed widget alive), or its path for hot reload."""
    path = STATIC / name
    return path if os.environ.get("ANYWIDGET_HMR") == "1" else path.read_text(encoding="utf-8")


class Guarded(anywidget.AnyWidget):
    """Takes messages from the page one by one, and never raises at it.

    `settings` names the traits that the page may write; anything else (`_esm`, `layout`, …) is dropped and counted. A value
    that a trait refuses is answered with the truth, before anything is echoed.
    """

    settings: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, **kwargs: Any) -> None:
        self.dropped = 0
        super().__init__(**kwargs)

    def _handle_msg(self, msg: Any) -> None:
        try:
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
        good: dict[str, Any] = {}
        for key, value in state.items():
            if key not in self.settings:
                self.dropped += 1
                continue
            try:
                self.traits()[key]._validate(self, value)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            except (traitlets.TraitError, OverflowError, ValueError, TypeError, RecursionError) as error:
                self.send_state(key)
                self.refuse(key, f"{key.replace('_', ' ').capitalize()} cannot be {_short(value)}: {error}")
            else:
                good[key] = value
        if good:
            self.set_state(good)

    def receive(self, content: dict[str, Any], buffers: list[Any]) -> None:
        """Handle one custom message; views have none of their own."""
        del content, buffers
        self.dropped += 1

    def refuse(self, key: str, message: str) -> None:
        """Say that a setting was refused."""
        log.warning("%s: %s", key, message)

    def close(self) -> None:
        """Close the comm, and that of the layout, which would stay otherwise."""
        layout = self.layout
        if layout is not None:
            layout.close()
        super().close()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else text[:38] + "…"
