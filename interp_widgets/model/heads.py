"""The heads of a block: the softmax over positions, and the projection that takes what the heads give."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from interp_widgets.model.blocks import Block, projections
from interp_widgets.model.probe import Call, Recording, Softmax
from interp_widgets.model.residual import same


@dataclass(frozen=True)
class Heads:
    """An output projection, the softmax before it, and how many heads its input has."""

    output: Call
    softmax: Softmax
    module: nn.Module
    n_heads: int


def find_heads(block: Block, recording: Recording, config: Any) -> Heads | None:
    """The output projection: what takes the softmax's output, else the last projection of that attention module."""
    for softmax in reversed(softmaxes_of(block, recording)):
        region = _region(block, recording, softmax)
        later = [
            c for c in projections(region) if c.times == 1 and c.start > softmax.tick and _head_count(c, softmax, block)
        ]
        exact = [c for c in later if _is_output(c, softmax)]
        if later:
            output = (exact or later[-1:])[0]
            call = recording.calls[softmax.call]
            module = recording.calls[call.parent].module if isinstance(call.module, nn.Softmax) else call.module
            return Heads(output, softmax, module, _head_count(output, softmax, block))
    return _unseen(block, recording, config)


def _unseen(block: Block, recording: Recording, config: Any) -> Heads | None:
    """The heads of an attention that runs in a kernel of its own (flash, flex): by the head count that it states itself."""
    if getattr(config, "_attn_implementation", None) in (None, "eager", "sdpa"):
        return None
    for call in block.calls:
        module = call.module
        counts = [getattr(module, name, None) for name in ("num_heads", "num_attention_heads", "n_heads", "n_head")]
        count = next((n for n in (*counts, getattr(config, "num_attention_heads", None)) if isinstance(n, int)), 0)
        inside = [
            c for c in projections([c for c in block.calls if c.inside(call)]) if c.times == 1 and c.given is not None
        ]
        named = "attention" in type(module).__name__.lower() and inside
        width = inside[-1].given.shape[-1] if named and inside[-1].given is not None else 0
        if width and count and width % count == 0 and block.value(inside[-1]) is not None:
            output = inside[-1]
            assert output.given is not None
            heads = output.given.reshape(*block.out.shape[:2], count, width // count)
            softmax = Softmax(recording.calls.index(call), output.start, count, None, heads)
            return Heads(output, softmax, module, count)
    return None


def attention_count(block: Block, recording: Recording) -> int:
    """How many modules of a block take softmaxes over positions."""
    return len({s.call for s in softmaxes_of(block, recording)})


def softmaxes_of(block: Block, recording: Recording) -> list[Softmax]:
    """The softmaxes over positions taken inside a block."""
    calls = [recording.calls[s.call] for s in recording.softmaxes]
    inside = [c is block.call or c.inside(block.call) for c in calls]
    return [s for s, within in zip(recording.softmaxes, inside, strict=True) if within and s.heads is not None]


def _region(block: Block, recording: Recording, softmax: Softmax) -> list[Call]:
    """The calls of the block's child in which the softmax was taken (of the block itself, when it took it)."""
    call = recording.calls[softmax.call]
    while call is not block.call and recording.calls[call.parent] is not block.call:
        call = recording.calls[call.parent]
    return block.calls if call is block.call else [c for c in block.calls if c.inside(call) or c is call]


def _head_count(call: Call, softmax: Softmax, block: Block) -> int:
    """How many heads the input of a projection holds; 0 when it is no output projection of this softmax."""
    given = call.given
    if given is None or block.value(call) is None or given.shape[:-1].numel() != block.out.shape[:-1].numel():
        return 0
    width = given.shape[-1]
    assert softmax.heads is not None
    per_head = softmax.heads.shape[-1]
    # A difference of two softmaxes leaves fewer heads than softmaxes, each as wide as its values.
    if width % per_head == 0 and softmax.n_heads % (width // per_head) == 0:
        return width // per_head
    return softmax.n_heads if width % softmax.n_heads == 0 else 0


def is_gated(heads: Heads) -> bool:
    """Whether something lies between the softmax's output and the output projection."""
    return not _is_output(heads.output, heads.softmax)


def settled(heads: Heads, silent: Recording) -> Heads | None:
    """The heads of a gated attention, from a second forward in which its first head was silent; None if they are mixed.

    Either that head's slice of z is zero then (a norm over all heads moves the others), or nothing else has moved.
    """
    call = next((c for c in silent.calls if c.module is heads.output.module), None)
    if call is None or call.given is None or heads.output.given is None:
        return None
    width = call.given.shape[-1]
    before, after = heads.output.given.reshape(-1, width), call.given.reshape(-1, width)
    moved = ((after - before).abs() > 1e-3 * before.abs().max()).any(0)
    zero, own = (after == 0).all(0), width // heads.n_heads
    if not bool(moved.any()) or (bool(zero[:own].all()) and not bool(zero[own:].all())):
        return heads
    reach = int(moved.sum())
    if bool(moved[:reach].all()) and width % reach == 0:
        return replace(heads, n_heads=width // reach)
    return None


def _is_output(call: Call, softmax: Softmax) -> bool:
    """Whether a projection is given the softmax's output itself."""
    given, heads = call.given, softmax.heads
    return given is not None and heads is not None and same(given.reshape(-1), heads.reshape(-1))


def kv_heads(heads: Heads, config: Any) -> int:
    """Key-value heads: of the call itself, else of the module's or the configuration's own word, else one per head."""
    n_heads, softmax = heads.n_heads, heads.softmax
    groups = getattr(heads.module, "num_key_value_groups", None)
    said: list[Any] = [softmax.n_kv_heads, n_heads // groups if isinstance(groups, int) and groups else None]
    said += [getattr(heads.module, name, None) for name in ("num_key_value_heads", "num_kv_heads", "kv_heads")]
    said += [getattr(config, "num_key_value_heads", None)]
    for count in said:
        whole = isinstance(count, int) and not isinstance(count, bool) and 0 < count <= n_heads and n_heads % count == 0
        if whole and (softmax.values is None or _shared(softmax.values, count)):
            return count
    return n_heads


def _shared(values: Tensor, groups: int) -> bool:
    """Whether the values `[batch, head, pos, d_head]` are the same within each of `groups` groups of heads."""
    if values.shape[1] % groups:
        return False
    each = values.reshape(values.shape[0], groups, -1, *values.shape[2:])
    return bool((each == each[:, :, :1]).all())
