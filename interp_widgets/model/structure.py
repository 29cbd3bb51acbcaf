"""One block of a recorded forward, taken apart: its attention, its MLP, and what each adds to the stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from interp_widgets.model.blocks import Block, is_norm, is_projection, projections
from interp_widgets.model.parts import Attention, Layer, Mlp, Write
from interp_widgets.model.probe import Call, Recording, Softmax
from interp_widgets.model.residual import Fit, Sums, factor, same


@dataclass(frozen=True)
class Heads:
    """An output projection, the softmax before it, and how many heads its input has."""

    output: Call
    softmax: Softmax
    module: nn.Module
    n_heads: int


@dataclass(frozen=True)
class Addition:
    """What is added to the stream: the output of `call`, times `scale`."""

    call: Call
    scale: float


@dataclass(frozen=True)
class Total:
    """How a block's output comes about: `attention` and the others are added, `error` is what is left."""

    attention: Addition | None
    rest: tuple[Addition, ...]
    carry: float
    error: float
    middle: Tensor | None
    post_norm: bool


def take_apart(
    block: Block, heads: Heads | None, index: int, recording: Recording, known: Sequence[float], config: Any
) -> tuple[Layer, float | None]:
    """One layer, and the relative error of its sum (None when what it adds was not found)."""
    total = _total(block, heads, recording, known)
    rest = list(total.rest) if total else []
    mlp = rest.pop(at) if (at := _mlp_at(block, rest, heads is not None)) is not None else None
    layer = Layer(
        index=index,
        module=block.call.module,
        attention=_attention(block, heads, total, config) if heads else None,
        mlp=_mlp(block, mlp, heads) if mlp else None,
        hole=None if heads else _hole(block, recording, rest, mlp),
        norms=tuple(c.module for c in block.norms()),
        middle=_middle(block, total),
        input=block.call.key,
        output=block.call.index,
        others=tuple(_write(a) for a in rest),
        carry=total.carry if total else 1.0,
        post_norm=total.post_norm if total else False,
    )
    return layer, total.error if total else None


# ---- heads ------------------------------------------------------------------------------------------------------------


def find_heads(block: Block, recording: Recording) -> Heads | None:
    """The output projection: what takes the softmax's output, else the last projection of that attention module."""
    for softmax in reversed(_softmaxes(block, recording)):
        region = _region(block, recording, softmax)
        later = [c for c in projections(region) if c.times == 1 and c.start > softmax.tick and _head_count(c, softmax, block)]
        exact = [c for c in later if _is_output(c, softmax)]
        if later:
            output = (exact or later[-1:])[0]
            call = recording.calls[softmax.call]
            module = recording.calls[call.parent].module if isinstance(call.module, nn.Softmax) else call.module
            return Heads(output, softmax, module, _head_count(output, softmax, block))
    return None


def attention_count(block: Block, recording: Recording) -> int:
    """How many modules of a block take softmaxes over positions that reach a projection."""
    return len({s.call for s in _softmaxes(block, recording)}) if find_heads(block, recording) else 0


def _softmaxes(block: Block, recording: Recording) -> list[Softmax]:
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


def _kv_heads(heads: Heads, config: Any) -> int:
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


def _attention(block: Block, heads: Heads, total: Total | None, config: Any) -> Attention:
    given, added = heads.output.given, total.attention if total else None
    assert given is not None
    gain: float | None = None
    norm: nn.Module | None = None
    if added is not None:
        gave, projected = block.value(added.call), block.value(heads.output)
        ratio = factor(gave, projected) if gave is not None and projected is not None else None
        gain = None if ratio is None else ratio * added.scale
        norm = added.call.module if ratio is None else None
    return Attention(
        module=heads.module,
        output=heads.output.module,
        n_heads=heads.n_heads,
        n_kv_heads=_kv_heads(heads, config),
        d_head=given.shape[-1] // heads.n_heads,
        write=_write(added) if added else None,
        gain=gain,
        norm=norm,
        gated=is_gated(heads),
    )


def _hole(block: Block, recording: Recording, others: list[Addition], mlp: Addition | None) -> str:
    """Why a block has no heads."""
    if softmaxes := _softmaxes(block, recording):
        module = type(recording.calls[softmaxes[-1].call].module).__name__
        return f"{module} has no output projection whose input is its heads side by side"
    if mlp is not None and not others:
        return "this block is an MLP alone"
    at = recording.calls.index(block.call)
    parts = [c for c in block.calls if c.parent == at and not is_norm(c.module)]
    mixer = next((c.module for c in parts if mlp is None or c.module is not mlp.call.module), block.call.module)
    return f"{type(mixer).__name__} takes no softmax over positions, so it has no heads"


# ---- sums -------------------------------------------------------------------------------------------------------------


def _total(block: Block, heads: Heads | None, recording: Recording, known: Sequence[float]) -> Total | None:
    """How the block's output is a sum: of the stream and what is added to it, or norm by norm."""
    candidates = block.candidates()
    values = [v for c in candidates if (v := block.value(c)) is not None]
    carriers = _carriers(block, heads.output, candidates) if heads else []
    rest = [i for i, c in enumerate(candidates) if i not in carriers and not _holds(c, heads) and not _enters(block, c)]
    last = [i for i in rest if not _read_again(block, candidates[i])]
    groups = [carriers] if carriers else []
    sums = Sums(block.start, block.out, values, known)
    fit = sums.search(groups, last) or sums.fit(_everything(block, candidates, recording))
    if fit is None and len(last) < len(rest):
        fit = sums.search(groups, rest)
    if fit is None:
        return _normed_total(block, candidates, values, carriers, rest, known)
    silent = [i for i in rest if sums.norms[i] == 0.0]
    return _as_total(block, candidates, fit, carriers, silent)


def _everything(block: Block, candidates: list[Call], recording: Recording) -> tuple[int, ...]:
    """What every child of the block gave, but for norms: a block of many parts adds them all."""
    at = recording.calls.index(block.call)
    given = [block.value(c) for c in block.calls if c.parent == at and not is_norm(c.module)]
    return tuple(i for i, c in enumerate(candidates) if any(same(block.value(c), v) for v in given))


def _as_total(block: Block, candidates: list[Call], fit: Fit, carriers: list[int], silent: list[int]) -> Total:
    added = {i: Addition(candidates[i], s) for i, s in zip(fit.parts, fit.scales, strict=True)}
    attention = next((a for i, a in added.items() if i in carriers), None)
    rest = [a for i, a in sorted(added.items()) if i not in carriers]
    if not rest and silent:
        rest = [Addition(candidates[silent[-1]], 1.0)]  # an MLP that writes nothing is still the MLP
    middle: Tensor | None = None
    if attention is not None and fit.carry == 1.0:
        value = block.value(attention.call)
        middle = None if value is None else block.start + attention.scale * value
    return Total(attention, tuple(rest), fit.carry, fit.error, middle, post_norm=False)


def _normed_total(
    block: Block,
    candidates: list[Call],
    values: list[Tensor],
    carriers: list[int],
    rest: list[int],
    known: Sequence[float],
) -> Total | None:
    """Blocks that normalise the stream itself: attention is added before one norm, the MLP after it."""
    norms = block.norms()
    starts = [
        block.start,
        *(v for c in norms if same(block.given(c), block.start) and (v := block.value(c)) is not None),
    ]
    ends = [block.out, *(v for c in norms if same(block.value(c), block.out) and (v := block.given(c)) is not None)]
    for norm in norms:
        end, middle = block.given(norm), block.value(norm)
        if end is None or middle is None:
            continue
        firsts = (
            Sums(start, end, values, known).search([carriers] if carriers else [], [] if carriers else rest)
            for start in starts
        )
        first = next((fit for fit in firsts if fit and len(fit.parts) == 1), None)
        lasts = (Sums(middle, out, values, known).search([], rest) for out in ends)
        last = next((fit for fit in lasts if fit and len(fit.parts) == 1), None)
        if first and last:
            mixer = Addition(candidates[first.parts[0]], first.scales[0])
            mlp = Addition(candidates[last.parts[0]], last.scales[0])
            attention, others = (mixer, (mlp,)) if carriers else (None, (mixer, mlp))
            return Total(attention, others, 1.0, max(first.error, last.error), middle, post_norm=True)
    return None


def _enters(block: Block, call: Call) -> bool:
    """Whether a call is a norm of the stream that the block is given: what the block's parts read, not what they write."""
    return is_norm(call.module) and same(block.given(call), block.start)


def _read_again(block: Block, call: Call) -> bool:
    """Whether another module of the block reads what a call gave."""
    value = block.value(call)
    return any(c.start > call.end and same(block.given(c), value) for c in block.calls)


def _holds(call: Call, heads: Heads | None) -> bool:
    return heads is not None and (call is heads.output or heads.output.inside(call))


def _carriers(block: Block, output: Call, candidates: list[Call]) -> list[int]:
    """Candidates that pass the attention's output on: what holds the projection, and norms or dropouts of its value."""
    chain = [output]
    for call in sorted(block.calls, key=lambda c: c.end):
        if block.value(call) is None or call is output:
            continue
        fed = call.start > output.end and any(_feeds(block, c, call) for c in chain)
        plain = not any(is_projection(m) for m in call.module.modules())
        if output.inside(call) or (fed and plain):
            chain.append(call)
    passed = [block.value(c) for c in chain]
    return [i for i, c in enumerate(candidates) if c.end >= output.end and any(same(block.value(c), v) for v in passed)]


def _feeds(block: Block, source: Call, call: Call) -> bool:
    gave, given = block.value(source), block.given(call)
    return gave is not None and given is not None and factor(given, gave) is not None


def _write(added: Addition) -> Write:
    return Write(added.call.module, added.call.index, added.scale)


def _middle(block: Block, total: Total | None) -> nn.Module | None:
    """The first module whose input is the stream between attention and MLP."""
    if total is None or total.middle is None or total.attention is None:
        return None
    for call in block.calls:
        given = block.given(call)
        if call.times == 1 and call.start > total.attention.call.end and given is not None:
            off = float((given.double() - total.middle.double()).norm())
            if off <= 4 * max(1e-7, _eps(given)) * float(total.middle.double().norm()):
                return call.module
    return None


def _eps(value: Tensor) -> float:
    import torch

    return torch.finfo(value.dtype).eps


# ---- the MLP ----------------------------------------------------------------------------------------------------------

_MLP_WORDS = ("mlp", "moe", "feedforward", "ffn", "expert")


def _mlp_at(block: Block, rest: list[Addition], has_heads: bool) -> int | None:
    """Which addition is the MLP: the last whose name says so, else the last unless it is the layer's only mixer."""
    named = [i for i, a in enumerate(rest) if _named_mlp(block, a)]
    if named:
        return named[-1]
    if not rest or (len(rest) == 1 and not has_heads):
        return None
    return len(rest) - 1


def _named_mlp(block: Block, added: Addition) -> bool:
    fed = [c for c in block.calls if c.end < added.call.start and _feeds(block, c, added.call)]
    inside = [c for c in block.calls if c.inside(added.call)]
    calls = [added.call, *inside] if inside or not fed else [added.call, *fed]
    text = " ".join(f"{type(c.module).__name__} {c.name.removeprefix(block.call.name)}" for c in calls).lower()
    return any(word in text.replace("_", "") for word in _MLP_WORDS)


def _mlp(block: Block, added: Addition, heads: Heads | None) -> Mlp:
    """The MLP behind a write, with its down projection when the write is that projection's output."""
    linears = [c for c in projections(block.calls) if c.times == 1 and (heads is None or c is not heads.output)]
    source = added.call
    down = _last_same(block, linears, source)
    if down is None and not any(is_projection(m) for m in source.module.modules()):
        fed = [c for c in block.calls if c.end < source.start and _feeds(block, c, source)]
        source = max(fed, key=lambda c: c.end, default=source)
        down = _last_same(block, linears, source)
    module = _container(block, down or source, heads)
    neurons = (
        down is not None and down.given is not None and down.given.shape[:-1].numel() == block.out.shape[:-1].numel()
    )
    return Mlp(
        module=module,
        neurons=down.module if down is not None and neurons else None,
        d_neurons=down.given.shape[-1] if down is not None and down.given is not None and neurons else 0,
        write=_write(added),
        entry=_entry(block, module, down),
    )


def _last_same(block: Block, linears: list[Call], source: Call) -> Call | None:
    """The last projection whose output is what `source` gave, up to a factor."""
    target = block.value(source)
    for call in reversed(linears):
        value = block.value(call)
        if call.end <= source.end and value is not None and target is not None and factor(target, value) is not None:
            return call
    return None


def _container(block: Block, call: Call, heads: Heads | None) -> nn.Module:
    """The largest module inside the block that holds `call` and not the attention."""
    outer = [c for c in block.calls if c.times == 1 and (c is call or call.inside(c)) and not _holds(c, heads)]
    return min(outer, key=lambda c: c.start, default=call).module


def _entry(block: Block, module: nn.Module, down: Call | None) -> nn.Module | None:
    """What reads the MLP's input: the MLP itself, or its first projection when the block calls its parts."""
    if down is None or module is not down.module:
        return module
    width = None if down.given is None else down.given.shape[-1]
    ups = [
        c for c in projections(block.calls) if c.end < down.start and c.gave is not None and c.gave.shape[-1] == width
    ]
    return ups[-1].module if ups else None
