"""From the last stream to the logits: final norm, unembedding, scale and soft cap, found in a recorded forward."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp_widgets.model.blocks import Block, is_norm, is_projection, projections
from interp_widgets.model.errors import ModelRefusedError
from interp_widgets.model.probe import Call, Recording
from interp_widgets.model.residual import factor, same, wide


@dataclass(frozen=True)
class Head:
    """`logits = cap(scale * unembed(hidden_scale * norm(stream)))`, off by `error`.

    `between` are modules behind the norm; `gap` says what else lies between; `reached` whether a norm (or nothing) and the
    unembedding are all there is.
    """

    unembed: nn.Module
    norm: nn.Module | None
    hidden_scale: float
    scale: float
    cap: float | None
    error: float
    gap: str | None
    reached: bool = True
    between: tuple[nn.Module, ...] = ()


def find_head(
    root: nn.Module, recording: Recording, blocks: Sequence[Block], known: Sequence[float], caps: Sequence[float]
) -> Head:
    """The innermost unembedding that the last stream reaches through at most one module.

    Raises:
        ModelRefusedError: nothing maps hidden states to the vocabulary.
    """
    inner = _unembed_call(root, recording, blocks)
    last = blocks[-1]
    holders = [c for c in recording.calls if (c is inner or inner.inside(c)) and c.start > last.call.end]
    for call in reversed(holders):
        way = _way(recording, last, call)
        scale, cap, error = _scale_and_cap(recording, call, known, caps)
        if way is not None and error < 1e-2:
            norm, hidden_scale = way
            normed = norm is None or is_norm(norm)
            linear = is_projection(call.module) and normed
            gap = (
                None
                if linear
                else f"{type(norm or call.module).__name__} before the logits is more than a norm and a matrix"
            )
            # more than a norm may be given the read positions only, so the stream is not read at its input
            behind = () if normed or norm is None else (norm,)
            return Head(call.module, norm if normed else None, hidden_scale, scale, cap, error, gap, between=behind)
    scale, cap, error = _scale_and_cap(recording, inner, known, caps)
    between = [c for c in recording.calls if last.call.end < c.start and c.end < inner.start and c.gave is not None]
    chain, hidden_scale = _chain(recording, last, inner)
    once = bool(chain) and chain[0].times == 1  # a module that is called elsewhere too is no place of its own
    norm = chain[0].module if once else None
    behind = tuple(c.module for c in chain[once:])
    gap = f"{type(between[-1].module).__name__ if between else type(root).__name__} changes the stream before the unembedding"
    return Head(inner.module, norm, hidden_scale, scale, cap, error, gap, reached=False, between=behind)


def _chain(recording: Recording, last: Block, unembed: Call) -> tuple[list[Call], float]:
    """The modules that the last stream goes through one after the other before the unembedding, and the factor behind them."""
    chain: list[Call] = []
    value, clock = last.out, last.call.end
    for call in recording.calls:
        if call.start > clock and call.end < unembed.start and same(call.given, value) and call.gave is not None:
            chain.append(call)
            value, clock = call.gave, call.end
    scale = None if unembed.given is None else _factor(unembed.given, value)
    return chain, 1.0 if scale is None else scale


def _unembed_call(root: nn.Module, recording: Recording, blocks: Sequence[Block]) -> Call:
    """The call of the unembedding: the model's own word, else the last projection to the vocabulary."""
    getter = getattr(root, "get_output_embeddings", None)
    # Transformers' own base class raises where a family has not said it; the structure tells then.
    with contextlib.suppress(NotImplementedError, AttributeError):
        said: Any = getter() if callable(getter) else None
        for call in reversed(recording.calls):
            if said is not None and call.module is said:
                return call
    after = [c for c in recording.calls if c.start > blocks[-1].call.end]
    width = recording.logits.shape[-1]
    for call in reversed(projections(after)):
        if call.gave is not None and call.gave.shape[-1] >= width:
            return call
    raise ModelRefusedError(
        f"{type(root).__name__} has no unembedding (lm_head) that is called on the last hidden state."
    )


def _way(recording: Recording, last: Block, unembed: Call) -> tuple[nn.Module | None, float] | None:
    """The module between the last stream and an unembedding (or None) and the factor behind it."""
    if unembed.given is None:
        return None
    between = [c for c in recording.calls if c.times == 1 and last.call.end < c.start and c.end < unembed.start]
    ways = [
        (call.module, scale)
        for call in between
        if call.gave is not None
        and same(call.given, last.out)
        and (scale := _factor(unembed.given, call.gave)) is not None
    ]
    # A norm comes first: on streams of one length it does no more than a factor would.
    norm = next((way for way in ways if is_norm(way[0])), None)
    plain = _factor(unembed.given, last.out)
    return norm or ((None, plain) if plain is not None else next(iter(ways), None))


def _factor(a: Tensor, b: Tensor) -> float | None:
    return factor(a, b) if a.numel() == b.numel() and a.shape[-1] == b.shape[-1] else None


def _scale_and_cap(
    recording: Recording, unembed: Call, known: Sequence[float], caps: Sequence[float]
) -> tuple[float, float | None, float]:
    """The scale and the cap from an unembedding's output to the logits, and how far off the two leave them."""
    logits = wide(recording.logits)
    if unembed.gave is None or unembed.gave.dim() != 3 or unembed.gave.shape[-1] < logits.shape[-1]:
        return 1.0, None, float("inf")
    raw = wide(unembed.gave)[..., : logits.shape[-1]]
    fitted = float((raw * logits).sum() / (raw * raw).sum().clamp_min(1e-300))
    # In half precision a cap far above the logits cannot be seen in the numbers: the configuration's word comes first.
    tries: list[tuple[float, float | None]] = [*((1.0, cap) for cap in caps), (1.0, None)]
    tries += [(s, None) for s in known if abs(s / fitted - 1) < 0.02] if fitted else []
    tries += [
        (fitted, None),
        *((s, c) for c in known if c >= 1 for s in (1.0, *known)),
        (1.0, _solved_cap(raw, logits)),
    ]
    tolerance = 8 * max(torch.finfo(recording.logits.dtype).eps, torch.finfo(unembed.gave.dtype).eps)
    best: tuple[float, float | None, float] = (1.0, None, float("inf"))
    for scale, cap in tries:
        shown = scale * raw if cap is None else cap * torch.tanh(scale * raw / cap)
        error = float((shown - logits).norm() / logits.norm().clamp_min(1e-30))
        if error < best[2]:
            best = (scale, cap, error)
        if error <= tolerance:
            break
    return best


def _solved_cap(raw: Tensor, logits: Tensor) -> float | None:
    """The cap of `cap * tanh(raw / cap)` when no number of the configuration fits: bisection on the largest logit."""
    at = int(raw.abs().argmax())
    x, y = float(raw.flatten()[at].abs()), float(logits.flatten()[at].abs())
    if not 0 < y < x:
        return None
    low, high = y, 1e6 * y
    for _ in range(200):
        middle = (low * high) ** 0.5
        shown = middle * float(torch.tanh(torch.tensor(x / middle, dtype=torch.float64, device="cpu")))
        low, high = (middle, high) if shown < y else (low, middle)
    return low
