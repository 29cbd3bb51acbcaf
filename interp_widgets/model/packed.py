"""Rows that differ from a position on, packed behind the base row into one sequence.

A row that is patched at position p is the base row before p, so only its tokens from p on are computed: they stand one row
after the other behind the base row, with their own positions, and a mask lets each see the base before p and itself from p
on. The user's own blocks run on that sequence. It is used where a check on attach found it equal to whole rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.utils import _pytree as pytree

from interp_widgets.model.gate import Args, Kwargs, activate
from interp_widgets.model.places import put_hidden
from interp_widgets.model.replay import Call, Trace, finish
from interp_widgets.model.rows import Base, Cancelled, same_model
from interp_widgets.model.run import force_eager, modes

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

MASK = "attention_mask"


@dataclass(frozen=True)
class Suffix:
    """Rows born at the input of block `layer`: row i is the base row with `streams[i]` from position `starts[i]` on.

    A stream is one position's `[d_model]`, or that of several in a row, `[pos, d_model]`.
    """

    layer: int
    starts: tuple[int, ...]
    streams: torch.Tensor | Sequence[torch.Tensor]


def packs(live: LiveModel, base: Base) -> bool:
    """Whether rows may be packed: verified on this model, and nothing is on that goes by position."""
    return not {"packed rows", "replay", "growing batch"} & live.report.off.keys() and not base.steps


def length_dims(long: Trace, short: Trace) -> dict[str, tuple[int, ...]]:
    """Which dimensions of each recorded tensor go along the prompt: those that are shorter in a shorter prompt.

    Paths are those of `(args, kwargs)` of any block, as in `replay.batch_dims`.
    """
    n, m = long.calls[0].hidden.shape[1], short.calls[0].hidden.shape[1]
    found: dict[str, tuple[int, ...]] = {}
    for a, b in zip(long.calls, short.calls, strict=True):
        other = {pytree.keystr(path): leaf for path, leaf in pytree.tree_flatten_with_path((b.args, b.kwargs))[0]}
        for path, leaf in pytree.tree_flatten_with_path((a.args, a.kwargs))[0]:
            label = pytree.keystr(path)
            twin = other.get(label)
            if isinstance(leaf, torch.Tensor) and isinstance(twin, torch.Tensor) and leaf.dim() == twin.dim():
                dims = tuple(i for i in range(leaf.dim()) if (leaf.shape[i], twin.shape[i]) == (n, m))
                if dims:
                    found[label] = dims
    return found


@dataclass
class _Pack:
    """The tokens behind the base row: which row each is of, and at which position it stands."""

    length: int
    rows: torch.Tensor
    places: torch.Tensor
    starts: torch.Tensor

    @classmethod
    def of(cls, starts: Sequence[int], length: int, last: int) -> _Pack:
        rows = [torch.full((last + 1 - p,), i, device="cpu") for i, p in enumerate(starts)]
        places = [torch.arange(p, last + 1, device="cpu") for p in starts]
        return cls(length, torch.cat(rows), torch.cat(places), torch.tensor(list(starts), device="cpu"))

    @property
    def index(self) -> torch.Tensor:
        """The prompt's position of every token of the sequence."""
        return torch.cat([torch.arange(self.length, device="cpu"), self.places])

    def allowed(self) -> torch.Tensor:
        """Who may see whom, `[dest, src]`."""
        index = self.index
        row = torch.cat([torch.full((self.length,), -1, device="cpu"), self.rows])
        start = torch.cat([torch.full((self.length,), self.length, device="cpu"), self.starts[self.rows]])
        back = index[None] <= index[:, None]
        base = (row[None] == -1) & (index[None] < start[:, None])
        return back & (base | (row[None] == row[:, None]))


def run_packed(
    live: LiveModel, base: Base, suffixes: Sequence[Suffix], cancelled: Cancelled | None = None
) -> torch.Tensor:
    """The unembedding's input `[row, d_model]` of every row of `suffixes` (sorted by layer), at the read position.

    Raises:
        ModelChangedError: when the model is no longer the one that `base` was recorded with.
        CancelledError: between two blocks.
    """
    with live.lock:
        live.ready()
        same_model(live, base)
        with modes(live.device), force_eager(live.anatomy.root), activate(live.program(cancelled)):
            return walk(live, base, suffixes)


def walk(live: LiveModel, base: Base, suffixes: Sequence[Suffix]) -> torch.Tensor:
    """`run_packed` without its checks and modes."""
    n, last = len(live.anatomy.layers), base.asked.position
    starts: list[int] = []
    carried: list[torch.Tensor] = []
    pack: _Pack | None = None
    masks: dict[int, Any] = {}
    for layer in live.anatomy.layers[suffixes[0].layer : n]:
        call = base.trace.calls[layer.index]
        own = call.hidden[0]
        for suffix in suffixes:
            if suffix.layer == layer.index:
                starts += suffix.starts
                for p, stream in zip(suffix.starts, suffix.streams, strict=True):
                    new = (stream[None] if stream.dim() == 1 else stream).to(own.device, own.dtype)
                    carried.append(torch.cat([new, own[p + len(new) : last + 1]]))
                pack, masks = None, {}
        if pack is None:
            pack = _Pack.of(starts, own.shape[0], last)
        args, kwargs = arguments(live, layer.module, call, torch.cat([own, *carried])[None], pack, masks)
        out = layer.module(*args, **kwargs)
        carried = [(out if layer.output is None else out[layer.output])[0, own.shape[0] :]]
    assert pack is not None
    at = (pack.places == last).nonzero().flatten().to(carried[0].device)
    return finish(live.anatomy, carried[0][at][None])[0]


def arguments(
    live: LiveModel, module: nn.Module, call: Call, hidden: torch.Tensor, pack: _Pack, made: dict[int, Any]
) -> tuple[Args, Kwargs]:
    """A recorded call on a packed sequence: what goes along the prompt is taken at the packed positions."""
    if 0 not in made:
        made[0] = pack.allowed()
    allowed = made[0]
    index = pack.index
    masked = False
    leaves, spec = pytree.tree_flatten_with_path((call.args, call.kwargs))
    out: list[Any] = []
    for path, leaf in leaves:
        dims = (
            live.spans.get(pytree.keystr(path)) if isinstance(leaf, torch.Tensor) and leaf is not call.hidden else None
        )
        if dims is None:
            out.append(leaf)
            continue
        if id(leaf) not in made:
            made[id(leaf)] = _taken(leaf, dims, index, allowed)
        masked = masked or len(dims) == 2
        out.append(made[id(leaf)])
    args, kwargs = cast("tuple[Args, Kwargs]", pytree.tree_unflatten(out, spec))
    args, kwargs = put_hidden(args, kwargs, call.where, hidden)
    if not masked:
        if 1 not in made:
            zero = torch.zeros((), dtype=hidden.dtype, device=hidden.device)
            made[1] = torch.where(allowed.to(hidden.device), zero, torch.finfo(hidden.dtype).min)[None, None]
        return _with_mask(module, args, kwargs, made[1])
    return args, kwargs


def _with_mask(module: nn.Module, args: Args, kwargs: Kwargs, mask: torch.Tensor) -> tuple[Args, Kwargs]:
    """The call with `mask`, by position where the block is called so."""
    names = list(inspect.signature(module.forward).parameters)
    at = names.index(MASK) if MASK in names else len(args)
    if at < len(args):
        return (*args[:at], mask, *args[at + 1 :]), kwargs
    return args, {**kwargs, MASK: mask}


def _taken(leaf: torch.Tensor, dims: tuple[int, ...], index: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    for dim in dims:
        leaf = leaf.index_select(dim, index.to(leaf.device))
    if len(dims) < 2:
        return leaf
    seen = allowed.to(leaf.device).view(*[1] * (leaf.dim() - 2), *allowed.shape)
    if leaf.dtype == torch.bool:
        return leaf & seen
    return torch.where(seen, leaf, torch.finfo(leaf.dtype).min)
