"""Pattern and values of an attention that a model computes itself, outside the registry: seen where they are multiplied.

A function mode that is entered for one run of ours, in its thread alone: nothing of the model or of torch is replaced, and no
family needs its own code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from interp_widgets.model.gate import active
from interp_widgets.model.patterns import pattern_of

Pattern = Callable[[], torch.Tensor]
Look = Callable[[Pattern, torch.Tensor], None]

_SOFTMAX = (torch.softmax, torch.Tensor.softmax, nn.functional.softmax)
_PRODUCT = (torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.bmm, torch.Tensor.__matmul__)
# What leaves a pattern a pattern: another type or shape, dropout of a model that is not trained, a sink that is cut off.
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
    """Shows the first product of a softmax with something else inside an attention module, module by module.

    Example:
        >>> native = NativeAttention()
        >>> native.add(attention, lambda pattern, values: print(pattern().shape, values.shape))  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__()
        self._looks: dict[nn.Module, list[Look]] = {}
        self._now: list[Look] = []
        self._patterns: list[torch.Tensor] = []

    def add(self, attention: nn.Module, look: Look) -> None:
        """Show the pattern `[..., dest, src]`, which is a call, and the values `[..., src, d_head]` of a module to `look`."""
        self._looks.setdefault(attention, []).append(look)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The attention modules that are watched."""
        return tuple(self._looks)

    def enter(self, attention: nn.Module) -> None:
        """What runs now belongs to this attention module."""
        self._now, self._patterns = self._looks[attention], []

    def leave(self) -> None:
        """The attention module has given its output."""
        self._now, self._patterns = [], []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func` as it is, and look at it."""
        out = func(*args, **(kwargs or {}))
        if self._now and active() is not None:
            self._see(func, out, args, kwargs or {})
        return out

    def _see(self, func: Callable[..., Any], out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if func in _SOFTMAX and out.dim() >= 3:
            self._patterns = [out]
        elif func is nn.functional.scaled_dot_product_attention:
            self._fused(*args, **kwargs)
        elif args and any(args[0] is one for one in self._patterns):
            if func in _PRODUCT:
                self._show(lambda: args[0], args[1])
            elif getattr(func, "__name__", "") in _SAME:
                self._patterns.append(out)

    def _show(self, pattern: Pattern, values: torch.Tensor) -> None:
        looks = self._now
        self.leave()
        for look in looks:
            look(pattern, values.detach())

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
        self._show(lambda: pattern_of(nn.Identity(), query, key, attn_mask, (), handed), value)
