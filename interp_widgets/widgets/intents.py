"""A wish of the page: read, checked, and applied to the session. Arguments are absolute, never relative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interp_widgets.model.errors import InterpError, InterventionError, PromptError
from interp_widgets.session import Session
from interp_widgets.widgets.order import Order

if TYPE_CHECKING:
    from interp_widgets.widgets.channel import SessionWidget

_TEXT = 1_000_000
_MODES = ("mean", "zero", "resample")


@dataclass(frozen=True)
class Intent:
    """One wish, its envelope checked."""

    client: str
    seq: int
    name: str
    key: str
    args: dict[str, Any]


def read(content: dict[str, Any]) -> Intent:
    """Check the envelope.

    Raises:
        InterventionError: when it is not an intent as docs/protocol.md has it.
    """
    client, seq, name, key, args = (content.get(k) for k in ("client", "seq", "name", "key", "args"))
    if not isinstance(client, str) or not 0 < len(client) <= 64:
        raise InterventionError("A wish needs a client name of 1 to 64 letters.")
    if not isinstance(seq, int) or isinstance(seq, bool) or not 0 < seq < 1 << 53:
        raise InterventionError(f"A wish needs a sequence number from 1, not {_short(seq)}.")
    if name not in _APPLY or not isinstance(key, str) or len(key) > 1000 or not isinstance(args, dict):
        raise InterventionError(f"There is no wish {_short(name)}; there are {', '.join(_APPLY)}.")
    return Intent(client, seq, str(name), key, args)


def apply(mirror: SessionWidget, session: Session, intent: Intent, order: Order) -> None:
    """Do what is wished.

    Raises:
        InterpError: in a sentence, when it makes no sense; the session is as before.
    """
    _APPLY[intent.name](mirror, session, intent, order)


def _ablate(_mirror: SessionWidget, session: Session, intent: Intent, _order: Order) -> None:
    session.switch([_text(intent, "site")], off=_flag(intent, "off"), mode=_mode(intent))


def _ablate_many(_mirror: SessionWidget, session: Session, intent: Intent, order: Order) -> None:
    sites = intent.args.get("sites")
    if not isinstance(sites, list) or not sites or not all(isinstance(s, str) and len(s) < 100 for s in sites):
        raise InterventionError("Name at least one site to switch, such as L1H3.")
    kept = order.fresh_sites(intent.client, intent.seq, [str(s) for s in sites])
    if kept:
        session.switch(kept, off=_flag(intent, "off"), mode=_mode(intent))


def _set_mode(_mirror: SessionWidget, session: Session, intent: Intent, _order: Order) -> None:
    session.set_mode(_mode(intent) or "mean")


def _strength(_mirror: SessionWidget, session: Session, intent: Intent, _order: Order) -> None:
    value = intent.args.get("value")
    session.strength(_text(intent, "name"), value, final=bool(intent.args.get("final", True)))  # pyright: ignore[reportArgumentType]


def _vector(_mirror: SessionWidget, session: Session, intent: Intent, _order: Order) -> None:
    args = intent.args
    on = args.get("on")
    session.steer_settings(
        _text(intent, "name"),
        on=on if isinstance(on, bool) else None,
        site=_optional(args, "site"),
        positions=_optional(args, "positions"),
        mode=_optional(args, "mode"),
    )


def _ask(mirror: SessionWidget, session: Session, intent: Intent, _order: Order) -> None:
    prompt = intent.args.get("prompt")
    if not isinstance(prompt, str) or len(prompt) > _TEXT:
        raise PromptError("A prompt is a text of at most a million characters.")
    target, foil = _tokens(intent, "target"), _tokens(intent, "foil")

    def ask() -> None:
        try:
            session.ask(prompt, target, foil)
        except InterpError as error:
            mirror.refused(intent, str(error))

    mirror.later("ask", ask)


def _clear(_mirror: SessionWidget, session: Session, _intent: Intent, _order: Order) -> None:
    session.clear()


def _undo(_mirror: SessionWidget, session: Session, _intent: Intent, _order: Order) -> None:
    session.undo()


def _redo(_mirror: SessionWidget, session: Session, _intent: Intent, _order: Order) -> None:
    session.redo()


def _panel(mirror: SessionWidget, _session: Session, intent: Intent, _order: Order) -> None:
    view = mirror.view(_text(intent, "panel"))
    if view is None:
        raise InterventionError("This view is closed; run its cell again.")
    view.act(_text(intent, "action"), intent.args)


_APPLY: dict[Any, Callable[[Any, Session, Intent, Order], None]] = {
    "ablate": _ablate,
    "ablate_many": _ablate_many,
    "mode": _set_mode,
    "strength": _strength,
    "vector": _vector,
    "ask": _ask,
    "clear": _clear,
    "undo": _undo,
    "redo": _redo,
    "panel": _panel,
}


def _text(intent: Intent, name: str) -> str:
    value = intent.args.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 1000:
        raise InterventionError(f"The wish {intent.name!r} needs a text {name!r}, not {_short(value)}.")
    return value


def _optional(args: dict[str, Any], name: str) -> str | None:
    value = args.get(name)
    return value if isinstance(value, str) and 0 < len(value) <= 1000 else None


def _flag(intent: Intent, name: str) -> bool:
    value = intent.args.get(name)
    if not isinstance(value, bool):
        raise InterventionError(f"The wish {intent.name!r} needs {name!r} to be true or false, not {_short(value)}.")
    return value


def _mode(intent: Intent) -> Any:
    mode = intent.args.get("mode")
    if mode is not None and mode not in _MODES:
        raise InterventionError(f"There is no ablation mode {_short(mode)}; choose one of {', '.join(_MODES)}.")
    return mode


def _tokens(intent: Intent, name: str) -> str | list[str] | None:
    value = intent.args.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, str) and len(value) < 1000:
        return value
    if isinstance(value, list) and 0 < len(value) <= 100 and all(isinstance(v, str) and len(v) < 1000 for v in value):
        return [str(v) for v in value]
    raise PromptError(f"The {name} is a token's text or a list of them, not {_short(value)}.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else text[:38] + "…"
