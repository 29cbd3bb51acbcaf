"""What every drawing of CircuitsVis's calls is made of: the page, the call that CircuitsVis would take, and what was given to it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from interp_widgets.export.still import Still
from interp_widgets.model.errors import InterpError
from interp_widgets.model.question import Token
from interp_widgets.version import __version__

Array = npt.NDArray[np.float32]
Json = dict[str, Any]


@dataclass(frozen=True)
class Drawing:
    """A picture for a notebook, and what CircuitsVis would be called with.

    Attributes:
        still: what is drawn.
        call: CircuitsVis's module and function.
        arguments: its arguments, without those that only we take.
    """

    still: Still
    call: tuple[str, str]
    arguments: Json = field(default_factory=dict[str, Any], repr=False)

    def _repr_html_(self) -> str:
        return self.still.frame()

    def __html__(self) -> str:
        return self.still.frame()

    def __str__(self) -> str:
        return self.still.document()

    def show_code(self) -> str:
        """The whole page; it loads nothing from anywhere."""
        return self.still.document()

    def to_circuitsvis(self) -> Any:
        """CircuitsVis's own object of the same call.

        Raises:
            InterpError: where CircuitsVis is not installed.
        """
        from importlib import import_module

        module, name = self.call
        try:
            theirs = import_module(f"circuitsvis.{module}")
        except ImportError as error:
            raise InterpError("CircuitsVis is not installed here; install it with pip install circuitsvis.") from error
        return getattr(theirs, name)(**self.arguments)


def state_of(revision: int, heads: int) -> Json:
    """The state that a kernel would tell: no question, and one layer of `heads`."""
    model = {"name": "saved, not live", "layers": 1, "heads": [heads], "dtype": "", "device": "cpu", "notes": []}
    state = {
        "version": __version__,
        "model": model,
        "question": None,
        "interventions": [],
        "vectors": [],
        "mode": "mean",
        "reference": None,
        "answer": None,
        "history": {"items": [], "index": 0},
        "busy": False,
        "error": None,
        "closed": False,
    }
    return {"kind": "state", "revision": revision, "acks": {}, "state": state}


def panel_of(panel: str, data: Json) -> Json:
    """What a kernel would tell of one view."""
    return {
        "kind": "panel",
        "panel": panel,
        "revision": 1,
        "status": "done",
        "progress": 1.0,
        "message": "",
        "data": data,
    }


# ---- what is given ------------------------------------------------------------------------------------------------------


def array_of(values: Any, *, infinite: bool = False) -> Array:
    """Lists, an array or a tensor as float32.

    Raises:
        InterpError: for what is no array of finite numbers (with `infinite`, of numbers).
    """
    detach = getattr(values, "detach", None)
    if detach is not None:
        values = detach().float().cpu().numpy()
    try:
        array = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InterpError(f"These values are no array of numbers: {error}") from error
    if np.isnan(array).any() or not (infinite or np.isfinite(array).all()):
        raise InterpError("There are values that are not finite; replace them before drawing.")
    return array


def is_tokens(values: Any) -> bool:
    """Whether this is a list of texts."""
    return isinstance(values, (list, tuple)) and len(values) > 0 and all(isinstance(v, str) for v in values)


def words_of(words: Sequence[str]) -> list[Token]:
    """Texts as tokens: equal texts are equal tokens; what stands in angle brackets is special."""
    if not is_tokens(words):
        raise InterpError("tokens must be a list of texts, one per position.")
    ids: dict[str, int] = {}
    counter = itertools.count()
    for word in words:
        if word not in ids:
            ids[word] = next(counter)
    return [Token(ids[w], w, "special" if len(w) > 2 and w[0] == "<" and w[-1] == ">" else "text") for w in words]


def token_of(token: Token) -> Json:
    """One token as the browser is told it."""
    return {"id": token.id, "text": token.text, "kind": token.kind}


def limit_of(values: Array, max_value: float | None, min_value: float | None, least: float = 1.0) -> float:
    """The size of full colour: what was asked for; else 1 for attention, and the largest size for anything else."""
    given = [abs(float(v)) for v in (max_value, min_value) if v is not None]
    top = max(given) if given else max(least, float(np.abs(values).max(initial=0.0)))
    return top if top > 0 else 1.0
