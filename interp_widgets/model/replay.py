"""Replay: the plain run records what each block was called with; an edit at layer l calls the blocks from l on again.

The user's own modules are called, with the arguments recorded, so the user's hooks fire and no `forward` is ever replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.utils import _pytree as pytree

from interp_widgets.model.anatomy import Anatomy
from interp_widgets.model.gate import Args, Kwargs, Program
from interp_widgets.model.places import hidden_of, put_hidden


@dataclass
class Call:
    """One block's recorded call."""

    args: Args
    kwargs: Kwargs
    where: int | str

    @property
    def hidden(self) -> torch.Tensor:
        """The stream that the block was called with, `[row, pos, d_model]`."""
        return self.args[self.where] if isinstance(self.where, int) else self.kwargs[self.where]

    def arguments(self, hidden: torch.Tensor, dims: dict[str, int], rows: int) -> tuple[Args, Kwargs]:
        """The same call on another stream, tensors that carry the batch repeated to `rows`."""
        args, kwargs = put_hidden(self.args, self.kwargs, self.where, hidden)
        if rows == self.hidden.shape[0]:
            return args, kwargs
        return cast("tuple[Args, Kwargs]", grow((args, kwargs), hidden, dims, rows))


@dataclass
class Trace:
    """A recorded plain run.

    Attributes:
        calls: one per block.
        hidden: what the unembedding was called with, `[row, kept, d_model]`.
        kept: the positions of `hidden`.
        logits: the metric row, float32 `[row, vocab]` at the read position, None until read.
    """

    calls: list[Call]
    last: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    kept: tuple[int, ...] = ()
    logits: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Memory held, counting each storage once."""
        seen: dict[int, int] = {}
        for leaf in pytree.tree_leaves(
            [(c.args, c.kwargs) for c in self.calls] + [self.hidden, self.logits, self.last]
        ):
            if isinstance(leaf, torch.Tensor):
                seen[leaf.untyped_storage().data_ptr()] = leaf.untyped_storage().nbytes()
        return sum(seen.values())


def record(program: Program, anatomy: Anatomy) -> Trace:
    """Let `program` record every block's call into a new trace."""
    trace = Trace([])

    def recorder(args: Args, kwargs: Kwargs) -> None:
        hidden, where = hidden_of(args, kwargs)
        # A copy: a user's hook that writes in place comes after this one, and would write into what is kept.
        args, kwargs = put_hidden(args, dict(kwargs), where, hidden.clone())
        trace.calls.append(Call(args, kwargs, where))

    def tail(args: Args, kwargs: Kwargs) -> None:
        trace.last = hidden_of(args, kwargs)[0].clone()

    for layer in anatomy.layers:
        program.on_before(layer.module, recorder)
    if anatomy.final_norm is not None:
        program.on_before(anatomy.final_norm, tail)
    return trace


def stream_out(output: Any) -> torch.Tensor:
    """The stream in a block's output."""
    return output if isinstance(output, torch.Tensor) else output[0]


def run_layers(
    anatomy: Anatomy, trace: Trace, hidden: torch.Tensor, start: int, stop: int, dims: dict[str, int]
) -> torch.Tensor:
    """Call blocks `start` to `stop` − 1 on `hidden [row, pos, d_model]` with their recorded arguments.

    Must run under `activate(program)` and `modes(...)`; `dims` says which recorded tensors carry the batch.
    """
    hidden = hidden.clone()  # what is kept must outlive a hook, or a block, that writes in place
    for layer in anatomy.layers[start:stop]:
        # rows that are views of one row are made real: a block may reshape its input in place (openai-gpt)
        args, kwargs = trace.calls[layer.index].arguments(hidden.contiguous(), dims, hidden.shape[0])
        out = layer.module(*args, **kwargs)
        hidden = out if layer.output is None else out[layer.output]
    return hidden


def finish(anatomy: Anatomy, hidden: torch.Tensor) -> torch.Tensor:
    """From the last stream to the unembedding's input."""
    if anatomy.final_norm is not None:
        hidden = stream_out(anatomy.final_norm(hidden))
    for module in anatomy.between:
        hidden = stream_out(module(hidden))
    return hidden if anatomy.hidden_scale == 1.0 else anatomy.hidden_scale * hidden


def _label(path: Any) -> str:
    return pytree.keystr(path)


def batch_dims(one: Trace, two: Trace) -> dict[str, int]:
    """Which dimension of each recorded tensor carries the batch: the one that is twice as long with two rows.

    Paths are those of `(args, kwargs)` of any block; a tensor that does not grow is shared by all rows.
    """
    dims: dict[str, int] = {}
    for a, b in zip(one.calls, two.calls, strict=True):
        leaves_a, _ = pytree.tree_flatten_with_path((a.args, a.kwargs))
        leaves_b, _ = pytree.tree_flatten_with_path((b.args, b.kwargs))
        other = {_label(path): leaf for path, leaf in leaves_b}
        for path, leaf in leaves_a:
            twin = other.get(_label(path))
            if not isinstance(leaf, torch.Tensor) or not isinstance(twin, torch.Tensor) or leaf.dim() != twin.dim():
                continue
            grown = [i for i in range(leaf.dim()) if twin.shape[i] == 2 * leaf.shape[i] and leaf.shape[i] > 0]
            if grown:
                dims[_label(path)] = grown[0]
    return dims


def grow(call: tuple[Args, Kwargs], hidden: torch.Tensor, dims: dict[str, int], rows: int) -> Any:
    """Repeat every batch-carrying tensor of a one-row call to `rows`, the stream itself left alone."""
    leaves, spec = pytree.tree_flatten_with_path(call)
    out: list[Any] = []
    for path, leaf in leaves:
        dim = dims.get(_label(path)) if isinstance(leaf, torch.Tensor) and leaf is not hidden else None
        out.append(leaf if dim is None else repeat_rows(leaf, dim, rows))
    return pytree.tree_unflatten(out, spec)


def repeat_rows(x: torch.Tensor, dim: int, rows: int) -> torch.Tensor:
    """`x` for one row, for `rows` rows: a view where the dimension is 1, else repeated blockwise (batch × heads)."""
    if x.shape[dim] == 1:
        return x.expand(*x.shape[:dim], rows, *x.shape[dim + 1 :])
    return torch.cat([x] * rows, dim=dim)
