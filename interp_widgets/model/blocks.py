"""The blocks of a decoder in a recorded forward, and what inside a block is a projection or a norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from interp_widgets.model.errors import ModelRefusedError
from interp_widgets.model.probe import Call, Recording
from interp_widgets.model.residual import same

__all__ = ["Block", "find_blocks", "is_projection", "projections"]


@dataclass
class Block:
    """One block: `calls` ran inside it, `start` and `out` are the stream around it, `[batch, pos, d_model]`."""

    call: Call
    calls: list[Call]
    start: Tensor
    out: Tensor

    def value(self, call: Call) -> Tensor | None:
        """What a call gave, in the stream's shape (also when it flattens batch and position), or None."""
        return self._shaped(call.gave)

    def given(self, call: Call) -> Tensor | None:
        """What a call was given, in the stream's shape, or None."""
        return self._shaped(call.given)

    def _shaped(self, value: Tensor | None) -> Tensor | None:
        if value is None or value.shape[-1] != self.out.shape[-1] or value.numel() != self.out.numel():
            return None
        return value.reshape(self.out.shape)

    def candidates(self) -> list[Call]:
        """Calls whose output is as wide as the stream, each value once, by the end of the call.

        Of several calls with one value the last is taken: what is really added. A module that is called several times (one
        dropout for attention and MLP) is no place of its own and left out.
        """
        found = sorted((c for c in self.calls if c.times == 1 and self.value(c) is not None), key=lambda c: c.end)
        values = [self.value(c) for c in found]
        silent = [
            v is None or not bool(v.any()) for v in values
        ]  # what is zero everywhere is told apart by its place only
        again = [any(same(v, later) for later in values[i + 1 :]) for i, v in enumerate(values)]
        return [c for c, seen, zero in zip(found, again, silent, strict=True) if zero or not seen]

    def norms(self) -> list[Call]:
        """Norms as wide as the stream, in the order of their calls."""
        return [
            c
            for c in self.calls
            if c.times == 1 and is_norm(c.module) and self.value(c) is not None and self.given(c) is not None
        ]


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a layer norm of any kind: by its name, since its gain may be anything."""
    return "norm" in type(module).__name__.lower() and not any(is_projection(m) for m in module.modules())


def is_projection(module: nn.Module) -> bool:
    """Whether a module maps features to features by a matrix: Linear, Conv1D, LoRA, int8 and their like."""
    if isinstance(module, (nn.Embedding, nn.Conv1d, nn.Conv2d)):
        return False
    if isinstance(getattr(module, "in_features", None), int) and isinstance(getattr(module, "out_features", None), int):
        return True
    weight: Any = getattr(module, "weight", None)
    weight = weight() if callable(weight) and not isinstance(weight, Tensor) else weight
    return isinstance(weight, Tensor) and weight.dim() == 2 and not any(True for _ in module.children())


def projections(calls: list[Call]) -> list[Call]:
    """The projections among `calls`, without the parts of a wrapped one, by the end of the call."""
    found = [c for c in calls if is_projection(c.module)]
    outer = [c for c in found if not any(c.inside(o) for o in found)]
    return sorted(outer, key=lambda c: c.end)


def find_blocks(recording: Recording) -> list[Block]:
    """The list of modules in which most of the forward happens, each called once, in order, on the residual stream.

    Raises:
        ModelRefusedError: there is none, or the model carries several streams, or calls its blocks in a loop.
    """
    by_module: dict[int, list[Call]] = {}
    for call in recording.calls:
        by_module.setdefault(id(call.module), []).append(call)
    root = recording.calls[0].module
    chains = [_chain(modules, by_module) for module in root.modules() for modules in _lists(module)]
    chain = max(chains, key=lambda calls: sum(c.end - c.start for c in calls), default=[])
    _refuse(type(root).__name__, chain, recording)
    return [
        Block(call, [c for c in recording.calls if c.inside(call)], call.given, call.gave)
        for call in chain
        if call.given is not None and call.gave is not None
    ]


def _lists(module: nn.Module) -> list[list[nn.Module]]:
    """The children of a list, or those of any other module that are of one class."""
    children = list(module.children())
    if isinstance(module, (nn.ModuleList, nn.Sequential, nn.ModuleDict)):
        return [children]
    kinds = dict.fromkeys(type(child) for child in children)
    alike = [[child for child in children if type(child) is kind] for kind in kinds]
    return [modules for modules in alike if len(modules) > 1]


def _chain(modules: Sequence[nn.Module], by_module: dict[int, list[Call]]) -> list[Call]:
    """The calls of a list's modules that pass something of one shape on."""
    calls = [c for m in modules for c in by_module.get(id(getattr(m, "_orig_mod", m)), [])]
    calls.sort(key=lambda c: c.start)
    shapes = {tuple(c.gave.shape) if c.gave is not None else () for c in calls}
    kept = all(c.given is not None and c.gave is not None and c.given.shape == c.gave.shape for c in calls)
    ordered = all(a.end < b.start for a, b in pairwise(calls))
    return calls if kept and ordered and len(shapes) == 1 else []


def _refuse(name: str, chain: list[Call], recording: Recording) -> None:
    gave = chain[0].gave if chain else None
    if gave is None:
        raise ModelRefusedError(
            f"{name} has no list of blocks that pass a residual stream [batch, position, width] on."
        )
    if gave.shape[:-1] != recording.ids.shape:
        raise ModelRefusedError(
            f"{name} passes {list(gave.shape)} from block to block where one residual stream would be [batch, position, width]: "
            "models with several streams are not supported."
        )
    if len({id(c.module) for c in chain}) < len(chain):
        raise ModelRefusedError(
            f"{name} calls the same block several times in one forward ({chain[0].name} and on), so a layer is not one place."
        )
