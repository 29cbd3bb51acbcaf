"""CircuitsVis's calls that colour tokens: one value each, several kinds, every neuron, log probabilities, the largest of a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

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
    token_of,
    words_of,
)
from interp_widgets.model.errors import InterpError
from interp_widgets.model.question import Token

EXACT = 1_000_000  # values; beyond, they travel as halves, which are sure to three digits
_HALF = 65_504


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
    words, numbers = words_of(tokens), array_of(values).reshape(-1)
    if len(numbers) != len(words):
        raise InterpError(f"There are {len(words)} tokens and {len(numbers)} values; pass one value per token.")
    arguments: Json = {
        "tokens": [t.text for t in words],
        "values": numbers,
        "min_value": min_value,
        "max_value": max_value,
    }
    arguments |= {"negative_color": negative_color, "positive_color": positive_color}
    limit = limit_of(numbers, max_value, min_value, least=0.0)
    return _drawn([_sample(words, numbers[None, None])], ("tokens", "colored_tokens"), arguments, limit=limit)


def colored_tokens_multi(tokens: Sequence[str], values: Any, labels: Sequence[str] | None = None) -> Drawing:
    """Tokens coloured by one of several values, `[token, kind]`; the pointer reads all of them.

    Args:
        tokens: one text per position.
        values: lists, an array or a tensor.
        labels: what the kinds are called; else they are counted.

    Raises:
        InterpError: when shapes, labels and tokens do not fit together.

    Example:
        >>> colored_tokens_multi(["The", " cat"], [[0.1, 2.0], [0.3, -1.0]], ["mean", "zero"])  # doctest: +SKIP
    """
    words, numbers = words_of(tokens), array_of(values)
    if numbers.ndim != 2 or len(numbers) != len(words):
        have = " x ".join(map(str, numbers.shape))
        raise InterpError(f"The values are {have}, but there are {len(words)} tokens; they must be [token, kind].")
    names = _labels("labels", labels, numbers.shape[1])
    arguments = {"tokens": [t.text for t in words], "values": _tensor(numbers), "labels": names or None}
    axes = [_axis("", 1), _axis("Value", numbers.shape[1], names or [str(k) for k in range(numbers.shape[1])])]
    return _drawn([_sample(words, numbers.T[None])], ("tokens", "colored_tokens_multi"), arguments, axes)


def visualize_model_performance(tokens: Any, str_tokens: Sequence[str], logits: Any) -> Drawing:
    """Logit, log probability and probability of every token, predicted from those before it.

    Args:
        tokens: ids, `[pos]`.
        str_tokens: their texts.
        logits: `[pos, vocab]`.

    Raises:
        InterpError: when they do not fit together.
    """
    ids, table = _predictions(tokens, logits)
    words = words_of(str_tokens)
    if len(words) != len(ids):
        raise InterpError(f"There are {len(ids)} tokens and {len(words)} texts; pass one text per token.")
    log_probs = table - _logsumexp(table)
    own = np.take_along_axis(
        np.stack([table, log_probs]), np.broadcast_to(ids[None, 1:, None], (2, len(ids) - 1, 1)), -1
    )
    values = np.concatenate([own[..., 0], np.exp(own[1:, :, 0])]).T
    return colored_tokens_multi(list(str_tokens)[1:], values, ["logits", "log_probs", "probs"])


def text_neuron_activations(
    tokens: Sequence[str] | Sequence[Sequence[str]],
    activations: Any,
    first_dimension_name: str | None = "Layer",
    second_dimension_name: str | None = "Neuron",
    first_dimension_labels: Sequence[Any] | None = None,
    second_dimension_labels: Sequence[Any] | None = None,
) -> Drawing:
    """Tokens coloured by one of many values, `[token, layer, neuron]`, of one text or of several.

    Args:
        tokens: one text per position, or a list of such lists.
        activations: an array or a tensor, or one for each text.
        first_dimension_name, second_dimension_name: what is chosen.
        first_dimension_labels, second_dimension_labels: what the choices are called; else they are counted.

    Raises:
        InterpError: when shapes, labels and tokens do not fit together.

    Example:
        >>> text_neuron_activations(["The", " cat"], np.zeros((2, 12, 3072)))  # doctest: +SKIP
    """
    one = is_tokens(tokens)
    texts: list[Any] = [tokens] if one else list(tokens)
    given = [activations] if one else list(activations)
    arrays = _samples(texts, given, 0, "[token, layer, neuron]")
    _, firsts, seconds = arrays[0].shape
    names = [first_dimension_name or "Layer", second_dimension_name or "Neuron"]
    axes = [
        _axis(names[0], firsts, _labels("first_dimension_labels", first_dimension_labels, firsts)),
        _axis(names[1], seconds, _labels("second_dimension_labels", second_dimension_labels, seconds)),
    ]
    arguments: Json = {
        "tokens": list(tokens),
        "activations": arrays[0] if one else arrays,
        "first_dimension_name": names[0],
        "second_dimension_name": names[1],
        "first_dimension_labels": axes[0]["labels"] or None,
        "second_dimension_labels": axes[1]["labels"] or None,
    }
    exact = sum(a.size for a in arrays) <= EXACT or max(float(np.abs(a).max(initial=0.0)) for a in arrays) > _HALF
    samples = [
        _sample(words_of(text), np.moveaxis(a, 0, -1).astype(np.float32 if exact else np.float16))
        | {"coarse": not exact}
        for text, a in zip(texts, arrays, strict=True)
    ]
    return _drawn(samples, ("activations", "text_neuron_activations"), arguments, axes)


def token_log_probs(token_indices: Any, log_probs: Any, to_string: Callable[[Any], str], top_k: int = 10) -> Drawing:
    """Tokens coloured by their log probability; the pointer reads what was likeliest in each one's place.

    Args:
        token_indices: ids, `[pos]`; the first is not predicted.
        log_probs: of the token after each position, `[pos, vocab]`.
        to_string: a token's text from its id.
        top_k: how many of the likeliest are shown.

    Raises:
        InterpError: when ids and log probabilities do not fit together.

    Example:
        >>> token_log_probs(ids, logits.log_softmax(-1), tokenizer.decode)  # doctest: +SKIP
    """
    ids, table = _predictions(token_indices, log_probs)
    own = np.take_along_axis(table, ids[1:, None], -1)
    values = np.concatenate([[np.nan], own[:, 0]]).astype(np.float32)
    k = max(1, min(int(top_k), table.shape[-1]))
    top = np.argsort(-table, axis=-1, kind="stable")[:, :k]
    spelled = {int(i): str(to_string(int(i))) for i in {*ids.tolist(), *top.reshape(-1).tolist()}}
    guesses: Json = {
        "tokens": [[], *([spelled[int(i)] for i in row] for row in top)],
        "values": np.concatenate([np.full((1, k), np.nan), np.take_along_axis(table, top, -1)]).astype(np.float32),
        "ranks": np.concatenate([[0], 1 + (table > own).sum(-1)]).astype(np.int32),
    }
    words = words_of([spelled[int(i)] for i in ids])
    arguments: Json = {
        "token_indices": _tensor(ids),
        "log_probs": log_probs if hasattr(log_probs, "detach") else _tensor(array_of(log_probs, infinite=True)),
        "to_string": to_string,
        "top_k": k,
    }
    return _drawn([_sample(words, values[None, None])], ("logits", "token_log_probs"), arguments, guesses=guesses)


def topk_tokens(
    tokens: Sequence[Sequence[str]],
    activations: Any,
    max_k: int = 10,
    first_dimension_name: str = "Layer",
    third_dimension_name: str = "Neuron",
    sample_labels: Sequence[Any] | None = None,
    first_dimension_labels: Sequence[Any] | None = None,
) -> Drawing:
    """The tokens with the largest and the smallest values, `[layer, token, neuron]` of each sample: a column for every neuron.

    Raises:
        InterpError: when shapes, labels and tokens do not fit together.

    Example:
        >>> topk_tokens([["The", " cat"]], [np.zeros((12, 2, 3072))], max_k=7)  # doctest: +SKIP
    """
    if is_tokens(tokens):
        raise InterpError("tokens must be a list with one list of texts for each sample; put the texts into a list.")
    arrays = _samples(list(tokens), list(activations), 1, "[layer, token, neuron]")
    layers, _, neurons = arrays[0].shape
    names = _labels("sample_labels", sample_labels, len(arrays))
    labels = _labels("first_dimension_labels", first_dimension_labels, layers)
    samples = [
        _sample(words_of(text), None) | {"name": names[i] if names else "", "extremes": _extremes(arrays[i], max_k)}
        for i, text in enumerate(tokens)
    ]
    arguments: Json = {
        "tokens": [list(text) for text in tokens],
        "activations": arrays,
        "max_k": max_k,
        "first_dimension_name": first_dimension_name,
        "third_dimension_name": third_dimension_name,
        "sample_labels": names or None,
        "first_dimension_labels": labels or None,
    }
    axes = [_axis(first_dimension_name, layers, labels), _axis(third_dimension_name, neurons)]
    return _drawn(samples, ("topk_tokens", "topk_tokens"), arguments, axes)


# ---- what is drawn ------------------------------------------------------------------------------------------------------


def _drawn(
    samples: Sequence[Json],
    call: tuple[str, str],
    arguments: Json,
    axes: Sequence[Json] = (),
    *,
    limit: float | None = None,
    guesses: Json | None = None,
) -> Drawing:
    data: Json = {"samples": list(samples), "axes": list(axes), "limit": limit, "guesses": guesses}
    still = Still("colored_tokens", {"panel": "tokens"}, [state_of(1, 0), panel_of("tokens", data)], title="Tokens")
    return Drawing(still, call, arguments)


def _sample(words: Sequence[Token], values: Any) -> Json:
    """A text and its values, `[first, second, token]`."""
    return {"name": "", "tokens": [token_of(t) for t in words], "values": values, "extremes": []}


def _axis(name: str, size: int, labels: Sequence[str] = ()) -> Json:
    return {"name": name, "size": size, "labels": list(labels)}


def _extremes(values: Array, most: int) -> list[Json]:
    """Of `[first, token, second]` the largest and the smallest along the tokens, which and how much, `[first, rank, second]`."""
    k = max(1, min(int(most), values.shape[1]))
    order = np.argsort(values, axis=1, kind="stable")
    picks = [order[:, ::-1][:, :k], order[:, :k]]
    return [{"tokens": p.astype(np.int32), "values": np.take_along_axis(values, p, 1)} for p in picks]


# ---- what is given ------------------------------------------------------------------------------------------------------


def _samples(texts: Sequence[Any], given: Sequence[Any], axis: int, shape: str) -> list[Array]:
    """One array for each text, with as many places along `axis` as it has tokens."""
    if not texts or len(texts) != len(given):
        raise InterpError(f"There are {len(texts)} texts and {len(given)} arrays of activations; pass one for each.")
    arrays = [array_of(one) for one in given]
    for text, one in zip(texts, arrays, strict=True):
        words, have = words_of(text), " x ".join(map(str, one.shape))
        if one.ndim != 3 or one.shape[axis] != len(words):
            raise InterpError(f"The activations are {have}, but there are {len(words)} tokens; they must be {shape}.")
        if [n for i, n in enumerate(one.shape) if i != axis] != [n for i, n in enumerate(arrays[0].shape) if i != axis]:
            raise InterpError(
                f"The activations of the texts differ in shape; each must be {shape} with the same sizes."
            )
    return arrays


def _labels(what: str, labels: Sequence[Any] | None, size: int) -> list[str]:
    if labels is None:
        return []
    if len(labels) != size:
        raise InterpError(f"There are {size} places and {len(labels)} {what}; pass one for each.")
    return [str(label) for label in labels]


def _predictions(tokens: Any, table: Any) -> tuple[Any, Any]:
    """Token ids `[pos]`, and what was predicted after each but the last, `[pos - 1, vocab]` float64."""
    ids, values = array_of(tokens), array_of(table, infinite=True).astype(np.float64)
    ids = ids[0] if ids.ndim == 2 and len(ids) == 1 else ids
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if ids.ndim != 1 or values.ndim != 2 or len(ids) != len(values) or not len(ids):
        have = " x ".join(map(str, values.shape))
        raise InterpError(f"The predictions are {have}, but there are {ids.size} tokens; they must be [token, vocab].")
    whole = ids.astype(np.int64)
    if not ((whole >= 0) & (whole < values.shape[1])).all():
        raise InterpError(
            f"A token's id lies outside the {values.shape[1]} that are predicted; pass ids from the same model."
        )
    return whole, values[:-1]


def _logsumexp(table: Any) -> Any:
    top = table.max(-1, keepdims=True)
    return top + np.log(np.exp(table - top).sum(-1, keepdims=True))


def _tensor(values: Any) -> Any:
    """CircuitsVis asks some of its arguments for a tensor's methods."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(values))
