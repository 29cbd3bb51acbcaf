"""From the last hidden state to logits, in float32, whatever the model's dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from interp_widgets.model.anatomy import Anatomy
from interp_widgets.model.gate import after_hook, before_hook, hooks_of_all

_CHUNK = 1 << 26  # weights converted to float32 at a time


def has_plain_weight(unembed: nn.Module) -> bool:
    """Whether the unembedding is an ordinary matrix that is present (not quantised, not offloaded)."""
    weight = getattr(unembed, "weight", None)
    return (
        isinstance(weight, torch.Tensor)
        and type(weight.data) is torch.Tensor
        and not weight.is_meta
        and weight.dim() == 2
    )


def _observed(module: nn.Module) -> bool:
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return bool(hooks_of_all()) or any(h is not before_hook and h is not after_hook for h in hooks)


def _is_matrix(module: nn.Module) -> bool:
    """Whether calling a module is multiplying with its weight: not an adapter's, or somebody's own, which does more."""
    # An embedding is one too: where weights are tied, they may be used without a module of their own.
    ordinary: tuple[Any, ...] = (nn.Linear.forward, nn.Embedding.forward)
    return type(module).forward in ordinary and "forward" not in module.__dict__


class Readout:
    """Logits of chosen rows.

    A user's hook on the unembedding is part of the plain model, so then the module itself is called; the same where its
    weight is not an ordinary matrix.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy

    @property
    def direct(self) -> bool:
        """Whether logits are computed here rather than by calling the module."""
        unembed = self.anatomy.unembed
        plain = has_plain_weight(unembed) and _is_matrix(unembed)
        return plain and not _observed(unembed) and not hasattr(unembed, "_hf_hook")

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits `[row, vocab]`, float32, of `hidden [row, d_model]` as the unembedding receives it."""
        return self._shown(self._linear(hidden) if self.direct else self._call(hidden))

    def uncapped(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits before the soft cap: linear in `hidden [row, d_model]`, up to a bias."""
        return (self._linear(hidden) if self.direct else self._call(hidden)) * self.anatomy.logit_scale

    def _shown(self, out: torch.Tensor) -> torch.Tensor:
        if self.anatomy.logit_scale != 1.0:
            out = out * self.anatomy.logit_scale
        cap = self.anatomy.softcap
        return cap * torch.tanh(out / cap) if cap else out

    def some(self, hidden: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
        """Logits of a few tokens, float32 `[row, len(ids)]`, at the price of as many columns."""
        if not self.direct:
            return self.logits(hidden)[:, list(ids)]
        weight, bias = self._matrix()
        at = torch.tensor(list(ids), device=weight.device)
        out = hidden.float() @ weight[at].float().t()
        return self._shown(out if bias is None else out + bias[at].float())

    def _call(self, hidden: torch.Tensor) -> torch.Tensor:
        out: Any = self.anatomy.unembed(hidden[:, None])
        return out[:, 0].float()

    def _matrix(self) -> tuple[torch.Tensor, Any]:
        """The unembedding `[vocab, d_model]` and its bias."""
        weight: torch.Tensor = self.anatomy.unembed.weight  # pyright: ignore[reportAssignmentType]
        bias: Any = getattr(self.anatomy.unembed, "bias", None)
        if weight.shape[0] != self.anatomy.vocab and weight.shape[1] == self.anatomy.vocab:
            weight = weight.t()
        return weight, bias

    def _linear(self, hidden: torch.Tensor) -> torch.Tensor:
        weight, bias = self._matrix()
        hidden = hidden.float()
        if weight.dtype == torch.float32:
            out = hidden @ weight.t()
        else:
            step = max(1, _CHUNK // weight.shape[1])
            out = torch.cat(
                [hidden @ weight[i : i + step].float().t() for i in range(0, weight.shape[0], step)], dim=-1
            )
        return out if bias is None else out + bias.float()
