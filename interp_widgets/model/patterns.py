"""Attention patterns, read and written without touching the model's configuration.

The attention registry's entry in use is replaced once by a wrapper that calls the original and is inert outside our
runs. It computes softmax(q·k) from the q and k that it is *handed* (rotated, normed), so no family needs its own code.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import torch

from interp_widgets.model.gate import Tap, active

AttentionFn = Callable[..., tuple[torch.Tensor, Any]]
_LOCK = threading.Lock()
_USES: dict[str, int] = {}


def _after_fork() -> None:
    # The thread that held the lock is not in the child, and would never release it there.
    global _LOCK  # noqa: PLW0603
    _LOCK = threading.Lock()  # pyright: ignore[reportConstantRedefinition]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _registry() -> Any:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS._global_mapping


def wraps(implementation: str) -> bool:
    """Whether this implementation goes through the registry, so that it can be wrapped."""
    return implementation in _registry()


def install(implementation: str) -> None:
    """Wrap the entry; the first of several models does it, the others only count."""
    with _LOCK:
        _USES[implementation] = _USES.get(implementation, 0) + 1
        registry = _registry()
        if not isinstance(registry[implementation], GatedAttention):
            registry[implementation] = GatedAttention(registry[implementation])


def remove(implementation: str) -> None:
    """Give the entry back when its last model closes."""
    with _LOCK:
        _USES[implementation] = _USES.get(implementation, 0) - 1
        registry = _registry()
        entry = registry.get(implementation)
        if _USES[implementation] <= 0:
            _USES.pop(implementation)
            if isinstance(entry, GatedAttention):
                registry[implementation] = entry.original


class GatedAttention:
    """An attention function that calls the original, and lets the active run see and edit its pattern."""

    def __init__(self, original: AttentionFn) -> None:
        self.original = original
        self.__name__ = getattr(original, "__name__", "attention")
        self.__wrapped__ = original

    def __reduce__(self) -> tuple[Callable[[AttentionFn], GatedAttention], tuple[AttentionFn]]:
        return GatedAttention, (self.original,)

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, Any]:
        """Attention as the original computes it; under a run of ours that watches `module`, seen and perhaps edited."""
        program = None if torch.compiler.is_compiling() else active()
        instead = None if program is None else program.instead.get(module)
        if instead is not None:
            return instead(self.original, module, query, key, value, attention_mask, args, kwargs)
        out = self.original(module, query, key, value, attention_mask, *args, **kwargs)
        taps = None if program is None else program.attention.get(module)
        if not taps:
            return out
        pattern = pattern_of(module, query, key, attention_mask, args, kwargs)
        return see(taps, query, key, value, pattern, out)


def see(
    taps: list[Tap],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pattern: torch.Tensor,
    out: tuple[torch.Tensor, Any],
) -> tuple[torch.Tensor, Any]:
    """Show the pattern to every tap; rows that a tap changed get their output computed anew, all others keep theirs bit for bit."""
    edited = pattern
    for tap in taps:
        new = tap.see(query, key, value, edited)
        edited = edited if new is None else new
    if edited is pattern:
        return out
    changed = (edited != pattern).any(-1)
    heads = changed.any(-1).any(0).nonzero().flatten()
    values = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)[:, heads]
    z = torch.matmul(edited[:, heads].to(value.dtype), values)
    result = out[0].clone()
    rows = changed[:, heads].transpose(1, 2)[..., None]
    result[:, :, heads] = torch.where(rows, z.transpose(1, 2).to(result.dtype), result[:, :, heads])
    return result, out[1]


def pattern_of(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    args: Any,
    kwargs: dict[str, Any],
) -> torch.Tensor:
    """softmax(q·k·scale + mask), float32, `[row, head, dest, src]`."""
    scale = (
        kwargs.get("scaling")
        or (args[1] if len(args) > 1 and isinstance(args[1], float) else None)
        or query.shape[-1] ** -0.5
    )
    keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = torch.matmul(query.float(), keys.float().transpose(-1, -2)) * scale
    if kwargs.get("softcap") is not None:
        scores = kwargs["softcap"] * torch.tanh(scores / kwargs["softcap"])
    if kwargs.get("position_bias") is not None:
        scores = scores + kwargs["position_bias"].float()
    dest, src = scores.shape[-2:]
    if mask is not None and mask.dim() == 4:
        mask = mask[..., -dest:, :src] if mask.shape[-2] != 1 else mask[..., :src]
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask.float()
    elif dest > 1 and kwargs.get("is_causal", getattr(module, "is_causal", True)) is not False:
        i, j = (
            torch.arange(src - dest, src, device=scores.device)[:, None],
            torch.arange(src, device=scores.device)[None],
        )
        allowed = j <= i
        if kwargs.get("sliding_window"):
            allowed = allowed & (j > i - kwargs["sliding_window"])
        scores = scores.masked_fill(~allowed, float("-inf"))
    sinks = kwargs.get("s_aux")
    if sinks is not None:
        column = sinks.float().view(1, -1, 1, 1).expand(scores.shape[0], -1, dest, 1)
        return torch.softmax(torch.cat([scores, column], -1), -1)[..., :-1].nan_to_num(0.0)
    return torch.softmax(scores, dim=-1).nan_to_num(0.0)
