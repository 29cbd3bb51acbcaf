"""One block of a recorded forward, taken apart: its attention, its MLP, and what each adds to the stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from interp_widgets.model.blocks import Block, is_norm, is_projection, projections
from interp_widgets.model.heads import Heads, is_gated, kv_heads, softmaxes_of
from interp_widgets.model.parts import Attention, Layer, Mlp, Write
from interp_widgets.model.probe import Call, Recording
from interp_widgets.model.residual import Fit, Sums, factor, rounding, same


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


# ---- attention -------------------------------------------------------------------------------------------------------


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
        n_kv_heads=kv_heads(heads, config),
        d_head=given.shape[-1] // heads.n_heads,
        write=_write(added) if added else None,
        gain=gain,
        norm=norm,
        gated=is_gated(heads),
    )


def _hole(block: Block, recording: Recording, others: list[Addition], mlp: Addition | None) -> str:
    """Why a block has no heads."""
    if softmaxes := softmaxes_of(block, recording):
        module = type(recording.calls[softmaxes[-1].call].module).__name__
        return f"{module} has no output projection whose input is its heads side by side"
    if any(isinstance(c.module, nn.MultiheadAttention) for c in block.calls):
        return "torch's MultiheadAttention projects its heads inside one function, where no hook reaches them"
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
    silent = [i for i in last if sums.norms[i] == 0.0]
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

    def one(first: Tensor, last: Tensor, group: list[int]) -> Fit | None:
        return Sums(first, last, values, known).search([group], [], most=0)

    for norm in norms:
        end, middle = block.given(norm), block.value(norm)
        if end is None or middle is None:
            continue
        first = next((fit for start in starts if (fit := one(start, end, carriers or rest))), None)
        last = next((fit for out in ends if (fit := one(middle, out, rest))), None) if first else None
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
    value = block.value(output)
    silent = value is not None and not bool(value.any())
    following = min((c.start for c in projections(block.calls) if c.start > output.end), default=block.call.end)
    chain = [output]
    for call in sorted(block.calls, key=lambda c: c.end):
        if block.value(call) is None or call is output:
            continue
        fed = call.start > output.end and any(_feeds(block, c, call) for c in chain)
        fed = fed and (not silent or call.start < following)  # zeros look alike: those of the MLP come later
        plain = not any(is_projection(m) for m in call.module.modules())
        if output.inside(call) or (fed and plain):
            chain.append(call)
    if silent:
        return [i for i, c in enumerate(candidates) if any(c is d for d in chain)]
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
            if off <= 4 * rounding(given.dtype) * float(total.middle.double().norm()):
                return call.module
    return None


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
    if any(c.module is module and c is not down and block.given(c) is not None for c in block.calls):
        return module
    width = None if down is None or down.given is None else down.given.shape[-1]
    ups = [
        c
        for c in projections(block.calls)
        if down is not None and c.end < down.start and c.gave is not None and c.gave.shape[-1] == width
    ]
    return ups[-1].module if ups and block.given(ups[-1]) is not None else None
