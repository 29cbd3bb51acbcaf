"""Where the parts are in any decoder, found by structure and one probe forward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from interp_widgets.model.blocks import Block, find_blocks, is_norm
from interp_widgets.model.head import Head, find_head
from interp_widgets.model.heads import Heads, attention_count, find_heads, is_gated, settled
from interp_widgets.model.parts import Anatomy, Attention, Layer, Mlp, Write
from interp_widgets.model.probe import Recording, embedding, probe_ids, quiet, record
from interp_widgets.model.residual import same, wide
from interp_widgets.model.structure import take_apart
from interp_widgets.model.unwrap import refuse_outcome, refuse_structure, unwrap

__all__ = ["Anatomy", "Attention", "Layer", "Mlp", "Write", "find_anatomy"]


def find_anatomy(module: nn.Module) -> Anatomy:
    """Find the parts of a decoder by structure and one probe forward on the module itself.

    Nothing of the module is changed: the probe runs without gradients, its hooks are removed, the random state is kept.

    Raises:
        ModelRefusedError: the model cannot be opened; the sentence names the reason.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=97)).eval()
        >>> [layer.attention.n_heads for layer in find_anatomy(model).layers]
        [4, 4]
    """
    root, notes = unwrap(module)
    refuse_structure(root)
    with quiet(root):
        ids = probe_ids(root)
        refuse_outcome(root, ids)
        return _found(root, notes, record(root, ids))


def _found(root: nn.Module, notes: Sequence[str], recording: Recording) -> Anatomy:
    """The parts that a recorded forward shows."""
    blocks = find_blocks(recording)
    config: Any = getattr(root, "config", None)
    text: Any = config.get_text_config() if hasattr(config, "get_text_config") else config
    numbers = config_numbers(config)
    known = sorted({x for values in numbers.values() for value in values for x in (value, 1.0 / value)})
    caps = [value for name, values in numbers.items() if _is_cap(name) for value in values]
    heads = _heads(root, text, blocks, recording)
    taken = [
        take_apart(block, found, i, recording, known, getattr(block.call.module, "config", text))
        for i, (block, found) in enumerate(zip(blocks, heads, strict=True))
    ]
    layers, errors = [layer for layer, _ in taken], [error for _, error in taken]
    head = find_head(root, recording, blocks, known, caps)
    anatomy = Anatomy(
        root=root,
        embed=embedding(root),
        layers=tuple(layers),
        final_norm=head.norm,
        unembed=head.unembed,
        d_model=blocks[0].out.shape[-1],
        vocab=recording.logits.shape[-1],
        between=head.between,
        softcap=head.cap,
        logit_scale=head.scale,
        hidden_scale=head.hidden_scale,
        notes=(*notes, *_notes(layers)),
        gaps=_gaps(layers, errors, blocks, head, recording),
        errors={
            "heads": max((_heads_error(found) for found in heads if found), default=0.0),
            "writes": max((e for e in errors if e is not None), default=0.0),
            "logits": head.error,
        },
    )
    return replace(anatomy, paths=_paths(anatomy))


def config_numbers(config: Any) -> dict[str, list[float]]:
    """Every positive number of a configuration and of those nested in it, by its name: multipliers are among them."""
    found: dict[str, list[float]] = {}
    stack: list[tuple[str, Any]] = [("", config.to_dict())] if hasattr(config, "to_dict") else []
    while stack:
        name, item = stack.pop()
        if isinstance(item, dict):
            stack.extend(item.items())
        elif isinstance(item, list | tuple):
            stack.extend((name, value) for value in item)
        elif isinstance(item, float) and item > 0 and math.isfinite(item):
            found.setdefault(str(name), []).append(item)
    return found


def _is_cap(name: str) -> bool:
    return "cap" in name and "logit" in name and not any(word in name for word in ("attn", "attention", "router"))


def _heads(root: nn.Module, config: Any, blocks: Sequence[Block], recording: Recording) -> list[Heads | None]:
    """Each block's heads; where z is gated, one more forward per kind of attention shows whose slice is whose."""
    found = [find_heads(block, recording, config) for block in blocks]
    kinds: dict[tuple[type[nn.Module], int], int | None] = {}
    for i, heads in enumerate(found):
        if heads is None or not is_gated(heads):
            continue
        kind = type(heads.module), heads.n_heads
        if kind not in kinds:
            silent = record(root, recording.ids, silence=recording.calls[heads.softmax.call].name)
            shown = settled(heads, silent)
            kinds[kind] = shown.n_heads if shown else None
        count = kinds[kind]
        found[i] = None if count is None else replace(heads, n_heads=count)
    return found


def _heads_error(heads: Heads) -> float:
    """How far the heads' own results and the bias are from the output of the projection, relative; 0 if it has no matrix."""
    if heads.output.given is None or heads.output.gave is None:
        return 0.0
    z, out = wide(heads.output.given), wide(heads.output.gave)
    weight, bias = getattr(heads.output.module, "weight", None), getattr(heads.output.module, "bias", None)
    if any(True for _ in heads.output.module.children()) or type(weight) is not nn.Parameter:
        return 0.0  # an adapter or a quantised projection is no plain matrix
    if weight.is_meta or not weight.is_floating_point() or weight.dim() != 2:
        return 0.0
    matrix = wide(weight.detach().cpu())
    conv1d = hasattr(heads.output.module, "nf")
    matrix = matrix if conv1d else matrix.T
    if matrix.shape != (z.shape[-1], out.shape[-1]):
        return 0.0
    each = z.unflatten(-1, (heads.n_heads, -1)), matrix.unflatten(0, (heads.n_heads, -1))
    total = sum(each[0][..., h, :] @ each[1][h] for h in range(heads.n_heads))
    total = total + wide(bias.detach().cpu()) if isinstance(bias, Tensor) and not bias.is_meta else total
    return float((out - total).norm() / out.norm().clamp_min(1e-30))


def _notes(layers: Sequence[Layer]) -> tuple[str, ...]:
    """What is unusual about the layers, as sentences."""
    notes: list[str] = []
    if gated := [n.index for n in layers if n.attention is not None and n.attention.gated]:
        notes.append(f"In {_layers(gated)} a head's output passes a gate or a norm before the output projection.")
    if holes := [n for n in layers if n.hole]:
        notes.append(f"No heads in {_layers([n.index for n in holes])}: {holes[0].hole}.")
    if others := [n for n in layers if n.others]:
        names = ", ".join(dict.fromkeys(type(w.module).__name__ for n in others for w in n.others))
        notes.append(f"In {_layers([n.index for n in others])} {names} also adds to the residual stream.")
    if carried := [n for n in layers if n.carry != 1.0]:
        first = f"L{carried[0].index}: {carried[0].carry:.4g}"
        notes.append(f"The stream is multiplied on its way through {_layers([n.index for n in carried])} ({first}).")
    return tuple(notes)


def _layers(indices: Sequence[int]) -> str:
    shown = ", ".join(f"L{i}" for i in indices[:6])
    return f"{'layer' if len(indices) == 1 else 'layers'} {shown}{', ...' if len(indices) > 6 else ''}"


def _gaps(
    layers: Sequence[Layer],
    errors: Sequence[float | None],
    blocks: Sequence[Block],
    head: Head,
    recording: Recording,
) -> dict[str, str]:
    """What this model cannot have, by feature, with the reason."""
    gaps: dict[str, str] = {}
    if all(layer.attention is None for layer in layers):
        gaps["heads"] = f"no layer has heads: {layers[0].hole}"
    lost = [b.call.name for error, b in zip(errors, blocks, strict=True) if error is None]
    if lost:
        gaps["writes"] = f"what {lost[0]} adds to the stream is no sum of its modules' outputs"
        gaps["direct"] = gaps["writes"]
    if not any(layer.mlp and layer.mlp.neurons for layer in layers):
        kinds = dict.fromkeys(type(layer.mlp.module).__name__ for layer in layers if layer.mlp)
        gaps["neurons"] = f"the MLPs ({', '.join(kinds) or 'none found'}) have no single down projection"
    if unclear := head.gap or _no_sum(layers):
        gaps["direct"] = unclear
    if not head.reached:
        gaps["lens"] = head.gap or "the unembedding is not reached"
    if head.error > 1e-2:
        gaps["logits"] = f"norm and unembedding do not give the logits (off by {head.error:.2g})"
    crowded = [b.call.name for b in blocks if attention_count(b, recording) > 1]
    if crowded and "heads" not in gaps:
        gaps["every head"] = f"{crowded[0]} holds several attentions; only the last one's heads are named"
    breaks = [a.call.name for a, b in pairwise(blocks) if not same(a.out, b.start)]
    if breaks:
        gaps["stream"] = f"the stream that leaves {breaks[0]} is changed before the next block reads it"
    return gaps


def _no_sum(layers: Sequence[Layer]) -> str | None:
    """Why the last stream is no sum of what heads and MLPs add, though every block's own sum was found."""
    for layer in layers:
        norm = layer.attention.norm if layer.attention else None
        if norm is not None and not is_norm(norm):
            return f"{type(norm).__name__} lies between the heads and the stream in L{layer.index}, and it is no norm"
    if any(layer.post_norm for layer in layers):
        return "each layer normalises the stream after adding to it, so the last stream is no sum of what was added"
    return None


def _paths(anatomy: Anatomy) -> dict[str, nn.Module]:
    """The dotted name of every module of an anatomy."""
    parts: list[nn.Module | None] = [anatomy.embed, anatomy.final_norm, *anatomy.between, anatomy.unembed]
    for layer in anatomy.layers:
        parts += [layer.module, layer.middle, *layer.norms, *(w.module for w in layer.others)]
        if layer.attention:
            a = layer.attention
            parts += [a.module, a.output, a.norm, a.write.module if a.write else None]
        if layer.mlp:
            m = layer.mlp
            parts += [m.module, m.neurons, m.entry, m.write.module if m.write else None]
    wanted = {id(p) for p in parts if p is not None}
    return {name: part for name, part in anatomy.root.named_modules() if id(part) in wanted}
