"""CircuitsVis's calls, drawn with our views: no network, special tokens and line breaks shown, and what is locked can be unlocked.

    from interp_widgets.interop import circuitsvis as cv

    cv.attention.attention_patterns(tokens=tokens, attention=pattern, attention_head_names=names)
    cv.attention.attention_heads(attention=pattern, tokens=tokens)
    cv.tokens.colored_tokens(tokens, values)
    cv.activations.text_neuron_activations(tokens=tokens, activations=neurons)
    cv.topk_tokens.topk_tokens(tokens=[tokens], activations=[neurons_by_layer], max_k=7)
    cv.logits.token_log_probs(ids, logits.log_softmax(-1), model.to_string)

Each returns a `Drawing`, which a notebook shows; `.to_circuitsvis()` gives CircuitsVis's own object where it is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from interp_widgets.export.still import Still
from interp_widgets.interop.drawing import (
    Array,
    Drawing,
    Json,
    array_of,
    is_tokens,
    limit_of,
    panel_of,
    state_of,
    words_of,
)
from interp_widgets.interop.token_drawings import (
    colored_tokens,
    colored_tokens_multi,
    text_neuron_activations,
    token_log_probs,
    visualize_model_performance,
)
from interp_widgets.interop.token_drawings import topk_tokens as topk_tokens_of
from interp_widgets.methods.attention import Attention
from interp_widgets.model.errors import InterpError
from interp_widgets.model.question import Token
from interp_widgets.widgets.pattern_images import cells_of, pooled, steps, triangle
from interp_widgets.widgets.pattern_overview import overview_of


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
    if is_tokens(attention) and not is_tokens(tokens):
        attention, tokens = tokens, attention
    values, words = _heads(attention), words_of(tokens)
    names = _names(attention_head_names, len(values))
    if values.shape[1:] != (len(words), len(words)):
        have = " x ".join(map(str, values.shape))
        raise InterpError(f"The attention is {have}, but there are {len(words)} tokens; it must be [head, dest, src].")
    square = bool(np.any(np.triu(values, 1) != 0)) and mask_upper_tri is not True
    arguments: Json = {"attention": values, "tokens": [t.text for t in words], "attention_head_names": names}
    arguments |= {"max_value": max_value, "min_value": min_value, "mask_upper_tri": not square}
    arguments |= {"negative_color": negative_color, "positive_color": positive_color}
    still = _still_attention(words, values, names, square, limit_of(values, max_value, min_value))
    return Drawing(still, ("attention", "attention_heads"), arguments)


def attention_pattern(tokens: Sequence[str], attention: Any, **options: Any) -> Drawing:
    """One head's attention, `[dest, src]`."""
    options.pop("show_axis_labels", None)
    return attention_heads(attention, tokens, ["pattern"], **options)


attention = SimpleNamespace(
    attention_patterns=attention_patterns, attention_heads=attention_heads, attention_pattern=attention_pattern
)
tokens = SimpleNamespace(
    colored_tokens=colored_tokens,
    colored_tokens_multi=colored_tokens_multi,
    visualize_model_performance=visualize_model_performance,
)
activations = SimpleNamespace(text_neuron_activations=text_neuron_activations)
logits = SimpleNamespace(token_log_probs=token_log_probs)
topk_tokens = SimpleNamespace(topk_tokens=topk_tokens_of)


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
        f'{{"action":"head","layer":0,"head":{h}}}': panel_of("attention", {"large": large})
        for h, large in enumerate(exact)
    }
    messages = [state_of(1, heads), panel_of("attention", data | {"large": exact[0]})]
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


def _heads(values: Any) -> Array:
    array = array_of(values)
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.shape[1] != array.shape[2] or not array.size:
        raise InterpError(f"The attention is {' x '.join(map(str, array.shape))}; it must be [head, dest, src].")
    return array


def _names(names: Sequence[str] | None, heads: int) -> list[str]:
    if names is None:
        return [f"Head {h}" for h in range(heads)]
    if len(names) != heads:
        raise InterpError(f"There are {heads} heads and {len(names)} names; pass one name per head.")
    return [str(name) for name in names]
