"""From a recorded forward to the parts of a decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from interp_widgets.model.parts import Attention, Layer, Mlp, Write
from interp_widgets.model.probe import Call, Recording, Softmax
from interp_widgets.model.residual import Fit, Sums, factor, same, wide


@dataclass
class Block:
    """One block while it is being taken apart: `calls` ran inside it, `start` and `out` are the stream around it."""

    call: Call
    calls: list[Call]
    start: Tensor
    out: Tensor

    def add_up(self) -> list[Call]:
        """Calls whose output has the stream's shape, each value once (where it was seen last), by the end of the call."""
        found = [c for c in self.calls if c.gave is not None and c.gave.shape == self.out.shape]
        found.sort(key=lambda c: c.end)
        return [c for i, c in enumerate(found) if not any(same(c.gave, later.gave) for later in found[i + 1 :])]


def projection(module: nn.Module) -> bool:
    """Whether a module maps features to features by a matrix: Linear, Conv1D, LoRA, int8 and their like."""
    if isinstance(module, (nn.Embedding, nn.modules.conv._ConvNd)):  # pyright: ignore[reportPrivateUsage]
        return False
    if isinstance(getattr(module, "in_features", None), int) and isinstance(getattr(module, "out_features", None), int):
        return True
    weight = getattr(module, "weight", None)
    weight = weight() if callable(weight) and not isinstance(weight, Tensor) else weight
    return isinstance(weight, Tensor) and weight.dim() == 2 and not any(True for _ in module.children())


def projections(calls: list[Call]) -> list[Call]:
    """The projections among `calls`, without the parts of a wrapped one, by the end of the call."""
    found = [c for c in calls if projection(c.module)]
    outer = [c for c in found if not any(o is not c and o.start < c.start and c.end < o.end for o in found)]
    return sorted(outer, key=lambda c: c.end)


def find_blocks(recording: Recording) -> list[Block]:
    """The longest list of modules that were called in order, once each, on streams of one shape."""
    by_module: dict[int, list[Call]] = {}
    for call in recording.calls:
        by_module.setdefault(id(call.module), []).append(call)
    best: list[Call] = []
    root = recording.calls[0].module
    for module in root.modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            best = max(best, _chain(module, by_module), key=len)
    return [
        Block(call, [c for c in recording.calls if recording.inside(c, call)], call.given, call.gave)
        for call in best
        if call.given is not None and call.gave is not None
    ]


def _chain(modules: nn.ModuleList | nn.Sequential, by_module: dict[int, list[Call]]) -> list[Call]:
    calls = [by_module.get(id(getattr(m, "_orig_mod", m)), []) for m in modules]
    once = [c[0] for c in calls if len(c) == 1]
    if len(once) != sum(bool(c) for c in calls):
        return []
    streams = [c for c in once if c.given is not None and c.gave is not None and c.given.shape == c.gave.shape]
    ordered = all(a.end < b.start for a, b in zip(streams, streams[1:], strict=False))
    alike = len({tuple(c.given.shape) for c in streams if c.given is not None}) <= 1
    deep = all(c.given is not None and c.given.dim() == 3 for c in streams)
    return streams if ordered and alike and deep and len(streams) == len(once) else []


def layer(block: Block, index: int, recording: Recording, known: list[float], config: Any) -> Layer:
    """Take one block apart."""
    found = _attention(block, recording)
    output, softmax = found if found else (None, None)
    candidates = block.add_up()
    carriers = _carriers(block, output, candidates) if output else []
    rest = [i for i, c in enumerate(candidates) if i not in carriers and not _holds(c, output)]
    sums = Sums(block.start, block.out, [c.gave for c in candidates if c.gave is not None], known)
    fit = sums.search([carriers] if carriers else [], rest)
    silent = [i for i in rest if sums.norms[i] == 0.0]
    return _assemble(block, index, candidates, fit, carriers, silent, output, softmax, config, recording)


def _attention(block: Block, recording: Recording) -> tuple[Call, Softmax] | None:
    """The output projection and the softmax before it."""
    inner = {id(c) for c in block.calls} | {id(block.call)}
    taken = [s for s in recording.softmaxes if s.heads is not None and id(recording.calls[s.call]) in inner]
    for softmax in reversed(taken):
        region = _region(block, recording, softmax)
        later = [c for c in projections(region) if c.start > softmax.tick and _fits(c, softmax, block)]
        exact = [c for c in later if softmax.heads is not None and same(c.given, softmax.heads.flatten(2))]
        if exact or later:
            return (exact or later[-1:])[0], softmax
    return None


def _region(block: Block, recording: Recording, softmax: Softmax) -> list[Call]:
    """The calls of the block's child in which the softmax was taken (of the block itself, when it took it)."""
    call = recording.calls[softmax.call]
    while call is not block.call and recording.calls[call.parent] is not block.call:
        call = recording.calls[call.parent]
    return block.calls if call is block.call else [c for c in block.calls if recording.inside(c, call) or c is call]


def _fits(call: Call, softmax: Softmax, block: Block) -> bool:
    given, gave = call.given, call.gave
    if given is None or gave is None or given.shape[:-1] != block.out.shape[:-1] or gave.shape != block.out.shape:
        return False
    return given.shape[-1] % softmax.n_heads == 0


def _holds(call: Call, output: Call | None) -> bool:
    return output is not None and (call is output or (call.start < output.start and output.end < call.end))


def _carriers(block: Block, output: Call, candidates: list[Call]) -> list[int]:
    """Candidates that pass the attention's output on: what holds the projection, and norms or dropouts of its value."""
    chain = [output]
    for call in sorted(block.calls, key=lambda c: c.end):
        if call.gave is None or call.gave.shape != block.out.shape or call is output:
            continue
        passes = call.start > output.end and not projection(call.module) and not any(call.module.children())
        fed = call.given is not None and any(_feeds(c, call) for c in chain)
        if _holds(call, output) or (passes and fed):
            chain.append(call)
    return [i for i, c in enumerate(candidates) if any(same(c.gave, d.gave) and c.end >= output.end for d in chain)]


def _feeds(source: Call, call: Call) -> bool:
    return source.gave is not None and call.given is not None and factor(call.given, source.gave) is not None


def _assemble(
    block: Block,
    index: int,
    candidates: list[Call],
    fit: Fit | None,
    carriers: list[int],
    silent: list[int],
    output: Call | None,
    softmax: Softmax | None,
    config: Any,
    recording: Recording,
) -> Layer:
    writes = {i: s for i, s in zip(fit.parts, fit.scales, strict=True)} if fit else {}
    heard = [i for i in writes if i in carriers]
    rest = sorted(i for i in writes if i not in carriers)
    if fit and not rest and silent and not any(candidates[i].gave is block.out for i in silent):
        rest, writes = silent[-1:], {**writes, silent[-1]: 1.0}
    attention = None
    if output is not None and softmax is not None:
        write = (candidates[heard[0]], writes[heard[0]]) if heard else None
        attention = _attention_part(output, softmax, write, recording, config)
    mlp_at = _mlp_at(block, [candidates[i] for i in rest], attention is not None)
    mlp = None
    if mlp_at is not None:
        mlp = _mlp_part(block, candidates[rest[mlp_at]], writes[rest[mlp_at]], output)
    others = tuple(_write(candidates[i], writes[i]) for n, i in enumerate(rest) if n != mlp_at)
    hole = None if attention is not None else _hole(block, others, mlp)
    norms = _norms(block)
    return Layer(
        index=index,
        module=block.call.module,
        attention=attention,
        mlp=mlp,
        hole=hole,
        norms=tuple(c.module for c in norms),
        middle=_middle(block, norms, candidates[heard[0]] if heard else None, writes[heard[0]] if heard else 1.0, fit),
        input=block.call.key,
        output=block.call.index,
        others=others,
        carry=fit.carry if fit else 1.0,
    )


def _write(call: Call, scale: float) -> Write:
    return Write(call.module, call.index, scale)


def _attention_part(
    output: Call, softmax: Softmax, write: tuple[Call, float] | None, recording: Recording, config: Any
) -> Attention:
    given = output.given
    assert given is not None
    call = recording.calls[softmax.call]
    if isinstance(call.module, nn.Softmax):
        call = recording.calls[call.parent]
    n_heads = softmax.n_heads
    gain: float | None = None
    norm: nn.Module | None = None
    if write is not None and write[0].gave is not None and output.gave is not None:
        ratio = factor(write[0].gave, output.gave)
        gain = None if ratio is None else ratio * write[1]
        norm = write[0].module if ratio is None else None
    return Attention(
        module=call.module,
        output=output.module,
        n_heads=n_heads,
        n_kv_heads=_kv_heads(call.module, softmax, config),
        d_head=given.shape[-1] // n_heads,
        write=None if write is None else _write(*write),
        gain=gain,
        norm=norm,
        gated=softmax.heads is None or not same(given, softmax.heads.flatten(2)),
    )


def _kv_heads(module: nn.Module, softmax: Softmax, config: Any) -> int:
    """Key-value heads: of the call itself, else of the module's or the configuration's own word, else one per head."""
    n_heads = softmax.n_heads
    groups = getattr(module, "num_key_value_groups", None)
    said = [softmax.n_kv_heads, n_heads // groups if isinstance(groups, int) and groups else None]
    said += [getattr(module, name, None) for name in ("num_key_value_heads", "num_kv_heads", "kv_heads")]
    said += [getattr(config, "num_key_value_heads", None)]
    for count in said:
        if isinstance(count, int) and not isinstance(count, bool) and 0 < count <= n_heads and n_heads % count == 0:
            if softmax.values is None or _shared(softmax.values, count):
                return count
    return n_heads


def _shared(values: Tensor, groups: int) -> bool:
    """Whether the values `[batch, head, pos, d_head]` are the same within each of `groups` groups of heads."""
    if values.shape[1] % groups:
        return values.shape[1] == groups
    each = values.reshape(values.shape[0], groups, -1, *values.shape[2:])
    return bool((each == each[:, :, :1]).all())


def _mlp_at(block: Block, rest: list[Call], has_attention: bool) -> int | None:
    """Which of the remaining writes is the MLP: the last, unless it is the layer's only mixer."""
    if not rest:
        return None
    if has_attention or len(rest) > 1:
        return len(rest) - 1
    name = (type(rest[0].module).__name__ + " " + rest[0].name.removeprefix(block.call.name)).lower()
    inside = " ".join(type(c.module).__name__ for c in block.calls if c.name.startswith(rest[0].name)).lower()
    return 0 if any(word in name or word in inside for word in ("mlp", "moe", "feedforward", "ffn", "expert")) else None


def _mlp_part(block: Block, write: Call, scale: float, output: Call | None) -> Mlp:
    """The MLP behind a write: its down projection, when the write is that projection's output."""
    linears = [c for c in projections(block.calls) if c is not output and c.gave is not None]
    down = next((c for c in reversed(linears) if c.end <= write.end and _same_up_to_factor(c, write)), None)
    leaf = not projection(write.module) and not any(write.module.children())
    fed = [c for c in block.calls if c.end < write.start and _feeds(c, write)] if down is None and leaf else []
    if fed:
        source = max(fed, key=lambda c: c.end)
        down = next((c for c in reversed(linears) if c.end <= source.end and _same_up_to_factor(c, source)), None)
        holder = source
    else:
        holder = write
    module = _container(block, down or holder, output)
    entry = _entry(block, module, down)
    if down is None or down.given is None or down.given.shape[:-1] != block.out.shape[:-1]:
        return Mlp(module, None, 0, _write(write, scale), entry)
    return Mlp(module, down.module, down.given.shape[-1], _write(write, scale), entry)


def _same_up_to_factor(a: Call, b: Call) -> bool:
    return a.gave is not None and b.gave is not None and factor(b.gave, a.gave) is not None


def _container(block: Block, call: Call, output: Call | None) -> nn.Module:
    """The largest module inside the block that holds `call` and not the attention."""
    outer = [c for c in block.calls if (c is call or (c.start < call.start and call.end < c.end)) and not _holds(c, output)]
    return min(outer, key=lambda c: c.start).module


def _entry(block: Block, module: nn.Module, down: Call | None) -> nn.Module | None:
    """What reads the MLP's input: the MLP itself, or its first projection when the block calls its parts."""
    if down is None or module is not down.module:
        return module
    before = [c for c in projections(block.calls) if c.end < down.start and c.gave is not None and down.given is not None]
    ups = [c for c in before if c.gave is not None and down.given is not None and c.gave.shape == down.given.shape]
    return ups[-1].module if ups else None


def _hole(block: Block, others: tuple[Write, ...], mlp: Mlp | None) -> str:
    mixers = [type(w.module).__name__ for w in others]
    if not mixers:
        children = [c for c in block.calls if any(c.module.children())]
        mixers = [type(c.module).__name__ for c in children if mlp is None or c.module is not mlp.module][:1]
    if not mixers and mlp is not None:
        return "the block is an MLP only, without attention"
    return f"{mixers[0] if mixers else type(block.call.module).__name__} takes no softmax over positions, so it has no heads"


def _norms(block: Block) -> list[Call]:
    """Norms inside the block that are as wide as the stream, in the order of their calls."""
    wide_calls = [c for c in block.calls if c.gave is not None and c.given is not None and c.gave.shape == block.out.shape]
    return [c for c in wide_calls if "norm" in type(c.module).__name__.lower() and c.given.shape == c.gave.shape]  # pyright: ignore[reportOptionalMemberAccess]


def _middle(block: Block, norms: list[Call], write: Call | None, scale: float, fit: Fit | None) -> nn.Module | None:
    """The first norm whose input is the stream after attention."""
    if write is None or write.gave is None or fit is None or fit.carry != 1.0:
        return None
    sums = wide(block.start) + scale * wide(write.gave)
    for call in norms:
        if call.start > write.end and call.given is not None:
            off = float((wide(call.given) - sums).norm())
            if off <= 1e-5 * float(sums.norm()) or (off <= 1e-2 * float(sums.norm()) and call.given.element_size() < 4):
                return call.module
    return None
