"""The values of attention that a model computes itself, outside the registry: seen where they are multiplied with the pattern.

A function mode that is entered for one run of ours, in its thread alone: nothing of the model or of torch is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from interp_widgets.model.gate import active
from interp_widgets.model.parts import Attention

Look = Callable[[torch.Tensor], None]
_PRODUCTS = ("matmul", "__matmul__", "bmm")


class OwnValues(TorchFunctionMode):
    """Shows what stands right of the first product after a softmax over positions, layer by layer.

    Example:
        >>> own = OwnValues()
        >>> own.add(attention, 1, lambda values: print(values.shape))  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__()
        self._looks: dict[nn.Module, list[Look]] = {}
        self._now: list[Look] = []
        self._pattern: torch.Size | None = None

    def add(self, attention: Attention, rows: int, look: Look) -> None:
        """Show the values of an attention module, `[row, kv_head, pos, d_head]`, to `look`."""

        def take(values: torch.Tensor) -> None:
            each = values.reshape(rows, -1, *values.shape[-2:])
            look(each[:, :: max(1, each.shape[1] // attention.n_kv_heads)])  # heads of a group have the same

        self._looks.setdefault(attention.module, []).append(take)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The attention modules that are watched."""
        return tuple(self._looks)

    def enter(self, module: nn.Module) -> None:
        """The block of this attention module begins."""
        self._now, self._pattern = self._looks[module], None

    def leave(self) -> None:
        """The attention module has given its output."""
        self._now, self._pattern = [], None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func` as it is, and look at it."""
        out = func(*args, **(kwargs or {}))
        if self._now and active() is not None:
            self._see(getattr(func, "__name__", ""), out, args, kwargs or {})
        return out

    def _see(self, name: str, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name == "scaled_dot_product_attention":
            self._show(args[2] if len(args) > 2 else kwargs["value"])
        elif name in ("softmax", "_softmax") and isinstance(out, torch.Tensor) and out.dim() >= 3:
            self._pattern = out.shape
        elif name in _PRODUCTS and self._pattern is not None:
            left, right = args[:2]
            square = left.shape[-2] == self._pattern[-2] and left.shape[-1] <= self._pattern[-1]  # a sink is cut off
            if square and left.shape[:-1].numel() == self._pattern[:-1].numel():
                self._show(right)

    def _show(self, values: torch.Tensor) -> None:
        looks = self._now
        self.leave()
        for look in looks:
            look(values.detach())
