"""A wish of the page: read, checked, and applied to the session. Arguments are absolute, never relative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from interp_widgets.asking import asked_again
from interp_widgets.model.errors import InterventionError, PromptError
from interp_widgets.model.question import Question
from interp_widgets.session import Session
from interp_widgets.widgets.brief import brief

if TYPE_CHECKING:
    from interp_widgets.widgets.wishes import Wishes

_TEXT = 1_000_000
_POSITIONS = 100_000
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
        raise InterventionError(f"A wish needs a sequence number from 1, not {brief(seq)}.")
    if not isinstance(name, str) or name not in _NAMES:
        raise InterventionError(f"There is no wish {brief(name)}; there are {', '.join(_NAMES)}.")
    if not isinstance(key, str) or len(key) > 1000 or not isinstance(args, dict):
        raise InterventionError(f"The wish {name!r} needs a key of at most 1000 letters, and its arguments by name.")
    return Intent(client, seq, str(name), key, args)


ASIDE = frozenset({"panel"})
"""Wishes that are no step of the history."""
MOVES = frozenset({"clear", "undo", "redo"})
"""Wishes whose meaning depends on everything before them."""


def apply(wishes: Wishes, session: Session, intent: Intent) -> None:
    """Do what is wished.

    Raises:
        InterpError: in a sentence, when it makes no sense; the session is as before.
    """
    _APPLY[intent.name](wishes, session, intent)


def keys_of(intent: Intent) -> list[str]:
    """What a wish speaks of: its key, or for many heads the key of each."""
    sites = intent.args.get("sites") if intent.name == "ablate_many" else None
    return [f"head:{site}" for site in sites if isinstance(site, str)] if isinstance(sites, list) else [intent.key]


def narrowed(intent: Intent, keys: list[str]) -> Intent | None:
    """The wish for these of its keys alone; None when nothing is left."""
    if not keys:
        return None
    if intent.name != "ablate_many":
        return intent
    return replace(intent, args={**intent.args, "sites": [key.removeprefix("head:") for key in keys]})


def _ablate(_wishes: Wishes, session: Session, intent: Intent) -> None:
    session.switch([_text(intent, "site")], off=_flag(intent, "off"), mode=_mode(intent), positions=_positions(intent))


def _ablate_many(_wishes: Wishes, session: Session, intent: Intent) -> None:
    sites = intent.args.get("sites")
    if not isinstance(sites, list) or not sites or not all(isinstance(s, str) and len(s) < 100 for s in sites):
        raise InterventionError("Name at least one site to switch, such as L1H3.")
    where = _positions(intent)
    session.switch([str(s) for s in sites], off=_flag(intent, "off"), mode=_mode(intent), positions=where)


def _edge(_wishes: Wishes, session: Session, intent: Intent) -> None:
    session.cut(_text(intent, "site"), _position(intent, "dest"), _position(intent, "src"), _flag(intent, "off"))


def _set_mode(_wishes: Wishes, session: Session, intent: Intent) -> None:
    mode = _mode(intent)
    if mode is None:
        raise InterventionError(f"The wish 'mode' needs a mode: {', '.join(_MODES)}.")
    session.set_mode(mode)


def _strength(_wishes: Wishes, session: Session, intent: Intent) -> None:
    value = intent.args.get("value")
    session.strength(_text(intent, "name"), value, final=bool(intent.args.get("final", True)))  # pyright: ignore[reportArgumentType]


def _vector(_wishes: Wishes, session: Session, intent: Intent) -> None:
    session.steer_settings(
        _text(intent, "name"),
        on=None if intent.args.get("on") is None else _flag(intent, "on"),
        site=_optional(intent, "site"),
        positions=_optional(intent, "positions"),
        mode=_optional(intent, "mode"),
    )


def asking(session: Session, intent: Intent) -> Callable[[], Question]:
    """What finds the question that is wished for; it may run the model, so the worker does it.

    Raises:
        PromptError: for what is no question, whatever the model.
    """
    prompt = intent.args.get("prompt")
    if not isinstance(prompt, str) or len(prompt) > _TEXT:
        raise PromptError("A prompt is a text of at most a million characters.")
    target, foil = _tokens(intent, "target"), _tokens(intent, "foil")
    chat = intent.args.get("chat") is True
    if chat and not prompt.strip():
        raise PromptError("The message is empty; type a few words first.")
    live, now = session.model, session.question  # what the page showed, whatever is undone meanwhile
    return lambda: asked_again(live, now, prompt, target, foil, chat=chat)


def _clear(_wishes: Wishes, session: Session, _intent: Intent) -> None:
    session.clear()


def _undo(_wishes: Wishes, session: Session, _intent: Intent) -> None:
    session.undo()


def _redo(_wishes: Wishes, session: Session, _intent: Intent) -> None:
    session.redo()


def _panel(wishes: Wishes, _session: Session, intent: Intent) -> None:
    view = wishes.view(_text(intent, "panel"))
    if view is None:
        raise InterventionError("This view is closed; run its cell again.")
    view.act(_text(intent, "action"), intent.args)


_APPLY: dict[Any, Callable[[Any, Session, Intent], None]] = {
    "ablate": _ablate,
    "ablate_many": _ablate_many,
    "edge": _edge,
    "mode": _set_mode,
    "strength": _strength,
    "vector": _vector,
    "clear": _clear,
    "undo": _undo,
    "redo": _redo,
    "panel": _panel,
}
_NAMES = ("ask", *_APPLY)


def _text(intent: Intent, name: str) -> str:
    value = intent.args.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 1000:
        raise InterventionError(f"The wish {intent.name!r} needs a text {name!r}, not {brief(value)}.")
    return value


def _optional(intent: Intent, name: str) -> str | None:
    return None if intent.args.get(name) is None else _text(intent, name)


def _flag(intent: Intent, name: str) -> bool:
    value = intent.args.get(name)
    if not isinstance(value, bool):
        raise InterventionError(f"The wish {intent.name!r} needs {name!r} to be true or false, not {brief(value)}.")
    return value


def _position(intent: Intent, name: str) -> int:
    value = intent.args.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise InterventionError(f"The wish {intent.name!r} needs {name!r} to be a position from 0, not {brief(value)}.")
    return value


def _positions(intent: Intent) -> str | list[int]:
    """Where to switch something off: everywhere, or at these positions of the prompt."""
    value = intent.args.get("positions", "all")
    if value == "all":
        return "all"
    if isinstance(value, list) and 0 < len(value) <= _POSITIONS and all(type(v) is int and v >= 0 for v in value):
        return [int(v) for v in value]
    raise InterventionError(f'Positions are "all" or a list of positions from 0, not {brief(value)}.')


def _mode(intent: Intent) -> Any:
    mode = intent.args.get("mode")
    if mode is not None and mode not in _MODES:
        raise InterventionError(f"There is no ablation mode {brief(mode)}; choose one of {', '.join(_MODES)}.")
    return mode


def _tokens(intent: Intent, name: str) -> str | list[str | int] | None:
    value = intent.args.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, str) and len(value) < 1000:
        return value
    if isinstance(value, list) and 0 < len(value) <= 100 and all(isinstance(v, str) and len(v) < 1000 for v in value):
        return [str(v) for v in value]
    if isinstance(value, list) and 0 < len(value) <= 100 and all(type(v) is int and 0 <= v < 1 << 31 for v in value):
        return [int(v) for v in value]
    raise PromptError(f"The {name} is a token's text, a list of them, or of ids, not {brief(value)}.")
