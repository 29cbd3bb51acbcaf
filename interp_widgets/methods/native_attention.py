"""Pattern and values of an attention that calls softmax itself, seen as they are multiplied: no family needs its own code."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from interp_widgets.model.patterns import pattern_of

_SOFTMAX = (torch.softmax, torch.Tensor.softmax, nn.functional.softmax)
_PRODUCT = (torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.bmm, torch.Tensor.__matmul__)
_SAME = frozenset(
    (
        "dropout",
        "to",
        "type",
        "type_as",
        "float",
        "half",
        "bfloat16",
        "view",
        "reshape",
        "contiguous",
        "flatten",
        "__getitem__",
    )
)


class NativeAttention(TorchFunctionMode):
    """While it is entered, keeps what attention's softmax gave and the values that it was multiplied with, by layer.

    Attributes:
        layer: the layer whose attention is running; None outside all of them.
        seen: pattern `[head, dest, src]` and values `[head or key-value head, src, d_head]` of one row.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer: int | None = None
        self.seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._patterns: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.layer is None:
            return out
        if func in _SOFTMAX and out.dim() >= 3:
            self._patterns = [out]
        elif func is nn.functional.scaled_dot_product_attention:
            self._fused(*args, **(kwargs or {}))
        elif args and any(args[0] is one for one in self._patterns):
            if func in _PRODUCT:
                self._keep(args[0], args[1])
            elif getattr(func, "__name__", "") in _SAME:
                self._patterns.append(out)
        return out

    def _keep(self, pattern: torch.Tensor, value: torch.Tensor) -> None:
        assert self.layer is not None
        self.seen[self.layer] = (
            pattern.detach().reshape(-1, *pattern.shape[-2:]),
            value.detach().reshape(-1, *value.shape[-2:]),
        )

    def _fused(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        *rest: Any,
        **how: Any,
    ) -> None:
        causal = how.get("is_causal", rest[1] if len(rest) > 1 else False)
        handed: dict[str, Any] = {"scaling": how.get("scale"), "is_causal": causal}
        self._keep(pattern_of(nn.Identity(), query, key, attn_mask, (), handed), value)
