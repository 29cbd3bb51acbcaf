"""The last block at the one position that is read: what it gives at the others is read by nobody.

Its attention still needs keys and values of every position. So the model's own forward runs until the last block's attention
is handed them, and ends there; then the block's own module is called on the read position alone, and its attention gets that
position's query with the keys and values from before. Nothing is computed that the plain forward would not compute, and
autograd goes through both calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils import _pytree as pytree

from interp_widgets.model.gate import Args, Kwargs, Program, activate
from interp_widgets.model.places import hidden_of, put_hidden
from interp_widgets.model.replay import Call, finish
from interp_widgets.model.run import Batch

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel


class _Handed(Exception):  # noqa: N818  (no error: it ends a forward that has come as far as it is needed)
    """The last block's attention has been handed its queries, keys and values."""


@dataclass(frozen=True)
class _Attention:
    """What an attention function was handed."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def at(self, position: int) -> _Attention:
        """The query of one position, and what it may see."""
        seen = slice(0, position + 1)
        mask = self.mask if self.mask is None else self.mask[..., position : position + 1, seen]
        query = self.query[:, :, position : position + 1]
        return _Attention(query, self.key[:, :, seen], self.value[:, :, seen], mask, self.args, self.kwargs)


def may_read_alone(live: LiveModel) -> bool:
    """Whether the last block is of a kind that can be called at one position: softmax attention from the registry, replayable."""
    off = {"replay", "growing batch"} & live.report.off.keys()
    return live.patterns_wrapped and live.anatomy.layers[-1].attention is not None and not off


def read_alone(
    live: LiveModel, program: Program, batch: Batch, position: int, also: Callable[[Program], None]
) -> torch.Tensor:
    """The unembedding's input `[row, d_model]` at `position`, of one forward under `program`.

    Must run under `modes(...)` and inside the lock. What `program` does in the last block and behind it is not done in the
    block's second call; `also` may place there what has to be.

    Raises:
        RuntimeError: where the last block's attention was never handed anything.
    """
    last = live.anatomy.layers[-1]
    assert last.attention is not None
    calls: list[Call] = []
    handed: list[_Attention] = []

    def record(args: Args, kwargs: Kwargs) -> None:
        calls.append(Call(args, kwargs, hidden_of(args, kwargs)[1]))

    def stop(_original: Any, _module: Any, q: Any, k: Any, v: Any, mask: Any, args: Any, kwargs: Any) -> Any:
        handed.append(_Attention(q, k, v, mask, args, kwargs))
        raise _Handed

    program.on_before(last.module, record)
    program.instead[last.attention.module] = stop
    try:
        with activate(program):
            live.caller(batch, [position])
    except _Handed:
        pass
    if not handed:
        raise RuntimeError("the last block's attention does not go through the registry")
    own = handed[0].at(position)

    def attend(original: Any, module: Any, _q: Any, _k: Any, _v: Any, _mask: Any, _args: Any, _kwargs: Any) -> Any:
        return original(module, own.query, own.key, own.value, own.mask, *own.args, **own.kwargs)

    second = live.program(program.cancelled)
    second.instead[last.attention.module] = attend
    also(second)
    args, kwargs = _narrowed(live, calls[0], position)
    with activate(second):
        out = last.module(*args, **kwargs)
        hidden = finish(live.anatomy, out if last.output is None else out[last.output])
    return hidden[:, 0]


def _narrowed(live: LiveModel, call: Call, position: int) -> tuple[Args, Kwargs]:
    """A recorded call at one position: what goes along the prompt is taken there."""
    leaves, spec = pytree.tree_flatten_with_path((call.args, call.kwargs))
    out: list[Any] = []
    for path, leaf in leaves:
        along = isinstance(leaf, torch.Tensor) and leaf is not call.hidden
        out.append(_taken(leaf, live.spans.get(pytree.keystr(path), ()), position) if along else leaf)
    args, kwargs = cast("tuple[Args, Kwargs]", pytree.tree_unflatten(out, spec))
    return put_hidden(args, kwargs, call.where, call.hidden[:, position : position + 1])


def _taken(x: torch.Tensor, dims: tuple[int, ...], position: int) -> torch.Tensor:
    for dim in dims:
        x = x.narrow(dim, position, 1)
    return x
