"""CircuitsVis's calls, drawn with our views: no network, special tokens and line breaks shown, and what is locked can be unlocked.

    from interp_widgets.interop import circuitsvis as cv

    cv.attention.attention_patterns(tokens=tokens, attention=pattern, attention_head_names=names)
    cv.attention.attention_heads(attention=pattern, tokens=tokens)
    cv.tokens.colored_tokens(tokens, values)

Each returns a `Drawing`, which a notebook shows; `.to_circuitsvis()` gives CircuitsVis's own object where it is installed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from interp_widgets.export.still import Still
from interp_widgets.methods.attention import Attention
from interp_widgets.model.errors import InterpError
from interp_widgets.model.question import Token
from interp_widgets.version import __version__
from interp_widgets.widgets.pattern_images import cells_of, pooled, steps, triangle
from interp_widgets.widgets.pattern_overview import overview_of

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


def attention_patterns(
    tokens: Sequence[str], attention: Any, attention_head_names: Sequence[str] | None = None, **options: Any
) -> Drawing:
    """Attention of several heads, `[head, dest, src]`: thumbnails, one large, tokens linked.

    Args:
        tokens: one text per position.
        attention: lists, an array or a tensor; `[dest, src]` is one head.
        attention_head_names: what the heads are called; else Head 0, Head 1, …
        options: those of `attention_heads`.

    Raises:
        InterpError: when shapes, names and tokens do not fit together.

    Example:
        >>> attention_patterns(["a", "b"], [[[1, 0], [0.5, 0.5]]], ["L0H3"])  # doctest: +SKIP
    """
    return attention_heads(attention, tokens, attention_head_names, **options)


def attention_heads(
    attention: Any,
    tokens: Sequence[str],
    attention_head_names: Sequence[str] | None = None,
    max_value: float | None = None,
    min_value: float | None = None,
    negative_color: str | None = None,
    positive_color: str | None = None,
    mask_upper_tri: bool | None = None,
) -> Drawing:
    """The same, with CircuitsVis's newer argument order; what is given in the older order is recognised.

    Args:
        attention, tokens, attention_head_names: as in `attention_patterns`.
        max_value, min_value: the size of full colour is the larger of the two.
        negative_color, positive_color: passed on by `to_circuitsvis`; we draw purple and orange, which all eyes can tell apart.
        mask_upper_tri: leave out what looks ahead; by default only where there is nothing.
    """
    if _is_tokens(attention) and not _is_tokens(tokens):
        attention, tokens = tokens, attention
    values, words = _heads(attention), _words(tokens)
    names = _names(attention_head_names, len(values))
    if values.shape[1:] != (len(words), len(words)):
        have = " x ".join(map(str, values.shape))
        raise InterpError(f"The attention is {have}, but there are {len(words)} tokens; it must be [head, dest, src].")
    square = bool(np.any(np.triu(values, 1) != 0)) and mask_upper_tri is not True
    arguments: Json = {"attention": values, "tokens": [t.text for t in words], "attention_head_names": names}
    arguments |= {"max_value": max_value, "min_value": min_value, "mask_upper_tri": not square}
    arguments |= {"negative_color": negative_color, "positive_color": positive_color}
    still = _still_attention(words, values, names, square, _limit(values, max_value, min_value))
    return Drawing(still, ("attention", "attention_heads"), arguments)


def attention_pattern(tokens: Sequence[str], attention: Any, **options: Any) -> Drawing:
    """One head's attention, `[dest, src]`."""
    options.pop("show_axis_labels", None)
    return attention_heads(attention, tokens, ["pattern"], **options)


def colored_tokens(
    tokens: Sequence[str],
    values: Any,
    min_value: float | None = None,
    max_value: float | None = None,
    negative_color: str | None = None,
    positive_color: str | None = None,
) -> Drawing:
    """Tokens coloured by a value each: purple below zero, orange above.

    Raises:
        InterpError: when there is not one value per token.

    Example:
        >>> colored_tokens(["The", " cat"], [0.1, -2.0])  # doctest: +SKIP
    """
    words, numbers = _words(tokens), _array(values).reshape(-1)
    if len(numbers) != len(words):
        raise InterpError(f"There are {len(words)} tokens and {len(numbers)} values; pass one value per token.")
    limit = _limit(numbers, max_value, min_value, least=0.0)
    data = {"tokens": [_token(t) for t in words], "values": numbers, "limit": limit}
    still = Still("colored_tokens", {"panel": "tokens"}, [_state(1, 0), _panel("tokens", data)], title="Tokens")
    arguments: Json = {
        "tokens": [t.text for t in words],
        "values": numbers,
        "min_value": min_value,
        "max_value": max_value,
    }
    arguments |= {"negative_color": negative_color, "positive_color": positive_color}
    return Drawing(still, ("tokens", "colored_tokens"), arguments)


attention = SimpleNamespace(
    attention_patterns=attention_patterns, attention_heads=attention_heads, attention_pattern=attention_pattern
)
tokens = SimpleNamespace(colored_tokens=colored_tokens)


# ---- what is drawn ------------------------------------------------------------------------------------------------------


def _still_attention(words: Sequence[Token], values: Array, names: Sequence[str], square: bool, limit: float) -> Still:
    heads, signed = len(values), bool(values.min(initial=0.0) < 0)
    found = Attention(tuple(words), values[None])
    data = overview_of([heads], found, values[None], "difference" if signed else "now")
    sites = [f"L0H{h}" for h in range(heads)]
    data |= {
        "limit": limit,
        "square": square,
        "signed": signed,
        "show": "now",
        "names": dict(zip(sites, names, strict=True)),
    }
    if square or signed:
        data["scores"] = {}
    data["thumbs:0"] = _small(values, limit, signed=signed, square=square)
    exact = [_large(values, head, square) for head in range(heads)]
    answers = {
        f'{{"action":"head","layer":0,"head":{h}}}': _panel("attention", {"large": large})
        for h, large in enumerate(exact)
    }
    messages = [_state(1, heads), _panel("attention", data | {"large": exact[0]})]
    traits = {"panel": "attention", "show": "now", "layer": 0, "head": 0, "still": True}
    return Still("attention_patterns", traits, messages, answers, "Attention patterns")


def _small(values: Array, limit: float, *, signed: bool, square: bool) -> npt.NDArray[np.uint8]:
    size = cells_of(values.shape[-1], 2 * len(values) if square else len(values))
    small = pooled(values[None], size, signed=signed)[0].reshape(len(values), -1)
    return steps(small if square else small.take(triangle(size), axis=-1), limit, signed=signed)


def _large(values: Array, head: int, square: bool) -> Json:
    """Whole pages have no limit of one message: every head is there, exactly."""
    flat = values[head].reshape(-1)
    return {
        "layer": 0,
        "head": head,
        "size": values.shape[-1],
        "values": flat if square else flat.take(triangle(values.shape[-1])),
    }


def _state(revision: int, heads: int) -> Json:
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


def _panel(panel: str, data: Json) -> Json:
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


def _array(values: Any) -> Array:
    detach = getattr(values, "detach", None)
    if detach is not None:
        values = detach().float().cpu().numpy()
    try:
        array = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InterpError(f"These values are no array of numbers: {error}") from error
    if not np.isfinite(array).all():
        raise InterpError("There are values that are not finite; replace them before drawing.")
    return array


def _heads(values: Any) -> Array:
    array = _array(values)
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.shape[1] != array.shape[2] or not array.size:
        raise InterpError(f"The attention is {' x '.join(map(str, array.shape))}; it must be [head, dest, src].")
    return array


def _is_tokens(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and len(values) > 0 and all(isinstance(v, str) for v in values)


def _words(words: Sequence[str]) -> list[Token]:
    """Texts as tokens: equal texts are equal tokens; what stands in angle brackets is special."""
    if not _is_tokens(words):
        raise InterpError("tokens must be a list of texts, one per position.")
    ids: dict[str, int] = {}
    counter = itertools.count()
    for word in words:
        if word not in ids:
            ids[word] = next(counter)
    return [Token(ids[w], w, "special" if len(w) > 2 and w[0] == "<" and w[-1] == ">" else "text") for w in words]


def _token(token: Token) -> Json:
    return {"id": token.id, "text": token.text, "kind": token.kind}


def _names(names: Sequence[str] | None, heads: int) -> list[str]:
    if names is None:
        return [f"Head {h}" for h in range(heads)]
    if len(names) != heads:
        raise InterpError(f"There are {heads} heads and {len(names)} names; pass one name per head.")
    return [str(name) for name in names]


def _limit(values: Array, max_value: float | None, min_value: float | None, least: float = 1.0) -> float:
    """The size of full colour: what was asked for; else 1 for attention, and the largest size for anything else."""
    given = [abs(float(v)) for v in (max_value, min_value) if v is not None]
    top = max(given) if given else max(least, float(np.abs(values).max(initial=0.0)))
    return top if top > 0 else 1.0
